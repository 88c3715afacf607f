"""What Kling is sent, to the byte, and what its answers mean."""

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
    NotReady,
    ProxyError,
    RateLimited,
    TooLarge,
    TooManyInFlight,
    Unavailable,
    UnsupportedOperation,
    UpstreamFailed,
)
from proxy.http import body_writer
from proxy.http.outbound import Draft, Rendered, Terms
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
from proxy.providers.kling import Kling, KlingOptions
from proxy.providers.outcomes import Accepted, Refused, Transient, Unknown

KLING: Provider = Kling()
NOW = 1767225600
KEYS = Credential(
    "k1",
    access_key="AKEXAMPLE0000000000000000000001",
    secret_key="SKEXAMPLE0000000000000000000001",
)
KEY = Credential("k2", api_key="api-key-1")
UPSTREAM = Upstream("kling-main", "kling", "https://api-singapore.klingai.com", (KEYS, KEY))
NO_HEADERS: Mapping[str, str] = CIMultiDict()


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


FIRST = Media(Role.FIRST_FRAME, "input_reference", url="https://pics.example/a.png")
LAST = Media(Role.LAST_FRAME, "image_tail", url="https://pics.example/b.png")


def asked(dialect: DialectName = "openai", **fields: Any) -> VideoRequest:
    return VideoRequest(Operation.CREATE, dialect, "sora-2", **{"prompt": "A cat", **fields})


def drafted(request: VideoRequest, model: str = "kling-v2-6") -> Draft:
    return KLING.draft(request, "gw-0001", UPSTREAM, model, None)


def body_of(draft: Draft) -> dict[str, Any]:
    sealed = KLING.seal(draft, UPSTREAM, KEY, NOW)
    body: dict[str, Any] = orjson.loads(b"".join(body_writer.encoded(sealed.pieces)))
    return body


def sent(request: VideoRequest, model: str = "kling-v2-6") -> dict[str, Any]:
    """The body without what every one of them has."""
    body = body_of(drafted(request, model))
    assert body.pop("model_name") == model
    assert body.pop("external_task_id") == "gw-0001"
    assert body.pop("prompt", None) in ("A cat", None)
    return body


def told(draft: Draft) -> list[str]:
    return [str(adjustment) for adjustment in draft.adjusted]


def refusal(request: VideoRequest, model: str = "kling-v2-6") -> Invalid:
    with pytest.raises(Invalid) as caught:
        drafted(request, model)
    return caught.value


# ---------------------------------------------------------------- the golden exchange

GOLDEN_BODY = (
    b'{"model_name":"kling-v2-6","prompt":"A calico cat playing a piano on stage",'
    b'"duration":"5","mode":"pro","aspect_ratio":"16:9","external_task_id":"gw-0001"}'
)
GOLDEN_JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJBS0VYQU1QTEUwMDAwMDAwMDAwMDAwMDAwMDAwMDAxIiwi"
    "ZXhwIjoxNzY3MjI3NDAwLCJuYmYiOjE3NjcyMjU1OTV9.Dd8Cx4IdkawYYs-jk3j3iJCgVm-57QbaLvRfes_Pv58"
)


def test_the_golden_submit_byte_for_byte() -> None:
    request = asked(
        prompt="A calico cat playing a piano on stage",
        seconds=5.0,
        mode="pro",
        aspect_ratio="16:9",
    )
    outbound = KLING.seal(drafted(request), UPSTREAM, KEYS, NOW)
    body = b"".join(body_writer.encoded(outbound.pieces))
    assert body == GOLDEN_BODY
    assert outbound.length == 155
    assert hashlib.sha256(body).hexdigest() == (
        "714bd6b5a4839fdd8c73e373c3a6a96691e2c6f6367bbf1036862588cbe91fc1"
    )
    assert outbound.method == "POST"
    assert outbound.url == "https://api-singapore.klingai.com/v1/videos/text2video"
    assert dict(outbound.headers) == {
        "Authorization": f"Bearer {GOLDEN_JWT}",
        "Content-Type": "application/json",
    }
    assert not outbound.guarded


def test_an_api_key_is_sent_as_it_is() -> None:
    outbound = KLING.seal(drafted(asked()), UPSTREAM, KEY, NOW)
    assert outbound.headers["Authorization"] == "Bearer api-key-1"


def test_operator_headers_go_along_but_never_replace_the_credential() -> None:
    upstream = replace(UPSTREAM, headers={"X-Team": "a", "authorization": "Bearer other"})
    outbound = KLING.seal(drafted(asked()), upstream, KEY, NOW)
    assert outbound.headers.getall("Authorization") == ["Bearer api-key-1"]
    assert outbound.headers["X-Team"] == "a"


