"""One worker of several: a `Server` without an admin port, on a socket its supervisor bound,
which answers the supervisor's questions.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import structlog
from prometheus_client import generate_latest

from proxy.config import Config, load
from proxy.providers import PROVIDERS
from proxy.server.control_channel import Line, LineCut
from proxy.server.worker import Server

ORDER: Final = "REELWAY_WORKER"


@dataclass(frozen=True, slots=True)
class Order:
    """What a supervisor tells its worker before it starts: two descriptors, where the store is,
    and the configuration in force, whatever its file has become since."""

    front: int
    control: int
    store: str
    path: str | None
    text: str

    def written(self) -> int:
        """A descriptor to read it from; an environment variable would be too small."""
        letter = os.memfd_create("order")
        os.write(letter, orjson.dumps(self))
        return letter

    def config(self) -> Config:
        path = None if self.path is None else Path(self.path)
        return load(path, os.environ, PROVIDERS, self.text)


def order_of(environ: MutableMapping[str, str]) -> Order | None:
    """The order this process was started with, taken away so that no child finds it."""
    text = environ.pop(ORDER, None)
    if text is None:
        return None
    with open(int(text), "rb") as letter:
        letter.seek(0)
        order = Order(**orjson.loads(letter.read()))
    for descriptor in (order.front, order.control):
        os.set_inheritable(descriptor, False)
    return order


async def run_worker(order: Order, log: structlog.stdlib.BoundLogger) -> None:
    """Serve until SIGTERM, which also comes when the supervisor dies."""
    config, front = order.config(), socket.socket(fileno=order.front)
    async with Server(config, log, sockets=(front, None), supervised=order.store) as server:

        async def metrics(_value: Any) -> str:
            return generate_latest(server.registry).decode()

        async def reload(_value: Any) -> bool:
            return server.reload().ok

        line = await Line.open(
            socket.socket(fileno=order.control), {"metrics": metrics, "reload": reload}
        )
        listening = asyncio.create_task(line.run(), name="the supervisor's questions")
        try:
            await line.ask("serving", server.url)
            await server.run()
            try:
                await line.ask("leaving", await metrics(None))
            except LineCut:
                log.warning("supervisor gone: the last metrics of this worker are lost")
        finally:
            listening.cancel()
            await asyncio.wait([listening])
