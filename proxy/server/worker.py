"""One worker: it starts the parts (`wiring`), listens, reloads and drains.

SIGTERM and SIGINT drain: readiness goes off, no new connections, requests and bodies finish up
to `drain_s`, then what still moves is cut so that its client can resume elsewhere. A second
signal cuts it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable

import structlog
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from proxy.admin.app import make_app
from proxy.admin.workers import SingleProcess, WorkerInfo
from proxy.config import Config
from proxy.config.reload import Reloaded, has_failed, read_again
from proxy.server import systemd
from proxy.server.bootstrap import (
    lacking,
    let_go,
    listen_on,
    make_state_dir,
    serve_admin,
    signing_secrets,
    url_of,
)
from proxy.server.wiring import Process, build
from proxy.store import Store
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.logs import tune
from proxy.telemetry.metric_definitions import RELOAD_FAILED
from proxy.telemetry.metrics import Metrics

KEPT_S = 3.0  # most clients that keep a connection and are busy use it in that time
CUT_S = 3.0  # how long the drain waits for what it has cut; a body looks once a second


class Server:
    """`async with Server(config, log)` serves until the block ends; `run` until a signal.

    `sockets`, for clients and for the admin port, may be bound before; the server closes them.
    `supervised` is for one of several workers: the URL of the store, which its supervisor has
    started; the admin port is the supervisor's too. CannotServe, StoreUnusable and StoreDown:
    it could not start.
    """

    def __init__(
        self,
        config: Config,
        log: structlog.stdlib.BoundLogger,
        clock: Callable[[], float] = time.time,
        sockets: tuple[socket.socket | None, socket.socket | None] | None = None,
        supervised: str | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self._clock = clock
        self.metrics = Metrics(self._config)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.access_log = AccessLog(self.metrics, log)
        tune(log, config)
        self._stack = contextlib.AsyncExitStack()
        self._sockets = sockets or (None, None)
        self._supervised = supervised
        self._draining = False
        self._hurry = asyncio.Event()
        self._cut_bodies = asyncio.Event()
        self.last_reload: Reloaded | None = None
        self.metrics.sample(RELOAD_FAILED, lambda: has_failed(self.last_reload))
        self.url = ""
        self.admin_url = ""

    async def __aenter__(self) -> Server:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain's wait."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def signalled() -> None:
            (self._hurry if stop.is_set() else stop).set()

        def told_to_reload() -> None:
            systemd.notify_reloading()
            self.reload()
            systemd.notify("READY=1")

        def not_upgraded() -> None:
            self.log.error(
                "upgrade failed: [server] workers is 1, so there is no supervisor; restart instead"
            )

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled)
        # A supervised worker reloads when its supervisor asks. It leaves SIGHUP blocked, so a
        # signal sent to it directly does nothing.
        if self._supervised is None:
            loop.add_signal_handler(signal.SIGHUP, told_to_reload)
            loop.add_signal_handler(signal.SIGUSR2, not_upgraded)
            let_go()
        systemd.notify("READY=1", f"STATUS=serving {self.url}")
        try:
            await stop.wait()
            systemd.notify("STOPPING=1", "STATUS=draining")
            await self.drain()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
                loop.remove_signal_handler(number)

    def reload(self) -> Reloaded:
        """Read the configuration file again (see `read_again`)."""
        now_ms = int(self._clock() * 1000)
        self.config, self.last_reload = read_again(self.config, now_ms, self.log)
        tune(self.log, self.config)
        return self.last_reload

    async def drain(self) -> None:
        """Stop accepting, let what is under way finish, cut the rest. Idempotent."""
        if self._draining:
            return
        self._draining = True
        self.log.info("draining", seconds=self.config.timeouts.drain_s)
        self.parts.changes.close()
        drain_s = self.config.timeouts.drain_s
        kept_s = min(KEPT_S, drain_s / 10)
        listener = self.parts.listener
        await listener.stop_accepting(kept_s)
        self._front.close()  # the listener had a copy: a connection would wait here unanswered
        hurry = asyncio.create_task(self._hurry.wait())
        idle = asyncio.create_task(listener.wait_idle(drain_s, kept_s))
        try:
            await asyncio.wait({hurry, idle}, return_when=asyncio.FIRST_COMPLETED)
            if idle.done() and idle.result():
                return
        finally:
            hurry.cancel()
            idle.cancel()
        why = "drain hurried" if self._hurry.is_set() else "drain deadline reached"
        self.log.warning(why, connections=listener.connections)
        self._cut_bodies.set()
        await listener.wait_idle(CUT_S)

    # ------------------------------------------------------------ start

    async def _start(self) -> None:
        config, stack = self.config, self._stack
        stack.callback(self.access_log.flush)
        make_state_dir(config.server.state_dir, "[server] state_dir")
        # Bound before all else: a busy port should cost nothing but its one line.
        front, back = self._sockets
        front = front or listen_on(config.server.listen, "[server] listen")
        self._front = stack.enter_context(front)
        if self._supervised is None:
            back = back or listen_on(config.admin.listen, "[admin] listen")
            stack.enter_context(back)
        process = Process(
            self._config,
            self._clock,
            self.metrics,
            self.log,
            self.access_log,
            lambda: self.public_url,
            self._cut_bodies,
        )
        self.parts = await build(process, self._supervised, stack)
        self.url = url_of(await self.parts.listener.start(sock=front))
        if back is not None:
            await self._start_admin(back)
        self.parts.start()
        if self._supervised is None:
            self.log.info("serving", url=self.url, admin_url=self.admin_url)

    async def _start_admin(self, bound: socket.socket) -> None:
        info = WorkerInfo(os.getpid(), int(self._clock() * 1000))
        workers = SingleProcess(
            self.registry, self.why_not_ready, self.reload, lambda: self.last_reload, info
        )
        app = make_app(
            workers,
            self._config,
            self.store,
            clock=self._clock,
            secret=signing_secrets(self.config)[0],
            api_url=lambda: self.url,
            public_url=lambda: self.public_url,
            log=self.log,
        )
        self.admin_url = await serve_admin(app, bound, self._stack, self.config, self.log)

    # ------------------------------------------------------------ what others ask for

    async def why_not_ready(self) -> str | None:
        if self._draining:
            return "draining"
        return lacking(self.config) or await self.store.trouble()

    @property
    def store(self) -> Store:
        return self.parts.store

    @property
    def public_url(self) -> str:
        return self.config.server.public_url or self.url

    def _config(self) -> Config:
        return self.config
