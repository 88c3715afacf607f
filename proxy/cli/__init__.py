"""`reelway`: the commands. Each says what it did; `--json` says it to a program."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import structlog
from click.shell_completion import get_completion_class

from proxy import __version__
from proxy.cli.context import (
    InOrder,
    config_option,
    counted,
    json_option,
    load_config,
    no_config_option,
    read_config,
    run,
    say,
    say_json,
)
from proxy.cli.credentials import credential
from proxy.cli.demo import DemoOptions, run_demo
from proxy.cli.doctor import doctor
from proxy.cli.health import health
from proxy.cli.ledger import ledger, usage
from proxy.cli.models import models
from proxy.cli.owners import owner
from proxy.cli.tables import columns, describe_routes, folded
from proxy.cli.tasks import task
from proxy.cli.tokens import token
from proxy.cli.webhooks import webhook
from proxy.config import Config
from proxy.config.source import ConfigErrors
from proxy.dialects import DIALECTS
from proxy.gateway import aiohttp_internals
from proxy.gateway.endpoints import EndpointTable
from proxy.server import systemd
from proxy.server.bootstrap import EARLY, hold
from proxy.server.supervisor import Supervisor, Upgrade, handed_over
from proxy.server.worker import Server
from proxy.server.worker_process import inherited_spec, run_worker
from proxy.telemetry.logs import capture, make_logger
from proxy.telemetry.tracing import missing


@click.group(cls=InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="reelway")
def main() -> None:
    """Reelway: the gateway that keeps video-generation code working.

    Begin with `demo`, which needs no configuration.
    """


# ---------------------------------------------------------------- running


def _check_aiohttp() -> None:
    try:
        aiohttp_internals.check()
    except aiohttp_internals.UnusableAiohttp as error:
        raise click.ClickException(str(error)) from error


def _finite(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if math.isnan(value):  # it passes every range
        raise click.BadParameter("nan is not a number.")
    return value


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    default=8080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="The port for clients; 0 chooses a free one.",
)
@click.option(
    "--admin-port",
    default=9080,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="The port for console, health and metrics; 0 chooses a free one.",
)
@click.option(
    "--state",
    default=Path(".reelway"),
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The directory of tasks, keys and the store; a second start uses it again.",
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0.01, 1000),
    callback=_finite,
    help="Speed of the simulated renders: 2 is twice as fast.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one line of JSON when ready, no examples."
)
@no_config_option("the demo writes a configuration of its own, into --state")
def demo(host: str, port: int, admin_port: int, state: Path, speed: float, as_json: bool) -> None:
    """Start a gateway with simulated upstreams and print examples.

    It runs a store, the simulated upstreams and the gateway until Ctrl-C, and creates an API key.
    """
    _check_aiohttp()
    run(run_demo(DemoOptions(host, port, admin_port, state, speed, as_json)))


@main.command()
@config_option
def serve(config_path: Path | None) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain.

    SIGHUP reads the configuration again. With [server] workers = 2 or more a supervisor keeps as
    many processes going, and SIGUSR2 upgrades them to the program now installed.
    Requests and downloads under way may finish, for [timeouts] drain_s at most; a second signal
    cuts them. The log is one JSON document a line, on standard error.
    """
    _check_aiohttp()
    hold(EARLY)
    log = make_logger()
    capture(log)
    spec = inherited_spec(os.environ)
    if spec is not None:
        run(run_worker(spec, log))
        return
    config = load_config(config_path)
    try:
        run(_serve(config, log))
    except Upgrade as upgrade:
        upgrade.execute()


async def _serve(config: Config, log: structlog.stdlib.BoundLogger) -> None:
    """One process, or a supervisor and its workers; the service manager is told either way."""
    untraced = missing(config.tracing)
    if untraced is not None:
        log.error(untraced)
    given, left = systemd.inherited(), handed_over(os.environ)
    serving: Server | Supervisor
    if config.server.workers == 1 and left is None:
        serving = Server(config, log, sockets=(given.get("web"), given.get("admin")))
    else:
        serving = Supervisor(config, log, given, left)
    async with serving:
        if not config.routes:
            where = {} if config.path is None else {"config": str(config.path)}
            log.warning("no routes: every model is unknown", **where)
        await serving.run()


# ---------------------------------------------------------------- configuration


