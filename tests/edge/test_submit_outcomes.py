"""A submit costs one render or none, whatever the upstream does in the middle of it; and the
client is told which of the two, or that nobody knows yet."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData

from proxy.model import DialectName, Stage, Task
from proxy.sim.faults import Fault
from proxy.sim.log import SUBMITS, Entry
from proxy.store import keys
from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.refusals import (
    DOORS,
    JSON,
    assert_quiet,
    error_of,
    head_of,
    peer_of,
    until_logged,
)

MODELS = {"openai": "sora-2", "kling": "sora-2-on-kling", "jimeng": "sora-2-on-jimeng"}
EACH_SERVICE = pytest.mark.parametrize("service", list(MODELS))
HASTY = "submit_s = 0.3\nconnect_s = 0.2\nconfirm_s = "


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path) -> Iterator[None]:
    """An upstream's trouble is no error of ours."""
    yield
    assert_quiet(tmp_path)


def is_submit(service: str) -> Callable[[Entry], bool]:
    return lambda entry: entry.service == service and entry.operation in SUBMITS


_HAPPENED = re.compile(r"sent attempt \d+ to [\w-]+/\w+|(attempt \d+ )?\w+")


async def stored(house: House, task_id: object) -> Task:
    task = await house.server.store.tasks.get(str(task_id))
    assert task is not None
    return task


async def events(house: House, task_id: object) -> list[str]:
    """The task's time line, by what happened alone: no ids, no reasons."""
    line = await house.server.store.tasks.time_line(str(task_id))
    return [_HAPPENED.match(entry.event)[0] for entry in line]  # type: ignore[index]  # or it fails


def submit_line(house: House) -> Mapping[str, object]:
    """The one access line of a submit; providers' callbacks have lines of their own."""
    (line,) = [line for line in house.lines if line["operation"] == "create"]
    return line


async def submit(house: House, service: str, prompt: str = "a cat", **more: Any) -> Answer:
    wanted = {"model": MODELS[service], "prompt": prompt, **more}
    return await house.post("/v1/videos", json=wanted)


async def forgiven(house: House) -> None:
    """As if no credential had been refused before, and no upstream had failed."""
    for service in MODELS:
        for name in (f"sim-{service}", f"sim-{service}/a"):
            await house.server.store.credentials.reset(name)


def assert_private(house: House, reply: Answer) -> None:
    """Not a word about where the upstream is, or how we get in there."""
    sim = house.sim
    secrets = [sim.openai_url, sim.kling_url, sim.jimeng_url, sim.cdn_url, "sk-sim", "127.0.0.1"]
    secrets += [key for keys in sim.credentials.values() for key in keys.values()]
    for secret in secrets:
        assert secret.removeprefix("http://") not in reply.body.decode()


# ---------------------------------------------------------------- refused


@dataclass(frozen=True)
class No:
    """An upstream's refusal, and what becomes of it."""

    fault: dict[str, Any]
    status: int
    code: str
    retry_after: str | None = None


