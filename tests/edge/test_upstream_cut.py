"""An upstream that breaks half-way: the client's body goes on, or is cut so that it shows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.sim import Fault, pattern
from proxy.sim.faults import Kind
from tests.rig.downloads import (
    KLING,
    OPENAI,
    PROMPT,
    SIZE,
    TIERS,
    TWO,
    Heard,
    Place,
    add,
    connected,
    content,
    each_kind_of_place,
    line_of,
    tiers,
    told,
    tune,
)
from tests.rig.house import House, OpenHouse, Plan

FILM = pattern(0, SIZE)
WITHOUT_RANGES: tuple[tuple[Place, tuple[Kind, ...]], ...] = (
    (OPENAI, ("no_range",)),
    (KLING, ("no_range", "chunked")),
)
BORDERS = (1 << 16, 1 << 17, 1 << 18, 1 << 19)


@pytest.fixture
async def impatient(open_house: OpenHouse) -> AsyncIterator[House]:
    """A house with a short deadline for a silent upstream."""
    async with open_house(Plan(timeouts="idle_upstream_s = 0.3")) as house:
        yield house


def check_short(reply: Heard, line: dict[str, object], length: int, reasons: set[str]) -> None:
    """The client can see that it is not all, and what it has is right."""
    assert reply.status == line["status"] == 200
    assert not reply.whole
    assert reply.body == FILM[:length]
    assert line["reason"] in reasons
    assert line.get("bytes", 0) == length


async def test_a_body_cut_anywhere_is_healed_from_that_byte(house: House) -> None:
    """The upstream sees one more request, for the rest of the same object."""
    for tier in tiers(house):
        for place in TWO.values():
            task_id = await house.completed(place.model, PROMPT)
            for at in (0, 1, *BORDERS, SIZE - 1):
                house.sim.log.clear()
                add(house, place.fault("cut", at=at))
                reply, line = await told(house, content(task_id))
                assert (reply.status, reply.whole, reply.body == FILM) == (200, True, True), (
                    tier,
                    at,
                )
                assert (line["reason"], line["bytes"]) == ("healed(1)", SIZE), at
                first, second = place.asked(house, "GET")
                assert (first.status, first.cut, first.bytes_sent) == (200, True, at)
                assert "Range" not in first.headers
                assert (second.status, second.bytes_sent) == (206, SIZE - at)
                assert second.headers["Range"] == f"bytes={at}-{SIZE - 1}"
                assert second.headers["If-Range"][0] == '"'


async def test_a_range_cut_anywhere_is_healed_within_the_range(house: House) -> None:
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        for at in (0, 1, 199_999):
            house.sim.log.clear()
            add(house, OPENAI.fault("cut", at=at))
            reply, line = await told(house, content(task_id), {"Range": "bytes=300000-499999"})
            assert (reply.status, reply.whole, line["reason"]) == (206, True, "healed(1)")
            assert reply.body == FILM[300_000:500_000]
            ranges = [entry.headers["Range"] for entry in OPENAI.asked(house)]
            assert ranges == ["bytes=300000-499999", f"bytes={300_000 + at}-499999"]


async def test_several_breaks_of_every_kind_are_healed(house: House) -> None:
    """FIN and RST in turn; a reset may take bytes back that were on their way."""
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        for number in range(5):
            add(house, OPENAI.fault("cut", at=100_000, reset=number % 2 == 1))
        reply, line = await told(house, content(task_id))
        assert (reply.whole, reply.body == FILM, line["reason"]) == (True, True, "healed(5)")


async def test_a_connection_survives_a_healed_body(house: House) -> None:
    """The next reply on the same client connection is in its place."""
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        add(house, OPENAI.fault("cut", at=150_000))
        async with connected(house) as raw:
            for first in (0, 7):
                await raw.send(content(task_id), {**house.bearer, "Range": f"bytes={first}-"})
                reply = await raw.reply()
                assert (reply.status, reply.body) == (206, FILM[first:])


async def test_an_upstream_without_ranges_is_healed_by_reading_it_again(house: House) -> None:
    """What the client has already is thrown away; chunked bodies, whose length nobody told,
    likewise."""
    for _ in tiers(house):
        for place, kinds in WITHOUT_RANGES:
            task_id = await house.completed(place.model, PROMPT)
            house.sim.faults.clear()
            house.sim.log.clear()
            add(house, *(place.fault(kind, times=None) for kind in kinds))
            add(house, place.fault("cut", at=300_000))
            reply, line = await told(house, content(task_id))
            assert (reply.whole, reply.body == FILM, line["reason"]) == (True, True, "healed(1)")
            assert place.asked(house, "GET")[-1].status == 200


async def test_a_chunked_upstream_is_healed_by_ranges(house: House) -> None:
    for _ in tiers(house):
        task_id = await house.completed(KLING.model, PROMPT)
        add(house, KLING.fault("chunked", times=None), KLING.fault("cut", at=300_000))
        reply, line = await told(house, content(task_id))
        assert (reply.whole, reply.body == FILM, line["reason"]) == (True, True, "healed(1)")
        assert reply.headers["Content-Length"] == str(SIZE)


async def test_a_body_that_ends_by_closing_is_never_short(house: House) -> None:
    """Such an upstream's cut looks like its end: only the size, asked for apart, tells."""
    for _ in tiers(house):
        for place in TWO.values():
            task_id = await house.completed(place.model, PROMPT)
            add(house, place.fault("http10", times=None), place.fault("cut", at=300_000))
            reply, line = await told(house, content(task_id))
            assert (reply.whole, reply.body == FILM, line["reason"]) == (True, True, "healed(1)")
            house.sim.faults.clear()


