"""What all workers know of credentials and upstreams: their health, and the tasks in flight.

Names are `upstream/credential`; an upstream's own health goes by its bare name, which holds no
slash. Health is changed by compare-and-set. A slot is a lease, renewed at each look at its task:
a release that was lost ends by itself, and a slot that a restored store has lost is taken again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import orjson

from proxy.model import ACTIVE_MS, HEALTHY, CredentialHealth
from proxy.store import keys
from proxy.store.pipeline import Answer, Pipeline, Script
from proxy.store.tasks import free

KEPT_MS: Final = 24 * 3600 * 1000  # health that nobody has touched for so long says nothing


class Credentials:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._take = Script.load("slot_take")
        self._swap = Script.load("health_swap")
        self._leave = Script.load("slot_release")
        self._active = Script.load("active")

    # ------------------------------------------------------------ health

    async def health(self, names: Sequence[str]) -> tuple[CredentialHealth, ...]:
        """`HEALTHY` where nothing is known."""
        found = await asyncio.gather(
            *(self._batch.call("GET", keys.health(name)) for name in names)
        )
        return tuple(_unpacked(document) for document in found)

    async def swap(self, name: str, old: CredentialHealth, new: CredentialHealth) -> bool:
        """Replace `old` by `new`; False when another worker has changed it."""
        changed = await self._batch.run(
            self._swap, [keys.health(name)], [_packed(old), _packed(new), KEPT_MS]
        )
        return changed == 1

    async def is_alone(self, name: str, key: str, now_ms: int) -> bool:
        """Note that this client key is active at the upstream or credential `name`. True when no
        other key was in the last `ACTIVE_MS`."""
        count = await self._batch.run(self._active, [keys.active(name)], [key, now_ms, ACTIVE_MS])
        return count == 1

    async def reset(self, name: str) -> bool:
        """Forget what speaks against it; False when nothing did."""
        return await self._batch.call("DEL", keys.health(name)) == 1

    # ------------------------------------------------------------ slots

    async def take_slot(
        self, name: str, task_id: str, most: int, now_ms: int, until_ms: int
    ) -> bool:
        """Take one of `most` slots until `until_ms`; taking a slot one has renews it. False when
        all are taken."""
        taken = await self._batch.run(
            self._take, [keys.slots(name)], [task_id, now_ms, until_ms, most]
        )
        return taken == 1

    async def renew_slot(self, name: str, task_id: str, now_ms: int, until_ms: int) -> None:
        """Keep the slot of a task that is known to be open, even above the limit."""
        await self._batch.run(self._take, [keys.slots(name)], [task_id, now_ms, until_ms, ""])

    async def release_slot(self, name: str, task_id: str) -> None:
        """Give the slot back; the channel tells workers with queued tasks."""
        await free(self._batch, self._leave, name, task_id)

    async def has_slot(self, name: str, task_id: str) -> bool:
        return await self._batch.call("ZSCORE", keys.slots(name), task_id) is not None

    async def in_flight(self, name: str, now_ms: int) -> int:
        count = await self._batch.call("ZCOUNT", keys.slots(name), f"({now_ms}", "+inf")
        assert isinstance(count, int)
        return count


def _packed(health: CredentialHealth) -> bytes:
    """As stored: the state is called `mood` there, as it always was.

    What earlier versions did not know is left out where it says nothing, so that they can read it
    and so that what they wrote compares equal.
    """
    if health == HEALTHY:
        return b""
    document = asdict(health)
    document = {"mood": document.pop("state"), **document}
    if not health.keys:
        del document["keys"]
    if not health.last_ms:
        del document["last_ms"]
    return orjson.dumps(document)


def _unpacked(document: Answer) -> CredentialHealth:
    """`HEALTHY` for what cannot be read, or is of a later version."""
    if not isinstance(document, bytes):
        return HEALTHY
    try:
        known = dict(orjson.loads(document))
        state, client_keys = known.pop("mood", "well"), tuple(known.pop("keys", ()))
        return CredentialHealth(state=state, keys=client_keys, **known)
    except (ValueError, TypeError):
        return HEALTHY
