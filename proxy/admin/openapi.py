"""The admin port's own OpenAPI 3.1 document, made of the table its routes are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import orjson
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from proxy import __version__
from proxy.admin import content
from proxy.admin.context import Action
from proxy.admin.schemas import ErrorAnswer, JsonBody, NoBody, Query

_Schema = dict[str, Any]

_REF: Final = "#/components/schemas/{model}"
# What any request under /api/ may be told.
_ALWAYS: Final = (400, 401, 429, 500, 503)
_WITH_BODY: Final = (413, 415)
_ERROR: Final[_Schema] = {
    "application/json": {"schema": {"$ref": _REF.format(model=ErrorAnswer.__name__)}}
}
# Of the clients' port, whose error has one member more.
_PASSED_ON: Final[_Schema] = {
    "application/json": {
        "schema": {
            "type": "object",
            "required": ["error"],
            "properties": {
                "error": {
                    "type": "object",
                    "required": ["message", "code"],
                    "properties": {"message": {"type": "string"}, "code": {"type": "string"}},
                }
            },
        }
    }
}
_TEXT: Final = {"text/plain": {"schema": {"type": "string"}}}
_READINESS: Final = {
    "type": "object",
    "required": ["status"],
    "properties": {
        "status": {"type": "string"},
        "why": {"type": "string"},
        "unusable": {"type": "object", "additionalProperties": {"type": "string"}},
    },
}


def document(actions: Sequence[Action[Any, Any]]) -> bytes:
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ErrorAnswer, "serialization")]
    for action in actions:
        wanted += [(action.answer, "serialization"), (action.query, "validation")]
        wanted.append((action.body, "validation"))
    unique = list(dict.fromkeys(wanted))
    places, definitions = models_json_schema(unique, ref_template=_REF)
    schemas = definitions["$defs"]
    queries = {action.query.__name__ for action in actions}  # each field is a parameter
    paths: dict[str, _Schema] = {}
    for action in actions:
        paths.setdefault(action.path, {})[action.method.lower()] = _operation(
            action, places, schemas
        )
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "Reelway's admin port",
                "version": __version__,
                "description": "Times are milliseconds since the epoch (`_ms`), money millionths "
                "of the configured currency (`_micro`). Unknown fields and query parameters are "
                "errors. A page of a list may be short, even empty, before its end: go on until "
                "`next` is null.",
            },
            "security": [{"admin": []}],
            "paths": {**_open_paths(), **paths},
            "components": {
                "securitySchemes": {
                    "admin": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "[admin] token of the configuration.",
                    }
                },
                "schemas": {n: s for n, s in schemas.items() if n not in queries},
            },
        }
    )


def _operation(
    action: Action[Any, Any],
    places: Mapping[Any, _Schema],
    definitions: _Schema,
) -> _Schema:
    has_body = action.method in ("POST", "PATCH")
    statuses = {*_ALWAYS, *action.refusals, *(_WITH_BODY if has_body else ())}
    if "{" in action.path:
        statuses.add(404)
    operation: _Schema = {
        "operationId": _operation_id(action.method, action.path),
        "tags": [action.path.split("/")[2]],
        "summary": action.summary,
        "parameters": [
            *_path_parameters(action.path),
            *_query_parameters(action.query, places, definitions),
        ],
        "responses": {
            str(action.status): {
                "description": HTTPStatus(action.status).phrase,
                "content": {"application/json": {"schema": places[action.answer, "serialization"]}},
            },
            **_refusals(statuses),
        },
    }
    if has_body:
        operation["requestBody"] = {
            "required": _needs_body(action.body),
            "content": {"application/json": {"schema": places[action.body, "validation"]}},
        }
    return operation


def _needs_body(body: type[JsonBody]) -> bool:
    return body is not NoBody and any(f.is_required() for f in body.model_fields.values())


def _operation_id(method: str, path: str) -> str:
    words = [word.strip("{}") for word in path.split("/")[2:]]
    return "_".join([method.lower(), *words])


def _path_parameters(path: str) -> list[_Schema]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(
    query: type[Query],
    places: Mapping[Any, _Schema],
    definitions: _Schema,
) -> list[_Schema]:
    schema = definitions[places[query, "validation"]["$ref"].rpartition("/")[2]]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _without_null(field),
        }
        for name, field in schema.get("properties", {}).items()
    ]


def _without_null(field: _Schema) -> _Schema:
    """A query has no null: what may be left out is not there."""
    field = {key: value for key, value in field.items() if key != "title"}
    if "anyOf" not in field:
        return field
    kinds = [kind for kind in field.pop("anyOf") if kind != {"type": "null"}]
    if field.get("default", "") is None:
        del field["default"]
    return {**field, **kinds[0]} if len(kinds) == 1 else {**field, "anyOf": kinds}


def _refusals(statuses: Iterable[int], content: _Schema = _ERROR) -> dict[str, _Schema]:
    return {
        str(status): {"description": HTTPStatus(status).phrase, "content": content}
        for status in sorted(statuses)
    }


def _open_paths() -> dict[str, _Schema]:
    """What needs no token."""
    ready = {"application/json": {"schema": _READINESS}}
    return {
        "/healthz": _open("Whether the process lives", {"200": ("It lives", ready)}),
        "/readyz": _open(
            "Whether requests should be sent here",
            {"200": ("They should", ready), "503": ("Not now", ready)},
        ),
        "/metrics": _open("Prometheus metrics", {"200": ("Metrics", _TEXT)}),
        "/openapi.json": _open(
            "This document",
            {"200": ("The document", {"application/json": {"schema": {"type": "object"}}})},
        ),
        content.PATH: {
            "get": {
                "operationId": "get_tasks_id_content",
                "tags": ["tasks"],
                "summary": "Download a task's video by its signed content_url; the query's "
                "signature is what lets in. Ranges and conditions go to the clients' port.",
                "security": [],
                "parameters": [
                    *_path_parameters(content.PATH),
                    *(
                        {
                            "name": name,
                            "in": "query",
                            "required": name in ("exp", "sig"),
                            "schema": {"type": "string"},
                        }
                        for name in content.QUERY
                    ),
                    {"name": "Range", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {"description": "The video", "content": {"video/*": {}}},
                    "206": {"description": "A part of it", "content": {"video/*": {}}},
                    "304": {"description": "Not changed"},
                    **_refusals((400, 403, 404, 410, 416, 429, 500, 502, 503), _PASSED_ON),
                },
            }
        },
    }


def _open(summary: str, answers: dict[str, tuple[str, _Schema]]) -> _Schema:
    return {
        "get": {
            "summary": summary,
            "tags": ["machines"],
            "security": [],
            "responses": {
                status: {"description": description, "content": body}
                for status, (description, body) in answers.items()
            },
        }
    }
