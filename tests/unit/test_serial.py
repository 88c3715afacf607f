"""The bytes of a body are exact, however its uploads are cut into chunks."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Invalid
from proxy.http import body_writer
from proxy.http.outbound import Base64, Draft, DraftValue


@dataclass(frozen=True)
class Cut:
    """An upload that arrives in the given chunks: a blob of one chunk would hide a lost carry.

    A dataclass, as real blobs may be: orjson would write its members out if it were let.
    """

    parts: tuple[bytes, ...]
    content_type: str = "image/png"
    filename: str = "cat.png"

    @property
    def size(self) -> int:
        return sum(map(len, self.parts))

    @property
    def sha256(self) -> str:
        return hashlib.sha256(b"".join(self.parts)).hexdigest()

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        yield from self.parts


CAT = Cut(
    (
        b"c",
        b"at",
    )
)


def wire(fields: dict[str, DraftValue]) -> bytes:
    return b"".join(body_writer.encoded(body_writer.json_pieces(fields)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, b"{}"),
        ({"b": 1, "a": "é\n", "c": None}, '{"b":1,"a":"é\\n","c":null}'.encode()),
        ({"image": Base64(CAT)}, b'{"image":"Y2F0"}'),
        ({"image": Base64(CAT), "n": 1}, b'{"image":"Y2F0","n":1}'),
        (
            {"image": Base64(CAT, "data:image/png;base64,")},
            b'{"image":"data:image/png;base64,Y2F0"}',
        ),
        ({"a": [Base64(CAT), {"b": Base64(CAT)}]}, b'{"a":["Y2F0",{"b":"Y2F0"}]}'),
        ({"image": Base64(Cut(()))}, b'{"image":""}'),
        # Neither a NUL nor a prefix of the client's making leaves its string.
        ({"a": "\x00", "image": Base64(CAT)}, b'{"a":"\\u0000","image":"Y2F0"}'),
        ({"image": Base64(CAT, 'data:"x"\x00,')}, b'{"image":"data:\\"x\\"\\u0000,Y2F0"}'),
    ],
)
def test_the_bytes_of_a_json_body(fields: dict[str, DraftValue], expected: bytes) -> None:
    pieces = body_writer.json_pieces(fields)
    assert b"".join(body_writer.encoded(pieces)) == expected
    assert body_writer.length(pieces) == len(expected)
    assert body_writer.sha256(pieces) == hashlib.sha256(expected).hexdigest()


@given(st.lists(st.binary(max_size=10), max_size=12))
def test_base64_is_the_same_however_the_upload_is_cut(parts: list[bytes]) -> None:
    pieces = (Base64(Cut(tuple(parts)), "p,"),)
    expected = b"p," + base64.b64encode(b"".join(parts))
    assert b"".join(body_writer.encoded(pieces)) == expected
    assert body_writer.length(pieces) == len(expected)


@given(st.recursive(st.none() | st.text() | st.integers(-(2**53), 2**53), st.lists, max_leaves=9))
def test_a_body_reads_back_as_what_went_in(value: object) -> None:
    fields: dict[str, DraftValue] = {"v": value, "image": Base64(CAT)}  # type: ignore[dict-item] # drawn JSON
    assert orjson.loads(wire(fields)) == {"v": value, "image": "Y2F0"}


def test_a_whole_upload_is_a_piece_of_its_own() -> None:
    pieces = (b"<", CAT, b">")
    assert b"".join(body_writer.encoded(pieces)) == b"<cat>"
    assert body_writer.length(pieces) == 5


def test_encoding_never_holds_more_than_a_chunk() -> None:
    """A blob's chunk is passed on before the next one is asked for."""
    taken: list[bytes] = []

    class Watched(Cut):
        def chunks(self, block: int = 65536) -> Iterator[bytes]:
            for part in self.parts:
                taken.append(part)
                yield part

    stream = body_writer.encoded((Base64(Watched((b"abc", b"def"))),))
    assert next(stream) == b"YWJj"
    assert taken == [b"abc"]


def test_what_json_cannot_hold_is_the_clients_mistake() -> None:
    deep: DraftValue = []
    for _ in range(300):
        deep = [deep]
    with pytest.raises(Invalid, match="cannot be written as JSON"):
        body_writer.json_pieces({"camera_control": deep})


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        ("/v1/videos", (), "https://h/base/v1/videos"),
        (
            "/",
            (("Action", "Submit"), ("q", "a b&c=/é")),
            "https://h/base/?Action=Submit&q=a%20b%26c%3D%2F%C3%A9",
        ),
    ],
)
def test_addresses(path: str, query: tuple[tuple[str, str], ...], expected: str) -> None:
    assert body_writer.address("https://h/base", path, query) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("842250903629086785", "842250903629086785"),
        ("video_0a-b.c~d", "video_0a-b.c~d"),
        ("../x?y#z", "..%2Fx%3Fy%23z"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("é", "%C3%A9"),
    ],
)
def test_an_id_from_outside_stays_one_segment(text: str, expected: str) -> None:
    assert body_writer.segment(text) == expected


@pytest.mark.parametrize("value", [CAT, Draft("GET", "/")])
def test_a_thing_that_is_no_json_is_never_written_out(value: object) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        body_writer.json_pieces({"x": value})  # type: ignore[dict-item] # the point
