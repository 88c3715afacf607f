"""A store that refuses, hangs or is the wrong one: a clear error within the time-out, no hang."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from redis._parsers.base import BaseParser

from proxy.server.embedded_store import Embedded
from proxy.store import Store, StoreDown, StoreFault, StoreFull, StoreUnusable, keys
from proxy.store.client import connect, translate
from tests.rig.eventually import GUARD_S, eventually
from tests.rig.tasks import NOW, new_task


@asynccontextmanager
async def frozen(server: Embedded) -> AsyncIterator[None]:
    """The server's process stands still: connections are taken, nothing is answered."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


async def test_a_store_that_is_not_there_is_down(tmp_path: Path) -> None:
    for url in (f"unix://{tmp_path}/nothing.sock", "redis://127.0.0.1:1"):
        async with asyncio.timeout(GUARD_S):
            with pytest.raises(StoreDown) as caught:
                await Store.open(url)
        assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "2"})
        assert str(tmp_path) not in caught.value.message


async def test_a_store_that_takes_connections_and_says_nothing_is_down() -> None:
    clients: list[asyncio.StreamWriter] = []
    mute = await asyncio.start_server(lambda _, writer: clients.append(writer), "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    for login in ("", "user:password@"):
        async with asyncio.timeout(GUARD_S):
            with pytest.raises(StoreDown):
                await Store.open(f"redis://{login}127.0.0.1:{port}", timeout_s=0.05)
    for writer in clients:
        writer.close()
    mute.close()
    await mute.wait_closed()


async def test_a_frozen_store_is_down_for_everyone_and_recovers(own_valkey: Embedded) -> None:
    """More callers than lanes, in many turns of the loop: whoever waits behind a hanging batch
    is told with it, not one time-out later each."""
    store = await Store.open(own_valkey.url, timeout_s=0.1)
    task = new_task()
    async with frozen(own_valkey), asyncio.timeout(GUARD_S):
        asked = []
        for _ in range(50):
            asked.append(asyncio.ensure_future(store.tasks.get(task.id)))
            await asyncio.sleep(0)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert {type(answer) for answer in answers} == {StoreDown}
        with pytest.raises(StoreDown):
            await store.tasks.reserve(task, NOW)
        with pytest.raises(StoreDown):
            await store.ping()
    await store.ping()
    await store.close()


async def test_closing_beside_a_frozen_store_ends(own_valkey: Embedded) -> None:
    store = await Store.open(own_valkey.url, timeout_s=0.1)
    await store.listen(lambda *_: None, lambda: None)
    async with frozen(own_valkey), asyncio.timeout(GUARD_S):
        waiting = store.batch.call("PING")
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreDown):
            await waiting


async def test_a_restarted_store_is_found_again(own_valkey: Embedded) -> None:
    store = await Store.open(own_valkey.url)
    assert own_valkey.pid is not None
    os.kill(own_valkey.pid, signal.SIGKILL)
    await eventually(lambda: not own_valkey.is_running)
    with pytest.raises(StoreDown):
        await store.ping()
    await own_valkey.revive()
    await store.ping()
    await store.close()


@pytest.mark.parametrize("field", ["schema", "shards"])
async def test_data_of_another_layout_is_refused(
    store: Store, valkey: Embedded, field: str
) -> None:
    await store.batch.call("HSET", keys.META, field, 99)
    with pytest.raises(StoreUnusable, match=f"{field} 99"):
        await Store.open(valkey.url)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://127.0.0.1", "unknown scheme"),
        ("redis+sentinel://127.0.0.1:1", "service name"),
        ("redis+sentinel://127.0.0.1:1/main/x", "invalid literal"),
        ("redis+cluster://", "no host:port"),
        ("redis+cluster://h:99999", "out of range"),
        ("embedded", "unknown scheme"),
    ],
)
async def test_a_malformed_url_is_named(url: str, says: str) -> None:
    with pytest.raises(StoreUnusable, match=r"\[redis\] url") as caught:
        await Store.open(url)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:secret@127.0.0.1:1,[::1]:2/main/3",
        "redis+cluster://user:secret@127.0.0.1:1,127.0.0.1:2",
        "rediss://127.0.0.1:1",
    ],
)
async def test_every_kind_of_url_ends_in_the_same_error(url: str) -> None:
    """Nobody listens there; Sentinel and Cluster report that through classes of their own."""
    async with asyncio.timeout(GUARD_S):
        with pytest.raises(StoreDown):
            await Store.open(url)
    connections = connect(url, 0.5)
    await connections.listener().aclose()
    await connections.aclose()


def reply(said: str) -> Exception:
    """What redis-py makes of an error reply."""
    error: Exception = BaseParser.parse_error(said)  # type: ignore[no-untyped-call]  # in redis-py
    return error


@pytest.mark.parametrize(
    "said",
    [
        "NOAUTH Authentication required.",
        "WRONGPASS invalid username-password pair or user is disabled.",
        "NOPERM User default has no permissions to run the 'hget' command",
        "READONLY You can't write against a read only replica.",
        "BUSY Valkey is busy running a script.",
        "MISCONF Errors writing to the AOF file",
        "LOADING Valkey is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "NOREPLICAS Not enough good replicas to write.",
        "ERR Error running script (call to f_1): @user_script: 9: NOPERM No permissions",
    ],
)
def test_what_a_server_says_of_itself_is_passing(said: str) -> None:
    fault = translate(reply(said))
    assert isinstance(fault, StoreDown)
    assert (fault.status, fault.headers) == (503, {"Retry-After": "2"})


@pytest.mark.parametrize(
    "said",
    [
        "OOM command not allowed when used memory > 'maxmemory'.",
        "ERR Error running script (call to f_1): @user_script: -OOM command not allowed",
    ],
)
def test_a_full_server_is_told_from_one_that_is_down(said: str) -> None:
    assert isinstance(translate(reply(said)), StoreFull)


def test_a_key_of_another_type_is_never_a_500() -> None:
    said = "WRONGTYPE Operation against a key holding the wrong kind of value"
    fault = translate(reply(said))
    assert isinstance(fault, StoreFault)
    assert (fault.status, fault.headers) == (503, {"Retry-After": "2"})


async def test_one_unreadable_list_of_due_tasks_harms_its_shard_only(store: Store) -> None:
    task = new_task()
    assert await store.tasks.reserve(task, NOW) is None
    other = next(s for s in keys.ALL_SHARDS if s != keys.shard_of_task(task.id))
    await store.batch.call("SET", keys.due(other), "not a sorted set")
    lost: list[str] = []
    due = await store.tasks.claim_due(NOW, 1000, 10, lambda shard, _fault: lost.append(shard))
    assert (list(due), lost) == ([task.id], [other])


async def test_a_store_that_was_emptied_says_so(own_valkey: Embedded) -> None:
    """Also when a command has begun to use it again."""
    store = await Store.open(own_valkey.url)
    assert await store.trouble() is None
    await store.batch.call("FLUSHALL")
    assert "lost its data" in str(await store.trouble())
    other = await Store.open(own_valkey.url)
    assert "lost its data" in str(await store.trouble())
    assert await other.trouble() is None
    await other.close()
    await store.close()
