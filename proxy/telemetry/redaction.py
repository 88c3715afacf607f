"""Redact text for the log: no secrets, and no prompts of clients.

Rule: a secret is found by its form (our tokens, JWTs, signatures in links), by the name written
beside it, or by its value (the secrets of the configuration). Ids stay, so that a reader can tell
which key it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

HIDDEN: Final = "(hidden)"
PROMPT: Final = "(prompt)"
SHORTEST: Final = 8  # of a secret known by its value: a shorter one would blank out other words
SHORTEST_PROMPT: Final = 4
DEEPEST: Final = 8

_PROMPTS: Final = ("prompt", "negative_prompt")
_SECRETS: Final = frozenset(
    {"authorization", "proxy_authorization", "cookie", "set_cookie", "password", "secret"}
    | {
        "api_key",
        "x_api_key",
        "x_goog_api_key",
        "x_key",
        "secret_key",
        "access_key",
        "secretkey",
        "accesskey",
        "webhook_secret",
    }
)

# Each with what stays of it.
_FORMS: Final = (
    (re.compile(r"rw_([a-z2-7]{16})_[0-9A-Za-z]+"), r"rw_\1_…"),
    (re.compile(r"(?<![\w-])eyJ[\w-]{8,}\.[\w-]+\.[\w-]*"), "eyJ…"),
    (re.compile(r"whsec_[\w+/=-]+"), "whsec_…"),
    (re.compile(r"(?i)\b(bearer|basic)\s+(?!rw_)[\w.~+/=-]{16,}"), r"\1 …"),
    (re.compile(r"(?i)\bHMAC-SHA256\s+Credential=[^\r\n\"']*"), "HMAC-SHA256 …"),
    (re.compile(r"(/(?:callbacks|probe)/[\w-]+/)[\w~.%-]+"), r"\1…"),
    (re.compile(r"(//[^/@\s:]*:)[^/@\s]+(?=@)"), r"\1…"),  # a password in a URL
    # A query's or a form's: sig=, X-Amz-Signature=, auth_key=, AWSAccessKeyId=, …
    (
        re.compile(
            r"(?i)(sig|signature|token|secret|password|credential|auth_key|api[-_]?key"
            r"|access[-_]?key(?:[-_]?id)?|secret[-_]?key)=([\"']?)[^&\s\"'<>]+"
        ),
        r"\1=\2…",
    ),
    # Written in quotes, JSON's or Python's, also within a string: \"secret_key\": \"…
    (
        re.compile(
            r"(?i)((?:secret|password|api[-_]?key|access[-_]?key|secret[-_]?key)"
            r"\\?[\"']\s*:\s*\\?[\"'])[^\"'\\]*"
        ),
        r"\1…",
    ),
    # A header: to the end of its line, or of the string it stands in.
    (
        re.compile(
            r"(?i)((?:authorization|cookie|(?<![\w-])(?:x-)?(?:goog-)?api-key|(?<![\w-])x-key)"
            r"\\?[\"']?\s*[:=]\s*\\?[\"']?)[^\s\"'][^\"'\r\n]*"
        ),
        r"\1…",
    ),
)
# In quotes, and to its end where it was cut.
_PROMPT_FIELD: Final = re.compile(
    r"((?:negative_)?prompt\\?[\"']\s*:\s*)"
    r"(?:\"(?:[^\"\\]|\\.)*(?:\"|$)|'(?:[^'\\]|\\.)*(?:'|$)|\\\"(?:(?!\\\").)*(?:\\\"|$))",
    re.DOTALL,
)


class Redactor:
    """Redact log lines. `secrets` are hidden by value; `prompts` lets prompts through."""

    def __init__(self, secrets: Iterable[str] = (), *, prompts: bool = False) -> None:
        known = sorted({s for s in secrets if len(s) >= SHORTEST}, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, known))) if known else None
        self._prompts = prompts

    def event(self, facts: Mapping[str, object]) -> dict[str, object]:
        """The redacted facts of one line. A `prompt` is removed from the other facts too, because
        providers quote it in their answers."""
        said = [facts[name] for name in _PROMPTS if facts.get(name)]
        private = [] if self._prompts else [str(p) for p in said if len(str(p)) >= SHORTEST_PROMPT]
        return {
            name: self._value(name, value, private, 0)
            for name, value in facts.items()
            if self._prompts or name not in _PROMPTS
        }

    def text(self, text: str, private: Iterable[str] = ()) -> str:
        for prompt in private:
            text = text.replace(prompt, PROMPT)
        if self._known is not None:
            text = self._known.sub(HIDDEN, text)
        for form, rest in _FORMS:
            text = form.sub(rest, text)
        return text if self._prompts else _PROMPT_FIELD.sub(rf'\1"{PROMPT}"', text)

    def _value(self, name: str, value: object, private: list[str], depth: int) -> object:
        if value is None or isinstance(value, (bool, int, float)):
            return value
        word = name.lower().replace("-", "_")
        if word in _SECRETS:
            return HIDDEN
        if word in _PROMPTS and not self._prompts:
            return PROMPT
        if isinstance(value, Mapping) and depth < DEEPEST:
            return {
                self.text(str(key), private): self._value(str(key), inner, private, depth + 1)
                for key, inner in value.items()
            }
        if isinstance(value, (list, tuple, set, frozenset)) and depth < DEEPEST:
            return [self._value(name, inner, private, depth + 1) for inner in value]
        return self.text(value if isinstance(value, str) else str(value), private)
