"""A client's picture, video or sound, in whichever form it came, as one `Media`.

Clients send a file part, an http(s) URL, a data: URL or bare base64; all but the URL become a
blob, so that adapters meet two forms only. What the picture shows, its size and its format are
the provider's to judge; here only what cannot be a picture at all is refused. The type told by
the first bytes outranks the declared one: openai-python sends raw bytes as
application/octet-stream, and providers believe the type in a data: URL.

Rule: no picture, video or sound is ever left out of a render in silence. `media_in` recognises
one by its value under whatever name it came, so that whoever does not carry it can refuse it.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import cast
from urllib.parse import unquote, urlsplit

from proxy.dialects.fields import folded, is_blob, shown
from proxy.errors import Invalid
from proxy.http.documents import json_value
from proxy.model import Blob, Media, Role

ACCEPTED = "a file, an http(s) URL, a data: URL or base64"
OCTETS = "application/octet-stream"

_URL_MAX_CHARS = 8192
_PIECE_CHARS = 1 << 20  # a multiple of four: each piece is base64 by itself
_WHAT = {  # what a value of a role must be, in an error's words
    Role.REFERENCE_VIDEO: ("video", "a video"),
    Role.REFERENCE_AUDIO: ("audio", "a sound"),
}
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
        raise Invalid(f"'{param}' must be {ACCEPTED}, not {shown(value)}.", param=param)
    if value[:8].lower().startswith(("http://", "https://")):
        return Media(role, param, url=web_address(value, param, max_chars=_URL_MAX_CHARS))
    return Media(role, param, blob=inline(value, param))


def medium(value: object, param: str, role: Role) -> Media:
    """A picture, or for the roles of a video or a sound one of these. Raises `Invalid`."""
    if role not in _WHAT:
        return picture(value, param, role)
    family, words = _WHAT[role]
    if isinstance(value, str) and value[:8].lower().startswith(("http://", "https://")):
        return Media(role, param, url=web_address(value, param, max_chars=_URL_MAX_CHARS))
    if is_blob(value):
        blob = cast("Blob", value)
    elif isinstance(value, str):
        declared, data = _decoded(value, param)
        blob = MemoryBlob(data, declared or OCTETS)
    else:
        raise Invalid(f"'{param}' must be {ACCEPTED}, not {shown(value)}.", param=param)
    if blob.size == 0:
        raise Invalid(f"'{param}' is an empty file.", param=param)
    declared = blob.content_type.partition(";")[0].strip().lower()
    told = family_of(_head(blob, 16))
    is_declared = declared in ("", OCTETS) or declared.startswith(f"{family}/")
    if told not in (None, family) or not is_declared:
        raise Invalid(f"'{param}' must be {words}, not {declared[:40] or told}.", param=param)
    return Media(role, param, blob=blob)


def clip(value: object, param: str, role: Role = Role.SOURCE) -> Media:
    """An uploaded video: a file part, whatever its declared type."""
    if not is_blob(value):
        raise Invalid(f"'{param}' must be a video file, not {shown(value)}.", param=param)
    blob = cast("Blob", value)
    if blob.size == 0:
        raise Invalid(f"'{param}' is an empty file.", param=param)
    return Media(role, param, blob=blob)


def inline(value: str, param: str) -> MemoryBlob:
    """The bytes of a data: URL or of bare base64.

    Standard alphabet, right padding and nothing after it (RFC 4648 §3.3); only line ends are
    passed over, since `base64` on the command line and MIME encoders wrap at 76 columns.
    """
    declared, data = _decoded(value, param)
    return MemoryBlob(data, _picture_type(data[:16], declared, param))


def _decoded(value: str, param: str) -> tuple[str, bytes]:
    """(declared type, bytes) of a data: URL or of bare base64. Raises `Invalid`."""
    declared, text, start = "", value, 0
    if value[:5].lower() == "data:":
        head = _DATA_URL.match(value)
        if head is None or not head[2].lower().endswith(";base64"):
            raise Invalid(
                f"'{param}' must be a data: URL of the form data:image/png;base64,….", param=param
            )
        declared, start = head[1].strip().lower(), head.end()
    if "\n" in text:
        text, start = text[start:].replace("\r\n", "").replace("\n", ""), 0
    try:
        data = _unbase64(text, start)
    except ValueError as exc:  # binascii.Error, and plain ValueError for text outside ASCII
        raise Invalid(f"'{param}' must be {ACCEPTED}; it is none of these.", param=param) from exc
    if not data:
        raise Invalid(f"'{param}' holds no data.", param=param)
    return declared, data


def _unbase64(text: str, begin: int = 0) -> bytes:
    """Decode what stands in `text` from `begin` on. Raises ValueError.

    In pieces, for a call into C on all of it would stop every other thread. Padding has its place
    at the end of the last piece only, as in the text at once."""
    pieces: list[bytes] = []
    for start in range(begin, len(text), _PIECE_CHARS):
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


def _head(blob: Blob, least: int = 12) -> bytes:
    head = b""
    for chunk in blob.chunks(16):
        head += chunk
        if len(head) >= least:
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


# ---------------------------------------------------------------- recognising a value

_TEXTS = frozenset(  # folded names whose texts are read by people or called by us, never rendered
    {
        *("prompt", "negativeprompt", "negprompt", "prompttext", "textprompt", "originalprompt"),
        *("webhook", "webhookurl", "callback", "callbackurl", "callbackuri", "notifyurl"),
        *("notificationurl", "notifyhook"),
    }
)
_HINTS = (  # anywhere in a name
    *("image", "picture", "video", "audio", "frame", "photo", "sound", "voice", "footage"),
    *("music", "speech", "movie", "thumbnail", "reference"),
)
_SHORT_HINTS = ("clip", "img", "pic", "still", "mask", "song", "film")  # a word of a name
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_ENDINGS = re.compile(
    r"\.(png|jpe?g|jfif|webp|gif|bmp|tiff?|heic|heif|avif|svg|mp4|mov|webm|mkv|m4v|avi|mpe?g|ts|m3u8"
    r"|mp3|wav|m4a|ogg|oga|ogv|opus|flac|aac|weba|3gp|wmv|flv)$",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]{1,15}://\S+", re.IGNORECASE)
_EMBEDDED = re.compile(r"data:(image|video|audio)/", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-]+={0,2}")
_URL_ALPHABET = str.maketrans("-_", "+/")
_HEAD_CHARS = 4096  # what is looked at of a long text
_LONG_BASE64 = 256  # characters; shorter ones may be a hash or an id
_SMALL_JSON = 1 << 20


def media_in(value: object, name: str) -> str | None:
    """The dotted path of the first picture, video or sound in the value of field `name`, or None.

    It is one when it is a file, a data: URI of such a type, base64 that begins as one, or a URL
    whose path ends like one or whose name, on any level, says so. Prompts and callback addresses
    are texts. Of a long text only the beginning is looked at.
    """
    waiting: list[tuple[str, object, bool]] = [(name, value, has_media_name(name))]
    while waiting:
        path, inner, is_named = waiting.pop()
        if is_blob(inner):
            return path
        if isinstance(inner, str):
            if folded(path.rpartition(".")[2]) in _TEXTS:
                continue
            document = _json_in(inner)
            if document is None:
                if _is_media(inner, is_named):
                    return path
                continue
            inner = document
        if isinstance(inner, dict):
            members = list(inner.items())
            waiting += [
                (f"{path}.{key}", member, is_named or has_media_name(str(key)))
                for key, member in reversed(members)
            ]
        elif isinstance(inner, list):
            waiting += [(path, member, is_named) for member in reversed(inner)]
    return None


def has_media_name(name: str) -> bool:
    """True for a name that says picture, video, sound or mask."""
    plain = folded(name)
    if any(hint in plain for hint in _HINTS):
        return True
    words = (word.lower() for word in _WORDS.findall(name))
    return any(word in _SHORT_HINTS or word.rstrip("s") in _SHORT_HINTS for word in words)


def family_of(head: bytes) -> str | None:
    """ "image", "video" or "audio", by the first 16 bytes; None for anything else."""
    if sniff(head) or head.startswith((b"GIF87a", b"GIF89a", b"II*\x00", b"MM\x00*")):
        return "image"
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return "image"
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        if brand in (b"heic", b"heix", b"mif1", b"msf1", b"avif", b"avis", b"hevc"):
            return "image"
        return "audio" if brand.startswith((b"M4A", b"M4B")) else "video"
    if head[:4] == b"RIFF":
        return {b"WAVE": "audio", b"AVI ": "video"}.get(head[8:12])
    if head.startswith((b"\x1aE\xdf\xa3", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")):
        return "video"
    if head.startswith((b"ID3", b"OggS", b"fLaC", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2")):
        return "audio"
    return None


def _is_media(text: str, is_named: bool) -> bool:
    head = text[:_HEAD_CHARS].strip()
    if _EMBEDDED.search(head):
        return True
    if head[:5].lower() == "data:":
        return is_named or family_of(_first_bytes(head.partition(",")[2])) is not None
    if _SCHEME.match(head):
        if len(text) < _URL_MAX_CHARS and not _SCHEME.fullmatch(text.strip()):
            return False  # a sentence that begins with an address
        path = unquote(re.split(r"[?#]", head, maxsplit=1)[0]).rstrip("/")
        return is_named or _ENDINGS.search(path) is not None
    if len(head) < 16:
        return False
    compact = "".join(head[: _LONG_BASE64 * 2].split())
    if not _BASE64.fullmatch(compact):
        return False
    is_long = is_named and len(compact) >= _LONG_BASE64
    return is_long or family_of(_first_bytes(compact)) is not None


def _first_bytes(text: str) -> bytes:
    """The first bytes that base64 text stands for; none when it is no base64."""
    sample = "".join(text[:64].split()).translate(_URL_ALPHABET).rstrip("=")
    try:
        return binascii.a2b_base64(sample[: len(sample) // 4 * 4])
    except ValueError:
        return b""


def _json_in(text: str) -> object | None:
    """The object or list whose JSON text this is; None for any other text."""
    start = text[:64].lstrip()[:1]
    if start not in ("{", "[") or len(text) > _SMALL_JSON:
        return None
    try:
        return json_value(text.encode(), "The text")
    except (Invalid, UnicodeEncodeError):
        return None
