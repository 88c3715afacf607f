"""The OpenAI Videos dialect: bodies in, Video objects and errors out."""

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
from proxy.dialects.answers import REMEMBERED_MAX_BYTES, remembered, task_headers
from proxy.dialects.base import Dialect, PageRequest, View
from proxy.dialects.fields import Fields
from proxy.dialects.media import MemoryBlob
from proxy.dialects.openai import OpenAIDialect
from proxy.errors import FAILURES, Conflict, Invalid, NotFound, ProxyError, RateLimited
from proxy.model import (
    Call,
    Json,
    Kind,
    Media,
    Operation,
    Reply,
    Result,
    Role,
    Stage,
    Task,
    TaskError,
    VideoRequest,
)

# The same examples on every run, and no clock: the machine may be busy.
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

DIALECT = OpenAIDialect()
PNG = MemoryBlob(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png", "cat.png")
PNG64 = base64.b64encode(PNG.data).decode()
MP4 = MemoryBlob(b"\x00\x00\x00\x18ftypisom", "video/mp4", "cat.mp4")

ID = "video_68d7512d07848190b3e45da0ecbebcde004da08e1e0678d5"
KEYS = {
    "id",
    "object",
    "model",
    "status",
    "progress",
    "created_at",
    "completed_at",
    "expires_at",
    "prompt",
    "size",
    "seconds",
    "remixed_from_video_id",
    "error",
}
TASK = Task(
    id=ID,
    owner="acme",
    token_id="abcdefghijklmnop",
    dialect="openai",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="sora-2",
    created_ms=1767225600123,
    updated_ms=1767225600123,
    prompt="A calico cat playing a piano on stage",
    seconds=8.0,
    size=(1280, 720),
)


def call(operation: Operation, query: Mapping[str, str] | None = None, task_id: str = "") -> Call:
    return Call("openai", operation, {"task_id": task_id} if task_id else {}, query or {})


def read(
    values: Mapping[str, object], operation: Operation = Operation.CREATE, task_id: str = ""
) -> VideoRequest:
    return DIALECT.submission(call(operation, None, task_id), Fields(values), "sora-2")


def body_of(reply: Reply) -> dict[str, Any]:
    assert reply.headers["Content-Type"] == "application/json"
    body = orjson.loads(reply.body)
    assert isinstance(body, dict)
    return body


# ---------------------------------------------------------------- endpoints


def test_every_dialect_is_listed_under_its_own_name() -> None:
    assert tuple(DIALECTS) == ("openai", "generic", "kling", "jimeng")
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


def test_no_two_endpoints_of_all_dialects_are_the_same() -> None:
    rows = [
        (row.method, row.path, row.query)
        for dialect in DIALECTS.values()
        for row in dialect.endpoints
    ]
    assert len(rows) == len(set(rows))


def test_the_endpoint_table() -> None:
    rows = {(e.method, e.path, e.operation.value) for e in DIALECT.endpoints}
    expected = {
        ("POST", "/videos", "create"),
        ("GET", "/videos", "list"),
        ("GET", "/videos/{task_id}", "get"),
        ("DELETE", "/videos/{task_id}", "delete"),
        ("GET", "/videos/{task_id}/content", "content"),
        ("POST", "/videos/{task_id}/remix", "remix"),
        ("POST", "/videos/edits", "edit"),
        ("POST", "/videos/extensions", "extend"),
        ("GET", "/videos/{task_id}/events", "events"),
        ("GET", "/models", "models"),
        ("GET", "/models/{model}", "models"),
        ("GET", "/usage", "usage"),
    }
    prefixes = ("", "/v1", "/openai", "/openai/v1", "/openai/deployments/{deployment}")
    assert rows == {(m, before + path, op) for before in prefixes for m, path, op in expected}


# ---------------------------------------------------------------- bodies


def test_what_openai_python_sends_is_read() -> None:
    request = read(
        {
            "prompt": "A calico cat playing a piano on stage",
            "model": "sora-2-pro",
            "seconds": "8",
            "size": "1280x720",
            "input_reference": PNG,
        }
    )
    assert request == VideoRequest(
        operation=Operation.CREATE,
        dialect="openai",
        model="sora-2-pro",
        kind=Kind.IMAGE,
        prompt="A calico cat playing a piano on stage",
        seconds=8.0,
        size=(1280, 720),
        media=(Media(Role.FIRST_FRAME, "input_reference", blob=PNG),),
    )


def test_a_prompt_alone_is_enough() -> None:
    request = read({"prompt": "a cat", "model": "", "seconds": None})
    assert request == VideoRequest(Operation.CREATE, "openai", "sora-2", prompt="a cat")


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"seconds": 8}, "seconds", 8.0),
        ({"seconds": "5.5"}, "seconds", 5.5),
        ({"duration": 5}, "seconds", 5.0),
        ({"seconds": 4, "duration": "4s"}, "seconds", 4.0),
        ({"size": "720x1280"}, "size", (720, 1280)),
        ({"width": "1024", "height": 1792}, "size", (1024, 1792)),
        ({"size": "640x480", "width": 640, "height": 480}, "size", (640, 480)),
        ({"size": "640x480", "width": 640}, "size", (640, 480)),
        ({"n": "2"}, "n", 2),
        ({"seed": -1}, "seed", -1),
        ({"seed": 0}, "seed", 0),
        ({"fps": 24}, "fps", 24),
        ({"negative_prompt": "dogs\nbirds"}, "negative_prompt", "dogs\nbirds"),
        ({"style": "anime"}, "style", "anime"),
        ({"quality": "high"}, "quality_level", "high"),
        ({"quality_level": "low", "quality": "low"}, "quality_level", "low"),
        ({"quality_level": "low", "metadata": {"quality": "high"}}, "quality_level", "low"),
        ({"user": "u-1"}, "user", "u-1"),
        ({"response_format": "url"}, "response_format", "url"),
        ({"aspect_ratio": "16:9"}, "aspect_ratio", "16:9"),
        ({"resolution": "1080p"}, "resolution", "1080p"),
        ({"audio": "false"}, "audio", False),
        ({"generate_audio": True}, "audio", True),
        ({"mode": "pro"}, "mode", "pro"),
        ({"webhook": "https://a.example/hook"}, "callback_url", "https://a.example/hook"),
        ({"callback_url": "http://a.example/hook"}, "callback_url", "http://a.example/hook"),
        ({"metadata": {"seed": "7"}}, "seed", 7),
        ({"metadata": {"seed": 7}, "seed": 8}, "seed", 8),
        ({"metadata": '{"style": "noir"}'}, "style", "noir"),
        ({"metadata": {"width": 640, "height": 480}}, "size", (640, 480)),
        ({"width": 640, "metadata": {"height": 480}}, "size", (640, 480)),
        ({"lora": {"w": 1}, "shift": "3"}, "extra", {"lora": {"w": 1}, "shift": "3"}),
        (
            {"metadata": {"quality_level": "hd", "project": "x", "tags": ["a"]}},
            "extra",
            {"metadata": {"project": "x", "tags": ["a"]}},
        ),
        ({"metadata": {"quality_level": "hd", "seed": 1}, "seed": 2}, "extra", {}),
    ],
)
def test_a_field_is_read(values: dict[str, object], field: str, expected: object) -> None:
    found = getattr(read({"prompt": "a cat", **values}), field)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("values", "param", "words"),
    [
        ({"prompt": None}, "prompt", "required"),
        ({"prompt": ""}, "prompt", "required"),
        ({"prompt": "a" * 32001}, "prompt", "32000"),
        ({"prompt": ["a"]}, "prompt", "string"),
        ({"model": True}, "model", "string"),
        ({"seconds": "soon"}, "seconds", "number"),
        ({"seconds": True}, "seconds", "number, not true"),
        ({"seconds": 4, "duration": 9}, "duration", "'seconds' and 'duration'"),
        ({"seconds": -4}, "seconds", "at least"),
        ({"duration": [5, 6]}, "duration", "number"),
        ({"size": "big"}, "size", "1280x720"),
        ({"size": "640x480", "width": 7, "height": 8}, "width", "'size' and 'width'"),
        ({"size": "0x720"}, "size", "1280x720"),
        ({"size": "1２x720"}, "size", "1280x720"),
        ({"width": 640}, "height", "go together"),
        ({"height": 640}, "width", "go together"),
        ({"width": 0, "height": 640}, "width", "go together"),
        ({"width": -640, "height": 640}, "width", "at least 1"),
        ({"n": -2}, "n", "at least 1"),
        ({"n": 1.5}, "n", "whole number, not 1.5"),
        ({"fps": "fast"}, "fps", "whole"),
        ({"seed": {}}, "seed", "whole"),
        ({"audio": "loud"}, "audio", "true or false"),
        ({"metadata": "x"}, "metadata", "object"),
        ({"metadata": "{x"}, "metadata", "JSON"),
        ({"metadata": ["x"]}, "metadata", "object"),
        ({"metadata": {"seed": "x"}}, "metadata.seed", "whole"),
        ({"metadata": {"a": PNG}}, "metadata.a", "file"),
        ({"webhook": "not a url"}, "webhook", "http(s)"),
        ({"callback_url": "ftp://a.example/"}, "callback_url", "http(s)"),
        ({"mask": PNG}, "mask", "file"),
        ({"input_reference": "cat.png"}, "input_reference", "base64"),
        ({"input_reference": 5}, "input_reference", "not 5"),
        ({"input_reference": [PNG64, PNG64, PNG64]}, "input_reference", "not 3 pictures"),
        ({"input_reference": {}}, "input_reference", "exactly one"),
        ({"input_reference": {"image_url": ""}}, "input_reference", "exactly one"),
        (
            {"input_reference": {"image_url": "https://a.example/c.png", "file_id": "file-1"}},
            "input_reference",
            "exactly one",
        ),
        (
            {"input_reference": {"image_url": "https://a.example/c.png", "detail": "low"}},
            "input_reference",
            "'detail'",
        ),
        ({"input_reference": {"file_id": "file-1"}}, "input_reference.file_id", "not supported"),
        ({"input_reference": {"image_url": "x://y"}}, "input_reference.image_url", "base64"),
        ({"input_reference": {"image_url": {"url": 1}}}, "input_reference.image_url.url", "not 1"),
        ({"image": "cat.png"}, "image", "base64"),
    ],
)
def test_a_wrong_field_is_a_400_with_its_name(
    values: dict[str, object], param: str, words: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read({"prompt": "a cat", **values})
    assert caught.value.param == param
    assert words in caught.value.message


@pytest.mark.parametrize("shape", [list, dict])
@pytest.mark.parametrize("depth", [33, 200, 1000, 5000])
def test_a_bottomless_body_is_refused(shape: type, depth: int) -> None:
    """What is taken must be writable again, and nesting must not reach the interpreter's stack."""
    value: object = 1
    for _ in range(depth):
        value = [value] if shape is list else {"a": value}
    for values in ({"deep": value}, {"metadata": {"deep": value}}):
        with pytest.raises(Invalid, match="nested too deep"):
            read({"prompt": "a cat", **values})


@pytest.mark.parametrize(
    ("reference", "param", "url"),
    [
        ("https://a.example/c.png", "input_reference", "https://a.example/c.png"),
        (
            {"image_url": "https://a.example/c.png", "file_id": None},
            "input_reference.image_url",
            "https://a.example/c.png",
        ),
        (
            '{"image_url": "https://a.example/c.png"}',
            "input_reference.image_url",
            "https://a.example/c.png",
        ),
        (f"data:image/png;base64,{PNG64}", "input_reference", None),
        (PNG64, "input_reference", None),
        ({"image_url": f"data:image/png;base64,{PNG64}"}, "input_reference.image_url", None),
        ({"image_url": PNG}, "input_reference.image_url", None),
    ],
)
def test_a_reference_picture_in_any_form(reference: object, param: str, url: str | None) -> None:
    request = read({"prompt": "a cat", "input_reference": reference})
    (media,) = request.media
    assert request.kind is Kind.IMAGE
    assert (media.role, media.param, media.url) == (Role.FIRST_FRAME, param, url)
    assert request.extra == {}
    if url is None:
        assert media.blob is not None
        assert media.blob.content_type == "image/png"
        assert b"".join(media.blob.chunks()) == PNG.data


def test_remix_takes_its_source_from_the_path() -> None:
    request = read({"prompt": "add rain"}, Operation.REMIX, task_id=ID)
    assert (request.operation, request.source_id) == (Operation.REMIX, ID)
    with pytest.raises(Invalid, match="'prompt' is required"):
        read({}, Operation.REMIX, task_id=ID)


@pytest.mark.parametrize("operation", [Operation.EDIT, Operation.EXTEND])
def test_edits_and_extensions_name_a_video_or_bring_one(operation: Operation) -> None:
    named = read({"prompt": "p", "seconds": "8", "video": {"id": ID}}, operation)
    assert (named.source_id, named.media, named.seconds) == (ID, (), 8.0)
    assert read({"prompt": "p", "video": f'{{"id": "{ID}"}}'}, operation).source_id == ID
    brought = read({"prompt": "p", "video": MP4}, operation)
    assert brought.source_id is None
    assert brought.media == (Media(Role.SOURCE, "video", blob=MP4),)
    assert brought.kind is Kind.TEXT
    assert brought.extra == {}


@pytest.mark.parametrize(
    ("video", "param"),
    [
        (None, "video"),
        (ID, "video"),
        ({}, "video.id"),
        ({"id": True}, "video.id"),
        ({"id": ID, "url": "x"}, "video"),
        (MemoryBlob(b""), "video"),
    ],
)
def test_an_edit_without_a_usable_video_is_a_400(video: object, param: str) -> None:
    with pytest.raises(Invalid) as caught:
        read({"prompt": "p", "video": video}, Operation.EDIT)
    assert caught.value.param == param


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, PageRequest(20)),
        ({"limit": "0"}, PageRequest(0)),
        ({"limit": "100", "order": "asc", "after": ID}, PageRequest(100, "asc", ID)),
        ({"limit": "", "order": ""}, PageRequest(20)),
    ],
)
def test_a_page_is_read(query: dict[str, str], expected: PageRequest) -> None:
    assert DIALECT.page(call(Operation.LIST, query)) == expected


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "a\x00"}, "after"),
    ],
)
def test_a_wrong_page_is_a_400(query: dict[str, str], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        DIALECT.page(call(Operation.LIST, query))
    assert caught.value.param == param


# ---------------------------------------------------------------- answers


def test_the_golden_video_object() -> None:
    """Byte for byte what the API answered to this request."""
    reply = DIALECT.created(View(TASK), "req-1")
    assert reply.status == 200
    assert reply.headers == {"Content-Type": "application/json"}
    assert reply.body == (
        b'{"id":"video_68d7512d07848190b3e45da0ecbebcde004da08e1e0678d5","object":"video",'
        b'"model":"sora-2","status":"queued","progress":0,"created_at":1767225600,'
        b'"completed_at":null,"expires_at":null,"prompt":"A calico cat playing a piano on stage",'
        b'"size":"1280x720","seconds":"8","remixed_from_video_id":null,"error":null}'
    )


def test_a_completed_video_is_whole() -> None:
    done = replace(
        TASK,
        stage=Stage.COMPLETED,
        progress=97,
        completed_ms=1767225660999,
        expires_ms=1767229260001,
        operation=Operation.REMIX,
        source_id="video_source",
        request={"quality_level": "high"},
    )
    body = body_of(DIALECT.task(View(done, ("https://p.example/x",)), "req-1"))
    assert body["status"] == "completed"
    assert body["progress"] == 100
    assert (body["completed_at"], body["expires_at"]) == (1767225660, 1767229260)
    assert body["remixed_from_video_id"] == "video_source"
    assert body["quality"] == "high"
    assert body["url"] == "https://p.example/x"
    assert set(body) == KEYS | {"quality", "url"}


@pytest.mark.parametrize("stage", [stage for stage in Stage if stage is not Stage.COMPLETED])
def test_a_video_that_has_not_completed_has_no_url(stage: Stage) -> None:
    task = replace(TASK, stage=stage)
    assert "url" not in body_of(DIALECT.task(View(task, ("https://p.example/x",)), "req-1"))


def test_a_url_is_in_lists_and_replays_too_and_never_data() -> None:
    """Clients that unwrap `data` of any object would poll for ever."""
    view = View(
        replace(TASK, stage=Stage.COMPLETED), ("https://p.example/x", "https://p.example/y")
    )
    listed = body_of(DIALECT.listing(PageRequest(20), [view], False, "req-1"))["data"][0]
    for body in (listed, body_of(DIALECT.created(view, "req-1"))):
        assert body["url"] == "https://p.example/x"
        assert "data" not in body


@pytest.mark.parametrize("stage", [Stage.RESERVED, Stage.SENT, Stage.BOUND, Stage.QUEUED])
def test_every_stage_before_the_first_progress_is_queued(stage: Stage) -> None:
    assert body_of(DIALECT.task(View(replace(TASK, stage=stage)), ""))["status"] == "queued"


def test_a_failed_video_says_why() -> None:
    failed = replace(TASK, stage=Stage.FAILED, error=TaskError("moderation_blocked", "No.", "1301"))
    body = body_of(DIALECT.task(View(failed), ""))
    assert body["error"] == {"code": "moderation_blocked", "message": "No."}
    bare = body_of(DIALECT.task(View(replace(failed, error=None)), ""))
    assert bare["error"] == {"code": "upstream_error", "message": FAILURES["upstream_error"]}


@pytest.mark.parametrize(
    ("changes", "seconds", "size"),
    [
        ({"seconds": 5.1}, "5.1", "1280x720"),
        ({"seconds": None, "request": {"seconds": 4}}, "4", "1280x720"),
        ({"seconds": None, "results": (Result(seconds=5.066667),)}, "5.067", "1280x720"),
        ({"size": None, "request": {"width": 640, "height": 480}}, "8", "640x480"),
        ({"seconds": None, "size": None}, "0", "auto"),
    ],
)
def test_seconds_and_size_are_always_strings(
    changes: dict[str, Any], seconds: str, size: str
) -> None:
    body = body_of(DIALECT.task(View(replace(TASK, **changes)), ""))
    assert (body["seconds"], body["size"]) == (seconds, size)


def test_a_listing() -> None:
    views = [View(replace(TASK, id=f"video_{n}")) for n in range(3)]
    body = body_of(DIALECT.listing(PageRequest(3), views, True, ""))
    assert (body["object"], body["first_id"], body["last_id"]) == ("list", "video_0", "video_2")
    assert body["has_more"] is True
    assert [set(video) for video in body["data"]] == [KEYS] * 3
    assert body_of(DIALECT.listing(PageRequest(3), [], False, "")) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


def test_the_small_answers() -> None:
    assert body_of(DIALECT.deleted(View(TASK), "")) == {
        "id": ID,
        "object": "video.deleted",
        "deleted": True,
    }
    video: dict[str, Json] = {"seconds": [4, 8, 12]}
    model = {
        "id": "sora-2",
        "object": "model",
        "created": 1767225600,
        "owned_by": "reelway",
        "video": video,
    }
    listed = body_of(DIALECT.models({"sora-2": video}, 1767225600, ""))
    assert listed == {"object": "list", "data": [model]}
    assert body_of(DIALECT.model("sora-2", video, 1767225600, "")) == model


def test_a_missing_video() -> None:
    reply = DIALECT.missing(call(Operation.GET, task_id="nope"), "nope", "")
    assert reply.status == 404
    assert body_of(reply) == {
        "error": {
            "message": "Video with id 'nope' not found.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        }
    }


def test_a_missing_video_whose_id_is_no_text_is_still_json() -> None:
    """A percent-decoded path may hold lone surrogates."""
    reply = DIALECT.missing(call(Operation.GET), "\udcff" + "a" * 500, "")
    assert len(reply.body) < 400
    assert body_of(reply)["error"]["message"].startswith("Video with id '?aaa")


@pytest.mark.parametrize(
    ("error", "status", "extra"),
    [
        (Invalid("Wrong.", param="size"), 400, {}),
        (NotFound("Gone."), 404, {}),
        (Conflict("Again."), 409, {"x-should-retry": "false"}),
        (RateLimited("Slow down.", retry_after_s=3), 429, {"Retry-After": "3"}),
        (ProxyError("Broken."), 500, {}),
    ],
)
def test_an_error_carries_its_status_and_headers(
    error: ProxyError, status: int, extra: dict[str, str]
) -> None:
    reply = DIALECT.failure(error, "req-1")
    assert reply.status == status
    assert reply.headers == {"Content-Type": "application/json", **extra}
    assert body_of(reply) == {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


# ---------------------------------------------------------------- shared answers


def test_adjustments_and_drops_are_told_in_headers() -> None:
    task = replace(TASK, adjusted=("seconds=8>10", "size=1x2>3x4"), dropped=("seed", "fps"))
    expected = {"reelway-adjusted": "seconds=8>10,size=1x2>3x4", "reelway-dropped": "seed,fps"}
    assert task_headers(task) == expected
    for reply in (DIALECT.created(View(task), ""), DIALECT.task(View(task), "")):
        assert reply.headers == {"Content-Type": "application/json", **expected}


@STEADY
@given(st.lists(st.text(st.characters() | st.just("\udcff"), max_size=60), max_size=100))
def test_no_dropped_name_can_break_the_header(names: list[str]) -> None:
    for value in task_headers(replace(TASK, dropped=tuple(names))).values():
        assert value.isascii()
        assert value.isprintable()
        assert len(value.split(",")) <= len(names)
        assert len(value) <= 1100


def test_a_long_list_of_drops_is_cut_and_counted() -> None:
    names = tuple(f"field_{n:03}" for n in range(200))
    words = task_headers(replace(TASK, dropped=names))["reelway-dropped"].split(",")
    assert words[-1] == f"+{200 - (len(words) - 1)}"
    assert tuple(words[:-1]) == names[: len(words) - 1]


def test_what_is_remembered() -> None:
    request = read(
        {
            "prompt": "a secret",
            "negative_prompt": "another",
            "input_reference": PNG,
            "seconds": "8",
            "size": "1280x720",
            "fps": 24,
            "seed": 0,
            "audio": False,
            "user": "u-1",
            "quality": "high",
            "webhook": "https://a.example/hook",
            "unknown": "x",
        }
    )
    assert remembered(request) == {
        "seconds": 8,
        "width": 1280,
        "height": 720,
        "fps": 24,
        "seed": 0,
        "audio": False,
        "callback_url": "https://a.example/hook",
        "quality_level": "high",
        "user": "u-1",
    }


@STEADY
@given(
    st.builds(
        VideoRequest,
        operation=st.just(Operation.CREATE),
        dialect=st.just("kling"),
        model=st.just("m"),
        user=st.none() | st.integers(0, 3000).map(lambda n: "猫" * n),
        style=st.none() | st.integers(0, 3000).map(lambda n: "\n" * n),
        response_format=st.none() | st.integers(0, 9000).map(lambda n: "x" * n),
        seed=st.none() | st.integers(-(2**53), 2**53),
        seconds=st.none() | st.floats(0.001, 1e6),
    )
)
def test_what_is_remembered_is_bounded(request: VideoRequest) -> None:
    kept = remembered(request)
    assert len(orjson.dumps(kept)) <= REMEMBERED_MAX_BYTES
    assert ("seed" in kept) == (request.seed is not None)


# ---------------------------------------------------------------- properties

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)  # what the JSON parser yields as int
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "8", "1280x720", "https://a.example/c.png", PNG64, "{}", '{"a":1}'])
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=8,
)
NAMES = [
    *("prompt", "model", "seconds", "duration", "size", "width", "height", "fps", "seed", "n"),
    *("audio", "mode", "style", "quality", "user", "response_format", "aspect_ratio"),
    *("resolution", "negative_prompt", "input_reference", "image", "image_url", "file_id"),
    *("video", "id", "metadata", "webhook", "callback_url"),
]
VALUE = JSON | st.just(PNG) | st.dictionaries(st.sampled_from(NAMES), JSON, max_size=4)
BODY = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), VALUE, max_size=8)


