"""The official volcengine SDK, unmodified, against the gateway in front of every provider.

It signs with the access-key pair of a token, at `/` and (with its ApiInfo replaced) at `/jimeng/`.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import pytest

from proxy.sim import pattern, pattern_sha256
from tests.rig.house import House, OpenHouse, Plan

with pytest.MonkeyPatch.context() as _no_home:
    # At import it reads keys from the environment and ~/.volc; ours must win.
    _no_home.delenv("VOLC_ACCESSKEY", raising=False)
    from volcengine.ApiInfo import ApiInfo
    from volcengine.visual.VisualService import VisualService
    from volcenginesdkcore import ApiClient, Configuration, UniversalApi, UniversalInfo
    from volcenginesdkcore.rest import ApiException

if TYPE_CHECKING:
    from tests.sdk.conftest import Moved, OneRender

_ACTIONS = ("CVSync2AsyncSubmitTask", "CVSync2AsyncGetResult")
_MODELS = (("jimeng_t2v_v30", "jimeng"), ("kling-v2-6", "kling"), ("sora-2", "openai"))
_SMALL = b"\x89PNG\r\n\x1a\n" + pattern(8, 5000)
_LARGE = b"\x89PNG\r\n\x1a\n" + pattern(8, 400_001)
_WAIT_S = 20.0  # only a hang gets here

Sdk = Callable[..., VisualService]
Fetch = Callable[["House", str], Awaitable[bytes]]


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    """`sdk(house, path)`. It is a singleton: every call sets all it needs."""
    service = VisualService()

    def point(house: House, path: str = "/") -> VisualService:
        service.set_scheme("http")
        service.set_host(urlsplit(house.url).netloc)
        service.set_ak(house.made.record.id)
        service.set_sk(house.made.secret_key)
        for action in _ACTIONS:
            old = service.api_info[action]
            service.api_info[action] = ApiInfo("POST", path, old.query, old.form, old.header)
        return service

    yield point
    service.session.close()


async def _submit(visual: VisualService, **form: object) -> str:
    answer = await asyncio.to_thread(visual.cv_sync2async_submit_task, form)
    plain = {"code", "data", "message", "request_id", "status", "time_elapsed"}
    assert answer.keys() == plain | {"ResponseMetadata", "Result"}
    assert answer["Result"] == answer["data"]
    assert (answer["code"], answer["status"], answer["message"]) == (10000, 10000, "Success")
    assert answer["data"].keys() == {"task_id"}
    return cast("str", answer["data"]["task_id"])


async def _result(visual: VisualService, task_id: str, req_key: str = "any") -> dict[str, Any]:
    form = {"req_key": req_key, "task_id": task_id, "req_json": '{"aigc_meta": {}}'}
    answer = await asyncio.to_thread(visual.cv_sync2async_get_result, form)
    assert (answer["code"], answer["status"], answer["message"]) == (10000, 10000, "Success")
    return cast("dict[str, Any]", answer["data"])


async def _done(visual: VisualService, task_id: str) -> dict[str, Any]:
    async with asyncio.timeout(_WAIT_S):
        while True:
            data = await _result(visual, task_id)
            if data["status"] == "done":
                return data
            assert data["status"] in ("in_queue", "generating")
            await asyncio.sleep(0.01)


async def _refusal(call: Callable[..., object], form: dict[str, object]) -> dict[str, Any]:
    """What the SDK raises has the native body as Python's text of bytes: b'…'."""
    with pytest.raises(Exception, match=r"^b['\"]") as caught:
        await asyncio.to_thread(call, form)
    body = json.loads(ast.literal_eval(str(caught.value)))
    assert body.keys() >= {"code", "data", "message", "request_id", "status", "error"}
    assert (body["data"], body["status"]) == (None, body["code"])
    return cast("dict[str, Any]", body)


# ---------------------------------------------------------------- submit, poll, download


