"""The control endpoint: the in-process API over HTTP, for other processes and languages.

It listens on loopback and asks for no key; it is part of a test bed, not of a service.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Protocol

from aiohttp import web

from proxy.sim.faults import Fault, Faults
from proxy.sim.log import Log
from proxy.sim.service import VendorService
from proxy.sim.tasks import State, Task, Tasks, as_state
from proxy.sim.vendors import VENDORS

_SETTINGS = (
    *("speed", "manual", "size_bytes"),
    *(f"{vendor.name}_{name}" for vendor in VENDORS.values() for name in vendor.settings),
)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Controlled(Protocol):
    """What the control endpoint needs of the simulator (`simulator.Simulator`)."""

    log: Log
    faults: Faults
    tasks: Tasks
    vendors: dict[str, VendorService]

    def describe(self) -> dict[str, object]: ...
    def step(self, upstream_id: str, state: State, progress: int | None = None) -> Task: ...
    def finish(self, upstream_id: str) -> Task: ...
    def fail(self, upstream_id: str, code: int | str | None = None) -> Task: ...
    def forget(self, upstream_id: str) -> None: ...
    def expire_links(self) -> None: ...
    async def refuse(self, service: str) -> None: ...
    async def accept(self, service: str) -> None: ...
    def restart(self, service: str) -> None: ...
    async def reset(self) -> None: ...


class Control:
    def __init__(self, simulator: Controlled) -> None:
        self._simulator = simulator

    def application(self) -> web.Application:
        app = web.Application(middlewares=[_explain])
        routes: tuple[tuple[str, str, _Handler], ...] = (
            ("GET", "/", self._describe),
            ("GET", "/faults", self._list_faults),
            ("POST", "/faults", self._add_faults),
            ("DELETE", "/faults", self._clear_faults),
            ("DELETE", "/faults/{id}", self._remove_fault),
            ("POST", "/faults/{id}/release", self._release_fault),
            ("GET", "/log", self._log),
            ("GET", "/tasks", self._tasks),
            ("POST", "/tasks/{id}/step", self._step),
            ("POST", "/tasks/{id}/finish", self._finish),
            ("POST", "/tasks/{id}/fail", self._fail),
            ("DELETE", "/tasks/{id}", self._forget),
            ("POST", "/settings", self._change),
            ("POST", "/links/expire", self._expire_links),
            ("POST", "/services/{name}/refuse", self._refuse),
            ("POST", "/services/{name}/accept", self._accept),
            ("POST", "/services/{name}/restart", self._restart),
            ("POST", "/reset", self._reset),
        )
        for method, path, handler in routes:
            app.router.add_route(method, path, handler)
        return app

    async def _describe(self, request: web.Request) -> web.Response:
        return web.json_response(self._simulator.describe())

    async def _list_faults(self, request: web.Request) -> web.Response:
        return web.json_response(self._simulator.faults.to_json())

    async def _add_faults(self, request: web.Request) -> web.Response:
        """One fault or a list; answers with the ids. A wrong one adds none."""
        value = await request.json()
        several = value if isinstance(value, list) else [value]
        faults = [Fault.from_json(item) for item in several]
        ids = [self._simulator.faults.add(fault).number for fault in faults]
        return web.json_response({"ids": ids})

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._simulator.faults.clear()
        return web.json_response({})

    async def _remove_fault(self, request: web.Request) -> web.Response:
        self._simulator.faults.remove(self._simulator.faults[_number(request)])
        return web.json_response({})

    async def _release_fault(self, request: web.Request) -> web.Response:
        self._simulator.faults[_number(request)].release()
        return web.json_response({})

    async def _log(self, request: web.Request) -> web.Response:
        """?service=&operation=&after=<number>"""
        query = request.query
        after = int(query.get("after", "0"))
        chosen = self._simulator.log.select(query.get("service"), query.get("operation"))
        return web.json_response([entry.to_json() for entry in chosen if entry.number > after])

    async def _tasks(self, request: web.Request) -> web.Response:
        return web.json_response([task.to_json() for task in self._simulator.tasks])

    async def _step(self, request: web.Request) -> web.Response:
        """{"state": …, "progress": 0-100 or absent}"""
        value = await _object(request)
        progress = value.get("progress")
        if progress is not None and (isinstance(progress, bool) or not isinstance(progress, int)):
            raise ValueError("'progress' must be a whole number.")
        state = as_state(value.get("state"))
        task = self._simulator.step(request.match_info["id"], state, progress)
        return web.json_response(task.to_json())

    async def _finish(self, request: web.Request) -> web.Response:
        return web.json_response(self._simulator.finish(request.match_info["id"]).to_json())

    async def _fail(self, request: web.Request) -> web.Response:
        """{"code": the provider's own code, or absent}"""
        code = (await _object(request)).get("code")
        if code is not None and not isinstance(code, int | str):
            raise ValueError("'code' must be a number or a string.")
        task = self._simulator.fail(request.match_info["id"], code)
        return web.json_response(task.to_json())

    async def _forget(self, request: web.Request) -> web.Response:
        self._simulator.forget(request.match_info["id"])
        return web.json_response({})

    async def _change(self, request: web.Request) -> web.Response:
        """Any of {"speed": >0, "manual": bool, "size_bytes": n or null} and the vendors' own,
        such as "openai_server"."""
        value = await _object(request)
        unknown = sorted(value.keys() - set(_SETTINGS))
        if unknown:
            raise ValueError(f"Unknown setting {unknown[0]!r}; accepted: {', '.join(_SETTINGS)}.")
        tasks = self._simulator.tasks
        speed = value.get("speed", tasks.speed)
        manual = value.get("manual", tasks.manual)
        size = value.get("size_bytes", tasks.size_bytes)
        if isinstance(speed, bool) or not isinstance(speed, int | float) or speed <= 0:
            raise ValueError("'speed' must be a number above 0.")
        if not isinstance(manual, bool):
            raise ValueError("'manual' must be true or false.")
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 0):
            raise ValueError("'size_bytes' must be a whole number from 0, or null.")
        for vendor, service in self._simulator.vendors.items():
            mark = f"{vendor}_"
            own = {name.removeprefix(mark): v for name, v in value.items() if name.startswith(mark)}
            service.tune(own)
        tasks.speed, tasks.manual, tasks.size_bytes = float(speed), manual, size
        return web.json_response({"speed": speed, "manual": manual, "size_bytes": size})

    async def _expire_links(self, request: web.Request) -> web.Response:
        self._simulator.expire_links()
        return web.json_response({})

    async def _refuse(self, request: web.Request) -> web.Response:
        await self._simulator.refuse(request.match_info["name"])
        return web.json_response({})

    async def _accept(self, request: web.Request) -> web.Response:
        await self._simulator.accept(request.match_info["name"])
        return web.json_response({})

    async def _restart(self, request: web.Request) -> web.Response:
        self._simulator.restart(request.match_info["name"])
        return web.json_response({})

    async def _reset(self, request: web.Request) -> web.Response:
        await self._simulator.reset()
        return web.json_response({})


@web.middleware
async def _explain(request: web.Request, handler: _Handler) -> web.StreamResponse:
    """A wrong value is 400 and an unknown name 404, each with a sentence."""
    try:
        return await handler(request)
    except ValueError as exc:
        return web.json_response({"error": str(exc)}, status=400)
    except KeyError as exc:
        return web.json_response({"error": f"There is no {exc}."}, status=404)


async def _object(request: web.Request) -> dict[str, object]:
    """The body as an object; no body is an empty one."""
    text = await request.text()
    value = json.loads(text) if text else {}
    if not isinstance(value, dict):
        raise ValueError("The body must be a JSON object.")
    return value


def _number(request: web.Request) -> int:
    text = request.match_info["id"]
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"{text!r} is not the number of a fault.")
    return int(text)
