"""An upstream is a stranger too: what it sends without end, or as an address, is bounded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from multidict import CIMultiDict

from proxy.config import load
from proxy.errors import Ambiguous, NotFetched
from proxy.http.outbound import Outbound
from proxy.model import Upstream
from proxy.providers import PROVIDERS
from proxy.telemetry.metrics import Metrics
from proxy.upstream import MAX_INFORMATIONAL, Deadlines, Upstreams, address_of

INFORMATIONAL = (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n")
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


@asynccontextmanager
async def upstream_saying(
    first: bytes, *, for_ever: bool = False, pause_s: float = 0.0
) -> AsyncIterator[tuple[Upstreams, Upstream, Outbound]]:
    """An upstream that answers every request so, with a way to it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        jobs.add(serving)
        try:
            with suppress(ConnectionError):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(first)
                while for_ever:
                    writer.write(first)
                    await writer.drain()
                    await asyncio.sleep(pause_s)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    jobs: set[asyncio.Task[None]] = set()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    config = load(None, {}, PROVIDERS)
    out = Upstreams(Deadlines(5, 20, 20, 0.5), Metrics(lambda: config))
    url = f"http://127.0.0.1:{port}"
    try:
        yield out, Upstream("u", "openai", url, ()), Outbound("GET", f"{url}/x", CIMultiDict())
    finally:
        await out.aclose()
        server.close()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await asyncio.sleep(0)  # the loop closes what was aborted


@pytest.mark.parametrize("said", INFORMATIONAL)
@pytest.mark.parametrize("call", ["submit", "query", "content"])
async def test_informational_answers_without_end_are_cut_off(said: bytes, call: str) -> None:
    """aiohttp reads them for ever, and each renews its time-out."""
    async with upstream_saying(said * 1000, for_ever=True) as (out, upstream, outbound):
        with pytest.raises(Ambiguous):
            async with asyncio.timeout(5):
                if call == "submit":
                    await out.submit(upstream, outbound)
                elif call == "query":
                    await out.query(upstream, outbound)
                else:
                    await out.open(upstream, outbound, {})


async def test_informational_answers_that_drip_end_with_the_wait_for_the_head() -> None:
    said = INFORMATIONAL[0]
    async with upstream_saying(said, for_ever=True, pause_s=0.1) as (out, upstream, outbound):
        with pytest.raises(Ambiguous):
            async with asyncio.timeout(5):
                await out.open(upstream, outbound, {})


async def test_a_few_informational_answers_are_read_past() -> None:
    said = INFORMATIONAL[1] * MAX_INFORMATIONAL + ANSWER
    async with upstream_saying(said) as (out, upstream, outbound):
        assert (await out.query(upstream, outbound)).body == b"{}"


@pytest.mark.parametrize("call", ["submit", "query", "content"])
async def test_a_header_line_of_64_kib_is_read(call: str) -> None:
    """A CDN's Content-Security-Policy costs no accepted render and no video."""
    value = b"x" * (64 * 1024)
    said = b"HTTP/1.1 200 OK\r\nContent-Security-Policy: " + value
    said += b"\r\nContent-Length: 2\r\n\r\n{}"
    async with upstream_saying(said) as (out, upstream, outbound):
        if call == "content":
            response = await out.open(upstream, outbound, {})
            headers, body = response.headers, await response.content.read()
            response.close()
        else:
            answer = await (out.submit if call == "submit" else out.query)(upstream, outbound)
            headers, body = answer.headers, answer.body
        assert (len(headers["Content-Security-Policy"]), body) == (len(value), b"{}")


@pytest.mark.parametrize(
    "text",
    [
        "https://cdn.example.com:99999/a.mp4",
        "https://cdn.example.com\\@evil.example/a.mp4",
        "http://[::",
        "http://[::1",
        "http:///a.mp4",
        "https://" + "x" * 70 + ".example/a",
        "https://" + "\u00fc" * 70 + ".example/a",
        "https://a b.example/x",
        "https://xn--/a.mp4",
        "https://cdn.xn--a/a.mp4",
    ],
)
async def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    async with upstream_saying(ANSWER) as (out, upstream, _):
        with pytest.raises(NotFetched):
            await out.open(upstream, Outbound("GET", text, CIMultiDict(), guarded=True), {})


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("https://cdn.example/a%20b.mp4?s=%2F+x", "https://cdn.example/a%20b.mp4?s=%2F+x"),
        ("https://cdn.example/a b.mp4?q=c d", "https://cdn.example/a%20b.mp4?q=c%20d"),
        ("https://cdn.example/\u732b.mp4", "https://cdn.example/%E7%8C%AB.mp4"),
        ("https://b\u00fccher.example:8443/x", "https://xn--bcher-kva.example:8443/x"),
        (" https://cdn.example/x ", "https://cdn.example/x"),
    ],
)
def test_an_address_is_encoded_where_it_has_to_be(text: str, asked: str) -> None:
    assert str(address_of(text)) == asked
