"""Ranges and conditions of RFC 9110 (§13, §14), as arithmetic.

Rule: a Range header that cannot be read, that names several ranges or another unit is ignored
and the whole file is sent; only a readable range that lies outside the file is a 416.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final

from proxy.errors import RangeNotSatisfiable

_SINGLE: Final = re.compile(
    r"bytes[ \t]*=[ \t]*(?:(\d+)-(\d*)|-(\d+))[ \t]*",
    re.ASCII | re.IGNORECASE,  # unit names are case-insensitive (RFC 9110 §14.1)
)
_MOST_DIGITS: Final = 18  # so that every server behind us reads the number too
_BEYOND: Final = 10**_MOST_DIGITS
# Read as servers write them: any case and spacing, "=" or nothing for the space, no unit at all.
_UNIT: Final = r"(?:bytes)?[ \t=:]*"
_CONTENT_RANGE: Final = re.compile(
    _UNIT + r"(\d{1,18})[ \t]*-[ \t]*(\d{1,18})[ \t]*/[ \t]*(\d{1,18}|\*)",
    re.ASCII | re.IGNORECASE,
)
_UNSATISFIED: Final = re.compile(_UNIT + r"\*[ \t]*/[ \t]*(\d{1,18})", re.ASCII | re.IGNORECASE)
_WHOLE_SIZE: Final = re.compile(r".*/[ \t]*(\d{1,18})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a client's Range asks for, before the size is known: `first` to `last` inclusive
    (None: to the end), or the `suffix` last bytes."""

    first: int = 0
    last: int | None = None
    suffix: int | None = None

    def header(self) -> str:
        """The same as a Range header for the upstream."""
        if self.suffix is not None:
            return f"bytes=-{self.suffix}"
        return f"bytes={self.first}-{'' if self.last is None else self.last}"

    def within(self, size: int) -> ByteSpan:
        """The bytes of a file of `size`; raises RangeNotSatisfiable when there are none."""
        if self.suffix is not None:
            start, stop = max(0, size - self.suffix), size
        else:
            start, stop = self.first, size if self.last is None else min(self.last + 1, size)
        if start >= stop:
            raise RangeNotSatisfiable(f"The range lies outside the {size} bytes of the file.", size)
        return ByteSpan(start, stop)


@dataclass(frozen=True, slots=True)
class ByteSpan:
    """Bytes `start` up to, not including, `stop`."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


def read_range(value: str | None) -> Wish | None:
    """A single byte range, or None: send everything."""
    match = _SINGLE.fullmatch(value.strip()) if value else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        return Wish(suffix=_position(suffix))
    if last and _magnitude(last) < _magnitude(first):
        return None
    to_the_end = not last or len(_magnitude(last)[1]) > _MOST_DIGITS
    return Wish(_position(first), None if to_the_end else _position(last))


def _magnitude(digits: str) -> tuple[int, str]:
    """Orders numbers of any length as they are written; int() refuses more than 4,300 digits."""
    digits = digits.lstrip("0")
    return len(digits), digits


def _position(digits: str) -> int:
    """A position of any size (RFC 9110, 14.1.1); beyond every file it is only that."""
    length, digits = _magnitude(digits)
    return int(digits or "0") if length <= _MOST_DIGITS else _BEYOND


def read_content_range(value: str | None) -> tuple[ByteSpan, int | None] | None:
    """A 206's Content-Range: the bytes it holds and the whole size (None: not said)."""
    match = _CONTENT_RANGE.fullmatch(value.strip()) if value else None
    if match is None:
        return None
    first, last, size = int(match[1]), int(match[2]), match[3]
    whole = None if size == "*" else int(size)
    if last < first or (whole is not None and last >= whole):
        return None
    return ByteSpan(first, last + 1), whole


def read_unsatisfied(value: str | None) -> int | None:
    """The whole size in a 416's Content-Range."""
    match = _UNSATISFIED.fullmatch(value.strip()) if value else None
    return int(match[1]) if match else None


def read_whole_size(value: str | None) -> int | None:
    """The whole size at the end of a Content-Range of whatever form."""
    match = _WHOLE_SIZE.fullmatch(value.strip()) if value else None
    return int(match[1]) if match else None


def strong_etag(value: str | None) -> str | None:
    """An entity tag that promises the same bytes; a weak one promises nothing we can use."""
    if value and len(value) >= 2 and value[0] == value[-1] == '"' and '"' not in value[1:-1]:
        return value
    return None


def is_unmodified(headers: Mapping[str, str], etag: str, modified_s: int | None) -> bool:
    """True when the client's copy is current and 304 is the answer (RFC 9110 §13.2.2)."""
    tags = headers.get("If-None-Match")
    if tags is not None:
        wanted = [tag.strip().removeprefix("W/") for tag in tags.split(",")]
        return "*" in wanted or etag in wanted
    since = _date(headers.get("If-Modified-Since"))
    return since is not None and modified_s is not None and modified_s <= since


def precondition_fails(headers: Mapping[str, str], etag: str, modified_s: int | None) -> bool:
    """True when If-Match or If-Unmodified-Since forbids the answer (412)."""
    tags = headers.get("If-Match")
    if tags is not None:
        wanted = [tag.strip() for tag in tags.split(",")]
        return "*" not in wanted and etag not in wanted
    since = _date(headers.get("If-Unmodified-Since"))
    return since is not None and modified_s is not None and modified_s > since


def range_still_holds(value: str | None, etag: str, modified_s: int | None) -> bool:
    """If-Range: True when the range may be sent, False when the whole file must be."""
    if value is None:
        return True
    if value.startswith(('"', "W/")):
        return value == etag
    since = _date(value)
    return since is not None and since == modified_s


def modified_of(value: str | None) -> int | None:
    """Last-Modified in seconds since the epoch."""
    return _date(value)


@lru_cache(maxsize=1024)
def _date(value: str | None) -> int | None:
    if not value:
        return None
    try:
        parsed = parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return int((parsed - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
