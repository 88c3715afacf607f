"""Kling's own API: `/kling/v1/videos/{text2video,image2video}`, and without the `/kling` prefix.

Bodies come in two forms, and may mix them: Kling's own (`model_name`, `duration` as a string,
`image_tail`, …) and the generic VideoRequest (`model`, numeric `duration`, `width`, `height`,
`metadata`). Fields every provider knows become `VideoRequest` fields; all others travel in
`native` under their own names, so that a Kling upstream gets what its client wrote, fields
nobody has heard of included.

Answers are Kling's envelope with the generic VideoTaskResponse's names beside it. The shapes
are those of Kling's API page (copy of 2026-08 in artykrd/ai-bot-misha, kling_full.md) and of
recorded answers: `task_info` is always an object (typed clients need it), `task_result` is `{}`
until there are videos, and an error has no `data` at all: clients read
`body.get("data", {}).get(…)`, which a null would break.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from proxy.dialects.answers import (
    encoded,
    error_of,
    metadata_of,
    seconds_of,
    task_headers,
    whole,
)
from proxy.dialects.base import Endpoint, View, error_object, json_reply
from proxy.dialects.fields import Fields, shown
from proxy.dialects.media import picture, web_address
from proxy.errors import (
    AuthFault,
    EndpointNotFound,
    Family,
    Invalid,
    MethodNotAllowed,
    NotFound,
    ProxyError,
    Unauthenticated,
    UnsupportedOperation,
)
from proxy.model import (
    Call,
    DialectName,
    Json,
    Kind,
    Media,
    Operation,
    PageRequest,
    Reply,
    Role,
    Status,
    Task,
    VideoRequest,
)

PROMPT_MAX_CHARS = 2500
EXTERNAL_ID_MAX_CHARS = 255

# Second: where a client lands that can only set a host, since Kling's own paths start at /v1.
_BASES = ("/kling/v1/videos", "/v1/videos")

_TASK_STATUS = {
    Status.QUEUED: "submitted",
    Status.IN_PROGRESS: "processing",
    Status.COMPLETED: "succeed",  # sic
    Status.FAILED: "failed",
}

_FAMILY_CODES = {
    Family.INVALID: 1201,
    Family.AUTH: 1000,
    Family.BUDGET: 1101,
    Family.FORBIDDEN: 1103,
    Family.UNKNOWN: 1203,
    Family.RATE: 1302,
    Family.IN_FLIGHT: 1303,
    Family.MODERATION: 1301,
    Family.UNAVAILABLE: 5001,
}
# 1000 authentication failed · 1001 Authorization empty · 1002 invalid · 1003 not valid yet
# · 1004 expired
_AUTH_CODES = {
    AuthFault.MISSING: 1001,
    AuthFault.MALFORMED: 1002,
    AuthFault.UNKNOWN: 1002,
    AuthFault.REVOKED: 1002,
    AuthFault.EXPIRED: 1004,
    AuthFault.NOT_YET: 1003,
    AuthFault.SIGNATURE: 1000,
    AuthFault.TIMESTAMP: 1000,
}
_METHOD_INVALID = 1202

# Kling's own fields that clients of the best-known gateway put into `metadata`, where that
# gateway reads them from; beside the common ones lifted in `submission`.
_NATIVE_IN_METADATA = (
    "cfg_scale",
    "camera_control",
    "multi_shot",
    "shot_type",
    "multi_prompt",
    "watermark_info",
    "static_mask",
    "dynamic_masks",
    "element_list",
    "voice_list",
)

_T = TypeVar("_T")


def _endpoints() -> Iterable[Endpoint]:
    for base in _BASES:
        for kind in Kind:
            path, params = f"{base}/{kind.value}", (("kind", kind.value),)
            yield Endpoint("POST", path, Operation.CREATE, params=params)
            yield Endpoint("GET", path + "/{task_id}", Operation.GET, params=params)
            yield Endpoint("GET", path, Operation.LIST, params=params)


class Kling:
    """The Kling dialect. `call.params["kind"]` is the path's `text2video` or `image2video`."""

    name: DialectName = "kling"
    endpoints: Sequence[Endpoint] = tuple(_endpoints())

    def submission(self, call: Call, fields: Fields, default_model: str) -> VideoRequest:
        """Raises `Invalid`. A `metadata` entry counts where the body lacks the field itself.

        The generic form has `image` under text2video too: a picture makes the request an
        image-to-video one under either path.
        """
        metadata = Fields(fields.mapping("metadata") or {}, "metadata.")
        both = (fields, metadata)
        media = _media(both)
        if Kind(call.params["kind"]) is Kind.IMAGE and not media:
            raise Invalid(
                "'image' or 'image_tail' is required: an http(s) URL, base64 or a data: URL.",
                param="image",
            )
        callback_url = fields.long_text("callback_url")
        if callback_url is not None:
            web_address(callback_url, "callback_url")
        wanted = VideoRequest(
            operation=Operation.CREATE,
            dialect=self.name,
            model=fields.word("model_name", "model") or default_model,
            kind=Kind.IMAGE if media else Kind.TEXT,
            prompt=fields.prose("prompt", max_chars=PROMPT_MAX_CHARS),
            negative_prompt=_first(
                [f.prose("negative_prompt", max_chars=PROMPT_MAX_CHARS) for f in both]
            ),
            seconds=fields.number("duration", low=0.001),
            size=_size(fields),
            aspect_ratio=_first([f.word("aspect_ratio") for f in both]),
            mode=_first([f.word("mode") for f in both]),
            audio=_first([_sound(fields, "sound"), _sound(metadata, "metadata.sound")]),
            fps=_first([f.integer("fps", low=1) for f in both]),
            seed=_first([f.integer("seed") for f in both]),
            n=fields.integer("n", low=1),
            style=metadata.word("style"),
            quality_level=metadata.word("quality_level"),
            user=fields.word("user"),
            response_format=fields.word("response_format"),
            media=media,
            external_id=fields.word("external_task_id", max_chars=EXTERNAL_ID_MAX_CHARS),
            callback_url=callback_url,
        )
        native, entries = fields.rest(), metadata.rest()
        for name in _NATIVE_IN_METADATA:
            if name in entries:
                native.setdefault(name, entries.pop(name))
        if wanted.prompt is None and not media and not _has_shot_prompts(native):
            raise Invalid(
                "'prompt' is required, unless 'multi_shot' is true with 'shot_type' "
                "\"customize\" and each shot's prompt in 'multi_prompt'.",
                param="prompt",
            )
        extra: dict[str, Json] = {"metadata": entries} if entries else {}
        return replace(wanted, native=native, extra=extra)

    def reference(self, call: Call, fields: Fields) -> str:
        """Our task id or the client's external_task_id: Kling looks up both in one place."""
        return call.params["task_id"]

    def page(self, call: Call) -> PageRequest:
        query = Fields(call.query)
        number = query.integer("pageNum", low=1, high=1000) or 1
        size = query.integer("pageSize", low=1, high=500) or 30
        return PageRequest(size, offset=(number - 1) * size, kind=Kind(call.params["kind"]))

    def created(self, view: View, request_id: str) -> Reply:
        task = view.task
        data: dict[str, Json] = {
            "task_id": task.id,
            "task_info": _task_info(task),
            "task_status": _TASK_STATUS[Status.QUEUED],
            "created_at": task.created_ms,
            "updated_at": task.updated_ms,
        }
        beside = {"task_id": task.id, "status": Status.QUEUED.value}
        return _reply(request_id, data, beside, task_headers(task))

    def task(self, view: View, request_id: str) -> Reply:
        task = view.task
        beside = {
            "task_id": task.id,
            "status": task.status.value,
            "url": _url(view),
            "format": "mp4",
            "metadata": metadata_of(task),
            "error": error_of(task),
        }
        return _reply(request_id, _data(view), beside, task_headers(task))

    def listing(
        self, page: PageRequest, views: Sequence[View], has_more: bool, request_id: str
    ) -> Reply:
        """Kling tells no total and no end: a client stops at a page that is not full."""
        return _reply(request_id, [_data(view) for view in views], {}, {})

    def deleted(self, view: View, request_id: str) -> Reply:
        raise UnsupportedOperation("Kling's API has no way to delete a task.")

    def notice(self, view: View, status: Status, event_id: str, created_ms: int) -> bytes:
        """Kling posts the bare task object, as it is when it is sent."""
        return encoded(_data(view))

    def missing(self, call: Call, reference: str, request_id: str) -> Reply:
        return self.failure(NotFound(f"There is no task {shown(reference)}."), request_id)

    def quoted(self, document: Mapping[str, Json], request_id: str) -> Reply:
        return _reply(request_id, dict(document), {}, {})

    def failure(self, error: ProxyError, request_id: str) -> Reply:
        body = {
            "code": _native_code(error),
            "message": error.message,
            "request_id": request_id,
            "error": error_object(error),
        }
        return json_reply(error.status, encoded(body), error.headers)


