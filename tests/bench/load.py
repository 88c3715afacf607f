"""The clients of the downloads: one process, one thread, copying nothing.

`python -m tests.bench.load` reads one `Job` as JSON from its standard input and answers with
one JSON line. Bodies are received with MSG_TRUNC: the kernel throws them away, so that the
client costs little and the contender's share of the machine is not the client's to take.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

from tests.bench.procs import cpu_s

PIECE = 4 << 20
TICK_S = 0.1
OPEN_S = 120.0
ASKING = 25
_HEAD_BYTES = 16 << 10


@dataclass(frozen=True, slots=True)
class Target:
    name: str
    port: int
    request: str  # the whole head of a GET


@dataclass(frozen=True, slots=True)
class Job:
    """`stream`: as fast as they can once all have begun; after `warm_s`, the bytes of `window_s`
    and the CPU of `pids` in it. `slow`: each client takes `rate` bytes a second, and a first line
    says when `warm_s` are over. `first`: one request after the other, `rounds` of each target in
    turn, and the milliseconds until each body's first byte."""

    kind: str
    targets: list[Target]
    streams: int = 1
    warm_s: float = 1.0
    window_s: float = 3.0
    rounds: int = 1
    rate: int = 50_000
    pids: list[int] = field(default_factory=list)

    def dumps(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> Job:
        fields = json.loads(text)
        fields["targets"] = [Target(**target) for target in fields["targets"]]
        return cls(**fields)


class Fault(Exception):
    """A contender did not serve as it should: there is no figure."""


class Download:
    """One connection that asks for the same video again and again."""

    def __init__(self, target: Target, *, blocking: bool) -> None:
        self.sock = socket.create_connection(("127.0.0.1", target.port), 10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.settimeout(30 if blocking else 0)
        self.left = 0  # bytes of the body still to come
        self.heads = 0  # answers begun
        self._head = b""
        self._request = target.request.encode()
        self._name = target.name

    def ask(self) -> None:
        self.sock.sendall(self._request)

    def take(self, buffer: bytearray, most: int = PIECE) -> int:
        """Receive once; returns how many bytes of body that were."""
        if self.left:
            size = self.sock.recv_into(buffer, min(self.left, most), socket.MSG_TRUNC)
            if not size:
                raise Fault(f"{self._name} cut a body that lacked {self.left} bytes")
            self.left -= size
            return size
        data = self.sock.recv(_HEAD_BYTES)
        if not data:
            raise Fault(f"{self._name} closed the connection")
        self._head += data
        head, end, body = self._head.partition(b"\r\n\r\n")
        if not end:
            return 0
        self._head = b""
        self.heads += 1
        self.left = self._length(head.decode("latin-1")) - len(body)
        return len(body)

    def _length(self, head: str) -> int:
        status, *lines = head.split("\r\n")
        headers = dict(line.lower().split(":", 1) for line in lines)
        if status.split(" ")[1] not in ("200", "206") or "content-length" not in headers:
            raise Fault(f"{self._name} answered: {head[:300]}")
        return int(headers["content-length"])


def stream(job: Job) -> dict[str, float]:
    (target,) = job.targets
    buffer, poller = bytearray(PIECE), select.epoll()
    downloads: dict[int, Download] = {}
    deadline = time.monotonic() + OPEN_S
    while (begun := sum(1 for d in downloads.values() if d.heads)) < job.streams:
        # A few at a time: what is measured is a stream's cost, not a stampede's.
        while len(downloads) < min(begun + ASKING, job.streams):
            download = Download(target, blocking=False)
            downloads[download.sock.fileno()] = download
            poller.register(download.sock, select.EPOLLIN)
            download.ask()
        _pump(downloads, poller, buffer, time.monotonic() + TICK_S / 10)
        if time.monotonic() > deadline:
            raise Fault(f"{target.name} began {begun} downloads in {OPEN_S:g} s")
    _pump(downloads, poller, buffer, time.monotonic() + job.warm_s)
    began, cpu = time.monotonic(), cpu_s(job.pids)
    size = _pump(downloads, poller, buffer, began + job.window_s)
    return {
        "bytes": size,
        "cpu_s": cpu_s(job.pids) - cpu,
        "wall_s": time.monotonic() - began,
    }


def _pump(
    downloads: dict[int, Download], poller: select.epoll, buffer: bytearray, until: float
) -> int:
    size = 0
    while (now := time.monotonic()) < until:
        for fd, _events in poller.poll(until - now):
            download = downloads[fd]
            before = download.left
            taken = download.take(buffer)
            size += taken
            if (before or taken) and not download.left:
                download.ask()
    return size


def slow(job: Job) -> dict[str, float]:
    (target,) = job.targets
    downloads = [Download(target, blocking=False) for _ in range(job.streams)]
    buffer = bytearray(PIECE)
    began = time.monotonic()
    is_told, size, ticks = False, 0, 0
    for download in downloads:
        download.ask()
    while (now := time.monotonic()) < began + job.warm_s + job.window_s:
        if not is_told and now >= began + job.warm_s:
            print(json.dumps({"warm": size}), flush=True)
            is_told = True
        for download in downloads:
            try:
                size += download.take(buffer, round(job.rate * TICK_S))
            except BlockingIOError:
                continue
        ticks += 1
        time.sleep(max(0.0, began + ticks * TICK_S - time.monotonic()))
    return {"bytes": size, "wall_s": time.monotonic() - began}


def first(job: Job) -> dict[str, list[float]]:
    buffer = bytearray(PIECE)
    downloads = {target.name: Download(target, blocking=True) for target in job.targets}
    waits: dict[str, list[float]] = {name: [] for name in downloads}
    for turn in range(job.rounds + 1):
        for name, download in downloads.items():
            began = time.perf_counter()
            download.ask()
            while not download.left:
                taken = download.take(buffer)
            if not taken:  # the head came alone
                download.take(buffer)
            if turn:  # the first one opens connections
                waits[name].append((time.perf_counter() - began) * 1000)
            while download.left:
                download.take(buffer)
    return waits


def main() -> None:
    job = Job.loads(sys.stdin.read())
    try:
        match job.kind:
            case "stream":
                print(json.dumps(stream(job)))
            case "slow":
                print(json.dumps(slow(job)))
            case _:
                print(json.dumps(first(job)))
    except (Fault, OSError) as fault:
        sys.exit(f"{type(fault).__name__}: {fault}")


if __name__ == "__main__":
    main()
