"""`reelway doctor` says what the Redis in use cannot promise, and `health` whether it is ready."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web

from proxy.front import judge
from proxy.ground import signing_secrets
from proxy.signing import sign_probe
from proxy.store import Store
from proxy.store.promises import Finding, findings
from tests.edge.programs import run
from tests.edge.store_fixtures import store, valkey

if TYPE_CHECKING:
    from tests.conftest import House

__all__ = ["store", "valkey"]


async def levels(store: Store, durability: Any = "local") -> dict[str, str]:
    """The findings that are not ok: level by the text's beginning."""
    found = await findings(store.batch, durability)
    return {each.text: each.level for each in found if each.level != "ok"}


async def test_a_store_as_we_start_it_promises_what_local_means(store: Store) -> None:
    assert {text.split(":")[1].split()[0] for text in await levels(store)} == {
        "maxmemory",
        "durability",
    }


@pytest.mark.parametrize(
    ("setting", "value", "usual", "words"),
    [
        ("appendonly", "no", "yes", "appendonly is no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "maxmemory-policy is allkeys-lru"),
    ],
)
async def test_what_would_lose_tasks_is_an_error(
    store: Store, setting: str, value: str, usual: str, words: str
) -> None:
    await store.batch.call("CONFIG", "SET", setting, value)
    try:
        found = await levels(store)
    finally:
        await store.batch.call("CONFIG", "SET", setting, usual)
    assert [level for text, level in found.items() if words in text] == ["error"]


async def test_a_promise_of_replicas_needs_one(store: Store) -> None:
    found = await levels(store, "replica")
    assert [level for text, level in found.items() if "no replica" in text] == ["error"]


def test_nobody_there_is_not_healthy(tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[admin]\nlisten = "127.0.0.1:{free_port}"\n')
    ended = run("health", "--config", str(path), cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert "nobody answers" in ended.err


# ---------------------------------------------------------------- what stands in front


def troubles(found: list[Finding]) -> list[str]:
    return [each.text for each in found if each.level == "error"]


async def test_nothing_in_front_changes_no_host(house: House) -> None:
    secret = signing_secrets(house.server.config)[0]
    found = await judge(house.url, secret, time.time)
    assert not [text for text in troubles(found) if "Host" in text or "answers 4" in text]
    assert len(found) == 4


async def test_a_proxy_that_holds_answers_back_and_changes_the_host_is_found(
    house: House,
) -> None:
    """As nginx does unless it is told not to."""

    async def whole(request: web.BaseRequest) -> web.Response:
        async with (
            aiohttp.ClientSession() as session,
            session.get(house.url + request.raw_path, headers={"Host": "inside"}) as reply,
        ):
            return web.Response(
                status=reply.status,
                body=await reply.read(),
                headers={"X-Request-Id": reply.headers["X-Request-Id"]},
            )

    server = await asyncio.get_running_loop().create_server(web.Server(whole), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        secret = signing_secrets(house.server.config)[0]
        bad = troubles(await judge(f"http://127.0.0.1:{port}", secret, time.time))
    assert ["proxy_buffering off" in text for text in bad] == [True, False]
    assert "the Host header arrives as 'inside'" in bad[1]


async def test_another_gateway_there_is_not_taken_for_this_one(house: House) -> None:
    [bad] = troubles(await judge(house.url, b"another secret, of 32 bytes at least", time.time))
    assert "answers 404" in bad


async def test_nobody_there_is_said(house: House, free_port: int) -> None:
    found = await judge(f"http://127.0.0.1:{free_port}", b"x" * 32, time.time)
    assert "nobody answers" in found[-1].text


@pytest.mark.parametrize("path", ["1/x", "x/y", "99999999999/AAAA", "", "1", "²/x"])
async def test_a_probe_only_the_operator_can_ask_for(house: House, path: str) -> None:
    assert (await house.get(f"/probe/{path}")).status == 404


async def test_a_probe_ends_with_its_time(house: House) -> None:
    secret = signing_secrets(house.server.config)[0]
    past = int(time.time()) - 1
    assert (await house.get(f"/probe/{past}/{sign_probe(secret, past)}")).status == 404
