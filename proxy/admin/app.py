"""The control plane's own application. Health, readiness, metrics, the document and the console's
files stand open, and so do signed addresses of videos; everything else wants the admin token.

It knows neither the gateway nor the relay, only what it is handed. Rule: whatever is asked, the
answer to it is JSON in one shape, and never a traceback.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import AsyncIterator, Callable
from importlib import resources
from typing import Any, Final

import aiohttp_cors
import orjson
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from aiohttp_cors import ResourceOptions
from prometheus_client import CONTENT_TYPE_LATEST

from proxy.admin import (
    content,
    ledger,
    overview,
    owners,
    playground,
    tasks,
    tokens,
    upstreams,
    webhooks,
)
from proxy.admin.auth import AdminAuth
from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.data_port import DataPort
from proxy.admin.openapi import document
from proxy.admin.request import MAX_BODY_BYTES, read_body, read_query
from proxy.admin.static import Console
from proxy.admin.workers import Workers
from proxy.config import Config
from proxy.errors import EndpointNotFound, MethodNotAllowed, ProxyError, Unavailable
from proxy.store import Store
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Deadlines, Upstreams

Log = structlog.stdlib.BoundLogger

ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    *overview.ACTIONS,
    *tokens.ACTIONS,
    *owners.ACTIONS,
    *upstreams.ACTIONS,
    *tasks.ACTIONS,
    *ledger.ACTIONS,
    *webhooks.ACTIONS,
    *playground.ACTIONS,
)
OPEN: Final = frozenset(
    {"/", "/console/{name}", "/healthz", "/readyz", "/metrics", "/openapi.json", content.PATH}
)
_METHODS: Final = ("GET", "HEAD", "POST", "PATCH")


def make_app(
    workers: Workers,
    config: Callable[[], Config],
    store: Store,
    *,
    clock: Callable[[], float],
    secret: bytes,
    api_url: Callable[[], str],
    public_url: Callable[[], str],
    log: Log,
) -> web.Application:
    """The admin port's application, for `open_port`. `clock` gives seconds since the epoch;
    `secret` is the gateway's first signing secret; `api_url` is where the clients' port is reached
    on this machine (`http://…` or `unix:/…`), `public_url` where clients reach it."""
    timeouts, admin = config().timeouts, config().admin

    def silence_s() -> float:
        now = config().timeouts
        return max(now.submit_s + now.connect_s, now.heal_s + now.idle_upstream_s) + 10.0

    context = AdminContext(
        workers,
        config,
        store,
        clock,
        secrets.token_bytes,
        secret,
        public_url,
        DataPort(api_url, silence_s),
        Upstreams(
            Deadlines(
                timeouts.connect_s, timeouts.submit_s, timeouts.poll_s, timeouts.idle_upstream_s
            ),
            Metrics(config),  # of nobody's traffic: shown nowhere
        ),
        log,
    )
    auth = AdminAuth(admin.token, lambda: config().server.trusted_proxies, clock)
    app = web.Application(
        middlewares=[_answers(log), _authenticated(auth)], client_max_size=MAX_BODY_BYTES
    )
    cors = aiohttp_cors.setup(app, defaults=dict.fromkeys(admin.origins, _options()))
    for method, path, handler in _routes(context):
        cors.add(app.router.add_route(method, path, handler))
        if method == "GET":
            cors.add(app.router.add_route("HEAD", path, handler))
    app.on_response_prepare.append(_harden)

    async def closing(_app: web.Application) -> AsyncIterator[None]:
        yield
        await context.data_port.aclose()
        await context.upstreams.aclose()

    app.cleanup_ctx.append(closing)
    return app


# ---------------------------------------------------------------- routes


def _routes(context: AdminContext) -> list[tuple[str, str, Handler]]:
    console = Console(resources.files("proxy.admin") / "console")

    async def healthz(_request: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def readyz(_request: web.Request) -> web.Response:
        why_not = await context.workers.why_not_ready()
        if why_not is None:
            out = await _unusable(context)
            return _json({"status": "ready", "unusable": out} if out else {"status": "ready"})
        return _json({"status": "not ready", "why": why_not}, 503)

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(
            body=await context.workers.metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=_described(), content_type="application/json")

    async def video(request: web.Request) -> web.StreamResponse:
        return await content.stream(context, request)

    return [
        ("GET", "/healthz", healthz),
        ("GET", "/readyz", readyz),
        ("GET", "/metrics", metrics),
        ("GET", "/openapi.json", openapi),
        ("GET", "/", console.serve),
        ("GET", "/console/{name:.+}", console.serve),
        ("GET", content.PATH, video),
        *((action.method, action.path, _acted(context, action)) for action in ACTIONS),
    ]


@functools.cache
def _described() -> bytes:
    """Return the port's OpenAPI document. It takes 40 ms to make: not before it is asked for."""
    return document(ACTIONS)


