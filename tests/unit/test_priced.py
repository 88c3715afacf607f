"""What is sent costs no more than what was held: any client's body, on any provider.

The reader of the wire below knows the providers' documents and nothing of our adapters. It is as
lenient as a server may be: it takes every name that reads like a length, a count or a switch,
whatever its case, hyphens and brackets, at any depth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialects import DIALECTS
from proxy.dialects.fields import Fields
from proxy.dialects.media import MemoryBlob
from proxy.errors import Invalid, ProxyError
from proxy.http import body_writer
from proxy.http.multipart import FormLimits, FormParser
from proxy.http.outbound import Outbound, Rendered, Terms
from proxy.model import Call, Credential, DialectName, Operation, Upstream
from proxy.providers import PROVIDERS
from proxy.providers.openai import SERVERS, OpenAIOptions
from proxy.tasks.fetch import remotes_in, with_files
from proxy.tasks.pricing import price_micro

KEYS = Credential("a", api_key="k", access_key="ak", secret_key="sk")
MODELS = {"openai": "cheap", "kling": "kling-v2-6", "jimeng": "jimeng_t2v_v30"}
UPSTREAMS = {
    server: Upstream(
        "u", "openai", "https://a.example/v1", (KEYS,), options=OpenAIOptions(server=server)
    )
    for server in SERVERS
} | {
    "json": Upstream(
        "u",
        "openai",
        "https://a.example/v1",
        (KEYS,),
        options=OpenAIOptions(body="json", seconds_as="integer"),
    ),
    "kling": Upstream("u", "kling", "https://a.example", (replace(KEYS, api_key=None),)),
    "jimeng": Upstream("u", "jimeng", "https://a.example", (replace(KEYS, api_key=None),)),
}
PRICE: dict[str, Any] = {
    "per_second": {"other": "0.01", "audio": "0.02", "pro": "0.03", "pro+audio": "0.05"}
}
FIELD: Mapping[DialectName, str] = {"kling": "model_name", "jimeng": "req_key"}

LENGTHS = ("seconds", "duration", "duration_seconds", "n_seconds", "video_length", "length")
FRAMES = ("frames", "num_frames", "n_frames", "frame_count")
COUNTS = ("n", "num_outputs", "num_outputs_per_prompt", "num_videos", "batch_size", "num_samples")
SOUNDS = ("sound", "audio", "generate_audio", "generate_sound")
NAMED = ("model", "model_name", "req_key")
WHOLE = ("extra_body", "extra_params", "diffusers_kwargs", "parameters", "multi_prompt")
OTHERS = (
    "fps",
    "size",
    "width",
    "height",
    "mode",
    "camera_control",
    "sound_duration",
    "short_edge",
)
NAMES = (*LENGTHS, *FRAMES, *COUNTS, *SOUNDS, *NAMED, *WHOLE, *OTHERS)


def spellings(name: str) -> list[str]:
    """The name as other programs write it."""
    words = name.split("_")
    camel = words[0] + "".join(word.title() for word in words[1:])
    return [
        *(name, name, name, name.upper(), name.title(), camel, name.replace("_", "-")),
        *(f"metadata[{name}]", f"metadata.{name}", f"{name}[]", f" {name}", "_" + name),
    ]


VALUES = st.sampled_from(
    [
        *(1, 4, 5, 8, 10, 60, 97, 121, 241, 480, 2400, 1e-9, 0.5, "1", "5", "10", "60", "9999"),
        *("pro", "std", "on", "off", True, False, "dear", "kling-v2-master", "1280x720"),
        *(None, {"seconds": 60}, '{"seconds": 60, "n": 4}', [4], [{"duration": "60"}]),
    ]
)
BODIES = st.dictionaries(
    st.one_of(
        st.sampled_from(NAMES),
        st.sampled_from([spelling for name in NAMES for spelling in spellings(name)]),
    ),
    VALUES,
    max_size=6,
)


def told(outbound: Outbound) -> dict[str, Any]:
    """The body as the upstream reads it."""
    body = b"".join(body_writer.encoded(outbound.pieces))
    kind = outbound.headers["Content-Type"]
    if kind == "application/json":
        return cast("dict[str, Any]", orjson.loads(body))

    def no_files(*_: object) -> Any:
        raise AssertionError("a file in it")

    parser = FormParser(kind, FormLimits(100, 1 << 20, 1 << 20), no_files)
    parser.feed(body)
    return dict(parser.finish())


def folded(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    """Every value with the folded name it stands under, and with that of the whole way to it."""
    if isinstance(value, str) and value[:1] in ("{", "["):
        value = orjson.loads(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            for part in re.split(r"[\[\].]+", str(key)):
                yield from leaves(inner, folded(part))
            yield from leaves(inner, folded(str(key)))
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, name)
    else:
        yield name, value


def numbers(found: list[tuple[str, object]], names: tuple[str, ...]) -> list[float]:
    wanted = {folded(name) for name in names}
    values = [value for name, value in found if name in wanted and not isinstance(value, bool)]
    return [float(str(v)) for v in values if re.fullmatch(r"[0-9.e+-]+", str(v))]


def billed(kind: str, body: dict[str, Any]) -> Rendered:
    """The most that a lenient server of this kind could render of it."""
    found = list(leaves(body))
    lengths = numbers(found, LENGTHS)
    frames = numbers(found, FRAMES)
    if kind == "jimeng":
        seconds = max([*lengths, *((count - 1) / 24 for count in frames or [121])])
    else:
        rate = max(numbers(found, ("fps",)), default=24.0)
        if not lengths and not frames:
            lengths = [5.0 if kind == "kling" else 4.0]
        # A faster video is more work: at least a thirtieth of a second a frame is paid.
        work = [length * rate / 30 for length in lengths]
        seconds = max([*lengths, *work, *(count / min(rate, 30) for count in frames)])
    words = {folded(name) for name in SOUNDS}
    switched = [str(v).lower() in ("true", "on", "1", "yes") for name, v in found if name in words]
    always = kind in ("openai", "azure", "litellm", "json") or (kind == "reelway" and not switched)
    modes = [str(value) for name, value in found if name == "mode"]
    count = max(numbers(found, COUNTS), default=1)
    mode = "pro" if "pro" in modes else (modes or ["std"])[0]
    return Rendered(seconds, (1, 1), max(1, round(count)), always or any(switched), mode)


def submitted(
    kind: str, dialect: DialectName, body: dict[str, Any], terms: Terms
) -> tuple[dict[str, Any], Rendered]:
    """(what the upstream reads, what was priced) of a client's body. Raises `ProxyError`."""
    upstream = UPSTREAMS[kind]
    provider, model = PROVIDERS[upstream.provider], MODELS[upstream.provider]
    call = Call(dialect, Operation.CREATE, {"kind": "text2video"}, {})
    request = DIALECTS[dialect].submission(call, Fields(body), "default")
    draft = provider.draft(request, "video_1", upstream, model, None, terms)
    rendered = provider.rendered(draft, upstream)
    price_micro(PRICE, rendered)
    files = dict.fromkeys(remotes_in(draft.fields), MemoryBlob(b"x"))
    draft = replace(draft, fields=with_files(draft.fields, files))
    sent = told(provider.seal(draft, upstream, upstream.credentials[0], 1_790_000_000))
    wanted = {folded(name) for name in NAMED}
    assert {value for name, value in leaves(sent) if name in wanted} == {model}
    return sent, rendered


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", UPSTREAMS)
@given(top=BODIES, nested=BODIES, passes=st.sampled_from([(), ("*",)]))
@settings(max_examples=50, deadline=None, derandomize=True)
def test_what_goes_out_costs_no_more_than_was_held(
    kind: str,
    dialect: DialectName,
    passes: tuple[str, ...],
    top: dict[str, Any],
    nested: dict[str, Any],
) -> None:
    body = {"seconds": 5, **top, "prompt": "a cat", FIELD.get(dialect, "model"): "asked"}
    if nested:
        body["metadata"] = nested
    try:
        sent, rendered = submitted(kind, dialect, body, Terms(passes, is_priced=True))
    except ProxyError:
        return  # refused is not rendered
    held = price_micro(PRICE, replace(rendered, size=(1, 1)))
    assert price_micro(PRICE, billed(kind, sent)) <= held, (sent, rendered)
    sizes = {str(value) for name, value in leaves(sent) if name in ("size", "width", "height")}
    if sizes:
        assert rendered.size is not None
        assert sizes == {f"{rendered.size[0]}x{rendered.size[1]}"}


