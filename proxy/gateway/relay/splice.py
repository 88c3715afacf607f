"""Tier splice: the kernel moves the bytes from socket to socket; none come to us.

Rule: pollers are removed before their descriptors are closed, in a `finally` that depends on
nothing. A poller left on a closed descriptor once took the whole process down.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
from dataclasses import dataclass

from proxy.gateway.relay.base import ClientGate, RelayEnd, Transfer
from proxy.gateway.relay.pipe import TakenConnection
from proxy.gateway.relay.turns import StreamTurns

# A pipe holds a number of socket buffers, however small: a large one is needed to hold even
# one wakeup's worth of packets. Users but root may have few of them.
PIPE_SIZES = (1 << 20, 1 << 18)
# At most this much of a stream waits in its pipe: much for a client that takes it all at once
# (a third less CPU than with 256 KiB), little for one that must be waited for.
FAST_BYTES = 1 << 20
SLOW_BYTES = 1 << 17
ROUNDS = 2  # of one stream, before other streams have their turn
KEPT_PIPES = 32


@dataclass(frozen=True, slots=True)
class PipePair:
    read_fd: int
    write_fd: int

    def close(self) -> None:
        os.close(self.read_fd)
        os.close(self.write_fd)


class PipePool:
    """Empty large pipes, kept for the next stream."""

    def __init__(self) -> None:
        self._free: list[PipePair] = []

    def get(self) -> PipePair | None:
        """None when the system has no large pipe for us."""
        if self._free:
            return self._free.pop()
        try:
            pair = PipePair(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            return None
        for size in PIPE_SIZES:
            with contextlib.suppress(OSError):
                fcntl.fcntl(pair.write_fd, fcntl.F_SETPIPE_SZ, size)
                return pair
        pair.close()
        return None

    def put(self, pair: PipePair) -> None:
        """Only for an empty pipe: what is left in one would reach another client."""
        if len(self._free) < KEPT_PIPES:
            self._free.append(pair)
        else:
            pair.close()

    def close(self) -> None:
        while self._free:
            self._free.pop().close()


class _Splice:
    """The pump between two dup'ed sockets (a loop refuses pollers on a transport's own)."""

    def __init__(
        self,
        transfer: Transfer,
        pair: PipePair,
        upstream: int,
        client: int,
        taken: TakenConnection,
        turns: StreamTurns,
    ) -> None:
        self._transfer, self._pair, self._turns = transfer, pair, turns
        self._upstream, self._client, self._taken = upstream, client, taken
        left = transfer.left
        assert left is not None
        self._wire = min(taken.wire_bytes, left)
        self._last = RelayEnd.UPSTREAM_SHORT  # what it is when the wire ends and bytes are lacking
        self._is_queued = self._is_stopped = False
        self._room = FAST_BYTES
        self.in_pipe = 0

    def start(self) -> None:
        self._transfer.loop.add_reader(self._upstream, self._readable)

    def stop(self) -> None:
        loop = self._transfer.loop
        loop.remove_reader(self._upstream)
        loop.remove_writer(self._client)
        self._is_stopped = True

    def _readable(self) -> None:
        if not self._is_queued:
            self._is_queued = True
            self._turns.ask(self._fill)

    def _fill(self) -> None:
        """Upstream side: until there is nothing more, or the client must be waited for.

        Never only a part: when a connection is reset behind readable bytes, uvloop calls a
        poller once and not again.
        """
        self._is_queued = False
        if self._is_stopped:  # its descriptors may be another stream's by now
            return
        transfer = self._transfer
        for _ in range(ROUNDS):
            if transfer.end is not None or transfer.blocked:
                return
            try:
                size = os.splice(
                    self._upstream,
                    self._pair.write_fd,
                    min(self._wire, self._room),
                    flags=os.SPLICE_F_NONBLOCK,
                )
            except BlockingIOError:
                return
            except OSError:
                size, self._last = 0, RelayEnd.UPSTREAM_RESET
            self._wire = self._wire - size if size else 0
            self._taken.wire_bytes -= size
            self.in_pipe += size
            self._room = min(self._room * 2, FAST_BYTES)  # unless the client is waited for now
            transfer.received()
            self._empty()
        if transfer.end is None and not transfer.blocked:
            self._is_queued = True
            self._turns.again(self._fill)

    def _empty(self) -> None:
        """Client side; also the poller's callback while the client was not writable."""
        transfer = self._transfer
        if transfer.end is not None:
            return
        while self.in_pipe:
            try:
                size = os.splice(
                    self._pair.read_fd, self._client, self.in_pipe, flags=os.SPLICE_F_NONBLOCK
                )
            except BlockingIOError:
                self._wait_for_client()
                return
            except OSError:
                transfer.finish(RelayEnd.CLIENT_GONE)
                return
            self.in_pipe -= size
            transfer.wrote(size)
        if not self._wire:
            transfer.finish(self._last)  # unless that was all the client lacked
        elif transfer.blocked:
            transfer.blocked = False
            transfer.loop.remove_writer(self._client)
            transfer.loop.add_reader(self._upstream, self._readable)

    def _wait_for_client(self) -> None:
        transfer = self._transfer
        self._room = SLOW_BYTES
        if not transfer.blocked:
            transfer.blocked = True
            transfer.loop.remove_reader(self._upstream)
            transfer.loop.add_writer(self._client, self._empty)


async def run(
    transfer: Transfer, taken: TakenConnection, pipes: PipePool, pair: PipePair, turns: StreamTurns
) -> None:
    """Send what the client's transport still holds, then splice `taken` until the run ends."""
    fds: list[int] = []
    pump: _Splice | None = None
    try:
        if not await _flush(transfer):
            transfer.finish(RelayEnd.CLIENT_GONE)
            return
        fds.append(os.dup(taken.transport.get_extra_info("socket").fileno()))
        fds.append(os.dup(transfer.client.get_extra_info("socket").fileno()))
        pump = _Splice(transfer, pair, fds[0], fds[1], taken, turns)
        pump.start()
        await transfer.done
    finally:
        if pump is not None:
            pump.stop()
            taken.overran = _is_readable(fds[0])
        for fd in fds:
            os.close(fd)
        if pump is None or not pump.in_pipe:
            pipes.put(pair)
        else:
            pair.close()


def _is_readable(fd: int) -> bool:
    """Whether bytes or an end are there to be read."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


async def _flush(transfer: Transfer) -> bool:
    """Wait until the client's transport holds nothing, or the bytes would change places.

    False when the run ended meanwhile.
    """
    client = transfer.client
    gate = ClientGate(transfer)
    transfer.conn.flow = gate
    transfer.on_end = gate.resume
    try:
        with transfer.unbuffered():
            while client.get_write_buffer_size() and transfer.end is None:
                await gate.wait()
    finally:
        transfer.on_end = transfer.conn.flow = None
    return transfer.end is None and not client.is_closing()
