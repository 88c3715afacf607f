"""Which upstreams may take a request for a model. The operator's table: first match wins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from proxy.model import NO_LIMITS, Credential, Limits, Principal, Route, Upstream
from proxy.providers import globs

# ---------------------------------------------------------------- models


def choose_route(routes: Sequence[Route], model: str) -> Route | None:
    """The first row that takes this model."""
    return next((route for route in routes if globs.matches(route.model, model)), None)


def permits(principal: Principal, model: str) -> bool:
    return _permitted(principal.models, model)


def _permitted(models: Sequence[str], name: str) -> bool:
    return not models or any(globs.matches(glob, name) for glob in models)


def listed_models(routes: Sequence[Route], models: Sequence[str]) -> list[str]:
    """Names a token with these globs may ask for, in the routes' order: the routes that are no
    globs, then what the token itself names and a glob route takes."""
    names = [
        route.model
        for route in routes
        if globs.is_literal(route.model) and _permitted(models, route.model)
    ]
    names += [
        name for name in models if globs.is_literal(name) and choose_route(routes, name) is not None
    ]
    return list(dict.fromkeys(names))


def allowed_models(routes: Sequence[Route], models: Sequence[str]) -> list[str]:
    """The same for a person to read, followed by globs: the routes' own, or the token's where
    it may use only some of a route's names."""
    names = listed_models(routes, models)
    for wide in (route.model for route in routes if not globs.is_literal(route.model)):
        for glob in models or ("*",):
            if globs.covers(glob, wide):
                names.append(wide)
            elif globs.covers(wide, glob) and not globs.is_literal(glob):
                names.append(glob)
    return list(dict.fromkeys(names))


def model_limits(principal: Principal, model: str) -> Limits:
    """What its owner may have of this model."""
    for glob, limits in principal.model_limits:
        if globs.matches(glob, model):
            return limits
    return NO_LIMITS


# ---------------------------------------------------------------- upstreams

_T = TypeVar("_T")


def candidates(
    route: Route, upstreams: Mapping[str, Upstream], random01: Callable[[], float]
) -> list[tuple[Upstream, Credential]]:
    """Who may take a submit, in the order to ask: upstreams by weight, within each its
    credentials by weight. Retired credentials only end what they began.

    `random01` gives numbers in [0, 1); the same numbers give the same order.
    """
    order: list[tuple[Upstream, Credential]] = []
    for name in _weighted(route.upstreams, random01):
        upstream = upstreams[name]
        keys = [(key, key.weight) for key in upstream.credentials if not key.retired]
        order += [(upstream, key) for key in _weighted(keys, random01)]
    return order


def _weighted(items: Sequence[tuple[_T, int]], random01: Callable[[], float]) -> list[_T]:
    """All of them, each place drawn by weight from who is left. Those of weight 0 come last,
    as they are listed: they only stand in."""
    left = [item for item in items if item[1] > 0]
    last = [item for item, weight in items if weight == 0]
    order: list[_T] = []
    while left:
        point = random01() * sum(weight for _, weight in left)
        index = 0
        while index < len(left) - 1 and point >= left[index][1]:
            point -= left[index][1]
            index += 1
        order.append(left.pop(index)[0])
    return order + last
