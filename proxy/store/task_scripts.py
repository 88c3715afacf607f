"""What `reserve.lua` and `swap.lua` are called with, as pure functions of the tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxy.errors import PERHAPS_OWED
from proxy.model import NO_LIMITS, Limits, Stage, Task
from proxy.store import keys, usage
from proxy.store.codec import (
    MAX_LINE_ENTRIES,
    Booking,
    BookingKind,
    LineEntry,
    encode_booking,
    encode_hook,
    encode_line,
    encode_new_task,
    encode_task,
    remains_of,
    task_fields,
)
from proxy.store.notice import notice_of
from proxy.store.pipeline import Script
from proxy.store.transport import Arg

# No task is open longer; with the retention it bounds how old a live index entry can be.
_LONGEST_OPEN_MS: Final = 7 * 24 * 3600 * 1000
MAX_EVENT_CHARS: Final = 500
KEY_LIFE_MS: Final = 24 * 3600 * 1000
RECENT_MS: Final = 10 * 60 * 1000
MAX_RECENT: Final = 16
REFUSED_KEPT_MS: Final = 10 * 60 * 1000  # longer than anybody waits for a submit's outcome
DAY_KEPT_MS: Final = 40 * 24 * 3600 * 1000
MONTH_KEPT_MS: Final = 400 * 24 * 3600 * 1000


class NotReservedWhy(StrEnum):
    """What a reservation met."""

    SAME = "same"  # itself, made before
    REPLAY = "replay"  # the submit this idempotency key was used for
    MISMATCH = "mismatch"  # the key was used for another request
    RETRY = "retry"  # the submit the client says it is repeating
    ALIAS = "alias"  # the task that has the client's own id
    FLIGHT = "flight"  # as many tasks under way as it may have: `what` names whose limit
    BUDGET = "budget"  # what it would cost is more than is left: `what` names whose


@dataclass(frozen=True, slots=True)
class NotReserved:
    """`what` is a task's id, or the name of an exhausted limit."""

    why: NotReservedWhy
    what: str


@dataclass(frozen=True, slots=True)
class Allowance:
    """What a submit may take: the limits of its token, its owner, and its owner's use of the
    model, in this order."""

    token: Limits = NO_LIMITS
    owner: Limits = NO_LIMITS
    model: Limits = NO_LIMITS


FREE: Final = Allowance()


def reserve_arguments(
    script: Script, task: Task, due_ms: int, retries: int, allowance: Allowance
) -> tuple[Sequence[str], Sequence[Arg]]:
    """KEYS and ARGV of `reserve.lua`. TooLarge when the record would leave no room for its end."""
    is_new = task.stage is Stage.RESERVED and task.attempt == 0
    document = encode_new_task(task) if is_new else encode_task(task)
    named: dict[str, Arg] = {
        "id": task.id,
        "created_ms": task.created_ms,
        "due_ms": due_ms,
        "line": encode_line(_entry(task, "reserved")),
        "channel": keys.CHANNEL,
        "message": _message(task),
        "fingerprint": task.fingerprint or "-",
        "retries": retries,
        "key_life_ms": KEY_LIFE_MS,
        "recent_ms": RECENT_MS,
        "most_recent": MAX_RECENT,
        "hold_micro": task.hold_micro,
        "longest_open_ms": _LONGEST_OPEN_MS,
        "entry": _booking(task, "hold", task.hold_micro, task.created_ms),
        "day": keys.day(task.created_ms),
        "use": usage.whose(task.owner, task.model),
        "use_life_ms": usage.KEPT_MS,
    }
    return (
        (*_keys_of(task), keys.ledger(task.owner, keys.month(task.created_ms)), *_places(task)),
        script.arguments(named, *_gates(allowance), *task_fields(task, document)),
    )


