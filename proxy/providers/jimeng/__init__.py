"""Jimeng video on Volcengine Visual.

Sources: volcengine's VisualService.py (1.0.229) and the Jimeng pages of volcengine.com/docs
(85621/1777001 and the 720P page, stored copies). Two actions on one path, each signed; HTTP
200 does not mean success, `code` does. There is no look-up by an id of ours and no cancel.

The model is `req_key`. A text model asked for with pictures becomes its picture sibling; what
was chosen is kept in `handle`, since the result can only be asked for with the same `req_key`.

Path overrides (`upstream.paths`): `submit`, `poll`, both "/".
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote, urlsplit

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
from proxy.providers.catalogue.jimeng import ROWS
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.jimeng.answers import outcome_of, state_of
from proxy.providers.jimeng.submit import OPERATIONS, VERSION, draft_of, rendered_of
from proxy.providers.outcomes import (
    Cancelled,
    Outcome,
    Transient,
)
from proxy.providers.results import result_url
from proxy.signing import sign_volc

POLL_ACTION = "CVSync2AsyncGetResult"


class JimengOptions(BaseModel):
    """`options` of an upstream with `provider = "jimeng"`.

    `refused_statuses` are HTTP statuses by which the server says that it began nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused_statuses: refusals.RefusedStatuses = ()


class Jimeng:
    """See `providers.base.Provider`. `handle` keeps `req_key`."""

    name = "jimeng"
    options: type[BaseModel] = JimengOptions
    credentials: tuple[frozenset[str], ...] = (frozenset({"access_key", "secret_key"}),)
    operations = OPERATIONS
    rows = ROWS
    variants: tuple[str, ...] = ("video",)
    callback_field: str | None = None
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
        return draft_of(request, upstream, upstream_model, row, terms)

    def rendered(self, draft: Draft, upstream: Upstream) -> Rendered:
        return rendered_of(draft, self.row(upstream, draft.handle.get("req_key", "")))

    def seal(
        self, draft: Draft, upstream: Upstream, credential: Credential, now_s: int
    ) -> Outbound:
        """The req_key is `draft`'s own choice: a rewrite of it would leave a paid task that no
        poll can find, so it does not take."""
        fields = {**draft.fields, **draft.handle}
        pieces = body_writer.json_pieces(fields)
        url = body_writer.address(upstream.base_url, draft.path, draft.query)
        parts = urlsplit(url)
        headers = CIMultiDict({**upstream.headers, **draft.headers})
        headers["Host"] = parts.netloc.rpartition("@")[2]
        headers["Content-Type"] = "application/json"
        headers.update(
            sign_volc(
                method=draft.method,
                path=unquote(parts.path),
                query=draft.query,
                headers=headers,
                body_sha256=body_writer.sha256(pieces),
                access_key=credential.access_key or "",
                secret_key=credential.secret_key or "",
                now_s=now_s,
            )
        )
        return Outbound(draft.method, url, headers, pieces, body_writer.length(pieces))

    def outcome(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> Outcome:
        return outcome_of(status, headers, body, _options(upstream).refused_statuses)

    def has_replicas(self, upstream: Upstream) -> bool:
        return True

    def poll(self, task: Task, upstream: Upstream) -> Draft:
        return Draft(
            method="POST",
            path=upstream.paths.get("poll", "/"),
            query=(("Action", POLL_ACTION), ("Version", VERSION)),
            encoding="json",
            fields={
                "req_key": task.handle.get("req_key", task.upstream_model),
                "task_id": task.upstream_id,
            },
        )

    def state(
        self, task: Task, status: int, headers: Mapping[str, str], body: bytes
    ) -> TaskState | Transient:
        return state_of(task, status, headers, body)

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        return None

    def found(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
        return Transient("Jimeng has no look-up by an id of ours", kind="no_lookup")

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


def _options(upstream: Upstream) -> JimengOptions:
    return upstream.options if isinstance(upstream.options, JimengOptions) else JimengOptions()
