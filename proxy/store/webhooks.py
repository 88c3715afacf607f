"""Webhooks in Redis: written by the change they tell of, leased when due, kept a while after.

A hook that has ended (delivered, or dead after 72 h) stays for 7 days, but no longer than its
task, so that an operator can look at it and send it again; of all that have ended at most
`MAX_ENDED`. One that ends while its task is under way stays for a day.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, TypeAlias

from proxy.store import keys
from proxy.store.claim import LostShard, claim, ignore_shard, pull_back
from proxy.store.codec import decode_hook, encode_hook
from proxy.store.errors import StoreFault
from proxy.store.listing import MOST_LOOKED_AT, Place, Walk
from proxy.store.notice import Webhook
from proxy.store.pipeline import Pipeline, Script

KEPT_MS: Final = 7 * 24 * 3600 * 1000
KEPT_OPEN_MS: Final = 24 * 3600 * 1000  # of a task still under way, whose own end is not known
MAX_ENDED: Final = 10_000

_Webhooks: TypeAlias = list[Webhook]  # inside the class, `list` is its method


class Webhooks:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._claim = Script.load("claim")
        self._pull_back = Script.load("pull_back")
        self._write = Script.load("hook")

    async def pull_back(self, now_ms: int, longest_ms: int) -> int:
        """As `Tasks.pull_back`, of webhooks that wait for their next attempt."""
        return await pull_back(self._batch, self._pull_back, keys.hooks, now_ms, longest_ms)

    async def claim_due(
        self, now_ms: int, lease_ms: int, limit: int, lost: LostShard = ignore_shard
    ) -> tuple[str, ...]:
        """Lease up to `limit` webhooks that are to be sent now; see `Tasks.claim_due`."""
        claimed = await claim(self._batch, self._claim, keys.hooks, now_ms, lease_ms, limit, lost)
        return tuple(claimed)

    async def get(self, name: str) -> Webhook | None:
        """None for what is no hook, or is gone; StoreFault for a record nobody can read."""
        if _shard_of(name) is None:
            return None
        document = await self._batch.call("HGET", keys.hook(name), "doc")
        if not isinstance(document, bytes):
            return None
        try:
            return decode_hook(document)
        except (ValueError, TypeError, KeyError) as exc:
            raise StoreFault(f"a webhook's record is unreadable: {exc}") from exc

    async def write(self, hook: Webhook, now_ms: int, due_ms: int | None) -> None:
        """What came of an attempt; `due_ms` None when it was the last."""
        shard = keys.shard_of_task(hook.task_id)
        assert shard is not None
        await self._batch.run(
            self._write,
            [
                keys.hooks(shard),
                keys.hook(hook.name),
                keys.told(shard),
                keys.task(hook.task_id),
            ],
            [
                hook.name,
                encode_hook(hook),
                "" if due_ms is None else due_ms,
                now_ms,
                KEPT_MS,
                KEPT_OPEN_MS,
                MAX_ENDED // keys.SHARDS,
            ],
        )

    async def put_back(self, name: str, due_ms: int) -> None:
        """End a lease without an attempt."""
        shard = _shard_of(name)
        if shard is not None:
            await self._batch.call("ZADD", keys.hooks(shard), "XX", due_ms, name)

    async def forget(self, name: str) -> None:
        """Take a due name away whose hook is gone."""
        shard = _shard_of(name)
        if shard is not None:
            await self._batch.call("ZREM", keys.hooks(shard), name)

    async def list(self, limit: int, state: str | None = None) -> tuple[tuple[Webhook, ...], bool]:
        """The latest `limit` of those that wait or have ended (or are in `state`), the oldest
        first, and whether there are more."""
        rooms = [room(shard) for shard in keys.ALL_SHARDS for room in (keys.hooks, keys.told)]
        found = await asyncio.gather(*(self._batch.call("ZRANGE", room, 0, -1) for room in rooms))
        names = [
            name.decode()
            for some in found
            if isinstance(some, list)
            for name in some
            if isinstance(name, bytes)
        ]
        known = [h for h in await self._known(names) if state in (None, h.state)]
        hooks = sorted(known, key=lambda hook: (hook.created_ms, hook.name))
        return tuple(hooks[-limit:]), len(hooks) > limit

    async def page(
        self, limit: int, state: str | None = None, after: tuple[bool, Place] | None = None
    ) -> tuple[_Webhooks, tuple[bool, Place] | None]:
        """Up to `limit` of those in `state`, and where to go on, None at the end: first those
        that wait, the soonest due first, then those that have ended, of which the ones kept
        longest come first. A place is (whether it waits, its entry). A page may be short, even
        empty, before the end."""
        found: _Webhooks = []
        last = after
        looked = 0
        waits = after is None or after[0]
        place = None if after is None else after[1]
        while looked < MOST_LOOKED_AT:
            if state is not None and waits != (state == "pending"):
                step = []
            else:
                rooms = [(keys.hooks if waits else keys.told)(s) for s in keys.ALL_SHARDS]
                step = await Walk(self._batch, rooms, down=not waits).step(place)
            if not step and not waits:
                return found, None
            if not step:
                waits, place = False, None
                continue
            looked += len(step)
            hooks = await asyncio.gather(*(self.get(entry.member) for entry in step))
            for entry, hook in zip(step, hooks, strict=True):
                if hook is None or state not in (None, hook.state):
                    continue
                if len(found) == limit:
                    return found, last
                found.append(hook)
                last = (waits, entry)
            place = step[-1]
        assert place is not None
        return found, (waits, place)

    async def _known(self, names: Sequence[str]) -> _Webhooks:
        hooks: _Webhooks = []
        for first in range(0, len(names), 1000):  # a bound on what waits for the store at once
            some = await asyncio.gather(*(self.get(name) for name in names[first : first + 1000]))
            hooks += [hook for hook in some if hook is not None]
        return hooks


def _shard_of(name: str) -> str | None:
    task_id, colon, _version = name.partition(":")
    return keys.shard_of_task(task_id) if colon else None
