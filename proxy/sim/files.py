"""GET and HEAD of a result file: ranges, If-Range, If-None-Match (RFC 9110, 13 and 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import formatdate, parsedate_to_datetime

from proxy.sim.faults import Plan
from proxy.sim.pattern import Clip
from proxy.sim.reply import Headers, Reply

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


def file_reply(clip: Clip, headers: Mapping[str, str], plan: Plan) -> Reply:
    """The whole clip, or the one range asked for. Several ranges get the whole (legal)."""
    changed = plan.get("etag_change")
    if changed is not None:
        clip = clip.revised(changed.number)
    ranged = plan.get("no_range") is None
    base: Headers = (
        ("Content-Type", clip.media_type),
        ("ETag", clip.etag),
        ("Last-Modified", formatdate(clip.modified_s, usegmt=True)),
        ("Accept-Ranges", "bytes" if ranged else "none"),
    )
    if clip.etag in [tag.strip() for tag in headers.get("If-None-Match", "").split(",")]:
        return Reply(304, base)
    wanted = headers.get("Range")
    if not ranged or wanted is None or not _if_range_holds(headers.get("If-Range"), clip):
        return Reply(200, base, clip=clip, length=clip.size)
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match.group(0) == "bytes=-":
        return Reply(200, base, clip=clip, length=clip.size)
    span = _span(match.group(1), match.group(2), clip.size)
    if span is None:
        return Reply(416, (("Content-Range", f"bytes */{clip.size}"),))
    start, end = span
    told = ("Content-Range", f"bytes {start}-{end - 1}/{clip.size}")
    return Reply(206, (*base, told), clip=clip, start=start, length=end - start)


def _span(first: str, last: str, size: int) -> tuple[int, int] | None:
    """[start, end) inside the file, or None when nothing of it is asked for."""
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
    return (start, end) if start < end else None


def _if_range_holds(validator: str | None, clip: Clip) -> bool:
    """Strong comparison of an ETag, or an exact match of the date (RFC 9110, 13.1.5)."""
    if validator is None:
        return True
    validator = validator.strip()
    if validator.startswith(('"', "W/")):
        return validator == clip.etag
    try:
        return int(parsedate_to_datetime(validator).timestamp()) == clip.modified_s
    except ValueError:
        return False
