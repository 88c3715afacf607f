"""Kling's own sample client (PyJWT and an HTTP library) against the gateway, every provider
behind it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
import pytest

from proxy.sim import pattern, pattern_sha256
from tests.rig.house import House, OpenHouse, Plan

if TYPE_CHECKING:
    from tests.sdk.conftest import Moved, OneRender

_SMALL = b"\x89PNG\r\n\x1a\n" + pattern(8, 5000)
_LARGE = b"\x89PNG\r\n\x1a\n" + pattern(8, 400_001)
_MODELS = (("kling-v2-6", "kling"), ("sora-2", "openai"), ("jimeng_t2v_v30", "jimeng"))
_BASES = ("/kling/v1/videos", "/v1/videos")
_WAIT_S = 20.0  # only a hang gets here

Fetch = Callable[["House", str], Awaitable[bytes]]


class Client:
    """As in Kling's sample: a fresh token for every call. `use_key`: the newer way, the one API
    key as the bearer."""

    def __init__(self, house: House, session: aiohttp.ClientSession, base: str = _BASES[0]) -> None:
        self.house = house
        self.session = session
        self.base = base
        self.access_key, self.secret_key = house.made.record.id, house.made.secret_key
        self.use_key = False

    def token(self, valid_from_s: int = -5, valid_for_s: int = 1800, **claims: object) -> str:
        now = int(time.time())
        claims = {
            "iss": self.access_key,
            "exp": now + valid_for_s,
            "nbf": now + valid_from_s,
            **claims,
        }
        return jwt.encode(claims, self.secret_key, headers={"alg": "HS256", "typ": "JWT"})

    async def call(
        self,
        method: str,
        path: str,
        body: dict[str, object] | None = None,
        authorization: str | None = None,
    ) -> tuple[int, Any]:
        if authorization is None:
            key = self.house.token if self.use_key else self.token()
            authorization = f"Bearer {key}"
        headers = {"Authorization": authorization} if authorization else {}
        url = self.house.url + self.base + path
        async with self.session.request(method, url, json=body, headers=headers) as response:
            assert response.content_type == "application/json"
            answer = await response.json()
            assert answer["request_id"] == response.headers["X-Request-Id"]
            return response.status, answer

    async def submit(self, kind: str = "text2video", **body: object) -> Any:
        status, answer = await self.call("POST", f"/{kind}", body)
        assert (status, answer["code"], answer["message"]) == (200, 0, "SUCCEED"), answer
        data = answer["data"]
        assert data.keys() == {*("task_id", "task_info", "task_status", "created_at", "updated_at")}
        assert data["task_status"] == "submitted"
        assert (answer["task_id"], answer["status"]) == (data["task_id"], "queued")
        return data

    async def get(self, reference: str, kind: str = "text2video") -> Any:
        status, answer = await self.call("GET", f"/{kind}/{reference}")
        assert (status, answer["code"]) == (200, 0), answer
        return answer

    async def done(self, reference: str, kind: str = "text2video") -> Any:
        async with asyncio.timeout(_WAIT_S):
            while True:
                answer = await self.get(reference, kind)
                status = answer["data"]["task_status"]
                if status in ("succeed", "failed"):
                    return answer
                assert status in ("submitted", "processing")
                await asyncio.sleep(0.01)


@pytest.fixture
async def client(house: House) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(house, session)


@pytest.fixture
async def stepped(held: House) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession() as session:
        yield Client(held, session)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- submit, poll, download


@pytest.mark.parametrize("base", _BASES)
@pytest.mark.parametrize("use_key", [False, True], ids=["jwt", "bearer"])
async def test_submit_poll_and_download_on_every_provider(
    house: House, client: Client, one_render: OneRender, fetch: Fetch, base: str, use_key: bool
) -> None:
    """In Kling's own words, at both paths, with both kinds of token."""
    client.base, client.use_key = base, use_key
    for model, service in _MODELS:
        prompt = f"千军万马 {model}, size=700001"
        made = await client.submit(
            model_name=model, prompt=prompt, external_task_id=f"mine-{model}"
        )
        assert made["task_info"] == {"external_task_id": f"mine-{model}"}
        answer = await client.done(made["task_id"])
        data = answer["data"]
        assert (data["task_id"], data["task_status"]) == (made["task_id"], "succeed")
        assert data["task_info"] == made["task_info"]
        assert data["created_at"] == made["created_at"] <= data["updated_at"]
        assert data["created_at"] > 1_600_000_000_000  # milliseconds
        (video,) = data["task_result"]["videos"]
        assert video.keys() == {"id", "url", "duration"}
        assert float(video["duration"]) > 3
        assert (answer["status"], answer["url"], answer["error"]) == (
            "completed",
            video["url"],
            None,
        )
        assert _digest(await fetch(house, video["url"])) == pattern_sha256(700_001)
        by_alias = await client.get(f"mine-{model}")
        assert by_alias["data"] == data

        entry = await one_render(house, service, made["task_id"], dialect="kling")
        assert entry.body["prompt"] == prompt
        line = await house.line(
            lambda line: line["operation"] == "get" and line["task_id"] == made["task_id"]  # noqa: B023
        )
        assert (line["dialect"], line["status"], line["reason"]) == ("kling", 200, "done")
    created = [line for line in house.lines if line["operation"] == "create"]
    assert {line["path"] for line in created} == {f"{base}/text2video"}


