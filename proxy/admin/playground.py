"""/api/try: a submit made on our own clients' port, exactly as a client would make it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import orjson
from aiohttp import ClientError
from annotated_types import Gt, Le
from pydantic import Field, JsonValue

from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import Item, JsonBody, NoQuery
from proxy.errors import Unavailable

MAX_ANSWER_BYTES: Final = 1024 * 1024
_SHOWN: Final = (
    *("x-request-id", "retry-after", "reelway-adjusted", "reelway-dropped"),
    "openai-poll-after-ms",
)


class TryBody(JsonBody):
    """`token` is a client's whole API key."""

    token: Annotated[str, Field(pattern=r"^[!-~]{1,4096}$", repr=False)]
    model: Annotated[str, Field(min_length=1, max_length=512)]
    prompt: Annotated[str, Field(max_length=32_000)]
    seconds: Annotated[float, Gt(0), Le(3600)] | None = None
    size: Annotated[str, Field(max_length=32)] | None = None


class TryItem(Item):
    """What the client would have got."""

    status: int
    headers: dict[str, str]
    body: JsonValue


async def attempt(context: AdminContext, request: AdminRequest[NoQuery, TryBody]) -> TryItem:
    wish = request.body.model_dump(exclude={"token"}, exclude_none=True)
    if "seconds" in wish:
        wish["seconds"] = f"{wish['seconds']:g}"
    headers = {
        "Authorization": f"Bearer {request.body.token}",
        "Content-Type": "application/json",
        "User-Agent": "reelway-console",
    }
    try:
        async with context.data_port.ask(
            "POST", "/v1/videos", headers, orjson.dumps(wish)
        ) as answer:
            raw = await answer.content.read(MAX_ANSWER_BYTES)
            return TryItem(
                status=answer.status,
                headers={k: v for k in _SHOWN if (v := answer.headers.get(k)) is not None},
                body=_json(raw),
            )
    except (ClientError, TimeoutError, OSError) as exc:
        raise Unavailable(
            "The gateway's own port for clients broke off; the task may have been made: see "
            "/api/tasks.",
        ) from exc


def _json(raw: bytes) -> JsonValue:
    try:
        value: JsonValue = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw.decode(errors="replace")
    return value


ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action(
        "POST",
        "/api/try",
        "Create a video with a client's API key, and show the request and the answer",
        attempt,
        TryItem,
        body=TryBody,
    ),
)
