"""The words providers have for a job's state, by family: one table for all of them.

A word is compared without case, its separators and the prefixes of enums: "InProgress",
"TASK_STATUS_SUCCESS" and "job-state-succeeded" are known by their last part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.model import Status

_FAMILIES: Mapping[Status, tuple[str, ...]] = {
    Status.QUEUED: (
        *("queued", "queueing", "queuing", "queue", "in_queue", "pending", "submitted"),
        *("submitting", "waiting", "created", "accepted", "received", "scheduled", "starting"),
        *("preparing", "preprocessing", "not_started", "not_start", "initialized", "new"),
        *("throttled", "on_hold"),
    ),
    Status.IN_PROGRESS: (
        *("in_progress", "progress", "processing", "running", "generating", "rendering"),
        *("started", "active", "working", "executing", "uploading", "postprocessing"),
    ),
    Status.COMPLETED: (
        *("completed", "complete", "succeeded", "succeed", "success", "successful", "done"),
        *("finished", "finish", "ready", "generated"),
    ),
    Status.FAILED: (
        *("failed", "fail", "failure", "error", "errored", "expired", "cancelled", "canceled"),
        *("rejected", "moderated", "request_moderated", "content_moderated", "blocked"),
        *("timeout", "timed_out", "time_out", "deleted", "aborted", "terminated", "killed"),
        *("interrupted", "crashed", "dead", "stopped"),
    ),
}
_STATES: Mapping[str, Status] = {
    word: status for status, family in _FAMILIES.items() for word in family
}
# Failures that a state's word explains, in our codes.
ENDS: Mapping[str, str] = {
    "expired": "expired",
    **dict.fromkeys(("cancelled", "canceled", "deleted", "aborted", "stopped"), "cancelled"),
    **dict.fromkeys(("timeout", "timed_out", "time_out"), "timeout"),
    **dict.fromkeys(
        ("moderated", "request_moderated", "content_moderated", "blocked"), "moderation_blocked"
    ),
}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_BETWEEN = re.compile(r"[\s\-.]+")
_PREFIX = re.compile(r"^(?:(?:video|task|job|generation|state|status)_)+")


def plain(word: str) -> str:
    """A word as the table has it; one that the table lacks in lower case."""
    lowered = word.strip().lower()
    if lowered in _STATES:
        return lowered
    snake = _BETWEEN.sub("_", _CAMEL.sub("_", word.strip())).lower()
    for form in (snake, _PREFIX.sub("", snake)):
        if form in _STATES:
            return form
    return lowered


def status_of(word: str) -> Status | None:
    """None: a word no family has."""
    return _STATES.get(plain(word))
