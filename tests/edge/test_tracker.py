"""Open tasks are asked after in time, each by one worker at a time, as gently as each provider
wants, until they end."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.model import Credential
from proxy.server.worker import Server
from proxy.sim import Account, Entry, Fault
from proxy.store import keys
from proxy.tasks.provider_calls import AT_ONCE_EACH
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.site import open_site

WAIT_S = 20.0  # only a hang gets here
FAR_S = 100_000.0


@pytest.fixture
async def held(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house whose renders move only when a test says so."""
    async with open_house(Plan(manual=True)) as house:
        yield house


def change(server: Server, **timeouts: float) -> None:
    """Other [timeouts] from now on, as a reload brings them."""
    changed = server.config.timeouts.model_copy(update=timeouts)
    server.config = replace(server.config, timeouts=changed)


async def due_ms(house: House, task_id: str) -> int | None:
    shard = keys.shard_of_task(task_id)
    assert shard is not None
    score = await house.server.store.batch.call("ZSCORE", keys.due(shard), task_id)
    return None if score is None else int(float(str(score)))


async def due_after(house: House, task_id: str, ms: int) -> int:
    """When the task is looked at next, as soon as that is later than `ms`."""
    async with asyncio.timeout(WAIT_S):
        while True:
            due = await due_ms(house, task_id)
            if due is not None and due > ms:
                return due
            await asyncio.sleep(0.005)


async def status(house: House, task_id: str, wanted: str) -> None:
    """Wait until its clients are told so."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if (await house.get(f"/v1/videos/{task_id}")).json()["status"] == wanted:
                return
            await asyncio.sleep(0.005)


async def upstream_id(house: House, task_id: str) -> str:
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    assert task.upstream_id is not None
    return task.upstream_id


def polls(house: House) -> Counter[str]:
    """How often each render was asked after."""
    return Counter(
        entry.task_id or entry.target
        for entry in house.sim.log.entries
        if entry.operation == "poll"
    )


async def metric(server: Server, line: str) -> float:
    """The value on the metrics page's line that starts so; 0 when there is none."""
    for sample in server.registry.collect():
        for one in sample.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
            if f"{one.name}{{{labels}}}" == line:
                return one.value
    return 0.0


# ---------------------------------------------------------------- one worker at a time


async def test_no_task_is_asked_after_twice_at_a_time(held: House) -> None:
    """Two workers look for what is due all the while; each poll that stands is the only one."""
    second = await held.another_worker()
    house = held
    fault = house.sim.faults.add(Fault("hold", "openai", "poll", times=None))
    tasks = [await house.create(prompt=f"cat {n}") for n in range(12)]
    renders = {await upstream_id(house, task_id) for task_id in tasks}
    await house.sim.wait_for(lambda e: e.operation == "poll" and e.stalled, count=len(tasks))

    marker = await house.create("kling-v2-6")  # many rounds of both workers go by meanwhile
    await house.sim.wait_for(lambda e: e.service == "kling" and e.operation == "poll", count=10)
    standing = [e for e in house.sim.log.entries if e.operation == "poll" and e.stalled]
    assert len(standing) == len(tasks)
    assert {e.target.rpartition("/")[2] for e in standing} == renders

    for render in renders | {await upstream_id(house, marker)}:
        house.sim.finish(render)
    fault.release()
    for task_id in [*tasks, marker]:
        assert (await house.finished(task_id))["status"] == "completed"
    assert house.sim.submits("openai") == len(tasks)
    assert await second.store.tasks.open_count() == 0


async def test_two_workers_ask_no_more_often_than_one(held: House) -> None:
    change(held.server, poll_interval_s=FAR_S, poll_max_s=FAR_S)
    await held.another_worker()  # with the same settings
    tasks = [await held.create(prompt=f"cat {n}") for n in range(12)]
    await held.sim.wait_for(lambda e: e.operation == "poll" and e.done, count=len(tasks))
    marker = await held.create("kling-v2-6")  # looked at again and again, by either worker
    for times in range(1, 12):
        await held.sim.wait_for(
            lambda e: e.service == "kling" and e.operation == "poll" and e.done, count=times
        )
        await due_after(held, marker, round(time.time() + FAR_S / 2) * 1000)
        await held.server.store.tasks.reschedule(marker, 0)
    asked = polls(held)
    assert [asked[await upstream_id(held, task_id)] for task_id in tasks] == [1] * len(tasks)


