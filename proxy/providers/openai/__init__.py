"""Upstreams that speak OpenAI's Videos API, `/v1/videos`.

OpenAI itself ended it on 2026-09-24; what speaks it today are Azure (Sora 2), self-hosted
vLLM-Omni and SGLang, and other gateways. They differ in a handful of traits, a row of `SERVERS`
each: the operator names the software, not its quirks. Sources: openai-openapi's openapi.yaml
(2026-08-21), what openai-python 3.54 puts on the wire, vllm-omni docs/serving/videos_api.md,
sglang multimodal_gen/runtime/entrypoints/openai/video_api.py (2026-11), Microsoft Learn
"Video generation" (2026-11).
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, Self, TypeAlias, cast
from urllib.parse import parse_qsl, urlsplit

import orjson
from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from proxy.errors import Invalid, NotFound, UpstreamFailed
from proxy.http.body_writer import address, json_pieces, length, segment
from proxy.http.form_writer import form_of
from proxy.http.outbound import (
    NO_TERMS,
    Adjustment,
    Base64,
    Draft,
    DraftValue,
    Outbound,
    Piece,
    Remote,
    Rendered,
    Terms,
)
from proxy.model import (
    Credential,
    Json,
    Media,
    Operation,
    Role,
    Task,
    TaskState,
    Upstream,
    VideoRequest,
    submit_key,
)
from proxy.providers.fitting import (
    as_number,
    check_operation,
    check_seconds,
    check_silence,
    check_single,
    fit_seconds,
    foreign,
    frames_of,
    spelled,
)
from proxy.providers.openai.answers import OPEN_DOOR, Door, outcome, state
from proxy.providers.outcomes import (
    Accepted,
    Cancelled,
    Outcome,
    Refused,
    Transient,
)
from proxy.providers.passthrough import MOVERS, is_harmless, is_named, is_passed
from proxy.providers.refusals import RefusedStatuses
from proxy.providers.sizes import fit_size, size_of
from proxy.providers.values import quantity

Server: TypeAlias = Literal["openai", "azure", "vllm-omni", "sglang", "litellm", "reelway"]

_ALL = frozenset({Operation.CREATE, Operation.REMIX, Operation.EDIT, Operation.EXTEND})
_CREATE = frozenset({Operation.CREATE})


class Options(BaseModel):
    """`options` of an upstream with `provider = "openai"`.

    `server` is the software behind `base_url`; any other that speaks `/v1/videos` as OpenAI's
    document has it is "openai". `version` is that software's, where an older one does less; None
    is its newest. `seconds` and `sizes` are what its model renders: a request is fitted to the
    next one up; none sends on whatever is asked, up to `max_seconds` and to sides of 16 to 8192
    pixels. `pass` are globs over further fields of the client's that go on (with those of the
    route). `body` and `seconds_as` are for gateways that take JSON only, or a number.
    `random_seed` sends a seed where the client names none: SGLang's own is always 42.
    `refused_statuses` are HTTP statuses by which it says that it began nothing.
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
    max_seconds: PositiveInt = 600
    passes: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_*?-]{1,64}$")], ...] = Field(
        default=(), alias="pass"
    )
    body: Literal["form", "json"] | None = None
    seconds_as: Literal["text", "integer"] | None = None
    random_seed: bool = False

    @model_validator(mode="after")
    def _body_fits(self) -> Self:
        if self.server == "vllm-omni" and self.body == "json":
            raise ValueError("body must be 'form' for vllm-omni, which reads nothing else")
        return self

    @property
    def keyless(self) -> bool:
        """Whether the server may have been started without a key."""
        return self.server in ("vllm-omni", "sglang")

    @property
    def longest(self) -> int:
        return max(self.seconds or (self.max_seconds,))


