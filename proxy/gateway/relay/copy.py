"""Tier copy: through aiohttp's own reader. Always possible; chunked and unknown lengths too."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import ClientResponse

from proxy.gateway.relay.base import ClientGate, RelayEnd, Transfer
from proxy.gateway.relay.turns import StreamTurns

LAST_CHUNK = b"0\r\n\r\n"


async def run(
    transfer: Transfer,
    response: ClientResponse,
    *,
    chunked: bool,
    turns: StreamTurns,
    held: bytes = b"",
) -> None:
    """Read and write until the run ends; with `chunked`, in chunk framing.

    The last chunk is written only when everything was: any other end leaves the framing open,
    to be gone on with or cut.
    """
    gate = ClientGate(transfer)
    transfer.conn.flow = gate
    connection = response.connection
    protocol = connection.protocol if connection is not None else None
    try:
        async with asyncio.timeout(None) as limit:
            # Deadlines are the transfer's: it ends the run, and that ends whatever is awaited.
            transfer.on_end = lambda: limit.reschedule(transfer.loop.time())
            try:
                await _move(transfer, gate, response, chunked=chunked, turns=turns, held=held)
            finally:
                transfer.on_end = None
    except TimeoutError:
        if transfer.end is None:  # not ours: the session's own read timeout
            transfer.finish(RelayEnd.IDLE_UPSTREAM)
    except (aiohttp.ClientError, ConnectionError, aiohttp.http.HttpProcessingError):
        lost = protocol.exception() if protocol is not None else None
        reset = isinstance(lost, OSError) and not isinstance(lost, aiohttp.ServerDisconnectedError)
        transfer.finish(RelayEnd.UPSTREAM_RESET if reset else RelayEnd.UPSTREAM_SHORT)


async def _move(
    transfer: Transfer,
    gate: ClientGate,
    response: ClientResponse,
    *,
    chunked: bool,
    turns: StreamTurns,
    held: bytes,
) -> None:
    while transfer.end is None and transfer.left != 0:
        await gate.wait()
        await turns.turn()
        data, held = held or await response.content.readany(), b""
        transfer.received()
        if not data:
            break
        if chunked:
            _send_chunk(transfer, data)
        else:
            transfer.send(data)
    if transfer.end is None and (transfer.left or transfer.skip):
        transfer.finish(RelayEnd.UPSTREAM_SHORT)
    if chunked and transfer.end in {None, RelayEnd.DONE} and not transfer.client.is_closing():
        transfer.client.write(LAST_CHUNK)
    transfer.finish(RelayEnd.DONE)


def _send_chunk(transfer: Transfer, data: bytes) -> None:
    fitting = transfer.fit(data)
    if not fitting:
        return
    if transfer.client.is_closing():
        transfer.finish(RelayEnd.CLIENT_GONE)
        return
    transfer.client.write(b"%x\r\n%b\r\n" % (len(fitting), bytes(fitting)))
    transfer.wrote(len(fitting))
