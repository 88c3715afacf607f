"""What a dialect says of itself in the OpenAPI document of the clients' port.

The document itself is made in `gateway.openapi`, of the endpoint table and of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.model import Operation

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class OperationDoc:
    """One operation of a dialect. `answers` and `body` are names in `ApiDocs.schemas`."""

    summary: str
    answers: tuple[str, ...] = ()
    body: str | None = None
    is_form_too: bool = False
    parameters: tuple[Schema, ...] = ()


@dataclass(frozen=True, slots=True)
class ApiDocs:
    """A dialect's operations and their schemas.

    `phrase` is the dialect in a list of ways to ask: "Kling's". `failure` names the schema of a
    refusal's body. `of_one` is for an operation at a path that ends in a parameter, where that is
    another one than at the path of the whole list. `security` are security schemes by name, one
    for each of the dialect's `auth_schemes`. A schema that several dialects have is the same in
    all of them.
    """

    phrase: str
    operations: Mapping[Operation, OperationDoc]
    failure: str
    schemas: Mapping[str, Schema]
    of_one: Mapping[Operation, OperationDoc] = field(default_factory=dict)
    security: Mapping[str, Schema] = field(default_factory=dict)

    def operation(self, operation: Operation, path: str) -> OperationDoc:
        """The entry for an endpoint; `KeyError` when there is none."""
        found = self.of_one.get(operation) if path.endswith("}") else None
        return self.operations[operation] if found is None else found


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def object_of(
    description: str = "",
    *,
    optional: Mapping[str, Schema] = {},
    also: Mapping[str, Schema] = {},
    **always: Schema,
) -> Schema:
    """`always` and `also` are there in every such object, `optional` in some."""
    required = {**also, **always}
    found: Schema = {"type": "object", "properties": {**required, **optional}}
    if required:
        found["required"] = list(required)
    if description:
        found["description"] = description
    return found


def list_of(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def described(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


def query_parameter(name: str, schema: Schema, description: str) -> Schema:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def header_parameter(name: str, description: str) -> Schema:
    return {"name": name, "in": "header", "schema": {"type": "string"}, "description": description}
