"""What a large body costs is paid beside the loop: everybody else is served meanwhile."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import FormData

from proxy.dialects import DIALECTS
from proxy.dialects.fields import Fields
from proxy.gateway.idempotency import fingerprint
from proxy.http.documents import json_fields
from proxy.model import Call, DialectName, Operation
from proxy.tasks.offload import LARGE_BYTES, offload
from tests.rig.eventually import eventually
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.refusals import (
    DOORS,
    JSON,
    WAIT_S,
    Peer,
    assert_untouched,
    error_of,
    head_of,
    peer_of,
)

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * (15 << 12)  # 15 MiB


async def test_the_loop_turns_while_large_work_is_done() -> None:
    """The work ends only when the loop tells it to."""
    told = threading.Event()
    asyncio.get_running_loop().call_soon(told.set)
    assert await offload(LARGE_BYTES, told.wait, WAIT_S)


async def test_small_work_is_done_where_it_is() -> None:
    assert await offload(LARGE_BYTES - 1, threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize("size", [0, LARGE_BYTES])
async def test_what_the_work_raises_is_raised(size: int) -> None:
    def fail() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        await offload(size, fail)


async def test_a_cancelled_caller_waits_for_its_work() -> None:
    """It would give back the uploads the work is still reading."""
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert may_end.wait(WAIT_S)
        ended.set()

    job = asyncio.create_task(offload(LARGE_BYTES, work))
    await asyncio.to_thread(begun.wait, WAIT_S)
    job.cancel()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not job.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await job
    assert ended.is_set()


class Ticker:
    """Turns the loop; `longest_s` is the most CPU time its thread took for one turn. CPU time,
    because on a busy machine the clock on the wall measures the others."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.ticks = 0

    async def run(self) -> None:
        last = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            self.longest_s, last = max(self.longest_s, now - last), now
            self.ticks += 1


