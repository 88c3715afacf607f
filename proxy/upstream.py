"""The way out: the only owner of `ClientSession`s.

Rule: foreign exceptions of aiohttp's client end here. A call either has an `Answer`, or it
raises `NotSent` (the upstream provably heard nothing) or `Ambiguous` (nobody can say).

Kinds of sessions: *submit* (a fresh connection each time, for a POST on a stale keep-alive
cannot be told from a lost reply), *query* (kept alive, one per upstream), *guarded* for
addresses a provider gave us, whose sockets refuse what is not public, and *hook* for addresses
a client gave us: guarded, and a fresh connection each time.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from aiohttp import (
    ClientConnectorError,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    ConnectionTimeoutError,
    DummyCookieJar,
    InvalidURL,
    NonHttpUrlClientError,
    TCPConnector,
)
from aiohttp.client_proto import ResponseHandler
from multidict import CIMultiDictProxy
from yarl import URL

from proxy import __version__
from proxy.errors import Ambiguous, NotFetched, NotSent
from proxy.http.addresses import is_public
from proxy.http.body_writer import BLOCK_BYTES, encoded
from proxy.http.outbound import Outbound
from proxy.http.urls import exempt, host_port, provider_url, quoted_url
from proxy.model import Upstream
from proxy.telemetry.metric_definitions import UPSTREAM_FAILURES, UPSTREAM_SECONDS
from proxy.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader
    from aiohttp.tracing import Trace

USER_AGENT = f"reelway/{__version__}"
MAX_ANSWER_BYTES = 8 * 1024 * 1024
MAX_HOPS = 5
MAX_LINE_BYTES = 64 * 1024 + 512  # of a line of an answer's head: a name, and 64 KiB
MAX_HEADERS = 512
MAX_INFORMATIONAL = 16  # answers of 1xx in front of one answer
SLICE_BYTES = 8 * 1024  # of what may be such answers, parsed before they are counted
TURN_BYTES = 1024 * 1024  # of a body sent, before others have their turn
_REDIRECTS = (301, 302, 303, 307, 308)

UpstreamCall = Literal["submit", "query", "content"]

# aiohttp's AddrInfoType: a row of getaddrinfo().
AddrInfo = tuple[socket.AddressFamily | int, socket.SocketKind | int, int, str, tuple[object, ...]]


class AddressRefused(OSError):
    """The guard's: raised inside the connector, surfaces as ClientConnectorError."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. `idle_s` bounds the wait for the head and for each piece of a body."""

    connect_s: float
    submit_s: float
    poll_s: float
    idle_s: float


