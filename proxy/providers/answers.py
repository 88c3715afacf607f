"""Reading what providers answer: tolerant, never raising, nothing of it trusted.

Readers turn one JSON value into a typed one or None; the refusals are the few ways a provider
says no, worded for the client without a word about our accounts there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from email.utils import parsedate_to_datetime
from typing import cast

import orjson

from proxy.errors import (
    Invalid,
    Moderated,
    NotFound,
    NotReady,
    ProxyError,
    RateLimited,
    TooLarge,
    TooManyInFlight,
    Unavailable,
    UpstreamFailed,
)
from proxy.model import Cooldown, Json, Refused, Task, Transient, TransientKind

NATIVE_MAX_BYTES = 16 * 1024
_NATIVE_MAX_DEPTH = 8
_MESSAGE_MAX_CHARS = 300
_URL_MAX_CHARS = 8192
_RETRY_MAX_S = 3600.0

_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*")
_WEB = re.compile(r"https?://[^\s\x00-\x1f\x7f]+", re.IGNORECASE)
_MODERATION = re.compile(
    r"risk|sensitive|moderat|polic(y|ies)|unsafe|safety|violat|prohibited|copyright", re.IGNORECASE
)

# ---------------------------------------------------------------- values


def document(body: bytes) -> dict[str, object] | None:
    """A body that is one JSON object; None for any other bytes."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def member(value: object, name: str) -> dict[str, object]:
    """An object inside an object; empty when it is missing or something else."""
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


def text(value: object) -> str | None:
    """A non-empty string; a whole number counts (ids come as either)."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return value if isinstance(value, str) and value else None


def number(value: object) -> float | None:
    """A finite number, or a string that is one ("5.1")."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def integer(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and found == int(found) else None


def web_url(value: object) -> str | None:
    if not isinstance(value, str) or len(value) > _URL_MAX_CHARS:
        return None
    return value if _WEB.fullmatch(value) else None


def remaining(data: Mapping[str, object], known: Collection[str]) -> dict[str, Json]:
    """The vendor's further members, for `native`: without those in `known`, and at any depth
    without nulls, ids and URLs (they name the account's own objects). Empty above 16 KiB."""
    kept: dict[str, Json] = {
        name: pruned
        for name, value in data.items()
        if name not in known and (pruned := _pruned(name, value, _NATIVE_MAX_DEPTH)) is not None
    }
    return kept if len(orjson.dumps(kept)) <= NATIVE_MAX_BYTES else {}


def _pruned(name: str, value: object, depth: int) -> Json:
    """None: left out."""
    if name == "id" or name.endswith(("_id", "_ids", "url", "urls")) or depth == 0:
        return None
    if isinstance(value, str):
        return None if _WEB.search(value) else value
    if isinstance(value, dict):
        inner = {
            key: pruned
            for key, item in value.items()
            if (pruned := _pruned(key, item, depth - 1)) is not None
        }
        return cast("Json", inner) if inner or not value else None
    if isinstance(value, list):
        return [p for item in value if (p := _pruned("", item, depth - 1)) is not None]
    return cast("Json", value)


# ---------------------------------------------------------------- headers and messages


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds, at most an hour. Its date form is not read: there is no clock
    here, and no provider sends it."""
    wait = number(headers.get("Retry-After"))
    return None if wait is None else min(max(wait, 0.0), _RETRY_MAX_S)


def sent_ms(headers: Mapping[str, str]) -> int | None:
    """When the provider says it answered (`Date`), in epoch milliseconds."""
    try:
        return int(parsedate_to_datetime(headers["Date"]).timestamp() * 1000)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None


def public(message: object, fallback: str) -> str:
    """A provider's message fit for a client: one line, no URLs, cut short."""
    if not isinstance(message, str):
        return fallback
    line = " ".join(_WEB.sub("…", message).split())
    line = "".join(char for char in line if char.isprintable())
    return line[:_MESSAGE_MAX_CHARS] or fallback


def is_moderation(message: object) -> bool:
    """Whether a provider's words say that its content rules stopped it."""
    return isinstance(message, str) and _MODERATION.search(message) is not None


# ---------------------------------------------------------------- how a provider says no