REFUSALS: dict[str, dict[str, No]] = {
    "openai": {
        "bad request": No({"status": 400, "code": "invalid_value"}, 400, "invalid_value"),
        "unprocessable": No({"status": 422, "code": "x"}, 400, "invalid_value"),
        "moderation": No({"status": 400, "code": "moderation_blocked"}, 400, "moderation_blocked"),
        "key": No({"status": 401}, 502, "upstream_credential_refused"),
        "forbidden": No({"status": 403, "code": "no"}, 502, "upstream_credential_refused"),
        "no such model": No({"status": 404, "code": "model_not_found"}, 502, "upstream_error"),
        "too large": No({"status": 413, "code": "x"}, 413, "request_too_large"),
        "rate": No({"status": 429, "retry_after": "7"}, 429, "rate_limit_exceeded", "7"),
        "rate, no time": No({"status": 429}, 429, "rate_limit_exceeded", "5"),
        "rate, for ever": No(
            {"status": 429, "retry_after": "86400"}, 429, "rate_limit_exceeded", "120"
        ),
        "quota": No(
            {"status": 429, "code": "insufficient_quota"}, 429, "rate_limit_exceeded", "60"
        ),
        "overloaded": No({"status": 503, "code": "server_overloaded"}, 503, "unavailable", "5"),
    },
    "kling": {
        "bad request": No({"status": 400, "code": 1201}, 400, "invalid_value"),
        "moderation": No({"status": 400, "code": 1301}, 400, "moderation_blocked"),
        "key": No({"status": 401, "code": 1002}, 503, "unavailable"),
        "arrears": No({"status": 429, "code": 1101}, 503, "unavailable"),
        "rate": No({"status": 429, "code": 1302}, 429, "rate_limit_exceeded", "2"),
        "rate, with a time": No(
            {"status": 429, "code": 1302, "retry_after": "9"}, 429, "rate_limit_exceeded", "9"
        ),
        "in flight": No({"status": 429, "code": 1303}, 429, "too_many_in_flight", "10"),
        "maintenance": No({"status": 503, "code": 5001}, 503, "unavailable"),
        "method": No({"status": 404, "code": 1202}, 502, "upstream_error"),
        "a balancer's 429": No({"status": 429, "body": "<html>"}, 429, "rate_limit_exceeded", "5"),
    },
    "jimeng": {
        "bad request": No({"status": 400, "code": 50200}, 400, "invalid_value"),
        "moderation": No({"status": 400, "code": 50412}, 400, "moderation_blocked"),
        "signature": No({"status": 401, "code": 100010}, 503, "unavailable"),
        "denied": No({"status": 400, "code": 50400}, 503, "unavailable"),
        "rate": No({"status": 429, "code": 50429}, 429, "rate_limit_exceeded", "2"),
        "in flight": No({"status": 429, "code": 50430}, 429, "too_many_in_flight", "10"),
        "the check broke": No({"status": 400, "code": 50520}, 502, "upstream_error"),
    },
}  # fmt: skip


@EACH_SERVICE
async def test_a_refusal_is_told_and_costs_nothing(house: House, service: str) -> None:
    """The task that was durable before the upstream heard of it is closed and hidden."""
    for number, (name, no) in enumerate(REFUSALS[service].items(), start=1):
        house.lines.clear()
        await forgiven(house)
        house.sim.faults.add(Fault("status", service, "submit", **no.fault))
        reply = await submit(house, service)
        error = error_of("openai", reply.headers, reply.body)
        told = (reply.status, error["code"], reply.headers.get("Retry-After"))
        assert told == (no.status, no.code, no.retry_after), (name, error)
        assert_private(house, reply)

        assert (house.sim.submits(service), house.sim.renders(service)) == (number, 0), name

        line = submit_line(house)
        assert (line["status"], line["reason"]) == (no.status, no.code), name
        assert (line["upstream"], line["credential"]) == (f"sim-{service}", "a"), name
        task = await stored(house, line["task_id"])
        assert (task.stage, task.deleted) == (Stage.FAILED, True), name
        assert task.error is not None
        assert task.error.code == no.code, name
        story = await events(house, task.id)
        assert story[:2] == ["reserved", f"sent attempt 1 to sim-{service}/a"], name
        assert story[2:] in (["refused"], ["attempt 1 refused"]), name
        assert (await house.get(f"/v1/videos/{task.id}")).status == 404, name
    assert await house.server.store.tasks.open_count() == 0
    assert (await house.get("/v1/videos")).json()["data"] == []


SAYS_NO = ("rate", "moderation", "bad request", "key")
NATIVE: dict[DialectName, dict[str, int]] = {
    "openai": {},
    "generic": {},
    "kling": {"rate": 1302, "moderation": 1301, "bad request": 1201, "key": 5001},
    "jimeng": {"rate": 50429, "moderation": 50412, "bad request": 50200, "key": 50500},
}


