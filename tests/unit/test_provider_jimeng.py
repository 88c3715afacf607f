"""What Jimeng is sent, to the byte and its signature, and what its answers mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from pydantic import ValidationError

from proxy.errors import (
    FAILURES,
    Invalid,
    Moderated,
    NotFound,
    ProxyError,
    RateLimited,
    TooManyInFlight,
    Unavailable,
    UnsupportedOperation,
    UpstreamFailed,
)
from proxy.http import body_writer
from proxy.http.outbound import Draft, Outbound, Rendered, Terms
from proxy.model import (
    Credential,
    DialectName,
    Kind,
    Media,
    Operation,
    Result,
    Role,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
    VideoRequest,
)
from proxy.providers.base import Provider
from proxy.providers.jimeng import Jimeng, JimengOptions
from proxy.providers.outcomes import Accepted, Refused, Transient, Unknown

JIMENG: Provider = Jimeng()
NOW = 1767225600
KEYS = Credential(
    "j1",
    access_key="AKLTEXAMPLEACCESSKEY0000000001",
    secret_key="ZXhhbXBsZS1zZWNyZXQta2V5LWZvci10ZXN0cw==",
)
UPSTREAM = Upstream("jimeng-main", "jimeng", "https://visual.volcengineapi.com", (KEYS,))
NO_HEADERS: Mapping[str, str] = CIMultiDict()

T2V, FIRST_KEY, TAIL_KEY = "jimeng_t2v_v30", "jimeng_i2v_first_v30", "jimeng_i2v_first_tail_v30"
HD = "jimeng_t2v_v30_1080p"
PRO = "jimeng_ti2v_v30_pro"
S20 = "jimeng_vgfm_t2v_l20"


@dataclass(frozen=True)
class Picture:
    data: bytes = b"cat"
    content_type: str = "image/png"
    filename: str = "cat.png"
    claimed: int | None = None

    @property
    def size(self) -> int:
        return len(self.data) if self.claimed is None else self.claimed

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        yield self.data


FIRST = Media(Role.FIRST_FRAME, "image", url="https://pics.example/a.png")
LAST = Media(Role.LAST_FRAME, "image_tail", url="https://pics.example/b.png")
UPLOAD = Media(Role.FIRST_FRAME, "input_reference", blob=Picture())
LAST_UPLOAD = Media(Role.LAST_FRAME, "image_tail", blob=Picture(b"dog"))


def asked(dialect: DialectName = "openai", **fields: Any) -> VideoRequest:
    return VideoRequest(Operation.CREATE, dialect, "sora-2", **{"prompt": "A cat", **fields})


def drafted(request: VideoRequest, model: str = T2V) -> Draft:
    return JIMENG.draft(request, "gw-0001", UPSTREAM, model, None)


def bytes_of(outbound: Outbound) -> bytes:
    return b"".join(body_writer.encoded(outbound.pieces))


def sent(request: VideoRequest, model: str = T2V) -> dict[str, Any]:
    """The body without the prompt."""
    body: dict[str, Any] = orjson.loads(
        bytes_of(JIMENG.seal(drafted(request, model), UPSTREAM, KEYS, NOW))
    )
    assert body.pop("prompt", None) in ("A cat", None)
    return body


def told(draft: Draft) -> list[str]:
    return [str(adjustment) for adjustment in draft.adjusted]


def task(**fields: Any) -> Task:
    known: dict[str, Any] = {
        "id": "gw-0001",
        "owner": "o",
        "token_id": "t",
        "dialect": "openai",
        "operation": Operation.CREATE,
        "kind": Kind.TEXT,
        "model": "sora-2",
        "created_ms": 1767225600000,
        "updated_ms": 1767225600000,
        "upstream_id": "7392616336519610409",
        "handle": {"req_key": T2V},
    }
    return Task(**{**known, **fields})


# ---------------------------------------------------------------- the golden exchange

GOLDEN = asked(
    "jimeng",
    prompt="A calico cat playing a piano on stage",
    seed=-1,
    seconds=5.0,
    aspect_ratio="16:9",
)
GOLDEN_BODY = (
    b'{"req_key":"jimeng_t2v_v30","prompt":"A calico cat playing a piano on stage",'
    b'"seed":-1,"frames":121,"aspect_ratio":"16:9"}'
)
SCOPE = "AKLTEXAMPLEACCESSKEY0000000001/20260101/cn-north-1/cv/request"
SIGNED_HEADERS = "content-type;host;x-content-sha256;x-date"


def authorization(signature: str, signed_headers: str = SIGNED_HEADERS) -> str:
    return f"HMAC-SHA256 Credential={SCOPE}, SignedHeaders={signed_headers}, Signature={signature}"


def test_the_golden_submit_byte_for_byte() -> None:
    outbound = JIMENG.seal(drafted(GOLDEN), UPSTREAM, KEYS, NOW)
    assert bytes_of(outbound) == GOLDEN_BODY
    assert outbound.length == 122
    assert outbound.method == "POST"
    assert outbound.url == (
        "https://visual.volcengineapi.com/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31"
    )
    assert dict(outbound.headers) == {
        "Host": "visual.volcengineapi.com",
        "Content-Type": "application/json",
        "X-Date": "20260101T000000Z",
        "X-Content-Sha256": "be40260802eabd46de3d89e2365a0851851b8c1d7d4d9feced17cbfb862061f1",
        "Authorization": authorization(
            "ab8f92d10a81aac76291a6db9f1b048e938813e52a4e2da591c8414288fed741"
        ),
    }


def test_the_golden_poll_byte_for_byte() -> None:
    outbound = JIMENG.seal(JIMENG.poll(task(), UPSTREAM), UPSTREAM, KEYS, NOW)
    assert bytes_of(outbound) == b'{"req_key":"jimeng_t2v_v30","task_id":"7392616336519610409"}'
    assert outbound.length == 60
    assert outbound.url == (
        "https://visual.volcengineapi.com/?Action=CVSync2AsyncGetResult&Version=2022-08-31"
    )
    assert outbound.headers["X-Content-Sha256"] == (
        "fb9ad4e9500a5f8ce1fba86a5f8708142a074934631f559598ad89fbf5a8c123"
    )
    assert outbound.headers["Authorization"] == authorization(
        "07097e4255b4123e1a15b39700a17b3006bc8617ac7f491a04db13af9309689a"
    )


def test_a_utf8_prompt_is_signed_as_its_bytes() -> None:
    outbound = JIMENG.seal(drafted(asked(prompt="千军万马")), UPSTREAM, KEYS, NOW)
    assert outbound.length == 52
    assert outbound.headers["Authorization"] == authorization(
        "7ce86b79a6aaf58dfea3dc3736d0d171cc856d9983d8178cea0b1361378f3697"
    )


@pytest.mark.parametrize(
    ("base_url", "url", "host", "signature"),
    [
        (
            "http://127.0.0.1:8080/jimeng",
            "http://127.0.0.1:8080/jimeng/",
            "127.0.0.1:8080",
            "cc65a408ebb47a03799e647a6f69ed00d3e6f5f2c80683751bc34ae28d81965a",
        ),
        (
            "https://gateway.example.com:443/jimeng",
            "https://gateway.example.com:443/jimeng/",
            "gateway.example.com:443",
            "3276a606a2eca1c194ae1f01408cfef1aeb3a5027adc3757e308bb77c187ff18",
        ),
        (
            "https://user:pass@gateway.example.com/jimeng",
            "https://user:pass@gateway.example.com/jimeng/",
            "gateway.example.com",
            "3276a606a2eca1c194ae1f01408cfef1aeb3a5027adc3757e308bb77c187ff18",
        ),
    ],
)
def test_the_host_and_path_that_are_sent_are_signed(
    base_url: str, url: str, host: str, signature: str
) -> None:
    upstream = replace(UPSTREAM, base_url=base_url)
    outbound = JIMENG.seal(drafted(GOLDEN), upstream, KEYS, NOW)
    assert outbound.url.partition("?")[0] == url
    assert outbound.headers["Host"] == host
    assert outbound.headers["Authorization"] == authorization(signature)


def test_operator_headers_are_signed_when_the_scheme_signs_them() -> None:
    upstream = replace(UPSTREAM, headers={"X-Team": "a", "Via": "b"})
    outbound = JIMENG.seal(drafted(GOLDEN), upstream, KEYS, NOW)
    assert outbound.headers["X-Team"] == "a"
    assert (
        "SignedHeaders=content-type;host;x-content-sha256;x-date;x-team,"
        in (outbound.headers["Authorization"])
    )


def test_paths_can_be_configured() -> None:
    upstream = replace(UPSTREAM, paths={"submit": "/a/", "poll": "/b/"})
    assert JIMENG.draft(asked(), "gw-0001", upstream, T2V, None).path == "/a/"
    assert JIMENG.poll(task(), upstream).path == "/b/"


# ---------------------------------------------------------------- drafting


def test_what_the_client_did_not_say_is_left_to_the_routes_defaults() -> None:
    draft = drafted(asked())
    assert sent(asked()) == {"req_key": T2V}
    assert (draft.adjusted, draft.dropped) == ((), ())


@pytest.mark.parametrize(
    ("model", "media", "req_key"),
    [
        (T2V, (), T2V),
        (T2V, (FIRST,), FIRST_KEY),
        (T2V, (FIRST, LAST), TAIL_KEY),
        (HD, (), HD),
        (HD, (FIRST,), "jimeng_i2v_first_v30_1080"),  # without the p
        (HD, (LAST, FIRST), "jimeng_i2v_first_tail_v30_1080"),
        (PRO, (), PRO),
        (PRO, (FIRST,), PRO),
        (S20, (FIRST,), "jimeng_vgfm_i2v_l20"),
        (FIRST_KEY, (FIRST,), FIRST_KEY),
        (FIRST_KEY, (FIRST, LAST), TAIL_KEY),
        (TAIL_KEY, (FIRST, LAST), TAIL_KEY),
        ("jimeng_i2v_recamera_v30", (FIRST,), "jimeng_i2v_recamera_v30"),
        ("jimeng_of_tomorrow", (FIRST,), "jimeng_of_tomorrow"),
        ("jimeng_of_tomorrow", (FIRST, LAST), "jimeng_of_tomorrow"),
    ],
)
def test_pictures_choose_the_req_key(model: str, media: tuple[Media, ...], req_key: str) -> None:
    draft = drafted(asked(media=media), model)
    assert draft.fields["req_key"] == req_key
    assert draft.handle == {"req_key": req_key}


def test_a_rewrite_cannot_part_the_submit_from_its_poll() -> None:
    """A GetResult under another req_key never finds the task: what draft chose is what is sent."""
    draft = drafted(asked())
    rewritten = replace(draft, fields={**draft.fields, "req_key": "other"})
    outbound = JIMENG.seal(rewritten, UPSTREAM, KEYS, NOW)
    assert bytes_of(outbound).startswith(b'{"req_key":"jimeng_t2v_v30",')


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ((FIRST,), {"image_urls": [FIRST.url]}),
        ((LAST, FIRST), {"image_urls": [FIRST.url, LAST.url]}),
        ((UPLOAD,), {"binary_data_base64": ["Y2F0"]}),
        ((UPLOAD, LAST_UPLOAD), {"binary_data_base64": ["Y2F0", "ZG9n"]}),
    ],
)
def test_pictures_travel_as_urls_or_bare_base64(
    media: tuple[Media, ...], body: dict[str, Any]
) -> None:
    fields = sent(asked(media=media))
    del fields["req_key"]
    assert fields == body


@pytest.mark.parametrize(
    ("seconds", "frames", "adjusted"),
    [
        (5, 121, []),
        (10, 241, []),
        (4, 121, ["seconds=4>5"]),
        (8, 241, ["seconds=8>10"]),
        (5.5, 241, ["seconds=5.5>10"]),
    ],
)
def test_seconds_become_frames(seconds: float, frames: int, adjusted: list[str]) -> None:
    draft = drafted(asked(seconds=seconds))
    assert draft.fields["frames"] == frames
    assert told(draft) == adjusted


def test_s20_has_one_length_and_no_frames() -> None:
    draft = drafted(asked(seconds=4, aspect_ratio="9:21"), S20)
    assert "frames" not in draft.fields
    assert draft.fields["aspect_ratio"] == "9:21"
    assert told(draft) == ["seconds=4>5"]


@pytest.mark.parametrize(
    ("model", "fields", "aspect_ratio", "adjusted"),
    [
        (T2V, {"size": (1280, 720)}, "16:9", ["size=1280x720>1248x704"]),
        (T2V, {"size": (1248, 704)}, "16:9", []),
        (T2V, {"size": (720, 1280)}, "9:16", ["size=720x1280>704x1248"]),
        (T2V, {"size": (640, 480)}, "4:3", ["size=640x480>1120x832"]),
        (HD, {"size": (1920, 1080)}, "16:9", ["size=1920x1080>1920x1088"]),
        (HD, {"size": (1024, 1792)}, "9:16", ["size=1024x1792>1088x1920"]),
        (PRO, {"size": (1440, 1440)}, "1:1", []),
        (S20, {"size": (720, 1280)}, "9:16", ["size=720x1280>9:16"]),
        (T2V, {"aspect_ratio": "21:9"}, "21:9", []),
        (T2V, {"aspect_ratio": "9:21"}, "9:16", ["aspect_ratio=9:21>9:16"]),
        (T2V, {"resolution": "720p"}, None, []),
        (T2V, {"resolution": "480p"}, None, ["resolution=480p>720p"]),
        (HD, {"mode": "std"}, None, ["mode=std>1080p"]),
        (HD, {"mode": "pro"}, None, []),
    ],
)
def test_shapes(
    model: str, fields: dict[str, Any], aspect_ratio: str | None, adjusted: list[str]
) -> None:
    draft = drafted(asked(**fields), model)
    assert draft.fields.get("aspect_ratio") == aspect_ratio
    assert told(draft) == adjusted
    assert draft.dropped == ()


def test_a_picture_keeps_its_shape() -> None:
    draft = drafted(asked(media=(FIRST,), size=(1280, 720), aspect_ratio="16:9"))
    assert "aspect_ratio" not in draft.fields
    assert draft.dropped == ("aspect_ratio",)


@pytest.mark.parametrize(
    ("request_", "model", "param", "accepted"),
    [
        (asked(seconds=12), T2V, "seconds", "5 or 10 seconds"),
        (asked("jimeng", seconds=12), T2V, "frames", "5 or 10 seconds"),
        (asked("generic", seconds=10), S20, "duration", "renders 5 seconds"),
        (asked(size=(1920, 1080)), T2V, "size", "renders 720"),
        (asked(size=(1440, 1440)), T2V, "size", "renders 960"),
        (asked("generic", resolution="1080p"), T2V, "resolution", "renders 720"),
        (asked("kling", mode="pro"), T2V, "mode", "renders 720"),
        (asked(mode="turbo"), T2V, "mode", "std or pro"),
        (asked(aspect_ratio="wide"), T2V, "aspect_ratio", "16:9, 9:16, 4:3, 3:4, 1:1, 21:9"),
        (asked(n=4), T2V, "n", "must be 1"),
        (asked(audio=True), T2V, "audio", "without sound"),
        (asked(prompt="x" * 801), T2V, "prompt", "at most 800"),
        (asked(media=(LAST,)), T2V, "image_tail", "needs a first frame"),
        (asked(media=(FIRST, LAST)), PRO, "image_tail", "takes one picture"),
        (asked(media=(FIRST,)), TAIL_KEY, "image", "a first and a last frame"),
        (asked(), FIRST_KEY, "input_reference", "starts from a picture"),
        (asked("jimeng"), TAIL_KEY, "image_urls", "starts from a picture"),
        (asked(media=(FIRST, LAST_UPLOAD)), T2V, "image_tail", "two uploads or two URLs"),
        (asked(media=(UPLOAD, LAST)), T2V, "input_reference", "two uploads or two URLs"),
        (
            asked(media=(Media(Role.FIRST_FRAME, "image", blob=Picture(claimed=4_700_001)),)),
            T2V,
            "image",
            "at most 4700000",
        ),
        (asked("kling", native={"multi_shot": True}), T2V, "multi_shot", "leave it out"),
        (asked("kling", native={"camera_control": {"type": "simple"}}), T2V, "camera_control", ""),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    request_: VideoRequest, model: str, param: str, accepted: str
) -> None:
    with pytest.raises(Invalid) as caught:
        drafted(request_, model)
    assert caught.value.param == param
    assert accepted in caught.value.message


def test_jimeng_only_creates() -> None:
    with pytest.raises(UnsupportedOperation):
        drafted(replace(asked(), operation=Operation.REMIX))


def test_soft_fields_are_dropped_but_the_seed_is_known() -> None:
    request = asked(seed=7, fps=24, user="u1", negative_prompt="dogs", extra={"steps": 30})
    assert sent(request) == {"req_key": T2V, "seed": 7}
    assert drafted(request).dropped == ("negative_prompt", "fps", "user", "steps")


def test_a_jimeng_clients_own_fields_survive_and_replace_nothing() -> None:
    request = asked(
        "jimeng",
        media=(FIRST,),
        native={
            "template_id": "robo_arm",
            "camera_strength": "weak",
            "req_key": "theirs",
            "callback_url": "https://client.example/hook",
            "frames": 7,
        },
        callback_url="https://client.example/hook",
    )
    assert sent(request, "jimeng_i2v_recamera_v30") == {
        "req_key": "jimeng_i2v_recamera_v30",
        "image_urls": [FIRST.url],
        "template_id": "robo_arm",
        "camera_strength": "weak",
    }


def test_another_vendors_harmless_fields_are_dropped() -> None:
    request = asked("kling", native={"cfg_scale": 0.5, "multi_shot": False})
    assert sent(request) == {"req_key": T2V}
    assert drafted(request).dropped == ("cfg_scale",)


@pytest.mark.parametrize(
    ("request_", "model", "rewritten", "expected"),
    [
        (asked(), T2V, {}, Rendered(5, (1248, 704))),
        (asked(seconds=8, aspect_ratio="9:16"), T2V, {}, Rendered(10, (704, 1248))),
        (asked(), HD, {"frames": 241}, Rendered(10, (1920, 1088))),
        (asked(media=(FIRST,)), T2V, {}, Rendered(5, None)),
        (asked(media=(UPLOAD,)), T2V, {}, Rendered(5, None)),
        (asked(), S20, {}, Rendered(5, None)),
        (asked(), "jimeng_of_tomorrow", {}, Rendered(5, None)),
        (asked(), T2V, {"frames": "many", "aspect_ratio": "2:1"}, Rendered(None, None)),
    ],
)
def test_what_the_rewritten_draft_will_make(
    request_: VideoRequest, model: str, rewritten: dict[str, Any], expected: Rendered
) -> None:
    draft = drafted(request_, model)
    assert (
        JIMENG.rendered(replace(draft, fields={**draft.fields, **rewritten}), UPSTREAM) == expected
    )


# ---------------------------------------------------------------- answers to a submit


def envelope(code: object = 10000, data: object = None, **more: object) -> bytes:
    return orjson.dumps(
        {"code": code, "data": data, "message": "Success", "request_id": "r", **more}
    )


def top_error(code: object) -> bytes:
    error = {"CodeN": code, "Code": "SignatureDoesNotMatch", "Message": "m"}
    return orjson.dumps({"ResponseMetadata": {"RequestId": "r", "Error": error}})


def test_accepted() -> None:
    body = envelope(10000, {"task_id": "7392616336519610409"}, status=10000, time_elapsed="1ms")
    assert JIMENG.outcome(200, NO_HEADERS, body, UPSTREAM) == Accepted("7392616336519610409")


REFUSALS: list[tuple[int, int, type[ProxyError], bool]] = [
    # HTTP, code, what the client is told, whether another credential may do
    (400, 50411, Moderated, False),
    (400, 50412, Moderated, False),
    (400, 50413, Moderated, False),
    (400, 50511, Moderated, False),
    (400, 50512, Moderated, False),
    (400, 50516, Moderated, False),
    (400, 50517, Moderated, False),
    (400, 50518, Moderated, False),
    (400, 50519, Moderated, False),
    (400, 50520, UpstreamFailed, True),
    (400, 50521, UpstreamFailed, True),
    (400, 50522, UpstreamFailed, True),
    (400, 50200, Invalid, False),
    (400, 50400, Unavailable, True),
    (401, 50400, Unavailable, True),
    (429, 50429, RateLimited, True),
    (429, 50430, TooManyInFlight, True),
    (200, 50430, TooManyInFlight, True),  # HTTP 200 is not success
    (400, 50999, Invalid, False),  # nobody documents it: by the status
]


@pytest.mark.parametrize(("status", "code", "error", "elsewhere"), REFUSALS)
def test_refused(status: int, code: int, error: type[ProxyError], elsewhere: bool) -> None:
    outcome = JIMENG.outcome(status, NO_HEADERS, envelope(code, message="why"), UPSTREAM)
    assert isinstance(outcome, Refused)
    assert type(outcome.error) is error
    assert outcome.elsewhere is elsewhere
    assert outcome.provider_code == str(code)


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, 100002, UpstreamFailed),
        (401, 100003, Unavailable),
        (400, 100004, UpstreamFailed),
        (401, 100005, Unavailable),
        (403, 100006, Unavailable),
        (400, 100006, Unavailable),
        (404, 100007, UpstreamFailed),
        (404, 100008, UpstreamFailed),
        (401, 100009, Unavailable),
        (401, 100010, Unavailable),
        (403, 100012, Unavailable),
        (403, 100013, Unavailable),
        (200, 100010, Unavailable),
    ],
)
def test_refused_before_the_service(status: int, code: int, error: type[ProxyError]) -> None:
    """Our key, clock or path: never the client's business, perhaps another credential's luck."""
    outcome = JIMENG.outcome(status, NO_HEADERS, top_error(code), UPSTREAM)
    assert isinstance(outcome, Refused)
    assert type(outcome.error) is error
    assert outcome.elsewhere
    assert "SignatureDoesNotMatch" not in outcome.error.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, envelope(50500)),
        (500, envelope(50501)),
        (500, top_error(100099)),
        (502, b"<html>"),
        (503, b""),
        (200, b""),
        (200, b"[]"),
        (200, envelope(10000)),
        (200, envelope(10000, {"task_id": None})),
        (200, envelope(50500)),
        (500, envelope(10000)),
        (200, envelope(50999)),
    ],
)
def test_anything_that_proves_nothing_is_unknown(status: int, body: bytes) -> None:
    assert isinstance(JIMENG.outcome(status, NO_HEADERS, body, UPSTREAM), Unknown)


def test_moderation_says_what_the_provider_said() -> None:
    body = envelope(50413, message="Post Text Risk Not Pass")
    outcome = JIMENG.outcome(400, NO_HEADERS, body, UPSTREAM)
    assert isinstance(outcome, Refused)
    assert outcome.error.message == (
        "The provider's content rules refused the request: Post Text Risk Not Pass"
    )


# ---------------------------------------------------------------- polls

URL = "https://v3-artist.vlabvod.com/x.mp4?a=4066&sig=a%2Fb"
HOUR_MS = 3600 * 1000


def polled(body: bytes, status: int = 200) -> TaskState | Transient:
    return JIMENG.state(task(), status, NO_HEADERS, body)


def test_the_golden_result_lives_an_hour_from_its_answer() -> None:
    body = envelope(
        10000,
        {
            "aigc_meta_tagged": False,
            "status": "done",
            "video_url": URL,
            "binary_data_base64": None,
            "resp_data": None,
        },
    )
    headers = CIMultiDict({"date": "Thu, 01 Jan 2026 00:01:00 GMT"})
    expires_ms = 1767225660000 + HOUR_MS
    assert JIMENG.state(task(), 200, headers, body) == TaskState(
        Status.COMPLETED,
        progress=100,
        results=(Result(URL, expires_ms=expires_ms),),
        native={"aigc_meta_tagged": False},
        expires_ms=expires_ms,
    )
    undated = JIMENG.state(task(), 200, NO_HEADERS, body)
    assert isinstance(undated, TaskState)
    assert undated.expires_ms == 1767225600000 + HOUR_MS


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("in_queue", TaskState(Status.QUEUED)),
        ("generating", TaskState(Status.IN_PROGRESS)),
        ("processing", TaskState(Status.IN_PROGRESS)),
        ("dreaming", TaskState(Status.IN_PROGRESS, unknown_state="dreaming")),
        (
            "not_found",
            TaskState(
                Status.FAILED,
                error=TaskError("expired", "The provider no longer has this task.", "not_found"),
            ),
        ),
        (
            "expired",
            TaskState(
                Status.FAILED,
                error=TaskError("expired", "The provider no longer has this task.", "expired"),
            ),
        ),
    ],
)
def test_states(word: str, expected: TaskState) -> None:
    assert polled(envelope(10000, {"status": word})) == expected


@pytest.mark.parametrize(
    ("status", "code", "data", "failure"),
    [
        (400, 50411, None, "moderation_blocked"),
        (400, 50412, None, "moderation_blocked"),
        (400, 50413, None, "moderation_blocked"),
        (400, 50511, None, "moderation_blocked"),
        (400, 50512, None, "moderation_blocked"),
        (400, 50516, None, "moderation_blocked"),
        (400, 50517, None, "moderation_blocked"),
        (400, 50518, None, "moderation_blocked"),
        (400, 50519, None, "moderation_blocked"),
        (200, 50516, None, "moderation_blocked"),
        (400, 50520, None, "upstream_error"),
        (400, 50521, None, "upstream_error"),
        (400, 50522, None, "upstream_error"),
        (500, 50500, {"status": "done"}, "upstream_error"),
    ],
)
def test_a_failed_task(status: int, code: int, data: object, failure: str) -> None:
    state = polled(envelope(code, data, message="why"), status)
    assert state == TaskState(Status.FAILED, error=TaskError(failure, "why", str(code)))
    assert failure in FAILURES


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, envelope(50500)),
        (500, envelope(50501)),
        (429, envelope(50429)),
        (429, envelope(50430)),
        (400, envelope(50400)),
        (401, top_error(100010)),
        (502, b"<html>"),
        (200, b""),
        (200, b"[]"),
        (200, envelope(10000)),
        (200, envelope(10000, {"status": None})),
        (200, envelope(None, {"status": "done", "video_url": URL})),
        (500, envelope(10000, {"status": "generating"})),
        (200, envelope(10000, {"status": "done"})),
        (200, envelope(10000, {"status": "done", "video_url": "file:///etc/passwd"})),
    ],
)
def test_what_says_nothing_about_the_task_is_transient(status: int, body: bytes) -> None:
    assert isinstance(polled(body, status), Transient)


def test_jimeng_has_no_look_up_and_no_cancel() -> None:
    assert JIMENG.find(task(), UPSTREAM) is None
    assert isinstance(JIMENG.found(200, NO_HEADERS, b""), Transient)
    assert JIMENG.cancel(task(), UPSTREAM) is None


def test_content_is_the_providers_url() -> None:
    done = task(results=(Result(URL),))
    assert JIMENG.content(done, UPSTREAM, "video", 0) == URL
    with pytest.raises(NotFound):
        JIMENG.content(done, UPSTREAM, "thumbnail", 0)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError):
        JimengOptions.model_validate({"region": "cn"})


# ---------------------------------------------------------------- any bytes

WORDS = st.sampled_from(
    [
        "code",
        "data",
        "status",
        "task_id",
        "video_url",
        "message",
        "ResponseMetadata",
        "Error",
        "CodeN",
        "done",
        "in_queue",
        "not_found",
        "https://a/b",
    ]
)
LEAVES = WORDS | st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
BODIES = st.binary(max_size=40) | st.builds(
    lambda code, inner, top: orjson.dumps(
        {"code": code, "data": inner, "message": inner, "ResponseMetadata": top}
    ),
    st.sampled_from([10000, "10000", None, 50413, 50429, 50500]) | LEAVES,
    TREES,
    TREES,
)


@given(
    st.sampled_from([200, 204, 302, 400, 404, 429, 500, 503]),
    st.dictionaries(st.sampled_from(["Retry-After", "Date"]), st.text(max_size=9)),
    BODIES,
)
def test_no_answer_makes_the_readers_raise(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    outcome = JIMENG.outcome(status, headers, body, UPSTREAM)
    assert isinstance(outcome, Accepted | Refused | Unknown)
    state = JIMENG.state(task(), status, headers, body)
    assert isinstance(state, TaskState | Transient)
    if isinstance(state, TaskState):
        assert (state.status is Status.COMPLETED) == bool(state.results)
        assert (state.status is Status.FAILED) == (state.error is not None)


# ---------------------------------------------------------------- fields nobody reads


@pytest.mark.parametrize("terms", [Terms(), Terms(("*",)), Terms(("*",), is_priced=True)])
@pytest.mark.parametrize(
    "name", ["Frames", "num-frames", "Req_Key", "N", "duration", "callbackUrl"]
)
def test_no_native_field_goes_out_under_a_name_that_reads_like_ours(
    name: str, terms: Terms
) -> None:
    request = asked("jimeng", native={name: 241})
    draft = JIMENG.draft(request, "gw-0001", UPSTREAM, T2V, None, terms)
    assert name not in draft.fields
    assert draft.dropped == (name,)


def test_a_priced_route_gets_only_what_is_known_to_change_no_price() -> None:
    request = asked("jimeng", native={"camera_strength": "weak", "logo": 1})
    for terms, dropped in ((Terms(), ()), (Terms(is_priced=True), ("logo",))):
        draft = JIMENG.draft(request, "gw-0001", UPSTREAM, T2V, None, terms)
        assert draft.fields["camera_strength"] == "weak"
        assert draft.dropped == dropped
