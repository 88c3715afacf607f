"""The listener over real sockets, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from proxy.errors import BodyTimeout, Invalid
from proxy.gateway.listener import (
    Handler,
    Listener,
    ListenerOptions,
    PortBusy,
    StreamReply,
    WholeReply,
    address_of,
    bind,
    conn_of,
    cut,
    read_body,
)
from tests.rig.eventually import eventually
from tests.rig.relay import on_both_loops

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
WAIT_S = 20


class Peer:
    """A client that sees every byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def reply(self) -> tuple[str, bytes]:
        head = await self.head()
        length = re.search(r"Content-Length: (\d+)", head)
        return head, await self.reader.readexactly(int(length[1]) if length else 0)

    async def rest(self) -> bytes:
        """Everything until the server closes; a reset counts as closed."""
        got = b""
        try:
            while chunk := await self.reader.read(65536):
                got += chunk
        except ConnectionError:
            pass
        return got


class House:
    def __init__(self, listener: Listener, address: str, lines: list[str]) -> None:
        self.listener, self.lines = listener, lines
        host, _, port = address.rpartition(":")
        self.host, self.port = host, int(port)
        self._peers: list[Peer] = []

    async def peer(self) -> Peer:
        peer = Peer(*await asyncio.open_connection(self.host, self.port))
        self._peers.append(peer)
        return peer

    async def once(self, data: bytes) -> tuple[str, bytes]:
        peer = await self.peer()
        peer.send(data)
        return await peer.reply()

    async def leave(self) -> None:
        for peer in self._peers:
            peer.writer.close()
            with suppress(ConnectionError):
                await peer.writer.wait_closed()


@asynccontextmanager
async def house(handler: Handler, **options: Any) -> AsyncIterator[House]:
    lines: list[str] = []
    listener = Listener(handler, ListenerOptions(**options), lines.append)
    it = House(listener, await listener.start("127.0.0.1:0"), lines)
    try:
        yield it
    finally:
        await it.leave()
        await listener.close()
        assert listener.connections == 0


async def hello(request: web.BaseRequest) -> web.StreamResponse:
    return WholeReply(200, {"Content-Type": "text/plain"}, b"hello")


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    try:
        got = [chunk async for chunk in read_body(request, 0.05)]
    except (Invalid, BodyTimeout) as exc:
        return WholeReply(exc.status, {}, exc.message.encode())
    return WholeReply(200, {}, b"".join(got))


# --- replies --------------------------------------------------------------------------------


@on_both_loops
async def test_a_whole_reply_is_one_exact_message() -> None:
    async with house(hello) as at:
        head, body = await at.once(GET)
        shape = (
            r"HTTP/1\.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n"
            r"Date: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n\r\n"
        )
        assert re.fullmatch(shape, head)
        assert body == b"hello"


@on_both_loops
async def test_pipelined_requests_are_answered_in_order_on_one_connection() -> None:
    """The contract of `WholeReply` with aiohttp: it is a response like any other."""

    async def path(request: web.BaseRequest) -> web.StreamResponse:
        return WholeReply(200, (), request.path.encode())

    async with house(path) as at:
        peer = await at.peer()
        peer.send(b"".join(GET.replace(b"/ ", b"/%d " % n) for n in range(5)))
        assert [(await peer.reply())[1] for _ in range(5)] == [b"/%d" % n for n in range(5)]


@on_both_loops
async def test_head_gets_the_length_and_no_body() -> None:
    async with house(hello) as at:
        peer = await at.peer()
        peer.send(GET.replace(b"GET", b"HEAD"))
        assert "Content-Length: 5\r\n" in await peer.head()
        peer.send(GET)
        assert (await peer.head()).startswith("HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_bytes", "link", "stays"),
    [
        (GET, None, True),
        (GET[:-2] + b"Connection: close\r\n\r\n", "close", False),
        (b"GET / HTTP/1.0\r\n\r\n", "close", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "keep-alive", True),
        (GET[:-2].replace(b"GET", b"PUT") + b"Content-Length: 9\r\n\r\nunread", "close", False),
    ],
)
@on_both_loops
async def test_the_connection_header_says_what_happens(
    request_bytes: bytes, link: str | None, stays: bool
) -> None:
    async with house(hello) as at:
        peer = await at.peer()
        peer.send(request_bytes)
        head, _ = await peer.reply()
        assert (m[1] if (m := re.search(r"Connection: (\S+)", head)) else None) == link
        if stays:
            peer.send(GET)
            assert (await peer.reply())[1] == b"hello"
        else:
            peer.writer.write_eof()
            assert await peer.rest() == b""


