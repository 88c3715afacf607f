"""A form towards a provider is counted before it is made, and made once."""

from __future__ import annotations

import tracemalloc

import pytest

from proxy.errors import Invalid
from proxy.http.form_writer import (
    MAX_HEAD_BYTES,
    MAX_PARTS,
    boundary_for,
    check_form,
    form_of,
    multipart_pieces,
)
from proxy.http.outbound import DraftValue


def of_zeros(name: str, count: int) -> dict[str, DraftValue]:
    zeros: list[DraftValue] = [0] * count
    return {"prompt": "x", name: zeros}


@pytest.mark.parametrize(
    "fields",
    [
        of_zeros("k" * 40_000, 60_000),  # 160 KB that were 2.4 GB
        of_zeros("k" * 4000, 1000),
        of_zeros("k", MAX_PARTS),
        {"k" * 5000: {"a" * 5000: {"b" * 5000: [0] * 100}}},
        {"k": {"a": of_zeros("b", MAX_PARTS)}},
        {"k": {f"{number}": "x" for number in range(MAX_PARTS + 1)}},
    ],
)
def test_a_form_much_larger_than_its_values_is_refused_and_never_made(
    fields: dict[str, DraftValue],
) -> None:
    tracemalloc.start()
    try:
        for make in (check_form, form_of):
            with pytest.raises(Invalid, match="too many values") as caught:
                make(fields)
            assert caught.value.param is not None
            assert len(caught.value.message) < 300
        assert tracemalloc.get_traced_memory()[1] < 2 * MAX_HEAD_BYTES
    finally:
        tracemalloc.stop()


def test_a_form_at_its_limits_is_made() -> None:
    fields = of_zeros("k", MAX_PARTS - 1)
    boundary, pieces = form_of(fields)
    assert boundary == boundary_for(fields)
    assert pieces == multipart_pieces(fields, boundary)


def test_a_text_of_megabytes_is_no_reason_to_refuse_a_form() -> None:
    check_form({"prompt": "x", "image": "A" * (28 << 20)})
