"""Reading a client's body field by field, each mistake an `Invalid` that names the field.

Rule: a value is free of NUL; only free text (`prose`) may hold line ends, and a lone CR in it is
read as LF. Empty strings and JSON null count as not sent: SDKs send both for "unset"
(volcengine's Ark client sends every unset field as null). A list of one stands for its element
where one value is meant.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

from proxy.errors import Invalid
from proxy.model import Blob, Json

T = TypeVar("T")

MAX_LEVELS = 32  # of a JSON value inside a field; documents have three
MAX_WHOLE = 2**64 - 1  # the largest seed that any client sends

_LONE_CR = re.compile(r"\r(?!\n)")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_BETWEEN = re.compile(r"[\s_\-\[\]().:]+")

_TRUE = ("true", "1", "on", "yes", "enabled")
_FALSE = ("false", "0", "off", "no", "disabled")


def is_blob(value: object) -> bool:
    return hasattr(value, "chunks") and hasattr(value, "sha256")


def is_unset(value: object) -> bool:
    """True for null and the empty string."""
    return value is None or value == ""


def folded(name: str) -> str:
    """A field's name without case, `_`, `-`, dots, brackets and blanks.

    Lenient servers read `Seconds`, `n-seconds` and `nSeconds` as one name; so does this house
    where it looks for a field under another spelling.
    """
    return _BETWEEN.sub("", name).casefold()


class Fields:
    """A parsed body. Readers take the accepted names of one field, best first."""

    __slots__ = ("_prefix", "_seen", "_values")

    def __init__(self, values: Mapping[str, object], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix
        self._seen: set[str] = set()

    def _take(self, names: Sequence[str]) -> tuple[str, object]:
        found: tuple[str, object] = (self._prefix + names[0], None)
        for name in names:
            self._seen.add(name)
            value = self._values.get(name)
            if found[1] is None and not is_unset(value):
                found = (self._prefix + name, value)
        return found

    def _take_one(self, names: Sequence[str]) -> tuple[str, object]:
        """The same where one value is meant: a list of one stands for its element."""
        param, value = self._take(names)
        if isinstance(value, list) and len(value) == 1 and not isinstance(value[0], list):
            value = None if is_unset(value[0]) else value[0]
        return param, value

    @property
    def values(self) -> Mapping[str, object]:
        """Everything the client sent, as it was parsed."""
        return self._values

    @property
    def prefix(self) -> str:
        """What stands before a name of these fields in an error's `param`."""
        return self._prefix

    def has(self, name: str) -> bool:
        return not is_unset(self._values.get(name))

    def name_of(self, *names: str) -> str:
        """The name under which the client sent this field (for `param`)."""
        return next((n for n in names if self.has(n)), names[0])

    def word(self, *names: str, max_chars: int = 512) -> str | None:
        """A short string without control characters: a model, an id, an enum value. A whole
        number counts as its digits."""
        param, value = self._take_one(names)
        if value is None:
            return None
        number = None if isinstance(value, str) else as_whole(value)
        if number is not None:
            value = str(number)
        if not isinstance(value, str):
            raise Invalid(f"'{param}' must be a string, not {kind_of(value)}.", param=param)
        if value.lstrip()[:1] in ("{", "["):  # servers that read JSON text would find fields in it
            raise Invalid(f"'{param}' must be a plain word, not JSON text.", param=param)
        if _CONTROL.search(value):
            raise Invalid(f"'{param}' holds a control character.", param=param)
        if len(value) > max_chars:
            raise Invalid(f"'{param}' is longer than {max_chars} characters.", param=param)
        return value

    def prose(self, *names: str, max_chars: int = 32000) -> str | None:
        """Free text: line ends are welcome."""
        text = self.long_text(*names)
        if text is not None and len(text) > max_chars:
            param = self._prefix + self.name_of(*names)
            raise Invalid(f"'{param}' is longer than {max_chars} characters.", param=param)
        return text

    def long_text(self, *names: str) -> str | None:
        """A string of any length (a URL, base64); the body limit bounds it."""
        param, value = self._take(names)
        if value is None:
            return None
        if not isinstance(value, str):
            raise Invalid(f"'{param}' must be a string, not {kind_of(value)}.", param=param)
        check_text(value, param)
        return with_line_feeds(value)

    def number(
        self, *names: str, low: float | None = None, high: float | None = None
    ) -> float | None:
        """A number, or a string that is one ("8"): SDKs differ."""
        param, value = self._take_one(names)
        if value is None:
            return None
        number = as_number(value)
        if number is None:
            raise Invalid(f"'{param}' must be a number, not {shown(value)}.", param=param)
        _check_bounds(number, low, high, param)
        return number

    def integer(self, *names: str, low: int | None = None, high: int | None = None) -> int | None:
        """A whole number up to 2^64-1, exactly; also as text, also as a float that is whole."""
        param, value = self._take_one(names)
        if value is None:
            return None
        number = as_whole(value)
        if number is None:
            raise Invalid(f"'{param}' must be a whole number, not {shown(value)}.", param=param)
        _check_bounds(number, low, high, param)
        return number

    def flag(self, *names: str) -> bool | None:
        """true/false, also as 1/0, also as the strings a multipart form sends, also on/off."""
        param, value = self._take_one(names)
        if value is None:
            return None
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float) and value in (0, 1):
            return value == 1
        if isinstance(value, str) and value.strip().lower() in _TRUE:
            return True
        if isinstance(value, str) and value.strip().lower() in _FALSE:
            return False
        raise Invalid(f"'{param}' must be true or false, not {shown(value)}.", param=param)

    def mapping(self, *names: str) -> dict[str, object] | None:
        """An object; its blobs (multipart `a[b]` files) stay blobs."""
        param, value = self._take_one(names)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise Invalid(f"'{param}' must be an object, not {kind_of(value)}.", param=param)
        return cast("dict[str, object]", value)

    def strings(self, *names: str) -> list[str] | None:
        """A list of strings; one string alone is a list of one."""
        param, value = self._take(names)
        if value is None:
            return None
        items = value if isinstance(value, list) else [value]
        for item in items:
            if not isinstance(item, str):
                raise Invalid(f"'{param}' must be a list of strings.", param=param)
            check_text(item, param)
        return cast("list[str]", items)

    def upload(self, *names: str) -> Blob | None:
        """A file part; None when the field is something else or not there."""
        for name in names:
            value = self._values.get(name)
            if is_blob(value):
                self._seen.add(name)
                return cast("Blob", value)
        return None

    def raw(self, *names: str) -> object:
        return self._take(names)[1]

    def one(self, name: str) -> object:
        """What the client sent as this field; of a list of one its element."""
        return self._take_one((name,))[1]

    def rest(self) -> dict[str, Json]:
        """The fields nobody has read yet, nulls left out. A file among them is an error: it
        would be lost silently."""
        left: dict[str, Json] = {}
        for name, value in self._values.items():
            if name in self._seen or value is None:
                continue
            if is_blob(value):
                raise Invalid(
                    f"'{self._prefix}{name}' is not a file field.", param=self._prefix + name
                )
            check_tree(value, self._prefix + name)
            left[name] = with_line_feeds(cast("Json", value))
        return left