def cost_s(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before


async def test_nobody_waits_for_a_large_body(house: House) -> None:
    """While one is read, checked and understood no turn of the loop takes half as long as that
    does, and whoever asks meanwhile is answered."""
    url = "data:image/png;base64," + base64.b64encode(PICTURE).decode()
    body = b'{"prompt":"a cat","input_reference":{"image_url":"%b"}}' % url.encode()
    call = Call("openai", Operation.CREATE, {}, {})

    def everything() -> None:
        fields = json_fields(body)
        DIALECTS["openai"].submission(call, Fields(fields), "sora-2")
        fingerprint(call, fields)

    alone_s = cost_s(everything)
    ticker = Ticker()
    async with asyncio.TaskGroup() as group:
        ticking = group.create_task(ticker.run())
        # Only its price is asked: the simulator, which shares our loop, would read it too.
        path = "/v1/videos?dry_run=1"
        quoted = group.create_task(house.post(path, data=io.BytesIO(body), headers=JSON))
        served = 0
        while not quoted.done():
            assert (await house.get("/v1/videos")).status == 200
            served += 1
        ticking.cancel()
    assert quoted.result().status == 200
    assert served
    assert ticker.longest_s < alone_s, (ticker.longest_s, alone_s, ticker.ticks)


# ---------------------------------------------------------------- made to cost more than they weigh


def bombs() -> dict[str, bytes]:
    start = b'{"model":"sora-2","prompt":"x","seconds":"4",'
    name = b'"' + b"k" * 40_000 + b'":['
    inside = json.dumps('{"k":[' + "0," * 20_000 + "0]}").encode()
    return {
        "a long name and many zeros": start + name + b"0," * 15_000 + b"0]}",
        "lists": start + b'"k":[' + b"[]," * 500_000 + b"[]]}",
        "objects": start + b'"k":[' + b"{}," * 500_000 + b"{}]}",
        "numbers": start + b'"k":[' + b"0," * 500_000 + b"0]}",
        "texts": start + b'"k":[' + b'"a",' * 500_000 + b'"a"]}',
        "names": b"{" + b",".join(b'"k%d":0' % n for n in range(20_001)) + b"}",
        "a number": start + b'"k":' + b"1" * 1_000_000 + b"}",
        "JSON text": start + b'"metadata":' + inside + b"}",
    }


@pytest.mark.parametrize(
    ("dialect", "kind"),
    [(dialect, kind) for dialect in ("openai", "generic") for kind in bombs()],
)
async def test_a_body_made_to_cost_more_than_it_weighs_reaches_nobody(
    house: House, kind: str, dialect: DialectName
) -> None:
    body = bombs()[kind]
    reply = await house.post(DOORS[dialect].submit, data=io.BytesIO(body), headers=JSON)
    error = error_of(dialect, reply.headers, reply.body)
    assert (reply.status, error["code"]) == (400, "invalid_value"), error
    await assert_untouched(house)
    assert house.server.parts.spool.bodies.held_bytes == 0


@pytest.mark.parametrize("kind", sorted(bombs().keys() - {"JSON text", "a name a little shorter"}))
@pytest.mark.parametrize("dialect", ["kling", "jimeng"])
async def test_the_doors_of_the_vendors_have_the_same_bounds(
    house: House, kind: str, dialect: DialectName
) -> None:
    reply = await house.post(DOORS[dialect].submit, data=io.BytesIO(bombs()[kind]), headers=JSON)
    error = error_of(dialect, reply.headers, reply.body)
    assert (reply.status, error["code"]) == (400, "invalid_value"), error
    await assert_untouched(house)


@pytest.mark.parametrize("dialect", ["openai", "generic"])
async def test_a_list_nobody_knows_goes_nowhere(house: House, dialect: DialectName) -> None:
    """Fewer values than the bound, under a long name: left out, and said in a few bytes."""
    start = b'{"model":"sora-2","prompt":"x","seconds":"4",'
    body = start + b'"' + b"k" * 250 + b'":[' + b"0," * 15_000 + b"0]}"
    reply = await house.post(DOORS[dialect].submit, data=io.BytesIO(body), headers=JSON)
    assert reply.status == 200, reply.body
    assert len(reply.headers["reelway-dropped"]) <= 1024
    [sent] = house.sim.log.select("openai", "submit")
    assert int(sent.headers["Content-Length"]) < 1024


async def test_json_text_in_a_form_has_the_same_bounds(house: House) -> None:
    form = FormData(
        {"prompt": "x", "metadata": '{"k":[' + "0," * 20_000 + "0]}"}, default_to_multipart=True
    )
    reply = await house.post("/v1/videos", data=form)
    error = error_of("openai", reply.headers, reply.body)
    assert (reply.status, error["param"]) == (400, "metadata")
    assert "more than 20000 names and values" in error["message"]
    await assert_untouched(house)


# ---------------------------------------------------------------- one budget for all bodies

SMALL = "json_bytes = 100000\nform_text_bytes = 100000\nbody_bytes = 600000"


async def test_bodies_above_the_budget_are_503_until_others_have_ended(
    open_house: OpenHouse,
) -> None:
    """Half-sent ones count with what has come of them; whoever leaves gives it back."""
    async with open_house(Plan(limits=SMALL)) as house, AsyncExitStack() as stack:
        held = house.server.parts.spool.bodies
        peers: list[Peer] = []
        for _ in range(3):
            peer = await stack.enter_async_context(peer_of(house))
            peers.append(peer)
            head = head_of("POST", "/v1/videos", Content_Length="99999", **JSON, **house.bearer)
            peer.send(head.encode() + b'{"prompt":"' + b"x" * 90_000)
            await eventually(lambda: held.held_bytes >= 90_000 * len(peers))
        body = b'{"prompt":"a cat","k":"' + b"x" * 50_000 + b'"}'
        reply = await house.post("/v1/videos", data=body, headers=JSON)
        error = error_of("openai", reply.headers, reply.body)
        assert (reply.status, error["code"]) == (503, "bodies_full"), error
        assert reply.headers["Retry-After"] == "5"
        await assert_untouched(house)

        other = await house.new_token()
        theirs = {**JSON, "Authorization": f"Bearer {other.token}"}
        assert (await house.post("/v1/videos", data=body, headers=theirs)).status == 200

        await stack.aclose()
        await eventually(lambda: held.held_bytes == 0)
        assert (await house.post("/v1/videos", data=body, headers=JSON)).status == 200
        await eventually(lambda: held.held_bytes == 0)


@pytest.mark.parametrize("dialect", DOORS)
async def test_what_a_body_weighed_is_given_back_however_it_ends(
    house: House, dialect: DialectName
) -> None:
    door, held = DOORS[dialect], house.server.parts.spool.bodies
    for body, status in (
        (json.dumps(door.body()).encode(), 200),
        (b'{"prompt":', 400),
        (json.dumps(door.body(**{door.model_field: "nobody's"})).encode(), 404),
    ):
        reply = await house.post(door.submit, data=body, headers=JSON)
        assert reply.status == status
        await eventually(lambda: held.held_bytes == 0)


# ---------------------------------------------------------------- JSON under odd types


@pytest.mark.parametrize("dialect", DOORS)
async def test_json_is_read_under_the_types_that_clients_send(
    house: House, dialect: DialectName
) -> None:
    plain = json.dumps(DOORS[dialect].body()).encode()
    for kind, body in (
        ("application/json; charset=utf-8", plain),
        ("application/json; charset=UTF-16", plain.decode().encode("utf-16")),
        ("application/json", b"\xef\xbb\xbf" + plain),
        ("text/json", plain),
        ("application/vnd.api+json", plain),
        ("text/plain;charset=UTF-8", b"\r\n" + plain),
        ("application/x-www-form-urlencoded", plain),
        ("application/octet-stream", plain),
        ("", plain),
    ):
        headers = {"Content-Type": kind} if kind else {}
        reply = await house.post(
            DOORS[dialect].submit, data=body, headers=headers, skip_auto_headers=("Content-Type",)
        )
        assert reply.status == 200, (kind, reply.body)
