"""`GET /probe/<exp>/<signature>`: how a request and its answer come through whatever stands in
front of the gateway. For `reelway doctor`, which alone can sign such a path.

The answer is two lines of JSON, the second half a second after the first: what the gateway saw
of the request, then the end. A proxy that holds answers back brings both at once.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from aiohttp import web

from proxy.gateway.listener import StreamReply
from proxy.telemetry.exchange import Exchange

PROBES: Final = "/probe/"
PAUSE_S: Final = 0.5


async def answer_probe(request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
    """Raises ConnectionResetError when whoever asked is gone."""
    head = exchange.head
    host: str = head.headers.get("Host", "")
    seen = {
        "host": head.host or host,
        "sender": request.remote or "",  # empty: a unix socket
        "forwarded": head.headers.get("X-Forwarded-For", ""),
        "upgrade": head.headers.get("Upgrade", ""),
    }
    first = orjson.dumps(seen) + b"\n"
    last = orjson.dumps({"end": True}) + b"\n"
    headers = {
        "Content-Type": "application/x-ndjson",
        "Cache-Control": "no-store",
        "Content-Length": str(len(first) + len(last)),
        "X-Request-Id": exchange.id,
    }
    exchange.status, exchange.reason = 200, "probe"
    reply = StreamReply(200, headers)
    reply.begin(request)
    _write(request, first)
    await asyncio.sleep(PAUSE_S)
    _write(request, last)
    exchange.bytes_out = len(first) + len(last)
    return reply


def _write(request: web.BaseRequest, data: bytes) -> None:
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client closed the connection")
    transport.write(data)