def test_a_poll_goes_where_the_task_was_made() -> None:
    draft = KLING.poll(task(handle={"kind": "image2video"}), UPSTREAM)
    outbound = KLING.seal(draft, UPSTREAM, KEYS, NOW)
    assert (outbound.method, outbound.pieces, outbound.length) == ("GET", (), 0)
    assert outbound.url == (
        "https://api-singapore.klingai.com/v1/videos/image2video/842250903629086785"
    )
    assert dict(outbound.headers) == {"Authorization": f"Bearer {GOLDEN_JWT}"}


def test_a_lost_submit_is_looked_up_by_our_own_id() -> None:
    draft = KLING.find(task(upstream_id=None), UPSTREAM)
    assert draft is not None
    assert draft.path == "/v1/videos/text2video/gw-0001"


def test_paths_can_be_configured() -> None:
    upstream = replace(
        UPSTREAM, paths={"submit.text2video": "/kling/t2v", "poll.text2video": "/kling/q"}
    )
    draft = KLING.draft(asked(), "gw-0001", upstream, "kling-v2-6", None)
    assert draft.path == "/kling/t2v"
    assert KLING.poll(task(), upstream).path == "/kling/q/842250903629086785"


def test_an_upstream_id_cannot_leave_its_path() -> None:
    assert KLING.poll(task(upstream_id="../../account"), UPSTREAM).path == (
        "/v1/videos/text2video/..%2F..%2Faccount"
    )


# ---------------------------------------------------------------- drafting


def test_what_the_client_did_not_say_is_left_to_the_routes_defaults() -> None:
    assert sent(asked()) == {}
    assert drafted(asked()).adjusted == ()
    assert drafted(asked()).dropped == ()


@pytest.mark.parametrize(
    ("seconds", "model", "duration", "adjusted"),
    [
        (4, "kling-v2-6", "5", ["seconds=4>5"]),
        (5, "kling-v2-6", "5", []),
        (8, "kling-v1", "10", ["seconds=8>10"]),
        (10, "kling-v1-6", "10", []),
        (7.5, "kling-v2-5-turbo", "10", ["seconds=7.5>10"]),
        (2, "kling-v3", "3", ["seconds=2>3"]),
        (12, "kling-v3", "12", []),
        (4.5, "kling-v3", "5", ["seconds=4.5>5"]),
        (15, "kling-of-tomorrow", "15", []),
    ],
)
def test_seconds_are_fitted_up(
    seconds: float, model: str, duration: str, adjusted: list[str]
) -> None:
    draft = drafted(asked(seconds=seconds), model)
    assert draft.fields["duration"] == duration
    assert told(draft) == adjusted


@pytest.mark.parametrize(
    ("dialect", "param"),
    [
        ("openai", "seconds"),
        ("generic", "duration"),
        ("kling", "duration"),
        ("jimeng", "frames"),
    ],
)
def test_too_long_is_refused_under_the_clients_own_name(dialect: DialectName, param: str) -> None:
    error = refusal(asked(dialect, seconds=12))
    assert error.param == param
    assert error.message == f"'{param}' asks for 12 seconds; this model renders 5 or 10 seconds."
    assert "3 to 15" in refusal(asked(dialect, seconds=16), "kling-v3").message


@pytest.mark.parametrize(
    ("fields", "body", "adjusted"),
    [
        ({"size": (1280, 720)}, {"mode": "std", "aspect_ratio": "16:9"}, []),
        ({"size": (720, 1280)}, {"mode": "std", "aspect_ratio": "9:16"}, []),
        ({"size": (1080, 1920)}, {"mode": "pro", "aspect_ratio": "9:16"}, []),
        ({"size": (1920, 1080)}, {"mode": "pro", "aspect_ratio": "16:9"}, []),
        ({"size": (720, 720)}, {"mode": "std", "aspect_ratio": "1:1"}, []),
        (
            {"size": (1024, 1792)},
            {"mode": "pro", "aspect_ratio": "9:16"},
            ["size=1024x1792>1080x1920"],
        ),
        (
            {"size": (1792, 1024)},
            {"mode": "pro", "aspect_ratio": "16:9"},
            ["size=1792x1024>1920x1080"],
        ),
        ({"size": (640, 480)}, {"mode": "std", "aspect_ratio": "16:9"}, ["size=640x480>1280x720"]),
        (
            {"size": (1280, 720), "mode": "pro"},
            {"mode": "pro", "aspect_ratio": "16:9"},
            ["size=1280x720>1920x1080"],
        ),
        ({"resolution": "720p"}, {"mode": "std"}, []),
        ({"resolution": "1080P"}, {"mode": "pro"}, []),
        ({"resolution": "480p"}, {"mode": "std"}, ["resolution=480p>720p"]),
        ({"aspect_ratio": "9:16"}, {"aspect_ratio": "9:16"}, []),
        ({"aspect_ratio": "21:9"}, {"aspect_ratio": "16:9"}, ["aspect_ratio=21:9>16:9"]),
        ({"aspect_ratio": "3:4"}, {"aspect_ratio": "9:16"}, ["aspect_ratio=3:4>9:16"]),
        ({"mode": "pro"}, {"mode": "pro"}, []),
    ],
)
def test_size_becomes_mode_and_shape(
    fields: dict[str, Any], body: dict[str, Any], adjusted: list[str]
) -> None:
    request = asked(**fields)
    assert sent(request) == body
    assert told(drafted(request)) == adjusted


