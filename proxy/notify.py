"""Webhooks out: telling clients that their task has moved.

A hook is written by the very change it tells of, so none is lost and none is made up; it is
leased, sent, retried with growing pauses for 72 hours, then dead, and can be sent again.

Rule: a webhook goes only where the SSRF guard lets it, follows no redirect, and carries nothing
but the event and its signature (Standard Webhooks, as OpenAI's own are signed).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from proxy.config import Config
from proxy.dialects.base import Dialect, View
from proxy.errors import Unavailable
from proxy.links import Links
from proxy.model import DialectName, Hook
from proxy.signing import sign_webhook
from proxy.store import Store
from proxy.tokens import webhook_secret
from proxy.upstream import Upstreams, UpstreamTrouble

AT_ONCE = 16
TICK_S = 0.5
LEASE_MS = 60_000
GIVE_UP_MS = 72 * 3600 * 1000
FIRST_PAUSE_S = 5.0
MAX_PAUSE_S = 3600.0
MAX_LOG = 16


class Notifier:
    """Runs until `aclose`; any number of workers share the work. `tick_s` is how often it looks
    for hooks that are due, when the channel names none."""

    def __init__(
        self,
        config: Callable[[], Config],
        dialects: Mapping[DialectName, Dialect],
        store: Store,
        upstreams: Upstreams,
        links: Links,
        secret: bytes,
        clock: Callable[[], float],
        random01: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._config = config
        self._dialects = dialects
        self._store = store
        self._upstreams = upstreams
        self._links = links
        self._secret = secret
        self._clock = clock
        self._random01 = random01
        self._log = log
        self._loop_job: asyncio.Task[None] | None = None
        self._jobs: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()

    def start(self) -> None:
        self._loop_job = asyncio.create_task(self._run(), name="notifier")

    async def aclose(self) -> None:
        jobs = [*self._jobs, *([self._loop_job] if self._loop_job else [])]
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    def wake(self) -> None:
        """Something changed: there may be a hook to send."""
        self._wake.set()

    async def _run(self) -> None:
        while True:
            found = 0
            try:
                found = await self._claim()
            except Unavailable as down:
                self._log.warning("webhooks cannot reach the store", why=str(down))
            except Exception:  # noqa: BLE001 -- the outermost rim: logged
                self._log.exception("webhook round failed")
            if found == 0:
                self._wake.clear()
                await asyncio.wait([asyncio.create_task(self._wake.wait())], timeout=TICK_S)

    async def _claim(self) -> int:
        room = AT_ONCE - len(self._jobs)
        if room <= 0:
            await asyncio.wait(set(self._jobs), return_when=asyncio.FIRST_COMPLETED)
            return 1
        names = await self._store.hooks.claim_due(self._now_ms(), LEASE_MS, room)
        for name in names:
            job = asyncio.create_task(self._send(name), name=f"webhook {name}")
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)
        return len(names)

    async def _send(self, name: str) -> None:
        try:
            hook = await self._store.hooks.get(name)
            if hook is None:
                await self._store.hooks.forget(name)
                return
            what = await self._deliver(hook)
            await self._record(hook, what)
        except Unavailable as down:
            self._log.warning("webhook not recorded", hook=name, why=str(down))
        except Exception:  # noqa: BLE001 -- the outermost rim: logged; the lease brings it back
            self._log.exception("webhook failed", hook=name)

    async def _deliver(self, hook: Hook) -> str:
        """One attempt: `ok` or what went wrong."""
        task = await self._store.tasks.get(hook.task_id)
        record = await self._store.tokens.get(hook.token_id)
        if task is None or record is None or record.revoked_ms is not None:
            return "gone"
        now_s = int(self._clock())
        event_id = "evt_" + hook.name.removeprefix("video_").replace(":", "_")
        view = View(task, *self._links.of(task))
        body = self._dialects[hook.dialect].notice(view, hook.status, event_id, hook.created_ms)
        secret = webhook_secret(self._secret, record.id, record.generation)
        headers = {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": sign_webhook(secret, event_id, now_s, body),
        }
        allowed = frozenset(self._config().webhooks.allow)
        try:
            status = await self._upstreams.notify(hook.url, body, headers, allowed)
        except UpstreamTrouble as trouble:
            return str(trouble)
        return "ok" if 200 <= status < 300 else f"answered {status}"

    async def _record(self, hook: Hook, what: str) -> None:
        now_ms = self._now_ms()
        tried = replace(
            hook,
            attempts=hook.attempts + 1,
            log=(*hook.log, (now_ms, what[:200]))[-MAX_LOG:],
        )
        if what == "ok":
            await self._store.hooks.write(replace(tried, state="delivered"), now_ms, None)
        elif what == "gone" or now_ms - hook.created_ms > GIVE_UP_MS:
            self._log.warning("webhook given up", hook=hook.name, why=what)
            await self._store.hooks.write(replace(tried, state="dead"), now_ms, None)
        else:
            self._log.info("webhook not delivered", hook=hook.name, why=what)
            await self._store.hooks.write(tried, now_ms, now_ms + self._pause_ms(tried.attempts))

    def _pause_ms(self, attempts: int) -> int:
        """5 s, 10 s, 20 s … an hour, ±10 %."""
        pause_s = min(FIRST_PAUSE_S * 2.0 ** (attempts - 1), MAX_PAUSE_S)
        return round(pause_s * 1000 * (0.9 + 0.2 * self._random01()))

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
