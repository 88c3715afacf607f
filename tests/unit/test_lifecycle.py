"""The task's state machine: only forward, only once, whatever an upstream says."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.outbound import Adjustment, Draft, Rendered
from proxy.model import (
    Credential,
    DialectName,
    Kind,
    Operation,
    Result,
    Stage,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
    submit_key,
)
from proxy.providers.outcomes import Accepted
from proxy.store.notice import notice_of
from proxy.tasks.lifecycle import (
    RESULT_LIFE_MS,
    advanced,
    bound,
    estimated_progress,
    expiry_text,
    failed,
    noted,
    refreshed,
    removed,
    sent,
    unconfirmed,
)
from proxy.tasks.schedule import (
    Schedule,
    asking_pause_ms,
    is_overdue,
    is_settled,
    next_poll_ms,
    unconfirmed_due_ms,
)

T0 = 1_790_000_000_000
NOW = T0 + 5_000
SCHEDULE = Schedule(
    first_ms=2_000,
    interval_ms=5_000,
    max_ms=30_000,
    settle_ms=70_000,
    confirm_ms=600_000,
)
ORDER = list(Stage)
POLLED = (Stage.BOUND, Stage.QUEUED, Stage.IN_PROGRESS)
FINAL = (Stage.COMPLETED, Stage.FAILED)
BROKEN = TaskError("upstream_error", "It broke.")


def task(stage: Stage = Stage.RESERVED, **more: object) -> Task:
    made = Task(
        id="video_1",
        owner="acme",
        token_id="tok",
        dialect="openai",
        operation=Operation.CREATE,
        kind=Kind.TEXT,
        model="sora-2",
        created_ms=T0,
        updated_ms=T0,
        stage=stage,
        version=3,
    )
    return replace(made, **more)  # type: ignore[arg-type]  # fields by name


# ---------------------------------------------------------------- a submit


def test_an_attempt_notes_all_that_is_needed_to_find_the_job_again() -> None:
    upstream = Upstream("u", "kling", "https://k", (Credential("a"),))
    draft = Draft(
        "POST",
        "/v1/videos",
        handle={"kind": "text2video"},
        adjusted=(Adjustment("seconds", "8", "10"),),
        dropped=("fps",),
    )
    first = sent(
        task(), NOW, upstream, upstream.credentials[0], "kling-v2-6", draft, Rendered(10.0, (1, 2))
    )
    assert (first.stage, first.attempt, first.version) == (Stage.SENT, 1, 4)
    assert (first.upstream, first.provider, first.credential) == ("u", "kling", "a")
    assert (first.upstream_model, first.handle) == ("kling-v2-6", {"kind": "text2video"})
    assert (first.adjusted, first.dropped) == (("seconds=8>10",), ("fps",))
    assert (first.seconds, first.size, first.updated_ms) == (10.0, (1, 2), NOW)
    second = sent(
        first, NOW, upstream, upstream.credentials[0], "m", Draft("POST", "/"), Rendered()
    )
    assert (second.stage, second.attempt, second.version) == (Stage.SENT, 2, 5)
    assert (second.adjusted, second.seconds) == ((), None)  # nothing is left of attempt 1


@pytest.mark.parametrize("stage", [s for s in Stage if s not in (Stage.RESERVED, Stage.SENT)])
def test_a_task_the_upstream_has_is_never_sent_again(stage: Stage) -> None:
    upstream = Upstream("u", "kling", "https://k", (Credential("a"),))
    with pytest.raises(AssertionError):
        sent(task(stage), NOW, upstream, Credential("a"), "m", Draft("POST", "/"), Rendered())


@pytest.mark.parametrize("stage", [s for s in Stage if s is not Stage.SENT])
def test_only_a_sent_task_is_bound(stage: Stage) -> None:
    with pytest.raises(AssertionError):
        bound(task(stage), Accepted("up-1"), NOW)


@pytest.mark.parametrize(
    ("told", "stage", "progress"),
    [
        (None, Stage.BOUND, 0),
        (TaskState(Status.QUEUED), Stage.QUEUED, 0),
        (TaskState(Status.IN_PROGRESS, 7), Stage.IN_PROGRESS, 7),
        (TaskState(Status.COMPLETED, 100, (Result("https://r"),)), Stage.COMPLETED, 100),
        (TaskState(Status.FAILED, error=BROKEN), Stage.FAILED, 0),
    ],
)
def test_binding_takes_in_what_the_upstream_says_at_once(
    told: TaskState | None, stage: Stage, progress: int
) -> None:
    """One version on, also where two things happened."""
    named = bound(task(Stage.SENT, handle={"a": "1"}), Accepted("up-1", told, {"b": "2"}), NOW)
    assert (named.upstream_id, named.stage, named.progress) == ("up-1", stage, progress)
    assert named.handle == {"a": "1", "b": "2"}
    assert (named.version, named.updated_ms, named.bound_ms) == (4, NOW, NOW)


# ---------------------------------------------------------------- polls


@pytest.mark.parametrize(("before", "status"), list(itertools.product(POLLED, Status)))
def test_a_stage_moves_forward_only(before: Stage, status: Status) -> None:
    moved = advanced(task(before), TaskState(status), NOW)
    after = before if moved is None else moved.stage
    wanted = max(before, Stage(status.value), key=ORDER.index)
    assert after is wanted


@pytest.mark.parametrize(("before", "status"), list(itertools.product(FINAL, Status)))
def test_a_finished_task_never_changes(before: Stage, status: Status) -> None:
    assert advanced(task(before), TaskState(status, 50, native={"x": 1}), NOW) is None
    assert failed(task(before), BROKEN, NOW) is None


@pytest.mark.parametrize(
    ("before", "said", "after"),
    [
        (0, None, 0),
        (0, 40, 40),
        (40, 20, 40),  # never back
        (40, None, 40),
        (40, 0, 40),
        (40, 41, 41),
        (40, 100, 99),  # 100 is for the finished video
        (40, -5, 40),
        (40, 1000, 99),
    ],
)
def test_progress_never_falls_and_ends_at_99_until_there_is_a_video(
    before: int, said: int | None, after: int
) -> None:
    state = TaskState(Status.IN_PROGRESS, said)
    moved = advanced(task(Stage.IN_PROGRESS, progress=before), state, NOW)
    assert (before if moved is None else moved.progress) == after


def test_an_answer_without_news_writes_nothing() -> None:
    at = task(Stage.IN_PROGRESS, progress=40, native={"a": 1})
    assert advanced(at, TaskState(Status.IN_PROGRESS, 40, native={"a": 1}), NOW) is None
    assert advanced(at, TaskState(Status.IN_PROGRESS), NOW) is None
    assert advanced(at, TaskState(Status.QUEUED, 10), NOW) is None


def test_a_completed_task_has_all_the_provider_told() -> None:
    results = (Result("https://r", expires_ms=NOW + 9), Result("https://s", expires_ms=NOW + 7))
    state = TaskState(Status.COMPLETED, 100, results, seconds=10.1, size=(1280, 720))
    done = advanced(task(Stage.QUEUED, seconds=10.0, size=(1, 1)), state, NOW)
    assert done is not None
    assert (done.stage, done.progress, done.completed_ms) == (Stage.COMPLETED, 100, NOW)
    assert (done.results, done.seconds, done.size) == (results, 10.1, (1280, 720))
    assert done.expires_ms == NOW + 7  # the first result to go takes the task's end with it


@pytest.mark.parametrize(
    ("asked", "made", "charged"),
    [
        (100.0, 1.0, 10_000_000),  # an echo of the length that was asked beside the frames
        (5.0, 4.0, 500_000),
        (5.0, None, 500_000),
        (5.0, 9.0, 900_000),
        (5.0, 1000.0, 10_000_000),  # never above what is held
        (None, 8.0, 800_000),  # the server chose: as made
        (None, None, 10_000_000),  # and did not say
    ],
)
def test_a_task_costs_no_less_than_it_was_sent_for_and_no_more_than_held(
    asked: float | None, made: float | None, charged: int
) -> None:
    at = task(Stage.IN_PROGRESS, seconds=asked, hold_micro=10_000_000, price={"per_second": "0.1"})
    done = advanced(at, TaskState(Status.COMPLETED, seconds=made), NOW)
    assert done is not None
    assert done.settled_micro == charged
    assert done.seconds == (made or asked)  # what is told stays the truth


@pytest.mark.parametrize(
    ("state", "expires_ms"),
    [
        (TaskState(Status.COMPLETED), NOW + RESULT_LIFE_MS),
        (TaskState(Status.COMPLETED, expires_ms=NOW + 5), NOW + 5),
        (
            TaskState(Status.COMPLETED, results=(Result(expires_ms=NOW + 3),), expires_ms=NOW + 5),
            NOW + 3,
        ),
        (TaskState(Status.COMPLETED, results=(Result(),)), NOW + RESULT_LIFE_MS),
    ],
)
def test_every_completed_task_has_an_end(state: TaskState, expires_ms: int) -> None:
    done = advanced(task(Stage.BOUND), state, NOW)
    assert done is not None
    assert done.expires_ms == expires_ms


def test_completion_keeps_what_was_rendered_where_the_provider_is_silent() -> None:
    done = advanced(task(Stage.BOUND, seconds=5.0, size=(3, 4)), TaskState(Status.COMPLETED), NOW)
    assert done is not None
    assert (done.seconds, done.size) == (5.0, (3, 4))


def test_a_failure_without_a_reason_gets_one() -> None:
    told = advanced(task(Stage.BOUND), TaskState(Status.FAILED, error=BROKEN), NOW)
    mute = advanced(task(Stage.BOUND), TaskState(Status.FAILED), NOW)
    assert told is not None
    assert mute is not None
    assert told.error == BROKEN
    assert mute.error == TaskError("upstream_error", "The provider gave no reason.")
    assert (told.completed_ms, told.progress) == (NOW, 0)


states = st.builds(
    TaskState,
    st.sampled_from(Status),
    st.none() | st.integers(-10, 300),
    native=st.dictionaries(st.sampled_from("ab"), st.integers(0, 3), max_size=2),
)


@given(st.lists(states, max_size=30))
def test_whatever_an_upstream_says_the_client_sees_a_task_go_forward(
    answers: list[TaskState],
) -> None:
    """Stages and progress never fall, versions count the changes, the end is the end."""
    at = bound(task(Stage.SENT), Accepted("up-1"), NOW)
    for answer in answers:
        after = advanced(at, answer, NOW)
        if after is None:
            continue
        assert not at.stage.is_final
        assert ORDER.index(after.stage) >= ORDER.index(at.stage)
        assert 0 <= at.progress <= after.progress <= 100
        assert (after.progress == 100) == (after.stage is Stage.COMPLETED)
        assert after.version == at.version + 1
        assert (after.completed_ms is not None) == after.stage.is_final
        at = after


# ---------------------------------------------------------------- other changes


@pytest.mark.parametrize("stage", [s for s in Stage if not s.is_final])
@pytest.mark.parametrize("hidden", [False, True])
def test_any_open_task_can_fail_once(stage: Stage, hidden: bool) -> None:
    ended = failed(task(stage), BROKEN, NOW, hidden=hidden)
    assert ended is not None
    assert (ended.stage, ended.error, ended.completed_ms) == (Stage.FAILED, BROKEN, NOW)
    assert (ended.deleted, ended.version) == (hidden, 4)


def test_a_hidden_failure_never_brings_a_deleted_task_back() -> None:
    ended = failed(task(Stage.BOUND, deleted=True), BROKEN, NOW)
    assert ended is not None
    assert ended.deleted


@pytest.mark.parametrize("stage", Stage)
def test_a_note_changes_nothing_but_the_version(stage: Stage) -> None:
    before = task(stage)
    assert noted(before, NOW) == replace(before, version=4, updated_ms=NOW)
    marked = replace(before, version=4, updated_ms=NOW, unconfirmed=True)
    assert unconfirmed(before, NOW) == marked


OLD, NEW = (Result("https://old"),), (Result("https://new"),)


@pytest.mark.parametrize(
    ("stage", "results", "changes"),
    [
        (Stage.COMPLETED, NEW, True),
        (Stage.COMPLETED, OLD, False),
        (Stage.COMPLETED, (), False),  # an answer without addresses takes none away
        (Stage.FAILED, NEW, False),
        (Stage.IN_PROGRESS, NEW, False),
    ],
)
def test_fresh_addresses_are_for_completed_tasks(
    stage: Stage, results: tuple[Result, ...], changes: bool
) -> None:
    before = task(stage, results=OLD, completed_ms=T0, expires_ms=T0 + 9)
    after = refreshed(before, results, NOW)
    if not changes:
        assert after is None
    else:
        assert after == replace(before, results=results, version=4, updated_ms=NOW)


@pytest.mark.parametrize("stage", Stage)
def test_deleting_hides_a_task_and_does_it_once(stage: Stage) -> None:
    """Its stage stays: what was paid for is followed to its end."""
    gone = removed(task(stage), NOW)
    assert gone is not None
    assert (gone.deleted, gone.stage, gone.version) == (True, stage, 4)
    assert removed(gone, NOW) is None


# ---------------------------------------------------------------- when to look again


@pytest.mark.parametrize(
    ("bound_ms", "age_ms", "wait_ms"),
    [
        (None, 0, 2_000),
        (T0, 1_000, 2_000),
        (T0, 10_000, 5_000),
        (T0, 60_000, 6_000),  # a tenth of its age
        (T0, 200_000, 20_000),
        (T0, 3_000_000, 30_000),
        (T0, -5_000, 2_000),  # another worker's clock
        (T0 + 900_000, 900_000, 2_000),  # found late: its age counts from there
    ],
)
def test_a_long_render_is_asked_after_less_often(
    bound_ms: int | None, age_ms: int, wait_ms: int
) -> None:
    now = T0 + age_ms
    at = task(Stage.IN_PROGRESS, bound_ms=bound_ms)
    assert next_poll_ms(at, now, SCHEDULE, 0.5) == now + wait_ms


@pytest.mark.parametrize(
    ("age_ms", "expected_ms", "wait_ms"),
    [
        (0, 20_000, 16_000),  # four fifths of the usual time
        (10_000, 20_000, 6_000),
        (15_000, 20_000, 5_000),
        (30_000, 20_000, 5_000),
        (0, 600_000, 30_000),  # a usual time is a guess: the longest pause stays
        (0, 0, 2_000),
    ],
)
def test_little_is_asked_before_a_render_is_usually_done(
    age_ms: int, expected_ms: int, wait_ms: int
) -> None:
    at = task(Stage.IN_PROGRESS, bound_ms=T0)
    found = next_poll_ms(at, T0 + age_ms, SCHEDULE, 0.5, expected_ms=expected_ms)
    assert found == T0 + age_ms + wait_ms


@pytest.mark.parametrize(
    ("failures", "wait_ms"), [(0, 5_000), (1, 10_000), (2, 20_000), (4, 80_000), (99, 80_000)]
)
def test_an_upstream_in_trouble_is_asked_less_often(failures: int, wait_ms: int) -> None:
    at = task(Stage.IN_PROGRESS, bound_ms=T0)
    now = T0 + 10_000
    assert next_poll_ms(at, now, SCHEDULE, 0.5, failures=failures) == now + wait_ms


def test_jitter_spreads_polls_by_a_tenth_both_ways() -> None:
    at = task(Stage.IN_PROGRESS)
    assert next_poll_ms(at, T0 + 10_000, SCHEDULE, 0.0) == T0 + 10_000 + 4_500
    assert next_poll_ms(at, T0 + 10_000, SCHEDULE, 1.0) == T0 + 10_000 + 5_500


def test_an_upstream_that_names_a_time_is_not_asked_before_it() -> None:
    at = task(Stage.IN_PROGRESS)
    assert next_poll_ms(at, NOW, SCHEDULE, 0.5, retry_after_s=60.0) == NOW + 60_000
    assert next_poll_ms(at, NOW, SCHEDULE, 0.5, retry_after_s=0.1) == NOW + 5_000


def test_the_next_look_is_always_in_the_future() -> None:
    hasty = replace(SCHEDULE, first_ms=0, interval_ms=0, max_ms=0)
    assert next_poll_ms(task(Stage.BOUND), NOW, hasty, 0.0) == NOW + 1


@pytest.mark.parametrize("stage", FINAL)
def test_nobody_looks_at_a_finished_task(stage: Stage) -> None:
    assert next_poll_ms(task(stage), NOW, SCHEDULE, 0.5, retry_after_s=60.0) is None


def test_an_unconfirmed_submit_is_looked_up_or_waited_for() -> None:
    """Where the provider can be asked by our id; else there is nothing to do before the end."""
    at = task(Stage.SENT)
    assert unconfirmed_due_ms(at, NOW, SCHEDULE, can_find=True) == NOW + 70_000
    assert unconfirmed_due_ms(at, NOW, SCHEDULE, can_find=False) == T0 + 600_000
    soon = unconfirmed_due_ms(at, NOW, SCHEDULE, can_find=True, is_settled=False)
    assert soon == NOW + 5_000  # it may be found, though not yet be missed
    never = unconfirmed_due_ms(at, NOW, SCHEDULE, can_find=False, is_settled=False)
    assert never == T0 + 600_000


@pytest.mark.parametrize(
    ("unconfirmed_", "age_ms", "settled"),
    [(True, 0, False), (True, 69_999, False), (True, 70_000, True), (False, 0, True)],
)
def test_a_provider_that_misses_a_job_is_believed_once_it_cannot_be_on_its_way(
    unconfirmed_: bool, age_ms: int, settled: bool
) -> None:
    at = task(Stage.SENT, unconfirmed=unconfirmed_)
    assert is_settled(at, T0 + age_ms, SCHEDULE) is settled


@pytest.mark.parametrize(("age_ms", "overdue"), [(0, False), (3_600_000, False), (3_600_001, True)])
def test_a_task_is_overdue_after_its_greatest_age(age_ms: int, overdue: bool) -> None:
    assert is_overdue(task(Stage.IN_PROGRESS), T0 + age_ms, 3_600_000) is overdue


@pytest.mark.parametrize(
    ("bound_ms", "age_ms", "expected_ms", "percent"),
    [
        (T0, 0, 10_000, 0),
        (T0, 2_500, 10_000, 25),
        (T0, 10_000, 10_000, 95),  # late is not done
        (T0, 99_000, 10_000, 95),
        (T0, -1_000, 10_000, 0),
        (T0, 1_000, 0, 95),
        (T0, 1_000, None, None),
        (None, 1_000, 10_000, None),
    ],
)
def test_progress_is_guessed_where_the_provider_tells_none(
    bound_ms: int | None, age_ms: int, expected_ms: int | None, percent: int | None
) -> None:
    at = task(Stage.IN_PROGRESS, bound_ms=bound_ms)
    assert estimated_progress(at, T0 + age_ms, expected_ms) == percent


@pytest.mark.parametrize(
    ("age_ms", "pause_ms"), [(0, 5_000), (100_000, 10_000), (10_000_000, 30_000)]
)
def test_clients_are_told_to_ask_as_seldom_as_we_do(age_ms: int, pause_ms: int) -> None:
    at = task(Stage.IN_PROGRESS, bound_ms=T0)
    assert asking_pause_ms(at, T0 + age_ms, SCHEDULE) == pause_ms


ENDS_MS = 1_790_000_000_999


@pytest.mark.parametrize(
    ("expires_ms", "now_ms", "text"),
    [
        (ENDS_MS, ENDS_MS, " (it was kept until 2026-09-21T14:13:20Z)"),
        (ENDS_MS, ENDS_MS - 1, " (it was made on 2026-09-20T14:13:20Z)"),
        (None, ENDS_MS, " (it was made on 2026-09-20T14:13:20Z)"),
    ],
)
def test_a_video_that_is_gone_says_its_date(expires_ms: int | None, now_ms: int, text: str) -> None:
    gone = task(expires_ms=expires_ms, completed_ms=ENDS_MS - 86_400_000)
    assert expiry_text(gone, now_ms) == text


CHANGES: list[Callable[[Task], Task | None]] = [
    lambda t: advanced(t, TaskState(Status.COMPLETED), NOW),
    lambda t: failed(t, BROKEN, NOW),
    lambda t: noted(t, NOW),
    lambda t: removed(t, NOW),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_one_version_further(change: Callable[[Task], Task | None]) -> None:
    """The store's compare-and-set goes from one version to the next."""
    after = change(task(Stage.IN_PROGRESS))
    assert after is not None
    assert (after.version, after.updated_ms) == (4, NOW)


