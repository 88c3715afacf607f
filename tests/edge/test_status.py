"""What a client is told of its task: only ever forward, and never a failure that is none."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.sim.faults import Fault
from proxy.sim.log import Entry
from proxy.sim.tasks import State
from tests.rig.eventually import read_until
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.refusals import (
    JIMENG,
    WAIT_S,
    assert_quiet,
    log_of,
    store_pid,
    until_logged,
)

MODELS = {"openai": "sora-2", "kling": "sora-2-on-kling", "jimeng": "sora-2-on-jimeng"}
EACH_SERVICE = pytest.mark.parametrize("service", list(MODELS))
ORDER = ["queued", "in_progress", "completed", "failed"]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path) -> Iterator[None]:
    yield
    assert_quiet(tmp_path)


class Watched:
    """One task, seen from both ends. Every look checks that nothing went backwards."""

    def __init__(self, house: House, service: str, task_id: str, upstream_id: str) -> None:
        self.house, self.service = house, service
        self.task_id, self.upstream_id = task_id, upstream_id
        self.seen: list[tuple[str, int]] = []

    def step(self, state: State, progress: int | None = None) -> None:
        self.house.sim.step(self.upstream_id, state, progress)

    async def look(self) -> dict[str, Any]:
        reply = await self.house.get(f"/v1/videos/{self.task_id}")
        assert reply.status == 200, reply.body
        video: dict[str, Any] = reply.json()
        now = (str(video["status"]), video["progress"])
        assert isinstance(now[1], int)
        assert 0 <= now[1] <= 100
        if self.seen:
            before = self.seen[-1]
            assert ORDER.index(now[0]) >= ORDER.index(before[0]), (before, now)
            assert now[1] >= before[1], (before, now)
        self.seen.append(now)
        return video

    async def until(self, status: str, progress: int | None = None) -> dict[str, Any]:
        return await read_until(
            self.look,
            lambda video: video["status"] == status and progress in (None, video["progress"]),
        )

    def is_poll(self, entry: Entry) -> bool:
        """Asked for our task; Jimeng's polls name it in the body, read only if all goes well."""
        if (entry.service, entry.operation) != (self.service, "poll"):
            return False
        return self.service == "jimeng" or self.upstream_id in entry.target

    @property
    def polls(self) -> int:
        return sum(map(self.is_poll, self.house.sim.log.entries))

    async def polled(self, times: int = 2) -> None:
        """As many polls more; when the second has begun, the first was taken in."""
        await self.house.sim.wait_for(self.is_poll, count=self.polls + times)


async def watched(house: House, service: str) -> Watched:
    task_id = await house.create(MODELS[service])
    job = house.sim.tasks.of(service)[-1]
    return Watched(house, service, task_id, job.id)


# ---------------------------------------------------------------- only forward


async def test_progress_never_falls_and_a_status_never_goes_back(open_house: OpenHouse) -> None:
    """Whatever the upstream says in between."""
    async with open_house(Plan(manual=True)) as house:
        task = await watched(house, "openai")
        assert (await task.look())["status"] == "queued"
        task.step("in_progress", 10)
        await task.until("in_progress", 10)
        task.step("in_progress", 40)
        await task.until("in_progress", 40)
        for state, progress in (("in_progress", 20), ("queued", 0), ("in_progress", 39)):
            task.step(state, progress)  # type: ignore[arg-type]  # words of the tuple
            await task.polled()
            assert (await task.look())["progress"] == 40
            assert task.seen[-1] == ("in_progress", 40)
        task.step("in_progress", 100)  # not done before there is a video
        await task.until("in_progress", 99)
        task.step("completed")
        video = await task.until("completed", 100)
        assert (video["error"], isinstance(video["completed_at"], int)) == (None, True)
        done = task.polls
        task.step("failed")
        for _ in range(3):
            assert await task.look() == video
        assert await house.server.store.tasks.open_count() == 0
        assert task.polls == done
        assert house.sim.submits("openai") == 1
        assert {line["status"] for line in house.lines} == {200}


@pytest.mark.parametrize("service", ["kling", "jimeng"])
async def test_a_status_never_goes_back_at_providers_without_progress(
    open_house: OpenHouse, service: str
) -> None:
    async with open_house(Plan(manual=True)) as house:
        task = await watched(house, service)
        task.step("in_progress")
        await task.until("in_progress")
        task.step("queued")
        await task.polled()
        assert (await task.look())["status"] == "in_progress"
        task.step("completed")
        video = await task.until("completed", 100)
        task.step("in_progress")
        assert await task.look() == video
        assert house.sim.submits(service) == 1


# What an OpenAI client reads is the first word; then generic, Kling's and Jimeng's.
STATUSES: list[tuple[State, tuple[str, str, str]]] = [
    ("queued", ("QUEUED", "submitted", "in_queue")),
    ("in_progress", ("IN_PROGRESS", "processing", "generating")),
    ("completed", ("SUCCESS", "succeed", "done")),
]


