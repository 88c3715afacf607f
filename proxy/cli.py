"""`reelway`: the commands. Each says what it did; `--json` says it to a program."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import click

from proxy import __version__
from proxy.config import Config, load
from proxy.config_source import ConfigErrors
from proxy.demo import DemoOptions, run_demo
from proxy.dialects import DIALECTS
from proxy.errors import ProxyError
from proxy.logs import make_logger
from proxy.providers import PROVIDERS
from proxy.routing import EndpointTable, columns, describe_routes
from proxy.server import Server, new_event_loop, signing_secrets
from proxy.store import Store, StoreUnusable, TokenRecord
from proxy.tokens import NewToken, create_token

T = TypeVar("T")

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_MICRO = Decimal(1_000_000)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's loop; what an operator can mend ends in one line, not a traceback."""
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(main)
    except (ProxyError, StoreUnusable) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _load(path: Path | None) -> Config:
    """The named file, else ./config.toml where there is one, else the defaults."""
    if path is None and Path("config.toml").exists():
        path = Path("config.toml")
    try:
        return load(path, os.environ, PROVIDERS)
    except ConfigErrors as errors:
        for problem in errors.problems:
            click.echo(str(problem), err=True)
        raise SystemExit(1) from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from error


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The configuration file (default: ./config.toml).",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")(
        command
    )


def say_json(value: object) -> None:
    click.echo(json.dumps(value, ensure_ascii=False))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reelway")
def main() -> None:
    """Reelway: the gateway that keeps video-generation code working."""


# ---------------------------------------------------------------- running


@main.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain."""
    config = _load(config_path)

    async def go() -> None:
        async with Server(config, make_logger()) as server:
            await server.run()

    run(go())


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True, type=click.IntRange(0, 65535))
@click.option("--admin-port", default=9080, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--state",
    default=Path(".reelway"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where tasks, keys and the store live; a second start finds them again.",
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.01, 1000),
    help="How much faster than life the simulated upstreams render.",
)
@click.option("--config", "config_path", type=click.Path(path_type=Path), hidden=True)
@json_option
def demo(
    host: str,
    port: int,
    admin_port: int,
    state: Path,
    speed: float,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Everything at once: store, simulated upstreams, gateway, a key, and examples to paste."""
    if config_path is not None:
        raise click.ClickException("The demo writes its own configuration; leave --config out.")
    run(run_demo(DemoOptions(host, port, admin_port, state, speed, as_json)))


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """The simulated upstreams alone (see `reelway simulate -- --help`)."""
    from proxy.sim.__main__ import main as simulate_main

    raise SystemExit(simulate_main(list(arguments)))


# ---------------------------------------------------------------- configuration


@main.command()
@config_option
@json_option
def check(config_path: Path | None, as_json: bool) -> None:
    """Read the configuration and report every mistake at once; exit 0 or 1."""
    path = config_path or (Path("config.toml") if Path("config.toml").exists() else None)
    problems: list[str] = []
    try:
        config = load(path, os.environ, PROVIDERS)
    except ConfigErrors as errors:
        problems = [str(problem) for problem in errors.problems]
    except OSError as error:
        problems = [f"{path}:0: file: {error.strerror}"]
    if as_json:
        say_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems:
            click.echo(problem, err=True)
        if not problems:
            what = path or "the defaults"
            counts = f"{len(config.upstreams)} upstreams, {len(config.routes)} routes"
            click.echo(f"{what}: ok ({counts})")
    raise SystemExit(1 if problems else 0)


@main.command()
@config_option
@json_option
def routes(config_path: Path | None, as_json: bool) -> None:
    """Print the endpoint table and the routing table."""
    config = _load(config_path)
    endpoint_names = ("METHOD", "PATH", "DIALECT", "OPERATION")
    route_names = ("MODEL", "UPSTREAM", "PROVIDER", "UPSTREAM MODEL", "REWRITES")
    endpoints = EndpointTable(DIALECTS).rows()
    rows = describe_routes(config.routes, config.upstreams)
    if as_json:
        say_json(
            {
                "endpoints": _named(endpoint_names, endpoints),
                "routes": _named(route_names, rows),
            }
        )
        return
    click.echo(columns(endpoint_names, endpoints))
    click.echo()
    if rows:
        click.echo(columns(route_names, rows))
    else:
        click.echo(
            "There are no routes yet: add [[upstreams]] and [[routes]] to the configuration."
        )


