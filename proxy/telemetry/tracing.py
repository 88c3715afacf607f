"""Tracing: turn what happens to requests and tasks into spans, one trace per task.

Code that does something worth a span calls one method of its `Tracer`. With tracing off that is
`NoTracing`, which does nothing. Nothing here waits: spans go to an `Exporter` that has a bounded
queue and a thread of its own.

The worker that writes a task's final state exports the task's own span, with the task's start
and the time line from the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final, Protocol

from proxy.config.tables import TracingTable as Settings
from proxy.errors import ProxyError
from proxy.http.headers import forwarded
from proxy.http.outbound import Outbound
from proxy.http.trace_context import handed_on, parse
from proxy.model import Stage, Task, TaskState, Upstream
from proxy.providers.outcomes import Outcome, Transient
from proxy.store.notice import Webhook
from proxy.store.observer import Observer
from proxy.telemetry import spans
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.redaction import Redactor
from proxy.telemetry.spans import Interval, RequestSpan, Sanitiser, Span, TimelineEntry

MOST_ENDS: Final = 1000  # time lines being read at once; further ends are exported without one
CLOSE_S: Final = 1.0  # how long a stopping worker waits for them
NEEDS: Final = "opentelemetry.exporter.otlp.proto.http"


class Exporter(Protocol):
    """Send spans away. Called on the loop's thread; `take` neither raises nor blocks."""

    def take(self, span: Span) -> None: ...


