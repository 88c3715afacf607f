"""/api/overview, /api/config, /api/reload, /api/try, and what stands around every answer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy import __version__
from proxy.admin import app as admin_app
from proxy.admin.auth import MOST_WRONG
from proxy.dialects import DIALECTS
from tests.rig.admin_client import TOKEN, ask, done, got, refused
from tests.rig.house import IMPATIENT, Answer, House, OpenHouse, Plan
from tests.rig.refusals import WAIT_S, store_pid

CONSOLE = Path(admin_app.__file__).parent / "console"


# ---------------------------------------------------------------- what runs


async def test_the_overview_says_what_runs_and_how_it_is(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True)) as house:
        await house.create()
        seen = await got(house, "/api/overview")
        assert (seen["version"], seen["currency"]) == (__version__, "USD")
        assert (seen["ready"], seen["why_not"], seen["tasks_open"]) == (True, None, 1)
        assert (seen["public_url"], seen["api_url"]) == (house.server.public_url, house.url)
        assert [worker["pid"] for worker in seen["workers"]] == [os.getpid()]
        assert seen["started_ms"] <= seen["now_ms"] <= time.time() * 1000
        assert seen["store"]["server"] in ("redis", "valkey")
        assert seen["store"]["version"][0].isdigit()
        assert seen["store"]["persistence"] == "aof"
        assert seen["store"]["used_bytes"] > 0
        assert seen["store"]["keys"] > 0
        assert [upstream["name"] for upstream in seen["upstreams"]] == [
            *house.server.config.upstreams
        ]
        assert "sora-2" in seen["models"]
        assert seen["dialects"] == list(DIALECTS)
        assert seen["last_reload"] is None


@IMPATIENT
async def test_without_its_store_the_overview_still_answers_and_the_rest_is_503(
    house: House,
) -> None:
    pid = await store_pid(house)
    os.kill(pid, signal.SIGSTOP)
    try:
        seen = await got(house, "/api/overview")
        assert (seen["ready"], seen["why_not"]) == (False, "the store does not answer")
        assert (seen["store"], seen["tasks_open"]) == (None, None)
        assert {upstream["standing"] for upstream in seen["upstreams"]} == {None}
        for path in ("/api/tokens", "/api/tasks", "/api/upstreams"):
            status, code, _, message = await refused(house, "GET", path)
            assert (status, code) == (503, "unavailable")
            assert "does not answer" in message
        assert (await got(house, "/api/routes"))["data"]
        assert (await got(house, "/api/config"))["data"]
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_settings_are_shown_with_their_origin_and_without_a_secret(house: House) -> None:
    reply = await ask(house, "GET", "/api/config")
    settings = {item["key"]: item for item in reply.json()["data"]}
    path = str(house.config_path)
    assert settings["billing.currency"] == {
        "key": "billing.currency",
        "value": "USD",
        "origin": "default",
    }
    assert settings["server.listen"]["origin"].startswith(f"{path}:")
    assert settings["limits.json_bytes"]["value"] == house.server.config.limits.json_bytes
    assert settings["upstreams[0].name"]["value"] == "sim-openai"
    assert settings["admin.token"]["value"] == "(hidden)"
    keys = house.sim.credentials
    for secret in (TOKEN, "sk-sim", keys["kling"]["secret_key"], keys["jimeng"]["secret_key"]):
        assert secret.encode() not in reply.body
    assert reply.json()["last_reload"] is None


async def test_a_good_reload_is_in_force_and_a_bad_one_changes_nothing(house: House) -> None:
    """Each is told, with what waits for a restart; the latest stays known."""
    text = house.config_path.read_text()
    house.config_path.write_text(
        text + '[[routes]]\nmodel = "x"\nupstream = "nowhere"\nfit = "loose"\n'
    )
    bad = await done(house, "POST", "/api/reload")
    assert (bad["ok"], bad["waiting"]) == (False, [])
    assert [problem.partition(": ")[2] for problem in bad["problems"]]
    assert all(str(house.config_path) in problem for problem in bad["problems"])
    assert "nowhere" in " ".join(bad["problems"])
    last = (await got(house, "/api/config"))["last_reload"]
    assert last == bad == (await got(house, "/api/overview"))["last_reload"]
    house.config_path.write_text(
        text.replace('token = "admin-secret"', 'token = "another"')
        + '[[routes]]\nmodel = "brand-new"\nupstream = "sim-openai"\n'
    )
    good = await done(house, "POST", "/api/reload")
    assert (good["ok"], good["problems"], good["waiting"]) == (True, [], ["admin.token"])
    assert (await got(house, "/api/config"))["last_reload"] == good
    assert (await got(house, "/api/overview"))["last_reload"] == good
    models = [route["model"] for route in (await got(house, "/api/routes"))["data"]]
    assert "brand-new" in models
    assert (await house.get("/v1/models")).json()["data"][-1]["id"] == "brand-new"


# ---------------------------------------------------------------- try


async def test_a_submit_tried_here_is_one_of_the_clients_own(house: House) -> None:
    wish = {
        "token": house.token,
        "model": "sora-2-on-kling",
        "prompt": "a cat",
        "seconds": 4,
        "size": "1280x720",
    }
    answer = await done(house, "POST", "/api/try", wish)
    assert answer["status"] == 200
    assert answer["body"]["object"] == "video"
    assert answer["headers"]["reelway-adjusted"] == "seconds=4>5"
    task = await got(house, f"/api/tasks/{answer['body']['id']}")
    assert (task["owner"], task["model"]) == (house.made.record.owner, "sora-2-on-kling")
    await house.finished(task["id"])
    refusal = await done(house, "POST", "/api/try", {**wish, "model": "nobody"})
    assert (refusal["status"], refusal["body"]["error"]["code"]) == (404, "model_not_found")
    stranger = await done(house, "POST", "/api/try", {**wish, "token": "rw_wrong"})
    assert stranger["status"] == 401
    for wrong, param in (({"token": "a\r\nb"}, "token"), ({"seconds": 0}, "seconds")):
        said = await refused(house, "POST", "/api/try", {**wish, **wrong})
        assert (said[0], said[2]) == (400, param)


async def test_a_clients_port_on_a_unix_socket_is_asked_as_well(
    open_house: OpenHouse, tmp_path: Path
) -> None:
    """The console works wherever the clients' port listens."""
    async with open_house(Plan()) as house:
        task_id = await house.completed()
        url = (await got(house, f"/api/tasks/{task_id}"))["content_url"]
        whole = await house.get(f"/v1/videos/{task_id}/content")
        there = house.url
        bound = await asyncio.start_unix_server(
            lambda reader, writer: _carry(there, reader, writer), tmp_path / "front.sock"
        )
        house.stack.callback(bound.close)
        house.server.url = f"unix:{tmp_path}/front.sock"
        assert (await ask(house, "GET", url)).body == whole.body
        wish = {"token": house.token, "model": "sora-2", "prompt": "a cat"}
        assert (await done(house, "POST", "/api/try", wish))["status"] == 200


