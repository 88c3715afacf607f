"""The relay's tiers between raw sockets, on asyncio's loop and on uvloop.

The upstream here is a script over a bare socket: aiohttp's own server could not cut a body at
a given byte, lie about its length, or leave TLS without a close_notify.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
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

from proxy.listener import Listener, ListenerOptions, StreamReply, cut
from proxy.relay import (
    End,
    Moved,
    PipePool,
    RelayOptions,
    move,
    socket_factory,
    usable_tiers,
)

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
    """Runs its script for each connection. `taken` is set once `move` has the response."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.taken = asyncio.Event()
        self.requests = 0
        self.failed: list[BaseException] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            await self.script(self, writer, self.requests)
            with suppress(ConnectionError):
                await writer.drain()
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
        self, session: aiohttp.ClientSession, address: str, url: str, runs: list[Moved]
    ) -> None:
        self.session, self.url, self.runs = session, url, runs
        host, _, port = address.rpartition(":")
        self._where = (host, int(port))
        self.counted = 0
        self.pipes = PipePool()
        self.over = asyncio.Event()

    def count(self, size: int) -> None:
        self.counted += size

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
    def run(self) -> Moved:
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
    **options: Any,
) -> AsyncIterator[Rig]:
    """`heal`: after an upstream's fault open it again, without Range, and go on."""
    loop = asyncio.get_running_loop()
    upstream = Upstream(script)
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*certificate)
    server = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    url = f"{'https' if tls else 'http'}://127.0.0.1:{port}/"
    runs: list[Moved] = []
    chosen = RelayOptions(tiers=(tier, "copy"), **options)
    connector = aiohttp.TCPConnector(
        ssl=False, socket_factory=socket_factory(chosen.upstream_rcvbuf_bytes)
    )
    session = aiohttp.ClientSession(
        connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=None)
    )

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
                    on_bytes=at.count,
                    pipes=at.pipes,
                    stop=stop,
                )
                runs.append(moved)
                done += moved.bytes
                if not (heal and moved.end in {End.UPSTREAM_SHORT, End.UPSTREAM_RESET}):
                    break
            if moved.end is not End.DONE:
                cut(request)
            return reply
        finally:
            at.over.set()

    lines: list[str] = []
    listener = Listener(handle, ListenerOptions(), lines.append)
    at = Rig(session, await listener.start("127.0.0.1:0"), url, runs)
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
    while open_fds() > base:  # noqa: ASYNC110  # nothing tells of a closed file
        await asyncio.sleep(0.01)


# --- whole bodies ---------------------------------------------------------------------------


@each_tier
@pytest.mark.parametrize("held", [0, 1, 70_000, N - 1])
@on_both_loops
async def test_a_whole_body_arrives(tier: str, held: int) -> None:
    """Also when part of it was read before the relay took over."""
    async with rig(whole(held=held), tier) as at:
        assert await at.fetch() == BODY
        assert (at.run.bytes, at.run.end, at.counted) == (N, End.DONE, N)
        assert at.run.tier == tier or held == N - 1


@each_tier
@pytest.mark.parametrize("size", [0, 1, 1000])
@on_both_loops
async def test_a_small_body_that_is_there_already_is_just_sent(tier: str, size: int) -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(size) + BODY[:size])

    async with rig(script, tier, count=size) as at:
        assert await at.fetch() == BODY[:size]
        assert at.run == Moved(size, End.DONE, "copy")


@each_tier
@pytest.mark.parametrize("skip", [1, 70_000, N - 200_001])
@on_both_loops
async def test_an_upstream_without_range_is_skipped_into(tier: str, skip: int) -> None:
    async with rig(whole(), tier, skip=skip, count=200_000) as at:
        assert await at.fetch() == BODY[skip : skip + 200_000]
        assert at.run.end is End.DONE


@each_tier
@pytest.mark.parametrize("count", [1, 65_536, N - 1])
@on_both_loops
async def test_never_more_than_count(tier: str, count: int) -> None:
    async with rig(whole(), tier, count=count) as at:
        assert await at.fetch() == BODY[:count]
        assert (at.run.bytes, at.run.end) == (count, End.DONE)


@each_tier
@on_both_loops
async def test_an_upstream_that_sends_more_than_it_announced_is_clipped(tier: str) -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N))
        await at.taken.wait()
        writer.write(BODY + b"surplus" * 1000)

    async with rig(script, tier) as at:
        assert await at.fetch() == BODY
        assert at.run.end is End.DONE


