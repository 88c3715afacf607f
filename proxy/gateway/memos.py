"""What the gateway remembers between requests, so that a status poll is answered from memory.

Rule: every memo here could be dropped at any moment; only time would be lost.
"""

from __future__ import annotations

from typing import Final

from proxy.caches import BoundedDict, IdentityMemo
from proxy.model import Call, Reply

MEMOS_KEPT: Final = 4096


class RequestMemos:
    """The memos of one worker's requests."""

    def __init__(self) -> None:
        self.calls: BoundedDict[tuple[str, str], Call] = BoundedDict(MEMOS_KEPT)
        self.replies: IdentityMemo[Reply] = IdentityMemo(MEMOS_KEPT)
