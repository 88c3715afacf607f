"""With a collector configured there is one trace for each task, whoever does what, and what is
told of it opens no door. Without one nothing of it is there.

The collector is a real receiver of OTLP over HTTP: it decodes what the SDK sends, and has the
resource of each span, for a fake that took our own values would not notice a span that the
protocol cannot carry, or one that never left the queue.
"""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from proxy.http.trace_context import TraceParent, parse
from proxy.sim.faults import Fault
from proxy.telemetry.otlp import check_collector, traces_url
from proxy.telemetry.spans import attempt_id, trace_id_of
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.programs import ROOT, program, run
from tests.rig.receivers import receiving

WAIT_S = 20.0  # only a hang gets here
PARENT = TraceParent("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
TRACED = {"traceparent": PARENT.header(), "tracestate": "vendor=1"}
UNSAMPLED = {"traceparent": PARENT.header()[:-1] + "0", "tracestate": "vendor=1"}
PROMPT = "a red fox in the snow"


# ---------------------------------------------------------------- the collector


@dataclass(frozen=True)
class Got:
    """One span as it came. `instance` is the worker that sent it."""

    span: Sent
    instance: str
    service: str

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def id(self) -> str:
        return self.span.span_id.hex()

    @property
    def parent(self) -> str:
        return self.span.parent_span_id.hex()

    @property
    def facts(self) -> dict[str, Any]:
        return facts_of(self.span.attributes)

    @property
    def is_error(self) -> bool:
        return self.span.status.code == Status.STATUS_CODE_ERROR


def facts_of(attributes: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in attributes:
        found[each.key] = getattr(each.value, each.value.WhichOneof("value"))
    return found


@dataclass
class Collector:
    """`status` is what it answers; `hangs`: it never does."""

    status: int = 200
    hangs: bool = False
    port: int = 0
    got: list[Got] = field(default_factory=list)
    raw: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    _came: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.asked.set()
        if self.hangs:
            await asyncio.Event().wait()
        assert request.path == "/v1/traces"
        self.headers = {name.lower(): value for name, value in request.headers.items()}
        self.raw += body
        async with self._came:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                said = facts_of(resource.resource.attributes)
                self.got += [
                    Got(span, said["service.instance.id"], said["service.name"])
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
            self._came.notify_all()
        return web.Response(status=self.status)

    async def until(self, is_it: Callable[[Sequence[Got]], bool]) -> list[Got]:
        async with asyncio.timeout(WAIT_S), self._came:
            await self._came.wait_for(lambda: is_it(self.got))
        return list(self.got)

    async def named(self, name: str, count: int = 1) -> list[Got]:
        """The spans of this name, once so many have come."""
        found = await self.until(lambda got: sum(s.name == name for s in got) >= count)
        return [span for span in found if span.name == name]

    def one(self, name: str) -> Got:
        [found] = [span for span in self.got if span.name == name]
        return found


@asynccontextmanager
async def collecting(**how: Any) -> AsyncIterator[Collector]:
    collector = Collector(**how)
    runner = web.ServerRunner(
        web.Server(collector.serve, handler_cancellation=True), shutdown_timeout=0.1
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        collector.port = runner.addresses[0][1]
        yield collector
    finally:
        await runner.cleanup()


def tracing(url: str, more: str = "") -> str:
    return f'[tracing]\nendpoint = "{url}"\nservice_name = "gateway-1"\n{more}\n'


@pytest.fixture(autouse=True)
def _sends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


def heard(house: House, operation: str) -> dict[str, str]:
    """What the upstream was told of the trace."""
    entry = house.sim.log.select("openai", operation)[-1]
    return {name: entry.headers[name] for name in TRACED if name in entry.headers}


def span_in(headers: dict[str, str]) -> TraceParent:
    found = parse(headers["traceparent"])
    assert found is not None
    return found


# ---------------------------------------------------------------- one trace


async def test_a_task_is_one_trace_that_joins_its_clients(open_house: OpenHouse) -> None:
    async with collecting() as collector:
        async with open_house(Plan(sections=tracing(collector.url))) as house:
            reply = await house.post("/v1/videos", json={"prompt": PROMPT}, headers=TRACED)
            task_id = reply.json()["id"]
            await house.finished(task_id)
            submit_heard = heard(house, "submit")
            assert (await house.get(f"/v1/videos/{task_id}/content")).status == 200
            content_heard = heard(house, "content")
        spans = collector.got
        assert {span.trace for span in spans} == {PARENT.trace_id}
        assert {span.service for span in spans} == {"gateway-1"}
        root, request = collector.one("task create"), collector.one("POST create")
        submit, download = collector.one("submit"), collector.one("GET content")
        # The client's span has two children: its request, and the task that outlives it.
        assert (root.parent, request.parent) == (PARENT.span_id, PARENT.span_id)
        others = [span for span in spans if span not in (root, request)]
        assert {span.parent for span in others} == {root.id}
        assert len({span.id for span in spans}) == len(spans)
        assert span_in(submit_heard).span_id == submit.id
        assert submit_heard["tracestate"] == "vendor=1"
        # Its own request began no trace: it is the task's, and so is what it caused.
        assert span_in(content_heard) == TraceParent(PARENT.trace_id, download.id)
        assert "tracestate" not in content_heard
        assert not any(span.is_error for span in spans)


async def test_a_task_without_a_trace_of_its_clients_has_one_made_of_its_id(
    open_house: OpenHouse,
) -> None:
    async with collecting() as collector:
        async with open_house(Plan(sections=tracing(collector.url))) as house:
            task_id = await house.completed(prompt=PROMPT)
            submit_heard = heard(house, "submit")
            task = await house.server.store.tasks.get(task_id)
            assert task is not None
            line = await house.server.store.tasks.time_line(task_id)
        root = collector.one("task create")
        assert {span.trace for span in collector.got} == {trace_id_of(task_id)}
        assert root.parent == ""
        assert collector.one("POST create").parent == root.id
        assert submit_heard == {"traceparent": f"00-{root.trace}-{attempt_id(task_id, 1)}-01"}
        # Its whole life, told when it was over.
        assert root.span.start_time_unix_nano == task.created_ms * 1_000_000
        assert root.span.end_time_unix_nano == (task.completed_ms or 0) * 1_000_000
        told = [(e.name, facts_of(e.attributes)["reelway.event"]) for e in root.span.events]
        assert told == [(entry.stage.value, entry.event) for entry in line]
        assert told[0] == ("reserved", "reserved")
        assert told[-1] == ("completed", "completed")
        said = {"reelway.task.id": task_id, "reelway.stage": "completed", "reelway.attempts": 1}
        assert root.facts.items() >= said.items()
        submit = collector.one("submit").facts
        assert (
            submit.items()
            >= {
                "http.request.method": "POST",
                "http.response.status_code": 200,
                "reelway.upstream": "sim-openai",
                "reelway.outcome": "accepted",
                "server.address": "127.0.0.1",
            }.items()
        )
        request = collector.one("POST create").facts
        assert (
            request.items()
            >= {
                "url.path": "/v1/videos",
                "http.response.status_code": 200,
                "reelway.task.id": task_id,
            }.items()
        )


async def test_another_worker_ends_the_trace_the_first_began(open_house: OpenHouse) -> None:
    """The first leaves with the render under way, and keeps nothing of its trace."""
    async with collecting() as collector:
        wanted = Plan(sections=tracing(collector.url), manual=True)
        async with open_house(wanted) as house:
            await house.server.parts.tracker.aclose()  # it looks at no task any more
            await house.post("/v1/videos", json={"prompt": PROMPT}, headers=TRACED)
            await collector.named("submit")
            await house.another_worker()
            [upstream] = house.sim.tasks.of("openai")
            house.sim.finish(upstream.id)
            await collector.named("task create")
        root, submit = collector.one("task create"), collector.one("submit")
        assert submit.instance == collector.one("POST create").instance != root.instance
        assert {span.trace for span in collector.got} == {PARENT.trace_id}
        assert submit.parent == root.id


async def test_a_failed_task_is_an_error_and_so_is_a_refused_one(open_house: OpenHouse) -> None:
    async with collecting() as collector:
        wanted = Plan(sections=tracing(collector.url), manual=True)
        async with open_house(wanted) as house:
            await house.create(prompt=PROMPT)
            [upstream] = house.sim.tasks.of("openai")
            house.sim.fail(upstream.id)
            [failed] = await collector.named("task create")
            fault = Fault("status", service="openai", operation="submit", status=400)
            house.sim.faults.add(fault)
            refused = await house.post("/v1/videos", json={"prompt": PROMPT})
            assert refused.status == 400
            _, given_up = await collector.named("task create", 2)
        assert failed.is_error
        assert failed.facts["reelway.stage"] == "failed"
        assert failed.span.status.message == failed.facts["error.type"]
        assert failed.span.events[-1].name == "failed"
        assert given_up.is_error
        [attempt] = [s for s in collector.got if s.name == "submit" and s.trace == given_up.trace]
        assert attempt.is_error
        assert attempt.facts["http.response.status_code"] == 400


async def test_webhooks_and_deletes_belong_to_it_and_status_polls_do_not(
    open_house: OpenHouse,
) -> None:
    async with collecting() as collector, receiving(500) as receiver:
        hooks = f'[webhooks]\nallow = ["{receiver.host_port}"]\nfirst_pause_s = 0.02\n'
        wanted = Plan(sections=tracing(collector.url) + hooks)
        async with open_house(wanted) as house:
            task_id = await house.completed(prompt=PROMPT, webhook=receiver.url)
            again = await house.get(f"/v1/videos/{task_id}?wait=1")
            assert again.status == 200
            await collector.named("webhook", 2)
            caller = TraceParent("1" * 32, "2" * 16)
            headers = {"traceparent": caller.header()}
            await house.request("DELETE", f"/v1/videos/{task_id}", headers=headers)
        tries = [span for span in collector.got if span.name == "webhook"]
        assert [span.facts["http.response.status_code"] for span in tries[:2]] == [500, 200]
        assert [span.is_error for span in tries[:2]] == [True, False]
        delete = collector.one("DELETE delete")
        # A trace of the caller's own is linked to; the request is told where the task's story is.
        assert [link.trace_id.hex() for link in delete.span.links] == [caller.trace_id]
        assert {span.trace for span in collector.got} == {trace_id_of(task_id)}
        assert not [span for span in collector.got if "get" in span.name]


# ---------------------------------------------------------------- what is not recorded


async def test_a_client_that_wants_no_record_gets_none_and_is_handed_on_as_it_came(
    open_house: OpenHouse,
) -> None:
    async with collecting() as collector:
        async with open_house(Plan(sections=tracing(collector.url))) as house:
            reply = await house.post("/v1/videos", json={"prompt": PROMPT}, headers=UNSAMPLED)
            await house.finished(reply.json()["id"])
            assert heard(house, "submit") == UNSAMPLED
            await house.completed()
        assert PARENT.trace_id not in {span.trace for span in collector.got}
        assert collector.one("task create")


async def test_with_a_share_of_none_only_clients_traces_are_recorded(open_house: OpenHouse) -> None:
    async with collecting() as collector:
        wanted = Plan(sections=tracing(collector.url, "sample = 0.0"))
        async with open_house(wanted) as house:
            await house.completed()
            assert heard(house, "submit") == {}
            reply = await house.post("/v1/videos", json={"prompt": PROMPT}, headers=TRACED)
            await house.finished(reply.json()["id"])
        assert {span.trace for span in collector.got} == {PARENT.trace_id}


async def test_no_span_says_what_opens_doors_or_what_a_client_wants_rendered(
    open_house: OpenHouse,
) -> None:
    """Of a day on which things went wrong, and providers quoted what they were asked."""
    async with collecting() as collector, receiving() as receiver:
        hooks = f'[webhooks]\nallow = ["{receiver.host_port}"]\n'
        wanted = Plan(sections=tracing(collector.url) + hooks)
        async with open_house(wanted) as house:
            told = f"http://{receiver.host_port}/private-path?sig=hush"
            task_id = await house.completed("kling-v2-6", PROMPT, webhook=told)
            video = await house.get(f"/v1/videos/{task_id}/content")
            assert video.status == 200
            link = (await house.get(f"/v1/video/generations/{task_id}")).json()["url"]
            signed = await house.get(link.removeprefix(house.url), headers={"Authorization": None})
            assert signed.status == 200
            body = f'{{"error": {{"message": "no \\"{PROMPT}\\" here", "code": "{PROMPT}"}}}}'
            house.sim.faults.add(Fault("status", service="openai", status=400, body=body))
            await house.post("/v1/videos", json={"prompt": PROMPT})
            house.sim.faults.add(Fault("status", service="openai", operation="poll", body=body))
            await house.completed(prompt=PROMPT)
            secrets = [house.token, "sk-sim", house.made.token.rpartition("_")[2]]
            secrets += [house.sim.credentials["kling"]["secret_key"]]
        assert len([span for span in collector.got if span.name == "GET content"]) == 2
        for private in (PROMPT, "private-path", "sig=", "hush", *secrets):
            assert private.encode() not in collector.raw, private


# ---------------------------------------------------------------- the collector's own troubles


@pytest.mark.parametrize("how", [{"hangs": True}, {"status": 401}])
async def test_a_collector_that_fails_costs_one_line_and_no_render(
    open_house: OpenHouse,
    how: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One that hangs would be waited for longer than this test may take."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    async with collecting(**how) as collector, asyncio.timeout(WAIT_S):
        async with open_house(Plan(sections=tracing(collector.url))) as house:
            for _ in range(3):
                await house.completed()
            await collector.asked.wait()
        log = (tmp_path / "gateway.log").read_text()
    assert log.count("traces not exported") == 1


async def test_nobody_at_the_collectors_address_costs_one_line_and_no_render(
    open_house: OpenHouse, free_port: int, tmp_path: Path
) -> None:
    async with asyncio.timeout(WAIT_S):
        wanted = Plan(sections=tracing(f"http://127.0.0.1:{free_port}"))
        async with open_house(wanted) as house:
            await house.completed()
    log = (tmp_path / "gateway.log").read_text()
    assert 1 <= log.count("traces not exported") <= 2  # the second of them is the last
    why = f"the collector at http://127.0.0.1:{free_port} does not answer: connection refused"
    assert why in log


async def test_headers_are_those_of_the_standard_variable(
    open_house: OpenHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    async with collecting() as collector:
        async with open_house(Plan(sections=tracing(collector.url + "/"))) as house:
            await house.completed()
        assert collector.headers["x-tenant"] == "blue"


# ---------------------------------------------------------------- off, and what is missing

_SERVES = """
import asyncio, io, sys
from pathlib import Path
from proxy.config import load
from proxy.telemetry.logs import make_logger
from proxy.providers import PROVIDERS
from proxy.server.worker import Server
import proxy.cli

async def main():
    async with Server(load(Path("config.toml"), {}, PROVIDERS), make_logger(io.StringIO())):
        pass

asyncio.run(main())
# redis-py looks for OpenTelemetry's metrics by itself, wherever they are installed.
ours = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "proxy.telemetry.otlp")
print(any(name.startswith(ours) for name in sys.modules))
"""
_LISTEN = '[server]\nlisten = "127.0.0.1:0"\n[admin]\nlisten = "127.0.0.1:0"\n'


@pytest.mark.parametrize(("section", "is_loaded"), [("", "False"), ("on", "True")])
def test_without_it_none_of_its_libraries_is_loaded(
    tmp_path: Path, section: str, is_loaded: str
) -> None:
    more = tracing("http://127.0.0.1:9") if section else ""
    (tmp_path / "config.toml").write_text(_LISTEN + more)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _SERVES],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.stdout.strip(), done.returncode) == (is_loaded, 0), done.stderr


@pytest.fixture
def without_extra(tmp_path: Path) -> dict[str, str]:
    """An environment in which OpenTelemetry cannot be imported."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "opentelemetry.py").write_text("")
    return {"PYTHONPATH": f"{tmp_path / 'empty'}:{ROOT}"}


def test_the_missing_extra_is_a_warning_of_check(
    tmp_path: Path, without_extra: dict[str, str]
) -> None:
    """No mistake: `serve` starts without it, so an upgrade must not be refused for it."""
    (tmp_path / "config.toml").write_text(_LISTEN + tracing("http://127.0.0.1:9"))
    ended = run("check", cwd=tmp_path, env=without_extra)
    assert ended.status == 0
    assert ended.err.startswith("config.toml:6: tracing.endpoint: warning: ")
    assert "pip install 'reelway[otel]'" in ended.err
    told = json.loads(run("check", "--json", cwd=tmp_path, env=without_extra).out)
    assert told == {"ok": True, "problems": [], "warnings": [ended.err.rstrip("\n")]}
    assert run("check", cwd=tmp_path).err == ""


def test_without_the_extra_it_says_so_once_and_serves(
    tmp_path: Path, without_extra: dict[str, str]
) -> None:
    (tmp_path / "config.toml").write_text(_LISTEN + tracing("http://127.0.0.1:9"))
    with program("serve", cwd=tmp_path, env=without_extra, err_to_out=True) as serving:
        said: list[str] = []
        while not said or '"serving"' not in said[-1]:
            said.append(serving.line())
    [line] = [line for line in said if "reelway[otel]" in line]
    assert '"level":"error"' in line


# ---------------------------------------------------------------- doctor


async def test_doctor_asks_the_collector(tmp_path: Path, free_port: int) -> None:
    async def told(url: str) -> tuple[int, str]:
        (tmp_path / "config.toml").write_text(_LISTEN + tracing(url))
        ended = await asyncio.to_thread(run, "doctor", cwd=tmp_path)
        [line] = [line for line in ended.out.splitlines() if "[tracing]" in line]
        return ended.status, line

    async with collecting() as collector:
        status, line = await told(collector.url)
        assert line.startswith("ok ")
        collector.status = 404
        assert "404" in (await told(collector.url))[1]
    status, line = await told(f"http://127.0.0.1:{free_port}")
    assert status == 1
    collector_url = f"http://127.0.0.1:{free_port}"
    assert line == (
        f"error   [tracing] endpoint: the collector at {collector_url} does not answer: "
        "connection refused"
    )


async def test_asking_leaves_nothing_behind() -> None:
    speaker = logging.getLogger("opentelemetry")
    before = list(speaker.handlers)
    async with collecting() as collector:
        assert await asyncio.to_thread(check_collector, collector.url) is None
    assert [each for each in speaker.handlers if each not in before] in (
        [],
        [each for each in speaker.handlers if isinstance(each, logging.NullHandler)],
    )


def test_an_address_may_be_the_collectors_base_or_the_whole() -> None:
    whole = "http://collector:4318/v1/traces"
    assert traces_url("http://collector:4318") == traces_url(whole) == whole
