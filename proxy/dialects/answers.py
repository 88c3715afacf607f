"""What the answers of several dialects share: a task's facts and the headers that go with it.

`Task.request` is filled by `remembered` when the task is made and read only through this
module, so the two cannot drift apart. Its keys: `seconds` (as asked), `width`, `height`,
`aspect_ratio`, `resolution`, `mode`, `audio`, `fps`, `seed`, `n`, `style`, `quality_level`,
`user`, `response_format`, `callback_url`; a key is absent when the client did not say.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import quote

import orjson

from proxy.dialects.base import View
from proxy.errors import FAILURES
from proxy.model import Json, Operation, Status, Task, TaskError, VideoRequest

REMEMBERED_MAX_BYTES = 8192
UNKNOWN_SIZE = "auto"  # OpenAI's own word, in its Images API, for a size the model chooses
UNKNOWN_SECONDS = "0"

_HEADER_MAX_CHARS = 1024
_HEADER_SAFE = "=>:;/._-*+@[]()!~'&$"


def remembered(request: VideoRequest) -> dict[str, Json]:
    """What answers repeat of a request, for `Task.request`: no prompt, no media, ≤ 8 KiB of JSON.

    Entries stand in order of importance; a string that would break the bound is left out.
    """
    width, height = request.size or (None, None)
    wishes: dict[str, Json] = {
        "seconds": None if request.seconds is None else whole(request.seconds),
        "width": width,
        "height": height,
        "fps": request.fps,
        "seed": request.seed,
        "n": request.n,
        "audio": request.audio,
        "callback_url": request.callback_url,
        "mode": request.mode,
        "aspect_ratio": request.aspect_ratio,
        "resolution": request.resolution,
        "quality_level": request.quality_level,
        "style": request.style,
        "response_format": request.response_format,
        "user": request.user,
    }
    kept: dict[str, Json] = {}
    used = 2  # the braces
    for name, value in wishes.items():
        if value is None:
            continue
        used_with = used + len(orjson.dumps({name: value}))
        if used_with <= REMEMBERED_MAX_BYTES:
            kept[name] = value
            used = used_with
    return kept


def task_headers(task: Task) -> dict[str, str]:
    """`reelway-adjusted` and `reelway-dropped`, comma-joined, each only when there is something.

    Dropped names may be a client's own words: whatever is not plain ASCII is percent-encoded,
    so none can end the header, and a long list is cut with a last entry `+N`.
    """
    headers = {}
    if task.adjusted:
        headers["reelway-adjusted"] = _joined(task.adjusted)
    if task.dropped:
        headers["reelway-dropped"] = _joined(task.dropped)
    return headers


def _joined(entries: Iterable[str]) -> str:
    words = [quote(entry, safe=_HEADER_SAFE, errors="replace") for entry in entries]
    shown: list[str] = []
    length = 0
    for word in words:
        length += len(word) + 1
        if length > _HEADER_MAX_CHARS:
            shown.append(f"+{len(words) - len(shown)}")
            break
        shown.append(word)
    return ",".join(shown)


def video_object(view: View) -> dict[str, Json]:
    """The OpenAI Video object: its 13 keys, always all, `quality` when the client's counted, and
    `url`, our signed link, once completed.

    Never `data`: clients that unwrap it would take the object for an envelope.
    """
    task = view.task
    video: dict[str, Json] = {
        "id": task.id,
        "object": "video",
        "model": task.model,
        "status": task.status.value,
        "progress": percent(task),
        "created_at": task.created_ms // 1000,
        "completed_at": _seconds_of(task.completed_ms),
        "expires_at": _seconds_of(task.expires_ms),
        "prompt": task.prompt,
        "size": size_text(task),
        "seconds": seconds_text(task),
        "remixed_from_video_id": task.source_id if task.operation is Operation.REMIX else None,
        "error": error_of(task),
    }
    quality = _honoured(task, "quality_level")
    if quality is not None:
        video["quality"] = quality
    if task.status is Status.COMPLETED and view.links:
        video["url"] = view.links[0]
    return video


def event_of(task: Task, status: Status, event_id: str, created_ms: int) -> dict[str, Json]:
    """OpenAI's webhook event (its webhooks guide, 2026): what happened, and to which video."""
    return {
        "id": event_id,
        "object": "event",
        "created_at": created_ms // 1000,
        "type": f"video.{status.value}",
        "data": {"id": task.id},
    }


def metadata_of(task: Task) -> dict[str, Json]:
    """`metadata` of the VideoTaskResponse: numbers, null where nobody has said (0 would be a
    seed or a duration somebody believes)."""
    width, height = size_of(task) or (None, None)
    seconds = seconds_of(task)
    return {
        "duration": None if seconds is None else whole(seconds),
        "fps": _honoured(task, "fps"),
        "width": width,
        "height": height,
        "seed": _honoured(task, "seed"),
    }


def _honoured(task: Task, name: str) -> Json:
    """What the client asked for, unless the provider was not told of it: said of the video, it
    would be untrue."""
    return None if name in task.dropped else task.request.get(name)


def error_of(task: Task) -> dict[str, Json] | None:
    """`{code, message}` of a failed task, both strings; None unless it failed."""
    if task.status is not Status.FAILED:
        return None
    error = task.error or TaskError("upstream_error", FAILURES["upstream_error"])
    return {"code": error.code, "message": error.message}


def percent(task: Task) -> int:
    """0–100; a completed task is at 100 whatever its last poll said."""
    return 100 if task.status is Status.COMPLETED else min(max(task.progress, 0), 100)


def seconds_of(task: Task) -> float | None:
    """Length in seconds: as rendered, else of the first result, else as asked."""
    if task.seconds is not None:
        return task.seconds
    if task.results and task.results[0].seconds is not None:
        return task.results[0].seconds
    asked = task.request.get("seconds")
    return float(asked) if isinstance(asked, int | float) else None


def seconds_text(task: Task) -> str:
    """ "8", "5.1"; "0" when the provider chose and has not said: clients call float() on it."""
    seconds = seconds_of(task)
    return UNKNOWN_SECONDS if seconds is None else str(whole(seconds))


def size_of(task: Task) -> tuple[int, int] | None:
    """(width, height): as rendered, else as asked; None when it is rendered otherwise in a size
    nobody told (a video in its picture's shape)."""
    if task.size is not None:
        return task.size
    if any(told.startswith("size=") for told in task.adjusted) or "size" in task.dropped:
        return None
    width, height = task.request.get("width"), task.request.get("height")
    if isinstance(width, int) and isinstance(height, int):
        return width, height
    return None


def size_text(task: Task) -> str:
    """ "1280x720"; "auto" when the provider chose and has not said. A default size instead would
    be a statement about the picture, and often a wrong one."""
    size = size_of(task)
    return UNKNOWN_SIZE if size is None else f"{size[0]}x{size[1]}"


def whole(number: float) -> int | float:
    """8.0 as 8: typed clients read durations into integers. At most three decimals."""
    rounded = round(number, 3)
    return int(rounded) if rounded == int(rounded) else rounded


def _seconds_of(ms: int | None) -> int | None:
    return None if ms is None else ms // 1000
