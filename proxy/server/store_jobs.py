"""What a process does for its store while it serves: restart it, sweep it, watch how full it is."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from proxy.errors import ProxyError
from proxy.server.embedded_store import Embedded
from proxy.store import Store, StoreDown, StoreUnusable
from proxy.store.capabilities import FULL_MARK
from proxy.tasks.runtime import Runtime
from proxy.telemetry.metric_definitions import STORE_RESTARTS
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rate_limited_log import RateLimitedLog

REVIVE_S: Final = 0.25  # how often the embedded store is looked at
FULLNESS_S: Final = 1.0
SWEEP_S: Final = 2.0


async def keep_alive(
    embedded: Embedded, metrics: Metrics, log: structlog.stdlib.BoundLogger
) -> None:
    """Start the embedded server again whenever it died, and count it; its file has what it
    knew."""
    troubles = RateLimitedLog(log)
    while True:
        await asyncio.sleep(REVIVE_S)
        if embedded.is_running:
            continue
        troubles.warning("embedded store died; starting it again")
        try:
            await embedded.revive()
        except (StoreUnusable, StoreDown, OSError) as error:
            troubles.error("embedded store does not start", why=str(error))
        else:
            troubles.ended("embedded store died; starting it again", "embedded store started again")
            metrics.count(STORE_RESTARTS)


async def sweep(store: Store, runtime: Runtime) -> None:
    """Remove expired tasks from the indexes that outlive them, for ever."""
    troubles = RateLimitedLog(runtime.log)
    while True:
        await asyncio.sleep(SWEEP_S)
        try:
            await store.ended.sweep(runtime.now_ms())
        except ProxyError as error:
            troubles.warning("store indexes not swept", why=str(error))


class Fullness:
    """Whether the store's memory is nearly full: new tasks are then refused, while polls and
    downloads go on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_full = False

    async def watch(self) -> None:
        """Look again every `FULLNESS_S` seconds, for ever."""
        while True:
            with contextlib.suppress(StoreDown):
                self.is_full = await self._store.fullness() > FULL_MARK
            await asyncio.sleep(FULLNESS_S)
