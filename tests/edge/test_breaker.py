"""An upstream that fails again and again is left alone, tried by one submit at a time, and what
it cannot do the route's next one does."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.model import CredentialHealth
from proxy.sim.faults import Fault
from proxy.tasks.breaker import TRIP_AFTER
from tests.rig.house import Answer, House, OpenHouse, Plan

UPSTREAM = "sim-openai"
EITHER = """
[[routes]]
model = "either"
upstream = [{ name = "sim-openai", weight = 1 }, { name = "sim-kling", weight = 0 }]
upstream_model = "kling-v2-6"
"""


async def submit(house: House, model: str = "sora-2", prompt: str = "a cat") -> Answer:
    return await house.post("/v1/videos", json={"model": model, "prompt": prompt})


async def standing(house: House) -> CredentialHealth:
    (found,) = await house.server.store.credentials.health((UPSTREAM,))
    return found


async def pause_over(house: House) -> None:
    """As if its pause had just ended."""
    old = await standing(house)
    assert old.state == "broken"
    assert await house.server.store.credentials.swap(UPSTREAM, old, replace(old, until_ms=1))


async def test_an_upstream_that_cannot_be_reached_is_not_tried_for_ever(house: House) -> None:
    """Whoever comes then is told at once, at every worker; it comes back through one trial."""
    await house.sim.refuse("openai")
    for _ in range(TRIP_AFTER):
        reply = await submit(house)
        assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_unreachable")
    await house.sim.accept("openai")
    second = await house.another_worker()
    for base in (house.url, second.url):
        body = {"model": "sora-2", "prompt": "a cat"}
        reply = await house.post("/v1/videos", json=body, base=base)
        error = reply.json()["error"]
        assert (reply.status, error["code"]) == (503, "unavailable")
        assert "cannot be reached" in error["message"]
        assert "nothing was submitted" in error["message"]
        assert 1 <= int(reply.headers["Retry-After"]) <= 5
    assert house.sim.submits("openai") == 0

    await pause_over(house)
    trial = house.sim.faults.add(Fault("hold", "openai", "submit"))
    first = asyncio.create_task(submit(house, prompt="trial"))
    await house.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)
    assert [(await submit(house)).status for _ in range(3)] == [503] * 3
    trial.release()
    assert (await first).status == 200
    assert await standing(house) == CredentialHealth()
    assert [(await submit(house, prompt=f"cat {n}")).status for n in range(3)] == [200] * 3
    assert house.sim.submits("openai") == 4


async def test_a_trial_that_fails_doubles_the_pause(house: House) -> None:
    await house.sim.refuse("openai")
    for _ in range(TRIP_AFTER):
        await submit(house)
    await pause_over(house)
    assert (await submit(house)).status == 502
    found = await standing(house)
    assert (found.state, found.strikes) == ("broken", TRIP_AFTER + 1)
    assert (await submit(house)).status == 503


async def test_failures_that_leave_it_open_whether_it_rendered_count_too(house: House) -> None:
    """Each is its client's queued task, never sent again; the one after them is not risked."""
    faults = [Fault("status", status=500), Fault("lost"), Fault("malformed"), Fault("hangup")]
    for fault in [*faults, faults[0]]:
        house.sim.faults.add(replace(fault, service="openai", operation="submit"))
        assert (await submit(house)).status == 200
    assert (await submit(house)).status == 503
    assert house.sim.submits("openai") == TRIP_AFTER


async def test_one_success_forgives_what_came_before(house: House) -> None:
    for _round in range(2):
        for _ in range(TRIP_AFTER - 1):
            house.sim.faults.add(Fault("status", "openai", "submit", status=500))
            assert (await submit(house)).status == 200
        assert (await standing(house)).strikes == TRIP_AFTER - 1
        assert (await submit(house)).status == 200
        assert await standing(house) == CredentialHealth()


async def test_an_upstream_that_says_no_is_in_order(house: House) -> None:
    """Bad requests and blocked prompts are the clients', however many."""
    for code in ("invalid_value", "moderation_blocked") * TRIP_AFTER:
        house.sim.faults.add(Fault("status", "openai", "submit", status=400, code=code))
        assert (await submit(house)).status == 400
    assert (await submit(house)).status == 200


