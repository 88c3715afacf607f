"""/api/routes and /api/upstreams: where models lead, how accounts at providers stand, and asking
whether one would be let in."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, Final

from pydantic import Field, JsonValue

from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import Item, Listing, NoBody, NoQuery, StandingItem
from proxy.errors import NotFound
from proxy.model import Credential, CredentialHealth, Upstream
from proxy.providers import PROVIDERS
from proxy.store.keys import credential_name
from proxy.tasks.breaker import overall_health
from proxy.tasks.credential_test import Key, model_for, probe

MOST_COUNTED: Final = 500  # open tasks that are read to count those of each upstream


class ShareItem(Item):
    name: str
    weight: int


class RouteItem(Item):
    """A row of the routing table: the first whose `model`, a name or a glob, matches decides.
    `queue`: how many tasks may wait at each of its upstreams for a place."""

    model: str
    upstreams: list[ShareItem]
    upstream_model: str | None
    price: dict[str, JsonValue]
    fit: str
    queue: int
    defaults: dict[str, JsonValue]
    overrides: dict[str, JsonValue]
    remove: list[str]
    max_age_s: float | None


class CredentialItem(Item):
    """`in_flight` is counted only where `max_in_flight` bounds it."""

    name: str
    weight: int
    max_in_flight: int | None
    in_flight: int | None
    retired: bool
    standing: StandingItem


class UpstreamItem(Item):
    """An account at a provider. `models` are the public models routed to it; `open` its tasks
    under way, null while more are under way in all than are counted here; `waiting` those in its
    queue, which it has not heard of."""

    name: str
    provider: str
    base_url: str
    models: list[str]
    open: Annotated[int, Field(ge=0)] | None
    waiting: int
    standing: StandingItem
    credentials: list[CredentialItem]


class TestItem(Item):
    """What asking a provider came to. `what` is a sentence; `status` the HTTP status of its
    answer; `skew_s` how far its clock is ahead of ours."""

    ok: bool
    what: str
    key: Key
    reachable: bool
    status: int | None
    skew_s: int | None
    ms: int


async def routes(
    context: AdminContext, _request: AdminRequest[NoQuery, NoBody]
) -> Listing[RouteItem]:
    return Listing[RouteItem](
        data=[
            RouteItem(
                model=route.model,
                upstreams=[ShareItem(name=name, weight=weight) for name, weight in route.upstreams],
                upstream_model=route.upstream_model,
                price=dict(route.price),
                fit=route.fit,
                queue=route.queue,
                defaults=dict(route.defaults),
                overrides=dict(route.overrides),
                remove=list(route.remove),
                max_age_s=route.max_age_s,
            )
            for route in context.config().routes
        ]
    )


async def list_upstreams(
    context: AdminContext, _request: AdminRequest[NoQuery, NoBody]
) -> Listing[UpstreamItem]:
    upstreams = context.config().upstreams.values()
    opened = await _open(context)
    items = (_item(context, upstream, opened) for upstream in upstreams)
    return Listing[UpstreamItem](data=await asyncio.gather(*items))


async def restore(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> UpstreamItem:
    """The upstream, or one credential of it: what speaks against it is forgotten."""
    upstream = _upstream(context, request)
    name = upstream.name
    if "credential" in request.params:
        name = credential_name(upstream.name, _credential(upstream, request).name)
    if await context.store.credentials.reset(name):
        context.log.info("credential restored", name=name, by="operator")
    return await _item(context, upstream, await _open(context))


async def test(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> TestItem:
    """One unpaid question to the provider; nothing is remembered of the answer."""
    upstream = _upstream(context, request)
    finding = await probe(
        upstream,
        _credential(upstream, request),
        model_for(context.config().routes, upstream.name),
        PROVIDERS[upstream.provider],
        context.upstreams,
        context.clock,
    )
    return TestItem(
        ok=finding.ok,
        what=finding.what,
        key=finding.key,
        reachable=finding.reachable,
        status=finding.status,
        skew_s=finding.skew_s,
        ms=finding.ms,
    )


def _upstream(context: AdminContext, request: AdminRequest[Any, Any]) -> Upstream:
    name, upstreams = request.params["name"], context.config().upstreams
    if name not in upstreams:
        known = ", ".join(upstreams) or "none"
        raise NotFound(f"There is no upstream '{name[:80]}'; there is: {known}.")
    return upstreams[name]


def _credential(upstream: Upstream, request: AdminRequest[Any, Any]) -> Credential:
    wanted = request.params["credential"]
    for credential in upstream.credentials:
        if credential.name == wanted:
            return credential
    known = ", ".join(credential.name for credential in upstream.credentials)
    raise NotFound(f"{upstream.name} has no credential '{wanted[:80]}'; it has: {known}.")


async def standings(context: AdminContext, names: list[str]) -> dict[str, StandingItem]:
    """Of upstreams, or of credentials by `upstream/credential`."""
    found: tuple[CredentialHealth, ...] = await context.store.credentials.health(names)
    return {name: StandingItem.of(standing) for name, standing in zip(names, found, strict=True)}


async def wholes(context: AdminContext) -> dict[str, CredentialHealth]:
    """Every upstream as a whole: as well as its best usable key."""
    names: list[str] = []
    for upstream in context.config().upstreams.values():
        names += [upstream.name, *_usable(upstream)]
    known = dict(zip(names, await context.store.credentials.health(names), strict=True))
    return {
        upstream.name: overall_health(
            known[upstream.name], [known[name] for name in _usable(upstream)], context.now_ms()
        )
        for upstream in context.config().upstreams.values()
    }


def _usable(upstream: Upstream) -> list[str]:
    return [
        credential_name(upstream.name, key.name) for key in upstream.credentials if not key.retired
    ]


async def _open(context: AdminContext) -> Counter[str] | None:
    """Tasks under way by upstream; None when there are too many to count on the way."""
    tasks = await context.store.tasks.open(MOST_COUNTED)
    return None if tasks is None else Counter(task.upstream for task in tasks)


async def _item(
    context: AdminContext, upstream: Upstream, opened: Counter[str] | None
) -> UpstreamItem:
    keys = upstream.credentials
    names = [credential_name(upstream.name, key.name) for key in keys]
    now_ms = context.now_ms()
    known = await standings(context, [upstream.name, *names])
    waiting = await context.store.waiting.count(upstream.name)
    flights = await asyncio.gather(
        *(context.store.credentials.in_flight(name, now_ms) for name in names)
    )
    return UpstreamItem(
        name=upstream.name,
        provider=upstream.provider,
        base_url=upstream.base_url,
        models=[
            route.model
            for route in context.config().routes
            if upstream.name in (name for name, _ in route.upstreams)
        ],
        open=None if opened is None else opened[upstream.name],
        waiting=waiting,
        standing=known[upstream.name],
        credentials=[
            CredentialItem(
                name=key.name,
                weight=key.weight,
                max_in_flight=key.max_in_flight,
                in_flight=None if key.max_in_flight is None else flight,
                retired=key.retired,
                standing=known[name],
            )
            for key, name, flight in zip(keys, names, flights, strict=True)
        ],
    )


_ONE: Final = "/api/upstreams/{name}/credentials/{credential}"

ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action("GET", "/api/routes", "List routes, in order", routes, Listing[RouteItem]),
    Action(
        "GET",
        "/api/upstreams",
        "List upstreams and their credentials, with their states",
        list_upstreams,
        Listing[UpstreamItem],
    ),
    Action(
        "POST",
        "/api/upstreams/{name}/restore",
        "Restore an upstream",
        restore,
        UpstreamItem,
    ),
    Action(
        "POST",
        f"{_ONE}/restore",
        "Restore a credential",
        restore,
        UpstreamItem,
    ),
    Action(
        "POST",
        f"{_ONE}/test",
        "Test a credential with a request that costs nothing",
        test,
        TestItem,
    ),
)
