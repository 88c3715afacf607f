"""Uploads, kept between the client's body and the upstream's, and what bodies may weigh.

Rule: every byte held counts against a budget of the worker, on disk (uploads) or in memory (the
rest of a body). Nobody may hold more than a share of it. And every file is nameless from its first
moment on (O_TMPFILE, or unlinked at once): however a worker dies, nothing is left behind.

A blob is hashed while it is written, stays in memory up to `memory_bytes`, and may be read by
several readers at a time. Methods are for one thread: the worker's event loop.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from proxy.errors import TooLarge, Unavailable

TURN_BYTES = 128 * 1024
RETRY_AFTER_S = 5.0  # uploads live as long as one submit, a few seconds

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_HEAD_BYTES = 16  # enough for every row of `sniff`


class Budget:
    """Bytes that all requests of a worker may hold together, and each holder a share of them.

    `full` makes the error for a request that does not fit; its argument says whose bytes fill the
    budget."""

    __slots__ = ("_full", "_held_by", "held_bytes", "share_bytes", "total_bytes")

    def __init__(
        self, total_bytes: int, share_bytes: int, full: Callable[[str], Unavailable]
    ) -> None:
        self.total_bytes = total_bytes
        self.share_bytes = share_bytes
        self.held_bytes = 0
        self._held_by: dict[str, int] = {}
        self._full = full

    def take(self, size: int, who: str | None) -> None:
        """Book `size` bytes. `who` None has no share. Raises `Unavailable` when nothing is left."""
        mine = 0 if who is None else self._held_by.get(who, 0) + size
        is_share_spent = mine > self.share_bytes
        if is_share_spent or self.held_bytes + size > self.total_bytes:
            raise self._full(" with requests of this key" if is_share_spent else "")
        self.held_bytes += size
        if who is not None:
            self._held_by[who] = mine

    def give_back(self, size: int, who: str | None) -> None:
        self.held_bytes -= size
        if who is not None:
            left = self._held_by.get(who, 0) - size
            if left > 0:
                self._held_by[who] = left
            else:
                self._held_by.pop(who, None)


def _spool_full(why: str) -> Unavailable:
    return Unavailable(
        f"The upload spool is full at the moment{why}; try again shortly.",
        code="spool_full",
        retry_after_s=RETRY_AFTER_S,
        limit="spool",
    )


def _bodies_full(why: str) -> Unavailable:
    return Unavailable(
        f"The memory for request bodies is full at the moment{why}; try again shortly.",
        code="bodies_full",
        retry_after_s=RETRY_AFTER_S,
        limit="bodies",
    )


class SpoolTurns:
    """How many bytes of all bodies together a worker takes in one turn of its loop.

    Reading a burst of eight bodies at once held the loop for 25 ms, and each more for longer. A
    body beyond `TURN_BYTES` waits for a later turn, first come first served; its socket is not
    read meanwhile.
    """

    __slots__ = ("_is_turning", "_left", "_waiting")

    def __init__(self) -> None:
        self._left = TURN_BYTES
        self._is_turning = False
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Return once `size` bytes more may be taken: at once while this turn has some left."""
        loop = asyncio.get_running_loop()
        if not self._is_turning:
            self._is_turning = True
            loop.call_soon(self._turn, loop)
        if self._left > 0 and not self._waiting:
            self._left -= size
            return
        mine: asyncio.Future[None] = loop.create_future()
        self._waiting.append((size, mine))
        await mine

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = TURN_BYTES
        self._is_turning = bool(self._waiting)
        while self._waiting and self._left > 0:
            size, waiter = self._waiting.popleft()
            if not waiter.done():  # else its request was given up
                self._left -= size
                waiter.set_result(None)
        if self._is_turning:
            loop.call_soon(self._turn, loop)


