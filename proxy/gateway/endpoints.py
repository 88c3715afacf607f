"""Which dialect's operation a request head is.

The table is made of the dialects' own rows. In it a path segment written out beats a parameter,
and a path once found is not left again: a method it has not is 405, never another path's operation.

Rule: HEAD is answered wherever GET is (RFC 9110, 9.3.2), without a row of its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from proxy.dialects.base import Dialect, Endpoint
from proxy.errors import EndpointNotFound, Invalid, MethodNotAllowed
from proxy.http.targets import PathRules
from proxy.model import Call, DialectName


@dataclass(frozen=True, slots=True)
class _Row:
    """An endpoint in the table; `names` are its path parameters from left to right."""

    dialect: DialectName
    endpoint: Endpoint
    names: tuple[str, ...]

    def takes(self, query: Mapping[str, str]) -> bool:
        wanted = self.endpoint.query
        return not wanted or all(query.get(name) == value for name, value in wanted)


@dataclass(slots=True)
class _Node:
    """One segment of the paths; filled while the table is made, only read afterwards."""

    static: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    rows: dict[str, list[_Row]] = field(default_factory=dict)  # by method

    def find(self, segments: list[str], at: int, values: list[str]) -> _Node | None:
        """The node of this path, the parameters' values appended; None leaves `values` alone."""
        if at == len(segments):
            return self if self.rows else None
        segment = segments[at]
        inner = self.static.get(segment)
        if inner is not None:
            found = inner.find(segments, at + 1, values)
            if found is not None:
                return found
        if self.parameter is None or not segment:
            return None
        values.append(segment)
        found = self.parameter.find(segments, at + 1, values)
        if found is None:
            values.pop()
        return found


class EndpointTable:
    """All dialects' endpoints; `ValueError` when two rows take the same request."""

    __slots__ = ("_picks_at_root", "_prefixes", "_root", "_rows", "dialects", "path_rules")

    def __init__(self, dialects: Mapping[DialectName, Dialect]) -> None:
        self.dialects = dialects
        self._root = _Node()
        self._rows: list[_Row] = []
        self._prefixes: dict[str, DialectName] = {}
        self._picks_at_root: set[str] = set()
        for dialect in dialects.values():
            for endpoint in dialect.endpoints:
                self._add(dialect.name, endpoint)
            for prefix in dialect.path_prefixes:
                if self._prefixes.setdefault(prefix, dialect.name) != dialect.name:
                    raise ValueError(f"two dialects take the paths below {prefix}")

        paths = [row.endpoint.path for row in self._rows]
        self.path_rules = PathRules(
            slashed=frozenset({"/", *(path for path in paths if path.endswith("/"))}),
            cut=frozenset(row.endpoint.path for row in self._rows if row.endpoint.is_cut),
        )

    def _add(self, dialect: DialectName, endpoint: Endpoint) -> None:
        node = self._root
        names: list[str] = []
        for segment in endpoint.path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.static.setdefault(segment, _Node())
        row = _Row(dialect, endpoint, tuple(names))
        if endpoint.path == "/" and endpoint.query:
            self._picks_at_root.add(endpoint.query[0][0])
        rows = node.rows.setdefault(endpoint.method, [])
        for other in rows:
            if sorted(other.endpoint.query) == sorted(endpoint.query):
                raise ValueError(f"two endpoints take {endpoint.method} {endpoint.path}")
        rows.append(row)
        rows.sort(key=lambda r: -len(r.endpoint.query))  # the more particular is asked first
        self._rows.append(row)

    def match(self, method: str, path: str, query: Mapping[str, str]) -> Call:
        """The call this head makes. `path` is normalised and still percent-encoded, so that a %2F
        inside an id ends no segment; `query` is decoded.

        `EndpointNotFound`, `MethodNotAllowed` with what the path has, or `Invalid` with the
        query parameter that picks no operation.
        """
        values: list[str] = []
        node = self._root.find(_segments(path), 0, values)
        if node is None:
            raise EndpointNotFound(f"There is no endpoint {method} {_shown(path)}.")
        rows = node.rows.get(method)
        if rows is None and method == "HEAD":
            rows = node.rows.get("GET")
        if rows is None:
            if method == "POST" and values:
                _check_word(node, path, values[-1])
            implied = {"HEAD"} if "GET" in node.rows else set()
            allow = (*sorted(node.rows.keys() | implied), "OPTIONS")
            raise MethodNotAllowed(
                f"{_shown(path)} does not take {_shown(method)}; it takes {', '.join(allow)}.",
                allow,
            )
        for row in rows:
            if row.takes(query):
                params = dict(zip(row.names, values, strict=True))
                params.update(row.endpoint.params)
                return Call(row.dialect, row.endpoint.operation, params, query)
        raise _query_fault(rows, query)

    def probable_dialect(self, path: str) -> DialectName | None:
        """Whose client probably asks for a path that has no endpoint, or not by its method: the
        dialect with the longest prefix of it. None: that of no dialect in particular."""
        path = path or "/"
        fitting = [p for p in self._prefixes if path == p or path.startswith(p + "/")]
        return self._prefixes[max(fitting, key=len)] if fitting else None

    def is_visit(self, method: str, path: str, query: Sequence[tuple[str, str]]) -> bool:
        """Whether somebody looks what is here: a GET of `/` without the parameter that picks one of
        the operations at that path."""
        return (
            path == "/"
            and method in ("GET", "HEAD")
            and all(name not in self._picks_at_root for name, _ in query)
        )

    def homes(self) -> str:
        """Where each dialect is, as a sentence lists it."""
        *homes, last = [f"{dialect.home} ({dialect.title})" for dialect in self.dialects.values()]
        return f"{', '.join(homes)} and {last}"

    def rows(self) -> list[tuple[str, str, str, str]]:
        """(method, path with its query, dialect, operation) in the dialects' own order."""
        return [
            (
                row.endpoint.method,
                "?".join([row.endpoint.path, *_query_of(row.endpoint)]),
                row.dialect,
                row.endpoint.operation.value,
            )
            for row in self._rows
        ]


