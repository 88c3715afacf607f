"""Conversations on the wire, byte by byte: every `<kind>/<case>.http` beside this file.

A file starts with `[house]` in TOML, comments saying what is promised and who recorded the bytes,
and goes on in sections:

    === clock 1767225660          the time from here on, unix seconds; it starts at 1767225600
    === client request            what a client sends; `kind`, the folder, is its dialect
    === upstream request          what the upstream gets: of the submit or content request before
                                  it, else of a poll
    === canonical request         the text that the request before it signs (Volcengine)
    === upstream reply            what the upstream answers
    === or upstream reply         had it answered this instead: back to before its last answer
    === failure Name {json}       had the house failed with this error of `proxy.errors`
    === client reply              the answer to the last client request, as things stand now

A section ends at the blank line before the next one. Lines of a head end in CRLF on the wire; a
body's end in LF, its last in nothing, or all of them in CRLF where the section says `crlf`;
`{hex:…}` stands for bytes that are no text. `sha256=…` and Content-Length hold the body to its
exact bytes, whatever an editor did to the file. Upstream requests are compared to the byte, with
every header we set; client replies by status, by every header of the dialect's, and as JSON.
No value is filled in: clock, ids and boundaries are the same in each run.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import orjson
import pytest
from multidict import CIMultiDict

from proxy import errors
from proxy.dialects import DIALECTS
from proxy.dialects.answers import remembered
from proxy.dialects.base import View
from proxy.dialects.fields import Fields
from proxy.dialects.media import MemoryBlob
from proxy.errors import AuthFault, ProxyError
from proxy.gateway.endpoints import EndpointTable
from proxy.http import body_writer
from proxy.http.documents import json_fields
from proxy.http.multipart import FormLimits, FormParser
from proxy.http.outbound import Outbound
from proxy.model import (
    Call,
    Credential,
    DialectName,
    Operation,
    Reply,
    Route,
    Status,
    Task,
    Upstream,
)
from proxy.providers import PROVIDERS
from proxy.providers.base import Provider
from proxy.providers.outcomes import Accepted, Refused, Transient
from proxy.signing import sign_link
from proxy.sim.signatures import check_kling_jwt, check_volcengine, volcengine_signature
from proxy.tasks import lifecycle
from proxy.tasks.fetch import remotes_in, with_files
from proxy.tasks.links import Links
from proxy.tasks.rewrite import enforce_fit, rewrite
from proxy.tasks.spool import Spool

HERE = Path(__file__).parent
CASES = sorted(HERE.glob("*/*.http"))
# What stands at every address that the gateway fetches for a server of the operator's own.
FETCHED = MemoryBlob(b"the picture", "image/png", "picture.png")
START_S = 1767225600  # 2026-01-01T00:00:00Z
REQUEST_ID = "9984d27b-a408-4073-ae28-17ca6a13622d"
PUBLIC_URL = "https://gateway.example.com"
LINK_SECRET = b"0123456789abcdef0123456789abcdef"
TABLE = EndpointTable(DIALECTS)

BASE_URLS = {
    "openai": "https://videos.example.com/v1",
    "kling": "https://api-singapore.klingai.com",
    "jimeng": "https://visual.volcengineapi.com",
}
# Of the published vectors.
KLING_KEYS = {
    "access_key": "AKEXAMPLE0000000000000000000001",
    "secret_key": "SKEXAMPLE0000000000000000000001",
}
JIMENG_KEYS = {
    "access_key": "AKLTEXAMPLEACCESSKEY0000000001",
    "secret_key": "ZXhhbXBsZS1zZWNyZXQta2V5LWZvci10ZXN0cw==",
}
CREDENTIALS = {"openai": {"api_key": "sk-upstream"}, "kling": KLING_KEYS, "jimeng": JIMENG_KEYS}

_MARKER = re.compile(
    r"^=== (clock|client request|upstream request|canonical request|upstream reply"
    r"|or upstream reply|failure|client reply)(?: (.+))?$",
    re.MULTILINE,
)
_HEX = re.compile(rb"\{hex:([0-9a-f]*)\}")


# ---------------------------------------------------------------- the files


@dataclass(frozen=True)
class Message:
    """An HTTP message of a section; `start` is its first line."""

    start: str
    headers: CIMultiDict[str]
    body: bytes


@dataclass(frozen=True)
class Section:
    kind: str
    argument: str
    text: str
    line: int

    @property
    def message(self) -> Message:
        head, _, text = self.text.partition("\n\n")
        start, *lines = head.split("\n")
        headers: CIMultiDict[str] = CIMultiDict()
        for line in lines:
            name, _, value = line.partition(": ")
            headers.add(name, value)
        words = self.argument.split()
        body = text.encode()
        if "crlf" in words:
            body = body.replace(b"\n", b"\r\n") + b"\r\n"
        body = _HEX.sub(lambda found: bytes.fromhex(found[1].decode()), body)
        announced = headers.get("Content-Length")
        assert announced is None or int(announced) == len(body), f"the body has {len(body)} bytes"
        for word in words:
            if word.startswith("sha256="):
                assert hashlib.sha256(body).hexdigest() == word[7:]
        return Message(start, headers, body)


def sections_of(text: str) -> tuple[dict[str, Any], list[Section]]:
    found = list(_MARKER.finditer(text))
    house = tomllib.loads(text[: found[0].start()])["house"]
    assert text.count("\n===") == len(found), "a section nobody knows"
    ends = [match.start() - 1 for match in found[1:]] + [len(text)]
    sections = []
    for match, end in zip(found, ends, strict=True):
        body = text[match.end() + 1 : end].removesuffix("\n")
        line = text.count("\n", 0, match.start()) + 1
        sections.append(Section(match[1], match[2] or "", body, line))
    return house, sections


@dataclass(frozen=True)
class House:
    """What is configured, in one upstream and one route for every model."""

    provider: Provider
    upstream: Upstream
    route: Route
    default_model: str
    task_ids: Iterator[str]

    @classmethod
    def of(cls, told: dict[str, Any]) -> House:
        name = told.pop("provider")
        provider = PROVIDERS[name]
        upstream = Upstream(
            name=f"{name}-main",
            provider=name,
            base_url=told.pop("base_url", BASE_URLS[name]),
            credentials=(Credential("k1", **told.pop("credential", CREDENTIALS[name])),),
            paths=told.pop("paths", {}),
            headers=told.pop("headers", {}),
            options=provider.options(**told.pop("options", {})),
        )
        default_model = told.pop("default_model", "sora-2")
        named = told.pop("task_id", None)
        ids = iter([named]) if named else (f"video_{n:048x}" for n in range(1, 100))
        return cls(
            provider, upstream, Route("*", ((upstream.name, 1),), **told), default_model, ids
        )


# ---------------------------------------------------------------- the runner


@dataclass
class Conversation:
    """Gateway, submitter and tracker, without their sockets and stores."""

    house: House
    now_s: int = START_S
    tasks: dict[str, Task] = field(default_factory=dict)
    call: Call | None = None
    dialect: DialectName = "openai"
    fields: Fields = field(default_factory=lambda: Fields({}))
    error: ProxyError | None = None
    task: Task | None = None  # the one the talk is about
    outbound: Outbound | None = None  # due to be sent
    sent: Outbound | None = None
    asks_for: str = "nothing"  # what the last upstream request was: a submit, a poll, content
    before: tuple[Task | None, str] = (None, "nothing")  # the last upstream reply

    @property
    def now_ms(self) -> int:
        return self.now_s * 1000

    def play(self, section: Section) -> None:
        match section.kind:
            case "clock":
                self.now_s = int(section.argument)
            case "client request":
                self.ask(section.message)
            case "upstream request":
                self.check_outbound(section.message)
            case "canonical request":
                self.check_signed(section.text)
            case "upstream reply":
                self.before = (self.task, self.asks_for)
                self.answer(section.message)
            case "or upstream reply":
                self.task, self.asks_for = self.before
                self.answer(section.message)
            case "failure":
                self.error = failure_of(section.argument)
            case "client reply":
                check_reply(self.reply(), section.message)

    # -- the client asks

    def ask(self, message: Message) -> None:
        assert self.outbound is None, "an upstream request was not looked at"
        method, target, version = message.start.split(" ")
        assert version == "HTTP/1.1"
        path, _, query = target.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        self.error, self.call, self.dialect = None, None, TABLE.probable_dialect(path) or "openai"
        try:
            self.call = call = TABLE.match(method, path, dict(reversed(pairs)))
            self.dialect = call.dialect
            self.fields = fields_of(message)
            if call.operation.is_submit:
                self.submit(call)
            elif call.operation is Operation.CONTENT:
                self.fetch(call)
        except ProxyError as error:
            self.error = error

    def submit(self, call: Call) -> None:
        house = self.house
        dialect = DIALECTS[call.dialect]
        wanted = dialect.submission(call, self.fields, house.default_model)
        source = self.tasks[wanted.source_id] if wanted.source_id else None
        model = source.model if source else wanted.model
        upstream_model = house.route.upstream_model or model
        task_id = next(house.task_ids)
        draft = house.provider.draft(wanted, task_id, house.upstream, upstream_model, source)
        draft = rewrite(draft, house.route)
        files = dict.fromkeys(remotes_in(draft.fields), FETCHED)
        draft = replace(draft, fields=with_files(draft.fields, files))
        enforce_fit(draft, house.route)
        reserved = Task(
            id=task_id,
            owner="o",
            token_id="t",
            dialect=call.dialect,
            operation=call.operation,
            kind=wanted.kind,
            model=model,
            created_ms=self.now_ms,
            updated_ms=self.now_ms,
            prompt=wanted.prompt,
            request=remembered(wanted),
            external_id=wanted.external_id,
            source_id=wanted.source_id,
        )
        credential = house.upstream.credentials[0]
        rendered = house.provider.rendered(draft, house.upstream)
        self.keep(
            lifecycle.sent(
                reserved, self.now_ms, house.upstream, credential, upstream_model, draft, rendered
            )
        )
        self.outbound = house.provider.seal(draft, house.upstream, credential, self.now_s)
        self.asks_for = "submit"

    def fetch(self, call: Call) -> None:
        task = self.find(call)
        assert task is not None
        house = self.house
        variant = call.query.get("variant", house.provider.variants[0])
        found = house.provider.content(task, house.upstream, variant, 0)
        if isinstance(found, str):
            self.outbound = Outbound("GET", found, guarded=True)
        else:
            key = house.upstream.credentials[0]
            self.outbound = house.provider.seal(found, house.upstream, key, self.now_s)
        self.asks_for = "content"

    def find(self, call: Call) -> Task | None:
        reference = DIALECTS[call.dialect].reference(call, self.fields)
        for task in self.tasks.values():
            if reference in (task.id, task.external_id) and not task.deleted:
                self.task = task
                return task
        return None

    def keep(self, task: Task) -> None:
        self.task = self.tasks[task.id] = task

    # -- the upstream is asked, and answers

    def check_outbound(self, expected: Message) -> None:
        house = self.house
        outbound, self.outbound = self.outbound, None
        if outbound is None:
            assert self.task is not None
            draft = house.provider.poll(self.task, house.upstream)
            key = house.upstream.credentials[0]
            outbound = house.provider.seal(draft, house.upstream, key, self.now_s)
            self.asks_for = "poll"
        self.sent = outbound
        parts = urlsplit(outbound.url)
        target = outbound.url.partition(parts.netloc)[2]
        headers = CIMultiDict({"Host": parts.netloc, **outbound.headers})
        body = b"".join(body_writer.encoded(outbound.pieces))
        assert outbound.length == len(body)
        if outbound.pieces:
            headers["Content-Length"] = str(outbound.length)
        assert expected.start == f"{outbound.method} {target} HTTP/1.1"
        assert body == expected.body
        assert lowered(headers) == lowered(expected.headers)
        if not outbound.guarded:
            self.check_signature(outbound.method, target, headers, body)

    def check_signature(
        self, method: str, target: str, headers: CIMultiDict[str], body: bytes
    ) -> None:
        """The simulators' own verifiers, which share no code with the signer."""
        given = headers.get("Authorization", "")
        if given.startswith("HMAC-SHA256"):
            secrets = {JIMENG_KEYS["access_key"]: JIMENG_KEYS["secret_key"]}
            check_volcengine(method, target, headers, body, secrets, self.now_s)
        elif given.count(".") == 2:
            secrets = {KLING_KEYS["access_key"]: KLING_KEYS["secret_key"]}
            check_kling_jwt(given.removeprefix("Bearer "), secrets, self.now_s)

    def check_signed(self, canonical: str) -> None:
        assert self.sent is not None
        headers = self.sent.headers
        secret = JIMENG_KEYS["secret_key"]
        signature = volcengine_signature(canonical, headers["X-Date"], "cn-north-1", "cv", secret)
        assert headers["Authorization"].endswith(f"Signature={signature}")

    def answer(self, message: Message) -> None:
        assert self.outbound is None, "the upstream request was not looked at"
        assert self.task is not None
        status = int(message.start.split(" ")[1])
        task, provider = self.task, self.house.provider
        self.error = None
        if self.asks_for == "submit":
            outcome = provider.outcome(status, message.headers, message.body, self.house.upstream)
            if isinstance(outcome, Accepted):
                self.keep(lifecycle.bound(task, outcome, self.now_ms))
            elif isinstance(outcome, Refused):
                self.error = outcome.error
                self.keep(task)
            else:
                self.keep(lifecycle.noted(task, self.now_ms))
            return
        assert self.asks_for == "poll"
        state = provider.state(task, status, message.headers, message.body)
        moved = None
        if not isinstance(state, Transient):
            moved = lifecycle.advanced(task, state, self.now_ms)
        self.keep(moved or task)

    # -- the client is answered

    def reply(self) -> Reply:
        dialect = DIALECTS[self.dialect]
        if self.error is not None:
            return dialect.failure(self.error, REQUEST_ID)
        call = self.call
        assert call is not None
        try:
            if call.operation is Operation.LIST:
                return self.listing(call)
            if call.operation.is_submit:
                assert self.task is not None
                return dialect.created(view_of(self.task), REQUEST_ID)
            task = self.find(call)
            if task is None:
                reference = dialect.reference(call, self.fields)
                return dialect.missing(call, reference, REQUEST_ID)
            if call.operation is Operation.DELETE:
                removed = lifecycle.removed(task, self.now_ms)
                assert removed is not None
                self.keep(removed)
                return dialect.deleted(view_of(removed), REQUEST_ID)
            return dialect.task(view_of(task), REQUEST_ID)
        except ProxyError as error:
            return dialect.failure(error, REQUEST_ID)

    def listing(self, call: Call) -> Reply:
        dialect = DIALECTS[call.dialect]
        page = dialect.page(call)
        found = [
            task
            for task in self.tasks.values()
            if not task.deleted and page.kind in (None, task.kind)
        ]
        found.sort(key=lambda task: task.created_ms, reverse=page.order == "desc")
        ids = [task.id for task in found]
        start = page.offset if page.after is None else ids.index(page.after) + 1
        views = [view_of(task) for task in found[start : start + page.limit]]
        return dialect.listing(page, views, len(found) > start + page.limit, REQUEST_ID)


