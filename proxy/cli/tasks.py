"""`reelway task`: what became of whose task. For the operator: it sees all owners, and deleted
tasks too."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from proxy.cli.context import (
    FOR_STORE,
    InOrder,
    config_option,
    json_option,
    load_config,
    say,
    say_json,
    when_ms,
    with_store,
)
from proxy.cli.plain import plain
from proxy.cli.tables import columns
from proxy.errors import Conflict, NotFound
from proxy.model import Status, Task
from proxy.store import LineEntry, Place, RefusedSubmit, Store
from proxy.tasks.lifecycle import BY_OPERATOR, ended_by_operator
from proxy.tasks.operator import fail_task
from proxy.tasks.pricing import money

_LEAST = 8  # of a cell that is cut
_CUT_FIRST = ("UPSTREAM", "OWNER", "MODEL", "NOTE")
_GO_FIRST = ("UPSTREAM", "OWNER")


def _id_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("task_id", metavar="ID")(command)


@click.group(cls=InOrder)
def task() -> None:
    """List, show and end tasks of all owners, also deleted ones."""


@task.command("list")
@click.option("--owner", help="Only tasks of this owner.")
@click.option(
    "--status", type=click.Choice([s.value for s in Status]), help="Only tasks with this status."
)
@click.option("--refused", is_flag=True, help="List refused submits instead; they are not tasks.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1, 10_000))
@config_option
@json_option
def task_list(
    owner: str | None,
    status: str | None,
    refused: bool,
    limit: int,
    config_path: Path | None,
    as_json: bool,
) -> None:
    """List tasks, newest first.

    A narrow terminal shows shorter values; a pipe and --json get whole ones.
    """

    if refused and status is not None:
        raise click.UsageError("--refused and --status exclude each other.")

    async def go(store: Store) -> None:
        if refused:
            _say_refused(await store.refusals.latest(limit, owner), as_json=as_json)
            return
        tasks, has_more = await _search(store, owner, status, limit)
        if as_json:
            say_json({"tasks": [_row(found) for found in tasks], "has_more": has_more})
            return
        if not tasks:
            say("There are no such tasks.")
            return
        names = ("ID", "OWNER", "MODEL", "STATUS", "UPSTREAM", "CREATED", "NOTE")
        rows = [
            (
                found.id,
                found.owner,
                found.model,
                found.status.value,
                found.upstream or "-",
                when_ms(found.created_ms),
                _note(found),
            )
            for found in tasks
        ]
        header, *cells = _fitted(names, rows, _room())
        say(columns(header, cells))
        if has_more:
            say(f"There are more than {limit}; --limit shows them.", err=True)

    with_store(load_config(config_path, FOR_STORE), go)


@task.command("show")
@_id_argument
@config_option
@json_option
def task_show(task_id: str, config_path: Path | None, as_json: bool) -> None:
    """Show one task."""
    config = load_config(config_path, FOR_STORE)

    async def go(store: Store) -> None:
        found = await _known(store, task_id)
        whole = _whole(found, config.billing.currency)
        if as_json:
            say_json(whole)
            return
        for key, value in whole.items():
            say(f"{key:<16}{plain(str(_said(value)))}")

    with_store(config, go)


@task.command("timeline")
@_id_argument
@config_option
@json_option
def task_timeline(task_id: str, config_path: Path | None, as_json: bool) -> None:
    """Show what happened to one task, in order."""

    async def go(store: Store) -> None:
        await _known(store, task_id)
        line = await store.tasks.time_line(task_id)
        if as_json:
            say_json([_entry(entry) for entry in line])
            return
        names = ("AT", "VERSION", "STAGE", "ATTEMPT", "EVENT")
        rows = [[str(value) for value in _entry(entry).values()] for entry in line]
        say(columns(names, rows))

    with_store(load_config(config_path, FOR_STORE), go)


@task.command("fail")
@_id_argument
@click.option("--reason", default="", help="The reason, for the timeline.")
@config_option
def task_fail(task_id: str, reason: str, config_path: Path | None) -> None:
    """End an open task as failed: refund it, free its slot, send its webhook.

    The upstream is not asked to stop: a running render goes on, and the provider may charge it.
    """
    config = load_config(config_path)

    async def go(store: Store) -> None:
        try:
            await fail_task(
                store,
                task_id,
                BY_OPERATOR,
                ended_by_operator(reason),
                int(time.time() * 1000),
                config.limits.retention_s,
            )
        except (NotFound, Conflict) as refusal:
            raise click.ClickException(refusal.message) from None
        say(f"{task_id} has failed; nothing is charged.")

    with_store(config, go)


def _say_refused(refusals: Sequence[RefusedSubmit], *, as_json: bool) -> None:
    rows = [{"at": when_ms(each.ms), **_without_ms(each)} for each in refusals]
    if as_json:
        say_json({"refused": rows})
        return
    if not rows:
        say("No submit was refused lately.")
        return
    names = ("AT", "OWNER", "MODEL", "UPSTREAM", "REASON", "STATUS", "MESSAGE")
    cells = [[str(row[name.lower()] or "-") for name in names] for row in rows]
    say(columns(names, cells))


def _without_ms(refusal: RefusedSubmit) -> dict[str, object]:
    return {name: value for name, value in asdict(refusal).items() if name != "ms"}


# ---------------------------------------------------------------- finding


async def _search(
    store: Store, owner: str | None, status: str | None, limit: int
) -> tuple[list[Task], bool]:
    """At most `limit` tasks, and whether there are more."""
    found: list[Task] = []
    after: Place | None = None
    while True:
        tasks, after = await store.made.page(
            limit - len(found), after, owner, lambda task: status in (None, task.status.value)
        )
        found += tasks
        if after is None or len(found) == limit:
            return found, after is not None


async def _known(store: Store, task_id: str) -> Task:
    found = await store.tasks.get(task_id)
    if found is None:
        raise click.ClickException(f"there is no task {task_id}; `task list` shows the latest")
    return found


# ---------------------------------------------------------------- showing


def _row(found: Task) -> dict[str, object]:
    return {
        "id": found.id,
        "owner": found.owner,
        "token_id": found.token_id,
        "model": found.model,
        "status": found.status.value,
        "upstream": found.upstream or None,
        "created": when_ms(found.created_ms),
        "completed": None if found.completed_ms is None else when_ms(found.completed_ms),
        "deleted": found.deleted,
        "unconfirmed": found.unconfirmed,
        "error": None if found.error is None else found.error.code,
    }


def _whole(found: Task, currency: str) -> dict[str, object]:
    """Not the addresses of results: whoever has one has the video."""
    error = found.error
    return {
        **_row(found),
        "stage": found.stage.value,
        "progress": found.progress,
        "version": found.version,
        "attempt": found.attempt,
        "dialect": found.dialect,
        "operation": found.operation.value,
        "kind": found.kind.value,
        "prompt": found.prompt,
        "seconds": found.seconds,
        "size": None if found.size is None else "x".join(map(str, found.size)),
        "external_id": found.external_id,
        "source_id": found.source_id,
        "route": found.route or None,
        "provider": found.provider or None,
        "credential": found.credential or None,
        "upstream_model": found.upstream_model or None,
        "queue": found.queue or None,
        "upstream_id": found.upstream_id,
        "adjusted": list(found.adjusted),
        "dropped": list(found.dropped),
        "results": len(found.results),
        "webhook": found.webhook,
        "held": money(found.hold_micro),
        "cost": None if found.settled_micro is None else money(found.settled_micro),
        "currency": currency,
        "updated": when_ms(found.updated_ms),
        "expires": None if found.expires_ms is None else when_ms(found.expires_ms),
        "error": error
        and {"code": error.code, "message": error.message, "provider_code": error.provider_code},
    }


def _entry(entry: LineEntry) -> dict[str, object]:
    return {
        "at": when_ms(entry.ms),
        "version": entry.version,
        "stage": entry.stage.value,
        "attempt": entry.attempt,
        "event": entry.event,
    }


def _note(found: Task) -> str:
    notes = [found.error.code] if found.error else []
    notes += ["waiting"] if found.is_waiting else []
    notes += ["unconfirmed"] if found.unconfirmed else []
    notes += ["deleted"] if found.deleted and not _is_refused(found) else []
    return ", ".join(notes) or "-"


def _is_refused(found: Task) -> bool:
    """Its submit was refused to the client's face: hidden as it failed, and deleted by nobody."""
    return (
        found.error is not None and not found.upstream_id and found.updated_ms == found.completed_ms
    )


