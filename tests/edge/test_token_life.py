"""A token from its creation to its end: what it may do, and how soon a change is felt."""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.server.bootstrap import signing_secrets
from proxy.store import OwnerRecord, TokenRecord
from proxy.tokens import MadeToken, rotate_token
from tests.rig.house import Answer, House
from tests.rig.refusals import DOORS, JSON, WAIT_S, error_of

BODY = b'{"prompt":"a cat"}'


def bearer(made: MadeToken) -> dict[str, str]:
    return {"Authorization": f"Bearer {made.token}"}


async def until_status(ask: Callable[[], Awaitable[Answer]], status: int) -> Answer:
    """The worker hears of a change by the store's channel: ask until it has."""
    async with asyncio.timeout(WAIT_S):
        while (reply := await ask()).status != status:  # noqa: ASYNC110 -- no event for it
            await asyncio.sleep(0.005)
    return reply


async def change(house: House, made: MadeToken, **fields: Any) -> None:
    record = replace(made.record, **fields)
    assert await house.server.store.tokens.change(record, *fields)


async def rotate(house: House, made: MadeToken, overlap_s: float) -> MadeToken:
    secret = signing_secrets(house.server.config)[0]
    store = house.server.store
    return await rotate_token(
        store, secret, made.record.id, overlap_s, secrets.token_bytes, time.time
    )


# ---------------------------------------------------------------- rotation


async def test_a_rotated_token_lets_in_by_both_secrets_until_the_overlap_ends(
    house: House,
) -> None:
    """So that clients can be moved one by one, while a leaked access-key pair ends at once."""
    made = await house.new_token()
    path = "/kling/v1/videos/text2video"
    now = int(time.time())
    claims = {"iss": made.record.id, "exp": now + 1800, "nbf": now - 5}
    signed = {"Authorization": f"Bearer {jwt.encode(claims, made.secret_key)}"}
    assert (await house.get(path, headers=signed)).status == 200
    fresh = await rotate(house, made, 3600)
    await until_status(lambda: house.get(path, headers=signed), 401)
    for token in (made, fresh):
        assert (await house.get("/v1/videos", headers=bearer(token))).status == 200
    newest = await rotate(house, fresh, 0)
    for old in (made, fresh):
        reply = await until_status(partial(house.get, "/v1/videos", headers=bearer(old)), 401)
        assert reply.json()["error"]["message"] == "This API key is not known."
    assert (await house.get("/v1/videos", headers=bearer(newest))).status == 200


async def test_an_overlap_ends_by_the_clock(house: House) -> None:
    made = await house.new_token()
    past_ms = int(time.time() * 1000) - 1
    await house.server.store.tokens.rotate(
        made.record.id, hashlib.sha256(b"new").hexdigest(), past_ms
    )
    reply = await house.get("/v1/videos", headers=bearer(made))
    assert reply.status == 401


# ---------------------------------------------------------------- ends


async def test_an_expired_token_reads_what_it_has_made_and_makes_no_more(house: House) -> None:
    made = await house.new_token()
    created = await house.post("/v1/videos", json={"prompt": "a cat"}, headers=bearer(made))
    task_id = created.json()["id"]
    done = await house.get(f"/v1/videos/{task_id}?wait=20", headers=bearer(made))
    assert done.json()["status"] == "completed"
    generic = await house.get(f"/v1/video/generations/{task_id}", headers=bearer(made))
    link = generic.json()["url"]
    await change(house, made, expires_ms=int(time.time() * 1000) - 1)
    for dialect, native in (("openai", 0), ("generic", 0), ("kling", 1004), ("jimeng", 100009)):
        target = DOORS[dialect].submit

        def submit(path: str = target) -> Awaitable[Answer]:
            return house.post(path, data=BODY, headers={**JSON, **bearer(made)})

        reply = await until_status(submit, 401)
        assert "has expired" in reply.json()["error"]["message"]
        if native:
            assert reply.json()["code"] == native
    paths = ("/v1/videos", f"/v1/videos/{task_id}", f"/v1/videos/{task_id}/content", "/v1/usage")
    for path in paths:
        assert (await house.get(path, headers=bearer(made))).status == 200, path
    assert (await house.get("", base=link, headers={"Authorization": None})).status == 200
    reply = await house.request("DELETE", f"/v1/videos/{task_id}", headers=bearer(made))
    assert reply.status == 401


@pytest.mark.parametrize("end", ["revoked", "disabled"])
async def test_a_revoked_or_disabled_token_and_its_links_are_refused(
    house: House, end: str
) -> None:
    made = await house.new_token()
    created = await house.post("/v1/videos", json={"prompt": "a cat"}, headers=bearer(made))
    path = f"/v1/video/generations/{created.json()['id']}"
    await house.get(f"/v1/videos/{created.json()['id']}?wait=20", headers=bearer(made))
    link = (await house.get(path, headers=bearer(made))).json()["url"]
    now_ms = int(time.time() * 1000)
    if end == "revoked":
        await house.server.store.tokens.revoke(made.record.id, now_ms)
    else:
        await change(house, made, disabled_ms=now_ms)
    reply = await until_status(lambda: house.get(path, headers=bearer(made)), 401)
    assert end in reply.json()["error"]["message"]
    refused = await house.get("", base=link, headers={"Authorization": None})
    assert refused.status == 403
    if end == "disabled":
        await change(house, made, disabled_ms=None)
        await until_status(lambda: house.get(path, headers=bearer(made)), 200)
        assert (await house.get("", base=link, headers={"Authorization": None})).status == 200


