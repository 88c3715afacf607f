"""Ten thousand finished tasks and their expiry: the store is as it was before."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import pytest

from tests.rig.receivers import allowing, receiving
from tests.rig.retention import check_nothing_is_left

if TYPE_CHECKING:
    from tests.conftest import House, Plan

    OpenHouse = Callable[..., AbstractAsyncContextManager[House]]


@pytest.mark.timeout(900)
async def test_ten_thousand_expired_tasks_leave_nothing_behind(
    open_house_factory: OpenHouse, plan: type[Plan]
) -> None:
    async with receiving() as receiver:
        wanted = plan(limits="retention_s = 20", sections=allowing(receiver), speed=1000)
        async with open_house_factory(wanted) as house:
            await check_nothing_is_left(house, receiver, 10_000, 120.0)
