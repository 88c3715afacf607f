"""Streams share the loop: however many could go on, everything else gets its turn."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from proxy.gateway.relay.turns import PIECES, StreamTurns

STREAMS = 5 * PIECES


class Stream:
    """One that can always go on, as between two fast ends."""

    def __init__(self, turns: StreamTurns, moved: list[int], name: int) -> None:
        self._turns, self._moved, self._name = turns, moved, name

    def piece(self) -> None:
        self._moved.append(self._name)
        self._turns.again(self.piece)


async def test_a_round_of_the_loop_moves_a_bounded_number_of_pieces() -> None:
    """Any number of ready streams leaves room for a status poll, and for each other."""
    turns, moved, seen = StreamTurns(), list[int](), list[int]()
    for name in range(STREAMS):
        turns.ask(Stream(turns, moved, name).piece)
    for _ in range(20):
        await asyncio.sleep(0)
        seen.append(len(moved))
    assert {after - before for before, after in pairwise(seen)} == {PIECES}


async def test_no_stream_moves_twice_before_each_has_moved_once() -> None:
    turns, moved = StreamTurns(), list[int]()
    for name in range(STREAMS):
        turns.again(Stream(turns, moved, name).piece)
    for _ in range(2 * STREAMS // PIECES + 1):
        await asyncio.sleep(0)
    assert moved[: 2 * STREAMS] == [*range(STREAMS), *range(STREAMS)]


async def test_a_lone_stream_does_not_wait() -> None:
    turns, moved = StreamTurns(), list[int]()
    turns.ask(lambda: moved.append(1))
    assert moved == [1]
