"""How fast a body has to come: judged by windows, so that nobody drips on credit."""

from __future__ import annotations

from proxy.gateway.listener.bodies import WINDOW_S, BodyPace

MIB = 1024 * 1024
GRACE_S = 30.0


def ended_after_s(pace: BodyPace, pieces: list[tuple[float, int]], most_s: float) -> float | None:
    """When the body is given up, its pieces repeated from the second on; None: not by then."""
    now_s, place = 0.0, 0
    while now_s < most_s:
        took_s, came = pieces[min(place, len(pieces) - 1)]
        now_s, place = now_s + took_s, place + 1
        if not pace.waited(took_s, came):
            return now_s
    return None


def test_a_body_that_drips_after_a_flood_ends_within_a_window() -> None:
    """46 MiB at once, then a byte each two seconds: that bought 13 hours on average."""
    pace = BodyPace(1024, GRACE_S)
    ended_s = ended_after_s(pace, [(0.5, 46 * MIB), (2.0, 1)], 3600)
    assert ended_s is not None
    assert ended_s <= GRACE_S + WINDOW_S + 4


def test_a_slow_body_that_goes_on_is_read_to_its_end() -> None:
    assert ended_after_s(BodyPace(1024, GRACE_S), [(0.5, 512)], 3600) is None
    assert ended_after_s(BodyPace(1024, GRACE_S), [(0.5, 511)], 3600) is not None


def test_a_body_may_begin_slowly() -> None:
    assert ended_after_s(BodyPace(1024, GRACE_S), [(GRACE_S - 1, 1), (0.5, 512)], 3600) is None


def test_each_wait_of_a_window_or_longer_is_judged() -> None:
    ended_s = ended_after_s(BodyPace(1024, GRACE_S), [(1.0, 46 * MIB), (29.0, 1)], 3600)
    assert ended_s is not None
    assert ended_s <= GRACE_S + 2 * 29


def test_time_we_take_ourselves_is_not_the_clients() -> None:
    """What piled up while we were busy was not waited for."""
    assert ended_after_s(BodyPace(1024, GRACE_S), [(0.0, 1), (0.001, 65536)], 60) is None


def test_no_pace_is_wanted_where_it_is_switched_off() -> None:
    assert ended_after_s(BodyPace(0, GRACE_S), [(29.0, 0)], 36_000) is None
