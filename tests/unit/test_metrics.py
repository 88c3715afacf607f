"""The page of metrics: what it holds, and that nothing a client sends makes it grow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from proxy.config import Config, load
from proxy.model import Kind, Operation, Stage, Task, TaskError
from proxy.providers import PROVIDERS
from proxy.telemetry import metric_definitions as m
from proxy.telemetry.metric_definitions import DEFINITIONS
from proxy.telemetry.metrics import MAX_SERIES, HistogramSeries, Metrics, OldestTasks

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
UPSTREAMS = """
[[upstreams]]
name = "up"
provider = "openai"
base_url = "https://up.example/v1"
credentials = [{ name = "a", api_key = "k" }, { name = "b", api_key = "k", max_in_flight = 2 }]
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(UPSTREAMS)
    return load(path, {}, PROVIDERS)


@pytest.fixture
def metrics(config: Config) -> Metrics:
    return Metrics(lambda: config)


def page(metrics: Metrics) -> dict[str, float]:
    """Each series by its name and labels, as written."""
    registry = CollectorRegistry()
    registry.register(metrics)
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {key: float(value) for key, _, value in pairs}


def task(stage: Stage, **facts: object) -> Task:
    made = Task(
        id="video_00" + "0" * 46,
        owner="o",
        token_id="t",
        dialect="openai",
        operation=Operation.CREATE,
        kind=Kind.TEXT,
        model="m",
        created_ms=1,
        updated_ms=1,
        stage=stage,
    )
    return replace(made, **facts)  # type: ignore[arg-type]  # tests name a few fields


def test_a_page_is_read_back_as_what_was_counted(metrics: Metrics) -> None:
    metrics.count(m.REQUESTS, "openai", "get", "200", "done")
    metrics.counter(m.CONTENT_BYTES, "splice").n += 1024
    spread = metrics.histogram(m.SECONDS, "openai", "get")
    for seconds in (0.001, 0.3, 100.0):
        spread.observe(seconds)
    metrics.sample(m.CONNECTIONS, lambda: 7)
    metrics.set_gauge(m.QUEUED, {("up",): 3})
    found = page(metrics)
    labels = 'dialect="openai",operation="get",reason="done",status="200"'
    assert found[f"reelway_requests_total{{{labels}}}"] == 1
    assert found['reelway_content_bytes_total{tier="splice"}'] == 1024
    assert found["reelway_connections"] == 7
    assert found['reelway_queue_length{upstream="up"}'] == 3
    name = "reelway_request_seconds"
    under = {
        le: found[f'{name}_bucket{{dialect="openai",le="{le}",operation="get"}}']
        for le in ("0.001", "0.25", "0.5", "60.0", "+Inf")
    }
    # A bound is part of its bucket, and each bucket has all before it.
    assert under == {"0.001": 1, "0.25": 1, "0.5": 2, "60.0": 2, "+Inf": 3}
    assert found[f'{name}_count{{dialect="openai",operation="get"}}'] == 3
    assert found[f'{name}_sum{{dialect="openai",operation="get"}}'] == pytest.approx(100.301)


@pytest.mark.parametrize(
    ("value", "bucket"), [(0.0, 0), (0.1, 0), (0.11, 1), (0.2, 1), (0.3, 2), (float("inf"), 2)]
)
def test_a_value_falls_under_the_first_bound_that_is_not_less(value: float, bucket: int) -> None:
    spread = HistogramSeries((0.1, 0.2))
    spread.observe(value)
    assert spread.counts.index(1) == bucket


