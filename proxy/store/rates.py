"""Requests per minute, counted across workers: one round trip for all the rates of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.store import keys
from proxy.store.batch import Batcher, Script


@dataclass(frozen=True, slots=True)
class Rate:
    """`who` may do `kind` so often a minute; see `keys.holders` for who."""

    who: str
    kind: str
    per_minute: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """`denied` is the rate that has no room, for `wait_s` seconds; None: let in, with
    `remaining` of each rate asked for."""

    denied: Rate | None
    wait_s: float = 0.0
    remaining: tuple[int, ...] = ()


class Rates:
    def __init__(self, batch: Batcher) -> None:
        self._batch = batch
        self._admit = Script.load("admit")

    async def admit(self, owner: str, rates: Sequence[Rate], now_ms: int) -> Admitted:
        """Count one request against each of the rates, or against none when one is full."""
        if not rates:
            return Admitted(None)
        answer = await self._batch.run(
            self._admit,
            [keys.rate(owner, rate.who, rate.kind) for rate in rates],
            [now_ms * 1000, *(rate.per_minute for rate in rates)],
        )
        assert isinstance(answer, list)
        numbers = [item for item in answer if isinstance(item, int)]
        if numbers[0]:
            return Admitted(rates[numbers[0] - 1], numbers[1] / 1e6)
        return Admitted(None, remaining=tuple(numbers[1:]))
