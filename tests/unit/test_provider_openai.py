"""What OpenAI-style upstreams are sent, and what their answers are taken to mean."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from pydantic import ValidationError

from proxy.errors import (
    FAILURES,
    Conflict,
    Invalid,
    Moderated,
    NotFound,
    ProxyError,
    RateLimited,
    TooLarge,
    Unavailable,
    UnsupportedOperation,
    UpstreamFailed,
)
from proxy.http.body_writer import encoded
from proxy.http.form_writer import boundary_for, multipart_pieces
from proxy.http.outbound import (
    Draft,
    Remote,
    Rendered,
    Terms,
)
from proxy.model import (
    Credential,
    Json,
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
from proxy.providers import PROVIDERS
from proxy.providers.base import Provider
from proxy.providers.openai import SERVERS, OpenAI, OpenAIOptions
from proxy.providers.outcomes import (
    Accepted,
    Refused,
    Transient,
    TransientKind,
    Unknown,
)
from proxy.providers.words import words

ADAPTER: Provider = OpenAI()
KEY = Credential("k1", api_key="sk-upstream-secret")
VIDEO_ID = "video_68d7512d07848190b3e45da0ecbebcde004da08e1e0678d5"
SUBMITTED = (
    b'{"id":"video_68d7512d07848190b3e45da0ecbebcde004da08e1e0678d5","object":"video",'
    b'"model":"sora-2","status":"queued","progress":0,"created_at":1767225600,'
    b'"completed_at":null,"expires_at":null,"prompt":"A calico cat playing a piano on stage",'
    b'"size":"1280x720","seconds":"8","remixed_from_video_id":null,"error":null}'
)


class Picture:
    """A client's upload."""

    content_type = "image/png"
    filename = "cat.png"
    data = b"\x89PNG\r\n\x1a\n"

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        yield self.data


def upstream(server: str = "openai", **options: object) -> Upstream:
    return Upstream(
        "up",
        "openai",
        "https://api.example.com/v1",
        (KEY,),
        options=OpenAIOptions.model_validate({"server": server, **options}),
    )


def asked(**fields: Any) -> VideoRequest:
    base = VideoRequest(
        Operation.CREATE, "openai", "sora-2", prompt="A calico cat playing a piano on stage"
    )
    return replace(base, **fields)


def drafted(request: VideoRequest, at: Upstream | None = None, source: Task | None = None) -> Draft:
    return ADAPTER.draft(request, "video_ours", at or upstream(), "up-model", source)


def task(**fields: Any) -> Task:
    base = Task("video_ours", "o", "t", "openai", Operation.CREATE, Kind.TEXT, "sora-2", 0, 0)
    return replace(base, upstream_id=VIDEO_ID, provider="openai", **fields)


FRAME = Media(Role.FIRST_FRAME, "input_reference", blob=Picture())
LINKED = Media(Role.FIRST_FRAME, "input_reference.image_url", url="https://x.example/y.png")
CLIP = Media(Role.SOURCE, "video", blob=Picture())


# ---------------------------------------------------------------- submits on the wire


def test_a_submit_is_what_the_official_sdk_sends() -> None:
    """Part for part, so that any server built for the SDK understands it."""
    draft = drafted(asked(seconds=8, size=(1280, 720)))
    sent = ADAPTER.seal(draft, upstream(), KEY, 0)
    boundary = boundary_for(draft.fields)
    assert (sent.method, sent.url) == ("POST", "https://api.example.com/v1/videos")
    assert sent.headers == CIMultiDict(
        {
            "Accept": "application/json",
            "Authorization": "Bearer sk-upstream-secret",
            "Content-Type": f"multipart/form-data; boundary={boundary}",
        }
    )
    parts = [("prompt", "A calico cat playing a piano on stage"), ("model", "up-model")]
    parts += [("seconds", "8"), ("size", "1280x720")]
    expected = "".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in parts
    )
    body = b"".join(encoded(sent.pieces))
    assert body == f"{expected}--{boundary}--\r\n".encode()
    assert sent.length == len(body)
    assert not sent.guarded


def test_a_picture_is_the_last_part_and_is_never_copied() -> None:
    draft = drafted(asked(seconds=4, media=(FRAME,), user="u-1"))
    assert list(draft.fields) == ["prompt", "model", "seconds", "user", "input_reference"]
    sent = ADAPTER.seal(draft, upstream(), KEY, 0)
    assert FRAME.blob in sent.pieces
    body = b"".join(encoded(sent.pieces))
    assert len(body) == sent.length
    assert b'name="input_reference"; filename="cat.png"\r\nContent-Type: image/png' in body


FETCHED = Remote("https://x.example/y.png", LINKED.param)  # in place of the file, until it is here


@pytest.mark.parametrize(
    ("server", "media", "encoding", "fields"),
    [
        ("openai", (), "multipart", {}),
        ("azure", (), "multipart", {}),
        ("vllm-omni", (), "multipart", {}),
        ("sglang", (), "json", {}),
        ("openai", (LINKED,), "multipart", {"input_reference": {"image_url": LINKED.url}}),
        ("azure", (LINKED,), "multipart", {"input_reference": {"image_url": LINKED.url}}),
        ("vllm-omni", (LINKED,), "multipart", {"input_reference": FETCHED}),
        ("sglang", (LINKED,), "multipart", {"input_reference": FETCHED}),
        ("openai", (FRAME,), "multipart", {"input_reference": FRAME.blob}),
        ("vllm-omni", (FRAME,), "multipart", {"input_reference": FRAME.blob}),
        ("sglang", (FRAME,), "multipart", {"input_reference": FRAME.blob}),
    ],
)
def test_each_server_gets_a_picture_its_own_way(
    server: str, media: tuple[Media, ...], encoding: str, fields: dict[str, object]
) -> None:
    draft = drafted(asked(prompt="p", media=media), upstream(server))
    assert draft.encoding == encoding
    assert draft.fields == {"prompt": "p", "model": "up-model", **fields}


def test_json_has_whole_numbers_for_sglang() -> None:
    draft = drafted(asked(prompt="p", seconds=8, fps=24), upstream("sglang"))
    sent = ADAPTER.seal(draft, upstream("sglang"), KEY, 0)
    assert sent.headers["Content-Type"] == "application/json"
    assert orjson.loads(b"".join(encoded(sent.pieces))) == {
        "prompt": "p",
        "model": "up-model",
        "seconds": 8,
        "fps": 24,
    }


