"""Tasks as a submit makes them."""

from __future__ import annotations

from itertools import count

from proxy.model import Kind, Operation, Stage, Task
from proxy.store import new_task_id

NOW = 1_790_000_000_000

_serial = count(1)


def new_task(
    owner: str = "acme",
    *,
    created_ms: int = NOW,
    kind: Kind = Kind.TEXT,
    external_id: str | None = None,
    token_id: str = "tok",
) -> Task:
    return Task(
        id=new_task_id(owner, f"{next(_serial):046x}"),
        owner=owner,
        token_id=token_id,
        dialect="openai",
        operation=Operation.CREATE,
        kind=kind,
        model="sora-2",
        created_ms=created_ms,
        updated_ms=created_ms,
        stage=Stage.RESERVED,
        external_id=external_id,
    )
