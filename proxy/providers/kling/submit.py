"""A submit to Kling: its path and its body, and what the body will make."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    Kind,
    Media,
    Operation,
    Upstream,
    VideoRequest,
)
from proxy.providers import fitting, values
from proxy.providers.catalogue.row import ModelRow

OPERATIONS = frozenset({Operation.CREATE})

# Never from a client's native fields: ours, or a way around what the client pays for.
_OURS = frozenset({"model", "model_name", "external_task_id", "callback_url", "n"})
# Documented fields that change no price. `voice_list` does, and is not among them.
_HARMLESS = frozenset(
    {
        *("cfg_scale", "camera_control", "static_mask", "dynamic_masks", "element_list"),
        *("watermark_info", "multi_shot", "shot_type", "multi_prompt"),
    }
)


@dataclass(frozen=True, slots=True)
class _Picture:
    """How a wish for size, shape, resolution and mode comes out."""

    mode: str | None = None
    aspect_ratio: str | None = None
    adjusted: list[Adjustment] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


def path_of(upstream: Upstream, action: str, kind: str) -> str:
    return upstream.paths.get(f"{action}.{kind}", f"/v1/videos/{kind}")


def draft_of(
    request: VideoRequest,
    task_id: str,
    upstream: Upstream,
    upstream_model: str,
    row: ModelRow,
    terms: Terms,
) -> Draft:
    fitting.check_operation(request, OPERATIONS, row)
    fitting.check_single(request)
    fitting.check_length(request.prompt, "prompt", row.prompt_chars)
    fitting.check_length(request.negative_prompt, "negative_prompt", row.prompt_chars)
    if row.audio == "never":
        fitting.check_silence(request)
    first, last = fitting.frames_of(request)
    fitting.check_frames(row, first, last)
    kind = Kind.IMAGE if first or last else Kind.TEXT
    if kind is Kind.TEXT and (request.kind is Kind.IMAGE or row.from_text is False):
        param = fitting.picture_param(request)
        raise Invalid(f"'{param}' is required: the video starts from a picture.", param=param)
    seconds, told = fitting.fit_seconds(request, row.seconds)
    picture = _picture(request, row, kind)
    is_native = request.dialect == "kling"

    values: dict[str, DraftValue] = {
        "model_name": upstream_model,
        "prompt": request.prompt,
        "negative_prompt": request.negative_prompt,
        "image": _media_value(first, row),
        "image_tail": _media_value(last, row),
        "duration": None if seconds is None else str(seconds),
        "mode": picture.mode,
        "sound": _sound(request, row),
        "aspect_ratio": picture.aspect_ratio,
    }
    left: list[str] = []
    if is_native:
        native, left = fitting.literal(request, _OURS | values.keys(), _HARMLESS, terms)
        _check_shots(native.get("multi_prompt"), seconds or row.default_seconds)
        values |= native
    values["external_task_id"] = task_id
    return Draft(
        method="POST",
        path=path_of(upstream, "submit", kind.value),
        encoding="json",
        fields={name: value for name, value in values.items() if value is not None},
        handle={"kind": kind.value},
        adjusted=(*told, *picture.adjusted),
        dropped=(
            *picture.dropped,
            *fitting.dropped(request),
            *(left if is_native else fitting.foreign(request)),
        ),
    )


def rendered_of(draft: Draft, row: ModelRow) -> Rendered:
    fields = draft.fields
    modes = dict(row.lines)
    mode = values.text(fields.get("mode", "std"))
    lines = modes.get(None) or modes.get(mode)
    aspect_ratio = str(fields.get("aspect_ratio", row.default_ratio))
    size = None
    if draft.handle.get("kind") == Kind.TEXT and lines is not None:
        size = _size(aspect_ratio, lines)
    return Rendered(
        seconds=values.number(fields.get("duration", row.default_seconds)),
        size=size,
        audio=fields.get("sound") == "on",
        mode=mode,
    )


def _media_value(media: Media | None, row: ModelRow) -> str | Base64 | None:
    """A URL, or base64 without a prefix: Kling rejects data: URLs."""
    if media is None or media.blob is None:
        return media.url if media else None
    fitting.check_picture(media.blob, media.param, row)
    kind = media.blob.content_type.partition(";")[0].strip().lower()
    if kind.startswith(("image/", "video/")) and kind not in (row.picture_types or (kind,)):
        raise Invalid(f"'{media.param}' must be JPEG or PNG, not {kind[:40]}.", param=media.param)
    return Base64(media.blob)


def _check_shots(shots: DraftValue, seconds: int | None) -> None:
    """The shots of a video are as long as the video, which is what is paid for."""
    if not isinstance(shots, list) or seconds is None:
        return
    lengths = [values.number(shot.get("duration")) for shot in shots if isinstance(shot, dict)]
    total = sum(length for length in lengths if length is not None)
    if total > seconds:
        raise Invalid(
            f"'multi_prompt' has shots of {total:g} seconds in all; 'duration' is {seconds}.",
            param="multi_prompt",
        )


def _sound(request: VideoRequest, row: ModelRow) -> str | None:
    if request.audio is None or row.audio == "never":
        return None
    return "on" if request.audio else "off"


def _picture(request: VideoRequest, row: ModelRow, kind: Kind) -> _Picture:
    """Mode and shape. A picture keeps its own shape: Kling takes no `aspect_ratio` with one."""
    mode, lines = _mode(request, row)
    if kind is Kind.IMAGE:
        told = _told(request, None, lines)
        dropped = ["aspect_ratio"] if request.aspect_ratio is not None else []
        return _Picture(mode, None, told, dropped)
    if request.dialect == "kling" and request.aspect_ratio is not None:
        return _Picture(mode, request.aspect_ratio, _told(request, request.aspect_ratio, lines))
    aspect_ratio, told = fitting.shape_of(request, row.ratios or ())
    return _Picture(mode, aspect_ratio, [*told, *_told(request, aspect_ratio, lines)])


def _mode(request: VideoRequest, row: ModelRow) -> tuple[str | None, int | None]:
    """(mode, lines of the short side): the client's mode, else the smallest that covers what it
    asks for. A Kling client's mode is its own affair, newer ones than `pro` included."""
    modes = dict(row.lines)
    if request.mode is not None:
        if request.mode not in modes and request.dialect != "kling":
            names = [name for name in modes if name]
            accepted = f"must be {' or '.join(names)}" if names else "is not known to this model"
            raise Invalid(f"'mode' {accepted}.", param="mode")
        return request.mode, modes.get(None) or modes.get(request.mode)
    asked, param = fitting.lines_of(request)
    if asked is None or not row.lines:
        return None, None
    for name, lines in row.lines:
        if lines >= asked:
            return name, lines
    raise Invalid(
        f"'{param}' asks for {asked} lines on the short side; this model renders "
        f"{fitting.listed([lines for _, lines in row.lines])}.",
        param=param,
    )


