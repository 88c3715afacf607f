"""Child processes: they die with their parent, and their end is an event.

Rule: start them from the main thread only. PR_SET_PDEATHSIG means the death of the *thread* that
forked; a program that replaces itself (`execve`) stays the same parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from typing import Final

from proxy.server.bootstrap import let_go

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(parent: int) -> Callable[[], None]:
    """For the child, between fork and exec: SIGTERM to it when `parent` (our pid) dies. All is
    loaded before the fork: a forked child of a threaded process may not import or allocate."""
    libc = ctypes.CDLL(None, use_errno=True)

    def arm() -> None:
        let_go()
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        if os.getppid() != parent:  # it died before the signal was armed
            os._exit(1)

    return arm


class Adopted:
    """A child that was started by the program this one replaced. It has as much of
    `subprocess.Popen` as is needed to end it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                self.returncode = -1  # somebody else has its status; it is gone
            else:
                if pid:
                    self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            with contextlib.suppress(ChildProcessError):
                _, status = os.waitpid(self.pid, 0)
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode if self.returncode is not None else -1

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def when_ended(pid: int, then: Callable[[], None]) -> None:
    """Call `then` on the event loop once the child is dead; it still has to be waited for."""
    loop = asyncio.get_running_loop()
    descriptor = os.pidfd_open(pid)

    def readable() -> None:
        loop.remove_reader(descriptor)
        os.close(descriptor)
        then()

    loop.add_reader(descriptor, readable)
