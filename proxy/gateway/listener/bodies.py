"""Request bodies, piece by piece and never endless."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError

from proxy.errors import BodyTimeout, Invalid

WINDOW_S = 10.0


class BodyPace:
    """Whether a body comes fast enough: in each window of waiting, not on average.

    An average lets a client that sent 46 MiB at once drip for hours. Only time spent waiting for
    the client counts. The first window is `grace_s` long and is not judged. Pure: `waited` says
    what came and how long that took.
    """

    __slots__ = ("_came", "_least", "_left_s", "_min_bytes_s", "_window_s")

    def __init__(self, min_bytes_s: int, grace_s: float, window_s: float = WINDOW_S) -> None:
        self._min_bytes_s = min_bytes_s
        self._window_s = min(window_s, grace_s)
        self._left_s = grace_s
        self._least = 0.0
        self._came = 0

    def waited(self, took_s: float, came: int) -> bool:
        """Note a piece of `came` bytes that was waited for so long. False: too slow."""
        self._came += came
        self._left_s -= took_s
        if self._left_s > 0:
            return True
        is_enough = self._came >= self._least
        self._least = self._min_bytes_s * self._window_s
        self._left_s, self._came = self._window_s, 0
        return is_enough


async def read_body(
    request: web.BaseRequest,
    idle_s: float,
    *,
    min_bytes_s: int = 0,
    clock: Callable[[], float] = time.monotonic,
    turn: Callable[[int], Awaitable[None]] | None = None,
) -> AsyncIterator[bytes]:
    """The request's body as it arrives, still content-encoded; nothing if it has none.

    A client that asked with `Expect: 100-continue` is told to go on here, so call it only
    once the request is let in.
    `min_bytes_s` bounds a body that drips: after `idle_s`, each window (`BodyPace`) must bring that
    many bytes a second. `turn` is awaited with the size of each piece before the piece is given
    out; the client is not read meanwhile, and the wait is not counted as its own.
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
    pace = BodyPace(min_bytes_s, idle_s)
    while True:
        asked_s = clock()
        try:
            async with asyncio.timeout(idle_s):
                chunk = await content.readany()
        except TimeoutError as exc:
            raise BodyTimeout(f"no bytes of the request body came for {idle_s:g} s") from exc
        except (BadHttpMessage, web.RequestPayloadError, ConnectionError, RuntimeError) as exc:
            raise Invalid(f"the request body is malformed or cut: {one_line(exc)}") from exc
        if not chunk:
            return
        if not pace.waited(clock() - asked_s, len(chunk)):
            raise BodyTimeout(f"the request body came slower than {min_bytes_s} bytes a second")
        if turn is not None:
            await turn(len(chunk))
        yield chunk


def one_line(exc: BaseException) -> str:
    text = exc.message if isinstance(exc, HttpProcessingError) else str(exc)
    return text.partition("\n")[0].rstrip(": ") or type(exc).__name__
