"""/api/owners: what tenants may have over all their keys, and what they have had."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, Final

from pydantic import Field

from proxy.admin.context import Action, Asked, Desk
from proxy.admin.schemas import (
    Body,
    CountGiven,
    Item,
    LimitsBody,
    LimitsItem,
    Listing,
    Micro,
    NoBody,
    NoQuery,
    Page,
    cursor_of,
    place_of,
)
from proxy.errors import Invalid
from proxy.model import Limits
from proxy.store import OwnerRecord
from proxy.store.keys import holders
from proxy.tokens import GLOB_CHARS, MOST_ENTRIES, checked_name


class ModelLimitItem(Item):
    """The most tasks under way at once of each model this glob matches."""

    model: str
    max_in_flight: int | None


class ModelLimitBody(Body):
    model: Annotated[str, Field(min_length=1, max_length=GLOB_CHARS)]
    max_in_flight: CountGiven


class OwnerItem(Item):
    """A tenant. Days and months are UTC's, by the time of the submit."""

    name: str
    limits: LimitsItem
    models: list[ModelLimitItem]
    tokens: int
    in_flight: int
    spent_micro: Micro
    spent_day_micro: Micro
    spent_month_micro: Micro
    held_micro: Micro


class OwnerChange(Body):
    """`limits` are changed one by one, `models` replaced whole."""

    limits: LimitsBody | None = None
    models: Annotated[list[ModelLimitBody], Field(max_length=MOST_ENTRIES)] | None = None


async def list_owners(desk: Desk, asked: Asked[Page, NoBody]) -> Listing[OwnerItem]:
    """Those with limits of their own, and all that have a token."""
    records, counts = await asyncio.gather(desk.store.owners.list(), _tokens(desk))
    known = {record.name: record for record in records}
    names = sorted({*known, *counts})
    if asked.query.cursor is not None:
        (last,) = place_of(asked.query.cursor, str)
        names = [name for name in names if name > str(last)]
    shown = names[: asked.query.limit]
    items = (_item(desk, known.get(name) or OwnerRecord(name), counts[name]) for name in shown)
    return Listing[OwnerItem](
        data=await asyncio.gather(*items),
        next=cursor_of(shown[-1]) if len(names) > len(shown) else None,
    )


async def show(desk: Desk, asked: Asked[NoQuery, NoBody]) -> OwnerItem:
    """Of any name: an owner nobody has spoken of may have anything."""
    record, counts = await asyncio.gather(desk.store.owners.get(_name(asked)), _tokens(desk))
    return await _item(desk, record, counts[record.name])


async def change(desk: Desk, asked: Asked[NoQuery, OwnerChange]) -> OwnerItem:
    record = await desk.store.owners.get(_name(asked))
    models = record.models
    if asked.body.models is not None:
        models = tuple(
            (item.model, Limits(max_in_flight=item.max_in_flight)) for item in asked.body.models
        )
    limits = (asked.body.limits or LimitsBody()).onto(record.limits)
    changed = OwnerRecord(record.name, limits, models)
    await desk.store.owners.put(changed)
    return await _item(desk, changed, (await _tokens(desk))[record.name])


def _name(asked: Asked[Any, Any]) -> str:
    try:
        return checked_name(asked.params["name"])
    except ValueError as fault:
        raise Invalid(f"The owner's name {fault}", param="name") from fault


async def _tokens(desk: Desk) -> Counter[str]:
    return Counter(record.owner for record in await desk.store.tokens.list())


async def _item(desk: Desk, record: OwnerRecord, tokens: int) -> OwnerItem:
    who = holders("", record.name, "")[1]
    use = await desk.store.ledger.budget_use(record.name, who, desk.now_ms())
    return OwnerItem(
        name=record.name,
        limits=LimitsItem.of(record.limits),
        models=[
            ModelLimitItem(model=glob, max_in_flight=limits.max_in_flight)
            for glob, limits in record.models
        ],
        tokens=tokens,
        in_flight=use.in_flight,
        spent_micro=use.total.spent_micro,
        spent_day_micro=use.day.spent_micro,
        spent_month_micro=use.month.spent_micro,
        held_micro=use.total.held_micro,
    )


ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action(
        "GET", "/api/owners", "List owners by name", list_owners, Listing[OwnerItem], query=Page
    ),
    Action("GET", "/api/owners/{name}", "Retrieve an owner", show, OwnerItem),
    Action(
        "PATCH",
        "/api/owners/{name}",
        "Update the limits of an owner, over all its API keys",
        change,
        OwnerItem,
        body=OwnerChange,
    ),
)