@pytest.mark.parametrize(
    ("model", "size", "body"),
    [
        ("kling-v2-master", (1280, 720), {"aspect_ratio": "16:9"}),
        ("kling-v2-1-master", (1280, 720), {"aspect_ratio": "16:9"}),
    ],
)
def test_master_models_get_no_mode(model: str, size: tuple[int, int], body: dict[str, Any]) -> None:
    assert sent(asked(size=size), model) == body


@pytest.mark.parametrize(
    ("request_", "model", "param", "accepted"),
    [
        (asked(size=(3840, 2160)), "kling-v2-6", "size", "720 or 1080"),
        (asked("generic", size=(3840, 2160)), "kling-v2-6", "width", "720 or 1080"),
        (asked(resolution="4k"), "kling-v2-6", "resolution", "720 or 1080"),
        (asked(size=(1920, 1080)), "kling-v2-master", "size", "renders 720"),
        (asked(resolution="sharp"), "kling-v2-6", "resolution", "720p or 1080p"),
        (asked(aspect_ratio="wide"), "kling-v2-6", "aspect_ratio", "16:9, 9:16, 1:1"),
        (asked(mode="turbo"), "kling-v2-6", "mode", "std or pro"),
        (asked(mode="pro"), "kling-v2-master", "mode", "not known to this model"),
        (asked(n=2), "kling-v2-6", "n", "must be 1"),
        (asked(audio=True), "kling-v2-1-master", "audio", "without sound"),
        (asked("kling", audio=True), "kling-v1", "sound", "without sound"),
        (asked(prompt="x" * 2501), "kling-v2-6", "prompt", "at most 2500"),
        (asked(negative_prompt="x" * 2501), "kling-v2-6", "negative_prompt", "at most 2500"),
        (asked(), "kling-v2-1", "input_reference", "starts from a picture"),
        (asked("generic"), "kling-v1-5", "image", "starts from a picture"),
        (asked("kling", kind=Kind.IMAGE), "kling-v2-6", "image", "starts from a picture"),
        (asked(media=(FIRST, FIRST)), "kling-v2-6", "input_reference", "one picture too many"),
        (
            asked(media=(Media(Role.REFERENCE_IMAGE, "ref", url="https://x/y"),)),
            "kling-v2-6",
            "ref",
            "a first and a last frame",
        ),
        (
            asked(media=(Media(Role.SOURCE, "video", url="https://x/y"),)),
            "kling-v2-6",
            "video",
            "not a source",
        ),
        (
            asked(
                media=(Media(Role.FIRST_FRAME, "image", blob=Picture(content_type="image/webp")),)
            ),
            "kling-v2-6",
            "image",
            "JPEG or PNG",
        ),
        (
            asked(media=(Media(Role.FIRST_FRAME, "image", blob=Picture(claimed=10485761)),)),
            "kling-v2-6",
            "image",
            "at most 10485760",
        ),
        (
            asked("jimeng", native={"template_id": "robo_arm"}),
            "kling-v2-6",
            "template_id",
            "leave it out",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    request_: VideoRequest, model: str, param: str, accepted: str
) -> None:
    error = refusal(request_, model)
    assert error.param == param
    assert accepted in error.message


@pytest.mark.parametrize("operation", [Operation.REMIX, Operation.EDIT, Operation.EXTEND], ids=str)
def test_kling_only_creates(operation: Operation) -> None:
    assert KLING.operations == {Operation.CREATE}
    with pytest.raises(UnsupportedOperation, match="it can: create"):
        drafted(replace(asked(), operation=operation))


@pytest.mark.parametrize(
    ("media", "body"),
    [
        ((FIRST,), {"image": "https://pics.example/a.png"}),
        ((LAST,), {"image_tail": "https://pics.example/b.png"}),
        (
            (LAST, FIRST),
            {"image": "https://pics.example/a.png", "image_tail": "https://pics.example/b.png"},
        ),
        ((Media(Role.FIRST_FRAME, "image", blob=Picture()),), {"image": "Y2F0"}),
        (
            (
                Media(
                    Role.FIRST_FRAME,
                    "image",
                    blob=Picture(content_type="application/octet-stream"),
                ),
            ),
            {"image": "Y2F0"},
        ),
    ],
)
def test_pictures_go_to_image2video_as_urls_or_bare_base64(
    media: tuple[Media, ...], body: dict[str, Any]
) -> None:
    draft = drafted(asked(media=media))
    assert draft.path == "/v1/videos/image2video"
    assert draft.handle == {"kind": "image2video"}
    assert sent(asked(media=media)) == body


def test_a_picture_keeps_its_shape() -> None:
    """Kling takes no aspect_ratio with a picture; what a size says of lines still counts."""
    request = asked(media=(FIRST,), size=(1024, 1792), aspect_ratio="9:16")
    draft = drafted(request)
    assert sent(request) == {"image": FIRST.url, "mode": "pro"}
    assert told(draft) == ["size=1024x1792>1080p"]
    assert draft.dropped == ("aspect_ratio",)
    assert drafted(asked(media=(FIRST,), size=(1280, 720))).adjusted == ()


@pytest.mark.parametrize(
    ("audio", "model", "body"),
    [
        (True, "kling-v2-6", {"sound": "on"}),
        (False, "kling-v2-6", {"sound": "off"}),
        (True, "kling-v3", {"sound": "on"}),
        (False, "kling-v1", {}),
    ],
)
def test_sound(audio: bool, model: str, body: dict[str, Any]) -> None:
    assert sent(asked(audio=audio), model) == body


def test_soft_fields_are_dropped_and_told() -> None:
    request = asked(
        fps=24,
        seed=7,
        style="noir",
        quality_level="high",
        user="u1",
        response_format="url",
        extra={"steps": 30},
    )
    assert sent(request) == {}
    assert drafted(request).dropped == (
        "fps",
        "seed",
        "style",
        "quality_level",
        "user",
        "response_format",
        "steps",
    )


def test_a_kling_clients_own_fields_survive() -> None:
    camera = {"type": "simple", "config": {"zoom": 3}}
    request = asked(
        "kling",
        native={"cfg_scale": 0.7, "camera_control": camera, "future": [1]},
        aspect_ratio="4:3",
        mode="4k",
    )
    assert sent(request) == {
        "cfg_scale": 0.7,
        "camera_control": camera,
        "future": [1],
        "aspect_ratio": "4:3",
        "mode": "4k",
    }
    assert drafted(request).dropped == ()


@pytest.mark.parametrize(
    "name", ["model_name", "model", "external_task_id", "callback_url", "n", "prompt", "duration"]
)
def test_native_fields_never_replace_ours(name: str) -> None:
    body = body_of(drafted(asked("kling", native={name: "theirs"})))
    assert body.get(name) != "theirs"
    assert body["external_task_id"] == "gw-0001"


def test_a_clients_alias_and_callback_never_reach_kling() -> None:
    request = asked("kling", external_id="mine", callback_url="https://client.example/hook")
    assert body_of(drafted(request)) == {
        "model_name": "kling-v2-6",
        "prompt": "A cat",
        "external_task_id": "gw-0001",
    }


def test_another_vendors_harmless_fields_are_dropped() -> None:
    request = asked("jimeng", native={"req_json": "{}", "template_id": None, "logo": True})
    assert sent(request) == {}
    assert drafted(request).dropped == ("req_json", "logo")


@pytest.mark.parametrize(
    ("request_", "model", "rewritten", "expected"),
    [
        (asked(), "kling-v2-6", {}, Rendered(5, (1280, 720), mode="std")),
        (
            asked(seconds=8, size=(1024, 1792), audio=True),
            "kling-v2-6",
            {},
            Rendered(10, (1080, 1920), audio=True, mode="pro"),
        ),
        (asked(), "kling-v2-6", {"mode": "pro"}, Rendered(5, (1920, 1080), mode="pro")),
        (asked(), "kling-v3", {"duration": 7}, Rendered(7, (1280, 720), mode="std")),
        (asked(aspect_ratio="1:1"), "kling-v1", {}, Rendered(5, (720, 720), mode="std")),
        (asked(), "kling-v2-1-master", {}, Rendered(5, (1920, 1080), mode="std")),
        (asked(media=(FIRST,), size=(1280, 720)), "kling-v1", {}, Rendered(5, None, mode="std")),
        (asked(), "kling-v2-6", {"mode": "8k"}, Rendered(5, None, mode="8k")),
        (asked(), "kling-v2-6", {"duration": "long"}, Rendered(None, (1280, 720), mode="std")),
        (asked(), "kling-v2-6", {"aspect_ratio": "auto"}, Rendered(5, None, mode="std")),
    ],
)
def test_what_the_rewritten_draft_will_make(
    request_: VideoRequest, model: str, rewritten: dict[str, Any], expected: Rendered
) -> None:
    draft = drafted(request_, model)
    assert (
        KLING.rendered(replace(draft, fields={**draft.fields, **rewritten}), UPSTREAM) == expected
    )


# ---------------------------------------------------------------- answers to a submit


def envelope(code: object = 0, data: object = None, **more: object) -> bytes:
    return orjson.dumps({"code": code, "message": "m", "request_id": "r", "data": data, **more})


SUBMITTED = {
    "task_id": "842250903629086785",
    "task_info": {"external_task_id": "gw-0001"},
    "task_status": "submitted",
    "created_at": 1767225600000,
    "updated_at": 1767225600000,
}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            envelope(0, SUBMITTED),
            Accepted("842250903629086785", TaskState(Status.QUEUED)),
        ),
        (
            envelope("0", {**SUBMITTED, "task_id": 842250903629086785}),
            Accepted("842250903629086785", TaskState(Status.QUEUED)),
        ),
        (b'{"data":{"task_id":"1"}}', Accepted("1")),
    ],
)
def test_accepted(body: bytes, expected: Accepted) -> None:
    assert KLING.outcome(200, NO_HEADERS, body, UPSTREAM) == expected