@each_tier
@on_both_loops
async def test_a_body_shorter_than_count_is_never_done(tier: str) -> None:
    """The upstream's own length is less than what the client was promised."""
    async with rig(whole(), tier, count=N + 1) as at:
        assert await at.fetch() == BODY
        assert (at.run.bytes, at.run.end) == (N, End.UPSTREAM_SHORT)


@on_both_loops
async def test_an_encoded_body_is_copied_as_it_is() -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N, "Content-Encoding: gzip"))
        await at.taken.wait()
        writer.write(BODY)

    async with rig(script, "splice") as at:
        assert await at.fetch() == BODY
        assert at.run.tier == "copy"


# --- chunked --------------------------------------------------------------------------------


def in_chunks(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


def out_of_chunks(wire: bytes) -> tuple[bytes, bool]:
    """The decoded body and whether its last chunk was there."""
    body = b""
    while wire:
        size, _, wire = wire.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, True
        assert wire[length : length + 2] == b"\r\n"
        body, wire = body + wire[:length], wire[length + 2 :]
    return body, False


@on_both_loops
async def test_an_unknown_length_is_relayed_in_chunks() -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(None) + in_chunks(BODY, 99_999))

    async with rig(script, "splice", count=None, chunked=True) as at:
        assert out_of_chunks(await at.fetch()) == (BODY, True)
        assert at.run == Moved(N, End.DONE, "copy")


@on_both_loops
async def test_a_chunked_body_cut_anywhere_is_never_whole() -> None:
    """Cut at every byte of the wire, chunk borders included."""
    small = BODY[:12]
    wire = in_chunks(small, 5)
    for byte in range(len(wire)):

        async def script(
            at: Upstream, writer: asyncio.StreamWriter, _: int, byte: int = byte
        ) -> None:
            writer.write(head(None))
            await at.taken.wait()
            writer.write(wire[:byte])

        async with rig(script, "splice", count=None, chunked=True) as at:
            body, complete = out_of_chunks(await at.fetch())
            assert not complete
            assert small.startswith(body)
            assert at.run.end is End.UPSTREAM_SHORT
            assert at.run.bytes == at.counted


# --- upstream faults ------------------------------------------------------------------------

CUTS = [0, 1, 65_535, 65_536, 131_072, 262_144, N - 1]


@each_tier
@pytest.mark.parametrize("byte", CUTS)
@on_both_loops
async def test_a_cut_upstream_is_told_with_the_exact_byte_and_can_be_gone_on_from(
    tier: str, byte: int
) -> None:
    """The client's connection stays in order: its body is whole after a second upstream."""
    async with rig(cut_at(byte), tier, heal=True) as at:
        assert await at.fetch() == BODY
        first, second = at.runs
        assert first.end is End.UPSTREAM_SHORT
        assert second.end is End.DONE
        assert first.bytes + second.bytes == at.counted == N
        if tier != "copy":  # aiohttp's reader drops what it holds when the connection breaks
            assert first.bytes == byte


@each_tier
@on_both_loops
async def test_an_unhealed_cut_is_a_short_body(tier: str) -> None:
    async with rig(cut_at(500_000), tier) as at:
        body = await at.fetch()
        assert len(body) <= 500_000
        assert BODY.startswith(body)
        assert at.run.end is End.UPSTREAM_SHORT


@each_tier
@on_both_loops
async def test_a_reset_upstream_is_gone_on_from(tier: str) -> None:
    async with rig(cut_at(500_000, "reset"), tier, heal=True) as at:
        assert await at.fetch() == BODY
        assert at.runs[0].end is End.UPSTREAM_RESET
        assert at.counted == N


@each_tier
@on_both_loops
async def test_a_reset_behind_megabytes_is_heard(tier: str) -> None:
    """More is readable than one read takes, and uvloop calls a poller only once for it."""
    script = cut_at(3_000_000, "reset", len(LARGE))
    async with rig(script, tier, count=len(LARGE), heal=True, upstream_rcvbuf_bytes=8 << 20) as at:
        assert hashlib.sha256(await at.fetch()).digest() == hashlib.sha256(LARGE).digest()
        assert at.runs[0].end is End.UPSTREAM_RESET
        assert at.counted == len(LARGE)


