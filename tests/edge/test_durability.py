"""What `[redis] durability` promises, and what goes on while Redis does not."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from proxy.model import Stage
from proxy.server.worker import Server
from proxy.sim import Fault, pattern
from proxy.store import Store, keys
from tests.rig.eventually import eventually, read_until
from tests.rig.house import IMPATIENT, Answer, House, OpenHouse, Plan
from tests.rig.refusals import store_pid
from tests.rig.site import Site, Worker, open_site
from tests.rig.valkey import bundled_server

WAIT_S = 20.0  # only a hang gets here
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is tested runs elsewhere


# ---------------------------------------------------------------- servers of the test's own


class Valkey:
    """A server with a TCP port, so that it can have a replica or be one."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.port = port
        self._folder = folder
        self._options = options
        self.process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Valkey:
        self._folder.mkdir()
        self.process = await asyncio.create_subprocess_exec(
            *(str(bundled_server()), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(self._folder), "--save", "", *self._options),
            stdout=asyncio.subprocess.DEVNULL,
        )
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                except OSError:
                    await asyncio.sleep(0.01)
                else:
                    writer.close()
                    return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        await self.process.wait()


async def create(house: House, key: str = "k") -> Answer:
    body = {"model": "sora-2", "prompt": "a cat"}
    return await house.post("/v1/videos", json=body, headers={"Idempotency-Key": key})


async def all_closed(store: Store) -> None:
    """No task is open any more."""
    await read_until(store.tasks.open_count, lambda found: not found)


async def refused_as_unsafe(site: Site, worker: Worker, key: str) -> None:
    """503 at once, nothing sent, the task closed and its key free again."""
    before, known = site.sim.submits("openai"), [line["request_id"] for line in worker.lines]
    status, body = await site.post(worker, "openai", key)
    assert (status, body["error"]["code"]) == (503, "store_unsafe")
    assert site.sim.submits("openai") == before
    line = await worker.said(
        lambda line: line.get("reason") == "store_unsafe" and line["request_id"] not in known
    )
    assert (line["status"], line["operation"]) == (503, "create")
    await all_closed(site.store)
    task = await site.store.tasks.get(line["task_id"])
    assert task is not None
    assert (task.stage, task.deleted) == (Stage.FAILED, True)
    assert task.error is not None
    assert task.error.code == "not_submitted"
    assert await site.events(task.id) == [
        "reserved",
        "sent attempt 1 to sim-openai/a",
        (
            "never sent: the store failed; failed: not_submitted: "
            "It was never submitted: the store failed."
        ),
    ]


async def served(site: Site, worker: Worker, key: str) -> str:
    """Ask with this key until it is not refused as unsafe; returns the task's id."""
    async with asyncio.timeout(WAIT_S):
        while True:
            status, body = await site.post(worker, "openai", key)
            if status == 200:
                return str(body["id"])
            assert body["error"]["code"] == "store_unsafe", body
            await all_closed(site.store)


# ---------------------------------------------------------------- durability


@ONE_LOOP
@pytest.mark.parametrize("durability", ["replica", "fsync"])
async def test_what_cannot_be_made_durable_is_not_sent(tmp_path: Path, durability: str) -> None:
    """The store has no replica, and no append-only file any more."""
    async with open_site(tmp_path, redis_options=f'durability = "{durability}"') as site:
        await site.store.batch.call("CONFIG", "SET", "appendonly", "no")
        worker = await site.worker()
        for _ in range(2):  # the same key: nothing stands in its way
            await refused_as_unsafe(site, worker, "k")


@ONE_LOOP
async def test_with_a_replica_a_submit_goes_out_once_the_replica_has_it(tmp_path: Path) -> None:
    """A replica that stands still is none; when it goes on, so do submits."""
    first, second = free_ports()
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(
            Valkey(tmp_path / "primary", first, "--repl-diskless-sync-delay", "0")
        )
        of = ("--replicaof", f"127.0.0.1 {first}")
        replica = await stack.enter_async_context(Valkey(tmp_path / "replica", second, *of))
        site = await stack.enter_async_context(
            open_site(tmp_path, redis=primary.url, redis_options='durability = "replica"')
        )
        worker = await site.worker()
        task_id = await served(site, worker, "first")  # at first it is still synchronising
        assert (await site.ended(worker, task_id))["status"] == "completed"
        assert site.renders()["openai"] == 1

        assert replica.process is not None
        replica.process.send_signal(signal.SIGSTOP)
        await refused_as_unsafe(site, worker, "second")
        replica.process.send_signal(signal.SIGCONT)
        task_id = await served(site, worker, "second")
        assert (await site.ended(worker, task_id))["status"] == "completed"
        assert site.submits()["openai"] == site.renders()["openai"] == 2


