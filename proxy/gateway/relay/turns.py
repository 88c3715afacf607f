"""How the streams of a worker share its event loop.

Rule: between two looks at everything else, at most `PIECES` pieces of streams are moved, however
many streams could go on. Two fast ends keep a stream always ready, and a loop that serves all
that is ready never gets round: with 64 such streams it came by twice a second, status polls
waited for it, and the store, whose answer lay unread, was taken for dead.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

PIECES = 16
PIECE_BYTES = 1 << 18  # 0.1 to 0.3 ms of CPU: a round of pieces is a few milliseconds


class StreamTurns:
    """First come, first served. One for all streams of a loop.

    `piece` is where a stream puts what it reads; whoever fills it empties it before the loop
    goes on.
    """

    def __init__(self) -> None:
        self.piece = memoryview(bytearray(PIECE_BYTES + 1))
        self._waiting: deque[Callable[[], None]] = deque()
        self._left = PIECES
        self._is_due = False

    def ask(self, piece: Callable[[], None]) -> None:
        """Call `piece` now if this round has room, else in turn. A piece must not raise, and must
        bear to be called after its stream has ended."""
        if self._waiting or not self._left:
            self.again(piece)
            return
        self._left -= 1
        self._schedule()
        piece()

    def again(self, piece: Callable[[], None]) -> None:
        """Call `piece` in a later round, behind those who wait already."""
        self._waiting.append(piece)
        self._schedule()

    async def turn(self) -> None:
        """As `ask`, for who reads by awaiting: the piece is what comes after."""
        if self._left and not self._waiting:
            self._left -= 1
            self._schedule()
            return
        granted = asyncio.get_running_loop().create_future()
        self.again(lambda: None if granted.done() else granted.set_result(None))
        await granted

    def _schedule(self) -> None:
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._round)

    def _round(self) -> None:
        self._is_due = False
        granted = min(PIECES, len(self._waiting))
        self._left = PIECES - granted
        pieces = [self._waiting.popleft() for _ in range(granted)]
        if pieces:
            self._schedule()
        for piece in pieces:
            piece()
