"""The simulator's verifiers against signatures computed with the vendors' own libraries."""

from __future__ import annotations

import hashlib

import jwt
import pytest
from multidict import CIMultiDict

from proxy.sim.signatures import BadSignature, check_kling_jwt, check_volcengine

_NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z
_AK = "AKEXAMPLE0000000000000000000001"
_SK = "SKEXAMPLE0000000000000000000001"
_JWT = (
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
    "eyJpc3MiOiJBS0VYQU1QTEUwMDAwMDAwMDAwMDAwMDAwMDAwMDAxIiwiZXhwIjoxNzY3MjI3NDAwLCJuYmYiOjE3Njcy"
    "MjU1OTV9.Dd8Cx4IdkawYYs-jk3j3iJCgVm-57QbaLvRfes_Pv58"
)

_VAK = "AKLTEXAMPLEACCESSKEY0000000001"
_VSK = "ZXhhbXBsZS1zZWNyZXQta2V5LWZvci10ZXN0cw=="
_SUBMIT = (
    b'{"req_key":"jimeng_t2v_v30","prompt":"A calico cat playing a piano on stage",'
    b'"seed":-1,"frames":121,"aspect_ratio":"16:9"}'
)
_RESULT = b'{"req_key":"jimeng_t2v_v30","task_id":"7392616336519610409"}'
_CHINESE = '{"req_key":"jimeng_t2v_v30","prompt":"千军万马"}'.encode()
_HOST = "visual.volcengineapi.com"


def test_kling_jwt_of_the_official_sample_is_accepted() -> None:
    assert check_kling_jwt(_JWT, {_AK: _SK}, _NOW) == _AK


@pytest.mark.parametrize(
    ("token", "now", "code"),
    [
        (_JWT, _NOW + 1800, 1004),
        (_JWT, _NOW - 6, 1003),
        (_JWT.replace("Dd8Cx4", "Dd8Cx5"), _NOW, 1000),
        (_JWT.replace("eyJpc3", "eyJpc4"), _NOW, 1002),
        ("not-a-token", _NOW, 1002),
        ("", _NOW, 1002),
        ("e30.e30.e30.e30", _NOW, 1002),
    ],
)
def test_kling_jwt_refusals_carry_klings_code(token: str, now: float, code: int) -> None:
    with pytest.raises(BadSignature) as caught:
        check_kling_jwt(token, {_AK: _SK}, now)
    assert caught.value.code == code


_ELSEWHERE = "another-secret-of-enough-length-0001"


@pytest.mark.parametrize(
    ("claims", "key", "algorithm", "code"),
    [
        ({"iss": _AK, "exp": _NOW + 60}, _ELSEWHERE, "HS256", 1000),
        ({"iss": "AKNOBODY", "exp": _NOW + 60}, _SK, "HS256", 1002),
        ({"exp": _NOW + 60}, _SK, "HS256", 1002),
        ({"iss": _AK}, _SK, "HS256", 1002),
        ({"iss": _AK, "exp": _NOW + 60, "nbf": _NOW + 30}, _SK, "HS256", 1003),
        ({"iss": _AK, "exp": _NOW + 60}, _SK, "HS512", 1002),
        ({"iss": _AK, "exp": _NOW + 60}, None, "none", 1002),
    ],
)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_kling_jwt_of_another_key_claim_or_algorithm_is_refused(
    claims: dict[str, object], key: str | None, algorithm: str, code: int
) -> None:
    token = jwt.encode(claims, key or "", algorithm=algorithm)
    with pytest.raises(BadSignature) as caught:
        check_kling_jwt(token, {_AK: _SK}, _NOW)
    assert caught.value.code == code


def _headers(body: bytes, signature: str, host: str = _HOST) -> CIMultiDict[str]:
    return CIMultiDict(
        {
            "Host": host,
            "Content-Type": "application/json",
            "X-Date": "20260101T000000Z",
            "X-Content-Sha256": hashlib.sha256(body).hexdigest(),
            "Authorization": f"HMAC-SHA256 Credential={_VAK}/20260101/cn-north-1/cv/request,"
            " SignedHeaders=content-type;host;x-content-sha256;x-date,"
            f" Signature={signature}",
        }
    )


