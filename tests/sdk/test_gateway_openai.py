"""The official openai SDK, unmodified, against the gateway in front of every provider."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import openai
import pytest
from openai.types import Video
from yarl import URL

from proxy.sim import Entry, Fault, pattern, pattern_sha256
from tests.rig.house import House, OpenHouse, Plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sdk.conftest import Moved, OneRender


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*permanently shut down:DeprecationWarning",
    "ignore:.*deprecated:DeprecationWarning",
)
_PNG = b"\x89PNG\r\n\x1a\n"
_SMALL = _PNG + pattern(8, 5000)
_LARGE = _PNG + pattern(8, 700_001)  # above what the spool keeps in memory; no multiple of 3
_FILM = pattern(0, 300_000)
_CLIP = Path(__file__).parents[2] / "proxy" / "sim" / "assets" / "clip.mp4"
_QUICK: dict[str, Any] = {"poll_interval_ms": 20}

MODELS = (("sora-2", "openai"), ("sora-2-on-kling", "kling"), ("sora-2-on-jimeng", "jimeng"))


def _sdk(house: House, key: str | None = None, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{house.url}/v1", api_key=key or house.token, **options)


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with _sdk(house) as client:
        yield client


@pytest.fixture
def stepped(held: House) -> Iterator[openai.OpenAI]:
    with _sdk(held) as client:
        yield client


@pytest.fixture
async def concurrent(house: House) -> AsyncIterator[openai.AsyncOpenAI]:
    base_url = f"{house.url}/v1"
    async with openai.AsyncOpenAI(base_url=base_url, api_key=house.token) as client:
        yield client


def _renders(house: House) -> int:
    return sum(house.sim.renders(name) for _, name in MODELS)


# ---------------------------------------------------------------- create, poll, download


@pytest.mark.parametrize(
    ("model", "service", "given", "told", "received"),
    [
        (
            "sora-2",
            "openai",
            ("4", "720x1280"),
            None,
            {"model": "sora-2", "seconds": "4", "size": "720x1280"},
        ),
        (
            "sora-2-on-kling",
            "kling",
            ("5", "720x1280"),
            "seconds=4>5",
            {"model_name": "kling-v2-6", "duration": "5", "aspect_ratio": "9:16", "mode": "std"},
        ),
        (
            "sora-2-on-jimeng",
            "jimeng",
            ("5", "704x1248"),
            "seconds=4>5,size=720x1280>704x1248",
            {"req_key": "jimeng_t2v_v30", "frames": 121, "aspect_ratio": "9:16"},
        ),
    ],
)
async def test_sora_code_runs_on_every_provider_and_hears_what_was_fitted(
    house: House,
    client: openai.OpenAI,
    one_render: OneRender,
    model: str,
    service: str,
    given: tuple[str, str],
    told: str | None,
    received: dict[str, object],
) -> None:
    """The same call renders once wherever it goes, says what came out otherwise than asked, and
    the file arrives whole."""
    raw = await asyncio.to_thread(
        client.videos.with_raw_response.create,
        model=model,
        prompt="A calico cat 千军万马, size=1500000",
        seconds="4",
        size="720x1280",
    )
    assert raw.headers.get("reelway-adjusted") == told
    assert "reelway-dropped" not in raw.headers
    made = raw.parse()
    assert (made.object, made.status, made.model, made.progress) == ("video", "queued", model, 0)
    assert (made.seconds, made.size) == given
    assert (made.error, made.completed_at, made.remixed_from_video_id) == (None, None, None)

    video = await asyncio.to_thread(client.videos.poll, made.id, **_QUICK)
    assert (video.id, video.status, video.progress) == (made.id, "completed", 100)
    assert video.prompt == "A calico cat 千军万马, size=1500000"
    assert video.size == given[1]
    assert video.created_at == made.created_at
    assert video.completed_at is not None
    assert video.expires_at is not None
    assert video.created_at <= video.completed_at < video.expires_at

    content = await asyncio.to_thread(client.videos.download_content, video.id)
    data = await asyncio.to_thread(content.read)
    assert len(data) == 1_500_000
    assert hashlib.sha256(data).hexdigest() == pattern_sha256(1_500_000)
    assert content.response.headers["content-type"] == "video/mp4"

    entry = await one_render(house, service, video.id)
    assert {name: entry.body[name] for name in received} == received
    line = await house.line(lambda line: line["operation"] == "content")
    assert (line["status"], line["reason"], line["bytes"]) == (200, "done", 1_500_000)
    assert (line["task_id"], line["upstream"]) == (video.id, f"sim-{service}")


async def test_create_and_poll_with_the_sdks_own_pace_and_defaults(
    house: House, client: openai.OpenAI, one_render: OneRender
) -> None:
    async def run(model: str) -> str:
        video = await asyncio.to_thread(client.videos.create_and_poll, model=model, prompt="cat")
        assert (video.status, video.error) == ("completed", None)
        content = await asyncio.to_thread(client.videos.download_content, video.id)
        assert content.content == _CLIP.read_bytes()
        return video.id

    made = await asyncio.gather(*(run(model) for model, _ in MODELS))
    for task_id, (_, service) in zip(made, MODELS, strict=True):
        await one_render(house, service, task_id)


async def test_a_client_that_names_no_model_gets_the_default(
    house: House, client: openai.OpenAI, one_render: OneRender
) -> None:
    video = await asyncio.to_thread(client.videos.create, prompt="a cat")
    assert video.model == "sora-2"
    await one_render(house, "openai", video.id)


async def test_the_async_client_does_the_same_side_by_side(
    house: House, concurrent: openai.AsyncOpenAI, one_render: OneRender
) -> None:
    videos = concurrent.videos

    async def run(model: str) -> str:
        video = await videos.create_and_poll(model=model, prompt="cat, size=300001", **_QUICK)
        assert video.status == "completed"
        digest = hashlib.sha256()
        async with videos.with_streaming_response.download_content(video.id) as response:
            async for chunk in response.iter_bytes(40_000):
                digest.update(chunk)
        assert digest.hexdigest() == pattern_sha256(300_001)
        return video.id

    made = await asyncio.gather(*(run(model) for model, _ in MODELS))
    for task_id, (_, service) in zip(made, MODELS, strict=True):
        await one_render(house, service, task_id)
    assert {v.id async for v in videos.list(limit=2)} == set(made)


@pytest.mark.parametrize(("model", "service"), MODELS)
async def test_a_streamed_download_comes_in_pieces_and_whole(
    house: House, client: openai.OpenAI, tmp_path: Path, model: str, service: str
) -> None:
    size = 6_000_007
    task_id = await house.completed(model, f"cat, size={size}")

    def stream() -> tuple[int, str]:
        digest, pieces = hashlib.sha256(), 0
        with client.videos.with_streaming_response.download_content(task_id) as response:
            assert response.headers["content-length"] == str(size)
            for chunk in response.iter_bytes(65_536):
                digest.update(chunk)
                pieces += 1
        return pieces, digest.hexdigest()

    assert await asyncio.to_thread(stream) == (-(-size // 65_536), pattern_sha256(size))
    path = tmp_path / "video.mp4"
    content = await asyncio.to_thread(client.videos.download_content, task_id)
    await asyncio.to_thread(content.write_to_file, path)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == pattern_sha256(size)
    assert house.sim.renders(service) == 1


async def test_variants_are_the_providers_own(house: House, client: openai.OpenAI) -> None:
    download = client.videos.download_content
    on_openai, on_kling = await house.completed(), await house.completed("sora-2-on-kling")
    picture = await asyncio.to_thread(download, on_openai, variant="thumbnail")
    assert (picture.response.headers["content-type"], picture.content[:4]) == (
        "image/webp",
        b"RIFF",
    )
    sheet = await asyncio.to_thread(download, on_openai, variant="spritesheet")
    assert sheet.response.headers["content-type"] == "image/jpeg"
    with pytest.raises(openai.BadRequestError, match="watermark") as caught:
        await asyncio.to_thread(download, on_kling, variant="thumbnail")
    assert caught.value.param == "variant"


# ---------------------------------------------------------------- pictures


def _file_of(entry: Entry) -> tuple[int, str]:
    (upload,) = entry.uploads
    return upload.size, upload.sha256


@pytest.mark.parametrize(
    ("model", "service", "field"),
    [
        ("sora-2", "openai", "input_reference"),
        ("sora-2-on-kling", "kling", "image"),
        ("sora-2-on-jimeng", "jimeng", "binary_data_base64"),
    ],
)
async def test_an_uploaded_picture_reaches_every_provider_byte_for_byte(
    held: House,
    stepped: openai.OpenAI,
    one_render: OneRender,
    model: str,
    service: str,
    field: str,
) -> None:
    for picture in (_SMALL, _LARGE):
        video = await asyncio.to_thread(
            stepped.videos.create,
            model=model,
            prompt="cat",
            input_reference=("cat.png", io.BytesIO(picture), "image/png"),
        )
        entry = await one_render(held, service, video.id)
        assert _file_of(entry) == (len(picture), hashlib.sha256(picture).hexdigest())
        (upload,) = entry.uploads
        assert upload.field == field
        if service == "openai":
            assert (upload.filename, upload.media_type) == ("cat.png", "image/png")
        if service == "kling":
            assert entry.target == "/v1/videos/image2video"
        if service == "jimeng":
            assert entry.body["req_key"] == "jimeng_i2v_first_v30"


async def test_raw_bytes_paths_and_data_urls_are_pictures_too(
    held: House, stepped: openai.OpenAI, one_render: OneRender, tmp_path: Path
) -> None:
    """The SDK sends raw bytes as `upload`, application/octet-stream."""
    path = tmp_path / "cat.png"
    path.write_bytes(_SMALL)
    inline = f"data:image/png;base64,{base64.b64encode(_SMALL).decode()}"
    ways: tuple[dict[str, Any], ...] = (
        {"input_reference": _SMALL},
        {"input_reference": path},
        {"extra_body": {"input_reference": {"image_url": inline}}},
    )
    for model, service in MODELS:
        for fields in ways:
            video = await asyncio.to_thread(
                stepped.videos.create, model=model, prompt="cat", **fields
            )
            entry = await one_render(held, service, video.id)
            assert _file_of(entry) == (len(_SMALL), hashlib.sha256(_SMALL).hexdigest())


_PLACE = "https://pictures.example/cat.png?a=1&b=%20"


@pytest.mark.parametrize(
    ("model", "service", "field", "value"),
    [
        ("sora-2", "openai", "input_reference", {"image_url": _PLACE}),
        ("sora-2-on-kling", "kling", "image", _PLACE),
        ("sora-2-on-jimeng", "jimeng", "image_urls", [_PLACE]),
    ],
)
async def test_a_pictures_address_goes_on_as_it_came(
    held: House,
    stepped: openai.OpenAI,
    one_render: OneRender,
    model: str,
    service: str,
    field: str,
    value: object,
) -> None:
    """As `input_reference[image_url]` in a form (the node SDK), and as JSON (`client.post`)."""
    reference = {"input_reference": {"image_url": _PLACE}}
    in_form = await asyncio.to_thread(
        stepped.videos.create, model=model, prompt="cat", extra_body=reference
    )
    in_json = await asyncio.to_thread(
        stepped.post,
        "/videos",
        cast_to=Video,
        body={"model": model, "prompt": "cat", **reference},
    )
    for video in (in_form, in_json):
        entry = await one_render(held, service, video.id)
        assert entry.body[field] == value
        assert not entry.uploads


# ---------------------------------------------------------------- what there is


@pytest.mark.parametrize(("model", "service"), MODELS)
async def test_retrieve_tells_each_state_and_never_another_word(
    held: House,
    stepped: openai.OpenAI,
    moved: Moved,
    one_render: OneRender,
    model: str,
    service: str,
) -> None:
    made = await asyncio.to_thread(stepped.videos.create, model=model, prompt="cat")
    retrieve = stepped.videos.retrieve
    assert (await asyncio.to_thread(retrieve, made.id)).status == "queued"
    await moved(held, made.id, "in_progress")
    seen = await asyncio.to_thread(retrieve, made.id)
    assert (seen.status, seen.completed_at, seen.error) == ("in_progress", None, None)
    await moved(held, made.id, "completed")
    seen = await asyncio.to_thread(retrieve, made.id)
    assert (seen.status, seen.progress) == ("completed", 100)
    assert seen.to_dict(mode="json").keys() == {
        *("id", "object", "model", "status", "progress", "created_at", "completed_at"),
        *("expires_at", "prompt", "size", "seconds", "remixed_from_video_id", "error"),
        "url",
    }
    await one_render(held, service, made.id)
    line = await held.line(lambda line: line["operation"] == "get")
    assert (line["dialect"], line["status"], line["reason"]) == ("openai", 200, "done")


async def test_the_list_pages_by_itself_through_everything_once(
    held: House, stepped: openai.OpenAI
) -> None:
    """23 videos with the default page of 20, newest first, and nobody else's among them."""
    stranger = await held.new_token()
    foreign = {"Authorization": f"Bearer {stranger.token}"}
    other = await held.post("/v1/videos", json={"prompt": "a dog"}, headers=foreign)
    made = set(await asyncio.gather(*(held.create(prompt=f"cat {n}") for n in range(23))))

    def listing(**options: Any) -> list[str]:
        return [video.id for video in stepped.videos.list(**options)]

    newest_first = await asyncio.to_thread(listing)
    assert (len(newest_first), set(newest_first)) == (23, made)
    assert other.json()["id"] not in made
    pages = [line for line in held.lines if line["operation"] == "list"]
    assert [(line["status"], line["reason"]) for line in pages] == [(200, "done")] * 2
    assert await asyncio.to_thread(listing, order="asc", limit=7) == newest_first[::-1]
    first = await asyncio.to_thread(stepped.videos.list, limit=5)
    assert [video.id for video in first.data] == newest_first[:5]
    assert (first.has_more, first.last_id) == (True, newest_first[4])
    after = await asyncio.to_thread(listing, after=newest_first[20])
    assert after == newest_first[21:]


