"""Any dialect's request on any provider; the task it becomes, told in any dialect.

The simulators, which share no code with the house, say whether a provider would take what is
sent, and what it reads in it.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict

from proxy.dialects import DIALECTS
from proxy.dialects.answers import remembered
from proxy.dialects.base import PageRequest, View
from proxy.dialects.fields import Fields
from proxy.dialects.media import MemoryBlob
from proxy.errors import Invalid
from proxy.gateway.endpoints import EndpointTable
from proxy.http import body_writer
from proxy.http.documents import json_fields
from proxy.http.form_writer import multipart_pieces
from proxy.http.multipart import FormLimits, FormParser
from proxy.http.outbound import Draft, Outbound, Rendered
from proxy.model import (
    Call,
    Credential,
    DialectName,
    Reply,
    Result,
    Route,
    Stage,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
    VideoRequest,
)
from proxy.providers import PROVIDERS
from proxy.providers.base import Provider
from proxy.providers.outcomes import Accepted
from proxy.sim.body import Body, read_body
from proxy.sim.faults import Faults
from proxy.sim.jimeng import Jimeng
from proxy.sim.kling import Kling
from proxy.sim.links import Links
from proxy.sim.log import Log
from proxy.sim.openai import OpenAI
from proxy.sim.pattern import Assets
from proxy.sim.reply import Refusal
from proxy.sim.service import Call as SimCall
from proxy.sim.service import Service
from proxy.sim.settings import Settings
from proxy.sim.tasks import Tasks
from proxy.sim.vendors import VENDORS
from proxy.tasks import lifecycle
from proxy.tasks.fetch import remotes_in, with_files
from proxy.tasks.rewrite import enforce_fit, rewrite
from proxy.tasks.spool import Spool

NOW = 1767225600
TASK_ID = "video_00" + 46 * "a"
LINK = "https://gateway.example.com/v1/videos/x/content?exp=1&sig=s"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
FETCHED = MemoryBlob(
    PNG + b"fetched", "image/png", "cat.png"
)  # at every address that is fetched by us
PNG64 = base64.b64encode(PNG).decode()
JPG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
JPG64 = base64.b64encode(JPG).decode()
URL = "https://pics.example/cat.png?x=1&y=%2F"
TABLE = EndpointTable(DIALECTS)
SPOOL = Spool(Path("/nonexistent"))  # nothing here is large enough for a file

# ---------------------------------------------------------------- what clients send

TEXT = st.sampled_from(["A calico cat", "千军万马\nline two", 'quo"te\\ {hex} <b>', "--boundary"])
SECONDS = st.sampled_from([1, 4, 5, 7.5, 8, 10, 12, 20])
SIZES = ("720x1280", "1280x720", "1024x1792", "1920x1080", "640x640", "848x480", "3840x2160")
RATIOS = st.sampled_from(["16:9", "9:16", "1:1", "4:3", "21:9", "9:21", "2:1"])
PICTURES = st.sampled_from([URL, PNG64, f"data:image/jpeg;base64,{JPG64}"])
VALUES = st.sampled_from([0, 1.5, "x", True, [1, "y"], {"k": ["v", 0], "w": {"x": 1}}])

# What clients of the OpenAI and the generic API send beside the documented fields.
COMMON: dict[str, st.SearchStrategy[Any]] = {
    "negative_prompt": TEXT,
    "seed": st.integers(0, 9),
    "fps": st.sampled_from([24, 30]),
    "style": st.just("anime"),
    "quality_level": st.just("high"),
    "user": st.just("u-1"),
    "response_format": st.just("url"),
    "aspect_ratio": RATIOS,
    "resolution": st.sampled_from(["480p", "720p", "1080p", "4K"]),
    "mode": st.sampled_from(["std", "pro"]),
    "audio": st.booleans(),
    "n": st.sampled_from([1, 1, 1, 2]),
    "brand_new": VALUES,
}
MOVED = ("negative_prompt", "style", "quality_level", "mode", "resolution", "another")


def few(
    always: Mapping[str, st.SearchStrategy[Any]], optional: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Bodies with a few of the optional fields. `wh` stands for width and height, which only go
    together, `pictures` for one of the fields that exclude each other; `moved` puts the extended
    parameters into `metadata`."""
    names = st.lists(st.sampled_from(sorted(optional)), unique=True, max_size=5)
    return names.flatmap(
        lambda found: st.fixed_dictionaries({**always, **{n: optional[n] for n in found}})
    ).map(_spread)