_SIGNED = "ab8f92d10a81aac76291a6db9f1b048e938813e52a4e2da591c8414288fed741"
_GATEWAY = "3276a606a2eca1c194ae1f01408cfef1aeb3a5027adc3757e308bb77c187ff18"


@pytest.mark.parametrize(
    ("action", "path", "host", "body", "signature"),
    [
        ("SubmitTask", "/", _HOST, _SUBMIT, _SIGNED),
        (
            "GetResult",
            "/",
            _HOST,
            _RESULT,
            "07097e4255b4123e1a15b39700a17b3006bc8617ac7f491a04db13af9309689a",
        ),
        (
            "SubmitTask",
            "/",
            _HOST,
            _CHINESE,
            "7ce86b79a6aaf58dfea3dc3736d0d171cc856d9983d8178cea0b1361378f3697",
        ),
        (
            "SubmitTask",
            "/jimeng/",
            "127.0.0.1:8080",
            _SUBMIT,
            "cc65a408ebb47a03799e647a6f69ed00d3e6f5f2c80683751bc34ae28d81965a",
        ),
        ("SubmitTask", "/jimeng/", "gateway.example.com", _SUBMIT, _GATEWAY),
        ("SubmitTask", "/jimeng/", "gateway.example.com:443", _SUBMIT, _GATEWAY),
    ],
)
def test_signatures_of_the_official_sdk_are_accepted(
    action: str, path: str, host: str, body: bytes, signature: str
) -> None:
    target = f"{path}?Action=CVSync2Async{action}&Version=2022-08-31"
    headers = _headers(body, signature, host)
    assert check_volcengine("POST", target, headers, body, {_VAK: _VSK}, _NOW) == _VAK


_TARGET = "/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31"


@pytest.mark.parametrize(
    ("changes", "target", "body", "secret", "now", "code"),
    [
        ({}, _TARGET, _SUBMIT + b" ", _VSK, _NOW, 100010),
        ({}, _TARGET + "&x=1", _SUBMIT, _VSK, _NOW, 100010),
        ({}, _TARGET, _SUBMIT, "wrong", _NOW, 100010),
        ({"Content-Type": "text/plain"}, _TARGET, _SUBMIT, _VSK, _NOW, 100010),
        ({}, _TARGET, _SUBMIT, _VSK, _NOW + 901, 100006),
        ({}, _TARGET, _SUBMIT, _VSK, _NOW - 901, 100006),
        ({"X-Date": "yesterday"}, _TARGET, _SUBMIT, _VSK, _NOW, 100006),
        ({"Authorization": ""}, _TARGET, _SUBMIT, _VSK, _NOW, 100003),
        ({"Authorization": "Bearer x"}, _TARGET, _SUBMIT, _VSK, _NOW, 100005),
    ],
)
def test_a_changed_request_is_refused_with_volcengines_code(
    changes: dict[str, str], target: str, body: bytes, secret: str, now: float, code: int
) -> None:
    headers = _headers(_SUBMIT, _SIGNED)
    headers.update(changes)
    with pytest.raises(BadSignature) as caught:
        check_volcengine("POST", target, headers, body, {_VAK: secret}, now)
    assert caught.value.code == code


def test_an_unknown_access_key_is_named_as_such() -> None:
    with pytest.raises(BadSignature) as caught:
        check_volcengine("POST", _TARGET, _headers(_SUBMIT, _SIGNED), _SUBMIT, {}, _NOW)
    assert caught.value.code == 100009


def test_a_signature_without_host_or_date_is_refused() -> None:
    """Else a signed request could be replayed against another host, or for ever."""
    headers = _headers(_SUBMIT, _SIGNED)
    headers["Authorization"] = headers["Authorization"].replace(";host", "")
    with pytest.raises(BadSignature) as caught:
        check_volcengine("POST", _TARGET, headers, _SUBMIT, {_VAK: _VSK}, _NOW)
    assert caught.value.code == 100010
