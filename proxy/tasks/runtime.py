"""The values that every part of a worker shares: settings, clock, random numbers, metrics, log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from proxy.config import Config
from proxy.tasks.schedule import Schedule
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import NO_TRACING, Tracer


@dataclass(frozen=True, slots=True)
class Runtime:
    """Made once per worker by its wiring; a test makes one with its own clock and dice.

    `config` gives the settings in force, which a reload replaces. `clock` gives seconds since the
    epoch, `random01` a number in [0, 1).
    """

    config: Callable[[], Config]
    clock: Callable[[], float]
    random01: Callable[[], float]
    metrics: Metrics
    log: structlog.stdlib.BoundLogger
    tracing: Tracer = NO_TRACING

    def now_ms(self) -> int:
        return int(self.clock() * 1000)

    def retention_s(self) -> int:
        """How long a task that has ended is kept."""
        return self.config().limits.retention_s

    def schedule(self) -> Schedule:
        """When tasks are asked after, by the settings in force."""
        timeouts = self.config().timeouts
        return Schedule(
            first_ms=round(timeouts.poll_first_s * 1000),
            interval_ms=round(timeouts.poll_interval_s * 1000),
            max_ms=round(timeouts.poll_max_s * 1000),
            settle_ms=round((timeouts.submit_s + timeouts.connect_s) * 1000),
            confirm_ms=round(timeouts.confirm_s * 1000),
            forgotten_ms=round(timeouts.forgotten_after_s * 1000),
            lost_ms=round(timeouts.lost_after_s * 1000),
        )