@dataclass(frozen=True, slots=True)
class Number:
    """A field that holds a number, and what it may be."""

    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A field that holds one of these words; another one is left out."""

    among: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Flag:
    """A field that holds true or false."""


Rule: TypeAlias = "Number | Word | Flag"


@dataclass(frozen=True, slots=True)
class Traits:
    """What tells one server from another.

    `fetches`: a picture may go to it by its address, as OpenAI's `input_reference: {image_url}`.
    A server of the operator's own must not fetch what a client names, from inside its network:
    there the gateway fetches the picture and uploads it. `nested_as_text`: other objects and lists
    go as JSON text too, since the form's parser knows no bracketed names. `audio` is the field that
    switches sound on, `always` or `never` where there is none. `fields` are the common ones beyond
    OpenAI's
    document that it understands; `courtesy` are those that an OpenAI client may try, where nobody
    knows what the server understands. `extras` are its own fields that a client may send: harmless
    there, and priced where they count. `frame_rate`: it takes `num_frames`, and plays them at this
    rate when no `fps` is sent (0: it knows no frames); `whole_rate`: `fps` is a whole number.
    `door` is how it refuses a submit. `stops_from` is the first version whose DELETE stops a
    render; None: its DELETE drops the record at most. `replicas` is False for a single server that
    keeps its jobs in memory.
    """

    operations: frozenset[Operation] = _ALL
    auth: Literal["authorization", "api-key"] = "authorization"
    json_without_file: bool = False
    integer_seconds: bool = False
    fetches: bool = True
    nested_as_text: bool = False
    audio: Literal["always", "never", "generate_sound", "audio"] = "always"
    fields: frozenset[str] = frozenset()
    courtesy: frozenset[str] = frozenset()
    extras: Mapping[str, Rule] = field(default_factory=dict)
    frame_rate: int = 0
    whole_rate: bool = False
    variants: tuple[str, ...] = ("video", "thumbnail", "spritesheet")
    default_seconds: str = "4"  # "": its model decides
    default_size: str = "720x1280"
    door: Door = OPEN_DOOR
    stops_from: tuple[int, int] | None = None
    tells_cancel: bool = False  # it says in `reelway-cancel` what became of the render
    replicas: bool = True


_GUIDANCE = Number(0, 20)
_DIFFUSION: Mapping[str, Rule] = {
    "num_frames": Number(1, 100_000, whole=True),  # and no longer than the model renders
    "num_inference_steps": Number(1, 100, whole=True),
    "guidance_scale": _GUIDANCE,
    "guidance_scale_2": _GUIDANCE,
    "true_cfg_scale": _GUIDANCE,
    "flow_shift": Number(0, 100),
}
_SAID = frozenset({"negative_prompt", "seed", "style", "user", "response_format"})

SERVERS: Mapping[Server, Traits] = {
    "openai": Traits(courtesy=_SAID),
    "azure": Traits(auth="api-key"),  # it refuses what its document does not have
    "vllm-omni": Traits(
        operations=_CREATE,
        fetches=False,
        nested_as_text=True,
        audio="generate_sound",
        fields=frozenset({"negative_prompt", "seed", "fps", "quality", "aspect_ratio", "user"}),
        extras={
            **_DIFFUSION,
            "boundary_ratio": Number(0, 1),
            "generate_sound": Flag(),
        },
        frame_rate=24,
        variants=("video",),
        default_seconds="",
        default_size="",
        # With --api-server-count above 1 every call of /v1/videos is a 409.
        door=Door(overloaded=frozenset({503}), absent=frozenset({409})),
        stops_from=(0, 30),
        replicas=False,
    ),
    "sglang": Traits(
        operations=_CREATE,
        json_without_file=True,
        integer_seconds=True,
        fetches=False,
        audio="never",
        fields=frozenset({"negative_prompt", "seed", "fps"}),
        extras={**_DIFFUSION, "enable_teacache": Flag()},
        frame_rate=24,
        whole_rate=True,
        variants=("video",),
        default_size="",
        door=Door(overloaded=frozenset({503})),  # "Scheduler worker exited; restart the server."
        replicas=False,
    ),
    "litellm": Traits(
        fields=frozenset({"negative_prompt", "seed", "user"}),
        variants=("video",),
        default_seconds="",
        default_size="",
    ),
    "reelway": Traits(
        audio="audio", fields=_SAID, default_seconds="", default_size="", tells_cancel=True
    ),
}

_PATHS = {"submit": "/videos", "poll": "/videos/{id}", "content": "/videos/{id}/content"}
_ACCEPT = {"Accept": "application/json"}
_TOLD_CHARS = 2000

# Common fields and what servers call them.
_SOFT_FIELDS: Mapping[str, str] = {
    "negative_prompt": "negative_prompt",
    "seed": "seed",
    "fps": "fps",
    "mode": "mode",
    "style": "style",
    "quality_level": "quality",
    "user": "user",
    "response_format": "response_format",
}
_QUALITIES = ("lossless", "high")  # what vLLM-Omni takes
_MAX_FPS = 120
# A second of video is paid for as at most this many frames: 480 frames at 480 a second are the
# work of 16 seconds, not of one.
_PAID_FPS = 30
_SLOWEST_FPS = 16  # of the models whose rate the server chooses (Wan 2.1)


class OpenAI:
    """Provider `openai`. A draft's `handle` has what the server renders when the body does not
    say: `seconds`, `size`, `audio`."""

    name = "openai"
    options: type[BaseModel] = Options
    credentials: tuple[frozenset[str], ...] = (frozenset({"api_key"}),)
    operations = _ALL
    variants: tuple[str, ...] = ("video", "thumbnail", "spritesheet")
    callback_field: str | None = None
    key_header: str | None = "Idempotency-Key"

    def draft(
        self,
        request: VideoRequest,
        task_id: str,
        upstream: Upstream,
        upstream_model: str,
        source: Task | None,
        terms: Terms = NO_TERMS,
    ) -> Draft:
        options = _options(upstream)
        traits = SERVERS[options.server]
        check_operation(request, traits.operations)
        check_single(request)
        terms = replace(terms, passes=(*terms.passes, *options.passes))
        making = _Making(request, options, traits, terms)
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
            making.add_seed(task_id)
            making.check_frames()
            making.add_picture()
        return Draft(
            "POST",
            path,
            query,
            _ACCEPT,
            encoding=making.encoding(),
            fields=making.fields,
            handle=_fallbacks(request, options, source),
            adjusted=tuple(making.adjusted),
            dropped=tuple(making.dropped),
        )

    def rendered(self, draft: Draft) -> Rendered:
        """The longest that the body's lengths say, frames counted where the server knows them.

        A rate above `_PAID_FPS` makes more of a second: the length told is then the one paid for.
        """
        fields, handle = draft.fields, draft.handle
        asked = quantity(fields.get("seconds"))
        frames = quantity(fields.get("num_frames")) if "frame_rate" in handle else None
        rate = quantity(fields.get("fps")) if "frame_rate" in handle else None
        if asked is None and frames is None:
            asked = quantity(handle.get("seconds"))
        most = quantity(handle.get("most_seconds")) if asked is None and frames is None else None
        if asked is not None and rate is not None:
            asked = max(asked, asked * rate / _PAID_FPS)
        lengths = [] if asked is None else [asked]
        if frames is not None:
            usual = quantity(handle.get("frame_rate")) or _PAID_FPS
            lengths.append(frames / min(rate or usual, _PAID_FPS))
            most = None if rate else max(frames / _SLOWEST_FPS, *lengths)
        return Rendered(
            seconds=max(lengths, default=None),
            size=size_of(fields.get("size") or handle.get("size")),
            n=int(quantity(fields.get("n")) or 1),
            audio=_sounds(draft),
            mode=mode if isinstance(mode := fields.get("mode"), str) else None,
            most_seconds=most,
        )

    def seal(
        self, draft: Draft, upstream: Upstream, credential: Credential, now_s: int
    ) -> Outbound:
        headers: CIMultiDict[str] = CIMultiDict(upstream.headers)
        for name, value in draft.headers.items():
            headers[name] = value
        key = credential.api_key or ""
        if not key:  # a server that was started without one
            pass
        elif SERVERS[_options(upstream).server].auth == "api-key":
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
        options = _options(upstream)
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
        return SERVERS[_options(upstream).server].replicas

    def poll(self, task: Task, upstream: Upstream) -> Draft:
        return Draft("GET", *_target(upstream, "poll", _upstream_id(task)), _ACCEPT)

    def state(
        self, task: Task, status: int, headers: Mapping[str, str], body: bytes
    ) -> TaskState | Transient:
        return state(task, status, headers, body)

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        """Only a Reelway can be asked: for the task of the Idempotency-Key that the submit had.
        Sending the submit again under its key would find it too, but needs the whole request once
        more, and makes a second render at a Reelway whose store has lost the key."""
        if _options(upstream).server != "reelway":
            return None
        path, query = _target(upstream, "submit")
        key = submit_key(task.id, task.attempt)
        return Draft("GET", path, (*query, ("idempotency_key", key)), _ACCEPT)

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
        offered = SERVERS[_options(upstream).server].variants
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
        path, query = _target(upstream, "content", _upstream_id(task))
        if variant != self.variants[0]:
            query = (*query, ("variant", variant))
        return Draft("GET", path, query, {"Accept": "*/*"})

    def cancel(self, task: Task, upstream: Upstream) -> Draft | None:
        """Only for a server that stops the render: see `_stops`."""
        if task.upstream_id is None or not _stops(task, _options(upstream)):
            return None
        headers = _ACCEPT
        if SERVERS[_options(upstream).server].tells_cancel:
            # It would hide a task that goes on, and we could not follow it to its end.
            headers = {**headers, "reelway-cancel": "only-stop"}
        return Draft("DELETE", *_target(upstream, "poll", task.upstream_id), headers)

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
        if SERVERS[_options(upstream).server].tells_cancel:
            if status == 409:
                return "will_finish"
            told = headers.get("reelway-cancel", "") if 200 <= status < 300 else ""
            return "stopped" if told == "stopped" else _CANCELLED.get(told, "unknown")
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
    terms: Terms
    fields: dict[str, DraftValue] = field(default_factory=dict)
    adjusted: list[Adjustment] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add_prompt(self) -> None:
        if self.request.prompt is not None:
            self.fields["prompt"] = self.request.prompt

    def add_seconds(self) -> None:
        """Whole seconds: the API has no others. None where the client counts frames and the server
        does too, for then the frames alone are what was asked."""
        asked = self.request.seconds
        counts_frames = self.request.frames is not None and self.traits.frame_rate > 0
        if asked is None or counts_frames:
            return
        if self.options.seconds is None:
            check_seconds(self.request, self.options.max_seconds)
        accepted = sorted(self.options.seconds or (max(1, math.ceil(asked)),))
        given, adjusted = fit_seconds(self.request, accepted)
        self.adjusted += adjusted
        as_integer = self.traits.integer_seconds
        if self.options.seconds_as is not None:
            as_integer = self.options.seconds_as == "integer"
        self.fields["seconds"] = given if as_integer else str(given)

    def add_size(self) -> None:
        accepted = [size for text in self.options.sizes or () if (size := size_of(text))]
        size, adjusted = fit_size(self.request, accepted)
        self.adjusted += adjusted
        if size is None:
            return
        self.fields["size"] = spelled(size)
        shape = self.request.aspect_ratio
        is_other = any(told.field == "aspect_ratio" for told in adjusted)
        if shape is not None and "aspect_ratio" in self.traits.fields and not is_other:
            self.fields["aspect_ratio"] = shape

    def add_audio(self) -> None:
        wanted, switch = self.request.audio, self.traits.audio
        if wanted is None:
            return
        if switch in ("generate_sound", "audio"):
            self.fields[switch] = wanted
        elif switch == "never":
            check_silence(self.request)
        elif not wanted:
            param = "sound" if self.request.dialect == "kling" else "audio"
            raise Invalid(f"'{param}' must be on: this model always renders sound.", param=param)

    def add_soft(self) -> None:
        """Common fields go on to servers that know them, or where the operator passes them."""
        known = self.traits.fields
        if self.request.dialect == "openai":
            known |= self.traits.courtesy
        for name, sent_as in _SOFT_FIELDS.items():
            value: Json = getattr(self.request, name)
            if value is None:
                continue
            if sent_as == "quality" and sent_as in self.traits.fields and value not in _QUALITIES:
                self.dropped.append(name)
            elif sent_as in known or self._is_named(sent_as):
                self.fields[sent_as] = self._rate(value) if sent_as == "fps" else value
            else:
                self.dropped.append(name)

    def _is_named(self, name: str) -> bool:
        if name in MOVERS and self.terms.is_priced:
            return name == "mode" and is_named(name, self.terms.passes)  # a case of the price
        return is_named(name, self.terms.passes)

    def _rate(self, value: Json) -> Json:
        rate = checked("fps", value, Number(1, _MAX_FPS))
        assert isinstance(rate, int | float)
        if self.traits.whole_rate and rate != int(rate):
            self.adjusted.append(Adjustment("fps", f"{rate:g}", str(round(rate))))
            return round(rate)
        return rate

    def add_extra(self) -> None:
        """Fields that no rule reads: the server's own, then those the operator passes on."""
        self.dropped += foreign(self.request)
        is_create = self.request.operation is Operation.CREATE
        if self.request.frames is not None and self.traits.frame_rate and is_create:
            self.fields["num_frames"] = self.request.frames
        for name, value in self.request.extra.items():
            if name == "metadata" and isinstance(value, dict):
                self._add_metadata(value)
            elif not self._add_known(name, value, name):
                self._add_passed(name, value)

    def _add_metadata(self, notes: Mapping[str, Json]) -> None:
        """Entries that the server knows are its fields; notes go on where they are passed."""
        is_passed_on = is_named("metadata", self.terms.passes)
        kept: dict[str, Json] = {}
        for name, value in notes.items():
            if self._add_known(name, value, f"metadata.{name}"):
                continue
            if is_passed_on and is_harmless({name: value}):
                kept[name] = value
            else:
                self.dropped.append(f"metadata.{name}")
        if kept:
            self.fields["metadata"] = self._nested(kept)

    def _add_known(self, name: str, value: Json, param: str) -> bool:
        """Take a field of the server's own. Empty ones are unset, as everywhere."""
        rule = self.traits.extras.get(name)
        if name == "num_frames" and rule is None and self.request.frames is None:
            self._refuse_frames(value, param)
        if rule is None or self.request.operation is not Operation.CREATE:
            return False
        if value is None or value == "" or (name == "num_frames" and value in (0, "0")):
            return True
        if name in self.fields:
            self.dropped.append(param)
        else:
            self.fields[name] = cast("DraftValue", checked(param, value, rule))
        return True

    def _refuse_frames(self, value: Json, param: str) -> None:
        """A length is not left out, unless the operator passes it on unpriced."""
        if quantity(value) and not is_passed("num_frames", value, self.terms):
            raise Invalid(
                f"'{param}' is not known to the server of this model: say 'seconds'.", param=param
            )

    def _add_passed(self, name: str, value: Json) -> None:
        if name in self.fields or not is_passed(name, value, self.terms):
            self.dropped.append(name)
        else:
            self.fields[name] = self._nested(value)

    def _nested(self, value: Json) -> DraftValue:
        if self.traits.nested_as_text and isinstance(value, dict | list):
            return orjson.dumps(value).decode()
        return cast("DraftValue", value)

    def add_seed(self, task_id: str) -> None:
        """The same one for every attempt of a task."""
        if not self.options.random_seed or "seed" not in self.traits.fields:
            return
        digest = hashlib.sha256(task_id.encode()).digest()
        self.fields.setdefault("seed", int.from_bytes(digest[:4]) >> 1)

    def check_frames(self) -> None:
        """No more frames than the longest video has; one more is usual (24 a second and 1)."""
        frames = quantity(self.fields.get("num_frames"))
        if frames is None:
            return
        rate = min(quantity(self.fields.get("fps")) or self.traits.frame_rate, _PAID_FPS)
        most = int(self.options.longest * rate) + 1
        if frames > most:
            raise Invalid(
                f"'num_frames' must be at most {most} here, not {frames:g}: this model renders "
                f"{self.options.longest} seconds at most.",
                param="num_frames",
            )

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
        if picture.blob is not None and self.options.body == "json":
            kind = picture.blob.content_type.partition(";")[0].strip() or "image/png"
            inline = Base64(picture.blob, f"data:{kind};base64,")
            if not self.traits.fetches:  # SGLang, whose name for it this is
                return "reference_url", inline
            member: dict[str, DraftValue] = {"image_url": inline}
            return "input_reference", member
        if picture.blob is not None:
            return "input_reference", picture.blob
        assert picture.url is not None
        if self.traits.fetches:
            return "input_reference", _member("image_url", picture.url)
        return "input_reference", Remote(picture.url, picture.param)

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
        has_file = any(
            hasattr(value, "chunks") or isinstance(value, Remote) for value in self.fields.values()
        )
        if has_file:
            return "multipart"
        if self.options.body is not None:
            return "json" if self.options.body == "json" else "multipart"
        if self.request.operation is not Operation.CREATE or self.traits.json_without_file:
            return "json"
        return "multipart"


