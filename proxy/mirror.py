"""Reads kept in the worker, true because `rw:chan` names every change.

Rule: a read is kept only if no message about anything arrived since it began; while nobody is
listening nothing is kept, and a lost subscription forgets everything. Those who ask for one key
at the same time share one read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mirror(Generic[T]):
    """At most `room` values by key, the least recently used leaves first. Only what was found
    is kept: a missing key is asked for again each time."""

    __slots__ = ("_is_listening", "_load", "_messages", "_reads", "_room", "_values")

    def __init__(
        self,
        load: Callable[[str], Awaitable[T | None]],
        is_listening: Callable[[], bool],
        room: int,
    ) -> None:
        self._load = load
        self._is_listening = is_listening
        self._room = room
        self._values: OrderedDict[str, T] = OrderedDict()
        self._reads: dict[str, asyncio.Task[T | None]] = {}
        self._messages = 0

    async def get(self, key: str) -> T | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
            return value
        read = self._reads.get(key)
        if read is None:
            read = self._reads[key] = asyncio.create_task(self._read(key), name=f"read {key}")
            read.add_done_callback(lambda done: self._read_ended(key, done))
        return await asyncio.shield(read)  # one that leaves does not take it from the others

    async def _read(self, key: str) -> T | None:
        messages = self._messages
        value = await self._load(key)
        if value is not None and messages == self._messages and self._is_listening():
            self._values[key] = value
            if len(self._values) > self._room:
                self._values.popitem(last=False)
        return value

    def _read_ended(self, key: str, read: asyncio.Task[T | None]) -> None:
        if self._reads.get(key) is read:
            del self._reads[key]
        if not read.cancelled():
            read.exception()  # whoever waited has it; nobody may have

    def drop(self, key: str) -> None:
        """A message named this key: a read under way may be older than it."""
        self._messages += 1
        self._values.pop(key, None)
        self._reads.pop(key, None)

    def heard(self) -> None:
        """A message named something else."""
        self._messages += 1

    def forget(self) -> None:
        """The subscription was lost: changes may have been missed."""
        self._messages += 1
        self._values.clear()
        self._reads.clear()
