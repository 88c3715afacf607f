"""What Redis keeps of a task or token is what was put there; names of keys are fixed."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import TooLarge
from proxy.model import Kind, Limits, Operation, Result, Stage, Task, TaskError
from proxy.store import keys
from proxy.store.codec import (
    MAX_OPEN_BYTES,
    MAX_TASK_BYTES,
    LineEntry,
    decode_line,
    decode_task,
    encode_line,
    encode_new_task,
    encode_task,
    task_fields,
)
from proxy.store.token_codec import TokenRecord, decode_token, encode_token

ID = "video_0b" + "4" * 46

LEAST = Task(
    id=ID,
    owner="acme",
    token_id="tok",
    dialect="openai",
    operation=Operation.CREATE,
    kind=Kind.TEXT,
    model="sora-2",
    created_ms=1,
    updated_ms=2,
)

MOST = Task(
    id=ID,
    owner="ação 中文",
    token_id="tok",
    dialect="kling",
    operation=Operation.REMIX,
    kind=Kind.IMAGE,
    model="kling-v2-6",
    created_ms=1_790_000_000_000,
    updated_ms=1_790_000_000_001,
    stage=Stage.COMPLETED,
    version=7,
    attempt=2,
    prompt='a "cat"\n\u0000 🐈',
    seconds=5.5,
    size=(1280, 720),
    request={"fps": 24, "deep": {"list": [1, 2.5, None, True, "x"]}},
    external_id="mine",
    source_id="video_00" + "0" * 46,
    route="sora-*",
    upstream="kling-main",
    provider="kling",
    upstream_model="kling-v2-6",
    credential="k1",
    upstream_id="u-1",
    handle={"path": "/v1/videos/image2video"},
    adjusted=("seconds=4>5",),
    dropped=("seed", "fps"),
    progress=100,
    results=(
        Result(url="https://cdn/x.mp4?sig=1", id="v1", seconds=5.0, variants={"watermark": "w"}),
        Result(expires_ms=9),
    ),
    error=TaskError("upstream_error", "boom", "5000"),
    native={"task_info": {"external_task_id": "mine"}},
    completed_ms=3,
    expires_ms=4,
    deleted=True,
    fingerprint="f0",
    idempotency="1d",
    unconfirmed=True,
    bound_ms=5,
    webhook="https://client.example/hook",
    n=2,
    audio=True,
    mode="pro",
    price={"per_second": {"720p": "0.05"}},
    hold_micro=500_000,
    settled_micro=400_000,
    queue="kling-main",
    sent_ms=6,
    missing_ms=7,
    silent_ms=8,
    trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize("task", [LEAST, MOST, replace(MOST, error=None, results=())])
def test_a_task_comes_back_as_it_was(task: Task) -> None:
    back = decode_task(encode_task(task))
    assert back == task
    for item in fields(Task):  # == does not tell an enum from its text, nor 1 from True
        assert type(getattr(back, item.name)) is type(getattr(task, item.name)), item.name
    assert all(type(result) is Result for result in back.results)


def test_every_field_of_a_task_is_covered_here() -> None:
    """MOST differs from LEAST everywhere but in the id, so a forgotten field cannot hide."""
    same = {f.name for f in fields(Task) if getattr(MOST, f.name) == getattr(LEAST, f.name)}
    assert same == {"id", "token_id"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    st.text(),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(Stage),
    st.dictionaries(st.text(max_size=10), json_values, max_size=5),
)
def test_any_task_comes_back(
    prompt: str, seconds: float | None, stage: Stage, native: dict[str, Any]
) -> None:
    task = replace(LEAST, prompt=prompt, seconds=seconds, stage=stage, native=native)
    assert decode_task(encode_task(task)) == task


def test_a_read_only_mapping_is_stored_too() -> None:
    task = replace(LEAST, native=MappingProxyType({"a": 1}))
    assert decode_task(encode_task(task)).native == {"a": 1}


def test_documents_of_other_versions_are_read() -> None:
    """Unknown keys are ignored at every level, missing ones take the model's default."""
    raw = orjson.loads(encode_task(MOST))
    for value in (raw, raw["error"], *raw["results"]):
        value["invented_later"] = {"x": 1}
    del raw["deleted"], raw["results"][0]["variants"], raw["adjusted"], raw["size"]
    back = decode_task(orjson.dumps(raw))
    assert back == replace(
        MOST,
        deleted=False,
        adjusted=(),
        size=None,
        results=(replace(MOST.results[0], variants={}), MOST.results[1]),
    )


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"{}", b'{"id":"x"}', b"null", encode_task(LEAST).replace(b"create", b"?")],
)
def test_what_is_no_task_is_a_value_error(document: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_task(document)


def test_fields_beside_the_document_repeat_it() -> None:
    flat = task_fields(MOST)
    stored = dict(zip(flat[::2], flat[1::2], strict=True))
    assert stored == {
        "v": 7,
        "stage": "completed",
        "attempt": 2,
        "kind": "image2video",
        "tok": "tok",
        "gone": 1,
        "doc": encode_task(MOST),
    }


# ---------------------------------------------------------------- size

BIG = "x" * 20_000

TRIMS: list[tuple[str, Task, dict[str, Any]]] = [
    (
        "the largest native fields go first, and no more than needed",
        replace(LEAST, native={"small": 1, "big": BIG, "bigger": BIG + BIG, "tail": "y"}),
        {"native": {"small": 1, "big": BIG, "tail": "y"}},
    ),
    (
        "native before request",
        replace(LEAST, native={"a": BIG}, request={"b": BIG}),
        {"native": {}, "request": {"b": BIG}},
    ),
    (
        "request before prompt",
        replace(LEAST, request={"a": BIG + BIG, "fps": 24}, prompt="p" * 5000),
        {"request": {"fps": 24}, "prompt": "p" * 5000},
    ),
    (
        "at last the tails of the texts",
        replace(LEAST, prompt="中" * 20_000, error=TaskError("timeout", "m" * 2000)),
        {"prompt": "中" * 1000, "error": TaskError("timeout", "m" * 1000)},
    ),
]


@pytest.mark.parametrize(("task", "changes"), [t[1:] for t in TRIMS], ids=[t[0] for t in TRIMS])
def test_a_large_task_is_trimmed_in_order(task: Task, changes: dict[str, Any]) -> None:
    document = encode_task(task)
    assert len(document) <= MAX_TASK_BYTES
    assert decode_task(document) == replace(task, **changes)


def test_a_task_of_exactly_the_limit_is_whole() -> None:
    room = MAX_OPEN_BYTES - len(encode_task(replace(LEAST, prompt="")))
    for extra, kept in [(0, room), (1, 1000)]:
        task = replace(LEAST, prompt="p" * (room + extra))
        assert decode_task(encode_task(task)).prompt == "p" * kept


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (replace(LEAST, external_id="x" * 1025), "'external_task_id' is longer than the 1024"),
        (replace(LEAST, webhook="x" * 4097), "'callback_url' is longer than the 4096"),
        (replace(LEAST, price={"x": BIG + BIG}), f"at most {MAX_OPEN_BYTES}"),
    ],
)
def test_what_leaves_no_room_for_its_end_is_refused_before_it_is_a_task(
    task: Task, said: str
) -> None:
    with pytest.raises(TooLarge, match=said):
        encode_new_task(task)


