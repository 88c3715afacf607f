"""One body on its way to its client: moved, and taken up again where its upstream broke.

Rule: the bytes of a body all come from one object. When the upstream has another one by now,
or breaks once too often, the body ends short, and whoever ran the delivery cuts the client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

import structlog
from aiohttp import web

from proxy.errors import NotReady, ProxyError, UpstreamFailed, UpstreamTrouble
from proxy.gateway.content_reply import PromisedBody
from proxy.gateway.content_source import ContentSource, OpenBody, is_same
from proxy.gateway.relay import PipePool, RelayEnd, RelayOptions, StreamTurns, move
from proxy.http.ranges import Wish
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.metric_definitions import HEALS
from proxy.telemetry.metrics import CounterSeries, Metrics

# However many bytes each piece brought: an upstream that needs this many openings is broken.
MAX_OPENINGS = 100
_UPSTREAM_ENDS = (RelayEnd.UPSTREAM_RESET, RelayEnd.UPSTREAM_SHORT, RelayEnd.IDLE_UPSTREAM)


@dataclass(frozen=True, slots=True)
class DeliverySettings:
    """How bodies are delivered. After a break: at most `attempts` openings in a row that
    bring no byte, within `heal_s` seconds. `stop` is set when a drain has lasted too long."""

    options: RelayOptions
    turns: StreamTurns
    pipes: PipePool
    attempts: int
    heal_s: float
    stop: asyncio.Event
    counters: Mapping[str, CounterSeries]  # bytes moved, by tier
    metrics: Metrics
    log: structlog.stdlib.BoundLogger


class Delivery:
    """Sends one promised body. The relay counts into the exchange as it goes, because a stream may
    last for hours and may be cancelled."""

    def __init__(
        self,
        request: web.BaseRequest,
        exchange: Exchange,
        source: ContentSource,
        promise: PromisedBody,
        settings: DeliverySettings,
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._source = source
        self._promise = promise
        self._settings = settings
        span = promise.span
        self._start = span.start if span is not None else 0
        self._stop = span.stop if span is not None else None
        self._tried = 0  # openings since the last byte came
        self._deadline = 0.0  # of the healing, on the loop's clock

    async def run(self, opened: OpenBody) -> str:
        """Move the body; returns the reason of its end: `done` or `healed(n)` when it is whole."""
        end = RelayEnd.UPSTREAM_RESET
        for healed in range(MAX_OPENINGS):
            before = self._exchange.bytes_out
            end = await self._move(opened)
            if end is RelayEnd.DONE:
                return f"healed({healed})" if healed else "done"
            if end not in _UPSTREAM_ENDS:
                break
            if not healed or self._exchange.bytes_out > before:
                self._tried = 0
                self._deadline = asyncio.get_running_loop().time() + self._settings.heal_s
            again = await self._reopen()
            self._settings.metrics.count(HEALS, "gave_up" if again is None else "healed")
            if again is None:
                break
            opened = again
        return end.value

    async def _move(self, opened: OpenBody) -> RelayEnd:
        position = self._position
        moved = await move(
            opened.response,
            self._request,
            skip=position - opened.offset,
            count=None if self._stop is None else self._stop - position,
            options=self._settings.options,
            pipes=self._settings.pipes,
            turns=self._settings.turns,
            progress=self._exchange,
            counters=self._settings.counters,
            chunked=self._promise.chunked,
            stop=self._settings.stop,
            held=opened.held,
        )
        return moved.end

    @property
    def _position(self) -> int:
        """The byte of the object that the client lacks next."""
        return self._start + self._exchange.bytes_out

    async def _reopen(self) -> OpenBody | None:
        """Open again where the body broke; None when the object changed or the budget is gone."""
        position = self._position
        log = self._settings.log.bind(**self._exchange.log_ids())
        wish = Wish(position, None if self._stop is None else self._stop - 1)
        while self._tried < self._settings.attempts:
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