def fields_of(message: Message) -> Fields:
    """As `proxy.gateway.request` reads a body, which arrives in pieces."""
    kind = message.headers.get("Content-Type", "")
    if not message.body:
        return Fields({})
    if kind.startswith("application/json"):
        return Fields(json_fields(message.body))
    parser = FormParser(kind, FormLimits(), Spool(HERE).batch().open)
    for start in range(0, len(message.body), 61):
        parser.feed(message.body[start : start + 61])
    return Fields(parser.finish())


def view_of(task: Task) -> View:
    """With links as `proxy.tasks.links` makes them."""
    if task.status is not Status.COMPLETED:
        return View(task)
    exp_s = Links.exp_s(task)
    plain = f"{PUBLIC_URL}/v1/videos/{task.id}/content"
    links = []
    for index in range(len(task.results)):
        sig = sign_link(LINK_SECRET, task.id, "video", index, exp_s)
        query = {"variant": "video", "index": index, "exp": exp_s, "sig": sig}
        links.append(f"{plain}?{urlencode(query)}")
    return View(task, tuple(links), plain)


def failure_of(text: str) -> ProxyError:
    """`RateLimited {"message": …, "retry_after_s": 7}`"""
    name, _, told = text.partition(" ")
    arguments = orjson.loads(told)
    message = arguments.pop("message")
    if "fault" in arguments:
        arguments["fault"] = AuthFault(arguments["fault"])
    error = getattr(errors, name)(message, **arguments)
    assert isinstance(error, ProxyError)
    return error


