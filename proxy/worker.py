"""One worker of several: a `Server` without an admin port, on a socket its supervisor bound,
which answers the supervisor's questions.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
import structlog
from prometheus_client import generate_latest

from proxy.config import Config
from proxy.control import Line, LineCut
from proxy.server import Server

ORDER: Final = "REELWAY_WORKER"


@dataclass(frozen=True, slots=True)
class Order:
    """What a supervisor tells its worker before it starts: two descriptors, and where the store
    is."""

    front: int
    control: int
    store: str

    def written(self) -> str:
        return orjson.dumps(self).decode()


def order_of(environ: MutableMapping[str, str]) -> Order | None:
    """The order this process was started with, taken away so that no child finds it."""
    text = environ.pop(ORDER, None)
    if text is None:
        return None
    order = Order(**orjson.loads(text))
    for descriptor in (order.front, order.control):
        os.set_inheritable(descriptor, False)
    return order


async def run_worker(config: Config, order: Order, log: structlog.stdlib.BoundLogger) -> None:
    """Serve until SIGTERM, which also comes when the supervisor dies."""
    front = socket.socket(fileno=order.front)
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
            with suppress(LineCut):
                await line.ask("leaving", await metrics(None))
        finally:
            listening.cancel()
            await asyncio.wait([listening])