REFUSALS: list[tuple[int, int | None, type[ProxyError], bool]] = [
    # HTTP, code, what the client is told, whether another credential may do
    (401, 1000, Unavailable, True),
    (401, 1001, Unavailable, True),
    (401, 1002, Unavailable, True),
    (401, 1003, Unavailable, True),
    (401, 1004, Unavailable, True),
    (429, 1100, Unavailable, True),
    (429, 1101, Unavailable, True),
    (429, 1102, Unavailable, True),
    (403, 1103, Unavailable, True),
    (400, 1200, Invalid, False),
    (400, 1201, Invalid, False),
    (404, 1202, UpstreamFailed, True),
    (404, 1203, Invalid, True),
    (400, 1300, Moderated, False),
    (400, 1301, Moderated, False),
    (429, 1302, RateLimited, True),
    (429, 1303, TooManyInFlight, True),
    (429, 1304, Unavailable, True),
    (503, 5001, Unavailable, True),
    (200, 1303, TooManyInFlight, True),  # in principle: the code counts, not the status
    (500, 1301, Moderated, False),
    # codes nobody documents: by the status
    (400, 1999, Invalid, False),
    (422, None, Invalid, False),
    (401, None, Unavailable, True),
    (403, None, Unavailable, True),
    (404, None, UpstreamFailed, True),
    (405, None, UpstreamFailed, True),
    (413, None, TooLarge, False),
    (429, None, RateLimited, True),
    (301, None, UpstreamFailed, True),
    (308, None, UpstreamFailed, True),
]


