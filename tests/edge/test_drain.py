"""A worker that is told to stop: bodies under way finish, or can be resumed at another one."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import TYPE_CHECKING

import aiohttp
import pytest

from proxy.sim import pattern, pattern_sha256
from tests.edge.streams import (
    OPENAI,
    PROMPT,
    SIZE,
    TIERS,
    Raw,
    add,
    connected,
    connected_to,
    content,
    line_of,
    tune,
)

if TYPE_CHECKING:
    from tests.conftest import House, Plan

    OpenHouse = Callable[[Plan], AbstractAsyncContextManager[House]]


async def readiness(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/readyz") as reply:
        return reply.status


async def begun(house: House, stack: AsyncExitStack, task_id: str, tier: str) -> Raw:
    """A download by this tier, its first 200 000 bytes read; the upstream stands there."""
    tune(house, relay_tiers=(tier,))
    raw = await stack.enter_async_context(connected(house))
    await raw.send(content(task_id), house.bearer)
    assert await raw.head() == 200
    assert await raw.some(200_000) == pattern(0, 200_000)
    return raw


async def test_a_drain_lets_bodies_finish_and_nobody_new_in(house: House) -> None:
    """Readiness goes off at once, so that the balancer looks elsewhere; the bodies under way
    arrive whole, and only then is the drain over."""
    task_id = await house.completed(prompt=PROMPT)
    [stall] = add(house, OPENAI.fault("stall", at=200_000, times=len(TIERS)))
    assert await readiness(house.server.admin_url) == 200
    async with AsyncExitStack() as stack:
        open_ = [await begun(house, stack, task_id, tier) for tier in TIERS]
        draining = asyncio.create_task(house.server.drain())
        await asyncio.sleep(0)
        assert await readiness(house.server.admin_url) == 503
        with pytest.raises(ConnectionRefusedError):
            async with connected(house):
                pass
        assert not draining.done()
        stall.release()
        for raw, tier in zip(open_, TIERS, strict=True):
            body, whole = await raw.body_after(200_000)
            assert (whole, body == pattern(200_000, SIZE - 200_000)) == (True, True)
            line = await line_of(house, raw)
            assert (line["reason"], line["bytes"], line["tier"]) == ("done", SIZE, tier)
            assert await raw.ended()  # no next request on this connection
        await draining


async def test_what_outlasts_the_drain_is_cut_and_resumes_elsewhere(
    open_house_factory: OpenHouse, plan: type[Plan]
) -> None:
    """The cut shows; the other worker has the same validators, and the two parts are the
    video."""
    async with open_house_factory(plan(timeouts="drain_s = 0.2")) as house:
        task_id = await house.completed(prompt=PROMPT)
        other = await house.another_worker()
        add(house, OPENAI.fault("stall", at=200_000, times=len(TIERS)))
        async with AsyncExitStack() as stack:
            open_ = [await begun(house, stack, task_id, tier) for tier in TIERS]
            await house.server.drain()
            for raw in open_:
                assert await raw.body_after(200_000) == (b"", False)
                line = await line_of(house, raw)
                assert (line["status"], line["reason"], line["bytes"]) == (200, "drain", 200_000)
            etag = open_[0].headers["ETag"]
        left = [entry for entry in house.sim.log.entries if entry.stalled]
        assert len(left) == len(TIERS)
        await house.sim.wait_for(lambda entry: entry.aborted, count=len(TIERS))
        async with connected_to(other.url) as raw:
            resume = {"Range": "bytes=200000-", "If-Range": etag}
            await raw.send(content(task_id), {**house.bearer, **resume})
            reply = await raw.reply()
        assert (reply.status, reply.whole, reply.headers["ETag"]) == (206, True, etag)
        digest = hashlib.sha256(pattern(0, 200_000) + reply.body)
        assert digest.hexdigest() == pattern_sha256(SIZE)
