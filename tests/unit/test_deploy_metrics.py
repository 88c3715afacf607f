"""The dashboard and the alerts ask for what the gateway has: a series that does not exist looks
like one that is always well."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from proxy.config import load
from proxy.providers import PROVIDERS
from proxy.telemetry.metric_definitions import DEFINITIONS, OUTCOMES
from proxy.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy/grafana/reelway.json").read_text())
ALERTS = (ROOT / "deploy/prometheus/alerts.yml").read_text()
TESTS = (ROOT / "deploy/prometheus/alerts_test.yml").read_text()
DOCS = (ROOT / "docs/metrics.md").read_text()

_NAME = re.compile(r"\b(?:reelway|process|python)_[a-z_]+\b")
_SELECTOR = re.compile(r"\b((?:reelway|process|python)_[a-z_]+)\{([^}]*)\}")
_BY = re.compile(r"\bby\s*\(([^)]*)\)")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
_OWN = {"instance", "job", "le"}  # Prometheus' own


def series() -> dict[str, set[str]]:
    """Every name the page can have, with its labels."""
    config = load(None, {}, PROVIDERS)
    registry = CollectorRegistry()
    registry.register(Metrics(lambda: config))
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    ours = {family.name: set(family.labels) for family in DEFINITIONS}
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
    return {
        metric.name + suffix: ours.get(metric.name, set())
        for metric in registry.collect()
        for suffix in suffixes.get(metric.type, ("",))
    }


def panels() -> Iterator[dict[str, Any]]:
    for panel in DASHBOARD["panels"]:
        yield panel
        yield from panel.get("panels", ())


def expressions() -> list[str]:
    found = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    variables = [entry.get("definition", "") for entry in DASHBOARD["templating"]["list"]]
    rules = re.findall(r"expr: (?:\|\n((?: {10,}.*\n)+)|(.*)\n)", ALERTS)
    return [*found, *filter(None, variables), *("".join(parts) for parts in rules)]


def test_every_series_asked_for_exists_with_its_labels() -> None:
    known = series()
    asked = expressions()
    assert len(asked) > 50
    for expression in asked:
        bare = re.sub(r'"[^"]*"', '""', expression)
        names = set(_NAME.findall(bare))
        assert names <= set(known), expression
        for name, selector in _SELECTOR.findall(expression):
            assert set(_MATCHER.findall(selector)) <= known[name] | _OWN, expression
        labels = {label.strip() for group in _BY.findall(bare) for label in group.split(",")}
        assert labels <= _OWN.union(*(known[name] for name in names)), expression


def test_every_word_a_label_is_compared_with_is_one_it_can_be() -> None:
    """A rule for `outcome="unkown"` would never say a thing."""
    words = {
        word
        for family in DEFINITIONS
        if not {"upstream", "credential"} & set(family.labels)
        for labels in family.known(load(None, {}, PROVIDERS))
        for word in labels
    }
    words |= {*OUTCOMES, "ok", "cooling", "out", "-", "reelway", "$instance"}
    words |= {"hold", "settle", "refund", "loss", "5..", "[45].."}
    for expression in expressions():
        for said in re.findall(r'(?:=~|!=|=)\s*"([^"]*)"', expression):
            assert said in words, expression


def test_every_family_is_on_the_dashboard() -> None:
    shown = " ".join(expressions())
    for family in DEFINITIONS:
        assert re.search(rf"\b{family.name}(_total|_bucket)?\b", shown), family.name


def test_the_dashboard_s_panels_have_a_place_and_the_chosen_data_source() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        at = panel["gridPos"]
        area = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not area & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= area
        for target in panel.get("targets", ()):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [entry["name"] for entry in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "instance"]


def test_every_alert_is_tested_both_ways_and_says_what_to_do() -> None:
    alerts = re.findall(r"- alert: (\w+)", ALERTS)
    assert len(set(alerts)) == len(alerts) > 15
    documented = re.findall(r"^\| `(Reelway\w+)` \| \S", DOCS, re.MULTILINE)
    assert documented == sorted(documented, key=alerts.index)
    assert set(documented) == set(alerts)
    for alert in alerts:
        for what in ("fires", "stays quiet"):
            assert f"- name: {alert} {what}\n" in TESTS
