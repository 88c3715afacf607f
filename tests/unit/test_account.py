"""A request's last phase: what its line says, and what it is counted as."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.config import load
from proxy.model import Call, Operation, Principal
from proxy.providers import PROVIDERS
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.exchange import Exchange, Head
from proxy.telemetry.logs import make_logger, sink_of
from proxy.telemetry.metric_definitions import ADDED_LATENCY, LIMIT_REACHED, REQUESTS, SECONDS
from proxy.telemetry.metrics import HistogramSeries, Metrics

WAIT_S = 20.0  # only a hang gets here
MS = 1_000_000
TASK = "video_0a" + "3f" * 23
TOKEN = "rw_abcdefghij234567_" + "Zz9" * 14 + "Z"
GET = Call("openai", Operation.GET, {"task_id": TASK}, {})
PRINCIPAL = Principal("abcdefghij234567", "team-a", "ci")


class Book:
    """An access log, and what it has written and counted."""

    def __init__(self) -> None:
        config = load(None, {}, PROVIDERS)
        self.file = io.StringIO()
        self.log = make_logger(self.file)
        self.metrics = Metrics(lambda: config)
        self.access_log = AccessLog(self.metrics, self.log)

    def lines(self) -> list[dict[str, Any]]:
        self.access_log.flush()
        return [json.loads(line) for line in self.file.getvalue().splitlines()]

    def count(self, *labels: str) -> float:
        return self.metrics.counter(REQUESTS, *labels).n


@pytest.fixture
async def book() -> Book:
    return Book()


def exchange(path: str = f"/v1/videos/{TASK}", **facts: Any) -> Exchange:
    head = Head("GET", path, path, (), CIMultiDictProxy(CIMultiDict()), "192.0.2.1")
    made = Exchange("req_1", head, time.perf_counter_ns(), **{"status": 200, **facts})
    if "call" not in facts:
        made.call = GET
    return made


def took(spread: HistogramSeries) -> Iterator[str]:
    """The upper bounds of the buckets that hold something."""
    bounds = [*map(str, spread.bounds), "inf"]
    return (bound for bound, count in zip(bounds, spread.counts, strict=True) if count)


async def test_a_poll_s_line_says_who_asked_what_and_how_long_it_took(book: Book) -> None:
    book.access_log.finish(
        exchange(principal=PRINCIPAL, task_id=TASK, route="sora-*", auth_ns=20_500)
    )
    (line,) = book.lines()
    assert line.pop("ms") >= 0
    assert line.pop("ts").endswith("Z")
    assert line == {
        "event": "request",
        "level": "info",
        "request_id": "req_1",
        "peer": "192.0.2.1",
        "method": "GET",
        "path": f"/v1/videos/{TASK}",
        "dialect": "openai",
        "operation": "get",
        "status": 200,
        "reason": "done",
        "token": "abcdefghij234567",
        "owner": "team-a",
        "auth_ms": 0.02,
        "task_id": TASK,
        "route": "sora-*",
    }


async def test_a_phase_that_did_not_happen_is_not_in_the_line(book: Book) -> None:
    book.access_log.finish(exchange())
    (line,) = book.lines()
    assert not [name for name in line if name.endswith("_ms")]


async def test_what_a_download_waited_for_is_in_its_line(book: Book) -> None:
    made = exchange(
        upstream="up",
        credential="a",
        tier="splice",
        bytes_out=1234,
        body_ns=2 * MS,
        upstream_ns=132 * MS,
        waited_ns=7 * MS,
    )
    made.first_byte_ns = made.started_ns + 150 * MS
    book.access_log.finish(made)
    (line,) = book.lines()
    said = {name: line[name] for name in ("upstream", "credential", "tier", "bytes")}
    assert said == {"upstream": "up", "credential": "a", "tier": "splice", "bytes": 1234}
    assert (line["first_byte_ms"], line["upstream_ms"]) == (150.0, 132.0)
    assert (line["body_ms"], line["wait_ms"]) == (2.0, 7.0)
    (added,) = took(book.metrics.histogram(ADDED_LATENCY, "openai", "get"))
    assert added == "0.01"  # 150 - 132 - 2 - 7 = 9 ms were ours


async def test_latency_is_ours_only_as_far_as_nobody_was_waited_for(book: Book) -> None:
    """A render that took minutes to submit says nothing about the gateway."""
    made = exchange(upstream_ns=89_900 * MS)
    made.started_ns -= 90_000 * MS
    book.access_log.finish(made)
    (whole,) = took(book.metrics.histogram(SECONDS, "openai", "get"))
    (added,) = took(book.metrics.histogram(ADDED_LATENCY, "openai", "get"))
    assert whole == "inf"
    assert float(added) <= 1.0


async def test_measured_waits_that_overlap_make_no_negative_latency(book: Book) -> None:
    book.access_log.finish(exchange(upstream_ns=10_000 * MS))
    assert book.metrics.histogram(ADDED_LATENCY, "openai", "get").total == 0


async def test_a_client_that_left_before_the_reply_adds_no_latency(book: Book) -> None:
    book.access_log.finish(exchange(reason="client_gone"))
    gone = exchange(reason="client_gone")
    gone.first_byte_ns = gone.started_ns + MS
    book.access_log.finish(gone)
    assert sum(book.metrics.histogram(SECONDS, "openai", "get").counts) == 2
    assert sum(book.metrics.histogram(ADDED_LATENCY, "openai", "get").counts) == 1


async def test_requests_are_counted_by_outcome(book: Book) -> None:
    for _ in range(3):
        book.access_log.finish(exchange())
    book.access_log.finish(exchange(status=404, reason="not_found"))
    book.access_log.finish(exchange(call=None, status=404, reason="endpoint_not_found"))
    for healed in range(1, 5):
        book.access_log.finish(exchange(reason=f"healed({healed})"))
    assert book.count("openai", "get", "200", "done") == 3
    assert book.count("openai", "get", "404", "not_found") == 1
    assert book.count("-", "-", "404", "endpoint_not_found") == 1
    assert book.count("openai", "get", "200", "healed") == 4
    assert [line["reason"] for line in book.lines()][-1] == "healed(4)"


async def test_a_limit_that_refused_is_counted_by_its_kind(book: Book) -> None:
    book.access_log.finish(exchange(status=429, reason="rate_limit_exceeded", limit="submits"))
    book.access_log.finish(exchange(status=429, reason="rate_limit_exceeded"))  # the provider's
    assert book.metrics.counter(LIMIT_REACHED, "submits").n == 1
    assert book.metrics.counter(LIMIT_REACHED, "requests").n == 0


@pytest.mark.parametrize("call", [GET, None])
async def test_a_key_in_the_path_never_reaches_the_log(book: Book, call: Call | None) -> None:
    book.access_log.finish(exchange(f"/v1/videos/{TOKEN}", call=call))
    (line,) = book.lines()
    assert line["path"] == "/v1/videos/rw_abcdefghij234567_…"


async def test_a_path_that_is_no_text_still_has_its_line(book: Book) -> None:
    book.access_log.finish(exchange("/v1/\udcff\udcfe"))
    (line,) = book.lines()
    assert line["path"] == "/v1/\\xff\\xfe"


async def test_a_prompt_is_in_the_line_only_when_it_was_asked_for(book: Book) -> None:
    book.access_log.finish(exchange(prompt="a cat"))
    book.access_log.finish(exchange())
    first, second = book.lines()
    assert first["prompt"] == "a cat"
    assert "prompt" not in second


async def test_whoever_watches_sees_each_line(book: Book) -> None:
    seen: list[Mapping[str, object]] = []
    book.access_log.watch(seen.append)
    book.access_log.finish(exchange())
    assert [line["request_id"] for line in seen] == ["req_1"]


async def test_a_quiet_log_counts_all_the_same(book: Book) -> None:
    sink_of(book.log).level = 30
    book.access_log.finish(exchange())
    assert book.lines() == []
    assert book.count("openai", "get", "200", "done") == 1


async def test_lines_wait_a_moment_for_each_other_and_go_out_in_order(book: Book) -> None:
    for n in range(3):
        book.access_log.finish(exchange(f"/v1/{n}"))
    assert book.file.getvalue() == ""
    book.log.warning("in between")
    assert [line.get("path", line["event"]) for line in book.lines()] == [
        "/v1/0",
        "/v1/1",
        "/v1/2",
        "in between",
    ]
    book.access_log.finish(exchange("/v1/3"))
    async with asyncio.timeout(WAIT_S):
        while True:
            if "/v1/3" in book.file.getvalue():
                break
            await asyncio.sleep(0.01)
