"""A server of the operator's own never fetches what a client names: the gateway does, through the
guard, and uploads the file. A picture that cannot be had costs no render and tells nothing of
what is inside the network."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from proxy.model import Stage
from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.refusals import assert_quiet

OpenOwn = Callable[..., AbstractAsyncContextManager[House]]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(300_000)  # more than the spool keeps in memory
OWN = """
[[upstreams]]
name = "own"
provider = "openai"
options = {{ server = "{server}" }}
base_url = "{base}"
credentials = [{{ name = "a", api_key = "sk-sim", max_in_flight = 1 }}]
[[routes]]
model = "own"
upstream = "own"
upstream_model = "wan"
queue = 5
"""


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path) -> Iterator[None]:
    yield
    assert_quiet(tmp_path)


class Site:
    """A web server with pictures: what a client may name, and what it must not reach."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.port = self.inner_port = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        self.heard.append(request.path)
        self.asked.set()
        match request.path:
            case "/cat.png":
                return web.Response(body=PNG, content_type="text/plain")
            case "/moved":
                return web.Response(status=302, headers={"Location": "/cat.png"})
            case "/inwards":
                where = f"http://127.0.0.1:{self.inner_port}/secret"
                return web.Response(status=302, headers={"Location": where})
            case "/circle":
                return web.Response(status=302, headers={"Location": "/circle"})
            case "/page":
                return web.Response(text="<html>not found</html>", content_type="image/png")
            case "/empty":
                return web.Response(content_type="image/png")
            case "/huge":
                return await self._stream(request, PNG, times=50)
            case "/drip":
                return await self._stream(request, PNG[:64], times=1, then_waits=True)
            case "/held":
                await self.gate.wait()
                return web.Response(body=PNG)
        return web.Response(status=404)

    async def _stream(
        self, request: web.BaseRequest, piece: bytes, times: int, *, then_waits: bool = False
    ) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        for _ in range(times):
            await response.write(piece)
        if then_waits:
            await self.gate.wait()
        return response


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = Site()
    runner = web.ServerRunner(web.Server(made.answer))
    await runner.setup()
    listening = web.TCPSite(runner, "127.0.0.1", 0)
    await listening.start()
    made.port = runner.addresses[0][1]
    yield made
    made.gate.set()
    await runner.cleanup()


