"""The access log: the last phase of every request writes its line and counts it.

Rule: `finish` runs exactly once per exchange, whatever happened, and awaits nothing, so it also
runs while a cancellation unwinds. It moves no money and frees no slot: the task's own scripts do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from proxy.caches import BoundedDict
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.logs import sink_of
from proxy.telemetry.metric_definitions import ADDED_LATENCY, LIMIT_REACHED, REQUESTS, SECONDS
from proxy.telemetry.metrics import CounterSeries, HistogramSeries, Metrics
from proxy.telemetry.redaction import Redactor

PATHS_KEPT = 4096
PATH_KEPT = 128  # characters of a path that is worth remembering


@dataclass(frozen=True, slots=True)
class _RequestSeries:
    """The series that requests of one kind and outcome count in."""

    requests: CounterSeries
    seconds: HistogramSeries
    added: HistogramSeries


class AccessLog:
    """Write the access line of each request and count it."""

    def __init__(self, metrics: Metrics, log: structlog.stdlib.BoundLogger) -> None:
        self._metrics = metrics
        self._sink = sink_of(log)
        self._on_line: list[Callable[[Mapping[str, object]], None]] = []
        # Redacting a path, or looking a label's values up, costs more than all else here.
        self._redactor: Redactor | None = None
        self._paths: BoundedDict[str, str] = BoundedDict(PATHS_KEPT)
        self._rows: dict[tuple[str, str, int, str], _RequestSeries] = {}

    def watch(self, seen: Callable[[Mapping[str, object]], None]) -> None:
        """Call `seen` with every access line (tests, the admin's live view)."""
        self._on_line.append(seen)

    def finish(self, exchange: Exchange) -> None:
        # Everything here is paid by every status poll: plain attributes, no loop, no call that
        # can be spared.
        elapsed_ns = time.perf_counter_ns() - exchange.started_ns
        head, call, status = exchange.head, exchange.call, exchange.status
        reason = exchange.reason or "done"
        dialect = operation = "-"
        if call is not None:
            dialect, operation = call.dialect, call.operation._value_  # `.value` is a slow property
        if self._redactor is not self._sink.redactor:
            self._redactor, self._paths = self._sink.redactor, BoundedDict(PATHS_KEPT)
        path = self._paths.get(head.path)
        if path is None:  # nobody knows what a client wrote there
            path = self._clean(head.path, is_known=call is not None)
        line: dict[str, object] = {
            "event": "request",
            "level": "info",
            "ts": self._sink.now(),
            "request_id": exchange.id,
            "peer": head.peer,
            "method": head.method,
            "path": path,
            "dialect": dialect,
            "operation": operation,
            "status": status,
            "reason": reason,
            "ms": elapsed_ns // 1000 / 1000,
        }
        principal = exchange.principal
        if principal is not None:
            line["token"] = principal.token_id
            line["owner"] = principal.owner
        if exchange.auth_ns:
            line["auth_ms"] = exchange.auth_ns // 1000 / 1000
        if exchange.task_id:
            line["task_id"] = exchange.task_id
        if exchange.route:
            line["route"] = exchange.route
        if exchange.upstream:
            line["upstream"] = exchange.upstream
        if exchange.credential:
            line["credential"] = exchange.credential
        ours_ns = elapsed_ns
        if exchange.first_byte_ns or exchange.upstream_ns or exchange.body_ns or exchange.waited_ns:
            ours_ns = _add_waits(exchange, line, elapsed_ns)
        row = self._rows.get((dialect, operation, status, reason))
        if row is None:
            row = self._row(dialect, operation, status, reason)
        row.requests.n += 1
        row.seconds.observe(elapsed_ns / 1e9)
        if reason != "client_gone" or exchange.first_byte_ns:  # else nobody saw what was to come
            row.added.observe(ours_ns / 1e9)
        if exchange.limit is not None:
            self._metrics.count(LIMIT_REACHED, exchange.limit)
        if exchange.refused is not None:
            line["fault"], claimed = exchange.refused
            if claimed is not None:
                line["claimed"] = claimed
        if exchange.prompt is not None:
            line["prompt"] = exchange.prompt
        for seen in self._on_line:
            seen(line)
        self._sink.access(line)

    def flush(self) -> None:
        """Write the lines that are still buffered."""
        self._sink.flush()

    def _clean(self, path: str, *, is_known: bool) -> str:
        cleaned = self._sink.redactor.text(path)
        if is_known and len(path) <= PATH_KEPT:
            self._paths[path] = cleaned
        return cleaned

    def _row(self, dialect: str, operation: str, status: int, reason: str) -> _RequestSeries:
        row = _RequestSeries(
            self._metrics.counter(REQUESTS, dialect, operation, str(status), _family(reason)),
            self._metrics.histogram(SECONDS, dialect, operation),
            self._metrics.histogram(ADDED_LATENCY, dialect, operation),
        )
        if reason == _family(reason):  # `healed(3)` has a number in it: no end of them
            self._rows[dialect, operation, status, reason] = row
        return row


def _add_waits(exchange: Exchange, line: dict[str, object], elapsed_ns: int) -> int:
    """Add to the line the bytes moved and the times waited. Returns the time that the gateway
    itself took, in nanoseconds."""
    ours_ns = elapsed_ns
    if exchange.first_byte_ns is not None:
        ours_ns = exchange.first_byte_ns - exchange.started_ns
        line["first_byte_ms"] = ours_ns // 1000 / 1000
    if exchange.tier:
        line["tier"] = exchange.tier
    if exchange.bytes_out:
        line["bytes"] = exchange.bytes_out
    waits = (
        ("body_ms", exchange.body_ns),
        ("upstream_ms", exchange.upstream_ns),
        ("wait_ms", exchange.waited_ns),
    )
    for name, ns in waits:
        if ns:
            line[name] = ns // 1000 / 1000
            ours_ns -= ns
    return max(0, ours_ns)


def _family(reason: str) -> str:
    """The label value of a reason, without its number: `healed(3)` → `healed`."""
    return reason.partition("(")[0]
