"""Waiting for a task without asking again and again: long polls, events, and when to ask next."""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from io import StringIO
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from proxy.errors import NotFound
from proxy.gateway.events import MAX_UNSENT_BYTES, EventStreams
from proxy.gateway.listener import Listener, ListenerOptions
from proxy.model import Call, Kind, Operation, Principal, Stage, Task
from proxy.sim import Fault
from proxy.store import StoreDown
from proxy.tasks.changes import TaskChanges
from proxy.telemetry.exchange import Exchange, Head
from proxy.telemetry.logs import make_logger
from tests.rig.downloads import Raw, connected, connected_to, line_of, told
from tests.rig.eventually import eventually, read_until
from tests.rig.house import House, OpenHouse, Plan

WAIT_S = 20.0  # only a hang gets here
QUERY = "Version=2022-08-31&Action=CVSync2AsyncGetResult"


@pytest.fixture
async def manual(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house whose renders move only when told to."""
    async with open_house(Plan(manual=True)) as house:
        yield house


async def upstream_id(house: House, task_id: str) -> str:
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    assert task.upstream_id is not None
    return task.upstream_id


async def waiting(house: House, count: int) -> None:
    """Until so many wait in the worker."""
    await eventually(lambda: house.server.parts.changes.waiters >= count)


# ---------------------------------------------------------------- long polls


@dataclass(frozen=True)
class Asked:
    """How a dialect's client asks for the state, and where it reads it."""

    dialect: str
    submit: tuple[str, dict[str, str]]
    get: Callable[[str], tuple[str, str, dict[str, str] | None]]
    id_of: Callable[[Any], str]
    state_of: Callable[[Any], str]
    done: str


ASKED = [
    Asked(
        "openai",
        ("/v1/videos", {"model": "sora-2", "prompt": "a cat"}),
        lambda task_id: ("GET", f"/v1/videos/{task_id}?", None),
        lambda said: str(said["id"]),
        lambda said: str(said["status"]),
        "completed",
    ),
    Asked(
        "generic",
        ("/v1/video/generations", {"model": "sora-2", "prompt": "a cat"}),
        lambda task_id: ("GET", f"/v1/video/generations/{task_id}?", None),
        lambda said: str(said["task_id"]),
        lambda said: str(said["status"]),
        "completed",
    ),
    Asked(
        "kling",
        ("/kling/v1/videos/text2video", {"model_name": "kling-v2-6", "prompt": "a cat"}),
        lambda task_id: ("GET", f"/kling/v1/videos/text2video/{task_id}?", None),
        lambda said: str(said["data"]["task_id"]),
        lambda said: str(said["data"]["task_status"]),
        "succeed",
    ),
    Asked(
        "jimeng",
        (
            "/jimeng/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31",
            {"req_key": "jimeng_t2v_v30", "prompt": "a cat"},
        ),
        lambda task_id: (
            "POST",
            f"/jimeng/?{QUERY}&",
            {"req_key": "jimeng_t2v_v30", "task_id": task_id},
        ),
        lambda said: str(said["data"]["task_id"]),
        lambda said: str(said["data"]["status"]),
        "done",
    ),
]


@pytest.mark.parametrize(
    ("asked", "by"),
    [*((asked, "query") for asked in ASKED), (ASKED[0], "Prefer"), (ASKED[-1], "Prefer")],
    ids=lambda value: value if isinstance(value, str) else value.dialect,
)
async def test_a_wait_ends_with_the_task(manual: House, asked: Asked, by: str) -> None:
    """In every dialect; the access line is that of an ordinary status request."""
    path, body = asked.submit
    made = await manual.post(path, json=body)
    task_id = asked.id_of(made.json())
    method, path, fields = asked.get(task_id)
    options: dict[str, Any] = {} if fields is None else {"json": fields}
    if by == "query":
        path += "wait=60"
    else:
        options["headers"] = {"Prefer": "wait=60"}
    reading = asyncio.create_task(manual.request(method, path, **options))
    await waiting(manual, 1)
    manual.sim.step(await upstream_id(manual, task_id), "in_progress")
    manual.sim.finish(await upstream_id(manual, task_id))
    reply = await reading
    assert reply.status == 200
    assert asked.state_of(reply.json()) == asked.done
    assert "openai-poll-after-ms" not in reply.headers
    line = await manual.line(lambda line: line["operation"] == "get")
    assert (line["status"], line["reason"], line["task_id"]) == (200, "done", task_id)
    assert line["dialect"] == asked.dialect


async def test_a_wait_that_is_over_tells_the_state_as_it_is(manual: House) -> None:
    task_id = await manual.create()
    reply = await manual.get(f"/v1/videos/{task_id}?wait=1")
    assert (reply.status, reply.json()["status"]) == (200, "queued")
    assert int(reply.headers["openai-poll-after-ms"]) > 0
    assert manual.server.parts.changes.waiters == 0


async def test_what_has_ended_is_not_waited_for(house: House) -> None:
    task_id = await house.completed()
    reply = await house.get(f"/v1/videos/{task_id}?wait=60")
    assert reply.json()["status"] == "completed"


async def test_a_wait_for_a_task_that_fails_ends_too(manual: House) -> None:
    task_id = await manual.create()
    reading = asyncio.create_task(manual.get(f"/v1/videos/{task_id}?wait=60"))
    await waiting(manual, 1)
    manual.sim.fail(await upstream_id(manual, task_id))
    assert (await reading).json()["status"] == "failed"


@pytest.mark.parametrize("text", ["61", "-1", "1.5", "soon", ""])
async def test_a_wait_above_a_minute_is_refused_by_name(manual: House, text: str) -> None:
    task_id = await manual.create()
    reply = await manual.get(f"/v1/videos/{task_id}?wait={text}")
    assert reply.status == 400
    assert reply.json()["error"]["param"] == "wait"
    line = await manual.line(lambda line: line["operation"] == "get")
    assert (line["status"], line["reason"]) == (400, "invalid_value")


async def test_a_foreign_task_is_not_waited_for(manual: House) -> None:
    task_id = await manual.create()
    other = {"Authorization": f"Bearer {(await manual.new_token()).token}"}
    reply = await manual.get(f"/v1/videos/{task_id}?wait=60", headers=other)
    missing = await manual.get("/v1/videos/video_none?wait=60", headers=other)
    assert reply.status == missing.status == 404
    assert reply.body.replace(task_id.encode(), b"video_none") == missing.body


async def test_a_deleted_task_is_not_waited_for_any_longer(manual: House) -> None:
    task_id = await manual.create()
    reading = asyncio.create_task(manual.get(f"/v1/videos/{task_id}?wait=60"))
    await waiting(manual, 1)
    assert (await manual.request("DELETE", f"/v1/videos/{task_id}")).status == 200
    assert (await reading).status == 404


async def test_a_client_that_leaves_leaves_nothing(manual: House) -> None:
    task_id = await manual.create()
    async with connected(manual) as raw:
        await raw.send(f"/v1/videos/{task_id}?wait=60", manual.bearer)
        await waiting(manual, 1)
        raw.kill()
    line = await manual.line(lambda line: line["operation"] == "get")
    assert line["reason"] == "client_gone"
    assert manual.server.parts.changes.waiters == 0


async def test_a_drain_ends_every_wait_at_once(manual: House) -> None:
    """The long poll is told the state, the events end as a whole, and both may come back to
    another worker."""
    task_id = await manual.create()
    async with connected(manual) as events:
        await events.send(f"/v1/videos/{task_id}/events", manual.bearer)
        assert await events.head() == 200
        asked = asyncio.create_task(manual.get(f"/v1/videos/{task_id}?wait=60"))
        await waiting(manual, 2)
        await manual.server.drain()
        reply = await asked
        assert (reply.status, reply.json()["status"]) == (200, "queued")
        body, whole = await events.body()
        assert whole
        assert [name for _, name, _ in parsed(body)] == ["video.queued"]
        line = await line_of(manual, events)
        assert (line["status"], line["reason"]) == (200, "drain")


# ---------------------------------------------------------------- when to ask again


async def test_who_asks_is_told_when_it_is_worth_asking_again(open_house: OpenHouse) -> None:
    """In the schedule's own rhythm, in every unfinished answer; the SDK needs an integer."""
    rhythm = "poll_first_s = 2\npoll_interval_s = 7\npoll_max_s = 30"
    async with open_house(Plan(manual=True, poll=rhythm)) as house:
        made = await house.post("/v1/videos", json={"model": "sora-2", "prompt": "a cat"})
        asked = await house.get(f"/v1/videos/{made.json()['id']}")
        for reply in (made, asked):
            assert reply.headers["openai-poll-after-ms"] == "7000"
            assert reply.headers["Retry-After"] == "7"


async def test_a_finished_task_is_not_worth_asking_again(house: House) -> None:
    reply = await house.get(f"/v1/videos/{await house.completed()}")
    assert "openai-poll-after-ms" not in reply.headers
    assert "Retry-After" not in reply.headers


# ---------------------------------------------------------------- events


def parsed(body: bytes) -> list[tuple[int, str, dict[str, Any]]]:
    """(id, event, data) of each event; comments are left out."""
    events = []
    for block in body.decode().split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")
        )
        if fields:
            assert list(fields) == ["id", "event", "data"]
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


