"""Bodies made to cost far more than their bytes, beside a client that only polls.

Run by `make soak`; the table it prints is the one in docs/threat-model.md. The worker is a process
of its own, so its memory is its own; the upstream counts what arrives and renders nothing.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from proxy.server.embedded_store import Embedded
from proxy.store import Store
from proxy.tokens import NewToken, create_token
from tests.rig.site import SECRET, Worker
from tests.rig.valkey import bundled_server

MIB = 1024 * 1024
GIVE_UP_S = 30.0
MOST_WAIT_S = float(os.environ.get("REELWAY_SOAK_WAIT_S", "2.0"))
MOST_GROWTH_MIB = float(os.environ.get("REELWAY_SOAK_MIB", "400"))

CONFIG = """\
[server]
listen = "127.0.0.1:0"
state_dir = "{folder}"
secrets = ["{secret}"]
[admin]
listen = "127.0.0.1:0"
[redis]
url = "{redis}"
[[upstreams]]
name = "counter"
provider = "openai"
base_url = "http://127.0.0.1:{port}/v1"
credentials = [{{ name = "a", api_key = "sk-sim" }}]
[[routes]]
model = "m"
upstream = "counter"
"""


@dataclass
class Counter:
    """An upstream that refuses every request, and knows how many bytes came."""

    received: int = 0
    port: int = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [n for n in head.lower().split(b"\r\n") if n.startswith(b"content-length:")]
            left = int(lengths[0].split(b":")[1]) if lengths else 0
            while left > 0 and (chunk := await reader.read(1 << 20)):
                self.received += len(chunk)
                left -= len(chunk)
            body = b'{"error":{"message":"no","code":"invalid_value"}}'
            writer.write(
                b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n"
                b"Connection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await writer.drain()
        writer.close()


@dataclass
class Watched:
    """What a worker held at most, and how long another client's poll waited at most."""

    pid: int
    url: str
    bearer: dict[str, str]
    most_mib: float = 0.0
    waits_s: list[float] = field(default_factory=list)

    async def run(self, session: ClientSession) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._memory())
            group.create_task(self._polls(session))

    async def _memory(self) -> None:
        while True:
            self.most_mib = max(self.most_mib, resident_mib(self.pid))
            await asyncio.sleep(0.01)

    async def _polls(self, session: ClientSession) -> None:
        while True:
            begun = time.monotonic()
            with suppress(ClientError, TimeoutError):
                async with session.get(self.url + "/v1/videos", headers=self.bearer) as reply:
                    await reply.read()
            self.waits_s.append(time.monotonic() - begun)
            await asyncio.sleep(0.005)


