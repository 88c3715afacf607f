"""What the tests of the gateway behind the vendors' SDKs share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import pytest
from yarl import URL

from proxy.model import Operation
from proxy.sim import Entry
from proxy.sim.log import SUBMITS
from proxy.sim.tasks import State
from tests.rig.eventually import read_until
from tests.rig.house import House, OpenHouse, Plan

_WAIT_S = 20.0  # only a hang gets here
_PROVIDERS = ("openai", "kling", "jimeng")
_SUBMITS = {operation.value for operation in Operation if operation.is_submit}


class OneRender(Protocol):
    def __call__(
        self,
        house: House,
        service: str,
        task_id: str,
        dialect: str = "openai",
        operation: str = "create",
    ) -> Awaitable[Entry]: ...


class Moved(Protocol):
    def __call__(
        self, house: House, task_id: str, state: State, code: int | str | None = None
    ) -> Awaitable[None]: ...


@pytest.fixture
async def held(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house whose renders move only when a test says so."""
    async with open_house(Plan(manual=True)) as house:
        yield house


@pytest.fixture
def one_render() -> OneRender:
    """Asserts that a task is one render at the provider meant, that the house has no render
    which nobody was told of, and that the access line is right; returns what the provider
    received."""

    async def check(
        house: House,
        service: str,
        task_id: str,
        dialect: str = "openai",
        operation: str = "create",
    ) -> Entry:
        task = await house.server.store.tasks.get(task_id)
        assert task is not None
        (entry,) = (
            entry
            for entry in house.sim.log.entries
            if entry.operation in SUBMITS and entry.task_id == task.upstream_id
        )
        assert (entry.service, entry.status) == (service, 200)
        accepted = [
            line for line in house.lines if line["operation"] in _SUBMITS and line["status"] == 200
        ]
        assert sum(house.sim.renders(name) for name in _PROVIDERS) == len(accepted)
        (line,) = (line for line in accepted if line["task_id"] == task_id)
        seen = (line["dialect"], line["operation"], line["reason"], line["upstream"])
        assert seen == (dialect, operation, "done", f"sim-{service}")
        assert line["token"] == task.token_id
        return entry

    return check


@pytest.fixture
def moved() -> Moved:
    """Puts a held task's render into a state and waits until the gateway has noticed."""

    async def move(house: House, task_id: str, state: State, code: int | str | None = None) -> None:
        task = await house.server.store.tasks.get(task_id)
        assert task is not None
        assert task.upstream_id is not None
        if state == "failed":
            house.sim.fail(task.upstream_id, code)
        else:
            house.sim.step(task.upstream_id, state)
        await read_until(
            lambda: house.get(f"/v1/videos/{task_id}"),
            lambda found: found.json()["status"] == state,
        )

    return move


@pytest.fixture
def fetch() -> Callable[[House, str], Awaitable[bytes]]:
    """A finished file by the link a native client was given: no token goes along."""

    async def get(house: House, url: str) -> bytes:
        assert url.startswith(house.url), url
        async with house.client.get(URL(url, encoded=True)) as reply:
            assert (reply.status, reply.content_type) == (200, "video/mp4")
            return await reply.read()

    return get
