"""Bodies of clients: forms and JSON in, nested values out, and only `ProxyError`s besides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.errors import Invalid, ProxyError, TooLarge, UnsupportedMediaType
from proxy.http.body_writer import encoded
from proxy.http.documents import json_fields
from proxy.http.form_writer import boundary_for, multipart_pieces
from proxy.http.multipart import FormLimits, FormParser, boundary_of, path_of
from proxy.http.outbound import Base64, DraftValue
from proxy.model import Blob

GOLDEN_BOUNDARY = "31b7315e917e80968b499f899a0bceb8"
GOLDEN_TYPE = f"multipart/form-data; boundary={GOLDEN_BOUNDARY}"
# As openai-python 3.54 sends videos.create(prompt=…, model=…, seconds="8", size="1280x720").
GOLDEN = (
    b"--31b7315e917e80968b499f899a0bceb8\r\n"
    b'Content-Disposition: form-data; name="prompt"\r\n\r\n'
    b"A calico cat playing a piano on stage\r\n"
    b"--31b7315e917e80968b499f899a0bceb8\r\n"
    b'Content-Disposition: form-data; name="model"\r\n\r\n'
    b"sora-2\r\n"
    b"--31b7315e917e80968b499f899a0bceb8\r\n"
    b'Content-Disposition: form-data; name="seconds"\r\n\r\n'
    b"8\r\n"
    b"--31b7315e917e80968b499f899a0bceb8\r\n"
    b'Content-Disposition: form-data; name="size"\r\n\r\n'
    b"1280x720\r\n"
    b"--31b7315e917e80968b499f899a0bceb8--\r\n"
)
GOLDEN_FIELDS: dict[str, DraftValue] = {
    "prompt": "A calico cat playing a piano on stage",
    "model": "sora-2",
    "seconds": "8",
    "size": "1280x720",
}


@dataclass
class Bytes:
    """A finished upload that compares by what a client can tell."""

    data: bytes
    content_type: str
    filename: str

    @property
    def size(self) -> int:
        return len(self.data)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def chunks(self, block: int = 65536) -> Iterator[bytes]:
        for start in range(0, len(self.data), block):
            yield self.data[start : start + block]


@dataclass
class Writer:
    filename: str
    content_type: str
    data: bytearray = field(default_factory=bytearray)
    state: str = "open"

    def write(self, data: bytes) -> None:
        assert self.state == "open"
        self.data += data

    def finish(self) -> Blob:
        assert self.state == "open"
        self.state = "finished"
        return Bytes(bytes(self.data), self.content_type, self.filename)

    def discard(self) -> None:
        if self.state == "open":
            self.state = "discarded"


class Uploads:
    """Opens writers and remembers them, so that a forgotten one shows."""

    def __init__(self) -> None:
        self.writers: list[Writer] = []

    def __call__(self, filename: str, content_type: str) -> Writer:
        self.writers.append(Writer(filename, content_type))
        return self.writers[-1]

    @property
    def states(self) -> list[str]:
        return [writer.state for writer in self.writers]


def parse(
    body: bytes,
    content_type: str = "multipart/form-data; boundary=B",
    *,
    limits: FormLimits | None = None,
    uploads: Uploads | None = None,
    step: int | None = None,
) -> dict[str, object]:
    parser = FormParser(content_type, limits or FormLimits(), uploads or Uploads())
    for start in range(0, len(body), step or max(1, len(body))):
        parser.feed(body[start : start + (step or len(body))])
    return parser.finish()


def form(*parts: tuple[str, bytes]) -> bytes:
    """Parts as (header lines, body), boundary B."""
    text = b"".join(
        b"--B\r\n" + head.encode() + b"\r\n\r\n" + body + b"\r\n" for head, body in parts
    )
    return text + b"--B--\r\n"


def named(name: str, value: str = "x") -> tuple[str, bytes]:
    return f'Content-Disposition: form-data; name="{name}"', value.encode()


def labelled(charset: str, data: bytes) -> tuple[str, bytes]:
    """A text part that names its charset, as Java's clients do."""
    return f"{named('a')[0]}\r\nContent-Type: text/plain; charset={charset}", data


