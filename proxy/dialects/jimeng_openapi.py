"""The Jimeng dialect in the OpenAPI document."""

from __future__ import annotations

from typing import Final

from proxy.dialects.openapi import ApiDocs, OperationDoc, Schema, described, object_of, ref
from proxy.dialects.schemas import CALLBACK, FAILURE, FLAG, QUOTE, SUBMIT, TEXT, WAIT, WHOLE
from proxy.model import Operation


def _envelope(data: Schema) -> Schema:
    return object_of(
        code=WHOLE,
        data=data,
        message=TEXT,
        request_id=TEXT,
        status=WHOLE,
        time_elapsed=TEXT,
    )


DOCS: Final = ApiDocs(
    phrase="Jimeng's",
    failure="JimengError",
    operations={
        Operation.CREATE: OperationDoc(
            "Create a video in Jimeng's dialect",
            ("JimengCreated", "JimengQuote"),
            "JimengSubmit",
            parameters=SUBMIT,
        ),
        Operation.GET: OperationDoc(
            "Retrieve a task", ("JimengTask",), "JimengQuery", parameters=WAIT
        ),
    },
    schemas={
        "JimengSubmit": object_of(
            optional={
                "req_key": described(TEXT, "The model."),
                "prompt": {"type": "string", "minLength": 1, "maxLength": 800},
                "image_urls": {"type": "array", "items": TEXT, "maxItems": 2},
                "binary_data_base64": {"type": "array", "items": TEXT, "maxItems": 2},
                "frames": {"type": "integer", "minimum": 25},
                "aspect_ratio": TEXT,
                "seed": {"type": "integer", "minimum": -1},
                "callback_url": CALLBACK,
            },
        ),
        "JimengQuery": object_of(
            task_id=TEXT, optional={"req_key": TEXT, "req_json": described(TEXT, "JSON as text.")}
        ),
        "JimengCreated": _envelope(object_of(task_id=TEXT)),
        "JimengTask": _envelope(
            object_of(
                status={
                    "type": "string",
                    "enum": ["in_queue", "generating", "done", "not_found", "expired"],
                },
                optional={"video_url": TEXT, "aigc_meta_tagged": FLAG},
            )
        ),
        "JimengQuote": _envelope(ref("Quote")),
        "Quote": QUOTE,
        "JimengError": object_of(
            error=FAILURE, code=WHOLE, message=TEXT, request_id=TEXT, data={"type": "null"}
        ),
    },
    security={
        "volcengine": {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "HMAC-SHA256 with the key's access and secret key, as Volcengine's own "
            "clients sign.",
        }
    },
)
