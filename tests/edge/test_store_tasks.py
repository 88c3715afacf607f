"""Tasks in a real Valkey: reserved once, changed by one, leased to one, listed completely."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Literal

import pytest

from proxy.errors import Invalid, NotFound
from proxy.model import Kind, Stage, Task
from proxy.store import NotReserved, NotReservedWhy, Store, StoreFault, keys
from proxy.store.claim import share_out
from tests.rig.tasks import NOW, new_task

LEASE_MS = 30_000
RETENTION_S = 3600


async def reserved(store: Store, task: Task, due_ms: int = NOW) -> Task:
    assert await store.tasks.reserve(task, due_ms) is None
    return task


async def advance(
    store: Store,
    task: Task,
    stage: Stage,
    *,
    due_ms: int | None = NOW,
    event: str | None = "moved",
    retention_s: int = RETENTION_S,
    deleted: bool = False,
) -> Task:
    new = replace(task, version=task.version + 1, stage=stage, deleted=deleted)
    assert await store.tasks.swap(task, new, due_ms, event, retention_s) is None
    return new


# ---------------------------------------------------------------- reserve


async def test_a_reserved_task_is_stored_whole(store: Store, second: Store) -> None:
    task = await reserved(store, new_task(external_id="mine"))
    assert await second.tasks.get(task.id) == task
    assert await second.tasks.external("tok", "acme", "mine") == task.id
    assert (await second.tasks.list("acme", 10))[0] == (task,)
    assert await second.tasks.open_count() == 1
    (entry,) = await second.tasks.time_line(task.id)
    assert (entry.event, entry.version, entry.stage, entry.ms) == (
        "reserved",
        1,
        Stage.RESERVED,
        NOW,
    )


async def test_an_external_id_names_one_task_per_token(store: Store) -> None:
    """The second reservation writes nothing at all and learns the first one's id."""
    first = await reserved(store, new_task(external_id="mine"))
    late = new_task(external_id="mine")
    assert await store.tasks.reserve(late, NOW) == NotReserved(NotReservedWhy.ALIAS, first.id)
    assert await store.tasks.get(late.id) is None
    assert await store.tasks.time_line(late.id) == ()
    assert await store.tasks.open_count() == 1
    assert (await store.tasks.list("acme", 10))[0] == (first,)
    other_token = new_task(external_id="mine", token_id="other")
    assert await store.tasks.reserve(other_token, NOW) is None


async def test_an_external_id_is_taken_once_under_concurrency(store: Store, second: Store) -> None:
    attempts = [new_task(external_id="mine") for _ in range(40)]
    answers = await asyncio.gather(
        *((store, second)[n % 2].tasks.reserve(task, NOW) for n, task in enumerate(attempts))
    )
    (winner,) = (t for t, answer in zip(attempts, answers, strict=True) if answer is None)
    assert set(answers) == {None, NotReserved(NotReservedWhy.ALIAS, winner.id)}


async def test_repeating_a_reservation_leaves_the_task_alone(store: Store) -> None:
    """A caller whose answer was lost may ask again, even after the task has moved on."""
    task = await reserved(store, new_task(external_id="mine"))
    moved = await advance(store, task, Stage.SENT)
    assert await store.tasks.reserve(task, NOW) == NotReserved(NotReservedWhy.SAME, task.id)
    assert await store.tasks.get(task.id) == moved


# ---------------------------------------------------------------- swap


async def test_exactly_one_of_fifty_swappers_wins(store: Store, second: Store) -> None:
    """All want the very same change: a submit each of them would go on to make."""
    task = await reserved(store, new_task())
    new = replace(task, version=2, stage=Stage.SENT, attempt=1)
    answers = await asyncio.gather(
        *((store, second)[n % 2].tasks.swap(task, new, NOW, "sent", RETENTION_S) for n in range(50))
    )
    assert answers.count(None) == 1
    assert all(answer == new for answer in answers if answer is not None)
    assert [e.event for e in await store.tasks.time_line(task.id)] == ["reserved", "sent"]


async def test_a_lost_swap_writes_nothing(store: Store) -> None:
    task = await reserved(store, new_task())
    current = await advance(store, task, Stage.COMPLETED, due_ms=None)
    stale = replace(task, version=2, stage=Stage.FAILED)
    assert await store.tasks.swap(task, stale, NOW, "failed", RETENTION_S) == current
    assert await store.tasks.get(task.id) == current
    assert await store.tasks.open_count() == 0
    assert [e.event for e in await store.tasks.time_line(task.id)] == ["reserved", "moved"]


async def test_a_swap_of_nothing_says_so(store: Store) -> None:
    task = new_task()
    with pytest.raises(NotFound, match=task.id):
        await store.tasks.swap(task, replace(task, version=2), NOW, None, RETENTION_S)
    assert await store.tasks.get(task.id) is None


