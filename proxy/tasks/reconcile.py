"""Tasks that no upstream is known to have: waiting in a queue, never sent, or unconfirmed.

Rule: an unconfirmed submit is never sent again. It is found by our id at the upstream, or it ends.
"""

from __future__ import annotations

from proxy.model import Credential, Task, TaskError, Upstream
from proxy.providers.outcomes import Accepted, Outcome, Refused, Transient
from proxy.store import Store
from proxy.tasks import lifecycle
from proxy.tasks.credentials import CredentialPool
from proxy.tasks.followed import FollowedTasks
from proxy.tasks.planning import max_age_ms, places_of, reach_of
from proxy.tasks.provider_calls import ProviderCalls
from proxy.tasks.runtime import Runtime
from proxy.tasks.schedule import (
    confirm_end_ms,
    is_settled,
    next_poll_ms,
    poll_lease_s,
    unconfirmed_due_ms,
)


class Reconciler:
    """The tracker's part for tasks without an upstream id."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
        calls: ProviderCalls,
        pool: CredentialPool,
        followed: FollowedTasks,
    ) -> None:
        self._config = runtime.config
        self._schedule = runtime.schedule
        self._random01 = runtime.random01
        self._now_ms = runtime.now_ms
        self._store = store
        self._calls = calls
        self._pool = pool
        self._followed = followed

    # ------------------------------------------------------------ never sent, or waiting

    async def end_reserved(self, task: Task) -> None:
        """End a task whose worker died before it sent anything."""
        error = TaskError("not_submitted", "It was never submitted: the gateway was stopped.")
        await self._followed.end(task, error, "never sent", never_sent=True)
        known = await self._store.tasks.get(task.id)
        if known is None or known.stage.is_final:  # else it was sent this moment
            await self._pool.release_all(task.id, self._candidates(task))

    async def look_at_waiting(self, task: Task) -> None:
        """End a queued task whose wait is over, or put it back into its queue if it is missing.

        No due time is written: a worker may begin to send the task this moment, and the lease
        brings it back.
        """
        config = self._config()
        error = lifecycle.end_of_wait(
            task,
            self._now_ms(),
            max_age_ms(config.routes, task, config.timeouts.task_max_age_s),
            has_place=bool(places_of(config.routes, config.upstreams, task)),
        )
        if error is not None:
            is_free = error is not lifecycle.CANCELLED  # the names its owner took for it
            await self._followed.end(task, error, "never sent", never_sent=is_free)
            return
        waiting = self._store.waiting
        if not await waiting.has(task.queue, task.id):
            await waiting.join(task.queue, task)
            known = await self._store.tasks.get(task.id)
            if known is None or not known.is_waiting:  # that was why
                await waiting.leave(task.queue, task.id)
                return
        if await self._pool.has_slot(task.id, self._candidates(task)):
            await self._release_slots(task)

    async def _release_slots(self, task: Task) -> None:
        """A queued task has a slot: a worker is about to send it, or died before it could. The
        holder of the queue's lease knows which."""
        waiting, now_ms = self._store.waiting, self._now_ms()
        until_ms = now_ms + round(poll_lease_s(self._config().timeouts) * 1000)
        if not await waiting.hold(task.queue, task.id, now_ms, until_ms):
            return
        known = await self._store.tasks.get(task.id)
        if known is not None and known.version == task.version:
            await self._pool.release_all(task.id, self._candidates(task))
        await waiting.release(task.queue, task.id)

    def _candidates(self, task: Task) -> list[tuple[Upstream, Credential]]:
        config = self._config()
        return reach_of(config.routes, config.upstreams, task)

    # ------------------------------------------------------------ a submit nobody confirmed

    async def reconcile(self, task: Task) -> None:
        """Find out what became of a submit without an answer, by a look-up of our id."""
        schedule = self._schedule()
        settled_ms = (task.sent_ms or 0) + schedule.settle_ms
        if not task.unconfirmed and self._now_ms() < settled_ms:
            await self._store.tasks.reschedule(task.id, settled_ms)  # it may be on its way
            return
        place = self._calls.credential_of(task)
        draft = None if place is None else self._calls.lookup(task, place[0])
        found: Outcome | Transient | None = None
        if place is not None and draft is not None:
            found = await self._calls.find(task, draft, *place)
        now_ms = self._now_ms()
        if isinstance(found, Accepted):
            named = lifecycle.bound(task, found, now_ms)
            due_ms = next_poll_ms(named, now_ms, schedule, self._random01())
            await self._followed.write(task, named, due_ms, f"found as {found.upstream_id}")
            return
        settled = is_settled(task, now_ms, schedule)
        if isinstance(found, Refused) and settled:
            error = TaskError("not_submitted", "It never reached the provider.")
            event = "the upstream does not know it"
            await self._followed.end(task, error, event, never_sent=True)
            return
        if place is not None and draft is None:
            # Nobody can be asked, now or later. Whoever sent it did not live to write that down.
            event = "unconfirmed: its sender is gone"
            await self._followed.end(task, lifecycle.UNCONFIRMED, event)
            return
        if now_ms >= confirm_end_ms(task, schedule):
            await self._followed.end(task, lifecycle.UNCONFIRMED, "unconfirmed for too long")
            return
        due = unconfirmed_due_ms(
            task, now_ms, schedule, can_find=draft is not None, is_settled=settled
        )
        if task.unconfirmed:
            await self._store.tasks.reschedule(task.id, due)
        else:  # whoever sent it did not live to say what came of it
            event = "unconfirmed: whoever sent it is gone"
            await self._followed.write(task, lifecycle.unconfirmed(task, now_ms), due, event)
