"""The seam between one simulated provider and the HTTP edge that serves it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from multidict import CIMultiDict, MultiMapping

from proxy.sim.body import Body
from proxy.sim.faults import Plan
from proxy.sim.links import Links
from proxy.sim.log import Entry
from proxy.sim.reply import Reply
from proxy.sim.settings import Settings
from proxy.sim.tasks import Failure, Tasks


@dataclass(frozen=True, slots=True)
class Call:
    """One request, its body read."""

    method: str
    #: The raw request target.
    target: str
    #: Parameters of the route's path, percent-decoded.
    path: dict[str, str]
    query: MultiMapping[str]
    headers: CIMultiDict[str]
    body: Body
    entry: Entry
    plan: Plan


@dataclass(frozen=True, slots=True)
class Route:
    """`path` in aiohttp's form. `operation` is the name faults and the log use."""

    method: str
    path: str
    operation: str
    answer: Callable[[Call], Reply]


class Service(Protocol):
    """A provider. Handlers are plain functions; they may raise `Refusal`."""

    @property
    def name(self) -> str: ...

    def routes(self) -> Sequence[Route]: ...

    def operation(self, named: str, query: MultiMapping[str]) -> str:
        """The operation of a request to a route with this name."""

    def unknown(self, call: Call) -> Reply:
        """Answers a path or method that is not there."""

    def error(self, status: int, code: int | str | None, message: str | None) -> Reply:
        """The native error; `code` None is the one usual for this status."""

    def failure(self, code: int | str | None) -> Failure:
        """The native reason of a failed task; None is the usual one."""


class VendorService(Service, Protocol):
    """The service of a vendor, with settings of its own."""

    def tune(self, settings: Mapping[str, object]) -> None:
        """Take these settings from now on. Raises ValueError for one that cannot be taken, and then
        changes none."""


@dataclass(frozen=True, slots=True)
class World:
    """What all simulated vendors share. `notify(url, task id, body)` delivers one callback."""

    settings: Settings
    tasks: Tasks
    links: Links
    notify: Callable[[str, str, dict[str, object]], None]


@dataclass(frozen=True, slots=True)
class Vendor:
    """One simulated vendor, as the registry lists it.

    `keys` are what an account has there when it names none; `settings` are those of its own, with
    their defaults; `path` ends the base URL that the vendor's SDK takes.
    """

    name: str
    make: Callable[[World], VendorService]
    keys: Mapping[str, str]
    settings: Mapping[str, object] = field(default_factory=dict)
    path: str = ""