class Upstreams:
    """Every upstream's sessions. `async with` it; `aclose` ends what is still open."""

    def __init__(
        self, deadlines: Deadlines, metrics: Metrics, *, rcvbuf_bytes: int | None = None
    ) -> None:
        self._deadlines = deadlines
        self._metrics = metrics
        self._plain_socket = socket_factory(rcvbuf_bytes)
        self._sessions: dict[tuple[str, str], ClientSession] = {}

    async def aclose(self) -> None:
        sessions, self._sessions = self._sessions, {}
        await asyncio.gather(*(s.close() for s in sessions.values()))

    # ------------------------------------------------------------ whole answers

    async def submit(self, upstream: Upstream, outbound: Outbound) -> Answer:
        """Send a request that costs money: a fresh connection, never repeated."""
        session = self._session("submit", upstream.name)
        with self._counted(upstream, "submit"):
            return await self._call(session, outbound, self._deadlines.submit_s)

    async def query(self, upstream: Upstream, outbound: Outbound) -> Answer:
        """Ask something that may be asked again."""
        session = self._session("query", upstream.name)
        with self._counted(upstream, "query"):
            return await self._call(session, outbound, self._deadlines.poll_s)

    @contextmanager
    def _counted(self, upstream: Upstream, call: UpstreamCall) -> Iterator[None]:
        started_s = time.perf_counter()
        try:
            yield
        except (NotSent, Ambiguous) as trouble:
            kind = "not_sent" if isinstance(trouble, NotSent) else "ambiguous"
            self._metrics.count(UPSTREAM_FAILURES, upstream.name, call, kind)
            raise
        took_s = time.perf_counter() - started_s
        self._metrics.histogram(UPSTREAM_SECONDS, upstream.name, call).observe(took_s)

    async def _call(self, session: ClientSession, outbound: Outbound, total_s: float) -> Answer:
        timeout = ClientTimeout(total=total_s, sock_connect=self._deadlines.connect_s)
        payload, headers = _payload(outbound), outbound.headers
        if payload is not None and not isinstance(payload, bytes):
            headers = headers.copy()
            headers["Content-Length"] = str(outbound.length)  # else it would go out chunked
        try:
            async with session.request(
                outbound.method,
                URL(outbound.url, encoded=True),
                headers=headers,
                data=payload,
                timeout=timeout,
                allow_redirects=False,  # a submit repeated elsewhere may be a second render
            ) as response:
                body = await _read_bounded(response)
                return Answer(response.status, response.headers, body)
        except (ClientConnectorError, ConnectionTimeoutError) as exc:
            raise NotSent(f"no connection: {_reason(exc)}") from exc
        except (InvalidURL, NonHttpUrlClientError) as exc:
            raise NotSent(f"not a usable URL: {_reason(exc)}") from exc
        except (ClientError, TimeoutError, OSError, ValueError) as exc:
            raise Ambiguous(f"no whole answer: {_reason(exc)}") from exc

    async def notify(
        self, url: str, body: bytes, headers: Mapping[str, str], allowed: frozenset[str]
    ) -> int:
        """POST to an address a client chose; returns the status. `allowed` host:port pairs may
        be private, nothing else may. A redirect is an answer like any other: it is not followed.
        """
        try:
            target = URL(url)
            known = host_port(target) in allowed
        except ValueError as exc:
            raise NotSent("not a usable URL") from exc
        if target.scheme not in ("http", "https") or not target.host:
            raise NotSent("not an http address")
        # A host of the operator's own is let through by name and port, never to another port.
        session = self._session("trusted hook" if known else "hook", "webhooks")
        timeout = ClientTimeout(
            total=self._deadlines.poll_s, sock_connect=self._deadlines.connect_s
        )
        try:
            async with session.post(
                target, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as response:
                return response.status
        except (ClientConnectorError, ConnectionTimeoutError, InvalidURL) as exc:
            if _is_guards(exc):
                raise NotSent(
                    f"not a public address; [webhooks] allow would have to list {host_port(target)}"
                ) from exc
            raise NotSent(f"no connection: {_reason(exc)}") from exc
        except (ClientError, TimeoutError, OSError, ValueError) as exc:
            raise Ambiguous(f"no answer: {_reason(exc)}") from exc

    # ------------------------------------------------------------ bodies

    async def open(
        self, upstream: Upstream, outbound: Outbound, extra: Mapping[str, str]
    ) -> ClientResponse:
        """Open a body: the caller reads and closes it. Redirects are followed here, each hop
        checked anew, and our credentials go no further than the first.
        """
        headers = {**outbound.headers, **extra}
        url = address_of(outbound.url)
        secret = [name for name in outbound.headers if not outbound.guarded]
        for _hop in range(MAX_HOPS + 1):
            with self._counted(upstream, "content"):
                response = await self._open_one(upstream, outbound, url, headers)
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                return response
            response.close()
            try:
                onward = address_of(str(url.join(URL(quoted_url(target), encoded=True))))
                leaves = onward.origin() != url.origin()
            except ValueError as exc:
                raise NotFetched("redirected to what is no web address") from exc
            if leaves:
                headers = {k: v for k, v in headers.items() if k not in secret}
            url = onward
        raise NotFetched(f"more than {MAX_HOPS} redirects")

    async def _open_one(
        self, upstream: Upstream, outbound: Outbound, url: URL, headers: Mapping[str, str]
    ) -> ClientResponse:
        if url.scheme not in ("http", "https") or url.host is None:
            raise NotFetched(f"a {url.scheme or 'relative'} URL is not fetched")
        guarded = host_port(url) not in exempt(upstream)
        session = self._session("guarded" if guarded else "content", upstream.name)
        timeout = ClientTimeout(
            total=None, sock_connect=self._deadlines.connect_s, sock_read=self._deadlines.idle_s
        )
        try:
            # Each informational answer renews the time-out of a read: the head has one of its own.
            async with asyncio.timeout(self._deadlines.idle_s):
                # aiohttp would follow redirects in this same session, past the guard.
                return await session.request(
                    outbound.method, url, headers=headers, timeout=timeout, allow_redirects=False
                )
        except InvalidURL as exc:
            raise NotFetched(f"not a usable URL: {_reason(exc)}") from exc
        except (ClientConnectorError, ConnectionTimeoutError) as exc:
            if _is_guards(exc):
                raise NotFetched(
                    f"{host_port(url)} is not a public address: add it to result_hosts of "
                    f"upstream {upstream.name}, if its files are there"
                ) from exc
            raise NotSent(f"no connection: {_reason(exc)}") from exc
        except (ClientError, TimeoutError, OSError, ValueError) as exc:
            raise Ambiguous(f"no answer: {_reason(exc)}") from exc

    @asynccontextmanager
    async def fetching(self, url: str, allowed: frozenset[str]) -> AsyncIterator[ClientResponse]:
        """Open an address a client chose, and close it at the end. Each hop of its redirects goes
        through the guard; `allowed` host:port pairs may be private. What breaks inside is
        `UpstreamTrouble` too. The caller bounds time and bytes."""
        timeout = ClientTimeout(
            total=None, sock_connect=self._deadlines.connect_s, sock_read=self._deadlines.idle_s
        )
        try:
            target = URL(url, encoded=url.isascii())
            for _hop in range(MAX_HOPS + 1):
                if target.scheme not in ("http", "https") or not target.host:
                    raise NotFetched("not an http address")
                known = host_port(target) in allowed
                session = self._session("trusted hook" if known else "hook", "media")
                async with session.get(target, timeout=timeout, allow_redirects=False) as response:
                    onward = response.headers.get("Location")
                    if response.status not in _REDIRECTS or onward is None:
                        yield response
                        return
                target = target.join(URL(onward, encoded=onward.isascii()))
        except (ClientError, TimeoutError, OSError, ValueError) as exc:
            raise NotFetched(_reason(exc)) from exc
        raise NotFetched(f"more than {MAX_HOPS} redirects")

    # ------------------------------------------------------------ sessions

    def _session(self, kind: str, name: str) -> ClientSession:
        session = self._sessions.get((kind, name))
        if session is None:
            session = self._sessions[kind, name] = self._new_session(kind)
        return session

    def _new_session(self, kind: str) -> ClientSession:
        connector = _Connector(
            limit=0,
            force_close=kind in ("submit", "hook", "trusted hook"),
            ttl_dns_cache=30,
            socket_factory=(
                self._guarded_socket if kind in ("guarded", "hook") else self._plain_socket
            ),
        )
        return ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            # A JSON answer that is compressed all the same (a CDN's doing) is read; a video goes
            # to the client as it comes.
            auto_decompress=kind in ("submit", "query"),
            headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
            requote_redirect_url=False,
            # A Content-Security-Policy of a CDN is longer than aiohttp's 8190 bytes.
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            # It reads twice this ahead, and one piece of up to 256 KiB more. What it holds of a
            # video when the relay takes over stays in our memory until a slow client took it.
            read_bufsize=16 * 1024,
        )

    def _guarded_socket(self, info: AddrInfo) -> socket.socket:
        if not is_public(str(info[4][0])):
            # Without the address: of several equal errors the connector raises one, else a mix
            # of its own that no longer says it was the guard.
            raise AddressRefused("not a public address")
        return self._plain_socket(info)


