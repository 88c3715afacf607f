"""Which tiers work here: looked at once, at the start."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Sequence

from proxy.gateway.aiohttp_internals import TAKEOVER, Internal, missing
from proxy.gateway.relay.splice import PipePool


def usable_tiers(
    wanted: Iterable[str], internals: Sequence[Internal] = TAKEOVER
) -> tuple[tuple[str, ...], list[str]]:
    """The tiers that work here, and a line for the log for each that does not.

    `copy` always works and is always among them.
    """
    faults: dict[str, str] = {}
    lacking = missing(internals)
    if lacking:
        names = ", ".join(map(str, lacking))
        faults["pipe"] = faults["splice"] = f"this aiohttp has no {names}"
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
