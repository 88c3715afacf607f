"""The log is one JSON document a line, whoever speaks."""

from __future__ import annotations

import io
import json
import logging
import os
from pathlib import Path

import pytest

from proxy.config import Config, load
from proxy.providers import PROVIDERS
from proxy.telemetry.logs import PIECE_BYTES, Sink, capture, make_logger, sink_of, tune

CONFIG = """
[server]
secrets = ["0123456789abcdef0123456789abcdef"]
[admin]
token = "admin-token-1"
[redis]
url = "redis://:redis%40word@db:6379"
[logs]
{logs}
[[upstreams]]
name = "up"
provider = "openai"
base_url = "https://up.example/v1"
headers = {{ "X-Extra" = "extra-header-1" }}
credentials = [{{ name = "a", api_key = "upstream-key-1" }}]
"""
OWN = (
    "0123456789abcdef0123456789abcdef",
    "admin-token-1",
    "redis%40word",
    "redis@word",
    "extra-header-1",
    "upstream-key-1",
)


def config_of(folder: Path, logs: str = "") -> Config:
    path = folder / "config.toml"
    path.write_text(CONFIG.format(logs=logs))
    return load(path, {}, PROVIDERS)


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


def test_the_configuration_s_own_secrets_never_get_into_a_line(tmp_path: Path) -> None:
    """Wherever they stand: in a value, deeper, in an exception and in what a library says."""
    file = io.StringIO()
    log = make_logger(file)
    tune(log, config_of(tmp_path))
    root = logging.getLogger()
    before = list(root.handlers)
    capture(log)
    try:
        for secret in OWN:
            said = f"said {secret}"
            log.warning(said, why=secret, deep={"a": [secret]}, what=ValueError(secret))
            try:
                raise ConnectionError(f"cannot reach {secret}")
            except ConnectionError:
                log.exception("failed")
                logging.getLogger("some.library").exception("failed with %s", secret)
    finally:
        root.handlers = before
    assert len(file.getvalue().splitlines()) == 3 * len(OWN)
    for secret in OWN:
        assert secret not in file.getvalue()


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("info", ["info", "warning", "error", "error", "request"]),
        ("warning", ["warning", "error", "error"]),
        ("error", ["error", "error"]),
    ],
)
async def test_the_level_says_what_is_heard(tmp_path: Path, level: str, heard: list[str]) -> None:
    file = io.StringIO()
    log = make_logger(file)
    tune(log, config_of(tmp_path, f'level = "{level}"'))
    log.debug("chatter")
    log.info("info")
    log.warning("warning")
    log.error("error")
    try:
        raise ValueError
    except ValueError:
        log.exception("error")
    sink_of(log).access({"event": "request"})
    sink_of(log).flush()
    assert [json.loads(line)["event"] for line in file.getvalue().splitlines()] == heard


def test_prompts_are_logged_only_where_the_configuration_says_so(tmp_path: Path) -> None:
    for wanted in (False, True):
        file = io.StringIO()
        log = make_logger(file)
        tune(log, config_of(tmp_path, f"prompts = {str(wanted).lower()}"))
        log.warning("refused", prompt="a red cat", message="no 'a red cat' here")
        assert ("red cat" in file.getvalue()) is wanted


def test_a_line_that_is_no_text_is_written_all_the_same() -> None:
    file = io.StringIO()
    make_logger(file).info("said \udcff", what="\udcfe")
    line = json.loads(file.getvalue())
    assert (line["event"], line["what"]) == ("said \\xff", "\\xfe")


async def test_a_pipe_is_handed_whole_lines() -> None:
    """Workers share one to whoever collects the log: a write it cannot take at once may be mixed
    with another's."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as out, os.fdopen(writer, "w") as file:
        sink = Sink(file)
        text = "x" * 900
        for n in range(30):
            sink.access({"n": n, "text": text})
        sink.msg(json.dumps({"n": 30, "text": "y" * 3 * PIECE_BYTES}).encode() + b"\n")
        for n in range(31, 33):
            sink.access({"n": n, "text": text})
        sink.flush()
        file.close()
        data = out.readall()
    assert [json.loads(line)["n"] for line in data.splitlines()] == list(range(33))


def test_pieces_are_whole_lines_and_as_large_as_a_pipe_takes() -> None:
    class Binary(io.BytesIO):
        def __init__(self) -> None:
            super().__init__()
            self.writes: list[bytes] = []

        def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # all we use
            self.writes.append(bytes(data))
            return len(data)

    binary = Binary()
    sink = Sink(io.TextIOWrapper(binary))
    lines = [b"a" * n + b"\n" for n in (10, 4000, 80, 5, 9000, 1, 4095, 1)]
    sink._buffer += b"".join(lines)
    sink.flush()
    assert b"".join(binary.writes) == b"".join(lines)
    assert all(piece.endswith(b"\n") for piece in binary.writes)
    assert [len(piece) for piece in binary.writes] == [4093, 6, 9001, 2, 4096, 2]
