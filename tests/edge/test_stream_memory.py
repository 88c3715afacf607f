"""A video of any length passes through a worker of bounded size."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.rig.downloads import PROMPT, content
from tests.rig.house import OpenHouse, Plan
from tests.rig.worker import drain_away, worker

MIB = 1 << 20
ALLOWED = 40 * MIB
GIB_BY_TIER = {"splice": 1024 * MIB, "pipe": 256 * MIB, "copy": 256 * MIB}


@pytest.mark.parametrize(("tier", "size"), GIB_BY_TIER.items())
def test_a_long_video_takes_no_memory(
    tier: str, size: int, open_house: OpenHouse, tmp_path: Path
) -> None:
    """Not a coroutine, so that the gigabyte is sent once: the worker has its own loop."""

    async def run() -> None:
        limits = f'relay_tiers = ["{tier}"]'
        async with (
            open_house(Plan()) as house,
            worker(house, tmp_path, limits=limits) as beside,
        ):
            small = content(await house.completed(prompt=PROMPT))
            large = content(await house.completed(prompt=f"a cat size={size}"))
            await asyncio.to_thread(drain_away, beside.url, small, house.token)
            beside.forget_peak()
            idle = beside.memory("VmRSS")
            got = await asyncio.to_thread(drain_away, beside.url, large, house.token)
            assert got == size
            assert beside.memory("VmHWM") - idle < ALLOWED

    asyncio.run(run())
