"""Reads kept in the worker, true because `rw:chan` names every change.

Rule: a read is kept only if no message about anything arrived since it began; while nobody is
listening nothing is kept, and a lost subscription forgets everything.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Mirror(Generic[T]):
    """At most `room` values by key, the least recently used leaves first. Only what was found
    is kept: a missing key is asked for again each time."""

    __slots__ = ("_is_listening", "_load", "_messages", "_room", "_values")

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
        self._messages = 0

    async def get(self, key: str) -> T | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
            return value
        messages = self._messages
        value = await self._load(key)
        if value is not None and messages == self._messages and self._is_listening():
            self._values[key] = value
            if len(self._values) > self._room:
                self._values.popitem(last=False)
        return value

    def drop(self, key: str) -> None:
        """A message named this key."""
        self._messages += 1
        self._values.pop(key, None)

    def heard(self) -> None:
        """A message named something else: a read under way may still be older than it."""
        self._messages += 1

    def forget(self) -> None:
        """The subscription was lost: changes may have been missed."""
        self._messages += 1
        self._values.clear()
