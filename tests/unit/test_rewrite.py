from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

import pytest

from proxy.errors import Invalid
from proxy.http.outbound import Adjustment, Draft, DraftValue
from proxy.model import Json, Route
from proxy.tasks.rewrite import enforce_fit, rewrite

DEEP: dict[str, DraftValue] = {"x": 1}
INFO: dict[str, DraftValue] = {"enabled": True, "deep": DEEP}
FIELDS: dict[str, DraftValue] = {"prompt": "a cat", "seed": None, "mode": "std", "info": INFO}


def route(
    defaults: Mapping[str, Json] | None = None,
    overrides: Mapping[str, Json] | None = None,
    remove: tuple[str, ...] = (),
) -> Route:
    return Route("m", (("u", 1),), None, defaults or {}, overrides or {}, remove)


def rewritten(rules: Route) -> dict[str, DraftValue]:
    """What the rules change: name → new value, or "(gone)"."""
    before = deepcopy(FIELDS)
    draft = Draft("POST", "/videos", encoding="json", fields=FIELDS)
    after = rewrite(draft, rules).fields
    assert before == FIELDS, "the draft was changed in place"
    names = [*before, *(name for name in after if name not in before)]
    found = {name: after.get(name, "(gone)") for name in names}
    return {name: value for name, value in found.items() if value != before.get(name, "(new)")}


@pytest.mark.parametrize(
    ("rules", "changed"),
    [
        (route(defaults={"mode": "pro"}), {}),
        (route(defaults={"seed": 7}), {"seed": 7}),
        (route(defaults={"sound": "off"}), {"sound": "off"}),
        (route(defaults={"info": {"a": 1}}), {}),
        (route(defaults={"info.enabled": False}), {}),
        (route(defaults={"info.extra": 1}), {"info": {**INFO, "extra": 1}}),
        (route(defaults={"new.a.b": 1}), {"new": {"a": {"b": 1}}}),
        (route(defaults={"seed.a": 1}), {"seed": {"a": 1}}),
        (route(defaults={"mode.a": 1}), {}),  # the client's word is no object: it stands
        (route(overrides={"mode": "pro"}), {"mode": "pro"}),
        (route(overrides={"mode": None}), {"mode": None}),
        (route(overrides={"info": {"a": 1}}), {"info": {"a": 1}}),  # whole, not merged
        (route(overrides={"info.deep.x": 2}), {"info": {"enabled": True, "deep": {"x": 2}}}),
        (route(overrides={"mode.a": 1}), {"mode": {"a": 1}}),
        (route(remove=("mode",)), {"mode": "(gone)"}),
        (route(remove=("info.deep.x",)), {"info": {"enabled": True, "deep": {}}}),
        (route(remove=("absent", "mode.a", "info.absent", "prompt.a.b")), {}),
        (route({"a": 1}, {"a": 2, "b": 3}, ("b",)), {"a": 2}),
    ],
)
def test_defaults_fill_overrides_win_and_removals_come_last(
    rules: Route, changed: dict[str, DraftValue]
) -> None:
    assert rewritten(rules) == changed


def test_the_rest_of_the_draft_stays() -> None:
    draft = Draft(
        "POST",
        "/v",
        (("a", "b"),),
        {"X-A": "b"},
        "multipart",
        {"prompt": "p"},
        {"kind": "text2video"},
        (Adjustment("seconds", "8", "10"),),
        ("seed",),
    )
    after = rewrite(draft, route(overrides={"mode": "pro"}))
    assert after.fields == {"prompt": "p", "mode": "pro"}
    assert [
        (after.method, after.path, after.query, after.headers, after.encoding),
        (after.handle, after.adjusted, after.dropped),
    ] == [
        ("POST", "/v", (("a", "b"),), {"X-A": "b"}, "multipart"),
        ({"kind": "text2video"}, (Adjustment("seconds", "8", "10"),), ("seed",)),
    ]


def test_a_request_without_a_body_gets_none() -> None:
    poll = Draft("GET", "/videos/1")
    assert rewrite(poll, route(overrides={"mode": "pro"})) == poll


def test_one_request_cannot_change_what_the_route_gives_the_next() -> None:
    rules = route(overrides={"a": {"list": [1]}})
    first = rewrite(Draft("POST", "/", encoding="json"), rules)
    given = first.fields["a"]
    assert isinstance(given, dict)
    given["list"] = "spoiled"
    assert rewrite(Draft("POST", "/", encoding="json"), rules).fields == {"a": {"list": [1]}}


def fitted(fit: str, adjusted: tuple[Adjustment, ...], dropped: tuple[str, ...]) -> None:
    rules = Route("wan2.2", (("u", 1),), fit="exact" if fit == "exact" else "up")
    enforce_fit(Draft("POST", "/", adjusted=adjusted, dropped=dropped), rules)


@pytest.mark.parametrize(
    ("adjusted", "dropped", "param", "wishes"),
    [
        (
            (Adjustment("seconds", "8", "10"), Adjustment("size", "1x1", "2x2")),
            ("seed",),
            "seconds",
            "'seconds' 8 would become 10; 'size' 1x1 would become 2x2; 'seed' cannot be passed on.",
        ),
        (
            (),
            ("fps", "style"),
            "fps",
            "'fps' cannot be passed on; 'style' cannot be passed on.",
        ),
    ],
)
def test_an_exact_route_refuses_what_it_would_render_otherwise(
    adjusted: tuple[Adjustment, ...], dropped: tuple[str, ...], param: str, wishes: str
) -> None:
    with pytest.raises(Invalid) as caught:
        fitted("exact", adjusted, dropped)
    assert caught.value.param == param
    assert caught.value.message == (
        f"Model 'wan2.2' renders exactly what is asked or nothing: {wishes}"
    )
    fitted("up", adjusted, dropped)


def test_an_exact_route_takes_what_it_renders_as_asked() -> None:
    fitted("exact", (), ())
