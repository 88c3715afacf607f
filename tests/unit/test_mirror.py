"""What is kept in the worker is never older than what the channel has told."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from proxy.store import StoreDown
from proxy.store.cache import PROBE_S, ReadCache, StoreHealth

ROOM = 3
GRACE_S = 60.0


class Store:
    """Answers when told to: `held` reads wait, each with the value as it was when it was asked."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {"a": "a1", "b": "b1", "c": "c1", "d": "d1"}
        self.reads: Counter[str] = Counter()
        self.is_listening = True
        self.is_down = False
        self.now_s = 1000.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache: ReadCache[str] = ReadCache(
            self.load, lambda: self.is_listening, ROOM, lambda: GRACE_S, lambda: self.now_s
        )

    async def load(self, key: str) -> str | None:
        self.reads[key] += 1
        value = self.values.get(key)
        await self.gate.wait()
        if self.is_down:
            raise StoreDown("told to be")
        return value

    def change(self, key: str, value: str) -> None:
        """As somebody's change arrives: it is stored, and the channel names it."""
        self.values[key] = value
        self.cache.invalidate(key)

    def lose(self) -> None:
        """The subscription breaks."""
        self.is_listening = False
        self.cache.invalidate_all()


@pytest.fixture
def store() -> Store:
    return Store()


async def asked(store: Store, key: str) -> asyncio.Task[str | None]:
    """A read that is under way."""
    before = store.reads[key]
    read = asyncio.create_task(store.cache.get(key))
    while store.reads[key] == before:  # noqa: ASYNC110 -- the mirror tells nobody
        await asyncio.sleep(0)
    return read