def _room() -> int | None:
    """The width of the terminal; None where the output goes elsewhere, which wants it whole."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _fitted(
    names: Sequence[str], rows: Sequence[Sequence[str]], room: int | None
) -> list[list[str]]:
    """The header and the rows in `room` columns, as far as that is possible: moments lose what is
    finer than a second, then their year and seconds; then cells lose their ends, and at last whole
    columns go, the least needed first. An id stays whole: it is what is copied."""
    table = [list(names), *([plain(cell) for cell in row] for row in rows)]
    if room is None or _width(table) <= room:
        return table
    created = names.index("CREATED")
    for row in table[1:]:
        row[created] = row[created].partition(".")[0] + "Z"
    if _width(table) <= room:
        return table
    for row in table[1:]:
        row[created] = row[created][5:16].replace("T", " ")
    for gone in range(len(_GO_FIRST) + 1):
        kept = [at for at, name in enumerate(names) if name not in _GO_FIRST[:gone]]
        fitted = _cut([[row[at] for at in kept] for row in table], room)
        if _width(fitted) <= room:
            break
    return fitted


def _cut(table: list[list[str]], room: int) -> list[list[str]]:
    for name in _CUT_FIRST:
        if name not in table[0]:
            continue
        column = table[0].index(name)
        widest = max(len(row[column]) for row in table)
        most = max(widest - max(_width(table) - room, 0), _LEAST, len(name))
        for row in table:
            if len(row[column]) > most:
                row[column] = row[column][: most - 1] + "…"
    return table


def _width(table: Sequence[Sequence[str]]) -> int:
    return max(map(len, columns(table[0], table[1:]).splitlines()))


def _said(value: object) -> object:
    if isinstance(value, dict):
        return ", ".join(f"{k}: {v}" for k, v in value.items() if v is not None)
    if isinstance(value, list):
        return ", ".join(value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return "-" if value is None else value
