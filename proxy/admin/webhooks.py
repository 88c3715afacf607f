"""/api/webhooks: what clients were told, what they would not hear, and telling it again."""

from __future__ import annotations

from typing import Any, Final, Literal

from proxy.admin.context import Action, AdminContext, AdminRequest
from proxy.admin.schemas import Item, Listing, Ms, NoBody, NoQuery, Page, cursor_of, place_of
from proxy.store import Place
from proxy.store.notice import Webhook
from proxy.tasks.webhooks import event_id_of, name_of, replay

HookState = Literal["pending", "delivered", "dead"]


class AttemptItem(Item):
    ms: Ms
    result: str


class HookItem(Item):
    """One webhook; `event_id` is what its receiver knows it by."""

    id: str
    event_id: str
    event: str
    task_id: str
    token_id: str
    url: str
    state: HookState
    attempts: int
    created_ms: Ms
    log: list[AttemptItem]


class HookPage(Page):
    state: HookState | None = None


async def list_hooks(
    context: AdminContext, request: AdminRequest[HookPage, NoBody]
) -> Listing[HookItem]:
    after = None
    if request.query.cursor is not None:
        waits, score, member = place_of(request.query.cursor, bool, int, str)
        after = (bool(waits), Place(int(score), str(member)))
    hooks, then = await context.store.webhooks.page(request.query.limit, request.query.state, after)
    return Listing[HookItem](
        data=[_item(hook) for hook in hooks],
        next=None if then is None else cursor_of(then[0], then[1].score, then[1].member),
    )


async def again(context: AdminContext, request: AdminRequest[NoQuery, NoBody]) -> HookItem:
    return _item(await replay(context.store, name_of(request.params["id"]), context.now_ms()))


def _item(hook: Webhook) -> HookItem:
    return HookItem(
        id=hook.name,
        event_id=event_id_of(hook),
        event=f"video.{hook.status.value}",
        task_id=hook.task_id,
        token_id=hook.token_id,
        url=hook.url,
        state=hook.state,
        attempts=hook.attempts,
        created_ms=hook.created_ms,
        log=[AttemptItem(ms=ms, result=what) for ms, what in hook.log],
    )


ACTIONS: Final[tuple[Action[Any, Any], ...]] = (
    Action(
        "GET",
        "/api/webhooks",
        "List webhooks: pending ones, soonest first, then ended ones, latest first",
        list_hooks,
        Listing[HookItem],
        query=HookPage,
    ),
    Action(
        "POST",
        "/api/webhooks/{id}/replay",
        "Send a webhook again, by its id or its event's id",
        again,
        HookItem,
        refusals=(409,),
    ),
)