async def test_events_tell_a_tasks_life(manual: House) -> None:
    """Each with the task's version and the whole Video object; the stream ends with the task."""
    task_id = await manual.create()
    made = await upstream_id(manual, task_id)
    async with connected(manual) as raw:
        await raw.send(f"/v1/videos/{task_id}/events", manual.bearer)
        assert await raw.head() == 200
        assert raw.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert raw.headers["Cache-Control"] == "no-store"
        await waiting(manual, 1)
        manual.sim.step(made, "in_progress", 40)
        await read_until(
            lambda: manual.get(f"/v1/videos/{task_id}"),
            lambda found: found.json()["progress"] == 40,
        )
        manual.sim.finish(made)
        body, whole = await raw.body()
        assert whole
        final = await manual.get(f"/v1/videos/{task_id}")
        # The connection is as good as new.
        await raw.send(f"/v1/videos/{task_id}", manual.bearer)
        assert json.loads((await raw.reply()).body) == final.json()
    events = parsed(body)
    assert [name for _, name, _ in events] == [
        *("video.queued", "video.in_progress", "video.completed")
    ]
    versions = [version for version, _, _ in events]
    assert versions == sorted(set(versions))
    assert [data["status"] for _, _, data in events] == ["queued", "in_progress", "completed"]
    assert events[1][2]["progress"] == 40
    assert events[-1][2] == final.json()
    line = await manual.line(lambda line: line["operation"] == "events")
    assert (line["status"], line["reason"], line["bytes"]) == (200, "done", len(body))


