"""Jimeng's API as Volcengine's own SDKs speak it."""

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
from proxy.dialects.jimeng import JimengDialect
from proxy.errors import (
    FAILURES,
    AuthFault,
    BudgetExceeded,
    EndpointNotFound,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    ModelNotFound,
    Moderated,
    ProxyError,
    RateLimited,
    TooManyInFlight,
    Unauthenticated,
    Unavailable,
    UnsupportedOperation,
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

JIMENG: Dialect = JimengDialect()
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01"
JPEG_BASE64 = base64.b64encode(JPEG).decode()
REQUEST_ID = "20240720103939AF0029465CF6A74E51EC"
LINK = "https://gateway.example.com/v1/videos/video_1/content?exp=1&sig=s"

# The body the signature vectors of the vendor's signer are made over.
SUBMIT = (
    b'{"req_key":"jimeng_t2v_v30","prompt":"A calico cat playing a piano on stage","seed":-1,'
    b'"frames":121,"aspect_ratio":"16:9"}'
)

TASK = Task(
    id="7392616336519610409",
    owner="o",
    token_id="t",
    dialect="jimeng",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="jimeng_t2v_v30",
    created_ms=1767225600000,
    updated_ms=1767225600000,
    provider="jimeng",
)


def call(operation: Operation = Operation.CREATE) -> Call:
    return Call("jimeng", operation, {}, {"Action": "…", "Version": "2022-08-31"})


def parsed(body: bytes | dict[str, Any]) -> VideoRequest:
    values = orjson.loads(body) if isinstance(body, bytes) else body
    return JIMENG.submission(call(), Fields(values), "default-model")


def reference(body: dict[str, Any]) -> str:
    return JIMENG.reference(call(Operation.GET), Fields(body))


def json_of(reply: Reply) -> Any:
    assert reply.headers["Content-Type"] == "application/json"
    return orjson.loads(reply.body)


# ---------------------------------------------------------------- endpoints


def test_both_actions_stand_where_sdks_sign_and_where_the_document_says() -> None:
    table = {(e.method, e.path, e.query): e.operation for e in JIMENG.endpoints}
    assert table == {
        ("POST", path, (("Action", action), ("Version", "2022-08-31"))): operation
        for path in ("/jimeng/", "/jimeng", "/")
        for action, operation in (
            ("CVSync2AsyncSubmitTask", Operation.CREATE),
            ("CVSync2AsyncGetResult", Operation.GET),
        )
    }
    assert len(table) == len(JIMENG.endpoints)


# ---------------------------------------------------------------- submits


def test_the_vendors_body_is_read_into_common_words() -> None:
    assert parsed(SUBMIT) == VideoRequest(
        operation=Operation.CREATE,
        dialect="jimeng",
        model="jimeng_t2v_v30",
        prompt="A calico cat playing a piano on stage",
        seconds=5.0,
        aspect_ratio="16:9",
        native={"seed": -1},
    )


def test_a_body_with_a_prompt_alone_takes_the_default_model() -> None:
    got = parsed({"prompt": "千军万马"})
    assert (got.model, got.prompt, got.kind) == ("default-model", "千军万马", Kind.TEXT)
    assert (got.seconds, got.seed) == (None, None)


@pytest.mark.parametrize(
    ("frames", "seconds"), [(25, 1.0), (121, 5.0), (241, 10.0), ("241", 10.0), (133, 5.5)]
)
def test_frames_are_24_a_second_and_one(frames: object, seconds: float) -> None:
    assert parsed({"prompt": "p", "frames": frames}).seconds == seconds


@pytest.mark.parametrize(("seed", "kept"), [(-1, None), (0, 0), (7, 7), ("7", 7)])
def test_a_seed_of_minus_one_means_none(seed: object, kept: int | None) -> None:
    """It stays among the client's own fields, for an upstream of the same kind."""
    request = parsed({"prompt": "p", "seed": seed})
    assert (request.seed, dict(request.native)) == (kept, {} if kept is not None else {"seed": -1})


def test_one_picture_is_the_first_frame_and_two_are_first_and_last() -> None:
    one = parsed({"image_urls": ["https://e.com/a.jpg"]})
    assert one.kind is Kind.IMAGE
    assert [(m.role, m.url) for m in one.media] == [(Role.FIRST_FRAME, "https://e.com/a.jpg")]
    two = parsed({"binary_data_base64": [JPEG_BASE64, JPEG_BASE64], "image_urls": []})
    assert [(m.role, m.param) for m in two.media] == [
        (Role.FIRST_FRAME, "binary_data_base64"),
        (Role.LAST_FRAME, "binary_data_base64"),
    ]
    assert [b"".join(m.blob.chunks()) for m in two.media if m.blob] == [JPEG, JPEG]


@pytest.mark.parametrize("name", ["callback_url", "webhook"])
def test_a_callback_has_two_names(name: str) -> None:
    got = parsed({"prompt": "p", name: "https://e.com/hook"})
    assert got.callback_url == "https://e.com/hook"
    assert got.native == {}


def test_one_models_fields_and_unknown_ones_survive_in_native_as_they_came() -> None:
    vendor = {
        "template_id": "hitchcock_dolly_in",
        "camera_strength": "strong",
        "invented_in_2027": {"deep": [None, True, 1.5, "é"]},
    }
    got = parsed({"prompt": "p", "unset": None, **vendor})
    assert got.native == vendor
    assert got.extra == {}


def test_a_prompt_of_exactly_800_characters_is_taken() -> None:
    assert parsed({"prompt": "猫" * 800}).prompt == "猫" * 800


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": "", "image_urls": []}, "prompt"),
        ({"prompt": "x" * 801}, "prompt"),
        ({"prompt": ["x"]}, "prompt"),
        ({"prompt": "p", "req_key": True}, "req_key"),
        ({"prompt": "p", "frames": 24}, "frames"),
        ({"prompt": "p", "frames": 121.5}, "frames"),
        ({"prompt": "p", "frames": "many"}, "frames"),
        ({"prompt": "p", "seed": -2}, "seed"),
        ({"prompt": "p", "seed": True}, "seed"),
        ({"prompt": "p", "aspect_ratio": "wide-ish"}, "aspect_ratio"),
        ({"image_urls": ["https://e.com/a"] * 3}, "image_urls"),
        ({"image_urls": [5]}, "image_urls"),
        ({"image_urls": ["https://"]}, "image_urls"),
        ({"binary_data_base64": ["not base64!"]}, "binary_data_base64"),
        ({"binary_data_base64": [""]}, "prompt"),
        ({"prompt": "p", "frames": 121, "duration": 10}, "frames"),
        (
            {"image_urls": ["https://e.com/a"], "binary_data_base64": [JPEG_BASE64]},
            "binary_data_base64",
        ),
        ({"prompt": "p", "webhook": "file:///etc/passwd"}, "webhook"),
        ({"prompt": "p", "whatever": ["\x00"]}, "whatever"),
    ],
)
def test_a_wrong_field_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        parsed(body)
    assert caught.value.param == param


