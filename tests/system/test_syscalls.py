"""What the service's filter of system calls leaves is all the gateway makes: watched through its
whole life, not read from a list."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from proxy.sim.pattern import pattern_sha256
from tests.rig.eventually import eventually
from tests.rig.site import Worker, children, open_site
from tests.system.test_systemd import Unit

ONE_LOOP = pytest.mark.asyncio(loop_factories=["uvloop"])  # what is tested runs elsewhere
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(3 << 20)  # so large that it is kept in a file

Tool = Callable[[str], str]
Said = Callable[..., str]


def allowed(said: Said, unit: Unit) -> set[str]:
    """By the unit's lines: a group taken away takes its members."""

    def members(group: str) -> set[str]:
        if not group.startswith("@"):
            return {group}
        lines = said("systemd-analyze", "syscall-filter", "--no-pager", group).split("\n")[1:]
        names = [line.strip() for line in lines if line.strip() and "#" not in line]
        return set[str]().union(*map(members, names))

    left: set[str] = set()
    for line in unit["SystemCallFilter"].split("\n"):
        groups = set[str]().union(*(members(group) for group in line.removeprefix("~").split()))
        left = left - groups if line.startswith("~") else left | groups
    return left


def made(summary: str) -> set[str]:
    """The calls that a summary of strace names."""
    rows = [line.split() for line in summary.splitlines() if line[:1] == " " and "%" not in line]
    return {row[-1] for row in rows} - {"total"}


def test_a_group_taken_away_takes_its_members(said: Said, tmp_path: Path) -> None:
    unit = tmp_path / "x.service"
    unit.write_text("SystemCallFilter=@io-event read\nSystemCallFilter=~@resources poll\n")
    left = allowed(said, Unit(unit))
    assert {"epoll_wait", "read"} <= left
    assert not {"poll", "setrlimit", "@io-event"} & left


@ONE_LOOP
async def test_a_whole_life_makes_no_call_that_the_service_may_not(
    tool: Tool, said: Said, deploy: Path, tmp_path: Path
) -> None:
    """Two workers and the store they start: uploads to each provider, polls, downloads, a key made
    beside them, a reload, a worker killed and replaced, an upgrade, the stop."""
    told = tmp_path / "calls"
    size = 3 << 20
    async with open_site(tmp_path, sim={"size_bytes": size}) as site:
        text = site.config.read_text().replace("[server]", "[server]\nworkers = 2", 1)
        site.config.write_text(text.replace(site.valkey.url, "embedded"))
        strace = (tool("strace"), "-D", "-f", "-qq", "-c", "-o", str(told))
        gateway = await Worker.start(site.config, strace)
        try:
            await live(gateway, site.config, site.client, size)
        finally:
            if gateway.process.returncode is None:
                await gateway.kill()
    await eventually(lambda: not (not told.exists() or "total" not in told.read_text()))
    calls = made(told.read_text())
    assert {"splice", "ftruncate", "sendto", "execve"} <= calls, calls  # it saw them all
    assert calls - allowed(said, Unit(deploy / "systemd" / "reelway.service")) == set()


async def live(gateway: Worker, config: Path, client: aiohttp.ClientSession, size: int) -> None:
    created = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "token", "create", "--name", "x", "--json"),
        *("--config", str(config)),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await created.communicate()
    bearer = {"Authorization": f"Bearer {json.loads(out)['token']}"}
    videos = gateway.url + "/v1/videos"
    for model in ("sora-2", "kling-v2-6", "jimeng_t2v_v30"):
        form = aiohttp.FormData({"model": model, "prompt": "a cat"}, default_to_multipart=True)
        if model != "jimeng_t2v_v30":
            picture = io.BytesIO(PICTURE)
            form.add_field("input_reference", picture, content_type="image/png", filename="a.png")
        async with client.post(videos, data=form, headers=bearer) as reply:
            assert reply.status == 200, await reply.text()
            video = await reply.json()
        while video["status"] not in ("completed", "failed"):
            async with client.get(f"{videos}/{video['id']}?wait=20", headers=bearer) as reply:
                video = await reply.json()
        assert video["status"] == "completed"
        async with client.get(f"{videos}/{video['id']}/content", headers=bearer) as reply:
            body = await reply.read()
        assert len(body) == size
        assert hashlib.sha256(body).hexdigest() == pattern_sha256(size)
    gateway.process.send_signal(signal.SIGHUP)
    await gateway.said(lambda line: line["event"] == "reloaded")
    before = children(gateway.process.pid)
    os.kill(before[-1], signal.SIGKILL)  # a worker: the store is the oldest
    await eventually(lambda: len(set(children(gateway.process.pid)) - set(before)) == 1)
    gateway.process.send_signal(signal.SIGUSR2)
    await eventually(lambda: sum(line["event"] == "serving" for line in gateway.log) == 2)
    assert await gateway.stop() == 0
