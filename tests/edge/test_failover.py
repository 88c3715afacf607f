"""A submit that was provably refused goes on to the next credential, then to the next upstream;
what is told and remembered is of the attempt that was taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest

from proxy.model import Stage
from proxy.sim import Account, Fault
from tests.rig.house import Answer, House, OpenHouse, Plan

ACCOUNTS = (
    Account(),
    Account({"openai": {"api_key": "sk-two"}}),
)
# Weights of 0 make the order certain: first k1, then k2, then the other upstream.
ROUTES = """
[[upstreams]]
name = "two-keys"
provider = "openai"
base_url = "http://127.0.0.1:%d/v1"
credentials = [
  { name = "k1", api_key = "sk-sim" },
  { name = "k2", api_key = "sk-two", weight = 0 },
]
[[routes]]
model = "either"
upstream = [{ name = "two-keys", weight = 1 }, { name = "sim-kling", weight = 0 }]
upstream_model = "kling-v2-6"
"""


@pytest.fixture
async def two(open_house: OpenHouse, free_port: int) -> AsyncIterator[House]:
    sim = {"accounts": ACCOUNTS, "ports": {"openai": free_port}}
    async with open_house(Plan(routes=ROUTES % free_port, sim=sim)) as house:
        yield house


def refuse(house: House, *codes: int) -> None:
    """The next submits to the OpenAI-style upstream are refused so."""
    for status in codes:
        house.sim.faults.add(Fault("status", "openai", "submit", status=status))


async def ask(house: House, **fields: object) -> Answer:
    body = {"model": "either", "prompt": "a cat", "size": "1280x720", **fields}
    return await house.post("/v1/videos", json=body)


async def events(house: House, task_id: str) -> list[str]:
    line = await house.server.store.tasks.time_line(task_id)
    assert all(before.ms <= after.ms for before, after in pairwise(line))
    assert all(before.version < after.version for before, after in pairwise(line))
    return [entry.event for entry in line]


async def test_the_next_credential_comes_before_the_next_upstream(two: House) -> None:
    refuse(two, 429)
    reply = await ask(two)
    assert reply.status == 200
    task_id = reply.json()["id"]
    assert (await two.finished(task_id))["status"] == "completed"
    assert [entry.account for entry in two.sim.log.select("openai", "submit")] == [None, 1]
    assert (two.sim.renders("openai"), two.sim.submits("kling")) == (1, 0)
    line = await two.line(lambda line: line["operation"] == "create")
    assert (line["status"], line["upstream"], line["credential"]) == (200, "two-keys", "k2")
    assert (await events(two, task_id))[:3] == [
        "reserved",
        "sent attempt 1 to two-keys/k1",
        "sent attempt 2 to two-keys/k2: attempt 1 was refused, rate_limit_exceeded",
    ]
    polls = two.sim.log.select("openai", "poll")
    assert {entry.account for entry in polls} == {1}, "the credential that made it asks after it"


async def test_the_time_line_has_every_attempt_and_why_it_failed(two: House) -> None:
    refuse(two, 429, 401)
    reply = await ask(two)
    assert reply.status == 200
    task_id = reply.json()["id"]
    assert (await two.finished(task_id))["status"] == "completed"
    assert (two.sim.submits("openai"), two.sim.submits("kling")) == (2, 1)
    assert (two.sim.renders("openai"), two.sim.renders("kling")) == (0, 1)
    task = await two.server.store.tasks.get(task_id)
    assert task is not None
    assert (task.attempt, task.upstream, task.credential) == (3, "sim-kling", "a")
    said = await events(two, task_id)
    assert said[:2] == ["reserved", "sent attempt 1 to two-keys/k1"]
    assert said[2].startswith("sent attempt 2 to two-keys/k2: attempt 1 was refused, rate_limit")
    assert said[3].startswith("sent attempt 3 to sim-kling/a: attempt 2 was refused, ")
    assert "invalid_api_key" in said[3]
    assert said[4] == f"accepted as {task.upstream_id}"
    sent = await two.server.store.tasks.time_line(task_id)
    assert [entry.attempt for entry in sent[:5]] == [0, 1, 2, 3, 3]


async def test_what_is_told_of_the_fit_is_of_the_upstream_that_took_it(two: House) -> None:
    """The first renders 8 seconds as asked; the second renders 10 instead, and that is said only
    when it was the second."""
    as_asked = await ask(two, seconds="8")
    assert (as_asked.status, as_asked.json()["seconds"]) == (200, "8")
    assert "reelway-adjusted" not in as_asked.headers
    refuse(two, 429, 429)
    fitted = await ask(two, seconds="8")
    assert (fitted.status, fitted.json()["seconds"]) == (200, "10")
    assert "seconds=8>10" in fitted.headers["reelway-adjusted"]
    task = await two.server.store.tasks.get(fitted.json()["id"])
    assert task is not None
    assert "seconds=8>10" in task.adjusted


async def test_an_upstream_that_cannot_render_it_is_left_out(two: House) -> None:
    """12 seconds are more than the second one makes: it is not asked, and the client is told of
    the first one's trouble instead of a fault that its request has not."""
    refuse(two, 429, 429)
    reply = await ask(two, seconds="12")
    assert (reply.status, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert (two.sim.submits("openai"), two.sim.submits("kling")) == (2, 0)
    line = await two.line(lambda line: line["operation"] == "create")
    assert (line["status"], line["credential"]) == (429, "k2")
    task = await two.server.store.tasks.get(str(line["task_id"]))
    assert task is not None
    assert (task.stage, task.deleted) == (Stage.FAILED, True)
    assert (await events(two, task.id))[-1].startswith("refused: rate_limit_exceeded; failed: ")


async def test_a_refusal_never_spends_the_clients_key(two: House) -> None:
    """All refuse, the client asks again with its key, and is served."""
    key = {"Idempotency-Key": "k"}
    body = {"model": "either", "prompt": "a cat"}
    refuse(two, 429, 429)
    two.sim.faults.add(Fault("status", "kling", "submit", status=429, code=1303))
    first = await two.post("/v1/videos", json=body, headers=key)
    assert first.status == 429
    for name in ("two-keys/k1", "two-keys/k2", "sim-kling/a"):  # their pauses are over
        await two.server.store.credentials.reset(name)
    second = await two.post("/v1/videos", json=body, headers=key)
    assert second.status == 200
    assert "idempotent-replayed" not in second.headers
    third = await two.post("/v1/videos", json=body, headers=key)
    assert third.json()["id"] == second.json()["id"]
    assert third.headers["idempotent-replayed"] == "true"
    assert two.sim.renders("openai") == 1


async def test_a_task_its_owner_deletes_between_two_attempts_stays_deleted(two: House) -> None:
    """The first attempt stands at the upstream meanwhile; the second goes out all the same, for
    nobody knows yet whether there is anything to stop."""
    held = two.sim.faults.add(Fault("hold", "openai", "submit"))
    refuse(two, 429)
    post = asyncio.create_task(ask(two))
    await two.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
    (listed,) = (await two.get("/v1/videos")).json()["data"]
    assert (await two.request("DELETE", f"/v1/videos/{listed['id']}")).status == 200
    held.release()
    assert (await post).status == 200
    task = await two.server.store.tasks.get(listed["id"])
    assert task is not None
    assert (task.deleted, task.attempt, task.credential) == (True, 2, "k2")
    assert two.sim.renders("openai") == 1
