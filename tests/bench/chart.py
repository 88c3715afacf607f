"""The figures as bars, in one SVG that follows its reader's light or dark setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from tests.bench.results import Table, figure

PANELS: Final = (
    "status",
    "first_byte_p50",
    "stream16",
    "tls16",
    "stream200",
    "memory_total",
)
_COLUMNS: Final = 2
_PANEL_W: Final = 470
_LABEL_W: Final = 132
_VALUE_W: Final = 62
_ROW_H: Final = 21
_HEAD_H: Final = 46
_EDGE: Final = 18

# The ground is drawn too: a page's own colours need not be the reader's setting.
_STYLE: Final = """
.ground{fill:#ffffff}.title{fill:#17202a;font-weight:600;font-size:13px}
.unit,.value{fill:#56616d}.name{fill:#2a333d}.us{font-weight:600}
.peer{fill:#b3bcc6}.ours{fill:#1668b8}.reach{stroke:#56616d}
text{font:12px system-ui,-apple-system,"Segoe UI",sans-serif}
.title{font:600 13px system-ui,-apple-system,"Segoe UI",sans-serif}
.us{font:600 12px system-ui,-apple-system,"Segoe UI",sans-serif}
@media (prefers-color-scheme:dark){
.ground{fill:#14181d}.title{fill:#eef2f6}.unit,.value{fill:#a3aeb9}.name{fill:#d5dce3}
.peer{fill:#4b5661}.ours{fill:#4da3f5}.reach{stroke:#a3aeb9}}
"""


def draw(tables: Mapping[str, Table], caption: str) -> str:
    """Bars from 0 to each median, with a line from the least to the greatest figure."""
    chosen = [tables[key] for key in PANELS if key in tables and tables[key].series]
    rows = [chosen[at : at + _COLUMNS] for at in range(0, len(chosen), _COLUMNS)]
    parts: list[str] = []
    y = _EDGE
    for row in rows:
        for column, table in enumerate(row):
            parts += _panel(table, _EDGE + column * (_PANEL_W + _EDGE), y)
        y += max(map(_height, row)) + _EDGE
    width, height = _COLUMNS * (_PANEL_W + _EDGE) + _EDGE, y + 22
    parts.append(_text(_EDGE, y + 8, "unit", caption))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="Benchmark figures">\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect class="ground" width="{width}" height="{height}" rx="8"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _height(table: Table) -> int:
    return _HEAD_H + _ROW_H * len(table.series)


def _panel(table: Table, x: int, y: int) -> list[str]:
    better = "more is better" if table.is_more_better else "less is better"
    parts = [
        _text(x, y + 12, "title", table.title),
        _text(x, y + 29, "unit", f"{table.unit}, {better}"),
    ]
    most = max(max(values) for values in table.series.values())
    room = _PANEL_W - _LABEL_W - _VALUE_W
    scale = room / most if most > 0 else 0.0
    for number, (name, values) in enumerate(table.series.items()):
        top = y + _HEAD_H + number * _ROW_H - 6
        parts += _bar(table, name, values, x, top, scale)
    return parts


def _bar(
    table: Table, name: str, values: Sequence[float], x: int, top: int, scale: float
) -> list[str]:
    middle = table.median(name)
    is_ours = name.startswith("gateway")
    left, center = x + _LABEL_W, top + 8
    low, high = (left + max(0.0, value) * scale for value in (min(values), max(values)))
    length = max(1.0, middle * scale)
    kind = "ours" if is_ours else "peer"
    return [
        _text(x, top + 12, "name us" if is_ours else "name", name),
        f'<rect class="{kind}" x="{left}" y="{top + 1}" width="{length:.1f}" height="14" rx="2"/>',
        f'<line class="reach" x1="{low:.1f}" x2="{high:.1f}" y1="{center}" y2="{center}"/>',
        _text(round(max(high, left + length)) + 6, top + 12, "value", figure(middle)),
    ]


def _text(x: int, y: int, kind: str, text: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'