@pytest.mark.parametrize("depth", [400, 1000])
def test_a_body_too_deep_to_be_written_again_is_a_client_error(depth: int) -> None:
    with pytest.raises(Invalid, match="nested too deep"):
        parsed(b'{"prompt":"p","x":' + b"[" * depth + b"]" * depth + b"}")


# ---------------------------------------------------------------- polls


@pytest.mark.parametrize(
    ("body", "task_id"),
    [
        ({"req_key": "jimeng_t2v_v30", "task_id": "7392616336519610409"}, "7392616336519610409"),
        ({"task_id": "video_0a"}, "video_0a"),
        ({"task_id": 7392616336519610409}, "7392616336519610409"),
        ({"task_id": "1", "req_json": '{"aigc_meta":{"producer_id":"x"}}'}, "1"),
        ({"task_id": "1", "req_json": ""}, "1"),
    ],
)
def test_a_poll_names_its_task(body: dict[str, Any], task_id: str) -> None:
    assert reference(body) == task_id


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "task_id"),
        ({"task_id": None}, "task_id"),
        ({"task_id": True}, "task_id"),
        ({"task_id": 1.5}, "task_id"),
        ({"task_id": "a\nb"}, "task_id"),
        ({"task_id": "1", "req_json": {"aigc_meta": {}}}, "req_json"),
        ({"task_id": "1", "req_json": "{"}, "req_json"),
    ],
)
def test_a_wrong_poll_field_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        reference(body)
    assert caught.value.param == param


# ---------------------------------------------------------------- answers


