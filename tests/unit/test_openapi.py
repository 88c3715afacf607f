"""The OpenAPI documents: each made of the table its port's requests are matched with."""

from __future__ import annotations

import re
from typing import Any

import jsonschema_rs
import orjson
import pytest

from proxy.admin.app import ACTIONS
from proxy.admin.openapi import document
from proxy.dialects import DIALECTS
from proxy.gateway.endpoints import EndpointTable
from proxy.gateway.openapi import data_document

TABLE = EndpointTable(DIALECTS)


@pytest.fixture(params=["clients", "admin"])
def described(request: pytest.FixtureRequest) -> dict[str, Any]:
    raw = data_document(TABLE) if request.param == "clients" else document(ACTIONS)
    found: dict[str, Any] = orjson.loads(raw)
    return found


def operations(described: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method.upper(), path): operation
        for path, item in described["paths"].items()
        for method, operation in item.items()
    }


def test_every_endpoint_of_every_dialect_is_described() -> None:
    """One operation for each method and path; what only a query tells apart is one."""
    described = operations(orjson.loads(data_document(TABLE)))
    rows = {(method, whole.partition("?")[0]) for method, whole, _, _ in TABLE.rows()}
    assert described.keys() == rows
    (action, version) = described["POST", "/jimeng/"]["parameters"][:2]
    assert action["schema"]["enum"] == ["CVSync2AsyncSubmitTask", "CVSync2AsyncGetResult"]
    assert (version["required"], version["schema"]["enum"]) == (True, ["2022-08-31"])


def test_every_action_of_the_admin_port_is_described() -> None:
    described = operations(orjson.loads(document(ACTIONS)))
    assert {(action.method, action.path) for action in ACTIONS} <= described.keys()
    for action in ACTIONS:
        operation = described[action.method, action.path]
        assert operation["summary"] == action.summary
        assert {"400", "401", str(action.status)} <= operation["responses"].keys()
        names = {p["name"] for p in operation["parameters"] if p["in"] == "query"}
        assert names == set(action.query.model_fields)
        assert ("requestBody" in operation) == (action.method != "GET")


def test_parameters_of_a_path_are_described_where_they_stand(described: dict[str, Any]) -> None:
    for (_, path), operation in operations(described).items():
        wanted = re.findall(r"{(\w+)}", path)
        found = [p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"]
        assert found == wanted, path


def test_every_schema_is_sound_and_used(described: dict[str, Any]) -> None:
    """A reference leads somewhere, and nothing is described that no operation names."""
    schemas = described["components"]["schemas"]
    for schema in schemas.values():
        jsonschema_rs.meta.validate(schema)
    named = {ref.rpartition("/")[2] for ref in references(described)}
    assert named == set(schemas)


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for inner in value.values() for ref in references(inner)]
    if isinstance(value, list):
        return [ref for inner in value for ref in references(inner)]
    return []


def test_a_document_is_the_same_each_time(described: dict[str, Any]) -> None:
    assert data_document(TABLE) == data_document(TABLE)
    assert document(ACTIONS) == document(ACTIONS)
    identifiers = [
        operation["operationId"]
        for operation in operations(described).values()
        if "operationId" in operation
    ]
    assert len(identifiers) == len(set(identifiers))


def test_the_admin_document_names_what_needs_no_token() -> None:
    described = operations(orjson.loads(document(ACTIONS)))
    open_paths = {path for (_, path), o in described.items() if o.get("security") == []}
    assert open_paths == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/api/tasks/{id}/content",
    }