async def test_a_refusal_is_told_in_the_clients_own_dialect(house: House) -> None:
    """Whoever renders: here Kling does, for clients of all four."""
    for dialect, door in DOORS.items():
        for name in SAYS_NO:
            no = REFUSALS["kling"][name]
            await forgiven(house)
            house.sim.faults.add(Fault("status", "kling", "submit", **no.fault))
            body = door.body(**{door.model_field: "sora-2-on-kling"})
            reply = await house.post(door.submit, json=body)
            error = error_of(dialect, reply.headers, reply.body)
            assert (reply.status, error["code"]) == (no.status, no.code), (dialect, name)
            assert reply.headers.get("Retry-After") == no.retry_after, (dialect, name)
            if NATIVE[dialect]:
                assert reply.json()["code"] == NATIVE[dialect][name], (dialect, name)
            assert_private(house, reply)
    assert (house.sim.submits("kling"), house.sim.renders("kling")) == (16, 0)


async def test_an_upstream_that_is_not_there_is_502(house: House) -> None:
    for service in MODELS:
        house.lines.clear()
        await house.sim.refuse(service)
        reply = await submit(house, service)
        error = error_of("openai", reply.headers, reply.body)
        assert (reply.status, error["code"]) == (502, "upstream_unreachable")
        assert "nothing was submitted" in error["message"]
        assert reply.headers["Retry-After"] == "5"
        assert_private(house, reply)
        assert house.sim.submits(service) == 0
        line = submit_line(house)
        assert (line["status"], line["reason"]) == (502, "upstream_unreachable")
        assert (await stored(house, line["task_id"])).stage is Stage.FAILED

        await house.sim.accept(service)
        assert (await submit(house, service, "again")).status == 200
        assert (house.sim.submits(service), house.sim.renders(service)) == (1, 1)


async def test_a_submit_never_follows_a_redirect(house: House) -> None:
    """Repeated at the new place it could be rendered twice, or reach a stranger."""
    for status in (301, 302, 307, 308):
        place = house.sim.kling_url + "/v1/videos/text2video"
        house.sim.faults.add(Fault("redirect", "openai", "submit", status=status, location=place))
        reply = await submit(house, "openai", f"cat {status}")
        assert (reply.status, reply.json()["error"]["code"]) == (502, "upstream_error")
        assert_private(house, reply)
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (4, 0)
    assert house.sim.log.select("kling") == []


# ---------------------------------------------------------------- nobody can say


UNKNOWNS: dict[str, tuple[Fault, int]] = {  # and how many renders it leaves behind
    "cut before it was read": (Fault("hangup"), 0),
    "reset before it was read": (Fault("hangup", reset=True), 0),
    "the reply was lost": (Fault("lost"), 1),
    "the reply was reset": (Fault("lost", reset=True), 1),
    "the reply broke off": (Fault("cut", at=10), 1),
    "500 after it was taken": (Fault("accepted_status", status=500), 1),
    "502 of a balancer": (Fault("accepted_status", status=502, body="<html>"), 1),
    "half of the JSON": (Fault("malformed"), 1),
    "JSON of another kind": (Fault("malformed", body='{"ok":true}'), 1),
    "silence": (Fault("stall", at=None), 1),
    "silence before it was read": (Fault("hold"), 0),
}


