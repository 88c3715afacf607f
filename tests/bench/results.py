"""Figures, ratios and verdicts: what a run found, and what it may say."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.bench.contenders import AUTH, GATEWAY, LUA, NGINX, PIPE, SPLICE, TUNED

MOST_SPREAD: Final = 0.40  # of the peer a ratio is made against; above it there is none


@dataclass(slots=True)
class Table:
    """One measure: each contender's figures, one per repetition."""

    key: str
    title: str
    unit: str
    is_more_better: bool = False
    series: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        self.series.setdefault(name, []).append(value)

    def last(self, name: str) -> float:
        return self.series[name][-1]

    def median(self, name: str) -> float:
        return statistics.median(self.series[name])

    def spread(self, name: str) -> float:
        """(max − min) / median."""
        values, middle = self.series[name], self.median(name)
        return (max(values) - min(values)) / abs(middle) if middle else 0.0


# Whom the figures of a table are divided by.
PEERS: Final[Mapping[str, str]] = {
    "status": AUTH,
    "stream16": NGINX,
    "stream200": NGINX,
    "tls16": TUNED,
    "memory_total": NGINX,
    "memory_user": NGINX,
    "workers": "one worker",
}


def ratio(table: Table, name: str, peer: str) -> float | None:
    """None where there are no figures, or the peer's spread too far to divide by."""
    if name not in table.series or peer not in table.series:
        return None
    if table.spread(peer) > MOST_SPREAD or not table.median(peer):
        return None
    return table.median(name) / table.median(peer)


@dataclass(frozen=True, slots=True)
class Limit:
    """`peer` None: the figure itself is limited, not its ratio to another's."""

    most: float
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    what: str
    table: str
    contender: str
    bar: Limit
    stretch: Limit


BARS: Final = (
    Bar("status poll, CPU", "status", GATEWAY, Limit(1.0, AUTH), Limit(1.2, LUA)),
    Bar("plain HTTP, 16: splice", "stream16", SPLICE, Limit(0.40, NGINX), Limit(0.30, NGINX)),
    Bar("plain HTTP, 16: pipe", "stream16", PIPE, Limit(0.70, NGINX), Limit(0.30, NGINX)),
    Bar("TLS upstream, 16: pipe", "tls16", PIPE, Limit(1.25, TUNED), Limit(1.05, TUNED)),
    Bar("user memory, slow: splice", "memory_user", SPLICE, Limit(64), Limit(32)),
    Bar("user memory, slow: pipe", "memory_user", PIPE, Limit(400), Limit(256)),
    Bar(
        "user + kernel memory, slow: splice",
        "memory_total",
        SPLICE,
        Limit(0.6, NGINX),
        Limit(0.45, NGINX),
    ),
    Bar(
        "user + kernel memory, slow: pipe",
        "memory_total",
        PIPE,
        Limit(0.6, NGINX),
        Limit(0.45, NGINX),
    ),
    Bar("first byte added, p50", "first_byte_p50", SPLICE, Limit(2.0), Limit(1.0)),
    Bar(
        "two workers", "workers", "two workers", Limit(1.5, "one worker"), Limit(1.65, "one worker")
    ),
    Bar("start to first answer", "start", GATEWAY, Limit(1500), Limit(1000)),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    what: str
    bar: str
    stretch: str
    verdict: str  # "stretch", "pass", "miss", "refused" or "not measured"


def judge(tables: Mapping[str, Table]) -> list[Verdict]:
    return [_verdict(bar, tables[bar.table]) for bar in BARS if bar.table in tables]


def _verdict(bar: Bar, table: Table) -> Verdict:
    shown = [_against(limit, bar.contender, table) for limit in (bar.bar, bar.stretch)]
    (is_met, text), (is_stretched, stretch_text) = shown
    if bar.contender not in table.series:
        verdict = "not measured"
    elif is_met is None:
        verdict = "refused"
    elif not is_met:
        verdict = "**miss**"
    else:
        verdict = "stretch" if is_stretched else "pass"
    return Verdict(bar.what, text, stretch_text, verdict)


def _against(limit: Limit, name: str, table: Table) -> tuple[bool | None, str]:
    """Whether the limit is kept (None: cannot be said), and the sentence."""
    sign = "≥" if table.is_more_better else "≤"
    if limit.peer is None:
        wanted = f"{sign} {limit.most:g} {table.unit}"
        value = table.median(name) if name in table.series else None
        said = "" if value is None else f"{figure(value)} {table.unit}"
    else:
        wanted = f"{sign} {limit.most:g} × {limit.peer}"
        value = ratio(table, name, limit.peer)
        said = "" if value is None else f"{value:.2f} ×"
        if value is None and name in table.series:
            said = "no such peer"
            if limit.peer in table.series:
                said = f"no ratio: its spread is {table.spread(limit.peer):.0%}"
    if value is None:
        return None, f"{said or '–'} ({wanted})"
    is_kept = value >= limit.most if table.is_more_better else value <= limit.most
    return is_kept, f"{said} ({wanted})"


def figure(value: float) -> str:
    """Three digits that mean something."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return (
        f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}"
    )


# ---------------------------------------------------------------- Markdown


def markdown(
    machine: Mapping[str, str],
    versions: Mapping[str, str],
    tables: Mapping[str, Table],
    made: str,
    arguments: str,
) -> str:
    intro = (
        f"`make bench` of {made}{arguments}. Figures are medians over the repetitions; the spread "
        "is (max − min) / median. CPU and memory are the kernel's account of a contender's process "
        "tree, so they hold on a busy machine, where wall time does not. Load and upstreams have "
        "one core, the contender another one."
    )
    lines = [
        "# Benchmarks",
        "",
        intro,
        "",
        "![The same figures as bars](results.svg)",
        "",
        "## Bars",
        "",
        *_grid(
            ("what", "bar", "stretch", "verdict"),
            [(v.what, v.bar, v.stretch, v.verdict) for v in judge(tables)],
        ),
        "",
        f"A ratio is refused when the peer's own spread is over {MOST_SPREAD:.0%}.",
        "",
    ]
    for table in tables.values():
        lines += [f"## {table.title}", "", *_rows(table), ""]
        remarks = [*(f"**failed:** {failure}" for failure in table.failures), *table.notes]
        lines += [f"- {remark}" for remark in remarks]
        lines += [""] if remarks else []
    lines += ["## Machine", "", *_grid(("what", "is"), list(machine.items())), ""]
    lines += ["## Versions", "", *_grid(("program", "version"), list(versions.items())), ""]
    return "\n".join(lines).rstrip() + "\n"


def _rows(table: Table) -> list[str]:
    if not table.series:
        return ["Not measured."]
    peer = PEERS.get(table.key)
    names = ["contender", table.unit, "min – max", "spread"]
    rows = []
    for name, values in table.series.items():
        row = [
            name,
            figure(table.median(name)),
            f"{figure(min(values))} – {figure(max(values))}",
            f"{table.spread(name):.0%}",
        ]
        if peer is not None:
            by = ratio(table, name, peer)
            row.append("refused" if by is None else f"{by:.2f}")
        rows.append(row)
    if peer is not None:
        names.append(f"÷ {peer}")
    return _grid(names, rows)


def _grid(names: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
