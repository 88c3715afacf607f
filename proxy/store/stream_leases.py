"""Downloads that are open, over all workers: leases, so that those of a worker that died end too.

One zset per token or owner; a member is a lease, its score the ms when it lapses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from proxy.store import keys
from proxy.store.errors import StoreDown
from proxy.store.pipeline import Pipeline, Script

LEASE_MS: Final = 30_000


class Streams:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._take = Script.load("stream_take")

    async def take(self, who: str, name: str, most: int, now_ms: int) -> bool:
        """One more download of `who` under this name, unless there are `most` already."""
        taken = await self._batch.run(
            self._take, [keys.streams(who)], [name, most, now_ms, now_ms + LEASE_MS, LEASE_MS]
        )
        return taken == 1

    async def renew(self, leases: Mapping[str, str], now_ms: int) -> None:
        """Prolong leases, name → who; also those the store has lost meanwhile."""
        await asyncio.gather(
            *(
                call
                for name, who in leases.items()
                for call in (
                    self._batch.call("ZADD", keys.streams(who), now_ms + LEASE_MS, name),
                    self._batch.call("PEXPIRE", keys.streams(who), LEASE_MS),
                )
            )
        )

    def release(self, who: str, name: str) -> None:
        """Without waiting: what does not arrive lapses."""
        try:
            done = self._batch.call("ZREM", keys.streams(who), name)
        except StoreDown:
            return
        done.add_done_callback(lambda call: call.cancelled() or call.exception())
