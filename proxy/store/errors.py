"""How the store fails, in the house's own errors; no redis class leaves this package."""

from __future__ import annotations

from proxy.errors import Unavailable

RETRY_AFTER_S = 2


class StoreDown(Unavailable):
    """503: the store did not answer in time, or cannot serve now.

    A change that raised this may or may not have been written: read before repeating it.
    `reason` is for the operator's log, never for a client.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The gateway's store does not answer; try again shortly.",
            retry_after_s=RETRY_AFTER_S,
        )
        self.reason = reason


class StoreFull(Unavailable):
    """503: the store refuses writes because its memory limit is reached."""

    code = "store_full"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The gateway's store is full; running tasks go on, new ones are not taken.",
            retry_after_s=RETRY_AFTER_S,
            limit="store",
        )
        self.reason = reason


class StoreUnsafe(Unavailable):
    """503: the change was written, but not copied to where `[redis] durability` wants it in
    time: nothing that relies on it may happen."""

    code = "store_unsafe"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The gateway's store cannot make requests durable now; nothing was submitted.",
            retry_after_s=RETRY_AFTER_S,
        )
        self.reason = reason


class StoreFault(Unavailable):
    """503: the store refused a command, or holds a record that cannot be read.

    Another program wrote a key of ours, or the gateway has a bug. Other tasks are not concerned.
    """

    code = "store_fault"

    def __init__(self, reason: str) -> None:
        super().__init__(
            "The gateway's store holds something unexpected; tell its operator.",
            retry_after_s=RETRY_AFTER_S,
        )
        self.reason = reason


class StoreUnusable(Exception):
    """Raised at start only: this store cannot be used as it is. The message says what to do."""
