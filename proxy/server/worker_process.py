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
from proxy.server.control_channel import ChannelClosed, ControlChannel
from proxy.server.worker import Server

SPEC: Final = "REELWAY_WORKER"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """What a supervisor passes to its worker at the start: the descriptors of the clients' socket
    (`front`) and of the control channel, the store's URL, and the configuration in force, whatever
    its file has become since. An older supervisor may have written it, so its keys stay."""

    front: int
    control: int
    store: str
    path: str | None
    text: str

    def to_memfd(self) -> int:
        """Write it to a memory file; an environment variable would be too small."""
        memfd = os.memfd_create("spec")
        os.write(memfd, orjson.dumps(self))
        return memfd

    def config(self) -> Config:
        path = None if self.path is None else Path(self.path)
        return load(path, os.environ, PROVIDERS, self.text)


def inherited_spec(environ: MutableMapping[str, str]) -> WorkerSpec | None:
    """The spec this process was started with, taken away so that no child finds it."""
    text = environ.pop(SPEC, None)
    if text is None:
        return None
    with open(int(text), "rb") as memfd:
        memfd.seek(0)
        spec = WorkerSpec(**orjson.loads(memfd.read()))
    for descriptor in (spec.front, spec.control):
        os.set_inheritable(descriptor, False)
    return spec


async def run_worker(spec: WorkerSpec, log: structlog.stdlib.BoundLogger) -> None:
    """Serve until SIGTERM, which also comes when the supervisor dies."""
    config, front = spec.config(), socket.socket(fileno=spec.front)
    async with Server(config, log, sockets=(front, None), supervised=spec.store) as server:

        async def metrics(_value: Any) -> str:
            return generate_latest(server.registry).decode()

        async def reload(_value: Any) -> bool:
            return server.reload().ok

        channel = await ControlChannel.open(
            socket.socket(fileno=spec.control), {"metrics": metrics, "reload": reload}
        )
        listening = asyncio.create_task(channel.run(), name="the supervisor's questions")
        try:
            await channel.ask("serving", server.url)
            await server.run()
            try:
                await channel.ask("leaving", await metrics(None))
            except ChannelClosed:
                log.warning("supervisor gone: the last metrics of this worker are lost")
        finally:
            listening.cancel()
            await asyncio.wait([listening])
