"""What a token may spend, have under way and ask: kept under concurrency, given back at the end."""

from __future__ import annotations

import asyncio
from typing import Any

from proxy.store.codec import Booking, decode_booking
from tests.rig.house import OpenHouse, Plan

PRICED = """
[[routes]]
model = "priced"
upstream = "sim-openai"
upstream_model = "sora-2"
price = { per_second = "0.10" }
"""


async def priced_house(open_house: OpenHouse, **more: Any) -> Any:
    return open_house(Plan(routes=PRICED, **more))


def submit(house: Any, made: Any, seconds: str = "4") -> Any:
    return house.post(
        "/v1/videos",
        json={"model": "priced", "prompt": "a cat", "seconds": seconds},
        headers={"Authorization": f"Bearer {made.token}"},
    )


async def bookings(house: Any) -> list[Booking]:
    """Every ledger entry there is."""
    found: list[Booking] = []
    batch = house.server.store.batch
    for key in await batch.call("KEYS", "rw:*:led:*"):
        for _id, pairs in await batch.call("XRANGE", key, "-", "+"):
            found.append(decode_booking(pairs[b"entry"]))
    return found


async def balances(house: Any) -> dict[str, tuple[int, int]]:
    batch = house.server.store.batch
    found = {}
    for key in await batch.call("KEYS", "rw:*:bal:*"):
        held, spent = await batch.call("HMGET", key, "held", "spent")
        found[key.decode()] = (int(held or 0), int(spent or 0))
    return found


async def test_a_budget_admits_exactly_what_it_covers(open_house: OpenHouse) -> None:
    """50 submits of 0.40 at once against 2.00: exactly 5 are taken, and no more are rendered."""
    async with await priced_house(open_house) as house:
        made = await house.new_token(budget_micro=2_000_000)
        replies = await asyncio.gather(*(submit(house, made) for _ in range(50)))
        taken = [reply for reply in replies if reply.status == 200]
        refused = [reply for reply in replies if reply.status == 402]
        assert (len(taken), len(refused)) == (5, 45)
        assert refused[0].json()["error"]["code"] == "insufficient_quota"
        assert "0.40 USD" in refused[0].json()["error"]["message"]
        assert house.sim.renders("openai") == 5


async def test_the_ledger_balances_for_good_and_bad_ends(open_house: OpenHouse) -> None:
    """hold = settle + refund for every task, whether it was made or failed."""
    async with await priced_house(open_house) as house:
        made = await house.new_token(budget_micro=10_000_000)
        bearer = {"Authorization": f"Bearer {made.token}"}
        good = (await submit(house, made)).json()["id"]
        body = {"model": "priced", "prompt": "a cat fail-later", "seconds": "8"}
        bad = (await house.post("/v1/videos", json=body, headers=bearer)).json()["id"]
        body = {"model": "priced", "prompt": "forbidden-prompt", "seconds": "12"}
        refused = await house.post("/v1/videos", json=body, headers=bearer)
        assert refused.status == 400
        async with asyncio.timeout(20):
            for task_id in (good, bad):
                while True:
                    reply = await house.get(f"/v1/videos/{task_id}?wait=10", headers=bearer)
                    if reply.json()["status"] in ("completed", "failed"):
                        break
        entries = await bookings(house)
        by_task: dict[str, dict[str, int]] = {}
        for entry in entries:
            by_task.setdefault(entry.task_id, {})[entry.kind] = entry.micro
        assert by_task.pop(good) == {"hold": 400_000, "settle": 400_000}
        assert by_task.pop(bad) == {"hold": 800_000, "refund": 800_000}
        assert by_task == {}, "a refused submit takes its hold back: it was no task"
        assert set((await balances(house)).values()) == {(0, 400_000)}


async def test_a_place_in_flight_is_free_when_the_task_ends(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        made = await house.new_token(max_in_flight=1)
        bearer = {"Authorization": f"Bearer {made.token}"}
        body = {"model": "sora-2", "prompt": "a cat"}
        first = await house.post("/v1/videos", json=body, headers=bearer)
        second = await house.post("/v1/videos", json=body, headers=bearer)
        assert (first.status, second.status) == (200, 429)
        assert second.json()["error"]["code"] == "too_many_in_flight"
        assert "Retry-After" in second.headers
        entry = await house.sim.wait_for(lambda e: e.operation == "submit")
        assert entry.task_id is not None
        house.sim.finish(entry.task_id)
        done = await house.get(f"/v1/videos/{first.json()['id']}?wait=10", headers=bearer)
        assert done.json()["status"] == "completed"
        third = await house.post("/v1/videos", json=body, headers=bearer)
        assert third.status == 200
        assert house.sim.submits("openai") == 2


async def test_a_rate_is_kept_across_workers(house: Any) -> None:
    made = await house.new_token(requests_per_minute=3)
    bearer = {"Authorization": f"Bearer {made.token}"}
    second = await house.another_worker()
    replies = [
        await house.get("/v1/models", headers=bearer, base=base)
        for base in (house.url, second.url, house.url, second.url)
    ]
    assert [reply.status for reply in replies] == [200, 200, 200, 429]
    assert replies[3].json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(replies[3].headers["Retry-After"]) <= 20