def test_what_alerts_count_is_there_before_it_happens(metrics: Metrics) -> None:
    """`increase` sees no first event of a series that begins with it."""
    found = page(metrics)
    for series in (
        'reelway_submits_total{credential="a",outcome="unknown",upstream="up"}',
        'reelway_money_total{currency="USD",kind="loss",upstream="up"}',
        'reelway_unknown_states_total{upstream="up"}',
        'reelway_tasks_lost_total{how="forgotten",upstream="up"}',
        'reelway_heals_total{outcome="gave_up"}',
        'reelway_webhooks_total{outcome="dead"}',
        'reelway_limit_reached_total{limit="connections"}',
        'reelway_task_stages_total{stage="failed"}',
        "reelway_store_failures_total",
        "reelway_worker_deaths_total",
        "reelway_store_restarts_total",
    ):
        assert found[series] == 0, series


def test_a_gauge_nobody_could_read_is_missing(metrics: Metrics) -> None:
    metrics.set_gauge(m.TASKS_OPEN, {(): 5})
    assert page(metrics)["reelway_tasks_open"] == 5
    metrics.set_gauge(m.TASKS_OPEN, {})
    assert "reelway_tasks_open" not in page(metrics)


def test_names_that_are_not_configured_are_other(metrics: Metrics) -> None:
    metrics.count(m.SUBMITS, "up", "a", "accepted")
    metrics.count(m.SUBMITS, "up", "gone", "accepted")
    metrics.count(m.SUBMITS, "gone", "a", "accepted")
    metrics.count(m.SUBMITS, "gone", "else", "accepted")
    metrics.count(m.UNKNOWN_STATES, "gone")
    found = {key: value for key, value in page(metrics).items() if value}
    series = 'reelway_submits_total{{credential="{}",outcome="accepted",upstream="{}"}}'
    assert found.pop(series.format("a", "up")) == 1
    assert found.pop(series.format("other", "up")) == 1
    assert found.pop(series.format("other", "other")) == 2
    assert found.pop('reelway_unknown_states_total{upstream="other"}') == 1


def test_no_family_grows_without_end(metrics: Metrics) -> None:
    for n in range(MAX_SERIES + 50):
        metrics.count(m.REQUESTS, "openai", "get", "200", f"reason {n}")
    series = [key for key in page(metrics) if key.startswith("reelway_requests_total")]
    assert len(series) == MAX_SERIES + 1
    assert metrics.counter(m.REQUESTS, "openai", "get", "200", "one more").n == 50


def test_labels_that_are_not_the_family_s_are_a_mistake(metrics: Metrics) -> None:
    with pytest.raises(ValueError, match="reelway_heals has the labels"):
        metrics.count(m.HEALS, "healed", "twice")


def test_a_task_s_way_is_counted_once_a_stage(metrics: Metrics) -> None:
    metrics.task_moved(None, task(Stage.RESERVED))
    metrics.task_moved(Stage.RESERVED, task(Stage.SENT))
    metrics.task_moved(Stage.IN_PROGRESS, task(Stage.IN_PROGRESS, progress=50))
    metrics.task_moved(Stage.IN_PROGRESS, task(Stage.COMPLETED))
    metrics.task_moved(Stage.COMPLETED, task(Stage.COMPLETED, deleted=True))
    found = {key: value for key, value in page(metrics).items() if value and "_stages" in key}
    name = "reelway_task_stages_total"
    assert found == {
        f'{name}{{stage="reserved"}}': 1,
        f'{name}{{stage="sent"}}': 1,
        f'{name}{{stage="completed"}}': 1,
    }


UNCONFIRMED = TaskError("submission_unconfirmed", "…")