def test_a_line_break_in_a_header_is_refused() -> None:
    with pytest.raises(ValueError, match="line break"):
        WholeReply(200, {"x": "a\r\nset-cookie: b"})


@pytest.mark.parametrize("status", [204, 304])
@on_both_loops
async def test_a_bodiless_status_carries_no_length(status: int) -> None:
    async def bare(request: web.BaseRequest) -> web.StreamResponse:
        return WholeReply(status)

    async with house(bare) as at:
        peer = await at.peer()
        peer.send(GET)
        assert "Content-Length" not in await peer.head()
        peer.send(GET)
        assert f" {status} " in await peer.head()


@on_both_loops
async def test_a_streamed_reply_is_sent_by_its_handler() -> None:
    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        reply = StreamReply(206, [("Content-Length", "6")])
        reply.begin(request)
        for part in (b"abc", b"def"):
            assert request.transport is not None
            request.transport.write(part)
        return reply

    async with house(stream) as at:
        peer = await at.peer()
        for _ in range(2):
            peer.send(GET)
            head, body = await peer.reply()
            assert head.startswith("HTTP/1.1 206 Partial Content\r\n")
            assert body == b"abcdef"


@on_both_loops
async def test_a_cut_body_is_short_and_ends() -> None:
    """A client never takes a cut response for a whole one, and nothing is logged."""

    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        reply = StreamReply(200, {"Content-Length": "10"})
        reply.begin(request)
        assert request.transport is not None
        request.transport.write(b"abc")
        cut(request)
        return reply

    async with house(broken) as at:
        peer = await at.peer()
        peer.send(GET + GET)
        head = await peer.head()
        assert "Content-Length: 10" in head
        assert await peer.rest() == b"abc"
        assert at.lines == []


@on_both_loops
async def test_a_cut_body_without_framing_is_a_reset() -> None:
    """The end of a close-delimited body is the end of the connection: it must be an error."""

    async def broken(request: web.BaseRequest) -> web.StreamResponse:
        reply = StreamReply(200)
        reply.begin(request)
        cut(request)
        return reply

    async with house(broken) as at:
        peer = await at.peer()
        peer.send(GET)
        with pytest.raises(ConnectionResetError):
            while await peer.reader.read(100):
                pass


@on_both_loops
async def test_a_failing_handler_is_a_500_and_one_log_entry() -> None:
    async def bad(request: web.BaseRequest) -> web.StreamResponse:
        raise KeyError("oh")

    async with house(bad) as at:
        head, body = await at.once(GET)
        assert " 500 " in head
        assert orjson.loads(body)["error"]["code"] == "internal_error"
        assert len(at.lines) == 1
        assert "KeyError: 'oh'" in at.lines[0]


@on_both_loops
async def test_a_handler_that_fails_in_the_middle_of_a_body_cuts_it() -> None:
    """No second response head ever lands inside a body."""

    async def bad(request: web.BaseRequest) -> web.StreamResponse:
        StreamReply(200, {"Content-Length": "10"}).begin(request)
        raise KeyError("oh")

    async with house(bad) as at:
        peer = await at.peer()
        peer.send(GET)
        await peer.head()
        assert await peer.rest() == b""


@on_both_loops
async def test_a_client_that_leaves_cancels_its_handler() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(request: web.BaseRequest) -> web.StreamResponse:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError

    async with house(forever) as at:
        peer = await at.peer()
        peer.send(GET)
        await entered.wait()
        peer.writer.close()
        await cancelled.wait()


@on_both_loops
async def test_backpressure_reaches_the_flow_hook() -> None:
    said: list[str] = []
    resumed = asyncio.Event()

    class Flow:
        def pause(self) -> None:
            said.append("pause")

        def resume(self) -> None:
            said.append("resume")
            resumed.set()

    async def stream(request: web.BaseRequest) -> web.StreamResponse:
        conn_of(request).flow = Flow()
        reply = StreamReply(200, {"Content-Length": str(1 << 24)})
        reply.begin(request)
        assert request.transport is not None
        request.transport.write(bytes(1 << 24))
        await resumed.wait()
        return reply

    async with house(stream) as at:
        peer = await at.peer()
        peer.send(GET)
        assert len((await peer.reply())[1]) == 1 << 24
        assert said == ["pause", "resume"]


