"""Tokens in Redis: hashes of secrets, limits, generation.

Two keys in two slots, so not one script: the hash, then the index. A token that exists always
works; the index only lists. An index entry's score is the ms its hash dies, so each creation
sweeps what has died.
"""

from __future__ import annotations

import asyncio
from typing import Final

from proxy.errors import Conflict
from proxy.model import Principal
from proxy.store import keys
from proxy.store.errors import StoreFault
from proxy.store.pipeline import Answer, Pipeline, Script
from proxy.store.token_codec import (
    OwnerRecord,
    TokenRecord,
    decode_token,
    encode_token,
    token_fields,
)

LISTED_AT_ONCE: Final = 1000  # a bound on what waits for the store at once
# So that "expired" is not "unknown", and what was paid for stays readable.
KEPT_AFTER_EXPIRY_MS: Final = 400 * 24 * 3600 * 1000


def principal(record: TokenRecord, owner: OwnerRecord | None = None) -> Principal:
    """Who the token stands for. `revoked` says it was; expiry is compared by the caller."""
    owner = owner or OwnerRecord(record.owner)
    return Principal(
        token_id=record.id,
        owner=record.owner,
        name=record.name,
        generation=record.generation,
        models=record.models,
        limits=record.limits,
        expires_ms=record.expires_ms,
        revoked=record.revoked_ms is not None,
        webhook=record.webhook,
        owner_limits=owner.limits,
        model_limits=owner.models,
        dialects=record.dialects,
        operations=record.operations,
        addresses=record.addresses,
        shared=record.shared,
    )


class Tokens:
    """Every change is told on the channel as `token|<id>|<generation>`."""

    def __init__(self, batch: Pipeline) -> None:
        self._batch = batch
        self._create = Script.load("token_create")
        self._change = Script.load("token_change")
        self._rotate = Script.load("token_rotate")
        self._revoke = Script.load("token_revoke")

    async def create(self, record: TokenRecord) -> None:
        """Store a new token; Conflict when its id is taken."""
        dies: int | str = ""
        if record.expires_ms is not None:
            dies = record.expires_ms + KEPT_AFTER_EXPIRY_MS
        written = await self._batch.run(
            self._create, [keys.token(record.id)], [dies, *encode_token(record)]
        )
        if written != 1:
            raise Conflict(f"token id {record.id} is taken")
        await asyncio.gather(
            self._batch.call("ZADD", keys.TOKENS, "+inf" if dies == "" else dies, record.id),
            self._batch.call("ZREMRANGEBYSCORE", keys.TOKENS, "-inf", f"({record.created_ms}"),
        )

    async def get(self, token_id: str) -> TokenRecord | None:
        return _record(await self._batch.call("HGETALL", keys.token(token_id)))

    async def list(self) -> tuple[TokenRecord, ...]:
        """All tokens, revoked ones too, oldest first."""
        ids = await self._batch.call("ZRANGE", keys.TOKENS, 0, -1)
        assert isinstance(ids, list)
        names = [member.decode() for member in ids if isinstance(member, bytes)]
        records: list[TokenRecord] = []
        for first in range(0, len(names), LISTED_AT_ONCE):
            found = await asyncio.gather(
                *(self.get(name) for name in names[first : first + LISTED_AT_ONCE])
            )
            records += [record for record in found if record is not None]
        return tuple(sorted(records, key=lambda record: (record.created_ms, record.id)))

    async def change(self, record: TokenRecord, *names: str) -> bool:
        """Write these fields of the record; its secrets and its end (`rotate`, `revoke`) are
        none of them. False when there is no such token."""
        if set(names) & {"id", "secret_sha256", "previous_sha256", "generation", "revoked_ms"}:
            raise ValueError("not a field to change")
        dies: int | str = ""
        if "expires_ms" in names:
            dies = "never"
            if record.expires_ms is not None:
                dies = record.expires_ms + KEPT_AFTER_EXPIRY_MS
        found = token_fields(record)
        pairs = [item for name in names for item in (name, _or_nothing(found[name]))]
        done = await self._batch.run(
            self._change, [keys.token(record.id)], [record.id, keys.CHANNEL, dies, *pairs]
        )
        if done == 1 and dies != "":
            score = "+inf" if dies == "never" else dies
            await self._batch.call("ZADD", keys.TOKENS, "XX", score, record.id)
        return done == 1

    async def rotate(self, token_id: str, secret_sha256: str, previous_until_ms: int) -> int | None:
        """A new secret; the one before it stays good until then. Returns the new generation,
        None when there is no such token."""
        generation = await self._batch.run(
            self._rotate,
            [keys.token(token_id)],
            [token_id, secret_sha256, keys.CHANNEL, previous_until_ms],
        )
        assert isinstance(generation, int)
        return generation or None

    async def revoke(self, token_id: str, now_ms: int) -> bool:
        """False when there is no such token. Revoking again keeps the first time."""
        done = await self._batch.run(
            self._revoke, [keys.token(token_id)], [token_id, now_ms, keys.CHANNEL]
        )
        return done == 1


def _or_nothing(value: str | int | None) -> str | int:
    return "" if value is None else value


def _record(answer: Answer) -> TokenRecord | None:
    assert isinstance(answer, dict)
    if not answer:
        return None
    try:
        return decode_token(answer)
    except ValueError as exc:
        raise StoreFault(f"a token's record is unreadable: {exc}") from exc
