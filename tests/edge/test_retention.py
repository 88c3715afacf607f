"""What the store keeps, for how long, and what happens when it is full."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from click.testing import CliRunner, Result

import proxy
from proxy.cli import main
from proxy.model import Stage, Task, TaskError
from proxy.server.embedded_store import open_store
from proxy.store import Store, keys
from proxy.store.expiry import SWEPT_AT_ONCE
from proxy.store.webhooks import KEPT_MS, KEPT_OPEN_MS, MAX_ENDED
from proxy.tasks.lifecycle import failed
from tests.rig.downloads import content, fetch
from tests.rig.house import Answer, House, OpenHouse, Plan
from tests.rig.receivers import allowing, receiving
from tests.rig.refusals import DOORS, error_of
from tests.rig.retention import check_nothing_is_left
from tests.rig.tasks import NOW, new_task

T = TypeVar("T")
WAIT_S = 40.0  # only a hang gets here
MIB = 1024 * 1024


# ---------------------------------------------------------------- what is left behind


async def test_expired_tasks_leave_nothing_behind(open_house: OpenHouse) -> None:
    """No key, no entry of an index, no memory: `make soak` does the same with 10,000."""
    async with receiving() as receiver:
        wanted = Plan(limits="retention_s = 1", sections=allowing(receiver), speed=1000)
        async with open_house(wanted) as house:
            await check_nothing_is_left(house, receiver, 500, WAIT_S)


async def finished(store: Store, task: Task, *, retention_s: int = 3600, at_ms: int = NOW) -> Task:
    assert await store.tasks.reserve(task, NOW) is None
    done = replace(task, version=2, stage=Stage.COMPLETED, updated_ms=at_ms)
    assert await store.tasks.swap(task, done, None, "completed", retention_s) is None
    return done


async def test_the_sweep_takes_what_has_expired_and_nothing_else(store: Store) -> None:
    """Of every owner, whatever its name; an open task is in no danger."""
    owners = ("acme", "a b", "{x}", "")
    soon = [await finished(store, new_task(owner), retention_s=10) for owner in owners]
    late = [await finished(store, new_task(owner), retention_s=20) for owner in owners]
    still = [new_task(owner) for owner in owners]
    for task in still:
        await store.tasks.reserve(task, NOW)

    async def indexed() -> set[str]:
        found: set[str] = set()
        for owner in owners:
            answer = await store.batch.call("ZRANGE", keys.owner_index(owner), 0, -1)
            assert isinstance(answer, list)
            found |= {item.decode() for item in answer if isinstance(item, bytes)}
        return found

    def ids(*groups: list[Task]) -> set[str]:
        return {task.id for group in groups for task in group}

    assert await store.ended.sweep(NOW + 9_999) == 0
    assert await indexed() == ids(soon, late, still)
    assert await store.ended.sweep(NOW + 10_000) == 4
    assert await indexed() == ids(late, still)
    tasks, after = await store.made.page(100)
    assert ({task.id for task in tasks}, after) == (ids(late, still), None)
    assert await store.ended.sweep(NOW + 10**9) == 4
    assert await indexed() == ids(still)
    assert await store.tasks.open_count() == 4


async def some_at_once(jobs: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """In their order, a few at a time: a crowd would only wait for the store together."""
    waiting, done = list(jobs), []
    while waiting:
        done += await asyncio.gather(*waiting[:50])
        del waiting[:50]
    return done


async def test_a_sweep_goes_on_until_all_is_swept(store: Store) -> None:
    count = SWEPT_AT_ONCE + 100
    await some_at_once(finished(store, new_task(), retention_s=1) for _ in range(count))
    assert await store.ended.sweep(NOW + 1_000) == count
    assert await store.batch.call("EXISTS", keys.owner_index("acme")) == 0


# ---------------------------------------------------------------- webhooks


async def told(store: Store, task: Task, *, retention_s: int = 3600, ends: bool = True) -> str:
    """The name of the delivered webhook of a task's change."""
    hooked = replace(task, webhook="https://client.example/", dialect="kling")
    assert await store.tasks.reserve(hooked, NOW) is None
    stage = Stage.COMPLETED if ends else Stage.IN_PROGRESS
    moved = replace(hooked, version=2, stage=stage)
    due_ms = None if ends else NOW
    assert await store.tasks.swap(hooked, moved, due_ms, "moved", retention_s) is None
    name = f"{task.id}:2"
    hook = await store.webhooks.get(name)
    assert hook is not None
    await store.webhooks.write(replace(hook, state="delivered"), NOW, None)
    return name


