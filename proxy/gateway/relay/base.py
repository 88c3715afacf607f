"""What the three tiers share: where bytes go, how they are counted, when a run is over."""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

from aiohttp import ClientResponse, web

from proxy.telemetry.metrics import CounterSeries

TICK_S = 1.0  # how often the deadlines of a run are looked at, at most
TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; the socket module has it only from Python 3.12 on


class RelayEnd(StrEnum):
    """Why a run is over."""

    DONE = "done"  # exactly `count` bytes, or without a count the upstream's own clean end
    CLIENT_GONE = "client_gone"
    UPSTREAM_RESET = "upstream_reset"
    UPSTREAM_SHORT = "upstream_short"  # the upstream closed before its body was whole
    IDLE_CLIENT = "idle_client"  # the client took nothing
    IDLE_UPSTREAM = "idle_upstream"  # the upstream sent nothing, and the client had room
    MIN_RATE = "min_rate"
    DRAIN = "drain"  # `stop` was set


@dataclass(frozen=True, slots=True)
class RelayResult:
    """`bytes` are body bytes, without chunk framing, and cannot be called back."""

    bytes: int
    end: RelayEnd
    tier: str


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """How bytes are moved. Nothing here limits how long a whole body may take."""

    tiers: tuple[str, ...] = ("splice", "pipe", "copy")  # allowed ones; copy always is
    idle_client_s: float = 60.0
    idle_upstream_s: float = 60.0
    min_rate_bytes_s: int = 0  # 0: none
    min_rate_window_s: float = 30.0
    # A stream is limited to these divided by the round trip time; smaller ones starve a long
    # fat path, larger ones let every slow client pin megabytes of kernel memory.
    send_lowat_bytes: int = 512 * 1024
    upstream_rcvbuf_bytes: int = 512 * 1024


class Progress(Protocol):
    """Where a run counts what it moves, piece by piece: it may be cancelled (an `Exchange`)."""

    tier: str
    bytes_out: int


class Stop(Protocol):
    """An `asyncio.Event`, as far as a run is concerned."""

    def is_set(self) -> bool: ...


class Flow(Protocol):
    def pause(self) -> None: ...
    def resume(self) -> None: ...


class ClientConn(Protocol):
    """The client connection: it tells `flow` about backpressure."""

    flow: Flow | None

    @property
    def writing_paused(self) -> bool: ...


