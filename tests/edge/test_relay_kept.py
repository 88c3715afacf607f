"""An upstream's connection after a body: kept for the next request, or closed when anything about
it is in doubt."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from multidict import CIMultiDict

from proxy import model
from proxy.config import load
from proxy.gateway.relay import RelayEnd
from proxy.http.outbound import Outbound
from proxy.providers import PROVIDERS
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Deadlines, Upstreams
from tests.rig.relay import (
    BODY,
    LARGE,
    WAIT_S,
    N,
    Script,
    Upstream,
    head,
    make_certificate,
    on_both_loops,
    rig,
)

each_fast_tier = pytest.mark.parametrize("tier", ["splice", "pipe"])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


def kept(*lines: str, surplus: bytes = b"") -> Script:
    """A whole body each time, its rest once the relay has taken it over; `surplus` behind the
    first."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, nth: int) -> None:
        writer.write(head(N, *lines) + BODY[:1000])
        await at.taken.wait()
        at.taken.clear()
        writer.write(BODY[1000:] + (surplus if nth == 1 else b""))

    return script


@each_fast_tier
@on_both_loops
async def test_one_connection_serves_one_body_after_the_other(tier: str) -> None:
    async with rig(kept(), tier, keeps=True) as at:
        for _ in range(4):
            assert await at.fetch() == BODY
        assert [(run.bytes, run.end, run.tier) for run in at.runs] == [(N, RelayEnd.DONE, tier)] * 4
        assert at.upstream.connections == 1


@on_both_loops
async def test_a_tls_connection_is_kept_too(certificate: tuple[Path, Path]) -> None:
    async with rig(kept(), "pipe", keeps=True, certificate=certificate) as at:
        for _ in range(4):
            assert await at.fetch() == BODY
        assert (at.upstream.requests, at.upstream.connections) == (4, 1)


@each_fast_tier
@on_both_loops
async def test_an_upstream_that_wants_to_close_is_let(tier: str) -> None:
    async with rig(kept("Connection: close"), tier, keeps=True) as at:
        for _ in range(2):
            assert await at.fetch() == BODY
        assert at.upstream.connections == 2


@pytest.mark.parametrize(
    "surplus", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", b"y" * 300_000]
)
@each_fast_tier
@on_both_loops
async def test_what_comes_behind_a_body_is_nobodys_answer(tier: str, surplus: bytes) -> None:
    async with rig(kept(surplus=surplus), tier, keeps=True) as at:
        assert await at.fetch() == BODY
        assert await at.fetch() == BODY
        assert [run.end for run in at.runs] == [RelayEnd.DONE, RelayEnd.DONE]
        assert at.upstream.connections == 2


@pytest.mark.parametrize(
    "surplus", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong", b"y" * 300_000]
)
@on_both_loops
async def test_nor_is_it_behind_tls(certificate: tuple[Path, Path], surplus: bytes) -> None:
    async with rig(kept(surplus=surplus), "pipe", keeps=True, certificate=certificate) as at:
        assert await at.fetch() == BODY
        assert await at.fetch() == BODY
        assert at.upstream.connections == 2


@each_fast_tier
@on_both_loops
async def test_what_comes_later_unasked_closes_the_connection(tier: str) -> None:
    """Between two requests, when nobody waits for anything."""
    idle, spoken = asyncio.Event(), asyncio.Event()

    async def script(at: Upstream, writer: asyncio.StreamWriter, nth: int) -> None:
        await kept()(at, writer, nth)
        if nth == 1:
            await idle.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong")
            await writer.drain()
            spoken.set()

    async with rig(script, tier, keeps=True) as at:
        assert await at.fetch() == BODY
        connector = at.session.connector
        assert connector is not None
        (kept_ones,) = connector._conns.values()
        ((protocol, _),) = kept_ones
        idle.set()
        await spoken.wait()
        closed = protocol.closed
        assert closed is not None
        await asyncio.wait([closed])
        assert await at.fetch() == BODY
        assert at.upstream.connections == 2


@each_fast_tier
@on_both_loops
async def test_a_body_that_was_not_wanted_whole_takes_its_connection_along(tier: str) -> None:
    async with rig(kept(), tier, count=2000, keeps=True) as at:
        for _ in range(2):
            assert await at.fetch() == BODY[:2000]
        assert at.upstream.connections == 2


@each_fast_tier
@on_both_loops
async def test_a_client_that_leaves_takes_the_connection_along(tier: str) -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, nth: int) -> None:
        writer.write(head(len(LARGE)))
        await at.taken.wait()
        at.taken.clear()
        writer.write(LARGE)

    async with rig(script, tier, count=len(LARGE), keeps=True) as at:
        client = await at.client(rcvbuf=4096)
        while len(client.got) < 10_000:  # the head comes before the upstream is asked
            await client.read(10_000)
        client.sock.close()
        await at.over.wait()
        assert await at.fetch() == LARGE
        assert at.runs[-1].end is RelayEnd.DONE  # the other one was cancelled, or found nobody
        assert at.upstream.connections == 2


@on_both_loops
async def test_a_byte_that_comes_after_the_last_one_is_seen(certificate: tuple[Path, Path]) -> None:
    """In a record of its own, so that the body may be over when it is read."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, nth: int) -> None:
        await kept()(at, writer, nth)
        if nth == 1:
            writer.write(b"x")

    async with rig(script, "pipe", keeps=True, certificate=certificate) as at:
        for _ in range(3):
            assert await at.fetch() == BODY


@pytest.mark.parametrize("small", [b"/", b"x" * 40_000])
async def test_an_answer_nobody_asked_for_is_not_the_next_ones(small: bytes) -> None:
    """On a connection whose bodies aiohttp reads itself: those of polls, and small files."""
    idle, spoken = asyncio.Event(), asyncio.Event()
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with suppress(EOFError):
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
                body = small + path
                writer.write(head(len(body)) + body)
                if path == b"/a":
                    await idle.wait()
                    writer.write(head(5) + b"wrong")
                    spoken.set()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    config = load(None, {}, PROVIDERS)
    out = Upstreams(Deadlines(WAIT_S, WAIT_S, WAIT_S, WAIT_S), Metrics(lambda: config))
    try:
        told = []
        for path in ("/a", "/b", "/c", "/d"):
            upstream = model.Upstream("up", "openai", base, (model.Credential("a"),))
            answer = await out.query(upstream, Outbound("GET", base + path, CIMultiDict()))
            told.append(answer.body.removeprefix(small))
            if path == "/a":
                idle.set()
                await spoken.wait()
                (session,) = out._sessions.values()
                connector = session.connector
                assert connector is not None
                (((protocol, _),),) = connector._conns.values()
                while not protocol.should_close:  # noqa: ASYNC110  # nothing tells of it
                    await asyncio.sleep(0)
        assert told == [b"/a", b"/b", b"/c", b"/d"]
        assert connections == 2
    finally:
        await out.aclose()
        server.close()
        await server.wait_closed()
