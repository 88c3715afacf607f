"""From a reserved task to one the upstream has taken: mark, send, write down what came of it.

Rule: `sent` is written before the first byte goes out, and attempt n+1 opens only when attempt
n was provably refused. What nobody can confirm is never sent again.

Rule: once an upstream may have heard of a task its client gets that task, whatever the store
does; what the store could not take is written as soon as it can.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

import structlog

from proxy import lifecycle
from proxy.aside import aside
from proxy.config import Config
from proxy.errors import NotFound, ProxyError, Unavailable, UpstreamUnreachable
from proxy.keyring import Entry, Keyring
from proxy.lifecycle import Schedule
from proxy.model import (
    Accepted,
    Exchange,
    Outbound,
    Outcome,
    Refused,
    Stage,
    Task,
    TaskError,
    Unknown,
)
from proxy.planning import Attempt
from proxy.pools import Blocked, told
from proxy.store import Durability, Store, StoreDown, Why
from proxy.upstream import Ambiguous, NotSent, Upstreams

# Between two attempts to write what the store did not take: first, longest.
STORE_PAUSE_S = 0.25
MAX_STORE_PAUSE_S = 5.0


class Dispatcher:
    """Sends what is reserved. `clock` gives seconds since the epoch; `random01` a number in
    [0, 1) for the poll's jitter."""

    def __init__(
        self,
        config: Callable[[], Config],
        store: Store,
        upstreams: Upstreams,
        schedule: Callable[[], Schedule],
        clock: Callable[[], float],
        random01: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._config = config
        self._store = store
        self._upstreams = upstreams
        self._schedule = schedule
        self._clock = clock
        self._random01 = random01
        self._log = log
        self._keyring = Keyring(store, schedule, clock, log)
        self._chores: set[asyncio.Task[None]] = set()

    async def aclose(self) -> None:
        """What the store still does not take is left to the tracker, and to whoever reads the
        log."""
        for chore in self._chores:
            self._log.error("never recorded", chore=chore.get_name())
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)

    async def drive(
        self,
        exchange: Exchange,
        task: Task,
        attempts: Sequence[Attempt],
        forwarded: Mapping[str, str],
        size: int,
    ) -> Task:
        """Try `attempts` in order until one is taken, perhaps taken, or the last is refused; they
        were made from a body of `size` bytes. A credential that takes none now is passed over,
        and so is the rest of an upstream that cannot be reached. Returns the task; raises the
        refusal, what stands in the way when nobody could be asked, or Unavailable when the
        store failed before anything was sent."""
        refusal: Refused | None = None
        closed: dict[str, Blocked] = {}
        unreachable: set[str] = set()
        for attempt in attempts:
            if attempt.upstream.name in unreachable:
                continue
            entry = await self._enter(task, attempt)
            if isinstance(entry, Blocked):
                closed[_place(attempt)] = entry
                continue
            exchange.upstream, exchange.credential = attempt.upstream.name, attempt.credential.name
            outbound = await aside(size, self._seal, attempt, forwarded)
            try:
                task = await self._mark_sent(task, attempt, refusal)
            except ProxyError:
                await self._keyring.leave(entry)
                raise
            # Read now: after the answer nothing should stand between the task and its name.
            outcome, expected_ms = await asyncio.gather(
                self._send(attempt, outbound), self._expected_ms(attempt)
            )
            if isinstance(outcome, Accepted):
                task = await self._bind(task, outcome, expected_ms)
                await self._keyring.learn(entry, outcome)
                return task
            if isinstance(outcome, Unknown):
                task = await self._unconfirmed(task, attempt, outcome)
                await self._keyring.learn(entry, outcome)
                return task
            refusal = outcome
            await self._keyring.leave(entry)
            await self._keyring.learn(entry, outcome)
            if isinstance(outcome.error, UpstreamUnreachable):
                unreachable.add(attempt.upstream.name)
            self._log.warning(
                "submit refused",
                task_id=task.id,
                upstream=attempt.upstream.name,
                credential=attempt.credential.name,
                code=_reason(outcome),
                message=str(outcome.error),
            )
            if not outcome.elsewhere:
                break
        if refusal is None:
            refusal = Refused(told(task.model, list(closed.values())), elsewhere=True)
            self._log.warning(
                "no credential is free",
                task_id=task.id,
                model=task.model,
                why={name: block.why for name, block in closed.items()},
            )
        await self._close_refused(task, refusal)
        raise refusal.error

    async def _enter(self, task: Task, attempt: Attempt) -> Entry | Blocked:
        try:
            return await self._keyring.enter(task.id, attempt.upstream, attempt.credential)
        except ProxyError:
            self.give_up(task.id)
            raise

    def _seal(self, attempt: Attempt, forwarded: Mapping[str, str]) -> Outbound:
        outbound = attempt.provider.seal(
            attempt.draft, attempt.upstream, attempt.credential, int(self._clock())
        )
        outbound.headers.update(forwarded)
        return outbound

    async def _mark_sent(self, task: Task, attempt: Attempt, refusal: Refused | None) -> Task:
        """Write that the upstream may hear of it from now on; raises when that is not certain,
        and then nothing is sent."""
        now_ms = self._now_ms()

        def mark(known: Task) -> Task:
            return lifecycle.sent(
                known,
                now_ms,
                attempt.upstream,
                attempt.credential,
                attempt.upstream_model,
                attempt.draft,
                attempt.rendered,
            )

        event = f"sent attempt {task.attempt + 1} to {_place(attempt)}"
        if refusal is not None:
            event += f": attempt {task.attempt} was refused, {_reason(refusal)}"
        due_ms = now_ms + self._schedule().settle_ms
        durability = self._config().redis.durability
        try:
            marked = await self._write(task, mark, due_ms, event, durability=durability)
        except ProxyError as fault:
            # It may stand as sent although nothing was: say so as soon as the store listens.
            why = getattr(fault, "reason", fault.message)
            self._log.warning("not sent: the store failed", task_id=task.id, why=why)
            self.give_up(task.id)
            if isinstance(fault, NotFound):
                raise StoreDown(f"the store has lost {task.id}") from fault
            raise
        if marked.stage is not Stage.SENT:
            raise Unavailable(
                "The request waited too long and was given up; nothing was submitted.",
                retry_after_s=1,
            )
        return marked

    def give_up(self, task_id: str) -> None:
        """Close a task that was (perhaps) written as reserved or sent and never left, as soon as
        the store listens: its names are free then, and a client that asks again can have it."""
        self._later(lambda: self._give_up(task_id), f"give up {task_id}")

    async def _give_up(self, task_id: str) -> None:
        error = TaskError("not_submitted", "The gateway's store failed before it was submitted.")
        task = await self._store.tasks.get(task_id)
        if task is not None and task.stage in (Stage.RESERVED, Stage.SENT):
            await self._fail(task, error, "never sent: the store failed")

    async def _send(self, attempt: Attempt, outbound: Outbound) -> Outcome:
        try:
            answer = await self._upstreams.submit(attempt.upstream, outbound)
        except NotSent as error:
            self._log.warning(
                "upstream unreachable", upstream=attempt.upstream.name, why=str(error)
            )
            failure = UpstreamUnreachable(
                f"The upstream '{attempt.upstream.name}' cannot be reached; nothing was submitted.",
                retry_after_s=5,
            )
            return Refused(failure, elsewhere=True)
        except Ambiguous as error:
            return Unknown(str(error))
        return attempt.provider.outcome(answer.status, answer.headers, answer.body)

    async def _expected_ms(self, attempt: Attempt) -> int | None:
        with suppress(ProxyError):  # whatever it is, the submit beside it goes on
            return await self._store.durations.usual_ms(
                attempt.upstream.name, attempt.upstream_model
            )
        return None

    async def _bind(self, task: Task, accepted: Accepted, expected_ms: int | None) -> Task:
        now_ms = self._now_ms()

        def name(known: Task) -> Task:
            return lifecycle.bound(known, accepted, now_ms)

        due_ms = lifecycle.next_poll_ms(
            name(task), now_ms, self._schedule(), self._random01(), expected_ms=expected_ms
        )
        event = f"accepted as {accepted.upstream_id}"
        known = await self._keep(task, name, due_ms, event)
        if known.upstream_id != accepted.upstream_id:
            # Given up meanwhile: it has an end already, and only one.
            self._log.error("accepted too late", task_id=task.id, upstream_id=accepted.upstream_id)
        return known

    async def _unconfirmed(self, task: Task, attempt: Attempt, outcome: Unknown) -> Task:
        now_ms = self._now_ms()
        can_find = attempt.provider.find(task, attempt.upstream) is not None
        due_ms = lifecycle.unconfirmed_due_ms(
            task, now_ms, self._schedule(), can_find=can_find, is_settled=False
        )
        self._log.warning("submit unconfirmed", task_id=task.id, why=outcome.reason)
        event = f"unconfirmed: {outcome.reason}"[:500]
        return await self._keep(task, lambda k: lifecycle.unconfirmed(k, now_ms), due_ms, event)

    async def _close_refused(self, task: Task, refusal: Refused) -> None:
        error = TaskError(refusal.error.code, refusal.error.message, refusal.provider_code)
        event = f"refused: {_reason(refusal)}"
        try:
            await self._fail(task, error, event)
        except Unavailable as down:
            self._log.warning("refusal delayed", task_id=task.id, why=str(down))
            self._later(lambda: self._fail(task, error, event), f"close {task.id}")

    # ------------------------------------------------------------ writing

    async def _write(
        self,
        task: Task,
        change: Callable[[Task], Task],
        due_ms: int | None,
        event: str,
        *,
        never_sent: bool = False,
        durability: Durability = "local",
    ) -> Task:
        """Write the change of a task that is ours until it is bound; returns the task as it
        stands then: changed, or as somebody else has ended it.

        What the store says is older than what we know where only its version differs: its owner
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
                durability=durability,
            )
            if other is None:
                return changed
            if other.stage not in (Stage.RESERVED, Stage.SENT):
                return other
            task = replace(task, version=other.version, deleted=other.deleted)

    async def _keep(
        self, task: Task, change: Callable[[Task], Task], due_ms: int | None, event: str
    ) -> Task:
        """`_write` of what must not be lost, now or as soon as the store takes it."""
        try:
            return await self._record(task, change, due_ms, event)
        except Unavailable as down:
            self._log.warning("not recorded yet", task_id=task.id, what=event, why=str(down))
        self._later(lambda: self._record(task, change, due_ms, event), f"{task.id}: {event}")
        return change(task)

    async def _record(
        self, task: Task, change: Callable[[Task], Task], due_ms: int | None, event: str
    ) -> Task:
        try:
            return await self._write(task, change, due_ms, event)
        except NotFound:
            # The store was emptied, or a replica that never heard of the task took over.
            self._log.error("the store had lost it", task_id=task.id, what=event)
        changed = change(task)
        taken = await self._store.tasks.reserve(changed, due_ms or changed.updated_ms)
        if taken is not None and taken.why is not Why.SAME:
            self._log.error("not recorded: its names are taken", task_id=task.id, by=taken.what)
        return changed

    async def _fail(self, task: Task, error: TaskError, event: str) -> None:
        """End a task no upstream took, its names free again."""

        def fail(known: Task) -> Task:
            ended = lifecycle.failed(known, error, self._now_ms(), hidden=True)
            assert ended is not None
            return ended

        with suppress(NotFound):
            await self._write(task, fail, None, event, never_sent=True)

    def _later(self, work: Callable[[], Awaitable[object]], name: str) -> None:
        """Go on with something until the store has taken it. There are at most as many such
        chores as submits were under way when it failed."""
        chore = asyncio.create_task(self._insist(work), name=name)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _insist(self, work: Callable[[], Awaitable[object]]) -> None:
        pause_s = STORE_PAUSE_S
        while True:
            try:
                await work()
                return
            except Unavailable:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MAX_STORE_PAUSE_S)
            except Exception:  # noqa: BLE001 -- the rim of a background job: logged
                chore = asyncio.current_task()
                self._log.exception("chore failed", chore=chore.get_name() if chore else "")
                return

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)

    @property
    def _retention_s(self) -> int:
        return self._config().limits.retention_s


def _place(attempt: Attempt) -> str:
    return f"{attempt.upstream.name}/{attempt.credential.name}"


def _reason(refusal: Refused) -> str:
    return refusal.provider_code or refusal.error.code
