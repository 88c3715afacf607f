"""Background work of a worker: named jobs, and loops that repeat one round of work.

Rule: a job is held by a strong reference until it ends, what it raises is logged, and whoever
started it awaits it at shutdown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress

import structlog

from proxy.errors import Unavailable
from proxy.telemetry.rate_limited_log import RateLimitedLog


class Jobs:
    """The jobs of one owner. Who waits for room (`wait_fewer`) is one at a time."""

    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        self._log = log
        self._jobs: dict[asyncio.Task[None], dict[str, str]] = {}  # with the ids it works on
        self._ended = asyncio.Event()

    def start(
        self, work: Coroutine[object, object, None], name: str, **ids: str
    ) -> asyncio.Task[None]:
        """Run `work` in the background under this name; a line about its failure has `ids`."""
        job = asyncio.create_task(work, name=name)
        self._jobs[job] = ids
        job.add_done_callback(self._end)
        return job

    def _end(self, job: asyncio.Task[None]) -> None:
        ids = self._jobs.pop(job, {})
        self._ended.set()
        error = None if job.cancelled() else job.exception()
        if error is not None:
            self._log.error("job failed", job=job.get_name(), **ids, exc_info=error)

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[asyncio.Task[None]]:
        return iter(tuple(self._jobs))

    async def wait_fewer(self, than: int) -> None:
        """Wait until fewer jobs than this are running."""
        while len(self._jobs) >= than:
            self._ended.clear()
            await self._ended.wait()

    async def drain(self, timeout_s: float | None = None) -> None:
        """Wait until every job has ended, also those that start meanwhile, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._jobs:
                    await asyncio.wait(tuple(self._jobs))

    async def aclose(self) -> None:
        """Cancel what is running and wait for its end."""
        jobs = tuple(self._jobs)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)


class Rounds:
    """Repeats `work` until it is closed: again at once while it returns True, else after
    `pause_s` or when `wake` is called.

    A round that fails is logged and followed by a pause which nothing shortens but the end.
    """

    def __init__(
        self,
        work: Callable[[], Awaitable[bool]],
        pause_s: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
        name: str,
    ) -> None:
        self._work = work
        self._pause_s = pause_s
        self._troubles = RateLimitedLog(log)
        self._name = name
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._job: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._job = asyncio.create_task(self._run(), name=self._name)

    def wake(self) -> None:
        """There is work: begin the next round now, or right after the one under way."""
        self._wake.set()

    @property
    def is_closing(self) -> bool:
        return self._closing.is_set()

    async def finish(self) -> None:
        """Let the round under way end, and begin no other."""
        self._closing.set()
        self._wake.set()
        if self._job is not None:
            await asyncio.wait([self._job])

    async def aclose(self) -> None:
        """Cancel the round under way."""
        self._closing.set()
        if self._job is not None:
            self._job.cancel()
            await asyncio.wait([self._job])

    async def _run(self) -> None:
        while not self._closing.is_set():
            self._wake.clear()  # before the work: what comes up during it starts another round
            wait_for, has_more = self._wake, False
            try:
                has_more = await self._work()
            except Unavailable as down:
                wait_for = self._closing
                self._troubles.store_unreachable(self._name, down)
            except Exception:  # noqa: BLE001 -- the outermost rim: logged
                wait_for = self._closing
                self._troubles.exception("round failed", about=self._name, part=self._name)
            else:
                self._troubles.store_reachable(self._name)
            if not has_more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._pause_s()):
                        await wait_for.wait()
