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
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast
from urllib.parse import unquote, urlsplit

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
    Outcome,
    Refused,
    Transient,
    TransientKind,
    Unknown,
)
from proxy.signing import sign_volc

VERSION = "2022-08-31"
SUBMIT_ACTION = "CVSync2AsyncSubmitTask"
POLL_ACTION = "CVSync2AsyncGetResult"

PROMPT_MAX_CHARS = 800
PICTURE_MAX_BYTES = 4_700_000  # "4.7 MB each"
RESULT_LIFE_MS = 3600 * 1000  # of the URL; the task's record lives 12 h
FRAMES_PER_SECOND = 24  # frames = 24·s + 1
FRAMES = {5: 121, 10: 241}
DEFAULT_FRAMES = FRAMES[5]
DEFAULT_RATIO = "16:9"

# What the six shapes are rendered as. The 1080 lines are on the 3.0 Pro page; those of 720p are
# the same renderer's published sizes (16:9 seen in real Jimeng answers as 1248x704).
_SIZES_720: Mapping[str, tuple[int, int]] = {
    "16:9": (1248, 704),
    "9:16": (704, 1248),
    "4:3": (1120, 832),
    "3:4": (832, 1120),
    "1:1": (960, 960),
    "21:9": (1504, 640),
}
_SIZES_1080: Mapping[str, tuple[int, int]] = {
    "16:9": (1920, 1088),
    "9:16": (1088, 1920),
    "4:3": (1664, 1248),
    "3:4": (1248, 1664),
    "1:1": (1440, 1440),
    "21:9": (2176, 928),
}
_RATIOS = tuple(_SIZES_720)

# Never from a client's native fields.
_OURS = frozenset({"req_key", "callback_url", "webhook", "task_id", "n"})
_HARMLESS = frozenset({"template_id", "camera_strength"})  # documented, and change no price


@dataclass(frozen=True, slots=True)
class _Family:
    """One model under its req_keys: for text alone, with a first frame, with both frames.

    `lines` is its nominal resolution; `sizes` the pixels per shape, empty where nobody says.
    """

    text: str | None = None
    first: str | None = None
    both: str | None = None
    lines: int | None = None
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    ratios: tuple[str, ...] = _RATIOS
    seconds: tuple[int, ...] = (5, 10)
    has_frames: bool = True  # False: the length is fixed, `frames` unknown

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(key for key in (self.text, self.first, self.both) if key)


_FAMILIES = (
    _Family(
        text="jimeng_t2v_v30",
        first="jimeng_i2v_first_v30",
        both="jimeng_i2v_first_tail_v30",
        lines=720,
        sizes=_SIZES_720,
    ),
    # The picture siblings are spelled without the p.
    _Family(
        text="jimeng_t2v_v30_1080p",
        first="jimeng_i2v_first_v30_1080",
        both="jimeng_i2v_first_tail_v30_1080",
        lines=1080,
        sizes=_SIZES_1080,
    ),
    _Family(text="jimeng_ti2v_v30_pro", first="jimeng_ti2v_v30_pro", lines=1080, sizes=_SIZES_1080),
    _Family(first="jimeng_i2v_recamera_v30", lines=720),
    _Family(
        text="jimeng_vgfm_t2v_l20",
        first="jimeng_vgfm_i2v_l20",
        ratios=(*_RATIOS, "9:21"),
        seconds=(5,),
        has_frames=False,
    ),
)
_FAMILY_OF = {key: family for family in _FAMILIES for key in family.keys}
_NEWER = _Family()  # a req_key newer than this table goes as it is

_MODE_LINES = {"std": 720, "pro": 1080}  # what a Kling client means by its modes

SUCCESS = 10000
# Business codes. The 505xx are found in the output, the others in the input.
_MODERATION = frozenset({50411, 50412, 50413, 50511, 50512, 50516, 50517, 50518, 50519})
_CHECK_FAILED = frozenset({50520, 50521, 50522})  # the content check itself broke down
_INVALID = 50200
_DENIED = 50400  # wrong req_key, or the service is not opened for this account
_RATE, _IN_FLIGHT = 50429, 50430

# Codes of the gateway before the service (volcengine.com/docs/6664/116016).
_TOP_ACCOUNT = frozenset({100003, 100005, 100006, 100009, 100010, 100012, 100013})
_TOP_REQUEST = frozenset({100002, 100004, 100007, 100008})

_KNOWN_MEMBERS = frozenset({"task_id", "status", "video_url"})