@pytest.mark.parametrize(("status", "code", "error", "elsewhere"), REFUSALS)
def test_refused(status: int, code: int | None, error: type[ProxyError], elsewhere: bool) -> None:
    body = b"<html>" if code is None else envelope(code)
    outcome = KLING.outcome(status, NO_HEADERS, body, UPSTREAM)
    assert isinstance(outcome, Refused)
    assert type(outcome.error) is error
    assert outcome.elsewhere is elsewhere
    assert outcome.provider_code == (None if code is None else str(code))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, envelope(5000)),
        (504, envelope(5002)),
        (500, b""),
        (502, b"<html>Bad Gateway"),
        (503, b"<html>Service Unavailable"),
        (408, b""),  # a proxy whose server kept silent
        (499, b""),
        (302, b""),
        (200, b""),
        (200, b"[]"),
        (200, b'{"code":0'),
        (200, envelope(0)),
        (200, envelope(0, {"task_id": ""})),
        (200, envelope(0, {"task_id": True})),
        (200, envelope(7777)),
        (202, b"\xff"),
    ],
)
def test_anything_that_proves_nothing_is_unknown(status: int, body: bytes) -> None:
    assert isinstance(KLING.outcome(status, NO_HEADERS, body, UPSTREAM), Unknown)


def test_refusals_carry_the_time_to_wait() -> None:
    named = KLING.outcome(429, CIMultiDict({"retry-after": "7"}), envelope(1303), UPSTREAM)
    assert isinstance(named, Refused)
    assert named.retry_after_s == 7
    assert named.error.headers == {"Retry-After": "7"}
    unnamed = KLING.outcome(429, NO_HEADERS, envelope(1302), UPSTREAM)
    assert isinstance(unnamed, Refused)
    assert unnamed.retry_after_s == 2