async def test_the_embedded_store_can_write_to_disk_before_each_submit(
    open_house: OpenHouse,
) -> None:
    """Not within the second that an everysec fsync may take: at once, every time."""
    async with open_house(Plan(redis='durability = "fsync"', embedded=True)) as house:
        for number in range(10):
            reply = await create(house, f"key {number}")
            assert reply.status == 200, reply.body
        assert house.sim.renders("openai") == 10


# ---------------------------------------------------------------- a store that hangs


@asynccontextmanager
async def frozen(house: House) -> AsyncIterator[None]:
    """Redis stands still: it takes connections and answers nothing."""
    pid = await store_pid(house)
    os.kill(pid, signal.SIGSTOP)
    try:
        await eventually(lambda: not house.server.store.is_listening)
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def listening(server: Server) -> None:
    await eventually(lambda: server.store.is_listening)


@IMPATIENT
async def test_while_the_store_hangs_reads_go_on_and_submits_are_told_when_to_come(
    house: House,
) -> None:
    done = await house.completed(prompt="a cat size=200000")
    await house.get(f"/v1/videos/{done}")
    stranger = await house.new_token()
    drip = house.sim.faults.add(Fault("stall", operation="content", at=100_000))
    download = asyncio.create_task(house.get(f"/v1/videos/{done}/content"))
    await house.sim.wait_for(lambda entry: entry.operation == "content" and entry.stalled)
    async with frozen(house):
        reply = await create(house)
        assert reply.status == 503
        assert reply.json()["error"]["code"] == "unavailable"
        assert int(reply.headers["Retry-After"]) >= 1
        assert house.sim.submits("openai") == 1
        for _ in range(5):
            known = await house.get(f"/v1/videos/{done}")
            assert (known.status, known.json()["status"]) == (200, "completed")
        drip.release()
        whole = await download
        assert (whole.status, whole.body) == (200, pattern(0, 200_000))
        again = await house.get(f"/v1/videos/{done}/content")
        assert (again.status, again.body) == (200, pattern(0, 200_000))
        unknown = {"Authorization": f"Bearer {stranger.token}"}
        assert (await house.get(f"/v1/videos/{done}", headers=unknown)).status == 503
        assert (await house.get("/v1/videos")).status == 503
    await listening(house.server)
    reply = await create(house)
    assert reply.status == 200
    assert (await house.finished(reply.json()["id"]))["status"] == "completed"
    assert house.sim.submits("openai") == 2
    refused = [line for line in house.lines if line["status"] == 503]
    assert {line["reason"] for line in refused} == {"unavailable"}


@IMPATIENT
async def test_a_token_revoked_after_the_return_is_refused_at_once(house: House) -> None:
    done = await house.completed()
    async with frozen(house):
        assert (await house.get(f"/v1/videos/{done}")).status == 200
    await listening(house.server)
    now_ms = round(time.time() * 1000)
    assert await house.server.store.tokens.revoke(house.made.record.id, now_ms)
    await read_until(lambda: house.get(f"/v1/videos/{done}"), lambda found: found.status != 200)
    async with frozen(house):
        reply = await house.get(f"/v1/videos/{done}")
        assert reply.status in (401, 503), "never let in again by what was known before"


async def test_the_grace_ends(open_house: OpenHouse) -> None:
    async with open_house(Plan(redis="timeout_s = 0.5", timeouts="redis_grace_s = 0.001")) as house:
        done = await house.completed()
        async with frozen(house):
            assert (await house.get(f"/v1/videos/{done}")).status == 503
        await listening(house.server)
        assert (await house.get(f"/v1/videos/{done}")).status == 200


# ---------------------------------------------------------------- a store that forgets


@ONE_LOOP
@pytest.mark.parametrize("what", ["the task", "that it was sent"])
async def test_a_failover_that_lost_the_last_writes_loses_no_render(
    tmp_path: Path, what: str
) -> None:
    """The upstream has it, and the new primary has never heard of the task, or knows it as it
    was before it was sent: the task is written as the worker knows it."""
    async with open_site(tmp_path, relayed=True) as site:
        worker = await site.worker()
        held = site.sim.faults.add(Fault("hold", "openai", "submit"))
        gate = site.relay.gate(b"sent attempt 1", "before")
        post = asyncio.create_task(site.post(worker, "openai", "k"))
        await gate.reached()
        (task,) = await site.tasks()
        reserved = await site.store.batch.call("DUMP", keys.task(task.id))
        assert isinstance(reserved, bytes)
        gate.open()
        await site.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
        await site.store.batch.call("DEL", keys.task(task.id))
        if what == "that it was sent":
            await site.store.batch.call("RESTORE", keys.task(task.id), 0, reserved)
        held.release()
        status, body = await post
        assert (status, body["id"]) == (200, task.id), body
        again, replayed = await site.post(worker, "openai", "k")
        assert (again, replayed["id"]) == (200, task.id)
        assert (await site.ended(worker, task.id))["status"] == "completed"
        assert site.submits()["openai"] == site.renders()["openai"] == 1


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        for sock in (one, two):
            sock.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]
