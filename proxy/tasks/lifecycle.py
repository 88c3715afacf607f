"""The task's state machine: pure functions from a Task to the next one.

reserved → sent(attempt n) → bound → queued → in_progress → completed | failed

Rule: stages only move forward, progress never falls, a finished task never changes again. The
one step back is that of a task in a queue whose attempt was provably refused: no upstream knows
it then, so it is reserved again, and waits again.
Each function returns a Task whose `version` is one higher, ready for the store's
compare-and-set, or None when there is nothing to write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from proxy.errors import FAILURES, Family
from proxy.http.outbound import Draft, Rendered
from proxy.model import Credential, Loss, Result, Stage, Task, TaskError, TaskState, Upstream
from proxy.providers.outcomes import Accepted, Refused, TransientKind
from proxy.tasks.pricing import settle_micro
from proxy.tasks.schedule import Schedule, is_overdue

_ORDER: Final = {stage: place for place, stage in enumerate(Stage)}

# A signed link and a finished task are good for this long where the provider names no end.
RESULT_LIFE_MS: Final = 24 * 3600 * 1000

# A task is lost after so many answers in a row, beside the time they take.
MISSING_ANSWERS: Final = 3
MISSING_ANSWERS_SINGLE: Final = 2
MISSING_PAUSE_MS: Final = 10_000  # between the first and the last of a single server
SILENT_ANSWERS: Final = 3
_SILENCE: Final = frozenset(
    {"not_found", "no_answer", "http_3xx", "http_4xx", "http_5xx", "unreadable"}
)

BY_OPERATOR: Final = TaskError("ended_by_operator", FAILURES["ended_by_operator"])
CANCELLED: Final = TaskError("cancelled", "It was cancelled by its owner.")
UNCONFIRMED: Final = TaskError(
    "submission_unconfirmed",
    "The request was sent, but the provider's answer was lost, and nobody can say whether it "
    "renders a video. Nothing was charged and nothing is sent again; a new request starts a new "
    "video.",
)
_FAILURE_OF: Final = {
    Family.INVALID: "invalid_input",
    Family.MODERATION: "moderation_blocked",
    Family.BUDGET: "quota_exceeded",
    Family.RATE: "rate_limited",
    Family.IN_FLIGHT: "rate_limited",
}


def sent(
    task: Task,
    now_ms: int,
    upstream: Upstream,
    credential: Credential,
    upstream_model: str,
    draft: Draft,
    rendered: Rendered,
) -> Task:
    """Attempt n+1 begins: of a reserved task, or of one whose attempt n was refused."""
    assert task.stage in (Stage.RESERVED, Stage.SENT), task.stage
    return replace(
        fitted(task, draft, rendered),
        stage=Stage.SENT,
        version=task.version + 1,
        attempt=task.attempt + 1,
        updated_ms=now_ms,
        sent_ms=now_ms,
        upstream=upstream.name,
        provider=upstream.provider,
        credential=credential.name,
        upstream_model=upstream_model,
        handle=dict(draft.handle),
    )


def fitted(task: Task, draft: Draft, rendered: Rendered) -> Task:
    """The same task, saying what this draft will make of it; nothing that is written yet."""
    return replace(
        task,
        adjusted=tuple(str(a) for a in draft.adjusted),
        dropped=draft.dropped,
        seconds=rendered.seconds,
        size=rendered.size,
        n=rendered.n,
        audio=rendered.audio,
        mode=rendered.mode,
    )


def waiting(task: Task, queue: str, now_ms: int) -> Task:
    """In the queue of this upstream, from now on or again: a reserved task, or one whose attempt
    was provably refused. What it will be stays told; where it was sent does not."""
    assert task.stage in (Stage.RESERVED, Stage.SENT), task.stage
    return replace(
        task,
        stage=Stage.RESERVED,
        version=task.version + 1,
        updated_ms=now_ms,
        sent_ms=None,
        queue=queue,
        upstream="",
        provider="",
        credential="",
        upstream_model="",
        handle={},
        unconfirmed=False,
    )


def withdrawn(task: Task, now_ms: int) -> Task:
    """Deleted by its owner while it waited: it has ended, and is hidden."""
    assert task.is_waiting, task.stage
    ended = failed(task, CANCELLED, now_ms, hidden=True)
    assert ended is not None
    return ended


def end_of_wait(task: Task, now_ms: int, max_age_ms: int, *, has_place: bool) -> TaskError | None:
    """Why a waiting task can wait no longer; None: it can. `has_place`: there still is a
    credential, free or not, that it could be sent with."""
    if task.deleted:
        return CANCELLED
    if not has_place:
        return TaskError(
            "not_submitted", "The account it waited for is no longer configured; nothing was sent."
        )
    if is_overdue(task, now_ms, max_age_ms):
        waited = f"{max_age_ms / 1000:g} s"
        return TaskError("not_submitted", f"It waited longer than {waited} and was never sent.")
    return None


def ended_by_operator(reason: str) -> str:
    """The event of a task ended by its operator's word; the reason on one line, cut short."""
    words = " ".join("".join(c if c.isprintable() else " " for c in reason).split())[:200]
    return f"ended by the operator: {words}" if words else "ended by the operator"


