"""How often, how many at once, how much at once: kept over all workers, and told."""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack

import pytest

from proxy.errors import RateLimited
from proxy.gateway.limits import StreamLeases
from proxy.model import Limits, Principal
from proxy.server.embedded_store import Embedded
from proxy.store import OwnerRecord, Store
from proxy.store.keys import streams
from proxy.store.stream_leases import LEASE_MS
from proxy.telemetry.logs import make_logger
from proxy.tokens import MadeToken
from tests.rig.downloads import OPENAI, PROMPT, add, connected_to, content
from tests.rig.eventually import eventually
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.refusals import DOORS, JSON, WAIT_S, error_of, head_of, peer_of
from tests.rig.tasks import NOW

BODY = b'{"prompt":"a cat"}'
TOLD = ("limit", "remaining", "reset")
ONE_STREAM = Principal("tok", "acme", "a name", limits=Limits(max_streams=1))


def bearer(made: MadeToken) -> dict[str, str]:
    return {"Authorization": f"Bearer {made.token}"}


async def limit_owner(house: House, name: str, limits: Limits, **models: Limits) -> None:
    await house.server.store.owners.put(OwnerRecord(name, limits, tuple(models.items())))


# ---------------------------------------------------------------- rates


async def test_a_limited_token_is_told_how_much_is_left(house: House) -> None:
    """On every reply of it: answers, errors, videos, and the refusal itself."""
    task_id = await house.completed()
    made = await house.new_token(owner=house.made.record.owner, shared=True, requests_per_minute=4)
    left = []
    for path in ("/v1/models", "/v1/videos/video_1", content(task_id), "/v1/usage", "/v1/models"):
        reply = await house.get(path, headers=bearer(made))
        limit, remaining, reset = (reply.headers[f"x-ratelimit-{name}-requests"] for name in TOLD)
        assert limit == "4"
        assert re.fullmatch(r"\d+(\.\d+)?s", reset)
        assert float(reset[:-1]) <= 60
        left.append((reply.status, remaining))
    assert left == [(200, "3"), (404, "2"), (200, "1"), (200, "0"), (429, "0")]
    assert 1 <= int(reply.headers["Retry-After"]) <= 15


async def test_a_token_without_rates_is_told_of_none(house: House) -> None:
    reply = await house.get("/v1/models")
    assert not [name for name in reply.headers if name.lower().startswith("x-ratelimit")]


async def test_submits_are_counted_apart_and_a_quote_is_none(house: House) -> None:
    made = await house.new_token(submits_per_minute=1)
    path = "/v1/videos"
    for _ in range(3):
        reply = await house.post(f"{path}?dry_run=1", data=BODY, headers={**JSON, **bearer(made)})
        assert reply.status == 200
    replies = [
        await house.post(path, data=BODY, headers={**JSON, **bearer(made)}) for _ in range(2)
    ]
    assert [reply.status for reply in replies] == [200, 429]
    assert (await house.get(path, headers=bearer(made))).status == 200


async def test_a_full_rate_is_429_in_each_dialect(house: House) -> None:
    native = {"kling": 1302, "jimeng": 50429}
    for dialect, door in DOORS.items():
        made = await house.new_token(submits_per_minute=1)
        for status in (200, 429):
            reply = await house.post(door.submit, data=BODY, headers={**JSON, **bearer(made)})
            assert reply.status == status, dialect
        error = error_of(dialect, reply.headers, reply.body)
        assert error["code"] == "rate_limit_exceeded"
        assert "Retry-After" in reply.headers
        if dialect in native:
            assert reply.json()["code"] == native[dialect]


# ---------------------------------------------------------------- owners


