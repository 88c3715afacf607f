"""Nobody comes in without a good token: not a byte of a body is read, and no id is told."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from multidict import CIMultiDict

from proxy.gateway.auth import KEY_HEADERS
from proxy.model import DialectName
from proxy.signing import sign_volc
from proxy.tokens import MadeToken
from tests.rig.house import Answer, House
from tests.rig.refusals import (
    DOORS,
    JIMENG,
    JSON,
    WAIT_S,
    assert_quiet,
    assert_untouched,
    error_of,
    head_of,
    peer_of,
)

BODY = b'{"prompt":"a cat"}'
GET_RESULT = f"/jimeng/?Action=CVSync2AsyncGetResult&{JIMENG}"


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path) -> Iterator[None]:
    yield
    assert_quiet(tmp_path)


async def revoke(house: House, made: MadeToken) -> None:
    now_ms = int(time.time() * 1000)
    assert await house.server.store.tokens.revoke(made.record.id, now_ms)


def bearer(made: MadeToken) -> str:
    return f"Bearer {made.token}"


async def assert_shut_out(
    house: House,
    dialect: DialectName,
    headers: Mapping[str, str | None],
    native: tuple[int, ...] | int,
    *,
    path: str | None = None,
    body: bytes = BODY,
    name: str = "",
) -> None:
    """401 in the dialect's own error body; the line names nobody."""
    house.lines.clear()
    target = DOORS[dialect].submit if path is None else path
    reply = await house.post(target, data=body, headers={**JSON, "Authorization": None, **headers})
    error = error_of(dialect, reply.headers, reply.body)
    told = (reply.status, error["code"], error["type"])
    assert told == (401, "invalid_api_key", "authentication_error"), (name, error)
    assert reply.headers["WWW-Authenticate"] == "Bearer", name
    said = reply.json()
    if dialect in ("kling", "jimeng"):
        assert said["code"] == native, (name, said)
    if dialect == "jimeng":
        assert said["ResponseMetadata"]["Error"]["CodeN"] == native, name
    (line,) = house.lines
    assert (line["status"], line["reason"]) == (401, "invalid_api_key"), name
    assert "token" not in line, name
    assert "owner" not in line, name


NATIVE: Mapping[str, Mapping[str, int]] = {
    "missing": {"kling": 1001, "jimeng": 100003},
    "malformed": {"kling": 1002, "jimeng": 100005},
    "unknown": {"kling": 1002, "jimeng": 100009},
    "revoked": {"kling": 1002, "jimeng": 100009},
    "expired": {"kling": 1004, "jimeng": 100009},
}


async def test_a_bad_token_is_401_in_the_dialects_own_words(house: House) -> None:
    for dialect in DOORS:
        revoked, expired = await house.new_token(), await house.new_token(expires_s=-1)
        await revoke(house, revoked)
        other = await house.new_token()
        half = other.token.rpartition("_")[2]
        cases: dict[str, tuple[str, Mapping[str, str | None]]] = {
            "none": ("missing", {}),
            "empty": ("missing", {"Authorization": "Bearer "}),
            "blank": ("missing", {"Authorization": "Bearer    "}),
            "no scheme": ("malformed", {"Authorization": "sk-proj-abc"}),
            "another scheme": ("malformed", {"Authorization": "Basic cnc6eA=="}),
            "openai's own": ("malformed", {"Authorization": "Bearer sk-proj-abc"}),
            "cut short": ("malformed", {"Authorization": f"Bearer {house.token[:-1]}"}),
            "one too many": ("malformed", {"Authorization": f"Bearer {house.token}x"}),
            "in capitals": ("malformed", {"Authorization": f"Bearer {house.token.upper()}"}),
            "two words": ("malformed", {"Authorization": f"Bearer {house.token} x"}),
            "nobody's": ("unknown", {"Authorization": f"Bearer rw_{'a' * 16}_{'A' * 43}"}),
            "another secret": (
                "unknown",
                {"Authorization": f"Bearer rw_{house.made.record.id}_{half}"},
            ),
            "revoked": ("revoked", {"Authorization": bearer(revoked)}),
            "expired": ("expired", {"Authorization": bearer(expired)}),
            "our admin token": ("malformed", {"Authorization": "Bearer admin-secret"}),
        }
        for name, (fault, headers) in cases.items():
            native = NATIVE[fault].get(dialect, 0)
            await assert_shut_out(house, dialect, headers, native, name=name)
        await assert_untouched(house)


