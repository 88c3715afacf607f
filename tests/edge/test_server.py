"""One worker: how it starts, drains, and outlives its embedded store."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import stat
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest
import uvloop

from proxy.config import load
from proxy.gateway.listener import bind
from proxy.providers import PROVIDERS
from proxy.server.bootstrap import CannotServe, kept_secret, new_event_loop
from proxy.server.worker import Server
from proxy.sim import Fault, pattern_sha256
from proxy.sim.faults import Active
from proxy.telemetry.logs import make_logger
from tests.rig.eventually import eventually
from tests.rig.house import EMBEDDED, House, OpenHouse, Plan

GUARD_S = 20.0  # only a hang gets here
SIZE = 700_001
HELD_AT = 200_000


async def until_ok(house: House, path: str) -> bytes:
    """Ask until it is 200; before, only 503 will do, and every answer comes in time."""
    async with asyncio.timeout(GUARD_S):
        while True:
            reply = await house.get(path)
            if reply.status == 200:
                return reply.body
            assert reply.status == 503, reply
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- the embedded store


@EMBEDDED
async def test_a_killed_store_comes_back_with_what_it_knew(house: House) -> None:
    """kill -9 of the embedded server costs no task and no key: soon another process answers,
    and the gateway goes on as before."""

    def store_pid() -> int:
        pid: int = json.loads((house.server.config.server.state_dir / "lock").read_bytes())[
            "server"
        ]
        return pid

    before = await house.completed()
    killed = store_pid()
    os.kill(killed, signal.SIGKILL)
    await eventually(lambda: store_pid() != killed)
    assert json.loads(await until_ok(house, f"/v1/videos/{before}"))["status"] == "completed"
    await until_ok(house, f"/v1/videos/{before}/content")
    await until_ok(house, "/v1/videos")
    after = await house.completed()
    listed = json.loads(await until_ok(house, "/v1/videos"))["data"]
    assert {task["id"] for task in listed} == {before, after}


# ---------------------------------------------------------------- drain


@asynccontextmanager
async def download(house: House) -> AsyncIterator[tuple[aiohttp.ClientResponse, Active]]:
    """One under way, and what holds it at `HELD_AT`."""
    task_id = await house.completed(prompt=f"a cat size={SIZE}")
    held = house.sim.faults.add(
        Fault("stall", service="openai", operation="content", at=HELD_AT, times=None)
    )
    url = f"{house.url}/v1/videos/{task_id}/content"
    async with house.client.get(url, headers=house.bearer) as reply:
        assert reply.status == 200
        await house.sim.wait_for(lambda entry: entry.stalled)
        yield reply, held


async def drains(house: House) -> asyncio.Task[None]:
    """SIGTERM has arrived, and the drain has begun."""
    serving = asyncio.create_task(house.server.run())
    await asyncio.sleep(0)  # it has its signal handlers now
    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(GUARD_S):
        while True:
            async with house.client.get(f"{house.server.admin_url}/readyz") as reply:
                if reply.status == 503:
                    assert (await reply.json())["why"] == "draining"
                    return serving
            await asyncio.sleep(0.01)


async def how_it_ended(house: House) -> tuple[object, object]:
    """What the access line of the download says."""
    line = await house.line(lambda line: line["operation"] == "content")
    return line["status"], line["reason"]


async def test_a_drain_lets_a_download_finish_and_nobody_new_in(house: House) -> None:
    parts = urlsplit(house.url)
    async with download(house) as (reply, held), asyncio.timeout(GUARD_S):
        serving = await drains(house)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(parts.hostname, parts.port)
        assert not serving.done()
        async with house.client.get(f"{house.server.admin_url}/healthz") as health:
            assert health.status == 200, "alive until the end"
        held.release()
        assert hashlib.sha256(await reply.read()).hexdigest() == pattern_sha256(SIZE)
        await serving
    assert await how_it_ended(house) == (200, "done")


async def test_a_reload_says_what_waits_for_a_restart_and_leaves_it(house: House) -> None:
    path = house.config_path
    text = path.read_text()
    assert "[timeouts]" in text
    path.write_text(text.replace("[timeouts]", "[timeouts]\nconnect_s = 3.5\nheal_s = 7.5", 1))
    before = house.server.config.timeouts
    told = house.server.reload()
    assert (told.ok, told.waiting) == (True, ("timeouts.connect_s",))
    now = house.server.config.timeouts
    assert (now.connect_s, now.heal_s) == (before.connect_s, 7.5)


async def test_a_reload_takes_new_routes_and_leaves_a_bad_file_alone(house: House) -> None:
    """SIGHUP: new rows work at once; a file with a mistake changes nothing and is told."""
    text = house.config_path.read_text()
    before = (await house.get("/v1/models")).json()
    house.config_path.write_text(text + "[[routes]]\nmodel = 'x'\nupstream = 'nowhere'\n")
    assert not house.server.reload().ok
    assert (await house.get("/v1/models")).json() == before
    log = (house.config_path.parent / "gateway.log").read_text()
    assert "reload failed" in log
    assert "nowhere" in log
    house.config_path.write_text(
        text + "[[routes]]\nmodel = 'brand-new'\nupstream = 'sim-openai'\n"
    )
    assert house.server.reload().ok
    assert "brand-new" in [m["id"] for m in (await house.get("/v1/models")).json()["data"]]
    task_id = await house.create("brand-new", seconds="4")
    assert (await house.finished(task_id))["model"] == "brand-new"


async def test_a_second_signal_cuts_what_is_under_way(house: House) -> None:
    """The download ends broken, never as a short one that looks whole."""
    async with download(house) as (reply, _), asyncio.timeout(GUARD_S):
        serving = await drains(house)
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()
        await serving
    assert await how_it_ended(house) == (200, "drain")


async def test_the_drain_deadline_cuts_what_is_under_way(open_house: OpenHouse) -> None:
    async with (
        open_house(Plan(timeouts="drain_s = 0.05")) as house,
        download(house) as (reply, _),
        asyncio.timeout(GUARD_S),
    ):
        serving = asyncio.create_task(house.server.run())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()
        await serving
        assert await how_it_ended(house) == (200, "drain")


# ---------------------------------------------------------------- start


def server_of(path: Path, text: str) -> Server:
    path.write_text(text)
    return Server(load(path, {}, PROVIDERS), make_logger(io.StringIO()))


async def test_a_start_that_fails_leaves_nothing_open(tmp_path: Path, free_port: int) -> None:
    """The admin port is busy: the clients' port and the state directory are free again."""
    busy = bind("127.0.0.1:0")
    admin = f"127.0.0.1:{busy.getsockname()[1]}"
    listen = f"127.0.0.1:{free_port}"
    path = tmp_path / "config.toml"
    text = f'[server]\nlisten = "{listen}"\n[admin]\nlisten = "{admin}"\n'
    with busy, pytest.raises(CannotServe) as refused:
        await server_of(path, text).__aenter__()
    assert str(refused.value) == (
        f"cannot listen on {admin}: another process listens there; choose another [admin] listen"
    )
    async with server_of(path, text) as server:
        assert (server.url, server.admin_url) == (f"http://{listen}", f"http://{admin}")


