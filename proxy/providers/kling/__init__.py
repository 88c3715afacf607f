"""Kling's official API: text-to-video and image-to-video.

Sources: Kling's API page (copy of 2026-08, artykrd/ai-bot-misha docs/kling_full.md) and
@ai-sdk/klingai at ed857f5. Every submit carries our task id as `external_task_id`, which is
unique per account and can be asked for: the one way to learn whether a lost submit arrived.
Kling neither cancels nor deletes a task.

Path overrides (`upstream.paths`): `submit.text2video`, `submit.image2video`,
`poll.text2video`, `poll.image2video`. Polls and look-ups append `/<id>` to theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from multidict import CIMultiDict
from pydantic import BaseModel, ConfigDict

from proxy.errors import Invalid
from proxy.http import body_writer
from proxy.http.outbound import (
    NO_TERMS,
    Adjustment,
    Base64,
    Draft,
    DraftValue,
    Outbound,
    Rendered,
    Terms,
)
from proxy.model import (
    Credential,
    Kind,
    Media,
    Operation,
    Result,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
    VideoRequest,
)
from proxy.providers import fitting, jobs, refusals, results, states, values, words
from proxy.providers.outcomes import (
    Accepted,
    Cancelled,
    Cooldown,
    Outcome,
    Refused,
    Transient,
    TransientKind,
    Unknown,
)
from proxy.signing import kling_jwt

PROMPT_MAX_CHARS = 2500
PICTURE_MAX_BYTES = 10 * 1024 * 1024
RESULT_LIFE_MS = 30 * 24 * 3600 * 1000  # "deleted after 30 days"
DEFAULT_SECONDS = 5

RATIOS = ("16:9", "9:16", "1:1")
_PICTURE_TYPES = ("image/jpeg", "image/jpg", "image/png")

# Never from a client's native fields: ours, or a way around what the client pays for.
_OURS = frozenset({"model", "model_name", "external_task_id", "callback_url", "n"})
# Documented fields that change no price. `voice_list` does, and is not among them.
_HARMLESS = frozenset(
    {
        *("cfg_scale", "camera_control", "static_mask", "dynamic_masks", "element_list"),
        *("watermark_info", "multi_shot", "shot_type", "multi_prompt"),
    }
)


@dataclass(frozen=True, slots=True)
class _Model:
    """What one model renders. `modes`: name and lines of the short side, ascending; a None name
    is a model without the `mode` parameter."""

    seconds: tuple[int, ...] = (5, 10)
    sound: bool = False
    text: bool = True  # False: only from a picture
    modes: tuple[tuple[str | None, int], ...] = (("std", 720), ("pro", 1080))


_MODELS: Mapping[str, _Model] = {
    "kling-v1": _Model(),
    "kling-v1-5": _Model(text=False),
    "kling-v1-6": _Model(),
    "kling-v2-master": _Model(modes=((None, 720),)),
    "kling-v2-1": _Model(text=False),
    "kling-v2-1-master": _Model(modes=((None, 1080),)),
    "kling-v2-5-turbo": _Model(),
    "kling-v2-6": _Model(sound=True),
    "kling-v3": _Model(seconds=tuple(range(3, 16)), sound=True),
}
# A model newer than this table: the widest known range, and the provider judges the rest.
_NEWER = _Model(seconds=tuple(range(3, 16)), sound=True)

# Kling's error codes. 5000 (internal) and 5002 (backlog time-out) prove nothing and are not here.
# What no waiting mends is out of use until it is checked; 1103 names the model or the call.
_ACCOUNT: Mapping[int, Cooldown] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004, 1100, 1101, 1102, 1304), "take_out"),
    1103: "none",
}
_MODERATION = frozenset({1300, 1301})
_INPUT = frozenset({1200, 1201})
_METHOD_MISSING = 1202
_RESOURCE_MISSING = 1203
_RATE, _IN_FLIGHT, _MAINTENANCE = 1302, 1303, 5001

# What a code says of a poll.
_SILENCE: Mapping[int, TransientKind] = {
    **dict.fromkeys(
        (1000, 1001, 1002, 1003, 1004, 1100, 1101, 1102, 1103, 1304),
        "credential_refused",
    ),
    _RESOURCE_MISSING: "not_found",
    **dict.fromkeys((_RATE, _IN_FLIGHT), "rate_limited"),
    **dict.fromkeys((5000, 5001, 5002), "http_5xx"),
}

_BLOCKED_IN_MESSAGE = re.compile(r"\b(1300|1301)\b")

_KNOWN_MEMBERS = frozenset(
    {
        "task_id",
        "task_status",
        "task_status_msg",
        "task_result",
        "external_task_id",
        "created_at",
        "updated_at",
    }
)


class Options(BaseModel):
    """`options` of an upstream with `provider = "kling"`.

    `refused_statuses` are HTTP statuses by which the server says that it began nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused_statuses: refusals.RefusedStatuses = ()


