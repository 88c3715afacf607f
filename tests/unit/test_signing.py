"""Signatures are judged against literal vectors and the vendors' own libraries."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from volcengine.auth.SignerV4 import SignerV4
from volcengine.base.Request import Request
from volcengine.Credentials import Credentials

from proxy import signing
from proxy.errors import AuthFault
from proxy.signing import JwtClaims, VolcCredential

NOW = 1767225600  # 2026-01-01T00:00:00Z
MASTER = b"0123456789abcdef0123456789abcdef"

# ---------------------------------------------------------------- keys and tokens


def test_derived_keys_are_hmac_of_label_subject_generation() -> None:
    assert signing.derive(MASTER, "link", "abc", 2).hex() == (
        "4301929f16d4c540348dd989c1abeab9379a301a22320170f0e3f5cce5be9435"
    )


def test_every_argument_of_a_derivation_counts() -> None:
    keys = {
        signing.derive(*arguments)
        for arguments in (
            (MASTER, "link", "abc", 0),
            (MASTER + b"x", "link", "abc", 0),
            (MASTER, "hook", "abc", 0),
            (MASTER, "link", "abd", 0),
            (MASTER, "link", "abc", 1),
        )
    }
    assert len(keys) == 5


def test_a_secret_key_changes_with_the_tokens_generation() -> None:
    first, second = (signing.secret_key(MASTER, "abcdefghijklmnop", g) for g in (1, 2))
    assert first != second
    assert len(first) == 43
    assert first.isascii()
    assert first.replace("-", "").replace("_", "").isalnum()


@given(st.binary(min_size=64, max_size=96))
def test_new_tokens_parse_back(entropy: bytes) -> None:
    token_id, secret = signing.new_token(entropy)
    assert signing.parse_token(signing.format_token(token_id, secret)) == (token_id, secret)


def test_a_token_uses_all_its_entropy() -> None:
    """Flipping any one bit of the id's ten bytes or of the last byte gives another token."""
    base = bytes(64)
    seen = {signing.new_token(base)}
    for position in (*range(10), 63):
        changed = bytearray(base)
        changed[position] ^= 1
        seen.add(signing.new_token(bytes(changed)))
    assert len(seen) == 12


def test_too_little_entropy_is_refused() -> None:
    with pytest.raises(ValueError, match="64 random bytes, not 63"):
        signing.new_token(bytes(63))


TOKEN = "rw_" + "a" * 16 + "_" + "Z" * 43


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sk-test",
        TOKEN[:-1],
        TOKEN + "x",
        TOKEN + "\n",
        TOKEN.replace("rw_", "RW_"),
        TOKEN.replace("a", "A"),
        TOKEN.replace("a", "1"),  # base32 has no 1
        TOKEN.replace("Z", "_"),
        TOKEN.replace("Z", "é"),
    ],
)
def test_other_texts_are_no_tokens(text: str) -> None:
    assert signing.parse_token(text) is None


def test_a_hash_matches_its_secret_only() -> None:
    stored = signing.token_hash("secret")
    assert stored == hashlib.sha256(b"secret").hexdigest()
    assert signing.hash_matches("secret", stored)
    assert not signing.hash_matches("Secret", stored)
    assert not signing.hash_matches("secret", stored[:-1])
    assert not signing.hash_matches("\udcff", stored)
    assert not signing.hash_matches("secret", "é")


# ---------------------------------------------------------------- Volcengine

AK = "AKLTEXAMPLEACCESSKEY0000000001"
SK = "ZXhhbXBsZS1zZWNyZXQta2V5LWZvci10ZXN0cw=="
SUBMIT = (("Action", "CVSync2AsyncSubmitTask"), ("Version", "2022-08-31"))
RESULT = (("Action", "CVSync2AsyncGetResult"), ("Version", "2022-08-31"))
HOST = "visual.volcengineapi.com"
BODY = (
    b'{"req_key":"jimeng_t2v_v30","prompt":"A calico cat playing a piano on stage",'
    b'"seed":-1,"frames":121,"aspect_ratio":"16:9"}'
)
BODY_SHA = "be40260802eabd46de3d89e2365a0851851b8c1d7d4d9feced17cbfb862061f1"
AUTHORIZATION = (
    "HMAC-SHA256 Credential=AKLTEXAMPLEACCESSKEY0000000001/20260101/cn-north-1/cv/request, "
    "SignedHeaders=content-type;host;x-content-sha256;x-date, "
    "Signature=ab8f92d10a81aac76291a6db9f1b048e938813e52a4e2da591c8414288fed741"
)