class Tracer(Protocol):
    """What requests and tasks report to, whether tracing is on or off."""

    def now_ns(self) -> int:
        """Nanoseconds since the epoch, to pass back as a `start_ns`."""
        ...

    def client_trace(self, headers: Mapping[str, str]) -> str | None:
        """The trace that a client has begun, for its new task to keep; None without one."""
        ...

    def attempt_headers(self, task: Task, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers of the task's next attempt; `headers` are those it was submitted with."""
        ...

    def onward_headers(self, exchange: Exchange) -> Mapping[str, str]:
        """The headers of a client's request that the upstream gets as well."""
        ...

    def record_request(self, exchange: Exchange) -> None:
        """A client's request is over."""
        ...

    def record_submit(
        self, task: Task, outbound: Outbound, start_ns: int, status: int | None, outcome: Outcome
    ) -> None:
        """An attempt has its outcome; `task` is as it was marked for the attempt."""
        ...

    def record_poll(
        self,
        task: Task,
        upstream: Upstream,
        start_ns: int,
        said: TaskState | Transient,
        failures: int,
    ) -> None:
        """A poll has its answer; `failures` counts the inconclusive polls in a row."""
        ...

    def record_query(
        self, task: Task, what: str, upstream: Upstream, start_ns: int, said: str, *, ok: bool
    ) -> None:
        """A question to the provider about a task (`poll` or `find`) has its answer."""
        ...

    def record_webhook(
        self, task: Task, hook: Webhook, start_ns: int, status: int | None, fault: str | None
    ) -> None:
        """A webhook was tried; `fault` is the trouble that left it without a status."""
        ...


class NoTracing:
    """The tracer of a gateway with tracing off: it does nothing."""

    def now_ns(self) -> int:
        return 0

    def client_trace(self, headers: Mapping[str, str]) -> str | None:
        return None

    def attempt_headers(self, task: Task, headers: Mapping[str, str]) -> Mapping[str, str]:
        return headers

    def onward_headers(self, exchange: Exchange) -> Mapping[str, str]:
        return forwarded(exchange.head.headers)

    def record_request(self, exchange: Exchange) -> None:
        pass

    def record_submit(
        self, task: Task, outbound: Outbound, start_ns: int, status: int | None, outcome: Outcome
    ) -> None:
        pass

    def record_poll(
        self,
        task: Task,
        upstream: Upstream,
        start_ns: int,
        said: TaskState | Transient,
        failures: int,
    ) -> None:
        pass

    def record_query(
        self, task: Task, what: str, upstream: Upstream, start_ns: int, said: str, *, ok: bool
    ) -> None:
        pass

    def record_webhook(
        self, task: Task, hook: Webhook, start_ns: int, status: int | None, fault: str | None
    ) -> None:
        pass


NO_TRACING: Final = NoTracing()


class SpanTracer:
    """Make spans and hand them to an exporter. It is a `Tracer`, and an `Observer` of the store.

    Of the traces that no client has begun a `share` (0 to 1) is recorded. `clock` gives seconds
    since the epoch; `time_line(task id)` may raise ProxyError."""

    def __init__(
        self,
        exporter: Exporter,
        time_line: Callable[[str], Awaitable[Sequence[TimelineEntry]]],
        share: float,
        redactor: Callable[[], Redactor],
        clock: Callable[[], float],
    ) -> None:
        self._exporter = exporter
        self._time_line = time_line
        self._share = share
        self._redactor = redactor
        self._clock = clock
        self._ends: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Close it after its callers, before the store and the exporter."""
        if self._ends:
            await asyncio.wait(set(self._ends), timeout=CLOSE_S)
        late = list(self._ends)
        for job in late:
            job.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def now_ns(self) -> int:
        return int(self._clock() * 1e9)

    # ------------------------------------------------------------ traces handed on

    def client_trace(self, headers: Mapping[str, str]) -> str | None:
        came = parse(headers.get("traceparent"))
        return None if came is None else came.header()

    def attempt_headers(self, task: Task, headers: Mapping[str, str]) -> Mapping[str, str]:
        root = spans.root_of(task, self._share)
        if root is None:
            return headers
        return handed_on(headers, root.child(spans.attempt_id(task.id, task.attempt + 1)))

    def onward_headers(self, exchange: Exchange) -> Mapping[str, str]:
        headers = forwarded(exchange.head.headers)
        span = self._request_span(exchange)
        return headers if span is None else handed_on(headers, span.at)

    def _request_span(self, exchange: Exchange) -> RequestSpan | None:
        return spans.request_span_of(exchange, self._share)

    # ------------------------------------------------------------ what happened

    def record_request(self, exchange: Exchange) -> None:
        if not spans.is_recorded_request(exchange):
            return
        span = self._request_span(exchange)
        if span is not None:
            took_ns = time.perf_counter_ns() - exchange.started_ns
            end_ns = self.now_ns()
            when = Interval(end_ns - took_ns, end_ns)
            self._exporter.take(spans.of_request(exchange, span, when, self._sanitiser))

    def record_submit(
        self, task: Task, outbound: Outbound, start_ns: int, status: int | None, outcome: Outcome
    ) -> None:
        root = spans.root_of(task, self._share)
        if root is not None:
            when = Interval(start_ns, self.now_ns())
            self._exporter.take(spans.of_submit(task, root, outbound, when, status, outcome))

    def record_poll(
        self,
        task: Task,
        upstream: Upstream,
        start_ns: int,
        said: TaskState | Transient,
        failures: int,
    ) -> None:
        if spans.is_recorded_poll(task, said, failures):
            is_state = isinstance(said, TaskState)
            word = said.status.value if isinstance(said, TaskState) else said.reason
            self.record_query(task, "poll", upstream, start_ns, word, ok=is_state)

    def record_query(
        self, task: Task, what: str, upstream: Upstream, start_ns: int, said: str, *, ok: bool
    ) -> None:
        root = spans.root_of(task, self._share)
        if root is not None:
            when, text = Interval(start_ns, self.now_ns()), self._sanitiser.clean(said, task.prompt)
            self._exporter.take(spans.of_query(task, root, what, upstream, when, text, ok=ok))

    def record_webhook(
        self, task: Task, hook: Webhook, start_ns: int, status: int | None, fault: str | None
    ) -> None:
        root = spans.root_of(task, self._share)
        if root is not None:
            when = Interval(start_ns, self.now_ns())
            self._exporter.take(spans.of_webhook(task, root, hook, when, status, fault))

    # ------------------------------------------------------------ what the store does

    def task_moved(self, before: Stage | None, task: Task, *, refused: bool = False) -> None:
        if not task.stage.is_final or (before is not None and before.is_final):
            return
        if spans.root_of(task, self._share) is None:
            return
        if len(self._ends) >= MOST_ENDS:
            self._export_end(task, ())
            return
        job = asyncio.create_task(self._end(task), name=f"trace {task.id}")
        self._ends.add(job)
        job.add_done_callback(self._ends.discard)

    def round_trip(self, seconds: float, *, answered: bool) -> None:
        pass

    async def _end(self, task: Task) -> None:
        line: Sequence[TimelineEntry] = ()
        try:
            line = await self._time_line(task.id)
        except ProxyError:
            pass  # the store is down: the span has everything else
        finally:
            self._export_end(task, line)

    def _export_end(self, task: Task, line: Sequence[TimelineEntry]) -> None:
        root = spans.root_of(task, self._share)
        if root is not None:
            self._exporter.take(spans.of_task(task, root, line, self._sanitiser))

    @property
    def _sanitiser(self) -> Sanitiser:
        return Sanitiser(self._redactor())


class Both:
    """Pass what the store reports on to two observers."""

    def __init__(self, one: Observer, other: Observer) -> None:
        self._both = (one, other)

    def task_moved(self, before: Stage | None, task: Task, *, refused: bool = False) -> None:
        for observer in self._both:
            observer.task_moved(before, task, refused=refused)

    def round_trip(self, seconds: float, *, answered: bool) -> None:
        for observer in self._both:
            observer.round_trip(seconds, answered=answered)


def missing(settings: Settings) -> str | None:
    """What to install when tracing is on and its libraries are missing; None: nothing."""
    if settings.endpoint is None:
        return None
    try:
        found = find_spec(NEEDS) is not None
    except ModuleNotFoundError:
        found = False
    if found:
        return None
    return "tracing is off: OpenTelemetry is not installed (pip install 'reelway[otel]')"
