"""How long the renders of a model usually take, learned from the latest ones."""

from __future__ import annotations

from statistics import median
from typing import Final

from proxy.store import keys
from proxy.store.batch import Batcher

KEPT: Final = 64
LIFE_S: Final = 30 * 24 * 3600
ENOUGH: Final = 3  # fewer say nothing


class Durations:
    def __init__(self, batch: Batcher) -> None:
        self._batch = batch

    async def add(self, upstream: str, model: str, took_ms: int) -> None:
        key = keys.durations(upstream, model)
        await self._batch.call("RPUSH", key, took_ms)
        await self._batch.call("LTRIM", key, -KEPT, -1)
        await self._batch.call("EXPIRE", key, LIFE_S)

    async def usual_ms(self, upstream: str, model: str) -> int | None:
        """The median of the latest renders; None while there are too few."""
        answer = await self._batch.call("LRANGE", keys.durations(upstream, model), 0, -1)
        assert isinstance(answer, list)
        took = [int(item) for item in answer if isinstance(item, bytes)]
        return round(median(took)) if len(took) >= ENOUGH else None
