"""What providers answer is read whatever it looks like, bounded, and cleaned for clients."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.model import Status
from proxy.providers import jobs, results, states, values, words

# ---------------------------------------------------------------- documents


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"id": 1}', {"id": 1}),
        (b'\xef\xbb\xbf{"id": 1}', {"id": 1}),  # a byte order mark
        ('{"id": "x"}'.encode("utf-16"), {"id": "x"}),
        (b'\r\n {"id": 1} \n', {"id": 1}),
        (b'{"id": "x", "a": NaN, "b": -Infinity}', {"id": "x", "a": None, "b": None}),
        (b'{"id": "x", "n": 1e999}', {"id": "x", "n": None}),
        (b'{"id": "x", "s": "\\ud800"}', {"id": "x", "s": "\ufffd"}),
        (b'{"id": "x", "s": "\xe9"}', {"id": "x", "s": "\ufffd"}),
        (b'{"id": ' + b"9" * 400 + b"}", {"id": "9" * 400}),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, None),
        (b"<html>", None),
        (b"[]", None),
        (b"", None),
        (b'{"id":', None),
    ],
)  # fmt: skip
def test_a_document_is_read_as_python_servers_write_it(body: bytes, expected: object) -> None:
    assert values.document(body) == expected


@pytest.mark.parametrize("item", [b"[],", b"{},", b"0,", b'"",', b'{"a":1},'])
@pytest.mark.parametrize("read", [values.document, values.exact_document])
def test_an_answer_of_a_million_values_is_no_document(
    read: Callable[[bytes], object], item: bytes
) -> None:
    body = b'{"id": "x", "k": [' + item * 1_000_000 + b"0]}"
    assert read(body) is None
    assert read(body.decode().encode("utf-16")) is None


def test_a_long_text_is_not_many_values() -> None:
    body = b'{"id": "x", "b64_json": "' + b"QUJD" * 1_000_000 + b'"}'
    assert values.document(body) is not None


def test_an_id_longer_than_64_bits_keeps_its_digits() -> None:
    body = b'{"id": 123456789012345678901234567890}'
    assert values.exact_document(body) == {"id": "123456789012345678901234567890"}


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_make_a_document_raise(body: bytes) -> None:
    values.document(body)
    values.document(b'{"a":' + body)


# ---------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("value", "seconds", "percent", "moment"),
    [
        (5, 5.0, 5, None),
        ("5", 5.0, 5, None),
        ("5s", 5.0, None, None),
        ("50%", None, 50, None),
        ("5.1", 5.1, 5, None),
        (0, None, 0, None),
        (-1, None, 0, None),
        (True, None, None, None),
        (None, None, None, None),
        ("soon", None, None, None),
        ([], None, None, None),
        (1e308, None, 100, None),
        (float("nan"), None, None, None),
        (float("inf"), None, None, None),
        (10**400, None, None, None),
        ("9" * 400, None, None, None),
        (1767229260, None, 100, 1767229260000),
        ("1767229260", None, 100, 1767229260000),
        (1767229260000, None, 100, 1767229260000),
        ("2026-01-01T01:01:00Z", None, None, 1767229260000),
        ("2026-01-01T01:01:00", None, None, 1767229260000),
        ("2026-99-01T01:01:00Z", None, None, None),
    ],
)
def test_numbers_and_moments_are_read_in_every_form(
    value: object, seconds: float | None, percent: int | None, moment: int | None
) -> None:
    read = (values.quantity(value), values.percent(value), values.moment_ms(value))
    assert read == (seconds, percent, moment)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("video_1", "video_1"),
        (7, "7"),
        (2**64 - 1, str(2**64 - 1)),
        (" x ", "x"),
        ("x" * 512, "x" * 512),
        ("x" * 513, None),
        ("", None),
        (0, None),
        (-1, None),
        (True, None),
        (7.5, None),
        ("a\nb", None),
        ("a\u202eb", None),
        ("\ud800", None),
        (None, None),
        (["x"], None),
    ],
)
def test_an_id_is_short_and_printable(value: object, expected: str | None) -> None:
    assert values.identifier(value) == expected


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "1500", "retry-after": "7"}, 1.5),
        ({"retry-after": "99999999"}, 3600),
        ({"retry-after-ms": "99999999999"}, 3600),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "9" * 5000}, None),
        ({}, None),
    ],
)
def test_a_wait_is_seconds_and_an_hour_at_most(
    headers: dict[str, str], wait_s: float | None
) -> None:
    assert values.retry_after_s(headers) == wait_s


# ---------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example/x.mp4?sig=a%2Fb&e=1", "https://a.example/x.mp4?sig=a%2Fb&e=1"),
        ("https://a.example/my clip.mp4", "https://a.example/my%20clip.mp4"),
        ("https://a.example/视频.mp4", "https://a.example/%E8%A7%86%E9%A2%91.mp4"),
        ("https://a.example/100% done.mp4", "https://a.example/100%25%20done.mp4"),
        ("http://bücher.example:8080/x", "http://xn--bcher-kva.example:8080/x"),
        (" https://a.example/x ", "https://a.example/x"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("https://a.example:99999/x", None),
        ("https://a.example\\@b/x", None),
        ("https://a b/x", None),
        ("https://" + "a" * 64 + ".example/x", None),
        ("https://a.example/x\ny", None),
        ("https://a.example/\ud800", None),
        ("https://", None),
        ("ftp://a.example/x", None),
        ("file:///etc/passwd", None),
        ("data:video/mp4;base64,AAAA", None),
        ("/outputs/x.mp4", None),
        ("//a.example/x", None),
        ("https://a.example/" + "x" * 5000, None),
        (7, None),
    ],
)
def test_a_result_url_is_fit_to_be_fetched(url: object, expected: str | None) -> None:
    assert results.web_url(url) == expected


U, V = "https://cdn.example/1.mp4", "https://cdn.example/2.mp4"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"url": U}, (U,)),
        ({"urls": [U, V, U]}, (U, V)),
        ({"video_url": U, "url": V}, (U,)),
        ({"videoUrl": U}, (U,)),
        ({"video": {"url": U}}, (U,)),
        ({"video": {"id": "7"}, "url": U}, (U,)),
        ({"videos": [{"url": U}, {"url": V}]}, (U, V)),
        ({"output": U}, (U,)),
        ({"output": [U, V]}, (U, V)),
        ({"output": {"url": U}}, (U,)),
        ({"output": {"video_url": U}}, (U,)),
        ({"data": [{"url": U}]}, (U,)),
        ({"metadata": {"url": U}}, (U,)),
        ({"result": {"url": U}}, (U,)),
        ({"task_result": {"videos": [{"url": U}]}}, (U,)),
        ({"content": {"video_url": U}}, (U,)),
        ({"generations": [{"video": {"url": U}}]}, (U,)),
        ({"content": [{"type": "image_url", "url": V}, {"type": "video", "url": U}]}, (U,)),
        ({"image_url": V, "cover_url": V, "thumbnail_url": V, "polling_url": V}, ()),
        ({"url": None, "urls": None, "file_path": "/srv/outputs/x.mp4"}, ()),
        ({"url": "/srv/outputs/x.mp4"}, ()),
    ],
)
def test_a_result_url_is_found_wherever_answers_put_it(
    answer: object, expected: tuple[str, ...]
) -> None:
    assert results.result_urls(answer) == expected


def test_result_urls_fit_into_a_record() -> None:
    many = [f"https://a.example/{n}" for n in range(100)]
    assert results.result_urls({"urls": many}) == tuple(many[: results.URLS_MAX])
    long = [f"https://a.example/{n}/" + "x" * 4000 for n in range(10)]
    kept = results.result_urls({"urls": long})
    assert kept == tuple(long[:4])
    assert sum(map(len, kept)) <= results.URLS_MAX_CHARS


# ---------------------------------------------------------------- states

WORDS: dict[Status, tuple[str, ...]] = {
    Status.QUEUED: (
        *("queued", "pending", "submitted", "waiting", "created", "accepted", "preparing"),
        *("IN_QUEUE", "NOT_START", "Preprocessing", "JOB_STATE_PENDING"),
    ),
    Status.IN_PROGRESS: (
        *("running", "processing", "in_progress", "generating", "IN_PROGRESS", "InProgress"),
        *("in-progress", "In Progress", "TASK_STATUS_PROCESSING"),
    ),
    Status.COMPLETED: (
        *("success", "succeeded", "succeed", "complete", "completed", "done", "finished"),
        *("ready", "SUCCESS", "Completed", "TASK_STATUS_SUCCEED", "job-state-succeeded"),
    ),
    Status.FAILED: (
        *("fail", "failed", "failure", "error", "cancelled", "canceled", "expired", "rejected"),
        *("moderated", "blocked", "timeout", "deleted", "FAILURE", "Request Moderated"),
        *("TIMED_OUT", "VIDEO_GENERATION_FAILED"),
    ),
}


@pytest.mark.parametrize(
    ("word", "status"), [(word, status) for status, words in WORDS.items() for word in words]
)
def test_a_state_is_known_by_its_family(word: str, status: Status) -> None:
    assert states.status_of(word) is status


@pytest.mark.parametrize("word", ["upscaling", "unknown", "2", "", "status", "not completed"])
def test_a_word_of_no_family_is_told_apart(word: str) -> None:
    assert states.status_of(word) is None


# ---------------------------------------------------------------- words for clients

SECRETS = [
    ("sk-abc123 at redis.internal:6379 (10.0.0.7)", "[key] at [address] ([address])"),
    ("密钥sk-abcdef12345无效，请访问https://a.b/c查看", "密钥[key]无效，请访问[address]"),
    ("s\u200bk-abcdef12", "[key]"),
    ("\u202eevil\x1b[31m\x07", "evil [31m"),
    ("wrote C:\\models\\wan and /etc/passwd", "wrote [path] and [path]"),
    ("mail ops@corp.example", "mail [address]"),
    ("*.Redis.INTERNAL refused", "*[address] refused"),
    ("at [fe80::1]:80 and fe80::1ff:fe23", "at [address] and [address]"),
    ("render-7:30000 is gone", "[address] is gone"),
    ("secret_access_key=abc password: hunter2", "[key] [key]"),
    ("Authorization: Basic dXNlcjpwYXNz", "[key]"),
    ("eyJhbGciOi.eyJpc3M.sig-1 expired", "[key] expired"),
    ("AKLTabc123456 is unknown", "[key] is unknown"),
    ("task 842250903629086785 and cbcd5f7e-bf46-4bf5-aeb4-8cec836d0f44", "task [id] and [id]"),
    ("<!DOCTYPE html><title>nginx</title>", ""),
    ("x\nTraceback (most recent call last):\n  File", ""),
]  # fmt: skip


@pytest.mark.parametrize(("message", "shown"), SECRETS)
def test_no_host_key_path_or_id_is_shown(message: str, shown: str) -> None:
    assert words.words(message) == shown


@pytest.mark.parametrize(
    "message",
    [
        "参数错误：duration 应为 5 或 10",
        "size must be one of 720x1280, 1280x720 and/or 1024x1792 (ratio 16/9).",
        "image_tail and camera_control are exclusive at 12:30:45",
        "kling-v2-1-master does not support cfg_scale 0.5/1.0",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
    ],
)
def test_useful_words_stay(message: str) -> None:
    assert words.words(message) == message


def test_words_are_one_short_line() -> None:
    assert len(words.words("word " * 1000)) == words.MAX_CHARS
    assert words.words("a\r\nb\tc") == "a b c"
    assert words.words(7, "none") == words.words("\x00", "none") == "none"


@pytest.mark.parametrize(
    "piece", ["a.", "a-", "0:", "x", "_1", "/a", "a@", "sk-", "1.", "a.b:", "eyJ.", "::", "A1-"]
)
def test_no_message_takes_long_to_clean(piece: str) -> None:
    """Patterns that try a long run again from each of its characters took a second for this."""
    message = piece * (4 * words.MAX_CHARS)
    began_s = time.process_time()
    words.words(message)
    assert time.process_time() - began_s < 0.2


def test_native_members_are_cleaned_and_bounded() -> None:
    data = {"note": "see redis.internal:6379", "n": 1, "deep": {"key": "sk-abcdef"}, "id": "7"}
    kept = jobs.remaining(data, ())
    assert kept == {"note": "see [address]", "n": 1, "deep": {"key": "[key]"}}
    assert jobs.remaining({f"k{n}": "word " * 100 for n in range(40)}, ()) == {}
