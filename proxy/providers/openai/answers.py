"""What OpenAI-style servers answer, read: the outcome of a submit, the state of a task.

Shapes beside OpenAI's own: FastAPI's `{"detail": …}` (vLLM-Omni, SGLang), numeric codes
(vLLM-Omni, Azure's front), numbers as strings, envelopes (`{"code", "data": {…}}`), and a failed
job that comes with a 4xx or 5xx and the whole job as its body (vLLM-Omni from 0.20 on), or as JSON
inside an error's message (LiteLLM in front of it).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from proxy.errors import FAILURES
from proxy.model import (
    Result,
    Status,
    Task,
    TaskError,
    TaskState,
)
from proxy.providers import jobs, refusals, results, states, values, words
from proxy.providers.outcomes import (
    Accepted,
    Outcome,
    Refused,
    Transient,
    Unknown,
)
from proxy.providers.sizes import size_of
from proxy.providers.values import Object

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
_KEY = frozenset(
    {
        "invalid_api_key",
        "account_deactivated",  # OpenAI
        "organization_deactivated",
        "access_terminated",
        "unsupported_country_region_territory",  # OpenAI, of the address it is called from
        "accessdenied",  # Azure, of the network it is called from
        "permissiondenied",  # Azure, of a key without the role
        "token_disabled",  # new-api
        "invalid_authentication",
        "authentication_error",
        "unauthorized",
        "ip_not_authorized",
    }
)
_ABSENT_MODEL = frozenset({"model_not_found", "deploymentnotfound", "model_not_available"})
# vLLM-Omni's 400 for a model it does not serve; it names the one it does.
_OTHER_MODEL = re.compile(r"model mismatch\b.*\bserver is running\b", re.IGNORECASE | re.DOTALL)
# Said at the door (OpenAI's error-code guide, vLLM and SGLang): nothing was begun.
_OVERLOADED = frozenset(
    {"server_overloaded", "server_is_overloaded", "engine_overloaded", "overloaded", "slow_down"}
)
_RATE = frozenset({"rate_limit_exceeded", "rate_limit_error", "too_many_requests"})
_INPUT = frozenset(
    {"invalid_request_error", "invalid_value", "invalid_input", "missing_required_parameter"}
)

_FAILURE_CODES: Mapping[str, str] = {
    **dict.fromkeys(_MODERATION, "moderation_blocked"),
    **dict.fromkeys(_BALANCE, "quota_exceeded"),
    **dict.fromkeys(_RATE, "rate_limited"),
    **dict.fromkeys(_INPUT, "invalid_input"),
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
# Nothing but an envelope's word for "all is well" in front of what was asked for.
_FINE = frozenset({None, "0", "200", "10000", "ok", "success"})
_ERROR_NAMES = ("error", "detail", "fail_reason", "failure_reason", "error_message", "failure")


@dataclass(frozen=True, slots=True)
class Door:
    """How one kind of server refuses a submit, beside what all of them do.

    By `overloaded` statuses and `absent` ones it says that it began nothing, whatever the body.
    """

    overloaded: frozenset[int] = frozenset()
    absent: frozenset[int] = frozenset()


OPEN_DOOR = Door()


@dataclass(frozen=True, slots=True)
class Fault:
    """An upstream's error in its own words: nothing here is fit for a client yet."""

    message: str = ""
    code: str = ""
    param: str | None = None


# ---------------------------------------------------------------- a submit


def outcome(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    door: Door = OPEN_DOOR,
    refused_statuses: Collection[int] = (),
) -> Outcome:
    """The class of an answer to a submit.

    A job that is named was taken, whatever the status and whatever else is odd. Else 4xx:
    refused, but for 408 and 499, which gateways answer when *their* upstream kept silent
    (LiteLLM's Timeout is a 408) and may have taken the job. A 503 is a refusal only with a code
    that says nothing was begun, or from software known to mean that: these upstreams are gateways
    and balancers themselves, and may have sent the request on. Any other 5xx is unknown.
    """
    answer = values.exact_document(body)
    is_success = 200 <= status < 300
    if answer is not None:
        accepted = _accepted(answer, is_success=is_success)
        if accepted is not None:
            return accepted
    fault = (None if answer is None else _fault(answer)) or Fault()
    code = fault.code.lower()
    if is_success:
        return _refused_in_success(headers, fault) or Unknown(
            "the upstream accepted without a usable id"
            if answer is not None
            else "the upstream accepted with a body that is not a JSON object"
        )
    if 300 <= status < 400:
        return refusals.redirected(f"http_{status}")
    shown = fault.code or f"http_{status}"
    if status in door.overloaded:
        return refusals.overloaded(shown, headers)
    if status in door.absent:
        return refusals.out_of_order(shown)
    if status == 503 and code in _OVERLOADED:
        return refusals.overloaded(shown, headers)
    if status >= 500 and code in _MODERATION:
        return refusals.blocked(shown, fault.message)
    if status in (408, 499) or status < 200 or status >= 500:
        if status in refused_statuses:
            return refusals.out_of_order(shown)
        return Unknown(f"the upstream answered {status}, and not that it had begun nothing")
    return _refused(status, headers, fault, shown)


