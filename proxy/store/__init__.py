"""The store: everything the gateway remembers, in Redis. The only package that imports redis.

store = await Store.open("redis://127.0.0.1:6379/0")
known = await store.tasks.reserve(task, due_ms)
await store.close()
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Final

from proxy.errors import Unavailable
from proxy.store import keys
from proxy.store.capabilities import MIN_VERSION, parse_version
from proxy.store.client import Connections, connect
from proxy.store.codec import Booking, LineEntry
from proxy.store.credentials import Credentials
from proxy.store.durations import Durations
from proxy.store.errors import StoreDown, StoreFault, StoreFull, StoreUnsafe, StoreUnusable
from proxy.store.expiry import ExpirySweep
from proxy.store.keys import new_task_id, shard_of, shard_of_task
from proxy.store.ledger import Balance, BudgetUse, Ledger, LedgerCheck
from proxy.store.listing import Place, TaskListing
from proxy.store.observer import NOBODY, Observer
from proxy.store.owners import Owners
from proxy.store.pipeline import Answer, Durability, Pipeline, texts_or_empty
from proxy.store.queue import TaskQueues
from proxy.store.rates import Admitted, Rate, Rates
from proxy.store.refusals import RefusedSubmit, RefusedSubmits
from proxy.store.signatures import Signatures
from proxy.store.stream_leases import Streams
from proxy.store.subscription import Heard, Subscription
from proxy.store.task_scripts import Allowance, NotReserved, NotReservedWhy
from proxy.store.tasks import Tasks
from proxy.store.token_codec import OwnerRecord, TokenRecord
from proxy.store.tokens import Tokens, principal
from proxy.store.usage import Usage, Use
from proxy.store.webhooks import Webhooks

__all__ = [
    "Admitted",
    "Allowance",
    "Balance",
    "Booking",
    "BudgetUse",
    "Durability",
    "LedgerCheck",
    "LineEntry",
    "NotReserved",
    "NotReservedWhy",
    "Observer",
    "OwnerRecord",
    "Place",
    "Rate",
    "RefusedSubmit",
    "Store",
    "StoreDown",
    "StoreFault",
    "StoreFull",
    "StoreUnsafe",
    "StoreUnusable",
    "Streams",
    "Tasks",
    "TokenRecord",
    "Tokens",
    "Use",
    "new_task_id",
    "principal",
    "shard_of",
    "shard_of_task",
]

TIMEOUT_S: Final = 0.5


class Store:
    """One worker's view of the store. Made by `open`, used on one event loop, ended by `close`."""

    def __init__(
        self,
        connections: Connections,
        timeout_s: float,
        observer: Observer = NOBODY,
    ) -> None:
        self._connections = connections
        self._timeout_s = timeout_s
        self._listener: Subscription | None = None
        self._born: Answer = None  # which store this is, as `rw:meta` names it
        self.batch = Pipeline(connections.commands, timeout_s, observer)
        self.tokens = Tokens(self.batch)
        self.owners = Owners(self.batch)
        self.tasks = Tasks(self.batch, observer)
        self.ledger = Ledger(self.batch, self.tasks)
        self.streams = Streams(self.batch)
        self.webhooks = Webhooks(self.batch)
        self.ended = ExpirySweep(self.batch)
        self.made = TaskListing(self.batch, self.tasks)
        self.usage = Usage(self.batch)
        self.refusals = RefusedSubmits(self.batch)
        self.rates = Rates(self.batch)
        self.signatures = Signatures(self.batch)
        self.credentials = Credentials(self.batch)
        self.durations = Durations(self.batch)
        self.waiting = TaskQueues(self.batch)

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        timeout_s: float = TIMEOUT_S,
        observer: Observer = NOBODY,
    ) -> Store:
        """Connect and check that this is a store we can use. `url`: see `client.connect`.

        StoreDown: no answer. StoreUnusable: a wrong URL, too old a server, or data of another
        layout.
        """
        store = cls(connect(url, timeout_s), timeout_s, observer)
        try:
            await store._check()
        except BaseException:
            await store.close()
            raise
        return store

    async def ping(self) -> None:
        """StoreDown when the store, or one server of it, does not answer within its time-out."""
        await self.batch.everywhere("PING")

    async def trouble(self) -> str | None:
        """Say in one sentence why the store cannot be used now; None when it can.

        A store that was emptied, or replaced by another one, has lost tasks and keys: whoever
        runs the gateway has to know before requests come here again.
        """
        try:
            await self.ping()
            born = await self.batch.call("HGET", keys.META, keys.META_BORN)
        except Unavailable:
            return "the store does not answer"
        if born == self._born:
            return None
        return (
            "the store has lost its data: it was emptied or replaced while the gateway ran; "
            "restore it from a copy, or restart the gateway to begin with an empty one"
        )

    async def fullness(self) -> float:
        """How much of its memory limit the store uses, 0 to 1; 0 when it has no limit. Of several
        servers the fullest counts."""
        return max(map(_fullness, await self.batch.everywhere("INFO", "memory")))

    async def listen(self, callback: Heard, on_lost: Callable[[], None]) -> None:
        """Call `callback(kind, id, version)` for every change by anyone, from a job that `close`
        ends; kind is "task" (version: the task's), "token" (version: its generation), "owner",
        "hook" (id: the webhook that was written with a change) or "place" (id: the credential
        that has one more).

        Returns once subscribed, StoreDown when that fails. `on_lost` is called once per loss:
        whatever was cached may be stale, and stays so until `is_listening` is True again.
        Both are plain functions on the loop's own thread and must not block.
        """
        if self._listener is not None:
            raise RuntimeError("a store has one listener")
        self._listener = Subscription(
            self._connections.listener, self._timeout_s, callback, on_lost
        )
        try:
            await self._listener.open()
        except BaseException:
            self._listener = None
            raise

    @property
    def is_listening(self) -> bool:
        """True while every change is heard."""
        return self._listener is not None and self._listener.is_subscribed

    async def close(self) -> None:
        """End the listener, let sent commands finish, close connections."""
        if self._listener is not None:
            await self._listener.close()
        await self.batch.close()
        await self._connections.aclose()

    async def _check(self) -> None:
        for info in await self.batch.everywhere("INFO", "server"):
            said = str(info.get("redis_version", "")) if isinstance(info, dict) else ""
            if parse_version(said) < MIN_VERSION:
                raise StoreUnusable(f"[redis] url: the server is {said or 'unknown'}; 6.2 or later")
        wanted: dict[str, int] = {"schema": keys.SCHEMA, "shards": keys.SHARDS}
        await asyncio.gather(
            *(self.batch.call("HSETNX", keys.META, name, value) for name, value in wanted.items())
        )
        await self.batch.call("HSETNX", keys.META, keys.META_BORN, secrets.token_hex(16))
        self._born = await self.batch.call("HGET", keys.META, keys.META_BORN)
        found = await self.batch.call("HMGET", keys.META, *wanted)
        for (name, value), stored in zip(wanted.items(), texts_or_empty(found), strict=True):
            if stored != str(value):
                raise StoreUnusable(
                    f"[redis] url: the data there has {name} {stored}, this version needs "
                    f"{value}; use an empty database, or the version that wrote it"
                )


def _fullness(info: Answer) -> float:
    assert isinstance(info, dict)
    most = int(info.get("maxmemory", 0))
    return int(info.get("used_memory", 0)) / most if most else 0.0