class _Handler(ResponseHandler):
    """Reads an answer's head in slices, and ends a connection with too many informational answers
    in front of it. aiohttp reads them without a limit, and each renews the time-out."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._informational = 0
        self._has_head = False

    def set_response_params(self, **options: Any) -> None:
        self._informational = 0
        self._has_head = False
        super().set_response_params(**options)

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        if 100 <= data[0].code < 200 and data[0].code != 101:
            self._informational += 1
        else:
            self._has_head = True
        super().feed_data(data, size)

    def data_received(self, data: bytes) -> None:
        at = 0
        while at < len(data) and not self._has_head:
            super().data_received(data[at : at + SLICE_BYTES])
            at += SLICE_BYTES
            if self._informational > MAX_INFORMATIONAL:
                self.set_exception(ClientError("too many informational answers"))
                if self.transport is not None:
                    self.transport.abort()
                return
        if at < len(data) or not data:
            super().data_received(data[at:] if at else data)


class _Connector(TCPConnector):
    """Takes no connection out of its pool on which something came since it was put there: that
    would be the next request's answer, and the next one's answer the one's after it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        handler = partial(_Handler, loop=asyncio.get_running_loop())
        self._factory = handler  # type: ignore[assignment]  # of a subclass of aiohttp's

    async def _get(self, key: ConnectionKey, traces: list[Trace]) -> Connection | None:
        while (kept := await super()._get(key, traces)) is not None:
            protocol = kept.protocol
            if protocol is not None and not protocol.should_close:
                return kept
            kept.close()
        return None