@pytest.mark.parametrize(
    ("dialect", "before", "after", "told"),
    [
        ("openai", Stage.IN_PROGRESS, Stage.COMPLETED, True),
        ("openai", Stage.SENT, Stage.FAILED, True),
        ("openai", Stage.QUEUED, Stage.IN_PROGRESS, False),
        ("kling", Stage.QUEUED, Stage.IN_PROGRESS, True),
        ("kling", Stage.SENT, Stage.BOUND, False),  # queued before and after
        ("kling", Stage.IN_PROGRESS, Stage.IN_PROGRESS, False),
    ],
)
def test_a_webhook_tells_the_end_and_klings_every_status(
    dialect: DialectName, before: Stage, after: Stage, told: bool
) -> None:
    old = task(before, dialect=dialect, webhook="https://hook.example")
    new = replace(old, stage=after, version=4, updated_ms=NOW)
    hook = notice_of(old, new)
    assert (hook is not None) == told
    if hook is not None:
        assert (hook.name, hook.status, hook.url) == ("video_1:4", new.status, old.webhook)
        assert hook.created_ms == NOW
    assert notice_of(old, replace(new, webhook=None)) is None
    assert notice_of(old, replace(new, deleted=True)) is None  # its owner wants no more of it


def test_a_second_attempt_has_a_key_of_its_own() -> None:
    """A server that keeps its answers by key would repeat the refusal of the first for ever."""
    assert submit_key("video_1", 1) == "video_1"
    assert submit_key("video_1", 2) == "video_1.2"


def test_what_the_upstream_changed_as_well_is_told_once() -> None:
    known = task(Stage.SENT, adjusted=("seconds=4>5",), dropped=("style",))
    accepted = Accepted("up", adjusted=("seconds=4>5", "size=a>b"), dropped=("user",))
    named = bound(known, accepted, NOW)
    assert named.adjusted == ("seconds=4>5", "size=a>b")
    assert named.dropped == ("style", "user")
