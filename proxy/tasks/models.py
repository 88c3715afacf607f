"""What a route can serve: the catalogue's rows of the upstreams it leads to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.model import Json, Route, Upstream
from proxy.providers.base import Provider
from proxy.providers.catalogue.listing import video_of
from proxy.providers.catalogue.row import ModelRow


@dataclass(frozen=True, slots=True)
class Served:
    """A model at one upstream of its route."""

    upstream: Upstream
    upstream_model: str
    row: ModelRow


def served_by(
    route: Route,
    model: str,
    upstreams: Mapping[str, Upstream],
    providers: Mapping[str, Provider],
) -> list[Served]:
    """A model, or the glob of its route, at each upstream that may take it."""
    found = []
    for name, _ in route.upstreams:
        upstream, upstream_model = upstreams[name], route.upstream_model or model
        row = providers[upstream.provider].row(upstream, upstream_model)
        found.append(Served(upstream, upstream_model, row))
    return found


def video_member(
    route: Route,
    model: str,
    upstreams: Mapping[str, Upstream],
    providers: Mapping[str, Provider],
) -> dict[str, Json]:
    """What a request for this model may ask for, for the list of models."""
    return video_of([served.row for served in served_by(route, model, upstreams, providers)])