def attached(name: str, filename: str, data: bytes, more: str = "") -> tuple[str, bytes]:
    head = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"{more}'
    return head, data


# ---------------------------------------------------------------- the golden form


def test_golden_bytes_are_the_captured_ones() -> None:
    assert len(GOLDEN) == 436
    assert hashlib.sha256(GOLDEN).hexdigest() == (
        "0e95ee5aa97eb4c0f7dfdd41067ce0bbf40440e58c9cd815d91341532b366f95"
    )


def test_golden_form_is_written_byte_for_byte() -> None:
    assert b"".join(encoded(multipart_pieces(GOLDEN_FIELDS, GOLDEN_BOUNDARY))) == GOLDEN


def test_golden_form_is_read_wherever_it_is_split() -> None:
    for at in range(len(GOLDEN) + 1):
        parser = FormParser(GOLDEN_TYPE, FormLimits(), Uploads())
        parser.feed(GOLDEN[:at])
        parser.feed(GOLDEN[at:])
        assert parser.finish() == GOLDEN_FIELDS, at


@pytest.mark.parametrize("step", [1, 2, 7])
def test_golden_form_is_read_in_drops(step: int) -> None:
    assert parse(GOLDEN, GOLDEN_TYPE, step=step) == GOLDEN_FIELDS


def test_a_form_cut_anywhere_is_invalid() -> None:
    """Never half a request: all but the line end after the last boundary has to be there."""
    for at in range(len(GOLDEN) - 2):
        with pytest.raises(Invalid):
            parse(GOLDEN[:at], GOLDEN_TYPE)


# ---------------------------------------------------------------- names and values


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], {}),
        ([named("a", "")], {"a": ""}),
        ([named("a", "línea 1\r\nline 2")], {"a": "línea 1\r\nline 2"}),
        ([named("a[b]", "1"), named("a[c]", "2")], {"a": {"b": "1", "c": "2"}}),
        ([named("a[b][c]")], {"a": {"b": {"c": "x"}}}),
        ([named("a[]", "1")], {"a": ["1"]}),
        ([named("a[]", "1"), named("z"), named("a[]", "2")], {"a": ["1", "2"], "z": "x"}),
        (
            [named("metadata[b][]", "1"), named("metadata[b][]", "2")],
            {"metadata": {"b": ["1", "2"]}},
        ),
        (
            [named("characters[][id]", "a"), named("characters[][id]", "b")],
            {"characters": [{"id": "a"}, {"id": "b"}]},
        ),
        ([named("c[][id]", "a"), named("c[][n]", "b")], {"c": [{"id": "a", "n": "b"}]}),
        (
            [named("input_reference[image_url]", "https://x/y.png")],
            {"input_reference": {"image_url": "https://x/y.png"}},
        ),
        ([("content-disposition: form-data; name=a", b"x")], {"a": "x"}),
        ([('Content-Disposition: form-data; name="a%22b"', b"x")], {'a"b': "x"}),
        (
            [("Content-Type: text/plain; charset=UTF-8\r\n" + named("a")[0], b"\xc3\xa9")],
            {"a": "é"},
        ),
    ],
)
def test_names_fold_into_values(parts: list[tuple[str, bytes]], expected: object) -> None:
    assert parse(form(*parts)) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([named("a", "1"), named("a", "2")], ["1", "2"]),
        ([named("a", "1"), named("a", "2"), named("a", "3")], ["1", "2", "3"]),
        ([named("a[]", "1"), named("a", "2")], ["1", "2"]),
        ([named("a", "1"), named("a[]", "2")], ["1", "2"]),
        ([named("a", "1"), named("a[]", "2"), named("a", "3")], ["1", "2", "3"]),
        (
            [attached("a", "1.png", b"1"), attached("a", "2.png", b"2")],
            [Bytes(b"1", "", "1.png"), Bytes(b"2", "", "2.png")],
        ),
        ([attached("a", "1.png", b"1"), named("a", "x")], [Bytes(b"1", "", "1.png"), "x"]),
    ],
)
def test_a_name_that_comes_again_is_a_list(
    parts: list[tuple[str, bytes]], expected: list[object]
) -> None:
    assert parse(form(*parts)) == {"a": expected}
    inner = [(head.replace('name="a', 'name="m[a]', 1), data) for head, data in parts]
    assert parse(form(*inner)) == {"m": {"a": expected}}


