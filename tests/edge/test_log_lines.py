"""What a running gateway writes down of a request, and what it never does; what of it the client
and the upstream hear."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.providers.openai import OpenAI
from proxy.server.bootstrap import signing_secrets
from proxy.signing import sign_probe
from proxy.sim import Fault
from proxy.telemetry.metric_definitions import STORE_FAILURES
from tests.edge.test_metrics import frozen_store
from tests.rig.downloads import PLACES, content, some_work, told
from tests.rig.eventually import eventually
from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.refusals import log_of as lines_of
from tests.rig.refusals import until_logged

TRUNCATED_MS = 0.001  # a line tells whole microseconds
ROUNDED_MS = 0.1  # a header tenths of a millisecond
APP = "https://app.example"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PROMPT = "zebras in pyjamas"


async def line_of(house: House, reply: Answer) -> Mapping[str, Any]:
    request_id = reply.headers["X-Request-Id"]
    return await house.line(lambda line: line["request_id"] == request_id)


def phases(reply: Answer) -> dict[str, float]:
    parts = reply.headers["Server-Timing"].split(", ")
    return {name: float(ms) for name, ms in (part.split(";dur=") for part in parts)}


def stands_in(task: asyncio.Task[Any], name: str) -> bool:
    """Whether it waits somewhere inside the coroutine function of this name."""
    at: object = task.get_coro()
    while at is not None:
        if getattr(at, "__name__", "") == name:
            return True
        at = getattr(at, "cr_await", None)
    return False


# ---------------------------------------------------------------- how long it took


async def test_a_submit_s_line_and_reply_say_who_was_waited_for(house: House) -> None:
    held = house.sim.faults.add(Fault("hold", service="openai", operation="submit"))
    asking = asyncio.create_task(house.post("/v1/videos", json={"prompt": PROMPT}))
    await eventually(lambda: held.hits > 0)
    held_ms = await some_work(house)
    held.release()
    reply = await asking
    line = await line_of(house, reply)
    assert {"auth_ms", "body_ms", "upstream_ms"} <= set(line)
    assert not {"wait_ms", "first_byte_ms"} & set(line)
    assert held_ms - TRUNCATED_MS <= line["upstream_ms"] <= line["ms"]
    assert line["auth_ms"] + line["body_ms"] + line["upstream_ms"] <= line["ms"]
    assert (line["upstream"], line["credential"], line["route"]) == ("sim-openai", "a", "sora-2")
    told_ = phases(reply)
    assert list(told_) == ["auth", "body", "upstream", "total"]
    assert held_ms - ROUNDED_MS <= told_["upstream"] <= told_["total"] <= line["ms"] + ROUNDED_MS


async def test_a_poll_s_line_has_only_what_a_poll_does(house: House) -> None:
    task_id = await house.create()
    reply = await house.get(f"/v1/videos/{task_id}")
    line = await line_of(house, reply)
    timed = {name for name in line if name == "ms" or name.endswith("_ms")}
    assert timed == {"ms", "auth_ms"}
    assert line["task_id"] == task_id


async def test_a_download_s_line_and_head_say_who_was_waited_for(house: House) -> None:
    for place in PLACES.values():
        task_id = await house.completed(place.model, PROMPT)
        reply, line = await told(house, content(task_id))
        assert line["bytes"] == len(reply.body)
        first, upstream = float(str(line["first_byte_ms"])), float(str(line["upstream_ms"]))
        assert 0 < upstream <= first <= float(str(line["ms"]))
        names = [part.partition(";")[0] for part in reply.headers["Server-Timing"].split(", ")]
        assert names == ["auth", "upstream", "total"]


async def test_whoever_asks_again_waits_for_the_first_one_s_upstream(house: House) -> None:
    """The second request asks nobody, and yet it is not the gateway that was slow."""
    held = house.sim.faults.add(Fault("hold", service="openai", operation="submit"))
    key = {"Idempotency-Key": "once"}
    body = {"prompt": PROMPT}
    both = [asyncio.create_task(house.post("/v1/videos", json=body, headers=key))]
    await eventually(lambda: held.hits > 0)
    both.append(asyncio.create_task(house.post("/v1/videos", json=body, headers=key)))
    await eventually(lambda: any(stands_in(task, "_earlier") for task in asyncio.all_tasks()))
    held_ms = await some_work(house)
    held.release()
    first, second = [await asked for asked in both]
    assert second.headers["idempotent-replayed"] == "true"
    assert first.json()["id"] == second.json()["id"]
    line = await line_of(house, second)
    assert line["upstream_ms"] >= held_ms - TRUNCATED_MS
    assert phases(second)["upstream"] >= held_ms - ROUNDED_MS


async def test_pages_of_a_granted_origin_may_read_the_timing(open_house: OpenHouse) -> None:
    async with open_house(Plan(sections=f'[cors]\norigins = ["{APP}"]')) as house:
        body = {"prompt": PROMPT}
        for origin, granted in ((APP, APP), ("https://evil.example", None), (None, None)):
            reply = await house.post("/v1/videos", json=body, headers={"Origin": origin})
            assert "Server-Timing" in reply.headers
            assert reply.headers.get("Timing-Allow-Origin") == granted
            exposed = reply.headers.get("Access-Control-Expose-Headers", "").split(", ")
            assert ("server-timing" in exposed) is (granted is not None)
            task_id = reply.json()["id"]
            await house.finished(task_id)
            video = await house.get(content(task_id), headers={"Origin": origin})
            assert "Server-Timing" in video.headers
            assert video.headers.get("Timing-Allow-Origin") == granted


# ---------------------------------------------------------------- trace context


async def test_trace_context_is_handed_on_and_never_made_up(house: House) -> None:
    """By every request that a client's own request causes."""
    config = house.server.config
    stopping = OpenAI().options.model_validate({"server": "vllm-omni"})  # its DELETE stops a render
    upstream = replace(config.upstreams["sim-openai"], options=stopping)
    house.server.config = replace(config, upstreams={**config.upstreams, "sim-openai": upstream})
    body = '{"object": "video.deleted", "deleted": true}'
    asked: list[tuple[str, Mapping[str, str]]] = []
    trace = {"traceparent": PARENT, "tracestate": "vendor=1"}
    for headers in (trace, {}):
        house.sim.log.clear()
        reply = await house.post("/v1/videos", json={"prompt": PROMPT}, headers=headers)
        fault = Fault("status", service="openai", operation="delete", status=200, body=body)
        house.sim.faults.add(fault)
        await house.request("DELETE", f"/v1/videos/{reply.json()['id']}", headers=headers)
        task_id = await house.completed()
        await house.get(content(task_id), headers=headers)
        for operation in ("submit", "delete", "content"):
            entry = house.sim.log.select("openai", operation)[0]
            found = {name: entry.headers[name] for name in trace if name in entry.headers}
            asked.append((operation, found))
    operations = ("submit", "delete", "content")
    assert asked == [*((name, trace) for name in operations), *((name, {}) for name in operations)]


