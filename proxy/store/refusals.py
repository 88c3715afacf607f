"""Submits that were refused: the latest ones, and how many by reason.

A refused submit is no task: nobody has its id, and nothing was rendered. What stays of it is one
line in a bounded list of its shard, and a count of its day.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Final

import orjson

from proxy.model import Task
from proxy.store import keys
from proxy.store.pipeline import Pipeline, Script
from proxy.store.usage import KEPT_MS

MOST_KEPT: Final = 1000  # of each shard
KEPT_LINES_MS: Final = 24 * 3600 * 1000
_MESSAGE_CHARS: Final = 300
_NAME_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class RefusedSubmit:
    """One refused submit. `reason` is what it is counted by: a limit that was reached or the code
    of the error; `upstream` and `credential` are of the last attempt, empty when none was made."""

    ms: int
    reason: str
    code: str
    message: str
    status: int
    owner: str
    token_id: str
    dialect: str
    model: str
    upstream: str = ""
    credential: str = ""
    task_id: str = ""


class RefusedSubmits:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._note = Script.load("refusal")

    async def note(self, refusal: RefusedSubmit) -> None:
        shard = keys.shard_of(refusal.owner)
        await self._batch.run(
            self._note,
            [keys.refused(shard), keys.refused_on(shard, keys.day(refusal.ms))],
            [orjson.dumps(refusal), MOST_KEPT, KEPT_LINES_MS, refusal.reason, KEPT_MS],
        )

    async def latest(self, limit: int, owner: str | None = None) -> list[RefusedSubmit]:
        """At most `limit`, the latest first."""
        found = await asyncio.gather(
            *(
                self._batch.call("LRANGE", keys.refused(shard), 0, -1 if owner else limit - 1)
                for shard in _shards(owner)
            )
        )
        refusals = [
            RefusedSubmit(**orjson.loads(line))
            for answer in found
            if isinstance(answer, list)
            for line in answer
            if isinstance(line, bytes)
        ]
        mine = [refusal for refusal in refusals if owner in (None, refusal.owner)]
        return sorted(mine, key=lambda refusal: -refusal.ms)[:limit]

    async def counts(self, day: str) -> dict[str, int]:
        """How many submits of this UTC day (`20260131`) were refused, by reason."""
        found = await asyncio.gather(
            *(self._batch.call("HGETALL", keys.refused_on(s, day)) for s in keys.ALL_SHARDS)
        )
        total: Counter[str] = Counter()
        for answer in found:
            assert isinstance(answer, dict)
            total.update({reason.decode(): int(count) for reason, count in answer.items()})
        return dict(total.most_common())


def refusal_of(
    task: Task, reason: str, code: str, message: str, status: int, now_ms: int
) -> RefusedSubmit:
    return RefusedSubmit(
        now_ms,
        reason,
        code,
        message[:_MESSAGE_CHARS],
        status,
        task.owner,
        task.token_id,
        task.dialect,
        task.model[:_NAME_CHARS],
        task.upstream,
        task.credential,
        task.id,
    )


def _shards(owner: str | None) -> tuple[str, ...]:
    return keys.ALL_SHARDS if owner is None else (keys.shard_of(owner),)
