"""Workers that can be killed: `reelway serve` as processes of their own, over one Valkey and the
simulated upstreams, and a relay in front of the Valkey that stops a worker at any of its writes.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any, Literal

from aiohttp import ClientSession, ClientTimeout

from proxy.model import Task
from proxy.server.embedded_store import Embedded
from proxy.sim import Settings, Simulator
from proxy.store import Store, keys
from proxy.store.pipeline import Script
from proxy.tokens import MadeToken, NewToken, create_token
from tests.rig.eventually import read_until
from tests.rig.valkey import bundled_server

GUARD_S = 40.0  # only a hang gets here
SECRET = "a signing secret of at least 32 bytes"
ROOT = Path(__file__).parents[2]

MODELS: Mapping[str, str] = {
    "openai": "sora-2",
    "kling": "kling-v2-6",
    "jimeng": "jimeng_t2v_v30",
}

POLL_FAST = """\
poll_first_s = 0.02
poll_interval_s = 0.03
poll_max_s = 0.05
"""
CONFIG = Template("""\
[server]
listen = "127.0.0.1:0"
state_dir = "$state_dir"
secrets = ["$secret"]
[admin]
listen = "127.0.0.1:0"
[redis]
url = "$redis"
timeout_s = 2  # of a busy machine
$redis_options
[timeouts]
$timeouts
[[upstreams]]
name = "sim-openai"
provider = "openai"
base_url = "$openai_url"
credentials = [{ name = "a", api_key = "sk-sim" }]
[[upstreams]]
name = "sim-kling"
provider = "kling"
base_url = "$kling_url"
result_hosts = ["$cdn"]
credentials = [{ name = "a", access_key = "$kling_ak", secret_key = "$kling_sk" }]
[[upstreams]]
name = "sim-jimeng"
provider = "jimeng"
base_url = "$jimeng_url"
result_hosts = ["$cdn"]
credentials = [{ name = "a", access_key = "$jimeng_ak", secret_key = "$jimeng_sk" }]
[[routes]]
model = "sora-2"
upstream = "sim-openai"
[[routes]]
model = "kling-v2-6"
upstream = "sim-kling"
[[routes]]
model = "jimeng_t2v_v30"
upstream = "sim-jimeng"
""")


# ---------------------------------------------------------------- one worker


@dataclass
class Worker:
    """One `reelway serve`. `log` is what it has written so far."""

    process: asyncio.subprocess.Process
    url: str = ""
    admin_url: str = ""
    log: list[dict[str, Any]] = field(default_factory=list)
    _reader: asyncio.Task[None] | None = None
    _came: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    async def start(cls, config: Path, under: Sequence[str] = ()) -> Worker:
        """`under` is a program that runs it, and leaves it its pid."""
        process = await asyncio.create_subprocess_exec(
            *under,
            *(sys.executable, "-m", "proxy", "serve", "--config", str(config)),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1024 * 1024,
        )
        worker = cls(process)
        worker._reader = asyncio.create_task(worker._read())
        try:
            serving = await worker.said(lambda line: line["event"] == "serving")
        except BaseException:
            await worker.kill()
            raise
        worker.url, worker.admin_url = serving["url"], serving["admin_url"]
        return worker

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for raw in self.process.stderr:
            try:
                line = json.loads(raw)
            except ValueError:
                line = {"event": raw.decode(errors="replace")}  # a traceback, say
            self.log.append(line)
            self._came.set()
        self._came.set()

    async def said(self, predicate: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first line of its log the predicate holds for, waited for."""
        async with asyncio.timeout(GUARD_S):
            while True:
                for line in self.log:
                    if predicate(line):
                        return line
                assert self._reader is not None
                assert not self._reader.done(), f"it ended: {self.log[-5:]}"
                self._came.clear()
                await self._came.wait()

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its access lines."""
        return [line for line in self.log if line["event"] == "request"]

    async def accounted(self, count: int) -> list[dict[str, Any]]:
        """Its access lines, once there are so many."""
        await self.said(lambda _: len(self.lines) >= count)
        return self.lines

    async def kill(self) -> None:
        """kill -9. Harmless when it has ended."""
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
        if self._reader is not None:
            await self._reader

    async def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = await self.process.wait()
        assert self._reader is not None
        await self._reader
        return status


def children(pid: int) -> list[int]:
    """The workers of a supervisor, by pid and the store where it has started that, the oldest
    first."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(word) for word in text.split()]


