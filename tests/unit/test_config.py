from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import cast

import pytest
from pydantic import BaseModel, ConfigDict

from proxy.config import Config, ConfigErrors, load, socket_address
from proxy.model import Credential, Route
from proxy.providers import PROVIDERS as REAL_PROVIDERS
from proxy.providers.base import Provider
from proxy.providers.catalogue.row import ModelRow

SECRET = "0123456789abcdef0123456789abcdef"


class FakeOptions(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    speed: int = 1

    @property
    def keyless(self) -> bool:
        return self.speed == 0


@dataclass(frozen=True)
class FakeProvider:
    """As much of a provider as configuration looks at."""

    name: str
    credentials: tuple[frozenset[str], ...]
    options: type[BaseModel] = FakeOptions


PAIR, SINGLE = frozenset({"access_key", "secret_key"}), frozenset({"api_key"})
PROVIDERS = cast(
    "Mapping[str, Provider]",
    {
        "kling": FakeProvider("kling", (SINGLE, PAIR)),
        "jimeng": FakeProvider("jimeng", (PAIR,)),
        "local": FakeProvider("local", (frozenset(),)),
    },
)

UPSTREAM = """\
[[upstreams]]
name = "k"
provider = "kling"
base_url = "https://kling.example"
credentials = [{ name = "k1", api_key = "x" }]
"""
ROUTE = '[[routes]]\nmodel = "sora-2"\nupstream = "k"\n'


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def loaded(text: str, env: Mapping[str, str] | None = None) -> Config:
    Path("c.toml").write_text(text, encoding="utf-8")
    return load(Path("c.toml"), env or {}, PROVIDERS)


def problems(text: str, env: Mapping[str, str] | None = None) -> list[str]:
    """What is wrong, without the file's name."""
    with pytest.raises(ConfigErrors) as caught:
        loaded(text, env)
    return [str(problem).removeprefix("c.toml:") for problem in caught.value.problems]


# ---------------------------------------------------------------- values


def test_no_file_gives_the_defaults_and_no_upstreams() -> None:
    config = load(None, {}, PROVIDERS)
    assert (config.upstreams, config.routes, config.path) == ({}, (), None)
    assert config.server.listen == "127.0.0.1:8080"
    assert config.public_url == "http://127.0.0.1:8080"
    assert config.server.state_dir == Path.cwd() / ".reelway"
    assert config.limits.json_bytes == 48 * 1024 * 1024
    assert config.defaults.model == {"openai": "", "generic": "", "kling": "", "jimeng": ""}
    assert set(config.origins.values()) == {"default"}


def test_an_empty_file_gives_the_same_as_none() -> None:
    with_file, without = loaded(""), load(None, {}, PROVIDERS)
    assert [row[:2] for row in with_file.rows()] == [row[:2] for row in without.rows()]


def test_the_state_directory_is_beside_the_file(tmp_path: Path) -> None:
    inner = tmp_path / "etc"
    inner.mkdir()
    (inner / "c.toml").write_text('[server]\nstate_dir = "var"', encoding="utf-8")
    assert load(Path("etc/c.toml"), {}, PROVIDERS).server.state_dir == inner / "var"
    (inner / "c.toml").write_text('[server]\nstate_dir = "/var/lib/r"', encoding="utf-8")
    assert load(inner / "c.toml", {}, PROVIDERS).server.state_dir == Path("/var/lib/r")


def test_upstreams_and_routes_become_values() -> None:
    config = loaded(
        """
[[upstreams]]
name = "k"
provider = "kling"
base_url = "https://kling.example/api/"
paths.submit.text2video = "/t2v"
paths."poll.text2video" = "/t2v/{id}"
headers = { X-Team = "video" }
result_hosts = ["CDN.internal:8443", "[fd00::1]:80"]
credentials = [
  { name = "a", access_key = "${AK}", secret_key = "s", weight = 3, max_in_flight = 5 },
  { name = "b", api_key = "y", retired = true },
]
options = { speed = 2 }

[[routes]]
model = "sora-2"
upstream = [{ name = "k", weight = 3 }]
upstream_model = "kling-v2-6"
defaults = { mode = "pro", "watermark_info.enabled" = false }
overrides = { cfg_scale = 0.5 }
remove = ["seed"]
fit = "exact"
price = { per_second = "0.07", per_video = { pro = "1", std = "0.5" } }
[[routes]]
model = "*"
upstream = "k"
""",
        {"AK": "from-env"},
    )
    upstream = config.upstreams["k"]
    assert upstream.base_url == "https://kling.example/api"
    assert upstream.paths == {"submit.text2video": "/t2v", "poll.text2video": "/t2v/{id}"}
    assert upstream.headers == {"X-Team": "video"}
    assert upstream.result_hosts == ("cdn.internal:8443", "[fd00::1]:80")
    assert upstream.options == FakeOptions(speed=2)
    assert upstream.credentials == (
        Credential("a", access_key="from-env", secret_key="s", weight=3, max_in_flight=5),
        Credential("b", api_key="y", retired=True),
    )
    assert config.routes == (
        Route(
            model="sora-2",
            upstreams=(("k", 3),),
            upstream_model="kling-v2-6",
            defaults={"mode": "pro", "watermark_info.enabled": False},
            overrides={"cfg_scale": 0.5},
            remove=("seed",),
            fit="exact",
            price={"per_second": "0.07", "per_video": {"pro": "1", "std": "0.5"}},
        ),
        Route(model="*", upstreams=(("k", 1),)),
    )


def test_what_an_operator_says_of_models_goes_to_the_upstreams_of_their_provider() -> None:
    config = loaded(
        UPSTREAM + '[[models]]\nprovider = "kling"\nmodel = "kling-v9"\nseconds = [10, 5]\n'
        'read_on = 2026-11-30\n[[models]]\nprovider = "jimeng"\nmodel = "j"\n'
    )
    row = ModelRow(provider="kling", model="kling-v9", seconds=(5, 10), read_on=date(2026, 11, 30))
    assert config.models == (row, ModelRow(provider="jimeng", model="j"))
    assert config.upstreams["k"].models == (row,)
    shown = {key: (value, origin) for key, value, origin in config.rows()}
    assert shown["models[0].seconds"] == ("[5, 10]", "c.toml:9")
    assert shown["models[0].read_on"] == ('"2026-11-30"', "c.toml:10")


def test_what_a_route_passes_on_is_read_and_shown() -> None:
    config = loaded(UPSTREAM + ROUTE + "pass = ['camera_*']")
    assert config.routes[0].passes == ("camera_*",)
    shown = {key: value for key, value, _ in config.rows()}
    assert shown["routes[0].pass"] == '["camera_*"]'


def test_an_empty_key_is_for_servers_that_may_have_none() -> None:
    text = UPSTREAM.replace('"x"', '""')
    config = loaded(text + "options = { speed = 0 }")
    assert config.upstreams["k"].credentials[0].api_key == ""
    said = ["5: upstreams[0].credentials[0].api_key: must not be empty"]
    assert problems(text + "options = { speed = 1 }") == said


def test_a_provider_without_keys_takes_a_credential_without_keys() -> None:
    text = UPSTREAM.replace('"kling"', '"local"').replace(', api_key = "x"', "")
    assert loaded(text).upstreams["k"].credentials == (Credential("k1"),)


@pytest.mark.parametrize(
    ("routes", "model", "expected"),
    [
        (ROUTE, "", "sora-2"),
        ('[[routes]]\nmodel = "a*"\nupstream = "k"\n' + ROUTE, "", "sora-2"),
        ('[[routes]]\nmodel = "a*"\nupstream = "k"\n', "", ""),
        ('[[routes]]\nmodel = "a*"\nupstream = "k"\n' + ROUTE, 'kling = "ab"', "ab"),
    ],
)
def test_a_model_not_named_is_the_configured_or_the_first_literal_route(
    routes: str, model: str, expected: str
) -> None:
    config = loaded(f"[defaults]\nmodel = {{ {model} }}\n{UPSTREAM}{routes}")
    assert config.defaults.model["kling"] == expected


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ('listen = "127.0.0.1:80"', "http://127.0.0.1:80"),
        ('listen = "[::1]:8080"', "http://[::1]:8080"),
        ('public_url = ""', "http://127.0.0.1:8080"),
        ('listen = "0.0.0.0:80"\npublic_url = "https://v.example/"', "https://v.example"),
        ('listen = "unix:/run/r"\npublic_url = "https://v.example/x/"', "https://v.example/x"),
    ],
)
def test_the_public_url_is_the_one_set_or_where_it_listens(server: str, expected: str) -> None:
    assert loaded(f"[server]\n{server}").public_url == expected


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::]:8080", ("::", 8080)),
        ("localhost:65535", ("localhost", 65535)),
        ("unix:/run/reelway.sock", Path("/run/reelway.sock")),
    ],
)
def test_a_listen_value_names_a_socket(listen: str, address: tuple[str, int] | Path) -> None:
    assert socket_address(listen) == address