class Options(BaseModel):
    """`options` of an upstream with `provider = "jimeng"`.

    `refused_statuses` are HTTP statuses by which the server says that it began nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    refused_statuses: refusals.RefusedStatuses = ()


class Jimeng:
    """See `providers.base.Provider`. `handle` keeps `req_key`."""

    name = "jimeng"
    options: type[BaseModel] = Options
    credentials: tuple[frozenset[str], ...] = (frozenset({"access_key", "secret_key"}),)
    operations = frozenset({Operation.CREATE})
    variants: tuple[str, ...] = ("video",)
    callback_field: str | None = None
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
        fitting.check_silence(request)
        fitting.check_length(request.prompt, "prompt", PROMPT_MAX_CHARS)
        first, last = fitting.frames_of(request)
        family = _FAMILY_OF.get(upstream_model, _NEWER)
        req_key = _req_key(request, upstream_model, family, first, last)
        seconds, told = fitting.fit_seconds(request, family.seconds)
        aspect_ratio, adjusted, dropped = _shape(request, family, is_text=first is None)
        told += adjusted
        values: dict[str, DraftValue] = {
            "req_key": req_key,
            "prompt": request.prompt,
            "seed": _seed(request),
            "frames": FRAMES[seconds] if seconds and family.has_frames else None,
            "aspect_ratio": aspect_ratio,
            **_pictures(first, last),
        }
        if request.dialect == "jimeng":
            native, left = fitting.literal(request, _OURS | values.keys(), _HARMLESS, terms)
            values |= native
            dropped += left
        else:
            dropped += fitting.foreign(request)
        if request.negative_prompt is not None:
            dropped.append("negative_prompt")
        return Draft(
            method="POST",
            path=upstream.paths.get("submit", "/"),
            query=(("Action", SUBMIT_ACTION), ("Version", VERSION)),
            encoding="json",
            fields={name: value for name, value in values.items() if value is not None},
            handle={"req_key": req_key},
            adjusted=tuple(told),
            dropped=(*dropped, *fitting.dropped(request, kept=("seed",))),
        )

    def rendered(self, draft: Draft) -> Rendered:
        req_key = draft.handle.get("req_key", "")
        family = _FAMILY_OF.get(req_key, _NEWER)
        frames = values.number(draft.fields.get("frames", DEFAULT_FRAMES))
        has_picture = "image_urls" in draft.fields or "binary_data_base64" in draft.fields
        shape = str(draft.fields.get("aspect_ratio", DEFAULT_RATIO))
        return Rendered(
            seconds=None if frames is None else (frames - 1) / FRAMES_PER_SECOND,
            size=None if has_picture else family.sizes.get(shape),
        )

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
        """A task id under `data` was given to a task, whatever the code and status around it.
        Jimeng's `request_id` names the request, also of a refusal."""
        answer = _plain(values.exact_document(body) or {})
        code = values.integer(answer.get("code"))
        is_plain = 200 <= status < 300 and code in (SUCCESS, 0, None)
        job = jobs.job_of(answer)
        upstream_id = jobs.id_of(job)
        is_job = job is not answer or is_plain or answer.get("object") == "video"
        if upstream_id is not None and is_job:
            return Accepted(upstream_id)
        refused = _refused(code, headers, answer.get("message")) or _refused_on_top(answer)
        if refused is None and code != SUCCESS:
            shown = None if code is None else str(code)
            listed = _options(upstream).refused_statuses
            message = answer.get("message")
            refused = refusals.refused_by_status(status, headers, shown, message, listed)
        return refused or Unknown(f"HTTP {status}, code {code}, and no task_id")

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
        answer = values.document(body)
        if answer is None:
            return refusals.unread(status, headers, "not JSON")
        answer = _plain(answer)
        code = values.integer(answer.get("code"))
        data = values.member(answer, "data") or jobs.job_of(answer)
        word = jobs.state_word(data)
        if code not in (SUCCESS, 0):
            error = _task_error(code, word, answer.get("message"))
            if error is not None:
                return TaskState(Status.FAILED, error=error)
            return refusals.unread(status, headers, f"code {code}", _silence(code, answer))
        told = None if word is None else _status(word)
        is_success = 200 <= status < 300
        if word is None or not (is_success or (told is not None and told.is_final)):
            return refusals.unread(status, headers, "no task state in it")
        made_ms = values.sent_ms(headers) or task.updated_ms
        state = _state(word, data, made_ms + RESULT_LIFE_MS)
        return state or refusals.unread(status, headers, "done, but no video_url yet", "unreadable")

    def find(self, task: Task, upstream: Upstream) -> Draft | None:
        return None

    def found(self, status: int, headers: Mapping[str, str], body: bytes) -> Outcome | Transient:
        return Transient("Jimeng has no look-up by an id of ours", kind="no_lookup")

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


