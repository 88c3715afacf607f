"""Several workers behind one address: none of their deaths, changes or ends is a client's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from proxy.sim import Fault, pattern_sha256
from proxy.sim.faults import Active
from tests.rig.downloads import OPENAI, PROMPT, SIZE
from tests.rig.eventually import eventually, read_until
from tests.rig.site import GUARD_S, ROOT, Site, Worker, children, open_site

HELD_AT = 200_000
ASKERS = 8


@dataclass
class Download:
    """One that stands half-way, until its `stall` is released."""

    stall: Active
    reply: aiohttp.ClientResponse
    first: bytes

    async def is_whole(self) -> bool:
        body = self.first + await self.reply.content.read()
        return hashlib.sha256(body).hexdigest() == pattern_sha256(SIZE)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as site:
        text = site.config.read_text()
        site.config.write_text(
            text.replace("[admin]\n", '[admin]\ntoken = "for the operator"\n', 1).replace(
                "[server]\n", "[server]\nworkers = 2\n", 1
            )
        )
        yield site


async def admin(site: Site, gateway: Worker, method: str, path: str) -> Any:
    headers = {"Authorization": "Bearer for the operator"}
    url = gateway.admin_url + path
    async with site.client.request(method, url, headers=headers) as reply:
        return await (reply.json() if path.startswith("/api") else reply.text())


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


async def models(url: str, bearer: dict[str, str]) -> int:
    """One request on a connection of its own; its status."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer['Authorization']}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return int(answer.split()[1])


@asynccontextmanager
async def asking(site: Site, gateway: Worker) -> AsyncIterator[list[int]]:
    """Clients that ask again and again while the block lasts, half of them on connections they
    keep; the statuses they got. Anything but an answer is an error of theirs, and the test's."""
    statuses: list[int] = []
    over = asyncio.Event()

    async def anew() -> None:
        while not over.is_set():
            statuses.append(await models(gateway.url, site.bearer))

    async def kept() -> None:
        while not over.is_set():
            async with site.client.get(gateway.url + "/v1/models", headers=site.bearer) as reply:
                await reply.read()
                statuses.append(reply.status)

    async def posting() -> None:
        # A quote: the client repeats no POST, not even one whose connection it had kept.
        asked = {"model": "sora-2", "prompt": "a cat"}
        url = gateway.url + "/v1/videos?dry_run=1"
        while not over.is_set():
            async with site.client.post(url, json=asked, headers=site.bearer) as reply:
                await reply.read()
                statuses.append(reply.status)

    async with asyncio.TaskGroup() as group:
        for number in range(ASKERS):
            group.create_task((anew, kept, posting)[number % 3]())
        try:
            yield statuses
        finally:
            over.set()


async def test_a_killed_worker_is_replaced_and_its_waiting_connections_are_answered(
    site: Site,
) -> None:
    gateway = await site.worker()
    first, second = children(gateway.process.pid)
    os.kill(first, signal.SIGSTOP)  # it accepts nothing more: what the kernel gives it waits
    asked = [asyncio.create_task(models(gateway.url, site.bearer)) for _ in range(24)]
    await asyncio.wait(asked, timeout=0.5, return_when=asyncio.ALL_COMPLETED)
    os.kill(first, signal.SIGKILL)
    async with asyncio.timeout(GUARD_S):
        assert await asyncio.gather(*asked) == [200] * 24
    died = await gateway.said(lambda line: line["event"] == "worker died")
    assert (died["pid"], died["why"]) == (first, "SIGKILL")
    came = await gateway.said(lambda line: line["event"] == "worker replaced")
    assert children(gateway.process.pid) == [second, came["pid"]]
    assert await series(site, gateway, "reelway_worker_deaths_total") == 1
    gateway.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: sum(line["event"] == "serving" for line in gateway.log) == 2)
    assert await series(site, gateway, "reelway_worker_deaths_total") == 1


async def series(site: Site, gateway: Worker, name: str) -> float:
    """The value of one that has no labels."""
    text = str(await admin(site, gateway, "GET", "/metrics"))
    found = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    assert len(found) == 1, name
    return float(found[0].rpartition(" ")[2])


