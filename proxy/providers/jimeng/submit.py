"""A submit to Jimeng: its req_key and its body, and what the body will make."""

from __future__ import annotations

from fractions import Fraction
from typing import cast

from proxy.errors import Invalid
from proxy.http.outbound import (
    Adjustment,
    Base64,
    Draft,
    DraftValue,
    Rendered,
    Terms,
)
from proxy.model import (
    Media,
    Operation,
    Role,
    Upstream,
    VideoRequest,
)
from proxy.providers import fitting, values
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.sizes import is_like, size_of

VERSION = "2022-08-31"
SUBMIT_ACTION = "CVSync2AsyncSubmitTask"
OPERATIONS = frozenset({Operation.CREATE})
FRAMES_PER_SECOND = 24  # frames = 24·s + 1

# Never from a client's native fields.
_OURS = frozenset({"req_key", "callback_url", "webhook", "task_id", "n"})
_HARMLESS = frozenset({"template_id", "camera_strength"})  # documented, and change no price
_MODE_LINES = {"std": 720, "pro": 1080}  # what a Kling client means by its modes


def draft_of(
    request: VideoRequest, upstream: Upstream, upstream_model: str, row: ModelRow, terms: Terms
) -> Draft:
    fitting.check_operation(request, OPERATIONS, row)
    fitting.check_single(request)
    fitting.check_silence(request)
    fitting.check_length(request.prompt, "prompt", row.prompt_chars)
    first, last = fitting.frames_of(request)
    req_key = _req_key(request, upstream_model, row, first, last)
    seconds, told = fitting.fit_seconds(request, row.seconds)
    aspect_ratio, adjusted, dropped = _shape(request, row, is_text=first is None)
    told += adjusted
    values: dict[str, DraftValue] = {
        "req_key": req_key,
        "prompt": request.prompt,
        "seed": _seed(request),
        "frames": _frames(seconds, row),
        "aspect_ratio": aspect_ratio,
        **_pictures(first, last, row),
    }
    if request.dialect == "jimeng":
        native, left = fitting.literal(request, _OURS | values.keys(), _HARMLESS, terms)
        values |= native
        dropped += left
    else:
        dropped += fitting.foreign(request)
    if request.negative_prompt is not None:
        dropped.append("negative_prompt")
    return Draft(
        method="POST",
        path=upstream.paths.get("submit", "/"),
        query=(("Action", SUBMIT_ACTION), ("Version", VERSION)),
        encoding="json",
        fields={name: value for name, value in values.items() if value is not None},
        handle={"req_key": req_key},
        adjusted=tuple(told),
        dropped=(*dropped, *fitting.dropped(request, kept=("seed",))),
    )


def rendered_of(draft: Draft, row: ModelRow) -> Rendered:
    usual = None if row.default_seconds is None else FRAMES_PER_SECOND * row.default_seconds + 1
    frames = values.number(draft.fields.get("frames", usual))
    has_picture = "image_urls" in draft.fields or "binary_data_base64" in draft.fields
    shape = str(draft.fields.get("aspect_ratio", row.default_ratio))
    return Rendered(
        seconds=None if frames is None else (frames - 1) / FRAMES_PER_SECOND,
        size=None if has_picture else _size(shape, row),
    )


def _req_key(
    request: VideoRequest,
    upstream_model: str,
    row: ModelRow,
    first: Media | None,
    last: Media | None,
) -> str:
    if last is not None and first is None:
        raise Invalid(
            f"'{last.param}' needs a first frame: this model takes no last frame alone.",
            param=last.param,
        )
    names = (row.with_first_frame, row.with_both_frames)
    if row.from_text is None and names == (None, None):  # nothing is known of its siblings
        return upstream_model
    if last is not None:
        if row.with_both_frames is None or not row.takes(Role.LAST_FRAME):
            raise Invalid(
                f"'{last.param}' is not supported: this model takes one picture, the first frame.",
                param=last.param,
            )
        return row.with_both_frames
    if first is not None:
        if row.with_first_frame is None or upstream_model == row.with_both_frames:
            raise Invalid(
                f"'{first.param}' is one of two: this model needs a first and a last frame.",
                param=first.param,
            )
        return row.with_first_frame
    if row.from_text is False or (upstream_model in names and upstream_model != row.model):
        param = fitting.picture_param(request)
        raise Invalid(f"'{param}' is required: the video starts from a picture.", param=param)
    return upstream_model


