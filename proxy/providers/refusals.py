"""The ways a provider says no to a submit, and the ways a poll says nothing.

Rule: a message here tells the client nothing about our accounts; a provider's own words reach it
only through `words`.

Rule: `cooldown` judges the account, so only a verdict about the account sets one: 401, 402, 429
and documented codes. A 403 or 5xx without a documented code may be about one request (a firewall
that dislikes its prompt, a server that stumbles over its size) and sets none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, TypeAlias

from pydantic import Field

from proxy.errors import (
    FAILURES,
    Conflict,
    Invalid,
    Moderated,
    ProxyError,
    RateLimited,
    TooLarge,
    TooManyInFlight,
    Unavailable,
    UpstreamFailed,
)
from proxy.providers.outcomes import (
    Cooldown,
    Refused,
    Transient,
    TransientKind,
)
from proxy.providers.values import retry_after_s
from proxy.providers.words import words

# The upstream option `refused_statuses`: by which HTTP statuses this server says, without a code
# that we know, that it began nothing.
RefusedStatuses: TypeAlias = Annotated[
    tuple[Annotated[int, Field(ge=400, le=599)], ...], Field(max_length=50)
]

_RATE_WAIT_S = 5.0  # where a 429 names no time
_BALANCE_WAIT_S = 60.0  # until an operator pays: seldom worth asking sooner

# ---------------------------------------------------------------- the account


def account_trouble(code: str | None, cooldown: Cooldown, *, doubtful: bool = False) -> Refused:
    """Key, balance, permission or allow-list: another credential may do, and it is nothing the
    client can mend or should learn about. `cooldown` is "take_out" where it stands between the
    account and every request, "none" where it may be about this one's model. `doubtful`: nobody
    knows which of the two."""
    error = Unavailable("No provider account can take this request now. Try again later.")
    return Refused(error, elsewhere=True, provider_code=code, cooldown=cooldown, doubtful=doubtful)


def key_refused(code: str | None) -> Refused:
    error = UpstreamFailed(
        "The upstream refused the gateway's credential; its operator has to look.",
        code="upstream_credential_refused",
    )
    return Refused(error, elsewhere=True, provider_code=code, cooldown="take_out")


def forbidden(code: str | None) -> Refused:
    """A 403 that names no cause we know: perhaps a firewall in front that dislikes this request."""
    error = UpstreamFailed(
        "The upstream does not allow this request; its operator has to look.",
        code="upstream_credential_refused",
    )
    return Refused(error, True, provider_code=code, cooldown="take_out", doubtful=True)


def no_balance(code: str | None, headers: Mapping[str, str]) -> Refused:
    wait = retry_after_s(headers) or _BALANCE_WAIT_S
    error = RateLimited("The upstream account has no balance left.", retry_after_s=wait)
    return Refused(error, True, code, wait, "take_out")


def over_rate(
    code: str | None, headers: Mapping[str, str], wait_s: float = _RATE_WAIT_S
) -> Refused:
    """`wait_s` is for a provider that names no time itself."""
    wait = retry_after_s(headers) or wait_s
    error = RateLimited("The provider is over its request rate.", retry_after_s=wait)
    return _paused(error, code, wait)


def too_many(code: str | None, headers: Mapping[str, str], wait_s: float) -> Refused:
    wait = retry_after_s(headers) or wait_s
    error = TooManyInFlight("The provider renders as many videos as it may.", retry_after_s=wait)
    return _paused(error, code, wait)


# ---------------------------------------------------------------- the server


def closed(code: str | None, headers: Mapping[str, str]) -> Refused:
    wait = retry_after_s(headers)
    error = Unavailable("The provider is closed for maintenance.", retry_after_s=wait)
    return _paused(error, code, wait)


def overloaded(code: str | None, headers: Mapping[str, str]) -> Refused:
    """By the provider's own word, or its software's documented status, it began nothing."""
    wait = retry_after_s(headers) or _RATE_WAIT_S
    error = Unavailable("The upstream takes no requests at the moment.", retry_after_s=wait)
    return _paused(error, code, wait)


def out_of_order(code: str | None, *, elsewhere: bool = True) -> Refused:
    error = UpstreamFailed("The provider did not take the request; nothing was rendered.")
    return Refused(error, elsewhere, provider_code=code)


def redirected(code: str | None) -> Refused:
    error = UpstreamFailed("The upstream redirects submissions: its base_url is wrong.")
    return Refused(error, elsewhere=True, provider_code=code)


def absent_model(code: str | None) -> Refused:
    error = UpstreamFailed("The upstream does not know this model, source video or path.")
    return Refused(error, elsewhere=True, provider_code=code)


def _paused(error: ProxyError, code: str | None, wait_s: float | None) -> Refused:
    return Refused(error, True, provider_code=code, retry_after_s=wait_s, cooldown="back_off")


# ---------------------------------------------------------------- the request


def at_fault(code: str | None, message: object, *, param: str | None = None) -> Refused:
    """The request itself is wrong, in a way our own checks do not know."""
    said = words(message, "it gave no reason")
    error = Invalid(f"The provider refused the request: {said}", param=param)
    return Refused(error, elsewhere=False, provider_code=code)


def blocked(code: str | None, message: object) -> Refused:
    said = words(message)
    told = f"The provider's content rules refused the request: {said}"
    error = Moderated(told if said else FAILURES["moderation_blocked"])
    return Refused(error, elsewhere=False, provider_code=code)


def in_conflict(code: str | None, message: object, *, param: str | None = None) -> Refused:
    """A source video that is not finished, in every case documented."""
    said = words(message, "it gave no reason")
    error = Conflict(f"The provider refused the request: {said}", param=param)
    return Refused(error, elsewhere=False, provider_code=code)


def too_large(code: str | None) -> Refused:
    error = TooLarge("The request is larger than the provider takes.")
    return Refused(error, elsewhere=False, provider_code=code)


# ---------------------------------------------------------------- by HTTP status


def refused_by_status(
    status: int,
    headers: Mapping[str, str],
    code: str | None,
    message: object,
    refused_statuses: Collection[int] = (),
) -> Refused | None:
    """A refusal that only the HTTP status tells; None where the status proves nothing.

    4xx, and the three redirects that tell to repeat the request elsewhere (we follow none):
    the job was not taken. Not so 408 and 499, which a proxy also answers when the server behind
    it kept silent, and any 5xx, unless the operator listed them as `refused_statuses`.
    """
    if status in (400, 422):
        return at_fault(code, message)
    if status == 413:
        return too_large(code)
    if status == 429:
        return over_rate(code, headers)
    if status in (401, 402):
        return account_trouble(code, "take_out")
    if status == 403:
        # A code of the provider's own that no table has may be about the model asked for. Without
        # a code it may be a firewall's, in front of the API, about this prompt.
        return account_trouble(code, "none" if code else "take_out", doubtful=True)
    if status in refused_statuses:
        return out_of_order(code)
    if (400 <= status < 500 and status not in (408, 499)) or status in (301, 307, 308):
        return out_of_order(code)
    return None


# ---------------------------------------------------------------- a poll that says nothing


def unread(
    status: int, headers: Mapping[str, str], reason: str, kind: TransientKind | None = None
) -> Transient:
    """A poll's answer that says nothing about the task."""
    return Transient(f"HTTP {status}: {reason}", retry_after_s(headers), kind or silence_of(status))


def silence_of(status: int) -> TransientKind:
    """What kind of silence an HTTP status is, where nothing else in the answer says."""
    if status in (404, 410):
        return "not_found"
    if status == 429:
        return "rate_limited"
    if status in (401, 403):
        return "credential_refused"
    if 200 <= status < 300:
        return "unreadable"
    if status >= 500:
        return "http_5xx"
    return "http_4xx" if status >= 400 else "http_3xx"
