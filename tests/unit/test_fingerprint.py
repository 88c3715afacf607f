"""Two submits are the same request when the same was asked, however it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from multidict import CIMultiDict

from proxy.errors import Invalid
from proxy.gateway.idempotency import fingerprint, idempotency_of, retries_of
from proxy.model import Call, DialectName, Operation


@dataclass(frozen=True)
class Upload:
    """What a file of a form looks like to a fingerprint."""

    sha256: str
    filename: str = "cat.png"


def call(
    dialect: DialectName = "openai",
    operation: Operation = Operation.CREATE,
    query: Mapping[str, str] | None = None,
    **params: str,
) -> Call:
    return Call(dialect, operation, params, query or {})


ASKED: Mapping[str, Any] = {
    "model": "sora-2",
    "prompt": "a cat",
    "metadata": {"a": 1, "b": [True, None]},
    "input_reference": Upload("aa"),
}


@pytest.mark.parametrize(
    "again",
    [
        {name: ASKED[name] for name in reversed(list(ASKED))},
        {**ASKED, "metadata": {"b": (True, None), "a": 1}},
        {**ASKED, "input_reference": Upload("aa", "another-name.png")},
    ],
    ids=["order of fields", "order inside a field", "name of the file"],
)
def test_how_it_was_written_does_not_count(again: Mapping[str, object]) -> None:
    assert fingerprint(call(), again) == fingerprint(call(), ASKED)


@pytest.mark.parametrize(
    "other",
    [
        {**ASKED, "prompt": "a dog"},
        {**ASKED, "seconds": "4"},
        {name: value for name, value in ASKED.items() if name != "model"},
        {**ASKED, "metadata": {"a": 1, "b": [None, True]}},
        {**ASKED, "metadata": {"a": True, "b": [True, None]}},
        {**ASKED, "metadata": {"a": "1", "b": [True, None]}},
        {**ASKED, "input_reference": Upload("bb")},
        {**ASKED, "input_reference": "aa"},
        {**ASKED, "prompt": ""},
        {**ASKED, "prompt": None},
    ],
    ids=[
        *("a value", "one field more", "one field less", "order of a list"),
        *("true is not 1", "text is not a number", "another file", "text is not a file"),
        *("empty", "null"),
    ],
)
def test_what_was_asked_counts(other: Mapping[str, object]) -> None:
    assert fingerprint(call(), other) != fingerprint(call(), ASKED)


def test_the_operation_and_what_its_path_names_count() -> None:
    calls = [
        call(),
        call("generic"),
        call(operation=Operation.EDIT),
        call(operation=Operation.REMIX, task_id="video_1"),
        call(operation=Operation.REMIX, task_id="video_2"),
        call("kling", kind="text2video"),
        call("kling", kind="image2video"),
    ]
    prints = {fingerprint(one, ASKED) for one in calls}
    assert len(prints) == len(calls)
    assert fingerprint(call(query={"x": "1"}), ASKED) in prints, "the query is not part of it"


def test_it_is_the_same_after_a_restart() -> None:
    """It is kept in Redis: a golden value, so that a new version does not forget the old ones."""
    packed = b'["openai","create",[],{"model":"sora-2","prompt":"a cat"}]'
    told = {"prompt": "a cat", "model": "sora-2"}
    assert fingerprint(call(), told) == hashlib.sha256(packed).hexdigest()


def headers(*keys: str) -> CIMultiDict[str]:
    return CIMultiDict(("idempotency-key", key) for key in keys)


@pytest.mark.parametrize("key", ["k", "x" * 255, "a key with spaces", "8e03978e-40d5-43e8-bc93"])
def test_a_key_is_kept_as_its_hash(key: str) -> None:
    assert idempotency_of(headers(key)) == hashlib.sha256(key.encode()).hexdigest()


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "a\x00b", "a\x7fb"])
def test_a_key_that_cannot_be_one_is_named(key: str) -> None:
    with pytest.raises(Invalid, match="1 to 255 printable") as caught:
        idempotency_of(headers(key))
    assert caught.value.param == "Idempotency-Key"


def test_no_key_is_no_key() -> None:
    assert idempotency_of(headers()) is None


def test_two_keys_are_none_to_choose_from() -> None:
    with pytest.raises(Invalid, match="given twice"):
        idempotency_of(headers("a", "a"))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *(("0", 0), ("1", 1), ("12", 12), ("999", 999), ("", 0), ("-1", 0), ("1.5", 0)),
        *(("1000", 0), ("٣", 0), ("²", 0), ("two", 0), (" 1", 0)),
    ],
)
def test_only_a_small_whole_number_is_a_count_of_retries(text: str, count: int) -> None:
    assert retries_of({"x-stainless-retry-count": text}) == count


def test_who_says_nothing_asks_for_the_first_time() -> None:
    assert retries_of({}) == 0
