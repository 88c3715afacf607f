"""A client's picture field, in whichever form it came, as one `Media`.

Clients send a file part, an http(s) URL, a data: URL or bare base64; all but the URL become a
blob, so that adapters meet two forms only. What the picture shows, its size and its format are
the provider's to judge; here only what cannot be a picture at all is refused. The type told by
the first bytes outranks the declared one: openai-python sends raw bytes as
application/octet-stream, and providers believe the type in a data: URL.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import cast
from urllib.parse import urlsplit

from proxy.dialects.fields import is_blob, kind_of
from proxy.errors import Invalid
from proxy.model import Blob, Media, Role

ACCEPTED = "a file, an http(s) URL, a data: URL or base64"
OCTETS = "application/octet-stream"

_URL_MAX_CHARS = 8192
_PIECE_CHARS = 1 << 20  # a multiple of four: each piece is base64 by itself
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")
# RFC 2397: data:[<mediatype>][;parameter=value]*[;base64],<data>
_DATA_URL = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MemoryBlob:
    """A `Blob` held in memory: what was base64 inside a JSON body."""

    data: bytes = field(repr=False)
    content_type: str = OCTETS
    filename: str = "upload"
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", sha256(self.data).hexdigest())

    @property
    def size(self) -> int:
        return len(self.data)

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        for start in range(0, len(self.data), block):
            yield self.data[start : start + block]


@dataclass(frozen=True, slots=True)
class _Retyped:
    """A blob under the type its first bytes tell."""

    blob: Blob
    content_type: str

    @property
    def size(self) -> int:
        return self.blob.size

    @property
    def sha256(self) -> str:
        return self.blob.sha256

    @property
    def filename(self) -> str:
        return self.blob.filename

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        return self.blob.chunks(block)


def picture(value: object, param: str, role: Role) -> Media:
    """The picture in a field's value: a blob (file part) or a string. Raises `Invalid`."""
    if is_blob(value):
        return Media(role, param, blob=_uploaded(cast("Blob", value), param))
    if not isinstance(value, str):
        raise Invalid(f"'{param}' must be {ACCEPTED}, not {kind_of(value)}.", param=param)
    if value[:8].lower().startswith(("http://", "https://")):
        return Media(role, param, url=web_address(value, param, max_chars=_URL_MAX_CHARS))
    return Media(role, param, blob=inline(value, param))


def clip(value: object, param: str, role: Role = Role.SOURCE) -> Media:
    """An uploaded video: a file part, whatever its declared type."""
    if not is_blob(value):
        raise Invalid(f"'{param}' must be a video file, not {kind_of(value)}.", param=param)
    blob = cast("Blob", value)
    if blob.size == 0:
        raise Invalid(f"'{param}' is an empty file.", param=param)
    return Media(role, param, blob=blob)


def inline(value: str, param: str) -> MemoryBlob:
    """The bytes of a data: URL or of bare base64.

    Standard alphabet, right padding and nothing after it (RFC 4648 §3.3); only line ends are
    passed over, since `base64` on the command line and MIME encoders wrap at 76 columns.
    """
    declared, text = "", value
    if value[:5].lower() == "data:":
        head = _DATA_URL.match(value)
        if head is None or not head[2].lower().endswith(";base64"):
            raise Invalid(
                f"'{param}' must be a data: URL of the form data:image/png;base64,….", param=param
            )
        declared, text = head[1].strip().lower(), value[head.end() :]
    if "\n" in text:
        text = text.replace("\r\n", "").replace("\n", "")
    try:
        data = _unbase64(text)
    except ValueError as exc:  # binascii.Error, and plain ValueError for text outside ASCII
        raise Invalid(f"'{param}' must be {ACCEPTED}; it is none of these.", param=param) from exc
    if not data:
        raise Invalid(f"'{param}' holds no data.", param=param)
    return MemoryBlob(data, _picture_type(data[:16], declared, param))


def _unbase64(text: str) -> bytes:
    """In pieces, for a call into C on all of it would stop every other thread. Raises ValueError,
    as for the text at once: padding has its place at the end of the last piece only."""
    pieces: list[bytes] = []
    for start in range(0, len(text), _PIECE_CHARS):
        if pieces and len(pieces[-1]) < _PIECE_CHARS // 4 * 3:
            raise ValueError("padding before the end")
        piece = text[start : start + _PIECE_CHARS]
        pieces.append(binascii.a2b_base64(piece, strict_mode=True))
    return b"".join(pieces)


def web_address(value: str, param: str, *, max_chars: int = 2048) -> str:
    """An http(s) URL with a host, as it came. Whether it may be fetched is the guard's to say."""
    if len(value) > max_chars:
        raise Invalid(f"'{param}' is a URL longer than {max_chars} characters.", param=param)
    try:
        parts = urlsplit(value)
        has_host = bool(parts.hostname)
        _ = parts.port  # raises ValueError above 65535
    except ValueError:
        has_host = False
    if not has_host or parts.scheme not in ("http", "https") or _NOT_IN_URL.search(value):
        raise Invalid(f"'{param}' must be a valid http(s) URL.", param=param)
    return value


def sniff(head: bytes) -> str | None:
    """The picture type its first 12 bytes tell, of those every provider takes; None: another."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def _uploaded(blob: Blob, param: str) -> Blob:
    if blob.size == 0:
        raise Invalid(f"'{param}' is an empty file.", param=param)
    declared = blob.content_type.partition(";")[0].strip().lower()
    content_type = _picture_type(_head(blob), declared, param)
    return blob if content_type == blob.content_type else _Retyped(blob, content_type)


def _head(blob: Blob) -> bytes:
    head = b""
    for chunk in blob.chunks(16):
        head += chunk
        if len(head) >= 12:
            break
    return head


def _picture_type(head: bytes, declared: str, param: str) -> str:
    told = sniff(head)
    if told is not None:
        return told
    if declared not in ("", OCTETS) and not declared.startswith("image/"):
        raise Invalid(
            f"'{param}' must be a picture (JPEG, PNG or WebP), not {declared[:40]!r}.", param=param
        )
    return declared or OCTETS
