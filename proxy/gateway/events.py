"""`GET /v1/videos/{id}/events`: a task's life as server-sent events.

Each event's id is the task's version; a client that comes back with `Last-Event-ID` gets the
present state at once if it is newer. The stream ends with the task, or with a drain: the
client then comes back to another worker.

Rule: once the head is out this file may cut the connection but never raise a `ProxyError`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from proxy.errors import ProxyError, Unavailable
from proxy.gateway.listener import StreamReply, cut
from proxy.http.headers import whole_number
from proxy.model import Principal, Task
from proxy.tasks.changes import TaskChanges
from proxy.telemetry.exchange import Exchange

HEARTBEAT_S = 15.0
# A client that reads nothing: events are small, so this much unsent means it has left.
MAX_UNSENT_BYTES = 256 * 1024

_HEARTBEAT = b": still here\n\n"
_RETRY_S = 1.0  # while the store does not answer

Show = Callable[[Task], bytes]


class EventStreams:
    """`heartbeat_s` is the longest silence."""

    def __init__(
        self,
        changes: TaskChanges,
        may_go_on: Callable[[Principal], Awaitable[bool]],
        log: structlog.stdlib.BoundLogger,
        heartbeat_s: float = HEARTBEAT_S,
    ) -> None:
        self._changes = changes
        self._may_go_on = may_go_on
        self._log = log
        self._heartbeat_s = heartbeat_s

    async def serve(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        task: Task,
        show: Show,
        extra: dict[str, str],
    ) -> web.StreamResponse:
        """Send events until the task has ended; `task` is as it is now, and `show` gives its state
        as one line of JSON."""
        headers = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would hold events back
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": exchange.id,
            **extra,
        }
        seen = whole_number(request.headers.get("Last-Event-ID")) or 0
        if seen > task.version:
            seen = 0  # never an id of ours: whatever it has seen, it was not this task
        if task.status.is_final and seen == task.version:
            # It has it all. An EventSource would come back for ever after a 200; a 204 stops it
            # (HTML, server-sent events, 9.2.3).
            exchange.status = 204
            return StreamReply(204, headers)
        chunked = request.version >= (1, 1)
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        exchange.status = 200
        reply = StreamReply(200, headers)
        reply.begin(request)
        if request.method == "HEAD":
            return reply
        exchange.first_byte_ns = time.perf_counter_ns()
        wire = _Wire(request, exchange, show, chunked)
        whole = False
        try:
            exchange.reason = await self._follow(wire, task, seen, exchange.principal)
            wire.end()
            whole = True
        except _IdleClient:
            exchange.reason = "idle_client"
        except ProxyError as error:
            self._log.warning("event stream cut", **exchange.log_ids(), why=str(error))
            exchange.reason = error.code
        finally:
            if not whole:
                cut(request)
        return reply

    async def _follow(self, wire: _Wire, task: Task, seen: int, principal: Principal | None) -> str:
        """Send each change until the task or its token ends; returns why it stopped."""
        while True:
            if principal is not None and not await self._may_go_on(principal):
                return "revoked"
            wire.send(wire.event(task) if task.version > seen else _HEARTBEAT)
            seen = max(seen, task.version)
            if task.status.is_final:
                return "done"
            if self._changes.is_closed:
                return "drain"
            found = await self._next(task, seen)
            if found is None or found.deleted:
                return "gone"
            task = found

    async def _next(self, task: Task, seen: int) -> Task | None:
        """The task once it has changed; unchanged when a heartbeat is due."""
        try:
            return await self._changes.wait_until(task.id, _newer_than(seen), self._heartbeat_s)
        except Unavailable:
            # The store is away for a moment. A client whose stream broke now would be refused
            # when it comes back, and an EventSource that is refused never tries again.
            await self._changes.pause(_RETRY_S)
            return task


class _IdleClient(Exception):
    """The client has not read for a long time."""


class _Wire:
    """The body of one stream: each text goes out with one write, as a chunk of its own."""

    def __init__(
        self, request: web.BaseRequest, exchange: Exchange, show: Show, chunked: bool
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._show = show
        self._chunked = chunked

    def event(self, task: Task) -> bytes:
        name = f"video.{task.status.value}"
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (task.version, name.encode(), self._show(task))

    def send(self, text: bytes) -> None:
        """Raises ConnectionResetError when the client has left, _IdleClient when it sleeps."""
        transport = self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client closed the connection")
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            raise _IdleClient
        transport.write(b"%x\r\n%b\r\n" % (len(text), text) if self._chunked else text)
        self._exchange.bytes_out += len(text)

    def end(self) -> None:
        transport = self._request.transport
        if self._chunked and transport is not None and not transport.is_closing():
            transport.write(b"0\r\n\r\n")


def _newer_than(version: int) -> Callable[[Task], bool]:
    return lambda task: task.version > version or task.deleted
