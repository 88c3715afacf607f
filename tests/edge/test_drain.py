"""A worker that is told to stop: bodies under way finish, or can be resumed at another one."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack

import aiohttp
import pytest

from proxy.sim import pattern, pattern_sha256
from tests.rig.downloads import (
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
from tests.rig.house import House, OpenHouse, Plan

HALF = 200_000


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


async def test_what_outlasts_the_drain_is_cut_and_resumes_elsewhere(open_house: OpenHouse) -> None:
    """The cut shows; the other worker has the same validators, and the two parts are the
    video."""
    async with open_house(Plan(timeouts="drain_s = 0.2")) as house:
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


MANY = 200


async def test_a_worker_stopped_under_many_downloads_costs_none_of_them_a_byte(
    open_house: OpenHouse,
) -> None:
    """Half are let go and finish within the drain, half are cut and resumed at the sibling; of
    each the whole is the video."""
    wanted = Plan(
        limits=f"streams_per_token = {2 * MANY}\nstreams_per_address = {2 * MANY}",
        timeouts="drain_s = 2",
    )
    async with open_house(wanted) as house:
        quick, slow = [await house.completed(prompt=PROMPT) for _ in range(2)]
        other = await house.another_worker()
        stalls = {}
        for task_id in (quick, slow):
            target = (await house.server.store.tasks.get(task_id)).upstream_id  # type: ignore[union-attr]
            [stalls[task_id]] = add(
                house, OPENAI.fault("stall", at=HALF, times=MANY // 2, target=target)
            )

        async def first_half(stack: AsyncExitStack, task_id: str) -> tuple[str, Raw]:
            raw = await stack.enter_async_context(connected(house))
            await raw.send(content(task_id), house.bearer)
            assert await raw.head() == 200
            assert await raw.some(HALF) == pattern(0, HALF)
            return task_id, raw

        async def rest(task_id: str, raw: Raw) -> bool:
            body, whole = await raw.body_after(HALF)
            if whole:
                return task_id == quick and body == pattern(HALF, SIZE - HALF)
            at = HALF + len(body)
            async with connected_to(other.url) as again:
                resume = {"Range": f"bytes={at}-", "If-Range": raw.headers["ETag"]}
                await again.send(content(task_id), {**house.bearer, **resume})
                reply = await again.reply()
            digest = hashlib.sha256(pattern(0, HALF) + body + reply.body)
            return reply.status == 206 and digest.hexdigest() == pattern_sha256(SIZE)

        async with AsyncExitStack() as stack:
            begun_ = await asyncio.gather(
                *(first_half(stack, task_id) for task_id in [quick, slow] * (MANY // 2))
            )
            draining = asyncio.create_task(house.server.drain())
            await asyncio.sleep(0)
            stalls[quick].release()
            results = await asyncio.gather(*(rest(task_id, raw) for task_id, raw in begun_))
            assert results == [True] * MANY
            await draining