@EACH_SERVICE
async def test_every_dialect_tells_the_same_status_in_its_own_word(
    open_house: OpenHouse, service: str
) -> None:
    async with open_house(Plan(manual=True)) as house:
        task = await watched(house, service)
        for state, words in STATUSES:
            task.step(state)
            await task.until(state)
            generic = await house.get(f"/v1/video/generations/{task.task_id}")
            kling = await house.get(f"/kling/v1/videos/text2video/{task.task_id}")
            jimeng = await house.post(
                f"/?Action=CVSync2AsyncGetResult&{JIMENG}", json={"task_id": task.task_id}
            )
            told = (
                generic.json()["data"]["status"],
                kling.json()["data"]["task_status"],
                jimeng.json()["data"]["status"],
            )
            assert told == words


# ---------------------------------------------------------------- a failure that is none


DREAMING = {
    "openai": '{"id":"x","object":"video","status":"dreaming","progress":7}',
    "kling": '{"code":0,"data":{"task_id":"x","task_status":"dreaming"}}',
    "jimeng": '{"code":10000,"data":{"status":"dreaming"}}',
}


@EACH_SERVICE
async def test_a_state_nobody_knows_is_work_in_progress(
    open_house: OpenHouse, service: str
) -> None:
    """A provider's new word is told to the operator, not to clients."""
    async with open_house(Plan(manual=True)) as house:
        house.sim.faults.add(Fault("malformed", service, "poll", body=DREAMING[service]))
        task = await watched(house, service)
        video = await task.until("in_progress")
        assert video["error"] is None
        told = await until_logged(house, "unknown state")
        assert (told["state"], told["task_id"]) == ("dreaming", task.task_id)
        task.step("completed")
        await task.until("completed")


TROUBLE = [
    Fault("status", status=500),
    Fault("status", status=502, body="<html>bad gateway</html>"),
    Fault("status", status=429, retry_after="0"),
    Fault("status", status=401),
    Fault("status", status=404),
    Fault("redirect", location="http://127.0.0.1:1/"),
    Fault("malformed"),
    Fault("malformed", body="[]"),
    Fault("malformed", body=""),
    Fault("lost"),
    Fault("hangup", reset=True),
    Fault("cut", at=5),
    Fault("stall", at=None),
]


async def test_a_poll_that_goes_wrong_never_fails_a_task(open_house: OpenHouse) -> None:
    """Nor does an upstream that is gone for a while: the render goes on without us."""
    async with open_house(Plan(manual=True, timeouts="poll_s = 0.1")) as house:
        await asyncio.gather(*(survives_trouble(house, service) for service in MODELS))
        assert {line["status"] for line in house.lines if line["operation"] == "get"} == {200}


async def survives_trouble(house: House, service: str) -> None:
    task = await watched(house, service)
    task.step("in_progress")
    await task.until("in_progress")
    for fault in TROUBLE:
        active = house.sim.faults.add(replace(fault, service=service, operation="poll"))
        await task.polled(2)
        assert active.hits == 1, (service, fault)
        video = await task.look()
        assert (video["status"], video["error"]) == ("in_progress", None), (service, fault)
        house.sim.faults.remove(active)
    await house.sim.refuse(service)
    await until_logged(house, "upstream did not answer", "no connection", task_id=task.task_id)
    assert (await task.look())["status"] == "in_progress"
    await house.sim.accept(service)
    task.step("completed")
    await task.until("completed")
    assert (house.sim.submits(service), house.sim.renders(service)) == (1, 1)


FORGOTTEN = {"openai": "timeout", "kling": "timeout", "jimeng": "expired"}


async def test_a_task_its_provider_forgot_fails_in_the_end(open_house: OpenHouse) -> None:
    """Jimeng says so itself; "no such task" of the others may be another replica's answer, so
    that only the task's greatest age ends it."""
    async with open_house(Plan(manual=True, timeouts="task_max_age_s = 0.4")) as house:
        for service, code in FORGOTTEN.items():
            task = await watched(house, service)
            house.sim.forget(task.upstream_id)
            video = await task.until("failed")
            assert video["error"]["code"] == code, service
            assert video["error"]["message"]
            assert house.sim.submits(service) == 1
        assert await house.server.store.tasks.open_count() == 0


FAILURES: list[tuple[str, int | str | None, str]] = [
    ("openai", "moderation_blocked", "moderation_blocked"),
    ("openai", None, "upstream_error"),
    ("kling", 1301, "moderation_blocked"),
    ("jimeng", 50516, "moderation_blocked"),
    ("jimeng", 50520, "upstream_error"),  # its content check broke down
]