@STEADY
@given(
    BODY,
    st.booleans(),
    st.sampled_from(
        [dialect for name, dialect in DIALECTS.items() if name in ("openai", "generic")]
    ),
    st.sampled_from([op for op in Operation if op.is_submit]),
)
def test_any_body_is_a_request_or_a_400(
    body: dict[str, object], has_prompt: bool, dialect: Dialect, operation: Operation
) -> None:
    values = {"prompt": "a cat", **body} if has_prompt else body
    outcome: VideoRequest | ProxyError
    try:
        outcome = dialect.submission(
            Call(dialect.name, operation, {"task_id": ID}, {}), Fields(values), "sora-2"
        )
    except ProxyError as error:
        outcome = error
    if isinstance(outcome, ProxyError):
        assert outcome.status == 400
        assert outcome.param is not None
    else:
        assert outcome.prompt or outcome.media
        assert orjson.dumps(dict(outcome.extra))  # can be written again


TASKS = st.builds(
    Task,
    id=st.text(min_size=1, max_size=60),
    owner=st.just("acme"),
    token_id=st.just("abcdefghijklmnop"),
    dialect=st.sampled_from(tuple(DIALECTS)),
    operation=st.sampled_from([op for op in Operation if op.is_submit]),
    kind=st.sampled_from(Kind),
    model=st.text(max_size=20),
    created_ms=st.integers(0, 2**43),
    updated_ms=st.integers(0, 2**43),
    stage=st.sampled_from(Stage),
    prompt=st.none() | st.text(),
    seconds=st.none() | st.floats(0, 1e6),
    size=st.none() | st.tuples(st.integers(1, 9999), st.integers(1, 9999)),
    request=st.fixed_dictionaries(
        {},
        optional={
            "seconds": st.integers(1, 99) | st.floats(0.001, 99),
            "width": st.integers(1, 9999),
            "height": st.integers(1, 9999),
            "fps": st.integers(1, 120),
            "seed": st.integers(-1, 2**53),
            "quality_level": st.text(max_size=10),
        },
    ),
    source_id=st.none() | st.just("video_source"),
    adjusted=st.just(()) | st.just(("seconds=8>10",)),
    dropped=st.lists(st.text(max_size=10), max_size=3).map(tuple),
    progress=st.integers(-5, 200),
    results=st.just(())
    | st.builds(Result, seconds=st.none() | st.floats(0, 99)).map(lambda r: (r,)),
    error=st.none() | st.builds(TaskError, st.sampled_from(list(FAILURES)), st.text()),
    completed_ms=st.none() | st.integers(0, 2**43),
    expires_ms=st.none() | st.integers(0, 2**43),
)


@STEADY
@given(TASKS)
def test_any_task_is_a_valid_video_object(task: Task) -> None:
    body = body_of(DIALECT.task(View(task), ""))
    assert set(body) - {"quality"} == KEYS
    assert body["status"] in ("queued", "in_progress", "completed", "failed")
    assert 0 <= body["progress"] <= 100
    assert isinstance(body["progress"], int)
    assert isinstance(body["created_at"], int)
    assert float(body["seconds"]) >= 0
    assert not body["seconds"].endswith(".0")
    assert body["size"] == "auto" or len(body["size"].split("x")) == 2
    assert (body["error"] is not None) == (body["status"] == "failed")


@STEADY
@given(TASKS)
def test_the_official_client_reads_any_task(task: Task) -> None:
    """Strictly: the SDK's own model, with the literals it documents where ours are documented."""
    from openai.types import Video, VideoDeleteResponse

    body = body_of(DIALECT.task(View(task), ""))
    video = Video.model_validate({**body, "seconds": "8", "size": "1280x720", "model": "sora-2"})
    assert video.id == task.id
    assert VideoDeleteResponse.model_validate(body_of(DIALECT.deleted(View(task), ""))).deleted
