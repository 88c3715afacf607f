"""The relay's tiers between raw sockets, on asyncio's loop and on uvloop."""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.gateway.aiohttp_internals import Internal
from proxy.gateway.relay import RelayEnd, RelayOptions, RelayResult, move, usable_tiers
from tests.rig.relay import (
    BODY,
    LARGE,
    WAIT_S,
    N,
    Rig,
    Upstream,
    base_fds,
    cut_at,
    each_tier,
    head,
    make_certificate,
    on_both_loops,
    rig,
    wait_fds,
    whole,
)

# --- whole bodies ---------------------------------------------------------------------------


@each_tier
@pytest.mark.parametrize("held", [0, 1, 70_000, N - 1])
@on_both_loops
async def test_a_whole_body_arrives(tier: str, held: int) -> None:
    """Also when part of it was read before the relay took over."""
    async with rig(whole(held=held), tier) as at:
        assert await at.fetch() == BODY
        assert (at.run.bytes, at.run.end, at.counted) == (N, RelayEnd.DONE, N)
        assert at.run.tier == tier or held == N - 1


@each_tier
@pytest.mark.parametrize("size", [0, 1, 1000])
@on_both_loops
async def test_a_small_body_that_is_there_already_is_just_sent(tier: str, size: int) -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(size) + BODY[:size])

    async with rig(script, tier, count=size) as at:
        assert await at.fetch() == BODY[:size]
        assert at.run == RelayResult(size, RelayEnd.DONE, "copy")


@each_tier
@pytest.mark.parametrize("skip", [1, 70_000, N - 200_001])
@on_both_loops
async def test_an_upstream_without_range_is_skipped_into(tier: str, skip: int) -> None:
    async with rig(whole(), tier, skip=skip, count=200_000) as at:
        assert await at.fetch() == BODY[skip : skip + 200_000]
        assert at.run.end is RelayEnd.DONE


@each_tier
@pytest.mark.parametrize("count", [1, 65_536, N - 1])
@on_both_loops
async def test_never_more_than_count(tier: str, count: int) -> None:
    async with rig(whole(), tier, count=count) as at:
        assert await at.fetch() == BODY[:count]
        assert (at.run.bytes, at.run.end) == (count, RelayEnd.DONE)


@each_tier
@on_both_loops
async def test_an_upstream_that_sends_more_than_it_announced_is_clipped(tier: str) -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N))
        await at.taken.wait()
        writer.write(BODY + b"surplus" * 1000)

    async with rig(script, tier) as at:
        assert await at.fetch() == BODY
        assert at.run.end is RelayEnd.DONE


@each_tier
@on_both_loops
async def test_a_body_shorter_than_count_is_never_done(tier: str) -> None:
    """The upstream's own length is less than what the client was promised."""
    async with rig(whole(), tier, count=N + 1) as at:
        assert await at.fetch() == BODY
        assert (at.run.bytes, at.run.end) == (N, RelayEnd.UPSTREAM_SHORT)


@on_both_loops
async def test_an_encoded_body_is_copied_as_it_is() -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N, "Content-Encoding: gzip"))
        await at.taken.wait()
        writer.write(BODY)

    async with rig(script, "splice") as at:
        assert await at.fetch() == BODY
        assert at.run.tier == "copy"


# --- chunked --------------------------------------------------------------------------------


def in_chunks(body: bytes, size: int) -> bytes:
    parts = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in [*parts, b""])


def out_of_chunks(wire: bytes) -> tuple[bytes, bool]:
    """The decoded body and whether its last chunk was there."""
    body = b""
    while wire:
        size, _, wire = wire.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return body, True
        assert wire[length : length + 2] == b"\r\n"
        body, wire = body + wire[:length], wire[length + 2 :]
    return body, False


@on_both_loops
async def test_an_unknown_length_is_relayed_in_chunks() -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(None) + in_chunks(BODY, 99_999))

    async with rig(script, "splice", count=None, chunked=True) as at:
        assert out_of_chunks(await at.fetch()) == (BODY, True)
        assert at.run == RelayResult(N, RelayEnd.DONE, "copy")


