"""How many streams a token and its owner have open, downloads and events, in all workers.

Only tokens with such a limit pay for asking: one round trip when one begins. While the
store is down nobody is refused: what is finished goes on being delivered, and each worker's own
`Slots` still bound it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final

import structlog

from proxy.errors import ProxyError, RateLimited
from proxy.gateway.slots import RETRY_AFTER_S
from proxy.model import Principal
from proxy.store import StoreDown, Streams
from proxy.store.keys import holders
from proxy.store.stream_leases import LEASE_MS
from proxy.telemetry.rate_limited_log import RateLimitedLog

RENEW_S: Final = LEASE_MS / 3000  # two may be lost before a lease lapses


class Leases:
    """`worker` names this one among all; `clock` gives seconds since the epoch."""

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
    async def taken(self, principal: Principal) -> AsyncIterator[None]:
        """Hold one under each limit there is; raises RateLimited when one has no room."""
        token, owner, _ = holders(principal.token_id, principal.owner, "")
        wanted = {
            "key": (token, principal.limits.max_streams),
            "owner": (owner, principal.owner_limits.max_streams),
        }
        names: list[str] = []
        try:
            for kind, (who, most) in wanted.items():
                if most is None:
                    continue
                name = f"{self._worker}:{next(self._serial)}"
                names.append(name)
                self._held[name] = who
                if not await self._take(who, name, most):
                    raise RateLimited(
                        f"This {kind} has {most} streams open already; finish one first.",
                        code="too_many_streams",
                        retry_after_s=RETRY_AFTER_S,
                        limit="streams",
                    )
            yield
        finally:
            for name in names:
                self._streams.release(self._held.pop(name), name)

    async def _take(self, who: str, name: str, most: int) -> bool:
        try:
            return await self._streams.take(who, name, most, self._now_ms())
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
        await self._streams.renew(dict(self._held), self._now_ms())

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
