"""What every dialect really answers is what the document of the clients' port says it does."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest

from tests.rig.house import House

JIMENG = "/jimeng/?Version=2022-08-31&Action="
SUBMITS: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "openai": (
        "/v1/videos",
        {"model": "sora-2", "prompt": "a cat"},
        ("/v1/videos/{id}", "/v1/videos"),
    ),
    "generic": (
        "/v1/video/generations",
        {"model": "sora-2", "prompt": "a cat", "duration": 4},
        ("/v1/video/generations/{id}",),
    ),
    "kling": (
        "/kling/v1/videos/text2video",
        {"model_name": "kling-v2-6", "prompt": "a cat", "external_task_id": "mine"},
        ("/kling/v1/videos/text2video/{id}", "/kling/v1/videos/text2video"),
    ),
    "jimeng": (
        JIMENG + "CVSync2AsyncSubmitTask",
        {"req_key": "jimeng_t2v_v30", "prompt": "a cat"},
        (),
    ),
}


class Described:
    """The document of a running gateway, to hold answers against."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document

    def check(self, method: str, target: str, status: int, answer: object) -> None:
        """Raises unless the answer is one of those described for this status."""
        path = target.partition("?")[0]
        responses = self._document["paths"][path][method.lower()]["responses"]
        response = responses.get(str(status), responses["default"])
        schema = response["content"]["application/json"]["schema"]
        components = {"components": self._document["components"]}
        jsonschema_rs.validate({**schema, **components}, answer)


async def described(house: House) -> Described:
    async with house.client.get(f"{house.url}/openapi.json") as reply:
        return Described(await reply.json())


@pytest.mark.parametrize("dialect", SUBMITS)
async def test_answers_are_what_the_document_says(house: House, dialect: str) -> None:
    """A quote, a submit, its task before and after its end, a listing, and a refusal."""
    document = await described(house)
    path, body, reads = SUBMITS[dialect]
    joint = "&" if "?" in path else "?"
    quote = await house.post(f"{path}{joint}dry_run=1", json=body)
    assert quote.status == 200
    document.check("POST", path, 200, quote.json())
    made = await house.post(path, json=body)
    assert made.status == 200
    document.check("POST", path, 200, made.json())
    answer = made.json()
    task_id = answer.get("id") or answer["data"]["task_id"]
    for _ in ("as it is", "finished"):
        for read in reads:
            reply = await house.get(read.replace("{id}", task_id))
            assert reply.status == 200
            document.check("GET", read.replace("{id}", "{task_id}"), 200, reply.json())
        if dialect == "jimeng":
            asked = {"req_key": body["req_key"], "task_id": task_id}
            reply = await house.post(f"{JIMENG}CVSync2AsyncGetResult", json=asked)
            assert reply.status == 200
            document.check("POST", path, 200, reply.json())
        await house.finished(task_id)
    refusal = await house.post(path, json={**body, "prompt": 5})
    assert refusal.status == 400
    document.check("POST", path, 400, refusal.json())
    stranger = await house.post(path, json=body, headers={"Authorization": None})
    assert stranger.status == 401
    document.check("POST", path, 401, stranger.json())


async def test_what_has_no_dialect_of_its_own_is_described_too(house: House) -> None:
    document = await described(house)
    task_id = await house.completed()
    for path in ("/v1/models", "/v1/usage"):
        document.check("GET", path, 200, (await house.get(path)).json())
    for model, status in (("sora-2", 200), ("gpt-6", 404)):
        reply = await house.get(f"/v1/models/{model}")
        assert reply.status == status
        document.check("GET", "/v1/models/{model}", status, reply.json())
    deleted = await house.request("DELETE", f"/v1/videos/{task_id}")
    document.check("DELETE", "/v1/videos/{task_id}", 200, deleted.json())
    missing = await house.get(f"/v1/videos/{task_id}")
    document.check("GET", "/v1/videos/{task_id}", 404, missing.json())


async def test_a_wrong_answer_would_be_noticed(house: House) -> None:
    """The check itself: a member that is missing, and one of another type."""
    document = await described(house)
    video = (await house.get(f"/v1/videos/{await house.completed()}")).json()
    for wrong in ({**video, "status": "done"}, {k: v for k, v in video.items() if k != "size"}):
        with pytest.raises(jsonschema_rs.ValidationError):
            document.check("GET", "/v1/videos/{task_id}", 200, wrong)
