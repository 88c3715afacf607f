"""Jimeng's video models on Volcengine Visual."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from multidict import MultiMapping

from proxy.sim.body import Upload, slim, upload_of
from proxy.sim.images import BadImage, decode_image, is_url
from proxy.sim.links import Links
from proxy.sim.reply import Refusal, Reply, json_reply
from proxy.sim.service import Call, Route, Vendor
from proxy.sim.settings import Settings
from proxy.sim.signatures import BadSignature, check_volcengine
from proxy.sim.tasks import Failure, Ids, State, Tasks

_VERSION = "2022-08-31"
_ACTIONS = {"CVSync2AsyncSubmitTask": "submit", "CVSync2AsyncGetResult": "poll"}
#: code → HTTP status and message.
_ERRORS: dict[int, tuple[int, str]] = {
    50200: (400, "Invalid Request Parameter"),
    50400: (400, "Access Denied: Internal Error"),
    50411: (400, "Pre Img Risk Not Pass"),
    50412: (400, "Text Risk Not Pass"),
    50413: (400, "Post Text Risk Not Pass"),
    50429: (429, "Request Has Reached API Limit, Please Try Later"),
    50430: (429, "Request Has Reached API Concurrent Limit, Please Try Later"),
    50500: (500, "Internal Error"),
    50501: (500, "Internal RPC Error"),
    50511: (400, "Post Img Risk Not Pass"),
    50512: (400, "Post Text Risk Not Pass"),
    50516: (400, "Post Video Risk Not Pass"),
    50517: (400, "Post Audio Risk Not Pass"),
    50518: (400, "Pre Img Risk Not Pass: Copyright"),
    50519: (400, "Post Img Risk Not Pass: Copyright"),
    50520: (400, "Risk Internal Error"),
    50521: (400, "Antidirt Internal Error"),
    50522: (400, "Image Copyright Internal Error"),
}
#: The gateway in front of all Volcengine services has errors of another shape.
_TOP_ERRORS: dict[int, tuple[int, str]] = {
    100002: (400, "MissingParameter"),
    100003: (401, "MissingAuthenticationToken"),
    100004: (400, "MissingRequestInfo"),
    100005: (401, "MissingSignature"),
    100006: (403, "InvalidTimestamp"),
    100007: (404, "ServiceNotFound"),
    100008: (404, "InvalidActionOrVersion"),
    100009: (401, "InvalidAccessKey"),
    100010: (401, "SignatureDoesNotMatch"),
    100012: (403, "LackPolicy"),
    100013: (403, "AccessDenied"),
}
_USUAL = {400: 50200, 401: 100010, 403: 100013, 404: 100008, 429: 50429}
_RATIOS = ("16:9", "4:3", "1:1", "3:4", "9:16", "21:9")
_MAX_PROMPT = 800
_MAX_IMAGE_BYTES = int(4.7 * 1024 * 1024)
_TEMPLATES = (
    "hitchcock_dolly_in",
    "hitchcock_dolly_out",
    "robo_arm",
    "dynamic_orbit",
    "central_orbit",
    "crane_push",
    "quick_pull_back",
    "counterclockwise_swivel",
    "clockwise_swivel",
    "handheld",
    "rapid_push_pull",
)


@dataclass(frozen=True, slots=True)
class _Model:
    """How many images it takes, and whether it knows `frames`."""

    least_images: int
    most_images: int
    has_frames: bool = True
    needs_template: bool = False
    ratios: tuple[str, ...] = _RATIOS


_MODELS = {
    "jimeng_ti2v_v30_pro": _Model(0, 1),
    "jimeng_t2v_v30": _Model(0, 0),
    "jimeng_t2v_v30_1080p": _Model(0, 0),
    "jimeng_i2v_first_v30": _Model(1, 1),
    "jimeng_i2v_first_v30_1080": _Model(1, 1),
    "jimeng_i2v_first_tail_v30": _Model(2, 2),
    "jimeng_i2v_first_tail_v30_1080": _Model(2, 2),
    "jimeng_i2v_recamera_v30": _Model(1, 1, needs_template=True),
    "jimeng_vgfm_t2v_l20": _Model(0, 0, has_frames=False, ratios=(*_RATIOS, "9:21")),
    "jimeng_vgfm_i2v_l20": _Model(1, 1, has_frames=False, ratios=(*_RATIOS, "9:21")),
}
_STATES: dict[State, str] = {
    "queued": "in_queue",
    "in_progress": "generating",
    "completed": "done",
    "failed": "done",
}


KEYS = {
    "access_key": "AKLTSIM00000000000000000000000001",
    "secret_key": "c2ltdWxhdGVkLXNlY3JldC1rZXktZm9yLWppbWVuZw==",
}
_RECORD_TTL_S = 12 * 3600  # how long it remembers a task; then its state is `not_found`


class Jimeng:
    name = "jimeng"

    def __init__(self, settings: Settings, tasks: Tasks, links: Links) -> None:
        self._settings = settings
        self._tasks = tasks
        self._links = links
        self._ids = Ids(settings.seed, self.name)
        keys = [account.keys_of(self.name, KEYS) for account in settings.accounts]
        self._secrets = {named["access_key"]: named["secret_key"] for named in keys}
        self._accounts = {named["access_key"]: n for n, named in enumerate(keys)}
        self._record_ttl_s = _RECORD_TTL_S
        self.tune(settings.services.get(self.name, {}))

    def tune(self, settings: Mapping[str, object]) -> None:
        ttl_s = settings.get("record_ttl_s", self._record_ttl_s)
        if isinstance(ttl_s, bool) or not isinstance(ttl_s, int) or ttl_s < 0:
            raise ValueError("'jimeng_record_ttl_s' must be a whole number from 0.")
        self._record_ttl_s = ttl_s

    def routes(self) -> Sequence[Route]:
        return (Route("POST", "/", "call", self._call),)

    def operation(self, named: str, query: MultiMapping[str]) -> str:
        return _ACTIONS.get(query.get("Action", ""), "unknown")

    def unknown(self, call: Call) -> Reply:
        return self._top(call, 100007, "The service was not found.")

    def error(self, status: int, code: int | str | None, message: str | None) -> Reply:
        number = _USUAL.get(status, 50500) if code is None else int(code)
        if number in _TOP_ERRORS:
            return self._top(None, number, message or _TOP_ERRORS[number][1], status)
        return self._envelope(status, number, message or _message(number), None)

    def failure(self, code: int | str | None) -> Failure:
        number = 50516 if code is None else int(code)
        return Failure(number, _message(number))

    def _call(self, call: Call) -> Reply:
        action, version = call.query.get("Action", ""), call.query.get("Version", "")
        if not action or not version:
            return self._top(call, 100002, "The request is missing Action or Version.")
        try:
            key = check_volcengine(
                call.method,
                call.target,
                call.headers,
                call.body.raw,
                self._secrets,
                self._settings.clock(),
            )
        except BadSignature as bad:
            return self._top(call, bad.code, bad.message)
        call.entry.account = self._accounts[key]
        if action not in _ACTIONS or version != _VERSION:
            return self._top(call, 100008, f"Could not find operation {action} of {version}.")
        if call.body.problem is not None or call.body.is_form:
            raise self._refusal(50200, call.body.problem or "the body must be JSON")
        if action == "CVSync2AsyncSubmitTask":
            return self._submit(call, call.entry.account)
        return self._result(call, call.entry.account)

    # -- submit ------------------------------------------------------------------------------

    def _submit(self, call: Call, account: int) -> Reply:
        fields = call.body.fields
        req_key = fields.get("req_key")
        model = _MODELS.get(req_key) if isinstance(req_key, str) else None
        if model is None:
            raise self._refusal(50400)
        prompt = self._prompt(fields, model)
        self._check_numbers(fields, model)
        self._check_camera(fields, model)
        call.entry.uploads.extend(self._images(fields, model))
        if "forbidden-prompt" in prompt:
            raise self._refusal(50412)
        limit = self._settings.max_in_flight
        if limit is not None and self._tasks.in_flight(self.name, account) >= limit:
            raise self._refusal(50430)
        task = self._tasks.add(
            task_id=self._ids.digits(19),
            service=self.name,
            endpoint=cast("str", req_key),
            account=account,
            request=slim(fields),
            prompt=prompt,
            result_id=lambda: self._ids.hexadecimal(32),
            doom=self.failure(None),
        )
        call.entry.task_id = task.id
        return self._envelope(200, 10000, "Success", {"task_id": task.id})

    def _prompt(self, fields: dict[str, object], model: _Model) -> str:
        prompt = fields.get("prompt")
        if prompt is None and model.least_images:
            return ""
        if not isinstance(prompt, str) or (not prompt and not model.least_images):
            raise self._refusal(50200, "prompt is required and must be a string")
        if len(prompt) > _MAX_PROMPT:
            raise self._refusal(50200, f"prompt must not exceed {_MAX_PROMPT} characters")
        return prompt

    def _check_numbers(self, fields: dict[str, object], model: _Model) -> None:
        seed = fields.get("seed", -1)
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < -1:
            raise self._refusal(50200, "seed must be a whole number from -1")
        frames = fields.get("frames")
        if frames is not None and (
            not model.has_frames or isinstance(frames, bool) or frames not in (121, 241)
        ):
            accepted = "121 or 241" if model.has_frames else "absent for this req_key"
            raise self._refusal(50200, f"frames must be {accepted}")
        ratio = fields.get("aspect_ratio", "16:9")
        if ratio not in model.ratios:
            raise self._refusal(50200, f"aspect_ratio must be one of {', '.join(model.ratios)}")

    def _check_camera(self, fields: dict[str, object], model: _Model) -> None:
        if not model.needs_template:
            return
        if fields.get("template_id") not in _TEMPLATES:
            raise self._refusal(50200, f"template_id must be one of {', '.join(_TEMPLATES)}")
        if fields.get("camera_strength", "medium") not in ("weak", "medium", "strong"):
            raise self._refusal(50200, "camera_strength must be weak, medium or strong")

    def _images(self, fields: dict[str, object], model: _Model) -> list[Upload]:
        urls = self._strings(fields, "image_urls")
        inline = self._strings(fields, "binary_data_base64")
        if urls and inline:
            raise self._refusal(50200, "image_urls and binary_data_base64 exclude each other")
        count = len(urls) + len(inline)
        if not model.least_images <= count <= model.most_images:
            raise self._refusal(
                50200,
                f"this req_key takes {model.least_images} to {model.most_images} images,"
                f" not {count}",
            )
        if not all(is_url(url) for url in urls):
            raise self._refusal(50200, "image_urls must be http or https URLs")
        try:
            pictures = [decode_image(text, _MAX_IMAGE_BYTES) for text in inline]
        except BadImage as exc:
            raise self._refusal(50200, f"binary_data_base64 {exc.message}") from None
        return [upload_of("binary_data_base64", picture) for picture in pictures]

    def _strings(self, fields: dict[str, object], name: str) -> list[str]:
        value = fields.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._refusal(50200, f"{name} must be a list of strings")
        return value

    # -- result ------------------------------------------------------------------------------

    def _result(self, call: Call, account: int) -> Reply:
        fields = call.body.fields
        req_key, task_id = fields.get("req_key"), fields.get("task_id")
        if not isinstance(task_id, str) or not task_id:
            raise self._refusal(50200, "task_id is required and must be a string")
        if req_key not in _MODELS:
            raise self._refusal(50400)
        if not _is_json_object(fields.get("req_json", "{}")):
            raise self._refusal(50200, "req_json must be a string of a JSON object")
        call.entry.task_id = task_id
        task = self._tasks.get(task_id)
        oldest = self._settings.clock() - self._record_ttl_s
        if (
            task is None
            or task.service != self.name
            or task.account != account
            or task.endpoint != req_key
            or task.created_s < oldest
        ):
            return self._envelope(200, 10000, "Success", {"status": "not_found"})
        if task.failure is not None:
            code = int(task.failure.code)
            status = _ERRORS.get(code, (400, ""))[0]
            return self._envelope(status, code, task.failure.message, None)
        data: dict[str, object] = {"status": _STATES[task.state]}
        if task.state == "completed":
            data = {
                "aigc_meta_tagged": False,
                "status": "done",
                "video_url": self._links.make(task.results[0].id),
            }
        return self._envelope(200, 10000, "Success", data)

    # -- replies -----------------------------------------------------------------------------

    def _request_id(self) -> str:
        return self._ids.hexadecimal(34).upper()

    def _envelope(self, status: int, code: int, message: str, data: object) -> Reply:
        return json_reply(
            status,
            {
                "code": code,
                "data": data,
                "message": message,
                "request_id": self._request_id(),
                "status": code,
                "time_elapsed": "36.799829ms",
            },
        )

    def _top(self, call: Call | None, code: int, message: str, status: int | None = None) -> Reply:
        metadata = {
            "RequestId": self._request_id(),
            "Action": call.query.get("Action", "") if call else "",
            "Version": call.query.get("Version", "") if call else _VERSION,
            "Service": "cv",
            "Region": "cn-north-1",
            "Error": {"CodeN": code, "Code": _TOP_ERRORS[code][1], "Message": message},
        }
        usual = _TOP_ERRORS[code][0]
        return json_reply(usual if status is None else status, {"ResponseMetadata": metadata})

    def _refusal(self, code: int, detail: str | None = None) -> Refusal:
        message = _message(code) if detail is None else f"{_message(code)}: {detail}"
        return Refusal(self._envelope(_ERRORS[code][0], code, message, None))


def _message(code: int) -> str:
    return _ERRORS[code][1] if code in _ERRORS else "Error"


def _is_json_object(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False


VENDOR = Vendor(
    "jimeng",
    lambda world: Jimeng(world.settings, world.tasks, world.links),
    KEYS,
    {"record_ttl_s": _RECORD_TTL_S},
)
