from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

import pytest

from proxy.cli.tables import columns, describe_routes, folded
from proxy.dialects import DIALECTS
from proxy.dialects.base import Dialect, Endpoint
from proxy.dialects.fields import Fields
from proxy.errors import EndpointNotFound, Invalid, MethodNotAllowed
from proxy.gateway.endpoints import EndpointTable
from proxy.model import Call, Credential, DialectName, Json, Operation, Principal, Route, Upstream
from proxy.tasks.routing import allowed_models, candidates, choose_route, listed_models, permits


@dataclass(frozen=True)
class FakeDialect:
    """As much of a dialect as the endpoint table looks at."""

    name: DialectName
    endpoints: tuple[Endpoint, ...]
    path_prefixes: tuple[str, ...] = ()


def table(*dialects: FakeDialect) -> EndpointTable:
    return EndpointTable(cast("dict[DialectName, Dialect]", {d.name: d for d in dialects}))


ACTION = "CVSync2AsyncSubmitTask"
RESULT = "CVSync2AsyncGetResult"
TABLE = table(
    FakeDialect(
        "openai",
        (
            Endpoint("POST", "/v1/videos", Operation.CREATE),
            Endpoint("GET", "/v1/videos", Operation.LIST),
            Endpoint("GET", "/v1/videos/{task_id}", Operation.GET),
            Endpoint("DELETE", "/v1/videos/{task_id}", Operation.DELETE),
            Endpoint("GET", "/v1/videos/{task_id}/content", Operation.CONTENT),
            Endpoint("HEAD", "/v1/videos/{task_id}/content", Operation.CONTENT),
            Endpoint("POST", "/v1/videos/edits", Operation.EDIT),
        ),
    ),
    FakeDialect(
        "kling",
        (
            Endpoint(
                "POST",
                "/v1/videos/text2video",
                Operation.CREATE,
                params=(("kind", "text2video"),),
            ),
            Endpoint(
                "GET",
                "/v1/videos/text2video/{id}",
                Operation.GET,
                params=(("kind", "text2video"),),
            ),
        ),
    ),
    FakeDialect(
        "jimeng",
        (
            Endpoint(
                "POST", "/jimeng/", Operation.CREATE, (("Action", ACTION), ("Version", "2022"))
            ),
            Endpoint("POST", "/jimeng/", Operation.GET, (("Action", RESULT), ("Version", "2023"))),
            Endpoint("POST", "/", Operation.CREATE, (("Action", ACTION), ("Version", "2022"))),
        ),
    ),
)


@pytest.mark.parametrize(
    ("method", "path", "query", "expected"),
    [
        ("POST", "/v1/videos", {}, Call("openai", Operation.CREATE, {}, {})),
        (
            "GET",
            "/v1/videos",
            {"limit": "2"},
            Call("openai", Operation.LIST, {}, {"limit": "2"}),
        ),
        ("GET", "/v1/videos/v1", {}, Call("openai", Operation.GET, {"task_id": "v1"}, {})),
        (
            "GET",
            "/v1/videos/a%2Fb%20%E5%8D%83",
            {},
            Call("openai", Operation.GET, {"task_id": "a/b 千"}, {}),
        ),
        ("GET", "/v1/%76ideos/a", {}, Call("openai", Operation.GET, {"task_id": "a"}, {})),
        ("GET", "/v1/videos/%zz", {}, Call("openai", Operation.GET, {"task_id": "%zz"}, {})),
        (
            "HEAD",
            "/v1/videos/a/content",
            {},
            Call("openai", Operation.CONTENT, {"task_id": "a"}, {}),
        ),
        (
            "POST",
            "/v1/videos/text2video",
            {},
            Call("kling", Operation.CREATE, {"kind": "text2video"}, {}),
        ),
        (
            "GET",
            "/v1/videos/text2video/content",
            {},
            Call("kling", Operation.GET, {"id": "content", "kind": "text2video"}, {}),
        ),
        (
            "GET",
            "/v1/videos/edits/content",  # `edits` is a task's id here, for all the table knows
            {},
            Call("openai", Operation.CONTENT, {"task_id": "edits"}, {}),
        ),
        (
            "POST",
            "/",
            {"Action": ACTION, "Version": "2022"},
            Call("jimeng", Operation.CREATE, {}, {"Action": ACTION, "Version": "2022"}),
        ),
        (
            "POST",
            "/jimeng/",
            {"Version": "2023", "Action": RESULT},
            Call("jimeng", Operation.GET, {}, {"Version": "2023", "Action": RESULT}),
        ),
    ],
)
def test_a_head_becomes_a_call(
    method: str, path: str, query: dict[str, str], expected: Call
) -> None:
    assert TABLE.match(method, path, query) == expected


