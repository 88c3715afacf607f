"""The HTTP server towards clients: aiohttp's low-level server with its gaps closed.

Rule: every connection is bounded from its first byte to its last. A head has a deadline, a
body an idle deadline, an idle keep-alive connection a lifetime, a closing connection a limit
on how long it may hold unsent bytes, and their number has a cap.

A handler answers with a `WholeReply` (head and body in one write), or opens a `StreamReply`,
moves the body itself through `request.transport`, and returns that reply. When a body cannot
be finished it calls `cut` first, so that a short body never looks whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

import aiohttp.http_parser
import orjson
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError

from proxy.errors import BodyTimeout, Invalid
from proxy.metrics import Tally

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Headers = Mapping[str, str] | Iterable[tuple[str, str]]

BACKLOG = 1024
LINGER_S = 5.0  # how long the rest of a refused body is read, so that the refusal arrives
FRESH_S = 1.0  # while draining: how long a connection that has sent nothing may still start
CLOSE_S = 5.0  # how long close() waits for cancelled handlers

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
_FRAMING = re.compile("^(?:content-length|transfer-encoding):", re.IGNORECASE | re.MULTILINE)
_RST_ON_CLOSE = struct.pack("ii", 1, 0)
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\n"
    b"Connection: close\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class ListenerOptions:
    """Limits of one listener; all times in seconds."""

    head_s: float = 10.0  # from connect, or a request's first byte, to the end of its head
    body_idle_s: float = 30.0  # a client that takes none of a finished reply's bytes
    keepalive_s: float = 75.0
    max_connections: int = 10_000


class PortBusy(OSError):
    """Another program listens there already; the message is one sentence for the operator."""


class FlowHook(Protocol):
    """Told when the client's connection can take no more bytes, and when it can again."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


def require_c_parser() -> None:
    """Raises RuntimeError unless aiohttp parses with llhttp.

    Its pure Python parser, which it falls back to silently, lets more malformed requests pass.
    """
    if aiohttp.http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise RuntimeError(
            "aiohttp is installed without its C parser (or AIOHTTP_NO_EXTENSIONS is set); "
            "install a binary wheel of aiohttp for this platform"
        )


