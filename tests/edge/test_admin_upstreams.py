"""/api/routes and /api/upstreams: how accounts stand, putting one back, and asking a provider."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from proxy.model import Credential, CredentialHealth
from proxy.providers import PROVIDERS
from proxy.sim.faults import Fault
from proxy.tasks.credential_test import SKEW_S, CredentialCheck, probe
from proxy.telemetry.metrics import Metrics
from proxy.upstream import Deadlines, Upstreams
from tests.rig.admin_client import done, got, refused
from tests.rig.eventually import read_until
from tests.rig.house import House, OpenHouse, Plan

UPSTREAMS = ("sim-openai", "sim-kling", "sim-jimeng")


async def test_the_routing_table_is_shown_in_its_order(open_house: OpenHouse) -> None:
    routes = """
[[routes]]
model = "shared-*"
upstream = [{ name = "sim-kling", weight = 3 }, { name = "sim-openai", weight = 0 }]
upstream_model = "kling-v2-6"
defaults = { duration = "5" }
overrides = { mode = "pro" }
remove = ["cfg_scale"]
fit = "exact"
price = { per_second = { "720p" = "0.05" } }
max_age_s = 90.0
queue = 3
"""
    async with open_house(Plan(routes=routes)) as house:
        listed = await got(house, "/api/routes")
    first = listed["data"][0]
    expected = {
        "model": "shared-*",
        "upstreams": [{"name": "sim-kling", "weight": 3}, {"name": "sim-openai", "weight": 0}],
        "upstream_model": "kling-v2-6",
        "defaults": {"duration": "5"},
        "overrides": {"mode": "pro"},
        "remove": ["cfg_scale"],
        "fit": "exact",
        "price": {"per_second": {"720p": "0.05"}},
        "max_age_s": 90.0,
        "queue": 3,
    }
    assert {name: first[name] for name in expected} == expected
    models = [route["model"] for route in listed["data"]]
    assert models == [r.model for r in house.server.config.routes]
    assert listed["next"] is None


async def test_what_stands_against_a_key_is_shown_and_forgotten_on_demand(
    open_house: OpenHouse,
) -> None:
    """A key its provider refuses is out, until the operator puts it back."""
    async with open_house(Plan(manual=True)) as house:
        house.sim.faults.add(Fault("status", "kling", "submit", status=429, code=1102))
        submit = {"model": "kling-v2-6", "prompt": "a cat"}
        assert (await house.post("/v1/videos", json=submit)).status == 503
        path = "/api/upstreams/sim-kling/credentials/a"

        async def standing() -> tuple[str, int, str | None]:
            listed = {item["name"]: item for item in (await got(house, "/api/upstreams"))["data"]}
            (key,) = listed["sim-kling"]["credentials"]
            found = key["standing"]
            assert (found["until_ms"] is None) == (found["mood"] == "well")
            return found["mood"], found["strikes"], found["code"]

        await read_until(standing, lambda found: found[0] == "out")
        assert await standing() == ("out", 1, "1102")
        item = await done(house, "POST", f"{path}/restore")
        assert item["credentials"][0]["standing"]["mood"] == "well"
        assert await standing() == ("well", 0, None)
        assert (await house.post("/v1/videos", json=submit)).status == 200
        items = {item["name"]: item for item in (await got(house, "/api/upstreams"))["data"]}
        assert {name: item["open"] for name, item in items.items()} == {
            "sim-openai": 0,
            "sim-kling": 1,
            "sim-jimeng": 0,
        }
        assert items["sim-kling"]["models"] == ["sora-2-on-kling", "kling-v2-6"]
        assert items["sim-kling"]["provider"] == "kling"
        assert items["sim-kling"]["base_url"] == house.sim.kling_url


async def test_tasks_that_wait_for_a_place_are_told_apart(open_house: OpenHouse) -> None:
    """One is under way, as many as the key takes; the other waits in the queue."""
    routes = '[[routes]]\nmodel = "queued"\nupstream = "sim-openai"\nqueue = 5'
    async with open_house(Plan(routes=routes, manual=True)) as house:
        upstream = house.server.config.upstreams["sim-openai"]
        credentials = (replace(upstream.credentials[0], max_in_flight=1),)
        upstreams = {
            **house.server.config.upstreams,
            "sim-openai": replace(upstream, credentials=credentials),
        }
        house.server.config = replace(house.server.config, upstreams=upstreams)
        first, second = await house.create("queued"), await house.create("queued", prompt="a dog")
        items = {item["name"]: item for item in (await got(house, "/api/upstreams"))["data"]}
        item = items["sim-openai"]
        assert (item["open"], item["waiting"]) == (1, 1)
        (key,) = item["credentials"]
        assert (key["max_in_flight"], key["in_flight"]) == (1, 1)
        assert not (await got(house, f"/api/tasks/{first}"))["waiting"]
        assert (await got(house, f"/api/tasks/{second}"))["waiting"]


async def test_an_upstream_that_broke_is_put_back_as_a_whole(house: House) -> None:
    known = house.server.store.credentials
    (well,) = await known.health(["sim-kling"])
    assert await known.swap("sim-kling", well, replace(well, state="broken", until_ms=2**42))
    listed = await got(house, "/api/upstreams")
    moods = {item["name"]: item["standing"]["mood"] for item in listed["data"]}
    assert moods == {"sim-openai": "well", "sim-kling": "broken", "sim-jimeng": "well"}
    overview = await got(house, "/api/overview")
    assert [(u["name"], u["standing"]["mood"]) for u in overview["upstreams"]] == [*moods.items()]
    item = await done(house, "POST", "/api/upstreams/sim-kling/restore")
    assert item["standing"] == {"mood": "well", "strikes": 0, "until_ms": None, "code": None}


@pytest.mark.parametrize("name", UPSTREAMS)
async def test_a_good_key_is_told_apart_from_a_wrong_one(house: House, name: str) -> None:
    """By something unpaid: nothing is rendered, and the key's standing does not change."""
    found = await done(house, "POST", f"/api/upstreams/{name}/credentials/a/test")
    assert (found["ok"], found["key"], found["reachable"]) == (True, "accepted", True)
    assert abs(found["skew_s"]) <= SKEW_S
    assert found["ms"] >= 0
    upstream = house.server.config.upstreams[name]
    wrong = Credential("a", api_key="sk-wrong")
    if name != "sim-openai":
        wrong = Credential("a", access_key="AK-wrong", secret_key="SK-wrong")
    config = replace(
        house.server.config,
        upstreams={
            **house.server.config.upstreams,
            name: replace(upstream, credentials=(wrong,)),
        },
    )
    house.server.config = config
    found = await done(house, "POST", f"/api/upstreams/{name}/credentials/a/test")
    assert (found["ok"], found["key"], found["reachable"]) == (False, "refused", True)
    assert "refuses this credential" in found["what"]
    listed = await got(house, "/api/upstreams")
    assert all(item["credentials"][0]["standing"]["mood"] == "well" for item in listed["data"])
    assert sum(house.sim.renders(service) for service in ("openai", "kling", "jimeng")) == 0


