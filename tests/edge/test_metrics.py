"""The metrics page of a running gateway says what has happened, and never waits for the store."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.model import HEALTHY, CredentialHealth
from proxy.sim import Fault
from proxy.sim.faults import Kind
from tests.rig.downloads import (
    OPENAI,
    PROMPT,
    SIZE,
    add,
    connected,
    content,
    fetch,
    some_work,
    told,
)
from tests.rig.eventually import eventually, read_until
from tests.rig.house import EMBEDDED, IMPATIENT, House, OpenHouse, Plan
from tests.rig.refusals import store_pid

WAIT_S = 20.0  # only a hang gets here
ROUNDED_S = 2e-6  # of sums of seconds, and a line's whole microseconds
PRICED = """
[[routes]]
model = "priced"
upstream = "sim-openai"
price = { per_second = "0.10" }
"""


async def page(house: House) -> dict[str, float]:
    """Each series by its name and labels, as written."""
    async with house.client.get(f"{house.server.admin_url}/metrics") as reply:
        assert reply.status == 200
        lines = (await reply.text()).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {key: float(value) for key, _, value in pairs}


async def grown(house: House, before: dict[str, float]) -> dict[str, float]:
    """What has been counted since, without how long things took and what goes on by itself."""
    after = await page(house)
    quiet = ("_seconds", "process_", "python_", "reelway_poll")
    return {
        key: round(value - before.get(key, 0.0), 6)
        for key, value in after.items()
        if value != before.get(key, 0.0) and not any(word in key for word in quiet)
    }


async def above_zero(house: House, series: str) -> None:
    await read_until(lambda: page(house), lambda found: found[series] > 0)


@asynccontextmanager
async def frozen_store(house: House) -> AsyncIterator[None]:
    pid = await store_pid(house)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def requests(operation: str, status: int = 200, reason: str = "done") -> str:
    labels = f'dialect="openai",operation="{operation}",reason="{reason}",status="{status}"'
    return f"reelway_requests_total{{{labels}}}"


async def test_a_task_s_whole_way_is_counted_once(open_house: OpenHouse) -> None:
    """Submit, stages, money, video: each in its family, with the names of the configuration."""
    async with open_house(Plan(routes=PRICED)) as house:
        before = await page(house)
        task_id = await house.completed("priced", PROMPT, seconds="4")
        await told(house, content(task_id))
        counted = await grown(house, before)
    assert counted.pop(requests("get")) >= 1  # however often it took to see the end
    counted.pop("reelway_connections", None)
    tiers = [key for key in counted if key.startswith("reelway_content_bytes_total")]
    assert sum(counted.pop(key) for key in tiers) == SIZE
    stage = 'reelway_task_stages_total{{stage="{}"}}'
    for passed in ("bound", "queued", "in_progress"):  # a fast render is seen in few of them
        counted.pop(stage.format(passed), None)
    assert counted == {
        requests("create"): 1,
        requests("content"): 1,
        'reelway_submits_total{credential="a",outcome="accepted",upstream="sim-openai"}': 1,
        stage.format("reserved"): 1,
        stage.format("sent"): 1,
        stage.format("completed"): 1,
        'reelway_money_total{currency="USD",kind="hold",upstream="-"}': 0.4,
        'reelway_money_total{currency="USD",kind="settle",upstream="sim-openai"}': 0.4,
    }


async def test_latency_is_measured_without_the_upstream_s(house: House) -> None:
    """What the provider takes to answer a submit is no time of ours."""
    before = await page(house)
    held = house.sim.faults.add(Fault("hold", service="openai", operation="submit"))
    asking = asyncio.create_task(house.create())
    await eventually(lambda: held.hits > 0)
    held_s = await some_work(house) / 1000 - ROUNDED_S
    held.release()
    await asking
    after = await page(house)

    def since(series: str) -> float:
        return after[series] - before.get(series, 0.0)

    of = 'dialect="openai",operation="create"'
    assert since(f"reelway_added_latency_seconds_count{{{of}}}") == 1
    whole, added = (
        since(f"reelway_{name}_seconds_sum{{{of}}}") for name in ("request", "added_latency")
    )
    assert whole - added >= held_s
    upstream = 'call="submit",upstream="sim-openai"'
    assert since(f"reelway_upstream_seconds_sum{{{upstream}}}") >= held_s


async def test_a_long_poll_adds_no_latency(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        task_id = await house.create()
        task = await house.server.store.tasks.get(task_id)
        assert task is not None
        assert task.upstream_id is not None
        asking = asyncio.create_task(house.get(f"/v1/videos/{task_id}?wait=60"))
        await eventually(lambda: house.server.parts.changes.waiters > 0)
        waited_s = await some_work(house) / 1000 - ROUNDED_S
        house.sim.finish(task.upstream_id)
        assert (await asking).json()["status"] == "completed"
        found = await page(house)
        of = 'dialect="openai",operation="get"'
        whole, added = (
            found[f"reelway_{name}_seconds_sum{{{of}}}"] for name in ("request", "added_latency")
        )
        assert whole - added >= waited_s
        line = await house.line(lambda line: line["operation"] == "get")
        assert float(str(line["wait_ms"])) >= waited_s * 1000


async def test_streams_and_their_bytes_are_seen_while_they_move(house: House) -> None:
    """A download of hours is no surprise at its end."""
    task_id = await house.completed(prompt="a cat size=30000000")
    before = await page(house)
    async with connected(house) as raw:
        await raw.send(content(task_id), house.bearer)
        await raw.some(2_000_000)
        found = await page(house)
        assert found["reelway_streams_open"] == 1
        assert found["reelway_connections"] >= 1
        tiers = [key for key in found if key.startswith("reelway_content_bytes_total")]
        assert sum(found[key] - before[key] for key in tiers) >= 2_000_000
        assert requests("content") not in found
    await eventually(lambda: house.server.parts.streams.total == 0)
    assert (await page(house))["reelway_streams_open"] == 0


async def test_heals_are_counted_and_those_given_up(house: House) -> None:
    task_id = await house.completed(OPENAI.model, PROMPT)
    healed, gave_up = (f'reelway_heals_total{{outcome="{word}"}}' for word in ("healed", "gave_up"))
    before = await page(house)
    add(house, OPENAI.fault("cut", at=200_000))
    assert (await fetch(house, content(task_id))).whole
    counted = await grown(house, before)
    assert counted[healed] == 1
    assert gave_up not in counted
    assert counted[requests("content", reason="healed")] == 1
    house.sim.faults.clear()
    add(
        house,
        OPENAI.fault("cut", at=200_000),
        OPENAI.fault("status", skip=1, status=404, times=None),
    )
    assert not (await fetch(house, content(task_id))).whole
    assert (await grown(house, before))[gave_up] == 1


async def test_limits_are_counted_by_kind(house: House) -> None:
    """Ours; a provider's own is none of them."""
    before = await page(house)
    made = await house.new_token(requests_per_minute=1)
    headers = {"Authorization": f"Bearer {made.token}"}
    for _ in range(3):
        await house.get("/v1/models", headers=headers)
    made = await house.new_token(max_body_bytes=10)
    headers = {"Authorization": f"Bearer {made.token}"}
    await house.post("/v1/videos", json={"prompt": "much too long"}, headers=headers)
    made = await house.new_token(max_in_flight=0)
    headers = {"Authorization": f"Bearer {made.token}"}
    await house.post("/v1/videos", json={"prompt": "a cat"}, headers=headers)
    house.sim.faults.add(Fault("status", service="openai", operation="submit", status=429))
    refused = await house.post("/v1/videos", json={"model": "sora-2", "prompt": "a cat"})
    assert refused.status == 429
    counted = await grown(house, before)
    limits = {key: value for key, value in counted.items() if "_limit_reached" in key}
    assert limits == {
        'reelway_limit_reached_total{limit="requests"}': 2,
        'reelway_limit_reached_total{limit="body"}': 1,
        'reelway_limit_reached_total{limit="in_flight"}': 1,
    }


