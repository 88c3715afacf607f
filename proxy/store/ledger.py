"""The money of owners and tokens: where it stands, every entry about it, and whether they agree.

Rule: an entry is written by the script that moves the money, never beside it. So at any moment
the balances are the sums of the entries, and a task's hold is its settlement and its refund.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.model import Task
from proxy.store import keys
from proxy.store.codec import Booking, BookingKind, decode_booking
from proxy.store.errors import StoreFault
from proxy.store.pipeline import Answer, Pipeline, Script, texts, texts_or_empty
from proxy.store.task_scripts import DAY_KEPT_MS
from proxy.store.tasks import Tasks

PAGE: Final = 1000  # entries read at once
DAY_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Balance:
    held_micro: int = 0
    spent_micro: int = 0


@dataclass(frozen=True, slots=True)
class BudgetUse:
    """Of one token or owner: for ever, this UTC day, this UTC month; and its open tasks."""

    total: Balance
    day: Balance
    month: Balance
    in_flight: int


@dataclass(frozen=True, slots=True)
class LedgerCheck:
    """What a check looked at, and what it found wrong, a sentence each."""

    owners: int = 0
    tasks: int = 0
    entries: int = 0
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _Account:
    """The entries about one task."""

    token_id: str
    first: Booking
    at: str  # the id of the first entry
    amounts: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def is_closed(self) -> bool:
        return bool(self.amounts["settle"] or self.amounts["refund"])

    def sum(self, *kinds: str) -> int:
        return sum(amount for kind in kinds for amount in self.amounts[kind])


class Ledger:
    def __init__(self, batch: Pipeline, tasks: Tasks) -> None:
        self._batch = batch
        self._tasks = tasks
        self._snapshot = Script.load("ledger_snapshot")

    async def budget_use(self, owner: str, who: str, now_ms: int) -> BudgetUse:
        """`who`: see `keys.holders`."""
        periods = ("", keys.day(now_ms), keys.month(now_ms))
        total, day, month, count = await asyncio.gather(
            *(
                self._batch.call("HMGET", keys.balance(owner, who, period), "held", "spent")
                for period in periods
            ),
            self._batch.call("ZCOUNT", keys.in_flight(owner, who), f"({now_ms}", "+inf"),
        )
        assert isinstance(count, int)
        return BudgetUse(_balance(total), _balance(day), _balance(month), count)

    # ------------------------------------------------------------ entries

    async def months(self, owner: str | None = None) -> dict[str, list[str]]:
        """Which ledgers there are: owner → months, both ascending."""
        found: dict[str, list[str]] = defaultdict(list)
        shards = keys.ALL_SHARDS if owner is None else (keys.shard_of(owner),)
        names = await asyncio.gather(
            *(self._batch.call("SMEMBERS", keys.ledgers(shard)) for shard in shards)
        )
        for members in names:
            for member in sorted(texts(members)):
                whose, _, month = member.rpartition(":")
                if owner in (None, whose):
                    found[whose].append(month)
        return {whose: sorted(found[whose]) for whose in sorted(found)}

    async def entries(self, owner: str, month: str) -> AsyncIterator[Booking]:
        """Oldest first."""
        async for _, booking in self._stream(keys.ledger(owner, month), "-"):
            yield booking

    async def latest(
        self, owner: str, month: str, limit: int, before: str = ""
    ) -> list[tuple[str, Booking]]:
        """Up to `limit` entries with their ids, the latest first; `before` is the id of one."""
        start = f"({before}" if before else "+"
        page = await self._batch.call(
            "XREVRANGE", keys.ledger(owner, month), start, "-", "COUNT", limit
        )
        assert isinstance(page, list)
        return [_entry(item) for item in page]

    async def _stream(
        self, key: str, after: str, until: str = "+"
    ) -> AsyncIterator[tuple[str, Booking]]:
        """Entries with their ids, from behind `after` ("-": the first) to `until`."""
        start = after if after == "-" else f"({after}"
        while True:
            page = await self._batch.call("XRANGE", key, start, until, "COUNT", PAGE)
            assert isinstance(page, list)
            last = ""
            for item in page:
                last, booking = _entry(item)
                yield last, booking
            if len(page) < PAGE:
                return
            start = f"({last}"

    # ------------------------------------------------------------ the check

    async def check(self, now_ms: int, owner: str | None = None) -> LedgerCheck:
        """Compare entries, balances and tasks, beside a gateway at work: an owner's balances and
        the ends of its ledgers are read in one step."""
        months = await self.months(owner)
        known: dict[str, dict[str, _Account]] = {}
        problems: list[str] = []
        entries = 0
        for whose in months:
            accounts, count = await self._check_owner(whose, months[whose], now_ms, problems)
            known[whose] = accounts
            entries += count
        await self._check_open(owner, known, problems)
        return LedgerCheck(
            len(months), sum(map(len, known.values())), entries, tuple(sorted(set(problems)))
        )

    async def _check_owner(
        self, owner: str, months: Sequence[str], now_ms: int, problems: list[str]
    ) -> tuple[dict[str, _Account], int]:
        # A month may begin while we read.
        names = sorted({*months, keys.month(now_ms), keys.month(now_ms + DAY_MS)})
        accounts: dict[str, _Account] = {}
        count, last = 0, dict.fromkeys(names, "-")
        for month in names:
            async for at, booking in self._stream(keys.ledger(owner, month), "-"):
                last[month], count = at, count + 1
                _note(accounts, at, booking)
        wanted = sorted(_sums(owner, accounts.values()))
        streams = [keys.ledger(owner, month) for month in names]
        balances = [keys.balance(owner, *name) for name in wanted]
        answer = await self._batch.run(self._snapshot, [*streams, *balances], [len(streams)])
        assert isinstance(answer, list)
        for month, end in zip(names, texts_or_empty(answer[: len(names)]), strict=True):
            if end and end != last[month]:
                stream = self._stream(keys.ledger(owner, month), last[month], end)
                async for at, booking in stream:
                    count += 1
                    _note(accounts, at, booking)
        sums = _sums(owner, accounts.values())
        # A refused submit takes its hold and the entry about it away, perhaps while we read.
        gone = await self._taken_back(owner, accounts)
        kept = [account for task_id, account in accounts.items() if task_id not in gone]
        without = _sums(owner, kept)
        for name, stored in zip(wanted, answer[len(names) :], strict=True):
            span = without.get(name, Balance()), sums[name]
            _compare(owner, name, span, stored, now_ms, problems)
        for task_id in gone:
            del accounts[task_id]
        await self._check_tasks(accounts, problems)
        return accounts, count

    async def _taken_back(self, owner: str, accounts: Mapping[str, _Account]) -> set[str]:
        """The tasks whose hold is open by what we have read, and whose entry is not there now."""
        held = {task_id: a for task_id, a in accounts.items() if not a.is_closed}
        found = await asyncio.gather(
            *(
                self._batch.call("XRANGE", keys.ledger(owner, keys.month(a.first.ms)), a.at, a.at)
                for a in held.values()
            )
        )
        return {task_id for task_id, answer in zip(held, found, strict=True) if not answer}

    async def _check_tasks(self, accounts: dict[str, _Account], problems: list[str]) -> None:
        ids = sorted(accounts)
        for start in range(0, len(ids), PAGE):
            tasks = await self._tasks.get_many(ids[start : start + PAGE])
            for task_id in ids[start : start + PAGE]:
                account, task = accounts[task_id], tasks.get(task_id)
                problems += _faults(task_id, account, task)
                if task is None or account.is_closed:
                    continue
                if task.stage.is_final:
                    # One that has ended since we read has its entries by now.
                    if not await self._has(task, "settle", "refund"):
                        held = account.sum("hold")
                        problems.append(f"{task_id}: it has ended and its {held} µ are still held")
                elif not await self._tasks.is_due(task_id):
                    known = await self._tasks.get(task_id)
                    if known is not None and not known.stage.is_final:
                        problems.append(f"{task_id}: it is open and nobody will look at it again")

    async def _check_open(
        self, owner: str | None, known: dict[str, dict[str, _Account]], problems: list[str]
    ) -> None:
        """Every open task that costs something has its hold."""
        shards = keys.ALL_SHARDS if owner is None else (keys.shard_of(owner),)
        for shard in shards:
            ids = await self._batch.call("ZRANGE", keys.due(shard), 0, -1)
            tasks = await self._tasks.get_many(sorted(texts(ids)))
            for task in tasks.values():
                if owner not in (None, task.owner) or not task.hold_micro:
                    continue
                if task.id not in known.get(task.owner, {}):
                    # One made since we read has its entry by now.
                    if await self._has(task, "hold"):
                        continue
                    problems.append(f"{task.id}: it is open and has no hold")

    async def _has(self, task: Task, *kinds: BookingKind) -> bool:
        """Whether there is an entry of one of these kinds about the task now."""
        for month in {keys.month(task.created_ms), keys.month(task.updated_ms)}:
            async for booking in self.entries(task.owner, month):
                if booking.task_id == task.id and booking.kind in kinds:
                    return True
        if "hold" in kinds:  # refused since: it is no task any more
            known = await self._tasks.get(task.id)
            return known is None or known.stage.is_final
        return False


# ---------------------------------------------------------------- arithmetic


def _note(accounts: dict[str, _Account], at: str, booking: Booking) -> None:
    account = accounts.get(booking.task_id)
    if account is None:
        account = accounts[booking.task_id] = _Account(booking.token_id, booking, at)
    account.amounts[booking.kind].append(booking.micro)


def _sums(owner: str, accounts: Iterable[_Account]) -> dict[tuple[str, str], Balance]:
    """What the balances should be, by (who, period); a task's money belongs to the day and month
    of its first entry, which is its hold."""
    found: dict[tuple[str, str], Balance] = {}
    for account in accounts:
        token, tenant, _ = keys.holders(account.token_id, owner, "")
        held = 0 if account.is_closed else account.sum("hold")
        spent = account.sum("settle")
        ms = account.first.ms
        for who in (token, tenant):
            for period in ("", keys.day(ms), keys.month(ms)):
                old = found.get((who, period), Balance())
                found[who, period] = Balance(old.held_micro + held, old.spent_micro + spent)
    return found


def _compare(
    owner: str,
    name: tuple[str, str],
    wanted: tuple[Balance, Balance],
    stored: Answer,
    now_ms: int,
    problems: list[str],
) -> None:
    who, period = name
    found = _balance(stored)
    is_old = period != "" and period < (
        keys.day(now_ms - DAY_KEPT_MS) if len(period) == len("20260131") else keys.month(0)
    )
    least, most = wanted
    is_held = least.held_micro <= found.held_micro <= most.held_micro
    if (is_held and found.spent_micro == most.spent_micro) or (is_old and found == Balance()):
        return
    span = f" of {period}" if period else ""
    problems.append(
        f"{owner}: the balance {who}{span} has {found.held_micro} held and {found.spent_micro} "
        f"spent (µ); its entries say {most.held_micro} and {most.spent_micro}"
    )


def _faults(task_id: str, account: _Account, task: Task | None) -> list[str]:
    """What is wrong with the entries about one task. `task` None: it has expired, so it ended.
    It was read later than its entries: that it has ended since is no fault."""
    holds = account.amounts["hold"]
    if len(holds) != 1:
        return [f"{task_id}: it has {len(holds)} holds"]
    hold, closed = holds[0], account.sum("settle", "refund")
    found = []
    if account.is_closed and hold != closed:
        found.append(f"{task_id}: {hold} µ were held, {closed} µ settled or given back")
    if any(len(account.amounts[kind]) > 1 for kind in ("settle", "refund", "loss")):
        found.append(f"{task_id}: it was closed twice")
    if task is None:
        if not account.is_closed:
            found.append(f"{task_id}: its {hold} µ are held and it is gone")
        return found
    if task.hold_micro != hold:
        found.append(f"{task_id}: {hold} µ are held, {task.hold_micro} µ were to be")
    if account.is_closed and not task.stage.is_final:
        found.append(f"{task_id}: it is open and its money is closed")
    if account.is_closed and (task.settled_micro or 0) != account.sum("settle"):
        found.append(f"{task_id}: it cost {task.settled_micro} µ, not {account.sum('settle')} µ")
    return found


# ---------------------------------------------------------------- answers


def _balance(answer: Answer) -> Balance:
    assert isinstance(answer, list)
    held, spent = answer
    return Balance(_number(held), _number(spent))


def _number(value: Answer) -> int:
    return int(value) if isinstance(value, bytes | int) else 0


def _entry(item: Answer) -> tuple[str, Booking]:
    """redis-py gives the fields as a mapping."""
    assert isinstance(item, list | tuple)
    at, pairs = item
    assert isinstance(at, bytes)
    assert isinstance(pairs, dict)
    try:
        return at.decode(), decode_booking(pairs[b"entry"])
    except (KeyError, TypeError, ValueError) as exc:
        raise StoreFault(f"an entry of the ledger is unreadable: {exc}") from exc
