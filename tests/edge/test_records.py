"""A task that waits is everybody's: only its next compare-and-set says whose it is, and no late
write takes it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from proxy.config import Config
from proxy.errors import NotFound
from proxy.http.outbound import Draft, Rendered
from proxy.model import Credential, Operation, Stage, Task, TaskError, Upstream, VideoRequest
from proxy.providers import PROVIDERS
from proxy.sim import Fault
from proxy.store import StoreDown, keys
from proxy.tasks import lifecycle
from proxy.tasks.dispatch import Dispatcher
from proxy.tasks.fetch import Fetcher
from proxy.tasks.planning import Attempt, SubmitPlan, attempts_of
from proxy.tasks.runtime import Runtime
from proxy.tasks.task_writer import TaskWriter
from proxy.telemetry.exchange import Exchange, Head
from proxy.upstream import Deadlines, Upstreams
from tests.rig.eventually import read_until
from tests.rig.house import House
from tests.rig.tasks import new_task

UP = "sim-kling"
RETENTION_S = 60
WAIT_S = 20.0  # only a hang gets here


def runtime_of(house: House) -> Runtime:
    server = house.server
    return Runtime(lambda: server.config, time.time, lambda: 0.5, server.metrics, server.log)


@pytest.fixture
async def records(house: House) -> AsyncIterator[TaskWriter]:
    server = house.server
    made = TaskWriter(runtime_of(house), server.store)
    yield made
    await made.aclose()


@pytest.fixture
async def dispatcher(house: House) -> AsyncIterator[Dispatcher]:
    server = house.server
    upstreams = Upstreams(Deadlines(1, 1, 1, 1), server.metrics)
    made = Dispatcher(
        runtime_of(house),
        server.store,
        upstreams,
        Fetcher(upstreams, server.parts.spool, lambda: server.config.media),
    )
    yield made
    await made.aclose()
    await upstreams.aclose()


async def reserved(house: House) -> Task:
    """One that this test alone knows of."""
    now_ms = int(time.time() * 1000)
    task = replace(new_task(house.made.record.owner, created_ms=now_ms), route="kling-v2-6")
    assert await house.server.store.tasks.reserve(task, now_ms + 600_000) is None
    return task


def began(task: Task) -> Task:
    upstream = Upstream(UP, "kling", "http://e.com", (Credential("a"),))
    draft = Draft("POST", "/")
    now_ms = int(time.time() * 1000)
    return lifecycle.sent(task, now_ms, upstream, upstream.credentials[0], "m", draft, Rendered())


async def changed(house: House, old: Task, new: Task) -> Task:
    due_ms = new.updated_ms + 600_000
    assert await house.server.store.tasks.swap(old, new, due_ms, None, RETENTION_S) is None
    return new


async def known(house: House, task: Task) -> Task:
    found = await house.server.store.tasks.get(task.id)
    assert found is not None
    return found


# ---------------------------------------------------------------- whose it is


async def test_what_was_written_to_wait_is_never_written_again_over_its_next_attempt(
    house: House, records: TaskWriter
) -> None:
    """The answer to the first writing was lost, and meanwhile somebody has sent the task."""
    task = await reserved(house)
    waits = await records.wait(task, UP, "waiting")
    assert waits == await known(house, task)
    sent = await changed(house, waits, began(waits))
    assert await records.wait(task, UP, "waiting") == sent
    assert await known(house, task) == sent


async def test_a_refused_attempt_is_put_back_only_while_it_is_the_last_one(
    house: House, records: TaskWriter
) -> None:
    task = await reserved(house)
    first = await changed(house, task, began(task))
    waits = await records.wait(first, UP, "again")
    assert (waits.is_waiting, waits.attempt, waits.upstream) == (True, 1, "")
    second = await changed(house, waits, began(waits))
    assert second.attempt == 2
    assert await records.wait(first, UP, "again") == second
    assert await known(house, task) == second


async def test_one_its_owner_deleted_meanwhile_waits_on_deleted(
    house: House, records: TaskWriter
) -> None:
    """Whoever has it next ends it."""
    task = await reserved(house)
    first = await changed(house, task, began(task))
    removed = lifecycle.removed(first, first.updated_ms)
    assert removed is not None
    await changed(house, first, removed)
    waits = await records.wait(first, UP, "again")
    assert (waits.is_waiting, waits.deleted) == (True, True)
    assert lifecycle.end_of_wait(waits, waits.updated_ms, 1000, has_place=True) is not None


async def test_of_two_that_take_over_a_waiting_task_one_has_it(
    house: House, records: TaskWriter
) -> None:
    task = await reserved(house)
    waits = await records.wait(task, UP, "waiting")
    due_ms = waits.updated_ms + 600_000
    marked = began(waits)
    assert await records.take_over(waits, marked, due_ms, "one") == marked
    assert await records.take_over(waits, began(waits), due_ms, "two") is None
    assert (await known(house, task)).version == marked.version


async def test_who_loses_a_task_to_another_takes_nothing_back(
    house: House, records: TaskWriter
) -> None:
    """Even where nothing can be made safe: what it did not write needs no safety."""
    server = house.server
    redis = server.config.redis.model_copy(update={"durability": "replica"})
    unsafe = replace(server.config, redis=redis)
    loser = TaskWriter(replace(runtime_of(house), config=lambda: unsafe), server.store)
    task = await reserved(house)
    waits = await records.wait(task, UP, "waiting")
    due_ms = waits.updated_ms + 600_000
    marked = began(waits)
    assert await records.take_over(waits, marked, due_ms, "one") == marked
    assert await loser.take_over(waits, began(waits), due_ms, "two") is None
    assert await known(house, task) == marked
    await loser.aclose()


async def test_an_attempt_of_another_is_not_made_to_wait(house: House, records: TaskWriter) -> None:
    """The same attempt of the same queue, begun by somebody else at another time."""
    task = await reserved(house)
    waits = await records.wait(task, UP, "waiting")
    theirs = await changed(house, waits, began(waits))
    assert theirs.sent_ms is not None
    ours = replace(theirs, sent_ms=theirs.sent_ms - 1)
    assert await records.wait(ours, UP, "not sent") == theirs
    assert await known(house, task) == theirs


async def test_a_task_the_store_lost_does_not_wait(house: House, records: TaskWriter) -> None:
    with pytest.raises(StoreDown):
        await records.wait(new_task(), UP, "waiting")
    waits = lifecycle.waiting(new_task(), UP, 1)
    with pytest.raises(NotFound):
        await records.take_over(waits, began(waits), 1, "sent")


async def test_whoever_comes_second_sends_nothing(house: House, dispatcher: Dispatcher) -> None:
    """A worker whose lease lapsed while it was busy, with the task as it was then."""
    config: Config = house.server.config
    upstream = config.upstreams[UP]
    limited = tuple(replace(key, max_in_flight=2) for key in upstream.credentials)
    upstreams = {**config.upstreams, UP: replace(upstream, credentials=limited)}
    house.server.config = replace(config, upstreams=upstreams)
    task = await reserved(house)
    stale = await changed(house, task, lifecycle.waiting(task, UP, task.updated_ms))
    route = next(route for route in config.routes if route.model == "kling-v2-6")
    request = VideoRequest(Operation.CREATE, "openai", "kling-v2-6", prompt="a cat")
    attempts = attempts_of(
        route, upstreams, PROVIDERS, request, task.id, None, "kling-v2-6", lambda: 0.0
    )
    plan = SubmitPlan(attempts, {}, 100)
    calls: list[str] = []
    after = await dispatcher.submit_queued(stale, plan, lambda: calls.append("first"))
    assert (after.upstream, after.attempt) == (UP, 1)
    late = await dispatcher.submit_queued(stale, plan, lambda: calls.append("second"))
    assert late.upstream_id == after.upstream_id
    assert calls == ["first"]
    assert (house.sim.submits("kling"), house.sim.renders("kling")) == (1, 1)
    assert await house.server.store.credentials.in_flight(f"{UP}/a", 0) == 1, "the first one's"


# ---------------------------------------------------------------- what is given up


class Unwritable:
    """A provider whose request cannot be written out."""

    def seal(self, *_: object) -> None:
        raise OSError("the spool's disk is gone")


async def test_a_submit_that_cannot_be_written_out_keeps_no_place(
    house: House, dispatcher: Dispatcher
) -> None:
    """Nor its names: whoever asks again is served."""
    upstream = house.server.config.upstreams[UP]
    attempt = Attempt(
        upstream,
        replace(upstream.credentials[0], max_in_flight=1),
        "m",
        Unwritable(),  # type: ignore[arg-type]  # of its protocol only what is asked for
        Draft("POST", "/"),
        Rendered(),
    )
    head = Head("POST", "/", "/", (), None, "-")  # type: ignore[arg-type]  # not read
    task = await reserved(house)
    with pytest.raises(OSError, match="disk is gone"):
        await dispatcher.submit_new(Exchange("r", head, 0), task, SubmitPlan([attempt], {}, 0))
    store = house.server.store
    assert await store.credentials.in_flight(f"{UP}/a", 0) == 0
    await read_until(store.tasks.open_count, lambda found: not found)
    ended = await known(house, task)
    assert (ended.stage, ended.deleted) == (Stage.FAILED, True)
    assert ended.error == TaskError(
        "not_submitted", "It was never submitted: it could not be written out."
    )


async def test_a_look_at_a_submit_that_is_under_way_changes_nothing(house: House) -> None:
    """Whatever made it due: what is on its way is not known to its provider yet."""
    held = house.sim.faults.add(Fault("hold", "kling", "submit"))
    body = {"model": "kling-v2-6", "prompt": "a cat"}
    post = asyncio.create_task(house.post("/v1/videos", json=body))
    await house.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)
    tasks = house.server.store.tasks
    ((task,), _) = await tasks.list(house.made.record.owner, 5)
    assert task.sent_ms is not None
    assert await tasks.reschedule(task.id, task.sent_ms)
    timeouts = house.server.config.timeouts
    settled_ms = task.sent_ms + round((timeouts.submit_s + timeouts.connect_s) * 1000)
    shard = keys.shard_of_task(task.id)
    assert shard is not None
    batch = house.server.store.batch
    await read_until(
        lambda: batch.call("ZSCORE", keys.due(shard), task.id), lambda found: found == settled_ms
    )
    assert await known(house, task) == task
    held.release()
    reply = await post
    assert (reply.status, reply.json()["id"]) == (200, task.id)
    assert (await house.finished(task.id))["status"] == "completed"
