"""What a client asks for, held against what a model renders, under the client's field names.

The arithmetic and the wording that providers share; which values a model accepts is its row in the
catalogue.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from typing import TypeGuard, cast

import orjson

from proxy.dialects import DIALECTS
from proxy.dialects.base import FieldNames
from proxy.dialects.media import media_in
from proxy.dialects.shape import AUTO
from proxy.errors import Invalid, UnsupportedOperation
from proxy.http.outbound import Adjustment, DraftValue, Terms
from proxy.model import Blob, Json, Media, Operation, Role, VideoRequest
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.passthrough import folded, is_never, is_ours, is_passed

# Fields that leave the picture's content and shape alone, or only nudge it.
_SOFT = ("fps", "seed", "style", "quality_level", "user", "response_format")

_MEDIA = re.compile("image|picture|photo|video|audio|voice|mask|(first|last|start|end|tail)frame")
# Folded names that plainly say how long or in which shape, and those that say how many videos.
_MEASURE = re.compile(
    r"(n|num|video|clip|output|target|max|min|total|desired|requested|generation|movie)*"
    r"((duration|length|runtime|seconds|secs|minutes)(in)?(s|sec|secs|seconds|minutes|mins?|ms)?"
    r"|(num|number(of)?)?frames|framecount)"
    r"|(video|frame|screen|output|picture|image|target|display)*"
    r"(size|dimensions?|width|height|resolution|ratio|aspect|aspectratio|orientation)"
)
_COUNT = re.compile(
    r"n|(n|num|number(of)?)(variants|videos|results|outputs|samples|generations)"
    r"|variants|count|videocount|samplecount|numoutputsperprompt|numvideosperprompt"
)
_WRAPPER = re.compile(
    r"extra(body|params|parameters|args)|(generation|video)?(config|options|settings|parameters)"
    r"|params|input|request|body|data|payload|metadata"
)
_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,15}(\.[0-9]{1,9})?\s*")
_RATIO = re.compile(r"([1-9][0-9]{0,4}):([1-9][0-9]{0,4})")
_LINES = re.compile(r"([1-9][0-9]{1,4})p", re.IGNORECASE)
_NAMED_LINES = {"2k": 1440, "4k": 2160}


def names_of(request: VideoRequest) -> FieldNames:
    """What the client's dialect calls the fields that error messages speak of."""
    return DIALECTS[request.dialect].field_names


def picture_param(request: VideoRequest) -> str:
    return names_of(request).picture


def size_param(request: VideoRequest) -> str:
    return names_of(request).size


def check_operation(
    request: VideoRequest, operations: Collection[Operation], row: ModelRow | None = None
) -> None:
    """Refuse a submit that the provider cannot do, or its model is known not to do."""
    if row is not None and row.operations is not None:
        operations = [operation for operation in operations if operation in row.operations]
    if request.operation not in operations:
        raise UnsupportedOperation(
            f"The provider of this model cannot {request.operation.value} a video; it can: "
            f"{', '.join(sorted(operation.value for operation in operations))}."
        )


def check_single(request: VideoRequest) -> None:
    if request.n is not None and request.n > 1:
        raise Invalid(
            f"'n' must be 1: this model renders one video a request, not {request.n}.", param="n"
        )


def check_length(value: str | None, param: str, limit: int | None) -> None:
    if value is not None and limit is not None and len(value) > limit:
        raise Invalid(
            f"'{param}' has {len(value)} characters; this model takes at most {limit}.",
            param=param,
        )


def check_silence(request: VideoRequest) -> None:
    """For models without sound. Asking for none is asking for what they do."""
    if request.audio:
        param = names_of(request).sound
        raise Invalid(f"'{param}' must be off: this model renders without sound.", param=param)


def frames_of(request: VideoRequest) -> tuple[Media | None, Media | None]:
    """(first frame, last frame); any other picture or video, or a second one for the same
    place, is an error."""
    found: dict[Role, Media] = {}
    for item in request.media:
        if item.role not in (Role.FIRST_FRAME, Role.LAST_FRAME):
            raise Invalid(
                f"'{item.param}' is not supported: this model takes a first and a last frame, "
                f"not a {item.role.value.replace('_', ' ')}.",
                param=item.param,
            )
        if item.role in found:
            raise Invalid(
                f"'{item.param}' is one picture too many: this model takes one "
                f"{item.role.value.replace('_', ' ')}.",
                param=item.param,
            )
        found[item.role] = item
    return found.get(Role.FIRST_FRAME), found.get(Role.LAST_FRAME)


