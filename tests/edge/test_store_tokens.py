"""Tokens in a real Valkey."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.errors import Conflict
from proxy.model import Limits, Principal
from proxy.store import Store, TokenRecord, keys, principal
from tests.rig.tasks import NOW

DAY_MS = 24 * 3600 * 1000
FAR_MS = 4_000_000_000_000  # an expiry this machine's clock has not reached

RECORD = TokenRecord(
    id="abcdefghijklmnop",
    secret_sha256="ab" * 32,
    name="the studio",
    owner="acme",
    created_ms=NOW,
    models=("sora-2", "kling*"),
    limits=Limits(budget_micro=4_000_000, requests_per_minute=60, max_in_flight=5),
    expires_ms=FAR_MS,
)


async def test_a_token_is_found_by_every_worker(store: Store, second: Store) -> None:
    await store.tokens.create(RECORD)
    assert await second.tokens.get(RECORD.id) == RECORD
    assert await second.tokens.get("somebodyelse") is None
    assert principal(RECORD) == Principal(
        token_id=RECORD.id,
        owner="acme",
        name="the studio",
        models=("sora-2", "kling*"),
        limits=Limits(budget_micro=4_000_000, requests_per_minute=60, max_in_flight=5),
        expires_ms=FAR_MS,
    )


async def test_a_taken_id_is_refused_and_untouched(store: Store) -> None:
    await store.tokens.create(RECORD)
    with pytest.raises(Conflict):
        await store.tokens.create(replace(RECORD, owner="mallory"))
    assert await store.tokens.get(RECORD.id) == RECORD


async def test_tokens_are_listed_oldest_first(store: Store) -> None:
    records = [
        replace(RECORD, id=f"t{n}", created_ms=NOW + n, expires_ms=[None, FAR_MS][n % 2])
        for n in range(6)
    ]
    for record in reversed(records):
        await store.tokens.create(record)
    assert await store.tokens.list() == tuple(records)


async def test_an_expired_token_stays_known_for_as_long_as_what_it_paid_for(store: Store) -> None:
    await store.tokens.create(RECORD)
    dies = await store.batch.call("PEXPIRETIME", keys.token(RECORD.id))
    assert dies == FAR_MS + 400 * DAY_MS
    endless = replace(RECORD, id="endless", expires_ms=None)
    await store.tokens.create(endless)
    assert await store.batch.call("PTTL", keys.token("endless")) == -1


async def test_dead_tokens_leave_the_index_at_the_next_creation(store: Store) -> None:
    await store.tokens.create(replace(RECORD, id="dead", created_ms=1000, expires_ms=2000))
    assert await store.tokens.get("dead") is None
    assert await store.tokens.list() == ()
    await store.tokens.create(RECORD)
    assert await store.batch.call("ZRANGE", keys.TOKENS, 0, -1) == [RECORD.id.encode()]


async def test_revoking_keeps_the_first_time(store: Store) -> None:
    await store.tokens.create(RECORD)
    assert await store.tokens.revoke(RECORD.id, NOW + 1)
    assert await store.tokens.revoke(RECORD.id, NOW + 2)
    record = await store.tokens.get(RECORD.id)
    assert record == replace(RECORD, revoked_ms=NOW + 1)
    assert principal(record).revoked
    assert not await store.tokens.revoke("unknown", NOW)
    assert await store.tokens.get("unknown") is None


async def test_rotation_remembers_one_secret_back(store: Store) -> None:
    await store.tokens.create(RECORD)
    assert await store.tokens.rotate(RECORD.id, "cd" * 32, NOW + 5) == 2
    assert await store.tokens.get(RECORD.id) == replace(
        RECORD,
        secret_sha256="cd" * 32,
        previous_sha256="ab" * 32,
        previous_until_ms=NOW + 5,
        generation=2,
    )
    assert await store.tokens.rotate("unknown", "cd" * 32, NOW) is None
    assert await store.tokens.get("unknown") is None
