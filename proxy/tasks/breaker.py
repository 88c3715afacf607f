"""Which credentials may take a submit now: the circuit breakers of credentials and upstreams.

Pure; all workers share a `CredentialHealth` through the store. A credential is *cooling* after its
provider's "too fast" and "too many", and *out* after what no waiting mends (its key, its balance).
An upstream is *broken* after failures in a row: its circuit is open. What is out or broken comes
back through one trial submit after a pause that grows, while all others wait: it is half open.

Rule: one client's requests close nothing to other clients. A failure to connect, or a documented
word about the account, counts from anybody. A verdict that may be about the request alone (a 500,
a 403 without a known code) closes a credential or an upstream only when two client keys have met
it, or the one key that was active in the last ten minutes; to other keys it stays open even then.
A key whose requests closed it does not get the trial before the others had time to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from proxy.errors import ProxyError, RateLimited, TooManyInFlight, Unavailable
from proxy.model import ACTIVE_MS, ANYBODY, HEALTHY, CredentialHealth, HealthState
from proxy.providers.outcomes import Refused
from proxy.tasks.schedule import MAX_DOUBLINGS, Schedule

Verdict = Literal["go", "trial", "wait"]
Why = Literal["busy", "cooling", "out", "broken"]

TRIP_AFTER: Final = 5  # failures in a row
# Pauses in ms: the first, and the longest it doubles to. Kling's page asks for a back-off of at
# least a second that grows exponentially (read 2026-08).
PAUSES: Final[dict[HealthState, tuple[int, int]]] = {
    "cooling": (1000, 60_000),
    "out": (30_000, 3_600_000),
    "broken": (5000, 60_000),
}
LONGEST_NAMED_MS: Final = 3_600_000  # of a pause the provider names itself
BUSY_RETRY_S: Final = 5.0  # nobody knows when a render ends
MOST_KEYS: Final = 8  # remembered of those whose requests met a failure
SLOT_LIFE_MS: Final = 15 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Witness:
    """Whose request met a verdict. `is_alone`: no other key was active in `ACTIVE_MS`."""

    key: str
    is_alone: bool


@dataclass(frozen=True, slots=True)
class Blocked:
    """A credential that takes no submit now, and perhaps one in `wait_ms`."""

    why: Why
    wait_ms: int


def verdict(health: CredentialHealth, now_ms: int, key: str | None = None) -> Verdict:
    """Whether a submit of this client key may go out now; of `key` None, one of any key.

    `trial`: one submit may try it, once `half_open` is written and nobody else did first.
    """
    if health.state == "well" or not health.concerns(key):
        return "go"
    if now_ms < _until_ms(health, key):
        return "wait"
    return "go" if health.state == "cooling" else "trial"


def blocked(health: CredentialHealth, now_ms: int, key: str | None = None) -> Blocked:
    """What keeps a submit away whose verdict is to wait."""
    assert health.state != "well"
    return Blocked(health.state, max(0, _until_ms(health, key) - now_ms))


def _until_ms(health: CredentialHealth, key: str | None) -> int:
    """When this key may try it: the keys whose requests closed it to all come later, by the first
    pause of its kind, so that one of the others has the trial."""
    if key is None or key not in health.keys or not health.is_for_all:
        return health.until_ms
    return health.until_ms + PAUSES[health.state][0]


def half_open(health: CredentialHealth, now_ms: int, lease_ms: int) -> CredentialHealth:
    """Whoever writes this has the trial; a worker that dies with it loses it after `lease_ms`."""
    return replace(health, until_ms=now_ms + lease_ms)


def after_refusal(
    health: CredentialHealth,
    refusal: Refused,
    now_ms: int,
    *,
    trial: bool = False,
    witness: Witness | None = None,
) -> CredentialHealth:
    """A credential after what its provider said. What was sent before a pause began, and is
    refused in it, is no further strike: ten submits at once are one mistake."""
    if refusal.doubtful and witness is not None and refusal.cooldown == "take_out":
        return _after_doubt(health, refusal, now_ms, trial=trial, witness=witness)
    if refusal.cooldown == "none":
        # Wrong in itself, so it was read: the key is good.
        return health if refusal.elsewhere else HEALTHY
    state: HealthState = "cooling" if refusal.cooldown == "back_off" else "out"
    code = refusal.provider_code or refusal.error.code
    named_ms = 0
    if state == "cooling" and refusal.retry_after_s is not None:
        named_ms = min(round(refusal.retry_after_s * 1000), LONGEST_NAMED_MS)
    is_paused = health.until_ms > now_ms and not trial and health.is_for_all
    if is_paused and health.state == "out" and state == "cooling":
        return health
    if is_paused and health.state == state:
        return replace(health, until_ms=max(health.until_ms, now_ms + named_ms))
    strikes = health.strikes + 1 if health.state == state else 1
    return CredentialHealth(state, strikes, now_ms + max(_pause_ms(state, strikes), named_ms), code)


def _after_doubt(
    health: CredentialHealth, refusal: Refused, now_ms: int, *, trial: bool, witness: Witness
) -> CredentialHealth:
    """A credential after a refusal that may be about the request alone."""
    known = _still_counts(health, now_ms)
    keys = _with(known.keys, witness.key)
    is_paused = known.state != "well" and known.until_ms > now_ms and not trial
    if is_paused and known.concerns(witness.key):
        return health
    code = refusal.provider_code or refusal.error.code
    strikes = known.strikes + 1 if known.state in ("well", "out") else 1
    found = CredentialHealth("well", strikes, 0, code, keys, now_ms)
    if not found.is_for_all and not witness.is_alone:
        return health if known.state == "cooling" else found
    pauses = strikes if known.state == "out" else 1
    return replace(found, state="out", strikes=pauses, until_ms=now_ms + _pause_ms("out", pauses))


def after_failure(
    health: CredentialHealth,
    reason: str,
    now_ms: int,
    *,
    trial: bool = False,
    witness: Witness | None = None,
) -> CredentialHealth:
    """An upstream after a submit it could not be reached for, or gave no sound answer to. With a
    `witness` the failure may be about the request alone."""
    known = _still_counts(health, now_ms)
    key = ANYBODY if witness is None else witness.key
    is_paused = known.state == "broken" and known.until_ms > now_ms and not trial
    if is_paused and known.concerns(key):
        return health
    strikes = known.strikes + 1
    found = CredentialHealth("well", strikes, 0, reason, _with(known.keys, key), now_ms)
    is_one_client = not found.is_for_all and witness is not None and not witness.is_alone
    if strikes < TRIP_AFTER or is_one_client:
        return replace(found, strikes=min(strikes, TRIP_AFTER - 1))
    pause_ms = _pause_ms("broken", strikes - TRIP_AFTER + 1)
    return replace(found, state="broken", until_ms=now_ms + pause_ms)


def _still_counts(health: CredentialHealth, now_ms: int) -> CredentialHealth:
    """What one client met long ago is forgotten."""
    is_old = health.last_ms and now_ms - health.last_ms > ACTIVE_MS
    is_open = health.state == "well" or not health.is_for_all
    return HEALTHY if is_old and is_open and health.until_ms <= now_ms else health


def _with(keys: tuple[str, ...], key: str) -> tuple[str, ...]:
    return (*(other for other in keys if other != key), key)[-MOST_KEYS:]


def _pause_ms(state: HealthState, strikes: int) -> int:
    first, longest = PAUSES[state]
    return min(first << min(strikes - 1, 20), longest)


def none_available(model: str, reasons: Sequence[Blocked]) -> ProxyError:
    """The error when no credential can take a submit: how soon it is worth another try, and for
    the operator what stands in the way."""
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


def overall_health(
    upstream: CredentialHealth, keys: Sequence[CredentialHealth], now_ms: int
) -> CredentialHealth:
    """How an upstream is for whoever wants a video: as well as its best usable key."""
    if verdict(upstream, now_ms) != "go" or not keys:
        return upstream
    states: tuple[HealthState, ...] = ("well", "cooling", "out", "broken")
    best = min(keys, key=lambda key: (states.index(state_now(key, now_ms)), key.until_ms))
    return HEALTHY if state_now(best, now_ms) == "well" else best


def state_now(health: CredentialHealth, now_ms: int) -> HealthState:
    """One that has cooled down is well again, though nothing was written. One that is out or
    broken is so until a trial has succeeded."""
    return "well" if verdict(health, now_ms) == "go" else health.state


def slot_life_ms(schedule: Schedule) -> int:
    """How long a task's place among those in flight outlives the last look at the task: longer
    than the longest pause between two looks, so that only a lost release ends that way."""
    longest_ms = max(schedule.max_ms << MAX_DOUBLINGS, schedule.confirm_ms, schedule.settle_ms)
    return max(SLOT_LIFE_MS, 2 * longest_ms)
