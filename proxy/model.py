"""The values that every package uses: requests, principals, upstreams, tasks.

Rule: nothing here acts, and every value is frozen. Times are integers in milliseconds since the
epoch (`*_ms`) unless the name says `_s`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from pydantic import BaseModel

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

DialectName: TypeAlias = str  # a name in `dialects.DIALECTS`; input is checked against that


# ---------------------------------------------------------------- what a client sends


class Operation(StrEnum):
    """What a client asks for, in whichever dialect it asks."""

    CREATE = "create"
    REMIX = "remix"
    EDIT = "edit"
    EXTEND = "extend"
    GET = "get"
    LIST = "list"
    DELETE = "delete"
    CONTENT = "content"
    MODELS = "models"
    EVENTS = "events"
    USAGE = "usage"

    @property
    def is_submit(self) -> bool:
        """True when it costs a render."""
        return self in (Operation.CREATE, Operation.REMIX, Operation.EDIT, Operation.EXTEND)


class Kind(StrEnum):
    """What a task starts from. Kling keeps the two under different paths."""

    TEXT = "text2video"
    IMAGE = "image2video"


@dataclass(frozen=True, slots=True)
class Call:
    """A head matched against the endpoint table: which dialect's operation, on what.

    `params` are the decoded path parameters (`task_id`, `kind`); `query` the decoded query,
    the first value of each name.
    """

    dialect: DialectName
    operation: Operation
    params: Mapping[str, str]
    query: Mapping[str, str]


class Blob(Protocol):
    """Bytes a client uploaded, kept outside the request (memory or an unlinked file)."""

    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def content_type(self) -> str: ...
    @property
    def filename(self) -> str: ...
    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        """The bytes from the start, again at each call; pieces of at most `block`."""
        ...


class Role(StrEnum):
    """What a picture, video or sound is for."""

    FIRST_FRAME = "first_frame"
    LAST_FRAME = "last_frame"
    REFERENCE_IMAGE = "reference_image"
    REFERENCE_VIDEO = "reference_video"
    REFERENCE_AUDIO = "reference_audio"
    SOURCE = "source"  # the video an edit or extension works on


@dataclass(frozen=True, slots=True)
class Media:
    """One picture, video or sound of a request: exactly one of `url` (http, https) and `blob`.

    `param` is the client's own name of the field, for error messages; `seconds` the length of an
    uploaded video, where it was measured.
    """

    role: Role
    param: str
    url: str | None = None
    blob: Blob | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class VideoRequest:
    """What the client wants rendered, in no dialect. None means: the client did not say.

    `size` is (width, height) in pixels. `extra` are fields of the client's that no dialect
    rule knows and `metadata` entries; `native` are the vendor's own fields of a Kling or
    Jimeng client, to be passed on literally when the provider is of the same kind.
    """

    operation: Operation
    dialect: DialectName
    model: str
    kind: Kind = Kind.TEXT
    prompt: str | None = None
    negative_prompt: str | None = None
    seconds: float | None = None  # the longest of what its length fields say
    frames: int | None = None  # where the client counts frames; `seconds` then covers them
    size: tuple[int, int] | None = None
    aspect_ratio: str | None = None  # "16:9"
    resolution: str | None = None  # "720p", "1080p"
    mode: str | None = None  # "std", "pro"
    audio: bool | None = None
    fps: int | None = None
    seed: int | None = None
    n: int | None = None
    style: str | None = None
    quality_level: str | None = None
    user: str | None = None
    response_format: str | None = None
    media: tuple[Media, ...] = ()
    source_id: str | None = None  # our id of the task a remix, edit or extension starts from
    external_id: str | None = None  # the client's own alias for the task
    callback_url: str | None = None
    extra: Mapping[str, Json] = field(default_factory=dict)
    native: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer to a client. `headers` has Content-Type when there is a body; `block` has
    them as the lines they are sent as, where the same answer is given again and again."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    block: str = ""


# ---------------------------------------------------------------- who is asking


@dataclass(frozen=True, slots=True)
class Limits:
    """What a token, an owner, or an owner's use of one model may have. None: any amount."""

    budget_micro: int | None = None
    budget_day_micro: int | None = None  # per UTC day and month, by the time of the submit
    budget_month_micro: int | None = None
    requests_per_minute: int | None = None
    submits_per_minute: int | None = None
    max_in_flight: int | None = None
    max_streams: int | None = None
    max_body_bytes: int | None = None

    @property
    def has_rates(self) -> bool:
        return self.requests_per_minute is not None or self.submits_per_minute is not None


