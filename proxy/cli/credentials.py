"""`reelway credential`: which keys take submits now, which do not and why, and putting one back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import click

from proxy.cli.context import (
    FOR_STORE,
    InOrder,
    config_option,
    json_option,
    load_config,
    say,
    say_json,
    when_ms,
    with_store,
)
from proxy.cli.tables import columns
from proxy.config import Config
from proxy.model import CredentialHealth
from proxy.store import Store
from proxy.store.keys import credential_name


@click.group(cls=InOrder)
def credential() -> None:
    """List upstream credentials and restore one."""


def _names(config: Config) -> dict[str, int | None]:
    """Upstreams, each followed by its credentials, with the most these may have in flight."""
    found: dict[str, int | None] = {}
    for upstream in config.upstreams.values():
        found[upstream.name] = None
        for key in upstream.credentials:
            found[credential_name(upstream.name, key.name)] = key.max_in_flight
    return found


@credential.command("list")
@config_option
@json_option
def credential_list(config_path: Path | None, as_json: bool) -> None:
    """List upstreams and their credentials, with their states.

    well: takes submits. cooling: over its provider's rate limit. out: its provider refuses the
    key or the balance. broken: the upstream's circuit breaker is open. When the time of an out
    or broken one is over, one submit tries it again.
    """
    config = load_config(config_path, FOR_STORE)
    names = _names(config)

    async def go(store: Store) -> None:
        now_ms = int(time.time() * 1000)
        healths = await store.credentials.health(list(names))
        flights = await asyncio.gather(
            *(store.credentials.in_flight(name, now_ms) for name in names)
        )
        rows = [
            _row(name, most, health, flight)
            for (name, most), health, flight in zip(names.items(), healths, flights, strict=True)
        ]
        if as_json:
            say_json({"credentials": rows})
        else:
            say(_table(rows))

    with_store(config, go)


@credential.command("restore")
@click.argument("name")
@config_option
@json_option
def credential_restore(name: str, config_path: Path | None, as_json: bool) -> None:
    """Put a credential (UPSTREAM/NAME) or an upstream (UPSTREAM) back into use."""
    config = load_config(config_path, FOR_STORE)
    names = _names(config)
    # An upstream with a mistake in it is left out of the names, and may be the one in need.
    if name not in names and not config.passed_over:
        raise click.ClickException(f"there is no {name}; `credential list` shows them")

    async def go(store: Store) -> None:
        changed = await store.credentials.reset(name)
        if as_json:
            say_json({"name": name, "restored": changed})
        else:
            say(f"{name} is restored" if changed else f"{name} was in use already")

    with_store(config, go)


def _row(name: str, most: int | None, health: CredentialHealth, flight: int) -> dict[str, object]:
    is_well = health.state == "well"
    return {
        "name": name,
        "state": health.state,
        "until": None if is_well else when_ms(health.until_ms),
        "strikes": health.strikes,
        "code": health.code or None,
        "in_flight": None if most is None else flight,
        "max_in_flight": most,
    }


def _table(rows: Sequence[dict[str, object]]) -> str:
    names = ("NAME", "STATE", "UNTIL", "STRIKES", "CODE", "IN FLIGHT", "MOST")
    return columns(names, [["-" if v is None else str(v) for v in row.values()] for row in rows])
