"""Where a finished video's bytes come from, and what is known of them.

Opens the upstream's own content path or a result URL at any offset, renews a result URL that
expired, and says whether two openings are the same object.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

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


class Source:
    """One result of one task. `clock_s` is the time the request came, for signatures."""

    def __init__(
        self,
        task: Task,
        variant: str,
        index: int,
        provider: Provider,
        tracker: Tracker,
        upstreams: Upstreams,
        forwarded: Mapping[str, str],
        clock_s: int,
    ) -> None:
        self._task = task
        self._variant = variant
        self._index = index
        self._provider = provider
        self._tracker = tracker
        self._upstreams = upstreams
        self._forwarded = forwarded
        self._clock_s = clock_s
        self._renewed = False

    async def open(
        self, wish: Wish | None, known: Facts | None = None, method: str = "GET"
    ) -> Opened:
        """Open at what is wished for, or at 0 when the upstream knows no ranges. With `known`
        (a reopening) the upstream is held to the same object by If-Range.

        Raises RangeNotSatisfiable, Expired, UpstreamFailed; UpstreamTrouble when no answer came.
        """
        extra: dict[str, str] = {}
        if wish is not None:
            extra["Range"] = wish.header()
            if known is not None and known.upstream_etag is not None:
                extra["If-Range"] = known.upstream_etag
        upstream, _credential = self._tracker.place(self._task)
        outbound = self._outbound(method)
        try:
            response = await self._upstreams.open(upstream, outbound, extra)
        except NotSent:
            # A file host that is not there any more: the provider may name another.
            if not outbound.guarded or self._renewed:
                raise
            return await self._open_renewed(wish, known, method, None)
        try:
            if response.status in _GONE:
                response.close()
                return await self._open_renewed(wish, known, method, response.status)
            return self._judge(response, wish)
        except BaseException:
            response.close()
            raise

    def _outbound(self, method: str) -> Outbound:
        upstream, credential = self._tracker.place(self._task)
        where = self._provider.content(self._task, upstream, self._variant, self._index)
        if isinstance(where, str):
            return Outbound(method, where, CIMultiDict(), guarded=True)
        sealed = self._provider.seal(where, upstream, credential, self._clock_s)
        sealed.headers.update(self._forwarded)
        return Outbound(method, sealed.url, sealed.headers)

    async def _open_renewed(
        self, wish: Wish | None, known: Facts | None, method: str, status: int | None
    ) -> Opened:
        """The address has expired, or the object is gone: ask the provider once for a new one."""
        if self._renewed:
            raise self._gone()
        self._renewed = True
        before = self._task.results
        self._task = await self._tracker.renew(self._task)
        if self._task.results == before:
            if status is None:
                raise NotSent("the file host does not answer, and the provider names no other")
            if status == 401:
                raise UpstreamFailed(
                    "The upstream refused our credential for this video; its operator has to look."
                )
            raise self._gone()
        opened = await self.open(wish, known, method)
        self._renewed = False  # a stream of hours may outlive several addresses
        return opened

    def _gone(self) -> Expired:
        when = expiry_text(self._task)
        return Expired(f"The provider no longer has this video{when}.")

    def _judge(self, response: ClientResponse, wish: Wish | None) -> Opened:
        if response.status == 200:
            size = content_length(response.headers.get("Content-Length"))
            if response.headers.get("Content-Encoding", "identity") != "identity":
                size = None
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
            retry_after_s=5 if response.status >= 500 or response.status == 429 else None,
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
        mark = f"{self._task.id}|{self._variant}|{self._index}|{size}|{upstream_etag or modified}"
        etag = f'"{hashlib.sha256(mark.encode()).hexdigest()[:32]}"'
        return Facts(size, kind, upstream_etag, modified, etag)


def is_same(one: Facts, other: Facts) -> bool:
    """The same object, as far as both openings tell."""
    return one.size == other.size and one.etag == other.etag


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


__all__ = ["Facts", "FactsCache", "Opened", "Source", "UpstreamTrouble", "is_same"]
