"""Shapes and parameters that the OpenAPI parts of several dialects share.

Answers list what is always there; more may come with them, as vendors add members too. Bodies
take fields nobody lists here: they go to the provider, or are told in `reelway-dropped`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxy.dialects.openapi import (
    Schema,
    described,
    header_parameter,
    list_of,
    maybe,
    object_of,
    query_parameter,
)
from proxy.model import Status

TEXT: Final[Schema] = {"type": "string"}
NUMBER: Final[Schema] = {"type": "number"}
WHOLE: Final[Schema] = {"type": "integer"}
FLAG: Final[Schema] = {"type": "boolean"}
ANYTHING: Final[Schema] = {"type": "object"}
AMOUNT: Final[Schema] = {"type": "string", "pattern": r"^-?\d+\.\d{2,6}$"}
TASK_STATUS: Final[Schema] = {"type": "string", "enum": [status.value for status in Status]}

# ---------------------------------------------------------------- parameters

SUBMIT: Final = (
    query_parameter(
        "dry_run", {"type": "string", "enum": ["0", "1"]}, "1: say what it would cost."
    ),
    header_parameter(
        "Idempotency-Key", "The same key and request within 24 hours are the same task."
    ),
)
WAIT: Final = (
    query_parameter(
        "wait",
        {"type": "integer", "minimum": 0, "maximum": 60},
        "Seconds to wait for the task's end before answering.",
    ),
)

# ---------------------------------------------------------------- bodies

PROMPT: Final = described(
    {"type": "string", "minLength": 1, "maxLength": 32000}, "What the video shows."
)
CALLBACK: Final = described(
    {"type": "string", "format": "uri", "maxLength": 2048},
    "An http(s) URL that is told, signed, when the task has ended.",
)
SECONDS: Final = described(
    {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string"}]},
    "Length; what the provider renders instead is told in `reelway-adjusted`.",
)
SIZE: Final = described({"type": "string", "pattern": r"^[1-9]\d{0,4}x[1-9]\d{0,4}$"}, "1280x720")
PICTURE: Final = described(TEXT, "An http(s) URL, a data: URL or base64.")
COUNT: Final[Schema] = {"type": "integer", "minimum": 1}
# The fields of the generic API's document, which Kling's clients may send as well.
GENERIC_FIELDS: Final[Mapping[str, Schema]] = {
    "model": TEXT,
    "image": PICTURE,
    "duration": {"type": "number", "exclusiveMinimum": 0},
    "width": COUNT,
    "height": COUNT,
    "fps": COUNT,
    "seed": WHOLE,
    "n": COUNT,
    "response_format": TEXT,
    "user": TEXT,
    "metadata": ANYTHING,
}

# ---------------------------------------------------------------- answers

FAILURE: Final = object_of(
    "Why a task failed, or a request was refused.",
    message=TEXT,
    type=TEXT,
    param=maybe(TEXT),
    code=maybe(TEXT),
)
TASK_FAILURE: Final = object_of(code=TEXT, message=TEXT)
LINK: Final = described(TEXT, "A signed link of this gateway's, once completed.")
VIDEO: Final[Mapping[str, Schema]] = {
    "id": TEXT,
    "object": {"const": "video"},
    "model": TEXT,
    "status": TASK_STATUS,
    "progress": {"type": "integer", "minimum": 0, "maximum": 100},
    "created_at": WHOLE,
    "completed_at": maybe(WHOLE),
    "expires_at": maybe(WHOLE),
    "prompt": maybe(TEXT),
    "size": TEXT,
    "seconds": TEXT,
    "remixed_from_video_id": maybe(TEXT),
    "error": maybe(TASK_FAILURE),
}
METADATA: Final = object_of(
    duration=maybe(NUMBER),
    fps=maybe(NUMBER),
    width=maybe(WHOLE),
    height=maybe(WHOLE),
    seed=maybe(WHOLE),
)
QUOTE: Final = object_of(
    "What a submit with ?dry_run=1 would cost; nothing was made.",
    object={"const": "video.quote"},
    model=TEXT,
    price=AMOUNT,
    currency=TEXT,
    route=TEXT,
    seconds=maybe(NUMBER),
    size=maybe(TEXT),
    n=WHOLE,
    adjusted=list_of(TEXT),
    dropped=list_of(TEXT),
    limits=ANYTHING,
)
