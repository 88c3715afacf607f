"""/api/tokens: the keys that clients hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, Final

from annotated_types import Ge, Le
from pydantic import AfterValidator, Field, Strict

from proxy import tokens
from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import (
    Item,
    JsonBody,
    LimitsBody,
    LimitsItem,
    Listing,
    Micro,
    Ms,
    MsGiven,
    NoBody,
    NoQuery,
    Page,
    cursor_of,
    place_of,
)
from proxy.dialects import RegisteredDialect
from proxy.errors import Invalid
from proxy.model import Operation
from proxy.signing import TOKEN_ENTROPY
from proxy.store import TokenRecord
from proxy.store.keys import holders
from proxy.tokens import (
    MOST_ENTRIES,
    NAME_CHARS,
    MadeToken,
    NewToken,
    State,
    change_token,
    check_webhook_target,
    checked_labels,
    checked_models,
    checked_name,
    checked_networks,
    checked_webhook,
    find_token,
    mint,
    rotate_token,
    state_of,
)

OVERLAP_S: Final = 86400
MOST_OVERLAP_S: Final = 36_500 * 86400

Name = Annotated[str, Field(min_length=1, max_length=NAME_CHARS), AfterValidator(checked_name)]
Models = Annotated[list[str], AfterValidator(checked_models)]
Addresses = Annotated[list[str], AfterValidator(checked_networks)]
Labels = Annotated[dict[str, str], AfterValidator(checked_labels)]
Webhook = Annotated[str, Field(max_length=2048), AfterValidator(checked_webhook)]
Few = Field(max_length=MOST_ENTRIES)


class TokenItem(Item):
    """A key of a client. Empty lists mean any; the secret before the last rotation is good until
    `previous_until_ms`. `held_micro` is what its open tasks may cost."""

    id: str
    name: str
    owner: str
    labels: dict[str, str]
    state: State
    created_ms: Ms
    expires_ms: Ms | None
    generation: int
    previous_until_ms: Ms | None
    models: list[str]
    dialects: list[str]
    operations: list[str]
    addresses: list[str]
    shared: bool
    limits: LimitsItem
    webhook: str | None
    in_flight: int
    spent_micro: Micro
    held_micro: Micro


class NewTokenItem(TokenItem):
    """The secrets are shown this once; only a hash of the first is kept."""

    token: str
    access_key: str
    secret_key: str
    webhook_secret: str


class TokenChange(JsonBody):
    """What is not named stays. Lists and labels are replaced whole, limits one by one. An
    `expires_ms` in the past is now; null is never."""

    name: Name | None = None
    labels: Labels | None = None
    models: Models | None = None
    dialects: Annotated[list[RegisteredDialect], Few] | None = None
    operations: Annotated[list[Operation], Few] | None = None
    addresses: Addresses | None = None
    shared: Annotated[bool, Strict()] | None = None
    limits: LimitsBody | None = None
    webhook: Webhook | None = None
    expires_ms: MsGiven | None = None


class TokenBody(TokenChange):
    """`owner` left out: a tenant of its own."""

    name: Name
    owner: Name | None = None


class Overlap(JsonBody):
    """How long the secret it has now stays good, in seconds."""

    overlap_s: Annotated[int, Strict(), Ge(0), Le(MOST_OVERLAP_S)] = OVERLAP_S


class TokenPage(Page):
    owner: str | None = None
    state: State | None = None


async def list_tokens(
    context: AdminContext, request: AdminRequest[TokenPage, NoBody]
) -> Listing[TokenItem]:
    query = request.query
    records = [
        record
        for record in reversed(await context.store.tokens.list())
        if query.owner in (None, record.owner)
        and query.state in (None, state_of(record, context.now_ms()))
    ]
    if query.cursor is not None:
        created_ms, token_id = place_of(query.cursor, int, str)
        records = [r for r in records if (r.created_ms, r.id) < (created_ms, token_id)]
    shown = records[: query.limit]
    more = len(records) > query.limit
    return Listing[TokenItem](
        data=await asyncio.gather(*(_item(context, record) for record in shown)),
        next=cursor_of(shown[-1].created_ms, shown[-1].id) if more else None,
    )


async def create(context: AdminContext, request: AdminRequest[NoQuery, TokenBody]) -> NewTokenItem:
    body, now_ms = request.body, context.now_ms()
    if body.expires_ms is not None and body.expires_ms <= now_ms:
        raise Invalid("'expires_ms' must lie in the future.", param="expires_ms")
    _check_webhook(context, body.webhook)
    wanted = NewToken(
        name=body.name,
        owner=body.owner,
        limits=(body.limits or LimitsBody()).onto(),
        expires_s=None if body.expires_ms is None else (body.expires_ms - now_ms) / 1000,
        models=tuple(body.models or ()),
        dialects=tuple(body.dialects or ()),
        operations=tuple(operation.value for operation in body.operations or ()),
        addresses=tuple(body.addresses or ()),
        labels=body.labels or {},
        shared=bool(body.shared),
        webhook=body.webhook,
    )
    made = mint(context.secret, wanted, context.entropy(TOKEN_ENTROPY), now_ms)
    await context.store.tokens.create(made.record)
    return await _with_secrets(context, made)


async def show(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> TokenItem:
    return await _item(context, await find_token(context.store, request.params["id"]))


async def change(context: AdminContext, request: AdminRequest[NoQuery, TokenChange]) -> TokenItem:
    return await _changed(context, request, lambda record: _changes(context, request.body, record))


def _changes(context: AdminContext, body: TokenChange, record: TokenRecord) -> tokens.Changes:
    changes: dict[str, Any] = {}
    for name in body.model_fields_set:
        value = getattr(body, name)
        if name == "limits":
            changes[name] = (value or LimitsBody()).onto(record.limits)
        elif name == "webhook":
            _check_webhook(context, value)
            changes[name] = value
        elif name == "expires_ms":
            changes |= tokens.expire(value, context.now_ms())
        elif value is None:
            raise Invalid(f"'{name}' must not be null; leave it out to keep it.", param=name)
        else:
            changes[name] = tuple(map(str, value)) if isinstance(value, list | tuple) else value
    return changes


async def rotate(context: AdminContext, request: AdminRequest[NoQuery, Overlap]) -> NewTokenItem:
    made = await rotate_token(
        context.store,
        context.secret,
        request.params["id"],
        request.body.overlap_s,
        context.entropy,
        context.clock,
    )
    return await _with_secrets(context, made)


async def revoke(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> TokenItem:
    await tokens.revoke_token(context.store, request.params["id"], context.now_ms())
    return await show(context, request)


async def disable(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> TokenItem:
    return await _changed(context, request, lambda record: tokens.disable(record, context.now_ms()))


async def enable(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> TokenItem:
    return await _changed(context, request, tokens.enable)


# ---------------------------------------------------------------- what they share


def _check_webhook(context: AdminContext, value: str | None) -> None:
    try:
        check_webhook_target(value, context.config().webhooks.allow)
    except ValueError as fault:
        raise Invalid(f"'webhook' {fault}.", param="webhook") from fault


async def _changed(
    context: AdminContext,
    request: AdminRequest[Any, Any],
    change: Callable[[TokenRecord], tokens.Changes],
) -> TokenItem:
    return await _item(context, await change_token(context.store, request.params["id"], change))


async def _item(context: AdminContext, record: TokenRecord) -> TokenItem:
    return TokenItem(**await _fields(context, record))


async def _with_secrets(context: AdminContext, made: MadeToken) -> NewTokenItem:
    return NewTokenItem(
        **await _fields(context, made.record),
        token=made.token,
        access_key=made.record.id,
        secret_key=made.secret_key,
        webhook_secret=made.webhook_secret,
    )


async def _fields(context: AdminContext, record: TokenRecord) -> dict[str, Any]:
    now_ms = context.now_ms()
    who = holders(record.id, record.owner, "")[0]
    use = await context.store.ledger.budget_use(record.owner, who, now_ms)
    return {
        "id": record.id,
        "name": record.name,
        "owner": record.owner,
        "labels": dict(record.labels),
        "state": state_of(record, now_ms),
        "created_ms": record.created_ms,
        "expires_ms": record.expires_ms,
        "generation": record.generation,
        "previous_until_ms": record.previous_until_ms,
        "models": list(record.models),
        "dialects": list(record.dialects),
        "operations": list(record.operations),
        "addresses": list(record.addresses),
        "shared": record.shared,
        "limits": LimitsItem.of(record.limits),
        "webhook": record.webhook or None,
        "in_flight": use.in_flight,
        "spent_micro": use.total.spent_micro,
        "held_micro": use.total.held_micro,
    }


ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action(
        "GET",
        "/api/tokens",
        "List API keys, newest first",
        list_tokens,
        Listing[TokenItem],
        query=TokenPage,
    ),
    Action(
        "POST",
        "/api/tokens",
        "Create an API key; only this answer has its secrets",
        create,
        NewTokenItem,
        body=TokenBody,
        status=201,
    ),
    Action("GET", "/api/tokens/{id}", "Retrieve an API key", show, TokenItem),
    Action(
        "PATCH",
        "/api/tokens/{id}",
        "Update an API key",
        change,
        TokenItem,
        body=TokenChange,
    ),
    Action(
        "POST",
        "/api/tokens/{id}/rotate",
        "Give an API key new secrets; the old secret stays valid for the overlap",
        rotate,
        NewTokenItem,
        body=Overlap,
        refusals=(409,),
    ),
    Action(
        "POST",
        "/api/tokens/{id}/revoke",
        "Revoke an API key and its signed links, for good",
        revoke,
        TokenItem,
    ),
    Action(
        "POST",
        "/api/tokens/{id}/disable",
        "Disable an API key and its signed links",
        disable,
        TokenItem,
    ),
    Action(
        "POST",
        "/api/tokens/{id}/enable",
        "Enable a disabled API key",
        enable,
        TokenItem,
        refusals=(409,),
    ),
)
