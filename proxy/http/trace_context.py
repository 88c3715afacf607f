"""The traceparent header (W3C Trace Context, 3.2): which trace a request belongs to.

Rule: one that is not well-formed is as good as none, and its tracestate with it (4.3).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

_SAMPLED: Final = 0x01
_RANDOM: Final = 0x02  # of level 2: whoever hands a trace on leaves it as it is
_FORM: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceParent:
    """One span of a trace: 32 and 16 lower-case hex digits, neither all zero."""

    trace_id: str
    span_id: str
    flags: int = _SAMPLED

    @property
    def is_sampled(self) -> bool:
        """Whoever began the trace wants it recorded."""
        return bool(self.flags & _SAMPLED)

    def child(self, span_id: str) -> TraceParent:
        return replace(self, span_id=span_id)

    def header(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{self.flags & (_SAMPLED | _RANDOM):02x}"


def parse(header: str | None) -> TraceParent | None:
    """None for anything that is no traceparent. Of a version after 00 what we know is read."""
    found = _FORM.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceParent(trace_id, span_id, int(flags, 16))


def handed_on(came: Mapping[str, str], span: TraceParent) -> dict[str, str]:
    """The headers of a request made for `span`, by those its cause came with: the tracestate goes
    along while the trace is the same."""
    headers = {"traceparent": span.header()}
    parent = parse(came.get("traceparent"))
    if parent is not None and parent.trace_id == span.trace_id and "tracestate" in came:
        headers["tracestate"] = came["tracestate"]
    return headers
