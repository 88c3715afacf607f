"""Leases on what is due, over all shards: of tasks, and of webhooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, TypeAlias

from proxy.errors import ProxyError
from proxy.store import keys
from proxy.store.pipeline import Answer, Pipeline, Script, texts

_MOST_PULLED: Final = 10_000  # due times of one shard corrected in one step


LostShard: TypeAlias = "Callable[[str, ProxyError], None]"


def ignore_shard(_shard: str, _fault: ProxyError) -> None:
    """Say nothing of a shard that cannot be read."""


async def claim(
    batch: Pipeline,
    script: Script,
    key: Callable[[str], str],
    now_ms: int,
    lease_ms: int,
    limit: int,
    lost: LostShard,
) -> dict[str, int]:
    """Lease what is due in the zset `key(shard)` of every shard; see `Tasks.claim_due`."""
    counts = await asyncio.gather(
        *(batch.call("ZCOUNT", key(shard), "-inf", now_ms) for shard in keys.ALL_SHARDS),
        return_exceptions=True,
    )
    waiting = _sound(dict(zip(keys.ALL_SHARDS, counts, strict=True)), lost)
    sizes = {shard: count for shard, count in waiting.items() if isinstance(count, int)}
    shares = share_out(sizes, limit)
    claimed = await asyncio.gather(
        *(
            batch.run(script, [key(shard)], [now_ms, now_ms + lease_ms, share])
            for shard, share in shares.items()
        ),
        return_exceptions=True,
    )
    found: dict[str, int] = {}
    for answer in _sound(dict(zip(shares, claimed, strict=True)), lost).values():
        pairs = iter(texts(answer))
        found.update((name, int(since)) for name, since in zip(pairs, pairs, strict=True))
    return found


def _sound(answers: dict[str, Answer | BaseException], lost: LostShard) -> dict[str, Answer]:
    """The answers of the shards that gave one. Raises when none did."""
    sound: dict[str, Answer] = {}
    faults: dict[str, ProxyError] = {}
    for shard, answer in answers.items():
        if isinstance(answer, ProxyError):
            faults[shard] = answer
        elif isinstance(answer, BaseException):
            raise answer
        else:
            sound[shard] = answer
    if faults and not sound:
        raise next(iter(faults.values()))
    for shard, fault in faults.items():
        lost(shard, fault)
    return sound


async def pull_back(
    batch: Pipeline, script: Script, key: Callable[[str], str], now_ms: int, longest_ms: int
) -> int:
    """The same for the zset `key(shard)` of every shard that can be read."""
    latest_ms = now_ms + longest_ms
    counts = await asyncio.gather(
        *(batch.call("ZCOUNT", key(shard), f"({latest_ms}", "+inf") for shard in keys.ALL_SHARDS),
        return_exceptions=True,  # `claim` tells of a shard that is lost
    )
    pulled = await asyncio.gather(
        *(
            batch.run(script, [key(shard)], [now_ms, latest_ms, _MOST_PULLED])
            for shard, count in zip(keys.ALL_SHARDS, counts, strict=True)
            if isinstance(count, int) and count
        )
    )
    return sum(count for count in pulled if isinstance(count, int))


def share_out(waiting: dict[str, int], limit: int) -> dict[str, int]:
    """Split `limit` over shards, nobody more than it has waiting, the rest as evenly as can be.
    Shards that get nothing are left out."""
    shares: dict[str, int] = {}
    asking = sorted((count, shard) for shard, count in waiting.items() if count > 0)
    for done, (count, shard) in enumerate(asking):
        left = len(asking) - done
        share = min(count, -(-limit // left))  # rounded up: a limit below the shards is used too
        if share:
            shares[shard] = share
        limit -= share
    return shares
