"""An upstream that answers with informational answers and never with a final one.

Run by `make soak`; the figures it prints are the ones in docs/threat-model.md. Four downloads of
one key meet it at once, again and again, while another key polls.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from statistics import median

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout

from proxy.server.embedded_store import Embedded
from proxy.store import Store
from proxy.tokens import NewToken, create_token
from tests.rig.site import SECRET, Worker
from tests.rig.valkey import bundled_server
from tests.soak.test_bodies import CONFIG, Watched, resident_mib

FOR_S = 20.0
MOST_WAIT_S = 2.0  # of a busy machine
MOST_GROWTH_MIB = 100.0
FLOOD = b"HTTP/1.1 100 Continue\r\n\r\n" * 4000


class Flooder:
    """Takes a submit, says that it is done, and floods whoever asks for the file."""

    def __init__(self) -> None:
        self.port = 0
        self.floods = 0

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
            if b"/content" in head.split(b"\r\n", 1)[0]:
                self.floods += 1
                while True:
                    writer.write(FLOOD)
                    await writer.drain()
            state = "queued" if head.startswith(b"POST") else "completed"
            body = json.dumps(
                {"id": "video_up", "object": "video", "status": state, "model": "m", "seconds": "4"}
            ).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
            )
            await writer.drain()
        writer.close()


async def download(session: ClientSession, url: str, bearer: dict[str, str]) -> None:
    while True:
        with suppress(ClientError, TimeoutError):
            async with session.get(url, headers=bearer) as reply:
                await reply.read()
        await asyncio.sleep(0.01)


@pytest.mark.timeout(300)
async def test_a_flood_of_informational_answers_costs_others_nothing(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        flooder = Flooder()
        await stack.enter_async_context(flooder.listening())
        valkey = await Embedded.start(tmp_path / "valkey", binary=bundled_server())
        stack.push_async_callback(valkey.stop)
        store = await Store.open(valkey.url)
        stack.push_async_callback(store.close)
        config = tmp_path / "config.toml"
        config.write_text(
            CONFIG.format(folder=tmp_path, secret=SECRET, redis=valkey.url, port=flooder.port)
        )
        keys = [
            await create_token(
                store, SECRET.encode(), NewToken(name), secrets.token_bytes, time.time
            )
            for name in ("evil", "good")
        ]
        evil, good = ({"Authorization": f"Bearer {key.token}"} for key in keys)
        worker = await Worker.start(config)
        stack.push_async_callback(worker.kill)
        session = await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=30)))
        body = {"model": "m", "prompt": "x", "seconds": "4"}
        async with session.post(worker.url + "/v1/videos", json=body, headers=evil) as reply:
            video = (await reply.json())["id"]
        async with asyncio.timeout(60):
            while True:
                async with session.get(f"{worker.url}/v1/videos/{video}", headers=evil) as reply:
                    if (await reply.json())["status"] == "completed":
                        break
                await asyncio.sleep(0.1)
        before_mib = resident_mib(worker.process.pid)
        watched = Watched(worker.process.pid, worker.url, good)
        jobs = [asyncio.create_task(watched.run(session))]
        jobs += [
            asyncio.create_task(download(session, f"{worker.url}/v1/videos/{video}/content", evil))
            for _ in range(4)
        ]
        await asyncio.sleep(FOR_S)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        grown_mib = watched.most_mib - before_mib
    print(
        f"\n{flooder.floods} floods in {FOR_S:g} s; {len(watched.waits_s)} polls of another key: "
    )
    print(f"median {median(watched.waits_s) * 1000:.1f} ms, longest {max(watched.waits_s):.3f} s; ")
    print(f"worker +{grown_mib:.0f} MiB")
    assert flooder.floods > 4
    assert max(watched.waits_s) <= MOST_WAIT_S
    assert grown_mib <= MOST_GROWTH_MIB
