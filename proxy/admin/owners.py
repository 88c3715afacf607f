"""/api/owners: what tenants may have over all their keys, and what they have had."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Annotated, Any, Final

from pydantic import Field

from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import (
    CountGiven,
    Item,
    JsonBody,
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


class ModelLimitBody(JsonBody):
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


class OwnerChange(JsonBody):
    """`limits` are changed one by one, `models` replaced whole."""

    limits: LimitsBody | None = None
    models: Annotated[list[ModelLimitBody], Field(max_length=MOST_ENTRIES)] | None = None


async def list_owners(
    context: AdminContext, request: AdminRequest[Page, NoBody]
) -> Listing[OwnerItem]:
    """Those with limits of their own, and all that have a token."""
    records, counts = await asyncio.gather(context.store.owners.list(), _tokens(context))
    known = {record.name: record for record in records}
    names = sorted({*known, *counts})
    if request.query.cursor is not None:
        (last,) = place_of(request.query.cursor, str)
        names = [name for name in names if name > str(last)]
    shown = names[: request.query.limit]
    items = (_item(context, known.get(name) or OwnerRecord(name), counts[name]) for name in shown)
    return Listing[OwnerItem](
        data=await asyncio.gather(*items),
        next=cursor_of(shown[-1]) if len(names) > len(shown) else None,
    )


async def show(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> OwnerItem:
    """Of any name: an owner nobody has spoken of may have anything."""
    record, counts = await asyncio.gather(
        context.store.owners.get(_name(request)), _tokens(context)
    )
    return await _item(context, record, counts[record.name])


async def change(context: AdminContext, request: AdminRequest[NoQuery, OwnerChange]) -> OwnerItem:
    record = await context.store.owners.get(_name(request))
    models = record.models
    if request.body.models is not None:
        models = tuple(
            (item.model, Limits(max_in_flight=item.max_in_flight)) for item in request.body.models
        )
    limits = (request.body.limits or LimitsBody()).onto(record.limits)
    changed = OwnerRecord(record.name, limits, models)
    await context.store.owners.put(changed)
    return await _item(context, changed, (await _tokens(context))[record.name])


def _name(request: AdminRequest[Any, Any]) -> str:
    try:
        return checked_name(request.params["name"])
    except ValueError as fault:
        raise Invalid(f"The owner's name {fault}", param="name") from fault


async def _tokens(context: AdminContext) -> Counter[str]:
    return Counter(record.owner for record in await context.store.tokens.list())


async def _item(context: AdminContext, record: OwnerRecord, tokens: int) -> OwnerItem:
    who = holders("", record.name, "")[1]
    use = await context.store.ledger.budget_use(record.name, who, context.now_ms())
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
