"""`reelway token`: the keys that clients hold."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from proxy import globs
from proxy.command import InOrder, config_option, json_option, load_config, say_json, with_store
from proxy.config import Config
from proxy.dialects.media import web_address
from proxy.errors import Invalid
from proxy.routing import columns
from proxy.server import signing_secrets
from proxy.signing import parse_token
from proxy.store import Store, TokenRecord
from proxy.tokens import NewToken, create_token

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_S = 36_500 * 86400  # a hundred years: the calendar of what prints it ends some day
_MICRO = Decimal(1_000_000)


def _not_blank(_context: click.Context, _option: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("a key needs a name to be told apart by.")
    return value


def _id_of(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    """Of a leaked key one has the key, not its id."""
    parsed = parse_token(value)
    return parsed[0] if parsed else value


def id_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("token_id", metavar="ID", callback=_id_of)(command)


@click.group(cls=InOrder)
def token() -> None:
    """Make, list, show and revoke the keys that clients hold."""


@token.command("create")
@click.option("--name", required=True, callback=_not_blank, help="Who or what it is for.")
@click.option("--owner", help="The tenant it belongs to (default: one of its own).")
@click.option("--models", default="", help="Which models it may use: names and globs, by comma.")
@click.option("--budget", help="What it may spend in all, in [billing] currency: 4.00.")
@click.option("--rpm", type=click.IntRange(1), help="Requests per minute.")
@click.option("--max-in-flight", type=click.IntRange(1), help="Tasks under way at once.")
@click.option("--expires", help="For how long it is good: 30d, 12h, 90m.")
@click.option("--webhook", help="Where the ends of its tasks are told: an http(s) URL.")
@config_option
@json_option
def token_create(
    name: str,
    owner: str | None,
    models: str,
    budget: str | None,
    rpm: int | None,
    max_in_flight: int | None,
    expires: str | None,
    webhook: str | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Make a key and show its secrets, once."""
    config = load_config(config_path)
    wanted = NewToken(
        name=name,
        owner=owner,
        models=tuple(glob.strip() for glob in models.split(",") if glob.strip()),
        budget_micro=None if budget is None else _micro(budget),
        rpm=rpm,
        max_in_flight=max_in_flight,
        expires_s=None if expires is None else _seconds(expires),
        webhook=None if webhook is None else _address(webhook),
    )
    _warn_of_unmatched(config, wanted.models)

    async def go(store: Store) -> None:
        made = await create_token(
            store, signing_secrets(config)[0], wanted, secrets.token_bytes, time.time
        )
        shown = {
            "id": made.record.id,
            "token": made.token,
            "access_key": made.record.id,
            "secret_key": made.secret_key,
            "webhook_secret": made.webhook_secret,
            **_public(made.record),
        }
        if as_json:
            say_json(shown)
            return
        click.echo(f"token           {made.token}")
        click.echo(f"access key      {made.record.id}   (vendors' SDKs)")
        click.echo(f"secret key      {made.secret_key}")
        click.echo(f"webhook secret  {made.webhook_secret}")
        click.echo("The secrets are shown this once; only a hash is kept.", err=True)

    with_store(config, go)


@token.command("list")
@config_option
@json_option
def token_list(config_path: Path | None, as_json: bool) -> None:
    """All keys, the oldest first."""

    async def go(store: Store) -> None:
        records = await store.tokens.list()
        if as_json:
            say_json([_public(record) for record in records])
            return
        if not records:
            click.echo("There are no keys yet: `token create --name …` makes one.")
            return
        rows = [("ID", "NAME", "OWNER", "STATE", "MODELS", "CREATED")]
        rows += [
            (
                record.id,
                record.name,
                record.owner,
                _state(record),
                ",".join(record.models) or "all",
                _when(record.created_ms),
            )
            for record in records
        ]
        click.echo(columns(rows[0], rows[1:]))

    with_store(load_config(config_path), go)


@token.command("show")
@id_argument
@config_option
@json_option
def token_show(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """What is known of one key; never its secrets.

    ID is the key's id, or the whole key.
    """

    async def go(store: Store) -> None:
        record = await store.tokens.get(token_id)
        if record is None:
            raise _no_such(token_id)
        if as_json:
            say_json(_public(record))
            return
        for key, value in _public(record).items():
            said = ",".join(value) or "all" if isinstance(value, list) else value
            click.echo(f"{key:<16}{'-' if said is None else said}")

    with_store(load_config(config_path), go)


@token.command("revoke")
@id_argument
@config_option
@json_option
def token_revoke(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """Refuse a key from now on, and every link it handed out.

    ID is the key's id, or the whole key.
    """

    async def go(store: Store) -> None:
        if not await store.tokens.revoke(token_id, int(time.time() * 1000)):
            raise _no_such(token_id)
        if as_json:
            say_json({"id": token_id, "revoked": True})
        else:
            click.echo(f"{token_id} is revoked")

    with_store(load_config(config_path), go)


# ---------------------------------------------------------------- reading and showing


def _no_such(token_id: str) -> click.ClickException:
    return click.ClickException(f"there is no key {token_id}; `token list` shows them all")


def _public(record: TokenRecord) -> dict[str, object]:
    return {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "state": _state(record),
        "generation": record.generation,
        "models": list(record.models),
        "budget": None if record.budget_micro is None else str(record.budget_micro / _MICRO),
        "rpm": record.rpm,
        "max_in_flight": record.max_in_flight,
        "webhook": record.webhook,
        "created": _when(record.created_ms),
        "expires": None if record.expires_ms is None else _when(record.expires_ms),
        "revoked": None if record.revoked_ms is None else _when(record.revoked_ms),
    }


def _state(record: TokenRecord) -> str:
    if record.revoked_ms is not None:
        return "revoked"
    if record.expires_ms is not None and record.expires_ms <= time.time() * 1000:
        return "expired"
    return "active"


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", text) is None:
        raise click.BadParameter(
            f"'{text}' is not an amount; write it like 4.00, below a billion and with at most "
            "six decimals",
            param_hint="--budget",
        )
    return int(Decimal(text) * _MICRO)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
    seconds = int(match[1]) * _UNITS[match[2]] if match else 0
    if not 0 < seconds <= _LONGEST_S:
        raise click.BadParameter(
            f"'{text}' is not a time from now; write it like 30d, 12h or 90m, at most 36500d",
            param_hint="--expires",
        )
    return seconds


def _address(text: str) -> str:
    try:
        return web_address(text, "--webhook")
    except Invalid as fault:
        raise click.BadParameter(str(fault), param_hint="--webhook") from fault


def _warn_of_unmatched(config: Config, wanted: tuple[str, ...]) -> None:
    for glob in wanted:
        if not any(
            globs.matches(route.model, glob) or globs.matches(glob, route.model)
            for route in config.routes
        ):
            click.echo(f"warning: no route serves a model like '{glob}'", err=True)