async def test_every_change_reaches_every_worker(house: House) -> None:
    other = await house.another_worker()
    made = await house.new_token()
    for base in (house.url, other.url):
        assert (await house.get("/v1/models", headers=bearer(made), base=base)).status == 200
    await change(house, made, operations=("get",))
    for base in (house.url, other.url):
        await until_status(partial(house.get, "/v1/models", headers=bearer(made), base=base), 403)
    await change(house, made, operations=())
    for base in (house.url, other.url):
        await until_status(partial(house.get, "/v1/models", headers=bearer(made), base=base), 200)


# ---------------------------------------------------------------- scopes

NATIVE = {"kling": 1103, "jimeng": 50400}


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        ({"dialects": ()}, ""),
        ({"operations": ("get", "list")}, "operation_not_allowed"),
        ({"addresses": ("192.0.2.0/24", "2001:db8::/32")}, "address_not_allowed"),
        ({"addresses": ("127.0.0.0/8",)}, ""),
    ],
)
async def test_what_a_token_is_not_for_is_403_in_each_dialect(
    house: House, scope: dict[str, tuple[str, ...]], code: str
) -> None:
    made = await house.new_token(**scope)
    for dialect, door in DOORS.items():
        reply = await house.post(door.submit, data=BODY, headers={**JSON, **bearer(made)})
        if not code:
            assert reply.status == 200
            continue
        error = error_of(dialect, reply.headers, reply.body)
        assert (reply.status, error["code"], error["type"]) == (403, code, "permission_error")
        if dialect in NATIVE:
            assert reply.json()["code"] == NATIVE[dialect]
    renders = sum(house.sim.submits(name) for name in ("openai", "kling", "jimeng"))
    assert renders == (0 if code else len(DOORS))


async def test_a_token_for_one_dialect_is_refused_by_the_others(house: House) -> None:
    for own in DOORS:
        made = await house.new_token(dialects=(own,))
        for dialect, door in DOORS.items():
            reply = await house.post(door.submit, data=BODY, headers={**JSON, **bearer(made)})
            assert reply.status == (200 if dialect == own else 403), (own, dialect)
            if dialect != own:
                error = error_of(dialect, reply.headers, reply.body)
                assert error["code"] == "dialect_not_allowed"


async def test_a_token_reads_its_owners_other_tasks_only_when_it_was_made_to(
    house: House,
) -> None:
    maker = await house.new_token(owner="acme")
    reader = await house.new_token(owner="acme", shared=True)
    private = await house.new_token(owner="acme")
    foreign = await house.new_token(owner="other", shared=True)
    body = {"prompt": "a cat"}
    task_id = (await house.post("/v1/videos", json=body, headers=bearer(maker))).json()["id"]
    await house.get(f"/v1/videos/{task_id}?wait=20", headers=bearer(maker))
    for path in (f"/v1/videos/{task_id}", f"/v1/videos/{task_id}/content"):
        statuses = [
            (await house.get(path, headers=bearer(made))).status
            for made in (maker, reader, private, foreign)
        ]
        assert statuses == [200, 200, 404, 404], path
    listed = [
        [
            video["id"]
            for video in (await house.get("/v1/videos", headers=bearer(made))).json()["data"]
        ]
        for made in (reader, private, foreign)
    ]
    assert listed == [[task_id], [], []]
    path = f"/v1/videos/{task_id}"
    assert (await house.request("DELETE", path, headers=bearer(reader))).status == 403
    assert (await house.request("DELETE", path, headers=bearer(private))).status == 404
    assert (await house.request("DELETE", path, headers=bearer(maker))).status == 200


async def test_an_owner_record_that_does_not_exist_limits_nothing(house: House) -> None:
    store = house.server.store
    assert await store.owners.get("nobody") == OwnerRecord("nobody")
    assert await store.owners.list() == ()


async def test_a_change_of_an_unknown_token_makes_none(house: House) -> None:
    store = house.server.store
    assert not await store.tokens.change(TokenRecord("nobody", "00", "n", "o", 0), "name")
    assert await store.tokens.get("nobody") is None
    with pytest.raises(ValueError, match="not a field to change"):
        await store.tokens.change(house.made.record, "secret_sha256")


# ---------------------------------------------------------------- the commands


