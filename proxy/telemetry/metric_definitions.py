"""Every metric there is: its name, what it says, and the labels it may have.

docs/metrics.md has the same table, and a test that it is. The page as a whole is made in
`metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from proxy.config import Config
from proxy.errors import Limit
from proxy.model import Loss, Stage

NONE: Final = "-"  # in place of a name: there is none

_REQUEST_S: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
    *(30.0, 60.0),
)
_ADDED_S: Final = (
    *(0.00025, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0),
)
_LATE_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_STORE_S: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_POLL_LAG_S: Final = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0)

OUTCOMES: Final = (
    *("accepted", "refused", "unreachable", "unknown"),
    *("busy", "cooling", "out", "broken"),
)

Labels = tuple[str, ...]
Kind = Literal["counter", "gauge", "histogram"]
Across = Literal["sum", "max", "min"]


@dataclass(frozen=True, slots=True)
class MetricDefinition:
    """One family. A counter's `name` is without the `_total` its series end in. `bounds` are a
    histogram's upper limits. `across` is what the workers of one gateway are together: `sum`
    where each has its own, `max` or `min` where all look at the same thing. `known` are the
    labels whose series are there from the start, at 0: `increase` sees no first event of a
    series that begins with it, and that is the one an alert is about."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    across: Across = "sum"
    known: Callable[[Config], Iterable[Labels]] = lambda _config: ()


def _itself(_config: Config) -> Iterable[Labels]:
    """Of a family without labels."""
    return ((),)


def _each(*words: str) -> Callable[[Config], Iterable[Labels]]:
    return lambda _config: ((word,) for word in words)


def _upstreams(config: Config) -> Iterable[Labels]:
    return ((upstream,) for upstream in config.upstreams)


def _losses(config: Config) -> Iterable[Labels]:
    return ((upstream, how) for upstream in config.upstreams for how in get_args(Loss))


def _submits(config: Config) -> Iterable[Labels]:
    for upstream in config.upstreams.values():
        for credential in upstream.credentials:
            yield from ((upstream.name, credential.name, word) for word in OUTCOMES)


def _money(config: Config) -> Iterable[Labels]:
    currency = config.billing.currency
    yield "hold", NONE, currency
    for kind in ("settle", "refund", "loss"):
        yield from ((kind, upstream, currency) for upstream in config.upstreams)