@pytest.mark.parametrize(
    ("ends", "retention_s", "kept_ms"),
    [(True, 3600, 3_600_000), (True, 30 * 86400, KEPT_MS), (False, 3600, KEPT_OPEN_MS)],
)
async def test_a_webhook_is_kept_no_longer_than_its_task(
    store: Store, ends: bool, retention_s: int, kept_ms: int
) -> None:
    name = await told(store, new_task(), ends=ends, retention_s=retention_s)
    lives = await store.batch.call("PTTL", keys.hook(name))
    assert isinstance(lives, int)
    assert kept_ms - 5_000 < lives <= kept_ms
    await store.ended.sweep(NOW + kept_ms + 1)
    assert await store.webhooks.list(10) == ((), False)


async def test_the_webhooks_that_are_kept_have_a_bound(store: Store) -> None:
    """The oldest leave, record and all."""
    most = MAX_ENDED // keys.SHARDS
    names = await some_at_once(
        told(store, new_task(), retention_s=1000 + n) for n in range(most + 10)
    )
    left = await store.batch.call("KEYS", "*:hook:*")
    assert isinstance(left, list)
    assert len(left) == most
    assert [await store.webhooks.get(name) is None for name in names[:11]] == [True] * 10 + [False]


# ---------------------------------------------------------------- a full store


@pytest.fixture
async def manual(open_house: OpenHouse) -> AsyncIterator[House]:
    """A poll whose outcome the store did not take is made again when its lease ends: soon."""
    async with open_house(Plan(manual=True, timeouts="lease_s = 1", embedded=True)) as house:
        yield house


async def limit_memory(house: House, most_bytes: int) -> None:
    await house.server.store.batch.call("CONFIG", "SET", "maxmemory", most_bytes)


async def used_bytes(house: House) -> int:
    info = await house.server.store.batch.call("INFO", "memory")
    assert isinstance(info, dict)
    return int(info["used_memory"])


async def submitted(house: House, is_it: Callable[[Answer], bool]) -> Answer:
    """Submit until the answer is as wanted: how full the store is, is looked at every second."""
    async with asyncio.timeout(WAIT_S):
        while True:
            reply = await house.post("/v1/videos", json={"model": "sora-2", "prompt": "a cat"})
            if is_it(reply):
                return reply
            await asyncio.sleep(0.05)


