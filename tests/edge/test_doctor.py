"""`reelway doctor` says what the Redis in use cannot promise, and `health` whether it is ready."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.store import Store
from proxy.store.promises import findings
from tests.edge.programs import run
from tests.edge.store_fixtures import store, valkey

__all__ = ["store", "valkey"]


async def levels(store: Store, durability: Any = "local") -> dict[str, str]:
    """The findings that are not ok: level by the text's beginning."""
    found = await findings(store.batch, durability)
    return {each.text: each.level for each in found if each.level != "ok"}


async def test_a_store_as_we_start_it_promises_what_local_means(store: Store) -> None:
    assert {text.split(":")[1].split()[0] for text in await levels(store)} == {
        "maxmemory",
        "durability",
    }


@pytest.mark.parametrize(
    ("setting", "value", "usual", "words"),
    [
        ("appendonly", "no", "yes", "appendonly is no"),
        ("maxmemory-policy", "allkeys-lru", "noeviction", "maxmemory-policy is allkeys-lru"),
    ],
)
async def test_what_would_lose_tasks_is_an_error(
    store: Store, setting: str, value: str, usual: str, words: str
) -> None:
    await store.batch.call("CONFIG", "SET", setting, value)
    try:
        found = await levels(store)
    finally:
        await store.batch.call("CONFIG", "SET", setting, usual)
    assert [level for text, level in found.items() if words in text] == ["error"]


async def test_a_promise_of_replicas_needs_one(store: Store) -> None:
    found = await levels(store, "replica")
    assert [level for text, level in found.items() if "no replica" in text] == ["error"]


def test_nobody_there_is_not_healthy(tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f'[admin]\nlisten = "127.0.0.1:{free_port}"\n')
    ended = run("health", "--config", str(path), cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert "nobody answers" in ended.err