def _accepted(answer: Object, *, is_success: bool) -> Accepted | None:
    """None: no job is named. With an error's status an `id` alone may be the request's, so the
    body has to be a Video object or a job that goes on."""
    job = jobs.job_of(answer)
    upstream_id = jobs.id_of(job) or jobs.id_of(answer)
    word = jobs.state_word(job)
    state = None if word is None else _state(job, word)
    if not is_success:
        told = None if word is None else states.status_of(word)
        goes_on = told is not None and told is not Status.FAILED and not _is_error(answer)
        if upstream_id is None or not (job.get("object") == "video" or goes_on):
            return None
    if upstream_id is None and not _is_error(answer):
        data = answer.get("data")  # {"code": "success", "data": "<id>"}
        if isinstance(data, str) and _is_fine(answer):
            upstream_id = values.identifier(data)
        upstream_id = upstream_id or (
            values.identifier(answer.get("request_id")) if _is_fine(answer) else None
        )
    return None if upstream_id is None else Accepted(upstream_id, state)


def _is_error(answer: Object) -> bool:
    return _fault_of(answer.get("error")) is not None


def _is_fine(answer: Object) -> bool:
    code = values.text(answer.get("code"))
    return (code if code is None else code.lower()) in _FINE


def _refused_in_success(headers: Mapping[str, str], fault: Fault) -> Refused | None:
    """A 2xx that carries an error and no job: refused if the code proves that nothing began."""
    code = fault.code.lower()
    shown = fault.code
    if code in _OVERLOADED or code == "503":
        return refusals.overloaded(shown, headers) if code in _OVERLOADED else None
    by_code = {"400": 400, "401": 401, "402": 402, "403": 403, "404": 404, "413": 413, "422": 422}
    status = by_code.get(code) or (429 if code in _RATE or code == "429" else 0)
    if status or code in _MODERATION | _BALANCE | _KEY | _ABSENT_MODEL | _INPUT:
        return _refused(status or 400, headers, fault, shown)
    return None


def _refused(status: int, headers: Mapping[str, str], fault: Fault, shown: str) -> Refused:
    code = fault.code.lower()
    if code in _MODERATION:
        return refusals.blocked(shown, fault.message)
    if status == 402 or code in _BALANCE:
        return refusals.no_balance(shown, headers)
    if status == 429:
        return refusals.over_rate(shown, headers)
    if code in _ABSENT_MODEL or (status in (400, 404) and _OTHER_MODEL.search(fault.message)):
        return refusals.absent_model(shown)
    if status == 401 or code in _KEY:
        return refusals.key_refused(shown)
    if status == 403:
        return refusals.forbidden(shown)
    if status == 404:
        return refusals.absent_model(shown)
    if status in (400, 422):
        message = fault.message or f"HTTP {status}"
        return refusals.at_fault(shown, message, param=fault.param)
    if status == 409:
        return refusals.in_conflict(shown, fault.message, param=fault.param)
    if status == 413:
        return refusals.too_large(shown)
    return refusals.out_of_order(shown)


# ---------------------------------------------------------------- a poll


def state(
    task: Task, status: int, headers: Mapping[str, str], body: bytes
) -> TaskState | Transient:
    """A 404 is transient ("not_found"): just after a submit it may only mean that another
    replica was asked. A task that stays missing ends by the tracker's failure budget.

    With any status but a success only the end of a job counts, and only of ours: a Video object,
    or one that has the id we ask for.
    """
    answer = values.document(body)
    job = {} if answer is None else jobs.job_of(answer, task.upstream_id)
    word = jobs.state_word(job)
    if 200 <= status < 300:
        if word is None:
            return Transient("unreadable", retry_after_s=values.retry_after_s(headers))
        if word.lower() == "not_found":
            return Transient("not_found", values.retry_after_s(headers), "not_found")
        return _state(job, word)
    if word is not None and _is_end(word) and _is_ours(job, task):
        return _state(job, word)
    told = None if answer is None else _told_in_words(answer, task)
    if told is not None:
        return told
    reasons = {401: "credential_refused", 403: "credential_refused", 404: "not_found"}
    reasons[429] = "rate_limited"
    reason = reasons.get(status, f"http_{status}")
    return Transient(reason, values.retry_after_s(headers), refusals.silence_of(status))


def _is_end(word: str) -> bool:
    told = states.status_of(word)
    return told is not None and told.is_final


def _is_ours(job: Object, task: Task) -> bool:
    named = jobs.id_of(job)
    if named is not None and named == task.upstream_id:
        return True
    return job.get("object") == "video"


