"""What each operation does for a client that was let in: submit, get, list, delete, and the rest.

The handler has matched and admitted the request; `Operations.run` reads its body where it has one,
works on tasks, and returns a reply that is not sent yet.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Mapping
from dataclasses import replace

from aiohttp import web
from multidict import CIMultiDictProxy

from proxy.dialects.base import Dialect, View
from proxy.dialects.fields import Fields
from proxy.errors import (
    AuthFault,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    Unauthenticated,
    Unavailable,
)
from proxy.gateway.auth import SIGNATURE_LIFE_S, Authenticator
from proxy.gateway.idempotency import (
    fingerprint,
    idempotency_by,
    idempotency_hash,
    idempotency_of,
    retries_of,
)
from proxy.gateway.listener import header_block
from proxy.gateway.memos import Admission, RequestMemos
from proxy.gateway.request import ParsedBody, read_fields, wait_of, wants_quote
from proxy.gateway.scopes import most_body_bytes
from proxy.http.headers import forwarded
from proxy.model import Call, DialectName, Operation, Principal, Reply, Task, VideoRequest
from proxy.store import Store
from proxy.store.cache import ReadCache
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
from proxy.telemetry.exchange import Exchange
from proxy.telemetry.timing import timed
from proxy.tokens import check_webhook_target

EVERY_REPLY = {"X-Content-Type-Options": "nosniff"}
_NO_FIELDS = Fields({})

Perform = Callable[[web.BaseRequest, Exchange, Call, Admission], Awaitable[Reply]]


class Operations:
    """The operations of every dialect, each from an admitted request to its reply."""

    def __init__(
        self,
        runtime: Runtime,
        dialects: Mapping[DialectName, Dialect],
        auth: Authenticator,
        store: Store,
        tasks: ReadCache[Task],
        spool: Spool,
        submitter: Submitter,
        tracker: Tracker,
        changes: TaskChanges,
        links: Links,
        memos: RequestMemos,
        started_s: int,
    ) -> None:
        self._tracing = runtime.tracing
        self._config = runtime.config
        self._now_ms = runtime.now_ms
        self._schedule = runtime.schedule
        self._dialects = dialects
        self._auth = auth
        self._store = store
        self._tasks = tasks
        self._spool = spool
        self._submitter = submitter
        self._tracker = tracker
        self._changes = changes
        self._links = links
        self._memos = memos
        self._started_s = started_s
        self._performs: dict[Operation, Perform] = {
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

    def run(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Awaitable[Reply]:
        """The reply of any operation but CONTENT and EVENTS, which are streams."""
        return self._performs[call.operation](request, exchange, call, admission)

    # ------------------------------------------------------------ submit

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
            submit = SubmitRequest(
                await offload(body.size, dialect.submission, call, Fields(body.fields), default),
                await offload(body.size, fingerprint, call, body.fields),
                None if is_quote else await self._idempotency(headers, admission),
                retries_of(headers),
                forwarded(headers),
                body.size,
            )
            _check_callback_url(submit.request, body.fields, config.webhooks.allow)
            held = body.held
            del body  # its text is no longer needed; the pictures made of it are
            batch.weigh(held)
        except BaseException:
            batch.close()
            raise
        if is_quote:
            with batch:
                return await self._quote(exchange, dialect, admission.principal, submit)
        submitted = await self._submitter.submit(exchange, admission.principal, submit, batch.close)
        exchange.reply_headers |= self._pace(submitted.task)
        if submitted.replayed:
            exchange.reply_headers["idempotent-replayed"] = "true"
        return dialect.created(self.view(submitted.task), exchange.id)

    async def _quote(
        self, exchange: Exchange, dialect: Dialect, principal: Principal, submit: SubmitRequest
    ) -> Reply:
        """Answer with the price of a submit that is not made."""
        task = await self._submitter.quote(principal, submit)
        exchange.route, exchange.reason = task.route, "quoted"
        currency, now_ms = self._config().billing.currency, self._now_ms()
        document = await quote(self._store, principal, task, currency, now_ms)
        return dialect.quoted(document, exchange.id)

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

    # ------------------------------------------------------------ get and list

    async def _get(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        dialect = self._dialects[call.dialect]
        wait_s = wait_of(call.query, exchange.head.headers)
        reference, task = await self.find(request, exchange, call, admission)
        if task is not None and wait_s and not task.status.is_final:
            until = self._changes.wait_until(task.id, _has_ended, wait_s)
            task = await timed(exchange, "wait", until)
            if not await self._auth.stands(admission.principal):
                raise Unauthenticated("This API key was revoked.", AuthFault.REVOKED)
        if task is None or task.deleted:
            exchange.reason = "not_found"
            return dialect.missing(call, reference, exchange.id)
        exchange.reply_headers |= self._pace(task)
        return self._answer(dialect, task, exchange.id)

    def _answer(self, dialect: Dialect, task: Task, request_id: str) -> Reply:
        """The reply to a poll: written once for each version of a task, where it can be."""
        if dialect.request_id_in_body:
            return dialect.task(self.view(task), request_id)
        key = (dialect.name, task.id)
        return self._memos.replies.get(
            key, (task,), lambda: with_block(dialect.task(self.view(task), ""))
        )

    def _pace(self, task: Task) -> dict[str, str]:
        """Headers that say when to ask again; openai's SDKs poll at that interval."""
        if task.stage.is_final:
            return {}
        now_ms = self._now_ms()
        pause_ms = asking_pause_ms(task, now_ms, self._schedule())
        return {
            "openai-poll-after-ms": str(pause_ms),
            "Retry-After": str(max(1, round(pause_ms / 1000))),
        }

    async def _list(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        dialect = self._dialects[call.dialect]
        page = dialect.page(call)
        principal = admission.principal
        key = call.query.get("idempotency_key")
        if key is not None:
            tasks = await self._of_key(principal, key)
            exchange.reply_headers["reelway-lookup"] = "idempotency-key"
            return dialect.listing(page, [self.view(t) for t in tasks], False, exchange.id)
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
        return dialect.listing(page, [self.view(t) for t in tasks], has_more, exchange.id)

    async def _of_key(self, principal: Principal, key: str) -> tuple[Task, ...]:
        """The task that the caller's submit with this Idempotency-Key made, if any.

        Raises `Unavailable` while that submit is under way: it may still be refused.
        """
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

    async def _check_after(self, principal: Principal, task_id: str) -> None:
        """Raise `NotFound` unless the page may begin behind this task.

        A deleted task will do: clients delete while they page.
        """
        task = await self._tasks.get(task_id)
        if task is None or not principal.sees(task):
            raise NotFound(f"Video with id '{task_id}' not found.", param="after")

    # ------------------------------------------------------------ delete

    async def _delete(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> Reply:
        """Hide the task at once, and stop its render where the provider can.

        A render that cannot be stopped is followed to its end, because it is paid for.
        """
        dialect = self._dialects[call.dialect]
        reference, task = await self.find(request, exchange, call, admission)
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
                reply = dialect.deleted(self.view(removed), exchange.id)
                if task.is_waiting:
                    exchange.reply_headers["reelway-cancel"] = "stopped"
                elif not removed.stage.is_final:
                    stop = self._tracker.cancel(removed, self._tracing.onward_headers(exchange))
                    exchange.reply_headers["reelway-cancel"] = await timed(
                        exchange, "upstream", stop
                    )
                return reply
            task = other
        exchange.reason = "not_found"
        return dialect.missing(call, reference, exchange.id)

    def _check_stop(self, exchange: Exchange, task: Task) -> None:
        """Raise `Conflict` when this render cannot be stopped.

        Asked by owners who then want to go on watching it: a gateway with a client of its own.
        """
        if task.deleted or task.is_waiting or task.stage.is_final or self._tracker.can_stop(task):
            return
        exchange.reply_headers["reelway-cancel"] = "will_finish"
        raise Conflict("This render cannot be stopped, so the video was not deleted.")

    # ------------------------------------------------------------ models and usage

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

    async def find(
        self, request: web.BaseRequest, exchange: Exchange, call: Call, admission: Admission
    ) -> tuple[str, Task | None]:
        """The name a client gives, our id or its own alias, and its task or None.

        A task that the client may not see is None.
        """
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

    def view(self, task: Task) -> View:
        """The task as a dialect shows it, with its links."""
        return View(task, *self._links.of(task))


def _check_callback_url(
    request: VideoRequest, fields: Mapping[str, object], allowed: Container[str]
) -> None:
    """Raise `Invalid` for a callback address that could never be called."""
    try:
        check_webhook_target(request.callback_url, allowed)
    except ValueError as fault:
        names = ("webhook", "callback_url")
        name = next((n for n in names if fields.get(n) == request.callback_url), names[1])
        raise Invalid(f"'{name}' {fault}.", param=name) from fault


def _has_ended(task: Task) -> bool:
    return task.status.is_final or task.deleted


def with_block(reply: Reply) -> Reply:
    """The reply with its headers set in lines, ready to be sent."""
    return replace(reply, block=header_block({**reply.headers, **EVERY_REPLY}))
