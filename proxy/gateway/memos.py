"""The memos from which a status poll is answered.

Rule: every memo could be dropped at any moment and only time would be lost; what would gain less
than a microsecond is no memo. Measured gain for each request that finds its entry (`timeit`,
Python 3.11, one shared core of a busy machine: the proportions count):

    calls       8.6 µs   matching the path again
    admissions  5.0 µs   parsing the key and hashing its secret, and two awaits
    principals  9.6 µs   merging token and owner; for signed requests, which no admission covers
    replies      26 µs   writing the JSON and its headers

The other memos on the way of a poll belong to earlier packages, and their classes keep them:

    AccessLog paths    77 µs   redacting the path
    AccessLog series  1.6 µs   finding the counters of this kind of request
    Links              30 µs   signing the link of a result
    Listener date     5.6 µs   writing the time
    is_host           1.9 µs   reading the Host header
"""

from __future__ import annotations

from typing import Final, NamedTuple

from proxy.caches import BoundedDict, IdentityMemo
from proxy.model import Call, Principal, Reply
from proxy.store import OwnerRecord, TokenRecord

PATHS_KEPT: Final = 4096
KEYS_KEPT: Final = 10_000


class Admission(NamedTuple):
    """A client that was let in.

    `body_sha256` is the hash a signature vouches for: the caller compares it with the body's at
    its end. `body` is set when it had to be read for the verdict. `signature` is good for one
    submit only: whoever sees the request can send it again.
    """

    principal: Principal
    body_sha256: str | None = None
    body: bytes | None = None
    signature: str | None = None


class KnownKey(NamedTuple):
    """An admission, good while the caches hold the records it was made of."""

    record: TokenRecord
    owner: OwnerRecord
    admission: Admission


class RequestMemos:
    """The memos of one worker's clients' port."""

    def __init__(self) -> None:
        self.calls: BoundedDict[tuple[str, str], Call] = BoundedDict(PATHS_KEPT)
        self.admissions: BoundedDict[str, KnownKey] = BoundedDict(KEYS_KEPT)
        self.principals: IdentityMemo[Principal] = IdentityMemo(KEYS_KEPT)
        self.replies: IdentityMemo[Reply] = IdentityMemo(PATHS_KEPT)
