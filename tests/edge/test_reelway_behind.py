"""A Reelway behind a Reelway: a submit whose answer was lost is asked for by its key, so it costs
one render and its client gets the video."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from proxy.model import Stage, Task
from proxy.sim.faults import Fault
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.refusals import error_of

OpenPair = Callable[..., AbstractAsyncContextManager[House]]

HASTY = "submit_s = 0.5\nconnect_s = 0.5\nconfirm_s = "
BEHIND = """
[[upstreams]]
name = "behind"
provider = "openai"
options = {{ server = "reelway" }}
base_url = "{base}"
credentials = [{{ name = "a", api_key = "{token}" }}]
[[routes]]
model = "front"
upstream = "behind"
upstream_model = "sora-2-on-kling"
"""


class Between:
    """What stands between the two Reelways. `lose`: the next submit's answer never arrives;
    `swallow`: the next submit is not even passed on; `is_old`: the one behind knows no look-up."""

    def __init__(self) -> None:
        self.house: House | None = None
        self.lose = self.swallow = self.is_old = False
        self.keys: list[str | None] = []
        self.looked = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self.house is not None
        target = URL(self.house.url + str(request.rel_url), encoded=True)
        body = await request.read()
        self.looked += "idempotency_key" in request.query
        if request.method == "POST":
            self.keys.append(request.headers.get("Idempotency-Key"))
            if self.swallow:
                return self._cut(request)
        names = ("Authorization", "Content-Type", "Idempotency-Key")
        headers = {name: request.headers[name] for name in names if name in request.headers}
        async with self.house.client.request(
            request.method, target, data=body, headers=headers
        ) as reply:
            if self.lose and request.method == "POST":
                return self._cut(request)
            told = {k: v for k, v in reply.headers.items() if k.lower().startswith("reelway-")}
            if self.is_old:
                told.pop("reelway-lookup", None)
            content = await reply.read()
            return web.Response(
                status=reply.status,
                body=content,
                headers=told,
                content_type=reply.content_type,
            )

    def _cut(self, request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response(status=500)


@pytest.fixture
async def between() -> AsyncIterator[tuple[Between, str]]:
    made = Between()
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    yield made, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


@pytest.fixture
def open_pair(open_house: OpenHouse, between: tuple[Between, str]) -> OpenPair:
    """One house that is its own upstream, by way of `between`."""

    @asynccontextmanager
    async def opened(confirm_s: str = "30") -> AsyncIterator[House]:
        async with open_house(Plan(timeouts=HASTY + confirm_s)) as house:
            between[0].house = house
            with house.config_path.open("a") as file:
                file.write(BEHIND.format(base=between[1], token=house.token))
            assert house.server.reload().ok
            yield house

    return opened


async def submit(house: House, **more: object) -> Any:
    body = {"model": "front", "prompt": "a cat", **more}
    return await house.post("/v1/videos", json=body)


async def stored(house: House, task_id: str) -> Task:
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    return task


async def test_a_lost_answer_of_a_reelway_is_found_by_its_key(
    open_pair: Any, between: tuple[Between, str]
) -> None:
    async with open_pair() as house:
        between[0].lose = True
        reply = await submit(house)
        video = reply.json()
        assert (reply.status, video["status"]) == (200, "queued")
        between[0].lose = False
        assert (await house.finished(video["id"]))["status"] == "completed"
        assert between[0].keys == [video["id"]], "the key is the task's own id"
        task = await stored(house, video["id"])
        assert task.upstream_id is not None
        assert (await stored(house, task.upstream_id)).stage is Stage.COMPLETED
        assert (house.sim.submits("kling"), house.sim.renders("kling")) == (1, 1)


async def test_a_submit_a_reelway_never_got_has_failed_and_says_so(
    open_pair: Any, between: tuple[Between, str]
) -> None:
    async with open_pair() as house:
        between[0].swallow = True
        video = (await submit(house)).json()
        assert video["status"] == "queued"
        ended = await house.finished(video["id"])
        assert (ended["status"], ended["error"]["code"]) == ("failed", "not_submitted")
        assert between[0].looked
        assert house.sim.submits("kling") == 0


async def test_a_reelway_that_knows_no_look_up_is_not_believed(
    open_pair: Any, between: tuple[Between, str]
) -> None:
    """It would list any task of the key's owner: binding one of those is another's video."""
    async with open_pair("1.5") as house:
        between[0].lose = between[0].is_old = True
        video = (await submit(house)).json()
        ended = await house.finished(video["id"])
        assert ended["error"]["code"] == "submission_unconfirmed"
        assert (await stored(house, video["id"])).upstream_id is None
        assert house.sim.submits("kling") == 1


async def test_what_the_reelway_behind_changes_is_told_in_front(open_pair: Any) -> None:
    async with open_pair() as house:
        reply = await submit(house, seconds="4", style="noir")
        assert reply.status == 200
        assert "seconds=4>5" in reply.headers["reelway-adjusted"]
        assert "style" in reply.headers["reelway-dropped"]


async def test_the_look_up_is_only_of_the_callers_own_settled_submits(house: House) -> None:
    key = {"Idempotency-Key": "mine"}
    hold = house.sim.faults.add(Fault("hold", "openai", "submit"))
    asked = asyncio.ensure_future(house.post("/v1/videos", json={"prompt": "x"}, headers=key))
    await house.sim.wait_for(lambda entry: entry.stalled)
    early = await house.get("/v1/videos?idempotency_key=mine")
    error = error_of("openai", early.headers, early.body)
    assert (early.status, early.headers["Retry-After"]) == (503, "1")
    assert "still under way" in error["message"]
    hold.release()
    made = (await asked).json()["id"]

    found = await house.get("/v1/videos?idempotency_key=mine")
    assert found.headers["reelway-lookup"] == "idempotency-key"
    assert [video["id"] for video in found.json()["data"]] == [made]
    none = await house.get("/v1/videos?idempotency_key=other")
    assert (none.status, none.json()["data"]) == (200, [])
    assert none.headers["reelway-lookup"] == "idempotency-key"

    another = await house.new_token()
    bearer = {"Authorization": f"Bearer {another.token}"}
    theirs = await house.get("/v1/videos?idempotency_key=mine", headers=bearer)
    assert theirs.json()["data"] == []
    bad = await house.get(f"/v1/videos?idempotency_key={'k' * 256}")
    assert (bad.status, bad.json()["error"]["param"]) == (400, "idempotency_key")


async def test_every_submit_to_an_openai_style_upstream_carries_a_key(house: House) -> None:
    """Its task's id: no two tasks share one, and the client's own key never goes on."""
    house.sim.faults.add(Fault("status", "openai", "submit", status=429))
    key = {"Idempotency-Key": "mine"}
    assert (await house.post("/v1/videos", json={"prompt": "x"}, headers=key)).status == 429
    await house.server.store.credentials.reset("sim-openai/a")
    made = (await house.post("/v1/videos", json={"prompt": "x"}, headers=key)).json()["id"]
    first, second = house.sim.log.select("openai", "submit")
    assert second.headers["Idempotency-Key"] == made
    assert first.headers["Idempotency-Key"] not in (made, "mine")
