"""Ranges and conditions of a download, whatever its upstream knows of them."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path

import pytest

from proxy.sim import Fault, pattern, pattern_sha256
from tests.rig.downloads import (
    KLING,
    OPENAI,
    PLACES,
    PROMPT,
    SIZE,
    Heard,
    Place,
    add,
    content,
    each_kind_of_place,
    fetch,
    of,
    told,
)
from tests.rig.house import House

FILM = pattern(0, SIZE)

# Range header → first byte and length of what is to come, or None for the whole file.
RANGES = {
    "one": ("bytes=1000-1999", (1000, 1000)),
    "one byte": ("bytes=0-0", (0, 1)),
    "open end": ("bytes=699000-", (699_000, SIZE - 699_000)),
    "all by range": ("bytes=0-", (0, SIZE)),
    "suffix": ("bytes=-500", (SIZE - 500, 500)),
    "suffix longer than the file": ("bytes=-9999999", (0, SIZE)),
    "end behind the file": ("bytes=700000-9999999", (700_000, 1)),
    "upper case": ("BYTES=5-6", (5, 2)),
    "several": ("bytes=0-1,5-6", None),
    "another unit": ("lines=1-2", None),
    "backwards": ("bytes=9-5", None),
    "no number": ("bytes=a-b", None),
    "nothing": ("bytes=-", None),
}
OUTSIDE = {
    "behind the end": f"bytes={SIZE}-",
    "far behind": "bytes=999999999-999999999999",
    "no bytes": "bytes=-0",
}
# What the upstream cannot do.
UPSTREAMS: dict[str, tuple[Fault, ...]] = {
    "with ranges": (),
    "without ranges": (OPENAI.fault("no_range", times=None),),
    "chunked": (OPENAI.fault("chunked", times=None),),
    "ending by closing": (OPENAI.fault("http10", times=None),),
}
# On a result URL, which is not asked by HEAD: that might tell the length.
SIZELESS = {
    "chunked": (KLING.fault("chunked", times=None), KLING.fault("no_range", times=None)),
    "ending by closing": (KLING.fault("http10", times=None), KLING.fault("no_range", times=None)),
}


def check(reply: Heard, span: tuple[int, int] | None) -> None:
    assert reply.whole
    assert reply.headers["Accept-Ranges"] == "bytes"
    if span is None:
        assert (reply.status, reply.body == FILM) == (200, True)
        assert reply.headers["Content-Length"] == str(SIZE)
        assert "Content-Range" not in reply.headers
        return
    first, length = span
    assert (reply.status, reply.body == FILM[first : first + length]) == (206, True)
    assert reply.headers["Content-Length"] == str(length)
    assert reply.headers["Content-Range"] == f"bytes {first}-{first + length - 1}/{SIZE}"


@pytest.mark.parametrize("upstream", UPSTREAMS.values(), ids=UPSTREAMS)
async def test_every_form_of_range_gets_exactly_its_bytes(
    house: House, upstream: tuple[Fault, ...]
) -> None:
    """Also from an upstream that knows no ranges, or does not say how long its bodies are."""
    task_id = await house.completed(prompt=PROMPT)
    add(house, *upstream)
    for value, span in RANGES.values():
        reply, line = await told(house, content(task_id), {"Range": value})
        check(reply, span)
        assert (line["status"], line["reason"]) == (206 if span else 200, "done")
        assert line["bytes"] == (span[1] if span else SIZE)
    for value in OUTSIDE.values():
        reply, line = await told(house, content(task_id), {"Range": value})
        assert (reply.status, reply.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
        assert b"range_not_satisfiable" in reply.body
        assert line["reason"] == "range_not_satisfiable"
    check(await fetch(house, content(task_id)), None)


async def test_a_range_reaches_the_upstream_as_a_range(house: House) -> None:
    """The upstream is not made to send what nobody wants."""
    for place in PLACES.values():
        task_id = await house.completed(place.model, PROMPT)
        house.sim.log.clear()
        for value, span in (RANGES["one"], RANGES["suffix"], RANGES["open end"]):
            check(await fetch(house, content(task_id), {"Range": value}), span)
            assert span is not None
            asked = await house.sim.wait_for(
                lambda entry: entry.headers.get("Range") == value and entry.done  # noqa: B023
            )
            assert (asked.service, asked.operation) == (place.service, place.operation)
            assert (asked.status, asked.bytes_sent) == (206, span[1])


@pytest.mark.parametrize("upstream", SIZELESS.values(), ids=SIZELESS)
async def test_without_any_known_length_the_whole_file_is_sent(
    house: House, upstream: tuple[Fault, ...]
) -> None:
    """A range of a file of unknown length cannot be computed, and may be ignored."""
    task_id = await house.completed(KLING.model, PROMPT)
    add(house, *upstream)
    for headers in ({}, {"Range": "bytes=5-6"}, {"Range": "bytes=-5"}):
        for version in ("1.1", "1.0"):
            reply = await fetch(house, content(task_id), headers, version=version)
            assert (reply.status, reply.whole, reply.body == FILM) == (200, True, True)
            assert reply.headers["Accept-Ranges"] == "none"
            assert "Content-Length" not in reply.headers
            if version == "1.1" and KLING.fault("chunked", times=None) in upstream:
                assert reply.headers["Transfer-Encoding"] == "chunked"
            else:  # its end is the connection's, and claims no more than the upstream's did
                assert "Transfer-Encoding" not in reply.headers
                assert reply.headers["Connection"] == "close"


@each_kind_of_place
async def test_conditions_are_judged_by_our_validators(house: House, place: Place) -> None:
    task_id = await house.completed(place.model, PROMPT)
    path = content(task_id)
    first = await fetch(house, path)
    etag, modified = first.headers["ETag"], first.headers["Last-Modified"]
    assert etag[0] == etag[-1] == '"'
    at = parsedate_to_datetime(modified).timestamp()
    earlier, later = formatdate(at - 60, usegmt=True), formatdate(at + 60, usegmt=True)
    part = {"Range": "bytes=10-19"}
    table: list[tuple[dict[str, str], int]] = [
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": f"W/{etag}"}, 304),
        ({"If-None-Match": f'"x", {etag}'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-Modified-Since": modified}, 304),
        ({"If-Modified-Since": later}, 304),
        ({"If-Modified-Since": earlier}, 200),
        ({"If-Modified-Since": "yesterday"}, 200),
        ({"If-None-Match": '"x"', "If-Modified-Since": modified}, 200),
        ({"If-Match": etag}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": f"W/{etag}"}, 412),
        ({"If-Match": '"x"'}, 412),
        ({"If-Unmodified-Since": modified}, 200),
        ({"If-Unmodified-Since": earlier}, 412),
        ({"If-Match": '"x"', "If-None-Match": etag}, 412),
        ({"If-None-Match": etag, **part}, 304),
        ({"If-Range": etag, **part}, 206),
        ({"If-Range": modified, **part}, 206),
        ({"If-Range": '"x"', **part}, 200),
        ({"If-Range": f"W/{etag}", **part}, 200),
        ({"If-Range": earlier, **part}, 200),
        ({"If-Range": later, **part}, 200),
        ({"If-Range": '"x"', "Range": f"bytes={SIZE}-"}, 200),
        ({"If-Range": etag, "Range": f"bytes={SIZE}-"}, 416),
    ]
    for headers, status in table:
        reply, line = await told(house, path, headers)
        assert (reply.status, line["status"]) == (status, status), headers
        if status in (200, 206):
            check(reply, (10, 10) if status == 206 else None)
        elif status in (304, 412):
            assert (reply.body, reply.headers["ETag"]) == (b"", etag), headers
        assert (await fetch(house, path, headers, method="HEAD")).status == {
            206: 200,
            416: 200,
        }.get(status, status), headers


@each_kind_of_place
async def test_an_if_range_this_worker_never_saw_is_judged_before_the_range(
    house: House, place: Place
) -> None:
    """A resume that reaches another worker, with a range that no longer lies in the file: the
    upstream's 416 would be wrong, for the client is owed the new file."""
    task_id = await house.completed(place.model, PROMPT)
    headers = {"If-Range": '"of another worker"', "Range": f"bytes={SIZE + 5}-"}
    check(await fetch(house, content(task_id), headers), None)
    assert [entry.status for entry in place.asked(house, "GET")][-1] == 200


