"""Browsers: a preflight is answered before anybody is asked who they are, and a page may read
every reply meant for it, errors and videos included."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.refusals import DOORS, assert_quiet, assert_untouched, head_of, peer_of

APP = "https://app.example"
EVIL = "https://evil.example"
PREFLIGHT = {
    "Authorization": None,
    "Origin": APP,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path) -> Iterator[None]:
    yield
    assert_quiet(tmp_path)


@pytest.fixture
async def open_to_app(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house whose replies the pages of one origin may read."""
    async with open_house(Plan(sections=f'[cors]\norigins = ["{APP}"]')) as house:
        yield house


def granted(reply: Answer) -> str | None:
    return reply.headers.get("Access-Control-Allow-Origin")


async def test_a_preflight_needs_no_token_and_touches_nothing(open_to_app: House) -> None:
    """On every path, also those that are not there: the browser asks before it knows."""
    house = open_to_app
    paths = [door.submit for door in DOORS.values()]
    for path in [*paths, "/v1/videos/video_1/content", "/v1/nope"]:
        reply = await house.request("OPTIONS", path, headers=PREFLIGHT)
        assert (reply.status, reply.body, path) == (204, b"", path)
        assert granted(reply) == APP
        assert reply.headers["Access-Control-Allow-Methods"] == "GET, HEAD, POST, DELETE"
        asked = reply.headers["Access-Control-Allow-Headers"]
        assert asked == "authorization, content-type, x-stainless-os"
        assert reply.headers["Access-Control-Max-Age"] == "600"
        assert "Origin" in reply.headers["Vary"]
        assert reply.headers["X-Request-Id"]
        line = house.lines[-1]
        assert (line["status"], line["reason"], line["operation"]) == (204, "done", "-")
        assert "token" not in line
    await assert_untouched(house)


async def test_a_preflight_of_another_origin_or_method_is_refused(open_to_app: House) -> None:
    for changed in (
        {"Origin": EVIL},
        {"Origin": "null"},
        {"Access-Control-Request-Method": "PATCH"},
    ):
        reply = await open_to_app.request("OPTIONS", "/v1/videos", headers={**PREFLIGHT, **changed})
        assert reply.status == 403
        assert "Access-Control-Allow-Methods" not in reply.headers
        if "Origin" in changed:
            assert granted(reply) is None
        assert open_to_app.lines[-1]["status"] == 403


async def test_a_page_may_read_every_reply_meant_for_it(open_to_app: House) -> None:
    """Whatever its status; and what it needs of the headers is exposed."""
    house = open_to_app
    task_id = await house.completed()
    asked: list[tuple[str, str, dict[str, str | None], int]] = [
        ("GET", f"/v1/videos/{task_id}", {}, 200),
        ("GET", f"/v1/videos/{task_id}/content", {}, 200),
        ("GET", f"/v1/videos/{task_id}/content", {"Range": "bytes=0-1"}, 206),
        ("HEAD", f"/v1/videos/{task_id}/content", {}, 200),
        ("GET", "/v1/videos", {"Authorization": None}, 401),
        ("GET", f"/v1/videos/{task_id}/content", {"Authorization": None}, 401),
        ("GET", "/v1/videos/video_1", {}, 404),
        ("GET", "/v1/videos/video_1/content", {}, 404),
        ("GET", "/v1/nope", {}, 404),
        ("PUT", "/v1/videos", {}, 405),
        ("OPTIONS", "/v1/videos", {}, 204),
        ("POST", "/v1/videos", {"Content-Type": "text/plain"}, 400),
        ("POST", "/kling/v1/videos/text2video", {}, 400),
        ("POST", "/jimeng/", {}, 400),
    ]
    for method, path, headers, status in asked:
        reply = await house.request(method, path, headers={"Origin": APP, **headers})
        assert (reply.status, method, path) == (status, method, path)
        assert granted(reply) == APP, path
        assert reply.headers["Vary"] == "Origin", path
        exposed = reply.headers["Access-Control-Expose-Headers"].split(", ")
        assert {"x-request-id", "retry-after", "reelway-adjusted", "content-range"} <= set(exposed)
        assert "Access-Control-Allow-Credentials" not in reply.headers
        other = await house.request(method, path, headers={"Origin": EVIL, **headers})
        assert (other.status, granted(other)) == (status, None), path
        assert other.headers["Vary"] == "Origin", path
        plain = await house.request(method, path, headers=headers)
        assert (plain.status, granted(plain)) == (status, None), path


async def test_without_cors_in_the_config_no_page_reads_anything(house: House) -> None:
    reply = await house.request("OPTIONS", "/v1/videos", headers=PREFLIGHT)
    assert (reply.status, granted(reply)) == (403, None)
    reply = await house.get("/v1/videos", headers={"Origin": APP})
    assert (reply.status, granted(reply)) == (200, None)
    assert "Vary" not in reply.headers


async def test_an_origin_that_is_no_text_does_no_harm(open_to_app: House) -> None:
    async with peer_of(open_to_app) as peer:
        for origin in (b"\xff\xfe", b"https://app.example, https://evil.example", b""):
            head = head_of("GET", "/v1/models", **open_to_app.bearer).encode()
            peer.send(head.replace(b"\r\n\r\n", b"\r\nOrigin: " + origin + b"\r\n\r\n"))
            reply = await peer.answer()
            assert reply.status == 200
            assert "Access-Control-Allow-Origin" not in reply.headers