async def test_two_tokens_are_none(house: House) -> None:
    """Whoever stands between might have looked at the other one."""
    for dialect in DOORS:
        for name in ("Authorization", *KEY_HEADERS):
            async with peer_of(house) as peer:
                lines = head_of("POST", DOORS[dialect].submit, Content_Length="0", **house.bearer)
                other = (await house.new_token()).token
                peer.send(lines.replace("\r\n\r\n", f"\r\n{name}: {other}\r\n\r\n"))
                reply = await peer.answer()
                assert reply.status == 401, (dialect, name)
                said = error_of(dialect, reply.headers, reply.body)["message"]
                assert "More than one API key" in said
                assert all(known in said for known in KEY_HEADERS)


async def test_a_key_lets_in_as_any_vendors_client_sends_it(house: House) -> None:
    """At every door, twice: the second time it is remembered."""
    key = house.token
    ways: list[Mapping[str, str]] = [
        *({"Authorization": f"{scheme} {key}"} for scheme in ("Bearer", "bearer", "BEARER")),
        *({"Authorization": f"{scheme} {key}"} for scheme in ("Key", "key", "Token", "TOKEN")),
        {"Authorization": key},
        *({str(name): key} for name in KEY_HEADERS),
        *({name.upper(): key} for name in KEY_HEADERS),
        {"Authorization": f"Bearer {key}", "api-key": key},  # openai-python with Azure's headers
        {"Authorization": f"Bearer {key}", "api-key": ""},
        {"Authorization": "", "X-API-Key": key},
        {"X-API-KEY": key, "x-goog-api-key": key},
    ]
    paths = ("/v1/models", "/kling/v1/videos/text2video", "/v1/videos?limit=1")
    for way, path, _ in itertools.product(ways, paths, range(2)):
        reply = await house.get(path, headers={"Authorization": None, **way})
        assert reply.status == 200, (way, path)


async def test_no_key_is_told_where_keys_are_looked_for(house: House) -> None:
    for dialect, door in DOORS.items():
        reply = await house.post(door.submit, json={}, headers={"Authorization": None})
        said = error_of(dialect, reply.headers, reply.body)["message"]
        assert all(name in said for name in ("Authorization: Bearer", *KEY_HEADERS))