def _req_key(
    request: VideoRequest,
    upstream_model: str,
    family: _Family,
    first: Media | None,
    last: Media | None,
) -> str:
    if last is not None and first is None:
        raise Invalid(
            f"'{last.param}' needs a first frame: this model takes no last frame alone.",
            param=last.param,
        )
    if family is _NEWER:
        return upstream_model
    if last is not None:
        if family.both is None:
            raise Invalid(
                f"'{last.param}' is not supported: this model takes one picture, the first frame.",
                param=last.param,
            )
        return family.both
    if first is not None:
        if family.first is None or upstream_model == family.both:
            raise Invalid(
                f"'{first.param}' is one of two: this model needs a first and a last frame.",
                param=first.param,
            )
        return family.first
    if upstream_model != family.text:
        param = fitting.picture_param(request)
        raise Invalid(f"'{param}' is required: the video starts from a picture.", param=param)
    return upstream_model


def _seed(request: VideoRequest) -> DraftValue:
    """A Jimeng client's "any" (-1) stands among its own fields."""
    if request.seed is None and request.dialect == "jimeng":
        return cast("DraftValue", request.native.get("seed"))
    return request.seed


def _pictures(first: Media | None, last: Media | None) -> dict[str, DraftValue]:
    """`image_urls` or `binary_data_base64`: Jimeng takes one of the two."""
    media = [item for item in (first, last) if item is not None]
    urls: list[DraftValue] = [item.url for item in media if item.url is not None]
    blobs: list[DraftValue] = []
    for item in media:
        if item.blob is None:
            continue
        if urls:
            raise Invalid(
                f"'{item.param}' is an upload and the other picture a URL: this model takes "
                "two uploads or two URLs.",
                param=item.param,
            )
        if item.blob.size > PICTURE_MAX_BYTES:
            raise Invalid(
                f"'{item.param}' has {item.blob.size} bytes; this model takes pictures of at "
                f"most {PICTURE_MAX_BYTES}.",
                param=item.param,
            )
        blobs.append(Base64(item.blob))
    return {"image_urls": urls or None, "binary_data_base64": blobs or None}


def _shape(
    request: VideoRequest, family: _Family, *, is_text: bool
) -> tuple[str | None, list[Adjustment], list[str]]:
    """(aspect_ratio, adjusted, dropped). The req_key fixes the resolution, so what asks for more
    lines is refused; a picture keeps its own shape."""
    told: list[Adjustment] = []
    dropped: list[str] = []
    _check_lines(request, family, told, dropped)
    if not is_text:
        if request.aspect_ratio is not None:
            dropped.append("aspect_ratio")
        if request.size is not None and family.lines is None:
            dropped.append("size")
        elif request.size is not None and min(request.size) != family.lines:
            told.append(Adjustment("size", fitting.spelled(request.size), f"{family.lines}p"))
        return None, told, dropped
    aspect_ratio, fitted = fitting.shape_of(request, family.ratios)
    told += fitted
    if request.size is not None and aspect_ratio is not None:
        size = family.sizes.get(aspect_ratio)
        given = aspect_ratio if size is None else fitting.spelled(size)
        if size != request.size:
            told.append(Adjustment("size", fitting.spelled(request.size), given))
    return aspect_ratio, told, dropped


def _check_lines(
    request: VideoRequest, family: _Family, told: list[Adjustment], dropped: list[str]
) -> None:
    """The first to ask for lines, of size, resolution and mode, may not ask for more than the
    model has; where resolution or mode say otherwise than it, that is told."""
    asked, param = fitting.lines_of(request)
    mode_lines = None if request.mode is None else _MODE_LINES.get(request.mode)
    if request.mode is not None and mode_lines is None:
        raise Invalid("'mode' must be std or pro.", param="mode")
    if asked is None:
        asked, param = mode_lines, "mode"
    if asked is not None and family.lines is not None:
        most = family.lines
        if request.size is not None:  # squarer shapes have more lines: 1:1 on 720p is 960x960
            shape = fitting.nearest(Fraction(*request.size), family.ratios)
            most = max(most, min(family.sizes.get(shape, (0, 0))))
        if asked > most:
            raise Invalid(
                f"'{param}' asks for {asked} lines on the short side; this model renders {most}.",
                param=param,
            )
    named = None if request.resolution is None else fitting.named_lines(request.resolution)
    for name, wish, lines in (
        ("resolution", request.resolution, named),
        ("mode", request.mode, mode_lines),
    ):
        if wish is None or lines == family.lines:
            continue
        if family.lines is None:
            dropped.append(name)
        else:
            told.append(Adjustment(name, wish, f"{family.lines}p"))