def metadata(action: bytes) -> bytes:
    """How an envelope begins: what the UniversalApi of volcengine-python-sdk looks for."""
    return (
        b'{"ResponseMetadata":{"RequestId":"20240720103939AF0029465CF6A74E51EC","Action":"'
        + action
        + b'","Version":"2022-08-31","Service":"cv","Region":"cn-north-1"}'
    )


def refused(action: str, code: int, word: str, message: str) -> dict[str, object]:
    return {
        "RequestId": REQUEST_ID,
        "Action": action,
        "Version": "2022-08-31",
        "Service": "cv",
        "Region": "cn-north-1",
        "Error": {"CodeN": code, "Code": word, "Message": message},
    }


def test_a_submit_is_answered_with_the_vendors_own_bytes() -> None:
    reply = JIMENG.created(View(TASK), REQUEST_ID)
    assert reply.status == 200
    assert reply.body == (
        metadata(b"CVSync2AsyncSubmitTask") + b',"Result":{"task_id":"7392616336519610409"},'
        b'"code":10000,"data":{"task_id":"7392616336519610409"},"message":"Success",'
        b'"request_id":"20240720103939AF0029465CF6A74E51EC","status":10000,"time_elapsed":"0ms"}'
    )


@pytest.mark.parametrize(
    ("stage", "data"),
    [
        (Stage.RESERVED, b'{"status":"in_queue"}'),
        (Stage.SENT, b'{"status":"in_queue"}'),
        (Stage.BOUND, b'{"status":"in_queue"}'),
        (Stage.QUEUED, b'{"status":"in_queue"}'),
        (Stage.IN_PROGRESS, b'{"status":"generating"}'),
        (
            Stage.COMPLETED,
            b'{"aigc_meta_tagged":false,"status":"done","video_url":"' + LINK.encode() + b'"}',
        ),
    ],
)
def test_a_poll_is_answered_with_the_vendors_own_bytes(stage: Stage, data: bytes) -> None:
    links = (LINK,) if stage is Stage.COMPLETED else ()
    reply = JIMENG.task(View(replace(TASK, stage=stage), links), REQUEST_ID)
    assert reply.status == 200
    assert reply.body == (
        metadata(b"CVSync2AsyncGetResult") + b',"Result":' + data + b","
        b'"code":10000,"data":' + data + b',"message":"Success",'
        b'"request_id":"20240720103939AF0029465CF6A74E51EC","status":10000,"time_elapsed":"0ms"}'
    )


def test_a_jimeng_upstreams_own_members_follow_ours_and_never_replace_them() -> None:
    native = {"status": "in_queue", "resp_data": "{}", "image_urls": None}
    task = replace(TASK, stage=Stage.IN_PROGRESS, native=native)
    assert json_of(JIMENG.task(View(task), REQUEST_ID))["data"] == {
        "status": "generating",
        "resp_data": "{}",
        "image_urls": None,
    }
    foreign = replace(task, provider="kling")
    assert json_of(JIMENG.task(View(foreign), REQUEST_ID))["data"] == {"status": "generating"}


@pytest.mark.parametrize(
    ("provider", "error", "code", "kind"),
    [
        ("kling", TaskError("moderation_blocked", "m"), 50516, "invalid_request_error"),
        ("kling", TaskError("moderation_blocked", "m", "50412"), 50516, "invalid_request_error"),
        ("jimeng", TaskError("moderation_blocked", "m", "50412"), 50412, "invalid_request_error"),
        ("jimeng", TaskError("moderation_blocked", "m", "50519"), 50519, "invalid_request_error"),
        ("kling", TaskError("invalid_input", "m"), 50200, "invalid_request_error"),
        ("jimeng", TaskError("upstream_error", "m", "50501"), 50501, "server_error"),
        ("jimeng", TaskError("rate_limited", "m", "50429"), 50500, "server_error"),
        ("jimeng", TaskError("upstream_error", "m", "garbage"), 50500, "server_error"),
        ("kling", TaskError("timeout", "m"), 50500, "server_error"),
    ],
)
def test_a_failed_task_is_told_by_the_outer_code_and_no_data(
    provider: str, error: TaskError, code: int, kind: str
) -> None:
    """Never a code or status that asks the client to poll again."""
    task = replace(TASK, stage=Stage.FAILED, provider=provider, error=error)
    reply = JIMENG.task(View(task), REQUEST_ID)
    assert reply.status == 400
    assert json_of(reply) == {
        "ResponseMetadata": refused("CVSync2AsyncGetResult", code, error.code, "m"),
        "Result": None,
        "code": code,
        "data": None,
        "message": "m",
        "request_id": REQUEST_ID,
        "status": code,
        "time_elapsed": "0ms",
        "error": {"message": "m", "type": kind, "param": None, "code": error.code},
    }


