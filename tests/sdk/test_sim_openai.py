"""The official openai SDK against the simulated OpenAI-style upstream."""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Iterator

import openai
import pytest

from proxy.sim import Settings, Simulator, pattern_sha256

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*permanently shut down:DeprecationWarning",
    "ignore:.*deprecated:DeprecationWarning",
)
_PNG = b"\x89PNG\r\n\x1a\n" + bytes(200)


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(Settings(speed=100, seed=1)) as simulator:
        yield simulator


@pytest.fixture
async def manual() -> AsyncIterator[Simulator]:
    async with Simulator(Settings(manual=True, seed=1)) as simulator:
        yield simulator


def _client(sim: Simulator, key: str = "sk-sim") -> openai.OpenAI:
    return openai.OpenAI(base_url=sim.openai_url, api_key=key, max_retries=0)


@pytest.fixture
def client(sim: Simulator) -> Iterator[openai.OpenAI]:
    with _client(sim) as client:
        yield client


@pytest.fixture
def stepped(manual: Simulator) -> Iterator[openai.OpenAI]:
    with _client(manual) as client:
        yield client


async def test_create_and_poll_ends_completed_and_the_content_arrives_whole(
    sim: Simulator, client: openai.OpenAI
) -> None:
    video = await asyncio.to_thread(
        client.videos.create_and_poll,
        prompt="A calico cat playing a piano, size=1500000",
        model="sora-2",
        seconds="8",
        size="1280x720",
    )
    assert (video.status, video.progress, video.seconds) == ("completed", 100, "8")
    assert (video.size, video.error, video.remixed_from_video_id) == ("1280x720", None, None)
    content = await asyncio.to_thread(client.videos.download_content, video.id)
    data = await asyncio.to_thread(content.read)
    assert len(data) == 1_500_000
    assert hashlib.sha256(data).hexdigest() == pattern_sha256(1_500_000)
    assert sim.submits("openai") == sim.renders("openai") == 1
    entry = sim.log.select("openai", "content")[0]
    assert (entry.status, entry.bytes_sent, entry.aborted) == (200, 1_500_000, False)


async def test_states_go_queued_in_progress_completed(
    manual: Simulator, stepped: openai.OpenAI
) -> None:
    video = await asyncio.to_thread(stepped.videos.create, prompt="cat")
    assert (video.status, video.progress, video.model) == ("queued", 0, "sora-2")
    manual.step(video.id, "in_progress", 33)
    seen = await asyncio.to_thread(stepped.videos.retrieve, video.id)
    assert (seen.status, seen.progress, seen.completed_at) == ("in_progress", 33, None)
    manual.finish(video.id)
    seen = await asyncio.to_thread(stepped.videos.retrieve, video.id)
    assert (seen.status, seen.progress) == ("completed", 100)
    assert seen.completed_at is not None
    assert seen.expires_at == seen.completed_at + 3600


async def test_variants_are_what_they_say(manual: Simulator, stepped: openai.OpenAI) -> None:
    video = await asyncio.to_thread(stepped.videos.create, prompt="cat")
    manual.finish(video.id)
    seen = {}
    for variant in ("video", "thumbnail", "spritesheet"):
        content = await asyncio.to_thread(
            stepped.videos.download_content,
            video.id,
            variant=variant,
        )
        seen[variant] = (content.response.headers["content-type"], content.content[:4])
    assert seen["video"][0] == "video/mp4"
    assert seen["thumbnail"] == ("image/webp", b"RIFF")
    assert seen["spritesheet"][0] == "image/jpeg"


async def test_an_input_reference_arrives_byte_for_byte(
    sim: Simulator, client: openai.OpenAI
) -> None:
    await asyncio.to_thread(
        client.videos.create,
        prompt="cat",
        input_reference=("cat.png", io.BytesIO(_PNG), "image/png"),
        extra_body={"metadata": {"a": "1"}},
    )
    entry = sim.log.select("openai", "submit")[0]
    (upload,) = entry.uploads
    assert (upload.field, upload.filename) == ("input_reference", "cat.png")
    assert (upload.media_type, upload.size) == ("image/png", len(_PNG))
    assert upload.sha256 == hashlib.sha256(_PNG).hexdigest()
    assert entry.body["prompt"] == "cat"
    assert entry.body["metadata"] == {"a": "1"}


async def test_list_pages_through_everything_newest_first(
    manual: Simulator, stepped: openai.OpenAI
) -> None:
    made = [
        (await asyncio.to_thread(stepped.videos.create, prompt=f"cat {n}")).id for n in range(5)
    ]
    found = await asyncio.to_thread(lambda: [v.id for v in stepped.videos.list(limit=2)])
    assert found == made[::-1]
    assert len(manual.log.select("openai", "list")) == 3
    oldest = await asyncio.to_thread(lambda: [v.id for v in stepped.videos.list(order="asc")])
    assert oldest == made