async def test_it_listens_on_unix_sockets_in_its_state_directory(tmp_path: Path) -> None:
    """A directory that is made first."""
    front, back = (tmp_path / "state" / name for name in ("front.sock", "admin.sock"))
    text = f"""\
[server]
listen = "unix:{front}"
public_url = "https://video.example.com"
state_dir = "state"
[admin]
listen = "unix:{back}"
"""
    async with server_of(tmp_path / "config.toml", text) as server:
        assert (server.url, server.admin_url) == (f"unix:{front}", f"unix:{back}")
        assert server.public_url == "https://video.example.com"
        for path, target, status in ((front, "/v1/models", 401), (back, "/healthz", 200)):
            connector = aiohttp.UnixConnector(str(path))
            async with (
                aiohttp.ClientSession(connector=connector) as client,
                client.get(f"http://any{target}") as reply,
            ):
                assert reply.status == status


async def test_two_starts_on_one_state_directory_wait_for_each_other(tmp_path: Path) -> None:
    """The second takes over when the first has gone: a restart needs no pause."""
    text = (
        '[server]\nlisten = "127.0.0.1:0"\nstate_dir = "state"\n[admin]\nlisten = "127.0.0.1:0"\n'
    )
    first = await server_of(tmp_path / "first.toml", text).__aenter__()
    second = asyncio.create_task(server_of(tmp_path / "second.toml", text).__aenter__())
    done, _ = await asyncio.wait({second}, timeout=0.1)
    assert not done
    await first.__aexit__()
    async with asyncio.timeout(GUARD_S):
        await (await second).__aexit__()


# ---------------------------------------------------------------- the kept secret


def test_programs_that_start_at_once_agree_on_one_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(kept_secret, [path] * 8))
    assert len(made) == 1
    assert made == {path.read_bytes().strip()} == {kept_secret(path)}
    assert len(made.pop()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("left", [b"", b"\n", b"x" * 31])
def test_an_emptied_secret_is_refused_not_used(tmp_path: Path, left: bytes) -> None:
    """Keys derived from nothing anyone could derive."""
    path = tmp_path / "secret"
    path.write_bytes(left)
    with pytest.raises(CannotServe, match=r"holds \d+ bytes, a signing secret has at least 32"):
        kept_secret(path)
    assert path.read_bytes() == left


# ---------------------------------------------------------------- the loop


@pytest.mark.parametrize(
    ("said", "kind"),
    [(None, uvloop.Loop), ("uvloop", uvloop.Loop), ("asyncio", asyncio.SelectorEventLoop)],
)
def test_the_loop_is_uvloop_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, said: str | None, kind: type
) -> None:
    monkeypatch.delenv("REELWAY_LOOP", raising=False)
    if said is not None:
        monkeypatch.setenv("REELWAY_LOOP", said)
    loop = new_event_loop()
    try:
        assert isinstance(loop, kind)
    finally:
        loop.close()