def _told(headers: Mapping[str, str], name: str) -> tuple[str, ...]:
    """The items of a header that another Reelway tells its changes in, bounded."""
    items = headers.get(name, "")[:_TOLD_CHARS].split(",")
    return tuple(item.strip() for item in items if item.strip() and item.isprintable())


def _member(name: str, value: str | None) -> dict[str, DraftValue]:
    return {name: value}


def checked(param: str, value: Json, rule: Rule) -> Json:
    """The value as its server takes it; `Invalid` says what is taken."""
    match rule:
        case Flag():
            if isinstance(value, bool):
                return value
            word = str(value).lower()
            if word in ("true", "1", "on", "yes", "false", "0", "off", "no"):
                return word in ("true", "1", "on", "yes")
            raise Invalid(f"'{param}' must be true or false.", param=param)
        case Word(among=words):
            if value in words:
                return value
            raise Invalid(f"'{param}' must be one of {', '.join(words)}.", param=param)
        case Number(low=low, high=high, whole=whole):
            number = value if isinstance(value, int | float) else as_number(value)
            if isinstance(value, bool):
                number = None
            kind = "a whole number" if whole else "a number"
            is_fit = number is not None and low <= number <= high
            if number is None or not is_fit or (whole and number != int(number)):
                shown = f", not {str(value)[:40]}" if isinstance(value, int | float | str) else ""
                raise Invalid(
                    f"'{param}' must be {kind} from {low:g} to {high:g}{shown}.", param=param
                )
            return int(number) if number == int(number) else number


