"""What becomes of one attempt, written down: begun, accepted, unconfirmed, or given back.

Rule: `sent` is durable before the first byte goes out; when that is not certain, nothing is sent.
"""

from __future__ import annotations

from proxy.errors import NotFound, ProxyError, Unavailable
from proxy.model import Stage, Task
from proxy.providers.outcomes import Accepted, Refused, Unknown
from proxy.store import StoreDown
from proxy.tasks import lifecycle
from proxy.tasks.planning import Attempt
from proxy.tasks.runtime import Runtime
from proxy.tasks.schedule import next_poll_ms, unconfirmed_due_ms
from proxy.tasks.task_writer import TaskWriter
from proxy.telemetry.rate_limited_log import RateLimitedLog


class AttemptWriter:
    """Writes through `writer`, which retries what the store does not take. `troubles` is the log
    of what repeats."""

    def __init__(self, runtime: Runtime, writer: TaskWriter, troubles: RateLimitedLog) -> None:
        self._schedule = runtime.schedule
        self._random01 = runtime.random01
        self._now_ms = runtime.now_ms
        self._log = runtime.log
        self._writer = writer
        self._troubles = troubles

    async def mark_sent(self, task: Task, attempt: Attempt, refusal: Refused | None) -> Task | None:
        """Write that the upstream may hear of it from now on; raises when that is not certain,
        and then nothing is sent. None: it waited, and somebody else has it."""
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

        event = f"sent attempt {task.attempt + 1} to {attempt.name}"
        if refusal is not None and task.attempt:
            event += f": attempt {task.attempt} was refused, {reason_of(refusal)}"
        due_ms = now_ms + self._schedule().settle_ms
        if task.is_waiting:
            return await self._writer.take_over(task, mark(task), due_ms, event)
        try:
            marked = await self._writer.write_safely(task, mark, due_ms, event)
        except ProxyError as fault:
            # It may stand as sent although nothing was: say so as soon as the store listens.
            why = getattr(fault, "reason", fault.message)
            self._troubles.warning("not sent: the store failed", task_id=task.id, why=why)
            self.release(task, mark(task))
            if isinstance(fault, NotFound):
                raise StoreDown(f"the store has lost {task.id}") from fault
            raise
        if marked.stage is not Stage.SENT:
            raise Unavailable(
                "The request waited too long and was given up; nothing was submitted.",
                retry_after_s=1,
            )
        return marked

    def release(self, *ours: Task, why: str = "the store failed") -> None:
        """Nothing more is sent now of a task that stands as one of `ours`. One that came from a
        queue was promised to its client and waits again; one that waits still needs nothing."""
        task = ours[0]
        if not task.queue:
            self._writer.give_up(task.id, why)
        elif not task.is_waiting:
            self._writer.put_back(*ours, why=why)

    async def bind(self, task: Task, accepted: Accepted, expected_ms: int | None) -> Task:
        now_ms = self._now_ms()

        def name(known: Task) -> Task:
            return lifecycle.bound(known, accepted, now_ms)

        due_ms = next_poll_ms(
            name(task), now_ms, self._schedule(), self._random01(), expected_ms=expected_ms
        )
        event = f"accepted as {accepted.upstream_id}"
        known = await self._writer.keep(task, name, due_ms, event)
        if known.upstream_id != accepted.upstream_id:
            # Given up meanwhile: it has an end already, and only one.
            self._log.error("accepted too late", task_id=task.id, upstream_id=accepted.upstream_id)
        return known

    async def unconfirmed(self, task: Task, attempt: Attempt, outcome: Unknown) -> Task:
        """Write that nobody knows what became of the submit. The task waits for a look-up by our
        id; where the provider has none, waiting would tell nothing, and the task ends at once."""
        now_ms = self._now_ms()
        event = f"unconfirmed: {outcome.reason}"[:500]
        self._log.warning("submit unconfirmed", task_id=task.id, why=outcome.reason)
        if attempt.provider.find(task, attempt.upstream) is None:

            def end(known: Task) -> Task:
                ended = lifecycle.failed(known, lifecycle.UNCONFIRMED, now_ms)
                assert ended is not None
                return ended

            return await self._writer.keep(task, end, None, event)
        due_ms = unconfirmed_due_ms(task, now_ms, self._schedule(), can_find=True, is_settled=False)
        return await self._writer.keep(
            task, lambda k: lifecycle.unconfirmed(k, now_ms), due_ms, event
        )


def reason_of(refusal: Refused) -> str:
    """The provider's code of a refusal, or ours."""
    return refusal.provider_code or refusal.error.code