@pytest.mark.parametrize("code", [1000, 1101, 1103, 1304])
def test_clients_learn_nothing_of_our_accounts(code: int) -> None:
    outcome = KLING.outcome(
        429,
        NO_HEADERS,
        envelope(code, message="Account AK123 in arrears, see https://kling/x"),
        UPSTREAM,
    )
    assert isinstance(outcome, Refused)
    assert outcome.error.message == (
        "No provider account can take this request now. Try again later."
    )


def test_a_refusal_of_the_request_says_why_on_one_clean_line() -> None:
    outcome = KLING.outcome(
        400,
        NO_HEADERS,
        envelope(1201, message="duration\nis wrong, see https://kling.example/x"),
        UPSTREAM,
    )
    assert isinstance(outcome, Refused)
    assert outcome.error.message == (
        "The provider refused the request: duration is wrong, see [address]"
    )


# ---------------------------------------------------------------- polls

CREATED_MS = 1767225600000


def task(**fields: Any) -> Task:
    known: dict[str, Any] = {
        "id": "gw-0001",
        "owner": "o",
        "token_id": "t",
        "dialect": "openai",
        "operation": Operation.CREATE,
        "kind": Kind.TEXT,
        "model": "sora-2",
        "created_ms": CREATED_MS,
        "updated_ms": CREATED_MS,
        "upstream_id": "842250903629086785",
    }
    return Task(**{**known, **fields})


def polled(body: bytes, status: int = 200) -> TaskState | Transient:
    return KLING.state(task(), status, NO_HEADERS, body)


def data(**fields: object) -> bytes:
    return envelope(0, {**SUBMITTED, **fields})


THIRTY_DAYS_MS = 30 * 24 * 3600 * 1000
URL = "https://v16-kling-fdl.klingai.com/x.mp4?sig=a%2Fb"


def test_the_golden_result() -> None:
    state = polled(
        data(
            task_status="succeed",
            task_result={
                "videos": [
                    {
                        "id": "842250903708762200",
                        "url": URL,
                        "watermark_url": "",
                        "duration": "5.1",
                    }
                ]
            },
            watermark_info={"enabled": False},
            final_unit_deduction="5",
            updated_at=1767225660000,
        )
    )
    expires_ms = 1767225660000 + THIRTY_DAYS_MS
    assert state == TaskState(
        Status.COMPLETED,
        progress=100,
        results=(Result(URL, "842250903708762200", 5.1, {}, expires_ms),),
        native={"watermark_info": {"enabled": False}, "final_unit_deduction": "5"},
        expires_ms=expires_ms,
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, TaskState(Status.QUEUED)),
        ({"task_status": "processing"}, TaskState(Status.IN_PROGRESS)),
        (
            {"task_status": "paused"},
            TaskState(Status.IN_PROGRESS, unknown_state="paused"),
        ),
        ({"task_status": 7}, TaskState(Status.IN_PROGRESS, unknown_state="7")),
        (
            {"task_status": "failed", "task_status_msg": "render node lost"},
            TaskState(Status.FAILED, error=TaskError("upstream_error", "render node lost")),
        ),
        (
            {"task_status": "failed"},
            TaskState(
                Status.FAILED, error=TaskError("upstream_error", "The provider gave no reason.")
            ),
        ),
        (
            {"task_status": "failed", "task_status_msg": "Failure to pass the risk control system"},
            TaskState(
                Status.FAILED,
                error=TaskError("moderation_blocked", "Failure to pass the risk control system"),
            ),
        ),
        (
            {"task_status": "failed", "task_status_msg": "error 1301"},
            TaskState(Status.FAILED, error=TaskError("moderation_blocked", "error 1301", "1301")),
        ),
    ],
)
def test_states(fields: dict[str, object], expected: TaskState) -> None:
    state = polled(data(**fields))
    assert state == expected
    assert expected.error is None or expected.error.code in FAILURES


