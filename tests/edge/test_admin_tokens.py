"""/api/tokens and /api/owners: a key's whole life through the admin port, felt by its client."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.rig.admin_client import ask, done, got, pages, refused
from tests.rig.eventually import read_until
from tests.rig.house import House, OpenHouse, Plan

LIMITS = (
    *("requests_per_minute", "submits_per_minute", "max_in_flight", "max_streams"),
    *("max_body_bytes", "budget_micro", "budget_day_micro", "budget_month_micro"),
)


async def client_status(house: House, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    return (await house.get("/v1/videos", headers=headers)).status


async def until_client(house: House, token: str, status: int) -> None:
    """The worker hears of a change by the store's channel: ask until it has."""
    await read_until(lambda: client_status(house, token), lambda found: found == status)


async def test_a_key_made_here_lets_its_client_in(house: House) -> None:
    """With every setting; its secrets are in this one answer and in no later one."""
    wanted: dict[str, Any] = {
        "name": "studio",
        "owner": "acme",
        "labels": {"team": "film"},
        "models": ["sora-*"],
        "dialects": ["openai"],
        "operations": ["create", "get", "list"],
        "addresses": ["127.0.0.1", "10.1.2.3/8"],
        "shared": True,
        "limits": {"max_in_flight": 3, "budget_micro": 5_000_000},
        "webhook": "https://hooks.example/x",
        "expires_ms": int(time.time() * 1000) + 3_600_000,
    }
    reply = await ask(house, "POST", "/api/tokens", wanted)
    assert reply.status == 201
    assert reply.headers["Cache-Control"] == "no-store"
    made = reply.json()
    secrets = {name: made.pop(name) for name in ("token", "secret_key", "webhook_secret")}
    assert made.pop("access_key") == made["id"]
    assert all(secrets.values())
    assert await client_status(house, secrets["token"]) == 200
    assert {name: made[name] for name in wanted if name not in ("limits", "addresses")} == {
        name: value for name, value in wanted.items() if name not in ("limits", "addresses")
    }
    assert made["addresses"] == ["127.0.0.1/32", "10.0.0.0/8"]
    assert made["limits"] == {name: wanted["limits"].get(name) for name in LIMITS}
    assert (made["state"], made["generation"], made["in_flight"]) == ("active", 1, 0)
    assert (made["spent_micro"], made["held_micro"]) == (0, 0)
    shown = await ask(house, "GET", f"/api/tokens/{made['id']}")
    assert shown.json() == made
    assert not any(secret.encode() in shown.body for secret in secrets.values())


async def test_a_key_with_a_name_alone_may_do_anything(house: House) -> None:
    made = await done(house, "POST", "/api/tokens", {"name": "plain"})
    assert made["owner"] == made["id"]
    assert all(limit is None for limit in made["limits"].values())
    empty = ("models", "dialects", "operations", "addresses")
    assert [made[name] for name in empty] == [[], [], [], []]
    assert (made["shared"], made["webhook"], made["expires_ms"]) == (False, None, None)
    headers = {"Authorization": f"Bearer {made['token']}"}
    submit = {"model": "kling-v2-6", "prompt": "a cat"}
    assert (await house.post("/v1/videos", json=submit, headers=headers)).status == 200


async def test_a_revoked_or_disabled_key_is_refused_within_a_moment(house: House) -> None:
    made = await done(house, "POST", "/api/tokens", {"name": "short-lived"})
    path, token = f"/api/tokens/{made['id']}", made["token"]
    assert await client_status(house, token) == 200
    assert (await done(house, "POST", f"{path}/disable"))["state"] == "disabled"
    await until_client(house, token, 401)
    assert (await done(house, "POST", f"{path}/enable"))["state"] == "active"
    await until_client(house, token, 200)
    assert (await done(house, "POST", f"{path}/revoke"))["state"] == "revoked"
    await until_client(house, token, 401)
    assert (await done(house, "POST", f"{path}/revoke"))["state"] == "revoked"
    for verb in ("enable", "rotate"):
        status, code, _, message = await refused(house, "POST", f"{path}/{verb}")
        assert (status, code) == (409, "conflict")
        assert "revoked for good" in message


async def test_rotation_gives_new_secrets_and_the_old_one_time(house: House) -> None:
    made = await done(house, "POST", "/api/tokens", {"name": "rotated"})
    path = f"/api/tokens/{made['id']}"
    fresh = await done(house, "POST", f"{path}/rotate", {"overlap_s": 3600})
    assert (fresh["generation"], fresh["id"]) == (2, made["id"])
    assert fresh["previous_until_ms"] > time.time() * 1000
    for secret in ("token", "secret_key", "webhook_secret"):
        assert fresh[secret] != made[secret]
    await until_client(house, fresh["token"], 200)
    assert await client_status(house, made["token"]) == 200
    last = await done(house, "POST", f"{path}/rotate", {"overlap_s": 0})
    await until_client(house, fresh["token"], 401)
    assert await client_status(house, last["token"]) == 200


