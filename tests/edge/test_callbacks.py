"""Callbacks in: a provider's word that a task has moved makes us ask at once, and does no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.model import Stage, Task
from proxy.sim import Fault
from proxy.sim.log import Entry
from tests.rig.downloads import connected, line_of
from tests.rig.eventually import read_until
from tests.rig.house import Answer, House, OpenHouse, Plan

WAIT_S = 20.0  # only a hang gets here
MODEL = "sora-2-on-kling"
# Nobody would hear of anything within these tests but for the callbacks.
RARELY = "poll_first_s = 300\npoll_interval_s = 300\npoll_max_s = 300"


@pytest.fixture
async def house(open_house: OpenHouse) -> AsyncIterator[House]:
    async with open_house(Plan(manual=True, poll=RARELY)) as opened:
        yield opened


async def stored(house: House, task_id: str) -> Task:
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    return task


async def created(house: House) -> tuple[str, str]:
    """A task's id, and the provider's."""
    task_id = await house.create(MODEL)
    return task_id, str((await stored(house, task_id)).upstream_id)


def callback_of(house: House) -> str:
    """The path that the provider was given, from its latest submit."""
    url = house.sim.log.select("kling", "submit")[-1].body["callback_url"]
    parts = urlsplit(str(url))
    assert f"{parts.scheme}://{parts.netloc}" == house.server.config.server.public_url
    assert (parts.query, parts.fragment) == ("", "")
    return parts.path


def polls(house: House) -> list[Entry]:
    return house.sim.log.select("kling", "poll")


async def called(house: House, path: str, **options: Any) -> Answer:
    """A call without any token of ours, as a provider makes it."""
    options.setdefault("json", {"task_status": "succeed"})
    return await house.post(path, headers={"Authorization": None}, **options)


async def ended(house: House, task_id: str) -> str:
    """The status at the end; the wait asks nobody."""
    async with asyncio.timeout(WAIT_S):
        video = (await house.get(f"/v1/videos/{task_id}?wait=60")).json()
    return str(video["status"])


@pytest.mark.parametrize("outcome", ["completed", "failed"])
async def test_a_callback_brings_the_end_without_the_schedule(house: House, outcome: str) -> None:
    """One call, one poll, for each change; the line says what it was."""
    task_id, upstream_id = await created(house)
    assert callback_of(house).startswith(f"/callbacks/{task_id}/")
    asking = asyncio.create_task(ended(house, task_id))
    if outcome == "completed":
        house.sim.finish(upstream_id)
    else:
        house.sim.fail(upstream_id)
    assert await asking == outcome
    assert len(polls(house)) == 1
    delivered = await house.sim.wait_for(lambda e: e.operation == "callback" and e.done)
    assert delivered.status == 200
    line = await house.line(lambda line: line["reason"] == "callback")
    assert (line["status"], line["method"], line["task_id"]) == (200, "POST", task_id)
    assert line["path"] == f"/callbacks/{task_id}/…", "whoever reads the log cannot call"
    assert "token" not in line


async def test_each_change_is_asked_after(house: House) -> None:
    task_id, upstream_id = await created(house)
    house.sim.step(upstream_id, "in_progress")
    await read_until(lambda: stored(house, task_id), lambda found: found.stage is Stage.IN_PROGRESS)
    house.sim.finish(upstream_id)
    assert await ended(house, task_id) == "completed"
    assert len(polls(house)) == 2


async def test_a_forged_call_does_nothing(house: House) -> None:
    """Nobody who was not told a task's path has one, not even the path of another task."""
    task_id, upstream_id = await created(house)
    path = callback_of(house)
    signature = path.rpartition("/")[2]
    other_id, _ = await created(house)
    house.sim.log.clear()
    house.sim.tasks.step(upstream_id, "completed")
    await house.sim.wait_for(lambda e: e.operation == "callback" and e.done)
    assert await ended(house, task_id) == "completed"
    asked = len(polls(house))
    for forged in (
        path[:-1],
        path + "x",
        path.replace(signature, "x" * len(signature)),
        path.replace(signature, ""),
        path.replace(task_id, other_id),
        path.replace(task_id, "video_none"),
        "/callbacks/",
        "/callbacks",
        "/callbacks/%C3%BC/ü",
    ):
        reply = await called(house, forged)
        assert reply.status == 404, forged
        assert set(reply.json()) == {"error", "code", "message", "detail"}
    gotten = await house.get(path)
    assert gotten.status == 404, "only POST"
    lines = [line for line in house.lines if line["status"] == 404]
    assert {line["reason"] for line in lines} == {"endpoint_not_found"}
    assert len(polls(house)) == asked
    assert (await stored(house, other_id)).version == 3, "reserved, sent, bound: not touched"


