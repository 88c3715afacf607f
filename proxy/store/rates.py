"""Requests per minute, counted across workers: one round trip for all the rates of a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from proxy.store import keys
from proxy.store.pipeline import Pipeline, Script


@dataclass(frozen=True, slots=True)
class Rate:
    """`who` may do `kind` so often a minute; see `keys.holders` for who."""

    who: str
    kind: Literal["requests", "submits"]
    per_minute: int


@dataclass(frozen=True, slots=True)
class Admitted:
    """`denied` is the rate that has no room, for `wait_s` seconds; None: let in. `tightest` is
    the rate with the least left (the denied one, with nothing), `remaining` how many that is,
    and `reset_s` how long until it is all there again."""

    denied: Rate | None
    wait_s: float = 0.0
    tightest: Rate | None = None
    remaining: int = 0
    reset_s: float = 0.0


class Rates:
    def __init__(self, batch: Pipeline) -> None:
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
            denied = rates[numbers[0] - 1]
            return Admitted(denied, numbers[1] / 1e6, denied, 0, numbers[2] / 1e6)
        left = zip(numbers[1::2], numbers[2::2], rates, strict=True)
        remaining, reset_us, tightest = min(left, key=lambda rate: rate[:2])
        return Admitted(None, 0.0, tightest, remaining, reset_us / 1e6)
