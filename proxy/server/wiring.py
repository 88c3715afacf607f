"""The parts of one worker, each built from those above it.

`build` reads from top to bottom: store, caches, upstreams, tasks, gateway, listener. Each part is
given what it needs and is closed by `stack` in the opposite order. `worker.Server` binds the
sockets, starts the ports and ends the whole.

Rule: settings a part takes only while it is built are read here as `config.section.key`; the page
docs/configuration.md says of these that they wait for a restart.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final

import structlog

from proxy.config import Config
from proxy.dialects import DIALECTS
from proxy.gateway.auth import Authenticator
from proxy.gateway.content import ContentServer
from proxy.gateway.handler import Gateway
from proxy.gateway.limits import StreamLeases, StreamLimits
from proxy.gateway.listener import Listener, ListenerOptions
from proxy.gateway.memos import RequestMemos
from proxy.model import Task
from proxy.providers import PROVIDERS
from proxy.server.bootstrap import signing_secrets
from proxy.server.embedded_store import Embedded
from proxy.server.gauges import Gauges, watch_loop
from proxy.server.store_jobs import Fullness, keep_alive, sweep
from proxy.store import LineEntry, OwnerRecord, Store, TokenRecord
from proxy.store.cache import ReadCache, StoreHealth
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
from proxy.telemetry.logs import sink_of
from proxy.telemetry.metric_definitions import CONNECTIONS, LIMIT_REACHED, STREAMS
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import NO_TRACING, Both, SpanTracer, missing
from proxy.upstream import Deadlines, Upstreams

TOKENS_KEPT: Final = 10_000
OWNERS_KEPT: Final = 10_000
TASKS_KEPT: Final = 20_000


@dataclass(frozen=True, slots=True)
class Process:
    """What a worker has before its parts. `config` gives the settings in force, which a reload
    replaces; `cut_bodies` is set when the drain cuts what still moves."""

    config: Callable[[], Config]
    clock: Callable[[], float]
    metrics: Metrics
    log: structlog.stdlib.BoundLogger
    access_log: AccessLog
    public_url: Callable[[], str]
    cut_bodies: asyncio.Event


@dataclass(frozen=True, slots=True)
class Caches:
    """What workers read most, kept by each of them. `health`: whether the store answers."""

    tokens: ReadCache[TokenRecord]
    owners: ReadCache[OwnerRecord]
    tasks: ReadCache[Task]
    health: StoreHealth


@dataclass(frozen=True, slots=True)
class Parts:
    """The built parts that something outside them starts, asks or ends."""

    store_url: str
    store: Store
    spool: Spool
    tracker: Tracker
    changes: TaskChanges
    queue: QueueSender
    webhook_sender: WebhookSender
    content: ContentServer
    streams: StreamLimits
    listener: Listener
    gauges: Gauges

    def start(self) -> None:
        """Start the work that no request asks for: polls, queued submits, webhooks."""
        self.tracker.start()
        self.queue.start()
        self.webhook_sender.start()


async def build(process: Process, shared_store: str | None, stack: AsyncExitStack) -> Parts:
    """Build all parts; `stack` ends them. `shared_store` is the URL of a supervisor's store.

    StoreUnusable and StoreDown: there is no store to serve with.
    """
    config, clock, log, metrics = process.config(), process.clock, process.log, process.metrics
    signing = signing_secrets(config)

    # The store, and tracing, which observes it.
    store_url = shared_store or await _store_url(process, stack)
    store, tracer = await _open_store(process, store_url, stack)
    runtime = Runtime(
        process.config,
        clock,
        random.SystemRandom().random,
        metrics,
        log,
        tracer or NO_TRACING,
    )
    fullness = Fullness(store)
    beside(stack, fullness.watch(), "watch the store's memory")
    beside(stack, sweep(store, runtime), "sweep the store's indexes")

    # Caches of what every request reads.
    caches = _caches(process, store)

    # Connections to providers.
    upstreams = Upstreams(
        Deadlines(
            config.timeouts.connect_s,
            config.timeouts.submit_s,
            config.timeouts.poll_s,
            config.timeouts.idle_upstream_s,
        ),
        metrics,
        rcvbuf_bytes=config.limits.upstream_rcvbuf_bytes,
    )
    stack.push_async_callback(upstreams.aclose)

    # The life of a task: poll, submit, queue, webhooks.
    memos = RequestMemos()
    auth = Authenticator(caches.tokens, caches.owners, signing, clock, memos)

    def callback_url(task_id: str) -> str | None:
        if process.config().server.public_url is None:
            return None  # nobody told us an address that a provider could reach
        return process.config().public_url + auth.callback_path(task_id)

    spool = Spool(
        config.server.state_dir,
        upload_bytes=config.limits.upload_bytes,
        total_bytes=config.limits.spool_bytes,
        body_bytes=config.limits.body_bytes,
    )
    calls = ProviderCalls(runtime, PROVIDERS, store, upstreams)
    tracker = Tracker(runtime, store, calls)
    stack.push_async_callback(tracker.aclose)
    changes = TaskChanges(caches.tasks.get)
    fetcher = Fetcher(upstreams, spool, lambda: process.config().media)
    dispatcher = Dispatcher(runtime, store, upstreams, fetcher)
    stack.push_async_callback(dispatcher.aclose)
    queue = QueueSender(runtime, PROVIDERS, store, dispatcher, callback_url)
    stack.push_async_callback(queue.aclose)
    submitter = Submitter(
        runtime,
        PROVIDERS,
        store,
        changes,
        dispatcher,
        queue,
        callback_url,
        lambda: fullness.is_full,
        secrets.token_hex,
    )
    stack.push_async_callback(submitter.aclose)
    links = Links(signing, process.public_url)
    webhook_sender = WebhookSender(runtime, DIALECTS, store, upstreams, links, signing)
    stack.push_async_callback(webhook_sender.aclose)

    # The clients' port.
    leases = StreamLeases(store.streams, secrets.token_hex(8), clock, log)
    beside(stack, leases.run(), "renew the leases of downloads")
    streams = StreamLimits(runtime, leases)
    content = ContentServer(
        runtime, PROVIDERS, auth, caches.tasks, calls, upstreams, process.cut_bodies, streams
    )
    stack.callback(content.close)
    gateway = Gateway(
        runtime,
        DIALECTS,
        auth,
        store,
        caches.tasks,
        caches.health,
        spool,
        submitter,
        content,
        streams,
        tracker,
        changes,
        links,
        process.access_log,
        request_ids(os.urandom),
        memos,
        int(clock()),
    )
    listener = Listener(
        gateway.handle,
        ListenerOptions(
            head_s=config.timeouts.head_s,
            body_idle_s=config.timeouts.body_idle_s,
            keepalive_s=config.timeouts.keepalive_s,
            max_connections=config.limits.connections,
        ),
        lambda line: log.info("connection", what=line),
        metrics.counter(LIMIT_REACHED, "connections"),
    )
    stack.push_async_callback(listener.close)
    metrics.sample(CONNECTIONS, lambda: listener.connections)
    metrics.sample(STREAMS, lambda: streams.total)

    # What keeps all of this current.
    gauges = Gauges(runtime, store, tracker.oldest_tasks)
    await gauges.refresh()
    beside(stack, gauges.run(), "refresh the gauges")
    beside(stack, watch_loop(metrics), "watch the event loop")
    parts = Parts(
        store_url,
        store,
        spool,
        tracker,
        changes,
        queue,
        webhook_sender,
        content,
        streams,
        listener,
        gauges,
    )
    await _follow(parts, caches)
    return parts


# ---------------------------------------------------------------- the store


async def _store_url(process: Process, stack: AsyncExitStack) -> str:
    """The URL of [redis]; for "embedded", of a server started here."""
    config = process.config()
    if config.redis.url != "embedded":
        return config.redis.url
    # Started, not attached to: a command that happened to own it would take it along.
    embedded = await Embedded.start(
        config.server.state_dir,
        always_fsync=config.redis.durability == "fsync",
        memory=config.redis.embedded_memory,
    )
    stack.push_async_callback(embedded.stop)
    beside(stack, keep_alive(embedded, process.metrics, process.log), "keep the store alive")
    return embedded.url


async def _open_store(
    process: Process, url: str, stack: AsyncExitStack
) -> tuple[Store, SpanTracer | None]:
    async def time_line(task_id: str) -> tuple[LineEntry, ...]:
        return await store.tasks.time_line(task_id)

    tracer = _span_tracer(process, time_line, stack)
    store = await Store.open(
        url,
        timeout_s=process.config().redis.timeout_s,
        observer=process.metrics if tracer is None else Both(process.metrics, tracer),
    )
    stack.push_async_callback(store.close)
    if tracer is not None:
        stack.push_async_callback(tracer.aclose)
    return store, tracer


def _span_tracer(
    process: Process,
    time_line: Callable[[str], Coroutine[Any, Any, tuple[LineEntry, ...]]],
    stack: AsyncExitStack,
) -> SpanTracer | None:
    """None with tracing off. Only here are the libraries of tracing imported."""
    settings = process.config().tracing
    if settings.endpoint is None or missing(settings) is not None:
        return None
    from proxy.telemetry.otlp import OtlpExporter

    def warn(why: str) -> None:
        process.log.warning("traces not exported", why=why)

    exporter = OtlpExporter(settings.endpoint, settings.service_name, secrets.token_hex(8), warn)
    stack.push_async_callback(exporter.aclose)
    return SpanTracer(
        exporter,
        time_line,
        settings.sample,
        lambda: sink_of(process.log).redactor,
        process.clock,
    )


def _caches(process: Process, store: Store) -> Caches:
    health = StoreHealth()

    def is_listening() -> bool:
        return store.is_listening

    def grace_s() -> float:
        return process.config().timeouts.redis_grace_s

    async def owner(name: str) -> OwnerRecord | None:
        return await store.owners.get(name)

    return Caches(
        ReadCache(store.tokens.get, is_listening, TOKENS_KEPT, grace_s, health=health),
        ReadCache(owner, is_listening, OWNERS_KEPT, grace_s, health=health),
        ReadCache(store.tasks.get, is_listening, TASKS_KEPT, grace_s, health=health),
        health,
    )


async def _follow(parts: Parts, caches: Caches) -> None:
    """Keep the caches true by the store's channel, and wake what waits for a change."""
    by_kind: dict[str, ReadCache[TokenRecord] | ReadCache[OwnerRecord] | ReadCache[Task]] = {
        "token": caches.tokens,
        "owner": caches.owners,
        "task": caches.tasks,
    }

    def changed(kind: str, key: str, _version: int) -> None:
        for name, cache in by_kind.items():
            if name == kind:
                cache.invalidate(key)
            else:
                cache.invalidate_reads()
        if kind == "task":
            parts.changes.notify(key)
        elif kind == "hook":
            parts.webhook_sender.wake()
        elif kind == "place":
            parts.queue.wake()

    def lost() -> None:
        for cache in by_kind.values():
            cache.invalidate_all()
        parts.changes.notify_all()
        parts.queue.wake()

    await parts.store.listen(changed, lost)


# ---------------------------------------------------------------- small things


def request_ids(entropy: Callable[[int], bytes]) -> Callable[[], str]:
    """Makes names of requests: 96 random bits each, fetched many at a time."""

    def names() -> Iterator[str]:
        while True:
            block = entropy(12 * 256).hex()
            for start in range(0, len(block), 24):
                yield "req_" + block[start : start + 24]

    return names().__next__


def beside(stack: AsyncExitStack, work: Coroutine[Any, Any, None], name: str) -> None:
    """A job that goes on until `stack` ends."""
    stack.push_async_callback(_ended, asyncio.create_task(work, name=name))


async def _ended(job: asyncio.Task[None]) -> None:
    job.cancel()
    await asyncio.wait([job])
