"""Jimeng on Volcengine Visual: one path, and the operation in `?Action=&Version=`.

`/` is where the official SDKs sign and send; `/jimeng/` is the documented path of the gateway.
Shapes: Volcengine's pages on Jimeng 3.0 (85621/1777001) and on gateway errors (6664/116016).

Rule: an envelope holds what the vendor's holds, plus `error`, and what the vendor's gateway puts
around every API: `ResponseMetadata` and `Result`, the data once more. The UniversalApi of
volcengine-python-sdk takes an answer without them for a failure (5.0.54, its
deserialized_response_interceptor.py); no other client looks at them. `time_elapsed` is a constant,
since nothing here reads a clock; no client measures by it.

A task that failed is told as the vendor tells it: one that the provider no longer has by
`data.status` (`not_found`, `expired`), any other by an outer `code` ≠ 10000 and `data` null. Its
HTTP status is then always 400, also where the vendor would say 500: the failure is the final
answer about the task, and a 5xx would be asked again by HTTP libraries and middleboxes on their
own. The vendor's Python SDK raises the body's text for any status but 200.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson

from proxy.dialects.answers import event_of, task_headers
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
from proxy.dialects.body import BodyFields, disagreeing
from proxy.dialects.common_fields import check_no_media, read_common_fields, request_of
from proxy.dialects.fields import Fields, kind_of
from proxy.dialects.jimeng_openapi import DOCS
from proxy.dialects.openapi import ApiDocs
from proxy.dialects.roles import PAIRS, content_of, has_media, media_of, ordered
from proxy.dialects.shape import FRAMES, count
from proxy.errors import (
    FAILURES,
    AuthFault,
    EndpointNotFound,
    Family,
    Invalid,
    MethodNotAllowed,
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
    Reply,
    Status,
    Task,
    TaskError,
    VideoRequest,
)

PROMPT_MAX_CHARS = 800
FRAMES_PER_SECOND = 24
ANY_SEED = -1
FRAMES_MIN = 25  # one second: a clip of s seconds has 24·s + 1 frames
VERSION = "2022-08-31"

_OK = 10000
_MODELS = (("reqkey",), ("model", "modelname", "modelid"))
_PATHS = ("/jimeng/", "/jimeng", "/")  # documented with the slash; sent without as well
_SUBMIT, _GET = "CVSync2AsyncSubmitTask", "CVSync2AsyncGetResult"
_ACTIONS = ((_SUBMIT, Operation.CREATE), (_GET, Operation.GET))

_FAMILY_CODES = {
    Family.INVALID: 50200,
    Family.AUTH: 100009,
    Family.BUDGET: 50400,
    Family.FORBIDDEN: 50400,
    Family.UNKNOWN: 50400,  # what the vendor says to a req_key it does not have
    Family.RATE: 50429,
    Family.IN_FLIGHT: 50430,
    Family.MODERATION: 50412,
    Family.UNAVAILABLE: 50500,
}
# CodeN and Code of the vendor's own gateway, which stands before the visual service.
_AUTH_CODES = {
    AuthFault.MISSING: (100003, "MissingAuthenticationToken"),
    AuthFault.MALFORMED: (100005, "MissingSignature"),
    AuthFault.UNKNOWN: (100009, "InvalidAccessKey"),
    AuthFault.REVOKED: (100009, "InvalidAccessKey"),
    AuthFault.EXPIRED: (100009, "InvalidAccessKey"),
    AuthFault.NOT_YET: (100006, "InvalidTimestamp"),
    AuthFault.SIGNATURE: (100010, "SignatureDoesNotMatch"),
    AuthFault.TIMESTAMP: (100006, "InvalidTimestamp"),
}
_BAD_ACTION = (100008, "InvalidActionOrVersion")

_TASK_STATUS = {
    Status.QUEUED: "in_queue",
    Status.IN_PROGRESS: "generating",
    Status.COMPLETED: "done",
}
# By TaskError.code; the rest is the vendor's 50500, "Internal Error".
_TASK_CODES = {"moderation_blocked": 50516, "invalid_input": 50200}
# A Jimeng upstream's own verdicts on a task, passed on as they are: risk control before the
# render, its failures, risk control after it. Not 50429 and 50430: they mean "ask again
# later", and a client would, for a task that is over.
_VERDICTS = frozenset(
    str(code)
    for codes in (range(50411, 50414), range(50500, 50502), range(50511, 50523))
    for code in codes
)


class JimengDialect:
    """The Jimeng dialect. A public model's name is what the client sends as `req_key`."""

    name: DialectName = "jimeng"
    title = "Jimeng"
    home = "/jimeng/"
    endpoints: Sequence[Endpoint] = tuple(
        Endpoint("POST", path, operation, query=(("Action", action), ("Version", VERSION)))
        for path in _PATHS
        for action, operation in _ACTIONS
    )
    path_prefixes: tuple[str, ...] = ("/jimeng", "/")
    field_names = FieldNames(
        model="req_key",
        seconds="frames",
        picture="image_urls",
        size="size",
        sound="audio",
    )
    accepts_forms = False
    request_id_in_body = True
    notifies_every_change = False
    has_external_ids = False
    auth_schemes = frozenset({AuthScheme.VOLC_HMAC})
    decisive_native = frozenset({"camera_strength", "template_id"})
    idle_native: Mapping[str, Json] = {"seed": ANY_SEED}
    docs: ApiDocs = DOCS

    def submission(self, call: Call, fields: Fields, default_model: str) -> VideoRequest:
        """Raises `Invalid`. Fields of one model only (`template_id`, `camera_strength`, …) and
        unknown ones go to `native`; so does a seed of -1, the vendor's word for "any": a Jimeng
        upstream gets it, so that no default of a route's stands in, and for others it is none."""
        body = BodyFields(fields)
        text, content = content_of(body)
        media = ordered((*_media(body), *content))
        common = read_common_fields(
            body,
            models=_MODELS,
            prompt_chars=PROMPT_MAX_CHARS,
            count_frames=False,
            text=text,
        )
        if common.prompt is None and not media:
            raise Invalid(
                "'prompt' is required, unless there is a picture in 'image_urls' or "
                "'binary_data_base64'.",
                param="prompt",
            )
        seconds = _seconds(body, common.length.seconds)
        is_any_seed = common.seed == ANY_SEED
        if common.seed is not None and common.seed < ANY_SEED:
            raise Invalid(f"'seed' must be at least {ANY_SEED}, not {common.seed}.", param="seed")
        native, entries = body.leftover()
        check_no_media(entries, body.metadata.prefix)
        request = request_of(
            call,
            replace(
                common,
                length=replace(common.length, seconds=seconds),
                seed=None if is_any_seed else common.seed,
            ),
            default_model,
            media,
            extra={"metadata": entries} if entries else {},
            native=native | ({"seed": ANY_SEED} if is_any_seed else {}),
        )
        return replace(request, kind=Kind.IMAGE if media else Kind.TEXT)

    def reference(self, call: Call, fields: Fields) -> str:
        """`task_id` of a GetResult. Its `req_key` is not compared with the task's: the id says
        enough. `req_json` (labels to write into the video) is checked, not carried out, and
        `aigc_meta_tagged: false` says so."""
        _check_req_json(fields)
        number = fields.raw("task_id")
        if isinstance(number, int) and not isinstance(number, bool):
            return str(number)
        reference = fields.word("task_id")
        if reference is None:
            raise Invalid("'task_id' is required: the string a submit answered.", param="task_id")
        return reference

    def page(self, call: Call) -> PageRequest:
        raise UnsupportedOperation("Jimeng's API has no way to list tasks.")

    def created(self, view: View, request_id: str) -> Reply:
        data = {"task_id": view.task.id}
        return _success(data, request_id, task_headers(view.task), _SUBMIT)

    def task(self, view: View, request_id: str) -> Reply:
        task = view.task
        if task.status is Status.FAILED:
            return _failed(task, request_id)
        data: dict[str, Json] = {"status": _TASK_STATUS[task.status]}
        if task.status is Status.COMPLETED:
            data = {
                "aigc_meta_tagged": False,
                **data,
                "video_url": view.links[0] if view.links else "",
            }
        if task.provider == "jimeng":
            for name, value in task.native.items():
                data.setdefault(name, value)
        return _success(data, request_id, task_headers(task))

    def listing(
        self, page: PageRequest, views: Sequence[View], has_more: bool, request_id: str
    ) -> Reply:
        raise UnsupportedOperation("Jimeng's API has no way to list tasks.")

    def deleted(self, view: View, request_id: str) -> Reply:
        raise UnsupportedOperation("Jimeng's API has no way to delete a task.")

    def models(
        self, found: Mapping[str, Mapping[str, Json]], created_s: int, request_id: str
    ) -> Reply:
        raise UnsupportedOperation("Jimeng's API has no list of models.")

    def model(self, name: str, video: Mapping[str, Json], created_s: int, request_id: str) -> Reply:
        raise UnsupportedOperation("Jimeng's API has no list of models.")

    def notice(self, view: View, status: Status, event_id: str, created_ms: int) -> bytes:
        return encoded(event_of(view.task, status, event_id, created_ms))

    def missing(self, call: Call, reference: str, request_id: str) -> Reply:
        """The vendor's answer: a success that says `not_found`, for a client polls by it."""
        return _success({"status": "not_found"}, request_id, {})

    def quoted(self, document: Mapping[str, Json], request_id: str) -> Reply:
        return _success(document, request_id, {}, _SUBMIT)

    def failure(self, error: ProxyError, request_id: str) -> Reply:
        """The Action is empty: an error may come before there was one."""
        code, word = _gateway_verdict(error) or (_FAMILY_CODES[error.family], error.code)
        body = _refused(code, word, error.message, request_id, "")
        body["error"] = error_object(error)
        return json_reply(error.status, encoded(body), error.headers)