@pytest.mark.parametrize(
    ("fault", "key", "status", "says"),
    [
        (Fault("status", status=503), "unknown", 503, "it fails|try again later"),
        (Fault("status", status=429), "accepted", 429, "busy just now"),
        (Fault("status", status=404, body="<html>"), "unknown", 404, "look at base_url"),
        (Fault("redirect", status=302, location="/"), "unknown", 302, "correct base_url"),
        (Fault("hangup", times=None), "unknown", None, "cannot be asked"),
    ],
    ids=["fails", "busy", "another server", "redirects", "hangs up"],
)
async def test_what_is_wrong_with_a_provider_is_said(
    house: House, fault: Fault, key: str, status: int | None, says: str
) -> None:
    house.sim.faults.add(fault)
    found = await done(house, "POST", "/api/upstreams/sim-openai/credentials/a/test")
    assert (found["key"], found["status"], found["ok"]) == (key, status, key == "accepted")
    assert any(words in found["what"] for words in says.split("|"))
    assert found["reachable"] == (status is not None)


async def test_nobody_at_the_address_is_said_and_no_key_is_blamed(
    house: House, free_port: int
) -> None:
    upstream = replace(
        house.server.config.upstreams["sim-kling"], base_url=f"http://127.0.0.1:{free_port}"
    )
    house.server.config = replace(house.server.config, upstreams={"sim-kling": upstream})
    found = await done(house, "POST", "/api/upstreams/sim-kling/credentials/a/test")
    assert (found["reachable"], found["key"], found["status"]) == (False, "unknown", None)
    assert f"http://127.0.0.1:{free_port} cannot be asked" in found["what"]


async def test_a_clock_that_is_off_is_said(house: House) -> None:
    """The provider's Date is compared with our clock; here ours is an hour slow."""
    upstream = house.server.config.upstreams["sim-openai"]
    (credential,) = upstream.credentials
    now_s = house.sim.settings.clock()

    upstreams = Upstreams(Deadlines(5, 5, 5, 5), Metrics(lambda: house.server.config))
    house.stack.push_async_callback(upstreams.aclose)

    async def found(clock: Callable[[], float]) -> CredentialCheck:
        return await probe(upstream, credential, "sora-2", PROVIDERS["openai"], upstreams, clock)

    slow = await found(lambda: now_s - 3600)
    assert slow.skew_s is not None
    assert 3590 < slow.skew_s < 3700
    assert "ahead of ours: set this machine's clock" in slow.what
    assert slow.ok
    fast = await found(lambda: now_s + 3600)
    assert fast.skew_s is not None
    assert fast.skew_s < 0
    assert "behind ours" in fast.what


async def test_what_is_not_there_is_said_with_what_is(house: House) -> None:
    path = "/api/upstreams/nowhere/credentials/a/test"
    assert (await refused(house, "POST", path))[3] == (
        "There is no upstream 'nowhere'; there is: sim-openai, sim-kling, sim-jimeng."
    )
    path = "/api/upstreams/sim-kling/credentials/z/restore"
    assert (await refused(house, "POST", path))[3] == (
        "sim-kling has no credential 'z'; it has: a."
    )
    said = await refused(house, "POST", "/api/upstreams/nowhere/restore")
    assert (said[0], said[1]) == (404, "not_found")


async def test_an_upstream_whose_keys_are_all_out_is_out(house: House) -> None:
    """In the overview and at /readyz; the gateway stays ready, for downloads go on."""
    out = CredentialHealth("out", 1, 4_000_000_000_000, "1102")
    known = house.server.store.credentials
    for key in house.server.config.upstreams["sim-kling"].credentials:
        (old,) = await known.health([f"sim-kling/{key.name}"])
        assert await known.swap(f"sim-kling/{key.name}", old, out)
    overview = await got(house, "/api/overview")
    moods = {one["name"]: one["standing"]["mood"] for one in overview["upstreams"]}
    assert moods["sim-kling"] == "out"
    assert {mood for name, mood in moods.items() if name != "sim-kling"} == {"well"}
    ready = await house.request("GET", "/readyz", base=house.server.admin_url)
    assert ready.json() == {"status": "ready", "unusable": {"sim-kling": "out"}}
