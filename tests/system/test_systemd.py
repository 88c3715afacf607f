"""The units we ship: systemd finds nothing wrong with them, and they agree with the gateway."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxy.config import Config, load
from proxy.providers import PROVIDERS
from proxy.server.supervisor import MARGIN_S
from proxy.server.worker import CUT_S
from tests.rig.site import GUARD_S, open_site
from tests.system.ports import free_ports

MOST_EXPOSED = 2.0
FILES_A_STREAM = 4
UNITS = ("reelway.service", "reelway.socket", "reelway-admin.socket")
PROGRAM = "/opt/reelway/bin/reelway"
ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is tested runs elsewhere

Tool = Callable[[str], str]
Said = Callable[..., str]


class Unit:
    """A unit file's settings; one that is given twice has all its values, a line each."""

    def __init__(self, path: Path) -> None:
        self._values: dict[str, list[str]] = {}
        for line in path.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                self._values.setdefault(name, []).append(value)

    def __getitem__(self, name: str) -> str:
        return "\n".join(self._values[name])


@pytest.fixture
def units(deploy: Path) -> dict[str, Unit]:
    return {name: Unit(deploy / "systemd" / name) for name in UNITS}


@pytest.fixture
def defaults(tmp_path: Path) -> Config:
    path = tmp_path / "empty.toml"
    path.write_text("")
    return load(path, {}, PROVIDERS)


class Notified:
    """The service manager's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.sock.bind(str(path))
        self.sock.settimeout(GUARD_S)

    async def next(self, wanted: str) -> int:
        """The next message with this line; returns who sent it. Others are passed over."""
        while True:
            message, pid = await asyncio.to_thread(self._receive)
            if wanted in message:
                return pid

    def _receive(self) -> tuple[list[str], int]:
        data, more, _, _ = self.sock.recvmsg(4096, socket.CMSG_SPACE(12))
        (credentials,) = (bytes(payload) for _, _, payload in more)
        return data.decode().splitlines(), int.from_bytes(credentials[:4], sys.byteorder)


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[Notified]:
    manager = Notified(tmp_path / "notify")
    yield manager
    manager.sock.close()


def test_systemd_understands_every_line(said: Said, deploy: Path, tmp_path: Path) -> None:
    """The only change: a program that exists on this machine."""
    for name in UNITS:
        text = (deploy / "systemd" / name).read_text()
        assert (PROGRAM in text) == (name == "reelway.service")
        (tmp_path / name).write_text(text.replace(PROGRAM, sys.executable))
    paths = [tmp_path / name for name in UNITS]
    env = {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    assert said("systemd-analyze", "verify", *paths, env=env) == ""


def test_the_service_is_exposed_to_little(said: Said, deploy: Path) -> None:
    service = deploy / "systemd" / "reelway.service"
    told = said("systemd-analyze", "security", "--offline=true", "--no-pager", service)
    (exposure,) = re.findall(r"Overall exposure level for reelway.service: ([\d.]+)", told)
    assert float(exposure) <= MOST_EXPOSED, told


def test_a_stop_leaves_time_for_the_drain(units: dict[str, Unit], defaults: Config) -> None:
    """Of the workers, which the supervisor kills a margin after their drain; and only the
    supervisor is told to stop, the embedded store goes last."""
    service = units["reelway.service"]
    assert float(service["TimeoutStopSec"]) > defaults.timeouts.drain_s + CUT_S + MARGIN_S
    assert service["KillMode"] == "mixed"


def test_the_units_listen_where_the_configuration_does(
    units: dict[str, Unit], defaults: Config
) -> None:
    assert units["reelway.socket"]["ListenStream"] == defaults.server.listen
    assert units["reelway-admin.socket"]["ListenStream"] == defaults.admin.listen
    assert units["reelway-admin.socket"]["Service"] == "reelway.service"
    assert units["reelway.service"]["Sockets"] == "reelway.socket reelway-admin.socket"


def test_there_are_files_enough_for_every_stream(units: dict[str, Unit], defaults: Config) -> None:
    most = int(units["reelway.service"]["LimitNOFILE"])
    assert most >= FILES_A_STREAM * defaults.limits.connections


@ONE_LOOP
async def test_it_serves_on_the_sockets_systemd_hands_over_and_says_how_it_is(
    tool: Tool, tmp_path: Path, units: dict[str, Unit], notified: Notified
) -> None:
    """Started by systemd's own activator: whoever connected first has waited and is served; the
    manager hears of readiness, of a reload's two ends and of the stop, from the main process."""
    web, admin = free_ports(2)
    names = [units[name]["FileDescriptorName"] for name in UNITS[1:]]
    async with open_site(tmp_path) as site:
        log = (tmp_path / "log").open("wb")
        process = await asyncio.create_subprocess_exec(
            *(tool("systemd-socket-activate"), "-E", "NOTIFY_SOCKET", "-E", "PATH"),
            *("-l", f"127.0.0.1:{web}", "-l", f"127.0.0.1:{admin}"),
            f"--fdname={':'.join(names)}",
            *(sys.executable, "-m", "proxy", "serve", "--config", str(site.config)),
            env={**os.environ, "NOTIFY_SOCKET": str(notified.path)},
            stderr=log,
        )
        try:
            assert await get(web, "/v1/models") == 401
            assert await notified.next("READY=1") == process.pid
            assert await get(admin, "/readyz") == 200
            process.send_signal(signal.SIGHUP)
            assert await notified.next("RELOADING=1") == process.pid
            assert await notified.next("READY=1") == process.pid
            process.terminate()
            assert await notified.next("STOPPING=1") == process.pid
            assert await process.wait() == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            log.close()


async def get(port: int, path: str) -> int:
    """The status; the connection is tried until somebody listens."""
    async with asyncio.timeout(GUARD_S):
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
        request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        head = await reader.readline()
        writer.close()
    return int(head.split()[1])
