"""Which rates a request counts against, and what its client is told of them."""

from __future__ import annotations

from proxy.model import Call, Principal
from proxy.store import Admitted, Rate
from proxy.store.keys import holders


def rates_of(principal: Principal, call: Call) -> list[Rate]:
    """The rates a request counts against: every request, and every submit on top."""
    if not (principal.limits.has_rates or principal.owner_limits.has_rates):
        return []
    token, owner, _ = holders(principal.token_id, principal.owner, "")
    rates = []
    is_submit = call.operation.is_submit and call.query.get("dry_run") != "1"
    for who, limits in ((token, principal.limits), (owner, principal.owner_limits)):
        if limits.requests_per_minute is not None:
            rates.append(Rate(who, "requests", limits.requests_per_minute))
        if limits.submits_per_minute is not None and is_submit:
            rates.append(Rate(who, "submits", limits.submits_per_minute))
    return rates


def told_of(admitted: Admitted) -> dict[str, str]:
    """The rate with the least left, in the headers OpenAI's clients read."""
    rate = admitted.tightest
    if rate is None:
        return {}
    return {
        "x-ratelimit-limit-requests": str(rate.per_minute),
        "x-ratelimit-remaining-requests": str(admitted.remaining),
        "x-ratelimit-reset-requests": f"{round(admitted.reset_s, 2):g}s",
    }
