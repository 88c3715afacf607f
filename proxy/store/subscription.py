"""The one subscription of a worker: hears every change, and knows when it may have missed one.

Rule: between `on_lost` and the next time `is_subscribed` is True nothing is heard, and
redis-py never reconnects behind our back: its PubSub resubscribes silently, which loses
messages nobody learns about, so the connection is driven here. A half-open one is found by a
PING whenever the channel is silent for a time-out.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from proxy.store import keys
from proxy.store.client import FOREIGN, translate

Heard: TypeAlias = Callable[[str, str, int], None]  # kind ("task", "token"), id, version

_log = logging.getLogger(__name__)
_PAUSES_S: Final = (0.05, 1.0)  # between attempts to subscribe again: first, longest


class Subscription:
    """Start it with `open`, which returns once subscribed; stop it with `close`."""

    def __init__(
        self,
        make_client: Callable[[], Redis],
        timeout_s: float,
        heard: Heard,
        on_lost: Callable[[], None],
    ) -> None:
        self._make_client = make_client
        self._timeout_s = timeout_s
        self._heard = heard
        self._on_lost = on_lost
        self._job: asyncio.Task[None] | None = None
        self.is_subscribed = False

    async def open(self) -> None:
        """StoreDown when the first subscription fails; later losses are mended by the job."""
        first: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._job = job = asyncio.create_task(self._run(first), name="store-listen")
        try:
            await asyncio.wait((job, first), return_when=asyncio.FIRST_COMPLETED)
            await (first if first.done() else job)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            job.cancel()
            await asyncio.wait([job])

    async def _run(self, first: asyncio.Future[None]) -> None:
        pause = _PAUSES_S[0]
        while True:
            try:
                async with self._subscription() as connection:
                    self.is_subscribed = True
                    pause = _PAUSES_S[0]
                    if not first.done():
                        first.set_result(None)
                    await self._hear(connection)
            except FOREIGN as exc:
                if not first.done():
                    first.set_exception(translate(exc))
                    return
                if self.is_subscribed:
                    _log.warning("subscription lost, changes may be missed: %s", exc)
            finally:
                was_subscribed, self.is_subscribed = self.is_subscribed, False
            if was_subscribed:  # not reached when closed: that is no loss
                self._guarded(self._on_lost)
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSES_S[1])

    @asynccontextmanager
    async def _subscription(self) -> AsyncIterator[AbstractConnection]:
        client = self._make_client()
        try:
            async with asyncio.timeout(2 * self._timeout_s):
                connection: AbstractConnection = (
                    await client.connection_pool.get_connection()  # type: ignore[no-untyped-call]  # untyped in redis-py
                )
                await connection.send_command("SUBSCRIBE", keys.CHANNEL)
                await connection.read_response()
            yield connection
        finally:
            await client.connection_pool.disconnect()
            await client.aclose()

    async def _hear(self, connection: AbstractConnection) -> None:
        """Pass messages on until the connection breaks or stops answering."""
        asked = False
        while True:
            answer = await connection.read_response(timeout=self._timeout_s)
            if answer is None:
                if asked:
                    raise TimeoutError("no answer to PING on the subscription")
                await connection.send_command("PING", check_health=False)
                asked = True
                continue
            asked = False
            if answer[0] == b"message":
                self._pass_on(answer[2])

    def _pass_on(self, message: bytes) -> None:
        kind, _, rest = message.decode(errors="replace").partition("|")
        name, _, version = rest.rpartition("|")
        if not version.isdecimal():
            _log.warning("unknown message on %s: %r", keys.CHANNEL, message[:100])
            return
        self._guarded(lambda: self._heard(kind, name, int(version)))

    def _guarded(self, callback: Callable[[], None]) -> None:
        """The rim of this background job: a listener's own bug must not deafen the worker."""
        try:
            callback()
        except Exception:  # noqa: BLE001 - see above; logged
            _log.exception("subscription callback failed")
