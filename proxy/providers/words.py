"""The sanitiser: what of a provider's own words may reach a client.

Rule: no text of a provider leaves the gateway unless it went through here.
"""

from __future__ import annotations

import re

MAX_CHARS = 400

_MODERATION = re.compile(
    r"risk|sensitive|moderat|polic(y|ies)|unsafe|safety|violat|prohibited|copyright|guardrail",
    re.IGNORECASE,
)
# Characters nobody sees: they hide a key from the patterns below, turn a terminal's text around.
_HIDDEN = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]+"
)
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_CODE_OR_PAGE = re.compile(
    r"Traceback \(most recent call last\)|^\s*<(?:!doctype|html|\?xml)|<body\b", re.IGNORECASE
)
_KEY_NAMES = (
    r"api[-_ ]?key|access[-_ ]?key(?:[-_ ]?id)?|secret(?:[-_ ]?(?:access[-_ ]?)?key)?|token"
    r"|passw(?:or)?d|authorization|credential|signature"
)
_TOP_LEVEL = (
    r"internal|local|localdomain|svc|cluster|lan|corp|intra|home|arpa|com|net|org|io|ai|cn|dev|app"
    r"|cloud|co|edu|gov|tech|xyz|me|us|eu|uk|de|fr|jp|kr|hk|sg|tw|in|info|biz|site|online|run"
)
# What must not travel from a provider's message to a client, and what stands there instead.
# ASCII: beside a Chinese character there is a word boundary too.
_PRIVATE = tuple(
    (re.compile(pattern, re.IGNORECASE | re.ASCII), stand_in)
    for pattern, stand_in in (
        (r"(?<![a-z0-9+.-])[a-z][a-z0-9+.-]{0,30}://[^\s\u3000-\u303f\uff00-\uffef]+", "[address]"),
        (r"\b(?:bearer|basic|hmac-sha256)\s+[\w+/=.,:-]{6,}", "[key]"),
        (rf"\b(?:x-)?(?:{_KEY_NAMES})[\"']?\s*[:=]\s*[\"']?[^\s\"',;]+", "[key]"),
        (r"(?<![\w.-])eyJ[\w-]{6,}(?:\.[\w-]*)*", "[key]"),
        (r"\b(?:sk|pk|rk|ak|rw)[-_][\w*.\u2026-]{2,}", "[key]"),
        (r"\bkey[-_](?=[\w*-]{0,64}[\d*])[\w*-]{4,}", "[key]"),
        (r"\b(?:AKLT|AKIA|ASIA|LTAI|AKSIM)[\w=]{8,}", "[key]"),
        (r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)*", "[address]"),
        (r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b", "[address]"),
        (r"\[(?=[^\]]{0,40}:)[0-9a-f:.]{2,45}\](?::\d+)?", "[address]"),
        (r"(?<![\w:])[0-9a-f:]{0,35}::[0-9a-f:.]{0,45}[0-9a-f]", "[address]"),
        (r"(?<![\w:])(?:[0-9a-f]{1,4}:){7}[0-9a-f]{1,4}", "[address]"),
        (r"(?<![\w.-])(?:localhost|[\w.-]*\.[\w-]+):\d{2,5}\b", "[address]"),
        (r"(?<![\w-])(?=[\w-]{0,63}[\d_-])[a-z][\w-]{0,63}:\d{4,5}\b", "[address]"),
        (rf"(?<![\w.-])[\w.-]*\.(?:{_TOP_LEVEL})\b", "[address]"),
        (r"\blocalhost\b", "[address]"),
        (r"\b[a-z]:\\[^\s\"']+", "[path]"),
        (r"(?<![\w:])/[\w.+@-]+(?:/[\w.+@-]*)+", "[path]"),
        (r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "[id]"),
        (r"\b(?=\w*\d)(?=\w*[a-z])\w{20,}\b", "[id]"),
        (r"\b\d{12,}\b", "[id]"),
    )
)


def words(message: object, fallback: str = "") -> str:
    """A provider's message for a client: one line of at most 400 characters without addresses,
    keys, paths, ids and characters nobody sees; nothing at all of a traceback or a page."""
    if not isinstance(message, str):
        return fallback
    head = message[: 4 * MAX_CHARS]
    if _CODE_OR_PAGE.search(head):
        return fallback
    line = " ".join(scrubbed(head).split())
    if len(line) > MAX_CHARS:
        line = line[: MAX_CHARS - 1] + "…"
    return line or fallback


_PERHAPS_PRIVATE = re.compile(r"[^\w\s]|\w{12}|\b(?:bearer|basic|localhost)\b", re.IGNORECASE)


def scrubbed(message: str) -> str:
    if not _PERHAPS_PRIVATE.search(message) and message.isprintable():
        return message
    line = _CONTROL.sub(" ", _HIDDEN.sub("", message))
    for pattern, stand_in in _PRIVATE:
        line = pattern.sub(stand_in, line)
    return line


def is_moderation(message: object) -> bool:
    """Whether a provider's words say that its content rules stopped it."""
    return isinstance(message, str) and _MODERATION.search(message[:MAX_CHARS]) is not None


_FIELD = re.compile(r"[A-Za-z_][\w.\[\]-]{0,63}", re.ASCII)


def field_name(value: object) -> str | None:
    """A field's name as a provider gives it, if it looks like one."""
    if not isinstance(value, str):
        return None
    name = value.removeprefix("body.")
    return name if _FIELD.fullmatch(name) and words(name) == name else None