async def _carry(url: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection, to where the port really is."""
    host, port = url.removeprefix("http://").split(":")
    answers, back = await asyncio.open_connection(host, int(port))

    async def move(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()

    jobs = [asyncio.ensure_future(move(reader, back)), asyncio.ensure_future(move(answers, writer))]
    await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    for job in jobs:
        job.cancel()
    back.close()
    writer.close()


async def test_a_clients_port_that_is_gone_is_said(house: House, free_port: int) -> None:
    house.server.url = f"http://127.0.0.1:{free_port}"
    wish = {"token": house.token, "model": "sora-2", "prompt": "a cat"}
    status, code, _, message = await refused(house, "POST", "/api/try", wish)
    assert (status, code) == (503, "unavailable")
    assert "own port for clients does not answer" in message


# ---------------------------------------------------------------- who gets in, and what is said


async def with_admin(house: House, **changes: object) -> None:
    """Another worker of the house, with these settings of [admin], is asked from now on."""
    config = house.server.config
    admin = config.admin.model_copy(update=changes)
    house.server.config = replace(config, admin=admin)
    house.server.admin_url = (await house.another_worker()).admin_url


async def test_without_a_token_in_the_configuration_nobody_is_let_in(house: House) -> None:
    """And is told how to change that; what stands open still does."""
    await with_admin(house, token=None)
    for authorization in (None, "Bearer ", "Bearer None", f"Bearer {TOKEN}"):
        status, code, _, message = await refused(
            house, "GET", "/api/tokens", headers={"Authorization": authorization}
        )
        assert (status, code) == (401, "unauthorized")
        assert 'set token = "…" under [admin]' in message
    assert (await ask(house, "GET", "/readyz")).status == 200


async def test_an_address_that_guesses_is_soon_told_nothing(house: House) -> None:
    """Not even with the right token, so that it cannot learn which one that is."""
    wrong = {"Authorization": "Bearer guess"}
    for _ in range(MOST_WRONG):
        assert (await ask(house, "GET", "/api/tokens", headers=wrong)).status == 401
    for headers in (wrong, None):
        reply = await ask(house, "GET", "/api/tokens", headers=headers)
        assert (reply.status, reply.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert 1 <= int(reply.headers["Retry-After"]) <= 60
    assert (await ask(house, "GET", "/readyz", headers=wrong)).status == 200


async def test_every_answer_is_json_in_one_shape(house: House) -> None:
    """Whatever is wrong with the request; nothing of it is a traceback."""
    wanted: list[tuple[tuple[str, str, object], int, str]] = [
        (("GET", "/api/nope", None), 404, "endpoint_not_found"),
        (("DELETE", "/api/tokens", None), 405, "method_not_allowed"),
        (("PUT", "/api/tokens/x", {}), 405, "method_not_allowed"),
        (("GET", "/api/tokens/x", None), 404, "not_found"),
        (("POST", "/api/tokens", "x" * 300_000), 413, "request_too_large"),
    ]
    for (method, path, body), status, code in wanted:
        assert (await refused(house, method, path, body))[:2] == (status, code), path
    assert (await ask(house, "DELETE", "/api/tokens")).headers[
        "Allow"
    ] == "GET, HEAD, OPTIONS, POST"
    for data, kind, status in (
        (b"name=x", "application/x-www-form-urlencoded", 415),
        (b'{"name": "x"}', "text/plain", 415),
        (b"{", "application/json", 400),
        (b'{"name": "\xff"}', "application/json", 400),
        (b"[" * 10_000, "application/json", 400),
        (b"null", "application/json", 400),
        (b"", "application/json", 400),
    ):
        said = await refused(
            house, "POST", "/api/tokens", headers={"Content-Type": kind}, data=data
        )
        assert said[0] == status, (data[:20], said)


async def test_a_failure_of_ours_is_logged_and_said_without_its_reason(house: House) -> None:
    house.server.store.tokens.list = None  # type: ignore[method-assign, assignment]  # to fail
    status, code, _, message = await refused(house, "GET", "/api/tokens")
    assert (status, code) == (500, "internal_error")
    assert "TypeError" not in message
    assert "TypeError" in (house.config_path.parent / "gateway.log").read_text()


async def test_headers_keep_answers_out_of_caches_frames_and_guesses(house: House) -> None:
    for path in ("/api/tokens", "/api/nope", "/healthz"):
        reply = await ask(house, "GET", path)
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
        assert reply.headers["Server"] == "reelway"
        assert (reply.headers.get("Cache-Control") == "no-store") == path.startswith("/api/")


async def test_pages_of_other_origins_may_use_it_only_where_configured(house: House) -> None:
    origin, stranger = "https://ops.example", "https://evil.example"

    async def preflight(house: House, origin: str) -> Answer:
        headers = {
            "Authorization": None,
            "Origin": origin,
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        return await ask(house, "OPTIONS", "/api/tokens/x", headers=headers)

    assert (await preflight(house, origin)).status == 403
    reply = await ask(house, "GET", "/api/tokens", headers={"Origin": origin})
    assert "Access-Control-Allow-Origin" not in reply.headers
    await with_admin(house, origins=(origin,))
    allowed = await preflight(house, origin)
    assert allowed.status == 200
    assert allowed.headers["Access-Control-Allow-Origin"] == origin
    assert "PATCH" in allowed.headers["Access-Control-Allow-Methods"]
    assert (await preflight(house, stranger)).status == 403
    reply = await ask(house, "GET", "/api/tokens", headers={"Origin": origin})
    assert reply.headers["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Credentials" not in reply.headers


# ---------------------------------------------------------------- the console's files


async def test_the_consoles_files_are_served_and_nothing_else_is(house: House) -> None:
    """By their names, with a strict policy, to anybody: they hold no data."""
    nobody = {"Authorization": None}
    files = [path for path in sorted(CONSOLE.rglob("*")) if path.is_file()]
    assert CONSOLE / "index.html" in files
    for path in files:
        name = path.relative_to(CONSOLE).as_posix()
        reply = await ask(house, "GET", f"/console/{name}", headers=nobody)
        assert (reply.status, reply.body) == (200, path.read_bytes()), name
        policy = reply.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert reply.headers["Cache-Control"] == "no-cache"
        same = {**nobody, "If-None-Match": f'"x", W/{reply.headers["ETag"]}'}
        known = await ask(house, "GET", f"/console/{name}", headers=same)
        assert (known.status, known.body) == (304, b"")
    index = await ask(house, "GET", "/", headers=nobody)
    assert index.headers["Content-Type"] == "text/html; charset=utf-8"
    assert index.body == (CONSOLE / "index.html").read_bytes()
    assert (await ask(house, "HEAD", "/", headers=nobody)).body == b""
    for name in ("../app.py", "..%2Fapp.py", "%2e%2e/app.py", "nope.js", "/etc/passwd", "pages"):
        reply = await ask(house, "GET", f"/console/{name}", headers=nobody)
        assert reply.status in (401, 404), name
        assert json.loads(reply.body)["error"]["code"] in ("not_found", "unauthorized")


async def test_the_document_describes_every_route_there_is(house: House) -> None:
    reply = await ask(house, "GET", "/openapi.json", headers={"Authorization": None})
    document: dict[str, Any] = reply.json()
    assert document["openapi"] == "3.1.0"
    described = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    assert {(action.method, action.path) for action in admin_app.ACTIONS} <= described
    for method, path in sorted(described):
        asked = path.replace("{", "x").replace("}", "")
        assert (await ask(house, method, asked, {} if method != "GET" else None)).status != 405
    async with asyncio.timeout(WAIT_S):
        assert (await ask(house, "HEAD", "/openapi.json")).status == 200
