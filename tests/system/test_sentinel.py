"""Redis with Sentinels: a primary that dies in the middle costs nobody a task, or a second one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxy.model import Stage
from proxy.sim import Fault
from proxy.sim.log import Entry
from tests.rig.site import GUARD_S, Site, Worker, open_site
from tests.system.ports import free_ports
from tests.system.redis_servers import (
    STORE,
    WAIT_S,
    RedisServer,
    Sentinels,
    watched_by_sentinels,
)

SUBMITS = 300
CLIENTS = 12
KILLED_AFTER = 100  # accepted submits
DURABLE = 'durability = "replica"'
# What a dead primary left under way is looked at again soon.
TIMEOUTS = "lease_s = 4\npoll_s = 2\n"
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is tested runs elsewhere

Tool = Callable[[str], str]


@asynccontextmanager
async def house_of_two(
    binary: str, folder: Path
) -> AsyncIterator[tuple[Sentinels, Site, Worker, Worker]]:
    """Sentinels, and two workers on them."""
    (folder / "redis").mkdir()
    async with (
        watched_by_sentinels(binary, folder / "redis") as redis,
        open_site(folder, redis=redis.url, redis_options=DURABLE, timeouts=TIMEOUTS) as site,
    ):
        yield redis, site, await site.worker(), await site.worker()


@dataclass
class Load:
    """Clients that submit, each request once until it is accepted: a refused one comes again
    with the same key."""

    site: Site
    workers: tuple[Worker, Worker]
    accepted: dict[str, str] = field(default_factory=dict)  # prompt → task id
    refused: Counter[str] = field(default_factory=Counter)  # error code → how often
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        waiting = [f"a cat, number {number}" for number in range(SUBMITS)]
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS):
                group.create_task(self._client(number, waiting))

    async def _client(self, number: int, waiting: list[str]) -> None:
        while waiting:
            prompt = waiting.pop()
            while not await self._submit(self.workers[number % 2], prompt):
                number += 1  # the next try at the other worker, as a balancer would

    async def _submit(self, worker: Worker, prompt: str) -> bool:
        headers = {**self.site.bearer, "Idempotency-Key": prompt}
        body = {"model": "sora-2", "prompt": prompt}
        post = self.site.client.post(worker.url + "/v1/videos", json=body, headers=headers)
        async with post as reply:
            told = await reply.json()
            if reply.status == 200:
                self.accepted[prompt] = told["id"]
                self.changed.set()
                return True
            assert reply.status == 503, told
            assert int(reply.headers["Retry-After"]) >= 1
            self.refused[told["error"]["code"]] += 1
            await asyncio.sleep(0.1)  # politeness, so that the failover is not a busy loop
            return False

    async def has_accepted(self, count: int) -> None:
        while len(self.accepted) < count:
            self.changed.clear()
            await self.changed.wait()


def renders_by_prompt(site: Site) -> Counter[str]:
    def prompt(entry: Entry) -> str:
        return str(entry.body["prompt"])

    done = site.sim.log.select("openai", "submit")
    return Counter(prompt(entry) for entry in done if entry.status == 200)


@ONE_LOOP
async def test_a_primary_that_dies_costs_no_task_and_no_second_render(
    tool: Tool, tmp_path: Path
) -> None:
    """Under load: what was answered 200 is there afterwards and completes, what was not was a 503
    that says when to come again, and every request is one render however often it was sent."""
    async with house_of_two(tool("redis-server"), tmp_path) as (redis, site, one, two):
        load = Load(site, (one, two))
        async with asyncio.timeout(2 * GUARD_S), asyncio.TaskGroup() as group:
            group.create_task(load.run())
            await load.has_accepted(KILLED_AFTER)
            await redis.primary.kill()
            await redis.promoted()
        assert len(load.accepted) == len(set(load.accepted.values())) == SUBMITS
        assert load.refused, "the failover was not noticed"
        assert renders_by_prompt(site) == dict.fromkeys(load.accepted, 1)
        ended = await asyncio.gather(*(site.ended(two, known) for known in load.accepted.values()))
        assert Counter(video["status"] for video in ended) == {"completed": SUBMITS}
        assert site.renders()["openai"] == SUBMITS


@ONE_LOOP
async def test_an_accepted_task_outlives_a_failover_to_a_replica_that_never_heard_its_name(
    tool: Tool, tmp_path: Path
) -> None:
    """The replica left between the submit and the upstream's answer: what the upstream called the
    task is not safe, and is written until it is, here to the replica that has taken over."""
    binary, (first, second) = tool("redis-server"), free_ports(2)
    primary = RedisServer(binary, tmp_path / "primary", first, *STORE)
    of = f"replicaof 127.0.0.1 {first}"
    replica = RedisServer(binary, tmp_path / "replica", second, *STORE, of)
    url = f"redis://{primary.address}"
    async with (
        primary,
        replica,
        open_site(tmp_path, redis=url, redis_options=DURABLE) as site,
    ):
        await replica.until(lambda role: role[3] == "connected", "ROLE")
        worker = await site.worker()
        held = site.sim.faults.add(Fault("hold", "openai", "submit"))
        post = asyncio.create_task(site.post(worker, "openai", "k"))
        await site.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
        await replica.ask("REPLICAOF", "NO", "ONE")
        before = await waits(primary)
        held.release()
        status, body = await post
        assert (status, body["status"]) == (200, "queued")
        await primary.until(lambda told: told["cmdstat_wait"]["calls"] >= before + 3, *STATS)

        await primary.kill()
        site.sim.tasks.manual = True  # nothing but the name is left to be known
        await replica.ask("CONFIG", "SET", "port", first)
        async with asyncio.timeout(WAIT_S):
            while True:
                task = (await site.store.tasks.get_many([body["id"]]))[body["id"]]
                if task.stage is not Stage.SENT:
                    break
                await asyncio.sleep(0.05)
        site.sim.tasks.manual = False
        assert (await site.ended(worker, body["id"]))["status"] == "completed"
        assert site.submits()["openai"] == site.renders()["openai"] == 1


STATS = ("INFO", "commandstats")


async def waits(server: RedisServer) -> int:
    """How often it was asked to wait for a replica."""
    calls: int = (await server.ask(*STATS))["cmdstat_wait"]["calls"]
    return calls