def _media(body: BodyFields) -> tuple[Media, ...]:
    named = [name for name in ("imageurls", "binarydatabase64") if has_media(body, name)]
    if len(named) > 1:
        raise Invalid(
            "Send pictures in 'image_urls' or in 'binary_data_base64', not in both.",
            param="binary_data_base64",
        )
    return media_of(body, PAIRS | {"imageurls", "binarydatabase64"})


def _seconds(body: BodyFields, said: float | None) -> float | None:
    """The length that `frames` means, else the one that other fields say. Jimeng counts one frame
    more than the seconds have."""
    frames = body.read(FRAMES, count)
    if frames is None:
        return said
    if frames < FRAMES_MIN:
        raise Invalid(f"'frames' must be at least {FRAMES_MIN}, not {frames}.", param="frames")
    seconds = (frames - 1) / FRAMES_PER_SECOND
    if said is not None and said != seconds:
        raise disagreeing("duration", "frames")
    return seconds


def _check_req_json(fields: Fields) -> None:
    value = fields.raw("req_json")
    if value is None:
        return
    if not isinstance(value, str):
        raise Invalid(
            f"'req_json' must be a string that holds JSON, not {kind_of(value)}.", param="req_json"
        )
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise Invalid("'req_json' must be a string that holds JSON.", param="req_json") from exc