REQUESTS: Final = MetricDefinition(
    "reelway_requests",
    "counter",
    "Requests of clients, by outcome; the reason is done, an error code, or why a body ended.",
    ("dialect", "operation", "status", "reason"),
)
SECONDS: Final = MetricDefinition(
    "reelway_request_seconds",
    "histogram",
    "From the head of a request to its last byte.",
    ("dialect", "operation"),
    _REQUEST_S,
)
ADDED: Final = MetricDefinition(
    "reelway_added_seconds",
    "histogram",
    "What the gateway itself added to a request, up to the first byte of its reply: without the "
    "waiting for the upstream, for the client's body, and for a change the client waits for.",
    ("dialect", "operation"),
    _ADDED_S,
)
CONNECTIONS: Final = MetricDefinition(
    "reelway_connections", "gauge", "Connections of clients open now."
)
LIMITED: Final = MetricDefinition(
    "reelway_limited",
    "counter",
    "Requests refused because a limit was reached, by the kind of limit.",
    ("limit",),
    known=_each(*get_args(Limit)),
)
STREAMS: Final = MetricDefinition(
    "reelway_streams_open", "gauge", "Downloads and event streams open now."
)
CONTENT_BYTES: Final = MetricDefinition(
    "reelway_content_bytes",
    "counter",
    "Bytes of videos sent to clients, as they go, by how they were moved.",
    ("tier",),
    known=_each("splice", "pipe", "copy"),
)
HEALS: Final = MetricDefinition(
    "reelway_heals",
    "counter",
    "Bodies whose upstream broke off: taken up again where they were (healed), or given up.",
    ("outcome",),
    known=_each("healed", "gave_up"),
)
SUBMITS: Final = MetricDefinition(
    "reelway_submits",
    "counter",
    "Attempts to submit: accepted, refused, unreachable, unknown (nobody can say whether it "
    "arrived); or not made because the credential is busy, cooling, out, or its upstream broken.",
    ("upstream", "credential", "outcome"),
    known=_submits,
)
REFUSED: Final = MetricDefinition(
    "reelway_refused",
    "counter",
    "Submits whose client was told no although the request was in order here, by reason: a limit "
    "that was reached, what kept every credential from it, or the code of the upstream's refusal.",
    ("reason",),
    known=_each("busy", "cooling", "out", "broken", "queue", "budget", "in_flight"),
)
UPSTREAM_SECONDS: Final = MetricDefinition(
    "reelway_upstream_seconds",
    "histogram",
    "Until an upstream has answered, by call: submit and query to the end of the answer, content "
    "to its head.",
    ("upstream", "call"),
    _REQUEST_S,
)
UPSTREAM_FAILURES: Final = MetricDefinition(
    "reelway_upstream_failures",
    "counter",
    "Calls of an upstream without a whole answer: it heard nothing (not_sent), or nobody knows "
    "(ambiguous).",
    ("upstream", "call", "kind"),
)
UNKNOWN_STATES: Final = MetricDefinition(
    "reelway_unknown_states",
    "counter",
    "Answers to polls with a state no table has, shown as in_progress.",
    ("upstream",),
    known=_upstreams,
)
TASKS_LOST: Final = MetricDefinition(
    "reelway_tasks_lost",
    "counter",
    "Tasks that failed, refunded, because their upstream says for too long that it does not know "
    "them (forgotten), or nothing of them at all (silent).",
    ("upstream", "how"),
    known=_losses,
)
STANDING: Final = MetricDefinition(
    "reelway_standing",
    "gauge",
    "1 for the mood a credential is in (well, cooling, out), 0 for the others; credential - is "
    "the upstream itself and its circuit breaker (well, broken).",
    ("upstream", "credential", "mood"),
    across="max",
)
PLACES: Final = MetricDefinition(
    "reelway_credential_in_flight",
    "gauge",
    "Tasks under way with a credential that has max_in_flight.",
    ("upstream", "credential"),
    across="max",
)
QUEUED: Final = MetricDefinition(
    "reelway_queue_length",
    "gauge",
    "Tasks that wait for a place at an upstream.",
    ("upstream",),
    across="max",
)
STAGES: Final = MetricDefinition(
    "reelway_task_stages",
    "counter",
    "Tasks that came to a stage of their life.",
    ("stage",),
    known=_each(*Stage),
)
TASKS_OPEN: Final = MetricDefinition(
    "reelway_tasks_open", "gauge", "Tasks that have not ended, in the whole store.", across="max"
)
OLDEST: Final = MetricDefinition(
    "reelway_task_oldest_seconds",
    "gauge",
    "Age of the oldest open task that was looked at; 0 without any.",
    across="max",
)
POLL_LAG: Final = MetricDefinition(
    "reelway_poll_lag_seconds",
    "histogram",
    "How long after its due time a task was looked at.",
    bounds=_POLL_LAG_S,
    known=_itself,
)
MONEY: Final = MetricDefinition(
    "reelway_money",
    "counter",
    "Money moved, in whole units of the currency: hold when a task is reserved; at its end "
    "settle what it cost, refund the rest; loss is what nobody can say whether we owe.",
    ("kind", "upstream", "currency"),
    known=_money,
)
WEBHOOKS: Final = MetricDefinition(
    "reelway_webhooks",
    "counter",
    "Attempts to tell a client's webhook: delivered, failed (it is tried again), or dead.",
    ("outcome",),
    known=_each("delivered", "failed", "dead"),
)
STORE_SECONDS: Final = MetricDefinition(
    "reelway_store_seconds",
    "histogram",
    "Round trips to the store, answered or not.",
    bounds=_STORE_S,
    known=_itself,
)
STORE_FAILURES: Final = MetricDefinition(
    "reelway_store_failures",
    "counter",
    "Round trips to the store that got no answer.",
    known=_itself,
)
STORE_UP: Final = MetricDefinition(
    "reelway_store_up",
    "gauge",
    "1 while the store answers; what is read from it is missing while it does not.",
    across="min",
)
STORE_FULL: Final = MetricDefinition(
    "reelway_store_full_ratio",
    "gauge",
    "How much of its memory limit the store uses, 0 to 1; 0 without a limit.",
    across="max",
)
LOOP_LAG: Final = MetricDefinition(
    "reelway_loop_lag_seconds",
    "histogram",
    "How late the event loop woke a job that slept for half a second.",
    bounds=_LATE_S,
    known=_itself,
)
RELOAD_FAILED: Final = MetricDefinition(
    "reelway_config_reload_failed",
    "gauge",
    "1 while the latest attempt to read the configuration again has failed and the one before it "
    "stays in force.",
    across="max",
)
WORKER_DEATHS: Final = MetricDefinition(
    "reelway_worker_deaths",
    "counter",
    "Workers that died, and those in their place that did not come to serve.",
    known=_itself,
)
STORE_RESTARTS: Final = MetricDefinition(
    "reelway_store_restarts",
    "counter",
    "Times the embedded store had died and was started again.",
    known=_itself,
)
BUILD: Final = MetricDefinition(
    "reelway_build_info",
    "gauge",
    "Always 1; the label says which version runs.",
    ("version",),
    across="max",
)

DEFINITIONS: Final = (
    REQUESTS,
    SECONDS,
    ADDED,
    CONNECTIONS,
    LIMITED,
    STREAMS,
    CONTENT_BYTES,
    HEALS,
    SUBMITS,
    REFUSED,
    UPSTREAM_SECONDS,
    UPSTREAM_FAILURES,
    UNKNOWN_STATES,
    TASKS_LOST,
    STANDING,
    PLACES,
    QUEUED,
    STAGES,
    TASKS_OPEN,
    OLDEST,
    POLL_LAG,
    MONEY,
    WEBHOOKS,
    STORE_SECONDS,
    STORE_FAILURES,
    STORE_UP,
    STORE_FULL,
    LOOP_LAG,
    RELOAD_FAILED,
    WORKER_DEATHS,
    STORE_RESTARTS,
    BUILD,
)
