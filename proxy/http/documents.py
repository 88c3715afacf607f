"""JSON of clients: bounded before it is parsed, and parsed in short steps.

Rule: whatever the bytes, the only thing raised is a `ProxyError`, and no single call into C works
on more than a few MiB. Such a call holds the interpreter, so that a thread does not help the event
loop: orjson takes 90 ms for a string of 48 MiB, and minutes for as many bytes of small lists.

The text is walked from quote to quote, which `bytes.find` does at memory speed. What stands
between strings is counted; long strings are taken out and parsed by themselves. What is parsed as
a whole is short then.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, cast

import orjson

from proxy.errors import Invalid
from proxy.http.charsets import codec_of, decoded
from proxy.model import Json

MAX_VALUES: Final = 20_000  # a body of the field has some dozens
MAX_DEPTH: Final = 32  # the deepest documented body has five levels
MAX_NAME_BYTES: Final = 256  # as it is written, escapes and all
MAX_NUMBER_CHARS: Final = 128  # JavaScript writes 24 at most

_MAX_QUOTES: Final = 200_000
_MAX_BETWEEN_BYTES: Final = 2 << 20
_SHORT_BYTES: Final = MAX_NAME_BYTES  # strings up to this long stay where they are
_MARK_CHARS: Final = 264  # longer than any string that stayed, so that none can pass for a mark
_PIECE_BYTES: Final = 1 << 20
_ESCAPE_BYTES: Final = 6  # "\u732b", the longest escape

_STRUCTURE: Final = b",:[{"
_NO_STRUCTURE: Final = bytes(set(range(256)) - set(_STRUCTURE))
_LONG_NUMBER: Final = re.compile(rb"[-+.0-9eE]{%d}" % (MAX_NUMBER_CHARS + 1))
_BOMS: Final = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_BLANKS: Final = b" \t\r\n"


def json_fields(body: bytes, charset: str | None = None) -> dict[str, object]:
    """The object in a JSON body. `charset` is the one its Content-Type names.

    Raises `Invalid`: not JSON, not an object, a name given twice (clients and upstreams differ in
    which one counts), or more than one of the bounds of this module.
    """
    if not body.strip(_BLANKS):
        raise Invalid("The body is empty; it must be a JSON object.")
    return json_object(_as_utf8(body, charset), "The body")


def json_object(text: bytes, what: str, param: str | None = None) -> dict[str, object]:
    """The object in JSON text. `what` names the text in messages: "The body", "'metadata'"."""
    value = json_value(text, what, param)
    if not isinstance(value, dict):
        raise Invalid(f"{what} must be a JSON object.", param=param)
    return cast("dict[str, object]", value)


def json_value(text: bytes, what: str, param: str | None = None) -> Json:
    """The value in JSON text, within the bounds of this module."""
    text = text.removeprefix(b"\xef\xbb\xbf")
    bare, cuts = _walked(text, what, param)
    try:
        value: Json = orjson.loads(bare)
    except orjson.JSONDecodeError as exc:
        said = exc.msg if cuts else str(exc)  # places in what was cut would be wrong
        raise Invalid(f"{what} is not valid JSON: {said}.", param=param) from exc
    _check_depth(value, what, param)
    # orjson keeps the last of two equal names and says nothing. This second pass takes whatever
    # orjson took and builds nothing; numbers stay text, since int() refuses 4301 digits.
    json.loads(bare, object_pairs_hook=_check_names, parse_int=len, parse_float=len)
    if cuts:
        strings = [_string(text, start, end, what, param) for start, end in cuts]
        _put_back(value, strings)
    return value


def opens_object(head: bytes) -> bool | None:
    """Whether a body begins as a JSON object; None while only blanks have come."""
    bom = _BOMS[0][0]
    bare = head.removeprefix(bom).lstrip(_BLANKS)
    return bare[:1] == b"{" if bare and not bom.startswith(head) else None


def _as_utf8(body: bytes, charset: str | None) -> bytes:
    label = next((name for bom, name in _BOMS if body.startswith(bom)), charset)
    codec = None if label is None else codec_of(label)
    if codec is None or codec == "utf_8":  # what is neither fails as JSON
        return body
    try:
        return decoded(body, label).encode()
    except ValueError as exc:
        raise Invalid(f"The body is not valid JSON: it is not {label} text.") from exc


# ---------------------------------------------------------------- before it is parsed


def _walked(text: bytes, what: str, param: str | None) -> tuple[bytes, list[tuple[int, int]]]:
    """The text with a mark for each long string, and where these strings are, without quotes."""
    kept: list[bytes] = []
    cuts: list[tuple[int, int]] = []
    at = copied = values = between = quotes = 0
    while True:
        quote = text.find(b'"', at)
        stop = len(text) if quote < 0 else quote
        gap = text[at : min(stop, at + _MAX_BETWEEN_BYTES)]
        values += len(gap.translate(None, _NO_STRUCTURE))
        if values > MAX_VALUES:
            raise Invalid(f"{what} has more than {MAX_VALUES} names and values.", param=param)
        between += stop - at
        if between > _MAX_BETWEEN_BYTES:
            raise Invalid(
                f"{what} has more than {_MAX_BETWEEN_BYTES} bytes of blanks and numbers.",
                param=param,
            )
        if len(gap) > MAX_NUMBER_CHARS and _LONG_NUMBER.search(gap):
            raise Invalid(
                f"{what} has a number of more than {MAX_NUMBER_CHARS} characters.", param=param
            )
        if quote < 0:
            break
        end = quote + 1
        while True:
            end = text.find(b'"', end)
            quotes += 1
            if end < 0:
                raise Invalid(f"{what} is not valid JSON: a string has no end.", param=param)
            if quotes > _MAX_QUOTES:
                raise Invalid(f"{what} has more than {_MAX_QUOTES} quotes.", param=param)
            if text[end - 1] != 0x5C or not _is_escaped(text, quote + 1, end):
                break
            end += 1
        if end - quote - 1 > _SHORT_BYTES:
            kept += (text[copied:quote], b'"%0*d"' % (_MARK_CHARS, len(cuts)))
            cuts.append((quote + 1, end))
            copied = end + 1
        at = end + 1
    if not cuts:
        return text, cuts
    kept.append(text[copied:])
    return b"".join(kept), cuts


def _is_escaped(text: bytes, start: int, at: int) -> bool:
    """Whether the byte at `at` follows an odd number of backslashes."""
    run, reach = 0, 64
    while at - run > start:
        tail = text[max(start, at - run - reach) : at - run]
        more = len(tail) - len(tail.rstrip(b"\\"))
        run += more
        if more < len(tail):
            break
        reach = 1 << 16
    return run % 2 == 1


# ---------------------------------------------------------------- after it


def _check_names(pairs: Sequence[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if len(key) >= _MARK_CHARS:
            raise Invalid(f"A name in the body is longer than {MAX_NAME_BYTES} bytes.")
        if key in seen:
            shown = _CONTROL.sub("", key[:64])
            raise Invalid(f"'{shown}' is given twice in the body.", param=shown)
        seen.add(key)


def _check_depth(value: Json, what: str, param: str | None) -> None:
    level: list[Json] = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Json] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(v for v in item.values() if isinstance(v, dict | list))
            elif isinstance(item, list):
                inner.extend(v for v in item if isinstance(v, dict | list))
        if not inner:
            return
        level = inner
    raise Invalid(f"{what} is nested deeper than {MAX_DEPTH} levels.", param=param)


def _string(text: bytes, start: int, end: int, what: str, param: str | None) -> str:
    """The string between two quotes, parsed a piece at a time."""
    pieces: list[str] = []
    try:
        while end - start > _PIECE_BYTES:
            joint = _joint(text, start, start + _PIECE_BYTES)
            pieces.append(orjson.loads(b'"%b"' % text[start:joint]))
            start = joint
        pieces.append(orjson.loads(b'"%b"' % text[start:end]))
    except orjson.JSONDecodeError as exc:
        raise Invalid(f"{what} is not valid JSON: {exc.msg}.", param=param) from exc
    return pieces[0] if len(pieces) == 1 else "".join(pieces)


def _joint(text: bytes, start: int, at: int) -> int:
    """The last place up to `at` that is inside no escape and no character of the string."""
    for place in range(at, at - 2 * _ESCAPE_BYTES, -1):
        if _is_joint(text, start, place):
            return place
    raise Invalid("The body is not valid JSON: it holds a string that is not UTF-8.")


def _is_joint(text: bytes, start: int, place: int) -> bool:
    if text[place] & 0xC0 == 0x80:  # UTF-8: the rest of a character
        return False
    last = text.rfind(b"\\", max(start, place - _ESCAPE_BYTES), place)
    if last < 0 or not _is_escaped(text, start, last + 1):
        return True  # no backslash near, or the second one of a pair
    if text[last + 1 : last + 2] != b"u":
        return place >= last + 2
    is_half = text[last + 2 : last + 4].lower() in (b"d8", b"d9", b"da", b"db")
    return place > last + 6 or (place == last + 6 and not is_half)


def _put_back(value: Json, strings: Sequence[str]) -> None:
    """Put the long strings in the places of their marks."""
    open_values: list[Json] = [value]

    def original(item: Json) -> Json:
        if isinstance(item, str) and len(item) >= _MARK_CHARS:
            return strings[int(item)]
        if isinstance(item, dict | list):
            open_values.append(item)
        return item

    while open_values:
        inner = open_values.pop()
        if isinstance(inner, dict):
            for key, item in inner.items():
                inner[key] = original(item)
        elif isinstance(inner, list):
            inner[:] = [original(item) for item in inner]
