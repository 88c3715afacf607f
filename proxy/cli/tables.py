"""Rows as aligned text, and the routing table as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from proxy.cli.plain import plain
from proxy.model import Json, Route, Upstream


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
                priced(route.price),
                str(route.queue or "-"),
                " ".join(rewrites) or "-",
            )
        )
    return rows


def priced(price: Mapping[str, Json]) -> str:
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
