"""What the handlers of the admin port work with, and the rows its routes and its OpenAPI document
are both made of.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog
from pydantic import BaseModel

from proxy.admin.data_port import DataPort
from proxy.admin.schemas import Item, JsonBody, NoBody, NoQuery, Query
from proxy.admin.workers import Workers
from proxy.config import Config
from proxy.store import Store
from proxy.upstream import Upstreams

_Q = TypeVar("_Q", bound=Query)
_B = TypeVar("_B", bound=JsonBody)


@dataclass(frozen=True, slots=True)
class AdminContext:
    """`clock` gives seconds since the epoch, `entropy(n)` n random bytes; `secret` is the
    gateway's first signing secret. `upstreams` asks providers, `data_port` our own other port."""

    workers: Workers
    config: Callable[[], Config]
    store: Store
    clock: Callable[[], float]
    entropy: Callable[[int], bytes]
    secret: bytes
    public_url: Callable[[], str]
    data_port: DataPort
    upstreams: Upstreams
    log: structlog.stdlib.BoundLogger

    def now_ms(self) -> int:
        return int(self.clock() * 1000)


@dataclass(frozen=True, slots=True)
class AdminRequest(Generic[_Q, _B]):
    """A request, read and valid. `params` are those of the path, decoded."""

    params: Mapping[str, str]
    query: _Q
    body: _B


@dataclass(frozen=True, slots=True)
class Action(Generic[_Q, _B]):
    """One endpoint under /api/. `refusals` are the statuses it has beside those of all, and
    beside the 404 of whatever has a name in its path."""

    method: str
    path: str
    summary: str
    handle: Callable[[AdminContext, AdminRequest[_Q, _B]], Awaitable[Item]]
    answer: type[BaseModel]
    query: type[_Q] = NoQuery  # type: ignore[assignment]  # the default of a generic field
    body: type[_B] = NoBody  # type: ignore[assignment]  # likewise
    status: int = 200
    refusals: tuple[int, ...] = ()