async def test_every_state_has_klings_own_word(held: House, stepped: Client, moved: Moved) -> None:
    for model, _ in _MODELS:
        made = await stepped.submit(model_name=model, prompt="cat")
        answer = await stepped.get(made["task_id"])
        assert (answer["data"]["task_status"], answer["status"]) == ("submitted", "queued")
        assert (answer["data"]["task_result"], answer["url"]) == ({}, "")
        await moved(held, made["task_id"], "in_progress")
        answer = await stepped.get(made["task_id"])
        assert (answer["data"]["task_status"], answer["status"]) == ("processing", "in_progress")
        await moved(held, made["task_id"], "failed")
        answer = await stepped.get(made["task_id"])
        assert (answer["data"]["task_status"], answer["status"]) == ("failed", "failed")
        assert answer["data"]["task_status_msg"] == answer["error"]["message"] != ""


async def test_a_kling_upstream_gets_what_its_client_wrote(
    held: House, stepped: Client, moved: Moved, one_render: OneRender
) -> None:
    """Fields nobody has heard of included; its own members come back. The alias is ours, for
    the upstream hears our task id, unique whatever clients choose; so is the callback."""
    body: dict[str, Any] = {
        "model_name": "kling-v2-6",
        "prompt": "cat",
        "negative_prompt": "dogs",
        "cfg_scale": 0.25,
        "mode": "pro",
        "sound": "on",
        "aspect_ratio": "1:1",
        "duration": "10",
        "camera_control": {"type": "simple", "config": {"zoom": -3.5}},
        "watermark_info": {"enabled": True},
        "a_field_of_next_year": {"deep": [1, 2.5, "x"]},
    }
    made = await stepped.submit(**body, external_task_id="mine")
    entry = await one_render(held, "kling", made["task_id"], dialect="kling")
    sent = dict(entry.body)
    assert str(sent.pop("callback_url")).startswith(f"{held.url}/callbacks/{made['task_id']}/")
    assert sent == {**body, "external_task_id": made["task_id"]}
    await moved(held, made["task_id"], "completed")
    data = (await stepped.get("mine"))["data"]
    assert data["watermark_info"] == {"enabled": True}
    assert data["final_unit_deduction"] == "10"
    assert data["task_result"]["videos"][0]["duration"] == "10.1"


async def test_the_generic_body_works_at_klings_paths(
    held: House, stepped: Client, one_render: OneRender
) -> None:
    """`model`, a numeric duration, width and height, metadata: the documented VideoRequest."""
    expected: dict[str, dict[str, object]] = {
        "kling": {"duration": "10", "aspect_ratio": "16:9", "mode": "std", "cfg_scale": 0.5},
        "openai": {"seconds": "8", "size": "1280x720"},
        "jimeng": {"frames": 241, "aspect_ratio": "16:9", "seed": 7},
    }
    for model, service in _MODELS:
        made = await stepped.submit(
            model=model,
            prompt="cat",
            duration=8,
            width=1280,
            height=720,
            fps=24,
            seed=7,
            n=1,
            response_format="url",
            user="someone",
            metadata={"negative_prompt": "dogs", "cfg_scale": 0.5},
        )
        entry = await one_render(held, service, made["task_id"], dialect="kling")
        body = expected[service]
        assert {name: entry.body.get(name) for name in body} == body
        metadata = (await stepped.get(made["task_id"]))["metadata"]
        # Of the video: what its provider was not told of is not said of it.
        used = {"jimeng": (None, 7)}.get(service, (None, None))
        assert (metadata["fps"], metadata["seed"]) == used
        assert metadata["duration"] == {"openai": 8}.get(service, 10)