def _first(values: Sequence[_T | None]) -> _T | None:
    return next((value for value in values if value is not None), None)


def _media(both: tuple[Fields, Fields]) -> tuple[Media, ...]:
    fields, metadata = both
    found = (
        ("image", fields.raw("image"), Role.FIRST_FRAME),
        ("image_tail", fields.raw("image_tail"), Role.LAST_FRAME),
        ("metadata.image_tail", metadata.raw("image_tail"), Role.LAST_FRAME),
    )
    pictures: dict[Role, Media] = {}
    for param, value, role in found:
        if value is not None and role not in pictures:
            pictures[role] = picture(value, param, role)
    return tuple(pictures.values())


def _size(fields: Fields) -> tuple[int, int] | None:
    width = fields.integer("width", low=1, high=99999)
    height = fields.integer("height", low=1, high=99999)
    if width is None and height is None:
        return None
    if width is None or height is None:
        alone, absent = ("width", "height") if height is None else ("height", "width")
        raise Invalid(
            f"'{alone}' needs '{absent}' beside it; or send 'aspect_ratio' instead.", param=absent
        )
    return width, height


def _sound(fields: Fields, param: str) -> bool | None:
    value = fields.raw("sound")
    if value is None or isinstance(value, bool):
        return value
    word = value.lower() if isinstance(value, str) else ""
    if word not in ("on", "off"):
        raise Invalid(f"'{param}' must be 'on' or 'off', not {shown(value)}.", param=param)
    return word == "on"


