"""Ranges and conditions (RFC 9110 §13 and §14), as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import RangeNotSatisfiable
from proxy.http.ranges import (
    ByteSpan,
    Wish,
    is_unmodified,
    modified_of,
    precondition_fails,
    range_still_holds,
    read_content_range,
    read_range,
    read_unsatisfied,
    strong_etag,
)

ETAG = '"e1"'
DAY = "Sun, 06 Nov 1994 08:49:37 GMT"
DAY_S = 784_111_777


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        ("bytes=0-0", Wish(0, 0)),
        ("bytes=0-499", Wish(0, 499)),
        ("bytes=500-", Wish(500)),
        ("bytes=-500", Wish(suffix=500)),
        ("bytes=-0", Wish(suffix=0)),
        ("bytes=0-999999999999999999", Wish(0, 10**18 - 1)),
        ("  bytes=1-2\t", Wish(1, 2)),
        ("bytes = 1-2", Wish(1, 2)),
        ("Bytes=1-2", Wish(1, 2)),
        ("BYTES=-3", Wish(suffix=3)),
    ],
)
def test_a_single_range_is_read(header: str, wish: Wish) -> None:
    assert read_range(header) == wish


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "bytes=1-b",
        "bytes=5-2",
        "bytes=--5",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=0x1-2",
        "bytes=1.0-2",
        "bytes=0-0,2-3",
        "bytes=0-0,",
        "items=0-5",
        "0-5",
        "bytes=99999999999999999999-99999999999999999998",
        "bytes=٠-٥",
        "bytes=0-1\nbytes=2-3",
    ],
)
def test_what_is_no_single_byte_range_asks_for_the_whole_file(header: str | None) -> None:
    assert read_range(header) is None


@pytest.mark.parametrize(
    ("header", "wish"),
    [
        ("bytes=0-99999999999999999999999", Wish(0, None)),
        ("bytes=7-" + "9" * 5000, Wish(7, None)),
        ("bytes=7-" + "0" * 5000 + "8", Wish(7, 8)),
        ("bytes=-" + "9" * 5000, Wish(suffix=10**18)),
        ("bytes=" + "9" * 5000 + "-", Wish(10**18)),
        ("bytes=0-999999999999999999", Wish(0, 999999999999999999)),
    ],
)
def test_a_position_of_any_size_is_read(header: str, wish: Wish) -> None:
    """RFC 9110, 14.1.1, bounds no number of digits; int() does, at 4,300."""
    assert read_range(header) == wish


@pytest.mark.parametrize(
    ("wish", "size", "span"),
    [
        (Wish(), 10, ByteSpan(0, 10)),
        (Wish(0, 0), 10, ByteSpan(0, 1)),
        (Wish(9, 9), 10, ByteSpan(9, 10)),
        (Wish(3), 10, ByteSpan(3, 10)),
        (Wish(3, 99), 10, ByteSpan(3, 10)),
        (Wish(suffix=3), 10, ByteSpan(7, 10)),
        (Wish(suffix=10), 10, ByteSpan(0, 10)),
        (Wish(suffix=99), 10, ByteSpan(0, 10)),
    ],
)
def test_a_range_is_clipped_to_the_file(wish: Wish, size: int, span: ByteSpan) -> None:
    assert wish.within(size) == span
    assert len(span) == span.stop - span.start


@pytest.mark.parametrize(
    ("wish", "size"),
    [(Wish(10), 10), (Wish(10, 20), 10), (Wish(suffix=0), 10), (Wish(0, 0), 0), (Wish(), 0)],
)
def test_a_range_outside_the_file_is_a_416_that_tells_the_size(wish: Wish, size: int) -> None:
    with pytest.raises(RangeNotSatisfiable) as caught:
        wish.within(size)
    assert caught.value.headers == {"Content-Range": f"bytes */{size}"}


@given(st.integers(0, 10**9), st.none() | st.integers(0, 10**9), st.integers(1, 10**9))
def test_a_wish_survives_its_own_header(first: int, length: int | None, suffix: int) -> None:
    for wish in (
        Wish(first, None if length is None else first + length),
        Wish(suffix=suffix),
    ):
        assert read_range(wish.header()) == wish


@given(st.integers(0, 60), st.none() | st.integers(0, 60), st.integers(0, 50))
def test_a_span_lies_inside_the_file(first: int, last: int | None, size: int) -> None:
    """The bytes of the span are those that Python's own slicing would give."""
    data = bytes(range(size))
    expected = data[first:] if last is None else data[first : last + 1]
    try:
        span = Wish(first, last).within(size)
    except RangeNotSatisfiable:
        assert expected == b""
    else:
        assert data[span.start : span.stop] == expected


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("bytes 0-9/10", (ByteSpan(0, 10), 10)),
        ("bytes 5-9/*", (ByteSpan(5, 10), None)),
        (" bytes 0-0/1 ", (ByteSpan(0, 1), 1)),
        ("bytes 0-9/5", None),  # ends behind the end
        ("bytes 9-0/10", None),
        ("bytes */10", None),
        ("bytes=0-9/10", (ByteSpan(0, 10), 10)),
        ("Bytes  0 - 9 / 10", (ByteSpan(0, 10), 10)),
        ("0-9/10", (ByteSpan(0, 10), 10)),
        ("BYTES 0-9/*", (ByteSpan(0, 10), None)),
        ("items 0-9/10", None),
        ("bytes 0-9", None),
        ("", None),
        (None, None),
    ],
)
def test_a_content_range_is_believed_only_when_it_makes_sense(
    header: str | None, found: tuple[ByteSpan, int | None] | None
) -> None:
    assert read_content_range(header) == found


