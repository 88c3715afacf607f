"""Typed readers of what providers answer: tolerant, bounded, never raising.

Rule: nothing a provider answers is trusted. Every reader turns one value into a typed one or
None, whatever the value is; everything that can be long has a bound here. Words that may reach a
client go through `words` first.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeAlias, cast
from urllib.parse import quote, urlsplit

import orjson
from yarl import URL

from proxy.model import Json

Object: TypeAlias = "dict[str, object]"

ID_MAX_CHARS = 512
CODE_MAX_CHARS = 64
WORDS_MAX_CHARS = 400
NATIVE_MAX_BYTES = 8 * 1024
URL_MAX_CHARS = 4096
URLS_MAX = 16
URLS_MAX_CHARS = 16 * 1024  # of all results of a task together
RETRY_MAX_S = 3600.0

_MAX_VALUES = 100_000  # some 50 ms of parsing and cleaning
_STRUCTURE = (b",", b":", b"[", b"{")
_MAX_DEPTH = 64
_NATIVE_MAX_DEPTH = 8
_NATIVE_WORDS_MAX_CHARS = 2000
_EARLIEST_S, _LATEST_S = 1e9, 1e11  # years 2001 and 5138: no count of seconds or days is a date
_LONGEST_WHOLE = 20  # digits of 2^64 - 1

# ---------------------------------------------------------------- documents


def document(body: bytes) -> Object | None:
    """A body that is one JSON object; None for any other bytes.

    What Python servers write beside JSON is read too: a byte order mark, NaN, Infinity, whole
    numbers of any length, lone surrogates, text that is not UTF-8.
    """
    if _has_too_many_values(body):
        return None
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return exact_document(body)
    return value if isinstance(value, dict) else None


def exact_document(body: bytes) -> Object | None:
    """As `document`, but slower and exact: a whole number of more than 64 bits stays its digits
    (an id may be one), where orjson makes a rounded float of it."""
    if _has_too_many_values(body):
        return None
    try:
        text = body.decode(json.detect_encoding(body), "replace").strip().lstrip("\ufeff")
        if not text.startswith("{"):
            return None
        value = json.loads(text, parse_int=_whole, parse_constant=lambda _name: None)
    except (ValueError, RecursionError, LookupError):
        return None
    clean = _clean(value, _MAX_DEPTH)
    return clean if isinstance(clean, dict) else None


def _has_too_many_values(body: bytes) -> bool:
    """Whether parsing would hold the loop: the parser lets nothing else run, and 8 MiB of empty
    lists are four million values. Counts the bytes between values, in strings too; an honest
    answer has some hundreds."""
    if len(body) <= _MAX_VALUES:
        return False
    return sum(map(body.count, _STRUCTURE)) > _MAX_VALUES


def embedded_objects(text: str) -> Iterator[Object]:
    """The JSON objects written inside a sentence, the first few."""
    decoder = json.JSONDecoder(parse_int=_whole, parse_constant=lambda _name: None)
    start = text.find("{")
    for _ in range(4):
        if start < 0:
            return
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        clean = _clean(value, _MAX_DEPTH)
        if isinstance(clean, dict):
            yield clean
        start = text.find("{", end)


def _whole(digits: str) -> int | str:
    return int(digits) if len(digits) <= _LONGEST_WHOLE else digits


def _clean(value: object, depth: int) -> object:
    """Without what our own writers refuse: infinite numbers, lone surrogates, bottomless depth."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict | list) and depth == 0:
        return None
    if isinstance(value, dict):
        return {str(_clean(key, 0)): _clean(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, depth - 1) for item in value]
    return value


def member(value: object, name: str) -> Object:
    """An object inside an object; empty when it is missing or something else."""
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, dict) else {}


# ---------------------------------------------------------------- single values

_NUMBER = re.compile(r"\s*[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\s*", re.ASCII)


def text(value: object) -> str | None:
    """A non-empty string of at most 512 characters; a whole number counts."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value) if abs(value) < 2**64 else None
    if not isinstance(value, str):
        return None
    line = value.strip()
    return line if 0 < len(line) <= ID_MAX_CHARS else None


def identifier(value: object) -> str | None:
    """A name that can be asked for: printable, of at most 512 characters; no number below 1."""
    name = text(value)
    if name is None or not name.isprintable() or (isinstance(value, int) and value < 1):
        return None
    return name


def code(value: object) -> str | None:
    """A provider's own error code for the operator: one short line."""
    name = text(value)
    return (words(name)[:CODE_MAX_CHARS] or None) if name is not None else None


def number(value: object) -> float | None:
    """A finite number, or a string that is one ("5.1")."""
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return float(value) if abs(value) < 1e300 else None


def integer(value: object) -> int | None:
    found = number(value)
    return int(found) if found is not None and abs(found) < 2**63 and found % 1 == 0 else None


