"""Any dialect's request on any provider, and the task it becomes, told in any dialect."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict

from proxy import lifecycle
from proxy.dialects import DIALECTS
from proxy.dialects.answers import remembered
from proxy.dialects.base import View
from proxy.dialects.fields import Fields
from proxy.dialects.media import MemoryBlob
from proxy.errors import Invalid, UnsupportedOperation
from proxy.http.multipart import FormLimits, FormParser, json_fields
from proxy.model import (
    Accepted,
    Call,
    Credential,
    DialectName,
    Draft,
    Json,
    Media,
    Operation,
    Outbound,
    PageRequest,
    Rendered,
    Reply,
    Result,
    Route,
    Status,
    Task,
    TaskError,
    TaskState,
    Upstream,
    VideoRequest,
)
from proxy.providers import PROVIDERS, serial
from proxy.providers.base import Provider
from proxy.providers.parts import multipart_pieces
from proxy.rewrite import enforce_fit
from proxy.routing import EndpointTable
from proxy.sim.body import Body, Upload, read_body
from proxy.sim.faults import Plan
from proxy.sim.jimeng import Jimeng
from proxy.sim.kling import Kling
from proxy.sim.links import Links
from proxy.sim.log import Log
from proxy.sim.openai import OpenAI
from proxy.sim.pattern import Assets
from proxy.sim.reply import Refusal
from proxy.sim.service import Call as SimCall
from proxy.sim.service import Service
from proxy.sim.settings import Account, Settings
from proxy.sim.tasks import Tasks
from proxy.spool import Spool

NOW = 1767225600
TASK_ID = "video_00" + 46 * "a"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG64 = base64.b64encode(PNG).decode()
JPG = b"\xff\xd8\xff\xe0\x00\x10JFIF"
JPG64 = base64.b64encode(JPG).decode()
URL = "https://pics.example/cat.png?x=1&y=%2F"
ACCOUNT = Account()

# ---------------------------------------------------------------- what clients send

TEXT = st.sampled_from(["A calico cat", "千军万马\nline two", 'quo"te\\ {hex} <b>', "--boundary"])
SECONDS = st.sampled_from([1, 4, 5, 7.5, 8, 10, 12, 20])
SIZES = ("720x1280", "1280x720", "1024x1792", "1920x1080", "640x640", "848x480", "3840x2160")
RATIOS = st.sampled_from(["16:9", "9:16", "1:1", "4:3", "21:9", "9:21", "2:1"])
PICTURES = st.sampled_from([URL, PNG64, f"data:image/jpeg;base64,{JPG64}"])
JSON: st.SearchStrategy[Json] = st.sampled_from([0, 1.5, "x", True, False, [1, "y"], {"k": [None]}])

# Fields beside a dialect's own that its clients are known to send.
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
    "brand_new": JSON,
}


def some(
    required: Mapping[str, st.SearchStrategy[Any]], optional: Mapping[str, st.SearchStrategy[Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    """Few of the optional fields at a time: each alone is the likeliest to be forgotten."""
    names = st.lists(st.sampled_from(sorted(optional)), unique=True, max_size=5)
    return names.flatmap(
        lambda found: st.fixed_dictionaries({**required, **{n: optional[n] for n in found}})
    )


def spread(body: dict[str, Any]) -> dict[str, Any]:
    """`wh` stands for width and height, which only go together; some of the extended
    parameters move into `metadata`."""
    body = dict(body)
    if "wh" in body:
        width, height = body.pop("wh").split("x")
        body |= {"width": int(width), "height": int(height)}
    moved = body.pop("moved", [])
    inner = {name: body.pop(name) for name in moved if name in body}
    return body | ({"metadata": inner} if inner else {})


MOVED = st.just(["negative_prompt", "style", "quality_level", "mode", "brand_new"])
OPENAI = some(
    {"prompt": TEXT, "model": st.just("m")},
    {
        **COMMON,
        "seconds": SECONDS.map(str),
        "size": st.sampled_from(SIZES),
        "input_reference": st.one_of(
            PICTURES, PICTURES.map(lambda p: {"image_url": p}) if PICTURES else PICTURES
        ),
        "num_inference_steps": st.just(30),
        "moved": MOVED,
    },
).map(spread)
GENERIC = some(
    {"prompt": TEXT, "model": st.just("m")},
    {
        **COMMON,
        "duration": SECONDS,
        "wh": st.sampled_from(SIZES),
        "image": PICTURES,
        "moved": MOVED,
    },
).map(spread)
_VENDOR: dict[str, st.SearchStrategy[Any]] = {
    "cfg_scale": st.sampled_from([0, 0.5, 1]),
    "watermark_info": st.booleans().map(lambda on: {"enabled": on}),
    "camera_control": st.just({"type": "down_back"}),
    "brand_new": JSON,
    "another": JSON,
}
KLING = some(
    {"prompt": TEXT, "model_name": st.just("m")},
    {
        **_VENDOR,
        "negative_prompt": TEXT,
        "duration": SECONDS.map(str),
        "mode": st.sampled_from(["std", "pro"]),
        "sound": st.sampled_from(["on", "off"]),
        "aspect_ratio": st.sampled_from(["16:9", "9:16", "1:1"]),
        "image": PICTURES,
        "image_tail": PICTURES,
        "external_task_id": st.just("mine-1"),
        "callback_url": st.just("https://client.example/hook"),
        "wh": st.sampled_from(SIZES),
        "fps": st.just(30),
        "seed": st.just(7),
        "user": st.just("u-1"),
        "response_format": st.just("url"),
        "style": st.just("anime"),
        "quality_level": st.just("high"),
        "moved": st.just(["style", "quality_level", "another"]),
    },
).map(lambda body: spread(body | {"moved": ["style", "quality_level", *body.get("moved", [])]}))
JIMENG = some(
    {"prompt": TEXT, "req_key": st.just("m")},
    {
        "seed": st.sampled_from([-1, 0, 7]),
        "frames": st.sampled_from([49, 121, 193, 241, 337]),
        "aspect_ratio": RATIOS,
        "image_urls": st.sampled_from([[URL], [URL, URL + "2"]]),
        "binary_data_base64": st.sampled_from([[PNG64], [PNG64, JPG64]]),
        "template_id": st.just("crane_push"),
        "camera_strength": st.just("weak"),
        "brand_new": JSON,
    },
).filter(lambda body: not {"image_urls", "binary_data_base64"} <= body.keys())

TARGETS: dict[DialectName, str] = {
    "openai": "/v1/videos",
    "generic": "/v1/video/generations",
    "kling": "/kling/v1/videos/text2video",
    "jimeng": "/jimeng/?Action=CVSync2AsyncSubmitTask&Version=2022-08-31",
}
TABLE = EndpointTable(DIALECTS)


@dataclass(frozen=True)
class Sent:
    """What a client of `dialect` sends; its bytes are JSON, or a form where files can be."""

    dialect: DialectName
    body: dict[str, Any]
    is_form: bool = False

    @property
    def call(self) -> Call:
        path, _, query = TARGETS[self.dialect].partition("?")
        pairs = dict(pair.split("=") for pair in query.split("&")) if query else {}
        return TABLE.match("POST", path, pairs)

    def request(self) -> VideoRequest:
        return DIALECTS[self.dialect].submission(self.call, Fields(self.fields()), "m")

    def fields(self) -> dict[str, object]:
        if not self.is_form:
            return json_fields(orjson.dumps(self.body))
        body = dict(self.body)
        if body.get("input_reference") == PNG64:
            body["input_reference"] = MemoryBlob(PNG, "image/png", "cat.png")
        parser = FormParser("multipart/form-data; boundary=b0", FormLimits(), SPOOL.batch().open)
        parser.feed(b"".join(serial.encoded(multipart_pieces(body, "b0"))))
        return parser.finish()

    def without(self, name: str) -> Sent:
        return replace(self, body={k: v for k, v in self.body.items() if k != name})


def _forms(body: dict[str, Any]) -> st.SearchStrategy[Sent]:
    """An object that holds null or an empty list is nothing a form can say."""
    can = "brand_new" not in body and "metadata" not in body
    return st.sampled_from([False, True] if can else [False]).map(
        lambda is_form: Sent("openai", body, is_form)
    )


SENT = st.one_of(
    OPENAI.flatmap(_forms),
    GENERIC.map(lambda body: Sent("generic", body)),
    KLING.map(lambda body: Sent("kling", body)),
    JIMENG.map(lambda body: Sent("jimeng", body)),
)

# ---------------------------------------------------------------- where it goes


@dataclass(frozen=True)
class Place:
    upstream: Upstream
    model: str

    @property
    def provider(self) -> Provider:
        return PROVIDERS[self.upstream.provider]

    def draft(self, request: VideoRequest) -> Draft:
        return self.provider.draft(request, TASK_ID, self.upstream, self.model, None)

    def seal(self, draft: Draft) -> Outbound:
        return self.provider.seal(draft, self.upstream, self.upstream.credentials[0], NOW)


def place(provider: str, model: str, credential: dict[str, str], **options: Any) -> Place:
    base_url = "http://127.0.0.1:9000" + ("/v1" if provider == "openai" else "")
    upstream = Upstream(
        "u",
        provider,
        base_url,
        (Credential("k", **credential),),
        options=PROVIDERS[provider].options(**options),
    )
    return Place(upstream, model)


_OPENAI_KEY = {"api_key": ACCOUNT.openai_api_key}
_KLING_KEY = {
    "access_key": ACCOUNT.kling_access_key,
    "secret_key": ACCOUNT.kling_secret_key,
}
_JIMENG_KEY = {
    "access_key": ACCOUNT.jimeng_access_key,
    "secret_key": ACCOUNT.jimeng_secret_key,
}
SORA_SECONDS = (4, 8, 12)
SORA_SIZES = ("720x1280", "1280x720", "1024x1792", "1792x1024")
PLACES = [
    place("openai", "sora-2", _OPENAI_KEY, seconds=SORA_SECONDS, sizes=SORA_SIZES),
    place("openai", "wan2.2-t2v", _OPENAI_KEY),
    place("openai", "wan2.2-t2v", _OPENAI_KEY, server="vllm-omni"),
    place("openai", "wan2.2-t2v", _OPENAI_KEY, server="sglang"),
    *(
        place("kling", model, _KLING_KEY)
        for model in ("kling-v1-6", "kling-v2-master", "kling-v2-1", "kling-v2-6", "kling-v3")
    ),
    *(
        place("jimeng", model, _JIMENG_KEY)
        for model in (
            "jimeng_t2v_v30",
            "jimeng_t2v_v30_1080p",
            "jimeng_ti2v_v30_pro",
            "jimeng_i2v_recamera_v30",
            "jimeng_vgfm_t2v_l20",
        )
    ),
]
PLACE = st.sampled_from(PLACES)

# ---------------------------------------------------------------- the witness

SPOOL = Spool(__import__("pathlib").Path("/nonexistent"))