@on_both_loops
async def test_a_session_can_be_closed_under_a_run() -> None:
    """The connector waits for each connection's end, also of one that was taken over."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N))
        await at.taken.wait()
        writer.write(BODY[:1000])
        await at_rig.over.wait()

    async with rig(script, "pipe") as at_rig:
        client = await at_rig.client()
        while not client.got.endswith(BODY[:1000]):
            await client.read(65_536)
        await at_rig.session.close()
        await at_rig.over.wait()
        client.sock.close()
        assert (at_rig.run.bytes, at_rig.run.end) == (1000, End.UPSTREAM_SHORT)


@each_tier
@on_both_loops
async def test_an_upstream_lost_before_the_relay_starts_is_gone_on_from(tier: str) -> None:
    """aiohttp has bytes, and an error, in its reader when the relay takes over."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, nth: int) -> None:
        writer.write(head(N) + BODY[: 1000 if nth == 1 else N])

    async with rig(script, tier, heal=True) as at:
        assert await at.fetch() == BODY
        assert at.counted == N


@each_tier
@on_both_loops
async def test_a_stalled_upstream_is_not_the_clients_fault(tier: str) -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N))
        await at.taken.wait()
        writer.write(BODY[:300_000])
        await at_rig.over.wait()

    async with rig(script, tier, idle_upstream_s=0.2, idle_client_s=0.1) as at_rig:
        assert await at_rig.fetch() == BODY[:300_000]
        assert (at_rig.run.bytes, at_rig.run.end) == (300_000, End.IDLE_UPSTREAM)


@each_tier
@on_both_loops
async def test_a_client_that_sips_falls_below_the_minimum_rate(tier: str) -> None:
    """It is never idle, and there was more to take than it took."""
    options: dict[str, Any] = {"min_rate_bytes_s": 1_000_000, "min_rate_window_s": 0.2}
    async with rig(whole(LARGE), tier, count=len(LARGE), **options) as at:
        client = await at.client(rcvbuf=4096)
        with suppress(ConnectionError):
            while not at.over.is_set():
                await client.read(1000)
                await asyncio.sleep(0.02)
        assert at.run.end is End.MIN_RATE
        client.sock.close()