@pytest.mark.parametrize(
    "path",
    [
        "/v1/videos/",
        "/v1/videos/a/",
        "/v1/videos//content",
        "/v1//videos",
        "/v2/videos",
        "/v1",
        "/v1/videos/a/b",
        "/jimeng",
        "",
        "*",
        "/v1/Videos",
        "/v1%2Fvideos",
        "/v1/videos/%ff",
        "/v1/videos/a%00b",
        "/v1/videos/a%0ab",
    ],
)
def test_a_path_nobody_listed_is_not_found(path: str) -> None:
    """Also one with a slash too many, and one that decodes to no text."""
    with pytest.raises(EndpointNotFound):
        TABLE.match("GET", path, {})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/v1/videos", "GET, HEAD, POST, OPTIONS"),
        ("POST", "/v1/videos/a/content", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/videos/text2video", "POST, OPTIONS"),  # written out beats a parameter
        ("get", "/v1/videos", "GET, HEAD, POST, OPTIONS"),
        ("OPTIONS", "/jimeng/", "POST, OPTIONS"),
    ],
)
def test_another_method_is_told_all_that_are_allowed(method: str, path: str, allow: str) -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        TABLE.match(method, path, {})
    assert caught.value.headers == {"Allow": allow}


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        ({}, "Action", f"The query parameter 'Action' is required: {ACTION} or {RESULT}."),
        (
            {"Action": "Nope", "Version": "2022"},
            "Action",
            f"The query parameter 'Action' must be {ACTION} or {RESULT}, not 'Nope'.",
        ),
        (
            {"Action": ACTION},
            "Version",
            "The query parameter 'Version' is required: 2022 or 2023.",
        ),
        (
            {"Action": ACTION, "Version": "1\udcff"},
            "Version",
            "The query parameter 'Version' must be 2022 or 2023, not '1\\udcff'.",
        ),
        (
            {"Action": ACTION, "Version": "2023"},  # each is known, the pair is not
            "Version",
            "The query parameter 'Version' must be 2022 or 2023, not '2023'.",
        ),
    ],
)
def test_a_query_that_picks_no_operation_is_told_what_would(
    query: Mapping[str, str], param: str, message: str
) -> None:
    with pytest.raises(Invalid) as caught:
        TABLE.match("POST", "/jimeng/", query)
    assert (caught.value.param, caught.value.message) == (param, message)


WORDS: list[tuple[str, str]] = [
    ("/v1/videos/generations", "POST /v1/video/generations"),
    ("/videos/characters", "Characters are not served"),
    ("/openai/v1/videos/sync", "POST /v1/videos, then GET"),
    ("/openai/videos/remix", "POST /v1/videos/{id}/remix"),
    ("/openai/deployments/d/videos/edit", "POST /v1/videos/edits"),
    ("/v1/videos/extend", "POST /v1/videos/extensions"),
    ("/v1/videos/multi-image2video", "POST /v1/videos."),
    ("/v1/video/generations/async", "POST /v1/video/generations."),
]


@pytest.mark.parametrize(("path", "meant"), WORDS)
def test_a_post_to_another_servers_word_is_not_found_and_told_what_is_meant(
    path: str, meant: str
) -> None:
    with pytest.raises(EndpointNotFound) as caught:
        EndpointTable(DIALECTS).match("POST", path, {})
    assert meant in caught.value.message


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/videos/video_1"),
        ("POST", "/v1/video/generations/video_1"),
        ("PUT", "/v1/videos/generations"),
        ("POST", "/v1/models/sora-2"),
        ("POST", "/kling/v1/videos/text2video/mine"),  # an id that its client chose
    ],
)
def test_an_id_keeps_its_405(method: str, path: str) -> None:
    with pytest.raises(MethodNotAllowed):
        EndpointTable(DIALECTS).match(method, path, {})


def test_head_is_answered_wherever_get_is() -> None:
    every = EndpointTable(DIALECTS)
    gets = [path.partition("?")[0] for method, path, *_ in every.rows() if method == "GET"]
    assert len(gets) > 30
    for path in gets:
        assert every.match("HEAD", path, {}) == every.match("GET", path, {})


def test_a_deployment_in_the_path_is_the_model_by_default() -> None:
    """AzureOpenAI with `azure_deployment`; a model in the body says more."""
    found = EndpointTable(DIALECTS).match("POST", "/openai/deployments/my-sora/videos", {})
    said = Fields({"prompt": "a cat"})
    assert DIALECTS["openai"].submission(found, said, "other").model == "my-sora"
    said = Fields({"prompt": "a cat", "model": "sora-2"})
    assert DIALECTS["openai"].submission(found, said, "other").model == "sora-2"


