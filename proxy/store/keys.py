"""Names of everything in Redis. Pure; nobody else spells a key.

Rule: every key one script touches carries the same tag `{s}`, so that Redis Cluster keeps
them in one slot. `s` is two hex digits computed from the owner, and a task's id repeats it:
an id alone finds its keys. Because the tag is the first thing in braces, braces in an
owner's or a client's own text cannot move a key to another slot.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

SHARDS: Final = 16  # fixed for the life of a store: ids and keys contain their shard
SCHEMA: Final = 1

META: Final = "rw:meta"
META_BORN: Final = "born"  # field: a random name of this store, given when it was first used
TOKENS: Final = "rw:toks"
OWNERS: Final = "rw:owners"
CHANNEL: Final = "rw:chan"

ALL_SHARDS: Final = tuple(f"{n:02x}" for n in range(SHARDS))

_TASK_ID = re.compile(r"video_(0[0-9a-f])[0-9a-f]{46}")
_RANDOM = re.compile(r"[0-9a-f]{46}")
_MAX_ALIAS_BYTES = 128


def shard_of(owner: str) -> str:
    """Two hex digits, "00" to "0f": SHA-256 of the owner, modulo the number of shards."""
    digest = hashlib.sha256(owner.encode()).digest()
    return ALL_SHARDS[int.from_bytes(digest, "big") % SHARDS]


def new_task_id(owner: str, random_hex46: str) -> str:
    """A public id: `video_`, the owner's shard, 46 random lower-case hex digits (184 bits)."""
    if not _RANDOM.fullmatch(random_hex46):
        raise ValueError("a task id takes 46 lower-case hex digits")
    return f"video_{shard_of(owner)}{random_hex46}"


def shard_of_task(task_id: str) -> str | None:
    """The shard a public id names; None for anything that is no id of ours."""
    match = _TASK_ID.fullmatch(task_id)
    return match.group(1) if match else None


def require_shard(task_id: str) -> str:
    """The shard of an id that is one of ours; ValueError for any other text."""
    shard = shard_of_task(task_id)
    if shard is None:
        raise ValueError(f"not a task id: {task_id[:64]!r}")
    return shard


def _tagged(task_id: str, room: str) -> str:
    shard = shard_of_task(task_id)
    if shard is None:
        raise ValueError(f"not a task id: {task_id[:64]!r}")
    return f"rw:{{{shard}}}:{room}:{task_id}"


def task(task_id: str) -> str:
    """hash: v, stage, attempt, kind, tok, gone, doc."""
    return _tagged(task_id, "task")


def line(task_id: str) -> str:
    """list: the task's time line, oldest first."""
    return _tagged(task_id, "line")


def owner_index(owner: str) -> str:
    """zset: created_ms → task id."""
    return f"rw:{{{shard_of(owner)}}}:own:{owner}"


def token_index(token_id: str, owner: str) -> str:
    """zset: created_ms → task id, of one token."""
    return f"rw:{{{shard_of(owner)}}}:mine:{token_id}"


def token_indexed(token_id: str, owner: str) -> str:
    """There when the token's index has its tasks from before there were such indexes too."""
    return f"rw:{{{shard_of(owner)}}}:mined:{token_id}"


def made(shard: str) -> str:
    """zset: created_ms → task id, of all owners."""
    return f"rw:{{{shard}}}:made"


def usage(shard: str, day: str) -> str:
    """hash: what was made of whom by whom on a UTC day (`20260131`), see `usage`."""
    return f"rw:{{{shard}}}:use:{day}"


def alias(token_id: str, owner: str, external_id: str) -> str:
    """string: the task a client's own id stands for, per token. A long id is hashed: clients
    choose it, and a key may not grow with what they send."""
    name = external_id
    if len(external_id.encode()) > _MAX_ALIAS_BYTES:
        name = "sha256:" + hashlib.sha256(external_id.encode()).hexdigest()
    return f"rw:{{{shard_of(owner)}}}:ext:{token_id}:{name}"


def idempotency(token_id: str, owner: str, key_sha256: str) -> str:
    """string: `id fingerprint` of the submit made with this Idempotency-Key, per token."""
    return f"rw:{{{shard_of(owner)}}}:idem:{token_id}:{key_sha256}"


def signature(token_id: str, owner: str, signed: str) -> str:
    """string: the idempotency key that the submit with this signature first came with."""
    return f"rw:{{{shard_of(owner)}}}:sig:{token_id}:{signed}"


def recent(token_id: str, owner: str, fingerprint: str) -> str:
    """list: `id created_ms served` of the latest submits of the same request, per token."""
    return f"rw:{{{shard_of(owner)}}}:dup:{token_id}:{fingerprint}"


