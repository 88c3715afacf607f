"""One body on its way to its client: moved, and taken up again where its upstream broke.

Rule: the bytes of a body all come from one object. When the upstream has another one by now,
or breaks once too often, the body ends short, and whoever ran the delivery cuts the client.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from aiohttp import web

from proxy.errors import NotReady, ProxyError, UpstreamFailed, UpstreamTrouble
from proxy.gateway.content_source import Facts, Opened, Source, is_same
from proxy.gateway.relay import End, PipePool, RelayOptions, Turns, move
from proxy.http.ranges import Span, Wish
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.metric_definitions import CONTENT_BYTES, HEALS
from proxy.telemetry.metrics import CounterSeries, Metrics

# However many bytes each piece brought: an upstream that needs this many openings is broken.
MAX_OPENINGS = 100
_UPSTREAM_ENDS = (End.UPSTREAM_RESET, End.UPSTREAM_SHORT, End.IDLE_UPSTREAM)


@dataclass(frozen=True, slots=True)
class Promise:
    """What the head told the client. `span` None: all there is, its length unknown;
    `chunked`: we frame it."""

    facts: Facts
    span: Span | None
    chunked: bool


@dataclass(frozen=True, slots=True)
class Terms:
    """The operator's conditions. After a break: at most `attempts` openings in a row that
    bring no byte, within `heal_s` seconds. `stop` is set when a drain has lasted too long."""

    options: RelayOptions
    turns: Turns
    pipes: PipePool
    attempts: int
    heal_s: float
    stop: asyncio.Event
    metrics: Metrics
    log: structlog.stdlib.BoundLogger


class Delivery:
    """Counts as it goes, also on the way to a cancellation: into `exchange.bytes_out` and the
    tier's bytes, for a stream may last for hours."""

    def __init__(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        source: Source,
        promise: Promise,
        terms: Terms,
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._source = source
        self._promise = promise
        self._terms = terms
        span = promise.span
        self._start = span.start if span is not None else 0
        self._stop = span.stop if span is not None else None
        self._moved = CounterSeries()  # by the tier in use
        self._tried = 0  # openings since the last byte came
        self._deadline = 0.0  # of the healing, on the loop's clock

    async def run(self, opened: Opened) -> str:
        """Move the body; returns the reason of its end: `done` or `healed(n)` when it is whole."""
        end = End.UPSTREAM_RESET
        for healed in range(MAX_OPENINGS):
            before = self._exchange.bytes_out
            end = await self._move(opened)
            if end is End.DONE:
                return f"healed({healed})" if healed else "done"
            if end not in _UPSTREAM_ENDS:
                break
            if not healed or self._exchange.bytes_out > before:
                self._tried = 0
                self._deadline = asyncio.get_running_loop().time() + self._terms.heal_s
            again = await self._reopen()
            self._terms.metrics.count(HEALS, "gave_up" if again is None else "healed")
            if again is None:
                break
            opened = again
        return end.value

    async def _move(self, opened: Opened) -> End:
        position = self._position
        moved = await move(
            opened.response,
            self._request,
            skip=position - opened.offset,
            count=None if self._stop is None else self._stop - position,
            options=self._terms.options,
            pipes=self._terms.pipes,
            turns=self._terms.turns,
            on_bytes=self._count,
            on_tier=self._note_tier,
            chunked=self._promise.chunked,
            stop=self._terms.stop,
            held=opened.held,
        )
        return moved.end

    @property
    def _position(self) -> int:
        """The byte of the object that the client lacks next."""
        return self._start + self._exchange.bytes_out

    def _count(self, size: int) -> None:
        self._exchange.bytes_out += size
        self._moved.n += size

    def _note_tier(self, tier: str) -> None:
        self._exchange.tier = tier
        self._moved = self._terms.metrics.counter(CONTENT_BYTES, tier)

    async def _reopen(self) -> Opened | None:
        """Open again where the body broke; None when the object changed or the budget is gone."""
        position = self._position
        log = self._terms.log.bind(**self._exchange.log_ids())
        wish = Wish(position, None if self._stop is None else self._stop - 1)
        while self._tried < self._terms.attempts:
            wait_s = pause_s(self._tried)
            self._tried += 1
            try:
                async with asyncio.timeout_at(self._deadline):
                    await asyncio.sleep(wait_s)
                    opened = await self._source.open(wish, self._promise.facts)
            except TimeoutError:
                log.warning("download not resumed in time", at=position)
                return None
            except (UpstreamTrouble, UpstreamFailed, NotReady) as trouble:
                log.info("reopening failed", at=position, why=str(trouble))
            except ProxyError as over:
                log.warning("download not resumed", at=position, why=str(over))
                return None
            else:
                if is_same(opened.facts, self._promise.facts) and opened.offset <= position:
                    if opened.is_chunked or not self._promise.chunked:
                        return opened
                    why = "its end cannot be told"  # and our last chunk would tell one
                else:
                    why = "the object changed under way"
                opened.response.close()
                log.warning("download not resumed", at=position, why=why)
                return None
        return None


def pause_s(tried: int) -> float:
    """Before the next opening: none, then 0.1, 0.2, 0.4 … at most 5 seconds."""
    return 0.0 if tried == 0 else min(0.05 * 2.0**tried, 5.0)
