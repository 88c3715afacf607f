"""How clients of the generic video API speak: `POST /v1/video/generations` and its GET.

Its document has `{task_id, status}` and a VideoTaskResponse; its best-known implementation
(new-api) answers submits with an OpenAI video and queries with `{code, message, data}`, and
clients parse either. The answers here are the union of the three: one key, `error`, is in two
of them and means the same in both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from proxy.dialects.answers import (
    error_of,
    event_of,
    metadata_of,
    percent,
    task_headers,
    video_object,
)
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
from proxy.dialects.common_fields import require_prompt, video_request
from proxy.dialects.fields import Fields
from proxy.dialects.generic_openapi import DOCS
from proxy.dialects.openapi import ApiDocs
from proxy.dialects.roles import content_of, media_of, ordered
from proxy.errors import EndpointNotFound, NotFound, ProxyError, UnsupportedOperation
from proxy.model import Call, DialectName, Json, Operation, Reply, Status, VideoRequest

_MEANT = (("", "Videos are made by POST /v1/video/generations."),)
ENDPOINTS = tuple(
    endpoint
    for prefix in ("/v1", "")
    for endpoint in (
        Endpoint("POST", f"{prefix}/video/generations", Operation.CREATE),
        Endpoint("GET", f"{prefix}/video/generations/{{task_id}}", Operation.GET, meant=_MEANT),
    )
)

# new-api's own words for a task's state (its model/task.go).
_STATES: dict[Status, str] = {
    Status.QUEUED: "QUEUED",
    Status.IN_PROGRESS: "IN_PROGRESS",
    Status.COMPLETED: "SUCCESS",
    Status.FAILED: "FAILURE",
}

_NO_LISTING = "The generic video API has no listing and no delete: use /v1/videos."
_NO_MODELS = "The generic video API has no list of models: use /v1/models."


class GenericDialect:
    """Dialect `generic`."""

    name: DialectName = "generic"
    title = "generic"
    home = "/v1/video/generations"
    endpoints: Sequence[Endpoint] = ENDPOINTS
    path_prefixes: tuple[str, ...] = ("/v1/video/generations", "/video/generations")
    field_names = FieldNames(
        model="model",
        seconds="duration",
        picture="image",
        size="width",  # the document has no `size`: two fields, of which this is the first
        sound="audio",
    )
    accepts_forms = True
    request_id_in_body = False
    notifies_every_change = False
    has_external_ids = False
    auth_schemes: frozenset[AuthScheme] = frozenset()
    decisive_native: frozenset[str] = frozenset()
    idle_native: Mapping[str, Json] = {}
    docs: ApiDocs = DOCS

    def submission(self, call: Call, fields: Fields, default_model: str) -> VideoRequest:
        """A prompt is needed unless a picture is there."""
        body = BodyFields(fields)
        text, content = content_of(body)
        media = ordered((*media_of(body), *content))
        request = video_request(call, body, default_model, media, text=text)
        return request if media else require_prompt(request)

    def reference(self, call: Call, fields: Fields) -> str:
        return call.params["task_id"]

    def page(self, call: Call) -> PageRequest:
        raise UnsupportedOperation(_NO_LISTING)

    def created(self, view: View, request_id: str) -> Reply:
        task = view.task
        body = {"task_id": task.id, **video_object(view)}
        return json_reply(200, encoded(body), task_headers(task))

    def task(self, view: View, request_id: str) -> Reply:
        task = view.task
        url = _url(view)
        error = error_of(task)
        data: dict[str, Json] = {
            "task_id": task.id,
            "status": _STATES[task.status],
            "progress": f"{percent(task)}%",
            # new-api puts the URL here on success; a client that takes any text for a failure
            # is better served by none.
            "fail_reason": "" if error is None else error["message"],
            "result_url": url,
        }
        body = {
            "task_id": task.id,
            "url": url,
            "format": "mp4",
            "metadata": metadata_of(task),
            **video_object(view),
            "code": "success",
            "message": "",
            "data": data,
        }
        return json_reply(200, encoded(body), task_headers(task))

    def listing(
        self, page: PageRequest, views: Sequence[View], has_more: bool, request_id: str
    ) -> Reply:
        return self.failure(UnsupportedOperation(_NO_LISTING), request_id)

    def deleted(self, view: View, request_id: str) -> Reply:
        return self.failure(UnsupportedOperation(_NO_LISTING), request_id)

    def models(
        self, found: Mapping[str, Mapping[str, Json]], created_s: int, request_id: str
    ) -> Reply:
        raise UnsupportedOperation(_NO_MODELS)

    def model(self, name: str, video: Mapping[str, Json], created_s: int, request_id: str) -> Reply:
        raise UnsupportedOperation(_NO_MODELS)

    def notice(self, view: View, status: Status, event_id: str, created_ms: int) -> bytes:
        return encoded(event_of(view.task, status, event_id, created_ms))

    def missing(self, call: Call, reference: str, request_id: str) -> Reply:
        error = NotFound(f"Task '{reference[:128]}' not found.", code="task_not_exist")
        return self.failure(error, request_id)

    def quoted(self, document: Mapping[str, Json], request_id: str) -> Reply:
        return json_reply(200, encoded(document))

    def failure(self, error: ProxyError, request_id: str) -> Reply:
        """`error` of the document, and new-api's `{code, message, data}` around it."""
        body: dict[str, object] = {
            "error": error_object(error),
            "code": error.code,
            "message": error.message,
            "data": None,
        }
        if isinstance(error, EndpointNotFound):
            body["detail"] = error.message  # for SDKs of other APIs, which read it there
        return json_reply(error.status, encoded(body), error.headers)


def _url(view: View) -> str:
    """Our signed link once completed, else "": the document types `url` as a string, so clients
    in typed languages (and zod's `z.string().optional()`) break on null, none on ""."""
    completed = view.task.status is Status.COMPLETED
    return view.links[0] if completed and view.links else ""
