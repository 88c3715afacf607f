"""What Kling accepts in the bodies of text2video and image2video.

Rule: `check` raises `Broken` with Kling's code and returns the request with its defaults.
Fields Kling does not know are ignored, as its API does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, cast

from proxy.sim.body import Upload, upload_of
from proxy.sim.images import BadImage, decode_image, is_url

Endpoint = Literal["text2video", "image2video"]

_TEXT_MODELS = (
    "kling-v1",
    "kling-v1-6",
    "kling-v2-master",
    "kling-v2-1-master",
    "kling-v2-5-turbo",
    "kling-v2-6",
    "kling-v3",
)
_MODELS: dict[Endpoint, tuple[str, ...]] = {
    "text2video": _TEXT_MODELS,
    "image2video": (*_TEXT_MODELS, "kling-v1-5", "kling-v2-1"),
}
_WITH_SOUND = ("kling-v2-6", "kling-v3")
_MOVES = ("simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward")
_AXES = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
_MAX_PROMPT = 2500
_MAX_IMAGE_BYTES = 10 * 1024 * 1024


class Broken(Exception):
    """A body Kling refuses: 1201 for a value, 1203 for a model that does not exist."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def check(endpoint: Endpoint, fields: dict[str, object]) -> tuple[dict[str, object], list[Upload]]:
    """The request with defaults filled in, and the images it carried as base64."""
    model = _text(fields, "model_name") or "kling-v1"
    if model not in _MODELS[endpoint]:
        raise Broken(1203, f"model is not supported: {model}")
    prompt = _text(fields, "prompt", _MAX_PROMPT) or ""
    _text(fields, "negative_prompt", _MAX_PROMPT)
    duration = _duration(fields, model)
    if not _shots(fields, duration) and not prompt and endpoint == "text2video":
        raise Broken(1201, "prompt is required")
    mode = _choice(fields, "mode", ("std", "pro")) or "std"
    if _choice(fields, "sound", ("on", "off")) == "on" and model not in _WITH_SOUND:
        raise Broken(1201, f"sound is not supported by {model}")
    _number(fields, "cfg_scale", 0, 1)
    _camera(fields)
    _watermark(fields)
    _web_address(fields, "callback_url")
    _text(fields, "external_task_id", 128)
    images: list[Upload] = []
    if endpoint == "image2video":
        images = _pictures(fields)
        aspect = None
    else:
        aspect = _choice(fields, "aspect_ratio", ("16:9", "9:16", "1:1")) or "16:9"
    request = {
        **fields,
        "model_name": model,
        "prompt": prompt,
        "duration": duration,
        "mode": mode,
        "aspect_ratio": aspect,
    }
    return request, images


def _text(fields: dict[str, object], name: str, max_chars: int = 512) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise Broken(1201, f"{name} must be a string")
    if len(value) > max_chars:
        raise Broken(1201, f"{name} must not exceed {max_chars} characters")
    return value


def _choice(fields: dict[str, object], name: str, accepted: Sequence[str]) -> str | None:
    value = _text(fields, name)
    if value and value not in accepted:
        raise Broken(1201, f"{name} value '{value}' is invalid")
    return value


def _number(fields: dict[str, object], name: str, low: float, high: float) -> None:
    value = fields.get(name)
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise Broken(1201, f"{name} must be a number from {low:g} to {high:g}")


def _duration(fields: dict[str, object], model: str) -> str:
    accepted: Collection[str] = ("5", "10")
    if model == "kling-v3":
        accepted = [str(seconds) for seconds in range(3, 16)]
    value = fields.get("duration", "5")
    if not isinstance(value, str) or value not in accepted:
        raise Broken(1201, f"duration must be one of the strings {', '.join(accepted)}")
    return value


