"""One JSON line per event, on standard error, through structlog and orjson."""

from __future__ import annotations

import logging
import sys
from typing import Any, TextIO

import orjson
import structlog


def _dumps(value: Any, **_options: Any) -> str:  # structlog's serializer protocol is untyped
    return orjson.dumps(value, default=str).decode()


def make_logger(file: TextIO | None = None) -> structlog.stdlib.BoundLogger:
    """Lines go to `file`, else to standard error."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(file or sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(serializer=_dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
    )
    return logger