async def test_a_client_that_comes_back_hears_what_it_missed(manual: House) -> None:
    """With its Last-Event-ID: the present state if it is newer, else only what comes."""
    task_id = await manual.create()
    path = f"/v1/videos/{task_id}/events"
    task = await manual.server.store.tasks.get(task_id)
    assert task is not None
    async with connected(manual) as up_to_date, connected(manual) as behind:
        await up_to_date.send(path, {**manual.bearer, "Last-Event-ID": str(task.version)})
        await behind.send(path, {**manual.bearer, "Last-Event-ID": str(task.version - 1)})
        assert await up_to_date.head() == await behind.head() == 200
        await waiting(manual, 2)
        manual.sim.finish(await upstream_id(manual, task_id))
        names = [[name for _, name, _ in parsed((await r.body())[0])] for r in (up_to_date, behind)]
    assert names == [["video.completed"], ["video.queued", "video.completed"]]


@pytest.mark.parametrize("last", ["", "0", "-1", "abc", "1e3", "99999999999999999999", "1000"])
async def test_an_event_id_that_is_none_of_ours_counts_as_none(house: House, last: str) -> None:
    task_id = await house.completed()
    reply, line = await told(house, f"/v1/videos/{task_id}/events", {"Last-Event-ID": last})
    assert (reply.status, reply.whole, line["reason"]) == (200, True, "done")
    assert [name for _, name, _ in parsed(reply.body)] == ["video.completed"]


async def test_who_has_seen_the_end_is_told_to_stay_away(house: House) -> None:
    """An EventSource comes back after every end of a stream, except after a 204."""
    task_id = await house.completed()
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    seen = {"Last-Event-ID": str(task.version)}
    reply, line = await told(house, f"/v1/videos/{task_id}/events", seen)
    assert (reply.status, reply.body, line["status"]) == (204, b"", 204)


async def test_a_foreign_task_has_no_events(manual: House) -> None:
    task_id = await manual.create()
    other = {"Authorization": f"Bearer {(await manual.new_token()).token}"}
    foreign = await manual.get(f"/v1/videos/{task_id}/events", headers=other)
    missing = await manual.get("/v1/videos/video_none/events", headers=other)
    assert foreign.status == missing.status == 404
    assert foreign.headers["Content-Type"] == "application/json"
    assert foreign.body.replace(task_id.encode(), b"video_none") == missing.body
    line = await manual.line(lambda line: line["operation"] == "events")
    assert (line["status"], line["reason"]) == (404, "not_found")


async def test_a_deleted_tasks_events_end_without_a_word(manual: House) -> None:
    task_id = await manual.create()
    async with connected(manual) as raw:
        await raw.send(f"/v1/videos/{task_id}/events", manual.bearer)
        await raw.head()
        await waiting(manual, 1)
        await manual.request("DELETE", f"/v1/videos/{task_id}")
        body, whole = await raw.body()
    assert whole
    assert [name for _, name, _ in parsed(body)] == ["video.queued"]
    line = await manual.line(lambda line: line["operation"] == "events")
    assert line["reason"] == "gone"


