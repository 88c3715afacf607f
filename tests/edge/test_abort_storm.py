"""Many clients that die at once leave nothing behind."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from proxy.gateway.relay.splice import KEPT_PIPES
from proxy.sim import pattern
from tests.rig.downloads import PROMPT, SIZE, TWO, connected, content, fetch, tiers
from tests.rig.eventually import eventually
from tests.rig.house import House

LARGE = 24_000_000
CLIENTS, WAVES = 50, 2


def descriptors() -> Counter[str]:
    """The TCP connections and pipes this process has open. Its connections to the store are a
    pool of their own, which grows as it likes."""
    table = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    tcp = {f"socket:[{row.split()[9]}]" for row in table}
    kinds: Counter[str] = Counter()
    for number in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except FileNotFoundError:  # that of the listing itself
            continue
        if target in tcp or target.startswith("pipe:"):
            kinds["tcp" if target in tcp else "pipe"] += 1
    return kinds


async def die_early(house: House, path: str, take: int) -> None:
    async with connected(house) as raw:
        await raw.send(path, house.bearer)
        assert await raw.head() == 200
        await raw.some(take)
        raw.kill()


async def quiet(house: House) -> None:
    """Until neither side has a download under way."""
    await eventually(
        lambda: (
            not house.server.parts.streams.total
            and all(entry.done for entry in house.sim.log.entries)
        )
    )


def surplus(before: Counter[str]) -> Counter[str]:
    """What is open now and was not; an idle connection to an upstream may have timed out, and
    some pipes are kept for the next stream."""
    return descriptors() - before - Counter(pipe=2 * KEPT_PIPES)


async def no_surplus(before: Counter[str]) -> None:
    with suppress(TimeoutError):
        await eventually(lambda: not surplus(before))
    assert not surplus(before)


async def test_clients_killed_after_their_first_bytes_leave_nothing(house: House) -> None:
    """Sockets, pipes and slots are back where they were, the upstreams were let go, and the
    next download is whole."""
    ids = [await house.completed(place.model, f"a cat size={LARGE}") for place in TWO.values()]
    short = await house.completed(prompt=PROMPT)
    for tier in tiers(house):
        for task_id in ids:  # opens what is kept open
            await die_early(house, content(task_id), 1)
        await quiet(house)
        before = descriptors()
        house.lines.clear()
        house.sim.log.clear()
        for _ in range(WAVES):
            takes = [0, 1, 1000, 100_000, 400_000] * (CLIENTS // 5)
            await asyncio.gather(
                *(die_early(house, content(ids[n % 2]), take) for n, take in enumerate(takes))
            )
        await quiet(house)
        await no_surplus(before)
        reasons = Counter(str(line["reason"]) for line in house.lines)
        assert reasons == {"client_gone": CLIENTS * WAVES}, tier
        assert house.server.parts.streams.total == 0
        assert all(entry.aborted for entry in house.sim.log.entries)
        assert (await fetch(house, content(short))).body == pattern(0, SIZE)