@EACH_SERVICE
async def test_an_outcome_nobody_knows_is_one_task_and_one_submit(
    open_house: OpenHouse, service: str
) -> None:
    """Never resent. Kling is asked for the job by the id we gave it: found, it ends as if
    nothing had happened; unknown there, it never was. Nobody else can be asked, so the client
    gets a task that has failed already, and says why."""
    async with open_house(Plan(timeouts=HASTY + "600")) as house:
        tasks: dict[str, tuple[str, int]] = {}
        for number, (name, (fault, renders)) in enumerate(UNKNOWNS.items(), start=1):
            house.lines.clear()
            await forgiven(house)
            here = replace(fault, service=service, operation="submit")
            active = house.sim.faults.add(here)
            before = house.sim.renders(service)
            reply = await submit(house, service, f"cat {number}")
            video = reply.json()
            assert reply.status == 200, name
            if service == "kling":  # its callback may tell of the job before the submit ends
                assert video["error"] is None, name
            else:
                assert video["status"] == "failed", name
                assert video["error"]["code"] == "submission_unconfirmed", name
                assert "Nothing was charged" in video["error"]["message"], name
                assert_private(house, reply)
            house.sim.faults.remove(active)
            assert house.sim.submits(service) == number, name
            tasks[name] = (str(video["id"]), renders)
            line = submit_line(house)
            assert (line["status"], line["reason"]) == (200, "done"), name
            assert (line["task_id"], line["upstream"]) == (video["id"], f"sim-{service}"), name
            if "before it was read" not in name:
                assert house.sim.renders(service) == before + renders, name

        for name, (task_id, renders) in tasks.items():
            video = await house.finished(task_id)
            story = await events(house, task_id)
            assert story[:2] == ["reserved", f"sent attempt 1 to sim-{service}/a"], name
            if service == "kling" and renders:
                assert video["status"] == "completed", name
                assert story.count("found") == 1, name
                assert (await house.get(f"/v1/videos/{task_id}/content")).status == 200, name
                continue
            assert (video["status"], story[2]) == ("failed", "unconfirmed"), name
            code = "not_submitted" if service == "kling" else "submission_unconfirmed"
            assert video["error"]["code"] == code, name
            assert len(story) == (4 if service == "kling" else 3), name
        assert house.sim.submits(service) == len(UNKNOWNS)
        assert await house.server.store.tasks.open_count() == 0


PRICED = """
[[routes]]
model = "priced"
upstream = "sim-openai"
upstream_model = "sora-2"
price = { per_video = "0.25" }
"""


async def test_a_submit_nobody_can_confirm_is_settled_at_once(open_house: OpenHouse) -> None:
    """Its hold is free again, the ledger keeps a loss for the operator, and the client's own
    retry under its key gets the same task: no second render."""
    async with open_house(Plan(routes=PRICED)) as house:
        house.sim.faults.add(Fault("lost", "openai", "submit"))
        key = {"Idempotency-Key": "once"}
        body = {"model": "priced", "prompt": "a cat"}
        video = (await house.post("/v1/videos", json=body, headers=key)).json()
        assert (video["status"], video["error"]["code"]) == ("failed", "submission_unconfirmed")
        task = await stored(house, video["id"])
        assert (task.stage, task.settled_micro, task.deleted) == (Stage.FAILED, 0, False)
        bookings = [
            (booking.kind, booking.micro)
            async for booking in house.server.store.ledger.entries(
                task.owner, keys.month(task.created_ms)
            )
            if booking.task_id == task.id
        ]
        assert sorted(bookings) == [("hold", 250_000), ("loss", 250_000), ("refund", 250_000)]
        again = await house.post("/v1/videos", json=body, headers=key)
        assert (again.json()["id"], again.headers["idempotent-replayed"]) == (video["id"], "true")
        assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)
        assert await house.server.store.tasks.open_count() == 0


async def test_a_job_found_again_is_the_one_that_was_lost(open_house: OpenHouse) -> None:
    """By our own id as Kling's `external_task_id`, never by its prompt or time: here two lost
    submits are alike to the letter, and each gets its own video."""
    async with open_house(Plan(timeouts=HASTY + "10")) as house:
        house.sim.faults.add(Fault("lost", "kling", "submit", times=2))
        ids = [await house.create("sora-2-on-kling") for _ in range(2)]
        for task_id in ids:
            assert (await house.finished(task_id))["status"] == "completed"
        jobs = house.sim.tasks.of("kling")
        assert [job.request["external_task_id"] for job in jobs] == ids
        assert [(await stored(house, i)).upstream_id for i in ids] == [job.id for job in jobs]
        assert len({(await stored(house, i)).results[0].id for i in ids}) == 2
        assert house.sim.submits("kling") == 2


