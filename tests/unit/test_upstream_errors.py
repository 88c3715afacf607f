"""The way out when it goes wrong: what was provably not sent, what nobody can say, and where a
request that somebody else chose may not go."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aioresponses import aioresponses
from multidict import CIMultiDict

from proxy.config import load
from proxy.errors import Ambiguous, NotSent, ProxyError
from proxy.http.outbound import Outbound
from proxy.http.urls import exempt
from proxy.model import Credential, Kind, Operation, Stage, Status, Task, TaskState, Upstream
from proxy.providers import PROVIDERS
from proxy.providers.outcomes import Accepted, Refused, Transient, Unknown
from proxy.telemetry.metrics import Metrics
from proxy.upstream import MAX_ANSWER_BYTES, MAX_HOPS, Answer, Deadlines, Upstreams

WAIT_S = 20.0  # only a hang gets here
LONG = Deadlines(connect_s=WAIT_S, submit_s=WAIT_S, poll_s=WAIT_S, idle_s=WAIT_S)
URL_ = "https://api.example/v1/videos"


def upstream(base_url: str = "https://api.example/v1", *hosts: str) -> Upstream:
    return Upstream("up", "openai", base_url, (Credential("a"),), result_hosts=hosts)


@asynccontextmanager
async def way_out(deadlines: Deadlines = LONG) -> AsyncIterator[Upstreams]:
    config = load(None, {}, PROVIDERS)
    out = Upstreams(deadlines, Metrics(lambda: config))
    try:
        yield out
    finally:
        await out.aclose()


# ---------------------------------------------------------------- answers in JSON


@pytest.fixture
def wire() -> Iterator[aioresponses]:
    with aioresponses() as mocked:
        yield mocked


@dataclass(frozen=True)
class Said:
    """One small answer of a provider, and what it means."""

    provider: str
    status: int
    body: object
    meaning: type
    client: tuple[int, str] | None = None  # status and code a client is told
    headers: dict[str, str] = field(default_factory=dict)


def volc(code: int, name: str) -> dict[str, object]:
    error = {"CodeN": code, "Code": name, "Message": "x"}
    return {"ResponseMetadata": {"RequestId": "r", "Error": error}}


SUBMITS = [
    Said("openai", 200, {"id": "v1", "status": "queued"}, Accepted),
    Said("openai", 200, {"status": "queued"}, Unknown),
    Said("openai", 200, [], Unknown),
    Said("openai", 302, {}, Refused, (502, "upstream_error"), {"Location": "https://x.example/"}),
    Said("openai", 400, {"error": {"message": "no"}}, Refused, (400, "invalid_value")),
    Said("openai", 422, {"detail": [{"loc": ["n"], "msg": "x"}]}, Refused, (400, "invalid_value")),
    Said("openai", 400, {"error": {"code": "contentfilter"}}, Refused, (400, "moderation_blocked")),
    Said("openai", 401, {"error": {}}, Refused, (502, "upstream_credential_refused")),
    Said("openai", 402, {}, Refused, (429, "rate_limit_exceeded")),
    Said("openai", 408, {}, Unknown),
    Said("openai", 429, {"error": {"message": "slow"}}, Refused, (429, "rate_limit_exceeded")),
    Said("openai", 500, {"error": {"message": "oops"}}, Unknown),
    Said("openai", 502, "<html>", Unknown),
    Said("openai", 503, {"error": {"code": "slow_down"}}, Refused, (503, "unavailable")),
    Said("openai", 503, {"error": {"message": "overloaded"}}, Unknown),
    Said("openai", 503, "no upstream", Unknown),
    Said("kling", 200, {"code": 0, "data": {"task_id": "7", "task_status": "submitted"}}, Accepted),
    Said("kling", 200, {"code": 0, "data": {}}, Unknown),
    Said("kling", 200, {"code": 1303, "message": "parallel"}, Refused, (429, "too_many_in_flight")),
    Said("kling", 400, {"code": 1201, "message": "no"}, Refused, (400, "invalid_value")),
    Said("kling", 400, {"code": 1301, "message": "no"}, Refused, (400, "moderation_blocked")),
    Said("kling", 401, {"code": 1002}, Refused, (503, "unavailable")),
    Said("kling", 429, {"code": 1102}, Refused, (503, "unavailable")),
    Said("kling", 429, {"code": 1302}, Refused, (429, "rate_limit_exceeded")),
    Said("kling", 429, "<html>", Refused, (429, "rate_limit_exceeded")),
    Said("kling", 499, "", Unknown),
    Said("kling", 500, {"code": 5000}, Unknown),
    Said("kling", 503, {"code": 5001}, Refused, (503, "unavailable")),
    Said("kling", 504, {"code": 5002}, Unknown),
    Said("jimeng", 200, {"code": 10000, "data": {"task_id": "7"}}, Accepted),
    Said("jimeng", 200, {"code": 10000, "data": None}, Unknown),
    Said("jimeng", 200, {"code": 50429}, Refused, (429, "rate_limit_exceeded")),
    Said("jimeng", 400, {"code": 50200, "message": "no"}, Refused, (400, "invalid_value")),
    Said("jimeng", 400, {"code": 50412}, Refused, (400, "moderation_blocked")),
    Said("jimeng", 401, volc(100010, "SignatureDoesNotMatch"), Refused, (503, "unavailable")),
    Said("jimeng", 429, {"code": 50430}, Refused, (429, "too_many_in_flight")),
    Said("jimeng", 500, {"code": 50500}, Unknown),
    Said("jimeng", 500, {"code": 50501}, Unknown),
]  # fmt: skip


@pytest.mark.parametrize("said", SUBMITS, ids=lambda s: f"{s.provider}-{s.status}")
async def test_an_answer_to_a_submit_is_a_yes_a_no_or_unknown(
    wire: aioresponses, said: Said
) -> None:
    """5xx and nonsense prove nothing, and are never taken for a refusal."""
    body = said.body if isinstance(said.body, str) else json.dumps(said.body)
    wire.post(URL_, status=said.status, body=body, headers=said.headers)
    async with way_out() as out:
        answer = await out.submit(upstream(), Outbound("POST", URL_))
    outcome = PROVIDERS[said.provider].outcome(
        answer.status, answer.headers, answer.body, upstream()
    )
    assert type(outcome) is said.meaning
    if isinstance(outcome, Refused):
        assert (outcome.error.status, outcome.error.code) == said.client
    assert len(wire.requests) == 1


POLLS = [
    Said("openai", 200, {"id": "v1", "status": "in_progress", "progress": 5}, TaskState),
    Said("openai", 200, {"id": "v1", "status": "dreaming"}, TaskState),
    Said("openai", 200, {}, Transient),
    Said("openai", 401, {}, Transient),
    Said("openai", 404, {"error": {"message": "gone"}}, Transient),
    Said("openai", 429, {}, Transient),
    Said("openai", 500, {}, Transient),
    Said("kling", 200, {"code": 0, "data": {"task_status": "processing"}}, TaskState),
    Said("kling", 200, {"code": 0, "data": {"task_status": "dreaming"}}, TaskState),
    Said("kling", 200, {"code": 0, "data": {"task_status": "succeed"}}, Transient),
    Said("kling", 200, {"code": 1302}, Transient),
    Said("kling", 404, {"code": 1203}, Transient),
    Said("kling", 500, "<html>", Transient),
    Said("jimeng", 200, {"code": 10000, "data": {"status": "generating"}}, TaskState),
    Said("jimeng", 200, {"code": 10000, "data": {"status": "dreaming"}}, TaskState),
    Said("jimeng", 200, {"code": 10000, "data": {"status": "done"}}, Transient),
    Said("jimeng", 429, {"code": 50429}, Transient),
    Said("jimeng", 500, {"code": 50500}, Transient),
    Said("jimeng", 401, volc(100010, "SignatureDoesNotMatch"), Transient),
]


@pytest.mark.parametrize("said", POLLS, ids=lambda s: f"{s.provider}-{s.status}")
async def test_a_poll_that_goes_wrong_never_fails_a_task(wire: aioresponses, said: Said) -> None:
    body = said.body if isinstance(said.body, str) else json.dumps(said.body)
    wire.get(URL_, status=said.status, body=body)
    async with way_out() as out:
        answer = await out.query(upstream(), Outbound("GET", URL_))
    asked = task(said.provider)
    state = PROVIDERS[said.provider].state(asked, answer.status, answer.headers, answer.body)
    assert type(state) is said.meaning
    if isinstance(state, TaskState):
        assert state.status is Status.IN_PROGRESS


def task(provider: str) -> Task:
    return Task(
        id="video_1",
        owner="o",
        token_id="t",
        dialect="openai",
        operation=Operation.CREATE,
        kind=Kind.TEXT,
        model="m",
        created_ms=0,
        updated_ms=0,
        stage=Stage.BOUND,
        provider=provider,
        upstream_id="v1",
    )


_KEY = ConnectionKey("api.example", 443, True, True, None, None, None)
_REFUSED = OSError(111, "Connection refused")


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (aiohttp.ClientConnectorError(_KEY, _REFUSED), NotSent),
        (aiohttp.ClientConnectorDNSError(_KEY, OSError(-2, "unknown name")), NotSent),
        (aiohttp.ClientConnectorSSLError(_KEY, OSError(1, "handshake")), NotSent),
        (aiohttp.ClientConnectorCertificateError(_KEY, ValueError("self-signed")), NotSent),
        (aiohttp.ConnectionTimeoutError("connect"), NotSent),
        (aiohttp.InvalidURL("http://"), NotSent),
        (aiohttp.ServerDisconnectedError(), Ambiguous),
        (aiohttp.ClientOSError(104, "reset"), Ambiguous),
        (aiohttp.ClientPayloadError("cut"), Ambiguous),
        (aiohttp.SocketTimeoutError("read"), Ambiguous),
        (TimeoutError(), Ambiguous),
        (ConnectionResetError(), Ambiguous),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_only_a_connection_that_never_stood_counts_as_not_sent(
    wire: aioresponses, trouble: Exception, kind: type[ProxyError]
) -> None:
    """Taking an ambiguous end for "not sent" would pay for a second render."""
    wire.post(URL_, exception=trouble)
    async with way_out() as out:
        with pytest.raises(kind) as caught:
            await out.submit(upstream(), Outbound("POST", URL_))
    assert type(caught.value) is kind
    assert caught.value.__cause__ is trouble


# ---------------------------------------------------------------- a real socket


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Wire:
    """A server that says literal bytes. `asked` are the heads it got, in order."""

    def __init__(self, answer: Callable[[str], bytes], *, closes: bool = False) -> None:
        self._answer = answer
        self._closes = closes
        self.asked: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def port(self) -> int:
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.append(writer)
        while True:
            try:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.asked.append(head)
                length = next(
                    (line for line in head.split("\r\n") if line.startswith("Content-Length")), ":0"
                )
                self.bodies.append(b"")
                body = await reader.readexactly(int(length.partition(":")[2]))
                self.bodies[-1] = body
            except (asyncio.IncompleteReadError, ConnectionError):
                break
            writer.write(self._answer(head))
            if self._closes:
                break
        writer.close()


def moved(to: str, status: int = 302) -> bytes:
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n"
    return head.encode()


async def test_a_refused_connection_is_not_sent(free_port: int) -> None:
    where = f"http://127.0.0.1:{free_port}"
    async with way_out() as out:
        with pytest.raises(NotSent):
            await out.submit(upstream(where), Outbound("POST", where))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}",
        b"\x16\x03\x01 this is no HTTP\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["closed", "half a head", "half a body", "no http", "bad chunks"],
)
async def test_an_answer_that_breaks_off_proves_nothing(answer: bytes) -> None:
    async with Wire(lambda _head: answer, closes=True) as there, way_out() as out:
        with pytest.raises(Ambiguous):
            await out.submit(upstream(there.url), Outbound("POST", there.url))
        assert len(there.asked) == 1


async def test_a_silent_upstream_is_ambiguous_after_its_deadline() -> None:
    silent = asyncio.Event()
    hasty = Deadlines(connect_s=WAIT_S, submit_s=0.05, poll_s=0.05, idle_s=0.05)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await silent.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    where = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with way_out(hasty) as out:
        for call in (out.submit, out.query):
            with pytest.raises(Ambiguous):
                await call(upstream(where), Outbound("POST", where))
        with pytest.raises(Ambiguous):
            await out.open(upstream(where), Outbound("GET", where), {})
    silent.set()
    server.close()


async def test_an_answer_without_end_is_given_up() -> None:
    """Memory for an answer is bounded, whatever Content-Length promises."""
    size = MAX_ANSWER_BYTES + 1
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode()
    async with Wire(lambda _head: head + bytes(size)) as there, way_out() as out:
        with pytest.raises(Ambiguous, match="more than 8388608 bytes"):
            await out.query(upstream(there.url), Outbound("GET", there.url))


async def test_a_compressed_answer_is_read_although_nobody_asked_for_it() -> None:
    """A CDN before a provider compresses JSON; unread, every submit would be unconfirmed."""
    body = gzip.compress(b'{"id":"v1"}')
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body)
    )
    async with Wire(lambda _head: head + body) as there, way_out() as out:
        for call in (out.submit, out.query):
            answer = await call(upstream(there.url), Outbound("POST", there.url))
            assert answer.body == b'{"id":"v1"}'
        opened = await out.open(upstream(there.url), Outbound("GET", there.url), {})
        assert await opened.read() == body  # a video goes on as it came
    assert all("Accept-Encoding: identity\r\n" in head for head in there.asked)


async def test_submits_never_share_a_connection_and_polls_do() -> None:
    """A POST on a stale keep-alive could not be told from a lost reply."""
    async with Wire(lambda _head: OK) as there, way_out() as out:
        here = upstream(there.url)
        for _ in range(3):
            assert await out.submit(here, Outbound("POST", there.url)) is not None
        assert there.connections == 3
        for _ in range(3):
            assert isinstance(await out.query(here, Outbound("GET", there.url)), Answer)
        assert there.connections == 4


class Bytes:
    """An upload of our own making."""

    sha256 = ""
    content_type = "image/png"
    filename = "a.png"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        for at in range(0, self.size, block):
            yield self._data[at : at + block]


@pytest.mark.parametrize("announced", [100_000 - 1, 100_000 + 1])
async def test_a_body_of_another_length_than_announced_is_never_taken_for_whole(
    announced: int,
) -> None:
    """aiohttp would clip what is too much and wait for what is missing."""
    async with Wire(lambda _head: OK) as there, way_out() as out:
        wrong = Outbound(
            "POST",
            there.url,
            CIMultiDict({"Content-Length": str(announced)}),
            (Bytes(bytes(100_000)),),
            announced,
        )
        with pytest.raises(Ambiguous):
            await out.submit(upstream(there.url), wrong)


# ---------------------------------------------------------------- redirects


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_submit_or_poll_never_follows_a_redirect(status: int) -> None:
    """Repeated elsewhere it could be a second render, or carry a key to a stranger."""
    async with Wire(lambda _head: OK) as other:
        async with Wire(lambda _head: moved(other.url, status)) as there, way_out() as out:
            for call in (out.submit, out.query):
                outbound = Outbound("POST", there.url, CIMultiDict({"api-key": "k"}))
                assert (await call(upstream(there.url), outbound)).status == status
        assert (len(there.asked), other.connections) == (2, 0)


async def test_a_content_redirect_to_an_inner_address_is_refused() -> None:
    """An upstream that is broken or taken over does not make us read its neighbours."""
    async with Wire(lambda _head: OK) as inner:
        async with Wire(lambda _head: moved(inner.url)) as there, way_out() as out:
            with pytest.raises(NotSent, match="not a public address"):
                await out.open(upstream(there.url), Outbound("GET", there.url), {})
        assert (len(there.asked), inner.connections) == (1, 0)


async def test_a_content_redirect_is_followed_to_where_results_may_be() -> None:
    """Our credentials stay behind; the range goes along."""
    async with Wire(lambda _head: OK) as store:
        host = f"127.0.0.1:{store.port}"
        target = f"{store.url}/file?sig=a%2Fb"
        async with Wire(lambda _head: moved(target)) as there, way_out() as out:
            headers = CIMultiDict({"Authorization": "Bearer sk", "api-key": "sk"})
            outbound = Outbound("GET", there.url, headers)
            got = await out.open(upstream(there.url, host), outbound, {"Range": "bytes=1-"})
            assert await got.read() == b"{}"
        assert "Authorization: Bearer sk\r\n" in there.asked[0]
        (asked,) = store.asked
        assert asked.startswith("GET /file?sig=a%2Fb HTTP/1.1\r\n")
        assert "Range: bytes=1-\r\n" in asked
        assert "sk" not in asked


async def test_a_redirect_within_an_upstream_keeps_its_credentials() -> None:
    answers = iter([moved("/elsewhere"), OK])
    async with Wire(lambda _head: next(answers)) as there, way_out() as out:
        headers = CIMultiDict({"Authorization": "Bearer sk"})
        got = await out.open(upstream(there.url), Outbound("GET", there.url, headers), {})
        assert got.status == 200
        assert [head.split(" ")[1] for head in there.asked] == ["/", "/elsewhere"]
        assert "Authorization: Bearer sk\r\n" in there.asked[1]


async def test_redirects_in_a_circle_end() -> None:
    async with Wire(lambda _head: moved("/again")) as there, way_out() as out:
        with pytest.raises(NotSent, match="redirects"):
            await out.open(upstream(there.url), Outbound("GET", there.url), {})
        assert len(there.asked) == MAX_HOPS + 1


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,hi", "http://", "http://[::1"],
)
async def test_a_redirect_to_what_is_no_web_address_is_not_followed(target: str) -> None:
    async with Wire(lambda _head: moved(target)) as there, way_out() as out:
        with pytest.raises(NotSent):
            await out.open(upstream(there.url), Outbound("GET", there.url), {})


async def test_a_redirect_that_names_no_place_is_the_answer() -> None:
    bare = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n"
    async with Wire(lambda _head: bare) as there, way_out() as out:
        assert (await out.open(upstream(there.url), Outbound("GET", there.url), {})).status == 302


# ---------------------------------------------------------------- the guard


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "017700000001",
        "localhost",
        "LOCALHOST.",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
async def test_a_result_on_this_machine_is_not_fetched(host: str) -> None:
    """However it is spelled: the guard judges the address the socket would go to."""
    async with Wire(lambda _head: OK) as inner, way_out() as out:
        outbound = Outbound("GET", f"http://{host}:{inner.port}/", guarded=True)
        with pytest.raises(NotSent):
            await out.open(upstream(), outbound, {})
        assert inner.connections == 0


async def test_a_name_that_means_an_inner_address_is_not_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The resolver's answer is judged, so a name that changes its mind gains nothing."""

    async def inner(
        self: Any, host: str, port: int = 0, *_args: Any, **_more: Any
    ) -> list[dict[str, Any]]:
        return [
            {"hostname": host, "host": at, "port": port, "family": 2, "proto": 6, "flags": 4}
            for at in ("10.0.0.5", "169.254.169.254")
        ]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", inner)
    monkeypatch.setattr(aiohttp.AsyncResolver, "resolve", inner)
    async with way_out() as out:
        with pytest.raises(NotSent, match="not a public address"):
            await out.open(upstream(), Outbound("GET", "http://cdn.example/", guarded=True), {})


