"""A submit to a server of OpenAI's kind: its fields, and what they will make."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, cast
from urllib.parse import parse_qsl

import orjson

from proxy.errors import Invalid
from proxy.http.body_writer import segment
from proxy.http.outbound import (
    Adjustment,
    Base64,
    Draft,
    DraftValue,
    Remote,
    Terms,
)
from proxy.model import (
    Json,
    Media,
    Operation,
    Role,
    Task,
    Upstream,
    VideoRequest,
)
from proxy.providers.catalogue import operators_row
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.fitting import (
    check_frames,
    check_length,
    check_operation,
    check_seconds,
    check_silence,
    check_single,
    fit_seconds,
    foreign,
    frames_of,
    names_of,
    spelled,
)
from proxy.providers.openai.lengths import PAID_FPS, fallbacks
from proxy.providers.openai.rules import Number, checked
from proxy.providers.openai.servers import (
    SERVERS,
    OpenAIOptions,
    Traits,
    fitted_options,
    options_of,
)
from proxy.providers.passthrough import MOVERS, is_harmless, is_named, is_passed
from proxy.providers.sizes import fit_size, size_of
from proxy.providers.values import quantity

_PATHS = {"submit": "/videos", "poll": "/videos/{id}", "content": "/videos/{id}/content"}
ACCEPT = {"Accept": "application/json"}

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


def draft_of(
    request: VideoRequest,
    task_id: str,
    upstream: Upstream,
    upstream_model: str,
    source: Task | None,
    terms: Terms,
) -> Draft:
    row = operators_row(upstream, upstream_model)
    options = fitted_options(options_of(upstream), row)
    traits = SERVERS[options.server]
    check_operation(request, traits.operations, row)
    check_single(request)
    terms = replace(terms, passes=(*terms.passes, *options.passes))
    making = _Making(request, options, traits, terms, row)
    path, query = target(upstream, "submit")
    match request.operation:
        case Operation.REMIX:
            path, query = target(upstream, "poll", source_id(source))
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
        ACCEPT,
        encoding=making.encoding(),
        fields=making.fields,
        handle=fallbacks(request, options, source, row),
        adjusted=tuple(making.adjusted),
        dropped=tuple(making.dropped),
    )


@dataclass(slots=True)
class _Making:
    """A submit's fields in the making, in the order the official SDK sends its parts."""

    request: VideoRequest
    options: OpenAIOptions
    traits: Traits
    terms: Terms
    row: ModelRow
    fields: dict[str, DraftValue] = field(default_factory=dict)
    adjusted: list[Adjustment] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def add_prompt(self) -> None:
        check_length(self.request.prompt, "prompt", self.row.prompt_chars)
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
        if self.row.audio in ("never", "always"):
            switch = self.row.audio
        if switch in ("generate_sound", "audio"):
            self.fields[switch] = wanted
        elif switch == "never":
            check_silence(self.request)
        elif not wanted:
            param = names_of(self.request).sound
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
        rate = min(quantity(self.fields.get("fps")) or self.traits.frame_rate, PAID_FPS)
        most = int(self.options.longest * rate) + 1
        if frames > most:
            raise Invalid(
                f"'num_frames' must be at most {most} here, not {frames:g}: this model renders "
                f"{self.options.longest} seconds at most.",
                param="num_frames",
            )

    def add_picture(self) -> None:
        first, last = frames_of(self.request)
        check_frames(self.row, first, last)
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
            self.fields["video"] = _member("id", source_id(source))
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


def _member(name: str, value: str | None) -> dict[str, DraftValue]:
    return {name: value}


def source_id(source: Task | None) -> str:
    if source is None:
        raise Invalid("The source video is missing.", param="video")
    if source.upstream_id is None:
        raise Invalid(f"Video '{source.id}' is not rendered yet.", param="video")
    return source.upstream_id


def bound_id(task: Task) -> str:
    assert task.upstream_id is not None, "only bound tasks are polled and fetched"
    return task.upstream_id


def target(
    upstream: Upstream, name: str, upstream_id: str | None = None
) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Path and query under a name of `_PATHS` or the operator's override of it, which may
    carry a query ("/videos?api-version=preview")."""
    path, _, query = upstream.paths.get(name, _PATHS[name]).partition("?")
    if upstream_id is not None:
        path = path.replace("{id}", segment(upstream_id))
    return path, tuple(parse_qsl(query, keep_blank_values=True))
