"""The list of all tasks, newest first, and what was made by day: both kept by the scripts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from proxy.model import Result, Stage, Task, TaskError
from proxy.store import Place, Store, keys
from proxy.store.listing import MOST_LOOKED_AT, WINDOW, Walk
from proxy.store.usage import Use
from tests.rig.tasks import NOW, new_task

DAY_MS = 24 * 3600 * 1000


async def made(store: Store, *tasks: Task) -> list[Task]:
    for first in range(0, len(tasks), 100):
        await asyncio.gather(*(store.tasks.reserve(t, NOW) for t in tasks[first : first + 100]))
    return list(tasks)


def at(owner: str, ms: int) -> Task:
    task = new_task(owner)
    return replace(task, created_ms=NOW + ms, updated_ms=NOW + ms)


async def walked(store: Store, limit: int, owner: str | None = None) -> list[str]:
    """All pages, each of them full but the last."""
    ids: list[str] = []
    after: Place | None = None
    while True:
        tasks, after = await store.made.page(limit, after, owner)
        ids += [task.id for task in tasks]
        if after is None:
            return ids
        assert len(tasks) == limit


async def test_all_tasks_come_newest_first_whoever_made_them(store: Store) -> None:
    """Over all shards, one owner with more than are read in one step; pages fit together."""
    owners = [f"owner {number}" for number in range(30)] + ["busy"] * (3 * WINDOW)
    tasks = await made(store, *(at(owner, n) for n, owner in enumerate(owners)))
    newest_first = [task.id for task in reversed(tasks)]
    assert await walked(store, 7) == newest_first
    assert await walked(store, 1000) == newest_first
    assert await walked(store, len(tasks)) == newest_first
    busy = [task.id for task in reversed(tasks) if task.owner == "busy"]
    assert await walked(store, 50, "busy") == busy
    assert await walked(store, 50, "nobody") == []


async def test_tasks_of_one_moment_are_each_listed_once(store: Store) -> None:
    """More of one shard than one step reads: the place alone says where to go on."""
    tasks = await made(store, *(at("busy", 0) for _ in range(3 * WINDOW + 5)))
    ids = await walked(store, 10)
    assert ids == sorted((task.id for task in tasks), reverse=True)


async def test_a_walk_goes_both_ways(store: Store) -> None:
    names = [f"rw:{{0{n}}}:walk" for n in range(3)]
    members = [
        (name, score, f"m{score}.{n}") for score in range(40) for n, name in enumerate(names)
    ]
    await asyncio.gather(*(store.batch.call("ZADD", n, score, m) for n, score, m in members))
    for down in (True, False):
        found: list[Place] = []
        walk = Walk(store.batch, names, down=down)
        while step := await walk.step(found[-1] if found else None):
            found += step
        expected = sorted(((s, m) for _, s, m in members), reverse=down)
        assert [(p.score, p.member) for p in found] == expected


async def test_a_page_costs_a_bounded_look_however_few_are_wanted(store: Store) -> None:
    tasks = await made(store, *(at("busy", n) for n in range(MOST_LOOKED_AT + 200)))
    oldest = tasks[0].id
    found, after = await store.made.page(5, is_wanted=lambda task: task.id == oldest)
    assert found == []
    assert after is not None
    found, after = await store.made.page(5, after, is_wanted=lambda task: task.id == oldest)
    assert ([task.id for task in found], after) == ([oldest], None)


async def end(store: Store, task: Task, **changes: object) -> None:
    new = replace(task, version=task.version + 1, **changes)  # type: ignore[arg-type]  # names
    assert await store.tasks.swap(task, new, None, "ended", 3600) is None


async def test_each_day_counts_what_was_made_of_it(store: Store) -> None:
    """By the day of the submit, also for what ends later; a change after the end adds nothing."""
    one, two, three = (at("acme", 0), at("acme", 0), at("acme", DAY_MS))
    other = replace(at("a b", 0), model="kling v2")
    await made(store, one, two, three, other)
    clips = (Result(seconds=4.0), Result(seconds=4.5))
    ended_ms = NOW + 2 * DAY_MS
    done = replace(
        one, version=2, stage=Stage.COMPLETED, results=clips, settled_micro=700, updated_ms=ended_ms
    )
    assert await store.tasks.swap(one, done, None, "completed", 3600) is None
    await end(store, done, deleted=True)
    await end(store, two, stage=Stage.FAILED, error=TaskError("timeout", "too long"))
    day, next_day = keys.day(NOW), keys.day(NOW + DAY_MS)
    of_acme = Use(day, "acme", one.model, 2, 1, 1, 8500, 700)
    assert await store.usage.of_day(day) == (Use(day, "a b", "kling v2", 1), of_acme)
    assert await store.usage.of_day(day, "acme") == (of_acme,)
    assert await store.usage.of_day(next_day) == (Use(next_day, "acme", one.model, 1),)
    assert await store.usage.of_day(keys.day(ended_ms)) == ()


async def test_a_submit_made_again_is_counted_once(store: Store) -> None:
    task = at("acme", 0)
    await made(store, task)
    await made(store, task)
    assert [use.submits for use in await store.usage.of_day(keys.day(NOW))] == [1]