async def turns() -> None:
    """Enough turns of the loop for a read in the background to end."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_kept_value_is_not_read_again(store: Store) -> None:
    assert [await store.cache.get("a") for _ in range(3)] == ["a1"] * 3
    assert store.reads["a"] == 1


async def test_a_named_key_is_read_again(store: Store) -> None:
    await store.cache.get("a")
    await store.cache.get("b")
    store.change("a", "a2")
    assert (await store.cache.get("a"), await store.cache.get("b")) == ("a2", "b1")
    assert (store.reads["a"], store.reads["b"]) == (2, 1)


async def test_what_is_missing_is_asked_for_each_time(store: Store) -> None:
    """A token is made and used at once: nobody may remember that it was not there."""
    assert await store.cache.get("x") is None
    store.values["x"] = "x1"
    assert await store.cache.get("x") == "x1"


async def test_those_who_ask_together_share_one_read(store: Store) -> None:
    store.gate.clear()
    reads = [await asked(store, "a")]
    reads += [asyncio.create_task(store.cache.get("a")) for _ in range(99)]
    await asyncio.sleep(0)
    store.gate.set()
    assert set(await asyncio.gather(*reads)) == {"a1"}
    assert store.reads["a"] == 1


async def test_one_that_leaves_does_not_take_the_read_from_the_others(store: Store) -> None:
    store.gate.clear()
    leaves = await asked(store, "a")
    stays = asyncio.create_task(store.cache.get("a"))
    await asyncio.sleep(0)
    leaves.cancel()
    await asyncio.wait([leaves])
    store.gate.set()
    assert await stays == "a1"
    assert store.reads["a"] == 1


@pytest.mark.parametrize("about", ["this key", "another key", "another kind"])
async def test_a_read_that_a_message_overtook_is_not_kept(store: Store, about: str) -> None:
    """It may be older than the message: it answers who asked before, and nobody else."""
    store.gate.clear()
    read = await asked(store, "a")
    if about == "this key":
        store.change("a", "a2")
    elif about == "another key":
        store.change("b", "b2")
    else:
        store.cache.invalidate_reads()
    store.gate.set()
    assert await read == "a1"
    assert await store.cache.get("a") == store.values["a"]
    assert store.reads["a"] == 2


async def test_who_asks_after_a_message_does_not_get_the_read_from_before(store: Store) -> None:
    store.gate.clear()
    before = await asked(store, "a")
    store.change("a", "a2")
    after = await asked(store, "a")
    store.gate.set()
    assert (await before, await after) == ("a1", "a2")
    assert await store.cache.get("a") == "a2"
    assert store.reads["a"] == 2, "the older read's end has not thrown the newer one away"


async def test_nothing_is_kept_while_nobody_listens(store: Store) -> None:
    store.is_listening = False
    await store.cache.get("a")
    store.values["a"] = "a2"  # and nobody says so
    assert await store.cache.get("a") == "a2"


async def test_a_lost_subscription_forgets_everything(store: Store) -> None:
    await store.cache.get("a")
    store.gate.clear()
    under_way = await asked(store, "b")
    store.lose()
    store.values |= {"a": "a2", "b": "b2"}  # changes nobody heard of
    store.is_listening = True
    store.gate.set()
    assert await under_way == "b1"
    assert (await store.cache.get("a"), await store.cache.get("b")) == ("a2", "b2")


async def test_the_least_recently_used_leaves_first(store: Store) -> None:
    for key in ("a", "b", "c", "a", "d"):
        await store.cache.get(key)
    store.reads.clear()
    for key in ("a", "c", "d"):
        await store.cache.get(key)
    assert not store.reads
    await store.cache.get("b")
    assert store.reads["b"] == 1


async def test_a_read_that_fails_is_tried_again(store: Store) -> None:
    store.is_down = True
    with pytest.raises(StoreDown):
        await store.cache.get("a")
    store.is_down = False
    assert await store.cache.get("a") == "a1"


# ---------------------------------------------------------------- a store that is down


async def test_a_stale_value_stands_in_for_a_store_that_is_down(store: Store) -> None:
    """For a grace; what was never kept is not to be had."""
    await store.cache.get("a")
    store.lose()
    store.is_down = True
    store.now_s += GRACE_S - 1
    assert await store.cache.get("a") == "a1"
    with pytest.raises(StoreDown):
        await store.cache.get("b")
    store.now_s += 1
    with pytest.raises(StoreDown):
        await store.cache.get("a")


async def test_a_stale_value_never_stands_in_for_a_store_that_answers(store: Store) -> None:
    await store.cache.get("a")
    store.lose()
    store.values["a"] = "a2"
    assert await store.cache.get("a") == "a2"
    store.is_down = True
    with pytest.raises(StoreDown):  # what the store has answered is not stale, and is not kept
        await store.cache.get("a")


async def test_what_the_store_says_is_gone_is_gone(store: Store) -> None:
    await store.cache.get("a")
    store.lose()
    del store.values["a"]
    assert await store.cache.get("a") is None
    store.is_down = True
    with pytest.raises(StoreDown):
        await store.cache.get("a")


async def test_only_one_read_in_a_while_goes_and_looks(store: Store) -> None:
    """Nobody waits for it: all have the stale value at once instead of a time-out each."""
    await store.cache.get("a")
    store.lose()
    store.is_down = True
    store.reads.clear()
    assert await store.cache.get("a") == "a1"  # the first to find the store down
    for looks in (2, 3):
        store.now_s += PROBE_S
        store.gate.clear()
        assert [await store.cache.get("a") for _ in range(5)] == ["a1"] * 5
        store.gate.set()
        await turns()
        assert store.reads["a"] == looks
    store.is_down = False
    store.values["a"] = "a2"
    store.now_s += PROBE_S
    await store.cache.get("a")
    await turns()
    assert await store.cache.get("a") == "a2"


async def test_a_message_ends_a_stale_value(store: Store) -> None:
    """Nobody is served what is known to have changed, store or no store."""
    await store.cache.get("a")
    store.lose()
    store.is_listening = True
    store.change("a", "a2")
    store.is_down = True
    with pytest.raises(StoreDown):
        await store.cache.get("a")


async def test_stale_values_have_a_bound_too(store: Store) -> None:
    for keys in ("abc", "d"):
        for key in keys:
            await store.cache.get(key)
        store.cache.invalidate_all()
    store.is_listening = False
    store.is_down = True
    kept = []
    for key in "abcd":
        try:
            kept.append(await store.cache.get(key))
        except StoreDown:
            continue
    assert kept == ["b1", "c1", "d1"]


async def test_what_one_mirror_has_waited_for_in_vain_the_next_does_not() -> None:
    """A request reads its token, its owner and its task; a frozen store costs it one wait."""
    reach, reads = StoreHealth(), Counter[str]()
    listening = True

    def cache(name: str) -> ReadCache[str]:
        async def load(_key: str) -> str | None:
            reads[name] += 1
            if not listening:
                raise StoreDown("told to be")
            return name

        return ReadCache(load, lambda: listening, ROOM, lambda: GRACE_S, lambda: 1.0, reach)

    both = [cache("tokens"), cache("tasks")]
    assert [await each.get("a") for each in both] == ["tokens", "tasks"]
    listening = False
    for each in both:
        each.invalidate_all()
    assert [await each.get("a") for each in both] == ["tokens", "tasks"]
    assert reads == {"tokens": 2, "tasks": 1}
