"""`GET|HEAD …/content`: the finished video, from whoever holds it to whoever may have it.

`serve` is the whole way, read downwards:
find the result → its conditions → open it → promise a body → send it → end whole or cut.

Rule: once the head is out the status is settled: the body ends whole, or the connection is cut,
so that a short video never looks complete.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace

from aiohttp import web

from proxy.caches import BoundedDict
from proxy.errors import (
    Expired,
    Invalid,
    NotFetched,
    NotFound,
    NotReady,
    RangeNotSatisfiable,
    UpstreamFailed,
    UpstreamTrouble,
)
from proxy.gateway.auth import Authenticator, bad_link
from proxy.gateway.content_delivery import Delivery, DeliverySettings, pause_s
from proxy.gateway.content_reply import (
    ContentRequest,
    PromisedBody,
    bodiless_status,
    can_promise_range,
    entity_headers,
    object_headers,
    promise,
)
from proxy.gateway.content_source import ContentSource, ObjectFacts, OpenBody, is_same
from proxy.gateway.limits import StreamLimits
from proxy.gateway.listener import StreamReply, WholeReply, cut
from proxy.gateway.relay import TIERS, PipePool, RelayOptions, StreamTurns, usable_tiers
from proxy.http.ranges import Wish, range_still_holds, read_range
from proxy.model import Principal, Status, Task
from proxy.providers.base import Provider
from proxy.store.cache import ReadCache
from proxy.tasks.provider_calls import ProviderCalls
from proxy.tasks.runtime import Runtime
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.metric_definitions import CONTENT_BYTES
from proxy.telemetry.timing import timed
from proxy.upstream import Upstreams

OBJECTS_KEPT = 10_000  # facts of so many objects are kept, so that HEAD and 304 need no upstream
REVOCATION_LOOK_S = 0.5  # between two looks whether a stream's key still stands
WHOLE = ("done", "healed")  # the reasons of a body that arrived as promised


class ContentServer:
    """Serve finished videos. `stopping` is set when a drain has lasted too long: what is still
    moving is cut."""

    def __init__(
        self,
        runtime: Runtime,
        providers: Mapping[str, Provider],
        auth: Authenticator,
        tasks: ReadCache[Task],
        calls: ProviderCalls,
        upstreams: Upstreams,
        stopping: asyncio.Event,
        streams: StreamLimits,
    ) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._providers = providers
        self._auth = auth
        self._tasks = tasks
        self._provider_calls = calls
        self._upstreams = upstreams
        self._clock = runtime.clock
        self._stopping = stopping
        self._streams = streams
        self._metrics = runtime.metrics
        self._log = runtime.log
        self._facts: BoundedDict[tuple[str, str, int], ObjectFacts] = BoundedDict(OBJECTS_KEPT)
        self._turns = StreamTurns()
        self._pipes = PipePool()
        self._tiers, faults = usable_tiers(TIERS)
        for fault in faults:
            runtime.log.warning("relay tier not usable", why=fault)

    def close(self) -> None:
        """Once nothing moves any more: give the pipes back."""
        self._pipes.close()

    async def serve(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        asked: ContentRequest,
        principal: Principal | None,
    ) -> web.StreamResponse:
        """Answer one request. `principal` was let in before; None: a signed link asks."""
        principal, source = await self._find(exchange, asked, principal)
        early = self._bodiless_reply(exchange, source.known)
        if early is not None:
            return early
        peer = exchange.head.peer
        if exchange.head.method == "HEAD":
            # It may ask the upstream too, but is over at once: only this worker's own limits.
            if source.known is None:
                with self._streams.hold_here(principal, peer):
                    await self._look(exchange, source)
            return self._head_reply(exchange, asked, source)
        async with self._streams.hold(principal, peer):
            wish = await self._wanted_range(exchange, source)
            opened = await self._open(exchange, source, wish)
            try:
                facts = await self._learn_size(exchange, source, opened)
                early = self._bodiless_reply(exchange, facts)
                if early is not None:
                    return early
                if wish is not None and not can_promise_range(exchange.head.headers, facts):
                    wish = None
                    if opened.response.status == 206:
                        opened.response.close()
                        opened = await self._open(exchange, source, None)
                        facts = await self._learn_size(exchange, source, opened)
                body = promise(facts, opened, wish, request.version)
                return await self._send(request, exchange, asked, principal, source, opened, body)
            finally:
                opened.response.close()

    # ------------------------------------------------------------ who may have it, and which result

    async def _find(
        self, exchange: Exchange, asked: ContentRequest, principal: Principal | None
    ) -> tuple[Principal, ContentSource]:
        """The result as a source not opened yet, and who asks or made the link."""
        task = await self._tasks.get(asked.task_id)
        if asked.link is not None:
            if task is None:
                raise bad_link()
            principal = await self._auth.check_link(
                asked.link.signature,
                asked.task_id,
                task.token_id,
                asked.variant,
                asked.index,
                asked.link.exp_s,
            )
        elif task is not None and (principal is None or not principal.sees(task)):
            task = None
        if task is None or task.deleted or principal is None:
            raise NotFound(f"Video with id '{asked.task_id}' not found.")
        exchange.task_id, exchange.route, exchange.task = task.id, task.route, task
        exchange.upstream, exchange.credential = task.upstream, task.credential
        provider = self._providers[task.provider]
        _check_result(task, provider, asked)
        source = ContentSource(
            task,
            asked.variant,
            asked.index,
            provider,
            self._provider_calls,
            self._upstreams,
            self._tracing.onward_headers(exchange),
            self._clock,
            # Not once the provider may have dropped it, for then it has to be asked.
            None if _is_over(task, self._clock()) else self._facts.get(asked.key),
        )
        return principal, source

    # ------------------------------------------------------------ what is known of it

    async def _look(self, exchange: Exchange, source: ContentSource) -> ObjectFacts:
        """Ask without opening the body: by HEAD where that can tell, else for one byte."""
        facts = await timed(exchange, "upstream", source.head())
        if facts is None:
            try:
                opened = await self._open(exchange, source, Wish(0, 0))
            except RangeNotSatisfiable:  # there is no byte 0
                opened = await self._open(exchange, source, None)
            opened.response.close()
            facts = opened.facts
        return self._remember(source, facts)

    async def _learn_size(
        self, exchange: Exchange, source: ContentSource, opened: OpenBody
    ) -> ObjectFacts:
        """Remember what this opening told, with the size if that can be had: an opening does not
        tell it when it is chunked or ends by closing, and a body that ends by closing never says
        if it was whole."""
        facts = opened.facts
        if facts.size is None and source.known is None:
            with suppress(UpstreamFailed, NotReady, Expired):  # then it stays unknown
                await self._look(exchange, source)
        known = source.known
        if facts.size is None and known is not None and is_same(known, facts):
            facts = replace(facts, size=known.size)
        return self._remember(source, facts)

    def _remember(self, source: ContentSource, facts: ObjectFacts) -> ObjectFacts:
        source.known = self._facts[source.key] = facts
        self._facts.move_to_end(source.key)
        return facts

    # ------------------------------------------------------------ the range

    async def _wanted_range(self, exchange: Exchange, source: ContentSource) -> Wish | None:
        """The range to open. An If-Range is judged before the range is asked for, because one
        that does not hold may lie outside the file."""
        wish = read_range(exchange.head.headers.get("Range"))
        if_range = exchange.head.headers.get("If-Range")
        if wish is None or if_range is None:
            return wish
        known = source.known or await self._look(exchange, source)
        return wish if range_still_holds(if_range, known.etag, known.modified_s) else None

    async def _open(self, exchange: Exchange, source: ContentSource, wish: Wish | None) -> OpenBody:
        """Open the body, more than once if need be: nothing has been promised to the client yet."""
        attempts = self._config().limits.heal_attempts
        for tried in range(attempts + 1):
            if tried:
                await asyncio.sleep(pause_s(tried))
            try:
                return await timed(exchange, "upstream", source.open(wish))
            except NotFetched as refused:
                self._log.warning("address refused", **exchange.log_ids(), why=str(refused))
                raise UpstreamFailed(
                    "The address of this video is not one we fetch from; its operator has to look."
                ) from refused
            except UpstreamTrouble as trouble:
                self._log.info(
                    "opening failed", **exchange.log_ids(), why=str(trouble), tried=tried
                )
                if tried == attempts:
                    raise UpstreamFailed(
                        "The upstream that holds this video does not answer; try again soon.",
                        retry_after_s=5,
                    ) from trouble
            except UpstreamFailed as failure:
                if tried == attempts or failure.retry_after_s is None:
                    raise
        raise AssertionError("unreachable")

    # ------------------------------------------------------------ replies

    def _bodiless_reply(self, exchange: Exchange, facts: ObjectFacts | None) -> WholeReply | None:
        """412 or 304 when the request's conditions ask for no body."""
        status = None if facts is None else bodiless_status(exchange.head.headers, facts)
        if facts is None or status is None:
            return None
        exchange.status = status
        return WholeReply(status, object_headers(exchange, facts, self._config().cors))

    def _head_reply(
        self, exchange: Exchange, asked: ContentRequest, source: ContentSource
    ) -> web.StreamResponse:
        facts = source.known
        assert facts is not None
        early = self._bodiless_reply(exchange, facts)
        if early is not None:
            return early
        headers = self._headers(exchange, asked, facts)
        if facts.size is not None:
            headers["Content-Length"] = str(facts.size)
        exchange.status = 200
        return StreamReply(200, headers)

    def _headers(
        self, exchange: Exchange, asked: ContentRequest, facts: ObjectFacts
    ) -> dict[str, str]:
        return entity_headers(asked, facts) | object_headers(exchange, facts, self._config().cors)

    async def _send(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        asked: ContentRequest,
        principal: Principal,
        source: ContentSource,
        opened: OpenBody,
        body: PromisedBody,
    ) -> web.StreamResponse:
        """Send the head, then the body; cut the client unless that arrived as promised."""
        headers = self._headers(exchange, asked, body.facts) | body.framing
        delivery = Delivery(request, exchange, source, body, self._delivery_settings())
        exchange.status = body.status
        reply = StreamReply(body.status, headers)
        reply.begin(request)
        exchange.first_byte_ns = time.perf_counter_ns()
        revocation = asyncio.create_task(self._cut_when_revoked(request, principal))
        try:
            exchange.reason = await delivery.run(opened)
        finally:
            if revocation.done():
                exchange.reason = "revoked"
            revocation.cancel()
            if not exchange.reason.startswith(WHOLE):
                cut(request)
        return reply

    async def _cut_when_revoked(self, request: web.BaseRequest, principal: Principal) -> None:
        """Cut a body under way within a second of its key's revocation; asking is answered from
        memory."""
        while await self._auth.stands(principal):  # noqa: ASYNC110 -- from memory; no event of it
            await asyncio.sleep(REVOCATION_LOOK_S)
        cut(request)

    def _delivery_settings(self) -> DeliverySettings:
        """The settings in force, for one delivery: a reload holds from the next on."""
        timeouts, limits = self._config().timeouts, self._config().limits
        options = RelayOptions(
            tiers=tuple(tier for tier in self._tiers if tier in limits.relay_tiers),
            idle_client_s=timeouts.idle_client_s,
            idle_upstream_s=timeouts.idle_upstream_s,
            min_rate_bytes_s=limits.min_rate_bytes_s,
            min_rate_window_s=timeouts.min_rate_window_s,
            send_lowat_bytes=limits.send_lowat_bytes,
            upstream_rcvbuf_bytes=limits.upstream_rcvbuf_bytes,
        )
        return DeliverySettings(
            options,
            self._turns,
            self._pipes,
            limits.heal_attempts,
            timeouts.heal_s,
            self._stopping,
            {tier: self._metrics.counter(CONTENT_BYTES, tier) for tier in TIERS},
            self._metrics,
            self._log,
        )


def _check_result(task: Task, provider: Provider, asked: ContentRequest) -> None:
    """Raise what the client is to be told unless the task has this result."""
    if task.status is Status.FAILED:
        why = task.error.message if task.error else "The provider gave no reason."
        raise NotReady(f"This video failed, so there is no file: {why}", code="video_failed")
    if task.status is not Status.COMPLETED:
        raise NotReady(
            f"Video is not ready yet: its status is '{task.status.value}'. "
            "Ask for it again when the status is 'completed'."
        )
    if asked.variant not in provider.variants:
        raise Invalid(
            f"There is no variant '{asked.variant}' of this video; there is: "
            f"{', '.join(provider.variants)}.",
            param="variant",
        )
    results = max(1, len(task.results))
    if asked.index >= results:
        raise Invalid(
            f"There is no result {asked.index}; this task has {results}, counted from 0.",
            param="index",
        )


def _is_over(task: Task, now_s: float) -> bool:
    """Past the day until which the provider promised to keep it."""
    return task.expires_ms is not None and task.expires_ms <= now_s * 1000