async def test_a_look_up_that_fails_is_repeated_not_believed(open_house: OpenHouse) -> None:
    """Only Kling's own word that it knows no such task counts."""
    async with open_house(Plan(timeouts=HASTY + "30")) as house:
        faults = house.sim.faults
        faults.add(Fault("lost", "kling", "submit"))
        faults.add(Fault("status", "kling", "poll", status=500, times=1))
        faults.add(Fault("malformed", "kling", "poll", times=1, skip=1))
        task_id = await house.create("sora-2-on-kling")
        assert (await house.finished(task_id))["status"] == "completed"
        looked = house.sim.log.select("kling", "poll")
        assert len([entry for entry in looked if entry.faults]) == 2
        assert (house.sim.submits("kling"), house.sim.renders("kling")) == (1, 1)


# ---------------------------------------------------------------- elsewhere


EITHER = """
[[routes]]
model = "either"
upstream = [{ name = "sim-openai", weight = 1 }, { name = "sim-kling", weight = 0 }]
upstream_model = "kling-v2-6"
"""


async def either(house: House) -> Answer:
    return await house.post("/v1/videos", json={"model": "either", "prompt": "a cat"})


async def test_what_one_upstream_refuses_the_next_one_renders_once(open_house: OpenHouse) -> None:
    refusals = {
        "rate": Fault("status", "openai", "submit", status=429),
        "key": Fault("status", "openai", "submit", status=401),
        "overloaded": Fault("status", "openai", "submit", status=503, code="server_overloaded"),
        "moved": Fault("redirect", "openai", "submit", status=307, location="/v1/videos"),
        "not there": None,
    }
    async with open_house(Plan(routes=EITHER)) as house:
        sim = house.sim
        for number, (name, fault) in enumerate(refusals.items(), start=1):
            house.lines.clear()
            await forgiven(house)
            if fault is None:
                await sim.refuse("openai")
            else:
                sim.faults.add(fault)
            reply = await either(house)
            assert (reply.status, reply.json()["status"]) == (200, "queued"), name
            task_id = reply.json()["id"]
            line = submit_line(house)
            assert (line["status"], line["upstream"]) == (200, "sim-kling"), name
            assert (await house.finished(task_id))["status"] == "completed", name

            told = number if fault is not None else number - 1
            assert (sim.submits("openai"), sim.submits("kling")) == (told, number), name
            assert (sim.renders("openai"), sim.renders("kling")) == (0, number), name
            assert (await events(house, task_id))[:4] == [
                "reserved",
                "sent attempt 1 to sim-openai/a",
                "sent attempt 2 to sim-kling/a",
                "accepted",
            ], name
            assert (await stored(house, task_id)).attempt == 2, name


async def test_what_is_wrong_everywhere_or_may_be_under_way_goes_nowhere_else(
    open_house: OpenHouse,
) -> None:
    faults = [
        (Fault("status", "openai", "submit", status=400, code="invalid_value"), 400),
        (Fault("status", "openai", "submit", status=400, code="moderation_blocked"), 400),
        (Fault("lost", "openai", "submit"), 200),
        (Fault("hangup", "openai", "submit"), 200),
        (Fault("status", "openai", "submit", status=500), 200),
        (Fault("malformed", "openai", "submit"), 200),
    ]
    async with open_house(Plan(routes=EITHER)) as house:
        for number, (fault, status) in enumerate(faults, start=1):
            house.lines.clear()
            house.sim.faults.add(fault)
            assert (await either(house)).status == status, fault
            assert (house.sim.submits("openai"), house.sim.submits("kling")) == (number, 0), fault
            assert submit_line(house)["upstream"] == "sim-openai", fault


