"""One accepted request is one paid render, however often it is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from aiohttp import FormData

from proxy.sim import Fault
from tests.rig.eventually import eventually

BODY = {"model": "sora-2", "prompt": "a cat"}


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


def retried(count: int) -> dict[str, str]:
    return {"x-stainless-retry-count": str(count)}


async def test_the_same_key_is_the_same_task(house: Any) -> None:
    first = await house.post("/v1/videos", json=BODY, headers=keyed("k1"))
    again = await house.post("/v1/videos", json=BODY, headers=keyed("k1"))
    other = await house.post("/v1/videos", json=BODY, headers=keyed("k2"))
    assert [first.status, again.status, other.status] == [200, 200, 200]
    assert again.json()["id"] == first.json()["id"] != other.json()["id"]
    assert again.headers["idempotent-replayed"] == "true"
    assert "idempotent-replayed" not in first.headers
    assert house.sim.submits("openai") == 2


async def test_a_key_used_for_another_request_is_refused(house: Any) -> None:
    await house.post("/v1/videos", json=BODY, headers=keyed("k"))
    reply = await house.post("/v1/videos", json={**BODY, "seconds": "8"}, headers=keyed("k"))
    assert reply.status == 422
    assert reply.json()["error"]["code"] == "idempotency_mismatch"
    assert house.sim.submits("openai") == 1


async def test_a_key_belongs_to_its_token(house: Any) -> None:
    mine = await house.post("/v1/videos", json=BODY, headers=keyed("k"))
    made = await house.new_token()
    theirs = await house.post(
        "/v1/videos",
        json={**BODY, "prompt": "a dog"},
        headers={**keyed("k"), "Authorization": f"Bearer {made.token}"},
    )
    assert theirs.status == 200
    assert theirs.json()["id"] != mine.json()["id"]


async def test_duplicates_in_one_instant_are_one_render(house: Any) -> None:
    held = house.sim.faults.add(Fault("hold", service="openai", operation="submit"))
    posts = [
        asyncio.create_task(house.post("/v1/videos", json=BODY, headers=keyed("same")))
        for _ in range(50)
    ]
    await house.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)
    held.release()
    replies = await asyncio.gather(*posts)
    assert {reply.status for reply in replies} == {200}
    assert len({reply.json()["id"] for reply in replies}) == 1
    assert sum("idempotent-replayed" in reply.headers for reply in replies) == 49
    assert house.sim.submits("openai") == 1


async def test_a_form_with_another_boundary_and_order_is_the_same_request(house: Any) -> None:
    ids = set()
    for retry, order in enumerate((("model", "prompt", "file"), ("file", "prompt", "model"))):
        form = FormData()
        for name in order:
            if name == "file":
                form.add_field(
                    "input_reference", b"\x89PNG\r\n\x1a\n" + b"x" * 99, filename=f"{retry}"
                )
            else:
                form.add_field(name, BODY[name])
        reply = await house.post("/v1/videos", data=form, headers=retried(retry))
        assert reply.status == 200, reply.body
        ids.add(reply.json()["id"])
    assert len(ids) == 1
    assert house.sim.submits("openai") == 1


async def test_two_creates_meant_as_two_stay_two(house: Any) -> None:
    ids = [
        (await house.post("/v1/videos", json=BODY, headers=retried(0))).json()["id"] for _ in "ab"
    ]
    assert len(set(ids)) == 2
    retries = [
        (await house.post("/v1/videos", json=BODY, headers=retried(1))).json()["id"] for _ in "ab"
    ]
    assert retries == ids, "each retry takes the oldest that has served none yet"
    third = await house.post("/v1/videos", json=BODY, headers=retried(2))
    assert third.json()["id"] == ids[0]
    assert house.sim.submits("openai") == 2


async def test_a_retry_of_something_that_never_came_is_a_first_submit(house: Any) -> None:
    reply = await house.post("/v1/videos", json=BODY, headers=retried(1))
    assert reply.status == 200
    assert house.sim.submits("openai") == 1


@pytest.mark.parametrize("headers", [keyed("k"), retried(1)], ids=["key", "retry"])
async def test_a_refused_submit_is_never_replayed(house: Any, headers: dict[str, str]) -> None:
    house.sim.faults.add(Fault("status", service="openai", operation="submit", status=400))
    first = await house.post("/v1/videos", json=BODY, headers={**headers, **retried(0)})
    assert first.status == 400
    second = await house.post("/v1/videos", json=BODY, headers=headers)
    assert second.status == 200
    assert "idempotent-replayed" not in second.headers
    assert house.sim.renders("openai") == 1


async def test_a_lost_reply_is_given_to_the_retry(house: Any) -> None:
    """The upstream took it and the answer was lost: the client's retry gets that task."""
    house.sim.faults.add(Fault("lost", service="kling", operation="submit"))
    body = {"model": "sora-2-on-kling", "prompt": "a cat"}
    first = await house.post("/v1/videos", json=body, headers=retried(0))
    second = await house.post("/v1/videos", json=body, headers=retried(1))
    assert first.status == second.status == 200
    assert first.json()["id"] == second.json()["id"]
    assert house.sim.submits("kling") == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "a\u0007b"])
async def test_a_malformed_key_is_named(house: Any, key: str) -> None:
    if "\u0007" in key:
        key = "tab\there"
    reply = await house.post("/v1/videos", json=BODY, headers=keyed(key))
    assert reply.status == 400
    assert reply.json()["error"]["param"] == "Idempotency-Key"


async def test_two_workers_share_one_outcome(
    house: Any, open_house: Callable[..., AbstractAsyncContextManager[Any]]
) -> None:
    """A duplicate that reaches another worker waits there for the first one's outcome."""
    second = await house.another_worker()
    held = house.sim.faults.add(Fault("hold", service="openai", operation="submit"))
    first = asyncio.create_task(house.post("/v1/videos", json=BODY, headers=keyed("w")))
    await house.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)
    other = asyncio.create_task(
        house.post("/v1/videos", json=BODY, headers=keyed("w"), base=second.url)
    )
    await eventually(lambda: second.parts.changes.waiters)
    held.release()
    one, two = await asyncio.gather(first, other)
    assert one.status == two.status == 200
    assert one.json()["id"] == two.json()["id"]
    assert house.sim.submits("openai") == 1
