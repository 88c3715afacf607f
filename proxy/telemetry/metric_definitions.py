"""The definitions of all metrics: name, kind, help text and labels.

docs/metrics.md has the same table; a test holds the two equal. `metrics` counts and makes the page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from proxy.config import Config
from proxy.errors import Limit
from proxy.model import Loss, Stage

NONE: Final = "-"  # the label of a missing name

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
    """One metric family.

    A counter's `name` leaves out the `_total` that its series end in. `bounds` are a histogram's
    upper limits. `across` joins the values of several workers: `sum` where each counts its own,
    `max` or `min` where all read the same store. `known` gives the labels of series that exist
    from the start, at 0: Prometheus' `increase` misses the event that creates a series, which is
    the one alerts need."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    across: Across = "sum"
    known: Callable[[Config], Iterable[Labels]] = lambda _config: ()


def _itself(_config: Config) -> Iterable[Labels]:
    """The one series of a metric without labels."""
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
    "Client requests by outcome; the reason is done, an error code, or why a body ended.",
    ("dialect", "operation", "status", "reason"),
)
SECONDS: Final = MetricDefinition(
    "reelway_request_seconds",
    "histogram",
    "Time from the head of a client request to the last byte of its reply.",
    ("dialect", "operation"),
    _REQUEST_S,
)
ADDED_LATENCY: Final = MetricDefinition(
    "reelway_added_latency_seconds",
    "histogram",
    "Time that the gateway itself added to a request, up to the first byte of the reply: without "
    "waiting for the upstream, for the client's body, or for a change that the client waits for.",
    ("dialect", "operation"),
    _ADDED_S,
)
CONNECTIONS: Final = MetricDefinition("reelway_connections", "gauge", "Open client connections.")
LIMIT_REACHED: Final = MetricDefinition(
    "reelway_limit_reached",
    "counter",
    "Client requests refused because a limit was reached, by limit.",
    ("limit",),
    known=_each(*get_args(Limit)),
)
STREAMS: Final = MetricDefinition(
    "reelway_streams_open", "gauge", "Open downloads and event streams."
)
CONTENT_BYTES: Final = MetricDefinition(
    "reelway_content_bytes",
    "counter",
    "Video bytes sent to clients, counted as they go, by the way they were moved (tier).",
    ("tier",),
    known=_each("splice", "pipe", "copy"),
)
HEALS: Final = MetricDefinition(
    "reelway_heals",
    "counter",
    "Downloads that the upstream cut: resumed at the same byte (healed), or cut for the client "
    "too (gave_up).",
    ("outcome",),
    known=_each("healed", "gave_up"),
)
SUBMITS: Final = MetricDefinition(
    "reelway_submits",
    "counter",
    "Attempts to submit a task: accepted, refused, unreachable, unknown (it may have arrived); "
    "or not made because the credential was busy (max_in_flight), cooling (rate limit), out (key "
    "or balance refused), or its upstream broken (circuit breaker open).",
    ("upstream", "credential", "outcome"),
    known=_submits,
)
SUBMITS_REFUSED: Final = MetricDefinition(
    "reelway_submits_refused",
    "counter",
    "Valid submits that were refused, by reason: a limit of ours, the state of every credential "
    "(busy, cooling, out, broken), or the error code of the upstream's refusal.",
    ("reason",),
    known=_each("busy", "cooling", "out", "broken", "queue", "budget", "in_flight"),
)
UPSTREAM_SECONDS: Final = MetricDefinition(
    "reelway_upstream_seconds",
    "histogram",
    "Time of a call to an upstream: submit and query up to the end of the answer, content up to "
    "its head.",
    ("upstream", "call"),
    _REQUEST_S,
)
UPSTREAM_FAILURES: Final = MetricDefinition(
    "reelway_upstream_failures",
    "counter",
    "Calls to an upstream without a complete answer: the request was not sent (not_sent), or it "
    "may have arrived (ambiguous).",
    ("upstream", "call", "kind"),
)
UNKNOWN_STATES: Final = MetricDefinition(
    "reelway_unknown_states",
    "counter",
    "Poll answers with a state that no adapter knows; the task is shown as in_progress.",
    ("upstream",),
    known=_upstreams,
)
TASKS_LOST: Final = MetricDefinition(
    "reelway_tasks_lost",
    "counter",
    "Tasks that failed and were refunded because the upstream did not know them any more "
    "(forgotten) or did not answer (silent) for too long.",
    ("upstream", "how"),
    known=_losses,
)
CREDENTIAL_STATE: Final = MetricDefinition(
    "reelway_credential_state",
    "gauge",
    "1 for the state a credential is in, 0 for the others: ok, cooling (waits out its provider's "
    "rate limit), out (its provider refuses the key or the balance).",
    ("upstream", "credential", "state"),
    across="max",
)
BREAKER_OPEN: Final = MetricDefinition(
    "reelway_circuit_breaker_open",
    "gauge",
    "1 while an upstream's circuit breaker is open because the upstream fails or cannot be "
    "reached, else 0.",
    ("upstream",),
    across="max",
)
CREDENTIAL_IN_FLIGHT: Final = MetricDefinition(
    "reelway_credential_in_flight",
    "gauge",
    "Tasks in flight with a credential that has max_in_flight.",
    ("upstream", "credential"),
    across="max",
)
QUEUED: Final = MetricDefinition(
    "reelway_queue_length",
    "gauge",
    "Tasks in the queue of an upstream, waiting for a free credential.",
    ("upstream",),
    across="max",
)
STAGES: Final = MetricDefinition(
    "reelway_task_stages",
    "counter",
    "Tasks that reached a stage.",
    ("stage",),
    known=_each(*Stage),
)
TASKS_OPEN: Final = MetricDefinition(
    "reelway_tasks_open", "gauge", "Open tasks in the store.", across="max"
)
OLDEST_TASK_AGE: Final = MetricDefinition(
    "reelway_oldest_task_age_seconds",
    "gauge",
    "Age of the oldest open task that has been polled; 0 without one.",
    across="max",
)
POLL_LAG: Final = MetricDefinition(
    "reelway_poll_lag_seconds",
    "histogram",
    "Delay between the time a poll was due and the time it began.",
    bounds=_POLL_LAG_S,
    known=_itself,
)
MONEY: Final = MetricDefinition(
    "reelway_money",
    "counter",
    "Money moved, in whole units of the currency: hold when a task is created; settle (its cost) "
    "and refund (the rest) when it ends; loss: refunded, but the provider may charge it.",
    ("kind", "upstream", "currency"),
    known=_money,
)
WEBHOOKS: Final = MetricDefinition(
    "reelway_webhooks",
    "counter",
    "Webhook attempts: delivered, failed (tried again later), or dead (given up).",
    ("outcome",),
    known=_each("delivered", "failed", "dead"),
)
STORE_SECONDS: Final = MetricDefinition(
    "reelway_store_seconds",
    "histogram",
    "Time of a round trip to the store, answered or not.",
    bounds=_STORE_S,
    known=_itself,
)
STORE_FAILURES: Final = MetricDefinition(
    "reelway_store_failures",
    "counter",
    "Round trips to the store without an answer.",
    known=_itself,
)
STORE_UP: Final = MetricDefinition(
    "reelway_store_up",
    "gauge",
    "1 while the store answers, else 0; the metrics read from it are then missing.",
    across="min",
)
STORE_FULL: Final = MetricDefinition(
    "reelway_store_full_ratio",
    "gauge",
    "Share of its memory limit that the store uses, 0 to 1; 0 without a limit.",
    across="max",
)
LOOP_LAG: Final = MetricDefinition(
    "reelway_loop_lag_seconds",
    "histogram",
    "Delay of the event loop in waking a job that slept for half a second.",
    bounds=_LATE_S,
    known=_itself,
)
RELOAD_FAILED: Final = MetricDefinition(
    "reelway_config_reload_failed",
    "gauge",
    "1 while the latest reload of the configuration has failed and the one before it is in force, "
    "else 0.",
    across="max",
)
WORKER_DEATHS: Final = MetricDefinition(
    "reelway_worker_deaths",
    "counter",
    "Workers that died, and replacements that did not become ready.",
    known=_itself,
)
STORE_RESTARTS: Final = MetricDefinition(
    "reelway_store_restarts",
    "counter",
    "Restarts of the embedded store after it died.",
    known=_itself,
)
BUILD: Final = MetricDefinition(
    "reelway_build_info",
    "gauge",
    "Always 1; the label is the version that runs.",
    ("version",),
    across="max",
)

DEFINITIONS: Final = tuple(
    value for value in list(globals().values()) if isinstance(value, MetricDefinition)
)
