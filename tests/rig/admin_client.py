"""Asking the admin port of a house, as the console does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.rig.house import Answer, House

TOKEN = "admin-secret"


async def ask(
    house: House,
    method: str,
    path: str,
    body: object = None,
    headers: Mapping[str, str | None] | None = None,
    **options: Any,
) -> Answer:
    """With the admin token unless `headers` says otherwise."""
    sent = {"Authorization": f"Bearer {TOKEN}", **(headers or {})}
    if body is not None:
        options["json"] = body
    base = house.server.admin_url
    return await house.request(method, path, headers=sent, base=base, **options)


async def got(house: House, path: str) -> Any:
    """What a GET answers, which is 200."""
    reply = await ask(house, "GET", path)
    assert reply.status == 200, reply.body
    assert reply.headers["Content-Type"] == "application/json"
    return reply.json()


async def done(house: House, method: str, path: str, body: object = None) -> Any:
    """What a POST or PATCH answers, which is 200 or 201."""
    reply = await ask(house, method, path, body)
    assert reply.status in (200, 201), (reply.status, reply.body)
    return reply.json()


async def refused(
    house: House, method: str, path: str, body: object = None, **options: Any
) -> tuple[int, str, str | None, str]:
    """(status, code, param, message) of a refusal."""
    reply = await ask(house, method, path, body, **options)
    error = reply.json()["error"]
    assert set(error) == {"message", "code", "param"}
    return reply.status, error["code"], error["param"], error["message"]


async def pages(house: House, path: str, limit: int) -> list[Any]:
    """All of a list, page by page."""
    found: list[Any] = []
    cursor = ""
    joint = "&" if "?" in path else "?"
    while True:
        page = await got(house, f"{path}{joint}limit={limit}{cursor}")
        assert len(page["data"]) <= limit
        found += page["data"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"
