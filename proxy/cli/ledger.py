"""`reelway ledger` and `reelway usage`: where the money is, and whether it adds up."""

from __future__ import annotations

import csv
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import click

from proxy.cli.context import (
    FOR_STORE,
    InOrder,
    config_option,
    counted,
    json_option,
    load_config,
    say,
    say_json,
    when_ms,
    with_store,
)
from proxy.cli.tables import columns
from proxy.model import Json, Limits
from proxy.store import Booking, Store
from proxy.store.keys import holders
from proxy.tasks.pricing import money
from proxy.tasks.usage import account_of

_COLUMNS = ("time", "kind", "amount", "currency", "owner", "token", "model", "task")


@click.group(cls=InOrder)
def ledger() -> None:
    """Verify and export the ledger: money held, spent and refunded."""


@ledger.command("verify")
@click.option("--owner", help="Only entries of this owner.")
@config_option
@json_option
def ledger_verify(owner: str | None, config_path: Path | None, as_json: bool) -> None:
    """Compare all entries, balances and tasks; exit 1 if they disagree.

    It may run beside a running gateway.
    """
    faults: list[str] = []

    async def go(store: Store) -> None:
        found = await store.ledger.check(int(time.time() * 1000), owner)
        faults.extend(found.problems)
        if as_json:
            say_json(
                {
                    "balanced": not found.problems,
                    "owners": found.owners,
                    "tasks": found.tasks,
                    "entries": found.entries,
                    "problems": list(found.problems),
                }
            )
            return
        for problem in found.problems:
            say(problem, err=True)
        wrong = len(found.problems)
        verdict = counted(wrong, "problem") if wrong else "it balances"
        say(
            f"{verdict}: {counted(found.entries, 'entry', 'entries')} of "
            f"{counted(found.tasks, 'task')}, {counted(found.owners, 'owner')}"
        )

    with_store(load_config(config_path, FOR_STORE), go)
    if faults:
        raise SystemExit(1)


def _month(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and re.fullmatch(r"2[0-9]{3}-?(0[1-9]|1[0-2])", value) is None:
        raise click.BadParameter(f"'{value}' is not a month; write it like 2026-11")
    return None if value is None else value.replace("-", "")


@ledger.command("export")
@click.option("--owner", help="Only entries of this owner.")
@click.option("--month", callback=_month, help="Only this UTC month: 2026-11.")
@click.option("--format", "form", type=click.Choice(["csv", "json"]), default="csv")
@config_option
def ledger_export(
    owner: str | None, month: str | None, form: str, config_path: Path | None
) -> None:
    """Export all entries, by owner and time. JSON has one object per line."""
    config = load_config(config_path, FOR_STORE)
    currency = config.billing.currency

    async def entries(store: Store) -> AsyncIterator[dict[str, str]]:
        for whose, months in (await store.ledger.months(owner)).items():
            for one in months:
                if month in (None, one):
                    async for booking in store.ledger.entries(whose, one):
                        yield _row(booking, currency)

    async def go(store: Store) -> None:
        if form == "json":
            async for row in entries(store):
                say_json(row)
            return
        writer = csv.DictWriter(sys.stdout, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        async for row in entries(store):
            writer.writerow(row)

    with_store(config, go)


def _row(booking: Booking, currency: str) -> dict[str, str]:
    return {
        "time": when_ms(booking.ms),
        "kind": booking.kind,
        "amount": money(booking.micro),
        "currency": currency,
        "owner": booking.owner,
        "token": booking.token_id,
        "model": booking.model,
        "task": booking.task_id,
    }


# ---------------------------------------------------------------- usage


@click.command()
@click.option("--owner", help="One owner with all its API keys, instead of every key.")
@click.option("--token", "token_id", help="One API key.")
@config_option
@json_option
def usage(owner: str | None, token_id: str | None, config_path: Path | None, as_json: bool) -> None:
    """Show what API keys or owners have spent, hold and have left."""
    if owner is not None and token_id is not None:
        raise click.UsageError("--owner and --token exclude each other.")
    config = load_config(config_path, FOR_STORE)

    async def go(store: Store) -> None:
        rows = [
            {"owner": whose, "token": key, "currency": config.billing.currency, **account}
            for whose, key, account in await _accounts(store, owner, token_id)
        ]
        if as_json:
            say_json(rows if owner is None and token_id is None else rows[0])
            return
        names = ("OWNER", "TOKEN", "SPENT", "THIS MONTH", "TODAY", "HELD", "LEFT", "IN FLIGHT")
        say(columns(names, [_cells(row) for row in rows]))
        say(f"\nAmounts are in {config.billing.currency}; --json has budgets by day and month.")

    with_store(config, go)


async def _accounts(
    store: Store, owner: str | None, token_id: str | None
) -> list[tuple[str, str | None, dict[str, Json]]]:
    """(owner, token or None for the owner as a whole, its account)."""
    now_ms = int(time.time() * 1000)

    async def account(whose: str, who: str, limits: Limits) -> dict[str, Json]:
        return account_of(limits, await store.ledger.budget_use(whose, who, now_ms))

    if owner is not None:
        _, who, _ = holders("", owner, "")
        limits = (await store.owners.get(owner)).limits
        return [(owner, None, await account(owner, who, limits))]
    records = await store.tokens.list()
    if token_id is not None:
        records = tuple(record for record in records if record.id == token_id)
        if not records:
            raise click.ClickException(f"there is no key {token_id}; `token list` shows them all")
    return [
        (
            record.owner,
            record.id,
            await account(record.owner, holders(record.id, record.owner, "")[0], record.limits),
        )
        for record in records
    ]


def _cells(row: dict[str, Json]) -> tuple[str, ...]:
    spent, held, left = row["spent"], row["held"], row["left"]
    assert isinstance(spent, dict)
    assert isinstance(held, dict)
    assert isinstance(left, dict)
    least = [str(amount) for amount in left.values() if amount is not None]
    return (
        str(row["owner"]),
        str(row["token"] or "all"),
        str(spent["total"]),
        str(spent["month"]),
        str(spent["day"]),
        str(held["total"]),
        min(least, key=float, default="-"),
        str(row["tasks_in_flight"]),
    )
