"""Several keys behind one route: none has more under way than it may, none is asked while its
provider said no, and what one cannot take another does."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxy.model import Credential, CredentialHealth
from proxy.sim.faults import Fault
from proxy.sim.kling import KEYS as KLING_KEYS
from proxy.sim.log import SUBMITS, Entry
from proxy.sim.settings import Account
from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.programs import Ended, run

WAIT_S = 20.0  # only a hang gets here
SECOND = Account(
    {
        "openai": {"api_key": "sk-2"},
        "kling": {"access_key": "AK2", "secret_key": "SK2", "api_key": "kling-2"},
        "jimeng": {"access_key": "AKLT2", "secret_key": "c2Vjb25k"},
    }
)
ACCOUNTS = (Account(), SECOND)
A, B = "sim-kling/a", "sim-kling/b"


def keys(**more: Any) -> tuple[Credential, Credential]:
    """Of the two accounts; the second only stands in, so that the order is known."""
    first, second = KLING_KEYS, SECOND.keys["kling"]
    return (
        Credential("a", None, first["access_key"], first["secret_key"], **more),
        Credential("b", None, second["access_key"], second["secret_key"], weight=0, **more),
    )


def give(house: House, *credentials: Credential) -> None:
    """These to Kling, from now on, in a running worker."""
    config = house.server.config
    upstream = replace(config.upstreams["sim-kling"], credentials=credentials)
    upstreams = {**config.upstreams, "sim-kling": upstream}
    house.server.config = replace(config, upstreams=upstreams)


async def submit(house: House, prompt: str = "a cat", **more: Any) -> Answer:
    return await house.post("/v1/videos", json={"model": "kling-v2-6", "prompt": prompt}, **more)


def asked(house: House) -> list[int | None]:
    """Which account each submit came to, in order."""
    entries: list[Entry] = [e for e in house.sim.log.entries if e.operation in SUBMITS]
    return [entry.account for entry in entries]


async def standing(house: House, name: str) -> CredentialHealth:
    (found,) = await house.server.store.credentials.health((name,))
    return found


async def places(house: House, sum_is: int) -> None:
    """Wait for so many in flight: a place is given back just after its task has ended."""
    known = house.server.store.credentials
    async with asyncio.timeout(WAIT_S):
        while True:
            if sum([await known.in_flight(name, 0) for name in (A, B)]) == sum_is:
                return
            await asyncio.sleep(0.01)


async def pause_over(house: House, name: str) -> None:
    """As if its pause had just ended."""
    old = await standing(house, name)
    assert old.until_ms
    assert await house.server.store.credentials.swap(name, old, replace(old, until_ms=1))


# ---------------------------------------------------------------- places in flight


async def test_no_key_has_more_under_way_than_it_may_whoever_asks(open_house: OpenHouse) -> None:
    """Counted across workers: 12 submits at once at two of them, for 2 keys of 2 each."""
    wanted = Plan(manual=True, sim={"accounts": ACCOUNTS, "max_in_flight": 2})
    async with open_house(wanted) as house:
        give(house, *keys(max_in_flight=2))
        second = await house.another_worker()
        replies = await asyncio.gather(
            *(submit(house, f"cat {n}", base=(house.url, second.url)[n % 2]) for n in range(12))
        )
        assert sorted(reply.status for reply in replies) == [200] * 4 + [429] * 8
        refused = next(reply for reply in replies if reply.status == 429)
        assert refused.json()["error"]["code"] == "too_many_in_flight"
        assert refused.headers["Retry-After"] == "5"
        # The provider has the same limit and never had to say so.
        assert (house.sim.submits("kling"), house.sim.renders("kling")) == (4, 4)
        assert sorted(str(n) for n in asked(house)) == ["0", "0", "1", "1"]
        assert await house.server.store.tasks.open_count() == 4

        job = house.sim.tasks.of("kling")[0]
        house.sim.finish(job.id)
        await house.finished(str(job.request["external_task_id"]))
        await places(house, sum_is=3)
        assert (await submit(house, "next")).status == 200
        assert (await submit(house, "one too many")).status == 429
        assert asked(house)[-1] == asked(house)[0]


@pytest.mark.parametrize("end", ["completed", "failed", "deleted and completed"])
async def test_a_place_is_free_when_its_task_has_ended(open_house: OpenHouse, end: str) -> None:
    """Kling counts a task until it is terminal, so a deleted one too."""
    async with open_house(Plan(manual=True, sim={"accounts": ACCOUNTS})) as house:
        give(house, keys(max_in_flight=1)[0])
        task_id = (await submit(house)).json()["id"]
        (job,) = house.sim.tasks.of("kling")
        if end.startswith("deleted"):
            await house.request("DELETE", f"/v1/videos/{task_id}")
        assert (await submit(house)).status == 429
        (house.sim.fail if end == "failed" else house.sim.finish)(job.id)
        async with asyncio.timeout(WAIT_S):
            while (await submit(house)).status != 200:  # noqa: ASYNC110 -- polled on purpose
                await asyncio.sleep(0.01)
        assert house.sim.submits("kling") == 2


async def test_a_refused_submit_keeps_no_place(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        give(house, keys(max_in_flight=1)[0])
        house.sim.faults.add(Fault("status", "kling", "submit", status=400, code=1301))
        assert [(await submit(house)).status for _ in range(3)] == [400, 200, 429]


async def test_places_are_counted_anew_from_open_tasks(open_house: OpenHouse) -> None:
    """A store that forgot them hears of each at the next look at its task; one whose release was
    lost is free when its time is over."""
    async with open_house(Plan(manual=True)) as house:
        give(house, keys(max_in_flight=1)[0])
        store = house.server.store
        now_ms = 1000
        assert await store.credentials.take_slot(A, "lost", 1, now_ms, now_ms + 1)
        task_id = (await submit(house)).json()["id"]
        await store.batch.call("DEL", "rw:{c:sim-kling/a}:fly")
        async with asyncio.timeout(WAIT_S):
            while not await store.credentials.in_flight(A, now_ms):  # noqa: ASYNC110 -- ditto
                await asyncio.sleep(0.01)
        members = await store.batch.call("ZRANGE", "rw:{c:sim-kling/a}:fly", 0, -1)
        assert members == [task_id.encode()]
        assert (await submit(house)).status == 429


async def test_a_lost_submit_keeps_its_place_until_it_is_settled(open_house: OpenHouse) -> None:
    """It may be rendering."""
    async with open_house(Plan(manual=True)) as house:
        give(house, keys(max_in_flight=1)[0])
        house.sim.faults.add(Fault("lost", "kling", "submit"))
        assert [(await submit(house)).status for _ in range(2)] == [200, 429]


# ---------------------------------------------------------------- cooling down, taken out


async def test_a_key_over_its_rate_is_left_alone_and_another_takes_over(
    open_house: OpenHouse,
) -> None:
    """At every worker, from the provider's one refusal on, until its pause is over."""
    async with open_house(Plan(sim={"accounts": ACCOUNTS})) as house:
        give(house, *keys())
        second = await house.another_worker()
        house.sim.faults.add(Fault("status", "kling", "submit", status=429, code=1302))
        for base in (house.url, house.url, second.url):
            assert (await submit(house, base=base)).status == 200
        # A fault answers before anybody is recognised.
        assert asked(house) == [None, 1, 1, 1]
        assert (await standing(house, A)).state == "cooling"
        assert (await standing(house, A)).code == "1302"
        await pause_over(house, A)
        assert (await submit(house)).status == 200
        assert asked(house)[-1] == 0
        assert await standing(house, A) == CredentialHealth()


