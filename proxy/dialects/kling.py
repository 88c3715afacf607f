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

from proxy.dialects.answers import error_of, metadata_of, seconds_of, task_headers, whole
from proxy.dialects.base import (
    AuthScheme,
    Endpoint,
    FieldNames,
    PageRequest,
    View,
    encoded,
    error_object,
    json_reply,
)
from proxy.dialects.body import BodyFields
from proxy.dialects.common_fields import check_no_media, read_common_fields, request_of
from proxy.dialects.fields import Fields, shown
from proxy.dialects.kling_openapi import DOCS
from proxy.dialects.openapi import ApiDocs
from proxy.dialects.roles import content_of, media_of, ordered
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
from proxy.model import Call, DialectName, Json, Kind, Operation, Reply, Status, Task, VideoRequest

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

# Kling itself ignores `model`; the generic form has it. Either may name the model.
_MODELS = (("modelname",), ("model", "modelid"), ("reqkey",))

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


def _endpoints() -> Iterable[Endpoint]:
    for base in _BASES:
        for kind in Kind:
            path, params = f"{base}/{kind.value}", (("kind", kind.value),)
            yield Endpoint("POST", path, Operation.CREATE, params=params)
            yield Endpoint("GET", path + "/{task_id}", Operation.GET, params=params)
            yield Endpoint("GET", path, Operation.LIST, params=params)


class KlingDialect:
    """The Kling dialect. `call.params["kind"]` is the path's `text2video` or `image2video`."""

    name: DialectName = "kling"
    title = "Kling"
    home = "/kling/…"
    endpoints: Sequence[Endpoint] = tuple(_endpoints())
    path_prefixes: tuple[str, ...] = (
        "/kling",
        *(f"{base}/videos/{kind.value}" for base in ("/v1", "") for kind in Kind),
    )
    field_names = FieldNames(
        model="model_name",
        seconds="duration",
        picture="image",
        size="width",
        sound="sound",
    )
    accepts_forms = False
    request_id_in_body = True
    notifies_every_change = True  # Kling posts the task at each change of task_status
    has_external_ids = True  # external_task_id
    auth_schemes = frozenset({AuthScheme.JWT})
    decisive_native = frozenset(
        {
            "camera_control",
            "dynamic_masks",
            "element_list",
            "multi_prompt",
            "multi_shot",
            "static_mask",
            "voice_list",
        }
    )
    idle_native: Mapping[str, Json] = {}
    docs: ApiDocs = DOCS

    def submission(self, call: Call, fields: Fields, default_model: str) -> VideoRequest:
        """Raises `Invalid`. A `metadata` entry counts where the body lacks the field itself.

        The generic form has `image` under text2video too: a picture makes the request an
        image-to-video one under either path.
        """
        body = BodyFields(fields)
        text, content = content_of(body)
        media = ordered((*media_of(body), *content))
        if Kind(call.params["kind"]) is Kind.IMAGE and not media:
            raise Invalid(
                "'image' or 'image_tail' is required: an http(s) URL, base64 or a data: URL.",
                param="image",
            )
        common = read_common_fields(body, models=_MODELS, prompt_chars=PROMPT_MAX_CHARS, text=text)
        external_id = body.read(
            ("externaltaskid",), lambda f, name: f.word(name, max_chars=EXTERNAL_ID_MAX_CHARS)
        )
        native, entries = body.leftover()
        for name in _NATIVE_IN_METADATA:
            if name in entries:
                native.setdefault(name, entries.pop(name))
        check_no_media(entries, body.metadata.prefix)
        if common.prompt is None and not media and not _has_shot_prompts(native):
            raise Invalid(
                "'prompt' is required, unless 'multi_shot' is true with 'shot_type' "
                "\"customize\" and each shot's prompt in 'multi_prompt'.",
                param="prompt",
            )
        request = request_of(
            call,
            common,
            default_model,
            media,
            external_id=external_id,
            extra={"metadata": entries} if entries else {},
            native=native,
        )
        return replace(request, kind=Kind.IMAGE if media else Kind.TEXT)

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

    def models(
        self, found: Mapping[str, Mapping[str, Json]], created_s: int, request_id: str
    ) -> Reply:
        raise UnsupportedOperation("Kling's API has no list of models.")

    def model(self, name: str, video: Mapping[str, Json], created_s: int, request_id: str) -> Reply:
        raise UnsupportedOperation("Kling's API has no list of models.")

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
