"""Every way a request can fail, once.

An error says whether the same request may succeed later (`retryable`, `retry_after_s`) and what
a person should do (`message`). Dialects turn it into their own body through `family`: the rows of
their tables of native codes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

# What a request can have too much of, for the count of limits reached: our own, each kind once.
Limit = Literal[
    "requests",  # a minute, of a token or an owner
    "submits",
    "in_flight",
    "budget",
    "streams",
    "connections",
    "body",
    "spool",
    "bodies",  # memory for what is kept of request bodies
    "store",
    "credentials",  # each has as many tasks under way as it may
    "cooling",  # each waits out its provider's rate limit
    "queue",
]

MAX_RETRY_AFTER_S = 120  # openai-python stops retrying above it (its _base_client.py)


class Family(StrEnum):
    """Rows of the native-code table: one per kind of failure a vendor's client tells apart."""

    INVALID = "invalid"
    AUTH = "auth"
    BUDGET = "budget"
    FORBIDDEN = "forbidden"
    UNKNOWN = "unknown"
    RATE = "rate"
    IN_FLIGHT = "in_flight"
    MODERATION = "moderation"
    UNAVAILABLE = "unavailable"


class AuthFault(StrEnum):
    """Why a caller was not let in; Kling and Volcengine number these apart."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    REVOKED = "revoked"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    SIGNATURE = "signature"
    TIMESTAMP = "timestamp"


class ProxyError(Exception):
    """Base of all. `type` is the OpenAI envelope's `type`; `param` the field at fault; `limit`
    the limit of ours that was reached."""

    status = 500
    code = "internal_error"
    type = "server_error"
    family = Family.UNAVAILABLE
    retryable = False

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
        limit: Limit | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code
        self.retry_after_s = retry_after_s
        self.limit = limit

    @property
    def headers(self) -> dict[str, str]:
        """Headers every dialect adds to its body for this error."""
        if self.retry_after_s is None:
            return {}
        seconds = min(max(1, round(self.retry_after_s)), MAX_RETRY_AFTER_S)
        return {"Retry-After": str(seconds)}


class Invalid(ProxyError):
    """400: the request is wrong; the message names what is accepted."""

    status = 400
    code = "invalid_value"
    type = "invalid_request_error"
    family = Family.INVALID


class UnsupportedOperation(Invalid):
    code = "unsupported_operation"


class Moderated(Invalid):
    """400: the provider's content rules refused the prompt or picture."""

    code = "moderation_blocked"
    family = Family.MODERATION


class Unauthenticated(ProxyError):
    status = 401
    code = "invalid_api_key"
    type = "authentication_error"
    family = Family.AUTH

    def __init__(self, message: str, fault: AuthFault) -> None:
        super().__init__(message)
        self.fault = fault
        self.token_id: str | None = None  # the key that was meant, where one of ours was

    @property
    def headers(self) -> dict[str, str]:
        return {"WWW-Authenticate": "Bearer"}


class BudgetExceeded(ProxyError):
    status = 402
    code = "insufficient_quota"
    type = "insufficient_quota"
    family = Family.BUDGET


class Forbidden(ProxyError):
    status = 403
    code = "forbidden"
    type = "permission_error"
    family = Family.FORBIDDEN


class NotFound(ProxyError):
    """404: no such task, or somebody else's: the two look exactly alike."""

    status = 404
    code = "not_found"
    type = "invalid_request_error"
    family = Family.UNKNOWN


class ModelNotFound(NotFound):
    code = "model_not_found"


class EndpointNotFound(NotFound):
    code = "endpoint_not_found"


class NotReady(NotFound):
    """404: the task exists, its video does not yet."""

    code = "video_not_ready"


class MethodNotAllowed(ProxyError):
    status = 405
    code = "method_not_allowed"
    type = "invalid_request_error"
    family = Family.INVALID

    def __init__(self, message: str, allow: tuple[str, ...]) -> None:
        super().__init__(message)
        self.allow = allow

    @property
    def headers(self) -> dict[str, str]:
        return {"Allow": ", ".join(self.allow)}


