"""Uploads between two bodies: hashed, bounded, read by many, and gone without a trace."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from proxy.errors import ProxyError, TooLarge, Unavailable
from proxy.http.multipart import FormLimits, FormParser
from proxy.tasks.spool import RETRY_AFTER_S, Spool, SpooledBlob, sniff

MEMORY, UPLOAD, TOTAL = 100, 1000, 1500


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", MEMORY, UPLOAD, TOTAL)


@contextmanager
def no_leak(spool: Spool) -> Iterator[None]:
    """Every descriptor, every byte and every file given back."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert spool.held_bytes == 0
    assert not spool.directory.exists() or list(spool.directory.iterdir()) == []


def data_of(size: int) -> bytes:
    return bytes(i * 7 % 251 for i in range(size))


def upload(spool: Spool, data: bytes, step: int = 64, content_type: str = "") -> SpooledBlob:
    writer = spool.open("cat.png", content_type)
    for start in range(0, len(data), step):
        writer.write(data[start : start + step])
    return writer.finish()


@pytest.mark.parametrize("size", [0, 1, MEMORY - 1, MEMORY, MEMORY + 1, UPLOAD])
@pytest.mark.parametrize("step", [1, 64, UPLOAD])
def test_what_was_written_is_read(spool: Spool, size: int, step: int) -> None:
    with no_leak(spool):
        data = data_of(size)
        blob = upload(spool, data, step)
        assert (blob.size, blob.filename) == (size, "cat.png")
        assert blob.sha256 == hashlib.sha256(data).hexdigest()
        assert spool.held_bytes == size
        for block in (1, 7, 65536):
            chunks = list(blob.chunks(block))
            assert b"".join(chunks) == data
            assert all(0 < len(chunk) <= block for chunk in chunks)
        blob.close()


@pytest.mark.parametrize(("size", "descriptors"), [(MEMORY, 0), (MEMORY + 1, 1)])
def test_small_uploads_stay_in_memory_and_large_ones_have_no_name(
    spool: Spool, size: int, descriptors: int
) -> None:
    with no_leak(spool):
        before = len(os.listdir("/proc/self/fd"))
        blob = upload(spool, data_of(size))
        assert len(os.listdir("/proc/self/fd")) - before == descriptors
        assert not spool.directory.exists() or list(spool.directory.iterdir()) == []
        blob.close()


@pytest.mark.parametrize("size", [MEMORY, UPLOAD])
def test_two_readers_do_not_disturb_each_other(spool: Spool, size: int) -> None:
    with no_leak(spool):
        data = data_of(size)
        blob = upload(spool, data)
        one, other = blob.chunks(10), blob.chunks(17)
        read, also_read = [next(one)], [next(other), next(other)]
        read += [next(one), next(one)]
        also_read += list(other)
        read += list(one)
        assert b"".join(read) == b"".join(also_read) == data
        blob.close()


@pytest.mark.parametrize("size", [MEMORY, UPLOAD])
def test_a_closed_blob_is_never_read_not_even_half_way(spool: Spool, size: int) -> None:
    """Its descriptor's number may belong to another client's file by then."""
    with no_leak(spool):
        blob = upload(spool, data_of(size))
        reader = blob.chunks(10)
        next(reader)
        blob.close()
        other = upload(spool, b"\xff" * size)
        with pytest.raises(ValueError, match="closed"):
            next(reader)
        with pytest.raises(ValueError, match="closed"):
            next(blob.chunks())
        other.close()


def test_closing_twice_gives_back_once(spool: Spool) -> None:
    with no_leak(spool):
        kept = upload(spool, data_of(300))
        blob = upload(spool, data_of(200))
        for _ in range(3):
            blob.close()
        assert spool.held_bytes == 300
        writer = spool.open("", "")
        writer.write(b"12345")
        for _ in range(3):
            writer.discard()
        assert spool.held_bytes == 300
        kept.close()


def test_discarding_a_finished_upload_leaves_its_blob_alone(spool: Spool) -> None:
    with no_leak(spool):
        writer = spool.open("", "")
        writer.write(b"12345")
        blob = writer.finish()
        writer.discard()
        assert b"".join(blob.chunks()) == b"12345"
        writer.close()
        assert spool.held_bytes == 0


