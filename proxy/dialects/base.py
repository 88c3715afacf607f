"""What a dialect is: how a client speaks, as pure functions.

The gateway parses bytes into `Fields` (JSON object, or multipart with files as blobs and
bracketed names already nested) before a dialect sees them, so a dialect never meets a
socket, a clock or a boundary string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, cast

import orjson

from proxy.dialects.fields import Fields
from proxy.errors import ProxyError
from proxy.model import (
    Call,
    DialectName,
    Json,
    Kind,
    Operation,
    Reply,
    Status,
    Task,
    VideoRequest,
)


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which part of a listing. `after` is a task id; Kling pages by `offset` instead.

    `order` is by creation time.
    """

    limit: int
    order: Literal["asc", "desc"] = "desc"
    after: str | None = None
    offset: int = 0
    kind: Kind | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A row of the endpoint table.

    `path` has `{name}` segments, each matching one non-empty segment. `query` are parameters
    that must be there with exactly this value (Jimeng's Action and Version). `params` are
    added to the path's own (Kling's kind). `meant` is for a POST to a word in the place of an id,
    which other servers serve: what to send instead, by word, and "" for every other word.
    """

    method: str
    path: str
    operation: Operation
    query: tuple[tuple[str, str], ...] = ()
    params: tuple[tuple[str, str], ...] = ()
    meant: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """A task as its owner may see it. `links[i]` is our signed URL of result i, usable without
    a token; `content_url` our plain one, for bearer holders. Both empty until completed."""

    task: Task
    links: tuple[str, ...] = ()
    content_url: str = ""


class Dialect(Protocol):
    """One way clients speak. Every method is pure."""

    name: DialectName
    endpoints: Sequence[Endpoint]

    def submission(self, call: Call, fields: Fields, default_model: str) -> VideoRequest:
        """The request in a submit's body; raises `Invalid` with `param`."""
        ...

    def reference(self, call: Call, fields: Fields) -> str:
        """The task id (ours, or for Kling the client's external id) a GET or DELETE names."""
        ...

    def page(self, call: Call) -> PageRequest: ...

    def created(self, view: View, request_id: str) -> Reply: ...

    def task(self, view: View, request_id: str) -> Reply: ...

    def listing(
        self, page: PageRequest, views: Sequence[View], has_more: bool, request_id: str
    ) -> Reply: ...

    def deleted(self, view: View, request_id: str) -> Reply: ...

    def notice(self, view: View, status: Status, event_id: str, created_ms: int) -> bytes:
        """A webhook's body: that this task came to `status`."""
        ...

    def missing(self, call: Call, reference: str, request_id: str) -> Reply:
        """The answer for a task that is unknown or somebody else's."""
        ...

    def quoted(self, document: Mapping[str, Json], request_id: str) -> Reply:
        """What a submit would cost, or what a token has spent: the same in every dialect but
        for the envelope around it."""
        ...

    def failure(self, error: ProxyError, request_id: str) -> Reply:
        """An error in this dialect's native shape, with `error{message,type,param,code}`."""
        ...


def error_object(error: ProxyError) -> dict[str, str | None]:
    """The `error` member every dialect's failure body carries."""
    return {
        "message": error.message,
        "type": error.type,
        "param": error.param,
        "code": error.code,
    }


def unplaced(error: ProxyError) -> Reply:
    """The failure of a request that belongs to no dialect. SDKs of other APIs read it at other
    places: dashscope `code` and `message`, replicate `detail`."""
    body = {
        "error": error_object(error),
        "code": error.code,
        "message": error.message,
        "detail": error.message,
    }
    return json_reply(error.status, encoded(body), error.headers)


def json_reply(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(status, body, {"Content-Type": "application/json", **(headers or {})})


def encoded(body: Mapping[str, object]) -> bytes:
    """JSON. Text from a request target may hold lone surrogates, which no JSON can: replaced."""
    try:
        return orjson.dumps(body)
    except TypeError:
        return orjson.dumps(_cleaned(body))


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping):
        return {cast("str", _cleaned(key)): _cleaned(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_cleaned(inner) for inner in value]
    return value
