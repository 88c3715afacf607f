"""How clients of OpenAI's Videos API speak.

Source: openai-openapi's openapi.yaml (2026-08-21) and what openai-python 2.54 and 3.54 put on
the wire; every success is 200. Fields the spec does not have (n, seed, fps, negative_prompt,
width and height, …) are taken as well: vLLM-Omni, SGLang and LiteLLM clients send them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, cast

from proxy.dialects.answers import event_of, task_headers, video_object
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
from proxy.dialects.body import BodyFields, json_text
from proxy.dialects.common_fields import require_prompt, video_request
from proxy.dialects.fields import Fields, kind_of
from proxy.dialects.media import clip
from proxy.dialects.openai_openapi import DOCS
from proxy.dialects.openapi import ApiDocs
from proxy.dialects.roles import content_of, media_of, ordered
from proxy.errors import Invalid, NotFound, ProxyError
from proxy.model import Call, DialectName, Json, Media, Operation, Reply, Status, VideoRequest

_MEANT = (
    ("", "Videos are made by POST /v1/videos."),
    ("generations", "It is POST /v1/video/generations, or POST /v1/videos."),
    ("characters", "Characters are not served here; videos are made by POST /v1/videos."),
    ("sync", "Videos are not waited for in one request: POST /v1/videos, then GET its id."),
    ("remix", "It is POST /v1/videos/{id}/remix."),
    ("edit", "It is POST /v1/videos/edits."),
    ("extend", "It is POST /v1/videos/extensions."),
    ("extension", "It is POST /v1/videos/extensions."),
)

_ROWS = (
    Endpoint("POST", "/videos", Operation.CREATE),
    Endpoint("GET", "/videos", Operation.LIST),
    Endpoint("GET", "/videos/{task_id}", Operation.GET, meant=_MEANT),
    Endpoint("DELETE", "/videos/{task_id}", Operation.DELETE),
    Endpoint("GET", "/videos/{task_id}/content", Operation.CONTENT),
    Endpoint("GET", "/videos/{task_id}/events", Operation.EVENTS),
    Endpoint("POST", "/videos/{task_id}/remix", Operation.REMIX),
    Endpoint("POST", "/videos/edits", Operation.EDIT),
    Endpoint("POST", "/videos/extensions", Operation.EXTEND),
    Endpoint("GET", "/models", Operation.MODELS),
    Endpoint("GET", "/models/{model}", Operation.MODELS),
    Endpoint("GET", "/usage", Operation.USAGE),
)
# "" is for clients whose base URL lacks /v1. The others are Azure's: AzureOpenAI asks at /openai,
# with `azure_deployment` below /openai/deployments/<name>, and OpenAI with Azure's address at
# /openai/v1 (openai-python 3.57, read 2026-11). Their `api-version` says nothing here.
_PREFIXES = ("/v1", "", "/openai/v1", "/openai", "/openai/deployments/{deployment}")
_CUT = ("/openai/v1/videos", "/openai/videos")  # by LiteLLM as Azure's client (1.110, read 2026-11)
ENDPOINTS = tuple(
    replace(row, path=prefix + row.path, is_cut=prefix + row.path in _CUT)
    for prefix in _PREFIXES
    for row in _ROWS
)


class OpenAIDialect:
    """Dialect `openai`."""

    name: DialectName = "openai"
    title = "OpenAI"
    home = "/v1/videos"
    endpoints: Sequence[Endpoint] = ENDPOINTS
    path_prefixes: tuple[str, ...] = ()  # clients of any API ask below /v1 for what is not here
    field_names = FieldNames(
        model="model",
        seconds="seconds",
        picture="input_reference",
        size="size",
        sound="audio",  # the spec has none: what clients of own servers send
    )
    accepts_forms = True  # what openai-python sends
    request_id_in_body = False
    notifies_every_change = False
    has_external_ids = False
    auth_schemes: frozenset[AuthScheme] = frozenset()
    decisive_native: frozenset[str] = frozenset()
    idle_native: Mapping[str, Json] = {}
    docs: ApiDocs = DOCS

    def submission(self, call: Call, fields: Fields, default_model: str) -> VideoRequest:
        """Also the remix, edit and extension bodies; `source_id` is the video they work on."""
        default_model = call.params.get("deployment", default_model)
        body = BodyFields(fields)
        source: tuple[Media, ...] = ()
        source_id = None
        if call.operation is Operation.REMIX:
            source_id = call.params["task_id"]
        elif call.operation in (Operation.EDIT, Operation.EXTEND):
            source_id, source = _source(body.top)
        text, content = content_of(body)
        media = ordered((*media_of(body), *content, *source))
        return require_prompt(video_request(call, body, default_model, media, source_id, text))

    def reference(self, call: Call, fields: Fields) -> str:
        return call.params["task_id"]

    def page(self, call: Call) -> PageRequest:
        query = Fields(call.query)
        limit = query.integer("limit", low=0, high=100)
        order = query.word("order") or "desc"
        if order not in ("asc", "desc"):
            raise Invalid("'order' must be asc or desc.", param="order")
        return PageRequest(
            limit=20 if limit is None else limit,
            order=cast("Literal['asc', 'desc']", order),
            after=query.word("after"),
        )

    def created(self, view: View, request_id: str) -> Reply:
        return self.task(view, request_id)

    def task(self, view: View, request_id: str) -> Reply:
        return _reply(video_object(view), task_headers(view.task))

    def listing(
        self, page: PageRequest, views: Sequence[View], has_more: bool, request_id: str
    ) -> Reply:
        return _reply(
            {
                "object": "list",
                "data": [video_object(view) for view in views],
                "first_id": views[0].task.id if views else None,
                "last_id": views[-1].task.id if views else None,
                "has_more": has_more and bool(views),  # of none there is no `after` to go on from
            }
        )

    def deleted(self, view: View, request_id: str) -> Reply:
        return _reply({"id": view.task.id, "object": "video.deleted", "deleted": True})

    def models(
        self, found: Mapping[str, Mapping[str, Json]], created_s: int, request_id: str
    ) -> Reply:
        data = [_model(name, video, created_s) for name, video in found.items()]
        return _reply({"object": "list", "data": data})

    def model(self, name: str, video: Mapping[str, Json], created_s: int, request_id: str) -> Reply:
        return _reply(_model(name, video, created_s))

    def notice(self, view: View, status: Status, event_id: str, created_ms: int) -> bytes:
        return encoded(event_of(view.task, status, event_id, created_ms))

    def missing(self, call: Call, reference: str, request_id: str) -> Reply:
        return self.failure(NotFound(f"Video with id '{reference[:128]}' not found."), request_id)

    def quoted(self, document: Mapping[str, Json], request_id: str) -> Reply:
        return _reply(document)

    def failure(self, error: ProxyError, request_id: str) -> Reply:
        return json_reply(error.status, encoded({"error": error_object(error)}), error.headers)


def _source(fields: Fields) -> tuple[str | None, tuple[Media, ...]]:
    """What `video` names: (one of our ids, no media), or (None, the uploaded file)."""
    value = json_text(fields.raw("video"), "video")
    if value is None:
        raise Invalid("'video' is required: {\"id\": …} or a video file.", param="video")
    if fields.upload("video") is not None:
        return None, (clip(value, "video"),)
    if not isinstance(value, dict):
        raise Invalid(
            f"'video' must be {{\"id\": …}} or a video file, not {kind_of(value)}.", param="video"
        )
    inner = Fields(cast("dict[str, object]", value), prefix="video.")
    source_id = inner.word("id")
    if source_id is None:
        raise Invalid("'video.id' is required.", param="video.id")
    unknown = next(iter(inner.rest()), None)
    if unknown is not None:
        raise Invalid(f"'video' takes 'id' alone, not {unknown[:40]!r}.", param="video")
    return source_id, ()


def _model(name: str, video: Mapping[str, Json], created_s: int) -> dict[str, object]:
    """OpenAI's model object, and what the model renders."""
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "reelway",
        "video": video,
    }


def _reply(body: Mapping[str, object], headers: Mapping[str, str] | None = None) -> Reply:
    return json_reply(200, encoded(body), headers)
