"""Values ⇄ what Redis keeps of them. Pure.

A task is one JSON document with the names of `model.Task`; keys this version does not know
are ignored and missing ones take the model's defaults, so that two versions of the gateway
can run side by side during an upgrade.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final, Literal, TypeAlias

import orjson

from proxy.errors import TooLarge
from proxy.model import (
    Json,
    Kind,
    Operation,
    Result,
    Stage,
    Status,
    Task,
    TaskError,
)
from proxy.store.notice import Webhook

MAX_TASK_BYTES: Final = 32 * 1024
MAX_OPEN_BYTES: Final = 24 * 1024  # the rest is room for how the task ends
MAX_LINE_ENTRIES: Final = 64

_KEPT_CHARS: Final = 1000  # of a prompt or error message when a task is far too large
_MAX_LIST_BYTES: Final = 1024  # of the fields that were adjusted, and of those dropped
_MAX_EVENT_CHARS: Final = 600  # of a line of the time line
# Of what a client sends with a submit and the task cannot do without.
_MOST_CHARS: Final = {"external_id": 1024, "webhook": 4096, "model": 1024, "trace": 256}
_ASKED_AS: Final = {"external_id": "external_task_id", "webhook": "callback_url"}
_TASK_FIELDS: Final = frozenset(f.name for f in fields(Task))
_RESULT_FIELDS: Final = frozenset(f.name for f in fields(Result))
_ERROR_FIELDS: Final = frozenset(f.name for f in fields(TaskError))


@dataclass(frozen=True, slots=True)
class LineEntry:
    """One line of a task's history: the state after `event`."""

    ms: int
    version: int
    stage: Stage
    attempt: int
    event: str


BookingKind: TypeAlias = Literal["hold", "settle", "refund", "loss"]


@dataclass(frozen=True, slots=True)
class Booking:
    """One line of the ledger. For every task hold = settle + refund; a `loss` only notes that a
    provider may charge what no client paid."""

    kind: BookingKind
    task_id: str
    token_id: str
    owner: str
    model: str
    micro: int
    ms: int


# ---------------------------------------------------------------- tasks


def encode_task(task: Task) -> bytes:
    """The task as JSON: at most `MAX_OPEN_BYTES` while it is open, `MAX_TASK_BYTES` at its end.

    What is too large loses what is optional, in the order of `_TRIMS` and no more than needed.
    A task that is still too large is written all the same: it has to move on, and to end. Its
    size is bounded where it is made (`encode_new_task`) and where a provider names it.
    """
    most = MAX_TASK_BYTES if task.stage.is_final else MAX_OPEN_BYTES
    task = replace(task, adjusted=_brief(task.adjusted), dropped=_brief(task.dropped))
    document = json_bytes(task)
    for trim in _TRIMS:
        if len(document) <= most:
            break
        task = trim(task, len(document) - most)
        document = json_bytes(task)
    return document


def encode_new_task(task: Task) -> bytes:
    """The document of a task that is about to be reserved. Raises `TooLarge` when it leaves too
    little room for what the task still has to say: where it went, what came of it."""
    for name, most in _MOST_CHARS.items():
        value = getattr(task, name)
        if value is not None and len(value.encode(errors="replace")) > most:
            asked = _ASKED_AS.get(name, name)
            raise TooLarge(f"'{asked}' is longer than the {most} bytes that are kept", param=asked)
    document = encode_task(task)
    if len(document) > MAX_OPEN_BYTES:
        raise TooLarge(
            f"the request needs {len(document)} bytes of state; at most {MAX_OPEN_BYTES} are kept"
        )
    return document


