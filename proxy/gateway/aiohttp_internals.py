"""What listener, relay and the upstream client use of aiohttp beyond its documented API.

Rule: a private name of aiohttp is used nowhere in the gateway before it stands in a table here.
`check` refuses to start without the names in `REQUIRED`; without those in `TAKEOVER` the relay
only does without its two fast tiers.

Behaviour has no name to look for. What we lean on, and the test that fails when it changes:

- aiohttp's C parser queues a framing error of a body as if it were the next request
  (tests/edge/test_listener.py);
- aiohttp's StreamReader resumes its transport when bytes are taken out of it, and gives its
  connection back to the pool on `feed_eof` (tests/edge/test_relay_kept.py);
- uvloop looks at the kind of a transport's protocol when reading starts, reads a ready socket up
  to 32 times in a row unless it is paused, raises RuntimeError on a write to a closing transport,
  and takes pollers on a dup'ed descriptor only (tests/edge/test_relay.py, on both loops).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import FunctionType
from typing import Final, NamedTuple

import aiohttp
import aiohttp.http_parser
from aiohttp import ClientResponse, TCPConnector, web
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.streams import StreamReader


class Internal(NamedTuple):
    """One name of aiohttp that we use, and what for."""

    owner: type
    name: str
    reason: str

    @property
    def exists(self) -> bool:
        """Whether the class has it, or one of its methods uses it of `self`."""
        return hasattr(self.owner, self.name) or any(
            self.name in method.__code__.co_names
            for method in vars(self.owner).values()
            if isinstance(method, FunctionType)
        )

    def __str__(self) -> str:
        return f"{self.owner.__name__}.{self.name}"


REQUIRED: Final = (
    # listener/conn.py, a subclass of RequestHandler
    Internal(web.RequestHandler, "_waiter", "set while a connection waits for a request"),
    Internal(web.RequestHandler, "_messages", "requests that are parsed and not yet handled"),
    Internal(web.RequestHandler, "_drain_helper", "waits until the write buffer has room"),
    Internal(web.RequestHandler, "writing_paused", "whether the client takes no more bytes"),
    Internal(web.RequestHandler, "pause_writing", "overridden: backpressure goes to the relay"),
    Internal(web.RequestHandler, "resume_writing", "overridden: backpressure goes to the relay"),
    Internal(web.RequestHandler, "handle_error", "overridden: our own body for a bad request"),
    # listener/accept.py, a subclass of Server
    Internal(web.RequestHandler, "_task_handler", "the handler of a connection, to its end"),
    Internal(web.Server, "_connections", "counted at each connection, without the copy of a list"),
    Internal(web.Server, "_loop", "given to each request, as the default factory does"),
    # listener/lines.py
    Internal(web.BaseRequest, "_message", "the target as it was written; `path` is rewritten"),
    # listener/replies.py, a subclass of StreamResponse whose __init__ is not run
    Internal(web.StreamResponse, "_status", "read by `status`"),
    Internal(web.StreamResponse, "_keep_alive", "read by `keep_alive`"),
    Internal(web.StreamResponse, "_eof_sent", "read by `prepared`"),
    # proxy/upstream.py, a subclass of TCPConnector
    Internal(TCPConnector, "_get", "overridden: a kept connection with unread bytes is dropped"),
)

# relay/pipe.py takes an upstream's connection over from aiohttp, and gives it back.
TAKEOVER: Final = (
    Internal(ClientResponse, "connection", "the connection of the body"),
    Internal(ClientResponse, "content", "the reader whose bytes are taken out first"),
    Internal(ClientResponse, "close", "ends a response without its connection"),
    Internal(Connection, "protocol", "the protocol to put back"),
    Internal(Connection, "transport", "the transport to read from"),
    Internal(ResponseHandler, "read_timeout", "switched off: the relay has deadlines of its own"),
    Internal(ResponseHandler, "start_timeout", "drops the timer that is running"),
    Internal(ResponseHandler, "connection_lost", "told of an end that came to our protocol"),
    Internal(ResponseHandler, "_parser", "replaced between two requests, see `_Silence`"),
    Internal(StreamReader, "read_nowait", "takes out what aiohttp has read"),
    Internal(StreamReader, "is_eof", "whether that was all"),
    Internal(StreamReader, "feed_eof", "gives the connection back"),
    Internal(StreamReader, "total_bytes", "how much of the body has come"),
    Internal(web.RequestHandler, "writing_paused", "whether the client takes no more bytes"),
    Internal(web.RequestHandler, "pause_writing", "overridden: backpressure goes to the relay"),
    Internal(web.RequestHandler, "resume_writing", "overridden: backpressure goes to the relay"),
)


class UnusableAiohttp(RuntimeError):
    """The aiohttp installed here lacks what the gateway needs; the message is one sentence."""


def missing(internals: Sequence[Internal]) -> list[Internal]:
    """Those that this aiohttp does not have."""
    return [internal for internal in internals if not internal.exists]


def check(required: Sequence[Internal] = REQUIRED) -> None:
    """Raise `UnusableAiohttp` where the gateway cannot serve with this aiohttp."""
    # The pure Python parser, to which aiohttp falls back silently, lets more malformed requests
    # pass than llhttp does.
    if aiohttp.http_parser.HttpRequestParser.__module__ != "aiohttp._http_parser":
        raise UnusableAiohttp(
            f"aiohttp {aiohttp.__version__} is installed without its C parser (or "
            "AIOHTTP_NO_EXTENSIONS is set); install a binary wheel of aiohttp for this platform"
        )
    lacking = missing(required)
    if lacking:
        raise UnusableAiohttp(
            f"aiohttp {aiohttp.__version__} lacks {', '.join(map(str, lacking))}, which this "
            "gateway needs; install the aiohttp that it was released with"
        )
