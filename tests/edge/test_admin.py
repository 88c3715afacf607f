"""The admin port: three paths for machines stand open, everything else wants the admin token."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import pytest

from tests.rig.eventually import read_until
from tests.rig.house import IMPATIENT, Answer, House
from tests.rig.refusals import store_pid

ADMIN = {"Authorization": "Bearer admin-secret"}


async def admin(house: House, path: str, method: str = "GET", **headers: str | None) -> Answer:
    sent = {"Authorization": None, **headers}
    return await house.request(method, path, headers=sent, base=house.server.admin_url)


async def test_health_readiness_and_metrics_stand_open(house: House) -> None:
    health, ready = await admin(house, "/healthz"), await admin(house, "/readyz")
    assert (health.status, health.json()) == (200, {"status": "ok"})
    assert (ready.status, ready.json()) == (200, {"status": "ready"})
    assert (await admin(house, "/healthz", "HEAD")).status == 200

    await house.get("/v1/nope")
    metrics = await admin(house, "/metrics")
    assert metrics.status == 200
    assert metrics.headers["Content-Type"].startswith("text/plain; version=")
    counted = (
        'reelway_requests_total{dialect="-",operation="-",reason="endpoint_not_found",'
        'status="404"} 1.0'
    )
    assert counted in metrics.body.decode().split("\n")
    assert house.token not in metrics.body.decode()


async def test_everything_else_wants_the_admin_token(house: House) -> None:
    """The token of a client is none, nor is a part of ours; what is not there is told to nobody
    who may not know. Only the console's own files stand open: they hold nothing."""
    wrong = [
        None,
        "admin-secret",
        "Bearer ",
        "Bearer admin-secre",
        "bearer admin-secret",
        "Basic YWRtaW4tc2VjcmV0",
        f"Bearer {house.token}",
        "Bearer \u00e9",
    ]
    for path in (
        "/api/tokens",
        "/console",
        "/healthz/",
        "//healthz",
        "/metrics/../tokens",
        "/nope",
    ):
        for authorization in wrong:
            reply = await admin(house, path, Authorization=authorization)
            said = (reply.status, path, authorization)
            assert said == (401, path, authorization)
            assert reply.headers["WWW-Authenticate"] == "Bearer"
            assert "admin-secret" not in reply.body.decode()
    assert (await admin(house, "/nope", **ADMIN)).status == 404
    assert (await admin(house, "/healthz", "POST", **ADMIN)).status == 405
    assert (await admin(house, "/healthz", "DELETE")).status in (401, 405)


async def test_the_admin_port_knows_nothing_of_videos_and_the_other_nothing_of_admin(
    house: House,
) -> None:
    assert (await admin(house, "/v1/videos", **ADMIN)).status == 404
    for path in ("/healthz", "/readyz", "/metrics"):
        reply = await house.get(path, headers=ADMIN)
        assert (reply.status, json.loads(reply.body)["error"]["code"]) == (
            404,
            "endpoint_not_found",
        )


async def test_a_worker_that_drains_is_not_ready(house: House) -> None:
    """Alive all the same: whoever restarts the sick leaves it alone."""
    await house.server.drain()
    ready = await admin(house, "/readyz")
    assert (ready.status, ready.json()) == (503, {"status": "not ready", "why": "draining"})
    assert (await admin(house, "/healthz")).status == 200
    assert (await admin(house, "/metrics")).status == 200


@IMPATIENT
async def test_a_worker_whose_store_hangs_is_not_ready(house: House) -> None:
    """Whoever asks has an answer all the same, and a store that is back is enough."""
    pid = await store_pid(house)
    os.kill(pid, signal.SIGSTOP)
    try:
        ready = await admin(house, "/readyz")
        assert (ready.status, ready.json()) == (
            503,
            {"status": "not ready", "why": "the store does not answer"},
        )
        assert (await admin(house, "/healthz")).status == 200
        assert (await admin(house, "/metrics")).status == 200
    finally:
        os.kill(pid, signal.SIGCONT)
    await read_until(lambda: admin(house, "/readyz"), lambda found: found.status == 200)


async def test_a_gateway_whose_store_was_emptied_is_not_ready(house: House) -> None:
    """Its tasks and keys are gone: whoever runs it has to know."""
    await house.server.store.batch.call("FLUSHALL")
    ready = await admin(house, "/readyz")
    assert ready.status == 503
    assert "the store has lost its data" in ready.json()["why"]
    assert (await admin(house, "/healthz")).status == 200


@pytest.mark.parametrize("missing", ["upstreams", "routes"])
async def test_a_gateway_that_can_make_nothing_is_not_ready(house: House, missing: str) -> None:
    config = house.server.config
    lacks_upstreams = missing == "upstreams"
    house.server.config = replace(
        config, upstreams={} if lacks_upstreams else config.upstreams, routes=()
    )
    ready = await admin(house, "/readyz")
    assert ready.status == 503
    assert f"[[{missing}]]" in ready.json()["why"]
    assert (await admin(house, "/healthz")).status == 200
