"""Where a finished video's bytes come from, and what is known of them.

Opens the upstream's own content path or a result URL at any offset, renews a result URL that
expired, and says whether two openings are the same object.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from aiohttp import ClientError, ClientPayloadError, ClientResponse, ServerDisconnectedError
from multidict import CIMultiDict

from proxy.errors import (
    Ambiguous,
    Expired,
    NotReady,
    NotSent,
    RangeNotSatisfiable,
    Unavailable,
    UpstreamFailed,
    UpstreamTrouble,
)
from proxy.http.headers import OPAQUE, content_length, media_type
from proxy.http.media_bytes import (
    LEAST_BYTES,
    MOST_BYTES,
    is_document,
    is_picture,
    is_video,
)
from proxy.http.outbound import Draft, Outbound
from proxy.http.ranges import (
    Wish,
    modified_of,
    read_content_range,
    read_unsatisfied,
    read_whole_size,
    strong_etag,
)
from proxy.model import Task
from proxy.providers.base import Provider
from proxy.tasks.lifecycle import expiry_text
from proxy.tasks.provider_calls import Forgotten, ProviderCalls
from proxy.upstream import Upstreams

_GONE = (401, 403, 404, 410)  # what storage says of an expired signature or a dropped object
# Pauses before a content path that says 404 is asked again, while its task is said to be
# completed: another replica may have answered.
_PAUSES_S = (0.1, 0.4, 1.0)
# What a content path answers for a result that is kept elsewhere (SGLang with S3: 400).
_ELSEWHERE = (400, 404, 405, 410, 501)
_CODINGS = ("gzip", "x-gzip", "deflate", "compress", "br", "zstd")
_PICTURES = ("thumbnail", "spritesheet")
_TYPES = {"video": "video/mp4", "thumbnail": "image/webp", "spritesheet": "image/jpeg"}


@dataclass(frozen=True, slots=True)
class ObjectFacts:
    """What the upstream said of the object. `size` None: it would not say (chunked)."""

    size: int | None
    kind: str
    upstream_etag: str | None
    modified: str | None
    etag: str  # ours: strong, the same for every opening of the same object
    checked: bool = False  # its first bytes were seen to be what they should be

    @property
    def modified_s(self) -> int | None:
        return modified_of(self.modified)


@dataclass(frozen=True, slots=True)
class OpenBody:
    """An open body whose first byte is byte `offset` of the object."""

    response: ClientResponse
    offset: int
    facts: ObjectFacts
    held: bytes = b""  # of the body, read already

    @property
    def is_chunked(self) -> bool:
        """Whether its end is framed, so that a break is not taken for one (RFC 9112 8)."""
        return "Transfer-Encoding" in self.response.headers


class ContentSource:
    """One result of one task. `clock` gives seconds since the epoch, for signatures.

    `known` is what an earlier opening told of it; whoever learns more keeps it there.
    """

    def __init__(
        self,
        task: Task,
        variant: str,
        index: int,
        provider: Provider,
        calls: ProviderCalls,
        upstreams: Upstreams,
        forwarded: Mapping[str, str],
        clock: Callable[[], float],
        known: ObjectFacts | None,
    ) -> None:
        self.known = known
        self.key = (task.id, variant, index)
        self._task = task
        self._variant = variant
        self._index = index
        self._provider = provider
        self._provider_calls = calls
        self._upstreams = upstreams
        self._forwarded = forwarded
        self._clock = clock
        self._by_url = False  # the content path says that the file is elsewhere
        # The object's first bytes were seen to be what they should be, now or at an earlier
        # opening: a range from its middle then needs no look at its start.
        self._is_checked = known is not None and known.checked

    async def open(self, wish: Wish | None, known: ObjectFacts | None = None) -> OpenBody:
        """Open at `wish`, or at 0 when the upstream knows no ranges. With `known`
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
        if isinstance(opened, OpenBody):
            return await self._checked(opened)
        is_known = await self._renew(opened)
        has_path = not self._outbound("GET").guarded
        for pause_s in (0.0, *(_PAUSES_S if has_path and is_known and opened == 404 else ())):
            await asyncio.sleep(pause_s)
            opened = await self._try(wish, extra)
            if isinstance(opened, OpenBody):
                return await self._checked(opened)
        if isinstance(opened, NotSent):
            raise opened
        if opened == 404 and has_path and is_known and not self._is_over():
            raise Unavailable(
                "The provider says that this video is finished, and does not give it out; "
                "try again soon.",
                retry_after_s=5,
            )
        raise self._gone()

    async def _checked(self, opened: OpenBody) -> OpenBody:
        """The same, once its first bytes were seen to be a video's; raises UpstreamFailed when
        they are something else."""
        try:
            return await self._check(opened)
        except BaseException:
            opened.response.close()
            raise

    async def _check(self, opened: OpenBody) -> OpenBody:
        response = opened.response
        if opened.offset:
            if not self._is_checked and not response.headers.get("Content-Type", "").startswith(
                ("video/", "image/")
            ):
                start = await self._try(Wish(0, MOST_BYTES - 1), {})
                if isinstance(start, OpenBody):
                    (await self._checked(start)).response.close()
            return opened
        part = read_content_range(response.headers.get("Content-Range"))
        if response.status == 206 and part is not None and len(part[0]) < LEAST_BYTES:
            return opened  # too little of it to tell
        first, is_known = await self._first(response)
        if is_known:
            self._is_checked = True
            opened = replace(opened, facts=replace(opened.facts, checked=True))
        return replace(opened, held=first)

    def _not_media(self) -> UpstreamFailed:
        return UpstreamFailed(
            f"The upstream sent something else than a {self._variant}; its operator has to look."
        )

    async def _first(self, response: ClientResponse) -> tuple[bytes, bool]:
        """Read the first bytes of a body, until they show what it is.

        False where it broke off before: then it is opened again at the byte it reached.
        """
        judge = is_picture if self._variant in _PICTURES else is_video
        first = bytearray()
        verdict: bool | None = None
        try:
            while verdict is None:
                piece = await response.content.read(MOST_BYTES - len(first))
                first += piece
                is_whole = not piece or len(first) >= MOST_BYTES
                verdict = judge(bytes(first), whole=is_whole)
        except (ClientPayloadError, ServerDisconnectedError, ConnectionError):
            return bytes(first), False
        except (ClientError, TimeoutError, OSError) as exc:
            raise Ambiguous(f"the body broke off at its start: {type(exc).__name__}") from exc
        if not verdict:
            raise self._not_media()
        return bytes(first), True

    async def head(self) -> ObjectFacts | None:
        """What HEAD tells, or None. Only an upstream's own path is asked: a result URL is
        signed for GET, and storage refuses any other method."""
        outbound = self._outbound("HEAD")
        if outbound.guarded:
            return None
        upstream, _credential = self._provider_calls.require_credential(self._task)
        try:
            response = await self._upstreams.open(upstream, outbound, {})
        except UpstreamTrouble:
            return None
        response.close()
        if response.status != 200:
            return None
        facts = self._judge(response, None).facts
        return None if facts.size is None else facts

    async def _try(self, wish: Wish | None, extra: Mapping[str, str]) -> OpenBody | NotSent | int:
        """One opening; where the address is no good, why: the status, or that it is not there."""
        upstream, _credential = self._provider_calls.require_credential(self._task)
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
            if response.status in _ELSEWHERE and self._goes_by_url(outbound):
                response.close()
                return await self._try(wish, extra)
            if response.status in _GONE:
                response.close()
                return response.status
            if response.status == 416 and wish is not None and self._is_odd(response, wish):
                response.close()
                return await self._try(None, {})  # the whole of it, from which we take the range
            return self._judge(response, wish)
        except BaseException:
            response.close()
            raise

    def _outbound(self, method: str) -> Outbound:
        upstream, credential = self._provider_calls.require_credential(self._task)
        where: Draft | str = (
            self._url() or ""
            if self._by_url
            else self._provider.content(self._task, upstream, self._variant, self._index)
        )
        if isinstance(where, str):
            return Outbound(method, where, CIMultiDict(), guarded=True)
        sealed = self._provider.seal(where, upstream, credential, int(self._clock()))
        sealed.headers.update(self._forwarded)
        return Outbound(method, sealed.url, sealed.headers)

    def _url(self) -> str | None:
        """Where the provider says that the file is, beside its content path."""
        results = self._task.results
        return results[self._index].url if self._index < len(results) else None

    def _goes_by_url(self, outbound: Outbound) -> bool:
        """Whether to go to the result's own address after all."""
        if outbound.guarded or self._by_url or self._variant != "video" or not self._url():
            return False
        self._by_url = True
        return True

    @staticmethod
    def _is_odd(response: ClientResponse, wish: Wish) -> bool:
        """Whether a 416 gives no size, or one that the range lies inside."""
        size = read_unsatisfied(response.headers.get("Content-Range"))
        if size is None:
            return True
        try:
            wish.within(size)
        except RangeNotSatisfiable:
            return False
        return True

    async def _renew(self, why: NotSent | int) -> bool:
        """Ask the provider about the task, and for a new address. True: it knows the task, and
        says that it is completed. Raises what there is to say when nothing can come of it."""
        before = self._task.results
        try:
            self._task = await self._provider_calls.renew(self._task)
        except Forgotten:
            if isinstance(why, NotSent):
                raise self._gone() from None
            return False
        except UpstreamTrouble:
            # Nobody has said that the video is gone but a file host, once.
            if why == 410 or self._is_over():
                raise self._gone() from None
            raise
        if self._task.results == before and isinstance(why, NotSent):
            raise why
        return True

    def _is_over(self) -> bool:
        """Past the day until which the provider promised to keep it."""
        ends_ms = self._task.expires_ms
        return ends_ms is not None and ends_ms <= self._clock() * 1000

    def _gone(self) -> Expired:
        when = expiry_text(self._task, int(self._clock() * 1000))
        return Expired(f"The provider no longer has this video{when}.")

    def _judge(self, response: ClientResponse, wish: Wish | None) -> OpenBody:
        if response.status in (200, 206) and is_document(response.headers.get("Content-Type", "")):
            raise self._not_media()
        coding = response.headers.get("Content-Encoding", "").strip().lower()
        if response.status in (200, 206) and coding in _CODINGS:
            # We ask for none. Passed on, its bytes would be taken for the video's own.
            raise UpstreamFailed(f"The upstream sent the video compressed ({coding}).")
        if response.status == 200:
            size = content_length(response.headers.get("Content-Length"))
            if size == 0:
                raise self._not_media()
            return OpenBody(response, 0, self._facts(response, size))
        if response.status == 206:
            written = response.headers.get("Content-Range")
            found = read_content_range(written)
            whole = read_whole_size(written)
            if found is None and wish is not None and whole is not None and wish.first >= whole:
                raise RangeNotSatisfiable(
                    f"The range lies outside the {whole} bytes of the file.", whole
                )
            if found is None:
                raise UpstreamFailed("The upstream sent a range without saying which.")
            span, size = found
            if size is None and wish is None:
                raise UpstreamFailed(
                    "The upstream sent a part of the video, not saying of how much."
                )
            return OpenBody(response, span.start, self._facts(response, size))
        if response.status == 416 and wish is not None:
            size = read_unsatisfied(response.headers.get("Content-Range"))
            if size == 0:
                raise self._not_media()
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

    def _facts(self, response: ClientResponse, size: int | None) -> ObjectFacts:
        headers = response.headers
        upstream_etag = strong_etag(headers.get("ETag"))
        modified = headers.get("Last-Modified")
        if modified_of(modified) is None:
            modified = None
        kind = media_type(headers.get("Content-Type"))
        declared = headers.get("Content-Type", OPAQUE).partition(";")[0].strip().lower()
        if kind == OPAQUE and declared in (OPAQUE, "binary/octet-stream", ""):
            kind = _TYPES.get(self._variant, OPAQUE)
        # Without the size: a chunked opening does not know it, and is the same object.
        etag = _own_etag(self._task.id, self._variant, self._index, upstream_etag or modified)
        return ObjectFacts(size, kind, upstream_etag, modified, etag)


def _own_etag(task_id: str, variant: str, index: int, mark: str | None) -> str:
    text = f"{task_id}|{variant}|{index}|{mark}"
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


def is_same(one: ObjectFacts, other: ObjectFacts) -> bool:
    """The same object, as far as both openings tell."""
    return one.etag == other.etag and (None in (one.size, other.size) or one.size == other.size)
