"""An account that answers slowly holds up its own tasks, and no others."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from proxy.tasks.bulkhead import Bulkhead, BulkheadFull

LONG_S = 20.0  # only a hang waits so long


async def test_so_many_at_once_and_the_next_when_one_leaves() -> None:
    bulkhead = Bulkhead(2)
    most = now = 0

    async def pass_through() -> None:
        nonlocal most, now
        async with bulkhead.enter("a", LONG_S):
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1

    await asyncio.gather(*(pass_through() for _ in range(20)))
    assert (most, now) == (2, 0)


async def test_names_do_not_wait_for_each_other() -> None:
    bulkhead = Bulkhead(1)
    async with bulkhead.enter("a", LONG_S), bulkhead.enter("b", LONG_S):
        with pytest.raises(BulkheadFull):
            async with bulkhead.enter("a", 0.001):
                raise AssertionError("two at once")


async def test_where_nothing_moves_nobody_waits() -> None:
    """The first to wait finds out for all: who comes later is turned away at once."""
    bulkhead = Bulkhead(1)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(bulkhead.enter("a", LONG_S))
        with pytest.raises(BulkheadFull):
            await stack.enter_async_context(bulkhead.enter("a", 0.01))
        before = asyncio.all_tasks()
        waiting = asyncio.create_task(_enter(bulkhead))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waiting.done(), "it waits although nothing has moved for longer than its patience"
        assert isinstance(waiting.exception(), BulkheadFull)
        assert asyncio.all_tasks() <= before
    async with bulkhead.enter("a", 0.01):
        pass


async def _enter(bulkhead: Bulkhead) -> None:
    # Less than what has passed: uvloop's clock has whole milliseconds.
    async with bulkhead.enter("a", 0.001):
        raise AssertionError("two at once")


async def test_a_place_is_free_again_after_any_end() -> None:
    bulkhead = Bulkhead(1)
    with pytest.raises(ZeroDivisionError):
        async with bulkhead.enter("a", LONG_S):
            raise ZeroDivisionError
    holder = asyncio.create_task(_hold(bulkhead))
    await asyncio.sleep(0)
    holder.cancel()
    await asyncio.wait([holder])
    async with bulkhead.enter("a", 0.01):
        pass


async def _hold(bulkhead: Bulkhead) -> None:
    async with bulkhead.enter("a", LONG_S):
        await asyncio.Event().wait()
