"""Waiting costs nothing but a look per change, ends on time, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.errors import Invalid
from proxy.gateway.request import MAX_WAIT_S, wait_of
from proxy.model import Kind, Operation, Stage, Task
from proxy.tasks.changes import TaskChanges

LONG_S = 60.0
TASK = Task(
    id="video_1",
    owner="acme",
    token_id="tok",
    dialect="openai",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="sora-2",
    created_ms=0,
    updated_ms=0,
)


class Room:
    """The one task there is, and how often somebody looked."""

    def __init__(self) -> None:
        self.task: Task | None = TASK
        self.looks = 0
        self.changes = TaskChanges(self.load)

    async def load(self, task_id: str) -> Task | None:
        self.looks += 1
        await asyncio.sleep(0)
        return self.task if task_id == TASK.id else None

    def move(self, stage: Stage) -> None:
        assert self.task is not None
        self.task = replace(self.task, stage=stage, version=self.task.version + 1)
        self.changes.notify(TASK.id)

    def wait(self, seconds: float = LONG_S) -> asyncio.Task[Task | None]:
        return asyncio.create_task(self.changes.wait_until(TASK.id, has_ended, seconds))

    async def waiting(self, count: int, looks: int = 1) -> None:
        """Until so many wait and have looked so often."""
        async with asyncio.timeout(20):
            while self.changes.waiters < count or self.looks < count * looks:  # noqa: ASYNC110
                await asyncio.sleep(0)


def has_ended(task: Task) -> bool:
    return task.stage.is_final


@pytest.fixture
def room() -> Room:
    return Room()


async def test_what_is_so_already_is_not_waited_for(room: Room) -> None:
    room.move(Stage.COMPLETED)
    assert await room.changes.wait_until(TASK.id, has_ended, LONG_S) == room.task
    assert (room.looks, room.changes.waiters) == (1, 0)


async def test_a_task_that_is_not_there_is_not_waited_for(room: Room) -> None:
    assert await room.changes.wait_until("video_2", has_ended, LONG_S) is None
    assert room.changes.waiters == 0


async def test_a_change_wakes_everybody_and_only_the_wanted_one_ends_it(room: Room) -> None:
    waiters = [room.wait() for _ in range(100)]
    await room.waiting(100)
    room.move(Stage.IN_PROGRESS)
    await room.waiting(100, looks=2)
    assert not any(waiter.done() for waiter in waiters)
    room.move(Stage.COMPLETED)
    assert await asyncio.gather(*waiters) == [room.task] * 100
    assert room.changes.waiters == 0


async def test_the_news_of_another_task_wakes_nobody(room: Room) -> None:
    waiter = room.wait()
    await room.waiting(1)
    room.changes.notify("video_2")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (room.looks, waiter.done()) == (1, False)
    room.move(Stage.FAILED)
    assert await waiter == room.task


async def test_a_change_between_the_look_and_the_wait_is_not_lost() -> None:
    """The message comes while the (older) state is being read."""
    moved = replace(TASK, stage=Stage.COMPLETED, version=2)
    states = [TASK, moved]

    async def load(_task_id: str) -> Task:
        state = states.pop(0)
        if state is TASK:
            changes.notify(TASK.id)
        await asyncio.sleep(0)
        return state

    changes = TaskChanges(load, look_s=LONG_S)
    async with asyncio.timeout(20):
        assert await changes.wait_until(TASK.id, has_ended, LONG_S) == moved
    assert changes.waiters == 0


async def test_when_the_time_is_over_it_is_as_it_is(room: Room) -> None:
    assert await room.changes.wait_until(TASK.id, has_ended, 0) == TASK
    assert await room.changes.wait_until(TASK.id, has_ended, 0.01) == TASK
    assert (room.looks, room.changes.waiters) == (3, 0)


async def test_a_waiter_that_leaves_takes_nothing_from_the_others(room: Room) -> None:
    stays, leaves = room.wait(), room.wait()
    await room.waiting(2)
    leaves.cancel()
    await asyncio.wait([leaves])
    assert room.changes.waiters == 1
    room.move(Stage.COMPLETED)
    assert await stays == room.task


async def test_a_task_nobody_waits_for_any_more_is_forgotten(room: Room) -> None:
    """Each of a client's ids would stay for ever otherwise."""
    waiters = [room.wait() for _ in range(3)]
    await room.waiting(3)
    for waiter in waiters:
        waiter.cancel()
    await asyncio.wait(waiters)
    assert room.changes.waiters == 0
    assert not room.changes._waiting


async def test_a_lost_subscription_makes_everybody_look(room: Room) -> None:
    waiter = room.wait()
    await room.waiting(1)
    room.task = replace(TASK, stage=Stage.COMPLETED, version=2)  # and nobody said so
    room.changes.notify_all()
    assert await waiter == room.task


async def test_who_hears_nothing_looks_now_and_then() -> None:
    room = Room()
    room.changes = TaskChanges(room.load, look_s=0.001)
    waiter = room.wait()
    await room.waiting(1)
    room.task = replace(TASK, stage=Stage.COMPLETED, version=2)
    assert await waiter == room.task


async def test_a_drain_ends_every_wait_and_lets_none_begin(room: Room) -> None:
    waiters = [room.wait() for _ in range(3)]
    pause = asyncio.create_task(room.changes.pause(LONG_S))
    await room.waiting(3)
    room.changes.close()
    assert await asyncio.gather(*waiters) == [TASK, TASK, TASK]
    await pause
    assert await room.wait() == TASK
    await room.changes.pause(LONG_S)
    assert room.changes.waiters == 0


async def test_a_store_that_fails_fails_the_wait(room: Room) -> None:
    async def load(_task_id: str) -> Task:
        raise OSError("down")

    changes = TaskChanges(load)
    with pytest.raises(OSError, match="down"):
        await changes.wait_until(TASK.id, has_ended, LONG_S)
    assert changes.waiters == 0


# ---------------------------------------------------------------- how long a client asks to wait


@pytest.mark.parametrize(
    ("query", "prefer", "seconds"),
    [
        (None, [], 0),
        ("0", [], 0),
        ("1", [], 1),
        ("60", [], 60),
        ("007", [], 7),
        ("5", ["wait=50"], 5),
        (None, ["wait=5"], 5),
        (None, ["Wait = 5"], 5),
        (None, ['wait="5"'], 5),
        (None, ["respond-async, wait=10"], 10),
        (None, ["wait=10;strict, respond-async"], 10),
        (None, ["respond-async", "wait=10"], 10),
        (None, ["wait=61"], MAX_WAIT_S),
        (None, ["wait=86400"], MAX_WAIT_S),
        (None, ["wait=999999999"], MAX_WAIT_S),
        (None, ["wait=-1"], 0),
        (None, ["wait=soon"], 0),
        (None, ["wait"], 0),
        (None, ["await=10"], 0),
        (None, ["wait=1.5"], 0),
    ],
)
def test_a_wish_to_wait_is_granted_as_far_as_a_minute(
    query: str | None, prefer: list[str], seconds: int
) -> None:
    headers = CIMultiDictProxy(CIMultiDict([("Prefer", value) for value in prefer]))
    assert wait_of({} if query is None else {"wait": query}, headers) == seconds


@pytest.mark.parametrize("text", ["61", "600", "-1", "1.5", "abc", "", " 5", "٣", "0060"])
def test_a_wait_that_cannot_be_is_named(text: str) -> None:
    with pytest.raises(Invalid, match="0 to 60") as caught:
        wait_of({"wait": text}, CIMultiDictProxy(CIMultiDict()))
    assert caught.value.param == "wait"
