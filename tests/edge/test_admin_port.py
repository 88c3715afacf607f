"""The admin port's connections: bounded as the clients' are, whoever is silent or drips."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import orjson
import structlog
from aiohttp import web

from proxy.admin.request import read_body
from proxy.admin.schemas import JsonBody
from proxy.errors import BodyTimeout
from proxy.gateway.listener import ListenerOptions, bind
from proxy.server.admin_port import open_port
from tests.rig.relay import on_both_loops

WAIT_S = 20
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def port(go_on: asyncio.Event, **limits: Any) -> AsyncIterator[int]:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response(text="hello")

    async def told(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse()
        await reply.prepare(request)
        await reply.write(b"first")
        await go_on.wait()
        await reply.write(b"last")
        return reply

    async def change(request: web.Request) -> web.Response:
        try:
            await read_body(request, JsonBody, 0.05)
        except BodyTimeout as error:
            return web.Response(status=error.status, text=error.message)
        return web.Response(text="changed")

    app = web.Application()
    app.router.add_get("/", hello)
    app.router.add_get("/events", told)
    app.router.add_post("/", change)
    sock = bind("127.0.0.1:0")
    where = int(sock.getsockname()[1])
    opened = await open_port(app, sock, ListenerOptions(**limits), structlog.stdlib.get_logger())
    try:
        yield where
    finally:
        await opened.cleanup()
        sock.close()


@asynccontextmanager
async def peers(where: int, count: int) -> AsyncIterator[list[Pair]]:
    found = [await asyncio.open_connection("127.0.0.1", where) for _ in range(count)]
    try:
        yield found
    finally:
        for _, writer in found:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()


async def rest(peer: Pair) -> bytes:
    """Everything until the port closes the connection; a reset counts as closed."""
    with suppress(ConnectionError):
        async with asyncio.timeout(WAIT_S):
            return await peer[0].read()
    return b""


async def drip(peer: Pair, data: bytes) -> None:
    """One byte after the other, for as long as anybody takes them."""
    with suppress(ConnectionError, RuntimeError):  # uvloop's word for a closed transport
        while True:
            for byte in data:
                peer[1].write(bytes([byte]))
                await peer[1].drain()
                await asyncio.sleep(0.01)


@on_both_loops
async def test_silent_and_dripping_heads_are_closed_and_an_event_stream_is_not() -> None:
    go_on = asyncio.Event()
    async with port(go_on, head_s=0.2) as where, peers(where, 7) as (stream, *others):
        stream[1].write(GET.replace(b"/ ", b"/events ", 1))
        await stream[0].readuntil(b"first")
        for peer in others[2:4]:
            peer[1].write(b"GET / HT")
        drips = [asyncio.create_task(drip(peer, b"GET /" + b"a" * 999)) for peer in others[4:]]
        assert [await rest(peer) for peer in others] == [b""] * 6
        await asyncio.gather(*drips)
        go_on.set()  # long after a head's deadline
        async with asyncio.timeout(WAIT_S):
            await stream[0].readuntil(b"last")


@on_both_loops
async def test_a_body_that_does_not_come_is_a_408() -> None:
    async with port(asyncio.Event()) as where, peers(where, 2) as (silent, dripping):
        head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        for peer in (silent, dripping):
            peer[1].write(head + b"Content-Length: 99999\r\n\r\n{")
        dripped = asyncio.create_task(drip(dripping, b" "))
        for peer in (silent, dripping):
            async with asyncio.timeout(WAIT_S):
                assert (await peer[0].readline()).startswith(b"HTTP/1.1 408 ")
        await asyncio.gather(rest(silent), rest(dripping), dripped)


@on_both_loops
async def test_connections_above_the_cap_are_told_so_and_the_others_are_served() -> None:
    async with port(asyncio.Event(), max_connections=2) as where, peers(where, 3) as found:
        assert (await rest(found[2])).startswith(b"HTTP/1.1 503 ")
        for reader, writer in found[:2]:
            writer.write(GET)
            async with asyncio.timeout(WAIT_S):
                assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")


@on_both_loops
async def test_what_is_no_http_is_answered_in_json() -> None:
    async with port(asyncio.Event()) as where, peers(where, 1) as (peer,):
        peer[1].write(b"GET / HTTP/1.1\r\n\r\n")
        head, _, body = (await rest(peer)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert orjson.loads(body)["error"]["code"] == "malformed_request"
