"""Which changes of a task cause a webhook. Written in the same script as the change itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from proxy.dialects import DIALECTS
from proxy.dialects.base import Dialect
from proxy.model import DialectName, Status, Task


@dataclass(frozen=True, slots=True)
class Webhook:
    """One webhook: that a task came to `status`, to be told to `url`.

    `state` is pending, delivered or dead; `log` has the last attempts as (ms, what came of it).
    """

    name: str
    task_id: str
    token_id: str
    dialect: DialectName
    url: str
    status: Status
    created_ms: int
    state: Literal["pending", "delivered", "dead"] = "pending"
    attempts: int = 0
    log: tuple[tuple[int, str], ...] = ()


def notice_of(
    old: Task, new: Task, dialects: Mapping[DialectName, Dialect] = DIALECTS
) -> Webhook | None:
    """The webhook that a change causes: the task's end, or any change where the dialect says so."""
    if new.webhook is None or new.deleted or new.status is old.status:
        return None
    dialect = dialects.get(new.dialect)  # None: a newer version's, whose tasks this one follows too
    if not new.status.is_final and (dialect is None or not dialect.notifies_every_change):
        return None
    return Webhook(
        name=f"{new.id}:{new.version}",
        task_id=new.id,
        token_id=new.token_id,
        dialect=new.dialect,
        url=new.webhook,
        status=new.status,
        created_ms=new.updated_ms,
    )
