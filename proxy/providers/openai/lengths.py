"""What a body makes: how long, how large and with sound, also where it is silent."""

from __future__ import annotations

import math

from proxy.http.outbound import Draft, Rendered
from proxy.model import (
    Operation,
    Role,
    Task,
    VideoRequest,
)
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.fitting import spelled
from proxy.providers.openai.servers import SERVERS, OpenAIOptions
from proxy.providers.sizes import size_of
from proxy.providers.values import quantity

# A second of video is paid for as at most this many frames: 480 frames at 480 a second are the
# work of 16 seconds, not of one.
PAID_FPS = 30
_SLOWEST_FPS = 16  # of the models whose rate the server chooses (Wan 2.1)


def rendered_of(draft: Draft) -> Rendered:
    """The longest that the body's lengths say, frames counted where the server knows them.

    A rate above `PAID_FPS` makes more of a second: the length told is then the one paid for.
    """
    fields, handle = draft.fields, draft.handle
    asked = quantity(fields.get("seconds"))
    frames = quantity(fields.get("num_frames")) if "frame_rate" in handle else None
    rate = quantity(fields.get("fps")) if "frame_rate" in handle else None
    if asked is None and frames is None:
        asked = quantity(handle.get("seconds"))
    most = quantity(handle.get("most_seconds")) if asked is None and frames is None else None
    if asked is not None and rate is not None:
        asked = max(asked, asked * rate / PAID_FPS)
    lengths = [] if asked is None else [asked]
    if frames is not None:
        usual = quantity(handle.get("frame_rate")) or PAID_FPS
        lengths.append(frames / min(rate or usual, PAID_FPS))
        most = None if rate else max(frames / _SLOWEST_FPS, *lengths)
    return Rendered(
        seconds=max(lengths, default=None),
        size=size_of(fields.get("size") or handle.get("size")),
        n=int(quantity(fields.get("n")) or 1),
        audio=_sounds(draft),
        mode=mode if isinstance(mode := fields.get("mode"), str) else None,
        most_seconds=most,
    )


def _sounds(draft: Draft) -> bool:
    """Whether it renders sound; where a server may or may not, it does."""
    fields, audio = draft.fields, draft.handle.get("audio")
    if audio == "audio":
        return str(fields.get("audio")).lower() not in ("false", "0", "off", "no")
    switch = str(fields.get("generate_sound")).lower() in ("true", "1", "on", "yes")
    return audio == "always" or switch


def fallbacks(
    request: VideoRequest, options: OpenAIOptions, source: Task | None, row: ModelRow
) -> dict[str, str]:
    """What is rendered when the body is silent.

    The server's default, where its model has it, else the longest as what it may become; for a
    remix, edit or extension, as its source was; for an edit of an upload, as long as that was
    measured. `frame_rate`: the server counts frames.
    """
    operation, traits = request.operation, SERVERS[options.server]
    audio = row.audio if row.audio in ("never", "always") else traits.audio
    found: dict[str, str] = {"audio": audio}
    seconds = str(row.default_seconds or traits.default_seconds)
    size = row.default_size or traits.default_size
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
