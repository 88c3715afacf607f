"""Spans of requests and tasks: which events become one, their parents and attributes. Pure.

Rule: every id follows from what all workers know. A task's trace id is its client's, else a hash
of the task's id; the id of the task's own span is a hash of the task's id. So a worker that polls
a task can name the parent span, which another worker exports hours later, and no span is kept
open in between.

Rule: no prompt, key, signature or query string gets into a span. Text from others passes the
redactor.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

from proxy.http.headers import forwarded
from proxy.http.outbound import Outbound
from proxy.http.trace_context import TraceParent, parse
from proxy.model import Operation, Stage, Task, TaskState, Upstream
from proxy.providers.outcomes import Accepted, Outcome, Refused, Transient
from proxy.store.notice import Webhook
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.redaction import Redactor

MAX_CHARS: Final = 200  # of a path, or of a text from others
MS: Final = 1_000_000  # nanoseconds
_QUERY: Final = re.compile(r"(\w+://[^\s?\"'<>]*)\?[^\s\"'<>]*")
_OWNERS_WORD: Final = "cancelled"  # its owner ended it: that is no error

Kind = Literal["internal", "server", "client"]
Facts: TypeAlias = Mapping[str, str | int | float | bool | None]


class TimelineEntry(Protocol):
    """One line of a task's time line (`store.codec.LineEntry`)."""

    @property
    def ms(self) -> int: ...
    @property
    def stage(self) -> Stage: ...
    @property
    def attempt(self) -> int: ...
    @property
    def event(self) -> str: ...


@dataclass(frozen=True, slots=True)
class SpanEvent:
    """An event within a span, at `ns` since the epoch."""

    name: str
    ns: int
    facts: Facts


@dataclass(frozen=True, slots=True)
class Span:
    """One span as it is exported. Times are nanoseconds since the epoch. `error` is None after
    success, and when the owner ended it. `facts` that are None are left out."""

    name: str
    at: TraceParent
    parent_id: str | None
    start_ns: int
    end_ns: int
    facts: Facts
    kind: Kind = "internal"
    events: tuple[SpanEvent, ...] = ()
    link: TraceParent | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """The place of a client's request in a trace. `link` is the caller's span in another trace."""

    at: TraceParent
    parent_id: str | None
    link: TraceParent | None = None


@dataclass(frozen=True, slots=True)
class Interval:
    """Start and end, in nanoseconds since the epoch."""

    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Sanitiser:
    """Clean text from others: no secrets, prompts or query strings, at most `MAX_CHARS`."""

    redactor: Redactor = field(default_factory=Redactor)

    def clean(self, text: str, prompt: str | None = None) -> str:
        text = _QUERY.sub(r"\1", self.redactor.text(text, [prompt] if prompt else ()))
        return text[:MAX_CHARS]


# ---------------------------------------------------------------- ids


def _made(digits: int, *parts: object) -> str:
    return sha256("\0".join(map(str, ("reelway", *parts))).encode()).hexdigest()[:digits]


def trace_id_of(name: str) -> str:
    """The trace id of a task, or of a request without a task, when no client has begun a trace."""
    return _made(32, "trace", name)


def root_of(task: Task, share: float) -> TraceParent | None:
    """The task's own span; None if its trace is not recorded. A trace that the client has begun
    follows the client's sampled flag; of the others a `share` (0 to 1) is recorded."""
    began = parse(task.trace)
    span_id = _made(16, "task", task.id)
    if began is not None:
        return began.child(span_id) if began.is_sampled else None
    trace_id = trace_id_of(task.id)
    return TraceParent(trace_id, span_id) if _is_chosen(trace_id, share) else None


def attempt_id(task_id: str, attempt: int) -> str:
    """The span id of a task's nth attempt to submit it."""
    return _made(16, "attempt", task_id, attempt)


def _is_chosen(trace_id: str, share: float) -> bool:
    return int(trace_id[16:], 16) < share * 2.0**64


