"""On which line of a TOML text each key stands.

tomllib gives values without positions, so `key_lines` walks the same text once more. It runs only
on text that tomllib has accepted, and therefore checks nothing itself.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Collection, Iterator
from typing import Final, TypeAlias

Loc: TypeAlias = "tuple[str | int, ...]"
"""The place of a value: `("upstreams", 0, "name")`."""

BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")

_STRING: Final = re.compile(
    r'"""(?:[^\\]|\\.)*?"""(?!")'  # up to two quotes may stand before the closing three
    r"|'''.*?'''(?!')"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'",
    re.DOTALL,
)
_SCALAR: Final = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:[^\s,\]}#]*|[^\s,\]}#]+"
)  # a date may hold a space
_SPACE: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")


def key_lines(text: str) -> dict[Loc, int]:
    """The line (from 1) on which each key, table and array element of valid TOML first stands."""
    return _Lines(text).lines


class _Lines:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._starts = [0, *(m.end() for m in re.finditer("\n", text))]
        self._counts: dict[Loc, int] = {}  # arrays of tables: the index of the last element
        self.lines: dict[Loc, int] = {}
        table: Loc = ()
        while self._next():
            if self._next() == "[":
                table = self._header()
            else:
                self._pair(table)

    def _next(self) -> str:
        """The next character that means something; empty at the end."""
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self._text, self._at)
        assert found is not None, f"not TOML at {self._at}"
        self._at = found.end()
        return found[0]

    def _note(self, loc: Loc) -> None:
        self.lines.setdefault(loc, bisect_right(self._starts, self._at))

    def _keys(self) -> Iterator[str]:
        while True:
            quoted = self._next() in ("'", '"')
            word = self._take(_STRING if quoted else BARE_KEY)
            yield tomllib.loads(f"key = {word}")["key"] if quoted else word
            if self._next() != ".":
                return
            self._at += 1

    def _header(self) -> Loc:
        brackets = 2 if self._text.startswith("[[", self._at) else 1
        self._at += brackets
        loc: Loc = ()
        for key in self._keys():
            inside = (*loc, self._counts[loc]) if loc in self._counts else loc
            loc = (*inside, key)
            self._note(loc)
        self._at += brackets
        if brackets == 2:
            self._counts[loc] = self._counts.get(loc, -1) + 1
            loc = (*loc, self._counts[loc])
            self._note(loc)
        return loc

    def _pair(self, table: Loc) -> None:
        loc = table
        for key in self._keys():
            loc = (*loc, key)
            self._note(loc)
        self._at += 1  # the equals sign
        self._value(loc)

    def _value(self, loc: Loc) -> None:
        opening = self._next()
        if opening in ("'", '"'):
            self._take(_STRING)
        elif opening == "[":
            self._at += 1
            count = 0
            while self._next() != "]":
                self._note((*loc, count))
                self._value((*loc, count))
                count += 1
                self._comma()
            self._at += 1
        elif opening == "{":
            self._at += 1
            while self._next() != "}":
                self._pair(loc)
                self._comma()
            self._at += 1
        else:
            self._take(_SCALAR)

    def _comma(self) -> None:
        if self._next() == ",":
            self._at += 1


# ---------------------------------------------------------------- text that is not TOML

_HEADER: Final = re.compile(r"^[ \t]*\[+[ \t]*[\"']?([A-Za-z0-9_-]+)")
_DOTTED: Final = re.compile(r"^[ \t]*[\"']?([A-Za-z0-9_-]+)[\"']?[ \t]*[.=]")


def only_tables(text: str, names: Collection[str]) -> str:
    """The same lines, those outside the tables of these names left empty: each line that stays
    keeps its number. The text need not be TOML."""
    kept, inside, is_top = [], False, True
    for line in text.split("\n"):
        header = _HEADER.match(line)
        if header is not None:
            inside, is_top = header[1] in names, False
        elif is_top:
            key = _DOTTED.match(line)
            inside = key is not None and key[1] in names
        kept.append(line if inside else "")
    return "\n".join(kept)
