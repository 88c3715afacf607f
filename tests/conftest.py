"""Fixtures of every directory, and how pytest is set up."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aioresponses.core
import pytest
import pytest_asyncio
import uvloop
from aiohttp import ClientResponse
from hypothesis import settings as hypothesis_settings

pytest.register_assert_rewrite("tests.rig")

from proxy.server.embedded_store import Embedded  # noqa: E402
from proxy.store import Store  # noqa: E402
from tests.rig.eventually import GUARD_S  # noqa: E402
from tests.rig.house import House, OpenHouse, Plan, start_house  # noqa: E402
from tests.rig.valkey import Valkeys, bundled_server, empty  # noqa: E402

# Hypothesis' deadline of 200 ms for one example measures the machine, not the code.
hypothesis_settings.register_profile("reelway", deadline=None)
hypothesis_settings.load_profile("reelway")


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loop the gateway itself would take: uvloop, or asyncio's with REELWAY_LOOP=asyncio."""
    if os.environ.get("REELWAY_LOOP") == "asyncio":
        return {"asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


class _PatchedResponse(ClientResponse):
    """aioresponses 0.7.9 does not know the `stream_writer` that aiohttp 3.14 asks for."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)


aioresponses.core.ClientResponse = _PatchedResponse  # type: ignore[attr-defined]  # see above


@pytest.fixture(scope="session")
def valkeys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkeys]:
    servers = Valkeys(tmp_path_factory.mktemp("valkeys"))
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def valkey(valkeys: Valkeys) -> Embedded:
    """The server of all tests that work on a bare store."""
    return asyncio.run(valkeys.take())


@pytest.fixture
async def store(valkey: Embedded) -> AsyncIterator[Store]:
    """An empty store."""
    await empty(valkey)
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


@pytest_asyncio.fixture
async def house(
    tmp_path: Path, valkeys: Valkeys, request: pytest.FixtureRequest
) -> AsyncIterator[House]:
    """A house by the test's `@pytest.mark.parametrize("house", [Plan(…)], indirect=True)`, or the
    usual one."""
    plan: Plan = getattr(request, "param", Plan())
    async with start_house(tmp_path, valkeys, plan) as started:
        yield started


@pytest.fixture
def open_house(tmp_path: Path, valkeys: Valkeys) -> OpenHouse:
    """`async with open_house(Plan(...)) as house`, for a test that needs its own; a second one with
    the same `folder` and `embedded=True` finds the first one's state."""

    def make(
        plan: Plan | None = None, folder: Path | None = None
    ) -> AbstractAsyncContextManager[House]:
        return start_house(folder or tmp_path, valkeys, plan or Plan())

    return make


@pytest.fixture
def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port
