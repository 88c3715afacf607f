"""Webhooks in Redis: written by the change they tell of, leased when due, kept a while after.

A hook that has ended (delivered, or dead after 72 h) stays for 7 days, so that an operator can
look at it and send it again.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.model import Hook
from proxy.store import keys
from proxy.store.batch import Batcher, Script
from proxy.store.codec import decode_hook, encode_hook
from proxy.store.tasks import claim

KEPT_MS: Final = 7 * 24 * 3600 * 1000
MAX_ENDED: Final = 10_000 // keys.SHARDS


class Hooks:
    def __init__(self, batch: Batcher) -> None:
        self._batch = batch
        self._claim = Script.load("claim")
        self._write = Script.load("hook")

    async def claim_due(self, now_ms: int, lease_ms: int, limit: int) -> tuple[str, ...]:
        """Lease up to `limit` webhooks that are to be sent now; see `Tasks.claim_due`."""
        return await claim(self._batch, self._claim, keys.hooks, now_ms, lease_ms, limit)

    async def get(self, name: str) -> Hook | None:
        if keys.shard_of_task(name.partition(":")[0]) is None or ":" not in name:
            return None
        document = await self._batch.call("HGET", keys.hook(name), "doc")
        return decode_hook(document) if isinstance(document, bytes) else None

    async def write(self, hook: Hook, now_ms: int, due_ms: int | None) -> None:
        """What came of an attempt; `due_ms` None when it was the last."""
        shard = keys.shard_of_task(hook.task_id)
        assert shard is not None
        await self._batch.run(
            self._write,
            [keys.hooks(shard), keys.hook(hook.name), keys.told(shard)],
            [
                hook.name,
                encode_hook(hook),
                "" if due_ms is None else due_ms,
                now_ms,
                KEPT_MS,
                MAX_ENDED,
            ],
        )

    async def forget(self, name: str) -> None:
        """Take a due name away whose hook is gone."""
        shard = keys.shard_of_task(name.partition(":")[0])
        if shard is not None:
            await self._batch.call("ZREM", keys.hooks(shard), name)

    async def list(self) -> tuple[Hook, ...]:
        """All that are waiting or have ended, the latest last."""
        found = await asyncio.gather(
            *(
                self._batch.call("ZRANGE", key(shard), 0, -1)
                for shard in keys.ALL_SHARDS
                for key in (keys.hooks, keys.told)
            )
        )
        names = {n.decode() for some in found if isinstance(some, list) for n in some}  # type: ignore[union-attr]
        hooks = await asyncio.gather(*(self.get(name) for name in names))
        known = [hook for hook in hooks if hook is not None]
        return tuple(sorted(known, key=lambda hook: (hook.created_ms, hook.name)))
