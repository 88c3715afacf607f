"""/api/tasks: the tasks of all owners, their time lines, and their videos in the console."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qs, urlsplit

import pytest

from proxy.sim.faults import Fault
from proxy.sim.pattern import pattern
from tests.rig.admin_client import ask, done, got, pages, refused
from tests.rig.downloads import PROMPT, SIZE
from tests.rig.eventually import read_until
from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.refusals import WAIT_S

STILL = 8  # looks in a row that see no byte move


async def video(house: House, url: str, method: str = "GET", **headers: str) -> Answer:
    """As a <video> element asks: without the admin token."""
    return await ask(house, method, url, headers={"Authorization": None, **headers})


# ---------------------------------------------------------------- lists


async def test_the_tasks_of_all_owners_are_listed_newest_first(house: House) -> None:
    """In pages that fit together; by owner, token, status, model or upstream too."""
    other = await house.new_token(owner="acme")
    mine = [await house.create(prompt=f"cat {n}") for n in range(5)]
    reply = await house.post(
        "/v1/videos",
        json={"model": "kling-v2-6", "prompt": "a dog"},
        headers={"Authorization": f"Bearer {other.token}"},
    )
    theirs = reply.json()["id"]
    for task_id in mine:
        await house.finished(task_id)
    everything = [item["id"] for item in await pages(house, "/api/tasks", 2)]
    assert everything == [theirs, *reversed(mine)]
    for query, expected in (
        ("owner=acme", [theirs]),
        (f"token={other.record.id}", [theirs]),
        ("model=sora-2", [*reversed(mine)]),
        ("upstream=sim-kling", [theirs]),
        ("status=completed&owner=" + house.made.record.owner, [*reversed(mine)]),
        ("status=failed", []),
        ("status=open", []),
        ("owner=nobody", []),
    ):
        found = await pages(house, f"/api/tasks?{query}", 3)
        assert [item["id"] for item in found] == expected, query


async def test_a_task_is_told_with_all_that_happened_to_it(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        house.sim.faults.add(Fault("status", "openai", "submit", status=429))
        refusal = await house.post("/v1/videos", json={"model": "sora-2", "prompt": "a cat"})
        assert refusal.status == 429
        await done(house, "POST", "/api/upstreams/sim-openai/credentials/a/restore")
        task_id = await house.create(seconds="4", size="1280x720")
        path = f"/api/tasks/{task_id}"
        task = await got(house, path)
        assert (task["status"], task["stage"], task["content_url"]) == ("queued", "queued", None)
        assert (task["upstream"], task["credential"]) == ("sim-openai", "a")
        assert (task["request"]["seconds"], task["prompt"]) == (4, "a cat")
        (only,) = (await got(house, "/api/tasks?status=open"))["data"]
        assert only["id"] == task_id
        house.sim.finish(task["upstream_id"])
        await house.finished(task_id)
        task = await got(house, path)
        assert (task["status"], task["progress"], task["error"]) == ("completed", 100, None)
        assert (task["seconds"], task["size"]) == (4.0, "1280x720")
        events = [(entry["version"], entry["stage"]) for entry in task["timeline"]]
        assert events[0] == (1, "reserved")
        assert events[-1] == (task["version"], "completed")
        assert [entry["ms"] for entry in task["timeline"]] == sorted(
            entry["ms"] for entry in task["timeline"]
        )
        (row,) = (await got(house, "/api/tasks"))["data"]
        assert row == {name: task[name] for name in row}
        (refused,) = (await got(house, "/api/refusals"))["data"]
        assert (refused["status"], refused["upstream"]) == (429, "sim-openai")


async def test_a_deleted_task_is_shown_and_its_video_is_not(house: House) -> None:
    task_id = await house.completed()
    url = (await got(house, f"/api/tasks/{task_id}"))["content_url"]
    assert (await house.request("DELETE", f"/v1/videos/{task_id}")).status == 200
    task = await got(house, f"/api/tasks/{task_id}")
    assert (task["deleted"], task["content_url"], task["content_urls"]) == (True, None, [])
    assert (await video(house, url)).status in (403, 404)
    assert [item["id"] for item in (await got(house, "/api/tasks"))["data"]] == [task_id]


async def test_an_unknown_task_is_not_found(house: House) -> None:
    for name in ("video_none", "video_" + "0" * 48):
        status, code, _, message = await refused(house, "GET", f"/api/tasks/{name}")
        assert (status, code) == (404, "not_found")
        assert name[:80] in message


# ---------------------------------------------------------------- the video


@pytest.mark.parametrize("model", ["sora-2", "sora-2-on-kling"])
async def test_the_video_plays_under_this_ports_own_origin(house: House, model: str) -> None:
    """Whole, in ranges, by conditions, and its head alone, without the admin token."""
    task_id = await house.completed(model, PROMPT)
    task = await got(house, f"/api/tasks/{task_id}")
    url = task["content_url"]
    assert task["content_urls"] == [url]
    assert url.startswith(f"/api/tasks/{task_id}/content?")
    direct = await house.get(f"/v1/videos/{task_id}/content")
    whole = await video(house, url)
    assert (whole.status, whole.body) == (200, direct.body)
    assert len(whole.body) == SIZE
    for name in ("Content-Type", "ETag", "Accept-Ranges", "Content-Length", "Cache-Control"):
        assert whole.headers[name] == direct.headers[name], name
    assert whole.headers["X-Content-Type-Options"] == "nosniff"
    part = await video(house, url, Range="bytes=100-299", **{"If-Range": whole.headers["ETag"]})
    assert (part.status, part.body) == (206, direct.body[100:300])
    assert part.headers["Content-Range"] == f"bytes 100-299/{SIZE}"
    stale = await video(house, url, Range="bytes=100-299", **{"If-Range": '"another"'})
    assert (stale.status, len(stale.body)) == (200, SIZE)
    beyond = await video(house, url, Range=f"bytes={SIZE}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    known = await video(house, url, **{"If-None-Match": whole.headers["ETag"]})
    assert (known.status, known.body) == (304, b"")
    head = await video(house, url, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(SIZE)
    saved = await video(house, url + "&download=1")
    assert saved.headers["Content-Disposition"].startswith("attachment")


async def test_only_the_signed_address_lets_in(house: House) -> None:
    """What a signature is good for, the clients' port decides; its refusals come through."""
    task_id = await house.completed()
    url = (await got(house, f"/api/tasks/{task_id}"))["content_url"]
    query = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    path = url.partition("?")[0]

    async def status(path: str = path, **changes: str) -> int:
        changed = "&".join(f"{k}={v}" for k, v in {**query, **changes}.items())
        return (await video(house, f"{path}?{changed}")).status

    assert await status() == 200
    assert await status(sig="0" * len(query["sig"])) == 403
    assert await status(exp=str(int(query["exp"]) + 1)) == 403
    assert await status(index="1") == 403
    other = await house.completed()
    assert await status(f"/api/tasks/{other}/content") == 403
    assert await status("/api/tasks/..%2F..%2Fmodels/content") in (400, 403, 404)
    assert await status(extra="1") == 400
    assert (await video(house, path)).status == 400
    assert (await video(house, f"{url}&exp=1")).status == 400
    assert (await video(house, url, "POST")).status in (401, 405)
    assert await house.server.store.tokens.revoke(house.made.record.id, 1)
    await read_until(status, lambda found: found == 403)


