"""What OpenAI-style servers answer, read: the outcome of a submit, the state of a task.

Shapes beside OpenAI's own: FastAPI's `{"detail": …}` (vLLM-Omni, SGLang), numeric codes
(vLLM-Omni, Azure's front), numbers as strings. Upstream words reach clients only through
`sanitised`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import orjson

from proxy.errors import (
    FAILURES,
    Conflict,
    Invalid,
    Moderated,
    ProxyError,
    RateLimited,
    TooLarge,
    Unavailable,
    UpstreamFailed,
)
from proxy.model import (
    Accepted,
    Cooldown,
    Json,
    Outcome,
    Refused,
    Result,
    Status,
    TaskError,
    TaskState,
    Transient,
    Unknown,
)
from proxy.providers.answers import silence_of
from proxy.providers.pixels import size_of

_Object: TypeAlias = "dict[str, Json]"

# Error codes, lower-cased; who sends them.
_MODERATION = frozenset(
    {
        "moderation_blocked",  # OpenAI Videos and Images
        "content_policy_violation",  # OpenAI, older; LiteLLM
        "content_filter",  # Azure
        "contentfilter",
        "responsibleaipolicyviolation",
        "input_moderation",  # Azure Sora
        "output_moderation",
        "sentinel_block",  # OpenAI, before the job is made
    }
)
_BALANCE = frozenset(
    {
        "insufficient_quota",
        "insufficient_user_quota",  # new-api, with 403
        "billing_hard_limit_reached",  # OpenAI, with 400
        "billing_not_active",
    }
)
_ABSENT_MODEL = frozenset({"model_not_found", "deploymentnotfound", "model_not_available"})

_STATES: Mapping[str, Status] = {
    "queued": Status.QUEUED,
    "pending": Status.QUEUED,  # gateways
    "preprocessing": Status.QUEUED,  # Azure
    "in_progress": Status.IN_PROGRESS,
    "processing": Status.IN_PROGRESS,  # LiteLLM
    "running": Status.IN_PROGRESS,  # Azure
    "completed": Status.COMPLETED,
    "succeeded": Status.COMPLETED,  # Azure, older gateways
    "failed": Status.FAILED,
    "error": Status.FAILED,
    "expired": Status.FAILED,  # OpenAI Batch
    "cancelled": Status.FAILED,
    "canceled": Status.FAILED,
    "deleted": Status.FAILED,  # SGLang's answer to DELETE
}
_ENDS = {
    "expired": "expired",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "deleted": "cancelled",
}
_FAILURE_CODES: Mapping[str, str] = {
    **dict.fromkeys(_MODERATION, "moderation_blocked"),
    **dict.fromkeys(_BALANCE, "quota_exceeded"),
    "rate_limit_exceeded": "rate_limited",
    "invalid_request_error": "invalid_input",
    "invalid_value": "invalid_input",
    "invalid_input": "invalid_input",
    "timeout": "timeout",
    "expired": "expired",
    "cancelled": "cancelled",
    "canceled": "cancelled",
    "400": "invalid_input",
    "402": "quota_exceeded",
    "408": "timeout",
    "422": "invalid_input",
    "429": "rate_limited",
    "504": "timeout",
}

_BALANCE_RETRY_S = 60.0  # until an operator pays: seldom worth asking sooner
_RATE_RETRY_S = 5.0  # where a 429 names no time
_MAX_ID_CHARS = 512
# Said at the door (OpenAI's error-code guide, vLLM and SGLang): nothing was begun.
_OVERLOADED = frozenset(
    {"server_overloaded", "server_is_overloaded", "engine_overloaded", "overloaded", "slow_down"}
)


@dataclass(frozen=True, slots=True)
class Fault:
    """An upstream's error in its own words: nothing here is fit for a client yet."""

    message: str = ""
    code: str = ""
    param: str | None = None


# ---------------------------------------------------------------- a submit


def outcome(status: int, headers: Mapping[str, str], body: bytes) -> Outcome:
    """2xx with an id: accepted. 4xx: refused, but for 408 and 499, which gateways answer when
    *their* upstream kept silent (LiteLLM's Timeout is a 408) and may have taken the job. A 503
    is a refusal only with a code that says nothing was begun: these upstreams are gateways and
    balancers themselves, and may have sent the request on. Any other 5xx is unknown."""
    if 200 <= status < 300:
        return _accepted(body)
    if 300 <= status < 400:
        return Refused(
            UpstreamFailed("The upstream redirects submissions: its base_url is wrong."),
            elsewhere=True,
            provider_code=f"http_{status}",
        )
    if status in (408, 499) or status < 200 or (status >= 500 and status != 503):
        return Unknown(f"the upstream answered {status}")
    fault = _fault(body)
    if status == 503 and (fault is None or fault.code.lower() not in _OVERLOADED):
        return Unknown("the upstream answered 503, and not that it had begun nothing")
    return _refused(status, retry_after_s(headers), fault or Fault())


