"""What a refusal or a failure costs a credential or an upstream, and what clients are told."""

from __future__ import annotations

from dataclasses import replace

import pytest
from multidict import CIMultiDict

from proxy.errors import Invalid, Unavailable
from proxy.model import ACTIVE_MS, HEALTHY, Credential, CredentialHealth, HealthState, Upstream
from proxy.providers import PROVIDERS
from proxy.providers.outcomes import Cooldown, Refused
from proxy.tasks import breaker
from proxy.tasks.breaker import Blocked
from proxy.tasks.schedule import Schedule

NOW = 1_790_000_000_000


def no(cooldown: Cooldown, wait_s: float | None = None, *, elsewhere: bool = True) -> Refused:
    return Refused(Unavailable("no"), elsewhere, "1302", wait_s, cooldown)


def after(health: CredentialHealth, *refusals: Refused) -> list[float]:
    """Seconds of pause after each refusal, each met as soon as the pause before it is over."""
    now_ms, pauses = NOW, []
    for refusal in refusals:
        health = breaker.after_refusal(health, refusal, now_ms)
        pauses.append((health.until_ms - now_ms) / 1000)
        now_ms = health.until_ms
    return pauses


def test_a_back_off_doubles_from_a_second_to_a_minute() -> None:
    assert after(HEALTHY, *[no("back_off")] * 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_is_out_is_tried_less_and_less_often() -> None:
    expected = [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert after(HEALTHY, *[no("take_out")] * 9) == expected


@pytest.mark.parametrize(
    ("wait_s", "pause_s"), [(0.2, 1), (7, 7), (59.5, 59.5), (3600, 3600), (86400, 3600)]
)
def test_a_pause_the_provider_names_is_kept_within_an_hour(wait_s: float, pause_s: float) -> None:
    assert after(HEALTHY, no("back_off", wait_s)) == [pause_s]


def test_a_named_pause_does_not_bring_back_what_is_out() -> None:
    assert after(HEALTHY, no("take_out", 9000)) == [30]


def test_submits_that_were_under_way_together_are_one_strike() -> None:
    first = breaker.after_refusal(HEALTHY, no("back_off"), NOW)
    second = breaker.after_refusal(first, no("back_off"), NOW + 100)
    assert second == first
    third = breaker.after_refusal(first, no("back_off", 5), NOW + 100)
    assert third == replace(first, until_ms=NOW + 5100)


def test_a_trial_that_fails_is_a_strike_although_its_lease_runs() -> None:
    out = breaker.after_refusal(HEALTHY, no("take_out"), NOW)
    later = out.until_ms
    held = breaker.half_open(out, later, 70_000)
    assert breaker.verdict(held, later + 69_999) == "wait"
    assert breaker.after_refusal(held, no("take_out"), later + 10) == held
    failed = breaker.after_refusal(held, no("take_out"), later + 10, trial=True)
    assert (failed.strikes, failed.until_ms) == (2, later + 10 + 60_000)


@pytest.mark.parametrize(
    ("before", "refusal", "state", "strikes"),
    [
        ("cooling", no("take_out"), "out", 1),
        ("out", no("back_off"), "out", 3),  # a late answer to what was sent before
        ("cooling", no("none"), "cooling", 3),
        ("out", no("none"), "out", 3),
        ("out", no("none", elsewhere=False), "well", 0),  # it read the request: the key is good
    ],
)
def test_one_kind_of_trouble_meets_another(
    before: HealthState, refusal: Refused, state: str, strikes: int
) -> None:
    health = CredentialHealth(before, 3, NOW + 1000, "x")
    found = breaker.after_refusal(health, refusal, NOW)
    assert (found.state, found.strikes) == (state, strikes)


def test_a_trial_that_only_meets_a_rate_is_back_in_the_pool() -> None:
    held = breaker.half_open(CredentialHealth("out", 4, NOW, "1101"), NOW, 70_000)
    found = breaker.after_refusal(held, no("back_off"), NOW + 5, trial=True)
    assert (found.state, found.strikes, found.code) == ("cooling", 1, "1302")


def test_an_upstream_breaks_after_failures_in_a_row_and_is_tried_by_one() -> None:
    health, now_ms = HEALTHY, NOW
    for strike in range(1, breaker.TRIP_AFTER):
        health = breaker.after_failure(health, "cut", now_ms)
        assert (health.state, health.strikes) == ("well", strike)
        assert breaker.verdict(health, now_ms) == "go"
    pauses = []
    for _ in range(6):
        health = breaker.after_failure(health, "cut", now_ms)
        pauses.append((health.until_ms - now_ms) / 1000)
        assert breaker.verdict(health, now_ms) == "wait"
        assert breaker.blocked(health, now_ms) == Blocked("broken", health.until_ms - now_ms)
        assert breaker.after_failure(health, "late", now_ms + 1) == health
        now_ms = health.until_ms
        assert breaker.verdict(health, now_ms) == "trial"
    assert pauses == [5, 10, 20, 40, 60, 60]


def test_pauses_stay_bounded_however_long_it_lasts() -> None:
    health = replace(CredentialHealth("broken", 10_000, NOW, "cut"))
    assert breaker.after_failure(health, "cut", NOW).until_ms == NOW + 60_000


@pytest.mark.parametrize(
    ("blocks", "status", "code", "retry_after", "words"),
    [
        ([Blocked("busy", 0)], 429, "too_many_in_flight", "5", "under way"),
        ([Blocked("out", 9), Blocked("busy", 0)], 429, "too_many_in_flight", "5", "under way"),
        ([Blocked("cooling", 7400)], 429, "rate_limit_exceeded", "7", "in 7 s"),
        (
            [Blocked("cooling", 9000), Blocked("cooling", 3000), Blocked("broken", 10)],
            429,
            "rate_limit_exceeded",
            "3",
            "rate limit",
        ),
        ([Blocked("broken", 20_000)], 503, "unavailable", "20", "cannot be reached: 1"),
        ([Blocked("out", 3_600_000)], 503, "unavailable", "120", "operator to check: 1"),
        (
            [Blocked("out", 60_000), Blocked("out", 90_000), Blocked("broken", 30_000)],
            503,
            "unavailable",
            "30",
            "cannot be reached: 1; refused by the provider, for the operator to check: 2",
        ),
    ],
)
def test_who_is_turned_away_is_told_how_soon_to_come_again(
    blocks: list[Blocked], status: int, code: str, retry_after: str, words: str
) -> None:
    error = breaker.none_available("sora-2", blocks)
    assert (error.status, error.code) == (status, code)
    assert error.headers["Retry-After"] == retry_after
    assert words in error.message
    assert "'sora-2'" in error.message
    assert "nothing was submitted" in error.message
    assert error.retryable


def test_a_place_outlives_the_longest_pause_between_two_looks() -> None:
    usual = Schedule(2000, 5000, 30_000, 70_000, 600_000)
    assert breaker.slot_life_ms(usual) == 2 * 600_000
    slow = replace(usual, max_ms=3_600_000)
    assert breaker.slot_life_ms(slow) > 16 * 3_600_000
    quick = Schedule(20, 30, 50, 100, 1000)
    assert breaker.slot_life_ms(quick) == breaker.SLOT_LIFE_MS


# What each provider says of a credential: (status, body, what becomes of it).
def coded(*said: tuple[int, int, Cooldown]) -> list[tuple[int, bytes, Cooldown]]:
    return [(status, b'{"code":%d,"message":"x"}' % code, what) for status, code, what in said]


SAID: dict[str, list[tuple[int, bytes, Cooldown]]] = {
    "kling": [
        *coded(
            (401, 1000, "take_out"),
            (401, 1002, "take_out"),
            (401, 1004, "take_out"),
            (429, 1100, "take_out"),
            (429, 1101, "take_out"),
            (429, 1102, "take_out"),
            (403, 1103, "none"),
            (400, 1201, "none"),
            (404, 1203, "none"),
            (400, 1301, "none"),
            (429, 1302, "back_off"),
            (429, 1303, "back_off"),
            (429, 1304, "take_out"),
            (503, 5001, "back_off"),
        ),
        (401, b"<html>", "take_out"),
        (403, b"<html>", "take_out"),  # in doubt: two clients have to meet it
        (429, b"<html>", "back_off"),
    ],
    "jimeng": [
        *coded(
            (400, 50400, "none"),
            (400, 50412, "none"),
            (429, 50429, "back_off"),
            (429, 50430, "back_off"),
        ),
        (401, b'{"ResponseMetadata":{"Error":{"CodeN":100009}}}', "take_out"),
        (401, b'{"ResponseMetadata":{"Error":{"CodeN":100010}}}', "take_out"),
        (404, b'{"ResponseMetadata":{"Error":{"CodeN":100008}}}', "none"),
        (401, b"", "take_out"),
    ],
    "openai": [
        (401, b'{"error":{"message":"x","code":"invalid_api_key"}}', "take_out"),
        (402, b"", "take_out"),
        (403, b"", "take_out"),  # in doubt
        (403, b'{"error":{"message":"x","code":"model_not_available"}}', "none"),
        (404, b'{"error":{"message":"x","code":"model_not_found"}}', "none"),
        (429, b'{"error":{"message":"x","code":"rate_limit_exceeded"}}', "back_off"),
        (429, b'{"error":{"message":"x","code":"insufficient_quota"}}', "take_out"),
        (400, b'{"error":{"message":"x","code":"invalid_value"}}', "none"),
        (503, b'{"error":{"message":"x","code":"overloaded"}}', "back_off"),
    ],
}


@pytest.mark.parametrize("provider", list(SAID))
def test_a_providers_own_code_says_what_becomes_of_the_credential(provider: str) -> None:
    """A 429 is not one thing: too fast heals by waiting, an empty account does not, and what is
    about one request or model says nothing of the others."""
    upstream = Upstream("up", provider, "https://api.example", (Credential("k"),))
    for status, body, cooldown in SAID[provider]:
        outcome = PROVIDERS[provider].outcome(status, CIMultiDict(), body, upstream)
        assert isinstance(outcome, Refused), (status, body)
        assert outcome.cooldown == cooldown, (status, body)
        assert outcome.elsewhere or isinstance(outcome.error, Invalid), (status, body)


# ---------------------------------------------------------------- whose verdict it is

DOUBT = Refused(Unavailable("no"), True, "http_403", None, "take_out", doubtful=True)


def met(
    health: CredentialHealth, *witnesses: breaker.Witness, at_ms: int = NOW
) -> CredentialHealth:
    """After one failure of each of these keys' requests."""
    for witness in witnesses:
        health = breaker.after_failure(health, "500", at_ms, witness=witness)
    return health


def one_of_many(key: str) -> breaker.Witness:
    return breaker.Witness(key, is_alone=False)


def test_one_keys_failures_never_break_an_upstream_while_others_are_active() -> None:
    health = met(HEALTHY, *[one_of_many("a")] * 50)
    assert breaker.verdict(health, NOW, "a") == breaker.verdict(health, NOW, "b") == "go"
    broken = met(health, one_of_many("b"))
    assert (broken.state, broken.until_ms) == ("broken", NOW + 5000)
    assert breaker.verdict(broken, NOW, "c") == "wait"


def test_what_one_key_met_long_ago_is_no_evidence() -> None:
    health = met(HEALTHY, *[one_of_many("a")] * 5)
    later = met(health, one_of_many("b"), at_ms=NOW + ACTIVE_MS + 1)
    assert (later.state, later.strikes) == ("well", 1)


def test_a_key_that_was_alone_is_shut_out_and_nobody_else() -> None:
    health = met(HEALTHY, *[breaker.Witness("a", is_alone=True)] * 5)
    assert (health.state, breaker.verdict(health, NOW, "a")) == ("broken", "wait")
    assert breaker.verdict(health, NOW, "b") == "go"
    assert breaker.verdict(health, health.until_ms, "a") == "trial"


def test_who_broke_an_upstream_does_not_get_the_trial_first() -> None:
    broken = met(HEALTHY, *[one_of_many("a")] * 4, one_of_many("b"))
    assert breaker.verdict(broken, broken.until_ms, "c") == "trial"
    assert breaker.verdict(broken, broken.until_ms, "a") == "wait"
    assert breaker.blocked(broken, broken.until_ms, "a").wait_ms == 5000
    assert breaker.verdict(broken, broken.until_ms + 5000, "a") == "trial"


def test_failures_to_connect_count_from_anybody() -> None:
    health = HEALTHY
    for _ in range(breaker.TRIP_AFTER):
        health = breaker.after_failure(health, "unreachable", NOW)
    assert breaker.verdict(health, NOW, "a") == breaker.verdict(health, NOW, "b") == "wait"


def test_a_doubtful_refusal_takes_a_credential_out_when_two_keys_met_it() -> None:
    once = breaker.after_refusal(HEALTHY, DOUBT, NOW, witness=one_of_many("a"))
    again = breaker.after_refusal(once, DOUBT, NOW, witness=one_of_many("a"))
    assert once.state == again.state == "well"
    out = breaker.after_refusal(again, DOUBT, NOW, witness=one_of_many("b"))
    assert (out.state, out.until_ms) == ("out", NOW + 30_000)
    assert breaker.verdict(out, NOW, "c") == "wait"


def test_a_documented_refusal_takes_a_credential_out_at_once() -> None:
    out = breaker.after_refusal(HEALTHY, no("take_out"), NOW, witness=one_of_many("a"))
    assert breaker.verdict(out, NOW, "b") == "wait"


@pytest.mark.parametrize(
    ("own", "keys", "state"),
    [
        ("well", ["out", "well"], "well"),
        ("well", ["out", "out"], "out"),
        ("well", ["out", "cooling"], "cooling"),
        ("broken", ["well"], "broken"),
        ("well", [], "well"),
    ],
)
def test_an_upstream_is_as_well_as_its_best_usable_key(
    own: HealthState, keys: list[HealthState], state: str
) -> None:
    def health(word: HealthState) -> CredentialHealth:
        return HEALTHY if word == "well" else CredentialHealth(word, 1, NOW + 1000, "x")

    whole = breaker.overall_health(health(own), [health(key) for key in keys], NOW)
    assert whole.state == state
