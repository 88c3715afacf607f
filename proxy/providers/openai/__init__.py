"""Upstreams that speak OpenAI's Videos API, `/v1/videos`.

OpenAI itself ended it on 2026-09-24; what speaks it today are Azure (Sora 2), self-hosted
vLLM-Omni and SGLang, and other gateways. They differ in a handful of traits, a row of `SERVERS`
each: the operator names the software, not its quirks. Sources: openai-openapi's openapi.yaml
(2026-08-21), what openai-python 3.54 puts on the wire, vllm-omni docs/serving/videos_api.md,
sglang multimodal_gen/runtime/entrypoints/openai/video_api.py (2026-11), Microsoft Learn
"Video generation" (2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import orjson
from multidict import CIMultiDict
from pydantic import BaseModel

from proxy.errors import NotFound, UpstreamFailed
from proxy.http.body_writer import address, json_pieces, length
from proxy.http.form_writer import form_of
from proxy.http.outbound import (
    NO_TERMS,
    Draft,
    Outbound,
    Piece,
    Rendered,
    Terms,
)
from proxy.model import (
    Credential,
    Task,
    TaskState,
    Upstream,
    VideoRequest,
    submit_key,
)
from proxy.providers.catalogue import row_of
from proxy.providers.catalogue.openai import ROWS
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.openai.answers import outcome, state
from proxy.providers.openai.lengths import rendered_of
from proxy.providers.openai.servers import ALL, SERVERS, OpenAIOptions, known_of, options_of
from proxy.providers.openai.submit import ACCEPT, bound_id, draft_of, target
from proxy.providers.outcomes import (
    Accepted,
    Cancelled,
    Outcome,
    Refused,
    Transient,
)

__all__ = ["SERVERS", "OpenAI", "OpenAIOptions"]

_TOLD_CHARS = 2000


class OpenAI:
    """Provider `openai`. A draft's `handle` has what the server renders when the body does not
    say: `seconds`, `size`, `audio`."""

    name = "openai"
    options: type[BaseModel] = OpenAIOptions
    credentials: tuple[frozenset[str], ...] = (frozenset({"api_key"}),)
    operations = ALL
    rows = ROWS
    variants: tuple[str, ...] = ("video", "thumbnail", "spritesheet")
    callback_field: str | None = None
    key_header: str | None = "Idempotency-Key"

    def row(self, upstream: Upstream, model: str) -> ModelRow:
        """What the operator says, else what the model's vendor does, else its kind of server."""
        options = options_of(upstream)
        known = row_of(ROWS if SERVERS[options.server].hosts_sora else (), upstream, model)
        return known_of(options, known)

    def draft(
        self,
        request: VideoRequest,
        task_id: str,
        upstream: Upstream,
        upstream_model: str,
        source: Task | None,
        terms: Terms = NO_TERMS,
    ) -> Draft:
        return draft_of(request, task_id, upstream, upstream_model, source, terms)

    def rendered(self, draft: Draft, upstream: Upstream) -> Rendered:
        return rendered_of(draft)

    def seal(
        self, draft: Draft, upstream: Upstream, credential: Credential, now_s: int
    ) -> Outbound:
        headers: CIMultiDict[str] = CIMultiDict(upstream.headers)
        for name, value in draft.headers.items():
            headers[name] = value
        key = credential.api_key or ""
        if not key:  # a server that was started without one
            pass
        elif SERVERS[options_of(upstream).server].auth == "api-key":
            headers["api-key"] = key
        else:
            headers["Authorization"] = f"Bearer {key}"
        pieces: tuple[Piece, ...] = ()
        if draft.encoding == "json":
            headers["Content-Type"] = "application/json"
            pieces = json_pieces(draft.fields)
        elif draft.encoding == "multipart":
            boundary, pieces = form_of(draft.fields)
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
        url = address(upstream.base_url, draft.path, draft.query)
        return Outbound(draft.method, url, headers, pieces, length(pieces))

    def outcome(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> Outcome:
        options = options_of(upstream)
        door = SERVERS[options.server].door
        found = outcome(status, headers, body, door, options.refused_statuses)
        if isinstance(found, Accepted) and options.server == "reelway":
            found = replace(
                found,
                adjusted=_told(headers, "reelway-adjusted"),
                dropped=_told(headers, "reelway-dropped"),
            )
        return found

    def has_replicas(self, upstream: Upstream) -> bool:
        return SERVERS[options_of(upstream).server].replicas

    def poll(self, task: Task, upstream: Upstream) -> Draft:
        return Draft("GET", *target(upstream, "poll", bound_id(task)), ACCEPT)

    def state(
        self, task: Task, status: int, headers: Mapping[str, str], body: bytes
    ) -> TaskState | Transient:
        return state(task, status, headers, body)

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        """Only a Reelway can be asked: for the task of the Idempotency-Key that the submit had.
        Sending the submit again under its key would find it too, but needs the whole request once
        more, and makes a second render at a Reelway whose store has lost the key."""
        if options_of(upstream).server != "reelway":
            return None
        path, query = target(upstream, "submit")
        key = submit_key(task.id, task.attempt)
        return Draft("GET", path, (*query, ("idempotency_key", key)), ACCEPT)

    def found(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
        """The header says that this Reelway looks up by key: an older one would list any tasks."""
        if status != 200 or headers.get("reelway-lookup") != "idempotency-key":
            return Transient("this server does not look up by key", kind="no_lookup")
        try:
            tasks = orjson.loads(body)["data"]
            wanted = orjson.dumps(tasks[0]) if tasks else None
        except (ValueError, KeyError, TypeError, IndexError):
            return Transient("the answer to a look-up cannot be read", kind="unreadable")
        if wanted is None:
            error = UpstreamFailed("The provider did not take the request; nothing was rendered.")
            return Refused(error, elsewhere=True)
        found = outcome(200, headers, wanted)
        if isinstance(found, Accepted):
            return found
        return Transient("the answer to a look-up names no task", kind="unreadable")

    def content(self, task: Task, upstream: Upstream, variant: str, index: int) -> Draft | str:
        offered = SERVERS[options_of(upstream).server].variants
        if variant not in offered:
            raise NotFound(
                f"This video has no variant {variant[:40]!r}; it has: {', '.join(offered)}.",
                param="variant",
            )
        # A result's own address, where the job has one elsewhere (SGLang with S3: its content
        # path is a 400 then); at the upstream itself its content path, with our key.
        result = task.results[index] if 0 <= index < len(task.results) else None
        url = result.url if result is not None and variant == self.variants[0] else None
        if url is not None and not _is_at(url, upstream):
            return url
        path, query = target(upstream, "content", bound_id(task))
        if variant != self.variants[0]:
            query = (*query, ("variant", variant))
        return Draft("GET", path, query, {"Accept": "*/*"})

    def cancel(self, task: Task, upstream: Upstream) -> Draft | None:
        """Only for a server that stops the render: see `_stops`."""
        if task.upstream_id is None or not _stops(task, options_of(upstream)):
            return None
        headers = ACCEPT
        if SERVERS[options_of(upstream).server].tells_cancel:
            # It would hide a task that goes on, and we could not follow it to its end.
            headers = {**headers, "reelway-cancel": "only-stop"}
        return Draft("DELETE", *target(upstream, "poll", task.upstream_id), headers)

    def cancelled(
        self,
        task: Task,
        upstream: Upstream,
        status: int,
        headers: Mapping[str, str],
        body: bytes,
    ) -> Cancelled:
        """A refusal that was read says that the render goes on. A 404 says less, and so does
        vLLM-Omni's 409 "Cancellation in progress"."""
        if SERVERS[options_of(upstream).server].tells_cancel:
            if status == 409:
                return "will_finish"
            told = headers.get("reelway-cancel", "") if 200 <= status < 300 else ""
            return "stopped" if told == "stopped" else _CANCELLED.get(told, "unknown")
        if 200 <= status < 300:
            return "stopped"
        return "will_finish" if status in (400, 403, 405, 422, 501) else "unknown"


def _told(headers: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The items of a header that another Reelway tells its changes in, bounded."""
    items = headers.get(name, "")[:_TOLD_CHARS].split(",")
    return tuple(item.strip() for item in items if item.strip() and item.isprintable())


def _is_at(url: str, upstream: Upstream) -> bool:
    """Whether a URL is one of the upstream's own server."""
    there, here = urlsplit(url), urlsplit(upstream.base_url)
    return (there.scheme.lower(), there.netloc.lower()) == (here.scheme, here.netloc.lower())


_CANCELLED: Mapping[str, Cancelled] = {"will_finish": "will_finish"}
# Models whose render vLLM-Omni cannot abort (vllm-omni#7844, open in 2026-11).
_UNSTOPPABLE = re.compile(r"minimax.?h3", re.IGNORECASE)


def _stops(task: Task, options: OpenAIOptions) -> bool:
    """Whether a DELETE stops the render, by the server's kind and version:

    vllm-omni ≥ 0.30 aborts it, all but `_UNSTOPPABLE`; before that its engine ran on. SGLang
    drops the record (sglang#24547). OpenAI and Azure refuse a DELETE of a running job, LiteLLM
    refuses every one. Another Reelway knows it of its own upstreams, and says so.
    """
    traits = SERVERS[options.server]
    if traits.tells_cancel:
        return True
    first = traits.stops_from
    if first is None or _UNSTOPPABLE.search(task.upstream_model):
        return False
    if options.version is None:
        return True
    major, minor = options.version.split(".")[:2]
    return (int(major), int(minor)) >= first
