"""A client key that attacks: `python -m tests.soak.attacker URL TOKEN SECONDS`.

A process of its own, for its work must not delay the polls that the test measures. Each wave is
one kind of attack; a wave waits `PAUSE_S` between its requests, and has one request under way at
a time. At the end it prints how many answers of each kind there were, as JSON.
"""

from __future__ import annotations

import asyncio
import io
import json
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from urllib.parse import urlsplit

from aiohttp import ClientError, ClientSession, ClientTimeout

PAUSE_S = 0.25
MIB = 1024 * 1024
START = b'{"model":"sora-2","prompt":"x","seconds":"4",'
FREE: list[dict[str, object]] = [
    {"seconds": "12", "num_frames": 1e-9},
    {"seconds": "4", "metadata[seconds]": "12"},
    {"seconds": "4", "Seconds": "12", "N": 4},
    {"seconds": "3600"},
    {"seconds": "4", "size": "99999x99999"},
    {"prompt": "forbidden-prompt"},
    {"input_reference": {"image_url": "http://169.254.169.254/latest"}},
    {"k" * 250 + str(number): number for number in range(60)},
]

Said = Counter[str]


def costly_bodies() -> list[bytes]:
    """Small or middling bodies that once cost gigabytes or seconds."""
    return [
        START + b'"' + b"k" * 4000 + b'":[' + b"0," * 100_000 + b"0]}",
        START + b'"k":[' + b"[]," * MIB + b"[]]}",
        START + b'"k":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        START + b'"k":' + b"9" * MIB + b"}",
    ]


class Attacker:
    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.bearer = {"Authorization": f"Bearer {token}"}
        self.said: Said = Counter()
        self.session = ClientSession(timeout=ClientTimeout(total=20))

    async def run(self, for_s: float) -> None:
        waves = (
            self.costly,
            self.free,
            self.cancelled,
            self.half_sent,
            self.unread,
            self.malformed,
        )
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s), asyncio.TaskGroup() as group:
                for wave in waves:
                    group.create_task(self.again_and_again(wave))
        await self.session.close()

    async def again_and_again(self, wave: Callable[[int], Awaitable[None]]) -> None:
        turn = 0
        while True:
            with suppress(ClientError, OSError, TimeoutError):
                await wave(turn)
            turn += 1
            await asyncio.sleep(PAUSE_S)

    async def post(self, body: bytes) -> tuple[int, bytes]:
        headers = {**self.bearer, "Content-Type": "application/json"}
        url = self.url + "/v1/videos"
        async with self.session.post(url, data=io.BytesIO(body), headers=headers) as reply:
            self.said[str(reply.status)] += 1
            return reply.status, await reply.read()

    async def costly(self, turn: int) -> None:
        bodies = costly_bodies()
        await self.post(bodies[turn % len(bodies)])

    async def free(self, turn: int) -> None:
        fields = {"model": "sora-2", "prompt": secrets.token_hex(4), **FREE[turn % len(FREE)]}
        await self.post(json.dumps(fields).encode())

    async def cancelled(self, _turn: int) -> None:
        """Submit, let it render, delete: a refund for a render that goes on."""
        body = {"model": "sora-2", "prompt": secrets.token_hex(4)}
        status, answer = await self.post(json.dumps(body).encode())
        if status == 200:
            video = json.loads(answer)["id"]
            await asyncio.sleep(PAUSE_S)
            url = f"{self.url}/v1/videos/{video}"
            async with self.session.delete(url, headers=self.bearer) as reply:
                self.said[f"delete {reply.status}"] += 1

    async def half_sent(self, _turn: int) -> None:
        """Eight bodies of 8 MiB, all sent but for their end."""
        length = 8 * MIB
        head = f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
        await asyncio.gather(*(self.left_open("POST", head, length - 64) for _ in range(8)))

    async def unread(self, _turn: int) -> None:
        """Sixteen request heads that never end."""
        await asyncio.gather(*(self.left_open("GET", "X-Drip: ", 0) for _ in range(16)))

    async def left_open(self, method: str, lines: str, size: int) -> None:
        parts = urlsplit(self.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            head = f"{method} /v1/videos HTTP/1.1\r\nHost: x\r\n"
            head += f"Authorization: {self.bearer['Authorization']}\r\n{lines}"
            writer.write(head.encode() + (b"\r\n" if size else b""))
            for _ in range(size // 65536):
                writer.write(b" " * 65536)
                await writer.drain()
            with suppress(TimeoutError):
                async with asyncio.timeout(2):
                    line = await reader.readline()
                    self.said[f"left open {line[9:12].decode(errors='replace')}"] += 1
        finally:
            writer.transport.abort()

    async def malformed(self, turn: int) -> None:
        lines = (
            "Transfer-Encoding: gzip, chunked",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "X: " + "a" * 100_000,
        )
        await self.left_open("POST", lines[turn % len(lines)] + "\r\n\r\n", 0)


async def main(url: str, token: str, for_s: float) -> None:
    attacker = Attacker(url, token)
    await attacker.run(for_s)
    print(json.dumps(attacker.said))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
