"""Webhooks out: telling clients that their task has moved.

A hook is written by the very change it tells of, so none is lost and none is made up; it is
leased, sent, retried with growing pauses for 72 hours, then dead, and can be sent again.

Rule: a webhook goes only where the SSRF guard lets it, follows no redirect, and carries nothing
but the event and its signature (Standard Webhooks, as OpenAI's own are signed).

Rule: a receiver hears of a task's changes one after the other, and never of an older one again:
what failed is not sent any more once a later one is due.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from proxy.dialects.base import Dialect, View
from proxy.errors import Conflict, NotFound, ProxyError, Unavailable, UpstreamTrouble
from proxy.model import DialectName, Stage, Status, Task
from proxy.signing import sign_webhook
from proxy.store import Store, StoreFault, TokenRecord
from proxy.store.notice import Webhook
from proxy.tasks.jobs import Jobs, Rounds
from proxy.tasks.links import Links
from proxy.tasks.runtime import Runtime
from proxy.telemetry.metric_definitions import WEBHOOKS
from proxy.telemetry.rate_limited_log import RateLimitedLog
from proxy.tokens import webhook_secret
from proxy.upstream import Upstreams

AT_ONCE = 256  # webhooks under way in one worker
AT_ONCE_EACH = 32  # of them for one token: a receiver that hangs holds up its own alone
TICK_S = 0.5  # how often it looks for hooks that are due, when the channel names none
# How long a hook waits while its task is being told something else, while its token has its
# share, and while that token's receiver is one that takes longer than `SLOW_S`.
TASK_BUSY_MS = 100
TOKEN_BUSY_MS = 500
TOKEN_SLOW_MS = 15_000
SLOW_S = 2.0
CLOSE_S = 1.0  # how long a worker that stops waits for receivers to answer
LEASE_MARGIN_S = 10.0  # beside what a delivery may take
GIVE_UP_S = 72 * 3600.0
MAX_PAUSE_S = 3600.0
PULL_BACK_EVERY_S = 10.0
MAX_LOG = 16
_EVENT_ID = re.compile(r"evt_([0-9a-f]+)_([0-9]+)")


class WebhookSender:
    """Runs until `aclose`; any number of workers share the work."""

    def __init__(
        self,
        runtime: Runtime,
        dialects: Mapping[DialectName, Dialect],
        store: Store,
        upstreams: Upstreams,
        links: Links,
        secrets: Sequence[bytes],
    ) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._dialects = dialects
        self._store = store
        self._upstreams = upstreams
        self._links = links
        self._secrets = tuple(secrets)
        self._clock = runtime.clock
        self._random01 = runtime.random01
        self._metrics = runtime.metrics
        self._log = runtime.log
        self._troubles = RateLimitedLog(runtime.log)
        self._rounds = Rounds(self._round, lambda: TICK_S, runtime.log, "webhooks")
        self._jobs = Jobs(runtime.log)
        self._pull_back_s = 0.0  # on the loop's clock
        self._under_way: dict[str, dict[str, float]] = {}  # by token: task id → since when
        self._now_ms = runtime.now_ms

    def start(self) -> None:
        self._rounds.start()

    async def aclose(self) -> None:
        """What is under way may end, for a little while: a hook cut off is sent again."""
        await self._rounds.aclose()
        await self._jobs.drain(CLOSE_S)
        await self._jobs.aclose()

    def wake(self) -> None:
        """A hook was written: it is due."""
        self._rounds.wake()

    # ------------------------------------------------------------ what is due

    def _lost_shard(self, shard: str, fault: ProxyError) -> None:
        """The webhooks of one shard cannot be found; those of the others go on."""
        why = getattr(fault, "reason", fault.message)
        self._troubles.error(
            "due webhooks of a shard unreadable", about=shard, shard=shard, why=why
        )

    async def _round(self) -> bool:
        """Lease what is due and start a job for each; True when there was any."""
        await self._jobs.wait_fewer(AT_ONCE)
        room = AT_ONCE - len(self._jobs)
        await self._pull_back()
        names = await self._store.webhooks.claim_due(
            self._now_ms(), self._lease_ms(), room, self._lost_shard
        )
        for name in names:
            self._jobs.start(self._deliver(name), f"webhook {name}", **_ids(name))
        return bool(names)

    async def _pull_back(self) -> None:
        """Now and then: times of attempts that a clock which had jumped ahead has left behind."""
        loop_s = asyncio.get_running_loop().time()
        if loop_s < self._pull_back_s:
            return
        self._pull_back_s = loop_s + PULL_BACK_EVERY_S
        longest_ms = round(1.2 * MAX_PAUSE_S * 1000) + self._lease_ms()
        pulled = await self._store.webhooks.pull_back(self._now_ms(), longest_ms)
        if pulled:
            self._log.warning("due times of webhooks corrected", webhooks=pulled)

    def _lease_ms(self) -> int:
        """Longer than a delivery: nobody else may be handed a hook that is being sent."""
        timeouts = self._config().timeouts
        return round((timeouts.connect_s + timeouts.poll_s + LEASE_MARGIN_S) * 1000)

    async def _deliver(self, name: str) -> None:
        try:
            hook = await self._store.webhooks.get(name)
            if hook is None or hook.state != "pending":
                await self._store.webhooks.forget(name)
                return
            busy_ms = self._busy_ms(hook)
            if busy_ms:
                await self._store.webhooks.put_back(name, self._now_ms() + busy_ms)
                return
            under_way = self._under_way.setdefault(hook.token_id, {})
            under_way[hook.task_id] = asyncio.get_running_loop().time()
            try:
                await self._record(hook, await self._attempt(hook))
            finally:
                del under_way[hook.task_id]
                if not under_way:
                    del self._under_way[hook.token_id]
        except StoreFault as fault:
            self._log.error("webhook dropped", **_ids(name), why=fault.reason)
            await self._drop(name)
        except Unavailable as down:
            self._troubles.warning("webhook not recorded", **_ids(name), why=str(down))
        except Exception:  # noqa: BLE001 -- the outermost rim: logged; the lease brings it back
            self._troubles.exception("webhook failed", **_ids(name))

    def _busy_ms(self, hook: Webhook) -> int:
        """How long it has to wait: one delivery of a task at a time, so that they arrive in
        order, and few of a token. 0: it is free to go."""
        under_way = self._under_way.get(hook.token_id, {})
        if hook.task_id in under_way:
            return TASK_BUSY_MS
        if len(under_way) < AT_ONCE_EACH:
            return 0
        oldest_s = asyncio.get_running_loop().time() - min(under_way.values())
        return TOKEN_SLOW_MS if oldest_s > SLOW_S else TOKEN_BUSY_MS

    async def _drop(self, name: str) -> None:
        try:
            await self._store.webhooks.forget(name)
        except ProxyError as error:
            self._troubles.warning("webhook not recorded", **_ids(name), why=str(error))

    # ------------------------------------------------------------ one attempt

    async def _attempt(self, hook: Webhook) -> str:
        """`ok`, `gone` or `outdated` when there is nothing (more) to tell, or what went wrong."""
        task = await self._store.tasks.get(hook.task_id)
        record = await self._store.tokens.get(hook.token_id)
        if task is None or task.deleted or record is None or record.revoked_ms is not None:
            return "gone"
        if hook.attempts and task.status is not hook.status:
            return "outdated"
        body, headers = self._message(hook, as_it_was(task, hook), record)
        allowed = frozenset(self._config().webhooks.allow)
        start_ns = self._tracing.now_ns()
        try:
            status = await self._upstreams.notify(hook.url, body, headers, allowed)
        except UpstreamTrouble as trouble:
            self._tracing.record_webhook(task, hook, start_ns, None, type(trouble).__name__)
            return str(trouble)
        self._tracing.record_webhook(task, hook, start_ns, status, None)
        return "ok" if 200 <= status < 300 else f"answered {status}"

    def _message(
        self, hook: Webhook, task: Task, record: TokenRecord
    ) -> tuple[bytes, dict[str, str]]:
        now_s = int(self._clock())
        event_id = event_id_of(hook)
        view = View(task, *self._links.of(task))
        body = self._dialects[hook.dialect].notice(view, hook.status, event_id, hook.created_ms)
        # One for each signing secret of ours: a receiver takes whichever it knows, so that a
        # rotation of them breaks nobody.
        signatures = (
            sign_webhook(webhook_secret(s, record.id, record.generation), event_id, now_s, body)
            for s in self._secrets
        )
        return body, {
            "Content-Type": "application/json",
            "webhook-id": event_id,
            "webhook-timestamp": str(now_s),
            "webhook-signature": " ".join(signatures),
        }

    async def _record(self, hook: Webhook, what: str) -> None:
        now_ms = self._now_ms()
        tried = replace(
            hook,
            attempts=hook.attempts + 1,
            log=(*hook.log, (now_ms, what[:200]))[-MAX_LOG:],
        )
        first_s = self._config().webhooks.first_pause_s
        if what == "ok":
            await self._store.webhooks.write(replace(tried, state="delivered"), now_ms, None)
            self._metrics.count(WEBHOOKS, "delivered")
        elif what in ("gone", "outdated") or waited_s(tried.attempts, first_s) > GIVE_UP_S:
            await self._store.webhooks.write(replace(tried, state="dead"), now_ms, None)
            self._metrics.count(WEBHOOKS, "dead")
            self._log.warning("webhook given up", **_ids(hook.name), why=what)
        else:
            pause_ms = pause_s(tried.attempts, first_s) * 1000 * (0.9 + 0.2 * self._random01())
            await self._store.webhooks.write(tried, now_ms, now_ms + round(pause_ms))
            self._metrics.count(WEBHOOKS, "failed")
            host = urlsplit(hook.url).netloc
            self._troubles.info("webhook not delivered", about=host, **_ids(hook.name), why=what)


def _ids(name: str) -> dict[str, str]:
    """How log lines name a webhook; its name begins with its task's id."""
    return {"task_id": name.partition(":")[0], "webhook": name}


