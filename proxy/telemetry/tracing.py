"""Tracing: tells what happens to tasks to whoever exports it, one trace for each.

Who does something worth a span calls one method here; where tracing is off there is no such
object, and nobody looks further than that. Nothing here waits: spans are handed to an `Exporter`
that has a bounded queue and a thread of its own.

The task's own span is exported by the worker that writes its final state, with the start it had
and the time line from the store.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Final, Protocol

from proxy.config.tables import Tracing as Settings
from proxy.errors import ProxyError
from proxy.http.headers import forwarded
from proxy.http.trace_context import handed_on, parse
from proxy.model import (
    Exchange,
    Hook,
    Outbound,
    Outcome,
    Stage,
    Task,
    TaskState,
    Transient,
    Upstream,
)
from proxy.store.observer import Observer
from proxy.telemetry import spans
from proxy.telemetry.redaction import Redactor
from proxy.telemetry.spans import Entry, Seat, Span, Timed, Words

MOST_ENDS: Final = 1000  # time lines being read; beyond it a task's end is told without
CLOSE_S: Final = 1.0  # how long a worker that stops waits for them
NEEDS: Final = "opentelemetry.exporter.otlp.proto.http"


class Exporter(Protocol):
    """Sends spans away. Called on the loop's own thread; `take` neither raises nor blocks."""

    def take(self, span: Span) -> None: ...


class Tracing:
    """`share` (0 to 1) of the traces nobody else has begun are recorded; `clock` gives seconds
    since the epoch; `time_line(task id)` may raise ProxyError. It is an `Observer` of the store."""

    def __init__(
        self,
        exporter: Exporter,
        time_line: Callable[[str], Awaitable[Sequence[Entry]]],
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
        """After those who call it; before the store closes, and then the exporter."""
        if self._ends:
            await asyncio.wait(set(self._ends), timeout=CLOSE_S)
        late = list(self._ends)
        for job in late:
            job.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def now_ns(self) -> int:
        return int(self._clock() * 1e9)

    # ------------------------------------------------------------ traces handed on

    @staticmethod
    def begun(headers: Mapping[str, str]) -> str | None:
        """What a new task remembers of the trace its client has begun."""
        came = parse(headers.get("traceparent"))
        return None if came is None else came.header()

    def of_attempt(self, task: Task, headers: Mapping[str, str]) -> Mapping[str, str]:
        """What the upstream hears with the next attempt; `headers` are what it came with."""
        root = spans.root_of(task, self._share)
        if root is None:
            return headers
        return handed_on(headers, root.child(spans.attempt_id(task.id, task.attempt + 1)))

    def onward(self, exchange: Exchange) -> Mapping[str, str]:
        """What the upstream hears of the trace with what a client's request makes us ask it."""
        headers = forwarded(exchange.head.headers)
        seat = self._seat(exchange)
        return headers if seat is None else handed_on(headers, seat.at)

    def _seat(self, exchange: Exchange) -> Seat | None:
        return spans.seat_of(exchange, self._share)

    # ------------------------------------------------------------ what happened

    def request(self, exchange: Exchange) -> None:
        """A client's request is over."""
        if not spans.is_told(exchange):
            return
        seat = self._seat(exchange)
        if seat is not None:
            took_ns = time.perf_counter_ns() - exchange.started_ns
            end_ns = self.now_ns()
            when = Timed(end_ns - took_ns, end_ns)
            self._exporter.take(spans.of_request(exchange, seat, when, self._words))

    def submitted(
        self, task: Task, outbound: Outbound, start_ns: int, status: int | None, outcome: Outcome
    ) -> None:
        """An attempt has its outcome; `task` is as it was marked for it."""
        root = spans.root_of(task, self._share)
        if root is not None:
            when = Timed(start_ns, self.now_ns())
            self._exporter.take(spans.of_submit(task, root, outbound, when, status, outcome))

    def polled(
        self,
        task: Task,
        upstream: Upstream,
        start_ns: int,
        said: TaskState | Transient,
        failures: int,
    ) -> None:
        """Its provider was asked; `failures` is how many times in a row that said nothing."""
        if spans.is_worth_telling(task, said, failures):
            is_state = isinstance(said, TaskState)
            word = said.status.value if isinstance(said, TaskState) else said.reason
            self.asked(task, "poll", upstream, start_ns, word, ok=is_state)

    def asked(
        self, task: Task, what: str, upstream: Upstream, start_ns: int, said: str, *, ok: bool
    ) -> None:
        root = spans.root_of(task, self._share)
        if root is not None:
            when, text = Timed(start_ns, self.now_ns()), self._words.clean(said, task.prompt)
            self._exporter.take(spans.of_question(task, root, what, upstream, when, text, ok=ok))

    def told(
        self, task: Task, hook: Hook, start_ns: int, status: int | None, fault: str | None
    ) -> None:
        """A webhook was tried; `fault`: the kind of trouble that left it without a status."""
        root = spans.root_of(task, self._share)
        if root is not None:
            when = Timed(start_ns, self.now_ns())
            self._exporter.take(spans.of_webhook(task, root, hook, when, status, fault))

    # ------------------------------------------------------------ what the store does

    def task_moved(self, before: Stage | None, task: Task, *, refused: bool = False) -> None:
        if not task.stage.is_final or (before is not None and before.is_final):
            return
        if spans.root_of(task, self._share) is None:
            return
        if len(self._ends) >= MOST_ENDS:
            self._tell_end(task, ())
            return
        job = asyncio.create_task(self._end(task), name=f"trace {task.id}")
        self._ends.add(job)
        job.add_done_callback(self._ends.discard)

    def round_trip(self, seconds: float, *, answered: bool) -> None:
        pass

    async def _end(self, task: Task) -> None:
        line: Sequence[Entry] = ()
        try:
            line = await self._time_line(task.id)
        except ProxyError:
            pass  # the store went away: the span says the rest
        finally:
            self._tell_end(task, line)

    def _tell_end(self, task: Task, line: Sequence[Entry]) -> None:
        root = spans.root_of(task, self._share)
        if root is not None:
            self._exporter.take(spans.of_task(task, root, line, self._words))

    @property
    def _words(self) -> Words:
        return Words(self._redactor())


class Both:
    """An observer for two."""

    def __init__(self, one: Observer, other: Observer) -> None:
        self._both = (one, other)

    def task_moved(self, before: Stage | None, task: Task, *, refused: bool = False) -> None:
        for observer in self._both:
            observer.task_moved(before, task, refused=refused)

    def round_trip(self, seconds: float, *, answered: bool) -> None:
        for observer in self._both:
            observer.round_trip(seconds, answered=answered)


def onward(exchange: Exchange, tracing: Tracing | None) -> Mapping[str, str]:
    """The headers of a client's request that an upstream hears as well."""
    return forwarded(exchange.head.headers) if tracing is None else tracing.onward(exchange)


def missing(settings: Settings) -> str | None:
    """What to install when tracing is on and its libraries are not there."""
    if settings.endpoint is None:
        return None
    try:
        found = find_spec(NEEDS) is not None
    except ModuleNotFoundError:
        found = False
    if found:
        return None
    return "nothing is traced, for OpenTelemetry is not installed: pip install 'reelway[otel]'"