@pytest.mark.parametrize("path", ["/", "/jimeng/"])
async def test_submit_poll_and_download_on_every_provider(
    house: House, sdk: Sdk, one_render: OneRender, fetch: Fetch, path: str
) -> None:
    visual = sdk(house, path)
    for model, service in _MODELS:
        prompt = f"千军万马 {model}, size=700001"
        task_id = await _submit(visual, req_key=model, prompt=prompt)
        data = await _done(visual, task_id)
        assert data.keys() == {"aigc_meta_tagged", "status", "video_url"}
        file = await fetch(house, data["video_url"])
        assert hashlib.sha256(file).hexdigest() == pattern_sha256(700_001)
        entry = await one_render(house, service, task_id, dialect="jimeng")
        assert entry.body["prompt"] == prompt
        line = await house.line(
            lambda line: line["operation"] == "get" and line["task_id"] == task_id  # noqa: B023
        )
        assert (line["dialect"], line["status"], line["reason"]) == ("jimeng", 200, "done")
        line = await house.line(
            lambda line: line["operation"] == "content" and line["task_id"] == task_id  # noqa: B023
        )
        assert (line["status"], line["reason"], line["bytes"]) == (200, "done", 700_001)
        assert "token" not in line
    assert {line["path"] for line in house.lines if line["operation"] == "create"} == {path}


async def test_every_state_has_jimengs_own_word(held: House, sdk: Sdk, moved: Moved) -> None:
    visual = sdk(held)
    for model, _ in _MODELS:
        task_id = await _submit(visual, req_key=model, prompt="cat")
        assert await _result(visual, task_id) == {"status": "in_queue"}
        await moved(held, task_id, "in_progress")
        assert await _result(visual, task_id) == {"status": "generating"}
        await moved(held, task_id, "completed")
        assert (await _result(visual, task_id))["status"] == "done"
        assert await _result(visual, task_id) == await _result(visual, task_id)


async def test_a_jimeng_upstream_gets_what_its_client_wrote(
    held: House, sdk: Sdk, one_render: OneRender
) -> None:
    form: dict[str, object] = {
        "req_key": "jimeng_t2v_v30",
        "prompt": "cat",
        "seed": 7,
        "frames": 241,
        "aspect_ratio": "21:9",
        "a_field_of_next_year": {"deep": [1, 2.5, "x"]},
    }
    task_id = await _submit(sdk(held), **form)
    entry = await one_render(held, "jimeng", task_id, dialect="jimeng")
    assert entry.body == form


async def test_frames_and_shape_are_fitted_to_other_providers(
    open_house: OpenHouse,
    free_port: int,
    sdk: Sdk,
) -> None:
    """121 frames are 5 seconds: Kling renders them, Sora the next length up it has."""
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
    form = {"prompt": "cat", "frames": 121, "aspect_ratio": "9:16"}
    async with open_house(fitted) as house:
        visual = sdk(house)
        await _submit(visual, req_key="kling-v2-6", **form)
        await _submit(visual, req_key="sora-fitted", **form)
        (kling,) = house.sim.log.select("kling", "submit")
        (sora,) = house.sim.log.select("openai", "submit")
    assert (kling.body["duration"], kling.body["aspect_ratio"]) == ("5", "9:16")
    assert (sora.body["seconds"], sora.body["size"]) == ("8", "720x1280")


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(("model", "service"), [*_MODELS, ("jimeng_i2v_first_v30", "jimeng")])
async def test_base64_pictures_arrive_byte_for_byte(
    open_house: OpenHouse,
    sdk: Sdk,
    one_render: OneRender,
    model: str,
    service: str,
) -> None:
    routes = '[[routes]]\nmodel = "jimeng_i2v_*"\nupstream = "sim-jimeng"\n'
    async with open_house(Plan(manual=True, routes=routes)) as house:
        for picture in (_SMALL, _LARGE):
            inline = base64.b64encode(picture).decode()
            task_id = await _submit(
                sdk(house), req_key=model, prompt="cat", binary_data_base64=[inline]
            )
            entry = await one_render(house, service, task_id, dialect="jimeng")
            (upload,) = entry.uploads
            seen = (upload.size, upload.sha256)
            assert seen == (len(picture), hashlib.sha256(picture).hexdigest())
            if service == "jimeng":
                assert entry.body["req_key"] == "jimeng_i2v_first_v30"


