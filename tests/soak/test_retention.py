"""Ten thousand finished tasks and their expiry: the store is as it was before."""

from __future__ import annotations

import pytest

from tests.rig.house import OpenHouse, Plan
from tests.rig.receivers import allowing, receiving
from tests.rig.retention import check_nothing_is_left


@pytest.mark.timeout(900)
async def test_ten_thousand_expired_tasks_leave_nothing_behind(open_house: OpenHouse) -> None:
    async with receiving() as receiver:
        wanted = Plan(limits="retention_s = 20", sections=allowing(receiver), speed=1000)
        async with open_house(wanted) as house:
            await check_nothing_is_left(house, receiver, 10_000, 120.0)