def _spread(body: dict[str, Any]) -> dict[str, Any]:
    body = {**body, **body.get("pictures", {})}
    body.pop("pictures", None)
    if "wh" in body:
        width, height = body.pop("wh").split("x")
        body |= {"width": int(width), "height": int(height)}
    moved = body.pop("moved", ())
    inner = {name: body.pop(name) for name in moved if name in body}
    return body | ({"metadata": inner} if inner else {})


@dataclass(frozen=True)
class Sent:
    """What a client sends: JSON, or a form as openai-python writes it."""

    dialect: DialectName
    body: dict[str, Any]
    is_form: bool = False

    @property
    def call(self) -> Call:
        path, _, query = TARGETS[self.dialect].partition("?")
        return TABLE.match("POST", path, dict(parse_qsl(query)))

    def request(self) -> VideoRequest:
        return DIALECTS[self.dialect].submission(self.call, Fields(self._fields()), "default")

    def without(self, name: str) -> Sent:
        return replace(self, body={k: v for k, v in self.body.items() if k != name})

    def _fields(self) -> dict[str, object]:
        if not self.is_form:
            return json_fields(orjson.dumps(self.body))
        body = dict(self.body)
        if body.get("input_reference") == PNG64:
            body["input_reference"] = MemoryBlob(PNG, "application/octet-stream", "upload")
        parser = FormParser("multipart/form-data; boundary=b0", FormLimits(), SPOOL.batch().open)
        parser.feed(b"".join(body_writer.encoded(multipart_pieces(body, "b0"))))
        return parser.finish()


TARGETS: dict[DialectName, str] = {
    "openai": "/v1/videos",
    "generic": "/v1/video/generations",
    "kling": "/kling/v1/videos/text2video",
    "jimeng": "/jimeng/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31",
}
OPENAI = st.builds(
    Sent,
    st.just("openai"),
    few(
        {"prompt": TEXT, "model": st.just("m")},
        {
            **COMMON,
            "seconds": SECONDS.map(str),
            "size": st.sampled_from(SIZES),
            "input_reference": PICTURES | PICTURES.map(lambda p: {"image_url": p}),
            "num_inference_steps": st.just(30),
            "moved": st.just(MOVED),
            "webhook": st.just("https://client.example/hook"),
        },
    ),
    st.booleans(),
)
GENERIC = st.builds(
    Sent,
    st.just("generic"),
    few(
        {"prompt": TEXT, "model": st.just("m")},
        {
            **COMMON,
            "duration": SECONDS,
            "wh": st.sampled_from(SIZES),
            "image": PICTURES,
            "moved": st.just(MOVED),
        },
    ),
)
KLING = st.builds(
    Sent,
    st.just("kling"),
    few(
        {"prompt": TEXT, "model_name": st.just("m"), "moved": st.just(MOVED[1:3])},
        {
            "negative_prompt": TEXT,
            "duration": SECONDS.map(str),
            "mode": st.sampled_from(["std", "pro"]),
            "sound": st.sampled_from(["on", "off"]),
            "aspect_ratio": st.sampled_from(["16:9", "9:16", "1:1"]),
            "image": PICTURES,
            "image_tail": PICTURES,
            "external_task_id": st.just("mine-1"),
            "callback_url": st.just("https://client.example/hook"),
            "cfg_scale": st.sampled_from([0, 0.5, 1]),
            "watermark_info": st.booleans().map(lambda on: {"enabled": on}),
            "camera_control": st.just({"type": "down_back"}),
            "brand_new": VALUES | st.none().map(lambda none: [none, {"a": none}]),
            "wh": st.sampled_from(SIZES),
            "fps": st.just(30),
            "seed": st.just(7),
            "n": st.just(1),
            "user": st.just("u-1"),
            "response_format": st.just("url"),
            "style": st.just("anime"),
            "quality_level": st.just("high"),
            "another": VALUES,
            "moved": st.just(MOVED),
        },
    ).filter(lambda body: not {"camera_control", "image_tail"} <= body.keys()),
)
JIMENG = st.builds(
    Sent,
    st.just("jimeng"),
    few(
        {"prompt": TEXT, "req_key": st.just("m")},
        {
            "seed": st.sampled_from([-1, 0, 7]),
            "frames": st.sampled_from([49, 121, 193, 241, 337]),
            "aspect_ratio": RATIOS,
            "pictures": st.sampled_from(
                [
                    {"image_urls": [URL]},
                    {"image_urls": [URL, URL + "2"]},
                    {"binary_data_base64": [PNG64]},
                    {"binary_data_base64": [PNG64, JPG64]},
                ]
            ),
            "template_id": st.just("crane_push"),
            "camera_strength": st.just("weak"),
            "brand_new": VALUES,
        },
    ),
)
SENT = st.one_of(OPENAI, GENERIC, KLING, JIMENG)

