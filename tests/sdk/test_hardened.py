"""Credentials that were seen, changed, or signed for somewhere else: by the vendors' own signers.

What is plainly wrong (no key, another key, a stale date) is refused in tests/edge/test_auth.py;
here is what somebody could do who has watched a good request go by, and what an honest client
sends that looks unusual.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest

with pytest.MonkeyPatch.context() as _no_home:
    # At import it reads keys from the environment and ~/.volc; ours must win.
    _no_home.delenv("VOLC_ACCESSKEY", raising=False)
    from volcengine.auth.SignerV4 import SignerV4
    from volcengine.base.Request import Request
    from volcengine.Credentials import Credentials

from proxy.gateway.idempotency import idempotency_by
from proxy.store import keys
from proxy.tokens import MadeToken
from tests.rig.house import Answer, House

SUBMIT = "CVSync2AsyncSubmitTask"
RESULT = "CVSync2AsyncGetResult"
BODY = b'{"req_key": "jimeng_t2v_v30", "prompt": "\\u5343\\u519b"}'
KLING = "/kling/v1/videos/text2video"


@dataclass(frozen=True)
class Signed:
    """A request as volcengine's signer made it: may be sent any number of times."""

    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes

    async def send(self, house: House, path: str | None = None, **more: str) -> Answer:
        where = f"{self.path if path is None else path}?{self.query}"
        sent = {"Authorization": None, **self.headers, **more}
        return await house.post(where, data=self.body, headers=sent)