async def test_a_first_and_a_last_frame_keep_their_order(
    held: House, sdk: Sdk, one_render: OneRender
) -> None:
    pictures = [_SMALL, _LARGE]
    inline = [base64.b64encode(picture).decode() for picture in pictures]
    visual = sdk(held)
    for model, service in _MODELS[:2]:
        task_id = await _submit(visual, req_key=model, prompt="cat", binary_data_base64=inline)
        entry = await one_render(held, service, task_id, dialect="jimeng")
        assert [u.sha256 for u in entry.uploads] == [
            hashlib.sha256(picture).hexdigest() for picture in pictures
        ]
    call = visual.cv_sync2async_submit_task
    form: dict[str, object] = {
        "req_key": "sora-2",
        "prompt": "cat",
        "binary_data_base64": inline,
    }
    body = await _refusal(call, form)
    assert (body["code"], body["error"]["param"]) == (50200, "binary_data_base64")
    assert held.sim.renders("openai") == 0


async def test_picture_addresses_go_on_as_they_came(
    held: House, sdk: Sdk, one_render: OneRender
) -> None:
    place = "https://pictures.example/千.png?a=1&b=%20"
    expected = {
        "jimeng": ("image_urls", [place]),
        "kling": ("image", place),
        "openai": ("input_reference", {"image_url": place}),
    }
    for model, service in _MODELS:
        task_id = await _submit(sdk(held), req_key=model, prompt="cat", image_urls=[place])
        entry = await one_render(held, service, task_id, dialect="jimeng")
        field, value = expected[service]
        assert entry.body[field] == value


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("path", ["/", "/jimeng/"])
@pytest.mark.parametrize(
    ("key", "value", "code", "number"),
    [
        ("sk", "wrong", "SignatureDoesNotMatch", 100010),
        ("ak", "AKLTNOBODY", "InvalidAccessKey", 100009),
        ("ak", "aaaaaaaaaaaaaaaa", "InvalidAccessKey", 100009),
    ],
)
async def test_wrong_keys_are_the_vendors_gateway_error(
    house: House, sdk: Sdk, path: str, key: str, value: str, code: str, number: int
) -> None:
    visual = sdk(house, path)
    getattr(visual, f"set_{key}")(value)
    for call in (visual.cv_sync2async_submit_task, visual.cv_sync2async_get_result):
        body = await _refusal(call, {"req_key": "jimeng_t2v_v30", "prompt": "x", "task_id": "1"})
        told = body["ResponseMetadata"]
        assert (told["Error"]["Code"], told["Error"]["CodeN"]) == (code, number)
        assert told["RequestId"] == body["request_id"]
        line = await house.line(lambda line: line["request_id"] == body["request_id"])  # noqa: B023
        assert (line["dialect"], line["status"], line["reason"]) == (
            "jimeng",
            401,
            "invalid_api_key",
        )
    assert house.sim.submits("jimeng") == 0


async def test_broken_fields_and_moderation_have_their_codes_and_cost_nothing(
    house: House, sdk: Sdk
) -> None:
    call = sdk(house).cv_sync2async_submit_task
    image = base64.b64encode(_SMALL).decode()
    table: tuple[tuple[dict[str, object], int, str, str | None], ...] = (
        ({"prompt": ""}, 50200, "invalid_value", "prompt"),
        ({"prompt": "x" * 801}, 50200, "invalid_value", "prompt"),
        ({"frames": 500}, 50200, "invalid_value", "frames"),
        ({"seed": -2}, 50200, "invalid_value", "seed"),
        ({"req_key": "jimeng_t2v_v99"}, 50400, "model_not_found", "req_key"),
        ({"binary_data_base64": "!!!"}, 50200, "invalid_value", "binary_data_base64"),
        (
            {"image_urls": ["https://a.example/b.png"], "binary_data_base64": [image]},
            50200,
            "invalid_value",
            "binary_data_base64",
        ),
        ({"image_urls": ["file:///etc/passwd"]}, 50200, "invalid_value", "image_urls"),
        ({"prompt": "a forbidden-prompt"}, 50412, "moderation_blocked", None),
        (
            {"req_key": "kling-v2-6", "prompt": "a forbidden-prompt"},
            50412,
            "moderation_blocked",
            None,
        ),
        ({"req_key": "sora-2", "prompt": "a forbidden-prompt"}, 50412, "moderation_blocked", None),
    )
    for change, number, code, param in table:
        body = await _refusal(call, {"req_key": "jimeng_t2v_v30", "prompt": "cat", **change})
        error = body["error"]
        assert (body["code"], error["code"], error["param"]) == (number, code, param), change
        line = await house.line(lambda line: line["request_id"] == body["request_id"])  # noqa: B023
        assert (line["operation"], line["reason"]) == ("create", code)
    assert sum(house.sim.renders(service) for _, service in _MODELS) == 0


