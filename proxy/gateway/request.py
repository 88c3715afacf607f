"""A client's request: its head as our own value, its body from the socket to named fields.

Rule: no body is read before its sender was let in, and no body is held whole but JSON,
which `limits.json_bytes` bounds. A file part goes to the spool as it arrives. What is held in
memory counts against `limits.body_bytes`.

JSON is read under any type that says so. Under a type that says nothing (none, text/plain, bytes,
and what curl sends by default) it is read when it begins as an object: such clients exist.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import CIMultiDictProxy

from proxy.config import Config
from proxy.config.tables import BODY_WEIGHT
from proxy.errors import Invalid, TooLarge, UnsupportedMediaType
from proxy.gateway.listener import read_body
from proxy.http.addresses import client_address, is_trusted
from proxy.http.documents import json_fields, opens_object
from proxy.http.headers import content_length
from proxy.http.multipart import FormLimits, FormParser
from proxy.http.targets import PathRules, read_target
from proxy.tasks.offload import offload
from proxy.tasks.spool import Batch
from proxy.telemetry.exchange import Head

_JSON = ("application/json", "text/json", "application/x-json", "application/javascript")
_UNTYPED = (
    "",
    "text/plain",
    "application/octet-stream",
    "binary/octet-stream",
    "application/x-www-form-urlencoded",  # curl -d without a type
)
_LARGE_PIECE_BYTES = 64 * 1024
_HEAD_BYTES = 1024  # of blanks before the first brace
_CHARSET = re.compile(r";[ \t]*charset[ \t]*=[ \t]*\"?([\w.:-]{1,40})", re.IGNORECASE)
MAX_WAIT_S = 60
_PREFER_WAIT = re.compile(
    r"""(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])""", re.IGNORECASE | re.ASCII
)


# ---------------------------------------------------------------- the head


def head_of(request: web.BaseRequest, trusted: tuple[str, ...], rules: PathRules) -> Head:
    """The head as our own value; a query that is no UTF-8 keeps its bytes as surrogates. Behind
    `trusted` proxies the peer, host and prefix are what they say."""
    headers, peer = request.headers, request.remote or ""
    written, path, query, host = read_target(request.raw_path, rules)
    pairs: tuple[tuple[str, str], ...] = ()
    if query:
        pairs = tuple(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    prefix = ""
    if is_trusted(peer, trusted):
        host = _first(headers.get("X-Forwarded-Host")) or host
        prefix = _first(headers.get("X-Forwarded-Prefix")).rstrip("/")
        prefix = prefix if prefix.startswith("/") else ""
        peer = client_address(peer, headers.get("X-Forwarded-For"), trusted)
    return Head(request.method, written, path, pairs, headers, peer or "-", host, prefix)


def _first(values: str | None) -> str:
    """Of a list that each proxy appends to: what the client itself used."""
    return (values or "").partition(",")[0].strip()


def wait_of(query: Mapping[str, str], headers: CIMultiDictProxy[str]) -> float:
    """How long a status request may wait for the task's end: `?wait=N`, or `Prefer: wait=N`
    (RFC 7240, which leaves it to the server how much of it is granted); 0 when it does not ask.
    Raises `Invalid` for a query that is no number to 60."""
    text = query.get("wait")
    if text is None:
        preferences = headers.getall("Prefer", ())
        match = _PREFER_WAIT.search(",".join(preferences)) if preferences else None
        return min(int(match[1]), MAX_WAIT_S) if match else 0
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= MAX_WAIT_S):
        raise Invalid(f"'wait' must be a whole number of seconds, 0 to {MAX_WAIT_S}.", param="wait")
    return int(text)


def wants_quote(head: Head) -> bool:
    """Whether a submit only asks what it would cost. Said twice it is an error: a price asked
    for must never become a render."""
    values = [value for name, value in head.query if name == "dry_run"]
    if values in ([], ["0"], ["1"]):
        return values == ["1"]
    raise Invalid("'dry_run' must be 0 or 1, once.", param="dry_run")


# ---------------------------------------------------------------- the body


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """What was sent, in `size` bytes. `sha256` is of these (JSON only; a form is never signed).
    `held` of them are in memory, the rest in the spool."""

    fields: Mapping[str, object]
    sha256: str
    size: int
    held: int


_NOTHING = ParsedBody({}, hashlib.sha256(b"").hexdigest(), 0, 0)


async def read_fields(
    request: web.BaseRequest,
    accepts_forms: bool,
    config: Config,
    batch: Batch,
    read: bytes | None,
    most: int | None = None,
) -> ParsedBody:
    """The body as fields, of a form only where the dialect accepts forms.

    `read` is the body when somebody had to read it before. `most` bytes are what this client may
    send, if that is less than anybody may. What the body weighs in memory is booked in `batch`.
    """
    if read is None and request.content.at_eof():
        return _NOTHING
    kind = request.headers.get("Content-Type", "")
    word = kind.partition(";")[0].strip().lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding '{encoding}' is not read; send it plain.")
    if word == "multipart/form-data" and accepts_forms and read is None:
        return await _read_form(request, kind, config, batch, most)
    is_json = word in _JSON or word.endswith("+json")
    if not is_json and word not in _UNTYPED:
        raise _unread(word, accepts_forms)
    if read is None:
        limit = _least(config.limits.json_bytes, most)
        check = None if is_json else lambda head: _check_opening(head, word, accepts_forms)
        read = await read_whole(request, config, limit, batch, check)
    if not is_json and read:
        _check_opening(read[:_HEAD_BYTES], word, accepts_forms)
    batch.weigh(BODY_WEIGHT * len(read))
    return await offload(len(read), _read_json, read, _charset_of(kind))


def _unread(word: str, accepts_forms: bool) -> UnsupportedMediaType:
    accepted = "application/json" + (" or multipart/form-data" if accepts_forms else "")
    shown = f"'{word}'" if word else "none"
    return UnsupportedMediaType(f"Content-Type {shown} is not read here; send {accepted}.")


def _check_opening(head: bytes, word: str, accepts_forms: bool) -> bool:
    """False while nothing shows. `UnsupportedMediaType` when it does not begin as an object."""
    opens = opens_object(head)
    if opens is False:
        raise _unread(word, accepts_forms)
    return opens is True


def _charset_of(kind: str) -> str | None:
    found = _CHARSET.search(kind)
    return found[1] if found else None


def _read_json(raw: bytes, charset: str | None) -> ParsedBody:
    fields = json_fields(raw, charset) if raw else {}
    return ParsedBody(fields, hashlib.sha256(raw).hexdigest(), len(raw), len(raw))


async def read_whole(
    request: web.BaseRequest,
    config: Config,
    limit: int,
    batch: Batch,
    check: Callable[[bytes], bool] | None = None,
) -> bytes:
    """A body of at most `limit` bytes; refused by its announced length before it is read.

    `check` is asked with the first bytes until it says True, and raises for a body that nobody
    needs to read to its end. What has come is booked in `batch`.
    """
    announced = content_length(request.headers.get("Content-Length"))
    if announced is not None and announced > limit:
        raise _too_large(limit)
    body = _Pieces()
    async for chunk in _arriving(request, config, batch):
        body.add(chunk)
        if body.size > limit:
            raise _too_large(limit)
        batch.weigh(body.size)
        if check is not None and check(body.head()):
            check = None
    return await offload(body.size, body.whole)


class _Pieces:
    """A body as it comes. Large pieces are kept as they are, for a buffer that grows is copied
    again and again while the loop waits; small ones are gathered, for each has a price of its
    own."""

    def __init__(self) -> None:
        self.size = 0
        self._kept: list[bytes] = []
        self._gathered = bytearray()

    def add(self, piece: bytes) -> None:
        self.size += len(piece)
        if len(piece) < _LARGE_PIECE_BYTES:
            self._gathered += piece
            if len(self._gathered) < _LARGE_PIECE_BYTES:
                return
            piece = b""
        if self._gathered:
            self._kept.append(bytes(self._gathered))
            self._gathered.clear()
        if piece:
            self._kept.append(piece)

    def head(self) -> bytes:
        """Its first bytes."""
        first = self._kept[0] if self._kept else self._gathered
        return bytes(first[:_HEAD_BYTES])

    def whole(self) -> bytes:
        return b"".join([*self._kept, self._gathered])


async def _read_form(
    request: web.BaseRequest, kind: str, config: Config, batch: Batch, client_most: int | None
) -> ParsedBody:
    limits = config.limits
    most = _least(limits.upload_bytes + limits.json_bytes, client_most)
    announced = content_length(request.headers.get("Content-Length"))
    if announced is not None and announced > most:
        raise _too_large(most)
    parser = FormParser(
        kind,
        FormLimits(
            parts=limits.form_parts,
            text_bytes=limits.form_text_bytes,
            upload_bytes=limits.upload_bytes,
        ),
        batch.open,
    )
    received = 0
    async for chunk in _arriving(request, config, batch):
        received += len(chunk)
        if received > most:
            raise _too_large(most)
        parser.feed(chunk)
        batch.weigh(parser.text_bytes)
    batch.weigh(BODY_WEIGHT * parser.text_bytes)
    fields = await offload(parser.text_bytes, parser.finish)
    return ParsedBody(fields, "", received, parser.text_bytes)


def _arriving(request: web.BaseRequest, config: Config, batch: Batch) -> AsyncIterator[bytes]:
    least = config.limits.min_body_bytes_s
    idle_s = config.timeouts.body_idle_s
    return read_body(request, idle_s, min_bytes_s=least, turn=batch.turn)


def check_announced(head: Mapping[str, str], most: int | None) -> None:
    """`TooLarge` when a request says that its body is larger than this."""
    if most is None:
        return
    announced = content_length(head.get("Content-Length"))
    if announced is not None and announced > most:
        raise _too_large(most)


def _least(limit: int, most: int | None) -> int:
    return limit if most is None else min(limit, most)


def _too_large(limit: int) -> TooLarge:
    text = f"The request body is larger than the {limit} bytes accepted here."
    return TooLarge(text, limit="body")
