"""The worker processes of one address: start, watch, replace, ask and stop them.

Rule: a worker's listening socket belongs to the pool. When a worker dies, the connections that
wait in its socket go to its replacement.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from proxy.config import Config
from proxy.server.child_process import Adopted, die_with_parent, when_ended
from proxy.server.control_channel import ChannelClosed, ControlChannel
from proxy.server.worker_process import SPEC, WorkerSpec
from proxy.telemetry.metric_definitions import WORKER_DEATHS
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_merge import merged

START_S: Final = 30.0  # for a worker to serve
SETTLED_S: Final = 10.0  # one that lived so long died of something new
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0


@dataclass(eq=False)
class WorkerProcess:
    """One worker process. `slot` is the index of its socket; `url` is empty until it serves;
    `page` is the last metrics page it answered with."""

    slot: int
    process: subprocess.Popen[bytes] | Adopted
    control: socket.socket
    started_ms: int
    url: str = ""
    page: bytes = b""
    leaving: bool = False
    channel: ControlChannel | None = None
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_serving(self) -> bool:
        return bool(self.url) and not self.leaving and not self.ended.is_set()

    def stop(self) -> None:
        """Ask it to drain and exit; a second time, to hurry."""
        self.leaving = True
        self.process.terminate()


class WorkerPool:
    """One worker for each of `fronts`. `command` starts the program; `store` is the URL of its
    store, `config` what is in force; `metrics` counts those that died."""

    def __init__(
        self,
        fronts: Sequence[socket.socket],
        command: Sequence[str],
        store: str,
        config: Callable[[], Config],
        metrics: Metrics,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._fronts = fronts
        self._command = command
        self._store = store
        self._config = config
        self._metrics = metrics
        self._log = log
        self._workers: list[WorkerProcess] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._early_deaths: Counter[int] = Counter()  # deaths in a row before SETTLED_S, by slot
        self._ending = False
        self.ended = b""  # what workers that are gone have counted: their last pages

    @property
    def serving(self) -> tuple[WorkerProcess, ...]:
        return tuple(worker for worker in self._workers if worker.is_serving)

    # ------------------------------------------------------------ start

    async def start(self) -> bool:
        """Start a worker for each socket, then stop the old ones. False when a new worker did not
        serve: its log says why, the other new ones are stopped and the old ones stay."""
        before = [worker for worker in self._workers if not worker.leaving]
        fresh = [self._spawn(slot) for slot in range(len(self._fronts))]
        came = all(await asyncio.gather(*(self._wait_serving(worker) for worker in fresh)))
        for worker in before if came else fresh:
            worker.stop()
        return came

    def _spawn(self, slot: int) -> WorkerProcess:
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as stack:
            config = self._config()
            path = None if config.path is None else str(config.path)
            front = self._fronts[slot].fileno()
            spec = WorkerSpec(front, theirs.fileno(), self._store, path, config.text)
            memfd = stack.enter_context(open(spec.to_memfd(), "rb")).fileno()
            process = subprocess.Popen(  # noqa: S603 - ourselves
                self._command,
                env={**_without_manager(os.environ), SPEC: str(memfd)},
                stdin=subprocess.DEVNULL,
                pass_fds=(spec.front, spec.control, memfd),
                start_new_session=True,  # Ctrl-C in a terminal is the supervisor's to pass on
                preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - only calls prctl
            )
        worker = WorkerProcess(slot, process, ours, round(time.time() * 1000))
        self._watch(worker)
        return worker

    def _watch(self, worker: WorkerProcess) -> None:
        self._workers.append(worker)
        when_ended(worker.pid, worker.ended.set)
        self._beside(self._talk(worker), f"talk to worker {worker.pid}")
        self._beside(self._replace_when_ended(worker), f"look after worker {worker.pid}")

    def _beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        job = asyncio.create_task(work, name=name)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _wait_serving(self, worker: WorkerProcess) -> bool:
        await _either(worker.serving, worker.ended, START_S)
        if not worker.is_serving and not worker.ended.is_set() and not worker.leaving:
            self._log.error("worker not ready", pid=worker.pid, seconds=START_S)
            worker.process.kill()
        return worker.is_serving

    async def _talk(self, worker: WorkerProcess) -> None:
        async def serving(url: Any) -> None:
            worker.url = url
            worker.serving.set()

        async def leaving(page: Any) -> None:
            worker.page = str(page).encode()

        worker.channel = await ControlChannel.open(
            worker.control, {"serving": serving, "leaving": leaving}
        )
        await worker.channel.run()

    async def _replace_when_ended(self, worker: WorkerProcess) -> None:
        """Wait for its end, and replace a worker that served and was not asked to stop. (A worker
        that never served is reported by whoever started it.)"""
        await worker.ended.wait()
        status = worker.process.wait()
        self._workers.remove(worker)
        self.ended = merged([], [self.ended, worker.page])
        if worker.leaving or self._is_ending() or not worker.url:
            return
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self._log.error("worker died", pid=worker.pid, why=why)
        self._metrics.count(WORKER_DEATHS)
        is_early = time.time() - worker.started_ms / 1000 < SETTLED_S
        self._early_deaths[worker.slot] = self._early_deaths[worker.slot] + 1 if is_early else 0
        await asyncio.sleep(self._pause_s(worker.slot))
        while not self._is_ending():
            fresh = self._spawn(worker.slot)
            if await self._wait_serving(fresh):
                self._log.info("worker replaced", pid=fresh.pid)
                return
            if not self._is_ending():
                self._metrics.count(WORKER_DEATHS)
            self._early_deaths[worker.slot] += 1
            await asyncio.sleep(self._pause_s(worker.slot))

    def _is_ending(self) -> bool:
        return self._ending

    def _pause_s(self, slot: int) -> float:
        """The wait before the next worker: 0, or longer the more of them died early in a row."""
        deaths = self._early_deaths[slot]
        return min(FIRST_PAUSE_S * (1 << min(deaths, 16)) / 2, LONGEST_PAUSE_S) if deaths else 0.0

    # ------------------------------------------------------------ ask

    async def ask(self, word: str, seconds: float) -> dict[int, Any]:
        """Ask each serving worker; answers by pid, a ChannelClosed where there is none."""
        workers = self.serving
        answers = await asyncio.gather(*(_ask(worker, word, seconds) for worker in workers))
        return {worker.pid: said for worker, said in zip(workers, answers, strict=True)}

    async def pages(self, seconds: float) -> list[bytes]:
        """The metrics page of each worker, or its last one if it does not answer."""
        workers = tuple(self._workers)
        answers = await asyncio.gather(*(_ask(worker, "metrics", seconds) for worker in workers))
        for worker, said in zip(workers, answers, strict=True):
            if isinstance(said, str):
                worker.page = said.encode()
        return [worker.page for worker in workers]

    # ------------------------------------------------------------ stop

    def stop(self) -> None:
        """Ask all workers to drain and exit, and replace none; a second time, to hurry."""
        self._ending = True
        for worker in self._workers:
            worker.stop()

    async def gone(self, seconds: float) -> None:
        """Wait until all workers have exited; kill those still running after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(worker.ended.wait() for worker in self._workers))
        except TimeoutError:
            for worker in self._workers:
                self._log.error("worker did not stop in time; killing it", pid=worker.pid)
                worker.process.kill()
            await asyncio.gather(*(worker.ended.wait() for worker in self._workers))

    async def aclose(self) -> None:
        """Stop watching the workers."""
        self._ending = True
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    # ------------------------------------------------------------ hand over

    def hand_over(self) -> dict[str, Any]:
        """The workers, for `adopt` in the program that replaces this one in its own process. Two
        versions of the program read this format, so its keys stay."""
        workers = [
            {
                "slot": worker.slot,
                "pid": worker.pid,
                "control": inheritable(worker.control),
                "started_ms": worker.started_ms,
                "url": worker.url,
                "leaving": worker.leaving,
            }
            for worker in self._workers
            if not worker.ended.is_set()
        ]
        return {"hands": workers, "ended": self.ended.decode()}

    def adopt(self, left: Mapping[str, Any]) -> None:
        """Watch the workers that `hand_over` listed."""
        self.ended = left["ended"].encode()
        for one in left["hands"]:
            control = socket.socket(fileno=one["control"])
            control.set_inheritable(False)
            worker = WorkerProcess(one["slot"], Adopted(one["pid"]), control, one["started_ms"])
            worker.url, worker.leaving = one["url"], one["leaving"]
            self._watch(worker)


def _without_manager(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker, which must not talk to the service manager."""
    return {name: value for name, value in environ.items() if name != "NOTIFY_SOCKET"}


def inheritable(sock: socket.socket) -> int:
    """A duplicate descriptor that outlives both the socket object and the program."""
    descriptor = os.dup(sock.fileno())
    os.set_inheritable(descriptor, True)
    return descriptor


async def _ask(worker: WorkerProcess, word: str, seconds: float) -> Any:
    if worker.channel is None:
        return ChannelClosed("it has no channel yet")
    try:
        return await worker.channel.ask(word, seconds=seconds)
    except ChannelClosed as cut:
        return cut


async def _either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.create_task(one.wait()), asyncio.create_task(other.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
