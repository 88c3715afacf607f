"""`reelway token`: manage API keys."""

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
    """Create, list, change and revoke API keys.

    A token is an API key: the secret that a client holds.
    """


@token.command("create")
@click.option(
    "--name", required=True, callback=checked(checked_name), help="A name for the API key."
)
@click.option("--owner", help="The owner (default: a new one).")
@scope_options
@limits_options
@click.option(
    "--expires", "expires_s", callback=span(), help="Time until it expires: 30d, 12h, 90m."
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
    """Create an API key and print its secrets, once."""
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
    """List API keys, oldest first."""

    async def go(store: Store) -> None:
        records = await store.tokens.list()
        if as_json:
            say_json([token_fields(record) for record in records])
            return
        if not records:
            say("There are no API keys yet. Create one with `token create --name …`.")
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
    """Show an API key, without its secrets.

    ID is the key's id, or the whole API key.
    """

    async def go(store: Store) -> None:
        print_token(await find_token(store, token_id), as_json)

    _with_key(load_config(config_path, FOR_STORE), token_id, go)


@token.command("set")
@id_argument
@click.option("--name", callback=checked(checked_name), help="A name for the API key.")
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
    """Change an API key. Options that are left out change nothing.

    ID is the key's id, or the whole API key. An empty list (--models '') means any; labels are
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
    help="How long the old secret stays valid.",
)
@config_option
@json_option
def token_rotate(token_id: str, overlap_s: int, config_path: Path | None, as_json: bool) -> None:
    """Give an API key new secrets and print them, once.

    ID is the key's id, or the whole API key. The old secret stays valid for the overlap; the old
    access-key pair and webhook secret become invalid at once.
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
@click.option("--in", "in_s", callback=span(), help="Time from now: 30d, 12h, 90m (default: now).")
@click.option("--never", is_flag=True, help="Remove the expiry.")
@config_option
@json_option
def token_expire(
    token_id: str, in_s: int | None, never: bool, config_path: Path | None, as_json: bool
) -> None:
    """Set when an API key expires. An expired key can read its tasks, but not create any.

    ID is the key's id, or the whole API key.
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
    """Disable an API key and its signed links until it is enabled again.

    ID is the key's id, or the whole API key.
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
    """Enable a disabled API key.

    ID is the key's id, or the whole API key.
    """
    _change(load_config(config_path, FOR_STORE), token_id, enable, as_json)


@token.command("revoke")
@id_argument
@config_option
@json_option
def token_revoke(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """Revoke an API key and its signed links, for good.

    ID is the key's id, or the whole API key.
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
                f"there is no API key {token_id}; `token list` shows them all"
            ) from fault

    with_store(config, go)


def _warn_of_unmatched(config: Config, wanted: tuple[str, ...]) -> None:
    for glob in wanted:
        if not any(
            globs.matches(route.model, glob) or globs.matches(glob, route.model)
            for route in config.routes
        ):
            say(f"warning: no route serves a model like '{glob}'", err=True)
