"""A request's head as our own value, and what it asks for beside its path."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from aiohttp import web
from multidict import CIMultiDictProxy

from proxy.errors import Invalid
from proxy.http.addresses import client_address, is_trusted
from proxy.http.targets import PathRules, read_target
from proxy.telemetry.exchange import Head

MAX_WAIT_S = 60
_PREFER_WAIT = re.compile(
    r"""(?:^|[,;])\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:$|[,;])""", re.IGNORECASE | re.ASCII
)


def head_of(request: web.BaseRequest, trusted: tuple[str, ...], rules: PathRules) -> Head:
    """The head as our own value; a query that is no UTF-8 keeps its bytes as surrogates. Behind
    `trusted` proxies the peer, host and prefix are what they say."""
    headers, peer = request.headers, request.remote or ""
    written, path, query, host = read_target(request.raw_path, rules)
    pairs: tuple[tuple[str, str], ...] = ()
    if query:
        pairs = tuple(parse_qsl(query, keep_blank_values=True, errors="surrogateescape"))
    prefix = ""
    if is_trusted(peer, trusted):
        host = _first(headers.get("X-Forwarded-Host")) or host
        prefix = _first(headers.get("X-Forwarded-Prefix")).rstrip("/")
        prefix = prefix if prefix.startswith("/") else ""
        peer = client_address(peer, headers.get("X-Forwarded-For"), trusted)
    return Head(request.method, written, path, pairs, headers, peer or "-", host, prefix)


def _first(values: str | None) -> str:
    """Of a list that each proxy appends to: what the client itself used."""
    return (values or "").partition(",")[0].strip()


def wait_of(query: Mapping[str, str], headers: CIMultiDictProxy[str]) -> float:
    """How long a status request may wait for the task's end: `?wait=N`, or `Prefer: wait=N`
    (RFC 7240, which leaves it to the server how much of it is granted); 0 when it does not ask.
    Raises `Invalid` for a query that is no number to 60."""
    text = query.get("wait")
    if text is None:
        preferences = headers.getall("Prefer", ())
        match = _PREFER_WAIT.search(",".join(preferences)) if preferences else None
        return min(int(match[1]), MAX_WAIT_S) if match else 0
    if not (text.isascii() and text.isdigit() and len(text) < 4 and int(text) <= MAX_WAIT_S):
        raise Invalid(f"'wait' must be a whole number of seconds, 0 to {MAX_WAIT_S}.", param="wait")
    return int(text)


def wants_quote(head: Head) -> bool:
    """Whether a submit only asks what it would cost. Said twice it is an error: a price asked
    for must never become a render."""
    said = [value for name, value in head.query if name == "dry_run"]
    if said in ([], ["0"], ["1"]):
        return said == ["1"]
    raise Invalid("'dry_run' must be 0 or 1, once.", param="dry_run")