@pytest.mark.parametrize(
    ("server", "name", "value"),
    [
        ("openai", "Authorization", "Bearer sk-upstream-secret"),
        ("vllm-omni", "Authorization", "Bearer sk-upstream-secret"),
        ("sglang", "Authorization", "Bearer sk-upstream-secret"),
        ("azure", "api-key", "sk-upstream-secret"),
    ],
)
def test_every_request_carries_the_credential_in_one_place(
    server: str, name: str, value: str
) -> None:
    at = replace(upstream(server), headers={"x-team": "video", name: "overridden"})
    bound = task()
    drafts = [drafted(asked(), at), ADAPTER.poll(bound, at)]
    drafts.append(cast("Draft", ADAPTER.content(bound, at, "video", 0)))
    if server == "vllm-omni":
        drafts.append(cast("Draft", ADAPTER.cancel(bound, at)))
    for draft in drafts:
        sent = ADAPTER.seal(draft, at, KEY, 0)
        assert sent.headers.getall(name) == [value]
        assert sent.headers["X-Team"] == "video"
        assert ("Authorization" in sent.headers) != ("api-key" in sent.headers)


@pytest.mark.parametrize(
    ("request_", "source", "path", "fields"),
    [
        (asked(operation=Operation.REMIX), True, f"/videos/{VIDEO_ID}/remix", {}),
        (asked(operation=Operation.EDIT), True, "/videos/edits", {"video": {"id": VIDEO_ID}}),
        (
            asked(operation=Operation.EXTEND, seconds=8),
            True,
            "/videos/extensions",
            {"seconds": "8", "video": {"id": VIDEO_ID}},
        ),
        (
            asked(operation=Operation.EDIT, media=(CLIP,)),
            False,
            "/videos/edits",
            {"video": CLIP.blob},
        ),
    ],
)
def test_work_on_a_finished_video_names_it_by_the_upstreams_id(
    request_: VideoRequest, source: bool, path: str, fields: dict[str, object]
) -> None:
    draft = drafted(request_, source=task() if source else None)
    assert draft.path == path
    assert draft.fields == {"prompt": request_.prompt, **fields}
    assert draft.encoding == ("json" if source else "multipart")


def test_fields_an_operation_does_not_take_are_told_as_dropped() -> None:
    request = asked(operation=Operation.REMIX, seconds=8, size=(1280, 720))
    assert drafted(request, source=task()).dropped == ("seconds", "size")
    request = asked(operation=Operation.EXTEND, size=(1280, 720))
    assert drafted(request, source=task()).dropped == ("size",)


@pytest.mark.parametrize("operation", [Operation.REMIX, Operation.EDIT, Operation.EXTEND])
@pytest.mark.parametrize(
    "picture",
    [
        FRAME,
        LINKED,
        Media(Role.LAST_FRAME, "last_frame", url="https://x/y"),
        Media(Role.REFERENCE_VIDEO, "reference_videos", url="https://x/y"),
    ],
)
def test_a_picture_that_an_operation_does_not_take_is_refused(
    operation: Operation, picture: Media
) -> None:
    """Left out, it would be another video than was asked for, and paid."""
    with pytest.raises(Invalid) as caught:
        drafted(asked(operation=operation, media=(picture,)), source=task())
    assert caught.value.param == picture.param
    assert f"'{picture.param}'" in caught.value.message


@pytest.mark.parametrize("server", ["vllm-omni", "sglang"])
def test_frames_go_on_as_they_are_to_servers_that_count_them(server: str) -> None:
    draft = drafted(asked(seconds=3.375, frames=81), upstream(server))
    assert draft.fields["num_frames"] == 81
    assert "seconds" not in draft.fields


@pytest.mark.parametrize("server", ["openai", "azure"])
def test_frames_are_seconds_to_servers_that_do_not_count_them(server: str) -> None:
    draft = drafted(asked(seconds=3.375, frames=81), upstream(server))
    assert (draft.fields["seconds"], draft.adjusted[0].given) == ("4", "4")
    assert "num_frames" not in draft.fields


@pytest.mark.parametrize("server", ["vllm-omni", "sglang"])
@pytest.mark.parametrize("operation", [Operation.REMIX, Operation.EDIT, Operation.EXTEND])
def test_servers_that_only_create_say_so(server: str, operation: Operation) -> None:
    with pytest.raises(UnsupportedOperation):
        drafted(asked(operation=operation), upstream(server), task())


@pytest.mark.parametrize("operation", [Operation.REMIX, Operation.EDIT, Operation.EXTEND])
def test_a_source_that_is_not_there_is_the_clients_mistake(operation: Operation) -> None:
    for source in (None, replace(task(), upstream_id=None)):
        with pytest.raises(Invalid) as caught:
            drafted(asked(operation=operation), source=source)
        assert caught.value.param == "video"


def test_paths_can_be_overridden_and_may_carry_a_query() -> None:
    paths = {
        "submit": "/jobs?api-version=preview",
        "poll": "/jobs/{id}?api-version=preview",
        "content": "/files/{id}?api-version=preview",
    }
    at = replace(upstream("azure"), paths=paths)
    bound = replace(task(), upstream_id="a/b?c")

    def url(draft: Draft | str | None) -> str:
        assert isinstance(draft, Draft)
        return ADAPTER.seal(draft, at, KEY, 0).url.removeprefix(at.base_url)

    assert url(drafted(asked(), at)) == "/jobs?api-version=preview"
    assert url(ADAPTER.poll(bound, at)) == "/jobs/a%2Fb%3Fc?api-version=preview"
    remix = drafted(asked(operation=Operation.REMIX), at, bound)
    assert url(remix) == "/jobs/a%2Fb%3Fc/remix?api-version=preview"
    assert url(ADAPTER.content(bound, at, "thumbnail", 0)) == (
        "/files/a%2Fb%3Fc?api-version=preview&variant=thumbnail"
    )


def test_an_upstreams_id_never_leaves_its_place_in_the_path() -> None:
    for evil in ("..", "../../admin", "a?b#c", "a%2fb"):
        path = ADAPTER.poll(replace(task(), upstream_id=evil), upstream()).path
        head, _, tail = path.rpartition("/")
        assert head == "/videos"
        assert tail not in ("", ".", "..")
        assert not set("?#") & set(tail)


@pytest.mark.parametrize(
    ("variant", "query"),
    [
        ("video", ()),
        ("thumbnail", (("variant", "thumbnail"),)),
        ("spritesheet", (("variant", "spritesheet"),)),
    ],
)
def test_content_comes_from_the_upstreams_own_path(
    variant: str, query: tuple[tuple[str, str], ...]
) -> None:
    draft = ADAPTER.content(task(), upstream(), variant, 0)
    assert isinstance(draft, Draft)
    assert (draft.method, draft.path, draft.query) == ("GET", f"/videos/{VIDEO_ID}/content", query)


def test_cancel_deletes_and_an_unbound_task_has_nothing_to_cancel() -> None:
    omni = upstream("vllm-omni")
    draft = ADAPTER.cancel(task(), omni)
    assert draft is not None
    assert (draft.method, draft.path, draft.encoding) == ("DELETE", f"/videos/{VIDEO_ID}", "none")
    assert ADAPTER.cancel(replace(task(), upstream_id=None), omni) is None


