"""What a provider adapter is: how one kind of upstream speaks, as pure functions.

The life of a submit: `draft` → (routing's rewrites on `Draft.fields`) → `rendered` → `seal`
→ the edge sends it → `outcome`. Later: `poll` → `seal` → edge → `state`; `content` → edge.

What an adapter cannot do literally falls in one of three classes:
  exact   picture roles, audio, n > 1, enum values that change the picture: raise `Invalid`
          with the client's `param` and what is accepted;
  fitted  seconds, size, resolution: the next accepted value up (none above: `Invalid`),
          told in `Draft.adjusted`;
  soft    seed, fps, style, quality_level, user, response_format, unknown extras: left out,
          told in `Draft.dropped`.
A field the client did not send is left out of the draft, so that a route's `defaults` apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import BaseModel

from proxy.http.outbound import (
    NO_TERMS,
    Draft,
    Outbound,
    Rendered,
    Terms,
)
from proxy.model import (
    Credential,
    Operation,
    Task,
    TaskState,
    Upstream,
    VideoRequest,
)
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.outcomes import (
    Cancelled,
    Outcome,
    Transient,
)


class Provider(Protocol):
    """One kind of upstream. Every method is pure; `headers` mappings are case-insensitive."""

    @property
    def name(self) -> str: ...

    @property
    def options(self) -> type[BaseModel]:
        """Validates `[[upstreams]] options = {…}`; frozen, nothing unknown accepted."""
        ...

    @property
    def credentials(self) -> tuple[frozenset[str], ...]:
        """The accepted sets of credential fields."""
        ...

    @property
    def operations(self) -> frozenset[Operation]:
        """The submits it can do."""
        ...

    @property
    def rows(self) -> tuple[ModelRow, ...]:
        """The built-in rows of the catalogue for its models."""
        ...

    def row(self, upstream: Upstream, model: str) -> ModelRow:
        """All that is known of a model at an upstream: its row in the catalogue, with what the
        operator says of it."""
        ...

    @property
    def variants(self) -> tuple[str, ...]:
        """Of a result's content; the first is the default."""
        ...

    @property
    def callback_field(self) -> str | None:
        """The body field that names an address the provider calls on every change; None where
        it cannot call back."""
        ...

    @property
    def key_header(self) -> str | None:
        """The header of a submit that carries a key of the attempt, by which the upstream may
        know a repeated one; None where it reads none."""
        ...

    def draft(
        self,
        request: VideoRequest,
        task_id: str,
        upstream: Upstream,
        upstream_model: str,
        source: Task | None,
        terms: Terms = NO_TERMS,
    ) -> Draft:
        """`task_id` is ours (Kling gets it as external_task_id); `source` is the task that a
        remix, edit or extension names; `terms` are the route's for fields nobody reads.
        Raises `Invalid` or `UnsupportedOperation`."""
        ...

    def rendered(self, draft: Draft, upstream: Upstream) -> Rendered:
        """What the rewritten draft will make, the provider's own defaults filled in."""
        ...

    def seal(
        self, draft: Draft, upstream: Upstream, credential: Credential, now_s: int
    ) -> Outbound: ...

    def outcome(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> Outcome:
        """The class of a complete answer to a submit (a cut or time-out is the edge's to class).
        Which statuses mean "nothing was begun" depends on the software behind `upstream`."""
        ...

    def poll(self, task: Task, upstream: Upstream) -> Draft: ...

    def has_replicas(self, upstream: Upstream) -> bool:
        """Whether a poll may be answered by another server than the one that has the task, so
        that its 404 says less."""
        ...

    def state(
        self, task: Task, status: int, headers: Mapping[str, str], body: bytes
    ) -> TaskState | Transient:
        """Never raises: what cannot be read is `Transient`."""
        ...

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        """A query by an id we chose, for a submit of unknown outcome; None where there is none."""
        ...

    def found(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
        """What `find` was answered: Accepted, Refused (never arrived) or Transient."""
        ...

    def content(self, task: Task, upstream: Upstream, variant: str, index: int) -> Draft | str:
        """Where the bytes are: a draft to seal (the upstream's own content path) or a result
        URL, fetched as it is, guarded, without our credentials."""
        ...

    def cancel(self, task: Task, upstream: Upstream) -> Draft | None:
        """A request that stops the render; None where the provider has none. One that only drops
        the record is none: its render goes on and is paid for, and could not be followed."""
        ...

    def cancelled(
        self,
        task: Task,
        upstream: Upstream,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Cancelled:
        """What the answer to `cancel` says of the render."""
        ...