class Transfer:
    """One run: counts bytes, watches deadlines, knows how it ended. A tier drives it.

    `left` is what the client still lacks (None: until the upstream's end), `skip` what is
    still to be thrown away before the first byte. The tier calls `received` when bytes come from
    the upstream, `wrote` when bytes went to the client, and keeps `blocked` true while it
    waits for the client.
    """

    def __init__(
        self,
        request: web.BaseRequest,
        client: asyncio.Transport,
        options: RelayOptions,
        progress: Progress,
        counters: Mapping[str, CounterSeries],
        *,
        skip: int,
        count: int | None,
        stop: Stop | None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.conn = cast("ClientConn", request.protocol)
        self.client = client
        self.skip = skip
        self.left = count
        self.moved = 0
        self.end: RelayEnd | None = None
        self.done: asyncio.Future[None] = self.loop.create_future()
        self.on_end: Callable[[], None] | None = None
        self._options = options
        self._progress = progress
        self._counters = counters
        self._counter = CounterSeries()
        self._stop = stop
        self._blocked = False
        now = time.monotonic()
        self._received_at = self._taken_at = self._window_at = now
        self._taken = self._window_taken = self._outstanding_before = 0
        self._client_sock: socket.socket | None = client.get_extra_info("socket")
        is_plain = self._client_sock is not None and client.get_extra_info("sslcontext") is None
        self._client_fd = self._client_sock.fileno() if is_plain else None
        self._outstanding_before = self._outstanding()
        marks = [options.idle_client_s, options.idle_upstream_s]
        if options.min_rate_bytes_s:
            marks.append(options.min_rate_window_s)
        self._tick_s = min(TICK_S, *(mark / 4 for mark in marks))
        self._timer = self.loop.call_later(self._tick_s, self._tick)

    def use(self, tier: str) -> None:
        """Count what follows as moved by this tier."""
        self._progress.tier = tier
        self._counter = self._counters.get(tier) or CounterSeries()

    def finish(self, end: RelayEnd) -> None:
        """The first reason stays."""
        if self.end is not None:
            return
        self.end = end
        if not self.done.done():
            self.done.set_result(None)
        if self.on_end is not None:
            self.on_end()

    def close(self) -> None:
        """Stop watching. The run's last act, whatever happened."""
        self._timer.cancel()
        self.on_end = None
        self.done.cancel()

    def fit(self, data: bytes | memoryview) -> bytes | memoryview:
        """The part of `data` the client is to have: behind `skip`, within `left`."""
        if self.skip:
            cut = min(self.skip, len(data))
            self.skip -= cut
            data = data[cut:]
        if self.left is not None and len(data) > self.left:
            return memoryview(data)[: self.left]
        return data

    def send(self, data: bytes) -> None:
        """Hand the client its part of `data`; ends the run if that was the last, or it left."""
        fitting = self.fit(data)
        if self._can_take(fitting):
            self.client.write(fitting)
            self.wrote(len(fitting))

    def lend(self, data: memoryview) -> None:
        """As `send`, of bytes that are overwritten afterwards.

        A transport keeps what it is given, whole, until the last byte of it is gone: it gets a
        copy of what the kernel does not take at once, and no more.
        """
        fitting = self.fit(data)
        if self._can_take(fitting):
            rest = fitting[self._written_now(fitting) :]
            if rest:
                self.client.write(bytes(rest))
            self.wrote(len(fitting))

    def _can_take(self, data: bytes | memoryview) -> bool:
        if data and self.client.is_closing():  # uvloop raises RuntimeError on such a write
            self.finish(RelayEnd.CLIENT_GONE)
        return bool(data) and self.end is None

    def _written_now(self, data: bytes | memoryview) -> int:
        if self._client_fd is None or self.client.get_write_buffer_size():
            return 0
        try:
            return os.write(self._client_fd, data)
        except OSError:  # full, or broken: the transport will find out
            return 0

    @contextlib.contextmanager
    def unbuffered(self) -> Iterator[None]:
        """Within it the client is waited for until its transport holds nothing."""
        # A TLS transport would call itself full when it is empty, and never otherwise.
        self.client.set_write_buffer_limits(high=0 if self._client_fd is not None else 1)
        try:
            yield
        finally:
            if not self.client.is_closing():
                self.client.set_write_buffer_limits()

    def wrote(self, size: int) -> None:
        self.moved += size
        if self.left is not None:
            self.left -= size
        self._progress.bytes_out += size
        self._counter.n += size
        if self.left == 0:
            self.finish(RelayEnd.DONE)

    def received(self) -> None:
        self._received_at = time.monotonic()

    @property
    def blocked(self) -> bool:
        return self._blocked

    @blocked.setter
    def blocked(self, blocked: bool) -> None:
        if blocked is not self._blocked:
            self._blocked = blocked
            # Each side's idle time runs only while it is the one waited for.
            self._received_at = self._taken_at = time.monotonic()

    def _outstanding(self) -> int:
        """Bytes written that the client's kernel has not acknowledged yet.

        The buffers between us and a slow client hold megabytes, and the kernel calls a socket
        writable only when a third of its buffer is free: a client of a few KB/s would look
        idle for minutes if only our own writes counted.
        """
        queued = array.array("i", [0])
        sock = self._client_sock
        if sock is not None:
            with contextlib.suppress(OSError, ValueError):  # closed: its fileno() is -1
                fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, queued)
        return queued[0] + self.client.get_write_buffer_size()

    def _tick(self) -> None:
        self._timer = self.loop.call_later(self._tick_s, self._tick)
        now, options = time.monotonic(), self._options
        if self.client.is_closing():
            self.finish(RelayEnd.CLIENT_GONE)
            return
        if self._stop is not None and self._stop.is_set():
            self.finish(RelayEnd.DRAIN)
        taken = self.moved - (self._outstanding() - self._outstanding_before)
        if taken != self._taken:
            self._taken, self._taken_at = taken, now
        if self._blocked:
            if now - self._taken_at > options.idle_client_s:
                self.finish(RelayEnd.IDLE_CLIENT)
        elif now - self._received_at > options.idle_upstream_s:
            self.finish(RelayEnd.IDLE_UPSTREAM)
        if options.min_rate_bytes_s and now - self._window_at >= options.min_rate_window_s:
            missing = options.min_rate_bytes_s * (now - self._window_at)
            missing -= taken - self._window_taken
            # Its fault only if it had that much to take: the upstream may be the slow one.
            if missing > 0 and (self._blocked or self._outstanding() >= missing):
                self.finish(RelayEnd.MIN_RATE)
            self._window_taken, self._window_at = taken, now


class ClientGate:
    """A `Flow` to be awaited: open while the client's connection takes bytes."""

    def __init__(self, transfer: Transfer) -> None:
        self._transfer = transfer
        self._open: asyncio.Future[None] | None = None
        if transfer.conn.writing_paused:
            self.pause()

    def pause(self) -> None:
        if self._open is None:
            self._open = self._transfer.loop.create_future()
            self._transfer.blocked = True

    def resume(self) -> None:
        if self._open is not None:
            if not self._open.done():
                self._open.set_result(None)
            self._open = None
            self._transfer.blocked = False

    async def wait(self) -> None:
        if self._open is not None:
            await self._open


def set_send_lowat(transport: asyncio.Transport, size: int) -> None:
    """Keep the kernel from taking more than `size` unsent bytes of a TCP connection."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in {socket.AF_INET, socket.AF_INET6}:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, TCP_NOTSENT_LOWAT, size)


def set_rcvbuf(transport: asyncio.Transport, size: int) -> None:
    sock = transport.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def drop(response: ClientResponse) -> None:
    """Close the upstream connection, now.

    An abort, because closing a TLS transport first reads and throws away what is still on
    its way, which may be gigabytes. A body read to its end has given its connection back, and
    only its response is closed.
    """
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()
