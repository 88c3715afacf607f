"""The clients' port as an OpenAPI 3.1 document, made of the endpoint table that requests are
matched with: an endpoint that is not described here is an error of the first test that looks.

Two operations under one method and path, told apart by their query (Jimeng's Actions), are one
operation of the document.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import orjson

from proxy import __version__
from proxy.gateway.endpoints import EndpointTable
from proxy.gateway.openapi_schemas import ANSWERS, BODIES, Schema, ref
from proxy.model import DialectName, Operation


@dataclass(frozen=True, slots=True)
class _Doc:
    """One operation of a dialect. `answers` and `body` are names of shapes."""

    summary: str
    answers: tuple[str, ...] = ()
    body: str | None = None
    is_form_too: bool = False
    parameters: tuple[Schema, ...] = ()


def _query(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _header(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}


_SUBMIT: Final = (
    _query("dry_run", {"type": "string", "enum": ["0", "1"]}, "1: say what it would cost."),
    _header("Idempotency-Key", "The same key and request within 24 hours are the same task."),
)
_WAIT: Final = (
    _query(
        "wait",
        {"type": "integer", "minimum": 0, "maximum": 60},
        "Seconds to wait for the task's end before answering.",
    ),
)
_OPENAI_PAGE: Final = (
    _query("limit", {"type": "integer", "minimum": 0, "maximum": 100}, "20 if left out."),
    _query("order", {"type": "string", "enum": ["asc", "desc"]}, "By creation; desc if left out."),
    _query("after", {"type": "string"}, "The id of the last video of the page before."),
    _query(
        "idempotency_key",
        {"type": "string", "minLength": 1, "maxLength": 255},
        "Only the video that this API key submitted with this Idempotency-Key; 503 while that "
        "submit is under way.",
    ),
)
_KLING_PAGE: Final = (
    _query("pageNum", {"type": "integer", "minimum": 1, "maximum": 1000}, "From 1."),
    _query("pageSize", {"type": "integer", "minimum": 1, "maximum": 500}, "30 if left out."),
)
_CONTENT: Final = (
    _query("variant", {"type": "string"}, "video, thumbnail, … as the provider has them."),
    _query("index", {"type": "integer", "minimum": 0}, "Of a task with several videos; from 0."),
    _query("download", {"type": "string", "enum": ["1"]}, "An attachment, with a file name."),
    _query("exp", {"type": "string"}, "Of a signed link: when it ends, in unix seconds."),
    _query("sig", {"type": "string"}, "Of a signed link, which needs no API key."),
    _header("Range", "bytes=first-last"),
    _header("If-Range", "The ETag the range is of."),
    _header("If-None-Match", "An ETag one has."),
)

# Clients resolve `.` and `..` before they send a path.
_SEGMENT: Final[Schema] = {"type": "string", "minLength": 1, "not": {"enum": [".", ".."]}}

_DOCS: Final[Mapping[tuple[DialectName, Operation], _Doc]] = {
    ("openai", Operation.CREATE): _Doc(
        "Make a video", ("Video", "Quote"), "VideoCreate", True, _SUBMIT
    ),
    ("openai", Operation.REMIX): _Doc(
        "Make another of a video", ("Video", "Quote"), "VideoRemix", True, _SUBMIT
    ),
    ("openai", Operation.EDIT): _Doc(
        "Change a video", ("Video", "Quote"), "VideoEdit", True, _SUBMIT
    ),
    ("openai", Operation.EXTEND): _Doc(
        "Make a video longer", ("Video", "Quote"), "VideoEdit", True, _SUBMIT
    ),
    ("openai", Operation.GET): _Doc("How a video is doing", ("Video",), parameters=_WAIT),
    ("openai", Operation.LIST): _Doc("The key's videos", ("VideoList",), parameters=_OPENAI_PAGE),
    ("openai", Operation.DELETE): _Doc("Delete a video, and stop its render", ("VideoDeleted",)),
    ("openai", Operation.CONTENT): _Doc("The finished file", parameters=_CONTENT),
    ("openai", Operation.EVENTS): _Doc("How a video is doing, told as it happens"),
    ("openai", Operation.MODELS): _Doc("Models the key may use", ("Models",)),
    ("openai", Operation.USAGE): _Doc("What the key has spent and has left", ("Usage",)),
    ("generic", Operation.CREATE): _Doc(
        "Make a video", ("VideoResponse", "Quote"), "VideoRequest", False, _SUBMIT
    ),
    ("generic", Operation.GET): _Doc(
        "How a video is doing", ("VideoTaskResponse",), parameters=_WAIT
    ),
    ("kling", Operation.CREATE): _Doc(
        "Make a video, Kling's way", ("KlingCreated", "KlingQuote"), "KlingCreate", False, _SUBMIT
    ),
    ("kling", Operation.GET): _Doc(
        "How a task is doing; by its own id or the client's", ("KlingTask",), parameters=_WAIT
    ),
    ("kling", Operation.LIST): _Doc("The key's tasks", ("KlingTasks",), parameters=_KLING_PAGE),
    ("jimeng", Operation.CREATE): _Doc(
        "Make a video, Jimeng's way",
        ("JimengCreated", "JimengQuote"),
        "JimengSubmit",
        False,
        _SUBMIT,
    ),
    ("jimeng", Operation.GET): _Doc(
        "How a task is doing", ("JimengTask",), "JimengQuery", parameters=_WAIT
    ),
}
# The same operation on one of what it lists.
_DOCS_OF_ONE: Final[Mapping[tuple[DialectName, Operation], _Doc]] = {
    ("openai", Operation.MODELS): _Doc("Whether the key may use a model", ("Model",)),
}
_ERRORS: Final[Mapping[DialectName, str]] = {
    "openai": "OpenAIError",
    "generic": "GenericError",
    "kling": "KlingError",
    "jimeng": "JimengError",
}
_VENDOR_KEYS: Final[Mapping[DialectName, tuple[Schema, ...]]] = {
    "openai": (),
    "generic": (),
    "kling": ({"klingJwt": []},),
    "jimeng": ({"volcengine": []},),
}
_SCHEMES: Final[Schema] = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "rw_…"},
    "klingJwt": {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "HS256 with the key's access and secret key, as Kling's own clients sign.",
    },
    "volcengine": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "HMAC-SHA256 with the key's access and secret key, as Volcengine's own "
        "clients sign.",
    },
}


def data_document(table: EndpointTable, server_url: str = "/") -> bytes:
    """The document as JSON; `server_url` is what its paths are relative to."""
    paths: dict[str, Schema] = {}
    merged: dict[tuple[str, str], list[tuple[str, DialectName, Operation]]] = {}
    for method, whole, dialect, operation in table.rows():
        path, _, query = whole.partition("?")
        row = (query, _dialect(dialect), Operation(operation))
        merged.setdefault((path, method), []).append(row)
    for (path, method), rows in merged.items():
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, rows)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Reelway",
                "version": __version__,
                "description": "Four ways to ask for videos (OpenAI's, the generic one, Kling's, "
                "Jimeng's), whichever provider renders. An answer may have more members than are "
                "listed; unknown fields of a body are passed on or told in `reelway-dropped`.",
            },
            "servers": [{"url": server_url}],
            "security": [{"apiKey": []}],
            "paths": paths,
            "components": {
                "securitySchemes": _SCHEMES,
                "schemas": {**BODIES, **ANSWERS},
            },
        }
    )


def _dialect(name: str) -> DialectName:
    return next(known for known in _ERRORS if known == name)


def _operation(
    method: str, path: str, rows: Sequence[tuple[str, DialectName, Operation]]
) -> Schema:
    dialect = rows[0][1]
    kept = {**_DOCS, **_DOCS_OF_ONE} if path.endswith("}") else _DOCS
    docs = [kept[whose, operation] for _, whose, operation in rows]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _SEGMENT}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += _told_apart([query for query, _, _ in rows])
    parameters += {_key(p): p for doc in docs for p in doc.parameters}.values()
    kinds = [operation for _, _, operation in rows]
    found: Schema = {
        "operationId": _identifier(method, path),
        "tags": [dialect],
        "summary": "; ".join(doc.summary for doc in docs),
        "security": _security(dialect, kinds),
        "parameters": parameters,
        "responses": {
            **_successes(method, kinds, docs),
            "default": {
                "description": "Refused; what is accepted is said in the message.",
                "content": {} if method == "HEAD" else _json([_ERRORS[dialect]]),
            },
        },
    }
    bodies = [doc.body for doc in docs if doc.body is not None]
    if bodies:
        content = _json(bodies)
        if any(doc.is_form_too for doc in docs):
            content["multipart/form-data"] = content["application/json"]
        found["requestBody"] = {"required": True, "content": content}
    return found


def _told_apart(queries: Sequence[str]) -> list[Schema]:
    """Query parameters that must be there, with the values that pick an operation."""
    values: dict[str, list[str]] = {}
    for query in queries:
        for pair in filter(None, query.split("&")):
            name, _, value = pair.partition("=")
            if value not in values.setdefault(name, []):
                values[name].append(value)
    return [
        {"name": n, "in": "query", "required": True, "schema": {"type": "string", "enum": v}}
        for n, v in values.items()
    ]


def _successes(method: str, kinds: Sequence[Operation], docs: Sequence[_Doc]) -> dict[str, Schema]:
    if Operation.CONTENT in kinds:
        content: Schema = {} if method == "HEAD" else {"*/*": {}}
        return {
            "200": {"description": "The file", "content": content},
            "206": {"description": "The asked part of it", "content": content},
            "304": {"description": "The ETag is still its own"},
        }
    if Operation.EVENTS in kinds:
        events = {"text/event-stream": {"schema": {"type": "string"}}}
        return {"200": {"description": "Server-sent events until it has ended", "content": events}}
    answers = [name for doc in docs for name in doc.answers]
    return {"200": {"description": "Done", "content": _json(answers)}}


def _json(names: Sequence[str]) -> Schema:
    found = [ref(name) for name in dict.fromkeys(names)]
    return {"application/json": {"schema": found[0] if len(found) == 1 else {"anyOf": found}}}


def _security(dialect: DialectName, kinds: Sequence[Operation]) -> list[Schema]:
    own = [{"apiKey": []}, *_VENDOR_KEYS[dialect]]
    return [*own, {}] if Operation.CONTENT in kinds else own  # a signed link needs none


def _key(parameter: Schema) -> tuple[str, str]:
    return parameter["in"], parameter["name"]


def _identifier(method: str, path: str) -> str:
    """Unique among all; `/jimeng` and `/jimeng/` are two."""
    words = re.sub(r"[{}]", "", path).strip("/").replace("/", "_") or "root"
    return f"{method.lower()}_{words}{'_' if len(path) > 1 and path.endswith('/') else ''}"
