"""A request's query and body into models, or an `Invalid` that names the field and what it
takes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from aiohttp import web
from pydantic import BaseModel, ValidationError

from proxy.admin.schemas import JsonBody, Query
from proxy.config.source import did_you_mean, dotted, message_of, say
from proxy.errors import BodyTimeout, Invalid, TooLarge, UnsupportedMediaType

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_BODY_BYTES = 256 * 1024

_Q = TypeVar("_Q", bound=Query)
_B = TypeVar("_B", bound=JsonBody)


def read_query(request: web.Request, shape: type[_Q]) -> _Q:
    values: dict[str, str] = {}
    for name, value in request.query.items():
        if name in values:
            raise Invalid(f"The query names '{name[:80]}' twice.", param=name)
        values[name] = value
    try:
        return shape.model_validate(values)
    except ValidationError as exc:
        raise _invalid(exc, shape, "query parameter") from exc


async def read_body(request: web.Request, shape: type[_B], within_s: float) -> _B:
    """No body is an empty object. `UnsupportedMediaType` for anything but JSON; `BodyTimeout` when
    the whole of it, which is small, has not come `within_s`."""
    try:
        async with asyncio.timeout(within_s):
            raw = await request.read()
    except TimeoutError as exc:
        raise BodyTimeout(f"The request body did not come within {within_s:g} s.") from exc
    except web.HTTPRequestEntityTooLarge as exc:
        raise TooLarge(
            f"The body is larger than the {MAX_BODY_BYTES} bytes accepted here."
        ) from exc
    if raw and request.content_type != "application/json":
        raise UnsupportedMediaType(
            "The body must be JSON: send it with 'Content-Type: application/json'."
        )
    try:
        return shape.model_validate_json(raw or b"{}")
    except ValidationError as exc:
        raise _invalid(exc, shape, "field") from exc


def _invalid(exc: ValidationError, shape: type[BaseModel], what: str) -> Invalid:
    """Of several mistakes the first."""
    error = exc.errors(include_url=False)[0]
    if error["type"] == "json_invalid":
        return Invalid(f"The body is not JSON: {error['ctx']['error']}.")
    loc = tuple(part for part in error["loc"] if part != "[key]")
    if not loc:
        return Invalid(f"The body must be a JSON object, not {say(error['input'])}.")
    param = dotted(loc)[:200]
    if error["type"] == "extra_forbidden" and len(loc) == 1:
        known = did_you_mean(str(loc[0]), shape.model_fields)
        return Invalid(f"Unknown {what} '{param}'{known or '; none is accepted'}.", param=param)
    return Invalid(f"'{param}' {_said(error, shape)}.", param=param)


def _said(error: ErrorDetails, shape: type[BaseModel]) -> str:
    context = error.get("ctx", {})
    match error["type"]:
        case "int_parsing":
            return "must be a whole number"
        case "dict_type" | "model_type" | "model_attributes_type":
            return f"must be an object, not {say(error['input'])}"
        case "string_too_long":
            return f"must be at most {context['max_length']} characters"
        case "too_long":
            return f"must have at most {context['max_length']} entries"
        case "string_pattern_mismatch":
            return f"must match {context['pattern']}"
    return message_of(error, shape).rstrip(".")