ATTACKS: list[tuple[str, dict[str, Any]]] = [
    ("openai", {"seconds": "12", "num_frames": 1e-9}),
    ("openai", {"seconds": "3600", "num_frames": 0.001}),
    ("openai", {"seconds": "12", "frames": 1}),
    ("azure", {"seconds": "12", "num_frames": 1}),
    ("reelway", {"seconds": "4", "metadata[seconds]": "20"}),
    ("reelway", {"seconds": "4", "metadata": {"Seconds": "60"}}),
    ("litellm", {"seconds": "4", "Seconds": "12"}),
    ("litellm", {"seconds": "4", "extra_body": {"seconds": 60}}),
    ("json", {"seconds": "4", "N": 4}),
    ("vllm-omni", {"seconds": 1, "num_frames": 2400, "fps": 24}),
    ("vllm-omni", {"num_frames": 480, "fps": 480}),
    ("vllm-omni", {"seconds": 1, "fps": 120}),
    ("vllm-omni", {"seconds": 4, "num_outputs_per_prompt": 8}),
    ("vllm-omni", {"seconds": 4, "sound_duration": 600}),
    ("vllm-omni", {"seconds": 4, "extra_params": '{"num_frames": 2400}'}),
    ("sglang", {"seconds": 1, "num_frames": 2400, "fps": 24}),
    ("sglang", {"seconds": 1, "Num_Frames": 2400}),
    ("sglang", {"seconds": 4, "num_outputs_per_prompt": 8, "numOutputs": 8}),
    ("kling", {"duration": "5", "Duration": "10"}),
    ("kling", {"duration": "5", "Mode": "pro"}),
    ("kling", {"duration": "5", "Model_Name": "kling-v2-master"}),
    ("kling", {"duration": "5", "multi_prompt": [{"duration": "9"}, {"duration": "9"}]}),
    ("kling", {"duration": "5", "n_videos": 4, "N": 4}),
    ("jimeng", {"frames": 121, "Frames": 241}),
    ("jimeng", {"frames": 121, "num-frames": 241}),
    ("jimeng", {"frames": 121, "Req_Key": "jimeng_ti2v_v30_pro"}),
]