async def test_an_owners_limits_hold_over_all_its_tokens_and_workers(house: House) -> None:
    other = await house.another_worker()
    await limit_owner(house, "acme", Limits(requests_per_minute=3))
    tokens = [await house.new_token(owner="acme") for _ in range(2)]
    stranger = await house.new_token(owner="other")
    asked = [
        (await house.get("/v1/models", headers=bearer(made), base=base)).status
        for made, base in zip(tokens * 2, (house.url, house.url, other.url, other.url), strict=True)
    ]
    assert asked == [200, 200, 200, 429]
    assert (await house.get("/v1/models", headers=bearer(stranger))).status == 200


async def test_a_change_of_an_owner_is_felt_at_once(house: House) -> None:
    made = await house.new_token(owner="acme")
    assert (await house.get("/v1/models", headers=bearer(made))).status == 200
    await limit_owner(house, "acme", Limits(requests_per_minute=1))
    async with asyncio.timeout(WAIT_S):
        while (await house.get("/v1/models", headers=bearer(made))).status != 429:
            pass
    await limit_owner(house, "acme", Limits())
    async with asyncio.timeout(WAIT_S):
        while (await house.get("/v1/models", headers=bearer(made))).status != 200:
            pass


async def test_an_owner_has_only_so_many_tasks_of_a_model_under_way(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        record = OwnerRecord(
            "acme", Limits(max_in_flight=3), (("sora-*", Limits(max_in_flight=1)),)
        )
        await house.server.store.owners.put(record)
        tokens = [await house.new_token(owner="acme") for _ in range(2)]
        bodies = [{"model": model, "prompt": "a cat"} for model in ("sora-2", "kling-v2-6")]
        asked = [(bodies[0], 0), (bodies[0], 1), (bodies[1], 0), (bodies[1], 1), (bodies[1], 0)]
        told = [
            await house.post("/v1/videos", json=body, headers=bearer(tokens[which]))
            for body, which in asked
        ]
        assert [reply.status for reply in told] == [200, 429, 200, 200, 429]
        for refused, whose in ((told[1], "model may have (1)"), (told[4], "owner may have (3)")):
            assert refused.json()["error"]["code"] == "too_many_in_flight"
            assert f"this {whose};" in refused.json()["error"]["message"]
        assert house.sim.submits("openai") == 1


# ---------------------------------------------------------------- bodies


async def test_a_body_above_the_tokens_limit_is_refused_before_it_is_read(house: House) -> None:
    made = await house.new_token(max_body_bytes=100)
    for dialect, door in DOORS.items():
        for length, status in ((101, 413), (10**12, 413)):
            async with peer_of(house) as peer:
                more = {"Expect": "100-continue", "Content-Length": str(length), **JSON}
                peer.send(head_of("POST", door.submit, **bearer(made), **more))
                reply = await peer.answer()  # and not a byte of the body was sent
                assert reply.status == status
                error = error_of(dialect, reply.headers, reply.body)
                assert "larger than the 100 bytes" in error["message"]
        chunked = head_of("POST", door.submit, Transfer_Encoding="chunked", **bearer(made), **JSON)
        async with peer_of(house) as peer:
            peer.send(chunked)
            peer.send(b"65\r\n" + b" " * 101 + b"\r\n")
            assert (await peer.answer()).status == 413
        small = await house.post(door.submit, data=BODY, headers={**JSON, **bearer(made)})
        assert small.status == 200, small.body


# ---------------------------------------------------------------- downloads


@pytest.mark.parametrize("whose", ["token", "owner"])
async def test_downloads_are_counted_over_all_workers(house: House, whose: str) -> None:
    """Also those by a signed link; a place is free as soon as its download has ended."""
    other = await house.another_worker()
    limits = {"max_streams": 1} if whose == "token" else {}
    made = await house.new_token(owner="acme", **limits)
    if whose == "owner":
        await limit_owner(house, "acme", Limits(max_streams=1))
    body = {"prompt": PROMPT}
    task_id = (await house.post("/v1/videos", json=body, headers=bearer(made))).json()["id"]
    await house.get(f"/v1/videos/{task_id}?wait=20", headers=bearer(made))
    generic = await house.get(f"/v1/video/generations/{task_id}", headers=bearer(made))
    link = "/" + generic.json()["url"].split("/", 3)[3]
    [stall] = add(house, OPENAI.fault("stall", at=1000))
    async with AsyncExitStack() as stack:
        raw = await stack.enter_async_context(connected_to(house.url))
        await raw.send(content(task_id), bearer(made))
        assert await raw.head() == 200
        for path, headers in ((content(task_id), bearer(made)), (link, {"Authorization": None})):
            refused = await house.get(path, headers=headers, base=other.url)
            assert (refused.status, refused.headers["Retry-After"]) == (429, "2")
            assert refused.json()["error"]["code"] == "too_many_streams"
        head = await house.request("HEAD", content(task_id), headers=bearer(made), base=other.url)
        assert head.status == 200
        stall.release()
        assert (await raw.body())[1]
    async with asyncio.timeout(WAIT_S):
        while (
            await house.get(link, headers={"Authorization": None}, base=other.url)
        ).status != 200:
            pass


async def test_a_lease_ends_with_its_worker_and_not_before(store: Store) -> None:
    """Renewed it stands, however long the download; of a worker that died it lapses."""
    take = store.streams.take
    assert await take("t:x", "w1:1", 1, NOW)
    assert not await take("t:x", "w2:1", 1, NOW + LEASE_MS - 1)
    await store.streams.renew({"w1:1": "t:x"}, NOW + LEASE_MS - 1)
    assert not await take("t:x", "w2:1", 1, NOW + LEASE_MS + 1)
    assert await take("t:x", "w2:1", 1, NOW + 2 * LEASE_MS)
    assert await store.batch.call("ZRANGE", streams("t:x"), 0, -1) == [b"w2:1"]


async def test_a_stream_of_events_takes_a_place_like_a_download(open_house: OpenHouse) -> None:
    """Under the worker's own limit and the token's; free again when its client has left."""
    usual = Plan(manual=True, limits="streams_per_token = 1")
    async with open_house(usual) as house:
        one = await house.new_token(max_streams=1)
        for made in (house.made, one):
            body = {"prompt": PROMPT}
            task_id = (await house.post("/v1/videos", json=body, headers=bearer(made))).json()["id"]
            events = f"/v1/videos/{task_id}/events"
            async with connected_to(house.url) as raw:
                await raw.send(events, bearer(made))
                assert await raw.head() == 200
                refused = await house.get(events, headers=bearer(made))
                assert refused.status == 429
                assert refused.json()["error"]["code"] == "too_many_streams"
                raw.kill()
            async with asyncio.timeout(WAIT_S), connected_to(house.url) as raw:
                await eventually(lambda: not house.server.parts.streams.total)
                await raw.send(events, bearer(made))
                assert await raw.head() == 200
                raw.kill()


async def test_a_worker_renews_what_it_holds_and_gives_back_what_it_does_not(
    store: Store,
) -> None:
    clock = [NOW / 1000]
    log = make_logger()
    leases = StreamLeases(store.streams, "w1", lambda: clock[0], log)
    rival = StreamLeases(store.streams, "w2", lambda: clock[0], log)
    async with leases.hold(ONE_STREAM):
        for _ in range(3):
            clock[0] += LEASE_MS / 1000 - 1
            await leases.renew()
        with pytest.raises(RateLimited, match="1 streams open already"):
            async with rival.hold(ONE_STREAM):
                pass
    async with rival.hold(ONE_STREAM):
        pass


async def test_without_a_store_downloads_go_on(own_valkey: Embedded) -> None:
    """What is finished is delivered; each worker's own limits still hold."""
    store = await Store.open(own_valkey.url)
    try:
        leases = StreamLeases(store.streams, "w1", lambda: NOW / 1000, make_logger())
        await own_valkey.stop()
        async with leases.hold(ONE_STREAM), leases.hold(ONE_STREAM):
            pass
    finally:
        await store.close()
