"""Minted tokens: what is kept of them, and that it is never a secret."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from proxy.model import NO_LIMITS, Limits
from proxy.signing import TOKEN_ENTROPY, parse_token, secret_key
from proxy.store import Store, TokenRecord
from proxy.tokens import NewToken, create_token, mint, webhook_secret

SECRET = b"a gateway's first signing secret"
ENTROPY = bytes(range(TOKEN_ENTROPY))
NOW_MS = 1_790_000_000_123


def test_a_token_is_known_by_its_id_and_the_hash_of_its_secret() -> None:
    made = mint(SECRET, NewToken(name="me"), ENTROPY, NOW_MS)
    parsed = parse_token(made.token)
    assert parsed is not None
    assert parsed[0] == made.record.id == base64.b32encode(ENTROPY[:10]).decode().lower()
    assert made.record.secret_sha256 == hashlib.sha256(parsed[1].encode()).hexdigest()
    assert (made.record.name, made.record.generation) == ("me", 1)
    assert made.record.created_ms == NOW_MS


def test_its_other_keys_are_derived_so_that_none_is_stored() -> None:
    made = mint(SECRET, NewToken(name="me"), ENTROPY, NOW_MS)
    token_id = made.record.id
    assert made.secret_key == secret_key(SECRET, token_id, 1)
    mac = hmac.digest(SECRET, f"webhook|{token_id}|1".encode(), "sha256")
    assert made.webhook_secret == "whsec_" + base64.b64encode(mac).decode()
    assert webhook_secret(SECRET, token_id, 2) != made.webhook_secret


def test_no_secret_is_in_what_a_log_would_show() -> None:
    made = mint(SECRET, NewToken(name="me"), ENTROPY, NOW_MS)
    _, secret = cast("tuple[str, str]", parse_token(made.token))
    for hidden in (secret, made.secret_key, made.webhook_secret, made.record.secret_sha256):
        assert hidden not in repr(made)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({}, {"models": (), "limits": NO_LIMITS, "shared": False, "labels": {}}),
        ({"owner": "acme"}, {"owner": "acme"}),
        ({"models": ("sora-*",)}, {"models": ("sora-*",)}),
        ({"limits": Limits(budget_micro=4_000_000)}, {"limits": Limits(budget_micro=4_000_000)}),
        ({"dialects": ("kling",), "shared": True}, {"dialects": ("kling",), "shared": True}),
        ({"addresses": ("::1/128",)}, {"addresses": ("::1/128",), "operations": ()}),
        ({"webhook": "https://a.example"}, {"webhook": "https://a.example"}),
        ({"expires_s": 0.25}, {"expires_ms": NOW_MS + 250}),
        ({"expires_s": None}, {"expires_ms": None}),
    ],
)
def test_what_is_said_of_it_is_kept(said: dict[str, Any], kept: dict[str, object]) -> None:
    record = mint(SECRET, NewToken(name="me", **said), ENTROPY, NOW_MS).record
    assert {name: getattr(record, name) for name in kept} == kept


@pytest.mark.parametrize("owner", [None, ""])
def test_without_an_owner_it_is_a_tenant_of_its_own(owner: str | None) -> None:
    record = mint(SECRET, NewToken(name="me", owner=owner), ENTROPY, NOW_MS).record
    assert record.owner == record.id


def test_too_little_entropy_is_no_token() -> None:
    with pytest.raises(ValueError, match="64 random bytes, not 63"):
        mint(SECRET, NewToken(name="me"), ENTROPY[1:], NOW_MS)


def test_creating_one_stores_its_record_and_nothing_else() -> None:
    stored: list[TokenRecord] = []
    asked: list[int] = []

    async def create(record: TokenRecord) -> None:
        stored.append(record)

    def entropy(size: int) -> bytes:
        asked.append(size)
        return ENTROPY

    store = cast("Store", SimpleNamespace(tokens=SimpleNamespace(create=create)))
    made = asyncio.run(
        create_token(store, SECRET, NewToken(name="me"), entropy, lambda: NOW_MS / 1000)
    )
    assert stored == [made.record]
    assert asked == [TOKEN_ENTROPY]
    assert made == mint(SECRET, NewToken(name="me"), ENTROPY, NOW_MS)
    assert re.fullmatch(r"whsec_[0-9A-Za-z+/]{43}=", made.webhook_secret)
