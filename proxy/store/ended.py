"""Which tasks there are, and what has to go with those that expired.

A finished task's keys die by themselves; its entry in its owner's index does not. `end` knows
when each expires, so that nothing has to be searched for.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from proxy.store import keys
from proxy.store.batch import Batcher, Script

SWEPT_AT_ONCE: Final = 500
_WINDOW: Final = 256


class Ended:
    def __init__(self, batch: Batcher) -> None:
        self._batch = batch
        self._sweep = Script.load("sweep")

    async def sweep(self, now_ms: int) -> int:
        """Drop index entries of tasks and webhooks that expired by `now_ms`; returns how many
        tasks they were. Any number of workers may, at any time."""
        answers = await asyncio.gather(*(self._sweep_shard(s, now_ms) for s in keys.ALL_SHARDS))
        return sum(answers)

    async def _sweep_shard(self, shard: str, now_ms: int) -> int:
        names = [keys.ended(shard), keys.told(shard)]
        swept = 0
        while True:
            answer = await self._batch.run(self._sweep, names, [now_ms, SWEPT_AT_ONCE])
            assert isinstance(answer, int)
            swept += answer
            if answer < SWEPT_AT_ONCE:
                return swept

    async def task_ids(self, owner: str | None = None) -> AsyncIterator[str]:
        """Every task of all owners, or (nearly) only of one: open ones first, then finished
        ones, the latest first. One that moves meanwhile may come twice, or be gone."""
        shards = keys.ALL_SHARDS if owner is None else (keys.shard_of(owner),)
        for shard in shards:
            async for member, _ in self._latest(keys.due(shard)):
                yield member
        streams = [self._latest(keys.ended(shard)) for shard in shards]
        heads = await asyncio.gather(*(anext(stream, None) for stream in streams))
        heap = [(-head[1], number, head[0]) for number, head in enumerate(heads) if head]
        heapq.heapify(heap)
        while heap:
            _, number, member = heap[0]
            task_id, _, its_owner = member.partition(" ")
            if owner is None or its_owner == owner:
                yield task_id
            following = await anext(streams[number], None)
            if following is None:
                heapq.heappop(heap)
            else:
                heapq.heapreplace(heap, (-following[1], number, following[0]))

    async def _latest(self, key: str) -> AsyncGenerator[tuple[str, float], None]:
        """A zset's members and scores, from the highest score down."""
        start = 0
        while True:
            answer = await self._batch.call(
                "ZREVRANGE", key, start, start + _WINDOW - 1, "WITHSCORES"
            )
            assert isinstance(answer, list)
            flat = [item.decode() for item in answer if isinstance(item, bytes)]
            for member, score in zip(flat[::2], flat[1::2], strict=True):
                yield member, float(score)
            if len(flat) < 2 * _WINDOW:
                return
            start += _WINDOW
