"""Deleting: hidden at once, stopped where the provider can, settled where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import pytest

from proxy.model import Stage, Task
from proxy.providers.openai import OpenAIOptions
from proxy.sim import Fault
from proxy.sim.faults import Kind
from proxy.sim.log import Entry
from proxy.store import keys
from tests.rig.eventually import read_until
from tests.rig.house import Answer, House, OpenHouse, Plan

WAIT_S = 20.0  # only a hang gets here


def served_by(house: House, kind: str) -> None:
    """The OpenAI-style upstream is this software."""
    config = house.server.config
    options = OpenAIOptions.model_validate({"server": kind})
    upstream = replace(config.upstreams["sim-openai"], options=options)
    house.server.config = replace(config, upstreams={**config.upstreams, "sim-openai": upstream})


def can_stop(status: int = 200) -> Fault:
    """An upstream of the kind that stops a render (the simulator's own does not)."""
    body = '{"object": "video.deleted", "deleted": true}'
    return Fault("status", service="openai", operation="delete", status=status, body=body)


@pytest.fixture
async def house(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house whose renders move only when told to; its upstream can stop them."""
    async with open_house(Plan(manual=True)) as opened:
        served_by(opened, "vllm-omni")
        yield opened


async def stored(house: House, task_id: str) -> Task:
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    return task


async def staged(house: House, task_id: str, stage: Stage) -> Task:
    """The task once it has come this far."""
    return await read_until(lambda: stored(house, task_id), lambda task: task.stage is stage)


async def delete(house: House, task_id: str) -> Answer:
    return await house.request("DELETE", f"/v1/videos/{task_id}")


def deletes(house: House) -> list[Entry]:
    return house.sim.log.select("openai", "delete")


async def check_hidden(house: House, task_id: str) -> None:
    """By every way there is to it."""
    for path in ("", "/content", "/events", "?wait=60"):
        reply = await house.get(f"/v1/videos/{task_id}{path}")
        assert reply.status == 404, path
    assert task_id not in (await house.get("/v1/videos")).body.decode()
    remix = await house.post(f"/v1/videos/{task_id}/remix", json={"prompt": "more"})
    assert remix.status == 404


def deleted_line(lines: list[Mapping[str, object]]) -> Mapping[str, object]:
    [line] = (line for line in lines if line["operation"] == "delete" and line["status"] == 200)
    return line


async def test_a_render_that_can_be_stopped_is_stopped(house: House) -> None:
    task_id = await house.create()
    bound = await stored(house, task_id)
    house.sim.faults.add(can_stop())
    reply = await delete(house, task_id)
    assert reply.status == 200
    assert reply.json() == {"id": task_id, "object": "video.deleted", "deleted": True}
    assert reply.headers["reelway-cancel"] == "stopped"
    [asked] = deletes(house)
    assert (asked.method, asked.task_id) == ("DELETE", None)  # it was answered by a fault
    assert asked.target == f"/v1/videos/{bound.upstream_id}"
    assert asked.headers["Authorization"] == "Bearer sk-sim"
    await check_hidden(house, task_id)
    task = await stored(house, task_id)
    assert (task.stage, task.deleted) == (Stage.FAILED, True)
    assert task.error is not None
    assert task.error.code == "cancelled"
    assert await house.server.store.tasks.open_count() == 0, "nobody asks after it any more"
    line = deleted_line(house.lines)
    assert (line["task_id"], line["reason"], line["dialect"]) == (task_id, "done", "openai")


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("sora-2-on-kling", "openai"),
        ("sora-2-on-jimeng", "openai"),
        ("sora-2", "openai"),
        ("sora-2", "sglang"),
    ],
)
async def test_a_render_that_cannot_be_stopped_is_followed_to_its_end(
    house: House, model: str, kind: str
) -> None:
    """It is paid for: a late result is written down, and shown to nobody. Its upstream is not
    asked to delete it either: some would drop the record, and the render would go on unseen."""
    served_by(house, kind)
    task_id = await house.create(model)
    bound = await stored(house, task_id)
    reply = await delete(house, task_id)
    assert (reply.status, reply.json()["deleted"]) == (200, True)
    assert reply.headers["reelway-cancel"] == "will_finish"
    assert deletes(house) == []
    house.sim.finish(str(bound.upstream_id))
    task = await staged(house, task_id, Stage.COMPLETED)
    assert task.deleted
    assert task.results
    assert task.settled_micro == task.hold_micro
    assert await house.server.store.tasks.open_count() == 0
    await check_hidden(house, task_id)


@pytest.mark.parametrize(
    ("kind", "status", "said"),
    [
        ("status", 500, "unknown"),
        ("status", 404, "unknown"),
        ("status", 429, "unknown"),
        ("status", 409, "unknown"),  # vLLM-Omni: "Cancellation in progress"
        ("status", 405, "will_finish"),
        ("status", 204, "stopped"),
        ("hangup", 0, "unknown"),
    ],
)
async def test_what_became_of_the_render_is_told_honestly(
    house: House, kind: Kind, status: int, said: str
) -> None:
    """Whatever the upstream does, the task is deleted, and followed unless it was stopped."""
    task_id = await house.create()
    house.sim.faults.add(replace(can_stop(status), kind=kind, times=None))
    reply = await delete(house, task_id)
    assert (reply.status, reply.json()["deleted"]) == (200, True)
    assert reply.headers["reelway-cancel"] == said
    is_open = await house.server.store.tasks.open_count() == 1
    assert is_open == (said != "stopped")
    await check_hidden(house, task_id)


async def test_a_gateway_in_front_can_have_only_a_render_that_stops_deleted(house: House) -> None:
    """What goes on stays visible to it: it has to tell its own client of the end."""
    wish = {"reelway-cancel": "only-stop"}
    goes_on = await house.create("sora-2-on-kling")
    reply = await house.request("DELETE", f"/v1/videos/{goes_on}", headers=wish)
    assert (reply.status, reply.headers["reelway-cancel"]) == (409, "will_finish")
    assert (await house.get(f"/v1/videos/{goes_on}")).json()["status"] == "queued"
    assert not (await stored(house, goes_on)).deleted
    stops = await house.create()
    house.sim.faults.add(can_stop())
    reply = await house.request("DELETE", f"/v1/videos/{stops}", headers=wish)
    assert (reply.status, reply.headers["reelway-cancel"]) == (200, "stopped")


async def test_an_upstream_that_is_away_is_unknown(house: House) -> None:
    task_id = await house.create()
    await house.sim.refuse("openai")
    reply = await delete(house, task_id)
    assert (reply.status, reply.headers["reelway-cancel"]) == (200, "unknown")
    await house.sim.accept("openai")
    house.sim.finish(str((await stored(house, task_id)).upstream_id))
    assert (await staged(house, task_id, Stage.COMPLETED)).deleted


async def test_a_finished_task_is_only_hidden(house: House) -> None:
    """The provider keeps or drops its file as it likes: there is nothing to stop."""
    task_id = await house.create()
    house.sim.finish(str((await stored(house, task_id)).upstream_id))
    await staged(house, task_id, Stage.COMPLETED)
    reply = await delete(house, task_id)
    assert (reply.status, reply.json()["deleted"]) == (200, True)
    assert "reelway-cancel" not in reply.headers
    assert deletes(house) == []
    await check_hidden(house, task_id)


async def test_deleting_twice_is_a_404(house: House) -> None:
    task_id = await house.create()
    replies = [await delete(house, task_id) for _ in range(2)]
    assert [reply.status for reply in replies] == [200, 404]
    assert len(deletes(house)) == 1
    missing = await delete(house, "video_none")
    assert replies[1].body.replace(task_id.encode(), b"video_none") == missing.body


async def test_deleting_at_the_same_time_succeeds_once(house: House) -> None:
    task_id = await house.create()
    second = await house.another_worker()
    replies = await asyncio.gather(
        *(
            house.request("DELETE", f"/v1/videos/{task_id}", base=base)
            for base in (house.url, second.url) * 5
        )
    )
    assert sorted(reply.status for reply in replies) == [200] + [404] * 9
    assert len(deletes(house)) == 1


async def test_a_foreign_task_cannot_be_deleted(house: House) -> None:
    task_id = await house.create()
    other = {"Authorization": f"Bearer {(await house.new_token()).token}"}
    foreign = await house.request("DELETE", f"/v1/videos/{task_id}", headers=other)
    missing = await house.request("DELETE", "/v1/videos/video_none", headers=other)
    assert foreign.status == missing.status == 404
    assert foreign.body.replace(task_id.encode(), b"video_none") == missing.body
    assert deletes(house) == []
    assert (await house.get(f"/v1/videos/{task_id}")).status == 200


async def test_a_task_polled_while_it_is_cancelled_ends_all_the_same(house: House) -> None:
    """A poll's news between the deletion and the upstream's answer takes nothing back."""
    task_id = await house.create()
    bound = await stored(house, task_id)
    stalled = house.sim.faults.add(
        Fault("stall", service="openai", operation="delete", at=None, times=1)
    )
    house.sim.faults.add(can_stop())
    deleting = asyncio.create_task(delete(house, task_id))
    await house.sim.wait_for(lambda e: e.operation == "delete" and e.stalled)
    house.sim.step(str(bound.upstream_id), "in_progress")
    await staged(house, task_id, Stage.IN_PROGRESS)
    stalled.release()
    assert (await deleting).headers["reelway-cancel"] == "stopped"
    task = await stored(house, task_id)
    assert (task.stage, task.deleted) == (Stage.FAILED, True)


async def test_a_task_that_ends_while_it_is_cancelled_keeps_its_end(house: House) -> None:
    """It has been rendered, and it is paid for."""
    task_id = await house.create()
    bound = await stored(house, task_id)
    stalled = house.sim.faults.add(Fault("stall", service="openai", operation="delete", at=None))
    house.sim.faults.add(can_stop())
    deleting = asyncio.create_task(delete(house, task_id))
    await house.sim.wait_for(lambda e: e.operation == "delete" and e.stalled)
    house.sim.finish(str(bound.upstream_id))
    await staged(house, task_id, Stage.COMPLETED)
    stalled.release()
    assert (await deleting).status == 200
    assert (await stored(house, task_id)).stage is Stage.COMPLETED


async def test_a_submit_nobody_confirmed_is_not_judged_by_its_deletion(
    open_house: OpenHouse,
) -> None:
    """What may still arrive is judged only once it would have: a look now could find nothing
    and call a render that is paid for one that never was."""
    rarely = "poll_first_s = 300\npoll_interval_s = 300\npoll_max_s = 300"
    async with open_house(Plan(manual=True, poll=rarely)) as house:
        house.sim.faults.add(Fault("lost", service="kling", operation="submit"))
        task_id = await house.create("sora-2-on-kling")
        task = await stored(house, task_id)
        assert (task.stage, task.unconfirmed) == (Stage.SENT, True)
        reply = await delete(house, task_id)
        assert (reply.status, reply.headers["reelway-cancel"]) == (200, "unknown")
        removed = await stored(house, task_id)
        shard = keys.shard_of_task(task_id)
        assert shard is not None
        score = await house.server.store.batch.call("ZSCORE", keys.due(shard), task_id)
        timeouts = house.server.config.timeouts
        settle_ms = (timeouts.submit_s + timeouts.connect_s) * 1000
        assert float(str(score)) == removed.updated_ms + settle_ms
        assert house.sim.log.select("kling", "poll") == []
        await check_hidden(house, task_id)


async def test_a_key_of_a_deleted_task_makes_no_second_one(house: House) -> None:
    """A retry that comes late is answered as the first submit was."""
    key = {"Idempotency-Key": "k"}
    body = {"model": "sora-2", "prompt": "a cat"}
    first = await house.post("/v1/videos", json=body, headers=key)
    task_id = first.json()["id"]
    house.sim.fail(str((await stored(house, task_id)).upstream_id))
    await staged(house, task_id, Stage.FAILED)
    assert (await delete(house, task_id)).status == 200
    again = await house.post("/v1/videos", json=body, headers=key)
    assert (again.status, again.json()["id"]) == (200, task_id)
    assert again.headers["idempotent-replayed"] == "true"
    assert house.sim.renders("openai") == 1
