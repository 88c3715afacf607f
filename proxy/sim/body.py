"""Reading a request's body: JSON, or a multipart form with bracketed names and files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_KEY = re.compile(r"\[([^\[\]]*)\]")
_HEAD_BYTES = 16
_LONGEST_KEPT = 65_536


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that was sent, as a form part or as base64; its bytes are hashed, not kept."""

    field: str
    filename: str
    media_type: str
    size: int
    sha256: str
    #: The first 16 bytes.
    head: bytes

    def to_json(self) -> dict[str, object]:
        return {
            "field": self.field,
            "filename": self.filename,
            "media_type": self.media_type,
            "size": self.size,
            "sha256": self.sha256,
        }


def upload_of(field_name: str, data: bytes) -> Upload:
    """Describes a file that came as base64 inside JSON."""
    digest = hashlib.sha256(data).hexdigest()
    return Upload(field_name, "", "", len(data), digest, data[:_HEAD_BYTES])


@dataclass(slots=True)
class Body:
    """`raw` is empty for a form. `problem` says why `fields` could not be read."""

    raw: bytes = b""
    size: int = 0
    is_form: bool = False
    fields: dict[str, object] = field(default_factory=dict)
    uploads: list[Upload] = field(default_factory=list)
    problem: str | None = None


def slim(fields: dict[str, object]) -> dict[str, object]:
    """The same with very long strings (base64 images) replaced by hash and length.

    Logs and tasks are kept; ten thousand pictures would not fit.
    """
    return {name: _slim(value) for name, value in fields.items()}


def _slim(value: object) -> object:
    if isinstance(value, dict):
        return slim(value)
    if isinstance(value, list):
        return [_slim(item) for item in value]
    if isinstance(value, str) and len(value) > _LONGEST_KEPT:
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}:{len(value)}"
    return value


async def read_body(request: web.Request) -> Body:
    if request.content_type == "multipart/form-data":
        return await _read_form(request)
    body = Body(raw=await request.read())
    body.size = len(body.raw)
    if not body.raw:
        return body
    if request.content_type != "application/json":
        body.problem = f"Unsupported content type: '{request.content_type}'."
        return body
    try:
        value = json.loads(body.raw)
    except ValueError:
        body.problem = "The body is not valid JSON."
        return body
    if isinstance(value, dict):
        body.fields = value
    else:
        body.problem = "The body is not a JSON object."
    return body


async def _read_form(request: web.Request) -> Body:
    body = Body(is_form=True)
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name is None:
                body.problem = "A part of the form has no name."
                return body
            if part.filename is None:
                text = await part.text()
                body.size += len(text.encode())
                _put(body.fields, part.name, text)
                continue
            upload = await _read_file(part, part.name, part.filename)
            body.size += upload.size
            body.uploads.append(upload)
            _put(body.fields, part.name, upload)
    except (ValueError, AssertionError, HttpProcessingError) as exc:
        body.problem = f"The multipart form is broken: {exc}"
    return body


async def _read_file(part: BodyPartReader, name: str, filename: str) -> Upload:
    digest = hashlib.sha256()
    size = 0
    head = b""
    while chunk := await part.read_chunk(65_536):
        digest.update(chunk)
        size += len(chunk)
        head = head or chunk[:_HEAD_BYTES]
    media_type = part.headers.get("Content-Type", "")
    return Upload(name, filename, media_type, size, digest.hexdigest(), head)


def _put(fields: dict[str, object], name: str, value: object) -> None:
    """`a[b]` is {"a": {"b": …}}, `a[]` a list; SDKs flatten nested values so."""
    match = _NAME.fullmatch(name)
    if match is None:
        fields[name] = value
        return
    keys = [match.group(1), *_KEY.findall(match.group(2))]
    if len(keys) > 1 and keys[-1] == "":
        keys.pop()
        value = [value]
    inner = fields
    for key in keys[:-1]:
        child = inner.setdefault(key, {})
        if not isinstance(child, dict):
            raise ValueError(f"'{name}' is both a value and an object.")
        inner = child
    old = inner.get(keys[-1])
    if isinstance(old, list) and isinstance(value, list):
        old.extend(value)
    else:
        inner[keys[-1]] = value
