"""Real redis-servers of a test's own: a primary with replicas and Sentinels, or a Cluster.

On loopback ports the system picked. Each server is a child in a directory of its own and ends
with its block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis import exceptions as rx
from redis.asyncio import Redis

from tests.system.ports import free_ports

WAIT_S = 40.0  # only a hang gets here
SERVICE = "main"
# A failover begins when a primary was silent for so long.
SILENT_MS = 1000
# As docs/redis.md wants it; and a replica is in step at once.
STORE = ("appendonly yes", "maxmemory-policy noeviction", "repl-diskless-sync-delay 0")
_SLOTS = 16_384


class RedisServer:
    """`kill` is SIGKILL. `options` are lines of its configuration, `login` is whom we ask as."""

    def __init__(
        self,
        binary: str,
        folder: Path,
        port: int,
        *options: str,
        mode: str = "",
        login: tuple[str, str] | None = None,
    ) -> None:
        self.port = port
        self._login = login
        self._binary = binary
        self._folder = folder
        self._mode = mode
        self._options = options
        self.process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def __aenter__(self) -> RedisServer:
        self._folder.mkdir()
        await self.start()
        return self

    async def start(self) -> None:
        """Also again after `kill`, with what is on its disk."""
        config = self._folder / "redis.conf"
        lines = (
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self._folder}",
            f"logfile {self._folder / 'redis.log'}",
            'save ""',
            *self._options,
        )
        config.write_text("\n".join([*lines, ""]))
        more = [self._mode] if self._mode else []
        self.process = await asyncio.create_subprocess_exec(self._binary, str(config), *more)
        await self._answers()

    async def __aexit__(self, *_exc: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()

    async def ask(self, *command: str | int) -> Any:
        user, password = self._login or (None, None)
        client = Redis(
            port=self.port,
            username=user,
            password=password,
            decode_responses=True,
            socket_timeout=WAIT_S,
        )
        try:
            return await client.execute_command(*command)  # type: ignore[no-untyped-call]  # in redis-py
        finally:
            await client.aclose()

    async def until(self, is_so: Callable[[Any], bool], *command: str | int) -> None:
        """Ask again and again until the answer is as wished."""
        async with asyncio.timeout(WAIT_S):
            while not is_so(await self.ask(*command)):  # noqa: ASYNC110 -- no event for it
                await asyncio.sleep(0.02)

    async def _answers(self) -> None:
        async with asyncio.timeout(WAIT_S):
            while True:
                with suppress(rx.ConnectionError):
                    await self.ask("PING")
                    return
                assert self.process is not None
                assert self.process.returncode is None, (self._folder / "redis.log").read_text()
                await asyncio.sleep(0.01)


@dataclass(frozen=True, slots=True)
class Sentinels:
    """One primary, its replicas, and the Sentinels that watch them."""

    primary: RedisServer
    replicas: Sequence[RedisServer]
    sentinels: Sequence[RedisServer]

    @property
    def url(self) -> str:
        hosts = ",".join(sentinel.address for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    async def promoted(self) -> RedisServer:
        """The replica that took over, waited for."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for replica in self.replicas:
                    if (await replica.ask("ROLE"))[0] == "master":
                        return replica
                await asyncio.sleep(0.05)


@asynccontextmanager
async def watched_by_sentinels(binary: str, folder: Path) -> AsyncIterator[Sentinels]:
    """One primary, two replicas in step with it, three Sentinels that know of all."""
    ports = free_ports(6)
    async with AsyncExitStack() as stack:

        async def start(name: str, *options: str, mode: str = "") -> RedisServer:
            server = RedisServer(binary, folder / name, ports.pop(), *options, mode=mode)
            return await stack.enter_async_context(server)

        primary = await start("primary", *STORE)
        of = f"replicaof 127.0.0.1 {primary.port}"
        replicas = [await start(f"replica{n}", *STORE, of) for n in range(2)]
        for replica in replicas:
            await replica.until(lambda role: role[3] == "connected", "ROLE")
        watch = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 2",
            f"sentinel down-after-milliseconds {SERVICE} {SILENT_MS}",
            f"sentinel failover-timeout {SERVICE} 10000",
        )
        sentinels = [await start(f"sentinel{n}", *watch, mode="--sentinel") for n in range(3)]
        for sentinel in sentinels:
            await sentinel.until(_knows_all, "SENTINEL MASTER", SERVICE)
        yield Sentinels(primary, replicas, sentinels)


def _knows_all(told: dict[str, Any]) -> bool:
    return (int(told["num-other-sentinels"]), int(told["num-slaves"])) == (2, 2)


@asynccontextmanager
async def cluster(
    binary: str, folder: Path, primaries: int, *, replicas: bool, options: Sequence[str] = ()
) -> AsyncIterator[list[RedisServer]]:
    """A Cluster that is whole: `primaries` nodes that share the slots, then (with `replicas`) as
    many, the first of which is a replica of the first and so on."""
    async with AsyncExitStack() as stack:
        count = primaries * (2 if replicas else 1)
        ports = free_ports(2 * count)
        buses = ports[count:]  # for its peers
        lines = (
            *STORE,
            "cluster-enabled yes",
            f"cluster-node-timeout {SILENT_MS}",
            *options,
        )
        nodes = [
            await stack.enter_async_context(
                RedisServer(binary, folder / f"n{n}", port, *lines, f"cluster-port {bus}")
            )
            for n, (port, bus) in enumerate(zip(ports, buses, strict=False))
        ]
        share = [_SLOTS * n // primaries for n in range(primaries + 1)]
        for node, first, end in zip(nodes[:primaries], share, share[1:], strict=False):
            await node.ask("CLUSTER ADDSLOTSRANGE", first, end - 1)
        for number, node in enumerate(nodes):
            await node.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
            await node.ask("CLUSTER MEET", "127.0.0.1", ports[0], buses[0])
        for node in nodes:
            await node.until(lambda told: len(told) == len(nodes), "CLUSTER NODES")
        for primary, replica in zip(nodes[:primaries], nodes[primaries:], strict=False):
            name = await primary.ask("CLUSTER MYID")
            await replica.until(partial(_has, name), "CLUSTER NODES")
            await replica.ask("CLUSTER REPLICATE", name)
            await replica.until(lambda role: role[:1] + role[3:4] == ["slave", "connected"], "ROLE")
        for node in nodes:
            await node.until(lambda told: told["cluster_state"] == "ok", "CLUSTER INFO")
            if replicas:
                await node.until(lambda told: _replicas(told) == primaries, "CLUSTER NODES")
        yield nodes


def _has(name: str, told: dict[str, Any]) -> bool:
    return any(node["node_id"] == name for node in told.values())


def _replicas(told: dict[str, Any]) -> int:
    return sum("slave" in node["flags"] for node in told.values())
