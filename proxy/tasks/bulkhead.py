"""A bulkhead: a limit of concurrent calls for each name, so that a slow one holds up no other.

When all slots of a name are taken, callers wait up to `patience_s`. If nothing has moved for that
long, new callers fail at once, and hold nothing while they would wait in vain.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class BulkheadFull(Exception):
    """All slots of this name are taken and stay so: try again later."""


class _Compartment:
    __slots__ = ("moved_s", "slots")

    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.moved_s = 0.0  # on the loop's clock: when a slot was last taken or released


class Bulkhead:
    """`slots` for each name. Names are few: those of configured things."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._compartments: dict[Hashable, _Compartment] = {}

    def is_full(self, name: Hashable) -> bool:
        """Whether all slots under this name are taken."""
        return name in self._compartments and self._compartments[name].slots.locked()

    @asynccontextmanager
    async def enter(self, name: Hashable, patience_s: float) -> AsyncIterator[None]:
        """Hold one slot; BulkheadFull after `patience_s`, or at once if waiting is in vain."""
        clock = asyncio.get_running_loop().time
        compartment = self._compartments.get(name)
        if compartment is None:
            compartment = self._compartments[name] = _Compartment(self._slots)
        if compartment.slots.locked():
            if clock() - compartment.moved_s > patience_s:
                raise BulkheadFull
            try:
                async with asyncio.timeout(patience_s):
                    await compartment.slots.acquire()
            except TimeoutError as exc:
                raise BulkheadFull from exc
        else:
            await compartment.slots.acquire()
        compartment.moved_s = clock()
        try:
            yield
        finally:
            compartment.moved_s = clock()
            compartment.slots.release()
