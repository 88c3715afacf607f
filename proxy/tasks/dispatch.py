"""From a reserved task to one the upstream has taken: mark, send, write down what came of it.

Rule: `sent` is written before the first byte goes out, and attempt n+1 opens only when attempt
n was provably refused. What nobody can confirm is never sent again.

Rule: once an upstream may have heard of a task its client gets that task, whatever the store
does; what the store could not take is written as soon as it can.

Rule: from its first attempt until it is bound or queued, only the worker that reserved a task may
change it. A queued task belongs to all workers: whichever wins the compare-and-set makes the next
attempt. The change that queues a task is never written over another worker's change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Protocol

from proxy.errors import ProxyError, Unavailable, UpstreamUnreachable
from proxy.http.outbound import Outbound
from proxy.model import Task, TaskError
from proxy.providers.outcomes import Accepted, Refused, Unknown
from proxy.store import Store
from proxy.store.keys import credential_name
from proxy.store.refusals import refusal_of
from proxy.tasks import lifecycle
from proxy.tasks.attempt_writer import AttemptWriter, reason_of
from proxy.tasks.breaker import Blocked, none_available
from proxy.tasks.credentials import CredentialPool, Slot
from proxy.tasks.fetch import Basket, Fetcher
from proxy.tasks.planning import Attempt, SubmitPlan
from proxy.tasks.runtime import Runtime
from proxy.tasks.sending import AttemptSender
from proxy.tasks.task_writer import TaskWriter
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.metric_definitions import SUBMITS_REFUSED
from proxy.telemetry.rate_limited_log import RateLimitedLog
from proxy.telemetry.timing import timed
from proxy.upstream import Upstreams


class QueuePort(Protocol):
    """The queues of one route's upstreams, for one request."""

    async def ahead(self, upstreams: Collection[str]) -> frozenset[str]:
        """Those at which tasks wait already."""

    async def join(self, task: Task, upstreams: Sequence[str]) -> str | ProxyError:
        """Make room for the task at the first that has some, and keep its request. Returns that
        one, or what to tell the client. Nobody sends it before `joined`."""

    async def joined(self, task: Task) -> None:
        """It waits: it may be sent in its turn."""

    async def left(self, task_id: str, upstream: str) -> None:
        """It does not wait after all."""


@dataclass(frozen=True, slots=True)
class NoneAccepted:
    """No credential took the task. `refusal`: the last one's answer, None when none was tried.
    `unavailable`: credentials that could not be tried, and why. `may_retry`: one of them may
    accept later."""

    task: Task
    refusal: Refused | None
    unavailable: Mapping[str, Blocked]
    may_retry: bool


