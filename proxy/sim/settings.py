"""What a simulated world is made of: timing, sizes, and the accounts it knows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SERVICES = ("openai", "kling", "jimeng", "cdn", "control")


@dataclass(frozen=True, slots=True)
class Account:
    """One customer account, with its keys at every provider. Tasks belong to their account."""

    openai_api_key: str = "sk-sim"
    kling_access_key: str = "AKSIM0000000000000000000000000001"
    kling_secret_key: str = "SKSIM0000000000000000000000000001"  # noqa: S105  # public on purpose
    kling_api_key: str = "kling-sim"
    jimeng_access_key: str = "AKLTSIM00000000000000000000000001"
    jimeng_secret_key: str = "c2ltdWxhdGVkLXNlY3JldC1rZXktZm9yLWppbWVuZw=="  # noqa: S105


@dataclass(frozen=True, slots=True)
class Settings:
    """Port 0 takes a free one. `clock` gives unix seconds and decides expiry, not pacing."""

    host: str = "127.0.0.1"
    openai_port: int = 0
    kling_port: int = 0
    jimeng_port: int = 0
    cdn_port: int = 0
    control_port: int = 0
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
    #: The software that the OpenAI-style service is: openai, vllm-omni, sglang or litellm.
    openai_server: str = "openai"
    #: It keeps files at the file host, and its jobs name their address (SGLang with S3).
    openai_cloud: bool = False
    #: It gives its jobs whole numbers as ids.
    openai_numeric_ids: bool = False
    #: How long a result link (and an OpenAI-style result) lives; Jimeng says one hour.
    link_ttl_s: int = 3600
    #: How long Jimeng remembers a task; then its state is `not_found`.
    jimeng_record_ttl_s: int = 12 * 3600
    #: The first is the one `Simulator.credentials` tells of.
    accounts: tuple[Account, ...] = (Account(),)
    clock: Callable[[], float] = time.time

    def port(self, service: str) -> int:
        return {
            "openai": self.openai_port,
            "kling": self.kling_port,
            "jimeng": self.jimeng_port,
            "cdn": self.cdn_port,
            "control": self.control_port,
        }[service]
