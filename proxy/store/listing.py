"""Every task of all owners, the newest first, in pages.

`Walk` is also what other lists over all shards are paged with: one sorted set per shard, read as
if they were one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from proxy.model import Task
from proxy.store import keys
from proxy.store.pipeline import Answer, Pipeline
from proxy.store.tasks import Tasks

WINDOW: Final = 64  # entries of a shard read in one step
MOST_LOOKED_AT: Final = 2000  # entries one page may cost, however few of them are wanted


@dataclass(frozen=True, slots=True)
class Place:
    """An entry of the sorted sets: where a page ended. It need not be there any more."""

    score: int
    member: str


class Walk:
    """The members of these sorted sets in order: by score, then name, both down or both up."""

    def __init__(self, batch: Pipeline, names: Sequence[str], *, down: bool) -> None:
        self._batch = batch
        self._names = names
        self._down = down

    async def step(self, after: Place | None) -> list[Place]:
        """The next entries behind `after`, at least `WINDOW` of them while there are so many;
        empty at the end."""
        windows = await asyncio.gather(*(self._window(name, after) for name in self._names))
        merged = sorted((place for window, _ in windows for place in window), key=self._order)
        # Of a set that has more only what was read is known: the rest comes behind its last.
        ends = [window[-1] for window, is_more in windows if is_more]
        if ends:
            first_end = self._order(min(ends, key=self._order))
            merged = [place for place in merged if self._order(place) <= first_end]
        return merged

    async def _window(self, name: str, after: Place | None) -> tuple[list[Place], bool]:
        """Some entries of one set behind `after`, and whether there may be more."""
        skip = 0
        while True:  # again only where many share the score of `after`
            page = await self._read(name, after, skip)
            fresh = [p for p in page if after is None or self._order(p) > self._order(after)]
            if fresh or len(page) < WINDOW:
                return fresh, len(page) == WINDOW
            skip += WINDOW

    async def _read(self, name: str, after: Place | None, skip: int) -> list[Place]:
        command, start, end = "ZRANGEBYSCORE", "-inf", "+inf"
        if self._down:
            command, start, end = "ZREVRANGEBYSCORE", end, start
        if after is not None:
            start = str(after.score)
        return _places(
            await self._batch.call(command, name, start, end, "WITHSCORES", "LIMIT", skip, WINDOW)
        )

    def _order(self, place: Place) -> tuple[int, bytes]:
        """Ascending as the walk goes; Redis compares names as bytes."""
        name = place.member.encode()
        if self._down:
            return -place.score, bytes(255 - byte for byte in name) + b"\xff"
        return place.score, name


class TaskListing:
    def __init__(self, batch: Pipeline, tasks: Tasks) -> None:
        self._batch = batch
        self._tasks = tasks

    async def page(
        self,
        limit: int,
        after: Place | None = None,
        owner: str | None = None,
        is_wanted: Callable[[Task], bool] = lambda _task: True,
    ) -> tuple[list[Task], Place | None]:
        """Up to `limit` tasks behind `after`, deleted ones too, and where to go on; None at the
        end. A page may be short, even empty, before the end: `MOST_LOOKED_AT`."""
        names = [keys.made(shard) for shard in keys.ALL_SHARDS]
        if owner is not None:
            names = [keys.owner_index(owner)]
        walk = Walk(self._batch, names, down=True)
        found: list[Task] = []
        last: Place | None = None  # of `found`
        looked = 0
        while looked < MOST_LOOKED_AT:
            places = await walk.step(after)
            if not places:
                return found, None
            looked += len(places)
            tasks = await self._tasks.get_many(place.member for place in places)
            for place in places:
                task = tasks.get(place.member)
                if task is None or not is_wanted(task):
                    continue
                if len(found) == limit:
                    return found, last
                found.append(task)
                last = place
            after = places[-1]
        return found, after


def _places(answer: Answer) -> list[Place]:
    assert isinstance(answer, list)
    flat = iter(item.decode() for item in answer if isinstance(item, bytes))
    return [Place(int(float(score)), member) for member, score in zip(flat, flat, strict=True)]