async def test_only_the_configured_port_of_an_inner_host_is_open() -> None:
    """A host on all its ports would open Redis and the admin port beside it."""
    async with Wire(lambda _head: OK) as cdn, Wire(lambda _head: OK) as redis, way_out() as out:
        here = upstream("https://api.example/v1", f"127.0.0.1:{cdn.port}")
        got = await out.open(here, Outbound("GET", cdn.url, guarded=True), {})
        assert got.status == 200
        with pytest.raises(NotSent):
            await out.open(here, Outbound("GET", redis.url, guarded=True), {})
        assert (cdn.connections, redis.connections) == (1, 0)


async def test_another_upstreams_exemption_does_not_count() -> None:
    """Sessions are per upstream: a kept connection is no way around the guard."""
    async with Wire(lambda _head: OK) as cdn, way_out() as out:
        allowed = upstream("https://api.example/v1", f"127.0.0.1:{cdn.port}")
        other = Upstream("other", "kling", "https://k.example", ())
        await (await out.open(allowed, Outbound("GET", cdn.url, guarded=True), {})).read()
        with pytest.raises(NotSent):
            await out.open(other, Outbound("GET", cdn.url, guarded=True), {})
        assert cdn.connections == 1


@pytest.mark.parametrize(
    ("base_url", "hosts", "found"),
    [
        ("https://api.example/v1", (), {"api.example:443"}),
        ("http://10.0.0.1/v1", (), {"10.0.0.1:80"}),
        ("http://[::1]:8000", ("[fd00::1]:80",), {"[::1]:8000", "[fd00::1]:80"}),
        ("http://h:1", ("cdn:9000",), {"h:1", "cdn:9000"}),
    ],
)
def test_exemptions_are_exact_pairs(base_url: str, hosts: tuple[str, ...], found: set[str]) -> None:
    assert exempt(upstream(base_url, *hosts)) == found