def test_no_lookup_by_our_id_is_pretended() -> None:
    assert ADAPTER.find(task(), upstream()) is None
    assert isinstance(ADAPTER.found(200, {}, SUBMITTED), Transient)


# ---------------------------------------------------------------- lengths and sizes


@pytest.mark.parametrize(
    ("accepted", "seconds", "sent", "adjusted"),
    [
        (None, None, None, ()),
        (None, 8, "8", ()),
        (None, 4.5, "5", ("seconds=4.5>5",)),
        (None, 0.2, "1", ("seconds=0.2>1",)),
        ((5, 10), 5, "5", ()),
        ((5, 10), 4, "5", ("seconds=4>5",)),
        ((10, 5), 4, "5", ("seconds=4>5",)),
        ((5, 10), 8, "10", ("seconds=8>10",)),
    ],
)
def test_seconds_are_fitted_to_the_next_accepted_length(
    accepted: tuple[int, ...] | None, seconds: float | None, sent: str | None, adjusted: tuple[str]
) -> None:
    draft = drafted(asked(seconds=seconds), upstream(seconds=accepted))
    assert draft.fields.get("seconds") == sent
    assert tuple(str(adjustment) for adjustment in draft.adjusted) == adjusted


@pytest.mark.parametrize(
    ("dialect", "param"),
    [("openai", "seconds"), ("generic", "duration"), ("kling", "duration"), ("jimeng", "frames")],
)
def test_a_length_above_all_accepted_is_named_in_the_clients_words(
    dialect: str, param: str
) -> None:
    with pytest.raises(Invalid, match="5 or 10") as caught:
        drafted(asked(dialect=dialect, seconds=12), upstream(seconds=[5, 10]))
    assert caught.value.param == param


HD = ["1280x720", "720x1280", "1920x1080", "1080x1920"]


@pytest.mark.parametrize(
    ("sizes", "wish", "sent", "adjusted"),
    [
        (None, {}, None, ()),
        (None, {"size": (1000, 1000)}, "1000x1000", ()),
        (None, {"aspect_ratio": "16:9"}, "1280x720", ()),
        (None, {"aspect_ratio": "9:16", "resolution": "1080p"}, "1080x1920", ()),
        (None, {"aspect_ratio": "1:1", "resolution": "480P"}, "480x480", ()),
        (None, {"aspect_ratio": "21:9"}, "1680x720", ()),
        (None, {"resolution": "480p"}, "848x480", ()),
        (None, {"size": (640, 640), "aspect_ratio": "16:9"}, "640x640",
         ("aspect_ratio=16:9>640x640",)),
        (None, {"size": (640, 640), "resolution": "720p", "aspect_ratio": "1:1"}, "640x640",
         ("resolution=720p>640x640",)),
        (HD, {"size": (1280, 720)}, "1280x720", ()),
        (HD, {"size": (1024, 1792)}, "1080x1920", ("size=1024x1792>1080x1920",)),
        (HD, {"size": (854, 480)}, "1280x720", ("size=854x480>1280x720",)),
        (HD, {"aspect_ratio": "9:16"}, "720x1280", ()),
        (HD, {"aspect_ratio": "9:16", "resolution": "1080p"}, "1080x1920", ()),
        (HD, {"aspect_ratio": "16:9", "resolution": "540p"}, "1280x720",
         ("resolution=540p>1280x720",)),
        (HD, {"resolution": "1080p"}, "1920x1080", ()),
        (["720x720"], {"resolution": "720p"}, "720x720", ()),
    ],
)  # fmt: skip
def test_sizes_keep_their_shape_and_are_fitted_upwards(
    sizes: list[str] | None, wish: dict[str, Any], sent: str | None, adjusted: tuple[str]
) -> None:
    draft = drafted(asked(**wish), upstream(sizes=sizes))
    assert draft.fields.get("size") == sent
    assert tuple(str(adjustment) for adjustment in draft.adjusted) == adjusted


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"size": (2000, 1200)}, "size"),
        ({"size": (800, 800)}, "size"),
        ({"aspect_ratio": "1:1"}, "aspect_ratio"),
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"aspect_ratio": "16:9", "resolution": "4k"}, "resolution"),
        ({"resolution": "high"}, "resolution"),
    ],
)
def test_a_size_no_model_value_covers_is_refused(wish: dict[str, Any], param: str) -> None:
    with pytest.raises(Invalid) as caught:
        drafted(asked(**wish), upstream(sizes=HD))
    assert caught.value.param == param


@pytest.mark.parametrize(
    "options",
    [
        {"server": "nginx"},
        {"server": "vllm-omni", "body": "json"},
        {"max_seconds": 0},
        {"pass": ["a.b"]},
        {"seconds": []},
        {"seconds": [0]},
        {"sizes": ["720p"]},
        {"sizes": []},
        {"unknown": 1},
    ],
)
def test_wrong_options_do_not_start(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        OpenAIOptions.model_validate(options)


# ---------------------------------------------------------------- exact, soft, extra


@pytest.mark.parametrize(
    ("server", "wish", "param"),
    [
        ("openai", {"n": 2}, "n"),
        ("openai", {"audio": False}, "audio"),
        ("openai", {"audio": False, "dialect": "kling"}, "sound"),
        ("sglang", {"audio": True}, "audio"),
        ("openai", {"media": (FRAME, FRAME)}, "input_reference"),
        ("openai", {"media": (Media(Role.LAST_FRAME, "image_tail", url="https://x/y"),)},
         "image_tail"),
        ("openai", {"media": (Media(Role.REFERENCE_IMAGE, "refs", url="https://x/y"),)}, "refs"),
        ("openai", {"dialect": "kling", "native": {"camera_control": {"type": "simple"}}},
         "camera_control"),
        ("openai", {"dialect": "kling", "native": {"static_mask": "x"}}, "static_mask"),
        ("openai", {"dialect": "kling", "native": {"multi_shot": True}}, "multi_shot"),
        ("openai", {"dialect": "jimeng", "native": {"template_id": "crane_push"}}, "template_id"),
    ],
)  # fmt: skip
def test_what_would_change_the_picture_is_refused_by_name(
    server: str, wish: dict[str, Any], param: str
) -> None:
    with pytest.raises(Invalid) as caught:
        drafted(asked(**wish), upstream(server))
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("server", "wish", "fields"),
    [
        ("openai", {"n": 1, "audio": True}, {}),
        ("sglang", {"audio": False}, {}),
        ("vllm-omni", {"audio": True}, {"generate_sound": True}),
        ("vllm-omni", {"audio": False}, {"generate_sound": False}),
        ("openai", {"dialect": "kling", "native": {"multi_shot": False, "static_mask": ""}}, {}),
    ],
)
def test_what_the_model_does_anyway_is_no_reason_to_refuse(
    server: str, wish: dict[str, Any], fields: dict[str, Json]
) -> None:
    draft = drafted(asked(prompt="p", **wish), upstream(server))
    assert draft.fields == {"prompt": "p", "model": "up-model", **fields}
    assert draft.dropped == ()


