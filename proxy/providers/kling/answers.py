"""What Kling's answers mean: to a submit, a poll and a look-up."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from proxy.errors import Invalid
from proxy.model import (
    Result,
    Status,
    Task,
    TaskError,
    TaskState,
)
from proxy.providers import jobs, refusals, results, states, values, words
from proxy.providers.catalogue.kling import RESULT_LIFE_S
from proxy.providers.outcomes import (
    Accepted,
    Cooldown,
    Outcome,
    Refused,
    Transient,
    TransientKind,
    Unknown,
)

# Kling's error codes. 5000 (internal) and 5002 (backlog time-out) prove nothing and are not here.
# What no waiting mends is out of use until it is checked; 1103 names the model or the call.
_ACCOUNT: Mapping[int, Cooldown] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004, 1100, 1101, 1102, 1304), "take_out"),
    1103: "none",
}
_MODERATION = frozenset({1300, 1301})
_INPUT = frozenset({1200, 1201})
_METHOD_MISSING = 1202
_RESOURCE_MISSING = 1203
_RATE, _IN_FLIGHT, _MAINTENANCE = 1302, 1303, 5001

# What a code says of a poll.
_SILENCE: Mapping[int, TransientKind] = {
    **dict.fromkeys(
        (1000, 1001, 1002, 1003, 1004, 1100, 1101, 1102, 1103, 1304),
        "credential_refused",
    ),
    _RESOURCE_MISSING: "not_found",
    **dict.fromkeys((_RATE, _IN_FLIGHT), "rate_limited"),
    **dict.fromkeys((5000, 5001, 5002), "http_5xx"),
}

_BLOCKED_IN_MESSAGE = re.compile(r"\b(1300|1301)\b")

_KNOWN_MEMBERS = frozenset(
    {
        "task_id",
        "task_status",
        "task_status_msg",
        "task_result",
        "external_task_id",
        "created_at",
        "updated_at",
    }
)


def outcome_of(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    refused_statuses: Collection[int],
) -> Outcome:
    """A task id under `data` was given to a task, whatever the code and status around it.
    Kling's `request_id` names the request, also of a refusal."""
    answer = values.exact_document(body)
    if answer is not None and (accepted := _accepted(answer, status)) is not None:
        return accepted
    code = values.integer(answer.get("code")) if answer else None
    message = answer.get("message") if answer else None
    refused = _refused(code, headers, message)
    if refused is None:
        shown = None if code is None else str(code)
        refused = refusals.refused_by_status(status, headers, shown, message, refused_statuses)
    return refused or Unknown(f"HTTP {status}, code {code}, and no task_id")


def state_of(
    task: Task, status: int, headers: Mapping[str, str], body: bytes
) -> TaskState | Transient:
    """A task that has ended counts whatever the status and code around it, if it is ours."""
    answer = values.document(body)
    if answer is None:
        return refusals.unread(status, headers, "not JSON")
    code = values.integer(answer.get("code"))
    job = jobs.job_of(answer, task.upstream_id)
    is_plain = 200 <= status < 300 and code in (0, None)
    if is_plain or (_is_end(job) and (code in (0, None) or _is_ours(job, task))):
        state = _state(job, task.updated_ms)
        if state is not None:
            return state
        return refusals.unread(status, headers, "no task state in it")
    return refusals.unread(status, headers, f"code {code}", _SILENCE.get(code or 0))


