"""What was made, by UTC day, owner and model: counted by the scripts that make and end tasks, so
that it needs no walk through tasks or ledger, and free renders count too.

Rule: a task belongs to the day of its submit, as its money does. A day's counters are `submits`,
`completed`, `failed`, `ms` (of video, all of a task's videos together) and `micro` (spent).
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

import orjson

from proxy.model import Stage, Task
from proxy.store import keys
from proxy.store.pipeline import Answer, Pipeline
from proxy.store.transport import Arg

KEPT_DAYS: Final = 100
KEPT_MS: Final = KEPT_DAYS * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Use:
    """Of one day (`20260131`), owner and model. `made_ms` is the length of finished videos."""

    day: str
    owner: str
    model: str
    submits: int = 0
    completed: int = 0
    failed: int = 0
    made_ms: int = 0
    spent_micro: int = 0


class Usage:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch

    async def of_day(self, day: str, owner: str | None = None) -> tuple[Use, ...]:
        """By owner and model; empty for a day nothing was made on, or too long ago."""
        shards = keys.ALL_SHARDS if owner is None else (keys.shard_of(owner),)
        found = await asyncio.gather(
            *(self._batch.call("HGETALL", keys.usage(shard, day)) for shard in shards)
        )
        counts: dict[tuple[str, str], dict[str, int]] = {}
        for answer in found:
            for (whose, model), what, count in _entries(answer):
                if owner in (None, whose):
                    counts.setdefault((whose, model), {})[what] = count
        return tuple(
            Use(
                day,
                *who,
                submits=what.get("submits", 0),
                completed=what.get("completed", 0),
                failed=what.get("failed", 0),
                made_ms=what.get("ms", 0),
                spent_micro=what.get("micro", 0),
            )
            for who, what in sorted(counts.items())
        )


def whose(owner: str, model: str) -> bytes:
    return orjson.dumps([owner, model])


def counters(task: Task, *, is_refused: bool = False) -> tuple[Arg, ...]:
    """What the end of this task adds to its day: name, amount, name, amount, …

    A refused submit takes back what its reservation counted: it was no task.
    """
    name = whose(task.owner, task.model)
    if is_refused:
        return (b"submits " + name, -1)
    if task.stage is not Stage.COMPLETED:
        return (b"failed " + name, 1)
    seconds = sum(result.seconds or task.seconds or 0 for result in task.results)
    added = (("completed", 1), ("ms", round(seconds * 1000)), ("micro", task.settled_micro or 0))
    return tuple(item for what, count in added for item in (what.encode() + b" " + name, count))


def _entries(answer: Answer) -> list[tuple[tuple[str, str], str, int]]:
    """((owner, model), counter, count) of a day's hash."""
    assert isinstance(answer, dict)
    found = []
    for field, count in answer.items():
        what, _, name = field.partition(b" ")
        owner, model = orjson.loads(name)
        found.append(((owner, model), what.decode(), int(count)))
    return found
