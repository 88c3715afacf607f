"""Limits on the requests a minute and on the open streams of a principal.

Rate limits and stream leases live in the store and count in all workers; stream slots live in this
worker. While the store is down nobody is refused by it: a submit fails anyway, what is finished
goes on being delivered, and the worker's own slots still bound that.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Final

import structlog

from proxy.errors import ProxyError, RateLimited
from proxy.model import Call, Principal
from proxy.store import Admitted, Rate, Store, StoreDown, Streams
from proxy.store.cache import StoreHealth
from proxy.store.keys import holders
from proxy.store.stream_leases import LEASE_MS
from proxy.tasks.runtime import Runtime
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.rate_limited_log import RateLimitedLog

RENEW_S: Final = LEASE_MS / 3000  # two renewals may be lost before a lease lapses
RETRY_AFTER_S: Final = 2  # streams end all the time: soon enough to be worth asking again
NO_ADDRESS: Final = "-"  # of a client on a unix socket: all of them look alike


# ---------------------------------------------------------------- how often


class RateLimits:
    """Count requests and submits a minute, of each token and of each owner."""

    def __init__(self, store: Store, health: StoreHealth, now_ms: Callable[[], int]) -> None:
        self._store = store
        self._health = health
        self._now_ms = now_ms

    async def check(self, exchange: Exchange, principal: Principal, call: Call) -> None:
        """Count this request; its reply gets the headers. Raises `RateLimited` for one too many."""
        rates = rates_of(principal, call)
        if not rates or (self._health.is_down and not self._store.is_listening):
            return
        try:
            admitted = await self._store.rates.admit(principal.owner, rates, self._now_ms())
        except StoreDown:
            self._health.is_down = True  # so that the next reader does not wait for it again
            return
        exchange.reply_headers = rate_headers(admitted)
        denied = admitted.denied
        if denied is not None:
            raise RateLimited(
                f"More than {denied.per_minute} {denied.kind} a minute; try again in "
                f"{max(1, round(admitted.wait_s))} s.",
                retry_after_s=admitted.wait_s,
                limit=denied.kind,
            )


def rates_of(principal: Principal, call: Call) -> list[Rate]:
    """The rates a request counts against: every request, and every submit on top."""
    if not (principal.limits.has_rates or principal.owner_limits.has_rates):
        return []
    token, owner, _ = holders(principal.token_id, principal.owner, "")
    rates = []
    is_submit = call.operation.is_submit and call.query.get("dry_run") != "1"
    for holder, limits in ((token, principal.limits), (owner, principal.owner_limits)):
        if limits.requests_per_minute is not None:
            rates.append(Rate(holder, "requests", limits.requests_per_minute))
        if limits.submits_per_minute is not None and is_submit:
            rates.append(Rate(holder, "submits", limits.submits_per_minute))
    return rates


def rate_headers(admitted: Admitted) -> dict[str, str]:
    """The rate with the least left, in the headers OpenAI's clients read."""
    rate = admitted.tightest
    if rate is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(rate.per_minute),
        "x-ratelimit-remaining-requests": str(admitted.remaining),
        "x-ratelimit-reset-requests": f"{round(admitted.reset_s, 2):g}s",
    }


# ---------------------------------------------------------------- how many streams


class StreamLimits:
    """Bound the open downloads and event streams, here and in all workers."""

    def __init__(self, runtime: Runtime, leases: StreamLeases) -> None:
        self._config = runtime.config
        self._slots = StreamSlots()
        self._leases = leases

    @property
    def total(self) -> int:
        """How many streams are open in this worker."""
        return self._slots.total

    @asynccontextmanager
    async def hold(self, principal: Principal, peer: str) -> AsyncIterator[None]:
        """Hold one stream under every limit; raises `RateLimited` when one has no room."""
        with self.hold_here(principal, peer):
            if not self._leases.are_needed(principal):
                yield
                return
            async with self._leases.hold(principal):
                yield

    @contextmanager
    def hold_here(self, principal: Principal, peer: str) -> Iterator[None]:
        """Hold one stream under this worker's limits only."""
        limits = self._config().limits
        wanted = {f"token:{principal.token_id}": limits.streams_per_token}
        if peer != NO_ADDRESS:
            wanted[f"address:{peer}"] = limits.streams_per_address
        with self._slots.hold(wanted):
            yield


class StreamSlots:
    """Streams open in this worker, by `kind:name`; the refusal tells the client the kind."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def hold(self, limits: Mapping[str, int]) -> Iterator[None]:
        """Hold one slot under each name; raises `RateLimited` when one is at its limit."""
        for name, limit in limits.items():
            if self._open[name] >= limit:
                raise _too_many(name.partition(":")[0], limit)
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
        """How many are open now: each holds a slot of its token."""
        return sum(n for name, n in self._open.items() if name.startswith("token:"))


class StreamLeases:
    """Open streams of each token and owner, in all workers; kept in the store.

    Only tokens with such a limit pay for asking: one round trip when a stream begins. `worker`
    names this one among all; `clock` gives seconds since the epoch.
    """

    def __init__(
        self,
        streams: Streams,
        worker: str,
        clock: Callable[[], float],
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._streams = streams
        self._worker = worker
        self._clock = clock
        self._troubles = RateLimitedLog(log)
        self._serial = count(1)
        self._held: dict[str, str] = {}

    @staticmethod
    def are_needed(principal: Principal) -> bool:
        """Whether anything limits its streams beyond this worker's own limits."""
        return (principal.limits.max_streams, principal.owner_limits.max_streams) != (None, None)

    @asynccontextmanager
    async def hold(self, principal: Principal) -> AsyncIterator[None]:
        """Hold one lease under each limit there is; raises `RateLimited` when one has no room."""
        token, owner, _ = holders(principal.token_id, principal.owner, "")
        limits = {
            "key": (token, principal.limits.max_streams),
            "owner": (owner, principal.owner_limits.max_streams),
        }
        names: list[str] = []
        try:
            for kind, (holder, limit) in limits.items():
                if limit is None:
                    continue
                name = f"{self._worker}:{next(self._serial)}"
                names.append(name)
                self._held[name] = holder
                if not await self._take(holder, name, limit):
                    raise _too_many(kind, limit)
            yield
        finally:
            for name in names:
                self._streams.release(self._held.pop(name), name)

    async def _take(self, holder: str, name: str, limit: int) -> bool:
        try:
            return await self._streams.take(holder, name, limit, self._now_ms())
        except StoreDown:
            return True

    async def run(self) -> None:
        """Renew what is held, for ever."""
        while True:
            await asyncio.sleep(RENEW_S)
            try:
                await self.renew()
            except ProxyError as error:
                self._troubles.warning("download leases not renewed", why=str(error))

    async def renew(self) -> None:
        """Renew what is held, once."""
        await self._streams.renew(dict(self._held), self._now_ms())

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)


def _too_many(kind: str, limit: int) -> RateLimited:
    return RateLimited(
        f"This {kind} has {limit} streams open already; finish one first.",
        code="too_many_streams",
        retry_after_s=RETRY_AFTER_S,
        limit="streams",
    )