def swap_arguments(
    script: Script,
    old: Task,
    new: Task,
    due_ms: int | None,
    event: str | None,
    retention_s: int,
    *,
    never_sent: bool,
    refused: bool,
) -> tuple[Sequence[str], Sequence[Arg]]:
    """KEYS and ARGV of `swap.lua`; see `Tasks.swap`."""
    retention_ms = REFUSED_KEPT_MS if refused else retention_s * 1000
    written = remains_of(new) if refused else new
    hook = notice_of(old, new)
    ends = new.stage.is_final and not old.stage.is_final
    entries = _closing(new) if ends else ()
    counters = usage.counters(new, is_refused=refused) if ends else ()
    line = None if event is None else _ending(new, event) if ends else _entry(new, event)
    named: dict[str, Arg] = {
        "id": new.id,
        "version": old.version,
        "due_ms": "" if due_ms is None else due_ms,
        "line": b"" if line is None else encode_line(line),
        "most_lines": MAX_LINE_ENTRIES,
        "channel": keys.CHANNEL,
        "message": _message(new),
        "life_ms": retention_ms if new.stage.is_final else "",
        "oldest_ms": new.updated_ms - retention_s * 1000 - _LONGEST_OPEN_MS,
        "frees": 2 if refused else int(never_sent),
        "hook": "" if hook is None else hook.name,
        "now_ms": new.updated_ms,
        "hook_document": b"" if hook is None else encode_hook(hook),
        "flights": len(keys.holders(new.token_id, new.owner, new.model)),
        "ends": int(ends),
        "held_micro": new.hold_micro,
        "cost_micro": new.settled_micro or 0,
        "day": keys.day(new.created_ms),
    }
    return (
        (
            *_keys_of(new),
            keys.hooks(keys.require_shard(new.id)),
            keys.hook(f"{new.id}:{new.version}"),
            keys.ledger(new.owner, keys.month(new.updated_ms)),
            *_places(new),
        ),
        script.arguments(
            named, len(entries), *entries, len(counters) // 2, *counters, *task_fields(written)
        ),
    )


def _keys_of(task: Task) -> tuple[str, ...]:
    """What both scripts touch; where a request has no such name, the task's own key stands in."""
    own = keys.task(task.id)
    who = (task.token_id, task.owner)
    return (
        own,
        keys.line(task.id),
        keys.owner_index(task.owner),
        keys.due(keys.require_shard(task.id)),
        own if task.external_id is None else keys.alias(*who, task.external_id),
        own if task.idempotency is None else keys.idempotency(*who, task.idempotency),
        own if task.fingerprint is None else keys.recent(*who, task.fingerprint),
    )


def _places(task: Task) -> tuple[str, ...]:
    """What a task counts against: zsets of tasks in flight, then balances."""
    who = keys.holders(task.token_id, task.owner, task.model)
    day, month = keys.day(task.created_ms), keys.month(task.created_ms)
    return (
        *(keys.in_flight(task.owner, name) for name in who),
        *(
            keys.balance(task.owner, name, period)
            for name in who[:2]
            for period in ("", day, month)
        ),
    )


def _gates(allowance: Allowance) -> tuple[Arg, ...]:
    """The limits that go with `_places`, as `reserve.lua` reads them."""
    flights: list[Arg] = []
    for name, limits in (
        ("token", allowance.token),
        ("owner", allowance.owner),
        ("model", allowance.model),
    ):
        flights += (name, _or_any(limits.max_in_flight))
    budgets: list[Arg] = []
    for name, limits in (("token", allowance.token), ("owner", allowance.owner)):
        budgets += (f"{name} budget", _or_any(limits.budget_micro), "")
        budgets += (f"{name} day budget", _or_any(limits.budget_day_micro), DAY_KEPT_MS)
        budgets += (f"{name} month budget", _or_any(limits.budget_month_micro), MONTH_KEPT_MS)
    return (len(flights) // 2, *flights, len(budgets) // 3, *budgets)


def _or_any(limit: int | None) -> Arg:
    return "" if limit is None else limit


def _closing(task: Task) -> tuple[bytes, ...]:
    """The ledger's entries about a task's end: hold = settle + refund."""
    if not task.hold_micro:
        return ()
    cost = task.settled_micro or 0
    entries = [_booking(task, "settle", cost, task.updated_ms)] if cost else []
    if task.hold_micro > cost:
        entries.append(_booking(task, "refund", task.hold_micro - cost, task.updated_ms))
    if task.error is not None and task.error.code in PERHAPS_OWED:
        # The provider may have rendered it all the same, and charge us.
        entries.append(_booking(task, "loss", task.hold_micro, task.updated_ms))
    return tuple(entries)


def _booking(task: Task, kind: BookingKind, micro: int, ms: int) -> bytes:
    return encode_booking(Booking(kind, task.id, task.token_id, task.owner, task.model, micro, ms))


def _entry(task: Task, event: str) -> LineEntry:
    return LineEntry(task.updated_ms, task.version, task.stage, task.attempt, event)


def _ending(task: Task, event: str) -> LineEntry:
    """The line of a task's end. Of a failure it names the reason, however it came about."""
    if task.error is not None:
        reason = f"{task.error.code}: {task.error.message}"
        event = f"{event}: {reason}" if event == "failed" else f"{event}; failed: {reason}"
    return _entry(task, event[:MAX_EVENT_CHARS])


def _message(task: Task) -> str:
    return f"task|{task.id}|{task.version}"
