"""What a client asks for is what is asked of the provider, under whatever name, or it is a 400.

A picture in a field that nobody reads was once a paid text-to-video.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.dialects import DIALECTS
from proxy.dialects.fields import Fields
from proxy.dialects.media import MemoryBlob, media_in
from proxy.errors import Invalid
from proxy.http.outbound import Draft
from proxy.model import (
    Call,
    Credential,
    DialectName,
    Media,
    Operation,
    Role,
    Upstream,
    VideoRequest,
)
from proxy.providers import PROVIDERS

# The same examples on every run, and no clock: the machine may be busy.
STEADY = settings(
    deadline=None,
    derandomize=True,
    max_examples=300,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG64 = base64.b64encode(PNG).decode()
FILE = MemoryBlob(PNG, "image/png", "cat.png")
URL = "https://pics.example/cat.png"
BARE = "https://pics.example/a"  # nothing but its field's name says what it is
OTHER = "https://pics.example/dog.png"
MP3 = base64.b64encode(b"ID3\x04\x00\x00\x00\x00\x00\x00TSSE" + bytes(20)).decode()
MP4 = base64.b64encode(b"\x00\x00\x00\x18ftypisom\x00\x00\x02\x00" + bytes(20)).decode()
PAIR = [(Role.FIRST_FRAME, URL), (Role.LAST_FRAME, OTHER)]

PARAMS: Mapping[DialectName, Mapping[str, str]] = {"kling": {"kind": "text2video"}}
ALL: tuple[DialectName, ...] = ("openai", "generic", "kling", "jimeng")
OPEN: tuple[DialectName, ...] = ("openai", "generic")
PLACES = (("openai", "sora-2"), ("kling", "kling-v2-6"), ("jimeng", "jimeng_t2v_v30"))


def read(dialect: DialectName, values: Mapping[str, object]) -> VideoRequest:
    call = Call(dialect, Operation.CREATE, PARAMS.get(dialect, {}), {})
    return DIALECTS[dialect].submission(call, Fields({"prompt": "a cat", **values}), "m")


def draft(request: VideoRequest, name: str, model: str) -> Draft:
    provider = PROVIDERS[name]
    key = Credential("k", api_key="a", access_key="b", secret_key="c")
    upstream = Upstream("u", name, "https://u.example", (key,), options=provider.options())
    return provider.draft(request, "video_00" + 46 * "a", upstream, model, None)


def seen(media: tuple[Media, ...]) -> list[tuple[Role, str | None]]:
    return [(item.role, item.url) for item in media]


# ---------------------------------------------------------------- roles

FIRST_NAMES = (
    *("input_reference", "image", "image_url", "imageUrl", "first_frame", "firstFrame"),
    *("first_frame_image", "first_frame_url", "start_frame", "start_image", "start_image_url"),
    *("Image", "IMAGE-URL", "images", "image_urls", "imageUrls", "frame_images", "init_image"),
    *("input_image", "img_url", "promptImage", "image_reference", "reference_url"),
)
LAST_NAMES = (
    *("image_tail", "last_frame", "lastFrame", "last_frame_image", "last_frame_url", "end_frame"),
    *("end_image", "tail_image", "endImageUrl", "end_frame_image"),
)
FORMS: Mapping[str, object] = {
    "a URL": URL,
    "an object with url": {"url": URL},
    "an object with image_url": {"image_url": URL},
    "two objects": {"image_url": {"url": URL}},
    "typed": {"type": "image_url", "image_url": {"url": URL}},
    "typed and with its role": {"type": "image", "url": URL, "mime_type": "image/png"},
    "a list": [URL],
    "a list of objects": [{"url": URL}],
    "JSON text": orjson.dumps({"image_url": URL}).decode(),
    "JSON text of a list": orjson.dumps([{"url": URL}]).decode(),
    "with unset members": {"image_url": URL, "file_id": None, "data": ""},
}


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("name", FIRST_NAMES)
def test_every_usual_name_of_a_first_frame_is_one(dialect: DialectName, name: str) -> None:
    assert seen(read(dialect, {name: URL}).media) == [(Role.FIRST_FRAME, URL)]
    assert seen(read(dialect, {"metadata": {name: URL}}).media) == [(Role.FIRST_FRAME, URL)]


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("name", LAST_NAMES)
def test_every_usual_name_of_a_last_frame_is_one(dialect: DialectName, name: str) -> None:
    assert seen(read(dialect, {"image": URL, name: OTHER}).media) == PAIR
    assert seen(read(dialect, {"image": URL, "metadata": {name: OTHER}}).media) == PAIR


@pytest.mark.parametrize("name", ["input_reference", "image", "first_frame", "images"])
@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_taken_in_every_usual_form(name: str, form: str) -> None:
    for dialect in ALL:
        assert seen(read(dialect, {name: FORMS[form]}).media) == [(Role.FIRST_FRAME, URL)]


@pytest.mark.parametrize(
    "value", [FILE, [FILE], {"data": PNG64}, {"type": "base64", "data": PNG64}]
)
def test_inline_pictures_are_taken_in_objects_and_lists(value: object) -> None:
    (media,) = read("openai", {"input_reference": value}).media
    assert media.blob is not None
    assert b"".join(media.blob.chunks()) == PNG


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"input_reference": [URL, OTHER]}, PAIR),
        ({"frame_images": [URL, OTHER]}, PAIR),
        (
            {
                "frame_images": [
                    {"image_url": {"url": OTHER}, "frame_type": "last_frame"},
                    {"image_url": {"url": URL}, "frame_type": "first_frame"},
                ]
            },
            PAIR,
        ),
        ({"images": [OTHER, URL], "image_roles": ["last_frame", "first_frame"]}, PAIR),
        ({"images": [URL, OTHER], "imageRoles": '["first_frame", "last"]'}, PAIR),
        ({"images": [{"url": URL, "role": "start"}, {"url": OTHER, "role": "end"}]}, PAIR),
        ({"image": URL, "images": [URL], "last_frame": OTHER}, PAIR),
        (
            {"reference_images": [URL, OTHER]},
            [(Role.REFERENCE_IMAGE, URL), (Role.REFERENCE_IMAGE, OTHER)],
        ),
        ({"referenceImages": URL}, [(Role.REFERENCE_IMAGE, URL)]),
        ({"input_references": [{"image_url": URL}]}, [(Role.REFERENCE_IMAGE, URL)]),
        ({"reference_videos": [BARE]}, [(Role.REFERENCE_VIDEO, BARE)]),
        ({"reference_audio": BARE}, [(Role.REFERENCE_AUDIO, BARE)]),
        (
            {
                "content": [
                    {"type": "text", "text": "a cat"},
                    {"type": "image_url", "image_url": {"url": OTHER}, "role": "last_frame"},
                    {"type": "image_url", "image_url": {"url": URL}, "role": "first_frame"},
                    {"type": "video_url", "video_url": {"url": BARE}},
                    {"type": "audio_url", "audio_url": {"url": BARE}, "role": "reference_audio"},
                ]
            },
            [*PAIR, (Role.REFERENCE_VIDEO, BARE), (Role.REFERENCE_AUDIO, BARE)],
        ),
    ],
)
@pytest.mark.parametrize("dialect", ALL)
def test_pictures_have_the_roles_that_their_names_or_they_say(
    dialect: DialectName, values: dict[str, object], expected: object
) -> None:
    assert seen(read(dialect, values).media) == expected


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"images": [URL, OTHER]}, "images"),
        ({"image": [URL, OTHER]}, "image"),
        ({"input_reference": [URL, OTHER, BARE]}, "input_reference"),
        ({"last_frame": [URL, OTHER]}, "last_frame"),
        ({"image": URL, "first_frame": OTHER}, "first_frame"),
        ({"image": URL, "metadata": {"image": OTHER}}, "metadata.image"),
        ({"images": [URL, OTHER], "image_roles": ["first_frame"]}, "image_roles"),
        ({"images": [{"url": URL, "role": "middle"}]}, "images.role"),
        ({"image": {"file_id": "file-1"}}, "image.file_id"),
        ({"image": {"url": URL, "data": PNG64}}, "image"),
        ({"image": {"asset": URL}}, "image"),
        ({"image": "asset://1"}, "image"),
        ({"image": [[URL]]}, "image"),
        ({"reference_audio": f"data:video/mp4;base64,{MP4}"}, "reference_audio"),
        ({"reference_videos": [PNG64]}, "reference_videos"),
        ({"content": [{"type": "draft_task", "draft_task": {"id": "1"}}]}, "content"),
    ],
)
@pytest.mark.parametrize("dialect", ALL)
def test_a_picture_whose_place_is_not_certain_is_refused(
    dialect: DialectName, values: dict[str, object], param: str
) -> None:
    with pytest.raises(Invalid) as caught:
        read(dialect, values)
    assert caught.value.param == param


# ---------------------------------------------------------------- what is media

MEDIA: Mapping[str, object] = {
    "thing": f"data:image/png;base64,{PNG64}",
    "thing2": f"DATA:Video/mp4;base64,{MP4}",
    "thing3": PNG64,
    "thing4": MP3,
    "thing5": MP4,
    "thing6": "https://cdn.example/x/Clip.MP4?sig=1#t",
    "thing7": "https://cdn.example/a%2Ewebp",
    "thing8": FILE,
    "thing9": {"deep": [{"er": URL}]},
    "thing10": orjson.dumps({"deep": [URL]}).decode(),
    "thing11": f"![cat](data:image/png;base64,{PNG64})",
    "thing12": PNG64.replace("+", "-").replace("/", "_").rstrip("="),
    "subject_image": BARE,
    "videoAddress": BARE,
    "voice_sample": BARE,
    "my_pic": BARE,
    "clips": [BARE],
    "mask": {"of": BARE},
    "video_path": "file:///etc/passwd",
    "image_prompt": URL,
}
NOT_MEDIA: Mapping[str, object] = {
    "prompt": URL,
    "negative_prompt": f"no data:image/png;base64,{PNG64}",
    "callback_url": URL,
    "webhook": "https://hooks.example/video.mp4",
    "project": "https://tracker.example/PROJ-1",
    "topic_url": "https://example.com/a",
    "note": f"as in {URL}, but at night",
    "note2": f"{URL} is the style to go for",
    "image_strength": 0.5,
    "video_codec": "h264",
    "voice_id": "f3c1a9d0e7b24c5d9a1f0e2b3c4d5e6f",
    "image_sha256": "0f" * 32,
    "frame_rate": "24",
    "audio": True,
    "steps": [1, None, {"a": "b"}],
    "flag": "https",
    "json": '{"a": 1}',
    "broken": "{not json",
}


@pytest.mark.parametrize("name", MEDIA)
def test_media_is_recognised_by_its_value_or_its_name(name: str) -> None:
    path = media_in(MEDIA[name], name)
    assert path is not None
    assert path.partition(".")[0] == name


@pytest.mark.parametrize("name", NOT_MEDIA)
def test_texts_addresses_and_numbers_are_no_media(name: str) -> None:
    assert media_in(NOT_MEDIA[name], name) is None


def test_the_path_of_media_is_dotted() -> None:
    assert media_in({"a": 1, "b": [{"c": URL}]}, "top") == "top.b.c"


def test_a_long_text_is_looked_at_only_where_it_begins() -> None:
    """No one value may hold the worker: 40 MB are as quick as 4 KB."""
    assert media_in("x y " * 10_000_000, "thing") is None
    assert media_in("A" * 40_000_000, "thing") is None


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("dialect", OPEN)
def test_media_under_an_unknown_name_is_refused_wherever_it_stands(
    dialect: DialectName, name: str
) -> None:
    for values, prefix in (
        ({name: MEDIA[name]}, ""),
        ({"metadata": {name: MEDIA[name]}}, "metadata."),
    ):
        with pytest.raises(Invalid) as caught:
            read(dialect, values)
        assert caught.value.param is not None
        assert caught.value.param.startswith(prefix + name)


@pytest.mark.parametrize("name", MEDIA)
@pytest.mark.parametrize("dialect", ["kling", "jimeng"])
def test_a_vendors_media_field_is_its_own_and_refused_elsewhere(
    dialect: DialectName, name: str
) -> None:
    if name == "thing8":  # no file reaches these dialects
        return
    request = read(dialect, {name: MEDIA[name]})
    for provider, model in PLACES:
        if provider == dialect:
            continue
        with pytest.raises(Invalid) as caught:
            draft(request, provider, model)
        assert caught.value.param is not None
        assert caught.value.param.startswith(name)


# ---------------------------------------------------------------- any body

VALUES = st.sampled_from(
    [URL, PNG64, f"data:image/png;base64,{PNG64}", {"url": URL}, [URL], {"image_url": {"url": URL}}]
)
NAMES = st.sampled_from(
    [*FIRST_NAMES, *LAST_NAMES, "reference_images", "reference_video", "reference_audio"]
) | st.text("abImg_-.[]V", min_size=1, max_size=12)


@STEADY
@given(
    st.sampled_from(ALL),
    st.sampled_from(PLACES),
    NAMES,
    VALUES,
    st.lists(st.sampled_from(["metadata", "extra_body", "x", "list"]), max_size=3),
)
def test_a_picture_anywhere_is_carried_or_refused(
    dialect: DialectName, place: tuple[str, str], name: str, value: Any, around: list[str]
) -> None:
    """Never left out and paid. A vendor's own native fields go on to that vendor."""
    body: Any = {name: value}
    for outer in around:
        body = {"x": [body]} if outer == "list" else {outer: body}
    made = _drafted(dialect, body, place)
    if made is None:
        return
    request, fields = made
    if any("pics.example" in text or "blob" in text for text in fields):
        return
    assert request.media == ()
    assert dialect == place[0]  # and the vendor's own field was never ours to judge
    assert set(body) & set(request.native)


