"""What all workers know of credentials and upstreams: their standing, and the tasks in flight.

Names are `upstream/credential`; an upstream's own standing goes by its bare name, which holds no
slash. A standing is changed by compare-and-set; a place in flight is a lease that whoever looks
at its task renews, so that a release that was lost ends by itself, and one that a restored store
never heard of is taken again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import orjson

from proxy.model import ACTIVE_MS, WELL, Standing
from proxy.store import keys
from proxy.store.pipeline import Answer, Batcher, Script
from proxy.store.tasks import free

KEPT_MS: Final = 24 * 3600 * 1000  # a standing nobody has touched for so long says nothing


class Credentials:
    def __init__(self, batch: Batcher) -> None:
        self._batch = batch
        self._take = Script.load("place")
        self._swap = Script.load("standing")
        self._leave = Script.load("leave")
        self._active = Script.load("active")

    # ------------------------------------------------------------ standing

    async def standings(self, names: Sequence[str]) -> tuple[Standing, ...]:
        """`WELL` where nothing is known."""
        found = await asyncio.gather(
            *(self._batch.call("GET", keys.standing(name)) for name in names)
        )
        return tuple(_standing(document) for document in found)

    async def swap(self, name: str, old: Standing, new: Standing) -> bool:
        """Replace `old` by `new`; False when somebody else has changed it."""
        changed = await self._batch.run(
            self._swap, [keys.standing(name)], [_packed(old), _packed(new), KEPT_MS]
        )
        return changed == 1

    async def is_alone(self, name: str, key: str, now_ms: int) -> bool:
        """Note that this client key is active at the upstream or credential `name`. True when no
        other key was in the last `ACTIVE_MS`."""
        count = await self._batch.run(self._active, [keys.active(name)], [key, now_ms, ACTIVE_MS])
        return count == 1

    async def forgive(self, name: str) -> bool:
        """Forget what speaks against it; False when nothing did."""
        return await self._batch.call("DEL", keys.standing(name)) == 1

    # ------------------------------------------------------------ places in flight

    async def take(self, name: str, task_id: str, most: int, now_ms: int, until_ms: int) -> bool:
        """A place among `most`, held until `until_ms` unless it is renewed; taking the place
        one has renews it. False when all are taken."""
        taken = await self._batch.run(
            self._take, [keys.places(name)], [task_id, now_ms, until_ms, most]
        )
        return taken == 1

    async def renew(self, name: str, task_id: str, now_ms: int, until_ms: int) -> None:
        """The same for a task that is known to be open, whoever else is in flight."""
        await self._batch.run(self._take, [keys.places(name)], [task_id, now_ms, until_ms, ""])

    async def leave(self, name: str, task_id: str) -> None:
        """Give the place back; those who wait for one hear of it."""
        await free(self._batch, self._leave, name, task_id)

    async def has(self, name: str, task_id: str) -> bool:
        return await self._batch.call("ZSCORE", keys.places(name), task_id) is not None

    async def in_flight(self, name: str, now_ms: int) -> int:
        count = await self._batch.call("ZCOUNT", keys.places(name), f"({now_ms}", "+inf")
        assert isinstance(count, int)
        return count


def _packed(standing: Standing) -> bytes:
    """A standing without keys is written as versions before them did, so that they can read it,
    and that what they wrote is known again."""
    if standing == WELL:
        return b""
    document = asdict(standing)
    if not standing.keys:
        del document["keys"]
    if not standing.last_ms:
        del document["last_ms"]
    return orjson.dumps(document)


def _standing(document: Answer) -> Standing:
    """What cannot be read, or is of a later version, is as good as nothing known."""
    if not isinstance(document, bytes):
        return WELL
    try:
        known = orjson.loads(document)
        return Standing(**{**known, "keys": tuple(known.get("keys", ()))})
    except (ValueError, TypeError):
        return WELL
