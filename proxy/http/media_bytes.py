"""What the first bytes of a file say it is: a video, a picture, or neither.

An upstream in trouble answers 200 with a JSON error or a sign-in page. Relayed as a video, that
would be what somebody paid for. Signatures: ISO/IEC 14496-12 and QuickTime (a box's name behind
four bytes of length), RFC 8794 (EBML), ISO/IEC 13818-1 (MPEG), RFC 3533 (Ogg), Adobe's FLV.
"""

from __future__ import annotations

from typing import Final

MOST_BYTES: Final = 193  # two packets of a transport stream show its rhythm
LEAST_BYTES: Final = 12

_BOXES: Final = frozenset(
    {b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip", b"styp", b"moof", b"sidx", b"pnot"}
)
_VIDEOS: Final = (
    b"\x1aE\xdf\xa3",  # EBML: WebM, Matroska
    b"FLV\x01",
    b"OggS",
    b"\x00\x00\x01\xba",  # MPEG program stream
    b"\x00\x00\x01\xb3",  # MPEG video stream
    b"GIF87a",
    b"GIF89a",
    b"0&\xb2u\x8ef\xcf\x11",  # ASF: WMV
)
_PICTURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM")
_PICTURES_RIFF: Final = (b"WEBP",)
_BRANDS: Final = (b"avif", b"avis", b"heic", b"heix", b"mif1")
_SYNC: Final = 0x47  # of an MPEG transport stream, every 188 bytes, or 192 behind a time stamp


def is_video(first: bytes, *, whole: bool) -> bool | None:
    """Whether a file that begins so is a video; None: more of it would tell. `whole`: there is
    no more."""
    if first.startswith(_VIDEOS) or first[4:8] in _BOXES:
        return first[8:12] not in _BRANDS
    if first[:4] == b"RIFF" and first[8:12] == b"AVI ":
        return True
    for start, step in ((0, 188), (4, 192)):
        if len(first) > start and first[start] == _SYNC:
            if len(first) > start + step:
                if first[start + step] == _SYNC:
                    return True
            elif not whole:
                return None
    return False if whole or len(first) >= LEAST_BYTES else None


def is_picture(first: bytes, *, whole: bool) -> bool | None:
    """The same for a picture."""
    if first.startswith(_PICTURES):
        return True
    if first[:4] == b"RIFF" and first[8:12] in _PICTURES_RIFF:
        return True
    if first[4:8] == b"ftyp" and first[8:12] in _BRANDS:
        return True
    return False if whole or len(first) >= LEAST_BYTES else None


def is_document(content_type: str) -> bool:
    """Whether a Content-Type says that this is words, not pictures: an error, a sign-in page."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind.endswith(("json", "xml", "html", "javascript"))