@pytest.mark.parametrize(
    "url",
    [
        "redis://h:6379/1",
        "rediss://u:p@h",
        "unix:///run/redis.sock",
        "redis+cluster://h:7000",
        "redis+sentinel://h1:26379,h2:26379/mymaster/0",
    ],
)
def test_a_shared_redis_is_taken_with_a_secret(url: str) -> None:
    config = loaded(f'[server]\nsecrets = ["{SECRET}"]\n[redis]\nurl = "{url}"')
    assert config.redis.url == url


# ---------------------------------------------------------------- what is wrong

CASES: list[tuple[str, list[str]]] = [
    (
        "[sever]\n",
        [
            (
                "1: sever: unknown table; did you mean 'server'? accepted: server, admin, "
                "redis, timeouts, limits, billing, cors, logs, tracing, media, webhooks, "
                "defaults, upstreams, routes, models"
            )
        ],
    ),
    ("server = 1", ["1: server: must be a table, not 1"]),
    (
        "[admin]\n\nlisen = ''",
        [("3: admin.lisen: unknown key; did you mean 'listen'? accepted: listen, token, origins")],
    ),
    ("[server]\nworkers = '2'", ["2: server.workers: must be a whole number, not a string"]),
    ("[server]\nworkers = 1.5", ["2: server.workers: must be a whole number, not 1.5"]),
    ("[server]\nworkers = true", ["2: server.workers: must be a whole number, not true"]),
    ("[server]\nworkers = 0", ["2: server.workers: must be at least 1, not 0"]),
    (
        "[server]\nlisten = '8080'",
        [("2: server.listen: must be host:port (an IPv6 host in brackets), not '8080'")],
    ),
    (
        "[server]\nlisten = '::1:80'",
        [("2: server.listen: must be host:port (an IPv6 host in brackets), not '::1:80'")],
    ),
    (
        "[server]\nlisten = 'h:65536'",
        [("2: server.listen: must be host:port (an IPv6 host in brackets), not 'h:65536'")],
    ),
    (
        "[server]\nlisten = 'unix:run/x'",
        [("2: server.listen: must be unix:/absolute/path, not 'unix:run/x'")],
    ),
    (
        "[server]\nlisten = 'h:9080'\n[admin]\nlisten = 'h:9080'",
        [("4: admin.listen: is the same as server.listen, 'h:9080'")],
    ),
    (
        "[server]\npublic_url = 'v.example'",
        [("2: server.public_url: must be http://host… or https://host…, not 'v.example'")],
    ),
    (
        "[server]\npublic_url = 'http://u:p@h'",
        [("2: server.public_url: must not hold a user name or password")],
    ),
    (
        "[server]\npublic_url = 'http://h/?a'",
        [("2: server.public_url: must end with its path: no '?' and no '#'")],
    ),
    (
        "[server]\npublic_url = 'http://h:x'",
        [("2: server.public_url: is not a URL: Port could not be cast to integer value as 'x'")],
    ),
    ("[server]\nsecrets = 'x'", ["2: server.secrets: must be a list, not a string"]),
    (
        "[server]\nsecrets = ['short', \n5]",
        [
            "2: server.secrets[0]: must be at least 32 bytes, not 5",
            "3: server.secrets[1]: must be a string, not 5",
        ],
    ),
    (
        "[server]\ntrusted_proxies = ['10.0.0.1/8']",
        [
            (
                "2: server.trusted_proxies[0]: must be an "
                "address or a CIDR block such as 10.0.0.0/8: 10.0.0.1/8 has host bits set"
            )
        ],
    ),
    (
        "[redis]\nurl = 'mysql://u:pw@h'",
        [
            (
                "2: redis.url: must be embedded or one of redis://…, "
                "rediss://…, unix://…, redis+sentinel://…, redis+cluster://…"
            )
        ],
    ),
    (
        "[redis]\ndurability = 'fsnyc'",
        [
            (
                "2: redis.durability: 'fsnyc' is not accepted; did you "
                "mean 'fsync'? accepted: local, replica, fsync"
            )
        ],
    ),
    (
        "[timeouts]\nhead_s = 0\npoll_s = inf\nsubmit_s = '1'",
        [
            "2: timeouts.head_s: must be more than 0, not 0",
            "3: timeouts.poll_s: must be a finite number, not inf",
            "4: timeouts.submit_s: must be a number, not a string",
        ],
    ),
    (
        "[timeouts]\npoll_interval_s = 31",
        [("2: timeouts.poll_interval_s: 31 is more than poll_max_s, 30")],
    ),
    ("[limits]\nheal_attempts = -1", ["2: limits.heal_attempts: must be at least 0, not -1"]),
    (
        "[limits]\nspool_bytes = 40000000",
        [
            (
                "1: limits.json_bytes: 50331648 is more than "
                "spool_bytes, 40000000: no such request could ever be taken"
            )
        ],
    ),
    (
        "[billing]\ncurrency = 'usd'",
        [("2: billing.currency: must be an ISO 4217 code such as USD, EUR or CNY, not 'usd'")],
    ),
    ("[cors]\nallow_credentials = 1", ["2: cors.allow_credentials: must be true or false, not 1"]),
    (
        "[cors]\norigins = ['*']\nallow_credentials = true",
        [
            (
                "3: cors.allow_credentials: cannot be "
                "true with origins = ['*']: every site could act as its visitor"
            )
        ],
    ),
    (
        "[cors]\norigins = ['https://a.example/']",
        [
            (
                "2: cors.origins[0]: must be '*' or "
                "scheme://host[:port] without a path, not 'https://a.example/'"
            )
        ],
    ),
    ("[cors]\nallow_headers = ['a b']", ["2: cors.allow_headers[0]: 'a b' is not a header name"]),
    (
        "[webhooks]\nallow = ['hook.internal']",
        [
            (
                "2: webhooks.allow[0]: must be host:port (an IPv6 "
                "host in brackets), not 'hook.internal'"
            )
        ],
    ),
    (
        "[webhooks]\nallow = ['h:0']",
        [("2: webhooks.allow[0]: must name a port from 1 to 65535, not 'h:0'")],
    ),
    (
        "[defaults]\nmodel = { opnai = 'x' }",
        [
            (
                "2: defaults.model.opnai: unknown key; did you mean "
                "'openai'? accepted: openai, generic, kling, jimeng"
            )
        ],
    ),
    (
        "[defaults.model]\nkling = 'sora2'\n" + UPSTREAM + ROUTE,
        [
            (
                "2: defaults.model.kling: no route "
                "takes the model 'sora2'; did you mean 'sora-2'? accepted: sora-2"
            )
        ],
    ),
    ("upstreams = 1", ["1: upstreams: must be written [[upstreams]], one for each"]),
    ("[upstreams.k]\nname = 'k'", ["1: upstreams: must be written [[upstreams]], one for each"]),
    (
        "\n[[upstreams]]\nname = 'k'",
        [
            "2: upstreams[0].provider: is required",
            "2: upstreams[0].base_url: is required",
            "2: upstreams[0].credentials: is required",
        ],
    ),
    (UPSTREAM + UPSTREAM, ["7: upstreams[1].name: 'k' is taken by the one on line 2"]),
    (
        UPSTREAM.replace('"k"', '"k main"'),
        [
            (
                "2: upstreams[0].name: must be 1 to 64 letters, "
                "digits, '.', '_' or '-', beginning with a letter or digit, not 'k main'"
            )
        ],
    ),
    (
        UPSTREAM.replace('"kling"', '"klng"'),
        [
            (
                "3: upstreams[0].provider: no provider 'klng'; did "
                "you mean 'kling'? accepted: kling, jimeng, local"
            )
        ],
    ),
    (
        UPSTREAM.replace("{ name", "{ nme"),
        [
            "5: upstreams[0].credentials[0].name: is required",
            (
                "5: upstreams[0].credentials[0].nme: unknown key; did you mean 'name'? accepted: "
                "name, "
                "api_key, access_key, secret_key, weight, max_in_flight, retired"
            ),
        ],
    ),
    (
        UPSTREAM.replace('[{ name = "k1", api_key = "x" }]', "[]"),
        ["5: upstreams[0].credentials: must have at least one entry"],
    ),
    (
        UPSTREAM + ROUTE + "pass = ['a.b', '']",
        [
            f"9: routes[0].pass[{place}]: '{name}' must be the name of a body field; * and ? are "
            "wild, dots are not taken"
            for place, name in enumerate(("a.b", ""))
        ],
    ),
    (UPSTREAM.replace('"x"', '""'), ["5: upstreams[0].credentials[0].api_key: must not be empty"]),
    (
        UPSTREAM.replace("api_key", "access_key"),
        [
            (
                "5: upstreams[0].credentials[0]: provider "
                "'kling' takes api_key, or access_key and secret_key; given: access_key"
            )
        ],
    ),
    (
        UPSTREAM.replace('"kling"', '"local"'),
        [("5: upstreams[0].credentials[0]: provider 'local' takes no key; given: api_key")],
    ),
    (
        UPSTREAM.replace(" }]", ' },\n{ name = "k1", api_key = "y" }]'),
        ["6: upstreams[0].credentials[1].name: 'k1' is taken by one above"],
    ),
    (
        UPSTREAM + "headers = { authorization = 'x' }",
        [
            (
                "6: upstreams[0].headers: 'authorization' "
                "is set by the adapter and cannot be configured"
            )
        ],
    ),
    (
        UPSTREAM + 'headers = { a = "x\\r\\ny: z" }',
        [("6: upstreams[0].headers: the value of 'a' must be printable ASCII")],
    ),
    (
        UPSTREAM + "paths = { sbmit = '/x' }",
        [("6: upstreams[0].paths: 'sbmit' is not submit, poll or content, or one with '.<kind>'")],
    ),
    (
        UPSTREAM + "paths = { submit = 'x' }",
        [
            (
                "6: upstreams[0].paths.submit: must be a path from "
                "base_url on, beginning with '/', not 'x'"
            )
        ],
    ),
    (
        UPSTREAM + "[upstreams.options]\nspeed = 'fast'\nsped = 1",
        [
            (
                "7: upstreams[0].options.speed: Input should be a valid integer, unable to parse "
                "string "
                "as an integer"
            ),
            "8: upstreams[0].options.sped: unknown key; did you mean 'speed'? accepted: speed",
        ],
    ),
    (ROUTE, ["3: routes[0].upstream: no upstream 'k'; none is configured"]),
    (
        UPSTREAM + ROUTE.replace('"k"', '"kk"'),
        [("8: routes[0].upstream: no upstream 'kk'; did you mean 'k'? accepted: k")],
    ),
    (
        UPSTREAM + ROUTE.replace('"k"', '[\n{ name = "x" }, \n{ weight = -1 }]'),
        [
            "10: routes[0].upstream[1].name: is required",
            "10: routes[0].upstream[1].weight: must be at least 0, not -1",
        ],
    ),
    (
        UPSTREAM + ROUTE.replace('"k"', "[]"),
        ["8: routes[0].upstream: must have at least one entry"],
    ),
    (
        UPSTREAM + ROUTE.replace('"k"', '[\n{ name = "x" }]') + "fit = 'low'",
        [
            "9: routes[0].upstream[0].name: no upstream 'x'; accepted: k",
            "10: routes[0].fit: 'low' is not accepted; accepted: up, exact",
        ],
    ),
    (
        UPSTREAM + ROUTE.replace('"k"', '[{ name = "k" }, { name = "k" }]'),
        ["8: routes[0].upstream[1].name: 'k' is named twice; add their weights up"],
    ),
    (
        UPSTREAM.replace(" }]", ", retired = true }]") + ROUTE,
        [("8: routes[0].upstream: every credential behind this route is retired")],
    ),
    (
        UPSTREAM + ROUTE.replace('"sora-2"', '"*"') + ROUTE,
        [
            (
                "10: routes[1].model: 'sora-2' can "
                "never match: '*' on line 7 comes first and takes every such name; "
                "put this route above it"
            )
        ],
    ),
    (
        UPSTREAM + ROUTE + "fit = 'down'",
        [("9: routes[0].fit: 'down' is not accepted; accepted: up, exact")],
    ),
    (
        UPSTREAM + ROUTE + "defaults = { at = 1979-05-27 }",
        [("9: routes[0].defaults.at: a date has no JSON form; write it as a string")],
    ),
    (
        UPSTREAM + ROUTE + "overrides = { a = [{ b = nan }] }",
        [("9: routes[0].overrides.a: nan has no JSON form; it goes into a JSON body")],
    ),
    (
        UPSTREAM + ROUTE + "overrides = { external_task_id = 'x' }",
        [
            (
                "9: routes[0].overrides: "
                "'external_task_id' cannot be rewritten: it carries the task's own id, by which "
                "a lost "
                "submit is found again"
            )
        ],
    ),
    (
        UPSTREAM + ROUTE + "remove = ['callback_url', 'a..b']",
        [
            (
                "9: routes[0].remove[0]: 'callback_url' cannot be rewritten: the tracker polls; a "
                "client's own callback is answered by its webhook"
            ),
            "9: routes[0].remove[1]: 'a..b' must be a body field's name, or names joined by dots",
        ],
    ),
    (
        UPSTREAM + ROUTE + "defaults = { seed = 1 }\nremove = ['seed']",
        [("9: routes[0].defaults.seed: 'seed' is in remove too, which wins")],
    ),
    (
        UPSTREAM + ROUTE + "price = { per_secnd = '1' }",
        [
            (
                "9: routes[0].price.per_secnd: unknown "
                "key; did you mean 'per_second'? accepted: per_second, per_video"
            )
        ],
    ),
    (
        UPSTREAM + ROUTE + "price = { per_second = 0.07 }",
        [('9: routes[0].price.per_second: must be an amount in quotes, such as "0.07", not 0.07')],
    ),
    (
        UPSTREAM + ROUTE + "price = { per_video = { pro = '1,5' } }",
        [
            (
                "9: routes[0].price.per_video."
                "pro: must be an amount such as \"0.07\", with at most 6 decimals: '1,5'"
            )
        ],
    ),
    (
        (
            "[[models]]\nprovider = 'kling'\nmodel = 'm'\nspeed = 2\naudio = 'loud'\nseconds = []\n"
            "sizes = ['large']\noperations = ['get']\ninputs = { poster = 1 }\nn = 0\n"
        ),
        [
            "4: models[0].speed: unknown key; did you mean 'seed'? accepted: "
            + ", ".join(ModelRow.model_fields),
            "5: models[0].audio: 'loud' is not accepted; accepted: never, option, always",
            "6: models[0].seconds: must have at least one entry; leave it out where any is taken",
            "7: models[0].sizes[0]: must be a size such as 1280x720, not 'large'",
            "8: models[0].operations[0]: must be create, remix, edit or extend, not 'get'",
            (
                "9: models[0].inputs.poster: unknown key; accepted: first_frame, last_frame, "
                "reference_image, reference_video, reference_audio, source"
            ),
            "10: models[0].n: must be at least 1, not 0",
        ],
    ),
    (
        (
            "[[models]]\nprovider = 'klings'\nmodel = 'm'\nseconds = [5]\ndefault_seconds = 6\n"
            "[[models]]\nprovider = 'kling'\nmodel = 'a'\n"
            "[[models]]\nprovider = 'kling'\nmodel = 'b'\naliases = ['a']\n"
        ),
        [
            (
                "2: models[0].provider: no provider 'klings'; did you mean 'kling'? "
                "accepted: kling, jimeng, local"
            ),
            "5: models[0].default_seconds: 6 is not among what is accepted: 5",
            "11: models[2].model: 'a' has a row on line 8: one is enough",
        ],
    ),
    ("models = 1", ["1: models: must be written [[models]], one for each"]),
]