async def test_a_change_changes_what_is_named_and_nothing_else(house: House) -> None:
    made = await done(
        house,
        "POST",
        "/api/tokens",
        {
            "name": "one",
            "models": ["sora-2"],
            "limits": {"max_in_flight": 2, "requests_per_minute": 60},
            "webhook": "https://hooks.example/x",
        },
    )
    path = f"/api/tokens/{made['id']}"
    change = {"limits": {"max_in_flight": None, "max_streams": 4}, "webhook": None}
    changed = await done(house, "PATCH", path, change)
    expected = dict.fromkeys(LIMITS) | {"requests_per_minute": 60, "max_streams": 4}
    assert changed["limits"] == expected
    assert (changed["webhook"], changed["models"], changed["name"]) == (None, ["sora-2"], "one")
    assert await done(house, "PATCH", path, {}) == changed
    renamed = await done(house, "PATCH", path, {"name": "two", "models": [], "labels": {"a": "b"}})
    assert renamed == {**changed, "name": "two", "models": [], "labels": {"a": "b"}}
    ended = await done(house, "PATCH", path, {"expires_ms": 1})
    assert ended["state"] == "expired"
    assert time.time() - 60 < ended["expires_ms"] / 1000 <= time.time()
    assert (await done(house, "PATCH", path, {"expires_ms": None}))["state"] == "active"


async def test_keys_are_listed_newest_first_in_pages(house: House) -> None:
    """By owner or state too; the test's own key is the oldest."""
    names = [f"key {number}" for number in range(7)]
    made = []
    for number, name in enumerate(names):
        body = {"name": name, "owner": "even" if number % 2 == 0 else "odd"}
        made.append(await done(house, "POST", "/api/tokens", body))
    everything = await pages(house, "/api/tokens", 3)
    moments = [(item["created_ms"], item["id"]) for item in everything]
    assert moments == sorted(moments, reverse=True)
    assert {item["name"] for item in everything} == {*names, "test"}
    even = await pages(house, "/api/tokens?owner=even", 2)
    assert {item["name"] for item in even} == set(names[::2])
    await done(house, "POST", f"/api/tokens/{made[0]['id']}/revoke")
    revoked = await pages(house, "/api/tokens?state=revoked", 50)
    assert [item["name"] for item in revoked] == [names[0]]
    assert await pages(house, "/api/tokens?owner=even&state=disabled", 50) == []


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({}, "name", "is required"),
        ({"name": " "}, "name", "needs a name"),
        ({"name": "x" * 201}, "name", "at most 200 characters"),
        ({"name": "a\nb"}, "name", "control character"),
        ({"name": "x", "colour": 1}, "colour", "Unknown field 'colour'; accepted: name, labels"),
        ({"name": "x", "limit": {}}, "limit", "did you mean 'limits'?"),
        ({"name": "x", "limits": {"rpm": 1}}, "limits.rpm", "accepted: requests_per_minute"),
        ({"name": "x", "limits": {"max_in_flight": 0}}, "limits.max_in_flight", "at least 1"),
        (
            {"name": "x", "limits": {"max_in_flight": "3"}},
            "limits.max_in_flight",
            "must be a whole number, not a string",
        ),
        ({"name": "x", "limits": {"budget_micro": 1.5}}, "limits.budget_micro", "whole number"),
        ({"name": "x", "dialects": ["soap"]}, "dialects[0]", "'soap' is not accepted; accepted:"),
        ({"name": "x", "operations": "get"}, "operations", "must be a list, not a string"),
        ({"name": "x", "addresses": ["here"]}, "addresses", "write networks like"),
        ({"name": "x", "labels": {"a b": "c"}}, "labels", "is not a label"),
        ({"name": "x", "labels": []}, "labels", "must be an object, not a list"),
        ({"name": "x", "webhook": "ftp://a"}, "webhook", "valid http(s) URL"),
        ({"name": "x", "webhook": "http://10.0.0.1/"}, "webhook", "[webhooks] allow"),
        ({"name": "x", "expires_ms": 5}, "expires_ms", "must lie in the future"),
        ({"name": "x", "shared": "yes"}, "shared", "must be true or false"),
        ([], None, "must be a JSON object, not a list"),
    ],
)
async def test_what_is_wrong_with_a_body_is_said_by_its_field(
    house: House, body: object, param: str | None, says: str
) -> None:
    status, code, where, message = await refused(house, "POST", "/api/tokens", body)
    assert (status, code, where) == (400, "invalid_value", param)
    assert says in message
    assert len((await got(house, "/api/tokens"))["data"]) == 1


