"""Where a request's time goes: measured where it is spent, told in the log and to the client."""

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

# A reply that took longer has waited for somebody (the store at least), and says for whom. The
# others are answered from memory: a header would cost them more than there is to tell.
TOLD_FROM_NS: Final = 1_000_000

_T = TypeVar("_T")


async def timed(exchange: Exchange, phase: Phase, work: Awaitable[_T]) -> _T:
    """Do the work, whatever comes of it, on this phase's time."""
    field = FIELDS[phase]
    started_ns = time.perf_counter_ns()
    try:
        return await work
    finally:
        took_ns = time.perf_counter_ns() - started_ns
        setattr(exchange, field, getattr(exchange, field) + took_ns)


def server_timing(exchange: Exchange) -> dict[str, str]:
    """The header of a reply that waited (Server Timing, W3C), in milliseconds; `total` is until
    now, which for a stream is just before its first byte. A refusal says nothing: a task of
    somebody else's answers exactly like one that is not there."""
    if exchange.status >= 400 or exchange.reason == "not_found":
        return {}
    total_ns = time.perf_counter_ns() - exchange.started_ns
    if total_ns < TOLD_FROM_NS and not exchange.upstream_ns:
        return {}
    took = {phase: getattr(exchange, field) for phase, field in FIELDS.items()}
    told = [
        f"{phase};dur={ns / 1e6:.1f}" for phase, ns in (took | {"total": total_ns}).items() if ns
    ]
    return {"Server-Timing": ", ".join(told)}
