"""What docs/redis.md tells an operator to set is enough, and right."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.store import Store
from proxy.store.capabilities import findings
from tests.rig.site import open_site
from tests.system.ports import free_ports
from tests.system.redis_servers import RedisServer

ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is tested runs elsewhere

Tool = Callable[[str], str]


@pytest.fixture
def told(deploy: Path) -> list[list[str]]:
    """The pages' blocks of settings, a list of lines each."""
    text = (deploy.parent / "docs" / "redis.md").read_text()
    blocks = re.findall(r"^```conf\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in blocks]


def block_with(told: list[list[str]], start: str) -> list[str]:
    (found,) = (block for block in told if any(line.startswith(start) for line in block))
    return found


@ONE_LOOP
async def test_the_doctor_is_content_with_the_settings_of_the_page(
    tool: Tool, tmp_path: Path, told: list[list[str]]
) -> None:
    (port,) = free_ports(1)
    lines = block_with(told, "appendonly")
    async with RedisServer(tool("redis-server"), tmp_path / "redis", port, *lines) as server:
        store = await Store.open(f"redis://{server.address}")
        try:
            found = await findings(store.batch, "local")
        finally:
            await store.close()
    assert {each.level for each in found if "durability" not in each.text} == {"ok"}


@ONE_LOOP
async def test_the_user_of_the_page_may_do_what_the_gateway_does(
    tool: Tool, tmp_path: Path, told: list[list[str]]
) -> None:
    """A task's whole life, as that user on a server that knows no other; nothing is refused by
    it. The server is older than WAITAOF, as the page allows for."""
    (port,) = free_ports(1)
    (user,) = block_with(told, "user reelway")
    lines = ["appendonly yes", user.replace(" +waitaof", ""), "user default off"]
    server = RedisServer(
        tool("redis-server"), tmp_path / "redis", port, *lines, login=("reelway", "a-long-password")
    )
    url = f"redis://reelway:a-long-password@127.0.0.1:{port}/0"
    async with server, open_site(tmp_path, redis=url) as site:
        worker = await site.worker()
        for service in ("openai", "kling", "jimeng"):
            status, body = await site.post(worker, service, f"for {service}")
            assert status == 200, body
            assert (await site.ended(worker, body["id"]))["status"] == "completed"
            async with site.client.delete(
                f"{worker.url}/v1/videos/{body['id']}", headers=site.bearer
            ) as reply:
                assert reply.status == 200
        refused = await server.ask("INFO", "errorstats")
        assert "errorstat_NOPERM" not in refused
        assert not [line for line in worker.log if "NOPERM" in str(line)]


@ONE_LOOP
async def test_sentinels_and_replicas_start_with_the_settings_of_the_page(
    tool: Tool, tmp_path: Path, told: list[list[str]]
) -> None:
    first, second = free_ports(2)
    lines = block_with(told, "min-replicas")
    watch = [
        line.replace("10.0.0.1 6379", f"127.0.0.1 {first}")
        for line in block_with(told, "sentinel monitor")
    ]
    assert f"sentinel monitor main 127.0.0.1 {first} 2" in watch
    binary = tool("redis-server")
    async with (
        RedisServer(binary, tmp_path / "primary", first, *lines),
        RedisServer(binary, tmp_path / "sentinel", second, *watch, mode="--sentinel") as sentinel,
    ):
        known = await sentinel.ask("SENTINEL MASTER", "main")
        assert (known["port"], known["quorum"]) == (first, 2)