def check_reply(reply: Reply, expected: Message) -> None:
    assert orjson.loads(reply.body) == orjson.loads(expected.body)
    assert expected.start.startswith(f"HTTP/1.1 {reply.status} ")  # the phrase is for readers
    assert lowered(reply.headers) == lowered(expected.headers)


def lowered(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_conversation_is_exactly_this(path: Path) -> None:
    """Client bytes in, upstream bytes out; upstream bytes in, client bytes out."""
    told, sections = sections_of(path.read_text(encoding="utf-8"))
    conversation = Conversation(House.of(told))
    for section in sections:
        try:
            conversation.play(section)
        except (Exception, AssertionError) as error:
            error.add_note(f"{path}:{section.line}: === {section.kind} {section.argument}")
            raise
        if section.kind == "client request" and conversation.call is not None:
            assert conversation.call.dialect == path.parent.name
    assert conversation.outbound is None, "the last upstream request was not looked at"


def test_every_dialect_meets_every_provider() -> None:
    """A dialect or provider without a file is one whose bytes nobody has looked at."""
    pairs = {
        (path.parent.name, sections_of(path.read_text(encoding="utf-8"))[0]["provider"])
        for path in CASES
    }
    assert pairs == {(kind, name) for kind in DIALECTS for name in PROVIDERS}
