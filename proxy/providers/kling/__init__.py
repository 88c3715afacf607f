"""Kling's official API: text-to-video and image-to-video.

Sources: Kling's API page (copy of 2026-08, artykrd/ai-bot-misha docs/kling_full.md) and
@ai-sdk/klingai at ed857f5. Every submit carries our task id as `external_task_id`, which is
unique per account and can be asked for: the one way to learn whether a lost submit arrived.
Kling neither cancels nor deletes a task.

Path overrides (`upstream.paths`): `submit.text2video`, `submit.image2video`,
`poll.text2video`, `poll.image2video`. Polls and look-ups append `/<id>` to theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict

from proxy.http import body_writer
from proxy.http.outbound import (
    NO_TERMS,
    Draft,
    Outbound,
    Rendered,
    Terms,
)
from proxy.model import (
    Credential,
    Task,
    TaskState,
    Upstream,
    VideoRequest,
)
from proxy.providers import refusals
from proxy.providers.catalogue import row_of
from proxy.providers.catalogue.kling import ROWS
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.kling.answers import found_of, outcome_of, state_of
from proxy.providers.kling.submit import OPERATIONS, draft_of, path_of, rendered_of
from proxy.providers.outcomes import (
    Cancelled,
    Outcome,
    Transient,
)
from proxy.providers.results import result_url
from proxy.signing import kling_jwt


class KlingOptions(BaseModel):
    """`options` of an upstream with `provider = "kling"`.

    `refused_statuses` are HTTP statuses by which the server says that it began nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused_statuses: refusals.RefusedStatuses = ()


class Kling:
    """See `providers.base.Provider`. `handle` keeps `kind`: a task can only be asked for under
    the path that made it."""

    name = "kling"
    options: type[BaseModel] = KlingOptions
    credentials: tuple[frozenset[str], ...] = (
        frozenset({"api_key"}),
        frozenset({"access_key", "secret_key"}),
    )
    operations = OPERATIONS
    rows = ROWS
    variants: tuple[str, ...] = ("video", "watermark")
    callback_field: str | None = "callback_url"
    key_header: str | None = None

    def row(self, upstream: Upstream, model: str) -> ModelRow:
        return row_of(ROWS, upstream, model)

    def draft(
        self,
        request: VideoRequest,
        task_id: str,
        upstream: Upstream,
        upstream_model: str,
        source: Task | None,
        terms: Terms = NO_TERMS,
    ) -> Draft:
        row = self.row(upstream, upstream_model)
        return draft_of(request, task_id, upstream, upstream_model, row, terms)

    def rendered(self, draft: Draft, upstream: Upstream) -> Rendered:
        return rendered_of(draft, self.row(upstream, str(draft.fields.get("model_name"))))

    def seal(
        self, draft: Draft, upstream: Upstream, credential: Credential, now_s: int
    ) -> Outbound:
        headers = CIMultiDict({**upstream.headers, **draft.headers})
        headers["Authorization"] = f"Bearer {_bearer(credential, now_s)}"
        url = body_writer.address(upstream.base_url, draft.path, draft.query)
        if draft.encoding == "none":
            return Outbound(draft.method, url, headers)
        headers["Content-Type"] = "application/json"
        pieces = body_writer.json_pieces(draft.fields)
        return Outbound(draft.method, url, headers, pieces, body_writer.length(pieces))

    def outcome(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> Outcome:
        return outcome_of(status, headers, body, _options(upstream).refused_statuses)

    def has_replicas(self, upstream: Upstream) -> bool:
        return True

    def poll(self, task: Task, upstream: Upstream) -> Draft:
        return _query(task, upstream, task.upstream_id or task.id)

    def state(
        self, task: Task, status: int, headers: Mapping[str, str], body: bytes
    ) -> TaskState | Transient:
        return state_of(task, status, headers, body)

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        return _query(task, upstream, task.id)

    def found(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
        return found_of(status, headers, body)

    def content(self, task: Task, upstream: Upstream, variant: str, index: int) -> Draft | str:
        return result_url(task, variant, index)

    def cancel(self, task: Task, upstream: Upstream) -> Draft | None:
        return None

    def cancelled(
        self,
        task: Task,
        upstream: Upstream,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Cancelled:
        return "will_finish"  # it knows no cancel


def _query(task: Task, upstream: Upstream, reference: str) -> Draft:
    kind = task.handle.get("kind", task.kind.value)
    return Draft("GET", f"{path_of(upstream, 'poll', kind)}/{body_writer.segment(reference)}")


def _bearer(credential: Credential, now_s: int) -> str:
    if credential.api_key is not None:
        return credential.api_key
    return kling_jwt(credential.access_key or "", credential.secret_key or "", now_s)


def _options(upstream: Upstream) -> KlingOptions:
    return upstream.options if isinstance(upstream.options, KlingOptions) else KlingOptions()
