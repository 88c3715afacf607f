"""Signatures of submits: each stands for the one submit it came with first."""

from __future__ import annotations

from proxy.store import keys
from proxy.store.pipeline import Pipeline, Script


class Signatures:
    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._bind = Script.load("bind")

    async def bind(
        self, token_id: str, owner: str, signature: str, idempotency: str, life_s: int
    ) -> str:
        """The idempotency key this signature goes with: the one it was first seen with, which
        is `idempotency` when nobody saw it within `life_s`."""
        bound = await self._batch.run(
            self._bind,
            [keys.signature(token_id, owner, signature)],
            [idempotency, life_s * 1000],
        )
        assert isinstance(bound, bytes)
        return bound.decode()
