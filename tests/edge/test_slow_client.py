"""Clients and upstreams that are slow, and how many downloads each client may have."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from proxy.sim import Entry, pattern
from tests.rig.downloads import (
    OPENAI,
    PLACES,
    PROMPT,
    SIZE,
    TWO,
    WAIT_S,
    Raw,
    add,
    connected,
    content,
    fetch,
    line_of,
    tiers,
    told,
    tune,
)
from tests.rig.house import House, OpenHouse, Plan

LARGE = 24_000_000  # more than all buffers on the way hold
SMALL_WINDOW = 1 << 14


async def stood_still(entry: Entry) -> None:
    """Wait until the upstream could send nothing for a while: every buffer is full."""
    async with asyncio.timeout(WAIT_S):
        still = 0
        while still < 10:
            before = entry.bytes_sent
            await asyncio.sleep(0.01)
            still = still + 1 if entry.bytes_sent == before else 0


async def test_a_client_that_stops_reading_is_cut(open_house: OpenHouse) -> None:
    """After its idle deadline, and the upstream is let go with it: neither sends on."""
    async with open_house(Plan(timeouts="idle_client_s = 0.4")) as house:
        for tier in tiers(house):
            for place in TWO.values():
                house.sim.log.clear()
                task_id = await house.completed(place.model, f"a cat size={LARGE}")
                async with connected(house, rcvbuf=SMALL_WINDOW) as raw:
                    await raw.send(content(task_id), house.bearer)
                    assert await raw.head() == 200
                    line = await line_of(house, raw)
                    assert (line["status"], line["reason"]) == (200, "idle_client")
                    assert line["tier"] == tier
                    data, whole = await raw.body()
                    assert not whole
                    assert pattern(0, len(data)) == data
                left = await house.sim.wait_for(lambda e: e.operation == place.operation and e.done)  # noqa: B023
                assert left.aborted
                assert left.bytes_sent < LARGE


async def test_a_client_that_rests_and_goes_on_gets_every_byte(house: House) -> None:
    """Resting until every buffer between it and the upstream is full, twice."""
    for tier in tiers(house):
        task_id = await house.completed(prompt=f"a cat size={LARGE}")
        async with connected(house, rcvbuf=SMALL_WINDOW) as raw:
            await raw.send(content(task_id), house.bearer)
            assert await raw.head() == 200
            read = 0
            asked = await house.sim.wait_for(lambda e: e.operation == "content")
            for _ in range(2):
                await stood_still(asked)
                data = await raw.some(3_000_000)
                assert data == pattern(read, len(data))
                read += len(data)
            assert asked.bytes_sent < LARGE
            while data := await raw.some(min(1_000_000, LARGE - read)):
                assert data == pattern(read, len(data))
                read += len(data)
            assert read == LARGE
            line = await line_of(house, raw)
            assert (line["reason"], line["bytes"], line["tier"]) == ("done", LARGE, tier)


async def test_a_client_under_the_minimum_rate_is_cut(open_house: OpenHouse) -> None:
    """It reads all the time, and so is never idle; a fast one is not touched."""
    async with open_house(Plan(timeouts="min_rate_window_s = 0.4")) as house:
        for _ in tiers(house):
            tune(house, min_rate_bytes_s=1_000_000)
            task_id = await house.completed(prompt=f"a cat size={LARGE}")
            async with connected(house, rcvbuf=SMALL_WINDOW) as raw:
                await raw.send(content(task_id), house.bearer)
                assert await raw.head() == 200
                reading = asyncio.create_task(_sip(raw))
                line = await line_of(house, raw)
                assert line["reason"] == "min_rate"
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
            reply, line = await told(house, content(task_id), {"Range": "bytes=-10000000"})
            assert (reply.whole, line["reason"]) == (True, "done")


async def _sip(raw: Raw) -> None:
    for _ in range(1000):
        await raw.some(2000)
        await asyncio.sleep(0.02)


async def test_a_slow_upstream_is_neither_idle_nor_the_clients_fault(open_house: OpenHouse) -> None:
    """It drips for longer than any deadline, and below the rate that is asked of clients."""
    timeouts = "idle_upstream_s = 0.5\nidle_client_s = 0.3\nmin_rate_window_s = 0.2"
    async with open_house(Plan(timeouts=timeouts)) as house:
        for tier in tiers(house):
            tune(house, min_rate_bytes_s=1_000_000)
            task_id = await house.completed(prompt="a cat size=200000")
            add(house, OPENAI.fault("drip", rate=250_000))
            reply, line = await told(house, content(task_id))
            assert (reply.whole, reply.body == pattern(0, 200_000)) == (True, True)
            assert line["reason"] == "done", tier


async def test_a_token_has_only_so_many_downloads_at_once(house: House) -> None:
    """One more is 429 with Retry-After; another token is not held up, HEAD of what is known
    costs none, and a slot is free as soon as its download has ended, however that was."""
    tune(house, streams_per_token=2)
    other = {"Authorization": f"Bearer {(await house.new_token()).token}"}
    ids = [await house.completed(place.model, PROMPT) for place in PLACES.values()]
    [stall] = add(house, OPENAI.fault("stall", at=1000, times=2))
    path = content(ids[0])
    async with AsyncExitStack() as stack:
        busy = [await stack.enter_async_context(connected(house)) for _ in range(2)]
        for raw in busy:
            await raw.send(path, house.bearer)
            assert await raw.head() == 200
        assert house.server.parts.streams.total == 2
        refused, line = await told(house, path)
        assert (refused.status, line["reason"]) == (429, "too_many_streams")
        assert refused.headers["Retry-After"] == "2"
        assert b"2 streams" in refused.body
        assert (await fetch(house, path, method="HEAD")).status == 200
        assert (await fetch(house, path, other)).status == 404  # not 429: it is not let in to see
        assert len(OPENAI.asked(house, "GET")) == 2
        busy[0].kill()
        await house.line(lambda line: line["reason"] == "client_gone")
        assert (await fetch(house, path)).status == 200
        stall.release()
        assert (await busy[1].body())[1]
    await house.line(lambda line: line["reason"] == "done" and line.get("bytes") == SIZE)
    assert house.server.parts.streams.total == 0


async def test_an_address_has_only_so_many_downloads_at_once(house: House) -> None:
    """Whichever tokens it uses: here two, each under its own limit."""
    tune(house, streams_per_address=1)
    task_id = await house.completed(prompt=PROMPT)
    [stall] = add(house, OPENAI.fault("stall", at=1000))
    async with connected(house) as raw:
        await raw.send(content(task_id), house.bearer)
        assert await raw.head() == 200
        reply, line = await told(house, content(task_id))
        assert (reply.status, line["reason"]) == (429, "too_many_streams")
        assert b"address" in reply.body
        stall.release()
        assert (await raw.body())[1]
        await line_of(house, raw)
    assert (await fetch(house, content(task_id))).status == 200