def _drafted(
    dialect: DialectName, body: Mapping[str, object], place: tuple[str, str]
) -> tuple[VideoRequest, list[str]] | None:
    """The request and its upstream fields as texts; None when it is refused by name."""
    try:
        request = read(dialect, body)
        made = draft(request, *place)
    except Invalid as error:
        if not error.param:
            raise
        return None
    return request, [orjson.dumps(field, _plain).decode() for field in made.fields.values()]


def _plain(value: object) -> object:
    return "blob" if not isinstance(value, Mapping) else dict(value)


# ---------------------------------------------------------------- length and shape

LENGTHS: tuple[tuple[dict[str, object], float | None], ...] = (
    ({"seconds": 5}, 5.0),
    ({"Seconds": "5"}, 5.0),
    ({"duration": "5s"}, 5.0),
    ({"duration": "4.0"}, 4.0),
    ({"duration_seconds": "4 seconds"}, 4.0),
    ({"durationSeconds": 8}, 8.0),
    ({"n_seconds": [6]}, 6.0),
    ({"video_length": 6}, 6.0),
    ({"length": 6}, 6.0),
    ({"duration_ms": 5000}, 5.0),
    ({"duration": "5000ms"}, 5.0),
    ({"metadata": {"duration": 7}}, 7.0),
    ({"metadata[seconds]": 7}, 7.0),
    ({"metadata.seconds": 7}, 7.0),
    ({"seconds": 5, "duration": "5.0s"}, 5.0),
    ({"seconds": 0}, None),
    ({"seconds": "0"}, None),
    ({"duration": -1}, None),
    ({"duration": "auto"}, None),
    ({"seconds": None, "duration": ""}, None),
)


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(("values", "seconds"), LENGTHS)
def test_a_length_is_read_under_any_usual_name(
    dialect: DialectName, values: dict[str, object], seconds: float | None
) -> None:
    request = read(dialect, values)
    assert (request.seconds, request.extra, request.native) == (seconds, {}, {})


