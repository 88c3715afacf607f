"""What opens doors, and what a client told us, stays out of the log; everything else stays in."""

from __future__ import annotations

import json

import pytest

from proxy.telemetry.redaction import Redactor

SECRET = "Zz9" * 14 + "Z"
TOKEN = f"rw_abcdefghij234567_{SECRET}"
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJhIn0.c2lnbmF0dXJlLXdpdGgtcGFydHM"
OWN = "sk-upstream-0123456789"
PLAIN = Redactor([OWN])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"no such key {TOKEN}.", "no such key rw_abcdefghij234567_…."),
        (f"x{TOKEN}&b", "xrw_abcdefghij234567_…&b"),
        (f"jwt {JWT} refused", "jwt eyJ… refused"),
        ("whsec_" + "A" * 43 + "=", "whsec_…"),
        (f"Authorization: Bearer {TOKEN}", "Authorization: …"),
        (f"Authorization: Bearer {JWT}\r\nHost: a", "Authorization: …\r\nHost: a"),
        (
            "{'Authorization': 'Bearer abcdefghijklmnop', 'Host': 'a'}",
            "{'Authorization': '…', 'Host': 'a'}",
        ),
        ("sent Bearer abcdefghijklmnop1 twice", "sent Bearer … twice"),
        ("Basic dXNlcjpwYXNzd29yZA==", "Basic …"),
        (
            "HMAC-SHA256 Credential=AK/20260101/r/cv/request, SignedHeaders=host, Signature=ab",
            "HMAC-SHA256 …",
        ),
        ("Cookie: session=1; b=2", "Cookie: …"),
        (
            "/v1/videos/video_1/content?exp=17&sig=abc-_d&index=0",
            "/v1/videos/video_1/content?exp=17&sig=…&index=0",
        ),
        (
            "https://cdn.example/a.mp4?X-Amz-Signature=ff00&X-Amz-Date=1",
            "https://cdn.example/a.mp4?X-Amz-Signature=…&X-Amz-Date=1",
        ),
        (
            "https://cdn.example/a?X-Tos-Credential=AK%2F1&x-tos-signature=9",
            "https://cdn.example/a?X-Tos-Credential=…&x-tos-signature=…",
        ),
        ("https://cdn.example/a?auth_key=1-0-0-5f&b=1", "https://cdn.example/a?auth_key=…&b=1"),
        (
            "https://cdn.example/a?AWSAccessKeyId=AK&Expires=1",
            "https://cdn.example/a?AWSAccessKeyId=…&Expires=1",
        ),
        ("POST /callbacks/video_0a/0f1e2d failed", "POST /callbacks/video_0a/… failed"),
        ("redis://user:pass%40word@db:6379/0", "redis://user:…@db:6379/0"),
        ("redis://:password@db:6379", "redis://:…@db:6379"),
        ('{"secret_key": "abc", "name": "k1"}', '{"secret_key": "…", "name": "k1"}'),
        ("Credential(name='k1', api_key='abc')", "Credential(name='k1', api_key='…')"),
        (r'why="{\"access_key\": \"AK1\"}"', r'why="{\"access_key\": \"…\"}"'),
        (
            f"the upstream said: Incorrect API key {OWN}",
            "the upstream said: Incorrect API key (hidden)",
        ),
        ('{"prompt": "a \\"red\\" cat", "seconds": 4}', '{"prompt": "(prompt)", "seconds": 4}'),
        ("{'negative_prompt': 'rain'}", "{'negative_prompt': \"(prompt)\"}"),
        ('got {"prompt": "a cat that was cu', 'got {"prompt": "(prompt)"'),
        (r'"{\"prompt\": \"a cat\", \"n\": 1}"', r'"{\"prompt\": "(prompt)", \"n\": 1}"'),
    ],
)
def test_what_opens_doors_is_taken_out(text: str, left: str) -> None:
    assert PLAIN.text(text) == left
    assert PLAIN.text(left) == left


@pytest.mark.parametrize(
    "text",
    [
        "config.toml:7: upstreams[0].credentials[0].api_key: must be at least one character",
        "config.toml:3: server.secrets[0]: must be at least 32 bytes, not 3",
        "The Authorization header is not of a form known here; send 'Bearer rw_…'.",
        "The JWT's 'iss' is not a known access key.",
        "kling-main/k1 is out: 1002",
        "Cannot connect to host api.example:443 ssl:default [Connection refused]",
        "the token expired; the basic authentication of the prompt: nothing",
        "task video_0a3f accepted as 86f1-22",
    ],
)
def test_what_an_operator_needs_stays(text: str) -> None:
    assert PLAIN.text(text) == text


def test_a_line_s_facts_are_cleaned_however_deep() -> None:
    facts = {
        "event": "failed",
        "why": {"headers": [("Authorization", f"Bearer {TOKEN}"), ("Host", "a")]},
        "api_key": OWN,
        "Proxy-Authorization": "x",
        "key": TOKEN,
        "error": ValueError(f"bad {OWN}"),
        "seconds": 1.5,
        "ok": None,
        "exception": f'File "x.py", line 1\nValueError: {TOKEN}',
    }
    clean = PLAIN.event(facts)
    text = json.dumps(clean)
    assert SECRET not in text
    assert OWN not in text
    assert clean["seconds"] == 1.5
    assert clean["ok"] is None
    assert clean["error"] == "bad (hidden)"
    assert clean["exception"] == 'File "x.py", line 1\nValueError: rw_abcdefghij234567_…'


def test_a_prompt_is_neither_told_nor_quoted() -> None:
    """The provider's own words may repeat it."""
    facts = {
        "event": "submit refused",
        "message": "'a red cat' is not allowed: a red cat",
        "prompt": "a red cat",
    }
    assert PLAIN.event(facts) == {
        "event": "submit refused",
        "message": "'(prompt)' is not allowed: (prompt)",
    }
    assert Redactor(prompts=True).event(facts) == facts


def test_prompts_may_be_let_through_and_secrets_never_are() -> None:
    open_ = Redactor([OWN], prompts=True)
    text = '{"prompt": "a cat", "api_key": "abc"}'
    assert open_.text(text) == '{"prompt": "a cat", "api_key": "…"}'
    assert open_.event({"prompt": f"a cat {OWN}"}) == {"prompt": "a cat (hidden)"}


def test_a_short_secret_blanks_no_other_word() -> None:
    assert Redactor(["", "cn", "a"]).text("a cat in cn-north-1") == "a cat in cn-north-1"


@pytest.mark.parametrize(
    "text",
    [
        "a-" * 50_000,
        "eyJ-" * 25_000,
        "//a:" * 25_000,
        "sig" * 30_000,
        "authorization" * 8_000,
        '"prompt": "' * 9_000,
        "\\" * 100_000,
        "bearer " * 15_000,
        "rw_abcdefghij234567" * 5_000,
    ],
)
def test_a_hostile_text_costs_no_more_than_its_length(text: str) -> None:
    """Whoever may write into a path or an error must not be able to stop the loop with it: what
    is linear takes milliseconds, what is not runs into this test's time-out."""
    assert len(PLAIN.text(text)) <= 2 * len(text)