@pytest.mark.parametrize(
    ("error", "word"),
    [
        (TaskError("expired", "m", "not_found"), "not_found"),
        (TaskError("expired", "m", "expired"), "expired"),
        (TaskError("expired", "m"), "expired"),
    ],
)
def test_a_task_the_provider_no_longer_has_is_told_by_its_state(
    error: TaskError, word: str
) -> None:
    """As the vendor does: a success, since clients look at `data.status` for it."""
    reply = JIMENG.task(View(replace(TASK, stage=Stage.FAILED, error=error)), REQUEST_ID)
    assert (reply.status, json_of(reply)["data"]) == (200, {"status": word})


def test_a_failed_task_without_a_reason_is_still_a_failure() -> None:
    body = json_of(JIMENG.task(View(replace(TASK, stage=Stage.FAILED)), REQUEST_ID))
    assert (body["code"], body["message"]) == (50500, FAILURES["upstream_error"])


@pytest.mark.parametrize("answer", [JIMENG.created, JIMENG.task])
@pytest.mark.parametrize("stage", [Stage.RESERVED, Stage.FAILED])
def test_what_was_adjusted_or_dropped_is_told_in_headers(answer: Any, stage: Stage) -> None:
    task = replace(TASK, stage=stage, adjusted=("seconds=8>10",), dropped=("seed",))
    headers = answer(View(task), REQUEST_ID).headers
    assert headers["reelway-adjusted"] == "seconds=8>10"
    assert headers["reelway-dropped"] == "seed"


def test_a_missing_task_is_a_success_that_says_not_found() -> None:
    reply = JIMENG.missing(call(Operation.GET), "video_x", REQUEST_ID)
    assert reply.status == 200
    body = json_of(reply)
    assert (body["code"], body["data"], body["status"]) == (10000, {"status": "not_found"}, 10000)


ERRORS: list[tuple[ProxyError, int, int]] = [
    (Invalid("x", param="frames"), 400, 50200),
    (BudgetExceeded("x"), 402, 50400),
    (Forbidden("x"), 403, 50400),
    (ModelNotFound("x"), 404, 50400),
    (RateLimited("x", retry_after_s=3), 429, 50429),
    (TooManyInFlight("x"), 429, 50430),
    (Moderated("x"), 400, 50412),
    (UpstreamFailed("x"), 502, 50500),
    (Unavailable("x"), 503, 50500),
    (ProxyError("x"), 500, 50500),
]


@pytest.mark.parametrize(
    ("error", "status", "code"), ERRORS, ids=[type(e).__name__ for e, _, _ in ERRORS]
)
def test_an_error_has_the_vendors_number_and_ours_beside_it(
    error: ProxyError, status: int, code: int
) -> None:
    reply = JIMENG.failure(error, REQUEST_ID)
    assert reply.status == status
    assert json_of(reply) == {
        "ResponseMetadata": refused("", code, error.code, "x"),
        "Result": None,
        "code": code,
        "data": None,
        "message": "x",
        "request_id": REQUEST_ID,
        "status": code,
        "time_elapsed": "0ms",
        "error": {"message": "x", "type": error.type, "param": error.param, "code": error.code},
    }
    assert {k: v for k, v in reply.headers.items() if k != "Content-Type"} == error.headers


GATEWAY_ERRORS: list[tuple[ProxyError, int, int, str]] = [
    (Unauthenticated("x", AuthFault.MISSING), 401, 100003, "MissingAuthenticationToken"),
    (Unauthenticated("x", AuthFault.MALFORMED), 401, 100005, "MissingSignature"),
    (Unauthenticated("x", AuthFault.UNKNOWN), 401, 100009, "InvalidAccessKey"),
    (Unauthenticated("x", AuthFault.REVOKED), 401, 100009, "InvalidAccessKey"),
    (Unauthenticated("x", AuthFault.EXPIRED), 401, 100009, "InvalidAccessKey"),
    (Unauthenticated("x", AuthFault.NOT_YET), 401, 100006, "InvalidTimestamp"),
    (Unauthenticated("x", AuthFault.SIGNATURE), 401, 100010, "SignatureDoesNotMatch"),
    (Unauthenticated("x", AuthFault.TIMESTAMP), 401, 100006, "InvalidTimestamp"),
    (EndpointNotFound("x"), 404, 100008, "InvalidActionOrVersion"),
    (MethodNotAllowed("x", ("POST",)), 405, 100008, "InvalidActionOrVersion"),
]


