"""A client's body, from the socket to named fields.

Rule: nothing here is called before the caller was let in, and no body is held whole but JSON,
which `limits.json_bytes` bounds. A file part goes to the spool as it arrives.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiohttp import web

from proxy.aside import aside
from proxy.config import Config
from proxy.errors import TooLarge, UnsupportedMediaType
from proxy.http.headers import content_length
from proxy.http.multipart import FormLimits, FormParser, json_fields
from proxy.listener import read_body
from proxy.model import DialectName
from proxy.spool import Batch

_FORMS: tuple[DialectName, ...] = ("openai", "generic")  # who may send multipart


@dataclass(frozen=True, slots=True)
class Body:
    """What was sent, in `size` bytes. `sha256` is of these (JSON only; a form is never signed)."""

    fields: Mapping[str, object]
    sha256: str
    size: int


_NOTHING = Body({}, hashlib.sha256(b"").hexdigest(), 0)


async def read_fields(
    request: web.BaseRequest,
    dialect: DialectName,
    config: Config,
    batch: Batch,
    read: bytes | None,
    most: int | None = None,
) -> Body:
    """The body as fields; `read` is the body when somebody had to read it before. `most` bytes
    are what this client may send, if that is less than anybody may."""
    if read is None and request.content.at_eof():
        return _NOTHING
    kind = request.headers.get("Content-Type", "")
    word = kind.partition(";")[0].strip().lower()
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding != "identity":
        raise UnsupportedMediaType(f"Content-Encoding '{encoding}' is not read; send it plain.")
    if word == "application/json" or word.endswith("+json"):
        raw = (
            read
            if read is not None
            else await read_whole(request, config, _least(config.limits.json_bytes, most))
        )
        return await aside(len(raw), _read_json, raw)
    if word == "multipart/form-data" and dialect in _FORMS and read is None:
        return await _read_form(request, kind, config, batch, most)
    accepted = "application/json" + (" or multipart/form-data" if dialect in _FORMS else "")
    shown = f"'{word}'" if word else "none"
    raise UnsupportedMediaType(f"Content-Type {shown} is not read here; send {accepted}.")


def _read_json(raw: bytes) -> Body:
    return Body(json_fields(raw) if raw else {}, hashlib.sha256(raw).hexdigest(), len(raw))


async def read_whole(request: web.BaseRequest, config: Config, limit: int) -> bytes:
    """A body of at most `limit` bytes; refused by its announced length before it is read."""
    announced = content_length(request.headers.get("Content-Length"))
    if announced is not None and announced > limit:
        raise _too_large(limit)
    body = bytearray()
    async for chunk in _arriving(request, config):
        body += chunk
        if len(body) > limit:
            raise _too_large(limit)
    return bytes(body)


async def _read_form(
    request: web.BaseRequest, kind: str, config: Config, batch: Batch, client_most: int | None
) -> Body:
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
    async for chunk in _arriving(request, config):
        received += len(chunk)
        if received > most:
            raise _too_large(most)
        parser.feed(chunk)
    return Body(parser.finish(), "", received)


def _arriving(request: web.BaseRequest, config: Config) -> AsyncIterator[bytes]:
    least = config.limits.min_body_bytes_s
    return read_body(request, config.timeouts.body_idle_s, min_bytes_s=least)


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
