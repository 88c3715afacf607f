"""The channel between the supervisor and one of its workers: questions and answers, both ways.

A frame is four bytes of length, big-endian, and a JSON document: `{"ask": word, "id": n}`, or
`{"id": n, "said": value}`, or `{"id": n, "failed": text}`.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import orjson

Answers = Mapping[str, Callable[[Any], Awaitable[Any]]]
MAX_FRAME: Final = 64 * 1024 * 1024


class ChannelClosed(Exception):
    """The other end is gone, did not answer in time, or failed to answer."""


class ControlChannel:
    """One end. `run` passes each question to the entry of `answers` named by it, until the other
    end is gone."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: Answers
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._answers = answers
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._next = 0
        self._jobs: set[asyncio.Task[None]] = set()
        self._is_cut = False

    @classmethod
    async def open(cls, sock: socket.socket, answers: Answers) -> ControlChannel:
        reader, writer = await asyncio.open_connection(sock=sock)
        return cls(reader, writer, answers)

    async def ask(self, word: str, value: Any = None, seconds: float = 5.0) -> Any:
        """Ask the other end and return its answer. Raises ChannelClosed."""
        if self._is_cut:
            raise ChannelClosed("the other process is gone")
        self._next += 1
        number = self._next
        answer = self._pending[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._send({"ask": word, "id": number, "value": value})
                return await answer
        except (TimeoutError, OSError, RuntimeError) as error:  # uvloop's for a closed one
            raise ChannelClosed(f"no answer to '{word}' within {seconds:g} s") from error
        finally:
            del self._pending[number]

    async def run(self) -> None:
        """Returns when the other end is gone."""
        try:
            with suppress(asyncio.IncompleteReadError, OSError):
                while True:
                    size = int.from_bytes(await self._reader.readexactly(4), "big")
                    if size > MAX_FRAME:
                        return
                    self._take(orjson.loads(await self._reader.readexactly(size)))
        finally:
            self._is_cut = True
            for answer in self._pending.values():
                if not answer.done():
                    answer.set_exception(ChannelClosed("the other process is gone"))
            for job in self._jobs:
                job.cancel()
            self._writer.close()

    def _take(self, frame: dict[str, Any]) -> None:
        if "ask" in frame:
            job = asyncio.create_task(self._answer(frame))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
            return
        answer = self._pending.get(frame["id"])
        if answer is None or answer.done():
            return  # it came too late
        if "failed" in frame:
            answer.set_exception(ChannelClosed(frame["failed"]))
        else:
            answer.set_result(frame["said"])

    async def _answer(self, frame: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"id": frame["id"]}
        try:
            reply["said"] = await self._answers[frame["ask"]](frame.get("value"))
        except Exception as error:  # noqa: BLE001 -- the other end is told
            reply["failed"] = f"{type(error).__name__}: {error}"
        with suppress(OSError, RuntimeError):
            await self._send(reply)

    async def _send(self, frame: dict[str, Any]) -> None:
        body = orjson.dumps(frame)
        self._writer.write(len(body).to_bytes(4, "big") + body)
        await self._writer.drain()
