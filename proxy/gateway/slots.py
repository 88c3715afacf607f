"""How many streams one token and one client address may have open in this worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from proxy.errors import RateLimited

RETRY_AFTER_S = 2  # streams end all the time: soon enough to be worth asking again


class Slots:
    """Names are `kind:who`; the kind is what the refusal tells the client."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    @contextmanager
    def taken(self, limits: Mapping[str, int]) -> Iterator[None]:
        """Hold one slot under each name; raises RateLimited when one is at its limit."""
        for name, limit in limits.items():
            if self._open[name] >= limit:
                kind = name.partition(":")[0]
                raise RateLimited(
                    f"This {kind} has {limit} streams open already; finish one first.",
                    code="too_many_streams",
                    retry_after_s=RETRY_AFTER_S,
                    limit="streams",
                )
        for name in limits:
            self._open[name] += 1
        try:
            yield
        finally:
            for name in limits:
                self._open[name] -= 1
                if not self._open[name]:
                    del self._open[name]

    @property
    def total(self) -> int:
        """Streams open now: each holds a slot of its token."""
        return sum(n for name, n in self._open.items() if name.startswith("token:"))
