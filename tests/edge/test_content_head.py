"""The head of a download: what HEAD costs, which headers cross, which result is meant."""

from __future__ import annotations

import asyncio

import pytest

from proxy.sim import Fault, pattern
from tests.rig.downloads import KLING, OPENAI, PLACES, PROMPT, SIZE, TWO, add, content, fetch, told
from tests.rig.house import House

# Every header a download may carry; a reply has nothing else.
ALLOWED = {
    "accept-ranges",
    "cache-control",
    "content-disposition",
    "content-length",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "server-timing",
    "x-content-type-options",
    "x-request-id",
}
# What an upstream might say that is nobody else's business.
CHATTY = (
    ("Set-Cookie", "session=upstream; Path=/"),
    ("Connection", "X-Hop"),
    ("X-Hop", "1"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"),
    ("Server", "upstream/1.0"),
    ("X-Upstream-Account", "acme"),
    ("Via", "1.1 inner.example"),
    ("Cache-Control", "public, max-age=31536000"),
    ("Access-Control-Allow-Origin", "*"),
    ("Alt-Svc", 'h3=":443"'),
    ("Strict-Transport-Security", "max-age=1"),
)


def bodies(house: House) -> int:
    """Bytes of videos that left the upstreams."""
    entries = (e for e in house.sim.log.entries if e.operation in ("content", "file"))
    return sum(entry.bytes_sent for entry in entries)


async def test_head_tells_what_get_sends_and_opens_no_body(house: House) -> None:
    """An upstream's own path is asked by HEAD, a result URL (signed for GET) for one byte; then
    it is known, and nobody is asked again."""
    for place in PLACES.values():
        task_id = await house.completed(place.model, PROMPT)
        house.sim.log.clear()
        head, line = await told(house, content(task_id), method="HEAD")
        assert (head.status, line["status"], line["reason"]) == (200, 200, "done")
        assert "bytes" not in line
        [asked] = place.asked(house)
        if place is OPENAI:
            assert (asked.method, asked.bytes_sent) == ("HEAD", 0)
        else:
            assert (asked.method, asked.headers["Range"], asked.bytes_sent) == (
                *("GET", "bytes=0-0"),
                1,
            )
        again = await fetch(house, content(task_id), {"Range": "bytes=5-9"}, method="HEAD")
        assert again.status == 200  # a range is defined for GET only
        assert len(place.asked(house)) == 1
        got = await fetch(house, content(task_id))
        for reply in (head, again):
            assert reply.headers["Content-Length"] == str(SIZE)
            for name in ALLOWED - {"date", "server-timing", "x-request-id"}:
                assert reply.headers[name] == got.headers[name], name


async def test_an_upstream_that_knows_no_head_is_asked_for_one_byte(house: House) -> None:
    """FastAPI and gin answer 405 or 404 to a HEAD of a path that has only GET."""
    for status in (404, 405, 501):
        task_id = await house.completed(prompt=PROMPT)
        house.sim.log.clear()
        add(house, OPENAI.fault("status", status=status))
        head = await fetch(house, content(task_id), method="HEAD")
        assert (head.status, head.headers["Content-Length"]) == (200, str(SIZE))
        assert [e.method for e in OPENAI.asked(house)] == ["HEAD", "GET"]
        assert bodies(house) == 1


async def test_head_of_an_upstream_without_head_and_ranges_is_still_right(house: House) -> None:
    """Its body has to be opened, and is left at once."""
    task_id = await house.completed(prompt="a cat size=50000000")
    house.sim.log.clear()
    add(house, OPENAI.fault("status", status=405), OPENAI.fault("no_range", times=None))
    head = await fetch(house, content(task_id), method="HEAD")
    assert (head.status, head.headers["Content-Length"]) == (200, "50000000")
    left = await house.sim.wait_for(lambda e: e.method == "GET" and e.done)
    assert left.aborted
    assert left.bytes_sent < 50_000_000


async def test_an_empty_file_is_no_video(house: House) -> None:
    for place in TWO.values():
        task_id = await house.completed(place.model, "a cat size=0")
        for method in ("HEAD", "GET"):
            assert (await fetch(house, content(task_id), method=method)).status == 502
        assert (await fetch(house, content(task_id), {"Range": "bytes=0-"})).status == 502


async def test_only_headers_of_the_allow_list_reach_the_client(house: House) -> None:
    """No cookie, no hop-by-hop header, nothing that tells where the video lives."""
    for place in TWO.values():
        task_id = await house.completed(place.model, PROMPT)
        add(house, place.fault("headers", headers=CHATTY, times=3))
        part = {"Range": "bytes=0-9"}
        for method, headers in (("HEAD", {}), ("GET", {}), ("GET", part)):
            reply = await fetch(house, content(task_id), headers, method=method)
            names = {name.lower() for name in reply.headers}
            assert names == ALLOWED | ({"content-range"} if headers else set())
            assert reply.headers["Cache-Control"] == "private, no-transform"
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
        house.sim.faults.clear()


@pytest.mark.parametrize("kind", ["video/mp4", "application/octet-stream", "text/html", ""])
@pytest.mark.parametrize(
    "body",
    ["<script>alert(1)</script>", '{"error": {"code": 500}}', "Gone, sorry: ask later.", "no"],
)
async def test_what_is_no_video_is_never_delivered_as_one(
    house: House, kind: str, body: str
) -> None:
    """A 502 whatever its type says; no byte of an upstream's error page goes out."""
    for place in TWO.values():
        task_id = await house.completed(place.model, PROMPT)
        headers = (("Content-Type", kind),) if kind else ()
        add(house, place.fault("status", status=200, body=body, times=None))
        add(house, place.fault("headers", headers=headers, times=None))
        for path in (content(task_id), content(task_id, download=1)):
            reply, line = await told(house, path)
            assert (reply.status, line["reason"]) == (502, "upstream_error")
            assert body.encode() not in reply.body
        house.sim.faults.clear()


async def test_compressed_bytes_are_not_passed_off_as_the_video(house: House) -> None:
    """We ask for identity and our replies have no Content-Encoding."""
    task_id = await house.completed(prompt=PROMPT)
    add(house, OPENAI.fault("headers", headers=(("Content-Encoding", "gzip"),), times=None))
    reply, line = await told(house, content(task_id))
    assert (reply.status, line["reason"]) == (502, "upstream_error")
    asked = OPENAI.asked(house)[-1]
    assert asked.headers["Accept-Encoding"] == "identity"


async def test_each_variant_has_its_type_and_its_validator(house: House) -> None:
    task_id = await house.completed(prompt=PROMPT)
    types = {
        "video": ("video/mp4", "mp4"),
        "thumbnail": ("image/webp", "webp"),
        "spritesheet": ("image/jpeg", "jpg"),
    }
    tags = set()
    for variant, (kind, extension) in types.items():
        reply = await fetch(house, content(task_id, variant=variant))
        assert (reply.status, reply.headers["Content-Type"]) == (200, kind)
        told_name = f'inline; filename="{task_id}.{extension}"'
        assert reply.headers["Content-Disposition"] == told_name
        assert reply.whole
        assert reply.body[:4] != b""
        tags.add(reply.headers["ETag"])
        saved = await fetch(house, content(task_id, variant=variant, download=1), method="HEAD")
        assert saved.headers["Content-Disposition"].startswith("attachment; ")
    assert len(tags) == 3


async def test_a_variant_nobody_has_is_refused_with_those_there_are(house: House) -> None:
    for place, offered in ((OPENAI, "video, thumbnail, spritesheet"), (KLING, "video, watermark")):
        task_id = await house.completed(place.model, PROMPT)
        house.sim.log.clear()
        reply, line = await told(house, content(task_id, variant="poster"))
        assert (reply.status, line["reason"]) == (400, "invalid_value")
        assert b'"param":"variant"' in reply.body
        assert offered.encode() in reply.body
        assert place.asked(house) == []
    reply = await fetch(house, content(task_id, variant="thumbnail"))
    assert (reply.status, b"video, watermark" in reply.body) == (400, True)


async def test_each_of_several_results_has_its_index(house: House) -> None:
    task_id = await house.completed(KLING.model, "a cat size=1000 videos=2")
    house.sim.log.clear()
    replies = [await fetch(house, content(task_id, index=index)) for index in (0, 1)]
    assert [(r.status, r.body) for r in replies] == [(200, pattern(0, 1000))] * 2
    assert len({reply.headers["ETag"] for reply in replies}) == 2
    assert len({entry.target for entry in KLING.asked(house)}) == 2
    assert f'"{task_id}_1.mp4"' in replies[1].headers["Content-Disposition"]
    for index in ("2", "-1", "x", "1e1", "%D9%A1", "99999"):
        reply = await fetch(house, content(task_id, index=index))
        assert (reply.status, b'"param":"index"' in reply.body) == (400, True), index


async def test_a_video_that_is_not_there_yet_is_404_with_its_status(house: House) -> None:
    add(house, Fault("status", service="openai", operation="poll", times=None))
    task_id = await house.create(prompt=PROMPT)
    reply, line = await told(house, content(task_id))
    assert (reply.status, line["reason"]) == (404, "video_not_ready")
    assert b"completed" in reply.body
    failed = await house.create(KLING.model, "fail-later")
    assert (await house.finished(failed))["status"] == "failed"
    reply, line = await told(house, content(failed))
    assert (reply.status, line["reason"]) == (404, "video_failed")


async def test_an_upstream_that_refuses_our_credential_is_not_an_expired_video(
    house: House,
) -> None:
    """The operator has to look; to the client it is a 502 and not a video that is gone."""
    for status in (401, 403):
        task_id = await house.completed(prompt=PROMPT)
        add(house, OPENAI.fault("status", status=status))
        reply, line = await told(house, content(task_id))
        assert (reply.status, line["reason"]) == (502, "upstream_error")
        assert b"sk-sim" not in reply.body


async def test_an_opening_that_fails_is_tried_again_before_the_client_hears_of_it(
    house: House,
) -> None:
    for place in TWO.values():
        task_id = await house.completed(place.model, PROMPT)
        house.sim.log.clear()
        add(house, place.fault("lost"), place.fault("status", status=503, skip=1))
        reply, line = await told(house, content(task_id))
        assert (reply.status, reply.whole, line["reason"]) == (200, True, "done")
        statuses = [entry.status for entry in place.asked(house, "GET")]
        assert statuses == [None, 503, 200]


async def test_trace_context_reaches_the_upstream_and_nothing_else_of_the_client(
    house: House,
) -> None:
    """A result URL's host gets neither, and never our credential."""
    private = {
        "Cookie": "a=b",
        "X-Forwarded-For": "10.1.2.3",
        "X-Secret": "1",
        "User-Agent": "spy",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    for place in PLACES.values():
        task_id = await house.completed(place.model, PROMPT)
        house.sim.log.clear()
        assert (await fetch(house, content(task_id), private)).status == 200
        [asked] = place.asked(house)
        names = {name.lower() for name in asked.headers}
        own = {"host", "accept", "accept-encoding", "user-agent"}
        if place is OPENAI:
            own |= {"authorization", "traceparent"}
            assert asked.headers["Authorization"] == "Bearer sk-sim"
        assert names == own
        assert asked.headers["User-Agent"].startswith("reelway/")


async def test_a_download_waits_for_no_other(house: House) -> None:
    """Twenty at once, of three providers, each whole."""
    ids = [await house.completed(place.model, PROMPT) for place in PLACES.values()]
    paths = [content(task_id) for task_id in ids] * 7
    replies = await asyncio.gather(*(fetch(house, path) for path in paths))
    film = pattern(0, SIZE)
    assert all(reply.whole and reply.body == film for reply in replies)
