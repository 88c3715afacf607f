"""A client's multipart/form-data: bytes in, nested values out.

Rule: whatever the bytes, the only thing raised is a `ProxyError`.

Forms (RFC 7578, https://datatracker.ietf.org/doc/html/rfc7578) are read incrementally: text is
kept, files go to a `BlobWriter` as they arrive. Names are folded the way the official SDKs
flatten them (openai-node 7, openai-python 3 with `array_format="brackets"`): `a[b]` is a member
of an object, `a[]` an element of a list, `a[][b]` a member of an object in a list. A plain name
that comes more than once is a list too, as browsers and curl write one.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, cast
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from proxy.errors import Invalid, TooLarge, UnsupportedMediaType
from proxy.http.charsets import decoded
from proxy.model import Blob

_MAX_BOUNDARY = 70  # RFC 2046 §5.1.1
_MAX_NAME_CHARS = 256
_MAX_FILENAME_CHARS = 128


class BlobWriter(Protocol):
    """Where the bytes of one file part go."""

    def write(self, data: bytes) -> None: ...
    def finish(self) -> Blob: ...
    def discard(self) -> None:
        """Give everything back; harmless when done before."""
        ...


OpenBlob: TypeAlias = Callable[[str, str], BlobWriter]
"""(filename, content type) → writer; each is "" when the client did not say."""


@dataclass(frozen=True, slots=True)
class FormLimits:
    """What one form may hold.

    `text_bytes` is the sum of all text parts, since all are kept in memory; its default takes
    a data: URL of a 20 MiB picture, the largest OpenAI accepts. `upload_bytes` is per file.
    `depth` counts the levels of a bracketed name: `a[b]` has two.
    """

    parts: int = 128
    text_bytes: int = 28 * 1024 * 1024
    upload_bytes: int = 32 * 1024 * 1024
    depth: int = 5


# ---------------------------------------------------------------- multipart/form-data


class FormParser:
    """One form: `feed` its bytes, `finish` at their end; `discard` when they stop coming.

    After anything raised the parser is done for; the file in progress is discarded by then.
    Finished blobs belong to whoever opened their writers.
    """

    def __init__(self, content_type: str, limits: FormLimits, open_blob: OpenBlob) -> None:
        boundary = boundary_of(content_type)
        self._start = b"--" + boundary
        self._opening = b""
        self._parser: PushMultipartParser | None = PushMultipartParser(
            boundary, max_segment_count=limits.parts
        )
        self._limits = limits
        self._open_blob = open_blob
        self._has_started = False
        self._text_bytes = 0
        self._part: _OpenPart | None = None
        self._ended: list[tuple[_OpenPart, Blob | None]] = []

    @property
    def text_bytes(self) -> int:
        """The bytes of text kept in memory so far."""
        return self._text_bytes

    def feed(self, data: bytes) -> None:
        """The next bytes of the body. Raises `Invalid`, `TooLarge`, or what a writer raises."""
        if not self._has_started:
            data = self._begin(self._opening + data)
        if data:
            self._parse(data)

    def finish(self) -> dict[str, object]:
        """The whole form, at the end of the body: strings, blobs, lists and dicts.

        Decodes all text, so of a large form it is called off the event loop.
        """
        if not self._has_started:
            self.discard()
            raise Invalid(
                "The form is empty or does not start with the boundary its Content-Type names."
            )
        self._parse(b"")
        fields: dict[str, object] = {}
        for part, blob in self._ended:
            _fold(fields, part, _text(part) if blob is None else blob)
        return fields

    def discard(self) -> None:
        """Drop the file in progress. Harmless at any time."""
        part, self._part = self._part, None
        self._parser = None
        if part is not None and part.writer is not None:
            part.writer.discard()

    def _begin(self, opening: bytes) -> bytes:
        """Hold the first bytes until they show the boundary. No client of the field sends a
        preamble; a body that starts otherwise has lost its boundary on the way."""
        for start in (self._start, b"\r\n" + self._start):
            if opening.startswith(start):
                self._has_started, self._opening = True, b""
                return opening
        if self._start.startswith(opening) or (b"\r\n" + self._start).startswith(opening):
            self._opening = opening
            return b""
        self.discard()
        raise Invalid("The form does not start with the boundary its Content-Type names.")

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            raise Invalid("The form was given up before its end.")
        done = False
        try:
            for event in self._parser.parse(data):
                if event is None:
                    self._end_part()
                elif isinstance(event, MultipartSegment):
                    self._part = self._open_part(event)
                else:
                    self._write(bytes(event))
            done = True
        except ParserLimitReached as exc:
            raise TooLarge(_limit_message(str(exc), self._limits), limit="body") from exc
        except (MultipartError, ValueError, AssertionError) as exc:
            raise Invalid(_fault_message(exc, self._part)) from exc
        finally:
            if not done:
                self.discard()

    def _open_part(self, segment: MultipartSegment) -> _OpenPart:
        seen = [name for name, _ in segment.headerlist]
        for header in ("Content-Disposition", "Content-Type"):
            if seen.count(header) > 1:
                raise Invalid(f"A form part has two {header} headers.")
        name = segment.name or ""
        path = path_of(name, self._limits.depth)
        transfer = segment.header("Content-Transfer-Encoding", "binary").strip().lower()
        if transfer not in ("binary", "7bit", "8bit"):
            raise Invalid(
                f"'{name}' is sent with Content-Transfer-Encoding; send its bytes as they are.",
                param=name,
            )
        filename = segment.filename
        if filename is None:
            filename = _extended_filename(segment["Content-Disposition"], name)
        content_type = _media_type(segment.content_type)
        return _OpenPart(name, path, filename, content_type, segment.charset, bytearray())

    def _write(self, data: bytes) -> None:
        part = self._part
        assert part is not None
        if part.filename is None:
            self._text_bytes += len(data)
            if self._text_bytes > self._limits.text_bytes:
                raise TooLarge(
                    f"'{part.name}' takes the form's text above {self._limits.text_bytes} bytes.",
                    param=part.name,
                    limit="body",
                )
            part.text += data
            return
        part.size += len(data)
        if part.size > self._limits.upload_bytes:
            raise TooLarge(
                f"The file in '{part.name}' is larger than {self._limits.upload_bytes} bytes.",
                param=part.name,
                limit="body",
            )
        self._writer(part).write(data)

    def _writer(self, part: _OpenPart) -> BlobWriter:
        if part.writer is None:
            part.writer = self._open_blob(_safe_filename(part.filename or ""), part.content_type)
        return part.writer

    def _end_part(self) -> None:
        part = self._part
        assert part is not None
        if part.filename is None:
            self._part = None
            self._ended.append((part, None))
        elif part.filename == "" and part.size == 0:
            self._part = None  # what browsers send for a file field left empty
        else:
            blob = self._writer(part).finish()
            self._part = None
            self._ended.append((part, blob))


@dataclass(slots=True)
class _OpenPart:
    name: str
    path: tuple[str, ...]
    filename: str | None  # None: a text part
    content_type: str
    charset: str | None  # as the part names it
    text: bytearray
    size: int = 0
    writer: BlobWriter | None = None


_BCHARS = re.compile(rb"[0-9A-Za-z'()+_,\-./:=? ]*[0-9A-Za-z'()+_,\-./:=?]")  # RFC 2046 §5.1.1
# Unquoted boundaries may hold "=" or ":" in practice, though a token may not.
_PARAM = re.compile(r';[ \t]*([\w!#$%&\'*+.^`|~-]+)[ \t]*=[ \t]*(?:"([^"\\]*)"|([^\s;"]+))[ \t]*')
_SPARE = re.compile(r"(?:;[ \t]*)*")
_MEDIA_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,60}")
_EXTENDED = re.compile(r";[ \t]*filename\*[ \t]*=[ \t]*([^'\s;]*)'[^']*'([^\s;]*)", re.IGNORECASE)
_NAME = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_PLAIN_BYTES: Final = 64 * 1024  # above it a text is data, which has no control characters
_RARE: Final = bytes({*range(32), 0x7F} - {0x09, 0x0A, 0x0D})


def boundary_of(content_type: str) -> bytes:
    """The boundary a Content-Type names. Raises `UnsupportedMediaType` for another type,
    `Invalid` when it is missing, given twice, over 70 bytes, or not allowed by RFC 2046."""
    media_type, _, _ = content_type.partition(";")
    if media_type.strip().lower() != "multipart/form-data":
        raise UnsupportedMediaType("The body must be multipart/form-data or application/json.")
    found: list[str] = []
    at = len(media_type)
    while match := _PARAM.match(content_type, at):
        at = match.end()
        if match[1].lower() == "boundary":
            found.append(match[2] if match[2] is not None else match[3])
    spare = _SPARE.match(content_type, at)
    if spare is None or content_type[spare.end() :].strip():
        raise Invalid("The Content-Type of the form cannot be read.")
    if not found:
        raise Invalid("The Content-Type of the form names no boundary.")
    if len(found) > 1:
        raise Invalid("The Content-Type of the form names more than one boundary.")
    boundary = found[0].encode("ascii", "replace")
    if len(boundary) > _MAX_BOUNDARY:
        raise Invalid(f"The form's boundary is longer than {_MAX_BOUNDARY} characters.")
    if not found[0].isascii() or not _BCHARS.fullmatch(boundary):
        raise Invalid("The form's boundary is empty or holds a character RFC 2046 forbids.")
    return boundary


def path_of(name: str, depth: int) -> tuple[str, ...]:
    """`metadata[b][]` → ("metadata", "b", ""). Raises `Invalid`."""
    if not name:
        raise Invalid("A form part has no name.")
    shown = _CONTROL.sub("", name[:40])
    if len(name) > _MAX_NAME_CHARS:
        raise Invalid(f"The name '{shown}…' is longer than {_MAX_NAME_CHARS} characters.")
    if _CONTROL.search(name):
        raise Invalid(f"The name '{shown}' holds a control character.", param=shown)
    match = _NAME.fullmatch(name)
    if match is None:
        raise Invalid(f"The name '{name}' has stray brackets.", param=name)
    path = (match[1], *match[2][1:-1].split("][")) if match[2] else (match[1],)
    if len(path) > depth:
        raise Invalid(f"'{name}' is nested deeper than {depth} levels.", param=name)
    if "" in path[:-2] or (path[-1] == "" and "" in path[:-1]):
        raise Invalid(
            f"'{name}' nests inside a list; only 'a[]' and 'a[][b]' are read.", param=name
        )
    return path


def _fold(fields: dict[str, object], part: _OpenPart, value: object) -> None:
    """Put one value at its path, creating the objects and lists on the way."""
    path, name = part.path, part.name
    here: dict[str, object] = fields
    for key, following in itertools.pairwise(path):
        if key == "":
            continue  # taken together with the name of its list, below
        if following == "":
            items = here.setdefault(key, [])
            if isinstance(items, dict) or (path[-1] != "" and not isinstance(items, list)):
                raise _conflict(name, key)
            if not isinstance(items, list):  # `a`, then `a[]`: both are of one list
                items = here[key] = [items]
            if path[-1] == "":
                _append(items, value, name, key)
                return
            here = _element(items, path[-1], name, key)
        else:
            inner = here.setdefault(key, {})
            if not isinstance(inner, dict):
                raise _conflict(name, key)
            here = inner
    last = path[-1]
    if last not in here:
        here[last] = value
        return
    earlier = here[last]
    if isinstance(earlier, dict):
        raise _conflict(name, last)
    if isinstance(earlier, list):
        _append(earlier, value, name, last)
    else:
        here[last] = [earlier, value]


def _append(items: list[object], value: object, name: str, key: str) -> None:
    if items and isinstance(items[-1], dict):
        raise _conflict(name, key)
    items.append(value)


def _element(items: list[object], key: str, name: str, of: str) -> dict[str, object]:
    """The object of a list that `a[][key]` belongs to: the last one, until it has that key."""
    if items and not isinstance(items[-1], dict):
        raise _conflict(name, of)
    if items and isinstance(items[-1], dict) and key not in items[-1]:
        return cast("dict[str, object]", items[-1])
    element: dict[str, object] = {}
    items.append(element)
    return element


def _conflict(name: str, key: str) -> Invalid:
    return Invalid(f"'{name}' conflicts with another use of '{key}' in the form.", param=name)


def _text(part: _OpenPart) -> str:
    name = part.name
    is_wide = (part.charset or "").lower().startswith(("utf-16", "utf-32"))
    if (
        not is_wide  # there they are halves of characters
        and len(part.text) > _PLAIN_BYTES
        and len(part.text.translate(None, _RARE)) != len(part.text)
    ):
        # As JSON towards an upstream each of them would be six bytes.
        raise Invalid(
            f"'{name}' is text of more than {_PLAIN_BYTES} bytes and holds control characters.",
            param=name,
        )
    try:
        return decoded(part.text, part.charset)
    except LookupError as exc:
        raise Invalid(
            f"'{name}' is not UTF-8 text, and its charset is not known here; send UTF-8.",
            param=name,
        ) from exc
    except ValueError as exc:
        label = "" if part.charset is None else f" and not {_CONTROL.sub('', part.charset)[:40]}"
        place = f" (byte {exc.start})" if isinstance(exc, UnicodeDecodeError) else ""
        raise Invalid(f"'{name}' is not UTF-8 text{label}{place}.", param=name) from exc


def _extended_filename(disposition: str, name: str) -> str | None:
    """`filename*=UTF-8''…` (RFC 5987): urllib3 before 2.0 sends it alone for names that are not
    ASCII; overlooking it would turn the file into a text field."""
    match = _EXTENDED.search(disposition)
    if match is None:
        return None
    try:
        return decoded(unquote_to_bytes(match[2]), match[1] or None)
    except (LookupError, ValueError) as exc:
        raise Invalid(
            f"The file name of '{name}' is not text of the charset it names.", param=name
        ) from exc


def _media_type(value: str | None) -> str:
    return value if value and _MEDIA_TYPE.fullmatch(value) else ""


def _safe_filename(filename: str) -> str:
    """The last path segment without control characters: names travel on to upstreams."""
    bare = _CONTROL.sub("", re.split(r"[/\\]", filename)[-1]).strip()
    if len(bare) > _MAX_FILENAME_CHARS:
        bare = bare[-_MAX_FILENAME_CHARS:]  # the end has the extension
    return bare


def _limit_message(fault: str, limits: FormLimits) -> str:
    if "count" in fault and "header" not in fault:
        return f"The form has more than {limits.parts} parts."
    return "The headers of a form part are too large."


def _fault_message(fault: Exception, part: _OpenPart | None) -> str:
    """The parser's complaint in our own words; its own may hold Python's."""
    said = str(fault.args[0]) if fault.args else ""
    if "end of multipart stream" in said and "after" not in said:
        where = f" inside '{part.name}'" if part is not None else ""
        return f"The form ends{where} before its closing boundary."
    for start, words in _FAULTS.items():
        if said.startswith(start):
            return f"The form is malformed: {words}."
    return "The form is malformed."


_FAULTS: Final = {
    "Invalid line break": "a line in the head of a part does not end with CRLF",
    "Unexpected byte in front": "there are bytes before its first boundary",
    "Unexpected byte": "there are bytes behind a boundary on the same line",
    "Unexpected data after end": "there are bytes behind its closing boundary",
    "Unexpected segment header continuation": "a header of a part is folded",
    "Empty segment header continuation": "a header of a part is folded",
    "Segment header failed to decode": "a header of a part is not UTF-8 text",
    "Malformed segment header": "a header of a part has no colon",
    "Invalid segment header name": "a header of a part has a malformed name",
    "Multiple segment Content-Length": "a part has two Content-Length headers",
    "Invalid segment Content-Length": "the Content-Length of a part is no number",
    "Segment Content-Length exceeded": "a part is longer than its Content-Length",
    "Segment size does not match": "a part is shorter than its Content-Length",
    "Missing Content-Disposition": "a part has no Content-Disposition header",
    "Invalid Content-Disposition segment header: Wrong type": (
        "the Content-Disposition of a part is not form-data"
    ),
    "Invalid Content-Disposition segment header: Missing name": "a part has no name",
}
