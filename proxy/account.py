"""The last phase of every request: one line and the counters.

Rule: `finish` runs exactly once per exchange whatever happened to it, and awaits nothing, so it
also runs while a cancellation unwinds. It moves no money and frees no slot: those belong to the
task's own scripts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram

from proxy.logs import sink_of
from proxy.model import Exchange

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Account:
    """Writes the access line and keeps the request metrics in `registry`."""

    def __init__(self, registry: CollectorRegistry, log: structlog.stdlib.BoundLogger) -> None:
        self._sink = sink_of(log)
        self._on_line: list[Callable[[Mapping[str, object]], None]] = []
        labels = ("dialect", "operation", "status", "reason")
        self._requests = Counter(
            "reelway_requests", "Requests of clients, by outcome.", labels, registry=registry
        )
        self._seconds = Histogram(
            "reelway_request_seconds",
            "From the head of a request to its last byte.",
            ("dialect", "operation"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._bytes = Counter(
            "reelway_content_bytes",
            "Bytes of videos sent to clients.",
            ("tier",),
            registry=registry,
        )

        # Looking a label's values up costs more than counting.
        self._counters: dict[tuple[str, str, int, str], tuple[Counter, Histogram]] = {}

    def watch(self, seen: Callable[[Mapping[str, object]], None]) -> None:
        """Call `seen` with every access line (tests, the admin's live view)."""
        self._on_line.append(seen)

    def finish(self, exchange: Exchange) -> None:
        elapsed_ns = time.perf_counter_ns() - exchange.started_ns
        call = exchange.call
        dialect = call.dialect if call else "-"
        operation = call.operation.value if call else "-"
        reason = exchange.reason or "done"
        requests, seconds = self._counted(dialect, operation, exchange.status, _family(reason))
        requests.inc()
        seconds.observe(elapsed_ns / 1e9)
        if exchange.tier:
            self._bytes.labels(exchange.tier).inc(exchange.bytes_out)
        line: dict[str, object] = {
            "request_id": exchange.id,
            "peer": exchange.head.peer,
            "method": exchange.head.method,
            "path": exchange.head.path,
            "dialect": dialect,
            "operation": operation,
            "status": exchange.status,
            "reason": reason,
            "ms": round(elapsed_ns / 1e6, 3),
        }
        if exchange.principal is not None:
            line["token"] = exchange.principal.token_id
            line["owner"] = exchange.principal.owner
        for name in ("task_id", "route", "upstream", "credential", "tier"):
            value = getattr(exchange, name)
            if value:
                line[name] = value
        if exchange.bytes_out:
            line["bytes"] = exchange.bytes_out
        if exchange.first_byte_ns is not None:
            line["first_byte_ms"] = round((exchange.first_byte_ns - exchange.started_ns) / 1e6, 3)
        for seen in self._on_line:
            seen(line)
        self._sink.access(line)

    def flush(self) -> None:
        """Write the lines that still wait."""
        self._sink.flush()

    def _counted(self, *labels: *tuple[str, str, int, str]) -> tuple[Counter, Histogram]:
        found = self._counters.get(labels)
        if found is None:
            dialect, operation, status, family = labels
            found = self._counters[labels] = (
                self._requests.labels(dialect, operation, str(status), family),
                self._seconds.labels(dialect, operation),
            )
        return found


def _family(reason: str) -> str:
    """`healed(3)` → `healed`: a label's values must stay few."""
    return reason.partition("(")[0]
