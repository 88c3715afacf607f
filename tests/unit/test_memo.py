"""What is worked out once is kept for as long as its parts are the same objects."""

from __future__ import annotations

from proxy.caches import Memo


class Part:
    """Equal to every other one: only identity tells two apart."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]  # never a key


def test_the_same_parts_are_worked_on_once() -> None:
    memo: Memo[list[int]] = Memo(2)
    part, other = Part(), Part()
    first = memo.get("a", (part, other), list)
    assert memo.get("a", (part, other), list) is first


def test_another_part_is_worked_on_anew_even_when_it_is_equal() -> None:
    memo: Memo[list[int]] = Memo(2)
    part, other = Part(), Part()
    first = memo.get("a", (part, other), list)
    second = memo.get("a", (part, Part()), list)
    assert second is not first
    assert memo.get("a", (part, other), list) is not first


def test_keys_do_not_share() -> None:
    memo: Memo[str] = Memo(2)
    part = Part()
    assert memo.get(("openai", "t"), (part,), lambda: "one") == "one"
    assert memo.get(("generic", "t"), (part,), lambda: "two") == "two"


def test_the_oldest_key_leaves_when_there_is_no_room() -> None:
    memo: Memo[list[int]] = Memo(2)
    part = Part()
    a, b, c = (memo.get(key, (part,), list) for key in "abc")
    assert memo.get("b", (part,), list) is b
    assert memo.get("c", (part,), list) is c
    assert memo.get("a", (part,), list) is not a
