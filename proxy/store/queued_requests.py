"""What is kept of a request that waits: all it takes to make its upstream requests again.

One document line (JSON, the names of `model.VideoRequest`), a line end, then the uploads one
after the other; cut into pieces, so that no single command carries megabytes. Pure. The keys of
a provider are not part of a request, so none is ever kept here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import orjson

from proxy.dialects.media import MemoryBlob
from proxy.model import Blob, Kind, Media, Operation, Role, VideoRequest
from proxy.store.codec import plain_mapping

MAX_BYTES: Final = 12 * 1024 * 1024
PIECE_BYTES: Final = 1024 * 1024
MAX_PIECES: Final = MAX_BYTES // PIECE_BYTES

_REQUEST_FIELDS: Final = frozenset(f.name for f in fields(VideoRequest))


@dataclass(frozen=True, slots=True)
class KeptRequest:
    """`forwarded` are the client's headers that the upstream hears as well; `size` the bytes
    this was kept in."""

    request: VideoRequest
    forwarded: Mapping[str, str]
    size: int


@dataclass(frozen=True, slots=True)
class Packed:
    """A request as it is kept, in `size` bytes. `pieces` may be asked for again."""

    head: bytes
    blobs: tuple[Blob, ...]

    @property
    def size(self) -> int:
        return len(self.head) + sum(blob.size for blob in self.blobs)

    def pieces(self) -> Iterator[bytes]:
        """All of it, `PIECE_BYTES` at a time; only the last piece is shorter."""
        waiting = bytearray(self.head)
        for blob in self.blobs:
            for chunk in blob.chunks():
                waiting += chunk
                while len(waiting) >= PIECE_BYTES:
                    yield bytes(waiting[:PIECE_BYTES])
                    del waiting[:PIECE_BYTES]
        while waiting:
            yield bytes(waiting[:PIECE_BYTES])
            del waiting[:PIECE_BYTES]


def pack(request: VideoRequest, forwarded: Mapping[str, str]) -> Packed:
    blobs = tuple(media.blob for media in request.media if media.blob is not None)
    document = {
        "request": replace(request, media=()),
        "media": [
            {"role": media.role, "param": media.param, "url": media.url} for media in request.media
        ],
        "blobs": [
            {"size": blob.size, "content_type": blob.content_type, "filename": _text(blob.filename)}
            for blob in blobs
        ],
        # A header's bytes need not be text; such a one traces nothing.
        "forwarded": {name: value for name, value in forwarded.items() if value.isascii()},
    }
    return Packed(orjson.dumps(document, default=plain_mapping) + b"\n", blobs)


def unpack(kept: bytes) -> KeptRequest:
    """The request of such bytes; ValueError when they are not whole, or none."""
    head, _, body = kept.partition(b"\n")
    try:
        raw: dict[str, Any] = orjson.loads(head)
        blobs = iter(_blobs(raw["blobs"], body))
        media = tuple(
            Media(
                Role(item["role"]),
                item["param"],
                item["url"],
                blob=next(blobs) if item["url"] is None else None,
            )
            for item in raw["media"]
        )
        known = {k: v for k, v in raw["request"].items() if k in _REQUEST_FIELDS}
        known["operation"] = Operation(known["operation"])
        known["kind"] = Kind(known["kind"])
        known["size"] = None if known["size"] is None else tuple(known["size"])
        known["media"] = media
        return KeptRequest(VideoRequest(**known), raw["forwarded"], len(kept))
    except (KeyError, TypeError, AttributeError, RuntimeError) as exc:
        raise ValueError(f"not a request that was kept: {exc!r}") from exc


def _blobs(told: list[dict[str, Any]], body: bytes) -> list[Blob]:
    if sum(item["size"] for item in told) != len(body):
        raise ValueError("a part of the request is missing")
    found: list[Blob] = []
    start = 0
    for item in told:
        data = body[start : start + item["size"]]
        found.append(MemoryBlob(data, item["content_type"], item["filename"]))
        start += item["size"]
    return found


def _text(name: str) -> str:
    """A file's name may hold bytes that are no text, which no JSON can."""
    return name.encode("utf-8", "replace").decode()