@on_both_loops
async def test_a_chunked_body_cut_anywhere_is_never_whole() -> None:
    """Cut at every byte of the wire, chunk borders included."""
    small = BODY[:12]
    wire = in_chunks(small, 5)
    for byte in range(len(wire)):

        async def script(
            at: Upstream, writer: asyncio.StreamWriter, _: int, byte: int = byte
        ) -> None:
            writer.write(head(None))
            await at.taken.wait()
            writer.write(wire[:byte])

        async with rig(script, "splice", count=None, chunked=True) as at:
            body, complete = out_of_chunks(await at.fetch())
            assert not complete
            assert small.startswith(body)
            assert at.run.end is RelayEnd.UPSTREAM_SHORT
            assert at.run.bytes == at.counted


# --- upstream faults ------------------------------------------------------------------------

CUTS = [0, 1, 65_535, 65_536, 131_072, 262_144, N - 1]


@each_tier
@pytest.mark.parametrize("byte", CUTS)
@on_both_loops
async def test_a_cut_upstream_is_told_with_the_exact_byte_and_can_be_gone_on_from(
    tier: str, byte: int
) -> None:
    """The client's connection stays in order: its body is whole after a second upstream."""
    async with rig(cut_at(byte), tier, heal=True) as at:
        assert await at.fetch() == BODY
        first, second = at.runs
        assert first.end is RelayEnd.UPSTREAM_SHORT
        assert second.end is RelayEnd.DONE
        assert first.bytes + second.bytes == at.counted == N
        if tier != "copy":  # aiohttp's reader drops what it holds when the connection breaks
            assert first.bytes == byte


@each_tier
@on_both_loops
async def test_an_unhealed_cut_is_a_short_body(tier: str) -> None:
    async with rig(cut_at(500_000), tier) as at:
        body = await at.fetch()
        assert len(body) <= 500_000
        assert BODY.startswith(body)
        assert at.run.end is RelayEnd.UPSTREAM_SHORT


@each_tier
@on_both_loops
async def test_a_reset_upstream_is_gone_on_from(tier: str) -> None:
    async with rig(cut_at(500_000, "reset"), tier, heal=True) as at:
        assert await at.fetch() == BODY
        assert at.runs[0].end is RelayEnd.UPSTREAM_RESET
        assert at.counted == N


@each_tier
@on_both_loops
async def test_a_reset_behind_megabytes_is_heard(tier: str) -> None:
    """More is readable than one read takes, and uvloop calls a poller only once for it."""
    script = cut_at(3_000_000, "reset", len(LARGE))
    async with rig(script, tier, count=len(LARGE), heal=True, upstream_rcvbuf_bytes=8 << 20) as at:
        assert hashlib.sha256(await at.fetch()).digest() == hashlib.sha256(LARGE).digest()
        assert at.runs[0].end is RelayEnd.UPSTREAM_RESET
        assert at.counted == len(LARGE)


@on_both_loops
async def test_a_session_can_be_closed_under_a_run() -> None:
    """The connector waits for each connection's end, also of one that was taken over."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N))
        await at.taken.wait()
        writer.write(BODY[:1000])
        await at_rig.over.wait()

    async with rig(script, "pipe") as at_rig:
        client = await at_rig.client()
        while not client.got.endswith(BODY[:1000]):
            await client.read(65_536)
        await at_rig.session.close()
        await at_rig.over.wait()
        client.sock.close()
        assert (at_rig.run.bytes, at_rig.run.end) == (1000, RelayEnd.UPSTREAM_SHORT)


@each_tier
@on_both_loops
async def test_an_upstream_lost_before_the_relay_starts_is_gone_on_from(tier: str) -> None:
    """aiohttp has bytes, and an error, in its reader when the relay takes over."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, nth: int) -> None:
        writer.write(head(N) + BODY[: 1000 if nth == 1 else N])

    async with rig(script, tier, heal=True) as at:
        assert await at.fetch() == BODY
        assert at.counted == N