async def test_requests_are_counted_over_all_workers(site: Site) -> None:
    """Also those of workers that an upgrade has sent away: a counter never falls."""
    gateway = await site.worker()

    async def counted() -> list[float]:
        text = await admin(site, gateway, "GET", "/metrics")
        return [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("reelway_requests_total{") and 'operation="models"' in line
        ]

    for _ in range(30):
        assert await models(gateway.url, site.bearer) == 200
    assert await counted() == [30.0]
    before = children(gateway.process.pid)
    gateway.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: not any(is_alive(pid) for pid in before))
    assert await models(gateway.url, site.bearer) == 200
    assert await counted() == [31.0]


async def test_a_reload_reaches_every_worker_and_a_bad_file_none(site: Site) -> None:
    gateway = await site.worker()
    good = site.config.read_text()
    site.config.write_text(good + "\n[[routes]]\nmodel = 'x'\nupstream = 'nobody'\n")
    gateway.process.send_signal(signal.SIGHUP)
    refused = await gateway.said(lambda line: line["event"].startswith("reload failed"))
    assert "nobody" in refused["why"]
    assert await series(site, gateway, "reelway_config_reload_failed") == 1
    assert await admin(site, gateway, "GET", "/readyz")
    site.config.write_text(good.replace('model = "sora-2"', 'model = "renamed"'))
    gateway.process.send_signal(signal.SIGHUP)
    await eventually(lambda: sum(line["event"] == "reloaded" for line in gateway.log) == 3)
    pids = [line["pid"] for line in gateway.log if line["event"] == "reloaded"]
    supervisor = gateway.process.pid
    assert sorted(pids) == sorted([supervisor, *children(supervisor)])

    async def is_well() -> bool:
        return await series(site, gateway, "reelway_config_reload_failed") == 0

    await read_until(is_well, bool)
    for _ in range(12):  # either worker
        url = gateway.url + "/v1/models"
        async with aiohttp.ClientSession() as client, client.get(url, headers=site.bearer) as got:
            assert "renamed" in await got.text()


async def test_a_reload_cuts_no_download(site: Site) -> None:
    gateway = await site.worker()
    async with AsyncExitStack() as stack:
        download = await begun(site, gateway, stack)
        gateway.process.send_signal(signal.SIGHUP)
        await eventually(lambda: sum(line["event"] == "reloaded" for line in gateway.log) == 3)
        download.stall.release()
        assert await download.is_whole()
    assert await gateway.stop() == 0


async def begun(site: Site, gateway: Worker, stack: AsyncExitStack) -> Download:
    """A download that has brought its first half; its upstream stands until `release`."""
    stall = site.sim.faults.add(OPENAI.fault("stall", at=HELD_AT))
    status, video = await site.post(gateway, "openai", prompt=PROMPT)
    assert status == 200
    await site.ended(gateway, video["id"])
    url = f"{gateway.url}/v1/videos/{video['id']}/content"
    reply = await stack.enter_async_context(site.client.get(url, headers=site.bearer))
    return Download(stall, reply, await reply.content.readexactly(HELD_AT))


async def test_an_upgrade_under_load_fails_no_request_and_cuts_no_download(site: Site) -> None:
    """The supervisor becomes the new program under its old pid; new workers come before the old
    ones go."""
    gateway = await site.worker()
    async with AsyncExitStack() as stack:
        download = await begun(site, gateway, stack)
        before = children(gateway.process.pid)
        async with asking(site, gateway) as statuses:
            await eventually(lambda: len(statuses) > 50)
            gateway.process.send_signal(signal.SIGUSR2)
            await gateway.said(lambda line: line["event"] == "upgrading")
            await eventually(lambda: sum(line["event"] == "serving" for line in gateway.log) == 2)
            seen = len(statuses)
            await eventually(lambda: len(statuses) > seen + 50)
        assert set(statuses) == {200}
        download.stall.release()
        assert await download.is_whole()
    await eventually(lambda: not any(is_alive(pid) for pid in before))
    # One that has ended is a child until the new program has asked how.
    await eventually(lambda: len(children(gateway.process.pid)) == 2)
    assert await gateway.stop() == 0


