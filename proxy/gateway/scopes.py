"""What a token that is good may do: whose tasks it sees, through which doors, from where.

Rule: a token that has ended still reads what was paid for while it was good; a revoked or
disabled one, which is never let in at all, does not.
"""

from __future__ import annotations

from typing import Final

from proxy.errors import AuthFault, Forbidden, Unauthenticated
from proxy.http.addresses import is_within
from proxy.model import Call, Operation, Principal

# What an expired token is still good for.
READING: Final = frozenset(
    {Operation.GET, Operation.LIST, Operation.CONTENT, Operation.EVENTS, Operation.USAGE}
)


def check_end(principal: Principal, operation: Operation, now_ms: int) -> None:
    """`Unauthenticated` when the token has expired, and this is more than reading."""
    if principal.expires_ms is None or principal.expires_ms > now_ms or operation in READING:
        return
    refusal = Unauthenticated(
        "This API key has expired; it still reads what it has made, and makes nothing more.",
        AuthFault.EXPIRED,
    )
    refusal.token_id = principal.token_id
    raise refusal


def check_scope(principal: Principal, call: Call, peer: str) -> None:
    """`Forbidden` when the token is not meant for this. `peer` is the client's address."""
    if principal.dialects and call.dialect not in principal.dialects:
        raise Forbidden(
            f"This API key is not for the {call.dialect} endpoints; it is for: "
            f"{', '.join(principal.dialects)}.",
            code="dialect_not_allowed",
        )
    if principal.operations and call.operation not in principal.operations:
        raise Forbidden(
            f"This API key may not {call.operation.value}; it may: "
            f"{', '.join(principal.operations)}.",
            code="operation_not_allowed",
        )
    if principal.addresses and not is_within(peer, principal.addresses):
        raise Forbidden(
            f"This API key may not be used from the address '{peer}'.",
            code="address_not_allowed",
        )


def most_body_bytes(principal: Principal) -> int | None:
    """The largest body it may send; None: whatever this gateway reads."""
    own, owners = principal.limits.max_body_bytes, principal.owner_limits.max_body_bytes
    if own is None or owners is None:
        return owners if own is None else own
    return min(own, owners)
