"""The service manager's protocols: readiness by NOTIFY_SOCKET, listening sockets by LISTEN_FDS.
Without a service manager both do nothing.

The protocols are those of sd_notify(3) and sd_listen_fds(3).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final

FIRST_FD: Final = 3


def notify(*lines: str) -> bool:
    """Send `READY=1`, `STATUS=…` and the like; False without a service manager."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):  # an abstract socket
        address = "\0" + address[1:]
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock,
        suppress(OSError),
    ):
        sock.connect(address)
        sock.sendall("\n".join(lines).encode())
        return True
    return False


def notify_reloading() -> bool:
    """A reload begins; the next READY=1 is its end."""
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={microseconds}")


def inherited(environ: MutableMapping[str, str] | None = None) -> dict[str, socket.socket]:
    """The listening sockets we were started with, by name (`FileDescriptorName=`): `web` and
    `admin`; a nameless first one is `web`. The variables are taken away, so that no child of
    ours takes them for its own."""
    environ = os.environ if environ is None else environ
    meant_for = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if meant_for != str(os.getpid()) or not count.isdecimal():
        return {}
    found: dict[str, socket.socket] = {}
    for index in range(int(count)):
        descriptor = FIRST_FD + index
        os.set_inheritable(descriptor, False)
        name = names[index] if index < len(names) else ""
        if name not in ("web", "admin"):
            name = "admin" if "web" in found else "web"
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        found[name] = sock
    return found
