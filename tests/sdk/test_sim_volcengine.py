"""The official volcengine SDK against the simulated Jimeng."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import aiohttp
import pytest
from volcengine.visual.VisualService import VisualService
from yarl import URL

from proxy.sim import Settings, Simulator

_PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)
_TEXT = {"req_key": "jimeng_t2v_v30", "prompt": "千军万马", "frames": 121, "aspect_ratio": "16:9"}


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(Settings(manual=True, seed=1)) as simulator:
        yield simulator


@pytest.fixture
def visual(sim: Simulator) -> Iterator[VisualService]:
    """It is a singleton: every test sets all it needs, and closes its connections."""
    service = VisualService()
    service.set_scheme("http")
    service.set_host(urlsplit(sim.jimeng_url).netloc)
    service.set_ak(sim.credentials["jimeng"]["access_key"])
    service.set_sk(sim.credentials["jimeng"]["secret_key"])
    yield service
    service.session.close()


async def _submit(visual: VisualService, form: dict[str, object]) -> dict[str, object]:
    answer = await asyncio.to_thread(visual.cv_sync2async_submit_task, form)
    assert isinstance(answer, dict)
    return answer


async def _result(
    visual: VisualService, task_id: object, req_key: str = "jimeng_t2v_v30"
) -> dict[str, object]:
    form = {"req_key": req_key, "task_id": task_id}
    answer = await asyncio.to_thread(visual.cv_sync2async_get_result, form)
    assert isinstance(answer, dict)
    return answer


def _task_id(answer: dict[str, object]) -> str:
    data = answer["data"]
    assert isinstance(data, dict)
    task_id = data["task_id"]
    assert isinstance(task_id, str)
    return task_id


async def test_submit_poll_and_download(sim: Simulator, visual: VisualService) -> None:
    answer = await _submit(visual, _TEXT)
    assert (answer["code"], answer["status"], answer["message"]) == (10000, 10000, "Success")
    task_id = _task_id(answer)
    assert len(task_id) == 19
    assert (await _result(visual, task_id))["data"] == {"status": "in_queue"}
    sim.step(task_id, "in_progress")
    assert (await _result(visual, task_id))["data"] == {"status": "generating"}
    sim.finish(task_id)
    done = (await _result(visual, task_id))["data"]
    assert isinstance(done, dict)
    assert (done["status"], done["aigc_meta_tagged"]) == ("done", False)
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(done["video_url"], encoded=True)) as video,
    ):
        assert (video.status, video.content_type) == (200, "video/mp4")
        assert (await video.read())[4:8] == b"ftyp"
    assert sim.submits("jimeng") == sim.renders("jimeng") == 1
    assert sim.log.select("jimeng", "submit")[0].body["prompt"] == "千军万马"


async def test_images_arrive_byte_for_byte(sim: Simulator, visual: VisualService) -> None:
    image = base64.b64encode(_PNG).decode()
    form = {"req_key": "jimeng_i2v_first_tail_v30", "binary_data_base64": [image, image]}
    await _submit(visual, {**form, "prompt": "cat"})
    uploads = sim.log.select("jimeng", "submit")[0].uploads
    assert [upload.sha256 for upload in uploads] == [hashlib.sha256(_PNG).hexdigest()] * 2


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [("sk", "wrong", "SignatureDoesNotMatch"), ("ak", "AKLTNOBODY", "InvalidAccessKey")],
)
async def test_wrong_keys_are_the_gateways_error(
    sim: Simulator, visual: VisualService, key: str, value: str, code: str
) -> None:
    getattr(visual, f"set_{key}")(value)
    with pytest.raises(Exception, match="ResponseMetadata") as caught:
        await _submit(visual, _TEXT)
    assert code in str(caught.value)
    assert sim.log.select("jimeng", "submit")[0].status == 401
    assert sim.renders("jimeng") == 0


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"req_key": "jimeng_t2v_v99"}, 50400),
        ({"prompt": ""}, 50200),
        ({"prompt": "x" * 801}, 50200),
        ({"prompt": "a forbidden-prompt"}, 50412),
        ({"frames": 120}, 50200),
        ({"frames": "121"}, 50200),
        ({"seed": -2}, 50200),
        ({"aspect_ratio": "2:1"}, 50200),
        ({"image_urls": ["https://a/b.png"]}, 50200),
        ({"req_key": "jimeng_i2v_first_v30"}, 50200),
        ({"req_key": "jimeng_i2v_first_v30", "image_urls": ["file:///etc"]}, 50200),
        (
            {
                "req_key": "jimeng_i2v_first_v30",
                "image_urls": ["https://a/b.png"],
                "binary_data_base64": ["aaaa"],
            },
            50200,
        ),
        (
            {
                "req_key": "jimeng_i2v_first_v30",
                "binary_data_base64": ["data:image/png;base64,iVBORw0KGgo="],
            },
            50200,
        ),
        ({"req_key": "jimeng_i2v_recamera_v30", "image_urls": ["https://a/b.png"]}, 50200),
        ({"req_key": "jimeng_vgfm_t2v_l20"}, 50200),
    ],
)
async def test_a_broken_field_is_refused_with_its_code(
    sim: Simulator, visual: VisualService, change: dict[str, object], code: int
) -> None:
    with pytest.raises(Exception, match=f'"code":{code},"data":null'):
        await _submit(visual, {**_TEXT, **change})
    assert sim.log.select("jimeng", "submit")[0].status == 400
    assert sim.renders("jimeng") == 0


async def test_another_req_key_or_id_is_not_found(sim: Simulator, visual: VisualService) -> None:
    task_id = _task_id(await _submit(visual, _TEXT))
    wrong = await _result(visual, task_id, "jimeng_t2v_v30_1080p")
    assert (wrong["code"], wrong["data"]) == (10000, {"status": "not_found"})
    assert (await _result(visual, "7392616336519610409"))["data"] == {"status": "not_found"}
    sim.forget(task_id)
    assert (await _result(visual, task_id))["data"] == {"status": "not_found"}


async def test_a_failed_render_has_a_code_and_no_data(
    sim: Simulator, visual: VisualService
) -> None:
    task_id = _task_id(await _submit(visual, _TEXT))
    sim.fail(task_id, 50511)
    with pytest.raises(Exception, match='"code":50511,"data":null') as caught:
        await _result(visual, task_id)
    assert "Post Img Risk Not Pass" in str(caught.value)