async def test_an_end_nobody_can_tell_from_a_break_is_not_called_whole(house: House) -> None:
    """A body that ends by closing, of a size that nobody tells: ours ends by closing too. Chunks
    with a clean last one would say that the video is complete."""
    task_id = await house.completed(KLING.model, PROMPT)
    add(house, *(KLING.fault(kind, times=None) for kind in ("http10", "no_range")))
    add(house, KLING.fault("cut", at=300_000))
    reply, _ = await told(house, content(task_id))
    assert (reply.status, reply.body) == (200, FILM[:300_000])
    assert "Transfer-Encoding" not in reply.headers
    assert "Content-Length" not in reply.headers
    assert reply.headers["Connection"] == "close"


async def test_an_object_that_changed_under_way_is_never_mixed_in(house: House) -> None:
    """The client has the old one's bytes; the new one's are not sent after them."""
    for _ in tiers(house):
        for place in TWO.values():
            for more in ((), (place.fault("no_range", times=None),)):
                task_id = await house.completed(place.model, PROMPT)
                house.sim.log.clear()
                add(
                    house, place.fault("cut", at=200_000), place.fault("etag_change", skip=1), *more
                )
                reply, line = await told(house, content(task_id))
                check_short(reply, dict(line), 200_000, {"upstream_short"})
                assert [e.status for e in place.asked(house, "GET")] == [200, 200]
                house.sim.faults.clear()


async def test_a_length_that_is_not_kept_is_never_a_complete_video(house: House) -> None:
    """The upstream promises more than it has: so did we, and the body must not look whole."""
    for _ in tiers(house):
        for place in TWO.values():
            task_id = await house.completed(place.model, PROMPT)
            house.sim.log.clear()
            add(house, place.fault("wrong_length", delta=7))
            reply, line = await told(house, content(task_id))
            assert reply.headers["Content-Length"] == str(SIZE + 7)
            check_short(reply, dict(line), SIZE, {"upstream_short"})
            assert [e.status for e in place.asked(house, "GET")] == [200, 416]


async def test_bytes_behind_the_promised_length_go_nowhere(house: House) -> None:
    """They would be read as the beginning of the next reply."""
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        add(house, OPENAI.fault("wrong_length", delta=-1000))
        async with connected(house) as raw:
            await raw.send(content(task_id), house.bearer)
            reply = await raw.reply()
            assert (reply.whole, reply.body) == (True, FILM[: SIZE - 1000])
            await raw.send(content(task_id, variant="thumbnail"), house.bearer)
            assert await raw.head() == 200


