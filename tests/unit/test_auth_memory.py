"""What an authenticator remembers of a key: as good as reading it anew, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from proxy.errors import Unauthenticated
from proxy.gateway.auth import Authenticator
from proxy.gateway.memos import RequestMemos
from proxy.model import Limits
from proxy.signing import format_token, new_token, token_hash
from proxy.store import OwnerRecord, TokenRecord
from proxy.store.cache import ReadCache
from proxy.telemetry.exchange import Head

TOKEN_ID, SECRET = new_token(bytes(range(64)))
TOKEN = format_token(TOKEN_ID, SECRET)
RECORD = TokenRecord(TOKEN_ID, token_hash(SECRET), "a key", "an owner", 0)
OWNER = OwnerRecord("an owner")


class Desk:
    """The two mirrors, over records a test may change, and how often each was read."""

    def __init__(self) -> None:
        self.record: TokenRecord | None = RECORD
        self.reads = 0
        self.owner: Callable[[], asyncio.Future[OwnerRecord]] | None = None
        self.records = ReadCache(self._record, lambda: True, 100)
        self.owners = ReadCache(self._owner, lambda: True, 100)
        self.memos = RequestMemos()
        self.auth = Authenticator(self.records, self.owners, [b"s" * 32], lambda: 1e9, self.memos)

    async def _record(self, _: str) -> TokenRecord | None:
        self.reads += 1
        return self.record

    async def _owner(self, _: str) -> OwnerRecord:
        return OWNER if self.owner is None else await self.owner()

    async def ask(self, value: str = f"Bearer {TOKEN}") -> Limits:
        headers = CIMultiDictProxy(CIMultiDict({"Authorization": value}))
        head = Head("GET", "/v1/videos", "/v1/videos", (), headers, "192.0.2.1")
        return (await self.auth.authenticate(head, (), _no_body)).principal.owner_limits


async def _no_body(_: int) -> bytes:
    raise AssertionError("a bearer needs no body")


@pytest.mark.parametrize(
    "change", [{"revoked_ms": 1}, {"disabled_ms": 1}, {"secret_sha256": "0" * 64}]
)
@pytest.mark.parametrize("value", [f"Bearer {TOKEN}", f"bearer   {TOKEN}"])
async def test_a_key_that_has_changed_is_not_let_in_from_memory(
    value: str, change: dict[str, object]
) -> None:
    desk = Desk()
    for _ in range(3):
        await desk.ask(value)
    assert desk.reads == 1
    desk.record = replace(RECORD, **change)  # type: ignore[arg-type]
    desk.records.invalidate(TOKEN_ID)
    with pytest.raises(Unauthenticated):
        await desk.ask(value)


async def test_one_key_fills_no_more_than_one_place() -> None:
    """However many ways there are to write the scheme and the space behind it."""
    desk = Desk()
    for length in range(1, 40):
        await desk.ask(f"Bearer{' ' * length}{TOKEN}")
        await desk.ask(f"bEARER{' ' * length}{TOKEN}")
    assert list(desk.memos.admissions) == [f"Bearer {TOKEN}"]


async def test_an_owner_who_changed_during_the_reading_is_not_remembered_beside_the_old_one() -> (
    None
):
    """The old and the new reading of the owner end in the same turn of the loop."""
    desk = Desk()
    readings: list[asyncio.Future[OwnerRecord]] = []
    begun = asyncio.Semaphore(0)

    def reading() -> asyncio.Future[OwnerRecord]:
        readings.append(asyncio.get_running_loop().create_future())
        begun.release()
        return readings[-1]

    desk.owner = reading
    asked = asyncio.create_task(desk.ask())
    await begun.acquire()
    desk.owners.invalidate("an owner")
    again = asyncio.create_task(desk.owners.get("an owner"))
    await begun.acquire()
    readings[0].set_result(OWNER)
    readings[1].set_result(replace(OWNER, limits=Limits(max_streams=1)))
    await asked
    await again
    assert (await desk.ask()).max_streams == 1