@pytest.mark.parametrize("end", ["finish", "discard"])
def test_an_ended_writer_takes_nothing_more(spool: Spool, end: str) -> None:
    with no_leak(spool):
        writer = spool.open("", "")
        writer.write(b"1")
        getattr(writer, end)()
        with pytest.raises(ValueError, match="finished or discarded"):
            writer.write(b"2")
        with pytest.raises(ValueError, match="finished or discarded"):
            writer.finish()
        writer.close()


@pytest.mark.parametrize("step", [1, 333, UPLOAD + 1])
def test_an_upload_over_its_limit_is_refused_and_forgotten(spool: Spool, step: int) -> None:
    with no_leak(spool), pytest.raises(TooLarge, match=f"larger than {UPLOAD} bytes"):
        upload(spool, data_of(UPLOAD + 1), step)


def test_a_full_spool_is_a_503_until_something_is_closed(spool: Spool) -> None:
    with no_leak(spool):
        first = upload(spool, data_of(1000))
        with pytest.raises(Unavailable, match="spool is full") as caught:
            upload(spool, data_of(501))
        assert caught.value.retry_after_s == RETRY_AFTER_S
        assert caught.value.code == "spool_full"
        assert spool.held_bytes == 1000
        second = upload(spool, data_of(500))
        first.close()
        third = upload(spool, data_of(1000))
        second.close()
        third.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_takes_no_more_is_a_503(
    spool: Spool, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partial write comes before the error: the fake takes half of what it is given once."""
    written: list[int] = []
    real = os.write

    def nearly_full(fd: int, data: bytes) -> int:
        if len(written) >= 3:
            raise OSError(code, os.strerror(code))
        written.append(real(fd, memoryview(data)[: max(1, len(data) // 2)]))
        return written[-1]

    with no_leak(spool):
        monkeypatch.setattr("proxy.tasks.spool.os.write", nearly_full)
        with pytest.raises(Unavailable) as caught:
            upload(spool, data_of(UPLOAD), step=MEMORY + 1)
        monkeypatch.undo()
        assert len(written) == 3
        assert caught.value.retry_after_s == RETRY_AFTER_S
        assert str(spool.directory) not in caught.value.message


def test_partial_writes_lose_nothing(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with no_leak(spool):
        monkeypatch.setattr(
            "proxy.tasks.spool.os.write", lambda fd, data: real(fd, memoryview(data)[:13])
        )
        blob = upload(spool, data_of(UPLOAD))
        monkeypatch.undo()
        assert b"".join(blob.chunks()) == data_of(UPLOAD)
        blob.close()


def test_a_directory_that_cannot_be_made_is_a_503(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    spool = Spool(tmp_path / "file" / "spool", MEMORY, UPLOAD, TOTAL)
    small = upload(spool, data_of(MEMORY))  # memory needs no directory
    small.close()
    with pytest.raises(Unavailable):
        upload(spool, data_of(MEMORY + 1))
    assert spool.held_bytes == 0


def test_a_file_shorter_than_it_was_is_an_error_not_a_short_upload(spool: Spool) -> None:
    with no_leak(spool):
        blob = upload(spool, data_of(UPLOAD))
        assert blob._file is not None
        os.ftruncate(blob._file.fileno(), 500)
        with pytest.raises(OSError, match="shorter"):
            list(blob.chunks(400))
        blob.close()


# ---------------------------------------------------------------- a request's uploads


def test_a_batch_closes_whatever_became_of_its_uploads(spool: Spool) -> None:
    with no_leak(spool):
        with spool.batch() as batch:
            done = batch.open("a", "")
            done.write(data_of(500))
            blob = done.finish()
            batch.open("b", "").write(data_of(MEMORY + 1))
            batch.open("c", "").write(b"1")
            batch.open("d", "")
            batch.open("e", "").discard()
            assert spool.held_bytes == 500 + MEMORY + 1 + 1
        with pytest.raises(ValueError, match="closed"):
            next(blob.chunks())
        batch.close()


def test_a_form_of_uploads_leaves_nothing_behind(spool: Spool) -> None:
    """Also when the form breaks off, is malformed, or is over a limit."""
    part = b'--B\r\nContent-Disposition: form-data; name="%s"; filename="%s"\r\n\r\n%s\r\n'
    whole = part % (b"a", b"a.png", data_of(400)) + part % (b"b", b"b.png", data_of(900))
    whole += b"--B--\r\n"
    limits = FormLimits(upload_bytes=950)
    for body in (whole, whole[:700], whole[:700] + b"\r\n--Bx", whole * 2):
        with no_leak(spool), spool.batch() as batch:
            parser = FormParser("multipart/form-data; boundary=B", limits, batch.open)
            try:
                for start in range(0, len(body), 100):
                    parser.feed(body[start : start + 100])
                fields = parser.finish()
            except ProxyError:
                assert body != whole
                continue
            blob = fields["b"]
            assert isinstance(blob, SpooledBlob)
            assert b"".join(blob.chunks()) == data_of(900)


# ---------------------------------------------------------------- types


MAGIC = [
    (b"\xff\xd8\xff\xe0\x00\x10JFIF", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png"),
    (b"RIFF\x24\x00\x00\x00WEBPVP8 ", "image/webp"),
    (b"GIF89a\x01\x00", "image/gif"),
    (b"GIF87a\x01\x00", "image/gif"),
    (bytes.fromhex("000000186674797069736f6d0000020069736f6d69736f32"), "video/mp4"),
]


@pytest.mark.parametrize(("head", "content_type"), MAGIC)
def test_untyped_uploads_are_typed_by_their_first_bytes(
    spool: Spool, head: bytes, content_type: str
) -> None:
    """However the bytes arrive; openai-python sends raw bytes as application/octet-stream."""
    with no_leak(spool):
        for declared in ("", "application/octet-stream", "Application/Octet-Stream; x=y"):
            for step in (1, 1000):
                blob = upload(spool, head, step, declared)
                assert blob.content_type == content_type
                blob.close()


def test_a_declared_type_stands(spool: Spool) -> None:
    blob = upload(spool, MAGIC[0][0], content_type="image/heic; q=1")
    assert blob.content_type == "image/heic"
    blob.close()


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\xff\xd8",
        b"RIFF\x24\x00\x00\x00WAVE",
        b"\x00\x00\x00\x18ftypavif",
        b"\x00\x00\x00\x18ftypheic",
        b"\x00\x00\x00\x14ftypqt  ",
        b"hello",
    ],
)
def test_other_bytes_stay_untyped(spool: Spool, head: bytes) -> None:
    assert sniff(head) is None
    blob = upload(spool, head)
    assert blob.content_type == "application/octet-stream"
    blob.close()


def test_an_upload_without_a_name_gets_one(spool: Spool) -> None:
    blob = spool.open("", "").finish()
    assert blob.filename == "upload"
    blob.close()


# ---------------------------------------------------------------- budgets


def test_what_a_body_weighs_is_booked_until_its_request_ends(spool: Spool) -> None:
    with spool.batch("a key") as batch:
        batch.weigh(100)
        batch.weigh(300)
        assert spool.bodies.held_bytes == 300
        batch.weigh(50)
        assert spool.bodies.held_bytes == 50
    assert spool.bodies.held_bytes == 0


def test_one_key_holds_half_of_the_memory_for_bodies_at_most(tmp_path: Path) -> None:
    spool = Spool(tmp_path, body_bytes=1000)
    with spool.batch("a") as one, spool.batch("a") as two, spool.batch("b") as other:
        one.weigh(300)
        two.weigh(200)
        with pytest.raises(Unavailable, match="with requests of this key") as caught:
            two.weigh(201)
        assert (caught.value.code, caught.value.limit) == ("bodies_full", "bodies")
        assert caught.value.retry_after_s == RETRY_AFTER_S
        assert spool.bodies.held_bytes == 500
        other.weigh(500)
        one.weigh(0)
        with spool.batch("c") as third, pytest.raises(Unavailable, match="full at the moment;"):
            third.weigh(301)
        two.weigh(500)
    assert spool.bodies.held_bytes == 0


def test_one_key_holds_half_of_the_spool_at_most(tmp_path: Path) -> None:
    spool = Spool(tmp_path, upload_bytes=400, total_bytes=1000)
    with spool.batch("a") as one, spool.batch("b") as other:
        one.open("1", "").write(bytes(400))
        with pytest.raises(Unavailable, match="with requests of this key"):
            one.open("2", "").write(bytes(101))
        other.open("3", "").write(bytes(400))
        one.open("4", "").write(bytes(100))
        assert spool.held_bytes == 900
    assert spool.held_bytes == 0


def test_an_upload_of_the_largest_size_fits_into_a_share(tmp_path: Path) -> None:
    spool = Spool(tmp_path, upload_bytes=900, total_bytes=1000)
    with spool.batch("a") as batch:
        batch.open("1", "").write(bytes(900))
        assert spool.held_bytes == 900
