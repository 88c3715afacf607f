"""Owners in Redis: what each may have over all its tokens. One nobody has spoken of may have
anything; it needs no record."""

from __future__ import annotations

import asyncio

from proxy.store import keys
from proxy.store.errors import StoreFault
from proxy.store.pipeline import Pipeline, Script
from proxy.store.token_codec import OwnerRecord, decode_owner, encode_owner
from proxy.store.tokens import LISTED_AT_ONCE


class Owners:
    """Every change is told on the channel as `owner|<name>|<version>`."""

    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._put = Script.load("owner_put")

    async def get(self, name: str) -> OwnerRecord:
        document = await self._batch.call("HGET", keys.owner(name), "doc")
        if not isinstance(document, bytes):
            return OwnerRecord(name)
        try:
            return decode_owner(name, document)
        except ValueError as exc:
            raise StoreFault(f"an owner's record is unreadable: {exc}") from exc

    async def put(self, record: OwnerRecord) -> None:
        """Replace what is known of the owner. Of two at once the later stands."""
        await self._batch.call("SADD", keys.OWNERS, record.name)
        await self._batch.run(
            self._put,
            [keys.owner(record.name)],
            [record.name, encode_owner(record), keys.CHANNEL],
        )

    async def list(self) -> tuple[OwnerRecord, ...]:
        """Those somebody has spoken of, by name."""
        names = await self._batch.call("SMEMBERS", keys.OWNERS)
        assert isinstance(names, list | set)
        found = sorted(name.decode() for name in names if isinstance(name, bytes))
        records: list[OwnerRecord] = []
        for first in range(0, len(found), LISTED_AT_ONCE):
            records += await asyncio.gather(*map(self.get, found[first : first + LISTED_AT_ONCE]))
        return tuple(records)
