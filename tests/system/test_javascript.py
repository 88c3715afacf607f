"""JavaScript in front of the gateway: the pages' snippets as they are printed, and the official
`openai` package, unmodified, through everything it offers for videos."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from proxy.sim import Entry, Fault, pattern, pattern_sha256
from tests.rig.breaking_proxy import road
from tests.rig.downloads import TWO, Place, each_kind_of_place
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.receivers import allowing, receiving
from tests.system.front import replaced
from tests.system.node import JS, MODULES, node, sdk
from tests.tools.pages import ROOT, pages

CLIP = ROOT / "proxy" / "sim" / "assets" / "clip.mp4"

PICTURE = b"\x89PNG\r\n\x1a\n" + pattern(8, 700_001)  # above what the spool keeps in memory
MODELS = (("sora-2", "openai"), ("sora-2-on-kling", "kling"), ("sora-2-on-jimeng", "jimeng"))
CAT = {"model": "sora-2", "prompt": "a cat"}
LARGE = 24_000_000

# What each page's JavaScript leaves: a file, or the address that it prints.
LEFT = {
    "docs/clients/openai.md": "cat.mp4",
    "docs/clients/kling.md": "kling.mp4",
    "docs/clients/jimeng.md": None,
    "docs/clients/generic.md": None,
}


@pytest.fixture
async def held(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house whose renders stay queued."""
    async with open_house(Plan(manual=True)) as house:
        yield house


