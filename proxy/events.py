"""`GET /v1/videos/{id}/events`: a task's life as server-sent events.

Each event's id is the task's version; a client that comes back with `Last-Event-ID` gets the
present state at once if it is newer. The stream ends with the task, or with a drain: the
client then comes back to another worker.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from proxy.http.headers import whole_number
from proxy.listener import StreamReply, cut
from proxy.model import Exchange, Task
from proxy.watch import Watch

HEARTBEAT_S = 15.0
# A client that reads nothing: events are small, so this much unsent means it has left.
MAX_UNSENT_BYTES = 256 * 1024

Show = Callable[[Task], bytes]


class EventStreams:
    """`show` gives a task's state as one line of JSON."""

    def __init__(self, watch: Watch, show: Show, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._watch = watch
        self._show = show
        self._heartbeat_s = heartbeat_s

    async def serve(
        self, request: web.BaseRequest, exchange: Exchange, task: Task, extra: dict[str, str]
    ) -> web.StreamResponse:
        """Send events until the task has ended; `task` is as it is now."""
        chunked = request.version >= (1, 1)
        headers = {
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would hold events back
            "X-Request-Id": exchange.id,
            **extra,
        }
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        exchange.status = 200
        reply = StreamReply(200, headers)
        reply.begin(request)
        seen = whole_number(request.headers.get("Last-Event-ID")) or 0
        exchange.reason = await self._follow(request, exchange, task, seen, chunked)
        if exchange.reason == "idle_client":
            cut(request)
        return reply

    async def _follow(
        self, request: web.BaseRequest, exchange: Exchange, task: Task, seen: int, chunked: bool
    ) -> str:
        def send(text: bytes) -> bool:
            transport = request.transport
            if transport is None or transport.is_closing():
                raise ConnectionResetError("the client closed the connection")
            if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
                return False
            transport.write(b"%x\r\n%b\r\n" % (len(text), text) if chunked else text)
            exchange.bytes_out += len(text)
            return True

        reason = ""
        while not reason:
            newer = task.version > seen
            seen = max(seen, task.version)
            text = self._event(task) if newer else b": still here\n\n"
            if not send(text):
                return "idle_client"
            if task.status.is_final or task.deleted:
                reason = "done"
            elif self._watch.is_closed:
                reason = "drain"
            else:
                found = await self._watch.until(task.id, _newer_than(seen), self._heartbeat_s)
                if found is None:
                    reason = "done"
                else:
                    task = found
        if chunked and request.transport is not None and not request.transport.is_closing():
            request.transport.write(b"0\r\n\r\n")
        return reason

    def _event(self, task: Task) -> bytes:
        name = f"video.{task.status.value}"
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (task.version, name.encode(), self._show(task))


def _newer_than(version: int) -> Callable[[Task], bool]:
    return lambda task: task.version > version or task.deleted
