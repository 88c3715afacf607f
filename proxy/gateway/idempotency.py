"""What makes two submits the same request: what was asked, not how it was written.

SDKs make a new multipart boundary at every retry and name their parts in their own order, so
the fingerprint is of the parsed fields sorted by name, files by content, never of raw bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import orjson
from multidict import MultiMapping

from proxy.errors import Invalid
from proxy.model import Call

MAX_KEY_CHARS = 255
_LONG_CHARS = 64 * 1024


def fingerprint(call: Call, fields: Mapping[str, object]) -> str:
    """Hex digest of the operation, what its path names, and the body's fields."""
    identity = [call.dialect, call.operation.value, sorted(call.params.items()), _canonical(fields)]
    packed = orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(packed).hexdigest()


def idempotency_of(headers: MultiMapping[str]) -> str | None:
    """SHA-256 of the client's Idempotency-Key; None when there is none. Raises `Invalid`."""
    keys = headers.getall("Idempotency-Key", [])
    if not keys:
        return None
    if len(keys) > 1:
        raise Invalid("'Idempotency-Key' is given twice.", param="Idempotency-Key")
    return idempotency_hash(keys[0], "Idempotency-Key")


def idempotency_hash(key: str, param: str) -> str:
    """The same of a key that `param` holds."""
    if not key or len(key) > MAX_KEY_CHARS or not key.isprintable():
        raise Invalid(f"'{param}' must be 1 to {MAX_KEY_CHARS} printable characters.", param=param)
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def idempotency_by(signature: str) -> str:
    """The key of a signed submit without one of its client's own."""
    return hashlib.sha256(f"volc|{signature}".encode()).hexdigest()


def retries_of(headers: Mapping[str, str]) -> int:
    """How often the client says it has asked before (openai's SDKs count it)."""
    text = headers.get("x-stainless-retry-count", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else 0


def _canonical(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(name): _canonical(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(inner) for inner in value]
    if isinstance(value, str) and len(value) > _LONG_CHARS:
        # Hashed here, because hashlib lets other threads go on and orjson does not.
        return {"text": hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()}
    digest = getattr(value, "sha256", None)
    return value if digest is None else {"file": digest}
