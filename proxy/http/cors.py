"""CORS on the data path, decided from aiohttp-cors's own `ResourceOptions`.

aiohttp-cors can only be set up on a `web.Application`; the data path is a bare server, so its
options serve as configuration here and the answers are worked out by plain functions
(Fetch standard, "CORS protocol").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from aiohttp_cors import ResourceOptions

from proxy.model import Reply

_METHODS = ("GET", "HEAD", "POST", "DELETE")


@dataclass(frozen=True, slots=True)
class CorsPolicy:
    """Origin (or `*`) → what it may do. No origins: CORS is off, and nothing is added."""

    origins: Mapping[str, ResourceOptions]

    def options_for(self, origin: str) -> ResourceOptions | None:
        return self.origins.get(origin) or self.origins.get("*")


class Rules(Protocol):
    """The `[cors]` section; hashable."""

    @property
    def origins(self) -> Sequence[str]: ...
    @property
    def allow_credentials(self) -> bool: ...
    @property
    def expose_headers(self) -> Sequence[str]: ...
    @property
    def allow_headers(self) -> Sequence[str]: ...
    @property
    def max_age_s(self) -> int: ...


@lru_cache(maxsize=8)
def policy_of(rules: Rules) -> CorsPolicy:
    options = ResourceOptions(  # type: ignore[no-untyped-call]  # aiohttp-cors has no types here
        allow_credentials=rules.allow_credentials,
        expose_headers=tuple(rules.expose_headers),
        allow_headers="*" if "*" in rules.allow_headers else tuple(rules.allow_headers),
        max_age=rules.max_age_s,
        allow_methods=_METHODS,
    )
    return CorsPolicy(dict.fromkeys(rules.origins, options))


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    return (
        method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers
    )


def preflight(rules: CorsPolicy, headers: Mapping[str, str]) -> Reply:
    """The answer to a preflight: 204 with what is allowed, 403 naming what is not."""
    options = rules.options_for(headers["Origin"])
    if options is None:
        return _refusal("this origin is not in [cors] origins")
    method = headers["Access-Control-Request-Method"]
    if method not in _METHODS:
        return _refusal(f"the methods are {', '.join(_METHODS)}")
    asked = [
        name.strip().lower()
        for name in headers.get("Access-Control-Request-Headers", "").split(",")
        if name.strip()
    ]
    if options.allow_headers == "*":
        allowed = asked
    else:
        accepted = {name.lower() for name in options.allow_headers}
        allowed = [name for name in asked if name in accepted]
        if len(allowed) < len(asked):
            missing = next(name for name in asked if name not in accepted)
            return _refusal(f"header '{missing}' is not in [cors] allow_headers")
    reply = {**granted(rules, headers), "Access-Control-Allow-Methods": ", ".join(_METHODS)}
    if allowed:
        reply["Access-Control-Allow-Headers"] = ", ".join(allowed)
    if options.max_age is not None:
        reply["Access-Control-Max-Age"] = str(options.max_age)
    reply["Vary"] = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"
    return Reply(204, b"", reply)


def granted(rules: CorsPolicy, headers: Mapping[str, str]) -> dict[str, str]:
    """Headers of every actual reply to a cross-origin request; empty when CORS is off."""
    if not rules.origins:
        return {}
    origin = headers.get("Origin")
    options = rules.options_for(origin) if origin is not None else None
    if origin is None or options is None:
        return {"Vary": "Origin"}
    # Who may read a reply may see how long it took (Resource Timing, 4.5).
    reply = {
        "Access-Control-Allow-Origin": origin,
        "Timing-Allow-Origin": origin,
        "Vary": "Origin",
    }
    if options.allow_credentials:
        reply["Access-Control-Allow-Credentials"] = "true"
    if options.expose_headers:
        reply["Access-Control-Expose-Headers"] = ", ".join(sorted(options.expose_headers))
    return reply


def _refusal(why: str) -> Reply:
    text = f"CORS preflight refused: {why}.\n".encode()
    return Reply(403, text, {"Content-Type": "text/plain; charset=utf-8", "Vary": "Origin"})