async def test_a_revoked_keys_events_and_long_polls_end_without_the_result(
    manual: House,
) -> None:
    """They were let in before; what happens afterwards is not theirs to hear."""
    made = await manual.new_token()
    bearer = {"Authorization": f"Bearer {made.token}"}
    created = await manual.post("/v1/videos", json={"prompt": "a cat"}, headers=bearer)
    task_id = created.json()["id"]
    path = f"/v1/videos/{task_id}"
    poll = asyncio.create_task(manual.get(f"{path}?wait=30", headers=bearer))
    async with connected(manual) as raw:
        await raw.send(f"{path}/events", bearer)
        assert await raw.head() == 200
        await waiting(manual, 2)
        await manual.server.store.tokens.revoke(made.record.id, int(time.time() * 1000))
        await read_until(
            lambda: manual.get(path, headers=bearer), lambda found: found.status == 401
        )
        manual.sim.finish(await upstream_id(manual, task_id))
        body, whole = await raw.body()
    assert whole
    assert [name for _, name, _ in parsed(body)] == ["video.queued"]
    assert (await poll).status == 401
    line = await manual.line(lambda line: line["operation"] == "events")
    assert line["reason"] == "revoked"


# ---------------------------------------------------------------- the stream by itself


TASK = Task(
    id="video_1",
    owner="acme",
    token_id="tok",
    dialect="openai",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="sora-2",
    created_ms=0,
    updated_ms=0,
)


@dataclass
class Scene:
    """Event streams behind a listener of their own, of one task the test moves."""

    task: Task | None = TASK
    show: bytes = b"{}"
    fault: Exception | None = None
    ended: asyncio.Queue[Exchange] = field(default_factory=asyncio.Queue)
    url: str = ""

    def __post_init__(self) -> None:
        self.changes = TaskChanges(self.load)

    async def load(self, _task_id: str) -> Task | None:
        if self.fault is not None:
            raise self.fault
        return self.task

    @property
    def version(self) -> int:
        return 0 if self.task is None else self.task.version

    def move(self, **changes: Any) -> None:
        assert self.task is not None
        self.task = replace(self.task, version=self.task.version + 1, **changes)
        self.changes.notify(TASK.id)

    @asynccontextmanager
    async def open(self, heartbeat_s: float = 60.0) -> AsyncIterator[Scene]:
        async def may_go_on(_principal: Principal) -> bool:
            return True

        log = make_logger(StringIO())
        streams = EventStreams(self.changes, may_go_on, log, heartbeat_s)

        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            head = Head(request.method, "/", "/", (), request.headers, "-")
            exchange = Exchange("req_1", head, 0, Call("openai", Operation.EVENTS, {}, {}))
            try:
                return await streams.serve(request, exchange, TASK, lambda _task: self.show, {})
            except ConnectionError:
                exchange.reason = "client_gone"
                raise
            except asyncio.CancelledError:
                exchange.reason = "client_gone"
                raise
            finally:
                self.ended.put_nowait(exchange)

        listener = Listener(serve, ListenerOptions(), lambda _line: None)
        try:
            self.url = f"http://{await listener.start('127.0.0.1:0')}"
            yield self
        finally:
            await listener.close()

    async def reason(self) -> str:
        async with asyncio.timeout(WAIT_S):
            return (await self.ended.get()).reason


async def opened(raw: Raw, **options: Any) -> None:
    await raw.send("/", {}, **options)
    assert await raw.head() == 200


async def test_a_silent_stream_has_a_heartbeat() -> None:
    """Proxies between cut what is silent; and a client that is gone shows when it is written to."""
    async with Scene().open(heartbeat_s=0.01) as scene, connected_to(scene.url) as raw:
        await opened(raw)
        text = b"id: 1\nevent: video.queued\ndata: {}\n\n"
        beat = b": still here\n\n"
        framed = b"".join(b"%x\r\n%b\r\n" % (len(t), t) for t in (text, beat, beat))
        assert await raw.some(len(framed)) == framed
        scene.move(stage=Stage.COMPLETED)
        rest, whole = await raw.body()
        assert whole
        assert rest.replace(beat, b"") == b"id: 2\nevent: video.completed\ndata: {}\n\n"
        assert await scene.reason() == "done"


