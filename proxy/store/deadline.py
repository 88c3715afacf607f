"""A deadline that measures the server's silence, not our own standstill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

LATE_S: Final = 0.05
GRACE_S: Final = 0.05
MOST_GRACES: Final = 3


@asynccontextmanager
async def deadline(seconds: float) -> AsyncIterator[None]:
    """Cancel the body after `seconds` and raise TimeoutError, as `asyncio.timeout` does.

    A timer that fires late tells that the loop stood still: a busy machine, a paused container.
    Timers run before sockets are read, so an answer that came meanwhile would be thrown away and
    its server called down. Such a timer gives the answer `GRACE_S` more, a few times.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as scope:
        timer: asyncio.TimerHandle

        def expire(due_s: float, graces: int) -> None:
            nonlocal timer
            now_s = loop.time()
            if graces and now_s - due_s > LATE_S:
                timer = loop.call_at(now_s + GRACE_S, expire, now_s + GRACE_S, graces - 1)
            else:
                scope.reschedule(now_s)

        due_s = loop.time() + seconds
        timer = loop.call_at(due_s, expire, due_s, MOST_GRACES)
        try:
            yield
        finally:
            timer.cancel()