class Inside:
    """A service that is inside the network: nobody may even connect."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    def met(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def inside(site: Site) -> AsyncIterator[Inside]:
    made = Inside()
    server = await asyncio.start_server(made.met, "127.0.0.1", 0)
    made.port = site.inner_port = server.sockets[0].getsockname()[1]
    async with server:
        yield made


@pytest.fixture
def open_own(open_house: OpenHouse, site: Site) -> OpenOwn:
    """A house whose model `own` is a server of its own (the simulator's OpenAI service), and whose
    gateway may fetch from `site`, beside public addresses."""

    @asynccontextmanager
    async def opened(
        server: str = "vllm-omni", at_once: int = 8, fetch_s: float = 1.0, **more: Any
    ) -> AsyncIterator[House]:
        wanted = Plan(
            sections=f'[media]\nallow = ["127.0.0.1:{site.port}"]\nfetch_s = {fetch_s}\n'
            f"at_once = {at_once}\n",
            limits="upload_bytes = 1000000\njson_bytes = 100000",
            **more,
        )
        async with open_house(wanted) as house:
            with house.config_path.open("a") as file:
                file.write(OWN.format(server=server, base=house.sim.openai_url))
            assert house.server.reload().ok
            yield house

    return opened


async def submit(house: House, url: str, **headers: str) -> Answer:
    body = {"model": "own", "prompt": "a cat", "input_reference": {"image_url": url}}
    return await house.post("/v1/videos", json=body, headers=headers)


def line_of(house: House) -> Mapping[str, object]:
    (line,) = [line for line in house.lines if line["operation"] == "create"]
    return line


@pytest.mark.parametrize("server", ["vllm-omni", "sglang"])
@pytest.mark.parametrize("path", ["/cat.png", "/moved"])
async def test_a_picture_by_its_address_arrives_as_a_file(
    open_own: Any, site: Site, server: str, path: str
) -> None:
    """Its type is what its bytes tell; the server never learns the address."""
    async with open_own(server) as house:
        address = f"http://127.0.0.1:{site.port}{path}"
        reply = await submit(house, address)
        assert reply.status == 200, reply.body
        (entry,) = house.sim.log.select("openai", "submit")
        (upload,) = entry.uploads
        assert (upload.size, upload.sha256) == (len(PNG), sha256(PNG).hexdigest())
        assert upload.filename == "picture.png"
        assert str(site.port) not in repr(entry.body)
        assert (line_of(house)["status"], line_of(house)["upstream"]) == (200, "own")
        assert house.server.parts.spool.held_bytes == 0


FAILS = {
    "/inwards": "its address cannot be reached",
    "/circle": "its address cannot be reached",
    "/page": "it is not a picture",
    "/empty": "it is not a picture",
    "/gone": "its server answered 404",
    "/huge": "it is larger than 1000000 bytes",
    "/drip": "fetching it took too long",
}


@pytest.mark.parametrize("path", FAILS)
async def test_a_picture_that_cannot_be_had_is_a_400_and_no_render(
    open_own: Any, site: Site, inside: Inside, path: str
) -> None:
    async with open_own() as house:
        address = f"http://127.0.0.1:{site.port}{path}"
        key = {"Idempotency-Key": "k"}
        reply = await submit(house, address, **key)
        error = reply.json()["error"]
        assert (reply.status, error["param"]) == (400, "input_reference.image_url"), error
        assert FAILS[path] in error["message"]
        assert "127.0.0.1" not in error["message"]
        assert house.sim.log.select("openai", "submit") == []
        line = line_of(house)
        assert (line["status"], line["reason"]) == (400, error["code"])
        task = await house.server.store.tasks.get(str(line["task_id"]))
        assert task is not None
        assert (task.stage, task.attempt, task.settled_micro) == (Stage.FAILED, 0, 0)
        assert house.server.parts.spool.held_bytes == 0
        assert inside.connections == 0
        assert await house.server.store.tasks.open_count() == 0
        again = await submit(house, f"http://127.0.0.1:{site.port}/cat.png", **key)
        assert again.status == 200, "a refused request leaves its key free"


INNER = (
    "127.0.0.1",
    "localhost",
    "a.localhost.",
    "127.1",
    "0x7f000001",
    "2130706433",
    "[::1]",
    "[::ffff:127.0.0.1]",
)


@pytest.mark.parametrize("model", ["own", "sora-2", "sora-2-on-kling"])
async def test_an_inner_address_is_a_400_for_every_provider(
    open_own: Any, inside: Inside, model: str
) -> None:
    """Whoever would fetch it. Nothing is reserved, and nobody is called."""
    async with open_own() as house:
        for host in INNER:
            url = f"http://{host}:{inside.port}/cat.png"
            body = {"model": model, "prompt": "a cat", "input_reference": {"image_url": url}}
            reply = await house.post("/v1/videos", json=body)
            error = reply.json()["error"]
            told = (reply.status, error["param"])
            assert told == (400, "input_reference.image_url"), (host, error)
            assert "public address" in error["message"]
        assert not house.sim.log.entries
        assert inside.connections == 0


async def test_a_name_that_leads_inwards_is_not_followed(open_own: Any, inside: Inside) -> None:
    """What a name resolves to is judged at the connection, not before it."""
    async with open_own() as house:
        reply = await submit(house, f"http://{socket.gethostname()}:{inside.port}/cat.png")
        assert reply.status == 400
        assert "its address cannot be reached" in reply.json()["error"]["message"]
        assert house.sim.log.select("openai", "submit") == []
        assert inside.connections == 0


async def test_a_client_that_leaves_while_its_picture_is_fetched_changes_nothing(
    open_own: Any, site: Site
) -> None:
    """The task is reserved: it is sent once the picture is here, and its key finds it."""
    async with open_own() as house:
        key = {"Idempotency-Key": "k"}
        address = f"http://127.0.0.1:{site.port}/held"
        asked = asyncio.ensure_future(submit(house, address, **key))
        await site.asked.wait()
        asked.cancel()
        again = asyncio.ensure_future(submit(house, address, **key))
        await house.line(lambda line: line["reason"] == "client_gone")
        site.gate.set()
        reply = await again
        assert (reply.status, reply.headers["idempotent-replayed"]) == (200, "true")
        assert site.heard == ["/held"]
        assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)
        assert house.server.parts.spool.held_bytes == 0


async def test_a_task_that_waits_has_its_picture_fetched_in_its_turn(
    open_own: Any, site: Site
) -> None:
    """Nothing is fetched for a busy server; the request keeps the address until then."""
    async with open_own(manual=True) as house:
        address = f"http://127.0.0.1:{site.port}/cat.png"
        first = (await submit(house, address)).json()["id"]
        second = (await submit(house, address)).json()["id"]
        assert site.heard == ["/cat.png"]
        jobs = house.sim.tasks.of("openai")
        house.sim.finish(jobs[0].id)
        assert (await house.finished(first))["status"] == "completed"
        await house.sim.wait_for(lambda entry: entry.operation == "submit", count=2)
        assert site.heard == ["/cat.png"] * 2
        house.sim.finish(house.sim.tasks.of("openai")[1].id)
        assert (await house.finished(second))["status"] == "completed"
        assert house.server.parts.spool.held_bytes == 0


async def test_what_is_fetched_at_a_time_is_bounded(open_own: Any, site: Site) -> None:
    """The next file waits for its turn: one that is fetched later is fetched all the same."""
    async with open_own(at_once=1, fetch_s=14.0) as house:
        first = asyncio.ensure_future(submit(house, f"http://127.0.0.1:{site.port}/held"))
        await site.asked.wait()
        second = asyncio.ensure_future(submit(house, f"http://127.0.0.1:{site.port}/cat.png"))
        site.asked.clear()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await site.asked.wait()
        site.gate.set()
        assert (await first).status == 200
        assert (await second).status == 200
        assert site.heard == ["/held", "/cat.png"]
        assert house.server.parts.spool.held_bytes == 0
