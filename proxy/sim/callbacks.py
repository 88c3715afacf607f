"""Kling's callbacks: one POST for each status change, in order for a task, never repeated."""

from __future__ import annotations

import asyncio
import json

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar
from multidict import CIMultiDict

from proxy.sim.log import Log

_TIMEOUT_S = 10.0


class Callbacks:
    def __init__(self, log: Log) -> None:
        self._log = log
        self._session: ClientSession | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._last: dict[str, asyncio.Task[None]] = {}

    def notify(self, url: str, task_id: str, body: dict[str, object]) -> None:
        """Returns at once; the log has the delivery as operation "callback"."""
        previous = self._last.get(task_id)
        job = asyncio.create_task(
            self._deliver(url, task_id, body, previous), name=f"callback {task_id}"
        )
        self._last[task_id] = job
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)

    async def close(self) -> None:
        for job in list(self._jobs):
            job.cancel()
        if self._jobs:
            await asyncio.wait(list(self._jobs))
        self._last.clear()
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _deliver(
        self,
        url: str,
        task_id: str,
        body: dict[str, object],
        previous: asyncio.Task[None] | None,
    ) -> None:
        if previous is not None and not previous.done():
            await asyncio.wait([previous])
        if self._session is None:
            self._session = ClientSession(
                cookie_jar=DummyCookieJar(), timeout=ClientTimeout(total=_TIMEOUT_S)
            )
        headers = CIMultiDict({"Content-Type": "application/json"})
        entry = self._log.open("kling", "callback", "POST", url, headers)
        entry.task_id = task_id
        entry.body = body
        data = json.dumps(body, separators=(",", ":")).encode()
        entry.body_size = len(data)
        try:
            async with self._session.post(
                url, data=data, headers=headers, allow_redirects=False
            ) as response:
                entry.status = response.status
        except (ClientError, TimeoutError):
            entry.aborted = True
        finally:
            if self._last.get(task_id) is asyncio.current_task():
                del self._last[task_id]
            self._log.close(entry)
