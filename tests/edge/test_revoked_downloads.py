"""A download ends within a second when its key is revoked or disabled, and never looks whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial

import pytest

from tests.edge.test_token_life import bearer, change
from tests.rig.downloads import PROMPT, SIZE, TWO, add, connected, content
from tests.rig.house import House


@pytest.mark.parametrize("end", ["revoked", "disabled"])
async def test_a_download_ends_with_its_key(house: House, end: str) -> None:
    for place in TWO.values():
        made = await house.new_token()
        created = await house.post(
            "/v1/videos", json={"model": place.model, "prompt": PROMPT}, headers=bearer(made)
        )
        task_id = created.json()["id"]
        await house.get(f"/v1/videos/{task_id}?wait=20", headers=bearer(made))
        add(house, place.fault("stall", at=SIZE // 2))
        async with connected(house) as raw:
            await raw.send(content(task_id), bearer(made))
            assert await raw.head() == 200
            await raw.some(1000)
            now_ms = int(time.time() * 1000)
            if end == "revoked":
                await house.server.store.tokens.revoke(made.record.id, now_ms)
            else:
                await change(house, made, disabled_ms=now_ms)
            _, is_whole = await raw.body()
            assert not is_whole
        line = await house.line(partial(_is_cut, task_id))
        assert line["reason"] == "revoked"
        house.sim.faults.clear()


def _is_cut(task_id: str, line: Mapping[str, object]) -> bool:
    return (line["operation"], line["task_id"]) == ("content", task_id)
