"""Waiting for what sends no event: another process, a file, a counter."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable

GUARD_S = 40.0  # only a hang gets here
PAUSE_S = 0.005


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition, or what it awaits, is true. TimeoutError when it never is."""
    async with asyncio.timeout(GUARD_S):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await asyncio.sleep(PAUSE_S)


def eventually_sync(condition: Callable[[], object]) -> None:
    """`eventually` for a test without a loop."""
    deadline = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(PAUSE_S)
