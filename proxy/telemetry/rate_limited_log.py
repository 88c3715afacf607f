"""A log for troubles that repeat: the first line at once, then one line per `EVERY_S`.

Each later line has `count`, the number of equal troubles since the line before. Without this a
store that is down writes a line per worker part and tick, hundreds a minute, and hides the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

import structlog

from proxy.caches import BoundedDict

EVERY_S: Final = 30.0
_STORE_DOWN: Final = "store unreachable"
MOST_KINDS: Final = 256  # remembered at a time; the one that was quiet for longest is forgotten

Level = Literal["info", "warning", "error"]


@dataclass(slots=True)
class _Trouble:
    began_s: float
    logged_s: float | None = None
    held_back: int = 0


class RateLimitedLog:
    """Log each kind of trouble at most once per `EVERY_S`.

    A kind is an event and what the trouble is `about`, an upstream's name for example. `clock`
    gives seconds that never go back.
    """

    def __init__(
        self, log: structlog.stdlib.BoundLogger, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._clock = clock
        self._troubles: BoundedDict[tuple[str, str], _Trouble] = BoundedDict(MOST_KINDS)

    def info(self, event: str, *, about: str = "", **facts: object) -> None:
        self._write("info", event, about, facts)

    def warning(self, event: str, *, about: str = "", **facts: object) -> None:
        self._write("warning", event, about, facts)

    def error(self, event: str, *, about: str = "", **facts: object) -> None:
        self._write("error", event, about, facts)

    def exception(self, event: str, *, about: str = "", **facts: object) -> None:
        """An error line with the traceback of the exception being handled."""
        self._write("error", event, about, {**facts, "exc_info": True})

    def ended(self, event: str, said: str, *, about: str = "", **facts: object) -> None:
        """Log `said` once if this trouble was logged: it is over. Else do nothing."""
        trouble = self._troubles.pop((event, about), None)
        if trouble is None:
            return
        seconds = round(self._clock() - trouble.began_s, 1)
        self._log.info(said, **facts, **_count(trouble.held_back), seconds=seconds)

    def store_unreachable(self, part: str, fault: BaseException) -> None:
        """A part of the worker (`tracker`, `queue`, `webhooks`) got no answer from the store."""
        self.warning(_STORE_DOWN, about=part, part=part, why=str(fault))

    def store_reachable(self, part: str) -> None:
        """The part got an answer: say so once, if the store was unreachable before."""
        self.ended(_STORE_DOWN, "store reachable again", about=part, part=part)

    def _write(self, level: Level, event: str, about: str, facts: dict[str, object]) -> None:
        now_s = self._clock()
        trouble = self._troubles.get((event, about))
        if trouble is None:
            trouble = self._troubles[event, about] = _Trouble(now_s)
        self._troubles.move_to_end((event, about))
        if trouble.logged_s is not None and now_s - trouble.logged_s < EVERY_S:
            trouble.held_back += 1
            return
        write = getattr(self._log, level)
        write(event, **facts, **_count(trouble.held_back))
        trouble.logged_s, trouble.held_back = now_s, 0


def _count(held_back: int) -> dict[str, object]:
    return {"count": held_back} if held_back else {}