@each_tier
@on_both_loops
async def test_a_stalled_upstream_is_not_the_clients_fault(tier: str) -> None:
    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N))
        await at.taken.wait()
        writer.write(BODY[:300_000])
        await at_rig.over.wait()

    async with rig(script, tier, idle_upstream_s=0.2, idle_client_s=0.1) as at_rig:
        assert await at_rig.fetch() == BODY[:300_000]
        assert (at_rig.run.bytes, at_rig.run.end) == (300_000, RelayEnd.IDLE_UPSTREAM)


@each_tier
@on_both_loops
async def test_a_client_that_sips_falls_below_the_minimum_rate(tier: str) -> None:
    """It is never idle, and there was more to take than it took."""
    options: dict[str, Any] = {"min_rate_bytes_s": 1_000_000, "min_rate_window_s": 0.2}
    async with rig(whole(LARGE), tier, count=len(LARGE), **options) as at:
        client = await at.client(rcvbuf=4096)
        with suppress(ConnectionError):
            while not at.over.is_set():
                await client.read(1000)
                await asyncio.sleep(0.02)
        assert at.run.end is RelayEnd.MIN_RATE
        client.sock.close()


@each_tier
@on_both_loops
async def test_a_trickle_is_not_the_clients_fault(tier: str) -> None:
    """Below the minimum rate, but the client takes all there is."""

    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(30))
        for _ in range(30):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    options: dict[str, Any] = {"min_rate_bytes_s": 10_000, "min_rate_window_s": 0.1}
    async with rig(script, tier, count=30, **options) as at:
        assert await at.fetch() == b"x" * 30
        assert at.run.end is RelayEnd.DONE


@each_tier
@on_both_loops
async def test_a_stop_ends_the_run(tier: str) -> None:
    stop = asyncio.Event()

    async def script(at: Upstream, writer: asyncio.StreamWriter, _: int) -> None:
        writer.write(head(N) + BODY[:1000])
        await at.taken.wait()
        stop.set()
        await at_rig.over.wait()

    async with rig(script, tier, stop=stop, idle_upstream_s=WAIT_S) as at_rig:
        assert await at_rig.fetch() == BODY[:1000]
        assert at_rig.run.end is RelayEnd.DRAIN


# --- clients --------------------------------------------------------------------------------


async def wait_standstill(at: Rig) -> None:
    """Until a stream that nobody reads has filled what there is to fill."""
    before = -1
    while before != at.counted or not before:
        before = at.counted
        await asyncio.sleep(0.1)


@each_tier
@on_both_loops
async def test_a_client_that_stops_reading_and_goes_on_misses_nothing(tier: str) -> None:
    async with rig(whole(LARGE), tier, count=len(LARGE)) as at:
        client = await at.client(rcvbuf=4096)
        await wait_standstill(at)
        assert at.counted < len(LARGE)
        body = await client.body()
        client.sock.close()
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()
        assert at.run == RelayResult(len(LARGE), RelayEnd.DONE, tier)


@each_tier
@on_both_loops
async def test_a_client_that_takes_nothing_is_idle(tier: str) -> None:
    base = await base_fds()
    async with rig(whole(LARGE), tier, count=len(LARGE), idle_client_s=0.2) as at:
        client = await at.client(rcvbuf=4096)
        await at.over.wait()
        body = await client.body()
        client.sock.close()
        assert at.run.end is RelayEnd.IDLE_CLIENT
        assert len(body) <= at.run.bytes == at.counted < len(LARGE)
        assert LARGE.startswith(body)
    await wait_fds(base)


@each_tier
@on_both_loops
async def test_a_slow_client_is_not_idle(tier: str) -> None:
    """It reads less than would ever make the kernel call our end writable in that time."""
    async with rig(whole(LARGE), tier, count=len(LARGE), idle_client_s=1.0) as at:
        client = await at.client(rcvbuf=4096)
        await wait_standstill(at)
        for _ in range(60):
            await client.read(8192)
            await asyncio.sleep(0.03)
        assert not at.over.is_set()
        assert hashlib.sha256(await client.body()).digest() == hashlib.sha256(LARGE).digest()
        client.sock.close()


@each_tier
@on_both_loops
async def test_a_client_that_leaves_is_counted_and_leaves_nothing_open(tier: str) -> None:
    base = await base_fds()
    async with rig(whole(LARGE), tier, count=len(LARGE)) as at:
        client = await at.client()
        while len(client.got) < 100_000:
            await client.read(65_536)
        client.sock.close()
        await at.over.wait()
        assert 100_000 <= at.counted < len(LARGE)
    await wait_fds(base)


