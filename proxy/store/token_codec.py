"""Tokens and owners as Redis holds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

import orjson

from proxy.model import NO_LIMITS, Limits
from proxy.store.codec import json_bytes, stored_object

_LIMIT_FIELDS: Final = frozenset(f.name for f in fields(Limits))


_LISTS: Final = ("models", "dialects", "operations", "addresses")  # of a token: JSON lists


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A token as stored: hashes of its secrets, never a secret. `models` are globs; empty means
    every model, and an empty scope (`dialects`, `operations`, `addresses`) any. `generation`
    rises with each rotation; derived keys depend on it. The secret before the last rotation is
    good until `previous_until_ms`."""

    id: str
    secret_sha256: str = field(repr=False)
    name: str
    owner: str
    created_ms: int
    previous_sha256: str | None = field(default=None, repr=False)
    previous_until_ms: int | None = None
    generation: int = 1
    models: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS
    labels: Mapping[str, str] = field(default_factory=dict)
    dialects: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()  # networks, as CIDR
    shared: bool = False
    expires_ms: int | None = None
    disabled_ms: int | None = None
    revoked_ms: int | None = None
    webhook: str | None = None


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """What an owner may have, over all its tokens; `models`: of each model a glob matches, the
    first that does."""

    name: str
    limits: Limits = NO_LIMITS
    models: tuple[tuple[str, Limits], ...] = ()


def encode_token(record: TokenRecord) -> tuple[str | int, ...]:
    """The token's hash, flat: field, value, …; what is None or empty is left out."""
    flat: list[str | int] = []
    for name, value in token_fields(record).items():
        if value is not None:
            flat += (name, value)
    return tuple(flat)


def token_fields(record: TokenRecord) -> dict[str, str | int | None]:
    """Every field of the token's hash; None: it has none."""
    found: dict[str, str | int | None] = {}
    for item in fields(record):
        value = getattr(record, item.name)
        if item.name == "limits":
            value = limits_document(value)
        if isinstance(value, bool):
            value = int(value) or None
        elif isinstance(value, tuple | Mapping):
            value = json_bytes(value).decode() if value else None
        found[item.name] = value
    return found


def decode_token(stored: Mapping[bytes, bytes]) -> TokenRecord:
    """The token of a hash; ValueError when a field is missing or malformed."""
    text = {name.decode(): value.decode() for name, value in stored.items()}

    def number(name: str) -> int | None:
        return int(text[name]) if name in text else None

    try:
        return TokenRecord(
            id=text["id"],
            secret_sha256=text["secret_sha256"],
            previous_sha256=text.get("previous_sha256"),
            previous_until_ms=number("previous_until_ms"),
            generation=int(text["generation"]),
            name=text["name"],
            owner=text["owner"],
            **{name: tuple(orjson.loads(text.get(name, "[]"))) for name in _LISTS},
            limits=_limits(orjson.loads(text.get("limits", "{}"))),
            labels=orjson.loads(text.get("labels", "{}")),
            shared=number("shared") == 1,
            created_ms=int(text["created_ms"]),
            expires_ms=number("expires_ms"),
            disabled_ms=number("disabled_ms"),
            revoked_ms=number("revoked_ms"),
            webhook=text.get("webhook"),
        )
    except KeyError as exc:
        raise ValueError(f"not a token: {exc} is missing") from exc


def encode_owner(record: OwnerRecord) -> bytes:
    models = [(glob, limits_document(limits)) for glob, limits in record.models]
    return json_bytes({"limits": limits_document(record.limits), "models": models})


def decode_owner(name: str, document: bytes) -> OwnerRecord:
    """The owner of a document; ValueError when it is none."""
    raw = stored_object(document)
    try:
        models = tuple((str(glob), _limits(limits)) for glob, limits in raw["models"])
        return OwnerRecord(name, _limits(raw["limits"]), models)
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"not an owner: {exc}") from exc


def limits_document(limits: Limits) -> dict[str, int]:
    """The limits there are, by name."""
    found = {name: getattr(limits, name) for name in _LIMIT_FIELDS}
    return {name: value for name, value in sorted(found.items()) if value is not None}


def _limits(document: Mapping[str, int]) -> Limits:
    if not isinstance(document, dict):
        raise ValueError("limits are not an object")
    known = {name: value for name, value in document.items() if name in _LIMIT_FIELDS}
    if not all(isinstance(value, int) for value in known.values()):
        raise ValueError(f"a limit is no whole number: {known}")
    return Limits(**known)