async def test_a_replayed_call_only_asks(house: House) -> None:
    """While the task is open; once it has ended, not even that."""
    task_id, upstream_id = await created(house)
    path = callback_of(house)
    before = await stored(house, task_id)
    for count in (1, 2, 3):
        assert (await called(house, path)).status == 200
        await house.sim.wait_for(lambda e: e.operation == "poll" and e.done, count=count)
    assert await stored(house, task_id) == before, "its body said `succeed`; nobody believed it"
    house.sim.finish(upstream_id)
    assert await ended(house, task_id) == "completed"
    final = await stored(house, task_id)
    house.sim.log.clear()
    for _ in range(3):
        assert (await called(house, path)).status == 200
    # Whatever the three have begun is over once a call for another task has been followed.
    other_id, other_upstream = await created(house)
    house.sim.finish(other_upstream)
    assert await ended(house, other_id) == "completed"
    assert [entry.task_id for entry in polls(house)] == [other_upstream]
    assert await stored(house, task_id) == final


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\x00\xff" * 1000, b"[" * 100_000], ids=["empty", "cut", "bytes", "deep"]
)
async def test_the_body_is_never_read(house: House, body: bytes) -> None:
    task_id, upstream_id = await created(house)
    path = callback_of(house)
    house.sim.tasks.on_change.clear()  # the simulator itself calls nobody
    house.sim.finish(upstream_id)
    headers = {"Authorization": None, "Content-Type": "application/json"}
    reply = await house.post(path, data=body, headers=headers)
    assert (reply.status, reply.body) == (200, b"{}")
    assert await ended(house, task_id) == "completed"


async def test_a_body_that_never_comes_is_not_waited_for(house: House) -> None:
    task_id, upstream_id = await created(house)
    path = callback_of(house)
    house.sim.tasks.on_change.clear()
    house.sim.finish(upstream_id)
    async with connected(house) as raw:
        await raw.send(path, {"Content-Length": "1000000000"}, method="POST")
        assert await raw.head() == 200
        assert await raw.body() == (b"{}", True)
        assert raw.headers["Connection"] == "close"
        assert (await line_of(house, raw))["reason"] == "callback"
    assert await ended(house, task_id) == "completed"


async def test_a_call_during_a_poll_is_followed_by_another(house: House) -> None:
    """The poll under way is older than the news: its answer was made before."""
    task_id, upstream_id = await created(house)
    stalled = house.sim.faults.add(Fault("stall", service="kling", operation="poll", at=None))
    house.sim.step(upstream_id, "in_progress")
    await house.sim.wait_for(lambda e: e.operation == "poll" and e.stalled)
    house.sim.finish(upstream_id)
    await house.sim.wait_for(lambda e: e.operation == "callback" and e.done, count=2)
    stalled.release()
    assert await ended(house, task_id) == "completed"
    assert len(polls(house)) == 2


async def test_a_call_before_its_submit_was_answered_asks_nothing(house: House) -> None:
    """The upstream's id is not known yet, and a look-up now could say it never arrived."""
    stalled = house.sim.faults.add(Fault("stall", service="kling", operation="submit", at=None))
    making = asyncio.create_task(house.create(MODEL))
    await house.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)
    [render] = house.sim.tasks.of("kling")
    house.sim.step(render.id, "in_progress")
    delivered = await house.sim.wait_for(lambda e: e.operation == "callback" and e.done)
    assert delivered.status == 200
    stalled.release()
    task_id = await making
    assert house.sim.log.select("kling", "list") == polls(house) == []
    house.sim.finish(render.id)
    assert await ended(house, task_id) == "completed"
    assert house.sim.renders("kling") == 1


async def test_another_workers_call_is_as_good(house: House) -> None:
    second = await house.another_worker()
    task_id, upstream_id = await created(house)
    house.sim.tasks.on_change.clear()
    house.sim.finish(upstream_id)
    reply = await called(house, callback_of(house), base=second.url)
    assert reply.status == 200
    assert await ended(house, task_id) == "completed"


async def test_an_upstream_that_fails_the_poll_loses_nothing(house: House) -> None:
    """The task stays as it is; the next call, or the schedule, asks again."""
    task_id, upstream_id = await created(house)
    house.sim.faults.add(Fault("status", service="kling", operation="poll", status=503))
    house.sim.step(upstream_id, "in_progress")
    await house.sim.wait_for(lambda e: e.operation == "poll" and e.done)
    assert (await house.get(f"/v1/videos/{task_id}")).json()["status"] == "queued"
    house.sim.finish(upstream_id)
    assert await ended(house, task_id) == "completed"