async def test_an_unknown_and_a_foreign_task_are_not_found(held: House, sdk: Sdk) -> None:
    """A success that says so, as the vendor has it: clients poll by it."""
    visual = sdk(held)
    mine = await _submit(visual, req_key="jimeng_t2v_v30", prompt="cat")
    unknown = ["7392616336519610409", mine[:-6] + "abcdef", "nonsense"]
    for task_id in unknown:
        assert await _result(visual, task_id) == {"status": "not_found"}
    stranger = await held.new_token()
    visual.set_ak(stranger.record.id)
    visual.set_sk(stranger.secret_key)
    assert await _result(visual, mine) == {"status": "not_found"}
    lines = [line for line in held.lines if line["operation"] == "get"]
    assert [(line["status"], line["reason"]) for line in lines] == [(200, "not_found")] * 4


@pytest.mark.parametrize(
    ("model", "code", "number", "reason"),
    [
        ("jimeng_t2v_v30", 50511, 50511, "moderation_blocked"),
        ("kling-v2-6", 1301, 50516, "moderation_blocked"),
        ("sora-2", None, 50500, "upstream_error"),
    ],
)
async def test_a_failed_render_raises_with_its_code(
    held: House,
    sdk: Sdk,
    moved: Moved,
    model: str,
    code: int | None,
    number: int,
    reason: str,
) -> None:
    visual = sdk(held)
    task_id = await _submit(visual, req_key=model, prompt="cat")
    await moved(held, task_id, "failed", code)
    call = visual.cv_sync2async_get_result
    body = await _refusal(call, {"req_key": model, "task_id": task_id})
    assert (body["code"], body["error"]["code"]) == (number, reason)
    assert body["message"]


async def test_the_documented_bearer_token_works_where_the_signature_does(
    house: House, sdk: Sdk, one_render: OneRender
) -> None:
    query = "Action=CVSync2AsyncSubmitTask&Version=2022-08-31"
    form = {"req_key": "jimeng_t2v_v30", "prompt": "cat"}
    reply = await house.post(f"/jimeng/?{query}", json=form)
    assert (reply.status, reply.json()["code"]) == (200, 10000)
    task_id = reply.json()["data"]["task_id"]
    assert (await _done(sdk(house), task_id))["video_url"]
    await one_render(house, "jimeng", task_id, dialect="jimeng")


async def test_the_universal_api_submits_and_asks(house: House) -> None:
    """volcengine-python-sdk's client for any API: it returns `Result`, and takes an answer without
    `ResponseMetadata` for a failure. A refusal raises, with the words in its body."""
    settings = Configuration()
    settings.ak, settings.sk = house.made.record.id, house.made.secret_key
    settings.region, settings.scheme = "cn-north-1", "http"
    settings.host = urlsplit(house.url).netloc
    settings.auto_retry = False
    api = UniversalApi(ApiClient(settings))

    async def call(action: str, **body: object) -> Any:
        info = UniversalInfo(
            method="POST",
            service="cv",
            version="2022-08-31",
            action=action,
            content_type="application/json",
        )
        return await asyncio.to_thread(api.do_call, info, body)

    submitted = await call(_ACTIONS[0], req_key="jimeng_t2v_v30", prompt="a cat")
    assert submitted.keys() == {"task_id"}
    asked = {"req_key": "jimeng_t2v_v30", "task_id": submitted["task_id"]}
    async with asyncio.timeout(_WAIT_S):
        while (found := await call(_ACTIONS[1], **asked))["status"] != "done":
            assert found["status"] in ("in_queue", "generating")
    assert found["video_url"].startswith("http")
    with pytest.raises(ApiException) as refused:
        await call(_ACTIONS[0], req_key="nobody has this", prompt="a cat")
    assert "nobody has this" in str(refused.value.body)
    assert house.sim.submits("jimeng") == 1
