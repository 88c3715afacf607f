"""Kling's own sample client (PyJWT and an HTTP library) against the simulated Kling."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from yarl import URL

from proxy.sim import Account, Settings, Simulator

_PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)
_IMAGE = base64.b64encode(_PNG).decode()
_TEXT = {"model_name": "kling-v2-6", "prompt": "A calico cat", "duration": "5", "mode": "pro"}
_SECOND = Account(
    {
        "openai": {"api_key": "sk-two"},
        "kling": {
            "access_key": "AKTWO",
            "secret_key": "a-second-secret-key-of-enough-length",
            "api_key": "kling-two",
        },
        "jimeng": {"access_key": "AKLTTWO", "secret_key": "two"},
    }
)


class Client:
    """As in Kling's sample: a fresh token for every call."""

    def __init__(self, sim: Simulator, session: aiohttp.ClientSession) -> None:
        self.sim = sim
        self.session = session
        keys = sim.credentials["kling"]
        self.access_key, self.secret_key = keys["access_key"], keys["secret_key"]

    def token(self, valid_from_s: int = -5, valid_for_s: int = 1800) -> str:
        now = int(time.time())
        claims = {"iss": self.access_key, "exp": now + valid_for_s, "nbf": now + valid_from_s}
        return jwt.encode(claims, self.secret_key, headers={"alg": "HS256", "typ": "JWT"})

    async def call(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        token: str | None = None,
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token or self.token()}"}
        url = self.sim.kling_url + path
        async with self.session.request(method, url, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def submit(self, body: dict[str, object], endpoint: str = "text2video") -> Any:
        status, answer = await self.call("POST", f"/v1/videos/{endpoint}", body)
        assert (status, answer["code"]) == (200, 0), answer
        return answer["data"]


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    settings = Settings(manual=True, seed=1, accounts=(Account(), _SECOND))
    async with Simulator(settings) as simulator:
        yield simulator


@pytest.fixture
async def client(sim: Simulator) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(sim, session)


async def test_submit_poll_and_download(sim: Simulator, client: Client) -> None:
    made = await client.submit({**_TEXT, "external_task_id": "gw-0001"})
    assert made.keys() == {"task_id", "task_info", "task_status", "created_at", "updated_at"}
    assert (made["task_status"], len(made["task_id"])) == ("submitted", 18)
    path = f"/v1/videos/text2video/{made['task_id']}"
    sim.step(made["task_id"], "in_progress")
    assert (await client.call("GET", path))[1]["data"]["task_status"] == "processing"
    sim.finish(made["task_id"])
    status, answer = await client.call("GET", "/v1/videos/text2video/gw-0001")
    data = answer["data"]
    assert (status, data["task_id"], data["task_status"]) == (200, made["task_id"], "succeed")
    (video,) = data["task_result"]["videos"]
    assert (video["duration"], data["final_unit_deduction"]) == ("5.1", "5")
    async with client.session.get(URL(video["url"], encoded=True)) as response:
        assert (response.status, response.content_type) == (200, "video/mp4")
        assert (await response.read())[4:8] == b"ftyp"
    assert sim.submits("kling") == sim.renders("kling") == 1


async def test_images_arrive_byte_for_byte(sim: Simulator, client: Client) -> None:
    body: dict[str, object] = {"model_name": "kling-v1-5", "image": _IMAGE, "image_tail": _IMAGE}
    await client.submit(body, "image2video")
    uploads = sim.log.select("kling", "submit")[0].uploads
    assert [(u.field, u.sha256) for u in uploads] == [
        ("image", hashlib.sha256(_PNG).hexdigest()),
        ("image_tail", hashlib.sha256(_PNG).hexdigest()),
    ]


async def test_an_api_key_is_a_bearer_too(client: Client) -> None:
    key = client.sim.credentials["kling"]["api_key"]
    status, _ = await client.call("POST", "/v1/videos/text2video", {**_TEXT}, token=key)
    assert status == 200


async def test_tokens_are_refused_with_their_own_codes(sim: Simulator, client: Client) -> None:
    path = "/v1/videos/text2video/1"
    assert await _code(client, path, client.token(valid_for_s=-1)) == (401, 1004)
    assert await _code(client, path, client.token(valid_from_s=60)) == (401, 1003)
    assert await _code(client, path, "not-a-key") == (401, 1002)
    client.secret_key = "another-secret-key-of-enough-length"
    assert await _code(client, path, client.token()) == (401, 1000)
    client.access_key = "AKNOBODY"
    assert await _code(client, path, client.token()) == (401, 1002)
    async with client.session.get(sim.kling_url + path) as response:
        assert (response.status, (await response.json())["code"]) == (401, 1001)


async def _code(client: Client, path: str, token: str | None = None) -> tuple[int, int]:
    status, answer = await client.call("GET", path, token=token)
    return status, answer["code"]


async def test_a_task_is_found_only_by_its_account_and_under_its_endpoint(
    sim: Simulator, client: Client
) -> None:
    made = await client.submit({**_TEXT, "external_task_id": "mine"})
    for asked in (made["task_id"], "mine"):
        assert (await client.call("GET", f"/v1/videos/text2video/{asked}"))[0] == 200
        assert await _code(client, f"/v1/videos/image2video/{asked}") == (404, 1203)
        assert await _code(client, f"/v1/videos/text2video/{asked}", "kling-two") == (404, 1203)


async def test_an_external_task_id_is_unique_per_account(sim: Simulator, client: Client) -> None:
    body: dict[str, object] = {**_TEXT, "external_task_id": "once"}
    await client.submit(body)
    status, answer = await client.call("POST", "/v1/videos/text2video", body)
    assert (status, answer["code"]) == (400, 1201)
    status, _ = await client.call("POST", "/v1/videos/text2video", body, token="kling-two")
    assert status == 200
    assert sim.renders("kling") == 2


async def test_list_pages_newest_first(client: Client) -> None:
    made = [(await client.submit({**_TEXT}))["task_id"] for _ in range(3)]
    _, answer = await client.call("GET", "/v1/videos/text2video?pageNum=1&pageSize=2")
    assert [task["task_id"] for task in answer["data"]] == made[:0:-1]
    _, answer = await client.call("GET", "/v1/videos/text2video?pageNum=2&pageSize=2")
    assert [task["task_id"] for task in answer["data"]] == made[:1]
    assert await _code(client, "/v1/videos/text2video?pageSize=501") == (400, 1201)


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"model_name": "kling-v9"}, 404, 1203),
        ({"model_name": "kling-v1-5"}, 404, 1203),
        ({"prompt": ""}, 400, 1201),
        ({"prompt": "x" * 2501}, 400, 1201),
        ({"prompt": "a forbidden-prompt"}, 400, 1301),
        ({"duration": 5}, 400, 1201),
        ({"duration": "8"}, 400, 1201),
        ({"model_name": "kling-v3", "duration": "16"}, 400, 1201),
        ({"mode": "turbo"}, 400, 1201),
        ({"aspect_ratio": "21:9"}, 400, 1201),
        ({"cfg_scale": 1.5}, 400, 1201),
        ({"sound": True}, 400, 1201),
        ({"model_name": "kling-v1", "sound": "on"}, 400, 1201),
        ({"camera_control": {"type": "simple", "config": {"pan": 1, "tilt": 1}}}, 400, 1201),
        ({"camera_control": {"type": "down_back", "config": {"pan": 1}}}, 400, 1201),
        ({"multi_shot": True, "shot_type": "customize", "multi_prompt": []}, 400, 1201),
        ({"callback_url": "ftp://x"}, 400, 1201),
    ],
)
async def test_a_broken_text2video_field_is_refused(
    sim: Simulator, client: Client, change: dict[str, object], status: int, code: int
) -> None:
    told, answer = await client.call("POST", "/v1/videos/text2video", {**_TEXT, **change})
    assert (told, answer["code"]) == (status, code)
    assert answer.keys() == {"code", "message", "request_id"}
    assert sim.renders("kling") == 0


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image": f"data:image/png;base64,{_IMAGE}"},
        {"image": "!!!"},
        {"image": base64.b64encode(b"GIF89a").decode()},
        {"image": _IMAGE, "image_tail": _IMAGE, "camera_control": {"type": "down_back"}},
        {"image": _IMAGE, "element_list": [{"element_id": 1}], "voice_list": [{"voice_id": "a"}]},
    ],
)
async def test_a_broken_image2video_field_is_refused(
    client: Client, change: dict[str, object]
) -> None:
    body = {"model_name": "kling-v2-1", "prompt": "cat", **change}
    status, answer = await client.call("POST", "/v1/videos/image2video", body)
    assert (status, answer["code"]) == (400, 1201)


