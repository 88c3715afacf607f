"""`reelway models`: what this gateway can serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from proxy.cli.context import config_option, json_option, load_config, say, say_json
from proxy.cli.tables import columns, priced
from proxy.model import Json, Route
from proxy.providers import PROVIDERS, globs
from proxy.providers.catalogue.listing import resolutions_of, video_of
from proxy.providers.catalogue.row import ModelRow
from proxy.tasks.models import Served, served_by
from proxy.tasks.routing import choose_route

_HEADER = ("MODEL", "UPSTREAM", "UPSTREAM MODEL", "SECONDS", "SIZES", "INPUTS", "SOUND", "PRICE")
_FEW = 4


@click.command()
@click.option("--model", "name", help="Only what serves this model; * and ? are wild.")
@config_option
@json_option
def models(name: str | None, config_path: Path | None, as_json: bool) -> None:
    """Print what each model renders, by route.

    A dash: nobody says, and what a client asks for is passed on. --json has all that is known, and
    where it is from.
    """
    config = load_config(config_path)
    found = [
        (model, route, served)
        for model, route in _asked(config.routes, name)
        for served in served_by(route, model, config.upstreams, PROVIDERS)
    ]
    if as_json:
        say_json([_document(*item, config.billing.currency) for item in found])
        return
    if not config.routes:
        say("There are no routes yet: add [[upstreams]] and [[routes]] to the configuration.")
        return
    if not found:
        raise click.ClickException(f"no route takes the model '{name}'; see `reelway routes`")
    header = [f"PRICE {config.billing.currency}" if h == "PRICE" else h for h in _HEADER]
    say(columns(header, [_cells(*item) for item in found]))


def _asked(routes: Sequence[Route], name: str | None) -> list[tuple[str, Route]]:
    """The models to print with their routes: a name that no glob is stands for itself."""
    if name is None:
        return [(route.model, route) for route in routes]
    if globs.is_literal(name):
        route = choose_route(routes, name)
        return [] if route is None else [(name, route)]
    return [(route.model, route) for route in routes if globs.matches(name, route.model)]


def _cells(model: str, route: Route, served: Served) -> tuple[str, ...]:
    row = served.row
    inputs = row.inputs or {}
    return (
        model,
        served.upstream.name,
        served.upstream_model if route.upstream_model else "as asked",
        _seconds(row),
        _short(row.sizes or resolutions_of(row)),
        ", ".join(f"{role.value} {most}" for role, most in inputs.items() if most) or "-",
        row.audio or "-",
        priced(route.price),
    )


def _seconds(row: ModelRow) -> str:
    if row.seconds is None:
        return "-" if row.max_seconds is None else f"up to {row.max_seconds}"
    if len(row.seconds) > _FEW:
        return f"{row.seconds[0]}-{row.seconds[-1]}"
    return ", ".join(map(str, row.seconds))


def _short(values: Sequence[str] | None) -> str:
    if not values:
        return "-"
    more = f" +{len(values) - _FEW}" if len(values) > _FEW else ""
    return ", ".join(values[:_FEW]) + more


def _document(model: str, route: Route, served: Served, currency: str) -> dict[str, Json]:
    row = served.row
    known = row.model_dump(mode="json", exclude_none=True, exclude={"model", "provider", "aliases"})
    return {
        "model": model,
        "upstream": served.upstream.name,
        "provider": served.upstream.provider,
        "upstream_model": served.upstream_model,
        "video": video_of([row]),
        "price": {**route.price, "currency": currency} if route.price else None,
        "known": known,
    }
