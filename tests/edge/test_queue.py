"""Submits that find every key busy wait for their turn: in order, each rendered once, refunded
when they are not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from aiohttp import FormData

from proxy.model import Credential, Stage, Task
from proxy.sim.faults import Fault
from proxy.sim.log import SUBMITS, Entry
from proxy.sim.openai import KEYS as OPENAI_KEYS
from proxy.sim.settings import Account
from proxy.store import StoreDown
from proxy.tokens import MadeToken
from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.tasks import new_task

WAIT_S = 20.0  # only a hang gets here
UP = "sim-kling"
MODEL = "kling-v2-6"
OTHER_MODEL = "sora-2-on-kling"
SECOND = Account(
    {
        "openai": {"api_key": "sk-2"},
        "kling": {"access_key": "AK2", "secret_key": "SK2", "api_key": "kling-2"},
        "jimeng": {"access_key": "AKLT2", "secret_key": "c2Vjb25k"},
    }
)
PRICE = {"per_video": "0.40"}
SHORT = "lease_s = 0.1\npoll_s = 0.2\n"  # how often a waiting task is looked at


@pytest.fixture
async def house(open_house: OpenHouse) -> AsyncIterator[House]:
    """One account with one place, whose renders move only when a test says so."""
    async with open_house(Plan(manual=True)) as opened:
        give(opened)
        yield opened


def give(house: House, *, queue: int = 60, most: int = 1, max_age_s: float | None = None) -> None:
    """This queue and these places to Kling's routes, from now on, in a running worker;
    `max_age_s` to the second of them."""
    config = house.server.config
    upstream = config.upstreams[UP]
    credentials = tuple(replace(key, max_in_flight=most) for key in upstream.credentials)
    upstreams = {**config.upstreams, UP: replace(upstream, credentials=credentials)}
    routes = tuple(
        replace(
            row,
            queue=queue,
            price=PRICE,
            max_age_s=max_age_s if row.model == OTHER_MODEL else None,
        )
        if UP in dict(row.upstreams)
        else row
        for row in config.routes
    )
    house.server.config = replace(config, upstreams=upstreams, routes=routes)


async def submit(
    house: House, prompt: str = "a cat", made: MadeToken | None = None, **more: Any
) -> Answer:
    headers = more.pop("headers", {})
    if made is not None:
        headers = {**headers, "Authorization": f"Bearer {made.token}"}
    body = {"model": more.pop("model", MODEL), "prompt": prompt}
    return await house.post("/v1/videos", json=body, headers=headers, **more)


async def waits(house: House, prompt: str = "a cat", **more: Any) -> str:
    """The id of a task that was accepted and waits."""
    reply = await submit(house, prompt, **more)
    assert reply.status == 200, reply.body
    video = reply.json()
    assert (video["status"], video["progress"]) == ("queued", 0)
    task = await known(house, video["id"])
    assert task.is_waiting
    return str(video["id"])


async def busy(house: House) -> str:
    """The one place is taken; the id of the task that has it."""
    reply = await submit(house, "first")
    assert reply.status == 200
    assert not (await known(house, reply.json()["id"])).is_waiting
    return str(reply.json()["id"])


async def known(house: House, task_id: str) -> Task:
    task = await house.server.store.tasks.get(task_id)
    assert task is not None
    return task


async def count(house: House) -> int:
    return await house.server.store.waiting.count(UP)


async def events(house: House, task_id: str) -> list[str]:
    return [entry.event for entry in await house.server.store.tasks.time_line(task_id)]


def is_submit(entry: Entry) -> bool:
    return entry.operation in SUBMITS and entry.done


def is_taken(entry: Entry) -> bool:
    return is_submit(entry) and entry.task_id is not None


def prompts(house: House) -> list[object]:
    """Of all submits, in the order they came."""
    return [entry.body["prompt"] for entry in house.sim.log.entries if is_submit(entry)]


async def finish_next(house: House, number: int) -> Entry:
    """Wait for the `number`-th submit, and let its render end."""
    entry = await house.sim.wait_for(is_submit, count=number, timeout_s=WAIT_S)
    assert entry.task_id is not None
    house.sim.finish(entry.task_id)
    return entry


async def accounts_agree(house: House) -> None:
    """Every hold is settled or refunded, and nothing of a queue is left."""
    store = house.server.store
    async with asyncio.timeout(WAIT_S):  # who ends a task takes it out of its queue just after
        for pattern in ("rw:{q:*", "rw:*:blob:*"):
            while await store.batch.call("KEYS", pattern):  # noqa: ASYNC110 -- no event for it
                await asyncio.sleep(0.005)
    found = await store.ledger.check(int(time.time() * 1000))
    assert found.problems == ()
    usage = (await house.get("/v1/usage")).json()
    assert (usage["tasks_in_flight"], float(usage["held"]["total"])) == (0, 0)


async def until_empty(house: House) -> None:
    async with asyncio.timeout(WAIT_S):
        while await count(house):  # noqa: ASYNC110 -- there is no event for it
            await asyncio.sleep(0.005)


async def until_quiet(house: House) -> None:
    async with asyncio.timeout(WAIT_S):
        while await house.server.store.tasks.open_count():  # noqa: ASYNC110 -- no event for it
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- whose turn it is


async def test_tokens_take_turns_and_each_has_its_order(house: House) -> None:
    b, c = await house.new_token(name="b"), await house.new_token(name="c")
    await busy(house)
    for prompt in ("a1", "a2", "a3"):
        await waits(house, prompt)
    for prompt in ("b1", "b2"):
        await waits(house, prompt, made=b)
    await waits(house, "c1", made=c)
    assert await house.server.store.waiting.counts([UP, "sim-openai"]) == {UP: 6, "sim-openai": 0}
    for number in range(1, 8):
        await finish_next(house, number)
    await until_quiet(house)
    assert prompts(house) == ["first", "a1", "b1", "c1", "a2", "b2", "a3"]
    await accounts_agree(house)


async def test_its_time_line_says_that_it_waited_and_when_it_was_sent(house: House) -> None:
    """Its client is told what will become of it from the start."""
    await busy(house)
    body = {"model": MODEL, "prompt": "a cat", "seconds": "4"}
    reply = await house.post("/v1/videos", json=body)
    assert reply.json()["seconds"] == "5"
    assert reply.headers["reelway-adjusted"].startswith("seconds=4>5")
    line = await house.line(lambda line: line.get("reason") == "queued")
    assert (line["status"], line["upstream"]) == (200, UP)
    task_id = reply.json()["id"]
    assert not [e for e in house.sim.log.entries if task_id in str(e.target)], "nobody asks yet"
    for number in (1, 2):
        await finish_next(house, number)
    assert (await house.finished(task_id))["status"] == "completed"
    found = await events(house, task_id)
    assert found[:3] == [
        "reserved",
        f"waiting in the queue of {UP}",
        f"sent attempt 1 to {UP}/a",
    ]
    assert found[3].startswith("accepted as")
    await accounts_agree(house)


async def test_a_full_queue_refuses_as_if_there_were_none(house: House) -> None:
    """Nothing is left of such a submit: no hold, no task, and its key is free."""
    give(house, queue=2)
    await busy(house)
    waiting = [await waits(house, f"cat {n}") for n in range(2)]
    key = {"Idempotency-Key": "k"}
    reply = await submit(house, "one too many", headers=key)
    assert (reply.status, reply.json()["error"]["code"]) == (429, "too_many_in_flight")
    assert "2 or more wait for a place already" in reply.json()["error"]["message"]
    assert reply.headers["Retry-After"] == "5"
    usage = (await house.get("/v1/usage")).json()
    assert (usage["tasks_in_flight"], usage["held"]["total"]) == (3, "1.20")
    await house.request("DELETE", f"/v1/videos/{waiting[0]}")
    again = await submit(house, "one too many", headers=key)
    assert again.status == 200
    assert "idempotent-replayed" not in again.headers
    assert await count(house) == 2


async def test_without_a_queue_a_busy_route_refuses(house: House) -> None:
    give(house, queue=0)
    await busy(house)
    assert (await submit(house)).status == 429
    assert house.sim.submits("kling") == 1


async def test_who_comes_later_stands_behind_those_who_wait(house: House) -> None:
    """Even when a place happens to be free; a route without a queue takes it."""
    store = house.server.store
    ahead = new_task(token_id="another")
    held_until_ms = int(time.time() * 1000) + 60_000
    assert await store.waiting.join(UP, ahead, held_until_ms=held_until_ms)
    reply = await submit(house, "later")
    assert reply.status == 200
    await house.sim.wait_for(is_submit)
    assert (await events(house, reply.json()["id"]))[1] == f"waiting in the queue of {UP}"
    await finish_next(house, 1)
    await house.finished(reply.json()["id"])
    give(house, queue=0)
    direct = (await submit(house, "direct")).json()["id"]
    assert (await events(house, direct))[1] == f"sent attempt 1 to {UP}/a"


@pytest.mark.parametrize("remixes", [1, 5])
async def test_one_that_can_go_to_one_account_only_holds_nobody_up(
    open_house: OpenHouse,
    monkeypatch: pytest.MonkeyPatch,
    remixes: int,
) -> None:
    """A remix waits for the account of its video, while others use the one that is free. Nor do
    more of them than are passed over in one round."""
    monkeypatch.setattr("proxy.tasks.queue.PASSED_OVER", 2)
    accounts = (Account(), SECOND)
    async with open_house(Plan(manual=True, sim={"accounts": accounts})) as house:
        config = house.server.config
        credentials = (
            Credential("a", OPENAI_KEYS["api_key"], max_in_flight=1),
            Credential("b", SECOND.keys["openai"]["api_key"], weight=0, max_in_flight=1),
        )
        upstream = replace(config.upstreams["sim-openai"], credentials=credentials)
        routes = tuple(
            replace(row, queue=9) if row.model == "sora-2" else row for row in config.routes
        )
        upstreams = {**config.upstreams, "sim-openai": upstream}
        house.server.config = replace(config, upstreams=upstreams, routes=routes)

        source = (await submit(house, "source", model="sora-2")).json()["id"]
        await finish_next(house, 1)
        assert (await house.finished(source))["status"] == "completed"
        for prompt in ("on a", "on b"):
            assert (await submit(house, prompt, model="sora-2")).status == 200
        for n in range(remixes):
            remix = await house.post(f"/v1/videos/{source}/remix", json={"prompt": f"remix {n}"})
            assert remix.status == 200
        await waits(house, "plain", model="sora-2")
        await finish_next(house, 3)
        entry = await house.sim.wait_for(is_submit, count=4)
        assert (entry.body["prompt"], entry.account) == ("plain", 1)
        await finish_next(house, 2)
        entry = await house.sim.wait_for(is_submit, count=5)
        assert (entry.operation, entry.account) == ("remix", 0)


async def test_fifty_that_wait_are_sent_once_each_by_two_workers(open_house: OpenHouse) -> None:
    """The provider has the same limit, and never had to say so."""
    async with open_house(Plan(sim={"max_in_flight": 2})) as house:
        give(house, most=2)
        house.sim.tasks.manual = True
        second = await house.another_worker()
        bases = (house.url, second.url)
        replies = await asyncio.gather(
            *(submit(house, f"cat {n}", base=bases[n % 2]) for n in range(52))
        )
        assert {reply.status for reply in replies} == {200}
        assert await count(house) == 50
        house.sim.tasks.manual = False
        for task in house.sim.tasks.of("kling"):
            house.sim.finish(task.id)
        await until_quiet(house)
        statuses = {(await known(house, reply.json()["id"])).status for reply in replies}
        assert statuses == {"completed"}
        assert (house.sim.submits("kling"), house.sim.renders("kling")) == (52, 52)
        assert len(set(map(str, prompts(house)))) == 52
        await accounts_agree(house)


# ---------------------------------------------------------------- asking again, leaving


async def test_who_asks_again_has_the_task_at_once(house: House) -> None:
    """From any worker, while it waits and while it is being sent: nobody waits for that."""
    second = await house.another_worker()
    await busy(house)
    key = {"Idempotency-Key": "k"}
    task_id = await waits(house, headers=key)

    async def asked_again() -> None:
        for base in (house.url, second.url):
            again = await submit(house, headers=key, base=base)
            assert (again.status, again.json()["id"]) == (200, task_id)
            assert again.headers["idempotent-replayed"] == "true"

    await asked_again()
    held = house.sim.faults.add(Fault("hold", "kling", "submit"))
    await finish_next(house, 1)
    await house.sim.wait_for(lambda e: e.operation == "submit" and e.stalled)
    await asked_again()
    held.release()
    await finish_next(house, 2)
    assert (await house.finished(task_id))["status"] == "completed"
    await asked_again()
    assert house.sim.submits("kling") == 2


async def test_a_deleted_task_leaves_the_queue_and_is_refunded(house: House) -> None:
    first = await busy(house)
    gone = await waits(house, "gone")
    stays = await waits(house, "stays")
    deleted = await house.request("DELETE", f"/v1/videos/{gone}")
    assert deleted.status == 200
    assert deleted.headers["reelway-cancel"] == "stopped"
    assert (await house.get(f"/v1/videos/{gone}")).status == 404
    assert (await house.request("DELETE", f"/v1/videos/{gone}")).status == 404
    assert await count(house) == 1
    assert (await house.get("/v1/usage")).json()["held"]["total"] == "0.80"
    for number in (1, 2):
        await finish_next(house, number)
    for task_id in (first, stays):
        assert (await house.finished(task_id))["status"] == "completed"
    assert prompts(house) == ["first", "stays"]
    assert (await events(house, gone))[-1].startswith("deleted by its owner; failed: cancelled: ")
    await accounts_agree(house)


async def test_a_late_retry_does_not_undo_a_delete(house: House) -> None:
    await busy(house)
    key = {"Idempotency-Key": "k"}
    gone = await waits(house, headers=key)
    assert (await house.request("DELETE", f"/v1/videos/{gone}")).status == 200
    again = await submit(house, headers=key)
    assert (again.status, again.json()["id"]) == (200, gone)
    assert again.headers["idempotent-replayed"] == "true"
    await finish_next(house, 1)
    await until_quiet(house)
    assert prompts(house) == ["first"]
    await accounts_agree(house)


async def test_what_waits_counts_as_under_way(house: House) -> None:
    """For the owner's limits, and in what the owner is told."""
    made = await house.new_token(name="two at most", max_in_flight=2)
    await busy(house)
    for n in range(2):
        await waits(house, f"cat {n}", made=made)
    reply = await submit(house, "one too many", made=made)
    assert (reply.status, reply.json()["error"]["code"]) == (429, "too_many_in_flight")
    bearer = {"Authorization": f"Bearer {made.token}"}
    assert (await house.get("/v1/usage", headers=bearer)).json()["tasks_in_flight"] == 2