def found_of(status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
    """Only Kling's own word that it knows no such task counts: a bare 404 may come from a
    proxy or a wrong path, and taking it for an answer would pay for a second render."""
    answer = values.exact_document(body)
    code = values.integer(answer.get("code")) if answer else None
    if answer is None or code is None:
        return refusals.unread(status, headers, "no answer of Kling's")
    if code == _RESOURCE_MISSING or (status == 404 and code not in (0, _METHOD_MISSING)):
        return refusals.out_of_order(str(code))
    if code == 0 and (accepted := _accepted(answer, status)) is not None:
        return accepted
    return refusals.unread(status, headers, f"code {code}", _SILENCE.get(code))


def _refused(code: int | None, headers: Mapping[str, str], message: object) -> Refused | None:
    """What a code says, whatever the HTTP status; None for codes that prove nothing."""
    if code is None:
        return None
    shown = str(code)
    if code in _MODERATION:
        return refusals.blocked(shown, message)
    if code in _INPUT:
        return refusals.at_fault(shown, message)
    if code in _ACCOUNT:
        return refusals.account_trouble(shown, _ACCOUNT[code])
    if code == _METHOD_MISSING:  # our path is wrong, not the client's request
        return refusals.out_of_order(shown)
    if code == _RESOURCE_MISSING:  # on a submit: the model; another account may have it
        error = Invalid("The provider does not have this model.", param="model")
        return Refused(error, elsewhere=True, provider_code=shown)
    if code == _RATE:
        return refusals.over_rate(shown, headers, wait_s=2.0)
    if code == _IN_FLIGHT:
        return refusals.too_many(shown, headers, wait_s=10.0)
    if code == _MAINTENANCE:
        return refusals.closed(shown, headers)
    return None


def _state(data: Mapping[str, object], fallback_ms: int | None) -> TaskState | None:
    """A task object of Kling's; None when it names no state, or is done without a video.

    `fallback_ms` dates the results when the answer does not.
    """
    word = values.text(data.get("task_status")) or jobs.state_word(data)
    if word is None or word.lower() == "not_found":
        return None
    native = jobs.remaining(data, _KNOWN_MEMBERS)
    status = states.status_of(word)
    if status is None:
        shown = words.words(word)[: values.CODE_MAX_CHARS]
        return TaskState(Status.IN_PROGRESS, native=native, unknown_state=shown)
    if status is Status.FAILED:
        return TaskState(status, error=_task_error(data, word), native=native)
    if status is not Status.COMPLETED:
        return TaskState(status, native=native)
    made_ms = values.moment_ms(data.get("updated_at")) or fallback_ms
    expires_ms = None if made_ms is None else made_ms + RESULT_LIFE_S * 1000
    made = _results(data, expires_ms)
    if not made:
        return None
    return TaskState(status, 100, made, native=native, expires_ms=expires_ms)


def _results(data: Mapping[str, object], expires_ms: int | None) -> tuple[Result, ...]:
    """Several videos for a multi-shot prompt. Entries without a URL are no results."""
    videos = values.member(data, "task_result").get("videos")
    found: list[tuple[str, dict[str, object]]] = []
    for video in videos if isinstance(videos, list) else ():
        url = results.web_url(video.get("url")) if isinstance(video, dict) else None
        if url is not None:
            found.append((url, video))
    if not found:  # gateways in front of Kling put it elsewhere
        found = [(url, {}) for url in results.result_urls(data)]
    kept = results.bounded_urls([url for url, _ in found])
    room = results.URLS_MAX_CHARS - sum(map(len, kept))
    made = []
    for url, video in found[: len(kept)]:
        watermark = results.web_url(video.get("watermark_url"))
        room -= len(watermark or "")
        made.append(
            Result(
                url=url,
                id=values.identifier(video.get("id")),
                seconds=values.quantity(video.get("duration")),
                variants={"watermark": watermark} if watermark and room >= 0 else {},
                expires_ms=expires_ms,
            )
        )
    return tuple(made)


def _task_error(data: Mapping[str, object], word: str) -> TaskError:
    """Kling gives a reason in words only; a code, if any, stands inside them."""
    message = data.get("task_status_msg") or data.get("message") or data.get("fail_reason")
    match = _BLOCKED_IN_MESSAGE.search(message) if isinstance(message, str) else None
    said = words.words(message, "The provider gave no reason.")
    if match or words.is_moderation(message):
        return TaskError("moderation_blocked", said, match[1] if match else None)
    return TaskError(states.ENDS.get(states.plain(word), "upstream_error"), said)


def _accepted(answer: values.Object, status: int) -> Accepted | None:
    """None: no task is named. Outside `data` an id counts only in a success."""
    job = jobs.job_of(answer)
    upstream_id = jobs.id_of(job)
    is_plain = 200 <= status < 300 and values.integer(answer.get("code")) in (0, None)
    is_job = job is not answer or is_plain or answer.get("object") == "video"
    if upstream_id is None or not is_job:
        return None
    return Accepted(upstream_id, _state(job, None))


def _is_end(job: Mapping[str, object]) -> bool:
    word = jobs.state_word(job)
    status = None if word is None else states.status_of(word)
    return status is not None and status.is_final


def _is_ours(job: Mapping[str, object], task: Task) -> bool:
    return jobs.id_of(job) in (task.upstream_id, task.id)
