"""A task that its upstream has lost ends, refunded, its place free; an operator can end any."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.model import Stage, Task
from proxy.providers.openai import OpenAIOptions
from proxy.server.worker import Server
from proxy.sim import Fault
from proxy.store import keys
from tests.edge.test_tracker import change, metric, upstream_id
from tests.rig.admin_client import ask, got, refused
from tests.rig.eventually import read_until
from tests.rig.house import House, OpenHouse, Plan

WAIT_S = 20.0  # only a hang gets here


def served_by(server: Server, kind: str) -> None:
    """The OpenAI-style upstream is this software, with one place for a task."""
    upstream = server.config.upstreams["sim-openai"]
    keys = tuple(replace(key, max_in_flight=1) for key in upstream.credentials)
    changed = replace(
        upstream, options=OpenAIOptions.model_validate({"server": kind}), credentials=keys
    )
    server.config = replace(
        server.config, upstreams={**server.config.upstreams, "sim-openai": changed}
    )


@pytest.fixture
async def held(open_house: OpenHouse) -> AsyncIterator[House]:
    """Renders move only when a test says so."""
    async with open_house(Plan(manual=True)) as house:
        yield house


def settle(server: Server) -> None:
    """No submit is on its way any more: a single server that says 404 may be believed."""
    change(server, submit_s=0.001, connect_s=0.001)


def program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "proxy", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def stored(house: House, task_id: str) -> Task:
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    return task


async def counted(server: Server, how: str) -> None:
    """Wait until one lost task was counted."""
    line = f'reelway_tasks_lost_total{{upstream="sim-openai",how="{how}"}}'
    await read_until(lambda: metric(server, line), lambda found: found == 1)


async def missing(house: House, task_id: str) -> Task:
    """The task once its upstream has said that it does not know it."""
    return await read_until(
        lambda: stored(house, task_id), lambda task: task.missing_ms is not None
    )


async def ended(house: House, task_id: str) -> Task:
    return await read_until(lambda: stored(house, task_id), lambda task: task.stage.is_final)


async def events(house: House, task_id: str) -> list[str]:
    return [entry.event for entry in await house.server.store.tasks.time_line(task_id)]


async def in_flight(house: House) -> int:
    answer = await house.server.store.batch.call("ZCARD", "rw:{c:sim-openai/a}:fly")
    assert isinstance(answer, int)
    return answer


@pytest.mark.parametrize("kind", ["openai", "vllm-omni", "sglang"])
async def test_a_forgotten_task_fails_and_frees_its_place(held: House, kind: str) -> None:
    """By every kind of server; the client is told why, and the next task can be sent."""
    served_by(held.server, kind)
    change(held.server, forgotten_after_s=0.2)
    task_id = await held.create()
    settle(held.server)
    assert await in_flight(held) == 1
    held.sim.forget(await upstream_id(held, task_id))
    task = await ended(held, task_id)
    assert task.error is not None
    assert (task.stage, task.error.code, task.settled_micro) == (Stage.FAILED, "lost", 0)
    shown = (await held.get(f"/v1/videos/{task_id}")).json()
    assert (shown["status"], shown["error"]["code"]) == ("failed", "lost")
    assert "not charged" in shown["error"]["message"]
    assert (await events(held, task_id))[-1].startswith("lost (forgotten); failed: lost: ")
    await counted(held.server, "forgotten")
    assert await in_flight(held) == 0
    assert await held.create(prompt="the next") != task_id


PRICED = """
[[routes]]
model = "priced"
upstream = "sim-openai"
upstream_model = "sora-2"
price = { per_video = "0.25" }
"""


async def test_a_lost_task_is_a_loss_for_its_operator(open_house: OpenHouse) -> None:
    """Its client pays nothing; the ledger says what the provider might charge."""
    async with open_house(Plan(manual=True, routes=PRICED)) as house:
        change(house.server, forgotten_after_s=0.2)
        task_id = await house.create("priced")
        settle(house.server)
        house.sim.forget(await upstream_id(house, task_id))
        task = await ended(house, task_id)
        bookings = [
            (booking.kind, booking.micro)
            async for booking in house.server.store.ledger.entries(
                task.owner, keys.month(task.created_ms)
            )
        ]
        assert sorted(bookings) == [("hold", 250_000), ("loss", 250_000), ("refund", 250_000)]


async def test_one_404_is_no_end(held: House) -> None:
    served_by(held.server, "vllm-omni")
    change(held.server, forgotten_after_s=0.0001)
    held.sim.faults.add(Fault("status", "openai", "poll", status=404, times=1))
    task_id = await held.create()
    settle(held.server)
    await held.sim.wait_for(lambda e: e.operation == "poll" and e.status == 200, count=3)
    task = await stored(held, task_id)
    assert (task.missing_ms, task.silent_ms, task.stage.is_final) == (None, None, False)
    held.sim.finish(str(task.upstream_id))
    assert (await held.finished(task_id))["status"] == "completed"


async def test_a_silent_upstream_loses_its_tasks_after_its_budget(held: House) -> None:
    change(held.server, lost_after_s=0.2)
    held.sim.faults.add(Fault("status", "openai", "poll", status=500, times=None))
    task_id = await held.create()
    task = await ended(held, task_id)
    assert task.error is not None
    assert (task.error.code, task.settled_micro) == ("lost", 0)
    assert (await events(held, task_id))[-1].startswith("lost (silent); failed: lost: ")
    await counted(held.server, "silent")


async def test_a_silence_outlives_the_worker_that_met_it(held: House) -> None:
    """Another worker goes on from the moment that stands in the task."""
    change(held.server, forgotten_after_s=100_000.0)
    task_id = await held.create()
    held.sim.forget(await upstream_id(held, task_id))
    first = await missing(held, task_id)
    await held.sim.wait_for(lambda e: e.operation == "poll" and e.status == 404, count=4)
    assert (await stored(held, task_id)).version == first.version, "no write per poll"
    second = await held.another_worker()
    await held.server.parts.tracker.aclose()
    task = await second.store.tasks.get(task_id)
    assert task is not None
    assert (task.missing_ms, task.stage.is_final) == (first.missing_ms, False)
    change(second, forgotten_after_s=0.0001)
    second.parts.tracker.ask_now(task_id)
    assert (await ended(held, task_id)).stage is Stage.FAILED


async def test_its_owner_s_delete_ends_a_task_that_is_not_there(held: House) -> None:
    served_by(held.server, "vllm-omni")
    change(held.server, poll_first_s=0.02, poll_interval_s=1000.0, poll_max_s=1000.0)
    change(held.server, forgotten_after_s=0.0001)
    fault = held.sim.faults.add(Fault("hold", "openai", "poll", times=None, skip=1))
    task_id = await held.create()
    settle(held.server)
    held.sim.forget(await upstream_id(held, task_id))
    held.server.parts.tracker.ask_now(task_id)
    await missing(held, task_id)
    fault.release()
    held.sim.faults.clear()
    reply = await held.request("DELETE", f"/v1/videos/{task_id}")
    assert (reply.status, reply.headers["reelway-cancel"]) == (200, "unknown")
    task = await stored(held, task_id)
    assert (task.stage, task.deleted) == (Stage.FAILED, True)
    assert await in_flight(held) == 0


# ---------------------------------------------------------------- by the operator's word


async def test_an_operator_ends_a_task_that_nobody_else_can_end(held: House) -> None:
    served_by(held.server, "openai")
    task_id = await held.create()
    reply = await ask(held, "POST", f"/api/tasks/{task_id}/fail", {"reason": "the box burned"})
    assert reply.status == 200, reply.body
    assert (reply.json()["status"], reply.json()["cost_micro"]) == ("failed", 0)
    task = await stored(held, task_id)
    assert task.error is not None
    assert task.error.code == "ended_by_operator"
    assert await in_flight(held) == 0
    assert await held.server.store.tasks.open_count() == 0
    last = (await got(held, f"/api/tasks/{task_id}"))["timeline"][-1]["event"]
    assert last.startswith("ended by the operator: the box burned; failed: ended_by_operator")
    status, code, _, message = await refused(held, "POST", f"/api/tasks/{task_id}/fail", {})
    assert (status, code) == (409, "conflict")
    assert "failed" in message
    assert (await refused(held, "POST", "/api/tasks/video_none/fail", {}))[0] == 404


async def test_the_command_ends_a_task_once(held: House) -> None:
    task_id = await held.create()
    command = ["task", "fail", task_id, "--reason", "gone", "--config", str(held.config_path)]
    first = await asyncio.to_thread(program, *command)
    assert first.returncode == 0, first.stderr
    assert (await stored(held, task_id)).stage is Stage.FAILED
    assert (await events(held, task_id))[-1].startswith("ended by the operator: gone; failed: ")
    again = await asyncio.to_thread(program, *command)
    assert again.returncode == 1
    assert "has ended already" in again.stderr


async def test_a_task_that_waits_can_be_ended(open_house: OpenHouse) -> None:
    """It leaves its queue: nothing is sent for it any more."""
    routes = '[[routes]]\nmodel = "q"\nupstream = "sim-openai"\nqueue = 5\n'
    async with open_house(Plan(manual=True, routes=routes)) as house:
        served_by(house.server, "openai")
        first = await house.create("q")
        waits = await house.create("q", prompt="second")
        assert (await stored(house, waits)).is_waiting
        assert (await ask(house, "POST", f"/api/tasks/{waits}/fail", {})).status == 200
        house.sim.finish(await upstream_id(house, first))
        await house.finished(first)
        assert house.sim.submits("openai") == 1
        assert await house.server.store.waiting.count("sim-openai") == 0


# ---------------------------------------------------------------- what a failed task says


async def test_the_time_line_of_a_failed_task_ends_with_its_reason(held: House) -> None:
    for model in ("sora-2", "sora-2-on-kling", "sora-2-on-jimeng"):
        task_id = await held.create(model)
        held.sim.fail(await upstream_id(held, task_id))
        task = await ended(held, task_id)
        assert task.error is not None
        last = (await events(held, task_id))[-1]
        assert last == f"failed: {task.error.code}: {task.error.message}", model


async def test_a_task_found_again_as_failed_says_why(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        change(house.server, submit_s=0.2, connect_s=0.2)
        held = house.sim.faults.add(Fault("hold", "kling", "poll", times=None))
        house.sim.faults.add(Fault("lost", service="kling", operation="submit"))
        task_id = await house.create("sora-2-on-kling")
        [render] = [t.id for t in house.sim.tasks]
        house.sim.fail(render)
        held.release()
        house.sim.faults.clear()
        task = await ended(house, task_id)
        assert task.error is not None
        last = (await events(house, task_id))[-1]
        assert last.endswith(f"failed: {task.error.code}: {task.error.message}")
