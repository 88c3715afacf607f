"""A client that leaves takes its upstream request with it, whatever was going on."""

from __future__ import annotations

import asyncio

from proxy.sim import pattern
from tests.rig.downloads import (
    KLING,
    OPENAI,
    PROMPT,
    TWO,
    Place,
    add,
    connected,
    content,
    each_kind_of_place,
    fetch,
    line_of,
    of,
    tiers,
)
from tests.rig.house import House

LARGE = 24_000_000
SMALL_WINDOW = 1 << 14


async def left(house: House, place: Place) -> int:
    """Wait until the upstream saw it leave; returns how much it had sent."""
    entry = await house.sim.wait_for(
        lambda e: (e.service, e.operation) == (place.service, place.operation) and e.aborted
    )
    return entry.bytes_sent


@each_kind_of_place
async def test_before_the_upstream_answered(house: House, place: Place) -> None:
    task_id = await house.completed(place.model, PROMPT)
    house.sim.log.clear()
    for fault in (place.fault("hold"), place.fault("stall", at=None)):
        add(house, fault)
        async with connected(house) as raw:
            await raw.send(content(task_id), house.bearer)
            await house.sim.wait_for(lambda e: e.stalled and not e.done)
            raw.kill()
            line = await house.line(of(task_id))
        assert (line["reason"], line.get("bytes", 0)) == ("client_gone", 0)
        assert await left(house, place) == 0
        assert house.server.parts.streams.total == 0
        house.lines.clear()
        house.sim.log.clear()


async def test_in_the_middle_of_the_body(house: House) -> None:
    """While the upstream has nothing to send, and nothing would show that the client left."""
    for tier in tiers(house):
        for place in TWO.values():
            task_id = await house.completed(place.model, PROMPT)
            house.sim.log.clear()
            add(house, place.fault("stall", at=200_000))
            async with connected(house) as raw:
                await raw.send(content(task_id), house.bearer)
                assert await raw.head() == 200
                assert await raw.some(200_000) == pattern(0, 200_000)
                raw.kill()
                line = await line_of(house, raw)
            assert (line["status"], line["reason"]) == (200, "client_gone")
            assert (line["bytes"], line["tier"]) == (200_000, tier)
            assert await left(house, place) == 200_000
            assert house.server.parts.streams.total == 0


async def test_while_the_client_was_waited_for(house: House) -> None:
    """It read nothing, every buffer was full, and the upstream stood: it is let go, far from
    its end."""
    for tier in tiers(house):
        task_id = await house.completed(prompt=f"a cat size={LARGE}")
        house.sim.log.clear()
        async with connected(house, rcvbuf=SMALL_WINDOW) as raw:
            await raw.send(content(task_id), house.bearer)
            assert await raw.head() == 200
            assert await raw.some(1) == b"\0"
            raw.kill()
            line = await line_of(house, raw)
        assert (line["reason"], line["tier"]) == ("client_gone", tier)
        assert await left(house, OPENAI) < LARGE
        assert house.server.parts.streams.total == 0


async def test_while_the_upstream_was_taken_up_again(house: House) -> None:
    """Between a cut and the next answer there is no body to fail: only the client's leaving
    ends it."""
    for _ in tiers(house):
        task_id = await house.completed(KLING.model, PROMPT)
        house.sim.log.clear()
        add(house, KLING.fault("cut", at=150_000), KLING.fault("hold", skip=1))
        async with connected(house) as raw:
            await raw.send(content(task_id), house.bearer)
            assert await raw.head() == 200
            assert await raw.some(150_000) == pattern(0, 150_000)
            await house.sim.wait_for(lambda e: e.stalled)
            raw.kill()
            line = await line_of(house, raw)
        assert (line["reason"], line["bytes"]) == ("client_gone", 150_000)
        assert await left(house, KLING) == 0
        assert house.server.parts.streams.total == 0


async def test_a_download_beside_it_goes_on(house: House) -> None:
    """One of two on the same video leaves."""
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        [stall] = add(house, OPENAI.fault("stall", at=200_000, times=2))
        async with connected(house) as leaving, connected(house) as staying:
            for raw in (leaving, staying):
                await raw.send(content(task_id), house.bearer)
                assert await raw.head() == 200
                assert await raw.some(200_000) == pattern(0, 200_000)
            leaving.kill()
            await line_of(house, leaving)
            stall.release()
            body, whole = await staying.body_after(200_000)
            assert (whole, body) == (True, pattern(200_000, len(body)))


async def test_a_clients_next_request_is_not_taken_for_its_leaving(house: House) -> None:
    """A pipelined one arrives in the middle of a body."""
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        [stall] = add(house, OPENAI.fault("stall", at=200_000))
        async with connected(house) as raw:
            await raw.send(content(task_id), house.bearer)
            assert await raw.head() == 200
            await raw.send(content(task_id), {**house.bearer, "Range": "bytes=7-9"})
            await asyncio.sleep(0)
            stall.release()
            body, whole = await raw.body()
            assert (whole, body == pattern(0, len(body))) == (True, True)
            second = await raw.reply()
            assert (second.status, second.body) == (206, pattern(7, 3))
    assert (await fetch(house, content(task_id))).whole