SOFT: dict[str, Any] = {"seed": 7, "fps": 30, "negative_prompt": "rain", "style": "anime"}
OWN = {name: SOFT[name] for name in ("seed", "fps", "negative_prompt")}
SAID = {name: SOFT[name] for name in ("seed", "negative_prompt", "style")}


@pytest.mark.parametrize(
    ("server", "dialect", "kept", "dropped"),
    [
        ("openai", "openai", SAID, ("fps", "more")),
        ("openai", "generic", {}, ("negative_prompt", "seed", "fps", "style", "more")),
        ("openai", "kling", {}, ("negative_prompt", "seed", "fps", "style", "more")),
        ("azure", "openai", {}, ("negative_prompt", "seed", "fps", "style", "more")),
        ("litellm", "openai", {"seed": 7, "negative_prompt": "rain"}, ("fps", "style", "more")),
        ("reelway", "kling", SAID, ("fps", "more")),
        ("vllm-omni", "openai", OWN, ("style", "more")),
        ("vllm-omni", "kling", OWN, ("style", "more")),
        ("sglang", "jimeng", OWN, ("style", "more")),
    ],
)
def test_soft_fields_go_to_who_knows_them_and_are_told_when_dropped(
    server: str, dialect: str, kept: dict[str, object], dropped: tuple[str, ...]
) -> None:
    request = asked(prompt="p", dialect=dialect, extra={"more": {"x": 1}}, **SOFT)
    draft = drafted(request, upstream(server))
    assert draft.fields == {"prompt": "p", "model": "up-model", **kept}
    assert draft.dropped == dropped


STRANGERS = (
    *("output_path", "perf_dump_path", "video_path", "upscaling_model_path", "generator_device"),
    *("frame_interpolation_model_path", "lora", "loras", "lora_path", "profile", "profile_dir"),
    *("attention_backend_override", "skip_softmax_params", "cache_dit_params", "extra_body"),
    *("extra_params", "diffusers_kwargs", "api_base", "custom_llm_provider", "webhook_url"),
    *("Output_Path", "outputPath", "output-path", "metadata[seconds]", "a.b", "x" * 65, ""),
    *("Seconds", "n-seconds", "Model_Name", "N", "ＳＥＣＯＮＤＳ", "\u017feconds", "Callback_Url"),
)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("passes", [(), ("*",)])
def test_what_reaches_into_the_machine_never_goes_on(server: str, passes: tuple[str, ...]) -> None:
    """Whatever a route passes: no path, model, device, address, whole body, second spelling."""
    extra: dict[str, Json] = dict.fromkeys(STRANGERS, "x")
    extra["metadata"] = dict.fromkeys(STRANGERS, "x")
    request = asked(prompt="p", extra=extra)
    draft = ADAPTER.draft(request, "video_ours", upstream(server), "up-model", None, Terms(passes))
    assert draft.fields == {"prompt": "p", "model": "up-model"}
    assert set(STRANGERS) <= set(draft.dropped)


def test_an_operator_passes_fields_on_by_name() -> None:
    """On the route or at the upstream; objects too, unless something inside is priced."""
    extra: dict[str, Json] = {
        "camera_move": {"zoom": 1},
        "camera_trick": {"zoom": {"Seconds": 60}},
        "camera_text": '{"num_frames": 2400}',
        "tempo": 2,
        "other": 1,
        "metadata": {"order": "7", "duration": 60},
    }
    options = OpenAIOptions.model_validate({"pass": ["tempo", "metadata"]})
    at = replace(upstream(), options=options)
    terms = Terms(("camera_*",), is_priced=True)
    draft = ADAPTER.draft(asked(prompt="p", extra=extra), "v", at, "up-model", None, terms)
    assert draft.fields == {
        "prompt": "p",
        "model": "up-model",
        "camera_move": {"zoom": 1},
        "tempo": 2,
        "metadata": {"order": "7"},
    }
    assert draft.dropped == ("camera_trick", "camera_text", "other", "metadata.duration")


@pytest.mark.parametrize("name", ["num_outputs_per_prompt", "sound_duration", "short_edge"])
def test_what_moves_the_price_goes_on_only_where_there_is_none(name: str) -> None:
    request = asked(prompt="p", extra={name: 4})
    for is_priced in (True, False):
        terms = Terms(("*",), is_priced=is_priced)
        draft = ADAPTER.draft(request, "v", upstream("vllm-omni"), "up-model", None, terms)
        assert (name in draft.dropped) is is_priced
        assert (name in draft.fields) is not is_priced


@pytest.mark.parametrize(
    ("name", "value", "sent"),
    [
        ("num_inference_steps", "30", 30),
        ("num_inference_steps", 100, 100),
        ("num_inference_steps", 100_000, None),
        ("num_inference_steps", 0, None),
        ("num_inference_steps", 1.5, None),
        ("num_inference_steps", True, None),
        ("num_inference_steps", [1], None),
        ("guidance_scale", "7.5", 7.5),
        ("guidance_scale", -1, None),
        ("guidance_scale", 21, None),
        ("num_frames", "81", 81),
        ("num_frames", 1e-9, None),
        ("num_frames", 0.5, None),
        ("num_frames", -4, None),
        ("num_frames", 14_402, None),
        ("num_frames", "many", None),
    ],
)
@pytest.mark.parametrize("server", ["vllm-omni", "sglang"])
def test_own_servers_fields_have_bounds_that_the_refusal_tells(
    server: str, name: str, value: Json, sent: float | None
) -> None:
    for extra in ({name: value}, {"metadata": {name: value}}):
        request = asked(prompt="p", extra=extra)
        if sent is not None:
            assert drafted(request, upstream(server)).fields[name] == sent
            continue
        with pytest.raises(Invalid, match=r"must be") as caught:
            drafted(request, upstream(server))
        assert (caught.value.param or "").endswith(name)


@pytest.mark.parametrize("server", ["openai", "azure", "litellm", "reelway"])
def test_frames_are_refused_where_nobody_counts_them(server: str) -> None:
    for extra in ({"num_frames": 240}, {"metadata": {"num_frames": 240}}):
        with pytest.raises(Invalid, match="say 'seconds'"):
            drafted(asked(extra=extra), upstream(server))


