"""What a large body costs is paid beside the loop: everybody else is served meanwhile."""

from __future__ import annotations

import asyncio
import base64
import io
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from proxy.aside import LARGE_BYTES, aside
from proxy.dialects import DIALECTS
from proxy.dialects.fields import Fields
from proxy.fingerprint import fingerprint
from proxy.http.multipart import json_fields
from proxy.model import Call, Operation
from tests.edge.front_door import JSON, WAIT_S

if TYPE_CHECKING:
    from tests.conftest import House

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * (15 << 12)  # 15 MiB


async def test_the_loop_turns_while_large_work_is_done() -> None:
    """The work ends only when the loop tells it to."""
    told = threading.Event()
    asyncio.get_running_loop().call_soon(told.set)
    assert await aside(LARGE_BYTES, told.wait, WAIT_S)


async def test_small_work_is_done_where_it_is() -> None:
    assert await aside(LARGE_BYTES - 1, threading.get_ident) == threading.get_ident()


@pytest.mark.parametrize("size", [0, LARGE_BYTES])
async def test_what_the_work_raises_is_raised(size: int) -> None:
    def fail() -> None:
        raise ValueError("of the work")

    with pytest.raises(ValueError, match="of the work"):
        await aside(size, fail)


async def test_a_cancelled_caller_waits_for_its_work() -> None:
    """It would give back the uploads the work is still reading."""
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        assert may_end.wait(WAIT_S)
        ended.set()

    job = asyncio.create_task(aside(LARGE_BYTES, work))
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
