"""`reelway token`: the keys that clients hold."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine
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
from proxy.cli.limit_options import limited, limits_options, span
from proxy.cli.tables import columns
from proxy.cli.token_options import checked, id_argument, scope_options
from proxy.cli.token_output import moment, print_secrets, print_token, token_fields
from proxy.config import Config
from proxy.errors import NotFound
from proxy.model import NO_LIMITS
from proxy.providers import globs
from proxy.server.bootstrap import signing_secrets
from proxy.store import Store, TokenRecord
from proxy.tokens import (
    Changes,
    NewToken,
    change_token,
    check_not_revoked,
    check_webhook_target,
    checked_name,
    create_token,
    disable,
    enable,
    expire,
    find_token,
    revoke_token,
    rotate_token,
    state_of,
)


@click.group(cls=InOrder)
def token() -> None:
    """Make, show, change and end the keys that clients hold."""


@token.command("create")
@click.option(
    "--name", required=True, callback=checked(checked_name), help="Who or what it is for."
)
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
        print_secrets(made, as_json)

    with_store(config, go)


@token.command("list")
@config_option
@json_option
def token_list(config_path: Path | None, as_json: bool) -> None:
    """All keys, the oldest first."""

    async def go(store: Store) -> None:
        records = await store.tokens.list()
        if as_json:
            say_json([token_fields(record) for record in records])
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
                moment(record.created_ms),
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
        print_token(await find_token(store, token_id), as_json)

    _with_key(load_config(config_path, FOR_STORE), token_id, go)


@token.command("set")
@id_argument
@click.option("--name", callback=checked(checked_name), help="Who or what it is for.")
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

    def change(record: TokenRecord) -> Changes:
        check_not_revoked(record)
        given = scope if name is None else {**scope, "name": name}
        return {**given, "limits": limited(record.limits, said)} if said else given

    _change(config, token_id, change, as_json)


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
        print_secrets(made, as_json)

    _with_key(config, token_id, go)


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
    now_ms = int(time.time() * 1000)
    at_ms = None if never else now_ms + (in_s or 0) * 1000
    _change(load_config(config_path, FOR_STORE), token_id, lambda _: expire(at_ms, now_ms), as_json)


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
        lambda record: disable(record, now_ms),
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
    _change(load_config(config_path, FOR_STORE), token_id, enable, as_json)


@token.command("revoke")
@id_argument
@config_option
@json_option
def token_revoke(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """Refuse a key from now on, and every link it handed out.

    ID is the key's id, or the whole key.
    """

    async def go(store: Store) -> None:
        await revoke_token(store, token_id, int(time.time() * 1000))
        if as_json:
            say_json({"id": token_id, "revoked": True})
        else:
            say(f"{token_id} is revoked")

    _with_key(load_config(config_path, FOR_STORE), token_id, go)


# ---------------------------------------------------------------- what they share


def _check_webhook(config: Config, scope: dict[str, Any]) -> None:
    try:
        check_webhook_target(scope.get("webhook"), config.webhooks.allow)
    except ValueError as fault:
        raise click.BadParameter(f"{fault}.", param_hint="'--webhook'") from fault


def _change(
    config: Config, token_id: str, change: Callable[[TokenRecord], Changes], as_json: bool
) -> None:
    """Write these fields of a key as `change` makes them, and show it."""

    async def go(store: Store) -> None:
        print_token(await change_token(store, token_id, change), as_json)

    _with_key(config, token_id, go)


def _with_key(
    config: Config, token_id: str, action: Callable[[Store], Coroutine[Any, Any, None]]
) -> None:
    """Run `action` on the store; where there is no such key, say how to find it."""

    async def go(store: Store) -> None:
        try:
            await action(store)
        except NotFound as fault:
            raise click.ClickException(
                f"there is no key {token_id}; `token list` shows them all"
            ) from fault

    with_store(config, go)


def _warn_of_unmatched(config: Config, wanted: tuple[str, ...]) -> None:
    for glob in wanted:
        if not any(
            globs.matches(route.model, glob) or globs.matches(glob, route.model)
            for route in config.routes
        ):
            say(f"warning: no route serves a model like '{glob}'", err=True)
