"""Which changes of a task cause a webhook. Written in the same script as the change itself."""

from __future__ import annotations

from proxy.model import Hook, Task


def notice_of(old: Task, new: Task) -> Hook | None:
    """The webhook a change causes. Kling tells every change of status, the others the end."""
    if new.webhook is None or new.deleted or new.status is old.status:
        return None
    if not new.status.is_final and new.dialect != "kling":
        return None
    return Hook(
        name=f"{new.id}:{new.version}",
        task_id=new.id,
        token_id=new.token_id,
        dialect=new.dialect,
        url=new.webhook,
        status=new.status,
        created_ms=new.updated_ms,
    )