@pytest.mark.parametrize("changes", [{"version": 1}, {"version": 3}, {"id": "other"}])
async def test_a_swap_goes_one_version_on(store: Store, changes: dict[str, int]) -> None:
    task = await reserved(store, new_task())
    with pytest.raises(ValueError, match="one version"):
        await store.tasks.swap(
            task,
            replace(task, **{"version": 2, **changes}),  # type: ignore[arg-type]  # a table
            NOW,
            None,
            RETENTION_S,
        )


async def test_a_finished_task_dies_with_its_retention(store: Store) -> None:
    """Open tasks have no expiry; the final swap gives task, line and alias one, and a later
    change does not prolong it."""
    task = await reserved(store, new_task(external_id="mine"))
    names = [keys.task(task.id), keys.line(task.id), keys.alias("tok", "acme", "mine")]

    async def lives() -> list[int]:
        found = await asyncio.gather(*(store.batch.call("PTTL", name) for name in names))
        return [ms for ms in found if isinstance(ms, int)]

    running = await advance(store, task, Stage.IN_PROGRESS)
    assert await lives() == [-1, -1, -1]
    done = await advance(store, running, Stage.COMPLETED, due_ms=None, retention_s=100)
    assert all(0 < ms <= 100_000 for ms in await lives())
    await advance(store, done, Stage.COMPLETED, due_ms=None, retention_s=9999, deleted=True)
    assert all(0 < ms <= 100_000 for ms in await lives())


async def test_a_full_time_line_keeps_both_ends(store: Store) -> None:
    task = await reserved(store, new_task())
    for n in range(2, 101):
        task = await advance(store, task, Stage.QUEUED, event=f"step {n}")
    quiet = await advance(store, task, Stage.QUEUED, event=None)
    line = await store.tasks.time_line(task.id)
    assert len(line) == 64
    assert [e.version for e in line[:4]] == [1, 2, 3, 4]
    assert [e.version for e in line[-4:]] == [97, 98, 99, 100]
    assert quiet.version == 101


# ---------------------------------------------------------------- look-ups


@pytest.mark.parametrize(
    "task_id",
    ["", "video_", "video_00", "video_" + "0" * 47, "video_1f" + "0" * 46, "video_00" + "G" * 46],
)
async def test_a_malformed_id_is_an_unknown_one(store: Store, task_id: str) -> None:
    """Answered without the store: it works even on a closed one."""
    await store.close()
    assert await store.tasks.get(task_id) is None
    assert await store.tasks.time_line(task_id) == ()


async def test_many_look_ups_keep_their_order_and_leave_gaps(store: Store) -> None:
    tasks = [await reserved(store, new_task(f"owner {n}")) for n in range(5)]
    asked = [tasks[3].id, new_task().id, tasks[0].id, "nonsense", tasks[4].id]
    assert list(await store.tasks.get_many(asked)) == [tasks[3].id, tasks[0].id, tasks[4].id]


async def test_an_unreadable_record_is_a_fault_of_the_store(store: Store) -> None:
    task = await reserved(store, new_task())
    await store.batch.call("HSET", keys.task(task.id), "doc", "{")
    with pytest.raises(StoreFault):
        await store.tasks.get(task.id)


# ---------------------------------------------------------------- listing


async def pages(
    store: Store, limit: int, order: Literal["asc", "desc"], kind: Kind | None = None
) -> list[str]:
    found: list[str] = []
    after: str | None = None
    while True:
        tasks, has_more = await store.tasks.list("acme", limit, order, after, kind=kind)
        found += [task.id for task in tasks]
        if not has_more:
            return found
        assert len(tasks) == limit
        after = tasks[-1].id


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
async def test_pages_show_every_task_once_in_order(store: Store, limit: int) -> None:
    """Five tasks in each of eight milliseconds: equal times are ordered by id."""
    tasks = [new_task(created_ms=NOW + n % 8) for n in range(40)]
    await asyncio.gather(*(reserved(store, task) for task in tasks))
    await reserved(store, new_task("somebody else"))
    expected = [t.id for t in sorted(tasks, key=lambda t: (t.created_ms, t.id))]
    assert await pages(store, limit, "asc") == expected
    assert await pages(store, limit, "desc") == expected[::-1]


async def test_offset_and_kind_count_only_what_is_shown(store: Store) -> None:
    kinds = [Kind.TEXT, Kind.IMAGE, Kind.IMAGE] * 30
    tasks = [
        await reserved(store, new_task(created_ms=NOW + n, kind=kind))
        for n, kind in enumerate(kinds)
    ]
    images = [t for t in tasks if t.kind is Kind.IMAGE]
    assert await pages(store, 7, "asc", Kind.IMAGE) == [t.id for t in images]
    for offset, limit in [(0, 10), (10, 10), (57, 3), (58, 10), (60, 5), (500, 5)]:
        shown, has_more = await store.tasks.list(
            "acme", limit, "asc", offset=offset, kind=Kind.IMAGE
        )
        assert shown == tuple(images[offset : offset + limit])
        assert has_more == (len(images) > offset + limit)


