"""The birth of a task: from a `VideoRequest` to a task the upstream has accepted.

Rule: the task is durable before the upstream hears of it, `sent` is written before the first
byte goes out, and attempt n+1 opens only when attempt n was provably refused. What nobody can
confirm is never sent again.

The upstream part runs in a job of its own: a client that leaves half-way changes nothing, and
one that asks again is given the same job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass

import structlog

from proxy import lifecycle
from proxy.config import Config
from proxy.dialects.answers import remembered
from proxy.errors import (
    Invalid,
    NotFound,
    ProxyError,
    Unavailable,
    Unprocessable,
    UpstreamFailed,
)
from proxy.lifecycle import Schedule
from proxy.model import (
    Accepted,
    Exchange,
    Outbound,
    Outcome,
    Principal,
    Refused,
    Stage,
    Task,
    TaskError,
    Unknown,
    VideoRequest,
)
from proxy.planning import Attempt, attempts_of, route_for
from proxy.providers.base import Provider
from proxy.store import Store, StoreFull, Taken, Why
from proxy.store.keys import new_task_id
from proxy.upstream import Ambiguous, NotSent, Upstreams
from proxy.watch import Watch

# How long a change the store cannot take is tried again; afterwards the tracker's own
# reconciliation has to find the task.
STORE_TRIES = 60
STORE_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Ask:
    """A submit as the gateway read it. `fingerprint` is of what was asked; `idempotency` the
    hash of the client's key; `retries` how often the client says it has asked before."""

    request: VideoRequest
    fingerprint: str
    idempotency: str | None
    retries: int
    forwarded: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Born:
    """The task a submit has, and whether an earlier submit made it."""

    task: Task
    replayed: bool = False