async def test_videos_may_be_deleted_while_the_list_is_paged(
    held: House, stepped: openai.OpenAI
) -> None:
    made = {await held.create(prompt=f"cat {n}") for n in range(5)}

    def clear() -> set[str]:
        return {stepped.videos.delete(video.id).id for video in stepped.videos.list(limit=2)}

    assert await asyncio.to_thread(clear) == made
    assert await asyncio.to_thread(lambda: list(stepped.videos.list())) == []


async def test_a_deleted_video_is_gone(house: House, client: openai.OpenAI) -> None:
    task_id = await house.completed()
    gone = await asyncio.to_thread(client.videos.delete, task_id)
    assert (gone.id, gone.deleted, gone.object) == (task_id, True, "video.deleted")
    for call in (client.videos.retrieve, client.videos.download_content, client.videos.delete):
        with pytest.raises(openai.NotFoundError):
            await asyncio.to_thread(call, task_id)
    line = await house.line(lambda line: line["operation"] == "delete")
    assert (line["status"], line["reason"], line["task_id"]) == (200, "done", task_id)
    assert house.sim.submits("openai") == 1


async def test_a_model_says_what_it_renders(client: openai.OpenAI) -> None:
    """Beside OpenAI's own members, which the SDK reads as ever."""
    listed = await asyncio.to_thread(lambda: {m.id: m for m in client.models.list()})
    one = await asyncio.to_thread(client.models.retrieve, "sora-2-on-kling")
    assert (one.object, one.owned_by) == ("model", "reelway")
    assert one == listed["sora-2-on-kling"]
    assert one.model_extra is not None
    video = one.model_extra["video"]
    assert video["seconds"] == [5, 10]
    assert video["ratios"] == ["16:9", "9:16", "1:1"]
    assert video["inputs"] == {"first_frame": 1, "last_frame": 1}
    assert video["audio"] == "option"
    assert video["operations"] == ["create"]


