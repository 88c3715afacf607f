"""Bytes from an open upstream response to a client connection, in three tiers.

splice: plain HTTP upstream, known length; the kernel moves them.
pipe: TLS upstream, or no splice; they pass once through this process.
copy: everything else, through aiohttp's reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import aiohttp
from aiohttp import ClientResponse, web

from proxy.gateway.relay import copy, pipe, splice
from proxy.gateway.relay.base import (
    Progress,
    RelayEnd,
    RelayOptions,
    RelayResult,
    Stop,
    Transfer,
    drop,
    set_rcvbuf,
    set_send_lowat,
)
from proxy.gateway.relay.capabilities import usable_tiers
from proxy.gateway.relay.pipe import TakenConnection, take_over
from proxy.gateway.relay.splice import PipePool
from proxy.gateway.relay.turns import StreamTurns
from proxy.telemetry.metrics import CounterSeries

__all__ = [
    "TIERS",
    "PipePool",
    "RelayEnd",
    "RelayOptions",
    "RelayResult",
    "StreamTurns",
    "move",
    "usable_tiers",
]

TIERS: Final = ("splice", "pipe", "copy")  # the fastest first
NO_COUNTERS: Final[Mapping[str, CounterSeries]] = MappingProxyType({})
SPLICE_FROM = 1 << 17  # below this, setting up costs more than it saves


async def move(
    response: ClientResponse,
    request: web.BaseRequest,
    *,
    skip: int,
    count: int | None,
    options: RelayOptions,
    progress: Progress,
    counters: Mapping[str, CounterSeries] = NO_COUNTERS,
    chunked: bool = False,
    pipes: PipePool | None = None,
    turns: StreamTurns | None = None,
    stop: Stop | None = None,
    held: bytes = b"",
) -> RelayResult:
    """Write `count` bytes of the upstream's body to the client, after throwing `skip` away.

    The caller has written the client's response head. Without a `count` the body goes to the
    upstream's end, and `chunked` frames it, last chunk included when it is complete. Every piece
    is counted in `progress` and in its tier's counter, also before a cancellation. Never writes
    more than `count`; ends DONE only if exactly that much was written.

    After an upstream's fault the client's connection is in order: open the upstream again at the
    byte reached and call `move` once more. The upstream response is always closed; its connection
    goes back to the pool only after the last byte of its body.

    `pipes` keeps pipes for the next call; `turns` is shared with the other streams of the loop.
    `stop` is looked at every second. `held` are the first bytes of the body, which the caller has
    read already.
    """
    turns = turns or StreamTurns()
    client = request.transport
    if client is None or client.is_closing():
        drop(response)
        return RelayResult(0, RelayEnd.CLIENT_GONE, "none")
    transfer = Transfer(
        request, client, options, progress, counters, skip=skip, count=count, stop=stop
    )
    set_send_lowat(client, options.send_lowat_bytes)
    length = None if chunked else _takeable(response, count, options)
    tier = "copy"
    taken = None
    transfer.use(tier)
    try:
        if count == 0 and not chunked:
            transfer.finish(RelayEnd.DONE)
        elif length is None:
            await copy.run(transfer, response, chunked=chunked, turns=turns, held=held)
        elif (taken := _take(transfer, response, length, held)) is not None:
            set_rcvbuf(taken.transport, options.upstream_rcvbuf_bytes)
            tier = await _run(transfer, taken, options, pipes, turns)
    finally:
        transfer.close()
        transfer.conn.flow = None
        if taken is None or not taken.give_back():
            drop(response)
    assert transfer.end is not None
    return RelayResult(transfer.moved, transfer.end, tier)


def _takeable(response: ClientResponse, count: int | None, options: RelayOptions) -> int | None:
    """The body's Content-Length if its connection can be taken over, else None."""
    connection, headers = response.connection, response.headers
    if count is None or connection is None or connection.transport is None:
        return None
    if "pipe" not in options.tiers and "splice" not in options.tiers:
        return None
    if "Content-Encoding" in headers or "Transfer-Encoding" in headers:
        return None
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None


def _take(
    transfer: Transfer, response: ClientResponse, length: int, held: bytes
) -> TakenConnection | None:
    """Take the connection over and send what it had read; None if that was the end of it."""
    if held:
        transfer.send(held)
    try:
        taken = take_over(response, length)
    except (aiohttp.ClientError, ConnectionError) as exc:
        short = isinstance(exc, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError)
        transfer.finish(RelayEnd.UPSTREAM_SHORT if short else RelayEnd.UPSTREAM_RESET)
        return None
    for data in taken.held:
        transfer.send(data)
    taken.held.clear()
    if not taken.wire_bytes:
        transfer.finish(RelayEnd.UPSTREAM_SHORT)  # unless that was all the client lacked
    return None if transfer.end is not None else taken


async def _run(
    transfer: Transfer,
    taken: TakenConnection,
    options: RelayOptions,
    pipes: PipePool | None,
    turns: StreamTurns,
) -> str:
    """The best tier on a connection taken over; returns its name.

    Where only splice is allowed and cannot be had, it is the pipe tier all the same: the
    connection can no longer be handed back.
    """
    if "splice" in options.tiers and _can_splice(transfer, taken):
        pool = pipes if pipes is not None else PipePool()
        try:
            pair = pool.get()
            if pair is not None:
                transfer.use("splice")
                await splice.run(transfer, taken, pool, pair, turns)
                return "splice"
        finally:
            if pool is not pipes:
                pool.close()
    transfer.use("pipe")
    await pipe.run(transfer, taken, turns)
    return "pipe"


def _can_splice(transfer: Transfer, taken: TakenConnection) -> bool:
    return (
        not transfer.skip
        and min(transfer.left or 0, taken.wire_bytes) >= SPLICE_FROM
        and all(
            end.get_extra_info("socket") is not None and end.get_extra_info("sslcontext") is None
            for end in (taken.transport, transfer.client)
        )
    )
