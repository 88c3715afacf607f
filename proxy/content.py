"""`GET|HEAD …/content`: the finished video, from whoever holds it to whoever may have it.

who → which result → conditions → open → head → relay, reopening where the upstream broke → end

Rule: once the head is out the status is settled: the body ends whole, or the connection is cut,
so that a short video never looks complete.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import quote

import structlog
from aiohttp import web

from proxy.auth import Admission, Authenticator, bad_link
from proxy.config import Config
from proxy.errors import (
    Invalid,
    NotFound,
    NotReady,
    ProxyError,
    RateLimited,
    UpstreamFailed,
)
from proxy.http import cors
from proxy.http.headers import forwarded
from proxy.http.ranges import (
    Span,
    Wish,
    is_unmodified,
    precondition_fails,
    range_still_holds,
    read_range,
)
from proxy.listener import StreamReply, WholeReply, cut
from proxy.mirror import Mirror
from proxy.model import Call, Exchange, Status, Task
from proxy.providers.base import Provider
from proxy.relay import End, RelayOptions, move, usable_tiers
from proxy.source import Facts, FactsCache, Opened, Source, is_same
from proxy.tracker import Tracker
from proxy.upstream import Upstreams, UpstreamTrouble

LetIn = Callable[[web.BaseRequest, Exchange, Call], Awaitable[Admission]]

# However many bytes each piece brought: an upstream that needs this many openings is broken.
MAX_OPENINGS = 100
_EXTENSIONS = {"video/mp4": "mp4", "video/webm": "webm", "image/webp": "webp", "image/jpeg": "jpg"}
_UPSTREAM_ENDS = (End.UPSTREAM_RESET, End.UPSTREAM_SHORT, End.IDLE_UPSTREAM)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which bytes of which task, as the query names them."""

    task: Task
    variant: str
    index: int