@pytest.mark.asyncio(loop_factories=["uvloop"])  # it is another process that dies
async def test_a_task_whose_worker_was_killed_is_taken_over(tmp_path: Path) -> None:
    """kill -9 in the middle of polls: the leases lapse, another worker goes on."""
    timeouts = "lease_s = 0.5\npoll_s = 0.3"
    async with open_site(tmp_path, timeouts=timeouts, sim={"manual": True}) as site:
        first = await site.worker()
        fault = site.sim.faults.add(Fault("stall", operation="poll", times=None, at=None))
        made = [await site.post(first, service) for service in ("openai", "kling", "jimeng")]
        await site.sim.wait_for(_stands, count=3)
        told = await first.accounted(3)
        assert [(line["operation"], line["status"]) for line in told] == [("create", 200)] * 3
        await first.kill()
        site.sim.faults.remove(fault)
        for task in site.sim.tasks:
            site.sim.finish(task.id)
        second = await site.worker()
        for status, video in made:
            assert status == 200
            assert (await site.ended(second, video["id"]))["status"] == "completed"
            events = await site.events(video["id"])
            assert events[0] == "reserved"
            assert events[-1] == "completed"
        assert site.submits() == {"openai": 1, "kling": 1, "jimeng": 1}


def _stands(entry: Entry) -> bool:
    return entry.operation == "poll" and entry.stalled


async def test_a_worker_that_leaves_gives_its_tasks_back(held: House) -> None:
    """Nobody waits for a lease of an hour to end."""
    change(held.server, lease_s=3600.0)
    held.sim.faults.add(Fault("hold", "openai", "poll"))
    task_id = await held.create()
    await held.sim.wait_for(_stands)
    await held.server.parts.tracker.aclose()
    held.sim.finish(await upstream_id(held, task_id))
    await held.another_worker()
    assert (await held.finished(task_id))["status"] == "completed"


async def test_what_comes_due_while_it_is_looked_at_is_looked_at_again(held: House) -> None:
    """Its owner deletes it in the middle of a poll: the same worker looks once more, afterwards,
    and the render is followed to its end."""
    change(held.server, lease_s=3600.0)
    fault = held.sim.faults.add(Fault("hold", "openai", "poll"))
    task_id = await held.create()
    render = await upstream_id(held, task_id)
    await held.sim.wait_for(_stands)
    assert (await held.request("DELETE", f"/v1/videos/{task_id}")).status == 200
    marker = await held.create("kling-v2-6")
    await held.sim.wait_for(lambda e: e.service == "kling" and e.operation == "poll", count=5)
    assert polls(held)[render] <= 1, "the first poll still stands"
    held.sim.finish(render)
    fault.release()
    async with asyncio.timeout(WAIT_S):
        while await due_ms(held, task_id) is not None:  # noqa: ASYNC110 -- no event for it
            await asyncio.sleep(0.005)
    task = await held.server.store.tasks.get(task_id)
    assert task is not None
    assert (task.stage.value, task.deleted) == ("completed", True)
    held.sim.finish(await upstream_id(held, marker))
    await held.finished(marker)


# ---------------------------------------------------------------- when


async def test_the_usual_time_is_learned_and_decides_the_first_poll(held: House) -> None:
    """Per upstream and model, from the third render on."""
    durations = held.server.store.durations
    for _ in range(3):
        task_id = await held.create()
        held.sim.finish(await upstream_id(held, task_id))
        await held.finished(task_id)
    async with asyncio.timeout(WAIT_S):  # the end is told before it is learned from
        while await durations.usual_ms("sim-openai", "sora-2") is None:
            durations._known.clear()
            await asyncio.sleep(0.005)
    assert await durations.usual_ms("sim-kling", "kling-v2-6") is None

    for _ in range(61):  # now renders usually take a minute
        await durations.add("sim-openai", "sora-2", 60_000)
    change(held.server, poll_max_s=FAR_S)
    task_id = await held.create()
    task = await held.server.store.tasks.get(task_id)
    assert task is not None
    assert task.bound_ms is not None
    due = await due_ms(held, task_id)
    assert due is not None
    assert 0.9 * 48_000 <= due - task.bound_ms <= 1.1 * 48_000 + 1

    other = await held.create("kling-v2-6")
    await held.sim.wait_for(lambda e: e.service == "kling" and e.operation == "poll", count=2)
    assert polls(held)[await upstream_id(held, task_id)] == 0
    for open_task in (task_id, other):
        held.sim.finish(await upstream_id(held, open_task))