async def test_models_are_those_the_key_may_use(house: House, client: openai.OpenAI) -> None:
    models = await asyncio.to_thread(lambda: [model.id for model in client.models.list()])
    assert {"sora-2", "sora-2-on-kling", "sora-2-on-jimeng"} <= set(models)
    narrow = await house.new_token(models=("sora-2-on-*",))
    with _sdk(house, narrow.token) as limited:
        models = await asyncio.to_thread(lambda: [model.id for model in limited.models.list()])
        assert set(models) == {"sora-2-on-kling", "sora-2-on-jimeng"}
        with pytest.raises(openai.NotFoundError) as caught:
            await asyncio.to_thread(limited.videos.create, model="sora-2", prompt="cat")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert _renders(house) == 0


_SLASHED = """
[[routes]]
model = "Wan-AI/Wan2.2"
upstream = "sim-openai"
"""


async def test_one_model_is_told_to_a_key_that_may_use_it(open_house: OpenHouse) -> None:
    """By the name a submit would use, a slash in it or not; else 404 says which there are."""
    async with open_house(Plan(routes=_SLASHED)) as house:
        narrow = await house.new_token(models=("Wan-AI/*", "sora-2-on-kling"))
        with _sdk(house, house.token) as client, _sdk(house, narrow.token) as limited:
            for name in ("sora-2", "Wan-AI/Wan2.2"):
                model = await asyncio.to_thread(client.models.retrieve, name)
                assert (model.id, model.object, model.owned_by) == (name, "model", "reelway")
            listed = await asyncio.to_thread(lambda: client.models.list().data)
            assert model in listed
            assert (await asyncio.to_thread(limited.models.retrieve, name)).id == name
            for asked, name in ((client, "gpt-6"), (limited, "sora-2"), (limited, "Wan-AI")):
                with pytest.raises(openai.NotFoundError) as caught:
                    await asyncio.to_thread(asked.models.retrieve, name)
                assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
                assert f"'{name}'" in caught.value.message
            assert "It may use: Wan-AI/Wan2.2, sora-2-on-kling." in caught.value.message