@pytest.mark.parametrize(("text", "expected"), CASES, ids=range(len(CASES)))
def test_what_is_wrong_is_told_with_line_and_key(text: str, expected: list[str]) -> None:
    assert problems(text) == expected


def test_every_problem_is_told_at_once_in_the_order_of_the_file() -> None:
    text = (
        "[timeouts]\npoll_s = 0\nnope = 1\n[server]\nworkers = 0\n"
        + UPSTREAM.replace("kling.example", "")
        + ROUTE.replace('"k"', '"q"')
        + "[sever]\n"
    )
    lines = [line.partition(": ")[2].partition(": ")[0] for line in problems(text)]
    assert lines == [
        "timeouts.poll_s",
        "timeouts.nope",
        "server.workers",
        "upstreams[0].base_url",
        "routes[0].upstream",
        "sever",
    ]


NAMED_BADLY = """\
[[upstreams]]
name = "sim openai"
provider = "sora"
base_url = "https://a.example"
credentials = [{ name = "demo" }]
"""
NO_PLACES = """\
[[upstreams]]
name = "k"
provider = "kling"
base_url = "https://a.example"
options = { sped = 2 }
credentials = [{ name = "a", access_key = "x", max_in_flight = 0 }, { name = "b", api_kye = "x" }]
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (NAMED_BADLY, ["name", "provider", "credentials[0]"]),
        (
            NO_PLACES,
            [
                "options.sped",
                "credentials[0].max_in_flight",
                "credentials[1].api_kye",  # which may be the key it lacks: no second problem
                "credentials[0]",
            ],
        ),
    ],
)
def test_everything_wrong_with_one_upstream_is_told_at_once(text: str, expected: list[str]) -> None:
    """Also what its provider asks of it, when a field that has nothing to do with it is wrong."""
    Path("c.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigErrors) as caught:
        load(Path("c.toml"), {}, REAL_PROVIDERS)
    told = [problem.key.removeprefix("upstreams[0].") for problem in caught.value.problems]
    assert sorted(told) == sorted(expected)


def test_a_route_to_a_wrong_upstream_is_no_second_problem() -> None:
    assert len(problems(UPSTREAM.replace('"kling"', '"klng"') + ROUTE)) == 1


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "unix:/run/r.sock"])
def test_a_listen_value_no_client_can_dial_needs_a_public_url(listen: str) -> None:
    assert problems(f"[server]\nlisten = '{listen}'") == [
        (
            f"1: server.public_url: is required with listen = '{listen}', which names no address a "
            "client could use: set the URL clients reach you by, such as https://video.example.com"
        )
    ]


def test_a_shared_redis_needs_a_secret() -> None:
    found = problems("[server]\n[redis]\nurl = 'redis://h'")
    assert [line[:30] for line in found] == ["1: server.secrets: is required"]


def test_a_faulty_secret_is_not_also_called_missing() -> None:
    found = problems("[server]\nsecrets = ['x']\nworkers = 0\n[redis]\nurl = 'redis://h'")
    assert found == [
        "2: server.secrets[0]: must be at least 32 bytes, not 1",
        "3: server.workers: must be at least 1, not 0",
    ]


def test_a_sound_section_key_is_still_checked_beside_a_faulty_one() -> None:
    found = problems("[server]\nworkers = 0\nlisten = '0.0.0.0:1'")
    assert [line.partition(" ")[2].partition(":")[0] for line in found] == [
        "server.public_url",
        "server.workers",
    ]


def test_an_unset_variable_is_the_only_problem_of_its_key() -> None:
    """Not "too short" as well, and the variables that are set stay out of the message."""
    text = "[server]\nsecrets = ['${GONE}']\n[redis]\nurl = 'redis://:${PW}@h'"
    assert problems(text, {"PW": "hush"}) == [
        "2: server.secrets[0]: the environment variable GONE is not set"
    ]


def test_a_misplaced_secret_is_not_printed() -> None:
    found = problems("[server]\nsecrets = 'tops3cret'\n[redis]\nurl = 'tops3cret'")
    assert len(found) == 2
    assert "tops3cret" not in "".join(found)


# ---------------------------------------------------------------- showing it


def test_shown_settings_hide_every_secret_and_name_every_origin() -> None:
    config = loaded(
        '[server]\nsecrets = ["${SECRET}"]\n'
        '[admin]\ntoken = "s3-token"\n'
        '[redis]\nurl = "redis://user:s3-redis@h:1/0"\n'
        "[[upstreams]]\n"
        'name = "k"\nprovider = "kling"\nbase_url = "${BASE}"\n'
        'headers = { X-Key = "s3-header" }\n'
        'credentials = [{ name = "k1", access_key = "s3-ak", secret_key = "${SK}" },\n'
        '  { name = "k2", api_key = "s3-api" }]\n' + ROUTE,
        {"SECRET": "s3" + SECRET, "SK": "s3-sk", "BASE": "https://kling.example"},
    )
    rows = {key: (value, origin) for key, value, origin in config.rows()}
    assert "s3" not in str(rows)
    assert "s3" not in repr(config)
    assert rows["server.secrets"] == ('"(hidden)"', "env SECRET")
    assert rows["server.workers"] == ("1", "default")
    assert rows["admin.token"] == ('"(hidden)"', "c.toml:4")
    assert rows["redis.url"] == ('"redis://(hidden)@h:1/0"', "c.toml:6")
    assert rows["defaults.model.kling"] == ('"sora-2"', "default")
    assert rows["upstreams[0].base_url"] == ('"https://kling.example"', "env BASE")
    assert rows["upstreams[0].headers"] == ('{"X-Key": "(hidden)"}', "c.toml:11")
    assert rows["upstreams[0].options"] == ('{"speed": 1}', "default")
    assert rows["upstreams[0].credentials[0].access_key"] == ('"(hidden)"', "c.toml:12")
    assert rows["upstreams[0].credentials[0].secret_key"] == ('"(hidden)"', "env SK")
    assert rows["upstreams[0].credentials[1].weight"] == ("1", "default")
    assert rows["routes[0].upstream"] == ('[{"name": "k", "weight": 1}]', "c.toml:16")
    assert rows["routes[0].fit"] == ('"up"', "default")


def test_a_configuration_cannot_be_changed_after_it_was_read() -> None:
    config = load(None, {}, PROVIDERS)
    with pytest.raises(ValueError, match="frozen"):
        config.server.workers = 2
