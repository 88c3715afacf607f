"""API keys: what may be said of one, making and rotating one. The command calls them tokens.

Shared by `reelway token`, the demo and the admin port.
"""

from __future__ import annotations

import re
import unicodedata
from base64 import b64encode
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from typing import Any, Final, Literal, TypeAlias

from proxy.dialects import DIALECTS
from proxy.dialects.media import web_address
from proxy.errors import Conflict, Invalid, NotFound
from proxy.http.addresses import refused_target
from proxy.model import NO_LIMITS, Limits, Operation
from proxy.signing import (
    TOKEN_ENTROPY,
    derive,
    format_token,
    new_token,
    secret_key,
    token_hash,
)
from proxy.store import Store, TokenRecord

NAME_CHARS: Final = 200
GLOB_CHARS: Final = 256
LABEL_CHARS: Final = 256
MOST_ENTRIES: Final = 100
MOST_MICRO: Final = 10**15 - 1  # below a billion of the currency
MOST_COUNT: Final = 10**9
MOST_BYTES: Final = 10**12

OPERATIONS: Final = tuple(operation.value for operation in Operation)
_LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

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
) -> MadeToken:
    """New secrets for a token. Its old one stays good for `overlap_s`; the key pair and webhook
    secret derived for it end at once. NotFound when there is no such token; Conflict when it is
    revoked, which no new secret mends."""
    record = await find_token(store, token_id)
    check_not_revoked(record)
    _, token_secret = new_token(entropy(TOKEN_ENTROPY))
    until_ms = int((clock() + overlap_s) * 1000)
    generation = await store.tokens.rotate(token_id, token_hash(token_secret), until_ms)
    if generation is None:
        raise no_such_token(token_id)
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


# ---------------------------------------------------------------- changing one


Changes: TypeAlias = Mapping[str, Any]
"""New values by field of `TokenRecord`; what is not named stays as it is."""


def no_such_token(token_id: str) -> NotFound:
    return NotFound(f"There is no token '{token_id[:80]}'.")


async def find_token(store: Store, token_id: str) -> TokenRecord:
    """Raise NotFound when there is no such token."""
    record = await store.tokens.get(token_id)
    if record is None:
        raise no_such_token(token_id)
    return record


async def change_token(
    store: Store, token_id: str, change: Callable[[TokenRecord], Changes]
) -> TokenRecord:
    """Write what `change` makes of a token's record; returns the new record. NotFound."""
    record = await find_token(store, token_id)
    changes = change(record)
    changed = replace(record, **changes)
    if changes and not await store.tokens.change(changed, *changes):
        raise NotFound(f"The token '{record.id}' has just expired for good.")
    return changed


async def revoke_token(store: Store, token_id: str, now_ms: int) -> None:
    """Refuse a token, and every link it handed out, for good. NotFound."""
    if not await store.tokens.revoke(token_id, now_ms):
        raise no_such_token(token_id)


def disable(record: TokenRecord, now_ms: int) -> Changes:
    """Refuse it until it is enabled; a disabled one keeps the time since when."""
    return {"disabled_ms": record.disabled_ms or now_ms}


def enable(record: TokenRecord) -> Changes:
    """Accept it again. Conflict when it is revoked."""
    check_not_revoked(record)
    return {"disabled_ms": None}


def expire(at_ms: int | None, now_ms: int) -> Changes:
    """End it then, but not in the past: the store would delete the record at once. None: never."""
    return {"expires_ms": None if at_ms is None else max(at_ms, now_ms)}


def check_not_revoked(record: TokenRecord) -> None:
    """Raise Conflict for a revoked token: nothing makes it good again."""
    if record.revoked_ms is not None:
        raise Conflict(f"The token {record.id} is revoked for good: make a new one.")


def webhook_secret(secret: bytes, token_id: str, generation: int) -> str:
    """A Standard Webhooks secret: `whsec_` and base64 of 32 derived bytes."""
    return "whsec_" + b64encode(derive(secret, "webhook", token_id, generation)).decode()


# ---------------------------------------------------------------- what may be said of one
#
# Each function returns the value as it is kept. ValueError says what is accepted.


def checked_name(value: str) -> str:
    """Of a token or an owner."""
    if not value.strip():
        raise ValueError("a key needs a name to be told apart by.")
    return _plain(value, NAME_CHARS)


def checked_models(values: Sequence[str]) -> tuple[str, ...]:
    """Names and globs."""
    return tuple(_plain(value, GLOB_CHARS) for value in _few(values))


def checked_dialects(values: Sequence[str]) -> tuple[str, ...]:
    return _known(values, DIALECTS)


def checked_operations(values: Sequence[str]) -> tuple[str, ...]:
    return _known(values, OPERATIONS)


def checked_networks(values: Sequence[str]) -> tuple[str, ...]:
    """As CIDR blocks; an address is the block of itself."""
    try:
        return tuple(str(ip_network(value, strict=False)) for value in _few(values))
    except ValueError as fault:
        raise ValueError(
            f"{fault}; write networks like 192.0.2.0/24 or 2001:db8::/32, by comma"
        ) from fault


def checked_labels(values: Mapping[str, str]) -> dict[str, str]:
    for key, text in values.items():
        if _LABEL.fullmatch(key) is None or len(text) > LABEL_CHARS:
            raise ValueError(
                f"'{key[:80]}' is not a label; write it like team=film: up to 64 letters, digits, "
                f"'_', '.' or '-', and up to {LABEL_CHARS} characters of text"
            )
        _plain(text, LABEL_CHARS)
    _few(tuple(values))
    return dict(values)


def checked_webhook(value: str) -> str:
    """An http(s) URL."""
    try:
        return web_address(value, "webhook")
    except Invalid as fault:
        raise ValueError(fault.message) from fault


def check_webhook_target(value: str | None, allowed: Container[str]) -> None:
    """ValueError for an address that could never be called; `allowed` is `[webhooks] allow`.
    One that takes a webhook away ("" or None) is fine."""
    target = refused_target(value, allowed) if value else None
    if target is not None:
        raise ValueError(
            f"would never be called: {target} is not a public address, and [webhooks] allow does "
            "not list it"
        )


def _known(values: Sequence[str], accepted: Iterable[str]) -> tuple[str, ...]:
    known = tuple(accepted)
    for value in _few(values):
        if value not in known:
            raise ValueError(f"there is no '{value[:80]}'; there is: {', '.join(known)}")
    return tuple(values)


def _few(values: Sequence[str]) -> Sequence[str]:
    if len(values) > MOST_ENTRIES:
        raise ValueError(f"has {len(values)} entries; at most {MOST_ENTRIES}")
    return values


def _plain(value: str, most_chars: int) -> str:
    if len(value) > most_chars:
        raise ValueError(f"is longer than {most_chars} characters")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise ValueError("holds a control character")
    return value
