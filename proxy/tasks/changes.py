"""Waiting for a task to change, without asking anybody: `rw:chan` says when.

Thousands may wait for one task; each change wakes them all, and the first of them to look
brings the new state into the worker's mirror for the others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from proxy.model import Task

Load = Callable[[str], Awaitable[Task | None]]

# A message can be missed (a subscription that breaks between two of its pings): look anyway.
LOOK_S = 5.0


class _Change:
    """One task's next change, and how many wait for it."""

    __slots__ = ("future", "waiters")

    def __init__(self) -> None:
        self.future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiters = 0


class TaskChanges:
    """Fed by the store's channel through `heard` and `lost`. `look_s` is how often a waiter
    looks when nobody says that anything changed."""

    def __init__(self, load: Load, look_s: float = LOOK_S) -> None:
        self._load = load
        self._look_s = look_s
        self._waiting: dict[str, _Change] = {}
        self.is_closed = False

    def notify(self, task_id: str) -> None:
        change = self._waiting.pop(task_id, None)
        if change is not None:
            change.future.set_result(None)

    def notify_all(self) -> None:
        """Changes may have been missed: everybody looks."""
        for task_id in list(self._waiting):
            self.notify(task_id)

    def close(self) -> None:
        """A drain began: nobody waits any longer."""
        self.is_closed = True
        self.notify_all()

    @property
    def waiters(self) -> int:
        """How many wait."""
        return sum(change.waiters for change in self._waiting.values())

    async def wait_until(
        self, task_id: str, is_wanted: Callable[[Task], bool], seconds: float
    ) -> Task | None:
        """The task as soon as it is as wanted, or as it is when the time is over or `close` was
        called; None when there is none (any more)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            with self._change_of(task_id) as change:  # before the look: none falls between
                task = await self._load(task_id)
                left = deadline - loop.time()
                if task is None or is_wanted(task) or left <= 0 or self.is_closed:
                    return task
                # `wait`, because a waiter that leaves must not cancel what others wait for.
                # One millisecond more: uvloop's timers count whole ones, and one that ends early
                # would look again and again for what is left.
                await asyncio.wait([change], timeout=min(left + 0.001, self._look_s))

    async def pause(self, seconds: float) -> None:
        """Sleep, unless a drain begins."""
        with self._change_of("") as closed:  # no task's id: only `lost` and `close` end it
            if not self.is_closed:
                await asyncio.wait([closed], timeout=seconds)

    @contextmanager
    def _change_of(self, task_id: str) -> Iterator[asyncio.Future[None]]:
        """The last of its waiters to leave forgets it."""
        change = self._waiting.get(task_id)
        if change is None:
            change = self._waiting[task_id] = _Change()
        change.waiters += 1
        try:
            yield change.future
        finally:
            change.waiters -= 1
            if not change.waiters and self._waiting.get(task_id) is change:
                del self._waiting[task_id]