def event_id_of(hook: Webhook) -> str:
    """The same for every attempt: receivers know by it what they have had."""
    return "evt_" + hook.name.removeprefix("video_").replace(":", "_")


def name_of(text: str) -> str:
    """A hook's name, from the name itself or the id of its event, which a receiver knows."""
    event = _EVENT_ID.fullmatch(text)
    return f"video_{event[1]}:{event[2]}" if event else text


async def replay(store: Store, name: str, now_ms: int) -> Webhook:
    """Make a webhook due again, for another three days if need be. `NotFound` when there is no
    such, `Conflict` when its task has expired, without which there is nothing to tell."""
    hook = await store.webhooks.get(name)
    if hook is None:
        raise NotFound(f"There is no webhook '{name[:80]}'.")
    if await store.tasks.get(hook.task_id) is None:
        raise Conflict(f"The task of webhook {name} has expired.")
    again = replace(hook, state="pending", attempts=0)
    await store.webhooks.write(again, now_ms, now_ms)
    return again


def as_it_was(task: Task, hook: Webhook) -> Task:
    """The task as the change left it that the hook tells of, when it has moved on since."""
    if task.status is hook.status:
        return task
    stage = {Status.QUEUED: Stage.QUEUED, Status.IN_PROGRESS: Stage.IN_PROGRESS}.get(hook.status)
    if stage is None:
        return task  # ended is ended
    return replace(
        task,
        stage=stage,
        updated_ms=hook.created_ms,
        progress=0,
        results=(),
        error=None,
        native={},
        completed_ms=None,
        expires_ms=None,
    )


def pause_s(attempts: int, first_s: float) -> float:
    """After so many attempts: `first_s`, twice that, four times … an hour."""
    return min(first_s * 2.0 ** min(attempts - 1, 60), MAX_PAUSE_S)


def waited_s(attempts: int, first_s: float) -> float:
    """All pauses of so many attempts."""
    return sum(pause_s(n, first_s) for n in range(1, attempts + 1))
