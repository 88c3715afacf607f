"""The life of a task between requests: polling, reconciling, giving up.

Rule: clients never cause upstream polls; status answers come from state. Any number of workers
run a tracker: a task that is due is leased by whichever asks first and taken over when that one
dies. HTTP errors, rate limits and bodies that cannot be read never fail a task.

Rule: a lease outlasts whatever one look at a task can take (its turn at the account, the poll,
the writing), so that no task is asked after twice at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

from proxy.caches import BoundedDict
from proxy.errors import ProxyError, Unavailable
from proxy.http.outbound import Draft
from proxy.model import Credential, Stage, Status, Task, TaskError, TaskState, Upstream
from proxy.providers.base import Provider
from proxy.providers.outcomes import Accepted, Outcome, Refused, Transient, TransientKind
from proxy.store import Store
from proxy.tasks import lifecycle
from proxy.tasks.bulkhead import Bulkhead, BulkheadFull
from proxy.tasks.credentials import CredentialPool
from proxy.tasks.lifecycle import Silence
from proxy.tasks.planning import max_age_ms, places_of, reach_of
from proxy.tasks.runtime import Runtime
from proxy.tasks.schedule import (
    confirm_end_ms,
    is_overdue,
    is_settled,
    longest_wait_ms,
    next_poll_ms,
    unconfirmed_due_ms,
)
from proxy.telemetry.metric_definitions import POLL_LAG, TASKS_LOST, UNKNOWN_STATES
from proxy.telemetry.metrics import OldestTasks
from proxy.upstream import Answer, Upstreams, UpstreamTrouble

AT_ONCE = 256  # tasks leased by one worker
AT_ONCE_EACH = 64  # of them being asked after with one credential
FAILURES_KEPT = 20_000
PULL_BACK_EVERY_S = 10.0
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class _Failures:
    """What one worker remembers of a task's polls without an answer."""

    polls: int = 0
    silence: Silence = field(default_factory=Silence)


