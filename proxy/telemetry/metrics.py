"""Counters, histograms and gauges of one worker, and the page that Prometheus scrapes.

Counting adds to a plain number; Prometheus' own objects are made only for a scrape. The counters
of its client library cost 1–2 µs per touch, a third of what a status poll may spend on its access
log.

Rule: label values are few. They are words of this code, or names of the configuration in force.
Any other upstream or credential is `other`, and so is a series beyond `MAX_SERIES` of its metric.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from heapq import nsmallest
from itertools import accumulate
from operator import itemgetter
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from proxy import __version__
from proxy.config import Config
from proxy.errors import PERHAPS_OWED
from proxy.model import Stage, Task
from proxy.telemetry.metric_definitions import (
    BUILD,
    DEFINITIONS,
    MONEY,
    NONE,
    STAGES,
    STORE_FAILURES,
    STORE_SECONDS,
    Labels,
    MetricDefinition,
)

MICRO: Final = 1_000_000
OTHER: Final = "other"
MAX_SERIES: Final = 2000


class CounterSeries:
    """One series of a counter. Callers add to `n`."""

    __slots__ = ("n",)

    def __init__(self) -> None:
        self.n: float = 0


class HistogramSeries:
    """One series of a histogram: the number of values under each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class OldestTasks:
    """The oldest open tasks that this worker has polled, by id, until they are known to have ended.

    The number kept is bounded: beyond twice `most` the younger half is dropped. Those come back
    with their next poll, which every open task has.
    """

    def __init__(self, most: int = 1000) -> None:
        self._most = most
        self._made_ms: dict[str, int] = {}

    def note(self, task_id: str, made_ms: int) -> None:
        self._made_ms[task_id] = made_ms
        if len(self._made_ms) > 2 * self._most:
            self._made_ms = dict(nsmallest(self._most, self._made_ms.items(), key=itemgetter(1)))

    def ended(self, task_id: str) -> None:
        self._made_ms.pop(task_id, None)

    def first(self) -> tuple[str, int] | None:
        """The id and creation time (ms) of the oldest task; None without one."""
        return min(self._made_ms.items(), key=itemgetter(1), default=None)


class Metrics:
    """The metrics of one worker; a collector of Prometheus' client library.

    `counter` and `histogram` return a series to keep and count in. For gauges, `sample` names a
    function to call at each scrape, and `set_gauge` sets the values now.
    """

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._counters: dict[str, dict[Labels, CounterSeries]] = {f.name: {} for f in DEFINITIONS}
        self._histograms: dict[str, dict[Labels, HistogramSeries]] = {
            f.name: {} for f in DEFINITIONS
        }
        self._reads: dict[str, Callable[[], float]] = {}
        self._shown: dict[str, Mapping[Labels, float]] = {BUILD.name: {(__version__,): 1}}

    # ------------------------------------------------------------ counting

    def counter(self, family: MetricDefinition, *labels: str) -> CounterSeries:
        series = self._counters[family.name]
        found = series.get(labels)
        if found is None:
            labels = self._bounded(family, labels, len(series))
            found = series.setdefault(labels, CounterSeries())
        return found

    def histogram(self, family: MetricDefinition, *labels: str) -> HistogramSeries:
        series = self._histograms[family.name]
        found = series.get(labels)
        if found is None:
            labels = self._bounded(family, labels, len(series))
            found = series.setdefault(labels, HistogramSeries(family.bounds))
        return found

    def count(self, family: MetricDefinition, *labels: str) -> None:
        self.counter(family, *labels).n += 1

    def round_trip(self, seconds: float, *, answered: bool) -> None:
        """Count one round trip to the store."""
        self.histogram(STORE_SECONDS).observe(seconds)
        if not answered:
            self.count(STORE_FAILURES)

    def task_moved(self, before: Stage | None, task: Task, *, refused: bool = False) -> None:
        """Count a change of a task that this worker wrote; `before` is None for a new task. A
        refused submit (`refused`) is no task any more, so it does not count as failed."""
        if task.stage is not before and not refused:
            self.count(STAGES, task.stage.value)
        if before is None:
            self._move("hold", NONE, task.hold_micro)
        elif task.stage.is_final and not before.is_final:
            cost, upstream = task.settled_micro or 0, task.upstream or NONE
            self._move("settle", upstream, cost)
            self._move("refund", upstream, task.hold_micro - cost)
            if task.error is not None and task.error.code in PERHAPS_OWED:
                self._move("loss", upstream, task.hold_micro)

    def _move(self, kind: str, upstream: str, micro: int) -> None:
        if micro:
            currency = self._config().billing.currency
            self.counter(MONEY, kind, upstream, currency).n += micro / MICRO

    # ------------------------------------------------------------ gauges

    def sample(self, family: MetricDefinition, now: Callable[[], float]) -> None:
        """Call `now` for a gauge's value at each scrape. It must not raise."""
        self._reads[family.name] = now

    def set_gauge(self, family: MetricDefinition, values: Mapping[Labels, float]) -> None:
        """Replace all series of a gauge by these."""
        self._shown[family.name] = values

    # ------------------------------------------------------------ the page

    def collect(self) -> Iterable[Metric]:
        for family in DEFINITIONS:
            if family.kind == "counter":
                yield self._counter(family)
            elif family.kind == "histogram":
                yield self._histogram(family)
            else:
                yield self._gauge(family)

    def _counter(self, family: MetricDefinition) -> Metric:
        for labels in family.known(self._config()):
            self.counter(family, *labels)
        metric = CounterMetricFamily(family.name, family.help, labels=family.labels)
        for labels, tally in self._counters[family.name].items():
            metric.add_metric(labels, tally.n)
        return metric

    def _histogram(self, family: MetricDefinition) -> Metric:
        for labels in family.known(self._config()):
            self.histogram(family, *labels)
        metric = HistogramMetricFamily(family.name, family.help, labels=family.labels)
        names = [*map(_number, family.bounds), "+Inf"]
        for labels, spread in self._histograms[family.name].items():
            sums = accumulate(spread.counts)
            metric.add_metric(labels, list(zip(names, sums, strict=True)), spread.total)
        return metric

    def _gauge(self, family: MetricDefinition) -> Metric:
        metric = GaugeMetricFamily(family.name, family.help, labels=family.labels)
        read = self._reads.get(family.name)
        shown = {(): read()} if read is not None else self._shown.get(family.name, {})
        for labels, value in shown.items():
            metric.add_metric(labels, value)
        return metric

    # ------------------------------------------------------------ labels

    def _bounded(self, family: MetricDefinition, labels: Labels, series: int) -> Labels:
        """The labels a new series may have."""
        if len(labels) != len(family.labels):
            raise ValueError(f"{family.name} has the labels {family.labels}, not {labels}")
        if series >= MAX_SERIES:
            return (OTHER,) * len(labels)
        if "upstream" not in family.labels:
            return labels
        said = dict(zip(family.labels, labels, strict=True))
        upstream = self._config().upstreams.get(said["upstream"])
        credentials = {key.name for key in upstream.credentials} if upstream is not None else set()
        if upstream is None and said["upstream"] != NONE:
            said["upstream"] = OTHER
        if said.get("credential", NONE) not in {NONE, *credentials}:
            said["credential"] = OTHER
        return tuple(said.values())


def _number(bound: float) -> str:
    """A bound as Prometheus' own clients write it: 1.0, not 1."""
    return repr(float(bound))