async def test_the_validators_outlive_a_re_signed_url(house: House) -> None:
    """A client may resume with the ETag of a URL that has expired since."""
    for place in PLACES.values():
        task_id = await house.completed(place.model, PROMPT)
        first = await fetch(house, content(task_id), {"Range": "bytes=0-99"})
        house.sim.expire_links()
        resumed = {"Range": "bytes=100-", "If-Range": first.headers["ETag"]}
        second = await fetch(house, content(task_id), resumed)
        check(second, (100, SIZE - 100))
        assert second.headers["ETag"] == first.headers["ETag"]
        assert second.headers["Last-Modified"] == first.headers["Last-Modified"]


async def test_a_player_that_seeks_gets_the_bytes_of_each_place(house: House) -> None:
    """What ffmpeg does with an MP4 whose index is at the end: open-ended ranges here and there,
    each left after a few bytes."""
    task_id = await house.completed(prompt=PROMPT)
    for start in (0, SIZE - 700, 48, 350_000, 349_000, SIZE - 1, 131_072):
        reply = await fetch(house, content(task_id), {"Range": f"bytes={start}-"})
        check(reply, (start, SIZE - start))
    pieces = [
        fetch(house, content(task_id), {"Range": f"bytes={start}-{start + 4999}"})
        for start in range(0, 100_000, 5000)
    ]
    replies = await asyncio.gather(*pieces)
    assert b"".join(reply.body for reply in replies) == FILM[:100_000]


async def test_curl_resumes_where_it_stopped(house: House, tmp_path: Path) -> None:
    """`curl -C -` sends an open-ended range for what its file lacks; where there is no curl, we
    do as it does."""
    task_id = await house.completed(prompt=PROMPT)
    part = tmp_path / "video.mp4"
    part.write_bytes(FILM[:123_456])
    curl = shutil.which("curl")
    if curl is None:
        reply = await fetch(house, content(task_id), {"Range": "bytes=123456-"})
        part.write_bytes(FILM[:123_456] + reply.body)
    else:
        process = await asyncio.create_subprocess_exec(
            *(curl, "-sS", "-f", "-C", "-", "-o", str(part)),
            *("-H", f"Authorization: {house.bearer['Authorization']}"),
            house.url + content(task_id),
        )
        assert await process.wait() == 0
    assert hashlib.sha256(part.read_bytes()).hexdigest() == pattern_sha256(SIZE)
    line = await house.line(of(task_id))
    assert (line["status"], line["bytes"], line["reason"]) == (206, SIZE - 123_456, "done")


async def test_an_upstream_that_sends_another_range_is_refused(house: House) -> None:
    """Its bytes would be taken for those asked for."""
    task_id = await house.completed(prompt=PROMPT)
    lie = (("Content-Range", f"bytes 500-599/{SIZE}"),)
    add(house, OPENAI.fault("status", status=206, body="x" * 100, headers=lie, times=None))
    reply, line = await told(house, content(task_id), {"Range": "bytes=100-199"})
    assert (reply.status, line["reason"]) == (502, "upstream_error")
