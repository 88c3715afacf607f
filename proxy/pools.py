"""Which credentials may take a submit now: what their refusals and their upstream's failures
taught, and when each is tried again.

Pure; a `Standing` is shared by all workers through the store. A credential is *cooling* after
its provider's "too fast" and "too many", and *out* after what no waiting mends (its key, its
balance). An upstream is *broken* after failures in a row: the circuit breaker. What is out or
broken comes back through one trial submit after a pause that grows, while all others wait.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from proxy.errors import ProxyError, RateLimited, TooManyInFlight, Unavailable
from proxy.lifecycle import MAX_DOUBLINGS, Schedule
from proxy.model import Refused

Mood = Literal["well", "cooling", "out", "broken"]
Verdict = Literal["go", "trial", "wait"]
Why = Literal["busy", "cooling", "out", "broken"]

TRIP_AFTER: Final = 5  # failures in a row
# Pauses in ms: the first, and the longest it doubles to. Kling's page asks for a back-off of at
# least a second that grows exponentially (read 2026-08).
PAUSES: Final[dict[Mood, tuple[int, int]]] = {
    "cooling": (1000, 60_000),
    "out": (30_000, 3_600_000),
    "broken": (5000, 60_000),
}
LONGEST_NAMED_MS: Final = 3_600_000  # of a pause the provider names itself
BUSY_RETRY_S: Final = 5.0  # nobody knows when a render ends
PLACE_LIFE_MS: Final = 15 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Standing:
    """`strikes` in a row brought it here, the last with the provider's `code`; nothing is asked
    of it before `until_ms`."""

    mood: Mood = "well"
    strikes: int = 0
    until_ms: int = 0
    code: str = ""


WELL: Final = Standing()


@dataclass(frozen=True, slots=True)
class Blocked:
    """A credential that takes no submit now, and perhaps one in `wait_ms`."""

    why: Why
    wait_ms: int


def verdict(standing: Standing, now_ms: int) -> Verdict:
    """`trial`: one submit may try it, once `on_trial` is written and nobody else did first."""
    if standing.mood == "well":
        return "go"
    if now_ms < standing.until_ms:
        return "wait"
    return "go" if standing.mood == "cooling" else "trial"


def blocked(standing: Standing, now_ms: int) -> Blocked:
    """Of a standing whose verdict is to wait."""
    assert standing.mood != "well"
    return Blocked(standing.mood, max(0, standing.until_ms - now_ms))


def on_trial(standing: Standing, now_ms: int, lease_ms: int) -> Standing:
    """Whoever writes this has the trial; a worker that dies with it loses it after `lease_ms`."""
    return replace(standing, until_ms=now_ms + lease_ms)


def after_refusal(
    standing: Standing, refusal: Refused, now_ms: int, *, trial: bool = False
) -> Standing:
    """A credential after what its provider said. What was sent before a pause began, and is
    refused in it, is no further strike: ten submits at once are one mistake."""
    if refusal.cooldown == "none":
        # Wrong in itself, so it was read: the key is good.
        return standing if refusal.elsewhere else WELL
    mood: Mood = "cooling" if refusal.cooldown == "back_off" else "out"
    code = refusal.provider_code or refusal.error.code
    named_ms = 0
    if mood == "cooling" and refusal.retry_after_s is not None:
        named_ms = min(round(refusal.retry_after_s * 1000), LONGEST_NAMED_MS)
    is_paused = standing.until_ms > now_ms and not trial
    if is_paused and standing.mood == "out" and mood == "cooling":
        return standing
    if is_paused and standing.mood == mood:
        return replace(standing, until_ms=max(standing.until_ms, now_ms + named_ms))
    strikes = standing.strikes + 1 if standing.mood == mood else 1
    return Standing(mood, strikes, now_ms + max(_pause_ms(mood, strikes), named_ms), code)


def after_failure(standing: Standing, reason: str, now_ms: int, *, trial: bool = False) -> Standing:
    """An upstream after a submit it could not be reached for, or gave no sound answer to."""
    if standing.mood == "broken" and standing.until_ms > now_ms and not trial:
        return standing
    strikes = standing.strikes + 1
    if strikes < TRIP_AFTER:
        return Standing("well", strikes, 0, reason)
    pause_ms = _pause_ms("broken", strikes - TRIP_AFTER + 1)
    return Standing("broken", strikes, now_ms + pause_ms, reason)


def _pause_ms(mood: Mood, strikes: int) -> int:
    first, longest = PAUSES[mood]
    return min(first << min(strikes - 1, 20), longest)


def told(model: str, reasons: Sequence[Blocked]) -> ProxyError:
    """What the client hears when nobody can take its submit: how soon it is worth another try,
    and for whoever runs the gateway, what stands in the way."""
    counts = Counter(reason.why for reason in reasons)

    def soonest(why: Why) -> float:
        return min(reason.wait_ms for reason in reasons if reason.why == why) / 1000

    if counts["busy"]:
        return TooManyInFlight(
            f"Every account for model '{model}' has as many videos under way as it may; "
            "nothing was submitted. Wait for one to end.",
            retry_after_s=BUSY_RETRY_S,
            limit="credentials",
        )
    if counts["cooling"]:
        wait_s = soonest("cooling")
        return RateLimited(
            f"Every account for model '{model}' waits out its provider's rate limit; nothing "
            f"was submitted. Try again in {max(1, round(wait_s))} s.",
            retry_after_s=wait_s,
            limit="cooling",
        )
    words = []
    if counts["broken"]:
        words.append(f"behind an upstream that fails or cannot be reached: {counts['broken']}")
    if counts["out"]:
        words.append(f"refused by the provider, for the operator to check: {counts['out']}")
    return Unavailable(
        f"No account for model '{model}' can be used now ({'; '.join(words)}); nothing was "
        "submitted.",
        retry_after_s=min(reason.wait_ms for reason in reasons) / 1000,
    )


def place_life_ms(schedule: Schedule) -> int:
    """How long a task's place among those in flight outlives the last look at the task: longer
    than the longest pause between two looks, so that only a lost release ends that way."""
    longest_ms = max(schedule.max_ms << MAX_DOUBLINGS, schedule.confirm_ms, schedule.settle_ms)
    return max(PLACE_LIFE_MS, 2 * longest_ms)
