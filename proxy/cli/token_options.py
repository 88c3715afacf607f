"""The options of `reelway token`: what each value may be, and the scope of a key."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from proxy.dialects import DIALECTS
from proxy.signing import parse_token
from proxy.tokens import (
    checked_dialects,
    checked_labels,
    checked_models,
    checked_networks,
    checked_operations,
    checked_webhook,
)

Parsed = Callable[[click.Context, click.Parameter, str | None], Any]


def checked(check: Callable[[Any], Any], *, split: bool = False) -> Parsed:
    """Read an option's value by `check`; with `split`, names by comma."""

    def parse(_context: click.Context, option: click.Parameter, value: str | None) -> Any:
        if value is None:
            return None
        try:
            return check(_listed(value) if split else value)
        except ValueError as fault:
            raise click.BadParameter(str(fault), param_hint=option.opts[0]) from fault

    return parse


def _id_of(_context: click.Context, _argument: click.Parameter, value: str) -> str:
    """Of a leaked key one has the key, not its id."""
    parsed = parse_token(value)
    return parsed[0] if parsed else value


def id_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.argument("token_id", metavar="ID", callback=_id_of)(command)


def _labels(
    _context: click.Context, _option: click.Parameter, values: tuple[str, ...]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in values:
        name, is_pair, text = value.partition("=")
        if not is_pair:
            raise click.BadParameter(f"'{value[:80]}' is not a label; write it like team=film")
        try:
            found |= checked_labels({name: text})
        except ValueError as fault:
            raise click.BadParameter(str(fault)) from fault
    return found


def _listed(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _hook(value: str) -> str:
    """'' takes it away."""
    return value and checked_webhook(value)


_SCOPES = (
    click.option(
        "--models",
        callback=checked(checked_models, split=True),
        help="Models it may use: names or globs, separated by commas.",
    ),
    click.option(
        "--dialects",
        callback=checked(checked_dialects, split=True),
        help=f"Dialects it may use: {', '.join(DIALECTS)}, separated by commas.",
    ),
    click.option(
        "--operations",
        callback=checked(checked_operations, split=True),
        help="Operations it may use: create, get, list, content, …, separated by commas.",
    ),
    click.option(
        "--addresses",
        callback=checked(checked_networks, split=True),
        help="Networks it may be used from, separated by commas.",
    ),
    click.option(
        "--label", "labels", multiple=True, callback=_labels, help="A label, like team=film."
    ),
    click.option(
        "--shared/--not-shared",
        default=None,
        help="May it read the tasks of its owner's other API keys?",
    ),
    click.option(
        "--webhook",
        callback=checked(_hook),
        help="The http(s) URL that gets a webhook when a task ends.",
    ),
)


def scope_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; the command gets those that were given as `scope`, by field of
    `NewToken`."""

    @functools.wraps(command)
    def collected(**values: Any) -> Any:
        names = ("models", "dialects", "operations", "addresses", "labels", "shared", "webhook")
        taken = {name: values.pop(name) for name in names}
        scope = {name: value for name, value in taken.items() if value not in (None, {})}
        return command(scope=scope, **values)

    found: Callable[..., Any] = collected
    for option in reversed(_SCOPES):
        found = option(found)
    return found