async def test_an_upstream_that_always_cuts_ends_in_a_cut(house: House) -> None:
    """After the budget: the body is short, and the connection ends inside it."""
    for _ in tiers(house):
        for place in TWO.values():
            task_id = await house.completed(place.model, PROMPT)
            house.sim.log.clear()
            add(house, place.fault("cut", at=150_000), place.fault("cut", at=0, times=None))
            reply, line = await told(house, content(task_id))
            check_short(reply, dict(line), 150_000, {"upstream_short"})
            assert len(place.asked(house, "GET")) == 1 + 2
            house.sim.faults.clear()


async def test_an_upstream_that_is_gone_ends_in_a_cut(house: House) -> None:
    """The same when the reopenings are refused, and for a client whose body ends by closing."""
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        for version in ("1.1", "1.0"):
            add(house, OPENAI.fault("cut", at=150_000), OPENAI.fault("status", skip=1, times=2))
            reply, line = await told(house, content(task_id), version=version)
            check_short(reply, dict(line), 150_000, {"upstream_short"})
            house.sim.faults.clear()


async def test_a_sizeless_body_that_cannot_be_healed_is_reset_or_left_open(house: House) -> None:
    """Chunked for an HTTP/1.1 client: no last chunk. Ended by closing for an HTTP/1.0 one: a
    reset, for a close would be a clean end."""
    for _ in tiers(house):
        for version in ("1.1", "1.0"):
            task_id = await house.completed(KLING.model, PROMPT)
            add(house, KLING.fault("chunked", times=None), KLING.fault("no_range", times=None))
            # The second request asks for the size, which this upstream does not tell.
            add(house, KLING.fault("cut", at=150_000), KLING.fault("status", skip=2, times=None))
            reply, line = await told(house, content(task_id), version=version)
            assert "Content-Length" not in reply.headers
            assert not reply.whole
            assert FILM.startswith(reply.body)
            assert line["reason"] == "upstream_short"
            house.sim.faults.clear()


async def test_a_silent_upstream_is_left_and_healed(impatient: House) -> None:
    house = impatient
    for _ in tiers(house):
        for place in TWO.values():
            task_id = await house.completed(place.model, PROMPT)
            house.sim.log.clear()
            add(house, place.fault("stall", at=200_000))
            reply, line = await told(house, content(task_id))
            assert (reply.whole, reply.body == FILM, line["reason"]) == (True, True, "healed(1)")
            left = await house.sim.wait_for(lambda e: e.stalled and e.done)
            assert (left.aborted, left.bytes_sent) == (True, 200_000)


async def test_an_upstream_that_stays_silent_ends_in_a_cut(impatient: House) -> None:
    house = impatient
    for _ in tiers(house):
        task_id = await house.completed(prompt=PROMPT)
        tune(house, heal_attempts=1)
        add(house, OPENAI.fault("stall", at=200_000), OPENAI.fault("stall", at=0, times=None))
        reply, line = await told(house, content(task_id))
        check_short(reply, dict(line), 200_000, {"idle_upstream"})


async def test_an_upstream_silent_before_its_head_is_a_502(impatient: House) -> None:
    house = impatient
    tune(house, heal_attempts=1)
    task_id = await house.completed(prompt=PROMPT)
    house.sim.log.clear()
    add(house, OPENAI.fault("stall", at=None, times=None))
    reply, line = await told(house, content(task_id))
    assert (reply.status, line["reason"]) == (502, "upstream_error")
    assert reply.headers["Retry-After"] == "5"
    assert len(OPENAI.asked(house)) == 2


