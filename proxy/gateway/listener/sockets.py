"""Listening sockets: bound once, shared or handed on, and named as the configuration names them."""

from __future__ import annotations

import os
import socket
from typing import cast

BACKLOG = 1024


class PortBusy(OSError):
    """Another program listens there already; the message is one sentence for the operator."""


def bind(listen: str, *, reuse_port: bool = False, alone: bool = False) -> socket.socket:
    """A listening, non-blocking socket for `host:port`, `[v6]:port` or `unix:/path`.

    A host name binds its first IPv4 address, or its first IPv6 one if it has no other. A unix
    socket nobody answers on is a leftover of a killed process and is replaced.
    `reuse_port` lets further sockets of ours share the port; with `alone` nobody may be there
    yet. Raises PortBusy, another OSError, or ValueError for an address of another form.
    """
    if listen.startswith("unix:"):
        return _bind_unix(listen.removeprefix("unix:"))
    host, colon, port = listen.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isdecimal()):
        raise ValueError(f"cannot listen on {listen!r}: want host:port or unix:/path")
    found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    family, kind, proto, _, address = min(found, key=lambda row: row[0] != socket.AF_INET)
    sock = socket.socket(family, kind, proto)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if alone and address[1]:
            with socket.socket(family, kind, proto) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _bind(trial, address, listen, backlog=None)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        _bind(sock, address, listen)
    except BaseException:
        sock.close()
        raise
    return sock


def bind_shared(listen: str, count: int) -> list[socket.socket]:
    """`count` listening sockets on one address, one for each process: the kernel spreads new
    connections over them. A unix path has one, which all share. Raises as `bind`."""
    if listen.startswith("unix:"):
        sock = bind(listen)
        return [sock, *(sock.dup() for _ in range(count - 1))]
    # SO_REUSEPORT would let us in beside another gateway of this user without a word.
    first = bind(listen, reuse_port=True, alone=True)
    found = [first]
    try:
        found += [bind(address_of(first), reuse_port=True) for _ in range(count - 1)]
    except BaseException:
        for sock in found:
            sock.close()
        raise
    return found


def _bind_unix(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if os.path.exists(path):
            try:
                sock.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            else:
                raise PortBusy(f"cannot listen on unix:{path}: another process listens there")
        _bind(sock, path, f"unix:{path}")
    except BaseException:
        sock.close()
        raise
    return sock


def _bind(
    sock: socket.socket, address: object, listen: str, *, backlog: int | None = BACKLOG
) -> None:
    """`backlog` None: only find out whether one could."""
    sock.setblocking(False)
    try:
        sock.bind(cast("str", address))
        if backlog is not None:
            sock.listen(backlog)
    except OSError as exc:
        kind = PortBusy if exc.errno == 98 else OSError  # EADDRINUSE
        why = "another process listens there" if kind is PortBusy else exc.strerror
        raise kind(exc.errno, f"cannot listen on {listen}: {why}") from exc


def address_of(sock: socket.socket) -> str:
    """What `bind` would take to name this socket: `host:port`, `[v6]:port` or `unix:/path`."""
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    return f"[{name[0]}]:{name[1]}" if sock.family == socket.AF_INET6 else f"{name[0]}:{name[1]}"