@pytest.mark.parametrize(
    ("server", "quality", "sent", "dropped"),
    [
        ("vllm-omni", "high", "high", ()),
        ("vllm-omni", "lossless", "lossless", ()),
        ("vllm-omni", "standard", None, ("quality_level",)),
        ("sglang", "high", None, ("quality_level",)),
        ("openai", "high", None, ("quality_level",)),
    ],
)
def test_quality_goes_on_under_the_name_that_servers_read(
    server: str, quality: str, sent: str | None, dropped: tuple[str, ...]
) -> None:
    draft = drafted(asked(quality_level=quality), upstream(server))
    assert draft.fields.get("quality") == sent
    assert "quality_level" not in draft.fields
    assert draft.dropped == dropped


def test_vllm_omni_gets_the_aspect_ratio_beside_the_size() -> None:
    """MiniMax H3 renders nothing without it."""
    draft = drafted(asked(aspect_ratio="16:9"), upstream("vllm-omni"))
    assert (draft.fields["size"], draft.fields["aspect_ratio"]) == ("1280x720", "16:9")
    other = asked(aspect_ratio="16:9", size=(640, 640))
    assert "aspect_ratio" not in drafted(other, upstream("vllm-omni")).fields
    assert "aspect_ratio" not in drafted(asked(aspect_ratio="16:9"), upstream("sglang")).fields


@pytest.mark.parametrize(
    ("server", "fps", "sent"),
    [("vllm-omni", 29.97, 29.97), ("vllm-omni", 24, 24), ("sglang", 29.97, 30), ("sglang", 24, 24)],
)
def test_a_frame_rate_may_have_decimals_where_the_server_takes_them(
    server: str, fps: float, sent: float
) -> None:
    draft = drafted(asked(fps=fps), upstream(server))
    assert draft.fields["fps"] == sent
    assert [str(told) for told in draft.adjusted] == ([] if sent == fps else ["fps=29.97>30"])


@pytest.mark.parametrize("fps", [0.5, 121, 480])
def test_an_absurd_frame_rate_is_refused(fps: float) -> None:
    with pytest.raises(Invalid, match="from 1 to 120"):
        drafted(asked(fps=fps), upstream("vllm-omni"))


@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"size": (99999, 99999)}, "size"),
        ({"size": (8192, 8192)}, "size"),
        ({"size": (8, 720)}, "size"),
        ({"aspect_ratio": "99:1"}, "aspect_ratio"),
        ({"resolution": "9999p"}, "resolution"),
        ({"seconds": 601}, "seconds"),
        ({"seconds": 1e9}, "seconds"),
    ],
)
@pytest.mark.parametrize("server", SERVERS)
def test_what_no_model_renders_never_reaches_a_server(
    server: str, wish: dict[str, Any], param: str
) -> None:
    with pytest.raises(Invalid) as caught:
        drafted(asked(**wish), upstream(server))
    assert caught.value.param == param


def test_a_seed_is_made_up_only_where_the_operator_wants_it() -> None:
    at = upstream("sglang", random_seed=True)
    first = ADAPTER.draft(asked(), "video_1", at, "m", None).fields["seed"]
    assert first == ADAPTER.draft(asked(), "video_1", at, "m", None).fields["seed"]
    assert first != ADAPTER.draft(asked(), "video_2", at, "m", None).fields["seed"]
    assert ADAPTER.draft(asked(seed=0), "video_2", at, "m", None).fields["seed"] == 0
    assert "seed" not in drafted(asked(), upstream("sglang")).fields
    assert "seed" not in drafted(asked(), upstream("azure", random_seed=True)).fields


def test_a_server_without_a_key_is_sent_none() -> None:
    at = upstream("sglang")
    sent = ADAPTER.seal(drafted(asked(), at), at, Credential("k", api_key=""), 0)
    assert "Authorization" not in sent.headers


def test_a_gateway_may_want_json_and_numbers() -> None:
    at = upstream(body="json", seconds_as="integer")
    draft = drafted(asked(prompt="p", seconds=8, media=(FRAME,)), at)
    sent = ADAPTER.seal(draft, at, KEY, 0)
    assert orjson.loads(b"".join(encoded(sent.pieces))) == {
        "prompt": "p",
        "model": "up-model",
        "seconds": 8,
        "input_reference": {"image_url": "data:image/png;base64,iVBORw0KGgo="},
    }


@pytest.mark.parametrize(
    ("server", "there"),
    [("openai", 3), ("azure", 3), ("reelway", 3), ("vllm-omni", 1), ("sglang", 1), ("litellm", 1)],
)
def test_a_variant_is_asked_for_only_where_there_is_one(server: str, there: int) -> None:
    """vLLM-Omni ignores the word, and a whole video would arrive as its thumbnail."""
    assert len(SERVERS[upstream(server).options.server].variants) == there  # type: ignore[union-attr]
    if there == 1:
        with pytest.raises(NotFound, match="it has: video"):
            ADAPTER.content(task(), upstream(server), "thumbnail", 0)


def test_native_fields_of_other_vendors_are_dropped_by_name() -> None:
    native: dict[str, Json] = {"cfg_scale": 0.5, "watermark_info": {"enabled": True}}
    draft = drafted(asked(dialect="kling", native=native))
    assert draft.dropped == ("cfg_scale", "watermark_info")


def test_an_extra_can_neither_replace_a_field_nor_smuggle_a_body() -> None:
    extra: dict[str, Json] = {"model": "dearer", "seconds": 60, "extra_body": '{"seconds": 60}'}
    draft = drafted(asked(seconds=4, extra=extra), upstream("sglang"))
    assert (draft.fields["model"], draft.fields["seconds"]) == ("up-model", 4)
    assert draft.dropped == ("model", "seconds", "extra_body")
    assert "extra_body" not in draft.fields


# ---------------------------------------------------------------- what is rendered


