"""The generic dialect in the OpenAPI document."""

from __future__ import annotations

from typing import Final

from proxy.dialects.openapi import ApiDocs, OperationDoc, described, object_of
from proxy.dialects.schemas import (
    CALLBACK,
    FAILURE,
    GENERIC_FIELDS,
    LINK,
    METADATA,
    PROMPT,
    QUOTE,
    SUBMIT,
    TEXT,
    VIDEO,
    WAIT,
)
from proxy.model import Operation

DOCS: Final = ApiDocs(
    phrase="the generic one",
    failure="GenericError",
    operations={
        Operation.CREATE: OperationDoc(
            "Create a video", ("VideoResponse", "Quote"), "VideoRequest", parameters=SUBMIT
        ),
        Operation.GET: OperationDoc("Retrieve a video", ("VideoTaskResponse",), parameters=WAIT),
    },
    schemas={
        "VideoRequest": object_of(
            "A prompt, a picture, or both.",
            optional={"prompt": PROMPT, **GENERIC_FIELDS, "webhook": CALLBACK},
        ),
        "VideoResponse": object_of(
            task_id=TEXT, also=VIDEO, optional={"quality": TEXT, "url": LINK}
        ),
        "VideoTaskResponse": object_of(
            also=VIDEO,
            task_id=TEXT,
            url=described(TEXT, "A signed link of this gateway's; empty until completed."),
            format=TEXT,
            metadata=METADATA,
            code=TEXT,
            message=TEXT,
            data=object_of(
                task_id=TEXT, status=TEXT, progress=TEXT, fail_reason=TEXT, result_url=TEXT
            ),
        ),
        "Quote": QUOTE,
        "GenericError": object_of(error=FAILURE, code=TEXT, message=TEXT),
    },
)
