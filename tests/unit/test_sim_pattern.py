"""The simulator's result files: every byte follows from its offset."""

from __future__ import annotations

import hashlib

import pytest

from proxy.sim.faults import Fault, Faults, Plan
from proxy.sim.files import file_reply
from proxy.sim.pattern import MAX_WINDOW, PERIOD, Assets, Clip, byte_at, pattern, pattern_sha256

_CLIP = Clip("video/mp4", '"e1"', 1_767_225_600, 1000)
_DATE = "Thu, 01 Jan 2026 00:00:00 GMT"


@pytest.mark.parametrize("start", [0, 1, 250, 251, 252, 65_536, 10**12 + 7])
@pytest.mark.parametrize("length", [0, 1, 251, 4096])
def test_pattern_is_byte_at_of_every_offset(start: int, length: int) -> None:
    assert pattern(start, length) == bytes(byte_at(start + n) for n in range(length))


def test_pattern_longer_than_its_block_is_still_right() -> None:
    long = pattern(5, MAX_WINDOW + 1000)
    assert len(long) == MAX_WINDOW + 1000
    assert long[-1000:] == pattern(5 + MAX_WINDOW, 1000)


@pytest.mark.parametrize("lost", [1, 4096, 65_536, 262_144, 1_048_576])
def test_a_lost_buffer_never_goes_unseen(lost: int) -> None:
    """No buffer size is a multiple of the period."""
    assert lost % PERIOD != 0
    assert pattern(lost, 300) != pattern(0, 300)


def test_pattern_hash_in_pieces_is_the_hash_of_the_whole() -> None:
    size = MAX_WINDOW * 2 + 12_345
    assert pattern_sha256(size) == hashlib.sha256(pattern(0, size)).hexdigest()


def test_clip_windows_join_to_the_file() -> None:
    clip = Clip("video/mp4", '"x"', 0, 3_000_000)
    position, digest = 0, hashlib.sha256()
    while position < clip.size:
        window = clip.read(position, 1 << 30)
        assert 0 < len(window) <= MAX_WINDOW
        digest.update(window)
        position += len(window)
    assert digest.hexdigest() == pattern_sha256(3_000_000)


def test_a_revised_clip_differs_in_etag_and_bytes() -> None:
    revised = _CLIP.revised(1)
    assert revised.etag == '"e1-r1"'
    assert bytes(revised.read(0, 10)) == pattern(0, 8), "still a video"
    assert bytes(revised.read(8, 10)) == pattern(9, 10)


def test_shipped_clip_is_a_small_faststart_mp4() -> None:
    """`moov` before `mdat`: a browser shows it before it has all of it."""
    assets = Assets.load()
    assert assets.video[4:8] == b"ftyp"
    assert 0 < assets.video.index(b"moov") < assets.video.index(b"mdat")
    assert b"avc1" in assets.video
    assert len(assets.video) < 200_000
    assert assets.thumbnail[:4] == b"RIFF"
    assert assets.thumbnail[8:12] == b"WEBP"
    assert assets.spritesheet[:3] == b"\xff\xd8\xff"


@pytest.mark.parametrize(
    ("headers", "status", "window", "content_range"),
    [
        ({}, 200, (0, 1000), None),
        ({"Range": "bytes=0-0"}, 206, (0, 1), "bytes 0-0/1000"),
        ({"Range": "bytes=10-"}, 206, (10, 990), "bytes 10-999/1000"),
        ({"Range": "bytes=-3"}, 206, (997, 3), "bytes 997-999/1000"),
        ({"Range": "bytes=-5000"}, 206, (0, 1000), "bytes 0-999/1000"),
        ({"Range": "bytes=900-5000"}, 206, (900, 100), "bytes 900-999/1000"),
        ({"Range": "bytes=1000-"}, 416, (0, 0), "bytes */1000"),
        ({"Range": "bytes=-0"}, 416, (0, 0), "bytes */1000"),
        ({"Range": "bytes=5-4"}, 416, (0, 0), "bytes */1000"),
        ({"Range": "bytes=-"}, 200, (0, 1000), None),
        ({"Range": "bytes=0-1,5-6"}, 200, (0, 1000), None),
        ({"Range": "lines=0-1"}, 200, (0, 1000), None),
        ({"Range": "bytes=10-", "If-Range": '"e1"'}, 206, (10, 990), "bytes 10-999/1000"),
        ({"Range": "bytes=10-", "If-Range": '"other"'}, 200, (0, 1000), None),
        ({"Range": "bytes=10-", "If-Range": 'W/"e1"'}, 200, (0, 1000), None),
        ({"Range": "bytes=10-", "If-Range": _DATE}, 206, (10, 990), "bytes 10-999/1000"),
        ({"Range": "bytes=10-", "If-Range": "yesterday"}, 200, (0, 1000), None),
        ({"If-None-Match": '"a", "e1"'}, 304, (0, 0), None),
    ],
)
def test_file_reply_answers_ranges_as_rfc_9110_does(
    headers: dict[str, str], status: int, window: tuple[int, int], content_range: str | None
) -> None:
    reply = file_reply(_CLIP, headers, Plan())
    assert reply.status == status
    assert (reply.start, reply.length) == window
    assert dict(reply.headers).get("Content-Range") == content_range


def test_a_replaced_file_no_longer_satisfies_if_range() -> None:
    faults = Faults()
    faults.add(Fault("etag_change", times=None))
    plan = faults.plan("cdn", "file", "/files/x.mp4")
    reply = file_reply(_CLIP, {"Range": "bytes=10-", "If-Range": '"e1"'}, plan)
    assert reply.status == 200
    assert dict(reply.headers)["ETag"] != '"e1"'


def test_a_host_without_ranges_sends_the_whole() -> None:
    faults = Faults()
    faults.add(Fault("no_range"))
    reply = file_reply(_CLIP, {"Range": "bytes=10-"}, faults.plan("cdn", "file", "/"))
    assert (reply.status, reply.length) == (200, 1000)
    assert dict(reply.headers)["Accept-Ranges"] == "none"
