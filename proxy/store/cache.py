"""Reads kept in the worker, true because `rw:chan` names every change.

Rule: a read is kept only if no message about anything arrived since it began; while nobody is
listening nothing is kept. Those who ask for one key at the same time share one read.

Rule: what was kept when the subscription was lost is stale. For a grace it stands in for a
store that is down, never for one that answers: where the store can be asked, it is asked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from proxy.caches import BoundedDict
from proxy.store import StoreDown

T = TypeVar("T")

# While the store is down everybody has the stale value at once, instead of after a time-out;
# once in so many seconds a read goes and looks.
PROBE_S = 1.0


class StoreHealth:
    """Whether the store answered when it was last read, and the second at which it is worth
    another look. The mirrors of one store share it: what one has waited for in vain, the next
    does not wait for again."""

    __slots__ = ("is_down", "probe_s")

    def __init__(self) -> None:
        self.is_down = False
        self.probe_s = 0.0


class ReadCache(Generic[T]):
    """At most `room` values by key, the least recently used leaves first. Only what was found
    is kept: a missing key is asked for again each time. `grace_s` is how long a stale value is
    good; `clock` counts seconds and never goes back."""

    __slots__ = (
        "_clock",
        "_grace_s",
        "_health",
        "_is_listening",
        "_load",
        "_messages",
        "_reads",
        "_room",
        "_stale",
        "_values",
    )

    def __init__(
        self,
        load: Callable[[str], Awaitable[T | None]],
        is_listening: Callable[[], bool],
        room: int,
        grace_s: Callable[[], float] = lambda: 0.0,
        clock: Callable[[], float] = time.monotonic,
        health: StoreHealth | None = None,
    ) -> None:
        self._load = load
        self._is_listening = is_listening
        self._room = room
        self._grace_s = grace_s
        self._clock = clock
        self._values: BoundedDict[str, T] = BoundedDict(room)
        self._stale: dict[str, tuple[float, T]] = {}  # with the second each ends
        self._reads: dict[str, asyncio.Task[T | None]] = {}
        self._messages = 0
        self._health = health or StoreHealth()

    def peek(self, key: str) -> T | None:
        """What is at hand and true; None says nothing."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    async def get(self, key: str) -> T | None:
        """Raises what the load raises; StoreDown only when nothing stale is at hand."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
            return value
        stale = self._stale_value(key)
        if stale is not None and self._health.is_down and not self._is_listening():
            now_s = self._clock()
            if now_s >= self._health.probe_s:
                self._health.probe_s = now_s + PROBE_S
                self._reading(key)
            return stale
        try:
            # One that leaves does not take it from the others.
            return await asyncio.shield(self._reading(key))
        except StoreDown:
            stale = self._stale_value(key)
            if stale is None:
                raise
            return stale

    def _reading(self, key: str) -> asyncio.Task[T | None]:
        read = self._reads.get(key)
        if read is None:
            read = self._reads[key] = asyncio.create_task(self._read(key), name=f"read {key}")
            read.add_done_callback(lambda done: self._read_ended(key, done))
        return read

    async def _read(self, key: str) -> T | None:
        messages = self._messages
        try:
            value = await self._load(key)
        except StoreDown:
            self._health.is_down, self._health.probe_s = True, self._clock() + PROBE_S
            raise
        self._health.is_down = False
        self._stale.pop(key, None)  # also when it is gone: the store has said so
        if value is not None and messages == self._messages and self._is_listening():
            self._values[key] = value
        return value

    def _read_ended(self, key: str, read: asyncio.Task[T | None]) -> None:
        if self._reads.get(key) is read:
            del self._reads[key]
        if not read.cancelled():
            read.exception()  # whoever waited has it; nobody may have

    def _stale_value(self, key: str) -> T | None:
        end_s, value = self._stale.get(key, (0.0, None))
        return value if self._clock() < end_s else None

    def invalidate(self, key: str) -> None:
        """A message named this key: a read under way may be older than it."""
        self._messages += 1
        self._values.pop(key, None)
        self._stale.pop(key, None)
        self._reads.pop(key, None)

    def invalidate_reads(self) -> None:
        """A message named something else."""
        self._messages += 1

    def invalidate_all(self) -> None:
        """The subscription was lost: changes may have been missed."""
        self._messages += 1
        now_s = self._clock()
        end_s = now_s + self._grace_s()
        stale = {key: old for key, old in self._stale.items() if now_s < old[0]}
        stale.update((key, (end_s, value)) for key, value in self._values.items())
        for key in list(stale)[: max(0, len(stale) - self._room)]:
            del stale[key]
        self._stale = stale
        self._values.clear()
        self._reads.clear()
