"""Processes: started on a core, counted by the kernel's own books, ended by their pid.

Rule: nothing outlives the run. A process is registered for its end before anything waits for
it, and gets SIGTERM from the kernel if this one dies.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import random
import re
import signal
import socket
import subprocess
import termios
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.needs import BenchError

START_S: Final = 20.0
STOP_S: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1
_PORTS: Final = range(20_000, 30_000)
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Process:
    """A running program and its children."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path | None) -> None:
        self.name = name
        self._popen = popen
        self._log = log

    @property
    def pid(self) -> int:
        return self._popen.pid

    def check(self) -> None:
        """Raises BenchError with what it said last if it has ended."""
        if self._popen.poll() is None:
            return
        said = ""
        if self._log is not None and self._log.exists():
            said = "\n  ".join(self._log.read_text(errors="replace").splitlines()[-5:])
        raise BenchError(f"{self.name} ended with {self._popen.returncode}:\n  {said}")

    def stop(self) -> None:
        left = [pid for pid in tree(self.pid) if pid != self.pid]
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(STOP_S)
            except subprocess.TimeoutExpired:
                left = [pid for pid in tree(self.pid) if pid != self.pid]
                self._popen.kill()
                self._popen.wait()
                for pid in left:  # what it would have ended itself
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)


def spawn(
    stack: contextlib.ExitStack,
    name: str,
    argv: Sequence[str],
    cores: Iterable[int],
    log: Path | None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Process:
    """Start `argv` on `cores`; `stack` ends it. `log` None throws its output away."""
    with contextlib.ExitStack() as files:
        out = files.enter_context(log.open("ab")) if log is not None else subprocess.DEVNULL
        popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            preexec_fn=armed(set(cores)),  # noqa: PLW1509 -- this process has one thread
        )
    process = Process(name, popen, log)
    stack.callback(process.stop)
    return process


def armed(cores: set[int]) -> Callable[[], None]:
    """For between fork and exec: to its cores, and dying with us."""
    libc = ctypes.CDLL(None, use_errno=True)

    def arm() -> None:
        os.sched_setaffinity(0, cores)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return arm


def wait_port(process: Process, port: int) -> None:
    """Until it accepts on 127.0.0.1:`port`."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        process.check()
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.01)
    raise BenchError(f"{process.name} does not listen on port {port} after {START_S:g} s")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on, and none that the kernel gives to outgoing connections: a
    contender that is started again must find its port free."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found.append(port)
        if len(found) == count:
            break
    return found


# ---------------------------------------------------------------- the kernel's books


def tree(root: int) -> list[int]:
    """`root` and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                children.setdefault(int(_stat(int(entry.name))[1]), []).append(int(entry.name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """/proc/<pid>/stat from its third field on; the second may hold spaces."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of these processes so far."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        total += int(fields[11]) + int(fields[12])
    return total / _TICKS


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes. `kernel` is what its TCP sockets hold and what waits in its pipes."""

    user: int
    kernel: int

    def __sub__(self, other: Memory) -> Memory:
        return Memory(self.user - other.user, self.kernel - other.kernel)


def memory(pids: Sequence[int]) -> Memory:
    return Memory(sum(map(_pss, pids)), _socket_bytes(pids) + sum(map(_pipe_bytes, pids)))


def _pss(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = re.search(r"^Pss:\s*(\d+) kB", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _socket_bytes(pids: Sequence[int]) -> int:
    """Received and not read, written and not acknowledged, and allotted ahead."""
    ours = {f"pid={pid}," for pid in pids}
    done = subprocess.run(["ss", "-HOtmpn"], capture_output=True, text=True, check=True, timeout=30)
    total = 0
    for line in done.stdout.splitlines():
        if any(mark in line for mark in ours):
            held = re.search(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+)", line)
            if held:
                total += sum(map(int, held.groups()))
    return total


def _pipe_bytes(pid: int) -> int:
    """What waits in this process's pipes, each counted once."""
    total = 0
    seen: set[str] = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(link)
            if not target.startswith("pipe:") or target in seen:
                continue
            end = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            try:
                waiting = array.array("i", [0])
                fcntl.ioctl(end, termios.FIONREAD, waiting)
                total += waiting[0]
                seen.add(target)
            finally:
                os.close(end)
    return total
