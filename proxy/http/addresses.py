"""Addresses: who asks, and where a request that somebody else chose may go (the SSRF guard).

`ipaddress.is_global` is not enough: it calls NAT64 (64:ff9b::/96), 6to4 (2002::/16), multicast
and some IETF blocks global although they lead to, or stand for, inner addresses. The deny list
is therefore written out (IANA special-purpose registries, read 2026-10), on top of it.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Container
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final
from urllib.parse import urlsplit

_DENIED: Final = tuple(
    ip_network(block)
    for block in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
        "::/3",  # holds ::1, ::ffff:0:0/96, 64:ff9b::/96, 100::/64: only 2000::/3 is unicast
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "4000::/2",
        "8000::/1",
    )
)


def is_public(address: str) -> bool:
    """True for an IP literal that any host on the internet could have."""
    ip: IPv4Address | IPv6Address = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    return not any(ip in block for block in _DENIED if block.version == ip.version)


def refused_target(url: str, allowed: Container[str]) -> str | None:
    """The host:port of this http(s) URL when the guard will never call it: its host is an IP
    literal that is not public, and the operator allows no such pair. None for every other: where
    a host name leads is known only when it is called.
    """
    parts = urlsplit(url)
    ip = _address(parts.hostname or "")
    if ip is None or is_public(str(ip)):
        return None
    host = f"[{ip}]" if ip.version == 6 else str(ip)
    target = f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    return None if target in allowed else target


def inner_target(url: str, allowed: Container[str]) -> str | None:
    """The host:port of this http(s) URL when it is plainly not public: `localhost`, or an address
    in any spelling that a C library takes (`127.1`, `0x7f000001`, `2130706433`), in any letters
    and dots that IDNA reads as these. None for every other, and for a pair the operator allows."""
    parts = urlsplit(url)
    host = unicodedata.normalize("NFKC", parts.hostname or "").replace("\u3002", ".")
    host = host.rstrip(".").lower()
    ip = _address(host) or _loose_address(host)
    is_inner = host == "localhost" or host.endswith(".localhost")
    if not is_inner and (ip is None or is_public(str(ip))):
        return None
    host = host if ip is None else f"[{ip}]" if ip.version == 6 else str(ip)
    target = f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    return None if target in allowed else target


_LOOSE_PART: Final = re.compile(r"0x[0-9a-f]*|[0-9]+")


def _loose_address(host: str) -> IPv4Address | None:
    """What inet_aton(3) makes of a host: one to four numbers, decimal, octal (`0177`) or
    hexadecimal, the last of which fills the bytes that are left."""
    parts = host.split(".")
    if len(parts) > 4 or not all(_LOOSE_PART.fullmatch(part) for part in parts):
        return None
    value = 0
    for place, part in enumerate(parts):
        try:
            number = int(part[2:] or "0", 16) if part[:2] == "0x" else _decimal_or_octal(part)
        except ValueError:  # an octal number with an 8, or thousands of digits
            return None
        is_last = place == len(parts) - 1
        bits = 8 * (4 - place) if is_last else 8
        if number >= 1 << bits:
            return None
        value = value << bits | number
    return IPv4Address(value)


def _decimal_or_octal(part: str) -> int:
    return int(part, 8) if part[0] == "0" and len(part) > 1 else int(part)


def client_address(peer: str, forwarded_for: str | None, trusted: tuple[str, ...]) -> str:
    """Who really asks: the last hop of X-Forwarded-For that is no proxy of ours, if the peer is
    one. `trusted` are networks; an empty `peer` is a unix socket, which only this machine can
    reach, and trusted when anything is.
    """
    if not trusted or forwarded_for is None:
        return peer
    networks = _networks(trusted)
    hop = peer
    for claimed in reversed(forwarded_for.split(",")):
        if hop and not _is_in(hop, networks):
            break
        hop = claimed.strip()
    return hop if _address(hop) is not None else peer


def is_trusted(peer: str, trusted: tuple[str, ...]) -> bool:
    """Whether what this peer says about its client is believed; see `client_address`."""
    return bool(trusted) and (not peer or _is_in(peer, _networks(trusted)))


def is_within(address: str, blocks: tuple[str, ...]) -> bool:
    """Whether a client's address lies in one of these networks; an IPv4 one that came over an
    IPv6 socket is what it stands for. No address lies in none."""
    ip = _address(address)
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        address = str(ip.ipv4_mapped)
    return _is_in(address, _networks(blocks))


@lru_cache(maxsize=1024)
def _networks(trusted: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(block, strict=False) for block in trusted)


def _is_in(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    ip = _address(address)
    return ip is not None and any(ip in block for block in networks if block.version == ip.version)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
