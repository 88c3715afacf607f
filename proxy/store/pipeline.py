"""Many commands, one round trip: what is asked in one turn of the loop goes out together.

A command of its own costs redis.asyncio 56–99 µs of our CPU; in a shared pipeline 20–35 µs
(measured at 64 in flight). At most `LANES` pipelines are under way; while all are, the next
one fills.

Rule: every future handed out here is settled, whatever happens to its batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final, Literal, TypeAlias, cast

from redis import exceptions as rx

from proxy.errors import ProxyError
from proxy.store.client import FOREIGN, Client, translate
from proxy.store.deadline import deadline
from proxy.store.errors import StoreDown, StoreFault, StoreUnsafe
from proxy.store.observer import NOBODY, Observer
from proxy.store.transport import Arg, wire_of

Durability: TypeAlias = Literal["local", "replica", "fsync"]
Answer: TypeAlias = "bool | int | str | bytes | list[Answer] | dict[Any, Any] | None"

LANES: Final = 4
MAX_BATCH: Final = 512
SAFE_MS: Final = 300  # how long a durable change may take to become one
MAX_PENDING: Final = 16384  # full: StoreDown at once


def texts(answer: Answer | set[bytes]) -> tuple[str, ...]:
    """The texts of an answer that is a list of them; what is missing is left out."""
    assert isinstance(answer, list | set)
    return tuple(item.decode() for item in answer if isinstance(item, bytes))


def texts_or_empty(answer: Answer | Sequence[Answer]) -> tuple[str, ...]:
    """The same, with an empty text for what is missing."""
    assert isinstance(answer, list | tuple)
    return tuple(item.decode() if isinstance(item, bytes) else "" for item in answer)


_NAMED: Final = re.compile(r"^-- NAMED (.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script; its head says what KEYS, ARGV and the answer are.

    Lines of its head that begin with `-- NAMED` name its first arguments. The script reads them
    as `arg.<name>`, and what follows them from `ARGV[NAMED + 1]` on.
    """

    name: str
    text: str
    sha: str
    named: tuple[str, ...] = ()

    @classmethod
    def load(cls, name: str) -> Script:
        """The script in `scripts/<name>.lua`."""
        text = (resources.files("proxy.store") / "scripts" / f"{name}.lua").read_text("utf-8")
        named = tuple(" ".join(_NAMED.findall(text)).split())
        if named:
            table = ", ".join(f"{name} = ARGV[{at}]" for at, name in enumerate(named, 1))
            text = f"local NAMED, arg = {len(named)}, {{{table}}}\n{text}"
        # SHA-1 is how Redis names scripts; nothing is protected by it.
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        return cls(name, text, sha, named)

    def arguments(self, values: Mapping[str, Arg], *more: Arg) -> list[Arg]:
        """The named arguments in the script's order, then the others."""
        if set(values) != set(self.named):
            raise TypeError(f"{self.name} takes {self.named}, not {tuple(values)}")
        return [*(values[name] for name in self.named), *more]


@dataclass(frozen=True, slots=True)
class _Call:
    args: tuple[Arg, ...]
    future: asyncio.Future[Answer]
    script: Script | None = None

    def in_full(self) -> tuple[Arg, ...]:
        """The same script call by its text, which also loads it."""
        assert self.script is not None
        return ("EVAL", self.script.text, *self.args[2:])


