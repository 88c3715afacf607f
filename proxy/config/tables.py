"""The tables of config.toml: every key with its unit, its default and what it accepts.

A new setting is one line here and its words in config.toml. A new section is one table and one
line in `Sections`. Upstreams and routes are only read here; `config` makes `model.Upstream` and
`model.Route` of them.

Rule: a table checks what it can see by itself; what takes two tables is checked in `checks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field

from proxy.config.values import (
    Body,
    BodyField,
    Count,
    CountOrZero,
    Currency,
    DefaultModels,
    FieldGlob,
    Flag,
    HeaderName,
    HostPort,
    Listen,
    ModelName,
    Name,
    Network,
    NotEmpty,
    OneOrMore,
    QueueLength,
    RedisUrl,
    Seconds,
    Secret,
    Share,
    Text,
    Unset,
    UpstreamHeaders,
    UpstreamPaths,
    Url,
    WebOrigin,
    all_dialects,
)

MIB: Final = 1024 * 1024
DAY_S: Final = 86400

# How many times its bytes a body holds of a worker's memory while it is parsed: as it came, as
# text, and as the picture inside it.
BODY_WEIGHT: Final = 3

# What a route's price may be given by: an amount, or a table of amounts by case.
PRICES: Final = ("per_second", "per_video")


class Table(BaseModel):
    """A TOML table: nothing in it goes unread, nothing changes after it was read."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


# ---------------------------------------------------------------- sections


class ServerTable(Table):
    listen: Listen = "127.0.0.1:8080"
    public_url: Annotated[Url | None, Unset] = None
    state_dir: Path = Path(".reelway")
    secrets: tuple[Secret, ...] = Field(default=(), repr=False)
    workers: Count = 1
    trusted_proxies: tuple[Network, ...] = ()


class AdminTable(Table):
    listen: Listen = "127.0.0.1:9080"
    token: Annotated[Text | None, Unset] = Field(default=None, repr=False)
    origins: tuple[WebOrigin, ...] = ()


class RedisTable(Table):
    url: RedisUrl = Field(default="embedded", repr=False)
    durability: Literal["local", "replica", "fsync"] = "local"
    timeout_s: Seconds = 0.5
    embedded_memory: Annotated[int, Field(ge=64 * MIB)] = 1024 * MIB


class TimeoutsTable(Table):
    head_s: Seconds = 10.0
    body_idle_s: Seconds = 30.0
    keepalive_s: Seconds = 75.0
    idle_client_s: Seconds = 60.0
    min_rate_window_s: Seconds = 30.0
    connect_s: Seconds = 10.0
    submit_s: Seconds = 60.0
    poll_s: Seconds = 20.0
    idle_upstream_s: Seconds = 60.0
    heal_s: Seconds = 60.0
    lease_s: Seconds = 30.0
    confirm_s: Seconds = 600.0
    poll_first_s: Seconds = 2.0
    poll_interval_s: Seconds = 5.0
    poll_max_s: Seconds = 30.0
    task_max_age_s: Seconds = float(DAY_S)
    forgotten_after_s: Seconds = 300.0
    lost_after_s: Seconds = 3600.0
    redis_grace_s: Seconds = 60.0
    drain_s: Seconds = 30.0


class LimitsTable(Table):
    json_bytes: Count = 48 * MIB
    upload_bytes: Count = 32 * MIB
    spool_bytes: Count = 512 * MIB
    form_text_bytes: Count = 28 * MIB
    body_bytes: Count = 512 * MIB
    form_parts: Count = 64
    connections: Count = 10_000
    streams_per_token: Count = 64
    streams_per_address: Count = 128
    heal_attempts: CountOrZero = 5
    min_body_bytes_s: CountOrZero = 1024
    min_rate_bytes_s: CountOrZero = 0
    send_lowat_bytes: Count = 512 * 1024
    upstream_rcvbuf_bytes: Count = 512 * 1024
    relay_tiers: tuple[Literal["splice", "pipe", "copy"], ...] = ("splice", "pipe", "copy")
    retention_s: Count = 30 * DAY_S


class BillingTable(Table):
    currency: Currency = "USD"


class CorsTable(Table):
    origins: tuple[WebOrigin, ...] = ()
    allow_credentials: Flag = False
    allow_headers: tuple[HeaderName, ...] = ("*",)
    expose_headers: tuple[HeaderName, ...] = (
        "accept-ranges",
        "content-disposition",
        "content-range",
        "etag",
        "idempotent-replayed",
        "openai-poll-after-ms",
        "reelway-adjusted",
        "reelway-cancel",
        "reelway-dropped",
        "retry-after",
        "server-timing",
        "x-ratelimit-limit-requests",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-reset-requests",
        "x-request-id",
        "x-should-retry",
    )
    max_age_s: CountOrZero = 600


class LogsTable(Table):
    level: Literal["info", "warning", "error"] = "info"
    prompts: Flag = False


class TracingTable(Table):
    endpoint: Annotated[Url | None, Unset] = None
    service_name: Text = "reelway"
    sample: Share = 1.0


class MediaTable(Table):
    allow: tuple[HostPort, ...] = ()
    fetch_s: Seconds = 15.0
    at_once: Count = 8


class WebhooksTable(Table):
    allow: tuple[HostPort, ...] = ()
    first_pause_s: Seconds = 5.0


class DefaultsTable(Table):
    """`model` has every dialect; "" where there is no route to fall back on."""

    model: DefaultModels = Field(default_factory=lambda: all_dialects({}))


@dataclass(frozen=True, slots=True)
class Sections:
    """Every `[section]` of the file, by its name; `Config` adds what is written `[[name]]`."""

    server: ServerTable
    admin: AdminTable
    redis: RedisTable
    timeouts: TimeoutsTable
    limits: LimitsTable
    billing: BillingTable
    cors: CorsTable
    logs: LogsTable
    tracing: TracingTable
    media: MediaTable
    webhooks: WebhooksTable
    defaults: DefaultsTable


SECTIONS: Final[dict[str, type[Table]]] = get_type_hints(Sections)


# ---------------------------------------------------------------- upstreams and routes


KEYS: Final = ("api_key", "access_key", "secret_key")


class CredentialTable(Table):
    name: Name
    api_key: str | None = Field(default=None, repr=False)  # "": none is asked for
    access_key: Text | None = Field(default=None, repr=False)
    secret_key: Text | None = Field(default=None, repr=False)
    weight: CountOrZero = 1
    max_in_flight: Count | None = None
    retired: Flag = False


class UpstreamTable(Table):
    name: Name
    provider: str
    base_url: Url
    credentials: Annotated[tuple[CredentialTable, ...], NotEmpty]
    paths: UpstreamPaths = {}
    headers: UpstreamHeaders = {}
    result_hosts: tuple[HostPort, ...] = ()
    options: dict[str, object] = {}


class ShareTable(Table):
    """An upstream's share of a route."""

    name: str
    weight: CountOrZero = 1


class RouteTable(Table):
    model: ModelName
    upstream: Annotated[tuple[ShareTable, ...], OneOrMore, NotEmpty]
    upstream_model: ModelName | None = None
    defaults: Body = {}
    overrides: Body = {}
    remove: tuple[BodyField, ...] = ()
    fit: Literal["up", "exact"] = "up"
    price: dict[str, object] = {}
    max_age_s: Seconds | None = None
    queue: QueueLength = 0
    passes: tuple[FieldGlob, ...] = Field(default=(), alias="pass")