NO_LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a token stands for. `models` are globs; empty means every model, as an empty scope
    (`dialects`, `operations`, `addresses`: networks) means any. `shared`: it reads what the
    owner's other tokens made. `model_limits`: by glob, what the owner may have of each model."""

    token_id: str
    owner: str
    name: str
    generation: int = 1
    models: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    expires_ms: int | None = None
    revoked: bool = False
    owner_limits: Limits = NO_LIMITS
    webhook: str | None = None  # told of every task that names no address of its own
    model_limits: tuple[tuple[str, Limits], ...] = ()
    dialects: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    shared: bool = False

    def owns(self, task: Task) -> bool:
        """Whether it may change the task, or start another render from it."""
        return task.token_id == self.token_id

    def sees(self, task: Task) -> bool:
        """Whether it may read the task."""
        return self.owns(task) or (self.shared and task.owner == self.owner)


# ---------------------------------------------------------------- where it goes


@dataclass(frozen=True, slots=True)
class Credential:
    """One named key of an upstream: `api_key`, or `access_key` and `secret_key`."""

    name: str
    api_key: str | None = field(default=None, repr=False)
    access_key: str | None = field(default=None, repr=False)
    secret_key: str | None = field(default=None, repr=False)
    weight: int = 1
    max_in_flight: int | None = None
    retired: bool = False


@dataclass(frozen=True, slots=True)
class Upstream:
    """One configured account at a provider. `options` is the adapter's own validated model."""

    name: str
    provider: str
    base_url: str  # without a trailing slash
    credentials: tuple[Credential, ...]
    paths: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    result_hosts: tuple[str, ...] = ()
    options: BaseModel | None = None
    models: tuple[BaseModel, ...] = ()  # the operator's catalogue rows for its provider


@dataclass(frozen=True, slots=True)
class Route:
    """A row of the routing table: public model (a glob) → upstreams (name, weight)."""

    model: str
    upstreams: tuple[tuple[str, int], ...]
    upstream_model: str | None = None  # None: the name the client asked for
    defaults: Mapping[str, Json] = field(default_factory=dict)
    overrides: Mapping[str, Json] = field(default_factory=dict)
    remove: tuple[str, ...] = ()
    fit: Literal["up", "exact"] = "up"
    price: Mapping[str, Json] = field(default_factory=dict)
    max_age_s: float | None = None  # a task older than this has failed; None: the general limit
    queue: int = 0  # how many tasks may wait at each of its upstreams for a place; 0: none
    passes: tuple[str, ...] = ()  # globs over fields nobody reads that go on all the same


# ---------------------------------------------------------------- how a credential fares

HealthState = Literal["well", "cooling", "out", "broken"]

ACTIVE_MS: Final = 10 * 60 * 1000  # a key is active, and what its requests met counts, so long
ANYBODY: Final = ""  # among the keys of a standing: it would have happened to any request


@dataclass(frozen=True, slots=True)
class CredentialHealth:
    """`strikes` in a row brought it here, the last at `last_ms` with the provider's `code`;
    nothing is asked of it before `until_ms`. `keys` are the ids of the client keys whose requests
    met the strikes, the latest last; `ANYBODY` among them: a strike that any request would meet."""

    state: HealthState = "well"
    strikes: int = 0
    until_ms: int = 0
    code: str = ""
    keys: tuple[str, ...] = ()
    last_ms: int = 0

    @property
    def is_for_all(self) -> bool:
        """Whether it says something about every client's requests, not only about one's."""
        return len(self.keys) != 1 or ANYBODY in self.keys

    def concerns(self, key: str | None) -> bool:
        """Whether it says something about this key's requests; None: about anybody's."""
        return self.is_for_all or key is None or key in self.keys


HEALTHY: Final = CredentialHealth()


# ---------------------------------------------------------------- what comes of it