@pytest.fixture
async def brittle(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house that takes up a broken download once only."""
    async with open_house(Plan(limits="heal_attempts = 1")) as house:
        yield house


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "cat.png"
    path.write_bytes(PICTURE)
    return path


async def run(house: House, scenario: str, **given: object) -> Any:
    return await sdk(house.url, house.token, scenario, given)


def creates(house: House) -> list[tuple[object, object]]:
    """Status and reason of each of its creates."""
    return [
        (line["status"], line["reason"]) for line in house.lines if line["operation"] == "create"
    ]


# ---------------------------------------------------------------- the pages


def test_every_page_with_javascript_is_run() -> None:
    """And all of it is known by one name."""
    assert {a.name for a in pages() if a.blocks("js")} == set(LEFT)
    assert [a.name for a in pages() if a.blocks("javascript", "mjs", "ts", "typescript")] == []


@pytest.mark.parametrize("name", LEFT)
async def test_the_javascript_blocks_run_and_lead_to_the_video(
    house: House, tmp_path: Path, name: str
) -> None:
    [page] = [a for a in pages() if a.name == name]
    folder = tmp_path / "pasted"
    folder.mkdir()
    (folder / "node_modules").symlink_to(MODULES)
    script = folder / "snippet.mjs"
    given = {"https://video.example.com": house.url, "rw_…": house.token}
    script.write_text(replaced("\n".join(page.blocks("js")), given), encoding="utf-8")
    printed = await node(script)
    file = LEFT[name]
    if file is None:
        reply = await house.get(printed.strip().removeprefix(house.url), headers={})
        assert (reply.status, reply.body) == (200, CLIP.read_bytes())
    else:
        assert (folder / file).read_bytes() == CLIP.read_bytes()
    line = await house.line(lambda line: line["operation"] == "create")
    assert (line["status"], line["dialect"]) == (200, Path(name).stem)
    assert len(house.sim.log.select(operation="submit")) == 1


# ---------------------------------------------------------------- create, poll, download


@pytest.mark.parametrize(
    ("model", "service", "given", "adjusted"),
    [
        ("sora-2", "openai", ("4", "720x1280"), None),
        ("sora-2-on-kling", "kling", ("5", "720x1280"), "seconds=4>5"),
        (
            *("sora-2-on-jimeng", "jimeng", ("5", "704x1248")),
            "seconds=4>5,size=720x1280>704x1248",
        ),
    ],
)
async def test_sora_code_runs_on_every_provider(
    house: House, model: str, service: str, given: tuple[str, str], adjusted: str | None
) -> None:
    """Created, polled at the pace the answers ask for, and streamed whole."""
    prompt = "A calico cat 千军万马, size=1500000"
    wanted = {"model": model, "prompt": prompt, "seconds": "4", "size": "720x1280"}
    told = await run(house, "life", wanted=wanted)
    made, ended = told["made"], told["ended"]
    assert (made["object"], made["status"], made["progress"]) == ("video", "queued", 0)
    assert (made["seconds"], made["size"], told["adjusted"]) == (*given, adjusted)
    assert (ended["id"], ended["status"], ended["progress"]) == (made["id"], "completed", 100)
    assert (ended["model"], ended["prompt"], ended["error"]) == (model, prompt, None)
    assert ended["created_at"] <= ended["completed_at"] < ended["expires_at"]
    assert told["file"] == {
        "bytes": 1_500_000,
        "sha256": pattern_sha256(1_500_000),
        "type": "video/mp4",
        "length": 1_500_000,
    }
    assert (house.sim.submits(service), house.sim.renders(service)) == (1, 1)


async def test_a_render_that_fails_tells_why(house: House) -> None:
    video = await run(house, "ended", wanted={**CAT, "prompt": "fail-later"})
    assert (video["status"], video["error"]["code"]) == ("failed", "upstream_error")
    assert video["error"]["message"]


async def test_variants_are_asked_for_by_name(house: House) -> None:
    task_id = await house.completed()
    variants = ["video", "thumbnail", "spritesheet"]
    told = await run(house, "variants", id=task_id, variants=variants)
    assert told == {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


# ---------------------------------------------------------------- what there is


async def test_the_list_is_walked_page_by_page_in_both_directions(held: House) -> None:
    made = [await held.create(prompt=f"cat {number}") for number in range(5)]
    told = await run(held, "pages", query={"limit": 2})
    newest = made[::-1]
    assert told == {"ids": newest, "pages": [newest[:2], newest[2:4], newest[4:]]}
    told = await run(held, "pages", query={"limit": 3, "order": "asc", "after": made[0]})
    assert told == {"ids": made[1:], "pages": [made[1:4], made[4:]]}


async def test_a_deleted_video_is_gone_at_once(held: House) -> None:
    task_id = await held.create()
    told = await run(held, "remove", id=task_id)
    assert told["told"] == {"id": task_id, "deleted": True, "object": "video.deleted"}
    assert told["cancel"] in ("stopped", "will_finish", "unknown")
    assert (told["afterwards"]["name"], told["afterwards"]["code"]) == (
        "NotFoundError",
        "not_found",
    )


async def test_models_and_quotes_come_through_the_clients_own_get_and_post(house: House) -> None:
    told = await run(house, "models")
    assert set(told["ids"]) >= {model for model, _ in MODELS}
    assert (told["one"]["object"], told["one"]["id"]) == ("model", told["ids"][0])
    quote = await run(house, "quote", wanted={**CAT, "model": "sora-2-on-kling", "seconds": "4"})
    assert (quote["seconds"], quote["adjusted"]) == (5, ["seconds=4>5"])
    assert house.sim.submits("kling") == 0


async def test_the_events_are_read_as_one_of_the_packages_streams(house: House) -> None:
    """It ends by itself, after the end of the render."""
    seen = await run(house, "events", wanted=CAT)
    assert seen[-1] == [True, "completed"]
    assert all(is_it for is_it, _ in seen)


# ---------------------------------------------------------------- pictures and films


def _file_of(entry: Entry) -> tuple[int, str]:
    [upload] = entry.uploads
    return upload.size, upload.sha256


@pytest.mark.parametrize(("model", "service"), MODELS)
async def test_every_way_to_give_a_picture_arrives_byte_for_byte(
    held: House, picture: Path, model: str, service: str
) -> None:
    """As a File, a ReadStream, bytes, a fetched answer, and a data URL in a form's field."""
    ids = await run(held, "uploads", model=model, path=str(picture))
    assert list(ids) == ["file", "stream", "buffer", "response", "data_url"]
    entries = {entry.task_id: entry for entry in held.sim.log.select(service, "submit")}
    for way, task_id in ids.items():
        task = await held.server.store.tasks.get(task_id)
        assert task is not None
        whole = (len(PICTURE), hashlib.sha256(PICTURE).hexdigest())
        assert _file_of(entries[task.upstream_id]) == whole, way
    assert held.sim.renders(service) == len(ids)


async def test_remix_edit_and_extend_take_our_ids_and_files(house: House, picture: Path) -> None:
    source = await house.completed(seconds="8", size="1280x720")
    upstream_id = house.sim.log.select("openai", "submit")[0].task_id
    told = await run(house, "derive", id=source, path=str(picture))
    assert {name: video["status"] for name, video in told.items()} == dict.fromkeys(
        ("remix", "edit", "edit_of_file", "extend"), "queued"
    )
    assert len({video["id"] for video in told.values()}) == 4
    assert told["remix"]["remixed_from_video_id"] == source
    [remix] = house.sim.log.select("openai", "remix")
    assert remix.target == f"/v1/videos/{upstream_id}/remix"
    by_id, by_file = house.sim.log.select("openai", "edit")
    [extend] = house.sim.log.select("openai", "extend")
    assert by_id.body["video"] == extend.body["video"] == {"id": upstream_id}
    assert _file_of(by_file) == (len(PICTURE), hashlib.sha256(PICTURE).hexdigest())
    assert house.sim.renders("openai") == 5


# ---------------------------------------------------------------- errors

_BAD = ("BadRequestError", 400, "invalid_request_error")
_STRANGER = ("AuthenticationError", 401, "authentication_error", "invalid_api_key", None)
REFUSED = {
    "prompt": (*_BAD, "invalid_value", "prompt"),
    "seconds": (*_BAD, "invalid_value", "seconds"),
    "model": ("NotFoundError", 404, "invalid_request_error", "model_not_found", "model"),
    "moderation": (*_BAD, "moderation_blocked", None),
    "missing": ("NotFoundError", 404, "invalid_request_error", "not_found", None),
    "variant": (*_BAD, "invalid_value", "variant"),
    "path": ("NotFoundError", 404, "invalid_request_error", "endpoint_not_found", None),
    "key": _STRANGER,
    "download_key": _STRANGER,
}


async def test_every_refusal_is_the_packages_own_error(house: House) -> None:
    """Its class, `code`, `param` and `type`, and the id under which we know it."""
    told = await run(house, "refusals", id=await house.completed())
    fields = ("name", "status", "type", "code", "param")
    assert {name: tuple(error[field] for field in fields) for name, error in told.items()} == (
        REFUSED
    )
    for name, error in told.items():
        line = await house.line(lambda line: line["request_id"] == error["requestID"])  # noqa: B023
        assert line["status"] == error["status"], name
    assert house.sim.renders("openai") == 1


async def test_a_rate_limit_is_the_packages_own_error(house: House) -> None:
    house.sim.faults.add(Fault("status", "openai", "submit", status=429, retry_after="1"))
    error = await run(house, "refused", wanted=CAT, options={"maxRetries": 0})
    assert (error["name"], error["status"]) == ("RateLimitError", 429)
    assert house.sim.renders("openai") == 0


async def test_an_upstream_that_is_down_is_a_server_error(house: House) -> None:
    await house.sim.refuse("openai")
    error = await run(house, "refused", wanted=CAT, options={"maxRetries": 0})
    assert (error["name"], error["status"]) == ("InternalServerError", 502)
    assert error["code"] == "upstream_unreachable"
    assert house.sim.openai_url not in json.dumps(error)


# ---------------------------------------------------------------- its retries


async def test_a_rate_limit_is_retried_into_one_render(house: House) -> None:
    house.sim.faults.add(Fault("status", "openai", "submit", status=429, retry_after="1"))
    made = await run(house, "create", wanted=CAT)
    assert made["status"] == "queued"
    await house.line(lambda _: len(creates(house)) > 1)
    assert [status for status, _ in creates(house)] == [429, 200]
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (2, 1)


@pytest.mark.parametrize("with_file", [False, True], ids=["fields", "file"])
@pytest.mark.parametrize(
    "breaks", [(0,), (60,), (0, 0)], ids=["no answer", "half an answer", "no answer twice"]
)
async def test_an_answer_that_never_arrives_is_the_answer_to_the_retry(
    house: House, picture: Path, breaks: tuple[int, ...], with_file: bool
) -> None:
    """Each retry is a form with a boundary of its own; what it asks for is the same."""
    async with road(house.url, *breaks) as way:
        if with_file:
            given = {"wanted": CAT, "path": str(picture)}
            made = await sdk(way.url, house.token, "create_from_file", given)
        else:
            made = await sdk(way.url, house.token, "create", {"wanted": CAT})
        await house.line(lambda _: len(creates(house)) > len(breaks))
        assert way.connections == len(breaks) + 1
    assert creates(house) == [(200, "done")] * (len(breaks) + 1)
    assert {line["task_id"] for line in house.lines} == {made["id"]}
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)


