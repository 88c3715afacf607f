"""Who is asking: the first gate, passed before any byte of the body is read.

Three ways to show the same token: the key itself everywhere, as `Authorization: Bearer rw_…` or as
other vendors' clients send theirs (`SCHEMES`, `KEY_HEADERS`); and, in the dialects that say so
(`auth_schemes`), a JWT (HS256) or a Volcengine signature. Both are made with the access-key pair
derived from the token, so that the vendors' own SDKs run unmodified.

Rule: one request shows one key. Whoever stands in between might have looked at the other one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

from multidict import CIMultiDictProxy, istr

from proxy.dialects.base import AuthScheme
from proxy.errors import AuthFault, Forbidden, Unauthenticated
from proxy.gateway.memos import Admission, KnownKey, RequestMemos
from proxy.model import Principal
from proxy.signing import (
    VolcCredential,
    callback_matches,
    hash_matches,
    jwt_issuer,
    link_matches,
    parse_token,
    parse_volc,
    probe_matches,
    secret_key,
    sign_callback,
    verify_jwt,
    verify_volc,
    volc_time,
)
from proxy.store import OwnerRecord, StoreDown, TokenRecord, principal
from proxy.store.cache import ReadCache
from proxy.telemetry.exchange import Head

# Clocks of clients differ from ours. Volcengine's own window is not documented; 15 minutes is
# what its kin (AWS Signature V4) allows.
JWT_SKEW_S = 60
VOLC_WINDOW_S = 15 * 60
UNSIGNED_BODY_BYTES = 1024 * 1024
# A signature dated as late as the window allows can come again for twice its width.
SIGNATURE_LIFE_S = 2 * VOLC_WINDOW_S

# In `Authorization`, before the key: fal says Key, Replicate Token; a key alone has none.
SCHEMES = ("bearer", "key", "token")
# Headers whose value is the key: ComfyUI and Runway-like APIs; AzureOpenAI; google-genai; BFL.
KEY_HEADERS = (istr("X-API-Key"), istr("api-key"), istr("x-goog-api-key"), istr("x-key"))
_AUTHORIZATION = istr("Authorization")
_LOOKED_AT = ", ".join(KEY_HEADERS)

ReadBody = Callable[[int], Awaitable[bytes]]


class Authenticator:
    """`secrets`: the first signs, all verify. `clock` gives seconds since the epoch.

    It says who somebody is; what a token that has expired may still do is for `scopes`."""

    def __init__(
        self,
        records: ReadCache[TokenRecord],
        owners: ReadCache[OwnerRecord],
        secrets: Sequence[bytes],
        clock: Callable[[], float],
        memos: RequestMemos,
    ) -> None:
        self._records = records
        self._owners = owners
        self._secrets = tuple(secrets)
        self._clock = clock
        self._memos = memos

    async def authenticate(
        self, head: Head, signed: Collection[AuthScheme], read_body: ReadBody
    ) -> Admission:
        """`signed` are the dialect's schemes beside the key itself.

        Raises `Unauthenticated` with the fault; `StoreDown` when nobody can tell."""
        values = _shown(head.headers)
        # The same key comes with every poll: what was found of it holds while its records do.
        known = self._memos.admissions.get(values[0]) if len(values) == 1 else None
        if known is not None:
            record, owner, admission = known
            if self._records.peek(record.id) is record and self._owners.peek(record.owner) is owner:
                return admission
            del self._memos.admissions[values[0]]
        if not values:
            raise Unauthenticated(
                "No API key was sent. Send it as 'Authorization: Bearer rw_…', or as the value of "
                f"one of the headers {_LOOKED_AT}.",
                AuthFault.MISSING,
            )
        if len(values) > 1:
            raise Unauthenticated(
                "More than one API key was sent. Send one, in Authorization or in one of the "
                f"headers {_LOOKED_AT}.",
                AuthFault.MALFORMED,
            )
        value = values[0].strip()
        scheme, _, rest = value.partition(" ")
        if scheme.lower() in SCHEMES:
            return await self._bearer(values[0], rest.strip(), signed)
        if AuthScheme.VOLC_HMAC in signed and scheme == "HMAC-SHA256":
            return await self._volcengine(value, head, read_body)
        if not rest:  # no scheme: the key alone, or what is none
            return await self._bearer(values[0], value, signed)
        accepted = "'Bearer rw_…'"
        if AuthScheme.VOLC_HMAC in signed:
            accepted += " or 'HMAC-SHA256 Credential=…'"
        raise Unauthenticated(
            f"The Authorization header is not of a form known here; send {accepted}, or the key "
            f"in one of the headers {_LOOKED_AT}.",
            AuthFault.MALFORMED,
        )

    async def _bearer(self, value: str, text: str, signed: Collection[AuthScheme]) -> Admission:
        """`text` is the key or JWT of a header's `value`."""
        parsed = parse_token(text)
        if parsed is not None:
            token_id, secret = parsed
            record = await self._records.get(token_id)
            if record is None:
                raise _unknown()
            with _naming(record):
                if not self._secret_fits(secret, record):
                    raise _unknown()
                owner, found = await self._admitted(record)
            admission = Admission(found)
            # Only as everybody writes it: of other spellings one key alone could fill our memory.
            if value in (f"Bearer {text}", text):
                self._remember(value, secret, record, owner, admission)
            return admission
        if AuthScheme.JWT in signed and text.count(".") == 2:
            return Admission(await self._jwt(text))
        if not text:
            raise Unauthenticated("The API key is empty.", AuthFault.MISSING)
        raise Unauthenticated(
            "The API key is malformed: a key is 'rw_', 16 characters, '_', 43 characters. "
            "Was it cut when it was copied?",
            AuthFault.MALFORMED,
        )

    def _remember(
        self,
        value: str,
        secret: str,
        record: TokenRecord,
        owner: OwnerRecord | None,
        found: Admission,
    ) -> None:
        """`owner` is the one `found` was made of."""
        if not hash_matches(secret, record.secret_sha256):
            return  # a secret on its way out is looked at anew each time
        if owner is None or self._owners.peek(record.owner) is not owner:
            return  # nobody would tell us of its changes
        self._memos.admissions[value] = KnownKey(record, owner, found)

    def _secret_fits(self, secret: str, record: TokenRecord) -> bool:
        if hash_matches(secret, record.secret_sha256):
            return True
        if record.previous_sha256 and self._clock() * 1000 < (record.previous_until_ms or 0):
            return hash_matches(secret, record.previous_sha256)
        return False

    async def _jwt(self, text: str) -> Principal:
        issuer = jwt_issuer(text)
        if issuer is None:
            raise Unauthenticated("The JWT cannot be read, or names no 'iss'.", AuthFault.MALFORMED)
        record = await self._records.get(issuer)
        if record is None:
            raise Unauthenticated("The JWT's 'iss' is not a known access key.", AuthFault.UNKNOWN)
        now_s = int(self._clock())
        faults = [
            verify_jwt(text, secret_key(s, record.id, record.generation), now_s, JWT_SKEW_S)
            for s in self._secrets
        ]
        refused = [fault for fault in faults if fault is not None]
        if len(refused) == len(faults):
            fault = min(refused, key=lambda f: f is AuthFault.SIGNATURE)
            with _naming(record):
                raise Unauthenticated(_JWT_MESSAGES.get(fault, "The JWT is refused."), fault)
        with _naming(record):
            return (await self._admitted(record))[1]

    async def _volcengine(self, text: str, head: Head, read_body: ReadBody) -> Admission:
        parsed = parse_volc(text)
        if parsed is None:
            raise Unauthenticated(
                "The HMAC-SHA256 Authorization header cannot be read; it needs Credential, "
                "SignedHeaders and Signature.",
                AuthFault.MALFORMED,
            )
        record = await self._records.get(parsed.access_key)
        if record is None:
            raise Unauthenticated("The access key is not known.", AuthFault.UNKNOWN)
        with _naming(record):
            return await self._signed(parsed, record, head, read_body)

    async def _signed(
        self, parsed: VolcCredential, record: TokenRecord, head: Head, read_body: ReadBody
    ) -> Admission:
        signed_s = volc_time(head.headers, parsed)
        if signed_s is None or abs(signed_s - self._clock()) > VOLC_WINDOW_S:
            raise Unauthenticated(
                "X-Date is missing, unreadable, or more than 15 minutes from our clock.",
                AuthFault.TIMESTAMP,
            )
        claimed = head.headers.get("X-Content-Sha256")
        body: bytes | None = None
        if claimed is None:
            body = await read_body(UNSIGNED_BODY_BYTES)
            digest = hashlib.sha256(body).hexdigest()
        else:
            digest = claimed.lower()
        if not any(self._volc_fits(parsed, head, digest, s, record) for s in self._secrets):
            raise Unauthenticated(
                "The signature does not match. Was the request signed with this key pair's secret, "
                f"for host '{_host_of(head)}' and path '{head.prefix}{head.written}'?",
                AuthFault.SIGNATURE,
            )
        return Admission(
            (await self._admitted(record))[1],
            body_sha256=None if body is not None else digest,
            body=body,
            signature=parsed.signature,
        )

    @staticmethod
    def _volc_fits(
        parsed: VolcCredential, head: Head, digest: str, secret: bytes, record: TokenRecord
    ) -> bool:
        return verify_volc(
            parsed,
            method=head.method,
            path=head.prefix + head.written,
            query=head.query,
            headers=head.headers,
            host=_host_of(head),
            body_sha256=digest,
            secret_key=secret_key(secret, record.id, record.generation),
        )

    async def _admitted(self, record: TokenRecord) -> tuple[OwnerRecord | None, Principal]:
        """Whom the token stands for, and the owner that was made of."""
        if record.revoked_ms is not None:
            raise Unauthenticated("This API key was revoked.", AuthFault.REVOKED)
        if record.disabled_ms is not None:
            raise Unauthenticated("This API key is disabled.", AuthFault.REVOKED)
        owner = await self._owners.get(record.owner)
        made = self._memos.principals.get(
            record.id, (record, owner), lambda: principal(record, owner)
        )
        return owner, made

    async def stands(self, principal: Principal) -> bool:
        """Whether a token that was let in before would be again: it was neither revoked nor
        disabled since. True while the store is down and nobody can tell."""
        try:
            record = await self._records.get(principal.token_id)
        except StoreDown:
            return True
        return record is not None and record.revoked_ms is None and record.disabled_ms is None

    # ------------------------------------------------------------ signed addresses

    def callback_path(self, task_id: str) -> str:
        """Where a provider may tell us that this task has moved."""
        return f"/callbacks/{task_id}/{sign_callback(self._secrets[0], task_id)}"

    def is_callback(self, task_id: str, signature: str) -> bool:
        return any(callback_matches(s, task_id, signature) for s in self._secrets)

    def is_probe(self, exp_s: int, signature: str) -> bool:
        """Whether a command of this gateway's operator has signed it, a moment ago."""
        return exp_s > self._clock() and any(
            probe_matches(s, exp_s, signature) for s in self._secrets
        )

    async def check_link(
        self, sig: str, task_id: str, token_id: str, variant: str, index: int, exp_s: int
    ) -> Principal:
        """Who handed the link out. Raises `Forbidden` unless it is ours, in time, and its token
        still stands; that may have expired, for what it has made is paid for."""
        if not any(link_matches(s, task_id, variant, index, exp_s, sig) for s in self._secrets):
            raise bad_link()
        if exp_s <= self._clock():
            raise Forbidden(
                "This link has expired; ask for the task again to get a fresh one.",
                code="link_expired",
            )
        record = await self._records.get(token_id)
        if record is None or record.revoked_ms is not None or record.disabled_ms is not None:
            raise bad_link()
        return principal(record, await self._owners.get(record.owner))