def _sounds(draft: Draft) -> bool:
    """Whether it renders sound; where a server may or may not, it does."""
    fields, audio = draft.fields, draft.handle.get("audio")
    if audio == "audio":
        return str(fields.get("audio")).lower() not in ("false", "0", "off", "no")
    switch = str(fields.get("generate_sound")).lower() in ("true", "1", "on", "yes")
    return audio == "always" or switch


def _fallbacks(request: VideoRequest, options: Options, source: Task | None) -> dict[str, str]:
    """What is rendered when the body is silent.

    The server's default, where its model has it, else the longest as what it may become; for a
    remix, edit or extension, as its source was; for an edit of an upload, as long as that was
    measured. `frame_rate`: the server counts frames.
    """
    operation, traits = request.operation, SERVERS[options.server]
    found: dict[str, str] = {"audio": traits.audio}
    seconds, size = traits.default_seconds, traits.default_size
    if operation is Operation.CREATE:
        if options.seconds is not None and int(seconds or 0) not in options.seconds:
            seconds = ""
        if options.sizes is not None and size not in options.sizes:
            size = ""
        found |= {"seconds": seconds, "size": size}
        if traits.frame_rate:
            found["frame_rate"] = str(traits.frame_rate)
    elif source is not None:
        if source.seconds is not None and operation is not Operation.EXTEND:
            found["seconds"] = f"{source.seconds:g}"
        if source.size is not None:
            found["size"] = spelled(source.size)
    elif operation is Operation.EDIT:
        lengths = [item.seconds for item in request.media if item.role is Role.SOURCE]
        if lengths and lengths[0] is not None:
            found["seconds"] = f"{math.ceil(lengths[0] * 1000) / 1000:g}"
    if options.seconds is not None and not found.get("seconds"):
        found["most_seconds"] = str(options.longest)
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


_CANCELLED: Mapping[str, Cancelled] = {"will_finish": "will_finish"}
# Models whose render vLLM-Omni cannot abort (vllm-omni#7844, open in 2026-11).
_UNSTOPPABLE = re.compile(r"minimax.?h3", re.IGNORECASE)


def _stops(task: Task, options: Options) -> bool:
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


def _options(upstream: Upstream) -> Options:
    return upstream.options if isinstance(upstream.options, Options) else Options()
