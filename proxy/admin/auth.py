"""Who may use the admin port: whoever has the one token, and nobody by trying.

Rule: the comparison takes as long whatever was sent, and an address that sends wrong tokens is
soon told nothing more, right or wrong.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from aiohttp import web

from proxy.errors import ProxyError, RateLimited
from proxy.http.addresses import client_address

MOST_WRONG: Final = 60  # a minute and address
WINDOW_S: Final = 60.0
MOST_ADDRESSES: Final = 4096

_HOW_TO_SET: Final = (
    'This port has no token, so nobody may use it: set token = "…" under [admin] in the '
    "configuration and restart the gateway."
)


class NotAdmitted(ProxyError):
    """401: no admin token, or a wrong one."""

    status = 401
    code = "unauthorized"

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class AdminAuth:
    """`trusted` are the proxies whose X-Forwarded-For is believed; `clock` gives seconds."""

    def __init__(
        self,
        token: str | None,
        trusted: Callable[[], tuple[str, ...]],
        clock: Callable[[], float],
    ) -> None:
        self._expected = None if token is None else _digest(f"Bearer {token}")
        self._trusted = trusted
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()  # count, since when

    def check(self, request: web.BaseRequest) -> None:
        """Raises `NotAdmitted`, or `RateLimited` after too many wrong tokens."""
        if self._expected is None:
            raise NotAdmitted(_HOW_TO_SET)
        sent = request.headers.get("Authorization")
        if sent is None:
            raise NotAdmitted("Send the admin token as 'Authorization: Bearer …'.")
        who = client_address(
            request.remote or "", request.headers.get("X-Forwarded-For"), self._trusted()
        )
        count, since_s = self._wrong.get(who, (0, 0.0))
        left_s = since_s + WINDOW_S - self._clock()
        if left_s <= 0:
            count, since_s = 0, self._clock()
        elif count >= MOST_WRONG:
            raise RateLimited(
                f"Too many wrong admin tokens came from {who or 'this address'}; try again in "
                f"{max(1, round(left_s))} s.",
                retry_after_s=left_s,
            )
        if hmac.compare_digest(_digest(sent), self._expected):
            return
        self._wrong[who] = (count + 1, since_s)
        self._wrong.move_to_end(who)
        if len(self._wrong) > MOST_ADDRESSES:
            self._wrong.popitem(last=False)
        raise NotAdmitted(
            "This is not the admin token: send what [admin] token in the configuration is, as "
            "'Authorization: Bearer …'."
        )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
