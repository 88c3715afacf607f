"""The worker processes of one address: started, watched, replaced, asked, ended.

Rule: a worker's listening socket is not its own. One that dies leaves the connections that wait
in it to its replacement.
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
from proxy.server.control_channel import Line, LineCut
from proxy.server.worker_process import ORDER, Order
from proxy.telemetry.metric_definitions import WORKER_DEATHS
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.metrics_merge import merged

START_S: Final = 30.0  # for a worker to serve
SETTLED_S: Final = 10.0  # one that lived so long died of something new
FIRST_PAUSE_S: Final = 0.25
LONGEST_PAUSE_S: Final = 10.0


@dataclass(eq=False)
class Hand:
    """One worker process. `slot` is the place of its socket; `url` is empty until it serves;
    `page` is the last that was seen of its metrics."""

    slot: int
    process: subprocess.Popen[bytes] | Adopted
    control: socket.socket
    started_ms: int
    url: str = ""
    page: bytes = b""
    leaving: bool = False
    line: Line | None = None
    serving: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def is_serving(self) -> bool:
        return bool(self.url) and not self.leaving and not self.ended.is_set()

    def dismiss(self) -> None:
        """It drains and goes; told twice, it hurries."""
        self.leaving = True
        self.process.terminate()


class Crew:
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
        self._hands: list[Hand] = []
        self._jobs: set[asyncio.Task[None]] = set()
        self._young: Counter[int] = Counter()  # deaths in a row before SETTLED_S, by slot
        self._ending = False
        self.ended = b""  # what workers that are gone have counted: their last pages

    @property
    def serving(self) -> tuple[Hand, ...]:
        return tuple(hand for hand in self._hands if hand.is_serving)

    # ------------------------------------------------------------ come

    async def start(self) -> bool:
        """A new worker for each socket; then those there were before leave. False when one of
        the new ones did not come to serve: it has said why, and the others of them leave."""
        before = [hand for hand in self._hands if not hand.leaving]
        fresh = [self._spawn(slot) for slot in range(len(self._fronts))]
        came = all(await asyncio.gather(*(self._has_come(hand) for hand in fresh)))
        for hand in before if came else fresh:
            hand.dismiss()
        return came

    def _spawn(self, slot: int) -> Hand:
        ours, theirs = socket.socketpair()
        with theirs, ExitStack() as stack:
            config = self._config()
            path = None if config.path is None else str(config.path)
            front = self._fronts[slot].fileno()
            order = Order(front, theirs.fileno(), self._store, path, config.text)
            letter = stack.enter_context(open(order.written(), "rb")).fileno()
            process = subprocess.Popen(  # noqa: S603 - ourselves
                self._command,
                env={**_without_manager(os.environ), ORDER: str(letter)},
                stdin=subprocess.DEVNULL,
                pass_fds=(order.front, order.control, letter),
                start_new_session=True,  # Ctrl-C in a terminal is the supervisor's to pass on
                preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - only calls prctl
            )
        hand = Hand(slot, process, ours, round(time.time() * 1000))
        self._take_on(hand)
        return hand

    def _take_on(self, hand: Hand) -> None:
        self._hands.append(hand)
        when_ended(hand.pid, hand.ended.set)
        self._beside(self._talk(hand), f"talk to worker {hand.pid}")
        self._beside(self._look_after(hand), f"look after worker {hand.pid}")

    def _beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        job = asyncio.create_task(work, name=name)
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def _has_come(self, hand: Hand) -> bool:
        await _either(hand.serving, hand.ended, START_S)
        if not hand.is_serving and not hand.ended.is_set() and not hand.leaving:
            self._log.error("worker not ready", pid=hand.pid, seconds=START_S)
            hand.process.kill()
        return hand.is_serving

    async def _talk(self, hand: Hand) -> None:
        async def serving(url: Any) -> None:
            hand.url = url
            hand.serving.set()

        async def leaving(page: Any) -> None:
            hand.page = str(page).encode()

        hand.line = await Line.open(hand.control, {"serving": serving, "leaving": leaving})
        await hand.line.run()

    async def _look_after(self, hand: Hand) -> None:
        """Wait for its end; one that served and was not told to go is replaced. (Of one that
        never served, whoever started it is told.)"""
        await hand.ended.wait()
        status = hand.process.wait()
        self._hands.remove(hand)
        self.ended = merged([], [self.ended, hand.page])
        if hand.leaving or self._is_ending() or not hand.url:
            return
        why = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self._log.error("worker died", pid=hand.pid, why=why)
        self._metrics.count(WORKER_DEATHS)
        is_young = time.time() - hand.started_ms / 1000 < SETTLED_S
        self._young[hand.slot] = self._young[hand.slot] + 1 if is_young else 0
        await asyncio.sleep(self._pause_s(hand.slot))
        while not self._is_ending():
            fresh = self._spawn(hand.slot)
            if await self._has_come(fresh):
                self._log.info("worker replaced", pid=fresh.pid)
                return
            if not self._is_ending():
                self._metrics.count(WORKER_DEATHS)
            self._young[hand.slot] += 1
            await asyncio.sleep(self._pause_s(hand.slot))

    def _is_ending(self) -> bool:
        return self._ending

    def _pause_s(self, slot: int) -> float:
        """Before the next worker: none, unless its like dies young again and again."""
        young = self._young[slot]
        return min(FIRST_PAUSE_S * (1 << min(young, 16)) / 2, LONGEST_PAUSE_S) if young else 0.0

    # ------------------------------------------------------------ ask

    async def ask(self, word: str, seconds: float) -> dict[int, Any]:
        """What each serving worker says to that, by pid; a LineCut in place of an answer."""
        hands = self.serving
        answers = await asyncio.gather(*(_asked(hand, word, seconds) for hand in hands))
        return {hand.pid: said for hand, said in zip(hands, answers, strict=True)}

    async def pages(self, seconds: float) -> list[bytes]:
        """The metrics of each worker there is: as it has them now, or had them when it last
        answered."""
        hands = tuple(self._hands)
        answers = await asyncio.gather(*(_asked(hand, "metrics", seconds) for hand in hands))
        for hand, said in zip(hands, answers, strict=True):
            if isinstance(said, str):
                hand.page = said.encode()
        return [hand.page for hand in hands]

    # ------------------------------------------------------------ go

    def dismiss(self) -> None:
        """All drain and go, and nobody takes their place; told twice, they hurry."""
        self._ending = True
        for hand in self._hands:
            hand.dismiss()

    async def gone(self, seconds: float) -> None:
        """Wait until all have gone; what is still there after `seconds` is killed."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(hand.ended.wait() for hand in self._hands))
        except TimeoutError:
            for hand in self._hands:
                self._log.error("worker did not stop in time; killing it", pid=hand.pid)
                hand.process.kill()
            await asyncio.gather(*(hand.ended.wait() for hand in self._hands))

    async def aclose(self) -> None:
        """Nobody is watched any more."""
        self._ending = True
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(*self._jobs, return_exceptions=True)

    # ------------------------------------------------------------ hand over

    def hand_over(self) -> dict[str, Any]:
        """The workers, for the program that replaces this one in its own process: `adopt`."""
        hands = [
            {
                "slot": hand.slot,
                "pid": hand.pid,
                "control": inheritable(hand.control),
                "started_ms": hand.started_ms,
                "url": hand.url,
                "leaving": hand.leaving,
            }
            for hand in self._hands
            if not hand.ended.is_set()
        ]
        return {"hands": hands, "ended": self.ended.decode()}

    def adopt(self, left: Mapping[str, Any]) -> None:
        """Take on what `hand_over` told of."""
        self.ended = left["ended"].encode()
        for one in left["hands"]:
            control = socket.socket(fileno=one["control"])
            control.set_inheritable(False)
            hand = Hand(one["slot"], Adopted(one["pid"]), control, one["started_ms"])
            hand.url, hand.leaving = one["url"], one["leaving"]
            self._take_on(hand)


def _without_manager(environ: Mapping[str, str]) -> dict[str, str]:
    """A worker has nothing to say to the service manager."""
    return {name: value for name, value in environ.items() if name != "NOTIFY_SOCKET"}


def inheritable(sock: socket.socket) -> int:
    """A descriptor of it that outlives both the socket object and the program."""
    descriptor = os.dup(sock.fileno())
    os.set_inheritable(descriptor, True)
    return descriptor


async def _asked(hand: Hand, word: str, seconds: float) -> Any:
    if hand.line is None:
        return LineCut("it has no line yet")
    try:
        return await hand.line.ask(word, seconds=seconds)
    except LineCut as cut:
        return cut


async def _either(one: asyncio.Event, other: asyncio.Event, seconds: float) -> None:
    waits = [asyncio.create_task(one.wait()), asyncio.create_task(other.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
