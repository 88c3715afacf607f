"""How long and in what shape: a client's length, size, ratio and resolution fields.

Every name that plainly means one of them is read; a value is taken by what it is, since clients
send a ratio as `size` and a size as `resolution`. A word for "you choose" (`auto`, `adaptive`, a
length of -1) is no wish. Two fields that disagree are a 400 that names both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from proxy.dialects.body import BodyFields, as_mapping, disagreeing
from proxy.dialects.fields import Fields, as_number, as_whole, folded, is_unset, shown
from proxy.errors import Invalid

SECONDS = (
    *("seconds", "duration", "durationseconds", "durationsecs", "durationsec", "durationinseconds"),
    *("nseconds", "numseconds", "secs", "second", "videolength", "videoduration", "videoseconds"),
    *("length", "lengthseconds", "lengthinseconds", "cliplength", "clipduration", "durations"),
    *("durationinsec", "durationinsecs", "videodurationseconds", "videolengthseconds", "lengths"),
    *("clipseconds", "clipdurationseconds", "cliplengthseconds", "targetduration"),
)
MILLISECONDS = ("durationms", "durationmilliseconds", "durationmillis", "lengthms")
FRAMES = (
    *("numframes", "frames", "nframes", "framecount", "framescount", "framenum", "framesnumber"),
    *("numberofframes", "videoframes", "numvideoframes", "totalframes"),
)
FPS = ("fps", "framerate", "framespersecond", "framepersecond", "videofps", "outputfps")
_SIZE = (
    *("size", "dimensions", "dimension", "videosize", "outputsize", "framesize", "imagesize"),
    *("pixelsize", "videodimensions"),
)
_RATIO = ("aspectratio", "ratio", "aspect", "videoratio", "videoaspectratio", "imageratio")
_RESOLUTION = ("resolution", "videoresolution", "outputresolution", "res")
_ORIENTATION = ("orientation", "videoorientation")
_WIDTH = ("width", "videowidth", "outputwidth", "framewidth")
_HEIGHT = ("height", "videoheight", "outputheight", "frameheight")

AUTO = frozenset(
    {
        *("auto", "automatic", "adaptive", "default", "original", "source", "any", "none"),
        *("keepratio", "keep", "match", "matchinputimage", "matchinput"),
    }
)
_USUAL_FPS = 24  # what frames are counted by where the client names no rate
_RATES = (8, 60)  # frames and seconds without a rate: what the rate between them may be
_LOOSE_S = 0.5  # by how much frames and seconds may differ: models add a frame, or round to 4n+1

_LENGTH = re.compile(
    r"\s*([+-]?(?:\d{1,9}(?:\.\d{0,9})?|\.\d{1,9}))\s*(ms|s|secs?|seconds?|秒)?\s*", re.IGNORECASE
)
_PAIR = re.compile(
    r"(\d{1,5}(?:\.\d{1,4})?)\s*[x×*:/,]\s*(\d{1,5}(?:\.\d{1,4})?)\s*(?:px)?",
    re.IGNORECASE | re.ASCII,
)
_LINES = re.compile(r"([1-9]\d{2,3})\s*[pi]?", re.IGNORECASE | re.ASCII)
_NAMED_LINES = {
    "sd": "480p",
    "hd": "720p",
    "fhd": "1080p",
    "fullhd": "1080p",
    "qhd": "2k",
    "2k": "2k",
    "uhd": "4k",
    "ultrahd": "4k",
    "4k": "4k",
    "8k": "4320p",
}
_OF_ORIENTATION = {
    "landscape": "16:9",
    "horizontal": "16:9",
    "portrait": "9:16",
    "vertical": "9:16",
    "square": "1:1",
}
_QUALITY_LINES = re.compile(r"[1-9]\d{2,3}p|[248]k", re.IGNORECASE | re.ASCII)

_Kind = Literal["size", "ratio", "lines", "orientation"]


@dataclass(frozen=True, slots=True)
class Shape:
    """`ratio` is like "16:9", `lines` like "720p" or "4k"."""

    size: tuple[int, int] | None = None
    ratio: str | None = None
    lines: str | None = None


@dataclass(frozen=True, slots=True)
class Length:
    """`frames` as the client counted them; `seconds` covers them."""

    seconds: float | None = None
    frames: int | None = None
    fps: int | None = None


@dataclass(frozen=True, slots=True)
class _Wish:
    kind: _Kind
    value: str | tuple[int, int]
    param: str


# ---------------------------------------------------------------- length


def length_of(body: BodyFields, *, count_frames: bool = True) -> Length:
    """The length asked for. `count_frames` False: the dialect has read `frames` itself."""
    by_seconds = body.read(SECONDS, _seconds)
    by_ms = body.read(MILLISECONDS, lambda f, name: _seconds(f, name, 1000))
    if by_seconds is not None and by_ms is not None and by_seconds != by_ms:
        raise disagreeing(_param(body, SECONDS), _param(body, MILLISECONDS))
    seconds = by_ms if by_seconds is None else by_seconds
    fps = body.read(FPS, _count)
    frames = body.read(FRAMES, _count) if count_frames else None
    if frames is None:
        return Length(seconds, None, fps)
    counted = _seconds_of(frames, fps or _USUAL_FPS)
    if seconds is None:
        return Length(counted, frames, fps)
    if fps is None:
        agrees = _RATES[0] <= frames / seconds <= _RATES[1]
    else:
        agrees = abs(seconds - counted) <= _LOOSE_S
    if not agrees:
        names = SECONDS if by_seconds is not None else MILLISECONDS
        raise disagreeing(_param(body, names), _param(body, FRAMES))
    return Length(seconds, frames, fps)


def _seconds_of(frames: int, fps: int) -> float:
    """A clip of s seconds has s·fps frames, or one more."""
    return (frames - 1) / fps if frames > 1 and (frames - 1) % fps == 0 else frames / fps


def _seconds(fields: Fields, name: str, per_second: int = 1) -> float | None:
    value, param = fields.one(name), fields.prefix + name
    if _is_auto(value):
        return None
    number = as_number(value)
    if number is None and isinstance(value, str) and (match := _LENGTH.fullmatch(value)):
        is_ms = (match[2] or "").lower() == "ms"
        number = float(match[1]) / (1000 if is_ms and per_second == 1 else 1)
    if number is None:
        raise Invalid(f"'{param}' must be a number, not {shown(value)}.", param=param)
    if number in (0, -1):  # unset, and the vendors' word for "you choose"
        return None
    if number / per_second < 0.001:
        raise Invalid(f"'{param}' must be at least 0.001, not {shown(value)}.", param=param)
    return number / per_second


def _count(fields: Fields, name: str) -> int | None:
    """A whole number from 1; 0 and -1 stand for none."""
    value, param = fields.one(name), fields.prefix + name
    if _is_auto(value):
        return None
    number = as_whole(value)
    if number is None:
        raise Invalid(f"'{param}' must be a whole number, not {shown(value)}.", param=param)
    if number in (0, -1):
        return None
    if number < 1:
        raise Invalid(f"'{param}' must be at least 1, not {number}.", param=param)
    return number


count = _count


def _param(body: BodyFields, names: tuple[str, ...]) -> str:
    return next((each.param for each in body.found(names) if not _is_auto(each.value)), names[0])


def _is_auto(value: object) -> bool:
    return is_unset(value) or (isinstance(value, str) and folded(value) in AUTO)


# ---------------------------------------------------------------- shape


def shape_of(body: BodyFields) -> Shape:
    """The frame asked for: size in pixels, ratio, and lines of its short side."""
    wishes: list[_Wish] = []
    for names in (_SIZE, _RATIO, _RESOLUTION, _ORIENTATION):
        for each in body.found(names):
            wish = _wish(each.value, each.param, is_ratio=names is _RATIO)
            if wish is not None:
                wishes.append(wish)
    for each in body.found(("quality",)):
        if is_lines(each.value):
            wish = _wish(each.value, each.param, is_ratio=False)
            wishes += [wish] if wish else []
    sides = _sides(body, any(wish.kind == "size" for wish in wishes))
    if isinstance(sides, _Wish):
        wishes.append(sides)
    size, ratio, lines = _agreed(wishes, "size"), _agreed(wishes, "ratio"), _agreed(wishes, "lines")
    facing = _agreed(wishes, "orientation")
    shaped = size or ratio
    if facing is not None and shaped is not None:
        if _facing(shaped.value) != _facing(facing.value):
            raise disagreeing(shaped.param, facing.param)
    elif facing is not None:
        ratio = facing
    return Shape(
        size.value if size and isinstance(size.value, tuple) else None,
        ratio.value if ratio and isinstance(ratio.value, str) else None,
        lines.value if lines and isinstance(lines.value, str) else None,
    )


def is_lines(value: object) -> bool:
    """True for a `quality` that is a resolution, like 720p."""
    return isinstance(value, str) and _QUALITY_LINES.fullmatch(value.strip()) is not None


def _agreed(wishes: list[_Wish], kind: _Kind) -> _Wish | None:
    same = [wish for wish in wishes if wish.kind == kind]
    for other in same[1:]:
        if _plain(other) != _plain(same[0]):
            raise disagreeing(same[0].param, other.param)
    return same[0] if same else None


def _plain(wish: _Wish) -> object:
    """What makes two spellings one wish: 32:18 is 16:9, and 1440p is 2k."""
    if wish.kind in ("ratio", "orientation") and isinstance(wish.value, str):
        return _fraction(wish.value)
    if wish.kind == "lines":
        return {"2k": "1440p", "4k": "2160p"}.get(str(wish.value), wish.value)
    return wish.value


def _fraction(ratio: str) -> Fraction:
    width, _, height = ratio.partition(":")
    return Fraction(int(width), int(height))


def _facing(value: str | tuple[int, int]) -> int:
    shape = _fraction(value) if isinstance(value, str) else Fraction(*value)
    return (shape > 1) - (shape < 1)


def _sides(body: BodyFields, has_size: bool) -> _Wish | None:
    width, height = body.read(_WIDTH, _count), body.read(_HEIGHT, _count)
    if width is None and height is None:
        return None
    if width is None or height is None:
        if has_size:
            return None
        absent = "width" if width is None else "height"
        raise Invalid(f"'{absent}' is missing: width and height go together.", param=absent)
    for side, names in ((width, _WIDTH), (height, _HEIGHT)):
        if side > 99999:
            param = _param(body, names)
            raise Invalid(f"'{param}' must be at most 99999, not {side}.", param=param)
    return _Wish("size", (width, height), _param(body, _WIDTH))


def _wish(value: object, param: str, *, is_ratio: bool) -> _Wish | None:
    """What one value asks for; None when it leaves the choice to the model. Raises `Invalid`."""
    members = as_mapping(value)
    if members is not None:
        value = _joined(members)
    elif isinstance(value, list) and len(value) == 2:
        value = f"{value[0]}x{value[1]}"
    if _is_auto(value):
        return None
    number = as_number(value)
    if number in (0, -1):
        return None
    if is_ratio and number is not None and 0.2 <= number <= 5:
        return _Wish("ratio", _ratio_text(Fraction(str(number)).limit_denominator(100)), param)
    text = str(int(number)) if number is not None and number == int(number) else value
    if isinstance(text, str):
        found = _read(text.strip(), param, is_ratio=is_ratio)
        if found is not None:
            return None if found == "unset" else found
    if is_ratio:
        accepted = "a ratio like 16:9, or auto"
    else:
        accepted = (
            "WIDTHxHEIGHT in pixels like 1280x720, a ratio like 16:9, lines like 720p, or auto"
        )
    raise Invalid(f"'{param}' must be {accepted}, not {shown(value)}.", param=param)


def _read(text: str, param: str, *, is_ratio: bool) -> _Wish | Literal["unset"] | None:
    pair = _PAIR.fullmatch(text)
    if pair is not None:
        width, height = Fraction(pair[1]), Fraction(pair[2])
        if width == height == 0:
            return "unset"
        if not width or not height:
            return None
        # 16x9 is a shape, and so is 160:90; 1280:720 is Runway's spelling of a size.
        is_shape = min(width, height) < 200 if is_ratio else max(width, height) < 100
        if is_shape:
            is_plain = width.denominator == height.denominator == 1
            name = f"{width}:{height}" if is_plain else _ratio_text(width / height)
            return _Wish("ratio", name, param)
        if width.denominator != 1 or height.denominator != 1:
            return None
        return _Wish("size", (int(width), int(height)), param)
    word = folded(text)
    if word in _OF_ORIENTATION:
        return _Wish("orientation", _OF_ORIENTATION[word], param)
    if is_ratio:
        return None
    if word in _NAMED_LINES:
        return _Wish("lines", _NAMED_LINES[word], param)
    lines = _LINES.fullmatch(text)
    return _Wish("lines", f"{lines[1]}p", param) if lines is not None else None


def _ratio_text(shape: Fraction) -> str:
    return f"{shape.numerator}:{shape.denominator}"


def _joined(members: Mapping[str, object]) -> object:
    """ "1280x720" of {"width": 1280, "height": 720}; the value itself of anything else."""
    sides = {folded(name): inner for name, inner in members.items()}
    width, height = sides.get("width"), sides.get("height")
    return f"{width}x{height}" if sides.keys() == {"width", "height"} else members
