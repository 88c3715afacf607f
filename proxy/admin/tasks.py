"""/api/tasks: what became of whose task, over all owners, deleted ones too.

Rule: the addresses of results never leave here: whoever has one has the video. Instead there are
signed links of ours, under this port's own origin (see `content`).
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlencode

from annotated_types import Ge, Le
from pydantic import Field, JsonValue

from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import (
    MOST_LISTED,
    Item,
    JsonBody,
    Listing,
    Micro,
    Ms,
    NoBody,
    NoQuery,
    Page,
    Query,
    cursor_of,
    place_of,
)
from proxy.dialects import RegisteredDialect
from proxy.errors import NotFound
from proxy.model import Kind, Operation, Stage, Status, Task
from proxy.signing import sign_link
from proxy.store import Place
from proxy.tasks.lifecycle import BY_OPERATOR, ended_by_operator
from proxy.tasks.links import Links
from proxy.tasks.operator import fail_task


class TaskErrorItem(Item):
    code: str
    message: str
    provider_code: str | None


class TaskItem(Item):
    """One paid render. `seconds` and `size` are as rendered, once that is known; `cost_micro` is
    null until it has ended. A task that is `unconfirmed` was sent, and nobody can say whether it
    arrived; one that is `waiting` is in a queue, and no upstream has heard of it."""

    id: str
    owner: str
    token_id: str
    dialect: RegisteredDialect
    operation: Operation
    kind: Kind
    model: str
    upstream: str | None
    provider: str | None
    credential: str | None
    upstream_model: str | None
    status: Status
    stage: Stage
    progress: int
    prompt: str | None
    seconds: float | None
    size: str | None
    n: int
    created_ms: Ms
    updated_ms: Ms
    completed_ms: Ms | None
    expires_ms: Ms | None
    error: TaskErrorItem | None
    hold_micro: Micro
    cost_micro: Micro | None
    deleted: bool
    unconfirmed: bool
    waiting: bool
    content_url: str | None
    content_urls: list[str]


class LineItem(Item):
    """One line of a task's history: the state after `event`."""

    ms: Ms
    version: int
    stage: Stage
    attempt: int
    event: str


class WholeTaskItem(TaskItem):
    """All that is known of a task. `request` is what the client asked for beside the prompt."""

    version: int
    attempt: int
    route: str | None
    upstream_id: str | None
    external_id: str | None
    source_id: str | None
    adjusted: list[str]
    dropped: list[str]
    webhook: str | None
    request: dict[str, JsonValue]
    timeline: list[LineItem]


class TaskPage(Page):
    """`status` open: queued or in_progress."""

    owner: str | None = None
    token: str | None = None
    status: Status | Literal["open"] | None = None
    model: str | None = None
    upstream: str | None = None


async def list_tasks(
    context: AdminContext, request: AdminRequest[TaskPage, NoBody]
) -> Listing[TaskItem]:
    query = request.query

    def is_wanted(task: Task) -> bool:
        return (
            query.token in (None, task.token_id)
            and query.status in (None, task.status, None if task.stage.is_final else "open")
            and query.model in (None, task.model)
            and query.upstream in (None, task.upstream)
        )

    after = None
    if query.cursor is not None:
        score, member = place_of(query.cursor, int, str)
        after = Place(int(score), str(member))
    tasks, then = await context.store.made.page(query.limit, after, query.owner, is_wanted)
    return Listing[TaskItem](
        data=[TaskItem(**_fields(context, task)) for task in tasks],
        next=None if then is None else cursor_of(then.score, then.member),
    )


class RefusalItem(Item):
    """One refused submit. It is no task: nothing was rendered, and `task_id` is known for minutes.
    `reason` is what it is counted by; `upstream` is null when none was asked."""

    ms: Ms
    reason: str
    code: str
    message: str
    status: int
    owner: str
    token_id: str
    dialect: str
    model: str
    upstream: str | None
    credential: str | None
    task_id: str


class RefusalQuery(Query):
    owner: str | None = None
    limit: Annotated[int, Ge(1), Le(MOST_LISTED)] = 50


