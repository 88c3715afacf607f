"""Kling's API as its own clients and those of the generic document speak it."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.dialects.answers import remembered
from proxy.dialects.base import Dialect, PageRequest, View
from proxy.dialects.fields import Fields
from proxy.dialects.kling import KlingDialect
from proxy.errors import (
    AuthFault,
    BudgetExceeded,
    Conflict,
    EndpointNotFound,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    ModelNotFound,
    Moderated,
    ProxyError,
    RateLimited,
    TooLarge,
    TooManyInFlight,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
)
from proxy.model import (
    Call,
    Kind,
    Operation,
    Reply,
    Result,
    Role,
    Stage,
    Task,
    TaskError,
    VideoRequest,
)

KLING: Dialect = KlingDialect()
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG_BASE64 = base64.b64encode(PNG).decode()
REQUEST_ID = "9984d27b-a408-4073-ae28-17ca6a13622d"
LINK = "https://gateway.example.com/v1/videos/video_1/content?exp=1&sig=s"

# Kling's own example, as its clients put it on the wire.
OFFICIAL = (
    b'{"model_name":"kling-v2-6","prompt":"A calico cat playing a piano on stage",'
    b'"duration":"5","mode":"pro","aspect_ratio":"16:9","external_task_id":"gw-0001"}'
)
# The generic document's VideoRequest, every field of its table.
GENERIC = (
    b'{"model":"kling-v1","prompt":"p","image":"https://e.com/a.png","duration":5.0,'
    b'"width":1280,"height":720,"fps":30,"seed":7,"n":1,"response_format":"url","user":"u1",'
    b'"metadata":{"negative_prompt":"rain","style":"anime","quality_level":"high","x":[1]}}'
)

TASK = Task(
    id="842250903629086785",
    owner="o",
    token_id="t",
    dialect="kling",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="kling-v2-6",
    created_ms=1767225600000,
    updated_ms=1767225600000,
    seconds=5.0,
    size=(1920, 1080),
    external_id="gw-0001",
    provider="kling",
)


def call(operation: Operation = Operation.CREATE, kind: str = "text2video", **query: str) -> Call:
    return Call("kling", operation, {"kind": kind, "task_id": "gw-0001"}, query)


def parsed(body: bytes | dict[str, Any], kind: str = "text2video") -> VideoRequest:
    values = orjson.loads(body) if isinstance(body, bytes) else body
    return KLING.submission(call(kind=kind), Fields(values), "default-model")


def json_of(reply: Reply) -> Any:
    assert reply.headers["Content-Type"] == "application/json"
    return orjson.loads(reply.body)


# ---------------------------------------------------------------- endpoints


def test_every_path_stands_with_and_without_the_kling_prefix() -> None:
    table = {(e.method, e.path): (e.operation, dict(e.params)) for e in KLING.endpoints}
    assert table == {
        (method, f"{base}/{kind}{tail}"): (operation, {"kind": kind})
        for base in ("/kling/v1/videos", "/v1/videos")
        for kind in ("text2video", "image2video")
        for method, tail, operation in (
            ("POST", "", Operation.CREATE),
            ("GET", "/{task_id}", Operation.GET),
            ("GET", "", Operation.LIST),
        )
    }
    assert len(table) == len(KLING.endpoints)


# ---------------------------------------------------------------- submits


def test_the_official_body_is_read_into_common_words() -> None:
    assert parsed(OFFICIAL) == VideoRequest(
        operation=Operation.CREATE,
        dialect="kling",
        model="kling-v2-6",
        prompt="A calico cat playing a piano on stage",
        seconds=5.0,
        mode="pro",
        aspect_ratio="16:9",
        external_id="gw-0001",
    )


def test_every_field_of_the_generic_table_is_read() -> None:
    got = parsed(GENERIC, "image2video")
    assert replace(got, media=()) == VideoRequest(
        operation=Operation.CREATE,
        dialect="kling",
        model="kling-v1",
        kind=Kind.IMAGE,
        prompt="p",
        negative_prompt="rain",
        seconds=5.0,
        size=(1280, 720),
        fps=30,
        seed=7,
        n=1,
        style="anime",
        quality_level="high",
        user="u1",
        response_format="url",
        extra={"metadata": {"x": [1]}},
    )
    assert [(m.role, m.param, m.url) for m in got.media] == [
        (Role.FIRST_FRAME, "image", "https://e.com/a.png")
    ]


def test_fields_nobody_has_heard_of_survive_in_native_as_they_came() -> None:
    vendor = {
        "cfg_scale": 0.5,
        "camera_control": {"type": "simple", "config": {"zoom": 5}},
        "multi_shot": False,
        "shot_type": "intelligence",
        "multi_prompt": [{"index": 1, "prompt": "a", "duration": "5"}],
        "watermark_info": {"enabled": True},
        "static_mask": "https://e.com/mask.png",
        "dynamic_masks": [{"mask": "m", "trajectories": [{"x": 1, "y": 2}]}],
        "element_list": [{"element_id": 829836802793406551}],
        "voice_list": [{"voice_id": "v"}],
        "invented_in_2027": {"deep": [None, True, 1.5, "é"]},
        "empty": "",
    }
    got = parsed({"prompt": "p", "unset": None, **vendor})
    assert got.native == vendor
    assert got.extra == {}


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({}, "default-model"),
        ({"model": "m2"}, "m2"),
        ({"model_name": "m1"}, "m1"),
        ({"model": "m2", "model_name": "m1"}, "m1"),
        ({"model": "m2", "model_name": None}, "m2"),
    ],
)
def test_model_name_outranks_model_which_kling_ignores(body: dict[str, Any], model: str) -> None:
    got = parsed({"prompt": "p", **body})
    assert got.model == model
    assert got.native == {}


@pytest.mark.parametrize(
    ("sound", "audio"), [("on", True), ("off", False), ("ON", True), (True, True), (None, None)]
)
def test_sound_is_the_common_audio(sound: object, audio: bool | None) -> None:
    assert parsed({"prompt": "p", "sound": sound}).audio is audio


@pytest.mark.parametrize(
    ("image", "url", "data"),
    [
        ("https://e.com/a.png", "https://e.com/a.png", None),
        (PNG_BASE64, None, PNG),
        (f"data:image/png;base64,{PNG_BASE64}", None, PNG),
    ],
)
def test_an_image_may_be_a_url_raw_base64_or_a_data_url(
    image: str, url: str | None, data: bytes | None
) -> None:
    got = parsed({"image": image, "image_tail": image}, "image2video")
    assert got.kind is Kind.IMAGE
    assert [(m.role, m.param) for m in got.media] == [
        (Role.FIRST_FRAME, "image"),
        (Role.LAST_FRAME, "image_tail"),
    ]
    for item in got.media:
        assert item.url == url
        assert (b"".join(item.blob.chunks()) if item.blob else None) == data


def test_a_last_frame_alone_is_enough() -> None:
    got = parsed({"image_tail": PNG_BASE64}, "image2video")
    assert [m.role for m in got.media] == [Role.LAST_FRAME]
    assert got.kind is Kind.IMAGE


def test_an_image_under_text2video_makes_it_an_image_to_video_request() -> None:
    got = parsed({"image": PNG_BASE64})
    assert got.kind is Kind.IMAGE


def test_kling_fields_inside_metadata_count_where_the_body_lacks_them() -> None:
    metadata = {
        "mode": "pro",
        "aspect_ratio": "9:16",
        "sound": "on",
        "seed": "3",
        "fps": 24,
        "negative_prompt": "of metadata",
        "cfg_scale": 0.4,
        "camera_control": {"type": "down_back"},
        "image_tail": "https://e.com/tail.png",
        "note": "kept",
    }
    body = {"prompt": "p", "negative_prompt": "of body", "cfg_scale": 0.9, "metadata": metadata}
    got = parsed(body)
    assert (got.mode, got.aspect_ratio, got.audio, got.seed, got.fps) == (
        "pro",
        "9:16",
        True,
        3,
        24,
    )
    assert got.negative_prompt == "of body"
    assert got.native == {"cfg_scale": 0.9, "camera_control": {"type": "down_back"}}
    assert got.extra == {"metadata": {"note": "kept"}}
    assert [(m.role, m.param) for m in got.media] == [(Role.LAST_FRAME, "metadata.image_tail")]


def test_shots_with_their_own_prompts_need_no_prompt() -> None:
    shots = {"multi_shot": True, "shot_type": "customize", "multi_prompt": [{"index": 1}]}
    got = parsed(shots)
    assert got.prompt is None
    assert got.native == shots


def test_a_prompt_of_exactly_2500_characters_is_taken() -> None:
    assert parsed({"prompt": "猫" * 2500}).prompt == "猫" * 2500


DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("kind", "body", "param"),
    [
        ("text2video", {}, "prompt"),
        ("text2video", {"prompt": ""}, "prompt"),
        ("text2video", {"prompt": 5}, "prompt"),
        ("text2video", {"prompt": "x" * 2501}, "prompt"),
        ("text2video", {"multi_shot": True, "shot_type": "intelligence"}, "prompt"),
        ("text2video", {"multi_shot": False, "shot_type": "customize"}, "prompt"),
        ("text2video", {"prompt": "p", "negative_prompt": "x" * 2501}, "negative_prompt"),
        ("text2video", {"prompt": "p", "duration": "long"}, "duration"),
        ("text2video", {"prompt": "p", "duration": 5, "seconds": 10}, "duration"),
        ("text2video", {"prompt": "p", "duration": "-5"}, "duration"),
        ("text2video", {"prompt": "p", "sound": "loud"}, "sound"),
        ("text2video", {"prompt": "p", "metadata": {"sound": 2}}, "metadata.sound"),
        ("text2video", {"prompt": "p", "metadata": {"mode": []}}, "metadata.mode"),
        ("text2video", {"prompt": "p", "metadata": "x"}, "metadata"),
        ("text2video", {"prompt": "p", "width": 640}, "height"),
        ("text2video", {"prompt": "p", "height": 640}, "width"),
        ("text2video", {"prompt": "p", "n": -2}, "n"),
        ("text2video", {"prompt": "p", "callback_url": "ftp://e.com/x"}, "callback_url"),
        ("text2video", {"prompt": "p", "external_task_id": "x" * 256}, "external_task_id"),
        ("text2video", {"prompt": "p", "model_name": "a\nb"}, "model_name"),
        ("text2video", {"prompt": "p", "whatever": {"a": "\x00"}}, "whatever.a"),
        ("text2video", {"prompt": "p", "whatever": DEEP}, "whatever"),
        ("image2video", {"prompt": "p"}, "image"),
        ("image2video", {"prompt": "p", "image": "not base64!"}, "image"),
        ("image2video", {"prompt": "p", "image": 5}, "image"),
        ("image2video", {"image": PNG_BASE64, "image_tail": {}}, "image_tail"),
    ],
)
def test_a_wrong_field_is_named(kind: str, body: dict[str, Any], param: str | None) -> None:
    with pytest.raises(Invalid) as caught:
        parsed(body, kind)
    assert caught.value.param == param


def test_a_body_deeper_than_the_interpreters_stack_is_a_client_error() -> None:
    with pytest.raises(Invalid, match="nested too deep"):
        parsed(b'{"prompt":"p","x":' + b"[" * 1000 + b"]" * 1000 + b"}")


def test_a_reference_is_the_paths_last_segment_whoever_chose_it() -> None:
    assert KLING.reference(call(Operation.GET), Fields({})) == "gw-0001"


@pytest.mark.parametrize(
    ("query", "offset", "limit"),
    [
        ({}, 0, 30),
        ({"pageNum": "", "pageSize": ""}, 0, 30),
        ({"pageNum": "2"}, 30, 30),
        ({"pageNum": "1000", "pageSize": "500"}, 499500, 500),
        ({"pageNum": "3", "pageSize": "1"}, 2, 1),
    ],
)
def test_pages_count_from_one_newest_first(query: dict[str, str], offset: int, limit: int) -> None:
    got = KLING.page(call(Operation.LIST, "image2video", **query))
    assert got == PageRequest(limit, order="desc", offset=offset, kind=Kind.IMAGE)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pageNum", "0"),
        ("pageNum", "1001"),
        ("pageNum", "x"),
        ("pageSize", "0"),
        ("pageSize", "501"),
        ("pageSize", "1.5"),
    ],
)
def test_a_page_out_of_bounds_is_named(name: str, value: str) -> None:
    with pytest.raises(Invalid) as caught:
        KLING.page(call(Operation.LIST, **{name: value}))
    assert caught.value.param == name


# ---------------------------------------------------------------- answers


def test_a_submit_is_answered_with_klings_own_bytes_and_the_generic_pair() -> None:
    reply = KLING.created(View(TASK), REQUEST_ID)
    assert reply.status == 200
    assert reply.body == (
        b'{"code":0,"message":"SUCCEED","request_id":"9984d27b-a408-4073-ae28-17ca6a13622d",'
        b'"data":{"task_id":"842250903629086785","task_info":{"external_task_id":"gw-0001"},'
        b'"task_status":"submitted","created_at":1767225600000,"updated_at":1767225600000},'
        b'"task_id":"842250903629086785","status":"queued"}'
    )


def test_a_running_task_has_empty_results_and_both_vocabularies() -> None:
    task = replace(TASK, stage=Stage.IN_PROGRESS, updated_ms=1767225605000, external_id=None)
    assert json_of(KLING.task(View(task), REQUEST_ID)) == {
        "code": 0,
        "message": "SUCCEED",
        "request_id": REQUEST_ID,
        "data": {
            "task_id": "842250903629086785",
            "task_status": "processing",
            "task_status_msg": "",
            "task_info": {},
            "task_result": {},
            "created_at": 1767225600000,
            "updated_at": 1767225605000,
        },
        "task_id": "842250903629086785",
        "status": "in_progress",
        "url": "",
        "format": "mp4",
        "metadata": {
            "duration": 5,
            "fps": None,
            "width": 1920,
            "height": 1080,
            "seed": None,
        },
        "error": None,
    }


def test_a_finished_task_shows_our_links_and_the_upstreams_own_members() -> None:
    task = replace(
        TASK,
        stage=Stage.COMPLETED,
        updated_ms=1767225660000,
        request=remembered(parsed({"prompt": "p", "fps": 30, "seed": 7})),
        results=(
            Result(url="https://v16-kling-fdl.klingai.com/x.mp4", id="842250903708762200"),
            Result(url="https://v16-kling-fdl.klingai.com/y.mp4", seconds=5.1),
        ),
        native={
            "watermark_info": {"enabled": False},
            "final_unit_deduction": "5",
            "task_id": "the upstream's",
            "task_result": {"videos": []},
        },
    )
    body = json_of(KLING.task(View(task, (LINK, LINK + "&index=1")), REQUEST_ID))
    assert body["data"] == {
        "task_id": "842250903629086785",
        "task_status": "succeed",
        "task_status_msg": "",
        "task_info": {"external_task_id": "gw-0001"},
        "task_result": {
            "videos": [
                {"id": "842250903708762200", "url": LINK, "duration": "5"},
                {"id": "842250903629086785_1", "url": LINK + "&index=1", "duration": "5.1"},
            ]
        },
        "watermark_info": {"enabled": False},
        "final_unit_deduction": "5",
        "created_at": 1767225600000,
        "updated_at": 1767225660000,
    }
    assert (body["status"], body["url"], body["format"]) == ("completed", LINK, "mp4")
    assert body["metadata"] == {
        "duration": 5,
        "fps": 30,
        "width": 1920,
        "height": 1080,
        "seed": 7,
    }


def test_another_providers_own_members_stay_out_of_klings_data() -> None:
    task = replace(TASK, provider="ark", native={"usage": {"total_tokens": 1}})
    assert "usage" not in json_of(KLING.task(View(task), REQUEST_ID))["data"]


def test_a_length_nobody_told_is_left_out() -> None:
    """Clients put `duration` through float()."""
    task = replace(TASK, stage=Stage.COMPLETED, seconds=None)
    videos = json_of(KLING.task(View(task, (LINK,)), REQUEST_ID))["data"]["task_result"]["videos"]
    assert videos == [{"id": "842250903629086785_0", "url": LINK}]


def test_a_failed_task_tells_why_in_both_places() -> None:
    error = TaskError("moderation_blocked", "It shows a trademark.", "1301")
    body = json_of(KLING.task(View(replace(TASK, stage=Stage.FAILED, error=error)), REQUEST_ID))
    assert body["code"] == 0
    assert body["data"]["task_status"] == "failed"
    assert body["data"]["task_status_msg"] == "It shows a trademark."
    assert body["data"]["task_result"] == {}
    assert body["status"] == "failed"
    assert body["error"] == {"code": "moderation_blocked", "message": "It shows a trademark."}


def test_a_listing_is_an_array_in_data() -> None:
    other = replace(TASK, id="video_2", stage=Stage.COMPLETED)
    reply = KLING.listing(
        PageRequest(30), [View(TASK), View(other, (LINK,))], has_more=False, request_id=REQUEST_ID
    )
    body = json_of(reply)
    assert set(body) == {"code", "message", "request_id", "data"}
    assert [(d["task_id"], d["task_status"]) for d in body["data"]] == [
        ("842250903629086785", "submitted"),
        ("video_2", "succeed"),
    ]
    assert body["data"][1]["task_result"]["videos"][0]["url"] == LINK


@pytest.mark.parametrize("answer", [KLING.created, KLING.task])
def test_what_was_adjusted_or_dropped_is_told_in_headers(answer: Any) -> None:
    task = replace(TASK, adjusted=("seconds=8>10",), dropped=("seed", "fps"))
    headers = answer(View(task), REQUEST_ID).headers
    assert headers["reelway-adjusted"] == "seconds=8>10"
    assert headers["reelway-dropped"] == "seed,fps"


def test_a_missing_task_is_a_404_of_klings() -> None:
    reply = KLING.missing(call(Operation.GET), "gw-0001", REQUEST_ID)
    assert reply.status == 404
    assert json_of(reply) == {
        "code": 1203,
        "message": "There is no task 'gw-0001'.",
        "request_id": REQUEST_ID,
        "error": {
            "message": "There is no task 'gw-0001'.",
            "type": "invalid_request_error",
            "param": None,
            "code": "not_found",
        },
    }


def test_a_missing_reference_with_broken_text_is_still_json() -> None:
    assert json_of(KLING.missing(call(Operation.GET), "\udcff", REQUEST_ID))["code"] == 1203


ERRORS: list[tuple[ProxyError, int, int]] = [
    (Invalid("x", param="mode"), 400, 1201),
    (TooLarge("x"), 413, 1201),
    (Conflict("x"), 409, 1201),
    (Unauthenticated("x", AuthFault.MISSING), 401, 1001),
    (Unauthenticated("x", AuthFault.MALFORMED), 401, 1002),
    (Unauthenticated("x", AuthFault.UNKNOWN), 401, 1002),
    (Unauthenticated("x", AuthFault.REVOKED), 401, 1002),
    (Unauthenticated("x", AuthFault.EXPIRED), 401, 1004),
    (Unauthenticated("x", AuthFault.NOT_YET), 401, 1003),
    (Unauthenticated("x", AuthFault.SIGNATURE), 401, 1000),
    (Unauthenticated("x", AuthFault.TIMESTAMP), 401, 1000),
    (BudgetExceeded("x"), 402, 1101),
    (Forbidden("x"), 403, 1103),
    (ModelNotFound("x"), 404, 1203),
    (EndpointNotFound("x"), 404, 1202),
    (MethodNotAllowed("x", ("GET",)), 405, 1202),
    (RateLimited("x", retry_after_s=3), 429, 1302),
    (TooManyInFlight("x"), 429, 1303),
    (Moderated("x"), 400, 1301),
    (UpstreamFailed("x"), 502, 5001),
    (Unavailable("x"), 503, 5001),
    (ProxyError("x"), 500, 5001),
]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    ERRORS,
    ids=[f"{type(e).__name__}-{getattr(e, 'fault', '')}" for e, _, _ in ERRORS],
)
def test_an_error_has_klings_number_and_ours_beside_it(
    error: ProxyError, status: int, code: int
) -> None:
    """There is no `data`: clients read `body.get("data", {})`, which a null would break."""
    reply = KLING.failure(error, REQUEST_ID)
    assert reply.status == status
    assert json_of(reply) == {
        "code": code,
        "message": "x",
        "request_id": REQUEST_ID,
        "error": {
            "message": "x",
            "type": error.type,
            "param": error.param,
            "code": error.code,
        },
    }
    assert {k: v for k, v in reply.headers.items() if k != "Content-Type"} == error.headers


def test_a_delete_is_refused_by_name() -> None:
    with pytest.raises(ProxyError, match="no way to delete"):
        KLING.deleted(View(TASK), REQUEST_ID)


# ---------------------------------------------------------------- for any input

# The same examples on every run, and no clock: the machine may be busy.
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

WORDS = """
model_name model prompt negative_prompt cfg_scale mode sound camera_control aspect_ratio
duration multi_shot shot_type watermark_info callback_url external_task_id image
image_tail metadata width height fps seed n response_format user style quality_level other
"""
NAMES = WORDS.split()
# What a JSON parser can make: 64-bit integers, finite numbers, text without surrogates.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["5", "on", "16:9", "https://e.com/a.png", PNG_BASE64, "a\rb", "\x00"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@STEADY
@given(
    st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), JSON, max_size=6),
    st.sampled_from(["text2video", "image2video"]),
)
def test_any_body_is_a_request_or_a_client_error(body: dict[str, Any], kind: str) -> None:
    try:
        got = parsed(body, kind)
    except Invalid:
        return
    assert got.model
    assert got.media or got.prompt or got.native["multi_shot"]
    orjson.dumps([got.native, got.extra, remembered(got)])


@STEADY
@given(st.dictionaries(st.sampled_from(["pageNum", "pageSize"]), st.text(max_size=6)))
def test_any_query_is_a_page_or_a_client_error(query: dict[str, str]) -> None:
    try:
        got = KLING.page(call(Operation.LIST, **query))
    except Invalid:
        return
    assert 1 <= got.limit <= 500
    assert 0 <= got.offset <= 499500


TASKS = st.builds(
    replace,
    st.just(TASK),
    stage=st.sampled_from(Stage),
    seconds=st.none() | st.floats(0.1, 60),
    size=st.none() | st.just((1280, 720)),
    external_id=st.none() | st.text(min_size=1, max_size=8),
    provider=st.sampled_from(["kling", "jimeng", "openai"]),
    results=st.lists(
        st.builds(Result, id=st.none() | st.text(max_size=4), seconds=st.none() | st.just(5.1)),
        max_size=3,
    ).map(tuple),
    error=st.none() | st.builds(TaskError, st.sampled_from(["timeout"]), st.text(max_size=9)),
    native=st.dictionaries(st.text(max_size=6) | st.sampled_from(["task_info", "code"]), JSON),
    request=st.just({"fps": 24}),
)


@STEADY
@given(TASKS, st.integers(0, 3))
def test_any_task_is_told_in_an_envelope_strict_clients_accept(task: Task, count: int) -> None:
    """The types are those of the AI SDK's schema for Kling."""
    links = tuple(f"{LINK}&index={i}" for i in range(count)) if task.stage.is_final else ()
    view = View(task, links)
    page = json_of(KLING.listing(PageRequest(30), [view], True, REQUEST_ID))["data"]
    for data in (
        json_of(KLING.created(view, REQUEST_ID))["data"],
        json_of(KLING.task(view, REQUEST_ID))["data"],
        *page,
    ):
        assert data["task_id"] == task.id
        assert data["task_status"] in {"submitted", "processing", "succeed", "failed"}
        assert isinstance(data["task_info"], dict)
        assert isinstance(data["created_at"], int)
        assert isinstance(data.get("task_status_msg", ""), str)
        is_done = data["task_status"] == "succeed"
        assert is_done == ("videos" in data.get("task_result", {}))
        videos = data["task_result"]["videos"] if is_done else []
        assert len(videos) == (count if is_done else 0)
        for video, link in zip(videos, links, strict=False):
            assert isinstance(video["id"], str)
            assert video["url"] == link
            assert float(video.get("duration", "1")) > 0
