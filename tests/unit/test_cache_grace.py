"""What a worker remembers when its store is gone: for a grace, and never against the store."""

from __future__ import annotations

import asyncio

import pytest

from proxy.store import StoreDown
from proxy.store.cache import PROBE_S, ReadCache


class Shelf:
    """A store by hand. `asked` counts reads, those that failed included."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.is_down = False
        self.is_listening = True
        self.now_s = 100.0
        self.asked = 0
        self.cache: ReadCache[str] = ReadCache(
            self.load, lambda: self.is_listening, 2, lambda: 60.0, lambda: self.now_s
        )

    async def load(self, key: str) -> str | None:
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_down:
            raise StoreDown("it is down")
        return self.values.get(key)

    def lose(self) -> None:
        """The subscription breaks because the store has gone."""
        self.is_down, self.is_listening = True, False
        self.cache.invalidate_all()

    def come_back(self) -> None:
        self.is_down, self.is_listening = False, True


async def known(shelf: Shelf, *keys: str) -> None:
    for key in keys:
        assert await shelf.cache.get(key) == shelf.values[key]


async def test_what_was_known_stands_in_for_a_store_that_is_down() -> None:
    shelf = Shelf(a="1")
    await known(shelf, "a")
    shelf.lose()
    assert await shelf.cache.get("a") == "1"
    with pytest.raises(StoreDown):
        await shelf.cache.get("b")


async def test_the_grace_has_an_end() -> None:
    shelf = Shelf(a="1")
    await known(shelf, "a")
    shelf.lose()
    shelf.now_s += 59.9
    assert await shelf.cache.get("a") == "1"
    shelf.now_s += 0.1
    with pytest.raises(StoreDown):
        await shelf.cache.get("a")


async def test_losing_the_store_twice_prolongs_nothing() -> None:
    shelf = Shelf(a="1")
    await known(shelf, "a")
    shelf.lose()
    shelf.now_s += 59.0
    shelf.cache.invalidate_all()
    shelf.now_s += 1.0
    with pytest.raises(StoreDown):
        await shelf.cache.get("a")


async def test_a_store_that_answers_is_believed() -> None:
    """A subscription can be lost while the store goes on: what it says now counts, also that
    there is no such key any more, and also should it go down right afterwards."""
    shelf = Shelf(a="1", b="1")
    await known(shelf, "a", "b")
    shelf.is_listening = False
    shelf.cache.invalidate_all()
    shelf.values = {"a": "revoked"}
    assert await shelf.cache.get("a") == "revoked"
    assert await shelf.cache.get("b") is None
    shelf.is_down = True
    for key in "ab":
        with pytest.raises(StoreDown):
            await shelf.cache.get(key)


async def test_a_change_heard_of_after_the_return_is_honoured_at_once() -> None:
    shelf = Shelf(a="1")
    await known(shelf, "a")
    shelf.lose()
    shelf.come_back()
    shelf.cache.invalidate("a")
    shelf.is_down = True
    with pytest.raises(StoreDown):
        await shelf.cache.get("a")


async def test_nobody_waits_for_a_store_that_is_known_to_be_down() -> None:
    """Each look costs a time-out: one goes and looks now and then, and none waits for it."""
    shelf = Shelf(a="1")
    await known(shelf, "a")
    shelf.lose()
    asked = shelf.asked
    for _ in range(5):
        assert await shelf.cache.get("a") == "1"
    assert shelf.asked == asked + 1
    shelf.now_s += PROBE_S
    shelf.is_down = False
    shelf.values["a"] = "2"
    assert await asyncio.gather(*(shelf.cache.get("a") for _ in range(5))) == ["1"] * 5
    for _ in range(3):
        await asyncio.sleep(0)
    assert shelf.asked == asked + 2
    assert await shelf.cache.get("a") == "2", "it has answered again: it is believed"


async def test_stale_values_take_no_more_room_than_fresh_ones() -> None:
    shelf = Shelf(a="1", b="2", c="3")
    await known(shelf, "a", "b")
    shelf.cache.invalidate_all()
    await known(shelf, "c")
    shelf.lose()
    assert await shelf.cache.get("c") == "3"
    assert await shelf.cache.get("b") == "2"
    with pytest.raises(StoreDown):
        await shelf.cache.get("a")
