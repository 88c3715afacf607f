"""Kling's text2video and image2video."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from multidict import MultiMapping

from proxy.sim.body import slim
from proxy.sim.kling_rules import Broken, Endpoint, check
from proxy.sim.links import Links
from proxy.sim.reply import Refusal, Reply, json_reply
from proxy.sim.service import Call, Route, Vendor
from proxy.sim.settings import Settings
from proxy.sim.signatures import BadSignature, check_kling_jwt
from proxy.sim.tasks import Failure, Ids, Result, State, Task, Tasks

KEYS = {
    "access_key": "AKSIM0000000000000000000000000001",
    "secret_key": "SKSIM0000000000000000000000000001",  # public on purpose
    "api_key": "kling-sim",
}
_STATES: dict[State, str] = {
    "queued": "submitted",
    "in_progress": "processing",
    "completed": "succeed",
    "failed": "failed",
}
#: code → HTTP status and message, from the page "General information / error codes".
_ERRORS: dict[int, tuple[int, str]] = {
    1000: (401, "Authentication failed"),
    1001: (401, "Authorization is empty"),
    1002: (401, "Authorization is invalid"),
    1003: (401, "Authorization is not yet valid"),
    1004: (401, "Authorization has expired"),
    1100: (429, "Account exception"),
    1101: (429, "Account in arrears"),
    1102: (429, "Resource pack depleted or expired"),
    1103: (403, "Unauthorized access to the requested resource"),
    1200: (400, "Invalid request parameters"),
    1201: (400, "Invalid parameters"),
    1202: (404, "The requested method is invalid"),
    1203: (404, "The requested resource does not exist"),
    1300: (400, "Trigger strategy of the platform"),
    1301: (400, "Trigger the content security policy of the platform"),
    1302: (429, "The API request is too fast"),
    1303: (429, "parallel task over resource pack limit"),
    1304: (429, "Trigger the IP whitelisting policy of the platform"),
    5000: (500, "Server internal error"),
    5001: (503, "The server is temporarily unavailable"),
    5002: (504, "The server internal timeout"),
}
_USUAL = {401: 1002, 403: 1103, 404: 1203, 429: 1302, 500: 5000, 503: 5001, 504: 5002}
_ENDPOINTS: tuple[Endpoint, ...] = ("text2video", "image2video")


class Kling:
    """`notify(url, task id, body)` delivers one callback."""

    name = "kling"

    def __init__(
        self,
        settings: Settings,
        tasks: Tasks,
        links: Links,
        notify: Callable[[str, str, dict[str, object]], None],
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._links = links
        self._notify = notify
        self._ids = Ids(settings.seed, self.name)
        keys = [account.keys_of(self.name, KEYS) for account in settings.accounts]
        self._secrets = {named["access_key"]: named["secret_key"] for named in keys}
        self._accounts = {named["access_key"]: n for n, named in enumerate(keys)}
        self._api_keys = {named["api_key"]: n for n, named in enumerate(keys)}
        tasks.on_change.append(self._changed)

    def tune(self, settings: Mapping[str, object]) -> None:
        """It has no settings of its own."""

    def routes(self) -> Sequence[Route]:
        return tuple(route for endpoint in _ENDPOINTS for route in self._routes_of(endpoint))

    def _routes_of(self, endpoint: Endpoint) -> Sequence[Route]:
        path = f"/v1/videos/{endpoint}"
        return (
            Route("POST", path, "submit", functools.partial(self._submit, endpoint)),
            Route("GET", path, "list", functools.partial(self._list, endpoint)),
            Route("GET", path + "/{id}", "poll", functools.partial(self._get, endpoint)),
        )

    def operation(self, named: str, query: MultiMapping[str]) -> str:
        return named

    def unknown(self, call: Call) -> Reply:
        return self.error(404, 1202, None)

    def error(self, status: int, code: int | str | None, message: str | None) -> Reply:
        number = int(code) if code is not None else _USUAL.get(status, 1200)
        if status >= 500 and code is None and status not in _USUAL:
            number = 5000
        return self._envelope(status, number, message or _message(number))

    def failure(self, code: int | str | None) -> Failure:
        number = 1301 if code is None else int(code)
        return Failure(number, _message(number))

    # -- endpoints ---------------------------------------------------------------------------

    def _submit(self, endpoint: Endpoint, call: Call) -> Reply:
        account = self._account(call)
        if call.body.problem is not None or call.body.is_form:
            raise self._refusal(1200, call.body.problem or "The body must be JSON.")
        try:
            request, images = check(endpoint, call.body.fields)
        except Broken as broken:
            raise self._refusal(broken.code, broken.message) from None
        call.entry.uploads.extend(images)
        external = cast("str | None", request.get("external_task_id")) or ""
        if external and self._by_external(account, external) is not None:
            raise self._refusal(1201, f"external_task_id '{external}' already exists")
        prompts = str([request["prompt"], request.get("multi_prompt")])
        if "forbidden-prompt" in prompts:
            raise self._refusal(1301)
        limit = self._settings.max_in_flight
        if limit is not None and self._tasks.in_flight(self.name, account) >= limit:
            raise self._refusal(1303)
        task = self._tasks.add(
            task_id=self._ids.digits(18),
            service=self.name,
            endpoint=endpoint,
            account=account,
            request=slim(request),
            prompt=prompts,
            result_id=lambda: self._ids.digits(18),
            doom=self.failure(None),
        )
        call.entry.task_id = task.id
        data = self._data(task)
        return self._envelope(200, 0, "SUCCEED", {k: data[k] for k in _SUBMIT_KEYS})

    def _get(self, endpoint: Endpoint, call: Call) -> Reply:
        account = self._account(call)
        asked = call.path["id"]
        task = self._tasks.get(asked)
        if task is None or task.service != self.name:
            task = self._by_external(account, asked)
        call.entry.task_id = task.id if task is not None else asked
        if task is None or task.account != account or task.endpoint != endpoint:
            raise self._refusal(1203, f"task {asked} not found")
        return self._envelope(200, 0, "SUCCEED", self._data(task))

    def _list(self, endpoint: Endpoint, call: Call) -> Reply:
        account = self._account(call)
        page = self._page(call, "pageNum", 1, 1000)
        size = self._page(call, "pageSize", 30, 500)
        tasks = [t for t in self._tasks.of(self.name, account) if t.endpoint == endpoint]
        tasks.reverse()
        shown = tasks[(page - 1) * size : page * size]
        return self._envelope(200, 0, "SUCCEED", [self._data(task) for task in shown])

    def _page(self, call: Call, name: str, default: int, most: int) -> int:
        text = call.query.get(name, str(default))
        if not re.fullmatch(r"\d{1,4}", text, re.ASCII) or not 1 <= int(text) <= most:
            raise self._refusal(1201, f"{name} must be from 1 to {most}")
        return int(text)

    # -- who asks, and for what --------------------------------------------------------------

    def _account(self, call: Call) -> int:
        scheme, _, token = call.headers.get("Authorization", "").partition(" ")
        if not token:
            raise self._refusal(1001 if not scheme else 1002)
        if scheme != "Bearer":
            raise self._refusal(1002)
        account = self._api_keys.get(token)
        if account is None:
            try:
                key = check_kling_jwt(token, self._secrets, self._settings.clock())
            except BadSignature as bad:
                raise self._refusal(bad.code, bad.message) from None
            account = self._accounts[key]
        call.entry.account = account
        return account

    def _by_external(self, account: int, external: str) -> Task | None:
        return next(
            (
                task
                for task in self._tasks.of(self.name, account)
                if task.request.get("external_task_id") == external
            ),
            None,
        )

    # -- replies -----------------------------------------------------------------------------

    def _data(self, task: Task) -> dict[str, object]:
        external = task.request.get("external_task_id")
        data: dict[str, object] = {
            "task_id": task.id,
            "task_status": _STATES[task.state],
            "task_status_msg": task.failure.message if task.failure else "",
            "task_info": {"external_task_id": external} if external else {},
            "created_at": int(task.created_s * 1000),
            "updated_at": int(task.updated_s * 1000),
        }
        if task.state == "completed":
            data["task_result"] = {"videos": [self._result(task, r) for r in task.results]}
            data["watermark_info"] = task.request.get("watermark_info") or {"enabled": False}
            data["final_unit_deduction"] = str(task.request["duration"])
        return data

    def _result(self, task: Task, result: Result) -> dict[str, object]:
        """Its duration is the rendered one: a frame more than was asked for."""
        return {
            "id": result.id,
            "url": self._links.make(result.id),
            "watermark_url": "",
            "duration": f"{int(str(task.request['duration'])) + 0.1:.1f}",
        }

    def _changed(self, task: Task) -> None:
        """Kling posts the bare task, without an envelope, on every status change."""
        url = task.request.get("callback_url") if task.service == self.name else None
        if isinstance(url, str) and url:
            data = self._data(task)
            info = cast("dict[str, object]", data["task_info"])
            self._notify(url, task.id, {**data, "task_info": {**info, "parent_video": None}})

    def _envelope(self, status: int, code: int, message: str, data: object | None = None) -> Reply:
        body: dict[str, object] = {
            "code": code,
            "message": message,
            "request_id": self._ids.uuid(),
        }
        if data is not None:
            body["data"] = data
        return json_reply(status, body)

    def _refusal(self, code: int, message: str | None = None) -> Refusal:
        return Refusal(self._envelope(_ERRORS[code][0], code, message or _message(code)))


_SUBMIT_KEYS = ("task_id", "task_info", "task_status", "created_at", "updated_at")


def _message(code: int) -> str:
    return _ERRORS[code][1] if code in _ERRORS else "Error"


VENDOR = Vendor(
    "kling",
    lambda world: Kling(world.settings, world.tasks, world.links, world.notify),
    KEYS,
)