@pytest.mark.parametrize("dialect", ["openai", "generic", "kling"])
@pytest.mark.parametrize(
    ("values", "seconds", "frames"),
    [
        ({"num_frames": 120}, 5.0, 120),
        ({"frames": "121"}, 5.0, 121),
        ({"numFrames": 81, "fps": 16}, 5.0, 81),
        ({"num_frames": 81, "frame_rate": 16.0, "seconds": 5}, 5.0, 81),
        ({"num_frames": 81, "seconds": 5}, 5.0, 81),
        ({"num_frames": 0, "seconds": 5}, 5.0, None),
    ],
)
def test_frames_are_a_length(
    dialect: DialectName, values: dict[str, object], seconds: float, frames: int | None
) -> None:
    request = read(dialect, values)
    assert (request.seconds, request.frames) == (seconds, frames)


SHAPES: tuple[tuple[dict[str, object], tuple[object, object, object]], ...] = (
    ({"size": "1280x720"}, ((1280, 720), None, None)),
    ({"size": "1280*720"}, ((1280, 720), None, None)),
    ({"size": "1280X720"}, ((1280, 720), None, None)),
    ({"size": "1280×720"}, ((1280, 720), None, None)),
    ({"size": "1280:720"}, ((1280, 720), None, None)),
    ({"dimensions": {"width": 1280, "height": 720}}, ((1280, 720), None, None)),
    ({"image_size": [1280, 720]}, ((1280, 720), None, None)),
    ({"ratio": "1280:720"}, ((1280, 720), None, None)),
    ({"resolution": "1280x720"}, ((1280, 720), None, None)),
    ({"videoWidth": 1280, "videoHeight": "720"}, ((1280, 720), None, None)),
    ({"size": "16:9"}, (None, "16:9", None)),
    ({"size": "16x9"}, (None, "16:9", None)),
    ({"aspectRatio": "16:9"}, (None, "16:9", None)),
    ({"ratio": "21/9"}, (None, "21:9", None)),
    ({"aspect_ratio": 1.7778}, (None, "16:9", None)),
    ({"ratio": "16:9", "aspect_ratio": "32:18"}, (None, "32:18", None)),
    ({"orientation": "Landscape"}, (None, "16:9", None)),
    ({"orientation": "portrait"}, (None, "9:16", None)),
    ({"aspect_ratio": "square"}, (None, "1:1", None)),
    ({"orientation": "portrait", "size": "720x1280"}, ((720, 1280), None, None)),
    ({"size": "720p"}, (None, None, "720p")),
    ({"resolution": 720}, (None, None, "720p")),
    ({"resolution": "720"}, (None, None, "720p")),
    ({"resolution": "720P"}, (None, None, "720p")),
    ({"resolution": "HD"}, (None, None, "720p")),
    ({"resolution": "4K"}, (None, None, "4k")),
    ({"quality": "1080p"}, (None, None, "1080p")),
    ({"resolution": "2k", "size": "1440p"}, (None, None, "1440p")),
    ({"size": "auto", "aspect_ratio": "adaptive", "resolution": "auto"}, (None, None, None)),
    ({"size": "", "width": 0, "height": 0, "resolution": 0}, (None, None, None)),
    ({"size": "0x0"}, (None, None, None)),
    ({"metadata": {"ratio": "9:16"}}, (None, "9:16", None)),
)


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(("values", "shape"), SHAPES)
def test_a_shape_is_read_for_what_it_is(
    dialect: DialectName, values: dict[str, object], shape: object
) -> None:
    request = read(dialect, values)
    assert (request.size, request.aspect_ratio, request.resolution) == shape
    assert (request.extra, request.native, request.quality_level) == ({}, {}, None)


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "values",
    [
        {"seconds": 4, "duration_seconds": 60},
        {"seconds": 4, "metadata": {"duration": 60}},
        {"seconds": 4, "Seconds": 60},
        {"seconds": 4, "duration_ms": 60_000},
        {"size": "1280x720", "dimensions": "720x1280"},
        {"size": "1280x720", "width": 720, "height": 1280},
        {"size": "16:9", "ratio": "9:16"},
        {"aspect_ratio": "16:9", "orientation": "portrait"},
        {"resolution": "720p", "quality": "1080p"},
        {"n": 1, "num_videos": 4},
        {"mode": "std", "metadata": {"Mode": "pro"}},
        {"prompt": "a cat", "promptText": "a dog"},
    ],
)
def test_two_names_for_one_thing_that_disagree_are_refused(
    dialect: DialectName, values: dict[str, object]
) -> None:
    with pytest.raises(Invalid) as caught:
        read(dialect, values)
    assert caught.value.message.count("'") == 4  # it names both