def _told(request: VideoRequest, aspect_ratio: str | None, lines: int | None) -> list[Adjustment]:
    """What a client that asked for a size or resolution gets instead. `lines` None: its own mode,
    newer than our table; what that renders nobody here knows."""
    told = []
    if request.size is not None:
        given = _given_size(request, request.size, aspect_ratio, lines)
        if given is not None:
            told.append(Adjustment("size", fitting.spelled(request.size), given))
    if request.resolution is not None and lines is not None:
        named = fitting.named_lines(request.resolution)
        if named != lines:
            told.append(Adjustment("resolution", request.resolution, f"{lines}p"))
    return told


def _given_size(
    request: VideoRequest, asked: tuple[int, int], aspect_ratio: str | None, lines: int | None
) -> str | None:
    """None: the size asked for; with a picture, which keeps its shape, its short side."""
    if lines is None:
        return aspect_ratio or request.mode
    if aspect_ratio is None:
        return None if min(asked) == lines else f"{lines}p"
    size = _size(aspect_ratio, lines)
    if size is None:
        return aspect_ratio
    return None if size == asked else fitting.spelled(size)


def _size(aspect_ratio: str, lines: int) -> tuple[int, int] | None:
    """Pixels of a shape whose short side has `lines`."""
    shape = fitting.ratio(aspect_ratio)
    if shape is None:
        return None
    return (round(lines * shape), lines) if shape >= 1 else (lines, round(lines / shape))
