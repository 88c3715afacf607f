"""One request of a client, and what its phases have found out about it.

Rule: each field of an `Exchange` is filled by one phase and only read by later ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from multidict import CIMultiDictProxy

from proxy.model import Call, Principal, Task


class Head(NamedTuple):
    """The head of a client's request. `written` is the path as the client wrote it, which is what a
    signature covers; `path` its one normalised spelling, still encoded.

    `host` and `prefix` are what the client put into its URL before a trusted proxy changed it:
    a host that stands for the Host header, and a path that `written` goes on from.
    """

    method: str
    written: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: CIMultiDictProxy[str]
    peer: str
    host: str | None = None
    prefix: str = ""


@dataclass(slots=True)
class Exchange:
    """One request of a client, from its head to its last byte. See `gateway` for the phases."""

    id: str
    head: Head
    started_ns: int
    call: Call | None = None
    principal: Principal | None = None
    task_id: str | None = None
    route: str | None = None
    upstream: str | None = None
    credential: str | None = None
    status: int = 0
    reason: str = ""  # why it ended: `done`, `client_gone`, an error code, …
    tier: str = ""  # which relay tier moved the body
    bytes_out: int = 0
    first_byte_ns: int | None = None
    # Headers of its reply beside the operation's own.
    reply_headers: dict[str, str] = field(default_factory=dict)
    limit: str | None = None  # which of our limits refused it
    refused: tuple[str, str | None] | None = None  # why it was not let in, and whose key it was
    prompt: str | None = None  # only where [logs] prompts wants it in the log
    task: Task | None = None  # the one it is about, as it was found
    release: Callable[[], None] | None = None  # gives back what was read before it was let in
    # How long its phases took, 0 for one that did not happen: from the head until it was let in,
    # reading its body, waiting for upstreams, waiting for a change as it had asked us to.
    auth_ns: int = 0
    body_ns: int = 0
    upstream_ns: int = 0
    waited_ns: int = 0

    def log_ids(self) -> dict[str, str]:
        """How log lines name this request, and its task if it has one."""
        ids = {"request_id": self.id}
        return {**ids, "task_id": self.task_id} if self.task_id else ids
