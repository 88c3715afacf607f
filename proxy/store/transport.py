"""How commands travel to the servers that hold their keys: one server, or a Cluster of them.

Rule: what a Cluster says about itself is used here and nowhere else. redis-py's own cluster
pipeline is not used across nodes: it has no way for a command without a key, sends WAIT to
another node than the write it speaks of, fails a whole batch with one node, and learns of a
failover only when it is allowed to retry, which could send a write twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias, cast

from redis import exceptions as rx
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode

from proxy.store.client import FOREIGN, Client
from proxy.store.deadline import deadline

Arg: TypeAlias = "str | bytes | int"
Command: TypeAlias = "tuple[Arg, ...]"
Reply: TypeAlias = object  # an answer, or the exception that stands in its place

# Commands of ours that name no key; every other one has its first key at place 1.
_KEYLESS: Final = frozenset({"PING", "INFO", "CONFIG", "SCRIPT"})
_SCRIPTS: Final = frozenset({"EVAL", "EVALSHA"})

# A node that fails like this may have handed its slots to another one.
_LEFT: Final = (rx.ConnectionError, rx.TimeoutError, rx.ClusterDownError, OSError)


class Transport(Protocol):
    """Each call raises one of `FOREIGN` when nothing could be asked; an error of a single
    command stands in its place."""

    async def send(self, commands: Sequence[Command]) -> list[Reply]:
        """One round trip, in any order."""

    async def send_together(self, commands: Sequence[Command]) -> list[Reply]:
        """Down one connection, in this order, to the server that holds the first one's key."""

    async def send_everywhere(self, command: Command) -> list[Reply]:
        """The answers of all servers that take writes."""


def wire_of(client: Client, timeout_s: float) -> Transport:
    if isinstance(client, RedisCluster):
        return ClusterTransport(client)
    return PlainTransport(client, timeout_s)


class PlainTransport:
    """One server, or the primary that Sentinels name. A round trip ends after `timeout_s`."""

    def __init__(self, client: Redis, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s

    async def send(self, commands: Sequence[Command]) -> list[Reply]:
        async with deadline(self._timeout_s):
            return await self.send_together(commands)

    async def send_together(self, commands: Sequence[Command]) -> list[Reply]:
        """Without a deadline here: the last of them may be a WAIT."""
        async with self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return cast("list[Reply]", await pipe.execute(raise_on_error=False))

    async def send_everywhere(self, command: Command) -> list[Reply]:
        return await self.send([command])


class ClusterTransport:
    """Asks each node for what it holds, all nodes at once. A node that fails takes only its own
    commands with it; the map of slots is then asked for before the next round trip."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._is_stale = False

    async def send(self, commands: Sequence[Command]) -> list[Reply]:
        await self._prepare()
        replies: list[Reply] = [None] * len(commands)
        places: dict[ClusterNode, list[int]] = {}
        for place, command in enumerate(commands):
            try:
                places.setdefault(self._node_of(command), []).append(place)
            except rx.RedisClusterException as nobody:  # no node has the slot
                self._is_stale, replies[place] = True, nobody

        async def ask(node: ClusterNode, mine: Sequence[int]) -> None:
            told = await self._ask(node, [commands[place] for place in mine])
            for place, reply in zip(mine, told, strict=True):
                replies[place] = reply
                if isinstance(reply, rx.AskError):
                    (replies[place],) = await self._follow(reply, [commands[place]])

        await asyncio.gather(*(ask(node, mine) for node, mine in places.items()))
        return replies

    async def send_together(self, commands: Sequence[Command]) -> list[Reply]:
        await self._prepare()
        told = await self._ask(self._node_of(commands[0]), commands)
        moved = told[0]
        return await self._follow(moved, commands) if isinstance(moved, rx.AskError) else told

    async def send_everywhere(self, command: Command) -> list[Reply]:
        await self._prepare()
        nodes = self._client.get_primaries()
        told = await asyncio.gather(*(self._ask(node, [command]) for node in nodes))
        return [reply for (reply,) in told]

    def _node_of(self, command: Command) -> ClusterNode:
        name = str(command[0])
        if name in _KEYLESS:
            return self._client.get_default_node()
        key = command[3] if name in _SCRIPTS else command[1]
        assert isinstance(key, str)  # as `keys` spells them all
        node = self._client.get_node_from_key(key)
        assert node is not None  # without replicas to read from it raises instead
        return node

    async def _prepare(self) -> None:
        """Know which node holds what."""
        await self._client.initialize()
        if self._is_stale:
            # Not `RedisCluster.aclose` first: other round trips are on those connections.
            await self._client.nodes_manager.initialize()
            self._is_stale = False

    async def _ask(self, node: ClusterNode, commands: Sequence[Command]) -> list[Reply]:
        try:
            async with self._client.pipeline() as pipe:
                for command in commands:
                    pipe.execute_command(*command, target_nodes=node)
                told: list[Reply] = await pipe.execute(
                    raise_on_error=False, allow_redirections=False
                )
        except FOREIGN as failure:
            told = [failure] * len(commands)
        self._is_stale |= any(isinstance(reply, _LEFT) for reply in told)
        return told

    async def _follow(self, moved: rx.AskError, commands: Sequence[Command]) -> list[Reply]:
        """Again where the node says they belong: it has done none of them."""
        is_moved = isinstance(moved, rx.MovedError)
        if is_moved:
            self._is_stale = True
            await self._client.nodes_manager.move_slot(moved)
        node = self._client.get_node(host=moved.host, port=moved.port)
        if node is None:  # a node that just joined: known after the next round trip
            self._is_stale = True
            return [moved] * len(commands)
        if is_moved:
            return await self._ask(node, commands)
        return (await self._ask(node, [("ASKING",), *commands]))[1:]