async def test_a_broken_upstream_is_passed_over_for_the_routes_next_one(
    open_house: OpenHouse,
) -> None:
    """At first it is asked and the next one asked after it; once broken it costs no attempt."""
    async with open_house(Plan(routes=EITHER)) as house:
        await house.sim.refuse("openai")
        attempts = []
        for _ in range(TRIP_AFTER + 2):
            reply = await submit(house, "either")
            assert reply.status == 200
            task = await house.server.store.tasks.get(reply.json()["id"])
            assert task is not None
            assert task.upstream == "sim-kling"
            attempts.append(task.attempt)
        assert attempts == [2] * TRIP_AFTER + [1, 1]
        assert house.sim.renders("kling") == TRIP_AFTER + 2


async def test_an_upstream_that_cannot_be_reached_is_tried_with_one_key_only(
    house: House,
) -> None:
    """Its other keys lead to the same closed door, each after a time-out."""
    config = house.server.config
    upstream = config.upstreams[UPSTREAM]
    more = tuple(replace(upstream.credentials[0], name=name) for name in "abc")
    upstreams = {**config.upstreams, UPSTREAM: replace(upstream, credentials=more)}
    house.server.config = replace(config, upstreams=upstreams)
    await house.sim.refuse("openai")
    assert (await submit(house)).status == 502
    assert (await standing(house)).strikes == 1


async def submit_as(house: House, token: str, prompt: str = "a cat") -> int:
    headers = {"Authorization": f"Bearer {token}"}
    body = {"model": "sora-2", "prompt": prompt}
    return (await house.post("/v1/videos", json=body, headers=headers)).status


async def test_one_clients_server_errors_close_nothing_to_another(house: House) -> None:
    """A 500 that one request causes, sent ten times, is that client's; the other is served."""
    attacker, payer = [(await house.new_token(owner=name)).token for name in ("a", "b")]
    assert await submit_as(house, payer) == 200
    for _ in range(2 * TRIP_AFTER):
        house.sim.faults.add(Fault("status", "openai", "submit", status=500))
        assert await submit_as(house, attacker) == 200
    assert (await standing(house)).state == "well"
    assert [await submit_as(house, payer) for _ in range(3)] == [200] * 3


async def test_a_client_that_is_alone_closes_an_upstream_only_to_itself(house: House) -> None:
    """Another client that comes later is served at once, and its success opens the upstream."""
    attacker, payer = [(await house.new_token(owner=name)).token for name in ("a", "b")]
    for _ in range(TRIP_AFTER):
        house.sim.faults.add(Fault("status", "openai", "submit", status=500))
        assert await submit_as(house, attacker) == 200
    assert await submit_as(house, attacker) == 503
    assert await submit_as(house, payer) == 200
    assert await standing(house) == CredentialHealth()


async def test_server_errors_of_two_clients_close_an_upstream_to_all(house: House) -> None:
    one, two, three = [(await house.new_token(owner=name)).token for name in ("a", "b", "c")]
    assert await submit_as(house, three) == 200
    for token in [one] * TRIP_AFTER + [two]:
        house.sim.faults.add(Fault("status", "openai", "submit", status=500))
        assert await submit_as(house, token) == 200
    assert (await standing(house)).state == "broken"
    assert await submit_as(house, three) == 503


@pytest.mark.parametrize("service", ["openai", "kling", "jimeng"])
async def test_a_firewalls_page_about_one_prompt_takes_no_key_from_another_client(
    house: House, service: str
) -> None:
    """A 403 in HTML says nothing of the account; one with two clients' requests does."""
    model = {"openai": "sora-2", "kling": "kling-v2-6", "jimeng": "jimeng_t2v_v30"}[service]
    attacker, payer = [(await house.new_token(owner=name)).token for name in ("a", "b")]

    async def ask(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        body = {"model": model, "prompt": "<script>"}
        return (await house.post("/v1/videos", json=body, headers=headers)).status

    page = Fault("status", service, "submit", status=403, body="<html>blocked</html>")
    assert await ask(payer) == 200
    for _ in range(3):
        house.sim.faults.add(page)
        assert await ask(attacker) >= 400
    assert await ask(payer) == 200
    house.sim.faults.add(page)
    await ask(attacker)
    house.sim.faults.add(page)
    await ask(payer)
    assert await ask(payer) == 503
