"""One JSON line per event, on standard error, through structlog and orjson.

Rule: every line passes `Redactor` on its way out: lines of ours, of libraries, and the exceptions
of both. The path is the only text in an access line that a client chose.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any, Final, TextIO

import orjson
import structlog

from proxy.config import Config
from proxy.telemetry.redaction import Redactor

WAIT_S: Final = 0.1
WAIT_BYTES: Final = 65_536
# What a pipe takes in one piece (PIPE_BUF): workers share the one to whoever collects the log.
PIECE_BYTES: Final = 4096
_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


class Sink:
    """The output of the log. Access lines are buffered for `WAIT_S`; any other line is written at
    once, after the buffered ones."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._stamp = _Stamp()
        self.level = logging.INFO
        self.redactor = Redactor()

    def msg(self, line: bytes) -> None:
        self._buffer += line
        self.flush()

    # structlog calls the method that has the level's name.
    debug = info = warning = error = critical = msg

    def now(self) -> str:
        return self._stamp.text(time.time_ns())

    def access(self, line: Mapping[str, object]) -> None:
        """Write the line of one request; it has `event`, `level` and `ts` already. Call it on the
        event loop only. It bypasses structlog, which costs more than all else in a status poll."""
        if self.level > logging.INFO:
            return
        try:
            self._buffer += orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:  # bytes in the path that are no UTF-8
            self._buffer += _dumps({k: _printable(v) for k, v in line.items()})
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAIT_S, self.flush)
        elif len(self._buffer) >= WAIT_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self._buffer:
            return
        held, self._buffer = self._buffer, bytearray()
        binary = getattr(self._file, "buffer", None)
        if binary is None:  # a file of text alone, as tests have
            self._file.write(held.decode())
            self._file.flush()
            return
        for piece in _pieces(held):
            binary.write(piece)
            binary.flush()


class _Stamp:
    """The time as ISO 8601 in UTC, to the millisecond; formatted once a second for speed."""

    def __init__(self) -> None:
        self._ms = self._second = -1
        self._head = self._text = ""

    def text(self, now_ns: int) -> str:
        now_ms = now_ns // 1_000_000
        if now_ms != self._ms:
            second, ms = divmod(now_ms, 1000)
            if second != self._second:
                self._second = second
                self._head = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._ms, self._text = now_ms, f"{self._head}{ms:03d}Z"
        return self._text


def _pieces(held: bytearray) -> Iterator[memoryview]:
    """Cut into whole lines, as many per piece as a pipe takes at once; a longer line goes alone."""
    view, start = memoryview(held), 0
    while start < len(held):
        end = held.rfind(b"\n", start, start + PIECE_BYTES) + 1
        if not end:
            end = held.find(b"\n", start) + 1 or len(held)
        yield view[start:end]
        start = end


def sink_of(log: structlog.stdlib.BoundLogger) -> Sink:
    """The sink of a logger made by `make_logger`."""
    sink = log._logger
    assert isinstance(sink, Sink)
    return sink


def tune(log: structlog.stdlib.BoundLogger, config: Config) -> None:
    """Apply `[logs]`, and redact every secret of the configuration."""
    sink = sink_of(log)
    sink.level = _LEVELS[config.logs.level]
    sink.redactor = Redactor(config.secrets(), prompts=config.logs.prompts)


def _printable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return value


def _dumps(value: object) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_APPEND_NEWLINE)


def make_logger(file: TextIO | None = None) -> structlog.stdlib.BoundLogger:
    """Make a logger that writes to `file`, else to standard error."""
    sink = Sink(file or sys.stderr)

    def filtered(_sink: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        if _LEVELS.get(method, logging.ERROR) < sink.level:
            raise structlog.DropEvent
        return event

    def redacted(_sink: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        return sink.redactor.event(event)

    def rendered(_sink: Any, _method: str, event: MutableMapping[str, Any]) -> Any:
        try:
            return _dumps(event)
        except TypeError:
            return _dumps({key: _printable(value) for key, value in event.items()})

    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        sink,
        processors=[
            filtered,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            redacted,
            rendered,
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
    """Send the records of Python's `logging` to this log. Only commands call it, for the whole
    program; tests and the server do not."""
    logging.getLogger().addHandler(_Captured(log))
