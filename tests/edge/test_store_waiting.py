"""Queues in a real Valkey: a token's tasks in the order they were made, tokens by turns, one
worker at a time."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque

import pytest

from proxy.dialects.media import MemoryBlob
from proxy.model import Media, Operation, Role, Task, VideoRequest
from proxy.store import Store, keys
from proxy.store.queued_requests import MAX_BYTES, PIECE_BYTES, pack
from tests.rig.tasks import NOW, new_task

UP = "sim-kling"
LEASE_MS = 30_000


def waiting_task(token: str, place: int = 0) -> Task:
    return new_task(token_id=token, created_ms=NOW + place)


async def joined(store: Store, *tasks: Task) -> None:
    for task in tasks:
        assert await store.waiting.join(UP, task)


async def claimed(store: Store, *passed: str, now_ms: int = NOW) -> str | None:
    return await store.waiting.next(UP, now_ms, now_ms + LEASE_MS, passed)


async def sent(store: Store) -> str | None:
    """The next one, claimed and sent."""
    task_id = await claimed(store)
    if task_id is not None:
        await store.waiting.leave(UP, task_id, served=True)
    return task_id


async def all_sent(store: Store) -> list[str]:
    order: list[str] = []
    while (task_id := await sent(store)) is not None:
        order.append(task_id)
    return order


async def nothing_left(store: Store) -> bool:
    return not await store.batch.call("KEYS", "rw:{q:*")


# ---------------------------------------------------------------- whose turn it is


async def test_tokens_take_turns_and_each_keeps_its_order(store: Store) -> None:
    """However the tasks came to the list; a token with many delays one with few by one task."""
    a = [waiting_task("a", n) for n in range(4)]
    b = [waiting_task("b", 100 + n) for n in range(2)]
    c = waiting_task("c", 200)
    await joined(store, a[2], a[0], a[3], a[1], *reversed(b), c)
    assert await store.waiting.count(UP) == 7
    order = [a[0], b[0], c, a[1], b[1], a[2], a[3]]
    assert await all_sent(store) == [task.id for task in order]
    assert await store.waiting.count(UP) == 0
    assert await nothing_left(store)


async def test_a_token_that_comes_later_has_its_turn_after_those_who_wait(store: Store) -> None:
    """One that has just had its turn waits for the next one among them."""
    a = [waiting_task("a", n) for n in range(3)]
    b = [waiting_task("b", n) for n in range(3)]
    await joined(store, *a, *b)
    order = [await sent(store)]
    c = waiting_task("c")
    await joined(store, c)
    assert [*order, *await all_sent(store)] == [
        task.id for task in (a[0], b[0], a[1], c, b[1], a[2], b[2])
    ]


@pytest.mark.parametrize("seed", range(8))
async def test_the_order_is_that_of_a_round_of_queues(store: Store, seed: int) -> None:
    """Compared with the obvious model, over random joins, ends and turns."""
    rng = random.Random(seed)
    ring: deque[str] = deque()
    queues: dict[str, list[str]] = {}
    for step in range(120):
        kind = rng.choice(("join", "join", "send", "end"))
        if kind == "join":
            task = waiting_task(rng.choice("abcd"), step)
            await joined(store, task)
            if task.token_id not in ring:
                ring.append(task.token_id)
            queues.setdefault(task.token_id, []).append(task.id)
        elif kind == "send" and ring:
            token = ring[0]
            assert await sent(store) == queues[token].pop(0)
            ring.rotate(-1)
            if not queues[token]:
                ring.remove(token)
        elif kind == "end" and ring:
            token = rng.choice(list(ring))
            gone = queues[token].pop(rng.randrange(len(queues[token])))
            await store.waiting.leave(UP, gone)
            if not queues[token]:
                ring.remove(token)
        assert await store.waiting.count(UP) == sum(map(len, queues.values()))
    rest: list[str] = []
    while ring:
        rest.append(queues[ring[0]].pop(0))
        ring.rotate(-1)
        if not queues[ring[-1]]:
            ring.pop()
    assert await all_sent(store) == rest
    assert await nothing_left(store)


async def test_upstreams_have_queues_of_their_own(store: Store) -> None:
    first, other = waiting_task("a"), waiting_task("a")
    await joined(store, first)
    assert await store.waiting.join("other", other)
    assert await store.waiting.counts([UP, "other", "none"]) == {UP: 1, "other": 1, "none": 0}
    assert await all_sent(store) == [first.id]
    assert await store.waiting.count("other") == 1


async def test_a_full_queue_takes_nobody(store: Store, second: Store) -> None:
    """Counted over all workers; who is there already stays."""
    tasks = [waiting_task("ab"[n % 2], n) for n in range(20)]
    answers = await asyncio.gather(
        *((store, second)[n % 2].waiting.join(UP, task, most=7) for n, task in enumerate(tasks))
    )
    assert sum(answers) == 7
    there = tasks[answers.index(True)]
    assert await store.waiting.join(UP, there, most=7)
    assert await store.waiting.count(UP) == 7
    assert await store.waiting.join(UP, tasks[answers.index(False)])  # put back by the tracker
    assert await store.waiting.count(UP) == 8


# ---------------------------------------------------------------- one worker at a time


async def test_each_task_is_handed_to_one_worker(store: Store, second: Store) -> None:
    tasks = [waiting_task(f"t{n}") for n in range(40)]
    await joined(store, *tasks)
    found = await asyncio.gather(*(claimed((store, second)[n % 2]) for n in range(50)))
    assert sorted(filter(None, found)) == sorted(task.id for task in tasks)


async def test_a_leased_task_holds_back_those_behind_it_and_nobody_else(store: Store) -> None:
    """It may come back to its place, so its token's next one has to wait; a lease that lapses
    hands it to somebody else."""
    a, b = [waiting_task("a", n) for n in range(2)], waiting_task("b")
    await joined(store, *a, b)
    assert await claimed(store) == a[0].id
    assert await claimed(store) == b.id
    assert await claimed(store) is None
    assert await claimed(store, now_ms=NOW + LEASE_MS) == a[0].id
    await store.waiting.release(UP, a[0].id)
    assert await claimed(store, now_ms=NOW + LEASE_MS) == a[0].id
    await store.waiting.leave(UP, a[0].id, served=True)
    assert await claimed(store, now_ms=NOW + LEASE_MS) == b.id


async def test_who_is_not_finished_joining_is_not_handed_out(store: Store) -> None:
    task = waiting_task("a")
    assert await store.waiting.join(UP, task, held_until_ms=NOW + 1000)
    assert await store.waiting.count(UP) == 1
    assert await claimed(store) is None
    await joined(store, task)  # being there already changes nothing
    assert await claimed(store) is None
    await store.waiting.release(UP, task.id)
    assert await claimed(store) == task.id


async def test_who_cannot_go_now_is_passed_over_in_favour_of_other_tokens_first(
    store: Store,
) -> None:
    a, b = [waiting_task("a", n) for n in range(3)], [waiting_task("b", n) for n in range(2)]
    await joined(store, *a, *b)
    assert await claimed(store, a[0].id) == b[0].id
    assert await claimed(store, a[0].id) == a[1].id, "b's next has to wait for b's first"
    await store.waiting.release(UP, a[1].id)
    assert await claimed(store, a[0].id, a[1].id) == a[2].id
    await store.waiting.release(UP, a[2].id)
    assert await claimed(store, *(task.id for task in a)) is None
    assert await claimed(store) == a[0].id, "its turn is not lost"


async def test_leaving_twice_is_leaving_once(store: Store) -> None:
    task = waiting_task("a")
    await joined(store, task)
    await store.waiting.leave(UP, task.id)
    await store.waiting.leave(UP, task.id, served=True)
    assert await nothing_left(store)


# ---------------------------------------------------------------- what they wait with


def big_request(size: int) -> VideoRequest:
    data = random.Random(7).randbytes(size)
    media = Media(Role.FIRST_FRAME, "image", blob=MemoryBlob(data, "image/png", "a.png"))
    return VideoRequest(Operation.CREATE, "openai", "sora-2", media=(media,))


async def test_the_largest_request_comes_back_whole(store: Store, second: Store) -> None:
    room = MAX_BYTES - len(pack(big_request(10_000_000), {}).head)
    request, task = big_request(room), waiting_task("a")
    packed = pack(request, {})
    assert packed.size == MAX_BYTES
    await store.waiting.keep(task.id, packed, 60_000)
    kept = await second.waiting.kept(task.id)
    assert kept is not None
    assert (kept.size, kept.forwarded) == (MAX_BYTES, {})
    (media,) = kept.request.media
    assert media.blob is not None
    data = b"".join(media.blob.chunks())
    assert hashlib.sha256(data).hexdigest() == request.media[0].blob.sha256  # type: ignore[union-attr]  # it has one
    await store.waiting.drop(task.id)
    assert not await store.batch.call("KEYS", "rw:*:blob:*")


async def test_every_piece_dies_by_itself(store: Store) -> None:
    task = waiting_task("a")
    await store.waiting.keep(task.id, pack(big_request(2 * PIECE_BYTES), {}), 60_000)
    for number in range(3):
        left_ms = await store.batch.call("PTTL", keys.blob(task.id, number))
        assert isinstance(left_ms, int)
        assert 0 < left_ms <= 60_000


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_a_request_that_is_not_whole_is_none(store: Store, lost: int) -> None:
    task = waiting_task("a")
    await store.waiting.keep(task.id, pack(big_request(2 * PIECE_BYTES), {}), 60_000)
    await store.batch.call("DEL", keys.blob(task.id, lost))
    assert await store.waiting.kept(task.id) is None


async def test_the_queue_of_an_upstream_nobody_asks_for_any_more_dies_too(store: Store) -> None:
    await joined(store, waiting_task("a"))
    names = await store.batch.call("KEYS", "rw:{q:*")
    assert isinstance(names, list)
    assert len(names) == 3
    for name in names:
        assert isinstance(name, bytes)
        assert await store.batch.call("PTTL", name) != -1