def request_span_of(exchange: Exchange, share: float) -> RequestSpan | None:
    """A request's place: in its task's trace, else in the caller's; None if not recorded."""
    came = parse(forwarded(exchange.head.headers).get("traceparent"))
    span_id = _made(16, "request", exchange.id)
    if exchange.task is not None:
        root = root_of(exchange.task, share)
        if root is None:
            return None
        if came is not None and came.trace_id == root.trace_id:
            return RequestSpan(root.child(span_id), came.span_id)
        link = came if came is not None and came.is_sampled else None
        return RequestSpan(root.child(span_id), root.span_id, link)
    if came is not None:
        return RequestSpan(came.child(span_id), came.span_id) if came.is_sampled else None
    trace_id = trace_id_of(exchange.id)
    return (
        RequestSpan(TraceParent(trace_id, span_id), None) if _is_chosen(trace_id, share) else None
    )


# ---------------------------------------------------------------- clients' requests


def is_recorded_request(exchange: Exchange) -> bool:
    """Whether a client's request becomes a span: it submits or ends a task or fetches its video,
    with a valid key; or it failed here. A status poll does not."""
    if exchange.status >= 500:
        return True
    if exchange.call is None or (exchange.principal is None and exchange.task is None):
        return False
    operation = exchange.call.operation
    if operation is Operation.CONTENT:
        return exchange.status in (200, 206) and exchange.head.method != "HEAD"
    if operation.is_submit:
        return exchange.reason != "quoted"
    return operation is Operation.DELETE


def of_request(
    exchange: Exchange, place: RequestSpan, when: Interval, sanitiser: Sanitiser
) -> Span:
    call, task, principal = exchange.call, exchange.task, exchange.principal
    operation = "request" if call is None else call.operation.value
    failed = exchange.status >= 500
    facts: Facts = {
        "http.request.method": exchange.head.method,
        "http.response.status_code": exchange.status or None,
        "url.path": sanitiser.clean(exchange.head.path),
        "error.type": exchange.reason or str(exchange.status) if failed else None,
        "reelway.request.id": exchange.id,
        "reelway.reason": exchange.reason or "done",
        "reelway.dialect": None if call is None else call.dialect,
        "reelway.operation": None if call is None else operation,
        "reelway.task.id": exchange.task_id if task is None else task.id,
        "reelway.route": exchange.route,
        "reelway.upstream": exchange.upstream,
        "reelway.credential": exchange.credential,
        "reelway.token.id": None if principal is None else principal.token_id,
        "reelway.owner": None if principal is None else principal.owner,
        "reelway.auth_ms": _ms(exchange.auth_ns),
        "reelway.body_ms": _ms(exchange.body_ns),
        "reelway.upstream_ms": _ms(exchange.upstream_ns),
        "reelway.relay.tier": exchange.tier or None,
        "http.response.body.size": exchange.bytes_out or None,
    }
    return Span(
        f"{exchange.head.method} {operation}",
        place.at,
        place.parent_id,
        when.start_ns,
        when.end_ns,
        facts,
        kind="server",
        link=place.link,
        error=exchange.reason if failed else None,
    )


def _ms(ns: int) -> float | None:
    return ns / MS if ns else None


# ---------------------------------------------------------------- a task


def of_task(
    task: Task, root: TraceParent, line: Sequence[TimelineEntry], sanitiser: Sanitiser
) -> Span:
    """The span of a task that has ended, with its time line as events."""
    began = parse(task.trace)
    end_ms = max(task.completed_ms or task.updated_ms, task.created_ms)
    error = task.error
    facts: Facts = {
        **_about(task),
        "reelway.stage": task.stage.value,
        "reelway.operation": task.operation.value,
        "reelway.dialect": task.dialect,
        "reelway.model": task.model,
        "reelway.route": task.route or None,
        "reelway.provider": task.provider or None,
        "reelway.upstream_model": task.upstream_model or None,
        "reelway.upstream_task.id": task.upstream_id,
        "reelway.attempts": task.attempt,
        "reelway.results": len(task.results),
        "reelway.seconds": task.seconds,
        "reelway.size": None if task.size is None else f"{task.size[0]}x{task.size[1]}",
        "reelway.token.id": task.token_id,
        "reelway.owner": task.owner,
        "error.type": None if error is None else error.code,
        "reelway.provider_code": (
            sanitiser.clean(error.provider_code, task.prompt)
            if error is not None and error.provider_code
            else None
        ),
    }
    events = tuple(
        SpanEvent(
            entry.stage.value,
            entry.ms * MS,
            {"reelway.event": sanitiser.clean(entry.event, task.prompt)},
        )
        for entry in line
    )
    return Span(
        f"task {task.operation.value}",
        root,
        None if began is None else began.span_id,
        task.created_ms * MS,
        end_ms * MS,
        facts,
        events=events,
        error=error.code if error is not None and error.code != _OWNERS_WORD else None,
    )