def _accepted(body: bytes) -> Outcome:
    document = _object(body)
    if document is None:
        return Unknown("the upstream accepted with a body that is not a JSON object")
    upstream_id = document.get("id")
    if (
        not isinstance(upstream_id, str)
        or not 0 < len(upstream_id) <= _MAX_ID_CHARS
        or not upstream_id.isprintable()
    ):
        return Unknown("the upstream accepted without a usable id")
    told = _state(document) if isinstance(document.get("status"), str) else None
    return Accepted(upstream_id, told)


def _refused(status: int, wait_s: float | None, fault: Fault) -> Refused:
    provider_code = fault.code or f"http_{status}"
    code = fault.code.lower()
    cooldown: Cooldown = "none"
    message = sanitised(fault.message)
    told = f"The upstream refused the request: {message or f'HTTP {status}'}"
    error: ProxyError
    if code in _MODERATION:
        error = Moderated(message or FAILURES["moderation_blocked"])
        return Refused(error, elsewhere=False, provider_code=provider_code)
    if status == 402 or code in _BALANCE:
        wait_s = wait_s or _BALANCE_RETRY_S
        error = RateLimited("The upstream account has no balance left.", retry_after_s=wait_s)
        cooldown = "take_out"
    elif status == 429:
        wait_s = wait_s or _RATE_RETRY_S
        error = RateLimited("The upstream account is over its rate.", retry_after_s=wait_s)
        cooldown = "back_off"
    elif status == 503:
        wait_s = wait_s or _RATE_RETRY_S
        error = Unavailable("The upstream is overloaded.", retry_after_s=wait_s)
        cooldown = "back_off"
    elif status in (401, 403):
        error = UpstreamFailed(
            "The upstream refused the gateway's credential; its operator has to look.",
            code="upstream_credential_refused",
        )
        cooldown = "none" if code in _ABSENT_MODEL else "take_out"
    elif status == 404 or code in _ABSENT_MODEL:
        error = UpstreamFailed("The upstream does not know this model, source video or path.")
    elif status in (400, 422):
        error = Invalid(told, param=fault.param)
        return Refused(error, elsewhere=False, provider_code=provider_code)
    elif status == 409:  # a source video that is not finished, in every case documented
        error = Conflict(told, param=fault.param)
        return Refused(error, elsewhere=False, provider_code=provider_code)
    elif status == 413:
        error = TooLarge(told, param=fault.param)
        return Refused(error, elsewhere=False, provider_code=provider_code)
    else:
        error = UpstreamFailed(f"The upstream refused the request with status {status}.")
    return Refused(error, True, provider_code, wait_s, cooldown)


# ---------------------------------------------------------------- a poll


def state(status: int, headers: Mapping[str, str], body: bytes) -> TaskState | Transient:
    """A 404 is transient ("not_found"): just after a submit it may only mean that another
    replica was asked. A task that stays missing ends by the tracker's failure budget."""
    if not 200 <= status < 300:
        reasons = {401: "credential_refused", 403: "credential_refused", 404: "not_found"}
        reasons[429] = "rate_limited"
        reason = reasons.get(status, f"http_{status}")
        return Transient(reason, retry_after_s(headers), silence_of(status))
    document = _object(body)
    if document is None or not isinstance(document.get("status"), str):
        return Transient("unreadable")
    return _state(document)


def _state(document: _Object) -> TaskState:
    name = str(document["status"]).lower()
    status = _STATES.get(name, Status.IN_PROGRESS)
    seconds = quantity(document.get("seconds"))
    expires_ms = _moment_ms(document.get("expires_at"))
    is_done = status is Status.COMPLETED
    return TaskState(
        status,
        progress=100 if is_done else _progress(document.get("progress")),
        results=(Result(seconds=seconds, expires_ms=expires_ms),) if is_done else (),
        error=_failure(name, document.get("error")) if status is Status.FAILED else None,
        seconds=seconds,
        size=size_of(document.get("size")),
        unknown_state=None if name in _STATES else sanitised(name)[:64],
        expires_ms=expires_ms,
    )


