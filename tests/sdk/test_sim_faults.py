"""The simulator's faults and files, byte by byte over real sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp
import pytest
from yarl import URL

from proxy.sim import Entry, Fault, Settings, Simulator, byte_at, pattern, pattern_sha256
from proxy.sim.faults import Kind

_SIZE = 1_000_000


@pytest.fixture
async def sim() -> AsyncIterator[Simulator]:
    async with Simulator(Settings(manual=True, seed=1, size_bytes=_SIZE)) as simulator:
        yield simulator


@dataclass(slots=True)
class Raw:
    """A reply as it came: `body` is everything after the head until the connection ended."""

    head: str
    body: bytes


async def _connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def _send_get(writer: asyncio.StreamWriter, url: str, *headers: str) -> None:
    parts = urlsplit(url)
    target = url.split(parts.netloc, 1)[1]
    lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Connection: close", *headers]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()


async def _get(url: str, *headers: str) -> Raw:
    reader, writer = await _connect(url)
    try:
        await _send_get(writer, url, *headers)
        data = await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()
    head, _, body = data.partition(b"\r\n\r\n")
    return Raw(head.decode("latin-1"), body)


async def _submit(sim: Simulator, session: aiohttp.ClientSession) -> aiohttp.ClientResponse:
    return await session.post(
        sim.openai_url + "/videos",
        json={"prompt": "cat"},
        headers={"Authorization": "Bearer sk-sim"},
    )


async def _finished_link(sim: Simulator) -> tuple[str, str]:
    """A completed Kling task's id and result link."""
    headers = {"Authorization": f"Bearer {sim.credentials['kling']['api_key']}"}
    url = sim.kling_url + "/v1/videos/text2video"
    async with aiohttp.ClientSession(headers=headers) as session:
        async with session.post(url, json={"prompt": "cat"}) as response:
            task_id = (await response.json())["data"]["task_id"]
        sim.finish(task_id)
        return task_id, await _link(sim, task_id)


async def _link(sim: Simulator, task_id: str) -> str:
    headers = {"Authorization": f"Bearer {sim.credentials['kling']['api_key']}"}
    url = f"{sim.kling_url}/v1/videos/text2video/{task_id}"
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.get(url) as response,
    ):
        link = (await response.json())["data"]["task_result"]["videos"][0]["url"]
        assert isinstance(link, str)
        return link


def _file(entry: Entry) -> bool:
    return entry.operation == "file"


# -- files -----------------------------------------------------------------------------------


