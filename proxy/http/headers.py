"""Which headers cross the house, both ways.

Requests to upstreams are written anew, so only what is named here is taken over from the
client. Replies to clients carry only what is named here: never Set-Cookie, never a
hop-by-hop header, never a header that tells where the video really lives.
"""

from __future__ import annotations

from typing import Final

from multidict import MultiMapping

# Trace context (W3C) is the one thing a client may hand through to the provider.
FORWARDED: Final = ("traceparent", "tracestate")

# A result is a video or a picture; anything else (an HTML error page, a script) is relayed as
# opaque bytes, so that no browser runs it under our name.
_MEDIA_TYPES: Final = ("video/", "image/")
OPAQUE: Final = "application/octet-stream"


def forwarded(headers: MultiMapping[str]) -> dict[str, str]:
    """The client's headers an upstream request repeats, as they came; none is made up. What
    comes in several lines is one list (Trace Context, 3.3.1.1)."""
    return {name: ",".join(headers.getall(name)) for name in FORWARDED if name in headers}


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