def _shown(headers: CIMultiDictProxy[str]) -> Sequence[str]:
    """The values that show who asks, each key once. An empty header shows nothing: AzureOpenAI
    sends one beside its token."""
    values: Sequence[str] = headers.getall(_AUTHORIZATION, ())
    if len(values) > 1 or not any(name in headers for name in KEY_HEADERS):
        return values
    keys = [
        key for name in KEY_HEADERS for value in headers.getall(name, ()) if (key := value.strip())
    ]
    if values and values[0].strip():
        return [values[0], *(key for key in dict.fromkeys(keys) if _bare(key) != _bare(values[0]))]
    return list(dict.fromkeys(keys)) or values


def _bare(value: str) -> str:
    """The key of an Authorization header, without its scheme."""
    scheme, _, rest = value.strip().partition(" ")
    return rest.strip() if scheme.lower() in SCHEMES else value.strip()


def _host_of(head: Head) -> str:
    """The host in the URL the client used."""
    return head.host if head.host is not None else head.headers.get("Host", "")


def bad_link() -> Forbidden:
    """One answer for a forged link, a stretched one and one for nothing."""
    return Forbidden("This link is not valid.", code="link_invalid")


@contextmanager
def _naming(record: TokenRecord) -> Iterator[None]:
    """A refusal says whose key it was: to our log, not to who was refused."""
    try:
        yield
    except Unauthenticated as refusal:
        refusal.token_id = record.id
        raise


def _unknown() -> Unauthenticated:
    return Unauthenticated("This API key is not known.", AuthFault.UNKNOWN)


_JWT_MESSAGES = {
    AuthFault.EXPIRED: "The JWT has expired ('exp').",
    AuthFault.NOT_YET: "The JWT is not valid yet ('nbf').",
    AuthFault.SIGNATURE: "The JWT's signature does not match its access key.",
    AuthFault.MALFORMED: "The JWT is malformed; it must be HS256 with 'iss', 'exp' and 'nbf'.",
}
