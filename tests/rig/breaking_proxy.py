"""A road that breaks, between a client and a gateway that does not know of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Road:
    """A TCP proxy between a client and the gateway. The next connections suffer what `breaks`
    says: their request arrives whole, and of the answer so many bytes go back (None: the answer
    goes through); then the client's connection is cut."""

    target: str
    breaks: list[int | None]
    url: str = ""
    connections: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    _jobs: set[asyncio.Task[None]] = field(default_factory=set)

    async def reached(self, connections: int) -> None:
        async with asyncio.timeout(20):
            while self.connections < connections:
                self.changed.clear()
                await self.changed.wait()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.changed.set()
        let_through = self.breaks.pop(0) if self.breaks else None
        job = asyncio.create_task(self._carry(reader, writer, let_through))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        let_through: int | None,
    ) -> None:
        parts = urlsplit(self.target)
        there, back = await asyncio.open_connection(parts.hostname, parts.port)

        async def ask() -> None:
            while chunk := await reader.read(65536):
                back.write(chunk)
                await back.drain()

        async def answer() -> None:
            left = let_through
            while chunk := await there.read(65536):
                writer.write(chunk if left is None else chunk[:left])
                await writer.drain()
                if left is not None:
                    left -= len(chunk[:left])
                    if left <= 0:
                        return

        ways = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, back):
                end.close()
                with suppress(ConnectionError):
                    await end.wait_closed()


@asynccontextmanager
async def road(target: str, *breaks: int | None) -> AsyncIterator[Road]:
    way = Road(target, list(breaks))
    server = await asyncio.start_server(way.accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    way.url = f"http://{host}:{port}"
    try:
        yield way
    finally:
        server.close()
        for job in way._jobs:
            job.cancel()
        await asyncio.gather(*way._jobs, return_exceptions=True)
