"""`GET|HEAD …/content`: the finished video, from whoever holds it to whoever may have it.

who → which result → conditions → open → head → delivery → end

Rule: once the head is out the status is settled: the body ends whole, or the connection is cut,
so that a short video never looks complete.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from urllib.parse import quote

from aiohttp import web

from proxy.caches import IdentityMemo
from proxy.config import Config
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
from proxy.gateway.auth import Admission, Authenticator, bad_link
from proxy.gateway.content_delivery import Delivery, Promise, Terms, pause_s
from proxy.gateway.content_source import Facts, FactsCache, Opened, Source, is_same
from proxy.gateway.leases import Leases
from proxy.gateway.listener import StreamReply, WholeReply, cut
from proxy.gateway.relay import PipePool, RelayOptions, Turns, usable_tiers
from proxy.gateway.slots import Slots
from proxy.http import cors
from proxy.http.ranges import (
    Span,
    Wish,
    is_unmodified,
    precondition_fails,
    range_still_holds,
    read_range,
)
from proxy.model import Call, Principal, Status, Task
from proxy.providers.base import Provider
from proxy.store.cache import ReadCache
from proxy.tasks.provider_calls import ProviderCalls
from proxy.tasks.runtime import Runtime
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.timing import server_timing, timed
from proxy.upstream import Upstreams

LetIn = Callable[[web.BaseRequest, Exchange, Call], Awaitable[Admission]]

_EXTENSIONS = {"video/mp4": "mp4", "video/webm": "webm", "image/webp": "webp", "image/jpeg": "jpg"}
NO_ADDRESS = "-"  # of a client on a unix socket: all of them look alike
REVOCATION_LOOK_S = 0.5  # between two looks whether a stream's key still stands
WHOLE = ("done", "healed")  # the reasons of a body that arrived as promised


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which bytes of which task, as the query names them; `principal` asks, or has handed out
    the link that does."""

    principal: Principal
    task: Task
    variant: str
    index: int