def _failure(state_name: str, error: Json) -> TaskError:
    fault = _fault_of(error) or Fault()
    code = _FAILURE_CODES.get(fault.code.lower()) or _ENDS.get(state_name) or "upstream_error"
    return TaskError(code, sanitised(fault.message) or FAILURES[code], fault.code or None)


# ---------------------------------------------------------------- errors


def _fault(body: bytes) -> Fault | None:
    """None: the body has no error of the API's own shapes."""
    document = _object(body)
    if document is None:
        return None
    for name in ("error", "detail"):
        fault = _fault_of(document.get(name))
        if fault is not None:
            return fault
    return _fault_of(document) if isinstance(document.get("message"), str) else None


def _fault_of(value: Json) -> Fault | None:
    """OpenAI's object, a bare string, or FastAPI's list of `{loc, msg, type}`."""
    if isinstance(value, str) and value:
        return Fault(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        first = value[0]
        where, what = first.get("loc"), first.get("msg")
        names = [str(step) for step in where if step != "body"] if isinstance(where, list) else []
        return Fault(what if isinstance(what, str) else "", param=_name(".".join(names)))
    if not isinstance(value, dict) or not value:
        return None
    inner = value.get("error")
    if isinstance(inner, dict):  # HTTPException(detail={"error": {…}})
        return _fault_of(inner)
    message, code, kind = value.get("message"), value.get("code"), value.get("type")
    if isinstance(code, bool) or not isinstance(code, str | int) or code == "":
        code = kind if isinstance(kind, str) else ""
    return Fault(
        message if isinstance(message, str) else "",
        sanitised(str(code))[:64],
        _name(value.get("param")),
    )


def _name(value: Json) -> str | None:
    """A field's name as an upstream gives it, if it looks like one."""
    return value if isinstance(value, str) and _FIELD.fullmatch(value) else None


_FIELD = re.compile(r"[A-Za-z_][\w.\[\]-]{0,63}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
# What must not travel from an upstream's message to a client, and what stands there instead.
_PRIVATE = (
    (re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+"), "[address]"),
    (re.compile(r"(?i)\bbearer\s+\S+"), "[key]"),
    (re.compile(r"(?i)\b(?:api[-_ ]?key|token|secret)\s*[:=]\s*\S+"), "[key]"),
    (re.compile(r"\b(?:sk|pk|rk|ak|rw|key)[-_][\w*.-]{4,}"), "[key]"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "[address]"),
    (re.compile(r"\b(?:localhost|[\w-]+(?:\.[\w-]+)+):\d{2,5}\b"), "[address]"),
    (
        re.compile(r"\b[\w-]+(?:\.[\w-]+)*\.(?:internal|local|svc|cluster|lan|com|net|io|ai)\b"),
        "[address]",
    ),
    (re.compile(r"(?<![\w:])/[\w.+-]+(?:/[\w.+-]+)+"), "[path]"),
    (re.compile(r"\b(?=\w*\d)(?=\w*[A-Za-z])\w{24,}\b"), "[id]"),
)
_MAX_MESSAGE_CHARS = 400


def sanitised(message: str) -> str:
    """An upstream's message for a client: one line without addresses, keys, paths and ids;
    nothing at all of a traceback."""
    if "Traceback (most recent call last)" in message:
        return ""
    text = _CONTROL.sub(" ", message[: 4 * _MAX_MESSAGE_CHARS])
    for pattern, stand_in in _PRIVATE:
        text = pattern.sub(stand_in, text)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_MESSAGE_CHARS else text[: _MAX_MESSAGE_CHARS - 1] + "…"


# ---------------------------------------------------------------- values


def quantity(value: object) -> float | None:
    """A positive number, or a string that is one; None for anything else."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", value):
        value = float(value)
    if not isinstance(value, int | float) or not 0 < value < 1e9:
        return None
    return float(value)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds, from `retry-after-ms` or `Retry-After`; its date form needs a clock and is
    passed over."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        told = quantity(headers.get(name))
        if told is not None:
            return told * unit_s
    return None


def _progress(value: Json) -> int | None:
    if isinstance(value, str):
        value = quantity(value.strip().removesuffix("%"))
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return int(min(max(value, 0), 100))


def _moment_ms(value: Json) -> int | None:
    """Unix seconds as OpenAI has them; milliseconds from gateways that forward Kling's."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e14:
        return None
    return int(value if value > 1e11 else value * 1000)


def _object(body: bytes) -> _Object | None:
    try:
        value: Json = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
