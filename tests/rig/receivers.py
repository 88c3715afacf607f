"""A client's own server, to which webhooks are sent, and houses that may call it.

What it answers is scripted, a status for each request in turn, because receivers that refuse,
hang or point elsewhere are what the retries are for; a fake that always says 200 would hide
that a failed one is never sent again.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

WAIT_S = 20.0  # only a hang gets here
HANG = 0  # instead of a status: never answer


@dataclass(frozen=True)
class Told:
    """One request that came."""

    path: str
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """`answers` are given in turn, then 200; `location` is where a 3xx points."""

    answers: deque[int] = field(default_factory=deque)
    location: str = ""
    told: list[Told] = field(default_factory=list)
    host_port: str = ""
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://{self.host_port}/hook"

    async def until(self, is_it: Callable[[list[Told]], bool]) -> list[Told]:
        async with asyncio.timeout(WAIT_S), self._came:
            await self._came.wait_for(lambda: is_it(self.told))
        return list(self.told)

    async def heard(self, count: int) -> list[Told]:
        """What came, once so many have."""
        return await self.until(lambda told: len(told) >= count)

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        told = Told(request.path_qs, request.headers, await request.read())
        async with self._came:
            self.told.append(told)
            self._came.notify_all()
        status = self.answers.popleft() if self.answers else 200
        if status == HANG:
            await asyncio.Event().wait()
        headers = {"Location": self.location} if 300 <= status < 400 else {}
        return web.Response(status=status, headers=headers)


def allowing(*receivers: Receiver, first_pause_s: float = 0.02) -> str:
    """The section of a configuration that lets webhooks come here, and soon again."""
    names = ", ".join(f'"{receiver.host_port}"' for receiver in receivers)
    return f"[webhooks]\nallow = [{names}]\nfirst_pause_s = {first_pause_s}\n"


@asynccontextmanager
async def receiving(*answers: int, location: str = "") -> AsyncIterator[Receiver]:
    receiver = Receiver(deque(answers), location)
    runner = web.ServerRunner(
        web.Server(receiver.serve, handler_cancellation=True), shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        receiver.host_port = f"{host}:{port}"
        yield receiver
    finally:
        await runner.cleanup()
