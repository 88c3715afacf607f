"""A Valkey of our own, for machines that have no Redis: started on a unix socket in the state
directory, durable, and never longer alive than the process that started it.

Rule: whoever runs a server on a state directory holds an exclusive `flock` on `<state>/lock`.
Two servers on one directory would both run, silently, on the same append-only file. The server
inherits the lock's descriptor, so after a kill -9 of its parent the lock stays taken until the
server itself has gone, and the next start waits for that.

Rule: start one only from the main thread. The server dies with its parent by PR_SET_PDEATHSIG,
which means the *thread* that forked it. A process that forks workers without exec hands them
the lock too; spawn workers, or let them open the store by `Embedded.url`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import orjson

from proxy.server.child_process import Adopted, die_with_parent
from proxy.server.store_program import SERVER_FILE, find_server, server_of
from proxy.store import Store
from proxy.store.errors import StoreUnusable

WAIT_S: Final = 10.0  # for the lock of a server that is going away
LOAD_S: Final = 300.0  # for a server that answers, but is still reading its file
STOP_S: Final = 10.0
MEMORY_BYTES: Final = 1024**3  # full: it refuses writes, and forgets nothing

_MAX_SOCKET_PATH: Final = 107  # sun_path has 108 bytes, the last is NUL
_ANSWER_S: Final = 0.5
_PAUSE_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class _Record:
    """What the lock file says, as JSON, once the server answers: for attaching and for error
    messages. `born` are clock ticks, so that a reused pid is not mistaken for the owner."""

    owner: int
    born: int
    server: int
    socket: str


class Embedded:
    """A running server. `owned`: this process started it, and `stop` ends it."""

    def __init__(self, state_dir: Path, socket: Path, owned: bool) -> None:
        self.state_dir = state_dir
        self.socket = socket
        self.owned = owned
        self._binary = Path()
        self._lock = -1
        self._fsync = "everysec"
        self._memory = MEMORY_BYTES
        self._process: subprocess.Popen[bytes] | Adopted | None = None

    @classmethod
    async def start(
        cls,
        state_dir: Path,
        *,
        binary: Path | None = None,
        wait_s: float = WAIT_S,
        always_fsync: bool = False,
        memory: int = MEMORY_BYTES,
    ) -> Embedded:
        """Own the server of `state_dir`: what a gateway does. Waits up to `wait_s` for another
        owner to go; StoreUnusable when it does not, or when no server can be started.

        `always_fsync`: every write is on disk before it is answered, instead of within a second.
        `memory`: the most bytes it holds; above them it refuses writes.
        """
        return await cls._open(
            state_dir, binary, wait_s, attach=False, always_fsync=always_fsync, memory=memory
        )

    @classmethod
    async def attach_or_start(
        cls, state_dir: Path, *, binary: Path | None = None, wait_s: float = WAIT_S
    ) -> Embedded:
        """Use the running server of `state_dir`, or else own one: what a command does."""
        return await cls._open(state_dir, binary, wait_s, attach=True)

    def hand_over(self) -> dict[str, Any]:
        """For the program that replaces this one in its own process: `adopt` makes it the owner.
        The lock stays taken, for its descriptor goes along."""
        assert self.owned
        assert self._process is not None
        os.set_inheritable(self._lock, True)
        return {
            "server": self._process.pid,
            "lock": self._lock,
            "socket": str(self.socket),
            "binary": str(self._binary),
            "fsync": self._fsync,
            "memory": self._memory,
        }

    @classmethod
    def adopt(cls, state_dir: Path, left: Mapping[str, Any]) -> Embedded:
        """Own the server that `hand_over` told of."""
        server = cls(state_dir.absolute(), Path(left["socket"]), owned=True)
        server._binary = Path(left["binary"])
        server._lock = left["lock"]
        server._fsync = left["fsync"]
        server._memory = left.get("memory", MEMORY_BYTES)
        server._process = Adopted(left["server"])
        os.set_inheritable(server._lock, False)
        return server

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self.socket))}"

    @property
    def pid(self) -> int | None:
        """The server's process id, when this process owns it."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """False once an owned server has exited (an attached one is known by asking it)."""
        return self._process is None or self._process.poll() is None

    async def revive(self) -> None:
        """Start an owned server again that has died; its lock is still ours."""
        if self.owned and not self.is_running:
            await self._launch()

    async def stop(self, deadline_s: float = STOP_S) -> None:
        """End an owned server: it writes its file to disk first; after `deadline_s` it is killed.
        An attached one is left alone."""
        if not self.owned:
            return
        self.owned = False
        try:
            os.ftruncate(self._lock, 0)  # nobody attaches to a server that is leaving
            await self._end(deadline_s)
        finally:
            os.close(self._lock)
            _remove_short_dir(self.socket, self.state_dir)

    @classmethod
    async def _open(
        cls,
        state_dir: Path,
        binary: Path | None,
        wait_s: float,
        *,
        attach: bool,
        always_fsync: bool = False,
        memory: int = MEMORY_BYTES,
    ) -> Embedded:
        state_dir = _private_dir(state_dir)
        with contextlib.ExitStack() as undo:
            lock = os.open(state_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, lock)
            running = await _until_ours(lock, state_dir, wait_s, attach=attach)
            if running is not None:
                return cls(state_dir, running, owned=False)
            left = _read_record(lock)
            if left is not None:
                _remove_short_dir(Path(left.socket), state_dir)
            os.ftruncate(lock, 0)
            server = cls(state_dir, _socket_path(state_dir), owned=True)
            undo.callback(_remove_short_dir, server.socket, state_dir)
            server._binary = binary or server_of(state_dir) or find_server()
            server._lock = lock
            server._fsync = "always" if always_fsync else "everysec"
            server._memory = memory
            await server._launch()
            (state_dir / SERVER_FILE).write_bytes(os.fsencode(server._binary))
            undo.pop_all()
        return server

    async def _launch(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the embedded store is started from the main thread only")
        log_path = self.state_dir / "valkey.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - our own arguments; forks, waits for nothing
                self._command(),
                cwd=self.state_dir,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(self._lock,),
                start_new_session=True,  # Ctrl-C in a terminal is for us, not for the store
                preexec_fn=die_with_parent(os.getpid()),  # noqa: PLW1509 - only calls prctl
            )
        try:
            await self._until_ready(log_path)
        except BaseException:
            await self._end(0)
            raise
        record = _Record(os.getpid(), _born(os.getpid()), self._process.pid, str(self.socket))
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, orjson.dumps(record), 0)

    def _command(self) -> list[str]:
        return [
            *(str(self._binary), "--port", "0", "--dir", str(self.state_dir)),
            *("--unixsocket", str(self.socket), "--unixsocketperm", "700"),
            *("--appendonly", "yes", "--appendfsync", self._fsync, "--save", ""),
            *("--maxmemory", str(self._memory), "--maxmemory-policy", "noeviction"),
        ]

    async def _until_ready(self, log_path: Path) -> None:
        assert self._process is not None
        begun = time.monotonic()
        while True:
            answer = await _ask(self.socket)
            if answer == "PONG":
                return
            if self._process.poll() is not None:
                raise StoreUnusable(
                    f"{self._binary} ended with status {self._process.returncode} while starting "
                    f"in {self.state_dir}; its last words: {_last_line(log_path)}"
                )
            if time.monotonic() - begun > (LOAD_S if answer is not None else WAIT_S):
                raise StoreUnusable(
                    f"{self._binary} does not answer on {self.socket}; see {log_path}"
                )
            await asyncio.sleep(_PAUSE_S)

    async def _end(self, deadline_s: float) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            process.terminate()
            deadline = time.monotonic() + deadline_s
            while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - a process
                await asyncio.sleep(_PAUSE_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


# ---------------------------------------------------------------- directory, lock and socket


def _private_dir(state_dir: Path) -> Path:
    """Made, or made private; a directory that others use for something else is left alone."""
    state_dir = state_dir.absolute()
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if state_dir.stat().st_mode & 0o077:
            is_ours = (state_dir / "lock").exists() or not any(state_dir.iterdir())
            if not is_ours:
                raise StoreUnusable(
                    f"[server] state_dir: {state_dir} is open to others and holds other files; "
                    f"name a directory of its own, or close this one: chmod 700 {state_dir}"
                )
            state_dir.chmod(0o700)
    except OSError as exc:
        raise StoreUnusable(
            f"[server] state_dir: {state_dir} must be a directory of this user's: {exc}"
        ) from exc
    return state_dir


async def _until_ours(lock: int, state_dir: Path, wait_s: float, *, attach: bool) -> Path | None:
    """Wait for the lock. None: it is ours. With `attach`, else: the socket of a running server."""
    deadline = time.monotonic() + wait_s
    while not _take(lock):
        record = _read_record(lock)
        # A server whose owner has died still answers for a moment: never attach to that one.
        if attach and record is not None and _is_alive(record.owner, record.born):
            socket = Path(record.socket)
            if await _ask(socket) == "PONG":
                return socket
        if time.monotonic() >= deadline:
            raise StoreUnusable(_held(state_dir, record, wait_s))
        await asyncio.sleep(_PAUSE_S)
    return None


def _take(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_record(lock: int) -> _Record | None:
    """None while a server starts or stops."""
    try:
        raw = orjson.loads(os.pread(lock, 4096, 0))
        return _Record(int(raw["owner"]), int(raw["born"]), int(raw["server"]), raw["socket"])
    except (ValueError, KeyError, TypeError):
        return None


def _held(state_dir: Path, record: _Record | None, wait_s: float) -> str:
    if record is None:
        who = f"a process that is starting or stopping (`fuser {state_dir / 'lock'}` names it)"
    elif _is_alive(record.owner, record.born):
        who = f"process {record.owner} (its server is process {record.server})"
    else:
        who = f"the server process {record.server}, whose owner {record.owner} is gone"
    return (
        f"the state directory {state_dir} is in use by {who}; waited {wait_s:g} s. "
        "End it, or choose another [server] state_dir"
    )


def _born(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when it is gone or a zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()  # the name before it may contain anything
    return 0 if fields[0] in "ZX" else int(fields[19])


def _is_alive(pid: int, born: int) -> bool:
    return born != 0 and _born(pid) == born


def _socket_path(state_dir: Path) -> Path:
    """`<state>/valkey.sock`, or one in a new private directory when that name is too long for a
    socket; the lock file records which."""
    near = state_dir / "valkey.sock"
    if len(os.fsencode(near)) <= _MAX_SOCKET_PATH:
        return near
    for root in _short_roots():
        with contextlib.suppress(OSError):
            far = Path(tempfile.mkdtemp(prefix="reelway-", dir=root)) / "valkey.sock"  # 0700
            if len(os.fsencode(far)) <= _MAX_SOCKET_PATH:
                return far
            far.parent.rmdir()
    raise StoreUnusable(f"[server] state_dir: {state_dir} is too long for a unix socket")


def _short_roots() -> Iterator[str]:
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        yield runtime
    yield "/tmp"  # noqa: S108 - mkdtemp makes a private directory there


def _remove_short_dir(socket: Path, state_dir: Path) -> None:
    """Remove the directory that `_socket_path` made, if it did, perhaps for a killed run."""
    directory = socket.parent
    if directory == state_dir:
        return
    with contextlib.suppress(OSError):
        about = directory.lstat()
        if stat.S_ISDIR(about.st_mode) and about.st_uid == os.getuid():
            socket.unlink(missing_ok=True)
            directory.rmdir()


def _last_line(log: Path) -> str:
    lines = log.read_bytes()[-4096:].decode("utf-8", "replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "none")


async def _ask(socket: Path) -> str | None:
    """What a server says to PING: "PONG", or the first word of its refusal ("LOADING" while it
    reads its file); None when nobody answers."""
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                answer = await reader.readline()
            finally:
                writer.close()
    except OSError:  # refused, missing, reset, timed out
        return None
    return answer[1:].split()[0].decode() if answer.strip() else None


@asynccontextmanager
async def open_store(url: str, state_dir: Path, *, timeout_s: float) -> AsyncIterator[Store]:
    """The store of a `[redis] url` for a command. "embedded" attaches to the server that runs on
    `state_dir`, or starts one that ends with this block (main thread only)."""
    embedded = await Embedded.attach_or_start(state_dir) if url == "embedded" else None
    try:
        store = await Store.open(url if embedded is None else embedded.url, timeout_s=timeout_s)
        try:
            yield store
        finally:
            await store.close()
    finally:
        if embedded is not None:
            await embedded.stop()
