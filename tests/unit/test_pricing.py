"""Money is integers, taken from what will be rendered, and rounded up once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Invalid
from proxy.http.outbound import Rendered
from proxy.tasks.pricing import money, price_micro, resolution_of, settle_micro

HD = (1280, 720)
FULL = (1080, 1920)
CASES: dict[str, Any] = {
    "per_second": {"720p": "0.05", "1080p": "0.08", "1080p+audio": "0.12", "other": "1"}
}


@pytest.mark.parametrize(
    ("price", "rendered", "micro"),
    [
        ({}, Rendered(), 0),
        ({"per_second": "0.07"}, Rendered(5), 350_000),
        ({"per_second": "0.0000001"}, Rendered(5), 1),
        ({"per_second": "0.1"}, Rendered(0.3), 30_000),
        ({"per_second": "0.1"}, Rendered(most_seconds=10), 1_000_000),
        ({"per_second": "0.1"}, Rendered(5, most_seconds=8), 800_000),
        ({"per_video": "0.40"}, Rendered(), 400_000),
        ({"per_video": "0.40"}, Rendered(n=3), 1_200_000),
        ({"per_second": "0.07", "per_video": "0.01"}, Rendered(10), 710_000),
        (CASES, Rendered(10, HD), 500_000),
        (CASES, Rendered(10, FULL), 800_000),
        (CASES, Rendered(10, FULL, audio=True), 1_200_000),
        (CASES, Rendered(10, HD, audio=True), 500_000),
        (CASES, Rendered(10, (640, 360)), 10_000_000),
        (CASES, Rendered(10), 10_000_000),
        ({"per_video": {"std": "1", "pro": "2"}}, Rendered(5, HD, mode="pro"), 2_000_000),
        ({"per_video": {"std": "1", "pro": "2"}}, Rendered(5, HD), 2_000_000),
        ({"per_video": {"720p": "1", "audio": "3"}}, Rendered(5, HD, audio=True), 3_000_000),
    ],
)
def test_the_price_of_a_render(price: dict[str, Any], rendered: Rendered, micro: int) -> None:
    assert price_micro(price, rendered) == micro


def test_a_price_by_seconds_wants_them_said() -> None:
    with pytest.raises(Invalid) as caught:
        price_micro({"per_second": "0.07"}, Rendered())
    assert caught.value.param == "seconds"


@given(
    hold=st.integers(0, 10**9),
    seconds=st.one_of(st.none(), st.floats(0.1, 60)),
    size=st.sampled_from([None, HD, FULL]),
)
def test_a_task_never_costs_more_than_was_held(
    hold: int, seconds: float | None, size: tuple[int, int] | None
) -> None:
    assert 0 <= settle_micro(hold, CASES, Rendered(seconds, size)) <= hold


@pytest.mark.parametrize(
    ("size", "name"),
    [
        ((854, 480), "480p"),
        ((720, 1280), "720p"),
        ((1248, 704), "720p"),
        ((1920, 1088), "1080p"),
        ((1440, 1440), "1440p"),
        ((3840, 2160), "4k"),
    ],
)
def test_a_resolution_has_the_vendors_name(size: tuple[int, int], name: str) -> None:
    assert resolution_of(size) == name


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "0.00"), (350_000, "0.35"), (1, "0.000001"), (12_500_000, "12.50"), (-1_500_000, "-1.50")],
)
def test_money_reads_as_money(micro: int, text: str) -> None:
    assert money(micro) == text
