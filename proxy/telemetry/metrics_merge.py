"""Merge the metrics pages of several workers into one.

Counters and histograms are added up. Gauges follow `MetricDefinition.across`: a gauge that each
worker counts for itself is added up, one that all read from the same store is not. The
`process_…` series are the sums over all workers, as if they were one process; no label tells
them apart, so that one gateway has the same series whatever `[server] workers` says.

Rule: the counts of a worker that has ended stay in the sums. A sum that falls looks like a restart
to Prometheus, which would count everything again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.telemetry.metric_definitions import DEFINITIONS

Join = Callable[[float, float], float]

_JOINS: Final[dict[str, Join]] = {"sum": float.__add__, "max": max, "min": min}
_GAUGES: Final[dict[str, Join]] = {
    family.name: _JOINS[family.across] for family in DEFINITIONS if family.kind == "gauge"
} | {
    "process_virtual_memory_bytes": float.__add__,
    "process_resident_memory_bytes": float.__add__,
    "process_open_fds": float.__add__,
    "process_max_fds": float.__add__,
    # The latest start: a worker that had to be replaced is seen as a change of it.
    "process_start_time_seconds": max,
    "python_info": max,
}


@dataclass(slots=True)
class _MergedFamily:
    head: list[str] = field(default_factory=list)  # the HELP and TYPE lines
    kind: str = "untyped"
    series: dict[str, float] = field(default_factory=dict)  # by name and labels, as written


def merged(documents: Sequence[bytes], ended: Sequence[bytes] = ()) -> bytes:
    """One page of all these, as `prometheus_client.generate_latest` writes them.

    `ended` are the last known pages of workers that are gone: what they counted still counts,
    their gauges say nothing any more. `merged([], ended)` makes one of many of them.
    ValueError for a line that is none of ours.
    """
    families: dict[str, _MergedFamily] = {}
    for document in documents:
        _add(families, document.decode().split("\n"), gauges=True)
    for document in ended:
        _add(families, document.decode().split("\n"), gauges=False)
    lines: list[str] = []
    for family in families.values():
        lines += family.head
        lines += (f"{key} {value!r}" for key, value in family.series.items())
    return "\n".join([*lines, ""]).encode() if lines else b""


def _add(families: dict[str, _MergedFamily], lines: Iterable[str], *, gauges: bool) -> None:
    """A page's HELP and TYPE lines come before its family's series."""
    family, join, is_wanted = _MergedFamily(), float.__add__, False
    for line in lines:
        if line.startswith("# HELP "):
            name = line.split(" ", 3)[2]
            family = families.setdefault(name, _MergedFamily())
            if not family.head:
                family.head.append(line)
        elif line.startswith("# TYPE "):
            _, _, name, family.kind = line.split(" ")
            if len(family.head) == 1:
                family.head.append(line)
            is_gauge = family.kind == "gauge"
            join = _across(name) if is_gauge else float.__add__
            is_wanted = gauges or not is_gauge
        elif line and is_wanted and not line.startswith("#"):
            key, _, number = line.rpartition(" ")
            value = float(number)
            known = family.series.get(key)
            family.series[key] = value if known is None else join(known, value)


def _across(name: str) -> Join:
    """How the workers' values of a gauge become one. A gauge nobody knows is not added up: the
    largest of some numbers is at least one of them."""
    return _GAUGES.get(name, max)
