"""Reading a body field by field: every mistake is an `Invalid` that names the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.dialects.fields import Fields, check_text, check_tree, folded, with_line_feeds
from proxy.dialects.media import MemoryBlob
from proxy.errors import Invalid, ProxyError

# The same examples on every run, and no clock: the machine may be busy.
STEADY = settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
FILE = MemoryBlob(b"\x00\x01", "image/png", "cat.png")

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)  # what the JSON parser yields as int
    | st.floats()
    | st.text(max_size=40),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
READERS: dict[str, Callable[[Fields], object]] = {
    "word": lambda f: f.word("x"),
    "prose": lambda f: f.prose("x"),
    "long_text": lambda f: f.long_text("x"),
    "number": lambda f: f.number("x", low=0, high=100),
    "integer": lambda f: f.integer("x", low=-100),
    "flag": lambda f: f.flag("x"),
    "mapping": lambda f: f.mapping("x"),
    "strings": lambda f: f.strings("x"),
    "upload": lambda f: f.upload("x"),
    "raw": lambda f: f.raw("x"),
}


@pytest.mark.parametrize(
    ("reader", "value", "expected"),
    [
        ("word", "sora-2", "sora-2"),
        ("word", "a\tb", "a\tb"),
        ("prose", "one\r\ntwo\nthree", "one\r\ntwo\nthree"),
        ("prose", "one\rtwo\r\rthree\r", "one\ntwo\n\nthree\n"),
        ("word", 5, "5"),
        ("word", 5.0, "5"),
        ("word", ["sora-2"], "sora-2"),
        ("number", "4.", 4.0),
        ("number", [8], 8.0),
        ("integer", 2**64 - 1, 2**64 - 1),
        ("integer", "18446744073709551615", 2**64 - 1),
        ("integer", 2**53 + 1, 2**53 + 1),
        ("integer", "9007199254740993.0", 2**53 + 1),
        ("integer", "-7", -7),
        ("integer", 0, 0),
        ("flag", 1, True),
        ("flag", 0, False),
        ("long_text", "A" * 100_000, "A" * 100_000),
        ("number", 8, 8.0),
        ("number", "8", 8.0),
        ("number", " 7.5 ", 7.5),
        ("number", 0, 0.0),
        ("integer", "24", 24),
        ("integer", 24.0, 24),
        ("flag", True, True),
        ("flag", "on", True),
        ("flag", "FALSE", False),
        ("flag", "0", False),
        ("mapping", {"a": FILE}, {"a": FILE}),
        ("strings", ["a", "b"], ["a", "b"]),
        ("strings", "a", ["a"]),
        ("upload", FILE, FILE),
        ("upload", "text", None),
        ("raw", [1], [1]),
    ],
)
def test_a_good_value_is_read(reader: str, value: object, expected: object) -> None:
    assert READERS[reader](Fields({"x": value})) == expected


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("values", [{}, {"x": None}, {"x": ""}])
def test_null_and_empty_count_as_not_sent(reader: str, values: dict[str, object]) -> None:
    assert READERS[reader](Fields(values)) is None
    assert not Fields(values).has("x")


@pytest.mark.parametrize(
    ("reader", "value", "message"),
    [
        ("word", 5.5, "'x' must be a string, not a number."),
        ("word", FILE, "'x' must be a string, not a file."),
        ("word", "a\nb", "'x' holds a control character."),
        ("word", "a" * 513, "'x' is longer than 512 characters."),
        ("prose", ["a"], "'x' must be a string, not a list."),
        ("prose", "a\x00b", "'x' holds a NUL character."),
        ("prose", "a" * 32001, "'x' is longer than 32000 characters."),
        ("long_text", {"a": 1}, "'x' must be a string, not an object."),
        ("number", "8s", "'x' must be a number, not '8s'."),
        ("number", True, "'x' must be a number, not true."),
        ("number", float("nan"), "'x' must be a number, not nan."),
        ("number", float("inf"), "'x' must be a number, not inf."),
        ("number", -1, "'x' must be at least 0, not -1."),
        ("number", 101, "'x' must be at most 100, not 101."),
        ("integer", 7.5, "'x' must be a whole number, not 7.5."),
        ("integer", 2**64, "'x' must be a whole number, not 18446744073709551616."),
        ("integer", "many", "'x' must be a whole number, not 'many'."),
        ("flag", "maybe", "'x' must be true or false, not 'maybe'."),
        ("flag", 2, "'x' must be true or false, not 2."),
        ("mapping", "text", "'x' must be an object, not a string."),
        ("strings", [1], "'x' must be a list of strings."),
    ],
)
def test_a_bad_value_is_refused_with_its_field(reader: str, value: object, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        READERS[reader](Fields({"x": value}))
    assert caught.value.param == "x"
    assert caught.value.status == 400
    assert caught.value.message == message


def test_the_first_name_that_was_sent_wins() -> None:
    fields = Fields({"duration": "5", "seconds": ""})
    assert fields.number("seconds", "duration") == 5
    assert fields.name_of("seconds", "duration") == "duration"
    assert fields.name_of("fps", "frames") == "fps"


def test_an_error_names_the_alias_the_client_used() -> None:
    with pytest.raises(Invalid) as caught:
        Fields({"duration": "soon"}).number("seconds", "duration")
    assert caught.value.param == "duration"


def test_a_prefix_is_part_of_the_param() -> None:
    with pytest.raises(Invalid) as caught:
        Fields({"seed": "x"}, prefix="metadata.").integer("seed")
    assert caught.value.param == "metadata.seed"


def test_rest_is_what_nobody_read() -> None:
    fields = Fields({"prompt": "a", "duration": 5, "seconds": 6, "camera": {"zoom": 1}, "no": None})
    fields.prose("prompt")
    fields.number("seconds", "duration")
    assert fields.rest() == {"camera": {"zoom": 1}}


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"mask": FILE}, "mask"),
        ({"mask": {"a": [FILE]}}, "mask.a"),
        ({"mask": {"a": "\x00"}}, "mask.a"),
        ({"mask": {"a\x00": 1}}, "mask"),
    ],
)
def test_rest_refuses_what_would_be_lost_or_smuggled(values: dict[str, object], param: str) -> None:
    """A file nobody reads, a NUL: at any depth."""
    with pytest.raises(Invalid) as caught:
        Fields(values).rest()
    assert caught.value.param == param


@STEADY
@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), JSON, st.sampled_from(list(READERS)))
def test_reading_raises_nothing_but_proxy_errors(
    values: dict[str, Any], value: object, reader: str
) -> None:
    for read in (READERS[reader], Fields.rest):
        error = caught(read, Fields({**values, "x": value}))
        assert error is None or (error.status == 400 and error.param is not None)


def caught(read: Callable[[Fields], object], fields: Fields) -> ProxyError | None:
    try:
        read(fields)
    except ProxyError as error:
        return error
    return None


@STEADY
@given(st.text(alphabet=st.characters() | st.sampled_from("\r\n\x00")))
def test_text_that_is_read_has_no_nul_and_no_lone_cr(text: str) -> None:
    """And loses no character: a lone CR becomes LF."""
    try:
        check_text(text, "x")
    except Invalid:
        assert "\x00" in text
        return
    check_tree({"a": [1, None, {"b": text}]}, "x")
    kept = Fields({"a": [{"b": text}]}).rest()["a"]
    assert kept == [{"b": with_line_feeds(text)}]
    assert "\r" not in with_line_feeds(text).replace("\r\n", "")
    assert len(with_line_feeds(text)) == len(text)


@pytest.mark.parametrize(
    ("name", "fold"),
    [
        ("Seconds", "seconds"),
        ("n-Seconds", "nseconds"),
        ("nSeconds", "nseconds"),
        ("Model_Name", "modelname"),
        ("metadata[seconds]", "metadataseconds"),
        ("metadata.seconds", "metadataseconds"),
        ("Callback_Url ", "callbackurl"),
        ("帧数", "帧数"),
        ("", ""),
    ],
)
def test_a_name_is_folded_as_lenient_servers_fold_it(name: str, fold: str) -> None:
    assert folded(name) == fold == folded(name.upper()).casefold()
