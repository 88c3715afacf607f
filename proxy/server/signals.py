"""Signals that come while nobody is there to heed them wait, instead of ending the process."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import Final

# What a program that is starting cannot answer yet, and would die of.
EARLY: Final = (signal.SIGHUP, signal.SIGUSR2)
# And what one that replaces itself has to answer afterwards.
ALL: Final = (*EARLY, signal.SIGTERM, signal.SIGINT)


def hold(numbers: Iterable[signal.Signals]) -> None:
    """They wait, also across an `execve`, until `let_go`. A child process inherits this: it lets
    go before it begins (`children.die_with_parent`)."""
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def let_go() -> None:
    """What has waited comes now: for when the handlers are in place."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ALL)
