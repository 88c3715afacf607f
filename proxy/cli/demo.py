"""`reelway demo`: everything in one command, nothing outside one state directory.

It starts the simulated upstreams as a child (which dies with us), writes a configuration that
points at them, serves it, and prints examples that work as printed.

Rule: whoever runs a demo on a state directory holds an exclusive `flock` on its `demo.lock`. The
store's own lock comes too late: by then a second demo has overwritten the configuration.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from string import Template

import orjson

from proxy.config import load
from proxy.gateway.listener import address_of
from proxy.providers import PROVIDERS
from proxy.server.bootstrap import CannotServe, listen_on, make_state_dir, signing_secrets
from proxy.server.worker import Server
from proxy.signing import parse_token, secret_key, token_hash
from proxy.store import Store
from proxy.telemetry.logs import capture, make_logger
from proxy.tokens import NewToken, create_token

SIM_START_S = 15.0
SIM_STOP_S = 5.0
RENDER_S = (9, 21)  # what the simulated upstreams need at --speed 1


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """`speed`: how much faster than life the simulated upstreams render; above 0."""

    host: str
    port: int
    admin_port: int
    state: Path
    speed: float
    as_json: bool


async def run_demo(options: DemoOptions) -> None:
    """Serve until a signal. CannotServe, StoreUnusable or OSError: nothing is left running."""
    state = options.state.absolute()
    make_state_dir(state, "--state")
    with ExitStack() as held:
        held.enter_context(_the_only_demo(state))
        sockets = (
            held.enter_context(_listen(options.host, options.port, "--port")),
            held.enter_context(_listen(options.host, options.admin_port, "--admin-port")),
        )
        kept = _kept(state / "demo.json")
        log_file = held.enter_context((state / "demo.log").open("a"))
        async with _simulator(options, state) as (child, sim):
            path = state / "config.toml"
            listen, admin_listen = (address_of(sock) for sock in sockets)
            text = _config_text(options, sim, kept, listen, admin_listen)
            _write_private(path, text.encode())
            config = load(path, {}, PROVIDERS)
            log = make_logger(log_file)
            capture(log)
            async with Server(config, log, sockets=sockets) as server:
                facts = await _facts(server, kept, sim)
                _write_private(state / "demo.json", orjson.dumps(kept))
                await _leave_if_stopped()
                _print(options, state, facts)
                await _serve(server, child)


async def _leave_if_stopped() -> None:
    """Raise CancelledError when a signal came while the demo started, even if a library has
    swallowed it: after a stop was asked for, nobody is told that the demo is ready."""
    await asyncio.sleep(0)
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


@contextmanager
def _the_only_demo(state: Path) -> Iterator[None]:
    """The kernel lets go of the lock however we end: no child inherits its descriptor."""
    with (state / "demo.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CannotServe(
                f"a demo is running on the state directory {state} already (process "
                f"{file.read().strip() or 'unknown'}); end it, or choose another --state"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _listen(host: str, port: int, setting: str) -> socket.socket:
    return listen_on(f"[{host}]:{port}" if ":" in host else f"{host}:{port}", setting)


async def _serve(server: Server, child: asyncio.subprocess.Process) -> None:
    """`server.run()`; CannotServe when the simulated upstreams end before it does."""
    serving = asyncio.create_task(server.run())
    leaving = asyncio.create_task(child.wait())
    try:
        await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            raise CannotServe(
                f"the simulated upstreams ended (status {child.returncode}); start the demo again"
            )
        serving.result()
    finally:
        serving.cancel()
        leaving.cancel()
        await asyncio.wait({serving, leaving})


def _kept(path: Path) -> dict[str, str]:
    """What a demo keeps from start to start: its admin token and its key."""
    try:
        found = orjson.loads(path.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        found = {}
    kept = {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}
    kept.setdefault("admin_token", secrets.token_urlsafe(24))
    return kept


def _write_private(path: Path, data: bytes) -> None:
    """Whole or not at all, and readable by its owner only."""
    draft = path.with_suffix(".new")
    draft.touch(mode=0o600)
    draft.write_bytes(data)
    draft.replace(path)


async def _facts(server: Server, kept: dict[str, str], sim: dict[str, object]) -> dict[str, object]:
    """The members of `demo --json`."""
    secret = signing_secrets(server.config)[0]
    if not await _still_known(server.store, kept.get("token", "")):
        made = await create_token(
            server.store, secret, NewToken(name="demo"), secrets.token_bytes, time.time
        )
        kept["token"] = made.token
    parsed = parse_token(kept["token"])
    assert parsed is not None
    record = await server.store.tokens.get(parsed[0])
    assert record is not None
    return {
        "url": server.public_url,
        "admin_url": server.admin_url,
        "token": kept["token"],
        "access_key": record.id,
        "secret_key": secret_key(secret, record.id, record.generation),
        "admin_token": kept["admin_token"],
        "sim_url": sim["control_url"],
        "pid": os.getpid(),
    }


async def _still_known(store: Store, token: str) -> bool:
    parsed = parse_token(token)
    record = await store.tokens.get(parsed[0]) if parsed else None
    return (
        parsed is not None
        and record is not None
        and record.revoked_ms is None
        and record.secret_sha256 == token_hash(parsed[1])
    )


def _config_text(
    options: DemoOptions,
    sim: dict[str, object],
    kept: dict[str, str],
    listen: str,
    admin_listen: str,
) -> str:
    return _template("demo.toml").substitute(
        listen=listen,
        public_url=f"http://{_reachable(listen)}",
        admin_listen=admin_listen,
        admin_token=kept["admin_token"],
        poll_first_s=max(0.05, 1 / options.speed),
        poll_interval_s=max(0.1, 1.5 / options.speed),
        poll_max_s=max(0.2, 5 / options.speed),
        cdn=str(sim["cdn_url"]).removeprefix("http://").rstrip("/"),
        **_sim_values(sim),
    )


def _sim_values(sim: dict[str, object]) -> dict[str, str]:
    """What demo.toml needs of each simulated vendor: `$<vendor>_url`, `$<vendor>_<key>`."""
    values = {name: str(value) for name, value in sim.items() if name.endswith("_url")}
    credentials = sim["credentials"]
    assert isinstance(credentials, dict)
    for vendor, keys in credentials.items():
        values |= {f"{vendor}_{name}": str(key) for name, key in keys.items()}
    return values


def _template(name: str) -> Template:
    return Template((resources.files("proxy.cli") / name).read_text("utf-8"))


def _reachable(listen: str) -> str:
    """An address a client on this machine can use when we listen on all of them."""
    return listen.replace("0.0.0.0:", "127.0.0.1:").replace("[::]:", "[::1]:")


@asynccontextmanager
async def _simulator(
    options: DemoOptions, state: Path
) -> AsyncIterator[tuple[asyncio.subprocess.Process, dict[str, object]]]:
    """The simulated upstreams as a child process, and what it announces of itself."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "proxy.sim", "--json", "--die-with-parent"),
        *("--speed", str(options.speed), "--journal", str(state / "simulated-tasks.jsonl")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C in a terminal is for us; we end it after our drain
    )
    try:
        yield child, await _announced(child)
    finally:
        if child.returncode is None:
            child.terminate()
            try:
                async with asyncio.timeout(SIM_STOP_S):
                    await child.wait()
            except TimeoutError:
                child.kill()
                await child.wait()


