"""The commands: what they say to an operator, to a program, and when they cannot."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from proxy.cli import main
from proxy.cli.context import counted
from proxy.signing import parse_token
from tests.rig.eventually import eventually_sync
from tests.rig.programs import GUARD_S, ROOT, Program, ask, program, run

COMMANDS = [
    *("demo", "serve", "check", "config", "routes", "models"),
    *("doctor", "health", "token", "owner", "usage", "ledger", "task"),
    *("webhook", "credential", "simulate", "completion"),
]
TOKEN_COMMANDS = [
    *("create", "list", "show", "set", "rotate", "expire", "disable", "enable", "revoke"),
]
LIMITS = ["models", "budget", "rpm", "max_in_flight", "webhook"]
PUBLIC = ["name", "owner", "state", "generation", *LIMITS]
TIMES = ["created", "expires", "revoked"]
MORE = [
    *("disabled", "previous_until", "budget_day", "budget_month", "spm", "max_streams"),
    *("max_body", "labels", "dialects", "operations", "addresses", "shared"),
]

ROUTED = """\
[[upstreams]]
name = "k"
provider = "kling"
base_url = "https://kling.example"
credentials = [{ name = "a", access_key = "a", secret_key = "b" }]
[[routes]]
model = "sora-2"
upstream = "k"
upstream_model = "kling-v2-6"
price = { per_second = "0.07" }
queue = 100
"""

MISTAKEN = """\
[server]
listn = "127.0.0.1:0"
listen = "nowhere"
[redis]
durability = "replicas"
[[upstreams]]
name = "k"
provider = "klng"
base_url = "https://x.example"
credentials = [{ name = "a", access_key = "a", secret_key = "b" }]
[[routes]]
model = "m"
upstream = "kk"
[webhook]
"""


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def told(*arguments: str | Path) -> Any:
    """What `--json` says: one line, one document."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1, result.stdout
    return json.loads(result.stdout)


def one_line(result: Result) -> str:
    """The sentence a refused command ends with; nothing on stdout."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    return line


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of an embedded store that nobody runs."""
    path = tmp_path / "config.toml"
    path.write_text(ROUTED)
    return path