# ---------------------------------------------------------------- remix, edit, extend


async def test_remix_edit_and_extend_work_on_our_own_ids(
    house: House, client: openai.OpenAI
) -> None:
    """The upstream hears its own id of the source, the client only ours."""
    source = await house.completed(prompt="cat", seconds="8", size="1280x720")
    upstream_id = house.sim.log.select("openai", "submit")[0].task_id
    remix = await asyncio.to_thread(client.videos.remix, source, prompt="a dog")
    assert (remix.remixed_from_video_id, remix.prompt) == (source, "a dog")
    assert (remix.seconds, remix.size, remix.model) == ("8", "1280x720", "sora-2")
    (sent,) = house.sim.log.select("openai", "remix")
    assert (sent.target, sent.status) == (f"/v1/videos/{upstream_id}/remix", 200)
    assert sent.body == {"prompt": "a dog"}

    for path, extra in (("edits", {}), ("extensions", {"seconds": "4"})):
        made = await asyncio.to_thread(
            client.post,
            f"/videos/{path}",
            cast_to=object,
            body={"prompt": "a dog", "video": {"id": source}, **extra},
        )
        assert isinstance(made, dict)
        assert (made["status"], made["remixed_from_video_id"]) == ("queued", None)
        assert made["id"] != source
        operation = path.removesuffix("s").replace("extension", "extend")
        (sent,) = house.sim.log.select("openai", operation)
        assert sent.body == {"prompt": "a dog", "video": {"id": upstream_id}, **extra}
        done = await asyncio.to_thread(client.videos.poll, made["id"], **_QUICK)
        assert (done.status, done.size) == ("completed", "1280x720")
        line = await house.line(lambda line: line["operation"] == operation)  # noqa: B023
        assert (line["status"], line["reason"], line["task_id"]) == (200, "done", made["id"])
    assert house.sim.submits("openai") == house.sim.renders("openai") == 4


