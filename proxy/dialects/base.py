"""What a dialect is: how a client speaks, as facts and pure functions.

The gateway parses bytes into `Fields` (JSON object, or multipart with files as blobs and
bracketed names already nested) before a dialect sees them, so a dialect never meets a
socket, a clock or a boundary string.

Rule: what is true of one dialect only is a fact on its class. The rest of the house asks for the
fact and never for the dialect's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, Protocol, cast

import orjson

from proxy.dialects.fields import Fields
from proxy.dialects.openapi import ApiDocs
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
    `is_cut` is for a path whose rest some clients write behind the query's `api-version`.
    """

    method: str
    path: str
    operation: Operation
    query: tuple[tuple[str, str], ...] = ()
    params: tuple[tuple[str, str], ...] = ()
    meant: tuple[tuple[str, str], ...] = ()
    is_cut: bool = False


@dataclass(frozen=True, slots=True)
class View:
    """A task as its owner may see it. `links[i]` is our signed URL of result i, usable without
    a token; `content_url` our plain one, for bearer holders. Both empty until completed."""

    task: Task
    links: tuple[str, ...] = ()
    content_url: str = ""


class AuthScheme(StrEnum):
    """A way to sign requests with the access-key pair that a token stands for.

    `gateway.auth` checks them. The token itself, as a bearer or in a key header, is taken in every
    dialect and is not listed.
    """

    JWT = "jwt"  # RFC 7519, HS256, as a bearer; `iss` is the access key
    VOLC_HMAC = "volc_hmac"  # Volcengine's Signature V4: `Authorization: HMAC-SHA256 Credential=…`


@dataclass(frozen=True, slots=True)
class FieldNames:
    """How the dialect's documents name the fields that our error messages speak of.

    A message must name the field its reader has sent, or would send. Spellings that are also
    read stand in `common_fields`, not here.
    """

    model: str
    seconds: str
    picture: str  # the picture that a video starts from
    size: str
    sound: str


class Dialect(Protocol):
    """One way clients speak: facts, then pure functions.

    `dialects.registry` checks the facts of every dialect at import: none has a default.
    """

    name: DialectName
    """The word for it in configuration, scopes, metrics and logs: lower-case letters, digits, `_`.
    Stored with every task, so it is never renamed."""

    title: str
    """How a text names it: "Kling"."""

    home: str
    """The path by which a text says where it is: "/v1/videos"."""

    endpoints: Sequence[Endpoint]
    """Its rows of the endpoint table, from the vendor's API reference."""

    path_prefixes: tuple[str, ...]
    """Paths that only its clients send, and everything below them. A path or method that matches
    no endpoint is refused in the words of the dialect with the longest prefix of it; without any
    such dialect, in words that every client finds (`unplaced`)."""

    field_names: FieldNames
    """Names for error messages, from the vendor's API reference."""

    accepts_forms: bool
    """Whether its clients may send a body as multipart/form-data; all may send JSON."""

    request_id_in_body: bool
    """Whether its envelope repeats the request id, so that no two answers are the same bytes."""

    notifies_every_change: bool
    """Whether a webhook follows every change of a task's status, not only its end."""

    has_external_ids: bool
    """Whether a client may name a task by an id of its own (`VideoRequest.external_id`)."""

    auth_schemes: frozenset[AuthScheme]
    """How the vendor's own SDKs sign, beside sending the token itself."""

    decisive_native: frozenset[str]
    """The vendor's own fields that decide what is seen or heard. Where they cannot be passed on,
    the request is refused; other native fields are left out."""

    idle_native: Mapping[str, Json]
    """Native fields, with the value at which they ask for nothing: never told as left out."""

    docs: ApiDocs
    """Its part of the OpenAPI document."""

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

    def models(
        self, found: Mapping[str, Mapping[str, Json]], created_s: int, request_id: str
    ) -> Reply:
        """The models a token may use, each with what it renders (its `video` member); `created_s`
        stands for every model, unix seconds."""
        ...

    def model(self, name: str, video: Mapping[str, Json], created_s: int, request_id: str) -> Reply:
        """One of them."""
        ...

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
