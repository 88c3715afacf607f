"""Everything signed, verified or derived: tokens, Volcengine requests, JWTs, links, webhooks.

Rule: pure. The clock, the master secret and random bytes are arguments; every comparison of
a secret or a signature is constant-time; nothing a caller sends makes a `verify_…`, `read_…`
or `parse_…` raise.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

import orjson

from proxy.errors import AuthFault

# ---------------------------------------------------------------- keys and tokens

_ID_CHARS = 16
_SECRET_CHARS = 43
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_TOKEN = re.compile(r"rw_([a-z2-7]{16})_([0-9A-Za-z]{43})")

TOKEN_ENTROPY = 64  # bytes `new_token` wants


def derive(secret: bytes, label: str, subject: str, generation: int = 0) -> bytes:
    """A 32-byte key for one purpose: HMAC-SHA256(secret, "label|subject|generation").

    `subject` is the id the key belongs to (a token's, a task's). Labels hold no "|".
    """
    return _mac(secret, f"{label}|{subject}|{generation}")


def secret_key(secret: bytes, token_id: str, generation: int) -> str:
    """The secret key that goes with access key `token_id` in the vendors' own SDKs: 43
    characters of base64url. Another generation is another key, so rotating a token ends it."""
    return _base64url(derive(secret, "secret-key", token_id, generation))


def format_token(token_id: str, secret: str) -> str:
    return f"rw_{token_id}_{secret}"


def parse_token(text: str) -> tuple[str, str] | None:
    """(id, secret) of a token in our form, None for anything else."""
    match = _TOKEN.fullmatch(text)
    return (match[1], match[2]) if match else None


def token_hash(secret: str) -> str:
    """What is stored of a token. SHA-256 without salt is enough: the secret has 256 bits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def hash_matches(secret: str, stored: str) -> bool:
    return _same(token_hash(secret), stored)


def new_token(random_bytes: bytes) -> tuple[str, str]:
    """(id, secret) from at least 64 bytes of entropy.

    The id takes 10 bytes exactly; the rest is reduced modulo 62^43 (256 bits) and is at least
    176 bits longer than that, so no secret is measurably likelier than another.
    """
    if len(random_bytes) < TOKEN_ENTROPY:
        raise ValueError(f"a token needs {TOKEN_ENTROPY} random bytes, not {len(random_bytes)}")
    token_id = base64.b32encode(random_bytes[:10]).decode().lower()
    number = int.from_bytes(random_bytes[10:], "big")
    digits = []
    for _ in range(_SECRET_CHARS):
        number, digit = divmod(number, 62)
        digits.append(_BASE62[digit])
    return token_id, "".join(digits)


# ---------------------------------------------------------------- Volcengine (Jimeng)
#
# The algorithm of volcengine's SignerV4.py (1.0.229) and of the HTTP sample on
# volcengine.com/docs/6444/1390583: like AWS's version 4, but without the "AWS4" prefix.

_VOLC = re.compile(
    r"HMAC-SHA256\s+"
    r"Credential=([^/,\s]{1,128})/([0-9]{8})/([A-Za-z0-9_-]{1,64})/([A-Za-z0-9_-]{1,64})/request"
    r",\s*SignedHeaders=([A-Za-z0-9_;-]{1,2048})"
    r",\s*Signature=([0-9A-Fa-f]{64})\s*"
)
_VOLC_DATE = re.compile(r"[0-9]{8}T[0-9]{6}Z")
_VOLC_DATE_FORMAT = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True, slots=True)
class VolcCredential:
    """An `Authorization: HMAC-SHA256 …` header taken apart; nothing of it is verified yet.

    `date` is YYYYMMDD; `signed_headers` are lower-case, in the order listed.
    """

    access_key: str
    date: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str


def sign_volc(
    *,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    body_sha256: str,
    access_key: str,
    secret_key: str,
    now_s: int,
    region: str = "cn-north-1",
    service: str = "cv",
) -> dict[str, str]:
    """The headers to add: X-Date, X-Content-Sha256 and Authorization.

    `headers` are those that will be sent, Host among them; Content-Type, Content-Md5, Host and
    every X- header are signed. `path` and `query` are decoded.
    """
    stamp = datetime.fromtimestamp(now_s, UTC).strftime(_VOLC_DATE_FORMAT)
    added = {"X-Date": stamp, "X-Content-Sha256": body_sha256}
    values = _lower({**headers, **added})
    signed = {
        name: value
        for name, value in values.items()
        if name in ("content-type", "content-md5", "host") or name.startswith("x-")
    }
    if "host" in signed:
        signed["host"] = _signed_host(signed["host"])
    names = sorted(signed)
    request = _volc_request(method, path, query, [(n, signed[n]) for n in names], body_sha256)
    scope = f"{stamp[:8]}/{region}/{service}/request"
    signature = _volc_signature(request, stamp, scope, secret_key)
    added["Authorization"] = (
        f"HMAC-SHA256 Credential={access_key}/{scope}, "
        f"SignedHeaders={';'.join(names)}, Signature={signature}"
    )
    return added


