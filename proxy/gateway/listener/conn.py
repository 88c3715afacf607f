"""One client connection: its deadlines, its backpressure, its end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.gateway.listener.bodies import one_line
from proxy.gateway.listener.lines import HeadFault, HeadWatch
from proxy.gateway.listener.replies import FlowHook, WholeReply, error_reply, new_id
from proxy.telemetry.metrics import CounterSeries

if TYPE_CHECKING:
    from aiohttp.streams import StreamReader

LINGER_S = 5.0  # how long the rest of a refused body is read, so that the refusal arrives
# A socket is not read beyond twice this while nobody takes the body. With aiohttp's own 256 KiB
# eight clients held the loop for 20 ms, before anybody had looked at their keys.
READ_BYTES = 64 * 1024
FRESH_S = 1.0  # while draining: how long a connection that has sent nothing may still start

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


class Owner(Protocol):
    """What a connection needs of the listener that accepted it (`accept.Listener`)."""

    options: ListenerOptions
    log: Callable[[str], None]
    draining: bool
    kept_until: float
    turned_away: CounterSeries

    def is_full(self) -> bool: ...
    def date(self) -> str: ...
    def refuse(self, request: web.BaseRequest, request_id: str, fault: HeadFault) -> WholeReply: ...


class Conn(web.RequestHandler):
    """One client connection.

    `flow` is set by whoever writes a body straight to the transport, and told about
    backpressure. `begun` says that the current request's response head is out, `line_fault` what
    is wrong with its first line.
    """

    __slots__ = (
        "_body",
        "_closing_since",
        "_head_since",
        "_listener",
        "_refused",
        "_silent",
        "_watch",
        "_wire",
        "begun",
        "flow",
        "framed",
        "line_fault",
    )

    def __init__(self, server: web.Server, listener: Owner) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=listener.options.keepalive_s,
            lingering_time=LINGER_S,
            read_bufsize=READ_BYTES,
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
        self._watch: HeadWatch | None = HeadWatch()
        self.line_fault: HeadFault | None = None

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
            self._watch = HeadWatch()
        if self._watch is not None:
            data = self._watch.feed(data)
        super().data_received(data)
        self._pass_on_error()

    def begin_request(self, body: StreamReader) -> None:
        """A whole head was parsed and its handler is about to run."""
        self._head_since = None
        watch, self._watch = self._watch, None
        # Of pipelined requests only the first line of the first is looked at.
        self.line_fault = None if watch is None else watch.fault
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
            if now >= self._listener.kept_until:
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
        """Answer with our own body and one line in the log, without a traceback."""
        request_id = new_id()
        if isinstance(exc, HttpProcessingError):
            text = f"the request is malformed: {one_line(exc)}"
            fault = HeadFault(400, text)
            return self._listener.refuse(request, request_id, fault)
        trace = "".join(traceback.format_exception(exc)) if exc else "it timed out"
        self._listener.log(f"{request_id}: the handler of {request.method} failed: {trace}")
        if self.begun or request.writer.output_size > 0:
            self.cut()
            raise ConnectionResetError("the response had begun")
        return error_reply(request_id, 500, "internal_error", "server_error", "the proxy failed")
