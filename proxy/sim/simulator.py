"""All simulated upstreams together, each on its own port."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from types import TracebackType

from aiohttp import web

from proxy.sim.callbacks import Callbacks
from proxy.sim.cdn import Cdn
from proxy.sim.control import Control
from proxy.sim.edge import Edge
from proxy.sim.faults import Faults
from proxy.sim.journal import Journal
from proxy.sim.links import Links
from proxy.sim.log import SUBMITS, Entry, Log
from proxy.sim.pattern import Assets
from proxy.sim.service import Service, VendorService, World
from proxy.sim.settings import Settings
from proxy.sim.tasks import State, Task, Tasks
from proxy.sim.vendors import SERVICES, VENDORS

_SHUTDOWN_S = 5.0
_BACKLOG = 1024


class Simulator:
    """`await start()`, use the URLs and keys, `await stop()`; or `async with`."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings = settings or Settings()
        self.log = Log()
        self.faults = Faults()
        self.tasks = Tasks(settings, Assets.load())
        self._callbacks = Callbacks(self.log)
        self._links = Links(_link_key(settings.seed), settings.link_ttl_s, settings.clock)
        world = World(settings, self.tasks, self._links, self._callbacks.notify)
        self.vendors: dict[str, VendorService] = {
            name: vendor.make(world) for name, vendor in VENDORS.items()
        }
        self._services: dict[str, Service] = {**self.vendors, "cdn": Cdn(self.tasks, self._links)}
        self._journal: Journal | None = None
        self._edges: list[Edge] = []
        self._runners: dict[str, web.AppRunner] = {}
        self._sites: dict[str, web.TCPSite] = {}
        self._ports: dict[str, int] = {}

    # -- life --------------------------------------------------------------------------------

    async def start(self) -> None:
        """Raises OSError when a port is taken; then nothing is left listening."""
        try:
            for name in SERVICES:
                await self._listen(name)
        except OSError:
            await self.stop()
            raise
        self._links.base = self.cdn_url
        if self.settings.journal is not None:
            self._journal = Journal(self.settings.journal)
            for task in self._journal.load():
                self.tasks.restore(task)
            self.tasks.on_add.append(self._journal.write)
            self.tasks.on_change.append(self._journal.write)

    async def stop(self) -> None:
        """Every request under way is cut."""
        self.tasks.clear()
        self.faults.clear()
        for edge in self._edges:
            edge.stop()
        for runner in self._runners.values():
            await runner.cleanup()
        await self._callbacks.close()
        if self._journal is not None:
            self.tasks.on_add.remove(self._journal.write)
            self.tasks.on_change.remove(self._journal.write)
            self._journal.close()
            self._journal = None
        self._edges.clear()
        self._runners.clear()
        self._sites.clear()

    async def __aenter__(self) -> Simulator:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    async def _listen(self, name: str) -> None:
        if name == "control":
            app = Control(self).application()
        else:
            edge = Edge(self._services[name], self.log, self.faults)
            self._edges.append(edge)
            app = edge.application()
        runner = web.AppRunner(
            app,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            shutdown_timeout=_SHUTDOWN_S,
        )
        self._runners[name] = runner
        await runner.setup()
        await self._open_site(name, self.settings.ports.get(name, 0))

    async def _open_site(self, name: str, port: int) -> None:
        site = web.TCPSite(self._runners[name], self.settings.host, port, backlog=_BACKLOG)
        await site.start()
        self._sites[name] = site
        if port == 0:
            taken = {address[1] for address in self._runners[name].addresses}
            port = taken.pop()
        self._ports[name] = port

    async def refuse(self, service: str) -> None:
        """Connections to this service are refused from now on; idle ones are closed."""
        site = self._sites.pop(service)
        await site.stop()
        server = self._runners[service].server
        assert server is not None
        server.pre_shutdown()

    async def accept(self, service: str) -> None:
        """Undoes `refuse`, on the same port."""
        if service in self._sites:
            return
        await self._open_site(service, self._ports[service])

    async def reset(self) -> None:
        """As after `start`: no tasks, no faults, an empty log, all services listening.

        Held requests go on; ids do not start over.
        """
        self.faults.clear()
        self.tasks.clear()
        self.tasks.speed = self.settings.speed
        self.tasks.manual = self.settings.manual
        self.tasks.size_bytes = self.settings.size_bytes
        for name, vendor in VENDORS.items():
            chosen = self.settings.services.get(name, {})
            self.vendors[name].tune({**vendor.settings, **chosen})
        self.log.clear()
        for service in SERVICES:
            await self.accept(service)

    # -- where it is, and how to get in ------------------------------------------------------

    @property
    def openai_url(self) -> str:
        """It ends in /v1, as the SDK takes it."""
        return self.url("openai")

    @property
    def kling_url(self) -> str:
        return self.url("kling")

    @property
    def jimeng_url(self) -> str:
        return self.url("jimeng")

    @property
    def cdn_url(self) -> str:
        return self._url("cdn")

    @property
    def control_url(self) -> str:
        return self._url("control")

    @property
    def credentials(self) -> dict[str, dict[str, str]]:
        """The first account's keys by vendor."""
        account = self.settings.accounts[0]
        return {name: dict(account.keys_of(name, vendor.keys)) for name, vendor in VENDORS.items()}

    def describe(self) -> dict[str, object]:
        """The line other programs read: URLs, keys, pid."""
        return {
            **{f"{name}_url": self.url(name) for name in VENDORS},
            "cdn_url": self.cdn_url,
            "control_url": self.control_url,
            "credentials": self.credentials,
            "pid": os.getpid(),
        }

    def url(self, vendor: str) -> str:
        """What the vendor's SDK takes as its base URL."""
        return self._url(vendor) + VENDORS[vendor].path

    def _url(self, service: str) -> str:
        host = self.settings.host
        if host in ("", "0.0.0.0", "::"):  # noqa: S104  # a wildcard is no address to call
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{self._ports[service]}"

    # -- moving tasks ------------------------------------------------------------------------

    def step(self, upstream_id: str, state: State, progress: int | None = None) -> Task:
        """Puts a task into any state, also backwards. Raises KeyError for an unknown id."""
        return self.tasks.step(upstream_id, state, progress)

    def finish(self, upstream_id: str) -> Task:
        return self.tasks.step(upstream_id, "completed")

    def fail(self, upstream_id: str, code: int | str | None = None) -> Task:
        """`code` is the provider's own; None is its usual one."""
        task = self.tasks[upstream_id]
        return self.tasks.fail(task.id, self._services[task.service].failure(code))

    def forget(self, upstream_id: str) -> None:
        """The provider has never heard of the task."""
        self.tasks.forget(upstream_id)

    def restart(self, service: str) -> None:
        """The provider has never heard of any of its tasks: a server that keeps its jobs in memory
        was started again."""
        for task in self.tasks.of(service):
            self.tasks.forget(task.id)

    def expire_links(self) -> None:
        """Every result link given so far answers 403; asking for the task gives a new one."""
        self._links.expire_all()

    # -- what happened -----------------------------------------------------------------------

    async def wait_for(
        self, predicate: Callable[[Entry], bool], *, count: int = 1, timeout_s: float = 10.0
    ) -> Entry:
        """The `count`-th logged request the predicate holds for; see `Log.wait_for`."""
        return await self.log.wait_for(predicate, count=count, timeout_s=timeout_s)

    def submits(self, service: str) -> int:
        """Submit requests that arrived, refused and cut ones included."""
        return sum(
            entry.service == service and entry.operation in SUBMITS for entry in self.log.entries
        )

    def renders(self, service: str) -> int:
        """Tasks that exist at this provider: what it would charge for."""
        return len(self.tasks.of(service))


def _link_key(seed: int | None) -> bytes:
    return random.Random(seed).randbytes(32) if seed is not None else os.urandom(32)