def parse_volc(authorization: str) -> VolcCredential | None:
    """None: not a Volcengine signature (another scheme, or a malformed one)."""
    match = _VOLC.fullmatch(authorization)
    if match is None:
        return None
    return VolcCredential(
        access_key=match[1],
        date=match[2],
        region=match[3],
        service=match[4],
        signed_headers=tuple(name.lower() for name in match[5].split(";") if name),
        signature=match[6].lower(),
    )


def volc_time(headers: Mapping[str, str], parsed: VolcCredential) -> int | None:
    """X-Date in epoch seconds; None when it is missing, malformed, or of another day than the
    credential's scope."""
    stamp = _lower(headers).get("x-date", "").strip()
    if not _VOLC_DATE.fullmatch(stamp) or stamp[:8] != parsed.date:
        return None
    try:
        moment = datetime.strptime(stamp, _VOLC_DATE_FORMAT).replace(tzinfo=UTC)
    except ValueError:  # the 31st of February
        return None
    return int(moment.timestamp())


def verify_volc(
    parsed: VolcCredential,
    *,
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    headers: Mapping[str, str],
    host: str,
    body_sha256: str,
    secret_key: str,
) -> bool:
    """Whether the signature covers this request.

    `path` (decoded) and `host` are those the client used, before any proxy changed them.
    `body_sha256` is the X-Content-Sha256 the client claims, or the hash of the body where it
    claims none; comparing a claim with the body, and X-Date with the clock, is the caller's.
    """
    if volc_time(headers, parsed) is None:
        return False
    values = _lower(headers)
    values["host"] = _signed_host(host)
    if any(name not in values for name in parsed.signed_headers):
        return False
    signed = [(name, values[name]) for name in sorted(set(parsed.signed_headers))]
    scope = f"{parsed.date}/{parsed.region}/{parsed.service}/request"
    try:
        request = _volc_request(method, path, query, signed, body_sha256)
        expected = _volc_signature(request, values["x-date"].strip(), scope, secret_key)
    except UnicodeEncodeError:  # a lone surrogate: no client can have signed it
        return False
    return _same(expected, parsed.signature)


def _volc_request(
    method: str,
    path: str,
    query: Sequence[tuple[str, str]],
    signed: Sequence[tuple[str, str]],
    body_sha256: str,
) -> str:
    """The canonical request. Query names are sorted, a repeated name keeps its order; the blank
    line is real: the header block already ends in a line feed."""
    pairs = sorted(query, key=lambda pair: pair[0])
    return "\n".join(
        (
            method,
            _percent(path, "/") or "/",
            "&".join(f"{_percent(name)}={_percent(value)}" for name, value in pairs),
            "".join(f"{name}:{value.strip()}\n" for name, value in signed),
            ";".join(name for name, _ in signed),
            body_sha256,
        )
    )


def _volc_signature(request: str, stamp: str, scope: str, secret_key: str) -> str:
    date, region, service, end = scope.split("/")
    key = secret_key.encode("utf-8", "surrogateescape")
    for part in (date, region, service, end):
        key = _mac(key, part)
    hashed = hashlib.sha256(request.encode("utf-8", "surrogateescape")).hexdigest()
    return _mac(key, f"HMAC-SHA256\n{stamp}\n{scope}\n{hashed}").hex()


def _signed_host(host: str) -> str:
    """The signer drops the two default ports, whatever the scheme."""
    name, _, port = host.strip().rpartition(":")
    return name if name and port in ("80", "443") else host.strip()


