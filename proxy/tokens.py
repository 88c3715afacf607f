"""Making tokens: what `reelway token create`, the demo and the admin port share."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from proxy.errors import Conflict
from proxy.model import NO_LIMITS, Limits
from proxy.signing import (
    TOKEN_ENTROPY,
    derive,
    format_token,
    new_token,
    secret_key,
    token_hash,
)
from proxy.store import Store, TokenRecord

State = Literal["active", "disabled", "revoked", "expired"]


@dataclass(frozen=True, slots=True)
class NewToken:
    """What may be said of a token at its creation. `owner` None: a tenant of its own; `models`
    empty: all; an empty scope: any. Amounts are millionths of [billing] currency."""

    name: str
    owner: str | None = None
    models: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    labels: Mapping[str, str] = field(default_factory=dict)
    dialects: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()
    shared: bool = False
    expires_s: float | None = None
    webhook: str | None = None  # where its tasks' ends are told, unless a request says otherwise


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token with its secrets: the only time they are seen."""

    record: TokenRecord
    token: str = field(repr=False)
    secret_key: str = field(repr=False)
    webhook_secret: str = field(repr=False)


def mint(secret: bytes, wanted: NewToken, entropy: bytes, now_ms: int) -> MadeToken:
    """`secret` is the gateway's first signing secret; `entropy` at least `TOKEN_ENTROPY` bytes."""
    token_id, token_secret = new_token(entropy)
    record = TokenRecord(
        id=token_id,
        secret_sha256=token_hash(token_secret),
        name=wanted.name,
        owner=wanted.owner or token_id,
        created_ms=now_ms,
        models=wanted.models,
        limits=wanted.limits,
        labels=wanted.labels,
        dialects=wanted.dialects,
        operations=wanted.operations,
        addresses=wanted.addresses,
        shared=wanted.shared,
        expires_ms=None if wanted.expires_s is None else now_ms + round(wanted.expires_s * 1000),
        webhook=wanted.webhook,
    )
    return MadeToken(
        record,
        format_token(token_id, token_secret),
        secret_key(secret, token_id, record.generation),
        webhook_secret(secret, token_id, record.generation),
    )


def state_of(record: TokenRecord, now_ms: float) -> State:
    if record.revoked_ms is not None:
        return "revoked"
    if record.disabled_ms is not None:
        return "disabled"
    if record.expires_ms is not None and record.expires_ms <= now_ms:
        return "expired"
    return "active"


async def create_token(
    store: Store,
    secret: bytes,
    wanted: NewToken,
    entropy: Callable[[int], bytes],
    clock: Callable[[], float],
) -> MadeToken:
    """`mint` one and store it. `clock` gives seconds since the epoch."""
    made = mint(secret, wanted, entropy(TOKEN_ENTROPY), int(clock() * 1000))
    await store.tokens.create(made.record)
    return made


async def rotate_token(
    store: Store,
    secret: bytes,
    token_id: str,
    overlap_s: float,
    entropy: Callable[[int], bytes],
    clock: Callable[[], float],
) -> MadeToken | None:
    """New secrets for a token. Its old one stays good for `overlap_s`; the key pair and webhook
    secret derived for it end at once. None when there is no such token; Conflict when it is
    revoked, which no new secret mends."""
    record = await store.tokens.get(token_id)
    if record is None:
        return None
    if record.revoked_ms is not None:
        raise Conflict(f"The token {token_id} is revoked for good: make a new one.")
    _, token_secret = new_token(entropy(TOKEN_ENTROPY))
    until_ms = int((clock() + overlap_s) * 1000)
    generation = await store.tokens.rotate(token_id, token_hash(token_secret), until_ms)
    if generation is None:
        return None
    return MadeToken(
        replace(
            record,
            secret_sha256=token_hash(token_secret),
            previous_sha256=record.secret_sha256,
            previous_until_ms=until_ms,
            generation=generation,
        ),
        format_token(token_id, token_secret),
        secret_key(secret, token_id, generation),
        webhook_secret(secret, token_id, generation),
    )


def revoked_for_good(record: TokenRecord) -> str:
    """What whoever would use a revoked token again is told."""
    return f"The token {record.id} is revoked for good: make a new one."


def webhook_secret(secret: bytes, token_id: str, generation: int) -> str:
    """A Standard Webhooks secret: `whsec_` and base64 of 32 derived bytes."""
    return "whsec_" + b64encode(derive(secret, "webhook", token_id, generation)).decode()
