"""The birth of a task: from a `VideoRequest` to a task the upstream has accepted.

Rule: the task is durable before the upstream hears of it, `sent` is written before the first
byte goes out, and attempt n+1 opens only when attempt n was provably refused. What nobody can
confirm is never sent again.

The upstream part runs in a job of its own: a client that leaves half-way changes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from proxy import lifecycle
from proxy.config import Config
from proxy.dialects.answers import remembered
from proxy.errors import Invalid, ModelNotFound, NotFound, ProxyError, Unavailable, UpstreamFailed
from proxy.lifecycle import Schedule
from proxy.model import (
    Accepted,
    Credential,
    DialectName,
    Draft,
    Exchange,
    Outbound,
    Outcome,
    Principal,
    Refused,
    Rendered,
    Route,
    Stage,
    Task,
    TaskError,
    Unknown,
    Upstream,
    VideoRequest,
)
from proxy.providers.base import Provider
from proxy.rewrite import enforce_fit, rewrite
from proxy.routing import allowed_models, candidates, choose_route, permits
from proxy.store import Store
from proxy.store.keys import new_task_id
from proxy.upstream import Ambiguous, NotSent, Upstreams

# How long a bind that the store cannot take is tried again; afterwards the tracker's own
# reconciliation has to find the task.
BIND_TRIES = 60
BIND_PAUSE_S = 0.5

_MODEL_FIELD: Mapping[DialectName, str] = {"kling": "model_name", "jimeng": "req_key"}


@dataclass(frozen=True, slots=True)
class Attempt:
    """Everything needed to send one request to one credential, decided before anything moves."""

    upstream: Upstream
    credential: Credential
    upstream_model: str
    provider: Provider
    draft: Draft
    rendered: Rendered


class Submitter:
    """Makes tasks. `clock` gives seconds since the epoch; `entropy(n)` n random bytes as hex;
    `random01` a number in [0, 1) for the weighted choice."""

    def __init__(
        self,
        config: Callable[[], Config],
        providers: Mapping[str, Provider],
        store: Store,
        upstreams: Upstreams,
        schedule: Callable[[], Schedule],
        clock: Callable[[], float],
        entropy: Callable[[int], str],
        random01: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._config = config
        self._providers = providers
        self._store = store
        self._upstreams = upstreams
        self._schedule = schedule
        self._clock = clock
        self._entropy = entropy
        self._random01 = random01
        self._log = log
        self._jobs: set[asyncio.Task[Task]] = set()

    async def aclose(self) -> None:
        """Wait for submits under way: each ends within its own deadlines."""
        while self._jobs:
            await asyncio.wait(set(self._jobs))

    async def submit(
        self,
        exchange: Exchange,
        principal: Principal,
        request: VideoRequest,
        forwarded: dict[str, str],
        release: Callable[[], None],
    ) -> Task:
        """Returns the accepted (or unconfirmed) task; raises what the client is to be told.
        `release` frees the uploads; it is called once, when nobody needs them any more."""
        try:
            attempts, route, task = await self._prepare(principal, request)
        except BaseException:
            release()
            raise
        exchange.task_id = task.id
        exchange.route = route.model
        job = asyncio.create_task(
            self._drive(exchange, task, attempts, forwarded), name=f"submit {task.id}"
        )
        self._jobs.add(job)
        job.add_done_callback(lambda done: self._ended(done, release))
        return await asyncio.shield(job)

    def _ended(self, job: asyncio.Task[Task], release: Callable[[], None]) -> None:
        self._jobs.discard(job)
        release()
        error = None if job.cancelled() else job.exception()
        if error is not None and not isinstance(error, ProxyError):
            # The waiting request has it too; that of a client that left does not.
            self._log.error("submit failed", job=job.get_name(), exc_info=error)

    # ------------------------------------------------------------ decide

    async def _prepare(
        self, principal: Principal, request: VideoRequest
    ) -> tuple[list[Attempt], Route, Task]:
        source = await self._source(principal, request)
        config = self._config()
        model = source.model if source is not None else request.model
        route = choose_route(config.routes, model)
        if route is None or not permits(principal, model):
            names = ", ".join(allowed_models(config.routes, principal.models)[:20])
            raise ModelNotFound(
                f"Model '{model}' is not served here for this key. It may use: {names or 'none'}.",
                param=_MODEL_FIELD.get(request.dialect, "model"),
            )
        now_ms = int(self._clock() * 1000)
        task_id = new_task_id(principal.owner, self._entropy(23))
        attempts = self._attempts(route, request, task_id, source, model)
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
        )
        lease_ms = round(config.timeouts.lease_s * 1000)
        taken = await self._store.tasks.reserve(task, now_ms + lease_ms)
        if taken is not None:
            raise Invalid(
                f"'external_task_id' {request.external_id!r} was used before, by task {taken}.",
                param="external_task_id",
            )
        return attempts, route, task

    async def _source(self, principal: Principal, request: VideoRequest) -> Task | None:
        if request.source_id is None:
            return None
        source = await self._store.tasks.get(request.source_id)
        if source is None or source.deleted or source.token_id != principal.token_id:
            raise NotFound(f"Video with id '{request.source_id}' not found.", param="video")
        return source

    def _attempts(
        self,
        route: Route,
        request: VideoRequest,
        task_id: str,
        source: Task | None,
        model: str,
    ) -> list[Attempt]:
        """What to try, in order. The first candidate's complaint is the client's; a later one
        that cannot render the request is left out."""
        found: list[Attempt] = []
        complaint: ProxyError | None = None
        upstreams = self._config().upstreams
        for upstream, credential in candidates(route, upstreams, self._random01):
            if source is not None and (upstream.name, credential.name) != (
                source.upstream,
                source.credential,
            ):
                continue  # a provider knows a video only under the account that made it
            provider = self._providers[upstream.provider]
            upstream_model = route.upstream_model or model
            try:
                draft = provider.draft(request, task_id, upstream, upstream_model, source)
                draft = rewrite(draft, route)
                enforce_fit(draft, route)
            except ProxyError as error:
                complaint = complaint or error
                continue
            rendered = provider.rendered(draft)
            found.append(Attempt(upstream, credential, upstream_model, provider, draft, rendered))
        if not found:
            raise complaint or Unavailable(
                f"No upstream of model '{model}' can take requests now.", retry_after_s=30
            )
        return found

    # ------------------------------------------------------------ act

    async def _drive(
        self,
        exchange: Exchange,
        task: Task,
        attempts: Sequence[Attempt],
        forwarded: dict[str, str],
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

    def _seal(self, attempt: Attempt, forwarded: dict[str, str]) -> Outbound:
        outbound = attempt.provider.seal(
            attempt.draft, attempt.upstream, attempt.credential, int(self._clock())
        )
        outbound.headers.update(forwarded)
        return outbound

    async def _mark_sent(self, task: Task, attempt: Attempt) -> Task:
        now_ms = int(self._clock() * 1000)
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
        other = await self._store.tasks.swap(task, marked, due_ms, event, self._retention_s)
        if other is not None:
            raise Unavailable(
                "The request waited too long and was given up; nothing was submitted.",
                retry_after_s=1,
            )
        return marked

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
        job = asyncio.create_task(self._bind_later(task, accepted), name=f"bind {task.id}")
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        return lifecycle.bound(task, accepted, int(self._clock() * 1000))

    async def _bind_later(self, task: Task, accepted: Accepted) -> Task:
        for _try in range(BIND_TRIES):
            await asyncio.sleep(BIND_PAUSE_S)
            try:
                return await self._write_bound(task, accepted)
            except Unavailable:
                continue
        self._log.error("bind lost", task_id=task.id, upstream_id=accepted.upstream_id)
        return task

    async def _write_bound(self, task: Task, accepted: Accepted) -> Task:
        event = f"accepted as {accepted.upstream_id}"
        while True:
            now_ms = int(self._clock() * 1000)
            named = lifecycle.bound(task, accepted, now_ms)
            due_ms = lifecycle.next_poll_ms(named, now_ms, self._schedule(), self._random01())
            other = await self._store.tasks.swap(task, named, due_ms, event, self._retention_s)
            if other is None:
                return named
            if other.stage is not Stage.SENT:
                return other  # given up meanwhile: it has an end already, and only one
            task = other

    async def _unconfirmed(self, task: Task, attempt: Attempt, outcome: Unknown) -> Task:
        now_ms = int(self._clock() * 1000)
        can_find = attempt.provider.find(task, attempt.upstream) is not None
        due_ms = lifecycle.unconfirmed_due_ms(task, now_ms, self._schedule(), can_find=can_find)
        noted = lifecycle.noted(task, now_ms)
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
        now_ms = int(self._clock() * 1000)
        ended = lifecycle.failed(task, error, now_ms, hidden=True)
        assert ended is not None
        event = f"refused: {refusal.provider_code or refusal.error.code}"
        try:
            await self._store.tasks.swap(task, ended, None, event, self._retention_s)
        except Unavailable as down:
            self._log.warning("refusal not recorded", task_id=task.id, why=str(down))

    @property
    def _retention_s(self) -> int:
        return self._config().limits.retention_s
