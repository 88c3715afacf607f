"""`reelway` as an operator runs it: a process of its own, known by what it prints and how it ends.

The waits are for a line, for an exit, for processes to be gone; `GUARD_S` is only met by a hang.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import proxy

GUARD_S = 40.0
ROOT = Path(proxy.__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, and what it still had to say."""

    status: int
    out: str
    err: str


class Program:
    """One running command. `err_to_out` reads its log like its output; `in_background` starts it
    as `&` in a shell script does, with SIGINT ignored. `arguments` are Python's."""

    def __init__(
        self,
        *arguments: str,
        cwd: Path,
        env: Mapping[str, str],
        err_to_out: bool = False,
        in_background: bool = False,
    ) -> None:
        interrupt = signal.SIG_IGN if in_background else signal.SIG_DFL
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if err_to_out else subprocess.PIPE,
            start_new_session=True,  # a terminal's foreground process group
            preexec_fn=lambda: signal.signal(signal.SIGINT, interrupt),  # noqa: PLW1509 - no more
        )
        self.pid = self._process.pid
        assert self._process.stdout is not None
        self._out: IO[bytes] = self._process.stdout
        self._read = b""

    def line(self) -> str:
        """The next line of output; fails when the program ends without one."""
        deadline = time.monotonic() + GUARD_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while b"\n" not in self._read:
                assert selector.select(deadline - time.monotonic()), f"no line: {self._read!r}"
                more = os.read(self._out.fileno(), 65536)
                assert more, f"it ended: {self._read!r} {self.end()}"
                self._read += more
        line, _, self._read = self._read.partition(b"\n")
        return line.decode()

    def lines_until(self, start: str) -> str:
        """All lines up to the one that begins like this."""
        lines = [self.line()]
        while not lines[-1].startswith(start):
            lines.append(self.line())
        return "\n".join(lines) + "\n"

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ctrl_c(self) -> None:
        """To the whole foreground process group, as a terminal does."""
        os.killpg(self.pid, signal.SIGINT)

    def end(self) -> Ended:
        """Wait until it has ended by itself."""
        out, err = self._process.communicate(timeout=GUARD_S)
        return Ended(self._process.returncode, (self._read + out).decode(), (err or b"").decode())

    def kill(self) -> None:
        """kill -9, and wait until the kernel has done it. Harmless when it has ended."""
        self._process.kill()
        self._process.communicate(timeout=GUARD_S)


@contextmanager
def program(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    err_to_out: bool = False,
    in_background: bool = False,
) -> Iterator[Program]:
    """Run `python -m proxy ARGUMENTS…`; it has ended when the block has."""
    with python(
        *("-m", "proxy", *arguments),
        cwd=cwd,
        env=env,
        err_to_out=err_to_out,
        in_background=in_background,
    ) as running:
        yield running


@contextmanager
def python(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    err_to_out: bool = False,
    in_background: bool = False,
) -> Iterator[Program]:
    """Run `python ARGUMENTS…`, as `program` does."""
    running = Program(
        *arguments, cwd=cwd, env=env or {}, err_to_out=err_to_out, in_background=in_background
    )
    try:
        yield running
    finally:
        running.kill()


def run(*arguments: str, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
    """Run `python -m proxy ARGUMENTS…` to its end."""
    with program(*arguments, cwd=cwd, env=env) as running:
        return running.end()


# ---------------------------------------------------------------- what is left


def at_work_on(state: Path, besides: int = 0) -> list[int]:
    """Processes that name this directory on their command line, or run in it (the store's, which
    changes its title): the store, the simulator, and the demo itself but for `besides`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == besides:
            continue
        try:
            words = (entry / "cmdline").read_bytes()  # empty for a zombie
            folder = (entry / "cwd").readlink()
        except OSError:
            continue
        if os.fsencode(state) in words or folder == state:
            found.append(int(entry.name))
    return found


def is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# ---------------------------------------------------------------- talking to it


@dataclass(frozen=True, slots=True)
class Reply:
    status: int
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def ask(url: str, token: str | None = None, body: object = None, method: str = "GET") -> Reply:
    """One request; `body` is sent as JSON, by POST."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    data = None
    if body is not None:
        method, data = "POST", json.dumps(body).encode()
        headers["Content-Type"] = "application/json"
    request = urllib.request.Request(url, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=GUARD_S) as reply:
            return Reply(reply.status, reply.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return Reply(refusal.code, refusal.read())
