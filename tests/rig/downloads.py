"""Raw clients of a house, and where each provider's bytes come from.

A raw socket, because an HTTP library hides what these tests are about: whether a body that
ended early looks whole, and what is read when.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
from multidict import CIMultiDict

from proxy.sim import Entry, Fault
from proxy.sim.faults import Active, Kind
from tests.rig.house import House

WAIT_S = 20.0  # only a hang gets here
SIZE = 700_001  # takes every tier, and is no multiple of anything
PROMPT = f"a cat size={SIZE}"

TIERS = ("splice", "pipe", "copy")


@dataclass(frozen=True, slots=True)
class Place:
    """One provider: the model that is rendered there, and where its videos are fetched."""

    model: str
    service: str
    operation: str

    def fault(self, kind: Kind, **more: Any) -> Fault:
        """Of the requests for the video."""
        return Fault(kind, service=self.service, operation=self.operation, **more)

    def asked(self, house: House, method: str | None = None) -> list[Entry]:
        """What was asked for the video so far."""
        entries = house.sim.log.select(self.service, self.operation)
        return [entry for entry in entries if method in (None, entry.method)]


OPENAI = Place("sora-2", "openai", "content")
KLING = Place("sora-2-on-kling", "cdn", "file")
JIMENG = Place("sora-2-on-jimeng", "cdn", "file")
PLACES = {"openai": OPENAI, "kling": KLING, "jimeng": JIMENG}
# One with a content path of its own, one with result URLs.
TWO = {"openai": OPENAI, "kling": KLING}

each_place = pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
each_kind_of_place = pytest.mark.parametrize("place", TWO.values(), ids=TWO)


def content(task_id: str, **query: object) -> str:
    path = f"/v1/videos/{task_id}/content"
    pairs = "&".join(f"{name}={value}" for name, value in query.items())
    return f"{path}?{pairs}" if pairs else path


@dataclass(frozen=True, slots=True)
class Heard:
    """A reply as it came. `whole`: its framing says that this was everything."""

    status: int
    headers: CIMultiDict[str]
    body: bytes
    whole: bool


class Raw:
    """One connection; reads only when asked to."""

    def __init__(self, sock: socket.socket, host: str) -> None:
        self.sock = sock
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._held = b""
        self._ended = False
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.status = 0
        self._method = ""

    async def send(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        version: str = "1.1",
    ) -> None:
        lines = [f"{method} {path} HTTP/{version}", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._method = method
        await self._loop.sock_sendall(self.sock, "\r\n".join([*lines, "", ""]).encode())

    async def head(self) -> int:
        """Read the head only; returns the status."""
        async with asyncio.timeout(WAIT_S):
            while b"\r\n\r\n" not in self._held:
                await self._more()
                assert not self._ended, f"the connection ended in the head: {self._held!r}"
        text, _, self._held = self._held.partition(b"\r\n\r\n")
        first, *lines = text.decode("latin-1").split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = CIMultiDict()
        for line in lines:
            name, _, value = line.partition(":")
            self.headers.add(name, value.strip())
        return self.status

    async def some(self, size: int) -> bytes:
        """Exactly that many bytes, or fewer when the connection ends."""
        async with asyncio.timeout(WAIT_S):
            while len(self._held) < size and not self._ended:
                await self._more()
        data, self._held = self._held[:size], self._held[size:]
        return data

    async def body(self) -> tuple[bytes, bool]:
        """The rest of the body, and whether its framing was complete."""
        if self._method == "HEAD" or self.status in (204, 304):
            return b"", True
        length = self.headers.get("Content-Length")
        if length is not None:
            data = await self.some(int(length))
            return data, len(data) == int(length)
        if self.headers.get("Transfer-Encoding") == "chunked":
            return await self._chunks()
        data = await self.some(1 << 40)
        return data, not self._was_reset

    async def body_after(self, read: int) -> tuple[bytes, bool]:
        """`body`, of which `read` bytes were taken by `some` before."""
        left = int(self.headers["Content-Length"]) - read
        data = await self.some(left)
        return data, len(data) == left

    async def reply(self) -> Heard:
        await self.head()
        data, whole = await self.body()
        return Heard(self.status, self.headers, data, whole)

    async def ended(self) -> bool:
        """Wait for the connection's end; True when nothing came before it."""
        return await self.some(1 << 40) == b""

    def kill(self) -> None:
        """Leave without a word: RST, as a client that died."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    _was_reset = False

    async def _chunks(self) -> tuple[bytes, bool]:
        body = b""
        while True:
            line = b""
            while not line.endswith(b"\r\n"):
                byte = await self.some(1)
                if not byte:
                    return body, False
                line += byte
            size = int(line, 16)
            piece = await self.some(size + 2)
            body += piece[:size]
            if len(piece) < size + 2:
                return body, False
            if size == 0:
                return body, True

    async def _more(self) -> None:
        try:
            data = await self._loop.sock_recv(self.sock, 1 << 18)
        except ConnectionError:
            data, self._was_reset = b"", True
        self._held += data
        self._ended = not data


@asynccontextmanager
async def connected(house: House, *, rcvbuf: int = 0) -> AsyncIterator[Raw]:
    async with connected_to(house.url, rcvbuf=rcvbuf) as raw:
        yield raw


@asynccontextmanager
async def connected_to(url: str, *, rcvbuf: int = 0) -> AsyncIterator[Raw]:
    parts = urlsplit(url)
    sock = socket.socket()
    try:
        sock.setblocking(False)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
        yield Raw(sock, parts.netloc)
    finally:
        sock.close()


async def fetch(
    house: House,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    version: str = "1.1",
    token: bool = True,
) -> Heard:
    """One request on a connection of its own, with the house's token unless told otherwise."""
    async with connected(house) as raw:
        sent = {**(house.bearer if token else {}), **(headers or {})}
        await raw.send(path, sent, method=method, version=version)
        return await raw.reply()


async def told(
    house: House,
    path: str,
    headers: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[Heard, Mapping[str, object]]:
    """`fetch`, and the access line it left."""
    reply = await fetch(house, path, headers, **options)
    return reply, await line_of(house, reply)


async def line_of(house: House, reply: Heard | Raw) -> Mapping[str, object]:
    request_id = reply.headers["X-Request-Id"]
    return await house.line(lambda line: line["request_id"] == request_id)


async def some_work(house: House) -> float:
    """Does a few requests while something else is held, and returns the milliseconds they took:
    what is held was waited for as long at least. No sleep, and no guess at a length."""
    since_ns = time.perf_counter_ns()
    for _ in range(10):
        assert (await house.get("/v1/models")).status == 200
    return (time.perf_counter_ns() - since_ns) / 1e6


def tune(house: House, **limits: Any) -> None:
    """Other limits from the next request on, as a reload would bring them."""
    config = house.server.config
    house.server.config = replace(config, limits=config.limits.model_copy(update=limits))


def tiers(house: House) -> Iterator[str]:
    """Move bytes in one way only, then in the next; a download is given up soon."""
    for tier in TIERS:
        house.sim.faults.clear()
        house.sim.log.clear()
        tune(house, relay_tiers=(tier,), heal_attempts=2)
        yield tier


def add(house: House, *faults: Fault) -> list[Active]:
    return [house.sim.faults.add(fault) for fault in faults]


def of(task_id: str, method: str = "GET") -> Callable[[Mapping[str, object]], bool]:
    """The access line of a download of this task."""

    def matches(line: Mapping[str, object]) -> bool:
        named = task_id in str(line.get("path"))
        return named and line["operation"] == "content" and line["method"] == method

    return matches