def remains_of(refused: Task) -> Task:
    """What is kept of a refused submit, for minutes: whose it was, and why it was refused."""
    return replace(
        refused,
        prompt=None,
        request={},
        handle={},
        native={},
        adjusted=(),
        dropped=(),
        price={},
        webhook=None,
        error=_short(refused.error, _KEPT_CHARS // 5),
    )


def _brief(entries: tuple[str, ...]) -> tuple[str, ...]:
    """At most `_MAX_LIST_BYTES` of these: the longest are left out, a last entry says how many.
    Field names that we know are short, so these stay."""
    sizes = [len(json_bytes(entry)) + 1 for entry in entries]
    excess = sum(sizes) - _MAX_LIST_BYTES
    gone: set[int] = set()
    for place in sorted(range(len(entries)), key=sizes.__getitem__, reverse=True):
        if excess <= 0:
            break
        excess -= sizes[place]
        gone.add(place)
    if not gone:
        return entries
    return (*(e for n, e in enumerate(entries) if n not in gone), f"+{len(gone)}")


def _less_native(task: Task, excess: int) -> Task:
    return replace(task, native=_slim(task.native, excess))


def _less_request(task: Task, excess: int) -> Task:
    return replace(task, request=_slim(task.request, excess))


def _less_text(task: Task, _excess: int) -> Task:
    prompt = None if task.prompt is None else task.prompt[:_KEPT_CHARS]
    return replace(task, prompt=prompt, error=_short(task.error, _KEPT_CHARS))


def _no_variants(task: Task, _excess: int) -> Task:
    return replace(task, results=tuple(replace(r, variants={}) for r in task.results))


def _fewer_urls(task: Task, excess: int) -> Task:
    """Addresses of results, the last first, until enough is gone. "" is an address that does not
    work: whoever wants that result has the provider asked for a fresh one."""
    results = list(task.results)
    for place in reversed(range(len(results))):
        url = results[place].url
        if excess <= 0:
            break
        if url:
            excess -= len(json_bytes(url)) - 2
            results[place] = replace(results[place], url="")
    return replace(task, results=tuple(results))


def _least(task: Task, _excess: int) -> Task:
    """Only what the task cannot do without."""
    return replace(
        task,
        prompt=None,
        error=_short(task.error, _KEPT_CHARS // 10),
        results=tuple(replace(r, id=_cut(r.id, _KEPT_CHARS // 10)) for r in task.results),
        adjusted=(),
        dropped=(),
    )


# What a task that is too large loses, in this order: the vendor's own fields (largest first), the
# repeated request fields (likewise), the tails of prompt and error message, then of its results.
_TRIMS: Final[tuple[Callable[[Task, int], Task], ...]] = (
    _less_native,
    _less_request,
    _less_text,
    _no_variants,
    _fewer_urls,
    _least,
)


def _short(error: TaskError | None, most: int) -> TaskError | None:
    return error and replace(
        error, message=error.message[:most], provider_code=_cut(error.provider_code, most)
    )


def _cut(text: str | None, most: int) -> str | None:
    return None if text is None else text[:most]


def decode_task(document: bytes) -> Task:
    """The task of a document; ValueError when it is none."""
    raw = stored_object(document)
    known: dict[str, Any] = {k: v for k, v in raw.items() if k in _TASK_FIELDS}
    try:
        known["operation"] = Operation(known["operation"])
        known["kind"] = Kind(known["kind"])
        known["stage"] = Stage(known["stage"])
        known["size"] = None if known.get("size") is None else tuple(known["size"])
        known["adjusted"] = tuple(known.get("adjusted", ()))
        known["dropped"] = tuple(known.get("dropped", ()))
        known["results"] = tuple(
            Result(**{k: v for k, v in item.items() if k in _RESULT_FIELDS})
            for item in known.get("results", ())
        )
        if known.get("error") is not None:
            known["error"] = TaskError(
                **{k: v for k, v in known["error"].items() if k in _ERROR_FIELDS}
            )
        return Task(**known)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not a task document: {exc}") from exc


def task_fields(task: Task, document: bytes | None = None) -> tuple[str | int | bytes, ...]:
    """The task's hash, flat: field, value, field, value, …

    Beside the document stand the fields that scripts and listings read without parsing it.
    """
    return (
        "v",
        task.version,
        "stage",
        task.stage.value,
        "attempt",
        task.attempt,
        "kind",
        task.kind.value,
        "tok",
        task.token_id,
        "gone",
        int(task.deleted),
        "doc",
        encode_task(task) if document is None else document,
    )


def json_bytes(value: object) -> bytes:
    return orjson.dumps(value, default=plain_mapping)


def plain_mapping(value: object) -> object:
    """The `default` of orjson: it knows only dict, not a mapping proxy or the like."""
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a record cannot hold {type(value).__name__}")


def _slim(entries: Mapping[str, Json], excess: int) -> dict[str, Json]:
    """`entries` less the largest ones, until at least `excess` bytes are gone or all are."""
    kept = dict(entries)
    sizes = {name: len(json_bytes({name: value})) for name, value in kept.items()}
    for name in sorted(kept, key=sizes.__getitem__, reverse=True):
        if excess <= 0:
            break
        excess -= sizes[name] - 2  # without the braces
        del kept[name]
    return kept


def stored_object(document: bytes) -> dict[str, Any]:
    raw = orjson.loads(document)  # JSONDecodeError is a ValueError
    if not isinstance(raw, dict):
        raise ValueError("not a JSON object")
    return raw


# ---------------------------------------------------------------- time line


def encode_line(entry: LineEntry) -> bytes:
    return orjson.dumps(replace(entry, event=entry.event[:_MAX_EVENT_CHARS]))


def decode_line(document: bytes) -> LineEntry:
    raw = stored_object(document)
    return LineEntry(
        ms=raw["ms"],
        version=raw["version"],
        stage=Stage(raw["stage"]),
        attempt=raw["attempt"],
        event=raw["event"],
    )


# ---------------------------------------------------------------- ledger


def encode_booking(booking: Booking) -> bytes:
    return orjson.dumps(booking)


def decode_booking(document: bytes) -> Booking:
    return Booking(**stored_object(document))


# ---------------------------------------------------------------- webhooks


def encode_hook(hook: Webhook) -> bytes:
    return orjson.dumps(hook)


def decode_hook(document: bytes) -> Webhook:
    raw = stored_object(document)
    raw["status"] = Status(raw["status"])
    raw["log"] = tuple((int(ms), str(what)) for ms, what in raw["log"])
    return Webhook(**raw)


# ---------------------------------------------------------------- tokens and owners