@pytest.mark.parametrize(
    ("server", "wish", "rewrite", "rendered"),
    [
        ("openai", {}, {}, Rendered(4, (720, 1280), audio=True)),
        ("openai", {"seconds": 8, "size": (1280, 720)}, {}, Rendered(8, (1280, 720), audio=True)),
        ("openai", {"seconds": 8}, {"seconds": 12}, Rendered(12, (720, 1280), audio=True)),
        ("openai", {}, {"n": 2}, Rendered(4, (720, 1280), n=2, audio=True)),
        ("sglang", {}, {}, Rendered(4, None)),
        ("vllm-omni", {}, {}, Rendered(None, None)),
        ("vllm-omni", {"seconds": 5, "audio": True}, {}, Rendered(5, None, audio=True)),
        ("vllm-omni", {"seconds": 5, "audio": False}, {}, Rendered(5, None)),
        ("vllm-omni", {"seconds": 5, "extra": {"num_frames": 240}}, {},
         Rendered(10, None, most_seconds=15)),
        ("vllm-omni", {"seconds": 12, "fps": 24, "extra": {"num_frames": 24}}, {}, Rendered(12)),
        ("vllm-omni", {"seconds": 1, "fps": 24, "extra": {"num_frames": 2400}}, {}, Rendered(100)),
        ("vllm-omni", {"fps": 120, "extra": {"num_frames": 480}}, {}, Rendered(16)),
        ("vllm-omni", {"seconds": 4, "fps": 120}, {}, Rendered(16)),
        ("vllm-omni", {"fps": 16, "extra": {"num_frames": 81}}, {}, Rendered(5.0625)),
        ("openai", {"seconds": 12}, {"num_frames": 1e-9}, Rendered(12, (720, 1280), audio=True)),
        ("litellm", {}, {}, Rendered(audio=True)),
        ("reelway", {"seconds": 5, "audio": False}, {}, Rendered(5)),
        ("reelway", {"seconds": 5}, {"mode": "pro"}, Rendered(5, audio=True, mode="pro")),
        ("sglang", {"seconds": 5, "fps": 12, "extra": {"num_frames": "240"}}, {},
         Rendered(20, None)),
    ],
)  # fmt: skip
def test_what_is_priced_is_what_the_rewritten_draft_renders(
    server: str, wish: dict[str, Any], rewrite: dict[str, Json], rendered: Rendered
) -> None:
    at = upstream(server)
    draft = drafted(asked(**wish), at)
    assert ADAPTER.rendered(replace(draft, fields={**draft.fields, **rewrite}), at) == rendered


@pytest.mark.parametrize(
    ("accepted", "rendered"),
    [
        ([4, 8], Rendered(4, (720, 1280), audio=True)),
        ([5, 10], Rendered(None, (720, 1280), audio=True, most_seconds=10)),
    ],
)
def test_a_length_that_the_server_chooses_is_held_at_its_longest(
    accepted: list[int], rendered: Rendered
) -> None:
    """And is not told as the document's default, which its model does not have."""
    at = upstream(seconds=accepted)
    assert ADAPTER.rendered(drafted(asked(), at), at) == rendered


@pytest.mark.parametrize(
    ("operation", "seconds", "rendered"),
    [
        (Operation.REMIX, None, Rendered(8, (1280, 720), audio=True)),
        (Operation.EDIT, None, Rendered(8, (1280, 720), audio=True)),
        (Operation.EXTEND, 12, Rendered(12, (1280, 720), audio=True)),
        (Operation.EXTEND, None, Rendered(None, (1280, 720), audio=True)),
    ],
)
def test_work_on_a_video_renders_as_its_source_was(
    operation: Operation, seconds: float | None, rendered: Rendered
) -> None:
    source = task(seconds=8.0, size=(1280, 720))
    draft = drafted(asked(operation=operation, seconds=seconds), source=source)
    assert ADAPTER.rendered(draft, upstream()) == rendered


# ---------------------------------------------------------------- answers to a submit


def body_of(value: object) -> bytes:
    return orjson.dumps(value)


def error_of(**error: object) -> bytes:
    return body_of({"error": {"message": "m", "type": None, "param": None, "code": None, **error}})


def test_a_submit_that_is_named_is_accepted() -> None:
    outcome = ADAPTER.outcome(200, {}, SUBMITTED, upstream())
    assert outcome == Accepted(
        VIDEO_ID, TaskState(Status.QUEUED, progress=0, seconds=8, size=(1280, 720))
    )
    assert ADAPTER.outcome(201, {}, b'{"id": "x"}', upstream()) == Accepted("x")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b""),
        (200, b"<html>"),
        (200, b"[]"),
        (200, b"{}"),
        (200, b'{"id": ""}'),
        (200, b'{"id": true}'),
        (200, b'{"id": 0}'),
        (200, b'{"id": [7]}'),
        (200, b'{"id": "a\\nb"}'),
        (200, body_of({"id": "x" * 513})),
        (200, error_of()),
        (100, b""),
        (408, error_of()),
        (499, b""),
        (500, error_of()),
        (502, b"<html>"),
        (503, b""),
        (503, b"<html>503</html>"),
        (503, error_of()),
        (503, body_of({"detail": "The engine is starting."})),
        (504, error_of()),
        (520, b""),
    ],
)
def test_what_may_have_been_taken_is_never_sent_again(status: int, body: bytes) -> None:
    assert isinstance(ADAPTER.outcome(status, {}, body, upstream()), Unknown)


REFUSALS: list[tuple[int, bytes, type[ProxyError], bool, str | None, str]] = [
    # status, body, what the client gets, another upstream may take it, param, provider code
    (400, error_of(param="size", code="invalid_value"), Invalid, False, "size", "invalid_value"),
    (400, error_of(type="invalid_request_error"), Invalid, False, None, "invalid_request_error"),
    (400, b"", Invalid, False, None, "http_400"),
    (400, b"<html>", Invalid, False, None, "http_400"),
    (400, body_of({"detail": "prompt is required"}), Invalid, False, None, "http_400"),
    (400, body_of({"error": "bad"}), Invalid, False, None, "http_400"),
    (400, body_of({"message": "bad", "code": 400, "type": "x"}), Invalid, False, None, "400"),
    (422, body_of({"detail": [{"loc": ["body", "seconds"], "msg": "bad", "type": "x"}]}),
     Invalid, False, "seconds", "http_422"),
    (400, error_of(code="moderation_blocked"), Moderated, False, None, "moderation_blocked"),
    (400, error_of(code="sentinel_block"), Moderated, False, None, "sentinel_block"),
    (400, error_of(code="contentFilter"), Moderated, False, None, "contentFilter"),
    (403, error_of(code="content_policy_violation"), Moderated, False, None,
     "content_policy_violation"),
    (400, error_of(code="billing_hard_limit_reached"), RateLimited, True, None,
     "billing_hard_limit_reached"),
    (403, error_of(code="insufficient_user_quota"), RateLimited, True, None,
     "insufficient_user_quota"),
    (429, error_of(code="insufficient_quota"), RateLimited, True, None, "insufficient_quota"),
    (402, b"", RateLimited, True, None, "http_402"),
    (429, error_of(code="rate_limit_exceeded"), RateLimited, True, None, "rate_limit_exceeded"),
    (429, b"slow down", RateLimited, True, None, "http_429"),
    (401, error_of(code="invalid_api_key"), UpstreamFailed, True, None, "invalid_api_key"),
    (403, error_of(), UpstreamFailed, True, None, "http_403"),
    (404, error_of(code="model_not_found"), UpstreamFailed, True, None, "model_not_found"),
    (400, error_of(code="model_not_found"), UpstreamFailed, True, None, "model_not_found"),
    (404, b"", UpstreamFailed, True, None, "http_404"),
    (405, b"", UpstreamFailed, True, None, "http_405"),
    (409, error_of(), Conflict, False, None, "http_409"),
    (413, b"", TooLarge, False, None, "http_413"),
    (415, b"", UpstreamFailed, True, None, "http_415"),
    (307, b"", UpstreamFailed, True, None, "http_307"),
    (503, error_of(code="server_overloaded"), Unavailable, True, None, "server_overloaded"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "kind", "elsewhere", "param", "code"), REFUSALS)