class Status(StrEnum):
    """What clients see; nothing else ever leaves the house."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def is_final(self) -> bool:
        return self in (Status.COMPLETED, Status.FAILED)


class Stage(StrEnum):
    """Where a task is in its life; only ever forward (see `lifecycle`)."""

    RESERVED = "reserved"  # durable here, the upstream knows nothing
    SENT = "sent"  # may have reached the upstream
    BOUND = "bound"  # the upstream's id is known
    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"

    @property
    def status(self) -> Status:
        if self in (Stage.RESERVED, Stage.SENT, Stage.BOUND):
            return Status.QUEUED
        return Status(self.value)

    @property
    def is_final(self) -> bool:
        return self in (Stage.COMPLETED, Stage.FAILED)


@dataclass(frozen=True, slots=True)
class TaskError:
    """Why a task failed. `code` is one of ours (errors.FAILURES); `provider_code` is the
    provider's own, for the operator."""

    code: str
    message: str
    provider_code: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One finished video. `url` None: fetched from the upstream's own content path.

    `variants` are further URLs by variant name ("thumbnail", "watermark").
    """

    url: str | None = None
    id: str | None = None  # the provider's own id of the video
    seconds: float | None = None
    variants: Mapping[str, str] = field(default_factory=dict)
    expires_ms: int | None = None


@dataclass(frozen=True, slots=True)
class TaskState:
    """What one upstream answer says about a task."""

    status: Status
    progress: int | None = None  # 0–100
    results: tuple[Result, ...] = ()
    error: TaskError | None = None
    native: Mapping[str, Json] = field(default_factory=dict)
    seconds: float | None = None
    size: tuple[int, int] | None = None
    unknown_state: str | None = None  # a provider state no table has; shown as in_progress
    expires_ms: int | None = None  # when the provider drops the result


@dataclass(frozen=True, slots=True)
class Task:
    """One paid render. `version` rises by one at each stored change.

    `handle` belongs to the adapter (see Draft). `request` holds what the client asked
    (prompt-less, media-less: `fps`, `seed`, `user`, …) as far as answers repeat it.
    """

    id: str
    owner: str
    token_id: str
    dialect: DialectName
    operation: Operation
    kind: Kind
    model: str
    created_ms: int
    updated_ms: int
    stage: Stage = Stage.RESERVED
    version: int = 1
    attempt: int = 0
    prompt: str | None = None
    seconds: float | None = None  # as rendered
    size: tuple[int, int] | None = None  # as rendered
    request: Mapping[str, Json] = field(default_factory=dict)
    external_id: str | None = None
    source_id: str | None = None
    route: str = ""
    upstream: str = ""
    provider: str = ""
    upstream_model: str = ""
    credential: str = ""
    upstream_id: str | None = None
    handle: Mapping[str, str] = field(default_factory=dict)
    adjusted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    progress: int = 0
    results: tuple[Result, ...] = ()
    error: TaskError | None = None
    native: Mapping[str, Json] = field(default_factory=dict)
    completed_ms: int | None = None
    expires_ms: int | None = None
    deleted: bool = False
    fingerprint: str | None = None  # of what was asked; see `fingerprint`
    idempotency: str | None = None  # SHA-256 of the client's Idempotency-Key
    unconfirmed: bool = False  # sent, and nobody can say whether it arrived
    bound_ms: int | None = None
    webhook: str | None = None  # where the client wants to be told
    n: int = 1
    audio: bool = False
    mode: str | None = None
    price: Mapping[str, Json] = field(default_factory=dict)  # of its route, the day it was made
    hold_micro: int = 0  # the most it may cost, in micro-units of [billing] currency
    settled_micro: int | None = None  # what it cost, once it has ended
    queue: str = ""  # the upstream in whose queue it waits or has waited: its client has it since
    sent_ms: int | None = None  # when its last attempt began
    trace: str | None = None  # the traceparent its client began it with, where tracing is on
    # When its upstream stopped answering polls for it, and when it began to say that it does not
    # know the task. None: the latest answer spoke of the task.
    silent_ms: int | None = None
    missing_ms: int | None = None

    @property
    def status(self) -> Status:
        return self.stage.status

    @property
    def is_waiting(self) -> bool:
        """In a queue: accepted, and no upstream knows of it."""
        return self.stage is Stage.RESERVED and self.queue != ""


def submit_key(task_id: str, attempt: int) -> str:
    """The Idempotency-Key of a task's attempt. Attempt n+1 opens only after attempt n was refused,
    so each is a request of its own: a server that keeps its answers by key would else repeat the
    refusal for ever."""
    return task_id if attempt <= 1 else f"{task_id}.{attempt}"


# Ways in which an upstream loses a task.
Loss = Literal["forgotten", "silent"]
