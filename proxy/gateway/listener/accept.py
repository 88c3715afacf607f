"""Accepts connections, runs the handler of each request, and shuts down in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from proxy.gateway import aiohttp_internals
from proxy.gateway.listener.conn import Conn, ListenerOptions
from proxy.gateway.listener.lines import HeadFault, head_fault
from proxy.gateway.listener.replies import WholeReply, error_reply, new_id
from proxy.gateway.listener.sockets import BACKLOG, address_of, bind
from proxy.telemetry.metrics import CounterSeries

if TYPE_CHECKING:
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http_parser import RawRequestMessage
    from aiohttp.streams import StreamReader

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

# Of aiohttp's Application: the request its handlers get. Message, body, connection, writer, task.
MakeRequest = Callable[
    ["RawRequestMessage", "StreamReader", Any, "AbstractStreamWriter", "asyncio.Task[None]"],
    web.BaseRequest,
]

CLOSE_S = 5.0  # how long close() waits for cancelled handlers


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
        make = self._listener.make_request
        if make is not None:
            return make(message, payload, protocol, writer, task)
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
    `turned_away` counts connections there was no room for. `make_request` makes what `handler`
    is called with, where that is more than a BaseRequest.
    """

    def __init__(
        self,
        handler: Handler,
        options: ListenerOptions,
        log: Callable[[str], None],
        turned_away: CounterSeries | None = None,
        make_request: MakeRequest | None = None,
    ) -> None:
        aiohttp_internals.check()
        self.make_request = make_request
        self.options = options
        self.log = log
        self.draining = False
        self.kept_until = 0.0  # while draining, idle connections; on the monotonic clock
        self.turned_away = turned_away or CounterSeries()
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
        fault = cast("Conn", request.protocol).line_fault or head_fault(request)
        if fault is not None:
            return self.refuse(request, new_id(), fault)
        reply = await self._handler(request)
        if self.draining:
            reply.force_close()
        return reply

    def refuse(self, request: web.BaseRequest, request_id: str, fault: HeadFault) -> WholeReply:
        """Answer what is no HTTP request for us, with one line in the log."""
        self.log(f"{request_id}: {fault.text} (from {request.remote or 'a unix socket'})")
        return error_reply(
            request_id, fault.status, "malformed_request", "invalid_request_error", fault.text
        )

    async def stop_accepting(self, kept_s: float = 0.0) -> None:
        """Close the listening sockets; open connections go on, and are told to close."""
        if not self.draining:
            self.draining, self.kept_until = True, time.monotonic() + kept_s
        for site in self._sites:
            site.close()
        self._sites.clear()
        for path, inode in self._own_paths:
            with contextlib.suppress(FileNotFoundError):
                if os.stat(path).st_ino == inode:  # else a successor bound it anew
                    os.unlink(path)
        self._own_paths.clear()

    async def wait_idle(self, deadline_s: float, kept_s: float = 0.0) -> bool:
        """Wait until every connection is gone; False if some were still busy at the deadline.

        A request that is being read or answered is finished, and its reply says `Connection:
        close`. An idle connection may bring one for `kept_s` more: its client cannot know, and most
        do not repeat a POST whose connection was closed under it.
        """
        await self.stop_accepting(kept_s)
        self.kept_until = min(self.kept_until, time.monotonic() + kept_s)
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