def account_trouble(code: str | None, cooldown: Cooldown) -> Refused:
    """Key, balance, permission or allow-list: another credential may do, and it is nothing the
    client can mend or should learn about. `cooldown` is "take_out" where it stands between the
    account and every request, "none" where it may be about this one's model."""
    error = Unavailable("No provider account can take this request now. Try again later.")
    return Refused(error, elsewhere=True, provider_code=code, cooldown=cooldown)


def out_of_order(code: str | None, *, elsewhere: bool = True) -> Refused:
    error = UpstreamFailed("The provider did not take the request; nothing was rendered.")
    return Refused(error, elsewhere, provider_code=code)


def closed(code: str | None, headers: Mapping[str, str]) -> Refused:
    wait = retry_after_s(headers)
    error = Unavailable("The provider is closed for maintenance.", retry_after_s=wait)
    return _paused(error, code, wait)


def over_rate(code: str | None, headers: Mapping[str, str], wait_s: float) -> Refused:
    """`wait_s` is for a provider that names no time itself."""
    wait = retry_after_s(headers) or wait_s
    error = RateLimited("The provider is over its request rate.", retry_after_s=wait)
    return _paused(error, code, wait)


def too_many(code: str | None, headers: Mapping[str, str], wait_s: float) -> Refused:
    wait = retry_after_s(headers) or wait_s
    error = TooManyInFlight("The provider renders as many videos as it may.", retry_after_s=wait)
    return _paused(error, code, wait)


def _paused(error: ProxyError, code: str | None, wait_s: float | None) -> Refused:
    return Refused(error, True, provider_code=code, retry_after_s=wait_s, cooldown="back_off")


def at_fault(code: str | None, message: object, *, param: str | None = None) -> Refused:
    """The request itself is wrong, in a way our own checks do not know."""
    words = public(message, "it gave no reason")
    error = Invalid(f"The provider refused the request: {words}", param=param)
    return Refused(error, elsewhere=False, provider_code=code)


def blocked(code: str | None, message: object) -> Refused:
    words = public(message, "it gave no reason")
    error = Moderated(f"The provider's content rules refused the request: {words}")
    return Refused(error, elsewhere=False, provider_code=code)


def refused_by_status(
    status: int, headers: Mapping[str, str], code: str | None, message: object
) -> Refused | None:
    """A refusal that only the HTTP status tells; None where the status proves nothing.

    4xx, and the three redirects that tell to repeat the request elsewhere (we follow none):
    the job was not taken. Not so 408 and 499, which a proxy also answers when the server behind
    it kept silent, and any 5xx.
    """
    if status in (400, 422):
        return at_fault(code, message)
    if status == 413:
        error: ProxyError = TooLarge("The request is larger than the provider takes.")
        return Refused(error, elsewhere=False, provider_code=code)
    if status == 429:
        return over_rate(code, headers, wait_s=5.0)
    if status in (401, 402, 403):
        # A code of the provider's own that no table has may be about the model asked for.
        return account_trouble(code, "none" if status == 403 and code else "take_out")
    if (400 <= status < 500 and status not in (408, 499)) or status in (301, 307, 308):
        return out_of_order(code)
    return None


def unread(
    status: int, headers: Mapping[str, str], reason: str, kind: TransientKind | None = None
) -> Transient:
    """A poll's answer that says nothing about the task."""
    return Transient(f"HTTP {status}: {reason}", retry_after_s(headers), kind or silence_of(status))


def silence_of(status: int) -> TransientKind:
    """What kind of silence an HTTP status is, where nothing else in the answer says."""
    if status == 404:
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


# ---------------------------------------------------------------- results


def result_url(task: Task, variant: str, index: int) -> str:
    """The URL a provider gave for one result. `variant` "video" is the result itself."""
    if not task.results:
        raise NotReady("The video is not ready yet.")
    if not 0 <= index < len(task.results):
        last = len(task.results) - 1
        raise NotFound(f"'index' {index} is not there: 0 to {last} are.", param="index")
    result = task.results[index]
    url = result.url if variant == "video" else result.variants.get(variant)
    if url is None:
        known = ", ".join(["video", *sorted(result.variants)])
        raise NotFound(
            f"This video has no variant {variant[:40]!r}; it has: {known}.", param="variant"
        )
    return url