@pytest.fixture(scope="module")
def config_in_use(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root's config.toml as it is, but for the ports."""
    path = tmp_path_factory.mktemp("serve") / "config.toml"
    text, changed = re.subn(
        r'listen = "127.0.0.1:(8080|9080)"',
        'listen = "127.0.0.1:0"',
        (ROOT / "config.toml").read_text(),
    )
    assert changed == 2
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def serving(config_in_use: Path) -> Iterator[tuple[Program, str]]:
    """`reelway serve` of that configuration, and its URL; it is told to end by SIGTERM."""
    arguments = ("serve", "--config", str(config_in_use))
    with program(*arguments, cwd=config_in_use.parent, err_to_out=True) as running:
        line = json.loads(running.line())
        assert line["event"] == "serving"
        yield running, line["url"]


# ---------------------------------------------------------------- help


def test_help_lists_the_commands_with_whole_sentences() -> None:
    text = invoke("--help").stdout
    listed = re.findall(r"(?m)^  (\w+) +(\S.*)$", text.partition("Commands:\n")[2])
    assert [name for name, _ in listed] == COMMANDS
    assert all(sentence.endswith(".") and "..." not in sentence for _, sentence in listed), text


@pytest.mark.parametrize(
    "command", [*([name] for name in COMMANDS), *(["token", name] for name in TOKEN_COMMANDS)]
)
def test_each_command_has_a_help(command: list[str]) -> None:
    if command == ["simulate"]:  # its own parser ends the process
        return
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout
    undescribed = re.findall(r"(?m)^  --[\w-]+( [A-Z ]+)?$\n(?=  -|$)", result.stdout)
    assert undescribed == [], result.stdout


@pytest.mark.parametrize("dashes", [(), ("--",)])
def test_the_simulators_help_is_its_own(dashes: tuple[str, ...]) -> None:
    """With the name it was called by; a `--` before its options is not needed, and not refused."""
    result = invoke("simulate", *dashes, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith("usage: reelway simulate ")
    assert "--manual" in result.stdout
    refused = invoke("simulate", *dashes, "--speed", "0")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr.endswith("reelway simulate: error: --speed must be above 0.\n")


def test_a_line_to_copy_is_not_broken() -> None:
    """What completion's help says to type stands on lines of its own."""
    lines = [line.strip() for line in invoke("completion", "--help").stdout.splitlines()]
    assert 'eval "$(reelway completion bash)"' in lines
    assert 'eval "$(reelway completion zsh)"' in lines
    assert "reelway completion fish > ~/.config/fish/completions/reelway.fish" in lines


@pytest.mark.parametrize(
    "command",
    [
        ["serve"],
        ["check"],
        ["routes"],
        ["models"],
        ["token", "create", "--name", "x"],
        ["token", "list"],
        ["token", "show", "x"],
        ["token", "revoke", "x"],
    ],
    ids=" ".join,
)
def test_each_command_reads_the_file_it_is_given(command: list[str], tmp_path: Path) -> None:
    """A missing one is one line in the form of every mistake."""
    missing = tmp_path / "missing.toml"
    line = one_line(invoke(*command, "--config", missing))
    assert line == f"{missing}:1: file: cannot be read: No such file or directory"


@pytest.mark.parametrize("command", ["demo", "simulate"])
def test_a_command_without_a_configuration_says_so(command: str) -> None:
    assert "leave --config out" in one_line(invoke(command, "--config", "x.toml"))


# ---------------------------------------------------------------- check, routes


def test_the_configuration_at_the_root_is_right() -> None:
    path = ROOT / "config.toml"
    result = invoke("check", "--config", path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == f"{path}: ok (0 upstreams, 0 routes)\n"
    assert told("check", "--config", path) == {"ok": True, "problems": [], "warnings": []}


def test_without_a_file_the_defaults_are_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert invoke("check").stdout.startswith("no config.toml here, the defaults: ok")
    (tmp_path / "config.toml").write_text(ROUTED)
    assert invoke("check").stdout == "config.toml: ok (1 upstream, 1 route)\n"


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    """Each with its line and key, what is accepted, and what was probably meant."""
    path = tmp_path / "config.toml"
    path.write_text(MISTAKEN)
    result = invoke("check", "--config", path)
    assert (result.exit_code, result.stdout) == (1, "")
    lines = result.stderr.splitlines()
    expected = [
        (2, "server.listn", "unknown key; did you mean 'listen'? accepted: listen, public_url"),
        (3, "server.listen", "must be host:port"),
        (5, "redis.durability", "did you mean 'replica'? accepted: local, replica, fsync"),
        (8, "upstreams[0].provider", "did you mean 'kling'? accepted: openai, kling, jimeng"),
        (13, "routes[0].upstream", "no upstream 'kk'; did you mean 'k'?"),
        (14, "webhook", "unknown table; did you mean 'webhooks'?"),
    ]
    assert len(lines) == len(expected), result.stderr
    for line, (number, key, words) in zip(lines, expected, strict=True):
        assert line.startswith(f"{path}:{number}: {key}: "), line
        assert words in line

    as_json = invoke("check", "--config", path, "--json")
    assert (as_json.exit_code, as_json.stderr) == (1, "")
    assert json.loads(as_json.stdout) == {"ok": False, "problems": lines, "warnings": []}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[server", ":1: syntax: not TOML: "),
        (b"[server]\nlisten = '\xff'\n", ":2: file: is not UTF-8"),
        (b"[server]\nsecrets = ['${NO_SUCH_NAME}']\n", "NO_SUCH_NAME"),
    ],
)
def test_what_is_no_configuration_at_all_is_one_line(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(content)
    assert says in one_line(invoke("check", "--config", path))


def test_routes_prints_both_tables(config: Path) -> None:
    tables = told("routes", "--config", config)
    assert list(tables) == ["endpoints", "routes"]
    create = {
        "method": "POST",
        "path": "/v1/videos",
        "dialect": "openai",
        "operation": "create",
    }
    assert tables["endpoints"][0] == create
    [route] = tables["routes"]
    assert list(route) == [
        *("model", "upstream", "provider", "upstream_model", "price", "queue", "rewrites"),
    ]
    assert (route["model"], route["provider"]) == ("sora-2", "kling")
    assert (route["price"], route["queue"]) == ({"per_second": "0.07"}, 100)

    text = invoke("routes", "--endpoints", "--config", config).stdout
    heads = [line.split() for line in text.splitlines() if line.isupper()]
    assert heads[0][:2] == ["MODEL", "UPSTREAM"]
    assert heads[1] == ["METHOD", "PATH", "DIALECT", "OPERATION"]
    for row in tables["endpoints"]:
        assert re.search(r"\s+".join(map(re.escape, row.values())), text)
    assert re.search(r"(?m)^sora-2 +k +kling +kling-v2-6 +0\.07/s +100 +-$", text)


def test_routes_alone_are_not_buried_under_endpoints(config: Path) -> None:
    lines = invoke("routes", "--config", config).stdout.splitlines()
    assert lines[0].split()[:2] == ["MODEL", "UPSTREAM"]
    assert "PRICE USD" in lines[0]
    count = len(told("routes", "--config", config)["endpoints"])
    assert lines[2:] == ["", f"{count} endpoints: `reelway routes --endpoints` lists them."]


MODELS = """\
[[upstreams]]
name = "gpu"
provider = "openai"
base_url = "https://gpu.example/v1"
credentials = [{ name = "a", api_key = "a" }]
options = { server = "sglang", sizes = ["832x480", "480x832", "1280x720", "720x1280", "960x960"] }
[[routes]]
model = "kling-*"
upstream = [{ name = "k" }, { name = "gpu" }]
[[models]]
provider = "kling"
model = "kling-v2-6"
seconds = [5, 10, 15]
source = "the vendor's page"
read_on = 2026-11-30
"""


def test_models_prints_what_each_route_can_serve(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(ROUTED + MODELS)
    text = invoke("models", "--config", path).stdout
    head, fixed, wide, own = text.splitlines()
    assert "PRICE USD" in head
    assert re.fullmatch(
        r"sora-2 +k +kling-v2-6 +5, 10, 15 +720p, 1080p +first_frame 1, last_frame 1 +option"
        r" +0\.07/s",
        fixed,
    )
    assert re.fullmatch(
        r"kling-\* +k +as asked +3-15 +720p, 1080p +first_frame 1, last_frame 1 +option +-", wide
    )
    assert re.fullmatch(
        r"kling-\* +gpu +as asked +up to 600 +832x480, 480x832, 1280x720, 720x1280 \+1"
        r" +first_frame 1 +never +-",
        own,
    )


def test_one_model_is_told_as_clients_see_it_and_with_all_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(ROUTED + MODELS)
    first, second = told("models", "--model", "kling-v1", "--config", path)
    assert [first[key] for key in ("model", "upstream", "upstream_model")] == [
        *("kling-v1", "k", "kling-v1"),
    ]
    assert first["video"]["seconds"] == [5, 10]
    assert first["video"]["audio"] == "never"
    assert "Kling API page" in first["known"]["source"]
    assert (first["price"], second["upstream"]) == (None, "gpu")
    [fixed] = told("models", "--model", "sora-?", "--config", path)
    assert fixed["known"]["source"] == "the vendor's page"
    assert fixed["known"]["read_on"] == "2026-11-30"
    assert fixed["price"] == {"per_second": "0.07", "currency": "USD"}


def test_models_without_any_says_how_to_add_one_and_refuses_a_name_no_route_takes(
    tmp_path: Path,
) -> None:
    empty = invoke("models", "--config", ROOT / "config.toml").stdout
    assert "add [[upstreams]] and [[routes]]" in empty
    path = tmp_path / "config.toml"
    path.write_text(ROUTED)
    line = one_line(invoke("models", "--model", "veo-3", "--config", path))
    assert "no route takes the model 'veo-3'" in line


def test_settings_fit_a_terminal_of_100_columns(tmp_path: Path) -> None:
    """The file's path is told once; a long list goes on below, and a path stays whole."""
    path = tmp_path / "config.toml"
    path.write_text((ROOT / "config.toml").read_text() + ROUTED)
    shown = invoke("config", "show", "--origin", "--config", path).stdout.splitlines()
    assert shown[0] == str(path)
    assert shown[1].split() == ["KEY", "VALUE", "ORIGIN"]
    assert [line for line in shown[1:] if len(line) > 100 and str(tmp_path) not in line] == []
    assert sum(line.startswith(" ") for line in shown) > 3
    first = path.read_text().splitlines().index('listen = "127.0.0.1:8080"') + 1
    assert re.fullmatch(rf'server\.listen +"127\.0\.0\.1:8080" +line {first}', shown[2])
    document = {row["key"]: row for row in told("config", "show", "--config", path)}
    assert document["server.listen"]["origin"] == f"{path}:{first}"

    plain = invoke("config", "show", "--config", path).stdout
    assert " ".join(plain.split()) == " ".join(
        f"{key} {value}"
        for key, value in [("KEY", "VALUE"), *((k, r["value"]) for k, r in document.items())]
    )


def test_settings_of_the_environment_say_which_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_URL", "http://a.example")
    path = tmp_path / "config.toml"
    path.write_text('[server]\npublic_url = "${MY_URL}"\n')
    shown = invoke("config", "show", "--origin", "--config", path).stdout
    assert re.search(r'(?m)^server\.public_url +"http://a\.example" +env MY_URL$', shown)
    assert re.search(r"(?m)^server\.workers +1 +default$", shown)
    monkeypatch.chdir(tmp_path)
    path.unlink()
    shown = invoke("config", "show", "--origin").stdout
    assert shown.startswith("no config.toml here, the defaults\nKEY ")


def test_routes_without_any_says_how_to_add_one() -> None:
    assert (
        "add [[upstreams]] and [[routes]]"
        in invoke("routes", "--config", ROOT / "config.toml").stdout
    )


# ---------------------------------------------------------------- tokens


@pytest.mark.parametrize("command", [["token", "list"], ["task", "list"], ["webhook", "list"]])
def test_without_a_file_a_command_says_whose_store_it_looks_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """An empty store in the wrong directory looks like lost keys; a program's document is whole."""
    monkeypatch.chdir(tmp_path)
    result = invoke(*command, "--json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document == [] or document.popitem() == ("has_more", False)
    [line] = result.stderr.splitlines()
    assert line == (
        f"There is no ./config.toml: this is the store in {tmp_path / '.reelway'}; "
        "--config FILE names another."
    )
    (tmp_path / "config.toml").write_text(ROUTED)
    for named in ([], ["--config", "config.toml"]):
        assert invoke(*command, *named).stderr == ""


def test_a_key_is_made_listed_shown_and_revoked_without_a_gateway(config: Path) -> None:
    """The embedded store is started for each command and stopped after it."""
    at = ("--config", config)
    assert told("token", "list", *at) == []
    assert "There are no API keys yet" in invoke("token", "list", *at).stdout

    limits = ["--owner", "acme", "--models", "sora-2, sora-2*", "--budget", "4.50", "--rpm", "60"]
    limits += ["--max-in-flight", "2", "--expires", "30d", "--webhook", "https://a.example/hook"]
    made = told("token", "create", "--name", "me", *limits, *at)
    assert list(made) == [
        *("id", "token", "access_key", "secret_key", "webhook_secret"),
        *(PUBLIC + TIMES + MORE),
    ]
    assert made["access_key"] == made["id"]
    assert parse_token(made["token"]) is not None
    assert made["token"].startswith(f"rw_{made['id']}_")
    assert made["webhook_secret"].startswith("whsec_")
    assert {name: made[name] for name in PUBLIC} == {
        "name": "me",
        "owner": "acme",
        "state": "active",
        "generation": 1,
        "models": ["sora-2", "sora-2*"],
        "budget": "4.5",
        "rpm": 60,
        "max_in_flight": 2,
        "webhook": "https://a.example/hook",
    }
    assert made["expires"] > made["created"]
    assert made["revoked"] is None

    [listed] = told("token", "list", *at)
    assert list(listed) == ["id", *PUBLIC, *TIMES, *MORE]
    assert listed == {name: made[name] for name in listed}
    assert told("token", "show", made["id"], *at) == listed

    assert told("token", "revoke", made["token"], *at) == {"id": made["id"], "revoked": True}
    shown = told("token", "show", made["token"], *at)
    assert (shown["state"], shown["revoked"] is None) == ("revoked", False)


SOUND = """\
[server]
secrets = ["0123456789abcdef0123456789abcdef"]
[redis]
url = "embedded"
"""
ELSEWHERE = {
    "a wrong route": ROUTED + '[[routes]]\nmodel = "m"\nupstream = "nobody"\n',
    "a variable this shell lacks": ROUTED.replace('"b" }', '"${NOT_SET_ANYWHERE}" }'),
    "an unknown table": "[webhook]\nallow = []\n",
    "a wrong value beside": '[timeouts]\npoll_s = "soon"\n',
    "an open string": ROUTED + 'queue = "100\n',
    "a line that is no TOML": "[limits]\nthis is no setting\n",
}


@pytest.mark.parametrize("mistake", ELSEWHERE.values(), ids=[*ELSEWHERE])
def test_a_mistake_elsewhere_stops_no_command_of_an_emergency(mistake: str, tmp_path: Path) -> None:
    """A key is revoked, a task looked at, a webhook replayed and a credential restored with what
    the store needs alone; what was passed over is said."""
    path = tmp_path / "config.toml"
    path.write_text(SOUND)
    made = told("token", "create", "--name", "me", "--config", path)
    path.write_text(SOUND + mistake)
    assert invoke("check", "--config", path).exit_code == 1

    revoked = invoke("token", "revoke", made["id"], "--config", path)
    assert revoked.exit_code == 0, revoked.output
    assert "Going on without what 1 mistake above would set." in revoked.stderr
    assert f"warning: {path}:" in revoked.stderr
    assert told("token", "show", made["id"], "--config", path)["state"] == "revoked"
    assert told("task", "list", "--config", path)["tasks"] == []
    timeline = invoke("task", "timeline", "video_none", "--config", path)
    assert "there is no task video_none" in timeline.stderr
    assert invoke("webhook", "list", "--config", path).exit_code == 0
    restored = invoke("credential", "restore", "k/a", "--config", path)
    assert restored.exit_code == 0, restored.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[redis]\nurl = "nowhere"\n', "redis.url: must be embedded or one of"),
        ('[reddis]\nurl = "embedded"\n', "reddis: unknown table; did you mean 'redis'?"),
        ('[redis]\nurl = "${NOT_SET_ANYWHERE}"\n', "NOT_SET_ANYWHERE is not set"),
        ('[server]\nstate_dirr = "x"\n', "server.state_dirr: unknown key"),
        ('[redis]\nurl = "embedded\n', "syntax: not TOML"),
    ],
    ids=["a value", "a table's name", "a variable", "a key's name", "syntax"],
)
def test_a_mistake_in_what_names_the_store_stops_every_command(
    text: str, words: str, tmp_path: Path
) -> None:
    """A command must not work on another store than the one that was meant."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    for command in (["token", "revoke", "x"], ["task", "list"], ["webhook", "list"]):
        result = invoke(*command, "--config", path)
        assert result.exit_code == 1, result.output
        assert words in result.stderr
    assert not (tmp_path / ".reelway").exists()


def test_keys_are_made_only_with_a_sound_secret(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[server]\nsecrets = ["short"]\n')
    result = invoke("token", "create", "--name", "me", "--config", path)
    assert result.exit_code == 1
    assert "server.secrets" in result.stderr
    assert invoke("token", "list", "--config", path).exit_code == 0


def test_in_words_the_secrets_are_shown_once(config: Path) -> None:
    at = ("--config", config)
    made = invoke("token", "create", "--name", "me", *at)
    assert made.exit_code == 0
    said = dict(re.findall(r"(?m)^(\w+(?: \w+)?) {2,}(\S+)", made.stdout))
    assert list(said) == ["token", "access key", "secret key", "webhook secret"]
    assert "shown this once" in made.stderr

    listed = invoke("token", "list", *at).stdout
    assert re.search(rf"(?m)^{said['access key']} +me .* active +all ", listed)
    shown = invoke("token", "show", said["access key"], *at).stdout
    assert re.search(r"(?m)^budget +-$", shown)
    assert re.search(r"(?m)^models +all$", shown)
    assert re.search(r"(?m)^shared +no$", shown)
    secret = said["token"].rpartition("_")[2]
    for hidden in (secret, said["secret key"], said["webhook secret"]):
        assert hidden not in listed + shown

    revoked = invoke("token", "revoke", said["access key"], *at)
    assert revoked.stdout == f"{said['access key']} is revoked\n"


@pytest.mark.parametrize("command", [["ledger", "export"], ["token", "list"]], ids=" ".join)
def test_a_reader_that_has_enough_is_no_error(config: Path, command: list[str]) -> None:
    """As for other tools before `| head`: whether the line was still in a buffer or not."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "proxy", *command, "--config", str(config)],
            cwd=config.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=GUARD_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_amounts_have_a_currency_and_one_is_not_many(config: Path) -> None:
    config.write_text(ROUTED + '[billing]\ncurrency = "CNY"\n')
    assert invoke("token", "create", "--name", "me", "--config", config).exit_code == 0
    said = invoke("usage", "--config", config).stdout
    assert "\nAmounts are in CNY; " in said
    assert [counted(n, "entry", "entries") for n in (0, 1, 2)] == [
        *("0 entries", "1 entry", "2 entries"),
    ]
    assert [counted(n, "task") for n in (0, 1)] == ["0 tasks", "1 task"]


@pytest.mark.parametrize("command", ["show", "revoke"])
def test_an_unknown_key_is_one_line(config: Path, command: str) -> None:
    line = one_line(invoke("token", command, "nobody", "--config", config))
    assert line == "Error: there is no API key nobody; `token list` shows them all"


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--budget", "four", "'four' is not an amount; write it like 4.00"),
        ("--budget", "-1", "is not an amount"),
        ("--budget", "nan", "is not an amount"),
        ("--budget", "inf", "is not an amount"),
        ("--budget", "1e3", "is not an amount"),
        ("--budget", "0.0000001", "at most six decimals"),
        ("--budget", "1234567890", "below a billion"),
        ("--expires", "soon", "'soon' is not a time from now; write it like 30d"),
        ("--expires", "0d", "is not a time from now"),
        ("--expires", "30", "is not a time from now"),
        ("--expires", "-1d", "is not a time from now"),
        ("--expires", "5300w", "at most 36500d"),
        ("--rpm", "0", "0 is not in the range"),
        ("--max-in-flight", "many", "'many' is not a valid integer"),
        ("--name", " ", "a key needs a name"),
        ("--webhook", "ftp://a.example", "must be a valid http(s) URL"),
    ],
)
def test_a_limit_that_is_none_is_refused_before_a_key_is_made(
    config: Path, option: str, value: str, says: str
) -> None:
    result = invoke("token", "create", "--name", "me", option, value, "--config", config)
    assert result.exit_code == 2
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert option in last
    assert says in last
    assert not (config.parent / ".reelway").exists()


def test_a_model_that_no_route_serves_is_warned_of(config: Path) -> None:
    result = invoke(
        "token", "create", "--name", "me", "--models", "sora-*,kling-*", "--config", config
    )
    assert result.exit_code == 0
    assert "no route serves a model like 'kling-*'" in result.stderr
    assert "sora" not in result.stderr


def test_a_redis_that_is_not_there_is_one_line(tmp_path: Path, free_port: int) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        f'[server]\nsecrets = ["{"s" * 32}"]\n[redis]\nurl = "redis://127.0.0.1:{free_port}"\n'
    )
    line = one_line(invoke("token", "list", "--config", path))
    assert line.startswith("Error: [redis] url: ")
    assert f"127.0.0.1:{free_port}" in line


