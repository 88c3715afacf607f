"""The changes of tasks that are being submitted, written so that none is lost or undone.

Rule: what the store does not take now is retried in the background until it is written. A retry
may repeat a write that succeeded, so it first checks that the task is still its own: any state of
a task that was never queued, only the attempt it was made for of a task that was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from proxy.errors import NotFound, Unavailable
from proxy.model import Stage, Task, TaskError
from proxy.store import Durability, NotReservedWhy, Store, StoreDown, StoreUnsafe
from proxy.tasks import lifecycle
from proxy.tasks.jobs import Jobs
from proxy.tasks.runtime import Runtime

# Between two attempts to write what the store did not take: first, longest.
STORE_PAUSE_S = 0.25
MAX_STORE_PAUSE_S = 5.0


class TaskWriter:
    """`clock` gives seconds since the epoch."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
    ) -> None:
        self._config = runtime.config
        self._store = store
        self._clock = runtime.clock
        self._log = runtime.log
        self._retries = Jobs(runtime.log)
        self._now_ms = runtime.now_ms

    async def aclose(self) -> None:
        """What the store still does not take is left to the tracker, and to whoever reads the
        log."""
        for retry in self._retries:
            task_id, _, event = retry.get_name().partition(": ")
            self._log.error("change never recorded", task_id=task_id, what=event)
        await self._retries.aclose()

    # ------------------------------------------------------------ a task that is ours

    async def write_safely(
        self, task: Task, change: Callable[[Task], Task], due_ms: int | None, event: str
    ) -> Task:
        """Write a change that something else waits for, as safe as `durability` wants it; returns
        the task as it stands then: changed, or as somebody else has ended it. Raises what the
        store raises; it may have been written all the same."""
        return await self._write(task, change, due_ms, event, durability=self._durability)

    async def keep(
        self, task: Task, change: Callable[[Task], Task], due_ms: int | None, event: str
    ) -> Task:
        """The same of what must not be lost: now, or as soon as the store can. A failover that
        forgot an upstream's id would lose a render."""
        try:
            return await self._record(task, change, due_ms, event)
        except Unavailable as down:
            self._log.warning("change not recorded yet", task_id=task.id, what=event, why=str(down))
        self._start_retry(task.id, event, lambda: self._record(task, change, due_ms, event))
        return change(task)

    def give_up(self, task_id: str, why: str = "the store failed") -> None:
        """Close a task that was (perhaps) written as reserved or sent and never left, as soon as
        the store listens: its names are free then, and a client that asks again can have it."""
        self._start_retry(task_id, "give up", lambda: self._give_up(task_id, why))

    async def _give_up(self, task_id: str, why: str) -> None:
        error = TaskError("not_submitted", f"It was never submitted: {why}.")
        task = await self._store.tasks.get(task_id)
        if task is not None and task.stage in (Stage.RESERVED, Stage.SENT):
            await self._fail(task, error, f"never sent: {why}")

    async def close(self, task: Task, error: TaskError, event: str) -> None:
        """End a task no upstream took, now or as soon as the store can."""
        try:
            await self._fail(task, error, event)
        except Unavailable as down:
            self._log.warning("refusal not recorded yet", task_id=task.id, why=str(down))
            self._start_retry(task.id, event, lambda: self._fail(task, error, event))

    # ------------------------------------------------------------ a task that waits

    async def wait(self, task: Task, queue: str, event: str) -> Task:
        """Write that it waits, now or as soon as the store takes it; returns it as it is then."""
        try:
            return await self._hand_over(task, queue, event)
        except NotFound as lost:
            raise StoreDown(f"the store has lost {task.id}") from lost
        except Unavailable as down:
            self._log.warning("change not recorded yet", task_id=task.id, what=event, why=str(down))
        self._start_retry(task.id, event, lambda: self._hand_over(task, queue, event))
        return lifecycle.waiting(task, queue, self._now_ms())

    async def _hand_over(self, task: Task, queue: str, event: str) -> Task:
        """From this change on anybody may send the task. It may have been written although its
        answer was lost, so it is written only on top of the very attempt that is ours; and after a
        failover that forgot that one, what has its version may be another's."""
        if task.stage is Stage.SENT:
            known = await self._store.tasks.get(task.id)
            if known is None:
                raise NotFound(f"no task {task.id}")
            if _attempt_of(known) != _attempt_of(task):
                return known
        while True:
            now_ms = self._now_ms()
            waits = lifecycle.waiting(task, queue, now_ms)
            due_ms = now_ms + round(self._config().timeouts.lease_s * 1000)
            other = await self._store.tasks.swap(task, waits, due_ms, event, self._retention_s)
            if other is None:
                return waits
            if _attempt_of(other) != _attempt_of(task):
                return other
            task = replace(task, version=other.version, deleted=other.deleted)

    async def take_over(self, task: Task, marked: Task, due_ms: int, event: str) -> Task | None:
        """Begin the next attempt of a task that waits; None: somebody else was first. Raises
        when it is not certain that it is written, and safe; then nothing may be sent."""
        try:
            other = await self._store.tasks.swap(
                task, marked, due_ms, event, self._retention_s, durability=self._durability
            )
        except StoreUnsafe:  # it was written, and is not safe: nothing is sent
            self.put_back(marked, why="it could not be made safe")
            raise
        except StoreDown:
            self.put_back(marked)
            raise
        return marked if other is None else None

    def put_back(self, *ours: Task, why: str = "the store failed") -> None:
        """Let a task wait again that was (perhaps) written as sent by us and is not under way, as
        soon as the store listens. `ours` are the attempts it may stand with; with any other it is
        another's, or waits still."""
        task = ours[0]
        self._start_retry(task.id, "put back", lambda: self._put_back(ours, why))

    async def _put_back(self, ours: Sequence[Task], why: str) -> None:
        known = await self._store.tasks.get(ours[0].id)
        if known is not None and _attempt_of(known) in map(_attempt_of, ours):
            with suppress(NotFound):
                await self._hand_over(known, known.queue, f"not sent: {why}")

    # ------------------------------------------------------------ writing

    async def _write(
        self,
        task: Task,
        change: Callable[[Task], Task],
        due_ms: int | None,
        event: str,
        *,
        never_sent: bool = False,
        refused: bool = False,
        durability: Durability = "local",
    ) -> Task:
        """What the store says is older than what we know where only its version differs: its owner
        has deleted it, or a failover has lost our last writes.
        """
        while True:
            changed = change(task)
            other = await self._store.tasks.swap(
                task,
                changed,
                due_ms,
                event,
                self._retention_s,
                never_sent=never_sent,
                refused=refused,
                durability=durability,
            )
            if other is None:
                return changed
            if other.stage not in (Stage.RESERVED, Stage.SENT):
                # Perhaps by us, a moment ago, and not safe in time.
                await self._store.tasks.secure(other.id, durability)
                return other
            task = replace(task, version=other.version, deleted=other.deleted)

    async def _record(
        self, task: Task, change: Callable[[Task], Task], due_ms: int | None, event: str
    ) -> Task:
        try:
            return await self._write(task, change, due_ms, event, durability=self._durability)
        except NotFound:
            # The store was emptied, or a replica that never heard of the task took over.
            self._log.error("task was missing in the store", task_id=task.id, what=event)
        changed = change(task)
        taken = await self._store.tasks.reserve(changed, due_ms or changed.updated_ms)
        if taken is not None and taken.why is not NotReservedWhy.SAME:
            self._log.error("task not recorded: its id is taken", task_id=task.id, by=taken.what)
        else:
            await self._store.tasks.secure(task.id, self._durability)
        return changed

    async def _fail(self, task: Task, error: TaskError, event: str) -> None:
        """End a task no upstream took. Its names are free again, and it is no task any more; but
        where its client has it, because it has waited, it has failed, and a refusal is what its
        key stands for."""
        hidden = not task.queue

        def fail(known: Task) -> Task:
            ended = lifecycle.failed(known, error, self._now_ms(), hidden=hidden)
            assert ended is not None
            return ended

        never_sent = hidden or error.code == "not_submitted"
        with suppress(NotFound):
            await self._write(task, fail, None, event, never_sent=never_sent, refused=hidden)

    def _start_retry(self, task_id: str, event: str, work: Callable[[], Awaitable[object]]) -> None:
        """Retry a write until the store has taken it. There are at most as many retries as submits
        were under way when the store failed."""
        self._retries.start(self._retry_until_written(work), f"{task_id}: {event}", task_id=task_id)

    async def _retry_until_written(self, work: Callable[[], Awaitable[object]]) -> None:
        pause_s = STORE_PAUSE_S
        while True:
            try:
                await work()
                return
            except Unavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_STORE_PAUSE_S)

    @property
    def _durability(self) -> Durability:
        return self._config().redis.durability

    @property
    def _retention_s(self) -> int:
        return self._config().limits.retention_s


def _attempt_of(task: Task) -> tuple[Stage, str, int, int | None, str, str]:
    """Whose it is: two that begin the same attempt differ in when, or to whom, they send it."""
    return task.stage, task.queue, task.attempt, task.sent_ms, task.upstream, task.credential