async def test_credential_states_and_breakers_are_those_of_the_store(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        known = house.server.store.credentials
        series = 'reelway_credential_state{{credential="a",state="{}",upstream="sim-openai"}}'
        breaker = 'reelway_circuit_breaker_open{upstream="sim-openai"}'
        found = await page(house)
        assert found[series.format("ok")] == 1
        assert found[series.format("out")] == found[breaker] == 0
        assert series.format("broken") not in found
        late_ms = 2**42
        assert await known.swap(
            "sim-openai/a", HEALTHY, CredentialHealth("out", 1, late_ms, "1002")
        )
        assert await known.swap("sim-openai", HEALTHY, CredentialHealth("broken", 5, 0, "cut"))
        assert await known.swap("sim-kling/a", HEALTHY, CredentialHealth("cooling", 1, 0, "1303"))
        await house.server.parts.gauges.refresh()
        found = await page(house)
        assert found[series.format("out")] == 1
        assert found[series.format("ok")] == 0
        assert found[breaker] == 1  # until a trial has shown otherwise
        kling = series.replace("sim-openai", "sim-kling")
        assert found[kling.format("ok")] == 1  # its pause is over
        assert found['reelway_queue_length{upstream="sim-openai"}'] == 0


async def test_open_tasks_are_counted_in_the_store(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        for _ in range(3):
            await house.create()
        await house.server.parts.gauges.refresh()
        assert (await page(house))["reelway_tasks_open"] == 3
        await above_zero(house, "reelway_oldest_task_age_seconds")


async def test_the_oldest_task_is_none_as_soon_as_the_last_has_ended(open_house: OpenHouse) -> None:
    """Also of one whose end this worker has not seen."""
    async with open_house(Plan(manual=True)) as house:
        task_id = await house.create()
        oldest_tasks = house.server.parts.tracker.oldest_tasks
        await eventually(lambda: oldest_tasks.first() is not None)
        await house.server.parts.gauges.refresh()
        assert (await page(house))["reelway_oldest_task_age_seconds"] > 0
        task = await house.server.store.tasks.get(task_id)
        assert task is not None
        assert task.upstream_id is not None
        house.sim.finish(task.upstream_id)
        await house.finished(task_id)
        assert oldest_tasks.first() is None
        oldest_tasks.note(task_id, 0)  # as it would stand with a worker that has not seen the end
        await house.server.parts.gauges.refresh()
        found = await page(house)
        assert found["reelway_tasks_open"] == found["reelway_oldest_task_age_seconds"] == 0


async def test_a_reload_that_failed_is_seen_until_one_has_not(house: House) -> None:
    assert (await page(house))["reelway_config_reload_failed"] == 0
    text = house.config_path.read_text()
    house.config_path.write_text(text + "\nnonsense = 1\n")
    assert not house.server.reload().ok
    assert (await page(house))["reelway_config_reload_failed"] == 1
    house.config_path.write_text(text)
    assert house.server.reload().ok
    assert (await page(house))["reelway_config_reload_failed"] == 0


@EMBEDDED
async def test_a_killed_embedded_store_is_counted(house: House) -> None:
    pid = await store_pid(house)
    assert (await page(house))["reelway_store_restarts_total"] == 0
    os.kill(pid, signal.SIGKILL)
    await above_zero(house, "reelway_store_restarts_total")
    assert (await page(house))["reelway_store_restarts_total"] == 1


@IMPATIENT
async def test_a_store_that_does_not_answer_keeps_no_scrape_waiting(house: House) -> None:
    """The page says so, and says nothing of what it cannot know."""
    await house.create()
    await house.server.parts.gauges.refresh()
    assert (await page(house))["reelway_store_up"] == 1
    async with frozen_store(house):
        await house.server.parts.gauges.refresh()
        found = await page(house)
        assert found["reelway_store_up"] == 0
        gone = (
            "reelway_oldest_task_age",
            "reelway_tasks_open",
            "reelway_credential_state",
            "reelway_circuit_breaker_open",
            "reelway_queue",
            "reelway_store_full",
        )
        assert not [key for key in found if key.startswith(gone)]
        assert found[requests("create")] == 1
        await above_zero(house, "reelway_store_failures_total")
    async with asyncio.timeout(WAIT_S):
        while True:
            await house.server.parts.gauges.refresh()
            found = await page(house)
            if found["reelway_store_up"] == 1:
                break
    assert "reelway_tasks_open" in found


async def test_a_late_loop_is_seen(house: House) -> None:
    await above_zero(house, "reelway_loop_lag_seconds_count")


async def test_a_reload_brings_new_names_to_the_page(house: House) -> None:
    text = house.config_path.read_text()
    house.config_path.write_text(
        text.replace('name = "sim-jimeng"', 'name = "renamed"').replace(
            'upstream = "sim-jimeng"', 'upstream = "renamed"'
        )
    )
    assert house.server.reload().ok
    await house.server.parts.gauges.refresh()
    found = await page(house)
    assert found['reelway_queue_length{upstream="renamed"}'] == 0
    assert 'reelway_queue_length{upstream="sim-jimeng"}' not in found


@pytest.mark.parametrize("reason", ["refused", "unreachable", "unknown"])
async def test_submits_are_counted_by_what_came_of_them(house: House, reason: str) -> None:
    before = await page(house)
    if reason == "unreachable":
        await house.sim.refuse("openai")
    else:
        kind: Kind = "status" if reason == "refused" else "lost"
        house.sim.faults.add(Fault(kind, service="openai", operation="submit", status=400))
    await house.post("/v1/videos", json={"model": "sora-2", "prompt": "a cat"})
    counted = await grown(house, before)
    series = 'reelway_submits_total{{credential="a",outcome="{}",upstream="sim-openai"}}'
    found = {key for key in counted if key.startswith("reelway_submits_total")}
    assert found == {series.format(reason)}