def check_frames(row: ModelRow, first: Media | None, last: Media | None) -> None:
    """Refuse a frame that the model is known not to take."""
    if last is not None and not row.takes(Role.LAST_FRAME):
        raise Invalid(
            f"'{last.param}' is not supported: this model takes a first frame only.",
            param=last.param,
        )
    if first is not None and not row.takes(Role.FIRST_FRAME):
        raise Invalid(
            f"'{first.param}' is not supported: this model takes no first frame.",
            param=first.param,
        )


def check_picture(blob: Blob, param: str, row: ModelRow) -> None:
    if row.picture_bytes is not None and blob.size > row.picture_bytes:
        raise Invalid(
            f"'{param}' has {blob.size} bytes; this model takes pictures of at most "
            f"{row.picture_bytes}.",
            param=param,
        )


def dropped(request: VideoRequest, kept: Collection[str] = ()) -> list[str]:
    """The soft fields the client sent and the provider does not know; `kept` it does know."""
    names = [n for n in _SOFT if n not in kept and getattr(request, n) is not None]
    names += request.extra
    return names


def foreign(request: VideoRequest) -> list[str]:
    """The `native` fields to drop for a provider of another kind than the client's. One that
    decides the picture, or holds a picture, video or sound, is `Invalid`; null, false and empty
    ones, and those at the dialect's idle value, were never asked for."""
    dialect = DIALECTS[request.dialect]
    names = [
        name
        for name, value in request.native.items()
        if _is_asked(value) and value != dialect.idle_native.get(name)
    ]
    for name in names:
        path = media_in(request.native[name], name)
        if path is not None:
            raise Invalid(
                f"'{path}' holds a picture, video or sound that the provider of this model does "
                "not take; leave it out.",
                param=path,
            )
        if name in dialect.decisive_native:
            raise Invalid(
                f"'{name}' is not supported by the provider of this model; leave it out.",
                param=name,
            )
    return names


def literal(
    request: VideoRequest,
    ours: Collection[str],
    harmless: Collection[str],
    terms: Terms,
) -> tuple[dict[str, DraftValue], list[str]]:
    """(native fields for a provider of the client's own kind, those left out).

    `ours` are the fields the adapter decides itself. `harmless` are the vendor's documented fields
    that change no price, and go on as they are. What nobody knows goes on where the route has no
    price or passes it by name, and never under a name that could be taken for one of ours. One
    that decides the picture is `Invalid` rather than left out.
    """
    taken = {folded(name) for name in (*ours, *harmless)}
    decisive = DIALECTS[request.dialect].decisive_native
    sent: dict[str, DraftValue] = {}
    left: list[str] = []
    for name, value in request.native.items():
        if name in ours:
            continue
        is_free = not (terms.is_priced or is_never(name) or is_ours(name))
        is_sent = is_free or is_passed(name, value, terms)
        if name in harmless or (is_sent and folded(name) not in taken):
            sent[name] = cast("DraftValue", value)
        elif _is_asked(value) and (
            name in decisive or _MEDIA.search(folded(name)) or media_in(value, name) is not None
        ):
            raise Invalid(
                f"'{name}' cannot be passed on with this model: leave it out, or ask for it to be "
                "passed on its route.",
                param=name,
            )
        elif _is_asked(value):
            left.append(name)
    return sent, left


def check_left_out(request: VideoRequest, dropped: Collection[str]) -> None:
    """Refuse a request of which a length, a shape or a number of videos would be left out: another
    video than was asked for would be paid."""
    notes = request.extra.get("metadata")
    given = {
        **request.native,
        **request.extra,
        **({f"metadata.{name}": value for name, value in notes.items()} if _is_map(notes) else {}),
    }
    for name in dropped:
        path = _measure_in(name, given.get(name), 3)
        if path is not None:
            raise Invalid(
                f"'{path}' is not taken here: send the length as 'seconds' or 'duration', the "
                "shape as 'size', 'aspect_ratio' or 'resolution', and one request a video, all at "
                "the top level.",
                param=path,
            )