@on_both_loops
async def test_a_client_that_never_reads_its_reply_is_cut() -> None:
    async def large(request: web.BaseRequest) -> web.StreamResponse:
        return WholeReply(200, (), bytes(1 << 24))

    async with house(large, body_idle_s=0.05) as at:
        peer = await at.peer()
        peer.send(GET)
        await peer.head()
        assert await at.listener.wait_idle(WAIT_S)


# --- malformed requests ---------------------------------------------------------------------

MALFORMED = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a\n\n",
    "two lengths": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "length and chunked": b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked on 1.0": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "connect": b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
    "not http": b"GET ftp://other/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "user in the target": b"GET http://u:p@other/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "port of the target": b"GET http://other:99999/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "no host in the target": b"GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n",
    "authority": b"GET other:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute, bad host": b"GET http://other/ HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "path in the host": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "space in the host": b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
    "port of letters": b"GET / HTTP/1.1\r\nHost: a:zz\r\n\r\n",
    "port too high": b"GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n",
    "user in the host": b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
    "open bracket": b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    "two spaces behind": b"GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
    "long header": b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 9000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
@on_both_loops
async def test_a_malformed_request_is_refused_in_one_line(case: str) -> None:
    """400 in our own envelope, `Connection: close`, one line in the log, no handler run."""

    async def never(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("the handler ran")

    async with house(never) as at:
        peer = await at.peer()
        peer.send(MALFORMED[case])
        head, body = await peer.reply()
        assert head.startswith("HTTP/1.1 400 Bad Request\r\n")
        assert "Connection: close\r\n" in head
        assert orjson.loads(body)["error"]["code"] == "malformed_request"
        peer.writer.write_eof()
        assert await peer.rest() == b""
        assert len(at.lines) == 1
        assert "\n" not in at.lines[0]
        assert at.lines[0].endswith("(from 127.0.0.1)")


NOT_SERVED = {
    "http 2": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    "http 0.9": (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    "rtsp": (b"GET / RTSP/1.0\r\nHost: a\r\n\r\n", 505),
    "rtsp's own": (b"DESCRIBE / RTSP/1.0\r\nHost: a\r\n\r\n", 505),
    "icecast": (b"SOURCE / ICE/1.0\r\nHost: a\r\n\r\n", 505),
    "empty line before": (b"\r\nGET / RTSP/1.0\r\nHost: a\r\n\r\n", 505),
} | {
    coding.decode(): (
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: " + coding + b"\r\n\r\n0\r\n\r\n",
        501,
    )
    for coding in (b"gzip, chunked", b"identity, chunked", b"cow, chunked", b",chunked")
}


@pytest.mark.parametrize("pieces", [1, 3])
@pytest.mark.parametrize("case", NOT_SERVED)
@on_both_loops
async def test_what_this_server_does_not_speak_is_refused(case: str, pieces: int) -> None:
    """In one piece or several, and the connection ends: nothing behind it is read."""

    async def never(request: web.BaseRequest) -> web.StreamResponse:
        raise AssertionError("the handler ran")

    sent, status = NOT_SERVED[case]
    async with house(never) as at:
        peer = await at.peer()
        sent += GET if status == 501 else b""  # the parser itself refuses more after the others
        step = -(-len(sent) // pieces)
        for begin in range(0, len(sent), step):
            peer.send(sent[begin : begin + step])
            await peer.writer.drain()
            await asyncio.sleep(0)
        head, body = await peer.reply()
        assert head.startswith(f"HTTP/1.1 {status} ")
        assert "Connection: close\r\n" in head
        assert orjson.loads(body)["detail"] == orjson.loads(body)["error"]["message"]
        peer.writer.write_eof()
        assert await peer.rest() == b""
        assert len(at.lines) == 1


@pytest.mark.parametrize(
    "coding", [b"chunked", b"CHUNKED", b"chunked\t", b"chunked \t ", b"\tchunked\t", b"chunked "]
)
@on_both_loops
async def test_chunked_is_read_however_it_is_spaced(coding: bytes) -> None:
    """A tab in a body, or in another header, stays one."""
    sent = (
        b"POST / HTTP/1.1\r\nHost: h\r\nX-Tab: a\tb\r\nTransfer-Encoding: " + coding + b"\r\n\r\n"
        b"28\r\n\r\nTransfer-Encoding: chunked\t\r\n and more\r\n0\r\n\r\n"
    )
    async with house(echo) as at:
        _, body = await at.once(sent)
        assert body == b"\r\nTransfer-Encoding: chunked\t\r\n and more"


@on_both_loops
async def test_the_second_request_of_a_connection_is_looked_at_too() -> None:
    async with house(hello) as at:
        peer = await at.peer()
        peer.send(GET)
        assert (await peer.reply())[1] == b"hello"
        peer.send(b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert (await peer.reply())[0].startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "target", [b"http://other/x?y=1", b"HTTPS://other:8443/x", b"http://[::1]/", b"http://other?y"]
)
@on_both_loops
async def test_an_absolute_target_is_taken(target: bytes) -> None:
    """A client behind a proxy setting sends such (RFC 9112, 3.2.2: a server MUST accept it)."""
    async with house(hello) as at:
        peer = await at.peer()
        for _ in range(2):
            peer.send(b"GET " + target + b" HTTP/1.1\r\nHost: other\r\n\r\n")
            assert (await peer.reply())[1] == b"hello"


@on_both_loops
async def test_an_upgrade_is_ignored() -> None:
    async with house(hello) as at:
        peer = await at.peer()
        peer.send(GET[:-2] + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await peer.reply())[1] == b"hello"


# --- request bodies -------------------------------------------------------------------------


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST / HTTP/1.1", b"Host: h", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


CHUNKED = b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        (GET, b""),
        (post(b""), b""),
        (post(b"abc"), b"abc"),
        (CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (post(bytes(3 << 20)), bytes(3 << 20)),
        (post(b"\x1f\x8bnot really", b"Content-Encoding: gzip"), b"\x1f\x8bnot really"),
    ],
    ids=["none", "empty", "length", "chunked", "above 1 MiB", "encoded"],
)
@on_both_loops
async def test_a_body_arrives_as_it_was_sent(sent: bytes, body: bytes) -> None:
    async with house(echo) as at:
        assert (await at.once(sent))[1] == body


@on_both_loops
async def test_the_client_is_told_to_continue_once_and_first() -> None:
    async with house(echo) as at:
        peer = await at.peer()
        peer.send(post(b"abc", b"Expect: 100-continue")[:-3])
        assert await peer.head() == "HTTP/1.1 100 Continue\r\n\r\n"
        peer.send(b"abc")
        assert (await peer.reply())[1] == b"abc"


@on_both_loops
async def test_a_refused_body_is_never_invited() -> None:
    async with house(hello) as at:
        peer = await at.peer()
        peer.send(post(b"abc", b"Expect: 100-continue")[:-3])
        head, _ = await peer.reply()
        assert head.startswith("HTTP/1.1 200")
        assert "Connection: close\r\n" in head


@pytest.mark.parametrize("sent", [post(b"abc")[:-1], CHUNKED + b"3\r\nab", CHUNKED])
@on_both_loops
async def test_a_stalled_body_is_a_408(sent: bytes) -> None:
    async with house(echo) as at:
        head, body = await at.once(sent)
        assert head.startswith("HTTP/1.1 408 ")
        assert b"0.05 s" in body


@on_both_loops
async def test_a_dripping_body_is_a_408() -> None:
    first = asyncio.Event()

    async def strict(request: web.BaseRequest) -> web.StreamResponse:
        with pytest.raises(BodyTimeout, match="slower than"):
            async for _ in read_body(request, 0.2, min_bytes_s=10**9):
                first.set()
        return WholeReply(408)

    async with house(strict) as at:
        peer = await at.peer()
        peer.send(post(bytes(10**6))[: -(10**6)])

        async def drip() -> None:
            while True:
                peer.send(b"x")
                await asyncio.sleep(0.02)

        task = asyncio.create_task(drip())
        assert (await peer.head()).startswith("HTTP/1.1 408 ")
        assert first.is_set()
        task.cancel()


@pytest.mark.parametrize("together", [True, False])
@on_both_loops
async def test_a_framing_error_in_a_later_chunk_reaches_the_reader(together: bool) -> None:
    started = asyncio.Event()

    async def read(request: web.BaseRequest) -> web.StreamResponse:
        with pytest.raises(Invalid, match="malformed"):
            async for _ in read_body(request, WAIT_S):
                started.set()
        return WholeReply(400)

    async with house(read) as at:
        peer = await at.peer()
        peer.send(CHUNKED + b"3\r\nabc\r\n")
        if not together:
            await started.wait()
        peer.send(b"zz\r\n")
        assert (await peer.head()).startswith("HTTP/1.1 400 ")


@on_both_loops
async def test_a_framing_error_behind_a_pipelined_request_reaches_its_reader() -> None:
    """Also when the error comes before the request it belongs to has its turn."""
    entered, release = asyncio.Event(), asyncio.Event()

    async def turns(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/first":
            entered.set()
            await release.wait()
        return await echo(request)

    async with house(turns) as at:
        peer = await at.peer()
        peer.send(GET.replace(b"/ ", b"/first ") + CHUNKED + b"3\r\nabc\r\n")
        await entered.wait()
        peer.send(b"zz\r\n")
        await at.once(GET)  # by its answer, the bytes sent before it were read as well
        release.set()
        assert (await peer.reply())[0].startswith("HTTP/1.1 200 ")
        head, body = await peer.reply()
        assert head.startswith("HTTP/1.1 400 ")
        assert b"malformed" in body


# --- deadlines and the cap ------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET / HT", GET[:-2]])
@on_both_loops
async def test_an_unfinished_head_is_closed(sent: bytes) -> None:
    async with house(hello, head_s=0.05) as at:
        peer = await at.peer()
        peer.send(sent)
        assert await peer.rest() == b""


@on_both_loops
async def test_a_dripped_head_is_closed_and_an_idle_connection_is_not() -> None:
    async with house(hello, head_s=0.05) as at:
        idle, dripper = await at.peer(), await at.peer()
        idle.send(GET)
        await idle.reply()
        dripper.send(GET)
        await dripper.reply()

        async def drip() -> None:
            dripper.send(GET[:-2] + b"x: ")
            for _ in range(8000):
                await asyncio.sleep(0.01)
                dripper.send(b"y")

        task = asyncio.create_task(drip())
        assert await dripper.rest() == b""
        task.cancel()
        idle.send(GET)
        assert (await idle.reply())[1] == b"hello"


@on_both_loops
async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with house(hello, keepalive_s=0.05) as at:
        peer = await at.peer()
        peer.send(GET)
        await peer.reply()
        assert await peer.rest() == b""


@on_both_loops
async def test_connections_above_the_cap_are_told_so() -> None:
    async with house(hello, max_connections=1) as at:
        first = await at.peer()
        first.send(GET)
        await first.reply()
        assert (await (await at.peer()).head()).startswith("HTTP/1.1 503 ")
        first.send(GET)
        assert (await first.reply())[1] == b"hello"


# --- start and drain ------------------------------------------------------------------------


@on_both_loops
async def test_a_drain_closes_idle_connections_and_finishes_busy_ones() -> None:
    entered, release = asyncio.Event(), asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/slow":
            entered.set()
            await release.wait()
        return await hello(request)

    async with house(slow) as at:
        idle, busy = await at.peer(), await at.peer()
        idle.send(GET)
        await idle.reply()
        busy.send(GET.replace(b"/ ", b"/slow "))
        await entered.wait()
        drain = asyncio.create_task(at.listener.wait_idle(WAIT_S))
        assert await idle.rest() == b""
        with pytest.raises(ConnectionRefusedError):
            await at.peer()
        assert not drain.done()
        release.set()
        head, body = await busy.reply()
        assert "Connection: close\r\n" in head
        assert body == b"hello"
        assert await busy.rest() == b""
        assert await drain


@on_both_loops
async def test_a_kept_connection_may_be_used_once_more_while_draining() -> None:
    """Its client cannot know, and would not repeat a POST whose connection was closed."""
    async with house(hello) as at:
        used, idle = await at.peer(), await at.peer()
        for peer in (used, idle):
            peer.send(GET)
            await peer.reply()
        drain = asyncio.create_task(at.listener.wait_idle(WAIT_S, WAIT_S))
        await eventually(lambda: at.listener.draining)
        used.send(post(b"abc"))
        assert "Connection: close\r\n" in (await used.reply())[0]
        assert await used.rest() == b""
        assert not drain.done()
        drain.cancel()


@on_both_loops
async def test_a_drain_lets_an_upload_finish() -> None:
    entered = asyncio.Event()

    async def upload(request: web.BaseRequest) -> web.StreamResponse:
        got = b""
        async for chunk in read_body(request, WAIT_S):
            entered.set()
            got += chunk
        return WholeReply(200, (), got)

    async with house(upload) as at:
        peer = await at.peer()
        peer.send(post(b"abcdef")[:-3])
        await entered.wait()
        await at.listener.stop_accepting()
        drain = asyncio.create_task(at.listener.wait_idle(WAIT_S))
        peer.send(b"def")
        assert (await peer.reply())[1] == b"abcdef"
        assert await drain


@on_both_loops
async def test_a_drain_that_takes_too_long_says_so_and_close_cancels() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(request: web.BaseRequest) -> web.StreamResponse:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    async with house(forever) as at:
        peer = await at.peer()
        peer.send(GET)
        await entered.wait()
        assert not await at.listener.wait_idle(0.01)
        await at.listener.close()
        assert cancelled.is_set()
        assert await peer.rest() == b""


@on_both_loops
async def test_a_busy_port_is_one_clear_sentence() -> None:
    async with house(hello) as at:
        with pytest.raises(PortBusy, match=f"cannot listen on 127.0.0.1:{at.port}: another"):
            await at.listener.start(f"127.0.0.1:{at.port}")


@on_both_loops
async def test_a_unix_socket_is_replaced_when_stale_and_busy_when_not(tmp_path: Path) -> None:
    file = tmp_path / "s"
    path = str(file)
    stale = bind(f"unix:{path}")
    stale.close()
    listener = Listener(hello, ListenerOptions(), print)
    assert await listener.start(f"unix:{path}") == f"unix:{path}"
    with pytest.raises(PortBusy, match="another process listens there"):
        bind(f"unix:{path}")
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(GET)
    assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
    writer.close()
    await writer.wait_closed()
    await listener.close()
    assert not file.is_socket()


@on_both_loops
async def test_a_successors_unix_socket_survives_our_exit(tmp_path: Path) -> None:
    file = tmp_path / "s"
    path = str(file)
    listener = Listener(hello, ListenerOptions(), print)
    await listener.start(f"unix:{path}")
    file.rename(tmp_path / "old")
    successor = bind(f"unix:{path}")
    await listener.close()
    assert file.is_socket()
    successor.close()


@on_both_loops
async def test_a_socket_passed_in_stays_the_callers() -> None:
    """It can be handed to a successor: no connection is refused in between."""
    sock = bind("127.0.0.1:0")
    listener = Listener(hello, ListenerOptions(), print)
    assert await listener.start(sock=sock) == address_of(sock)
    await listener.close()
    reader, writer = await asyncio.open_connection(*sock.getsockname())  # queued by the kernel
    writer.write(GET)
    successor = Listener(hello, ListenerOptions(), print)
    await successor.start(sock=sock)
    assert await reader.readuntil(b"hello")
    writer.close()
    await writer.wait_closed()
    await successor.close()
    sock.close()


@pytest.mark.parametrize("listen", ["8080", ":8080", "localhost:", "127.0.0.1:http", "unix"])
def test_an_address_of_another_form_is_refused(listen: str) -> None:
    with pytest.raises(ValueError, match="want host:port or unix:/path"):
        bind(listen)


@pytest.mark.parametrize(
    ("listen", "shape"),
    [("localhost:0", r"127\.0\.0\.1:\d+"), ("127.0.0.1:0", r"127\.0\.0\.1:\d+")],
)
def test_the_bound_address_is_told(listen: str, shape: str) -> None:
    sock: socket.socket = bind(listen)
    assert re.fullmatch(shape, address_of(sock))
    sock.close()


def test_the_pure_python_parser_is_refused() -> None:
    code = "from proxy.gateway.aiohttp_internals import check; check()"
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AIOHTTP_NO_EXTENSIONS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "without its C parser" in run.stderr