def _frames(seconds: int | None, row: ModelRow) -> int | None:
    """None: no length was asked for, or the model has only the one it renders anyway."""
    if seconds is None or row.seconds == (row.default_seconds,):
        return None
    return FRAMES_PER_SECOND * seconds + 1


def _seed(request: VideoRequest) -> DraftValue:
    """A Jimeng client's "any" (-1) stands among its own fields."""
    if request.seed is None and request.dialect == "jimeng":
        return cast("DraftValue", request.native.get("seed"))
    return request.seed


def _pictures(first: Media | None, last: Media | None, row: ModelRow) -> dict[str, DraftValue]:
    """`image_urls` or `binary_data_base64`: Jimeng takes one of the two."""
    media = [item for item in (first, last) if item is not None]
    urls: list[DraftValue] = [item.url for item in media if item.url is not None]
    blobs: list[DraftValue] = []
    for item in media:
        if item.blob is None:
            continue
        if urls:
            raise Invalid(
                f"'{item.param}' is an upload and the other picture a URL: this model takes "
                "two uploads or two URLs.",
                param=item.param,
            )
        fitting.check_picture(item.blob, item.param, row)
        blobs.append(Base64(item.blob))
    return {"image_urls": urls or None, "binary_data_base64": blobs or None}


def _shape(
    request: VideoRequest, row: ModelRow, *, is_text: bool
) -> tuple[str | None, list[Adjustment], list[str]]:
    """(aspect_ratio, adjusted, dropped). The req_key fixes the resolution, so what asks for more
    lines is refused; a picture keeps its own shape."""
    told: list[Adjustment] = []
    dropped: list[str] = []
    lines = _lines(row)
    _check_lines(request, row, told, dropped)
    if not is_text:
        if request.aspect_ratio is not None:
            dropped.append("aspect_ratio")
        if request.size is not None and lines is None:
            dropped.append("size")
        elif request.size is not None and min(request.size) != lines:
            told.append(Adjustment("size", fitting.spelled(request.size), f"{lines}p"))
        return None, told, dropped
    aspect_ratio, fitted = fitting.shape_of(request, row.ratios or ())
    told += fitted
    if request.size is not None and aspect_ratio is not None:
        size = _size(aspect_ratio, row)
        given = aspect_ratio if size is None else fitting.spelled(size)
        if size != request.size:
            told.append(Adjustment("size", fitting.spelled(request.size), given))
    return aspect_ratio, told, dropped


def _check_lines(
    request: VideoRequest, row: ModelRow, told: list[Adjustment], dropped: list[str]
) -> None:
    """The first to ask for lines, of size, resolution and mode, may not ask for more than the
    model has; where resolution or mode say otherwise than it, that is told."""
    has = _lines(row)
    asked, param = fitting.lines_of(request)
    mode_lines = None if request.mode is None else _MODE_LINES.get(request.mode)
    if request.mode is not None and mode_lines is None:
        raise Invalid("'mode' must be std or pro.", param="mode")
    if asked is None:
        asked, param = mode_lines, "mode"
    if asked is not None and has is not None:
        most = has
        if request.size is not None:  # squarer shapes have more lines: 1:1 on 720p is 960x960
            shape = fitting.nearest(Fraction(*request.size), row.ratios or ())
            most = max(most, min(_size(shape, row) or (0, 0)))
        if asked > most:
            raise Invalid(
                f"'{param}' asks for {asked} lines on the short side; this model renders {most}.",
                param=param,
            )
    named = None if request.resolution is None else fitting.named_lines(request.resolution)
    for name, wish, lines in (
        ("resolution", request.resolution, named),
        ("mode", request.mode, mode_lines),
    ):
        if wish is None or lines == has:
            continue
        if has is None:
            dropped.append(name)
        else:
            told.append(Adjustment(name, wish, f"{has}p"))


def _lines(row: ModelRow) -> int | None:
    """Its nominal resolution, where somebody says."""
    return max((lines for _, lines in row.lines), default=None)


def _size(aspect_ratio: str, row: ModelRow) -> tuple[int, int] | None:
    """The pixels of a shape: the row's size that is as good as of it; None where nobody says."""
    shape = fitting.ratio(aspect_ratio)
    if shape is None or aspect_ratio not in (row.ratios or ()):
        return None
    sizes = [size for text in row.sizes or () if (size := size_of(text)) is not None]
    return next((size for size in sizes if is_like(size, shape)), None)
