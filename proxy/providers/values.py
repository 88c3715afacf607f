"""Typed readers of what providers answer: tolerant, bounded, never raising.

Rule: nothing a provider answers is trusted. Every reader here, in `jobs` and in `results` turns one
value into a typed one or None, whatever the value is; everything that can be long has a bound.
Words that may reach a client go through `words` first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias

import orjson

from proxy.providers.words import words

Object: TypeAlias = "dict[str, object]"

ID_MAX_CHARS = 512
CODE_MAX_CHARS = 64
RETRY_MAX_S = 3600.0

_MAX_VALUES = 100_000  # some 50 ms of parsing and cleaning
_STRUCTURE = (b",", b":", b"[", b"{")
_MAX_DEPTH = 64
_EARLIEST_S, _LATEST_S = 1e9, 1e11  # years 2001 and 5138: no count of seconds or days is a date
_LONGEST_WHOLE = 20  # digits of 2^64 - 1

# ---------------------------------------------------------------- documents


def document(body: bytes) -> Object | None:
    """A body that is one JSON object; None for any other bytes.

    What Python servers write beside JSON is read too: a byte order mark, NaN, Infinity, whole
    numbers of any length, lone surrogates, text that is not UTF-8.
    """
    if _has_too_many_values(body):
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return exact_document(body)
    return value if isinstance(value, dict) else None


def exact_document(body: bytes) -> Object | None:
    """As `document`, but slower and exact: a whole number of more than 64 bits stays its digits
    (an id may be one), where orjson makes a rounded float of it."""
    if _has_too_many_values(body):
        return None
    try:
        text = body.decode(json.detect_encoding(body), "replace").strip().lstrip("\ufeff")
        if not text.startswith("{"):
            return None
        value = json.loads(text, parse_int=_whole, parse_constant=lambda _name: None)
    except (ValueError, RecursionError, LookupError):
        return None
    clean = _clean(value, _MAX_DEPTH)
    return clean if isinstance(clean, dict) else None


def _has_too_many_values(body: bytes) -> bool:
    """Whether parsing would hold the loop: the parser lets nothing else run, and 8 MiB of empty
    lists are four million values. Counts the bytes between values, in strings too; an honest
    answer has some hundreds."""
    if len(body) <= _MAX_VALUES:
        return False
    return sum(map(body.count, _STRUCTURE)) > _MAX_VALUES


def embedded_objects(text: str) -> Iterator[Object]:
    """The JSON objects written inside a sentence, the first few."""
    decoder = json.JSONDecoder(parse_int=_whole, parse_constant=lambda _name: None)
    start = text.find("{")
    for _ in range(4):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        clean = _clean(value, _MAX_DEPTH)
        if isinstance(clean, dict):
            yield clean
        start = text.find("{", end)


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_WHOLE else digits


def _clean(value: object, depth: int) -> object:
    """Without what our own writers refuse: infinite numbers, lone surrogates, bottomless depth."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | list) and depth == 0:
        return None
    if isinstance(value, dict):
        return {str(_clean(key, 0)): _clean(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth - 1) for item in value]
    return value


def member(value: object, name: str) -> Object:
    """An object inside an object; empty when it is missing or something else."""
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


# ---------------------------------------------------------------- single values

_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*", re.ASCII)


def text(value: object) -> str | None:
    """A non-empty string of at most 512 characters; a whole number counts."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**64 else None
    if not isinstance(value, str):
        return None
    line = value.strip()
    return line if 0 < len(line) <= ID_MAX_CHARS else None


def identifier(value: object) -> str | None:
    """A name that can be asked for: printable, of at most 512 characters; no number below 1."""
    name = text(value)
    if name is None or not name.isprintable() or (isinstance(value, int) and value < 1):
        return None
    return name


def code(value: object) -> str | None:
    """A provider's own error code for the operator: one short line."""
    name = text(value)
    return (words(name)[:CODE_MAX_CHARS] or None) if name is not None else None


def number(value: object) -> float | None:
    """A finite number, or a string that is one ("5.1")."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return float(value) if abs(value) < 1e300 else None


def integer(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and abs(found) < 2**63 and found % 1 == 0 else None


def quantity(value: object) -> float | None:
    """A positive number below 1e9, or a string that is one, with or without an s ("5s")."""
    if isinstance(value, str):
        value = value.strip().removesuffix("s")
    found = number(value)
    return found if found is not None and 0 < found < 1e9 else None


def percent(value: object) -> int | None:
    """Progress, 0 to 100, also as text ("50%")."""
    found = number(value.strip().removesuffix("%") if isinstance(value, str) else value)
    return None if found is None else int(min(max(found, 0), 100))


def moment_ms(value: object) -> int | None:
    """Epoch milliseconds, of unix seconds or milliseconds (as a number or text) or ISO 8601."""
    found = number(value)
    if found is not None:
        if _EARLIEST_S <= found < _LATEST_S:
            return int(found * 1000)
        return int(found) if _EARLIEST_S * 1000 <= found < _LATEST_S * 1000 else None
    if not isinstance(value, str) or not 10 <= len(value) <= 40:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------- headers


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After`, at most an hour.

    None where neither names a time to come. The date form needs a clock and is passed over.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        told = number(headers.get(name))
        if told is not None and told > 0:
            return min(told * unit_s, RETRY_MAX_S)
    return None


def sent_ms(headers: Mapping[str, str]) -> int | None:
    """When the provider says it answered (`Date`), in epoch milliseconds."""
    try:
        return int(parsedate_to_datetime(headers["Date"]).timestamp() * 1000)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None