async def test_an_upstream_that_names_a_time_is_left_alone_until_then(held: House) -> None:
    held.sim.faults.add(Fault("status", "openai", "poll", status=429, retry_after="1000"))
    task_id = await held.create()
    entry = await held.sim.wait_for(lambda e: e.operation == "poll" and e.status == 429)
    task = await held.server.store.tasks.get(task_id)
    assert task is not None
    assert task.bound_ms is not None
    due = await due_after(held, task_id, task.bound_ms + 900_000)
    assert 1_000_000 <= due - task.bound_ms <= 1_000_000 + WAIT_S * 1000
    assert entry.number == max(e.number for e in held.sim.log.entries if e.operation == "poll")
    assert (await held.get(f"/v1/videos/{task_id}")).json()["status"] == "queued"


async def test_polls_that_fail_in_a_row_come_less_and_less_often(held: House) -> None:
    change(held.server, poll_interval_s=1.0, poll_max_s=1.0)
    held.sim.faults.add(Fault("status", "openai", "poll", status=500, times=None))
    task_id = await held.create()
    await held.sim.wait_for(lambda e: e.operation == "poll" and e.status == 500)
    task = await held.server.store.tasks.get(task_id)
    assert task is not None
    assert task.bound_ms is not None
    lease_ms = 30_000
    first = await due_ms(held, task_id)
    async with asyncio.timeout(WAIT_S):
        while first is None or first - task.bound_ms > lease_ms - 5_000:
            await asyncio.sleep(0.005)
            first = await due_ms(held, task_id)
    # Once a second by the schedule; doubled after one failure, ±10 %.
    assert first - task.bound_ms >= 1_800


async def test_one_account_is_asked_so_much_at_a_time_and_holds_up_no_other(held: House) -> None:
    """More tasks of one account than it may have polls: the others wait, another account's do
    not."""
    fault = held.sim.faults.add(Fault("hold", "openai", "poll", times=None))
    tasks = [await held.create(prompt=f"cat {n}") for n in range(AT_ONCE_EACH + 8)]
    await held.sim.wait_for(_stands, count=AT_ONCE_EACH)
    other = await held.create("kling-v2-6")
    held.sim.finish(await upstream_id(held, other))
    assert (await held.finished(other))["status"] == "completed"
    assert sum(map(_stands, held.sim.log.entries)) == AT_ONCE_EACH
    for task_id in tasks:
        held.sim.finish(await upstream_id(held, task_id))
    fault.release()
    for task_id in tasks:
        assert (await held.finished(task_id))["status"] == "completed"


async def test_an_account_that_hangs_puts_its_tasks_off_and_keeps_them(held: House) -> None:
    """Its places stay taken for longer than a task may wait: the task goes back to the queue."""
    bulkhead = held.server.parts.tracker.calls.bulkhead
    change(held.server, poll_s=0.4, lease_s=0.6)  # patience: a tenth of a second
    entered = asyncio.Event()

    async def occupy() -> None:
        async with bulkhead.enter(("sim-openai", "a"), WAIT_S):
            if bulkhead.is_full(("sim-openai", "a")):
                entered.set()
            await asyncio.Event().wait()

    occupants = [asyncio.create_task(occupy()) for _ in range(AT_ONCE_EACH)]
    await entered.wait()
    task_id = await held.create()
    render = await upstream_id(held, task_id)
    await due_after(held, task_id, 0)
    other = await held.create("kling-v2-6")
    await held.sim.wait_for(lambda e: e.service == "kling" and e.operation == "poll", count=15)
    assert polls(held)[render] == 0
    for occupant in occupants:
        occupant.cancel()
    await asyncio.wait(occupants)
    for open_task in (task_id, other):
        held.sim.finish(await upstream_id(held, open_task))
        assert (await held.finished(open_task))["status"] == "completed"


async def test_a_route_says_how_old_a_task_may_get(open_house: OpenHouse) -> None:
    routes = """
[[routes]]
model = "hasty"
upstream = "sim-openai"
upstream_model = "sora-2"
max_age_s = 0.3
"""
    async with open_house(Plan(manual=True, routes=routes)) as house:
        patient = await house.create()
        hasty = await house.create("hasty")
        video = await house.finished(hasty)
        assert (video["status"], video["error"]["code"]) == ("failed", "timeout")
        events = [entry.event for entry in await house.server.store.tasks.time_line(hasty)]
        assert events[-1].startswith("gave up waiting; failed: timeout: ")
        assert (await house.get(f"/v1/videos/{patient}")).json()["status"] == "queued"
        house.sim.finish(await upstream_id(house, patient))
        assert (await house.finished(patient))["status"] == "completed"


