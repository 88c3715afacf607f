"""How long an uploaded video is, read from its boxes: what an edit of it renders, and costs.

Rule: a file must not say that it is shorter than what a renderer makes of it. So the length is the
longest that anything in it says: the movie's header, each track's header, the sum of each track's
samples, and its pictures shown at 24 a second, which is the slowest rate at which the models that
edit render. A file whose parts contradict each other, that has its samples elsewhere (fragments),
or that holds more bytes a second than any camera writes, is not measured at all.

Only MP4 and MOV (ISO/IEC 14496-12): a WebM file says its length in one number that nothing backs.
The charge is settled by what the provider reports, and is never above what this length held.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from proxy.model import Blob, Operation, Role, VideoRequest

SLOWEST_FPS: Final = 24
MAX_SECONDS: Final = 24 * 3600
MAX_BYTES_A_SECOND: Final = 50_000_000  # 400 Mbit/s
MAX_MOOV_BYTES: Final = 2 * 1024 * 1024
_MAX_BOXES: Final = 4096  # of a file, and of one box
_BLOCK: Final = 256 * 1024


class _Odd(ValueError):
    """The file is no MP4, or not one whose length can be trusted."""


@dataclass(frozen=True, slots=True)
class _Track:
    """`frames` is 0 for a track that holds no pictures."""

    seconds: float
    frames: int


def measured(request: VideoRequest) -> VideoRequest:
    """The request with the length of the video it works on, where that can be measured."""
    if request.operation is not Operation.EDIT:
        return request
    media = tuple(
        replace(item, seconds=clip_seconds(item.blob))
        if item.role is Role.SOURCE and item.blob is not None
        else item
        for item in request.media
    )
    return replace(request, media=media)


def clip_seconds(blob: Blob) -> float | None:
    """The length of an MP4 or MOV file, never too short; None when it cannot be trusted. Reads
    the file once, and keeps `MAX_MOOV_BYTES` of it at most."""
    try:
        seconds = _seconds(_moov(blob))
    except (_Odd, struct.error):
        return None
    if not 0 < seconds <= MAX_SECONDS or blob.size / seconds > MAX_BYTES_A_SECOND:
        return None
    return seconds


# ---------------------------------------------------------------- the file's own boxes


def _moov(blob: Blob) -> bytes:
    """The one movie box. Fragments, a second one, and a box that ends beyond the file are odd."""
    found: bytes | None = None
    reader = _Reader(blob)
    for _ in range(_MAX_BOXES):
        if reader.at == blob.size:
            break
        size, kind = struct.unpack(">I4s", reader.take(8))
        head = 8
        if size == 1:
            (size,) = struct.unpack(">Q", reader.take(8))
            head = 16
        elif size == 0:
            size = blob.size - reader.at + head
        length = size - head
        if length < 0 or reader.at + length > blob.size or kind in (b"moof", b"sidx"):
            raise _Odd
        if kind == b"moov":
            if found is not None or length > MAX_MOOV_BYTES:
                raise _Odd
            found = reader.take(length)
        else:
            reader.skip(length)
    if found is None or reader.at != blob.size:
        raise _Odd
    return found


class _Reader:
    """Reads a blob from its start to its end, once."""

    def __init__(self, blob: Blob) -> None:
        self._chunks: Iterator[bytes] = blob.chunks(_BLOCK)
        self._chunk = b""
        self.at = 0

    def take(self, length: int) -> bytes:
        parts: list[bytes] = []
        self._move(length, parts)
        return b"".join(parts)

    def skip(self, length: int) -> None:
        self._move(length, None)

    def _move(self, length: int, parts: list[bytes] | None) -> None:
        left = length
        while left:
            if not self._chunk:
                self._chunk = next(self._chunks, b"")
                if not self._chunk:
                    raise _Odd
            piece, self._chunk = self._chunk[:left], self._chunk[left:]
            left -= len(piece)
            if parts is not None:
                parts.append(piece)
        self.at += length


# ---------------------------------------------------------------- inside the movie box


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    for _ in range(_MAX_BOXES):
        if at == len(data):
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
            head = 16
        elif size == 0:
            size = len(data) - at
        if size < head or at + size > len(data):
            if kind == b"\0\0\0\0" and not any(data[at:]):  # QuickTime ends a list with zeros
                return
            raise _Odd
        yield kind, data[at + head : at + size]
        at += size
    raise _Odd


def _only(data: bytes, kind: bytes) -> bytes:
    """The one box of this kind: of two, a renderer may read either."""
    found = [body for name, body in _boxes(data) if name == kind]
    if len(found) != 1:
        raise _Odd
    return found[0]


def _seconds(moov: bytes) -> float:
    if any(kind in (b"mvex", b"cmov") for kind, _ in _boxes(moov)):
        raise _Odd
    tracks = [_track(body) for kind, body in _boxes(moov) if kind == b"trak"]
    if not any(track.frames for track in tracks):
        raise _Odd
    told = [_header_seconds(_only(moov, b"mvhd"))]
    told += [track.seconds for track in tracks]
    told += [track.frames / SLOWEST_FPS for track in tracks]
    return max(told)


def _track(trak: bytes) -> _Track:
    mdia = _only(trak, b"mdia")
    header = _only(mdia, b"mdhd")
    samples = _only(_only(mdia, b"minf"), b"stbl")
    counts = ticks = 0
    stts = _only(samples, b"stts")
    (entries,) = struct.unpack_from(">I", stts, 4)
    if len(stts) < 8 + 8 * entries:
        raise _Odd
    for count, delta in struct.iter_unpack(">II", stts[8 : 8 + 8 * entries]):
        counts += count
        ticks += count * delta
    sizes = [body for kind, body in _boxes(samples) if kind in (b"stsz", b"stz2")]
    if len(sizes) != 1 or struct.unpack_from(">I", sizes[0], 8) != (counts,):
        raise _Odd  # more samples than times, or fewer: a renderer may go by either
    handler = _only(mdia, b"hdlr")[8:12]
    seconds = max(_header_seconds(header), ticks / _scale(header))
    return _Track(seconds, 0 if handler in (b"soun", b"tmcd", b"text", b"meta") else counts)


def _scale(header: bytes) -> int:
    """Ticks a second, of a movie's or a track's header (both begin alike)."""
    (scale,) = struct.unpack_from(">I", header, 20 if header[:1] == b"\1" else 12)
    if not scale:
        raise _Odd
    return int(scale)


def _header_seconds(header: bytes) -> float:
    is_long = header[:1] == b"\1"
    (ticks,) = struct.unpack_from(">Q" if is_long else ">I", header, 24 if is_long else 16)
    if ticks == (2**64 - 1 if is_long else 2**32 - 1):  # "not known"
        raise _Odd
    return float(ticks) / _scale(header)