@pytest.mark.parametrize("terms", [Terms(is_priced=True), Terms(("*",), is_priced=True)])
@pytest.mark.parametrize(("kind", "attack"), ATTACKS)
def test_known_ways_to_pay_less_are_refused_or_paid(
    kind: str, attack: dict[str, Any], terms: Terms
) -> None:
    """In every dialect: each rendered more than it held, once."""
    for dialect in DIALECTS:
        body = {**attack, "prompt": "a cat", FIELD.get(dialect, "model"): "asked"}
        try:
            sent, rendered = submitted(kind, dialect, body, terms)
        except Invalid:
            continue
        held = price_micro(PRICE, replace(rendered, size=(1, 1)))
        assert price_micro(PRICE, billed(kind, sent)) <= held, (dialect, sent, rendered)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("kind", UPSTREAMS)
@pytest.mark.parametrize("is_priced", [True, False])
def test_another_address_or_model_never_goes_out_under_another_spelling(
    kind: str, dialect: DialectName, is_priced: bool
) -> None:
    for name in ("callback_url", "model_name", "req_key", "model", "webhook"):
        for spelling in spellings(name)[3:]:
            body = {spelling: "http://evil.example/x", "prompt": "a cat", "seconds": 5}
            body[FIELD.get(dialect, "model")] = "asked"
            try:
                sent, _ = submitted(kind, dialect, body, Terms(("*",), is_priced=is_priced))
            except ProxyError:
                continue
            assert "evil" not in repr(sent), (spelling, sent)