VECTORS = [
    # query, host, path, body sha256, signature
    (SUBMIT, HOST, "/", BODY_SHA, AUTHORIZATION[-64:]),
    (
        RESULT,
        HOST,
        "/",
        "fb9ad4e9500a5f8ce1fba86a5f8708142a074934631f559598ad89fbf5a8c123",
        "07097e4255b4123e1a15b39700a17b3006bc8617ac7f491a04db13af9309689a",
    ),
    (
        SUBMIT,
        HOST,
        "/",
        "f487f92caa47a687851d38ebf95f048669a628ca083a3a9e84e4b14382f439eb",
        "7ce86b79a6aaf58dfea3dc3736d0d171cc856d9983d8178cea0b1361378f3697",
    ),
    (
        SUBMIT,
        "127.0.0.1:8080",
        "/jimeng/",
        BODY_SHA,
        "cc65a408ebb47a03799e647a6f69ed00d3e6f5f2c80683751bc34ae28d81965a",
    ),
    (
        SUBMIT,
        "gateway.example.com",
        "/jimeng/",
        BODY_SHA,
        "3276a606a2eca1c194ae1f01408cfef1aeb3a5027adc3757e308bb77c187ff18",
    ),
    (
        SUBMIT,
        "gateway.example.com:443",
        "/jimeng/",
        BODY_SHA,
        "3276a606a2eca1c194ae1f01408cfef1aeb3a5027adc3757e308bb77c187ff18",
    ),
    (
        SUBMIT,
        "gateway.example.com:80",
        "/jimeng/",
        BODY_SHA,
        "3276a606a2eca1c194ae1f01408cfef1aeb3a5027adc3757e308bb77c187ff18",
    ),
]


def signed(
    *,
    query: tuple[tuple[str, str], ...] = SUBMIT,
    host: str = HOST,
    path: str = "/",
    body_sha256: str = BODY_SHA,
) -> dict[str, str]:
    return signing.sign_volc(
        method="POST",
        path=path,
        query=query,
        headers={"Content-Type": "application/json", "Host": host, "Accept": "*/*"},
        body_sha256=body_sha256,
        access_key=AK,
        secret_key=SK,
        now_s=NOW,
    )


def test_the_golden_body_has_the_hash_that_is_signed() -> None:
    assert hashlib.sha256(BODY).hexdigest() == BODY_SHA


def test_the_golden_request_is_signed_byte_for_byte() -> None:
    assert signed() == {
        "X-Date": "20260101T000000Z",
        "X-Content-Sha256": BODY_SHA,
        "Authorization": AUTHORIZATION,
    }


@pytest.mark.parametrize(("query", "host", "path", "body_sha256", "signature"), VECTORS)
def test_golden_signatures(
    query: tuple[tuple[str, str], ...], host: str, path: str, body_sha256: str, signature: str
) -> None:
    added = signed(query=query, host=host, path=path, body_sha256=body_sha256)
    assert added["Authorization"].endswith(f"Signature={signature}")


HEADER_TEXT = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":;,"), min_size=1
)


