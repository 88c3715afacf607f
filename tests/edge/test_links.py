"""Signed links: what a native client fetches without a token, and what they do not open."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest

from proxy.errors import Forbidden
from proxy.gateway.auth import Authenticator
from proxy.gateway.memos import RequestMemos
from proxy.server.bootstrap import signing_secrets
from proxy.signing import sign_link
from proxy.sim import pattern
from proxy.store import OwnerRecord, TokenRecord
from proxy.store.cache import ReadCache
from tests.rig.downloads import KLING, PLACES, PROMPT, SIZE, WAIT_S, Heard, content, fetch, told
from tests.rig.house import House

FILM = pattern(0, SIZE)


async def link_of(house: House, task_id: str) -> str:
    """The link in a native answer, without our own address before it."""
    answer = (await house.get(f"/v1/video/generations/{task_id}")).json()
    assert answer["url"].startswith(house.url + "/v1/videos/")
    return str(answer["url"]).removeprefix(house.url)


async def bare(house: House, path: str, method: str = "GET", **headers: str) -> Heard:
    """Fetched as a browser would: no token."""
    return await fetch(house, path, headers, method=method, token=False)


def changed(link: str, **query: str | None) -> str:
    parts = urlsplit(link)
    pairs = {name: values[0] for name, values in parse_qs(parts.query).items()}
    merged = {**pairs, **query}
    return f"{parts.path}?{urlencode({k: v for k, v in merged.items() if v is not None})}"


async def test_a_link_needs_no_token(house: House) -> None:
    """Also for a range and for HEAD; and the access line shows no signature."""
    for place in PLACES.values():
        task_id = await house.completed(place.model, PROMPT)
        link = await link_of(house, task_id)
        assert (await bare(house, link)).body == FILM
        part = await bare(house, link, Range="bytes=5-14")
        assert (part.status, part.body) == (206, FILM[5:15])
        head = await bare(house, link, "HEAD")
        assert (head.status, head.headers["Content-Length"]) == (200, str(SIZE))
        assert "sig=" not in str(house.lines)
        assert (await bare(house, content(task_id))).status == 401


async def test_the_same_answer_has_the_same_link(house: House) -> None:
    """A cached status reply stays byte for byte the same."""
    task_id = await house.completed(KLING.model, PROMPT)
    assert await link_of(house, task_id) == await link_of(house, task_id)


async def test_a_link_opens_nothing_else(house: House) -> None:
    """Not another task, variant or index, and not a later day; nobody upstream hears of it."""
    task_id = await house.completed(KLING.model, "a cat size=1000 videos=2")
    other = await house.completed(KLING.model, PROMPT)
    link = await link_of(house, task_id)
    exp = int(parse_qs(urlsplit(link).query)["exp"][0])
    house.sim.log.clear()
    stretched = [
        link.replace(task_id, other),
        link.replace(task_id, task_id[:-1] + ("0" if task_id[-1] != "0" else "1")),
        changed(link, variant="watermark"),
        changed(link, index="1"),
        changed(link, exp=str(exp + 1)),
        changed(link, exp=None),
        changed(link, exp="soon"),
        changed(link, exp="9" * 40),
        changed(link, sig=""),
        changed(link, sig="AAAA"),
    ]
    bodies = set()
    for path in stretched:
        reply, line = await told(house, path, token=False)
        assert (reply.status, line["reason"]) == (403, "link_invalid"), path
        bodies.add(reply.body)
    assert len(bodies) == 1  # which of them are tasks cannot be told
    assert KLING.asked(house) == []
    assert (await bare(house, link)).status == 200


async def test_a_link_of_the_past_is_told_so(house: House) -> None:
    task_id = await house.completed(KLING.model, PROMPT)
    link = await link_of(house, task_id)
    secret = signing_secrets(house.server.config)[0]
    past = int(time.time())
    sig = sign_link(secret, task_id, "video", 0, past)
    reply, line = await told(house, changed(link, exp=str(past), sig=sig), token=False)
    assert (reply.status, line["reason"]) == (403, "link_expired")


@pytest.mark.parametrize(("at_s", "is_open"), [(999.999, True), (1000.0, False), (1e9, False)])
async def test_a_link_ends_exactly_when_it_says(at_s: float, is_open: bool) -> None:
    record = TokenRecord("tok", "hash", "name", "owner", 0)

    async def load(_: str) -> TokenRecord:
        return record

    secrets = [b"s" * 32]

    async def load_owner(name: str) -> OwnerRecord:
        return OwnerRecord(name)

    owners = ReadCache(load_owner, lambda: True, 8)
    auth = Authenticator(
        ReadCache(load, lambda: True, 8), owners, secrets, lambda: at_s, RequestMemos()
    )
    sig = sign_link(secrets[0], "video_1", "video", 0, 1000)
    if is_open:
        await auth.check_link(sig, "video_1", "tok", "video", 0, 1000)
    else:
        with pytest.raises(Forbidden, match="expired"):
            await auth.check_link(sig, "video_1", "tok", "video", 0, 1000)


async def test_a_link_dies_with_its_token(house: House) -> None:
    task_id = await house.completed(KLING.model, PROMPT)
    link = await link_of(house, task_id)
    assert (await bare(house, link, Range="bytes=0-0")).status == 206
    await house.server.store.tokens.revoke(house.made.record.id, int(time.time() * 1000))
    async with asyncio.timeout(WAIT_S):  # the news travel through the store
        while (reply := await bare(house, link, Range="bytes=0-0")).status == 206:
            pass
    assert (reply.status, b"link_invalid" in reply.body) == (403, True)


async def test_a_foreign_video_looks_exactly_like_a_missing_one(house: House) -> None:
    """The owner's content path as well as ids nobody has."""
    task_id = await house.completed(KLING.model, PROMPT)
    stranger = {"Authorization": f"Bearer {(await house.new_token()).token}"}
    missing = task_id[:-4] + ("beef" if not task_id.endswith("beef") else "cafe")
    answers = []
    for named in (task_id, missing, "video_1", "..", "x" * 300):
        reply, line = await told(house, content(named), stranger)
        assert (reply.status, line["reason"]) == (404, "not_found"), named
        shown = reply.body.decode().replace(named, "ID").replace(named[:40], "ID")
        answers.append(shown.replace(reply.headers["X-Request-Id"], "REQ"))
    assert len(set(answers[:2])) == 1
    assert "task_id" not in await house.line(lambda line: line["reason"] == "not_found")


async def test_a_deleted_video_has_no_content(house: House) -> None:
    """Neither for its owner nor through a link given before."""
    task_id = await house.completed(KLING.model, PROMPT)
    link = await link_of(house, task_id)
    assert (await house.request("DELETE", f"/v1/videos/{task_id}")).status == 200
    async with asyncio.timeout(WAIT_S):
        while (await fetch(house, content(task_id), method="HEAD")).status == 200:
            pass
    assert (await fetch(house, content(task_id))).status == 404
    assert (await bare(house, link)).status == 404