@pytest.mark.parametrize(
    ("charset", "data", "text"),
    [
        ("ISO-8859-1", b"caf\xe9", "café"),
        ("latin-1", b"caf\xe9", "café"),
        ("ISO-8859-1", "café".encode(), "café"),  # Java's label on UTF-8 bytes
        ("us-ascii", "猫".encode(), "猫"),
        ("windows-1252", b"\x80 5", "€ 5"),
        ("utf-16", "猫".encode("utf-16"), "猫"),
        ("UTF-16LE", "a cat".encode("utf-16-le"), "a cat"),
        ("utf-16", b"cat", "cat"),  # the label is wrong, and the bytes are UTF-8
        ("utf-32", "猫".encode("utf-32"), "猫"),
        ("GB2312", "猫".encode("gbk"), "猫"),
        ("gb18030", "猫".encode("gbk"), "猫"),
        ("Shift_JIS", "猫".encode("shift_jis"), "猫"),
        ("nonsense", "猫".encode(), "猫"),
        ("utf-8", b"\xef\xbb\xbfa cat", "a cat"),
        ("utf-8", b"one\rtwo\r\nthree", "one\rtwo\r\nthree"),
        ('"utf-8"', b"x", "x"),
    ],
)
def test_text_is_read_in_the_charset_its_bytes_are_in(charset: str, data: bytes, text: str) -> None:
    assert parse(form(labelled(charset, data))) == {"a": text}


def test_a_byte_order_mark_is_no_part_of_a_text() -> None:
    assert parse(form((named("a")[0], b"\xef\xbb\xbfa cat"))) == {"a": "a cat"}


FAULTS = {
    "not UTF-8": b'--B\r\nContent-Disposition: form-data; name="a\xff"\r\n\r\nx\r\n--B--\r\n',
    "CRLF": b'--B\nContent-Disposition: form-data; name="a"\n\nx\n--B--\n',
    "no colon": b"--B\r\nno colon\r\n\r\nx\r\n--B--\r\n",
    "no Content-Disposition": b"--B\r\nA: b\r\n\r\nx\r\n--B--\r\n",
    "not form-data": b'--B\r\nContent-Disposition: file; name="a"\r\n\r\nx\r\n--B--\r\n',
    "has no name": b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n",
    "folded": b"--B\r\n\tx: y\r\n\r\nx\r\n--B--\r\n",
    "behind a boundary": b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--Bo\r\n',
    "shorter": form((named("a")[0] + "\r\nContent-Length: 9", b"x")),
    "longer": form((named("a")[0] + "\r\nContent-Length: 1", b"xyz")),
}


@pytest.mark.parametrize("words", FAULTS)
def test_a_fault_of_a_form_is_told_in_our_own_words(words: str) -> None:
    with pytest.raises(Invalid, match=words) as caught:
        parse(FAULTS[words])
    for theirs in ("Error", "segment", "codec", "(", "chunk"):
        assert theirs not in caught.value.message


