"""Checking what clients sign: Kling's JWT and Volcengine's HMAC-SHA256, from their documents.

Written by hand on purpose: a verifier that shared a library with the signer under test would
share its mistakes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TypeGuard
from urllib.parse import parse_qsl, quote, unquote

#: Volcengine tells of a window but not its width; its gateways accept a quarter of an hour.
_SKEW_S = 15 * 60
_AUTHORIZATION = re.compile(
    r"HMAC-SHA256 Credential=([^/,\s]+)/(\d{8})/([^/,\s]+)/([^/,\s]+)/request,"
    r" ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})"
)
_SCOPE = ("cn-north-1", "cv")


class BadSignature(Exception):
    """`code` is the provider's own: Kling's 1000-1004, Volcengine's 100003-100010."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def check_kling_jwt(token: str, secrets: Mapping[str, str], now_s: float) -> str:
    """The access key that signed it. `secrets`: access key → secret key."""
    parts = token.split(".")
    try:
        header: object = json.loads(_unbase64(parts[0]))
        claims: object = json.loads(_unbase64(parts[1]))
        signature = _unbase64(parts[2])
    except (ValueError, IndexError):
        raise BadSignature(1002, "Authorization is invalid") from None
    if len(parts) != 3 or not isinstance(header, dict) or not isinstance(claims, dict):
        raise BadSignature(1002, "Authorization is invalid")
    if header.get("alg") != "HS256":
        raise BadSignature(1002, "Authorization is invalid: the algorithm must be HS256")
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or issuer not in secrets:
        raise BadSignature(1002, "Authorization is invalid: access key not found")
    signed = f"{parts[0]}.{parts[1]}".encode()
    expected = hmac.new(secrets[issuer].encode(), signed, hashlib.sha256).digest()
    if not hmac.compare_digest(expected, signature):
        raise BadSignature(1000, "Authentication failed: signature mismatch")
    expires, not_before = claims.get("exp"), claims.get("nbf", 0)
    if not _is_number(expires) or not _is_number(not_before):
        raise BadSignature(1002, "Authorization is invalid: exp and nbf must be numbers")
    if not_before > now_s:
        raise BadSignature(1003, "Authorization is not yet valid")
    if expires <= now_s:
        raise BadSignature(1004, "Authorization has expired")
    return issuer


def check_volcengine(
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    secrets: Mapping[str, str],
    now_s: float,
) -> str:
    """The access key that signed this request.

    `target` is the raw request target, `headers` a case-insensitive mapping that has Host.
    """
    given = headers.get("Authorization")
    if not given:
        raise BadSignature(100003, "The request has no Authorization header.")
    match = _AUTHORIZATION.fullmatch(given)
    if match is None:
        raise BadSignature(100005, "The Authorization header is not an HMAC-SHA256 signature.")
    access_key, day, region, service, signed, signature = match.groups()
    date = headers.get("X-Date", "")
    _check_date(date, day, now_s)
    if access_key not in secrets:
        raise BadSignature(100009, "The access key does not exist.")
    names = signed.split(";")
    if names != sorted(names) or not {"host", "x-date"} <= set(names):
        raise BadSignature(100010, "SignedHeaders must be sorted and hold host and x-date.")
    digest = hashlib.sha256(body).hexdigest()
    if headers.get("X-Content-Sha256", digest) != digest:
        raise BadSignature(100010, "X-Content-Sha256 is not the hash of the body.")
    lines = [f"{name}:{_signed_value(name, headers)}\n" for name in names]
    path, _, query = target.partition("?")
    canonical = "\n".join(
        [method, _canonical_path(path), _canonical_query(query), "".join(lines), signed, digest]
    )
    expected = volcengine_signature(canonical, date, region, service, secrets[access_key])
    if (region, service) != _SCOPE or not hmac.compare_digest(expected, signature):
        raise BadSignature(100010, "The request signature does not match.")
    return access_key


def volcengine_signature(
    canonical: str, date: str, region: str, service: str, secret_key: str
) -> str:
    """Hex signature of a canonical request. The secret key is used raw, without a prefix."""
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    scope = f"{date[:8]}/{region}/{service}/request"
    key = secret_key.encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    to_sign = f"HMAC-SHA256\n{date}\n{scope}\n{hashed}"
    return hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()


def _check_date(date: str, day: str, now_s: float) -> None:
    try:
        signed_at = datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise BadSignature(100006, "X-Date is not of the form YYYYMMDDTHHMMSSZ.") from None
    if not date.startswith(day) or abs(signed_at.timestamp() - now_s) > _SKEW_S:
        raise BadSignature(100006, "X-Date is expired or not the day of the credential scope.")


def _signed_value(name: str, headers: Mapping[str, str]) -> str:
    value = headers.get(name, "").strip()
    if name == "host" and value.endswith((":80", ":443")):
        return value.rpartition(":")[0]
    return value


def _canonical_path(path: str) -> str:
    return quote(unquote(path), safe="-_.~/") or "/"


def _canonical_query(query: str) -> str:
    pairs = sorted(parse_qsl(query, keep_blank_values=True))
    return "&".join(f"{quote(k, safe='-_.~')}={quote(v, safe='-_.~')}" for k, v in pairs)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _unbase64(text: str) -> bytes:
    """base64url without padding, strictly (RFC 7515, 2)."""
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text):
        raise binascii.Error("not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
