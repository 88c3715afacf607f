"""The script of faults: which request is struck, and how often."""

from __future__ import annotations

import pytest

from proxy.sim import Fault
from proxy.sim.faults import Faults, Kind
from proxy.sim.links import Links


def _struck(faults: Faults, kind: Kind, times: int, target: str = "/") -> list[bool]:
    return [faults.plan("kling", "submit", target).get(kind) is not None for _ in range(times)]


def test_a_fault_strikes_once_unless_told_otherwise() -> None:
    faults = Faults()
    active = faults.add(Fault("status"))
    assert _struck(faults, "status", 3) == [True, False, False]
    assert active.hits == 1


def test_times_and_skip_count_matching_requests_only() -> None:
    faults = Faults()
    faults.add(Fault("lost", service="kling", operation="submit", skip=1, times=2))
    assert faults.plan("jimeng", "submit", "/").get("lost") is None
    assert faults.plan("kling", "poll", "/").get("lost") is None
    assert _struck(faults, "lost", 4) == [False, True, True, False]


def test_always_is_always() -> None:
    faults = Faults()
    faults.add(Fault("status", times=None))
    assert _struck(faults, "status", 5) == [True] * 5


def test_target_selects_one_task() -> None:
    faults = Faults()
    faults.add(Fault("cut", target="/842", times=None))
    assert _struck(faults, "cut", 1, "/v1/videos/text2video/842") == [True]
    assert _struck(faults, "cut", 1, "/v1/videos/text2video/843") == [False]


def test_kinds_combine_and_one_kind_queues() -> None:
    faults = Faults()
    first = faults.add(Fault("cut", at=10))
    second = faults.add(Fault("cut", at=20))
    faults.add(Fault("no_range"))
    plan = faults.plan("cdn", "file", "/")
    assert plan.get("cut") is first
    assert plan.kinds == ("cut", "no_range")
    plan = faults.plan("cdn", "file", "/")
    assert plan.get("cut") is second
    assert plan.kinds == ("cut",)


def test_removing_and_clearing_let_go_what_is_held() -> None:
    faults = Faults()
    one, two = faults.add(Fault("hold")), faults.add(Fault("stall"))
    faults.remove(one)
    faults.clear()
    assert one.released.is_set()
    assert two.released.is_set()
    assert faults.plan("kling", "submit", "/").kinds == ()


def test_fault_from_json_reads_every_field() -> None:
    fault = Fault.from_json(
        {
            "kind": "status",
            "service": "kling",
            "operation": "submit",
            "times": None,
            "status": 429,
            "code": 1303,
            "retry_after": "2",
            "headers": {"X-A": "b"},
        }
    )
    assert fault == Fault(
        "status",
        service="kling",
        operation="submit",
        times=None,
        status=429,
        code=1303,
        retry_after="2",
        headers=(("X-A", "b"),),
    )
    assert Fault.from_json({"kind": "headers", "headers": [["A", "1"], ["A", "2"]]}).headers == (
        ("A", "1"),
        ("A", "2"),
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "JSON object"),
        ({}, "'kind' is missing"),
        ({"kind": "explode"}, "accepted: hangup"),
        ({"kind": "cut", "offset": 1}, "Unknown field 'offset'"),
        ({"kind": "cut", "at": "1"}, "'at' has the wrong type"),
        ({"kind": "cut", "at": True}, "'at' has the wrong type"),
        ({"kind": "cut", "at": -1}, "byte offset from 0"),
        ({"kind": "cut", "at": None}, "use 'lost'"),
        ({"kind": "drip", "rate": 0}, "bytes per second"),
        ({"kind": "cut", "times": 0}, "count from 1"),
        ({"kind": "headers", "headers": ["A: 1"]}, "[name, value]"),
    ],
)
def test_a_wrong_fault_is_told_what_is_accepted(value: object, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        Fault.from_json(value)
    assert told in str(caught.value)


def test_links_die_by_time_by_expiry_and_by_any_change() -> None:
    now = [1000.0]
    links = Links(b"k" * 32, 60, lambda: now[0])
    target = links.make("abc")
    assert links.check(target) == "abc"
    assert links.check(target.replace("abc", "abd")) is None
    assert links.check(target.replace("%2F", "/", 1)) is None
    assert links.check(target + "&x=1") is None
    now[0] = 1060.0
    assert links.check(target) is None
    renewed = links.make("abc")
    assert links.check(renewed) == "abc"
    links.expire_all()
    assert links.check(renewed) is None
    assert links.check(links.make("abc")) == "abc"
