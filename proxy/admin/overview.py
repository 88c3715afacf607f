"""/api/overview, /api/config and /api/reload: what runs, by which settings."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, Literal

from pydantic import JsonValue

from proxy import __version__
from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import Item, Listing, Ms, NoBody, NoQuery, StandingItem
from proxy.admin.upstreams import wholes
from proxy.config.reload import Reloaded
from proxy.dialects import DIALECTS
from proxy.errors import Unavailable
from proxy.model import CredentialHealth
from proxy.store.capabilities import facts
from proxy.store.keys import day
from proxy.tasks.routing import listed_models


class WorkerItem(Item):
    pid: int
    started_ms: Ms


class StoreItem(Item):
    """`max_bytes` null: no limit. `persistence` aof: every change is logged; snapshots: at best
    what is saved now and then."""

    server: str
    version: str
    used_bytes: int
    max_bytes: int | None
    keys: int
    persistence: Literal["aof", "snapshots"]


class UpstreamStandingItem(Item):
    """An upstream is as well as its best usable key."""

    name: str
    standing: StandingItem | None


class ReloadItem(Item):
    """Not `ok`: nothing changed, for these `problems`. `waiting` are the changed keys that
    need a restart."""

    ok: bool
    problems: list[str]
    waiting: list[str]
    ms: Ms

    @classmethod
    def of(cls, came: Reloaded) -> ReloadItem:
        return cls(ok=came.ok, problems=list(came.problems), waiting=list(came.waiting), ms=came.ms)


class OverviewItem(Item):
    """`refused_today`: refused submits of this UTC day by reason; they are no tasks.
    `store`, `tasks_open`, `refused_today` and the standings are null while the store does not
    answer. `models` are the public ones that a route names, `dialects` those that a
    token may be limited to. `last_reload` is null where there was none."""

    version: str
    started_ms: Ms
    now_ms: Ms
    public_url: str
    api_url: str
    currency: str
    ready: bool
    why_not: str | None
    workers: list[WorkerItem]
    store: StoreItem | None
    tasks_open: int | None
    refused_today: dict[str, int] | None
    upstreams: list[UpstreamStandingItem]
    models: list[str]
    dialects: list[str]
    last_reload: ReloadItem | None


class SettingItem(Item):
    """`origin` is `default`, `file:line`, or `env NAME`; secrets are "(hidden)"."""

    key: str
    value: JsonValue
    origin: str


class SettingsItem(Listing[SettingItem]):
    last_reload: ReloadItem | None


async def overview(context: AdminContext, _request: AdminRequest[NoQuery, NoBody]) -> OverviewItem:
    config, workers = context.config(), context.workers
    why_not = await workers.why_not_ready()
    store: StoreItem | None = None
    tasks_open: int | None = None
    refused: dict[str, int] | None = None
    known: dict[str, CredentialHealth] = {}
    try:
        found, tasks_open, known, refused = await asyncio.gather(
            facts(context.store.batch),
            context.store.tasks.open_count(),
            wholes(context),
            context.store.refusals.counts(day(context.now_ms())),
        )
        store = StoreItem(
            server=found.server,
            version=found.version,
            used_bytes=found.used_bytes,
            max_bytes=found.max_bytes,
            keys=found.keys,
            persistence=found.persistence,
        )
    except Unavailable:
        tasks_open = None
    running = [WorkerItem(pid=w.pid, started_ms=w.started_ms) for w in workers.running()]
    return OverviewItem(
        version=__version__,
        started_ms=min((w.started_ms for w in running), default=context.now_ms()),
        now_ms=context.now_ms(),
        public_url=context.public_url(),
        api_url=context.data_port.url,
        currency=config.billing.currency,
        ready=why_not is None,
        why_not=why_not,
        workers=running,
        store=store,
        tasks_open=tasks_open,
        refused_today=refused,
        upstreams=[
            UpstreamStandingItem(
                name=name, standing=StandingItem.of(known[name]) if name in known else None
            )
            for name in config.upstreams
        ],
        models=listed_models(config.routes, ()),
        dialects=[*DIALECTS],
        last_reload=_last_reload(context),
    )


async def settings(context: AdminContext, _request: AdminRequest[NoQuery, NoBody]) -> SettingsItem:
    return SettingsItem(
        data=[
            SettingItem(key=key, value=json.loads(value), origin=origin)
            for key, value, origin in context.config().rows()
        ],
        last_reload=_last_reload(context),
    )


async def reload(context: AdminContext, _request: AdminRequest[NoQuery, NoBody]) -> ReloadItem:
    return ReloadItem.of(await context.workers.reload())


def _last_reload(context: AdminContext) -> ReloadItem | None:
    last = context.workers.last_reload()
    return None if last is None else ReloadItem.of(last)


ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action("GET", "/api/overview", "Get the state of the gateway", overview, OverviewItem),
    Action("GET", "/api/config", "Get the configuration in force", settings, SettingsItem),
    Action(
        "POST",
        "/api/reload",
        "Reload the configuration file; a file with a mistake changes nothing",
        reload,
        ReloadItem,
    ),
)
