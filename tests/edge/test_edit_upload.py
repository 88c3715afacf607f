"""Edits of an uploaded video work where the price goes by seconds: its length is what they cost."""

from __future__ import annotations

import openai
import pytest
from aiohttp import FormData

from tests.rig.house import OpenHouse, Plan
from tests.unit.test_clips import film

PRICED = """
[[routes]]
model = "priced"
upstream = "sim-openai"
upstream_model = "sora-2"
price = { per_second = "0.10" }
"""


def form(data: bytes) -> FormData:
    made = FormData()
    made.add_field("model", "priced")
    made.add_field("prompt", "a dog")
    made.add_field("video", data, filename="clip.mp4", content_type="video/mp4")
    return made


@pytest.mark.filterwarnings("ignore:The Sora API:DeprecationWarning")
async def test_an_edit_by_upload_holds_the_length_of_the_file(open_house: OpenHouse) -> None:
    async with open_house(Plan(routes=PRICED, manual=True)) as house:
        async with openai.AsyncOpenAI(
            base_url=f"{house.url}/v1", api_key=house.token, max_retries=0
        ) as client:
            video = await client.videos.edit(
                prompt="a dog",
                video=("clip.mp4", film(6, 144), "video/mp4"),
                extra_body={"model": "priced"},
            )
        task = await house.server.store.tasks.get(video.id)
        assert task is not None
        assert (task.seconds, task.hold_micro) == (6.0, 600_000)
        assert house.sim.submits("openai") == 1
        assert [line["status"] for line in house.lines] == [200]


async def test_an_edit_whose_length_cannot_be_measured_is_a_400_in_words(
    open_house: OpenHouse,
) -> None:
    async with open_house(Plan(routes=PRICED)) as house:
        reply = await house.post("/v1/videos/edits", data=form(film()[:-5]))
        error = reply.json()["error"]
        assert (reply.status, error["param"]) == (400, "video")
        assert "cannot be measured" in error["message"]
        assert "MP4 or MOV" in error["message"]
        assert not house.sim.log.entries
        assert house.server.parts.spool.held_bytes == 0
        assert [line["status"] for line in house.lines] == [400]


async def test_an_edit_that_cannot_be_measured_holds_the_longest_the_model_renders(
    open_house: OpenHouse,
) -> None:
    async with open_house(Plan(routes=PRICED, manual=True)) as house:
        text = house.config_path.read_text()
        where = 'credentials = [{ name = "a", api_key = "sk-sim" }]'
        house.config_path.write_text(
            text.replace(where, f"options = {{ seconds = [4, 8, 12] }}\n{where}", 1)
        )
        assert house.server.reload().ok
        reply = await house.post("/v1/videos/edits", data=form(film()[:-5]))
        assert reply.status == 200, reply.body
        task = await house.server.store.tasks.get(reply.json()["id"])
        assert task is not None
        assert task.hold_micro == 1_200_000
