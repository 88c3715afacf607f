"""A draft's fields as multipart/form-data, the way openai-python puts them on the wire.

Text parts have only a Content-Disposition, file parts a file name and a Content-Type; nested
values are flattened as `a[b]`, `a[]`, `a[][b]` (openai-python 3.54, captured). Names are
escaped as browsers do (WHATWG HTML, "multipart/form-data encoding algorithm"), with backslash
and the other control characters added: parsers that unescape backslashes would otherwise see
another name than we wrote.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from proxy.errors import Invalid
from proxy.http.outbound import Base64, DraftValue, Piece, Remote
from proxy.model import Blob

# Starlette, under most self-hosted servers, takes no more parts with text.
MAX_PARTS: Final = 1000
MAX_HEAD_BYTES: Final = 1 << 20  # of all names and part heads together

_AROUND_BYTES: Final = 96  # a delimiter, a Content-Disposition, three line ends
_UNSAFE = re.compile(r'[\x00-\x1f\x7f"\\]')
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")


class Form(NamedTuple):
    """A body and the boundary in it."""

    boundary: str
    pieces: tuple[Piece, ...]


def form_of(fields: Mapping[str, DraftValue]) -> Form:
    """The whole body, made once. Raises `Invalid` as `check_form` does."""
    check_form(fields)
    parts = list(_parts(fields))
    boundary = _boundary_of(parts)
    return Form(boundary, _joined(parts, boundary))


def multipart_pieces(fields: Mapping[str, DraftValue], boundary: str) -> tuple[Piece, ...]:
    """The body with a boundary that must not occur in any value: see `boundary_for`."""
    return _joined(list(_parts(fields)), boundary)


def boundary_for(fields: Mapping[str, DraftValue]) -> str:
    """A boundary these fields cannot hold: it is a hash of them all, so whoever wants it inside
    a value has to find a fixed point of SHA-256. The same fields always get the same one."""
    return _boundary_of(list(_parts(fields)))


def check_form(fields: Mapping[str, DraftValue]) -> None:
    """Count what a form of these fields would be, and make nothing.

    A list is sent as parts that repeat its name, so 160 KB of a long name and many zeros could
    become gigabytes. With the names bounded, a form is at most `MAX_HEAD_BYTES` larger than the
    values in it. Raises `Invalid` with the field that is too much.
    """
    size = 0
    for count, (name, _) in enumerate(_flat(fields), 1):
        size += len(name.encode()) + _AROUND_BYTES
        if count > MAX_PARTS or size > MAX_HEAD_BYTES:
            field = name.partition("[")[0][:64]
            too_much = (
                f"more than {MAX_PARTS} parts"
                if count > MAX_PARTS
                else f"names of more than {MAX_HEAD_BYTES} bytes"
            )
            raise Invalid(
                f"The request would be a form with {too_much} for the provider; "
                f"'{field}' holds too many values.",
                param=field,
            )


class _Part(NamedTuple):
    head: bytes  # from behind the delimiter to the empty line
    value: bytes | Base64 | Blob


def _parts(fields: Mapping[str, DraftValue]) -> Iterator[_Part]:
    """Nulls, empty lists and empty objects have no part."""
    for name, value in _flat(fields):
        head = f'\r\nContent-Disposition: form-data; name="{_escaped(name)}"'
        if isinstance(value, str):
            yield _Part(f"{head}\r\n\r\n".encode(), value.encode())
        elif isinstance(value, Base64):
            yield _Part(f"{head}\r\n\r\n".encode(), value)
        elif isinstance(value, Remote):  # counted by `check_form`, fetched before it is sealed
            raise TypeError(f"the file of {name!r} was not fetched")
        else:
            kind = value.content_type
            if not _MEDIA_TYPE.fullmatch(kind):  # a client's word, which must not add headers
                kind = "application/octet-stream"
            filename = _escaped(value.filename or "upload")
            head += f'; filename="{filename}"\r\nContent-Type: {kind}\r\n\r\n'
            yield _Part(head.encode(), value)


def _boundary_of(parts: list[_Part]) -> str:
    digest = hashlib.sha256(b"reelway form")
    for head, value in parts:
        digest.update(b"--" + head)
        if isinstance(value, bytes):
            digest.update(value)
        elif isinstance(value, Base64):
            digest.update(f"{value.prefix}\0{value.blob.sha256}".encode())
        else:
            digest.update(value.sha256.encode())
        digest.update(b"\r\n")
    digest.update(b"----\r\n")
    return digest.hexdigest()[:32]


def _joined(parts: list[_Part], boundary: str) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    text = bytearray()
    for head, value in parts:
        text += f"--{boundary}".encode() + head
        if isinstance(value, bytes):
            text += value
        else:
            pieces += (bytes(text), value)
            text.clear()
        text += b"\r\n"
    text += f"--{boundary}--\r\n".encode()
    return (*pieces, bytes(text))


def _flat(fields: Mapping[str, DraftValue]) -> Iterator[tuple[str, str | Blob | Base64 | Remote]]:
    for name, value in fields.items():
        yield from _flat_value(name, value)


def _flat_value(name: str, value: DraftValue) -> Iterator[tuple[str, str | Blob | Base64 | Remote]]:
    if value is None:
        return
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat_value(f"{name}[{key}]", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat_value(f"{name}[]", inner)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif isinstance(value, int | float):
        yield name, str(value)
    else:
        yield name, value


def _escaped(name: str) -> str:
    return _UNSAFE.sub(lambda found: f"%{ord(found[0]):02X}", name)