@each_tier
@on_both_loops
async def test_a_trickle_is_not_the_clients_fault(tier: str) -> None:
    """Below the minimum rate, but the client takes all there is."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(30))
        for _ in range(30):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    options: dict[str, Any] = {"min_rate_bytes_s": 10_000, "min_rate_window_s": 0.1}
    async with rig(script, tier, count=30, **options) as at:
        assert await at.fetch() == b"x" * 30
        assert at.run.end is End.DONE


@each_tier
@on_both_loops
async def test_a_stop_ends_the_run(tier: str) -> None:
    stop = asyncio.Event()

    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N) + BODY[:1000])
        await at.taken.wait()
        stop.set()
        await at_rig.over.wait()

    async with rig(script, tier, stop=stop, idle_upstream_s=WAIT_S) as at_rig:
        assert await at_rig.fetch() == BODY[:1000]
        assert at_rig.run.end is End.DRAIN


# --- clients --------------------------------------------------------------------------------


async def wait_standstill(at: Rig) -> None:
    """Until a stream that nobody reads has filled what there is to fill."""
    before = -1
    while before != at.counted or not before:
        before = at.counted
        await asyncio.sleep(0.1)


@each_tier
@on_both_loops
async def test_a_client_that_stops_reading_and_goes_on_misses_nothing(tier: str) -> None:
    async with rig(whole(LARGE), tier, count=len(LARGE)) as at:
        client = await at.client(rcvbuf=4096)
        await wait_standstill(at)
        assert at.counted < len(LARGE)
        body = await client.body()
        client.sock.close()
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()
        assert at.run == Moved(len(LARGE), End.DONE, tier)


@each_tier
@on_both_loops
async def test_a_client_that_takes_nothing_is_idle(tier: str) -> None:
    base = await base_fds()
    async with rig(whole(LARGE), tier, count=len(LARGE), idle_client_s=0.2) as at:
        client = await at.client(rcvbuf=4096)
        await at.over.wait()
        body = await client.body()
        client.sock.close()
        assert at.run.end is End.IDLE_CLIENT
        assert len(body) <= at.run.bytes == at.counted < len(LARGE)
        assert LARGE.startswith(body)
    await wait_fds(base)


@each_tier
@on_both_loops
async def test_a_slow_client_is_not_idle(tier: str) -> None:
    """It reads less than would ever make the kernel call our end writable in that time."""
    async with rig(whole(LARGE), tier, count=len(LARGE), idle_client_s=1.0) as at:
        client = await at.client(rcvbuf=4096)
        await wait_standstill(at)
        for _ in range(60):
            await client.read(8192)
            await asyncio.sleep(0.03)
        assert not at.over.is_set()
        assert hashlib.sha256(await client.body()).digest() == hashlib.sha256(LARGE).digest()
        client.sock.close()


@each_tier
@on_both_loops
async def test_a_client_that_leaves_is_counted_and_leaves_nothing_open(tier: str) -> None:
    base = await base_fds()
    async with rig(whole(LARGE), tier, count=len(LARGE)) as at:
        client = await at.client()
        while len(client.got) < 100_000:
            await client.read(65_536)
        client.sock.close()
        await at.over.wait()
        assert 100_000 <= at.counted < len(LARGE)
    await wait_fds(base)


@on_both_loops
async def test_a_client_gone_before_the_start_costs_nothing() -> None:
    class Gone:
        transport = None

    async with rig(whole(), "splice") as at:
        response = await at.session.get(at.url)
        request: Any = Gone()
        options = RelayOptions()
        moved = await move(response, request, skip=0, count=N, options=options, on_bytes=at.count)
        assert moved == Moved(0, End.CLIENT_GONE, "none")
        assert at.counted == 0
        assert response.closed


@each_tier
@on_both_loops
async def test_an_abort_storm_leaves_nothing_behind(tier: str) -> None:
    """All clients leave in the middle; files go back to the base and a download is right."""
    base = await base_fds()
    async with rig(whole(LARGE), tier, count=len(LARGE)) as at:
        for _ in range(3):
            clients = [await at.client() for _ in range(15)]
            for size, client in enumerate(clients):
                await client.read(1 + size * 1000)
            for client in clients:
                client.sock.close()
        body = await at.fetch()
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()
        assert at.runs[-1] == Moved(len(LARGE), End.DONE, tier)
    await wait_fds(base)


@on_both_loops
async def test_a_pipe_that_holds_bytes_is_never_used_again() -> None:
    async with rig(whole(LARGE), "splice", count=len(LARGE), idle_client_s=0.2) as at:
        client = await at.client(rcvbuf=4096)
        await at.over.wait()
        client.sock.close()
        pair = at.pipes.get()
        assert pair is not None
        with pytest.raises(BlockingIOError):
            os.read(pair.read_fd, 1)
        pair.close()


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
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


@pytest.mark.parametrize("held", [0, 70_000])
@on_both_loops
async def test_a_tls_body_arrives_by_the_pipe_tier(
    certificate: tuple[Path, Path], held: int
) -> None:
    async with rig(whole(held=held), "splice", certificate=certificate) as at:
        assert await at.fetch() == BODY
        assert at.run == Moved(N, End.DONE, "pipe")


@pytest.mark.parametrize("tier", ["pipe", "copy"])
@pytest.mark.parametrize("byte", [0, 1, 65_536, 500_000, N - 1])
@pytest.mark.parametrize("how", ["close", "abort"])
@on_both_loops
async def test_a_tls_upstream_cut_with_or_without_close_notify_is_gone_on_from(
    certificate: tuple[Path, Path], tier: str, byte: int, how: str
) -> None:
    async with rig(cut_at(byte, how), tier, heal=True, certificate=certificate) as at:
        assert await at.fetch() == BODY
        assert at.runs[0].end in {End.UPSTREAM_SHORT, End.UPSTREAM_RESET}
        assert at.counted == N


@on_both_loops
async def test_a_slow_client_holds_a_tls_upstream_back(certificate: tuple[Path, Path]) -> None:
    async with rig(whole(LARGE), "pipe", count=len(LARGE), certificate=certificate) as at:
        client = await at.client(rcvbuf=4096)
        await wait_standstill(at)
        assert at.counted < len(LARGE)
        body = await client.body()
        client.sock.close()
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


# --- probe ----------------------------------------------------------------------------------


def test_every_tier_is_usable_here() -> None:
    """Against the pinned aiohttp: its internals that the tiers use are still there."""
    assert usable_tiers(("splice", "pipe", "copy")) == (("splice", "pipe", "copy"), [])


def test_without_its_internals_only_copy_is_left_and_said() -> None:
    tiers, lines = usable_tiers(("splice", "pipe"), [(RelayOptions, ("nothing_like_it",))])
    assert tiers == ("copy",)
    assert lines == [
        "relay tier splice is off: this aiohttp has no RelayOptions.nothing_like_it",
        "relay tier pipe is off: this aiohttp has no RelayOptions.nothing_like_it",
    ]
