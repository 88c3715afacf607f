"""The fields that the OpenAI dialect and the generic one take alike.

Each field is read at the top level, else in `metadata`, where the generic API keeps its
"extended parameters" (negative_prompt, style, quality_level, …) and where openai-python's
`extra_body` users put them too. What no rule knows stays in `extra`, never an error: SDKs and
self-hosted servers add fields faster than anybody lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar, cast

import orjson

from proxy.dialects.fields import Fields, kind_of
from proxy.dialects.media import picture, web_address
from proxy.errors import Invalid
from proxy.model import Call, Json, Kind, Media, Role, VideoRequest

T = TypeVar("T")


_SIZE = re.compile(r"([1-9][0-9]{0,4})x([1-9][0-9]{0,4})")


def video_request(
    call: Call,
    fields: Fields,
    default_model: str,
    media: tuple[Media, ...] = (),
    source_id: str | None = None,
) -> VideoRequest:
    """The request in `fields`; `media` and `source_id` have been read by the dialect already.

    Raises `Invalid` with `param`. Whether a prompt must be there is the dialect's rule.
    """
    layers = _Layers(fields, _metadata(fields))
    callback = fields.word("webhook", "callback_url", max_chars=2048)
    if callback is not None:
        web_address(callback, fields.name_of("webhook", "callback_url"))
    has_picture = any(item.role is Role.FIRST_FRAME for item in media)
    return VideoRequest(
        operation=call.operation,
        dialect=call.dialect,
        model=fields.word("model") or default_model,
        kind=Kind.IMAGE if has_picture else Kind.TEXT,
        prompt=fields.prose("prompt"),
        negative_prompt=layers.read(lambda f: f.prose("negative_prompt")),
        seconds=layers.read(lambda f: f.number("seconds", "duration", low=0.001)),
        size=layers.size(),
        aspect_ratio=layers.read(lambda f: f.word("aspect_ratio", max_chars=32)),
        resolution=layers.read(lambda f: f.word("resolution", max_chars=32)),
        mode=layers.read(lambda f: f.word("mode", max_chars=64)),
        audio=layers.read(lambda f: f.flag("audio", "generate_audio")),
        fps=layers.read(lambda f: f.integer("fps", low=1)),
        seed=layers.read(lambda f: f.integer("seed")),
        n=layers.read(lambda f: f.integer("n", low=1)),
        style=layers.read(lambda f: f.word("style")),
        quality_level=layers.read(lambda f: f.word("quality_level", "quality", max_chars=64)),
        user=layers.read(lambda f: f.word("user")),
        response_format=layers.read(lambda f: f.word("response_format", max_chars=64)),
        media=media,
        source_id=source_id,
        callback_url=callback,
        extra=layers.leftover(),
    )


def first_frame(fields: Fields, *names: str) -> Media | None:
    """The picture under the first of these names that is there. An object is OpenAI's form:
    exactly one of `image_url` and `file_id`, as an object or as the JSON text of one."""
    value = fields.raw(*names)
    if value is None:
        return None
    param = fields.name_of(*names)
    value = json_text(value, param)
    if not isinstance(value, dict):
        return picture(value, param, Role.FIRST_FRAME)
    inner = Fields(cast("dict[str, object]", value), prefix=f"{param}.")
    url, file_id = inner.raw("image_url"), inner.raw("file_id")
    unknown = next(iter(inner.rest()), None)
    if unknown is not None:
        raise Invalid(
            f"'{param}' takes 'image_url' or 'file_id', not {unknown[:40]!r}.", param=param
        )
    if (url is None) == (file_id is None):
        raise Invalid(f"'{param}' takes exactly one of 'image_url' and 'file_id'.", param=param)
    if file_id is not None:
        raise Invalid(
            f"'{param}.file_id' is not supported: send the picture itself or 'image_url'.",
            param=f"{param}.file_id",
        )
    return picture(url, f"{param}.image_url", Role.FIRST_FRAME)


def require_prompt(request: VideoRequest) -> VideoRequest:
    if request.prompt is None:
        raise Invalid("'prompt' is required: 1 to 32000 characters of text.", param="prompt")
    return request


def json_text(value: object, param: str) -> object:
    """An object sent as its JSON text, the only way some multipart clients have; else `value`."""
    if not isinstance(value, str) or not value.startswith("{"):
        return value
    try:
        return cast("object", orjson.loads(value))
    except orjson.JSONDecodeError as exc:
        raise Invalid(f"'{param}' looks like a JSON object but is not one.", param=param) from exc


def _metadata(fields: Fields) -> Fields:
    value = json_text(fields.raw("metadata"), "metadata")
    if value is None:
        return Fields({})
    if not isinstance(value, dict):
        raise Invalid(f"'metadata' must be an object, not {kind_of(value)}.", param="metadata")
    return Fields(cast("dict[str, object]", value), prefix="metadata.")


class _Layers:
    """The body and its `metadata`; the body wins. Both are read either way, so that an entry
    with a rule never shows up among the leftovers."""

    __slots__ = ("_metadata", "_top")

    def __init__(self, top: Fields, metadata: Fields) -> None:
        self._top = top
        self._metadata = metadata

    def read(self, reader: Callable[[Fields], T | None]) -> T | None:
        top, lifted = reader(self._top), reader(self._metadata)
        return lifted if top is None else top

    def size(self) -> tuple[int, int] | None:
        """`size`, which outranks `width` with `height` (as on vLLM-Omni)."""
        named = self.read(_size)
        width = self.read(lambda f: f.integer("width", low=1, high=99999))
        height = self.read(lambda f: f.integer("height", low=1, high=99999))
        if named is not None:
            return named
        if width is None and height is None:
            return None
        if width is None or height is None:
            absent = "width" if width is None else "height"
            raise Invalid(f"'{absent}' is missing: width and height go together.", param=absent)
        return width, height

    def leftover(self) -> dict[str, Json]:
        left = self._top.rest()
        metadata = self._metadata.rest()
        if metadata:
            left["metadata"] = metadata
        return left


def _size(fields: Fields) -> tuple[int, int] | None:
    text = fields.word("size")
    if text is None:
        return None
    match = _SIZE.fullmatch(text)
    if match is None:
        raise Invalid("'size' must be WIDTHxHEIGHT in pixels, like 1280x720.", param="size")
    return int(match[1]), int(match[2])
