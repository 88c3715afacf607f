"""The generic video dialect: VideoRequest in; the document's answers and new-api's out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.dialects import DIALECTS
from proxy.dialects.answers import remembered
from proxy.dialects.base import PageRequest, View
from proxy.dialects.fields import Fields
from proxy.dialects.generic import GenericDialect
from proxy.dialects.media import MemoryBlob
from proxy.errors import Invalid, RateLimited, UnsupportedOperation
from proxy.model import (
    Call,
    DialectName,
    Kind,
    Media,
    Operation,
    Reply,
    Role,
    Stage,
    Task,
    TaskError,
    VideoRequest,
)

# The same examples on every run, and no clock: the machine may be busy.
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

DIALECT = GenericDialect()
PNG = MemoryBlob(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png", "cat.png")
PNG64 = base64.b64encode(PNG.data).decode()
CREATE = Call("generic", Operation.CREATE, {}, {})
LINK = "https://p.example/v1/videos/video_1/content?exp=1&sig=x"

WHOLE_BODY: dict[str, object] = {
    "model": "kling-v1",
    "prompt": "a cat",
    "image": "https://a.example/cat.png",
    "duration": 5.0,
    "width": 1920,
    "height": 1080,
    "fps": 30,
    "seed": 20231234,
    "n": 1,
    "response_format": "url",
    "user": "user-1234",
    "metadata": {
        "negative_prompt": "dogs",
        "style": "anime",
        "quality_level": "high",
        "camera": {"zoom": 1},
    },
}
TASK = Task(
    id="video_1",
    owner="acme",
    token_id="abcdefghijklmnop",
    dialect="generic",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="kling-v1",
    created_ms=1767225600123,
    updated_ms=1767225600123,
    prompt="a cat",
    seconds=5.0,
    size=(1920, 1080),
    request={"fps": 30, "seed": 20231234},
)


def read(values: Mapping[str, object]) -> VideoRequest:
    return DIALECT.submission(CREATE, Fields(values), "kling-v1")


def body_of(reply: Reply) -> dict[str, Any]:
    assert reply.headers["Content-Type"] == "application/json"
    body = orjson.loads(reply.body)
    assert isinstance(body, dict)
    return body


def test_the_endpoint_table() -> None:
    assert [(e.method, e.path, e.operation.value) for e in DIALECT.endpoints] == [
        ("POST", "/v1/video/generations", "create"),
        ("GET", "/v1/video/generations/{task_id}", "get"),
        ("POST", "/video/generations", "create"),
        ("GET", "/video/generations/{task_id}", "get"),
    ]


def test_every_field_of_the_document_is_read() -> None:
    assert read(WHOLE_BODY) == VideoRequest(
        operation=Operation.CREATE,
        dialect="generic",
        model="kling-v1",
        kind=Kind.IMAGE,
        prompt="a cat",
        negative_prompt="dogs",
        seconds=5.0,
        size=(1920, 1080),
        fps=30,
        seed=20231234,
        n=1,
        style="anime",
        quality_level="high",
        user="user-1234",
        response_format="url",
        media=(Media(Role.FIRST_FRAME, "image", url="https://a.example/cat.png"),),
        extra={"metadata": {"camera": {"zoom": 1}}},
    )


def test_every_wish_of_the_document_is_remembered_or_rendered() -> None:
    """Nothing an answer repeats is lost between the request and the task."""
    assert remembered(read(WHOLE_BODY)) == {
        "seconds": 5,
        "width": 1920,
        "height": 1080,
        "fps": 30,
        "seed": 20231234,
        "n": 1,
        "quality_level": "high",
        "style": "anime",
        "response_format": "url",
        "user": "user-1234",
    }


@pytest.mark.parametrize(
    "image",
    [PNG, PNG64, f"data:image/png;base64,{PNG64}", {"image_url": PNG64}],
)
def test_a_picture_needs_no_prompt(image: object) -> None:
    request = read({"image": image})
    assert request.prompt is None
    assert request.kind is Kind.IMAGE
    assert request.model == "kling-v1"
    blob = request.media[0].blob
    assert blob is not None
    assert b"".join(blob.chunks()) == PNG.data


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"image": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "image": "cat.png"}, "image"),
        ({"prompt": "a", "image": 7}, "image"),
        ({"prompt": "a", "image": [PNG64, PNG64]}, "image"),
        ({"prompt": "a", "duration": "long"}, "duration"),
        ({"prompt": "a", "duration": -3}, "duration"),
        ({"prompt": "a", "width": 640}, "height"),
        ({"prompt": "a", "height": 480}, "width"),
        ({"prompt": "a", "width": "wide", "height": 480}, "width"),
        ({"prompt": "a", "height": 480.5, "width": 640}, "height"),
        ({"prompt": "a", "fps": -24}, "fps"),
        ({"prompt": "a", "seed": "lucky"}, "seed"),
        ({"prompt": "a", "n": -2}, "n"),
        ({"prompt": "a", "response_format": {"type": "url"}}, "response_format"),
        ({"prompt": "a", "user": {"id": 12}}, "user"),
        ({"prompt": "a", "model": ["kling-v1", "kling-v2"]}, "model"),
        ({"prompt": "a", "metadata": "fast"}, "metadata"),
        ({"prompt": "a", "metadata": {"negative_prompt": 1}}, "metadata.negative_prompt"),
        ({"prompt": "a", "metadata": {"style": []}}, "metadata.style"),
    ],
)
def test_a_wrong_field_is_a_400_with_its_name(values: dict[str, object], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        read(values)
    assert caught.value.param == param
    assert caught.value.status == 400


def test_a_submit_answers_both_kinds_of_client() -> None:
    reply = DIALECT.created(View(replace(TASK, adjusted=("seconds=4>5",))), "")
    body = body_of(reply)
    assert reply.status == 200
    assert reply.headers["reelway-adjusted"] == "seconds=4>5"
    assert (body["task_id"], body["id"], body["status"]) == ("video_1", "video_1", "queued")
    assert (body["object"], body["created_at"]) == ("video", 1767225600)


def test_a_finished_task_in_full() -> None:
    """Every key, so that a change to one is seen."""
    done = replace(TASK, stage=Stage.COMPLETED, completed_ms=1767225660000)
    reply = DIALECT.task(View(done, (LINK,), "https://p.example/v1/videos/video_1/content"), "")
    assert reply.status == 200
    assert body_of(reply) == {
        "task_id": "video_1",
        "url": LINK,
        "format": "mp4",
        "metadata": {
            "duration": 5,
            "fps": 30,
            "width": 1920,
            "height": 1080,
            "seed": 20231234,
        },
        "id": "video_1",
        "object": "video",
        "model": "kling-v1",
        "status": "completed",
        "progress": 100,
        "created_at": 1767225600,
        "completed_at": 1767225660,
        "expires_at": None,
        "prompt": "a cat",
        "size": "1920x1080",
        "seconds": "5",
        "remixed_from_video_id": None,
        "error": None,
        "code": "success",
        "message": "",
        "data": {
            "task_id": "video_1",
            "status": "SUCCESS",
            "progress": "100%",
            "fail_reason": "",
            "result_url": LINK,
        },
    }
    assert b'"duration":5,' in reply.body  # an integer for typed clients, not 5.0


@pytest.mark.parametrize(
    ("stage", "status", "state"),
    [
        (Stage.RESERVED, "queued", "QUEUED"),
        (Stage.SENT, "queued", "QUEUED"),
        (Stage.QUEUED, "queued", "QUEUED"),
        (Stage.IN_PROGRESS, "in_progress", "IN_PROGRESS"),
        (Stage.FAILED, "failed", "FAILURE"),
    ],
)
def test_an_unfinished_task_has_an_empty_url(stage: Stage, status: str, state: str) -> None:
    """Never null: typed clients read `url` into a string. And never a link that cannot work."""
    body = body_of(DIALECT.task(View(replace(TASK, stage=stage, progress=33), (LINK,)), ""))
    assert (body["status"], body["data"]["status"]) == (status, state)
    assert (body["url"], body["data"]["result_url"]) == ("", "")
    assert body["data"]["progress"] == "33%"


def test_a_failed_task_says_why_in_both_places() -> None:
    failed = replace(TASK, stage=Stage.FAILED, error=TaskError("moderation_blocked", "No.", "1301"))
    body = body_of(DIALECT.task(View(failed), ""))
    assert body["error"] == {"code": "moderation_blocked", "message": "No."}
    assert body["data"]["fail_reason"] == "No."
    assert body["code"] == "success"  # the query succeeded


def test_numbers_nobody_knows_are_null() -> None:
    """0 would be a seed, and a duration somebody believes."""
    body = body_of(DIALECT.task(View(replace(TASK, seconds=None, size=None, request={})), ""))
    assert body["metadata"] == dict.fromkeys(("duration", "fps", "width", "height", "seed"))


def test_an_unknown_task_is_a_404() -> None:
    reply = DIALECT.missing(Call("generic", Operation.GET, {"task_id": "x"}, {}), "x", "")
    assert reply.status == 404
    assert body_of(reply) == {
        "error": {
            "message": "Task 'x' not found.",
            "type": "invalid_request_error",
            "param": None,
            "code": "task_not_exist",
        },
        "code": "task_not_exist",
        "message": "Task 'x' not found.",
        "data": None,
    }


def test_an_error_carries_its_headers() -> None:
    reply = DIALECT.failure(RateLimited("Slow down.", retry_after_s=500), "")
    assert reply.status == 429
    assert reply.headers["Retry-After"] == "120"
    assert body_of(reply)["error"]["code"] == "rate_limit_exceeded"


def test_listing_and_delete_point_elsewhere() -> None:
    with pytest.raises(UnsupportedOperation):
        DIALECT.page(Call("generic", Operation.LIST, {}, {}))
    for reply in (
        DIALECT.listing(PageRequest(1), [], False, ""),
        DIALECT.deleted(View(TASK), ""),
    ):
        assert reply.status == 400
        assert body_of(reply)["error"]["code"] == "unsupported_operation"


@STEADY
@given(
    stage=st.sampled_from(Stage),
    dialect=st.sampled_from(tuple(DIALECTS)),
    seconds=st.none() | st.floats(0, 1e6),
    size=st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    progress=st.integers(-5, 200),
    prompt=st.none() | st.text(),
    links=st.lists(st.just(LINK), max_size=2).map(tuple),
    error=st.none() | st.builds(TaskError, st.text(max_size=10), st.text()),
)
def test_any_task_of_any_dialect_is_a_valid_answer(
    stage: Stage,
    dialect: DialectName,
    seconds: float | None,
    size: tuple[int, int] | None,
    progress: int,
    prompt: str | None,
    links: tuple[str, ...],
    error: TaskError | None,
) -> None:
    task = replace(
        TASK,
        stage=stage,
        dialect=dialect,
        seconds=seconds,
        size=size,
        progress=progress,
        prompt=prompt,
        error=error,
    )
    created = body_of(DIALECT.created(View(task), ""))
    body = body_of(DIALECT.task(View(task, links), ""))
    assert created["task_id"] == body["task_id"] == body["id"] == body["data"]["task_id"]
    assert set(created) - {"task_id"} <= set(body)
    assert isinstance(body["url"], str)
    assert body["url"] == "" or body["status"] == "completed"
    assert set(body["metadata"]) == {"duration", "fps", "width", "height", "seed"}
    assert all(n is None or isinstance(n, int | float) for n in body["metadata"].values())
    assert body["data"]["progress"] == f"{body['progress']}%"
    assert isinstance(body["data"]["fail_reason"], str)
    assert (body["error"] is not None) == (body["status"] == "failed")
