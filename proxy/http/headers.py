"""Which headers cross the house, both ways.

Requests to upstreams are written anew, so only what is named here is taken over from the
client. Replies to clients carry only what is named here: never Set-Cookie, never a
hop-by-hop header, never a header that tells where the video really lives.
"""

from __future__ import annotations

from typing import Final

from multidict import MultiMapping

from proxy.http.trace_context import parse

# Trace context (W3C) is the one thing a client may hand through to the provider. A tracestate has
# at most 32 members (3.3.1.1), and 512 characters are what everybody must propagate (3.3.1.5).
MOST_PARENT_CHARS: Final = 256  # 55, and what a later version may add
MOST_STATE_CHARS: Final = 512
MOST_STATE_MEMBERS: Final = 32

# A result is a video or a picture; anything else (an HTML error page, a script) is relayed as
# opaque bytes, so that no browser runs it under our name.
_MEDIA_TYPES: Final = ("video/", "image/")
OPAQUE: Final = "application/octet-stream"


def forwarded(headers: MultiMapping[str]) -> dict[str, str]:
    """The client's trace context, for the upstream request; none is made up.

    A traceparent that is not well-formed is dropped, and its tracestate with it (Trace Context,
    4.3); so is a tracestate over its bounds. Several lines of one are one list (3.3.1.1).
    """
    parents = headers.getall("traceparent", ())
    if len(parents) != 1 or len(parents[0]) > MOST_PARENT_CHARS or parse(parents[0]) is None:
        return {}
    found = {"traceparent": parents[0]}
    state = ",".join(headers.getall("tracestate", ()))
    if state and is_bounded(state):
        found["tracestate"] = state
    return found


def is_bounded(state: str) -> bool:
    """Whether a tracestate is one that must be passed on: 512 characters and 32 members."""
    if len(state) > MOST_STATE_CHARS or not state.isascii() or not state.isprintable():
        return False
    members = [member for member in state.split(",") if member.strip(" \t")]
    return 0 < len(members) <= MOST_STATE_MEMBERS


def media_type(value: str | None) -> str:
    """A Content-Type that is safe to repeat."""
    kind = (value or "").partition(";")[0].strip().lower()
    if kind.startswith(_MEDIA_TYPES) and kind != "image/svg+xml" and _is_token(kind):
        return kind
    return OPAQUE


def content_length(value: str | None) -> int | None:
    return whole_number(value)


def whole_number(value: str | None) -> int | None:
    """A header's number: digits only, of a sane length."""
    if value is None or not value.isascii() or not value.isdigit() or len(value) > 18:
        return None
    return int(value)


def _is_token(kind: str) -> bool:
    return all(c.isalnum() or c in "/+-._" for c in kind) and kind.isascii()