async def test_a_file_is_the_pattern_whole_and_in_ranges(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    whole = await _get(link)
    assert f"Content-Length: {_SIZE}" in whole.head
    assert 'ETag: "video-' in whole.head
    assert hashlib.sha256(whole.body).hexdigest() == pattern_sha256(_SIZE)
    part = await _get(link, "Range: bytes=500000-500099")
    assert part.head.startswith("HTTP/1.1 206 Partial Content")
    assert f"Content-Range: bytes 500000-500099/{_SIZE}" in part.head
    assert part.body == pattern(500_000, 100)
    beyond = await _get(link, f"Range: bytes={_SIZE}-")
    assert beyond.head.startswith("HTTP/1.1 416")
    assert beyond.body == b""


async def test_head_has_the_length_and_no_body(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    async with (
        aiohttp.ClientSession() as session,
        session.head(URL(link, encoded=True)) as response,
    ):
        assert response.headers["Content-Length"] == str(_SIZE)
        assert await response.read() == b""


async def test_an_expired_link_is_403_and_asking_again_gives_a_fresh_one(sim: Simulator) -> None:
    task_id, link = await _finished_link(sim)
    sim.expire_links()
    assert (await _get(link)).head.startswith("HTTP/1.1 403")
    assert (await _get(await _link(sim, task_id))).head.startswith("HTTP/1.1 200")


async def test_a_reencoded_link_or_a_stray_authorization_is_refused(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    assert (await _get(link.replace("%2F", "/"))).head.startswith("HTTP/1.1 403")
    assert (await _get(link, "Authorization: Bearer x")).head.startswith("HTTP/1.1 400")


async def test_connections_are_reused_and_told_apart(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.get(URL(link, encoded=True)) as response:
                assert len(await response.read()) == _SIZE
    await _get(link)
    first, second, third = (entry.peer for entry in sim.log.select("cdn"))
    assert first == second != third


# -- faults on the way down ------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 262_144, 999_999])
async def test_a_cut_delivers_exactly_the_bytes_before_it(sim: Simulator, at: int) -> None:
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("cut", service="cdn", at=at))
    cut = await _get(link)
    assert f"Content-Length: {_SIZE}" in cut.head
    assert cut.body == pattern(0, at)
    entry = await sim.wait_for(lambda e: _file(e) and e.done)
    assert (entry.cut, entry.aborted, entry.bytes_sent) == (True, False, at)
    assert (await _get(link)).body == pattern(0, _SIZE)


async def test_a_stall_holds_until_released(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    stall = sim.faults.add(Fault("stall", service="cdn", at=1000))
    reader, writer = await _connect(link)
    await _send_get(writer, link)
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(1000) == pattern(0, 1000)
    entry = await sim.wait_for(lambda e: _file(e) and e.stalled)
    assert (entry.bytes_sent, entry.done) == (1000, False)
    stall.release()
    assert await reader.read() == pattern(1000, _SIZE - 1000)
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_is_seen(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("stall", service="cdn", at=1000))
    reader, writer = await _connect(link)
    await _send_get(writer, link)
    await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(1000)
    writer.close()
    await writer.wait_closed()
    entry = await sim.wait_for(lambda e: _file(e) and e.done)
    assert (entry.aborted, entry.cut, entry.bytes_sent) == (True, False, 1000)


async def test_a_client_that_stops_reading_holds_the_sender_back(sim: Simulator) -> None:
    """1 GiB is never in memory: what is sent stays near the sockets' buffers."""
    sim.tasks.size_bytes = 1 << 30
    _, link = await _finished_link(sim)
    reader, writer = await _connect(link)
    await _send_get(writer, link)
    await reader.readuntil(b"\r\n\r\n")
    assert (await reader.readexactly(1_048_576))[-1] == byte_at(1_048_575)
    writer.transport.abort()
    entry = await sim.wait_for(lambda e: _file(e) and e.done)
    assert entry.aborted
    assert entry.bytes_sent < 64 << 20


async def test_drip_arrives_whole(sim: Simulator) -> None:
    sim.tasks.size_bytes = 3000
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("drip", service="cdn", rate=100_000))
    assert (await _get(link)).body == pattern(0, 3000)


@pytest.mark.parametrize(
    ("delta", "declared", "received"), [(10, 1010, 1000), (-10, 990, 1010), (-2000, 0, 3000)]
)
async def test_a_wrong_length_is_wrong_on_the_wire(
    sim: Simulator, delta: int, declared: int, received: int
) -> None:
    sim.tasks.size_bytes = 1000
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("wrong_length", service="cdn", delta=delta))
    reply = await _get(link)
    assert f"Content-Length: {declared}\r\n" in reply.head
    assert len(reply.body) == received


async def test_chunked_has_no_length(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("chunked", service="cdn"))
    async with (
        aiohttp.ClientSession() as session,
        session.get(URL(link, encoded=True)) as response,
    ):
        assert "Content-Length" not in response.headers
        assert hashlib.sha256(await response.read()).hexdigest() == pattern_sha256(_SIZE)


async def test_chunked_cut_has_no_last_chunk(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("chunked", service="cdn"))
    sim.faults.add(Fault("cut", service="cdn", at=5))
    assert (await _get(link)).body == b"5\r\n" + pattern(0, 5) + b"\r\n"


async def test_http10_ends_by_closing(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("http10", service="cdn"))
    reply = await _get(link)
    assert reply.head.startswith("HTTP/1.0 200")
    assert "Content-Length" not in reply.head
    assert "Transfer-Encoding" not in reply.head
    assert reply.body == pattern(0, _SIZE)


async def test_no_range_and_a_changed_etag(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("no_range", service="cdn"))
    reply = await _get(link, "Range: bytes=10-")
    assert reply.head.startswith("HTTP/1.1 200")
    etag = next(line for line in reply.head.split("\r\n") if line.startswith("ETag: "))[6:]
    sim.faults.add(Fault("etag_change", service="cdn"))
    replaced = await _get(link, "Range: bytes=10-", f"If-Range: {etag}")
    assert replaced.head.startswith("HTTP/1.1 200")
    assert etag not in replaced.head
    assert replaced.body != pattern(0, _SIZE)
    assert replaced.body[8:9] != pattern(8, 1)  # behind what makes it a video


async def test_redirect_and_extra_headers(sim: Simulator) -> None:
    _, link = await _finished_link(sim)
    sim.faults.add(Fault("redirect", service="cdn", location="http://127.0.0.1:1/x"))
    reply = await _get(link)
    assert reply.head.startswith("HTTP/1.1 302")
    assert "Location: http://127.0.0.1:1/x" in reply.head
    extra = (("Set-Cookie", "a=b"), ("Keep-Alive", "timeout=5"))
    sim.faults.add(Fault("headers", service="cdn", headers=extra))
    reply = await _get(link)
    assert "Set-Cookie: a=b\r\nKeep-Alive: timeout=5" in reply.head


# -- faults of a submit ----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "renders"), [("hangup", 0), ("lost", 1)])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_lost_reply_and_an_unread_request_look_alike_but_cost_differently(
    sim: Simulator, kind: Kind, renders: int, reset: bool
) -> None:
    sim.faults.add(Fault(kind, service="openai", operation="submit", reset=reset))
    expected = aiohttp.ClientOSError if reset else aiohttp.ServerDisconnectedError
    async with aiohttp.ClientSession() as session:
        with pytest.raises((expected, aiohttp.ServerDisconnectedError)):
            await _submit(sim, session)
    entry = await sim.wait_for(lambda e: e.operation == "submit" and e.done)
    assert (entry.cut, entry.aborted, entry.status) == (True, False, None)
    assert (sim.submits("openai"), sim.renders("openai")) == (1, renders)


@pytest.mark.parametrize(("kind", "renders"), [("status", 0), ("accepted_status", 1)])
async def test_a_5xx_with_and_without_a_render(sim: Simulator, kind: Kind, renders: int) -> None:
    fault = Fault(kind, service="openai", operation="submit", status=503, retry_after="2")
    sim.faults.add(fault)
    async with aiohttp.ClientSession() as session:
        response = await _submit(sim, session)
        async with response:
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert (await response.json())["error"]["type"] == "server_error"
        async with await _submit(sim, session) as response:
            assert response.status == 200
    assert sim.renders("openai") == renders + 1


async def test_an_upload_that_breaks_off_is_never_processed(sim: Simulator) -> None:
    _, writer = await _connect(sim.openai_url)
    writer.write(
        b"POST /v1/videos HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-sim\r\n"
        b'Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"prompt":"cat"}'
    )
    await writer.drain()
    await sim.wait_for(lambda e: e.operation == "submit")
    writer.close()
    await writer.wait_closed()
    entry = await sim.wait_for(lambda e: e.done)
    assert (entry.aborted, entry.status, sim.renders("openai")) == (True, None, 0)


async def test_a_large_picture_is_hashed_not_kept(sim: Simulator) -> None:
    picture = "data:image/png;base64," + "A" * 100_000
    body = {"prompt": "cat", "input_reference": {"image_url": picture}}
    headers = {"Authorization": "Bearer sk-sim"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(sim.openai_url + "/videos", json=body) as response,
    ):
        assert response.status == 200
    kept = sim.log.select("openai", "submit")[0].body["input_reference"]
    digest = hashlib.sha256(picture.encode()).hexdigest()
    assert kept == {"image_url": f"sha256:{digest}:{len(picture)}"}


async def test_half_a_json_reply_is_framed_well(sim: Simulator) -> None:
    sim.faults.add(Fault("malformed", operation="submit"))
    async with aiohttp.ClientSession() as session, await _submit(sim, session) as response:
        text = await response.text()
        assert (response.status, response.headers["Content-Length"]) == (200, str(len(text)))
        with pytest.raises(json.JSONDecodeError):
            json.loads(text)
    assert sim.renders("openai") == 1


async def test_a_held_submit_is_processed_only_when_released(sim: Simulator) -> None:
    hold = sim.faults.add(Fault("hold", operation="submit"))
    async with aiohttp.ClientSession() as session:
        waiting = asyncio.create_task(_submit(sim, session))
        await sim.wait_for(lambda e: e.stalled)
        assert sim.renders("openai") == 0
        hold.release()
        async with await waiting as response:
            assert response.status == 200
    assert sim.renders("openai") == 1


async def test_a_stalled_submit_was_processed(sim: Simulator) -> None:
    stall = sim.faults.add(Fault("stall", operation="submit", at=None))
    async with aiohttp.ClientSession() as session:
        waiting = asyncio.create_task(_submit(sim, session))
        await sim.wait_for(lambda e: e.stalled)
        assert sim.renders("openai") == 1
        stall.release()
        async with await waiting as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("status", "code", "told"), [(429, 1303, 1303), (429, None, 1302), (500, None, 5000)]
)
async def test_native_codes_of_kling(
    sim: Simulator, status: int, code: int | None, told: int
) -> None:
    sim.faults.add(Fault("status", service="kling", status=status, code=code))
    async with (
        aiohttp.ClientSession() as session,
        session.post(sim.kling_url + "/v1/videos/text2video", json={}) as response,
    ):
        assert (response.status, (await response.json())["code"]) == (status, told)