@given(
    method=st.sampled_from(["GET", "POST"]),
    path=st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(lambda t: "/" + t),
    query=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        max_size=4,
    ),
    extra=st.dictionaries(
        st.from_regex(r"X-[A-Z][a-z]{1,8}", fullmatch=True).filter(lambda n: n != "X-Date"),
        HEADER_TEXT,
        max_size=3,
    ),
    host=st.sampled_from(["a.example", "a.example:80", "a.example:443", "127.0.0.1:8080"]),
    body=st.binary(max_size=40),
    secret=HEADER_TEXT,
    now_s=st.integers(0, 4_000_000_000),
)
def test_signs_and_verifies_as_the_volcengine_sdk_does(
    method: str,
    path: str,
    query: dict[str, str],
    extra: dict[str, str],
    host: str,
    body: bytes,
    secret: str,
    now_s: int,
) -> None:
    """On any request our Authorization equals the SDK's, and the SDK's passes our check."""
    headers = {"Content-Type": "application/json", "Host": host, **extra}
    digest = hashlib.sha256(body).hexdigest()
    ours = signing.sign_volc(
        method=method,
        path=path,
        query=tuple(query.items()),
        headers=headers,
        body_sha256=digest,
        access_key=AK,
        secret_key=secret,
        now_s=now_s,
    )

    request: Any = Request()
    request.method, request.path, request.body = method, path, body
    request.query, request.headers = OrderedDict(query), OrderedDict(headers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SignerV4, "get_current_format_date", staticmethod(lambda: ours["X-Date"]))
        SignerV4.sign(request, Credentials(AK, secret, "cv", "cn-north-1"))
    assert ours["Authorization"] == request.headers["Authorization"]

    parsed = signing.parse_volc(request.headers["Authorization"])
    assert parsed is not None
    assert signing.volc_time(request.headers, parsed) == now_s
    assert signing.verify_volc(
        parsed,
        method=method,
        path=path,
        query=tuple(query.items()),
        headers=CIMultiDict(request.headers),
        host=host,
        body_sha256=digest,
        secret_key=secret,
    )


def verified(**changed: Any) -> bool:
    headers = {"content-type": "application/json", **signed()}
    arguments: dict[str, Any] = {
        "method": "POST",
        "path": "/",
        "query": SUBMIT,
        "headers": {**headers, **changed.pop("add", {})},
        "host": HOST,
        "body_sha256": BODY_SHA,
        "secret_key": SK,
        **changed,
    }
    parsed = arguments.pop("parsed", signing.parse_volc(AUTHORIZATION))
    return signing.verify_volc(parsed, **arguments)


def test_the_golden_request_verifies() -> None:
    assert verified()
    assert verified(host=HOST + ":443")
    assert verified(query=tuple(reversed(SUBMIT)))
    assert verified(headers=CIMultiDict({"CONTENT-TYPE": "application/json", **signed()}))


GOLDEN = signing.parse_volc(AUTHORIZATION)


@pytest.mark.parametrize(
    "changed",
    [
        {"method": "GET"},
        {"path": "/jimeng/"},
        {"query": RESULT},
        {"query": (*SUBMIT, ("x", "1"))},
        {"host": "evil.example"},
        {"host": HOST + ":8443"},
        {"body_sha256": "0" * 64},
        {"secret_key": SK[:-1]},
        {"add": {"content-type": "application/json; charset=utf-8"}},
        {"add": {"X-Date": "20260101T000001Z"}},
        {"add": {"X-Date": "20260102T000000Z"}},
        {"add": {"X-Content-Sha256": "0" * 64}},
        {"headers": {}},
        {"headers": {"X-Date": "20260101T000000Z"}},
        {"path": "/\ud800"},
        {"add": {"content-type": "\ud800"}},
    ],
)
def test_any_change_breaks_the_signature(changed: dict[str, Any]) -> None:
    assert not verified(**changed)


def test_a_signature_by_another_key_is_refused() -> None:
    assert GOLDEN is not None
    other = VolcCredential(
        GOLDEN.access_key, GOLDEN.date, "cn-south-1", "cv", GOLDEN.signed_headers, GOLDEN.signature
    )
    assert not verified(parsed=other)


