"""A refused submit is no task: it is counted by reason, listed apart, and gone in minutes."""

from __future__ import annotations

import asyncio
import json
import sys
import time

import pytest

from proxy.model import Limits
from proxy.sim import Fault
from proxy.store import Balance, keys
from proxy.store.refusals import MOST_KEPT
from proxy.store.task_scripts import REFUSED_KEPT_MS
from tests.rig.house import Answer, House, OpenHouse, Plan

PRICED = """
[[routes]]
model = "priced"
upstream = "sim-openai"
upstream_model = "sora-2"
price = { per_second = "0.10" }
"""
ADMIN = {"Authorization": "Bearer admin-secret"}


async def submit(house: House, token: str | None = None, **more: object) -> Answer:
    headers = {"Authorization": f"Bearer {token or house.token}"}
    body = {"model": "sora-2", "prompt": "a cat", **more}
    return await house.post("/v1/videos", json=body, headers=headers)


def refuse(house: House, status: int, code: str | None = None) -> None:
    house.sim.faults.add(Fault("status", "openai", "submit", status=status, code=code))


async def asked(house: House, path: str) -> Answer:
    return await house.request("GET", path, headers=ADMIN, base=house.server.admin_url)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(400, "invalid_value"), (401, "upstream_credential_refused"), (429, "rate_limit_exceeded")],
)
async def test_what_the_provider_refuses_is_no_failed_task(
    house: House, status: int, reason: str
) -> None:
    refuse(house, status)
    assert (await submit(house)).status >= 400
    listed = (await asked(house, "/api/tasks?status=failed")).json()["data"]
    (refusal,) = (await asked(house, "/api/refusals")).json()["data"]
    overview = (await asked(house, "/api/overview")).json()
    usage = (await asked(house, "/api/usage?days=1")).json()["data"]
    page = (await asked(house, "/metrics")).body.decode()
    assert (listed, usage) == ([], [])
    assert (refusal["reason"], refusal["upstream"], refusal["model"]) == (
        reason,
        "sim-openai",
        "sora-2",
    )
    assert overview["refused_today"] == {reason: 1}
    assert f'reelway_submits_refused_total{{reason="{reason}"}} 1.0' in page
    assert 'reelway_task_stages_total{stage="failed"} 0.0' in page


async def test_a_limit_that_is_reached_leaves_a_trace(house: House) -> None:
    made = await house.new_token(limits=Limits(max_in_flight=1))
    assert (await submit(house, made.token)).status == 200
    assert (await submit(house, made.token)).status == 429
    (refusal,) = (await asked(house, "/api/refusals")).json()["data"]
    assert (refusal["reason"], refusal["token_id"], refusal["upstream"]) == (
        "in_flight",
        made.record.id,
        None,
    )


async def test_refused_submits_leave_the_store_as_large_as_it_was(open_house: OpenHouse) -> None:
    """They leave 64 small records for minutes, a bounded list and a count; no ledger, no index."""
    async with open_house(Plan(routes=PRICED)) as house:
        await fill(house)


async def fill(house: House) -> None:
    batch = house.server.store.batch
    for n in range(100):
        refuse(house, 400)
        body = {"model": "priced", "prompt": f"cat {n}", "seconds": "4"}
        assert (await house.post("/v1/videos", json=body)).status == 400
    records = await batch.call("KEYS", "rw:{*}:task:*")
    assert isinstance(records, list)
    assert len(records) == 64
    shard = keys.shard_of((await house.server.store.tokens.list())[0].owner)
    assert await batch.call("ZCARD", keys.made(shard)) == 0
    assert await batch.call("ZCARD", keys.ended(shard)) == 0
    assert await batch.call("LLEN", keys.refused(shard)) == 100 <= MOST_KEPT
    owner = (await house.server.store.tokens.list())[0].owner
    for month in (await house.server.store.ledger.months(owner))[owner]:
        assert await batch.call("XLEN", keys.ledger(owner, month)) == 0
    ttl = await batch.call("PTTL", str(records[0].decode()))  # type: ignore[union-attr]  # a key
    assert isinstance(ttl, int)
    assert 0 < ttl <= REFUSED_KEPT_MS
    found = await house.server.store.ledger.check(int(time.time() * 1000))
    assert found.problems == ()
    standing = await house.server.store.ledger.budget_use(
        owner, f"o:{owner}", int(time.time() * 1000)
    )
    assert standing.total == Balance()


async def test_the_command_lists_refused_submits_apart(house: House) -> None:
    refuse(house, 429)
    assert (await submit(house)).status == 429
    program = [sys.executable, "-m", "proxy", "task", "list", "--json"]
    config = ["--config", str(house.config_path)]

    async def told(*options: str) -> dict[str, list[dict[str, object]]]:
        process = await asyncio.create_subprocess_exec(
            *program, *options, *config, stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        found: dict[str, list[dict[str, object]]] = json.loads(out)
        return found

    assert (await told("--status", "failed"))["tasks"] == []
    (row,) = (await told("--refused"))["refused"]
    assert (row["reason"], row["upstream"]) == ("rate_limit_exceeded", "sim-openai")
