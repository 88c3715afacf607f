"""The Kling dialect in the OpenAPI document."""

from __future__ import annotations

from typing import Final

from proxy.dialects.openapi import (
    ApiDocs,
    OperationDoc,
    Schema,
    described,
    list_of,
    maybe,
    object_of,
    query_parameter,
    ref,
)
from proxy.dialects.schemas import (
    ANYTHING,
    CALLBACK,
    FAILURE,
    GENERIC_FIELDS,
    METADATA,
    PICTURE,
    QUOTE,
    SECONDS,
    SUBMIT,
    TASK_FAILURE,
    TASK_STATUS,
    TEXT,
    WAIT,
    WHOLE,
)
from proxy.model import Operation

_PAGE: Final = (
    query_parameter("pageNum", {"type": "integer", "minimum": 1, "maximum": 1000}, "From 1."),
    query_parameter("pageSize", {"type": "integer", "minimum": 1, "maximum": 500}, "Default 30."),
)
_TASK: Final = object_of(
    task_id=TEXT,
    task_status={"type": "string", "enum": ["submitted", "processing", "succeed", "failed"]},
    task_info=ANYTHING,
    created_at=WHOLE,
    updated_at=WHOLE,
    optional={
        "task_status_msg": TEXT,
        "task_result": object_of(
            optional={"videos": list_of(object_of(id=TEXT, url=TEXT, optional={"duration": TEXT}))}
        ),
    },
)


def _envelope(data: Schema, **beside: Schema) -> Schema:
    return object_of(also=beside, code=WHOLE, message=TEXT, request_id=TEXT, data=data)


DOCS: Final = ApiDocs(
    phrase="Kling's",
    failure="KlingError",
    operations={
        Operation.CREATE: OperationDoc(
            "Create a video in Kling's dialect",
            ("KlingCreated", "KlingQuote"),
            "KlingCreate",
            parameters=SUBMIT,
        ),
        Operation.GET: OperationDoc(
            "Retrieve a task by its id or the client's own id", ("KlingTask",), parameters=WAIT
        ),
        Operation.LIST: OperationDoc("List the API key's tasks", ("KlingTasks",), parameters=_PAGE),
    },
    schemas={
        "KlingCreate": object_of(
            "Kling's own fields or the generic ones; unknown ones go to a Kling upstream as they "
            "are.",
            optional={
                **GENERIC_FIELDS,
                "model_name": TEXT,
                "prompt": {"type": "string", "minLength": 1, "maxLength": 2500},
                "negative_prompt": {"type": "string", "maxLength": 2500},
                "image_tail": PICTURE,
                "duration": SECONDS,
                "mode": described(TEXT, "std, pro"),
                "sound": {"type": "string", "enum": ["on", "off"]},
                "aspect_ratio": TEXT,
                "external_task_id": {"type": "string", "maxLength": 255},
                "callback_url": CALLBACK,
            },
        ),
        "KlingCreated": _envelope(_TASK, task_id=TEXT, status=TASK_STATUS),
        "KlingTask": _envelope(
            _TASK,
            task_id=TEXT,
            status=TASK_STATUS,
            url=TEXT,
            format=TEXT,
            metadata=METADATA,
            error=maybe(TASK_FAILURE),
        ),
        "KlingTasks": _envelope(list_of(_TASK)),
        "KlingQuote": _envelope(ref("Quote")),
        "Quote": QUOTE,
        "KlingError": object_of(error=FAILURE, code=WHOLE, message=TEXT, request_id=TEXT),
    },
    security={
        "klingJwt": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "HS256 with the key's access and secret key, as Kling's own clients "
            "sign.",
        }
    },
)