def _told_in_words(answer: Object, task: Task) -> TaskState | None:
    """A failed job inside an error's message. Its id has to be the one we ask for, or the one that
    LiteLLM wrapped in it: anybody can write a failed job into a prompt that an error repeats."""
    fault = _fault(answer)
    if fault is None or '"status"' not in fault.message:
        return None
    for job in values.embedded_objects(fault.message):
        word = jobs.state_word(job)
        named = jobs.id_of(job)
        if word is None or states.status_of(word) is not Status.FAILED or named is None:
            continue
        if named in (task.upstream_id, _wrapped_id(task.upstream_id or "")):
            return _state(job, word)
    return None


def _wrapped_id(upstream_id: str) -> str | None:
    """The id at the server behind LiteLLM: "video_" + base64 of "…;video_id:<id>"."""
    packed = upstream_id.removeprefix("video_")
    try:
        told = base64.b64decode(packed + "=" * (-len(packed) % 4), altchars=b"-_").decode()
    except (binascii.Error, ValueError):
        return None
    _, mark, rest = told.rpartition("video_id:")
    return rest.partition(";")[0] if mark else None


def _state(job: Object, word: str) -> TaskState:
    told = states.status_of(word)
    status = told or Status.IN_PROGRESS
    seconds = _seconds(job)
    expires_ms = values.moment_ms(job.get("expires_at"))
    is_done = status is Status.COMPLETED
    return TaskState(
        status,
        progress=100 if is_done else values.percent(job.get("progress")),
        results=_results(job, seconds, expires_ms) if is_done else (),
        error=_failure(word, job) if status is Status.FAILED else None,
        seconds=seconds,
        size=size_of(job.get("size")),
        unknown_state=None if told else words.words(states.plain(word))[: values.CODE_MAX_CHARS],
        expires_ms=expires_ms,
    )


def _seconds(job: Object) -> float | None:
    """The length that was made, by what says most about it: vLLM-Omni's `seconds` only repeats
    what was asked, its `duration_s` and frames do not."""
    made = values.quantity(job.get("duration_s"))
    frames, fps = values.quantity(job.get("num_frames")), values.quantity(job.get("fps"))
    if made is None and frames is not None and fps is not None:
        made = values.quantity(frames / fps)
    usage = values.member(job, "usage").get("duration_seconds")
    return made or values.quantity(usage) or values.quantity(job.get("seconds"))


def _results(job: Object, seconds: float | None, expires_ms: int | None) -> tuple[Result, ...]:
    """By the addresses in the answer (SGLang with S3, gateways); without any, by the upstream's
    own content path. An address of that path is none: it wants our key."""
    if job.get("object") == "video":  # whose `metadata` is the client's own, repeated
        job = {name: value for name, value in job.items() if name != "metadata"}
    urls = [url for url in results.result_urls(job) if not _CONTENT.search(url)]
    if not urls:
        return (Result(seconds=seconds, expires_ms=expires_ms),)
    return tuple(Result(url=url, seconds=seconds, expires_ms=expires_ms) for url in urls)


_CONTENT = re.compile(r"/videos/[^/?#]+/content(?:[?#]|$)")


def _failure(word: str, job: Object) -> TaskError:
    fault = Fault()
    for name in _ERROR_NAMES:
        found = _fault_of(job.get(name))
        if found is not None:
            fault = found
            break
    if fault == Fault() and isinstance(job.get("message"), str):
        fault = _fault_of(job) or fault
    code = _FAILURE_CODES.get(fault.code.lower()) or states.ENDS.get(states.plain(word))
    if code in (None, "invalid_input") and words.is_moderation(fault.message):
        code = "moderation_blocked"
    code = code or "upstream_error"
    return TaskError(code, words.words(fault.message) or FAILURES[code], fault.code or None)


# ---------------------------------------------------------------- errors


def _fault(answer: Object) -> Fault | None:
    """None: the body has no error of the API's own shapes."""
    for name in ("error", "detail"):
        fault = _fault_of(answer.get(name))
        if fault is not None:
            return fault
    return _fault_of(answer) if isinstance(answer.get("message"), str) else None


def _fault_of(value: object, depth: int = 4) -> Fault | None:
    """OpenAI's object, a bare string, or FastAPI's list of `{loc, msg, type}`."""
    if isinstance(value, str) and value:
        return Fault(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        first = value[0]
        where, what = first.get("loc"), first.get("msg")
        steps = where[:8] if isinstance(where, list) else []
        names = [str(step)[:64] for step in steps if step != "body"]
        return Fault(what if isinstance(what, str) else "", param=words.field_name(".".join(names)))
    if not isinstance(value, dict) or not value or depth == 0:
        return None
    inner = value.get("error")
    if isinstance(inner, dict):  # HTTPException(detail={"error": {…}})
        return _fault_of(inner, depth - 1)
    message = value.get("message") or value.get("msg")
    code = values.code(value.get("code")) or values.code(value.get("type"))
    return Fault(
        message if isinstance(message, str) else "",
        code or "",
        words.field_name(value.get("param")),
    )