def signed(
    house: House,
    action: str = SUBMIT,
    body: bytes = BODY,
    *,
    made: MadeToken | None = None,
    path: str = "/jimeng/",
    host: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Signed:
    made = made or house.made
    request: Any = Request()
    request.method, request.path, request.body = "POST", path, body
    request.query = OrderedDict(Action=action, Version="2022-08-31")
    request.headers = OrderedDict({"Content-Type": "application/json", **(headers or {})})
    request.headers["Host"] = host or urlsplit(house.url).netloc
    keys = Credentials(made.record.id, made.secret_key, "cv", "cn-north-1")
    SignerV4.sign(request, keys)
    if host is not None:  # a proxy on the way asks for its own upstream
        request.headers["Host"] = urlsplit(house.url).netloc
    query = "&".join(f"{name}={value}" for name, value in request.query.items())
    return Signed(path, query, dict(request.headers), body)


def task_of(reply: Answer) -> str:
    assert (reply.status, reply.json()["code"]) == (200, 10000), reply.body
    return str(reply.json()["data"]["task_id"])


# ---------------------------------------------------------------- a request sent again


async def test_a_signed_submit_sent_again_is_the_same_task(house: House) -> None:
    """Whoever saw it on its way, and even at another worker: one render, and the reply says so."""
    request = signed(house)
    first = await request.send(house)
    assert "idempotent-replayed" not in first.headers
    second = await house.another_worker()
    for base in (house.url, second.url):
        again = await house.post(
            f"{request.path}?{request.query}",
            data=BODY,
            headers={"Authorization": None, **request.headers},
            base=base,
        )
        assert task_of(again) == task_of(first)
        assert again.headers["idempotent-replayed"] == "true"
    assert (house.sim.submits("jimeng"), house.sim.renders("jimeng")) == (1, 1)


@pytest.mark.parametrize("key", [None, "mine"])
async def test_an_idempotency_key_added_or_changed_by_another_makes_no_second_task(
    house: House, key: str | None
) -> None:
    """Volcengine's signature does not cover that header, so it may not undo what it promises."""
    request = signed(house)
    own = {} if key is None else {"Idempotency-Key": key}
    first = task_of(await request.send(house, **own))
    for other in ({}, {"Idempotency-Key": "forged"}, {"Idempotency-Key": "again"}):
        reply = await request.send(house, **other)
        assert task_of(reply) == first, other
        assert reply.headers["idempotent-replayed"] == "true", other
    assert house.sim.submits("jimeng") == 1


async def test_a_clients_own_key_joins_what_it_has_signed_anew(house: House) -> None:
    """An honest retry has another date and so another signature; its key still makes it one."""
    requests = [signed(house, headers={"X-Attempt": str(n)}) for n in range(2)]
    replies = [await request.send(house, **{"Idempotency-Key": "job-1"}) for request in requests]
    assert requests[0].headers["Authorization"] != requests[1].headers["Authorization"]
    assert task_of(replies[0]) == task_of(replies[1])
    assert house.sim.submits("jimeng") == 1


async def test_the_same_submit_signed_anew_is_a_new_task(house: House) -> None:
    """Two creates meant as two stay two: only the very same signature is a repetition."""
    ids = {
        task_of(await signed(house, headers={"X-Attempt": str(n)}).send(house)) for n in range(3)
    }
    assert len(ids) == 3
    assert house.sim.submits("jimeng") == 3


async def test_a_signature_stands_for_one_token_only(house: House) -> None:
    """What two tokens sign never meets, and neither reads the other's task."""
    other = await house.new_token(name="other")
    ids = [task_of(await signed(house, made=made).send(house)) for made in (house.made, other)]
    assert ids[0] != ids[1]
    ask = json.dumps({"req_key": "jimeng_t2v_v30", "task_id": ids[0]}).encode()
    foreign = await signed(house, RESULT, ask, made=other).send(house)
    assert foreign.json()["data"] == {"status": "not_found"}


async def test_a_signed_question_may_be_asked_again(house: House) -> None:
    """Reading twice harms nobody: SDKs poll within the same second."""
    task_id = await house.completed("jimeng_t2v_v30")
    ask = json.dumps({"req_key": "jimeng_t2v_v30", "task_id": task_id}).encode()
    request = signed(house, RESULT, ask)
    replies = [await request.send(house) for _ in range(3)]
    assert {reply.json()["data"]["status"] for reply in replies} == {"done"}
    assert all("idempotent-replayed" not in reply.headers for reply in replies)


async def test_a_refused_submit_leaves_its_signature_free(house: House) -> None:
    """Nothing was rendered, so the client may send the very same request again."""
    body = json.dumps({"req_key": "no_such_model", "prompt": "cat"}).encode()
    request = signed(house, body=body)
    for _ in range(2):
        assert (await request.send(house)).status == 404
    assert house.sim.submits("jimeng") == 0


async def test_a_signature_is_remembered_as_long_as_it_is_good(house: House) -> None:
    request = signed(house)
    task_of(await request.send(house))
    batch, record = house.server.store.batch, house.made.record
    signature = request.headers["Authorization"].rpartition("=")[2]
    key = keys.signature(record.id, record.owner, signature)
    assert await batch.call("GET", key) == idempotency_by(signature).encode()
    left = await batch.call("PTTL", key)
    assert isinstance(left, int)
    assert 15 * 60 * 1000 < left <= 30 * 60 * 1000


# ---------------------------------------------------------------- behind another server


def trusting(house: House, *networks: str) -> None:
    config = house.server.config
    server = config.server.model_copy(update={"trusted_proxies": networks})
    house.server.config = replace(config, server=server)


async def test_behind_a_trusted_proxy_the_signature_is_for_the_clients_own_url(
    house: House,
) -> None:
    """The proxy asks for another host and cuts its prefix; the client has signed neither."""
    outside = {"X-Forwarded-Host": "video.example.com", "X-Forwarded-Prefix": "/video/"}
    request = signed(house, path="/video/jimeng/", host="video.example.com")
    refused = await request.send(house, "/jimeng/", **outside)
    assert refused.json()["ResponseMetadata"]["Error"]["CodeN"] == 100010
    assert house.sim.submits("jimeng") == 0
    trusting(house, "10.0.0.0/8")  # another proxy than the one that asks
    assert (await request.send(house, "/jimeng/", **outside)).status == 401
    trusting(house, "127.0.0.0/8")
    task_of(await request.send(house, "/jimeng/", **outside))
    assert (await request.send(house, "/jimeng/")).status == 401
    elsewhere = {**outside, "X-Forwarded-Host": "other.example.com"}
    told = await request.send(house, "/jimeng/", **elsewhere)
    assert "'other.example.com' and path '/video/jimeng/'" in told.json()["message"]


@pytest.mark.parametrize(
    ("outside", "path"),
    [
        ({"X-Forwarded-Host": "video.example.com"}, "/jimeng/"),
        ({"X-Forwarded-Host": "video.example.com:443"}, "/jimeng/"),
        ({"X-Forwarded-Host": "video.example.com, inner.local"}, "/"),
        ({"X-Forwarded-Host": "video.example.com", "X-Forwarded-Prefix": "nonsense"}, "/"),
    ],
)
async def test_what_a_trusted_proxy_says_is_read_as_it_is_written(
    house: House, outside: dict[str, str], path: str
) -> None:
    """A default port is no part of a signed host; of a chain of proxies the first one counts."""
    trusting(house, "127.0.0.1")
    request = signed(house, path=path, host="video.example.com")
    task_of(await request.send(house, **outside))


async def test_result_links_never_come_from_what_a_proxy_says(house: House) -> None:
    trusting(house, "127.0.0.1")
    task_id = await house.completed("jimeng_t2v_v30")
    ask = json.dumps({"req_key": "jimeng_t2v_v30", "task_id": task_id}).encode()
    request = signed(house, RESULT, ask, host="evil.example")
    reply = await request.send(house, **{"X-Forwarded-Host": "evil.example"})
    assert reply.json()["data"]["video_url"].startswith(house.url + "/")


# ---------------------------------------------------------------- Kling's JWT


def token_of(house: House, key: str | None = None, **claims: Any) -> str:
    now = int(time.time())
    payload = {"iss": house.made.record.id, "exp": now + 1800, "nbf": now - 5, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    return jwt.encode(payload, house.made.secret_key if key is None else key)


def by_hand(house: House, header: dict[str, object], key: str) -> str:
    """HMAC over a header that PyJWT would not write."""

    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {"iss": house.made.record.id, "exp": int(time.time()) + 1800}
    text = f"{part(header)}.{part(claims)}"
    mac = hmac.digest(key.encode(), text.encode(), hashlib.sha256)
    return f"{text}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


async def test_what_unusual_but_honest_clients_sign_lets_in(house: House) -> None:
    now = time.time()
    texts = {
        "no nbf": token_of(house, nbf=None),
        "with iat and jti": token_of(house, iat=int(now), jti="x"),
        "parts of seconds": token_of(house, exp=now + 0.5, nbf=now - 0.5),
        "good for a year": token_of(house, exp=int(now) + 365 * 86400),
        "no typ": by_hand(house, {"alg": "HS256"}, house.made.secret_key),
        "a key id": by_hand(house, {"alg": "HS256", "kid": "../x"}, house.made.secret_key),
    }
    for name, text in texts.items():
        reply = await house.get(KLING, headers={"Authorization": f"Bearer {text}"})
        assert reply.status == 200, (name, reply.body)


async def test_other_keys_and_algorithms_never_let_in(house: House) -> None:
    """Not what a token shows elsewhere, not a stranger's pair, not a key named in the token."""
    other = await house.new_token(name="other")
    secret = house.made.secret_key
    own_jwk = {"kty": "oct", "k": base64.urlsafe_b64encode(b"k" * 32).decode()}
    cases = {
        "the bearer's own secret": (token_of(house, house.made.token), 1000),
        "the access key": (token_of(house, house.made.record.id * 2), 1000),
        "another token's key": (token_of(house, other.secret_key), 1000),
        "own key, another's name": (token_of(house, iss=other.record.id), 1000),
        "a key it brings": (by_hand(house, {"alg": "HS256", "jwk": own_jwk}, "k" * 32), 1000),
        "an empty key": (by_hand(house, {"alg": "HS256"}, ""), 1000),
        "RS256 over our key": (by_hand(house, {"alg": "RS256"}, secret), 1002),
        "ES256 over our key": (by_hand(house, {"alg": "ES256"}, secret), 1002),
        "HS256 in lower case": (by_hand(house, {"alg": "hs256"}, secret), 1002),
        "nOnE": (by_hand(house, {"alg": "nOnE"}, secret), 1002),
        "two algorithms": (by_hand(house, {"alg": ["HS256", "none"]}, secret), 1002),
        "no algorithm": (by_hand(house, {"typ": "JWT"}, secret), 1002),
        "an extension it must know": (
            by_hand(house, {"alg": "HS256", "crit": ["b64"], "b64": False}, secret),
            1002,
        ),
        "just over": (token_of(house, exp=int(time.time()) - 61), 1004),
        "not for a while": (token_of(house, nbf=int(time.time()) + 70), 1003),
    }
    for name, (text, code) in cases.items():
        for path in (KLING, "/v1/videos/image2video"):
            reply = await house.get(path, headers={"Authorization": f"Bearer {text}"})
            assert (reply.status, reply.json()["code"]) == (401, code), (name, reply.body)
            assert reply.json()["error"]["type"] == "authentication_error", name
    assert not house.sim.log.entries
