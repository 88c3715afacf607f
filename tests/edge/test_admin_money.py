"""/api/ledger, /api/usage and /api/webhooks: where money went, what was made, what was told."""

from __future__ import annotations

import time
from typing import Any

from proxy.store import keys
from tests.rig.admin_client import done, got, pages, refused
from tests.rig.eventually import read_until
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.receivers import allowing, receiving

PRICED = '[[routes]]\nmodel = "priced"\nupstream = "sim-openai"\nprice = { per_second = "0.1" }'


async def makes(house: House, owner: str, model: str, count: int) -> list[str]:
    """Finished tasks of a tenant; each has its hold and its settlement."""
    made = await house.new_token(owner=owner)
    headers = {"Authorization": f"Bearer {made.token}"}
    ids = []
    for _ in range(count):
        body = {"model": model, "prompt": "a cat", "seconds": "4"}
        reply = await house.post("/v1/videos", json=body, headers=headers)
        assert reply.status == 200, reply.body
        ids.append(reply.json()["id"])
    for task_id in ids:
        reply = await house.get(f"/v1/videos/{task_id}?wait=20", headers=headers)
        assert reply.json()["status"] == "completed"
    return ids


async def test_every_entry_of_a_month_is_listed_by_owner(open_house: OpenHouse) -> None:
    """Of each owner the latest first, in pages that fit together."""
    async with open_house(Plan(routes=PRICED)) as house:
        ids = {owner: await makes(house, owner, "priced", 3) for owner in ("zoe", "acme: x")}
        entries = await pages(house, "/api/ledger", 4)
        assert [entry["owner"] for entry in entries] == ["acme: x"] * 6 + ["zoe"] * 6
        for owner, made in ids.items():
            own = [entry for entry in entries if entry["owner"] == owner]
            assert [e["ms"] for e in own] == sorted((e["ms"] for e in own), reverse=True)
            kinds = [(entry["kind"], entry["micro"]) for entry in own]
            assert sorted(kinds) == [("hold", 400_000)] * 3 + [("settle", 400_000)] * 3
            assert {entry["task_id"] for entry in own} == set(made)
            assert own[0]["kind"] == "settle"
            assert own[-1]["kind"] == "hold"
            assert {(e["model"], e["token_id"] != "") for e in own} == {("priced", True)}
        month = keys.month(entries[0]["ms"])
        this = f"{month[:4]}-{month[4:]}"
        zoes = [entry for entry in entries if entry["owner"] == "zoe"]
        assert await pages(house, f"/api/ledger?owner=zoe&month={this}", 5) == zoes
        assert await pages(house, "/api/ledger?month=2020-01", 5) == []
        assert await pages(house, "/api/ledger?owner=nobody", 5) == []
        said = await refused(house, "GET", "/api/ledger?month=May")
        assert (said[0], said[2]) == (400, "month")


async def test_the_books_are_checked_and_a_fault_is_named(open_house: OpenHouse) -> None:
    async with open_house(Plan(routes=PRICED)) as house:
        await makes(house, "acme", "priced", 2)
        sound = await got(house, "/api/ledger/verify")
        assert sound == {"ok": True, "owners": 1, "tasks": 2, "entries": 4, "problems": []}
        balance = keys.balance("acme", "o:acme")
        await house.server.store.batch.call("HINCRBY", balance, "spent", 1)
        broken = await got(house, "/api/ledger/verify?owner=acme")
        assert (broken["ok"], broken["tasks"]) == (False, 2)
        assert "800001" in broken["problems"][0]
        assert (await got(house, "/api/ledger/verify?owner=nobody"))["ok"]