def test_part_order_does_not_matter() -> None:
    parts = [named("a[b]", "1"), named("c", "2"), named("a[d]", "3"), named("e[f][g]", "4")]
    assert parse(form(*parts)) == parse(form(*reversed(parts)))


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([named("a"), named("a[b]")], "a[b]"),
        ([named("a[b]"), named("a")], "a"),
        ([named("a[]"), named("a[b]")], "a[b]"),
        ([named("a[][b]"), named("a[]")], "a[]"),
        ([named("a[][b]"), named("a")], "a"),
        ([named("a"), named("a[][b]")], "a[][b]"),
        ([named("a[]"), named("a[][b]")], "a[][b]"),
        ([named("a[b]"), named("a[]")], "a[]"),
        ([named("a[b]"), named("a[b][c]")], "a[b][c]"),
        ([attached("a", "f.png", b"1"), named("a[b]")], "a[b]"),
        ([named("a[][]")], "a[][]"),
        ([named("a[][b][c]")], "a[][b][c]"),
        ([named("a[][b][]")], "a[][b][]"),
        ([named("a[b")], "a[b"),
        ([named("a]")], "a]"),
        ([named("[b]")], "[b]"),
        ([named("a[b]c")], "a[b]c"),
        ([named("a[[b]]")], "a[[b]]"),
        ([named("a[b][c][d][e][f]")], "a[b][c][d][e][f]"),
        ([('Content-Disposition: form-data; name="a"', b"\xff\xfe")], "a"),
        ([('Content-Disposition: form-data; name="a"', b"\xed\xa0\x80")], "a"),
        ([labelled("nonsense", b"\xff")], "a"),
        ([labelled("punycode", b"\xff")], "a"),
        ([labelled("shift_jis", b"\xff")], "a"),
        ([labelled("utf-16", b"\xff")], "a"),
        ([labelled("iso-8859-1", b"\xff" * 65537 + b"\x01")], "a"),
        ([(named("a")[0] + "\r\nContent-Transfer-Encoding: base64", b"eA==")], "a"),
    ],
)
def test_a_form_that_means_two_things_is_refused_by_name(
    parts: list[tuple[str, bytes]], param: str
) -> None:
    with pytest.raises(Invalid) as caught:
        parse(form(*parts))
    assert caught.value.param == param
    assert param in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"--C\r\n" + form(named("a"))[5:],
        b"preamble\r\n" + form(named("a")),
        b"--B\r\n\r\nx\r\n--B--\r\n",
        b"--B\r\nContent-Disposition: form-data\r\n\r\nx\r\n--B--\r\n",
        b'--B\r\nContent-Disposition: attachment; name="a"\r\n\r\nx\r\n--B--\r\n',
        b'--B\nContent-Disposition: form-data; name="a"\n\nx\n--B--\n',
        b'--B\r\nContent-Disposition: form-data; name=""\r\n\r\nx\r\n--B--\r\n',
        form((named("a")[0] + "\r\n" + named("b")[0], b"x")),
        form((named("a")[0] + "\r\nContent-Type: a/b\r\nContent-Type: c/d", b"x")),
        b"--B\r\nno colon\r\n\r\nx\r\n--B--\r\n",
        b'--B\r\nContent-Disposition: form-data; name="a\xff"\r\n\r\nx\r\n--B--\r\n',
        form((named("a")[0] + "\r\nContent-Length: 9", b"x")),
        b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n--Bogus\r\n',
    ],
)
@pytest.mark.parametrize("step", [None, 1])
def test_a_malformed_form_is_the_clients_mistake(body: bytes, step: int | None) -> None:
    with pytest.raises(Invalid) as caught:
        parse(body, step=step)
    assert caught.value.message


def test_control_characters_have_no_place_in_a_name() -> None:
    with pytest.raises(Invalid, match="control character"):
        path_of("a\r\nb", 5)


# ---------------------------------------------------------------- files


def test_a_file_part_becomes_a_blob() -> None:
    more = "\r\nContent-Type: image/png"
    for step in (None, 1):
        uploads = Uploads()
        body = form(named("prompt"), attached("input_reference", "cat.png", b"\r\n--\x00png", more))
        fields = parse(body, uploads=uploads, step=step)
        assert fields["input_reference"] == Bytes(b"\r\n--\x00png", "image/png", "cat.png")
        assert uploads.states == ["finished"]


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            attached("a", "upload", b"1", "\r\nContent-Type: application/octet-stream"),
            Bytes(b"1", "application/octet-stream", "upload"),
        ),
        (attached("a", "x.png", b"1"), Bytes(b"1", "", "x.png")),
        (attached("a", "x.png", b"1", "\r\nContent-Type: nonsense"), Bytes(b"1", "", "x.png")),
        (
            attached("a", "x.png", b"1", "\r\nContent-Type: IMAGE/PNG; q=1"),
            Bytes(b"1", "image/png", "x.png"),
        ),
        (attached("a", "x.png", b""), Bytes(b"", "", "x.png")),
        (attached("a", "", b"1"), Bytes(b"1", "", "")),
        (attached("a", "../../etc/passwd", b"1"), Bytes(b"1", "", "passwd")),
        (attached("a", "C:\\temp\\x.png", b"1"), Bytes(b"1", "", "x.png")),
        (attached("a", "a%0D%0Ab.png", b"1"), Bytes(b"1", "", "ab.png")),
        (attached("a", "y" * 300 + ".png", b"1"), Bytes(b"1", "", "y" * 124 + ".png")),
        (
            ("Content-Disposition: form-data; name=\"a\"; filename*=UTF-8''k%C3%A4se.png", b"1"),
            Bytes(b"1", "", "käse.png"),
        ),
        (
            (
                "Content-Disposition: form-data; name=\"a\"; filename*=ISO-8859-1'de'k%E4se.png",
                b"1",
            ),
            Bytes(b"1", "", "käse.png"),
        ),
    ],
)
def test_what_a_file_is_called(part: tuple[str, bytes], expected: Bytes) -> None:
    assert parse(form(part)) == {"a": expected}