async def test_edit_and_extend_take_an_uploaded_film(held: House, stepped: openai.OpenAI) -> None:
    """Through the SDK's own methods, which upload the file."""
    film = ("film.mp4", io.BytesIO(_FILM), "video/mp4")
    edit = await asyncio.to_thread(stepped.videos.edit, prompt="a dog", video=film)
    film = ("film.mp4", io.BytesIO(_FILM), "video/mp4")
    extension = await asyncio.to_thread(
        stepped.videos.extend, prompt="a dog", seconds="8", video=film
    )
    assert (edit.status, extension.status, extension.seconds) == ("queued", "queued", "8")
    for operation in ("edit", "extend"):
        (entry,) = held.sim.log.select("openai", operation)
        assert _file_of(entry) == (len(_FILM), hashlib.sha256(_FILM).hexdigest())
        assert entry.uploads[0].field == "video"
    assert held.sim.submits("openai") == held.sim.renders("openai") == 2


@pytest.mark.parametrize(("model", "service"), MODELS[1:])
async def test_remix_where_the_provider_has_none_is_a_bad_request(
    house: House, client: openai.OpenAI, model: str, service: str
) -> None:
    source = await house.completed(model)
    with pytest.raises(openai.BadRequestError, match="create") as caught:
        await asyncio.to_thread(client.videos.remix, source, prompt="a dog")
    assert caught.value.code == "unsupported_operation"
    line = await house.line(lambda line: line["operation"] == "remix")
    assert (line["status"], line["reason"]) == (400, "unsupported_operation")
    assert house.sim.submits(service) == 1


async def test_a_remix_needs_a_finished_video_of_ones_own(
    held: House, stepped: openai.OpenAI
) -> None:
    source = await held.create()
    with pytest.raises(openai.BadRequestError, match="not completed"):
        await asyncio.to_thread(stepped.videos.remix, source, prompt="a dog")
    with pytest.raises(openai.NotFoundError):
        await asyncio.to_thread(stepped.videos.remix, "video_none", prompt="a dog")
    stranger = await held.new_token()
    with _sdk(held, stranger.token) as other, pytest.raises(openai.NotFoundError):
        await asyncio.to_thread(other.videos.remix, source, prompt="a dog")
    assert held.sim.renders("openai") == 1