async def test_signals_during_an_upgrade_wait_until_they_can_be_heeded(site: Site) -> None:
    """A reload and another upgrade, told while the new program has no handlers yet."""
    gateway = await site.worker()
    gateway.process.send_signal(signal.SIGUSR2)
    await gateway.said(lambda line: line["event"] == "upgrading")
    told = 0
    async with asyncio.timeout(GUARD_S):
        while sum(line["event"] == "serving" for line in gateway.log) < 2:
            gateway.process.send_signal(signal.SIGHUP if told % 2 else signal.SIGUSR2)
            told += 1
            await asyncio.sleep(0.02)
    assert told > 2
    await gateway.said(lambda line: line["event"] == "reloaded")
    await eventually(lambda: sum(line["event"] == "serving" for line in gateway.log) > 2)
    assert await models(gateway.url, site.bearer) == 200
    assert await gateway.stop() == 0


async def test_a_worker_told_what_is_the_supervisors_to_do_goes_on(site: Site) -> None:
    """As when a signal is sent to the whole service."""
    gateway = await site.worker()
    before = children(gateway.process.pid)
    for pid in before:
        for number in (signal.SIGHUP, signal.SIGUSR2):
            os.kill(pid, number)
    for _ in range(12):
        assert await models(gateway.url, site.bearer) == 200
    assert children(gateway.process.pid) == before


async def test_an_upgrade_to_a_program_that_would_not_start_changes_nothing(site: Site) -> None:
    gateway = await site.worker()
    before = children(gateway.process.pid)
    good = site.config.read_text()
    site.config.write_text(good + "\nnonsense = 1\n")
    gateway.process.send_signal(signal.SIGUSR2)
    refused = await gateway.said(lambda line: line["event"].startswith("upgrade failed"))
    assert "nonsense" in refused["why"]
    assert children(gateway.process.pid) == before
    assert await models(gateway.url, site.bearer) == 200


async def test_an_upgrade_is_not_refused_for_what_it_would_serve_without(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traces are configured, and their libraries are not there."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "opentelemetry.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'empty'}{os.pathsep}{ROOT}")
    traced = '\n[tracing]\nendpoint = "http://127.0.0.1:9"\n'
    site.config.write_text(site.config.read_text() + traced)
    gateway = await site.worker()
    await gateway.said(lambda line: "reelway[otel]" in line["event"])
    gateway.process.send_signal(signal.SIGUSR2)
    await gateway.said(lambda line: line["event"] == "upgrading")
    await eventually(lambda: sum(line["event"] == "serving" for line in gateway.log) == 2)
    assert await models(gateway.url, site.bearer) == 200


async def test_sigterm_lets_downloads_finish_in_every_worker(site: Site) -> None:
    gateway = await site.worker()
    async with AsyncExitStack() as stack:
        download = await begun(site, gateway, stack)
        ending = asyncio.create_task(gateway.stop())
        await gateway.said(lambda line: line["event"] == "draining")
        where = urlsplit(gateway.url)

        def nobody_listens() -> bool:
            try:
                socket.create_connection((where.hostname or "", where.port or 0), 1).close()
            except OSError:
                return True
            return False

        await eventually(nobody_listens)
        download.stall.release()
        assert await download.is_whole()
    assert await ending == 0


async def test_nothing_outlives_a_killed_supervisor(site: Site) -> None:
    """Workers and the embedded store die with it, and the next start finds everything free."""
    text = site.config.read_text()
    site.config.write_text(text.replace(f'url = "{site.valkey.url}"', 'url = "embedded"'))
    gateway = await site.worker()
    workers = children(gateway.process.pid)
    assert len(workers) == 3  # and the store
    await gateway.kill()
    await eventually(lambda: not any(is_alive(pid) for pid in workers))
    again = await site.worker()
    assert len(children(again.process.pid)) == 3
    assert await again.stop() == 0


async def test_a_killed_embedded_store_comes_back_under_a_supervisor(site: Site) -> None:
    """Also when the program that started it has been replaced since."""
    text = site.config.read_text()
    site.config.write_text(text.replace(f'url = "{site.valkey.url}"', 'url = "embedded"'))
    gateway = await site.worker()
    gateway.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: sum(line["event"] == "serving" for line in gateway.log) == 2)
    state = site.config.parent / "state"
    killed = json.loads((state / "lock").read_bytes())["server"]
    os.kill(killed, signal.SIGKILL)
    await gateway.said(lambda line: "starting it again" in line["event"])
    await eventually(
        lambda: json.loads((state / "lock").read_bytes() or b"{}").get("server") != killed
    )

    await read_until(
        lambda: admin(site, gateway, "GET", "/readyz"),
        lambda found: json.loads(found)["status"] == "ready",
    )
    assert await series(site, gateway, "reelway_store_restarts_total") == 1
    assert await gateway.stop() == 0