async def test_when_all_refuse_nothing_is_rendered_and_the_client_is_told(
    open_house: OpenHouse,
) -> None:
    """A verdict on the request itself counts more than an account's trouble."""
    cases: list[tuple[Fault, tuple[int, str]]] = [
        (Fault("status", "kling", "submit", status=429, code=1302), (429, "rate_limit_exceeded")),
        (Fault("status", "kling", "submit", status=400, code=1201), (400, "invalid_value")),
        (Fault("status", "kling", "submit", status=400, code=1301), (400, "moderation_blocked")),
    ]
    async with open_house(Plan(routes=EITHER)) as house:
        for number, (fault, told) in enumerate(cases, start=1):
            house.lines.clear()
            await forgiven(house)
            house.sim.faults.add(Fault("status", "openai", "submit", status=429))
            house.sim.faults.add(fault)
            reply = await either(house)
            error = error_of("openai", reply.headers, reply.body)
            assert (reply.status, error["code"]) == told
            assert (house.sim.submits("openai"), house.sim.submits("kling")) == (number, number)
            line = submit_line(house)
            assert ((line["status"], line["reason"]), line["upstream"]) == (told, "sim-kling")
            story = await events(house, line["task_id"])
            assert story[:3] == [
                "reserved",
                "sent attempt 1 to sim-openai/a",
                "sent attempt 2 to sim-kling/a",
            ]
            assert len(story) == 4
        assert (house.sim.renders("openai"), house.sim.renders("kling")) == (0, 0)
        assert await house.server.store.tasks.open_count() == 0


# ---------------------------------------------------------------- clients that leave


@EACH_SERVICE
async def test_a_client_that_leaves_inside_a_submit_changes_nothing(
    house: House, service: str
) -> None:
    """The upstream has been asked: the task is bound, once, and goes on to its end."""
    hold = house.sim.faults.add(Fault("hold", service, "submit"))
    async with peer_of(house) as peer:
        body = '{"model":"%s","prompt":"a cat"}' % MODELS[service]  # noqa: UP031 -- braces
        head = head_of("POST", "/v1/videos", Content_Length=str(len(body)), **JSON, **house.bearer)
        peer.send(head + body)
        await house.sim.wait_for(lambda entry: is_submit(service)(entry) and entry.stalled)
    line = await house.line(lambda line: line["operation"] == "create")
    assert line["reason"] == "client_gone"
    assert (await stored(house, line["task_id"])).stage is Stage.SENT
    hold.release()
    video = await house.finished(str(line["task_id"]))
    assert video["status"] == "completed"
    assert (house.sim.submits(service), house.sim.renders(service)) == (1, 1)
    story = await events(house, line["task_id"])
    assert story.count("accepted") == 1
    assert submit_line(house) is line


async def test_a_worker_that_stops_inside_a_submit_waits_for_its_outcome(
    open_house: OpenHouse,
) -> None:
    """Closing the worker while the upstream thinks loses no paid job."""
    async with open_house(Plan(manual=True)) as house:
        worker = await house.another_worker()
        hold = house.sim.faults.add(Fault("hold", "openai", "submit"))
        asked = asyncio.ensure_future(
            house.post("/v1/videos", json={"prompt": "a cat"}, base=worker.url)
        )
        await house.sim.wait_for(lambda entry: entry.stalled)
        closing = asyncio.ensure_future(worker.__aexit__())
        line = await house.line(lambda line: line["operation"] == "create")
        hold.release()
        await closing
        with pytest.raises(Exception, match=r"(?i)disconnect|reset"):
            await asked
        assert (await stored(house, line["task_id"])).upstream_id is not None
        assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)


# ---------------------------------------------------------------- uploads


PNG = b"\x89PNG\r\n\x1a\n" + bytes(400_000)  # more than the spool keeps in memory


