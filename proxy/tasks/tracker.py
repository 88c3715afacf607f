"""The due loop: polls tasks at their upstreams, gives up on them, and ends them.

Rule: clients never cause upstream polls; status answers come from state. Any number of workers
run a tracker: a due task is leased by the worker that asks first, and taken over when that worker
dies. HTTP errors, rate limits and bodies that cannot be read never fail a task.

Rule: a lease outlasts whatever one look at a task can take (waiting for a slot at its credential,
the poll, the writing), so that no task is polled twice at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from proxy.errors import ProxyError, Unavailable
from proxy.model import Stage, Status, Task, TaskError, TaskState
from proxy.providers.outcomes import Transient, TransientKind
from proxy.store import Store
from proxy.tasks import lifecycle
from proxy.tasks.bulkhead import BulkheadFull
from proxy.tasks.credentials import CredentialPool
from proxy.tasks.followed import FollowedTasks
from proxy.tasks.jobs import Jobs, Rounds
from proxy.tasks.planning import max_age_ms
from proxy.tasks.provider_calls import ProviderCalls
from proxy.tasks.reconcile import Reconciler
from proxy.tasks.runtime import Runtime
from proxy.tasks.schedule import is_overdue, longest_wait_ms, next_poll_ms, poll_lease_s
from proxy.telemetry.metric_definitions import POLL_LAG, TASKS_LOST, UNKNOWN_STATES
from proxy.telemetry.rate_limited_log import RateLimitedLog

AT_ONCE = 256  # tasks leased by one worker
# Claiming one by one as tasks are done would be a round trip for each.
REFILL_BELOW = AT_ONCE * 3 // 4 + 1
PULL_BACK_EVERY_S = 10.0


class Tracker:
    """Runs until `aclose`. Its metrics say how late tasks are looked at, and which upstreams
    answer unknown states; `oldest_tasks` are the oldest of those it has looked at."""

    def __init__(self, runtime: Runtime, store: Store, calls: ProviderCalls) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._store = store
        self.calls = calls
        self._schedule = runtime.schedule
        self._random01 = runtime.random01
        self._log = runtime.log
        self._troubles = RateLimitedLog(runtime.log)
        self._metrics = runtime.metrics
        self._now_ms = runtime.now_ms
        self._lag = runtime.metrics.histogram(POLL_LAG)
        self._pool = CredentialPool(runtime, store)
        self._followed = FollowedTasks(runtime, store)
        self._reconciler = Reconciler(runtime, store, calls, self._pool, self._followed)
        self.oldest_tasks = self._followed.oldest
        self._rounds = Rounds(self._round, self._tick_s, runtime.log, "tracker")
        self._looks = Jobs(runtime.log)
        self._looking: set[str] = set()  # task ids
        self._again: set[str] = set()  # of these, those that came due while being looked at
        self._pull_back_s = 0.0  # on the loop's clock
        self._called: dict[str, bool] = {}  # called back, by task id; True: called once more
        self._callbacks = Jobs(runtime.log)

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        """Give back what was under way: another worker may look at it at once."""
        held = list(self._looking)
        await asyncio.gather(self._rounds.aclose(), self._looks.aclose(), self._callbacks.aclose())
        now_ms = self._now_ms()
        given = (self._store.tasks.reschedule(task_id, now_ms) for task_id in held)
        with suppress(Unavailable):  # then their leases end by themselves
            await asyncio.gather(*given)

    # ------------------------------------------------------------ what is due

    async def _round(self) -> bool:
        await self._looks.wait_fewer(REFILL_BELOW)
        await self._pull_back()
        room = AT_ONCE - len(self._looks)
        return await self._claim(room) >= room

    async def _pull_back(self) -> None:
        """Now and then: due times that a clock which had jumped ahead has left behind."""
        loop_s = asyncio.get_running_loop().time()
        if loop_s < self._pull_back_s:
            return
        self._pull_back_s = loop_s + PULL_BACK_EVERY_S
        longest_ms = longest_wait_ms(self._schedule(), self._lease_ms)
        pulled = await self._store.tasks.pull_back(self._now_ms(), longest_ms)
        if pulled:
            self._log.warning("due times of tasks corrected", tasks=pulled)

    def _tick_s(self) -> float:
        return min(max(self._schedule().first_ms / 4000, 0.01), 0.5)

    @property
    def _lease_ms(self) -> int:
        return round(poll_lease_s(self._config().timeouts) * 1000)

    async def _claim(self, room: int) -> int:
        """Lease up to `room` due tasks and start a job for each; returns how many."""
        now_ms = self._now_ms()
        due = await self._store.tasks.claim_due(now_ms, self._lease_ms, room, self._lost_shard)
        for task_id, due_ms in due.items():
            self._lag.observe(max(0, now_ms - due_ms) / 1000)
            if task_id in self._looking:
                self._again.add(task_id)
                continue
            self._looking.add(task_id)
            job = self._looks.start(self._look(task_id), f"poll {task_id}", task_id=task_id)
            job.add_done_callback(partial(self._looked, task_id))
        return len(due)

    def _lost_shard(self, shard: str, fault: ProxyError) -> None:
        """The tasks of one shard cannot be found; those of the others go on."""
        why = getattr(fault, "reason", fault.message)
        self._troubles.error("due tasks of a shard unreadable", about=shard, shard=shard, why=why)

    def _looked(self, task_id: str, _job: asyncio.Task[None]) -> None:
        self._looking.discard(task_id)
        self._again.discard(task_id)

    async def _look(self, task_id: str) -> None:
        """Look once, and once more when it came due again meanwhile: its provider has called
        back, or its owner has deleted it."""
        self._again.add(task_id)
        while task_id in self._again:
            self._again.discard(task_id)
            try:
                await self._look_once(task_id)
            except Unavailable as down:
                self._troubles.warning("poll not recorded", task_id=task_id, why=str(down))
            except Exception:  # noqa: BLE001 -- the rim of a background job: logged
                self._troubles.exception("poll failed", task_id=task_id)

    async def _look_once(self, task_id: str) -> None:
        task = await self._store.tasks.get(task_id)
        if task is None:
            await self._store.tasks.forget_due(task_id)
            return
        if not task.stage.is_final:
            self.oldest_tasks.note(task.id, task.created_ms)
            made_with = self.calls.credential_of(task)
            if made_with is not None:
                await self._pool.renew(task, made_with[1])
        try:
            await self._step(task)
        except BulkheadFull:  # the credential is slow; its tasks keep the pace of polls
            pause_ms = self._schedule().interval_ms * (0.5 + self._random01())
            await self._store.tasks.reschedule(task.id, self._now_ms() + round(pause_ms))

    async def _step(self, task: Task) -> None:
        """One look at a due task. The lease's end brings back what fails here."""
        if task.stage.is_final:
            noted = lifecycle.noted(task, self._now_ms())
            await self._followed.write(task, noted, None, None)
        elif task.is_waiting:
            await self._reconciler.look_at_waiting(task)
        elif task.stage is Stage.RESERVED:
            await self._reconciler.end_reserved(task)
        elif task.stage is Stage.SENT:
            await self._reconciler.reconcile(task)
        else:
            await self._poll(task)

    # ------------------------------------------------------------ called back, deleted

    def ask_now(self, task_id: str) -> None:
        """Its provider says that this task has moved: poll it, whatever the schedule says.

        A poll that is already under way may be older than the news, so this one is made all
        the same, and one more for a call that comes while it is made.
        """
        if task_id in self._called:
            self._called[task_id] = True
            return
        self._called[task_id] = False
        self._callbacks.start(self._ask_now(task_id), f"called back {task_id}", task_id=task_id)

    async def _ask_now(self, task_id: str) -> None:
        try:
            while True:
                self._called[task_id] = False
                task = await self._store.tasks.get(task_id)
                # A task without an upstream id is polled as soon as it has one.
                if task is not None and task.upstream_id is not None and not task.stage.is_final:
                    await self._poll(task)
                if not self._called[task_id]:
                    return
        except BulkheadFull:
            self._log.info("callback not followed: the credential is busy", task_id=task_id)
        except Unavailable as down:
            self._troubles.warning("callback not followed", task_id=task_id, why=str(down))
        except Exception:  # noqa: BLE001 -- the rim of a background job: logged
            self._troubles.exception("poll failed", task_id=task_id)
        finally:
            del self._called[task_id]

    def can_stop(self, task: Task) -> bool:
        """Whether there is a request that stops this task's render."""
        return self.calls.can_stop(task)

    async def cancel(self, task: Task, forwarded: Mapping[str, str]) -> str:
        """Ask the provider to stop a deleted task's render; see `ProviderCalls.cancel`.

        Only a render that really stops is not charged; any other is followed to its end.
        """
        if task.upstream_id is None or self.calls.credential_of(task) is None:
            return "unknown"
        if task.missing_ms is not None:
            # Its upstream did not know it lately. One poll more may be enough to end it, and
            # frees its slot; if the credential is busy, it is polled at its next due time.
            with suppress(BulkheadFull):
                await self._poll(task)
            return "unknown"
        became = await self.calls.cancel(task, forwarded)
        if became == "stopped":
            await self._followed.end(task, lifecycle.CANCELLED, "cancelled at the provider")
        return became

    # ------------------------------------------------------------ polling

    async def _poll(self, task: Task) -> None:
        made_with = self.calls.credential_of(task)
        state: TaskState | Transient = Transient(
            "its upstream or credential left the config", kind="not_configured"
        )
        if made_with is not None:
            async with self.calls.slot(task):
                start_ns = self._tracing.now_ns()
                state = await self.calls.poll(task, *made_with)
            failures = self._followed.failed_polls(task.id) + 1
            self._tracing.record_poll(task, made_with[0], start_ns, state, failures)
        expected_ms = await self._store.durations.usual_ms(task.upstream, task.upstream_model)
        now_ms = self._now_ms()
        if isinstance(state, TaskState):
            self._followed.forget_failures(task.id)
            if await self._advance(task, state, now_ms, expected_ms):
                return
            noted = None
        else:
            self._troubles.info(
                "poll inconclusive",
                about=f"{task.upstream} {state.kind}",
                task_id=task.id,
                upstream=task.upstream,
                why=state.reason,
                kind=state.kind,
            )
            if await self._lose(task, state.kind, now_ms):
                return
            noted = lifecycle.silent(task, state.kind, now_ms)
        if is_overdue(task, now_ms, self._max_age_ms(task)):
            error = TaskError("timeout", "The provider did not finish in time.")
            await self._followed.end(task, error, "gave up waiting")
            return
        due_ms = next_poll_ms(
            task,
            now_ms,
            self._schedule(),
            self._random01(),
            expected_ms=expected_ms,
            retry_after_s=state.retry_after_s if isinstance(state, Transient) else None,
            failures=self._followed.failed_polls(task.id),
        )
        assert due_ms is not None
        ends_ms = lifecycle.loss_due_ms(
            noted or task, self._schedule(), has_replicas=self.calls.has_replicas(task)
        )
        if ends_ms is not None and now_ms < ends_ms:
            due_ms = min(due_ms, ends_ms)
        if noted is None:
            await self._store.tasks.reschedule(task.id, due_ms)
            return
        event = None if noted.missing_ms == task.missing_ms else "its upstream does not know it"
        await self._followed.write(task, noted, due_ms, event)

    async def _lose(self, task: Task, kind: TransientKind, now_ms: int) -> bool:
        """Count an answer that says nothing of the task. True when it was one too many: then the
        task has ended, refunded."""
        silence = self._followed.count_failure(task, kind)
        if not lifecycle.is_silence(kind):
            return False
        how = lifecycle.loss_of(
            task, silence, now_ms, self._schedule(), has_replicas=self.calls.has_replicas(task)
        )
        if how is None:
            return False
        if await self._followed.end(task, lifecycle.LOST[how], f"lost ({how})"):
            self._metrics.count(TASKS_LOST, task.upstream, how)
            self._log.warning("task lost", task_id=task.id, upstream=task.upstream, how=how)
        return True

    async def _advance(
        self, task: Task, state: TaskState, now_ms: int, expected_ms: int | None
    ) -> bool:
        """Write what a poll brought; False when that was nothing new."""
        if state.unknown_state is not None:
            self._metrics.count(UNKNOWN_STATES, task.upstream)
            self._troubles.warning(
                "unknown state",
                about=f"{task.upstream} {state.unknown_state}",
                task_id=task.id,
                upstream=task.upstream,
                state=state.unknown_state,
            )
        if state.progress is None and state.status is Status.IN_PROGRESS:
            guess = lifecycle.estimated_progress(task, now_ms, expected_ms)
            state = replace(state, progress=guess)
        while True:
            moved = lifecycle.advanced(task, state, now_ms)
            if moved is None:
                return False
            due_ms = next_poll_ms(
                moved, now_ms, self._schedule(), self._random01(), expected_ms=expected_ms
            )
            event = None if moved.stage is task.stage else moved.stage.value
            other = await self._followed.write(task, moved, due_ms, event)
            if other is None:
                break
            # Changed meanwhile (deleted, or by an older poll): this answer still counts, and
            # stages only move forward.
            task = other
        if moved.stage is Stage.COMPLETED and moved.bound_ms is not None:
            took_ms = now_ms - moved.bound_ms
            await self._store.durations.add(moved.upstream, moved.upstream_model, took_ms)
        return True

    def _max_age_ms(self, task: Task) -> int:
        config = self._config()
        return max_age_ms(config.routes, task, config.timeouts.task_max_age_s)
