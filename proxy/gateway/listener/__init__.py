"""The HTTP server towards clients: aiohttp's low-level server with its gaps closed.

Rule: every connection is bounded from its first byte to its last. A head has a deadline, a
body an idle deadline, an idle keep-alive connection a lifetime, a closing connection a limit
on how long it may hold unsent bytes, and their number has a cap.

A handler answers with a `WholeReply` (head and body in one write), or opens a `StreamReply`,
moves the body itself through `request.transport`, and returns that reply. When a body cannot
be finished it calls `cut` first, so that a short body never looks whole.
"""

from __future__ import annotations

from proxy.gateway.listener.accept import Handler, Listener
from proxy.gateway.listener.bodies import read_body
from proxy.gateway.listener.conn import Conn, ListenerOptions
from proxy.gateway.listener.replies import (
    FlowHook,
    Headers,
    StreamReply,
    WholeReply,
    conn_of,
    cut,
    header_block,
)
from proxy.gateway.listener.sockets import PortBusy, address_of, bind, bind_shared

__all__ = [
    "Conn",
    "FlowHook",
    "Handler",
    "Headers",
    "Listener",
    "ListenerOptions",
    "PortBusy",
    "StreamReply",
    "WholeReply",
    "address_of",
    "bind",
    "bind_shared",
    "conn_of",
    "cut",
    "header_block",
    "read_body",
]
