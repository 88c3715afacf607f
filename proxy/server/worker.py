"""One worker: it puts the rooms together, listens, and leaves politely.

SIGTERM and SIGINT drain: readiness goes off, no new connections, requests and bodies finish up
to `drain_s`, then what still moves is cut so that its client can resume elsewhere. A second
signal cuts it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog
from prometheus_client import (
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
)

from proxy.admin.app import make_app
from proxy.admin.workers import Alone, WorkerInfo
from proxy.config import Config
from proxy.config.reload import Reloaded, has_failed, read_again
from proxy.dialects import DIALECTS
from proxy.errors import ProxyError
from proxy.gateway.auth import Authenticator
from proxy.gateway.content import ContentServer
from proxy.gateway.handler import Gateway
from proxy.gateway.limits import StreamLeases, StreamLimits
from proxy.gateway.listener import Listener, ListenerOptions
from proxy.gateway.memos import RequestMemos
from proxy.model import Task
from proxy.providers import PROVIDERS
from proxy.server import systemd
from proxy.server.bootstrap import (
    keep_alive,
    lacking,
    listen_on,
    make_state_dir,
    serve_admin,
    signing_secrets,
    url_of,
)
from proxy.server.embedded_store import Embedded
from proxy.server.gauges import Gauges, watch_loop
from proxy.server.signals import let_go
from proxy.store import LineEntry, OwnerRecord, Store, StoreDown, TokenRecord
from proxy.store.cache import ReadCache, StoreHealth
from proxy.store.capabilities import FULL_MARK
from proxy.tasks.changes import TaskChanges
from proxy.tasks.dispatch import Dispatcher
from proxy.tasks.fetch import Fetcher
from proxy.tasks.links import Links
from proxy.tasks.provider_calls import ProviderCalls
from proxy.tasks.queue import QueueSender
from proxy.tasks.runtime import Runtime
from proxy.tasks.spool import Spool
from proxy.tasks.submission import Submitter
from proxy.tasks.tracker import Tracker
from proxy.tasks.webhooks import WebhookSender
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.logs import sink_of, tune
from proxy.telemetry.metric_definitions import CONNECTIONS, LIMIT_REACHED, RELOAD_FAILED, STREAMS
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.rate_limited_log import RateLimitedLog
from proxy.telemetry.tracing import NO_TRACING, Both, SpanTracer, Tracer, missing
from proxy.upstream import Deadlines, Upstreams

TOKENS_KEPT = 10_000
OWNERS_KEPT = 10_000
TASKS_KEPT = 20_000
FULLNESS_S = 1.0
SWEEP_S = 2.0
KEPT_S = 3.0  # most clients that keep a connection and are busy use it in that time
CUT_S = 3.0  # how long the drain waits for what it has cut; a body looks once a second


class Server:
    """`async with Server(config, log)` serves until the block ends; `run` until a signal.

    `sockets`, for clients and for the admin port, may be bound before; the server closes them.
    `supervised` is for one of several workers: the URL of the store, which its supervisor has
    started; the admin port is the supervisor's too. CannotServe, StoreUnusable and StoreDown:
    it could not start.
    """

    def __init__(
        self,
        config: Config,
        log: structlog.stdlib.BoundLogger,
        clock: Callable[[], float] = time.time,
        sockets: tuple[socket.socket | None, socket.socket | None] | None = None,
        supervised: str | None = None,
    ) -> None:
        self.config = config
        self.log = log
        self._clock = clock
        self._random = random.SystemRandom()
        self.metrics = Metrics(self._config)
        self.registry = CollectorRegistry()
        self.registry.register(self.metrics)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.access_log = AccessLog(self.metrics, log)
        tune(log, config)
        self._memos = RequestMemos()
        self._stack = contextlib.AsyncExitStack()
        self._sockets = sockets or (None, None)
        self._supervised = supervised
        self.tracing: Tracer = NO_TRACING
        self._draining = False
        self._is_full = False
        self._hurry = asyncio.Event()
        self._cut_bodies = asyncio.Event()
        self.last_reload: Reloaded | None = None
        self.metrics.sample(RELOAD_FAILED, lambda: has_failed(self.last_reload))
        self.url = ""
        self.admin_url = ""

    async def __aenter__(self) -> Server:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._stack.aclose()

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then drain; a second signal ends the drain's wait."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def signalled() -> None:
            (self._hurry if stop.is_set() else stop).set()

        def told_to_reload() -> None:
            systemd.notify_reloading()
            self.reload()
            systemd.notify("READY=1")

        def not_upgraded() -> None:
            self.log.error(
                "upgrade failed: [server] workers is 1, so there is no supervisor; restart instead"
            )

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled)
        # A supervised worker reloads when its supervisor asks. It leaves SIGHUP blocked, so a
        # signal sent to it directly does nothing.
        if self._supervised is None:
            loop.add_signal_handler(signal.SIGHUP, told_to_reload)
            loop.add_signal_handler(signal.SIGUSR2, not_upgraded)
            let_go()
        systemd.notify("READY=1", f"STATUS=serving {self.url}")
        try:
            await stop.wait()
            systemd.notify("STOPPING=1", "STATUS=draining")
            await self.drain()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
                loop.remove_signal_handler(number)

    def reload(self) -> Reloaded:
        """Read the configuration file again (see `read_again`)."""
        now_ms = int(self._clock() * 1000)
        self.config, self.last_reload = read_again(self.config, now_ms, self.log)
        tune(self.log, self.config)
        return self.last_reload

    async def drain(self) -> None:
        """Stop accepting, let what is under way finish, cut the rest. Idempotent."""
        if self._draining:
            return
        self._draining = True
        self.log.info("draining", seconds=self.config.timeouts.drain_s)
        self.changes.close()
        drain_s = self.config.timeouts.drain_s
        kept_s = min(KEPT_S, drain_s / 10)
        await self.listener.stop_accepting(kept_s)
        self._front.close()  # the listener had a copy: a connection would wait here unanswered
        hurry = asyncio.create_task(self._hurry.wait())
        idle = asyncio.create_task(self.listener.wait_idle(drain_s, kept_s))
        try:
            await asyncio.wait({hurry, idle}, return_when=asyncio.FIRST_COMPLETED)
            if idle.done() and idle.result():
                return
        finally:
            hurry.cancel()
            idle.cancel()
        why = "drain hurried" if self._hurry.is_set() else "drain deadline reached"
        self.log.warning(why, connections=self.listener.connections)
        self._cut_bodies.set()
        await self.listener.wait_idle(CUT_S)

    # ------------------------------------------------------------ putting it together

    async def _start(self) -> None:
        config, stack = self.config, self._stack
        stack.callback(self.access_log.flush)
        make_state_dir(config.server.state_dir, "[server] state_dir")
        # Bound before all else: a busy port should cost nothing but its one line.
        front, back = self._sockets
        front = front or listen_on(config.server.listen, "[server] listen")
        self._front = stack.enter_context(front)
        if self._supervised is None:
            back = back or listen_on(config.admin.listen, "[admin] listen")
            stack.enter_context(back)
        await self._open_store()
        runtime = self._runtime()
        store_health = StoreHealth()
        heard, grace_s = self._is_listening, self._grace_s
        tokens = ReadCache(self.store.tokens.get, heard, TOKENS_KEPT, grace_s, health=store_health)
        owners = ReadCache(self._owner, heard, OWNERS_KEPT, grace_s, health=store_health)
        tasks = ReadCache(self.store.tasks.get, heard, TASKS_KEPT, grace_s, health=store_health)
        self.spool = Spool(
            config.server.state_dir,
            upload_bytes=config.limits.upload_bytes,
            total_bytes=config.limits.spool_bytes,
            body_bytes=config.limits.body_bytes,
        )
        upstreams = Upstreams(
            Deadlines(
                config.timeouts.connect_s,
                config.timeouts.submit_s,
                config.timeouts.poll_s,
                config.timeouts.idle_upstream_s,
            ),
            self.metrics,
            rcvbuf_bytes=config.limits.upstream_rcvbuf_bytes,
        )
        stack.push_async_callback(upstreams.aclose)
        auth = Authenticator(tokens, owners, signing_secrets(config), self._clock, self._memos)
        self.tracker = Tracker(
            runtime, self.store, ProviderCalls(runtime, PROVIDERS, self.store, upstreams)
        )
        stack.push_async_callback(self.tracker.aclose)
        self.changes = TaskChanges(tasks.get)
        self._beside(self._watch_fullness(), "watch the store's memory")
        self._beside(self._sweep(), "sweep the store's indexes")

        submitter = self._submitter(runtime, upstreams, auth)
        self.streams = self._stream_limits(runtime)
        self.content = ContentServer(
            runtime,
            PROVIDERS,
            auth,
            tasks,
            self.tracker.calls,
            upstreams,
            self._cut_bodies,
            self.streams,
        )
        stack.callback(self.content.close)
        links = Links(signing_secrets(config), lambda: self.public_url)
        self.webhook_sender = WebhookSender(
            runtime, DIALECTS, self.store, upstreams, links, signing_secrets(config)
        )
        stack.push_async_callback(self.webhook_sender.aclose)
        self.gateway = Gateway(
            runtime,
            DIALECTS,
            auth,
            self.store,
            tasks,
            store_health,
            self.spool,
            submitter,
            self.content,
            self.streams,
            self.tracker,
            self.changes,
            links,
            self.access_log,
            request_ids(os.urandom),
            self._memos,
            int(self._clock()),
        )
        await self._follow(tokens, owners, tasks)
        self.listener = self._listener()
        stack.push_async_callback(self.listener.close)
        self._count_open()
        self.gauges = Gauges(runtime, self.store, self.tracker.oldest_tasks)
        await self.gauges.refresh()
        self._beside(self.gauges.run(), "refresh the gauges")
        self._beside(watch_loop(self.metrics), "watch the event loop")
        self.url = url_of(await self.listener.start(sock=front))
        if back is not None:
            await self._start_admin(back)
        self.tracker.start()
        self.queue.start()
        self.webhook_sender.start()
        if self._supervised is None:
            self.log.info("serving", url=self.url, admin_url=self.admin_url)

    def _stream_limits(self, runtime: Runtime) -> StreamLimits:
        leases = StreamLeases(self.store.streams, secrets.token_hex(8), self._clock, self.log)
        self._beside(leases.run(), "renew the leases of downloads")
        return StreamLimits(runtime, leases)

    def _listener(self) -> Listener:
        config = self.config
        return Listener(
            self.gateway.handle,
            ListenerOptions(
                head_s=config.timeouts.head_s,
                body_idle_s=config.timeouts.body_idle_s,
                keepalive_s=config.timeouts.keepalive_s,
                max_connections=config.limits.connections,
            ),
            lambda line: self.log.info("connection", what=line),
            self.metrics.counter(LIMIT_REACHED, "connections"),
        )

    def _count_open(self) -> None:
        self.metrics.sample(CONNECTIONS, lambda: self.listener.connections)
        self.metrics.sample(STREAMS, lambda: self.streams.total)

    def _runtime(self) -> Runtime:
        return Runtime(
            self._config,
            self._clock,
            self._random.random,
            self.metrics,
            self.log,
            self.tracing,
        )

    def _submitter(self, runtime: Runtime, upstreams: Upstreams, auth: Authenticator) -> Submitter:
        """Build the submitter, the queue and their dispatcher; they close in that order."""

        def callback_url(task_id: str) -> str | None:
            if self.config.server.public_url is None:
                return None  # nobody told us an address that a provider could reach
            return self.config.public_url + auth.callback_path(task_id)

        dispatcher = Dispatcher(
            runtime,
            self.store,
            upstreams,
            Fetcher(upstreams, self.spool, lambda: self.config.media),
        )
        self._stack.push_async_callback(dispatcher.aclose)
        self.queue = QueueSender(
            runtime,
            PROVIDERS,
            self.store,
            dispatcher,
            callback_url,
        )
        self._stack.push_async_callback(self.queue.aclose)
        submitter = Submitter(
            runtime,
            PROVIDERS,
            self.store,
            self.changes,
            dispatcher,
            self.queue,
            callback_url,
            lambda: self._is_full,
            secrets.token_hex,
        )
        self._stack.push_async_callback(submitter.aclose)
        return submitter

    async def _open_store(self) -> None:
        """The store, and beneath it an embedded server of our own where that is wanted."""
        url = self._supervised or self.config.redis.url
        if url == "embedded":
            # Started, not attached to: a command that happened to own it would take it along.
            embedded = await Embedded.start(
                self.config.server.state_dir,
                always_fsync=self.config.redis.durability == "fsync",
                memory=self.config.redis.embedded_memory,
            )
            self._stack.push_async_callback(embedded.stop)
            self._beside(keep_alive(embedded, self.metrics, self.log), "keep the store alive")
            url = embedded.url
        self.store_url = url
        tracer = self._span_tracer()
        self.tracing = tracer or NO_TRACING
        self.store = await Store.open(
            url,
            timeout_s=self.config.redis.timeout_s,
            observer=self.metrics if tracer is None else Both(self.metrics, tracer),
        )
        self._stack.push_async_callback(self.store.close)
        if tracer is not None:
            self._stack.push_async_callback(tracer.aclose)

    def _span_tracer(self) -> SpanTracer | None:
        """None with tracing off. Only here are the libraries of tracing imported."""
        settings = self.config.tracing
        if settings.endpoint is None or missing(settings) is not None:
            return None
        from proxy.telemetry.otlp import OtlpExporter

        def warn(why: str) -> None:
            self.log.warning("traces not exported", why=why)

        async def time_line(task_id: str) -> tuple[LineEntry, ...]:
            return await self.store.tasks.time_line(task_id)

        exporter = OtlpExporter(
            settings.endpoint, settings.service_name, secrets.token_hex(8), warn
        )
        self._stack.push_async_callback(exporter.aclose)
        return SpanTracer(
            exporter,
            time_line,
            settings.sample,
            lambda: sink_of(self.log).redactor,
            self._clock,
        )

    def _beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """A job that goes on until the server ends."""
        self._stack.push_async_callback(_ended, asyncio.create_task(work, name=name))

    async def _follow(
        self, tokens: ReadCache[TokenRecord], owners: ReadCache[OwnerRecord], tasks: ReadCache[Task]
    ) -> None:
        """Keep the mirrors true by the store's channel."""

        caches: dict[str, ReadCache[TokenRecord] | ReadCache[OwnerRecord] | ReadCache[Task]] = {
            "token": tokens,
            "owner": owners,
            "task": tasks,
        }

        def changed(kind: str, key: str, _version: int) -> None:
            for name, cache in caches.items():
                if name == kind:
                    cache.invalidate(key)
                else:
                    cache.invalidate_reads()
            if kind == "task":
                self.changes.notify(key)
            elif kind == "hook":
                self.webhook_sender.wake()
            elif kind == "place":
                self.queue.wake()

        def lost() -> None:
            for cache in caches.values():
                cache.invalidate_all()
            self.changes.notify_all()
            self.queue.wake()

        await self.store.listen(changed, lost)

    async def _start_admin(self, bound: socket.socket) -> None:
        info = WorkerInfo(os.getpid(), int(self._clock() * 1000))
        fleet = Alone(
            self.registry, self.why_not_ready, self.reload, lambda: self.last_reload, info
        )
        app = make_app(
            fleet,
            self._config,
            self.store,
            clock=self._clock,
            secret=signing_secrets(self.config)[0],
            api_url=lambda: self.url,
            public_url=lambda: self.public_url,
            log=self.log,
        )
        self.admin_url = await serve_admin(app, bound, self._stack, self.config, self.log)

    async def why_not_ready(self) -> str | None:
        if self._draining:
            return "draining"
        return lacking(self.config) or await self.store.trouble()

    async def _watch_fullness(self) -> None:
        """Above the mark new tasks are refused, while polls and downloads go on."""
        while True:
            with contextlib.suppress(StoreDown):
                self._is_full = await self.store.fullness() > FULL_MARK
            await asyncio.sleep(FULLNESS_S)

    async def _sweep(self) -> None:
        """Take what has expired out of the indexes that outlive it."""
        troubles = RateLimitedLog(self.log)
        while True:
            await asyncio.sleep(SWEEP_S)
            try:
                await self.store.ended.sweep(int(self._clock() * 1000))
            except ProxyError as error:
                troubles.warning("store indexes not swept", why=str(error))

    # ------------------------------------------------------------ what rooms ask for

    @property
    def public_url(self) -> str:
        return self.config.server.public_url or self.url

    async def _owner(self, name: str) -> OwnerRecord | None:
        return await self.store.owners.get(name)

    def _is_listening(self) -> bool:
        return self.store.is_listening

    def _grace_s(self) -> float:
        return self.config.timeouts.redis_grace_s

    def _config(self) -> Config:
        return self.config


def request_ids(entropy: Callable[[int], bytes]) -> Callable[[], str]:
    """Makes names of requests: 96 random bits each, fetched many at a time."""

    def names() -> Iterator[str]:
        while True:
            block = entropy(12 * 256).hex()
            for start in range(0, len(block), 24):
                yield "req_" + block[start : start + 24]

    return names().__next__


async def _ended(job: asyncio.Task[None]) -> None:
    job.cancel()
    await asyncio.wait([job])
