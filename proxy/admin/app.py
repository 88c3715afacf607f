"""The control plane's own application: health, readiness and metrics are open, the rest needs
the admin token. It knows neither the gateway nor the relay, only what it is handed.
"""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

import aiohttp_cors
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from proxy.admin.fleet import Fleet
from proxy.config import Config
from proxy.store import Store

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def make_app(
    fleet: Fleet,
    config: Callable[[], Config],
    store: Store,
    *,
    clock: Callable[[], float],
    secret: bytes,
    api_url: Callable[[], str],
    public_url: Callable[[], str],
    log: structlog.stdlib.BoundLogger,
) -> web.Application:
    """The admin port's application. `clock` gives seconds since the epoch; `secret` is the
    gateway's first signing secret; `api_url` is where the clients' port is reached on this
    machine (`http://…` or `unix:/…`), `public_url` where clients reach it."""
    token = config().admin.token

    @web.middleware
    async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
        is_preflight = (
            request.method == "OPTIONS"
            and "Origin" in request.headers
            and "Access-Control-Request-Method" in request.headers
        )
        if request.path in OPEN_PATHS or is_preflight or _may_enter(request, token):
            return await handler(request)
        return web.json_response(
            {"error": {"message": "Send the admin token as 'Authorization: Bearer …'."}},
            status=401,
            headers={"WWW-Authenticate": "Bearer"},
        )

    async def healthz(_request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        why_not = await fleet.why_not_ready()
        if why_not is None:
            return web.json_response({"status": "ready"})
        return web.json_response({"status": "not ready", "why": why_not}, status=503)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=await fleet.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application(middlewares=[gate])
    cors = aiohttp_cors.setup(app)
    for path, handler in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        cors.add(app.router.add_get(path, handler))
    return app


def _may_enter(request: web.Request, token: str | None) -> bool:
    sent = request.headers.get("Authorization", "")
    return token is not None and hmac.compare_digest(
        sent.encode("utf-8", "surrogateescape"), f"Bearer {token}".encode()
    )
