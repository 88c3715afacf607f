"""Whole lives of tasks by the poll schedule: how often is asked, and how late an end is known."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest

from proxy.model import Kind, Operation, Stage, Task
from proxy.tasks.schedule import (
    LONGEST_RETRY_MS,
    Schedule,
    is_settled,
    longest_wait_ms,
    next_poll_ms,
    unconfirmed_due_ms,
)

T0 = 1_790_000_000_000
SCHEDULE = Schedule(
    first_ms=2_000, interval_ms=5_000, max_ms=30_000, settle_ms=70_000, confirm_ms=600_000
)


def task(stage: Stage = Stage.BOUND, *, updated_ms: int = T0, unconfirmed: bool = False) -> Task:
    return Task(
        id="video_00",
        owner="acme",
        token_id="tok",
        dialect="openai",
        operation=Operation.CREATE,
        kind=Kind.TEXT,
        model="sora-2",
        created_ms=T0,
        updated_ms=updated_ms,
        stage=stage,
        bound_ms=T0,
        unconfirmed=unconfirmed,
    )


def polls(took_ms: int, expected_ms: int | None, seed: int = 0) -> Iterator[int]:
    """When a render that takes `took_ms` is asked after, in ms since it was bound; the last one
    finds it done."""
    jitter = random.Random(seed)
    at: int | None = T0
    while at is not None and at < T0 + took_ms:
        at = next_poll_ms(task(), at, SCHEDULE, jitter.random(), expected_ms=expected_ms)
        assert at is not None
        yield at - T0


@pytest.mark.parametrize("usual_s", [5, 12, 20, 35])
def test_the_first_poll_comes_near_four_fifths_of_the_usual_time(usual_s: int) -> None:
    for seed in range(50):
        first = next(polls(usual_s * 1000, usual_s * 1000, seed))
        assert 0.8 * 0.9 <= first / (usual_s * 1000) <= 0.8 * 1.1


def test_the_longest_pause_is_kept_however_long_renders_take() -> None:
    """Clients want to see a task move, and a failure comes early."""
    for seed in range(50):
        asked = [0, *polls(1_200_000, 1_200_000, seed)]
        assert max(after - before for before, after in pairwise(asked)) <= 30_000 * 1.1


@pytest.mark.parametrize("usual_s", [12, 35, 100, 300])
def test_what_is_usual_saves_polls_and_finds_the_end_sooner(usual_s: int) -> None:
    """Over renders that take 0.9 to 1.15 of the usual time."""
    renders = [usual_s * (900 + 5 * n) for n in range(51)]
    known = [list(polls(took, usual_s * 1000, n)) for n, took in enumerate(renders)]
    guessed = [list(polls(took, None, n)) for n, took in enumerate(renders)]

    def late(asked: list[list[int]]) -> float:
        return sum(one[-1] - took for one, took in zip(asked, renders, strict=True)) / len(renders)

    def count(asked: list[list[int]]) -> int:
        return sum(len(one) for one in asked)

    if usual_s <= 35:
        assert count(known) < count(guessed)
    else:  # the longest pause is what it is, and near the end more is asked
        assert late(known) < late(guessed) / 2
    assert late(known) <= 5_000


def test_a_render_far_beyond_the_usual_is_asked_after_less_and_less() -> None:
    asked = list(polls(3_600_000, 20_000))
    pauses = [after - before for before, after in pairwise(asked)]
    assert max(pauses[-10:]) <= 33_000
    assert min(pauses[-10:]) >= 27_000
    assert len(asked) < 200


def test_an_hour_of_failures_costs_few_polls() -> None:
    """Each that fails doubles the pause, up to sixteen times the longest."""
    at, count = T0, 0
    while at < T0 + 3_600_000:
        due = next_poll_ms(task(), at, SCHEDULE, 0.5, failures=count)
        assert due is not None
        at, count = due, count + 1
    assert count <= 15


# ---------------------------------------------------------------- a submit nobody confirmed


@pytest.mark.parametrize(
    ("unconfirmed", "age_ms", "settled"),
    [(False, 0, True), (True, 0, False), (True, 69_999, False), (True, 70_000, True)],
)
def test_not_known_there_is_believed_once_nothing_can_be_on_its_way(
    unconfirmed: bool, age_ms: int, settled: bool
) -> None:
    lost = task(Stage.SENT, unconfirmed=unconfirmed)
    assert is_settled(lost, T0 + age_ms, SCHEDULE) is settled


@pytest.mark.parametrize(
    ("can_find", "settled", "wait_ms"),
    [(True, False, 5_000), (True, True, 70_000), (False, False, 590_000), (False, True, 590_000)],
)
def test_a_lost_submit_is_looked_for_early_where_it_can_be_found(
    can_find: bool, settled: bool, wait_ms: int
) -> None:
    now = T0 + 10_000
    due = unconfirmed_due_ms(task(Stage.SENT), now, SCHEDULE, can_find=can_find, is_settled=settled)
    assert due == now + wait_ms


def test_no_due_time_that_is_meant_counts_as_a_wrong_clock_s() -> None:
    longest_ms = longest_wait_ms(SCHEDULE, 30_000)
    assert longest_ms > SCHEDULE.confirm_ms
    assert longest_ms > SCHEDULE.max_ms * 16 * 1.1
    assert longest_wait_ms(SCHEDULE, 10**9) > 10**9
    for retry_after_s in (1.0, 600.0, 86_400.0):
        due_ms = next_poll_ms(
            task(), T0 + 9_000, SCHEDULE, 0.999, retry_after_s=retry_after_s, failures=99
        )
        assert due_ms is not None
        assert due_ms - (T0 + 9_000) <= max(LONGEST_RETRY_MS, SCHEDULE.max_ms * 16 * 1.1)
        assert due_ms - (T0 + 9_000) < longest_ms
