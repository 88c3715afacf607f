"""What one value of config.toml may be: the annotated types that the tables use.

A validator raises ValueError, which says what is accepted. It never shows a value that may hold
a secret. Numbers and booleans are strict: `workers = "2"` is a mistake worth reporting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Final, TypeVar
from urllib.parse import urlsplit

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import AfterValidator, BeforeValidator, Strict

from proxy.dialects import DIALECTS, RegisteredDialect
from proxy.model import DialectName, Json

REDIS_SCHEMES: Final = ("redis", "rediss", "unix", "redis+sentinel", "redis+cluster")

# Body fields no route may set or remove, with what to do instead. The tracker finds a task
# again by what these carry.
PROTECTED: Final[Mapping[str, str]] = {
    "external_task_id": "it carries the task's own id, by which a lost submit is found again",
    "callback_url": "the tracker polls; a client's own callback is answered by its webhook",
    "model": "set upstream_model instead",
    "model_name": "set upstream_model instead",
    "req_key": "set upstream_model instead",
}

_T = TypeVar("_T")


def _listen(value: str) -> str:
    socket_address(value)
    return value


def socket_address(listen: str) -> tuple[str, int] | Path:
    """`host:port` (IPv6 in brackets) or `unix:/path`; `ValueError` says what is accepted."""
    if listen.startswith("unix:"):
        path = Path(listen.removeprefix("unix:"))
        if not path.is_absolute():
            raise ValueError(f"must be unix:/absolute/path, not '{listen}'")
        return path
    host, port = _host_port(listen)
    return host, port


def is_wildcard(listen: str) -> bool:
    """True when it takes connections on every address, so that it names none."""
    address = socket_address(listen)
    return isinstance(address, tuple) and address[0] in ("0.0.0.0", "::", "0")  # noqa: S104


_HOST_PORT = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")


def _host_port(value: str) -> tuple[str, int]:
    found = _HOST_PORT.fullmatch(value)
    if not found or int(found[3]) > 65535:
        raise ValueError(f"must be host:port (an IPv6 host in brackets), not '{value}'")
    return found[1] or found[2], int(found[3])


def _exact_host_port(value: str) -> str:
    if _host_port(value)[1] == 0:
        raise ValueError(f"must name a port from 1 to 65535, not '{value}'")
    return value.lower()


def _url(value: str) -> str:
    """An http(s) URL to which paths are appended; its trailing slashes are cut."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname, parts.port
    except ValueError as exc:
        raise ValueError(f"is not a URL: {exc}") from exc
    if "@" in parts.netloc:  # first: the other messages show the value
        raise ValueError("must not hold a user name or password")
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(f"must be http://host… or https://host…, not '{value}'")
    if parts.query or parts.fragment or "?" in value or "#" in value:
        raise ValueError("must end with its path: no '?' and no '#'")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("must be ASCII without spaces; encode other characters")
    return value.rstrip("/")


def _redis_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if value != "embedded" and (scheme not in REDIS_SCHEMES or not separator or not rest):
        names = ", ".join(f"{name}://…" for name in REDIS_SCHEMES)
        # The value stays out of the message: it may hold a password.
        raise ValueError(f"must be embedded or one of {names}")
    return value


def _secret(value: str) -> str:
    size = len(value.encode())
    if size < 32:
        raise ValueError(f"must be at least 32 bytes, not {size}")
    return value


def _network(value: str) -> str:
    try:
        return str(ip_network(value))
    except ValueError as exc:
        raise ValueError(f"must be an address or a CIDR block such as 10.0.0.0/8: {exc}") from exc


def _web_origin(value: str) -> str:
    if value == "*":
        return value
    url = _url(value)
    if urlsplit(url).path or url != value:
        raise ValueError(f"must be '*' or scheme://host[:port] without a path, not '{value}'")
    return value


def _header_name(value: str) -> str:
    if not _TOKEN.fullmatch(value):
        raise ValueError(f"'{value}' is not a header name")
    return value


_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
# Framing is the client library's, the key is the credential's.
_OWN_HEADERS: Final = frozenset(
    {"authorization", "connection", "content-length", "content-type", "host", "te"}
    | {"trailer", "transfer-encoding", "upgrade", "expect", "proxy-authorization"}
)


def _upstream_headers(values: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in values.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"'{name}' is not a header name")
        if name.lower() in _OWN_HEADERS:
            raise ValueError(f"'{name}' is set by the adapter and cannot be configured")
        if not value.isprintable() or not value.isascii():
            raise ValueError(f"the value of '{name}' must be printable ASCII")
    return values


def _path_names(values: Mapping[str, str]) -> Mapping[str, str]:
    for name in values:
        if name.partition(".")[0] not in ("submit", "poll", "content"):
            raise ValueError(f"'{name}' is not submit, poll or content, or one with '.<kind>'")
    return values


