"""Who takes a submit: the credentials' places and standing, as all workers see them.

Rule: nothing here fails a submit that could be sent. What is learned from an answer is written
if the store takes it; a place that could not be given back ends by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from proxy.errors import ProxyError, UpstreamUnreachable
from proxy.model import HEALTHY, Credential, CredentialHealth, Task, Upstream
from proxy.providers.outcomes import Accepted, Outcome, Refused, Unknown
from proxy.store import Store
from proxy.store.keys import credential_name
from proxy.tasks.breaker import (
    Blocked,
    Witness,
    after_failure,
    after_refusal,
    blocked,
    half_open,
    slot_life_ms,
    verdict,
)
from proxy.tasks.runtime import Runtime
from proxy.telemetry.metric_definitions import SUBMITS
from proxy.telemetry.rate_limited_log import RateLimitedLog

TRIES = 4  # at writing a standing that others write as well


@dataclass(frozen=True, slots=True)
class Slot:
    """A credential that takes this submit. `trial`: it is the one that finds out whether the
    credential, or its upstream, is in order again."""

    task_id: str
    upstream: str
    name: str
    key_health: CredentialHealth
    upstream_health: CredentialHealth
    witness: Witness
    key_trial: bool = False
    upstream_trial: bool = False


class CredentialPool:
    """`clock` gives seconds since the epoch; `schedule` how long a submit may take and how often
    its task is looked at."""

    def __init__(
        self,
        runtime: Runtime,
        store: Store,
    ) -> None:
        self._metrics = runtime.metrics
        self._known = store.credentials
        self._tasks = store.tasks
        self._schedule = runtime.schedule
        self._clock = runtime.clock
        self._log = runtime.log
        self._troubles = RateLimitedLog(runtime.log)
        self._now_ms = runtime.now_ms

    async def acquire(
        self, task: Task, upstream: Upstream, credential: Credential
    ) -> Slot | Blocked:
        """Take a place; raises StoreDown when nobody can tell whether there is one."""
        acquired = await self._acquire(task, upstream, credential)
        if isinstance(acquired, Blocked):
            self._metrics.count(SUBMITS, upstream.name, credential.name, acquired.why)
        return acquired

    async def _acquire(
        self, task: Task, upstream: Upstream, credential: Credential
    ) -> Slot | Blocked:
        task_id, client = task.id, task.token_id
        name = credential_name(upstream.name, credential.name)
        now_ms = self._now_ms()
        (key, whole), is_alone = await asyncio.gather(
            self._known.health((name, upstream.name)),
            self._known.is_alone(upstream.name, client, now_ms),
        )
        for health in (whole, key):
            if verdict(health, now_ms, client) == "wait":
                return blocked(health, now_ms, client)
        most = credential.max_in_flight
        if most is not None:
            until_ms = now_ms + self._life_ms
            if not await self._known.take_slot(name, task_id, most, now_ms, until_ms):
                return Blocked("busy", 0)
        trials = []
        for called, health in ((upstream.name, whole), (name, key)):
            trials.append(verdict(health, now_ms, client) == "trial")
            if trials[-1]:
                claimed = half_open(health, now_ms, self._schedule().settle_ms)
                if not await self._known.swap(called, health, claimed):
                    await self._release(name, task_id)
                    return blocked(claimed, now_ms)
                self._log.info("credential tried again", name=called, code=health.code)
        witness = Witness(client, is_alone)
        return Slot(task_id, upstream.name, name, key, whole, witness, trials[1], trials[0])

    async def blocked_by(
        self, upstream: Upstream, credential: Credential, client: str | None = None
    ) -> Blocked | None:
        """What keeps it from submits of this client key beside its places; raises StoreDown.
        None: what keeps it from submits of every key."""
        names = (upstream.name, credential_name(upstream.name, credential.name))
        now_ms = self._now_ms()
        for health in await self._known.health(names):
            if client is None and not health.is_for_all:
                continue
            if verdict(health, now_ms, client) == "wait":
                return blocked(health, now_ms, client)
        return None

    async def has_free_slot(
        self, candidates: Collection[tuple[Upstream, Credential]], client: str | None = None
    ) -> bool:
        """Whether one of these would take a submit of this client key now, or with None of some
        key; somebody else may be faster. Raises StoreDown."""
        rooms = (
            self._has_free_slot(upstream, credential, client) for upstream, credential in candidates
        )
        return any(await asyncio.gather(*rooms))

    async def _has_free_slot(
        self, upstream: Upstream, credential: Credential, client: str | None
    ) -> bool:
        most = credential.max_in_flight
        if most is not None:
            name = credential_name(upstream.name, credential.name)
            if await self._known.in_flight(name, self._now_ms()) >= most:
                return False
        return await self.blocked_by(upstream, credential, client) is None

    async def release(self, slot: Slot) -> None:
        """Of a submit that was refused: its task is not in flight."""
        await self._release(slot.name, slot.task_id)

    async def _release(self, name: str, task_id: str) -> None:
        with suppress(ProxyError):
            await self._known.release_slot(name, task_id)

    async def has_slot(
        self, task_id: str, candidates: Collection[tuple[Upstream, Credential]]
    ) -> bool:
        """Whether this task has a place at one of them. Raises StoreDown."""
        known = (self._known.has_slot(name, task_id) for name in _counted(candidates))
        return any(await asyncio.gather(*known))

    async def release_all(
        self, task_id: str, candidates: Collection[tuple[Upstream, Credential]]
    ) -> None:
        """Of a task nobody is sending: whoever was about to has died with its place."""
        await asyncio.gather(*(self._release(name, task_id) for name in _counted(candidates)))

    async def renew(self, task: Task, credential: Credential) -> None:
        """An open task was looked at: it is still in flight."""
        if credential.max_in_flight is None:
            return
        now_ms = self._now_ms()
        name = credential_name(task.upstream, credential.name)
        await self._known.renew_slot(name, task.id, now_ms, now_ms + self._life_ms)
        # Its provider's callback may have ended it since it was read, and given the place back
        # before this took it again.
        if not await self._tasks.is_due(task.id):
            await self._release(name, task.id)

    async def report(self, slot: Slot, outcome: Outcome) -> None:
        """What an answer says about the credential and its upstream; told once of each submit."""
        now_ms = self._now_ms()
        unreachable = isinstance(outcome, Refused) and isinstance(
            outcome.error, UpstreamUnreachable
        )
        word = "unreachable" if unreachable else type(outcome).__name__.lower()
        credential = slot.name.removeprefix(f"{slot.upstream}/")
        self._metrics.count(SUBMITS, slot.upstream, credential, word)
        try:
            if unreachable or isinstance(outcome, Unknown):
                reason = outcome.reason if isinstance(outcome, Unknown) else "unreachable"
                trial = slot.upstream_trial
                witness = None if unreachable else slot.witness
                await self._change(
                    slot.upstream,
                    lambda s: after_failure(s, reason[:200], now_ms, trial=trial, witness=witness),
                )
                return
            if slot.upstream_health != HEALTHY:
                await self._recover(slot.upstream)
            if isinstance(outcome, Refused):
                refusal, trial = outcome, slot.key_trial
                await self._change(
                    slot.name,
                    lambda s: after_refusal(s, refusal, now_ms, trial=trial, witness=slot.witness),
                )
            elif isinstance(outcome, Accepted) and slot.key_health != HEALTHY:
                await self._recover(slot.name)
        except ProxyError as fault:
            self._troubles.warning("credential state not recorded", name=slot.name, why=str(fault))

    async def _recover(self, name: str) -> None:
        if await self._known.reset(name):
            self._log.info("credential restored", name=name)

    async def _change(
        self, name: str, change: Callable[[CredentialHealth], CredentialHealth]
    ) -> None:
        """Others learn at the same time: what they wrote meanwhile is where we go on from."""
        for _attempt in range(TRIES):
            (old,) = await self._known.health((name,))
            new = change(old)
            if new == old:
                return
            if not await self._known.swap(name, old, new):
                continue
            if new.state != "well":
                self._log.warning(
                    "circuit breaker opened" if new.state == "broken" else "credential paused",
                    name=name,
                    state=new.state,
                    code=new.code,
                    strikes=new.strikes,
                    seconds=round((new.until_ms - self._now_ms()) / 1000, 1),
                )
            return

    @property
    def _life_ms(self) -> int:
        return slot_life_ms(self._schedule())


def _counted(candidates: Collection[tuple[Upstream, Credential]]) -> list[str]:
    """The names of those whose places are counted."""
    return [
        credential_name(up.name, key.name)
        for up, key in candidates
        if key.max_in_flight is not None
    ]
