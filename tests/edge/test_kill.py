"""kill -9 of a worker or of its Redis at any point of a submit: the task ends in a true state,
is never lost, and is never submitted twice."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from aiohttp import ClientError

from proxy.model import Stage
from proxy.sim import Fault
from tests.rig.eventually import eventually, read_until
from tests.rig.site import MODELS, Gate, Site, open_site

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # it is other processes that die

# A submit takes 1.2 s at most and connects in 0.3: 1.5 s after `sent` its outcome is settled.
TIMEOUTS = """\
submit_s = 1.2
connect_s = 0.3
poll_s = 0.2
lease_s = 0.3
confirm_s = 2.0
"""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path, timeouts=TIMEOUTS, relayed=True) as opened:
        yield opened


@dataclass(frozen=True)
class Point:
    """Where the worker dies. `at` makes it stop there and says when all three submits have.
    `heard` submits have arrived then, and `renders` exist. `ends` is what becomes of each task;
    None: it ends as a video. `last` is the last event before the death."""

    at: Callable[[Site], Callable[[], Awaitable[None]]]
    heard: int
    renders: int
    ends: dict[str, str | None]
    last: str


def at_gate(gate: Gate) -> Callable[[], Awaitable[None]]:
    return lambda: gate.reached(len(MODELS))


def at_fault(site: Site, fault: Fault) -> Callable[[], Awaitable[None]]:
    site.sim.faults.add(fault)

    async def reached() -> None:
        await site.sim.wait_for(
            lambda entry: entry.operation == "submit" and entry.stalled, count=len(MODELS)
        )

    return reached


def ends(openai: str | None, kling: str | None, jimeng: str | None) -> dict[str, str | None]:
    return {"openai": openai, "kling": kling, "jimeng": jimeng}


LOST = "submission_unconfirmed"
NEVER = "not_submitted"

SERVICES = {model: service for service, model in MODELS.items()}
POINTS = {
    "reserved": Point(
        lambda site: at_gate(site.relay.gate(b"sent attempt 1", "before")),
        heard=0,
        renders=0,
        ends=ends(NEVER, NEVER, NEVER),
        last="reserved",
    ),
    "sent": Point(
        lambda site: at_gate(site.relay.gate(b"sent attempt 1", "after")),
        heard=0,
        renders=0,
        ends=ends(LOST, NEVER, LOST),
        last="sent attempt 1",
    ),
    "on its way": Point(
        lambda site: at_fault(site, Fault("hold", operation="submit", times=3)),
        heard=1,
        renders=0,
        ends=ends(LOST, NEVER, LOST),
        last="sent attempt 1",
    ),
    "accepted": Point(
        lambda site: at_fault(site, Fault("stall", operation="submit", times=3, at=None)),
        heard=1,
        renders=1,
        ends=ends(LOST, None, LOST),
        last="sent attempt 1",
    ),
    "answered": Point(
        lambda site: at_gate(site.relay.gate(b"accepted as", "before")),
        heard=1,
        renders=1,
        ends=ends(LOST, None, LOST),
        last="sent attempt 1",
    ),
    "bound": Point(
        lambda site: at_gate(site.relay.gate(b"accepted as", "after")),
        heard=1,
        renders=1,
        ends=ends(None, None, None),
        last="accepted as",
    ),
}


async def cut_off(site: Site, posts: list[asyncio.Task[tuple[int, dict[str, object]]]]) -> None:
    """The clients saw their connection break, and no answer."""
    for outcome in await asyncio.gather(*posts, return_exceptions=True):
        assert isinstance(outcome, ClientError | ConnectionError), outcome


@pytest.mark.parametrize("name", POINTS)
async def test_a_worker_killed_inside_a_submit_loses_and_repeats_nothing(
    site: Site, name: str
) -> None:
    """Its clients ask again, with their keys, and have one render each at most."""
    point = POINTS[name]
    reached = point.at(site)
    first = await site.worker()
    posts = [asyncio.create_task(site.post(first, service, key=service)) for service in MODELS]
    await reached()
    await first.kill()
    await cut_off(site, posts)
    assert first.lines == [], "no line tells of a request that had no end"
    for gate in site.relay.gates:
        gate.cut()
    site.sim.faults.clear()
    assert site.submits() == dict.fromkeys(MODELS, point.heard)

    born = {SERVICES[task.model]: task for task in await site.tasks()}
    assert born.keys() == MODELS.keys()
    for task in born.values():
        assert (await site.events(task.id))[-1].startswith(point.last)

    second = await site.worker()
    again = await asyncio.gather(*(site.post(second, s, key=s) for s in MODELS))
    for service, (status, video) in zip(MODELS, again, strict=True):
        assert status == 200, (service, video)
        code = point.ends[service]
        first_end = await site.ended(second, born[service].id)
        last_end = await site.ended(second, str(video["id"]))
        said = first_end["error"]["code"] if first_end["error"] else None
        seen = (first_end["status"], said, last_end["status"], video["id"] == born[service].id)
        expected = {
            None: ("completed", None, "completed", True),
            LOST: ("failed", LOST, "failed", True),
            NEVER: ("failed", NEVER, "completed", False),  # so who asked again was served
        }
        assert seen == expected[code], service
        assert site.renders()[service] == (point.renders if code == LOST else 1), service
    assert await site.store.tasks.open_count() == 0


async def test_a_lost_job_is_found_by_the_id_we_gave_it(site: Site) -> None:
    """Kling knows each task by our own id: its time line says how it was found."""
    site.sim.faults.add(Fault("stall", "kling", "submit", at=None))
    first = await site.worker()
    post = asyncio.create_task(site.post(first, "kling"))
    await site.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
    await first.kill()
    await cut_off(site, [post])
    second = await site.worker()
    (task,) = await site.tasks()
    assert (await site.ended(second, task.id))["status"] == "completed"
    (render,) = site.sim.tasks.of("kling")
    assert (await site.events(task.id))[:3] == [
        "reserved",
        "sent attempt 1 to sim-kling/a",
        f"found as {render.id}",
    ]
    (asked,) = [e for e in site.sim.log.entries if e.operation != "submit" and task.id in e.target]
    assert asked.method == "GET"
    assert site.submits()["kling"] == 1


# ---------------------------------------------------------------- the store dies


@dataclass(frozen=True)
class StorePoint:
    """Where the store dies under a worker that lives. `gate` is where the worker stands then;
    None: at the upstream. `status` is what the client is told."""

    gate: tuple[bytes, Literal["before", "after"]] | None
    status: int
    heard: int


STORE_POINTS = {
    "before anything": StorePoint((b"|video_", "before"), 503, 0),
    "while it is marked as sent": StorePoint((b"sent attempt 1", "before"), 503, 0),
    "when it was marked as sent": StorePoint((b"sent attempt 1", "after"), 503, 0),
    "while the upstream has it": StorePoint(None, 200, 1),
    "while it is bound": StorePoint((b"accepted as", "before"), 200, 1),
    "when it was bound": StorePoint((b"accepted as", "after"), 200, 1),
}


@pytest.mark.parametrize("name", STORE_POINTS)
async def test_a_store_killed_inside_a_submit_loses_and_repeats_nothing(
    site: Site, name: str
) -> None:
    """The append-only file has what was written. What the upstream took is bound as soon as the
    store is back; what it never heard of is closed, and whoever asks again is served."""
    point = STORE_POINTS[name]
    worker = await site.worker()
    held = site.sim.faults.add(Fault("hold", "openai", "submit"))
    gate = site.relay.gate(*point.gate) if point.gate else None
    if point.gate is not None and point.heard:
        held.release()  # it stops later, at the gate
    post = asyncio.create_task(site.post(worker, "openai", key="k"))
    if gate is None:
        await site.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
    else:
        await gate.reached()
    assert site.valkey.pid is not None
    os.kill(site.valkey.pid, signal.SIGKILL)
    await eventually(lambda: not site.valkey.is_running)
    if gate is not None:
        gate.cut()
    held.release()
    status, body = await post
    assert status == point.status, body
    assert site.submits()["openai"] == point.heard
    (line,) = await worker.accounted(1)
    assert (line["status"], line["operation"]) == (status, "create")
    if status == 503:
        assert body["error"]["code"] == line["reason"] == "unavailable"
    else:
        assert (line["task_id"], line["upstream"]) == (body["id"], "sim-openai")

    await site.valkey.revive()
    again, video = await site.post(worker, "openai", key="k")
    assert again == 200, video
    assert (await site.ended(worker, video["id"]))["status"] == "completed"
    assert (site.submits()["openai"], site.renders()["openai"]) == (1, 1)
    tasks = await site.tasks()
    if status == 200:
        assert [task.id for task in tasks] == [video["id"]] == [body["id"]]
        events = await site.events(video["id"])
        assert events[:2] == ["reserved", "sent attempt 1 to sim-openai/a"]
        assert events[2].startswith("accepted as")
    else:
        *closed, last = tasks
        assert last.id == video["id"]
        for task in closed:  # by the worker itself, or by its lease: whichever is first
            assert task.stage is Stage.FAILED
            assert task.error is not None
            assert task.error.code == "not_submitted"
    await until_async(site.store.tasks.open_count)


async def until_async(count: Callable[[], Awaitable[int]]) -> None:
    await read_until(count, lambda found: not found)