def _about(task: Task) -> Facts:
    return {
        "reelway.task.id": task.id,
        "reelway.upstream": task.upstream or None,
        "reelway.credential": task.credential or None,
    }


# ---------------------------------------------------------------- calls of ours


def of_submit(
    task: Task,
    root: TraceParent,
    outbound: Outbound,
    when: Interval,
    status: int | None,
    outcome: Outcome,
) -> Span:
    """The span of one attempt to submit a task. `status` is None without an answer."""
    refused = outcome.error.code if isinstance(outcome, Refused) else None
    said = "accepted" if isinstance(outcome, Accepted) else "refused" if refused else "unknown"
    fault = refused or ("unknown" if said == "unknown" else None)
    return Span(
        "submit",
        root.child(attempt_id(task.id, task.attempt)),
        root.span_id,
        when.start_ns,
        when.end_ns,
        {
            **_about(task),
            **_server(outbound.url),
            "url.path": urlsplit(outbound.url).path[:MAX_CHARS],
            "http.request.method": outbound.method,
            "http.request.body.size": outbound.length,
            "http.response.status_code": status,
            "reelway.attempt": task.attempt,
            "reelway.outcome": said,
            "error.type": fault,
        },
        kind="client",
        error=fault,
    )


def is_recorded_poll(task: Task, said: TaskState | Transient, failures: int) -> bool:
    """Whether a poll becomes a span: it moved the task's status, or it was inconclusive. Of
    inconclusive polls in a row the first, second, fourth, eighth … count, so a render of a day
    has a dozen spans, not thousands."""
    if isinstance(said, TaskState):
        return said.status is not task.status
    return failures & (failures - 1) == 0


def of_query(
    task: Task,
    root: TraceParent,
    what: str,
    upstream: Upstream,
    when: Interval,
    said: str,
    *,
    ok: bool,
) -> Span:
    """The span of a question to the provider about a task: `poll` or `find`."""
    return Span(
        what,
        root.child(_made(16, what, task.id, when.start_ns)),
        root.span_id,
        when.start_ns,
        when.end_ns,
        {
            **_about(task),
            **_server(upstream.base_url),
            "reelway.provider": upstream.provider,
            "reelway.said": said,
            "error.type": None if ok else "no_answer",
        },
        kind="client",
        error=None if ok else "no_answer",
    )


def of_webhook(
    task: Task,
    root: TraceParent,
    hook: Webhook,
    when: Interval,
    status: int | None,
    fault: str | None,
) -> Span:
    """The span of one webhook attempt. It has only the host of the address: the paths of
    webhook addresses are often secrets."""
    if status is not None and not 200 <= status < 300:
        fault = str(status)
    return Span(
        "webhook",
        root.child(_made(16, "webhook", hook.name, hook.attempts, when.start_ns)),
        root.span_id,
        when.start_ns,
        when.end_ns,
        {
            "reelway.task.id": task.id,
            **_server(hook.url),
            "http.request.method": "POST",
            "http.response.status_code": status,
            "reelway.webhook.status": hook.status.value,
            "reelway.webhook.attempt": hook.attempts + 1,
            "error.type": fault,
        },
        kind="client",
        error=fault,
    )


def _server(url: str) -> Facts:
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:  # a client's webhook address that cannot be called either
        return {}
    return {"server.address": parts.hostname, "server.port": port}
