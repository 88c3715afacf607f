"""Result URLs end: they are renewed while the provider has the video, and it is 410 after."""

from __future__ import annotations

from proxy.sim import Fault, pattern
from tests.rig.downloads import (
    JIMENG,
    KLING,
    OPENAI,
    PLACES,
    PROMPT,
    SIZE,
    add,
    content,
    fetch,
    told,
    tune,
)
from tests.rig.house import House, OpenHouse, Plan

FILM = pattern(0, SIZE)
URLS = {"kling": KLING, "jimeng": JIMENG}


def polls(house: House, provider: str) -> list[int | None]:
    return [entry.status for entry in house.sim.log.select(provider, "poll")]


def upstream_id(house: House) -> str:
    """Of the newest render."""
    return list(house.sim.tasks)[-1].id


async def test_an_expired_url_is_renewed_before_the_first_byte(house: House) -> None:
    """The client sees nothing of it; the new one is kept, and used by the next download."""
    for provider, place in URLS.items():
        task_id = await house.completed(place.model, PROMPT)
        house.sim.expire_links()
        house.sim.log.clear()
        reply, line = await told(house, content(task_id), {"Range": "bytes=100-"})
        assert (reply.status, reply.body == FILM[100:], line["reason"]) == (206, True, "done")
        assert [entry.status for entry in place.asked(house)] == [403, 206]
        assert polls(house, provider) == [200]
        again = await fetch(house, content(task_id))
        assert (again.status, again.body == FILM) == (200, True)
        assert [entry.status for entry in place.asked(house)] == [403, 206, 200]
        assert polls(house, provider) == [200]


async def test_head_of_an_expired_url_is_renewed_too(house: House) -> None:
    task_id = await house.completed(KLING.model, PROMPT)
    house.sim.expire_links()
    reply = await fetch(house, content(task_id), method="HEAD")
    assert (reply.status, reply.headers["Content-Length"]) == (200, str(SIZE))


async def test_a_video_the_provider_has_dropped_is_410(house: House) -> None:
    """Not a 404, which would be asked for again, nor a 502, which SDKs retry."""
    for place in PLACES.values():
        task_id = await house.completed(place.model, PROMPT)
        house.sim.forget(upstream_id(house))
        for method in ("GET", "HEAD"):
            reply, line = await told(house, content(task_id), method=method)
            assert (reply.status, line["status"]) == (410, 410), place
            assert line["reason"] == "video_expired"
            if method == "GET":
                assert b'"code":"video_expired"' in reply.body
        # The task is still there, for its record was paid for.
        assert (await house.get(f"/v1/videos/{task_id}")).json()["status"] == "completed"


async def test_the_410_names_the_day_it_ended(open_house: OpenHouse) -> None:
    """Here every result ends the moment it is made."""
    async with open_house(Plan(sim={"link_ttl_s": 0})) as house:
        task_id = await house.completed(OPENAI.model, PROMPT)
        ended = (await house.get(f"/v1/videos/{task_id}")).json()["expires_at"]
        reply, line = await told(house, content(task_id))
        assert (reply.status, line["reason"]) == (410, "video_expired")
        assert ended is not None
        assert b"(it was kept until 20" in reply.body


async def test_a_provider_that_does_not_answer_has_not_dropped_the_video(house: House) -> None:
    """An expired URL and a provider in trouble: 502 with Retry-After, and it heals by itself."""
    task_id = await house.completed(KLING.model, PROMPT)
    tune(house, heal_attempts=1)
    house.sim.expire_links()
    add(house, Fault("status", service="kling", operation="poll", status=503, times=2))
    reply, line = await told(house, content(task_id))
    assert (reply.status, line["reason"]) == (502, "upstream_error")
    assert reply.headers["Retry-After"] == "5"
    assert (await fetch(house, content(task_id))).body == FILM


async def test_a_file_host_that_is_gone_is_left_for_the_one_the_provider_names(
    house: House,
) -> None:
    """The simulated file host comes back before the renewed URL is tried."""
    task_id = await house.completed(KLING.model, PROMPT)
    tune(house, heal_attempts=0)
    await house.sim.refuse("cdn")
    reply, line = await told(house, content(task_id))
    assert (reply.status, line["reason"]) == (502, "upstream_error")
    await house.sim.accept("cdn")
    assert (await fetch(house, content(task_id))).body == FILM
