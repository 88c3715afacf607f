"""A task made in one dialect, read in every other: ids are shared, each answer is native."""

from __future__ import annotations

import ast
import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import aiohttp
import jwt
import openai
import pytest

from proxy.sim import pattern_sha256
from tests.rig.house import House

with pytest.MonkeyPatch.context() as _no_home:
    # At import it reads keys from the environment and ~/.volc; ours must win.
    _no_home.delenv("VOLC_ACCESSKEY", raising=False)
    from volcengine.visual.VisualService import VisualService

if TYPE_CHECKING:
    from proxy.tokens import MadeToken
    from tests.sdk.conftest import Moved, OneRender

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*permanently shut down:DeprecationWarning",
    "ignore:.*deprecated:DeprecationWarning",
)
_DIALECTS = ("openai", "generic", "kling", "jimeng")
_MODELS = (("sora-2", "openai"), ("kling-v2-6", "kling"), ("jimeng_t2v_v30", "jimeng"))
_STATES = {
    "queued": {
        "openai": "queued",
        "generic": ("queued", "QUEUED"),
        "kling": ("submitted", "queued"),
        "jimeng": "in_queue",
    },
    "in_progress": {
        "openai": "in_progress",
        "generic": ("in_progress", "IN_PROGRESS"),
        "kling": ("processing", "in_progress"),
        "jimeng": "generating",
    },
    "completed": {
        "openai": "completed",
        "generic": ("completed", "SUCCESS"),
        "kling": ("succeed", "completed"),
        "jimeng": "done",
    },
    "failed": {
        "openai": "failed",
        "generic": ("failed", "FAILURE"),
        "kling": ("failed", "failed"),
        "jimeng": "raised",
    },
}
_VIDEO_KEYS = {
    *("id", "object", "model", "status", "progress", "created_at", "completed_at"),
    *("expires_at", "prompt", "size", "seconds", "remixed_from_video_id", "error"),
}
_ENVELOPES = {
    "openai": _VIDEO_KEYS,
    "generic": {*_VIDEO_KEYS, "task_id", "url", "format", "metadata", "code", "message", "data"},
    "kling": {
        *("code", "message", "request_id", "data"),
        *("task_id", "status", "url", "format", "metadata", "error"),
    },
    "jimeng": {
        "ResponseMetadata",
        "Result",
        "code",
        "data",
        "message",
        "request_id",
        "status",
        "time_elapsed",
    },
}

Fetch = Callable[["House", str], Awaitable[bytes]]


class Clients:
    """A client of each dialect, all with one token; answers are the parsed native bodies."""

    def __init__(
        self,
        house: House,
        made: MadeToken,
        sdk: openai.OpenAI,
        session: aiohttp.ClientSession,
        visual: VisualService,
    ) -> None:
        self.house = house
        self.made = made
        self.sdk = sdk
        self.session = session
        self.visual = visual

    async def make(self, dialect: str, model: str, prompt: str) -> str:
        if dialect == "openai":
            video = await asyncio.to_thread(self.sdk.videos.create, model=model, prompt=prompt)
            return video.id
        if dialect == "jimeng":
            form = {"req_key": model, "prompt": prompt}
            answer = await self._visual(self.visual.cv_sync2async_submit_task, form)
            return str(answer["data"]["task_id"])
        body = {"model": model, "prompt": prompt}
        if dialect == "kling":
            answer = await self._kling("POST", "", body)
            return str(answer["data"]["task_id"])
        answer = await self._generic("POST", "", body)
        return str(answer["task_id"])

    async def read(self, dialect: str, task_id: str) -> Any:
        if dialect == "openai":
            video = await asyncio.to_thread(self.sdk.videos.retrieve, task_id)
            return video.to_dict(mode="json")
        if dialect == "jimeng":
            form = {"req_key": "any", "task_id": task_id}
            return await self._visual(self.visual.cv_sync2async_get_result, form)
        if dialect == "kling":
            return await self._kling("GET", f"/{task_id}")
        return await self._generic("GET", f"/{task_id}")

    async def _visual(self, call: Callable[..., Any], form: dict[str, str]) -> Any:
        """A failed render is an exception with the body in it. The service is a singleton, so
        its keys are set for each call."""
        self.visual.set_ak(self.made.record.id)
        self.visual.set_sk(self.made.secret_key)
        try:
            return await asyncio.to_thread(call, form)
        except Exception as failure:
            return json.loads(ast.literal_eval(str(failure)))

    async def _kling(self, method: str, path: str, body: object = None) -> Any:
        now = int(time.time())
        claims = {"iss": self.made.record.id, "exp": now + 1800, "nbf": now - 5}
        token = jwt.encode(claims, self.made.secret_key)
        return await self._call(method, f"/kling/v1/videos/text2video{path}", token, body)

    async def _generic(self, method: str, path: str, body: object = None) -> Any:
        return await self._call(method, f"/v1/video/generations{path}", self.made.token, body)

    async def _call(self, method: str, path: str, token: str, body: object) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        url = self.house.url + path
        async with self.session.request(method, url, json=body, headers=headers) as reply:
            return await reply.json()


