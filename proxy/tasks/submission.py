"""The birth of a task: from a `VideoRequest` to a task the upstream has accepted.

Rule: the task is durable before the upstream hears of it, and what was asked twice is the one
task that the first asking made.

The upstream part runs in a job of its own: a client that leaves half-way changes nothing, and
one that asks again is given the same job.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from proxy.dialects.answers import remembered
from proxy.errors import (
    BudgetExceeded,
    Invalid,
    NotFound,
    ProxyError,
    TooManyInFlight,
    Unavailable,
    Unprocessable,
)
from proxy.http.clips import measured
from proxy.model import Json, Operation, Principal, Role, Route, Stage, Task, VideoRequest
from proxy.providers.base import Provider
from proxy.store import Allowance, NotReserved, NotReservedWhy, Store, StoreFull
from proxy.store.keys import new_task_id
from proxy.tasks.changes import TaskChanges
from proxy.tasks.dispatch import Dispatcher
from proxy.tasks.lifecycle import fitted
from proxy.tasks.models import video_member
from proxy.tasks.offload import offload
from proxy.tasks.planning import Attempt, SubmitPlan, attempts_of, check_addresses, route_for
from proxy.tasks.pricing import money, price_micro
from proxy.tasks.queue import QueueSender
from proxy.tasks.routing import model_limits
from proxy.tasks.runtime import Runtime
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.timing import timed


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """A submit as the gateway read it. `fingerprint` is of what was asked; `idempotency` the
    hash of the client's key; `retries` how often the client says it has asked before;
    `size` the bytes of its body."""

    request: VideoRequest
    fingerprint: str
    idempotency: str | None
    retries: int
    forwarded: Mapping[str, str]
    size: int


@dataclass(frozen=True, slots=True)
class Submitted:
    """The task a submit has, and whether an earlier submit made it."""

    task: Task
    replayed: bool = False


class Submitter:
    """Makes tasks. `clock` gives seconds since the epoch; `entropy(n)` n random bytes as hex;
    `random01` a number in [0, 1) for the weighted choice; `callback_url(task id)` an address of
    ours the provider may call; `is_full` whether the store takes no new tasks."""

    def __init__(
        self,
        runtime: Runtime,
        providers: Mapping[str, Provider],
        store: Store,
        changes: TaskChanges,
        dispatcher: Dispatcher,
        queue: QueueSender,
        callback_url: Callable[[str], str | None],
        is_full: Callable[[], bool],
        entropy: Callable[[int], str],
    ) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._providers = providers
        self._store = store
        self._changes = changes
        self._clock = runtime.clock
        self._callback_url = callback_url
        self._is_full = is_full
        self._entropy = entropy
        self._random01 = runtime.random01
        self._log = runtime.log
        self._jobs: dict[str, asyncio.Task[Task]] = {}
        self._dispatcher = dispatcher
        self._queue = queue
        self._now_ms = runtime.now_ms

    def video_member(self, route: Route, model: str) -> dict[str, Json]:
        """What a submit of this model may ask for, as it is listed."""
        return video_member(route, model, self._config().upstreams, self._providers)

    async def aclose(self) -> None:
        """Wait for submits under way: each ends within its own deadlines."""
        while self._jobs:
            await asyncio.wait(set(self._jobs.values()))

    async def submit(
        self,
        exchange: Exchange,
        principal: Principal,
        ask: SubmitRequest,
        release: Callable[[], None],
    ) -> Submitted:
        """Returns the accepted (or unconfirmed) task; raises what the client is to be told.
        `release` frees the uploads; it is called once, when nobody needs them any more."""
        held = True
        last: str | None = None  # the id whose names were still taken when we looked last
        try:
            if self._is_full():
                raise StoreFull("above the memory mark")
            ask = await _measured(ask)
            while True:
                source = await self._source(principal, ask.request)
                task, attempts, route = self._prepare(principal, ask, source)
                taken = await self._reserve(task, ask.retries, principal)
                if taken is None:
                    held = False
                    return Submitted(
                        await self._begin(exchange, task, attempts, route, ask, release)
                    )
                again, last = taken.what == last, taken.what
                earlier = await self._earlier(exchange, taken, ask.request, again=again)
                if earlier is not None:
                    exchange.task = earlier
                    return Submitted(earlier, replayed=True)
        finally:
            if held:
                release()

    async def quote(self, principal: Principal, ask: SubmitRequest) -> Task:
        """The task a submit would make; nothing is written and nothing sent. Raises what the
        client would be told of the request itself."""
        ask = await _measured(ask)
        source = await self._source(principal, ask.request)
        task, attempts, _ = self._prepare(principal, ask, source)
        return fitted(task, attempts[0].draft, attempts[0].rendered)

    async def _begin(
        self,
        exchange: Exchange,
        task: Task,
        attempts: Sequence[Attempt],
        route: Route,
        ask: SubmitRequest,
        release: Callable[[], None],
    ) -> Task:
        exchange.task_id, exchange.route, exchange.task = task.id, task.route, task
        if self._config().logs.prompts:
            exchange.prompt = task.prompt
        plan = SubmitPlan(attempts, ask.forwarded, ask.size)
        queues = None
        if route.queue:
            queues = self._queue.queues_for(route, ask.request, ask.forwarded, ask.size)
        job = asyncio.create_task(
            self._dispatcher.submit_new(exchange, task, plan, queues), name=f"submit {task.id}"
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
            self._log.error("submit failed", task_id=task_id, exc_info=error)

    # ------------------------------------------------------------ decide

    def _prepare(
        self, principal: Principal, ask: SubmitRequest, source: Task | None
    ) -> tuple[Task, list[Attempt], Route]:
        config, request = self._config(), ask.request
        check_addresses(request, config.media.allow)
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
            price=route.price,
            hold_micro=_hold_micro(route, attempts, request),
            trace=self._tracing.client_trace(ask.forwarded),
        )
        return task, attempts, route

    async def _source(self, principal: Principal, request: VideoRequest) -> Task | None:
        if request.source_id is None:
            return None
        source = await self._store.tasks.get(request.source_id)
        if source is None or source.deleted or not principal.owns(source):
            raise NotFound(f"Video with id '{request.source_id}' not found.", param="video")
        return source

    # ------------------------------------------------------------ who was there before

    async def _reserve(self, task: Task, retries: int, principal: Principal) -> NotReserved | None:
        lease_ms = round(self._config().timeouts.lease_s * 1000)
        allowance = Allowance(
            token=principal.limits,
            owner=principal.owner_limits,
            model=model_limits(principal, task.model),
        )
        try:
            taken = await self._store.tasks.reserve(
                task, task.created_ms + lease_ms, retries, allowance
            )
        except Unavailable:
            self._dispatcher.writer.give_up(task.id)
            raise
        if taken is None or taken.why is NotReservedWhy.SAME:
            return None
        if taken.why is NotReservedWhy.BUDGET:
            over = BudgetExceeded(
                f"This would cost {money(task.hold_micro)} {self._config().billing.currency}, "
                f"more than is left of the {taken.what}.",
                limit="budget",
            )
            await self._dispatcher.note_refused(task, over)
            raise over
        if taken.why is NotReservedWhy.FLIGHT:
            whose = {"token": allowance.token, "owner": allowance.owner, "model": allowance.model}
            most = whose[taken.what].max_in_flight
            many = TooManyInFlight(
                f"As many tasks are under way as this {taken.what} may have ({most}); "
                "wait for one to end.",
                retry_after_s=5,
                limit="in_flight",
            )
            await self._dispatcher.note_refused(task, many)
            raise many
        return taken

    async def _earlier(
        self, exchange: Exchange, taken: NotReserved, request: VideoRequest, *, again: bool
    ) -> Task | None:
        """The task an earlier submit made, once its outcome is known; None when that one was
        refused or never sent, so that this one may try. Such a one frees its names: the second
        time (`again`) it is one that failed later and was deleted by its owner."""
        if taken.why is NotReservedWhy.ALIAS:
            raise Invalid(
                f"'external_task_id' {request.external_id!r} was used before, "
                f"by task {taken.what}.",
                param="external_task_id",
            )
        if taken.why is NotReservedWhy.MISMATCH:
            raise Unprocessable(
                "This Idempotency-Key was used within the last 24 hours for another request; "
                "use a new key, or repeat that request exactly.",
                param="Idempotency-Key",
            )
        exchange.task_id = taken.what
        job = self._jobs.get(taken.what)
        if job is not None:
            # A refusal is everybody's who waited for it.
            made = await timed(exchange, "upstream", asyncio.shield(job))
            exchange.route = made.route
            return made
        seconds = self._config().timeouts.submit_s + self._config().timeouts.connect_s
        task = await timed(
            exchange, "upstream", self._changes.wait_until(taken.what, has_outcome, seconds)
        )
        if task is None or (_left_nothing(task) and not again):
            return None
        exchange.route = task.route
        return task


async def _measured(ask: SubmitRequest) -> SubmitRequest:
    if ask.request.operation is not Operation.EDIT:
        return ask
    return replace(ask, request=await offload(ask.size, measured, ask.request))


def _hold_micro(route: Route, attempts: Sequence[Attempt], request: VideoRequest) -> int:
    """The most that any of the attempts may cost."""
    try:
        return max(price_micro(route.price, attempt.rendered) for attempt in attempts)
    except Invalid as fault:
        clips = [item for item in request.media if item.role is Role.SOURCE]
        if request.operation is not Operation.EDIT or not clips:
            raise
        raise Invalid(
            f"The length of '{clips[0].param}' cannot be measured, and the price of this model "
            "goes by seconds: send an MP4 or MOV file that is whole and not fragmented.",
            param=clips[0].param,
        ) from fault


def has_outcome(task: Task) -> bool:
    """The first submit has its answer, or has given up on one; that of a task which waits in a
    queue was the task."""
    is_under_way = task.stage in (Stage.RESERVED, Stage.SENT)
    return task.queue != "" or task.unconfirmed or not is_under_way


def _left_nothing(task: Task) -> bool:
    """Refused to its client's face, or given up before anybody heard of it."""
    never_sent = task.error is not None and task.error.code == "not_submitted"
    return task.stage is Stage.FAILED and (task.deleted or never_sent)
