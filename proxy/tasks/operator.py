"""What an operator does to a task by hand."""

from __future__ import annotations

from proxy.errors import Conflict, NotFound
from proxy.model import Task, TaskError
from proxy.store import Store
from proxy.tasks.lifecycle import failed


async def fail_task(
    store: Store, task_id: str, error: TaskError, event: str, now_ms: int, retention_s: int
) -> Task:
    """Fail an open task whatever its stage: refunded, its place free, the names it took kept.

    Returns it as it ended. NotFound when there is none; Conflict when it has ended.
    """
    task = await store.tasks.get(task_id)
    while task is not None:
        ended = failed(task, error, now_ms)
        if ended is None:
            raise Conflict(f"Task {task_id} has ended already: it is {task.status.value}.")
        other = await store.tasks.swap(task, ended, None, event, retention_s)
        if other is None:
            return ended
        task = other
    raise NotFound(f"There is no task '{task_id[:80]}'; it may have expired.")
