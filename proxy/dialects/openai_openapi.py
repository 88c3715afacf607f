"""The OpenAI dialect in the OpenAPI document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.dialects.openapi import (
    ApiDocs,
    OperationDoc,
    Schema,
    described,
    header_parameter,
    list_of,
    maybe,
    object_of,
    query_parameter,
    ref,
)
from proxy.dialects.schemas import (
    AMOUNT,
    ANYTHING,
    CALLBACK,
    COUNT,
    FAILURE,
    FLAG,
    LINK,
    PICTURE,
    PROMPT,
    QUOTE,
    SECONDS,
    SIZE,
    SUBMIT,
    TEXT,
    VIDEO,
    WAIT,
    WHOLE,
)
from proxy.model import Operation

_PAGE: Final = (
    query_parameter("limit", {"type": "integer", "minimum": 0, "maximum": 100}, "Default 20."),
    query_parameter(
        "order", {"type": "string", "enum": ["asc", "desc"]}, "By creation time; default desc."
    ),
    query_parameter("after", {"type": "string"}, "The id of the last video of the page before."),
    query_parameter(
        "idempotency_key",
        {"type": "string", "minLength": 1, "maxLength": 255},
        "Only the video that this API key submitted with this Idempotency-Key; 503 while that "
        "submit is under way.",
    ),
)
_CONTENT: Final = (
    query_parameter(
        "variant",
        {"type": "string"},
        "The file wanted: video, thumbnail, …, as the provider offers them.",
    ),
    query_parameter(
        "index",
        {"type": "integer", "minimum": 0},
        "Which video of a task with several; counted from 0.",
    ),
    query_parameter(
        "download",
        {"type": "string", "enum": ["1"]},
        "1: send the file as an attachment, with a file name.",
    ),
    query_parameter(
        "exp", {"type": "string"}, "Part of a signed link: when it expires, in Unix seconds."
    ),
    query_parameter(
        "sig",
        {"type": "string"},
        "Part of a signed link: its signature. A signed link needs no API key.",
    ),
    header_parameter("Range", "bytes=first-last"),
    header_parameter("If-Range", "The ETag that the range belongs to."),
    header_parameter("If-None-Match", "An ETag that the client already has."),
)
_FIELDS: Final[Mapping[str, Schema]] = {
    "model": described(TEXT, "One of GET /v1/models; left out: this gateway's default."),
    "seconds": SECONDS,
    "size": SIZE,
    "negative_prompt": TEXT,
    "aspect_ratio": described(TEXT, "16:9"),
    "resolution": described(TEXT, "720p, 1080p"),
    "fps": COUNT,
    "seed": WHOLE,
    "n": COUNT,
    "user": TEXT,
    "metadata": described(ANYTHING, "Any of these fields, and others, for clients that nest them."),
    "webhook": CALLBACK,
}
_PERIODS: Final = object_of(total=AMOUNT, day=AMOUNT, month=AMOUNT)
_MAYBE_PERIODS: Final = object_of(total=maybe(AMOUNT), day=maybe(AMOUNT), month=maybe(AMOUNT))
_BALANCE: Final[Mapping[str, Schema]] = {
    "spent": _PERIODS,
    "held": _PERIODS,
    "budget": _MAYBE_PERIODS,
    "left": _MAYBE_PERIODS,
    "tasks_in_flight": WHOLE,
    "max_in_flight": maybe(WHOLE),
}

DOCS: Final = ApiDocs(
    phrase="OpenAI's",
    failure="OpenAIError",
    operations={
        Operation.CREATE: OperationDoc(
            "Create a video", ("Video", "Quote"), "VideoCreate", True, SUBMIT
        ),
        Operation.REMIX: OperationDoc(
            "Remix a video", ("Video", "Quote"), "VideoRemix", True, SUBMIT
        ),
        Operation.EDIT: OperationDoc("Edit a video", ("Video", "Quote"), "VideoEdit", True, SUBMIT),
        Operation.EXTEND: OperationDoc(
            "Extend a video", ("Video", "Quote"), "VideoEdit", True, SUBMIT
        ),
        Operation.GET: OperationDoc("Retrieve a video", ("Video",), parameters=WAIT),
        Operation.LIST: OperationDoc("List the API key's videos", ("VideoList",), parameters=_PAGE),
        Operation.DELETE: OperationDoc("Delete a video and stop its render", ("VideoDeleted",)),
        Operation.CONTENT: OperationDoc("Download a finished video", parameters=_CONTENT),
        Operation.EVENTS: OperationDoc("Stream the state of a video as server-sent events"),
        Operation.MODELS: OperationDoc("List the models that the API key may use", ("Models",)),
        Operation.USAGE: OperationDoc(
            "Retrieve what the API key has spent and has left", ("Usage",)
        ),
    },
    of_one={
        Operation.MODELS: OperationDoc("Retrieve a model that the API key may use", ("Model",))
    },
    schemas={
        "VideoCreate": object_of(
            prompt=PROMPT,
            optional={
                **_FIELDS,
                "input_reference": described(
                    {"anyOf": [PICTURE, object_of(image_url=TEXT)]},
                    "The picture the video starts from: a file part of a form, or as here.",
                ),
            },
        ),
        "VideoRemix": object_of(prompt=PROMPT),
        "VideoEdit": object_of(
            prompt=PROMPT,
            video=described(
                object_of(id=TEXT), "A video of this gateway; a file part of a form too."
            ),
            optional=_FIELDS,
        ),
        "Video": object_of(also=VIDEO, optional={"quality": TEXT, "url": LINK}),
        "VideoList": object_of(
            object={"const": "list"},
            data=list_of(ref("Video")),
            first_id=maybe(TEXT),
            last_id=maybe(TEXT),
            has_more=FLAG,
        ),
        "VideoDeleted": object_of(id=TEXT, object={"const": "video.deleted"}, deleted=FLAG),
        "Models": object_of(object={"const": "list"}, data=list_of(ref("Model"))),
        "Model": object_of(
            id=TEXT,
            object={"const": "model"},
            created=WHOLE,
            owned_by=TEXT,
            video=ref("ModelVideo"),
        ),
        "ModelVideo": object_of(
            "What a request may ask of a model; null: unknown, or whatever is asked.",
            operations=list_of(TEXT),
            seconds=maybe(list_of(WHOLE)),
            max_seconds=maybe(WHOLE),
            default_seconds=maybe(WHOLE),
            sizes=maybe(list_of(TEXT)),
            default_size=maybe(TEXT),
            ratios=maybe(list_of(TEXT)),
            resolutions=maybe(list_of(TEXT)),
            modes=maybe(list_of(TEXT)),
            audio=maybe(TEXT),
            inputs=maybe({"type": "object", "additionalProperties": WHOLE}),
            fps=maybe(WHOLE),
        ),
        "Usage": object_of(
            object={"const": "usage"},
            token=TEXT,
            currency=TEXT,
            also=_BALANCE,
            optional={"owner": object_of(also=_BALANCE)},
        ),
        "Quote": QUOTE,
        "OpenAIError": object_of(error=FAILURE),
    },
)
