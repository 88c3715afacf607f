"""Redis Cluster: a task's whole life on three nodes, whatever durability is asked, and a node
that dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.store import Store, StoreUnsafe, keys
from proxy.store.pipeline import Script
from proxy.tokens import NewToken, create_token
from tests.rig.site import GUARD_S, SECRET, Site, Worker, open_site
from tests.system.redis_servers import RedisServer, cluster

PRIMARIES = 3
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is tested runs elsewhere

Tool = Callable[[str], str]


def url_of(nodes: Sequence[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(node.address for node in nodes)


@asynccontextmanager
async def site_on(
    binary: str, folder: Path, durability: str
) -> AsyncIterator[tuple[list[RedisServer], Site, Worker]]:
    """A Cluster that can promise this durability, and a worker on it."""
    (folder / "redis").mkdir()
    always = ["appendfsync always"] if durability == "fsync" else []
    async with (
        cluster(
            binary, folder / "redis", PRIMARIES, replicas=durability == "replica", options=always
        ) as nodes,
        open_site(
            folder,
            redis=url_of(nodes[:PRIMARIES]),
            redis_options=f'durability = "{durability}"',
            timeouts="lease_s = 4\npoll_s = 2\n",
        ) as site,
    ):
        yield nodes, site, await site.worker()


async def tokens_of_all_nodes(store: Store) -> dict[str, str]:
    """Owner → token; their shards are spread over the nodes."""
    made = {}
    for number in range(2 * keys.SHARDS):
        owner = f"owner-{number}"
        wanted = NewToken(name="test", owner=owner)
        token = await create_token(store, SECRET.encode(), wanted, _bytes(number), lambda: 1e9)
        made[owner] = token.token
    return made


def _bytes(number: int) -> Callable[[int], bytes]:
    return lambda size: number.to_bytes(2, "big") * (size // 2) + b"x" * (size % 2)


class Client:
    """Asks one worker as one owner."""

    def __init__(self, site: Site, worker: Worker, token: str) -> None:
        self._site = site
        self._url = worker.url
        self._headers = {"Authorization": f"Bearer {token}"}

    async def ask(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        headers = {**self._headers, **options.pop("headers", {})}
        request = self._site.client.request(method, self._url + path, headers=headers, **options)
        async with request as reply:
            if reply.content_type != "application/json":
                return reply.status, await reply.read()
            return reply.status, await reply.json()

    async def create(self, prompt: str, key: str) -> tuple[int, Any]:
        body = {"model": "sora-2", "prompt": prompt}
        return await self.ask("POST", "/v1/videos", json=body, headers={"Idempotency-Key": key})

    async def ended(self, task_id: str) -> dict[str, Any]:
        async with asyncio.timeout(GUARD_S):
            while True:
                status, video = await self.ask("GET", f"/v1/videos/{task_id}")
                assert status == 200, video
                if video["status"] in ("completed", "failed"):
                    return dict(video)
                await asyncio.sleep(0.02)


@ONE_LOOP
@pytest.mark.parametrize("durability", ["local", "replica", "fsync"])
async def test_the_whole_life_of_a_task_on_every_node(
    tool: Tool, tmp_path: Path, durability: str
) -> None:
    """Owners of every shard submit, submit again with the same key, see it complete, list it,
    download it and delete it."""
    async with site_on(tool("redis-server"), tmp_path, durability) as (nodes, site, worker):
        made = await tokens_of_all_nodes(site.store)

        async def live(owner: str) -> None:
            client = Client(site, worker, made[owner])
            prompt = f"a cat of {owner} size=10000"
            status, video = await client.create(prompt, "k")
            assert (status, video["object"]) == (200, "video"), video
            path = f"/v1/videos/{video['id']}"
            again = await client.create(prompt, "k")
            assert again[0] == 200, again
            assert again[1]["id"] == video["id"]
            assert (await client.ended(video["id"]))["status"] == "completed"
            status, listed = await client.ask("GET", "/v1/videos")
            assert (status, [each["id"] for each in listed["data"]]) == (200, [video["id"]])
            status, body = await client.ask("GET", path + "/content")
            assert (status, len(body)) == (200, 10_000)
            assert (await client.ask("DELETE", path))[0] == 200
            async with asyncio.timeout(GUARD_S):  # the news crosses the Cluster
                while (await client.ask("GET", path))[0] != 404:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)

        await asyncio.gather(*map(live, made))
        assert site.renders()["openai"] == len(made)
        for node in nodes[:PRIMARIES]:
            assert await node.ask("DBSIZE") > 0, "every node had its share"


@ONE_LOOP
async def test_a_durability_no_node_can_promise_refuses_and_submits_nothing(
    tool: Tool, tmp_path: Path
) -> None:
    """Three nodes without replicas."""
    folder = tmp_path / "redis"
    folder.mkdir()
    async with (
        cluster(tool("redis-server"), folder, PRIMARIES, replicas=False) as nodes,
        open_site(tmp_path, redis=url_of(nodes), redis_options='durability = "replica"') as site,
    ):
        status, body = await site.post(await site.worker(), "openai", "k")
        assert (status, body["error"]["code"]) == (503, "store_unsafe")
        assert site.submits()["openai"] == 0


@ONE_LOOP
async def test_a_node_that_dies_is_replaced_by_its_replica(tool: Tool, tmp_path: Path) -> None:
    """No accepted task is lost or rendered twice. Submits of that node's owners are refused until
    the replica has taken over and, as durability asks, has a replica of its own."""
    async with site_on(tool("redis-server"), tmp_path, "replica") as (nodes, site, worker):
        made = await tokens_of_all_nodes(site.store)
        clients = {owner: Client(site, worker, token) for owner, token in made.items()}
        site.sim.tasks.manual = True  # nothing completes before the node is gone
        accepted: dict[str, str] = {}

        async def submit(owner: str, key: str) -> int:
            status, body = await clients[owner].create(f"a cat of {owner} {key}", key)
            if status == 200:
                accepted[f"{owner} {key}"] = body["id"]
            else:
                assert status == 503, body
            return status

        async def submit_until_taken(owner: str) -> int:
            refused = 0
            while await submit(owner, "after") != 200:
                refused += 1
                await asyncio.sleep(0.1)
            return refused

        assert set(await asyncio.gather(*(submit(owner, "before") for owner in made))) == {200}
        await nodes[0].kill()
        async with asyncio.timeout(GUARD_S), asyncio.TaskGroup() as group:
            tries = [group.create_task(submit_until_taken(owner)) for owner in made]
            await nodes[PRIMARIES].until(lambda role: role[0] == "master", "ROLE")
            await nodes[0].start()  # the new primary has to have a replica too
        assert any(each.result() for each in tries), "the failover was not noticed"
        site.sim.tasks.manual = False
        for task in list(site.sim.tasks):
            site.sim.finish(task.id)
        ended = await asyncio.gather(
            *(clients[name.split()[0]].ended(known) for name, known in accepted.items())
        )
        assert Counter(video["status"] for video in ended) == {"completed": 2 * len(made)}
        assert site.renders()["openai"] == len(accepted) == 2 * len(made)


@ONE_LOOP
async def test_commands_follow_a_slot_that_moves_to_another_node(
    tool: Tool, tmp_path: Path
) -> None:
    """While it moves (ASK) and once it has moved (MOVED), single ones and those that wait for
    their change to be safe."""
    async with cluster(tool("redis-server"), tmp_path, PRIMARIES, replicas=False) as nodes:
        store = await Store.open(url_of(nodes))
        try:
            key = "rw:{00}:moves"
            assert await store.batch.call("SET", key, "here") is True
            slot = await nodes[0].ask("CLUSTER KEYSLOT", key)
            number = await holder(nodes, key)
            source, target = nodes[number], nodes[(number + 1) % PRIMARIES]
            names = [await node.ask("CLUSTER MYID") for node in (source, target)]
            await target.ask("CLUSTER SETSLOT", slot, "IMPORTING", names[0])
            await source.ask("CLUSTER SETSLOT", slot, "MIGRATING", names[1])
            new = "rw:{00}:new"
            assert await store.batch.call("SET", new, "there") is True
            assert await store.batch.call("GET", new) == b"there"
            assert await store.batch.call("GET", key) == b"here"

            await source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
            for node in (target, source):
                await node.ask("CLUSTER SETSLOT", slot, "NODE", names[1])
            script = Script.load("secure")
            with pytest.raises(StoreUnsafe):  # asked the right one, which has no replica
                await store.batch.run(script, ["rw:{00}:none"], [], durability="replica")
            assert await store.batch.call("GET", key) == b"here"
            assert await holder(nodes, key) == nodes.index(target)
        finally:
            await store.close()


async def holder(nodes: Sequence[RedisServer], key: str) -> int:
    """Which node has the key."""
    slot = await nodes[0].ask("CLUSTER KEYSLOT", key)
    counts = [await node.ask("CLUSTER COUNTKEYSINSLOT", slot) for node in nodes]
    (number,) = (number for number, count in enumerate(counts) if count)
    return number
