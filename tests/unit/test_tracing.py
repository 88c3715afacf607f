"""Which events are spans, and where they hang: alike in every worker, by what all of them know."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.errors import Unavailable, UpstreamUnreachable
from proxy.http.outbound import Outbound
from proxy.http.trace_context import TraceParent, handed_on, parse
from proxy.model import (
    Call,
    Kind,
    Operation,
    Principal,
    Stage,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
)
from proxy.providers.outcomes import Accepted, Outcome, Refused, Transient, Unknown
from proxy.store import LineEntry
from proxy.store.notice import Webhook
from proxy.telemetry.exchange import Exchange, Head
from proxy.telemetry.redaction import Redactor
from proxy.telemetry.spans import (
    MAX_CHARS,
    Interval,
    Sanitiser,
    Span,
    attempt_id,
    is_recorded_poll,
    is_recorded_request,
    of_query,
    of_request,
    of_submit,
    of_task,
    of_webhook,
    request_span_of,
    root_of,
    trace_id_of,
)
from proxy.telemetry.tracing import MOST_ENDS, SpanTracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, SPAN = PARENT[3:35], PARENT[36:52]
WHEN = Interval(1_000, 2_000)
TASK = Task(
    "video_1",
    "acme",
    "tok",
    "openai",
    Operation.CREATE,
    Kind.TEXT,
    "sora-2",
    created_ms=1_000,
    updated_ms=9_000,
    stage=Stage.COMPLETED,
    prompt="a red fox",
    upstream="up",
    attempt=1,
)
UPSTREAM = Upstream("up", "openai", "https://user.example:8443/v1", ())


def root(task: Task = TASK) -> TraceParent:
    found = root_of(task, 1.0)
    assert found is not None
    return found


# ---------------------------------------------------------------- the header


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        (PARENT, 1),
        (PARENT[:-2] + "00", 0),
        (PARENT[:-2] + "03", 3),
        (f" {PARENT} ", 1),
        ("cc" + PARENT[2:] + "-what-the-future-holds", 1),
    ],
)
def test_a_traceparent_is_read(header: str, flags: int) -> None:
    assert parse(header) == TraceParent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "00-a-b-01",
        PARENT.upper(),
        PARENT + "-more",
        PARENT + "0",
        "ff" + PARENT[2:],
        "cc" + PARENT[2:] + "more",
        PARENT.replace(TRACE, "0" * 32),
        PARENT.replace(SPAN, "0" * 16),
        f"{PARENT},{PARENT}",
        PARENT.replace("7", "７"),
    ],
)
def test_what_is_no_traceparent_is_none(header: str | None) -> None:
    assert parse(header) is None


def test_what_is_written_again_has_only_flags_that_we_know() -> None:
    came = parse(PARENT[:-2] + "ff")
    assert came is not None
    assert came.header() == PARENT[:-2] + "03"


def test_a_tracestate_goes_along_with_its_own_trace_only() -> None:
    ours = TraceParent(TRACE, "1" * 16)
    came = {"traceparent": PARENT, "tracestate": "k=v"}
    assert handed_on(came, ours) == {"traceparent": ours.header(), "tracestate": "k=v"}
    assert handed_on(came, replace(ours, trace_id="2" * 32)).keys() == {"traceparent"}
    assert handed_on({"tracestate": "k=v"}, ours).keys() == {"traceparent"}


# ---------------------------------------------------------------- ids


def test_every_worker_gives_a_task_the_same_trace_whatever_has_become_of_it() -> None:
    later = replace(TASK, stage=Stage.FAILED, attempt=3, version=9, updated_ms=1 << 40)
    assert root(later) == root() == TraceParent(trace_id_of("video_1"), root().span_id)
    assert root(replace(TASK, id="video_2")).trace_id != root().trace_id
    assert len({root().span_id, attempt_id("video_1", 1), attempt_id("video_1", 2)}) == 3


def test_these_ids_never_change() -> None:
    """Workers of two versions share a task; so what they make of its id is for ever."""
    assert (trace_id_of("video_1"), root().span_id, attempt_id("video_1", 1)) == IDS


IDS = ("f76f9c0600e54c701f8fe10e9346520c", "969548a91b4a63e7", "0ea2eebdc7bfbf7f")


def test_a_clients_trace_is_the_tasks_and_its_word_on_recording_holds() -> None:
    assert root(replace(TASK, trace=PARENT)) == TraceParent(TRACE, root().span_id)
    assert root_of(replace(TASK, trace=PARENT[:-1] + "0"), 1.0) is None
    assert root_of(replace(TASK, trace=PARENT), 0.0) is not None


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_of_the_other_traces_a_share_is_recorded(share: float) -> None:
    tasks = [replace(TASK, id=f"video_{number}") for number in range(4000)]
    recorded = sum(root_of(task, share) is not None for task in tasks)
    assert abs(recorded / 4000 - share) < 0.03


# ---------------------------------------------------------------- requests


def exchange(
    operation: Operation | None = Operation.CREATE,
    status: int = 200,
    method: str = "POST",
    headers: dict[str, str] | None = None,
    path: str = "/v1/videos",
) -> Exchange:
    head = Head(method, path, path, (), CIMultiDictProxy(CIMultiDict(headers or {})), "::1")
    made = Exchange("req_1", head, 0)
    made.call = None if operation is None else Call("openai", operation, {}, {})
    made.principal = Principal("tok", "acme", "name")
    made.status = status
    return made


@pytest.mark.parametrize(
    ("operation", "status", "method", "told"),
    [
        (Operation.CREATE, 200, "POST", True),
        (Operation.REMIX, 400, "POST", True),
        (Operation.DELETE, 200, "DELETE", True),
        (Operation.CONTENT, 200, "GET", True),
        (Operation.CONTENT, 206, "GET", True),
        (Operation.CONTENT, 304, "GET", False),
        (Operation.CONTENT, 200, "HEAD", False),
        (Operation.GET, 200, "GET", False),
        (Operation.GET, 404, "GET", False),
        (Operation.GET, 503, "GET", True),
        (Operation.LIST, 200, "GET", False),
        (Operation.EVENTS, 200, "GET", False),
        (None, 404, "GET", False),
        (None, 500, "GET", True),
    ],
)
def test_requests_that_belong_to_a_story_are_told(
    operation: Operation | None, status: int, method: str, told: bool
) -> None:
    assert is_recorded_request(exchange(operation, status, method)) is told


def test_nobody_without_a_key_fills_the_collector() -> None:
    stranger = exchange(status=401)
    stranger.principal = None
    assert not is_recorded_request(stranger)
    quote = exchange()
    quote.reason = "quoted"
    assert not is_recorded_request(quote)


def test_a_request_hangs_below_its_caller_within_one_trace_and_below_the_task_else() -> None:
    mine = exchange(headers={"traceparent": PARENT})
    mine.task = replace(TASK, trace=PARENT)
    seat = request_span_of(mine, 1.0)
    assert seat is not None
    assert (seat.at.trace_id, seat.parent_id, seat.link) == (TRACE, SPAN, None)
    mine.task = TASK
    seat = request_span_of(mine, 1.0)
    assert seat is not None
    assert (seat.at.trace_id, seat.parent_id) == (root().trace_id, root().span_id)
    assert seat.link == TraceParent(TRACE, SPAN)
    mine.task = None
    seat = request_span_of(mine, 0.0)
    assert seat is not None
    assert (seat.at.trace_id, seat.parent_id) == (TRACE, SPAN)


def test_a_request_of_no_trace_and_no_task_has_a_trace_of_its_own() -> None:
    seat = request_span_of(exchange(), 1.0)
    assert seat is not None
    assert (seat.at.trace_id, seat.parent_id) == (trace_id_of("req_1"), None)
    assert request_span_of(exchange(), 0.0) is None
    unwanted = exchange(headers={"traceparent": PARENT[:-1] + "0"})
    assert request_span_of(unwanted, 1.0) is None


def test_only_our_own_failures_are_errors() -> None:
    def told(status: int, reason: str) -> Span:
        made = exchange(status=status)
        made.reason = reason
        seat = request_span_of(made, 1.0)
        assert seat is not None
        return of_request(made, seat, WHEN, Sanitiser())

    assert told(400, "invalid").error is None
    assert told(503, "store_down").error == "store_down"
    assert told(503, "store_down").facts["error.type"] == "store_down"


def test_a_path_is_redacted_and_short() -> None:
    made = exchange(path="/v1/videos/rw_abcdefghijklmnop_SECRET" + "x" * 9000)
    seat = request_span_of(made, 1.0)
    assert seat is not None
    path = str(of_request(made, seat, WHEN, Sanitiser()).facts["url.path"])
    assert "SECRET" not in path
    assert len(path) <= MAX_CHARS


# ---------------------------------------------------------------- polls


def test_a_render_of_a_day_has_a_dozen_polls_in_its_trace() -> None:
    """2880 of them, every 30 s, that all fail; and as many that say what is known already."""
    task = replace(TASK, stage=Stage.IN_PROGRESS)
    silent = [is_recorded_poll(task, Transient("no answer"), n) for n in range(1, 2881)]
    assert sum(silent) == 12
    assert silent[:4] == [True, True, False, True]
    assert not is_recorded_poll(task, TaskState(Status.IN_PROGRESS, progress=7), 1)
    assert is_recorded_poll(task, TaskState(Status.COMPLETED), 1)


# ---------------------------------------------------------------- what is said


def test_what_others_wrote_loses_prompts_queries_and_signatures() -> None:
    words = Sanitiser(Redactor(["topsecret-topsecret"]))
    said = "asked for a red fox at https://cdn.example/v.mp4?X-Sig=abc&u=1, topsecret-topsecret"
    told = words.clean(said, "a red fox")
    assert told == "asked for (prompt) at https://cdn.example/v.mp4 (hidden)"


def test_a_task_that_its_owner_cancelled_is_no_error() -> None:
    def ended(code: str) -> Span:
        task = replace(TASK, stage=Stage.FAILED, error=TaskError(code, "a red fox", "E1"))
        line = [LineEntry(2_000, 1, Stage.SENT, 1, "sent a red fox to up/k")]
        return of_task(task, root(), line, Sanitiser())

    assert ended("cancelled").error is None
    failed = ended("timeout")
    assert (failed.error, failed.facts["error.type"]) == ("timeout", "timeout")
    assert (failed.start_ns, failed.end_ns) == (1_000_000_000, 9_000_000_000)
    assert [(m.name, m.ns) for m in failed.events] == [("sent", 2_000_000_000)]
    assert "fox" not in str((failed.facts, failed.events))


@pytest.mark.parametrize(
    ("outcome", "status", "said", "error"),
    [
        (Accepted("up_1"), 200, "accepted", None),
        (Unknown("cut at https://x/?key=1"), None, "unknown", "unknown"),
        (
            Refused(UpstreamUnreachable("nobody there"), elsewhere=True),
            None,
            "refused",
            UpstreamUnreachable("").code,
        ),
    ],
)
def test_an_attempt_says_who_was_asked_and_what_came_of_it(
    outcome: Outcome, status: int | None, said: str, error: str | None
) -> None:
    sent = Outbound("POST", "https://api.example/v1/videos?key=secret", length=7)
    span = of_submit(TASK, root(), sent, WHEN, status, outcome)
    assert span.at == root().child(attempt_id("video_1", 1))
    assert (span.parent_id, span.error, span.kind) == (root().span_id, error, "client")
    assert (span.facts["reelway.outcome"], span.facts["url.path"]) == (said, "/v1/videos")
    assert (span.facts["server.address"], span.facts["server.port"]) == ("api.example", 443)
    assert "secret" not in str(span.facts)
    assert "key=" not in str(span.facts)


def test_a_question_and_a_webhook_are_known_by_host_alone() -> None:
    asked = of_query(TASK, root(), "poll", UPSTREAM, WHEN, "completed", ok=True)
    assert (asked.facts["server.address"], asked.facts["server.port"]) == ("user.example", 8443)
    hook = Webhook(
        "h", "video_1", "tok", "openai", "https://hooks.example/T0/B0/xyz", Status.COMPLETED, 1
    )
    told = of_webhook(TASK, root(), hook, WHEN, 500, None)
    assert (told.error, told.facts["server.address"]) == ("500", "hooks.example")
    assert "xyz" not in str(told.facts)
    bad = of_webhook(TASK, root(), replace(hook, url="http://[::"), WHEN, None, "NotSent")
    assert bad.error == "NotSent"


# ---------------------------------------------------------------- an end, told when it is over


@dataclass
class Kept:
    spans: list[Span] = field(default_factory=list)

    def take(self, span: Span) -> None:
        self.spans.append(span)


LINE = (LineEntry(1_000, 1, Stage.RESERVED, 0, "reserved"),)


async def test_an_end_is_told_once_by_whoever_wrote_it() -> None:
    kept = Kept()
    tracing = SpanTracer(kept, lambda _id: asyncio.sleep(0, LINE), 1.0, Redactor, lambda: 1.0)
    tracing.task_moved(None, replace(TASK, stage=Stage.RESERVED))
    tracing.task_moved(Stage.RESERVED, replace(TASK, stage=Stage.SENT))
    tracing.task_moved(Stage.IN_PROGRESS, TASK)
    tracing.task_moved(Stage.COMPLETED, replace(TASK, deleted=True))
    await tracing.aclose()
    [span] = kept.spans
    assert [event.name for event in span.events] == ["reserved"]


async def test_an_end_is_told_without_its_time_line_when_the_store_has_gone() -> None:
    async def gone(_task_id: str) -> tuple[LineEntry, ...]:
        raise Unavailable("the store does not answer")

    kept = Kept()
    tracing = SpanTracer(kept, gone, 1.0, Redactor, lambda: 1.0)
    tracing.task_moved(Stage.IN_PROGRESS, TASK)
    await tracing.aclose()
    assert [span.events for span in kept.spans] == [()]


async def test_ends_that_wait_for_a_store_that_hangs_are_bounded_and_none_is_lost() -> None:
    async def hangs(_task_id: str) -> tuple[LineEntry, ...]:
        await asyncio.Event().wait()
        return ()

    kept = Kept()
    tracing = SpanTracer(kept, hangs, 1.0, Redactor, lambda: 1.0)
    for _ in range(MOST_ENDS + 5):
        tracing.task_moved(Stage.IN_PROGRESS, TASK)
    assert len(kept.spans) == 5
    await tracing.aclose()
    assert len(kept.spans) == MOST_ENDS + 5
