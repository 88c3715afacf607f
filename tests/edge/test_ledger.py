"""Every micro-unit is held, spent or given back, and the ledger can prove it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from click.testing import CliRunner

from proxy.cli import main
from proxy.model import Limits, Stage, Task
from proxy.server.embedded_store import Embedded
from proxy.store import Allowance, NotReserved, NotReservedWhy, Store, keys
from proxy.store.codec import encode_task
from tests.rig.ledger_play import Play
from tests.rig.tasks import NOW, new_task

OPERATIONS = 2000
T = TypeVar("T")
MIDNIGHT = 1_790_035_200_000  # 2026-09-22T00:00:00Z
NEW_MONTH = 1_790_812_800_000  # 2026-10-01T00:00:00Z


async def submit(
    store: Store, created_ms: int, allowance: Allowance, micro: int = 60
) -> NotReserved | Task:
    task = replace(new_task(created_ms=created_ms), hold_micro=micro)
    taken = await store.tasks.reserve(task, created_ms, 0, allowance)
    return task if taken is None else taken


async def end(store: Store, task: Task, cost: int, at_ms: int) -> Task:
    ended = replace(
        task, version=task.version + 1, stage=Stage.COMPLETED, updated_ms=at_ms, settled_micro=cost
    )
    assert await store.tasks.swap(task, ended, None, "completed", 3600) is None
    return ended


async def test_whatever_happens_the_ledger_balances_to_the_last_micro_unit(store: Store) -> None:
    play = Play(store, seed=7)
    for _ in range(OPERATIONS):
        await play.step()
    found = await store.ledger.check(play.now_ms)
    assert found.problems == ()
    assert found.tasks > OPERATIONS / 10
    assert play.refused
    assert len({task.settled_micro for task in play.ended}) > 10
    for owner in await store.ledger.months():
        spent = sum(task.settled_micro or 0 for task in play.ended if task.owner == owner)
        held = sum(task.hold_micro for task in play.known.values() if task.owner == owner)
        total = (await store.ledger.budget_use(owner, f"o:{owner}", play.now_ms)).total
        assert (total.spent_micro, total.held_micro) == (spent, held)


async def test_a_ledger_somebody_has_touched_is_found_out(store: Store) -> None:
    """One micro-unit anywhere: in a balance, an entry, or a task."""
    call = store.batch.call
    first, second = [
        task
        for task in (await submit(store, NOW, Allowance()), await submit(store, NOW, Allowance()))
        if isinstance(task, Task)
    ]
    ended = await end(store, first, 40, NOW)
    assert (await store.ledger.check(NOW)).problems == ()

    balance = keys.balance("acme", "t:tok", keys.day(NOW))
    await call("HINCRBY", balance, "spent", 1)
    [problem] = (await store.ledger.check(NOW)).problems
    assert problem == (
        "acme: the balance t:tok of 20260921 has 60 held and 41 spent (µ); its entries say 60 "
        "and 40"
    )
    await call("HINCRBY", balance, "spent", -1)

    stream = keys.ledger("acme", keys.month(NOW))
    entries = cast("list[Any]", await call("XRANGE", stream, "-", "+"))
    ids = [entry[0] for entry in entries]
    await call("XDEL", stream, ids[-1])  # the refund
    problems = (await store.ledger.check(NOW)).problems
    assert problems == (f"{first.id}: 60 µ were held, 40 µ settled or given back",)

    await call("XDEL", stream, ids[1])  # the hold of the open one
    problems = (await store.ledger.check(NOW)).problems
    assert f"{second.id}: it is open and has no hold" in problems

    again = replace(ended, version=ended.version + 1, settled_micro=41)
    assert await store.tasks.swap(ended, again, None, None, 3600) is None
    assert f"{first.id}: it cost 41 µ, not 40 µ" in (await store.ledger.check(NOW)).problems


# ---------------------------------------------------------------- borders


@pytest.mark.parametrize("whose", ["token", "owner"])
@pytest.mark.parametrize(
    ("limits", "border", "name"),
    [
        (Limits(budget_day_micro=100), MIDNIGHT, "day"),
        (Limits(budget_month_micro=100), NEW_MONTH, "month"),
    ],
)
async def test_a_budget_begins_anew_at_utcs_border_and_not_before(
    store: Store, whose: str, limits: Limits, border: int, name: str
) -> None:
    """Money belongs to the day and month it was submitted in, whenever it is settled."""
    allowance = Allowance(**{whose: limits})
    over = NotReserved(NotReservedWhy.BUDGET, f"{whose} {name} budget")
    first = await submit(store, border - 2, allowance)
    assert isinstance(first, Task)
    assert await submit(store, border - 1, allowance) == over
    assert isinstance(await submit(store, border, allowance), Task)
    assert await submit(store, border + 1, allowance) == over
    await end(store, first, 10, border + 5)  # gives 50 back to the period before
    assert await submit(store, border + 6, allowance) == over
    assert isinstance(await submit(store, border - 1, allowance), Task)
    before = await store.ledger.budget_use("acme", keys.holders("tok", "acme", "")[0], border - 1)
    after = await store.ledger.budget_use("acme", keys.holders("tok", "acme", "")[0], border)
    period = {"day": (before.day, after.day), "month": (before.month, after.month)}[name]
    assert [(b.held_micro, b.spent_micro) for b in period] == [(60, 10), (60, 0)]
    assert (await store.ledger.check(border + 10)).problems == ()


async def test_a_total_budget_never_begins_anew(store: Store) -> None:
    allowance = Allowance(token=Limits(budget_micro=100))
    assert isinstance(await submit(store, MIDNIGHT, allowance), Task)
    late = await submit(store, MIDNIGHT + 400 * 24 * 3600 * 1000, allowance)
    assert late == NotReserved(NotReservedWhy.BUDGET, "token budget")


# ---------------------------------------------------------------- the commands


def test_the_commands_verify_export_and_tell_usage(valkey: Embedded, tmp_path: Path) -> None:
    balance = keys.balance("acme", "o:acme")

    async def on_store(action: Callable[[Store], Awaitable[T]]) -> T:
        store = await Store.open(valkey.url)
        try:
            return await action(store)
        finally:
            await store.close()

    async def one_task(store: Store) -> str:
        await store.batch.call("FLUSHDB")
        first = await submit(store, NOW, Allowance(), 600_000)
        assert isinstance(first, Task)
        await end(store, first, 400_000, NOW + 1)
        return first.id

    async def spoil(store: Store) -> None:
        await store.batch.call("HINCRBY", balance, "held", 1)

    task_id = asyncio.run(on_store(one_task))
    config = tmp_path / "config.toml"
    config.write_text(
        f'[server]\nstate_dir = "{tmp_path}"\nsecrets = ["{"s" * 32}"]\n'
        f'[redis]\nurl = "{valkey.url}"\n'
    )

    def said(*arguments: str, status: int = 0) -> str:
        result = CliRunner().invoke(main, [*arguments, "--config", str(config)])
        assert result.exit_code == status, result.output
        return result.stdout

    assert json.loads(said("ledger", "verify", "--json")) == {
        "balanced": True,
        "owners": 1,
        "tasks": 1,
        "entries": 3,
        "problems": [],
    }
    assert said("ledger", "verify") == "it balances: 3 entries of 1 task, 1 owner\n"
    rows = list(csv.DictReader(io.StringIO(said("ledger", "export"))))
    assert [(row["kind"], row["amount"], row["task"]) for row in rows] == [
        ("hold", "0.60", task_id),
        ("settle", "0.40", task_id),
        ("refund", "0.20", task_id),
    ]
    as_json = ("ledger", "export", "--format", "json")
    text = said(*as_json, "--month", "2026-09")
    assert [json.loads(line) for line in text.splitlines()] == rows
    assert said(*as_json, "--month", "2026-10") == ""
    assert said(*as_json, "--owner", "other") == ""
    usage = json.loads(said("usage", "--owner", "acme", "--json"))
    assert (usage["spent"]["total"], usage["held"]["total"]) == ("0.40", "0.00")
    assert re.search(r"(?m)^acme +all +0\.40 ", said("usage", "--owner", "acme"))
    asyncio.run(on_store(spoil))
    assert not json.loads(said("ledger", "verify", "--json", status=1))["balanced"]


async def test_a_hold_that_no_open_task_owns_is_found(store: Store) -> None:
    """Of a task that has ended without its entry, and of one that nobody will look at again."""
    ended = await submit(store, NOW, Allowance())
    lost = await submit(store, NOW, Allowance())
    assert isinstance(ended, Task)
    assert isinstance(lost, Task)
    done = replace(ended, stage=Stage.FAILED, settled_micro=0)
    await store.batch.call("HSET", keys.task(ended.id), "doc", encode_task(done))
    await store.tasks.forget_due(lost.id)
    assert set((await store.ledger.check(NOW)).problems) == {
        f"{ended.id}: it has ended and its 60 µ are still held",
        f"{lost.id}: it is open and nobody will look at it again",
    }


async def test_a_submit_refused_while_the_ledger_is_read_is_no_fault(store: Store) -> None:
    """Its hold goes away together with the entry about it."""
    kept = await submit(store, NOW, Allowance())
    gone = await submit(store, NOW, Allowance())
    assert isinstance(kept, Task)
    assert isinstance(gone, Task)
    failed = replace(gone, version=2, stage=Stage.FAILED, settled_micro=0, deleted=True)
    assert await store.tasks.swap(gone, failed, None, "refused", 3600, refused=True) is None
    found = await store.ledger.check(NOW)
    assert (found.problems, found.tasks) == ((), 1)
    assert (await store.ledger.budget_use("acme", "o:acme", NOW)).total.held_micro == 60
