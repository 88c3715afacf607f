"""Gauges of the store and the event loop, read in the background so that a scrape never waits.

Rule: a value that cannot be read now is missing from the page; an old value is never shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from proxy.errors import ProxyError
from proxy.model import HealthState
from proxy.store import Store
from proxy.store.keys import credential_name
from proxy.tasks.breaker import state_now
from proxy.tasks.runtime import Runtime
from proxy.telemetry.metric_definitions import (
    BREAKER_OPEN,
    CREDENTIAL_IN_FLIGHT,
    CREDENTIAL_STATE,
    LOOP_LAG,
    OLDEST_TASK_AGE,
    QUEUED,
    STORE_FULL,
    STORE_UP,
    TASKS_OPEN,
    Labels,
    MetricDefinition,
)
from proxy.telemetry.metrics import Metrics, OldestTasks

REFRESH_S: Final = 5.0
NAP_S: Final = 0.5

# The label of each state a credential can be in; `broken` is an upstream's alone.
_STATES: Final[dict[HealthState, str]] = {"well": "ok", "cooling": "cooling", "out": "out"}


class Gauges:
    """Read the gauges that come from the store.

    `oldest_tasks` are the oldest open tasks this worker knows of; `clock` gives seconds since the
    epoch."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        oldest_tasks: OldestTasks,
    ) -> None:
        self._metrics = runtime.metrics
        self._store = store
        self._config = runtime.config
        self._oldest_tasks = oldest_tasks
        self._clock = runtime.clock
        self._now_ms = runtime.now_ms

    async def run(self) -> None:
        """Refresh every `REFRESH_S` seconds, for ever."""
        while True:
            await asyncio.sleep(REFRESH_S)
            await self.refresh()

    async def refresh(self) -> None:
        """Read all gauges again. Takes at most the store's time-outs, and never raises for a
        fault of the store."""
        found: dict[MetricDefinition, Mapping[Labels, float]] = {
            TASKS_OPEN: {},
            OLDEST_TASK_AGE: {},
            CREDENTIAL_STATE: {},
            BREAKER_OPEN: {},
            CREDENTIAL_IN_FLIGHT: {},
            QUEUED: {},
            STORE_FULL: {},
        }
        try:
            values = await asyncio.gather(
                self._open(),
                self._oldest(),
                self._credential_states(),
                self._open_breakers(),
                self._in_flight(),
                self._queues(),
                self._fullness(),
            )
        except ProxyError:
            found[STORE_UP] = {(): 0}
        else:
            found |= dict(zip(found, values, strict=True))
            found[STORE_UP] = {(): 1}
        for family, series in found.items():
            self._metrics.set_gauge(family, series)

    async def _open(self) -> dict[Labels, float]:
        return {(): await self._store.tasks.open_count()}

    async def _oldest(self) -> dict[Labels, float]:
        """The age of the oldest open task. Another worker may have ended the oldest one known
        here, so the store is asked whether it is still open, then about the next one."""
        while (first := self._oldest_tasks.first()) is not None:
            task_id, made_ms = first
            if await self._store.tasks.is_due(task_id):
                return {(): max(0, self._now_ms() - made_ms) / 1000}
            self._oldest_tasks.ended(task_id)
        return {(): 0.0}

    async def _fullness(self) -> dict[Labels, float]:
        return {(): await self._store.fullness()}

    async def _queues(self) -> dict[Labels, float]:
        counts = await self._store.waiting.counts(list(self._config().upstreams))
        return {(upstream,): count for upstream, count in counts.items()}

    async def _credential_states(self) -> dict[Labels, float]:
        labels = [
            (upstream.name, key.name)
            for upstream in self._config().upstreams.values()
            for key in upstream.credentials
        ]
        states = await self._states([credential_name(*names) for names in labels])
        return {
            (*names, state): float(health == now)
            for names, now in zip(labels, states, strict=True)
            for health, state in _STATES.items()
        }

    async def _open_breakers(self) -> dict[Labels, float]:
        names = list(self._config().upstreams)
        states = await self._states(names)
        return {(name,): float(now == "broken") for name, now in zip(names, states, strict=True)}

    async def _states(self, names: list[str]) -> list[HealthState]:
        healths = await self._store.credentials.health(names)
        now_ms = self._now_ms()
        return [state_now(health, now_ms) for health in healths]

    async def _in_flight(self) -> dict[Labels, float]:
        labels = [
            (upstream.name, key.name)
            for upstream in self._config().upstreams.values()
            for key in upstream.credentials
            if key.max_in_flight is not None
        ]
        now_ms = self._now_ms()
        counts = await asyncio.gather(
            *(
                self._store.credentials.in_flight(credential_name(*names), now_ms)
                for names in labels
            )
        )
        return dict(zip(labels, counts, strict=True))


async def watch_loop(metrics: Metrics) -> None:
    """Measure for ever how late the loop runs: every job on it waits that long."""
    clock, lag = asyncio.get_running_loop().time, metrics.histogram(LOOP_LAG)
    while True:
        due_s = clock() + NAP_S
        await asyncio.sleep(NAP_S)
        lag.observe(max(0.0, clock() - due_s))