@pytest.mark.parametrize(
    ("status", "code", "mood"),
    [
        (401, 1002, "out"),
        (429, 1100, "out"),
        (429, 1101, "out"),
        (429, 1102, "out"),
        (429, 1304, "out"),
        (429, 1303, "cooling"),
        (403, 1103, "well"),
    ],
)
async def test_a_providers_own_code_decides_what_becomes_of_a_key(
    open_house: OpenHouse, status: int, code: int, mood: str
) -> None:
    async with open_house(Plan(sim={"accounts": ACCOUNTS})) as house:
        give(house, *keys())
        house.sim.faults.add(Fault("status", "kling", "submit", status=status, code=code))
        for _ in range(2):
            assert (await submit(house)).status == 200
        assert (await standing(house, A)).state == mood
        assert asked(house) == [None, 1, 0 if mood == "well" else 1]


async def test_a_key_taken_out_comes_back_through_one_trial(open_house: OpenHouse) -> None:
    """While the trial is under way the others go elsewhere; a failed one doubles the pause."""
    async with open_house(Plan(sim={"accounts": ACCOUNTS})) as house:
        give(house, *keys())
        arrears = Fault("status", "kling", "submit", status=429, code=1101)
        house.sim.faults.add(arrears)
        assert (await submit(house)).status == 200
        await pause_over(house, A)
        house.sim.faults.add(arrears)
        assert (await submit(house)).status == 200
        assert (await standing(house, A)).strikes == 2
        assert asked(house) == [None, 1, None, 1]

        await pause_over(house, A)
        trial = house.sim.faults.add(Fault("hold", "kling", "submit"))
        first = asyncio.create_task(submit(house, "trial"))
        await house.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)
        replies = await asyncio.gather(*(submit(house, f"cat {n}") for n in range(4)))
        assert [reply.status for reply in replies] == [200] * 4
        trial.release()
        assert (await first).status == 200
        assert sorted(str(n) for n in asked(house)[4:]) == ["0", "1", "1", "1", "1"]
        assert await standing(house, A) == CredentialHealth()


