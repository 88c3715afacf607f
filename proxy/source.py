"""Where a finished video's bytes come from, and what is known of them.

Opens the upstream's own content path or a result URL at any offset, renews a result URL that
expired, and says whether two openings are the same object.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import ClientResponse
from multidict import CIMultiDict

from proxy.errors import Expired, NotReady, RangeNotSatisfiable, UpstreamFailed
from proxy.http.headers import OPAQUE, content_length, media_type
from proxy.http.ranges import (
    Wish,
    modified_of,
    read_content_range,
    read_unsatisfied,
    strong_etag,
)
from proxy.lifecycle import expiry_text
from proxy.model import Outbound, Task
from proxy.providers.base import Provider
from proxy.tracker import Tracker
from proxy.upstream import NotSent, Upstreams, UpstreamTrouble

_GONE = (401, 403, 404, 410)  # what storage says of an expired signature or a dropped object
_CODINGS = ("gzip", "x-gzip", "deflate", "compress", "br", "zstd")
_TYPES = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the upstream said of the object. `size` None: it would not say (chunked)."""

    size: int | None
    kind: str
    upstream_etag: str | None
    modified: str | None
    etag: str  # ours: strong, the same for every opening of the same object

    @property
    def modified_s(self) -> int | None:
        return modified_of(self.modified)


@dataclass(frozen=True, slots=True)
class Opened:
    """An open body whose first byte is byte `offset` of the object."""

    response: ClientResponse
    offset: int
    facts: Facts

    @property
    def is_chunked(self) -> bool:
        """It has an end of its own, so that a break is no end (RFC 9112 8)."""
        return "Transfer-Encoding" in self.response.headers