def address_of(text: str) -> URL:
    """`provider_url`; NotFetched where there is none."""
    try:
        return provider_url(text)
    except ValueError as exc:
        raise NotFetched("what the provider gave is no usable address") from exc


def _payload(outbound: Outbound) -> bytes | AsyncIterator[bytes] | None:
    """The body: a small one as bytes, a large one or one with uploads piece by piece."""
    if not outbound.pieces:
        return None
    is_small = outbound.length <= BLOCK_BYTES
    if is_small and all(isinstance(piece, bytes) for piece in outbound.pieces):
        return b"".join(encoded(outbound.pieces))
    return _counted(encoded(outbound.pieces), outbound.length)


async def _counted(chunks: Iterable[bytes], length: int) -> AsyncIterator[bytes]:
    """aiohttp clips what exceeds Content-Length and hangs on what is missing: count."""
    sent = turned = 0
    for chunk in chunks:
        sent += len(chunk)
        if sent > length:
            break
        yield chunk
        if sent - turned >= TURN_BYTES:
            turned = sent
            await asyncio.sleep(0)  # a socket that takes it all would never let others go on
    if sent != length:
        raise ValueError(f"the body is {sent} bytes, announced were {length}")


async def _read_bounded(response: ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            response.close()
            raise ClientError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def _is_guards(exc: BaseException) -> bool:
    """Whether no connection was tried, because the guard would not have it."""
    return isinstance(getattr(exc, "os_error", None), AddressRefused)


def _reason(exc: BaseException) -> str:
    cause = exc.__cause__ or exc
    return f"{type(exc).__name__}: {str(cause)[:200]}"


def socket_factory(rcvbuf_bytes: int | None) -> Callable[[AddrInfo], socket.socket]:
    """For aiohttp's TCPConnector: sockets whose receive buffer is bounded before they connect.

    Only then does the first window already obey it.
    """

    def make(info: AddrInfo) -> socket.socket:
        family, kind, proto, _, _ = info
        sock = socket.socket(family, kind, proto)
        if rcvbuf_bytes is not None:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf_bytes)
        sock.setblocking(False)
        return sock

    return make
