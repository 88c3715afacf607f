"""When a webhook is sent again, when it is given up, and what it says by then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.model import Kind, Operation, Result, Stage, Status, Task, TaskError
from proxy.store.notice import Webhook
from proxy.tasks.webhooks import GIVE_UP_S, as_it_was, event_id_of, pause_s, waited_s

FIRST_S = 5.0
TASK = Task(
    id="video_00" + "ab" * 23,
    owner="acme",
    token_id="tok",
    dialect="kling",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="kling-v2-6",
    created_ms=1000,
    updated_ms=9000,
    stage=Stage.COMPLETED,
    progress=100,
    results=(Result("https://cdn.example/v.mp4"),),
    native={"watermark_info": {"enabled": False}},
    completed_ms=9000,
    expires_ms=99_000,
)
HOOK = Webhook(
    name=f"{TASK.id}:4",
    task_id=TASK.id,
    token_id="tok",
    dialect="kling",
    url="https://client.example/",
    status=Status.IN_PROGRESS,
    created_ms=5000,
)


def test_the_pauses_double_up_to_an_hour() -> None:
    pauses = [pause_s(attempts, FIRST_S) for attempts in range(1, 13)]
    assert pauses == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]
    assert pause_s(10_000, FIRST_S) == 3600


def test_it_is_given_up_after_three_days_of_pauses() -> None:
    attempts = next(n for n in range(1, 1000) if waited_s(n, FIRST_S) > GIVE_UP_S)
    assert waited_s(attempts - 1, FIRST_S) <= 72 * 3600
    assert 0 < waited_s(attempts, FIRST_S) - 72 * 3600 <= 3600
    assert attempts == 81


def test_every_attempt_has_the_events_own_id() -> None:
    tried = replace(HOOK, attempts=7, state="dead", log=((1, "answered 500"),))
    assert event_id_of(HOOK) == event_id_of(tried) == f"evt_00{'ab' * 23}_4"


def test_a_change_is_told_as_it_was() -> None:
    """Not with the result of a later one, as the provider's own callback would not."""
    then = as_it_was(TASK, HOOK)
    assert (then.stage, then.updated_ms, then.progress) == (Stage.IN_PROGRESS, 5000, 0)
    assert (then.results, then.error, then.native) == ((), None, {})
    assert (then.completed_ms, then.expires_ms) == (None, None)
    assert as_it_was(TASK, replace(HOOK, status=Status.QUEUED)).stage is Stage.QUEUED


@pytest.mark.parametrize("stage", [Stage.COMPLETED, Stage.FAILED, Stage.IN_PROGRESS])
def test_the_present_state_is_told_as_it_is(stage: Stage) -> None:
    task = replace(TASK, stage=stage, error=TaskError("timeout", "Too late."))
    assert as_it_was(task, replace(HOOK, status=stage.status)) is task
