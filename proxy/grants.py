"""What may be said of a token or an owner, each value read once: for the commands and for the
admin port. Each function returns the value as it is kept; ValueError says what is accepted.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container, Iterable, Mapping, Sequence
from ipaddress import ip_network
from typing import Final

from proxy.dialects import DIALECTS
from proxy.dialects.media import web_address
from proxy.errors import Invalid
from proxy.http.addresses import refused_target
from proxy.model import Operation

NAME_CHARS: Final = 200
GLOB_CHARS: Final = 256
LABEL_CHARS: Final = 256
MOST_ENTRIES: Final = 100
MOST_MICRO: Final = 10**15 - 1  # below a billion of the currency
MOST_COUNT: Final = 10**9
MOST_BYTES: Final = 10**12

OPERATIONS: Final = tuple(operation.value for operation in Operation)
_LABEL: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def name(value: str) -> str:
    """Of a token or an owner."""
    if not value.strip():
        raise ValueError("a key needs a name to be told apart by.")
    return _plain(value, NAME_CHARS)


def models(values: Sequence[str]) -> tuple[str, ...]:
    """Names and globs."""
    return tuple(_plain(value, GLOB_CHARS) for value in _few(values))


def dialects(values: Sequence[str]) -> tuple[str, ...]:
    return _known(values, DIALECTS)


def operations(values: Sequence[str]) -> tuple[str, ...]:
    return _known(values, OPERATIONS)


def networks(values: Sequence[str]) -> tuple[str, ...]:
    """As CIDR blocks; an address is the block of itself."""
    try:
        return tuple(str(ip_network(value, strict=False)) for value in _few(values))
    except ValueError as fault:
        raise ValueError(
            f"{fault}; write networks like 192.0.2.0/24 or 2001:db8::/32, by comma"
        ) from fault


def labels(values: Mapping[str, str]) -> dict[str, str]:
    for key, text in values.items():
        if _LABEL.fullmatch(key) is None or len(text) > LABEL_CHARS:
            raise ValueError(
                f"'{key[:80]}' is not a label; write it like team=film: up to 64 letters, digits, "
                f"'_', '.' or '-', and up to {LABEL_CHARS} characters of text"
            )
        _plain(text, LABEL_CHARS)
    _few(tuple(values))
    return dict(values)


def webhook(value: str) -> str:
    """An http(s) URL."""
    try:
        return web_address(value, "webhook")
    except Invalid as fault:
        raise ValueError(fault.message) from fault


def check_webhook(value: str | None, allowed: Container[str]) -> None:
    """ValueError for an address that could never be called; `allowed` is `[webhooks] allow`.
    One that takes a webhook away ("" or None) is fine."""
    target = refused_target(value, allowed) if value else None
    if target is not None:
        raise ValueError(
            f"would never be called: {target} is not a public address, and [webhooks] allow does "
            "not list it"
        )


def _known(values: Sequence[str], accepted: Iterable[str]) -> tuple[str, ...]:
    known = tuple(accepted)
    for value in _few(values):
        if value not in known:
            raise ValueError(f"there is no '{value[:80]}'; there is: {', '.join(known)}")
    return tuple(values)


def _few(values: Sequence[str]) -> Sequence[str]:
    if len(values) > MOST_ENTRIES:
        raise ValueError(f"has {len(values)} entries; at most {MOST_ENTRIES}")
    return values


def _plain(value: str, most_chars: int) -> str:
    if len(value) > most_chars:
        raise ValueError(f"is longer than {most_chars} characters")
    if any(unicodedata.category(char) in ("Cc", "Cs") for char in value):
        raise ValueError("holds a control character")
    return value