@pytest.fixture
def visual(held: House) -> Iterator[VisualService]:
    service = VisualService()
    service.set_scheme("http")
    service.set_host(urlsplit(held.url).netloc)
    yield service
    service.session.close()


@pytest.fixture
async def clients_of(
    held: House, visual: VisualService
) -> AsyncIterator[Callable[[MadeToken], Clients]]:
    async with aiohttp.ClientSession() as session:
        with ExitStack() as stack:

            def make(made: MadeToken) -> Clients:
                sdk = openai.OpenAI(base_url=f"{held.url}/v1", api_key=made.token)
                return Clients(held, made, stack.enter_context(sdk), session, visual)

            yield make


@pytest.fixture
def clients(held: House, clients_of: Callable[[MadeToken], Clients]) -> Clients:
    return clients_of(held.made)


def _word(dialect: str, answer: Any) -> object:
    """Everything in an answer that names the state."""
    if dialect == "openai":
        return answer["status"]
    if dialect == "generic":
        return answer["status"], answer["data"]["status"]
    if dialect == "kling":
        return answer["data"]["task_status"], answer["status"]
    return "raised" if answer["code"] != 10000 else answer["data"]["status"]


def _link(dialect: str, answer: Any) -> str:
    if dialect == "generic":
        assert answer["url"] == answer["data"]["result_url"]
        return str(answer["url"])
    if dialect == "kling":
        (video,) = answer["data"]["task_result"]["videos"]
        assert video["url"] == answer["url"]
        return str(video["url"])
    return str(answer["data"]["video_url"])


def _reason(dialect: str, answer: Any) -> str:
    if dialect == "openai":
        return str(answer["error"]["message"])
    if dialect == "generic":
        assert answer["error"]["message"] == answer["data"]["fail_reason"]
        return str(answer["error"]["message"])
    if dialect == "kling":
        assert answer["error"]["message"] == answer["data"]["task_status_msg"]
        return str(answer["error"]["message"])
    return str(answer["message"])


