"""The catalogue of models: built-in rows, the operator's, and what a route is listed with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.errors import Invalid, UnsupportedOperation
from proxy.http.outbound import Draft
from proxy.model import Credential, Media, Operation, Role, Route, Upstream, VideoRequest
from proxy.providers import PROVIDERS, globs
from proxy.providers.catalogue.listing import video_of
from proxy.providers.catalogue.row import ModelRow
from proxy.providers.openai import OpenAIOptions
from proxy.tasks.models import served_by, video_member

KEY = Credential("a", api_key="x", access_key="y", secret_key="z")
ROWS = [row for provider in PROVIDERS.values() for row in provider.rows]
EACH = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.provider} {row.model}")


def upstream(provider: str, *told: dict[str, Any], **options: Any) -> Upstream:
    rows = tuple(ModelRow.model_validate({"provider": provider, **row}) for row in told)
    chosen = OpenAIOptions.model_validate(options) if options else None
    return Upstream(provider, provider, "http://u.example", (KEY,), options=chosen, models=rows)


def drafted(at: Upstream, model: str, **asked: Any) -> Draft:
    request = VideoRequest(Operation.CREATE, "openai", "m", **{"prompt": "A cat", **asked})
    return PROVIDERS[at.provider].draft(request, "task-1", at, model, None)


# ---------------------------------------------------------------- built-in rows


@EACH
def test_every_row_says_where_its_facts_are_from(row: ModelRow) -> None:
    assert row.source
    assert row.read_on is not None


@EACH
def test_a_default_is_among_what_is_accepted(row: ModelRow) -> None:
    for value, accepted in (
        (row.default_seconds, row.seconds),
        (row.default_size, row.sizes),
        (row.default_ratio, row.ratios),
    ):
        assert value is None or accepted is None or value in accepted


def test_no_model_has_two_rows_and_no_row_stands_with_another_provider() -> None:
    for name, provider in PROVIDERS.items():
        names = [name for row in provider.rows for name in row.names]
        assert len(names) == len(set(names))
        assert {row.provider for row in provider.rows} == {name}


def test_a_row_that_is_a_glob_comes_after_the_models_it_would_take() -> None:
    for provider in PROVIDERS.values():
        literal = [globs.is_literal(row.model) for row in provider.rows]
        assert literal == sorted(literal, reverse=True)


# ---------------------------------------------------------------- the operator's rows


@pytest.mark.parametrize(
    ("row", "model", "asked", "fields"),
    [
        ({"model": "kling-v9", "seconds": [5, 20]}, "kling-v9", {"seconds": 6}, {"duration": "20"}),
        ({"model": "kling-v9*", "seconds": [30]}, "kling-v9-max", {"seconds": 6},
         {"duration": "30"}),
        ({"model": "kling-v1", "audio": "option"}, "kling-v1", {"audio": True}, {"sound": "on"}),
        ({"model": "kling-v1", "modes": {"pro": "1080p", "4k": "2160p"}}, "kling-v1",
         {"size": (3840, 2160)}, {"mode": "4k", "aspect_ratio": "16:9"}),
        ({"model": "kling-v1", "ratios": ["4:3"]}, "kling-v1", {"aspect_ratio": "1:1"},
         {"aspect_ratio": "4:3"}),
        # What the row does not say is as the built-in one has it.
        ({"model": "kling-v1", "audio": "option"}, "kling-v1", {"seconds": 6}, {"duration": "10"}),
    ],
)  # fmt: skip
def test_what_an_operator_says_of_a_kling_model_is_what_is_sent(
    row: dict[str, Any], model: str, asked: dict[str, Any], fields: dict[str, str]
) -> None:
    draft = drafted(upstream("kling", row), model, **asked)
    assert {name: draft.fields.get(name) for name in fields} == fields


def test_what_an_operator_says_of_a_jimeng_model_is_what_is_sent() -> None:
    row = {
        "model": "jimeng_v40",
        "with_first_frame": "jimeng_i2v_v40",
        "from_text": True,
        "seconds": [12],
        "sizes": ["1280x720"],
    }
    at = upstream("jimeng", row)
    draft = drafted(at, "jimeng_v40", seconds=3, aspect_ratio="16:9")
    assert (draft.handle["req_key"], draft.fields["frames"]) == ("jimeng_v40", 24 * 12 + 1)
    made = PROVIDERS["jimeng"].rendered(draft, at)
    assert (made.seconds, made.size) == (12, (1280, 720))
    picture = Media(Role.FIRST_FRAME, "image", url="https://pics.example/a.png")
    assert drafted(at, "jimeng_v40", media=(picture,)).handle["req_key"] == "jimeng_i2v_v40"


def test_what_an_operator_says_of_a_model_behind_an_openai_server_is_what_is_sent() -> None:
    row = {"model": "wan*", "seconds": [5, 10], "sizes": ["1280x720"], "audio": "never"}
    at = upstream("openai", row)
    draft = drafted(at, "wan2.2", seconds=6, size=(640, 360))
    assert (draft.fields["seconds"], draft.fields["size"]) == ("10", "1280x720")
    with pytest.raises(Invalid, match="without sound"):
        drafted(at, "wan2.2", audio=True)
    assert drafted(at, "other", seconds=6).fields["seconds"] == "6"


def test_an_upstreams_own_options_come_before_a_row() -> None:
    at = upstream("openai", {"model": "*", "seconds": [5, 10]}, seconds=[4, 8])
    assert drafted(at, "m", seconds=6).fields["seconds"] == "8"


def test_a_built_in_row_of_an_openai_model_informs_and_fits_nothing() -> None:
    """Whatever stands behind /v1/videos may call itself sora-2."""
    draft = drafted(upstream("openai"), "sora-2", seconds=5, size=(640, 360))
    assert (draft.fields["seconds"], draft.fields["size"], draft.adjusted) == ("5", "640x360", ())


@pytest.mark.parametrize("provider", ["kling", "openai"])
def test_a_frame_that_a_model_is_known_not_to_take_is_refused(provider: str) -> None:
    at = upstream(provider, {"model": "m", "inputs": {}})
    picture = Media(Role.FIRST_FRAME, "image", url="https://pics.example/a.png")
    with pytest.raises(Invalid, match="takes no first frame"):
        drafted(at, "m", media=(picture,))


def test_a_submit_that_a_model_is_known_not_to_do_is_refused() -> None:
    at = upstream("openai", {"model": "m", "operations": ["remix"]})
    with pytest.raises(UnsupportedOperation, match="it can: remix"):
        drafted(at, "m")


def test_a_longer_prompt_than_a_model_takes_is_refused() -> None:
    at = upstream("openai", {"model": "m", "prompt_chars": 3})
    with pytest.raises(Invalid, match="at most 3"):
        drafted(at, "m")


def test_the_row_that_names_a_model_comes_before_a_glob() -> None:
    rows = ({"model": "kling-*", "seconds": [9]}, {"model": "kling-v1", "seconds": [7]})
    at = upstream("kling", *rows)
    assert PROVIDERS["kling"].row(at, "kling-v1").seconds == (7,)
    assert PROVIDERS["kling"].row(at, "kling-v2").seconds == (9,)


@pytest.mark.parametrize(
    "fault",
    [
        {"seconds": []},
        {"seconds": [0]},
        {"seconds": ["5"]},
        {"sizes": ["large"]},
        {"ratios": ["wide"]},
        {"resolutions": ["HD"]},
        {"operations": ["get"]},
        {"audio": "yes"},
        {"inputs": {"poster": 1}},
        {"price": {"per_second": "0.10"}},
        {"speed": 1},
        {"model": " x"},
    ],
)
def test_a_row_takes_only_what_it_can_mean(fault: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelRow.model_validate({"provider": "kling", "model": "m", **fault})


# ---------------------------------------------------------------- what is listed


def test_a_listed_model_says_what_a_request_may_ask_for() -> None:
    at = {"k": replace(upstream("kling"), name="k")}
    route = Route("sora-2", (("k", 1),), upstream_model="kling-v2-6")
    assert video_member(route, "sora-2", at, PROVIDERS) == {
        "operations": ["create"],
        "seconds": [5, 10],
        "max_seconds": 10,
        "default_seconds": 5,
        "sizes": None,
        "default_size": None,
        "ratios": ["16:9", "9:16", "1:1"],
        "resolutions": ["720p", "1080p"],
        "modes": ["std", "pro"],
        "audio": "option",
        "inputs": {"first_frame": 1, "last_frame": 1},
        "fps": None,
    }


def test_a_model_of_two_upstreams_is_listed_with_what_either_renders() -> None:
    at = {"k": upstream("kling"), "j": upstream("jimeng")}
    route = Route("m", (("k", 1), ("j", 1)))
    found = video_member(route, "kling-v1", at, PROVIDERS)
    assert found["seconds"] == [5, 10]
    assert found["ratios"] == ["16:9", "9:16", "1:1", "4:3", "3:4", "21:9"]
    assert found["sizes"] is None, "one of them says nothing of sizes"
    assert found["default_size"] is None
    assert found["audio"] == "never"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"server": "azure"}, {"seconds": [4, 8, 12], "default_seconds": 4, "audio": "always"}),
        ({"server": "openai", "seconds": [5]}, {"seconds": [5], "max_seconds": 5}),
        ({"server": "sglang"}, {"seconds": None, "max_seconds": 600, "audio": "never", "fps": 24}),
        ({"server": "vllm-omni"}, {"operations": ["create"], "audio": "option", "sizes": None}),
        ({"server": "reelway"}, {"operations": ["create", "remix", "edit", "extend"]}),
    ],
)
def test_a_model_behind_an_openai_server_is_listed_by_its_kind(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    at = {"u": upstream("openai", **options)}
    found = video_member(Route("sora-2", (("u", 1),)), "sora-2", at, PROVIDERS)
    assert {name: found[name] for name in expected} == expected


def test_what_nobody_knows_is_listed_as_null() -> None:
    found = video_of([ModelRow(provider="p", model="m")])
    assert found.pop("operations") == ["create"]
    assert set(found.values()) == {None}


def test_each_upstream_of_a_route_is_told_apart() -> None:
    at = {"a": replace(upstream("kling"), name="a"), "b": replace(upstream("jimeng"), name="b")}
    found = served_by(Route("m", (("a", 1), ("b", 0)), "kling-v1"), "m", at, PROVIDERS)
    assert [(one.upstream.name, one.upstream_model) for one in found] == [
        ("a", "kling-v1"),
        ("b", "kling-v1"),
    ]
