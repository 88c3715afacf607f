"""What a submit will send, decided before anything moves: route, candidates, drafts.

Pure: the random numbers of the weighted choice are an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from proxy.dialects import DIALECTS
from proxy.errors import Invalid, ModelNotFound, ProxyError, Unavailable
from proxy.http.addresses import inner_target
from proxy.http.form_writer import check_form
from proxy.http.outbound import Draft, Rendered, Terms
from proxy.model import Credential, Principal, Route, Task, Upstream, VideoRequest
from proxy.providers.base import Provider
from proxy.providers.fitting import check_left_out
from proxy.store.keys import credential_name
from proxy.tasks.rewrite import enforce_fit, rewrite
from proxy.tasks.routing import allowed_models, candidates, choose_route, permits

# Of what may be wanted from `candidates` without its order.
_ANY: Final = 0.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """Everything needed to send one request to one credential, decided before anything moves."""

    upstream: Upstream
    credential: Credential
    upstream_model: str
    provider: Provider
    draft: Draft
    rendered: Rendered

    @property
    def name(self) -> str:
        """Of its credential."""
        return credential_name(self.upstream.name, self.credential.name)


@dataclass(frozen=True, slots=True)
class SubmitPlan:
    """How a task is to be submitted: its attempts in order, the client's headers that go to the
    upstream as well, and the bytes of the request they were made from."""

    attempts: Sequence[Attempt]
    forwarded: Mapping[str, str]
    size: int


def check_addresses(request: VideoRequest, allowed: Container[str]) -> None:
    """`Invalid` for a picture or video whose address is plainly inside somebody's network: no
    provider may be made to fetch that. Where a host name leads is the fetcher's to judge."""
    for media in request.media:
        if media.url is not None and inner_target(media.url, allowed) is not None:
            raise Invalid(
                f"'{media.param}' must be a public address, or the file itself.",
                param=media.param,
            )


def route_for(
    routes: Sequence[Route], principal: Principal, request: VideoRequest, model: str
) -> Route:
    """The row of the routing table that serves this model to this token."""
    return route_of(routes, principal, model, DIALECTS[request.dialect].field_names.model)


def route_of(routes: Sequence[Route], principal: Principal, model: str, param: str) -> Route:
    """The same for a model that `param` of a request names; `ModelNotFound` says what there is."""
    route = choose_route(routes, model)
    if route is None or not permits(principal, model):
        names = ", ".join(allowed_models(routes, principal.models)[:20])
        why = f"Model '{model}' is not served here for this key"
        if not model:
            why = "The request names no model, and there is no default one"
        raise ModelNotFound(
            f"{why}. It may use: {names or 'none'}.",
            param=param,
        )
    return route


def places_of(
    routes: Sequence[Route], upstreams: Mapping[str, Upstream], task: Task
) -> list[tuple[Upstream, Credential]]:
    """Who may take a task that waits, as things are configured now; empty when its route, or the
    upstream it waits for, has no credential for it any more."""
    for route in routes:
        if route.model == task.route and task.queue in (name for name, _ in route.upstreams):
            places = candidates(route, upstreams, lambda: _ANY)
            return places if any(up.name == task.queue for up, _ in places) else []
    return []


def reach_of(
    routes: Sequence[Route], upstreams: Mapping[str, Upstream], task: Task
) -> list[tuple[Upstream, Credential]]:
    """Everybody who may have been about to take a task of its route."""
    return [
        (upstreams[name], credential)
        for route in routes
        if route.model == task.route
        for name, _ in route.upstreams
        for credential in upstreams[name].credentials
    ]


def max_age_ms(routes: Sequence[Route], task: Task, default_s: float) -> int:
    """How old a task of its route may become."""
    ages = [route.max_age_s for route in routes if route.model == task.route]
    seconds = ages[0] if ages and ages[0] is not None else default_s
    return round(seconds * 1000)


def attempts_of(
    route: Route,
    upstreams: Mapping[str, Upstream],
    providers: Mapping[str, Provider],
    request: VideoRequest,
    task_id: str,
    source: Task | None,
    model: str,
    random01: Callable[[], float],
    callback_url: str | None = None,
) -> list[Attempt]:
    """What to try, in order. The first candidate's complaint is the client's; a later one that
    cannot render the request is left out. `callback_url` is ours, for providers that call back;
    the client's own never goes out."""
    found: list[Attempt] = []
    complaint: ProxyError | None = None
    terms = Terms(route.passes, is_priced=bool(route.price))
    for upstream, credential in candidates(route, upstreams, random01):
        if source is not None and (upstream.name, credential.name) != (
            source.upstream,
            source.credential,
        ):
            continue  # a provider knows a video only under the account that made it
        provider = providers[upstream.provider]
        upstream_model = route.upstream_model or model
        try:
            draft = provider.draft(request, task_id, upstream, upstream_model, source, terms)
            check_left_out(request, draft.dropped)
            draft = rewrite(draft, route)
            enforce_fit(draft, route)
            if callback_url is not None and provider.callback_field is not None:
                draft = replace(
                    draft, fields={**draft.fields, provider.callback_field: callback_url}
                )
            if draft.encoding == "multipart":
                check_form(draft.fields)
        except ProxyError as error:
            complaint = complaint or error
            continue
        rendered = provider.rendered(draft, upstream)
        found.append(Attempt(upstream, credential, upstream_model, provider, draft, rendered))
    if not found:
        raise complaint or Unavailable(
            f"No upstream of model '{model}' can take requests now.", retry_after_s=30
        )
    return found
