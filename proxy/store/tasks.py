"""Tasks in Redis: reserved once, changed by compare-and-set, leased when due, listed by owner.

Rule: a task changes only through `swap`, and only from the version its caller has read. Every
change is told once on the channel, as `task|<id>|<version>`.

Rule: a call that raised StoreDown may have been carried out. `reserve` can be repeated as it
is. `swap` cannot: read the task and decide again; two callers may both have meant the same
change, and only one of them may act on it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Final, Literal, TypeAlias

from proxy.errors import Invalid, NotFound, ProxyError
from proxy.model import Kind, Task
from proxy.store import keys
from proxy.store.claim import LostShard, claim, ignore_shard, pull_back
from proxy.store.codec import (
    LineEntry,
    decode_line,
    decode_task,
)
from proxy.store.errors import StoreFault
from proxy.store.observer import NOBODY, Observer
from proxy.store.pipeline import Durability, Pipeline, Script, texts
from proxy.store.queue import TaskQueues
from proxy.store.task_scripts import (
    FREE,
    Allowance,
    NotReserved,
    NotReservedWhy,
    reserve_arguments,
    swap_arguments,
)
from proxy.store.transport import Arg

_WINDOWS: Final = (32, 256)  # index entries looked at in one step of a listing: least, most

# A token's index is looked over once in so long, in case a worker of an older version, which does
# not enter what it makes, ran beside one of ours.
_INDEXED_MS: Final = 24 * 3600 * 1000


_Ids: TypeAlias = list[str]  # inside the class, `list` is its method
_Tasks: TypeAlias = list[Task]
_Args: TypeAlias = list[Arg]


class Tasks:
    def __init__(self, batch: Pipeline, observer: Observer = NOBODY) -> None:
        self._batch = batch
        self._observer = observer
        self._reserve = Script.load("reserve")
        self._swap = Script.load("swap")
        self._page = Script.load("page")
        self._claim = Script.load("claim")
        self._pull_back = Script.load("pull_back")
        self._secure = Script.load("secure")
        self._free = Script.load("slot_release")
        self._waiting = TaskQueues(batch)

    # ------------------------------------------------------------ changes

    async def reserve(
        self, task: Task, due_ms: int, retries: int = 0, allowance: Allowance = FREE
    ) -> NotReserved | None:
        """Write a new task. None: written. Else nothing was: somebody was there before, or
        `allowance` has no room for it. TooLarge when its record would leave no room for its end.

        With `task.idempotency` the key decides; without one, `retries` > 0 (a retry the client
        announces) takes the oldest recent submit of the same fingerprint that has served fewer.
        """
        names, arguments = reserve_arguments(self._reserve, task, due_ms, retries, allowance)
        answer = await self._batch.run(self._reserve, names, arguments)
        if answer is None:
            self._observer.task_moved(None, task)
            return None
        why, what = texts(answer)
        return NotReserved(NotReservedWhy(why), what)

    async def swap(
        self,
        old: Task,
        new: Task,
        due_ms: int | None,
        event: str | None,
        retention_s: int,
        *,
        never_sent: bool = False,
        refused: bool = False,
        durability: Durability = "local",
    ) -> Task | None:
        """Replace `old` by `new`, if `old.version` is still the stored one. None: done. Else
        nothing was written, and this is the task as it is now; NotFound when there is none.

        `due_ms` None: nobody needs to look at it again. `event` names a line of the time line,
        None adds no line. A task that is final lives on for `retention_s`, counted from the
        swap that made it final. A webhook the change causes is written with it.
        `never_sent` frees the names it took (its alias and key): the client may ask again.
        `refused` does so too, and the task is none any more: lists, counts and ledger forget it,
        and what waits for its outcome finds a small record for `REFUSED_KEPT_MS`. Of one client
        key the latest 64 records are kept.
        `durability` other than "local" waits until the change is safe there; StoreUnsafe when
        it is not in time (the change itself may stay).
        """
        if new.id != old.id or new.version != old.version + 1:
            raise ValueError("a swap goes from one version of a task to the next")
        names, arguments = swap_arguments(
            self._swap,
            old,
            new,
            due_ms,
            event,
            retention_s,
            never_sent=never_sent,
            refused=refused,
        )
        answer = await self._batch.run(self._swap, names, arguments, durability=durability)
        if isinstance(answer, bytes):
            return _decode(answer)
        if answer != 1:
            raise NotFound(f"no task {new.id}")
        self._observer.task_moved(old.stage, new, refused=refused)
        ends = new.stage.is_final and not old.stage.is_final
        if ends and new.credential:
            await self._leave(new)
        if ends and new.queue:
            await self._waiting.forget(new)
        return None

    async def secure(self, task_id: str, durability: Durability) -> None:
        """Wait until all that was written of the task is safe as `durability` says. StoreUnsafe
        when it is not in time; NotFound when there is no such task. "local" waits for nothing."""
        if durability == "local":
            return
        if (
            await self._batch.run(self._secure, [keys.task(task_id)], [], durability=durability)
            != 1
        ):
            raise NotFound(f"no task {task_id}")

    async def _leave(self, task: Task) -> None:
        """Its place among those in flight with its credential is free. That is in another slot,
        so not in the script; one that is not given back ends by itself."""
        with suppress(ProxyError):
            await free(
                self._batch,
                self._free,
                keys.credential_name(task.upstream, task.credential),
                task.id,
            )

    # ------------------------------------------------------------ look-ups

    async def get(self, task_id: str) -> Task | None:
        """Also deleted ones: `Task.deleted` says so. None for anything that is no id of ours,
        without asking Redis. Whose it is, the caller compares."""
        return (await self.get_many([task_id])).get(task_id)

    async def get_many(self, ids: Iterable[str]) -> dict[str, Task]:
        """The tasks that exist, by id, in the order asked."""
        known = [task_id for task_id in ids if keys.shard_of_task(task_id) is not None]
        found = await asyncio.gather(
            *(self._batch.call("HGET", keys.task(task_id), "doc") for task_id in known)
        )
        return {
            task_id: _decode(document)
            for task_id, document in zip(known, found, strict=True)
            if isinstance(document, bytes)
        }

    async def external(self, token_id: str, owner: str, ext_id: str) -> str | None:
        """The id of the task a client calls `ext_id`."""
        answer = await self._batch.call("GET", keys.alias(token_id, owner, ext_id))
        return answer.decode() if isinstance(answer, bytes) else None

    async def of_key(self, token_id: str, owner: str, key_sha256: str) -> Task | None:
        """The task of the submit that came with this Idempotency-Key."""
        answer = await self._batch.call("GET", keys.idempotency(token_id, owner, key_sha256))
        if not isinstance(answer, bytes):
            return None
        return await self.get(answer.decode().partition(" ")[0])

    async def list(
        self,
        owner: str,
        limit: int,
        order: Literal["asc", "desc"] = "desc",
        after: str | None = None,
        offset: int = 0,
        kind: Kind | None = None,
        token_id: str | None = None,
    ) -> tuple[tuple[Task, ...], bool]:
        """A page of an owner's tasks by creation (then id), and whether more follow; with
        `kind` or `token_id` only those.

        Deleted tasks are hidden, yet stay valid as `after`: clients delete while they page.
        `offset` counts what the listing shows. Invalid when `after` is not in it. Index entries
        whose task has expired are dropped on the way. A token's page costs the same however many
        tasks its owner's other tokens have.
        """
        index = keys.owner_index(owner)
        if token_id is not None:
            await self._index_token(token_id, owner)
            index = keys.token_index(token_id, owner)
        wanted = limit + 1
        shown: list[str] = []
        dead: set[str] = set()
        seen: set[str] = set()
        cursor, score, to_skip = after or "", "", offset
        while len(shown) < wanted:
            window = min(max(wanted - len(shown) + to_skip, _WINDOWS[0]), _WINDOWS[1])
            answer = await self._batch.run(self._page, [index], [cursor, score, order, window])
            if answer == 0:
                raise Invalid("'after' is not the id of a task in this listing", param="after")
            members = texts(answer)
            if not members:
                break
            ids = [member for member in members[::2] if member not in seen]
            cursor, score = members[-2:]
            seen.update(ids)
            matching, expired = await self._sift(ids, kind, token_id)
            dead |= expired
            shown += matching[to_skip:]
            to_skip = max(0, to_skip - len(matching))
        if dead:
            await self._batch.call("ZREM", index, *dead)
        tasks = await self.get_many(shown[:limit])
        return tuple(tasks.values()), len(shown) > limit

    async def _index_token(self, token_id: str, owner: str) -> None:
        """Put the token's tasks from before there were indexes by token into its own, once.

        Any number of workers may at the same time: `reserve` enters what is new.
        """
        done = keys.token_indexed(token_id, owner)
        if await self._batch.call("EXISTS", done):
            return
        cursor, score = "", ""
        while True:
            window: _Args = [cursor, score, "asc", _WINDOWS[1]]
            answer = await self._batch.run(self._page, [keys.owner_index(owner)], window)
            members = () if answer == 0 else texts(answer)
            if not members:
                break
            cursor, score = members[-2:]
            own, _ = await self._sift(members[::2], None, token_id, hidden=True)
            entries = [
                entry
                for member, made in zip(members[::2], members[1::2], strict=True)
                if member in own
                for entry in (made, member)
            ]
            if entries:
                await self._batch.call("ZADD", keys.token_index(token_id, owner), "NX", *entries)
        await self._batch.call("SET", done, 1, "PX", _INDEXED_MS)

    async def _sift(
        self, ids: Sequence[str], kind: Kind | None, token_id: str | None, *, hidden: bool = False
    ) -> tuple[_Ids, set[str]]:
        """Which of `ids` a listing shows, in their order, and which have expired. With `hidden`
        also those that were deleted."""
        marks = await asyncio.gather(
            *(
                self._batch.call("HMGET", keys.task(task_id), "gone", "kind", "tok")
                for task_id in ids
            )
        )
        shown: _Ids = []
        dead: set[str] = set()
        for task_id, mark in zip(ids, marks, strict=True):
            assert isinstance(mark, list)
            gone, its_kind, its_token = mark
            if gone is None:
                dead.add(task_id)
            elif (
                (hidden or gone == b"0")
                and (kind is None or its_kind == kind.encode())
                and (token_id is None or its_token == token_id.encode())
            ):
                shown.append(task_id)
        return shown, dead

    async def time_line(self, task_id: str) -> tuple[LineEntry, ...]:
        """What happened to the task, oldest first; empty when it is not known. Of a very long
        history the middle is missing."""
        if keys.shard_of_task(task_id) is None:
            return ()
        answer = await self._batch.call("LRANGE", keys.line(task_id), 0, -1)
        assert isinstance(answer, list)
        return tuple(decode_line(entry) for entry in answer if isinstance(entry, bytes))

    # ------------------------------------------------------------ what is due

    async def claim_due(
        self, now_ms: int, lease_ms: int, limit: int, lost: LostShard = ignore_shard
    ) -> dict[str, int]:
        """Lease up to `limit` due tasks of all owners until `now_ms + lease_ms`: no other worker
        is handed them before. `swap` or `reschedule` ends a lease; a worker that dies lets it
        lapse. Shards share the limit; a shard with less to do leaves its share to the others.
        By id, the ms since when it was due: in each shard the longest overdue first.

        `lost` is called for each shard that cannot be read; raises only when none can.
        """
        return await claim(self._batch, self._claim, keys.due, now_ms, lease_ms, limit, lost)

    async def pull_back(self, now_ms: int, longest_ms: int) -> int:
        """Make due at once what is due more than `longest_ms` ahead, which nobody can have meant:
        it was written while a clock was wrong. How many there were."""
        return await pull_back(self._batch, self._pull_back, keys.due, now_ms, longest_ms)

    async def reschedule(self, task_id: str, due_ms: int) -> bool:
        """Look again at `due_ms`, the task itself unchanged (a poll that said nothing new).
        False when it is no longer due at all: somebody finished it."""
        key = keys.due(keys.require_shard(task_id))
        changed = await self._batch.call("ZADD", key, "XX", "CH", due_ms, task_id)
        return changed == 1

    async def is_due(self, task_id: str) -> bool:
        """Whether somebody will look at it again: nobody does once it has ended."""
        return (
            await self._batch.call("ZSCORE", keys.due(keys.require_shard(task_id)), task_id)
            is not None
        )

    async def forget_due(self, task_id: str) -> None:
        """Take a due id away whose task does not exist."""
        await self._batch.call("ZREM", keys.due(keys.require_shard(task_id)), task_id)

    async def open(self, most: int) -> _Tasks | None:
        """Every task that is due now or later; None when there are more than `most`."""
        if await self.open_count() > most:
            return None
        found = await asyncio.gather(
            *(self._batch.call("ZRANGE", keys.due(shard), 0, most) for shard in keys.ALL_SHARDS)
        )
        ids = (task_id for answer in found for task_id in texts(answer))
        return [*(await self.get_many(ids)).values()]

    async def open_count(self) -> int:
        """How many tasks are due now or later."""
        counts = await asyncio.gather(
            *(self._batch.call("ZCARD", keys.due(shard)) for shard in keys.ALL_SHARDS)
        )
        return sum(count for count in counts if isinstance(count, int))


async def free(batch: Pipeline, script: Script, name: str, task_id: str) -> None:
    """Give back the task's place at a credential, if it has one, and say so on the channel."""
    await batch.run(script, [keys.slots(name)], [task_id, keys.CHANNEL, f"place|{name}|0"])


def _decode(document: bytes) -> Task:
    try:
        return decode_task(document)
    except ValueError as exc:
        raise StoreFault(f"a task's record is unreadable: {exc}") from exc
