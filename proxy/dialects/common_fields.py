"""The request that a body of any dialect makes, under whatever names its fields came.

Each field is read at the top level, else in `metadata`, where the generic API keeps its
"extended parameters" (negative_prompt, style, quality_level, …) and where openai-python's
`extra_body` users put them too. What no rule knows is left over, never an error, unless it is a
picture, video or sound: SDKs and self-hosted servers add fields faster than anybody lists them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from proxy.dialects.body import BodyFields, disagreeing
from proxy.dialects.fields import Fields, folded
from proxy.dialects.media import media_in, web_address
from proxy.dialects.roles import TAKEN
from proxy.dialects.shape import AUTO, Length, Shape, count, is_lines, length_of, shape_of
from proxy.errors import Invalid
from proxy.model import Call, Json, Kind, Media, Operation, Role, VideoRequest

MODELS = (("model", "modelname", "modelid", "reqkey"),)
_PROMPT = ("prompt", "prompttext", "textprompt")
_NEGATIVE = ("negativeprompt", "negprompt", "negativeprompttext")
_COUNTS = (
    *("n", "numvideos", "numberofvideos", "videocount", "numoutputs", "numoutputsperprompt"),
    *("numvideosperprompt", "numsamples", "samples", "samplecount", "candidatecount", "batchsize"),
)
_AUDIO = (
    *("audio", "generateaudio", "withaudio", "enableaudio", "hasaudio", "audioenabled", "sound"),
    *("generatesound", "withsound", "enablesound"),
)
_CALLBACK = ("webhook", "callbackurl", "webhookurl", "callback", "callbackuri", "notifyurl")
_QUALITY = ("qualitylevel", "quality")
_SOURCES = (  # what names the video that an edit works on; a create has none
    *("video", "videoid", "sourcevideo", "sourcevideoid", "remixvideoid", "remixedfromvideoid"),
    "remixid",
)


@dataclass(frozen=True, slots=True)
class CommonFields:
    """What the fields that all dialects share say."""

    model: str | None
    prompt: str | None
    negative_prompt: str | None
    length: Length
    shape: Shape
    mode: str | None
    audio: bool | None
    seed: int | None
    n: int | None
    style: str | None
    quality_level: str | None
    user: str | None
    response_format: str | None
    callback_url: str | None


def read_common_fields(
    body: BodyFields,
    *,
    models: Sequence[Sequence[str]] = MODELS,
    prompt_chars: int = 32000,
    count_frames: bool = True,
    text: str | None = None,
) -> CommonFields:
    """Read them all. Raises `Invalid` with `param`.

    `models` are the names of the model, the best group first. `count_frames` False: the dialect
    reads `frames` itself. `text` is a prompt that came elsewhere.
    """
    named = [body.read(names, Fields.word) for names in models]
    prompt = body.read(_PROMPT, lambda f, name: f.prose(name, max_chars=prompt_chars))
    if text is not None and prompt is not None and text != prompt:
        raise disagreeing("prompt", "content")
    return CommonFields(
        model=next((name for name in named if name is not None), None),
        prompt=text if prompt is None else prompt,
        negative_prompt=body.read(
            _NEGATIVE, lambda f, name: f.prose(name, max_chars=prompt_chars), is_soft=True
        ),
        length=length_of(body, count_frames=count_frames),
        shape=shape_of(body),
        mode=body.read(("mode",), lambda f, name: f.word(name, max_chars=64)),
        audio=body.read(_AUDIO, _audio),
        seed=body.read(("seed", "randomseed"), _seed, is_soft=True),
        n=body.read(_COUNTS, count),
        style=body.read(("style",), Fields.word, is_soft=True),
        quality_level=body.read(_QUALITY, _quality, is_soft=True),
        user=body.read(("user",), Fields.word, is_soft=True),
        response_format=body.read(
            ("responseformat",), lambda f, name: f.word(name, max_chars=64), is_soft=True
        ),
        callback_url=body.read(_CALLBACK, _callback, is_soft=True),
    )


def video_request(
    call: Call,
    body: BodyFields,
    default_model: str,
    media: tuple[Media, ...] = (),
    source_id: str | None = None,
    text: str | None = None,
) -> VideoRequest:
    """The request of an OpenAI or generic client; its media, source and a text of its `content`
    have been read by the dialect already.

    Raises `Invalid` with `param`. Whether a prompt must be there is the dialect's rule.
    """
    common = read_common_fields(body, text=text)
    if call.operation is Operation.CREATE:
        check_no_source(body)
    left, metadata = body.leftover()
    check_no_media(left)
    check_no_media(metadata, body.metadata.prefix)
    return request_of(
        call,
        common,
        default_model,
        media,
        source_id=source_id,
        extra=left | ({"metadata": metadata} if metadata else {}),
    )


def request_of(
    call: Call,
    common: CommonFields,
    default_model: str,
    media: tuple[Media, ...],
    *,
    source_id: str | None = None,
    external_id: str | None = None,
    extra: Mapping[str, Json] | None = None,
    native: Mapping[str, Json] | None = None,
) -> VideoRequest:
    starts = any(item.role in (Role.FIRST_FRAME, Role.LAST_FRAME) for item in media)
    return VideoRequest(
        operation=call.operation,
        dialect=call.dialect,
        model=common.model or default_model,
        kind=Kind.IMAGE if starts else Kind.TEXT,
        prompt=common.prompt,
        negative_prompt=common.negative_prompt,
        seconds=common.length.seconds,
        frames=common.length.frames,
        size=common.shape.size,
        aspect_ratio=common.shape.ratio,
        resolution=common.shape.lines,
        mode=common.mode,
        audio=common.audio,
        fps=common.length.fps,
        seed=common.seed,
        n=common.n,
        style=common.style,
        quality_level=common.quality_level,
        user=common.user,
        response_format=common.response_format,
        media=media,
        source_id=source_id,
        external_id=external_id,
        callback_url=common.callback_url,
        extra=extra or {},
        native=native or {},
    )


def check_no_media(left: Mapping[str, Json], prefix: str = "") -> None:
    """Refuse a picture, video or sound among fields that nobody has read: it would be lost, and
    another video than was asked for be paid."""
    for name, value in left.items():
        path = media_in(value, name)
        if path is not None:
            param = prefix + path
            raise Invalid(
                f"'{param}' holds a picture, video or sound under a name that is not taken here: "
                f"send {TAKEN}.",
                param=param,
            )


def check_no_source(body: BodyFields) -> None:
    """Refuse a create that names a video to start from."""
    for each in body.found(_SOURCES):
        if each.value is not False:
            raise Invalid(
                f"'{each.param}' is not taken here: a video is edited at POST /v1/videos/edits, "
                "extended at POST /v1/videos/extensions, and remixed at POST "
                "/v1/videos/{id}/remix; send 'reference_videos' for a video to go by.",
                param=each.param,
            )


def require_prompt(request: VideoRequest) -> VideoRequest:
    if request.prompt is None:
        raise Invalid("'prompt' is required: 1 to 32000 characters of text.", param="prompt")
    return request


def _seed(fields: Fields, name: str) -> int | None:
    value = fields.one(name)
    if isinstance(value, str) and folded(value) in AUTO | {"random"}:
        return None
    return fields.integer(name)


def _audio(fields: Fields, name: str) -> bool | None:
    value = fields.one(name)
    return (
        None
        if isinstance(value, str) and folded(value) in ("auto", "default")
        else fields.flag(name)
    )


def _quality(fields: Fields, name: str) -> str | None:
    return None if is_lines(fields.one(name)) else fields.word(name, max_chars=64)


def _callback(fields: Fields, name: str) -> str | None:
    address = fields.word(name, max_chars=2048)
    return None if address is None else web_address(address, fields.prefix + name)
