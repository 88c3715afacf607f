"""JSON of clients is bounded before it is parsed, and is what any parser says it is."""

from __future__ import annotations

import json
import time
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import Invalid
from proxy.http.charsets import codec_of
from proxy.http.documents import json_fields, json_object, opens_object

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"a":[' + b"0," * 20_000 + b"0]}", "more than 20000 names and values"),
        (b'{"a":[' + b"[]," * 10_000 + b"[]]}", "more than 20000 names and values"),
        (b'{"a":[' + b"{}," * 10_000 + b"{}]}", "more than 20000 names and values"),
        (b'{"a":[' + b'"a",' * 20_000 + b'"a"]}', "more than 20000 names and values"),
        (b"{" + b'"a":0,' * 10_001 + b'"b":1}', "more than 20000 names and values"),
        (b'{"a":' + b" " * (2 * MIB + 1) + b"1}", "bytes of blanks and numbers"),
        (b'{"a":"' + b'\\"' * 200_001 + b'"}', "more than 200000 quotes"),
        (b'{"a":' + b"1" * 1_000_000 + b"}", "a number of more than 128 characters"),
        (b'{"a":-' + b"1" * 128 + b"}", "a number of more than 128 characters"),
        (b'{"' + b"k" * 257 + b'":1}', "A name in the body is longer than 256 bytes"),
        (b'{"a":{"' + b"k" * 40_000 + b'":[0]}}', "A name in the body is longer than 256 bytes"),
        (b'{"a":"' + b"x" * MIB, "a string has no end"),
        (b'{"a":"' + b"\x80" * (2 * MIB) + b'"}', "a string that is not UTF-8"),
        (b'{"a":"' + b"x" * MIB + b"\xff" + b'"}', "not valid JSON"),
        (b'{"a":"' + b"x" * 300 + b"\x01" + b'"}', "not valid JSON"),
        (b'{"a":"' + b"x" * 300 + b'\\"}', "a string has no end"),
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "deeper than 32"),
    ],
)
def test_a_body_that_costs_more_than_its_bytes_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        json_fields(body)
    assert len(caught.value.message) < 300


def test_the_bounds_are_generous_to_what_clients_send() -> None:
    fine: dict[str, Any] = {
        "many": list(range(19_000)),
        "commas": ",:[{" * 50_000,
        "quotes": '"' * 90_000,
        "k" * 256: 1,
        "number": 1.7976931348623157e308,
    }
    assert json_fields(json.dumps(fine).encode()) == fine
    assert json_fields(json.dumps({"a": [1] * 5000}, indent=32).encode()) == {"a": [1] * 5000}


@pytest.mark.parametrize(
    "text",
    [
        "A" * (3 * MIB + 1),
        "猫" * MIB,
        "😀" * (MIB // 2),
        "ab/" * MIB,  # PHP writes it as "ab\/"
        "x" * (MIB - 1) + "\\" + "y" * MIB,
        "x" * (MIB - 1) + '"' + "y" * MIB,
        "x" * (MIB - 6) + "😀" + "y" * MIB,
        "0" * 264,
        "\\" * 1000,
        "\x01" * MIB,
        "\\" * MIB,
        "\\" * 301 + '"' + "x" * 300,
    ],
    ids=lambda text: f"{text[:3]}{len(text)}",
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_long_strings_come_back_as_they_were(text: str, ascii_only: bool) -> None:
    value = {"a": text, "b": [{"c": text[:300]}, "short", text]}
    written = json.dumps(value, ensure_ascii=ascii_only)
    assert json_fields(written.encode()) == value
    assert json_fields(written.replace("/", "\\/").encode()) == value


def test_no_text_can_pass_for_one_that_was_taken_out() -> None:
    """A string is taken out under a mark; one that looks like a mark is longer than what stays."""
    for chars in (255, 256, 257, 263, 264, 265):
        mark = "0" * chars
        value = {"a": "x" * 1000, "b": mark, "c": [mark]}
        assert json_fields(json.dumps(value).encode()) == value


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=400),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=40), inner, max_size=4)
        ),
        max_leaves=12,
    ),
    st.booleans(),
)
def test_what_is_read_is_what_was_written(value: object, ascii_only: bool) -> None:
    written = json.dumps({"a": value}, ensure_ascii=ascii_only).encode()
    assert json_fields(written) == {"a": value}


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        (b'\xef\xbb\xbf {"a":"\xe7\x8c\xab"}', None),
        ('{"a":"猫"}'.encode("utf-16"), None),
        ('{"a":"猫"}'.encode("utf-16-le"), "utf-16le"),
        ('{"a":"猫"}'.encode("utf-32"), None),
        ('{"a":"猫"}'.encode(), "ISO-8859-1"),
        ('{"a":"猫"}'.encode("gbk"), "GBK"),
        ('{"a":"猫"}'.encode(), "nonsense"),
        ('{"a":"猫"}'.encode(), "utf-8"),
    ],
)
def test_json_is_read_in_the_charset_its_bytes_are_in(body: bytes, charset: str | None) -> None:
    assert json_fields(body, charset) == {"a": "猫"}


@pytest.mark.parametrize(
    ("head", "opens"),
    [
        (b"", None),
        (b" \r\n\t", None),
        (b"\xef", None),
        (b"\xef\xbb\xbf", None),
        (b"\xef\xbb\xbf {", True),
        (b' {"a"', True),
        (b"prompt=a", False),
        (b"[1]", False),
        (b"\x89PNG", False),
    ],
)
def test_the_first_bytes_tell_an_object(head: bytes, opens: bool | None) -> None:
    assert opens_object(head) is opens


def test_a_charset_is_looked_up_in_a_table_only() -> None:
    for label in ("punycode", "unicode_escape", "idna", "utf_7", "zlib", "base64", "os", "x" * 99):
        assert codec_of(label) is None, label
    for label in ("UTF-8", "utf8", "latin1", "ISO-8859-15", "windows-1251", "EUC-KR", "Big5"):
        assert codec_of(label) is not None, label


def test_json_text_in_a_field_has_the_same_bounds() -> None:
    with pytest.raises(Invalid, match="'metadata' has more than 20000") as caught:
        json_object(b'{"a":[' + b"0," * 20_000 + b"0]}", "The text of 'metadata'", "metadata")
    assert caught.value.param == "metadata"


def test_no_single_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """No call of a parser gets more than a few MiB: it holds the interpreter while it works."""
    sizes: list[int] = []
    real = orjson.loads

    def noted(text: bytes) -> Any:
        sizes.append(len(text))
        return real(text)

    monkeypatch.setattr("proxy.http.documents.orjson.loads", noted)
    body = b'{"a":"' + b"A" * (48 * MIB) + b'","b":["' + b'","'.join([b"x" * 1000] * 5000) + b'"]}'
    begun = time.thread_time()
    assert len(str(json_fields(body)["a"])) == 48 * MIB
    assert time.thread_time() > begun
    assert max(sizes) <= 2 * MIB
    assert sum(sizes) > 48 * MIB