def test_refusals_are_classed(
    status: int,
    body: bytes,
    kind: type[ProxyError],
    elsewhere: bool,
    param: str | None,
    code: str,
) -> None:
    outcome = ADAPTER.outcome(status, {}, body, upstream())
    assert isinstance(outcome, Refused)
    assert type(outcome.error) is kind
    assert (outcome.elsewhere, outcome.error.param, outcome.provider_code) == (
        elsewhere,
        param,
        code,
    )


@pytest.mark.parametrize(
    ("status", "headers", "wait_s"),
    [
        (429, {"Retry-After": "7"}, 7),
        (429, {"retry-after-ms": "1500", "Retry-After": "7"}, 1.5),
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 5),
        (429, {"Retry-After": "-1"}, 5),
        (429, {}, 5),
        (402, {}, 60),
        (503, {"Retry-After": "30"}, 30),
    ],
)
def test_a_refusal_says_when_to_come_back(
    status: int, headers: dict[str, str], wait_s: float
) -> None:
    code = "slow_down" if status == 503 else "x"
    outcome = ADAPTER.outcome(status, CIMultiDict(headers), error_of(code=code), upstream())
    assert isinstance(outcome, Refused)
    assert outcome.retry_after_s == outcome.error.retry_after_s == wait_s


SECRETS = [
    "see https://internal.example.com:8443/v1/videos?key=1",
    "Incorrect API key provided: sk-proj-abc***xyz",
    "Authorization: Bearer eyJhbGciOi.J9.x",
    "api_key=topsecret1",
    "connect to 10.0.0.17:8091 failed",
    "host render-7.cluster.local:30000",
    "postgres://user:pass@db/x",
    "file /srv/models/wan/weights.bin is gone",
    "no such video video_68d7512d07848190b3e45da0ecbebcde004da08e1e0678d5",
    'Traceback (most recent call last):\n  File "server.py", line 1, in x',
]
LEAKS = (
    "internal", "8443", "key=1", "sk-proj", "eyJ", "topsecret", "10.0.0", "8091", "render-7",
    "30000", "user:pass", "/srv", "weights", "68d7512d", "Traceback", "server.py", "\n",
)  # fmt: skip


@pytest.mark.parametrize("message", SECRETS)
def test_no_upstream_secret_reaches_a_client(message: str) -> None:
    for status in (400, 401, 403, 404, 409, 413, 429):
        outcome = ADAPTER.outcome(status, {}, error_of(message=message, param=message), upstream())
        assert isinstance(outcome, Refused)
        shown = f"{outcome.error.message} {outcome.error.param}"
        assert not [leak for leak in LEAKS if leak in shown]
    state = ADAPTER.state(task(), 200, {}, failed_with({"message": message}))
    assert isinstance(state, TaskState)
    assert state.error is not None
    assert not [leak for leak in LEAKS if leak in state.error.message]


@pytest.mark.parametrize(
    "message",
    [
        "Invalid value: '5'. Supported values are: '4', '8', and '12'.",
        "size must be one of 720x1280, 1280x720 and/or 1024x1792 (ratio 16/9).",
        "Input should be a valid integer, got 4.5 for seconds",
    ],
)
def test_useful_words_reach_the_client_unharmed(message: str) -> None:
    assert words(message) == message


def test_a_refused_credential_is_not_the_clients_401() -> None:
    """The client's own token is fine; telling it 401 would make it rotate the wrong key."""
    outcome = ADAPTER.outcome(
        401, {}, error_of(message="Incorrect API key provided: sk-abcdef"), upstream()
    )
    assert isinstance(outcome, Refused)
    assert outcome.error.status == 502
    assert "credential" in outcome.error.message


# ---------------------------------------------------------------- polls


def failed_with(error: object, status: str = "failed") -> bytes:
    return body_of({"id": "x", "status": status, "error": error})


def test_the_documented_life_of_a_video() -> None:
    job = cast("dict[str, Json]", orjson.loads(SUBMITTED))
    at = {"seconds": 8.0, "size": (1280, 720)}
    steps: list[tuple[dict[str, Json], TaskState]] = [
        ({}, TaskState(Status.QUEUED, progress=0, **cast("Any", at))),
        (
            {"status": "in_progress", "progress": 33},
            TaskState(Status.IN_PROGRESS, progress=33, **cast("Any", at)),
        ),
        (
            {
                "status": "completed",
                "progress": 100,
                "completed_at": 1767225660,
                "expires_at": 1767229260,
            },
            TaskState(
                Status.COMPLETED,
                progress=100,
                results=(Result(seconds=8, expires_ms=1767229260000),),
                expires_ms=1767229260000,
                **cast("Any", at),
            ),
        ),
        (
            {"status": "failed", "error": {"code": "moderation_blocked", "message": "Blocked."}},
            TaskState(
                Status.FAILED,
                progress=0,
                error=TaskError("moderation_blocked", "Blocked.", "moderation_blocked"),
                **cast("Any", at),
            ),
        ),
    ]
    for change, expected in steps:
        assert ADAPTER.state(task(), 200, {}, body_of({**job, **change})) == expected


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("queued", Status.QUEUED, None),
        ("pending", Status.QUEUED, None),
        ("preprocessing", Status.QUEUED, None),
        ("in_progress", Status.IN_PROGRESS, None),
        ("processing", Status.IN_PROGRESS, None),
        ("running", Status.IN_PROGRESS, None),
        ("completed", Status.COMPLETED, None),
        ("Completed", Status.COMPLETED, None),
        ("succeeded", Status.COMPLETED, None),
        ("failed", Status.FAILED, "upstream_error"),
        ("error", Status.FAILED, "upstream_error"),
        ("expired", Status.FAILED, "expired"),
        ("cancelled", Status.FAILED, "cancelled"),
        ("canceled", Status.FAILED, "cancelled"),
        ("deleted", Status.FAILED, "cancelled"),
    ],
)
def test_every_known_state_has_one_of_ours(name: str, status: Status, code: str | None) -> None:
    state = ADAPTER.state(task(), 200, {}, body_of({"id": "x", "status": name}))
    assert isinstance(state, TaskState)
    assert (state.status, state.unknown_state) == (status, None)
    assert (state.error.code if state.error else None) == code
    assert bool(state.results) == (status is Status.COMPLETED)
    if state.error is not None:
        assert state.error.message == FAILURES[state.error.code]


