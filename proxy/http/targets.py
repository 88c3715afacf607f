"""A request's target as one path and one query, however the client wrote it (RFC 9112, 3.2).

Rule: a path is normalised once, here, before anything looks at it: routes, scopes, caches, logs. A
signature covers what the client wrote, so `Target.written` keeps that. Dot segments are never
resolved: whoever stands in between may have read them otherwise, and no endpoint or id is one.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

_ABSOLUTE: Final = re.compile(r"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
_ENCODED: Final = re.compile(r"%(2[DdEe]|3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa]|5[Ff]|7[Ee])")
_SLASHES: Final = re.compile("/{2,}")
_TWICE_V1: Final = re.compile(r"(?:/v1)+(?=/v1(?:/|$))")
# LiteLLM (1.110, llms/azure/videos, read 2026-11) appends the rest of a path to an address that
# ends in `?api-version=…`, as it is or encoded.
_BEHIND_VERSION: Final = re.compile(r"((?:^|&)api-version=[^&/%]*)(?:/|%2[Ff])([^&]*)")
# A registered name, an IPv4 address or a bracketed IPv6 one, and a port (RFC 3986, 3.2.2).
_HOST: Final = re.compile(
    r"(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*(?::(?P<port>[0-9]{0,5}))?"
    r"|\[[0-9A-Fa-f:.]{2,45}\](?::(?P<port6>[0-9]{0,5}))?"
)


class PathRules(NamedTuple):
    """What is particular to some paths, as the endpoint table knows it.

    `slashed` are paths whose slash at the end belongs to them. `cut` are paths whose rest some
    clients write behind `api-version`.
    """

    slashed: frozenset[str] = frozenset({"/"})
    cut: frozenset[str] = frozenset()


NO_RULES: Final = PathRules()


class Target(NamedTuple):
    """`written` is the path as it was sent, `path` the normalised one. `authority` is the host of
    an absolute-form target, which stands for the Host header (RFC 9112, 3.2.2)."""

    written: str
    path: str
    query: str
    authority: str | None = None


def read_target(target: str, rules: PathRules = NO_RULES) -> Target:
    """The parts of a request target whose form was checked (`fault_of`)."""
    authority = None
    if not target.startswith("/"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is not None:
            authority, target = absolute[1], absolute[2]
            if not target.startswith("/"):
                target = "/" + target
    written, _, query = target.partition("?")
    path = normalised(written, rules)
    if query and path in rules.cut:
        path, query = _put_back(path, query, rules)
    return Target(written, path, query, authority)


def _put_back(path: str, query: str, rules: PathRules) -> tuple[str, str]:
    """A path with what was written behind `api-version`, which no version contains. Read without it
    a remix would be another video."""
    found = _BEHIND_VERSION.search(query)
    if found is None:
        return path, query
    rest = found[2].replace("%2F", "/").replace("%2f", "/")
    return normalised(f"{path}/{rest}", rules), query[: found.end(1)] + query[found.end() :]


def normalised(path: str, rules: PathRules = NO_RULES) -> str:
    """One spelling of a path: no doubled or trailing slash, no doubled `/v1`, and no escapes of
    characters that need none (RFC 3986, 6.2.2.2)."""
    # Most paths need nothing, and each status poll comes by here: five plain searches.
    if (
        "//" not in path
        and "%" not in path
        and "/v1/v1" not in path
        and (not path.endswith("/") or path in rules.slashed)
    ):
        return path
    if "%" in path:
        path = _ENCODED.sub(lambda escape: chr(int(escape[1], 16)), path)
    path = _SLASHES.sub("/", path)
    path = _TWICE_V1.sub("", path)
    return path if path in rules.slashed else path.rstrip("/")


def fault_of(target: str) -> str | None:
    """Why a request target is of no form that a server takes; None for one that is."""
    if target.startswith("/") or target == "*":
        return None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return "the request target must be a path or an http(s) URL"
    if not absolute[1] or not is_host(absolute[1]):
        return "the request target's host cannot be read"
    if "#" in target:
        return "the request target holds a fragment"
    return None


@lru_cache(maxsize=1024)
def is_host(value: str) -> bool:
    """Whether a Host header or an authority is a host and perhaps a port (RFC 9110, 7.2)."""
    found = _HOST.fullmatch(value)
    if found is None:
        return False
    port = found["port"] or found["port6"]
    return not port or int(port) <= 65535
