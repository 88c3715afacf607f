"""Faults of a request's head that the parser lets pass (RFC 9110, RFC 9112)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from proxy.http.targets import fault_of, is_host

if TYPE_CHECKING:
    from aiohttp import web

MOST_WATCHED: Final = 65536  # bytes of a head kept to look at; the parser refuses longer ones

_VERSIONS: Final = (b" HTTP/1.1", b" HTTP/1.0")
_CHUNKED_TAB: Final = re.compile(
    rb"(?i)(\r\ntransfer-encoding:[ \t]*chunked)([ \t]*\t[ \t]*)(?=\r\n)"
)


class HeadFault(NamedTuple):
    """Why a head is refused: the answer's status, and the reason in words."""

    status: int
    text: str


def _malformed(text: str) -> HeadFault:
    return HeadFault(400, text)


_SPACES: Final = _malformed("the request line must be method, target and version, one space apart")
_VERSION: Final = HeadFault(505, "the request's version must be HTTP/1.1 or HTTP/1.0")
_CODING: Final = HeadFault(501, "the only Transfer-Encoding taken here is 'chunked'")


class HeadWatch:
    """Looks at the raw bytes of one head; the parser forgets how lines were written."""

    __slots__ = ("_seen", "fault", "is_over")

    def __init__(self) -> None:
        self._seen = b""
        self.fault: HeadFault | None = None
        self.is_over = False

    def feed(self, data: bytes) -> bytes:
        """The same bytes, as the parser can take them: it refuses `chunked` before a tab."""
        if self.is_over:
            return data
        seen = self._seen + data if self._seen else data
        end = seen.find(b"\r\n\r\n")
        self.is_over = end >= 0 or len(seen) > MOST_WATCHED
        if not self.is_over:
            self._seen = seen
        else:
            self.fault = line_fault(seen)
            self._seen = b""
        last = len(data) if end < 0 else max(0, end + 4 - (len(seen) - len(data)))
        if data.find(b"\t", 0, last) < 0:
            return data
        return _CHUNKED_TAB.sub(_spaced, data[:last]) + data[last:]


def _spaced(found: re.Match[bytes]) -> bytes:
    return found[1] + b" " * len(found[2])


def line_fault(head: bytes) -> HeadFault | None:
    """The fault of a request line that the parser does not refuse, or None."""
    if head.startswith((b"\r", b"\n")):
        head = head.lstrip(b"\r\n")  # RFC 9112, 2.2: empty lines before a request are ignored
    line = head[: head.find(b"\r\n")]
    if not line.endswith(_VERSIONS):
        return _VERSION
    return None if line.count(b" ") == 2 else _SPACES


def head_fault(request: web.BaseRequest) -> HeadFault | None:
    """What the parser lets pass and we do not."""
    if request.version not in ((1, 1), (1, 0)):
        return _VERSION
    if request.method == "CONNECT":
        return _malformed("CONNECT is not accepted: this is not a forward proxy")
    target = request._message.path
    why = None if target.startswith("/") else fault_of(target)
    if why is not None:
        return _malformed(why)
    headers = request.headers
    host = headers.get("Host")
    if host is not None and not is_host(host):
        return _malformed("the Host header must be a host name or address, and perhaps a port")
    if "Transfer-Encoding" not in headers:
        return None
    if request.version < (1, 1):
        # RFC 9112 6.1: such a message's framing is faulty, and nginx reads it differently.
        return _malformed("Transfer-Encoding is not accepted on HTTP/1.0")
    codings = headers.getall("Transfer-Encoding")
    if len(codings) != 1 or codings[0].strip(" \t").lower() != "chunked":
        return _CODING
    return None
