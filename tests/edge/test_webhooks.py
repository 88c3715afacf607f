"""Webhooks out: every end of a task is told, signed, to the one place its client named, and
nowhere else; a receiver that fails is told again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from openai import InvalidWebhookSignatureError, OpenAI

from proxy.server.bootstrap import signing_secrets
from proxy.sim import Fault
from proxy.store import StoreFault, keys
from proxy.store.notice import Webhook
from proxy.tokens import webhook_secret
from tests.rig.downloads import fetch
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.programs import ROOT, Program, program, run
from tests.rig.receivers import HANG, Receiver, Told, allowing, receiving

WAIT_S = 20.0  # only a hang gets here


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


@pytest.fixture
async def house(open_house: OpenHouse, receiver: Receiver) -> AsyncIterator[House]:
    """A house that may call the receiver."""
    async with open_house(Plan(sections=allowing(receiver))) as opened:
        yield opened


@pytest.fixture
async def patient(open_house: OpenHouse, receiver: Receiver) -> AsyncIterator[House]:
    """The same, which tries again only after a long time."""
    sections = allowing(receiver, first_pause_s=1000)
    async with open_house(Plan(sections=sections)) as opened:
        yield opened


async def settled(house: House, name: str, state: str) -> Webhook:
    """The hook once it is in this state."""
    async with asyncio.timeout(WAIT_S):
        while True:
            hook = await house.server.store.webhooks.get(name)
            if hook is not None and hook.state == state:
                return hook
            await asyncio.sleep(0.01)


async def hooks_of(house: House, task_id: str) -> list[Webhook]:
    hooks, _ = await house.server.store.webhooks.list(100)
    return [hook for hook in hooks if hook.task_id == task_id]


def name_of(told: Told) -> str:
    task, _, version = told.id.removeprefix("evt_").partition("_")
    return f"video_{task}:{version}"


def verified(house: House, told: Told) -> Any:
    """As the official SDK checks it, with the secret that `token create` has shown."""
    with OpenAI(api_key="unused", webhook_secret=house.made.webhook_secret) as client:
        client.webhooks.verify_signature(told.body, dict(told.headers))
        return client.webhooks.unwrap(told.body, dict(told.headers))


# ---------------------------------------------------------------- what is told


SUBMITS = {
    "openai": ("/v1/videos", "webhook", {"model": "sora-2"}),
    "generic": ("/v1/video/generations", "webhook", {"model": "sora-2"}),
    "jimeng": (
        "/jimeng/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31",
        "callback_url",
        {"req_key": "jimeng_t2v_v30"},
    ),
}


@pytest.mark.parametrize("dialect", SUBMITS)
async def test_the_end_is_told_as_openais_own_webhooks_are(
    house: House, receiver: Receiver, dialect: str
) -> None:
    """OpenAI's event, signed as Standard Webhooks; the address stays with us."""
    path, field, body = SUBMITS[dialect]
    made = await house.post(path, json={**body, "prompt": "a cat", field: receiver.url})
    assert made.status == 200, made.body
    [told] = await receiver.heard(1)
    event = told.json()
    task = await house.server.store.tasks.get(event["data"]["id"])
    assert task is not None
    assert event == {
        "id": told.id,
        "object": "event",
        "created_at": task.completed_ms // 1000,  # type: ignore[operator]  # it is completed
        "type": "video.completed",
        "data": {"id": task.id},
    }
    assert told.headers["Content-Type"] == "application/json"
    assert "Authorization" not in told.headers
    assert verified(house, told).type == "video.completed"
    await settled(house, name_of(told), "delivered")
    assert receiver.host_port.encode() not in b"".join(
        orjson.dumps(entry.to_json()) for entry in house.sim.log.entries
    )
    line = await house.line(lambda line: line["operation"] == "create")
    assert (line["status"], line["reason"]) == (200, "done")


