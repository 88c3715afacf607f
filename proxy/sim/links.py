"""Signed, expiring result links.

The signature always holds `%2F` and covers the raw target, so a client that re-encodes a
link it was given breaks it here, as it does at the real vendors' file hosts.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable
from urllib.parse import quote

_TARGET = re.compile(r"/files/([A-Za-z0-9_-]+)\.mp4\?Expires=(\d+)&Signature=(v1%2F[^&]+)")


class Links:
    def __init__(self, key: bytes, ttl_s: int, clock: Callable[[], float]) -> None:
        self._key = key
        self._ttl_s = ttl_s
        self._clock = clock
        self._generation = 0
        #: scheme://host:port of the file host, known once it listens.
        self.base = ""

    def make(self, file_id: str) -> str:
        expires = int(self._clock()) + self._ttl_s
        signature = self._signature(file_id, expires)
        return f"{self.base}/files/{file_id}.mp4?Expires={expires}&Signature={signature}"

    def check(self, target: str) -> str | None:
        """The file a raw request target gives access to now, or None."""
        match = _TARGET.fullmatch(target)
        if match is None:
            return None
        file_id, expires, signature = match.group(1), int(match.group(2)), match.group(3)
        if expires <= self._clock() or signature != self._signature(file_id, expires):
            return None
        return file_id

    def expire_all(self) -> None:
        """Every link given so far is refused from now on; new ones are good."""
        self._generation += 1

    def _signature(self, file_id: str, expires: int) -> str:
        message = f"{file_id}|{expires}|{self._generation}".encode()
        digest = hmac.new(self._key, message, hashlib.sha256).digest()
        return "v1%2F" + quote(base64.b64encode(digest).decode(), safe="")
