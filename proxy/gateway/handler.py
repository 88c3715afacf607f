"""The data path of one request, read from top to bottom.

preflight → match → authenticate → read body → operate → reply or relay → access log
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from proxy.dialects.base import Dialect, unplaced
from proxy.errors import (
    EndpointNotFound,
    Invalid,
    MethodNotAllowed,
    ProxyError,
    TooLarge,
    Unauthenticated,
)
from proxy.gateway.auth import Authenticator
from proxy.gateway.content import ContentServer
from proxy.gateway.content_reply import ContentRequest
from proxy.gateway.endpoints import EndpointTable
from proxy.gateway.events import EventStreams
from proxy.gateway.limits import RateLimits, StreamLimits
from proxy.gateway.listener import WholeReply
from proxy.gateway.memos import Admission, RequestMemos
from proxy.gateway.openapi import data_document
from proxy.gateway.operations import Operations, with_block
from proxy.gateway.probe_endpoint import PROBES, answer_probe
from proxy.gateway.request import check_announced, head_of, read_whole
from proxy.gateway.scopes import check_end, check_scope, most_body_bytes
from proxy.http import cors
from proxy.model import Call, DialectName, Operation, Reply, Task
from proxy.store import Store
from proxy.store.cache import ReadCache, StoreHealth
from proxy.tasks.changes import TaskChanges
from proxy.tasks.links import Links
from proxy.tasks.runtime import Runtime
from proxy.tasks.spool import Spool
from proxy.tasks.submission import Submitter
from proxy.tasks.tracker import Tracker
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.exchange import Exchange, Head
from proxy.telemetry.timing import server_timing, timed

CALLBACKS = "/callbacks/"
DOCUMENT = "/openapi.json"  # open: it says nothing that is not in our documentation
PATH_KEPT = 128  # characters of a path that is worth remembering
_BAD_PATH = re.compile(r"[\x00-\x20\x7f]")


class InternalError(ProxyError):
    """500: our own fault; the log has the rest under the request id."""


class Gateway:
    """Answer requests through `handle`. All state here is a cache."""

    def __init__(
        self,
        runtime: Runtime,
        dialects: Mapping[DialectName, Dialect],
        auth: Authenticator,
        store: Store,
        tasks: ReadCache[Task],
        store_health: StoreHealth,
        spool: Spool,
        submitter: Submitter,
        content: ContentServer,
        streams: StreamLimits,
        tracker: Tracker,
        changes: TaskChanges,
        links: Links,
        access_log: AccessLog,
        new_request_id: Callable[[], str],
        memos: RequestMemos,
        started_s: int,
    ) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._dialects = dialects
        self._table = EndpointTable(dialects)
        self._document = data_document(self._table, runtime.config().server.public_url or "/")
        self._auth = auth
        self._spool = spool
        self._content = content
        self._streams = streams
        self._rate_limits = RateLimits(store, store_health, runtime.now_ms)
        self._tracker = tracker
        self._events = EventStreams(changes, auth.stands, runtime.log)
        self._access_log = access_log
        self._new_request_id = new_request_id
        self._log = runtime.log
        self._memos = memos
        self._operations = Operations(
            runtime,
            dialects,
            auth,
            store,
            tasks,
            spool,
            submitter,
            tracker,
            changes,
            links,
            memos,
            started_s,
        )
        self._now_ms = runtime.now_ms

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """The outermost rim: every request gets a reply and a line in the access log."""
        head = head_of(request, self._config().server.trusted_proxies, self._table.path_rules)
        exchange = Exchange(self._new_request_id(), head, time.perf_counter_ns())
        try:
            return await self._run_phases(request, exchange)
        except ProxyError as error:
            return self._refuse(exchange, error)
        except asyncio.CancelledError:
            exchange.reason = exchange.reason or "client_gone"
            raise
        except ConnectionError:
            exchange.reason = exchange.reason or "client_gone"
            raise
        except Exception:  # noqa: BLE001 -- the outermost rim: logged, counted
            self._log.exception("request failed", **exchange.log_ids(), path=head.path)
            return self._refuse(exchange, InternalError("The gateway failed; nothing is known."))
        finally:
            if exchange.release is not None:
                exchange.release()
            self._access_log.finish(exchange)
            self._tracing.record_request(exchange)

    async def _run_phases(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        """The phases in their order; the reply of a stream comes back when its body has ended."""
        head = exchange.head
        call = None if head.query else self._memos.calls.get((head.method, head.path))
        if call is None:
            reply = await self._answer_unmatched(request, exchange)
            if reply is not None:
                return reply
            call = self._match(head)
        exchange.call = call
        if call.operation is Operation.CONTENT:
            asked = ContentRequest.of(call)
            principal = None
            if asked.link is None:
                principal = (await self._admit(request, exchange, call)).principal
            return await self._content.serve(request, exchange, asked, principal)
        admission = await self._admit(request, exchange, call)
        if call.operation is Operation.EVENTS:
            return await self._stream_events(request, exchange, call, admission)
        answer = await self._operations.run(request, exchange, call, admission)
        return self._reply(exchange, answer)

    def _match(self, head: Head) -> Call:
        if _BAD_PATH.search(head.path):
            raise Invalid("The path holds a space or a control character.")
        call = self._table.match(head.method, head.path, dict(reversed(head.query)))
        if not head.query and len(head.path) <= PATH_KEPT:
            self._memos.calls[head.method, head.path] = call
        return call

    async def _admit(self, request: web.BaseRequest, exchange: Exchange, call: Call) -> Admission:
        """Authenticate, then hold the client against its scope, its rates and its body limit."""

        async def body(limit: int) -> bytes:
            # Read before the client is known, so it is booked by address, to the request's end.
            batch = self._spool.batch(f"address {exchange.head.peer}")
            exchange.release = batch.close
            read = read_whole(request, self._config(), limit, batch)
            return await timed(exchange, "body", read)

        admission = await self._auth.authenticate(
            exchange.head, self._dialects[call.dialect].auth_schemes, body
        )
        principal = admission.principal
        check_end(principal, call.operation, self._now_ms())
        exchange.principal = principal
        check_scope(principal, call, exchange.head.peer)
        await self._rate_limits.check(exchange, principal, call)
        most = most_body_bytes(principal)
        check_announced(exchange.head.headers, most)
        if admission.body is not None and most is not None and len(admission.body) > most:
            text = f"The request body is larger than the {most} bytes accepted here."
            raise TooLarge(text, limit="body")
        exchange.auth_ns = time.perf_counter_ns() - exchange.started_ns
        return admission

    async def _stream_events(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> web.StreamResponse:
        dialect = self._dialects[call.dialect]
        reference, task = await self._operations.find(request, exchange, call, admission)
        if task is None:
            exchange.reason = "not_found"
            return self._reply(exchange, dialect.missing(call, reference, exchange.id))

        def show(task: Task) -> bytes:
            return dialect.task(self._operations.view(task), "").body

        extra = {
            **cors.granted(self._cors, exchange.head.headers),
            **server_timing(exchange),
        }
        async with self._streams.hold(admission.principal, exchange.head.peer):
            return await self._events.serve(request, exchange, task, show, extra)

    # ------------------------------------------------------------ requests of no dialect

    async def _answer_unmatched(
        self, request: web.BaseRequest, exchange: Exchange
    ) -> web.StreamResponse | None:
        """Answer a request of no dialect: a browser's, a provider's or our own commands'."""
        head = exchange.head
        if cors.is_preflight(head.method, head.headers):
            return self._reply(exchange, cors.preflight(self._cors, head.headers))
        if head.path == DOCUMENT and head.method in ("GET", "HEAD"):
            reply = Reply(200, self._document, {"Content-Type": "application/json"})
            return self._reply(exchange, reply)
        if head.path.startswith(CALLBACKS):
            return self._reply(exchange, await self._answer_callback(exchange))
        if head.path.startswith(PROBES):
            return await self._answer_probe(request, exchange)
        if self._table.is_visit(head.method, head.path, head.query):
            raise EndpointNotFound(
                "This is an API for video generation; there is nothing at '/'. Its paths are "
                f"{self._table.homes()}; {DOCUMENT} describes all of them."
            )
        return None

    async def _answer_callback(self, exchange: Exchange) -> Reply:
        """Ask after a task at once, because its provider says that it has moved.

        The body is not read, so a forged call can do nothing.
        """
        task_id, _, signature = exchange.head.path.removeprefix(CALLBACKS).partition("/")
        # Whoever reads the log shall not be able to call.
        exchange.head = exchange.head._replace(path=f"{CALLBACKS}{task_id}/…")
        if exchange.head.method != "POST" or not self._auth.is_callback(task_id, signature):
            raise EndpointNotFound("There is no such callback.")
        exchange.task_id, exchange.reason = task_id, "callback"
        self._tracker.ask_now(task_id)
        return Reply(200, b"{}", {"Content-Type": "application/json"})

    async def _answer_probe(
        self, request: web.BaseRequest, exchange: Exchange
    ) -> web.StreamResponse:
        exp, _, signature = exchange.head.path.removeprefix(PROBES).partition("/")
        if exchange.head.method != "GET" or not (
            exp.isdecimal()
            and exp.isascii()
            and len(exp) < 12
            and self._auth.is_probe(int(exp), signature)
        ):
            raise EndpointNotFound("There is no such probe.")
        return await answer_probe(request, exchange)

    # ------------------------------------------------------------ replies

    @property
    def _cors(self) -> cors.CorsPolicy:
        return cors.policy_of(self._config().cors)

    def _reply(self, exchange: Exchange, reply: Reply) -> WholeReply:
        exchange.status = reply.status
        more = server_timing(exchange)
        if exchange.reply_headers:
            more = {**exchange.reply_headers, **more}
        if self._config().cors.origins and "Vary" not in reply.headers:  # a preflight's answer
            more = {**more, **cors.granted(self._cors, exchange.head.headers)}
        block = f"{(reply.block or with_block(reply).block)}X-Request-Id: {exchange.id}\r\n"
        return WholeReply(reply.status, more, reply.body, block)

    def _refuse(self, exchange: Exchange, error: ProxyError) -> WholeReply:
        head, name = exchange.head, None
        if exchange.call is not None:
            name = exchange.call.dialect
        elif not self._table.is_visit(head.method, head.path, head.query):
            name = self._table.probable_dialect(head.path)
        if isinstance(error, MethodNotAllowed) and exchange.head.method == "OPTIONS":
            return self._reply(exchange, Reply(204, b"", error.headers))
        exchange.reason, exchange.limit = error.code, error.limit
        if isinstance(error, Unauthenticated):
            exchange.refused = (error.fault.value, error.token_id)
        if name is None:
            return self._reply(exchange, unplaced(error))
        return self._reply(exchange, self._dialects[name].failure(error, exchange.id))
