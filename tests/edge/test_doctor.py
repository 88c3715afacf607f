"""`reelway doctor` says what the Redis in use cannot promise, and `health` whether it is ready."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from yarl import URL

from proxy.cli import main
from proxy.cli.doctor_proxy_check import judge, judge_host
from proxy.server.bootstrap import signing_secrets
from proxy.signing import sign_probe
from proxy.store import Store
from proxy.store.capabilities import Finding, findings
from tests.rig.house import House
from tests.rig.programs import run


async def levels(store: Store, durability: Any = "local") -> dict[str, str]:
    """The findings that are not ok: level by the text's beginning."""
    found = await findings(store.batch, durability)
    return {each.text: each.level for each in found if each.level != "ok"}


async def test_a_store_as_we_start_it_promises_what_local_means(store: Store) -> None:
    assert {text.split(":")[1].split()[0] for text in await levels(store)} == {"durability"}


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


# ---------------------------------------------------------------- health


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_nobody_there_is_not_healthy(tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[admin]\nlisten = "127.0.0.1:{free_port}"\n')
    ended = run("health", "--config", str(path), cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == f"nobody answers on 127.0.0.1:{free_port}: connection refused\n"


@pytest.mark.parametrize(
    "text",
    [
        '[admin]\nlisten = "LISTEN"\n[[routes\n',
        '[routes\n[admin]\n# first\ntoken = "x\n listen = "LISTEN"  # here\n[server]\nx =\n',
        '[admin]\nlisten = "LISTEN"\nnonsense = 1\n',
        '[admin]\nlisten = "LISTEN"\ntoken = "${NO_SUCH_NAME}"\n[redis]\nurl = "x"\n',
    ],
    ids=["syntax after it", "syntax before it", "a key", "elsewhere"],
)
async def test_a_mistake_in_the_file_makes_no_running_gateway_unwell(
    house: House, tmp_path: Path, text: str
) -> None:
    """It serves on with what it has read; the file still tells where."""
    path, place = tmp_path / "mistaken.toml", URL(house.server.admin_url).authority
    path.write_text(text.replace("LISTEN", place))
    result = await asyncio.to_thread(invoke, "health", "--config", path)
    assert (result.exit_code, result.stdout) == (0, "ready\n")
    *problems, last = result.stderr.splitlines()
    assert all(line.startswith(f"{path}:") for line in problems)
    assert problems
    assert last == f"The configuration has mistakes; asking on {place}, which it names."


@pytest.mark.parametrize("text", [None, '[admin]\nlisten = "nowhere"\n', "[admin\n"])
def test_a_file_that_names_no_address_leaves_the_default(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "config.toml"
    if text is not None:
        path.write_text(text)
    result = invoke("health", "--config", path)
    assert "asking on 127.0.0.1:9080, the default" in result.stderr
    assert f"{path}:" in result.stderr


async def test_health_can_be_asked_by_url_alone(house: House, tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    for url in (
        house.server.admin_url,
        f"{house.server.admin_url}/",
        f"{house.server.admin_url}/readyz",
    ):
        result = await asyncio.to_thread(invoke, "health", "--url", url, "--config", missing)
        assert (result.exit_code, result.output) == (0, "ready\n")
    for url in ("127.0.0.1:9080", "file:///etc/passwd", "http://", "http://x:y"):
        result = invoke("health", "--url", url)
        assert result.exit_code == 2
        assert "is not http://HOST:PORT" in result.stderr


async def test_an_admin_port_on_a_unix_socket_is_asked(tmp_path: Path) -> None:
    async def ready(request: web.BaseRequest) -> web.Response:
        return web.Response(status=200 if request.path == "/readyz" else 404)

    place, path = tmp_path / "admin", tmp_path / "config.toml"
    path.write_text(f'[admin]\nlisten = "unix:{place}"\n')
    loop = asyncio.get_running_loop()
    async with await loop.create_unix_server(web.Server(ready), place):
        result = await asyncio.to_thread(invoke, "health", "--config", path)
    assert (result.exit_code, result.output) == (0, "ready\n")


# ---------------------------------------------------------------- what stands in front


def troubles(found: list[Finding]) -> list[str]:
    return [each.text for each in found if each.level == "error"]


async def test_nothing_in_front_changes_no_host(house: House) -> None:
    secret = signing_secrets(house.server.config)[0]
    found = await judge(house.url, secret, time.time, ())
    assert not [text for text in troubles(found) if "Host" in text or "answers 4" in text]
    assert len(found) == 4


@asynccontextmanager
async def in_front(
    house: House, *, whole_ones: int | None = None, **headers: str
) -> AsyncIterator[str]:
    """The URL of a proxy that passes answers on whole, the first `whole_ones` or all, and sets
    these headers; `_` for `-`."""
    asked = count(1)

    async def whole(request: web.BaseRequest) -> web.StreamResponse:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            aiohttp.ClientSession() as session,
            session.get(
                house.url + request.raw_path, headers={"Host": request.headers["Host"], **given}
            ) as reply,
        ):
            told = {"X-Request-Id": reply.headers["X-Request-Id"]}
            if whole_ones is None or next(asked) <= whole_ones:
                return web.Response(status=reply.status, body=await reply.read(), headers=told)
            passing = web.StreamResponse(status=reply.status, headers=told)
            await passing.prepare(request)
            async for piece in reply.content.iter_any():
                await passing.write(piece)
            return passing

    server = await asyncio.get_running_loop().create_server(web.Server(whole), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_host_that_lost_its_port_is_found(house: House) -> None:
    """nginx's $host: a client signs the port too."""
    secret = signing_secrets(house.server.config)[0]
    async with in_front(house, Host="127.0.0.1") as url:
        bad = troubles(await judge(url, secret, time.time, ()))
    assert f"arrives as '127.0.0.1', not '{URL(url).authority}'" in bad[-1]
    assert "$http_host" in bad[-1]


@pytest.mark.parametrize(
    ("public_url", "host", "is_good"),
    [
        ("https://v.example", "v.example", True),
        ("https://v.example", "v.example:443", True),
        ("https://v.example:443", "v.example", True),
        ("http://v.example/path", "v.example:80", True),
        ("https://v.example:18443", "v.example:18443", True),
        ("https://v.example:18443", "v.example", False),
        ("https://v.example", "v.example:80", False),
        ("https://[2001:db8::1]:18443", "[2001:db8::1]:18443", True),
        ("https://[2001:db8::1]", "[2001:db8::1]", True),
    ],
)
def test_a_default_port_may_be_told_or_not(public_url: str, host: str, is_good: bool) -> None:
    assert (judge_host(public_url, host).level == "ok") == is_good


async def test_a_proxy_that_nobody_trusts_is_named(house: House) -> None:
    """All its clients would have its address."""
    secret = signing_secrets(house.server.config)[0]
    async with in_front(house, X_Forwarded_For="203.0.113.7") as url:
        found = await judge(url, secret, time.time, ())
        [told] = [each for each in found if "trusted_proxies" in each.text]
        assert told.level == "warning"
        assert '[server] trusted_proxies = ["127.0.0.1"]' in told.text
        found = await judge(url, secret, time.time, ("127.0.0.0/8",))
    assert not [each for each in found if "trusted_proxies" in each.text]
    assert [each.level for each in found if "X-Forwarded-For of 127.0.0.1" in each.text] == ["ok"]


async def test_a_proxy_that_holds_answers_back_and_changes_the_host_is_found(
    house: House,
) -> None:
    """As nginx does unless it is told not to."""
    secret = signing_secrets(house.server.config)[0]
    async with in_front(house, Host="inside") as url:
        bad = troubles(await judge(url, secret, time.time, ()))
    assert ["proxy_buffering off" in text for text in bad] == [True, False]
    assert "the Host header arrives as 'inside'" in bad[1]


async def test_one_answer_that_comes_late_is_no_proxy_that_holds_back(house: House) -> None:
    """A busy machine reads late, too."""
    secret = signing_secrets(house.server.config)[0]
    async with in_front(house, whole_ones=1) as url:
        found = await judge(url, secret, time.time, ())
    assert not [text for text in troubles(found) if "proxy_buffering" in text]
    assert [each.level for each in found if "come through at once" in each.text] == ["ok"]


async def test_another_gateway_there_is_not_taken_for_this_one(house: House) -> None:
    [bad] = troubles(await judge(house.url, b"y" * 32, time.time, ()))
    assert "answers 404" in bad


async def test_nobody_there_is_said(house: House, free_port: int) -> None:
    found = await judge(f"http://127.0.0.1:{free_port}", b"x" * 32, time.time, ())
    assert "nobody answers" in found[-1].text
    assert "from here (connection refused);" in found[-1].text


@pytest.mark.parametrize("path", ["1/x", "x/y", "99999999999/AAAA", "", "1", "²/x"])
async def test_a_probe_only_the_operator_can_ask_for(house: House, path: str) -> None:
    assert (await house.get(f"/probe/{path}")).status == 404


async def test_a_probe_ends_with_its_time(house: House) -> None:
    secret = signing_secrets(house.server.config)[0]
    past = int(time.time()) - 1
    assert (await house.get(f"/probe/{past}/{sign_probe(secret, past)}")).status == 404
