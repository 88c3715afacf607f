"""A picture field in any of its forms becomes one `Media`, or a 400 that names the field."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.dialects.media import MemoryBlob, clip, inline, picture, sniff, web_address
from proxy.errors import Invalid
from proxy.model import Blob, Role

# The same examples on every run, and no clock: the machine may be busy.
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
WEBP = b"RIFF\x24\x00\x00\x00WEBPVP8 "
PNG64 = base64.b64encode(PNG).decode()


def bytes_of(blob: Blob | None) -> bytes:
    assert blob is not None
    return b"".join(blob.chunks(5))


class Trickle:
    """A blob whose pieces are one byte each: a reader that looks at the first piece only would
    find no type in it."""

    size = len(WEBP)
    sha256 = hashlib.sha256(WEBP).hexdigest()
    content_type = "application/octet-stream"
    filename = "upload"

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        for value in WEBP:
            yield bytes([value])


@pytest.mark.parametrize(
    "url",
    [
        "https://cdn.example.com/cat.png",
        "http://cdn.example.com:8080/cat?sig=a%2Fb&x=1#top",
        "HTTPS://CDN.example.com/",
        "https://[2001:db8::1]/cat.png",
        "https://例え.jp/猫.png",
    ],
)
def test_a_url_is_kept_as_it_came(url: str) -> None:
    media = picture(url, "image", Role.REFERENCE_IMAGE)
    assert (media.url, media.blob, media.role, media.param) == (
        url,
        None,
        Role.REFERENCE_IMAGE,
        "image",
    )


@pytest.mark.parametrize(
    ("value", "content_type", "data"),
    [
        (PNG64, "image/png", PNG),
        (base64.b64encode(JPEG).decode(), "image/jpeg", JPEG),
        (base64.b64encode(WEBP).decode(), "image/webp", WEBP),
        (f"data:image/png;base64,{PNG64}", "image/png", PNG),
        (f"DATA:image/png;charset=utf-8;BASE64,{PNG64}", "image/png", PNG),
        (f"data:;base64,{PNG64}", "image/png", PNG),
        (f"data:image/gif;base64,{PNG64}", "image/png", PNG),
        ("data:image/gif;base64,R0lGODlh", "image/gif", b"GIF89a"),
        ("R0lGODlh", "application/octet-stream", b"GIF89a"),
        (PNG64[:8] + "\r\n" + PNG64[8:] + "\n", "image/png", PNG),
    ],
)
def test_inline_data_becomes_a_blob_of_the_type_its_bytes_tell(
    value: str, content_type: str, data: bytes
) -> None:
    media = picture(value, "image", Role.FIRST_FRAME)
    assert media.url is None
    assert media.blob is not None
    assert media.blob.content_type == content_type
    assert bytes_of(media.blob) == data
    assert media.blob.size == len(data)
    assert media.blob.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "value",
    [
        "cat.png",
        "ftp://example.com/cat.png",
        "file:///etc/passwd",
        PNG64[:-1],  # padding cut
        PNG64.rstrip("=") + "====",
        PNG64 + PNG64,  # data after the padding
        PNG64[:4] + " " + PNG64[4:],
        PNG64[:4] + "_-" + PNG64[6:],  # the URL alphabet
        "猫",
        "=",
        "data:image/png,rawbytes",
        "data:image/png;base64",
        f"data:image/png;base64;charset=x,{PNG64}",
        "data:image/png;base64,",
        "data:image/png;base64,!!!!",
        f"data:text/html;base64,{base64.b64encode(b'<html>').decode()}",
        "http://",
        "https:///cat.png",
        "https://exa mple.com/",
        "https://example.com/\nHost: evil",
        "https://[::1/",
        "https://example.com:99999/",
        "https://example.com\\@evil.example/",
        "https://example.com/" + "a" * 8192,
        5,
        ["https://example.com/cat.png"],
        {"url": "https://example.com/cat.png"},
        True,
        MemoryBlob(b"", "image/png"),
        MemoryBlob(b"<html>", "text/html; charset=utf-8"),
        MemoryBlob(b"\x00\x00\x00\x18ftypisom", "video/mp4"),
    ],
)
def test_what_cannot_be_a_picture_is_refused_by_name(value: object) -> None:
    with pytest.raises(Invalid) as caught:
        picture(value, "input_reference", Role.FIRST_FRAME)
    assert caught.value.param == "input_reference"
    assert "'input_reference'" in caught.value.message


def test_a_file_part_of_the_right_type_is_passed_on_untouched() -> None:
    blob = MemoryBlob(PNG, "image/png", "cat.png")
    assert picture(blob, "image", Role.FIRST_FRAME).blob is blob


@pytest.mark.parametrize("declared", ["application/octet-stream", "", "text/plain", "image/jpeg"])
def test_a_file_part_is_retyped_by_its_bytes(declared: str) -> None:
    """openai-python declares raw bytes as application/octet-stream."""
    blob = MemoryBlob(PNG, declared, "upload")
    found = picture(blob, "image", Role.FIRST_FRAME).blob
    assert found is not None
    assert found.content_type == "image/png"
    assert (found.size, found.sha256, found.filename) == (blob.size, blob.sha256, "upload")
    assert bytes_of(found) == bytes_of(found) == PNG


def test_the_type_is_found_across_small_pieces() -> None:
    found = picture(Trickle(), "image", Role.FIRST_FRAME).blob
    assert found is not None
    assert found.content_type == "image/webp"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (PNG, "image/png"),
        (JPEG, "image/jpeg"),
        (WEBP, "image/webp"),
        (b"RIFF\x24\x00\x00\x00WAVEfmt ", None),
        (b"GIF89a", None),
        (b"", None),
    ],
)
def test_sniffing_knows_the_three_common_types(head: bytes, expected: str | None) -> None:
    assert sniff(head) == expected


def test_a_clip_is_a_file_with_something_in_it() -> None:
    blob = MemoryBlob(b"\x00\x00\x00\x18ftyp", "video/mp4")
    media = clip(blob, "video")
    assert (media.blob, media.role) == (blob, Role.SOURCE)
    for bad in ("https://example.com/a.mp4", MemoryBlob(b"")):
        with pytest.raises(Invalid, match="'video'"):
            clip(bad, "video")


def test_a_callback_address_is_bounded() -> None:
    assert web_address("https://a.example/x", "webhook") == "https://a.example/x"
    with pytest.raises(Invalid, match="longer than 2048"):
        web_address("https://a.example/" + "x" * 2048, "webhook")


def test_long_base64_is_read_in_pieces_and_as_strictly() -> None:
    """Padding at the end of a piece is inside the text all the same."""
    piece = "A" * (1 << 20)
    assert inline(2 * piece + "QQ==", "image").data == bytes(3 * (1 << 19)) + b"A"
    with pytest.raises(Invalid, match="it is none of these"):
        inline(piece[:-4] + "QQ==" + piece, "image")


@STEADY
@given(st.binary(min_size=1, max_size=300), st.integers(1, 64))
def test_base64_round_trips(data: bytes, block: int) -> None:
    blob = picture(base64.b64encode(data).decode(), "image", Role.FIRST_FRAME).blob
    assert isinstance(blob, MemoryBlob)
    pieces = list(blob.chunks(block))
    assert b"".join(pieces) == data
    assert max(map(len, pieces)) <= block


@STEADY
@given(st.text() | st.from_regex(r"(data:|https?://)[ -~]{0,40}", fullmatch=True))
def test_any_text_is_a_picture_or_an_invalid(text: str) -> None:
    try:
        media = picture(text, "image", Role.FIRST_FRAME)
    except Invalid as error:
        found = error.param == "image"
    else:
        found = (media.url is None) != (media.blob is None)
    assert found