async def test_a_store_above_its_mark_takes_no_new_tasks_and_serves_the_others(
    manual: House,
) -> None:
    """Every dialect is told in its own words; polls, downloads and deletions go on; once there
    is room again, so do submits."""
    done_id = await manual.create(prompt="a cat size=1000")
    made = {}
    for task_id in (done_id, await manual.create()):
        task = await manual.server.store.tasks.get(task_id)
        assert task is not None
        made[task_id] = str(task.upstream_id)
    # 90 %: above the mark, and a megabyte from where Redis itself refuses to write.
    await manual.server.store.batch.call("SETRANGE", "filler", 8 * MIB, "x")
    await limit_memory(manual, await used_bytes(manual) * 10 // 9)
    await submitted(manual, lambda reply: reply.status == 503)
    submits = manual.sim.submits("openai")
    for name, door in DOORS.items():
        reply = await manual.post(door.submit, json=door.body())
        assert (reply.status, reply.headers["Retry-After"]) == (503, "2")
        assert error_of(name, reply.headers, reply.body)["code"] == "store_full"
        line = await manual.line(lambda line, name=name: _refused(line, name))  # type: ignore[misc]
        assert line["status"] == 503
    assert manual.sim.submits("openai") == submits
    manual.sim.finish(made[done_id])
    assert (await manual.finished(done_id))["status"] == "completed"
    assert (await fetch(manual, content(done_id))).whole
    assert (await manual.get("/v1/videos")).json()["data"]
    assert (await manual.request("DELETE", f"/v1/videos/{done_id}")).status == 200
    await limit_memory(manual, 0)
    await submitted(manual, lambda reply: reply.status == 200)


def _refused(line: Any, dialect: str) -> bool:
    return bool(line["reason"] == "store_full" and line["dialect"] == dialect)


async def test_a_store_that_is_full_to_the_brim_loses_nothing(manual: House) -> None:
    """Redis refuses every write: reads are answered, the rest is done afterwards."""
    task_id = await manual.create()
    task = await manual.server.store.tasks.get(task_id)
    assert task is not None
    await limit_memory(manual, 1)
    reply = await submitted(manual, lambda reply: reply.status == 503)
    assert reply.json()["error"]["code"] == "store_full"
    manual.sim.finish(str(task.upstream_id))
    seen = await manual.get(f"/v1/videos/{task_id}")
    assert (seen.status, seen.json()["status"]) == (200, "queued")
    refused = await manual.request("DELETE", f"/v1/videos/{task_id}")
    assert (refused.status, refused.json()["error"]["code"]) == (503, "store_full")
    await limit_memory(manual, 0)
    assert (await manual.finished(task_id))["status"] == "completed"
    await submitted(manual, lambda reply: reply.status == 200)


# ---------------------------------------------------------------- what an operator sees


MADE_MS = 1_795_000_000_000


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A configuration, and the ids of the tasks in its store, which nobody runs."""
    config = tmp_path / "config.toml"
    config.write_text("")
    ids = {}

    async def fill() -> None:
        state_dir = tmp_path / ".reelway"
        state_dir.mkdir()
        async with open_store("embedded", state_dir, timeout_s=5) as store:
            for number, name in enumerate(("open", "failed", "deleted")):
                task = new_task("acme" if name == "open" else "other", created_ms=MADE_MS + number)
                ids[name] = task.id
                task = replace(task, prompt="a cat", webhook="https://client.example/")
                assert await store.tasks.reserve(task, MADE_MS) is None
                sent = replace(task, version=2, stage=Stage.SENT, attempt=1, upstream="kling-main")
                assert await store.tasks.swap(task, sent, MADE_MS, "sent", 3600) is None
                ended = replace(sent, version=3, stage=Stage.FAILED, completed_ms=MADE_MS + 2500)
                ended = replace(ended, error=TaskError("timeout", "Too late.", "50500"))
                if name != "open":
                    assert await store.tasks.swap(sent, ended, None, "gave up", 3600) is None
                if name == "deleted":
                    gone = replace(ended, version=4, deleted=True)
                    assert await store.tasks.swap(ended, gone, None, "deleted", 3600) is None

    asyncio.run(fill())
    return config, ids


def invoke(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [*arguments, "--config", str(config)])


def said(config: Path, *arguments: str) -> Any:
    result = invoke(config, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return orjson.loads(result.stdout)


def test_an_operator_sees_every_owners_tasks(kept: tuple[Path, dict[str, str]]) -> None:
    """Deleted ones too, the newest first."""
    config, ids = kept
    everything = said(config, "task", "list")
    assert everything["has_more"] is False
    assert [task["id"] for task in everything["tasks"]] == [*reversed(ids.values())]
    few = said(config, "task", "list", "--limit", "2")
    assert (len(few["tasks"]), few["has_more"]) == (2, True)
    [mine] = said(config, "task", "list", "--owner", "acme")["tasks"]
    assert (mine["id"], mine["owner"], mine["status"]) == (ids["open"], "acme", "queued")
    failed = said(config, "task", "list", "--status", "failed")["tasks"]
    assert {task["id"]: task["deleted"] for task in failed} == {
        ids["failed"]: False,
        ids["deleted"]: True,
    }
    assert said(config, "task", "list", "--owner", "nobody")["tasks"] == []
    table = invoke(config, "task", "list", "--limit", "1").stdout.splitlines()
    assert table[0].split() == ["ID", "OWNER", "MODEL", "STATUS", "UPSTREAM", "CREATED", "NOTE"]
    assert table[1].split()[:2] == [ids["deleted"], "other"]


def test_a_submit_that_was_refused_was_deleted_by_nobody(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("")

    async def fill() -> None:
        state_dir = tmp_path / ".reelway"
        state_dir.mkdir()
        async with open_store("embedded", state_dir, timeout_s=5) as store:
            task = new_task("acme", created_ms=MADE_MS)
            assert await store.tasks.reserve(task, MADE_MS) is None
            gone = failed(task, TaskError("unavailable", "Nobody."), MADE_MS + 5, hidden=True)
            assert gone is not None
            assert await store.tasks.swap(task, gone, None, "refused", 3600) is None

    asyncio.run(fill())
    _, row = invoke(config, "task", "list").stdout.splitlines()
    assert row.endswith("  unavailable")


@pytest.mark.parametrize("width", [100, 130, 400])
def test_a_list_of_tasks_fits_into_its_terminal(
    kept: tuple[Path, dict[str, str]], width: int
) -> None:
    """An id is copied, so it is whole; for a program nothing is cut."""
    config, ids = kept
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, width))
    environ = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", "task", "list", "--config", str(config)],
            env={**environ, "PYTHONPATH": str(Path(proxy.__file__).parents[1])},
            stdout=theirs,
            timeout=40,
            check=False,
        )
        lines = os.read(ours, 65536).decode().splitlines()
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert max(map(len, lines)) <= width
    assert [line.split()[0] for line in lines[1:]] == [*reversed(ids.values())]
    whole = invoke(config, "task", "list").stdout
    assert "…" not in whole
    assert (lines == whole.splitlines()) == (width == 400)


def test_an_operator_sees_all_of_one_task(kept: tuple[Path, dict[str, str]]) -> None:
    config, ids = kept
    shown = said(config, "task", "show", ids["deleted"])
    assert (shown["deleted"], shown["upstream"], shown["stage"]) == (True, "kling-main", "failed")
    assert (shown["prompt"], shown["attempt"], shown["version"]) == ("a cat", 1, 4)
    assert shown["created"] == "2026-11-18T11:06:40.002Z"
    assert shown["error"] == {"code": "timeout", "message": "Too late.", "provider_code": "50500"}
    line = said(config, "task", "timeline", ids["deleted"])
    assert [entry["event"] for entry in line] == [
        *("reserved", "sent", "gave up; failed: timeout: Too late.", "deleted")
    ]
    assert [entry["version"] for entry in line] == [1, 2, 3, 4]
    text = invoke(config, "task", "show", ids["open"]).stdout
    assert "prompt          a cat\n" in text
    assert "deleted         no\n" in text
    assert "held            0.00\n" in text
    assert "currency        USD\n" in text
    for command in ("show", "timeline"):
        missing = invoke(config, "task", command, "video_none")
        assert (missing.exit_code, missing.stdout) == (1, "")
        assert "there is no task video_none" in missing.stderr


def test_an_operator_sees_and_repeats_webhooks(kept: tuple[Path, dict[str, str]]) -> None:
    """By the hook's name, or the event's id that a receiver knows."""
    config, ids = kept
    [hook, _] = hooks = said(config, "webhook", "list")["webhooks"]
    assert {one["task_id"] for one in hooks} == {ids["failed"], ids["deleted"]}
    assert (hook["state"], hook["attempts"], hook["log"]) == ("pending", 0, [])
    assert (hook["event"], hook["url"]) == ("video.failed", "https://client.example/")
    assert hook["id"] == f"{hook['task_id']}:3"
    assert said(config, "webhook", "list", "--state", "dead")["webhooks"] == []
    few = said(config, "webhook", "list", "--limit", "1")
    assert (len(few["webhooks"]), few["has_more"]) == (1, True)
    for name in (hook["id"], hook["event_id"]):
        assert said(config, "webhook", "replay", name) == hook
    table = invoke(config, "webhook", "list").stdout.splitlines()
    assert table[0].split() == ["ID", "EVENT", "STATE", "TRIED", "CREATED", "LAST", "URL"]
    missing = invoke(config, "webhook", "replay", "evt_1_1")
    assert missing.exit_code == 1
    assert "there is no webhook video_1:1" in missing.stderr
