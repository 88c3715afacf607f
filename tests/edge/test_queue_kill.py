"""kill -9 of a worker or of its Redis while tasks wait: each goes on waiting and is sent once, or
ends refunded and was never sent."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import pytest
from aiohttp import ClientError, FormData

from proxy.model import Stage
from proxy.sim import Entry, Fault
from proxy.sim.log import SUBMITS
from tests.rig.eventually import eventually
from tests.rig.site import GUARD_S, Gate, Site, Worker, open_site

pytestmark = pytest.mark.asyncio(loop_factories=["uvloop"])  # it is other processes that die

# 1.5 s after `sent` its outcome is settled; who waits is looked at every 0.3 s.
TIMEOUTS = """\
submit_s = 1.2
connect_s = 0.3
poll_s = 0.2
lease_s = 0.3
confirm_s = 2.0
"""
UP = "sim-kling"
WAITING = b"waiting in the queue"
SENDING = b"sent attempt 1"


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """Kling has one place, and a queue; renders move when a test says so."""
    sim = {"manual": True}
    async with open_site(tmp_path, timeouts=TIMEOUTS, relayed=True, sim=sim) as opened:
        text = opened.config.read_text()
        before, kling, after = text.partition('provider = "kling"')
        after = after.replace(" }]", ", max_in_flight = 1 }]", 1)
        text = before + kling + after
        route = 'model = "kling-v2-6"\n'
        queue = 'queue = 20\nprice = { per_video = "0.40" }\n'
        opened.config.write_text(text.replace(route, route + queue))
        yield opened


def is_submit(entry: Entry) -> bool:
    return entry.operation in SUBMITS and entry.done


async def busy(site: Site, worker: Worker) -> str:
    """The place is taken."""
    status, video = await site.post(worker, "kling", key="first")
    assert (status, site.submits()["kling"]) == (200, 1)
    return str(video["id"])


async def finish_next(site: Site, number: int) -> None:
    """Wait for the `number`-th submit, and let its render end."""
    entry = await site.sim.wait_for(is_submit, count=number, timeout_s=GUARD_S)
    assert entry.task_id is not None
    site.sim.finish(entry.task_id)


async def waits(site: Site, worker: Worker, key: str) -> str:
    status, video = await site.post(worker, "kling", key=key, prompt=f"a cat {key}")
    assert (status, video["status"]) == (200, "queued")
    task = await site.store.tasks.get(str(video["id"]))
    assert task is not None
    assert task.is_waiting
    return task.id


async def stage_of(site: Site, task_id: str) -> Stage:
    task = await site.store.tasks.get(task_id)
    assert task is not None
    return task.stage


async def nothing_left(site: Site) -> None:
    """No open task, no queue, no request, and money that adds up."""
    async with asyncio.timeout(GUARD_S):
        while (  # noqa: ASYNC110 -- there is no event for it
            await site.store.tasks.open_count() or await site.store.waiting.count(UP)
        ):
            await asyncio.sleep(0.01)
        for pattern in ("rw:{q:*", "rw:*:blob:*"):
            while await site.store.batch.call("KEYS", pattern):  # noqa: ASYNC110 -- ditto
                await asyncio.sleep(0.01)
    found = await site.store.ledger.check(int(time.time() * 1000))
    assert found.problems == ()


@pytest.mark.parametrize("end", ["killed", "stopped"])
async def test_what_waits_survives_its_worker(
    site: Site, end: Literal["killed", "stopped"]
) -> None:
    """Uploads too. The next worker sends each once, in its order."""
    worker = await site.worker()
    first = await busy(site, worker)
    picture = b"\x89PNG\r\n\x1a\n" + os.urandom(700_000)
    form = FormData({"model": "kling-v2-6", "prompt": "with a picture"})
    form.add_field("input_reference", BytesIO(picture), filename="a.png", content_type="image/png")
    url = f"{worker.url}/v1/videos"
    async with site.client.post(url, data=form, headers=site.bearer) as reply:
        assert reply.status == 200, await reply.text()
        with_picture = (await reply.json())["id"]
    others = [await waits(site, worker, key) for key in ("k1", "k2")]
    await (worker.kill() if end == "killed" else worker.stop())
    assert site.submits()["kling"] == 1

    second = await site.worker()
    status, again = await site.post(second, "kling", key="k1", prompt="a cat k1")
    assert (status, again["id"]) == (200, others[0])
    for number in (1, 2, 3, 4):
        await finish_next(site, number)
    for task_id in (first, with_picture, *others):
        assert (await site.ended(second, task_id))["status"] == "completed"
    prompts = [entry.body["prompt"] for entry in site.sim.log.entries if is_submit(entry)]
    assert prompts[1:] == ["with a picture", "a cat k1", "a cat k2"]
    (upload,) = next(e.uploads for e in site.sim.log.entries if e.uploads)
    assert upload.sha256 == hashlib.sha256(picture).hexdigest()
    assert (site.submits()["kling"], site.renders()["kling"]) == (4, 4)
    await nothing_left(site)


# ---------------------------------------------------------------- at any point


@dataclass(frozen=True)
class Point:
    """Where the worker dies. `joins`: while the task comes to wait, else while it is sent from
    the queue. `submits` are those of this task; `ends` what becomes of it, None: a video."""

    at: Callable[[Site], Callable[[], Awaitable[None]]]
    joins: bool
    submits: int
    ends: str | None


def gate(pattern: bytes, hold: Literal["before", "after"]) -> Callable[[Site], Any]:
    def at(site: Site) -> Callable[[], Awaitable[None]]:
        held: Gate = site.relay.gate(pattern, hold)
        return held.reached

    return at


def fault(kind: Literal["hold", "stall"]) -> Callable[[Site], Any]:
    def at(site: Site) -> Callable[[], Awaitable[None]]:
        site.sim.faults.add(Fault(kind, "kling", "submit", at=None))

        async def reached() -> None:
            await site.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)

        return reached

    return at


NEVER = "not_submitted"
POINTS = {
    "it joins the list": Point(gate(b"{q:sim-kling}:all", "before"), True, 0, NEVER),
    "its request is kept": Point(gate(b":blob:", "after"), True, 0, NEVER),
    "it is about to wait": Point(gate(WAITING, "before"), True, 0, NEVER),
    "it waits": Point(gate(WAITING, "after"), True, 1, None),
    "its turn has come": Point(gate(b"{q:sim-kling}:ring", "after"), False, 1, None),
    "it is about to be sent": Point(gate(SENDING, "before"), False, 1, None),
    "it was marked as sent": Point(gate(SENDING, "after"), False, 0, NEVER),
    "it is on its way": Point(fault("hold"), False, 1, NEVER),
    "it was accepted": Point(fault("stall"), False, 1, None),
    "it is about to be bound": Point(gate(b"accepted as", "before"), False, 1, None),
}


@pytest.mark.parametrize("name", POINTS)
async def test_a_worker_killed_around_a_queue_loses_and_repeats_nothing(
    site: Site, name: str
) -> None:
    point = POINTS[name]
    worker = await site.worker()
    first = await busy(site, worker)
    if point.joins:
        reached = point.at(site)
        post = asyncio.create_task(site.post(worker, "kling", key="k"))
    else:
        task_id = await waits(site, worker, "k")
        reached = point.at(site)
        await finish_next(site, 1)
    await reached()
    await worker.kill()
    if point.joins:
        with pytest.raises((ClientError, ConnectionError)):
            await post
        (task_id,) = [task.id for task in await site.tasks() if task.id != first]
    for held in site.relay.gates:
        held.cut()
    site.sim.faults.clear()

    second = await site.worker()
    if point.joins:
        await finish_next(site, 1)
    if point.ends is None:
        await finish_next(site, 2)
    video = await site.ended(second, task_id)
    if point.ends is None:
        assert video["status"] == "completed", video
    else:
        assert (video["status"], video["error"]["code"]) == ("failed", point.ends)
    assert site.submits()["kling"] == 1 + point.submits
    assert site.renders()["kling"] == 1 + (point.ends is None)
    assert (await site.ended(second, first))["status"] == "completed"
    body = {} if point.joins else {"prompt": "a cat k"}
    status, again = await site.post(second, "kling", key="k", **body)
    assert status == 200
    assert (again["id"] == task_id) == (point.ends is None), "a key is free when nothing was sent"
    if point.ends is not None:
        await finish_next(site, 2 + point.submits)
        assert (await site.ended(second, again["id"]))["status"] == "completed"
    await nothing_left(site)


async def test_a_store_killed_while_tasks_wait_has_them_when_it_is_back(site: Site) -> None:
    worker = await site.worker()
    await busy(site, worker)
    tasks = [await waits(site, worker, key) for key in ("k1", "k2")]
    assert site.valkey.pid is not None
    os.kill(site.valkey.pid, signal.SIGKILL)
    await eventually(lambda: not site.valkey.is_running)
    await site.valkey.revive()
    for number in (1, 2, 3):
        await finish_next(site, number)
    for task_id in tasks:
        assert (await site.ended(worker, task_id))["status"] == "completed"
    assert (site.submits()["kling"], site.renders()["kling"]) == (3, 3)
    await nothing_left(site)


@pytest.mark.parametrize(("hold", "sent"), [("before", True), ("after", False)])
async def test_a_store_killed_at_the_mark_sends_a_waiting_task_at_most_once(
    site: Site, hold: Literal["before", "after"], sent: bool
) -> None:
    """Nothing left while it was uncertain. What was not written waits on; what was waits again, or
    is refunded when its outcome was looked into before the store heard of that."""
    worker = await site.worker()
    await busy(site, worker)
    task_id = await waits(site, worker, "k")
    mark = site.relay.gate(SENDING, hold)
    await finish_next(site, 1)
    await mark.reached()
    async with asyncio.timeout(GUARD_S):
        while not sent and await stage_of(site, task_id) is not Stage.SENT:  # noqa: ASYNC110 -- ditto
            await asyncio.sleep(0.005)
    assert site.valkey.pid is not None
    os.kill(site.valkey.pid, signal.SIGKILL)
    await eventually(lambda: not site.valkey.is_running)
    mark.cut()
    await site.valkey.revive()
    async with asyncio.timeout(GUARD_S):
        while site.submits()["kling"] == 1:
            if not sent and (await stage_of(site, task_id)).is_final:
                break
            await asyncio.sleep(0.01)
    sent = site.submits()["kling"] == 2
    if sent:
        await finish_next(site, 2)
    video = await site.ended(worker, task_id)
    if sent:
        assert video["status"] == "completed"
    else:
        assert (video["status"], video["error"]["code"]) == ("failed", NEVER)
    assert site.submits()["kling"] == site.renders()["kling"] == 1 + sent
    await nothing_left(site)


async def test_a_store_killed_as_a_task_comes_to_wait_leaves_no_task_in_doubt(site: Site) -> None:
    """Its client has it although nobody could write that it waits: it is written when the store
    is back, or the task ends refunded."""
    worker = await site.worker()
    await busy(site, worker)
    mark = site.relay.gate(WAITING, "before")
    post = asyncio.create_task(site.post(worker, "kling", key="k"))
    await mark.reached()
    assert site.valkey.pid is not None
    os.kill(site.valkey.pid, signal.SIGKILL)
    await eventually(lambda: not site.valkey.is_running)
    mark.cut()
    status, video = await post
    assert (status, video["status"]) == (200, "queued")
    await site.valkey.revive()
    await finish_next(site, 1)
    async with asyncio.timeout(GUARD_S):
        while site.submits()["kling"] == 1:
            if (await stage_of(site, video["id"])).is_final:
                break
            await asyncio.sleep(0.01)
    if site.submits()["kling"] == 2:
        await finish_next(site, 2)
    ended = await site.ended(worker, video["id"])
    assert (ended["status"] == "completed") == (site.submits()["kling"] == 2)
    assert site.renders()["kling"] == site.submits()["kling"]
    await nothing_left(site)