async def test_workers_that_cannot_start_end_it_with_what_they_said(site: Site) -> None:
    """Nothing stays behind, and nobody tries for ever."""
    text = site.config.read_text()
    nobody = site.config.parent / "nobody.sock"
    site.config.write_text(text.replace(f'"{site.valkey.url}"', f'"unix://{nobody}"'))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--config", str(site.config)),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(GUARD_S):
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"[redis] url" in said
    assert b"Traceback" not in said


# ---------------------------------------------------------------- a service manager


@dataclass
class Manager:
    """What a service manager sees and gives: messages on a socket, one listening socket."""

    told: socket.socket
    web: socket.socket

    async def hears(self, word: str) -> str:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(GUARD_S):
            while True:
                message = (await loop.sock_recv(self.told, 4096)).decode()
                if word in message:
                    return message


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_service_manager_is_told_and_its_socket_is_used(site: Site, workers: int) -> None:
    """READY=1 once it serves on the socket it was given, RELOADING=1 and READY=1 around a
    reload, STOPPING=1 when it drains."""
    text = site.config.read_text()
    site.config.write_text(text.replace("workers = 2", f"workers = {workers}"))
    notify = site.config.parent / "notify.sock"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told,
        socket.create_server(("127.0.0.1", 0)) as web,
    ):
        told.bind(str(notify))
        told.setblocking(False)
        manager = Manager(told, web)
        port = web.getsockname()[1]
        code = (
            "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); "
            "os.dup2(int(sys.argv[1]), 3, True); "
            "os.execv(sys.executable, [sys.executable, '-m', 'proxy', 'serve', '--config', "
            "sys.argv[2]])"
        )
        process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
            [sys.executable, "-c", code, str(web.fileno()), str(site.config)],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(notify), "LISTEN_FDS": "1"},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(web.fileno(), 3) if web.fileno() != 3 else (3,),
        )
        try:
            assert "STATUS=serving" in await manager.hears("READY=1")
            assert await models(f"http://127.0.0.1:{port}", site.bearer) == 200
            process.send_signal(signal.SIGHUP)
            assert "MONOTONIC_USEC=" in await manager.hears("RELOADING=1")
            await manager.hears("READY=1")
            process.send_signal(signal.SIGTERM)
            await manager.hears("STOPPING=1")
            async with asyncio.timeout(GUARD_S):
                assert await asyncio.to_thread(process.wait) == 0
        finally:
            process.kill()
            process.wait()


async def test_sigterm_while_an_upgrade_is_weighed_ends_it(site: Site) -> None:
    gateway = await site.worker()
    gateway.process.send_signal(signal.SIGUSR2)
    gateway.process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(GUARD_S):
        await gateway.process.wait()


async def test_a_worker_is_replaced_with_the_configuration_in_force(site: Site) -> None:
    """Whatever has become of the file since: a mistake in it closes no door."""
    gateway = await site.worker()
    site.config.write_text(site.config.read_text() + "\nnonsense = 1\n")
    os.kill(children(gateway.process.pid)[0], signal.SIGKILL)
    await gateway.said(lambda line: line["event"] == "worker replaced")
    async with asyncio.timeout(GUARD_S):
        answers = await asyncio.gather(*(models(gateway.url, site.bearer) for _ in range(20)))
    assert answers == [200] * 20


async def test_metrics_are_there_while_an_old_worker_finishes(site: Site) -> None:
    """One whose line has ended, because it waits for an answer to a submit nobody else waits
    for."""
    gateway = await site.worker()
    held = site.sim.faults.add(Fault("hold", "openai", "submit"))
    post = asyncio.create_task(site.post(gateway, "openai"))
    await site.sim.wait_for(lambda entry: entry.operation == "submit" and entry.stalled)
    post.cancel()
    before = children(gateway.process.pid)
    gateway.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: sum(line["event"] == "serving" for line in gateway.log) == 2)
    await gateway.said(lambda line: line["event"] == "draining")
    for _ in range(3):
        async with site.client.get(f"{gateway.admin_url}/metrics") as reply:
            assert reply.status == 200
    held.release()
    await eventually(lambda: not any(is_alive(pid) for pid in before))
