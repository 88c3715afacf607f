"""Fitting the frame a client asks for to the pixel sizes a model renders.

Sizes are (width, height). A frame may be asked for by `size`, or by `aspect_ratio` and
`resolution` (its shorter side), as Kling's and Jimeng's clients do. The shape is never
changed, only scaled: what has no accepted size of its shape, as large or larger, is `Invalid`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import TypeAlias

from proxy.errors import Invalid
from proxy.http.outbound import Adjustment
from proxy.model import VideoRequest
from proxy.providers.fitting import lines_of, named_lines, ratio, size_param, spelled

Size: TypeAlias = "tuple[int, int]"

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})")
_SAME_SHAPE = Fraction(21, 20)  # 1024x1792 and 9:16 differ by 1.6 %, 16:9 and 3:2 by 18 %
_LANDSCAPE = Fraction(16, 9)  # the default of Kling and Jimeng
_LINES = 720
_SIDES = (16, 8192)
_AREA = 7680 * 4320
_BLOCK = 16  # video models work in blocks of 16 pixels: 480p is 848x480


def size_of(value: object) -> Size | None:
    """The size in "1280x720"; None for anything else."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return (int(match[1]), int(match[2])) if match else None


def fit_size(
    request: VideoRequest, accepted: Sequence[Size]
) -> tuple[Size | None, list[Adjustment]]:
    """The size to send, None when the client asked for none. `accepted` empty: any.

    Where several accepted sizes have the shape and no resolution was asked for, the first one
    counts; where only a resolution was asked for, 16:9 sizes before others. `size` outranks the
    two; where they say otherwise, that is told.
    """
    if request.size is None:
        shaped, told = _by_shape(request, accepted)
        if shaped is not None and not accepted:
            param = "aspect_ratio" if request.aspect_ratio is not None else "resolution"
            _check_bounds(shaped, param)
        return shaped, told
    given, told = _by_size(request, request.size, accepted)
    if not accepted:
        _check_bounds(given, size_param(request))
    return given, told + _outranked(request, given)


def _check_bounds(size: Size, param: str) -> None:
    """For servers that do not say what they render: no frame that none of them could."""
    shown = spelled(size)
    if not all(_SIDES[0] <= side <= _SIDES[1] for side in size):
        raise Invalid(
            f"'{param}' asks for {shown}; each side must be {_SIDES[0]} to {_SIDES[1]} pixels.",
            param=param,
        )
    if size[0] * size[1] > _AREA:
        raise Invalid(
            f"'{param}' asks for {shown}; a frame has at most {_AREA} pixels (8K).", param=param
        )


def _by_size(
    request: VideoRequest, asked: Size, accepted: Sequence[Size]
) -> tuple[Size, list[Adjustment]]:
    if not accepted or asked in accepted:
        return asked, []
    above = [
        size
        for size in accepted
        if size[0] >= asked[0] and size[1] >= asked[1] and is_like(size, Fraction(*asked))
    ]
    if not above:
        raise _none(spelled(asked), size_param(request), accepted)
    given = min(above)
    return given, [Adjustment("size", spelled(asked), spelled(given))]


def _outranked(request: VideoRequest, given: Size) -> list[Adjustment]:
    told = []
    if request.aspect_ratio is not None:
        shape = ratio(request.aspect_ratio)
        if shape is None or not is_like(given, shape):
            told.append(Adjustment("aspect_ratio", request.aspect_ratio, spelled(given)))
    if request.resolution is not None and named_lines(request.resolution) != min(given):
        told.append(Adjustment("resolution", request.resolution, spelled(given)))
    return told


def _by_shape(
    request: VideoRequest, accepted: Sequence[Size]
) -> tuple[Size | None, list[Adjustment]]:
    aspect, resolution = request.aspect_ratio, request.resolution
    if aspect is None and resolution is None:
        return None, []
    shape = _LANDSCAPE if aspect is None else ratio(aspect)
    if shape is None:
        raise Invalid("'aspect_ratio' must be like 16:9.", param="aspect_ratio")
    lines, param = lines_of(request)
    if not accepted:
        return _drawn(shape, lines or _LINES), []
    alike = [size for size in accepted if is_like(size, shape)]
    if not alike and aspect is None:
        alike = list(accepted)
    if not alike:
        raise _none(aspect or "", "aspect_ratio", accepted)
    if lines is None:
        return alike[0], []
    above = [size for size in alike if min(size) >= lines]
    if not above:
        raise _none(resolution or "", param, accepted)
    given = min(above, key=min)
    if min(given) == lines:
        return given, []
    return given, [Adjustment("resolution", resolution or "", spelled(given))]


def _drawn(shape: Fraction, lines: int) -> Size:
    long = round(lines * max(shape, 1 / shape) / _BLOCK) * _BLOCK
    return (long, lines) if shape >= 1 else (lines, long)


def is_like(size: Size, shape: Fraction) -> bool:
    """Whether a size has a shape, as far as anybody sees."""
    factor = Fraction(*size) / shape
    return 1 / _SAME_SHAPE <= factor <= _SAME_SHAPE


def _none(asked: str, param: str, accepted: Sequence[Size]) -> Invalid:
    listed = ", ".join(spelled(size) for size in accepted)
    return Invalid(
        f"'{param}': this model does not render {asked}; it renders {listed}.", param=param
    )