@pytest.mark.parametrize(
    ("error", "status", "number", "word"),
    GATEWAY_ERRORS,
    ids=[f"{type(e).__name__}-{getattr(e, 'fault', '')}" for e, _, _, _ in GATEWAY_ERRORS],
)
def test_what_the_vendors_gateway_would_refuse_has_its_metadata_too(
    error: ProxyError, status: int, number: int, word: str
) -> None:
    reply = JIMENG.failure(error, REQUEST_ID)
    assert reply.status == status
    body = json_of(reply)
    assert (body["code"], body["status"], body["data"]) == (number, number, None)
    assert body["error"]["code"] == error.code
    assert body["ResponseMetadata"] == {
        "RequestId": REQUEST_ID,
        "Action": "",
        "Version": "2022-08-31",
        "Service": "cv",
        "Region": "cn-north-1",
        "Error": {"CodeN": number, "Code": word, "Message": "x"},
    }


def test_every_auth_fault_has_a_number() -> None:
    told = {error.fault for error, *_ in GATEWAY_ERRORS if isinstance(error, Unauthenticated)}
    assert told == set(AuthFault)


def test_what_jimeng_cannot_be_asked_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedOperation):
        JIMENG.page(call(Operation.LIST))
    with pytest.raises(UnsupportedOperation):
        JIMENG.listing(PageRequest(1), [], False, REQUEST_ID)
    with pytest.raises(UnsupportedOperation):
        JIMENG.deleted(View(TASK), REQUEST_ID)


# ---------------------------------------------------------------- for any input

# The same examples on every run, and no clock: the machine may be busy.
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

WORDS = """
req_key prompt seed frames aspect_ratio image_urls binary_data_base64 callback_url webhook
template_id task_id req_json other
"""
NAMES = WORDS.split()
# What a JSON parser can make: 64-bit integers, finite numbers, text without surrogates.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["121", "16:9", "https://e.com/a.png", JPEG_BASE64, "a\rb", "\x00", "{}"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
BODIES = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), JSON, max_size=6)


@STEADY
@given(BODIES)
def test_any_body_is_a_request_or_a_client_error(body: dict[str, Any]) -> None:
    try:
        got = parsed(body)
    except Invalid:
        return
    assert got.model
    assert got.media or got.prompt
    orjson.dumps([got.native, remembered(got)])


@STEADY
@given(BODIES)
def test_any_poll_names_a_task_or_is_a_client_error(body: dict[str, Any]) -> None:
    try:
        got = reference(body)
    except Invalid:
        return
    assert got


TASKS = st.builds(
    replace,
    st.just(TASK),
    stage=st.sampled_from(Stage),
    provider=st.sampled_from(["kling", "jimeng", "openai"]),
    results=st.lists(st.builds(Result, id=st.none() | st.text(max_size=4)), max_size=2).map(tuple),
    error=st.none()
    | st.builds(
        TaskError,
        st.sampled_from(sorted(FAILURES)),
        st.text(max_size=9),
        st.none() | st.sampled_from(["50429", "50430", "50511", "²"]) | st.text(max_size=5),
    ),
    native=st.dictionaries(st.text(max_size=6) | st.sampled_from(["status", "video_url"]), JSON),
)


@STEADY
@given(TASKS, st.booleans())
def test_any_task_is_told_in_the_vendors_envelope(task: Task, has_link: bool) -> None:
    links = (LINK,) if has_link and task.stage is Stage.COMPLETED else ()
    for reply in (
        JIMENG.created(View(task, links), REQUEST_ID),
        JIMENG.task(View(task, links), REQUEST_ID),
    ):
        body = json_of(reply)
        assert (body["code"] == 10000) == (reply.status == 200) == (body["data"] is not None)
        assert body["status"] == body["code"]
        assert body["code"] not in {50429, 50430}
        assert isinstance(body["message"], str)
        data = body["data"] or {"task_id": None}
        words = {"in_queue", "generating", "done", "not_found", "expired"}
        assert "task_id" in data or data["status"] in words
        if data.get("status") == "done":
            assert data["video_url"] == (LINK if has_link else "")
