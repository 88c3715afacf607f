"""Where a request belongs: which dialect's operation a head is, and which upstreams may take it.

Two tables, both asked top-down. The endpoint table is made of the dialects' own rows; in it a
path segment written out beats a parameter, and a path once found is not left again: a method it
has not is 405, never another path's operation. The routing table is the operator's: first
match wins.

Rule: HEAD is answered wherever GET is (RFC 9110, 9.3.2), without a row of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Final, TypeVar
from urllib.parse import unquote

from proxy.cli.plain import plain
from proxy.dialects.base import Dialect, Endpoint
from proxy.errors import EndpointNotFound, Invalid, MethodNotAllowed
from proxy.model import Call, Credential, DialectName, Json, Principal, Route, Upstream
from proxy.providers import globs

# ---------------------------------------------------------------- endpoints


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

    __slots__ = ("_root", "_rows")

    def __init__(self, dialects: Mapping[DialectName, Dialect]) -> None:
        self._root = _Node()
        self._rows: list[_Row] = []
        for dialect in dialects.values():
            for endpoint in dialect.endpoints:
                self._add(dialect.name, endpoint)

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


_DIALECT_OF: Final[Sequence[tuple[re.Pattern[str], DialectName]]] = (
    (re.compile(r"/kling(/.*)?|(/v1)?/videos/(text2video|image2video)(/.*)?"), "kling"),
    (re.compile(r"/jimeng(/.*)?|/?"), "jimeng"),
    (re.compile(r"(/v1)?/video/generations(/.*)?"), "generic"),
)


def dialect_of(path: str) -> DialectName:
    """Who is probably asking, for the answer to a path or method that matches nothing."""
    return next((name for shape, name in _DIALECT_OF if shape.fullmatch(path)), "openai")


# ---------------------------------------------------------------- models


def choose_route(routes: Sequence[Route], model: str) -> Route | None:
    """The first row that takes this model."""
    return next((route for route in routes if globs.matches(route.model, model)), None)


def permits(principal: Principal, model: str) -> bool:
    return _permitted(principal.models, model)


def _permitted(models: Sequence[str], name: str) -> bool:
    return not models or any(globs.matches(glob, name) for glob in models)


def listed_models(routes: Sequence[Route], models: Sequence[str]) -> list[str]:
    """Names a token with these globs may ask for, in the routes' order: the routes that are no
    globs, then what the token itself names and a glob route takes."""
    names = [
        route.model
        for route in routes
        if globs.is_literal(route.model) and _permitted(models, route.model)
    ]
    names += [
        name for name in models if globs.is_literal(name) and choose_route(routes, name) is not None
    ]
    return list(dict.fromkeys(names))


def allowed_models(routes: Sequence[Route], models: Sequence[str]) -> list[str]:
    """The same for a person to read, followed by globs: the routes' own, or the token's where
    it may use only some of a route's names."""
    names = listed_models(routes, models)
    for wide in (route.model for route in routes if not globs.is_literal(route.model)):
        for glob in models or ("*",):
            if globs.covers(glob, wide):
                names.append(wide)
            elif globs.covers(wide, glob) and not globs.is_literal(glob):
                names.append(glob)
    return list(dict.fromkeys(names))


# ---------------------------------------------------------------- upstreams

_T = TypeVar("_T")


def candidates(
    route: Route, upstreams: Mapping[str, Upstream], random01: Callable[[], float]
) -> list[tuple[Upstream, Credential]]:
    """Who may take a submit, in the order to ask: upstreams by weight, within each its
    credentials by weight. Retired credentials only end what they began.

    `random01` gives numbers in [0, 1); the same numbers give the same order.
    """
    order: list[tuple[Upstream, Credential]] = []
    for name in _weighted(route.upstreams, random01):
        upstream = upstreams[name]
        keys = [(key, key.weight) for key in upstream.credentials if not key.retired]
        order += [(upstream, key) for key in _weighted(keys, random01)]
    return order


def _weighted(items: Sequence[tuple[_T, int]], random01: Callable[[], float]) -> list[_T]:
    """All of them, each place drawn by weight from who is left. Those of weight 0 come last,
    as they are listed: they only stand in."""
    left = [item for item in items if item[1] > 0]
    last = [item for item, weight in items if weight == 0]
    order: list[_T] = []
    while left:
        point = random01() * sum(weight for _, weight in left)
        index = 0
        while index < len(left) - 1 and point >= left[index][1]:
            point -= left[index][1]
            index += 1
        order.append(left.pop(index)[0])
    return order + last


# ---------------------------------------------------------------- for people


def describe_routes(
    routes: Sequence[Route], upstreams: Mapping[str, Upstream]
) -> list[tuple[str, ...]]:
    """(model, upstreams with their share, provider, upstream's model, price, how many may wait,
    rewrites), one per route."""
    rows: list[tuple[str, ...]] = []
    for route in routes:
        total = sum(weight for _, weight in route.upstreams)
        shares = [
            name
            if len(route.upstreams) == 1
            else f"{name} {f'{100 * weight / total:.0f}%' if weight else 'stand-in'}"
            for name, weight in route.upstreams
        ]
        providers = dict.fromkeys(upstreams[name].provider for name, _ in route.upstreams)
        rewrites = [f"{name}?" for name in route.defaults]
        rewrites += [f"{name}!" for name in route.overrides]
        rewrites += [f"-{name}" for name in route.remove]
        rewrites += ["exact"] if route.fit == "exact" else []
        rows.append(
            (
                route.model,
                ", ".join(shares),
                ", ".join(providers),
                route.upstream_model or "as asked",
                _priced(route.price),
                str(route.queue or "-"),
                " ".join(rewrites) or "-",
            )
        )
    return rows


def _priced(price: Mapping[str, Json]) -> str:
    """`0.07/s`, `0.40/video`, with amounts by case `720p 0.30/s, other 0.50/s`."""
    found = []
    for name, unit in (("per_second", "s"), ("per_video", "video")):
        amount = price.get(name)
        cases = amount if isinstance(amount, Mapping) else {"": amount} if amount else {}
        found.append(", ".join(f"{case} {each}/{unit}".strip() for case, each in cases.items()))
    return " + ".join(filter(None, found)) or "-"


def folded(header: Sequence[str], rows: Sequence[Sequence[str]], at: int, width: int = 100) -> str:
    """`columns`, in lines of `width` characters: long cells of column `at` go on below. A word
    that is longer than that, such as a URL, stays whole on a line of its own."""
    others = [
        max(len(row[column]) for row in (header, *rows)) + 2
        for column in range(len(header))
        if column != at
    ]
    room = max(24, width - sum(others))
    table: list[list[str]] = []
    for row in rows:
        pieces = wrap(row[at], room, break_long_words=False, break_on_hyphens=False) or [""]
        table.append([*row[:at], pieces[0], *row[at + 1 :]])
        table += [["" if n != at else piece for n in range(len(row))] for piece in pieces[1:]]
    return columns(header, table, {at: room})


def columns(
    header: Sequence[str], rows: Sequence[Sequence[str]], most: Mapping[int, int] | None = None
) -> str:
    """Rows under a header as aligned text, without spaces at the ends of lines, each cell `plain`.
    `most`: the width of a column at most; a longer cell moves what follows it."""
    table = [header, *([plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(header))]
    widths = [min(width, (most or {}).get(column, width)) for column, width in enumerate(widths)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )
    return "\n".join(lines)