async def test_v3_takes_every_whole_duration_and_shots_instead_of_a_prompt(
    client: Client,
) -> None:
    for seconds in range(3, 16):
        await client.submit({"model_name": "kling-v3", "prompt": "cat", "duration": str(seconds)})
    shots = [{"index": n, "prompt": "cat", "duration": "4"} for n in (1, 2)]
    await client.submit(
        {
            "model_name": "kling-v3",
            "duration": "8",
            "multi_shot": True,
            "shot_type": "customize",
            "multi_prompt": shots,
        }
    )


async def test_several_results_each_have_their_own_link(sim: Simulator, client: Client) -> None:
    made = await client.submit({**_TEXT, "prompt": "cat videos=2 size=1000"})
    sim.finish(made["task_id"])
    _, answer = await client.call("GET", f"/v1/videos/text2video/{made['task_id']}")
    urls = {video["url"] for video in answer["data"]["task_result"]["videos"]}
    assert len(urls) == 2


async def test_a_failed_render_says_why(sim: Simulator, client: Client) -> None:
    made = await client.submit({**_TEXT})
    sim.fail(made["task_id"], 1301)
    _, answer = await client.call("GET", f"/v1/videos/text2video/{made['task_id']}")
    assert answer["code"] == 0
    assert answer["data"]["task_status"] == "failed"
    assert "content security" in answer["data"]["task_status_msg"]
    assert "task_result" not in answer["data"]


async def test_callbacks_carry_the_bare_task_on_every_change(
    sim: Simulator, client: Client
) -> None:
    received: list[Any] = []

    async def receive(request: web.Request) -> web.Response:
        received.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", receive)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        made = await client.submit({**_TEXT, "callback_url": url})
        sim.step(made["task_id"], "in_progress")
        sim.finish(made["task_id"])
        await sim.wait_for(lambda e: e.operation == "callback" and e.done, count=2)
    finally:
        await runner.cleanup()
    assert [task["task_status"] for task in received] == ["processing", "succeed"]
    assert received[1]["task_id"] == made["task_id"]
    assert "parent_video" in received[1]["task_info"]
    assert received[1]["task_result"]["videos"]