class BodyTimeout(ProxyError):
    """408: the client stopped sending its body."""

    status = 408
    code = "request_timeout"
    type = "invalid_request_error"
    family = Family.INVALID


class Conflict(ProxyError):
    status = 409
    code = "conflict"
    type = "invalid_request_error"
    family = Family.INVALID

    @property
    def headers(self) -> dict[str, str]:
        # openai SDKs retry a 409; ours is final.
        return {"x-should-retry": "false"}


class Expired(ProxyError):
    """410: the provider dropped the result."""

    status = 410
    code = "video_expired"
    type = "invalid_request_error"
    family = Family.UNKNOWN


class TooLarge(ProxyError):
    status = 413
    code = "request_too_large"
    type = "invalid_request_error"
    family = Family.INVALID


class UnsupportedMediaType(ProxyError):
    status = 415
    code = "unsupported_media_type"
    type = "invalid_request_error"
    family = Family.INVALID


class RangeNotSatisfiable(ProxyError):
    """416: `size` is the whole length of the file."""

    status = 416
    code = "range_not_satisfiable"
    type = "invalid_request_error"
    family = Family.INVALID

    def __init__(self, message: str, size: int) -> None:
        super().__init__(message)
        self.size = size

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Range": f"bytes */{self.size}"}


class Unprocessable(ProxyError):
    """422: an idempotency key used again for another request."""

    status = 422
    code = "idempotency_mismatch"
    type = "invalid_request_error"
    family = Family.INVALID


class RateLimited(ProxyError):
    status = 429
    code = "rate_limit_exceeded"
    type = "rate_limit_error"
    family = Family.RATE
    retryable = True


class TooManyInFlight(RateLimited):
    code = "too_many_in_flight"
    family = Family.IN_FLIGHT


class UpstreamFailed(ProxyError):
    """502: the upstream refused or answered nonsense, and nothing was rendered."""

    status = 502
    code = "upstream_error"
    family = Family.UNAVAILABLE
    retryable = True


class UpstreamUnreachable(UpstreamFailed):
    """502: the upstream heard nothing of it."""

    code = "upstream_unreachable"


class Unavailable(ProxyError):
    """503: we cannot take it now; nothing was submitted."""

    status = 503
    code = "unavailable"
    family = Family.UNAVAILABLE
    retryable = True


# The codes a failed task may carry (TaskError.code), each with what it tells the caller.
# Codes of failed tasks whose client pays nothing although a provider may charge us for a render.
PERHAPS_OWED = frozenset({"submission_unconfirmed", "lost"})

FAILURES: dict[str, str] = {
    "moderation_blocked": "The provider's content rules stopped it.",
    "invalid_input": "The provider could not use the request.",
    "quota_exceeded": "The upstream account has no balance left.",
    "rate_limited": "The upstream account is over its rate.",
    "upstream_error": "The provider failed.",
    "timeout": "The provider did not finish in time.",
    "expired": "The provider dropped the task.",
    "cancelled": "It was cancelled.",
    "not_submitted": "It never reached the provider.",
    "submission_unconfirmed": "The provider's answer to the submit was lost; nothing was charged.",
    "ended_by_operator": "The operator of the gateway ended it; it is not charged.",
    "lost": "The upstream no longer knows this task; it is not charged.",
}


# ---------------------------------------------------------------- upstream requests that failed


class UpstreamTrouble(ProxyError):
    """No whole answer came. The message is for our log, never for a client."""

    status = 502
    code = "upstream_error"
    retryable = True


class NotSent(UpstreamTrouble):
    """The upstream heard nothing: no connection, TLS refused, an address we may not call."""


class NotFetched(NotSent):
    """We do not call it, now or later: not http, not a public address, redirects in a circle."""


class Ambiguous(UpstreamTrouble):
    """The upstream may have heard it all: cut, timed out, or answered what is not HTTP."""
