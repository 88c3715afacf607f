"""A whole house for a test: the simulated upstreams, a store of its own, one worker, a client.

    async def test_something(house: House) -> None:
        reply = await house.post("/v1/videos", json={"prompt": "a cat"})

Everything listens on loopback ports the system picks. Status polls in these houses come every
few milliseconds, so that a finished render is known at once.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from string import Template
from typing import Any, Protocol

import pytest
from aiohttp import ClientSession, ClientTimeout, FormData
from multidict import CIMultiDictProxy

from proxy.config import load
from proxy.gateway.listener import address_of, bind
from proxy.model import Limits
from proxy.providers import PROVIDERS
from proxy.server.bootstrap import signing_secrets
from proxy.server.worker import Server
from proxy.sim import Settings, Simulator
from proxy.telemetry.logs import make_logger
from proxy.tokens import MadeToken, NewToken, create_token
from tests.rig.valkey import Valkeys

WAIT_S = 20.0  # only a hang gets here
SECRET = "a signing secret of at least 32 bytes"
LIMITS = tuple(item.name for item in fields(Limits))

CONFIG = Template("""\
[server]
listen = "$listen"
public_url = "http://$listen"
state_dir = "$state_dir"
$secrets
[admin]
listen = "127.0.0.1:0"
token = "admin-secret"
[redis]
$store
$redis
[timeouts]
$poll
$timeouts
[limits]
$limits
$sections
[defaults.model]
openai = "sora-2"
generic = "sora-2"
kling = "kling-v2-6"
jimeng = "jimeng_t2v_v30"
[[upstreams]]
name = "sim-openai"
provider = "openai"
base_url = "$openai_url"
credentials = [{ name = "a", api_key = "sk-sim" }]
$openai
[[upstreams]]
name = "sim-kling"
provider = "kling"
base_url = "$kling_url"
result_hosts = ["$cdn"]
credentials = [{ name = "a", access_key = "$kling_ak", secret_key = "$kling_sk" }]
[[upstreams]]
name = "sim-jimeng"
provider = "jimeng"
base_url = "$jimeng_url"
result_hosts = ["$cdn"]
credentials = [{ name = "a", access_key = "$jimeng_ak", secret_key = "$jimeng_sk" }]
$routes
[[routes]]
model = "sora-2-on-kling"
upstream = "sim-kling"
upstream_model = "kling-v2-6"
[[routes]]
model = "sora-2-on-jimeng"
upstream = "sim-jimeng"
upstream_model = "jimeng_t2v_v30"
[[routes]]
model = "sora-2"
upstream = "sim-openai"
[[routes]]
model = "kling-v2-6"
upstream = "sim-kling"
[[routes]]
model = "jimeng_t2v_v30"
upstream = "sim-jimeng"
""")


@dataclass(frozen=True)
class Answer:
    """A reply, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class House:
    """One running gateway and everything around it."""

    sim: Simulator
    server: Server
    made: MadeToken
    client: ClientSession
    config_path: Path
    lines: list[Mapping[str, object]] = field(default_factory=list)
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    _line_came: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def token(self) -> str:
        return self.made.token

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    async def new_token(self, **wanted: Any) -> MadeToken:
        """`wanted` are fields of `NewToken`; those of its limits may stand among them."""
        secret = signing_secrets(self.server.config)[0]
        limits = {name: wanted.pop(name) for name in LIMITS if name in wanted}
        told = NewToken(**{"name": "another", "limits": Limits(**limits), **wanted})
        return await create_token(self.server.store, secret, told, secrets.token_bytes, time.time)

    async def another_worker(self) -> Server:
        """A second worker on the same store; it ends with the house."""
        front, back = bind("127.0.0.1:0"), bind("127.0.0.1:0")
        self.stack.callback(front.close)
        self.stack.callback(back.close)
        redis = self.server.config.redis.model_copy(update={"url": self.server.parts.store_url})
        config = replace(self.server.config, redis=redis)
        worker = Server(config, self.server.log, sockets=(front, back))
        worker.access_log.watch(self.take)
        return await self.stack.enter_async_context(worker)

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        """With our token unless `headers` says otherwise; the body is read."""
        headers = {**self.bearer, **options.pop("headers", {})}
        base = options.pop("base", self.url)
        headers = {name: value for name, value in headers.items() if value is not None}
        async with self.client.request(method, base + path, headers=headers, **options) as reply:
            return Answer(reply.status, reply.headers, await reply.read())

    async def get(self, path: str, **options: Any) -> Answer:
        return await self.request("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        return await self.request("POST", path, **options)

    async def create(self, model: str = "sora-2", prompt: str = "a cat", **more: Any) -> str:
        """A task made the OpenAI way; returns its id."""
        reply = await self.post("/v1/videos", json={"model": model, "prompt": prompt, **more})
        assert reply.status == 200, reply.body
        return str(reply.json()["id"])

    async def finished(self, task_id: str) -> dict[str, Any]:
        """Wait until the task has ended; returns the Video object."""
        async with asyncio.timeout(WAIT_S):
            while True:
                reply = await self.get(f"/v1/videos/{task_id}")
                assert reply.status == 200, reply.body
                video: dict[str, Any] = reply.json()
                if video["status"] in ("completed", "failed"):
                    return video
                await asyncio.sleep(0.01)

    async def completed(self, model: str = "sora-2", prompt: str = "a cat", **more: Any) -> str:
        """A finished task's id."""
        task_id = await self.create(model, prompt, **more)
        video = await self.finished(task_id)
        assert video["status"] == "completed", video
        return task_id

    def take(self, line: Mapping[str, object]) -> None:
        self.lines.append(line)
        self._line_came.set()

    async def line(self, predicate: Callable[[Mapping[str, object]], bool]) -> Mapping[str, object]:
        """The first access line the predicate holds for, waited for."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for line in self.lines:
                    if predicate(line):
                        return line
                self._line_came.clear()
                await self._line_came.wait()


@dataclass(frozen=True)
class Plan:
    """How a test's house differs from the usual one. Text parts are TOML; `poll` is how often
    its tasks are asked after, the rest of `[timeouts]` is in `timeouts`; the store's patience is a
    loaded machine's, but where a test makes it stand still; `openai` are more keys of
    the OpenAI-style upstream, with `$cdn` for the file host. `embedded`: with a store of its own,
    started by the gateway itself, in the state directory."""

    poll: str = "poll_first_s = 0.02\npoll_interval_s = 0.03\npoll_max_s = 0.05"
    speed: float = 500
    manual: bool = False
    sim: Mapping[str, Any] = field(default_factory=dict)
    redis: str = "timeout_s = 5"
    timeouts: str = ""
    limits: str = ""
    sections: str = ""
    routes: str = ""
    openai: str = ""
    embedded: bool = False


class OpenHouse(Protocol):
    def __call__(
        self, plan: Plan | None = None, folder: Path | None = None
    ) -> AbstractAsyncContextManager[House]: ...


# For tests in which the store stands still.
EMBEDDED = pytest.mark.parametrize("house", [Plan(embedded=True)], indirect=True, ids=["embedded"])
IMPATIENT = pytest.mark.parametrize(
    "house", [Plan(redis="timeout_s = 0.5")], indirect=True, ids=["impatient"]
)


def write_config(
    path: Path, plan: Plan, sim: Simulator, listen: str, store_url: str | None
) -> None:
    """`store_url`: None for the embedded store."""
    keys = sim.credentials
    secrets_line = "" if store_url is None else f'secrets = ["{SECRET}"]'
    path.write_text(
        CONFIG.substitute(
            listen=listen,
            state_dir=path.parent / "state",
            poll=plan.poll,
            secrets=secrets_line,
            store="" if store_url is None else f'url = "{store_url}"',
            redis=plan.redis,
            timeouts=plan.timeouts,
            limits=plan.limits,
            sections=plan.sections,
            routes=plan.routes,
            openai=Template(plan.openai).substitute(cdn=sim.cdn_url.removeprefix("http://")),
            openai_url=sim.openai_url,
            kling_url=sim.kling_url,
            jimeng_url=sim.jimeng_url,
            cdn=sim.cdn_url.removeprefix("http://"),
            kling_ak=keys["kling"]["access_key"],
            kling_sk=keys["kling"]["secret_key"],
            jimeng_ak=keys["jimeng"]["access_key"],
            jimeng_sk=keys["jimeng"]["secret_key"],
        )
    )


@asynccontextmanager
async def start_house(folder: Path, valkeys: Valkeys, plan: Plan) -> AsyncIterator[House]:
    """The simulator, the gateway's worker, a token and a client."""
    async with AsyncExitStack() as stack:
        settings = Settings(speed=plan.speed, manual=plan.manual, seed=1, **plan.sim)
        sim = await stack.enter_async_context(Simulator(settings))
        front, back = bind("127.0.0.1:0"), bind("127.0.0.1:0")
        stack.callback(front.close)
        stack.callback(back.close)
        path = folder / "config.toml"
        store_url = None
        if not plan.embedded:
            store_url = (await stack.enter_async_context(valkeys.lend())).url
        write_config(path, plan, sim, address_of(front), store_url)
        log_file = stack.enter_context((folder / "gateway.log").open("a"))
        server = await stack.enter_async_context(
            Server(load(path, {}, PROVIDERS), make_logger(log_file), sockets=(front, back))
        )
        secret = signing_secrets(server.config)[0]
        made = await create_token(
            server.store, secret, NewToken(name="test"), secrets.token_bytes, time.time
        )
        client = await stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=WAIT_S), auto_decompress=False)
        )
        house = House(sim, server, made, client, path, stack=stack)
        server.access_log.watch(house.take)
        yield house
        await client.close()


def form(fields: Mapping[str, Any]) -> FormData:
    data = FormData()
    for name, value in fields.items():
        data.add_field(name, value)
    return data