def picture_form(model: str, prompt: str = "a cat") -> FormData:
    form = FormData()
    form.add_field("model", model)
    form.add_field("prompt", prompt)
    form.add_field("input_reference", PNG, filename="a.png", content_type="image/png")
    return form


ENDINGS: list[tuple[str, Fault | None, int]] = [
    ("accepted", None, 200),
    ("refused", Fault("status", status=400), 400),
    ("refused for now", Fault("status", status=429), 429),
    ("cut", Fault("hangup"), 200),
    ("lost", Fault("lost"), 200),
    ("malformed", Fault("malformed"), 200),
]


@pytest.mark.parametrize("service", ["openai", "kling"])
async def test_an_upload_is_given_back_whatever_becomes_of_its_submit(
    house: House, service: str
) -> None:
    """Held while the upstream reads it, and not a moment longer."""
    held = 0
    for name, fault, status in ENDINGS:
        await forgiven(house)
        hold = house.sim.faults.add(Fault("hold", service, "submit"))
        if fault is not None:
            house.sim.faults.add(replace(fault, service=service, operation="submit"))
        form = picture_form(MODELS[service], name)
        asked = asyncio.ensure_future(house.post("/v1/videos", data=form))
        if name != "cut":  # which it is at once, held or not
            held += 1
            await house.sim.wait_for(lambda entry: entry.stalled, count=held)
            assert house.server.parts.spool.held_bytes == len(PNG), name
        hold.release()
        assert (await asked).status == status, name
        assert house.server.parts.spool.held_bytes == 0, name
        house.sim.faults.clear()
    whole = [e for e in house.sim.log.entries if is_submit(service)(e) and e.status == 200]
    assert {upload.size for entry in whole for upload in entry.uploads} == {len(PNG)}

    await house.sim.refuse(service)
    reply = await house.post("/v1/videos", data=picture_form(MODELS[service]))
    assert (reply.status, house.server.parts.spool.held_bytes) == (502, 0)
    reply = await house.post("/v1/videos", data=picture_form("nobody's"))
    assert (reply.status, house.server.parts.spool.held_bytes) == (404, 0)


async def test_a_full_spool_is_503_before_anything_is_submitted(open_house: OpenHouse) -> None:
    limits = "spool_bytes = 500000\nupload_bytes = 450000\njson_bytes = 100000"
    async with open_house(Plan(limits=limits)) as house:
        hold = house.sim.faults.add(Fault("hold", "openai", "submit"))
        first = asyncio.ensure_future(house.post("/v1/videos", data=picture_form("sora-2")))
        await house.sim.wait_for(lambda entry: entry.stalled)
        reply = await house.post("/v1/videos", data=picture_form("sora-2", "another"))
        error = error_of("openai", reply.headers, reply.body)
        assert (reply.status, error["code"]) == (503, "spool_full")
        assert reply.headers["Retry-After"] == "5"
        assert house.lines[-1]["reason"] == "spool_full"
        hold.release()
        assert (await first).status == 200
        assert house.sim.submits("openai") == 1
        assert house.server.parts.spool.held_bytes == 0
        again = await house.post("/v1/videos", data=picture_form("sora-2", "another"))
        assert again.status == 200


async def test_what_an_upstream_says_is_in_the_log_and_not_with_the_client(house: House) -> None:
    """Addresses and keys inside an upstream's message stay with the operator."""
    message = f"failed at {house.sim.openai_url}/internal with key sk-sim-secret-0001"
    house.sim.faults.add(Fault("status", "openai", "submit", status=400, message=message))
    reply = await submit(house, "openai")
    assert reply.status == 400
    assert "[address]" in reply.json()["error"]["message"]
    assert "sk-sim" not in reply.body.decode()
    assert_private(house, reply)
    logged = await until_logged(house, "submit refused")
    assert logged["upstream"] == "sim-openai"
