"""Waiting for a task to change, without asking anybody: `rw:chan` says when.

Thousands may wait for one task; each change wakes them all, and the first of them to look
brings the new state into the worker's mirror for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from proxy.model import Task

Load = Callable[[str], Awaitable[Task | None]]

# A message can be missed (a subscription that breaks between two of its pings): look anyway.
LOOK_S = 5.0


class Watch:
    """Fed by the store's channel through `heard` and `lost`."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self.is_closed = False

    def heard(self, task_id: str) -> None:
        future = self._waiting.pop(task_id, None)
        if future is not None and not future.done():
            future.set_result(None)

    def lost(self) -> None:
        """Changes may have been missed: everybody looks."""
        for task_id in list(self._waiting):
            self.heard(task_id)

    def close(self) -> None:
        """A drain began: nobody waits any longer."""
        self.is_closed = True
        self.lost()

    @property
    def waiters(self) -> int:
        """How many tasks are waited for."""
        return len(self._waiting)

    async def until(
        self, task_id: str, is_it: Callable[[Task], bool], seconds: float
    ) -> Task | None:
        """The task as soon as it is as wanted, or as it is when the time is over; None when
        there is none (any more)."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            change = self._change_of(task_id)  # before the look, so that none falls between
            task = await self._load(task_id)
            left = deadline - asyncio.get_running_loop().time()
            if task is None or is_it(task) or left <= 0 or self.is_closed:
                return task
            # Not cancelled with its waiter: others wait for the same future.
            await asyncio.wait([change], timeout=min(left, LOOK_S))

    def _change_of(self, task_id: str) -> asyncio.Future[None]:
        future = self._waiting.get(task_id)
        if future is None:
            future = self._waiting[task_id] = asyncio.get_running_loop().create_future()
        return future
