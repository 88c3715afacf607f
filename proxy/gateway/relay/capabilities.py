"""Which tiers work here: looked at once, at the start."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from aiohttp import ClientResponse, web
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader

from proxy.gateway.relay.splice import PipePool

# What taking a connection over needs of aiohttp; its documentation promises none of it.
_INTERNALS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (ClientResponse, ("connection", "content", "close")),
    (Connection, ("protocol", "transport")),
    (ResponseHandler, ("read_timeout", "start_timeout", "connection_lost", "_parser")),
    (StreamReader, ("read_nowait", "is_eof", "feed_eof", "total_bytes")),
    (web.RequestHandler, ("writing_paused", "pause_writing", "resume_writing")),
)


def usable_tiers(
    wanted: Iterable[str], internals: Iterable[tuple[type, tuple[str, ...]]] = _INTERNALS
) -> tuple[tuple[str, ...], list[str]]:
    """Those of `wanted` that work here, and for each that does not a line for the log.

    `copy` always works and is always among them.
    """
    faults: dict[str, str] = {}
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in internals
        for name in names
        if not hasattr(kind, name)
    ]
    if missing:
        faults["pipe"] = faults["splice"] = f"this aiohttp has no {', '.join(missing)}"
    elif fault := _splice_fault():
        faults["splice"] = fault
    kept = tuple(tier for tier in wanted if tier not in faults)
    lines = [f"relay tier {tier} is off: {faults[tier]}" for tier in wanted if tier in faults]
    return (kept if "copy" in kept else (*kept, "copy")), lines


def _splice_fault() -> str | None:
    """Move one byte through the kernel, as the tier does."""
    if not hasattr(os, "splice"):
        return "this Python has no os.splice"
    pool = PipePool()
    pair = pool.get()
    if pair is None:
        return "the system gives us no large pipe (fs.pipe-user-pages-soft)"
    source, feed = socket.socketpair()
    sink, drain = socket.socketpair()
    try:
        feed.send(b"x")
        os.splice(source.fileno(), pair.write_fd, 1, flags=os.SPLICE_F_NONBLOCK)
        os.splice(pair.read_fd, sink.fileno(), 1, flags=os.SPLICE_F_NONBLOCK)
        return None if drain.recv(1) == b"x" else "os.splice moved another byte"
    except OSError as exc:
        return f"os.splice fails: {exc.strerror}"
    finally:
        pair.close()
        for sock in (source, feed, sink, drain):
            sock.close()
