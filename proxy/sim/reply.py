"""What a service answers, before any fault spoils it on the way."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.sim.pattern import Clip

Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """Either `body`, or the window `start`, `length` of a clip."""

    status: int
    headers: Headers = ()
    body: bytes = b""
    clip: Clip | None = None
    start: int = 0
    length: int = 0

    @property
    def size(self) -> int:
        return len(self.body) if self.clip is None else self.length

    def read(self, position: int, length: int) -> memoryview:
        if self.clip is None:
            return memoryview(self.body)[position : position + length]
        return self.clip.read(self.start + position, min(length, self.length - position))


class Refusal(Exception):
    """Ends a handler with this reply; raised inside `proxy.sim` only."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def json_reply(status: int, value: object, headers: Sequence[tuple[str, str]] = ()) -> Reply:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return Reply(status, (("Content-Type", "application/json"), *headers), body)