def _upstream_path(value: str) -> str:
    if not value.startswith("/") or not value.isprintable() or " " in value:
        raise ValueError(f"must be a path from base_url on, beginning with '/', not '{value}'")
    return value


def _flat_paths(values: object) -> object:
    """`submit.text2video = …` without quotes is a table in a table to TOML."""
    if not isinstance(values, dict):
        return values
    flat: dict[str, object] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": path for inner, path in value.items()}
        else:
            flat[name] = value
    return flat


def _name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", value):
        raise ValueError(
            "must be 1 to 64 letters, digits, '.', '_' or '-', "
            f"beginning with a letter or digit, not '{value}'"
        )
    return value


def _model_name(value: str) -> str:
    if not value.isprintable() or len(value) > 256 or value != value.strip():
        raise ValueError("must be at most 256 printable characters without spaces around")
    return value


def _currency(value: str) -> str:
    if not re.fullmatch(r"[A-Z]{3}", value):
        raise ValueError(f"must be an ISO 4217 code such as USD, EUR or CNY, not '{value}'")
    return value


def _json(value: object) -> object:
    """What TOML has and JSON has not: dates, times, inf and nan."""
    if isinstance(value, dict):
        for inner in value.values():
            _json(inner)
    elif isinstance(value, list):
        for inner in value:
            _json(inner)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} has no JSON form; it goes into a JSON body")
    elif value is not None and not isinstance(value, bool | int | str):
        raise ValueError(f"a {type(value).__name__} has no JSON form; write it as a string")
    return value


def _body_field(name: str) -> str:
    """`field` or `field.inner`, and none that would break a task's identity."""
    parts = name.split(".")
    if not all(parts):
        raise ValueError(f"'{name}' must be a body field's name, or names joined by dots")
    if parts[0] in PROTECTED:
        raise ValueError(f"'{parts[0]}' cannot be rewritten: {PROTECTED[parts[0]]}")
    return name


def _field_glob(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_*?-]{1,64}", value):
        raise ValueError(
            f"'{value}' must be the name of a body field; * and ? are wild, dots are not taken"
        )
    return value


def _body_fields(values: Mapping[str, Json]) -> Mapping[str, Json]:
    for name in values:
        _body_field(name)
    return values


def _unset(value: object) -> object:
    return None if value == "" else value


def all_dialects(given: Mapping[DialectName, str]) -> Mapping[DialectName, str]:
    return {name: given.get(name, "") for name in DIALECTS}


def _shares(value: object) -> object:
    return [{"name": value}] if isinstance(value, str) else value


def _some(values: tuple[_T, ...]) -> tuple[_T, ...]:
    if not values:
        raise ValueError("must have at least one entry")
    return values


Text = Annotated[str, MinLen(1)]
Count = Annotated[int, Strict(), Ge(1)]
CountOrZero = Annotated[int, Strict(), Ge(0)]
# Each may take 12 MiB of the store, and a turn looks through the list.
QueueLength = Annotated[int, Strict(), Ge(0), Le(10_000)]
Seconds = Annotated[float, Strict(), Gt(0)]
Share = Annotated[float, Strict(), Ge(0), Le(1)]
Flag = Annotated[bool, Strict()]
Listen = Annotated[str, AfterValidator(_listen)]
Url = Annotated[str, AfterValidator(_url)]
HostPort = Annotated[str, AfterValidator(_exact_host_port)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
Name = Annotated[str, AfterValidator(_name)]
ModelName = Annotated[str, MinLen(1), AfterValidator(_model_name)]
# Written "" in the file: a TOML key cannot be null.
Unset = BeforeValidator(_unset)
BodyField = Annotated[str, AfterValidator(_body_field)]
FieldGlob = Annotated[str, AfterValidator(_field_glob)]
Body = Annotated[dict[str, Annotated[object, AfterValidator(_json)]], AfterValidator(_body_fields)]
Secret = Annotated[str, AfterValidator(_secret)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]
Network = Annotated[str, AfterValidator(_network)]
WebOrigin = Annotated[str, AfterValidator(_web_origin)]
Currency = Annotated[str, AfterValidator(_currency)]
UpstreamHeaders = Annotated[dict[str, str], AfterValidator(_upstream_headers)]
UpstreamPaths = Annotated[
    dict[str, Annotated[str, AfterValidator(_upstream_path)]],
    BeforeValidator(_flat_paths),
    AfterValidator(_path_names),
]
DefaultModels = Annotated[
    Mapping[RegisteredDialect, Annotated[str, AfterValidator(_model_name)]],
    AfterValidator(all_dialects),
]
# One name stands for a list of one `{ name = … }`.
OneOrMore = BeforeValidator(_shares)
# Not MinLen: of a tuple it counts the sound entries, and calls one faulty entry empty.
NotEmpty = AfterValidator(_some)