def _percent(text: str, safe: str = "") -> str:
    """RFC 3986: `-_.~` stay, a space is %20. Bytes that were not UTF-8 keep their value."""
    return quote(text, safe=safe, errors="surrogateescape")


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers by lower-case name; of a repeated one the first, as every `get` reads it."""
    values: dict[str, str] = {}
    for name, value in headers.items():
        values.setdefault(name.lower(), value)
    return values


# ---------------------------------------------------------------- JWT (Kling)

_KLING_LIFE_S = 1800  # the official sample's `exp`
_KLING_LEAD_S = 5  # and its `nbf`, against clocks that lag
_JWT_MAX_CHARS = 4096
_JWT_HEADER = b'{"alg":"HS256","typ":"JWT"}'
_JWT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")


@dataclass(frozen=True, slots=True)
class JwtClaims:
    """What a token claims; only `verify_jwt` says whether it is true. Times in epoch seconds."""

    issuer: str
    expires_s: float
    not_before_s: float | None = None


def kling_jwt(access_key: str, secret_key: str, now_s: int) -> str:
    """The bearer Kling expects of an access-key pair, good for 30 minutes.

    Made by hand: the official sample's key order is kept, and PyJWT warns about keys under 32
    bytes, which Kling hands out.
    """
    claims = {"iss": access_key, "exp": now_s + _KLING_LIFE_S, "nbf": now_s - _KLING_LEAD_S}
    signed = f"{_base64url(_JWT_HEADER)}.{_base64url(orjson.dumps(claims))}"
    return f"{signed}.{_jwt_signature(signed, secret_key)}"


def read_jwt(text: str) -> JwtClaims | AuthFault:
    """The claims of a token in the form we accept: HS256 (never `none` or an asymmetric
    algorithm, whatever the key), no critical extensions, `iss` and `exp` present."""
    match = _JWT.fullmatch(text) if len(text) <= _JWT_MAX_CHARS else None
    if match is None:
        return AuthFault.MALFORMED
    header, claims = _jwt_object(match[1]), _jwt_object(match[2])
    if header is None or claims is None or header.get("alg") != "HS256" or "crit" in header:
        return AuthFault.MALFORMED
    issuer, expires, not_before = claims.get("iss"), claims.get("exp"), claims.get("nbf")
    if not isinstance(issuer, str) or not issuer or not _is_number(expires):
        return AuthFault.MALFORMED
    if not_before is not None and not _is_number(not_before):
        return AuthFault.MALFORMED
    return JwtClaims(issuer, expires, not_before)  # type: ignore[arg-type] # _is_number checked


def jwt_issuer(text: str) -> str | None:
    """Who a token says it is from: the access key to look the secret key up by. Unverified."""
    claims = read_jwt(text)
    return claims.issuer if isinstance(claims, JwtClaims) else None


def verify_jwt(text: str, secret_key: str, now_s: int, skew_s: int = 60) -> AuthFault | None:
    """None: good. The signature is judged first, so that only its maker learns about times."""
    claims = read_jwt(text)
    if isinstance(claims, AuthFault):
        return claims
    signed, _, signature = text.rpartition(".")
    if not _same(_jwt_signature(signed, secret_key), signature):
        return AuthFault.SIGNATURE
    if now_s >= claims.expires_s + skew_s:
        return AuthFault.EXPIRED
    if claims.not_before_s is not None and now_s < claims.not_before_s - skew_s:
        return AuthFault.NOT_YET
    return None


def _jwt_signature(signed: str, secret_key: str) -> str:
    return _base64url(_mac(secret_key.encode("utf-8", "surrogateescape"), signed))


def _jwt_object(segment: str) -> dict[str, object] | None:
    try:
        value = orjson.loads(_unbase64url(segment))
    except ValueError:  # binascii.Error and orjson.JSONDecodeError are both ValueErrors
        return None
    return value if isinstance(value, dict) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# ---------------------------------------------------------------- links and webhooks

_LINK_BYTES = 24  # 192 bits, 32 characters


def sign_link(secret: bytes, task_id: str, variant: str, index: int, exp_s: int) -> str:
    """The `sig` of a result link that works without a token until `exp_s`. That the owning
    token still stands is the verifier's to ask."""
    key = derive(secret, "link", task_id)
    return _base64url(_mac(key, f"{task_id}|{variant}|{index}|{exp_s}")[:_LINK_BYTES])


def link_matches(
    secret: bytes,
    task_id: str,
    variant: str,
    index: int,
    exp_s: int,
    signature: str,
) -> bool:
    """Whether `signature` is this link's. Comparing `exp_s` with the clock is the caller's."""
    expected = sign_link(secret, task_id, variant, index, exp_s)
    return _same(expected, signature)


def sign_callback(secret: bytes, task_id: str) -> str:
    """The part of a callback path only a provider we told it to can know."""
    return _base64url(derive(secret, "callback", task_id)[:_LINK_BYTES])


def callback_matches(secret: bytes, task_id: str, signature: str) -> bool:
    return _same(sign_callback(secret, task_id), signature)


def sign_probe(secret: bytes, exp_s: int) -> str:
    """The part of a probe's path only an operator's command can make; good until `exp_s`."""
    return _base64url(derive(secret, "probe", str(exp_s))[:_LINK_BYTES])


def probe_matches(secret: bytes, exp_s: int, signature: str) -> bool:
    return _same(sign_probe(secret, exp_s), signature)


def sign_webhook(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The `webhook-signature` of Standard Webhooks, as openai's SDKs verify it.

    The key of a `whsec_` secret is its base64 decoded (ValueError when it is not base64); of
    any other secret its bytes. `timestamp` in epoch seconds.
    """
    encoded = secret.removeprefix("whsec_")
    key = base64.b64decode(encoded, validate=True) if encoded != secret else secret.encode()
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


# ---------------------------------------------------------------- shared arithmetic


def _mac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode("utf-8", "surrogateescape"), "sha256")


def _same(expected: str, given: str) -> bool:
    """Constant-time; over bytes, as compare_digest refuses non-ASCII text."""
    return hmac.compare_digest(expected.encode(), given.encode("utf-8", "surrogatepass"))


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _unbase64url(text: str) -> bytes:
    """Raises binascii.Error."""
    if len(text) % 4 == 1:
        raise binascii.Error("no base64 text has this length")
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