def failure_of(refusal: Refused) -> TaskError:
    """A provider's refusal as the end of a task whose client already has it."""
    code = _FAILURE_OF.get(refusal.error.family, "upstream_error")
    return TaskError(code, refusal.error.message, refusal.provider_code)


def bound(task: Task, accepted: Accepted, now_ms: int) -> Task:
    """The upstream's id is known; what it says of the task so far is taken in as well."""
    assert task.stage is Stage.SENT, task.stage
    named = replace(
        task,
        stage=Stage.BOUND,
        version=task.version + 1,
        updated_ms=now_ms,
        upstream_id=accepted.upstream_id,
        unconfirmed=False,
        bound_ms=now_ms,
        handle={**task.handle, **accepted.handle},
        adjusted=tuple(dict.fromkeys((*task.adjusted, *accepted.adjusted))),
        dropped=tuple(dict.fromkeys((*task.dropped, *accepted.dropped))),
    )
    if accepted.state is None:
        return named
    moved = advanced(named, accepted.state, now_ms)
    return named if moved is None else replace(moved, version=named.version)


def noted(task: Task, now_ms: int) -> Task:
    """The same task, one version on: something was written on its time line."""
    return replace(task, version=task.version + 1, updated_ms=now_ms)


def unconfirmed(task: Task, now_ms: int) -> Task:
    """Sent, and its answer was lost: from now on only a look-up by our own id can help."""
    return replace(task, version=task.version + 1, updated_ms=now_ms, unconfirmed=True)


def failed(task: Task, error: TaskError, now_ms: int, *, hidden: bool = False) -> Task | None:
    """`hidden` for a submit that was refused to the client's face: it has no id to ask after."""
    if task.stage.is_final:
        return None
    return replace(
        task,
        stage=Stage.FAILED,
        version=task.version + 1,
        updated_ms=now_ms,
        completed_ms=now_ms,
        error=error,
        deleted=task.deleted or hidden,
        settled_micro=0,
    )


def advanced(task: Task, state: TaskState, now_ms: int) -> Task | None:
    """The task after one upstream answer; None when that says nothing new."""
    if task.stage.is_final:
        return None
    stage = Stage(state.status.value)
    if _ORDER[stage] < _ORDER[task.stage]:
        stage = task.stage
    progress = max(task.progress, state.progress or 0)
    progress = 100 if stage is Stage.COMPLETED else min(progress, 99)
    native = dict(state.native) or task.native
    was_silent = (task.silent_ms, task.missing_ms) != (None, None)
    if not was_silent and (stage, progress, native) == (task.stage, task.progress, task.native):
        return None
    changed = replace(
        task,
        stage=stage,
        version=task.version + 1,
        updated_ms=now_ms,
        progress=progress,
        native=native,
        silent_ms=None,
        missing_ms=None,
    )
    if stage is Stage.COMPLETED:
        done = replace(
            changed,
            completed_ms=now_ms,
            results=state.results,
            seconds=state.seconds or task.seconds,
            size=state.size or task.size,
            expires_ms=_expiry(state, now_ms),
        )
        return replace(done, settled_micro=_cost(done, asked_seconds=task.seconds))
    if stage is Stage.FAILED:
        error = state.error or TaskError("upstream_error", "The provider gave no reason.")
        return replace(changed, completed_ms=now_ms, error=error, settled_micro=0)
    return changed


def is_silence(kind: TransientKind) -> bool:
    """Whether this answer to a poll counts towards the task's loss. An upstream that refuses our
    key or our rate, or that nobody has configured, says nothing against the task."""
    return kind in _SILENCE