def test_a_state_directory_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('[server]\nstate_dir = "/proc/nowhere"\n')
    line = one_line(invoke("token", "list", "--config", path))
    assert line.startswith("Error: the state directory /proc/nowhere cannot be used: ")
    assert line.endswith("choose another [server] state_dir")


# ---------------------------------------------------------------- serve


def test_a_fresh_gateway_answers_and_says_what_is_missing(
    serving: tuple[Program, str], config_in_use: Path
) -> None:
    """With the root's config.toml there are no upstreams: the list of models is empty, and a
    request for one says why it is refused."""
    running, url = serving
    warning = json.loads(running.line())
    assert (warning["level"], warning["config"]) == ("warning", str(config_in_use))
    assert "no routes" in warning["event"]
    token = told("token", "create", "--name", "me", "--config", config_in_use)["token"]
    models = ask(f"{url}/v1/models", token)
    assert (models.status, models.json()) == (200, {"object": "list", "data": []})
    refused = ask(f"{url}/v1/videos", token, {"model": "sora-2", "prompt": "a cat"})
    error = refused.json()["error"]
    assert (refused.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"].startswith("Model 'sora-2' is not served here")
    unnamed = ask(f"{url}/v1/videos", token, {"prompt": "a cat"}).json()["error"]
    assert unnamed["message"].startswith("The request names no model, and there is no default")


def test_a_key_works_at_once_and_a_revoked_one_no_more(
    serving: tuple[Program, str], config_in_use: Path
) -> None:
    """Commands beside a running gateway use its store; the gateway hears of the change."""
    _, url = serving
    made = told("token", "create", "--name", "me", "--config", config_in_use)
    assert ask(f"{url}/v1/models", made["token"]).status == 200
    assert made["id"] in {key["id"] for key in told("token", "list", "--config", config_in_use)}
    told("token", "revoke", made["id"], "--config", config_in_use)
    eventually_sync(lambda: ask(f"{url}/v1/models", made["token"]).status == 401)


def test_a_busy_port_is_one_line_that_names_the_key(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        path.write_text(f'[server]\nlisten = "127.0.0.1:{port}"\n')
        ended = run("serve", "--config", str(path), cwd=tmp_path)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        f"Error: cannot listen on 127.0.0.1:{port}: another process listens there; "
        "choose another [server] listen\n"
    )


def test_reelway_is_python_m_proxy() -> None:
    ended = run("--version", cwd=ROOT)
    assert (ended.status, ended.err) == (0, "")
    assert re.fullmatch(r"reelway, version \d+\.\d+\.\d+\n", ended.out)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_is_told_how_to_complete(shell: str, tmp_path: Path) -> None:
    assert "_REELWAY_COMPLETE" in run("completion", shell, cwd=tmp_path).out