def test_several_files_make_a_list() -> None:
    fields = parse(form(attached("images[]", "1.png", b"1"), attached("images[]", "2.png", b"2")))
    assert fields == {"images": [Bytes(b"1", "", "1.png"), Bytes(b"2", "", "2.png")]}


def test_a_file_field_left_empty_counts_as_not_sent() -> None:
    """What a browser sends for a file input nobody used."""
    uploads = Uploads()
    octets = "\r\nContent-Type: application/octet-stream"
    assert parse(form(named("p"), attached("a", "", b"", octets)), uploads=uploads) == {"p": "x"}
    assert uploads.writers == []


@pytest.mark.parametrize("filename", ["nonsense''%FF", "UTF-8''%FF"])
def test_a_file_name_that_is_not_utf8_is_refused(filename: str) -> None:
    head = f'Content-Disposition: form-data; name="a"; filename*={filename}'
    with pytest.raises(Invalid) as caught:
        parse(form((head, b"1")))
    assert caught.value.param == "a"


def test_the_file_in_progress_is_discarded_whatever_ends_the_form() -> None:
    body = form(attached("a", "1.png", b"1"), attached("b", "2.png", b"22"), named("c"))
    cut = body[: body.index(b"22") + 1]

    uploads = Uploads()
    with pytest.raises(Invalid, match="inside 'b'"):
        parse(cut, uploads=uploads)
    assert uploads.states == ["finished", "discarded"]

    uploads = Uploads()
    with pytest.raises(Invalid):
        parse(cut + b"\r\n--Bogus\r\n", uploads=uploads)
    assert uploads.states == ["finished", "discarded"]

    uploads = Uploads()
    parser = FormParser("multipart/form-data; boundary=B", FormLimits(), uploads)
    parser.feed(cut)
    parser.discard()
    parser.discard()
    assert uploads.states == ["finished", "discarded"]
    with pytest.raises(Invalid):
        parser.feed(b"more")
    with pytest.raises(Invalid):
        parser.finish()


def test_an_error_of_the_writer_is_passed_on_and_the_file_discarded() -> None:
    class Full(Writer):
        def write(self, data: bytes) -> None:
            raise TooLarge("full")

    writer = Full("", "")
    parser = FormParser("multipart/form-data; boundary=B", FormLimits(), lambda *_: writer)
    with pytest.raises(TooLarge, match="full"):
        parser.feed(form(attached("a", "x", b"1")))
    assert writer.state == "discarded"


# ---------------------------------------------------------------- limits


def test_limits_hold_at_their_exact_values() -> None:
    limits = FormLimits(parts=2, text_bytes=6, upload_bytes=4, depth=2)
    whole = form(named("a[b]", "123456"), attached("f", "x", b"1234"))
    assert parse(whole, limits=limits)["a"] == {"b": "123456"}
    table: list[tuple[bytes, str | None, type[ProxyError]]] = [
        (form(named("a", "1234567")), "a", TooLarge),
        (form(named("a", "123"), named("b", "4567")), "b", TooLarge),
        (form(attached("f", "x", b"12345")), "f", TooLarge),
        (form(named("a"), named("b"), named("c")), None, TooLarge),
        (form(named("a[b][c]")), "a[b][c]", Invalid),
        (form((named("a")[0] + "\r\nX-Long: " + "y" * 5000, b"")), None, TooLarge),
        (form((named("a")[0] + "\r\nX-Many: y" * 20, b"")), None, TooLarge),
    ]
    for body, param, kind in table:
        for step in (None, 1):
            with pytest.raises(kind) as caught:
                parse(body, limits=limits, step=step)
            assert caught.value.param == param, body


