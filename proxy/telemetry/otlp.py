"""Spans to a collector, by OTLP over HTTP: the only file that knows OpenTelemetry.

It is imported where tracing is on, and nowhere else: its libraries are the extra `otel`. The SDK
has the queue (bounded: the oldest spans go) and a thread that sends batches and tries again; its
own variables OTEL_EXPORTER_OTLP_* and OTEL_BSP_* hold.

Rule: a trace never costs a render. Nothing here raises, and nothing waits longer than `FLUSH_S`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from proxy import __version__
from proxy.telemetry.explain import cause_of
from proxy.telemetry.spans import Facts, Span

FLUSH_S: Final = 3.0
QUIET_S: Final = 60.0  # between two warnings
ANSWER_S: Final = 5.0
LONG: Final = 300
_PATH: Final = "/v1/traces"
_KINDS: Final = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
}


class _GivenIds(IdGenerator):
    """The ids of the span that is made next; its maker has set them."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class OtlpExporter:
    """`endpoint` is the collector's base URL. `warn(why)` is called on the loop, now and then.
    Make it in a running loop."""

    def __init__(
        self, endpoint: str, service_name: str, instance: str, warn: Callable[[str], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._messages = _SdkMessages(self._loop, warn, endpoint)
        _sdk_logger().addHandler(self._messages)
        self._ids = _GivenIds()
        self._sender = OTLPSpanExporter(endpoint=traces_url(endpoint))
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,  # what is not to be recorded does not come here
            resource=Resource.create(
                {
                    "service.name": service_name,
                    "service.version": __version__,
                    "service.instance.id": instance,
                }
            ),
            shutdown_on_exit=False,  # `aclose` does it, and for a bounded time
            id_generator=self._ids,
        )
        self._provider.add_span_processor(BatchSpanProcessor(self._sender))
        self._tracer = self._provider.get_tracer("reelway", __version__)

    def take(self, span: Span) -> None:
        try:
            self._take(span)
        except Exception as fault:  # noqa: BLE001 -- see the rule; a library's own mistakes too
            self._messages.say(f"a span was dropped: {type(fault).__name__}: {fault}")

    def _take(self, span: Span) -> None:
        self._ids.trace_id = int(span.at.trace_id, 16)
        self._ids.span_id = int(span.at.span_id, 16)
        context = Context()
        if span.parent_id is not None:
            parent = NonRecordingSpan(_context_of(span.at.trace_id, span.parent_id))
            context = set_span_in_context(parent, context)
        link = span.link
        made = self._tracer.start_span(
            span.name,
            context=context,
            kind=_KINDS[span.kind],
            attributes=_attributes(span.facts),
            links=[] if link is None else [Link(_context_of(link.trace_id, link.span_id))],
            start_time=span.start_ns,
        )
        for event in span.events:
            made.add_event(event.name, _attributes(event.facts), event.ns)
        if span.error is not None:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(span.end_ns)

    async def aclose(self) -> None:
        """A collector that hangs has its thread to itself from then on; it ends with us."""
        done = asyncio.Event()

        def shut_down() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop did not wait for it
                self._loop.call_soon_threadsafe(done.set)

        threading.Thread(target=shut_down, name="last spans", daemon=True).start()
        try:
            async with asyncio.timeout(FLUSH_S):
                await done.wait()
        except TimeoutError:
            self._messages.say("the last spans were not taken in time", always=True)
            await asyncio.sleep(0)  # said while there is still a log
        _sdk_logger().removeHandler(self._messages)


def check_collector(endpoint: str) -> str | None:
    """Check that a collector takes spans there: None, or why not. Blocks for up to `ANSWER_S`."""
    messages: list[str] = []
    handler = _MessageList(messages, endpoint)
    _sdk_logger().addHandler(handler)
    sender = OTLPSpanExporter(endpoint=traces_url(endpoint), timeout=ANSWER_S)
    try:
        taken = sender.export([])
    finally:
        sender.shutdown()  # type: ignore[no-untyped-call]  # the exporter's own
        _sdk_logger().removeHandler(handler)
    return None if taken.name == "SUCCESS" else next(iter(messages), "no answer")


def traces_url(endpoint: str) -> str:
    """Where spans go: below the collector's base URL, as OTEL_EXPORTER_OTLP_ENDPOINT has it."""
    return endpoint if endpoint.endswith(_PATH) else endpoint + _PATH


class _SdkMessages(logging.Handler):
    """Turn the SDK's own log records, mostly from its thread, into a warning now and then."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, warn: Callable[[str], None], endpoint: str
    ) -> None:
        super().__init__(logging.WARNING)
        self._loop = loop
        self._endpoint = endpoint
        self._warn = warn
        self._quiet_until_s = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        self.say(_in_our_words(record, self._endpoint))

    def say(self, why: str, *, always: bool = False) -> None:
        now_s = time.monotonic()
        if not always and now_s < self._quiet_until_s:
            return
        self._quiet_until_s = now_s + QUIET_S
        with suppress(RuntimeError):  # the loop is gone
            self._loop.call_soon_threadsafe(self._warn, why)


class _MessageList(logging.Handler):
    def __init__(self, messages: list[str], endpoint: str) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages
        self._endpoint = endpoint

    def emit(self, record: logging.LogRecord) -> None:
        self._messages.append(_in_our_words(record, self._endpoint))


def _in_our_words(record: logging.LogRecord, endpoint: str) -> str:
    """A record of the exporter in plain words. Its arguments have the exception or the status;
    its own text names retries and library classes."""
    facts = record.args if isinstance(record.args, tuple) else ()
    for fact in facts:
        if isinstance(fact, BaseException):
            return f"the collector at {endpoint} does not answer: {cause_of(fact)}"
    for fact in facts:
        if isinstance(fact, int) and 100 <= fact < 600:
            return f"the collector at {endpoint} answers {fact}"
    return f"the collector at {endpoint}: {record.getMessage()}"[:LONG]


def _sdk_logger() -> logging.Logger:
    """The SDK's own logger, with our handlers alone."""
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger


def _context_of(trace_id: str, span_id: str) -> SpanContext:
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(1)
    )


def _attributes(facts: Facts) -> dict[str, str | int | float | bool]:
    """The facts without those that are None. One text that is not UTF-8 would lose its batch."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in facts.items()
        if value is not None
    }
