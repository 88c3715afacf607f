"""What is sent is what was priced: any client's body, hostile fields and all, on any provider.

The reader of the wire below knows the providers' documents, and nothing of our adapters.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import DIALECTS
from proxy.dialects.fields import Fields
from proxy.errors import ProxyError
from proxy.http.multipart import FormLimits, FormParser
from proxy.model import Call, Credential, DialectName, Operation, Outbound, Rendered, Upstream
from proxy.pricing import price_micro
from proxy.providers import PROVIDERS
from proxy.providers.openai import Options

KEYS = Credential("a", api_key="k", access_key="ak", secret_key="sk")
MODELS = {"openai": "cheap", "kling": "kling-v2-6", "jimeng": "jimeng_t2v_v30"}
UPSTREAMS = {
    "openai": Upstream("u", "openai", "https://a.example/v1", (KEYS,), options=Options()),
    "vllm-omni": Upstream(
        "u", "openai", "https://a.example/v1", (KEYS,), options=Options(server="vllm-omni")
    ),
    "sglang": Upstream(
        "u", "openai", "https://a.example/v1", (KEYS,), options=Options(server="sglang")
    ),
    "kling": Upstream("u", "kling", "https://a.example", (replace(KEYS, api_key=None),)),
    "jimeng": Upstream("u", "jimeng", "https://a.example", (replace(KEYS, api_key=None),)),
}
PRICE: dict[str, Any] = {
    "per_second": {"other": "0.01", "audio": "0.02", "pro": "0.03", "pro+audio": "0.05"}
}

# Everything somebody might hope to change the bill with.
NAMES = (
    *("model", "model_name", "req_key", "n", "num_outputs_per_prompt", "num_videos", "batch_size"),
    *("seconds", "duration", "frames", "num_frames", "fps", "video_length", "size", "mode"),
    *("sound", "audio", "generate_audio", "generate_sound", "extra_body", "extra_params"),
    *("diffusers_kwargs", "samples"),
)
VALUES = st.sampled_from(
    [
        *(1, 4, 5, 8, 10, 60, 97, 121, 241, 9999, "1", "5", "10", "60", "9999", "pro", "std"),
        *("on", "off", True, False, "dear", "kling-v2-master", "jimeng_ti2v_v30_pro", "1280x720"),
        *(None, {"seconds": 60}, '{"seconds": 60, "n": 4}', [4]),
    ]
)
BODIES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6)


def told(outbound: Outbound) -> dict[str, Any]:
    """The body as the upstream reads it."""
    body = b"".join(cast("bytes", piece) for piece in outbound.pieces)
    kind = outbound.headers["Content-Type"]
    if kind == "application/json":
        return cast("dict[str, Any]", orjson.loads(body))

    def no_files(*_: object) -> Any:
        raise AssertionError("a file in it")

    parser = FormParser(kind, FormLimits(100, 1 << 20, 1 << 20), no_files)
    parser.feed(body)
    return dict(parser.finish())


def billed(name: str, body: dict[str, Any]) -> tuple[str, Rendered]:
    """(model, what it renders) by the provider's own document."""
    if name == "kling":
        seconds = float(body.get("duration", 5))
        audio = body.get("sound", "off") == "on"
        mode = body.get("mode", "std")
        return body["model_name"], Rendered(seconds, (1, 1), audio=audio, mode=mode)
    if name == "jimeng":
        return body["req_key"], Rendered((body.get("frames", 121) - 1) / 24, (1, 1))
    seconds = float(body.get("seconds") or 4)
    if "num_frames" in body:
        seconds = float(body["num_frames"]) / float(body.get("fps") or 24)
    audio = name == "openai" or str(body.get("generate_sound", "false")).lower() == "true"
    return body["model"], Rendered(seconds, (1, 1), int(body.get("n") or 1), audio)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", UPSTREAMS)
@given(top=BODIES, nested=BODIES)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_what_goes_out_is_what_was_priced(
    name: str, dialect: DialectName, top: dict[str, Any], nested: dict[str, Any]
) -> None:
    upstream = UPSTREAMS[name]
    provider, model = PROVIDERS[upstream.provider], MODELS[upstream.provider]
    field = {"kling": "model_name", "jimeng": "req_key"}.get(dialect, "model")
    body = {**top, "prompt": "a cat", "seconds": top.get("seconds", 5), field: "asked"}
    if nested:
        body["metadata"] = nested
    call = Call(dialect, Operation.CREATE, {"kind": "text2video"}, {})
    try:
        request = DIALECTS[dialect].submission(call, Fields(body), "default")
        draft = provider.draft(request, "video_1", upstream, model, None)
        held = price_micro(PRICE, replace(provider.rendered(draft), size=(1, 1)))
    except ProxyError:
        return  # refused is not rendered
    sent = told(provider.seal(draft, upstream, upstream.credentials[0], 1_790_000_000))
    model_sent, rendered = billed(name, sent)
    assert model_sent == model
    assert price_micro(PRICE, rendered) == held, (sent, provider.rendered(draft))
    if upstream.provider != "openai":
        return  # a vendor's own clients may send it fields that nobody has heard of
    unread = {"extra_body", "extra_params", "diffusers_kwargs", "batch_size", "samples"}
    unread |= {"num_outputs_per_prompt", "num_videos", "video_length"}
    inner = sent.get("metadata") or {}
    inner = orjson.loads(inner) if isinstance(inner, str) else inner
    assert not unread & {*sent, *inner}
    assert not set(inner) & set(NAMES)
