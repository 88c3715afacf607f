"""The relay between raw sockets: a client, the listener with a handler that relays, an upstream.

The upstream is a script over a bare socket: aiohttp's own server could not cut a body at a given
byte, lie about its length, or leave TLS without a close_notify.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import random
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvloop
from aiohttp import web

from proxy.gateway.listener import Listener, ListenerOptions, StreamReply, cut
from proxy.gateway.relay import (
    PipePool,
    RelayEnd,
    RelayOptions,
    RelayResult,
    StreamTurns,
    move,
)
from proxy.upstream import socket_factory
from tests.rig.eventually import eventually

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
WAIT_S = 30
BODY = random.Random(1).randbytes(1_000_003)
N = len(BODY)
LARGE = BODY * 24  # more than all socket buffers between the two ends

Script = Callable[["Upstream", asyncio.StreamWriter, int], Awaitable[None]]


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test coroutine once on each kind of loop."""

    @functools.wraps(test)
    def run(loop_kind: str, **given: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop_kind]) as runner:
            runner.run(asyncio.wait_for(test(**given), WAIT_S))

    own = list(inspect.signature(test).parameters.values())
    kind = inspect.Parameter("loop_kind", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = inspect.Signature([kind, *own])  # type: ignore[attr-defined]
    marked: Callable[..., None] = pytest.mark.parametrize("loop_kind", LOOPS)(run)
    return marked


each_tier = pytest.mark.parametrize("tier", ["splice", "pipe", "copy"])


def head(length: int | None, *lines: str) -> bytes:
    framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return "\r\n".join(["HTTP/1.1 200 OK", framing, *lines, "", ""]).encode()


class Upstream:
    """Runs its script for each request; `keeps` its connections. `taken` is set once `move` has
    the response."""

    def __init__(self, script: Script, *, keeps: bool = False) -> None:
        self.script = script
        self.keeps = keeps
        self.taken = asyncio.Event()
        self.requests = self.connections = 0
        self.failed: list[BaseException] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
                await self.script(self, writer, self.requests)
                with suppress(ConnectionError):
                    await writer.drain()
                if not self.keeps:
                    break
        except (ConnectionError, EOFError):  # the proxy left, perhaps before its request
            pass
        except Exception as exc:
            self.failed.append(exc)
        finally:
            writer.close()


def whole(body: bytes = BODY, held: int = 0) -> Script:
    """Send `held` bytes before the relay starts and the rest after."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(len(body)) + body[:held])
        await at.taken.wait()
        writer.write(body[held:])
        await writer.drain()

    return script


def cut_at(byte: int, how: str = "close", length: int = N) -> Script:
    """The first response is cut at `byte`, later ones are whole."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, nth: int) -> None:
        body = BODY if length == N else LARGE
        writer.write(head(length))
        await at.taken.wait()
        writer.write(body[: byte if nth == 1 else length])
        await writer.drain()
        if nth == 1 and how == "abort":
            writer.transport.abort()
        elif nth == 1 and how == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return script


class Rig:
    """A client, the listener with a handler that relays, and an upstream."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        address: str,
        url: str,
        runs: list[RelayResult],
        upstream: Upstream,
    ) -> None:
        self.session, self.url, self.runs, self.upstream = session, url, runs, upstream
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self.tier = ""
        self.bytes_out = 0
        self.pipes = PipePool()
        self.over = asyncio.Event()

    @property
    def counted(self) -> int:
        """The body bytes that `move` says it has sent so far."""
        return self.bytes_out

    async def client(self, rcvbuf: int = 0) -> Client:
        sock = socket.socket()
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self._where)
        sock.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        return Client(sock)

    async def fetch(self) -> bytes:
        client = await self.client()
        try:
            return await client.body()
        finally:
            client.sock.close()

    @property
    def run(self) -> RelayResult:
        (moved,) = self.runs
        return moved


class Client:
    """Reads when told to: no reader of its own runs ahead of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.got = b""

    async def read(self, size: int) -> bytes:
        data = await asyncio.get_running_loop().sock_recv(self.sock, size)
        self.got += data
        return data

    async def body(self) -> bytes:
        """All of it, to the end of the connection, however it ends."""
        parts = [self.got]
        with suppress(ConnectionError):
            while data := await asyncio.get_running_loop().sock_recv(self.sock, 1 << 18):
                parts.append(data)
        return b"".join(parts).partition(b"\r\n\r\n")[2]


@asynccontextmanager
async def rig(
    script: Script,
    tier: str,
    *,
    skip: int = 0,
    count: int | None = N,
    chunked: bool = False,
    heal: bool = False,
    certificate: tuple[Path, Path] | None = None,
    stop: asyncio.Event | None = None,
    keeps: bool = False,
    **options: Any,
) -> AsyncIterator[Rig]:
    """`heal`: after an upstream's fault open it again, without Range, and go on."""
    loop = asyncio.get_running_loop()
    upstream = Upstream(script, keeps=keeps)
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*certificate)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    runs: list[RelayResult] = []
    chosen = RelayOptions(tiers=(tier, "copy"), **options)
    connector = aiohttp.TCPConnector(
        ssl=False, socket_factory=socket_factory(chosen.upstream_rcvbuf_bytes)
    )
    session = aiohttp.ClientSession(
        connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
    )

    turns = StreamTurns()

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        framing = {"Content-Length": str(count)} if count is not None else {}
        reply = StreamReply(200, {"Transfer-Encoding": "chunked"} if chunked else framing)
        reply.begin(request)
        done = 0
        try:
            while True:
                response = await session.get(url)
                loop.call_soon(upstream.taken.set)  # after move's first step, which takes it
                moved = await move(
                    response,
                    request,
                    skip=skip + done,
                    count=None if count is None else count - done,
                    chunked=chunked,
                    options=chosen,
                    progress=at,
                    pipes=at.pipes,
                    turns=turns,
                    stop=stop,
                )
                runs.append(moved)
                done += moved.bytes
                if not (heal and moved.end in {RelayEnd.UPSTREAM_SHORT, RelayEnd.UPSTREAM_RESET}):
                    break
            if moved.end is not RelayEnd.DONE:
                cut(request)
            return reply
        finally:
            at.over.set()

    lines: list[str] = []
    listener = Listener(handle, ListenerOptions(), lines.append)
    at = Rig(session, await listener.start("127.0.0.1:0"), url, runs, upstream)
    try:
        yield at
    finally:
        upstream.taken.set()
        await listener.close()
        await session.close()
        at.pipes.close()
        server.close()
        await server.wait_closed()
    assert lines == []
    assert upstream.failed == []


def open_fds() -> int:
    return len(os.listdir("/proc/self/fd"))


async def base_fds() -> int:
    """Open files before a test, once the loop has made those it keeps (uvloop: at first use)."""
    async with rig(whole(), "splice") as at:
        await at.fetch()
    before = 0
    while before != (before := open_fds()):  # noqa: ASYNC110  # as in wait_fds
        await asyncio.sleep(0.05)
    return before


async def wait_fds(base: int) -> None:
    """Until no more files are open than before; the test's own deadline ends it."""
    await eventually(lambda: open_fds() <= base)


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of `localhost` and its key."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-subj", "/CN=localhost", "-days", "2"),
            *("-keyout", str(key), "-out", str(cert)),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key
