"""What has to go with tasks that expired.

A finished task's keys die by themselves; its entry in its owner's index does not. `end` knows
when each expires, so that nothing has to be searched for.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.store import keys
from proxy.store.pipeline import Pipeline, Script

SWEPT_AT_ONCE: Final = 500


class ExpirySweep:
    def __init__(self, batch: Pipeline) -> None:
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