async def test_a_render_that_failed_is_told_with_a_reason(open_house: OpenHouse) -> None:
    """In every dialect, and in place of the video."""
    async with open_house(Plan(manual=True)) as house:
        for service, native, code in FAILURES:
            task = await watched(house, service)
            house.sim.fail(task.upstream_id, native)
            video = await task.until("failed")
            case = (service, native)
            assert video["error"]["code"] == code, case
            content = await house.get(f"/v1/videos/{task.task_id}/content")
            assert (content.status, content.json()["error"]["code"]) == (404, "video_failed"), case
            generic = (await house.get(f"/v1/video/generations/{task.task_id}")).json()
            assert generic["data"]["status"] == "FAILURE", case
            assert generic["data"]["fail_reason"] == video["error"]["message"], case
            kling = (await house.get(f"/kling/v1/videos/text2video/{task.task_id}")).json()
            assert kling["data"]["task_status"] == "failed", case
            assert kling["data"]["task_status_msg"] == video["error"]["message"], case
            jimeng = await house.post(
                f"/jimeng/?Action=CVSync2AsyncGetResult&{JIMENG}", json={"task_id": task.task_id}
            )
            assert (jimeng.status, jimeng.json()["data"]) == (400, None), case
            usual = 50516 if code == "moderation_blocked" else 50500
            assert jimeng.json()["code"] == (native if service == "jimeng" else usual), case


# ---------------------------------------------------------------- who asks, and when


async def test_clients_that_ask_never_make_us_ask(open_house: OpenHouse) -> None:
    """A status is answered from state: a client in a tight loop costs the provider nothing."""
    async with open_house(Plan(manual=True)) as house:
        task = await watched(house, "openai")
        task.step("in_progress", 10)
        await task.until("in_progress", 10)
        await house.server.parts.tracker.aclose()
        before = task.polls
        for path in (
            f"/v1/videos/{task.task_id}",
            f"/v1/videos/{task.task_id}/content",
            f"/v1/video/generations/{task.task_id}",
            "/v1/videos",
        ):
            for _ in range(10):
                await house.get(path)
        assert task.polls == before


async def test_a_deleted_task_is_followed_to_its_end(open_house: OpenHouse) -> None:
    """It was paid for, and its slot at the provider is counted: hidden, not forgotten."""
    async with open_house(Plan(manual=True)) as house:
        task = await watched(house, "kling")
        reply = await house.request("DELETE", f"/v1/videos/{task.task_id}")
        assert (reply.status, reply.json()["deleted"]) == (200, True)
        assert (await house.get(f"/v1/videos/{task.task_id}")).status == 404
        await task.polled()
        assert await house.server.store.tasks.open_count() == 1
        task.step("completed")
        await read_until(house.server.store.tasks.open_count, lambda found: not found)
        assert (await house.get(f"/v1/videos/{task.task_id}")).status == 404
        ended = await house.server.store.tasks.get(task.task_id)
        assert ended is not None
        assert (ended.stage.value, ended.deleted) == ("completed", True)


# ---------------------------------------------------------------- workers and stores that die


async def test_another_worker_takes_over_the_polls_of_one_that_died(open_house: OpenHouse) -> None:
    """In the middle of a poll even: its lease lapses, and nothing is submitted again."""
    async with open_house(Plan(manual=True, timeouts="lease_s = 0.3")) as house:
        house.sim.faults.add(Fault("hold", "openai", "poll"))
        task = await watched(house, "openai")
        await house.sim.wait_for(lambda entry: entry.stalled)
        await house.server.parts.tracker.aclose()
        worker = await house.another_worker()
        await task.polled()
        task.step("completed")
        await task.until("completed")  # the first worker's clients are told all the same
        reply = await house.get(f"/v1/videos/{task.task_id}/content", base=worker.url)
        assert reply.status == 200
        assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)


async def test_tasks_survive_the_end_of_every_worker(open_house: OpenHouse) -> None:
    """A restart of the only worker: what was rendering meanwhile is found again."""
    async with open_house(Plan(manual=True)) as house:
        worker = await house.another_worker()
        await house.server.parts.tracker.aclose()
        task = await watched(house, "kling")
        await task.polled()
        await worker.__aexit__()
        before = task.polls
        task.step("completed")
        assert (await task.look())["status"] == "queued"  # nobody asks any more
        successor = await house.another_worker()
        await task.until("completed")
        assert task.polls > before
        reply = await house.get(f"/v1/videos/{task.task_id}", base=successor.url)
        assert reply.json()["status"] == "completed"
        assert house.sim.submits("kling") == 1


async def test_a_store_that_dies_and_comes_back_has_lost_nothing(open_house: OpenHouse) -> None:
    """Meanwhile clients are told to come back; afterwards the task goes on where it was."""
    # A poll under way at the kill is not recorded; its lease has to end within the test.
    async with open_house(Plan(manual=True, timeouts="lease_s = 2", embedded=True)) as house:
        task = await watched(house, "openai")
        task.step("in_progress", 30)
        await task.until("in_progress", 30)
        os.kill(await store_pid(house), signal.SIGKILL)
        task.step("completed")
        async with asyncio.timeout(WAIT_S):
            while True:
                reply = await house.get(f"/v1/videos/{task.task_id}")
                if reply.status == 503:
                    assert int(reply.headers["Retry-After"]) >= 1
                else:
                    assert reply.status == 200
                    assert reply.json()["status"] in ("in_progress", "completed")
                    if reply.json()["status"] == "completed":
                        break
                await asyncio.sleep(0.01)
        assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)
        assert any("embedded store died" in line["event"] for line in log_of(house))
        await house.create(prompt="another")