def test_a_list_of_dropped_fields_is_kept_short() -> None:
    """The names that a vendor knows stay, for answers depend on them."""
    names = ("seed", *(f"{n}{'x' * 500}" for n in range(63)), "fps")
    kept = decode_task(encode_task(replace(LEAST, dropped=names, adjusted=names)))
    assert kept.dropped == kept.adjusted
    assert (kept.dropped[0], kept.dropped[-2:]) == ("seed", ("fps", "+61"))
    assert len(orjson.dumps(kept.dropped)) < 1100


def test_results_too_large_to_keep_lose_their_last_addresses_first() -> None:
    results = tuple(Result(url=f"{n}{BIG}", id=str(n), variants={"w": "u"}) for n in range(3))
    done = replace(LEAST, stage=Stage.COMPLETED, results=results)
    document = encode_task(done)
    assert len(document) <= MAX_TASK_BYTES
    kept = decode_task(document).results
    assert [result.url for result in kept] == [results[0].url, "", ""]
    assert [result.id for result in kept] == ["0", "1", "2"]


words = st.text(st.characters(codec="utf-8"), max_size=50).map(lambda text: text * 40)
names = st.lists(words, max_size=80).map(tuple)
bags = st.dictionaries(words, words, max_size=20)


@settings(max_examples=80, deadline=None)
@given(words, words, names, bags, bags, words, st.integers(1, 12))
def test_whatever_is_reserved_can_go_on_and_end(
    prompt: str,
    webhook: str,
    dropped: tuple[str, ...],
    request: dict[str, Any],
    native: dict[str, Any],
    error: str,
    count: int,
) -> None:
    """Sent, bound, completed with the most a provider can say, failed: each has its record."""
    task = replace(LEAST, prompt=prompt, webhook=webhook[:1000], request=request, dropped=dropped)
    try:
        encode_new_task(task)
    except TooLarge:
        return
    sent = replace(task, stage=Stage.SENT, upstream="u", handle={"path": "p" * 200})
    bound = replace(sent, stage=Stage.BOUND, upstream_id="i" * 512, native=native)
    result = Result(url="https://cdn.example/" + "u" * 8000, id="i" * 200, variants={"w": BIG})
    completed = replace(bound, stage=Stage.COMPLETED, results=(result,) * count)
    failed = replace(bound, stage=Stage.FAILED, error=TaskError("timeout", error * 50, error))
    for state in (sent, bound, completed, failed):
        document = encode_task(state)
        assert len(document) <= MAX_TASK_BYTES
        kept = decode_task(document)
        assert (kept.stage, kept.upstream_id) == (state.stage, state.upstream_id)
        assert len(kept.results) == len(state.results)
        assert (kept.error is None) == (state.error is None)


# ---------------------------------------------------------------- tokens and lines

