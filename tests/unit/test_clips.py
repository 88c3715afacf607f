"""An uploaded video is never taken for shorter than what a renderer makes of it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialects.media import MemoryBlob
from proxy.http.clips import clip_seconds, measured
from proxy.model import Media, Operation, Role, VideoRequest


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def header(kind: bytes, seconds: float, scale: int = 1000, *, long: bool = False) -> bytes:
    ticks = round(seconds * scale)
    if long:
        return box(kind, struct.pack(">B3xQQIQ", 1, 0, 0, scale, ticks), bytes(80))
    return box(kind, struct.pack(">B3xIIII", 0, 0, 0, scale, ticks), bytes(80))


def trak(
    seconds: float,
    frames: int,
    *,
    handler: bytes = b"vide",
    told_s: float | None = None,
    sizes: int | None = None,
) -> bytes:
    """A track of so many samples, evenly timed over `seconds`; `told_s` is what its header says."""
    scale = 90_000
    delta = round(seconds * scale / frames) if frames else 0
    stts = box(b"stts", struct.pack(">IIII", 0, 1, frames, delta))
    stsz = box(b"stsz", struct.pack(">III", 0, 512, frames if sizes is None else sizes))
    told = seconds if told_s is None else told_s
    return box(
        b"trak",
        box(b"tkhd", bytes(84)),
        box(
            b"mdia",
            header(b"mdhd", told, scale),
            box(b"hdlr", bytes(8), handler, bytes(13)),
            box(b"minf", box(b"stbl", stts, stsz)),
        ),
    )


FTYP = box(b"ftyp", b"isom\0\0\2\0isommp42")


def film(
    seconds: float = 4.0,
    frames: int = 96,
    *,
    moov: bytes | None = None,
    media: int = 2000,
    moov_last: bool = False,
    **track: object,
) -> bytes:
    if moov is None:
        moov = box(
            b"moov",
            header(b"mvhd", seconds),
            trak(seconds, frames, **track),  # type: ignore[arg-type]  # a table's row
        )
    parts = [moov, box(b"mdat", bytes(media))]
    return FTYP + b"".join(reversed(parts) if moov_last else parts)


def length(data: bytes) -> float | None:
    return clip_seconds(MemoryBlob(data))


@pytest.mark.parametrize(
    ("data", "seconds"),
    [
        (film(), 4),
        (film(moov_last=True, media=700_000), 4),
        (film(2.5, 60), 2.5),
        (film(10, 100), 10),  # ten pictures a second: shown as long as it says
        (film(4, 240), 10),  # sixty a second: as long as its pictures last at 24
        (film(1, 1440), 60),  # it says one second, and holds a minute's pictures
        (film(4, 96, told_s=9), 9),  # the longest that anything in it says
        (film(moov=box(b"moov", header(b"mvhd", 30), trak(4, 96))), 30),
        (film(moov=box(b"moov", header(b"mvhd", 7, long=True), trak(4, 96))), 7),
        (film(moov=box(b"moov", header(b"mvhd", 1), trak(4, 96), trak(8, 192))), 8),
        (
            film(moov=box(b"moov", header(b"mvhd", 4), trak(4, 96), trak(5, 250, handler=b"soun"))),
            5,
        ),
        (FTYP + box(b"free", bytes(9)) + film()[len(FTYP) :], 4),
        (film() + struct.pack(">I4s", 0, b"free") + bytes(10), 4),  # size 0: to the end
    ],
)
def test_a_film_is_as_long_as_the_longest_it_says(data: bytes, seconds: float) -> None:
    assert length(data) == pytest.approx(seconds, abs=0.01)


GOOD = box(b"moov", header(b"mvhd", 4), trak(4, 96))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x1aE\xdf\xa3" + bytes(60),  # WebM says its length where nothing backs it
        b"\x89PNG\r\n\x1a\n" + bytes(60),
        FTYP + box(b"mdat", bytes(60)),
        film()[:-1],  # cut
        film() + b"x",
        film(moov=GOOD + GOOD),
        film(moov=GOOD + box(b"moof", bytes(8))),
        film(moov=box(b"moov", header(b"mvhd", 4), trak(4, 96), box(b"mvex", bytes(8)))),
        film(moov=box(b"moov", header(b"mvhd", 4))),  # no track
        film(moov=box(b"moov", header(b"mvhd", 4), trak(4, 96, handler=b"soun"))),
        film(moov=box(b"moov", trak(4, 96))),
        film(moov=box(b"moov", header(b"mvhd", 4), header(b"mvhd", 9), trak(4, 96))),
        film(sizes=9000),  # more samples than it has times for
        film(moov=box(b"moov", header(b"mvhd", 4, 0), trak(4, 96))),
        film(0, 0),
        film(0.01, 1, media=30_000_000),  # no camera writes so much
        film(moov=box(b"moov", header(b"mvhd", 2_000_000, long=True), trak(4, 96))),
    ],
)
def test_a_film_that_cannot_be_trusted_is_not_measured(data: bytes) -> None:
    assert length(data) is None


@given(st.binary(max_size=400), st.integers(0, 900))
def test_no_bytes_break_it(noise: bytes, at: int) -> None:
    """Whatever stands where: a length or none, never an exception."""
    data = film()
    length(data[:at] + noise + data[at + len(noise) :])
    length(FTYP + noise)


def test_only_the_source_of_an_edit_is_measured() -> None:
    clip = Media(Role.SOURCE, "video", blob=MemoryBlob(film(6, 144)))
    asked = VideoRequest(Operation.EDIT, "openai", "sora-2", media=(clip,))
    assert measured(asked).media[0].seconds == pytest.approx(6, abs=0.01)
    longer = VideoRequest(Operation.EXTEND, "openai", "sora-2", media=(clip,))
    assert measured(longer) is longer