def bind(listen: str, *, reuse_port: bool = False, alone: bool = False) -> socket.socket:
    """A listening, non-blocking socket for `host:port`, `[v6]:port` or `unix:/path`.

    A host name binds its first IPv4 address, or its first IPv6 one if it has no other. A unix
    socket nobody answers on is a leftover of a killed process and is replaced.
    `reuse_port` lets further sockets of ours share the port; with `alone` nobody may be there
    yet. Raises PortBusy, another OSError, or ValueError for an address of another form.
    """
    if listen.startswith("unix:"):
        return _bind_unix(listen.removeprefix("unix:"))
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal()):
        raise ValueError(f"cannot listen on {listen!r}: want host:port or unix:/path")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    family, kind, proto, _, address = min(found, key=lambda row: row[0] != socket.AF_INET)
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if alone and address[1]:
            with socket.socket(family, kind, proto) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _bind(trial, address, listen, backlog=None)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, address, listen)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_shared(listen: str, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address, one for each process: the kernel spreads new
    connections over them. A unix path has one, which all share. Raises as `bind`."""
    if listen.startswith("unix:"):
        sock = bind(listen)
        return [sock, *(sock.dup() for _ in range(count - 1))]
    # SO_REUSEPORT would let us in beside another gateway of this user without a word.
    first = bind(listen, reuse_port=True, alone=True)
    found = [first]
    try:
        found += [bind(address_of(first), reuse_port=True) for _ in range(count - 1)]
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path):
            try:
                sock.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise PortBusy(f"cannot listen on unix:{path}: another process listens there")
        _bind(sock, path, f"unix:{path}")
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(
    sock: socket.socket, address: object, listen: str, *, backlog: int | None = BACKLOG
) -> None:
    """`backlog` None: only find out whether one could."""
    sock.setblocking(False)
    try:
        sock.bind(cast("str", address))
        if backlog is not None:
            sock.listen(backlog)
    except OSError as exc:
        kind = PortBusy if exc.errno == 98 else OSError  # EADDRINUSE
        why = "another process listens there" if kind is PortBusy else exc.strerror
        raise kind(exc.errno, f"cannot listen on {listen}: {why}") from exc


def address_of(sock: socket.socket) -> str:
    """What `bind` would take to name this socket: `host:port`, `[v6]:port` or `unix:/path`."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"


# --- replies --------------------------------------------------------------------------------


def header_block(headers: Headers) -> str:
    """The headers as lines. Raises ValueError when one holds a line break."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [f"{name}: {value}\r\n" for name, value in pairs]
    block = "".join(lines)
    if block.count("\n") != len(lines) or block.count("\r") != len(lines):
        raise ValueError("a header of the response holds a line break")
    return block


class StreamReply(web.StreamResponse):
    """A response whose head is ours and whose body the handler sends itself.

    `block` are headers that were lines already (see `header_block`). All together they must
    frame the body (Content-Length, or Transfer-Encoding: chunked and its framing by the
    caller); without either it ends with the connection, and a `cut` is then a reset. Date and
    Connection are added here. It skips aiohttp's header machinery, which costs more than the
    rest of a small request.
    """

    # StreamResponse.__init__ is not run: these are all that the server core reads.
    def __init__(self, status: int, headers: Headers = (), block: str = "") -> None:
        self._status = status
        self._block = block + header_block(headers) if headers else block
        self._framed = self._is_framed()
        self._keep_alive: bool | None = None
        self._eof_sent = False
        self._conn: Conn | None = None

    def _is_framed(self) -> bool:
        return self._status in _BODILESS or _FRAMING.search(self._block) is not None

    @property
    def keep_alive(self) -> bool:
        return bool(self._keep_alive)

    def force_close(self) -> None:
        self._keep_alive = False

    def begin(self, request: web.BaseRequest) -> None:
        """Write the head; from here on the status is settled.

        The connection closes after this response if the client or a drain wants it to, or if
        part of the request's body was not read. Raises ConnectionResetError when the client
        is gone.
        """
        self._write(request, b"")

    def _write(self, request: web.BaseRequest, body: bytes) -> None:
        conn = conn_of(request)
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        http10 = request.version < (1, 1)
        keep = (
            self._keep_alive is not False
            and not conn.draining
            and request.keep_alive
            and self._framed
            and request.content.is_eof()
        )
        self._keep_alive = keep
        link = ("Connection: keep-alive\r\n" if http10 else "") if keep else "Connection: close\r\n"
        head = (
            f"HTTP/1.1 {self._status} {_REASONS.get(self._status, '')}\r\n"
            f"{self._block}Date: {conn.date()}\r\n{link}\r\n"
        ).encode("utf-8", "surrogateescape")
        self._conn = conn
        conn.begun, conn.framed = True, self._framed
        transport.write(head + body if body else head)

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Called by the server after the handler returned."""
        if self._conn is None:
            self.begin(request)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Wait until the client has taken enough, so that pipelined replies cannot pile up."""
        self._eof_sent = True
        if self._conn is not None:
            await self._conn.settle()


class WholeReply(StreamReply):
    """A complete response, sent with one write; a HEAD request gets its head only.

    Content-Length is added; `headers` must not hold it.
    """

    def __init__(
        self, status: int, headers: Headers = (), body: bytes = b"", block: str = ""
    ) -> None:
        super().__init__(status, headers, block)
        self.body_bytes = body
        if status not in _BODILESS:
            self._block += f"Content-Length: {len(body)}\r\n"

    def _is_framed(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self._conn is None:
            self._write(request, b"" if request.method == "HEAD" else self.body_bytes)
        return None


def cut(request: web.BaseRequest) -> None:
    """Break the client's connection at once and quietly, in the middle of a response.

    Bytes already with the kernel still arrive; a body that ends with its connection is reset
    instead, because its early end would look like a clean one. The handler then returns its
    `StreamReply` as usual. Harmless when the client is gone.
    """
    conn_of(request).cut()


def conn_of(request: web.BaseRequest) -> Conn:
    """The client connection a request came on."""
    return cast("Conn", request.protocol)


# --- request bodies -------------------------------------------------------------------------


async def read_body(
    request: web.BaseRequest,
    idle_s: float,
    *,
    min_bytes_s: int = 0,
) -> AsyncIterator[bytes]:
    """The request's body as it arrives, still content-encoded; nothing if it has none.

    A client that asked with `Expect: 100-continue` is told to go on here, so call it only
    once the request is let in.
    `min_bytes_s` bounds a body that drips: on average, after `idle_s`, it must come that fast.
    Raises BodyTimeout when the client stalls or drips, Invalid when the body is malformed or
    cut.
    """
    content = request.content
    if content.at_eof():
        return
    transport = request.transport
    expects = request.headers.get("Expect", "").lower() == "100-continue"
    if expects and request.version >= (1, 1) and not content.total_bytes and transport:
        # Not through request.writer, which would count it as the beginning of the response.
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    start, received = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await content.readany()
        except TimeoutError as exc:
            raise BodyTimeout(f"no bytes of the request body came for {idle_s:g} s") from exc
        except (BadHttpMessage, web.RequestPayloadError, ConnectionError, RuntimeError) as exc:
            raise Invalid(f"the request body is malformed or cut: {_one_line(exc)}") from exc
        if not chunk:
            return
        received += len(chunk)
        if received < min_bytes_s * (time.monotonic() - start - idle_s):
            raise BodyTimeout(f"the request body came slower than {min_bytes_s} bytes a second")
        yield chunk


def _one_line(exc: BaseException) -> str:
    text = exc.message if isinstance(exc, HttpProcessingError) else str(exc)
    return text.partition("\n")[0].rstrip(": ") or type(exc).__name__


def _fault(request: web.BaseRequest) -> str | None:
    """What the parser lets pass and we do not."""
    if request.method == "CONNECT":
        return "CONNECT is not accepted: this is not a forward proxy"
    target = request._message.path
    if not (target.startswith("/") or target == "*"):
        return "the request target must be a path: this is not a forward proxy"
    if request.version < (1, 1) and "Transfer-Encoding" in request.headers:
        # RFC 9112 6.1: such a message's framing is faulty, and nginx reads it differently.
        return "Transfer-Encoding is not accepted on HTTP/1.0"
    return None


def _new_id() -> str:
    """For a request that never came as far as its handler, which names all others."""
    return "req_" + os.urandom(12).hex()


def _error_reply(request_id: str, status: int, code: str, kind: str, message: str) -> WholeReply:
    error = {"message": message, "type": kind, "param": None, "code": code}
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    reply = WholeReply(status, headers, orjson.dumps({"error": error}))
    reply.force_close()
    return reply


# --- connections ----------------------------------------------------------------------------


class Conn(web.RequestHandler):
    """One client connection.

    `flow` is set by whoever writes a body straight to the transport, and told about
    backpressure. `begun` says that the current request's response head is out.
    """

    __slots__ = (
        "_body",
        "_closing_since",
        "_head_since",
        "_listener",
        "_refused",
        "_silent",
        "_wire",
        "begun",
        "flow",
        "framed",
    )

    def __init__(self, server: _Server, listener: Listener) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=listener.options.keepalive_s,
            lingering_time=LINGER_S,
            auto_decompress=False,  # else a body arrives inflated under its Content-Encoding
            access_log=None,  # type: ignore[arg-type]  # documented way to have none
        )
        self.flow: FlowHook | None = None
        self.begun = False
        self.framed = True
        self._listener = listener
        self._wire: asyncio.Transport | None = None
        self._head_since: float | None = None
        self._closing_since: float | None = None
        self._silent = True
        self._refused = False
        self._body: StreamReader | None = None

    @property
    def draining(self) -> bool:
        return self._listener.draining

    def date(self) -> str:
        return self._listener.date()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        wire = self._wire = cast("asyncio.Transport", transport)
        if self._listener.is_full():
            self._refused = True
            self._listener.turned_away.n += 1
            wire.write(_FULL)
            wire.close()
            return
        self._head_since = time.monotonic()
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._refused:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._silent = False
        # `_waiter` is there while the connection waits for a request (as aiohttp's own
        # keep-alive timer reads it); bytes of a body or pipelined ones do not start a head.
        if self._head_since is None and self._waiter is not None:
            self._head_since = time.monotonic()
        super().data_received(data)
        self._pass_on_error()

    def begin_request(self, body: StreamReader) -> None:
        """A whole head was parsed and its handler is about to run."""
        self._head_since = None
        self._body = body
        self.begun, self.framed = False, True
        self._pass_on_error()

    def _pass_on_error(self) -> None:
        # A framing error in a later chunk of a body is only queued by aiohttp, as if it were
        # the next message, and whoever reads the body would wait for ever. While a body is
        # not at its end nothing but that error can be parsed behind it.
        body = self._body
        if body is not None and self._messages and not body.is_eof() and body.exception() is None:
            body.set_exception(web.RequestPayloadError("bad chunk framing"))

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.flow is not None:
            self.flow.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.flow is not None:
            self.flow.resume()

    async def settle(self) -> None:
        """Wait until the write buffer is under its limit; cut the client if it never is."""
        if not self.writing_paused or self.transport is None:
            return
        try:
            async with asyncio.timeout(self._listener.options.body_idle_s):
                await self._drain_helper()
        except TimeoutError as exc:
            self.cut()
            raise ConnectionResetError("the client does not read its response") from exc

    def cut(self) -> None:
        wire = self._wire
        if wire is None:
            return
        if not self.framed and not wire.is_closing():
            sock = wire.get_extra_info("socket")
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        wire.abort()

    def is_idle(self) -> bool:
        """Open, between requests, and no part of a next head has come."""
        return self._waiter is not None and self._head_since is None and not self._messages

    def sweep(self, now: float) -> None:
        """Close what is past its deadline. Called every little while by the listener."""
        wire, options = self._wire, self._listener.options
        if wire is None:
            return
        if wire.is_closing():
            if self._closing_since is None:
                self._closing_since = now
            elif now - self._closing_since > options.body_idle_s:
                wire.abort()  # it was closed long ago and the client will not take the rest
        elif self.draining and self.is_idle():
            self.force_close()
        elif self._head_since is not None:
            fresh = self.draining and self._silent
            if now - self._head_since > (min(FRESH_S, options.head_s) if fresh else options.head_s):
                self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """One line in the log and our own body, instead of a traceback for every bad request."""
        request_id = _new_id()
        if isinstance(exc, HttpProcessingError):
            text = f"the request is malformed: {_one_line(exc)}"
            return self._listener.refuse(request, request_id, text)
        trace = "".join(traceback.format_exception(exc)) if exc else "it timed out"
        self._listener.log(f"{request_id}: the handler of {request.method} failed: {trace}")
        if self.begun:
            self.cut()
            raise ConnectionResetError("the response had begun")
        return _error_reply(request_id, 500, "internal_error", "server_error", "the proxy failed")


class _Server(web.Server):
    def __init__(self, listener: Listener) -> None:
        super().__init__(
            listener.serve,
            request_factory=cast("None", self._request),
            handler_cancellation=True,  # else a handler runs on for a client that left
        )
        self._listener = listener
        self.changed = asyncio.Event()

    def __call__(self) -> Conn:
        return Conn(self, self._listener)

    def __len__(self) -> int:
        return len(self._connections)

    def _request(
        self,
        message: RawRequestMessage,
        payload: StreamReader,
        protocol: web.RequestHandler,
        writer: AbstractStreamWriter,
        task: asyncio.Task[None],
    ) -> web.BaseRequest:
        cast("Conn", protocol).begin_request(payload)
        return web.BaseRequest(
            message, payload, protocol, writer, task, self._loop, client_max_size=0
        )

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        task = handler._task_handler
        super().connection_lost(handler, exc)
        if task is None:
            self.changed.set()
        else:  # after aiohttp's own callback, which forgets the connection
            task.add_done_callback(lambda _: self.changed.set())

    async def wait_empty(self, deadline_s: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while self._connections:
                    self.changed.clear()
                    await self.changed.wait()
        return not self._connections


class Listener:
    """Accepts clients on any number of addresses and runs `handler` for each request.

    The way down: `stop_accepting()`, `wait_idle(deadline_s)`, `close()`; each includes the ones
    before it. Made inside a running loop. `log` takes one line about a broken request;
    `turned_away` counts connections there was no room for.
    """

    def __init__(
        self,
        handler: Handler,
        options: ListenerOptions,
        log: Callable[[str], None],
        turned_away: Tally | None = None,
    ) -> None:
        require_c_parser()
        self.options = options
        self.log = log
        self.draining = False
        self.turned_away = turned_away or Tally()
        self._handler = handler
        self._loop = asyncio.get_running_loop()
        self._server = _Server(self)
        self._sites: list[asyncio.AbstractServer] = []
        self._own_paths: list[tuple[str, int]] = []
        self._sweep: asyncio.TimerHandle | None = None
        self._date = (0, "")

    async def start(self, listen: str | None = None, *, sock: socket.socket | None = None) -> str:
        """Accept on `listen` (see `bind`) or on a socket already bound; returns the address.

        A socket passed in stays open in the caller's hands when we stop, so that it can be
        handed on and no queued connection is lost.
        """
        own = bind(listen) if listen is not None else None
        source = own or sock
        if source is None or (own and sock):
            raise ValueError("start() takes either an address or a socket")
        address = address_of(source)
        unix = source.family == socket.AF_UNIX
        if own and unix:
            path = address.removeprefix("unix:")
            self._own_paths.append((path, os.stat(path).st_ino))
        mine = own or source.dup()
        mine.setblocking(False)
        create = self._loop.create_unix_server if unix else self._loop.create_server
        try:
            self._sites.append(await create(self._server, sock=mine, backlog=BACKLOG))
        except BaseException:
            mine.close()
            raise
        if self._sweep is None:
            self._sweep_all()
        return address

    @property
    def connections(self) -> int:
        """Open client connections, and closed ones whose handler still runs."""
        return len(self._server)

    def is_full(self) -> bool:
        return len(self._server) >= self.options.max_connections

    def date(self) -> str:
        """Now, as the Date header wants it."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True))
        return self._date[1]

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """The outermost handler; called by the connections only."""
        fault = _fault(request)
        if fault is not None:
            return self.refuse(request, _new_id(), fault)
        reply = await self._handler(request)
        if self.draining:
            reply.force_close()
        return reply

    def refuse(self, request: web.BaseRequest, request_id: str, why: str) -> WholeReply:
        """Answer what is no HTTP request for us, with one line in the log."""
        self.log(f"{request_id}: {why} (from {request.remote or 'a unix socket'})")
        return _error_reply(request_id, 400, "malformed_request", "invalid_request_error", why)

    async def stop_accepting(self) -> None:
        """Close the listening sockets; open connections go on, and are told to close."""
        self.draining = True
        for site in self._sites:
            site.close()
        self._sites.clear()
        for path, inode in self._own_paths:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:  # else a successor bound it anew
                    os.unlink(path)
        self._own_paths.clear()

    async def wait_idle(self, deadline_s: float) -> bool:
        """Wait until every connection is gone; False if some were still busy at the deadline.

        Idle keep-alive connections are closed at once. A request that is being read or
        answered is finished, and its reply says `Connection: close`.
        """
        await self.stop_accepting()
        # Requests that the kernel held when accepting stopped reach their handlers first.
        await asyncio.sleep(0)
        self._sweep_all()
        return await self._server.wait_empty(deadline_s)

    async def close(self) -> None:
        """Stop everything: handlers are cancelled, connections broken. May be called twice."""
        await self.stop_accepting()
        for conn in self._server.connections:
            cast("Conn", conn).cut()
        await self._server.wait_empty(CLOSE_S)
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None

    def _sweep_all(self) -> None:
        if self._sweep is not None:
            self._sweep.cancel()
        now = time.monotonic()
        for conn in self._server.connections:
            cast("Conn", conn).sweep(now)
        every_s = min(self.options.head_s / 4, 1.0)
        self._sweep = self._loop.call_later(every_s, self._sweep_all)