@on_both_loops
async def test_a_client_gone_before_the_start_costs_nothing() -> None:
    class Gone:
        transport = None

    async with rig(whole(), "splice") as at:
        response = await at.session.get(at.url)
        request: Any = Gone()
        options = RelayOptions()
        moved = await move(response, request, skip=0, count=N, options=options, progress=at)
        assert moved == RelayResult(0, RelayEnd.CLIENT_GONE, "none")
        assert at.counted == 0
        assert response.closed


@each_tier
@on_both_loops
async def test_an_abort_storm_leaves_nothing_behind(tier: str) -> None:
    """All clients leave in the middle; files go back to the base and a download is right."""
    base = await base_fds()
    async with rig(whole(LARGE), tier, count=len(LARGE)) as at:
        for _ in range(3):
            clients = [await at.client() for _ in range(15)]
            for size, client in enumerate(clients):
                await client.read(1 + size * 1000)
            for client in clients:
                client.sock.close()
        body = await at.fetch()
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()
        assert at.runs[-1] == RelayResult(len(LARGE), RelayEnd.DONE, tier)
    await wait_fds(base)


@on_both_loops
async def test_a_pipe_that_holds_bytes_is_never_used_again() -> None:
    async with rig(whole(LARGE), "splice", count=len(LARGE), idle_client_s=0.2) as at:
        client = await at.client(rcvbuf=4096)
        await at.over.wait()
        client.sock.close()
        pair = at.pipes.get()
        assert pair is not None
        with pytest.raises(BlockingIOError):
            os.read(pair.read_fd, 1)
        pair.close()


# --- TLS ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("held", [0, 70_000])
@on_both_loops
async def test_a_tls_body_arrives_by_the_pipe_tier(
    certificate: tuple[Path, Path], held: int
) -> None:
    async with rig(whole(held=held), "splice", certificate=certificate) as at:
        assert await at.fetch() == BODY
        assert at.run == RelayResult(N, RelayEnd.DONE, "pipe")


@pytest.mark.parametrize("tier", ["pipe", "copy"])
@pytest.mark.parametrize("byte", [0, 1, 65_536, 500_000, N - 1])
@pytest.mark.parametrize("how", ["close", "abort"])
@on_both_loops
async def test_a_tls_upstream_cut_with_or_without_close_notify_is_gone_on_from(
    certificate: tuple[Path, Path], tier: str, byte: int, how: str
) -> None:
    async with rig(cut_at(byte, how), tier, heal=True, certificate=certificate) as at:
        assert await at.fetch() == BODY
        assert at.runs[0].end in {RelayEnd.UPSTREAM_SHORT, RelayEnd.UPSTREAM_RESET}
        assert at.counted == N


@on_both_loops
async def test_a_slow_client_holds_a_tls_upstream_back(certificate: tuple[Path, Path]) -> None:
    async with rig(whole(LARGE), "pipe", count=len(LARGE), certificate=certificate) as at:
        client = await at.client(rcvbuf=4096)
        await wait_standstill(at)
        assert at.counted < len(LARGE)
        body = await client.body()
        client.sock.close()
        assert hashlib.sha256(body).digest() == hashlib.sha256(LARGE).digest()


# --- probe ----------------------------------------------------------------------------------


def test_every_tier_is_usable_here() -> None:
    """Against the pinned aiohttp: its internals that the tiers use are still there."""
    assert usable_tiers(("splice", "pipe", "copy")) == (("splice", "pipe", "copy"), [])


def test_without_its_internals_only_copy_is_left_and_said() -> None:
    tiers, lines = usable_tiers(
        ("splice", "pipe"), [Internal(RelayOptions, "nothing_like_it", "a test")]
    )
    assert tiers == ("copy",)
    assert lines == [
        "relay tier splice is off: this aiohttp has no RelayOptions.nothing_like_it",
        "relay tier pipe is off: this aiohttp has no RelayOptions.nothing_like_it",
    ]