def quantity(value: object) -> float | None:
    """A positive number below 1e9, or a string that is one, with or without an s ("5s")."""
    if isinstance(value, str):
        value = value.strip().removesuffix("s")
    found = number(value)
    return found if found is not None and 0 < found < 1e9 else None


def percent(value: object) -> int | None:
    """Progress, 0 to 100, also as text ("50%")."""
    found = number(value.strip().removesuffix("%") if isinstance(value, str) else value)
    return None if found is None else int(min(max(found, 0), 100))


def moment_ms(value: object) -> int | None:
    """Epoch milliseconds, of unix seconds or milliseconds (as a number or text) or ISO 8601."""
    found = number(value)
    if found is not None:
        if _EARLIEST_S <= found < _LATEST_S:
            return int(found * 1000)
        return int(found) if _EARLIEST_S * 1000 <= found < _LATEST_S * 1000 else None
    if not isinstance(value, str) or not 10 <= len(value) <= 40:
        return None
    try:
        moment = datetime.fromisoformat(value.strip())
        moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


# ---------------------------------------------------------------- headers


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `retry-after-ms` or `Retry-After`, at most an hour.

    None where neither names a time to come. The date form needs a clock and is passed over.
    """
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        told = number(headers.get(name))
        if told is not None and told > 0:
            return min(told * unit_s, RETRY_MAX_S)
    return None


def sent_ms(headers: Mapping[str, str]) -> int | None:
    """When the provider says it answered (`Date`), in epoch milliseconds."""
    try:
        return int(parsedate_to_datetime(headers["Date"]).timestamp() * 1000)
    except (KeyError, ValueError, TypeError, IndexError, OverflowError):
        return None


# ---------------------------------------------------------------- addresses

_WEB = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
_IN_TEXT = re.compile(r"https?://", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*", re.ASCII)
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
_LEGAL = "%!$&'()*+,-./:;=?@_~#[]"
_UNSEEN = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


def web_url(value: object) -> str | None:
    """An http(s) URL that can be fetched as it is; None for anything else.

    A legal URL is left as it is, for a signature may cover every byte. Spaces and other
    characters are percent-encoded, a host outside ASCII becomes punycode.
    """
    if not isinstance(value, str) or len(value) > URL_MAX_CHARS:
        return None
    line = value.strip()
    match = _WEB.fullmatch(line)
    if match is None or _UNSEEN.search(line):  # surrogates are no characters either
        return None
    try:
        parts = urlsplit(line)
        host, port = parts.hostname or "", parts.port
        if not host.isascii():
            host = URL.build(scheme="http", host=host).raw_host or ""
    except (ValueError, UnicodeError):
        return None
    if not _HOST.fullmatch(host) or port == 0 or max(map(len, host.split("."))) > 63:
        return None
    authority = match[2]
    if not authority.isascii():
        if "@" in authority:
            return None
        authority = host if port is None else f"{host}:{port}"
    if "\\" in authority or " " in authority:
        return None
    tail = _STRAY_PERCENT.sub("%25", match[3])
    url = f"{match[1]}://{authority}{quote(tail, safe=_LEGAL, errors='replace')}"
    return url if len(url) <= URL_MAX_CHARS else None


# Where answers put the address of a finished video, most specific first.
_URL_NAMES = (
    *("video_url", "videoUrl", "video_urls", "videoUrls", "result_url", "resultUrl"),
    *("download_url", "downloadUrl", "output_url", "url", "urls", "video", "videos"),
    *("task_result", "output", "outputs", "result", "results", "generations", "works"),
    *("content", "contents", "data", "metadata", "task", "response", "creations", "resource"),
)


def result_urls(value: object) -> tuple[str, ...]:
    """The addresses of the videos an answer names, in its order: at most 16, 16 KiB together."""
    return bounded_urls(dict.fromkeys(_urls(value, 6)))


def bounded_urls(urls: Collection[str]) -> tuple[str, ...]:
    """As many of the first as a task's record has room for."""
    kept: list[str] = []
    room = URLS_MAX_CHARS
    for url in list(urls)[:URLS_MAX]:
        room -= len(url)
        if room < 0:
            break
        kept.append(url)
    return tuple(kept)


def _urls(value: object, depth: int) -> list[str]:
    if isinstance(value, str):
        url = web_url(value)
        return [] if url is None else [url]
    if depth == 0:
        return []
    if isinstance(value, list):
        return [url for item in value[:URLS_MAX] for url in _urls(item, depth - 1)]
    if not isinstance(value, dict):
        return []
    kind = value.get("type")
    if isinstance(kind, str) and kind.lower().startswith(("image", "audio", "thumbnail")):
        return []
    for name in _URL_NAMES:
        found = _urls(value.get(name), depth - 1)
        if found:
            return found
    return []