@pytest.mark.parametrize(
    ("before", "after", "moved"),
    [
        (None, task(Stage.RESERVED, hold_micro=700_000), {"hold": 0.7}),
        (Stage.RESERVED, task(Stage.SENT, hold_micro=700_000), {}),
        (
            Stage.IN_PROGRESS,
            task(Stage.COMPLETED, hold_micro=700_000, settled_micro=500_000),
            {"settle": 0.5, "refund": 0.2},
        ),
        (Stage.SENT, task(Stage.FAILED, hold_micro=700_000, settled_micro=0), {"refund": 0.7}),
        (
            Stage.SENT,
            task(Stage.FAILED, hold_micro=700_000, settled_micro=0, error=UNCONFIRMED),
            {"refund": 0.7, "loss": 0.7},
        ),
        (
            Stage.IN_PROGRESS,
            task(Stage.FAILED, hold_micro=700_000, settled_micro=0, error=TaskError("lost", "…")),
            {"refund": 0.7, "loss": 0.7},
        ),
        (Stage.COMPLETED, task(Stage.COMPLETED, hold_micro=700_000, settled_micro=1), {}),
        (None, task(Stage.RESERVED), {}),
    ],
)
def test_money_moves_as_the_ledger_books_it(
    metrics: Metrics, before: Stage | None, after: Task, moved: dict[str, float]
) -> None:
    metrics.task_moved(before, replace(after, upstream="up" if before else ""))
    found = {key: value for key, value in page(metrics).items() if value and "_money" in key}
    name = 'reelway_money_total{{currency="USD",kind="{}",upstream="{}"}}'
    wanted = {name.format(kind, "-" if kind == "hold" else "up"): n for kind, n in moved.items()}
    assert found == pytest.approx(wanted)


def test_a_round_trip_without_an_answer_is_a_failure(metrics: Metrics) -> None:
    metrics.round_trip(0.002, answered=True)
    metrics.round_trip(1.0, answered=False)
    found = page(metrics)
    assert found["reelway_store_seconds_count"] == 2
    assert found["reelway_store_failures_total"] == 1


def test_the_eldest_is_the_oldest_until_it_has_ended() -> None:
    oldest_tasks = OldestTasks()
    assert oldest_tasks.first() is None
    for task_id, made_ms in (("b", 20), ("a", 10), ("c", 30), ("b", 20)):
        oldest_tasks.note(task_id, made_ms)
    assert oldest_tasks.first() == ("a", 10)
    oldest_tasks.ended("a")
    oldest_tasks.ended("c")
    assert oldest_tasks.first() == ("b", 20)
    oldest_tasks.ended("b")
    oldest_tasks.ended("b")  # somebody else's word came first
    assert oldest_tasks.first() is None


def test_of_many_open_tasks_the_oldest_are_kept() -> None:
    """Those that were forgotten come back when they are looked at the next time."""
    oldest_tasks = OldestTasks(most=10)
    for n in reversed(range(21)):
        oldest_tasks.note(f"task {n}", n)
    for n in range(10):
        assert oldest_tasks.first() == (f"task {n}", n)
        oldest_tasks.ended(f"task {n}")
    assert oldest_tasks.first() is None
    oldest_tasks.note("task 15", 15)
    assert oldest_tasks.first() == ("task 15", 15)


# ---------------------------------------------------------------- the table


def test_the_families_are_named_as_prometheus_wants_them(metrics: Metrics) -> None:
    names = [family.name for family in DEFINITIONS]
    assert len(set(names)) == len(names)
    for family in DEFINITIONS:
        assert family.name.startswith("reelway_")
        assert not family.name.endswith("_total")
        assert (family.kind == "histogram") == bool(family.bounds)
        assert list(family.bounds) == sorted(family.bounds)
        if family.kind == "histogram":
            assert family.name.endswith("_seconds")
    registry = CollectorRegistry()
    registry.register(metrics)
    text = generate_latest(registry).decode()
    told = {family.name: family.type for family in text_string_to_metric_families(text)}
    assert told == {family.name: family.kind for family in DEFINITIONS}


def test_the_documentation_has_each_family_in_the_code_s_own_words() -> None:
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("| `reelway_")]
    assert rows == [documented(family) for family in DEFINITIONS]


def documented(family: m.MetricDefinition) -> str:
    suffix = "_total" if family.kind == "counter" else ""
    labels = ", ".join(f"`{label}`" for label in family.labels) or "–"
    return (
        f"| `{family.name}{suffix}` | {family.kind} | {labels} | {family.across} | {family.help} |"
    )