def silent(task: Task, kind: TransientKind, now_ms: int) -> Task | None:
    """The task with the beginning of its silence noted; None when that stands there already, so
    that polls without an answer cost no writes."""
    if task.stage.is_final or not is_silence(kind):
        return None
    silent_ms = now_ms if task.silent_ms is None else task.silent_ms
    missing_ms = now_ms if task.missing_ms is None and kind == "not_found" else task.missing_ms
    if (silent_ms, missing_ms) == (task.silent_ms, task.missing_ms):
        return None
    return replace(
        task,
        version=task.version + 1,
        updated_ms=now_ms,
        silent_ms=silent_ms,
        missing_ms=missing_ms,
    )


@dataclass(frozen=True, slots=True)
class Silence:
    """How many answers in a row said nothing of a task, and how many of them that its upstream
    does not know it. The moment each row began stands in the task."""

    answers: int = 0
    missing: int = 0


LOST: Final[Mapping[Loss, TaskError]] = {
    "forgotten": TaskError("lost", FAILURES["lost"]),
    "silent": TaskError("lost", "The upstream no longer answers for this task; it is not charged."),
}


def loss_of(
    task: Task, silence: Silence, now_ms: int, schedule: Schedule, *, has_replicas: bool
) -> Loss | None:
    """How the task is lost; None: it is not. It takes both time and a number of answers.

    A 404 of an upstream with replicas may come from one that never had the task. A single
    server that says it twice, and not just after the submit, has restarted.
    """
    if task.stage.is_final or task.upstream_id is None:
        return None
    ends_ms = loss_due_ms(task, schedule, has_replicas=has_replicas)
    enough = MISSING_ANSWERS if has_replicas else MISSING_ANSWERS_SINGLE
    is_over = ends_ms is not None and now_ms >= ends_ms
    if task.missing_ms is not None and is_over and silence.missing >= enough:
        return "forgotten"
    if task.silent_ms is not None and now_ms >= task.silent_ms + schedule.lost_ms:
        return "silent" if silence.answers >= SILENT_ANSWERS else None
    return None


def loss_due_ms(task: Task, schedule: Schedule, *, has_replicas: bool) -> int | None:
    """When a silent task can be called lost; None: its latest answer spoke of it."""
    if task.missing_ms is None:
        return None if task.silent_ms is None else task.silent_ms + schedule.lost_ms
    if has_replicas:
        return task.missing_ms + schedule.forgotten_ms
    pause_ms = min(MISSING_PAUSE_MS, schedule.forgotten_ms)
    settled_ms = (task.sent_ms or task.created_ms) + schedule.settle_ms
    return max(task.missing_ms + pause_ms, settled_ms)


def refreshed(task: Task, results: tuple[Result, ...], now_ms: int) -> Task | None:
    """A completed task whose result URLs were signed anew; its status and dates stay."""
    if task.stage is not Stage.COMPLETED or results == task.results or not results:
        return None
    return replace(task, version=task.version + 1, updated_ms=now_ms, results=results)


def removed(task: Task, now_ms: int) -> Task | None:
    """Deleted by its owner: hidden from now on, followed to its end all the same."""
    if task.deleted:
        return None
    return replace(task, version=task.version + 1, updated_ms=now_ms, deleted=True)


def _cost(task: Task, *, asked_seconds: float | None) -> int:
    """As delivered, at the price of the day it was made, never more than was held for it.

    Never less than the seconds it was sent for: a server may echo another length than it made.
    """
    lengths = [seconds for seconds in (task.seconds, asked_seconds) if seconds is not None]
    seconds = max(lengths, default=None)
    delivered = Rendered(seconds, task.size, task.n, task.audio, task.mode)
    return settle_micro(task.hold_micro, task.price, delivered)


def _expiry(state: TaskState, now_ms: int) -> int:
    ends = [r.expires_ms for r in state.results if r.expires_ms is not None]
    if state.expires_ms is not None:
        ends.append(state.expires_ms)
    return min(ends) if ends else now_ms + RESULT_LIFE_MS


def estimated_progress(task: Task, now_ms: int, expected_ms: int | None) -> int | None:
    """Percent done by the usual duration, for providers that give none; never quite there."""
    if expected_ms is None or task.bound_ms is None:
        return None
    return min(95, 100 * max(0, now_ms - task.bound_ms) // max(1, expected_ms))


def expiry_text(task: Task, now_ms: int) -> str:
    """` (it was kept until 2026-11-23T10:00:00Z)`; of a task gone before its time, when it was
    made."""
    ends_ms, made_ms = task.expires_ms, task.completed_ms or task.created_ms
    if ends_ms is not None and ends_ms <= now_ms:
        return f" (it was kept until {_date(ends_ms)})"
    return f" (it was made on {_date(made_ms)})"


def _date(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%SZ}"