def _acted(context: AdminContext, action: Action[Any, Any]) -> Handler:
    async def act(request: web.Request) -> web.Response:
        query = read_query(request, action.query)
        body = action.body() if request.method in ("GET", "HEAD") else None
        if body is None:
            idle_s = context.config().timeouts.body_idle_s
            body = await read_body(request, action.body, idle_s)
        answer = await action.handle(context, AdminRequest(request.match_info, query, body))
        return web.Response(
            body=answer.model_dump_json().encode(),
            status=action.status,
            content_type="application/json",
        )

    return act


def _options() -> ResourceOptions:
    return ResourceOptions(  # type: ignore[no-untyped-call]  # aiohttp-cors has no types here
        allow_headers=("Authorization", "Content-Type", "Range"),
        allow_methods=_METHODS,
        expose_headers=("Accept-Ranges", "Content-Range", "ETag", "Retry-After"),
        max_age=600,
    )


# ---------------------------------------------------------------- around every request


def _authenticated(auth: AdminAuth) -> Middleware:
    @web.middleware
    async def gated(request: web.Request, handler: Handler) -> web.StreamResponse:
        # Decided by the matched route, not by the path, so unknown paths also need the token: a
        # 404 must not reveal which paths exist.
        resource = request.match_info.route.resource
        is_preflight = (
            request.method == "OPTIONS"
            and "Origin" in request.headers
            and "Access-Control-Request-Method" in request.headers
        )
        if not is_preflight and (resource is None or resource.canonical not in OPEN):
            auth.check(request)
        return await handler(request)

    return gated


def _answers(log: Log) -> Middleware:
    @web.middleware
    async def answers(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ProxyError as error:
            if error.status >= 500:
                why = getattr(error, "reason", error.message)
                log.warning("admin request refused", path=request.path, why=why)
            return _refusal(error)
        except web.HTTPMethodNotAllowed as error:
            allow = tuple(sorted(error.allowed_methods))
            return _refusal(
                MethodNotAllowed(f"This path takes {', '.join(allow)}, not {error.method}.", allow)
            )
        except web.HTTPNotFound:
            return _refusal(EndpointNotFound("There is nothing at this path; see /openapi.json."))
        except web.HTTPException as error:  # aiohttp-cors refuses a preflight so
            return _error(error.status, error.text or error.reason, "refused", None)
        except ConnectionError:
            raise
        except Exception:  # the outermost rim: logged
            if request.transport is None or request.transport.is_closing():
                raise
            log.exception("admin request failed", method=request.method, path=request.path)
            return _error(500, "The gateway failed; its log has the rest.", "internal_error", None)

    return answers


def _refusal(error: ProxyError) -> web.Response:
    return _error(error.status, error.message, error.code, error.param, error.headers)


def _error(
    status: int, message: str, code: str, param: str | None, headers: dict[str, str] | None = None
) -> web.Response:
    body = {"error": {"message": message, "code": code, "param": param}}
    return _json(body, status, headers)


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(value), status=status, content_type="application/json", headers=headers
    )


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    headers = response.headers
    headers["Server"] = "reelway"
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
    if request.path.startswith("/api/"):
        headers.setdefault("Cache-Control", "no-store")


async def _unusable(context: AdminContext) -> dict[str, str]:
    """The upstreams that take no submit now, and why: the gateway is ready all the same, for
    polls and downloads go on."""
    try:
        found = await upstreams.wholes(context)
    except Unavailable:
        return {}
    return {name: whole.state for name, whole in found.items() if whole.state != "well"}