def _measure_in(path: str, value: Json, levels: int) -> str | None:
    """The dotted path of a length, shape or number of videos; None where there is none."""
    name = folded(path.rpartition(".")[2])
    if _WRAPPER.fullmatch(name) and levels:
        members = _members(value)
        found = (_measure_in(f"{path}.{key}", inner, levels - 1) for key, inner in members.items())
        return next((inner for inner in found if inner is not None), None)
    if isinstance(value, bool | dict | list) or value is None:
        return None
    word = str(value).strip().casefold()
    number = as_number(word)
    if _COUNT.fullmatch(name):
        return path if number is not None and number > 1 else None
    if not _MEASURE.fullmatch(name) or word in ("", *AUTO):
        return None
    return path if number is None or number > 0 else None


def _members(value: Json) -> Mapping[str, Json]:
    """Those of an object, also of one sent as its JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return {}
    return value if isinstance(value, dict) else {}


def _is_map(value: Json | None) -> TypeGuard[dict[str, Json]]:
    return isinstance(value, dict)


def _is_asked(value: Json) -> bool:
    """A 0 is asked for: it is a cfg_scale."""
    return value is not None and value is not False and value not in ("", [], {})


def fit_seconds(
    request: VideoRequest, accepted: Sequence[int] | None
) -> tuple[int | None, list[Adjustment]]:
    """The next accepted length up (`accepted` is ascending; None: any whole one); None when none
    was asked for."""
    if request.seconds is None:
        return None, []
    if accepted is None:
        accepted = (max(1, math.ceil(request.seconds)),)
    fitted = next((seconds for seconds in accepted if seconds >= request.seconds), None)
    if fitted is None:
        param = names_of(request).seconds
        raise Invalid(
            f"'{param}' asks for {request.seconds:g} seconds; this model renders "
            f"{listed(accepted)} seconds.",
            param=param,
        )
    if fitted == request.seconds:
        return fitted, []
    return fitted, [Adjustment("seconds", f"{request.seconds:g}", str(fitted))]


def check_seconds(request: VideoRequest, longest: int) -> None:
    if request.seconds is not None and request.seconds > longest:
        param = names_of(request).seconds
        raise Invalid(
            f"'{param}' asks for {request.seconds:g} seconds; at most {longest} are rendered here.",
            param=param,
        )


def as_number(value: object) -> float | None:
    """The number that a text spells."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else None


def listed(values: Sequence[int]) -> str:
    """ "5", "5 or 10", "3 to 15"."""
    if len(values) > 3:
        return f"{values[0]} to {values[-1]}"
    return " or ".join(str(value) for value in values)


def ratio(text: str) -> Fraction | None:
    """Width over height of "16:9"."""
    match = _RATIO.fullmatch(text)
    return Fraction(int(match[1]), int(match[2])) if match else None


def nearest(shape: Fraction, names: Sequence[str]) -> str:
    """The name closest in shape, by factor; of two equally close the earlier one. Fractions:
    4:3 lies exactly between 1:1 and 16:9, and must not fall by rounding."""

    def distance(name: str) -> Fraction:
        other = ratio(name)
        assert other is not None, name
        return max(shape / other, other / shape)

    return min(names, key=distance)


def shape_of(request: VideoRequest, names: Sequence[str]) -> tuple[str | None, list[Adjustment]]:
    """The accepted aspect ratio for what was asked, `aspect_ratio` before `size`'s shape. What
    `size` asked for beyond that is told by whoever knows the pixels."""
    if request.aspect_ratio is not None:
        if request.aspect_ratio in names:
            return request.aspect_ratio, []
        asked = ratio(request.aspect_ratio)
        if asked is None:
            raise Invalid(
                f"'aspect_ratio' must be one of {', '.join(names)}.", param="aspect_ratio"
            )
        given = nearest(asked, names)
        return given, [Adjustment("aspect_ratio", request.aspect_ratio, given)]
    if request.size is not None:
        return nearest(Fraction(*request.size), names), []
    return None, []


def lines_of(request: VideoRequest) -> tuple[int | None, str]:
    """(pixels of the short side asked for, the field that asks); `size` before `resolution`."""
    if request.size is not None:
        return min(request.size), size_param(request)
    if request.resolution is None:
        return None, "resolution"
    lines = named_lines(request.resolution)
    if lines is None:
        raise Invalid("'resolution' must be like 720p or 1080p.", param="resolution")
    return lines, "resolution"


def named_lines(resolution: str) -> int | None:
    """Lines of the short side in "720p", "4K"."""
    match = _LINES.fullmatch(resolution)
    return int(match[1]) if match else _NAMED_LINES.get(resolution.lower())


def spelled(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