def _check_word(node: _Node, path: str, word: str) -> None:
    """`EndpointNotFound` for a POST to a word where an id stands, as other servers have it: a
    MethodNotAllowed would say that the word is a video."""
    if word.startswith(_ID_PREFIX):
        return
    for row in node.rows.get("GET", ()):
        meant = dict(row.endpoint.meant)
        if meant:
            raise EndpointNotFound(
                f"There is no endpoint POST {_shown(path)}. {meant.get(word, meant[''])}"
            )


def _query_of(endpoint: Endpoint) -> list[str]:
    pairs = "&".join(f"{name}={value}" for name, value in endpoint.query)
    return [pairs] if pairs else []


_ID_PREFIX: Final = "video_"  # of every id this gateway gives out
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def _segments(path: str) -> list[str]:
    """The decoded segments after the first slash. What decodes to no text names no endpoint."""
    raw = path.split("/")[1:]
    if "%" not in path:
        return raw
    try:
        segments = [unquote(segment, errors="strict") for segment in raw]
    except UnicodeDecodeError as exc:
        raise EndpointNotFound(f"The path {_shown(path)} is not UTF-8.") from exc
    if any(_CONTROL.search(segment) for segment in segments):
        raise EndpointNotFound(f"The path {_shown(path)} holds a control character.")
    return segments


def _query_fault(rows: list[_Row], query: Mapping[str, str]) -> Invalid:
    """Blames the first parameter no row takes; each taken alone, the last: the pair is wrong."""
    accepted: dict[str, list[str]] = {}
    for row in rows:
        for name, value in row.endpoint.query:
            if value not in accepted.setdefault(name, []):
                accepted[name].append(value)
    wrong = next((n for n, values in accepted.items() if query.get(n) not in values), None)
    name = wrong if wrong is not None else list(accepted)[-1]
    choices = " or ".join(accepted[name])
    given = query.get(name)
    if given is None:
        return Invalid(f"The query parameter '{name}' is required: {choices}.", param=name)
    return Invalid(
        f"The query parameter '{name}' must be {choices}, not {_shown(given)}.", param=name
    )


def _shown(text: str) -> str:
    """A client's text inside a message: short, and nothing in it but printable characters."""
    return ascii(text if len(text) <= 80 else text[:80] + "...")