# ---------------------------------------------------------------- errors


_WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"prompt": ""}, "prompt"),
    ({"seconds": "soon"}, "seconds"),
    ({"size": "big"}, "size"),
    ({"size": "100x100"}, "size"),  # the upstream's verdict
    ({"extra_body": {"n": 2}}, "n"),
    ({"model": "sora-2-on-kling", "seconds": "12"}, "seconds"),
    ({"model": "sora-2-on-jimeng", "size": "1792x1024"}, "size"),
    ({"extra_body": {"input_reference": {"file_id": "file-1"}}}, "input_reference.file_id"),
    ({"input_reference": ("a.txt", b"no picture", "text/plain")}, "input_reference"),
)


async def test_a_wrong_field_is_the_sdks_own_error_and_costs_nothing(
    house: House, client: openai.OpenAI
) -> None:
    async def check(
        fields: dict[str, Any], error: type[openai.APIStatusError], code: str, param: str
    ) -> None:
        with pytest.raises(error) as caught:
            await asyncio.to_thread(client.videos.create, **{"prompt": "cat", **fields})
        assert (caught.value.code, caught.value.param) == (code, param), fields
        assert caught.value.type == "invalid_request_error"
        line = await house.line(lambda line: line["request_id"] == caught.value.request_id)
        assert (line["dialect"], line["operation"]) == ("openai", "create")
        assert (line["status"], line["reason"]) == (caught.value.status_code, code)

    for fields, param in _WRONG:
        await check(fields, openai.BadRequestError, "invalid_value", param)
    await check({"model": "no-such"}, openai.NotFoundError, "model_not_found", "model")
    assert _renders(house) == 0


