"""Making tokens: what `reelway token create`, the demo and the admin port share."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.signing import (
    TOKEN_ENTROPY,
    derive,
    format_token,
    new_token,
    secret_key,
    token_hash,
)
from proxy.store import Store, TokenRecord


@dataclass(frozen=True, slots=True)
class NewToken:
    """What may be said of a token at its creation. `owner` None: a tenant of its own; `models`
    empty: all; a limit of None: no limit. Amounts are millionths of [billing] currency."""

    name: str
    owner: str | None = None
    models: tuple[str, ...] = ()
    budget_micro: int | None = None
    rpm: int | None = None
    max_in_flight: int | None = None
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
        budget_micro=wanted.budget_micro,
        rpm=wanted.rpm,
        max_in_flight=wanted.max_in_flight,
        expires_ms=None if wanted.expires_s is None else now_ms + round(wanted.expires_s * 1000),
        webhook=wanted.webhook,
    )
    return MadeToken(
        record,
        format_token(token_id, token_secret),
        secret_key(secret, token_id, record.generation),
        webhook_secret(secret, token_id, record.generation),
    )


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


def webhook_secret(secret: bytes, token_id: str, generation: int) -> str:
    """A Standard Webhooks secret: `whsec_` and base64 of 32 derived bytes."""
    return "whsec_" + b64encode(derive(secret, "webhook", token_id, generation)).decode()