# ---------------------------------------------------------------- reading


def _refused(code: int | None, headers: Mapping[str, str], message: object) -> Refused | None:
    """What a business code says, whatever the HTTP status. 50500 and 50501 (internal errors)
    prove nothing."""
    if code is None:
        return None
    shown = str(code)
    if code in _MODERATION:
        return refusals.blocked(shown, message)
    if code in _CHECK_FAILED:
        return refusals.out_of_order(shown)
    if code == _INVALID:
        return refusals.at_fault(shown, message)
    if code == _DENIED:  # a wrong req_key among others: the account renders its other models
        return refusals.account_trouble(shown, "none")
    if code == _RATE:
        return refusals.over_rate(shown, headers, wait_s=2.0)
    if code == _IN_FLIGHT:
        return refusals.too_many(shown, headers, wait_s=10.0)
    return None


def _refused_on_top(answer: Mapping[str, object]) -> Refused | None:
    """A refusal of the gateway before the service: our signature, account or path."""
    error = values.member(values.member(answer, "ResponseMetadata"), "Error")
    code = values.integer(error.get("CodeN"))
    if code in _TOP_ACCOUNT:
        return refusals.account_trouble(str(code), "take_out")
    if code in _TOP_REQUEST:
        return refusals.out_of_order(str(code))
    return None


def _task_error(code: int | None, word: str | None, message: object) -> TaskError | None:
    """Why a task failed, from the code of a GetResult; None for codes about the poll itself.

    The content checks end a task. Any other code does so only beside `data.status` "done":
    alone it may be an internal error, a rate limit or an account's trouble at this moment.
    """
    if code is None:
        return None
    said = words.words(message, "The provider gave no reason.")
    if code in _MODERATION:
        return TaskError("moderation_blocked", said, str(code))
    if code in _CHECK_FAILED or word == "done":
        return TaskError("upstream_error", said, str(code))
    return None


def _state(word: str, data: Mapping[str, object], expires_ms: int) -> TaskState | None:
    """None: done, but without an address."""
    native = jobs.remaining(data, _KNOWN_MEMBERS)
    status = _status(word)
    if status is None:
        shown = words.words(word)[: values.CODE_MAX_CHARS]
        return TaskState(Status.IN_PROGRESS, native=native, unknown_state=shown)
    if status is Status.FAILED:
        return TaskState(status, error=_end(word, data), native=native)
    if status is not Status.COMPLETED:
        return TaskState(status, native=native)
    made = tuple(Result(url=url, expires_ms=expires_ms) for url in results.result_urls(data))
    if not made:
        return None
    return TaskState(status, 100, made, native=native, expires_ms=expires_ms)


def _status(word: str) -> Status | None:
    """Jimeng's own word for a task it has dropped is no family's."""
    return Status.FAILED if word.lower() == "not_found" else states.status_of(word)


def _end(word: str, data: Mapping[str, object]) -> TaskError:
    if word.lower() in ("not_found", "expired"):
        return TaskError("expired", "The provider no longer has this task.", word.lower())
    message = data.get("message") or data.get("fail_reason") or data.get("error")
    said = words.words(message, "The provider gave no reason.")
    code = states.ENDS.get(states.plain(word), "upstream_error")
    return TaskError("moderation_blocked" if words.is_moderation(message) else code, said)


def _silence(code: int | None, answer: Mapping[str, object]) -> TransientKind | None:
    """What a code says of a poll; None: what the HTTP status says."""
    if code in (_RATE, _IN_FLIGHT):
        return "rate_limited"
    if code == _DENIED or _refused_on_top(answer) is not None:
        return "credential_refused"
    return "http_5xx" if code in (50500, 50501) else None


def _plain(answer: values.Object) -> values.Object:
    """The answer itself, out of the envelope that Volcengine's universal API puts around it."""
    result = values.member(answer, "Result")
    return result if result and "code" not in answer else answer


def _options(upstream: Upstream) -> Options:
    return upstream.options if isinstance(upstream.options, Options) else Options()
