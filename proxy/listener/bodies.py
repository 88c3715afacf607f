"""Request bodies, piece by piece and never endless."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError

from proxy.errors import BodyTimeout, Invalid


async def read_body(
    request: web.BaseRequest,
    idle_s: float,
    *,
    min_bytes_s: int = 0,
) -> AsyncIterator[bytes]:
    """The request's body as it arrives, still content-encoded; nothing if it has none.

    A client that asked with `Expect: 100-continue` is told to go on here, so call it only
    once the request is let in.
    `min_bytes_s` bounds a body that drips: on average, after `idle_s`, it must come that fast.
    Raises BodyTimeout when the client stalls or drips, Invalid when the body is malformed or
    cut.
    """
    content = request.content
    if content.at_eof():
        return
    transport = request.transport
    expects = request.headers.get("Expect", "").lower() == "100-continue"
    if expects and request.version >= (1, 1) and not content.total_bytes and transport:
        # Not through request.writer, which would count it as the beginning of the response.
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    start, received = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(idle_s):
                chunk = await content.readany()
        except TimeoutError as exc:
            raise BodyTimeout(f"no bytes of the request body came for {idle_s:g} s") from exc
        except (BadHttpMessage, web.RequestPayloadError, ConnectionError, RuntimeError) as exc:
            raise Invalid(f"the request body is malformed or cut: {one_line(exc)}") from exc
        if not chunk:
            return
        received += len(chunk)
        if received < min_bytes_s * (time.monotonic() - start - idle_s):
            raise BodyTimeout(f"the request body came slower than {min_bytes_s} bytes a second")
        yield chunk


def one_line(exc: BaseException) -> str:
    text = exc.message if isinstance(exc, HttpProcessingError) else str(exc)
    return text.partition("\n")[0].rstrip(": ") or type(exc).__name__