TOKENS = [
    TokenRecord("t", "ab", "n", "o", 1),
    TokenRecord(
        id="t",
        secret_sha256="ab12",
        previous_sha256="cd34",
        generation=3,
        name="日本 studio",
        owner="o",
        models=("sora-*", 'q"uote'),
        previous_until_ms=9,
        limits=Limits(budget_micro=0, requests_per_minute=1, max_in_flight=2),
        labels={"team": "film = 1"},
        dialects=("kling",),
        operations=("get", "list"),
        addresses=("192.0.2.0/24",),
        shared=True,
        disabled_ms=6,
        created_ms=3,
        expires_ms=4,
        revoked_ms=5,
    ),
]


def as_stored(flat: tuple[str | int, ...]) -> dict[bytes, bytes]:
    texts = [str(item).encode() for item in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


@pytest.mark.parametrize("record", TOKENS)
def test_a_token_comes_back_as_it_was(record: TokenRecord) -> None:
    stored = as_stored(encode_token(record))
    assert decode_token(stored) == record
    assert decode_token(stored | {b"invented_later": b"x"}) == record


def test_what_is_none_is_not_stored() -> None:
    assert set(as_stored(encode_token(TOKENS[0]))) == {
        b"id",
        b"secret_sha256",
        b"generation",
        b"name",
        b"owner",
        b"created_ms",
    }


@pytest.mark.parametrize(
    "changes",
    [
        {b"limits": b'{"max_in_flight":"many"}'},
        {b"limits": b"[]"},
        {b"models": b"{"},
        {b"generation": b""},
        {b"name": None},
    ],
)
def test_what_is_no_token_is_a_value_error(changes: dict[bytes, bytes | None]) -> None:
    stored = as_stored(encode_token(TOKENS[0])) | changes
    with pytest.raises(ValueError, match=r"."):
        decode_token({k: v for k, v in stored.items() if v is not None})


def test_a_record_never_prints_its_hashes() -> None:
    assert "ab12" not in repr(TOKENS[1])
    assert "cd34" not in repr(TOKENS[1])


def test_a_line_entry_comes_back_as_it_was() -> None:
    entry = LineEntry(5, 2, Stage.SENT, 1, "sent to kling-main")
    back = decode_line(encode_line(entry))
    assert back == entry
    assert type(back.stage) is Stage


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("owner", ["acme", "", "ação 中文", "a{b}"])
def test_a_shard_is_the_digest_modulo_sixteen(owner: str) -> None:
    expected = int(hashlib.sha256(owner.encode()).hexdigest(), 16) % 16
    assert keys.shard_of(owner) == f"{expected:02x}"
    task_id = keys.new_task_id(owner, "5" * 46)
    assert keys.shard_of_task(task_id) == keys.shard_of(owner)


def test_the_shard_of_a_known_owner_never_changes() -> None:
    """It is inside ids that clients keep: a literal, not a computation."""
    assert keys.shard_of("acme") == "07"


@pytest.mark.parametrize("random", ["", "5" * 45, "5" * 47, "A" * 46, "g" * 46, "5" * 45 + "\n"])
def test_an_id_needs_46_hex_digits(random: str) -> None:
    with pytest.raises(ValueError, match="46"):
        keys.new_task_id("acme", random)


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "video_",
        "video_0b" + "4" * 45,
        "video_0b" + "4" * 47,
        "video_0b" + "4" * 46 + "\n",
        "video_10" + "4" * 46,
        "video_0B" + "4" * 46,
        "video_0b" + "4" * 45 + "F",
        "Video_0b" + "4" * 46,
        "video_{0}" + "4" * 45,
        "video_0b" + "４" * 46,
    ],
)
def test_anything_else_has_no_shard_and_no_key(task_id: str) -> None:
    assert keys.shard_of_task(task_id) is None
    for name in (keys.task, keys.line):
        with pytest.raises(ValueError, match="not a task id"):
            name(task_id)


def test_keys_are_spelled_as_documented() -> None:
    shard = keys.shard_of("a{x}")
    assert keys.task(ID) == "rw:{0b}:task:" + ID
    assert keys.line(ID) == "rw:{0b}:line:" + ID
    assert keys.owner_index("a{x}") == f"rw:{{{shard}}}:own:a{{x}}"
    assert keys.alias("tok", "a{x}", "e:1") == f"rw:{{{shard}}}:ext:tok:e:1"
    assert keys.due("0f") == "rw:{0f}:due"
    assert keys.token("t") == "rw:tok:t"
    assert (keys.META, keys.TOKENS, keys.CHANNEL) == ("rw:meta", "rw:toks", "rw:chan")
    assert keys.ALL_SHARDS[0] == "00"
    assert keys.ALL_SHARDS[-1] == "0f"
    assert len(keys.ALL_SHARDS) == 16


def test_a_long_alias_makes_no_long_key() -> None:
    edge, long = "中" * 42 + "xx", "中" * 42 + "xxx"
    assert keys.alias("tok", "o", edge).endswith(edge)
    assert keys.alias("tok", "o", long).endswith(
        "ext:tok:sha256:" + hashlib.sha256(long.encode()).hexdigest()
    )
