"""What was worked out of values that never change, kept while they are still the ones in force.

Rule: what is made may depend on its parts and its key alone. Parts are compared by identity,
which costs nothing: a frozen value that was read anew is another one, and the work is done
again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from operator import is_
from typing import Generic, TypeVar

T = TypeVar("T")


class Memo(Generic[T]):
    """The last thing made under each key, for at most `room` keys; the oldest leaves first."""

    __slots__ = ("_kept", "_room")

    def __init__(self, room: int) -> None:
        self._room = room
        self._kept: dict[Hashable, tuple[tuple[object, ...], T]] = {}

    def get(self, key: Hashable, parts: tuple[object, ...], make: Callable[[], T]) -> T:
        """What `make` made of these very parts under this key, now or before."""
        kept = self._kept.get(key)
        if kept is not None and all(map(is_, kept[0], parts)):
            return kept[1]
        made = make()
        if kept is None and len(self._kept) >= self._room:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (parts, made)
        return made
