"""Many tasks at random, straight on the store, as workers, trackers and crashes would move them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

from proxy.http.outbound import Draft, Rendered
from proxy.model import (
    Credential,
    Json,
    Limits,
    Stage,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
)
from proxy.providers.outcomes import Accepted
from proxy.store import Allowance, Store
from proxy.tasks import lifecycle
from proxy.tasks.pricing import price_micro
from tests.rig.tasks import NOW, new_task

PRICE: dict[str, Json] = {
    "per_second": {"720p": "0.051", "other": "0.0703337"},
    "per_video": "0.000001",
}
OWNERS = ("acme", "a{b}c", "другой")
RETENTION_S = 3600
UPSTREAM = Upstream("up", "openai", "http://127.0.0.1", (Credential("a", api_key="k"),))
BUDGET_MICRO = 20_000_000


class Play:
    """`known` is what each worker believes of a task, perhaps an old version. Time goes on by
    hours, so that days and months change."""

    def __init__(self, store: Store, seed: int, budget_micro: int = BUDGET_MICRO) -> None:
        self.store = store
        self.budget_micro = budget_micro
        self.random = random.Random(seed)
        self.now_ms = NOW
        self.known: dict[str, Task] = {}
        self.ended: list[Task] = []
        self.refused = 0
        self._moves: tuple[Callable[[], object], ...] = ()

    async def step(self) -> None:
        self.now_ms += self.random.randrange(0, 3_600_000)
        moves = (self.submit, self.submit, self.send, self.bind, self.end, self.end, self.crash)
        await self.random.choice(moves)()

    async def submit(self) -> None:
        """Perhaps asked twice, for its answer was lost."""
        owner = self.random.choice(OWNERS)
        seconds = self.random.choice((1.5, 4.0, 5.041667, 8.0, 12.0))
        rendered = Rendered(seconds, self.random.choice(((1280, 720), (1920, 1080), None)))
        task = replace(
            new_task(owner, created_ms=self.now_ms, token_id=f"{owner}{self.random.randrange(3)}"),
            price=PRICE,
            seconds=seconds,
            size=rendered.size,
            hold_micro=price_micro(PRICE, rendered),
        )
        allowance = Allowance(
            token=Limits(budget_day_micro=self.budget_micro // 20, budget_micro=self.budget_micro),
            owner=Limits(budget_month_micro=self.budget_micro),
        )
        taken = await self.store.tasks.reserve(task, self.now_ms, 0, allowance)
        if taken is not None:
            self.refused += 1
            return
        if self.random.random() < 0.1:
            again = await self.store.tasks.reserve(task, self.now_ms, 0, allowance)
            assert again is not None
        self.known[task.id] = task

    def _any(self, *stages: Stage) -> Task | None:
        found = [task for task in self.known.values() if task.stage in stages]
        return self.random.choice(found) if found else None

    async def send(self) -> None:
        task = self._any(Stage.RESERVED)
        if task is not None:
            rendered = Rendered(task.seconds, task.size)
            draft = Draft("POST", "/")
            credential = UPSTREAM.credentials[0]
            await self._swap(
                task, lifecycle.sent(task, self.now_ms, UPSTREAM, credential, "m", draft, rendered)
            )

    async def bind(self) -> None:
        task = self._any(Stage.SENT)
        if task is not None:
            await self._swap(task, lifecycle.bound(task, Accepted("up-1"), self.now_ms))

    async def end(self) -> None:
        """Done (shorter, longer or as promised), failed, or never confirmed; perhaps told twice,
        by two workers that had read the same version."""
        task = self._any(Stage.RESERVED, Stage.SENT, Stage.BOUND)
        if task is None:
            return
        if task.stage is Stage.BOUND and self.random.random() < 0.7:
            seconds = self.random.choice((None, 0.5, task.seconds, 99.0))
            state = TaskState(Status.COMPLETED, seconds=seconds)
            ended = lifecycle.advanced(task, state, self.now_ms)
        else:
            code = self.random.choice(("not_submitted", "submission_unconfirmed", "timeout"))
            ended = lifecycle.failed(task, TaskError(code, "x"), self.now_ms)
        assert ended is not None
        await self._swap(task, ended)
        if self.random.random() < 0.2:
            late = replace(ended, settled_micro=0)
            assert await self.store.tasks.swap(task, late, None, "late", RETENTION_S) is not None

    async def crash(self) -> None:
        """A worker loses all it knows: whoever comes after reads it from the store."""
        self.known = await self.store.tasks.get_many(self.known)

    async def _swap(self, old: Task, new: Task) -> None:
        due_ms = None if new.stage.is_final else self.now_ms
        other = await self.store.tasks.swap(old, new, due_ms, "moved", RETENTION_S)
        assert other is None
        if new.stage.is_final:
            self.ended.append(new)
            del self.known[new.id]
        elif self.random.random() < 0.9:  # else it died before it could note what it had done
            self.known[new.id] = new
        else:
            await self.crash()
