"""Everything the simulated upstreams were asked, and waiting for it without sleeping."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from multidict import CIMultiDict

from proxy.sim.body import Upload

_KEPT = 20_000
#: The operations that ask for a paid render.
SUBMITS = frozenset({"submit", "remix", "edit", "extend"})


@dataclass(slots=True, eq=False)
class Entry:
    """One request. `service` "kling" with `operation` "callback" is one *we* sent."""

    number: int
    service: str
    operation: str
    method: str
    #: The raw request target: path and query as they came.
    target: str
    headers: CIMultiDict[str]
    #: host:port the connection came from: equal for two requests on one connection.
    peer: str = ""
    #: Index of the account whose key signed it; None before or without authentication.
    account: int | None = None
    #: Upstream id of the task it made or asked for.
    task_id: str | None = None
    #: Parsed JSON or form fields; a part with a file is an `Upload`, and a string over 64 KiB
    #: is "sha256:<hex>:<length>".
    body: dict[str, object] = field(default_factory=dict)
    #: Bytes of the body as read; of a form, those of its parts.
    body_size: int = 0
    uploads: list[Upload] = field(default_factory=list)
    faults: tuple[str, ...] = ()
    status: int | None = None
    #: Body bytes given to the socket (without chunk framing).
    bytes_sent: int = 0
    #: It stands (or stood) at a "stall" or "hold".
    stalled: bool = False
    #: The other side left before the reply was complete.
    aborted: bool = False
    #: A fault closed the connection.
    cut: bool = False
    done: bool = False

    def to_json(self) -> dict[str, object]:
        return {
            "number": self.number,
            "service": self.service,
            "operation": self.operation,
            "method": self.method,
            "target": self.target,
            "headers": [[name, value] for name, value in self.headers.items()],
            "peer": self.peer,
            "account": self.account,
            "task_id": self.task_id,
            "body": _shown(self.body),
            "body_size": self.body_size,
            "uploads": [upload.to_json() for upload in self.uploads],
            "faults": list(self.faults),
            "status": self.status,
            "bytes_sent": self.bytes_sent,
            "stalled": self.stalled,
            "aborted": self.aborted,
            "cut": self.cut,
            "done": self.done,
        }


def _shown(value: object) -> object:
    """A body as JSON, its files as their descriptions."""
    if isinstance(value, Upload):
        return value.to_json()
    if isinstance(value, dict):
        return {str(name): _shown(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shown(item) for item in value]
    return value


class Log:
    """The last 20 000 requests, oldest first."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=_KEPT)
        self._number = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def open(
        self, service: str, operation: str, method: str, target: str, headers: CIMultiDict[str]
    ) -> Entry:
        self._number += 1
        entry = Entry(self._number, service, operation, method, target, headers)
        self.entries.append(entry)
        self.changed()
        return entry

    def close(self, entry: Entry) -> None:
        entry.done = True
        self.changed()

    def changed(self) -> None:
        """Wakes everyone in `wait_for`: some entry is new, moved on, or done."""
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def select(self, service: str | None = None, operation: str | None = None) -> list[Entry]:
        return [
            entry
            for entry in self.entries
            if service in (None, entry.service) and operation in (None, entry.operation)
        ]

    async def wait_for(
        self, predicate: Callable[[Entry], bool], *, count: int = 1, timeout_s: float = 10.0
    ) -> Entry:
        """The `count`-th entry the predicate holds for, past ones included.

        Raises TimeoutError, with the end of the log as its message.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    matching = [entry for entry in self.entries if predicate(entry)]
                    if len(matching) >= count:
                        return matching[count - 1]
                    waiter: asyncio.Future[None] = loop.create_future()
                    self._waiting.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiting.discard(waiter)
        except TimeoutError:
            lines = [
                f"{e.number} {e.service} {e.operation} {e.method} {e.target} -> {e.status}"
                f" sent={e.bytes_sent} stalled={e.stalled} aborted={e.aborted} done={e.done}"
                for e in list(self.entries)[-20:]
            ]
            raise TimeoutError("\n".join(["nothing matched; the log ends:", *lines])) from None

    def clear(self) -> None:
        self.entries.clear()
