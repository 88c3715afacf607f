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

from proxy.model import Base64, Blob, DraftValue, Piece

_UNSAFE = re.compile(r'[\x00-\x1f\x7f"\\]')
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")


def multipart_pieces(fields: Mapping[str, DraftValue], boundary: str) -> tuple[Piece, ...]:
    """The whole body, blobs left as they are. Nulls, empty lists and empty objects have no
    part. The boundary must not occur in any value: see `boundary_for`."""
    pieces: list[Piece] = []
    text = bytearray()
    for name, value in _flat(fields):
        text += f'--{boundary}\r\nContent-Disposition: form-data; name="{_escaped(name)}"'.encode()
        if isinstance(value, str):
            text += b"\r\n\r\n" + value.encode()
        elif isinstance(value, Base64):
            text += b"\r\n\r\n"
            pieces += (bytes(text), value)
            text.clear()
        else:
            kind = value.content_type
            if not _MEDIA_TYPE.fullmatch(kind):  # a client's word, which must not add headers
                kind = "application/octet-stream"
            filename = _escaped(value.filename or "upload")
            text += f'; filename="{filename}"\r\nContent-Type: {kind}\r\n\r\n'.encode()
            pieces += (bytes(text), value)
            text.clear()
        text += b"\r\n"
    text += f"--{boundary}--\r\n".encode()
    return (*pieces, bytes(text))


def boundary_for(fields: Mapping[str, DraftValue]) -> str:
    """A boundary these fields cannot hold: it is a hash of them all, so whoever wants it inside
    a value has to find a fixed point of SHA-256. The same fields always get the same one."""
    digest = hashlib.sha256(b"reelway form")
    for piece in multipart_pieces(fields, ""):
        if isinstance(piece, bytes):
            digest.update(piece)
        elif isinstance(piece, Base64):
            digest.update(f"{piece.prefix}\0{piece.blob.sha256}".encode())
        else:
            digest.update(piece.sha256.encode())
    return digest.hexdigest()[:32]


def _flat(fields: Mapping[str, DraftValue]) -> Iterator[tuple[str, str | Blob | Base64]]:
    for name, value in fields.items():
        yield from _flat_value(name, value)


def _flat_value(name: str, value: DraftValue) -> Iterator[tuple[str, str | Blob | Base64]]:
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