# ---------------------------------------------------------------- what is never written down


def log_of(folder: Path) -> str:
    return (folder / "gateway.log").read_text()


async def mischief(house: House) -> list[str]:
    """Everything that goes wrong in a day; returns what must not be found in the log."""
    task_id = await house.completed(prompt=PROMPT)
    made = await house.new_token()
    config = house.server.config
    (own,) = {c.secret_key for c in config.upstreams["sim-kling"].credentials}
    probe = sign_probe(signing_secrets(config)[0], 1)
    assert own is not None
    generation = (await house.get(f"/v1/video/generations/{task_id}")).json()
    signature = generation["url"].partition("sig=")[2].partition("&")[0]
    assert len(signature) > 20
    await house.get(generation["url"].removeprefix(house.url))
    secret_parts = [house.token.rpartition("_")[2], made.token.rpartition("_")[2], made.secret_key]
    for path in (
        f"/v1/videos/{made.token}",
        f"/v1/{made.token}/videos",
        f"/v1/videos?key={made.token}",
        f"/v1/videos/{task_id}/content?exp=1&sig={signature}",
        f"/callbacks/{task_id}/c2lnbmF0dXJlc2lnbmF0dXJl",
        f"/probe/1/{probe}",
        f"/v1/videos/{own}",
        f"/v1/models/{own}",
        f"/v1/videos/{own}",  # once more: what was worked out of a path is remembered
    ):
        await house.get(path)
    for authorization in (f"Bearer {made.token}x", f"Token {made.token}", "Bearer " + "Qx9" * 30):
        await house.get("/v1/models", headers={"Authorization": authorization})
    faults = [
        Fault("status", service="openai", operation="submit", status=400, message=f"no: {PROMPT}!"),
        Fault("status", service="openai", operation="submit", status=401, message="key sk-sim"),
        Fault("malformed", service="openai", operation="submit", body=f'{{"prompt": "{PROMPT}'),
        Fault("lost", service="openai", operation="submit"),
    ]
    for fault in faults:
        house.sim.faults.add(fault)
        await house.post("/v1/videos", json={"model": "sora-2", "prompt": PROMPT})
        await house.server.store.credentials.reset("sim-openai/a")
        await house.server.store.credentials.reset("sim-openai")
    await house.post(
        "/v1/videos", data=f'{{"prompt": "{PROMPT}', headers={"Content-Type": "application/json"}
    )
    house.server.access_log.flush()
    return [*secret_parts, own, probe, signature, "c2lnbmF0dXJl", "Qx9Qx9Qx9Qx9"]


