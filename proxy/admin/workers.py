"""What the admin port knows of the processes behind it: one gateway alone, or a supervisor's
workers together. Everything else it reads from the store, which is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest

from proxy.config.reload import Reloaded


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    pid: int
    started_ms: int


class Workers(Protocol):
    async def metrics(self) -> bytes:
        """Prometheus text of all workers together."""
        ...

    async def why_not_ready(self) -> str | None:
        """None, or in one sentence why no requests should be sent here."""
        ...

    async def reload(self) -> Reloaded: ...

    def last_reload(self) -> Reloaded | None:
        """The latest one by anyone, SIGHUP too; None when there was none."""
        ...

    def running(self) -> tuple[WorkerInfo, ...]: ...


class SingleProcess:
    """One process, which is its own only worker."""

    def __init__(
        self,
        registry: CollectorRegistry,
        why_not_ready: Callable[[], Awaitable[str | None]],
        reload: Callable[[], Reloaded],
        last_reload: Callable[[], Reloaded | None],
        info: WorkerInfo,
    ) -> None:
        self._registry = registry
        self._why_not_ready = why_not_ready
        self._reload = reload
        self._last_reload = last_reload
        self._info = info

    async def metrics(self) -> bytes:
        return generate_latest(self._registry)

    async def why_not_ready(self) -> str | None:
        return await self._why_not_ready()

    async def reload(self) -> Reloaded:
        return self._reload()

    def last_reload(self) -> Reloaded | None:
        return self._last_reload()

    def running(self) -> tuple[WorkerInfo, ...]:
        return (self._info,)
