"""What a token has spent, holds and has left, as it is told itself."""

from __future__ import annotations

from proxy.model import Limits
from proxy.store import OwnerRecord
from tests.rig.house import House, OpenHouse, Plan

PRICED = """
[[routes]]
model = "priced"
upstream = "sim-openai"
upstream_model = "sora-2"
price = { per_second = "0.10" }
"""
NOTHING = {"total": "0.00", "day": "0.00", "month": "0.00"}


async def test_a_token_is_told_what_it_spent_holds_and_has_left(open_house: OpenHouse) -> None:
    async with open_house(Plan(routes=PRICED, manual=True)) as house:
        made = await house.new_token(
            owner="acme", budget_micro=2_000_000, budget_day_micro=1_000_000, max_in_flight=3
        )
        bearer = {"Authorization": f"Bearer {made.token}"}

        async def usage() -> dict[str, object]:
            reply = await house.get("/v1/usage", headers=bearer)
            assert reply.status == 200
            said: dict[str, object] = reply.json()
            return said

        fresh = await usage()
        assert fresh == {
            "object": "usage",
            "token": made.record.id,
            "currency": "USD",
            "spent": NOTHING,
            "held": NOTHING,
            "budget": {"total": "2.00", "day": "1.00", "month": None},
            "left": {"total": "2.00", "day": "1.00", "month": None},
            "tasks_in_flight": 0,
            "max_in_flight": 3,
            "requests_per_minute": None,
            "submits_per_minute": None,
            "max_streams": None,
        }
        body = {"model": "priced", "prompt": "a cat", "seconds": "4"}
        created = await house.post("/v1/videos", json=body, headers=bearer)
        busy = await usage()
        assert (busy["spent"], busy["tasks_in_flight"]) == (NOTHING, 1)
        assert busy["held"] == {"total": "0.40", "day": "0.40", "month": "0.40"}
        assert busy["left"] == {"total": "1.60", "day": "0.60", "month": None}
        entry = await house.sim.wait_for(lambda e: e.operation == "submit")
        assert entry.task_id is not None
        house.sim.finish(entry.task_id)
        await house.get(f"/v1/videos/{created.json()['id']}?wait=20", headers=bearer)
        done = await usage()
        assert (done["held"], done["tasks_in_flight"]) == (NOTHING, 0)
        assert done["spent"] == {"total": "0.40", "day": "0.40", "month": "0.40"}
        assert done["left"] == busy["left"]


async def test_an_owners_account_stands_beside_when_it_has_limits(house: House) -> None:
    made = await house.new_token(owner="acme")
    limits = Limits(budget_month_micro=7_000_000)
    await house.server.store.owners.put(OwnerRecord("acme", limits))
    reply = await house.get("/v1/usage", headers={"Authorization": f"Bearer {made.token}"})
    owner = reply.json()["owner"]
    assert owner["left"] == {"total": None, "day": None, "month": "7.00"}


async def test_usage_is_behind_the_gate(house: House) -> None:
    reply = await house.get("/v1/usage", headers={"Authorization": None})
    assert reply.status == 401