@pytest.fixture
def run_command(tmp_path: Path) -> Callable[..., Any]:
    """`reelway … --json` on a store of its own; returns what it said."""
    config = tmp_path / "cli.toml"
    config.write_text(f'[server]\nstate_dir = "{tmp_path / "cli-state"}"\n')

    def go(*arguments: str) -> Any:
        result: Result = CliRunner().invoke(main, [*arguments, "--json", "--config", str(config)])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return go


def test_the_commands_change_what_they_say(run_command: Callable[..., Any]) -> None:
    scope = ["--dialects", "kling,openai", "--operations", "create, get", "--label", "team=film"]
    scope += ["--addresses", "192.0.2.7/24,::1", "--shared", "--budget-day", "2", "--spm", "3"]
    scope += ["--budget-month", "30.5", "--max-streams", "4", "--max-body", "1000"]
    made = run_command("token", "create", "--name", "me", "--owner", "acme", *scope)
    said = {
        "dialects": ["kling", "openai"],
        "operations": ["create", "get"],
        "addresses": ["192.0.2.0/24", "::1/128"],
        "labels": {"team": "film"},
        "shared": True,
        "budget_day": "2",
        "budget_month": "30.5",
        "spm": 3,
        "max_streams": 4,
        "max_body": 1000,
    }
    assert {name: made[name] for name in said} == said
    token_id = made["id"]

    lifted = ["--budget-day", "none", "--rpm", "9", "--dialects", "", "--not-shared"]
    changed = run_command("token", "set", token_id, "--name", "you", *lifted)
    told = ("name", "budget_day", "budget_month", "rpm", "dialects", "operations", "shared")
    values = ["you", None, "30.5", 9, [], ["create", "get"], False]
    assert [changed[name] for name in told] == values
    assert run_command("token", "show", token_id) == changed

    fresh = run_command("token", "rotate", token_id, "--overlap", "2h")
    assert fresh["id"] == token_id
    assert fresh["generation"] == 2
    assert fresh["previous_until"] > made["created"]
    for name in ("token", "secret_key", "webhook_secret"):
        assert fresh[name] != made[name]

    assert run_command("token", "disable", token_id)["state"] == "disabled"
    assert run_command("token", "enable", token_id)["state"] == "active"
    assert run_command("token", "expire", token_id)["state"] == "expired"
    assert run_command("token", "expire", token_id, "--in", "1d")["state"] == "active"
    assert run_command("token", "expire", token_id, "--never")["expires"] is None

    limits = ["--budget", "100", "--max-in-flight", "7", "--model", "sora-*:max-in-flight=2"]
    owner = run_command("owner", "set", "acme", *limits)
    assert (owner["budget"], owner["max_in_flight"]) == ("100", 7)
    assert owner["models"] == {"sora-*": {"max_in_flight": 2}}
    changed = run_command("owner", "set", "acme", "--budget", "none", "--model", "sora-*:none")
    assert (changed["budget"], changed["max_in_flight"], changed["models"]) == (None, 7, {})
    assert run_command("owner", "show", "acme") == changed
    assert run_command("owner", "list") == [changed]


@pytest.mark.parametrize("arguments", [["enable"], ["set", "--name", "you"]])
def test_a_revoked_key_is_not_changed_back(
    run_command: Callable[..., Any], tmp_path: Path, arguments: list[str]
) -> None:
    token_id = run_command("token", "create", "--name", "me")["id"]
    run_command("token", "revoke", token_id)
    before = run_command("token", "show", token_id)
    command, *options = arguments
    config = str(tmp_path / "cli.toml")
    result = CliRunner().invoke(main, ["token", command, token_id, *options, "--config", config])
    assert result.exit_code == 1
    assert f"The token {token_id} is revoked for good: make a new one." in result.stderr
    assert run_command("token", "show", token_id) == before


@pytest.mark.parametrize("command", [["create", "--name", "x"], ["set", "x"]])
def test_a_keys_webhook_that_could_never_be_called_is_a_mistake(command: list[str]) -> None:
    arguments = ["token", *command, "--webhook", "http://127.0.0.1:9555/hook"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "127.0.0.1:9555 is not a public address" in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["token", "create", "--name", "x", "--dialects", "soap"], "there is no 'soap'"),
        (["token", "create", "--name", "x", "--operations", "steal"], "there is no 'steal'"),
        (["token", "create", "--name", "x", "--addresses", "here"], "write networks like"),
        (["token", "create", "--name", "x", "--label", "film"], "is not a label"),
        (["token", "create", "--name", "x", "--max-streams", "0"], "not in the range"),
        (["token", "rotate", "x", "--overlap", "soon"], "is not a time from now"),
        (["token", "expire", "x", "--in", "1d", "--never"], "exclude each other"),
        (["owner", "set", "x", "--model", "sora"], "is not a model's limit"),
        (["owner", "set", "x", "--model", "sora:rpm=1"], "is not a model's limit"),
        (["owner", "set", " "], "an owner has a name"),
    ],
)
def test_a_mistake_is_named(arguments: list[str], says: str) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert says in " ".join(result.output.split())
