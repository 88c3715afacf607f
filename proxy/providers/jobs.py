"""Finding the job in an answer: its id, its state, and the members nobody else reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import cast

import orjson

from proxy.model import Json
from proxy.providers.results import has_address
from proxy.providers.values import ID_MAX_CHARS, Object, identifier, text
from proxy.providers.words import scrubbed

NATIVE_MAX_BYTES = 8 * 1024
_NATIVE_MAX_DEPTH = 8
_NATIVE_WORDS_MAX_CHARS = 2000

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
        if has_address(value):
            return None
        return scrubbed(value) if len(value) <= _NATIVE_WORDS_MAX_CHARS else None
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
