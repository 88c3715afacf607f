"""How we connect to Redis, and what its errors mean here. The only file of policy about redis-py.

Rule: nothing waits longer than twice `timeout_s`. redis-py's own defaults retry for seconds
when Redis refuses and for a minute when it hangs, so retries are off and connecting has a
time-out. Answers have the deadline of `transport`: redis-py's own would call a server
silent when it was our loop that stood still. In a Cluster redis-py's is kept: a round trip
cancelled there loses its connection.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from redis import exceptions as rx
from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from proxy.errors import ProxyError
from proxy.store.errors import StoreDown, StoreFault, StoreFull, StoreUnusable

Client: TypeAlias = "Redis | RedisCluster"

# Everything redis-py raises. RedisClusterException is no RedisError; the built-in TimeoutError
# (asyncio's too) is an OSError.
FOREIGN: Final = (rx.RedisError, rx.RedisClusterException, OSError)

# Error replies that speak of the server, not of our command: it loads, fails over, protects
# itself, or its operator has changed who may use it. A script's error has them behind other words.
_OF_THE_SERVER: Final = re.compile(
    r"(?:^|[\s:-])(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|READONLY|"
    r"TRYAGAIN|UNKILLABLE|WRONGPASS)(?:\s|$)"
)
# redis-py takes the code off the text of these.
_SERVER_ERRORS: Final = (
    rx.ReadOnlyError,
    rx.ClusterError,
    rx.AskError,
    rx.TryAgainError,
    rx.NoPermissionError,
)
_FULL: Final = re.compile(r"(?:^|[\s:-])OOM\s")
_SCHEMES: Final = (
    "embedded, unix://, redis://, rediss://, redis+sentinel://host:port,…/service, "
    "redis+cluster://host:port,…"
)


@dataclass(frozen=True, slots=True)
class Connections:
    """`commands` serves the batcher. `listener` makes a client without a read time-out for one
    subscription, which closes it; in a Cluster each call may name another node."""

    commands: Client
    listener: Callable[[], Redis]
    sentinel: Sentinel | None = None

    async def aclose(self) -> None:
        await self.commands.aclose()
        if self.sentinel is not None:
            await self.sentinel.aclose()


def connect(url: str, timeout_s: float) -> Connections:
    """Clients for a `[redis] url`; nothing is sent yet. StoreUnusable when the URL is malformed.

    `redis+sentinel://[user:password@]host:port,host:port/service[/db]` asks the sentinels for
    the primary; `redis+cluster://[user:password@]host:port,…` starts from any node.
    """
    options = _options(timeout_s)
    patient = options | {"socket_timeout": None}
    scheme = url.partition("://")[0]
    try:
        if scheme == "redis+sentinel":
            hosts, login, path = _many(url, 26379)
            service, _, db = path.partition("/")
            if not service:
                raise ValueError("the sentinels' service name is missing after the hosts")
            where: dict[str, Any] = {**login, "db": int(db or 0)}
            sentinel = Sentinel(hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call]  # in redis-py
            return Connections(
                sentinel.master_for(service, **where, **patient),
                lambda: sentinel.master_for(service, **where, **patient),
                sentinel,
            )
        if scheme == "redis+cluster":
            hosts, login, _ = _many(url, 6379)
            nodes = [ClusterNode(host, port) for host, port in hosts]
            # One shard that is gone leaves the others' tasks alone.
            cluster = RedisCluster(
                startup_nodes=nodes, require_full_coverage=False, **login, **options
            )
            turns = itertools.count()
            return Connections(
                cluster, lambda: _any_node(cluster, hosts[0], login | patient, next(turns))
            )
        if scheme in ("unix", "redis", "rediss"):
            return Connections(
                Redis.from_url(url, **patient), lambda: Redis.from_url(url, **patient)
            )
        raise ValueError("unknown scheme")
    except ValueError as exc:
        raise StoreUnusable(f"[redis] url: {exc}; accepted: {_SCHEMES}") from exc


def _options(timeout_s: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,  # RESP3 costs a HELLO per connection and mixes pushes into replies
        "driver_info": None,  # no CLIENT SETINFO: two commands fewer per connection
    }


def _many(url: str, default_port: int) -> tuple[list[tuple[str, int]], dict[str, Any], str]:
    """Hosts, login and path of a URL that lists several hosts. urlsplit reads only one, and newer
    Pythons (and Debian's patched 3.11.2) refuse an IPv6 one that is not the first."""
    authority, _, path = url.partition("://")[2].partition("/")
    credentials, _, listed = authority.rpartition("@")
    hosts: list[tuple[str, int]] = []
    for item in listed.split(","):
        one = urlsplit(f"//{item}")
        if not one.hostname:
            raise ValueError(f"{item!r} is no host:port")
        hosts.append((one.hostname, one.port or default_port))
    user, _, password = credentials.partition(":")
    login = {"username": unquote(user), "password": unquote(password)}
    return hosts, {k: v for k, v in login.items() if v}, path.strip("/")


def _any_node(
    cluster: RedisCluster, first: tuple[str, int], options: dict[str, Any], turn: int
) -> Redis:
    """A client of one node: the Cluster carries plain pub/sub to all of them. The next turn is
    another node's: the one before may be dead."""
    primaries = cluster.get_primaries()
    one = primaries[turn % len(primaries)] if primaries else None
    host, port = (one.host, one.port) if one else first
    return Redis(host=host, port=int(port), **options)


def translate(exc: BaseException) -> ProxyError:
    """The house's error for one of `FOREIGN`, with `exc` as its cause."""
    fault = _translate(exc)
    fault.__cause__ = exc
    return fault


def _translate(exc: BaseException) -> ProxyError:
    reason = f"{type(exc).__name__}: {exc}"
    if isinstance(exc, rx.OutOfMemoryError):
        return StoreFull(reason)
    if isinstance(exc, rx.ResponseError):
        if isinstance(exc, _SERVER_ERRORS) or _OF_THE_SERVER.search(str(exc)):
            return StoreDown(reason)
        return StoreFull(reason) if _FULL.search(str(exc)) else StoreFault(reason)
    if isinstance(exc, rx.DataError):
        return StoreFault(reason)
    return StoreDown(reason)
