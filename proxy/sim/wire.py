"""Putting a reply on the wire, spoiled as the plan says.

aiohttp's own responses keep Content-Length and framing honest, so a reply is serialised here
and written to the transport. Rule: `send` writes; whoever calls it never writes again.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from proxy.sim.faults import Fault, Plan
from proxy.sim.log import Entry
from proxy.sim.reply import Reply

_PIECE = 256 * 1024
_RST_ON_CLOSE = struct.pack("ii", 1, 0)


class Sent(web.StreamResponse):
    """Tells aiohttp that the reply is already on the wire."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


def transport_of(request: web.Request) -> asyncio.Transport:
    """Raises ConnectionResetError when the client has left."""
    transport = request.transport
    if transport is None or transport.is_closing():
        raise ConnectionResetError("the client has left")
    return transport  # of uvloop it is no asyncio.Transport, but behaves as one


def hang_up(request: web.Request, entry: Entry, *, reset: bool) -> None:
    """Closes the connection: with FIN, or with RST."""
    entry.cut = True
    transport = transport_of(request)
    if reset:
        connection: socket.socket = transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
        transport.abort()
    else:
        transport.close()


async def send(
    request: web.Request, reply: Reply, plan: Plan, entry: Entry, changed: Callable[[], None]
) -> bool:
    """Whether the connection may serve another request.

    Raises ConnectionError when the client leaves. `changed` is called when it stands still.
    """
    entry.status = reply.status
    stall = plan.get("stall")
    if stall is not None and stall.fault.at is None:
        await stand(entry, stall.released, changed)
    has_body = request.method != "HEAD" and reply.status not in (204, 304)
    framing = _framing(plan, has_body=has_body)
    wrong = plan.get("wrong_length")
    delta = wrong.fault.delta if wrong is not None else 0
    keep = request.keep_alive and framing != "close" and not (delta and has_body)
    await _write(request, _head(reply, plan, framing, delta, keep=keep))
    if has_body:
        cut = await _send_body(request, reply, plan, entry, changed, chunked=framing == "chunked")
        if cut is not None:
            await _flush(request)
            hang_up(request, entry, reset=cut.reset)
            return False
        if framing == "chunked":
            await _write(request, b"0\r\n\r\n")
        if delta < 0:
            await _write(request, bytes(-delta))
    if reply.clip is not None or not keep:
        await _flush(request)
    return keep


async def stand(entry: Entry, released: asyncio.Event, changed: Callable[[], None]) -> None:
    """Waits for a release, visibly to `wait_for`."""
    entry.stalled = True
    changed()
    await released.wait()


async def _send_body(
    request: web.Request,
    reply: Reply,
    plan: Plan,
    entry: Entry,
    changed: Callable[[], None],
    *,
    chunked: bool,
) -> Fault | None:
    """Writes the body; returns the fault at whose byte it must be cut, if it got there."""
    cut, stall, drip = plan.get("cut"), plan.get("stall"), plan.get("drip")
    cut_at = cut.fault.at if cut is not None else None
    stall_at = stall.fault.at if stall is not None else None
    position = 0
    while True:
        if cut is not None and position == cut_at:
            return cut.fault
        if stall is not None and position == stall_at:
            stall_at = None
            await _flush(request)
            await stand(entry, stall.released, changed)
        if position >= reply.size:
            return None
        length = _PIECE
        if drip is not None:
            length = max(1, min(_PIECE, drip.fault.rate // 10))
            await asyncio.sleep(length / drip.fault.rate)
        for stop in (cut_at, stall_at):
            if stop is not None and stop > position:
                length = min(length, stop - position)
        piece = reply.read(position, length)
        if chunked:
            await _write(request, b"".join((b"%x\r\n" % len(piece), piece, b"\r\n")))
        else:
            await _write(request, piece)
        position += len(piece)
        entry.bytes_sent = position


def _framing(plan: Plan, *, has_body: bool) -> str:
    if plan.get("http10") is not None:
        return "close"
    if plan.get("chunked") is not None and has_body:
        return "chunked"
    return "length"


def _head(reply: Reply, plan: Plan, framing: str, delta: int, *, keep: bool) -> bytes:
    version = "1.0" if plan.get("http10") is not None else "1.1"
    try:
        phrase = HTTPStatus(reply.status).phrase
    except ValueError:
        phrase = ""
    lines = [f"HTTP/{version} {reply.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    if framing == "length" and reply.status not in (204, 304):
        lines.append(f"Content-Length: {max(0, reply.size + delta)}")
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
    lines.append(f"Date: {formatdate(usegmt=True)}")
    if not keep:
        lines.append("Connection: close")
    extra = plan.get("headers")
    if extra is not None:
        lines += [f"{name}: {value}" for name, value in extra.fault.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


async def _write(request: web.Request, data: bytes | memoryview) -> None:
    transport_of(request).write(data)
    await request.writer.drain()


async def _flush(request: web.Request) -> None:
    """Until the kernel has every byte: what is then cut was delivered up to here."""
    transport = transport_of(request)
    transport.set_write_buffer_limits(high=0)
    try:
        await request.writer.drain()
    finally:
        transport.set_write_buffer_limits()
    transport_of(request)
