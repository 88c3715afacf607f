"""The clients' port as an OpenAPI 3.1 document, made of the endpoint table that requests are
matched with: an endpoint that is not described here is an error of the first test that looks.

Two operations under one method and path, told apart by their query, are one operation of the
document.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import orjson

from proxy import __version__
from proxy.dialects.base import Dialect
from proxy.dialects.openapi import OperationDoc, Schema, ref
from proxy.gateway.endpoints import EndpointTable
from proxy.model import Operation

_API_KEY: Final[Mapping[str, Schema]] = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "rw_…"}
}
# Clients resolve `.` and `..` before they send a path.
_SEGMENT: Final[Schema] = {"type": "string", "minLength": 1, "not": {"enum": [".", ".."]}}


def data_document(table: EndpointTable, server_url: str = "/") -> bytes:
    """The document as JSON; `server_url` is what its paths are relative to.

    `ValueError` when two dialects give one name to two schemas.
    """
    dialects = table.dialects.values()
    paths: dict[str, Schema] = {}
    merged: dict[tuple[str, str], list[tuple[str, Dialect, Operation]]] = {}
    for method, whole, name, operation in table.rows():
        path, _, query = whole.partition("?")
        row = (query, table.dialects[name], Operation(operation))
        merged.setdefault((path, method), []).append(row)
    for (path, method), rows in merged.items():
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, rows)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Reelway",
                "version": __version__,
                "description": "Ways to ask for videos "
                f"({', '.join(dialect.docs.phrase for dialect in dialects)}), whichever provider "
                "renders. An answer may have more members than are listed; unknown fields of a "
                "body are passed on or told in `reelway-dropped`.",
            },
            "servers": [{"url": server_url}],
            "security": [{"apiKey": []}],
            "paths": paths,
            "components": {
                "securitySchemes": _together(
                    [_API_KEY, *(dialect.docs.security for dialect in dialects)]
                ),
                "schemas": _together(dialect.docs.schemas for dialect in dialects),
            },
        }
    )


def _together(parts: Iterable[Mapping[str, Schema]]) -> dict[str, Schema]:
    found: dict[str, Schema] = {}
    for part in parts:
        for name, schema in part.items():
            if found.setdefault(name, schema) != schema:
                raise ValueError(f"two dialects describe {name!r}, and not as the same")
    return found


def _operation(method: str, path: str, rows: Sequence[tuple[str, Dialect, Operation]]) -> Schema:
    dialect = rows[0][1]
    docs = [whose.docs.operation(operation, path) for _, whose, operation in rows]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": _SEGMENT}
        for name in re.findall(r"{(\w+)}", path)
    ]
    parameters += _told_apart([query for query, _, _ in rows])
    parameters += {_key(p): p for doc in docs for p in doc.parameters}.values()
    kinds = [operation for _, _, operation in rows]
    found: Schema = {
        "operationId": _identifier(method, path),
        "tags": [dialect.name],
        "summary": "; ".join(doc.summary for doc in docs),
        "security": _security(dialect, kinds),
        "parameters": parameters,
        "responses": {
            **_successes(method, kinds, docs),
            "default": {
                "description": "Refused; what is accepted is said in the message.",
                "content": {} if method == "HEAD" else _json([dialect.docs.failure]),
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


def _successes(
    method: str, kinds: Sequence[Operation], docs: Sequence[OperationDoc]
) -> dict[str, Schema]:
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


def _security(dialect: Dialect, kinds: Sequence[Operation]) -> list[Schema]:
    own: list[Schema] = [{name: []} for name in ("apiKey", *dialect.docs.security)]
    return [*own, {}] if Operation.CONTENT in kinds else own  # a signed link needs none


def _key(parameter: Schema) -> tuple[str, str]:
    return parameter["in"], parameter["name"]


def _identifier(method: str, path: str) -> str:
    """Unique among all; `/a` and `/a/` are two."""
    words = re.sub(r"[{}]", "", path).strip("/").replace("/", "_") or "root"
    return f"{method.lower()}_{words}{'_' if len(path) > 1 and path.endswith('/') else ''}"