def test_a_credential_is_taken_apart() -> None:
    expected = VolcCredential(
        access_key=AK,
        date="20260101",
        region="cn-north-1",
        service="cv",
        signed_headers=("content-type", "host", "x-content-sha256", "x-date"),
        signature="ab8f92d10a81aac76291a6db9f1b048e938813e52a4e2da591c8414288fed741",
    )
    assert expected == GOLDEN


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer rw_x",
        AUTHORIZATION.replace("HMAC-SHA256", "AWS4-HMAC-SHA256"),
        AUTHORIZATION.replace("/request", "/aws4_request"),
        AUTHORIZATION.replace("20260101", "2026010"),
        AUTHORIZATION.replace("20260101", "２０２６０１０１"),
        AUTHORIZATION.replace(AK, ""),
        AUTHORIZATION[:-1],
        AUTHORIZATION + "0",
        AUTHORIZATION.replace("SignedHeaders=", "SignedHeader="),
        AUTHORIZATION.replace("content-type;", ""[:0]).replace(
            "SignedHeaders=host", "SignedHeaders"
        ),
    ],
)
def test_other_headers_are_no_volcengine_signature(authorization: str) -> None:
    assert signing.parse_volc(authorization) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-date": "20260101T000000Z"}, NOW),
        ({"X-Date": " 20260101T235959Z "}, NOW + 86399),
        ({}, None),
        ({"X-Date": "20260102T000000Z"}, None),  # another day than the credential's
        ({"X-Date": "20260101T240000Z"}, None),
        ({"X-Date": "20260101T000000"}, None),
        ({"X-Date": "2026-01-01T00:00:00Z"}, None),
    ],
)
def test_the_time_of_a_signature(headers: Mapping[str, str], expected: int | None) -> None:
    assert GOLDEN is not None
    assert signing.volc_time(headers, GOLDEN) == expected


# ---------------------------------------------------------------- JWT

KLING_AK = "AKEXAMPLE0000000000000000000001"
KLING_SK = "SKEXAMPLE0000000000000000000001"
KLING_JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJBS0VYQU1QTEUwMDAwMDAwMDAwMDAwMDAwMDAwMDAxIiwi"
    "ZXhwIjoxNzY3MjI3NDAwLCJuYmYiOjE3NjcyMjU1OTV9.Dd8Cx4IdkawYYs-jk3j3iJCgVm-57QbaLvRfes_Pv58"
)


def test_the_golden_jwt_byte_for_byte() -> None:
    assert signing.kling_jwt(KLING_AK, KLING_SK, NOW) == KLING_JWT


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
def test_pyjwt_reads_what_we_sign() -> None:
    claims = jwt.decode(
        KLING_JWT,
        KLING_SK,
        algorithms=["HS256"],
        options={"verify_exp": False, "verify_nbf": False},
    )
    assert claims == {"iss": KLING_AK, "exp": NOW + 1800, "nbf": NOW - 5}


LONG_KEY = "k" * 43


def made(claims: object, key: str = LONG_KEY, header: object = None) -> str:
    """A token as any other library makes it: signed by PyJWT over exactly these segments."""
    segments = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()
        for part in ({"alg": "HS256", "typ": "JWT"} if header is None else header, claims)
    ]
    signed_text = ".".join(segments)
    algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    signature = algorithm.sign(signed_text.encode(), key.encode())
    return f"{signed_text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


GOOD = {"iss": "ak", "exp": NOW + 1800, "nbf": NOW - 5}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (made(GOOD), None),
        (made({"iss": "ak", "exp": NOW + 1}), None),  # nbf may be left out
        (made({**GOOD, "exp": NOW - 59}), None),  # within the skew
        (made({**GOOD, "exp": NOW - 60}), AuthFault.EXPIRED),
        (made({**GOOD, "nbf": NOW + 60}), None),
        (made({**GOOD, "nbf": NOW + 61}), AuthFault.NOT_YET),
        (made({**GOOD, "exp": float(NOW)}), None),
        (made(GOOD, key="x" * 43), AuthFault.SIGNATURE),
        (made(GOOD)[:-2], AuthFault.SIGNATURE),
        (made({**GOOD, "exp": 0}, key="x" * 43), AuthFault.SIGNATURE),  # not EXPIRED: a stranger
        (made(GOOD, header={"alg": "none"}), AuthFault.MALFORMED),
        (made(GOOD, header={"alg": "RS256"}), AuthFault.MALFORMED),
        (made(GOOD, header={"alg": "HS512"}), AuthFault.MALFORMED),
        (made(GOOD, header={"alg": "hs256"}), AuthFault.MALFORMED),
        (made(GOOD, header={"typ": "JWT"}), AuthFault.MALFORMED),
        (made(GOOD, header=[]), AuthFault.MALFORMED),
        (made(GOOD, header={"alg": "HS256", "crit": ["b64"]}), AuthFault.MALFORMED),
        (made([GOOD]), AuthFault.MALFORMED),
        (made({"exp": NOW + 1}), AuthFault.MALFORMED),
        (made({"iss": "", "exp": NOW + 1}), AuthFault.MALFORMED),
        (made({"iss": 7, "exp": NOW + 1}), AuthFault.MALFORMED),
        (made({"iss": "ak"}), AuthFault.MALFORMED),  # would never expire
        (made({"iss": "ak", "exp": "soon"}), AuthFault.MALFORMED),
        (made({"iss": "ak", "exp": True}), AuthFault.MALFORMED),
        (made({**GOOD, "nbf": "now"}), AuthFault.MALFORMED),
        ("", AuthFault.MALFORMED),
        ("a.b", AuthFault.MALFORMED),
        ("a.b.c", AuthFault.MALFORMED),
        (made(GOOD).rpartition(".")[0] + ".", AuthFault.MALFORMED),
        (made(GOOD) + "=", AuthFault.MALFORMED),
        (made(GOOD) + "\n", AuthFault.MALFORMED),
        (made({**GOOD, "x": "y" * 5000}), AuthFault.MALFORMED),
    ],
)
def test_a_jwt_is_let_in_for_one_reason_only(text: str, fault: AuthFault | None) -> None:
    assert signing.verify_jwt(text, LONG_KEY, NOW) is fault