def _failed(task: Task, request_id: str) -> Reply:
    error = task.error or TaskError("upstream_error", FAILURES["upstream_error"])
    if error.code == "expired":
        word = "not_found" if error.provider_code == "not_found" else "expired"
        return _success({"status": word}, request_id, task_headers(task))
    code = _TASK_CODES.get(error.code, 50500)
    if task.provider == "jimeng" and error.provider_code in _VERDICTS:
        code = int(error.provider_code)
    body = _refused(code, error.code, error.message, request_id, _GET)
    body["error"] = {
        "message": error.message,
        "type": "invalid_request_error" if error.code in _TASK_CODES else "server_error",
        "param": None,
        "code": error.code,
    }
    return json_reply(400, encoded(body), task_headers(task))


def _gateway_verdict(error: ProxyError) -> tuple[int, str] | None:
    """(CodeN, Code) of an error the vendor's gateway, not its visual service, would tell."""
    if isinstance(error, Unauthenticated):
        return _AUTH_CODES[error.fault]
    if isinstance(error, EndpointNotFound | MethodNotAllowed):
        return _BAD_ACTION
    return None


def _success(
    data: Mapping[str, Json], request_id: str, headers: Mapping[str, str], action: str = _GET
) -> Reply:
    body = _envelope(_OK, data, "Success", request_id, _metadata(request_id, action))
    return json_reply(200, encoded(body), headers)


def _refused(code: int, word: str, message: str, request_id: str, action: str) -> dict[str, object]:
    error = {"CodeN": code, "Code": word, "Message": message}
    metadata = {**_metadata(request_id, action), "Error": error}
    return _envelope(code, None, message, request_id, metadata)


def _metadata(request_id: str, action: str) -> dict[str, object]:
    return {
        "RequestId": request_id,
        "Action": action,
        "Version": VERSION,
        "Service": "cv",
        "Region": "cn-north-1",
    }


def _envelope(
    code: int,
    data: Mapping[str, Json] | None,
    message: str,
    request_id: str,
    metadata: Mapping[str, object],
) -> dict[str, object]:
    return {
        "ResponseMetadata": metadata,
        "Result": data,
        "code": code,
        "data": data,
        "message": message,
        "request_id": request_id,
        "status": code,
        "time_elapsed": "0ms",
    }
