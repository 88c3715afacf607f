"""Every change is heard by every worker, and a deaf moment never goes unnoticed."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import replace

import pytest

from proxy.model import Stage
from proxy.server.embedded_store import Embedded
from proxy.store import Store, StoreDown, TokenRecord, keys
from tests.rig.eventually import GUARD_S, eventually, read_until
from tests.rig.tasks import NOW, new_task


class Ear:
    """What one worker heard, in order; None stands for a loss."""

    def __init__(self) -> None:
        self._heard: asyncio.Queue[tuple[str, str, int] | None] = asyncio.Queue()

    def hear(self, kind: str, name: str, version: int) -> None:
        self._heard.put_nowait((kind, name, version))

    def lose(self) -> None:
        self._heard.put_nowait(None)

    async def next(self) -> tuple[str, str, int] | None:
        return await asyncio.wait_for(self._heard.get(), GUARD_S)

    @property
    def is_empty(self) -> bool:
        return self._heard.empty()


async def test_every_change_is_heard_once(store: Store, second: Store) -> None:
    ears = Ear(), Ear()
    for worker, ear in zip((store, second), ears, strict=True):
        await worker.listen(ear.hear, ear.lose)
    task = new_task()
    record = TokenRecord("t", "00", "name", "acme", NOW)
    await store.tasks.reserve(task, NOW)
    new = replace(task, version=2, stage=Stage.SENT)
    await store.tasks.swap(task, new, NOW, None, 60)
    await store.tasks.swap(task, new, NOW, None, 60)  # lost: says nothing
    await store.tasks.reserve(task, NOW)  # repeated: says nothing
    await store.tokens.create(record)
    await store.tokens.rotate("t", "11", NOW)
    await store.tokens.revoke("t", NOW)
    for ear in ears:
        assert [await ear.next() for _ in range(4)] == [
            ("task", task.id, 1),
            ("task", task.id, 2),
            ("token", "t", 2),
            ("token", "t", 2),
        ]
        assert ear.is_empty


async def test_a_killed_store_is_one_loss_and_is_heard_again(own_valkey: Embedded) -> None:
    worker = await Store.open(own_valkey.url, timeout_s=0.1)
    ear = Ear()
    await worker.listen(ear.hear, ear.lose)
    assert own_valkey.pid is not None
    os.kill(own_valkey.pid, signal.SIGKILL)
    assert await ear.next() is None
    assert not worker.is_listening
    await eventually(lambda: not own_valkey.is_running)
    await own_valkey.revive()
    await eventually(lambda: worker.is_listening)
    task = new_task()
    await worker.tasks.reserve(task, NOW)
    assert await ear.next() == ("task", task.id, 1)
    assert ear.is_empty
    await worker.close()
    assert ear.is_empty  # closing is no loss


async def test_a_store_that_stops_answering_is_a_loss(own_valkey: Embedded) -> None:
    """The connection stays open and silent, as behind a dead router: a simpler listener would
    wait on it for ever and serve revoked tokens from its cache."""
    worker = await Store.open(own_valkey.url, timeout_s=0.1)
    ear = Ear()
    await worker.listen(ear.hear, ear.lose)
    assert own_valkey.pid is not None
    os.kill(own_valkey.pid, signal.SIGSTOP)
    try:
        assert await ear.next() is None
        assert not worker.is_listening
    finally:
        os.kill(own_valkey.pid, signal.SIGCONT)
    await eventually(lambda: worker.is_listening)
    assert ear.is_empty
    await worker.close()


async def test_a_silent_channel_is_no_loss(store: Store, valkey: Embedded) -> None:
    """Several time-outs without a message: PING answers for the connection."""
    worker = await Store.open(valkey.url, timeout_s=0.1)
    ear = Ear()
    await worker.listen(ear.hear, ear.lose)

    async def pings() -> int:
        said = await store.batch.call("INFO", "commandstats")
        assert isinstance(said, dict)
        return int(said.get("cmdstat_ping", {"calls": 0})["calls"])

    begun = await pings()
    await read_until(pings, lambda found: found >= begun + 3)
    assert worker.is_listening
    assert ear.is_empty
    await worker.close()


async def test_a_deaf_start_says_so(own_valkey: Embedded) -> None:
    worker = await Store.open(own_valkey.url, timeout_s=0.1)
    assert own_valkey.pid is not None
    os.kill(own_valkey.pid, signal.SIGKILL)
    await eventually(lambda: not own_valkey.is_running)
    ear = Ear()
    with pytest.raises(StoreDown):
        await worker.listen(ear.hear, ear.lose)
    assert not worker.is_listening
    assert ear.is_empty
    await own_valkey.revive()
    await worker.listen(ear.hear, ear.lose)
    await worker.close()


async def test_a_failing_listener_does_not_deafen_the_worker(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither its own bug nor a stranger's message on the channel ends the subscription."""
    ear = Ear()

    def fragile(kind: str, name: str, version: int) -> None:
        ear.hear(kind, name, version)
        if version == 1:
            raise RuntimeError("a bug in a cache")

    await store.listen(fragile, ear.lose)
    for message in ("", "nonsense", "task|x|", "task|x|1", "task|x|2"):
        await store.batch.call("PUBLISH", keys.CHANNEL, message)
    assert await ear.next() == ("task", "x", 1)
    assert await ear.next() == ("task", "x", 2)
    assert ear.is_empty
    assert "a bug in a cache" in caplog.text
