"""Bodies share what a worker takes of them in one turn of its loop; none is taken twice or lost."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest

from proxy.gateway.request import _HEAD_BYTES, _LARGE_PIECE_BYTES, _Pieces
from proxy.tasks.spool import TURN_BYTES, SpoolTurns


class Loop:
    """Counts the turns of the running loop."""

    def __init__(self) -> None:
        self.turn = 0
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.turn += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def test_a_worker_takes_no_more_than_one_large_piece_too_many_in_a_turn() -> None:
    turns, loop = SpoolTurns(), Loop()
    taken: list[int] = []

    async def body() -> None:
        for _ in range(5):
            await turns.take(TURN_BYTES)
            taken.append(loop.turn)

    await asyncio.gather(*(body() for _ in range(8)))
    loop.stop()
    assert len(taken) == 40
    assert max(taken.count(turn) for turn in taken) <= 2


async def test_bodies_come_in_turn() -> None:
    """Who waits longest goes first: a ninth body is not kept from its first byte by eight."""
    turns = SpoolTurns()
    order: list[int] = []

    async def body(number: int) -> None:
        for _ in range(6):
            await turns.take(TURN_BYTES)
            order.append(number)

    await asyncio.gather(*(body(number) for number in range(4)))
    assert len(order) == 24
    for at in range(len(order)):
        seen = [order[: at + 1].count(number) for number in range(4)]
        assert max(seen) - min(seen) <= 2


async def test_small_bodies_do_not_wait() -> None:
    turns, loop = SpoolTurns(), Loop()
    for _ in range(100):
        await turns.take(TURN_BYTES // 200)
    assert loop.turn == 0
    loop.stop()


async def test_who_left_keeps_nobody_waiting() -> None:
    turns = SpoolTurns()
    await turns.take(TURN_BYTES)
    gone = [asyncio.create_task(turns.take(TURN_BYTES)) for _ in range(3)]
    last = asyncio.create_task(turns.take(1))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.wait_for(last, 10)


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [1],
        [_LARGE_PIECE_BYTES],
        [_LARGE_PIECE_BYTES - 1, 1],
        [1, _LARGE_PIECE_BYTES, 1],
        [3] * 100_000,
        [100_000, 5, 100_000, 7],
    ],
)
def test_a_body_is_the_bytes_that_came(sizes: list[int]) -> None:
    ends = [0]
    for size in sizes:
        ends.append(ends[-1] + size)
    sent = bytes(at * 7 % 251 for at in range(ends[-1]))
    body = _Pieces()
    for begin, end in pairwise(ends):
        body.add(sent[begin:end])
        assert body.head()[: body.size] == sent[: min(_HEAD_BYTES, len(body.head()))]
    assert body.whole() == sent
    assert body.size == len(sent)