async def test_a_listing_can_be_of_one_token(store: Store) -> None:
    """Two tokens of one owner share an index; each page counts only its own token's tasks."""
    tasks = [
        await reserved(store, new_task(created_ms=NOW + n, token_id=f"tok{n % 2}"))
        for n in range(40)
    ]
    listed = await store.tasks.list("acme", 3, "asc", tasks[0].id, offset=1, token_id="tok0")
    assert listed == ((tasks[4], tasks[6], tasks[8]), True)
    assert await store.tasks.list("acme", 20, "asc", token_id="tok1") == (tuple(tasks[1::2]), False)
    assert await store.tasks.list("acme", 20, token_id="other") == ((), False)


async def looked_at(store: Store) -> int:
    """How many records the store has been asked for the marks of."""
    info = await store.batch.call("INFO", "commandstats")
    assert isinstance(info, dict)
    stats = info.get("cmdstat_hmget", {"calls": 0})
    return int(stats["calls"])


async def test_a_tokens_page_costs_nothing_of_its_owners_other_tasks(store: Store) -> None:
    """Whoever has one key of a busy owner could else keep the store busy by listing."""
    others = [new_task(created_ms=NOW + n, token_id="busy") for n in range(600)]
    await asyncio.gather(*(reserved(store, task) for task in others))
    mine = [await reserved(store, new_task(created_ms=NOW + n, token_id="mine")) for n in range(4)]
    await store.tasks.list("acme", 20, token_id="mine")
    for order, expected in (("asc", mine), ("desc", mine[::-1])):
        before = await looked_at(store)
        listed = await store.tasks.list("acme", 20, order, token_id="mine")  # type: ignore[arg-type]
        assert listed == (tuple(expected), False)
        assert await looked_at(store) - before <= 2 * len(mine)


async def test_a_tokens_list_has_its_tasks_from_before_there_was_an_index(store: Store) -> None:
    """Deleted ones too: a client may go on after one."""
    tasks = [
        await reserved(store, new_task(created_ms=NOW + n, token_id=f"tok{n % 2}"))
        for n in range(600)
    ]
    await advance(store, tasks[2], Stage.FAILED, due_ms=None, deleted=True)
    for token in ("tok0", "tok1"):
        await store.batch.call("DEL", keys.token_index(token, "acme"))
    new = await reserved(store, new_task(created_ms=NOW + 600, token_id="tok0"))
    wanted = [task for task in tasks[::2] if task.id != tasks[2].id]
    listed = await store.tasks.list("acme", 1000, "asc", token_id="tok0")
    assert listed == ((*wanted, new), False)
    listed = await store.tasks.list("acme", 3, "asc", tasks[2].id, token_id="tok0")
    assert listed == (tuple(wanted[1:4]), True)


async def test_what_expires_leaves_its_tokens_index(store: Store) -> None:
    """By the sweep, and by the next end, also where nobody lists."""
    index = keys.token_index("tok", "acme")
    for _ in range(3):
        task = await reserved(store, new_task())
        await advance(store, task, Stage.FAILED, due_ms=None, retention_s=1)
    assert await store.batch.call("ZCARD", index) == 3
    assert await store.ended.sweep(NOW + 3600_000) == 3
    assert await store.batch.call("EXISTS", index) == 0
    old = await reserved(store, new_task(created_ms=NOW - 30 * 24 * 3600 * 1000))
    await advance(store, old, Stage.FAILED, due_ms=None, retention_s=0)
    await advance(store, await reserved(store, new_task()), Stage.FAILED, due_ms=None)
    assert await store.batch.call("ZCARD", index) == 1


async def test_a_client_may_delete_while_it_pages(store: Store) -> None:
    """Deleted tasks are hidden, yet the page after a deleted one is still found."""
    tasks = [await reserved(store, new_task(created_ms=NOW + n)) for n in range(6)]
    first, has_more = await store.tasks.list("acme", 3, "asc")
    assert has_more
    for task in first:
        await advance(store, task, Stage.FAILED, due_ms=None, deleted=True)
    rest, has_more = await store.tasks.list("acme", 3, "asc", first[-1].id)
    assert (rest, has_more) == (tuple(tasks[3:]), False)
    assert (await store.tasks.list("acme", 10, "asc"))[0] == tuple(tasks[3:])