def _shots(fields: dict[str, object], duration: str) -> bool:
    """Whether the prompts of single shots stand in for the prompt."""
    multi = fields.get("multi_shot", False)
    if not isinstance(multi, bool):
        raise Broken(1201, "multi_shot must be a boolean")
    kind = _choice(fields, "shot_type", ("customize", "intelligence"))
    if not multi:
        return False
    if kind is None:
        raise Broken(1201, "shot_type is required when multi_shot is true")
    if kind == "intelligence":
        return False
    shots = fields.get("multi_prompt")
    if not isinstance(shots, list) or not 1 <= len(shots) <= 6:
        raise Broken(1201, "multi_prompt must be a list of 1 to 6 shots")
    total = 0
    for shot in shots:
        if not isinstance(shot, dict):
            raise Broken(1201, "multi_prompt must be a list of objects")
        _text(cast("dict[str, object]", shot), "prompt", 512)
        seconds = str(shot.get("duration", ""))
        if not seconds.isascii() or not seconds.isdigit():
            raise Broken(1201, "multi_prompt.duration must be a whole number of seconds")
        total += int(seconds)
    if str(total) != duration:
        raise Broken(1201, "the durations of multi_prompt must add up to duration")
    return True


def _camera(fields: dict[str, object]) -> None:
    control = fields.get("camera_control")
    if control is None:
        return
    if not isinstance(control, dict):
        raise Broken(1201, "camera_control must be an object")
    kind = _choice(cast("dict[str, object]", control), "type", _MOVES)
    config = control.get("config")
    if kind != "simple":
        if config is not None:
            raise Broken(1201, "camera_control.config is only for the type simple")
        return
    if not isinstance(config, dict) or not config.keys() <= set(_AXES):
        raise Broken(1201, f"camera_control.config must have some of {', '.join(_AXES)}")
    values = cast("dict[str, object]", config)
    for axis in values:
        _number(values, axis, -10, 10)
    if sum(value != 0 for value in values.values()) != 1:
        raise Broken(1201, "exactly one value of camera_control.config must not be 0")


def _watermark(fields: dict[str, object]) -> None:
    info = fields.get("watermark_info")
    if info is None:
        return
    if not isinstance(info, dict) or not isinstance(info.get("enabled"), bool):
        raise Broken(1201, "watermark_info must be an object with the boolean 'enabled'")


def _web_address(fields: dict[str, object], name: str) -> None:
    value = _text(fields, name, 2048)
    if value and not is_url(value):
        raise Broken(1201, f"{name} must be an http or https URL")


def _pictures(fields: dict[str, object]) -> list[Upload]:
    uploads = [
        upload
        for name in ("image", "image_tail", "static_mask")
        if (upload := _picture(fields.get(name), name)) is not None
    ]
    if not fields.get("image") and not fields.get("image_tail"):
        raise Broken(1201, "image and image_tail must not both be empty")
    exclusive = [
        bool(fields.get("image_tail")),
        bool(fields.get("static_mask") or fields.get("dynamic_masks")),
        bool(fields.get("camera_control")),
    ]
    if sum(exclusive) > 1:
        raise Broken(1201, "image_tail, masks and camera_control exclude each other")
    if fields.get("element_list") and fields.get("voice_list"):
        raise Broken(1201, "element_list and voice_list exclude each other")
    for name, most in (("element_list", 3), ("voice_list", 2), ("dynamic_masks", 6)):
        items = fields.get(name)
        if items is not None and not (isinstance(items, list) and len(items) <= most):
            raise Broken(1201, f"{name} must be a list of at most {most}")
    masks = cast("list[object]", fields.get("dynamic_masks") or [])
    for mask in masks:
        points = mask.get("trajectories") if isinstance(mask, dict) else None
        if not isinstance(mask, dict) or not isinstance(points, list):
            raise Broken(1201, "dynamic_masks must hold objects with mask and trajectories")
        if not 2 <= len(points) <= 77:
            raise Broken(1201, "dynamic_masks.trajectories must hold 2 to 77 points")
        upload = _picture(mask.get("mask"), "dynamic_masks.mask")
        if upload is not None:
            uploads.append(upload)
    return uploads


def _picture(value: object, name: str) -> Upload | None:
    """None for no picture, or one by URL (which is not fetched)."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Broken(1201, f"{name} must be a string")
    if is_url(value):
        return None
    try:
        return upload_of(name, decode_image(value, _MAX_IMAGE_BYTES))
    except BadImage as exc:
        raise Broken(1201, f"{name} {exc.message}") from None
