"""What a render costs is told before, held when it is made, and never more than is there."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from proxy.model import Limits
from proxy.store import OwnerRecord
from proxy.tokens import MadeToken
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.refusals import DOORS, JSON, error_of
from tests.rig.worker import worker

PRICED = """
[[routes]]
model = "priced*"
upstream = "sim-kling"
upstream_model = "kling-v2-6"
price = { per_second = "0.04" }
"""
SUBMITS, AFFORDED = 200, 50


def bearer(made: MadeToken) -> dict[str, str]:
    return {"Authorization": f"Bearer {made.token}"}


async def dump(house: House) -> dict[str, object]:
    """Everything the store holds, but for what time alone changes."""
    call = house.server.store.batch.call
    names = await call("KEYS", "*")
    assert isinstance(names, list)
    return {str(name): await call("DUMP", name) for name in sorted(map(_text, names))}


def _text(name: object) -> str:
    assert isinstance(name, bytes)
    return name.decode()


@pytest.mark.parametrize("dialect", DOORS)
async def test_a_quote_tells_the_price_and_makes_nothing(
    open_house: OpenHouse, dialect: Any
) -> None:
    """In the dialect's own envelope; the real submit then holds exactly that."""
    async with open_house(Plan(routes=PRICED, manual=True)) as house:
        made = await house.new_token(budget_micro=1_000_000, owner="acme")
        await house.server.store.owners.put(OwnerRecord("acme", Limits(max_in_flight=9)))
        door = DOORS[dialect]
        body = {door.model_field: "priced-1", "prompt": "a cat", "seconds": 8, "frames": 193}
        if dialect in ("kling", "generic"):
            body["duration"] = 8
        join = "&" if "?" in door.submit else "?"
        headers = {**bearer(made), "Idempotency-Key": "k-1", "x-stainless-retry-count": "1"}
        before = await dump(house)
        reply = await house.post(f"{door.submit}{join}dry_run=1", json=body, headers=headers)
        assert reply.status == 200, reply.body
        assert await dump(house) == before
        assert not house.sim.submits("kling")
        said = reply.json()
        if dialect in ("kling", "jimeng"):
            assert said["code"] == {"kling": 0, "jimeng": 10000}[dialect]
            said = said["data"]
        told = {name: said[name] for name in ("object", "price", "currency", "route", "adjusted")}
        assert told == {
            "object": "video.quote",
            "price": "0.40",
            "currency": "USD",
            "route": "priced*",
            "adjusted": ["seconds=8>10"],
        }
        assert said["limits"]["token"]["left"] == {"total": "1.00", "day": None, "month": None}
        assert said["limits"]["owner"]["max_in_flight"] == 9
        zero = await house.post(f"{door.submit}{join}dry_run=0", json=body, headers=headers)
        assert zero.status == 200
        usage = (await house.get("/v1/usage", headers=bearer(made))).json()
        assert (usage["held"]["total"], usage["left"]["total"]) == ("0.40", "0.60")


@pytest.mark.parametrize("query", ["dry_run=true", "dry_run=", "dry_run=2", "dry_run=0&dry_run=1"])
async def test_a_quote_asked_for_in_other_words_is_never_a_render(house: House, query: str) -> None:
    for dialect, door in DOORS.items():
        join = "&" if "?" in door.submit else "?"
        path = f"{door.submit}{join}{query}"
        reply = await house.post(path, data=b'{"prompt":"a cat"}', headers=JSON)
        error = error_of(dialect, reply.headers, reply.body)
        assert (reply.status, error["param"]) == (400, "dry_run")
    assert not any(house.sim.submits(name) for name in ("openai", "kling", "jimeng"))


async def test_a_quote_refuses_what_a_submit_would(house: House) -> None:
    for body, status in (
        ({"prompt": "a cat", "model": "nobody-renders-this"}, 404),
        ({"prompt": "a cat", "n": 4}, 400),
        ({"prompt": ""}, 400),
    ):
        reply = await house.post("/v1/videos?dry_run=1", json=body)
        assert reply.status == status, body


async def test_two_worker_processes_spend_a_budget_exactly_once(
    open_house: OpenHouse, tmp_path: Path
) -> None:
    """200 submits at once through two processes, against a budget for 50: exactly 50."""
    async with open_house(Plan(routes=PRICED)) as house:
        made = await house.new_token(owner="acme", budget_micro=AFFORDED * 200_000)
        folders = [tmp_path / "one", tmp_path / "two"]
        for folder in folders:
            folder.mkdir()
        async with worker(house, folders[0]) as first, worker(house, folders[1]) as second:
            replies = await asyncio.gather(
                *(
                    house.post(
                        "/v1/videos",
                        json={"model": "priced-1", "prompt": f"cat {n}", "seconds": "5"},
                        headers=bearer(made),
                        base=(first, second)[n % 2].url,
                    )
                    for n in range(SUBMITS)
                )
            )
        statuses = [reply.status for reply in replies]
        assert (statuses.count(200), statuses.count(402)) == (AFFORDED, SUBMITS - AFFORDED)
        assert house.sim.submits("kling") == AFFORDED
        found = await house.server.store.ledger.check(int(time.time() * 1000))
        assert found.problems == ()
