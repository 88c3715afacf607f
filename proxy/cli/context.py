"""What the commands share: how they run, read their configuration, reach the store, and say it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from proxy.cli.plain import plain, plain_json
from proxy.config import Config, load
from proxy.config.source import ConfigErrors
from proxy.config.toml_lines import Loc
from proxy.errors import ProxyError
from proxy.providers import PROVIDERS
from proxy.server.bootstrap import CannotServe, make_state_dir, new_event_loop
from proxy.server.embedded_store import open_store
from proxy.store import Store, StoreDown, StoreFault, StoreFull, StoreUnusable

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a command's loop; what an operator can mend ends in one line, not a traceback.

    SIGTERM and Ctrl-C cancel the command, and it ends what it has started; a second signal does
    not wait for that. Nothing here goes by way of SIGINT: a shell script starts its background
    jobs with SIGINT ignored, and they have to obey SIGTERM all the same.
    """
    stop: signal.Signals | None = None
    task: asyncio.Task[T] | None = None

    def stopped(number: int, _frame: object) -> None:
        nonlocal stop
        if stop is not None:
            raise KeyboardInterrupt
        stop = signal.Signals(number)
        if task is not None:
            task.cancel()
            task.get_loop().call_soon_threadsafe(lambda: None)  # it may be waiting for I/O

    async def stoppable() -> T:
        nonlocal task
        task = asyncio.current_task()
        if stop is not None and task is not None:  # it came before there was a task
            task.cancel()
        return await main

    handled = [signal.SIGTERM]
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        handled.append(signal.SIGINT)
    before = {number: signal.signal(number, stopped) for number in handled}
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(stoppable())
    except (StoreDown, StoreFull, StoreFault) as error:
        raise click.ClickException(f"[redis] url: {error.reason}") from error
    except (CannotServe, StoreUnusable, ProxyError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise click.ClickException(f"{where}{error.strerror or error}") from error
    except (KeyboardInterrupt, asyncio.CancelledError):
        if stop is None:
            raise
        raise SystemExit(128 + stop) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def file_of(path: Path | None) -> Path | None:
    """The named file, else ./config.toml where there is one, else None: the defaults."""
    if path is None and Path("config.toml").exists():
        return Path("config.toml")
    return path


# What a command on the store needs of a configuration, and one that derives keys beside that.
FOR_STORE: Final[tuple[Loc, ...]] = (("redis",), ("server", "state_dir"))
FOR_KEYS: Final[tuple[Loc, ...]] = (*FOR_STORE, ("server", "secrets"))


def read_config(path: Path | None, needs: Sequence[Loc] | None = None) -> Config:
    """Read the configuration in `file_of`. ConfigErrors."""
    return load(file_of(path), os.environ, PROVIDERS, needs=needs)


def load_config(path: Path | None, needs: Sequence[Loc] | None = None) -> Config:
    """`read_config` for a command that cannot go on without: it prints all mistakes, exit 1.

    With `needs` it goes on where these places are sound, and says on stderr what it passed over:
    in an emergency a mistake elsewhere in the file must not keep an operator from a key or a task.
    """
    try:
        config = read_config(path, needs)
    except ConfigErrors as errors:
        for problem in errors.problems:
            say(problem, err=True)
        raise SystemExit(1) from None
    for problem in config.passed_over:
        say(f"warning: {problem}", err=True)
    if config.passed_over:
        mistakes = counted(len(config.passed_over), "mistake")
        say(f"Going on without what {mistakes} above would set.", err=True)
    return config


def config_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path, dir_okay=False),
        help="The configuration file (default: ./config.toml).",
    )(command)


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")(command)


def no_config_option(why: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """For a command without a configuration: --config is refused by name, not as unknown."""

    def refuse(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise click.ClickException(f"{why}; leave --config out")

    return click.option("--config", hidden=True, expose_value=False, callback=refuse)


def when_ms(ms: int) -> str:
    """A moment as 2026-11-23T10:00:00.123Z."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def counted(number: int, one: str, many: str = "") -> str:
    """`1 task`, `2 tasks`."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def say(text: object = "", *, err: bool = False) -> None:
    """Print lines of text. What stands in a line is shown, never obeyed (see `plain`); a value
    that may hold line ends goes through `plain` before it is put into its line."""
    click.echo("\n".join(map(plain, str(text).split("\n"))), err=err)


def say_json(value: object) -> None:
    click.echo(plain_json(json.dumps(value, ensure_ascii=False)))


def with_store(config: Config, action: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    """Run `action` on the configured store, beside a gateway or alone. On stderr it is said which
    store that is when nobody has named one: an empty one looks like lost keys and tasks."""
    if config.path is None:
        say(
            f"There is no ./config.toml: this is the store in {config.server.state_dir}; "
            "--config FILE names another.",
            err=True,
        )

    async def go() -> None:
        if config.redis.url == "embedded":
            make_state_dir(config.server.state_dir, "[server] state_dir")
        async with open_store(
            config.redis.url, config.server.state_dir, timeout_s=config.redis.timeout_s
        ) as store:
            try:
                await action(store)
                sys.stdout.flush()
            except BrokenPipeError as error:
                raise _EnoughError from error

    try:
        run(go())
    except _EnoughError:
        # What is left in the buffer has nobody to read it, and the interpreter flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(0) from None


class _EnoughError(Exception):
    """Whoever reads our output (`| head`) has closed it: no mistake of anybody's."""


class InOrder(click.Group):
    """Lists its commands in the order they are written down, the first to need first."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)
