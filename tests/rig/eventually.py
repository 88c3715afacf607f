"""Waiting for what sends no event: another process, a file, a counter."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

GUARD_S = 40.0  # only a hang gets here
PAUSE_S = 0.005


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until the condition is true. TimeoutError when it never is."""
    async with asyncio.timeout(GUARD_S):
        while not condition():  # noqa: ASYNC110 - this is what the module is for
            await asyncio.sleep(PAUSE_S)


async def read_until(read: Callable[[], Awaitable[T]], is_wanted: Callable[[T], object]) -> T:
    """Read until the answer is as wanted; returns that answer. TimeoutError when it never is."""
    async with asyncio.timeout(GUARD_S):
        while True:
            answer = await read()
            if is_wanted(answer):
                return answer
            await asyncio.sleep(PAUSE_S)


def eventually_sync(condition: Callable[[], object]) -> None:
    """`eventually` for a test without a loop."""
    deadline = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(PAUSE_S)