@pytest.mark.parametrize(
    ("status", "code", "path"),
    [
        (429, None, ("code", 50429)),
        (429, 50430, ("code", 50430)),
        (500, None, ("code", 50500)),
        (401, None, ("ResponseMetadata", "SignatureDoesNotMatch")),
    ],
)
async def test_native_codes_of_jimeng(
    sim: Simulator, status: int, code: int | None, path: tuple[str, object]
) -> None:
    sim.faults.add(Fault("status", service="jimeng", operation="poll", status=status, code=code))
    url = sim.jimeng_url + "/?Action=CVSync2AsyncGetResult&Version=2022-08-31"
    async with aiohttp.ClientSession() as session, session.post(url, json={}) as response:
        answer = await response.json()
    assert response.status == status
    found = answer[path[0]]
    assert (found["Error"]["Code"] if isinstance(found, dict) else found) == path[1]


async def test_refused_connections_and_back(sim: Simulator) -> None:
    url = sim.openai_url
    await sim.refuse("openai")
    with pytest.raises(ConnectionRefusedError):
        await _connect(url)
    await sim.accept("openai")
    async with aiohttp.ClientSession() as session, await _submit(sim, session) as response:
        assert response.status == 200
    assert sim.openai_url == url


async def test_the_limit_of_open_tasks_is_each_accounts_own() -> None:
    settings = Settings(manual=True, max_in_flight=1)
    async with Simulator(settings) as sim, aiohttp.ClientSession() as session:
        async with await _submit(sim, session) as response:
            task_id = (await response.json())["id"]
        async with await _submit(sim, session) as response:
            assert response.status == 429
        sim.finish(task_id)
        async with await _submit(sim, session) as response:
            assert response.status == 200