class ContentServer:
    """`stopping` is set when a drain has lasted too long: what is still moving is cut."""

    def __init__(
        self,
        runtime: Runtime,
        providers: Mapping[str, Provider],
        auth: Authenticator,
        tasks: ReadCache[Task],
        calls: ProviderCalls,
        upstreams: Upstreams,
        stopping: asyncio.Event,
        leases: Leases,
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
        self._leases = leases
        self._metrics = runtime.metrics
        self._log = runtime.log
        self._facts = FactsCache()
        self._made_terms: IdentityMemo[Terms] = IdentityMemo(1)
        self._turns = Turns()
        self._pipes = PipePool()
        self._tiers, faults = usable_tiers(("splice", "pipe", "copy"))
        for fault in faults:
            runtime.log.warning("relay tier not usable", why=fault)
        self.slots = Slots()

    def close(self) -> None:
        """Once nothing moves any more: give the pipes back."""
        self._pipes.close()

    async def serve(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, let_in: LetIn
    ) -> web.StreamResponse:
        wanted = await self._wanted(request, exchange, call, let_in)
        head = exchange.head
        known = self._known(wanted)
        if known is not None:
            early = self._conditional(exchange, known)
            if early is not None:
                return early
        source = self._source(exchange, wanted)
        if known is not None:
            source.trust(known)
        if head.method == "HEAD" and known is not None:
            return self._head_reply(exchange, call, wanted, known)
        if head.method == "HEAD":
            # It asks the upstream too, but is over at once: only this worker's own limits.
            with self.slots.taken(self._places(wanted.principal, head.peer)):
                facts = await self._look(exchange, source, wanted)
            return self._head_reply(exchange, call, wanted, facts)
        async with self.held(wanted.principal, head.peer):
            return await self._stream(request, exchange, call, wanted, source, known)

    @asynccontextmanager
    async def held(self, principal: Principal, peer: str) -> AsyncIterator[None]:
        """A stream's place under every limit on how many there may be; raises RateLimited."""
        with self.slots.taken(self._places(principal, peer)):
            if not self._leases.are_needed(principal):
                yield
                return
            async with self._leases.taken(principal):
                yield

    def _places(self, principal: Principal, peer: str) -> dict[str, int]:
        limits = self._config().limits
        places = {f"token:{principal.token_id}": limits.streams_per_token}
        if peer != NO_ADDRESS:
            places[f"address:{peer}"] = limits.streams_per_address
        return places

    # ------------------------------------------------------------ who, and which result

    async def _wanted(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, let_in: LetIn
    ) -> Wanted:
        task_id = call.params["task_id"]
        variant = call.query.get("variant") or "video"
        index = _index(call.query.get("index"))
        task: Task | None
        if "sig" in call.query:
            task = await self._tasks.get(task_id)
            if task is None:
                raise bad_link()
            exp_s = _exp(call.query.get("exp"))
            principal = await self._auth.check_link(
                call.query["sig"], task_id, task.token_id, variant, index, exp_s
            )
        else:
            principal = (await let_in(request, exchange, call)).principal
            task = await self._tasks.get(task_id)
            if task is not None and not principal.sees(task):
                task = None
        if task is None or task.deleted:
            raise NotFound(f"Video with id '{task_id}' not found.")
        exchange.task_id, exchange.route, exchange.task = task.id, task.route, task
        exchange.upstream, exchange.credential = task.upstream, task.credential
        if task.status is Status.FAILED:
            why = task.error.message if task.error else "The provider gave no reason."
            raise NotReady(f"This video failed, so there is no file: {why}", code="video_failed")
        if task.status is not Status.COMPLETED:
            raise NotReady(
                f"Video is not ready yet: its status is '{task.status.value}'. "
                "Ask for it again when the status is 'completed'."
            )
        offered = self._providers[task.provider].variants
        if variant not in offered:
            raise Invalid(
                f"There is no variant '{variant}' of this video; there is: {', '.join(offered)}.",
                param="variant",
            )
        if index >= max(1, len(task.results)):
            raise Invalid(
                f"There is no result {index}; this task has {max(1, len(task.results))}, "
                "counted from 0.",
                param="index",
            )
        return Wanted(principal, task, variant, index)

    def _source(self, exchange: Exchange, wanted: Wanted) -> Source:
        task = wanted.task
        return Source(
            task,
            wanted.variant,
            wanted.index,
            self._providers[task.provider],
            self._provider_calls,
            self._upstreams,
            self._tracing.onward_headers(exchange),
            self._clock,
        )

    # ------------------------------------------------------------ what is known of it

    def _known(self, wanted: Wanted) -> Facts | None:
        """From memory; not once the provider may have dropped it, for then it has to be asked."""
        ends_ms = wanted.task.expires_ms
        if ends_ms is not None and ends_ms <= self._clock() * 1000:
            return None
        return self._facts.get(wanted.task.id, wanted.variant, wanted.index)

    async def _look(self, exchange: Exchange, source: Source, wanted: Wanted) -> Facts:
        """Ask without opening the body: by HEAD where that can tell, else for one byte."""
        facts = await timed(exchange, "upstream", source.head())
        if facts is None:
            try:
                opened = await self._open_first(exchange, source, Wish(0, 0))
            except RangeNotSatisfiable:  # there is no byte 0
                opened = await self._open_first(exchange, source, None)
            opened.response.close()
            facts = opened.facts
        self._facts.put(wanted.task.id, wanted.variant, wanted.index, facts)
        return facts

    async def _sized(
        self,
        exchange: Exchange,
        source: Source,
        wanted: Wanted,
        facts: Facts,
        known: Facts | None,
    ) -> Facts:
        """The same with the size, if that can be had: an opening does not tell it when it is
        chunked or ends by closing, and a body that ends by closing never says if it was whole."""
        if facts.size is None and known is None:
            with suppress(UpstreamFailed, NotReady, Expired):  # then it stays unknown
                known = await self._look(exchange, source, wanted)
        if facts.size is None and known is not None and is_same(known, facts):
            facts = replace(facts, size=known.size)
        self._facts.put(wanted.task.id, wanted.variant, wanted.index, facts)
        return facts

    # ------------------------------------------------------------ answers without a body

    def _conditional(self, exchange: Exchange, facts: Facts) -> WholeReply | None:
        headers = exchange.head.headers
        if precondition_fails(headers, facts.etag, facts.modified_s):
            exchange.status = 412
        elif is_unmodified(headers, facts.etag, facts.modified_s):
            exchange.status = 304
        else:
            return None
        return WholeReply(exchange.status, self._common(exchange, facts))

    def _head_reply(
        self, exchange: Exchange, call: Call, wanted: Wanted, facts: Facts
    ) -> web.StreamResponse:
        early = self._conditional(exchange, facts)
        if early is not None:
            return early
        headers = self._entity(exchange, call, wanted, facts)
        if facts.size is not None:
            headers["Content-Length"] = str(facts.size)
        exchange.status = 200
        return StreamReply(200, headers)

    # ------------------------------------------------------------ the body

    async def _stream(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        call: Call,
        wanted: Wanted,
        source: Source,
        known: Facts | None,
    ) -> web.StreamResponse:
        headers = exchange.head.headers
        wish = read_range(headers.get("Range"))
        if_range = headers.get("If-Range")
        if wish is not None and if_range is not None:
            # Before the range is asked for: one that does not hold may lie outside the file.
            known = known or await self._look(exchange, source, wanted)
            if not range_still_holds(if_range, known.etag, known.modified_s):
                wish = None
        opened = await self._open_first(exchange, source, wish)
        try:
            facts = await self._sized(exchange, source, wanted, opened.facts, known)
            early = self._conditional(exchange, facts)
            if early is not None:
                return early
            if wish is not None and (
                facts.size is None or not range_still_holds(if_range, facts.etag, facts.modified_s)
            ):
                wish = None
                if opened.response.status == 206:
                    opened.response.close()
                    opened = await self._open_first(exchange, source, None)
                    facts = await self._sized(exchange, source, wanted, opened.facts, facts)
            span = None
            if facts.size is not None:
                span = wish.within(facts.size) if wish is not None else Span(0, facts.size)
            if opened.offset > (span.start if span is not None else 0):
                raise UpstreamFailed("The upstream sent another range than it was asked for.")
            # Where the upstream ends by closing, nobody can tell its end from a break: then we
            # end by closing too, and claim no more.
            chunked = span is None and opened.is_chunked and request.version >= (1, 1)
            promise = Promise(facts, span, chunked)
            head = self._entity(exchange, call, wanted, facts) | _framing(promise, wish)
            delivery = Delivery(request, exchange, source, promise, self._terms())
            exchange.status = 200 if wish is None else 206
            return await self._deliver(request, exchange, head, delivery, opened, wanted.principal)
        finally:
            opened.response.close()

    async def _deliver(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        headers: Mapping[str, str],
        delivery: Delivery,
        opened: Opened,
        principal: Principal,
    ) -> web.StreamResponse:
        reply = StreamReply(exchange.status, headers)
        reply.begin(request)
        exchange.first_byte_ns = time.perf_counter_ns()
        revoked = asyncio.Event()
        guard = asyncio.create_task(self._cut_when_revoked(request, principal, revoked))
        try:
            exchange.reason = await delivery.run(opened)
        finally:
            guard.cancel()
            if revoked.is_set():
                exchange.reason = "revoked"
            if not exchange.reason.startswith(WHOLE):
                cut(request)
        return reply

    async def _cut_when_revoked(
        self, request: web.BaseRequest, principal: Principal, revoked: asyncio.Event
    ) -> None:
        """Cut a body under way within a second of its key's revocation; asking is answered from
        memory."""
        while await self._auth.stands(principal):  # noqa: ASYNC110 -- from memory; no event of it
            await asyncio.sleep(REVOCATION_LOOK_S)
        revoked.set()
        cut(request)

    async def _open_first(self, exchange: Exchange, source: Source, wish: Wish | None) -> Opened:
        """The first opening: nothing has been promised to the client yet."""
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

    # ------------------------------------------------------------ headers

    def _common(self, exchange: Exchange, facts: Facts) -> dict[str, str]:
        headers = {
            "ETag": facts.etag,
            "Cache-Control": "private, no-transform",
            "Accept-Ranges": "bytes" if facts.size is not None else "none",
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": exchange.id,
            **exchange.told,
            **server_timing(exchange),
        }
        if facts.modified is not None:
            headers["Last-Modified"] = facts.modified
        rules = self._config().cors
        if rules.origins:
            headers |= cors.granted(cors.policy_of(rules), exchange.head.headers)
        return headers

    def _entity(
        self, exchange: Exchange, call: Call, wanted: Wanted, facts: Facts
    ) -> dict[str, str]:
        name = f"{wanted.task.id}"
        if wanted.index:
            name += f"_{wanted.index}"
        name += "." + _EXTENSIONS.get(facts.kind, "bin")
        disposition = "attachment" if call.query.get("download") == "1" else "inline"
        return {
            "Content-Type": facts.kind,
            "Content-Disposition": f'{disposition}; filename="{quote(name)}"',
            **self._common(exchange, facts),
        }

    def _terms(self) -> Terms:
        config = self._config()
        return self._made_terms.get("", (config,), lambda: self._terms_of(config))

    def _terms_of(self, config: Config) -> Terms:
        timeouts, limits = config.timeouts, config.limits
        options = RelayOptions(
            tiers=tuple(tier for tier in self._tiers if tier in limits.relay_tiers),
            idle_client_s=timeouts.idle_client_s,
            idle_upstream_s=timeouts.idle_upstream_s,
            min_rate_bytes_s=limits.min_rate_bytes_s,
            min_rate_window_s=timeouts.min_rate_window_s,
            send_lowat_bytes=limits.send_lowat_bytes,
            upstream_rcvbuf_bytes=limits.upstream_rcvbuf_bytes,
        )
        return Terms(
            options,
            self._turns,
            self._pipes,
            limits.heal_attempts,
            timeouts.heal_s,
            self._stopping,
            self._metrics,
            self._log,
        )


def _framing(promise: Promise, wish: Wish | None) -> dict[str, str]:
    """How the body ends: by its length, by chunks, or with the connection."""
    span = promise.span
    if span is None:
        return {"Transfer-Encoding": "chunked"} if promise.chunked else {}
    headers = {"Content-Length": str(len(span))}
    if wish is not None:
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{promise.facts.size}"
    return headers


def _index(text: str | None) -> int:
    if text is None or text == "":
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise Invalid("'index' must be a whole number from 0.", param="index")
    return int(text)


def _exp(text: str | None) -> int:
    if text is None or not (text.isascii() and text.isdigit() and len(text) < 13):
        raise bad_link()
    return int(text)
