"""/api/ledger and /api/usage: where the money is, whether it adds up, and what was made of it."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Le
from pydantic import Field

from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import (
    Item,
    Listing,
    Micro,
    Ms,
    NoBody,
    Page,
    Query,
    cursor_of,
    place_of,
)
from proxy.store import Booking, Use, keys

DAY_MS: Final = 24 * 3600 * 1000
MOST_DAYS: Final = 90


class BookingItem(Item):
    """One entry. For every task hold = settle + refund; a `loss` only notes what a provider may
    charge though no client paid."""

    ms: Ms
    kind: Literal["hold", "settle", "refund", "loss"]
    micro: Micro
    owner: str
    token_id: str
    model: str
    task_id: str


class CheckItem(Item):
    """`ok` when every entry, balance and task agree; each problem is a sentence."""

    ok: bool
    owners: int
    tasks: int
    entries: int
    problems: list[str]


class UseItem(Item):
    """Of one UTC day (that of the submit), owner and model; `seconds` of finished video."""

    day: str
    owner: str
    model: str
    submits: int
    completed: int
    failed: int
    seconds: float
    spent_micro: Micro


class LedgerPage(Page):
    """`month` left out: this UTC month."""

    owner: str | None = None
    month: Annotated[str, Field(pattern=r"^2[0-9]{3}-(0[1-9]|1[0-2])$")] | None = None


class Whose(Query):
    owner: str | None = None


class UsePage(Page):
    """`days` back from today, today included."""

    owner: str | None = None
    days: Annotated[int, Ge(1), Le(MOST_DAYS)] = 30


async def entries(
    context: AdminContext, request: AdminRequest[LedgerPage, NoBody]
) -> Listing[BookingItem]:
    """By owner; of each the latest first."""
    query = request.query
    month = (query.month or "").replace("-", "") or keys.month(context.now_ms())
    ledger = context.store.ledger
    owners = [
        owner for owner, months in (await ledger.months(query.owner)).items() if month in months
    ]
    before = ""
    if query.cursor is not None:
        last, before = map(str, place_of(query.cursor, str, str))
        owners = [owner for owner in owners if owner >= last]
        if last not in owners:
            before = ""
    found: list[tuple[str, Booking]] = []
    for owner in owners:
        wanted = query.limit + 1 - len(found)
        found += await ledger.latest(owner, month, wanted, before)
        before = ""
        if len(found) > query.limit:
            break
    shown = found[: query.limit]
    more = len(found) > len(shown)
    return Listing[BookingItem](
        data=[_booking(booking) for _, booking in shown],
        next=cursor_of(shown[-1][1].owner, shown[-1][0]) if more else None,
    )


async def verify(context: AdminContext, request: AdminRequest[Whose, NoBody]) -> CheckItem:
    found = await context.store.ledger.check(context.now_ms(), request.query.owner)
    return CheckItem(
        ok=not found.problems,
        owners=found.owners,
        tasks=found.tasks,
        entries=found.entries,
        problems=list(found.problems),
    )


async def usage(context: AdminContext, request: AdminRequest[UsePage, NoBody]) -> Listing[UseItem]:
    """The latest day first, by owner and model."""
    query, now_ms = request.query, context.now_ms()
    days = [keys.day(now_ms - back * DAY_MS) for back in range(query.days)]
    last: tuple[str, str, str] | None = None
    if query.cursor is not None:
        day, owner, model = map(str, place_of(query.cursor, str, str, str))
        last = (day, owner, model)
        days = [later for later in days if later <= day]
    found: list[Use] = []
    for day in days:
        uses = await context.store.usage.of_day(day, query.owner)
        found += [
            use
            for use in uses
            if last is None or day < last[0] or (day, use.owner, use.model) > last
        ]
        if len(found) > query.limit:
            break
    shown = found[: query.limit]
    end = shown[-1] if len(found) > len(shown) else None
    return Listing[UseItem](
        data=[_use(use) for use in shown],
        next=None if end is None else cursor_of(end.day, end.owner, end.model),
    )


def _booking(booking: Booking) -> BookingItem:
    return BookingItem(
        ms=booking.ms,
        kind=booking.kind,
        micro=booking.micro,
        owner=booking.owner,
        token_id=booking.token_id,
        model=booking.model,
        task_id=booking.task_id,
    )


def _use(use: Use) -> UseItem:
    return UseItem(
        day=f"{use.day[:4]}-{use.day[4:6]}-{use.day[6:]}",
        owner=use.owner,
        model=use.model,
        submits=use.submits,
        completed=use.completed,
        failed=use.failed,
        seconds=use.made_ms / 1000,
        spent_micro=use.spent_micro,
    )


ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action(
        "GET",
        "/api/ledger",
        "List a month's ledger entries by owner, latest first",
        entries,
        Listing[BookingItem],
        query=LedgerPage,
    ),
    Action(
        "GET",
        "/api/ledger/verify",
        "Compare all entries, balances and tasks",
        verify,
        CheckItem,
        query=Whose,
    ),
    Action(
        "GET",
        "/api/usage",
        "Get videos and money spent, by day, owner and model",
        usage,
        Listing[UseItem],
        query=UsePage,
    ),
)
