"""HTTP in front of one simulated provider: every request is logged, and suffers its faults."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from aiohttp import web

from proxy.sim.body import read_body, slim
from proxy.sim.faults import Fault, Faults, Plan
from proxy.sim.log import Entry, Log
from proxy.sim.reply import Refusal, Reply
from proxy.sim.service import Call, Route, Service
from proxy.sim.wire import Sent, hang_up, send, stand, transport_of

_UNKNOWN = "unknown"
_MAX_BODY_BYTES = 256 * 1024 * 1024
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Edge:
    """`stop` ends every request under way."""

    def __init__(self, service: Service, log: Log, faults: Faults) -> None:
        self._service = service
        self._log = log
        self._faults = faults
        self._open: set[asyncio.Task[object]] = set()
        self._stopping = False

    def application(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY_BYTES)
        for route in self._service.routes():
            app.router.add_route(route.method, route.path, self._handler(route))
        unknown = Route("*", "/{any:.*}", _UNKNOWN, self._service.unknown)
        app.router.add_route(unknown.method, unknown.path, self._handler(unknown))
        return app

    def stop(self) -> None:
        self._stopping = True
        for handler in list(self._open):
            handler.cancel()

    def _handler(self, route: Route) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await self._serve(route, request)

        return handle

    async def _serve(self, route: Route, request: web.Request) -> web.StreamResponse:
        service = self._service
        operation = _UNKNOWN
        if route.operation != _UNKNOWN:
            operation = service.operation(route.operation, request.query)
        target = request.raw_path
        entry = self._log.open(
            service.name, operation, request.method, target, request.headers.copy()
        )
        entry.peer = _peer(request)
        plan = self._faults.plan(service.name, operation, target)
        entry.faults = plan.kinds
        handler = asyncio.current_task()
        assert handler is not None
        self._open.add(handler)
        try:
            keep = await self._exchange(route, request, entry, plan)
        except asyncio.CancelledError:
            entry.aborted = not self._stopping
            raise
        except (ConnectionError, web.RequestPayloadError):
            entry.aborted = True
            keep = False
        finally:
            self._open.discard(handler)
            self._log.close(entry)
        return Sent(keep_alive=keep)

    async def _exchange(self, route: Route, request: web.Request, entry: Entry, plan: Plan) -> bool:
        """One request from its first body byte to its last reply byte."""
        if (fault := plan.get("hangup")) is not None:
            hang_up(request, entry, reset=fault.fault.reset)
            return False
        if (fault := plan.get("hold")) is not None:
            await stand(entry, fault.released, self._log.changed)
        body = await read_body(request)
        entry.body = slim(body.fields)
        entry.body_size = body.size
        entry.uploads = list(body.uploads)
        call = Call(
            method=request.method,
            target=request.raw_path,
            path=dict(request.match_info),
            query=request.query,
            headers=entry.headers,
            body=body,
            entry=entry,
            plan=plan,
        )
        reply = self._refused(plan)
        if reply is None:
            reply = self._answered(route, call)
        self._log.changed()
        if (fault := plan.get("lost")) is not None:
            hang_up(request, entry, reset=fault.fault.reset)
            return False
        transport_of(request)
        return await send(request, reply, plan, entry, self._log.changed)

    def _refused(self, plan: Plan) -> Reply | None:
        """The reply of a fault that keeps the request from being processed."""
        if (fault := plan.get("status")) is not None:
            return self._failed(fault.fault)
        if (fault := plan.get("redirect")) is not None:
            status = fault.fault.status if 300 <= fault.fault.status < 400 else 302
            return Reply(status, (("Location", fault.fault.location), *fault.fault.headers))
        return None

    def _answered(self, route: Route, call: Call) -> Reply:
        try:
            reply = route.answer(call)
        except Refusal as refusal:
            reply = refusal.reply
        if (fault := call.plan.get("accepted_status")) is not None:
            return self._failed(fault.fault)
        if (fault := call.plan.get("members")) is not None:
            reply = _with_members(reply, dict(fault.fault.members))
        if call.plan.get("bom") is not None:
            reply = replace(reply, body=b"\xef\xbb\xbf" + reply.body)
        if (fault := call.plan.get("big_head")) is not None:
            padding = ("X-Padding", "x" * fault.fault.rate)
            reply = replace(reply, headers=(*reply.headers, padding))
        if (fault := call.plan.get("malformed")) is not None:
            half = reply.body[: len(reply.body) // 2]
            text = fault.fault.body
            return replace(reply, body=half if text is None else text.encode(), clip=None)
        return reply

    def _failed(self, fault: Fault) -> Reply:
        reply = self._service.error(fault.status, fault.code, fault.message)
        if fault.body is not None:
            reply = Reply(fault.status, (("Content-Type", "text/html"),), fault.body.encode())
        headers = [*reply.headers, *fault.headers]
        if fault.retry_after is not None:
            headers.append(("Retry-After", fault.retry_after))
        return replace(reply, headers=tuple(headers))


def _with_members(reply: Reply, members: Mapping[str, object]) -> Reply:
    """A JSON reply, changed; any other as it is."""
    try:
        value = json.loads(reply.body)
    except ValueError:
        return reply
    if not isinstance(value, dict):
        return reply
    changed = {
        name: item
        for name, item in {**value, **members}.items()
        if name not in members or item is not None
    }
    return replace(reply, body=json.dumps(changed).encode())


def _peer(request: web.Request) -> str:
    name: Sequence[object] = request.get_extra_info("peername") or ("", "")
    return f"{name[0]}:{name[1]}"