@pytest.mark.parametrize(("model", "service"), _MODELS)
async def test_every_dialect_reads_what_any_other_made(
    held: House,
    clients: Clients,
    moved: Moved,
    one_render: OneRender,
    fetch: Fetch,
    model: str,
    service: str,
) -> None:
    """Four makers, four readers, every state: one id, one word per dialect, one link, one file."""
    for maker in _DIALECTS:
        task_id = await clients.make(maker, model, "千军万马 size=5000")
        await one_render(held, service, task_id, dialect=maker)
        for state in ("queued", "in_progress", "completed"):
            if state != "queued":
                await moved(held, task_id, state)
            answers = {reader: await clients.read(reader, task_id) for reader in _DIALECTS}
            assert {d: _word(d, answers[d]) for d in _DIALECTS} == _STATES[state], maker
            link = {"url"} if state == "completed" else set()
            envelopes = {**_ENVELOPES, "openai": _ENVELOPES["openai"] | link}
            assert {d: answers[d].keys() for d in _DIALECTS} == envelopes
            assert answers["openai"]["id"] == answers["generic"]["id"] == task_id
            assert answers["generic"]["task_id"] == answers["kling"]["task_id"] == task_id
            assert answers["kling"]["data"]["task_id"] == task_id
            assert answers["openai"]["prompt"] == "千军万马 size=5000"
            assert answers["kling"]["metadata"] == answers["generic"]["metadata"]
            created_ms = answers["kling"]["data"]["created_at"]
            assert answers["openai"]["created_at"] == created_ms // 1000
        links = {_link(d, answers[d]) for d in _DIALECTS if d != "openai"}
        assert len(links) == 1
        assert hashlib.sha256(await fetch(held, links.pop())).hexdigest() == pattern_sha256(5000)
        content = await asyncio.to_thread(clients.sdk.videos.download_content, task_id)
        assert hashlib.sha256(content.content).hexdigest() == pattern_sha256(5000)
        for reader in _DIALECTS:
            line = await held.line(
                lambda line: (
                    (line["dialect"], line["operation"], line.get("task_id"))
                    == (reader, "get", task_id)  # noqa: B023
                )
            )
            assert (line["status"], line["reason"]) == (200, "done")


@pytest.mark.parametrize(("model", "service"), _MODELS)
async def test_a_failure_reads_the_same_in_every_dialect(
    held: House, clients: Clients, moved: Moved, model: str, service: str
) -> None:
    for maker in _DIALECTS:
        task_id = await clients.make(maker, model, "cat")
        await moved(held, task_id, "failed")
        answers = {reader: await clients.read(reader, task_id) for reader in _DIALECTS}
        assert {d: _word(d, answers[d]) for d in _DIALECTS} == _STATES["failed"], maker
        reasons = {_reason(d, answers[d]) for d in _DIALECTS}
        assert len(reasons) == 1
        assert reasons.pop()
        codes = {answers[d]["error"]["code"] for d in _DIALECTS}
        assert len(codes) == 1
    assert held.sim.renders(service) == len(_DIALECTS)


async def test_lists_show_what_every_dialect_made(held: House, clients: Clients) -> None:
    made = {await clients.make(maker, model, "cat") for maker in _DIALECTS for model, _ in _MODELS}
    listed = await asyncio.to_thread(lambda: [v.id for v in clients.sdk.videos.list(limit=5)])
    assert (len(listed), set(listed)) == (12, made)
    reply = await held.get("/kling/v1/videos/text2video")
    assert {task["task_id"] for task in reply.json()["data"]} == made


async def test_a_missing_task_is_missing_in_each_dialects_own_way(
    held: House,
    clients: Clients,
    clients_of: Callable[[MadeToken], Clients],
) -> None:
    """Unknown, deleted and somebody else's: no dialect tells them apart."""
    kept, deleted = [await clients.make("kling", "kling-v2-6", "cat") for _ in range(2)]
    await asyncio.to_thread(clients.sdk.videos.delete, deleted)
    stranger = clients_of(await held.new_token())
    cases = ((clients, kept[:-6] + "abcdef"), (clients, deleted), (stranger, kept))
    for who, task_id in cases:
        with pytest.raises(openai.NotFoundError):
            await who.read("openai", task_id)
        generic = await who.read("generic", task_id)
        assert (generic["code"], generic["data"]) == ("task_not_exist", None)
        kling = await who.read("kling", task_id)
        assert (kling["code"], kling.get("data")) == (1203, None)
        jimeng = await who.read("jimeng", task_id)
        assert (jimeng["code"], jimeng["data"]) == (10000, {"status": "not_found"})
    assert _word("kling", await clients.read("kling", kept)) == _STATES["queued"]["kling"]
    missing = {line["reason"] for line in held.lines if line["operation"] == "get"}
    assert missing == {"not_found", "done"}