class Tracker:
    """Runs until `aclose`. `clock` gives seconds since the epoch, `random01` the jitter.
    `metrics` gets how late tasks are looked at, and which upstreams speak of unknown states;
    `oldest_tasks` are the oldest tasks of those it has looked at."""

    def __init__(
        self,
        runtime: Runtime,
        providers: Mapping[str, Provider],
        store: Store,
        upstreams: Upstreams,
    ) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._providers = providers
        self._store = store
        self._upstreams = upstreams
        self._schedule = runtime.schedule
        self._clock = runtime.clock
        self._random01 = runtime.random01
        self._log = runtime.log
        self._loop_job: asyncio.Task[None] | None = None
        self._jobs: dict[str, asyncio.Task[None]] = {}  # by task id
        self._again: set[str] = set()  # of these, those that came due while being looked at
        self._freed = asyncio.Event()
        self._pull_back_s = 0.0  # on the loop's clock
        self._bulkhead = Bulkhead(AT_ONCE_EACH)
        self._pool = CredentialPool(runtime, store)
        self._called: dict[str, bool] = {}  # asked after at once; True: and once more
        self._calls: set[asyncio.Task[None]] = set()
        # Polls in a row of this worker that said nothing, by task. The oldest are forgotten:
        # another worker may have had the task's end.
        self._failures: BoundedDict[str, _Failures] = BoundedDict(FAILURES_KEPT)
        self._metrics = runtime.metrics
        self._lag = runtime.metrics.histogram(POLL_LAG)
        self.oldest_tasks = OldestTasks()
        self._now_ms = runtime.now_ms

    def start(self) -> None:
        self._loop_job = asyncio.create_task(self._run(), name="tracker")

    async def aclose(self) -> None:
        """What was under way is given back: another worker may look at it at once."""
        held = list(self._jobs)
        jobs = [*self._jobs.values(), *self._calls, *([self._loop_job] if self._loop_job else [])]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        now_ms = self._now_ms()
        given = (self._store.tasks.reschedule(task_id, now_ms) for task_id in held)
        with suppress(Unavailable):  # then their leases end by themselves
            await asyncio.gather(*given)

    # ------------------------------------------------------------ what is due

    async def _run(self) -> None:
        while True:
            room = AT_ONCE - len(self._jobs)
            found = 0
            try:
                await self._pull_back()
                found = await self._claim(room)
            except Unavailable as down:
                self._log.warning("tracker cannot reach the store", why=str(down))
            except Exception:  # noqa: BLE001 -- the outermost rim: logged
                self._log.exception("tracker round failed")
            if found < room:
                await asyncio.sleep(self._tick_s())
            # Claiming one by one as places become free would be a round trip for each.
            while len(self._jobs) > AT_ONCE * 3 // 4:
                self._freed.clear()
                await self._freed.wait()

    async def _pull_back(self) -> None:
        """Now and then: due times that a clock which had jumped ahead has left behind."""
        loop_s = asyncio.get_running_loop().time()
        if loop_s < self._pull_back_s:
            return
        self._pull_back_s = loop_s + PULL_BACK_EVERY_S
        lease_ms = round(self._lease_s * 1000)
        longest_ms = longest_wait_ms(self._schedule(), lease_ms)
        pulled = await self._store.tasks.pull_back(self._now_ms(), longest_ms)
        if pulled:
            self._log.warning("due times pulled back", tasks=pulled)

    def _tick_s(self) -> float:
        return min(max(self._schedule().first_ms / 4000, 0.01), 0.5)

    async def _claim(self, room: int) -> int:
        """Lease up to `room` of what is due and start a job for each; returns how many."""
        now_ms = self._now_ms()
        due = await self._store.tasks.claim_due(
            now_ms, round(self._lease_s * 1000), room, self._lost_shard
        )
        for task_id, due_ms in due.items():
            self._lag.observe(max(0, now_ms - due_ms) / 1000)
            if task_id in self._jobs:
                self._again.add(task_id)
                continue
            job = asyncio.create_task(self._look(task_id), name=f"poll {task_id}")
            self._jobs[task_id] = job
            job.add_done_callback(partial(self._looked, task_id))
        return len(due)

    def _lost_shard(self, shard: str, fault: ProxyError) -> None:
        """The tasks of one shard cannot be found; those of the others go on."""
        why = getattr(fault, "reason", fault.message)
        self._log.error("due tasks of a shard unreadable", shard=shard, why=why)

    def _looked(self, task_id: str, _job: asyncio.Task[None]) -> None:
        del self._jobs[task_id]
        self._again.discard(task_id)
        self._freed.set()

    @property
    def _lease_s(self) -> float:
        timeouts = self._config().timeouts
        return max(timeouts.lease_s, 1.5 * timeouts.poll_s)

    @property
    def _patience_s(self) -> float:
        """How long a task may wait for its turn at the account: half of what the lease has left
        beside the poll itself. The other half is for the store."""
        return (self._lease_s - self._config().timeouts.poll_s) / 2

    async def _look(self, task_id: str) -> None:
        """Look once, and once more when it came due again meanwhile: its provider has called
        back, or its owner has deleted it."""
        self._again.add(task_id)
        while task_id in self._again:
            self._again.discard(task_id)
            try:
                await self._look_once(task_id)
            except Unavailable as down:
                self._log.warning("poll not recorded", task_id=task_id, why=str(down))
            except Exception:  # noqa: BLE001 -- the outermost rim: logged
                self._log.exception("poll failed", task_id=task_id)

    async def _look_once(self, task_id: str) -> None:
        task = await self._store.tasks.get(task_id)
        if task is None:
            await self._store.tasks.forget_due(task_id)
            return
        if not task.stage.is_final:
            self.oldest_tasks.note(task.id, task.created_ms)
        place = self._place(task)
        if place is not None and not task.stage.is_final:
            await self._pool.renew(task, place[1])
        try:
            await self._step(task)
        except BulkheadFull:  # the account is slow; its tasks keep the pace of polls
            pause_ms = self._schedule().interval_ms * (0.5 + self._random01())
            await self._store.tasks.reschedule(task.id, self._now_ms() + round(pause_ms))

    async def _step(self, task: Task) -> None:
        """One look at a due task. The lease's end brings back what fails here."""
        if task.stage.is_final:
            await self._write(task, lifecycle.noted(task, self._now_ms()), None, None)
        elif task.is_waiting:
            await self._look_at_waiting(task)
        elif task.stage is Stage.RESERVED:
            error = TaskError("not_submitted", "It was never submitted: the gateway was stopped.")
            await self._end(task, error, "never sent", never_sent=True)
            known = await self._store.tasks.get(task.id)
            if known is None or known.stage.is_final:  # else it was sent this moment
                await self._pool.release_all(task.id, self._reach(task))
        elif task.stage is Stage.SENT:
            await self._reconcile(task)
        else:
            await self._poll(task)

    async def _look_at_waiting(self, task: Task) -> None:
        """In its queue, or put back there. No due time is written: somebody may begin to send it
        this moment, and the lease brings it back."""
        config = self._config()
        error = lifecycle.end_of_wait(
            task,
            self._now_ms(),
            self._max_age_ms(task),
            has_place=bool(places_of(config.routes, config.upstreams, task)),
        )
        if error is not None:
            is_free = error is not lifecycle.CANCELLED  # the names its owner took for it
            await self._end(task, error, "never sent", never_sent=is_free)
            return
        waiting = self._store.waiting
        if not await waiting.has(task.queue, task.id):
            await waiting.join(task.queue, task)
            known = await self._store.tasks.get(task.id)
            if known is None or not known.is_waiting:  # that was why
                await waiting.leave(task.queue, task.id)
                return
        if await self._pool.has_slot(task.id, self._reach(task)):
            await self._vacate_waiting(task)

    async def _vacate_waiting(self, task: Task) -> None:
        """It waits and has a place: somebody is about to send it, or died before he could. Who
        gets its lease knows which."""
        waiting, now_ms = self._store.waiting, self._now_ms()
        if not await waiting.hold(
            task.queue, task.id, now_ms, now_ms + round(self._lease_s * 1000)
        ):
            return
        known = await self._store.tasks.get(task.id)
        if known is not None and known.version == task.version:
            await self._pool.release_all(task.id, self._reach(task))
        await waiting.release(task.queue, task.id)

    def _reach(self, task: Task) -> list[tuple[Upstream, Credential]]:
        config = self._config()
        return reach_of(config.routes, config.upstreams, task)

    def ask_now(self, task_id: str) -> None:
        """Its provider says that this task has moved: ask, whatever the schedule says.

        A poll that is already under way may be older than the news, so this one is made all
        the same, and one more for a call that comes while it is made.
        """
        if task_id in self._called:
            self._called[task_id] = True
            return
        self._called[task_id] = False
        job = asyncio.create_task(self._ask_now(task_id), name=f"called back {task_id}")
        self._calls.add(job)
        job.add_done_callback(self._calls.discard)

    async def _ask_now(self, task_id: str) -> None:
        try:
            while True:
                self._called[task_id] = False
                task = await self._store.tasks.get(task_id)
                # One that has no upstream id yet is asked after as soon as it has.
                if task is not None and task.upstream_id is not None and not task.stage.is_final:
                    await self._poll(task)
                if not self._called[task_id]:
                    return
        except BulkheadFull:
            self._log.info("callback not followed: the account is busy", task_id=task_id)
        except Unavailable as down:
            self._log.warning("callback not followed", task_id=task_id, why=str(down))
        except Exception:  # noqa: BLE001 -- the outermost rim: logged, counted
            self._log.exception("poll failed", task_id=task_id)
        finally:
            del self._called[task_id]

    # ------------------------------------------------------------ a submit nobody confirmed

    async def _reconcile(self, task: Task) -> None:
        schedule = self._schedule()
        settled_ms = (task.sent_ms or 0) + schedule.settle_ms
        if not task.unconfirmed and self._now_ms() < settled_ms:
            await self._store.tasks.reschedule(task.id, settled_ms)  # it may be on its way
            return
        place = self._place(task)
        draft = None
        if place is not None:
            draft = self._providers[task.provider].find(task, place[0])
        found: Outcome | Transient | None = None
        if place is not None and draft is not None:
            async with self._turn(task):
                start_ns = self._tracing.now_ns()
                answer = await self._ask(task, draft, *place)
            if answer is not None:
                found = self._providers[task.provider].found(
                    answer.status, answer.headers, answer.body
                )
            word = "nothing" if found is None else type(found).__name__.lower()
            is_ok = isinstance(found, (Accepted, Refused))
            self._tracing.record_query(task, "find", place[0], start_ns, word, ok=is_ok)
        now_ms = self._now_ms()
        if isinstance(found, Accepted):
            named = lifecycle.bound(task, found, now_ms)
            due_ms = next_poll_ms(named, now_ms, schedule, self._random01())
            await self._write(task, named, due_ms, f"found as {found.upstream_id}")
            return
        settled = is_settled(task, now_ms, schedule)
        if isinstance(found, Refused) and settled:
            error = TaskError("not_submitted", "It never reached the provider.")
            event = "the upstream does not know it"
            await self._end(task, error, event, never_sent=True)
            return
        if place is not None and draft is None:
            # Nobody can be asked, now or later. Whoever sent it did not live to write that down.
            await self._end(task, lifecycle.UNCONFIRMED, "unconfirmed: its sender is gone")
            return
        if now_ms >= confirm_end_ms(task, schedule):
            await self._end(task, lifecycle.UNCONFIRMED, "unconfirmed for too long")
            return
        due_ms = unconfirmed_due_ms(
            task, now_ms, schedule, can_find=draft is not None, is_settled=settled
        )
        if task.unconfirmed:
            await self._store.tasks.reschedule(task.id, due_ms)
        else:  # whoever sent it did not live to say what came of it
            event = "unconfirmed: whoever sent it is gone"
            await self._write(task, lifecycle.unconfirmed(task, now_ms), due_ms, event)

    # ------------------------------------------------------------ polling

    async def _poll(self, task: Task) -> None:
        place = self._place(task)
        said: TaskState | Transient = Transient(
            "its upstream or credential left the config", kind="not_configured"
        )
        if place is not None:
            async with self._turn(task):
                start_ns = self._tracing.now_ns()
                said = await self.ask_state(task, *place)
            failures = self._failed_polls(task.id) + 1
            self._tracing.record_poll(task, place[0], start_ns, said, failures)
        expected_ms = await self._store.durations.usual_ms(task.upstream, task.upstream_model)
        now_ms = self._now_ms()
        if isinstance(said, TaskState):
            self._failures.pop(task.id, None)
            if await self._take_in(task, said, now_ms, expected_ms):
                return
            noted = None
        else:
            self._log.info("poll inconclusive", task_id=task.id, why=said.reason, kind=said.kind)
            if await self._lose(task, said.kind, now_ms):
                return
            noted = lifecycle.silent(task, said.kind, now_ms)
        if is_overdue(task, now_ms, self._max_age_ms(task)):
            error = TaskError("timeout", "The provider did not finish in time.")
            await self._end(task, error, "gave up waiting")
            return
        due_ms = next_poll_ms(
            task,
            now_ms,
            self._schedule(),
            self._random01(),
            expected_ms=expected_ms,
            retry_after_s=said.retry_after_s if isinstance(said, Transient) else None,
            failures=self._failed_polls(task.id),
        )
        assert due_ms is not None
        ends_ms = lifecycle.loss_due_ms(
            noted or task, self._schedule(), has_replicas=self._has_replicas(task)
        )
        if ends_ms is not None and now_ms < ends_ms:
            due_ms = min(due_ms, ends_ms)
        if noted is None:
            await self._store.tasks.reschedule(task.id, due_ms)
            return
        event = None if noted.missing_ms == task.missing_ms else "its upstream does not know it"
        await self._write(task, noted, due_ms, event)

    async def _lose(self, task: Task, kind: TransientKind, now_ms: int) -> bool:
        """Count an answer that says nothing of the task. True when it was one too many: then the
        task has ended, refunded."""
        silence = self._count_failure(task, kind)
        if not lifecycle.is_silence(kind):
            return False
        how = lifecycle.loss_of(
            task, silence, now_ms, self._schedule(), has_replicas=self._has_replicas(task)
        )
        if how is None:
            return False
        error = lifecycle.LOST[how]
        if await self._end(task, error, f"lost ({how})"):
            self._metrics.count(TASKS_LOST, task.upstream, how)
            self._log.warning("task lost", task_id=task.id, upstream=task.upstream, how=how)
        return True

    def _has_replicas(self, task: Task) -> bool:
        upstream = self._config().upstreams.get(task.upstream)
        return upstream is None or self._providers[task.provider].has_replicas(upstream)

    async def _take_in(
        self, task: Task, said: TaskState, now_ms: int, expected_ms: int | None
    ) -> bool:
        """Write what a poll brought; False when that was nothing new."""
        if said.unknown_state is not None:
            self._metrics.count(UNKNOWN_STATES, task.upstream)
            self._log.warning("unknown state", task_id=task.id, state=said.unknown_state)
        if said.progress is None and said.status is Status.IN_PROGRESS:
            guess = lifecycle.estimated_progress(task, now_ms, expected_ms)
            said = replace(said, progress=guess)
        while True:
            moved = lifecycle.advanced(task, said, now_ms)
            if moved is None:
                return False
            due_ms = next_poll_ms(
                moved, now_ms, self._schedule(), self._random01(), expected_ms=expected_ms
            )
            event = None if moved.stage is task.stage else moved.stage.value
            other = await self._write(task, moved, due_ms, event)
            if other is None:
                break
            # Changed meanwhile (deleted, or by an older poll): this answer still counts, and
            # stages only move forward.
            task = other
        if moved.stage is Stage.COMPLETED and moved.bound_ms is not None:
            took_ms = now_ms - moved.bound_ms
            await self._store.durations.add(moved.upstream, moved.upstream_model, took_ms)
        return True

    def _turn(self, task: Task) -> AbstractAsyncContextManager[None]:
        """TurnedAway when the account has been too slow for too long."""
        return self._bulkhead.enter((task.upstream, task.credential), self._patience_s)

    def _failed_polls(self, task_id: str) -> int:
        known = self._failures.get(task_id)
        return 0 if known is None else known.polls

    def _count_failure(self, task: Task, kind: TransientKind) -> Silence:
        """One more poll of this worker that said nothing. Where a silence stands in the task that
        this worker has not counted from its beginning, another worker had the first answer."""
        known = self._failures.get(task.id) or _Failures()
        silence = known.silence
        if task.silent_ms is None:
            silence = Silence()
        else:
            silence = replace(silence, answers=max(silence.answers, 1))
        if task.missing_ms is None:
            silence = replace(silence, missing=0)
        else:
            silence = replace(silence, missing=max(silence.missing, 1))
        if lifecycle.is_silence(kind):
            silence = Silence(silence.answers + 1, silence.missing + (kind == "not_found"))
        self._failures[task.id] = _Failures(known.polls + 1, silence)
        self._failures.move_to_end(task.id)
        return silence

    def _max_age_ms(self, task: Task) -> int:
        config = self._config()
        return max_age_ms(config.routes, task, config.timeouts.task_max_age_s)

    async def ask_state(
        self, task: Task, upstream: Upstream, credential: Credential
    ) -> TaskState | Transient:
        """One poll; never raises for what the upstream does."""
        provider = self._providers[task.provider]
        answer = await self._ask(task, provider.poll(task, upstream), upstream, credential)
        if answer is None:
            return Transient("no answer", kind="no_answer")
        return provider.state(task, answer.status, answer.headers, answer.body)

    async def _ask(
        self,
        task: Task,
        draft: Draft,
        upstream: Upstream,
        credential: Credential,
        forwarded: Mapping[str, str] = NO_HEADERS,
    ) -> Answer | None:
        provider = self._providers[task.provider]
        outbound = provider.seal(draft, upstream, credential, int(self._clock()))
        outbound.headers.update(forwarded)
        try:
            return await self._upstreams.query(upstream, outbound)
        except UpstreamTrouble as trouble:
            self._log.info("no answer", task_id=task.id, upstream=upstream.name, why=str(trouble))
            return None

    async def renew(self, task: Task) -> Task:
        """Ask for fresh result URLs of a completed task: the old ones have expired. Returns the
        task unchanged when the provider has nothing newer; raises Forgotten when it does not know
        the task, UpstreamTrouble when it did not say."""
        upstream, credential = self.place(task)
        provider = self._providers[task.provider]
        answer = await self._ask(task, provider.poll(task, upstream), upstream, credential)
        if answer is None:
            raise UpstreamTrouble("fresh result URLs could not be had: no answer")
        said = provider.state(task, answer.status, answer.headers, answer.body)
        if isinstance(said, Transient):
            found = provider.found(answer.status, answer.headers, answer.body)
            if isinstance(found, Refused) or said.kind == "not_found":
                raise Forgotten("the provider does not know this task")
            raise UpstreamTrouble(f"fresh result URLs could not be had: {said.reason}")
        if said.status is Status.FAILED:  # it has dropped what it had made
            raise Forgotten("the provider no longer has this task's result")
        fresh = lifecycle.refreshed(task, said.results, self._now_ms())
        if fresh is None:
            return task
        try:
            other = await self._store.tasks.swap(task, fresh, None, None, self._retention_s)
        except Unavailable as down:  # the addresses are good all the same
            self._log.warning("fresh result URLs not recorded", task_id=task.id, why=str(down))
            return fresh
        return other or fresh

    async def cancel(self, task: Task, forwarded: Mapping[str, str]) -> str:
        """Ask the provider to stop a deleted task's render: `stopped`, `will_finish` (it cannot
        stop a render, or says no to it), or `unknown`. Only a render that really stops is not
        charged; any other is followed to its end. `forwarded` are headers of whoever deleted it.
        """
        place = self._place(task)
        if task.upstream_id is None or place is None:
            return "unknown"
        if task.missing_ms is not None:
            await self._poll_missing(task)
            return "unknown"
        provider = self._providers[task.provider]
        draft = provider.cancel(task, place[0])
        if draft is None:
            return "will_finish"
        answer = await self._ask(task, draft, *place, forwarded)
        if answer is None:
            return "unknown"
        became = provider.cancelled(task, place[0], answer.status, answer.headers, answer.body)
        if became == "stopped":
            await self._end(task, lifecycle.CANCELLED, "cancelled at the provider")
        return became

    def can_stop(self, task: Task) -> bool:
        """Whether there is a request that stops this task's render."""
        place = self._place(task)
        if place is None or task.upstream_id is None:
            return False
        return self._providers[task.provider].cancel(task, place[0]) is not None

    async def _poll_missing(self, task: Task) -> None:
        """Ask once more after a task its upstream did not know lately: if that was often enough,
        it has ended and its place is free."""
        with suppress(BulkheadFull):  # then it is asked after at its next due time
            await self._poll(task)

    # ------------------------------------------------------------ writing

    async def _end(
        self, task: Task, error: TaskError, event: str, *, never_sent: bool = False
    ) -> bool:
        """Fail a task; False when it was not ours to fail. One that was deleted or polled
        meanwhile fails all the same; one that has ended, or was sent or bound meanwhile, is not
        what its caller has judged."""
        known: Task | None = task
        while known is not None and (known.stage is task.stage or task.upstream_id is not None):
            ended = lifecycle.failed(known, error, self._now_ms())
            if ended is None:
                return False
            known = await self._write(known, ended, None, event, never_sent=never_sent)
            if known is None:
                return True
        return False

    async def _write(
        self,
        task: Task,
        new: Task,
        due_ms: int | None,
        event: str | None,
        *,
        never_sent: bool = False,
    ) -> Task | None:
        """None when written. A lost race is fine: whoever won has brought the task forward and
        set its due time; this is the task as it is then."""
        if new.stage.is_final:
            self._failures.pop(task.id, None)
            self.oldest_tasks.ended(task.id)
        return await self._store.tasks.swap(
            task, new, due_ms, event, self._retention_s, never_sent=never_sent
        )

    def _place(self, task: Task) -> tuple[Upstream, Credential] | None:
        """The upstream and credential that made the task: the only ones that may ask after it."""
        upstream = self._config().upstreams.get(task.upstream)
        if upstream is None or upstream.provider != task.provider:
            return None
        for credential in upstream.credentials:
            if credential.name == task.credential:
                return upstream, credential
        return None

    def place(self, task: Task) -> tuple[Upstream, Credential]:
        """The same for a download; raises what the client is to be told."""
        found = self._place(task)
        if found is None:
            raise _lost_place(task)
        return found

    @property
    def _retention_s(self) -> int:
        return self._config().limits.retention_s


class Forgotten(UpstreamTrouble):
    """A provider says that it does not know a task that it has finished."""


def _lost_place(task: Task) -> ProxyError:
    return Unavailable(
        f"The upstream account that made video '{task.id}' is no longer configured; "
        "its operator has to bring it back.",
        code="upstream_removed",
    )
