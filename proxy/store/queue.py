"""The queues of upstreams: which tasks wait, whose turn it is, and the requests they wait with.

Rule: this is only an order. Whether a task waits, and that it is sent once, is decided by the
task itself (`Tasks.swap`); an entry whose task does not wait is worth nothing, and one that is
missing is put back by whoever looks at its task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable
from contextlib import suppress
from typing import Final

from proxy.errors import ProxyError
from proxy.model import Task
from proxy.store import keys
from proxy.store.pipeline import Pipeline, Script
from proxy.store.queued_requests import MAX_PIECES, KeptRequest, Packed, unpack

LIFE_MS: Final = 8 * 24 * 3600 * 1000  # of a queue nobody has joined: no task waits so long


class TaskQueues:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._join = Script.load("wait_join")
        self._next = Script.load("wait_next")
        self._leave = Script.load("wait_leave")

    # ------------------------------------------------------------ the order

    async def join(
        self,
        upstream: str,
        task: Task,
        *,
        most: int | None = None,
        held_until_ms: int | None = None,
    ) -> bool:
        """Enqueue a task in its token's order. True if queued (or already there), False if the
        queue holds `most` tasks. The task is not leased before `held_until_ms`."""
        queue = keys.QueueKeys(upstream)
        joined = await self._batch.run(
            self._join,
            [queue.tasks, queue.ring, queue.of(task.token_id), queue.leases],
            [
                task.id,
                task.token_id,
                task.created_ms,
                "" if most is None else most,
                "" if held_until_ms is None else held_until_ms,
                LIFE_MS,
            ],
        )
        return joined == 1

    async def next(
        self, upstream: str, now_ms: int, until_ms: int, passed: Iterable[str] = ()
    ) -> str | None:
        """Lease the task whose turn it is until `until_ms`: tokens take turns, each sends in the
        order of its submits. Those in `passed` are passed over, after all tokens that have none
        of them in front. None: nobody waits who could be handed out."""
        queue = keys.QueueKeys(upstream)
        found = await self._batch.run(
            self._next, [queue.ring, queue.leases], [now_ms, until_ms, LIFE_MS, *passed]
        )
        return found.decode() if isinstance(found, bytes) else None

    async def hold(self, upstream: str, task_id: str, now_ms: int, until_ms: int) -> bool:
        """Lease this one, whoever's turn it is; False when somebody else has."""
        leases = keys.QueueKeys(upstream).leases
        await self._batch.call("ZREMRANGEBYSCORE", leases, "-inf", now_ms)
        return await self._batch.call("ZADD", leases, "NX", until_ms, task_id) == 1

    async def release(self, upstream: str, task_id: str) -> None:
        """End a lease: its turn is still to come."""
        await self._batch.call("ZREM", keys.QueueKeys(upstream).leases, task_id)

    async def leave(self, upstream: str, task_id: str, *, served: bool = False) -> None:
        """`served`: it was sent, so the next turn is another token's."""
        queue = keys.QueueKeys(upstream)
        await self._batch.run(
            self._leave, [queue.tasks, queue.ring, queue.leases], [task_id, int(served)]
        )

    async def has(self, upstream: str, task_id: str) -> bool:
        return await self._batch.call("HEXISTS", keys.QueueKeys(upstream).tasks, task_id) in (
            1,
            True,
        )

    async def count(self, upstream: str) -> int:
        """How many wait."""
        found = await self._batch.call("HLEN", keys.QueueKeys(upstream).tasks)
        assert isinstance(found, int)
        return found

    async def counts(self, upstreams: Collection[str]) -> dict[str, int]:
        """The same of each."""
        found = await asyncio.gather(*(self.count(name) for name in upstreams))
        return dict(zip(upstreams, found, strict=True))

    # ------------------------------------------------------------ what they wait with

    async def keep(self, task_id: str, packed: Packed, life_ms: int) -> None:
        """Keep the request for `life_ms` at most. One piece at a time: a command that takes long
        holds up all others."""
        for number, piece in enumerate(packed.pieces()):
            await self._batch.call("SET", keys.blob(task_id, number), piece, "PX", life_ms)

    async def kept(self, task_id: str) -> KeptRequest | None:
        """None when it is gone, or not whole any more."""
        pieces: list[bytes] = []
        for number in range(MAX_PIECES):
            piece = await self._batch.call("GET", keys.blob(task_id, number))
            if not isinstance(piece, bytes):
                break
            pieces.append(piece)
        try:
            return unpack(b"".join(pieces))
        except ValueError:
            return None

    async def drop(self, task_id: str) -> None:
        """Its request is needed no more."""
        await self._batch.call("UNLINK", *(keys.blob(task_id, n) for n in range(MAX_PIECES)))

    async def forget(self, task: Task) -> None:
        """Leave nothing of a task that has ended. What fails here goes by itself: its entry with
        its turn, its request when its time is over."""
        with suppress(ProxyError):
            await asyncio.gather(self.leave(task.queue, task.id), self.drop(task.id))
