"""A file is a video by its first bytes, whatever its type says."""

from __future__ import annotations

import pytest

from proxy.http.media_bytes import MOST_BYTES, is_document, is_picture, is_video

TS = b"G" + b"@\x00\x10" + bytes(184)


@pytest.mark.parametrize(
    "first",
    [
        *(b"\x00\x00\x00\x20" + box + b"isom" for box in (b"ftyp", b"moov", b"mdat", b"free")),
        *(b"\x00\x00\x00\x08" + box + b"\x00\x00\x00\x08" for box in (b"wide", b"skip")),
        b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81",
        b"RIFF\x00\x00\x00\x00AVI LIST",
        b"FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00",
        b"OggS" + bytes(12),
        b"\x00\x00\x01\xba" + bytes(12),
        b"GIF89a" + bytes(10),
        (TS + TS)[:MOST_BYTES],
    ],
)
def test_videos_are_known(first: bytes) -> None:
    assert is_video(first, whole=False) is True


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"no",
        b'{"error":{"message":"x"}}',
        b"<!DOCTYPE html><html>",
        b"<?xml version='1.0'?>",
        b'\xef\xbb\xbf{"error":1}',
        b"Gone, sorry. " * 20,
        b"\x89PNG\r\n\x1a\n" + bytes(8),
        b"\x00\x00\x00\x20ftypavif",
        bytes(64),
    ],
)
def test_everything_else_is_none(first: bytes) -> None:
    assert is_video(first[:MOST_BYTES], whole=True) is False


def test_a_transport_stream_takes_a_second_packet_to_be_known() -> None:
    assert is_video(TS[:100], whole=False) is None
    assert is_video(TS[:100], whole=True) is False
    assert is_video(TS[:3], whole=False) is None


def test_pictures_are_known() -> None:
    for first in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBPVP8 "):
        assert is_picture(first, whole=False) is True
    for first in (b'{"error":"no such variant"}', b"\x00\x00\x00\x20ftypisom"):
        assert is_picture(first, whole=False) is False


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("text/html; charset=utf-8", True),
        ("application/json", True),
        ("application/problem+json", True),
        ("application/xml", True),
        ("application/xhtml+xml", True),
        ("image/svg+xml", True),
        ("video/mp4", False),
        ("application/octet-stream", False),
        ("", False),
    ],
)
def test_a_type_of_words_is_no_video(kind: str, expected: bool) -> None:
    assert is_document(kind) is expected
