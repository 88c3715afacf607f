"""`reelway token`: the keys that clients hold."""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from proxy.cli.context import (
    FOR_KEYS,
    FOR_STORE,
    InOrder,
    config_option,
    json_option,
    load_config,
    say,
    say_json,
    with_store,
)
from proxy.cli.limit_options import limited, limits_options, shown, span
from proxy.cli.plain import plain
from proxy.cli.tables import columns
from proxy.config import Config
from proxy.model import NO_LIMITS
from proxy.providers import globs
from proxy.server.bootstrap import signing_secrets
from proxy.signing import parse_token
from proxy.store import Store, TokenRecord
from proxy.tokens import (
    MadeToken,
    NewToken,
    check_webhook_target,
    checked_dialects,
    checked_labels,
    checked_models,
    checked_name,
    checked_networks,
    checked_operations,
    checked_webhook,
    create_token,
    revoked_for_good,
    rotate_token,
    state_of,
)

Parsed = Callable[[click.Context, click.Parameter, str | None], Any]


def _read(grant: Callable[[Any], Any], *, split: bool = False) -> Parsed:
    """An option's value as `grants` reads it; with `split`, names by comma."""

    def parse(_context: click.Context, option: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            return grant(_listed(value) if split else value)
        except ValueError as fault:
            raise click.BadParameter(str(fault), param_hint=option.opts[0]) from fault

    return parse


def _id_of(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    """Of a leaked key one has the key, not its id."""
    parsed = parse_token(value)
    return parsed[0] if parsed else value


def id_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("token_id", metavar="ID", callback=_id_of)(command)


@click.group(cls=InOrder)
def token() -> None:
    """Make, show, change and end the keys that clients hold."""


def _labels(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, is_pair, text = value.partition("=")
        if not is_pair:
            raise click.BadParameter(f"'{value[:80]}' is not a label; write it like team=film")
        try:
            found |= checked_labels({name: text})
        except ValueError as fault:
            raise click.BadParameter(str(fault)) from fault
    return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _hook(value: str) -> str:
    """'' takes it away."""
    return value and checked_webhook(value)


_SCOPES = (
    click.option(
        "--models",
        callback=_read(checked_models, split=True),
        help="Which models it may use: names and globs, by comma.",
    ),
    click.option(
        "--dialects",
        callback=_read(checked_dialects, split=True),
        help="Which endpoints: openai, generic, kling, jimeng, by comma.",
    ),
    click.option(
        "--operations",
        callback=_read(checked_operations, split=True),
        help="Which operations: create, get, list, content, …, by comma.",
    ),
    click.option(
        "--addresses",
        callback=_read(checked_networks, split=True),
        help="From where: networks, by comma.",
    ),
    click.option("--label", "labels", multiple=True, callback=_labels, help="A note: team=film."),
    click.option(
        "--shared/--not-shared",
        default=None,
        help="Whether it reads the tasks of its owner's other keys.",
    ),
    click.option(
        "--webhook",
        callback=_read(_hook),
        help="Where the ends of its tasks are told: an http(s) URL.",
    ),
)


def scope_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets those that were given as `scope`, by field of
    `NewToken`."""

    @functools.wraps(command)
    def collected(**values: Any) -> Any:
        names = ("models", "dialects", "operations", "addresses", "labels", "shared", "webhook")
        taken = {name: values.pop(name) for name in names}
        scope = {name: value for name, value in taken.items() if value not in (None, {})}
        return command(scope=scope, **values)

    found: Callable[..., Any] = collected
    for option in reversed(_SCOPES):
        found = option(found)
    return found


@token.command("create")
@click.option("--name", required=True, callback=_read(checked_name), help="Who or what it is for.")
@click.option("--owner", help="The tenant it belongs to (default: one of its own).")
@scope_options
@limits_options
@click.option(
    "--expires", "expires_s", callback=span(), help="For how long it is good: 30d, 12h, 90m."
)
@config_option
@json_option
def token_create(
    name: str,
    owner: str | None,
    scope: dict[str, Any],
    said: dict[str, int | None],
    expires_s: int | None,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Make a key and show its secrets, once."""
    config = load_config(config_path, FOR_KEYS)
    _check_webhook(config, scope)
    wanted = NewToken(
        name=name,
        owner=owner,
        limits=limited(NO_LIMITS, said),
        expires_s=expires_s,
        **scope,
    )
    _warn_of_unmatched(config, wanted.models)

    async def go(store: Store) -> None:
        made = await create_token(
            store, signing_secrets(config)[0], wanted, secrets.token_bytes, time.time
        )
        _tell_secrets(made, as_json)

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
            say("There are no keys yet: `token create --name …` makes one.")
            return
        rows = [("ID", "NAME", "OWNER", "STATE", "MODELS", "CREATED")]
        rows += [
            (
                record.id,
                record.name,
                record.owner,
                state_of(record, time.time() * 1000),
                ",".join(record.models) or "all",
                _when(record.created_ms),
            )
            for record in records
        ]
        say(columns(rows[0], rows[1:]))

    with_store(load_config(config_path, FOR_STORE), go)


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
        _tell(record)

    with_store(load_config(config_path, FOR_STORE), go)


@token.command("set")
@id_argument
@click.option("--name", callback=_read(checked_name), help="Who or what it is for.")
@scope_options
@limits_options
@config_option
@json_option
def token_set(
    token_id: str,
    name: str | None,
    scope: dict[str, Any],
    said: dict[str, int | None],
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Change what a key may do and have; what is not named stays as it is.

    ID is the key's id, or the whole key. An empty list (--models '') means any; labels are
    replaced as a whole.
    """
    config = load_config(config_path, FOR_STORE)
    _check_webhook(config, scope)
    _warn_of_unmatched(config, scope.get("models", ()))

    def change(record: TokenRecord) -> TokenRecord:
        _check_not_revoked(record)
        given = scope if name is None else {**scope, "name": name}
        return replace(record, limits=limited(record.limits, said), **given)

    names = [*scope, *(["name"] if name is not None else []), *(["limits"] if said else [])]
    _change(config, token_id, change, names, as_json)


@token.command("rotate")
@id_argument
@click.option(
    "--overlap",
    "overlap_s",
    callback=span(least_s=0),
    default="24h",
    show_default=True,
    help="How long the secret it has now stays good.",
)
@config_option
@json_option
def token_rotate(token_id: str, overlap_s: int, config_path: Path | None, as_json: bool) -> None:
    """Give a key new secrets and show them, once.

    ID is the key's id, or the whole key. The secret it has now stays good for the overlap; the
    access-key pair and the webhook secret end at once.
    """
    config = load_config(config_path, FOR_KEYS)

    async def go(store: Store) -> None:
        made = await rotate_token(
            store,
            signing_secrets(config)[0],
            token_id,
            overlap_s,
            secrets.token_bytes,
            time.time,
        )
        if made is None:
            raise _no_such(token_id)
        _tell_secrets(made, as_json)

    with_store(config, go)


@token.command("expire")
@id_argument
@click.option("--in", "in_s", callback=span(), help="When: 30d, 12h, 90m from now (default: now).")
@click.option("--never", is_flag=True, help="Take its end away.")
@config_option
@json_option
def token_expire(
    token_id: str, in_s: int | None, never: bool, config_path: Path | None, as_json: bool
) -> None:
    """Set when a key ends: from then on it reads what it has made, and makes nothing.

    ID is the key's id, or the whole key.
    """
    if never and in_s is not None:
        raise click.UsageError("--in and --never exclude each other.")
    ends_ms = None if never else int((time.time() + (in_s or 0)) * 1000)
    _change(
        load_config(config_path, FOR_STORE),
        token_id,
        lambda record: replace(record, expires_ms=ends_ms),
        ["expires_ms"],
        as_json,
    )


@token.command("disable")
@id_argument
@config_option
@json_option
def token_disable(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """Refuse a key, and every link it handed out, until it is enabled again.

    ID is the key's id, or the whole key.
    """
    now_ms = int(time.time() * 1000)
    _change(
        load_config(config_path, FOR_STORE),
        token_id,
        lambda record: replace(record, disabled_ms=record.disabled_ms or now_ms),
        ["disabled_ms"],
        as_json,
    )


@token.command("enable")
@id_argument
@config_option
@json_option
def token_enable(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """Let a disabled key in again.

    ID is the key's id, or the whole key.
    """

    def change(record: TokenRecord) -> TokenRecord:
        _check_not_revoked(record)
        return replace(record, disabled_ms=None)

    _change(load_config(config_path, FOR_STORE), token_id, change, ["disabled_ms"], as_json)


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
            say(f"{token_id} is revoked")

    with_store(load_config(config_path, FOR_STORE), go)


# ---------------------------------------------------------------- reading and showing


def _no_such(token_id: str) -> click.ClickException:
    return click.ClickException(f"there is no key {token_id}; `token list` shows them all")


def _check_not_revoked(record: TokenRecord) -> None:
    if record.revoked_ms is not None:
        raise click.ClickException(revoked_for_good(record))


def _check_webhook(config: Config, scope: dict[str, Any]) -> None:
    try:
        check_webhook_target(scope.get("webhook"), config.webhooks.allow)
    except ValueError as fault:
        raise click.BadParameter(f"{fault}.", param_hint="'--webhook'") from fault


def _change(
    config: Config,
    token_id: str,
    change: Callable[[TokenRecord], TokenRecord],
    names: Sequence[str],
    as_json: bool,
) -> None:
    """Write these fields of a key as `change` makes them, and show it."""

    async def go(store: Store) -> None:
        record = await store.tokens.get(token_id)
        if record is None:
            raise _no_such(token_id)
        changed = change(record)
        if not await store.tokens.change(changed, *names):
            raise _no_such(token_id)
        if as_json:
            say_json(_public(changed))
        else:
            _tell(changed)

    with_store(config, go)


def _tell(record: TokenRecord) -> None:
    for key, value in _public(record).items():
        said = value
        if isinstance(value, bool):
            said = "yes" if value else "no"
        elif isinstance(value, list):
            said = ",".join(value) or "all"
        elif isinstance(value, dict):
            said = " ".join(f"{name}={text}" for name, text in value.items()) or "-"
        say(f"{key:<16}{'-' if said is None else plain(str(said))}")


def _tell_secrets(made: MadeToken, as_json: bool) -> None:
    if as_json:
        say_json(
            {
                "id": made.record.id,
                "token": made.token,
                "access_key": made.record.id,
                "secret_key": made.secret_key,
                "webhook_secret": made.webhook_secret,
                **_public(made.record),
            }
        )
        return
    say(f"token           {made.token}")
    say(f"access key      {made.record.id}   (vendors' SDKs)")
    say(f"secret key      {made.secret_key}")
    say(f"webhook secret  {made.webhook_secret}")
    say("The secrets are shown this once; only a hash is kept.", err=True)


def _public(record: TokenRecord) -> dict[str, object]:
    limits = shown(record.limits)
    first = {name: limits.pop(name) for name in ("budget", "rpm", "max_in_flight")}
    return {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "state": state_of(record, time.time() * 1000),
        "generation": record.generation,
        "models": list(record.models),
        **first,
        "webhook": record.webhook,
        "created": _when(record.created_ms),
        "expires": _when_or_never(record.expires_ms),
        "revoked": _when_or_never(record.revoked_ms),
        "disabled": _when_or_never(record.disabled_ms),
        "previous_until": _when_or_never(record.previous_until_ms),
        **limits,
        "labels": dict(record.labels),
        "dialects": list(record.dialects),
        "operations": list(record.operations),
        "addresses": list(record.addresses),
        "shared": record.shared,
    }


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _when_or_never(ms: int | None) -> str | None:
    return None if ms is None else _when(ms)


def _warn_of_unmatched(config: Config, wanted: tuple[str, ...]) -> None:
    for glob in wanted:
        if not any(
            globs.matches(route.model, glob) or globs.matches(glob, route.model)
            for route in config.routes
        ):
            say(f"warning: no route serves a model like '{glob}'", err=True)
