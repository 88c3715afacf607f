from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.config.source import (
    ConfigErrors,
    concerns,
    did_you_mean,
    dotted,
    parse,
    text_of,
)
from proxy.config.toml_lines import Loc, key_lines, only_tables

SAMPLE = '''\
# a comment with key = "value" and [brackets]
title = "a # is no comment here"   # but here it is
"quoted key" = 1
'literal.key' = 2
a.b . "c d" = 3

[server]
listen = """
first
""" # three lines
secrets = [
  "one", # ] not the end
  'two',
  """three
  lines""",
]
when = 1979-05-27 07:32:00
path = 'C:\\'
quotes = """x"""""

[[upstreams]]
name = "k"
credentials = [ { name = "a", secret.key = "b" },
  { name = "c" } ]
[upstreams.options]
deep = { x = { y = [1, [2, 3]] } }
[[upstreams.more]]
n = 1
[[upstreams.more]]
n = 2

[[ upstreams ]]
name = "j"
[[upstreams.more]]
n = 3
'''

LINES: dict[Loc, int] = {
    ("title",): 2,
    ("quoted key",): 3,
    ("literal.key",): 4,
    ("a",): 5,
    ("a", "b"): 5,
    ("a", "b", "c d"): 5,
    ("server",): 7,
    ("server", "listen"): 8,
    ("server", "secrets"): 11,
    ("server", "secrets", 0): 12,
    ("server", "secrets", 1): 13,
    ("server", "secrets", 2): 14,
    ("server", "when"): 17,
    ("server", "path"): 18,
    ("server", "quotes"): 19,
    ("upstreams",): 21,
    ("upstreams", 0): 21,
    ("upstreams", 0, "name"): 22,
    ("upstreams", 0, "credentials"): 23,
    ("upstreams", 0, "credentials", 0): 23,
    ("upstreams", 0, "credentials", 0, "name"): 23,
    ("upstreams", 0, "credentials", 0, "secret"): 23,
    ("upstreams", 0, "credentials", 0, "secret", "key"): 23,
    ("upstreams", 0, "credentials", 1): 24,
    ("upstreams", 0, "credentials", 1, "name"): 24,
    ("upstreams", 0, "options"): 25,
    ("upstreams", 0, "options", "deep"): 26,
    ("upstreams", 0, "options", "deep", "x"): 26,
    ("upstreams", 0, "options", "deep", "x", "y"): 26,
    ("upstreams", 0, "options", "deep", "x", "y", 0): 26,
    ("upstreams", 0, "options", "deep", "x", "y", 1): 26,
    ("upstreams", 0, "options", "deep", "x", "y", 1, 0): 26,
    ("upstreams", 0, "options", "deep", "x", "y", 1, 1): 26,
    ("upstreams", 0, "more"): 27,
    ("upstreams", 0, "more", 0): 27,
    ("upstreams", 0, "more", 0, "n"): 28,
    ("upstreams", 0, "more", 1): 29,
    ("upstreams", 0, "more", 1, "n"): 30,
    ("upstreams", 1): 32,
    ("upstreams", 1, "name"): 33,
    ("upstreams", 1, "more"): 34,
    ("upstreams", 1, "more", 0): 34,
    ("upstreams", 1, "more", 0, "n"): 35,
}


def places(value: object, loc: Loc = ()) -> Iterator[Loc]:
    if loc:
        yield loc
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*loc, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*loc, index))


def test_each_key_of_every_kind_of_toml_has_its_line() -> None:
    assert set(LINES) == set(places(tomllib.loads(SAMPLE)))  # the table above is complete
    assert key_lines(SAMPLE) == LINES