def check_text(value: str, param: str) -> None:
    if "\x00" in value:
        raise Invalid(f"'{param}' holds a NUL character.", param=param)


def check_tree(value: object, param: str, levels: int = MAX_LEVELS) -> None:
    """The same for every string inside a JSON value; `levels` bounds its depth (orjson reads
    1024 levels but writes only 254)."""
    if isinstance(value, str):
        check_text(value, param)
    elif isinstance(value, dict | list) and levels == 0:
        raise Invalid(f"'{param}' is nested too deep.", param=param.partition(".")[0])
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_text(key, param)
            check_tree(inner, f"{param}.{key}", levels - 1)
    elif isinstance(value, list):
        for inner in value:
            check_tree(inner, param, levels - 1)
    elif is_blob(value):
        raise Invalid(f"'{param}' is not a file field.", param=param)


def with_line_feeds(value: T) -> T:
    """The value with each lone CR in its texts as LF. Older systems end their lines so."""
    if isinstance(value, str):
        return cast("T", _LONE_CR.sub("\n", value) if "\r" in value else value)
    if isinstance(value, list):
        return cast("T", [with_line_feeds(inner) for inner in value])
    if isinstance(value, dict):
        return cast("T", {key: with_line_feeds(inner) for key, inner in value.items()})
    return value


_NUMBER = re.compile(r"\s*[+-]?(\d{1,15}(\.\d{0,15})?|\.\d{1,15})\s*", re.ASCII)
_WHOLE = re.compile(r"\s*([+-]?\d{1,20})(\.0{0,15})?\s*", re.ASCII)


def as_number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        number = float(value)
        return number if abs(number) < 1e15 else None
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    return None


def as_whole(value: object) -> int | None:
    """A whole number, never by way of a float: a seed has up to 64 bits."""
    number: int | None = None
    if isinstance(value, int) and not isinstance(value, bool):
        number = value
    elif isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        number = int(value)
    elif isinstance(value, str) and (match := _WHOLE.fullmatch(value)):
        number = int(match[1])
    return number if number is not None and abs(number) <= MAX_WHOLE else None


def whole(number: int | float) -> int | float:
    """5.0 as 5."""
    is_whole = isinstance(number, float) and number.is_integer() and abs(number) < 2**53
    return int(number) if is_whole else number


def kind_of(value: object) -> str:
    if is_blob(value):
        return "a file"
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string"}
    names |= {list: "a list", dict: "an object", type(None): "null"}
    return names.get(type(value), "that")


def shown(value: object) -> str:
    """A value inside an error message, cut short."""
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        is_finite = isinstance(value, int) or math.isfinite(value)
        text = str(whole(value)) if is_finite else str(value)
        return text if len(text) <= 40 else text[:40] + "…"
    return kind_of(value)


def _check_bounds(number: float, low: float | None, high: float | None, param: str) -> None:
    if low is not None and number < low:
        raise Invalid(f"'{param}' must be at least {low:g}, not {shown(number)}.", param=param)
    if high is not None and number > high:
        raise Invalid(f"'{param}' must be at most {high:g}, not {shown(number)}.", param=param)