def test_messages_about_a_path_stay_short_and_printable() -> None:
    with pytest.raises(EndpointNotFound) as caught:
        TABLE.match("GET", "/\u202e" + "x" * 5000, {})
    assert len(caught.value.message) < 150
    assert caught.value.message.isascii()


def test_the_more_particular_row_is_asked_first() -> None:
    plain = Endpoint("GET", "/x", Operation.LIST)
    picky = Endpoint("GET", "/x", Operation.GET, (("a", "1"),))
    found = table(FakeDialect("openai", (plain, picky)))
    assert found.match("GET", "/x", {"a": "1"}).operation is Operation.GET
    assert found.match("GET", "/x", {"a": "2"}).operation is Operation.LIST


@pytest.mark.parametrize(
    "rows",
    [
        (
            Endpoint("GET", "/a/{x}", Operation.GET),
            Endpoint("GET", "/a/{y}", Operation.LIST),
        ),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(rows: tuple[Endpoint, ...]) -> None:
    with pytest.raises(ValueError, match="two endpoints"):
        table(FakeDialect("openai", rows))


def test_the_table_prints_every_row() -> None:
    assert TABLE.rows()[0] == ("POST", "/v1/videos", "openai", "create")
    last = ("POST", f"/?Action={ACTION}&Version=2022", "jimeng", "create")
    assert TABLE.rows()[-1] == last
    assert len(TABLE.rows()) == 12


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/kling", "kling"),
        ("/kling/v1/nope", "kling"),
        ("/klingon", None),
        ("/v1/videos/text2video", "kling"),
        ("/v1/videos/image2video/a", "kling"),
        ("/v1/videos/text2videos", None),
        ("/jimeng", "jimeng"),
        ("/jimeng/x", "jimeng"),
        ("/", "jimeng"),
        ("", "jimeng"),
        ("/v1/video/generations", "generic"),
        ("/v1/video/generations/a", "generic"),
        ("/video/generations/a", "generic"),
        ("/v1/videos/a", None),
        ("/favicon.ico", None),
        ("*", None),
    ],
)
def test_errors_are_answered_in_the_dialect_of_the_path(path: str, dialect: str | None) -> None:
    """None: in words that the clients of every dialect find."""
    assert EndpointTable(DIALECTS).probable_dialect(path) == dialect


def test_a_longer_prefix_of_a_path_wins_and_none_is_two_dialects() -> None:
    whole, part = FakeDialect("whole", (), ("/api",)), FakeDialect("part", (), ("/api/v2/video",))
    for both in (table(whole, part), table(part, whole)):
        assert both.probable_dialect("/api/v2/video/x") == "part"
        assert both.probable_dialect("/api/v2/videos") == "whole"
    with pytest.raises(ValueError, match="two dialects take the paths below /api"):
        table(whole, FakeDialect("other", (), ("/api",)))


# ---------------------------------------------------------------- models


def routes(*models: str) -> tuple[Route, ...]:
    return tuple(Route(model, ((f"u-{model}", 1),)) for model in models)


@pytest.mark.parametrize(
    ("model", "expected"),
    [("sora-2", "sora-2"), ("sora-2-pro", "sora-*"), ("Sora-2", None), ("", None)],
)
def test_the_first_route_that_matches_is_taken(model: str, expected: str | None) -> None:
    route = choose_route(routes("sora-2", "sora-*", "sora-2*"), model)
    assert (route.model if route else None) == expected


@pytest.mark.parametrize(
    ("globs", "model", "expected"),
    [
        ((), "anything", True),
        (("sora-2",), "sora-2", True),
        (("sora-2",), "sora-2-pro", False),
        (("a", "kling-*"), "kling-v2", True),
    ],
)
def test_a_token_may_use_the_models_it_names(
    globs: tuple[str, ...], model: str, expected: bool
) -> None:
    assert permits(Principal("id", "o", "n", models=globs), model) is expected


@pytest.mark.parametrize(
    ("globs", "listed", "allowed"),
    [
        ((), ["sora-2", "wan"], ["sora-2", "wan", "kling-*"]),
        (("sora-*",), ["sora-2"], ["sora-2"]),
        (("kling-v2", "gone"), ["kling-v2"], ["kling-v2"]),
        (("kling-v2*", "wan"), ["wan"], ["wan", "kling-v2*"]),
        (("*",), ["sora-2", "wan"], ["sora-2", "wan", "kling-*"]),
        (("none",), [], []),
    ],
)
def test_a_token_is_shown_only_what_it_may_use_and_a_route_takes(
    globs: tuple[str, ...], listed: list[str], allowed: list[str]
) -> None:
    rows = routes("sora-2", "kling-*", "wan")
    assert listed_models(rows, globs) == listed
    assert allowed_models(rows, globs) == allowed


