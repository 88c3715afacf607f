"""Where finished videos are: the addresses an answer names, and those a task remembers."""

from __future__ import annotations

import re
from collections.abc import Collection
from urllib.parse import quote, urlsplit

from yarl import URL

from proxy.errors import NotFound, NotReady
from proxy.model import Task

URL_MAX_CHARS = 4096
URLS_MAX = 16
URLS_MAX_CHARS = 16 * 1024  # of all results of a task together

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


def has_address(value: str) -> bool:
    """Whether an address stands anywhere in a text."""
    return _IN_TEXT.search(value) is not None


def result_url(task: Task, variant: str, index: int) -> str:
    """The URL a provider gave for one result. `variant` "video" is the result itself."""
    if not task.results:
        raise NotReady("The video is not ready yet.")
    if not 0 <= index < len(task.results):
        last = len(task.results) - 1
        raise NotFound(f"'index' {index} is not there: 0 to {last} are.", param="index")
    result = task.results[index]
    url = result.url if variant == "video" else result.variants.get(variant)
    if url is None:
        known = ", ".join(["video", *sorted(result.variants)])
        raise NotFound(
            f"This video has no variant {variant[:40]!r}; it has: {known}.", param="variant"
        )
    return url
