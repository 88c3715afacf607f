"""What Jimeng's answers mean: to a submit and to a poll."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from proxy.model import (
    Result,
    Status,
    Task,
    TaskError,
    TaskState,
)
from proxy.providers import jobs, refusals, results, states, values, words
from proxy.providers.catalogue.jimeng import RESULT_LIFE_S
from proxy.providers.outcomes import (
    Accepted,
    Outcome,
    Refused,
    Transient,
    TransientKind,
    Unknown,
)

SUCCESS = 10000
# Business codes. The 505xx are found in the output, the others in the input.
_MODERATION = frozenset({50411, 50412, 50413, 50511, 50512, 50516, 50517, 50518, 50519})
_CHECK_FAILED = frozenset({50520, 50521, 50522})  # the content check itself broke down
_INVALID = 50200
_DENIED = 50400  # wrong req_key, or the service is not opened for this account
_RATE, _IN_FLIGHT = 50429, 50430

# Codes of the gateway before the service (volcengine.com/docs/6664/116016).
_TOP_ACCOUNT = frozenset({100003, 100005, 100006, 100009, 100010, 100012, 100013})
_TOP_REQUEST = frozenset({100002, 100004, 100007, 100008})

_KNOWN_MEMBERS = frozenset({"task_id", "status", "video_url"})


def outcome_of(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    refused_statuses: Collection[int],
) -> Outcome:
    """A task id under `data` was given to a task, whatever the code and status around it.
    Jimeng's `request_id` names the request, also of a refusal."""
    answer = _plain(values.exact_document(body) or {})
    code = values.integer(answer.get("code"))
    is_plain = 200 <= status < 300 and code in (SUCCESS, 0, None)
    job = jobs.job_of(answer)
    upstream_id = jobs.id_of(job)
    is_job = job is not answer or is_plain or answer.get("object") == "video"
    if upstream_id is not None and is_job:
        return Accepted(upstream_id)
    refused = _refused(code, headers, answer.get("message")) or _refused_on_top(answer)
    if refused is None and code != SUCCESS:
        shown = None if code is None else str(code)
        message = answer.get("message")
        refused = refusals.refused_by_status(status, headers, shown, message, refused_statuses)
    return refused or Unknown(f"HTTP {status}, code {code}, and no task_id")


def state_of(
    task: Task, status: int, headers: Mapping[str, str], body: bytes
) -> TaskState | Transient:
    answer = values.document(body)
    if answer is None:
        return refusals.unread(status, headers, "not JSON")
    answer = _plain(answer)
    code = values.integer(answer.get("code"))
    data = values.member(answer, "data") or jobs.job_of(answer)
    word = jobs.state_word(data)
    if code not in (SUCCESS, 0):
        error = _task_error(code, word, answer.get("message"))
        if error is not None:
            return TaskState(Status.FAILED, error=error)
        return refusals.unread(status, headers, f"code {code}", _silence(code, answer))
    told = None if word is None else _status(word)
    is_success = 200 <= status < 300
    if word is None or not (is_success or (told is not None and told.is_final)):
        return refusals.unread(status, headers, "no task state in it")
    made_ms = values.sent_ms(headers) or task.updated_ms
    state = _state(word, data, made_ms + RESULT_LIFE_S * 1000)
    return state or refusals.unread(status, headers, "done, but no video_url yet", "unreadable")


def _refused(code: int | None, headers: Mapping[str, str], message: object) -> Refused | None:
    """What a business code says, whatever the HTTP status. 50500 and 50501 (internal errors)
    prove nothing."""
    if code is None:
        return None
    shown = str(code)
    if code in _MODERATION:
        return refusals.blocked(shown, message)
    if code in _CHECK_FAILED:
        return refusals.out_of_order(shown)
    if code == _INVALID:
        return refusals.at_fault(shown, message)
    if code == _DENIED:  # a wrong req_key among others: the account renders its other models
        return refusals.account_trouble(shown, "none")
    if code == _RATE:
        return refusals.over_rate(shown, headers, wait_s=2.0)
    if code == _IN_FLIGHT:
        return refusals.too_many(shown, headers, wait_s=10.0)
    return None


def _refused_on_top(answer: Mapping[str, object]) -> Refused | None:
    """A refusal of the gateway before the service: our signature, account or path."""
    error = values.member(values.member(answer, "ResponseMetadata"), "Error")
    code = values.integer(error.get("CodeN"))
    if code in _TOP_ACCOUNT:
        return refusals.account_trouble(str(code), "take_out")
    if code in _TOP_REQUEST:
        return refusals.out_of_order(str(code))
    return None


def _task_error(code: int | None, word: str | None, message: object) -> TaskError | None:
    """Why a task failed, from the code of a GetResult; None for codes about the poll itself.

    The content checks end a task. Any other code does so only beside `data.status` "done":
    alone it may be an internal error, a rate limit or an account's trouble at this moment.
    """
    if code is None:
        return None
    said = words.words(message, "The provider gave no reason.")
    if code in _MODERATION:
        return TaskError("moderation_blocked", said, str(code))
    if code in _CHECK_FAILED or word == "done":
        return TaskError("upstream_error", said, str(code))
    return None


def _state(word: str, data: Mapping[str, object], expires_ms: int) -> TaskState | None:
    """None: done, but without an address."""
    native = jobs.remaining(data, _KNOWN_MEMBERS)
    status = _status(word)
    if status is None:
        shown = words.words(word)[: values.CODE_MAX_CHARS]
        return TaskState(Status.IN_PROGRESS, native=native, unknown_state=shown)
    if status is Status.FAILED:
        return TaskState(status, error=_end(word, data), native=native)
    if status is not Status.COMPLETED:
        return TaskState(status, native=native)
    made = tuple(Result(url=url, expires_ms=expires_ms) for url in results.result_urls(data))
    if not made:
        return None
    return TaskState(status, 100, made, native=native, expires_ms=expires_ms)


def _status(word: str) -> Status | None:
    """Jimeng's own word for a task it has dropped is no family's."""
    return Status.FAILED if word.lower() == "not_found" else states.status_of(word)


def _end(word: str, data: Mapping[str, object]) -> TaskError:
    if word.lower() in ("not_found", "expired"):
        return TaskError("expired", "The provider no longer has this task.", word.lower())
    message = data.get("message") or data.get("fail_reason") or data.get("error")
    said = words.words(message, "The provider gave no reason.")
    code = states.ENDS.get(states.plain(word), "upstream_error")
    return TaskError("moderation_blocked" if words.is_moderation(message) else code, said)


def _silence(code: int | None, answer: Mapping[str, object]) -> TransientKind | None:
    """What a code says of a poll; None: what the HTTP status says."""
    if code in (_RATE, _IN_FLIGHT):
        return "rate_limited"
    if code == _DENIED or _refused_on_top(answer) is not None:
        return "credential_refused"
    return "http_5xx" if code in (50500, 50501) else None


def _plain(answer: values.Object) -> values.Object:
    """The answer itself, out of the envelope that Volcengine's universal API puts around it."""
    result = values.member(answer, "Result")
    return result if result and "code" not in answer else answer