class Spool:
    """Where one worker keeps its uploads. `held_bytes` is what all open blobs take together.

    `bodies` is the budget of what is kept of bodies in memory: JSON, and the text of forms."""

    def __init__(
        self,
        directory: Path,
        memory_bytes: int = 256 * 1024,
        upload_bytes: int = 32 * 1024 * 1024,
        total_bytes: int = 512 * 1024 * 1024,
        body_bytes: int = 512 * 1024 * 1024,
    ) -> None:
        self.directory = directory
        self.memory_bytes = memory_bytes
        self.upload_bytes = upload_bytes
        self._uploads = Budget(total_bytes, max(total_bytes // 2, upload_bytes), _spool_full)
        self.bodies = Budget(body_bytes, body_bytes // 2, _bodies_full)
        self.turns = SpoolTurns()

    @property
    def held_bytes(self) -> int:
        return self._uploads.held_bytes

    def open(self, filename: str, content_type: str, who: str | None = None) -> SpoolWriter:
        """A writer for one upload. The caller finishes or discards it, then closes the blob;
        `batch` does that for all uploads of a request."""
        return SpoolWriter(self, filename, content_type, who)

    def batch(self, who: str | None = None) -> Batch:
        """`who` sends the request: a token, or an address before the token is known."""
        return Batch(self, who)

    def take(self, size: int, who: str | None) -> None:
        """Book `size` bytes. Raises `Unavailable` when the budget is spent."""
        self._uploads.take(size, who)

    def give_back(self, size: int, who: str | None) -> None:
        self._uploads.give_back(size, who)


class Batch:
    """What one request holds: its uploads, and memory for the rest of its body.

    `with spool.batch() as batch:` gives everything back at its end."""

    def __init__(self, spool: Spool, who: str | None = None) -> None:
        self._spool = spool
        self._who = who
        self._writers: list[SpoolWriter] = []
        self._weight = 0

    def open(self, filename: str, content_type: str) -> SpoolWriter:
        writer = self._spool.open(filename, content_type, self._who)
        self._writers.append(writer)
        return writer

    def weigh(self, size: int) -> None:
        """Say how much memory the request holds now. Raises `Unavailable` when the budget for
        bodies is spent."""
        more = size - self._weight
        if more > 0:
            self._spool.bodies.take(more, self._who)
        elif more:
            self._spool.bodies.give_back(-more, self._who)
        self._weight = size

    async def turn(self, size: int) -> None:
        """Wait until the worker may take `size` bytes more of a body; see `SpoolTurns`."""
        await self._spool.turns.take(size)

    def close(self) -> None:
        while self._writers:
            self._writers.pop().close()
        self.weigh(0)

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class SpoolWriter:
    """One upload on its way in. Whatever `write` raises, it has given everything back by then."""

    def __init__(
        self, spool: Spool, filename: str, content_type: str, who: str | None = None
    ) -> None:
        self._spool = spool
        self._who = who
        self._filename = filename
        self._content_type = content_type
        self._hash = hashlib.sha256()
        self._head = b""
        self._size = 0
        self._memory = bytearray()
        self._file: IO[bytes] | None = None
        self._blob: SpooledBlob | None = None
        self._is_open = True

    def write(self, data: bytes) -> None:
        """Raises `TooLarge` above the limit of one upload, `Unavailable` when the spool or its
        disk is full."""
        if not self._is_open:
            raise ValueError("this upload is finished or discarded")
        kept = False
        try:
            self._keep(data)
            kept = True
        finally:
            if not kept:
                self.discard()

    def _keep(self, data: bytes) -> None:
        if self._size + len(data) > self._spool.upload_bytes:
            text = f"An uploaded file is larger than {self._spool.upload_bytes} bytes."
            raise TooLarge(text, limit="body")
        self._spool.take(len(data), self._who)
        self._size += len(data)
        if len(self._head) < _HEAD_BYTES:
            self._head = (self._head + data)[:_HEAD_BYTES]
        self._hash.update(data)
        if self._file is None and self._size <= self._spool.memory_bytes:
            self._memory += data
            return
        try:
            if self._file is None:
                self._spool.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=self._spool.directory, buffering=0)  # noqa: SIM115 -- closed by the blob
                _write_all(self._file.fileno(), self._memory)
                self._memory = bytearray()
            _write_all(self._file.fileno(), data)
        except OSError as exc:
            why = "has no room" if exc.errno in _NO_ROOM else "cannot be written"
            raise Unavailable(
                f"The upload spool is full or broken: its disk {why}.",
                code="spool_full",
                retry_after_s=RETRY_AFTER_S,
            ) from exc

    def describe(self, filename: str, content_type: str) -> None:
        """Name the upload and its type, where they are known only after its first bytes."""
        self._filename, self._content_type = filename, content_type

    def finish(self) -> SpooledBlob:
        """The upload as a blob, which now owns its bytes."""
        if not self._is_open:
            raise ValueError("this upload is finished or discarded")
        self._is_open = False
        declared = self._content_type.partition(";")[0].strip().lower()
        if declared in _UNTYPED:
            declared = sniff(self._head) or "application/octet-stream"
        self._blob = SpooledBlob(
            self._spool,
            size=self._size,
            sha256=self._hash.hexdigest(),
            content_type=declared,
            filename=self._filename or "upload",
            memory=bytes(self._memory),
            file=self._file,
            who=self._who,
        )
        self._memory, self._file = bytearray(), None
        return self._blob

    def discard(self) -> None:
        """Forget an unfinished upload; nothing after `finish`, which handed it to the blob."""
        if not self._is_open:
            return
        self._is_open = False
        self._memory = bytearray()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._spool.give_back(self._size, self._who)

    def close(self) -> None:
        """Forget the upload, finished or not."""
        self.discard()
        if self._blob is not None:
            self._blob.close()


class SpooledBlob:
    """A finished upload; a `model.Blob`. `close` gives its bytes back to the spool."""

    __slots__ = (
        "_file",
        "_is_open",
        "_memory",
        "_spool",
        "_who",
        "content_type",
        "filename",
        "sha256",
        "size",
    )

    def __init__(
        self,
        spool: Spool,
        *,
        size: int,
        sha256: str,
        content_type: str,
        filename: str,
        memory: bytes,
        file: IO[bytes] | None,
        who: str | None,
    ) -> None:
        self._spool = spool
        self._who = who
        self._memory = memory
        self._file = file
        self._is_open = True
        self.size = size
        self.sha256 = sha256
        self.content_type = content_type
        self.filename = filename

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        """The bytes from the start. Readers share no position, so two do not disturb each
        other. Raises ValueError once the blob is closed, also half-way."""
        offset = 0
        while offset < self.size:
            # Asked before each read: a closed descriptor's number may be another file's by now.
            if not self._is_open:
                raise ValueError("this upload is closed")
            wanted = min(block, self.size - offset)
            if self._file is None:
                piece = self._memory[offset : offset + wanted]
            else:
                piece = os.pread(self._file.fileno(), wanted, offset)
            if not piece:
                raise OSError(errno.EIO, "the spooled upload is shorter than it was written")
            offset += len(piece)
            yield piece

    def close(self) -> None:
        if not self._is_open:
            return
        self._is_open = False
        self._memory = b""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        self._spool.give_back(self.size, self._who)


def sniff(head: bytes) -> str | None:
    """The type the first 16 bytes tell, of those providers take; None for another.

    MP4 is any ISO base media file (ISO/IEC 14496-12) but the still-picture and QuickTime brands.
    """
    for magic, content_type in _MAGIC:
        if head.startswith(magic):
            return content_type
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    if head[4:8] == b"ftyp" and head[8:12] not in _NOT_MP4:
        return "video/mp4"
    return None


_MAGIC = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
_NOT_MP4 = (b"avif", b"avis", b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"qt  ")


def _write_all(fd: int, data: bytes | bytearray) -> None:
    """A nearly full disk writes a part and says so only at the next call."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