class Source:
    """One result of one task. `clock` gives seconds since the epoch, for signatures."""

    def __init__(
        self,
        task: Task,
        variant: str,
        index: int,
        provider: Provider,
        tracker: Tracker,
        upstreams: Upstreams,
        forwarded: Mapping[str, str],
        clock: Callable[[], float],
    ) -> None:
        self._task = task
        self._variant = variant
        self._index = index
        self._provider = provider
        self._tracker = tracker
        self._upstreams = upstreams
        self._forwarded = forwarded
        self._clock = clock

    async def open(self, wish: Wish | None, known: Facts | None = None) -> Opened:
        """Open at what is wished for, or at 0 when the upstream knows no ranges. With `known`
        (a reopening) the upstream is held to the same object by If-Range. A result URL that
        does not work any more is renewed, once per call: a stream of hours may outlive several.

        Raises RangeNotSatisfiable, Expired, UpstreamFailed, NotReady; UpstreamTrouble when no
        answer came.
        """
        extra: dict[str, str] = {}
        if wish is not None:
            extra["Range"] = wish.header()
            if known is not None and known.upstream_etag is not None:
                extra["If-Range"] = known.upstream_etag
        opened = await self._try(wish, extra)
        if isinstance(opened, Opened):
            return opened
        await self._renew(opened)
        opened = await self._try(wish, extra)
        if isinstance(opened, Opened):
            return opened
        raise opened if isinstance(opened, NotSent) else self._gone()

    async def head(self) -> Facts | None:
        """What HEAD tells, or None. Only an upstream's own path is asked: a result URL is
        signed for GET, and storage refuses any other method."""
        outbound = self._outbound("HEAD")
        if outbound.guarded:
            return None
        upstream, _credential = self._tracker.place(self._task)
        try:
            response = await self._upstreams.open(upstream, outbound, {})
        except UpstreamTrouble:
            return None
        response.close()
        if response.status != 200:
            return None
        facts = self._judge(response, None).facts
        return None if facts.size is None else facts

    async def _try(self, wish: Wish | None, extra: Mapping[str, str]) -> Opened | NotSent | int:
        """One opening; where the address is no good, why: the status, or that it is not there."""
        upstream, _credential = self._tracker.place(self._task)
        outbound = self._outbound("GET")
        try:
            response = await self._upstreams.open(upstream, outbound, extra)
        except NotSent as trouble:
            if not outbound.guarded:
                raise
            return trouble
        try:
            if response.status in (401, 403) and not outbound.guarded:
                raise UpstreamFailed(
                    "The upstream refused our credential for this video; its operator has to look."
                )
            if response.status in _GONE:
                response.close()
                return response.status
            return self._judge(response, wish)
        except BaseException:
            response.close()
            raise

    def _outbound(self, method: str) -> Outbound:
        upstream, credential = self._tracker.place(self._task)
        where = self._provider.content(self._task, upstream, self._variant, self._index)
        if isinstance(where, str):
            return Outbound(method, where, CIMultiDict(), guarded=True)
        sealed = self._provider.seal(where, upstream, credential, int(self._clock()))
        sealed.headers.update(self._forwarded)
        return Outbound(method, sealed.url, sealed.headers)

    async def _renew(self, why: NotSent | int) -> None:
        """Ask the provider for a new address; raises what there is to say when it has none."""
        before = self._task.results
        try:
            self._task = await self._tracker.renew(self._task)
        except UpstreamTrouble:
            # The provider says nothing. That the file is not there was said all the same.
            if why in (404, 410) or self._is_over():
                raise self._gone() from None
            raise
        if self._task.results != before:
            return
        if isinstance(why, NotSent):
            raise why
        raise self._gone()

    def _is_over(self) -> bool:
        """Past the day until which the provider promised to keep it."""
        ends_ms = self._task.expires_ms
        return ends_ms is not None and ends_ms <= self._clock() * 1000

    def _gone(self) -> Expired:
        when = expiry_text(self._task, int(self._clock() * 1000))
        return Expired(f"The provider no longer has this video{when}.")

    def _judge(self, response: ClientResponse, wish: Wish | None) -> Opened:
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        if response.status in (200, 206) and coding in _CODINGS:
            # We ask for none. Passed on, its bytes would be taken for the video's own.
            raise UpstreamFailed(f"The upstream sent the video compressed ({coding}).")
        if response.status == 200:
            size = content_length(response.headers.get("Content-Length"))
            return Opened(response, 0, self._facts(response, size))
        if response.status == 206 and wish is not None:
            found = read_content_range(response.headers.get("Content-Range"))
            if found is None:
                raise UpstreamFailed("The upstream sent a range without saying which.")
            span, size = found
            return Opened(response, span.start, self._facts(response, size))
        if response.status == 416 and wish is not None:
            size = read_unsatisfied(response.headers.get("Content-Range"))
            if size is not None:
                raise RangeNotSatisfiable(
                    f"The range lies outside the {size} bytes of the file.", size
                )
        if response.status in (400, 409, 425):
            raise NotReady("The provider does not give this video out yet; try again soon.")
        raise UpstreamFailed(
            f"The upstream answered {response.status} instead of the video.",
            # 408: it had given the connection up (RFC 9110 15.5.9).
            retry_after_s=5 if response.status >= 500 or response.status in (408, 429) else None,
        )

    def _facts(self, response: ClientResponse, size: int | None) -> Facts:
        headers = response.headers
        upstream_etag = strong_etag(headers.get("ETag"))
        modified = headers.get("Last-Modified")
        if modified_of(modified) is None:
            modified = None
        kind = media_type(headers.get("Content-Type"))
        said = headers.get("Content-Type", OPAQUE).partition(";")[0].strip().lower()
        if kind == OPAQUE and said in (OPAQUE, "binary/octet-stream", ""):
            kind = _TYPES.get(self._variant, OPAQUE)
        # Without the size: a chunked opening does not know it, and is the same object.
        etag = _own_etag(self._task.id, self._variant, self._index, upstream_etag or modified)
        return Facts(size, kind, upstream_etag, modified, etag)


@lru_cache(maxsize=1024)
def _own_etag(task_id: str, variant: str, index: int, mark: str | None) -> str:
    text = f"{task_id}|{variant}|{index}|{mark}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def is_same(one: Facts, other: Facts) -> bool:
    """The same object, as far as both openings tell."""
    return one.etag == other.etag and (None in (one.size, other.size) or one.size == other.size)


class FactsCache:
    """What was learned of the last `room` objects, so that HEAD and 304 need no upstream."""

    def __init__(self, room: int = 10_000) -> None:
        self._room = room
        self._facts: OrderedDict[tuple[str, str, int], Facts] = OrderedDict()

    def get(self, task_id: str, variant: str, index: int) -> Facts | None:
        return self._facts.get((task_id, variant, index))

    def put(self, task_id: str, variant: str, index: int, facts: Facts) -> None:
        self._facts[task_id, variant, index] = facts
        self._facts.move_to_end((task_id, variant, index))
        if len(self._facts) > self._room:
            self._facts.popitem(last=False)
