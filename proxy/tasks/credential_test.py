"""Whether a provider can be reached with a credential: asked something that costs nothing.

The question is the status of a task that cannot exist, drafted and sealed by the provider's own
adapter, so that what answers well here answers polls too. Its "no such task" is the good answer:
it comes from behind the door that checks keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final, Literal

import orjson

from proxy.errors import UpstreamTrouble
from proxy.model import Credential, Kind, Operation, Route, Task, Upstream
from proxy.providers.base import Provider
from proxy.providers.outcomes import Accepted, Refused
from proxy.telemetry.explain import cause_of
from proxy.upstream import Answer, Upstreams

NO_SUCH_TASK: Final = "reelway-probe-of-a-task-that-cannot-exist"
SKEW_S: Final = 60  # signatures with a date are refused from about here on (Kling: at once)

Key = Literal["accepted", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class CredentialCheck:
    """`ok`: reached, and the key was accepted. `what` says it in a sentence, or what to do.

    `status` is the HTTP status, None without an answer; `skew_s` how far the provider's clock
    is ahead of ours, None where it did not say.
    """

    ok: bool
    what: str
    key: Key
    reachable: bool
    status: int | None
    skew_s: int | None
    ms: int


async def probe(
    upstream: Upstream,
    credential: Credential,
    model: str,
    provider: Provider,
    upstreams: Upstreams,
    clock: Callable[[], float],
) -> CredentialCheck:
    """Ask once, within [timeouts] poll_s; never raises for what the provider does. `model` is
    one of its own names (`model_for`); `clock` gives seconds since the epoch."""
    began_s = clock()
    draft = provider.poll(_nobody(upstream, model), upstream)
    outbound = provider.seal(draft, upstream, credential, int(began_s))
    try:
        answer = await upstreams.query(upstream, outbound)
    except UpstreamTrouble as trouble:
        ms = round((clock() - began_s) * 1000)
        why = cause_of(trouble.__cause__ or trouble)
        what = f"{upstream.base_url} cannot be asked: {why}; look at base_url and the way there."
        return CredentialCheck(False, what, "unknown", False, None, None, ms)
    ended_s = clock()
    key, what = _read(provider, answer, upstream)
    skew_s = _skew_s(answer.headers, (began_s + ended_s) / 2)
    if skew_s is not None and abs(skew_s) > SKEW_S:
        way = "ahead of" if skew_s > 0 else "behind"
        what += f" Its clock is {abs(skew_s)} s {way} ours: set this machine's clock."
    ms = round((ended_s - began_s) * 1000)
    return CredentialCheck(key == "accepted", what, key, True, answer.status, skew_s, ms)


def model_for(routes: Sequence[Route], upstream: str) -> str:
    """A model the upstream is asked for: some providers want one named in a status query."""
    for route in routes:
        if any(name == upstream for name, _ in route.upstreams):
            return route.upstream_model or route.model
    return ""


def _nobody(upstream: Upstream, model: str) -> Task:
    return Task(
        id=NO_SUCH_TASK,
        owner="",
        token_id="",
        dialect="",
        operation=Operation.CREATE,
        kind=Kind.TEXT,
        model=model,
        created_ms=0,
        updated_ms=0,
        upstream=upstream.name,
        provider=upstream.provider,
        upstream_model=model,
        upstream_id=NO_SUCH_TASK,
    )


def _read(provider: Provider, answer: Answer, upstream: Upstream) -> tuple[Key, str]:
    """What the answer says about the key, and in words. An adapter classes it as it would the
    answer to a submit: what would take a credential out of use is a refusal of it."""
    said = provider.outcome(answer.status, answer.headers, answer.body, upstream)
    code = said.provider_code if isinstance(said, Refused) else None
    shown = f"HTTP {answer.status}" + (f", code {code}" if code else "")
    if isinstance(said, Refused) and said.cooldown == "take_out":
        return "refused", (
            f"It answers, and refuses this credential ({shown}): look at its key, its balance "
            "and its permissions."
        )
    if isinstance(said, Refused) and said.cooldown == "back_off":
        return "accepted", f"It answers and knows the key; it is busy just now ({shown})."
    if answer.status in (401, 403, 407):
        return "unknown", f"It answers, and does not let us in ({shown}): look at base_url and key."
    if 300 <= answer.status < 400:
        return "unknown", f"It redirects ({shown}), which is not followed: correct base_url."
    if not _is_object(answer.body):
        return "unknown", (
            f"Something answers, but not in this provider's words ({shown}): look at base_url."
        )
    if answer.status >= 500 and not isinstance(said, Refused | Accepted):
        return "unknown", f"It answers, but fails ({shown}): try again later."
    return "accepted", (
        "It answers and accepts the key: asked for a task that does not exist, it says so, as it "
        f"should ({shown})."
    )


def _is_object(body: bytes) -> bool:
    try:
        return isinstance(orjson.loads(body), dict)
    except orjson.JSONDecodeError:
        return False


def _skew_s(headers: Mapping[str, str], now_s: float) -> int | None:
    """`Date` has whole seconds, cut off: half of one is added back."""
    try:
        told_s = parsedate_to_datetime(headers["Date"]).timestamp() + 0.5
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None
    return round(told_s - now_s)
