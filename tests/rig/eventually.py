"""Waiting for what sends no event: another process, a file, a counter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

GUARD_S = 40.0  # only a hang gets here
PAUSE_S = 0.005


async def eventually(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until the condition holds. TimeoutError when it never does."""
    async with asyncio.timeout(GUARD_S):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(PAUSE_S)


def eventually_sync(condition: Callable[[], bool]) -> None:
    """`eventually` for a test without a loop."""
    deadline = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(PAUSE_S)