async def test_a_stream_that_its_program_sends_again_is_one_render(
    house: House, picture: Path
) -> None:
    """The package repeats no stream: the key is what tells the two requests for one."""
    async with road(house.url, 0) as way:
        given = {"wanted": CAT, "path": str(picture), "key": "order-18"}
        told = await sdk(way.url, house.token, "create_from_stream", given)
        assert way.connections == 2
    assert told["first"]["name"] == "APIConnectionError"
    await house.line(lambda _: len(creates(house)) == 2)
    assert {line["task_id"] for line in house.lines} == {told["second"]["id"]}
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)


async def test_a_client_that_lost_patience_gets_the_render_it_began(house: House) -> None:
    """Its first request has timed out and the upstream is still thinking."""
    hold = house.sim.faults.add(Fault("hold", "openai", "submit"))
    async with road(house.url) as way:
        call = asyncio.create_task(
            sdk(way.url, house.token, "create", {"wanted": CAT, "options": {"timeout": 1000}})
        )
        await house.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
        await way.reached(2)
        hold.release()
        made = await call
    await house.line(lambda line: line["status"] == 200)
    assert [reason for _, reason in creates(house)] == ["client_gone", "done"]
    assert {line["task_id"] for line in house.lines} == {made["id"]}
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)


async def test_a_key_of_ones_own_is_one_render_for_a_day(house: House) -> None:
    told = await run(house, "same_key", wanted=CAT, key="order-17")
    assert told["first"] == told["again"]
    assert told["replayed"] == "true"
    assert (told["other"]["name"], told["other"]["status"]) == ("UnprocessableEntityError", 422)
    assert house.sim.renders("openai") == 1