async def test_what_was_made_is_told_by_day_owner_and_model(open_house: OpenHouse) -> None:
    """Free renders too, refused submits not; pages fit together."""
    async with open_house(Plan(routes=PRICED)) as house:
        await makes(house, "acme", "priced", 2)
        await makes(house, "acme", "sora-2", 1)
        await makes(house, "zoe", "priced", 1)
        refusal = {"model": "sora-2", "prompt": "forbidden-prompt"}
        assert (await house.post("/v1/videos", json=refusal)).status == 400
        rows = await pages(house, "/api/usage", 2)
        days = {row.pop("day") for row in rows}
        assert days <= {_day(time.time() - 3600), _day(time.time())}
        whole: dict[tuple[str, str], dict[str, Any]] = {
            (row.pop("owner"), row.pop("model")): row for row in rows
        }
        assert whole == {
            ("acme", "priced"): _made(submits=2, completed=2, seconds=8.0, spent_micro=800_000),
            ("acme", "sora-2"): _made(submits=1, completed=1, seconds=4.0),
            ("zoe", "priced"): _made(submits=1, completed=1, seconds=4.0, spent_micro=400_000),
        }
        zoe = await pages(house, "/api/usage?owner=zoe&days=90", 50)
        assert [row["owner"] for row in zoe] == ["zoe"]
        said = await refused(house, "GET", "/api/usage?days=91")
        assert (said[0], said[2]) == (400, "days")


def _day(now_s: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(now_s))


def _made(**counts: float) -> dict[str, float]:
    nothing = {"submits": 0, "completed": 0, "failed": 0, "seconds": 0.0, "spent_micro": 0}
    return nothing | counts


# ---------------------------------------------------------------- webhooks


async def hooks_in(house: House, state: str, count: int) -> list[Any]:
    """Those in this state, once there are so many that were tried."""
    return await read_until(
        lambda: pages(house, f"/api/webhooks?state={state}", 2),
        lambda found: len([hook for hook in found if hook["log"]]) >= count,
    )


async def test_webhooks_are_listed_by_state_and_sent_again(open_house: OpenHouse) -> None:
    """By the hook's id, or the event's, which its receiver knows."""
    async with (
        receiving() as receiver,
        open_house(Plan(sections=allowing(receiver))) as house,
    ):
        for _ in range(3):
            await house.completed(webhook=receiver.url)
        told = await receiver.heard(3)
        hooks = await hooks_in(house, "delivered", 3)
        assert {hook["event_id"] for hook in hooks} == {one.id for one in told}
        assert await pages(house, "/api/webhooks?state=dead", 50) == []
        assert await pages(house, "/api/webhooks", 2) == hooks
        first = hooks[0]
        assert (first["event"], first["url"]) == ("video.completed", receiver.url)
        assert (first["attempts"], first["log"][-1]["result"]) == (1, "ok")
        for name in (first["id"], first["event_id"]):
            count = len(receiver.told) + 1
            again = await done(house, "POST", f"/api/webhooks/{name}/replay")
            assert (again["id"], again["state"]) == (first["id"], "pending")
            assert (await receiver.heard(count))[-1].id == first["event_id"]
            await hooks_in(house, "delivered", 3)


async def test_webhooks_that_wait_come_before_those_that_have_ended(open_house: OpenHouse) -> None:
    async with (
        receiving(500, 500) as receiver,
        open_house(Plan(sections=allowing(receiver, first_pause_s=3600.0))) as house,
    ):
        waiting = []
        for count in (1, 2):
            waiting.append(await house.completed(webhook=receiver.url))
            await receiver.heard(count)
        told = [await house.completed(webhook=receiver.url) for _ in range(2)]
        await hooks_in(house, "delivered", 2)
        await hooks_in(house, "pending", 2)
        hooks = await pages(house, "/api/webhooks", 1)
        assert [hook["state"] for hook in hooks] == ["pending"] * 2 + ["delivered"] * 2
        assert {hook["task_id"] for hook in hooks[:2]} == set(waiting)
        assert {hook["task_id"] for hook in hooks[2:]} == set(told)
        assert hooks[0]["log"][0]["result"] == "answered 500"


async def test_a_webhook_nobody_knows_or_whose_task_is_gone_is_not_sent(
    open_house: OpenHouse,
) -> None:
    async with (
        receiving() as receiver,
        open_house(Plan(sections=allowing(receiver))) as house,
    ):
        said = await refused(house, "POST", "/api/webhooks/evt_1_1/replay")
        assert (said[0], said[1]) == (404, "not_found")
        task_id = await house.completed(webhook=receiver.url)
        (hook,) = await hooks_in(house, "delivered", 1)
        await house.server.store.batch.call("DEL", keys.task(task_id))
        status, code, _, message = await refused(
            house, "POST", f"/api/webhooks/{hook['id']}/replay"
        )
        assert (status, code) == (409, "conflict")
        assert "has expired" in message
        assert len(receiver.told) == 1