def test_a_file_over_its_limit_is_never_written_whole() -> None:
    uploads = Uploads()
    body = form(attached("f", "x", b"1" * 1000))
    with pytest.raises(TooLarge):
        parse(body, limits=FormLimits(upload_bytes=100), uploads=uploads, step=50)
    assert len(uploads.writers[0].data) <= 100
    assert uploads.states == ["discarded"]


def test_a_name_of_any_length_is_answered_briefly() -> None:
    with pytest.raises(Invalid) as caught:
        parse(form(named("n" * 3000)))
    assert len(caught.value.message) < 200


# ---------------------------------------------------------------- the boundary


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b:c"', b"a b:c"),
        ("Multipart/Form-Data;BOUNDARY=abc", b"abc"),
        (
            "multipart/form-data; charset=utf-8; boundary=----WebKitFormBoundaryX7",
            b"----WebKitFormBoundaryX7",
        ),
        ("multipart/form-data; boundary==_abc=:1;", b"=_abc=:1"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
    ],
)
def test_boundaries_that_clients_send(content_type: str, boundary: bytes) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("content_type", "why"),
    [
        ("multipart/form-data", "names no boundary"),
        ("multipart/form-data; charset=utf-8", "names no boundary"),
        ("multipart/form-data; boundary=a; boundary=b", "more than one"),
        ("multipart/form-data; boundary=a; Boundary=a", "more than one"),
        ("multipart/form-data; boundary=" + "x" * 71, "longer than 70"),
        ('multipart/form-data; boundary=""', "empty or holds"),
        ('multipart/form-data; boundary="a "', "empty or holds"),
        ('multipart/form-data; boundary="a\r\nb"', "empty or holds"),
        ("multipart/form-data; boundary=ä", "empty or holds"),
        ("multipart/form-data; boundary=a b", "cannot be read"),
        ('multipart/form-data; boundary="a', "cannot be read"),
        ("multipart/form-data; boundary", "cannot be read"),
    ],
)
def test_boundaries_that_cannot_be_used(content_type: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        FormParser(content_type, FormLimits(), Uploads())


def test_another_content_type_is_a_415() -> None:
    for content_type in ("", "text/plain", "multipart/mixed; boundary=B"):
        with pytest.raises(UnsupportedMediaType):
            boundary_of(content_type)


# ---------------------------------------------------------------- there and back

# A leading byte order mark is left out: the parser takes it off.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: not text.startswith("\ufeff")
)
# "%" is left out: browsers' escaping, which the parser undoes, does not escape it.
keys = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="[]%\\"),
    min_size=1,
    max_size=12,
).filter(lambda name: name == name.strip())
blobs = st.builds(
    Bytes,
    st.binary(max_size=80),
    st.sampled_from(["image/png", "video/mp4"]),
    st.text("abc.é\"' ", min_size=1, max_size=8).filter(lambda name: name == name.strip()),
)
leaves = texts | blobs
values = st.recursive(
    leaves | st.lists(leaves, min_size=1, max_size=3),
    lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=3),
    max_leaves=8,
)


def depth_of(value: object) -> int:
    if isinstance(value, dict):
        return 1 + max(depth_of(inner) for inner in value.values())
    return 1 if isinstance(value, list) else 0


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(keys, values, max_size=4).filter(lambda v: not v or depth_of(v) <= 5),
    st.integers(1, 97),
)
def test_any_form_we_write_is_read_back(fields: dict[str, DraftValue], step: int) -> None:
    boundary = boundary_for(fields)
    body = b"".join(encoded(multipart_pieces(fields, boundary)))
    assert parse(body, f"multipart/form-data; boundary={boundary}", step=step) == fields


