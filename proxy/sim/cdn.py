"""The file host behind Kling's and Jimeng's result links."""

from __future__ import annotations

from collections.abc import Sequence

from multidict import MultiMapping

from proxy.sim.files import file_reply
from proxy.sim.links import Links
from proxy.sim.reply import Reply
from proxy.sim.service import Call, Route
from proxy.sim.tasks import Failure, Tasks

_CODES = {400: "InvalidArgument", 403: "AccessDenied", 404: "NoSuchKey", 429: "SlowDown"}


class Cdn:
    name = "cdn"

    def __init__(self, tasks: Tasks, links: Links) -> None:
        self._tasks = tasks
        self._links = links

    def routes(self) -> Sequence[Route]:
        return tuple(
            Route(method, "/files/{name}", "file", self._file) for method in ("GET", "HEAD")
        )

    def operation(self, named: str, query: MultiMapping[str]) -> str:
        return named

    def unknown(self, call: Call) -> Reply:
        return self.error(404, None, None)

    def error(self, status: int, code: int | str | None, message: str | None) -> Reply:
        name = code or _CODES.get(status, "InternalError")
        body = f"<Error><Code>{name}</Code><Message>{message or name}</Message></Error>"
        return Reply(status, (("Content-Type", "application/xml"),), body.encode())

    def failure(self, code: int | str | None) -> Failure:
        raise ValueError("The file host has no tasks.")

    def _file(self, call: Call) -> Reply:
        """A link already carries its right to be fetched: a second one, in Authorization, is
        an error, as at S3 and Volcengine's TOS."""
        if "Authorization" in call.headers:
            return self.error(400, None, "Only one authentication mechanism is allowed")
        file_id = self._links.check(call.target)
        if file_id is None:
            return self.error(403, None, "Request has expired or its signature is wrong")
        found = self._tasks.result(file_id)
        if found is None or found[0].state != "completed":
            return self.error(404, None, None)
        task, result = found
        call.entry.task_id = task.id
        return file_reply(self._tasks.clip(task, result), call.headers, call.plan)
