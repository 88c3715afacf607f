"""What the caches promise: a bound, and results only while their inputs are the same objects."""

from __future__ import annotations

from proxy.caches import BoundedDict, IdentityMemo


class Input:
    """Equal to every other one: only identity tells two apart."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # never a key


def test_a_new_key_pushes_the_oldest_out() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    for value, key in enumerate("abc"):
        kept[key] = value
    assert list(kept.items()) == [("b", 1), ("c", 2)]


def test_a_known_key_pushes_nothing_out() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    kept["a"], kept["b"] = 1, 2
    kept["a"] = 3
    assert list(kept.items()) == [("a", 3), ("b", 2)]


def test_a_key_moved_to_the_end_outlives_the_others() -> None:
    kept: BoundedDict[str, int] = BoundedDict(2)
    kept["a"], kept["b"] = 1, 2
    kept.move_to_end("a")
    kept["c"] = 3
    assert list(kept) == ["a", "c"]


def test_the_same_inputs_are_computed_once() -> None:
    memo: IdentityMemo[list[int]] = IdentityMemo(2)
    one, other = Input(), Input()
    first = memo.get("a", (one, other), list)
    assert memo.get("a", (one, other), list) is first


def test_another_input_is_computed_again_even_when_it_is_equal() -> None:
    memo: IdentityMemo[list[int]] = IdentityMemo(2)
    one, other = Input(), Input()
    first = memo.get("a", (one, other), list)
    second = memo.get("a", (one, Input()), list)
    assert second is not first
    assert memo.get("a", (one, other), list) is not first


def test_keys_do_not_share() -> None:
    memo: IdentityMemo[str] = IdentityMemo(2)
    one = Input()
    assert memo.get(("openai", "t"), (one,), lambda: "one") == "one"
    assert memo.get(("generic", "t"), (one,), lambda: "two") == "two"


def test_the_oldest_result_leaves_when_there_is_no_room() -> None:
    memo: IdentityMemo[list[int]] = IdentityMemo(2)
    one = Input()
    a, b, c = (memo.get(key, (one,), list) for key in "abc")
    assert memo.get("b", (one,), list) is b
    assert memo.get("c", (one,), list) is c
    assert memo.get("a", (one,), list) is not a
