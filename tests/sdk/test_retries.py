"""What an SDK repeats by itself is one render per call: its own retries, whatever broke, and
duplicates that reach several workers in one instant."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import openai
import pytest

from proxy.sim import Fault
from tests.rig.breaking_proxy import road
from tests.rig.house import House
from tests.rig.site import open_site

if TYPE_CHECKING:
    from openai.types import Video


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*permanently shut down:DeprecationWarning",
    "ignore:.*deprecated:DeprecationWarning",
)

# OpenAI's SDKs announce their retries; others of the same make send a key that stays the same.
STYLES: Mapping[str, dict[str, str]] = {
    "python": {},
    "node": {"Idempotency-Key": "stainless-node-retry-5e8f4f9e-5d0c-4f8b-9a41-0d2f6a0c7b11"},
}


@asynccontextmanager
async def sdk(
    house: House, base: str, timeout: float | None = None
) -> AsyncIterator[openai.AsyncOpenAI]:
    """As it comes: two retries."""
    async with openai.AsyncOpenAI(
        base_url=f"{base}/v1", api_key=house.token, timeout=timeout
    ) as client:
        assert client.max_retries == 2
        yield client


async def create(client: openai.AsyncOpenAI, style: str = "python") -> Video:
    return await client.videos.create(model="sora-2", prompt="a cat", extra_headers=STYLES[style])


async def statuses(house: House, count: int) -> list[object]:
    """How the gateway answered its creates, once there are so many."""
    await house.line(lambda _: len(_creates(house)) >= count)
    return [line["status"] for line in _creates(house)]


def _creates(house: House) -> list[Mapping[str, object]]:
    return [line for line in house.lines if line["operation"] == "create"]


# ---------------------------------------------------------------- the upstream breaks


@dataclass(frozen=True)
class Case:
    """`told`: how the gateway answers each of the SDK's requests; `heard`: submits that reach the
    upstream."""

    faults: tuple[Fault, ...]
    told: list[int]
    heard: int
    renders: int = 1
    status: str = "failed"  # nobody can be asked for an answer that was lost


def no(status: int, **more: object) -> Fault:
    return Fault("status", "openai", "submit", status=status, retry_after="1", **more)  # type: ignore[arg-type]  # a table's row


CASES = {
    "rate limited": Case((no(429),), [429, 200], 2, status="queued"),
    "taken, and answered with 500": Case(
        (Fault("accepted_status", "openai", "submit", status=500),), [200], 1
    ),
    "taken, and the answer is lost": Case((Fault("lost", "openai", "submit"),), [200], 1),
    "taken, and the answer is cut": Case((Fault("cut", "openai", "submit", at=9),), [200], 1),
}


@pytest.mark.parametrize("name", CASES)
async def test_whatever_the_upstream_does_a_call_is_one_render(house: House, name: str) -> None:
    case = CASES[name]
    for fault in case.faults:
        house.sim.faults.add(fault)
    async with sdk(house, house.url) as client:
        video = await create(client)
    assert video.status == case.status
    assert await statuses(house, len(case.told)) == case.told
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (case.heard, case.renders)
    line = _creates(house)[-1]
    assert (line["task_id"], line["upstream"]) == (video.id, "sim-openai")


async def test_a_call_refused_to_its_end_is_no_render_and_the_next_call_is_one(
    house: House,
) -> None:
    """After two refusals in a row the account is left alone for a while: the SDK's last attempt
    is answered without it."""
    for _ in range(2):
        house.sim.faults.add(no(429))
    async with sdk(house, house.url) as client:
        with pytest.raises(openai.RateLimitError):
            await create(client)
        assert (house.sim.submits("openai"), house.sim.renders("openai")) == (2, 0)
        video = await create(client)
    assert (await statuses(house, 4))[:3] == [429, 429, 429]
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (3, 1)
    assert (await house.finished(video.id))["status"] == "completed"


# ---------------------------------------------------------------- the road to us breaks


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "breaks", [(0,), (60,), (0, 0)], ids=["no answer", "half an answer", "no answer twice"]
)
async def test_an_answer_that_never_arrives_is_the_answer_to_the_retry(
    house: House, breaks: tuple[int, ...], style: str
) -> None:
    async with road(house.url, *breaks) as way, sdk(house, way.url) as client:
        video = await create(client, style)
        assert way.connections == len(breaks) + 1
        assert await statuses(house, len(breaks) + 1) == [200] * (len(breaks) + 1)
        assert {line["task_id"] for line in _creates(house)} == {video.id}
        assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)
        assert (await house.finished(video.id))["status"] == "completed"

        if style == "python":  # another call is another render
            other = await create(client, style)
            assert other.id != video.id
            assert house.sim.renders("openai") == 2


@pytest.mark.parametrize("style", STYLES)
async def test_a_client_that_lost_patience_gets_the_render_it_began(
    house: House, style: str
) -> None:
    """Its first request has timed out and the upstream is still thinking: the retry waits for
    the same answer."""
    held = house.sim.faults.add(Fault("hold", "openai", "submit"))
    async with road(house.url) as way, sdk(house, way.url, timeout=1.0) as client:
        call = asyncio.create_task(create(client, style))
        await house.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
        await way.reached(2)
        held.release()
        video = await call
    # The first request's line tells that its client had gone; the retry has the answer.
    await house.line(lambda line: line["status"] == 200)
    assert [line["reason"] for line in _creates(house)] == ["client_gone", "done"]
    assert {line["task_id"] for line in _creates(house)} == {video.id}
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)


# ---------------------------------------------------------------- several workers


async def test_duplicates_at_two_processes_are_one_render(tmp_path: Path) -> None:
    """Fifty with one key in one instant; and a retry that a balancer sends to another worker
    than the request it repeats."""
    async with open_site(tmp_path) as site:
        workers = await asyncio.gather(site.worker(), site.worker())
        held = site.sim.faults.add(Fault("hold", "openai", "submit"))
        posts = [
            asyncio.create_task(site.post(workers[number % 2], "openai", "same"))
            for number in range(50)
        ]
        await site.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
        held.release()
        replies = await asyncio.gather(*posts)
        assert {status for status, _ in replies} == {200}
        (task_id,) = {video["id"] for _, video in replies}
        assert (site.submits()["openai"], site.renders()["openai"]) == (1, 1)
        for worker in workers:
            assert (await site.ended(worker, task_id))["status"] == "completed"
            lines = await worker.accounted(25)
            creates = [line for line in lines if line["operation"] == "create"]
            assert {(line["status"], line["task_id"]) for line in creates} == {(200, task_id)}
        assert len(await site.tasks()) == 1

        first, second = workers
        async with road(first.url, 0) as way:
            client = openai.AsyncOpenAI(
                base_url=f"{way.url}/v1", api_key=site.made.token, max_retries=0
            )
            with pytest.raises(openai.APIConnectionError):
                await create(client)
            other = client.with_options(base_url=f"{second.url}/v1")
            retry = {"x-stainless-retry-count": "1"}
            video = await other.videos.create(model="sora-2", prompt="a cat", extra_headers=retry)
            await client.close()
        assert [task.id for task in await site.tasks()] == [task_id, video.id]
        assert (site.submits()["openai"], site.renders()["openai"]) == (2, 2)
