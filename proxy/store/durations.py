"""How long the renders of a model usually take, learned from the latest ones."""

from __future__ import annotations

import asyncio
from statistics import median
from typing import Final

from proxy.store import keys
from proxy.store.pipeline import Pipeline

KEPT: Final = 64
LIFE_S: Final = 30 * 24 * 3600
ENOUGH: Final = 3  # fewer say nothing
FRESH_S: Final = 30.0  # how long an answer is used again: one worker's own renders renew it sooner


class Durations:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._known: dict[tuple[str, str], tuple[float, int | None]] = {}

    async def add(self, upstream: str, model: str, took_ms: int) -> None:
        key = keys.durations(upstream, model)
        await asyncio.gather(  # in any order: at most one too many is kept for a while
            self._batch.call("RPUSH", key, took_ms),
            self._batch.call("LTRIM", key, -KEPT, -1),
            self._batch.call("EXPIRE", key, LIFE_S),
        )
        self._known.pop((upstream, model), None)

    async def usual_ms(self, upstream: str, model: str) -> int | None:
        """The median of the latest renders; None while there are too few. Asked of the store
        now and then."""
        now_s = asyncio.get_running_loop().time()
        read_s, usual = self._known.get((upstream, model), (-FRESH_S, None))
        if now_s - read_s >= FRESH_S:
            usual = await self._read(upstream, model)
            self._known[upstream, model] = (now_s, usual)
        return usual

    async def _read(self, upstream: str, model: str) -> int | None:
        answer = await self._batch.call("LRANGE", keys.durations(upstream, model), 0, -1)
        assert isinstance(answer, list)
        took = [int(item) for item in answer if isinstance(item, bytes)]
        return round(median(took)) if len(took) >= ENOUGH else None
