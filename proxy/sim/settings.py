"""What a simulated world is made of: timing, sizes, and the accounts it knows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Account:
    """One customer account. Tasks belong to their account.

    `keys` are its keys by vendor and name; where it names none, the usual ones of the vendor.
    """

    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def keys_of(self, vendor: str, usual: Mapping[str, str]) -> Mapping[str, str]:
        return {**usual, **self.keys.get(vendor, {})}


@dataclass(frozen=True, slots=True)
class Settings:
    """`ports` are fixed ones by service, a free one for the others. `services` are the settings of
    single vendors, by name. `clock` gives unix seconds and decides expiry, not pacing."""

    host: str = "127.0.0.1"
    ports: Mapping[str, int] = field(default_factory=dict)
    services: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    #: 1: about 1 s queued, then 8-20 s rendering; 50: fifty times as fast.
    speed: float = 1.0
    #: True: a task moves only when `Simulator.step`, `finish` or `fail` says so.
    manual: bool = False
    #: Makes ids and durations repeatable.
    seed: int | None = None
    #: Where tasks are remembered from one life to the next; None forgets them.
    journal: Path | None = None
    #: Size of a result file; None is the real, playable clip.
    size_bytes: int | None = None
    #: Unfinished tasks one account may have at one provider; None is no limit.
    max_in_flight: int | None = None
    #: How long a result link (and an OpenAI-style result) lives; Jimeng says one hour.
    link_ttl_s: int = 3600
    #: The first is the one `Simulator.credentials` tells of.
    accounts: tuple[Account, ...] = (Account(),)
    clock: Callable[[], float] = time.time
