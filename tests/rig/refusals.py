"""What the tests of the front door share: the four doors, raw connections, and what every
refusal looks like."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from multidict import CIMultiDict

from proxy.model import DialectName
from tests.rig.house import House

WAIT_S = 20.0  # only a hang gets here
SERVICES = ("openai", "kling", "jimeng", "cdn")
JSON = {"Content-Type": "application/json"}
JIMENG = "Version=2022-08-31"


@dataclass(frozen=True)
class Door:
    """Where a dialect's clients submit, what they call a model, and which one they get."""

    dialect: DialectName
    submit: str
    model_field: str
    model: str
    service: str

    def body(self, **fields: object) -> dict[str, object]:
        return {self.model_field: self.model, "prompt": "a cat", **fields}


DOORS: Mapping[DialectName, Door] = {
    "openai": Door("openai", "/v1/videos", "model", "sora-2", "openai"),
    "generic": Door("generic", "/v1/video/generations", "model", "sora-2", "openai"),
    "kling": Door("kling", "/kling/v1/videos/text2video", "model_name", "kling-v2-6", "kling"),
    "jimeng": Door(
        "jimeng",
        f"/jimeng/?Action=CVSync2AsyncSubmitTask&{JIMENG}",
        "req_key",
        "jimeng_t2v_v30",
        "jimeng",
    ),
}


def error_of(dialect: DialectName, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The `error` of a refusal, after a look at the whole body: the dialect's own shape, no more
    and no less, and nothing of our inside."""
    request_id = headers["X-Request-Id"]
    assert re.fullmatch(r"req_[0-9a-f]{24}", request_id), request_id
    assert headers["Content-Type"] == "application/json"
    for secret in (b"Traceback", b"sk-sim", b"AKSIM", b"AKLT", b"/proxy/", b".py"):
        assert secret not in body, body
    said: dict[str, Any] = json.loads(body)
    error: dict[str, Any] = said["error"]
    assert error.keys() == {"message", "type", "param", "code"}, said
    assert isinstance(error["code"], str)
    assert error["message"]
    if dialect == "openai":
        if said.keys() != {"error"}:  # of no dialect, told to every SDK
            assert said.keys() == {"error", "code", "message", "detail"}
            assert (said["code"], said["message"]) == (error["code"], error["message"])
            assert said["detail"] == error["message"]
    elif dialect == "generic":
        assert said.keys() - {"detail"} == {"error", "code", "message", "data"}
        assert said.get("detail", error["message"]) == error["message"]
        assert (said["code"], said["data"]) == (error["code"], None)
    elif dialect == "kling":
        assert said.keys() == {"error", "code", "message", "request_id"}
        assert isinstance(said["code"], int)
        assert 1000 <= said["code"] <= 5002
    else:
        allowed = {"code", "data", "message", "request_id", "status", "time_elapsed", "error"}
        assert said.keys() == allowed | {"ResponseMetadata", "Result"}
        assert said["Result"] is None
        assert said["ResponseMetadata"]["Error"]["CodeN"] == said["code"]
        assert (said["data"], said["status"]) == (None, said["code"])
        assert said["code"] != 10000
    if dialect in ("kling", "jimeng"):
        assert said["request_id"] == request_id
    if dialect != "openai":
        assert said["message"] == error["message"]
    return error


async def assert_untouched(house: House) -> None:
    """No upstream heard of anything, no task is open, no upload is held."""
    assert [entry.target for entry in house.sim.log.entries] == []
    assert await house.server.store.tasks.open_count() == 0
    assert house.server.parts.spool.held_bytes == 0


def log_of(house: House) -> list[dict[str, Any]]:
    path = house.config_path.parent / "gateway.log"
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_quiet(folder: Path) -> None:
    """Nothing in the log says that we failed: no error, no traceback."""
    path = folder / "gateway.log"
    if not path.exists():
        return
    for text in path.read_text().splitlines():
        assert "Traceback" not in text, text
        assert json.loads(text)["level"] not in ("error", "critical"), text


async def until_logged(house: House, event: str, why: str = "", **more: object) -> dict[str, Any]:
    """The first log line of this event, reason and values, waited for: some things are told
    nowhere else."""
    wanted = {"event": event, **more}
    async with asyncio.timeout(WAIT_S):
        while True:
            for line in log_of(house):
                if wanted.items() <= line.items() and why in line.get("why", ""):
                    return line
            await asyncio.sleep(0.01)


async def store_pid(house: House) -> int:
    """The process of this house's own Valkey."""
    info = await house.server.store.batch.call("INFO", "server")
    assert isinstance(info, dict)
    return int(str(info["process_id"]))


# ---------------------------------------------------------------- raw connections


@dataclass(frozen=True)
class Raw:
    status: int
    headers: CIMultiDict[str]
    body: bytes


class Peer:
    """A client that says literal bytes and sees literal bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)

    async def head(self) -> tuple[int, CIMultiDict[str]]:
        async with asyncio.timeout(WAIT_S):
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("utf-8", "surrogateescape")
        first, *lines = text.split("\r\n")
        pairs = [line.split(": ", 1) for line in lines if line]
        return int(first.split(" ")[1]), CIMultiDict((name, value) for name, value in pairs)

    async def answer(self, *, has_body: bool = True) -> Raw:
        """One reply, by its Content-Length."""
        status, headers = await self.head()
        length = int(headers.get("Content-Length", "0")) if has_body else 0
        async with asyncio.timeout(WAIT_S):
            return Raw(status, headers, await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """Everything until the other side closes; a reset counts as closed."""
        got = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(WAIT_S):
                while chunk := await self.reader.read(65536):
                    got += chunk
        return got

    def leave(self) -> None:
        self.writer.close()


@asynccontextmanager
async def peer_of(house: House) -> AsyncIterator[Peer]:
    where = urlsplit(house.url)
    peer = Peer(*await asyncio.open_connection(where.hostname, where.port))
    try:
        yield peer
    finally:
        peer.leave()
        with suppress(ConnectionError):
            await peer.writer.wait_closed()


def head_of(method: str, target: str, **headers: str) -> str:
    """A request's head; `_` in a name stands for `-`."""
    lines = [f"{method} {target} HTTP/1.1", "Host: reelway"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines) + "\r\n\r\n"