async def test_klings_lengths_and_shapes_are_fitted_to_sora(
    open_house: OpenHouse,
    free_port: int,
) -> None:
    fitted = Plan(
        manual=True,
        sim={"ports": {"openai": free_port}},
        sections=f"""
        [[upstreams]]
        name = "sora"
        provider = "openai"
        base_url = "http://127.0.0.1:{free_port}/v1"
        options = {{ seconds = [4, 8, 12], sizes = ["720x1280", "1280x720"] }}
        credentials = [{{ name = "a", api_key = "sk-sim" }}]
        """,
        routes='[[routes]]\nmodel = "sora-fitted"\nupstream = "sora"\nupstream_model = "sora-2"\n',
    )
    async with open_house(fitted) as house, aiohttp.ClientSession() as session:
        client = Client(house, session)
        await client.submit(
            model_name="sora-fitted", prompt="cat", duration="5", aspect_ratio="16:9", mode="std"
        )
        (entry,) = house.sim.log.select("openai", "submit")
    assert (entry.body["seconds"], entry.body["size"]) == ("8", "1280x720")


async def test_several_results_each_have_their_own_file(
    house: House, client: Client, fetch: Fetch
) -> None:
    made = await client.submit(model_name="kling-v2-6", prompt="cat videos=3 size=5000")
    videos = (await client.done(made["task_id"]))["data"]["task_result"]["videos"]
    assert len({video["id"] for video in videos}) == len({video["url"] for video in videos}) == 3
    for video in videos:
        assert _digest(await fetch(house, video["url"])) == pattern_sha256(5000)
    targets = {entry.target for entry in house.sim.log.select("cdn")}
    assert len(targets) == 3


# ---------------------------------------------------------------- pictures


async def test_base64_pictures_arrive_byte_for_byte(
    held: House, stepped: Client, one_render: OneRender
) -> None:
    """Raw, as Kling has it, and as a data: URL, which Kling itself would refuse."""
    for model, service in _MODELS:
        for picture, head in ((_SMALL, ""), (_LARGE, ""), (_SMALL, "data:image/png;base64,")):
            made = await stepped.submit(
                "image2video",
                model_name=model,
                prompt="cat",
                image=head + base64.b64encode(picture).decode(),
            )
            entry = await one_render(held, service, made["task_id"], dialect="kling")
            (upload,) = entry.uploads
            assert (upload.size, upload.sha256) == (len(picture), _digest(picture))
            if service == "kling":
                assert (entry.target, upload.field) == ("/v1/videos/image2video", "image")


async def test_both_frames_and_addresses_arrive(
    held: House, stepped: Client, one_render: OneRender
) -> None:
    first, last = (base64.b64encode(picture).decode() for picture in (_SMALL, _LARGE))
    place = "https://pictures.example/cat.png?a=1&b=%20"
    for model, service in (_MODELS[0], _MODELS[2]):
        made = await stepped.submit(
            "image2video", model_name=model, prompt="cat", image=first, image_tail=last
        )
        entry = await one_render(held, service, made["task_id"], dialect="kling")
        assert [u.sha256 for u in entry.uploads] == [_digest(_SMALL), _digest(_LARGE)]
    expected = {
        "kling": ("image", place),
        "openai": ("input_reference", {"image_url": place}),
        "jimeng": ("image_urls", [place]),
    }
    for model, service in _MODELS:
        made = await stepped.submit("image2video", model=model, prompt="cat", image=place)
        entry = await one_render(held, service, made["task_id"], dialect="kling")
        field, value = expected[service]
        assert entry.body[field] == value


async def test_an_image_task_finishes_like_any_other(
    house: House, client: Client, fetch: Fetch
) -> None:
    image = base64.b64encode(_SMALL).decode()
    for model, _ in _MODELS:
        made = await client.submit("image2video", model=model, prompt="size=5000", image=image)
        answer = await client.done(made["task_id"], "image2video")
        assert _digest(await fetch(house, answer["url"])) == pattern_sha256(5000)


# ---------------------------------------------------------------- lists and aliases


