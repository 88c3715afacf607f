"""The log is one JSON document a line, whoever speaks."""

from __future__ import annotations

import io
import json
import logging

from proxy.logs import capture, make_logger


def test_what_a_library_says_is_a_line_of_ours() -> None:
    file = io.StringIO()
    root = logging.getLogger()
    before = list(root.handlers)
    capture(make_logger(file))
    try:
        logging.getLogger("some.library").warning("lost %s", "it")
        try:
            raise ValueError("boom")
        except ValueError:
            logging.getLogger("some.library").exception("failed")
        logging.getLogger("some.library").info("chatter")
    finally:
        root.handlers = before
    first, second = [json.loads(line) for line in file.getvalue().splitlines()]
    assert (first["event"], first["level"], first["logger"]) == (
        "lost it",
        "warning",
        "some.library",
    )
    assert second["level"] == "error"
    assert "ValueError: boom" in second["exception"]
