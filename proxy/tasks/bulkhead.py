"""So many at once under each name: one account that answers slowly does not hold up the others.

Who comes while all places are taken waits for one, within limits: where nobody has come or gone
for a while, everybody else is turned away at once, and the room they would wait in stays free.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager


class TurnedAway(Exception):
    """All places under this name are taken and stay so: come again later."""


class _Gate:
    __slots__ = ("moved_s", "places")

    def __init__(self, places: int) -> None:
        self.places = asyncio.Semaphore(places)
        self.moved_s = 0.0  # on the loop's clock: when somebody last came or went


class Turnstile:
    """`places` under each name. Names are few: those of configured things."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._gates: dict[Hashable, _Gate] = {}

    @asynccontextmanager
    async def turn(self, name: Hashable, patience_s: float) -> AsyncIterator[None]:
        """Hold one place; TurnedAway after `patience_s`, or at once where that would be in vain."""
        clock = asyncio.get_running_loop().time
        gate = self._gates.get(name)
        if gate is None:
            gate = self._gates[name] = _Gate(self._places)
        if gate.places.locked():
            if clock() - gate.moved_s > patience_s:
                raise TurnedAway
            try:
                async with asyncio.timeout(patience_s):
                    await gate.places.acquire()
            except TimeoutError as exc:
                raise TurnedAway from exc
        else:
            await gate.places.acquire()
        gate.moved_s = clock()
        try:
            yield
        finally:
            gate.moved_s = clock()
            gate.places.release()
