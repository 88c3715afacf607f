"""The shapes all resources of the admin port share: what is read, what is answered, pages.

Rule: what is read accepts nothing it does not know; what is answered is built as one of these
models, so that an answer always is what the OpenAPI document says.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Final, Generic, Literal, TypeVar

import orjson
from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, Strict

from proxy.errors import Invalid
from proxy.model import NO_LIMITS, CredentialHealth, Limits
from proxy.tokens import MOST_BYTES, MOST_COUNT, MOST_MICRO

MOST_LISTED: Final = 200
LAST_MS: Final = 253_402_300_799_999  # the end of the year 9999

_T = TypeVar("_T")

Ms = Annotated[int, Field(description="Milliseconds since the epoch.")]
Micro = Annotated[int, Field(description="Millionths of the configured currency.")]
MsGiven = Annotated[int, Strict(), Ge(0), Le(LAST_MS)]
MicroGiven = Annotated[int, Strict(), Ge(0), Le(MOST_MICRO)]
CountGiven = Annotated[int, Strict(), Ge(1), Le(MOST_COUNT)]
BytesGiven = Annotated[int, Strict(), Ge(1), Le(MOST_BYTES)]
HealthState = Literal["well", "cooling", "out", "broken"]


class Item(BaseModel):
    """Something answered."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class JsonBody(BaseModel):
    """A request's JSON object."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Query(BaseModel):
    """A request's query, each name at most once."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NoBody(JsonBody):
    """None is expected; an empty object is none."""


class NoQuery(Query):
    pass


class Page(Query):
    """Which part of a list. `cursor` is the `next` of the page before."""

    limit: Annotated[int, Ge(1), Le(MOST_LISTED)] = 50
    cursor: str | None = None


class Listing(Item, Generic[_T]):
    """A part of a list; `next` null at its end."""

    data: list[_T]
    next: str | None = None


class ErrorItem(Item):
    """`param` is the field at fault."""

    message: str
    code: str
    param: str | None


class ErrorAnswer(Item):
    error: ErrorItem


class StandingItem(Item):
    """`cooling`: over its provider's rate; `out`: refused for its key or balance; `broken`: it
    failed too often. `code` is what it said last."""

    mood: HealthState
    strikes: int
    until_ms: Ms | None
    code: str | None

    @classmethod
    def of(cls, standing: CredentialHealth) -> StandingItem:
        is_well = standing.state == "well"
        return cls(
            mood=standing.state,
            strikes=standing.strikes,
            until_ms=None if is_well else standing.until_ms,
            code=standing.code or None,
        )


class LimitsItem(Item):
    """What a token or an owner may have; null: any amount."""

    requests_per_minute: int | None
    submits_per_minute: int | None
    max_in_flight: int | None
    max_streams: int | None
    max_body_bytes: int | None
    budget_micro: Micro | None
    budget_day_micro: Micro | None
    budget_month_micro: Micro | None

    @classmethod
    def of(cls, limits: Limits) -> LimitsItem:
        return cls(**{name: getattr(limits, name) for name in cls.model_fields})


class LimitsBody(JsonBody):
    """The limits to change: those not named stay, null lifts one."""

    requests_per_minute: CountGiven | None = None
    submits_per_minute: CountGiven | None = None
    max_in_flight: CountGiven | None = None
    max_streams: CountGiven | None = None
    max_body_bytes: BytesGiven | None = None
    budget_micro: MicroGiven | None = None
    budget_day_micro: MicroGiven | None = None
    budget_month_micro: MicroGiven | None = None

    def onto(self, limits: Limits = NO_LIMITS) -> Limits:
        return Limits(
            **{
                name: getattr(self if name in self.model_fields_set else limits, name)
                for name in type(self).model_fields
            }
        )


# ---------------------------------------------------------------- places in lists


def cursor_of(*place: str | int | bool) -> str:
    """A place in a list, opaque to whoever gets it."""
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def place_of(cursor: str, *kinds: type[str] | type[int] | type[bool]) -> list[str | int | bool]:
    """The place in a cursor; `Invalid` for what was never handed out by this list."""
    try:
        place = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        is_ours = isinstance(place, list) and [type(part) for part in place] == list(kinds)
    except (binascii.Error, ValueError):
        is_ours = False
    if not is_ours:
        raise Invalid(
            "'cursor' is not the 'next' of a page of this list; leave it out to begin anew.",
            param="cursor",
        )
    return list(place)