class Pipeline:
    """Commands in no particular order: calls made together may run in any order and on several
    connections; await one before making another that depends on it."""

    def __init__(self, client: Client, timeout_s: float, observer: Observer = NOBODY) -> None:
        self._wire = wire_of(client, timeout_s)
        self._observer = observer
        self._deadline_s = 2 * timeout_s
        self._pending: list[_Call] = []
        self._lanes: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._closed = False

    def call(self, *args: Arg) -> asyncio.Future[Answer]:
        """Send one command. Raises (when awaited) StoreDown, StoreFull or StoreFault."""
        return self._enqueue(args, None)

    async def everywhere(self, *args: Arg) -> list[Answer]:
        """The answers of every server that takes writes: of a Cluster's primaries, else one.
        Raises like `call` when one of them fails."""
        try:
            async with deadline(self._deadline_s):
                replies = await self._wire.send_everywhere(args)
        except FOREIGN as exc:
            raise translate(exc) from exc
        for reply in replies:
            if isinstance(reply, Exception):
                raise translate(reply) from reply
        return cast("list[Answer]", replies)

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Arg],
        *,
        durability: Durability = "local",
    ) -> Awaitable[Answer]:
        """Run a script; `keys` share one hash slot (see `keys`). With a `durability` the answer
        comes when the change is on a replica, or in the log on disk; StoreUnsafe if it is not
        within `SAFE_MS`. A script that answers with a document has changed nothing."""
        call = ("EVALSHA", script.sha, len(keys), *keys, *args)
        if durability == "local":
            return self._enqueue(call, script)
        wait: tuple[Arg, ...] = ("WAIT", 1, SAFE_MS)
        if durability == "fsync":
            wait = ("WAITAOF", 1, 0, SAFE_MS)
        return self._run_safely(
            _Call(call, asyncio.get_running_loop().create_future(), script), wait
        )

    async def _run_safely(self, call: _Call, wait: tuple[Arg, ...]) -> Answer:
        """WAIT speaks of what its own connection wrote: both go down one, alone."""
        try:
            async with deadline(self._deadline_s + SAFE_MS / 1000):
                answer, safe = await self._send_together([call.args, wait])
                if isinstance(answer, rx.NoScriptError):
                    answer, safe = await self._send_together([call.in_full(), wait])
                if str(safe).startswith("unknown command"):  # WAITAOF came with Redis 7.2
                    safe = await self._always_fsyncs(call.args[3])
        except FOREIGN as exc:
            raise translate(exc) from exc
        if isinstance(answer, Exception):
            raise translate(answer) from answer
        if isinstance(
            answer, bytes
        ):  # another's document: nothing was written, nothing to wait for
            return answer
        if isinstance(safe, Exception):  # WAITAOF without an append-only file
            raise StoreUnsafe(f"the server refused to wait: {safe}") from safe
        copies = safe[0] if isinstance(safe, list) else safe
        if not isinstance(copies, int) or copies < 1:
            raise StoreUnsafe(
                f"the change was not {'on disk' if wait[0] == 'WAITAOF' else 'on a replica'} "
                f"within {SAFE_MS} ms"
            )
        return answer

    async def _always_fsyncs(self, key: Arg) -> Answer | Exception:
        """1 when the server that holds the key fsyncs before it answers: then every answer is
        one from the disk."""
        look = [("EXISTS", key), ("CONFIG", "GET", "append*")]
        _exists, found = await self._send_together(look)
        if not isinstance(found, list):
            return found
        said = dict(zip(found[::2], found[1::2], strict=True))
        return int((said.get(b"appendonly"), said.get(b"appendfsync")) == (b"yes", b"always"))

    async def close(self) -> None:
        """Let what is under way finish (its deadline bounds it); refuse everything else."""
        self._closed = True
        waiting, self._pending = self._pending, []
        for call in waiting:
            _fail(call, StoreDown("the store was closed"))
        if self._lanes:
            await asyncio.wait(self._lanes)

    def _enqueue(self, args: tuple[Arg, ...], script: Script | None) -> asyncio.Future[Answer]:
        for arg in args:
            # redis-py finds such an argument only while packing, which fails the whole batch.
            if not isinstance(arg, (str, bytes, int)) or isinstance(arg, bool):
                raise TypeError(f"a Redis argument is str, bytes or int, not {type(arg).__name__}")
        if self._closed:
            raise StoreDown("the store was closed")
        if len(self._pending) >= MAX_PENDING:
            raise StoreDown(f"{MAX_PENDING} commands are already waiting")
        loop = asyncio.get_running_loop()
        call = _Call(args, loop.create_future(), script)
        self._pending.append(call)
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return call.future

    def _flush(self) -> None:
        self._scheduled = False
        while self._pending and len(self._lanes) < LANES:
            batch, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
            lane = asyncio.get_running_loop().create_task(self._carry(batch), name="store-batch")
            self._lanes.add(lane)
            lane.add_done_callback(self._free)

    def _free(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        self._flush()

    async def _carry(self, batch: list[_Call]) -> None:
        calls = [call for call in batch if not call.future.done()]  # its caller may have left
        if not calls:
            return
        try:
            async with deadline(self._deadline_s):
                answers = await self._send([call.args for call in calls])
                unloaded = [n for n, a in enumerate(answers) if isinstance(a, rx.NoScriptError)]
                if unloaded:
                    again = await self._send([calls[n].in_full() for n in unloaded])
                    for n, answer in zip(unloaded, again, strict=True):
                        answers[n] = answer
        except FOREIGN as exc:
            failed = calls
            if isinstance(exc, (rx.TimeoutError, TimeoutError)):
                # The store hangs. What queued behind this batch has waited as long already.
                failed, self._pending = calls + self._pending, []
            for call in failed:
                _fail(call, translate(exc))
        else:
            for call, answer in zip(calls, answers, strict=True):
                _settle(call, answer)
        finally:
            # Unsettled only after a bug or a cancelled loop; then, too, nobody waits for ever.
            for call in calls:
                _fail(call, StoreFault("a batch ended without its answers"))

    async def _send(self, commands: Sequence[tuple[Arg, ...]]) -> list[Answer | Exception]:
        """One round trip. An error reply stands in its command's place."""
        started_s, answered = time.perf_counter(), False
        try:
            answers = await self._wire.send(commands)
            answered = True
        finally:
            self._observer.round_trip(time.perf_counter() - started_s, answered=answered)
        return cast("list[Answer | Exception]", answers)

    async def _send_together(self, commands: Sequence[tuple[Arg, ...]]) -> list[Answer | Exception]:
        return cast("list[Answer | Exception]", await self._wire.send_together(commands))


def _settle(call: _Call, answer: Answer | Exception) -> None:
    if isinstance(answer, Exception):
        _fail(call, translate(answer))
    elif not call.future.done():
        call.future.set_result(answer)


def _fail(call: _Call, fault: ProxyError) -> None:
    if not call.future.done():
        call.future.set_exception(fault)
