"""What a server's own field may hold, and the value as the server takes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from proxy.errors import Invalid
from proxy.model import Json
from proxy.providers.fitting import as_number


@dataclass(frozen=True, slots=True)
class Number:
    """A field that holds a number, and what it may be."""

    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A field that holds one of these words; another one is left out."""

    among: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """A field that holds true or false."""


Rule: TypeAlias = "Number | Word | Flag"


def checked(param: str, value: Json, rule: Rule) -> Json:
    """The value as its server takes it; `Invalid` says what is taken."""
    match rule:
        case Flag():
            if isinstance(value, bool):
                return value
            word = str(value).lower()
            if word in ("true", "1", "on", "yes", "false", "0", "off", "no"):
                return word in ("true", "1", "on", "yes")
            raise Invalid(f"'{param}' must be true or false.", param=param)
        case Word(among=words):
            if value in words:
                return value
            raise Invalid(f"'{param}' must be one of {', '.join(words)}.", param=param)
        case Number(low=low, high=high, whole=whole):
            number = value if isinstance(value, int | float) else as_number(value)
            if isinstance(value, bool):
                number = None
            kind = "a whole number" if whole else "a number"
            is_fit = number is not None and low <= number <= high
            if number is None or not is_fit or (whole and number != int(number)):
                shown = f", not {str(value)[:40]}" if isinstance(value, int | float | str) else ""
                raise Invalid(
                    f"'{param}' must be {kind} from {low:g} to {high:g}{shown}.", param=param
                )
            return int(number) if number == int(number) else number
