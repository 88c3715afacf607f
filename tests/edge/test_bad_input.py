"""Whatever a client sends: a 4xx that names the fault, in its own dialect's shape, and nothing
behind the front door moves."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from proxy.model import DialectName
from tests.rig.eventually import eventually
from tests.rig.house import House, OpenHouse, Plan
from tests.rig.refusals import (
    DOORS,
    JIMENG,
    JSON,
    Peer,
    assert_quiet,
    assert_untouched,
    error_of,
    head_of,
    log_of,
    peer_of,
)

FORM_DIALECTS: tuple[DialectName, ...] = ("openai", "generic")
CRLF = "\r\n"


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path) -> Iterator[None]:
    """No client can make us log an error."""
    yield
    assert_quiet(tmp_path)


@dataclass(frozen=True)
class Bad:
    """A body and what it is refused with. `says` is a part of the message."""

    body: bytes
    status: int = 400
    code: str = "invalid_value"
    param: str | None = None
    says: str = ""
    headers: dict[str, str] = field(default_factory=lambda: dict(JSON))


async def assert_refused(house: House, dialect: DialectName, cases: dict[str, Bad]) -> None:
    """What the client saw, what the upstream saw, what the access line says: for each case."""
    for name, bad in cases.items():
        house.lines.clear()
        reply = await house.post(DOORS[dialect].submit, data=bad.body, headers=bad.headers)
        error = error_of(dialect, reply.headers, reply.body)
        told = (reply.status, error["code"], error["param"])
        assert told == (bad.status, bad.code, bad.param), (dialect, name, error)
        assert bad.says in error["message"], (dialect, name, error)
        (line,) = house.lines
        assert (line["status"], line["reason"]) == (bad.status, bad.code), (dialect, name)
        assert line["request_id"] == reply.headers["X-Request-Id"], name
        assert (line["dialect"], line["operation"]) == (dialect, "create"), name
        assert "task_id" not in line, name
    await assert_untouched(house)


def text(value: object) -> bytes:
    return json.dumps(value).encode()


# ---------------------------------------------------------------- JSON


async def test_a_body_that_is_no_json_object_is_refused(house: House) -> None:
    for dialect in DOORS:
        await assert_refused(
            house,
            dialect,
            {
                "nothing": Bad(b"", param="prompt", says="'prompt' is required"),
                "white space": Bad(b" \r\n", says="The body is empty"),
                "half an object": Bad(b'{"prompt":', says="not valid JSON"),
                "two objects": Bad(b'{"prompt":"a"}{}', says="not valid JSON"),
                "single quotes": Bad(b"{'prompt':'a'}", says="not valid JSON"),
                "a trailing comma": Bad(b'{"prompt":"a",}', says="not valid JSON"),
                "NaN": Bad(b'{"prompt":"a","seed":NaN}', says="not valid JSON"),
                "no UTF-8": Bad(b'{"prompt":"\xff"}', says="not valid JSON"),
                "half of UTF-16": Bad(b"\xff\xfe{\x00}", says="it is not utf-16 text"),
                "half a surrogate pair": Bad(b'{"prompt":"\\ud800"}', says="not valid JSON"),
                "a raw NUL": Bad(b'{"prompt":"a\x00"}', says="not valid JSON"),
                "a list": Bad(b'[{"prompt":"a"}]', says="must be a JSON object"),
                "a string": Bad(b'"a cat"', says="must be a JSON object"),
                "a number": Bad(b"5", says="must be a JSON object"),
                "null": Bad(b"null", says="must be a JSON object"),
                "deep": Bad(b'{"a":' * 40 + b"1" + b"}" * 40, says="nested deeper"),
                "very deep": Bad(
                    b'{"a":' + b"[" * 100_000, says="more than 20000 names and values"
                ),
                "the same key twice": Bad(
                    b'{"prompt":"a","prompt":"b"}', param="prompt", says="given twice"
                ),
                "the same key twice inside": Bad(
                    b'{"prompt":"a","metadata":{"seed":1,"seed":2}}',
                    param="seed",
                    says="given twice",
                ),
                "the same key escaped": Bad(
                    b'{"prompt":"a","\\u0070rompt":"b"}', param="prompt", says="given twice"
                ),
            },
        )


def wrong_fields(dialect: DialectName) -> dict[str, Bad]:
    door = DOORS[dialect]

    def bad(param: str, says: str = "", **fields: object) -> Bad:
        return Bad(text(door.body(**fields)), param=param, says=says)

    cases = {
        "no prompt": Bad(text({door.model_field: door.model}), param="prompt", says="required"),
        "an empty prompt": bad("prompt", "required", prompt=""),
        "a null prompt": bad("prompt", "required", prompt=None),
        "a number for a prompt": bad("prompt", "must be a string", prompt=5),
        "a list for a prompt": bad("prompt", "must be a string", prompt=["a"]),
        "NUL in a prompt": bad("prompt", "NUL", prompt="a\x00b"),
        "a prompt without end": bad("prompt", "longer than", prompt="x" * 32_001),
        "a flag for a model": bad(door.model_field, "string", **{door.model_field: True}),
        "an object for a model": bad(door.model_field, "string", **{door.model_field: {}}),
        "a line in a model": bad(door.model_field, "control", **{door.model_field: "a\nb"}),
        "a long model": bad(door.model_field, "longer", **{door.model_field: "m" * 600}),
        "a bad callback": bad("callback_url", callback_url="ftp://x"),
        "NUL in an unknown field": bad("anything.a", "NUL", anything={"a": ["b\x00"]}),
    }
    if dialect == "jimeng":
        cases |= {
            "a word for frames": bad("frames", frames="many"),
            "too few frames": bad("frames", frames=1),
            "half a seed": bad("seed", seed=0.5),
            "two kinds of pictures": bad(
                "binary_data_base64", image_urls=["https://a/b"], binary_data_base64=["aGk="]
            ),
            "three pictures": bad("image_urls", image_urls=["https://a/b"] * 3),
            "a picture of another scheme": bad("image_urls", image_urls=["file:///etc/passwd"]),
        }
    else:
        cases |= {
            "a word for fps": bad("fps", fps="fast"),
            "no picture": bad("image", image="not a picture"),
            "a picture of another scheme": bad("image", image="file:///etc/passwd"),
            "a list for metadata": bad("metadata", metadata=[1]),
            "no duration": bad("duration", duration="long"),
            "a negative duration": bad("duration", duration=-5),
            "an infinite duration": bad("duration", duration="1e999"),
            "width alone": bad("height", width=1280),
            "a fraction of a width": bad("width", width=1.5, height=2),
            "fewer than no videos": bad("n", "at least 1", n=-2),
            "two lengths": bad("duration", "'seconds' and", duration=5, seconds=10),
        }
    if dialect in ("openai", "generic"):
        cases |= {
            "a bad size": bad("size", "'1280#720'", size="1280#720"),
            "a size of zero": bad("size", size="0x720"),
            "an unknown picture": bad("cover.x", "input_reference", cover={"x": "https://a/b.png"}),
            "no flag": bad("audio", audio="perhaps"),
            "metadata with a bad seed": bad("metadata.seed", metadata={"seed": "x"}),
        }
    return cases


async def test_a_field_of_the_wrong_kind_is_named(house: House) -> None:
    for dialect in DOORS:
        await assert_refused(house, dialect, wrong_fields(dialect))


UNFIT: dict[DialectName, dict[str, tuple[str, dict[str, object]]]] = {
    "openai": {
        "n": ("sora-2", {"n": 2}),
        "seconds": ("sora-2-on-kling", {"seconds": "60"}),
        "size": ("sora-2-on-kling", {"size": "7680x4320"}),
        "mode": ("sora-2-on-kling", {"mode": "godlike"}),
        "audio": ("sora-2-on-jimeng", {"audio": True}),
        "resolution": ("sora-2-on-jimeng", {"resolution": "1080p"}),
    },
    "generic": {
        "n": ("sora-2-on-kling", {"n": 2}),
        "duration": ("sora-2-on-kling", {"duration": 60}),
        "metadata.aspect_ratio": ("sora-2-on-kling", {"metadata": {"aspect_ratio": "wide"}}),
        "width": ("sora-2-on-kling", {"width": 7680, "height": 4320}),
    },
    "kling": {
        "n": ("kling-v2-6", {"n": 2}),
        "duration": ("kling-v2-6", {"duration": "60"}),
        "sound": ("sora-2-on-jimeng", {"sound": "on"}),
        "camera_control": ("sora-2", {"camera_control": {"type": "down_back"}}),
    },
    "jimeng": {
        "frames": ("jimeng_t2v_v30", {"frames": 24 * 60 + 1}),
        "image_urls": ("jimeng_t2v_v30", {"image_urls": ["https://a.example/1.png"] * 2}),
        "template_id": ("sora-2-on-kling", {"template_id": "handheld"}),
    },
}


async def test_what_the_provider_cannot_render_is_refused_with_the_clients_own_name_for_it(
    house: House,
) -> None:
    """Never rendered otherwise in silence, and never half-way to the provider."""
    for dialect in DOORS:
        door = DOORS[dialect]
        cases = {
            param: Bad(text(door.body(**{**fields, door.model_field: model})), param=param)
            for param, (model, fields) in UNFIT[dialect].items()
        }
        if dialect == "jimeng":
            del cases["image_urls"]  # two pictures are a first and a last frame: another req_key
        await assert_refused(house, dialect, cases)


async def test_an_unknown_model_names_those_there_are(house: House) -> None:
    for dialect in DOORS:
        door = DOORS[dialect]
        body = text(door.body(**{door.model_field: "sora-99"}))
        says = "It may use: sora-2-on-kling, sora-2-on-jimeng, sora-2, kling-v2-6, jimeng_t2v_v30."
        bad = Bad(body, 404, "model_not_found", door.model_field, says)
        await assert_refused(house, dialect, {"unknown": bad})

        made = await house.new_token(models=("kling-*", "sora-2"))
        headers = {**JSON, "Authorization": f"Bearer {made.token}"}
        says = "It may use: sora-2, kling-v2-6."
        hidden = text(door.body(**{door.model_field: "jimeng_t2v_v30"}))
        refused = [
            Bad(wanted, 404, "model_not_found", door.model_field, says, headers)
            for wanted in (body, hidden)
        ]
        await assert_refused(house, dialect, {"unknown": refused[0], "not for it": refused[1]})

        made = await house.new_token(models=("nothing-*",))
        headers = {**JSON, "Authorization": f"Bearer {made.token}"}
        says = "It may use: none."
        bad = Bad(text(door.body()), 404, "model_not_found", door.model_field, says, headers)
        await assert_refused(house, dialect, {"none at all": bad})


# ---------------------------------------------------------------- other kinds of bodies


async def test_a_body_of_another_kind_names_the_kinds_accepted(house: House) -> None:
    for dialect, door in DOORS.items():
        body = text(door.body())
        other = b"prompt=a+cat&model=sora-2"
        accepted = "send application/json"
        untyped = ["text/plain", "application/x-www-form-urlencoded", "application/octet-stream"]
        kinds = ["json", "image/png", "application/xml; charset=utf-8"]
        if dialect in FORM_DIALECTS:
            accepted += " or multipart/form-data"
        else:
            kinds.append("multipart/form-data; boundary=x")
        cases = {
            kind: Bad(
                body,
                415,
                "unsupported_media_type",
                says=f"is not read here; {accepted}.",
                headers={"Content-Type": kind},
            )
            for kind in kinds
        } | {
            kind: Bad(
                other,
                415,
                "unsupported_media_type",
                says=f"is not read here; {accepted}.",
                headers={"Content-Type": kind},
            )
            for kind in untyped
        }
        for encoding, sent in (("gzip", gzip.compress(body)), ("br", body), ("x, gzip", body)):
            cases[encoding] = Bad(
                sent,
                415,
                "unsupported_media_type",
                says=f"Content-Encoding '{encoding}' is not read; send it plain.",
                headers={**JSON, "Content-Encoding": encoding},
            )
        await assert_refused(house, dialect, cases)


PNG = b"\x89PNG\r\n\x1a\n" + bytes(64)


def part(name: str, value: str | bytes, *more: str) -> bytes:
    head = [f'Content-Disposition: form-data; name="{name}"', *more]
    data = value if isinstance(value, bytes) else value.encode()
    return f"--BB{CRLF}{CRLF.join(head)}{CRLF}{CRLF}".encode() + data + CRLF.encode()


def file(name: str, data: bytes = PNG) -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="a.png"'
    head = f"--BB{CRLF}{disposition}{CRLF}Content-Type: image/png{CRLF}{CRLF}"
    return head.encode() + data + CRLF.encode()


END = b"--BB--\r\n"
FORM = {"Content-Type": "multipart/form-data; boundary=BB"}
PROMPT = part("prompt", "a cat")


def bad_form(
    *parts: bytes, param: str | None = None, says: str = "", kind: str | None = None
) -> Bad:
    headers = FORM if kind is None else {"Content-Type": kind}
    return Bad(b"".join(parts), param=param, says=says, headers=headers)


BROKEN_FORMS = {
    "a field twice": bad_form(
        PROMPT, part("prompt", "b"), END, param="prompt", says="not a list"
    ),
    "a value and an object": bad_form(
        PROMPT, part("metadata", "{}"), part("metadata[a]", "b"), END,
        param="metadata[a]", says="conflicts",
    ),
    "an object and a list": bad_form(
        PROMPT, part("metadata[a]", "b"), part("metadata[]", "c"), END,
        param="metadata[]", says="conflicts",
    ),
    "stray brackets": bad_form(
        PROMPT, part("metadata]a[", "b"), END, param="metadata]a[", says="stray brackets"
    ),
    "too many levels": bad_form(
        PROMPT, part("a[b][c][d][e][f]", "b"), END,
        param="a[b][c][d][e][f]", says="nested deeper",
    ),
    "a picture twice": bad_form(
        PROMPT, file("input_reference"), file("input_reference"), END,
        param="input_reference", says="takes a first frame only",
    ),
    "a file nobody knows": bad_form(
        PROMPT, file("thumbnail"), END, param="thumbnail", says="not a file field"
    ),
    "a file for a prompt": bad_form(
        file("prompt"), END, param="prompt", says="must be a string"
    ),
    "no name": bad_form(
        PROMPT, b"--BB\r\nContent-Disposition: form-data\r\n\r\nx\r\n", END, says="name"
    ),
    "NUL": bad_form(part("prompt", "a\x00b"), END, param="prompt", says="NUL"),
    "no UTF-8": bad_form(part("prompt", b"\xff\xfe"), END, param="prompt", says="UTF-8"),
    "base64": bad_form(
        part("prompt", "YQ==", "Content-Transfer-Encoding: base64"), END,
        param="prompt", says="Content-Transfer-Encoding",
    ),
    "another last boundary": bad_form(
        PROMPT, file("input_reference"), b"--CC--\r\n",
        says="ends inside 'input_reference' before its closing boundary",
    ),
    "no last boundary": bad_form(PROMPT, says="before its closing boundary"),
    "nothing": bad_form(b"\r\n", says="boundary"),
    "another boundary": bad_form(b"--CC\r\n", PROMPT, END, says="boundary"),
    "no boundary named": bad_form(
        PROMPT, END, kind="multipart/form-data", says="names no boundary"
    ),
    "two boundaries named": bad_form(
        PROMPT, END, kind="multipart/form-data; boundary=BB; boundary=CC", says="more than"
    ),
}  # fmt: skip


async def test_a_broken_form_is_refused_and_its_uploads_are_dropped(house: House) -> None:
    for dialect in FORM_DIALECTS:
        await assert_refused(house, dialect, BROKEN_FORMS)


async def test_a_form_has_a_bounded_number_of_parts(open_house: OpenHouse) -> None:
    for dialect in FORM_DIALECTS:
        limits = "form_parts = 4\nform_text_bytes = 2000\nupload_bytes = 1000"

        def too_large(*parts: bytes, param: str | None = None, says: str) -> Bad:
            return Bad(b"".join(parts) + END, 413, "request_too_large", param, says, FORM)

        cases = {
            "parts": too_large(*[part("tags[]", "x")] * 5, says="more than 4 parts"),
            "text": too_large(part("prompt", "x" * 2001), param="prompt", says="above 2000 bytes"),
            "a file": too_large(
                PROMPT,
                file("input_reference", PNG + bytes(1000)),
                param="input_reference",
                says="larger than 1000 bytes",
            ),
            "headers": too_large(part("prompt", "x", "X-Long: " + "y" * 70_000), says="headers"),
        }
        async with open_house(Plan(limits=limits)) as house:
            await assert_refused(house, dialect, cases)


# ---------------------------------------------------------------- bodies without end


async def test_a_body_too_large_is_refused_by_its_announcement(open_house: OpenHouse) -> None:
    """Before any of it is read: the client sends only the head, and has its answer."""
    for dialect in DOORS:
        kinds = [JSON["Content-Type"]]
        if dialect in ("openai", "generic"):
            kinds.append(FORM["Content-Type"])
        async with open_house(Plan(limits="json_bytes = 1000\nupload_bytes = 1000")) as house:
            for kind in kinds:
                async with peer_of(house) as peer:
                    head = head_of(
                        "POST", DOORS[dialect].submit,
                        Content_Type=kind, Content_Length="2001", **house.bearer,
                    )  # fmt: skip
                    peer.send(head)
                    reply = await peer.answer()
                    assert reply.status == 413
                    assert (
                        error_of(dialect, reply.headers, reply.body)["code"] == "request_too_large"
                    )
                    assert reply.headers["Connection"] == "close"
                    line = house.lines.pop()
                    assert (line["status"], line["reason"]) == (413, "request_too_large")
            await assert_untouched(house)


async def test_a_chunked_body_is_refused_once_it_is_too_large(open_house: OpenHouse) -> None:
    """Nobody announced a length: the client streams on until it has its answer."""
    for dialect in DOORS:
        async with open_house(Plan(limits="json_bytes = 100000")) as house:
            async with peer_of(house) as peer:
                peer.send(
                    head_of(
                        "POST", DOORS[dialect].submit,
                        Transfer_Encoding="chunked", **JSON, **house.bearer,
                    )
                )  # fmt: skip
                chunk = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
                answer = asyncio.ensure_future(peer.answer())
                while not answer.done():
                    peer.send(chunk)
                    await peer.writer.drain()
                    await asyncio.sleep(0)
                reply = await answer
            assert reply.status == 413
            assert error_of(dialect, reply.headers, reply.body)["code"] == "request_too_large"
            line = await house.line(lambda line: line["status"] == 413)
            assert line["reason"] == "request_too_large"
            await assert_untouched(house)


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_client_that_leaves_inside_its_form_leaves_nothing_behind(
    house: House, framing: str
) -> None:
    """Its upload is given back, and its line says who ended it."""
    sent = PROMPT + file("input_reference", PNG + bytes(300_000))[:-1000]
    if framing == "length":
        framed, body = {"Content-Length": str(len(sent) + 5000)}, sent
    else:
        framed, body = {"Transfer-Encoding": "chunked"}, b"%x\r\n" % (len(sent) + 9) + sent
    async with peer_of(house) as peer:
        peer.send(head_of("POST", "/v1/videos", **framed, **FORM, **house.bearer))
        peer.send(body)
        await peer.writer.drain()
        await eventually(lambda: house.server.parts.spool.held_bytes >= 290_000)
    line = await house.line(lambda line: line["operation"] == "create")
    assert line["reason"] == "client_gone"
    assert "task_id" not in line
    await assert_untouched(house)


async def test_a_body_that_stops_coming_is_given_up(open_house: OpenHouse) -> None:
    async with open_house(Plan(timeouts="body_idle_s = 0.1")) as house:
        async with peer_of(house) as peer:
            peer.send(
                head_of("POST", "/v1/videos", Content_Length="99", **JSON, **house.bearer) + "{"
            )
            reply = await peer.answer()
            assert reply.status == 408
            assert error_of("openai", reply.headers, reply.body)["code"] == "request_timeout"
        line = await house.line(lambda line: line["status"] == 408)
        assert line["reason"] == "request_timeout"
        await assert_untouched(house)


async def test_a_body_that_drips_is_given_up(open_house: OpenHouse) -> None:
    """It is never silent for as long as the deadline, and would hold its place for ever."""
    usual = Plan(timeouts="body_idle_s = 0.5", limits="min_body_bytes_s = 1_000_000")
    for head in (dict(JSON), {"Content_Type": "multipart/form-data; boundary=b"}):
        async with open_house(usual) as house:
            async with peer_of(house) as peer:
                first = "{" if head == JSON else '--b\r\nContent-Disposition: form-data; name="a'
                peer.send(
                    head_of("POST", "/v1/videos", Content_Length="99999", **head, **house.bearer)
                    + first
                )

                async def drip(peer: Peer = peer) -> None:
                    while not peer.writer.is_closing():
                        peer.send(b" ")
                        await asyncio.sleep(0.02)

                dripping = asyncio.create_task(drip())
                reply = await peer.answer()
                dripping.cancel()
                assert reply.status == 408
                error = error_of("openai", reply.headers, reply.body)
                assert "slower than 1000000 bytes a second" in error["message"]
            await assert_untouched(house)


async def test_two_idempotency_keys_are_refused(house: House) -> None:
    """One of them names an earlier submit, perhaps, and nobody can say which."""
    async with peer_of(house) as peer:
        head = head_of("POST", "/v1/videos", Content_Length="14", **JSON, **house.bearer)
        twice = "Idempotency-Key: a\r\nIdempotency-Key: b\r\n\r\n"
        peer.send(head[:-2] + twice + '{"prompt":"a"}')
        reply = await peer.answer()
    assert reply.status == 400
    assert error_of("openai", reply.headers, reply.body)["param"] == "Idempotency-Key"
    await assert_untouched(house)


async def test_a_page_of_none_promises_no_more(house: House) -> None:
    """There is no last id to go on from: an SDK that pages would ask for ever."""
    await house.create()
    reply = await house.get("/v1/videos?limit=0")
    assert (reply.status, reply.json()["data"], reply.json()["has_more"]) == (200, [], False)


# ---------------------------------------------------------------- paths, methods, parameters


UNKNOWN_PATHS: list[tuple[DialectName, str, str]] = [
    ("openai", "GET", "/v1/nope"),
    ("openai", "GET", "/v2/videos"),
    ("openai", "GET", "/v1%2Fvideos"),
    ("openai", "POST", "/v1/videos/characters"),
    ("openai", "POST", "/v1/videos/generations"),
    ("openai", "GET", "/v1/videos/a/b/c"),
    ("openai", "POST", "/v1/chat/completions"),
    ("openai", "GET", "/.env"),
    ("generic", "POST", "/v1/video/generations/sync"),
    ("generic", "GET", "/v1/video/generations/a/b"),
    ("kling", "GET", "/kling"),
    ("kling", "GET", "/kling/v1/videos/text2video/a/b"),
    ("kling", "POST", "/kling/v1/images/generations"),
    ("jimeng", "GET", "/jimeng/nope"),
]


async def test_an_unknown_path_is_404_in_the_likeliest_dialect(house: House) -> None:
    for dialect, method, path in UNKNOWN_PATHS:
        house.lines.clear()
        reply = await house.request(method, path)
        error = error_of(dialect, reply.headers, reply.body)
        assert (reply.status, error["code"]) == (404, "endpoint_not_found"), path
        assert (house.lines[0]["status"], house.lines[0]["reason"]) == (404, "endpoint_not_found")
    await assert_untouched(house)


WRONG_METHODS: list[tuple[DialectName, str, str, str]] = [
    ("openai", "PUT", "/v1/videos", "GET, HEAD, POST, OPTIONS"),
    ("openai", "PATCH", "/v1/videos/video_1", "DELETE, GET, HEAD, OPTIONS"),
    ("openai", "GET", "/v1/videos/video_1/remix", "POST, OPTIONS"),
    ("openai", "POST", "/v1/videos/video_1/content", "GET, HEAD, OPTIONS"),
    ("openai", "DELETE", "/v1/models", "GET, HEAD, OPTIONS"),
    ("openai", "TRACE", "/v1/videos", "GET, HEAD, POST, OPTIONS"),
    ("generic", "GET", "/v1/video/generations", "POST, OPTIONS"),
    ("generic", "DELETE", "/v1/video/generations/video_1", "GET, HEAD, OPTIONS"),
    ("kling", "PUT", "/kling/v1/videos/text2video", "GET, HEAD, POST, OPTIONS"),
    ("kling", "DELETE", "/v1/videos/image2video/video_1", "GET, HEAD, OPTIONS"),
    ("jimeng", "GET", f"/jimeng/?Action=CVSync2AsyncGetResult&{JIMENG}", "POST, OPTIONS"),
    ("jimeng", "PUT", "/", "POST, OPTIONS"),
]


async def test_a_wrong_method_is_told_the_right_ones(house: House) -> None:
    for dialect, method, path, allow in WRONG_METHODS:
        reply = await house.request(method, path)
        error = error_of(dialect, reply.headers, reply.body)
        assert (reply.status, error["code"]) == (405, "method_not_allowed"), path
        assert reply.headers["Allow"] == allow, path
        asked = await house.request("OPTIONS", path)
        assert (asked.status, asked.body, asked.headers["Allow"]) == (204, b"", allow), path
        assert asked.headers["X-Request-Id"]
    await assert_untouched(house)


async def test_a_reply_to_head_has_no_body_and_the_connection_goes_on(house: House) -> None:
    async with peer_of(house) as peer:
        for path, status in (
            ("/v1/videos", 200),
            ("/v1/nope", 404),
            ("/v1/videos/video_1", 404),
            ("/v1/videos/video_1/content", 404),
            ("/v1/videos/video_1/events", 404),
            ("/v1/models", 200),
            ("/kling/v1/videos/text2video", 200),
            ("/openapi.json", 200),
            ("/v1/videos/edits", 405),
            ("/v1/video/generations", 405),
        ):
            peer.send(head_of("HEAD", path, **house.bearer))
            reply = await peer.answer(has_body=False)
            assert (path, reply.status) == (path, status)
            assert int(reply.headers["Content-Length"]) > 0
        peer.send(head_of("GET", "/v1/models", **house.bearer))
        assert (await peer.answer()).status == 200


HOSTILE: list[tuple[str, int, str]] = [
    ("/v1/videos/../../etc/passwd", 404, "endpoint_not_found"),
    ("/v1/videos/..", 404, "not_found"),
    ("/v1/videos/./video_1", 404, "endpoint_not_found"),
    ("/v1/videos/../models", 404, "endpoint_not_found"),
    ("/v1/videos/%2e%2E/models", 404, "endpoint_not_found"),
    ("/v1/videos/..%2f..%2fetc%2fpasswd", 404, "not_found"),
    ("/v1/videos/video_1%2Fcontent", 404, "not_found"),
    ("/v1/videos/%2e%2e/content", 404, "not_found"),
    ("/v1/videos/%00", 404, "endpoint_not_found"),
    ("/v1/videos/a%0d%0aSet-Cookie:x", 404, "endpoint_not_found"),
    ("/v1/videos/%ff%fe", 404, "endpoint_not_found"),
    ("/v1/videos/%C0%AE", 404, "endpoint_not_found"),
    ("/v1/videos/%zz", 404, "not_found"),
    ("/v1/videos/<script>", 404, "not_found"),
    ("/v1/videos/" + "a" * 7000, 404, "not_found"),
    ("/v1/videos?limit=%ff", 400, "invalid_value"),
    ("/v1/videos?limit=101", 400, "invalid_value"),
    ("/v1/videos?limit=-1", 400, "invalid_value"),
    ("/v1/videos?limit=1e400", 400, "invalid_value"),
    ("/v1/videos?order=sideways", 400, "invalid_value"),
    ("/v1/videos?after=video_nope", 404, "not_found"),
    ("/v1/videos?after=%00", 400, "invalid_value"),
    ("/v1/videos/text2video?pageNum=0", 400, "invalid_value"),
    ("/kling/v1/videos/image2video?pageSize=501", 400, "invalid_value"),
    ("/kling/v1/videos/image2video?pageSize=all", 400, "invalid_value"),
    ("/kling/v1/videos/text2video/..%2f..", 404, "not_found"),
    ("/v1/video/generations/%2e%2e%2f", 404, "task_not_exist"),
]


async def test_a_hostile_target_is_just_not_found(house: House) -> None:
    """Ids are compared, never resolved; what a client wrote comes back as plain JSON text."""
    async with peer_of(house) as peer:
        for target, status, code in HOSTILE:
            house.lines.clear()
            peer.send(head_of("GET", target, **house.bearer))
            reply = await peer.answer()
            said = json.loads(reply.body)
            assert (target, reply.status, said["error"]["code"]) == (target, status, code)
            assert reply.headers["X-Request-Id"].startswith("req_")
            assert "Set-Cookie" not in reply.headers
            assert reply.headers["X-Content-Type-Options"] == "nosniff"
            assert [line["status"] for line in house.lines] == [status], target
        peer.send(head_of("GET", "/v1/models", **house.bearer))
        assert (await peer.answer()).status == 200
    await assert_untouched(house)


ACTIONS = [
    ("", "Action", "is required: CVSync2AsyncSubmitTask or CVSync2AsyncGetResult"),
    ("?Version=2022-08-31", "Action", "is required"),
    ("?Action=CVProcess&Version=2022-08-31", "Action", "must be CVSync2AsyncSubmitTask or"),
    ("?Action=CVSync2AsyncSubmitTask", "Version", "is required: 2022-08-31"),
    ("?Action=CVSync2AsyncSubmitTask&Version=2020-01-01", "Version", "must be 2022-08-31"),
]


async def test_an_unknown_action_or_version_is_named(house: House) -> None:
    for path, (query, param, says) in itertools.product(("/jimeng/", "/jimeng", "/"), ACTIONS):
        reply = await house.post(path + query, json={"prompt": "a"})
        error = error_of("jimeng", reply.headers, reply.body)
        assert (reply.status, error["param"]) == (400, param), path + query
        assert says in error["message"], path + query
    await assert_untouched(house)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_looks_at_the_root_is_told_where_to_go(house: House, method: str) -> None:
    reply = await house.request(method, "/?x=1")
    assert reply.status == 404
    if method == "GET":
        error = reply.json()["error"]
        assert error["code"] == "endpoint_not_found"
        assert all(path in error["message"] for path in ("/v1/videos", "/kling/", "/jimeng/"))
    of_jimeng = await house.request(method, "/?Action=CVSync2AsyncSubmitTask")
    assert of_jimeng.status == 405


# ---------------------------------------------------------------- what is no HTTP for us


HEAD = "GET /v1/models HTTP/1.1\r\nHost: h\r\n"


NO_HTTP = {
    "long path": "GET /" + "a" * 9000 + " HTTP/1.1\r\nHost: h\r\n\r\n",
    "long header": HEAD + "X-Long: " + "y" * 9000 + "\r\n\r\n",
    "many headers": HEAD + "".join(f"X-{n}: {'y' * 50}\r\n" for n in range(400)) + "\r\n",
    "space in a name": HEAD + "Bad Name: x\r\n\r\n",
    "NUL in a value": HEAD + "X-Nul: a\x00b\r\n\r\n",
    "two lengths": HEAD + "Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "negative length": HEAD + "Content-Length: -1\r\n\r\n",
    "length and chunked": HEAD + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "ftp": "GET ftp://other.example/ HTTP/1.1\r\nHost: h\r\n\r\n",
    "user in the target": "GET http://u@h/v1/models HTTP/1.1\r\nHost: h\r\n\r\n",
    "connect": "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: h\r\n\r\n",
    "space in the path": "GET /v1/mo dels HTTP/1.1\r\nHost: h\r\n\r\n",
    "é in the path": "GET /v1/é HTTP/1.1\r\nHost: h\r\n\r\n",
    "tls": "\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    "ssh": "SSH-2.0-OpenSSH_9.6\r\n\r\n",
}


async def test_what_cannot_be_read_as_http_is_refused_and_the_connection_ends(
    house: House,
) -> None:
    """With a request id that the log knows: there is no access line for what was no request."""
    for name, wrong in NO_HTTP.items():
        async with peer_of(house) as peer:
            peer.send(wrong)
            reply = await peer.answer()
            assert reply.status == 400, name
            assert error_of("openai", reply.headers, reply.body)["code"] == "malformed_request"
            assert reply.headers["Connection"] == "close", name
            peer.writer.write_eof()
            assert await peer.rest() == b"", name
        told = log_of(house)[-1]
        assert told["event"] == "connection", name
        assert told["what"].startswith(reply.headers["X-Request-Id"] + ": "), name
    assert house.lines == []
    assert (await house.get("/v1/models")).status == 200
    await assert_untouched(house)


PLAIN = [
    "//v1/videos",
    "/v1//videos",
    "/v1/v1/videos",
    "/v1/v1/v1/videos",
    "//v1/v1//videos//",
    "/v1/videos/",
    "/v1/videos///",
    "/%761/videos",
    "/v1/%76ideo%73",
    "/videos/",
    "/openai/v1/videos",
    "/openai/videos/",
    "/openai/deployments/sora-2/videos",
    "http://h/v1/videos",
    "HTTP://h:8080//v1/videos/",
    "https://[::1]:443/v1/v1/videos",
]


async def test_a_path_means_what_it_plainly_means(house: House) -> None:
    """Submits, lists and status requests by every spelling are the same as by the plain one."""
    for number, path in enumerate(PLAIN):
        async with peer_of(house) as peer:
            for query in ("", "?api-version=preview"):
                body = json.dumps({"model": "sora-2", "prompt": f"cat {number} {query}"})
                peer.send(
                    head_of(
                        "POST", path + query, Content_Length=str(len(body)), **JSON, **house.bearer
                    )
                    + body
                )
                made = await peer.answer()
                assert made.status == 200, (path, made.body)
                task_id = json.loads(made.body)["id"]
                for method in ("GET", "HEAD"):
                    peer.send(head_of(method, f"{path}/{task_id}{query}", **house.bearer))
                    found = await peer.answer(has_body=method == "GET")
                    assert found.status == 200, (path, method)
                    assert int(found.headers["Content-Length"]) > 100
                peer.send(head_of("GET", path + query, **house.bearer))
                listed = json.loads((await peer.answer()).body)
                assert listed["data"][0]["id"] == task_id, path
    assert house.sim.submits("openai") == 2 * len(PLAIN)


async def test_headers_that_are_no_text_are_just_wrong(house: House) -> None:
    """Bytes above ASCII in a header go nowhere, and come back nowhere."""
    requests: list[tuple[bytes, int]] = [
        (b"GET /v1/videos HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer \xff\xfe\r\n\r\n", 401),
        (b"GET /v1/videos HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer \xc3\xa9\r\n\r\n", 401),
        (b"OPTIONS /v1/videos HTTP/1.1\r\nHost: h\r\nOrigin: \xff\r\n\r\n", 204),
    ]
    for request, status in requests:
        async with peer_of(house) as peer:
            peer.send(request)
            reply = await peer.answer()
            assert (reply.status, request) == (status, request)
            assert all(value.isascii() for value in reply.headers.values())
    await assert_untouched(house)


async def test_garbage_after_garbage_leaves_a_working_gateway(house: House) -> None:
    """A thousand broken bodies later the next good request is served, and costs one render."""
    broken: Any = [b"{", b"[]", b"\xff" * 100, b'{"prompt":1}', b'{"prompt":"a","n":"x"}']
    for number in range(40):
        reply = await house.post("/v1/videos", data=broken[number % len(broken)], headers=JSON)
        assert reply.status == 400
    await assert_untouched(house)
    await house.completed()
    assert (house.sim.submits("openai"), house.sim.renders("openai")) == (1, 1)