async def test_a_url_that_expires_under_way_is_renewed(house: House) -> None:
    """And again when the provider does not answer at first."""
    for _ in tiers(house):
        task_id = await house.completed(KLING.model, PROMPT)
        house.sim.log.clear()
        [stall, *_] = add(house, KLING.fault("stall", at=100_000), KLING.fault("cut", at=100_001))
        add(house, Fault("status", service="kling", operation="poll", status=503))
        download = asyncio.create_task(told(house, content(task_id)))
        await house.sim.wait_for(lambda entry: entry.stalled)
        house.sim.expire_links()
        stall.release()
        reply, line = await download
        assert (reply.whole, reply.body == FILM, line["reason"]) == (True, True, "healed(1)")
        assert [e.status for e in KLING.asked(house)] == [200, 403, 403, 206]
        assert [e.status for e in house.sim.log.select("kling", "poll")] == [503, 200]


async def test_an_upstream_that_needs_a_hundred_openings_is_broken(house: House) -> None:
    """However often it brings a few more bytes."""
    task_id = await house.completed(prompt=PROMPT)
    house.sim.log.clear()
    add(house, OPENAI.fault("cut", at=1000, times=None))
    reply, line = await told(house, content(task_id))
    check_short(reply, dict(line), 100_000, {"upstream_short"})
    assert len(OPENAI.asked(house)) <= 101


@each_kind_of_place
async def test_a_break_is_healed_while_the_client_waits_on_its_connection(
    house: House, place: Place
) -> None:
    """The client has read the first part and sees one uninterrupted reply."""
    task_id = await house.completed(place.model, PROMPT)
    [stall, *_] = add(house, place.fault("stall", at=1000), place.fault("cut", at=1001))
    async with connected(house) as raw:
        await raw.send(content(task_id), house.bearer)
        assert await raw.head() == 200
        assert await raw.some(1000) == FILM[:1000]
        stall.release()
        assert await raw.some(SIZE - 1000) == FILM[1000:]
        assert (await line_of(house, raw))["reason"] == "healed(1)"


# ---------------------------------------------------------------- any sequence


@dataclass(frozen=True)
class Case:
    """A download: what is asked, what the upstream cannot do, where it breaks."""

    range: str | None
    expected: slice
    kinds: tuple[Kind, ...]
    cuts: tuple[tuple[int, bool], ...]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    start = draw(st.integers(0, SIZE - 1))
    stop = draw(st.integers(start, SIZE - 1)) + 1
    wanted, expected = draw(
        st.sampled_from(
            [
                (None, slice(0, SIZE)),
                (f"bytes={start}-{stop - 1}", slice(start, stop)),
                (f"bytes={start}-", slice(start, SIZE)),
                (f"bytes=-{SIZE - start}", slice(start, SIZE)),
            ]
        )
    )
    each: tuple[tuple[Kind, ...], ...] = ((), ("no_range",), ("chunked",), ("http10",))
    kinds = draw(st.sampled_from(each))
    cuts = draw(st.lists(st.tuples(st.integers(0, SIZE), st.booleans()), max_size=3))
    return Case(wanted, expected, kinds, tuple(cuts))


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_any_cuts_under_any_range_yield_exactly_its_bytes(
    loop: str, tier: str, open_house: OpenHouse
) -> None:
    """Whatever the upstream cannot do, and wherever it breaks."""
    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        stack = AsyncExitStack()
        opened = open_house(Plan(limits=f'relay_tiers = ["{tier}"]'))
        house = runner.run(stack.enter_async_context(opened))
        try:
            task_id = runner.run(house.completed(prompt=PROMPT))

            async def download(case: Case) -> None:
                house.sim.faults.clear()
                for kind in case.kinds:
                    add(house, OPENAI.fault(kind, times=None))
                for at, reset in case.cuts:
                    add(house, OPENAI.fault("cut", at=at, reset=reset))
                headers = {"Range": case.range} if case.range else {}
                reply, line = await told(house, content(task_id), headers)
                expected = FILM[case.expected]
                assert reply.status == (206 if case.range else 200)
                assert (reply.whole, reply.body == expected) == (True, True)
                assert str(line["reason"]).startswith(("done", "healed"))
                assert line["bytes"] == len(expected)

            @settings(
                max_examples=20,
                deadline=None,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
            )
            @given(cases())
            def holds(case: Case) -> None:
                runner.run(download(case))

            holds()
        finally:
            runner.run(stack.aclose())