async def test_a_signature_is_over_the_path_that_the_client_wrote(house: House) -> None:
    """The path is normalised for us only: `//jimeng/` is signed as `//jimeng/`."""
    for path in ("//jimeng/", "/jimeng//", "//"):
        async with peer_of(house) as peer:
            sent = signed(house, path=path)
            lines = [f"POST {path}?{DOORS['jimeng'].submit.partition('?')[2]} HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in sent.items() if value is not None]
            lines += [f"Host: {urlsplit(house.url).netloc}", f"Content-Length: {len(BODY)}"]
            peer.send("\r\n".join(lines).encode() + b"\r\n\r\n" + BODY)
            reply = await peer.answer()
            assert reply.status == 200, (path, reply.body)


ENDPOINTS: list[tuple[DialectName, str, str]] = [
    ("openai", "POST", "/v1/videos"),
    ("openai", "GET", "/v1/videos"),
    ("openai", "GET", "/v1/videos/{id}"),
    ("openai", "DELETE", "/v1/videos/{id}"),
    ("openai", "GET", "/v1/videos/{id}/content"),
    ("openai", "POST", "/v1/videos/{id}/remix"),
    ("openai", "POST", "/v1/videos/edits"),
    ("openai", "POST", "/v1/videos/extensions"),
    ("openai", "GET", "/v1/models"),
    ("openai", "GET", "/videos/{id}"),
    ("generic", "POST", "/v1/video/generations"),
    ("generic", "GET", "/v1/video/generations/{id}"),
    ("kling", "POST", "/kling/v1/videos/text2video"),
    ("kling", "GET", "/kling/v1/videos/image2video/{id}"),
    ("kling", "GET", "/v1/videos/text2video"),
    ("jimeng", "POST", DOORS["jimeng"].submit),
    ("jimeng", "POST", GET_RESULT),
    ("jimeng", "POST", GET_RESULT.replace("/jimeng/", "/")),
]


async def test_every_endpoint_is_behind_the_gate(house: House) -> None:
    """Also for a task that is there, and whatever the body says."""
    task_id = await house.completed()
    house.sim.log.clear()
    for dialect, method, path in ENDPOINTS:
        target = path.replace("{id}", task_id)
        reply = await house.request(method, target, headers={"Authorization": None})
        assert (reply.status, target) == (401, target)
        error_of(dialect, reply.headers, reply.body)
        assert task_id.encode() not in reply.body
    reply = await house.request(
        "HEAD", f"/v1/videos/{task_id}/content", headers={"Authorization": None}
    )
    assert (reply.status, reply.body) == (401, b"")
    assert list(house.sim.log.entries) == []


# ---------------------------------------------------------------- before the body


async def test_the_gate_stands_before_the_body(house: House) -> None:
    """A client that asks first is told 401, never 100; a good one is told to go on."""
    for dialect in DOORS:
        target = DOORS[dialect].submit
        more = {"Expect": "100-continue", "Content-Length": str(len(BODY)), **JSON}
        async with peer_of(house) as peer:
            peer.send(head_of("POST", target, Authorization="Bearer rw_nonsense", **more))
            reply = await peer.answer()
            assert reply.status == 401
            assert error_of(dialect, reply.headers, reply.body)["code"] == "invalid_api_key"
        async with peer_of(house) as peer:
            more = {**more, "Content-Length": str(1024**4)}
            peer.send(head_of("POST", target, **more))
            assert (await peer.answer()).status == 401  # and not a byte of the terabyte was sent
    await assert_untouched(house)
    for door in DOORS.values():
        more = {"Expect": "100-continue", "Content-Length": str(len(BODY)), **JSON}
        async with peer_of(house) as peer:
            peer.send(head_of("POST", door.submit, **house.bearer, **more))
            assert (await peer.head())[0] == 100
            peer.send(BODY)
            assert (await peer.answer()).status == 200
    assert [house.sim.submits(name) for name in ("openai", "kling", "jimeng")] == [2, 1, 1]


async def test_a_body_sent_without_asking_is_not_taken_for_the_next_request(house: House) -> None:
    """What follows a refused head on the same connection is never read as a request."""
    smuggled = head_of("GET", "/v1/models", **house.bearer)
    async with peer_of(house) as peer:
        peer.send(head_of("POST", "/v1/videos", Content_Length=str(len(smuggled)), **JSON))
        reply = await peer.answer()
        assert (reply.status, reply.headers["Connection"]) == (401, "close")
        peer.send(smuggled)
        assert await peer.rest() == b""
    assert len(house.lines) == 1


# ---------------------------------------------------------------- revocation


async def until_refused(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """The worker hears of it by the store's channel: ask until it has."""
    async with asyncio.timeout(WAIT_S):
        while (reply := await ask()).status != 401:  # noqa: ASYNC110 -- no event for it
            await asyncio.sleep(0.005)
    return reply


async def test_a_revoked_token_is_refused_by_every_worker(house: House) -> None:
    """The workers know it by heart; only the store's word makes them forget it."""
    other = await house.another_worker()
    made = await house.new_token()
    headers = {"Authorization": bearer(made)}
    for base in (house.url, other.url, house.url, other.url):
        assert (await house.get("/v1/models", headers=headers, base=base)).status == 200
    await revoke(house, made)
    for base in (house.url, other.url):
        reply = await until_refused(
            functools.partial(house.get, "/v1/models", headers=headers, base=base)
        )
        assert reply.json()["error"]["message"] == "This API key was revoked."


# ---------------------------------------------------------------- Kling's JWT


def kling_jwt(
    made: MadeToken, *, key: str | None = None, algorithm: str = "HS256", **claims: Any
) -> str:
    """By PyJWT: another implementation than ours."""
    now = int(time.time())
    payload = {"iss": made.record.id, "exp": now + 1800, "nbf": now - 5, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, made.secret_key if key is None else key, algorithm=algorithm)


async def test_a_kling_jwt_lets_in_at_klings_door_only(house: House) -> None:
    headers = {"Authorization": f"Bearer {kling_jwt(house.made)}"}
    for path in ("/kling/v1/videos/text2video", "/v1/videos/image2video"):
        assert (await house.get(path, headers=headers)).status == 200
    for path in ("/v1/videos", "/v1/video/generations/video_1"):
        assert (await house.get(path, headers=headers)).status == 401


async def test_a_bad_jwt_is_refused_with_klings_codes(house: House) -> None:
    made, revoked, expired = (
        house.made,
        await house.new_token(),
        await house.new_token(expires_s=-1),
    )
    await revoke(house, revoked)
    now = int(time.time())
    good = kling_jwt(made)
    head, claims, signature = good.split(".")
    none = jwt.encode({"iss": made.record.id, "exp": now + 60}, "", algorithm="none")
    stranger = "k" * 43
    cases = {
        "expired": (kling_jwt(made, exp=now - 61), 1004),
        "not yet valid": (kling_jwt(made, nbf=now + 120), 1003),
        "another key": (kling_jwt(made, key=stranger), 1000),
        "another key, expired": (kling_jwt(made, key=stranger, exp=1), 1000),
        "signature cut": (good[:-1], 1000),
        "claims of another": (
            f"{head}.{kling_jwt(made, exp=now + 9999).split('.')[1]}.{signature}",
            1000,
        ),
        "no signature": (f"{head}.{claims}.", 1002),
        "alg none": (none, 1002),
        "alg none, signed": (none + signature, 1002),
        "another algorithm": (kling_jwt(made, key=made.secret_key * 2, algorithm="HS512"), 1002),
        "no issuer": (kling_jwt(made, iss=None), 1002),
        "no end": (kling_jwt(made, exp=None), 1002),
        "an end that is no number": (_jwt_of({"iss": made.record.id, "exp": "soon"}), 1002),
        "nobody's key": (kling_jwt(made, iss="a" * 16), 1002),
        "a path for an issuer": (kling_jwt(made, iss="../../tok"), 1002),
        "no base64": ("a.b.c", 1002),
        "revoked": (kling_jwt(revoked), 1002),
        "of an expired token": (kling_jwt(expired), 1004),
    }
    for name, (text, native) in cases.items():
        headers = {"Authorization": f"Bearer {text}"}
        await assert_shut_out(house, "kling", headers, native, name=name)
    await assert_untouched(house)


def _jwt_of(claims: Mapping[str, Any]) -> str:
    return jwt.api_jws.encode(json.dumps(claims).encode(), "k" * 43, algorithm="HS256")


async def test_clocks_may_differ_by_a_minute(house: House) -> None:
    now = int(time.time())
    for text in (kling_jwt(house.made, exp=now - 50), kling_jwt(house.made, nbf=now + 50)):
        headers = {"Authorization": f"Bearer {text}"}
        assert (await house.get("/kling/v1/videos/text2video", headers=headers)).status == 200


# ---------------------------------------------------------------- Volcengine's signature


SUBMIT = (("Action", "CVSync2AsyncSubmitTask"), ("Version", "2022-08-31"))


def signed(
    house: House,
    *,
    made: MadeToken | None = None,
    key: str | None = None,
    access_key: str | None = None,
    now_s: float | None = None,
    body: bytes = BODY,
    digest: str | None = None,
    path: str = "/jimeng/",
    headers: Mapping[str, str] | None = None,
) -> dict[str, str | None]:
    """The headers of a signed submit."""
    made = made or house.made
    sent = {"Host": urlsplit(house.url).netloc, **JSON} if headers is None else dict(headers)
    added = sign_volc(
        method="POST",
        path=path,
        query=SUBMIT,
        headers=CIMultiDict(sent),
        body_sha256=hashlib.sha256(body).hexdigest() if digest is None else digest,
        access_key=access_key or made.record.id,
        secret_key=made.secret_key if key is None else key,
        now_s=int(time.time() if now_s is None else now_s),
    )
    return {**JSON, **added}


async def test_a_signed_submit_is_let_in(house: House) -> None:
    """At both paths, and with any set of signed headers that the signature covers."""
    target = DOORS["jimeng"].submit
    for number, (path, headers) in enumerate(
        [("/jimeng/", None), ("/", None), ("/jimeng/", {}), ("/jimeng/", JSON)]
    ):
        body = json.dumps({"prompt": f"cat {number}"}).encode()
        sent = signed(house, body=body, path=path, headers=headers)
        where = target.replace("/jimeng/", path)
        reply = await house.post(where, data=body, headers=sent)
        assert (reply.status, reply.json()["code"]) == (200, 10000), (path, headers)
        assert house.lines[-1]["token"] == house.made.record.id
    assert house.sim.submits("jimeng") == 4


async def test_a_bad_signature_is_refused_with_volcengines_codes(house: House) -> None:
    made = house.made
    revoked, expired = await house.new_token(), await house.new_token(expires_s=-1)
    await revoke(house, revoked)
    now = time.time()
    good = signed(house)
    authorization = str(good["Authorization"])
    listing_more = re.sub("SignedHeaders=", "SignedHeaders=x-not-sent;", authorization)
    listing_less = re.sub("content-type;", "", authorization)
    flipped = authorization[:-1] + ("0" if authorization[-1] != "0" else "1")
    cases: dict[str, tuple[Mapping[str, str | None], int]] = {
        "another key": (signed(house, key="wrong"), 100010),
        "nobody's key": (signed(house, access_key="a" * 16), 100009),
        "revoked": (signed(house, made=revoked), 100009),
        "expired": (signed(house, made=expired), 100009),
        "stale": (signed(house, now_s=now - 16 * 60), 100006),
        "from tomorrow": (signed(house, now_s=now + 16 * 60), 100006),
        "no date": ({**good, "X-Date": None}, 100006),
        "another date": ({**good, "X-Date": "20200101T000000Z"}, 100006),
        "no time at all": ({**good, "X-Date": "now"}, 100006),
        "another path": (signed(house, path="/"), 100010),
        "one digit wrong": ({**good, "Authorization": flipped}, 100010),
        "a header that is not there": ({**good, "Authorization": listing_more}, 100010),
        "a header left out": ({**good, "Authorization": listing_less}, 100010),
        "a signed header changed": ({**good, "Content-Type": "application/json; x=y"}, 100010),
        "half a header": ({**good, "Authorization": "HMAC-SHA256 Credential=x"}, 100005),
        "no signature": ({**good, "Authorization": authorization.split(", Sig")[0]}, 100005),
        "another scheme": ({**good, "Authorization": "AWS4-" + authorization}, 100005),
        "the wrong claim": ({**good, "X-Content-Sha256": "0" * 64}, 100010),
    }
    assert made.secret_key
    for name, (headers, native) in cases.items():
        await assert_shut_out(house, "jimeng", headers, native, name=name)
    await assert_untouched(house)


async def test_a_signature_is_judged_before_the_body(house: House) -> None:
    """Its claim about the body is enough; only who claims nothing is read first."""
    target = DOORS["jimeng"].submit
    more = {"Expect": "100-continue", "Content-Length": str(len(BODY))}
    host = urlsplit(house.url).netloc

    def head(headers: Mapping[str, str | None]) -> str:
        sent = {name: value for name, value in headers.items() if value is not None}
        return head_of("POST", target, **sent, **more).replace("Host: reelway", f"Host: {host}")

    async with peer_of(house) as peer:
        peer.send(head(signed(house, key="wrong")))
        assert (await peer.answer()).status == 401
    async with peer_of(house) as peer:
        peer.send(head(signed(house)))
        assert (await peer.head())[0] == 100
        peer.send(BODY)
        assert (await peer.answer()).status == 200
    assert house.sim.submits("jimeng") == 1


async def test_a_body_that_is_not_the_signed_one_is_refused(house: House) -> None:
    """Somebody on the way changed it, or hashes it wrongly; nothing is rendered."""
    cases = [(body, signed(house)) for body in (BODY.replace(b"cat", b"dog"), BODY + b" ", b"{}")]
    cases.append((BODY, signed(house, digest="no hash")))
    for body, headers in cases:
        reply = await house.post(DOORS["jimeng"].submit, data=body, headers=headers)
        error = error_of("jimeng", reply.headers, reply.body)
        assert (reply.status, reply.json()["code"]) == (401, 100010)
        assert "X-Content-Sha256" in error["message"]
        line = house.lines.pop()
        assert (line["status"], line["reason"]) == (401, "invalid_api_key")
    await assert_untouched(house)


# ---------------------------------------------------------------- other people's tasks


def anonymous(answer: Answer, *ids: str) -> tuple[int, dict[str, str], str]:
    """A reply without what differs between any two: ids and dates."""
    said = answer.body.decode()
    for task_id in ids:
        said = said.replace(task_id, "<id>")
    said = re.sub(r"req_[0-9a-f]{24}", "<request>", said)
    headers = {
        name: value
        for name, value in answer.headers.items()
        if name.lower() not in ("date", "x-request-id")
    }
    return answer.status, headers, said


async def test_a_foreign_task_looks_exactly_like_one_that_never_was(house: House) -> None:
    """On every endpoint of every dialect, down to the headers; its owner sees it all the while."""
    own = await house.completed()
    kling = await house.post(
        DOORS["kling"].submit, json=DOORS["kling"].body(external_task_id="alias-1")
    )
    assert kling.status == 200
    other = await house.new_token(name="stranger")
    headers = {"Authorization": bearer(other)}
    never = own[:-8] + "deadbeef"
    asked: dict[str, Callable[[str], Awaitable[Answer]]] = {
        "get": lambda i: house.get(f"/v1/videos/{i}", headers=headers),
        "get, short path": lambda i: house.get(f"/videos/{i}", headers=headers),
        "delete": lambda i: house.request("DELETE", f"/v1/videos/{i}", headers=headers),
        "content": lambda i: house.get(f"/v1/videos/{i}/content", headers=headers),
        "content head": lambda i: house.request("HEAD", f"/v1/videos/{i}/content", headers=headers),
        "thumbnail": lambda i: house.get(f"/v1/videos/{i}/content?variant=nope", headers=headers),
        "range": lambda i: house.get(
            f"/v1/videos/{i}/content", headers={**headers, "Range": "bytes=5-"}
        ),
        "forged link": lambda i: house.get(
            f"/v1/videos/{i}/content?exp=9999999999&sig=abc", headers={"Authorization": None}
        ),
        "link without end": lambda i: house.get(
            f"/v1/videos/{i}/content?sig=abc", headers={"Authorization": None}
        ),
        "link with odd index": lambda i: house.get(
            f"/v1/videos/{i}/content?sig=abc&index=99&variant=x", headers={"Authorization": None}
        ),
        "after": lambda i: house.get(f"/v1/videos?after={i}", headers=headers),
        "remix": lambda i: house.post(
            f"/v1/videos/{i}/remix", json={"prompt": "b"}, headers=headers
        ),
        "edit": lambda i: house.post(
            "/v1/videos/edits", json={"prompt": "b", "video": {"id": i}}, headers=headers
        ),
        "extension": lambda i: house.post(
            "/v1/videos/extensions",
            json={"prompt": "b", "seconds": "4", "video": {"id": i}},
            headers=headers,
        ),
        "generic": lambda i: house.get(f"/v1/video/generations/{i}", headers=headers),
        "kling": lambda i: house.get(f"/kling/v1/videos/text2video/{i}", headers=headers),
        "kling, the other kind": lambda i: house.get(
            f"/v1/videos/image2video/{i}", headers=headers
        ),
        "jimeng": lambda i: house.post(GET_RESULT, json={"task_id": i}, headers=headers),
    }
    for name, ask in asked.items():
        seen = {i: anonymous(await ask(i), own, never) for i in (own, never)}
        assert seen[own] == seen[never], name
        assert seen[own][0] in (404, 403) or name == "jimeng", name
    assert (await asked["jimeng"](own)).json()["data"] == {"status": "not_found"}

    for alias in ("alias-1", "alias-2"):
        reply = await house.get(f"/kling/v1/videos/text2video/{alias}", headers=headers)
        assert reply.status == 404
        assert reply.json()["message"] == f"There is no task '{alias}'."
    listed = await house.get("/v1/videos", headers=headers)
    assert listed.json()["data"] == []
    listed = await house.get("/kling/v1/videos/text2video", headers=headers)
    assert listed.json()["data"] == []

    assert (await house.get(f"/v1/videos/{own}")).json()["status"] == "completed"
    assert (await house.get("/kling/v1/videos/text2video/alias-1")).status == 200
    assert house.sim.submits("openai") == 1


async def test_two_tokens_of_one_owner_keep_their_tasks_apart(house: House) -> None:
    """A token is what a client has; its owner only pays."""
    own = await house.create()
    sibling = await house.new_token(owner=house.made.record.owner)
    headers = {"Authorization": bearer(sibling)}
    assert (await house.get(f"/v1/videos/{own}", headers=headers)).status == 404
    assert (await house.get("/v1/videos", headers=headers)).json()["data"] == []


async def test_an_own_deleted_task_is_gone_like_one_that_never_was(house: House) -> None:
    own = await house.completed()
    never = own[:-8] + "deadbeef"
    assert (await house.request("DELETE", f"/v1/videos/{own}")).json()["deleted"] is True
    for path in ("/v1/videos/{}", "/v1/videos/{}/content", "/kling/v1/videos/text2video/{}"):
        seen = [anonymous(await house.get(path.format(i)), own, never) for i in (own, never)]
        assert seen[0] == seen[1], path
    again = [
        anonymous(await house.request("DELETE", f"/v1/videos/{i}"), own, never)
        for i in (own, never)
    ]
    assert again[0] == again[1]
