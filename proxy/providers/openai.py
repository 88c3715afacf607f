"""Upstreams that speak OpenAI's Videos API, `/v1/videos`.

OpenAI itself ended it on 2026-09-24; what speaks it today are Azure (Sora 2), self-hosted
vLLM-Omni and SGLang, and other gateways. They differ in a handful of traits, a row of `SERVERS`
each: the operator names the software, not its quirks. Sources: openai-openapi's openapi.yaml
(2026-08-21), what openai-python 3.54 puts on the wire, vllm-omni docs/serving/videos_api.md,
sglang multimodal_gen/runtime/entrypoints/openai/video_api.py (2026-11), Microsoft Learn
"Video generation" (2026-11).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

import orjson
from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict, Field, PositiveInt

from proxy.errors import Invalid
from proxy.model import (
    Adjustment,
    Cancelled,
    Credential,
    Draft,
    DraftValue,
    Json,
    Media,
    Operation,
    Outbound,
    Outcome,
    Piece,
    Rendered,
    Role,
    Task,
    TaskState,
    Transient,
    Upstream,
    VideoRequest,
)
from proxy.providers.demands import (
    check_operation,
    check_silence,
    check_single,
    fit_seconds,
    foreign,
    frames_of,
    spelled,
)
from proxy.providers.openai_answers import OPEN_DOOR, Door, outcome, state
from proxy.providers.parts import boundary_for, multipart_pieces
from proxy.providers.pixels import fit_size, size_of
from proxy.providers.refusals import RefusedStatuses
from proxy.providers.serial import address, json_pieces, length, segment
from proxy.providers.values import quantity

Server: TypeAlias = Literal["openai", "azure", "vllm-omni", "sglang"]

_ALL = frozenset({Operation.CREATE, Operation.REMIX, Operation.EDIT, Operation.EXTEND})
_CREATE = frozenset({Operation.CREATE})


class Options(BaseModel):
    """`options` of an upstream with `provider = "openai"`.

    `server` is the software behind `base_url`; any other that speaks `/v1/videos` as OpenAI's
    document has it is "openai". `version` is that software's, where an older one does less; None
    is its newest. `seconds` and `sizes` are what its model renders: a request is fitted to the
    next one up; None sends on whatever is asked. `refused_statuses` are HTTP statuses by which it
    says that it began nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    server: Server = "openai"
    version: Annotated[str, Field(pattern=r"^\d{1,4}\.\d{1,4}(\.\w{1,16})*$")] | None = None
    seconds: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = None
    sizes: (
        Annotated[
            tuple[Annotated[str, Field(pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")], ...],
            Field(min_length=1),
        ]
        | None
    ) = None
    refused_statuses: RefusedStatuses = ()


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells one server from another.

    `picture_url` is how a picture travels by its address: `object` as OpenAI's
    `input_reference: {image_url}`, `text` as the JSON text of that in `image_reference`,
    `plain` in `reference_url`. `nested_as_text`: other objects and lists go as JSON text too,
    since the form's parser knows no bracketed names. `audio` is the field that switches sound
    on, `always` or `never` where there is none. `fields` are those beyond OpenAI's that it
    understands. `door` is how it refuses a submit. `stops_from` is the first version whose DELETE stops a render; None: its DELETE
    drops the record at most. `replicas` is False for a single server that keeps its jobs in memory.
    """

    operations: frozenset[Operation] = _ALL
    auth: Literal["authorization", "api-key"] = "authorization"
    json_without_file: bool = False
    integer_seconds: bool = False
    picture_url: Literal["object", "text", "plain"] = "object"
    nested_as_text: bool = False
    audio: Literal["always", "never", "generate_sound"] = "always"
    fields: frozenset[str] = frozenset()
    default_seconds: str = "4"  # "": its model decides
    default_size: str = "720x1280"
    door: Door = OPEN_DOOR
    stops_from: tuple[int, int] | None = None
    replicas: bool = True


SERVERS: Mapping[Server, Traits] = {
    "openai": Traits(),
    "azure": Traits(auth="api-key"),
    "vllm-omni": Traits(
        operations=_CREATE,
        picture_url="text",
        nested_as_text=True,
        audio="generate_sound",
        fields=frozenset({"negative_prompt", "seed", "fps", "num_frames"}),
        default_seconds="",
        default_size="",
        # With --api-server-count above 1 every call of /v1/videos is a 409.
        door=Door(overloaded=frozenset({503}), absent=frozenset({409})),
        stops_from=(0, 30),
        replicas=False,
    ),
    "sglang": Traits(
        operations=_CREATE,
        json_without_file=True,  # 400 "input_reference file is required" for multipart without
        integer_seconds=True,
        picture_url="plain",
        audio="never",
        fields=frozenset({"negative_prompt", "seed", "fps", "num_frames"}),
        default_size="",
        door=Door(overloaded=frozenset({503})),  # "Scheduler worker exited; restart the server."
        replicas=False,
    ),
}

_PATHS = {"submit": "/videos", "poll": "/videos/{id}", "content": "/videos/{id}/content"}
_ACCEPT = {"Accept": "application/json"}

_SOFT_FIELDS = (
    "negative_prompt",
    "seed",
    "fps",
    "mode",
    "style",
    "quality_level",
    "user",
    "response_format",
)
# SGLang merges `extra_body` over the whole request, vLLM-Omni hands `extra_params` to its
# pipeline, and gateways read `metadata` over their own fields: what is priced would not be what is
# rendered. So these never come from a client, on top or in `metadata`.
_NEVER_SENT = frozenset(
    {
        *("extra_body", "extra_params", "diffusers_kwargs", "metadata", "batch_size"),
        *("num_outputs", "num_outputs_per_prompt", "num_videos", "num_videos_per_prompt"),
        *("model", "model_name", "req_key", "frames", "sound", "video_length", "duration"),
        *("num_samples", "samples"),
    }
)
# What counts on top, and is read there, does not count again in `metadata`.
_NOT_NESTED = _NEVER_SENT | {"num_frames", "generate_sound", "seconds", "n", "size", "fps"}
_DEFAULT_FPS = 24  # vLLM-Omni and SGLang, where `num_frames` is given alone


class OpenAI:
    """Provider `openai`. A draft's `handle` has what the server renders when the body does not
    say: `seconds`, `size`, `audio`."""

    name = "openai"
    options: type[BaseModel] = Options
    credentials: tuple[frozenset[str], ...] = (frozenset({"api_key"}),)
    operations = _ALL
    variants: tuple[str, ...] = ("video", "thumbnail", "spritesheet")
    callback_field: str | None = None

    def draft(
        self,
        request: VideoRequest,
        task_id: str,
        upstream: Upstream,
        upstream_model: str,
        source: Task | None,
    ) -> Draft:
        options = _options(upstream)
        traits = SERVERS[options.server]
        check_operation(request, traits.operations)
        check_single(request)
        making = _Making(request, options, traits)
        path, query = _target(upstream, "submit")
        match request.operation:
            case Operation.REMIX:
                path, query = _target(upstream, "poll", _source_id(source))
                path += "/remix"
                making.add_prompt()
                making.drop("seconds", "size", "aspect_ratio", "resolution", "audio")
                making.refuse_media("a remix works on its source video alone")
            case Operation.EDIT:
                path += "/edits"
                making.add_prompt()
                making.drop("seconds", "size", "aspect_ratio", "resolution", "audio")
                making.add_source(source)
            case Operation.EXTEND:
                path += "/extensions"
                making.add_prompt()
                making.add_seconds()
                making.drop("size", "aspect_ratio", "resolution", "audio")
                making.add_source(source)
            case _:
                making.add_prompt()
                making.fields["model"] = upstream_model
                making.add_seconds()
                making.add_size()
                making.add_audio()
        making.add_soft()
        making.add_extra()
        if request.operation is Operation.CREATE:
            making.add_picture()
        return Draft(
            "POST",
            path,
            query,
            _ACCEPT,
            encoding=making.encoding(),
            fields=making.fields,
            handle=_fallbacks(request.operation, traits, source),
            adjusted=tuple(making.adjusted),
            dropped=tuple(making.dropped),
        )

    def rendered(self, draft: Draft) -> Rendered:
        """`num_frames` outranks `seconds` on the servers that know it."""
        fields, handle = draft.fields, draft.handle
        seconds = quantity(fields.get("seconds") or handle.get("seconds"))
        frames = quantity(fields.get("num_frames"))
        if frames is not None:
            seconds = frames / (quantity(fields.get("fps")) or _DEFAULT_FPS)
        switch = fields.get("generate_sound")
        return Rendered(
            seconds=seconds,
            size=size_of(fields.get("size") or handle.get("size")),
            n=int(quantity(fields.get("n")) or 1),
            audio=handle.get("audio") == "always" or switch is True or switch == "true",
        )

    def seal(
        self, draft: Draft, upstream: Upstream, credential: Credential, now_s: int
    ) -> Outbound:
        headers: CIMultiDict[str] = CIMultiDict(upstream.headers)
        for name, value in draft.headers.items():
            headers[name] = value
        key = credential.api_key or ""
        if SERVERS[_options(upstream).server].auth == "api-key":
            headers["api-key"] = key
        else:
            headers["Authorization"] = f"Bearer {key}"
        pieces: tuple[Piece, ...] = ()
        if draft.encoding == "json":
            headers["Content-Type"] = "application/json"
            pieces = json_pieces(draft.fields)
        elif draft.encoding == "multipart":
            boundary = boundary_for(draft.fields)
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
            pieces = multipart_pieces(draft.fields, boundary)
        url = address(upstream.base_url, draft.path, draft.query)
        return Outbound(draft.method, url, headers, pieces, length(pieces))

    def outcome(
        self, status: int, headers: Mapping[str, str], body: bytes, upstream: Upstream
    ) -> Outcome:
        options = _options(upstream)
        door = SERVERS[options.server].door
        return outcome(status, headers, body, door, options.refused_statuses)

    def has_replicas(self, upstream: Upstream) -> bool:
        return SERVERS[_options(upstream).server].replicas

    def poll(self, task: Task, upstream: Upstream) -> Draft:
        return Draft("GET", *_target(upstream, "poll", _upstream_id(task)), _ACCEPT)

    def state(
        self, task: Task, status: int, headers: Mapping[str, str], body: bytes
    ) -> TaskState | Transient:
        return state(task, status, headers, body)

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        return None  # nothing in this API carries an id of ours

    def found(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
        return Transient("this provider has no lookup by our id", kind="no_lookup")

    def content(self, task: Task, upstream: Upstream, variant: str, index: int) -> Draft | str:
        """A result's own address, where the job has one elsewhere (SGLang with S3: its content
        path is a 400 then); at the upstream itself its content path, with our key."""
        result = task.results[index] if 0 <= index < len(task.results) else None
        url = result.url if result is not None and variant == self.variants[0] else None
        if url is not None and not _is_at(url, upstream):
            return url
        path, query = _target(upstream, "content", _upstream_id(task))
        if variant != self.variants[0]:
            query = (*query, ("variant", variant))
        return Draft("GET", path, query, {"Accept": "*/*"})

    def cancel(self, task: Task, upstream: Upstream) -> Draft | None:
        """Only for a server that stops the render: see `_stops`."""
        if task.upstream_id is None or not _stops(task, _options(upstream)):
            return None
        return Draft("DELETE", *_target(upstream, "poll", task.upstream_id), _ACCEPT)

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
        if 200 <= status < 300:
            return "stopped"
        return "will_finish" if status in (400, 403, 405, 422, 501) else "unknown"


# ---------------------------------------------------------------- the request


@dataclass(slots=True)
class _Making:
    """A submit's fields in the making, in the order the official SDK sends its parts."""

    request: VideoRequest
    options: Options
    traits: Traits
    fields: dict[str, DraftValue] = field(default_factory=dict)
    adjusted: list[Adjustment] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add_prompt(self) -> None:
        if self.request.prompt is not None:
            self.fields["prompt"] = self.request.prompt

    def add_seconds(self) -> None:
        """Whole seconds in any case: the API has no others. Where the server counts frames, a
        number of frames goes on as it is."""
        if self.request.frames is not None and "num_frames" in self.traits.fields:
            self.fields["num_frames"] = self.request.frames
            return
        asked = self.request.seconds
        if asked is None:
            return
        accepted = sorted(self.options.seconds or (max(1, math.ceil(asked)),))
        given, adjusted = fit_seconds(self.request, accepted)
        self.adjusted += adjusted
        self.fields["seconds"] = given if self.traits.integer_seconds else str(given)

    def add_size(self) -> None:
        accepted = [size for text in self.options.sizes or () if (size := size_of(text))]
        size, adjusted = fit_size(self.request, accepted)
        self.adjusted += adjusted
        if size is not None:
            self.fields["size"] = spelled(size)

    def add_audio(self) -> None:
        wanted, switch = self.request.audio, self.traits.audio
        if wanted is None:
            return
        if switch == "generate_sound":
            self.fields[switch] = wanted
        elif switch == "never":
            check_silence(self.request)
        elif not wanted:
            param = "sound" if self.request.dialect == "kling" else "audio"
            raise Invalid(f"'{param}' must be on: this model always renders sound.", param=param)

    def add_soft(self) -> None:
        """An OpenAI client's fields go on under their names, whoever knows them; another
        dialect's only to servers known to take them."""
        for name in _SOFT_FIELDS:
            value: Json = getattr(self.request, name)
            if value is None:
                continue
            if self.request.dialect == "openai" or name in self.traits.fields:
                self.fields[name] = value
            else:
                self.dropped.append(name)

    def add_extra(self) -> None:
        self.dropped += foreign(self.request)
        for name, value in self.request.extra.items():
            if name == "metadata" and isinstance(value, dict) and self.request.dialect == "openai":
                self.dropped += [f"metadata.{key}" for key in value if key in _NOT_NESTED]
                notes = {key: note for key, note in value.items() if key not in _NOT_NESTED}
                if notes:
                    self.fields[name] = self._nested(notes)
            elif (
                self.request.dialect != "openai"
                or name in _NEVER_SENT
                or name in self.fields
                or (name == "num_frames" and not quantity(value))  # nobody could price it
            ):
                self.dropped.append(name)
            else:
                self.fields[name] = self._nested(value)

    def _nested(self, value: Json) -> DraftValue:
        if self.traits.nested_as_text and isinstance(value, dict | list):
            return orjson.dumps(value).decode()
        return cast("DraftValue", value)

    def add_picture(self) -> None:
        first, last = frames_of(self.request)
        if last is not None:
            raise Invalid(
                f"'{last.param}' is not supported: this model takes a first frame only.",
                param=last.param,
            )
        if first is None:
            return
        name, value = self._pictured(first)
        if name in self.fields:  # an extra of the client's, in the server's own words
            self.dropped.append(name)
        self.fields[name] = value

    def _pictured(self, picture: Media) -> tuple[str, DraftValue]:
        if picture.blob is not None:
            return "input_reference", picture.blob
        match self.traits.picture_url:
            case "object":
                return "input_reference", _member("image_url", picture.url)
            case "text":
                return "image_reference", orjson.dumps({"image_url": picture.url}).decode()
            case "plain":
                return "reference_url", picture.url

    def add_source(self, source: Task | None) -> None:
        """The video an edit or extension works on: the task it names, or an upload."""
        uploads = [item for item in self.request.media if item.role is Role.SOURCE]
        word = "an edit" if self.request.operation is Operation.EDIT else "an extension"
        self.refuse_media(f"{word} works on its source video alone", uploads)
        if source is not None:
            self.fields["video"] = _member("id", _source_id(source))
        elif uploads and uploads[0].blob is not None:
            self.fields["video"] = uploads[0].blob
        else:
            raise Invalid("'video' must be an uploaded file or {\"id\": …}.", param="video")

    def drop(self, *names: str) -> None:
        self.dropped += [name for name in names if getattr(self.request, name) is not None]

    def refuse_media(self, why: str, kept: Sequence[Media] = ()) -> None:
        """A picture that would not be sent is refused: the client would pay for another video."""
        for item in self.request.media:
            if item not in kept:
                raise Invalid(f"'{item.param}' is not supported: {why}.", param=item.param)

    def encoding(self) -> Literal["json", "multipart"]:
        has_file = any(hasattr(value, "chunks") for value in self.fields.values())
        if has_file:
            return "multipart"
        if self.request.operation is not Operation.CREATE or self.traits.json_without_file:
            return "json"
        return "multipart"


def _member(name: str, value: str | None) -> dict[str, DraftValue]:
    return {name: value}


def _fallbacks(operation: Operation, traits: Traits, source: Task | None) -> dict[str, str]:
    """What is rendered when the body is silent: the server's default; for a remix, edit or
    extension, as its source was."""
    found: dict[str, str] = {"audio": traits.audio}
    if operation is Operation.CREATE:
        found |= {"seconds": traits.default_seconds, "size": traits.default_size}
    elif source is not None:
        if source.seconds is not None and operation is not Operation.EXTEND:
            found["seconds"] = f"{source.seconds:g}"
        if source.size is not None:
            found["size"] = spelled(source.size)
    return {name: value for name, value in found.items() if value}


def _source_id(source: Task | None) -> str:
    if source is None:
        raise Invalid("The source video is missing.", param="video")
    if source.upstream_id is None:
        raise Invalid(f"Video '{source.id}' is not rendered yet.", param="video")
    return source.upstream_id


def _upstream_id(task: Task) -> str:
    assert task.upstream_id is not None, "only bound tasks are polled and fetched"
    return task.upstream_id


def _target(
    upstream: Upstream, name: str, upstream_id: str | None = None
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Path and query under a name of `_PATHS` or the operator's override of it, which may
    carry a query ("/videos?api-version=preview")."""
    path, _, query = upstream.paths.get(name, _PATHS[name]).partition("?")
    if upstream_id is not None:
        path = path.replace("{id}", segment(upstream_id))
    return path, tuple(parse_qsl(query, keep_blank_values=True))


def _is_at(url: str, upstream: Upstream) -> bool:
    """Whether a URL is one of the upstream's own server."""
    there, here = urlsplit(url), urlsplit(upstream.base_url)
    return (there.scheme.lower(), there.netloc.lower()) == (here.scheme, here.netloc.lower())


# Models whose render vLLM-Omni cannot abort (vllm-omni#7844, open in 2026-11).
_UNSTOPPABLE = re.compile(r"minimax.?h3", re.IGNORECASE)


def _stops(task: Task, options: Options) -> bool:
    """Whether a DELETE stops the render, by the server's kind and version:

    vllm-omni ≥ 0.30 aborts it, all but `_UNSTOPPABLE`; before that its engine ran on. SGLang
    drops the record (sglang#24547). OpenAI and Azure refuse a DELETE of a running job, LiteLLM
    refuses every one.
    """
    first = SERVERS[options.server].stops_from
    if first is None or _UNSTOPPABLE.search(task.upstream_model):
        return False
    if options.version is None:
        return True
    major, minor = options.version.split(".")[:2]
    return (int(major), int(minor)) >= first


def _options(upstream: Upstream) -> Options:
    return upstream.options if isinstance(upstream.options, Options) else Options()
