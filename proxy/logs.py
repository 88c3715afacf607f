"""One JSON line per event, on standard error, through structlog and orjson."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import orjson
import structlog

WAIT_S: Final = 0.1
WAIT_CHARS: Final = 65_536


class Sink:
    """Where lines go. Access lines come by the thousand and wait a moment for each other; any
    other line goes out at once, behind those that wait."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lines: list[str] = []
        self._chars = 0
        self._timer: asyncio.TimerHandle | None = None

    def msg(self, line: str) -> None:
        self._lines.append(line)
        self.flush()

    # structlog calls the method that has the level's name.
    debug = info = warning = error = critical = msg

    def access(self, facts: Mapping[str, object]) -> None:
        """One request, in the form all events have; on the event loop only. It goes past
        structlog, which costs more than the rest of a status poll's own work."""
        ts = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = _dumps({**facts, "event": "request", "level": "info", "ts": ts})
        self._lines.append(line)
        self._chars += len(line)
        if self._chars >= WAIT_CHARS:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_S, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines, self._chars = self._lines, [], 0
        if lines:
            self._file.write("\n".join([*lines, ""]))
            self._file.flush()


def sink_of(log: structlog.stdlib.BoundLogger) -> Sink:
    """The sink of a logger that `make_logger` made."""
    sink = log._logger
    assert isinstance(sink, Sink)
    return sink


def _dumps(value: Any, **_options: Any) -> str:  # structlog's serializer protocol is untyped
    return orjson.dumps(value, default=str).decode()


def make_logger(file: TextIO | None = None) -> structlog.stdlib.BoundLogger:
    """Lines go to `file`, else to standard error."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        Sink(file or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    return logger


class _Captured(logging.Handler):
    def __init__(self, log: structlog.stdlib.BoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._to = log

    def emit(self, record: logging.LogRecord) -> None:
        self._to.log(
            record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info
        )


def capture(log: structlog.stdlib.BoundLogger) -> None:
    """What libraries say through `logging` becomes lines of ours. For a whole program: commands
    call it, tests and the server do not."""
    logging.getLogger().addHandler(_Captured(log))