# ---------------------------------------------------------------- between it and its store


class Gate:
    """Stops what passes the relay and has `pattern` in it. Held "before": the store has not
    heard of it. Held "after": the store has done it, and the worker is not told."""

    def __init__(self, pattern: bytes, hold: Literal["before", "after"]) -> None:
        self.pattern = pattern
        self.hold = hold
        self.seen = 0
        self._is_cut = False
        self._opened = asyncio.Event()
        self._changed = asyncio.Event()

    def count(self, chunk: bytes) -> bool:
        found = 0 if self._opened.is_set() else chunk.count(self.pattern)
        self.seen += found
        self._changed.set()
        return found > 0

    async def reached(self, times: int = 1) -> None:
        async with asyncio.timeout(GUARD_S):
            while self.seen < times:
                self._changed.clear()
                await self._changed.wait()

    def open(self) -> None:
        """What is held goes on, and nothing is held from now on."""
        self._opened.set()

    def cut(self) -> None:
        """What is held is lost, with its connection: one of its ends is dead."""
        self._is_cut = True
        self._opened.set()

    async def passed(self) -> bool:
        """Wait until it is opened or cut; False when it was cut."""
        await self._opened.wait()
        return not self._is_cut


class Relay:
    """A unix socket in front of a store's. It breaks with the store, as the store's own would."""

    def __init__(self, folder: Path, target: Path) -> None:
        self.path = folder / "relay.sock"
        self.target = target
        self.gates: list[Gate] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.path}"

    def gate(self, pattern: bytes, hold: Literal["before", "after"]) -> Gate:
        gate = Gate(pattern, hold)
        self.gates.append(gate)
        return gate

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_unix_server(self._accept, self.path)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        job = asyncio.create_task(self._carry(reader, writer))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        muted: list[Gate] = []
        try:
            store_reader, store_writer = await asyncio.open_unix_connection(self.target)
        except OSError:
            writer.close()
            return

        async def ask() -> None:
            while chunk := await reader.read(1 << 20):
                for gate in self.gates:
                    if gate.count(chunk):
                        if gate.hold == "before":
                            if not await gate.passed():
                                return
                        else:
                            muted.append(gate)
                store_writer.write(chunk)
                await store_writer.drain()

        async def answer() -> None:
            while chunk := await store_reader.read(1 << 20):
                for gate in muted:
                    if not await gate.passed():
                        return
                muted.clear()
                writer.write(chunk)
                await writer.drain()

        ways = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, store_writer):
                end.close()


# ---------------------------------------------------------------- all of it


