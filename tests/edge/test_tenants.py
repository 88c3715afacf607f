"""Two tenants: what the one names of the other's is answered like what never was."""

from __future__ import annotations

from tests.rig.house import Answer, House
from tests.rig.refusals import JIMENG

NOBODYS = "0" * 46
# Method, path, JSON body; {id} is the task's.
NAMING: list[tuple[str, str, dict[str, object] | None]] = [
    ("GET", "/v1/videos/{id}", None),
    ("GET", "/v1/videos/{id}?wait=1", None),
    ("DELETE", "/v1/videos/{id}", None),
    ("GET", "/v1/videos/{id}/content", None),
    ("GET", "/v1/videos/{id}/events", None),
    ("POST", "/v1/videos/{id}/remix?dry_run=1", {"prompt": "a dog"}),
    ("POST", "/v1/videos/edits?dry_run=1", {"prompt": "a dog", "video": {"id": "{id}"}}),
    ("POST", "/v1/videos/extensions?dry_run=1", {"prompt": "a dog", "video": {"id": "{id}"}}),
    ("GET", "/v1/videos?after={id}", None),
    ("GET", "/v1/video/generations/{id}", None),
    (
        "POST",
        f"/jimeng/?Action=CVSync2AsyncGetResult&{JIMENG}",
        {"req_key": "jimeng_t2v_v30", "task_id": "{id}"},
    ),
]


def told(answer: Answer, task_id: str) -> tuple[int, dict[str, str], bytes]:
    """The answer without what differs between any two: its own id, the date, the id asked for."""
    headers = {
        name.lower(): value
        for name, value in answer.headers.items()
        if name.lower() not in ("date", "x-request-id", "content-length")
    }
    request_id = answer.headers["X-Request-Id"].encode()
    body = answer.body.replace(task_id.encode(), b"ID").replace(request_id, b"REQ")
    return answer.status, headers, body


async def ask(
    house: House, naming: tuple[str, str, dict[str, object] | None], task_id: str, token: str
) -> tuple[int, dict[str, str], bytes]:
    method, path, body = naming
    filled = None
    if body is not None:
        filled = {
            name: task_id if value == "{id}" else {"id": task_id} if name == "video" else value
            for name, value in body.items()
        }
    answer = await house.request(
        method,
        path.replace("{id}", task_id),
        json=filled,
        headers={"Authorization": f"Bearer {token}"},
    )
    return told(answer, task_id)


async def test_what_reads_its_owners_tasks_reads_no_other_owners(house: House) -> None:
    """A `shared` token of another tenant, and quotes: a foreign id is one that does not exist."""
    stranger = await house.new_token(owner="stranger", shared=True)
    done = await house.completed()
    submits = {name: house.sim.submits(name) for name in ("openai", "kling", "jimeng")}
    nobodys = done[:8] + NOBODYS
    for naming in NAMING:
        theirs = await ask(house, naming, done, stranger.token)
        assert theirs == await ask(house, naming, nobodys, stranger.token), naming
    assert {name: house.sim.submits(name) for name in submits} == submits
    assert (await house.get(f"/v1/videos/{done}")).status == 200
