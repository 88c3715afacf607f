"""One round trip for what is asked together; one bad command or lost caller spoils nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from importlib import resources

import pytest

from proxy.model import HEALTHY, Stage
from proxy.server.embedded_store import Embedded
from proxy.store import (
    OwnerRecord,
    Store,
    StoreDown,
    StoreFault,
    StoreFull,
    StoreUnsafe,
    TokenRecord,
)
from proxy.store.client import connect
from proxy.store.credentials import Credentials
from proxy.store.expiry import ExpirySweep
from proxy.store.ledger import Ledger
from proxy.store.owners import Owners
from proxy.store.pipeline import MAX_PENDING, Answer, Durability, Pipeline, Script
from proxy.store.queue import TaskQueues
from proxy.store.rates import Rate, Rates
from proxy.store.refusals import RefusedSubmit, RefusedSubmits
from proxy.store.signatures import Signatures
from proxy.store.stream_leases import Streams
from proxy.store.tasks import Tasks
from proxy.store.tokens import Tokens
from proxy.store.transport import Arg
from proxy.store.webhooks import Webhooks
from tests.rig.tasks import NOW, new_task


class Recorder(Pipeline):
    """A batcher that notes its round trips and the keys of each script call."""

    def __init__(self, url: str) -> None:
        self.connections = connect(url, 0.5)
        super().__init__(self.connections.commands, 0.5)
        self.trips: list[list[str]] = []
        self.scripts: dict[str, list[Sequence[str]]] = {}

    def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Arg],
        *,
        durability: Durability = "local",
    ) -> Awaitable[Answer]:
        self.scripts.setdefault(script.name, []).append(keys)
        return super().run(script, keys, args, durability=durability)

    async def _send(self, commands: Sequence[tuple[Arg, ...]]) -> list[Answer | Exception]:
        self.trips.append([str(command[0]) for command in commands])
        return await super()._send(commands)


@pytest.fixture
async def recorder(store: Store, valkey: Embedded) -> AsyncIterator[Recorder]:
    batch = Recorder(valkey.url)
    yield batch
    await batch.close()
    await batch.connections.aclose()


async def test_one_tick_is_one_round_trip(recorder: Recorder) -> None:
    """64 callers in one turn of the loop share a pipeline, and each gets its own answer."""
    answers = await asyncio.gather(*(recorder.call("ECHO", n) for n in range(64)))
    assert answers == [str(n).encode() for n in range(64)]
    assert recorder.trips == [["ECHO"] * 64]


async def test_a_bad_command_spoils_only_itself(recorder: Recorder) -> None:
    await recorder.call("SET", "text", "x")
    before, wrong, nonsense, after = await asyncio.gather(
        recorder.call("ECHO", "a"),
        recorder.call("LPUSH", "text", "y"),
        recorder.call("NONSENSE"),
        recorder.call("ECHO", "b"),
        return_exceptions=True,
    )
    assert (before, after) == (b"a", b"b")
    assert isinstance(wrong, StoreFault)
    assert "WRONGTYPE" in wrong.reason
    assert isinstance(nonsense, StoreFault)


async def test_an_argument_redis_cannot_take_never_reaches_a_batch(recorder: Recorder) -> None:
    good = recorder.call("ECHO", "a")
    for bad in (None, 1.5, True):
        with pytest.raises(TypeError):
            recorder.call("ECHO", bad)  # type: ignore[arg-type]  # the point of the test
    assert await good == b"a"


async def test_a_caller_that_left_is_not_asked_for(recorder: Recorder) -> None:
    gone = recorder.call("SET", "left", "behind")
    stays = recorder.call("EXISTS", "left")
    gone.cancel()
    assert await stays == 0
    assert recorder.trips == [["EXISTS"]]


async def test_a_caller_may_leave_while_its_batch_is_under_way(recorder: Recorder) -> None:
    gone, stays = recorder.call("ECHO", "a"), recorder.call("ECHO", "b")
    await asyncio.sleep(0)  # the batch is sent
    gone.cancel()
    assert await stays == b"b"


async def test_a_script_the_server_forgot_is_loaded_again(recorder: Recorder) -> None:
    script = Script.load("claim")
    await recorder.call("SCRIPT", "FLUSH")
    recorder.trips.clear()
    both = await asyncio.gather(
        recorder.run(script, ["rw:{00}:due"], [NOW, NOW, 1]), recorder.call("ECHO", "a")
    )
    assert list[Answer](both) == [[], b"a"]
    assert recorder.trips == [["EVALSHA", "ECHO"], ["EVAL"]]
    recorder.trips.clear()
    await recorder.run(script, ["rw:{00}:due"], [NOW, NOW, 1])
    assert recorder.trips == [["EVALSHA"]]


async def test_a_full_queue_refuses_at_once(recorder: Recorder) -> None:
    waiting = [recorder.call("PING") for _ in range(MAX_PENDING)]
    with pytest.raises(StoreDown):
        recorder.call("PING")
    assert set(await asyncio.gather(*waiting)) == {True}


async def test_closing_settles_everyone(recorder: Recorder) -> None:
    sent = recorder.call("ECHO", "a")
    await asyncio.sleep(0)
    waiting = recorder.call("ECHO", "b")
    await recorder.close()
    assert await sent == b"a"
    with pytest.raises(StoreDown):
        await waiting
    with pytest.raises(StoreDown):
        recorder.call("ECHO", "c")


async def test_a_full_store_refuses_writes_and_answers_reads(own_valkey: Embedded) -> None:
    store = await Store.open(own_valkey.url)
    task = new_task()
    await store.tasks.reserve(task, NOW)
    await store.batch.call("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(StoreFull) as caught:
            await store.tasks.reserve(new_task(), NOW)
        assert (caught.value.status, caught.value.code) == (503, "store_full")
        assert await store.tasks.get(task.id) == task
    finally:
        await store.close()


async def test_every_script_stays_in_one_slot(recorder: Recorder) -> None:
    """Several keys of one script share one `{s}` tag, whatever braces an owner's name has."""
    tasks, tokens, hooks = Tasks(recorder), Tokens(recorder), Webhooks(recorder)
    for owner in ("acme", "a{b}c", "{00}", "}{"):
        named = new_task(owner, external_id="x{y}z")
        task = replace(named, fingerprint="f}{", idempotency="k{}", webhook="https://e.com/")
        task = replace(task, hold_micro=5)
        await tasks.reserve(task, NOW)
        failed = replace(task, version=2, stage=Stage.FAILED)
        await tasks.swap(task, failed, None, "failed", 60)
        hook = await hooks.get(f"{task.id}:2")
        assert hook is not None
        await hooks.write(hook, NOW, None)
        with pytest.raises(StoreUnsafe):  # the test's server has no replica
            await tasks.secure(task.id, "replica")
        final = replace(failed, version=3)
        await tasks.swap(failed, final, None, "closed", 60, never_sent=True)
        assert (await tasks.list(owner, 5))[0] == (final,)
    await tasks.reserve(new_task(), NOW)
    await tasks.claim_due(NOW, 1, 100)
    rates = [Rate("t:{}", "requests", 5), Rate("o:}{", "submits", 5)]
    assert (await Rates(recorder).admit("}{", rates, NOW)).remaining == 4
    assert await ExpirySweep(recorder).sweep(NOW + 60_000) == 4
    await tokens.create(TokenRecord("t", "00", "name", "acme", NOW))
    await tokens.change(TokenRecord("t", "00", "other", "acme", NOW), "name")
    await tokens.rotate("t", "11", NOW)
    await Owners(recorder).put(OwnerRecord("}{"))
    assert await Streams(recorder).take("t:}{", "w:1", 1, NOW)
    assert (await Ledger(recorder, tasks).check(NOW)).problems == ()
    await tokens.revoke("t", NOW)
    credentials = Credentials(recorder)
    assert await credentials.take_slot("up/{k}", "t", 1, NOW, NOW + 1)
    assert await credentials.swap("up/{k}", HEALTHY, replace(HEALTHY, strikes=1))
    await credentials.release_slot("up/{k}", "t")
    await Signatures(recorder).bind("t", "}{", "s{}", "k}{", 60)
    waiting, waits = TaskQueues(recorder), new_task("}{")
    assert await waiting.join("up", waits)
    assert await waiting.next("up", NOW, NOW + 1) == waits.id
    await waiting.leave("up", waits.id)
    assert await credentials.is_alone("up/{k}", "t", NOW)
    assert await tasks.pull_back(NOW, 0)
    await RefusedSubmits(recorder).note(
        RefusedSubmit(NOW, "rate", "busy", "Busy.", 429, "}{", "t", "openai", "m")
    )
    folder = resources.files("proxy.store") / "scripts"
    written = {entry.name.removesuffix(".lua") for entry in folder.iterdir()}
    assert set(recorder.scripts) == written
    for calls in recorder.scripts.values():
        for names in calls:
            tags = {re.match(r"rw:\{(0[0-9a-f]|q:[^{}]+)\}:[a-z]+(:|$)", name) for name in names}
            slots = {match.group(1) for match in tags if match}
            assert (None not in tags and len(slots) == 1) or len(names) == 1


@pytest.mark.parametrize("name", ["reserve", "swap"])
def test_a_script_gets_every_argument_it_names_and_no_other(name: str) -> None:
    """Both move money: an argument that is missing or misspelt never reaches the store."""
    script = Script.load(name)
    values: dict[str, int | str | bytes] = {word: word for word in reversed(script.named)}
    assert script.arguments(values, "more") == [*script.named, "more"]
    assert f"local NAMED, arg = {len(script.named)}, " in script.text
    for word in script.named:
        assert f"arg.{word}" in script.text
        with pytest.raises(TypeError, match=name):
            script.arguments({key: values[key] for key in values if key != word})
    with pytest.raises(TypeError, match="misspelt"):
        script.arguments({**values, "misspelt": ""})