def hooks(shard: str) -> str:
    """zset: `task id:version` of a webhook to be sent → ms when."""
    return f"rw:{{{shard}}}:hook"


def refused(shard: str) -> str:
    """list: the latest refused submits, the latest first."""
    return f"rw:{{{shard}}}:refused"


def refused_on(shard: str, day: str) -> str:
    """hash: reason → how many submits were refused on a UTC day (`20260131`)."""
    return f"rw:{{{shard}}}:refused:{day}"


def told(shard: str) -> str:
    """zset: webhook delivered or dead → ms when it is forgotten."""
    return f"rw:{{{shard}}}:hooked"


def ended(shard: str) -> str:
    """zset: `task id owner` of a finished task → ms when it expires."""
    return f"rw:{{{shard}}}:end"


def durations(upstream: str, model: str) -> str:
    """list: how long the latest renders of a model took, ms."""
    return f"rw:sched:{upstream}:{model}"


def hook(name: str) -> str:
    """hash: one webhook, v and doc. Its name is `task id:version`."""
    return _tagged(name.partition(":")[0], "hook") + name[name.index(":") :]


def in_flight(owner: str, who: str) -> str:
    """zset: open task id → ms when it is taken for lost. `who`: see `holders`."""
    return f"rw:{{{shard_of(owner)}}}:fly:{who}"


def slots(credential: str) -> str:
    """zset: open task id → ms when it is taken for lost. `credential`: `upstream/name`."""
    return f"rw:{{c:{credential}}}:fly"


def health(name: str) -> str:
    """string: how a credential (`upstream/name`) or an upstream (its name) stands."""
    return f"rw:{{c:{name}}}:state"


def active(name: str) -> str:
    """zset: client key that submits to an upstream or a credential → ms when it did last."""
    return f"rw:{{c:{name}}}:active"


@dataclass(frozen=True, slots=True)
class QueueKeys:
    """The keys of an upstream's queue, all in one slot."""

    upstream: str

    @property
    def tasks(self) -> str:
        """hash: waiting task id → its token."""
        return self._room("all")

    @property
    def ring(self) -> str:
        """zset: token with waiting tasks → the number of its turn, the lowest is next."""
        return self._room("ring")

    @property
    def leases(self) -> str:
        """zset: task id somebody is about to send → ms when that lapses."""
        return self._room("lease")

    def of(self, token_id: str) -> str:
        """zset: waiting task id of this token → created_ms."""
        return self._room(f"of:{token_id}")

    def _room(self, name: str) -> str:
        return f"rw:{{q:{self.upstream}}}:{name}"


def blob(task_id: str, number: int) -> str:
    """string: a piece of the request a task waits with."""
    return f"{_tagged(task_id, 'blob')}:{number}"


def rate(owner: str, who: str, kind: str) -> str:
    """string: µs at which the bucket of this rate would be full again."""
    return f"rw:{{{shard_of(owner)}}}:rate:{who}:{kind}"


def balance(owner: str, who: str, period: str = "") -> str:
    """hash: micro-units held and spent; of a UTC day (`20260131`), a month (`202601`), or all."""
    return f"rw:{{{shard_of(owner)}}}:bal:{who}{':' + period if period else ''}"


def ledger(owner: str, month: str) -> str:
    """stream: every hold, settlement, refund and loss of an owner in a UTC month (`202601`)."""
    return f"rw:{{{shard_of(owner)}}}:led:{owner}:{month}"


def day(ms: int) -> str:
    """The UTC day of a moment: `20260131`."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y%m%d")


def month(ms: int) -> str:
    """The UTC month of a moment: `202601`."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y%m")


def ledgers(shard: str) -> str:
    """set: `owner:month` of every ledger of the shard."""
    return f"rw:{{{shard}}}:leds"


def streams(who: str) -> str:
    """zset: `worker:n` of a download that is open → ms when it is taken for dead."""
    return f"rw:{{st:{who}}}"


def owner(name: str) -> str:
    """hash: v, doc: what an owner may have."""
    return f"rw:owner:{name}"


def holders(token_id: str, owner: str, model: str) -> tuple[str, str, str]:
    """Whose limits a task counts against: its token, its owner, its owner's use of the model."""
    return f"t:{token_id}", f"o:{owner}", f"m:{owner}:{model}"


def due(shard: str) -> str:
    """zset: open task id → ms when it is next looked at (its due time, or a lease's end)."""
    return f"rw:{{{shard}}}:due"


def token(token_id: str) -> str:
    """hash: one token."""
    return f"rw:tok:{token_id}"


def credential_name(upstream: str, credential: str) -> str:
    """How the store, the log and the metrics name a credential."""
    return f"{upstream}/{credential}"