async def test_no_secret_and_no_prompt_gets_into_the_log(house: House, tmp_path: Path) -> None:
    hidden = await mischief(house)
    text = log_of(tmp_path)
    assert len(text.splitlines()) > 15
    for line in text.splitlines():
        json.loads(line)
    for part in (*hidden, PROMPT, "zebras"):
        assert part not in text, part


async def test_prompts_are_there_for_who_asks_for_them(
    open_house: OpenHouse, tmp_path: Path
) -> None:
    """And secrets are not."""
    async with open_house(Plan(sections="[logs]\nprompts = true")) as house:
        hidden = await mischief(house)
        text = log_of(tmp_path)
    lines = [json.loads(line) for line in text.splitlines()]
    submits = [line for line in lines if line.get("operation") == "create" and "task_id" in line]
    assert {line["prompt"] for line in submits} == {PROMPT}
    assert f"no: {PROMPT}!" in text
    for part in hidden:
        assert part not in text, part


async def test_a_reload_changes_what_is_logged(house: House, tmp_path: Path) -> None:
    await house.get("/v1/models")
    house.server.access_log.flush()
    before = log_of(tmp_path).count('"request"')
    text = house.config_path.read_text()
    house.config_path.write_text(text + '\n[logs]\nlevel = "error"\n')
    assert house.server.reload().ok
    await house.get("/v1/models")
    house.server.access_log.flush()
    assert log_of(tmp_path).count('"request"') == before > 0


# ---------------------------------------------------------------- who was not let in


async def test_a_401_s_line_says_why_and_whose_key_it_was(house: House) -> None:
    """Its client hears less: a wrong secret and an unknown key read the same."""
    mine, other = house.made, await house.new_token()
    wrong = f"{mine.token.rpartition('_')[0]}_{other.token.rpartition('_')[2]}"
    nobodys = other.token.replace(other.record.id, other.record.id[::-1])
    asked = {
        None: ("missing", None),
        "Bearer sk-of-somebody-else": ("malformed", None),
        f"Bearer {nobodys}": ("unknown", None),
        f"Bearer {wrong}": ("unknown", mine.record.id),
    }
    told = {}
    for value, (fault, token_id) in asked.items():
        reply = await house.get("/v1/models", headers={"Authorization": value})
        line = await line_of(house, reply)
        assert (reply.status, line["fault"], line.get("claimed")) == (401, fault, token_id)
        told[value] = reply.json()["error"]["message"]
    assert told[f"Bearer {nobodys}"] == told[f"Bearer {wrong}"]


async def test_nor_is_a_good_reply_s_line_any_longer(house: House) -> None:
    reply = await house.get("/v1/models")
    assert "fault" not in await line_of(house, reply)


# ---------------------------------------------------------------- troubles that repeat


async def test_a_store_that_is_down_is_logged_once_by_each_part_and_its_return_too(
    open_house: OpenHouse,
) -> None:
    """Whatever is retried meanwhile, and however often: an operator reads a few lines."""
    async with open_house(Plan(manual=True, redis="timeout_s = 0.2")) as house:
        await house.create()
        failures = house.server.metrics.counter(STORE_FAILURES)
        async with frozen_store(house):
            await eventually(lambda: failures.n >= 25)
        parts = ("tracker", "queue", "webhooks")
        for part in parts:
            over = await until_logged(house, "store reachable again", part=part)
            assert over["seconds"] > 0
        lines = lines_of(house)
        down = Counter(line["part"] for line in lines if line["event"] == "store unreachable")
        back = Counter(line["part"] for line in lines if line["event"] == "store reachable again")
        assert set(down) == set(parts)
        assert down == back, "each part says once that it is down, and once that it is over"
        assert sum(down.values()) * 3 < failures.n
        others = Counter(
            line["event"]
            for line in lines
            if line["level"] in ("warning", "error") and "part" not in line
        )
        assert max(others.values(), default=0) <= 1, others


async def test_lines_about_a_download_name_its_request_and_its_task(house: House) -> None:
    """A line that cannot be joined to a request helps nobody."""
    task_id = await house.completed()
    house.sim.faults.add(Fault("lost", service="openai", operation="content", times=2))
    reply = await house.get(content(task_id))
    line = await until_logged(house, "opening failed", task_id=task_id)
    assert line["request_id"] == reply.headers["X-Request-Id"]