class Slots:
    """How many streams each token and each client address has open in this worker."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken(self, limits: Mapping[str, int]) -> Iterator[None]:
        """Hold one slot under each name; raises RateLimited when one is at its limit."""
        for name, limit in limits.items():
            if self._open[name] >= limit:
                kind = name.partition(":")[0]
                raise RateLimited(
                    f"This {kind} has {limit} downloads open already; finish one first.",
                    code="too_many_streams",
                    retry_after_s=2,
                )
        for name in limits:
            self._open[name] += 1
        try:
            yield
        finally:
            for name in limits:
                self._open[name] -= 1
                if not self._open[name]:
                    del self._open[name]

    @property
    def total(self) -> int:
        return sum(n for name, n in self._open.items() if name.startswith("token:"))


class ContentServer:
    """`stopping` is set when a drain has lasted too long: what is still moving is cut."""

    def __init__(
        self,
        config: Callable[[], Config],
        providers: Mapping[str, Provider],
        auth: Authenticator,
        tasks: Mirror[Task],
        tracker: Tracker,
        upstreams: Upstreams,
        clock: Callable[[], float],
        stopping: asyncio.Event,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._config = config
        self._providers = providers
        self._auth = auth
        self._tasks = tasks
        self._tracker = tracker
        self._upstreams = upstreams
        self._clock = clock
        self._stopping = stopping
        self._log = log
        self._facts = FactsCache()
        self._tiers, faults = usable_tiers(("splice", "pipe", "copy"))
        for fault in faults:
            log.warning("relay", what=fault)
        self.slots = Slots()

    async def serve(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, let_in: LetIn
    ) -> web.StreamResponse:
        wanted = await self._wanted(request, exchange, call, let_in)
        head = exchange.head
        known = self._facts.get(wanted.task.id, wanted.variant, wanted.index)
        if known is not None:
            early = self._conditional(exchange, wanted, known)
            if early is not None:
                return early
        source = self._source(exchange, wanted)
        if head.method == "HEAD":
            facts = known or await self._look(source, wanted)
            return self._head_reply(exchange, call, wanted, facts)
        limits = self._config().limits
        slots = {
            f"token:{wanted.task.token_id}": limits.streams_per_token,
            f"address:{head.peer}": limits.streams_per_address,
        }
        with self.slots.taken(slots):
            return await self._stream(request, exchange, call, wanted, source)

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
            await self._auth.check_link(
                call.query["sig"], task_id, task.token_id, variant, index, exp_s
            )
        else:
            principal = (await let_in(request, exchange, call)).principal
            task = await self._tasks.get(task_id)
            if task is not None and task.token_id != principal.token_id:
                task = None
        if task is None or task.deleted:
            raise NotFound(f"Video with id '{task_id}' not found.")
        exchange.task_id, exchange.route = task.id, task.route
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
        return Wanted(task, variant, index)

    def _source(self, exchange: Exchange, wanted: Wanted) -> Source:
        task = wanted.task
        return Source(
            task,
            wanted.variant,
            wanted.index,
            self._providers[task.provider],
            self._tracker,
            self._upstreams,
            forwarded(exchange.head.headers),
            int(self._clock()),
        )

    # ------------------------------------------------------------ answers without a body

    def _conditional(self, exchange: Exchange, wanted: Wanted, facts: Facts) -> WholeReply | None:
        headers = exchange.head.headers
        if precondition_fails(headers, facts.etag, facts.modified_s):
            exchange.status = 412
            return WholeReply(412, self._common(exchange, facts))
        if is_unmodified(headers, facts.etag, facts.modified_s):
            exchange.status = 304
            return WholeReply(304, self._common(exchange, facts))
        return None

    async def _look(self, source: Source, wanted: Wanted) -> Facts:
        """What there is to know, without opening the body; servers that know no HEAD are asked
        for one byte."""
        try:
            opened = await source.open(None, method="HEAD")
            opened.response.close()
        except (UpstreamFailed, UpstreamTrouble):
            opened = await self._open_first(source, Wish(0, 0))
            opened.response.close()
        self._facts.put(wanted.task.id, wanted.variant, wanted.index, opened.facts)
        return opened.facts

    def _head_reply(
        self, exchange: Exchange, call: Call, wanted: Wanted, facts: Facts
    ) -> web.StreamResponse:
        early = self._conditional(exchange, wanted, facts)
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
    ) -> web.StreamResponse:
        headers = exchange.head.headers
        wish = read_range(headers.get("Range"))
        opened = await self._open_first(source, wish)
        try:
            facts = opened.facts
            self._facts.put(wanted.task.id, wanted.variant, wanted.index, facts)
            early = self._conditional(exchange, wanted, facts)
            if early is not None:
                opened.response.close()
                return early
            if wish is not None and (
                facts.size is None
                or not range_still_holds(headers.get("If-Range"), facts.etag, facts.modified_s)
            ):
                wish = None
                if opened.offset or facts.size is None or opened.response.status == 206:
                    opened.response.close()
                    opened = await self._open_first(source, None)
                    facts = opened.facts
            span = None
            if facts.size is not None:
                span = wish.within(facts.size) if wish is not None else Span(0, facts.size)
            return await self._send(request, exchange, call, wanted, source, opened, span, wish)
        finally:
            opened.response.close()

    async def _open_first(self, source: Source, wish: Wish | None) -> Opened:
        """The first opening: nothing has been promised to the client yet."""
        attempts = self._config().limits.heal_attempts
        for left in range(attempts, -1, -1):
            try:
                return await source.open(wish)
            except UpstreamTrouble as trouble:
                self._log.info("opening failed", why=str(trouble), left=left)
                if not left:
                    raise UpstreamFailed(
                        "The upstream that holds this video does not answer; try again soon.",
                        retry_after_s=5,
                    ) from trouble
            except UpstreamFailed as failure:
                if not left or failure.retry_after_s is None:
                    raise
            await asyncio.sleep(_pause_s(attempts - left))
        raise AssertionError("unreachable")

    async def _send(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        call: Call,
        wanted: Wanted,
        source: Source,
        opened: Opened,
        span: Span | None,
        wish: Wish | None,
    ) -> web.StreamResponse:
        facts = opened.facts
        headers = self._entity(exchange, call, wanted, facts)
        chunked = False
        if span is not None:
            headers["Content-Length"] = str(len(span))
            if wish is not None:
                headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{facts.size}"
        elif request.version >= (1, 1):
            headers["Transfer-Encoding"] = "chunked"
            chunked = True
        exchange.status = 206 if wish is not None else 200
        reply = StreamReply(exchange.status, headers)
        reply.begin(request)
        exchange.first_byte_ns = time.perf_counter_ns()
        flow = _Flow(self, request, exchange, source, facts, span, chunked)
        exchange.reason = await flow.run(opened)
        if not exchange.reason.startswith(("done", "healed")):
            cut(request)
        return reply

    # ------------------------------------------------------------ headers

    def _common(self, exchange: Exchange, facts: Facts) -> dict[str, str]:
        headers = {
            "ETag": facts.etag,
            "Cache-Control": "private, no-transform",
            "Accept-Ranges": "bytes" if facts.size is not None else "none",
            "X-Content-Type-Options": "nosniff",
            "X-Request-Id": exchange.id,
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

    def relay_options(self) -> RelayOptions:
        timeouts, limits = self._config().timeouts, self._config().limits
        return RelayOptions(
            tiers=tuple(tier for tier in self._tiers if tier in limits.relay_tiers),
            idle_client_s=timeouts.idle_client_s,
            idle_upstream_s=timeouts.idle_upstream_s,
            min_rate_bytes_s=limits.min_rate_bytes_s,
            min_rate_window_s=timeouts.min_rate_window_s,
            send_lowat_bytes=limits.send_lowat_bytes,
            upstream_rcvbuf_bytes=limits.upstream_rcvbuf_bytes,
        )

    @property
    def stopping(self) -> asyncio.Event:
        return self._stopping

    @property
    def config(self) -> Config:
        return self._config()

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        return self._log


class _Flow:
    """One body on its way: where it stands, and how often it was healed."""

    def __init__(
        self,
        server: ContentServer,
        request: web.BaseRequest,
        exchange: Exchange,
        source: Source,
        facts: Facts,
        span: Span | None,
        chunked: bool,
    ) -> None:
        self._server = server
        self._request = request
        self._exchange = exchange
        self._source = source
        self._facts = facts
        self._start = span.start if span is not None else 0
        self._stop = span.stop if span is not None else None
        self._chunked = chunked
        self._options = server.relay_options()

    async def run(self, opened: Opened) -> str:
        """Move the body; returns the reason code of its end."""
        idle_openings = 0
        broke_at: float | None = None
        for healed in range(MAX_OPENINGS):
            before = self._exchange.bytes_out
            position = self._start + before
            moved = await move(
                opened.response,
                self._request,
                skip=position - opened.offset,
                count=None if self._stop is None else self._stop - position,
                options=self._options,
                on_bytes=self._count,
                chunked=self._chunked,
                stop=self._server.stopping,
            )
            self._exchange.tier = moved.tier
            if moved.end is End.DONE:
                return f"healed({healed})" if healed else "done"
            if moved.end not in _UPSTREAM_ENDS:
                return moved.end.value
            now = time.monotonic()
            if self._exchange.bytes_out > before:
                idle_openings, broke_at = 0, now
            broke_at = now if broke_at is None else broke_at
            deadline = broke_at + self._server.config.timeouts.heal_s
            again, tried = await self._reopen(idle_openings, deadline)
            idle_openings += tried
            if again is None:
                return moved.end.value
            opened = again
        return End.UPSTREAM_RESET.value

    def _count(self, moved: int) -> None:
        self._exchange.bytes_out += moved

    async def _reopen(self, tried_before: int, deadline: float) -> tuple[Opened | None, int]:
        """Open again where the body broke; None when the object changed or the budget is gone.
        Also returns how many openings that took."""
        most = self._server.config.limits.heal_attempts - tried_before
        position = self._start + self._exchange.bytes_out
        last = None if self._stop is None else self._stop - 1
        for tried in range(1, most + 1):
            pause_s = _pause_s(tried_before + tried - 1)
            if time.monotonic() + pause_s > deadline:
                return None, tried
            if pause_s:
                await asyncio.sleep(pause_s)
            try:
                opened = await self._source.open(Wish(position, last), self._facts)
            except (UpstreamTrouble, UpstreamFailed, NotReady) as trouble:
                self._server.log.info("reopening failed", at=position, why=str(trouble))
                continue
            except ProxyError as over:
                self._server.log.warning("cannot be healed", at=position, why=str(over))
                return None, tried
            if not is_same(opened.facts, self._facts) or opened.offset > position:
                opened.response.close()
                self._server.log.warning("the object changed under way", at=position)
                return None, tried
            return opened, tried
        return None, max(most, 0)


def _pause_s(tried: int) -> float:
    """At once, then 0.1, 0.2, 0.4 … at most 5 seconds."""
    return 0.0 if tried == 0 else min(0.05 * 2.0**tried, 5.0)


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
