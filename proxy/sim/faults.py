"""Scripted faults: what goes wrong, where, and how often.

A fault matches a request by service, operation and a part of its target. Every request takes
at most one fault of each kind, so several kinds combine (`no_range` and `cut`) and several
faults of one kind queue up in the order they were added.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

Kind = Literal[
    "hangup",  # closed before the body is read; nothing is processed
    "hold",  # nothing is read or processed until released
    "status",  # answered with `status` and the native error `code`; nothing is processed
    "redirect",  # answered with `status` (302 unless it is a 3xx) and `location`; ditto
    "lost",  # processed, then closed without a byte of the reply
    "accepted_status",  # processed, then answered like "status"
    "malformed",  # processed, then answered with half of the JSON (or `body`)
    "members",  # processed; `members` of the JSON reply are replaced (null: left out)
    "bom",  # processed; the reply's body begins with a byte order mark
    "big_head",  # the reply carries a header of `rate` bytes
    "stall",  # stops at body byte `at` (null: before the head) until released
    "cut",  # closed at body byte `at`, the bytes before it delivered
    "drip",  # `rate` bytes a second
    "wrong_length",  # Content-Length is `delta` off
    "chunked",  # no Content-Length, chunked
    "http10",  # an HTTP/1.0 reply without a length, ended by closing
    "no_range",  # the file is always sent whole
    "etag_change",  # the file was replaced: another ETag (and other bytes of a pattern)
    "headers",  # `headers` are added to the reply
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the script. `times` None: always; `skip`: that many matches go well first."""

    kind: Kind
    service: str = "*"
    operation: str = "*"
    #: Only requests whose target (path and query) contains this.
    target: str = ""
    times: int | None = 1
    skip: int = 0
    at: int | None = 0
    status: int = 500
    #: The provider's own error code; None picks the one usual for `status`.
    code: int | str | None = None
    message: str | None = None
    #: The whole reply body instead of a native one (a load balancer's HTML, say).
    body: str | None = None
    retry_after: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    #: With "members": other states, numbers as text, an `id` of another type, an address.
    members: tuple[tuple[str, object], ...] = ()
    location: str = ""
    rate: int = 65536
    delta: int = 0
    #: With "hangup", "lost" and "cut": RST instead of FIN. Bytes in flight may be lost too.
    reset: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"'kind' is {self.kind!r}; accepted: {', '.join(KINDS)}.")
        if self.kind == "cut" and self.at is None:
            raise ValueError("'at' of a cut is a byte offset; to cut before the head use 'lost'.")
        if self.at is not None and self.at < 0:
            raise ValueError(f"'at' is {self.at}; accepted: a byte offset from 0.")
        if self.rate <= 0:
            raise ValueError(f"'rate' is {self.rate}; accepted: bytes per second from 1.")
        if self.times is not None and self.times < 1:
            raise ValueError(f"'times' is {self.times}; accepted: a count from 1, or null.")

    @classmethod
    def from_json(cls, value: object) -> Fault:
        """From a JSON object with this class's field names; `headers` may be an object."""
        if not isinstance(value, dict):
            raise ValueError("A fault is a JSON object.")
        named = cast("dict[str, object]", value)
        unknown = sorted(set(named) - set(_ACCEPTED))
        if unknown:
            raise ValueError(f"Unknown field {unknown[0]!r}; accepted: {', '.join(_ACCEPTED)}.")
        if "kind" not in named:
            raise ValueError(f"'kind' is missing; accepted: {', '.join(KINDS)}.")
        given: dict[str, object] = {}
        for name, item in named.items():
            types = _ACCEPTED[name]
            if not isinstance(item, types) or (isinstance(item, bool) and bool not in types):
                raise ValueError(f"'{name}' has the wrong type.")
            if name == "headers":
                given[name] = _pairs(item)
            elif name == "members":
                given[name] = tuple(cast("dict[str, object]", item).items())
            else:
                given[name] = item
        return cls(**given)  # type: ignore[arg-type]  # each type was checked above

    def to_json(self) -> dict[str, object]:
        return dataclasses.asdict(self)


_NONE = type(None)
_ACCEPTED: Mapping[str, tuple[type, ...]] = {
    "kind": (str,),
    "service": (str,),
    "operation": (str,),
    "target": (str,),
    "times": (int, _NONE),
    "skip": (int,),
    "at": (int, _NONE),
    "status": (int,),
    "code": (int, str, _NONE),
    "message": (str, _NONE),
    "body": (str, _NONE),
    "retry_after": (str, _NONE),
    "headers": (dict, list),
    "members": (dict,),
    "location": (str,),
    "rate": (int,),
    "delta": (int,),
    "reset": (bool,),
}


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    items: Iterable[object] = (
        value.items() if isinstance(value, dict) else cast("list[object]", value)
    )
    pairs: list[tuple[str, str]] = []
    for item in items:
        if not (isinstance(item, list | tuple) and len(item) == 2):
            raise ValueError("'headers' is an object, or a list of [name, value] pairs.")
        pairs.append((str(item[0]), str(item[1])))
    return tuple(pairs)


class Active:
    """A fault in force. `hits` counts the requests it struck."""

    def __init__(self, number: int, fault: Fault) -> None:
        self.number = number
        self.fault = fault
        self.hits = 0
        self.released = asyncio.Event()
        self._seen = 0

    def release(self) -> None:
        """Lets go everything a "stall" or "hold" keeps, now and later."""
        self.released.set()

    def matches(self, service: str, operation: str, target: str) -> bool:
        fault = self.fault
        return (
            fault.service in ("*", service)
            and fault.operation in ("*", operation)
            and fault.target in target
        )

    def take(self) -> bool:
        """Counts one matching request; False when this one is let through."""
        if self.fault.times is not None and self.hits >= self.fault.times:
            return False
        self._seen += 1
        if self._seen <= self.fault.skip:
            return False
        self.hits += 1
        return True

    def to_json(self) -> dict[str, object]:
        return {"id": self.number, "hits": self.hits, **self.fault.to_json()}


class Plan:
    """The faults one request suffers: at most one of each kind."""

    __slots__ = ("_taken",)

    def __init__(self, taken: Mapping[str, Active] | None = None) -> None:
        self._taken = taken or {}

    def get(self, kind: Kind) -> Active | None:
        return self._taken.get(kind)

    @property
    def kinds(self) -> tuple[str, ...]:
        return tuple(self._taken)


class Faults:
    def __init__(self) -> None:
        self._active: list[Active] = []
        self._number = 0

    def add(self, fault: Fault) -> Active:
        self._number += 1
        active = Active(self._number, fault)
        self._active.append(active)
        return active

    def remove(self, active: Active) -> None:
        """Ends it for later requests and lets go what it holds."""
        active.release()
        self._active.remove(active)

    def clear(self) -> None:
        for active in self._active:
            active.release()
        self._active.clear()

    def __getitem__(self, number: int) -> Active:
        """Raises KeyError."""
        for active in self._active:
            if active.number == number:
                return active
        raise KeyError(number)

    def plan(self, service: str, operation: str, target: str) -> Plan:
        taken: dict[str, Active] = {}
        for active in self._active:
            kind = active.fault.kind
            if kind not in taken and active.matches(service, operation, target) and active.take():
                taken[kind] = active
        return Plan(taken)

    def to_json(self) -> list[dict[str, object]]:
        return [active.to_json() for active in self._active]
