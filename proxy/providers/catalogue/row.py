"""One model as the catalogue knows it.

Rule: what a row does not say is unknown, and is passed on as the client asked for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Le, MinLen
from pydantic import AfterValidator, BaseModel, ConfigDict, Strict

from proxy.model import Operation, Role

Sound: TypeAlias = Literal["never", "option", "always"]

_SIZE = re.compile(r"[1-9][0-9]{1,4}x[1-9][0-9]{1,4}")
_RATIO = re.compile(r"[1-9][0-9]{0,4}:[1-9][0-9]{0,4}")
_LINES = re.compile(r"([1-9][0-9]{1,4})p")
_AMOUNT = re.compile(r"[0-9]{1,9}(\.[0-9]{1,6})? [A-Z]{3}")
_NAME = re.compile(r"[^\s\x00-\x1f\x7f](?:[^\x00-\x1f\x7f]{0,254}[^\s\x00-\x1f\x7f])?")


def _model_name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError(f"must be 1 to 256 characters without spaces around, not '{value}'")
    return value


def _size(value: str) -> str:
    if not _SIZE.fullmatch(value):
        raise ValueError(f"must be a size such as 1280x720, not '{value}'")
    return value


def _ratio(value: str) -> str:
    if not _RATIO.fullmatch(value):
        raise ValueError(f"must be a shape such as 16:9, not '{value}'")
    return value


def _resolution(value: str) -> str:
    if not _LINES.fullmatch(value):
        raise ValueError(f"must be a resolution such as 720p, not '{value}'")
    return value


def _amount(value: str) -> str:
    if not _AMOUNT.fullmatch(value):
        raise ValueError(f"must be an amount and its currency such as '0.10 USD', not '{value}'")
    return value


def _submit(value: Operation) -> Operation:
    if not value.is_submit:
        raise ValueError(f"must be create, remix, edit or extend, not '{value.value}'")
    return value


def _ascending(values: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(values)))


def _some(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values:
        raise ValueError("must have at least one entry; leave it out where any is taken")
    return values


Submit = Annotated[Operation, AfterValidator(_submit)]
Count = Annotated[int, Strict(), Ge(1)]
CountOrZero = Annotated[int, Strict(), Ge(0), Le(1000)]
Flag = Annotated[bool, Strict()]
Name = Annotated[str, AfterValidator(_model_name)]
Size = Annotated[str, AfterValidator(_size)]
Ratio = Annotated[str, AfterValidator(_ratio)]
Resolution = Annotated[str, AfterValidator(_resolution)]
Seconds = Annotated[tuple[Count, ...], AfterValidator(_ascending), AfterValidator(_some)]


class ModelRow(BaseModel):
    """What is known of one model of a provider, or of all that a glob names. None: unknown.

    `with_first_frame` and `with_both_frames` are the names under which the same model takes
    pictures, where it has names of its own for them. `inputs` are the roles of pictures, videos
    and sounds it takes, and how many of each. `modes` are names of resolutions, where it is asked
    by a mode. `price` is what the provider says it charges, by case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    provider: str
    model: Name
    aliases: tuple[Name, ...] = ()
    with_first_frame: Name | None = None
    with_both_frames: Name | None = None
    operations: tuple[Submit, ...] | None = None
    seconds: Seconds | None = None
    max_seconds: Count | None = None
    default_seconds: Count | None = None
    fps: Count | None = None
    sizes: tuple[Size, ...] | None = None
    default_size: Size | None = None
    ratios: tuple[Ratio, ...] | None = None
    default_ratio: Ratio | None = None
    resolutions: tuple[Resolution, ...] | None = None
    modes: Mapping[str, Resolution] | None = None
    audio: Sound | None = None
    inputs: Mapping[Role, CountOrZero] | None = None
    from_text: Flag | None = None
    n: Count | None = None
    prompt_chars: Count | None = None
    picture_bytes: Count | None = None
    picture_types: tuple[str, ...] | None = None
    seed: Flag | None = None
    negative_prompt: Flag | None = None
    result_life_s: Count | None = None
    price: Mapping[str, Annotated[str, AfterValidator(_amount)]] | None = None
    source: Annotated[str, MinLen(1)] | None = None
    read_on: date | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name this model is asked for by."""
        own = (self.model, self.with_first_frame, self.with_both_frames, *self.aliases)
        return tuple(dict.fromkeys(name for name in own if name is not None))

    @property
    def lines(self) -> tuple[tuple[str | None, int], ...]:
        """The short sides it renders, ascending, each with the mode that asks for it."""
        if self.modes:
            found = [(name, lines_in(text)) for name, text in self.modes.items()]
            return tuple(sorted(found, key=lambda item: item[1]))
        return tuple((None, lines) for lines in sorted(map(lines_in, self.resolutions or ())))

    def takes(self, role: Role) -> bool:
        """Whether it takes a picture, video or sound of this role, as far as is known."""
        return self.inputs is None or self.inputs.get(role, 0) > 0


def lines_in(resolution: str) -> int:
    """Lines of the short side in a row's "720p"."""
    return int(resolution.removesuffix("p"))