# ---------------------------------------------------------------- upstreams


def upstream(name: str, *keys: Credential) -> Upstream:
    return Upstream(name, "kling", f"https://{name}.example", keys)


UPSTREAMS = {
    "a": upstream("a", Credential("a1", weight=3), Credential("a2"), Credential("a3", weight=0)),
    "b": upstream("b", Credential("b1"), Credential("old", retired=True)),
    "c": upstream("c", Credential("c1")),
}
THREE = Route("m", (("c", 0), ("a", 3), ("b", 1)))


def drawn(numbers: Iterable[float]) -> Callable[[], float]:
    return iter(numbers).__next__


def order(route: Route, *numbers: float) -> str:
    """Credential names in order; each place among weights is one number drawn."""
    picked = candidates(route, UPSTREAMS, drawn(numbers))
    assert all(key in up.credentials for up, key in picked)
    return " ".join(key.name for _, key in picked)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        # upstreams a and b drawn, then the credentials of a, of b, of c
        ((0.0, 0.0, 0.0, 0.0, 0.0, 0.0), "a1 a2 a3 b1 c1"),
        ((0.74, 0.0, 0.74, 0.0, 0.0, 0.0), "a1 a2 a3 b1 c1"),
        ((0.75, 0.0, 0.0, 0.75, 0.0, 0.0), "b1 a2 a1 a3 c1"),
        ((0.9999999999999999,) * 6, "b1 a2 a1 a3 c1"),
    ],
)
def test_the_order_is_drawn_by_weight_and_zero_stands_in_last(
    numbers: tuple[float, ...], expected: str
) -> None:
    assert order(THREE, *numbers) == expected


def test_a_route_of_stand_ins_only_keeps_its_order() -> None:
    assert order(Route("m", (("c", 0), ("b", 0))), 0.9, 0.9) == "c1 b1"


def test_a_retired_credential_takes_no_submit() -> None:
    assert order(Route("m", (("b", 1),)), 0.0, 0.0) == "b1"


def test_shares_follow_the_weights() -> None:
    """Each quarter of the numbers leads where the weights 3 and 1 say."""
    route = Route("m", (("a", 3), ("b", 1)))
    first = Counter(
        candidates(route, UPSTREAMS, drawn([n / 100, 0, 0, 0, 0]))[0][0].name for n in range(100)
    )
    assert first == {"a": 75, "b": 25}


# ---------------------------------------------------------------- for people


def test_routes_are_described_in_aligned_columns() -> None:
    rows = describe_routes(
        (
            Route("sora-2", (("a", 1),), "kling-v2-6", {"mode": "pro"}, {"x.y": 1}, ("seed",)),
            Route("*", (("a", 3), ("b", 1), ("c", 0)), fit="exact", queue=9),
        ),
        UPSTREAMS,
    )
    head = ("MODEL", "UPSTREAMS", "PROVIDER", "ASKS FOR", "PRICE", "QUEUE", "REWRITES")
    assert columns(head, rows).splitlines() == [
        "MODEL   UPSTREAMS                 PROVIDER  ASKS FOR    PRICE  QUEUE  REWRITES",
        "sora-2  a                         kling     kling-v2-6  -      -      mode? x.y! -seed",
        "*       a 75%, b 25%, c stand-in  kling     as asked    -      9      exact",
    ]


@pytest.mark.parametrize(
    ("price", "shown"),
    [
        ({}, "-"),
        ({"per_second": "0.07"}, "0.07/s"),
        ({"per_video": "0.40"}, "0.40/video"),
        ({"per_video": "0.40", "per_second": "0.07"}, "0.07/s + 0.40/video"),
        ({"per_second": {"720p": "0.3", "other": "0.5"}}, "720p 0.3/s, other 0.5/s"),
    ],
)
def test_a_price_is_shown_by_its_units(price: dict[str, Json], shown: str) -> None:
    [row] = describe_routes((Route("m", (("a", 1),), price=price),), UPSTREAMS)
    assert row[4] == shown


def test_long_cells_go_on_below_and_what_follows_stays_in_its_column() -> None:
    """At the words; one that is too long for its column is not cut in two, and moves the rest."""
    rows = [("a", "[1, 2]", "default"), ("b", '["one", "two", "three", "four"]', "line 2")]
    rows += [("c", '"https://a.example/as/long/as/this"', "line 3")]
    assert folded(("KEY", "VALUE", "ORIGIN"), rows, at=1, width=38).splitlines() == [
        "KEY  VALUE                     ORIGIN",
        "a    [1, 2]                    default",
        'b    ["one", "two", "three",   line 2',
        '     "four"]',
        'c    "https://a.example/as/long/as/this"  line 3',
    ]