SHARDS = (
    b"--B\r\n", b"--B--", b"\r\n--B\r\n", b"\r\n--B--\r\n", b"\r\n", b"\r", b"\n", b'"', b";",
    b"Content-Disposition: form-data; name=", b'"a"', b'"a[b]"', b'"a[]"', b'"a[][b]"',
    b'; filename="', b"; filename*=utf-8''", b"Content-Type: ", b"Content-Length: 3", b"a[",
    b"Content-Transfer-Encoding: base64", b": ", b"\x00", b"\xff", b"\xc3", b" x", b"%0D",
)  # fmt: skip
hostile = st.lists(st.sampled_from(SHARDS) | st.binary(max_size=6), max_size=24).map(b"".join)


@settings(max_examples=400, deadline=None)
@given(hostile, st.integers(1, 40))
@example(b"--B\r\n\tx: y\r\n\r\n", 1)
@example(b"--B\r\nContent-Length: " + b"9" * 4200 + b"\r\n\r\n", 4096)
def test_no_bytes_raise_anything_but_a_proxy_error(body: bytes, step: int) -> None:
    for opening in (b"", b"--B\r\n"):
        uploads = Uploads()
        with suppress(Invalid, TooLarge):
            parse(opening + body, step=step, uploads=uploads)
        assert "open" not in uploads.states


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60).map(lambda tail: "multipart/form-data" + tail) | st.text(max_size=40))
def test_no_content_type_raises_anything_but_a_proxy_error(content_type: str) -> None:
    try:
        boundary = boundary_of(content_type)
    except ProxyError:
        return
    assert 0 < len(boundary) <= 70


# ---------------------------------------------------------------- what we write


def test_a_file_part_is_written_as_the_sdk_writes_it() -> None:
    cat = Bytes(b"PNG", "image/png", "cat.png")
    pieces = multipart_pieces({"prompt": "p", "input_reference": cat}, "B")
    head = (
        b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\np\r\n'
        b'--B\r\nContent-Disposition: form-data; name="input_reference"; filename="cat.png"\r\n'
        b"Content-Type: image/png\r\n\r\n"
    )
    assert pieces == (head, cat, b"\r\n--B--\r\n")


def test_values_are_written_as_text() -> None:
    items: list[DraftValue] = ["x", None, 2]
    inner: dict[str, DraftValue] = {"a": 1, "b": items}
    objects: list[DraftValue] = [cast("DraftValue", {"id": "1"}), cast("DraftValue", {"id": "2"})]
    fields: Mapping[str, DraftValue] = {
        "flag": True, "off": False, "n": 7, "f": 1.5, "none": None, "empty": [], "void": {},
        "m": inner, "c": objects,
    }  # fmt: skip
    body = b"".join(encoded(multipart_pieces(fields, "B")))
    assert parse(body) == {
        "flag": "true", "off": "false", "n": "7", "f": "1.5",
        "m": {"a": "1", "b": ["x", "2"]}, "c": [{"id": "1"}, {"id": "2"}],
    }  # fmt: skip


def test_base64_is_a_text_part() -> None:
    piece = Base64(Bytes(b"abc", "image/png", "x"), "data:image/png;base64,")
    body = b"".join(encoded(multipart_pieces({"image": piece}, "B")))
    assert parse(body) == {"image": "data:image/png;base64,YWJj"}


def test_no_name_can_add_a_header_or_a_part() -> None:
    """A client's file name, type or field name goes upstream inside quotes."""
    evil = 'x"\r\nX-Evil: 1\r\n\r\n--B--\\'
    blob = Bytes(b"1", "image/png\r\nX-Evil: 1", evil)
    head = cast("bytes", multipart_pieces({evil: blob}, "B")[0])
    escaped = b"x%22%0D%0AX-Evil: 1%0D%0A%0D%0A--B--%5C"
    assert head == (
        b'--B\r\nContent-Disposition: form-data; name="' + escaped + b'"; filename="' + escaped
        + b'"\r\nContent-Type: application/octet-stream\r\n\r\n'
    )  # fmt: skip