def _named(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[dict[str, str]]:
    keys = [name.lower().replace(" ", "_") for name in names]
    return [dict(zip(keys, row, strict=True)) for row in rows]


@main.command()
@config_option
@json_option
def check(config_path: Path | None, as_json: bool) -> None:
    """Check the configuration and report every mistake.

    Mistakes are printed as path:line: key: message. Exit 0 without a mistake, else 1. Warnings
    are not mistakes.
    """
    problems: list[str] = []
    warnings: list[str] = []
    try:
        config = read_config(config_path)
    except ConfigErrors as errors:
        problems = [str(problem) for problem in errors.problems]
    else:
        untraced = missing(config.tracing)
        if untraced is not None:
            where = config.origins["tracing.endpoint"]
            warnings = [f"{where}: tracing.endpoint: warning: {untraced}"]
    if as_json:
        say_json({"ok": not problems, "problems": problems, "warnings": warnings})
        raise SystemExit(1 if problems else 0)
    for line in (*problems, *warnings):
        say(line, err=True)
    if not problems:
        what = config.path or "no config.toml here, the defaults"
        upstreams = counted(len(config.upstreams), "upstream")
        say(f"{what}: ok ({upstreams}, {counted(len(config.routes), 'route')})")
    raise SystemExit(1 if problems else 0)


@main.group()
def config() -> None:
    """Show the configuration in force."""


@config.command("show")
@click.option("--origin", is_flag=True, help="Also show where each value comes from.")
@config_option
@json_option
def config_show(origin: bool, config_path: Path | None, as_json: bool) -> None:
    """Show every setting, with secrets hidden."""
    config = load_config(config_path)
    rows = config.rows()
    if as_json:
        say_json([{"key": key, "value": value, "origin": where} for key, value, where in rows])
        return
    if not origin:
        say(folded(("KEY", "VALUE"), [row[:2] for row in rows], at=1))
        return
    # The file once, whole: its path in every row would leave no room for the values.
    in_file = f"{config.path}:"
    told = [
        (key, value, f"line {where.removeprefix(in_file)}" if where.startswith(in_file) else where)
        for key, value, where in rows
    ]
    say(config.path.absolute() if config.path else "no config.toml here, the defaults")
    say(folded(("KEY", "VALUE", "ORIGIN"), told, at=1))


@main.command()
@click.option(
    "--endpoints", "with_endpoints", is_flag=True, help="Also list the endpoints for clients."
)
@config_option
@json_option
def routes(with_endpoints: bool, config_path: Path | None, as_json: bool) -> None:
    """List routes: which model goes to which upstream, at what price.

    --json includes the endpoints.
    """
    config = load_config(config_path)
    currency = config.billing.currency
    endpoint_names = ("METHOD", "PATH", "DIALECT", "OPERATION")
    route_names = ("MODEL", "UPSTREAM", "PROVIDER", "UPSTREAM MODEL", "PRICE", "QUEUE", "REWRITES")
    endpoints = EndpointTable(DIALECTS).rows()
    rows = describe_routes(config.routes, config.upstreams)
    if as_json:
        say_json(
            {
                "endpoints": _named(endpoint_names, endpoints),
                "routes": [
                    {**named, "price": dict(route.price), "queue": route.queue}
                    for named, route in zip(_named(route_names, rows), config.routes, strict=True)
                ],
            }
        )
        return
    if rows:
        priced = [f"PRICE {currency}" if name == "PRICE" else name for name in route_names]
        say(columns(priced, rows))
    else:
        say("There are no routes yet: add [[upstreams]] and [[routes]] to the configuration.")
    say()
    if with_endpoints:
        say(columns(endpoint_names, endpoints))
    else:
        say(f"{len(endpoints)} endpoints: `reelway routes --endpoints` lists them.")


main.add_command(models)


# ---------------------------------------------------------------- others


main.add_command(doctor)
main.add_command(health)
main.add_command(token)
main.add_command(owner)
main.add_command(usage)
main.add_command(ledger)
main.add_command(task)
main.add_command(webhook)
main.add_command(credential)


@main.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@no_config_option("the simulated upstreams have no configuration file")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(arguments: tuple[str, ...]) -> None:
    """Start the simulated upstreams alone; see `simulate --help`."""
    from proxy.sim.__main__ import main as simulate_main

    raise SystemExit(simulate_main(list(arguments), "reelway simulate"))


@main.command()
@no_config_option("what can be completed does not depend on it")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash: add to ~/.bashrc:
      eval "$(reelway completion bash)"
    zsh: add to ~/.zshrc:
      eval "$(reelway completion zsh)"
    fish, once:
      reelway completion fish > ~/.config/fish/completions/reelway.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(main, {}, "reelway", "_REELWAY_COMPLETE").source())


if __name__ == "__main__":
    sys.exit(main())
