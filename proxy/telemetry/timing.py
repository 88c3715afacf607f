"""Timing of a request's phases, for the access log and the Server-Timing header."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Final, Literal, TypeVar

from proxy.telemetry.exchange import Exchange

Phase = Literal["auth", "body", "upstream", "wait"]

# Each with the field of the exchange that has its nanoseconds.
FIELDS: Final[dict[Phase, str]] = {
    "auth": "auth_ns",
    "body": "body_ns",
    "upstream": "upstream_ns",
    "wait": "waited_ns",
}

# Replies that took longer have waited for something, the store at least, and say for what. The
# others come from memory; the header would cost them more than it is worth.
REPORTED_FROM_NS: Final = 1_000_000

_T = TypeVar("_T")


async def timed(exchange: Exchange, phase: Phase, work: Awaitable[_T]) -> _T:
    """Await the work and add its time to the phase, also when it raises."""
    field = FIELDS[phase]
    started_ns = time.perf_counter_ns()
    try:
        return await work
    finally:
        took_ns = time.perf_counter_ns() - started_ns
        setattr(exchange, field, getattr(exchange, field) + took_ns)


def server_timing(exchange: Exchange) -> dict[str, str]:
    """The Server-Timing header (W3C) of a reply that waited, in milliseconds.

    `total` ends now, which for a stream is just before its first byte. A refusal has no header:
    the task of another owner must answer exactly like one that does not exist."""
    if exchange.status >= 400 or exchange.reason == "not_found":
        return {}
    total_ns = time.perf_counter_ns() - exchange.started_ns
    if total_ns < REPORTED_FROM_NS and not exchange.upstream_ns:
        return {}
    took = {phase: getattr(exchange, field) for phase, field in FIELDS.items()}
    parts = [
        f"{phase};dur={ns / 1e6:.1f}" for phase, ns in (took | {"total": total_ns}).items() if ns
    ]
    return {"Server-Timing": ", ".join(parts)}