# ---------------------------------------------------------------- uploads


def png(size: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + bytes(n % 251 for n in range(size - 8))


def form(size: int, model: str = "sora-2") -> FormData:
    data = FormData()
    data.add_field("model", model)
    data.add_field("prompt", "a cat")
    data.add_field(
        "input_reference", BytesIO(png(size)), filename="a.png", content_type="image/png"
    )
    return data


def give_openai(house: House) -> None:
    config = house.server.config
    upstream = config.upstreams["sim-openai"]
    credentials = tuple(replace(key, max_in_flight=1) for key in upstream.credentials)
    upstreams = {**config.upstreams, "sim-openai": replace(upstream, credentials=credentials)}
    routes = tuple(replace(row, queue=9) if row.model == "sora-2" else row for row in config.routes)
    house.server.config = replace(config, upstreams=upstreams, routes=routes)


@pytest.mark.parametrize("size", [300, 700_000, 5_000_000])
async def test_an_upload_waits_with_its_request_and_arrives_as_it_was(
    house: House, size: int
) -> None:
    give_openai(house)
    first = await submit(house, model="sora-2")
    reply = await house.post("/v1/videos", data=form(size))
    assert reply.status == 200, reply.body
    task_id = reply.json()["id"]
    assert (await known(house, task_id)).is_waiting
    assert house.server.parts.spool.held_bytes == 0, "it waits in the store"
    for number in (1, 2):
        await finish_next(house, number)
    assert (await house.finished(task_id))["status"] == "completed"
    direct = await house.post("/v1/videos", data=form(size))
    assert direct.status == first.status == 200
    _, waited, sent = (entry.uploads for entry in house.sim.log.select("openai", "submit"))
    assert [u.to_json() for u in waited] == [u.to_json() for u in sent]
    assert len(sent) == 1


async def test_a_request_of_more_than_12_mib_does_not_wait(house: House) -> None:
    give_openai(house)
    await submit(house, model="sora-2")
    reply = await house.post("/v1/videos", data=form(12 * 1024 * 1024))
    assert (reply.status, reply.json()["error"]["code"]) == (429, "too_many_in_flight")
    assert "more than 12 MiB does not wait" in reply.json()["error"]["message"]
    assert await house.server.store.tasks.open_count() == 1
    assert not await house.server.store.batch.call("KEYS", "rw:{q:*")
    assert not await house.server.store.batch.call("KEYS", "rw:*:blob:*")


# ---------------------------------------------------------------- what a provider says


async def test_a_request_its_provider_refuses_has_failed(house: House) -> None:
    """Its client has it already, so it is shown; the next one's turn begins at once."""
    await busy(house)
    key = {"Idempotency-Key": "k"}
    refused = await waits(house, "a forbidden-prompt", headers=key)
    stays = await waits(house, "stays")
    for number in (1, 3):
        await finish_next(house, number)
    video = await house.finished(refused)
    assert (video["status"], video["error"]["code"]) == ("failed", "moderation_blocked")
    assert (await house.finished(stays))["status"] == "completed"
    again = await submit(house, "a forbidden-prompt", headers=key)
    assert (again.status, again.json()["id"]) == (200, refused)
    assert (await events(house, refused))[-1].startswith("refused: 1301; failed: ")
    await until_quiet(house)
    await accounts_agree(house)


@pytest.mark.parametrize("trouble", ["too many", "too fast", "unreachable"])
async def test_an_account_that_takes_nothing_now_is_waited_for(house: House, trouble: str) -> None:
    """It was provably not taken, so it goes back to its place and is sent again."""
    await busy(house)
    first, second = await waits(house, "one"), await waits(house, "two")
    (render,) = house.sim.tasks.of("kling")
    if trouble == "unreachable":
        await house.sim.refuse("kling")
        give(house, most=2)  # nobody could ask whether the one under way has ended
    else:
        code = {"too many": 1303, "too fast": 1302}[trouble]
        house.sim.faults.add(Fault("status", "kling", "submit", status=429, code=code))
        house.sim.finish(render.id)
    async with asyncio.timeout(WAIT_S):
        while len(await events(house, first)) < 4:  # noqa: ASYNC110 -- no event for it
            await asyncio.sleep(0.005)
    if trouble == "unreachable":
        await house.sim.accept("kling")
        house.sim.finish(render.id)
    await house.server.store.credentials.reset(f"{UP}/a")  # as if its pause were over
    for number in (2, 3):
        entry = await house.sim.wait_for(is_taken, count=number, timeout_s=WAIT_S)
        assert entry.task_id is not None
        house.sim.finish(entry.task_id)
    for task_id in (first, second):
        assert (await house.finished(task_id))["status"] == "completed"
    line = await events(house, first)
    assert line[1] == f"waiting in the queue of {UP}"
    assert line[2] == f"sent attempt 1 to {UP}/a"
    assert line[3].startswith("refused, ")
    assert line[3].endswith(": waiting again")
    assert "sent attempt 2 to" in line[4]
    assert house.sim.renders("kling") == 3
    await until_quiet(house)
    await accounts_agree(house)


async def test_a_pause_of_the_provider_is_waited_out_in_the_queue(house: House) -> None:
    """Who was refused is told so; who comes in the pause waits for its end."""
    house.sim.faults.add(Fault("status", "kling", "submit", status=429, code=1302))
    assert (await submit(house, "refused")).status == 429
    task_id = await waits(house, "waits")
    await finish_next(house, 2)
    assert (await house.finished(task_id))["status"] == "completed"


async def test_nobody_waits_for_an_account_that_is_out_of_use(house: House) -> None:
    """Not even behind others: nobody knows when it comes back."""
    await busy(house)
    task_id = await waits(house, "waits")
    house.sim.faults.add(Fault("status", "kling", "submit", status=429, code=1102))
    await finish_next(house, 1)
    async with asyncio.timeout(WAIT_S):
        while "waiting again" not in (await events(house, task_id))[-1]:  # noqa: ASYNC110 -- ditto
            await asyncio.sleep(0.005)
    reply = await submit(house, "refused")
    assert (reply.status, reply.json()["error"]["code"]) == (503, "unavailable")
    assert (await known(house, task_id)).is_waiting
    await house.server.store.credentials.reset(f"{UP}/a")
    await finish_next(house, 3)
    assert (await house.finished(task_id))["status"] == "completed"


async def test_a_lost_answer_is_never_sent_again(house: House) -> None:
    await busy(house)
    task_id = await waits(house)
    house.sim.faults.add(Fault("lost", "kling", "submit"))
    await finish_next(house, 1)
    await house.sim.wait_for(lambda e: is_submit(e) and e.cut, timeout_s=WAIT_S)
    await finish_next(house, 2)
    assert (await house.finished(task_id))["status"] == "completed"
    assert house.sim.submits("kling") == 2


async def test_what_cannot_be_made_safe_is_not_sent_and_waits_on(open_house: OpenHouse) -> None:
    """A store without the copy the operator wants begins nothing that relies on it."""
    async with open_house(Plan(manual=True, timeouts=SHORT)) as house:
        give(house)
        await busy(house)
        task_id = await waits(house)

        def want(durability: str) -> None:
            config = house.server.config
            redis = config.redis.model_copy(update={"durability": durability})
            house.server.config = replace(config, redis=redis)

        want("replica")
        await finish_next(house, 1)
        async with asyncio.timeout(WAIT_S):
            while "not sent: it could not be made safe" not in await events(house, task_id):  # noqa: ASYNC110 -- ditto
                await asyncio.sleep(0.005)
        assert house.sim.submits("kling") == 1
        want("local")
        await finish_next(house, 2)
        assert (await house.finished(task_id))["status"] == "completed"
        assert house.sim.submits("kling") == 2


def failing_once(
    house: House, monkeypatch: pytest.MonkeyPatch, is_it: Callable[[Task], bool]
) -> list[Task]:
    """The first change into a task like this is written, and its answer lost; returns it."""
    tasks = house.server.store.tasks
    swap = tasks.swap
    hit: list[Task] = []

    async def swapped(old: Task, new: Task, *args: Any, **kw: Any) -> Task | None:
        other = await swap(old, new, *args, **kw)
        if not hit and is_it(new):
            hit.append(new)
            raise StoreDown("the answer was lost")
        return other

    monkeypatch.setattr(tasks, "swap", swapped)
    return hit


@pytest.mark.parametrize("attempt", [1, 2])
async def test_one_lost_answer_of_the_store_makes_it_wait_again(
    open_house: OpenHouse,
    monkeypatch: pytest.MonkeyPatch,
    attempt: int,
) -> None:
    """Nothing was sent, so nothing is lost: also after a first attempt that was refused."""
    async with open_house(Plan(manual=True, timeouts=SHORT)) as house:
        second_key(house)
        give(house)
        for _ in range(2):
            await busy(house)
        task_id = await waits(house)
        if attempt == 2:
            house.sim.faults.add(Fault("status", "kling", "submit", status=429, code=1303))
        hit = failing_once(
            house,
            monkeypatch,
            lambda new: new.id == task_id and (new.stage, new.attempt) == (Stage.SENT, attempt),
        )
        give(house, most=2)  # both are free at the same moment
        await house.sim.wait_for(is_taken, count=3, timeout_s=WAIT_S)
        assert len(hit) == 1
        assert "not sent: the store failed" in await events(house, task_id)
        for entry in filter(is_taken, house.sim.log.entries):
            assert entry.task_id is not None
            house.sim.finish(entry.task_id)
        assert (await house.finished(task_id))["status"] == "completed"
        await until_quiet(house)
        assert house.sim.renders("kling") == 3
        await accounts_agree(house)


def second_key(house: House) -> None:
    config = house.server.config
    upstream = config.upstreams[UP]
    (first,) = upstream.credentials
    both = (first, replace(first, name="b", weight=0))
    upstreams = {**config.upstreams, UP: replace(upstream, credentials=both)}
    house.server.config = replace(config, upstreams=upstreams)


# ---------------------------------------------------------------- the end of waiting


@pytest.mark.parametrize("end", ["revoked", "disabled"])
async def test_a_token_that_is_shut_out_has_nothing_more_rendered(house: House, end: str) -> None:
    await busy(house)
    made = await house.new_token(name="stolen")
    task_id = await waits(house, "stolen", made=made)
    tokens, now_ms = house.server.store.tokens, int(time.time() * 1000)
    if end == "revoked":
        assert await tokens.revoke(made.record.id, now_ms)
    else:
        assert await tokens.change(replace(made.record, disabled_ms=now_ms), "disabled_ms")
    await finish_next(house, 1)
    await until_quiet(house)
    task = await known(house, task_id)
    assert (task.status, task.settled_micro) == ("failed", 0)
    assert (await events(house, task_id))[-1].startswith(f"never sent: its API key was {end}.; ")
    assert prompts(house) == ["first"]
    await accounts_agree(house)


async def test_nothing_renders_for_more_than_was_held(house: House) -> None:
    """A new configuration that makes it longer than it was does not make it dearer, or free."""

    def change(**values: Any) -> None:
        config = house.server.config
        routes = tuple(
            replace(row, **values) if row.model == MODEL else row for row in config.routes
        )
        house.server.config = replace(config, routes=routes)

    change(price={"per_second": "0.10"})
    await busy(house)
    task_id = await waits(house)
    change(overrides={"duration": "10"})
    await finish_next(house, 1)
    assert "more than was held" in (await ended(house, task_id))["error"]["message"]
    assert house.sim.submits("kling") == 1
    await accounts_agree(house)


async def ended(house: House, task_id: str) -> dict[str, Any]:
    """Of one that was never sent: what its client reads."""
    video = await house.finished(task_id)
    assert video["status"] == "failed"
    assert video["error"]["code"] == "not_submitted"
    return video


async def test_one_that_waits_too_long_fails_and_is_refunded(open_house: OpenHouse) -> None:
    async with open_house(Plan(manual=True, timeouts=SHORT)) as house:
        give(house)
        await busy(house)
        give(house, max_age_s=0.4)
        key = {"Idempotency-Key": "k"}
        task_id = await waits(house, model=OTHER_MODEL, headers=key)
        assert "waited longer than 0.4 s" in (await ended(house, task_id))["error"]["message"]
        assert (await house.get("/v1/usage")).json()["held"]["total"] == "0.40"
        assert await waits(house, model=OTHER_MODEL, headers=key) != task_id, "its key is free"


async def test_the_time_it_waited_is_not_taken_from_its_render(open_house: OpenHouse) -> None:
    """Its age, and the time to find out about a lost submit, count from when it was sent."""
    async with open_house(Plan(manual=True, timeouts=SHORT)) as house:
        give(house)
        await busy(house)
        give(house, max_age_s=11 * 86_400.0)
        task_id = await waits(house, model=OTHER_MODEL)
        old = await known(house, task_id)
        store = house.server.store
        aged = replace(old, created_ms=old.created_ms - 10 * 86_400_000, version=old.version + 1)
        assert await store.tasks.swap(old, aged, aged.updated_ms, None, 60) is None
        house.sim.faults.add(Fault("lost", "kling", "submit"))
        await finish_next(house, 1)
        await finish_next(house, 2)
        assert (await house.finished(task_id))["status"] == "completed"


def without_route(house: House) -> None:
    config = house.server.config
    routes = tuple(row for row in config.routes if UP not in dict(row.upstreams))
    house.server.config = replace(config, routes=routes)


def without_upstream(house: House) -> None:
    without_route(house)
    config = house.server.config
    upstreams = {name: up for name, up in config.upstreams.items() if name != UP}
    house.server.config = replace(config, upstreams=upstreams)


def without_credential(house: House) -> None:
    config = house.server.config
    upstream = config.upstreams[UP]
    credentials = tuple(replace(key, retired=True) for key in upstream.credentials)
    upstreams = {**config.upstreams, UP: replace(upstream, credentials=credentials)}
    house.server.config = replace(config, upstreams=upstreams)


@pytest.mark.parametrize("take_away", [without_route, without_upstream, without_credential])
async def test_one_that_nobody_can_take_any_more_ends(
    open_house: OpenHouse, take_away: Callable[[House], None]
) -> None:
    async with open_house(Plan(manual=True, timeouts=SHORT)) as house:
        give(house)
        await busy(house)
        task_id = await waits(house)
        take_away(house)
        assert "no longer configured" in (await ended(house, task_id))["error"]["message"]
        await until_empty(house)
        assert (await house.get("/v1/usage")).json()["held"]["total"] == "0.40"
        assert house.sim.submits("kling") == 1


@pytest.mark.parametrize("lost", ["the list", "the request"])
async def test_what_the_store_lost_is_put_back_or_told(open_house: OpenHouse, lost: str) -> None:
    """A place in the list is found again by the task; without its request it ends."""
    async with open_house(Plan(manual=True, timeouts=SHORT)) as house:
        give(house)
        await busy(house)
        task_id = await waits(house)
        store = house.server.store
        if lost == "the list":
            await store.waiting.leave(UP, task_id)
        else:
            await store.waiting.drop(task_id)
        await finish_next(house, 1)
        if lost == "the list":
            await finish_next(house, 2)
            assert (await house.finished(task_id))["status"] == "completed"
        else:
            await ended(house, task_id)
        await until_quiet(house)
        await accounts_agree(house)