async def test_the_list_pages_by_number_and_kind(held: House, stepped: Client) -> None:
    image = base64.b64encode(_SMALL).decode()
    texts = {(await stepped.submit(model=m, prompt="cat"))["task_id"] for m, _ in _MODELS}
    other = await stepped.submit("image2video", model="sora-2", prompt="cat", image=image)

    async def page(query: str, kind: str = "text2video") -> list[str]:
        status, answer = await stepped.call("GET", f"/{kind}{query}")
        assert (status, answer["code"]) == (200, 0)
        assert all(task["task_status"] == "submitted" for task in answer["data"])
        return [task["task_id"] for task in answer["data"]]

    listed = await page("")
    assert (len(listed), set(listed)) == (3, texts)
    assert await page("?pageNum=1&pageSize=2") == listed[:2]
    assert await page("?pageNum=2&pageSize=2") == listed[2:]
    assert await page("?pageNum=3&pageSize=2") == []
    assert await page("", "image2video") == [other["task_id"]]
    line = await held.line(lambda line: line["operation"] == "list")
    assert (line["dialect"], line["status"], line["reason"]) == ("kling", 200, "done")
    status, answer = await stepped.call("GET", "/text2video?pageSize=501")
    assert (status, answer["code"], answer["error"]["param"]) == (400, 1201, "pageSize")


async def test_an_external_task_id_is_the_tokens_own_and_used_once(
    held: House, stepped: Client
) -> None:
    made = await stepped.submit(model="kling-v2-6", prompt="cat", external_task_id="once")
    body: dict[str, object] = {"model": "kling-v2-6", "prompt": "x", "external_task_id": "once"}
    status, answer = await stepped.call("POST", "/text2video", body)
    assert (status, answer["code"]) == (400, 1201)
    assert answer["error"]["param"] == "external_task_id"
    assert held.sim.submits("kling") == 1
    stranger = await held.new_token()
    stepped.access_key, stepped.secret_key = stranger.record.id, stranger.secret_key
    for reference in ("once", made["task_id"], "nonsense"):
        status, answer = await stepped.call("GET", f"/text2video/{reference}")
        assert (status, answer["code"]) == (404, 1203)
        assert "data" not in answer
    theirs = await stepped.submit(model="kling-v2-6", prompt="cat", external_task_id="once")
    assert (await stepped.get("once"))["data"]["task_id"] == theirs["task_id"]


# ---------------------------------------------------------------- who may not


def _unsigned(client: Client) -> str:
    """`alg: none`, which PyJWT makes on request: a forger needs no key."""
    now = int(time.time())
    claims = {"iss": client.access_key, "exp": now + 1800, "nbf": now - 5}
    return jwt.encode(claims, None, algorithm="none")


def _signed_otherwise(client: Client) -> str:
    """HS512: right key, another algorithm."""
    now = int(time.time())
    claims = {"iss": client.access_key, "exp": now + 1800, "nbf": now - 5}
    return jwt.encode(claims, client.secret_key * 2, algorithm="HS512")


def _relabelled(client: Client) -> str:
    """`alg: none` in the header, yet with a good HS256 signature below it."""
    head = base64.urlsafe_b64encode(json.dumps({"alg": "none"}).encode()).rstrip(b"=")
    signed = head + b"." + client.token().split(".")[1].encode()
    mac = hmac.digest(client.secret_key.encode(), signed, "sha256")
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


