"""The admin port: the control plane's application, served by the clients' listener.

So a connection here is bounded as one there: by the head's deadline, the body's, and their number.
"""

from __future__ import annotations

import socket
from typing import Final, cast

import structlog
from aiohttp import web

from proxy.config import Config
from proxy.gateway.listener import Handler, Listener, ListenerOptions

Log = structlog.stdlib.BoundLogger

SHUTDOWN_S: Final = 3.0  # what is still being answered then is cut
MOST_CONNECTIONS: Final = 256  # they share the process, and its open files, with the clients' port


def options_of(config: Config) -> ListenerOptions:
    """The limits of the admin port: the times of the clients' port, fewer connections."""
    return ListenerOptions(
        head_s=config.timeouts.head_s,
        body_idle_s=config.timeouts.body_idle_s,
        keepalive_s=config.timeouts.keepalive_s,
        max_connections=MOST_CONNECTIONS,
    )


class AdminPort:
    """An application served by the clients' listener. A handler whose client has left is cancelled:
    that ends the video it was streaming."""

    def __init__(self, app: web.Application, options: ListenerOptions, log: Log) -> None:
        self._app = app
        # Its life only: started up, shut down and cleaned up. It has no socket.
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        self._bound: socket.socket | None = None
        self._listener = Listener(
            cast("Handler", app._handle),
            options,
            lambda line: log.info("admin connection", what=line),
            make_request=app._make_request,
        )

    async def start(self, bound: socket.socket) -> None:
        """Serve it on this socket until `cleanup`, which closes the socket too."""
        self._bound = bound
        try:
            await self._runner.setup()
            await self._listener.start(sock=bound)
        except BaseException:
            await self.cleanup()
            raise

    async def cleanup(self) -> None:
        await self._listener.wait_idle(SHUTDOWN_S)
        await self._listener.close()
        await self._runner.cleanup()
        if self._bound is not None:
            self._bound.close()


async def open_port(
    app: web.Application, bound: socket.socket, options: ListenerOptions, log: Log
) -> AdminPort:
    """Serve it on this socket until the port's `cleanup`."""
    port = AdminPort(app, options, log)
    await port.start(bound)
    return port