@pytest.mark.parametrize(
    ("header", "size"),
    [
        ("bytes */10", 10),
        ("bytes */0", 0),
        ("bytes 0-1/10", None),
        ("*/10", 10),
        ("Bytes */ 10", 10),
        (None, None),
    ],
)
def test_the_size_in_a_416(header: str | None, size: int | None) -> None:
    assert read_unsatisfied(header) == size


@pytest.mark.parametrize(
    ("header", "tag"),
    [
        ('"a"', '"a"'),
        ('""', '""'),
        ('W/"a"', None),
        ("a", None),
        ('"a', None),
        ('"', None),
        ('"a"b"', None),
        ("", None),
        (None, None),
    ],
)
def test_only_a_strong_tag_promises_the_same_bytes(header: str | None, tag: str | None) -> None:
    assert strong_etag(header) == tag


@pytest.mark.parametrize(
    ("headers", "modified_s", "unmodified"),
    [
        ({}, DAY_S, False),
        ({"If-None-Match": ETAG}, None, True),
        ({"If-None-Match": f"W/{ETAG}"}, None, True),  # weak comparison is enough for a 304
        ({"If-None-Match": f'"x", {ETAG} ,"y"'}, None, True),
        ({"If-None-Match": "*"}, None, True),
        ({"If-None-Match": '"x"'}, None, False),
        ({"If-None-Match": "e1"}, None, False),
        ({"If-None-Match": ""}, None, False),
        ({"If-Modified-Since": DAY}, DAY_S, True),
        ({"If-Modified-Since": DAY}, DAY_S - 1, True),
        ({"If-Modified-Since": DAY}, DAY_S + 1, False),
        ({"If-Modified-Since": DAY}, None, False),
        ({"If-Modified-Since": "yesterday"}, DAY_S, False),
        # If-None-Match is there, so the date is not looked at (RFC 9110 §13.1.3).
        ({"If-None-Match": '"x"', "If-Modified-Since": DAY}, DAY_S, False),
    ],
)
def test_when_the_client_has_it_already(
    headers: dict[str, str], modified_s: int | None, unmodified: bool
) -> None:
    assert is_unmodified(headers, ETAG, modified_s) is unmodified


@pytest.mark.parametrize(
    ("headers", "modified_s", "fails"),
    [
        ({}, DAY_S, False),
        ({"If-Match": ETAG}, None, False),
        ({"If-Match": f'"x",{ETAG}'}, None, False),
        ({"If-Match": "*"}, None, False),
        ({"If-Match": '"x"'}, None, True),
        ({"If-Match": f"W/{ETAG}"}, None, True),  # strong comparison
        ({"If-Unmodified-Since": DAY}, DAY_S, False),
        ({"If-Unmodified-Since": DAY}, DAY_S + 1, True),
        ({"If-Unmodified-Since": DAY}, None, False),
        ({"If-Unmodified-Since": "never"}, DAY_S + 1, False),
        ({"If-Match": ETAG, "If-Unmodified-Since": DAY}, DAY_S + 1, False),
    ],
)
def test_when_a_precondition_forbids_the_answer(
    headers: dict[str, str], modified_s: int | None, fails: bool
) -> None:
    assert precondition_fails(headers, ETAG, modified_s) is fails


@pytest.mark.parametrize(
    ("header", "modified_s", "holds"),
    [
        (None, None, True),
        (ETAG, None, True),
        ('"x"', DAY_S, False),
        (f"W/{ETAG}", None, False),
        (DAY, DAY_S, True),
        (DAY, DAY_S + 1, False),
        (DAY, DAY_S - 1, False),  # a date must be the very same (RFC 9110 §13.1.5)
        (DAY, None, False),
        ("nonsense", DAY_S, False),
        ("", DAY_S, False),
    ],
)
def test_if_range_sends_the_range_only_of_the_same_file(
    header: str | None, modified_s: int | None, holds: bool
) -> None:
    assert range_still_holds(header, ETAG, modified_s) is holds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (DAY, DAY_S),
        ("Sunday, 06-Nov-94 08:49:37 GMT", DAY_S),  # RFC 850, still to be read
        ("Sun Nov  6 08:49:37 1994", DAY_S),  # asctime: GMT without saying so
        ("Sun, 06 Nov 1994 09:49:37 +0100", DAY_S),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sun, 99 Nov 1994 08:49:37 GMT", None),
        ("Sun, 06 Nov 99999999 08:49:37 GMT", None),
        ("784111777", None),
        ("", None),
        (None, None),
    ],
)
def test_the_three_date_formats_of_http(text: str | None, seconds: int | None) -> None:
    assert modified_of(text) == seconds


@given(st.text(max_size=60))
def test_no_header_makes_the_readers_raise(text: str) -> None:
    read_range(text)
    read_content_range(text)
    read_unsatisfied(text)
    strong_etag(text)
    modified_of(text)
    is_unmodified({"If-None-Match": text}, ETAG, DAY_S)
    precondition_fails({"If-Match": text}, ETAG, DAY_S)
    range_still_holds(text, ETAG, DAY_S)
