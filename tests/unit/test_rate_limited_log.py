"""A trouble that goes on is one line, and then a count now and again."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Any

from proxy.telemetry.logs import make_logger
from proxy.telemetry.rate_limited_log import EVERY_S, MOST_KINDS, RateLimitedLog


@dataclass
class Site:
    """A log with a clock that moves when it is told to."""

    now_s: float = 1000.0
    file: io.StringIO = field(default_factory=io.StringIO)

    def __post_init__(self) -> None:
        self.log = RateLimitedLog(make_logger(self.file), lambda: self.now_s)

    def lines(self) -> list[dict[str, Any]]:
        found = [json.loads(line) for line in self.file.getvalue().splitlines()]
        return [{k: v for k, v in line.items() if k != "ts"} for line in found]


def test_the_first_line_goes_out_at_once_and_the_rest_are_counted() -> None:
    """190 troubles in 23 seconds are one line; the next line, after 30 seconds, has their count."""
    site = Site()
    for _ in range(190):
        site.log.warning("store unreachable", why="refused")
        site.now_s += 23 / 190
    first = {"event": "store unreachable", "level": "warning", "why": "refused"}
    assert site.lines() == [first]
    site.now_s += EVERY_S
    site.log.warning("store unreachable", why="refused")
    assert site.lines() == [first, {**first, "count": 189}]


def test_a_trouble_for_hours_is_one_line_in_thirty_seconds() -> None:
    """However often it happens: the counts add up to what was held back."""
    site = Site()
    for _ in range(3600 * 10):
        site.log.warning("store unreachable")
        site.now_s += 0.1
    lines = site.lines()
    assert 3600 / EVERY_S - 1 <= len(lines) <= 3600 / EVERY_S + 1
    counted = sum(line.get("count", 0) for line in lines) + len(lines)
    site.log.ended("store unreachable", "store reachable again")
    assert counted + site.lines()[-1].get("count", 0) == 36_000


def test_the_end_is_one_line_with_its_length_and_what_was_held_back() -> None:
    """And the next trouble of the kind is told at once again."""
    site = Site()
    for _ in range(3):
        site.log.warning("store unreachable")
        site.now_s += 2
    site.log.ended("store unreachable", "store reachable again", part="tracker")
    site.log.ended("store unreachable", "store reachable again", part="tracker")
    site.log.warning("store unreachable")
    _, over, again = site.lines()
    assert over == {
        "event": "store reachable again",
        "level": "info",
        "part": "tracker",
        "count": 2,
        "seconds": 6.0,
    }
    assert again == {"event": "store unreachable", "level": "warning"}


def test_an_end_without_a_trouble_says_nothing() -> None:
    site = Site()
    site.log.ended("store unreachable", "store reachable again")
    assert site.lines() == []


def test_troubles_about_different_things_do_not_hide_each_other() -> None:
    site = Site()
    for _ in range(2):
        for name in ("kling", "jimeng"):
            site.log.info("upstream unreachable", about=name, upstream=name)
    assert [line["upstream"] for line in site.lines()] == ["kling", "jimeng"]


def test_an_exception_has_its_traceback_and_repeats_no_more_than_the_others() -> None:
    site = Site()
    for _ in range(2):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            site.log.exception("tracker round failed")
    (line,) = site.lines()
    assert line["level"] == "error"
    assert "ZeroDivisionError" in line["exception"]


def test_what_is_remembered_is_bounded() -> None:
    """The kind that was quiet for longest is forgotten: its next line goes out at once."""
    site = Site()
    for n in range(MOST_KINDS + 1):
        site.log.warning("webhook not delivered", about=str(n))
    site.log.warning("webhook not delivered", about=str(MOST_KINDS))
    site.log.warning("webhook not delivered", about="0")
    assert len(site.lines()) == MOST_KINDS + 2