# ---------------------------------------------------------------- where it goes


PLAIN = Route("m", (("u", 1),))


@dataclass(frozen=True)
class Place:
    """An upstream and the model asked there."""

    upstream: Upstream
    model: str
    route: Route = PLAIN

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.upstream.provider]

    def draft(self, request: VideoRequest) -> Draft:
        draft = self.provider.draft(request, TASK_ID, self.upstream, self.model, None)
        return rewrite(draft, self.route)

    def seal(self, draft: Draft) -> Outbound:
        files = dict.fromkeys(remotes_in(draft.fields), FETCHED)
        draft = replace(draft, fields=with_files(draft.fields, files))
        return self.provider.seal(draft, self.upstream, self.upstream.credentials[0], NOW)


KEYS: dict[str, dict[str, Any]] = {
    "openai": dict(VENDORS["openai"].keys),
    "kling": {name: VENDORS["kling"].keys[name] for name in ("access_key", "secret_key")},
    "jimeng": dict(VENDORS["jimeng"].keys),
}


def place(name: str, model: str, **options: Any) -> Place:
    base_url = "http://127.0.0.1:9000" + ("/v1" if name == "openai" else "")
    credential = Credential("k", **KEYS[name])
    chosen = PROVIDERS[name].options(**options)
    return Place(Upstream("u", name, base_url, (credential,), options=chosen), model)


PLACES = (
    place(
        "openai",
        "sora-2",
        seconds=(4, 8, 12),
        sizes=("720x1280", "1280x720", "1024x1792", "1792x1024"),
    ),
    place("openai", "wan2.2-t2v"),
    place("openai", "wan2.2-t2v", server="vllm-omni"),
    place("openai", "wan2.2-t2v", server="sglang"),
    place("kling", "kling-v1-6"),
    place("kling", "kling-v2-master"),
    place("kling", "kling-v2-1"),
    place("kling", "kling-v2-6"),
    place("kling", "kling-v3"),
    place("jimeng", "jimeng_t2v_v30"),
    place("jimeng", "jimeng_t2v_v30_1080p"),
    place("jimeng", "jimeng_ti2v_v30_pro"),
    replace(
        place("jimeng", "jimeng_i2v_recamera_v30"),
        route=replace(PLAIN, defaults={"template_id": "crane_push"}),  # it needs one
    ),
    place("jimeng", "jimeng_vgfm_t2v_l20"),
)
PLACE = st.sampled_from(PLACES)


# ---------------------------------------------------------------- the witness


@dataclass(frozen=True)
class Taken:
    """What a simulator made of a submit: its answer, the body as it read it, and the request
    with the provider's defaults."""

    status: int
    answer: dict[str, Any]
    body: Body
    request: dict[str, Any]


