"""What finished tasks leave in the store once they have expired: shared with the soak."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import dataclass

from proxy.store import Store
from proxy.store.task_scripts import RECENT_MS
from tests.rig.house import House
from tests.rig.receivers import Receiver

AT_ONCE = 50
# Buffers of connections come and go.
SLACK_BYTES = 256 * 1024
# What stays is one for all tasks: durations, settings, tokens.
OF_TASKS = ("task", "line", "ext", "own", "end", "due", "hook", "hooked")


@dataclass(frozen=True)
class Stock:
    """What is in the store: keys by kind (`task`, `line`, …), all of them, those included whose
    time is over and which the server has not yet dropped."""

    keys: Counter[str]
    size: int
    used_bytes: int


async def stock(store: Store) -> Stock:
    names, size, info = await asyncio.gather(
        store.batch.call("KEYS", "rw:*"),
        store.batch.call("DBSIZE"),
        store.batch.call("INFO", "memory"),
    )
    assert isinstance(names, list)
    assert isinstance(size, int)
    assert isinstance(info, dict)
    texts = [name.decode() for name in names if isinstance(name, bytes)]
    kinds = Counter(text.split("}:")[-1].split(":")[0] for text in texts)
    return Stock(kinds, size, int(info["used_memory"]))


async def emptied(store: Store, wait_s: float) -> Stock:
    """The store once nothing in it belongs to a task, and without the lists of equal submits,
    which end by themselves."""
    async with asyncio.timeout(wait_s):
        while True:
            now = await stock(store)
            if not any(now.keys[kind] for kind in OF_TASKS):
                break
            await asyncio.sleep(0.05)
    submits = await store.batch.call("KEYS", "rw:*:dup:*")
    assert isinstance(submits, list)
    names = [name for name in submits if isinstance(name, bytes)]
    lives = await asyncio.gather(*(store.batch.call("PTTL", name) for name in names))
    assert all(isinstance(ms, int) and ms <= RECENT_MS and ms != -1 for ms in lives)
    await asyncio.gather(*(store.batch.call("DEL", name) for name in names))
    return await stock(store)


async def settled(store: Store, base: Stock, wait_s: float) -> Stock:
    """The emptied store once its memory is back at the base too: its server makes tables smaller
    and lets go of the buffers of connections a little at a time, after the keys have gone."""
    left = await emptied(store, wait_s)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            while left.used_bytes >= base.used_bytes + SLACK_BYTES or left.size != base.size:
                await asyncio.sleep(0.1)
                left = await stock(store)
    return left


async def finish_tasks(house: House, receiver: Receiver, numbers: range) -> None:
    """So many tasks, made and rendered: half with an id of the client's own, half told of."""
    gate = asyncio.Semaphore(8)

    async def submit(number: int, attempt: int) -> int:
        if number % 2:
            body = {"model_name": "kling-v2-6", "external_task_id": f"n{number}.{attempt}"}
            path = "/kling/v1/videos/text2video"
        else:
            body = {"model": "sora-2", "webhook": receiver.url}
            path = "/v1/videos"
        return (await house.post(path, json={**body, "prompt": "a cat"})).status

    async def make(number: int) -> None:
        async with gate:
            for attempt in range(5):  # a machine at its limit makes even a store time out
                status = await submit(number, attempt)
                if status != 503:
                    break
            assert status == 200

    await asyncio.gather(*(make(number) for number in numbers))


async def check_nothing_is_left(
    house: House, receiver: Receiver, count: int, wait_s: float
) -> None:
    """After `count` tasks and their expiry the store is as it was after the first few."""
    store = house.server.store
    await finish_tasks(house, receiver, range(AT_ONCE))
    base = await emptied(store, wait_s)
    await finish_tasks(house, receiver, range(AT_ONCE, AT_ONCE + count))
    left = await settled(store, base, wait_s)
    assert house.sim.renders("openai") + house.sim.renders("kling") >= AT_ONCE + count
    assert len(receiver.told) > 0
    assert left.keys == base.keys, (base, left)
    assert left.size == base.size, (base, left)
    assert left.used_bytes < base.used_bytes + SLACK_BYTES, (base, left)