@dataclass
class Site:
    """The simulator, one Valkey, and the workers a test starts. `store` is the test's own look
    into the Valkey, past the relay; `relayed` workers go through it."""

    sim: Simulator
    valkey: Embedded
    relay: Relay
    store: Store
    made: MadeToken
    client: ClientSession
    config: Path
    stack: AsyncExitStack

    async def worker(self) -> Worker:
        worker = await Worker.start(self.config)
        self.stack.push_async_callback(worker.kill)
        return worker

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.made.token}"}

    async def post(
        self, worker: Worker, service: str, key: str | None = None, **more: object
    ) -> tuple[int, dict[str, Any]]:
        """A create for this provider; the status and the body."""
        headers = self.bearer if key is None else {**self.bearer, "Idempotency-Key": key}
        body = {"model": MODELS[service], "prompt": f"a cat by {service}", **more}
        url = worker.url + "/v1/videos"
        async with self.client.post(url, json=body, headers=headers) as reply:
            return reply.status, await reply.json()

    async def get(self, worker: Worker, task_id: str) -> dict[str, Any]:
        url = f"{worker.url}/v1/videos/{task_id}"
        async with self.client.get(url, headers=self.bearer) as reply:
            assert reply.status == 200, await reply.text()
            video: dict[str, Any] = await reply.json()
            return video

    async def ended(self, worker: Worker, task_id: str) -> dict[str, Any]:
        """The Video object of a task that has ended, waited for."""
        return await read_until(
            lambda: self.get(worker, task_id),
            lambda video: video["status"] in ("completed", "failed"),
        )

    async def tasks(self) -> list[Task]:
        """Every task of the test's token, the oldest first, deleted ones too."""
        owner = keys.owner_index(self.made.record.owner)
        index = await self.store.batch.call("ZRANGE", owner, 0, -1)
        assert isinstance(index, list)
        ids = [name.decode() for name in index if isinstance(name, bytes)]
        return list((await self.store.tasks.get_many(ids)).values())

    async def events(self, task_id: str) -> list[str]:
        """The task's time line, in words."""
        return [entry.event for entry in await self.store.tasks.time_line(task_id)]

    def renders(self) -> dict[str, int]:
        return {service: self.sim.renders(service) for service in MODELS}

    def submits(self) -> dict[str, int]:
        return {service: self.sim.submits(service) for service in MODELS}


@asynccontextmanager
async def open_site(
    folder: Path,
    *,
    timeouts: str = "",
    redis_options: str = "",
    sim: Mapping[str, Any] | None = None,
    relayed: bool = False,
    redis: str | None = None,
) -> AsyncIterator[Site]:
    """`redis` is another store's URL than the site's own Valkey."""
    async with AsyncExitStack() as stack:
        settings = Settings(**{"speed": 500, "seed": 1, **(sim or {})})
        simulator = await stack.enter_async_context(Simulator(settings))
        valkey = await Embedded.start(folder / "valkey", binary=bundled_server())
        stack.push_async_callback(valkey.stop)
        relay = await stack.enter_async_context(Relay(folder, valkey.socket))
        url = redis or (relay.url if relayed else valkey.url)
        store = await Store.open(redis or valkey.url, timeout_s=GUARD_S)
        stack.push_async_callback(store.close)
        await load_scripts(store)
        wanted = NewToken(name="test")
        made = await create_token(store, SECRET.encode(), wanted, secrets.token_bytes, time.time)
        client = await stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=GUARD_S))
        )
        config = folder / "config.toml"
        told = simulator.describe()
        config.write_text(config_text(folder, told, url, POLL_FAST + timeouts, redis_options))
        yield Site(simulator, valkey, relay, store, made, client, config, stack)


def config_text(
    folder: Path,
    sim: Mapping[str, Any],
    redis: str,
    timeouts: str = POLL_FAST,
    redis_options: str = "",
) -> str:
    """`sim` is what `Simulator.describe` tells."""
    known = sim["credentials"]
    return CONFIG.substitute(
        state_dir=folder / "state",
        secret=SECRET,
        redis=redis,
        redis_options=redis_options,
        timeouts=timeouts,
        openai_url=sim["openai_url"],
        kling_url=sim["kling_url"],
        jimeng_url=sim["jimeng_url"],
        cdn=sim["cdn_url"].removeprefix("http://"),
        kling_ak=known["kling"]["access_key"],
        kling_sk=known["kling"]["secret_key"],
        jimeng_ak=known["jimeng"]["access_key"],
        jimeng_sk=known["jimeng"]["secret_key"],
    )


async def load_scripts(store: Store) -> None:
    """So that the first use of a script is one command, not a refusal and a second one."""
    folder = resources.files("proxy.store") / "scripts"
    for entry in folder.iterdir():
        script = Script.load(entry.name.removesuffix(".lua"))
        await store.batch.call("SCRIPT", "LOAD", script.text)