@pytest.mark.parametrize("dialect", ["openai", "generic", "kling"])
@pytest.mark.parametrize(
    "values", [{"num_frames": 480, "seconds": 4}, {"num_frames": 480, "fps": 24, "seconds": 4}]
)
def test_frames_and_seconds_that_disagree_are_refused(
    dialect: DialectName, values: dict[str, object]
) -> None:
    with pytest.raises(Invalid, match="'seconds' and 'num_frames'"):
        read(dialect, values)


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Seconds", 60),
        ("Model_Name", "m2"),
        ("metadata[seconds]", 60),
        ("metadata[Model]", "m2"),
        ("Duration", 60),
        ("N", 4),
        ("Callback_Url", "https://hooks.example/x"),
        ("negativePrompt", "dogs"),
        ("generate-audio", True),
    ],
)
def test_another_spelling_of_ours_never_stays_unknown(
    dialect: DialectName, name: str, value: object
) -> None:
    """A lenient server behind us would obey it, unpriced."""
    request = read(dialect, {name: value})
    assert (request.extra, request.native) == ({}, {})
    assert request != read(dialect, {})


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("seed", [2**64 - 1, str(2**64 - 1), 2**53 + 1, 0, "7"])
def test_a_seed_is_exact(dialect: DialectName, seed: object) -> None:
    assert read(dialect, {"seed": seed}).seed == int(str(seed))


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    "name", ["seconds", "size", "width", "height", "fps", "n", "seed", "style", "image", "images"]
)
def test_null_and_empty_are_unset_everywhere(dialect: DialectName, name: str) -> None:
    for unset in (None, ""):
        assert read(dialect, {name: unset}) == read(dialect, {})
        assert read(dialect, {"metadata": {name: unset}}) == read(dialect, {})


@pytest.mark.parametrize("name", ["video", "video_id", "remix_video_id"])
@pytest.mark.parametrize("dialect", OPEN)
def test_a_create_that_names_a_source_video_is_refused(dialect: DialectName, name: str) -> None:
    with pytest.raises(Invalid, match="/v1/videos/edits") as caught:
        read(dialect, {name: "video_1"})
    assert caught.value.param == name


@pytest.mark.parametrize("name", ["mode", "style", "quality", "response_format"])
@pytest.mark.parametrize("dialect", ALL)
def test_a_word_is_no_json(dialect: DialectName, name: str) -> None:
    """A server behind us that parses texts would read fields in it that nobody has priced."""
    for text in ('{"seconds": 60}', ' ["pro"]'):
        with pytest.raises(Invalid, match=f"'{name}' must be") as caught:
            read(dialect, {name: text})
        assert caught.value.param == name