# ---------------------------------------------------------------- what is told


async def test_an_unknown_state_is_work_in_progress_and_counted(held: House) -> None:
    body = '{"id": "x", "object": "video", "status": "dreaming", "progress": 7}'
    held.sim.faults.add(Fault("malformed", "openai", "poll", body=body))
    task_id = await held.create()
    await status(held, task_id, "in_progress")
    line = 'reelway_unknown_states_total{upstream="sim-openai"}'
    assert await metric(held.server, line) == 1
    async with held.client.get(held.server.admin_url + "/metrics") as reply:
        assert f"{line} 1.0" in await reply.text()
    held.sim.finish(await upstream_id(held, task_id))
    assert (await held.finished(task_id))["progress"] == 100


async def test_progress_is_estimated_where_a_provider_gives_none(held: House) -> None:
    """Whole numbers that never fall, by the model's usual time, and never quite there."""
    durations = held.server.store.durations
    for _ in range(3):
        await durations.add("sim-kling", "kling-v2-6", 500)
    task_id = await held.create("kling-v2-6")
    held.sim.step(await upstream_id(held, task_id), "in_progress")
    seen: list[Any] = []
    async with asyncio.timeout(WAIT_S):
        while not seen or seen[-1] < 95:
            seen.append((await held.get(f"/v1/videos/{task_id}")).json()["progress"])
            await asyncio.sleep(0.005)
    assert all(type(progress) is int for progress in seen)
    assert seen == sorted(seen)
    assert len(set(seen)) > 3
    assert max(seen) == 95
    held.sim.finish(await upstream_id(held, task_id))
    assert (await held.finished(task_id))["progress"] == 100


async def test_how_late_tasks_are_looked_at_is_measured(held: House) -> None:
    await held.create()
    await held.sim.wait_for(lambda e: e.operation == "poll", count=3)
    assert await metric(held.server, "reelway_poll_lag_seconds_count{}") >= 3


# ---------------------------------------------------------------- credentials


async def test_a_retired_credential_ends_what_it_began_and_begins_nothing(
    open_house: OpenHouse,
) -> None:
    """The credential that made a task is the only one that asks after it."""
    accounts = (Account(), Account({"openai": {"api_key": "sk-new"}}))
    async with open_house(Plan(manual=True, sim={"accounts": accounts})) as house:
        old = await house.create()
        upstream = house.server.config.upstreams["sim-openai"]
        keys_now = (
            replace(upstream.credentials[0], retired=True),
            Credential("b", api_key="sk-new"),
        )
        upstreams = {
            **house.server.config.upstreams,
            "sim-openai": replace(upstream, credentials=keys_now),
        }
        house.server.config = replace(house.server.config, upstreams=upstreams)
        new = await house.create()
        submits = house.sim.log.select("openai", "submit")
        assert [entry.account for entry in submits] == [0, 1]
        for task_id in (old, new):
            house.sim.finish(await upstream_id(house, task_id))
            assert (await house.finished(task_id))["status"] == "completed"
        asked = {
            (entry.task_id, entry.account, entry.status)
            for entry in house.sim.log.select("openai", "poll")
        }
        assert asked == {
            (await upstream_id(house, old), 0, 200),
            (await upstream_id(house, new), 1, 200),
        }
        line = await house.line(lambda line: line.get("task_id") == new)
        assert line["credential"] == "b"


# ---------------------------------------------------------------- a clock that jumped


async def test_a_due_time_of_a_wrong_clock_is_pulled_back(held: House) -> None:
    """Written while a clock was hours ahead: the task is looked at within seconds all the same,
    and nothing that is meant is moved."""
    task_id = await held.create()
    tasks = held.server.store.tasks
    now_ms = int(time.time() * 1000)
    day_ms = 24 * 3600 * 1000
    render = await upstream_id(held, task_id)
    await held.server.parts.tracker.aclose()
    await tasks.reschedule(task_id, now_ms + 2 * day_ms)
    assert await tasks.pull_back(now_ms, 3 * day_ms) == 0
    assert await due_ms(held, task_id) == now_ms + 2 * day_ms
    assert await tasks.pull_back(now_ms, day_ms) == 1
    assert await due_ms(held, task_id) == now_ms
    assert await tasks.pull_back(now_ms, day_ms) == 0
    held.sim.finish(render)
    await tasks.reschedule(task_id, now_ms + 2 * day_ms)
    await held.another_worker()  # looks when it begins, and every few seconds
    assert (await held.finished(task_id))["status"] == "completed"