async def test_a_video_that_breaks_off_never_looks_whole(open_house: OpenHouse) -> None:
    """The clients' port cuts it, and so does this one."""
    wanted = Plan(limits="heal_attempts = 0", timeouts="heal_s = 1.0")
    async with open_house(wanted) as house:
        task_id = await house.completed("sora-2", PROMPT)
        url = (await got(house, f"/api/tasks/{task_id}"))["content_url"]
        house.sim.faults.add(Fault("cut", "openai", "content", at=SIZE // 2, times=None))
        with pytest.raises(Exception, match=r"payload|Connection|completed|ContentLength") as cut:
            await video(house, url)
        assert "aiohttp" in type(cut.value).__module__


async def test_a_viewer_that_leaves_ends_the_stream_at_its_source(open_house: OpenHouse) -> None:
    """The clients' port hears of it at once: its own line says that the client went."""
    size = 64 * 1024 * 1024
    async with open_house(Plan(sim={"size_bytes": size})) as house:
        task_id = await house.completed()
        url = (await got(house, f"/api/tasks/{task_id}"))["content_url"]
        async with house.client.get(house.server.admin_url + url) as reply:
            first = await reply.content.readexactly(100_000)
            assert first == pattern(0, 100_000)
        line = await house.line(lambda line: line.get("operation") == "content")
        assert line["reason"] == "client_gone"
        sent = line["bytes"]
        assert isinstance(sent, int)
        assert sent < size


async def test_a_slow_viewer_holds_the_source_back(open_house: OpenHouse) -> None:
    """While nobody reads, what was sent so far stays where it is, buffers apart."""
    size = 256 * 1024 * 1024
    async with open_house(Plan(sim={"size_bytes": size})) as house:
        task_id = await house.completed()
        url = (await got(house, f"/api/tasks/{task_id}"))["content_url"]
        async with house.client.get(house.server.admin_url + url) as reply:
            await reply.content.readexactly(1000)
            entry = await house.sim.log.wait_for(lambda e: e.operation in ("content", "file"))
            seen: list[int] = [-1, *range(STILL - 1)]
            async with asyncio.timeout(WAIT_S):
                while len(set(seen)) > 1:  # it stands still once every buffer is full
                    seen = [*seen[1:], entry.bytes_sent]
                    await asyncio.sleep(0.05)
            assert 0 < seen[0] < size // 2
