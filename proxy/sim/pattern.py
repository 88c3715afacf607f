"""Result files: the shipped clip, or any number of bytes whose value follows from its offset.

251 is prime and no buffer size is a multiple of it, so a piece that is lost, doubled or
swapped shifts every byte after it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from importlib import resources

PERIOD = 251
_BLOCK = bytes(range(PERIOD)) * 4180
#: The longest window `Clip.read` returns at once: 1 MiB fits from every phase of the period.
MAX_WINDOW = len(_BLOCK) - PERIOD


#: A file is known as a video by these (ISO/IEC 14496-12: `ftyp` behind four bytes of length).
_HEAD = bytes(range(4)) + b"ftyp"
_FIRST = _HEAD + _BLOCK[len(_HEAD) :]


def byte_at(offset: int) -> int:
    """The value of the pattern's byte at `offset`."""
    return _HEAD[offset] if offset < len(_HEAD) else offset % PERIOD


def pattern(start: int, length: int) -> bytes:
    """The pattern's bytes `start` … `start + length`."""
    phase = start % PERIOD
    block = _BLOCK if length <= MAX_WINDOW else bytes(range(PERIOD)) * (length // PERIOD + 2)
    found = block[phase : phase + length]
    return found if start >= len(_HEAD) else (_HEAD[start:] + found[len(_HEAD) - start :])[:length]


def pattern_sha256(size: int) -> str:
    """Hex SHA-256 of the first `size` bytes, computed in bounded memory."""
    digest = hashlib.sha256()
    for start in range(0, size, MAX_WINDOW):
        digest.update(pattern(start, min(MAX_WINDOW, size - start)))
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Clip:
    """One file. `data` None: the pattern, moved on by `shift` bytes."""

    media_type: str
    etag: str
    modified_s: int
    size: int
    data: bytes | None = None
    shift: int = 0

    def read(self, start: int, length: int) -> memoryview:
        """At most `length` bytes from `start`; never empty before the end, never a copy."""
        length = min(length, MAX_WINDOW, self.size - start)
        if self.data is not None:
            return memoryview(self.data)[start : start + length]
        if start < len(_HEAD):
            first = _HEAD if self.shift else _FIRST
            return memoryview(first)[start : start + length]
        phase = (start + self.shift) % PERIOD
        return memoryview(_BLOCK)[phase : phase + length]

    def revised(self, revision: int) -> Clip:
        """The same name with other content: another ETag, and (pattern only) other bytes."""
        return replace(self, etag=f'{self.etag[:-1]}-r{revision}"', shift=self.shift + revision)


@dataclass(frozen=True, slots=True)
class Assets:
    """The shipped files: a 5 s test animation, its still, and one frame a second."""

    video: bytes
    thumbnail: bytes
    spritesheet: bytes

    @classmethod
    def load(cls) -> Assets:
        folder = resources.files("proxy.sim") / "assets"
        return cls(
            video=(folder / "clip.mp4").read_bytes(),
            thumbnail=(folder / "thumbnail.webp").read_bytes(),
            spritesheet=(folder / "spritesheet.jpg").read_bytes(),
        )
