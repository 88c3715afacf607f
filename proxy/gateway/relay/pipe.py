"""Tier pipe: the upstream's transport gets a protocol that writes straight to the client.

Rule: from `take_over` on the upstream connection is ours. It goes back to the pool only when its
body was read to the last byte, and nothing came behind that.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from aiohttp import ClientResponse

from proxy.gateway.relay.base import RelayEnd, Transfer
from proxy.gateway.relay.turns import PIECE_BYTES, StreamTurns

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.http_parser import HttpResponseParser
    from aiohttp.streams import StreamReader


# What is read at a time for a client that must be waited for: it may have to be kept. A client
# that has taken more at a stretch than the buffers between us hold gets whole pieces.
SLOW_BYTES = 1 << 16
SMOOTH_BYTES = 1 << 21


@dataclass(slots=True)
class TakenConnection:
    """An upstream connection taken from aiohttp, its transport paused.

    `held` is what aiohttp had read already; `wire_bytes` of the body are still to come: a tier
    counts them down. With none to come from the start, the connection is back in the pool and
    not to be touched. `overran`: the upstream sent more than its body.
    """

    transport: asyncio.Transport
    protocol: ResponseHandler
    content: StreamReader
    held: list[bytes]
    wire_bytes: int
    overran: bool = False

    def give_back(self) -> bool:
        """Return the connection to its pool, if the next request can use it: a player asks for
        one range after the other, and each new connection to a CDN is a TLS handshake."""
        if self.wire_bytes or self.overran or self.transport.is_closing():
            return False
        # aiohttp's own parser still waits for the body.
        self.protocol._parser = cast("HttpResponseParser", _Silence())
        self.transport.pause_reading()  # for uvloop looks at a protocol's kind when reading starts
        self.transport.set_protocol(self.protocol)
        self.content.feed_eof()  # releases the connection, which is read from again
        return True


class _Silence:
    """Stands in for a parser between two requests; the next brings its own.

    Bytes that come unasked close the connection, or they would be read as the next answer.
    """

    def feed_data(self, data: bytes) -> tuple[tuple[()], bool, bytes]:
        if data:
            raise ValueError("bytes behind the end of a body")
        return (), False, b""

    def feed_eof(self) -> None:
        pass


def take_over(response: ClientResponse, length: int) -> TakenConnection:
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
        return TakenConnection(transport, protocol, content, held, 0)
    transport.pause_reading()
    protocol.read_timeout = None
    protocol.start_timeout()  # without a time-out this only drops the running one
    return TakenConnection(transport, protocol, content, held, length - content.total_bytes)


class Pipe(asyncio.BufferedProtocol):
    """The upstream's protocol, and the `Flow` the client's backpressure comes back through.

    It reads into the piece that all streams of the loop share, which is empty again when
    `buffer_updated` returns: what the client's kernel did not take is copied out of it, and
    nothing more is read until that has gone. A slow client thus holds one small piece of ours.
    """

    def __init__(self, transfer: Transfer, taken: TakenConnection, turns: StreamTurns) -> None:
        self._transfer = transfer
        self._taken = taken
        self._turns = turns
        self._burst = 0
        self._room = SLOW_BYTES
        self._smooth = 0  # bytes since the client had to be waited for
        self._is_queued = False
        transfer.conn.flow = self
        if transfer.conn.writing_paused:
            transfer.blocked = True
        taken.transport.set_protocol(self)
        if not transfer.blocked:
            taken.transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        # With room for one byte behind the body: so it shows whether there is any.
        return self._turns.piece[: min(self._room, self._taken.wire_bytes) + 1]

    def buffer_updated(self, nbytes: int) -> None:
        transfer, taken = self._transfer, self._taken
        if transfer.end is not None:
            taken.overran = True
            return
        transfer.received()
        size = min(nbytes, taken.wire_bytes)
        taken.wire_bytes -= size
        taken.overran = nbytes > size
        transfer.lend(self._turns.piece[:size])
        self._smooth = 0 if transfer.blocked else self._smooth + size
        self._room = PIECE_BYTES if self._smooth >= SMOOTH_BYTES else SLOW_BYTES
        if not taken.wire_bytes:
            transfer.finish(RelayEnd.UPSTREAM_SHORT)  # unless that was all the client lacked
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
        self._transfer.finish(RelayEnd.UPSTREAM_SHORT)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transfer.finish(RelayEnd.UPSTREAM_SHORT if exc is None else RelayEnd.UPSTREAM_RESET)
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


async def run(transfer: Transfer, taken: TakenConnection, turns: StreamTurns) -> None:
    with transfer.unbuffered():
        Pipe(transfer, taken, turns)
        await transfer.done
