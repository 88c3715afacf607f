"""Where a download may lead: the upstream's own host, the hosts its operator named, and public
addresses. Whatever else a provider says is not fetched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from proxy.sim import pattern
from tests.rig.downloads import KLING, OPENAI, PROMPT, SIZE, TWO, add, content, fetch, told
from tests.rig.house import House

FILM = pattern(0, SIZE)


class Trap:
    """What listens on an inner address: the metadata service, Redis, the admin port."""

    def __init__(self) -> None:
        self.port = 0
        self.visitors = 0

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visitors += 1
        writer.close()


@asynccontextmanager
async def trap_set() -> AsyncIterator[Trap]:
    trap = Trap()
    server = await asyncio.start_server(trap.serve, "127.0.0.1", 0)
    trap.port = server.sockets[0].getsockname()[1]
    async with server:
        yield trap


def change_upstream(house: House, name: str, **changes: Any) -> None:
    config = house.server.config
    upstreams = {**config.upstreams, name: replace(config.upstreams[name], **changes)}
    house.server.config = replace(config, upstreams=upstreams)


async def test_a_redirect_inwards_is_not_followed(house: House) -> None:
    """In none of the ways to write an inner address; the client hears nothing of it."""
    async with trap_set() as trap:
        targets = [
            f"http://127.0.0.1:{trap.port}/latest/meta-data",
            f"http://localhost:{trap.port}/",
            f"http://127.1:{trap.port}/",
            f"http://0x7f.1:{trap.port}/",
            f"http://2130706433:{trap.port}/",
            f"http://[::ffff:127.0.0.1]:{trap.port}/",
            f"//127.0.0.1:{trap.port}/",
            f"https://127.0.0.1:{trap.port}/",
            "http://169.254.169.254/latest/meta-data",
            "http://10.0.0.1/",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "http://",
            "http://[::1",
        ]
        for place in TWO.values():
            task_id = await house.completed(place.model, PROMPT)
            for target in targets:
                house.sim.log.clear()
                add(house, place.fault("redirect", location=target, times=None))
                reply, line = await told(house, content(task_id))
                assert (reply.status, line["reason"]) == (502, "upstream_error"), target
                assert b"127" not in reply.body
                assert b"169" not in reply.body
                assert all(entry.status == 302 for entry in place.asked(house))
                house.sim.faults.clear()
        assert trap.visitors == 0


async def test_a_result_url_inwards_is_not_fetched(house: House) -> None:
    """The same for the first address: here the file host is one its operator did not name."""
    task_id = await house.completed(KLING.model, PROMPT)
    house.sim.log.clear()
    change_upstream(house, "sim-kling", result_hosts=())
    for method in ("GET", "HEAD"):
        reply, line = await told(house, content(task_id), method=method)
        assert (reply.status, line["reason"]) == (502, "upstream_error")
        assert b"127" not in reply.body
    assert KLING.asked(house) == []
    log = (house.config_path.parent / "gateway.log").read_text().splitlines()
    refused = [line for line in log if "address refused" in line]
    cdn = house.sim.cdn_url.removeprefix("http://")
    said = f"{cdn} is not a public address: add it to result_hosts of upstream sim-kling"
    assert refused
    assert all(task_id in line and said in line for line in refused)


async def test_the_same_host_on_another_port_is_another_host(house: House) -> None:
    async with trap_set() as trap:
        task_id = await house.completed(KLING.model, PROMPT)
        change_upstream(house, "sim-kling", result_hosts=(f"127.0.0.1:{trap.port}",))
        assert (await fetch(house, content(task_id))).status == 502
        assert trap.visitors == 0


async def test_a_redirect_within_the_upstream_keeps_the_credential(house: House) -> None:
    task_id = await house.completed(prompt=PROMPT)
    house.sim.log.clear()
    path = f"/v1/videos/{next(iter(house.sim.tasks)).id}/content?again=1"
    for status in (301, 302, 303, 307, 308):
        add(house, OPENAI.fault("redirect", location=path, status=status))
        reply, line = await told(house, content(task_id), {"Range": "bytes=5-9"})
        assert (reply.status, reply.body, line["reason"]) == (206, FILM[5:10], "done")
        asked = OPENAI.asked(house)[-1]
        assert asked.target == path
        assert asked.headers["Authorization"] == "Bearer sk-sim"
        assert asked.headers["Range"] == "bytes=5-9"


async def test_a_redirect_to_another_host_loses_the_credential(house: House) -> None:
    """An upstream whose content path leads to its file host, as self-hosted ones do."""
    change_upstream(house, "sim-openai", result_hosts=(house.sim.cdn_url.removeprefix("http://"),))
    task_id = await house.completed(prompt=PROMPT)
    assert (await fetch(house, content(await house.completed(KLING.model, PROMPT)))).whole
    url = house.sim.cdn_url + KLING.asked(house)[-1].target
    house.sim.log.clear()
    add(house, OPENAI.fault("redirect", location=url))
    reply, line = await told(house, content(task_id), {"Range": "bytes=5-9"})
    assert (reply.status, reply.body, line["reason"]) == (206, FILM[5:10], "done")
    [asked] = KLING.asked(house)
    assert "Authorization" not in asked.headers
    assert asked.headers["Range"] == "bytes=5-9"


async def test_a_redirect_that_leads_nowhere_ends(house: House) -> None:
    """In a circle, or without saying where to."""
    task_id = await house.completed(prompt=PROMPT)
    house.sim.log.clear()
    path = f"/v1/videos/{next(iter(house.sim.tasks)).id}/content"
    add(house, OPENAI.fault("redirect", location=path, times=None))
    reply, line = await told(house, content(task_id))
    assert (reply.status, line["reason"]) == (502, "upstream_error")
    assert len(OPENAI.asked(house)) == 6
    house.sim.faults.clear()
    add(house, OPENAI.fault("status", status=302, times=None))
    reply, line = await told(house, content(task_id))
    assert (reply.status, line["reason"]) == (502, "upstream_error")
