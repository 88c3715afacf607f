"""The tasks that one worker follows: what it remembers of them, and how it writes their changes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from proxy.caches import BoundedDict
from proxy.model import Task, TaskError
from proxy.providers.outcomes import TransientKind
from proxy.store import Store
from proxy.tasks import lifecycle
from proxy.tasks.lifecycle import Silence
from proxy.tasks.runtime import Runtime
from proxy.telemetry.metrics import OldestTasks

FAILURES_KEPT: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Failures:
    """What one worker remembers of a task's polls without an answer."""

    polls: int = 0
    silence: Silence = field(default_factory=Silence)


class FollowedTasks:
    """Shared by the tracker and the reconciler of one worker. `oldest` are the oldest of the
    tasks it has looked at."""

    def __init__(self, runtime: Runtime, store: Store) -> None:
        self._store = store
        self._now_ms = runtime.now_ms
        self._retention_s = runtime.retention_s
        # Polls in a row of this worker that brought nothing, by task. The oldest are forgotten:
        # another worker may have seen the task's end.
        self._failures: BoundedDict[str, _Failures] = BoundedDict(FAILURES_KEPT)
        self.oldest = OldestTasks()

    # ------------------------------------------------------------ polls without an answer

    def failed_polls(self, task_id: str) -> int:
        """How many polls of this worker in a row brought nothing."""
        known = self._failures.get(task_id)
        return 0 if known is None else known.polls

    def forget_failures(self, task_id: str) -> None:
        self._failures.pop(task_id, None)

    def count_failure(self, task: Task, kind: TransientKind) -> Silence:
        """Count one more poll of this worker that brought nothing. Where a silence stands in the
        task that this worker has not counted from its beginning, another worker had the first
        answer."""
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

    # ------------------------------------------------------------ writing

    async def end(
        self, task: Task, error: TaskError, event: str, *, never_sent: bool = False
    ) -> bool:
        """Fail a task; False when it was not ours to fail. A task that was deleted or polled
        meanwhile fails all the same; one that has ended, or was sent or bound meanwhile, is not
        the task that the caller has judged."""
        known: Task | None = task
        while known is not None and (known.stage is task.stage or task.upstream_id is not None):
            ended = lifecycle.failed(known, error, self._now_ms())
            if ended is None:
                return False
            known = await self.write(known, ended, None, event, never_sent=never_sent)
            if known is None:
                return True
        return False

    async def write(
        self,
        task: Task,
        new: Task,
        due_ms: int | None,
        event: str | None,
        *,
        never_sent: bool = False,
    ) -> Task | None:
        """Write a change; None when written. Else the task as another worker has written it
        meanwhile, with its due time: a lost race is fine."""
        if new.stage.is_final:
            self._failures.pop(task.id, None)
            self.oldest.ended(task.id)
        return await self._store.tasks.swap(
            task, new, due_ms, event, self._retention_s(), never_sent=never_sent
        )