async def test_a_client_that_never_reads_is_left_behind() -> None:
    """It costs a bounded amount of memory, and no other client its events."""
    scene = Scene(show=b'"%b"' % (b"x" * MAX_UNSENT_BYTES))
    async with (
        scene.open(),
        connected_to(scene.url, rcvbuf=4096) as sleeper,
        connected_to(scene.url) as reader,
    ):
        await sleeper.send("/", {})
        await opened(reader)
        for _ in range(200):
            scene.move()
            async with asyncio.timeout(WAIT_S):
                while b"id: %d\n" % scene.version not in reader._held:
                    await reader._more()
            if not scene.ended.empty():
                break
        assert await scene.reason() == "idle_client"
        scene.move(stage=Stage.COMPLETED)
        _, whole = await reader.body()
        assert whole


async def test_without_chunks_the_connection_ends_the_stream() -> None:
    async with Scene().open() as scene, connected_to(scene.url) as raw:
        await opened(raw, version="1.0")
        assert "Transfer-Encoding" not in raw.headers
        await eventually(lambda: scene.changes.waiters != 0)
        scene.move(stage=Stage.FAILED)
        body, whole = await raw.body()
        assert whole
        assert body.count(b"event: video.") == 2


async def test_a_store_that_is_away_for_a_moment_breaks_no_stream() -> None:
    async with Scene().open() as scene, connected_to(scene.url) as raw:
        scene.fault = StoreDown("away")
        await opened(raw)
        beat = b": still here\n\n"
        text = b"id: 1\nevent: video.queued\ndata: {}\n\n"
        framed = b"".join(b"%x\r\n%b\r\n" % (len(t), t) for t in (text, beat))
        assert await raw.some(len(framed)) == framed
        scene.fault = None
        scene.move(stage=Stage.COMPLETED)
        scene.changes.notify_all()
        _, whole = await raw.body()
        assert whole


@pytest.mark.parametrize("fault", [NotFound("broken"), ZeroDivisionError()], ids=["known", "bug"])
async def test_a_stream_that_fails_never_looks_whole(fault: Exception) -> None:
    """No second head in the middle of a body either."""
    async with Scene(fault=fault).open() as scene, connected_to(scene.url) as raw:
        await opened(raw)
        body, whole = await raw.body()
        assert not whole
        assert body in (b"", b"id: 1\nevent: video.queued\ndata: {}\n\n")


async def test_a_client_that_leaves_ends_its_stream() -> None:
    async with Scene().open() as scene, connected_to(scene.url) as raw:
        await opened(raw)
        raw.kill()
        assert await scene.reason() == "client_gone"
        assert scene.changes.waiters == 0


async def test_a_task_that_is_gone_ends_the_stream() -> None:
    async with Scene(task=None).open() as scene, connected_to(scene.url) as raw:
        await opened(raw)
        _, whole = await raw.body()
        assert whole
        assert await scene.reason() == "gone"


# ---------------------------------------------------------------- thousands


@pytest.fixture
async def large(open_house: OpenHouse) -> AsyncIterator[House]:
    """One that lets a single client wait two thousand times, and has patience with a poll."""
    limits = "streams_per_token = 5000\nstreams_per_address = 5000"
    async with open_house(Plan(manual=True, limits=limits, timeouts="poll_s = 100")) as house:
        yield house


async def test_two_thousand_waiters_cost_one_poll_at_a_time(large: House) -> None:
    """Half by long poll, half by events: the upstream is asked once, all are told the end."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    task_id = await large.create()
    held = large.sim.faults.add(Fault("hold", service="openai", operation="poll", times=None))
    await large.sim.wait_for(lambda e: e.operation == "poll" and e.stalled)
    large.sim.log.clear()
    base = f"{large.url}/v1/videos/{task_id}"
    connector = TCPConnector(limit=0, force_close=True)

    async with ClientSession(
        connector=connector, timeout=ClientTimeout(total=60), headers=large.bearer
    ) as session:

        async def ask(url: str) -> bytes:
            async with session.get(url) as reply:
                assert reply.status == 200
                return await reply.read()

        asked: list[asyncio.Task[bytes]] = []
        while len(asked) < 2000:  # in groups: client and gateway share one loop here
            for number in range(100):
                url = f"{base}?wait=60" if number % 2 else f"{base}/events"
                asked.append(asyncio.create_task(ask(url)))
            await waiting(large, len(asked))
        large.sim.finish(await upstream_id(large, task_id))
        assert large.sim.log.select("openai", "poll") == []
        held.release()
        bodies = await asyncio.gather(*asked)
    for number, body in enumerate(bodies):
        video = json.loads(body) if number % 2 else parsed(body)[-1][2]
        assert video["status"] == "completed", number
    assert large.sim.log.select("openai", "poll") == [], "no waiter asked the upstream"
    assert large.server.parts.changes.waiters == 0
