"""docs/admin-api.md: its examples work as printed, and its table is the port's own."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from proxy.admin.app import ACTIONS
from proxy.admin.auth import MOST_WRONG
from tests.rig.admin_client import TOKEN
from tests.rig.house import House

DOCS = (Path(__file__).parents[2] / "docs/admin-api.md").read_text()
EXAMPLES = re.findall(r"^```sh\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE)


def test_the_table_names_every_endpoint_and_no_other() -> None:
    rows = re.findall(r"^\| `(GET|POST|PATCH) (/api/\S+)` \|", DOCS, re.MULTILINE)
    assert sorted(rows) == sorted((action.method, action.path) for action in ACTIONS)


def test_what_is_said_of_wrong_tokens_is_so() -> None:
    assert MOST_WRONG == 60
    assert "Sixty wrong tokens within a minute" in DOCS


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
async def test_an_example_works_as_printed(house: House, example: str) -> None:
    environment = {**os.environ, "ADMIN": house.server.admin_url, "ADMIN_TOKEN": TOKEN}
    process = await asyncio.create_subprocess_exec(
        *("bash", "-ec", example),
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, complaints = await process.communicate()
    assert (process.returncode, complaints) == (0, b"")
    answer: dict[str, Any] = json.loads(output)
    assert "error" not in answer
    assert answer.keys() & {"version", "token", "data", "limits", "ok"}
