"""CORS decisions: who may read our replies from a browser (Fetch standard, "CORS protocol")."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from multidict import CIMultiDict

from proxy.config.tables import CorsTable
from proxy.http import cors

APP = "https://app.example"
METHODS = "GET, HEAD, POST, DELETE"


@dataclass(frozen=True)
class Rules:
    origins: tuple[str, ...] = (APP, "https://b.example")
    allow_credentials: bool = False
    expose_headers: tuple[str, ...] = ("etag", "x-request-id")
    allow_headers: tuple[str, ...] = ("authorization", "Content-Type")
    max_age_s: int = 600


POLICY = cors.policy_of(Rules())


def asked(origin: str = APP, method: str = "POST", headers: str | None = None) -> CIMultiDict[str]:
    sent = CIMultiDict({"Origin": origin, "Access-Control-Request-Method": method})
    if headers is not None:
        sent["Access-Control-Request-Headers"] = headers
    return sent


@pytest.mark.parametrize(
    ("method", "headers", "is_one"),
    [
        ("OPTIONS", {"Origin": APP, "Access-Control-Request-Method": "GET"}, True),
        ("OPTIONS", {"origin": APP, "access-control-request-method": "GET"}, True),
        ("OPTIONS", {"Origin": APP}, False),
        ("OPTIONS", {"Access-Control-Request-Method": "GET"}, False),
        ("OPTIONS", {}, False),
        ("POST", {"Origin": APP, "Access-Control-Request-Method": "GET"}, False),
    ],
)
def test_what_a_preflight_is(method: str, headers: dict[str, str], is_one: bool) -> None:
    assert cors.is_preflight(method, CIMultiDict(headers)) is is_one


def test_a_preflight_says_all_that_is_allowed() -> None:
    reply = cors.preflight(POLICY, asked(headers="Authorization, content-type"))
    assert (reply.status, reply.body) == (204, b"")
    assert reply.headers == {
        "Access-Control-Allow-Origin": APP,
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": "authorization, content-type",
        "Access-Control-Expose-Headers": "etag, x-request-id",
        "Access-Control-Max-Age": "600",
        "Timing-Allow-Origin": APP,
        "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
    }


@pytest.mark.parametrize(
    ("headers", "why"),
    [
        (asked(origin="https://evil.example"), "this origin is not in [cors] origins"),
        (asked(origin="null"), "this origin is not in [cors] origins"),
        (asked(origin=APP + ".evil.example"), "this origin is not in [cors] origins"),
        (asked(origin=APP.upper()), "this origin is not in [cors] origins"),
        (asked(method="PUT"), f"the methods are {METHODS}"),
        (asked(method="post"), f"the methods are {METHODS}"),  # methods have case
        (asked(headers="x-other"), "header 'x-other' is not in [cors] allow_headers"),
    ],
)
def test_a_refused_preflight_says_why_and_grants_nothing(
    headers: CIMultiDict[str], why: str
) -> None:
    reply = cors.preflight(POLICY, headers)
    assert reply.status == 403
    assert reply.body == f"CORS preflight refused: {why}.\n".encode()
    assert not [name for name in reply.headers if name.startswith("Access-Control")]


def test_without_origins_cors_is_off() -> None:
    off = cors.policy_of(Rules(origins=()))
    assert cors.preflight(off, asked()).status == 403
    assert cors.granted(off, CIMultiDict({"Origin": APP})) == {}


def test_a_star_takes_every_origin_and_any_header() -> None:
    """The origin is echoed, not starred, so that one rule serves with and without a token."""
    policy = cors.policy_of(Rules(origins=("*",), allow_headers=("*",)))
    reply = cors.preflight(policy, asked(origin="https://any.example", headers="X-One,,X-Two"))
    assert reply.status == 204
    assert reply.headers["Access-Control-Allow-Origin"] == "https://any.example"
    assert reply.headers["Access-Control-Allow-Headers"] == "x-one, x-two"


@pytest.mark.parametrize(
    ("sent", "allowed"),
    [({"Origin": APP}, APP), ({"Origin": "https://evil.example"}, None), ({}, None)],
)
def test_an_actual_reply_names_the_asking_origin_only(
    sent: dict[str, str], allowed: str | None
) -> None:
    """`Vary: Origin` is there in every case: a shared cache must not hand one origin's reply to
    another."""
    headers = cors.granted(POLICY, CIMultiDict(sent))
    assert headers.get("Access-Control-Allow-Origin") == allowed
    assert headers.get("Timing-Allow-Origin") == allowed
    assert headers["Vary"] == "Origin"
    assert ("Access-Control-Expose-Headers" in headers) == (allowed is not None)


def test_credentials_are_allowed_only_where_configured() -> None:
    policy = cors.policy_of(Rules(allow_credentials=True))
    sent = CIMultiDict({"Origin": APP})
    assert cors.granted(policy, sent)["Access-Control-Allow-Credentials"] == "true"
    assert "Access-Control-Allow-Credentials" not in cors.granted(POLICY, sent)


def test_the_config_section_is_a_set_of_rules() -> None:
    """What the gateway reads from config.toml fits, and exposes what clients have to see."""
    policy = cors.policy_of(CorsTable(origins=(APP,)))
    exposed = cors.granted(policy, CIMultiDict({"Origin": APP}))["Access-Control-Expose-Headers"]
    assert {
        "idempotent-replayed",
        "openai-poll-after-ms",
        "reelway-adjusted",
        "reelway-cancel",
        "reelway-dropped",
        "retry-after",
        "server-timing",
        "x-ratelimit-remaining-requests",
        "x-request-id",
    } <= set(exposed.split(", "))
