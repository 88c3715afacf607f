from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.providers import globs


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("sora-2", "sora-2", True),
        ("sora-2", "sora-2-pro", False),
        ("sora-2", "Sora-2", False),
        ("sora-*", "sora-2", True),
        ("sora-*", "sora-", True),
        ("sora-*", "my-sora-2", False),
        ("*", "", True),
        ("sora-?", "sora-2", True),
        ("sora-?", "sora-", False),
        ("sora-?", "sora-12", False),
        ("a.b", "axb", False),
        ("a[bc]", "ab", False),
        ("a[bc]*", "a[bc]d", True),
        ("*", "with\nline end", True),
        ("sora-2*", "sora-2\n", True),
        ("sora-2", "sora-2\n", False),
    ],
)
def test_a_glob_takes_the_whole_name_and_case_counts(
    pattern: str, name: str, expected: bool
) -> None:
    assert globs.matches(pattern, name) is expected


def test_a_run_of_stars_is_matched_as_one() -> None:
    """A hostile pattern costs no more than a plain one: it would not end otherwise."""
    assert not globs.matches("*" * 200 + "b", "a" * 400)


@pytest.mark.parametrize(
    ("wide", "narrow", "expected"),
    [
        ("*", "sora-2", True),
        ("*", "*", True),
        ("*", "sora-*", True),
        ("sora-*", "sora-2-*", True),
        ("sora-*", "sora-2", True),
        ("sora-2", "sora-2", True),
        ("sora-*", "*", False),
        ("sora-2", "sora-*", False),
        ("sora-?", "sora-*", False),
        ("sora-*", "sora-?", True),
        ("sora-??", "sora-?", False),
        ("s*a-2", "sora-2", True),
        ("*-pro", "kling-*-pro", True),
        ("*-pro", "kling-*", False),
        ("a*b*c", "aXbYc", True),
        ("a*b*c", "acb", False),
    ],
)
def test_covers_tells_when_one_glob_takes_every_name_of_another(
    wide: str, narrow: str, expected: bool
) -> None:
    assert globs.covers(wide, narrow) is expected


_WORDS = ["".join(letters) for n in range(5) for letters in itertools.product("ab", repeat=n)]


@settings(derandomize=True, deadline=None)
@given(st.text("ab*?", max_size=5), st.text("ab*?", max_size=5))
def test_covers_is_never_wrongly_true(wide: str, narrow: str) -> None:
    if globs.covers(wide, narrow):
        lost = [w for w in _WORDS if globs.matches(narrow, w) and not globs.matches(wide, w)]
        assert lost == []