async def test_stop_ends_what_is_held() -> None:
    """Nothing hangs, and the cut is not taken for a client that left."""
    async with aiohttp.ClientSession() as session:
        sim = Simulator(Settings(manual=True))
        await sim.start()
        sim.faults.add(Fault("hold", operation="submit"))
        waiting = asyncio.create_task(_submit(sim, session))
        entry = await sim.wait_for(lambda e: e.stalled)
        await sim.stop()
        with pytest.raises(aiohttp.ClientError):
            await waiting
    assert (entry.done, entry.aborted) == (True, False)


async def test_equal_seeds_give_equal_ids() -> None:
    seen = []
    for _ in range(2):
        async with (
            Simulator(Settings(manual=True, seed=7)) as sim,
            aiohttp.ClientSession() as session,
            await _submit(sim, session) as response,
        ):
            seen.append((await response.json())["id"])
    assert seen[0] == seen[1]
    assert len(seen[0]) == len("video_") + 48


async def test_wait_for_tells_the_log_when_nothing_comes(sim: Simulator) -> None:
    with pytest.raises(TimeoutError, match="the log ends"):
        await sim.wait_for(lambda e: e.operation == "never", timeout_s=0.01)


# -- the control endpoint --------------------------------------------------------------------


async def test_control_does_all_of_it_over_http(sim: Simulator) -> None:
    async with aiohttp.ClientSession(sim.control_url) as control:
        async with control.get("/") as response:
            assert (await response.json())["openai_url"] == sim.openai_url
        fault = {"kind": "status", "service": "openai", "status": 429, "times": 1}
        async with control.post("/faults", json=[fault]) as response:
            assert await response.json() == {"ids": [1]}
        async with aiohttp.ClientSession() as session:
            async with await _submit(sim, session) as response:
                assert response.status == 429
            async with await _submit(sim, session) as response:
                task_id = (await response.json())["id"]
        async with control.get("/faults") as response:
            (listed,) = await response.json()
            assert (listed["id"], listed["hits"]) == (1, 1)
        step = {"state": "in_progress", "progress": 40}
        async with control.post(f"/tasks/{task_id}/step", json=step) as response:
            assert (await response.json())["state"] == "in_progress"
        async with control.post(f"/tasks/{task_id}/fail", json={"code": "bad"}) as response:
            assert (await response.json())["failure"]["code"] == "bad"
        async with control.post(f"/tasks/{task_id}/finish") as response:
            assert (await response.json())["state"] == "completed"
        async with control.get("/log?service=openai&operation=submit") as response:
            statuses = [entry["status"] for entry in await response.json()]
            assert statuses == [429, 200]
        async with control.post("/settings", json={"size_bytes": 5}) as response:
            assert (await response.json())["size_bytes"] == 5
        async with control.post("/services/kling/refuse") as response:
            assert response.status == 200
        async with control.post("/reset") as response:
            assert response.status == 200
        async with control.get("/tasks") as response:
            assert await response.json() == []
        async with control.get("/log") as response:
            assert await response.json() == []
    assert sim.tasks.size_bytes == _SIZE
    _, writer = await _connect(sim.kling_url)
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    ("path", "body", "status", "told"),
    [
        ("/faults", {"kind": "boom"}, 400, "accepted: hangup"),
        ("/tasks/nope/finish", None, 404, "nope"),
        ("/tasks/nope/step", {"state": "done"}, 400, "accepted: queued"),
        ("/faults/9/release", None, 404, "9"),
        ("/services/nobody/refuse", None, 404, "nobody"),
        ("/settings", {"speed": 0}, 400, "above 0"),
        ("/settings", {"size": 1}, 400, "Unknown setting"),
    ],
)
async def test_control_says_what_it_accepts(
    sim: Simulator, path: str, body: object, status: int, told: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(sim.control_url + path, json=body) as response,
    ):
        assert response.status == status
        assert told in (await response.json())["error"]
