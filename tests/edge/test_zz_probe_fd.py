from __future__ import annotations
import pytest


@pytest.mark.parametrize("n", range(5))
async def test_x(house, n):
    r = await house.post("/v1/videos", json={"prompt": "a"})
    assert r.status == 200
    print(house.lines)