class Dispatcher:
    """Sends what is reserved. `clock` gives seconds since the epoch; `random01` a number in
    [0, 1) for the poll's jitter."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        upstreams: Upstreams,
        fetcher: Fetcher,
    ) -> None:
        self._fetcher = fetcher
        self._config = runtime.config
        self._store = store
        self._log = runtime.log
        self._troubles = RateLimitedLog(runtime.log)
        self._metrics = runtime.metrics
        self._pool = CredentialPool(runtime, store)
        self.writer = TaskWriter(runtime, store)
        self._attempts = AttemptWriter(runtime, self.writer, self._troubles)
        self._sender = AttemptSender(runtime, upstreams, self._troubles)
        self._now_ms = runtime.now_ms

    async def aclose(self) -> None:
        await self.writer.aclose()

    async def submit_new(
        self, exchange: Exchange, task: Task, plan: SubmitPlan, queues: QueuePort | None = None
    ) -> Task:
        """A first submit. Returns the task: taken, perhaps taken, or in the queue of an upstream
        (`line`, of a route that has one). Raises the refusal, what stands in the way when nobody
        could be asked, or Unavailable when the store failed before anything was sent."""
        behind: Collection[str] = ()
        if queues is not None:
            try:
                behind = await queues.ahead({attempt.upstream.name for attempt in plan.attempts})
            except ProxyError:
                self.writer.give_up(task.id)
                raise
        tried = await self._try(task, plan, exchange=exchange, behind=behind)
        if isinstance(tried, Task):
            return tried
        refusal = tried.refusal
        unavailable = None
        if refusal is None:
            error: ProxyError | None = None
            if queues is not None:
                waits = await self._enqueue(task, plan, tried.unavailable, queues)
                if isinstance(waits, Task):
                    exchange.upstream, exchange.reason = waits.queue, "queued"
                    return waits
                error = waits
            unavailable = None if error is not None else _unavailable_because(tried.unavailable)
            error = error or none_available(task.model, list(tried.unavailable.values()))
            refusal = Refused(error, elsewhere=True)
            self._troubles.warning(
                "no credential available",
                about=task.model,
                request_id=exchange.id,
                task_id=task.id,
                model=task.model,
                why={name: block.why for name, block in tried.unavailable.items()},
            )
        kept = TaskError(refusal.error.code, refusal.error.message, refusal.provider_code)
        await self.writer.close(tried.task, kept, f"refused: {reason_of(refusal)}")
        await self.note_refused(tried.task, refusal.error, unavailable)
        raise refusal.error

    async def note_refused(
        self, task: Task, error: ProxyError, unavailable: str | None = None
    ) -> None:
        """Count a refused submit, and keep a record of it for the operator. `unavailable`: what
        stood in the way when no upstream was asked."""
        reason = unavailable or error.limit or error.code
        self._metrics.count(SUBMITS_REFUSED, reason)
        record = refusal_of(task, reason, error.code, error.message, error.status, self._now_ms())
        with suppress(ProxyError):
            await self._store.refusals.note(record)

    async def submit_queued(self, task: Task, plan: SubmitPlan, sent: Callable[[], None]) -> Task:
        """A task that waits, in its turn. Returns it as it is then: taken, perhaps taken, refused
        for good, moved on by somebody else, or waiting still, for nobody takes it now. `sent` is
        called before the first byte goes out. Raises Unavailable when the store failed before
        that: it goes on waiting."""
        assert task.is_waiting
        tried = await self._try(task, plan, sent=sent)
        if isinstance(tried, Task):
            return tried
        if tried.refusal is None:
            return tried.task
        reason = reason_of(tried.refusal)
        if tried.may_retry:
            return await self.writer.wait(
                tried.task, task.queue, f"refused, {reason}: waiting again"
            )
        error = lifecycle.failure_of(tried.refusal)
        await self.writer.close(tried.task, error, f"refused: {reason}")
        return lifecycle.failed(tried.task, error, self._now_ms()) or tried.task

    async def _try(
        self,
        task: Task,
        plan: SubmitPlan,
        *,
        exchange: Exchange | None = None,
        sent: Callable[[], None] | None = None,
        behind: Collection[str] = (),
    ) -> Task | NoneAccepted:
        """Try the attempts in order until one is taken, perhaps taken, or the last is refused. A
        credential that takes none now is passed over, and so are an upstream where others wait
        (`behind`) and the rest of one that cannot be reached. The time upstreams take is that of
        `exchange`, where one waits for it."""
        with self._fetcher.basket(self._config().timeouts.lease_s / 2) as basket:
            return await self._try_each(
                task, plan, basket, exchange=exchange, sent=sent, behind=behind
            )

    async def _try_each(
        self,
        task: Task,
        plan: SubmitPlan,
        basket: Basket,
        *,
        exchange: Exchange | None,
        sent: Callable[[], None] | None,
        behind: Collection[str],
    ) -> Task | NoneAccepted:
        refusal: Refused | None = None
        may_retry = False
        unavailable: dict[str, Blocked] = {}
        unreachable: set[str] = set()
        for attempt in plan.attempts:
            if attempt.upstream.name in unreachable:
                continue
            ready, slot = await self._admitted(
                task, attempt, basket, exchange, is_behind=attempt.upstream.name in behind
            )
            if isinstance(slot, Refused):
                refusal = slot
                may_retry |= slot.error.retryable
                continue
            if isinstance(slot, Blocked):
                unavailable[attempt.name] = slot
                may_retry = True
                continue
            if exchange is not None:
                exchange.upstream = attempt.upstream.name
                exchange.credential = attempt.credential.name
            try:
                outbound = await self._seal(task, ready, plan, basket.size)
                marked = await self._attempts.mark_sent(task, attempt, refusal)
            except BaseException:
                await self._pool.release(slot)
                raise
            if marked is None:
                return await self._overtaken(task, slot)
            task = marked
            if sent is not None:
                sent()
                sent = None
            # Read now: after the answer nothing should stand between the task and its name.
            sending = self._sender.send(task, attempt, outbound)
            outcome, expected_ms = await asyncio.gather(
                sending if exchange is None else timed(exchange, "upstream", sending),
                self._usual_ms(attempt),
            )
            if isinstance(outcome, Accepted):
                task = await self._attempts.bind(task, outcome, expected_ms)
                await self._pool.report(slot, outcome)
                return task
            if isinstance(outcome, Unknown):
                task = await self._attempts.unconfirmed(task, attempt, outcome)
                await self._pool.report(slot, outcome)
                return task
            refusal = outcome
            await self._pool.release(slot)
            await self._pool.report(slot, outcome)
            if isinstance(outcome.error, UpstreamUnreachable):
                unreachable.add(attempt.upstream.name)
            self._log.warning(
                "submit refused",
                **_ids(task, exchange),
                upstream=attempt.upstream.name,
                credential=attempt.credential.name,
                code=reason_of(outcome),
                message=str(outcome.error),
                prompt=task.prompt,
            )
            if not outcome.elsewhere:
                may_retry = False
                break
            # What pauses the account may be over later; what it says of the request alone is not.
            may_retry |= outcome.cooldown != "none" or attempt.upstream.name in unreachable
        return NoneAccepted(task, refusal, unavailable, may_retry)

    async def _admitted(
        self,
        task: Task,
        attempt: Attempt,
        basket: Basket,
        exchange: Exchange | None,
        *,
        is_behind: bool,
    ) -> tuple[Attempt, Slot | Blocked | Refused]:
        """The attempt as it can be sent, and its place at the credential; or why there is none.
        Refused: something it needs could not be fetched."""
        try:
            ready = await self._filled(task, attempt, basket, exchange, is_behind=is_behind)
        except ProxyError as fault:
            self._log.warning("media not fetched", **_ids(task, exchange), why=str(fault.__cause__))
            return attempt, Refused(fault, elsewhere=True)
        # One that was too busy to fetch for is not entered either, free as it may be by now.
        is_behind = is_behind or basket.lacks(ready.draft)
        return ready, await self._enter(task, ready, is_behind=is_behind)

    async def _filled(
        self,
        task: Task,
        attempt: Attempt,
        basket: Basket,
        exchange: Exchange | None,
        *,
        is_behind: bool,
    ) -> Attempt:
        """The attempt with files in place of the addresses its server must not fetch. Before it
        takes a place at the credential: a slow address would keep a server idle. As it is for a
        credential that is busy: the task waits, and is sent later. Raises what stands in the way.
        """
        if not basket.lacks(attempt.draft):
            return replace(attempt, draft=await basket.filled(attempt.draft))
        try:
            place = attempt.upstream, attempt.credential
            if is_behind or not await self._pool.has_free_slot([place]):
                return attempt
        except ProxyError:
            return attempt  # the store is down: entering will say so
        filling = basket.filled(attempt.draft)
        try:
            draft = await (filling if exchange is None else timed(exchange, "upstream", filling))
        except ProxyError:
            raise
        except BaseException:
            self._attempts.release(task, why="its media could not be fetched")
            raise
        return replace(attempt, draft=draft)

    async def _seal(
        self, task: Task, attempt: Attempt, plan: SubmitPlan, fetched_bytes: int
    ) -> Outbound:
        try:
            return await self._sender.seal(task, attempt, plan, fetched_bytes)
        except BaseException:
            self._attempts.release(task, why="it could not be written out")
            raise

    async def _enter(self, task: Task, attempt: Attempt, *, is_behind: bool) -> Slot | Blocked:
        try:
            if is_behind:
                bar = await self._pool.blocked_by(
                    attempt.upstream, attempt.credential, task.token_id
                )
                return bar or Blocked("busy", 0)
            return await self._pool.acquire(task, attempt.upstream, attempt.credential)
        except ProxyError:
            self._attempts.release(task)
            raise

    # ------------------------------------------------------------ waiting

    async def _enqueue(
        self, task: Task, plan: SubmitPlan, unavailable: Mapping[str, Blocked], queues: QueuePort
    ) -> Task | ProxyError | None:
        """Into the queue of an upstream that is busy, or cools down. Else what to tell the
        client; None: there is no such upstream."""
        open_later = [
            attempt
            for attempt in plan.attempts
            if unavailable[attempt.name].why in ("busy", "cooling")
        ]
        if not open_later:
            return None
        names = list(dict.fromkeys(attempt.upstream.name for attempt in open_later))
        try:
            where = await queues.join(task, names)
            if isinstance(where, ProxyError):
                return where
            first = next(a for a in open_later if a.upstream.name == where)
            told_of = lifecycle.fitted(task, first.draft, first.rendered)
            waits = await self.writer.wait(told_of, where, f"waiting in the queue of {where}")
        except ProxyError:
            self.writer.give_up(task.id)
            raise
        if not waits.queue:  # given up meanwhile: that took longer than its lease
            await queues.left(task.id, where)
            raise Unavailable(
                "The request waited too long and was given up; nothing was submitted.",
                retry_after_s=1,
            )
        await queues.joined(waits)
        return waits

    async def _overtaken(self, task: Task, slot: Slot) -> Task:
        """Somebody else has moved it on while we were about to send it: the place we took is
        given back, unless it is that one's now."""
        known = task
        with suppress(ProxyError):
            known = await self._store.tasks.get(task.id) or task
        if known.stage.is_final or credential_name(known.upstream, known.credential) != slot.name:
            await self._pool.release(slot)
        return known

    async def _usual_ms(self, attempt: Attempt) -> int | None:
        with suppress(ProxyError):  # whatever it is, the submit beside it goes on
            return await self._store.durations.usual_ms(
                attempt.upstream.name, attempt.upstream_model
            )
        return None


def _ids(task: Task, exchange: Exchange | None) -> dict[str, str]:
    """How log lines name a task, and the request that submits it."""
    request = {} if exchange is None else {"request_id": exchange.id}
    return {**request, "task_id": task.id}


def _unavailable_because(unavailable: Mapping[str, Blocked]) -> str | None:
    """The first of these that stood in the way, as `told` weighs them; None: nothing did."""
    found = {block.why for block in unavailable.values()}
    return next((why for why in ("busy", "cooling", "broken", "out") if why in found), None)
