"""Background jobs are held, logged and awaited; rounds repeat until they are closed."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import pytest
import structlog
from structlog.testing import capture_logs

from proxy.errors import Unavailable
from proxy.tasks.jobs import Jobs, Rounds

WAIT_S = 20.0  # only a hang gets here
LONG_S = 3600.0


@pytest.fixture
def jobs() -> Jobs:
    return Jobs(structlog.stdlib.get_logger())


async def test_a_job_is_held_until_it_ends(jobs: Jobs) -> None:
    """The loop has weak references only: a job that nobody holds may vanish half-way."""
    go, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        await go.wait()
        ended.set()

    jobs.start(work(), "held")
    gc.collect()
    go.set()
    async with asyncio.timeout(WAIT_S):
        await ended.wait()
        await jobs.drain()
    assert len(jobs) == 0


async def test_what_a_job_raises_is_logged_with_its_name(jobs: Jobs) -> None:
    async def work() -> None:
        raise ValueError("of the job")

    with capture_logs() as lines:
        jobs.start(work(), "the failing one")
        async with asyncio.timeout(WAIT_S):
            await jobs.drain()
    (line,) = lines
    assert (line["event"], line["job"], line["log_level"]) == (
        "job failed",
        "the failing one",
        "error",
    )
    assert isinstance(line["exc_info"], ValueError)


async def test_who_waits_for_room_goes_on_when_a_job_ends(jobs: Jobs) -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    async def work(gate: asyncio.Event) -> None:
        await gate.wait()

    for number, gate in enumerate(gates):
        jobs.start(work(gate), f"job {number}")
    waiting = asyncio.create_task(jobs.wait_fewer(2))
    async with asyncio.timeout(WAIT_S):
        await jobs.wait_fewer(3)
        assert not waiting.done()
        gates[0].set()
        await waiting
    assert len(jobs) == 1
    await jobs.aclose()


async def test_draining_ends_at_its_deadline_and_closing_cancels(jobs: Jobs) -> None:
    job = jobs.start(asyncio.sleep(LONG_S), "sleeper")
    async with asyncio.timeout(WAIT_S):
        await jobs.drain(0.01)
        assert not job.done()
        await jobs.aclose()
    assert job.cancelled()
    assert len(jobs) == 0


class Work:
    """Rounds that follow a script: True (more at once), False (pause), or what to raise."""

    def __init__(self, *script: bool | Exception) -> None:
        self._script = list(script)
        self.rounds = 0
        self.begun = asyncio.Event()
        self.idle = asyncio.Event()  # the script is over

    async def __call__(self) -> bool:
        self.rounds += 1
        self.begun.set()
        if not self._script:
            self.idle.set()
            return False
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


def rounds(work: Work, pause_s: Callable[[], float]) -> Rounds:
    return Rounds(work, pause_s, structlog.stdlib.get_logger(), "test")


async def test_a_round_that_found_work_is_followed_at_once() -> None:
    work = Work(True, True)
    repeated = rounds(work, lambda: LONG_S)
    repeated.start()
    async with asyncio.timeout(WAIT_S):
        await work.idle.wait()
        await repeated.aclose()
    assert work.rounds == 3


async def test_waking_ends_the_pause() -> None:
    work = Work(False)
    repeated = rounds(work, lambda: LONG_S)
    repeated.start()
    async with asyncio.timeout(WAIT_S):
        await work.begun.wait()
        repeated.wake()
        await work.idle.wait()
        await repeated.finish()
    assert work.rounds == 2


@pytest.mark.parametrize(
    ("fault", "events"),
    [
        (Unavailable("down"), ["store unreachable", "store reachable again"]),
        (ValueError("a bug"), ["round failed"]),
    ],
)
async def test_a_failed_round_is_logged_and_tried_again(
    fault: Exception, events: list[str]
) -> None:
    work = Work(fault)
    repeated = rounds(work, lambda: 0.001)
    with capture_logs() as lines:
        repeated.start()
        async with asyncio.timeout(WAIT_S):
            await work.idle.wait()
            await repeated.finish()
    assert [(line["event"], line["part"]) for line in lines] == [(e, "test") for e in events]


async def test_closing_ends_a_pause_after_a_failure() -> None:
    work = Work(Unavailable("down"))
    repeated = rounds(work, lambda: LONG_S)
    repeated.start()
    async with asyncio.timeout(WAIT_S):
        await work.begun.wait()
        await repeated.finish()
    assert work.rounds == 1
