"""The bodies and answers of the clients' port as JSON Schema, by name.

Answers list what is always there; more may come with them, as vendors add members too. Bodies
take fields nobody lists here: they go to the provider, or are told in `reelway-dropped`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from proxy.model import Status

Schema = dict[str, Any]

_STATUSES: Final = [status.value for status in Status]
_TEXT: Final[Schema] = {"type": "string"}
_NUMBER: Final[Schema] = {"type": "number"}
_WHOLE: Final[Schema] = {"type": "integer"}
_FLAG: Final[Schema] = {"type": "boolean"}
_ANYTHING: Final[Schema] = {"type": "object"}
_AMOUNT: Final[Schema] = {"type": "string", "pattern": r"^-?\d+\.\d{2,6}$"}
_TASK_STATUS: Final[Schema] = {"type": "string", "enum": _STATUSES}


def ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _maybe(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _object(
    description: str = "",
    *,
    optional: Mapping[str, Schema] = {},
    also: Mapping[str, Schema] = {},
    **always: Schema,
) -> Schema:
    """`always` and `also` are there in every such object, `optional` in some."""
    required = {**also, **always}
    found: Schema = {"type": "object", "properties": {**required, **optional}}
    if required:
        found["required"] = list(required)
    if description:
        found["description"] = description
    return found


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _said(schema: Schema, description: str) -> Schema:
    return {**schema, "description": description}


# ---------------------------------------------------------------- bodies

_PROMPT: Final = _said(
    {"type": "string", "minLength": 1, "maxLength": 32000}, "What the video shows."
)
_CALLBACK: Final = _said(
    {"type": "string", "format": "uri", "maxLength": 2048},
    "An http(s) URL that is told, signed, when the task has ended.",
)
_SECONDS: Final = _said(
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]},
    "Length; what the provider renders instead is told in `reelway-adjusted`.",
)
_SIZE: Final = _said({"type": "string", "pattern": r"^[1-9]\d{0,4}x[1-9]\d{0,4}$"}, "1280x720")
_PICTURE: Final = _said(_TEXT, "An http(s) URL, a data: URL or base64.")
_COUNT: Final[Schema] = {"type": "integer", "minimum": 1}
_SHARED_WISHES: Final[Mapping[str, Schema]] = {
    "model": _said(_TEXT, "One of GET /v1/models; left out: this gateway's default."),
    "seconds": _SECONDS,
    "size": _SIZE,
    "negative_prompt": _TEXT,
    "aspect_ratio": _said(_TEXT, "16:9"),
    "resolution": _said(_TEXT, "720p, 1080p"),
    "fps": _COUNT,
    "seed": _WHOLE,
    "n": _COUNT,
    "user": _TEXT,
    "metadata": _said(_ANYTHING, "Any of these fields, and others, for clients that nest them."),
    "webhook": _CALLBACK,
}
_GENERIC_WISHES: Final[Mapping[str, Schema]] = {
    "model": _TEXT,
    "image": _PICTURE,
    "duration": {"type": "number", "exclusiveMinimum": 0},
    "width": _COUNT,
    "height": _COUNT,
    "fps": _COUNT,
    "seed": _WHOLE,
    "n": _COUNT,
    "response_format": _TEXT,
    "user": _TEXT,
    "metadata": _ANYTHING,
}

BODIES: Final[Mapping[str, Schema]] = {
    "VideoCreate": _object(
        prompt=_PROMPT,
        optional={
            **_SHARED_WISHES,
            "input_reference": _said(
                {"anyOf": [_PICTURE, _object(image_url=_TEXT)]},
                "The picture the video starts from: a file part of a form, or as here.",
            ),
        },
    ),
    "VideoRemix": _object(prompt=_PROMPT),
    "VideoEdit": _object(
        prompt=_PROMPT,
        video=_said(_object(id=_TEXT), "A video of this gateway; a file part of a form too."),
        optional=_SHARED_WISHES,
    ),
    "VideoRequest": _object(
        "A prompt, a picture, or both.",
        optional={"prompt": _PROMPT, **_GENERIC_WISHES, "webhook": _CALLBACK},
    ),
    "KlingCreate": _object(
        "Kling's own fields or the generic ones; unknown ones go to a Kling upstream as they are.",
        optional={
            **_GENERIC_WISHES,
            "model_name": _TEXT,
            "prompt": {"type": "string", "minLength": 1, "maxLength": 2500},
            "negative_prompt": {"type": "string", "maxLength": 2500},
            "image_tail": _PICTURE,
            "duration": _SECONDS,
            "mode": _said(_TEXT, "std, pro"),
            "sound": {"type": "string", "enum": ["on", "off"]},
            "aspect_ratio": _TEXT,
            "external_task_id": {"type": "string", "maxLength": 255},
            "callback_url": _CALLBACK,
        },
    ),
    "JimengSubmit": _object(
        optional={
            "req_key": _said(_TEXT, "The model."),
            "prompt": {"type": "string", "minLength": 1, "maxLength": 800},
            "image_urls": {"type": "array", "items": _TEXT, "maxItems": 2},
            "binary_data_base64": {"type": "array", "items": _TEXT, "maxItems": 2},
            "frames": {"type": "integer", "minimum": 25},
            "aspect_ratio": _TEXT,
            "seed": {"type": "integer", "minimum": -1},
            "callback_url": _CALLBACK,
        },
    ),
    "JimengQuery": _object(
        task_id=_TEXT, optional={"req_key": _TEXT, "req_json": _said(_TEXT, "JSON as text.")}
    ),
}

# ---------------------------------------------------------------- answers

_FAILURE: Final = _object(
    "Why a task failed, or a request was refused.",
    message=_TEXT,
    type=_TEXT,
    param=_maybe(_TEXT),
    code=_maybe(_TEXT),
)
_TASK_FAILURE: Final = _object(code=_TEXT, message=_TEXT)
_LINK: Final = _said(_TEXT, "A signed link of this gateway's, once completed.")
_VIDEO: Final[Mapping[str, Schema]] = {
    "id": _TEXT,
    "object": {"const": "video"},
    "model": _TEXT,
    "status": _TASK_STATUS,
    "progress": {"type": "integer", "minimum": 0, "maximum": 100},
    "created_at": _WHOLE,
    "completed_at": _maybe(_WHOLE),
    "expires_at": _maybe(_WHOLE),
    "prompt": _maybe(_TEXT),
    "size": _TEXT,
    "seconds": _TEXT,
    "remixed_from_video_id": _maybe(_TEXT),
    "error": _maybe(_TASK_FAILURE),
}
_METADATA: Final = _object(
    duration=_maybe(_NUMBER),
    fps=_maybe(_NUMBER),
    width=_maybe(_WHOLE),
    height=_maybe(_WHOLE),
    seed=_maybe(_WHOLE),
)
_KLING_TASK: Final = _object(
    task_id=_TEXT,
    task_status={"type": "string", "enum": ["submitted", "processing", "succeed", "failed"]},
    task_info=_ANYTHING,
    created_at=_WHOLE,
    updated_at=_WHOLE,
    optional={
        "task_status_msg": _TEXT,
        "task_result": _object(
            optional={"videos": _list(_object(id=_TEXT, url=_TEXT, optional={"duration": _TEXT}))}
        ),
    },
)
_PERIODS: Final = _object(total=_AMOUNT, day=_AMOUNT, month=_AMOUNT)
_MAYBE_PERIODS: Final = _object(total=_maybe(_AMOUNT), day=_maybe(_AMOUNT), month=_maybe(_AMOUNT))
_ACCOUNT: Final[Mapping[str, Schema]] = {
    "spent": _PERIODS,
    "held": _PERIODS,
    "budget": _MAYBE_PERIODS,
    "left": _MAYBE_PERIODS,
    "tasks_in_flight": _WHOLE,
    "max_in_flight": _maybe(_WHOLE),
}


def _kling(data: Schema, **beside: Schema) -> Schema:
    return _object(also=beside, code=_WHOLE, message=_TEXT, request_id=_TEXT, data=data)


def _jimeng(data: Schema) -> Schema:
    return _object(
        code=_WHOLE,
        data=data,
        message=_TEXT,
        request_id=_TEXT,
        status=_WHOLE,
        time_elapsed=_TEXT,
    )


ANSWERS: Final[Mapping[str, Schema]] = {
    "Video": _object(also=_VIDEO, optional={"quality": _TEXT, "url": _LINK}),
    "VideoList": _object(
        object={"const": "list"},
        data=_list(ref("Video")),
        first_id=_maybe(_TEXT),
        last_id=_maybe(_TEXT),
        has_more=_FLAG,
    ),
    "VideoDeleted": _object(id=_TEXT, object={"const": "video.deleted"}, deleted=_FLAG),
    "Models": _object(
        object={"const": "list"},
        data=_list(ref("Model")),
    ),
    "Model": _object(id=_TEXT, object={"const": "model"}, created=_WHOLE, owned_by=_TEXT),
    "Usage": _object(
        object={"const": "usage"},
        token=_TEXT,
        currency=_TEXT,
        also=_ACCOUNT,
        optional={"owner": _object(also=_ACCOUNT)},
    ),
    "Quote": _object(
        "What a submit with ?dry_run=1 would cost; nothing was made.",
        object={"const": "video.quote"},
        model=_TEXT,
        price=_AMOUNT,
        currency=_TEXT,
        route=_TEXT,
        seconds=_maybe(_NUMBER),
        size=_maybe(_TEXT),
        n=_WHOLE,
        adjusted=_list(_TEXT),
        dropped=_list(_TEXT),
        limits=_ANYTHING,
    ),
    "VideoResponse": _object(task_id=_TEXT, also=_VIDEO, optional={"quality": _TEXT, "url": _LINK}),
    "VideoTaskResponse": _object(
        also=_VIDEO,
        task_id=_TEXT,
        url=_said(_TEXT, "A signed link of this gateway's; empty until completed."),
        format=_TEXT,
        metadata=_METADATA,
        code=_TEXT,
        message=_TEXT,
        data=_object(
            task_id=_TEXT, status=_TEXT, progress=_TEXT, fail_reason=_TEXT, result_url=_TEXT
        ),
    ),
    "KlingCreated": _kling(_KLING_TASK, task_id=_TEXT, status=_TASK_STATUS),
    "KlingTask": _kling(
        _KLING_TASK,
        task_id=_TEXT,
        status=_TASK_STATUS,
        url=_TEXT,
        format=_TEXT,
        metadata=_METADATA,
        error=_maybe(_TASK_FAILURE),
    ),
    "KlingTasks": _kling(_list(_KLING_TASK)),
    "KlingQuote": _kling(ref("Quote")),
    "JimengCreated": _jimeng(_object(task_id=_TEXT)),
    "JimengTask": _jimeng(
        _object(
            status={
                "type": "string",
                "enum": ["in_queue", "generating", "done", "not_found", "expired"],
            },
            optional={"video_url": _TEXT, "aigc_meta_tagged": _FLAG},
        )
    ),
    "JimengQuote": _jimeng(ref("Quote")),
    # One per dialect; each also has `error`, whatever the vendor's own shape.
    "OpenAIError": _object(error=_FAILURE),
    "GenericError": _object(error=_FAILURE, code=_TEXT, message=_TEXT),
    "KlingError": _object(error=_FAILURE, code=_WHOLE, message=_TEXT, request_id=_TEXT),
    "JimengError": _object(
        error=_FAILURE, code=_WHOLE, message=_TEXT, request_id=_TEXT, data={"type": "null"}
    ),
}