def test_the_boundary_follows_from_the_fields() -> None:
    """The same draft gives the same bytes; a value cannot name its own boundary in advance."""
    one: dict[str, DraftValue] = {"a": "1", "f": Bytes(b"x", "image/png", "x")}
    other: dict[str, DraftValue] = {"a": "1", "f": Bytes(b"y", "image/png", "x")}
    assert boundary_for(one) == boundary_for(dict(one))
    assert boundary_for(one) != boundary_for(other)
    guessed: dict[str, DraftValue] = {**one, "a": boundary_for(one)}
    assert boundary_for(guessed) not in cast("str", guessed["a"])
    assert len(boundary_for(one)) == 32


# ---------------------------------------------------------------- JSON


def test_a_json_object_is_read() -> None:
    body = b' {"a": 1, "b": {"c": [1.5, null, true, "\\ud83d\\ude00"]}, "d": {"c": 2}}\n'
    assert json_fields(body) == {
        "a": 1,
        "b": {"c": [1.5, None, True, "😀"]},
        "d": {"c": 2},
    }


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        (b"", "body is empty", None),
        (b" \n", "body is empty", None),
        (b"{", "not valid JSON", None),
        (b'{"a": 1,}', r"line 1 column 8 \(char 7\)", None),
        (b"[]", "must be a JSON object", None),
        (b'"x"', "must be a JSON object", None),
        (b"null", "must be a JSON object", None),
        (b'{"a": NaN}', "not valid JSON", None),
        (b'{"a": Infinity}', "not valid JSON", None),
        (b'{"a": 1e999}', "not valid JSON", None),
        (b'{"a": ' + b"9" * 5000 + b"}", "more than 128 characters", None),
        (b'{"a": "\\ud800"}', "not valid JSON", None),
        (b'{"\\udc00": 1}', "not valid JSON", None),
        (b'{"a": "\xff"}', "not valid JSON", None),
        (b'{"a": "\x01"}', "not valid JSON", None),
        (b"{'a': 1}", "not valid JSON", None),
        (b'{"a": 1, "a": 1}', "'a' is given twice", "a"),
        (b'{"x": {"b": 1, "c": 2, "b": 3}}', "'b' is given twice", "b"),
        (b'{"x": [{"b": 1, "\\u0062": 3}]}', "'b' is given twice", "b"),
        (b'{"a": ' + b"[" * 32 + b"]" * 32 + b"}", "deeper than 32", None),
        (b'{"a": ' + b"[" * 900 + b"]" * 900 + b"}", "deeper than 32", None),
        (b'{"a": ' + b"[" * 90000 + b"]" * 90000 + b"}", "more than 20000 names", None),
    ],
)  # fmt: skip
def test_a_json_body_that_cannot_be_used(body: bytes, message: str, param: str | None) -> None:
    with pytest.raises(Invalid, match=message) as caught:
        json_fields(body)
    assert caught.value.param == param
    assert len(caught.value.message) < 300


def test_json_nesting_is_accepted_up_to_its_limit() -> None:
    body = b'{"a": ' + b"[" * 31 + b"]" * 31 + b"}"
    assert "a" in json_fields(body)


def test_long_numbers_do_not_trip_the_second_pass() -> None:
    """What is no 64-bit integer is a number all the same, up to a length nobody needs."""
    assert json_fields(b'{"a": 0.' + b"1" * 126 + b"}") == {"a": pytest.approx(1 / 9)}
    assert json_fields(b'{"a": 123456789012345678901234567890}') == {
        "a": pytest.approx(1.2345678901234568e29)
    }


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from(list('{}[]",:\\ud8ac00eE+-.109ntruefals ')), max_size=40).map(
        lambda marks: "".join(marks).encode()
    )
)
def test_no_json_raises_anything_but_invalid(body: bytes) -> None:
    with suppress(Invalid):
        assert isinstance(json_fields(body), dict)


def test_json_values_come_back_as_they_were() -> None:
    value = {"prompt": "x" * 70000, "n": [1, 2, {"deep": {"er": None}}]}
    assert json_fields(json.dumps(value).encode()) == value