async def test_expired_tasks_leave_the_index(store: Store) -> None:
    tasks = [await reserved(store, new_task(created_ms=NOW + n)) for n in range(40)]
    for task in tasks[:37]:
        await advance(store, task, Stage.FAILED, due_ms=None, retention_s=0)
    assert await store.tasks.list("acme", 3, "asc") == (tuple(tasks[37:]), False)
    assert await store.batch.call("ZCARD", keys.owner_index("acme")) == 3


async def test_an_old_index_is_swept_without_being_listed(store: Store) -> None:
    """An owner who never lists does not leave an index that only grows."""
    old = await reserved(store, new_task(created_ms=NOW - 30 * 24 * 3600 * 1000))
    await advance(store, old, Stage.FAILED, due_ms=None, retention_s=0)
    assert await store.batch.call("ZCARD", keys.owner_index("acme")) == 1
    await advance(store, await reserved(store, new_task()), Stage.FAILED, due_ms=None)
    assert await store.batch.call("ZCARD", keys.owner_index("acme")) == 1


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_a_cursor_trimmed_between_two_looks_loses_nothing(
    store: Store, order: Literal["asc", "desc"]
) -> None:
    """The page script goes on from the score of a member that has gone meanwhile."""
    members = [f"m{n}" for n in range(6)]
    for n, member in enumerate(members):
        await store.batch.call("ZADD", "rw:{00}:own:x", n // 2, member)
    await store.batch.call("ZREM", "rw:{00}:own:x", "m2")
    page = store.tasks._page
    answer = await store.batch.run(page, ["rw:{00}:own:x"], ["m2", "1", order, 2])
    assert isinstance(answer, list)
    assert answer[::2] == ([b"m3", b"m4"] if order == "asc" else [b"m3", b"m1"])


async def test_a_foreign_cursor_looks_like_an_unknown_one(store: Store) -> None:
    foreign = await reserved(store, new_task("somebody else"))
    for after in (foreign.id, new_task().id, "nonsense"):
        with pytest.raises(Invalid) as caught:
            await store.tasks.list("acme", 3, after=after)
        assert caught.value.param == "after"
        assert after not in caught.value.message


# ---------------------------------------------------------------- due


async def test_no_task_is_leased_twice(store: Store, second: Store) -> None:
    tasks = [await reserved(store, new_task(f"owner {n}")) for n in range(60)]
    claims = await asyncio.gather(
        *((store, second)[n % 2].tasks.claim_due(NOW, LEASE_MS, 10) for n in range(20))
    )
    claimed = [task_id for claim in claims for task_id in claim]
    assert len(claimed) == len(set(claimed))
    claimed += await store.tasks.claim_due(NOW, LEASE_MS, 100)
    assert sorted(claimed) == sorted(task.id for task in tasks)
    assert await store.tasks.claim_due(NOW + LEASE_MS - 1, LEASE_MS, 100) == {}
    again = await second.tasks.claim_due(NOW + LEASE_MS, LEASE_MS, 100)
    assert sorted(again) == sorted(claimed)


async def test_one_busy_owner_gets_the_whole_limit(store: Store) -> None:
    tasks = [await reserved(store, new_task(created_ms=NOW + n), due_ms=NOW + n) for n in range(30)]
    await reserved(store, new_task(), due_ms=NOW + 60_000)
    due = await store.tasks.claim_due(NOW + 100, LEASE_MS, 20)
    assert list(due.items()) == [(t.id, NOW + n) for n, t in enumerate(tasks[:20])]


async def test_a_lease_ends_with_the_task_or_a_new_time(store: Store) -> None:
    done, later = [await reserved(store, new_task()) for _ in range(2)]
    assert set(await store.tasks.claim_due(NOW, LEASE_MS, 9)) == {done.id, later.id}
    await advance(store, done, Stage.COMPLETED, due_ms=None)
    assert await store.tasks.reschedule(later.id, NOW + 5)
    assert not await store.tasks.reschedule(done.id, NOW + 5)
    assert await store.tasks.claim_due(NOW + 5, LEASE_MS, 9) == {later.id: NOW + 5}
    await store.tasks.forget_due(later.id)
    assert await store.tasks.open_count() == 0


@pytest.mark.parametrize(
    ("waiting", "limit", "shares"),
    [
        ({}, 5, {}),
        ({"a": 0}, 5, {}),
        ({"a": 100}, 5, {"a": 5}),
        ({"a": 100, "b": 1}, 5, {"a": 4, "b": 1}),
        ({"a": 9, "b": 9}, 5, {"a": 3, "b": 2}),
        ({"a": 9, "b": 9, "c": 9}, 1, {"a": 1}),
    ],
)
def test_a_limit_is_shared_out(waiting: dict[str, int], limit: int, shares: dict[str, int]) -> None:
    assert share_out(waiting, limit) == shares
