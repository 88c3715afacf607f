"""Caches in the process: a dict with a bound, and results kept while their inputs are the same.

Both evict in constant time: an `OrderedDict` finds its oldest key at once, where a plain dict
walks over every key that was deleted before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from operator import is_
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class BoundedDict(OrderedDict[K, V]):
    """A dict of at most `limit` keys: a new key pushes out the oldest one.

    A key is as old as its first assignment. `move_to_end(key)` makes it the newest: after a read
    for "least recently used", after a write for "least recently written".
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        if len(self) >= self.limit and key not in self:
            self.popitem(last=False)
        super().__setitem__(key, value)


class IdentityMemo(Generic[V]):
    """Results by key, each valid while its inputs are the same objects; at most `limit` keys.

    Rule: a result may depend on its inputs and its key alone. Inputs are compared by identity,
    which costs nothing: a frozen value that was read again is another object, and the result is
    computed again.
    """

    __slots__ = ("_results",)

    def __init__(self, limit: int) -> None:
        self._results: BoundedDict[Hashable, tuple[tuple[object, ...], V]] = BoundedDict(limit)

    def get(self, key: Hashable, inputs: tuple[object, ...], compute: Callable[[], V]) -> V:
        """The result for these inputs under this key: the one kept, or what `compute` returns."""
        kept = self._results.get(key)
        if kept is not None and all(map(is_, kept[0], inputs)):
            return kept[1]
        result = compute()
        self._results[key] = (inputs, result)
        return result
