"""A task whose upstream has lost it ends by a budget of time and of answers, never by one 404."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.model import Kind, Operation, Stage, Status, Task, TaskState, Upstream
from proxy.providers import PROVIDERS
from proxy.providers.openai import OpenAIOptions
from proxy.providers.outcomes import TransientKind
from proxy.tasks.lifecycle import (
    Silence,
    advanced,
    ended_by_operator,
    is_silence,
    loss_due_ms,
    loss_of,
    silent,
)
from proxy.tasks.schedule import Schedule

T0 = 1_790_000_000_000
SCHEDULE = Schedule(2_000, 5_000, 30_000, 70_000, 600_000, 300_000, 3_600_000)


def task(**more: object) -> Task:
    made = Task(
        id="video_1",
        owner="acme",
        token_id="tok",
        dialect="openai",
        operation=Operation.CREATE,
        kind=Kind.TEXT,
        model="m",
        created_ms=T0,
        updated_ms=T0,
        sent_ms=T0,
        bound_ms=T0,
        upstream_id="up_1",
        stage=Stage.QUEUED,
        version=3,
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("after_s", "answers", "has_replicas", "how"),
    [
        # Replicas: three answers and five minutes; either alone is not enough.
        (300, 3, True, "forgotten"),
        (299, 50, True, None),
        (4000, 1, True, None),
        (4000, 2, True, None),
        # One server: two answers, ten seconds apart.
        (10, 2, False, "forgotten"),
        (9, 50, False, None),
        (4000, 1, False, None),
    ],
)
def test_it_takes_both_time_and_answers_that_do_not_know_it(
    after_s: int, answers: int, has_replicas: bool, how: str | None
) -> None:
    since = T0 + 80_000  # later than a submit may still be on its way
    missing = task(silent_ms=since, missing_ms=since)
    said = Silence(min(answers, 2), answers)
    now_ms = since + after_s * 1000
    assert loss_of(missing, said, now_ms, SCHEDULE, has_replicas=has_replicas) == how


def test_a_single_server_is_not_believed_before_the_submit_has_settled() -> None:
    missing = task(silent_ms=T0 + 1000, missing_ms=T0 + 1000)
    ends_ms = loss_due_ms(missing, SCHEDULE, has_replicas=False)
    assert ends_ms == T0 + SCHEDULE.settle_ms
    early = loss_of(missing, Silence(9, 9), ends_ms - 1, SCHEDULE, has_replicas=False)
    late = loss_of(missing, Silence(9, 9), ends_ms, SCHEDULE, has_replicas=False)
    assert (early, late) == (None, "forgotten")


@pytest.mark.parametrize(
    ("after_s", "answers", "how"),
    [(3600, 3, "silent"), (3599, 99, None), (9000, 2, None)],
)
def test_an_upstream_that_says_nothing_loses_its_tasks_in_the_end(
    after_s: int, answers: int, how: str | None
) -> None:
    quiet = task(silent_ms=T0)
    now_ms = T0 + after_s * 1000
    assert loss_of(quiet, Silence(answers, 0), now_ms, SCHEDULE, has_replicas=True) == how


def test_what_has_ended_or_was_never_bound_is_not_lost() -> None:
    for other in (task(stage=Stage.COMPLETED), task(upstream_id=None)):
        gone = replace(other, silent_ms=T0, missing_ms=T0)
        assert loss_of(gone, Silence(9, 9), T0 + 10**9, SCHEDULE, has_replicas=False) is None


def test_only_the_beginning_of_a_silence_is_written() -> None:
    first = silent(task(), "no_answer", T0 + 5)
    assert first is not None
    assert (first.silent_ms, first.missing_ms, first.version) == (T0 + 5, None, 4)
    assert silent(first, "http_5xx", T0 + 9) is None
    second = silent(first, "not_found", T0 + 9)
    assert second is not None
    assert (second.silent_ms, second.missing_ms) == (T0 + 5, T0 + 9)
    assert silent(second, "not_found", T0 + 20) is None


@pytest.mark.parametrize("kind", ["rate_limited", "credential_refused", "not_configured"])
def test_a_refusal_of_our_key_or_rate_says_nothing_against_the_task(kind: TransientKind) -> None:
    assert not is_silence(kind)
    assert silent(task(), kind, T0) is None


def test_an_answer_that_speaks_of_the_task_ends_its_silence() -> None:
    quiet = task(silent_ms=T0, missing_ms=T0)
    heard = advanced(quiet, TaskState(Status.QUEUED), T0 + 9)
    assert heard is not None
    assert (heard.silent_ms, heard.missing_ms, heard.version) == (None, None, 4)
    assert advanced(heard, TaskState(Status.QUEUED), T0 + 10) is None, "nothing new"


@pytest.mark.parametrize(
    ("provider", "server", "expected"),
    [
        ("openai", "openai", True),
        ("openai", "azure", True),
        ("openai", "vllm-omni", False),
        ("openai", "sglang", False),
        ("kling", None, True),
        ("jimeng", None, True),
    ],
)
def test_which_upstreams_may_answer_from_a_replica(
    provider: str, server: str | None, expected: bool
) -> None:
    options = None if server is None else OpenAIOptions.model_validate({"server": server})
    upstream = Upstream("u", provider, "http://u", (), options=options)
    assert PROVIDERS[provider].has_replicas(upstream) is expected


@pytest.mark.parametrize(
    ("options", "model", "stops"),
    [
        ({"server": "vllm-omni"}, "Wan-AI/Wan2.2", True),
        ({"server": "vllm-omni", "version": "0.30.0"}, "Wan-AI/Wan2.2", True),
        ({"server": "vllm-omni", "version": "1.0"}, "Wan-AI/Wan2.2", True),
        ({"server": "vllm-omni", "version": "0.28.1"}, "Wan-AI/Wan2.2", False),
        ({"server": "vllm-omni"}, "MiniMaxAI/MiniMax-H3", False),
        ({"server": "sglang"}, "Wan-AI/Wan2.2", False),
        ({"server": "openai"}, "sora-2", False),
        ({"server": "azure"}, "sora-2", False),
    ],
)
def test_a_delete_is_sent_only_where_it_stops_the_render(
    options: dict[str, str], model: str, stops: bool
) -> None:
    upstream = Upstream(
        "u", "openai", "http://u", (), options=OpenAIOptions.model_validate(options)
    )
    draft = PROVIDERS["openai"].cancel(task(upstream_model=model), upstream)
    assert (draft is not None) is stops


@pytest.mark.parametrize("provider", ["kling", "jimeng"])
def test_a_provider_without_a_cancel_is_not_asked(provider: str) -> None:
    upstream = Upstream("u", provider, "http://u", ())
    assert PROVIDERS[provider].cancel(task(), upstream) is None
    assert PROVIDERS[provider].cancelled(task(), upstream, 200, {}, b"") == "will_finish"


def test_the_operator_s_reason_is_one_short_line() -> None:
    assert ended_by_operator("") == "ended by the operator"
    assert ended_by_operator("a\x1b[31m\n b") == "ended by the operator: a [31m b"
    assert len(ended_by_operator("x" * 900)) < 240


@pytest.mark.parametrize(
    ("status", "headers", "became"),
    [
        (200, {"reelway-cancel": "stopped"}, "stopped"),
        (200, {"reelway-cancel": "will_finish"}, "will_finish"),
        (200, {"reelway-cancel": "unknown"}, "unknown"),
        (200, {}, "unknown"),
        (409, {}, "will_finish"),
        (404, {}, "unknown"),
        (500, {"reelway-cancel": "stopped"}, "unknown"),
    ],
)
def test_another_reelway_is_believed_in_what_it_says_of_a_cancel(
    status: int, headers: dict[str, str], became: str
) -> None:
    upstream = Upstream("u", "openai", "http://u", (), options=OpenAIOptions(server="reelway"))
    draft = PROVIDERS["openai"].cancel(task(), upstream)
    assert draft is not None
    assert draft.headers["reelway-cancel"] == "only-stop"
    assert PROVIDERS["openai"].cancelled(task(), upstream, status, headers, b"") == became