async def test_a_key_is_not_given_a_webhook_that_could_never_be_called(house: House) -> None:
    [key] = (await got(house, "/api/tokens"))["data"]
    change = {"webhook": "http://[::1]:9555/"}
    status, code, where, message = await refused(house, "PATCH", f"/api/tokens/{key['id']}", change)
    assert (status, code, where) == (400, "invalid_value", "webhook")
    assert "[::1]:9555 is not a public address" in message
    assert (await got(house, f"/api/tokens/{key['id']}"))["webhook"] is None


async def test_what_is_not_named_right_is_refused(house: House) -> None:
    assert await refused(house, "GET", "/api/tokens/nobody") == (
        404,
        "not_found",
        None,
        "There is no token 'nobody'.",
    )
    for verb in ("rotate", "revoke", "disable", "enable"):
        assert (await refused(house, "POST", f"/api/tokens/nobody/{verb}"))[0] == 404
    token_id = house.made.record.id
    for body, param in (({"owner": "x"}, "owner"), ({"name": None}, "name")):
        said = await refused(house, "PATCH", f"/api/tokens/{token_id}", body)
        assert (said[0], said[2]) == (400, param)
    said = await refused(house, "POST", f"/api/tokens/{token_id}/rotate", {"overlap_s": -1})
    assert (said[0], said[2]) == (400, "overlap_s")
    for query, param in (
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=WzFd", "cursor"),
        ("colour=red", "colour"),
        ("state=lost", "state"),
    ):
        said = await refused(house, "GET", f"/api/tokens?{query}")
        assert (said[0], said[2]) == (400, param), query


# ---------------------------------------------------------------- owners


async def test_an_owner_is_held_to_what_is_set_here(house: House) -> None:
    """Over all its keys, as soon as it is set; a limit set to null is lifted."""
    made = await done(house, "POST", "/api/tokens", {"name": "a", "owner": "acme / film"})
    path = "/api/owners/acme%20%2F%20film"
    headers = {"Authorization": f"Bearer {made['token']}"}
    body = {
        "limits": {"requests_per_minute": 1, "budget_month_micro": 7},
        "models": [{"model": "sora-*", "max_in_flight": 5}],
    }
    changed = await done(house, "PATCH", path, body)
    assert (changed["name"], changed["tokens"]) == ("acme / film", 1)
    assert changed["models"] == body["models"]
    assert changed["limits"]["requests_per_minute"] == 1
    await read_until(
        lambda: house.get("/v1/videos", headers=headers), lambda found: found.status == 429
    )
    lifted = await done(house, "PATCH", path, {"limits": {"requests_per_minute": None}})
    assert lifted["limits"]["budget_month_micro"] == 7
    assert lifted["models"] == body["models"]
    await until_client(house, made["token"], 200)
    assert await got(house, path) == lifted
    assert (await done(house, "PATCH", path, {"models": []}))["models"] == []


async def test_owners_are_those_with_keys_and_those_with_limits(house: House) -> None:
    for name in ("zoe", "acme", "acme"):
        await done(house, "POST", "/api/tokens", {"name": "x", "owner": name})
    await done(house, "PATCH", "/api/owners/limited", {"limits": {"max_streams": 1}})
    owners = await pages(house, "/api/owners", 2)
    names = [owner["name"] for owner in owners]
    assert names == sorted(["acme", "limited", "zoe", house.made.record.owner])
    assert {owner["name"]: owner["tokens"] for owner in owners}["acme"] == 2
    unknown = await got(house, "/api/owners/never-heard-of")
    assert (unknown["tokens"], unknown["in_flight"], unknown["models"]) == (0, 0, [])


async def test_what_a_key_has_under_way_and_has_spent_is_shown(open_house: OpenHouse) -> None:
    routes = '[[routes]]\nmodel = "priced"\nupstream = "sim-openai"\nprice = { per_video = "0.5" }'
    async with open_house(Plan(routes=routes, manual=True)) as house:
        house: House  # type: ignore[no-redef]  # the factory's annotation is the test's own
        path = f"/api/tokens/{house.made.record.id}"
        task_id = await house.create("priced", seconds="4")
        item = await got(house, path)
        assert (item["in_flight"], item["held_micro"], item["spent_micro"]) == (1, 500_000, 0)
        task = await got(house, f"/api/tasks/{task_id}")
        house.sim.finish(task["upstream_id"])
        await house.finished(task_id)
        item = await got(house, path)
        assert (item["in_flight"], item["held_micro"], item["spent_micro"]) == (0, 0, 500_000)
        owner = await got(house, f"/api/owners/{item['owner']}")
        assert (owner["spent_micro"], owner["spent_day_micro"]) == (500_000, 500_000)
