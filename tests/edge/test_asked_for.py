"""Through the whole house: what is rendered is what a client asked for, whatever it called it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest

from proxy.model import DialectName
from tests.rig.house import House
from tests.rig.refusals import DOORS, JSON, assert_untouched

FIRST, LAST = "https://pics.example/first.jpg", "https://pics.example/last.jpg"
JPEG64 = base64.b64encode(b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01").decode()

Case = tuple[DialectName, str, dict[str, object], str, dict[str, object]]
ASKED: Mapping[str, Case] = {
    "a first frame by another name": (
        "openai",
        "sora-2-on-kling",
        {"image_url": {"url": FIRST}, "duration_seconds": "9.5s"},
        "/v1/videos/image2video",
        {"image": FIRST, "duration": "10"},
    ),
    "two pictures with their roles": (
        "openai",
        "sora-2-on-kling",
        {"images": [LAST, FIRST], "image_roles": ["last_frame", "first_frame"]},
        "/v1/videos/image2video",
        {"image": FIRST, "image_tail": LAST},
    ),
    "a shape and a length by other names": (
        "generic",
        "sora-2-on-kling",
        {"ratio": "9:16", "metadata": {"Duration": 10}},
        "/v1/videos/text2video",
        {"aspect_ratio": "9:16", "duration": "10"},
    ),
    "frames of another rate": (
        "generic",
        "sora-2-on-jimeng",
        {"num_frames": 161, "fps": 16, "orientation": "portrait"},
        "/",
        {"frames": 241, "aspect_ratio": "9:16"},
    ),
    "first and last frame elsewhere": (
        "openai",
        "sora-2-on-jimeng",
        {"input_reference": [FIRST, LAST]},
        "/",
        {"image_urls": [FIRST, LAST], "req_key": "jimeng_i2v_first_tail_v30"},
    ),
    "a Kling client's other names": (
        "kling",
        "kling-v2-6",
        {"first_frame": FIRST, "seconds": "10", "cfg_scale": 0},
        "/v1/videos/image2video",
        {"image": FIRST, "duration": "10", "cfg_scale": 0},
    ),
    "a Jimeng client's other names": (
        "jimeng",
        "jimeng_t2v_v30",
        {"metadata": {"image": FIRST}, "duration": "10s"},
        "/",
        {"image_urls": [FIRST], "frames": 241},
    ),
}


@pytest.mark.parametrize("name", ASKED)
async def test_one_render_is_made_and_it_is_what_was_asked_for(house: House, name: str) -> None:
    dialect, model, fields, path, expected = ASKED[name]
    door = DOORS[dialect]
    body = json.dumps(door.body(**{**fields, door.model_field: model})).encode()
    reply = await house.post(door.submit, data=body, headers=JSON)
    assert reply.status == 200, reply.body
    (entry,) = [entry for entry in house.sim.log.entries if entry.operation == "submit"]
    assert entry.target.partition("?")[0] == path
    assert {key: entry.body.get(key) for key in expected} == expected


REFUSED: Mapping[str, tuple[dict[str, object], str]] = {
    "two pictures without roles": ({"images": [FIRST, LAST]}, "images"),
    "a picture under a name nobody knows": ({"cover": {"art": FIRST}}, "cover.art"),
    "a picture in metadata": (
        {"metadata": {"notes": [f"data:image/png;base64,{JPEG64}"]}},
        "metadata.notes",
    ),
    "a sound": ({"soundtrack": "https://cdn.example/a"}, "soundtrack"),
    "references": ({"reference_images": [FIRST]}, "reference_images"),
    "two lengths": ({"seconds": 4, "n_seconds": 60}, "n_seconds"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("model", ["sora-2", "sora-2-on-kling", "sora-2-on-jimeng"])
async def test_what_nobody_would_render_is_refused_and_nothing_is_made(
    house: House, name: str, model: str
) -> None:
    fields, param = REFUSED[name]
    for dialect in ("openai", "generic"):
        door = DOORS[dialect]
        body = json.dumps({"model": model, "prompt": "a cat", **fields}).encode()
        reply = await house.post(door.submit, data=body, headers=JSON)
        error = json.loads(reply.body)["error"]
        assert (reply.status, error["param"]) == (400, param)
    await assert_untouched(house)


async def test_a_completed_video_has_a_link_that_needs_no_key(house: House) -> None:
    task_id = await house.create()
    video = json.loads((await house.get(f"/v1/videos/{task_id}?wait=30")).body)
    assert video["status"] == "completed"
    listed = json.loads((await house.get("/v1/videos")).body)["data"]
    assert [each["url"] for each in listed] == [video["url"]]
    async with house.client.get(video["url"]) as reply:
        assert reply.status == 200
        assert len(await reply.read()) > 1000
