"""URLs of results: as providers give them, and which hosts an upstream may name."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, urlsplit

from yarl import URL

from proxy.model import Upstream


def provider_url(text: str) -> URL:
    """A URL that a provider gave us, in the form in which it can be requested.

    What must be percent-encoded is, a host in other letters gets its ASCII form, all else stays
    (it may be signed). ValueError (UnicodeError is one) where it cannot be a URL.
    """
    text = quoted_url(text)
    parts = urlsplit(text)
    host = parts.hostname or ""
    if "\\" in parts.netloc or ("%" in host and ":" not in host) or parts.port == 0:
        raise ValueError("no host's name")
    if ":" not in host:
        host.encode("idna")  # too long a label is no name
    url = URL(text, encoded=True)
    url.origin()
    _ = url.host  # raises where an xn-- label is no IDNA form
    return url


def quoted_url(text: str) -> str:
    """Percent-encodes spaces, letters beyond ASCII and the like; a host gets its IDNA form."""
    if _PLAIN_URL.fullmatch(text):
        return text
    scheme, slashes, rest = text.strip().partition("://")
    if slashes:
        end = next((at for at, c in enumerate(rest) if c in "/?#"), len(rest))
        authority, rest = rest[:end], rest[end:]
        if not authority.isascii():
            user, at, place = authority.rpartition("@")
            host, colon, port = place.partition(":")
            authority = f"{user}{at}{host.encode('idna').decode()}{colon}{port}"
        if not _PLAIN_URL.fullmatch(authority) and authority:
            raise ValueError("no host's name")
    else:
        scheme, authority, rest = "", "", text.strip()
    return f"{scheme}{slashes}{authority}" + quote(rest, safe=_URL_SAFE, errors="surrogateescape")


_URL_SAFE: Final = "%!#$&'()*+,/:;=?@[]~-._"


_PLAIN_URL: Final = re.compile(r"[\w%!#$&'()*+,/:;=?@\[\]~.-]*", re.ASCII)


def exempt(upstream: Upstream) -> frozenset[str]:
    """The host:port pairs the operator configured for this upstream: exactly these may be
    private. A host on all ports would open Redis and the admin port beside it."""
    return frozenset({host_port(URL(upstream.base_url)), *upstream.result_hosts})


def host_port(url: URL) -> str:
    """As `result_hosts` are written: an IPv6 host in brackets."""
    host = url.host or ""
    return f"[{host}]:{url.port}" if ":" in host else f"{host}:{url.port}"