async def test_delete_is_for_finished_videos_only(
    manual: Simulator, stepped: openai.OpenAI
) -> None:
    video = await asyncio.to_thread(stepped.videos.create, prompt="cat")
    with pytest.raises(openai.BadRequestError):
        await asyncio.to_thread(stepped.videos.delete, video.id)
    manual.finish(video.id)
    gone = await asyncio.to_thread(stepped.videos.delete, video.id)
    assert (gone.id, gone.deleted, gone.object) == (video.id, True, "video.deleted")
    with pytest.raises(openai.NotFoundError):
        await asyncio.to_thread(stepped.videos.retrieve, video.id)


async def test_remix_edit_and_extend_derive_from_a_video(
    manual: Simulator, stepped: openai.OpenAI
) -> None:
    video = await asyncio.to_thread(
        stepped.videos.create, prompt="cat", seconds="12", size="1280x720"
    )
    with pytest.raises(openai.BadRequestError):
        await asyncio.to_thread(stepped.videos.remix, video.id, prompt="dog")
    manual.finish(video.id)
    remix = await asyncio.to_thread(stepped.videos.remix, video.id, prompt="dog")
    assert (remix.remixed_from_video_id, remix.prompt) == (video.id, "dog")
    assert (remix.seconds, remix.size) == ("12", "1280x720")
    edit = await asyncio.to_thread(
        stepped.videos.edit, prompt="dog", video=("v.mp4", io.BytesIO(b"film"), "video/mp4")
    )
    extension = await asyncio.to_thread(
        stepped.videos.extend,
        prompt="dog",
        seconds="8",
        video=("v.mp4", io.BytesIO(b"film"), "video/mp4"),
    )
    assert (edit.status, extension.seconds) == ("queued", "8")
    by_id = await asyncio.to_thread(
        stepped.post,
        "/videos/extensions",
        cast_to=object,
        body={"prompt": "dog", "seconds": "4", "video": {"id": video.id}},
    )
    assert isinstance(by_id, dict)
    assert (by_id["size"], by_id["seconds"]) == ("1280x720", "4")
    assert manual.submits("openai") == 6
    assert manual.renders("openai") == 5


async def test_refusals_are_the_sdks_own_errors(manual: Simulator, stepped: openai.OpenAI) -> None:
    create = stepped.videos.create
    with pytest.raises(openai.BadRequestError, match="prompt"):
        await asyncio.to_thread(create, prompt="")
    with pytest.raises(openai.BadRequestError, match="seconds"):
        await asyncio.to_thread(create, prompt="cat", seconds="5")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError, match="size"):
        await asyncio.to_thread(create, prompt="cat", size="1x1")  # type: ignore[arg-type]
    with pytest.raises(openai.BadRequestError) as blocked:
        await asyncio.to_thread(create, prompt="a forbidden-prompt")
    assert blocked.value.code == "moderation_blocked"
    with pytest.raises(openai.NotFoundError) as missing:
        await asyncio.to_thread(stepped.videos.retrieve, "nope")
    assert missing.value.body == {
        "message": "Video with id 'nope' not found.",
        "type": "invalid_request_error",
        "param": None,
        "code": None,
    }
    assert missing.value.request_id
    video = await asyncio.to_thread(create, prompt="cat")
    with pytest.raises(openai.NotFoundError, match="not ready"):
        await asyncio.to_thread(stepped.videos.download_content, video.id)
    with (
        _client(manual, key="sk-wrong") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        await asyncio.to_thread(stranger.videos.retrieve, video.id)
    assert manual.renders("openai") == 1


async def test_self_hosted_models_take_any_seconds_and_size(
    manual: Simulator, stepped: openai.OpenAI
) -> None:
    video = await asyncio.to_thread(
        stepped.post,
        "/videos",
        cast_to=object,
        body={"model": "wan2.2", "prompt": "cat", "seconds": 5, "size": "832x480"},
    )
    assert isinstance(video, dict)
    assert (video["seconds"], video["size"]) == ("5", "832x480")


async def test_a_render_that_fails_later_says_why(client: openai.OpenAI) -> None:
    video = await asyncio.to_thread(client.videos.create_and_poll, prompt="cat fail-later")
    assert video.status == "failed"
    assert video.error is not None
    assert video.error.code == "video_generation_failed"


async def test_models_are_listed(client: openai.OpenAI) -> None:
    found = await asyncio.to_thread(lambda: [model.id for model in client.models.list()])
    assert "sora-2" in found
