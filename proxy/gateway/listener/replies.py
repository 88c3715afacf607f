"""Replies whose head is ours: whole ones in one write, and those whose body the handler sends.

They skip aiohttp's header machinery, which costs more than the rest of a small request.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol, cast

import orjson
from aiohttp import web

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter

Headers = Mapping[str, str] | Iterable[tuple[str, str]]

_REASONS = {status.value: status.phrase for status in HTTPStatus}
_BODILESS = frozenset({204, 304})
_FRAMING = re.compile("^(?:content-length|transfer-encoding):", re.IGNORECASE | re.MULTILINE)


def header_block(headers: Headers) -> str:
    """The headers as lines. Raises ValueError when one holds a line break."""
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    lines = [f"{name}: {value}\r\n" for name, value in pairs]
    block = "".join(lines)
    if block.count("\n") != len(lines) or block.count("\r") != len(lines):
        raise ValueError("a header of the response holds a line break")
    return block


class FlowHook(Protocol):
    """Called when the client's connection is full, and when it has room again."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Connection(Protocol):
    """What a reply needs of the client's connection (`conn.Conn`)."""

    flow: FlowHook | None
    begun: bool
    framed: bool

    @property
    def draining(self) -> bool: ...
    def date(self) -> str: ...
    def cut(self) -> None: ...
    async def settle(self) -> None: ...


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
        self._conn: Connection | None = None

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


def conn_of(request: web.BaseRequest) -> Connection:
    """The client connection a request came on."""
    return cast("Connection", request.protocol)


def new_id() -> str:
    """A request id for a request that never reached its handler."""
    return "req_" + os.urandom(12).hex()


def error_reply(request_id: str, status: int, code: str, kind: str, message: str) -> WholeReply:
    """A refusal of what came as far as no dialect. SDKs read a failure at different places, so its
    code and words stand beside `error` too (dashscope's `code` and `message`, replicate's
    `detail`)."""
    error = {"message": message, "type": kind, "param": None, "code": code}
    body = {"error": error, "code": code, "message": message, "detail": message}
    headers = {"Content-Type": "application/json", "X-Request-Id": request_id}
    reply = WholeReply(status, headers, orjson.dumps(body))
    reply.force_close()
    return reply