class Submitter:
    """Makes tasks. `clock` gives seconds since the epoch; `entropy(n)` n random bytes as hex;
    `random01` a number in [0, 1) for the weighted choice; `callback_url(task id)` an address of
    ours the provider may call; `is_full` whether the store takes no new tasks."""

    def __init__(
        self,
        config: Callable[[], Config],
        providers: Mapping[str, Provider],
        store: Store,
        watch: Watch,
        upstreams: Upstreams,
        schedule: Callable[[], Schedule],
        clock: Callable[[], float],
        callback_url: Callable[[str], str | None],
        is_full: Callable[[], bool],
        entropy: Callable[[int], str],
        random01: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._config = config
        self._providers = providers
        self._store = store
        self._watch = watch
        self._upstreams = upstreams
        self._schedule = schedule
        self._clock = clock
        self._callback_url = callback_url
        self._is_full = is_full
        self._entropy = entropy
        self._random01 = random01
        self._log = log
        self._jobs: dict[str, asyncio.Task[Task]] = {}
        self._chores: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """Wait for submits under way: each ends within its own deadlines. What the store still
        does not take is left to the tracker."""
        while self._jobs:
            await asyncio.wait(set(self._jobs.values()))
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def submit(
        self, exchange: Exchange, principal: Principal, ask: Ask, release: Callable[[], None]
    ) -> Born:
        """Returns the accepted (or unconfirmed) task; raises what the client is to be told.
        `release` frees the uploads; it is called once, when nobody needs them any more."""
        held = True
        last: str | None = None  # the id whose names were still taken when we looked last
        try:
            if self._is_full():
                raise StoreFull("above the memory mark")
            while True:
                source = await self._source(principal, ask.request)
                task, attempts = self._prepare(principal, ask, source)
                taken = await self._reserve(task, ask.retries)
                if taken is None:
                    held = False
                    return Born(await self._begin(exchange, task, attempts, ask, release))
                again, last = taken.what == last, taken.what
                earlier = await self._earlier(exchange, taken, ask.request, again=again)
                if earlier is not None:
                    return Born(earlier, replayed=True)
        finally:
            if held:
                release()

    async def _begin(
        self,
        exchange: Exchange,
        task: Task,
        attempts: Sequence[Attempt],
        ask: Ask,
        release: Callable[[], None],
    ) -> Task:
        exchange.task_id, exchange.route = task.id, task.route
        job = asyncio.create_task(
            self._drive(exchange, task, attempts, ask.forwarded), name=f"submit {task.id}"
        )
        self._jobs[task.id] = job
        job.add_done_callback(lambda done: self._ended(task.id, done, release))
        return await asyncio.shield(job)

    def _ended(self, task_id: str, job: asyncio.Task[Task], release: Callable[[], None]) -> None:
        del self._jobs[task_id]
        release()
        error = None if job.cancelled() else job.exception()
        if error is not None and not isinstance(error, ProxyError):
            # The waiting request has it too; that of a client that left does not.
            self._log.error("submit failed", job=job.get_name(), exc_info=error)

    # ------------------------------------------------------------ decide

    def _prepare(
        self, principal: Principal, ask: Ask, source: Task | None
    ) -> tuple[Task, list[Attempt]]:
        config, request = self._config(), ask.request
        model = source.model if source is not None else request.model
        route = route_for(config.routes, principal, request, model)
        task_id = new_task_id(principal.owner, self._entropy(23))
        attempts = attempts_of(
            route,
            config.upstreams,
            self._providers,
            request,
            task_id,
            source,
            model,
            self._random01,
            self._callback_url(task_id),
        )
        now_ms = self._now_ms()
        task = Task(
            id=task_id,
            owner=principal.owner,
            token_id=principal.token_id,
            dialect=request.dialect,
            operation=request.operation,
            kind=request.kind,
            model=model,
            created_ms=now_ms,
            updated_ms=now_ms,
            prompt=request.prompt,
            request=remembered(request),
            external_id=request.external_id,
            source_id=request.source_id,
            route=route.model,
            fingerprint=ask.fingerprint,
            idempotency=ask.idempotency,
            webhook=request.callback_url or principal.webhook,
        )
        return task, attempts

    async def _source(self, principal: Principal, request: VideoRequest) -> Task | None:
        if request.source_id is None:
            return None
        source = await self._store.tasks.get(request.source_id)
        if source is None or source.deleted or source.token_id != principal.token_id:
            raise NotFound(f"Video with id '{request.source_id}' not found.", param="video")
        return source

    # ------------------------------------------------------------ who was there before

    async def _reserve(self, task: Task, retries: int) -> Taken | None:
        lease_ms = round(self._config().timeouts.lease_s * 1000)
        taken = await self._store.tasks.reserve(task, task.created_ms + lease_ms, retries)
        return None if taken is not None and taken.why is Why.SAME else taken

    async def _earlier(
        self, exchange: Exchange, taken: Taken, request: VideoRequest, *, again: bool
    ) -> Task | None:
        """The task an earlier submit made, once its outcome is known; None when that one was
        refused, so that this one may try. A refused one frees its names: the second time
        (`again`) it is one that failed later and was deleted by its owner."""
        if taken.why is Why.ALIAS:
            raise Invalid(
                f"'external_task_id' {request.external_id!r} was used before, "
                f"by task {taken.what}.",
                param="external_task_id",
            )
        if taken.why is Why.MISMATCH:
            raise Unprocessable(
                "This Idempotency-Key was used within the last 24 hours for another request; "
                "use a new key, or repeat that request exactly.",
                param="Idempotency-Key",
            )
        exchange.task_id = taken.what
        job = self._jobs.get(taken.what)
        if job is not None:
            return await asyncio.shield(job)  # a refusal is everybody's who waited for it
        seconds = self._config().timeouts.submit_s + self._config().timeouts.connect_s
        task = await self._watch.until(taken.what, _has_outcome, seconds)
        if task is None or (task.stage is Stage.FAILED and task.deleted and not again):
            return None
        exchange.route = task.route
        return task

    # ------------------------------------------------------------ act

    async def _drive(
        self,
        exchange: Exchange,
        task: Task,
        attempts: Sequence[Attempt],
        forwarded: Mapping[str, str],
    ) -> Task:
        refusal: Refused | None = None
        for attempt in attempts:
            exchange.upstream, exchange.credential = attempt.upstream.name, attempt.credential.name
            outbound = self._seal(attempt, forwarded)
            task = await self._mark_sent(task, attempt)
            outcome = await self._send(attempt, outbound)
            if isinstance(outcome, Accepted):
                return await self._bind(task, outcome)
            if isinstance(outcome, Unknown):
                return await self._unconfirmed(task, attempt, outcome)
            refusal = outcome
            self._log.warning(
                "submit refused",
                task_id=task.id,
                upstream=attempt.upstream.name,
                credential=attempt.credential.name,
                code=outcome.provider_code or outcome.error.code,
                message=str(outcome.error),
            )
            if not outcome.elsewhere:
                break
        assert refusal is not None
        await self._close_refused(task, refusal)
        raise refusal.error

    def _seal(self, attempt: Attempt, forwarded: Mapping[str, str]) -> Outbound:
        outbound = attempt.provider.seal(
            attempt.draft, attempt.upstream, attempt.credential, int(self._clock())
        )
        outbound.headers.update(forwarded)
        return outbound

    async def _mark_sent(self, task: Task, attempt: Attempt) -> Task:
        now_ms = self._now_ms()
        marked = lifecycle.sent(
            task,
            now_ms,
            attempt.upstream,
            attempt.credential,
            attempt.upstream_model,
            attempt.draft,
            attempt.rendered,
        )
        due_ms = now_ms + self._schedule().settle_ms
        event = (
            f"sent attempt {marked.attempt} to {attempt.upstream.name}/{attempt.credential.name}"
        )
        try:
            other = await self._store.tasks.swap(
                task,
                marked,
                due_ms,
                event,
                self._retention_s,
                durability=self._config().redis.durability,
            )
        except Unavailable:
            # It may stand as sent although nothing was: say so as soon as the store listens.
            self._later(self._give_up(marked), f"give up {task.id}")
            raise
        if other is not None:
            raise Unavailable(
                "The request waited too long and was given up; nothing was submitted.",
                retry_after_s=1,
            )
        return marked

    async def _give_up(self, marked: Task) -> None:
        """Close an attempt that was (perhaps) written as sent and never left."""
        error = TaskError("not_submitted", "The gateway's store failed before it was submitted.")
        for _try in range(STORE_TRIES):
            await asyncio.sleep(STORE_PAUSE_S)
            try:
                task = await self._store.tasks.get(marked.id)
                if task is None or task.stage not in (Stage.RESERVED, Stage.SENT):
                    return
                ended = lifecycle.failed(task, error, self._now_ms(), hidden=True)
                assert ended is not None
                lost = await self._swap_refused(task, ended, "never sent: the store failed")
            except Unavailable:
                continue
            if not lost:
                return

    async def _send(self, attempt: Attempt, outbound: Outbound) -> Outcome:
        try:
            answer = await self._upstreams.submit(attempt.upstream, outbound)
        except NotSent as error:
            self._log.warning(
                "upstream unreachable", upstream=attempt.upstream.name, why=str(error)
            )
            failure = UpstreamFailed(
                f"The upstream '{attempt.upstream.name}' cannot be reached; nothing was submitted.",
                code="upstream_unreachable",
                retry_after_s=5,
            )
            return Refused(failure, elsewhere=True)
        except Ambiguous as error:
            return Unknown(str(error))
        return attempt.provider.outcome(answer.status, answer.headers, answer.body)

    async def _bind(self, task: Task, accepted: Accepted) -> Task:
        """The upstream has the job: whatever the store does now, the client gets its task."""
        try:
            return await self._write_bound(task, accepted)
        except Unavailable as down:
            self._log.warning("bind delayed", task_id=task.id, why=str(down))
        self._later(self._bind_later(task, accepted), f"bind {task.id}")
        return lifecycle.bound(task, accepted, self._now_ms())

    async def _bind_later(self, task: Task, accepted: Accepted) -> None:
        for _try in range(STORE_TRIES):
            await asyncio.sleep(STORE_PAUSE_S)
            try:
                await self._write_bound(task, accepted)
            except Unavailable:
                continue
            return
        self._log.error("bind lost", task_id=task.id, upstream_id=accepted.upstream_id)

    async def _write_bound(self, task: Task, accepted: Accepted) -> Task:
        event = f"accepted as {accepted.upstream_id}"
        while True:
            now_ms = self._now_ms()
            named = lifecycle.bound(task, accepted, now_ms)
            due_ms = lifecycle.next_poll_ms(named, now_ms, self._schedule(), self._random01())
            other = await self._store.tasks.swap(task, named, due_ms, event, self._retention_s)
            if other is None:
                return named
            if other.stage is not Stage.SENT:
                return other  # given up meanwhile: it has an end already, and only one
            task = other

    async def _unconfirmed(self, task: Task, attempt: Attempt, outcome: Unknown) -> Task:
        now_ms = self._now_ms()
        can_find = attempt.provider.find(task, attempt.upstream) is not None
        due_ms = lifecycle.unconfirmed_due_ms(task, now_ms, self._schedule(), can_find=can_find)
        noted = lifecycle.unconfirmed(task, now_ms)
        self._log.warning("submit unconfirmed", task_id=task.id, why=outcome.reason)
        try:
            other = await self._store.tasks.swap(
                task, noted, due_ms, f"unconfirmed: {outcome.reason}"[:500], self._retention_s
            )
        except Unavailable:
            return task  # it stays `sent` with the due time it has: the tracker comes back to it
        return other or noted

    async def _close_refused(self, task: Task, refusal: Refused) -> None:
        error = TaskError(refusal.error.code, refusal.error.message, refusal.provider_code)
        ended = lifecycle.failed(task, error, self._now_ms(), hidden=True)
        assert ended is not None
        try:
            await self._swap_refused(
                task, ended, f"refused: {refusal.provider_code or refusal.error.code}"
            )
        except Unavailable as down:
            self._log.warning("refusal not recorded", task_id=task.id, why=str(down))

    async def _swap_refused(self, task: Task, ended: Task, event: str) -> bool:
        """End a task no upstream took, its names free again. True when somebody was faster."""
        other = await self._store.tasks.swap(
            task, ended, None, event, self._retention_s, never_sent=True
        )
        return other is not None

    def _later(self, work: Coroutine[object, object, None], name: str) -> None:
        job = asyncio.create_task(work, name=name)
        self._chores.add(job)
        job.add_done_callback(self._chores.discard)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    @property
    def _retention_s(self) -> int:
        return self._config().limits.retention_s


def _has_outcome(task: Task) -> bool:
    """The first submit has its answer, or has given up on one."""
    return task.unconfirmed or task.stage not in (Stage.RESERVED, Stage.SENT)
