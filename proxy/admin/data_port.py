"""Our own clients' port, asked as a client asks it: for the video in the console, and for the
playground. It is on this machine and takes no other way than the configured one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import (
    BaseConnector,
    ClientError,
    ClientResponse,
    ClientSession,
    ClientTimeout,
    DummyCookieJar,
    TCPConnector,
    UnixConnector,
)
from yarl import URL

from proxy.errors import Unavailable

CONNECT_S = 5.0
READ_BYTES = 64 * 1024


class DataPort:
    """`url` says where it is: `http://host:port` or `unix:/path`. `silence_s` is the longest it
    may say nothing; what it does itself against slow upstreams is shorter."""

    def __init__(self, url: Callable[[], str], silence_s: Callable[[], float]) -> None:
        self._url = url
        self._silence_s = silence_s
        self._session: ClientSession | None = None

    @property
    def url(self) -> str:
        return self._url()

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @asynccontextmanager
    async def ask(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
    ) -> AsyncIterator[ClientResponse]:
        """The answer, its body unread; leaving the block ends it. `target` is a path and a query,
        already encoded. `Unavailable` when the port does not answer; what breaks later is the
        client library's own ClientError or TimeoutError."""
        if self._session is None:
            self._session = self._new_session()
        base = self._url()
        url = URL(("http://localhost" if base.startswith("unix:") else base) + target, encoded=True)
        timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=self._silence_s())
        try:
            answer = await self._session.request(
                method, url, headers=headers, data=body, timeout=timeout, allow_redirects=False
            )
        except (ClientError, TimeoutError, OSError) as exc:
            raise Unavailable(
                f"The gateway's own port for clients does not answer ({type(exc).__name__}); is "
                "it ready? See /readyz.",
                retry_after_s=5,
            ) from exc
        async with answer:
            yield answer

    def _new_session(self) -> ClientSession:
        base = self._url()
        connector: BaseConnector = TCPConnector(limit=0)
        if base.startswith("unix:"):
            connector = UnixConnector(base.removeprefix("unix:"), limit=0)
        return ClientSession(
            connector=connector,
            cookie_jar=DummyCookieJar(),
            auto_decompress=False,
            headers={"Accept-Encoding": "identity"},
            skip_auto_headers=("User-Agent", "Accept"),
            read_bufsize=READ_BYTES,
        )