def resident_mib(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MIB


def filled(head: bytes, item: bytes, size: int, tail: bytes) -> bytes:
    return head + item * ((size - len(head) - len(tail)) // len(item)) + item.rstrip(b",") + tail


def attacks() -> dict[str, bytes]:
    start = b'{"model":"m","prompt":"x","seconds":"4",'
    picture = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * (34 << 12))
    return {
        "204 KB: a name of 4,000, 100,000 times": filled(
            start + b'"' + b"k" * 4000 + b'":[', b"0,", 204_000, b"]}"
        ),
        "12 MiB of [[],[],…]": filled(start + b'"k":[', b"[],", 12 * MIB, b"]}"),
        "12 MiB of [{},{},…]": filled(start + b'"k":[', b"{},", 12 * MIB, b"]}"),
        "12 MiB of [0,0,…]": filled(start + b'"k":[', b"0,", 12 * MIB, b"]}"),
        '12 MiB of ["a","a",…]': filled(start + b'"k":[', b'"a",', 12 * MIB, b"]}"),
        "12 MiB of \\u0061": filled(start + b'"k":"', b"\\u0061", 12 * MIB, b'"}'),
        "12 MiB of blanks": filled(start, b" ", 12 * MIB, b'"k":1}'),
        "a picture: 45 MiB of data: URL": start
        + b'"input_reference":{"image_url":"data:image/png;base64,'
        + picture
        + b'"}}',
    }


@asynccontextmanager
async def half_sent(url: str, bearer: dict[str, str], count: int, size: int) -> AsyncIterator[None]:
    """So many bodies, all sent but for their last byte."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    head = (
        "POST /v1/videos HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: {bearer['Authorization']}\r\nContent-Length: {size + 1}\r\n\r\n"
    ).encode()

    block = b"a" * 65536

    async def one() -> asyncio.StreamWriter:
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(GIVE_UP_S):
                writer.write(head + b'{"k":"')
                for _ in range(size // 65536):
                    writer.write(block)
                    await writer.drain()
        return writer

    writers = await asyncio.gather(*(one() for _ in range(count)))
    try:
        await asyncio.sleep(2.0)
        yield
    finally:
        for writer in writers:
            writer.transport.abort()


@pytest.mark.timeout(600)
async def test_no_body_costs_others_their_time_or_the_worker_its_memory(tmp_path: Path) -> None:
    rows: list[tuple[str, str, float, float, float, float]] = []
    async with AsyncExitStack() as stack:
        counter = Counter()
        await stack.enter_async_context(counter.listening())
        valkey = await Embedded.start(tmp_path / "valkey", binary=bundled_server())
        stack.push_async_callback(valkey.stop)
        store = await Store.open(valkey.url)
        stack.push_async_callback(store.close)
        config = tmp_path / "config.toml"
        text = CONFIG.format(folder=tmp_path, secret=SECRET, redis=valkey.url, port=counter.port)
        config.write_text(text)
        keys = [
            await create_token(
                store, SECRET.encode(), NewToken(name), secrets.token_bytes, time.time
            )
            for name in ("evil", "good")
        ]
        evil, good = ({"Authorization": f"Bearer {key.token}"} for key in keys)
        session = await stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=GIVE_UP_S))
        )

        @asynccontextmanager
        async def watched(name: str) -> AsyncIterator[list[str]]:
            """Around one attack, on a worker that has seen none."""
            worker = await Worker.start(config)
            try:
                watch = Watched(worker.process.pid, worker.url, good)
                counter.received, idle = 0, resident_mib(worker.process.pid)
                watching = asyncio.create_task(watch.run(session))
                await asyncio.sleep(0.5)
                begun, said = time.monotonic(), [worker.url]
                yield said
                took_s = time.monotonic() - begun
                await asyncio.sleep(0.3)
                watching.cancel()
                await asyncio.wait([watching])
                growth, sent = watch.most_mib - idle, counter.received / MIB
                rows.append((name, said[1], growth, sent, took_s, max(watch.waits_s)))
            finally:
                await worker.kill()

        for name, body in attacks().items():
            async with watched(name) as said:
                try:
                    headers = {**evil, "Content-Type": "application/json"}
                    async with session.post(
                        said[0] + "/v1/videos", data=io.BytesIO(body), headers=headers
                    ) as reply:
                        said.append(f"{reply.status} {(await reply.text())[:90]}")
                except (ClientError, TimeoutError) as exc:
                    said.append(type(exc).__name__)
        async with (
            watched("20 half-sent bodies of 40 MiB") as said,
            half_sent(said[0], evil, 20, 40 * MIB),
        ):
            said.append("")

    print("\n| body | grows by | sent upstream | took | worst wait of another's poll |")
    for name, answer, growth, sent, took_s, wait_s in rows:
        print(f"| {name} | {growth:.0f} MiB | {sent:.1f} MiB | {took_s:.1f} s | {wait_s:.2f} s |")
        print(f"    {answer}")
    for name, _, growth, sent, _, wait_s in rows:
        assert growth <= MOST_GROWTH_MIB, name
        assert sent <= 64, name
        assert wait_s <= MOST_WAIT_S, name