async def test_when_no_key_can_take_it_the_client_is_told_when_to_come_again(
    open_house: OpenHouse,
) -> None:
    """In its own dialect; nothing is sent, nothing is left, no key or account is named."""
    cases = [
        (429, 1302, 429, "rate_limit_exceeded", 1302),
        (401, 1000, 503, "unavailable", 5001),
    ]
    async with open_house(Plan(sim={"accounts": ACCOUNTS})) as house:
        give(house, *keys())
        for status, code, told, reason, native in cases:
            for name in (A, B):
                await house.server.store.credentials.reset(name)
            house.sim.faults.add(
                Fault("status", "kling", "submit", status=status, code=code, times=2)
            )
            await submit(house)
            before = house.sim.submits("kling")
            body = {"model_name": "kling-v2-6", "prompt": "a cat"}
            reply = await house.post("/kling/v1/videos/text2video", json=body)
            said = reply.json()
            assert (reply.status, said["error"]["code"], said["code"]) == (told, reason, native)
            assert 1 <= int(reply.headers["Retry-After"]) <= 120
            assert "nothing was submitted" in said["message"]
            assert "sim-kling" not in said["message"]
            assert house.sim.submits("kling") == before
            assert await house.server.store.tasks.open_count() == 0


async def test_an_operators_word_brings_a_key_back_at_once(
    open_house: OpenHouse, tmp_path: Path
) -> None:
    """From beside the running gateway; a name it does not know is told."""
    async with open_house(Plan()) as house:

        async def command(*arguments: str) -> Ended:
            asked = ("credential", *arguments, "--config", str(house.config_path))
            return await asyncio.to_thread(run, *asked, cwd=tmp_path)

        async def told(*arguments: str) -> Any:
            ended = await command(*arguments, "--json")
            assert ended.status == 0, ended
            return json.loads(ended.out)

        house.sim.faults.add(Fault("status", "kling", "submit", status=429, code=1102))
        assert [(await submit(house)).status for _ in range(2)] == [503, 503]
        assert house.sim.submits("kling") == 1
        rows = {row["name"]: row for row in (await told("list"))["credentials"]}
        assert rows.keys() > {"sim-kling", A, "sim-openai", "sim-openai/a"}
        seen = rows[A]["state"], rows[A]["code"], rows[A]["strikes"]
        assert seen == ("out", "1102", 1)
        assert rows["sim-kling"]["state"] == "well"
        assert await told("restore", A) == {"name": A, "restored": True}
        assert (await submit(house)).status == 200
        unknown = await command("restore", "nobody")
        assert (unknown.status, unknown.out) == (1, "")
        assert "there is no nobody" in unknown.err
        shown = (await command("list")).out.splitlines()
        assert shown[0].split()[:5] == ["NAME", "STATE", "UNTIL", "STRIKES", "CODE"]
        assert [line.split()[1] for line in shown[1:]] == ["well"] * 6


async def test_a_retired_key_ends_what_it_began_and_takes_nothing_new(
    open_house: OpenHouse,
) -> None:
    """A provider knows a task only under the account that made it."""
    async with open_house(Plan(manual=True, sim={"accounts": ACCOUNTS})) as house:
        first, second = keys()
        give(house, first, second)
        task_id = (await submit(house)).json()["id"]
        give(house, replace(first, retired=True), second)
        assert (await submit(house)).status == 200
        assert asked(house) == [0, 1]
        house.sim.finish(house.sim.tasks.of("kling")[0].id)
        assert (await house.finished(task_id))["status"] == "completed"
        assert (await house.get(f"/v1/videos/{task_id}/content")).status == 200
        polls = [e.account for e in house.sim.log.select("kling", "poll") if e.status == 200]
        assert 0 in polls
