"""When a task is looked at again: pure functions of the task, the time and the settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.config.tables import TimeoutsTable
from proxy.model import Task

MAX_DOUBLINGS: Final = 4
LONGEST_RETRY_MS: Final = 3_600_000  # of what a provider's Retry-After puts a poll off
CLOCK_MARGIN_MS: Final = 60_000  # by which the clocks of two machines may differ
# Of the usual duration: from here to there a render probably ends, and is asked after often.
NEAR_FROM: Final = 0.8
NEAR_TO: Final = 1.2


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a task is asked after. `first_ms` after it was bound, then every `interval_ms`,
    stretched towards `max_ms` for tasks that take long.
    `settle_ms` is how long a submit may still be under way to the upstream; a submit nobody
    can confirm fails after `confirm_ms`. A task is lost when its upstream has said for
    `forgotten_ms` that it does not know it, or has said nothing of it for `lost_ms`."""

    first_ms: int
    interval_ms: int
    max_ms: int
    settle_ms: int
    confirm_ms: int
    forgotten_ms: int = 300_000
    lost_ms: int = 3_600_000


def removed_due_ms(removed: Task, now_ms: int, schedule: Schedule) -> int | None:
    """When to look at a deleted task again. What may still be on its way to the upstream is left
    alone as long as its submit may take, or a look-up would not find it yet."""
    if removed.stage.is_final:
        return None
    if removed.upstream_id is None:
        return now_ms + schedule.settle_ms
    return next_poll_ms(removed, now_ms, schedule, 0.5)


def is_settled(task: Task, now_ms: int, schedule: Schedule) -> bool:
    """Whether an upstream that does not know the task is to be believed: what was lost on its
    way may still arrive for a while after its sender gave up on it."""
    return not task.unconfirmed or now_ms - task.updated_ms >= schedule.settle_ms


def unconfirmed_due_ms(
    task: Task, now_ms: int, schedule: Schedule, *, can_find: bool, is_settled: bool = True
) -> int:
    """When to look again after a submit nobody can confirm. Before it is settled a look can only
    find it, and is worth having early: its client waits for a render that goes on."""
    if can_find and not is_settled:
        return now_ms + schedule.interval_ms
    if can_find:
        return now_ms + schedule.settle_ms
    return confirm_end_ms(task, schedule)


def confirm_end_ms(task: Task, schedule: Schedule) -> int:
    """When a submit nobody could confirm has failed. A task may have waited long before it was
    sent."""
    return (task.sent_ms or task.created_ms) + schedule.confirm_ms


def next_poll_ms(
    task: Task,
    now_ms: int,
    schedule: Schedule,
    jitter01: float,
    *,
    expected_ms: int | None = None,
    retry_after_s: float | None = None,
    failures: int = 0,
) -> int | None:
    """The next due time; None when the task needs no more asking.

    Where the usual duration is known (`expected_ms`) little is asked before `NEAR_FROM` of it,
    and often from there to `NEAR_TO`. Else a task that has been running for a while is asked
    less often (a tenth of its age), so that hour-long renders do not cost an hour of short
    polls; polls that fail in a row (`failures`) double the pause each. `jitter01` in [0, 1)
    spreads ±10 %.
    """
    if task.stage.is_final:
        return None
    age_ms = max(0, now_ms - (task.bound_ms or task.created_ms))
    if age_ms < schedule.first_ms:
        wait_ms = float(schedule.first_ms)
    else:
        wait_ms = max(schedule.interval_ms, age_ms / 10)
    if expected_ms is not None:
        if NEAR_FROM * expected_ms <= age_ms < NEAR_TO * expected_ms:
            wait_ms = min(wait_ms, float(schedule.interval_ms))
        wait_ms = max(wait_ms, NEAR_FROM * expected_ms - age_ms)
    wait_ms = min(wait_ms, schedule.max_ms) * (1 << min(failures, MAX_DOUBLINGS))
    wait_ms *= 0.9 + 0.2 * jitter01
    if retry_after_s is not None:
        wait_ms = max(wait_ms, min(retry_after_s * 1000, LONGEST_RETRY_MS))
    return now_ms + max(1, round(wait_ms))


def longest_wait_ms(schedule: Schedule, lease_ms: int) -> int:
    """The furthest ahead that a due time can be meant. What is due later was written while a
    clock was wrong."""
    longest_poll_ms = round(max(schedule.first_ms, schedule.max_ms) * (1 << MAX_DOUBLINGS) * 1.1)
    longest_ms = max(
        longest_poll_ms,
        schedule.settle_ms,
        schedule.confirm_ms,
        schedule.interval_ms,
        LONGEST_RETRY_MS,
        lease_ms,
    )
    return longest_ms + CLOCK_MARGIN_MS


def asking_pause_ms(task: Task, now_ms: int, schedule: Schedule) -> int:
    """How long a client should wait before it asks again: as long as we do, within reason."""
    age_ms = max(0, now_ms - (task.bound_ms or task.created_ms))
    return round(min(max(schedule.interval_ms, age_ms / 10, 250), schedule.max_ms, 60_000))


def is_overdue(task: Task, now_ms: int, max_age_ms: int) -> bool:
    """Of one that waits: since it was made; of any other since it was sent."""
    return now_ms - (task.sent_ms or task.created_ms) > max_age_ms


def poll_lease_s(timeouts: TimeoutsTable) -> float:
    """How long a due task is one worker's: longer than a look at it can take."""
    return max(timeouts.lease_s, 1.5 * timeouts.poll_s)


def poll_patience_s(timeouts: TimeoutsTable) -> float:
    """How long a poll may wait for a slot at its credential: half of what the lease has left
    beside the poll itself. The other half is for the store."""
    return (poll_lease_s(timeouts) - timeouts.poll_s) / 2