# ---------------------------------------------------------------- tokens


@main.group()
def token() -> None:
    """The keys clients hold."""


@token.command("create")
@click.option("--name", required=True, help="Who or what it is for.")
@click.option("--owner", help="The tenant it belongs to (default: one of its own).")
@click.option("--models", default="", help="Which models it may use: names and globs, by comma.")
@click.option("--budget", help="What it may spend in all, in [billing] currency: 4.00.")
@click.option("--rpm", type=click.IntRange(1), help="Requests per minute.")
@click.option("--max-in-flight", type=click.IntRange(1), help="Tasks under way at once.")
@click.option("--expires", help="For how long it is good: 30d, 12h, 90m.")
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
    config_path: Path | None,
    as_json: bool,
) -> None:
    """Make a key and show its secrets, once."""
    config = _load(config_path)
    wanted = NewToken(
        name=name,
        owner=owner,
        models=tuple(glob.strip() for glob in models.split(",") if glob.strip()),
        budget_micro=None if budget is None else _micro(budget),
        rpm=rpm,
        max_in_flight=max_in_flight,
        expires_s=None if expires is None else _seconds(expires),
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

    _with_store(config, go)


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

    _with_store(_load(config_path), go)


@token.command("show")
@click.argument("token_id", metavar="ID")
@config_option
@json_option
def token_show(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """What is known of one key; never its secrets."""

    async def go(store: Store) -> None:
        record = await store.tokens.get(token_id)
        if record is None:
            raise click.ClickException(f"no token {token_id}; `reelway token list` shows them")
        if as_json:
            say_json(_public(record))
            return
        for key, value in _public(record).items():
            click.echo(f"{key:<16}{value}")

    _with_store(_load(config_path), go)


@token.command("revoke")
@click.argument("token_id", metavar="ID")
@config_option
@json_option
def token_revoke(token_id: str, config_path: Path | None, as_json: bool) -> None:
    """Refuse a key from now on, and every link it handed out."""

    async def go(store: Store) -> None:
        if not await store.tokens.revoke(token_id, int(time.time() * 1000)):
            raise click.ClickException(f"no token {token_id}; `reelway token list` shows them")
        if as_json:
            say_json({"id": token_id, "revoked": True})
        else:
            click.echo(f"{token_id} is revoked")

    _with_store(_load(config_path), go)


# ---------------------------------------------------------------- what they share


def _named(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    keys = [name.lower().replace(" ", "_") for name in names]
    return [dict(zip(keys, row, strict=True)) for row in rows]


def _with_store(config: Config, action: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    async def go() -> None:
        store = await Store.open(
            config.redis.url,
            state_dir=config.server.state_dir,
            timeout_s=config.redis.timeout_s,
        )
        try:
            await action(store)
        finally:
            await store.close()

    run(go())


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
    try:
        amount = Decimal(text) * _MICRO
    except InvalidOperation:
        amount = Decimal(-1)
    if amount < 0 or amount != amount.to_integral_value():
        raise click.BadParameter(
            f"'{text}' is not an amount; write it like 4.00, at most six decimals",
            param_hint="--budget",
        )
    return int(amount)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if match is None or int(match[1]) == 0:
        raise click.BadParameter(
            f"'{text}' is not a time; write it like 30d, 12h or 90m", param_hint="--expires"
        )
    return int(match[1]) * _UNITS[match[2]]


def _warn_of_unmatched(config: Config, globs: tuple[str, ...]) -> None:
    for glob in globs:
        if not any(
            fnmatchcase(route.model, glob) or fnmatchcase(glob, route.model)
            for route in config.routes
        ):
            click.echo(f"warning: no route serves a model like '{glob}'", err=True)


if __name__ == "__main__":
    sys.exit(main())
