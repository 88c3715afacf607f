"""The life of a task between requests: polling, reconciling, giving up.

Rule: clients never cause upstream polls; status answers come from state. Any number of workers
run a tracker: a task that is due is leased by whichever asks first and taken over when that one
dies. HTTP errors, rate limits and bodies that cannot be read never fail a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import structlog

from proxy import lifecycle
from proxy.config import Config
from proxy.errors import ProxyError, Unavailable
from proxy.lifecycle import Schedule
from proxy.model import (
    Accepted,
    Credential,
    Draft,
    Refused,
    Stage,
    Status,
    Task,
    TaskError,
    TaskState,
    Transient,
    Upstream,
)
from proxy.providers.base import Provider
from proxy.store import Store
from proxy.upstream import Answer, Upstreams, UpstreamTrouble

AT_ONCE = 64  # polls under way in one worker
AT_ONCE_EACH = 16  # of them with one credential
USUAL_LIFE_MS = 30_000


class Tracker:
    """Runs until `aclose`. `clock` gives seconds since the epoch, `random01` the jitter."""

    def __init__(
        self,
        config: Callable[[], Config],
        providers: Mapping[str, Provider],
        store: Store,
        upstreams: Upstreams,
        schedule: Callable[[], Schedule],
        clock: Callable[[], float],
        random01: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._config = config
        self._providers = providers
        self._store = store
        self._upstreams = upstreams
        self._schedule = schedule
        self._clock = clock
        self._random01 = random01
        self._log = log
        self._loop_job: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._turns: dict[tuple[str, str], asyncio.Semaphore] = {}
        self._failures: dict[str, int] = {}  # polls in a row that said nothing, by task
        self._usual: dict[tuple[str, str], tuple[int, int | None]] = {}

    def start(self) -> None:
        self._loop_job = asyncio.create_task(self._run(), name="tracker")

    async def aclose(self) -> None:
        jobs = [*self._jobs, *([self._loop_job] if self._loop_job else [])]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    # ------------------------------------------------------------ what is due

    async def _run(self) -> None:
        while True:
            try:
                found = await self._claim()
            except Unavailable as down:
                self._log.warning("tracker cannot reach the store", why=str(down))
                found = 0
            except Exception:  # noqa: BLE001 -- the outermost rim: logged, counted
                self._log.exception("tracker round failed")
                found = 0
            if found < AT_ONCE:
                await asyncio.sleep(self._tick_s())

    def _tick_s(self) -> float:
        return min(max(self._schedule().first_ms / 4000, 0.01), 0.5)

    async def _claim(self) -> int:
        """Lease what is due and start a job for each; returns how many."""
        now_ms = int(self._clock() * 1000)
        lease_ms = round(self._config().timeouts.lease_s * 1000)
        room = AT_ONCE - len(self._jobs)
        if room <= 0:
            await asyncio.wait(set(self._jobs), return_when=asyncio.FIRST_COMPLETED)
            return AT_ONCE
        ids = await self._store.tasks.claim_due(now_ms, lease_ms, room)
        for task_id in ids:
            job = asyncio.create_task(self._look(task_id), name=f"poll {task_id}")
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
        return len(ids)

    async def _look(self, task_id: str) -> None:
        try:
            task = await self._store.tasks.get(task_id)
            if task is None:
                await self._store.tasks.forget_due(task_id)
            else:
                await self._step(task)
        except Unavailable as down:
            self._log.warning("poll not recorded", task_id=task_id, why=str(down))
        except Exception:  # noqa: BLE001 -- the outermost rim: logged, counted
            self._log.exception("poll failed", task_id=task_id)

    async def _step(self, task: Task) -> None:
        """One look at a due task. The lease's end brings back what fails here."""
        if task.stage.is_final:
            await self._write(task, lifecycle.noted(task, self._now_ms()), None, None)
        elif task.stage is Stage.RESERVED:
            error = TaskError("not_submitted", "It was never submitted: the gateway was stopped.")
            await self._end(task, error, "never sent", never_sent=True)
        elif task.stage is Stage.SENT:
            await self._reconcile(task)
        else:
            await self._poll(task)

    # ------------------------------------------------------------ a submit nobody confirmed

    async def _reconcile(self, task: Task) -> None:
        now_ms = self._now_ms()
        schedule = self._schedule()
        overdue = now_ms - task.created_ms >= schedule.confirm_ms
        place = self._place(task)
        draft = None
        if place is not None:
            draft = self._providers[task.provider].find(task, place[0])
        if place is not None and draft is not None:
            answer = await self._ask(task, draft, *place)
            if answer is not None:
                found = self._providers[task.provider].found(
                    answer.status, answer.headers, answer.body
                )
                if isinstance(found, Accepted):
                    named = lifecycle.bound(task, found, now_ms)
                    due_ms = lifecycle.next_poll_ms(named, now_ms, schedule, self._random01())
                    await self._write(task, named, due_ms, f"found as {found.upstream_id}")
                    return
                if isinstance(found, Refused):
                    error = TaskError("not_submitted", "It never reached the provider.")
                    event = "the upstream does not know it"
                    await self._end(task, error, event, never_sent=True)
                    return
        if overdue:
            error = TaskError(
                "submission_unconfirmed",
                "Nobody can say whether the provider took it; it is not charged.",
            )
            await self._end(task, error, "unconfirmed for too long")
            return
        due_ms = lifecycle.unconfirmed_due_ms(
            task, now_ms, schedule, can_find=place is not None and draft is not None
        )
        await self._write(task, lifecycle.noted(task, now_ms), due_ms, None)

    # ------------------------------------------------------------ polling

    async def _poll(self, task: Task) -> None:
        now_ms = self._now_ms()
        place = self._place(task)
        said: TaskState | Transient = Transient("its upstream or credential left the config")
        if place is not None:
            async with self._turn(task):
                said = await self.ask_state(task, *place)
        expected_ms = await self._usual_ms(task)
        if isinstance(said, TaskState):
            self._failures.pop(task.id, None)
            if await self._take_in(task, said, now_ms, expected_ms):
                return
        else:
            self._failures[task.id] = self._failures.get(task.id, 0) + 1
            self._log.info("poll says nothing", task_id=task.id, why=said.reason)
        if lifecycle.is_overdue(task, now_ms, self._max_age_ms(task)):
            error = TaskError("timeout", "The provider did not finish in time.")
            await self._end(task, error, "gave up waiting")
            return
        due_ms = lifecycle.next_poll_ms(
            task,
            now_ms,
            self._schedule(),
            self._random01(),
            expected_ms=expected_ms,
            retry_after_s=said.retry_after_s if isinstance(said, Transient) else None,
            failures=self._failures.get(task.id, 0),
        )
        assert due_ms is not None
        await self._store.tasks.reschedule(task.id, due_ms)

    async def _take_in(
        self, task: Task, said: TaskState, now_ms: int, expected_ms: int | None
    ) -> bool:
        """Write what a poll brought; False when that was nothing new."""
        if said.unknown_state is not None:
            self._log.warning("unknown state", task_id=task.id, state=said.unknown_state)
        if said.progress is None and said.status is Status.IN_PROGRESS:
            guess = lifecycle.estimated_progress(task, now_ms, expected_ms)
            said = replace(said, progress=guess)
        moved = lifecycle.advanced(task, said, now_ms)
        if moved is None:
            return False
        due_ms = lifecycle.next_poll_ms(
            moved, now_ms, self._schedule(), self._random01(), expected_ms=expected_ms
        )
        event = None if moved.stage is task.stage else moved.stage.value
        await self._write(task, moved, due_ms, event)
        if moved.stage is Stage.COMPLETED and moved.bound_ms is not None:
            took_ms = now_ms - moved.bound_ms
            await self._store.durations.add(moved.upstream, moved.upstream_model, took_ms)
        return True

    @asynccontextmanager
    async def _turn(self, task: Task) -> AsyncIterator[None]:
        """At most `AT_ONCE_EACH` polls of one credential at a time."""
        key = (task.upstream, task.credential)
        turns = self._turns.get(key)
        if turns is None:
            turns = self._turns[key] = asyncio.Semaphore(AT_ONCE_EACH)
        async with turns:
            yield

    async def _usual_ms(self, task: Task) -> int | None:
        """How long this model usually takes on this upstream; asked of the store now and then."""
        key = (task.upstream, task.upstream_model)
        known = self._usual.get(key)
        now_ms = self._now_ms()
        if known is None or now_ms - known[0] > USUAL_LIFE_MS:
            self._usual[key] = known = (now_ms, await self._store.durations.usual_ms(*key))
        return known[1]

    def _max_age_ms(self, task: Task) -> int:
        config = self._config()
        ages = [route.max_age_s for route in config.routes if route.model == task.route]
        seconds = ages[0] if ages and ages[0] is not None else config.timeouts.task_max_age_s
        return round(seconds * 1000)

    async def ask_state(
        self, task: Task, upstream: Upstream, credential: Credential
    ) -> TaskState | Transient:
        """One poll; never raises for what the upstream does."""
        provider = self._providers[task.provider]
        answer = await self._ask(task, provider.poll(task, upstream), upstream, credential)
        if answer is None:
            return Transient("no answer")
        return provider.state(task, answer.status, answer.headers, answer.body)

    async def _ask(
        self, task: Task, draft: Draft, upstream: Upstream, credential: Credential
    ) -> Answer | None:
        provider = self._providers[task.provider]
        outbound = provider.seal(draft, upstream, credential, int(self._clock()))
        try:
            return await self._upstreams.query(upstream, outbound)
        except UpstreamTrouble as trouble:
            self._log.info("no answer", task_id=task.id, upstream=upstream.name, why=str(trouble))
            return None

    async def renew(self, task: Task) -> Task:
        """Ask for fresh result URLs of a completed task: the old ones have expired. Returns the
        task unchanged when the provider has nothing newer; raises UpstreamTrouble when it did
        not say."""
        said = await self.ask_state(task, *self.place(task))
        if isinstance(said, Transient):
            raise UpstreamTrouble(f"fresh result URLs could not be had: {said.reason}")
        fresh = lifecycle.refreshed(task, said.results, self._now_ms())
        if fresh is None:
            return task
        other = await self._store.tasks.swap(task, fresh, None, None, self._retention_s)
        return other or fresh

    async def cancel(self, task: Task) -> str:
        """Ask the provider to stop a deleted task's render: `stopped`, `will_finish` (it knows
        no stopping), or `unknown`."""
        place = self._place(task)
        if task.upstream_id is None or place is None:
            return "unknown"
        draft = self._providers[task.provider].cancel(task, place[0])
        if draft is None:
            return "will_finish"
        answer = await self._ask(task, draft, *place)
        if answer is None or not 200 <= answer.status < 300:
            return "unknown"
        stopped = TaskError("cancelled", "It was cancelled by its owner.")
        await self._end(task, stopped, "cancelled at the provider")
        return "stopped"

    # ------------------------------------------------------------ writing

    async def _end(
        self, task: Task, error: TaskError, event: str, *, never_sent: bool = False
    ) -> None:
        ended = lifecycle.failed(task, error, self._now_ms())
        if ended is not None:
            await self._write(task, ended, None, event, never_sent=never_sent)

    async def _write(
        self,
        task: Task,
        new: Task,
        due_ms: int | None,
        event: str | None,
        *,
        never_sent: bool = False,
    ) -> None:
        """A lost race is fine: whoever won has brought the task forward and set its due time."""
        if new.stage.is_final:
            self._failures.pop(task.id, None)
        await self._store.tasks.swap(
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

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    @property
    def _retention_s(self) -> int:
        return self._config().limits.retention_s


def _lost_place(task: Task) -> ProxyError:
    return Unavailable(
        f"The upstream account that made video '{task.id}' is no longer configured; "
        "its operator has to bring it back.",
        code="upstream_removed",
    )