@pytest.mark.parametrize("base", _BASES)
async def test_tokens_are_refused_with_klings_own_codes(
    house: House, client: Client, base: str
) -> None:
    client.base = base
    good = client.token()
    body = good.rsplit(".", 1)[0]
    stranger = Client(house, client.session)
    stranger.access_key = "aaaaaaaaaaaaaaaa"
    forger = Client(house, client.session)
    forger.secret_key = "x" * 43
    table = {
        "no header": ("", 1001),
        "an empty bearer": ("Bearer ", 1001),
        "another scheme": ("Token abc", 1002),
        "no key of any kind": ("Bearer not-a-key", 1002),
        "expired": (f"Bearer {client.token(valid_for_s=-90)}", 1004),
        "not valid yet": (f"Bearer {client.token(valid_from_s=120)}", 1003),
        "wrong secret": (f"Bearer {forger.token()}", 1000),
        "unknown access key": (f"Bearer {stranger.token()}", 1002),
        "an unreadable end": (f"Bearer {client.token(exp='soon')}", 1002),
        "no signature": (f"Bearer {body}.", 1002),
        "alg none": (f"Bearer {_unsigned(client)}", 1002),
        "alg none with a signature": (f"Bearer {_relabelled(client)}", 1002),
        "alg HS512": (f"Bearer {_signed_otherwise(client)}", 1002),
        "a stranger's key": ("Bearer rw_aaaaaaaaaaaaaaaa_" + "A" * 43, 1002),
    }
    for name, (authorization, code) in table.items():
        for method, path in (("POST", "/text2video"), ("GET", "/text2video/1")):
            sent: dict[str, object] = {"model": "kling-v2-6", "prompt": "cat"}
            status, answer = await client.call(
                method, path, sent if method == "POST" else None, authorization
            )
            assert (status, answer["code"]) == (401, code), (name, answer)
            assert answer.keys() == {"code", "message", "request_id", "error"}
            assert answer["error"]["code"] == "invalid_api_key"
    assert {(line["dialect"], line["status"], line["reason"]) for line in house.lines} == {
        ("kling", 401, "invalid_api_key")
    }
    assert house.sim.submits("kling") == 0
    assert (await client.call("GET", "/text2video", authorization=f"Bearer {good}"))[0] == 200


async def test_a_clock_a_little_off_is_forgiven(client: Client) -> None:
    for token in (client.token(valid_for_s=-20), client.token(valid_from_s=20)):
        status, _ = await client.call("GET", "/text2video", authorization=f"Bearer {token}")
        assert status == 200


# ---------------------------------------------------------------- what is refused


async def test_broken_fields_and_moderation_have_their_codes_and_cost_nothing(
    house: House, client: Client
) -> None:
    image = base64.b64encode(_SMALL).decode()
    table: tuple[tuple[str, dict[str, object], tuple[int, int], str | None], ...] = (
        ("text2video", {"prompt": ""}, (400, 1201), "prompt"),
        ("text2video", {"prompt": "x" * 2501}, (400, 1201), "prompt"),
        ("text2video", {"duration": "soon"}, (400, 1201), "duration"),
        ("text2video", {"duration": "11"}, (400, 1201), "duration"),
        ("text2video", {"n": 2}, (400, 1201), "n"),
        ("text2video", {"sound": "loud"}, (400, 1201), "sound"),
        ("text2video", {"width": 1280}, (400, 1201), "height"),
        ("text2video", {"callback_url": "ftp://x"}, (400, 1201), "callback_url"),
        ("text2video", {"model_name": "kling-v9"}, (404, 1203), "model_name"),
        ("image2video", {}, (400, 1201), "image"),
        ("image2video", {"image": "!!!"}, (400, 1201), "image"),
        (
            "image2video",
            {"model_name": "sora-2", "image": image, "image_tail": image},
            (400, 1201),
            "image_tail",
        ),
        (
            "text2video",
            {"model_name": "jimeng_t2v_v30", "camera_control": {"type": "down_back"}},
            (400, 1201),
            "camera_control",
        ),
        ("text2video", {"prompt": "a forbidden-prompt"}, (400, 1301), None),
        (
            "text2video",
            {"model_name": "sora-2", "prompt": "a forbidden-prompt"},
            (400, 1301),
            None,
        ),
        (
            "text2video",
            {"model_name": "jimeng_t2v_v30", "prompt": "a forbidden-prompt"},
            (400, 1301),
            None,
        ),
    )
    for kind, change, told, param in table:
        body: dict[str, object] = {"model_name": "kling-v2-6", "prompt": "cat", **change}
        status, answer = await client.call("POST", f"/{kind}", body)
        assert (status, answer["code"]) == told, (change, answer)
        assert answer["error"]["param"] == param, (change, answer)
        line = await house.line(lambda line: line["request_id"] == answer["request_id"])  # noqa: B023
        assert (line["operation"], line["reason"]) == ("create", answer["error"]["code"])
    assert sum(house.sim.renders(service) for _, service in _MODELS) == 0


async def test_an_unknown_endpoint_is_klings_invalid_method(client: Client) -> None:
    client.base = "/kling/v1/videos"
    status, answer = await client.call("POST", "/lip-sync", {"input": {}})
    assert (status, answer["code"]) == (404, 1202)
    status, answer = await client.call("DELETE", "/text2video/1")
    assert (status, answer["code"]) == (405, 1202)