# ---------------------------------------------------------------- jobs

_ID_NAMES = ("id", "task_id", "taskId", "video_id", "videoId", "job_id", "generation_id")
_INNER = ("data", "result", "Result", "output", "task", "job", "video", "response")
_STATE_NAMES = ("status", "state", "task_status", "taskStatus", "job_status")


def id_of(holder: object) -> str | None:
    """The id an object gives itself."""
    if not isinstance(holder, dict):
        return None
    for name in _ID_NAMES:
        found = identifier(holder.get(name))
        if found is not None:
            return found
    return None


def state_word(holder: object) -> str | None:
    """The word an object has for its state."""
    if not isinstance(holder, dict):
        return None
    for name in _STATE_NAMES:
        if isinstance(holder.get(name), str):
            found = text(holder[name])
            if found is not None:
                return found
    return None


def job_of(answer: Object, known_id: str | None = None) -> Object:
    """The object of an answer that describes the job: it, or one inside it.

    An envelope has a `status` of its own ("success", 200), which says nothing about the job: an
    object inside that names an id and a state comes first, unless the answer is a Video object.
    One that names the id we know comes before all others.
    """
    if answer.get("object") == "video":
        return answer
    nested = list(_inside(answer, 3))
    inner = [holder for holder in nested if id_of(holder) and state_word(holder)]
    if known_id is not None:
        for holder in (*inner, answer):
            if id_of(holder) == known_id and state_word(holder) is not None:
                return holder
    if inner:
        return inner[0]
    if id_of(answer) is not None:
        return answer
    for wanted in (id_of, state_word):
        for holder in nested:
            if wanted(holder) is not None:
                return holder
    return answer


def _inside(holder: Object, depth: int) -> Iterator[Object]:
    if depth == 0:
        return
    for name in _INNER:
        value = holder.get(name)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        if isinstance(value, dict):
            yield value
            yield from _inside(value, depth - 1)


# ---------------------------------------------------------------- further members


def remaining(data: Mapping[str, object], known: Collection[str]) -> dict[str, Json]:
    """The vendor's further members, for `native`: without those in `known`, and at any depth
    without nulls, ids and URLs (they name the account's own objects). Empty above 8 KiB."""
    kept: dict[str, Json] = {
        name[:ID_MAX_CHARS]: pruned
        for name, value in data.items()
        if name not in known and (pruned := _pruned(name, value, _NATIVE_MAX_DEPTH)) is not None
    }
    try:
        return kept if len(orjson.dumps(kept)) <= NATIVE_MAX_BYTES else {}
    except orjson.JSONEncodeError:  # nothing `document` returns; a caller's own value might
        return {}


def _pruned(name: str, value: object, depth: int) -> Json:
    """None: left out."""
    if name == "id" or name.endswith(("_id", "_ids", "url", "urls")) or depth == 0:
        return None
    if isinstance(value, str):
        if _IN_TEXT.search(value):
            return None
        return _scrubbed(value) if len(value) <= _NATIVE_WORDS_MAX_CHARS else None
    if isinstance(value, dict):
        inner = {
            key: pruned
            for key, item in value.items()
            if (pruned := _pruned(key, item, depth - 1)) is not None
        }
        return cast("Json", inner) if inner or not value else None
    if isinstance(value, list):
        return [p for item in value if (p := _pruned("", item, depth - 1)) is not None]
    return cast("Json", value)


# ---------------------------------------------------------------- words for clients

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
    head = message[: 4 * WORDS_MAX_CHARS]
    if _CODE_OR_PAGE.search(head):
        return fallback
    line = " ".join(_scrubbed(head).split())
    if len(line) > WORDS_MAX_CHARS:
        line = line[: WORDS_MAX_CHARS - 1] + "…"
    return line or fallback


_PERHAPS_PRIVATE = re.compile(r"[^\w\s]|\w{12}|\b(?:bearer|basic|localhost)\b", re.IGNORECASE)


def _scrubbed(message: str) -> str:
    if not _PERHAPS_PRIVATE.search(message) and message.isprintable():
        return message
    line = _CONTROL.sub(" ", _HIDDEN.sub("", message))
    for pattern, stand_in in _PRIVATE:
        line = pattern.sub(stand_in, line)
    return line


def is_moderation(message: object) -> bool:
    """Whether a provider's words say that its content rules stopped it."""
    return isinstance(message, str) and _MODERATION.search(message[:WORDS_MAX_CHARS]) is not None


_FIELD = re.compile(r"[A-Za-z_][\w.\[\]-]{0,63}", re.ASCII)


def field_name(value: object) -> str | None:
    """A field's name as a provider gives it, if it looks like one."""
    if not isinstance(value, str):
        return None
    name = value.removeprefix("body.")
    return name if _FIELD.fullmatch(name) and words(name) == name else None
