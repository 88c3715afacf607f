"""So many at once under each name: one account that answers slowly does not hold up the others.

Who comes while all places are taken waits for one, within limits: where nobody has come or gone
for a while, everybody else is turned away at once, and the room they would wait in stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class BulkheadFull(Exception):
    """All places under this name are taken and stay so: come again later."""


class _Compartment:
    __slots__ = ("moved_s", "slots")

    def __init__(self, slots: int) -> None:
        self.slots = asyncio.Semaphore(slots)
        self.moved_s = 0.0  # on the loop's clock: when somebody last came or went


class Bulkhead:
    """`slots` under each name. Names are few: those of configured things."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._compartments: dict[Hashable, _Compartment] = {}

    @asynccontextmanager
    async def enter(self, name: Hashable, patience_s: float) -> AsyncIterator[None]:
        """Hold one place; TurnedAway after `patience_s`, or at once where that would be in vain."""
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