_KEYS = st.text(st.characters(codec="utf-8"), max_size=4)
_VALUES = st.recursive(
    st.booleans() | st.integers(-9, 9) | st.text("a\"'#[]{},=.\\\n", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
    max_leaves=8,
)


def as_toml(value: object) -> str:
    if isinstance(value, dict):
        pairs = (f"{quoted(key)} = {as_toml(inner)}" for key, inner in value.items())
        return "{ " + ", ".join(pairs) + " }"
    if isinstance(value, list):
        return "[\n" + "".join(f"  {as_toml(inner)}, # note ]\n" for inner in value) + "]"
    return quoted(value) if isinstance(value, str) else json.dumps(value)


def quoted(text: str) -> str:
    return (
        json.dumps(text, ensure_ascii=True).replace("\x7f", "\\u007f")
        if plain(text)
        else ('"' + "".join(f"\\U{ord(letter):08x}" for letter in text) + '"')
    )


def plain(text: str) -> bool:
    return all(ord(letter) < 128 for letter in text)  # JSON writes others as surrogate pairs


@settings(derandomize=True, deadline=None)
@given(st.dictionaries(_KEYS, _VALUES, max_size=4))
def test_the_places_found_are_those_tomllib_found(document: dict[str, object]) -> None:
    text = "".join(f"{quoted(key)} = {as_toml(value)}\n" for key, value in document.items())
    assert tomllib.loads(text) == document
    assert set(key_lines(text)) == set(places(document))


def test_windows_line_ends_are_counted_once() -> None:
    source = parse("a = 1\r\n\r\nb = 2\r\n", "f", {})
    assert source.lines == {("a",): 1, ("b",): 3}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "plain"),
        ("${A}", "one"),
        ("x${A}y${B}z", "xoney${A}z"),  # what a variable holds is not expanded
        ("$${A}", "${A}"),
        ("pa$$word", "pa$$word"),
        ("$A", "$A"),
        ("cost: 5$", "cost: 5$"),
    ],
)
def test_variables_are_expanded_once(value: str, expected: str) -> None:
    source = parse(f"k = '{value}'", "f", {"A": "one", "B": "${A}"})
    assert (dict(source.data), dict(source.problems)) == ({"k": expected}, {})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("${NOPE}", "the environment variable NOPE is not set"),
        ("${EMPTY}", "the environment variable EMPTY is empty"),
        ("${A", "'${' must begin a ${NAME}; a literal '${' is written '$${'"),
        ("${}", "'${' must begin a ${NAME}; a literal '${' is written '$${'"),
        ("${A-b}", "'${' must begin a ${NAME}; a literal '${' is written '$${'"),
    ],
)
def test_a_variable_that_cannot_be_expanded_is_named(value: str, message: str) -> None:
    source = parse(f"t = [{{ k = '{value}' }}]", "f", {"A": "one", "EMPTY": ""})
    assert source.problems == {("t", 0, "k"): message}


def test_an_origin_is_the_variable_the_line_or_the_default() -> None:
    source = parse("a = '${A}-${B}'\nb = ['${A}', 'x']\n\nc = 1", "conf.toml", {"A": "1", "B": "2"})
    origins = [source.origin((key,)) for key in "abcd"]
    assert origins == ["env A, B", "env A", "conf.toml:4", "default"]


def test_a_place_outside_the_file_has_the_line_of_what_holds_it() -> None:
    source = parse("\n[a]\nb = 1", "f", {})
    assert [source.line(loc) for loc in [("a", "x", 0), ("a",), ("z",)]] == [2, 2, 1]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"a = 1\nb = \n", "f:2: syntax: not TOML: Invalid value"),
        (b"a = 1\nb = [1,\n", "f:2: syntax: not TOML: Invalid value"),
        (b"a = 1\n\n# \xff\n", "f:3: file: is not UTF-8"),
    ],
)
def test_a_file_that_is_no_toml_is_told_with_its_line(
    text: bytes, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("f").write_bytes(text)
    with pytest.raises(ConfigErrors) as caught:
        parse(text_of(Path("f")), "f", {})
    assert str(caught.value) == problem


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(ConfigErrors) as caught:
        text_of(path)
    assert str(caught.value) == f"{path}:1: file: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("loc", "text"),
    [
        (("server", "listen"), "server.listen"),
        (("upstreams", 0, "credentials", 12, "name"), "upstreams[0].credentials[12].name"),
        (("routes", 1, "defaults", "a.b"), 'routes[1].defaults."a.b"'),
        (("x", 'say "hi"\\'), 'x."say \\"hi\\"\\\\"'),
    ],
)
def test_a_place_is_written_as_toml_would(loc: Loc, text: str) -> None:
    assert dotted(loc) == text


@pytest.mark.parametrize(
    ("name", "accepted", "text"),
    [
        ("klng", ["kling", "jimeng"], "; did you mean 'kling'? accepted: kling, jimeng"),
        ("zzz", ["kling", "jimeng"], "; accepted: kling, jimeng"),
        ("zzz", [], ""),
    ],
)
def test_a_near_name_is_offered(name: str, accepted: list[str], text: str) -> None:
    assert did_you_mean(name, accepted) == text


@pytest.mark.parametrize(
    ("loc", "is_concern"),
    [
        (("redis", "url"), True),
        (("redis",), True),
        (("reddis",), True),
        (("server", "state_dir"), True),
        (("server", "statedir"), True),
        (("server",), True),
        (("server", "listen"), False),
        (("routes", 0, "upstream"), False),
        (("upstreams", 0, "credentials", 0, "secret_key"), False),
        (("webhook",), False),
        (("syntax",), False),
    ],
)
def test_a_problem_concerns_a_place_it_is_in_around_or_may_be_meant_for(
    loc: Loc, is_concern: bool
) -> None:
    assert concerns(loc, [("redis",), ("server", "state_dir")]) is is_concern


def test_tables_are_kept_line_by_line_and_the_rest_is_left_empty() -> None:
    text = (
        'redis.url = "a"\nother = 1\n[server]\nlisten = "x"\n'
        "[[routes]]\nno toml\n[redis.more] # here\na = 1\n[limits]\nb ="
    )
    assert only_tables(text, {"redis", "server"}) == (
        'redis.url = "a"\n\n[server]\nlisten = "x"\n\n\n[redis.more] # here\na = 1\n\n'
    )
