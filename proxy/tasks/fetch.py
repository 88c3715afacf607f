"""Pictures and videos that a client names by their address, fetched for a server of our own.

Rule: every connection goes through the guard, so no byte reaches an address that is not public
or in `[media] allow`. What the client is told of a failure does not say whether an inner address
exists: "cannot be reached" stands for refused, unknown, private and silent alike.

Rule: what was fetched counts against the spool's budget, and is given back when the submit it was
fetched for has ended, whatever ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType
from typing import Final

from proxy.config.tables import MediaTable as Settings
from proxy.dialects.media import sniff as picture_type
from proxy.errors import Invalid, TooLarge, Unavailable, UpstreamTrouble
from proxy.http.outbound import Draft, DraftValue, Remote
from proxy.model import Blob
from proxy.tasks.spool import Spool
from proxy.upstream import Upstreams

RETRY_AFTER_S: Final = 5.0
_HEAD_BYTES: Final = 12  # enough for `_type_of`
_WANTED: Final = {"picture": "a picture (JPEG, PNG or WebP)", "video": "a video (MP4, MOV or WebM)"}
_NAMES: Final = {
    "image/jpeg": "picture.jpg",
    "image/png": "picture.png",
    "image/webp": "picture.webp",
    "video/mp4": "video.mp4",
    "video/quicktime": "video.mov",
    "video/webm": "video.webm",
}


class Fetcher:
    """Fetches for one worker: at most `settings().at_once` files at a time."""

    def __init__(
        self, upstreams: Upstreams, spool: Spool, settings: Callable[[], Settings]
    ) -> None:
        self._upstreams = upstreams
        self._spool = spool
        self._settings = settings
        self._busy = 0
        self._freed = asyncio.Condition()

    def basket(self, longest_s: float) -> Basket:
        """Holds what one submit needs: `with fetcher.basket(…) as basket:` gives it back.
        All fetches of the basket together take at most `longest_s`."""
        return Basket(self, self._spool, min(longest_s, self._settings().fetch_s))

    async def fetch(self, remote: Remote, basket: Basket, within_s: float) -> Blob:
        """The bytes at this address, in the spool. Raises `Invalid`, which names the field and
        says what is wrong, or `Unavailable` when this worker has no room for them now."""
        waits_for_a_turn = True
        try:
            async with asyncio.timeout(max(0.0, within_s)), self._turn():
                waits_for_a_turn = False
                return await self._fetch(remote, basket)
        except TimeoutError as exc:
            if waits_for_a_turn:
                raise Unavailable(
                    f"'{remote.param}' was not fetched: too many files are being fetched; "
                    "nothing was submitted.",
                    retry_after_s=RETRY_AFTER_S,
                ) from exc
            raise _failed(remote, "fetching it took too long") from exc

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._freed:
            await self._freed.wait_for(lambda: self._busy < self._settings().at_once)
            self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            async with self._freed:
                self._freed.notify()

    async def _fetch(self, remote: Remote, basket: Basket) -> Blob:
        allowed = frozenset(self._settings().allow)
        try:
            async with self._upstreams.fetching(remote.url, allowed) as response:
                if response.status != 200:
                    raise _failed(remote, f"its server answered {response.status}")
                writer = basket.batch.open("", "")
                limit = self._spool.upload_bytes
                if (response.content_length or 0) > limit:
                    raise _failed(remote, f"it is larger than {limit} bytes")
                head, kind = b"", ""
                async for chunk in response.content.iter_any():
                    if not kind:
                        head += chunk
                        if len(head) < _HEAD_BYTES:
                            continue
                        kind, chunk = _type_of(head, remote), head  # noqa: PLW2901 -- the whole start
                    try:
                        writer.write(chunk)
                    except TooLarge as exc:
                        raise _failed(remote, f"it is larger than {limit} bytes") from exc
        except UpstreamTrouble as exc:
            raise _failed(remote, "its address cannot be reached") from exc
        if not kind:
            raise _failed(remote, f"it is not {_WANTED[remote.kind]}")
        writer.describe(_NAMES[kind], kind)
        return writer.finish()


class Basket:
    """What was fetched for one submit, each address once."""

    def __init__(self, fetcher: Fetcher, spool: Spool, longest_s: float) -> None:
        self.batch = spool.batch()
        self._fetcher = fetcher
        self._left_s = longest_s
        self._found: dict[tuple[str, str], Blob | Invalid] = {}

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self._found.values() if not isinstance(blob, Invalid))

    def __enter__(self) -> Basket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.batch.close()

    def lacks(self, draft: Draft) -> bool:
        """Whether this draft names something that was not fetched yet."""
        return any((r.kind, r.url) not in self._found for r in remotes_in(draft.fields))

    async def filled(self, draft: Draft) -> Draft:
        """The draft with files in place of addresses. Raises what `Fetcher.fetch` raises; an
        address that failed once is not asked again."""
        blobs: dict[Remote, Blob] = {}
        for remote in remotes_in(draft.fields):
            found = self._found.get((remote.kind, remote.url))
            if found is None:
                found = await self._fetched(remote)
            if isinstance(found, Invalid):
                raise found
            blobs[remote] = found
        return replace(draft, fields=with_files(draft.fields, blobs)) if blobs else draft

    async def _fetched(self, remote: Remote) -> Blob | Invalid:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        try:
            found: Blob | Invalid = await self._fetcher.fetch(remote, self, self._left_s)
        except Invalid as fault:
            found = fault
        finally:
            self._left_s -= loop.time() - began_s
        self._found[remote.kind, remote.url] = found
        return found


def remotes_in(value: DraftValue | Mapping[str, DraftValue]) -> tuple[Remote, ...]:
    """Every address in a draft's fields, on any level, in their order."""
    if isinstance(value, Remote):
        return (value,)
    if isinstance(value, Mapping):
        return tuple(r for inner in value.values() for r in remotes_in(inner))
    if isinstance(value, list):
        return tuple(r for inner in value for r in remotes_in(inner))
    return ()


def with_files(
    fields: Mapping[str, DraftValue], blobs: Mapping[Remote, Blob]
) -> dict[str, DraftValue]:
    return {name: _with_files(value, blobs) for name, value in fields.items()}


def _with_files(value: DraftValue, blobs: Mapping[Remote, Blob]) -> DraftValue:
    if isinstance(value, Remote):
        return blobs[value]
    if isinstance(value, dict):
        return with_files(value, blobs)
    if isinstance(value, list):
        return [_with_files(inner, blobs) for inner in value]
    return value


def _type_of(head: bytes, remote: Remote) -> str:
    """The type that the first bytes tell. Raises `Invalid` when it is not what the field takes:
    a page that says "not found" with status 200 is no picture."""
    kind = picture_type(head) if remote.kind == "picture" else _video_type(head)
    if kind is None:
        raise _failed(remote, f"it is not {_WANTED[remote.kind]}")
    return kind


def _video_type(head: bytes) -> str | None:
    if head.startswith(b"\x1aE\xdf\xa3"):  # EBML: Matroska, of which WebM is a part
        return "video/webm"
    if head[4:8] != b"ftyp" or head[8:12] in (b"avif", b"avis", b"heic", b"heix", b"mif1"):
        return None
    return "video/quicktime" if head[8:12] == b"qt  " else "video/mp4"


def _failed(remote: Remote, why: str) -> Invalid:
    return Invalid(
        f"'{remote.param}' could not be fetched: {why}. Nothing was submitted.",
        param=remote.param,
    )
