"""From a draft's fields to the exact bytes on the wire, uploads never whole in memory.

A JSON body is a row of pieces: bytes, and `Base64` blobs between them. `encoded` and `sha256`
read the blobs in chunks, so a signed body costs one pass to hash and one to send.
"""

from __future__ import annotations

import binascii
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import quote

import orjson

from proxy.errors import Invalid
from proxy.http.outbound import Base64, DraftValue, Piece
from proxy.model import Blob

BLOCK_BYTES = 256 * 1024

# Stands where a blob goes. It cannot be forged: inside JSON text NUL is always escaped.
_HOLE = b"\x00"


def json_pieces(fields: Mapping[str, DraftValue]) -> tuple[Piece, ...]:
    """The fields as one compact JSON object, in their order.

    A `Base64` anywhere in them becomes its own piece; its prefix is escaped as JSON text and
    moves into the bytes before it. Raises `Invalid` for what JSON text cannot hold (nesting
    beyond 254 levels, which a client may send), TypeError for what an adapter must not put there.
    """
    blobs: list[Blob] = []

    def leave_hole(value: object) -> orjson.Fragment:
        if not isinstance(value, Base64):
            raise TypeError(f"{type(value).__name__} has no place in a JSON body")
        blobs.append(value.blob)
        return orjson.Fragment(orjson.dumps(value.prefix)[:-1] + _HOLE + b'"')

    try:
        # Without the option orjson would write out a Base64's own members.
        text = orjson.dumps(fields, default=leave_hole, option=orjson.OPT_PASSTHROUGH_DATACLASS)
    except orjson.JSONEncodeError as exc:
        if exc.__cause__ is not None:  # leave_hole's: an adapter's bug, not a client's mistake
            raise
        raise Invalid(f"The request cannot be written as JSON: {exc}.") from exc
    pieces: list[Piece] = []
    for index, part in enumerate(text.split(_HOLE)):
        if index:
            pieces.append(Base64(blobs[index - 1]))
        pieces.append(part)
    return tuple(pieces)


def length(pieces: Sequence[Piece]) -> int:
    """Content-Length: the bytes `encoded` will yield."""
    total = 0
    for piece in pieces:
        if isinstance(piece, bytes):
            total += len(piece)
        elif isinstance(piece, Base64):
            total += len(piece.prefix.encode()) + 4 * ((piece.blob.size + 2) // 3)
        else:
            total += piece.size
    return total


def encoded(pieces: Sequence[Piece]) -> Iterator[bytes]:
    """The exact bytes, in order, `BLOCK_BYTES` at most at a time."""
    for piece in pieces:
        if isinstance(piece, bytes):
            if len(piece) <= BLOCK_BYTES:
                yield piece
                continue
            for start in range(0, len(piece), BLOCK_BYTES):
                yield piece[start : start + BLOCK_BYTES]
        elif isinstance(piece, Base64):
            if piece.prefix:
                yield piece.prefix.encode()
            yield from _base64(piece.blob)
        else:
            yield from piece.chunks()


def sha256(pieces: Sequence[Piece]) -> str:
    """The lower-case hex hash of the bytes `encoded` will yield."""
    digest = hashlib.sha256()
    for chunk in encoded(pieces):
        digest.update(chunk)
    return digest.hexdigest()


def address(base_url: str, path: str, query: Sequence[tuple[str, str]] = ()) -> str:
    """A complete URL. `path` is already encoded and starts with a slash; `query` is not."""
    pairs = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query)
    return f"{base_url}{path}?{pairs}" if pairs else f"{base_url}{path}"


def segment(text: str) -> str:
    """A value as one path segment: an id from outside never leaves its place in the path."""
    encoded_text = quote(text, safe="")
    return encoded_text.replace(".", "%2E") if not text.strip(".") else encoded_text


def _base64(blob: Blob) -> Iterator[bytes]:
    """Base64 joins only at multiples of three bytes: what is over is carried to the next chunk."""
    carry = b""
    for chunk in blob.chunks():
        block = carry + chunk if carry else chunk
        whole = len(block) - len(block) % 3
        if whole:
            yield binascii.b2a_base64(memoryview(block)[:whole], newline=False)
        carry = block[whole:]
    if carry:
        yield binascii.b2a_base64(carry, newline=False)
