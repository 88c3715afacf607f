"""An attacking key beside a paying one: the paying one notices nothing.

Run by `make soak`; the figures are printed, and are the ones in docs/threat-model.md.
`REELWAY_SOAK_ATTACK_S` is how long it attacks, 600 seconds unless set. The worker, the simulated
upstreams and the attacker are processes of their own; the attacker's is a nice one, for in the
world its CPU is not the gateway's.
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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import ClientSession, ClientTimeout

from proxy.model import Limits
from proxy.server.embedded_store import Embedded
from proxy.store import Store
from proxy.tokens import MadeToken, NewToken, create_token
from tests.rig.site import ROOT, SECRET, Worker, config_text
from tests.rig.valkey import bundled_server
from tests.soak.test_bodies import resident_mib

ATTACK_S = float(os.environ.get("REELWAY_SOAK_ATTACK_S", "600"))
QUIET_S = max(10.0, ATTACK_S / 10)
POLL_S = 0.02  # between two polls of the paying key
SUBMIT_S = 1.0
MOST_TIMES = 3.0
MOST_GROWTH_MIB = 400.0
MOST_STORE_BYTES = 32 << 20  # more than before, whatever the attack's length
BUDGET_MICRO = 2_000_000


@dataclass
class Payer:
    """Submits a video each second, and polls the latest one all the time."""

    url: str
    bearer: dict[str, str]
    session: ClientSession
    waits_s: list[float] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    async def run(self, for_s: float) -> list[float]:
        """How long each poll took."""
        self.waits_s = []
        async with asyncio.TaskGroup() as group:
            jobs = [group.create_task(self._submits()), group.create_task(self._polls())]
            await asyncio.sleep(for_s)
            for job in jobs:
                job.cancel()
        return sorted(self.waits_s)

    async def ask(self, method: str, path: str, body: object = None) -> Any:
        async with self.session.request(
            method, self.url + path, json=body, headers=self.bearer
        ) as reply:
            told = await reply.read()
            if reply.status != 200:
                self.refused.append(f"{method} {path}: {reply.status} {told[:200]!r}")
                return None
            return json.loads(told)

    async def _submits(self) -> None:
        while True:
            body = {"model": "sora-2", "prompt": secrets.token_hex(4)}
            # A submit that is cancelled would be a task nobody counts.
            if video := await asyncio.shield(self.ask("POST", "/v1/videos", body)):
                self.made.append(video["id"])
            await asyncio.sleep(SUBMIT_S)

    async def _polls(self) -> None:
        while True:
            if self.made:
                begun = time.perf_counter()
                await self.ask("GET", f"/v1/videos/{self.made[-1]}")
                self.waits_s.append(time.perf_counter() - begun)
            await asyncio.sleep(POLL_S)

    async def ended(self) -> set[str]:
        """The states of all its videos, once none is open."""
        async with asyncio.timeout(60):
            states = {}
            for video in self.made:
                while True:
                    states[video] = (await self.ask("GET", f"/v1/videos/{video}"))["status"]
                    if states[video] in ("completed", "failed"):
                        break
                    await asyncio.sleep(0.05)
        return set(states.values())


@asynccontextmanager
async def simulator() -> AsyncIterator[dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy.sim", "--json", "--speed", "20", "--die-with-parent"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def attacking(url: str, key: MadeToken, for_s: float) -> AsyncIterator[dict[str, int]]:
    """Beside what is inside; holds what the attacker was answered once that is over."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.soak.attacker", url, key.token, str(for_s)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=_be_nice,
    )
    said: dict[str, int] = {}
    try:
        yield said
        told, _ = await asyncio.wait_for(process.communicate(), 60)
        said.update(json.loads(told))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _be_nice() -> None:
    os.nice(19)


async def store_bytes(store: Store) -> int:
    told = await store.batch.call("INFO", "memory")
    assert isinstance(told, dict)
    return int(cast("dict[str, Any]", told)["used_memory"])


def p99_ms(waits_s: list[float]) -> float:
    return waits_s[int(len(waits_s) * 0.99)] * 1000


@pytest.mark.timeout(ATTACK_S + QUIET_S + 240)
async def test_a_paying_key_notices_nothing_of_an_attacking_one(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        told = await stack.enter_async_context(simulator())
        valkey = await Embedded.start(tmp_path / "valkey", binary=bundled_server())
        stack.push_async_callback(valkey.stop)
        store = await Store.open(valkey.url)
        stack.push_async_callback(store.close)
        text = config_text(tmp_path, told, valkey.url)
        priced = 'model = "sora-2"\nprice = { per_second = "0.01" }'
        config = tmp_path / "config.toml"
        config.write_text(text.replace('model = "sora-2"', priced))
        worker = await Worker.start(config)
        stack.push_async_callback(worker.kill)
        evil, good = [
            await create_token(
                store,
                SECRET.encode(),
                NewToken(name, owner=name, limits=Limits(budget_micro=budget)),
                secrets.token_bytes,
                time.time,
            )
            for name, budget in (("evil", BUDGET_MICRO), ("good", None))
        ]
        session = await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=30)))
        payer = Payer(worker.url, {"Authorization": f"Bearer {good.token}"}, session)

        quiet = await payer.run(QUIET_S)
        before_bytes, before_mib = await store_bytes(store), resident_mib(worker.process.pid)
        async with attacking(worker.url, evil, ATTACK_S) as said:
            attacked = await payer.run(ATTACK_S)
        grown_mib = resident_mib(worker.process.pid) - before_mib
        grown_bytes = await store_bytes(store) - before_bytes

        states = await payer.ended()
        async with asyncio.timeout(60):  # the attacker's last renders end too
            while (await store.ledger.budget_use("evil", "o:evil", _now())).total.held_micro:  # noqa: ASYNC110 - of processes
                await asyncio.sleep(0.1)
        found = await store.ledger.check(_now())
        spent = (await store.ledger.budget_use("evil", "o:evil", _now())).total.spent_micro

    print(f"\nquiet    {len(quiet)} polls, p50 {quiet[len(quiet) // 2] * 1000:.1f} ms, ", end="")
    print(f"p99 {p99_ms(quiet):.1f} ms, longest {quiet[-1] * 1000:.0f} ms")
    print(
        f"attacked {len(attacked)} polls, p50 {attacked[len(attacked) // 2] * 1000:.1f} ms, ",
        end="",
    )
    print(f"p99 {p99_ms(attacked):.1f} ms, longest {attacked[-1] * 1000:.0f} ms")
    print(f"worker +{grown_mib:.0f} MiB, store +{grown_bytes / 2**20:.1f} MiB")
    print(f"{len(payer.made)} paid videos, {len(payer.refused)} refused; attacker: {said}, {spent}")
    assert said.get("400"), "the attack did not arrive"
    assert payer.refused == []
    assert states == {"completed"}
    assert found.problems == ()
    assert spent <= BUDGET_MICRO
    assert grown_bytes <= MOST_STORE_BYTES
    assert grown_mib <= MOST_GROWTH_MIB
    assert p99_ms(attacked) <= MOST_TIMES * p99_ms(quiet)


def _now() -> int:
    return round(time.time() * 1000)