def test_an_unknown_state_is_shown_as_in_progress_and_reported() -> None:
    state = ADAPTER.state(task(), 200, {}, b'{"id":"x","status":"Upscaling"}')
    assert state == TaskState(Status.IN_PROGRESS, unknown_state="upscaling")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": 400, "message": "bad"}, TaskError("invalid_input", "bad", "400")),
        ({"code": 429, "message": "busy"}, TaskError("rate_limited", "busy", "429")),
        ({"code": 500, "message": "oops"}, TaskError("upstream_error", "oops", "500")),
        ({"code": "408", "message": "slow"}, TaskError("timeout", "slow", "408")),
        ({"message": "CUDA out of memory"}, TaskError("upstream_error", "CUDA out of memory")),
        ({"code": "insufficient_quota", "message": "x"},
         TaskError("quota_exceeded", "x", "insufficient_quota")),
        ({"code": None, "message": None},
         TaskError("upstream_error", FAILURES["upstream_error"])),
        ({"code": True, "message": 7}, TaskError("upstream_error", FAILURES["upstream_error"])),
        ("just words", TaskError("upstream_error", "just words")),
        (None, TaskError("upstream_error", FAILURES["upstream_error"])),
        ({}, TaskError("upstream_error", FAILURES["upstream_error"])),
        ([], TaskError("upstream_error", FAILURES["upstream_error"])),
    ],
)  # fmt: skip
def test_failures_say_why_in_our_codes(error: object, expected: TaskError) -> None:
    state = ADAPTER.state(task(), 200, {}, failed_with(error))
    assert isinstance(state, TaskState)
    assert state.error == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"progress": 33}, {"progress": 33}),
        ({"progress": 33.7}, {"progress": 33}),
        ({"progress": "33"}, {"progress": 33}),
        ({"progress": "33%"}, {"progress": 33}),
        ({"progress": 140}, {"progress": 100}),
        ({"progress": -3}, {"progress": 0}),
        ({"progress": 0}, {"progress": 0}),
        ({"progress": None}, {"progress": None}),
        ({"progress": True}, {"progress": None}),
        ({"progress": "soon"}, {"progress": None}),
        ({"seconds": 8}, {"seconds": 8.0}),
        ({"seconds": "8"}, {"seconds": 8.0}),
        ({"seconds": "5.1"}, {"seconds": 5.1}),
        ({"seconds": 0}, {"seconds": None}),
        ({"seconds": "four"}, {"seconds": None}),
        ({"seconds": [4]}, {"seconds": None}),
        ({"size": "832x480"}, {"size": (832, 480)}),
        ({"size": "NonexNone"}, {"size": None}),
        ({"size": 7}, {"size": None}),
        ({"expires_at": 1767229260}, {"expires_ms": 1767229260000}),
        ({"expires_at": 1767229260.5}, {"expires_ms": 1767229260500}),
        ({"expires_at": 1767229260000}, {"expires_ms": 1767229260000}),
        ({"expires_at": None}, {"expires_ms": None}),
        ({"expires_at": "2026"}, {"expires_ms": None}),
        ({"expires_at": 1e300}, {"expires_ms": None}),
    ],
)
def test_members_are_read_in_every_form_they_come_in(
    fields: Mapping[str, Json], expected: Mapping[str, object]
) -> None:
    state = ADAPTER.state(task(), 200, {}, body_of({"status": "in_progress", **fields}))
    assert {name: getattr(state, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("status", "headers", "body", "reason", "wait_s", "kind"),
    [
        (200, {}, b"", "unreadable", None, "unreadable"),
        (200, {}, b"<html>", "unreadable", None, "unreadable"),
        (200, {}, b"[]", "unreadable", None, "unreadable"),
        (200, {}, b"{}", "unreadable", None, "unreadable"),
        (200, {}, b'{"status": 7}', "unreadable", None, "unreadable"),
        (200, {}, error_of(), "unreadable", None, "unreadable"),
        (401, {}, b"", "credential_refused", None, "credential_refused"),
        (403, {}, b"", "credential_refused", None, "credential_refused"),
        (404, {}, body_of({"detail": "Video not found"}), "not_found", None, "not_found"),
        (429, {"Retry-After": "9"}, b"", "rate_limited", 9, "rate_limited"),
        (500, {}, error_of(), "http_500", None, "http_5xx"),
        (503, {"Retry-After": "2"}, b"", "http_503", 2, "http_5xx"),
        (302, {}, b"", "http_302", None, "http_3xx"),
    ],
)
def test_a_poll_that_says_nothing_never_fails_a_task(
    status: int,
    headers: dict[str, str],
    body: bytes,
    reason: str,
    wait_s: float | None,
    kind: TransientKind,
) -> None:
    assert ADAPTER.state(task(), status, CIMultiDict(headers), body) == Transient(
        reason, wait_s, kind
    )


NAMES = (
    "id", "status", "error", "detail", "message", "code", "param", "loc", "msg", "type",
    "progress", "seconds", "size", "expires_at",
)  # fmt: skip
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
    ),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([200, 302, 400, 401, 403, 404, 409, 413, 422, 429, 500, 503]),
    json_values.map(orjson.dumps) | st.binary(max_size=30),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms"]), st.text(max_size=8)),
)
def test_no_answer_whatsoever_raises(status: int, body: bytes, headers: dict[str, str]) -> None:
    outcome = ADAPTER.outcome(status, headers, body, upstream())
    assert isinstance(outcome, Accepted | Refused | Unknown)
    state = ADAPTER.state(task(), status, headers, body)
    assert isinstance(state, TaskState | Transient)
    if isinstance(state, TaskState) and state.error is not None:
        assert state.error.code in FAILURES


# ---------------------------------------------------------------- the room


def test_every_provider_is_found_by_its_own_name() -> None:
    assert sorted(PROVIDERS) == ["jimeng", "kling", "openai"]
    assert all(provider.name == name for name, provider in PROVIDERS.items())


def test_every_server_an_operator_can_name_has_its_traits() -> None:
    for server in SERVERS:
        assert OpenAIOptions(server=server).server == server
    for traits in SERVERS.values():
        assert traits.operations <= ADAPTER.operations


def test_golden_form_comes_out_of_a_draft() -> None:
    """The 436 bytes openai-python 3.54 sends for the same call."""
    draft = ADAPTER.draft(
        asked(seconds=8, size=(1280, 720)), "video_ours", upstream(), "sora-2", None
    )
    pieces = multipart_pieces(draft.fields, "31b7315e917e80968b499f899a0bceb8")
    assert hashlib.sha256(b"".join(encoded(pieces))).hexdigest() == (
        "0e95ee5aa97eb4c0f7dfdd41067ce0bbf40440e58c9cd815d91341532b366f95"
    )