# ---------------------------------------------------------------- downloads that end early


@each_kind_of_place
async def test_a_download_that_is_aborted_is_let_go_upstream(house: House, place: Place) -> None:
    task_id = await house.completed(place.model, f"a cat size={LARGE}")
    house.sim.faults.add(place.fault("stall", at=1_000_000))
    told = await run(house, "abort", id=task_id, enough=900_000)
    assert told["name"] == "AbortError"
    assert 900_000 <= told["bytes"] <= 1_000_000
    line = await house.line(lambda line: line["operation"] == "content")
    assert (line["status"], line["reason"]) == (200, "client_gone")
    entry = await house.sim.wait_for(
        lambda e: (e.service, e.operation) == (place.service, place.operation) and e.aborted
    )
    assert entry.bytes_sent == 1_000_000
    assert house.server.parts.streams.total == 0


@pytest.mark.parametrize("name", TWO)
async def test_a_file_that_cannot_be_finished_never_reads_as_whole(
    brittle: House, name: str
) -> None:
    house, place = brittle, TWO[name]
    task_id = await house.completed(place.model, "a cat size=700001")
    for fault in (place.fault("cut", at=150_000), place.fault("cut", at=0)):
        house.sim.faults.add(fault)
    told = await run(house, "cut", id=task_id)
    assert told["bytes"] <= 150_000
    line = await house.line(lambda line: line["operation"] == "content")
    assert (line["reason"], line["bytes"]) == ("upstream_short", 150_000)


# ---------------------------------------------------------------- other ways in


async def test_azure_clients_send_their_key_their_way(house: House) -> None:
    made = await run(house, "azure", wanted=CAT)
    assert (made["status"], made["model"]) == ("queued", "sora-2")
    [entry] = house.sim.log.select("openai", "submit")
    assert "api-key" not in entry.headers
    assert house.token not in str(entry.headers)


async def test_a_key_may_come_from_a_function(house: House) -> None:
    keys = ["rw_aaaaaaaaaaaaaaaa_" + "A" * 43, house.token]
    told = await run(house, "rotated", wanted=CAT, keys=keys)
    assert told["first"]["name"] == "AuthenticationError"
    assert told["second"]["status"] == "queued"
    assert house.sim.renders("openai") == 1


async def test_our_webhooks_are_unwrapped_and_no_others(open_house: OpenHouse) -> None:
    """Another body, another key's secret and an old time are refused."""
    async with (
        receiving() as receiver,
        open_house(Plan(sections=allowing(receiver))) as house,
    ):
        task_id = await house.create(webhook=receiver.url)
        [told] = await receiver.heard(1)
        headers, body = dict(told.headers), told.body.decode()
        other = await house.new_token()
        old = {**headers, "webhook-timestamp": str(int(time.time()) - 400)}
        event = await run(
            house,
            "webhook",
            body=body,
            headers=headers,
            secret=house.made.webhook_secret,
            wrong=[{"body": body + " "}, {"secret": other.webhook_secret}, {"headers": old}],
        )
    assert (event["type"], event["data"], event["id"]) == (
        "video.completed",
        {"id": task_id},
        told.id,
    )


async def test_klings_jwt_is_made_by_nodes_own_crypto(brittle: House) -> None:
    """And the file is taken up again, with a Range, where it broke."""
    house, file = brittle, TWO["kling"]
    for fault in (file.fault("cut", at=150_000), file.fault("cut", at=0)):
        house.sim.faults.add(fault)
    wanted = {"model_name": "kling-v2-6", "prompt": "a cat size=700001", "duration": "5"}
    keys = (house.made.record.id, house.made.secret_key)
    printed = await node(JS / "kling.mjs", f"{house.url}/kling", *keys, json.dumps(wanted))
    told = json.loads(printed)
    assert (told["status"], told["bytes"], told["requests"]) == ("succeed", 700_001, 2)
    assert told["sha256"] == pattern_sha256(700_001)
    assert (house.sim.submits("kling"), house.sim.renders("kling")) == (1, 1)
    tasks = await house.get("/v1/videos")
    assert len(tasks.json()["data"]) == 1
