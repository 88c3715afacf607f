"""What an upstream's answer to a submit, a poll or a cancellation means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from proxy.errors import ProxyError
from proxy.model import TaskState

TransientKind = Literal[
    "not_found",  # the upstream says it has no such task
    "no_answer",  # no connection, a cut, a time-out
    "rate_limited",
    "credential_refused",  # 401 or 403, or the provider's own code for it
    "http_3xx",
    "http_4xx",
    "http_5xx",
    "unreadable",  # a 2xx that names no state, or claims a result without its address
    "not_configured",  # the task's upstream or credential left the config
    "no_lookup",  # the provider cannot be asked by an id of ours
]


@dataclass(frozen=True, slots=True)
class Transient:
    """A poll that says nothing about the task: try again later.

    `reason` is for the log, `kind` for decisions.
    """

    reason: str
    retry_after_s: float | None = None
    kind: TransientKind = "unreadable"


@dataclass(frozen=True, slots=True)
class Accepted:
    """The upstream took the job and named it."""

    upstream_id: str
    state: TaskState | None = None
    handle: Mapping[str, str] = field(default_factory=dict)
    # What an upstream that is a Reelway itself changed and left out, as its headers say it.
    adjusted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


Cooldown = Literal["none", "back_off", "take_out"]


@dataclass(frozen=True, slots=True)
class Refused:
    """The upstream provably did not take the job.

    `error` is what the client is told when no other credential or upstream takes it.
    `elsewhere` is True when another credential or upstream may take the same request
    (rate, balance, account trouble), False when the request itself is at fault.
    `cooldown` is what it says about the credential: to be left alone for a while, or out of
    use until somebody has checked it. `doubtful`: that may be true of this request alone.
    """

    error: ProxyError
    elsewhere: bool
    provider_code: str | None = None
    retry_after_s: float | None = None
    cooldown: Cooldown = "none"
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can say whether the upstream took the job: never resent."""

    reason: str


Outcome: TypeAlias = "Accepted | Refused | Unknown"


# What became of a render whose task was deleted: it does not go on, it goes on, nobody can say.
Cancelled = Literal["stopped", "will_finish", "unknown"]