async def list_refusals(
    context: AdminContext, request: AdminRequest[RefusalQuery, NoBody]
) -> Listing[RefusalItem]:
    latest = await context.store.refusals.latest(request.query.limit, request.query.owner)
    return Listing[RefusalItem](
        data=[
            RefusalItem(
                **{
                    **asdict(each),
                    "upstream": each.upstream or None,
                    "credential": each.credential or None,
                }
            )
            for each in latest
        ]
    )


async def show(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> WholeTaskItem:
    task = await context.store.tasks.get(request.params["id"])
    if task is None:
        raise NotFound(f"There is no task '{request.params['id'][:80]}'; it may have expired.")
    line = await context.store.tasks.time_line(task.id)
    return WholeTaskItem(
        **_fields(context, task),
        version=task.version,
        attempt=task.attempt,
        route=task.route or None,
        upstream_id=task.upstream_id,
        external_id=task.external_id,
        source_id=task.source_id,
        adjusted=list(task.adjusted),
        dropped=list(task.dropped),
        webhook=task.webhook,
        request=dict(task.request),
        timeline=[
            LineItem(
                ms=entry.ms,
                version=entry.version,
                stage=entry.stage,
                attempt=entry.attempt,
                event=entry.event,
            )
            for entry in line
        ],
    )


class FailBody(JsonBody):
    """`reason` stands in the task's time line."""

    reason: str = Field(default="", max_length=200)


async def fail(context: AdminContext, request: AdminRequest[NoQuery, FailBody]) -> TaskItem:
    """Fail an open task by the operator's word. Its upstream is not asked to stop."""
    task = await fail_task(
        context.store,
        request.params["id"],
        BY_OPERATOR,
        ended_by_operator(request.body.reason),
        context.now_ms(),
        context.config().limits.retention_s,
    )
    context.log.info("task ended by the operator", task_id=task.id)
    return TaskItem(**_fields(context, task))


def content_urls(task: Task, secret: bytes) -> list[str]:
    """One of each result; none of a task that is not completed, or was deleted."""
    if task.stage is not Stage.COMPLETED or task.deleted:
        return []
    exp_s = Links.exp_s(task)
    urls = []
    for index in range(len(task.results)):
        sig = sign_link(secret, task.id, "video", index, exp_s)
        query = urlencode({"variant": "video", "index": index, "exp": exp_s, "sig": sig})
        urls.append(f"/api/tasks/{task.id}/content?{query}")
    return urls


def _fields(context: AdminContext, task: Task) -> dict[str, Any]:
    error, urls = task.error, content_urls(task, context.secret)
    return {
        "id": task.id,
        "owner": task.owner,
        "token_id": task.token_id,
        "dialect": task.dialect,
        "operation": task.operation,
        "kind": task.kind,
        "model": task.model,
        "upstream": task.upstream or None,
        "provider": task.provider or None,
        "credential": task.credential or None,
        "upstream_model": task.upstream_model or None,
        "status": task.status,
        "stage": task.stage,
        "progress": task.progress,
        "prompt": task.prompt,
        "seconds": task.seconds,
        "size": None if task.size is None else f"{task.size[0]}x{task.size[1]}",
        "n": task.n,
        "created_ms": task.created_ms,
        "updated_ms": task.updated_ms,
        "completed_ms": task.completed_ms,
        "expires_ms": task.expires_ms,
        "error": error
        and TaskErrorItem(
            code=error.code, message=error.message, provider_code=error.provider_code
        ),
        "hold_micro": task.hold_micro,
        "cost_micro": task.settled_micro,
        "deleted": task.deleted,
        "unconfirmed": task.unconfirmed,
        "waiting": task.is_waiting,
        "content_url": urls[0] if urls else None,
        "content_urls": urls,
    }


ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action(
        "GET",
        "/api/tasks",
        "List tasks of all owners, newest first",
        list_tasks,
        Listing[TaskItem],
        query=TaskPage,
    ),
    Action(
        "GET",
        "/api/refusals",
        "List refused submits of all owners, newest first",
        list_refusals,
        Listing[RefusalItem],
        query=RefusalQuery,
    ),
    Action(
        "GET",
        "/api/tasks/{id}",
        "Retrieve a task and its timeline",
        show,
        WholeTaskItem,
    ),
    Action(
        "POST",
        "/api/tasks/{id}/fail",
        "End an open task as failed, with a refund",
        fail,
        TaskItem,
        body=FailBody,
        refusals=(409,),
    ),
)
