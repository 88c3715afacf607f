"""Where a request's time goes, and what of it the client is told."""

from __future__ import annotations

import asyncio
import time

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.telemetry.exchange import Exchange, Head
from proxy.telemetry.timing import server_timing, timed


def exchange(age_ms: float = 0.0) -> Exchange:
    head = Head("GET", "/", "/", (), CIMultiDictProxy(CIMultiDict()), "-")
    return Exchange("req_1", head, time.perf_counter_ns() - int(age_ms * 1e6))


async def answer() -> str:
    return "answer"


async def failure() -> str:
    raise KeyError("gone")


async def test_a_phase_has_the_time_of_all_its_work() -> None:
    made = exchange()
    assert await timed(made, "upstream", answer()) == "answer"
    once = made.upstream_ns
    assert once > 0
    await timed(made, "upstream", answer())
    assert made.upstream_ns > once
    assert (made.body_ns, made.waited_ns) == (0, 0)


async def test_work_that_fails_or_is_cancelled_took_its_time_too() -> None:
    made = exchange()
    with pytest.raises(KeyError):
        await timed(made, "body", failure())
    assert made.body_ns > 0
    job = asyncio.create_task(timed(made, "wait", asyncio.Event().wait()))
    await asyncio.sleep(0)
    job.cancel()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert made.waited_ns > 0


def test_a_reply_that_waited_says_for_whom() -> None:
    made = exchange(age_ms=150)
    made.auth_ns, made.upstream_ns = 60_000, 132_400_000
    header = server_timing(made)["Server-Timing"]
    phases = [part.partition(";dur=")[::2] for part in header.split(", ")]
    assert phases[:2] == [("auth", "0.1"), ("upstream", "132.4")]
    assert phases[2][0] == "total"
    assert float(phases[2][1]) >= 150
    assert len(phases) == 3


def test_a_reply_from_memory_says_nothing() -> None:
    """Its age is in the future here, so that no slow machine makes it an old one."""
    made = exchange(age_ms=-60_000)
    made.auth_ns = 60_000
    assert server_timing(made) == {}
    made.upstream_ns = 1
    assert "upstream;dur=0.0" in server_timing(made)["Server-Timing"]