class Witness:
    """The simulated providers behind their own body parser; no socket is opened."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        world = Settings(manual=True, clock=lambda: NOW)
        self._tasks = Tasks(world, Assets.load())
        links = Links(b"k", 3600, world.clock)
        self._services: dict[str, Service] = {
            "openai": OpenAI(world, self._tasks, links),
            "kling": Kling(world, self._tasks, links, lambda url, task_id, body: None),
            "jimeng": Jimeng(world, self._tasks, links),
        }

    def close(self) -> None:
        self._loop.close()

    def take(self, name: str, outbound: Outbound) -> Taken:
        service = self._services[name]
        parts = urlsplit(outbound.url)
        target = outbound.url.partition(parts.netloc)[2]
        headers = CIMultiDict({"Host": parts.netloc, **outbound.headers})
        body = self._loop.run_until_complete(self._read(outbound, target, headers))
        route = next(r for r in service.routes() if (r.method, r.path) == ("POST", parts.path))
        entry = Log().open(name, "submit", "POST", target, headers)
        call = SimCall(
            "POST",
            target,
            {},
            MultiDict(parse_qsl(parts.query)),
            headers,
            body,
            entry,
            Faults().plan(name, "submit", target),
        )
        try:
            reply = route.answer(call)
        except Refusal as refusal:
            reply = refusal.reply
        task = self._tasks.get(entry.task_id or "")
        self._tasks.clear()
        request = task.request if task else {}
        return Taken(reply.status, orjson.loads(reply.body), body, request)

    async def _read(self, outbound: Outbound, target: str, headers: CIMultiDict[str]) -> Body:
        stream = StreamReader(BaseProtocol(self._loop), 2**16, loop=self._loop)
        stream.feed_data(b"".join(body_writer.encoded(outbound.pieces)))
        stream.feed_eof()
        return await read_body(
            make_mocked_request(outbound.method, target, headers, payload=stream)
        )


@pytest.fixture(scope="module")
def witness() -> Iterator[Witness]:
    made = Witness()
    yield made
    made.close()


# ---------------------------------------------------------------- what became of a wish


def unmet(request: VideoRequest, draft: Draft, rendered: Rendered, taken: Taken) -> list[str]:
    """The wishes that the provider was not told of, or does not render to the letter.

    `external_id` and `callback_url` are the house's own affair.
    """
    body = taken.body.fields
    lines = _lines(draft, rendered)
    met = {
        "prompt": body.get("prompt") == request.prompt,
        "seconds": rendered.seconds == request.seconds,
        "size": request.size in (rendered.size, _picture_size(request, rendered, lines)),
        "aspect_ratio": body.get("aspect_ratio") == request.aspect_ratio
        or _has_shape(rendered, request.aspect_ratio),
        "resolution": request.resolution is not None and _asked_lines(request.resolution) == lines,
        "mode": body.get("mode") == request.mode
        or lines == {"std": 720, "pro": 1080}.get(request.mode or ""),
        "audio": rendered.audio == request.audio,
        "n": rendered.n == request.n,
    }
    plain = ("negative_prompt", "fps", "seed", "style", "quality_level", "user", "response_format")
    named = {"quality_level": "quality" if "quality" in body else "quality_level"}
    met |= {
        name: _is_same(body.get(named.get(name, name)), getattr(request, name)) for name in plain
    }
    missing = [name for name in met if getattr(request, name) is not None and not met[name]]
    for name, value in (*request.extra.items(), *request.native.items()):
        is_asked = value is not False and value not in ("", -1)
        if is_asked and not _is_same(body.get(name), value):
            missing.append(name)
    return missing + _lost_media(request, taken)


def _lost_media(request: VideoRequest, taken: Taken) -> list[str]:
    option = orjson.OPT_PASSTHROUGH_DATACLASS
    text = orjson.dumps(taken.body.fields, lambda upload: upload.sha256, option).decode()
    missing = []
    for item in request.media:
        if item.blob is None:
            mark = item.url or ""
            if mark not in text and FETCHED.sha256 in text:
                continue  # a server of the operator's own gets the file that stands there
        else:
            data = b"".join(item.blob.chunks())
            mark = base64.b64encode(data).decode() if not taken.body.is_form else item.blob.sha256
        if mark not in text.replace('\\"', '"'):
            missing.append(item.param)
    return missing


def _lines(draft: Draft, rendered: Rendered) -> int | None:
    """The nominal resolution: what the provider calls 720p may have 704 lines."""
    req_key = draft.handle.get("req_key", "")
    if req_key:
        if "vgfm" in req_key:
            return None
        return 1080 if "1080" in req_key or "pro" in req_key else 720
    if draft.fields.get("model_name") == "kling-v2-master":
        return 720
    if rendered.mode is not None:
        return {"std": 720, "pro": 1080}[rendered.mode]
    return min(rendered.size) if rendered.size else None


def _picture_size(
    request: VideoRequest, rendered: Rendered, lines: int | None
) -> tuple[int, int] | None:
    """The picture gives the shape: the size is met where its short side is."""
    has_lines = request.size is not None and min(request.size) == lines
    return request.size if request.media and rendered.size is None and has_lines else None


def _has_shape(rendered: Rendered, aspect_ratio: str | None) -> bool:
    if rendered.size is None or aspect_ratio is None:
        return False
    width, _, height = aspect_ratio.partition(":")
    factor = Fraction(*rendered.size) / Fraction(int(width), int(height))
    return Fraction(20, 21) <= factor <= Fraction(21, 20)


def _asked_lines(resolution: str) -> int:
    return {"4k": 2160}.get(resolution.lower()) or int(resolution[:-1])


def _is_same(given: object, asked: object) -> bool:
    """A form has only text, and objects may go as JSON text."""
    if given == asked or asked is None:
        return True
    if isinstance(given, list | dict) and type(given) is type(asked):
        return _text(given) == _text(asked)
    if isinstance(given, str):
        text = {True: "true", False: "false"}.get(asked) if isinstance(asked, bool) else None
        return given in (text or str(asked), orjson.dumps(asked).decode())
    if isinstance(asked, str):  # a form's number, to a server that reads JSON
        return isinstance(given, int | float) and _is_same(asked, given)
    return False


def _text(value: object) -> object:
    if isinstance(value, dict):
        return {name: _text(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_text(inner) for inner in value]
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# ---------------------------------------------------------------- requests

MANY = settings(max_examples=120, deadline=None, derandomize=True)


@MANY
@given(SENT)
def test_every_field_of_a_client_is_read(sent: Sent) -> None:
    """Leaving a field out is another request, or none at all."""
    whole = sent.request()
    for name in sent.body:
        try:
            assert sent.without(name).request() != whole, name
        except Invalid:
            continue


@MANY
@given(SENT, PLACE)
def test_a_refusal_names_a_field_the_client_sent_or_left_out(sent: Sent, place: Place) -> None:
    refused = refusal(sent, place)
    if refused is None:
        return
    assert refused.status == 400
    assert refused.param is not None
    absent = {"input_reference", "image", "image_urls"}  # for a model that needs a picture
    named = refused.param.partition(".")[0]
    assert named in sent.body.keys() | sent.body.get("metadata", {}).keys() | absent
    assert f"'{refused.param}'" in refused.message


def refusal(sent: Sent, place: Place) -> Invalid | None:
    request = sent.request()
    try:
        place.draft(request)
    except Invalid as error:
        return error
    return None


@MANY
@given(SENT, PLACE)
def test_a_draft_is_what_the_provider_takes(witness: Witness, sent: Sent, place: Place) -> None:
    """No request passes our checks and then costs the client a refusal from afar."""
    try:
        draft = place.draft(sent.request())
    except Invalid:
        return
    outbound = place.seal(draft)
    assert outbound.length == sum(map(len, body_writer.encoded(outbound.pieces)))
    taken = witness.take(place.upstream.provider, outbound)
    assert taken.body.problem is None
    assert taken.status == 200, taken.answer
    outcome = place.provider.outcome(200, CIMultiDict(), orjson.dumps(taken.answer), place.upstream)
    assert isinstance(outcome, Accepted)


@MANY
@given(SENT, PLACE)
def test_what_is_rendered_is_what_the_provider_reads(
    witness: Witness, sent: Sent, place: Place
) -> None:
    try:
        draft = place.draft(sent.request())
    except Invalid:
        return
    rendered = place.provider.rendered(draft, place.upstream)
    made = witness.take(place.upstream.provider, place.seal(draft)).request
    match place.upstream.provider:
        case "openai":
            if "seconds" in draft.fields or "seconds" in draft.handle:
                assert rendered.seconds == float(made["seconds"])
            if "size" in draft.fields or "size" in draft.handle:
                assert rendered.size is not None
                assert "{}x{}".format(*rendered.size) == made["size"]
        case "kling":
            assert rendered.seconds == float(made["duration"])
            assert rendered.mode == made["mode"]
            assert rendered.audio == (made.get("sound") == "on")
            if made["aspect_ratio"] is None:
                assert rendered.size is None
            else:
                assert _has_shape(rendered, made["aspect_ratio"])
        case _:
            assert rendered.seconds == (made.get("frames", 121) - 1) / 24
            if rendered.size is not None:
                assert _has_shape(rendered, made.get("aspect_ratio", "16:9"))


@MANY
@given(SENT, PLACE)
def test_nothing_is_lost_silently(witness: Witness, sent: Sent, place: Place) -> None:
    """A wish is met to the letter, or told in reelway-adjusted or reelway-dropped; what is told
    was not met. (A mode may be met by the way: a size has as many lines.)"""
    request = sent.request()
    try:
        draft = place.draft(request)
    except Invalid:
        return
    taken = witness.take(place.upstream.provider, place.seal(draft))
    rendered = place.provider.rendered(draft, place.upstream)
    told = [adjustment.field for adjustment in draft.adjusted] + list(draft.dropped)
    wishes = unmet(request, draft, rendered, taken)
    assert set(wishes) <= set(told), "lost"
    assert set(told) <= {*wishes, "mode"}, "told for nothing"
    assert len(told) == len(set(told)), "told twice"
    assert all(a.asked != a.given for a in draft.adjusted)


@MANY
@given(SENT, PLACE)
def test_an_exact_route_takes_only_what_it_renders_to_the_letter(sent: Sent, place: Place) -> None:
    try:
        draft = place.draft(sent.request())
    except Invalid:
        return
    exact = replace(PLAIN, fit="exact")
    if draft.adjusted or draft.dropped:
        with pytest.raises(Invalid):
            enforce_fit(draft, exact)
    else:
        enforce_fit(draft, exact)


@MANY
@given(KLING, st.sampled_from([p for p in PLACES if p.upstream.provider == "kling"]))
def test_a_kling_clients_own_fields_survive_on_kling(sent: Sent, place: Place) -> None:
    """Those nobody has heard of included, to the last null."""
    request = sent.request()
    try:
        body = orjson.loads(b"".join(body_writer.encoded(place.seal(place.draft(request)).pieces)))
    except Invalid:
        return
    for name, value in request.native.items():
        assert body[name] == value
    assert body["external_task_id"] == TASK_ID
    assert "callback_url" not in body


# ---------------------------------------------------------------- tasks

VIDEO_KEYS = {
    "id": str,
    "object": str,
    "model": str,
    "status": str,
    "progress": int,
    "created_at": int,
    "size": str,
    "seconds": str,
}
NULLABLE = {"completed_at", "expires_at", "prompt", "remixed_from_video_id", "error"}
STATES = (
    TaskState(Status.QUEUED),
    TaskState(Status.IN_PROGRESS, 40),
    TaskState(
        Status.COMPLETED,
        100,
        (Result("https://cdn.example/x.mp4"), Result("https://cdn.example/y.mp4", "y", 5.1)),
    ),
    TaskState(Status.FAILED, error=TaskError("moderation_blocked", "No.", "50516")),
    TaskState(Status.FAILED),
    TaskState(Status.FAILED, error=TaskError("expired", "Gone.", "not_found")),
)


def task_of(sent: Sent, place: Place, draft: Draft, state: TaskState) -> Task:
    request = sent.request()
    reserved = Task(
        id=TASK_ID,
        owner="o",
        token_id="t",
        dialect=request.dialect,
        operation=request.operation,
        kind=request.kind,
        model=request.model,
        created_ms=NOW * 1000,
        updated_ms=NOW * 1000,
        prompt=request.prompt,
        request=remembered(request),
        external_id=request.external_id,
    )
    upstream = place.upstream
    key = upstream.credentials[0]
    rendered = place.provider.rendered(draft, place.upstream)
    sent_task = lifecycle.sent(reserved, NOW * 1000, upstream, key, place.model, draft, rendered)
    task = lifecycle.bound(sent_task, Accepted("up-1"), NOW * 1000)
    return lifecycle.advanced(task, state, (NOW + 60) * 1000) or task


def seen(task: Task) -> View:
    links = (LINK, LINK + "2") if task.status is Status.COMPLETED else ()
    return View(task, links, LINK if links else "")


def check_video(video: Mapping[str, Any], task: Task) -> None:
    assert video.keys() >= VIDEO_KEYS.keys() | NULLABLE
    for name, kind in VIDEO_KEYS.items():
        assert type(video[name]) is kind, name
    assert video["status"] == task.status.value
    assert (video["error"] is None) == (task.status is not Status.FAILED)
    float(video["seconds"])


def check_openai(document: dict[str, Any], reply: Reply, task: Task) -> None:
    assert reply.status == 200
    check_video(document, task)


def check_generic(document: dict[str, Any], reply: Reply, task: Task) -> None:
    assert reply.status == 200
    check_video(document, task)
    assert document["task_id"] == task.id
    assert document["code"] == "success"
    assert document["data"]["status"] in ("QUEUED", "IN_PROGRESS", "SUCCESS", "FAILURE")
    assert document["url"] == (LINK if task.status is Status.COMPLETED else "")
    assert document["metadata"].keys() == {"duration", "fps", "width", "height", "seed"}


def check_kling(document: dict[str, Any], reply: Reply, task: Task) -> None:
    assert (reply.status, document["code"]) == (200, 0)
    data = document["data"]
    assert data["task_id"] == document["task_id"] == task.id
    assert data["task_status"] in ("submitted", "processing", "succeed", "failed")
    assert type(data["created_at"]) is type(data["updated_at"]) is int
    if task.status is Status.COMPLETED:
        videos = data["task_result"]["videos"]
        assert [video["url"] for video in videos] == [LINK, LINK + "2"]
        assert all(isinstance(video["id"], str) for video in videos)


def check_jimeng(document: dict[str, Any], reply: Reply, task: Task) -> None:
    assert document.keys() >= {"code", "data", "message", "request_id", "status", "time_elapsed"}
    if task.error is not None and task.error.code == "expired":
        assert (reply.status, document["data"]) == (200, {"status": "not_found"})
        return
    if task.status is Status.FAILED:
        assert (reply.status, document["data"]) == (400, None)
        assert document["code"] != 10000
        return
    assert (reply.status, document["code"]) == (200, 10000)
    assert document["data"]["status"] in ("in_queue", "generating", "done")
    if task.status is Status.COMPLETED:
        assert document["data"]["video_url"] == LINK


CHECKS = {
    "openai": check_openai,
    "generic": check_generic,
    "kling": check_kling,
    "jimeng": check_jimeng,
}


@MANY
@given(SENT, PLACE, st.sampled_from(STATES))
def test_a_task_is_told_in_every_dialect(sent: Sent, place: Place, state: TaskState) -> None:
    """Whoever made it and whoever renders it, each reader finds its own required keys."""
    try:
        draft = place.draft(sent.request())
    except Invalid:
        return
    task = task_of(sent, place, draft, state)
    assert task.stage in (Stage(state.status.value), Stage.BOUND)
    for name, dialect in DIALECTS.items():
        reply = dialect.task(seen(task), "req-1")
        document = orjson.loads(reply.body)
        CHECKS[name](document, reply, task)
        assert ("reelway-adjusted" in reply.headers) == bool(task.adjusted)
        assert ("reelway-dropped" in reply.headers) == bool(task.dropped)
        for value in reply.headers.values():
            assert value.isascii()
            assert value.isprintable()
        created = dialect.created(seen(replace(task, stage=Stage.BOUND)), "req-1")
        assert created.status == 200
        assert TASK_ID.encode() in created.body


@MANY
@given(SENT, PLACE)
def test_a_video_is_told_as_it_is_rendered_not_as_it_was_asked(sent: Sent, place: Place) -> None:
    try:
        draft = place.draft(sent.request())
    except Invalid:
        return
    task = task_of(sent, place, draft, STATES[2])
    rendered = place.provider.rendered(draft, place.upstream)
    video = orjson.loads(DIALECTS["openai"].task(seen(task), "req-1").body)
    adjusted = {adjustment.field for adjustment in draft.adjusted}
    if rendered.size is not None:
        assert video["size"] == "{}x{}".format(*rendered.size)
    elif adjusted & {"size"}:
        assert video["size"] == "auto"
    if rendered.seconds is not None:
        assert float(video["seconds"]) == rendered.seconds


@given(st.lists(st.tuples(SENT, PLACE), max_size=3))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_a_listing_holds_tasks_of_every_making(made: Sequence[tuple[Sent, Place]]) -> None:
    views = []
    for sent, place in made:
        try:
            draft = place.draft(sent.request())
        except Invalid:
            continue
        views.append(seen(task_of(sent, place, draft, STATES[2])))
    page = PageRequest(20)
    listed = orjson.loads(DIALECTS["openai"].listing(page, views, False, "req-1").body)
    for video, view in zip(listed["data"], views, strict=True):
        check_video(video, view.task)
    envelope = orjson.loads(DIALECTS["kling"].listing(page, views, False, "req-1").body)
    assert [data["task_id"] for data in envelope["data"]] == [TASK_ID for _ in views]
