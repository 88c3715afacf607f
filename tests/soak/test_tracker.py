"""Ten thousand open tasks, two workers: each is asked after in its time.

Run by `make soak`; the figures are printed. What is measured is how long after its due time a
task is looked at, by the workers' own histogram, over whole minutes of a steady load.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession
from prometheus_client.parser import text_string_to_metric_families

from proxy.model import Kind, Operation, Stage, Task
from proxy.server.embedded_store import Embedded
from proxy.store import Store, new_task_id
from tests.rig.site import Worker, config_text
from tests.rig.valkey import bundled_server

TASKS = 10_000
OWNERS = 50
INTERVAL_S = 15
MEASURE_S = int(os.environ.get("REELWAY_SOAK_S", "60"))
MOST_LAG_S = 2.0
TIMEOUTS = f"""\
poll_first_s = {INTERVAL_S}.0
poll_interval_s = {INTERVAL_S}.0
poll_max_s = {INTERVAL_S}.0
"""


@asynccontextmanager
async def simulator() -> AsyncIterator[dict[str, Any]]:
    """In a process of its own, so that its CPU is not the workers'."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.sim", "--json", "--manual", "--die-with-parent"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()


async def renders(session: ClientSession, told: dict[str, Any]) -> list[str]:
    """Ids of so many renders at the simulator that never end."""
    url = told["openai_url"] + "/videos"
    headers = {"Authorization": f"Bearer {told['credentials']['openai']['api_key']}"}
    body = {"model": "sora-2", "prompt": "a cat"}

    async def some(count: int) -> list[str]:
        made = []
        for _ in range(count):
            async with session.post(url, json=body, headers=headers) as reply:
                made.append(str((await reply.json())["id"]))
        return made

    made = await asyncio.gather(*(some(TASKS // 20) for _ in range(20)))
    return [one for several in made for one in several]


async def adopt(store: Store, upstream_ids: list[str]) -> None:
    """A bound task for each, due at any time of the first interval."""
    now_ms = round(time.time() * 1000)
    tasks = [
        Task(
            id=new_task_id(f"owner {number % OWNERS}", secrets.token_hex(23)),
            owner=f"owner {number % OWNERS}",
            token_id="soak",
            dialect="openai",
            operation=Operation.CREATE,
            kind=Kind.TEXT,
            model="sora-2",
            created_ms=now_ms,
            updated_ms=now_ms,
            bound_ms=now_ms,
            stage=Stage.QUEUED,
            route="sora-2",
            upstream="sim-openai",
            provider="openai",
            upstream_model="sora-2",
            credential="a",
            upstream_id=upstream_id,
            handle={},
        )
        for number, upstream_id in enumerate(upstream_ids)
    ]
    for first in range(0, TASKS, 500):
        await asyncio.gather(
            *(
                store.tasks.reserve(
                    task, now_ms + 5_000 + INTERVAL_S * 1000 * (first + place) // TASKS
                )
                for place, task in enumerate(tasks[first : first + 500])
            )
        )


async def lags(session: ClientSession, workers: list[Worker]) -> dict[float, float]:
    """How many looks came at most so many seconds late, of all workers."""
    found: dict[float, float] = {}
    for worker in workers:
        async with session.get(worker.admin_url + "/metrics") as reply:
            text = await reply.text()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == "reelway_poll_lag_seconds_bucket":
                    bound = float(sample.labels["le"])
                    found[bound] = found.get(bound, 0) + sample.value
    return found


def quantile(counts: dict[float, float], share: float) -> float:
    """The upper bound of the bucket that holds it."""
    total = counts[float("inf")]
    return next(bound for bound, count in sorted(counts.items()) if count >= share * total)


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.timeout(300)
async def test_ten_thousand_open_tasks_are_asked_after_in_time(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        told = await stack.enter_async_context(simulator())
        valkey = await Embedded.start(tmp_path / "valkey", binary=bundled_server())
        stack.push_async_callback(valkey.stop)
        store = await Store.open(valkey.url)
        stack.push_async_callback(store.close)
        session = await stack.enter_async_context(ClientSession())
        config = tmp_path / "config.toml"
        config.write_text(config_text(tmp_path, told, valkey.url, TIMEOUTS))
        await adopt(store, await renders(session, told))
        workers = list(await asyncio.gather(*(Worker.start(config) for _ in range(2))))
        for worker in workers:
            stack.push_async_callback(worker.kill)

        await asyncio.sleep(2 * INTERVAL_S)  # the first round and what it left behind
        assert valkey.pid is not None
        pids = {"worker 1": workers[0].process.pid, "worker 2": workers[1].process.pid}
        pids |= {"valkey": valkey.pid, "simulator": told["pid"]}
        before = await lags(session, workers)
        used = {name: cpu_s(pid) for name, pid in pids.items()}
        begun = time.monotonic()
        await asyncio.sleep(MEASURE_S)
        took_s = time.monotonic() - begun
        after = await lags(session, workers)
        used = {name: cpu_s(pid) - used[name] for name, pid in pids.items()}

        counts = {bound: count - before[bound] for bound, count in after.items()}
        polls = counts[float("inf")]
        shares = [upper - lower for lower, upper in pairwise([0.0, *sorted(counts.values())])]
        print(f"\n{polls / took_s:.0f} polls/s over {took_s:.0f} s, load {os.getloadavg()[0]:.1f}")
        print("lag: " + ", ".join(f"p{n} <= {quantile(counts, n / 100):g} s" for n in (50, 90, 99)))
        print("buckets: " + str(dict(zip(sorted(counts), map(int, shares), strict=True))))
        for name, seconds in used.items():
            print(f"CPU {name}: {100 * seconds / took_s:.0f} % of a core")
        workers_s = used["worker 1"] + used["worker 2"]
        print(f"CPU of both workers: {1e6 * workers_s / polls:.0f} us a poll")
        failed = [line for w in workers for line in w.log if line.get("level") == "error"]
        assert failed == []
        assert polls >= 0.9 * TASKS * took_s / INTERVAL_S, "each once in its interval"
        assert quantile(counts, 0.99) <= MOST_LAG_S
        assert await store.tasks.open_count() == TASKS
