"""Several workers' pages are one page, which says of the gateway what one worker's would."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.parser import text_string_to_metric_families

from proxy.config import load
from proxy.providers import PROVIDERS
from proxy.telemetry import metric_definitions as m
from proxy.telemetry.metric_definitions import DEFINITIONS
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_merge import merged

CONFIG = load(None, {}, PROVIDERS)


class Worker:
    def __init__(self) -> None:
        self.metrics = Metrics(lambda: CONFIG)

    def page(self) -> bytes:
        registry = CollectorRegistry()
        registry.register(self.metrics)
        return generate_latest(registry)


def read(page: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """By name and labels, as Prometheus' own client reads it."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


def test_counters_and_histograms_are_added_up() -> None:
    one, other = Worker(), Worker()
    one.metrics.counter(m.REQUESTS, "openai", "get", "200", "done").n += 3
    other.metrics.counter(m.REQUESTS, "openai", "get", "200", "done").n += 4
    other.metrics.count(m.REQUESTS, "kling", "create", "200", "done")
    one.metrics.histogram(m.LOOP_LAG).observe(0.002)
    other.metrics.histogram(m.LOOP_LAG).observe(0.002)
    other.metrics.histogram(m.LOOP_LAG).observe(2.0)
    found = read(merged([one.page(), other.page()]))
    labels = {"dialect": "openai", "operation": "get", "status": "200", "reason": "done"}
    assert found["reelway_requests_total", tuple(sorted(labels.items()))] == 7
    labels |= {"dialect": "kling", "operation": "create"}
    assert found["reelway_requests_total", tuple(sorted(labels.items()))] == 1
    assert found["reelway_loop_lag_seconds_bucket", (("le", "0.0025"),)] == 2
    assert found["reelway_loop_lag_seconds_bucket", (("le", "+Inf"),)] == 3
    assert found["reelway_loop_lag_seconds_count", ()] == 3
    assert found["reelway_loop_lag_seconds_sum", ()] == pytest.approx(2.004)


def test_a_gauge_is_what_all_workers_together_have() -> None:
    """Connections are each worker's own; the open tasks are the same ones for all of them; and
    one worker without a store is enough to say so."""
    pages = []
    for connections, open_tasks, up in ((3, 70, 1), (4, 71, 1), (0, 69, 0)):
        worker = Worker()
        worker.metrics.sample(m.CONNECTIONS, lambda n=connections: n)  # type: ignore[misc]
        worker.metrics.set_gauge(m.TASKS_OPEN, {(): open_tasks})
        worker.metrics.set_gauge(m.STORE_UP, {(): up})
        states: dict[m.Labels, float] = {("up", "a", "ok"): 1 - up, ("up", "a", "out"): up}
        worker.metrics.set_gauge(m.CREDENTIAL_STATE, states)
        pages.append(worker.page())
    for order in permutations(pages):
        found = read(merged(order))
        assert found["reelway_connections", ()] == 7
        assert found["reelway_tasks_open", ()] == 71
        assert found["reelway_store_up", ()] == 0
        out = (("credential", "a"), ("state", "out"), ("upstream", "up"))
        assert found["reelway_credential_state", out] == 1


def test_what_a_worker_counted_stays_counted_when_it_is_gone() -> None:
    """Else the sum falls, and Prometheus counts everything again."""
    lost, left = Worker(), Worker()
    for worker, n in ((lost, 5), (left, 2)):
        worker.metrics.counter(m.SUBMITS, "-", "-", "accepted").n += n
        worker.metrics.sample(m.CONNECTIONS, lambda: 9)
    labels = (("credential", "-"), ("outcome", "accepted"), ("upstream", "-"))
    together = read(merged([left.page()], ended=[lost.page()]))
    assert together["reelway_submits_total", labels] == 7
    assert together["reelway_connections", ()] == 9  # the dead hold none
    folded = merged([], ended=[lost.page(), lost.page()])
    assert read(merged([left.page()], ended=[folded]))["reelway_submits_total", labels] == 12


def test_one_page_alone_says_what_it_said() -> None:
    worker = Worker()
    worker.metrics.count(m.REQUESTS, "openai", "get", "200", 'odd "reason" \\ with\nall # in it')
    worker.metrics.histogram(m.SECONDS, "openai", "get").observe(0.2)
    page = worker.page()
    assert read(merged([page])) == read(page)
    assert merged([merged([page])]) == merged([page])
    assert merged([]) == b""


def test_processes_are_one_process_together() -> None:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    page = generate_latest(registry)
    one, two = read(page), read(merged([page, page]))
    assert set(one) == set(two)
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert two[name, ()] == pytest.approx(2 * one[name, ()])
    assert two["process_start_time_seconds", ()] == one["process_start_time_seconds", ()]
    (info,) = [value for (name, _), value in two.items() if name == "python_info"]
    assert info == 1


def test_what_is_not_one_of_our_lines_is_an_error() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        merged([b"# TYPE x counter\nx one\n"])


VALUES = st.floats(0, 2.0**40).map(float)


@given(st.lists(st.lists(VALUES, max_size=5), min_size=1, max_size=4))
def test_a_histogram_of_all_is_that_of_each_added_up(observed: list[list[float]]) -> None:
    """Whoever saw which value: the same page as of one worker that saw them all."""
    workers, alone = [], Worker()
    for values in observed:
        worker = Worker()
        for value in values:
            worker.metrics.histogram(m.POLL_LAG).observe(value)
            alone.metrics.histogram(m.POLL_LAG).observe(value)
        workers.append(worker.page())
    assert read(merged(workers)) == pytest.approx(read(alone.page()))


def test_each_family_has_a_way_to_be_joined() -> None:
    assert {family.across for family in DEFINITIONS} <= {"sum", "max", "min"}
    for family in DEFINITIONS:
        if family.kind != "gauge":
            assert family.across == "sum", family.name
