"""Long and wide: what `make soak` runs, with seconds and memory asserted.

Each test needs a machine that is otherwise idle, some 3 GiB of memory and 8 000 descriptors.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from proxy.gateway.relay.splice import KEPT_PIPES
from proxy.sim import pattern
from tests.rig.downloads import KLING, OPENAI, PROMPT, SIZE, TIERS, Raw, connected_to, content
from tests.rig.eventually import eventually
from tests.rig.house import OpenHouse, Plan
from tests.rig.worker import Worker, drain_away, worker

LARGE = 24_000_000
KEPT = 2 + 2 * KEPT_PIPES
STORM_CLIENTS, STORM_WAVES = 200, 8
STORM_FILE = 8_000_000
# The clients and the upstreams share a process, and a client may be long in sending its request.
PATIENT = "head_s = 60"
SLOW_READERS = 1000
SLOW_ROUNDS = 20
SIP_BYTES = 16_384
SIP_EVERY_S = 1.0
LIMITS = "streams_per_token = 5000\nstreams_per_address = 5000\n"
# What the kernel may hold: a thousand streams at the usual half megabyte would not fit.
NARROW = "send_lowat_bytes = 65536\nupstream_rcvbuf_bytes = 65536\n"
# User memory of one slow stream, of a thousand opened in one go.
KIB_PER_STREAM = {"splice": 96, "pipe": 400, "copy": 1536}

each_tier = pytest.mark.parametrize("tier", TIERS)
each_loop = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(16_384, before[1]), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def die_early(beside: Worker, path: str, token: str, take: int) -> None:
    async with connected_to(beside.url) as raw:
        await raw.send(path, {"Authorization": f"Bearer {token}"})
        assert await raw.head() == 200
        await raw.some(take)
        raw.kill()


async def back_to(beside: Worker, before: int) -> None:
    """Until the worker has no more open than it had, but for an upstream connection or two and
    some pipes, which are kept; fails after a while with the number."""
    try:
        await eventually(lambda: beside.descriptors() <= before + KEPT)
    except TimeoutError:
        assert beside.descriptors() <= before + KEPT


@each_loop
@each_tier
@pytest.mark.timeout(600)
def test_waves_of_dying_clients_leave_a_sound_worker(
    tier: str, loop: str, open_house: OpenHouse, tmp_path: Path
) -> None:
    """The process lives, holds nothing of them, and its next download is whole."""

    async def run() -> None:
        limits = f'relay_tiers = ["{tier}"]\n{LIMITS}'
        async with (
            open_house(Plan()) as house,
            worker(house, tmp_path, limits=limits, timeouts=PATIENT, loop=loop) as beside,
        ):
            paths = [
                content(await house.completed(place.model, f"a cat size={STORM_FILE}"))
                for place in (OPENAI, KLING)
            ]
            short = content(await house.completed(prompt=PROMPT))
            for path in paths:
                await die_early(beside, path, house.token, 1)
            await asyncio.to_thread(drain_away, beside.url, short, house.token)
            before = beside.descriptors()
            takes = [0, 1, 1000, 300_000, 2_000_000] * (STORM_CLIENTS // 5)
            for _ in range(STORM_WAVES):
                await asyncio.gather(
                    *(
                        die_early(beside, paths[number % 2], house.token, take)
                        for number, take in enumerate(takes)
                    )
                )
            await back_to(beside, before)
            async with connected_to(beside.url) as raw:
                await raw.send(short, house.bearer)
                reply = await raw.reply()
            assert (reply.status, reply.body == pattern(0, SIZE)) == (200, True)

    asyncio.run(run())


@each_loop
@each_tier
@pytest.mark.timeout(900)
def test_a_thousand_slow_readers_fit_in_one_worker(
    tier: str, loop: str, open_house: OpenHouse, tmp_path: Path
) -> None:
    """Each gets its bytes in order at its own pace, at a bounded price; a fast download passes
    them by; and when they have left nothing of them is there."""

    async def run() -> None:
        limits = f'relay_tiers = ["{tier}"]\n{LIMITS}{NARROW}'
        async with (
            open_house(Plan()) as house,
            worker(house, tmp_path, limits=limits, loop=loop) as beside,
            AsyncExitStack() as stack,
        ):
            path = content(await house.completed(prompt=f"a cat size={LARGE}"))
            short = content(await house.completed(prompt=PROMPT))
            await asyncio.to_thread(drain_away, beside.url, short, house.token)
            before, idle = beside.descriptors(), beside.memory("VmRSS")
            readers: list[Raw] = []
            for _ in range(SLOW_READERS):
                raw = await stack.enter_async_context(connected_to(beside.url, rcvbuf=SIP_BYTES))
                await raw.send(path, house.bearer)
                readers.append(raw)
            await asyncio.gather(*(raw.head() for raw in readers))
            await asyncio.gather(*(sip(raw, number) for number, raw in enumerate(readers)))
            used = (beside.memory("VmRSS") - idle) // 1024 // SLOW_READERS
            assert used <= KIB_PER_STREAM[tier], f"{used} KiB a stream"
            assert await asyncio.to_thread(drain_away, beside.url, short, house.token) == SIZE
            for raw in readers:
                raw.kill()
            await back_to(beside, before)

    asyncio.run(run())


async def sip(raw: Raw, number: int) -> None:
    """Read a little every second, begun at different moments."""
    await asyncio.sleep(SIP_EVERY_S * number / SLOW_READERS)
    read = 0
    for _ in range(SLOW_ROUNDS):
        data = await raw.some(SIP_BYTES)
        assert data == pattern(read, SIP_BYTES)
        read += len(data)
        await asyncio.sleep(SIP_EVERY_S)