async def test_a_signature_says_who_and_when(house: House, receiver: Receiver) -> None:
    """Another body, another secret, an old time: none passes."""
    await house.create(webhook=receiver.url)
    [told] = await receiver.heard(1)
    headers = dict(told.headers)
    other = (await house.new_token()).webhook_secret
    with OpenAI(api_key="unused", webhook_secret=house.made.webhook_secret) as client:
        check = client.webhooks.verify_signature
        check(told.body, headers)
        for body, changed, secret in (
            (told.body + b" ", headers, None),
            (told.body, headers, other),
            (told.body, {**headers, "webhook-id": "evt_1"}, None),
            (told.body, {**headers, "webhook-timestamp": "1790000000"}, None),
        ):
            with pytest.raises((InvalidWebhookSignatureError, ValueError)):
                check(body, changed, secret=secret)


async def test_a_rotated_signing_secret_breaks_no_receiver(
    house: House, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new secret of the gateway's in front: who verifies with the webhook secret it has goes
    on, and so does who already has the new one."""
    fresh = b"a fresh signing secret of 32 bytes or more"
    secrets = [fresh, *signing_secrets(house.server.config)]
    monkeypatch.setattr(house.server.parts.webhook_sender, "_secrets", tuple(secrets))
    record = house.made.record
    await house.create(webhook=receiver.url)
    [told] = await receiver.heard(1)
    with OpenAI(api_key="unused") as client:
        for secret in (
            house.made.webhook_secret,
            webhook_secret(fresh, record.id, record.generation),
        ):
            client.webhooks.verify_signature(told.body, dict(told.headers), secret=secret)


async def test_a_failure_is_told_too(house: House, receiver: Receiver) -> None:
    task_id = await house.create(prompt="fail-later", webhook=receiver.url)
    [told] = await receiver.heard(1)
    assert told.json()["type"] == "video.failed"
    assert (await house.get(f"/v1/videos/{task_id}")).json()["status"] == "failed"


async def test_a_token_may_name_a_place_for_all_its_tasks(house: House, receiver: Receiver) -> None:
    """The request's own goes before it."""
    made = await house.new_token(webhook=receiver.url + "/default")
    headers = {"Authorization": f"Bearer {made.token}"}
    body = {"model": "sora-2", "prompt": "a cat"}
    await house.post("/v1/videos", json=body, headers=headers)
    [told] = await receiver.heard(1)
    assert told.path == "/hook/default"
    await house.post("/v1/videos", json={**body, "webhook": receiver.url}, headers=headers)
    _, told = await receiver.heard(2)
    assert told.path == "/hook"
    with OpenAI(api_key="unused", webhook_secret=made.webhook_secret) as client:
        client.webhooks.verify_signature(told.body, dict(told.headers))


async def test_a_kling_client_is_told_every_change_of_status(
    open_house: OpenHouse, receiver: Receiver
) -> None:
    """The bare task object, in order, as it was at each change; the video by our own link. The
    provider has our address, never the client's."""
    async with open_house(Plan(manual=True, sections=allowing(receiver))) as house:
        body = {"model_name": "kling-v2-6", "prompt": "a cat", "callback_url": receiver.url}
        made = await house.post("/kling/v1/videos/text2video", json=body)
        task_id = made.json()["data"]["task_id"]
        task = await house.server.store.tasks.get(task_id)
        assert task is not None
        house.sim.step(str(task.upstream_id), "in_progress")
        [first] = await receiver.heard(1)
        house.sim.finish(str(task.upstream_id))
        _, second = await receiver.heard(2)
        asked = await house.get(f"/kling/v1/videos/text2video/{task_id}")
        data = asked.json()["data"]
        assert second.json() == data
        assert first.json()["task_status"] == "processing"
        assert first.json()["task_result"] == {}
        assert data["task_status"] == "succeed"
        [video] = data["task_result"]["videos"]
        link = video["url"].removeprefix(house.url)
        assert (await fetch(house, link, token=False)).status == 200
        [submit] = house.sim.log.select("kling", "submit")
        assert str(submit.body["callback_url"]).startswith(f"{house.url}/callbacks/{task_id}/")
        assert [hook.state for hook in await hooks_of(house, task_id)][:1] == ["delivered"]


async def test_changes_that_come_faster_than_a_receiver_answers_arrive_in_order(
    open_house: OpenHouse, receiver: Receiver
) -> None:
    """One at a time, and each as it was."""
    receiver.answers.append(HANG)
    timeouts = "poll_s = 0.5"
    wanted = Plan(manual=True, sections=allowing(receiver), timeouts=timeouts)
    async with open_house(wanted) as house:
        body = {"model_name": "kling-v2-6", "prompt": "a cat", "callback_url": receiver.url}
        made = await house.post("/kling/v1/videos/text2video", json=body)
        task_id = made.json()["data"]["task_id"]
        task = await house.server.store.tasks.get(task_id)
        assert task is not None
        house.sim.step(str(task.upstream_id), "in_progress")
        await receiver.heard(1)  # and it does not answer
        house.sim.finish(str(task.upstream_id))
        await house.finished(task_id)
        assert len(receiver.told) == 1
        told = await receiver.heard(2)
        assert [one.json()["task_status"] for one in told] == ["processing", "succeed"]
        hooks = await hooks_of(house, task_id)
        first = await settled(house, hooks[0].name, "dead")
        assert first.log[-1][1] == "outdated", "what failed is not told after what came later"
        assert len(receiver.told) == 2


async def test_a_refused_submit_is_told_to_nobody(house: House, receiver: Receiver) -> None:
    """The client has its answer, and no id to be told of."""
    house.sim.faults.add(Fault("status", service="openai", operation="submit", status=400))
    body = {"model": "sora-2", "prompt": "a cat", "webhook": receiver.url}
    assert (await house.post("/v1/videos", json=body)).status == 400
    await house.completed(webhook=receiver.url)
    [told] = await receiver.heard(1)
    assert told.json()["type"] == "video.completed"
    assert (await house.server.store.webhooks.list(100))[0][0].task_id == told.json()["data"]["id"]


@pytest.mark.parametrize("url", ["ftp://a.example/", "javascript:alert(1)", "/x", "http://", "x"])
async def test_an_address_that_is_none_is_refused_by_name(house: House, url: str) -> None:
    reply = await house.post("/v1/videos", json={"prompt": "a cat", "webhook": url})
    assert (reply.status, reply.json()["error"]["param"]) == (400, "webhook")
    assert house.sim.submits("openai") == 0


# ---------------------------------------------------------------- where nothing is sent


INNER = ["127.0.0.1:9", "169.254.169.254", "10.0.0.1", "[::1]:9", "[::ffff:127.0.0.1]:9"]


@pytest.mark.parametrize("host", INNER)
@pytest.mark.parametrize(
    ("path", "model", "name"),
    [
        ("/v1/videos", "model", "webhook"),
        ("/v1/videos", "model", "callback_url"),
        ("/kling/v1/videos/text2video", "model_name", "callback_url"),
    ],
)
async def test_an_address_that_could_never_be_called_is_refused_at_once(
    house: House, host: str, path: str, model: str, name: str
) -> None:
    body = {model: "kling-v2-6", "prompt": "a cat", name: f"http://{host}/hook"}
    reply = await house.post(path, json=body)
    assert reply.status == 400
    assert f"'{name}' would never be called" in reply.body.decode()
    assert "[webhooks] allow" in reply.body.decode()
    assert house.sim.submits("kling") == 0


@pytest.mark.parametrize("host", ["localhost", "0x7f.1"])
async def test_a_private_address_is_never_called(
    house: House, receiver: Receiver, host: str
) -> None:
    """Only the very host:port the operator has named is let through, under that very name; where
    a name leads is known when it is called, and the log says what would let it through."""
    host_port = f"{host}:{receiver.host_port.rpartition(':')[2]}"
    await house.completed(webhook=f"http://{host_port}/hook")
    [hook] = (await house.server.store.webhooks.list(9))[0]
    tried = await attempted(house, hook.name)
    assert tried.log[0][1].startswith("not a public address; [webhooks] allow ")
    assert (tried.state, receiver.told) == ("pending", [])


async def attempted(house: House, name: str, times: int = 1) -> Webhook:
    async with asyncio.timeout(WAIT_S):
        while True:
            hook = await house.server.store.webhooks.get(name)
            if hook is not None and hook.attempts >= times:
                return hook
            await asyncio.sleep(0.01)


async def test_a_redirect_is_not_followed(house: House, receiver: Receiver) -> None:
    """Neither to a private address nor to any other: it is a failure like another."""
    async with receiving() as inner:
        receiver.answers.extend([302, 307])
        receiver.location = inner.url
        await house.create(webhook=receiver.url)
        told = await receiver.heard(3)
        hook = await settled(house, name_of(told[0]), "delivered")
        assert [what for _, what in hook.log] == ["answered 302", "answered 307", "ok"]
        assert inner.told == []


# ---------------------------------------------------------------- receivers that fail


async def test_a_receiver_that_fails_is_told_again(house: House, receiver: Receiver) -> None:
    """The same event under the same id, newly signed."""
    receiver.answers.extend([500, 503, 404])
    task_id = await house.create(webhook=receiver.url)
    told = await receiver.heard(4)
    assert len({one.id for one in told}) == 1
    assert len({one.body for one in told}) == 1
    for one in told:
        verified(house, one)
    hook = await settled(house, name_of(told[0]), "delivered")
    assert (hook.task_id, hook.attempts) == (task_id, 4)
    assert [what for _, what in hook.log] == [
        *("answered 500", "answered 503", "answered 404", "ok")
    ]


async def test_a_receiver_that_hangs_holds_up_nobody_else(
    open_house: OpenHouse, receiver: Receiver
) -> None:
    timeouts = "poll_s = 1.0"
    async with receiving(*[HANG] * 80) as hanging:
        sections = allowing(receiver, hanging)
        async with open_house(Plan(sections=sections, timeouts=timeouts)) as house:
            bad = await house.new_token(name="bad", webhook=hanging.url)
            headers = {"Authorization": f"Bearer {bad.token}"}
            body = {"model": "sora-2", "prompt": "a cat"}
            await asyncio.gather(
                *(house.post("/v1/videos", json=body, headers=headers) for _ in range(40))
            )
            await hanging.heard(32)  # its share
            await house.create(webhook=receiver.url)
            [told] = await receiver.heard(1)
            assert told.json()["type"] == "video.completed"
            assert len(hanging.told) == 32
            hook = await attempted(house, name_of(hanging.told[0]))
            assert hook.log[0][1].startswith("no answer: ")


async def test_a_receiver_that_is_not_there_yet_is_told_once_it_is(
    open_house: OpenHouse, free_port: int
) -> None:
    sections = f'[webhooks]\nallow = ["127.0.0.1:{free_port}"]\nfirst_pause_s = 0.02'
    async with open_house(Plan(sections=sections)) as house:
        await house.create(webhook=f"http://127.0.0.1:{free_port}/hook")
        async with asyncio.timeout(WAIT_S):
            while True:
                hooks, _ = await house.server.store.webhooks.list(9)
                if hooks:
                    break
                await asyncio.sleep(0.01)
        hook = await attempted(house, hooks[0].name, times=2)
        assert all(what.startswith("no connection: ") for _, what in hook.log)
        heard = asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
            heard.set()
            writer.close()
            await writer.wait_closed()

        late = await asyncio.start_server(answer, "127.0.0.1", free_port)
        async with late, asyncio.timeout(WAIT_S):
            await heard.wait()
            await settled(house, hook.name, "delivered")


async def test_after_three_days_it_is_given_up_and_can_be_sent_again(
    patient: House, receiver: Receiver
) -> None:
    """`webhook replay` begins anew, with three more days."""
    receiver.answers.extend([500, 500])
    await patient.create(webhook=receiver.url)
    [told] = await receiver.heard(1)
    hook = await attempted(patient, name_of(told))
    await patient.server.store.webhooks.write(
        replace(hook, attempts=200), 0, 0
    )  # due for the last time
    dead = await settled(patient, hook.name, "dead")
    assert (dead.attempts, dead.log[-1][1]) == (201, "answered 500")
    said = await command(patient.config_path, "webhook", "replay", told.id)
    assert (said["id"], said["state"], said["attempts"]) == (hook.name, "pending", 0)
    again = await settled(patient, hook.name, "delivered")
    assert again.attempts == 1
    assert [one.id for one in receiver.told] == [told.id] * 3


@pytest.mark.parametrize("gone", ["task deleted", "token revoked"])
async def test_who_may_not_know_any_more_is_not_told(
    patient: House, receiver: Receiver, gone: str
) -> None:
    """Not even what was tried before."""
    receiver.answers.append(500)
    task_id = await patient.create(webhook=receiver.url)
    [told] = await receiver.heard(1)
    hook = await attempted(patient, name_of(told))
    if gone == "task deleted":
        await patient.request("DELETE", f"/v1/videos/{task_id}")
    else:
        await patient.server.store.tokens.revoke(patient.made.record.id, 1)
    await patient.server.store.webhooks.write(hook, 0, 0)  # due now
    dead = await settled(patient, hook.name, "dead")
    assert dead.log[-1][1] == "gone"
    assert len(receiver.told) == 1


async def test_a_record_nobody_can_read_stops_nothing(house: House, receiver: Receiver) -> None:
    store = house.server.store
    task_id = await house.completed()
    name = f"{task_id}:99"
    shard = keys.shard_of_task(task_id)
    assert shard is not None
    await store.batch.call("HSET", keys.hook(name), "doc", "{")
    await store.batch.call("ZADD", keys.hooks(shard), 0, name)
    with pytest.raises(StoreFault):
        await store.webhooks.get(name)
    async with asyncio.timeout(WAIT_S):
        while True:
            if await store.batch.call("ZCARD", keys.hooks(shard)) == 0:
                break
            await asyncio.sleep(0.01)
    await house.create(webhook=receiver.url)
    await receiver.heard(1)


# ---------------------------------------------------------------- workers


async def test_two_workers_tell_each_thing_once(open_house: OpenHouse, receiver: Receiver) -> None:
    async with open_house(Plan(sections=allowing(receiver))) as house:
        second = await house.another_worker()
        body = {"model": "sora-2", "prompt": "a cat", "webhook": receiver.url}
        made = await asyncio.gather(
            *(
                house.post("/v1/videos", json=body, base=base)
                for _ in range(20)
                for base in (house.url, second.url)
            )
        )
        ids = {reply.json()["id"] for reply in made}
        await receiver.heard(40)
        hooks, _ = await house.server.store.webhooks.list(100)
        for hook in hooks:
            await settled(house, hook.name, "delivered")
        assert sorted(one.json()["data"]["id"] for one in receiver.told) == sorted(ids)


async def test_a_hook_survives_the_worker_that_was_to_send_it(
    open_house: OpenHouse, receiver: Receiver, tmp_path: Path
) -> None:
    """kill -9 between the change and its telling: whoever serves next tells it, once."""
    receiver.answers.append(503)
    sections = allowing(receiver, first_pause_s=3)
    async with open_house(Plan(sections=sections, embedded=True)) as house:
        config = tmp_path / "killed" / "config.toml"
        config.parent.mkdir()
        text = house.config_path.read_text()
        text = text.replace(str(house.server.config.server.state_dir), str(config.parent / "state"))
        config.write_text(text.replace(house.url.removeprefix("http://"), "127.0.0.1:0"))
        made = await command(config, "token", "create", "--name", "me")
        serve = ("serve", "--config", str(config))
        with program(*serve, cwd=ROOT, err_to_out=True) as worker:
            url = (await said(worker, "serving"))["url"]
            headers = {"Authorization": f"Bearer {made['token']}"}
            body = {"model": "sora-2", "prompt": "a cat", "webhook": receiver.url}
            reply = await house.post("/v1/videos", json=body, headers=headers, base=url)
            [first] = await receiver.heard(1)
            await said(worker, "webhook not delivered")
            await asyncio.to_thread(worker.kill)
        assert len(receiver.told) == 1
        with program(*serve, cwd=ROOT, err_to_out=True) as worker:
            _, second = await receiver.heard(2)
            await asyncio.to_thread(worker.kill)
        assert first.id == second.id
        assert second.json()["data"]["id"] == reply.json()["id"]


async def said(worker: Program, event: str) -> Any:
    """The first line of its log with this event."""
    while True:
        line = await asyncio.to_thread(worker.line)
        entry = orjson.loads(line)
        if entry.get("event") == event:
            return entry


async def command(config: Path, *arguments: str) -> Any:
    """What `reelway … --json` says, beside a running gateway or alone."""
    ended = await asyncio.to_thread(run, *arguments, "--json", "--config", str(config), cwd=ROOT)
    assert ended.status == 0, ended.err
    return orjson.loads(ended.out)
