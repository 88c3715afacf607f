"""What nobody carries is refused where leaving it out would make another video, and told else."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from proxy.dialects import DIALECTS
from proxy.dialects.fields import Fields
from proxy.errors import Invalid
from proxy.http.outbound import Draft
from proxy.model import Call, Credential, DialectName, Operation, Upstream
from proxy.providers import PROVIDERS
from proxy.providers.fitting import check_left_out

URL = "https://pics.example/cat.png"
DIALECT_NAMES: tuple[DialectName, ...] = ("openai", "generic", "kling", "jimeng")
PLACES = (("openai", "sora-2"), ("kling", "kling-v2-6"), ("jimeng", "jimeng_t2v_v30"))


def planned(dialect: DialectName, values: Mapping[str, object], name: str, model: str) -> Draft:
    params = {"kind": "text2video"} if dialect == "kling" else {}
    call = Call(dialect, Operation.CREATE, params, {})
    request = DIALECTS[dialect].submission(call, Fields({"prompt": "a cat", **values}), "m")
    provider = PROVIDERS[name]
    key = Credential("k", api_key="a", access_key="b", secret_key="c")
    upstream = Upstream("u", name, "https://u.example", (key,), options=provider.options())
    draft = provider.draft(request, "video_00" + 46 * "a", upstream, model, None)
    check_left_out(request, draft.dropped)
    return draft


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
@pytest.mark.parametrize(("name", "model"), PLACES)
@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"starting_frame_url": URL}, "starting_frame_url"),
        ({"input": {"img_url": URL}}, "input"),
        ({"extra_body": {"image": URL}}, "extra_body"),
        ({"extra_body": {"seconds": 12}}, "extra_body.seconds"),
        ({"parameters": {"size": "1280*720", "watermark": True}}, "parameters.size"),
        ({"extra_params": '{"num_frames": 500}'}, "extra_params.num_frames"),
        ({"metadata": {"duration_minutes": 1}}, "metadata.duration_minutes"),
        ({"metadata": {"extra_body": {"n": 2}}}, "metadata.extra_body.n"),
        ({"max_frames": 300}, "max_frames"),
        ({"n_variants": 2}, "n_variants"),
    ],
)
def test_what_decides_the_video_is_never_left_out(
    dialect: DialectName, name: str, model: str, values: Mapping[str, object], param: str
) -> None:
    with pytest.raises(Invalid) as caught:
        planned(dialect, values, name, model)
    assert (caught.value.param or "").startswith(param)


@pytest.mark.parametrize("name", ["duration_minutes", "max_duration", "video_runtime"])
@pytest.mark.parametrize("dialect", ["openai", "generic"])
def test_a_length_by_a_name_nobody_knows_is_refused(dialect: DialectName, name: str) -> None:
    for place in PLACES:
        with pytest.raises(Invalid, match=f"'{name}' is not taken here: send the length as"):
            planned(dialect, {name: "10"}, *place)


@pytest.mark.parametrize("dialect", DIALECT_NAMES)
@pytest.mark.parametrize(
    "values",
    [
        {"timeout_seconds": 30},
        {"sound_duration": 4},
        {"extra_body": {"seconds": None, "size": "auto", "n": 1}},
        {"max_frames": 0},
        {"cfg_scale": 0.5},
        {"input": "text"},
        {"extra_params": "{not json"},
    ],
)
def test_what_decides_no_video_is_left_out_and_told(
    dialect: DialectName, values: Mapping[str, object]
) -> None:
    planned(dialect, values, "openai", "sora-2")


@pytest.mark.parametrize(
    "name", ["clip_seconds", "duration_in_sec", "video_duration_seconds", "length_s"]
)
@pytest.mark.parametrize("dialect", DIALECT_NAMES)
def test_further_usual_names_of_the_length_are_read(dialect: DialectName, name: str) -> None:
    assert planned(dialect, {name: 8}, "openai", "sora-2").fields["seconds"] == "8"