@dataclass(frozen=True, slots=True)
class _Picture:
    """How a wish for size, shape, resolution and mode comes out."""

    mode: str | None = None
    aspect_ratio: str | None = None
    adjusted: list[Adjustment] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)


class Kling:
    """See `providers.base.Provider`. `handle` keeps `kind`: a task can only be asked for under
    the path that made it."""

    name = "kling"
    options: type[BaseModel] = Options
    credentials: tuple[frozenset[str], ...] = (
        frozenset({"api_key"}),
        frozenset({"access_key", "secret_key"}),
    )
    operations = frozenset({Operation.CREATE})
    variants: tuple[str, ...] = ("video", "watermark")
    callback_field: str | None = "callback_url"
    key_header: str | None = None

    def draft(
        self,
        request: VideoRequest,
        task_id: str,
        upstream: Upstream,
        upstream_model: str,
        source: Task | None,
        terms: Terms = NO_TERMS,
    ) -> Draft:
        fitting.check_operation(request, self.operations)
        fitting.check_single(request)
        fitting.check_length(request.prompt, "prompt", PROMPT_MAX_CHARS)
        fitting.check_length(request.negative_prompt, "negative_prompt", PROMPT_MAX_CHARS)
        model = _MODELS.get(upstream_model, _NEWER)
        if not model.sound:
            fitting.check_silence(request)
        first, last = fitting.frames_of(request)
        kind = Kind.IMAGE if first or last else Kind.TEXT
        if kind is Kind.TEXT and (request.kind is Kind.IMAGE or not model.text):
            param = fitting.picture_param(request)
            raise Invalid(f"'{param}' is required: the video starts from a picture.", param=param)
        seconds, told = fitting.fit_seconds(request, model.seconds)
        picture = _picture(request, model, kind)
        is_native = request.dialect == "kling"

        values: dict[str, DraftValue] = {
            "model_name": upstream_model,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "image": _media_value(first),
            "image_tail": _media_value(last),
            "duration": None if seconds is None else str(seconds),
            "mode": picture.mode,
            "sound": _sound(request, model),
            "aspect_ratio": picture.aspect_ratio,
        }
        left: list[str] = []
        if is_native:
            native, left = fitting.literal(request, _OURS | values.keys(), _HARMLESS, terms)
            _check_shots(native.get("multi_prompt"), seconds or DEFAULT_SECONDS)
            values |= native
        values["external_task_id"] = task_id
        return Draft(
            method="POST",
            path=_path(upstream, "submit", kind.value),
            encoding="json",
            fields={name: value for name, value in values.items() if value is not None},
            handle={"kind": kind.value},
            adjusted=(*told, *picture.adjusted),
            dropped=(
                *picture.dropped,
                *fitting.dropped(request),
                *(left if is_native else fitting.foreign(request)),
            ),
        )

    def rendered(self, draft: Draft) -> Rendered:
        fields = draft.fields
        model = _MODELS.get(str(fields.get("model_name")), _NEWER)
        modes = dict(model.modes)
        mode = values.text(fields.get("mode", "std"))
        lines = modes.get(None) or modes.get(mode)
        shape = fitting.ratio(str(fields.get("aspect_ratio", RATIOS[0])))
        size = None
        if draft.handle.get("kind") == Kind.TEXT and lines is not None and shape is not None:
            size = _size(str(fields.get("aspect_ratio", RATIOS[0])), lines)
        return Rendered(
            seconds=values.number(fields.get("duration", DEFAULT_SECONDS)),
            size=size,
            audio=fields.get("sound") == "on",
            mode=mode,
        )

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
        """A task id under `data` was given to a task, whatever the code and status around it.
        Kling's `request_id` names the request, also of a refusal."""
        answer = values.exact_document(body)
        if answer is not None and (accepted := _accepted(answer, status)) is not None:
            return accepted
        code = values.integer(answer.get("code")) if answer else None
        message = answer.get("message") if answer else None
        refused = _refused(code, headers, message)
        if refused is None:
            shown = None if code is None else str(code)
            listed = _options(upstream).refused_statuses
            refused = refusals.refused_by_status(status, headers, shown, message, listed)
        return refused or Unknown(f"HTTP {status}, code {code}, and no task_id")

    def has_replicas(self, upstream: Upstream) -> bool:
        return True

    def poll(self, task: Task, upstream: Upstream) -> Draft:
        return _query(task, upstream, task.upstream_id or task.id)

    def state(
        self, task: Task, status: int, headers: Mapping[str, str], body: bytes
    ) -> TaskState | Transient:
        """A task that has ended counts whatever the status and code around it, if it is ours."""
        answer = values.document(body)
        if answer is None:
            return refusals.unread(status, headers, "not JSON")
        code = values.integer(answer.get("code"))
        job = jobs.job_of(answer, task.upstream_id)
        is_plain = 200 <= status < 300 and code in (0, None)
        if is_plain or (_is_end(job) and (code in (0, None) or _is_ours(job, task))):
            state = _state(job, task.updated_ms)
            if state is not None:
                return state
            return refusals.unread(status, headers, "no task state in it")
        return refusals.unread(status, headers, f"code {code}", _SILENCE.get(code or 0))

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        return _query(task, upstream, task.id)

    def found(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
        """Only Kling's own word that it knows no such task counts: a bare 404 may come from a
        proxy or a wrong path, and taking it for an answer would pay for a second render."""
        answer = values.exact_document(body)
        code = values.integer(answer.get("code")) if answer else None
        if answer is None or code is None:
            return refusals.unread(status, headers, "no answer of Kling's")
        if code == _RESOURCE_MISSING or (status == 404 and code not in (0, _METHOD_MISSING)):
            return refusals.out_of_order(str(code))
        if code == 0 and (accepted := _accepted(answer, status)) is not None:
            return accepted
        return refusals.unread(status, headers, f"code {code}", _SILENCE.get(code))

    def content(self, task: Task, upstream: Upstream, variant: str, index: int) -> Draft | str:
        return results.result_url(task, variant, index)

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


# ---------------------------------------------------------------- drafting


def _path(upstream: Upstream, action: str, kind: str) -> str:
    return upstream.paths.get(f"{action}.{kind}", f"/v1/videos/{kind}")


def _query(task: Task, upstream: Upstream, reference: str) -> Draft:
    kind = task.handle.get("kind", task.kind.value)
    return Draft("GET", f"{_path(upstream, 'poll', kind)}/{body_writer.segment(reference)}")


def _bearer(credential: Credential, now_s: int) -> str:
    if credential.api_key is not None:
        return credential.api_key
    return kling_jwt(credential.access_key or "", credential.secret_key or "", now_s)


def _media_value(media: Media | None) -> str | Base64 | None:
    """A URL, or base64 without a prefix: Kling rejects data: URLs."""
    if media is None or media.blob is None:
        return media.url if media else None
    if media.blob.size > PICTURE_MAX_BYTES:
        raise Invalid(
            f"'{media.param}' has {media.blob.size} bytes; this model takes pictures of at most "
            f"{PICTURE_MAX_BYTES}.",
            param=media.param,
        )
    kind = media.blob.content_type.partition(";")[0].strip().lower()
    if kind.startswith(("image/", "video/")) and kind not in _PICTURE_TYPES:
        raise Invalid(f"'{media.param}' must be JPEG or PNG, not {kind[:40]}.", param=media.param)
    return Base64(media.blob)


def _check_shots(shots: DraftValue, seconds: int) -> None:
    """The shots of a video are as long as the video, which is what is paid for."""
    if not isinstance(shots, list):
        return
    lengths = [values.number(shot.get("duration")) for shot in shots if isinstance(shot, dict)]
    total = sum(length for length in lengths if length is not None)
    if total > seconds:
        raise Invalid(
            f"'multi_prompt' has shots of {total:g} seconds in all; 'duration' is {seconds}.",
            param="multi_prompt",
        )


def _sound(request: VideoRequest, model: _Model) -> str | None:
    if request.audio is None or not model.sound:
        return None
    return "on" if request.audio else "off"


def _picture(request: VideoRequest, model: _Model, kind: Kind) -> _Picture:
    """Mode and shape. A picture keeps its own shape: Kling takes no `aspect_ratio` with one."""
    mode, lines = _mode(request, model)
    if kind is Kind.IMAGE:
        told = _told(request, None, lines)
        dropped = ["aspect_ratio"] if request.aspect_ratio is not None else []
        return _Picture(mode, None, told, dropped)
    if request.dialect == "kling" and request.aspect_ratio is not None:
        return _Picture(mode, request.aspect_ratio, _told(request, request.aspect_ratio, lines))
    aspect_ratio, told = fitting.shape_of(request, RATIOS)
    return _Picture(mode, aspect_ratio, [*told, *_told(request, aspect_ratio, lines)])


def _mode(request: VideoRequest, model: _Model) -> tuple[str | None, int | None]:
    """(mode, lines of the short side): the client's mode, else the smallest that covers what it
    asks for. A Kling client's mode is its own affair, newer ones than `pro` included."""
    modes = dict(model.modes)
    if request.mode is not None:
        if request.mode not in modes and request.dialect != "kling":
            names = [name for name in modes if name]
            accepted = f"must be {' or '.join(names)}" if names else "is not known to this model"
            raise Invalid(f"'mode' {accepted}.", param="mode")
        return request.mode, modes.get(None) or modes.get(request.mode)
    asked, param = fitting.lines_of(request)
    if asked is None:
        return None, None
    for name, lines in model.modes:
        if lines >= asked:
            return name, lines
    raise Invalid(
        f"'{param}' asks for {asked} lines on the short side; this model renders "
        f"{fitting.listed([lines for _, lines in model.modes])}.",
        param=param,
    )


def _told(request: VideoRequest, aspect_ratio: str | None, lines: int | None) -> list[Adjustment]:
    """What a client that asked for a size or resolution gets instead. `lines` None: its own mode,
    newer than our table; what that renders nobody here knows."""
    told = []
    if request.size is not None:
        given = _given_size(request, request.size, aspect_ratio, lines)
        if given is not None:
            told.append(Adjustment("size", fitting.spelled(request.size), given))
    if request.resolution is not None and lines is not None:
        named = fitting.named_lines(request.resolution)
        if named != lines:
            told.append(Adjustment("resolution", request.resolution, f"{lines}p"))
    return told


def _given_size(
    request: VideoRequest, asked: tuple[int, int], aspect_ratio: str | None, lines: int | None
) -> str | None:
    """None: the size asked for; with a picture, which keeps its shape, its short side."""
    if lines is None:
        return aspect_ratio or request.mode
    if aspect_ratio is None:
        return None if min(asked) == lines else f"{lines}p"
    size = _size(aspect_ratio, lines)
    if size is None:
        return aspect_ratio
    return None if size == asked else fitting.spelled(size)


def _size(aspect_ratio: str, lines: int) -> tuple[int, int] | None:
    """Pixels of a shape whose short side has `lines`."""
    shape = fitting.ratio(aspect_ratio)
    if shape is None:
        return None
    return (round(lines * shape), lines) if shape >= 1 else (lines, round(lines / shape))


# ---------------------------------------------------------------- reading


def _refused(code: int | None, headers: Mapping[str, str], message: object) -> Refused | None:
    """What a code says, whatever the HTTP status; None for codes that prove nothing."""
    if code is None:
        return None
    shown = str(code)
    if code in _MODERATION:
        return refusals.blocked(shown, message)
    if code in _INPUT:
        return refusals.at_fault(shown, message)
    if code in _ACCOUNT:
        return refusals.account_trouble(shown, _ACCOUNT[code])
    if code == _METHOD_MISSING:  # our path is wrong, not the client's request
        return refusals.out_of_order(shown)
    if code == _RESOURCE_MISSING:  # on a submit: the model; another account may have it
        error = Invalid("The provider does not have this model.", param="model")
        return Refused(error, elsewhere=True, provider_code=shown)
    if code == _RATE:
        return refusals.over_rate(shown, headers, wait_s=2.0)
    if code == _IN_FLIGHT:
        return refusals.too_many(shown, headers, wait_s=10.0)
    if code == _MAINTENANCE:
        return refusals.closed(shown, headers)
    return None


def _state(data: Mapping[str, object], fallback_ms: int | None) -> TaskState | None:
    """A task object of Kling's; None when it names no state, or is done without a video.

    `fallback_ms` dates the results when the answer does not.
    """
    word = values.text(data.get("task_status")) or jobs.state_word(data)
    if word is None or word.lower() == "not_found":
        return None
    native = jobs.remaining(data, _KNOWN_MEMBERS)
    status = states.status_of(word)
    if status is None:
        shown = words.words(word)[: values.CODE_MAX_CHARS]
        return TaskState(Status.IN_PROGRESS, native=native, unknown_state=shown)
    if status is Status.FAILED:
        return TaskState(status, error=_task_error(data, word), native=native)
    if status is not Status.COMPLETED:
        return TaskState(status, native=native)
    made_ms = values.moment_ms(data.get("updated_at")) or fallback_ms
    expires_ms = None if made_ms is None else made_ms + RESULT_LIFE_MS
    made = _results(data, expires_ms)
    if not made:
        return None
    return TaskState(status, 100, made, native=native, expires_ms=expires_ms)


def _results(data: Mapping[str, object], expires_ms: int | None) -> tuple[Result, ...]:
    """Several videos for a multi-shot prompt. Entries without a URL are no results."""
    videos = values.member(data, "task_result").get("videos")
    found: list[tuple[str, dict[str, object]]] = []
    for video in videos if isinstance(videos, list) else ():
        url = results.web_url(video.get("url")) if isinstance(video, dict) else None
        if url is not None:
            found.append((url, video))
    if not found:  # gateways in front of Kling put it elsewhere
        found = [(url, {}) for url in results.result_urls(data)]
    kept = results.bounded_urls([url for url, _ in found])
    room = results.URLS_MAX_CHARS - sum(map(len, kept))
    made = []
    for url, video in found[: len(kept)]:
        watermark = results.web_url(video.get("watermark_url"))
        room -= len(watermark or "")
        made.append(
            Result(
                url=url,
                id=values.identifier(video.get("id")),
                seconds=values.quantity(video.get("duration")),
                variants={"watermark": watermark} if watermark and room >= 0 else {},
                expires_ms=expires_ms,
            )
        )
    return tuple(made)


def _task_error(data: Mapping[str, object], word: str) -> TaskError:
    """Kling gives a reason in words only; a code, if any, stands inside them."""
    message = data.get("task_status_msg") or data.get("message") or data.get("fail_reason")
    match = _BLOCKED_IN_MESSAGE.search(message) if isinstance(message, str) else None
    said = words.words(message, "The provider gave no reason.")
    if match or words.is_moderation(message):
        return TaskError("moderation_blocked", said, match[1] if match else None)
    return TaskError(states.ENDS.get(states.plain(word), "upstream_error"), said)


def _accepted(answer: values.Object, status: int) -> Accepted | None:
    """None: no task is named. Outside `data` an id counts only in a success."""
    job = jobs.job_of(answer)
    upstream_id = jobs.id_of(job)
    is_plain = 200 <= status < 300 and values.integer(answer.get("code")) in (0, None)
    is_job = job is not answer or is_plain or answer.get("object") == "video"
    if upstream_id is None or not is_job:
        return None
    return Accepted(upstream_id, _state(job, None))


def _is_end(job: Mapping[str, object]) -> bool:
    word = jobs.state_word(job)
    status = None if word is None else states.status_of(word)
    return status is not None and status.is_final


def _is_ours(job: Mapping[str, object], task: Task) -> bool:
    return jobs.id_of(job) in (task.upstream_id, task.id)


def _options(upstream: Upstream) -> Options:
    return upstream.options if isinstance(upstream.options, Options) else Options()
