"""Several workers behind one address, and one admin port for all of them.

Rule: every listening socket is the supervisor's. A worker that dies leaves its connections in
the socket's queue to its replacement; one that is replaced on purpose stops only when the next
one serves. So nobody who connects is ever refused.

An upgrade (SIGUSR2) is the program started anew in the same process (`execve`): the pid, the
sockets, the embedded store and the workers stay; new workers come up beside the old ones, which
then finish what they have.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, Final

import orjson
import structlog
from prometheus_client import CollectorRegistry, generate_latest

from proxy.admin.app import make_app
from proxy.admin.workers import WorkerInfo
from proxy.config import Config
from proxy.config.reload import Reloaded, has_failed, read_again
from proxy.gateway.listener import address_of, bind_shared
from proxy.server import systemd
from proxy.server.bootstrap import (
    ALL,
    CannotServe,
    bound,
    hold,
    lacking,
    let_go,
    listen_on,
    make_state_dir,
    serve_admin,
    signing_secrets,
    url_of,
)
from proxy.server.control_channel import ChannelClosed
from proxy.server.embedded_store import Embedded
from proxy.server.store_jobs import keep_alive
from proxy.server.worker import CUT_S
from proxy.server.worker_pool import WorkerPool, inheritable
from proxy.store import Store
from proxy.telemetry.logs import tune
from proxy.telemetry.metric_definitions import RELOAD_FAILED
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_merge import merged

HANDOVER: Final = "REELWAY_HANDOVER"
ASK_S: Final = 1.0
RELOAD_S: Final = 10.0
CHECK_S: Final = 30.0
MARGIN_S: Final = 10.0  # beyond the drain, then a worker is killed


class Upgrade(Exception):
    """The program is to be replaced; `execute` does it, once the loop has ended."""

    def __init__(self, left: Mapping[str, Any]) -> None:
        super().__init__("upgrade")
        self.left = left

    def execute(self) -> None:
        """Does not return. OSError when there is no such program any more."""
        memfd = os.memfd_create("handover", 0)  # it outlives the program; a variable is too small
        os.write(memfd, orjson.dumps(self.left))
        os.environ[HANDOVER] = str(memfd)
        command = program()
        os.execv(command[0], command)  # noqa: S606 - ourselves


def handed_over(environ: MutableMapping[str, str]) -> dict[str, Any] | None:
    """What the program before this one left in this process, if there was one."""
    text = environ.pop(HANDOVER, None)
    if text is None:
        return None
    with open(int(text), "rb") as memfd:
        memfd.seek(0)
        left: dict[str, Any] = orjson.loads(memfd.read())
    return left


def program(*arguments: str) -> list[str]:
    """The command line of this program, or of another command of it."""
    return [sys.executable, "-m", "proxy", *(arguments or sys.argv[1:])]


class Supervisor:
    """`async with Supervisor(config, log)` has all workers serving; `run` lasts until a signal.

    `given` are listening sockets a service manager has bound (`systemd.inherited`); `left` is
    what `Upgrade.left` was in the program before this one. CannotServe, StoreUnusable and
    StoreDown: it could not start.
    """

    def __init__(
        self,
        config: Config,
        log: structlog.stdlib.BoundLogger,
        given: Mapping[str, socket.socket] | None = None,
        left: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config
        self._log = log
        tune(log, config)
        self._metrics = Metrics(lambda: self.config)
        self._metrics.sample(RELOAD_FAILED, lambda: has_failed(self._last_reload))
        self._registry = CollectorRegistry()
        self._registry.register(self._metrics)
        self._given = given or {}
        self._left = left
        self._stack = contextlib.AsyncExitStack()
        self._jobs: set[asyncio.Task[None]] = set()
        self._draining = False
        self._handed_over = False
        self._last_reload: Reloaded | None = None
        self._embedded: Embedded | None = None
        self.url = ""
        self.admin_url = ""

    async def __aenter__(self) -> Supervisor:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then let the workers drain; a second signal hurries
        them. SIGHUP reloads. Raises Upgrade after SIGUSR2, unless the new program is unsound."""
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        stop = asyncio.Event()

        def signalled() -> None:
            if self._draining:
                self._pool.stop()
            stop.set()
            woken.set()

        def hup() -> None:
            job = asyncio.create_task(self._told_to_reload(), name="reload")
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

        handlers = {
            signal.SIGTERM: signalled,
            signal.SIGINT: signalled,
            signal.SIGHUP: hup,
            signal.SIGUSR2: woken.set,
        }
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        let_go()
        count = len(self._fronts)
        self._log.info("serving", url=self.url, admin_url=self.admin_url, workers=count)
        systemd.notify("READY=1", f"STATUS=serving {self.url}, {count} workers")
        try:
            while True:
                await woken.wait()
                woken.clear()
                if not stop.is_set() and await self._is_sound():
                    hold(ALL)  # the new program heeds what comes from now on
                    if not stop.is_set():
                        raise Upgrade(self._hand_over())
                    let_go()
                if stop.is_set():
                    break
            await self._drain()
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)

    async def _drain(self) -> None:
        self._draining = True
        systemd.notify("STOPPING=1", "STATUS=draining")
        self._log.info("draining", seconds=self.config.timeouts.drain_s)
        self._pool.stop()
        for sock in self._fronts:
            sock.close()  # the workers have their own
        await self._pool.gone(self.config.timeouts.drain_s + CUT_S + MARGIN_S)

    # ------------------------------------------------------------ putting it together

    async def _start(self) -> None:
        config, stack, left = self.config, self._stack, self._left
        make_state_dir(config.server.state_dir, "[server] state_dir")
        self._bind()
        url = config.redis.url
        if url == "embedded":
            self._embedded = await self._own_store()
            stack.push_async_callback(self._stop_store)
            alive = keep_alive(self._embedded, self._metrics, self._log)
            job = asyncio.create_task(alive, name="store")
            stack.callback(job.cancel)
            url = self._embedded.url
        self.store = await Store.open(url, timeout_s=config.redis.timeout_s)
        stack.push_async_callback(self.store.close)
        self._pool = WorkerPool(
            self._fronts, program(), url, lambda: self.config, self._metrics, self._log
        )
        stack.push_async_callback(self._end_workers)
        if left is not None:
            self._pool.adopt(left["workers"])
        if not await self._pool.start():
            if left is None:
                raise CannotServe("a worker could not start; it has said why")
            self._log.error("upgrade failed: the old workers go on")
        self.url = url_of(address_of(self._fronts[0]))
        app = make_app(
            self,
            lambda: self.config,
            self.store,
            clock=time.time,
            secret=signing_secrets(config)[0],
            api_url=lambda: self.url,
            public_url=lambda: config.server.public_url or self.url,
            log=self._log,
        )
        self.admin_url = await serve_admin(app, self._back, stack, config, self._log)

    def _bind(self) -> None:
        """The sockets: those that were handed over or given first, what is missing bound."""
        config = self.config
        fronts = _sockets(self._left["fronts"]) if self._left is not None else []
        backs = _sockets([self._left["back"]]) if self._left is not None else []
        if not fronts and "web" in self._given:
            fronts = [self._given["web"]]
            fronts += [fronts[0].dup() for _ in range(config.server.workers - 1)]
        if not fronts:
            count = config.server.workers
            fronts = bound(
                lambda address: bind_shared(address, count), config.server.listen, "[server] listen"
            )
        if not backs and "admin" in self._given:
            backs = [self._given["admin"]]
        self._fronts: Sequence[socket.socket] = fronts
        for sock in fronts:
            self._stack.callback(sock.close)
        self._back = backs[0] if backs else listen_on(config.admin.listen, "[admin] listen")
        self._stack.callback(self._back.close)

    async def _own_store(self) -> Embedded:
        state_dir = self.config.server.state_dir
        if self._left is not None and self._left["store"] is not None:
            return Embedded.adopt(state_dir, self._left["store"])
        return await Embedded.start(
            state_dir,
            always_fsync=self.config.redis.durability == "fsync",
            memory=self.config.redis.embedded_memory,
        )

    async def _stop_store(self) -> None:
        if self._embedded is not None and not self._handed_over:
            await self._embedded.stop()

    async def _end_workers(self) -> None:
        if not self._handed_over:
            self._pool.stop()
            await self._pool.gone(self.config.timeouts.drain_s + CUT_S + MARGIN_S)
        await self._pool.aclose()

    # ------------------------------------------------------------ upgrade

    async def _is_sound(self) -> bool:
        """Whether the program as it is now on disk starts and likes its configuration."""
        path = self.config.path
        options = [] if path is None else ["--config", str(path)]
        process = await asyncio.create_subprocess_exec(
            *program("check", *options),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(CHECK_S):
                _, said = await process.communicate()
        except TimeoutError:
            process.kill()
            _, said = await process.communicate()
        if process.returncode != 0:
            why = said.decode("utf-8", "replace").strip()[-2000:]
            self._log.error("upgrade failed: the new program would not start", why=why)
            return False
        return True

    def _hand_over(self) -> dict[str, Any]:
        self._log.info("upgrading", workers=len(self._pool.serving))
        # What was counted here goes on counting, like what workers that are gone have counted.
        self._pool.ended = merged([], [self._pool.ended, generate_latest(self._registry)])
        left = {
            "fronts": [inheritable(sock) for sock in self._fronts],
            "back": inheritable(self._back),
            "store": self._embedded.hand_over() if self._embedded is not None else None,
            "workers": self._pool.hand_over(),
        }
        self._handed_over = True
        return left

    # ------------------------------------------------------------ what the admin port asks

    async def metrics(self) -> bytes:
        """Of the workers; and what only this process knows: deaths, and what came of a reload."""
        pages = await self._pool.pages(ASK_S)
        return merged([generate_latest(self._registry), *pages], [self._pool.ended])

    async def why_not_ready(self) -> str | None:
        if self._draining:
            return "draining"
        if not self._pool.serving:
            return "no worker serves"
        return lacking(self.config) or await self.store.trouble()

    async def reload(self) -> Reloaded:
        """All workers read the file, once it has been found without a mistake here."""
        now_ms = round(time.time() * 1000)
        self.config, reloaded = read_again(self.config, now_ms, self._log)
        tune(self._log, self.config)
        if reloaded.ok:
            answers = await self._pool.ask("reload", RELOAD_S)
            behind = tuple(
                f"worker {pid}: {said if isinstance(said, ChannelClosed) else 'its log says why'}"
                for pid, said in answers.items()
                if said is not True
            )
            if behind:
                self._log.error("reload failed on some workers", why="\n".join(behind))
                reloaded = Reloaded(ok=False, problems=behind, waiting=reloaded.waiting, ms=now_ms)
        self._last_reload = reloaded
        return reloaded

    async def _told_to_reload(self) -> None:
        systemd.notify_reloading()
        await self.reload()
        systemd.notify("READY=1")

    def last_reload(self) -> Reloaded | None:
        return self._last_reload

    def running(self) -> tuple[WorkerInfo, ...]:
        return tuple(WorkerInfo(worker.pid, worker.started_ms) for worker in self._pool.serving)


def _sockets(descriptors: Sequence[int]) -> list[socket.socket]:
    found = [socket.socket(fileno=descriptor) for descriptor in descriptors]
    for sock in found:
        sock.set_inheritable(False)
    return found