def test_several_videos_and_their_watermarked_twins() -> None:
    state = polled(
        data(
            task_status="succeed",
            updated_at="never",
            task_result={
                "videos": [
                    {"url": "https://a/1.mp4", "watermark_url": "https://a/1w.mp4", "duration": 5},
                    {"url": "ftp://a/2.mp4"},
                    "junk",
                    {"id": 7, "url": "https://a/3.mp4", "duration": "soon"},
                ]
            },
        )
    )
    assert isinstance(state, TaskState)
    expires_ms = CREATED_MS + THIRTY_DAYS_MS
    assert state.results == (
        Result("https://a/1.mp4", None, 5.0, {"watermark": "https://a/1w.mp4"}, expires_ms),
        Result("https://a/3.mp4", "7", None, {}, expires_ms),
    )


def test_native_members_carry_no_ids_and_no_urls() -> None:
    state = polled(
        data(
            task_status="processing",
            task_info={
                "external_task_id": "gw-0001",
                "parent_video": {"id": "1", "url": "https://a/b", "duration": "5"},
            },
            cover="https://a/c.png",
            queue=[1, None, "https://a/d"],
            note="seen",
        )
    )
    assert isinstance(state, TaskState)
    assert state.native == {
        "task_info": {"parent_video": {"duration": "5"}},
        "queue": [1],
        "note": "seen",
    }


def test_native_members_are_bounded() -> None:
    state = polled(data(task_status="processing", blob="x" * 20000))
    assert isinstance(state, TaskState)
    assert state.native == {}


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, envelope(5000)),
        (429, envelope(1302)),
        (401, envelope(1004)),
        (404, envelope(1203)),
        (502, b"<html>"),
        (200, b""),
        (200, b"[]"),
        (200, envelope(0)),
        (200, envelope(0, [])),
        (200, envelope(0, {"task_id": "1"})),
        (200, envelope(1201, SUBMITTED)),
        (200, data(task_status="succeed")),
        (200, data(task_status="succeed", task_result={"videos": [{"url": ""}]})),
        (200, data(task_status="succeed", task_result={"videos": {}})),
    ],
)
def test_what_says_nothing_about_the_task_is_transient(status: int, body: bytes) -> None:
    assert isinstance(polled(body, status), Transient)


def test_a_rate_limited_poll_waits_as_long_as_it_is_told() -> None:
    state = KLING.state(task(), 429, CIMultiDict({"Retry-After": "30"}), envelope(1302))
    assert state == Transient("HTTP 429: code 1302", 30.0, "rate_limited")


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, envelope(0, SUBMITTED), Accepted("842250903629086785", TaskState(Status.QUEUED))),
        (404, envelope(1203), Refused),
        (400, envelope(1203), Refused),
        (404, envelope(404), Refused),
        (404, envelope(1202), Transient),  # our path is wrong: says nothing about the task
        (404, envelope(0), Transient),
        (404, b"<html>Not Found", Transient),
        (404, b"{}", Transient),
        (200, envelope(0), Transient),
        (200, b"", Transient),
        (400, envelope(1201), Transient),
        (401, envelope(1004), Transient),
        (429, envelope(1302), Transient),
        (500, envelope(5000), Transient),
    ],
)
def test_only_klings_own_word_counts_as_never_arrived(
    status: int, body: bytes, expected: object
) -> None:
    answer = KLING.found(status, NO_HEADERS, body)
    if isinstance(expected, type):
        assert isinstance(answer, expected)
        assert not isinstance(answer, Refused) or answer.elsewhere
    else:
        assert answer == expected


# ---------------------------------------------------------------- results

DONE = task(results=(Result("https://a/1.mp4", variants={"watermark": "https://a/w.mp4"}),))


def test_content_is_the_providers_url() -> None:
    assert KLING.content(DONE, UPSTREAM, "video", 0) == "https://a/1.mp4"
    assert KLING.content(DONE, UPSTREAM, "watermark", 0) == "https://a/w.mp4"


@pytest.mark.parametrize(
    ("task_", "variant", "index", "error", "param"),
    [
        (DONE, "video", 1, NotFound, "index"),
        (DONE, "video", -1, NotFound, "index"),
        (DONE, "thumbnail", 0, NotFound, "variant"),
        (task(), "video", 0, NotReady, None),
    ],
)
def test_content_that_is_not_there(
    task_: Task, variant: str, index: int, error: type[ProxyError], param: str | None
) -> None:
    with pytest.raises(error) as caught:
        KLING.content(task_, UPSTREAM, variant, index)
    assert caught.value.param == param


