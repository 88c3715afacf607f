"""Tier pipe: the upstream's transport gets a protocol that writes straight to the client.

Rule: from `take_over` on the upstream connection is ours and never goes back to the pool.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import ClientResponse

from proxy.relay.base import End, Transfer
from proxy.relay.turns import PIECE_BYTES, Turns

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler


# What is read at a time for a client that must be waited for: it may have to be kept. A client
# that has taken more at a stretch than the buffers between us hold gets whole pieces.
SLOW_BYTES = 1 << 16
SMOOTH_BYTES = 1 << 21


@dataclass(frozen=True, slots=True)
class Taken:
    """An upstream connection taken from aiohttp, its transport paused.

    `held` is what aiohttp had read already; `wire_bytes` of the body are still to come, and
    with none to come the connection is back in the pool and not to be touched.
    """

    transport: asyncio.Transport
    protocol: ResponseHandler
    held: list[bytes]
    wire_bytes: int


def take_over(response: ClientResponse, length: int) -> Taken:
    """Stop aiohttp from reading this body; `length` is its whole Content-Length.

    Raises what aiohttp's reader raises, or ConnectionResetError, when the upstream is lost.
    """
    connection, content = response.connection, response.content
    protocol = connection.protocol if connection is not None else None
    transport = protocol.transport if protocol is not None else None
    if protocol is None or transport is None:
        raise ConnectionResetError("the upstream connection is lost")
    held: list[bytes] = []
    # Taking bytes out resumes the transport, so it is paused after that, with no await
    # between: otherwise the next 256 KiB go to a reader that nobody reads any more.
    while data := content.read_nowait(-1):
        held.append(data)
    if content.is_eof():
        return Taken(transport, protocol, held, 0)
    transport.pause_reading()
    protocol.read_timeout = None
    protocol.start_timeout()  # without a time-out this only drops the running one
    return Taken(transport, protocol, held, length - content.total_bytes)


class Pipe(asyncio.BufferedProtocol):
    """The upstream's protocol, and the `Flow` the client's backpressure comes back through.

    It reads into the piece that all streams of the loop share, which is empty again when
    `buffer_updated` returns: what the client's kernel did not take is copied out of it, and
    nothing more is read until that has gone. A slow client thus holds one small piece of ours.
    """

    def __init__(self, transfer: Transfer, taken: Taken, turns: Turns) -> None:
        self._transfer = transfer
        self._taken = taken
        self._turns = turns
        self._burst = 0
        self._room = SLOW_BYTES
        self._smooth = 0  # bytes since the client had to be waited for
        self._is_queued = False
        self._wire = taken.wire_bytes
        transfer.conn.flow = self
        if transfer.conn.writing_paused:
            transfer.blocked = True
        taken.transport.set_protocol(self)
        if not transfer.blocked:
            taken.transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._turns.piece[: self._room]

    def buffer_updated(self, nbytes: int) -> None:
        transfer = self._transfer
        if transfer.end is not None:
            return
        transfer.heard()
        size = min(nbytes, self._wire)  # an upstream may send more than it announced
        self._wire -= size
        transfer.lend(self._turns.piece[:size])
        self._smooth = 0 if transfer.blocked else self._smooth + size
        self._room = PIECE_BYTES if self._smooth >= SMOOTH_BYTES else SLOW_BYTES
        if not self._wire:
            transfer.finish(End.UPSTREAM_SHORT)  # unless that was all the client lacked
        # uvloop reads a ready socket up to 32 times in a row, 8 MiB, unless it is paused.
        self._burst += size
        if self._burst >= PIECE_BYTES and transfer.end is None:
            self._burst = 0
            if not self._is_queued:
                self._is_queued = True
                self._taken.transport.pause_reading()
                self._turns.again(self._go_on)

    def _go_on(self) -> None:
        self._is_queued = False
        if not self._transfer.blocked:
            self._read()

    def _read(self) -> None:
        if not self._taken.transport.is_closing() and self._transfer.end is None:
            self._taken.transport.resume_reading()

    def eof_received(self) -> bool:
        self._transfer.finish(End.UPSTREAM_SHORT)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transfer.finish(End.UPSTREAM_SHORT if exc is None else End.UPSTREAM_RESET)
        # The connector waits for its protocol to hear of it when the session is closed.
        self._taken.protocol.connection_lost(exc)

    def pause(self) -> None:
        self._transfer.blocked = True
        if not self._taken.transport.is_closing():
            self._taken.transport.pause_reading()

    def resume(self) -> None:
        self._transfer.blocked = False
        if not self._is_queued:
            self._read()


async def run(transfer: Transfer, taken: Taken, turns: Turns) -> None:
    with transfer.unbuffered():
        Pipe(transfer, taken, turns)
        await transfer.done