async def _announced(child: asyncio.subprocess.Process) -> dict[str, object]:
    assert child.stdout is not None
    try:
        async with asyncio.timeout(SIM_START_S):
            line = await child.stdout.readline()
    except TimeoutError:
        raise CannotServe(
            f"the simulated upstreams did not start within {SIM_START_S:g} s; is this machine busy?"
        ) from None
    if not line:
        raise CannotServe("the simulated upstreams did not start; they said why above")
    told: dict[str, object] = orjson.loads(line)
    return told


def _print(options: DemoOptions, state: Path, facts: dict[str, object]) -> None:
    text = json.dumps(facts) if options.as_json else _examples(options, state, facts)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _examples(options: DemoOptions, state: Path, facts: dict[str, object]) -> str:
    examples = _template("demo_examples.txt")
    sdk = re.search(r"^from (\w+) import", examples.template, re.MULTILINE)
    assert sdk is not None
    python = shlex.quote(sys.executable)
    has_sdk = find_spec(sdk[1]) is not None
    has_curl = shutil.which("curl") is not None
    shortest, longest = (f"{seconds / options.speed:.2g}" for seconds in RENDER_S)
    return examples.substitute(
        state=state,
        render_s=f"{shortest} to {longest} s",
        reelway=f"{python} -m proxy",
        config=shlex.quote(str(state / "config.toml")),
        python=python if has_sdk else "python3",
        sdk_hint="" if has_sdk else f" (pip install {sdk[1]})",
        curl_hint="" if has_curl else "\n1 and 3 need curl, which is not installed here.",
        **facts,
    )