def test_kling_cannot_cancel() -> None:
    assert KLING.cancel(task(), UPSTREAM) is None


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ValidationError):
        KlingOptions.model_validate({"region": "cn"})


# ---------------------------------------------------------------- any bytes

WORDS = st.sampled_from(
    [
        "code",
        "data",
        "task_id",
        "task_status",
        "task_result",
        "videos",
        "url",
        "updated_at",
        "task_status_msg",
        "message",
        "duration",
        "succeed",
        "failed",
        "https://a/b",
    ]
)
LEAVES = WORDS | st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)
DATA = st.fixed_dictionaries(
    {"task_status": st.sampled_from(["succeed", "failed", "processing"]) | TREES},
    optional={"task_result": TREES, "updated_at": TREES, "task_id": TREES, "extra": TREES},
)
BODIES = st.binary(max_size=40) | st.builds(
    lambda code, inner: orjson.dumps({"code": code, "data": inner, "message": inner}),
    st.sampled_from([0, "0", None, 1203, 1301, 5000]) | LEAVES,
    DATA | TREES,
)


@given(
    st.sampled_from([200, 204, 302, 400, 404, 429, 500, 503]),
    st.dictionaries(st.sampled_from(["Retry-After", "Date"]), st.text(max_size=9)),
    BODIES,
)
def test_no_answer_makes_the_readers_raise(
    status: int, headers: dict[str, str], body: bytes
) -> None:
    outcome = KLING.outcome(status, headers, body, UPSTREAM)
    assert isinstance(outcome, Accepted | Refused | Unknown)
    state = KLING.state(task(), status, headers, body)
    assert isinstance(state, TaskState | Transient)
    if isinstance(state, TaskState):
        assert (state.status is Status.COMPLETED) == bool(state.results)
        assert (state.status is Status.FAILED) == (state.error is not None)
    assert isinstance(KLING.found(status, headers, body), Accepted | Refused | Transient)


# ---------------------------------------------------------------- fields nobody reads


def passed(native: dict[str, Any], terms: Terms) -> Draft:
    return KLING.draft(
        asked("kling", native=native), "gw-0001", UPSTREAM, "kling-v2-6", None, terms
    )


@pytest.mark.parametrize("terms", [Terms(), Terms(("*",)), Terms(("*",), is_priced=True)])
@pytest.mark.parametrize(
    "name",
    ["Mode", "DURATION", "Model_Name", "modelName", "Callback_Url", "N", "so-und", "metadata[mode]",
     "numOutputs", "External_Task_Id", "seconds", "Cfg_Scale", "x" * 65],
)  # fmt: skip
def test_no_native_field_goes_out_under_a_name_that_reads_like_ours(
    name: str, terms: Terms
) -> None:
    draft = passed({name: "theirs"}, terms)
    assert name not in draft.fields
    assert draft.dropped == (name,)


def test_a_priced_route_gets_only_what_is_known_to_change_no_price() -> None:
    native = {"cfg_scale": 0.5, "watermark_info": {"enabled": True}, "future": [1], "tempo": 2}
    assert passed(native, Terms()).dropped == ()
    draft = passed(native, Terms(is_priced=True))
    assert draft.dropped == ("future", "tempo")
    assert draft.fields["cfg_scale"] == 0.5
    draft = passed(native, Terms(("tem*",), is_priced=True))
    assert (draft.dropped, draft.fields["tempo"]) == (("future",), 2)


@pytest.mark.parametrize("name", ["voice_list", "image_list", "new_video", "mask_two"])
def test_media_is_refused_rather_than_left_out(name: str) -> None:
    """A voice costs more, and a picture left out is another video."""
    with pytest.raises(Invalid) as caught:
        passed({name: ["x"]}, Terms(is_priced=True))
    assert caught.value.param == name


def test_shots_are_no_longer_than_the_video_that_is_paid_for() -> None:
    shots = [{"index": 1, "duration": "3"}, {"index": 2, "duration": "3"}]
    native = {"multi_shot": True, "multi_prompt": shots}
    with pytest.raises(Invalid) as caught:
        passed(native, Terms(is_priced=True))
    assert caught.value.param == "multi_prompt"
    request = asked("kling", seconds=10, native=native)
    assert KLING.draft(request, "g", UPSTREAM, "kling-v2-6", None).fields["multi_prompt"] == shots
