"""Requests to upstreams: as drafts, which rewrites may change, and sealed, ready for the socket."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from multidict import CIMultiDict

from proxy.model import Blob, Json


@dataclass(frozen=True, slots=True)
class Terms:
    """What a route says of a client's fields that nobody reads.

    `passes` are globs over the names that go on; on a priced route less does by itself.
    """

    passes: tuple[str, ...] = ()
    is_priced: bool = False


NO_TERMS: Final = Terms()


@dataclass(frozen=True, slots=True)
class Base64:
    """A blob inside a JSON body as base64 text, after `prefix` (a data: URL's head, or nothing)."""

    blob: Blob
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that is named by its address, in place of its bytes: it is fetched and put here
    before the draft is sealed, for a server that must not fetch addresses itself."""

    url: str
    param: str  # the client's own name of the field, for error messages
    kind: Literal["picture", "video"] = "picture"


DraftValue: TypeAlias = "Json | Blob | Base64 | Remote | list[DraftValue] | dict[str, DraftValue]"


@dataclass(frozen=True, slots=True)
class Adjustment:
    """A field rendered otherwise than asked: `reelway-adjusted: seconds=8>10`."""

    field: str
    asked: str
    given: str

    def __str__(self) -> str:
        return f"{self.field}={self.asked}>{self.given}"


@dataclass(frozen=True, slots=True)
class Draft:
    """An upstream request before it is sealed; routing's rewrites apply to `fields`.

    `path` is joined to the upstream's `base_url`. `fields` is the body by its top-level names
    (JSON body, or the parts of a multipart one). `handle` are the adapter's own notes it needs
    later to poll or fetch (Kling's path, Jimeng's req_key): kept in the task.
    """

    method: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    encoding: Literal["json", "multipart", "none"] = "none"
    fields: Mapping[str, DraftValue] = field(default_factory=dict)
    handle: Mapping[str, str] = field(default_factory=dict)
    adjusted: tuple[Adjustment, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a rewritten draft will make: told to the client, and priced. None: not known.

    `most_seconds` is the longest it may become where the server decides the length: what is held
    goes by it, what is charged by what was made.
    """

    seconds: float | None = None
    size: tuple[int, int] | None = None
    n: int = 1
    audio: bool = False
    mode: str | None = None
    most_seconds: float | None = None


Piece: TypeAlias = "bytes | Blob | Base64"


@dataclass(frozen=True, slots=True)
class Outbound:
    """A sealed upstream request: serialised, signed, ready for the socket.

    `url` is complete and already encoded. `pieces` are sent one after the other; `length`
    is their sum in bytes. `guarded` is True for addresses a provider gave us (result URLs):
    those go through the SSRF guard and never carry our credentials.
    """

    method: str
    url: str
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    pieces: tuple[Piece, ...] = ()
    length: int = 0
    guarded: bool = False
