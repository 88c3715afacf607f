"""The options that say what a token or an owner may have, and how they are shown."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, Literal

import click

from proxy.model import Limits

_MICRO: Final = Decimal(1_000_000)
_LIFTED: Final[Literal["none"]] = "none"
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LONGEST_S: Final = 36_500 * 86400  # a hundred years: the calendar of what prints it ends some day

Given = int | Literal["none"] | None
Parse = Callable[[click.Context, click.Parameter, str | None], Given]


def amount(_context: click.Context, _option: click.Parameter, value: str | None) -> Given:
    """Micro-units of [billing] currency, written as a decimal."""
    if value is None:
        return None
    if value == _LIFTED:
        return _LIFTED
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,6})?", value) is None:
        raise click.BadParameter(
            f"'{value}' is not an amount; write it like 4.00, below a billion and with at most "
            "six decimals, or 'none'"
        )
    return int(Decimal(value) * _MICRO)


def most(context: click.Context, option: click.Parameter, value: str | None) -> Given:
    """A whole number from 1."""
    if value is None:
        return None
    if value == _LIFTED:
        return _LIFTED
    return int(click.types.convert_type(click.IntRange(1))(value, option, context))


def span(
    least_s: int = 1,
) -> Callable[[click.Context, click.Parameter, str | None], int | None]:
    """Seconds, written as 30d, 12h or 90m."""

    def parse(_context: click.Context, _option: click.Parameter, value: str | None) -> int | None:
        if value is None:
            return None
        match = re.fullmatch(r"([0-9]{1,9})([smhdw])", value)
        seconds = int(match[1]) * _UNITS[match[2]] if match else -1
        if not least_s <= seconds <= _LONGEST_S:
            raise click.BadParameter(
                f"'{value}' is not a time from now; write it like 30d, 12h or 90m, at most 36500d"
            )
        return seconds

    return parse


# Option, field of Limits, name in JSON, how it is read, help.
LIMITS: Final[tuple[tuple[str, str, str, Parse, str], ...]] = (
    ("--budget", "budget_micro", "budget", amount, "Budget in total: 4.00."),
    ("--budget-day", "budget_day_micro", "budget_day", amount, "Budget per UTC day."),
    ("--budget-month", "budget_month_micro", "budget_month", amount, "Budget per UTC month."),
    ("--rpm", "requests_per_minute", "rpm", most, "Requests per minute."),
    ("--spm", "submits_per_minute", "spm", most, "Submits per minute."),
    ("--max-in-flight", "max_in_flight", "max_in_flight", most, "Tasks in flight at a time."),
    ("--max-streams", "max_streams", "max_streams", most, "Open downloads at a time."),
    ("--max-body", "max_body_bytes", "max_body", most, "Largest request body, in bytes."),
)


def limits_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets those that were given as `said`, by field of Limits,
    None where a limit is lifted by 'none'."""

    @functools.wraps(command)
    def collected(**values: Any) -> Any:
        said: dict[str, int | None] = {}
        for _, field, _, _, _ in LIMITS:
            value = values.pop(field)
            if value is not None:
                said[field] = None if value == _LIFTED else value
        return command(said=said, **values)

    found: Callable[..., Any] = collected
    for option, field, _, parse, text in reversed(LIMITS):
        found = click.option(
            option, field, callback=parse, help=f"{text} 'none' removes the limit."
        )(found)
    return found


def limited(limits: Limits, said: Mapping[str, int | None]) -> Limits:
    return replace(limits, **said)


def shown(limits: Limits) -> dict[str, object]:
    """By the names of `--json`; amounts as decimals, None where there is no limit."""
    found: dict[str, object] = {}
    for _, field, name, parse, _ in LIMITS:
        value = getattr(limits, field)
        is_money = value is not None and parse is amount
        found[name] = str(value / _MICRO) if is_money else value
    return found


def words_of(limits: Limits) -> str:
    """`budget=4 rpm=60`, or `-`."""
    said = [f"{name}={value}" for name, value in shown(limits).items() if value is not None]
    return " ".join(said) or "-"
