"""The data path of one request, read from top to bottom.

preflight → match → authenticate → read body → operate → reply or relay → access log
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import replace

from aiohttp import web
from multidict import CIMultiDictProxy

from proxy.caches import IdentityMemo
from proxy.dialects.base import Dialect, View, unplaced
from proxy.dialects.fields import Fields
from proxy.errors import (
    AuthFault,
    Conflict,
    EndpointNotFound,
    Forbidden,
    Invalid,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from proxy.gateway.auth import SIGNATURE_LIFE_S, Admission, Authenticator
from proxy.gateway.content import ContentServer
from proxy.gateway.content_reply import ContentRequest
from proxy.gateway.endpoints import EndpointTable
from proxy.gateway.events import EventStreams
from proxy.gateway.heads import head_of, wait_of, wants_quote
from proxy.gateway.idempotency import (
    fingerprint,
    idempotency_by,
    idempotency_hash,
    idempotency_of,
    retries_of,
)
from proxy.gateway.intake import ParsedBody, check_announced, read_fields, read_whole
from proxy.gateway.limits import RateLimits, StreamLimits
from proxy.gateway.listener import WholeReply, header_block
from proxy.gateway.openapi import data_document
from proxy.gateway.probe_endpoint import PROBES, drip
from proxy.gateway.scopes import check_end, check_scope, most_body_bytes
from proxy.http import cors
from proxy.http.headers import forwarded
from proxy.model import Call, DialectName, Operation, Principal, Reply, Task, VideoRequest
from proxy.store import Store
from proxy.store.cache import ReadCache, StoreHealth
from proxy.tasks import lifecycle
from proxy.tasks.changes import TaskChanges
from proxy.tasks.links import Links
from proxy.tasks.offload import offload
from proxy.tasks.planning import route_of
from proxy.tasks.routing import choose_route, listed_models
from proxy.tasks.runtime import Runtime
from proxy.tasks.schedule import asking_pause_ms, removed_due_ms
from proxy.tasks.spool import Batch, Spool
from proxy.tasks.submission import SubmitRequest, Submitter, has_outcome
from proxy.tasks.tracker import Tracker
from proxy.tasks.usage import quote, usage
from proxy.telemetry.access_log import AccessLog
from proxy.telemetry.exchange import Exchange, Head
from proxy.telemetry.timing import server_timing, timed
from proxy.tokens import check_webhook_target

CALLBACKS = "/callbacks/"
DOCUMENT = "/openapi.json"  # open: it says nothing that is not in our documentation
ANSWERS_KEPT = 4096
PATH_KEPT = 128  # characters of a path that is worth remembering
_EVERY_REPLY = {"X-Content-Type-Options": "nosniff"}
_NO_FIELDS = Fields({})
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
        started_s: int,
    ) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._dialects = dialects
        self._table = EndpointTable(dialects)
        self._document = data_document(self._table, runtime.config().server.public_url or "/")
        self._auth = auth
        self._store = store
        self._tasks = tasks
        self._spool = spool
        self._submitter = submitter
        self._content = content
        self._streams = streams
        self._rate_limits = RateLimits(store, store_health, runtime.now_ms)
        self._tracker = tracker
        self._changes = changes
        self._schedule = runtime.schedule
        self._events = EventStreams(changes, auth.stands, runtime.log)
        self._links = links
        self._access_log = access_log
        self._new_request_id = new_request_id
        self._clock = runtime.clock
        self._started_s = started_s
        self._log = runtime.log
        self._answers: IdentityMemo[Reply] = IdentityMemo(ANSWERS_KEPT)
        self._calls: dict[tuple[str, str], Call] = {}  # what was matched last
        self._operations: dict[
            Operation, Callable[[web.BaseRequest, Exchange, Call, Admission], Awaitable[Reply]]
        ] = {
            Operation.CREATE: self._submit,
            Operation.REMIX: self._submit,
            Operation.EDIT: self._submit,
            Operation.EXTEND: self._submit,
            Operation.GET: self._get,
            Operation.LIST: self._list,
            Operation.DELETE: self._delete,
            Operation.MODELS: self._models,
            Operation.USAGE: self._usage,
        }
        self._now_ms = runtime.now_ms

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        head = head_of(request, self._config().server.trusted_proxies, self._table.path_rules)
        exchange = Exchange(self._new_request_id(), head, time.perf_counter_ns())
        try:
            return await self._serve(request, exchange)
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

    async def _serve(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        head = exchange.head
        call = None if head.query else self._calls.get((head.method, head.path))
        if call is None:
            reply = await self._beside(request, exchange)
            if reply is not None:
                return reply
            call = self._match(head)
        exchange.call = call
        if call.operation is Operation.CONTENT:
            asked = ContentRequest.of(call)
            principal = None
            if asked.link is None:
                principal = (await self._let_in(request, exchange, call)).principal
            return await self._content.serve(request, exchange, asked, principal)
        admission = await self._let_in(request, exchange, call)
        if call.operation is Operation.EVENTS:
            return await self._stream_events(request, exchange, call, admission)
        answer = await self._operations[call.operation](request, exchange, call, admission)
        return self._whole(exchange, answer)

    async def _beside(
        self, request: web.BaseRequest, exchange: Exchange
    ) -> web.StreamResponse | None:
        """The answer to what is no dialect's: browsers, providers and commands of ours."""
        head = exchange.head
        if cors.is_preflight(head.method, head.headers):
            return self._whole(exchange, cors.preflight(self._cors, head.headers))
        if head.path == DOCUMENT and head.method in ("GET", "HEAD"):
            reply = Reply(200, self._document, {"Content-Type": "application/json"})
            return self._whole(exchange, reply)
        if head.path.startswith(CALLBACKS):
            return self._whole(exchange, await self._called_back(exchange))
        if head.path.startswith(PROBES):
            return await self._probed(request, exchange)
        if self._table.is_visit(head.method, head.path, head.query):
            raise EndpointNotFound(
                "This is an API for video generation; there is nothing at '/'. Its paths are "
                f"{self._table.homes()}; {DOCUMENT} describes all of them."
            )
        return None

    def _match(self, head: Head) -> Call:
        if _BAD_PATH.search(head.path):
            raise Invalid("The path holds a space or a control character.")
        call = self._table.match(head.method, head.path, dict(reversed(head.query)))
        if not head.query and len(head.path) <= PATH_KEPT:
            if len(self._calls) >= ANSWERS_KEPT:
                del self._calls[next(iter(self._calls))]
            self._calls[head.method, head.path] = call
        return call

    async def _let_in(self, request: web.BaseRequest, exchange: Exchange, call: Call) -> Admission:
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

    # ------------------------------------------------------------ operations

    async def _submit(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        dialect = self._dialects[call.dialect]
        config = self._config()
        is_quote = wants_quote(exchange.head)
        batch = self._spool.batch(admission.principal.token_id)
        try:
            headers = exchange.head.headers
            body = await timed(exchange, "body", self._read(request, call, admission, batch))
            default = config.defaults.model.get(call.dialect, "")
            ask = SubmitRequest(
                await offload(body.size, dialect.submission, call, Fields(body.fields), default),
                await offload(body.size, fingerprint, call, body.fields),
                None if is_quote else await self._idempotency(headers, admission),
                retries_of(headers),
                forwarded(headers),
                body.size,
            )
            _check_callback(ask.request, body.fields, config.webhooks.allow)
            held = body.held
            del body  # its text is no longer needed; the pictures made of it are
            batch.weigh(held)
        except BaseException:
            batch.close()
            raise
        if is_quote:
            with batch:
                return await self._quote(exchange, dialect, admission.principal, ask)
        born = await self._submitter.submit(exchange, admission.principal, ask, batch.close)
        exchange.told |= self._pace(born.task)
        if born.replayed:
            exchange.told["idempotent-replayed"] = "true"
        return dialect.created(self._view(born.task), exchange.id)

    async def _quote(
        self, exchange: Exchange, dialect: Dialect, principal: Principal, ask: SubmitRequest
    ) -> Reply:
        """What the submit would cost; it is not made."""
        task = await self._submitter.quote(principal, ask)
        exchange.route, exchange.reason = task.route, "quoted"
        currency, now_ms = self._config().billing.currency, self._now_ms()
        document = await quote(self._store, principal, task, currency, now_ms)
        return dialect.quoted(document, exchange.id)

    async def _get(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        dialect = self._dialects[call.dialect]
        wait_s = wait_of(call.query, exchange.head.headers)
        reference, task = await self._find(request, exchange, call, admission)
        if task is not None and wait_s and not task.status.is_final:
            until = self._changes.wait_until(task.id, _has_ended, wait_s)
            task = await timed(exchange, "wait", until)
            if not await self._auth.stands(admission.principal):
                raise Unauthenticated("This API key was revoked.", AuthFault.REVOKED)
        if task is None or task.deleted:
            exchange.reason = "not_found"
            return dialect.missing(call, reference, exchange.id)
        exchange.told |= self._pace(task)
        return self._answer(dialect, task, exchange.id)

    async def _stream_events(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> web.StreamResponse:
        dialect = self._dialects[call.dialect]
        reference, task = await self._find(request, exchange, call, admission)
        if task is None:
            exchange.reason = "not_found"
            return self._whole(exchange, dialect.missing(call, reference, exchange.id))

        def show(task: Task) -> bytes:
            return dialect.task(self._view(task), "").body

        extra = {
            **cors.granted(self._cors, exchange.head.headers),
            **server_timing(exchange),
        }
        async with self._streams.hold(admission.principal, exchange.head.peer):
            return await self._events.serve(request, exchange, task, show, extra)

    async def _called_back(self, exchange: Exchange) -> Reply:
        """A provider says that a task has moved. Its word is only a reason to ask at once; the
        body is not read, so a forged call can do nothing."""
        task_id, _, signature = exchange.head.path.removeprefix(CALLBACKS).partition("/")
        # Whoever reads the log shall not be able to call.
        exchange.head = exchange.head._replace(path=f"{CALLBACKS}{task_id}/…")
        if exchange.head.method != "POST" or not self._auth.is_callback(task_id, signature):
            raise EndpointNotFound("There is no such callback.")
        exchange.task_id, exchange.reason = task_id, "callback"
        self._tracker.ask_now(task_id)
        return Reply(200, b"{}", {"Content-Type": "application/json"})

    async def _probed(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        exp, _, signature = exchange.head.path.removeprefix(PROBES).partition("/")
        if exchange.head.method != "GET" or not (
            exp.isdecimal()
            and exp.isascii()
            and len(exp) < 12
            and self._auth.is_probe(int(exp), signature)
        ):
            raise EndpointNotFound("There is no such probe.")
        return await drip(request, exchange)

    async def _delete(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        """Hidden at once; a render under way is stopped where the provider can, and followed to
        its end where it cannot, for then it is paid for."""
        dialect = self._dialects[call.dialect]
        reference, task = await self._find(request, exchange, call, admission)
        if task is not None and not admission.principal.owns(task):
            raise Forbidden("This API key may read this video, not delete it.")
        if exchange.head.headers.get("reelway-cancel") == "only-stop" and task is not None:
            self._check_stop(exchange, task)
        while task is not None:
            now_ms = self._now_ms()
            removed = (
                lifecycle.withdrawn(task, now_ms)
                if task.is_waiting
                else lifecycle.removed(task, now_ms)
            )
            if removed is None:
                break
            due_ms = removed_due_ms(removed, now_ms, self._schedule())
            event = "deleted by its owner"
            retention_s = self._config().limits.retention_s
            # Its names stay taken: a late retry of a submit must not undo its owner's delete.
            other = await self._store.tasks.swap(task, removed, due_ms, event, retention_s)
            if other is None:
                reply = dialect.deleted(self._view(removed), exchange.id)
                if task.is_waiting:
                    exchange.told["reelway-cancel"] = "stopped"
                elif not removed.stage.is_final:
                    stop = self._tracker.cancel(removed, self._tracing.onward_headers(exchange))
                    exchange.told["reelway-cancel"] = await timed(exchange, "upstream", stop)
                return reply
            task = other
        exchange.reason = "not_found"
        return dialect.missing(call, reference, exchange.id)

    def _check_stop(self, exchange: Exchange, task: Task) -> None:
        """Conflict when a render cannot be stopped and its owner wants to go on watching it then,
        as a gateway does that has a client of its own to tell of the end."""
        if task.deleted or task.is_waiting or task.stage.is_final or self._tracker.can_stop(task):
            return
        exchange.told["reelway-cancel"] = "will_finish"
        raise Conflict("This render cannot be stopped, so the video was not deleted.")

    async def _list(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        dialect = self._dialects[call.dialect]
        page = dialect.page(call)
        principal = admission.principal
        key = call.query.get("idempotency_key")
        if key is not None:
            tasks = await self._of_key(principal, key)
            exchange.told["reelway-lookup"] = "idempotency-key"
            return dialect.listing(page, [self._view(t) for t in tasks], False, exchange.id)
        if page.after is not None:
            await self._check_after(principal, page.after)
        tasks, has_more = await self._store.tasks.list(
            principal.owner,
            token_id=None if principal.shared else principal.token_id,
            limit=page.limit,
            order=page.order,
            after=page.after,
            offset=page.offset,
            kind=page.kind,
        )
        return dialect.listing(page, [self._view(t) for t in tasks], has_more, exchange.id)

    async def _of_key(self, principal: Principal, key: str) -> tuple[Task, ...]:
        """The task that the caller's submit with this Idempotency-Key made, or none. While that
        submit is under way nobody knows: it may be refused yet, and then there is no task."""
        hashed = idempotency_hash(key, "idempotency_key")
        task = await self._store.tasks.of_key(principal.token_id, principal.owner, hashed)
        if task is None or task.deleted:
            return ()
        if not has_outcome(task):
            raise Unavailable(
                "The submit with this 'idempotency_key' is still under way; ask again.",
                retry_after_s=1,
            )
        return (task,)

    async def _models(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        routes, principal = self._config().routes, admission.principal
        dialect = self._dialects[call.dialect]
        name = call.params.get("model")
        if name is not None:
            route = route_of(routes, principal, name, "model")
            video = self._submitter.video_member(route, name)
            return dialect.model(name, video, self._started_s, exchange.id)
        names = listed_models(routes, principal.models)
        found = {
            name: self._submitter.video_member(way, name)
            for name in names
            if (way := choose_route(routes, name)) is not None
        }
        return dialect.models(found, self._started_s, exchange.id)

    async def _usage(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        currency, now_ms = self._config().billing.currency, self._now_ms()
        document = await usage(self._store, admission.principal, currency, now_ms)
        return self._dialects[call.dialect].quoted(document, exchange.id)

    # ------------------------------------------------------------ what they share

    async def _idempotency(
        self, headers: CIMultiDictProxy[str], admission: Admission
    ) -> str | None:
        """The key of a submit. A signature stands for the one submit it came with first: it
        covers no Idempotency-Key, so whoever repeats the request could add or change that."""
        key = idempotency_of(headers)
        if admission.signature is None:
            return key
        principal, signature = admission.principal, admission.signature
        return await self._store.signatures.bind(
            principal.token_id,
            principal.owner,
            signature,
            key or idempotency_by(signature),
            SIGNATURE_LIFE_S,
        )

    async def _read(
        self, request: web.BaseRequest, call: Call, admission: Admission, batch: Batch
    ) -> ParsedBody:
        body = await read_fields(
            request,
            self._dialects[call.dialect].accepts_forms,
            self._config(),
            batch,
            admission.body,
            most_body_bytes(admission.principal),
        )
        claimed = admission.body_sha256
        if claimed is not None and claimed != body.sha256:
            raise Unauthenticated(
                "X-Content-Sha256 is not the SHA-256 of the body that arrived.",
                AuthFault.SIGNATURE,
            )
        return body

    async def _find(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> tuple[str, Task | None]:
        """The task a client names, by our id or its own alias; a foreign one is no task."""
        fields = _NO_FIELDS
        if exchange.head.method == "POST":
            with self._spool.batch(admission.principal.token_id) as batch:
                body = await timed(exchange, "body", self._read(request, call, admission, batch))
                fields = Fields(body.fields)
        dialect = self._dialects[call.dialect]
        reference = dialect.reference(call, fields)
        principal = admission.principal
        task = await self._tasks.get(reference)
        if task is None and dialect.has_external_ids:
            external = self._store.tasks.external
            task_id = await external(principal.token_id, principal.owner, reference)
            task = await self._tasks.get(task_id) if task_id is not None else None
        if task is None or task.deleted or not principal.sees(task):
            return reference, None
        exchange.task_id, exchange.task = task.id, task
        return reference, task

    async def _check_after(self, principal: Principal, task_id: str) -> None:
        """A deleted task is a good place to go on from: clients delete while they page."""
        task = await self._tasks.get(task_id)
        if task is None or not principal.sees(task):
            raise NotFound(f"Video with id '{task_id}' not found.", param="after")

    def _pace(self, task: Task) -> dict[str, str]:
        """When it is worth asking again (openai's SDKs poll at the interval they are told)."""
        if task.stage.is_final:
            return {}
        now_ms = self._now_ms()
        pause_ms = asking_pause_ms(task, now_ms, self._schedule())
        return {
            "openai-poll-after-ms": str(pause_ms),
            "Retry-After": str(max(1, round(pause_ms / 1000))),
        }

    def _answer(self, dialect: Dialect, task: Task, request_id: str) -> Reply:
        """What is polled most: the same task is the same answer, written once where it can be."""
        if dialect.request_id_in_body:
            return dialect.task(self._view(task), request_id)
        key = (dialect.name, task.id)
        return self._answers.get(key, (task,), lambda: _set(dialect.task(self._view(task), "")))

    def _view(self, task: Task) -> View:
        return View(task, *self._links.of(task))

    # ------------------------------------------------------------ replies

    @property
    def _cors(self) -> cors.CorsPolicy:
        return cors.policy_of(self._config().cors)

    def _whole(self, exchange: Exchange, reply: Reply) -> WholeReply:
        exchange.status = reply.status
        more = server_timing(exchange)
        if exchange.told:
            more = {**exchange.told, **more}
        if self._config().cors.origins and "Vary" not in reply.headers:  # a preflight's answer
            more = {**more, **cors.granted(self._cors, exchange.head.headers)}
        block = f"{(reply.block or _set(reply).block)}X-Request-Id: {exchange.id}\r\n"
        return WholeReply(reply.status, more, reply.body, block)

    def _refuse(self, exchange: Exchange, error: ProxyError) -> WholeReply:
        head, name = exchange.head, None
        if exchange.call is not None:
            name = exchange.call.dialect
        elif not self._table.is_visit(head.method, head.path, head.query):
            name = self._table.probable_dialect(head.path)
        if isinstance(error, MethodNotAllowed) and exchange.head.method == "OPTIONS":
            return self._whole(exchange, Reply(204, b"", error.headers))
        exchange.reason, exchange.limit = error.code, error.limit
        if isinstance(error, Unauthenticated):
            exchange.refused = (error.fault.value, error.token_id)
        if name is None:
            return self._whole(exchange, unplaced(error))
        return self._whole(exchange, self._dialects[name].failure(error, exchange.id))


def _check_callback(
    request: VideoRequest, fields: Mapping[str, object], allowed: Container[str]
) -> None:
    """`Invalid` for an address that could never be called, by the name the client gave it."""
    try:
        check_webhook_target(request.callback_url, allowed)
    except ValueError as fault:
        names = ("webhook", "callback_url")
        name = next((n for n in names if fields.get(n) == request.callback_url), names[1])
        raise Invalid(f"'{name}' {fault}.", param=name) from fault


def _has_ended(task: Task) -> bool:
    return task.status.is_final or task.deleted


def _set(reply: Reply) -> Reply:
    """With its headers set in lines, ready to be sent."""
    return replace(reply, block=header_block({**reply.headers, **_EVERY_REPLY}))
