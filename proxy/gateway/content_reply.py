"""What the head of a content reply says; it is decided here and sent elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from multidict import CIMultiDictProxy

from proxy.config.tables import CorsTable
from proxy.errors import Invalid, UpstreamFailed
from proxy.gateway.auth import bad_link
from proxy.gateway.content_source import ObjectFacts, OpenBody
from proxy.http import cors
from proxy.http.ranges import (
    ByteSpan,
    Wish,
    is_unmodified,
    precondition_fails,
    range_still_holds,
)
from proxy.model import Call
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.timing import server_timing

_EXTENSIONS: Final = {
    "video/mp4": "mp4",
    "video/webm": "webm",
    "image/webp": "webp",
    "image/jpeg": "jpg",
}


@dataclass(frozen=True, slots=True)
class SignedLink:
    """A signed link to a result: its signature, and its end in seconds since the epoch."""

    signature: str
    exp_s: int


@dataclass(frozen=True, slots=True)
class ContentRequest:
    """Which bytes of which task a path and query name; `link` when a signed link asks."""

    task_id: str
    variant: str
    index: int
    is_download: bool
    link: SignedLink | None

    @property
    def key(self) -> tuple[str, str, int]:
        """The object these bytes are of."""
        return self.task_id, self.variant, self.index

    @classmethod
    def of(cls, call: Call) -> ContentRequest:
        """Raises `Invalid` for an index that is no number, `Forbidden` for a broken link."""
        query = call.query
        index = _index(query.get("index"))
        link = SignedLink(query["sig"], _exp_s(query.get("exp"))) if "sig" in query else None
        return cls(
            call.params["task_id"],
            query.get("variant") or "video",
            index,
            query.get("download") == "1",
            link,
        )


@dataclass(frozen=True, slots=True)
class PromisedBody:
    """The body that the head promises. `span` None: all there is, its length unknown;
    `chunked`: we frame it."""

    facts: ObjectFacts
    span: ByteSpan | None
    chunked: bool
    is_range: bool = False

    @property
    def status(self) -> int:
        return 206 if self.is_range else 200

    @property
    def framing(self) -> dict[str, str]:
        """How the body ends: by its length, by chunks, or with the connection."""
        span = self.span
        if span is None:
            return {"Transfer-Encoding": "chunked"} if self.chunked else {}
        headers = {"Content-Length": str(len(span))}
        if self.is_range:
            headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{self.facts.size}"
        return headers


def promise(
    facts: ObjectFacts, opened: OpenBody, wish: Wish | None, version: tuple[int, int]
) -> PromisedBody:
    """The body for what was opened. Raises `UpstreamFailed` when that begins behind its start."""
    span = None
    if facts.size is not None:
        span = wish.within(facts.size) if wish is not None else ByteSpan(0, facts.size)
    if opened.offset > (span.start if span is not None else 0):
        raise UpstreamFailed("The upstream sent another range than it was asked for.")
    # Where the upstream ends by closing, nobody can tell its end from a break: then we end by
    # closing too, and claim no more.
    chunked = span is None and opened.is_chunked and version >= (1, 1)
    return PromisedBody(facts, span, chunked, wish is not None)


def bodiless_status(headers: CIMultiDictProxy[str], facts: ObjectFacts) -> int | None:
    """412 or 304 when the request's conditions ask for no body, else None."""
    if precondition_fails(headers, facts.etag, facts.modified_s):
        return 412
    return 304 if is_unmodified(headers, facts.etag, facts.modified_s) else None


def can_promise_range(headers: CIMultiDictProxy[str], facts: ObjectFacts) -> bool:
    """Whether a part of this object can be promised: its size is known and If-Range holds."""
    return facts.size is not None and range_still_holds(
        headers.get("If-Range"), facts.etag, facts.modified_s
    )


def object_headers(exchange: Exchange, facts: ObjectFacts, rules: CorsTable) -> dict[str, str]:
    """Headers of every reply about the object, also of one without a body."""
    headers = {
        "ETag": facts.etag,
        "Cache-Control": "private, no-transform",
        "Accept-Ranges": "bytes" if facts.size is not None else "none",
        "X-Content-Type-Options": "nosniff",
        "X-Request-Id": exchange.id,
        **exchange.reply_headers,
        **server_timing(exchange),
    }
    if facts.modified is not None:
        headers["Last-Modified"] = facts.modified
    if rules.origins:
        headers |= cors.granted(cors.policy_of(rules), exchange.head.headers)
    return headers


def entity_headers(asked: ContentRequest, facts: ObjectFacts) -> dict[str, str]:
    """What the body is, and the name to save it under."""
    name = asked.task_id
    if asked.index:
        name += f"_{asked.index}"
    name += "." + _EXTENSIONS.get(facts.kind, "bin")
    disposition = "attachment" if asked.is_download else "inline"
    return {
        "Content-Type": facts.kind,
        "Content-Disposition": f'{disposition}; filename="{quote(name)}"',
    }


def _index(text: str | None) -> int:
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise Invalid("'index' must be a whole number from 0.", param="index")
    return int(text)


def _exp_s(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 13):
        raise bad_link()
    return int(text)
