"""What is kept of a request that waits is the request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects.media import MemoryBlob
from proxy.model import Kind, Media, Operation, Role, VideoRequest
from proxy.store.queued_requests import PIECE_BYTES, KeptRequest, pack, unpack

LEAST = VideoRequest(Operation.CREATE, "openai", "sora-2")
MOST = VideoRequest(
    Operation.REMIX,
    "kling",
    "kling-v2-6",
    kind=Kind.IMAGE,
    prompt='a "cat"\n\u0000 🐈',
    negative_prompt="dogs",
    seconds=5.5,
    frames=132,
    size=(1280, 720),
    aspect_ratio="16:9",
    resolution="720p",
    mode="pro",
    audio=True,
    fps=24,
    seed=-1,
    n=2,
    style="vivid",
    quality_level="high",
    user="u-1",
    response_format="url",
    media=(
        Media(Role.FIRST_FRAME, "image", blob=MemoryBlob(b"\x89PNG\nfirst", "image/png", "ä.png")),
        Media(Role.LAST_FRAME, "image_tail", url="https://e.com/x.png"),
        Media(Role.REFERENCE_IMAGE, "ref", blob=MemoryBlob(b"\n", "image/webp", "b")),
    ),
    source_id="video_00" + "0" * 46,
    external_id="mine",
    callback_url="https://e.com/hook",
    extra=MappingProxyType({"metadata": {"a": [1, None]}}),
    native={"cfg_scale": 0.5},
)
TRACE = {"traceparent": "00-1-2-01"}


def kept(request: VideoRequest, forwarded: Mapping[str, str] = TRACE) -> KeptRequest:
    packed = pack(request, forwarded)
    written = b"".join(packed.pieces())
    assert len(written) == packed.size
    return unpack(written)


@pytest.mark.parametrize("request_", [LEAST, MOST, replace(MOST, media=MOST.media[1:2])])
def test_a_request_comes_back_as_it_was(request_: VideoRequest) -> None:
    back = kept(request_)
    assert back.forwarded == TRACE
    assert back.request == replace(request_, extra=dict(request_.extra))
    for item in fields(VideoRequest):  # == does not tell an enum from its text, nor 1 from True
        if item.name != "extra":
            assert type(getattr(back.request, item.name)) is type(getattr(request_, item.name))


def test_every_field_of_a_request_is_covered_here() -> None:
    same = {f.name for f in fields(VideoRequest) if getattr(MOST, f.name) == getattr(LEAST, f.name)}
    assert same == set()


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=1, max_size=50), max_size=4), st.text())
def test_any_uploads_come_back_in_their_order(uploads: list[bytes], prompt: str) -> None:
    media = tuple(
        Media(Role.REFERENCE_IMAGE, f"m{n}", blob=MemoryBlob(data))
        for n, data in enumerate(uploads)
    )
    back = kept(replace(LEAST, media=media, prompt=prompt), {})
    found = [b"".join(m.blob.chunks()) for m in back.request.media if m.blob is not None]
    assert (found, back.request.prompt) == (uploads, prompt)


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_pieces_are_of_one_size_but_the_last(extra: int) -> None:
    size = 2 * PIECE_BYTES + extra
    head = len(pack(request_of(size), {}).head)
    packed = pack(request_of(size - head), {})
    assert packed.size == size
    sizes = [len(piece) for piece in packed.pieces()]
    assert sizes[:2] == [PIECE_BYTES, PIECE_BYTES + min(extra, 0)]
    assert sum(sizes) == size
    assert all(sizes)


def request_of(size: int) -> VideoRequest:
    blob = MemoryBlob(b"x" * size)
    return replace(LEAST, media=(Media(Role.SOURCE, "video", blob=blob),))


def test_what_is_no_text_is_not_kept_as_such() -> None:
    """Header and file name bytes need not be text, and JSON can hold nothing else."""
    blob = MemoryBlob(b"x", filename="a\udcff.png")
    back = kept(
        replace(LEAST, media=(Media(Role.SOURCE, "video", blob=blob),)),
        {"tracestate": "\udcff", **TRACE},
    )
    assert back.forwarded == TRACE
    assert back.request.media[0].blob is not None
    assert back.request.media[0].blob.filename == "a?.png"


WHOLE = b"".join(pack(MOST, {}).pieces())


@pytest.mark.parametrize(
    "document",
    [
        *(b"", b"\n", b"{}\n", b"[]\n", b"null\n"),
        *(WHOLE[:-1], WHOLE + b"x", WHOLE[:40], WHOLE[1:]),
        WHOLE.replace(b'"kind":"image2video"', b'"kind":"?"'),
    ],
)
def test_what_is_not_whole_is_a_value_error(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(document)


def test_what_later_versions_add_is_passed_over() -> None:
    changed = WHOLE.replace(b'"fps":24', b'"fps":24,"invented":{"x":1}', 1)
    assert unpack(changed).request == replace(MOST, extra=dict(MOST.extra))
