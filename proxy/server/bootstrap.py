"""What a process needs before it serves: its directory, secret, sockets, event loop and signals.

Shared by a worker, the supervisor, the demo and the commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import structlog
from aiohttp import web

from proxy.config import Config
from proxy.gateway.listener import address_of, bind
from proxy.server.admin_port import open_port, options_of

T = TypeVar("T")

SECRET_BYTES = 32  # the least a signing secret may have


class CannotServe(Exception):
    """The gateway cannot start, or go on: one sentence that says why and what to change."""


def signing_secrets(config: Config) -> list[bytes]:
    """The secrets every derived key comes from. With the embedded store they may be left out:
    one is made and kept in the state directory."""
    if config.server.secrets:
        return [secret.encode() for secret in config.server.secrets]
    return [kept_secret(config.server.state_dir / "secret")]


def kept_secret(path: Path) -> bytes:
    """The secret in this file, made on first use; readable by its owner only. It appears under
    its name whole, so that two programs starting at once agree on one. CannotServe when what is
    there is too short to be one: keys derived from an emptied file anyone could derive."""
    if not path.exists():
        draft = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_hex(SECRET_BYTES).encode() + b"\n")
                file.flush()
                os.fsync(descriptor)
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            draft.unlink()
    secret = path.read_bytes().strip()
    if len(secret) < SECRET_BYTES:
        raise CannotServe(
            f"{path} holds {len(secret)} bytes, a signing secret has at least {SECRET_BYTES}: put "
            "the one it had back, or delete the file and give out new access keys and links"
        )
    return secret


def lacking(config: Config) -> str | None:
    """Say what the configuration lacks so that a video could be made; None when nothing."""
    if not config.upstreams:
        return "no upstream is configured: add one, [[upstreams]] in the file"
    if not config.routes:
        return "no route is configured: add one, [[routes]] in the file"
    return None


def listen_on(address: str, setting: str) -> socket.socket:
    """`bind`, whose refusal is CannotServe and names the setting to change."""
    return bound(bind, address, setting)


def bound(binding: Callable[[str], T], address: str, setting: str) -> T:
    """`listen_on` by another `binding` than `bind`."""
    try:
        return binding(address)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        if not why.startswith("cannot listen on"):
            why = f"cannot listen on {address}: {why}"
        raise CannotServe(f"{why}; choose another {setting}") from error


def make_state_dir(path: Path, setting: str) -> None:
    """CannotServe when it is not ours to make, which names the setting to change."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(path, os.W_OK | os.X_OK)
        why = "it is not writable"
    except OSError as error:
        usable, why = False, error.strerror or str(error)
    if not usable:
        raise CannotServe(
            f"the state directory {path} cannot be used: {why}; choose another {setting}"
        )


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop where it can be imported, unless REELWAY_LOOP=asyncio."""
    if os.environ.get("REELWAY_LOOP") != "asyncio":
        with contextlib.suppress(ImportError):
            import uvloop

            return uvloop.new_event_loop()
    return asyncio.new_event_loop()


def url_of(address: str) -> str:
    return address if address.startswith("unix:") else f"http://{address}"


async def serve_admin(
    app: web.Application,
    bound: socket.socket,
    stack: contextlib.AsyncExitStack,
    config: Config,
    log: structlog.stdlib.BoundLogger,
) -> str:
    """Answer on the admin port until `stack` ends; returns its URL."""
    port = await open_port(app, bound, options_of(config), log)
    stack.push_async_callback(port.cleanup)
    return url_of(address_of(bound))


# ---------------------------------------------------------------- signals

# Signals that a starting program cannot handle yet, and would die of. Held, they wait.
EARLY: Final = (signal.SIGHUP, signal.SIGUSR2)
# These wait too while a program replaces itself.
ALL: Final = (*EARLY, signal.SIGTERM, signal.SIGINT)


def hold(numbers: Iterable[signal.Signals]) -> None:
    """Keep these signals waiting, also across an `execve`, until `let_go`. A child process
    inherits this: it lets go before it begins (`child_process.die_with_parent`)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def let_go() -> None:
    """Deliver the signals that wait: for when the handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL)