@pytest.mark.parametrize(("model", "service"), MODELS)
async def test_moderation_is_a_bad_request_with_its_own_code(
    house: House, client: openai.OpenAI, model: str, service: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        await asyncio.to_thread(client.videos.create, model=model, prompt="a forbidden-prompt")
    assert caught.value.code == "moderation_blocked"
    line = await house.line(lambda line: line["operation"] == "create")
    assert (line["status"], line["reason"]) == (400, "moderation_blocked")
    assert (house.sim.submits(service), house.sim.renders(service)) == (1, 0)
    assert await asyncio.to_thread(lambda: list(client.videos.list())) == []


@pytest.mark.parametrize(
    "key",
    ["sk-proj-an-openai-key", "rw_aaaaaaaaaaaaaaaa_" + "A" * 43],
    ids=["foreign", "unknown"],
)
async def test_a_wrong_key_is_an_authentication_error(house: House, key: str) -> None:
    with _sdk(house, key) as stranger:
        for call in (
            lambda: stranger.videos.create(prompt="cat", input_reference=_LARGE),
            lambda: stranger.videos.retrieve("video_1"),
            lambda: list(stranger.videos.list()),
            lambda: stranger.videos.download_content("video_1"),
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                await asyncio.to_thread(call)
            assert caught.value.code == "invalid_api_key"
            assert key not in str(caught.value)
    assert {(line["status"], line["reason"]) for line in house.lines} == {(401, "invalid_api_key")}
    assert _renders(house) == 0


async def test_a_foreign_video_looks_like_a_missing_one(held: House) -> None:
    mine = await held.create()
    missing = mine[:-6] + "abcdef"
    stranger = await held.new_token()
    with _sdk(held, stranger.token) as other:
        for call in (other.videos.retrieve, other.videos.delete, other.videos.download_content):
            told = []
            for task_id in (mine, missing):
                with pytest.raises(openai.NotFoundError) as caught:
                    await asyncio.to_thread(call, task_id)
                assert isinstance(caught.value.body, dict)
                message = caught.value.body["message"].replace(task_id, "…")
                told.append({**caught.value.body, "message": message})
            assert told[0] == told[1]
    assert (await held.get(f"/v1/videos/{mine}")).status == 200


@pytest.mark.parametrize(("model", "service"), MODELS)
async def test_content_before_its_time_is_not_found(
    held: House, stepped: openai.OpenAI, moved: Moved, model: str, service: str
) -> None:
    task_id = await held.create(model)
    with pytest.raises(openai.NotFoundError, match="'queued'") as caught:
        await asyncio.to_thread(stepped.videos.download_content, task_id)
    assert caught.value.code == "video_not_ready"
    await moved(held, task_id, "failed")
    with pytest.raises(openai.NotFoundError) as caught:
        await asyncio.to_thread(stepped.videos.download_content, task_id)
    assert caught.value.code == "video_failed"
    lines = [line for line in held.lines if line["operation"] == "content"]
    assert [(line["status"], line["reason"]) for line in lines] == [
        (404, "video_not_ready"),
        (404, "video_failed"),
    ]
    assert held.sim.renders(service) == 1


@pytest.mark.parametrize(
    ("model", "code"),
    [
        ("sora-2", "upstream_error"),
        ("sora-2-on-kling", "moderation_blocked"),  # the simulators' usual failure
        ("sora-2-on-jimeng", "moderation_blocked"),
    ],
)
async def test_a_render_that_fails_ends_the_poll_with_a_reason(
    house: House, client: openai.OpenAI, model: str, code: str
) -> None:
    video = await asyncio.to_thread(
        client.videos.create_and_poll, model=model, prompt="fail-later", **_QUICK
    )
    assert video.status == "failed"
    assert video.error is not None
    assert video.error.code == code
    assert video.error.message


async def test_a_rate_limit_is_retried_by_the_sdk_into_one_render(
    house: House, client: openai.OpenAI, one_render: OneRender
) -> None:
    """The SDK sends the same request again by itself; only the second one counts."""

    async def run(model: str, service: str) -> str:
        code = {"kling": 1303, "jimeng": 50430}.get(service)
        fault = Fault("status", service, "submit", status=429, code=code, retry_after="1")
        house.sim.faults.add(fault)
        video = await asyncio.to_thread(client.videos.create, model=model, prompt="cat")
        assert video.status == "queued"
        assert (house.sim.submits(service), house.sim.renders(service)) == (2, 1)
        return video.id

    made = await asyncio.gather(*(run(model, service) for model, service in MODELS))
    for task_id, (_, service) in zip(made, MODELS, strict=True):
        await one_render(house, service, task_id)
    lines = [line for line in house.lines if line["operation"] == "create"]
    assert sorted(str(line["status"]) for line in lines) == ["200"] * 3 + ["429"] * 3
    assert await asyncio.to_thread(lambda: {v.id for v in client.videos.list()}) == set(made)


@pytest.mark.parametrize(("model", "service"), MODELS)
async def test_a_lost_answer_is_never_submitted_twice(
    house: House, client: openai.OpenAI, model: str, service: str
) -> None:
    """Where the upstream may have taken the job, the SDK sees a task, not an error to retry. Only
    Kling can be asked about it; elsewhere the task has ended."""
    house.sim.faults.add(Fault("lost", service, "submit"))
    video = await asyncio.to_thread(client.videos.create, model=model, prompt="cat")
    assert video.status == ("queued" if service == "kling" else "failed")
    assert (house.sim.submits(service), house.sim.renders(service)) == (1, 1)
    line = await house.line(lambda line: line["operation"] == "create")
    assert (line["status"], line["reason"], line["task_id"]) == (200, "done", video.id)


# ---------------------------------------------------------------- other ways in


async def test_azure_clients_send_their_key_their_way(house: House, one_render: OneRender) -> None:
    """The `api-key` header, and `api-version` in every query."""
    with openai.AzureOpenAI(
        base_url=f"{house.url}/v1", api_key=house.token, api_version="preview"
    ) as client:
        video = await asyncio.to_thread(
            client.videos.create_and_poll, prompt="cat, size=1000", **_QUICK
        )
        content = await asyncio.to_thread(client.videos.download_content, video.id)
    assert hashlib.sha256(content.content).hexdigest() == pattern_sha256(1000)
    entry = await one_render(house, "openai", video.id)
    assert "api-key" not in entry.headers
    assert house.token not in str(entry.headers)


async def test_a_base_url_without_v1_works(house: House, one_render: OneRender) -> None:
    with openai.OpenAI(base_url=house.url, api_key=house.token) as client:
        video = await asyncio.to_thread(client.videos.create_and_poll, prompt="cat", **_QUICK)
        content = await asyncio.to_thread(client.videos.download_content, video.id)
    assert content.content == _CLIP.read_bytes()
    await one_render(house, "openai", video.id)


async def test_a_key_may_be_rotated_by_the_clients_callable(
    house: House, one_render: OneRender
) -> None:
    """The SDK asks a callable for the key at each request."""
    keys = ["rw_aaaaaaaaaaaaaaaa_" + "A" * 43, house.token]
    with _sdk(house, lambda: keys.pop(0)) as client:  # type: ignore[arg-type]
        with pytest.raises(openai.AuthenticationError):
            await asyncio.to_thread(client.videos.create, prompt="cat")
        video = await asyncio.to_thread(client.videos.create, prompt="cat")
    await one_render(house, "openai", video.id)


async def test_an_upstream_that_is_down_is_a_server_error_that_tells_no_secret(
    house: House,
) -> None:
    await house.sim.refuse("openai")
    with _sdk(house, max_retries=0) as client, pytest.raises(openai.InternalServerError) as caught:
        await asyncio.to_thread(client.videos.create, prompt="cat")
    assert (caught.value.status_code, caught.value.code) == (502, "upstream_unreachable")
    told = str(caught.value.body) + str(caught.value.response.headers)
    for secret in (house.sim.openai_url, "sk-sim", house.token):
        assert secret not in told
    assert _renders(house) == 0


@pytest.mark.parametrize("way", ["endpoint", "deployment", "address", "token", "v1", "v1 and both"])
async def test_azures_constructions_of_the_client_work(house: House, way: str) -> None:
    """As Azure's pages and openai-python document them: other paths, `api-version`, `api-key`."""
    preview: dict[str, Any] = {"api_version": "2025-04-01-preview"}
    key, address = house.token, f"{house.url}/openai/v1/"
    made: dict[str, Callable[[], openai.OpenAI]] = {
        "endpoint": lambda: openai.AzureOpenAI(azure_endpoint=house.url, api_key=key, **preview),
        "deployment": lambda: openai.AzureOpenAI(
            azure_endpoint=house.url, azure_deployment="sora-2", api_key=key, **preview
        ),
        "address": lambda: openai.AzureOpenAI(base_url=address, api_key=key, **preview),
        "token": lambda: openai.AzureOpenAI(
            base_url=address, azure_ad_token_provider=lambda: key, **preview
        ),
        "v1": lambda: openai.OpenAI(base_url=address, api_key=key),
        "v1 and both": lambda: openai.OpenAI(
            base_url=address,
            api_key=key,
            default_headers={"api-key": key},
            default_query={"api-version": "preview"},
        ),
    }
    with made[way]() as client:

        def whole_life() -> None:
            model: dict[str, Any] = {} if way == "deployment" else {"model": "sora-2"}
            video = client.videos.create_and_poll(prompt="a cat", **model, **_QUICK)
            assert (video.status, video.model) == ("completed", "sora-2")
            assert client.videos.download_content(video.id).read()
            assert [found.id for found in client.videos.list()] == [video.id]
            assert client.videos.delete(video.id).deleted

        await asyncio.to_thread(whole_life)
    assert house.sim.submits("openai") == 1


async def test_litellms_azure_addresses_mean_what_they_say(house: House) -> None:
    """LiteLLM 1.110 with an `api_version` appends the video's id behind the query, encoded or not.
    A remix so written once was another video, made from the prompt alone, and paid."""
    videos = f"{house.url}/openai/v1/videos?api-version=preview"
    headers = {"api-key": house.token}
    async with aiohttp.ClientSession(headers=headers) as session:

        async def asked(method: str, rest: str = "", **sent: Any) -> aiohttp.ClientResponse:
            url = URL(videos + rest, encoded=True)
            answer = await session.request(method, url, **sent)
            assert answer.status == 200, await answer.text()
            return answer

        form = aiohttp.FormData({"model": "sora-2", "prompt": "a cat"}, default_to_multipart=True)
        made = await (await asked("POST", data=form)).json()
        ended = await (await asked("GET", f"%2F{made['id']}&wait=20")).json()
        assert (ended["id"], ended["status"]) == (made["id"], "completed")
        film = await (await asked("GET", f"%2F{made['id']}%2Fcontent")).read()
        assert film == _CLIP.read_bytes()
        told: dict[str, Any] = {"prompt": "a dog"}
        remixed = await (await asked("POST", f"/{made['id']}/remix", json=told)).json()
        assert remixed["remixed_from_video_id"] == made["id"]
        edit = {**told, "video": {"id": made["id"]}}
        assert (await (await asked("POST", "/edits", json=edit)).json())["object"] == "video"
        assert (await (await asked("DELETE", f"%2F{made['id']}")).json())["deleted"]
    assert [house.sim.submits("openai"), _renders(house)] == [3, 3]
