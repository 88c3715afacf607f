"""A worker in a process of its own, beside a house: on its store, in front of its upstreams."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import proxy
from tests.rig.eventually import eventually
from tests.rig.house import House

READ_BYTES = 1 << 20
SERVING = b'"serving"'
ROOT = Path(proxy.__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Worker:
    url: str
    pid: int

    def memory(self, field: str) -> int:
        """Bytes: `VmRSS` now, `VmHWM` at its highest since `forget_peak`."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"the process is gone, or has no {field}")

    def forget_peak(self) -> None:
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@asynccontextmanager
async def worker(
    house: House, folder: Path, *, limits: str = "", timeouts: str = "", loop: str = "uvloop"
) -> AsyncIterator[Worker]:
    """`limits` and `timeouts` are further lines of those sections."""
    text = house.config_path.read_text()
    own = urlsplit(house.url).netloc
    state = house.server.config.server.state_dir
    text = text.replace(f'listen = "{own}"', 'listen = "127.0.0.1:0"')
    text = text.replace(f'"{state}"', f'"{folder / "worker"}"')
    text = text.replace("[limits]", f"[limits]\n{limits}", 1)
    text = text.replace("[timeouts]", f"[timeouts]\n{timeouts}", 1)
    path = folder / "worker.toml"
    path.write_text(text)
    log = folder / "worker.log"  # no pipe: nobody reads it, and the worker would stand at it
    with log.open("wb") as log_file:
        process = subprocess.Popen(  # noqa: ASYNC220  # it returns at once
            [sys.executable, "-m", "proxy", "serve", "--config", str(path)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "REELWAY_LOOP": loop},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log_file,
        )
    try:
        await eventually(lambda: SERVING in log.read_bytes() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        [serving] = [line for line in log.read_bytes().splitlines() if SERVING in line]
        yield Worker(json.loads(serving)["url"], process.pid)
    finally:
        process.kill()
        process.wait()


def drain_away(url: str, path: str, token: str) -> int:
    """Download and throw away, in the calling thread; returns the bytes of the body."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as sock:
        request = f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        sock.sendall(f"{request}Authorization: Bearer {token}\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        assert head.startswith(b"HTTP/1.1 200"), head
        total = len(head.partition(b"\r\n\r\n")[2])
        buffer = bytearray(READ_BYTES)
        while size := sock.recv_into(buffer, READ_BYTES, socket.MSG_TRUNC):  # copies nothing
            total += size
        return total
