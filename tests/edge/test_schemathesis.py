"""Both ports against their own OpenAPI documents: requests made from the document, right ones and
wrong ones, are never a 500, and every answer is what the document says.

The same requests each time: hypothesis is told to derive them from the test, not from chance.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import (
    content_type_conformance,
    not_a_server_error,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)
from schemathesis.core.result import Ok

from tests.rig.admin_client import TOKEN, got
from tests.rig.house import House

EXAMPLES = 3  # of each operation, in each mode
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)

AnyCase = Case[Any]
Known = Mapping[str, Mapping[str, str]]  # the start of a path → values of its parameters


def exercise(
    document: dict[str, Any], base_url: str, token: str, known: Known
) -> dict[str, set[int]]:
    """Every operation, with parameters out of nowhere and with those that name something; by
    operation, the statuses it had. Raises with all that an answer had wrong."""
    seen: dict[str, set[int]] = {}
    faults: list[Exception] = []

    def ask(case: AnyCase) -> None:
        response = case.call_and_validate(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"},
            checks=CHECKS,
            timeout=20,
        )
        label = f"{case.operation.method.upper()} {case.operation.path}"
        seen.setdefault(label, set()).add(response.status_code)

    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        named = [values for start, values in known.items() if operation.path.startswith(start)]
        choices = [{}, *named[:1]] if "{" in operation.path else [{}]
        for mode in MODES:
            for values in choices:
                try:
                    each(operation.as_strategy(mode, path_parameters=dict(values) or None), ask)
                except Unsatisfiable:  # nothing can be wrong with it: any text is right
                    assert mode is GenerationMode.NEGATIVE
                except Exception as fault:
                    faults.append(fault)
    if faults:
        raise ExceptionGroup("answers that are not what the document says", faults)
    return seen


def each(cases: SearchStrategy[AnyCase], ask: Callable[[AnyCase], None]) -> None:
    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def one(case: AnyCase) -> None:
        ask(case)

    one()


async def found(house: House) -> tuple[dict[str, str], Known]:
    """A finished task, and what names something of each kind."""
    task_id = await house.completed("sora-2")
    token = await house.new_token()
    ids = {"task": task_id, "token": token.record.id}
    return ids, {
        "/api/tokens": {"id": ids["token"]},
        "/api/owners": {"name": house.made.record.owner},
        "/api/upstreams": {"name": "sim-openai", "credential": "a"},
        "/api/tasks": {"id": task_id},
    }


async def test_the_admin_port_is_what_its_document_says(house: House) -> None:
    _, known = await found(house)
    document = await got(house, "/openapi.json")
    seen = await asyncio.to_thread(exercise, document, house.server.admin_url, TOKEN, known)
    described = {
        f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item
    }
    assert seen.keys() == described
    reads = {label for label in described if label.startswith("GET ") and "content" not in label}
    assert {label for label in reads if 200 not in seen[label]} == set()
    assert all(400 in seen[label] for label in ("POST /api/tokens", "GET /api/tasks"))


async def test_the_clients_port_is_what_its_document_says(house: House) -> None:
    """In every dialect; what is made on the way is rendered by the simulator."""
    ids, _ = await found(house)
    kling, other = await house.completed("sora-2-on-kling"), await house.completed()
    known = {
        "/v1/videos/text2video": {"task_id": kling},
        "/kling": {"task_id": kling},
        "/v1/videos": {"task_id": ids["task"]},
        "/v1/video/": {"task_id": other},
    }
    async with house.client.get(f"{house.url}/openapi.json") as reply:
        assert (reply.status, reply.content_type) == (200, "application/json")
        document = await reply.json()
    seen = await asyncio.to_thread(exercise, document, house.url, house.token, known)
    answered = {label for label, statuses in seen.items() if 200 in statuses}
    for label in (
        "POST /v1/videos",
        "GET /v1/videos",
        "GET /v1/videos/{task_id}",
        "GET /v1/video/generations/{task_id}",
        "GET /kling/v1/videos/text2video/{task_id}",
        "GET /kling/v1/videos/text2video",
        "GET /v1/models",
        "GET /v1/usage",
    ):
        assert label in answered, (label, seen[label])


async def test_the_documents_are_valid_openapi(house: House) -> None:
    """The loader refuses what is no OpenAPI 3.1, and every reference leads somewhere."""
    for base in (house.url, house.server.admin_url):
        async with house.client.get(f"{base}/openapi.json") as reply:
            document = await reply.json()
        schemathesis.openapi.from_dict(document).validate()
        names = set(document["components"]["schemas"])
        assert {ref.rpartition("/")[2] for ref in references(document)} <= names
        identifiers = [
            operation["operationId"]
            for item in document["paths"].values()
            for operation in item.values()
            if "operationId" in operation
        ]
        assert len(identifiers) == len(set(identifiers))


def references(value: object) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for inner in value.values() for ref in references(inner)]
    if isinstance(value, list):
        return [ref for inner in value for ref in references(inner)]
    return []
