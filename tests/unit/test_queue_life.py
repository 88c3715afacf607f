"""A waiting task's life in pure functions: how it comes to wait, when that ends, what a refusal
makes of it, and who may take it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxy.config import load
from proxy.config.source import ConfigErrors
from proxy.errors import (
    BudgetExceeded,
    Invalid,
    Moderated,
    ProxyError,
    RateLimited,
    TooManyInFlight,
    Unavailable,
    UpstreamUnreachable,
)
from proxy.http.outbound import Adjustment, Draft, Rendered
from proxy.model import Credential, Kind, Operation, Route, Stage, Task, TaskError, Upstream
from proxy.providers import PROVIDERS
from proxy.providers.outcomes import Refused
from proxy.tasks.lifecycle import (
    CANCELLED,
    end_of_wait,
    failed,
    failure_of,
    fitted,
    removed,
    sent,
    waiting,
    withdrawn,
)
from proxy.tasks.planning import max_age_ms, places_of, reach_of
from proxy.tasks.schedule import Schedule, confirm_end_ms, is_overdue, unconfirmed_due_ms

T0 = 1_790_000_000_000
DAY_MS = 86_400_000
SCHEDULE = Schedule(2_000, 5_000, 30_000, 70_000, 600_000)
UP = Upstream("up", "kling", "https://k", (Credential("a"), Credential("b", retired=True)))
OTHER = Upstream("other", "kling", "https://o", (Credential("c"),))
UPSTREAMS = {"up": UP, "other": OTHER}
ROUTES = (
    Route("free", (("up", 1),)),
    Route("sora-*", (("up", 1), ("other", 1)), queue=5, max_age_s=60.0),
)

RESERVED = Task(
    id="video_1",
    owner="acme",
    token_id="tok",
    dialect="openai",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="sora-2",
    route="sora-*",
    created_ms=T0,
    updated_ms=T0,
)
DRAFT = Draft("POST", "/", handle={"kind": "x"}, adjusted=(Adjustment("seconds", "4", "5"),))
WAITS = waiting(fitted(RESERVED, DRAFT, Rendered(5.0, (1, 2))), "up", T0 + 1)
SENT = sent(WAITS, T0 + DAY_MS, UP, UP.credentials[0], "m", DRAFT, Rendered(5.0, (1, 2)))


def test_a_task_that_waits_is_reserved_and_says_what_it_will_be() -> None:
    assert (WAITS.stage, WAITS.queue, WAITS.is_waiting) == (Stage.RESERVED, "up", True)
    assert (WAITS.version, WAITS.updated_ms) == (2, T0 + 1)
    assert (WAITS.adjusted, WAITS.seconds, WAITS.size) == (("seconds=4>5",), 5.0, (1, 2))
    assert not RESERVED.is_waiting
    assert not SENT.is_waiting
    assert SENT.queue == "up", "its client has it: nobody waits for its outcome"


def test_a_refused_attempt_is_counted_and_forgotten() -> None:
    """No upstream knows the task, so nothing may look for it anywhere."""
    again = waiting(SENT, "up", T0 + DAY_MS + 1)
    assert (again.is_waiting, again.attempt, again.version) == (True, 1, 4)
    assert (again.upstream, again.provider, again.credential) == ("", "", "")
    assert (again.upstream_model, again.handle, again.sent_ms) == ("", {}, None)
    assert again.adjusted == SENT.adjusted
    assert sent(again, T0, OTHER, OTHER.credentials[0], "m", DRAFT, Rendered()).attempt == 2


@pytest.mark.parametrize("stage", [s for s in Stage if s not in (Stage.RESERVED, Stage.SENT)])
def test_what_an_upstream_may_have_never_waits(stage: Stage) -> None:
    with pytest.raises(AssertionError):
        waiting(replace(SENT, stage=stage), "up", T0)


def test_a_waiting_task_its_owner_deletes_has_ended() -> None:
    ended = withdrawn(WAITS, T0 + 5)
    assert (ended.stage, ended.deleted, ended.error) == (Stage.FAILED, True, CANCELLED)
    assert (ended.settled_micro, ended.version) == (0, 3)
    with pytest.raises(AssertionError):
        withdrawn(SENT, T0 + 5)


@pytest.mark.parametrize(
    ("task", "age_ms", "has_place", "words"),
    [
        (WAITS, 60_000, True, None),
        (WAITS, 60_001, True, "waited longer than 60 s"),
        (WAITS, 0, False, "no longer configured"),
        (removed(WAITS, T0), 0, True, "cancelled by its owner"),
        (replace(WAITS, queue="other"), 60_000, True, None),
    ],
)
def test_waiting_ends_by_age_configuration_or_owner(
    task: Task, age_ms: int, has_place: bool, words: str | None
) -> None:
    error = end_of_wait(task, T0 + age_ms, 60_000, has_place=has_place)
    if words is None:
        assert error is None
    else:
        assert error is not None
        assert words in error.message
        assert error.code == ("cancelled" if "cancelled" in words else "not_submitted")


def test_the_age_of_what_waited_counts_from_when_it_was_sent() -> None:
    assert not is_overdue(SENT, T0 + DAY_MS + 60_000, 60_000)
    assert is_overdue(SENT, T0 + DAY_MS + 60_001, 60_000)
    assert confirm_end_ms(SENT, SCHEDULE) == T0 + DAY_MS + 600_000
    due_ms = unconfirmed_due_ms(SENT, T0 + DAY_MS, SCHEDULE, can_find=False)
    assert due_ms == T0 + DAY_MS + 600_000


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Invalid("no"), "invalid_input"),
        (Moderated("no"), "moderation_blocked"),
        (BudgetExceeded("no"), "quota_exceeded"),
        (RateLimited("no"), "rate_limited"),
        (TooManyInFlight("no"), "rate_limited"),
        (UpstreamUnreachable("no"), "upstream_error"),
        (Unavailable("no"), "upstream_error"),
    ],
)
def test_a_refusal_its_client_reads_later_is_one_of_the_failures(
    error: ProxyError, code: str
) -> None:
    assert failure_of(Refused(error, True, "1301")) == TaskError(code, "no", "1301")
    assert failed(SENT, failure_of(Refused(error, True)), T0) is not None


# ---------------------------------------------------------------- who may take it


def names(places: list[tuple[Upstream, Credential]]) -> set[str]:
    return {f"{upstream.name}/{credential.name}" for upstream, credential in places}


def test_a_waiting_task_may_go_to_all_of_its_route_as_that_is_now() -> None:
    assert names(places_of(ROUTES, UPSTREAMS, WAITS)) == {"up/a", "other/c"}
    assert names(places_of(ROUTES, UPSTREAMS, replace(WAITS, queue="other"))) == {"up/a", "other/c"}


@pytest.mark.parametrize(
    ("routes", "upstreams"),
    [
        ((), UPSTREAMS),
        (ROUTES[:1], UPSTREAMS),
        ((replace(ROUTES[1], upstreams=(("other", 1),)),), {"other": OTHER}),
        (ROUTES, {**UPSTREAMS, "up": replace(UP, credentials=UP.credentials[1:])}),
    ],
    ids=["no route", "another route", "its upstream left the route", "its credentials retired"],
)
def test_what_it_waits_for_may_leave_the_configuration(
    routes: tuple[Route, ...], upstreams: dict[str, Upstream]
) -> None:
    assert places_of(routes, upstreams, WAITS) == []


def test_a_place_may_be_with_any_credential_of_its_route() -> None:
    """Also with one that was retired since."""
    assert names(reach_of(ROUTES, UPSTREAMS, WAITS)) == {"up/a", "up/b", "other/c"}
    assert reach_of((), UPSTREAMS, WAITS) == []


def test_a_routes_own_age_stands_before_the_general_one() -> None:
    assert max_age_ms(ROUTES, WAITS, 5.0) == 60_000
    assert max_age_ms(ROUTES, replace(WAITS, route="free"), 5.0) == 5_000
    assert max_age_ms(ROUTES, replace(WAITS, route="gone"), 5.0) == 5_000


# ---------------------------------------------------------------- the option

CONFIG = """\
[[upstreams]]
name = "gpu"
provider = "openai"
base_url = "http://127.0.0.1:1/v1"
credentials = [{{ name = "a", api_key = "k", max_in_flight = 1 }}]
[[routes]]
model = "sora-2"
upstream = "gpu"
{queue}
"""


@pytest.mark.parametrize(
    ("written", "length"), [("", 0), ("queue = 0", 0), ("queue = 10_000", 10_000)]
)
def test_the_length_of_a_queue_is_read(tmp_path: Path, written: str, length: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(queue=written))
    assert load(path, {}, PROVIDERS).routes[0].queue == length


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("queue = -1", "must be at least 0"),
        ("queue = 10_001", "must be at most 10000"),
        ('queue = "5"', "routes[0].queue"),
        ("queue = true", "routes[0].queue"),
    ],
)
def test_a_queue_of_no_sound_length_is_told(tmp_path: Path, written: str, words: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(queue=written))
    with pytest.raises(ConfigErrors) as caught:
        load(path, {}, PROVIDERS)
    assert words in str(caught.value)
    assert "config.toml:9: routes[0].queue" in str(caught.value)