def _has_shot_prompts(native: Mapping[str, Json]) -> bool:
    return native.get("multi_shot") is True and native.get("shot_type") == "customize"


def _data(view: View) -> dict[str, Json]:
    """`data` of a query. A Kling upstream's own further members follow ours, never replace them."""
    task = view.task
    error = error_of(task)
    data: dict[str, Json] = {
        "task_id": task.id,
        "task_status": _TASK_STATUS[task.status],
        "task_info": _task_info(task),
        "task_result": {"videos": _videos(view)} if task.status is Status.COMPLETED else {},
        "task_status_msg": "" if error is None else error["message"],
        "created_at": task.created_ms,
        "updated_at": task.updated_ms,
    }
    if task.provider == "kling":
        for name, value in task.native.items():
            data.setdefault(name, value)
    return data


def _url(view: View) -> str:
    """ "" until completed, not null: the document types it as a string."""
    return view.links[0] if view.task.status is Status.COMPLETED and view.links else ""


def _videos(view: View) -> list[Json]:
    """One entry a link. `duration` is missing when neither provider nor client ever said it:
    clients put it through float()."""
    task = view.task
    videos: list[Json] = []
    for index, link in enumerate(view.links):
        result = task.results[index] if index < len(task.results) else None
        video: dict[str, Json] = {
            "id": (result.id if result else None) or f"{task.id}_{index}",
            "url": link,
        }
        seconds = result.seconds if result and result.seconds is not None else seconds_of(task)
        if seconds is not None:
            video["duration"] = str(whole(seconds))
        videos.append(video)
    return videos


def _task_info(task: Task) -> dict[str, Json]:
    return {} if task.external_id is None else {"external_task_id": task.external_id}


def _native_code(error: ProxyError) -> int:
    if isinstance(error, Unauthenticated):
        return _AUTH_CODES[error.fault]
    if isinstance(error, EndpointNotFound | MethodNotAllowed):
        return _METHOD_INVALID
    return _FAMILY_CODES[error.family]


def _reply(
    request_id: str, data: object, beside: Mapping[str, object], headers: Mapping[str, str]
) -> Reply:
    envelope = {"code": 0, "message": "SUCCEED", "request_id": request_id, "data": data}
    return json_reply(200, encoded({**envelope, **beside}), headers)
