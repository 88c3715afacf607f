"""What has been spent, is held and is left, as documents: for `GET /v1/usage`, a quote, and the
commands."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.model import NO_LIMITS, Json, Limits, Principal, Task
from proxy.store import BudgetUse, Store
from proxy.store.keys import holders
from proxy.tasks.pricing import money


def account_of(limits: Limits, use: BudgetUse) -> dict[str, Json]:
    """Amounts are decimals; `budget` and `left` are null where there is no limit. A day and a
    month are UTC's, and money belongs to those in which it was submitted."""
    budgets: Mapping[str, int | None] = {
        "total": limits.budget_micro,
        "day": limits.budget_day_micro,
        "month": limits.budget_month_micro,
    }
    periods = {"total": use.total, "day": use.day, "month": use.month}
    left: dict[str, Json] = {}
    for name, budget in budgets.items():
        taken = periods[name].held_micro + periods[name].spent_micro
        left[name] = None if budget is None else money(max(0, budget - taken))
    return {
        "spent": {name: money(period.spent_micro) for name, period in periods.items()},
        "held": {name: money(period.held_micro) for name, period in periods.items()},
        "budget": {name: None if b is None else money(b) for name, b in budgets.items()},
        "left": left,
        "tasks_in_flight": use.in_flight,
        "max_in_flight": limits.max_in_flight,
    }


async def limits_of(store: Store, principal: Principal, now_ms: int) -> dict[str, Json]:
    """`token`'s account, and `owner`'s when that has limits of its own."""
    token, owner, _ = holders(principal.token_id, principal.owner, "")
    ledger = store.ledger
    found: dict[str, Json] = {
        "token": account_of(
            principal.limits, await ledger.budget_use(principal.owner, token, now_ms)
        )
    }
    if principal.owner_limits != NO_LIMITS:
        found["owner"] = account_of(
            principal.owner_limits, await ledger.budget_use(principal.owner, owner, now_ms)
        )
    return found


async def usage(store: Store, principal: Principal, currency: str, now_ms: int) -> dict[str, Json]:
    """The body of `GET /v1/usage`: the token's account, and its owner's beside it."""
    found = await limits_of(store, principal, now_ms)
    own = found["token"]
    assert isinstance(own, dict)
    document: dict[str, Json] = {
        "object": "usage",
        "token": principal.token_id,
        "currency": currency,
        **own,
        "requests_per_minute": principal.limits.requests_per_minute,
        "submits_per_minute": principal.limits.submits_per_minute,
        "max_streams": principal.limits.max_streams,
    }
    if "owner" in found:
        document["owner"] = found["owner"]
    return document


async def quote(
    store: Store, principal: Principal, task: Task, currency: str, now_ms: int
) -> dict[str, Json]:
    """What a submit would cost and be, of the task it would have made."""
    return {
        "object": "video.quote",
        "model": task.model,
        "price": money(task.hold_micro),
        "currency": currency,
        "route": task.route,
        "seconds": task.seconds,
        "size": None if task.size is None else f"{task.size[0]}x{task.size[1]}",
        "n": task.n,
        "adjusted": list(task.adjusted),
        "dropped": list(task.dropped),
        "limits": await limits_of(store, principal, now_ms),
    }