def test_the_issuer_is_read_without_a_key() -> None:
    assert signing.jwt_issuer(KLING_JWT) == KLING_AK
    assert signing.read_jwt(KLING_JWT) == JwtClaims(KLING_AK, NOW + 1800, NOW - 5)
    assert signing.jwt_issuer("rw_abc") is None


@given(st.text(max_size=60) | st.from_regex(r"[\w-]{0,30}\.[\w-]{0,30}\.[\w-]{0,30}"))
def test_no_text_makes_the_readers_raise(text: str) -> None:
    assert signing.verify_jwt(text, LONG_KEY, NOW) is not None
    assert signing.parse_volc(text) is None
    assert signing.parse_token(text) is None


# ---------------------------------------------------------------- links and webhooks

LINK = ("video_0a", "video", 0, NOW)


def test_a_link_is_url_safe_and_its_own() -> None:
    signature = signing.sign_link(MASTER, *LINK)
    assert len(signature) == 32  # 192 bits
    assert signature.replace("-", "").replace("_", "").isalnum()
    assert signing.link_matches(MASTER, *LINK, signature)


@pytest.mark.parametrize(
    "other",
    [
        ("video_0b", "video", 0, NOW),
        ("video_0a", "thumbnail", 0, NOW),
        ("video_0a", "video", 1, NOW),
        ("video_0a", "video", 0, NOW + 1),
    ],
)
def test_a_link_opens_nothing_else(other: tuple[str, str, int, int]) -> None:
    signature = signing.sign_link(MASTER, *LINK)
    assert not signing.link_matches(MASTER, *other, signature)
    assert not signing.link_matches(MASTER + b"x", *LINK, signature)
    assert not signing.link_matches(MASTER, *LINK, signature[:-1])
    assert not signing.link_matches(MASTER, *LINK, "é" + signature[1:])


WEBHOOK_BODY = (
    b'{"id":"evt_abc123","object":"event","created_at":1767225660,"type":"video.completed",'
    b'"data":{"id":"video_abc123"}}'
)


def test_the_golden_webhook_signature() -> None:
    secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
    assert (
        signing.sign_webhook(secret, "wh_0001", 1767225660, WEBHOOK_BODY)
        == "v1,MIZyUYxTYsjL9mQ7aGqBwYzjCm46yEeaaiGeZoLbvDs="
    )


def test_a_webhook_secret_without_prefix_is_its_own_bytes() -> None:
    plain = signing.sign_webhook(MASTER.decode(), "wh_0001", 1767225660, WEBHOOK_BODY)
    assert plain == "v1,MIZyUYxTYsjL9mQ7aGqBwYzjCm46yEeaaiGeZoLbvDs="


def test_a_broken_webhook_secret_is_an_error() -> None:
    with pytest.raises(ValueError, match="base64"):
        signing.sign_webhook("whsec_!!!", "wh_0001", 0, b"")
