"""What the Redis in use is and can promise, read from its own settings: for `reelway doctor` and
the admin port."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Final, Literal

from proxy.store.pipeline import Answer, Durability, Pipeline

MIN_VERSION: Final = (6, 2)
FULL_MARK: Final = 0.8  # of maxmemory: above it new tasks are refused
PINGS: Final = 9  # few enough to be no load, enough that one slow turn does not count
SLOW_MS: Final = 10.0
_LEVELS: Final = ("ok", "warning", "error")


@dataclass(frozen=True, slots=True)
class Finding:
    """`ok`, or a `warning` or `error` with what to do."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Of all servers together. `max_bytes` None: no limit on one of them at least; `persistence`
    "aof" when all log every change, else "snapshots", at best."""

    server: str
    version: str
    used_bytes: int
    max_bytes: int | None
    keys: int
    persistence: Literal["aof", "snapshots"]


async def facts(batch: Pipeline) -> ServerInfo:
    """Raises StoreDown when the store does not answer."""
    sizes = await batch.everywhere("DBSIZE")
    infos = [_flat(info) for info in await batch.everywhere("INFO")]
    limits = [int(info.get("maxmemory", 0)) for info in infos]
    first = infos[0]
    logged = all(info.get("aof_enabled") == "1" for info in infos)
    name = first.get("server_name", "redis")
    return ServerInfo(
        server=name,
        version=first.get(f"{name}_version", first.get("redis_version", "")),
        used_bytes=sum(int(info.get("used_memory", 0)) for info in infos),
        max_bytes=sum(limits) if all(limits) else None,
        keys=sum(size for size in sizes if isinstance(size, int)),
        persistence="aof" if logged else "snapshots",
    )


async def findings(batch: Pipeline, durability: Durability) -> list[Finding]:
    """One of each subject: of several servers the one that promises least. Raises StoreDown when
    the store does not answer."""
    infos = [_flat(info) for info in await batch.everywhere("INFO")]
    by_subject = (
        [_version(info) for info in infos],
        [_persistence(info) for info in infos],
        [_eviction(info) for info in infos],
        [_memory(info) for info in infos],
        [_durability(info, durability) for info in infos],
    )
    return [max(found, key=lambda each: _LEVELS.index(each.level)) for found in by_subject]


async def latency(batch: Pipeline, clock: Callable[[], float] = time.perf_counter) -> Finding:
    """How long a round trip takes: the median of some, of several servers always the slowest.
    `clock` gives seconds. Raises StoreDown when the store does not answer."""
    await batch.everywhere("PING")  # opens the connection, which counts once and not each time
    took_ms: list[float] = []
    for _ in range(PINGS):
        began_s = clock()
        await batch.everywhere("PING")
        took_ms.append((clock() - began_s) * 1000)
    middle_ms = median(took_ms)
    if middle_ms > SLOW_MS:
        return Finding(
            "warning",
            f"redis: a round trip takes {middle_ms:.1f} ms, above {SLOW_MS:g} ms: every request "
            "waits for one and every submit for several; put it nearer, or look at its load",
        )
    return Finding("ok", f"redis: a round trip takes {middle_ms:.1f} ms")


def _version(info: dict[str, str]) -> Finding:
    return Finding("ok", f"redis: {info.get('server_name', 'redis')} {info.get('redis_version')}")


def _persistence(info: dict[str, str]) -> Finding:
    if info.get("aof_enabled") != "1":
        return Finding(
            "error",
            "redis: appendonly is no: a restart forgets tasks that were paid for; "
            "set appendonly yes",
        )
    if info.get("aof_last_write_status", "ok") != "ok":
        return Finding("error", "redis: the append-only file cannot be written; look at its disk")
    return Finding("ok", "redis: changes are logged (appendonly yes)")


def _eviction(info: dict[str, str]) -> Finding:
    policy = info.get("maxmemory_policy", "")
    if policy not in ("noeviction", ""):
        return Finding(
            "error",
            f"redis: maxmemory-policy is {policy}: tasks may be thrown away; set noeviction",
        )
    return Finding("ok", "redis: nothing is evicted (maxmemory-policy noeviction)")


def _memory(info: dict[str, str]) -> Finding:
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if not most:
        return Finding("warning", "redis: maxmemory is 0: it may grow until the system ends it")
    share = used / most
    if share > FULL_MARK:
        return Finding("error", f"redis: {share:.0%} of maxmemory is used: submits are refused")
    return Finding("ok", f"redis: {share:.0%} of maxmemory is used")


def _durability(info: dict[str, str], durability: Durability) -> Finding:
    replicas = int(info.get("connected_slaves", 0))
    if durability == "replica" and not replicas:
        return Finding(
            "error",
            "redis: durability is replica, and no replica is connected: every submit is refused",
        )
    if durability == "fsync":
        version = tuple(int(part) for part in info.get("redis_version", "0").split(".")[:2])
        if version < (7, 2):
            return Finding(
                "error", "redis: durability is fsync, which needs WAITAOF: Redis 7.2 or Valkey"
            )
        return Finding("ok", "redis: a submit waits until its task is on disk")
    if durability == "local":
        return Finding(
            "warning",
            "redis: durability is local: a power cut or a failover may forget the last second "
            "of submits, and may send once more what left a queue in it; see [redis] durability",
        )
    return Finding("ok", f"redis: a submit waits for one of {replicas} replicas")


def _flat(answer: Answer) -> dict[str, str]:
    assert isinstance(answer, dict)
    return {str(name): str(value) for name, value in answer.items()}


def parse_version(text: str) -> tuple[int, ...]:
    """(7, 0, 15) of "7.0.15"; empty when it is no version."""
    parts = text.strip().split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()
