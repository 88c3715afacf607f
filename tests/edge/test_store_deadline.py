"""A server is silent when it does not answer, not when our loop could not hear it."""

from __future__ import annotations

import asyncio
import time

import pytest

from proxy.server.embedded_store import Embedded
from proxy.store import Store
from proxy.store.deadline import deadline


async def test_a_loop_that_stood_still_keeps_the_answer_that_came_meanwhile(
    valkey: Embedded,
) -> None:
    store = await Store.open(valkey.url, timeout_s=0.1)
    try:
        answer = store.batch.call("WAIT", 1, 60)  # no replica: answered after 60 ms
        await asyncio.sleep(0.02)
        time.sleep(0.4)  # noqa: ASYNC251 -- the loop stands still, longer than any time-out
        assert await answer == 0
    finally:
        await store.close()


async def test_who_stays_silent_is_left_at_the_deadline_even_by_a_loop_that_stood_still() -> None:
    with pytest.raises(TimeoutError):
        async with deadline(0.01):
            time.sleep(0.1)  # noqa: ASYNC251
            await asyncio.Event().wait()


async def test_a_body_that_ends_in_time_leaves_no_timer() -> None:
    async with deadline(0.01):
        await asyncio.sleep(0)
    await asyncio.sleep(0.03)


async def test_a_cancelled_body_stays_cancelled() -> None:
    async def waits() -> None:
        async with deadline(30):
            await asyncio.Event().wait()

    job = asyncio.create_task(waits())
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
