"""The documentation says nothing that is not there: its links, commands, settings and codes are
held against the files, the commands, the tables and the errors themselves."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

import proxy.errors
from proxy.cli import main
from proxy.config import SECTIONS, load
from proxy.config.reload import WAIT_KEYS
from proxy.config.source import fields_of
from proxy.config.tables import CredentialTable, RouteTable, UpstreamTable
from proxy.dialects import DIALECTS
from proxy.errors import (
    FAILURES,
    AuthFault,
    MethodNotAllowed,
    ProxyError,
    RangeNotSatisfiable,
    Unauthenticated,
)
from proxy.gateway.relay.base import RelayEnd
from proxy.providers import PROVIDERS
from tests.tools.config_reference import COMMAND, read_at_start
from tests.tools.config_reference import page as reference
from tests.tools.pages import ROOT, Page, commands_in, page, pages

PAGES = pages()
TROUBLE = page("docs/troubleshooting.md")
SOURCES = [
    (path, ast.parse(path.read_text(encoding="utf-8")))
    for path in sorted((ROOT / "proxy").rglob("*.py"))
    if "sim" not in path.relative_to(ROOT).parts
]
each_page = pytest.mark.parametrize("a_page", PAGES, ids=lambda a_page: a_page.name)


# ---------------------------------------------------------------- links


@each_page
def test_every_link_leads_somewhere(a_page: Page) -> None:
    """To a file of the repository, and to a heading of it."""
    assert [link for link in a_page.links() if dead(a_page, link)] == []


def dead(a_page: Page, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (a_page.path.parent / name).resolve() if name else a_page.path
    if not target.exists() or not target.is_relative_to(ROOT):
        return True
    if not anchor:
        return False
    return anchor not in page(str(target.relative_to(ROOT))).anchors()


@pytest.mark.parametrize("link", ["nowhere.md", "README.md#nowhere", "#nowhere", "../../etc"])
def test_a_dead_link_is_seen(link: str) -> None:
    assert dead(page("docs/README.md"), link)


def test_every_page_is_in_the_index() -> None:
    index = {
        (ROOT / "docs" / to.partition("#")[0]).resolve() for to in page_links("docs/README.md")
    }
    assert [a.name for a in PAGES if a.path not in index and a.name != "docs/README.md"] == []


def page_links(name: str) -> list[str]:
    return page(name).links()


# ---------------------------------------------------------------- commands


@each_page
def test_every_command_line_is_one_that_the_program_takes(a_page: Page) -> None:
    wrong = {" ".join(words): why for words in a_page.commands() if (why := refusal(words))}
    assert wrong == {}


def refusal(words: list[str]) -> str | None:
    """What click says against a command line, without running it."""
    command: click.Command = main
    context = click.Context(main, info_name="reelway")
    rest = list(words)
    try:
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            _, found, rest = command.resolve_command(context, rest)
            assert found is not None
            command = found
            context = click.Context(command, parent=context, **command.context_settings)
        if not rest:
            return None  # the name of a command, in a sentence
        command.parse_args(context, rest)
    except click.exceptions.Exit:  # --version, --help
        return None
    except click.UsageError as error:
        return error.format_message()
    return None


@pytest.mark.parametrize(
    "line",
    ["reelway tokn list", "reelway token create --nam x", "reelway serve --port 8080"],
)
def test_a_command_that_is_none_is_seen(line: str) -> None:
    [words] = commands_in(line)
    assert refusal(words) is not None


# ---------------------------------------------------------------- configuration


def test_the_reference_is_the_one_that_is_generated() -> None:
    made = reference()
    kept = page("docs/configuration.md").text
    assert kept == made, f"config.toml or its tables have changed; run: {COMMAND}"


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{a_page.name}-{number}")
        for a_page in PAGES
        for number, block in enumerate(a_page.blocks("toml"))
    ],
)
def test_every_toml_block_passes_check(block: str, tmp_path: Path) -> None:
    """Filled up with what it leaves out: upstreams its routes name, secrets of a shared Redis."""
    text = filled_up(block)
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+)\}", text))
    config = load(path, dict.fromkeys(names, "x" * 32), PROVIDERS)
    assert len(config.routes) == len(tomllib.loads(text).get("routes", []))


def filled_up(block: str) -> str:
    given = tomllib.loads(block)
    shares: list[str] = []
    for route in given.get("routes", []):
        told = route["upstream"]
        shares += [told] if isinstance(told, str) else [share["name"] for share in told]
    there = {upstream["name"] for upstream in given.get("upstreams", [])}
    text = block
    for name in dict.fromkeys(share for share in shares if share not in there):
        text += f'\n[[upstreams]]\nname = "{name}"\nprovider = "openai"\n'
        text += 'base_url = "http://x.example/v1"\ncredentials = [{ name = "a", api_key = "b" }]\n'
    if given.get("redis", {}).get("url", "embedded") != "embedded" and "server" not in given:
        text = f'[server]\nsecrets = ["{"s" * 32}"]\n{text}'
    return text


@each_page
def test_every_setting_it_names_is_one(a_page: Page) -> None:
    """`[section] key`, `section.key` and, alone, `key = value`."""
    keys = {name: set(table.model_fields) for name, table in SECTIONS.items()}
    tables: list[type[BaseModel]] = [UpstreamTable, RouteTable, CredentialTable]
    tables += [provider.options for provider in PROVIDERS.values()]
    rows = set[str]().union(*map(fields_of, tables))
    anywhere = rows.union(*keys.values())
    unknown = []
    for code in a_page.codes():
        told = re.fullmatch(r"\[(\w+)\](?: (\w+))?(?: = .*)?", code)
        dotted = re.fullmatch(rf"({'|'.join(keys)})\.([a-z]\w*)(?: = .*)?", code)
        alone = re.fullmatch(r"([a-z_]+) = .+", code)
        if told and told[1] not in ("upstreams", "routes"):
            fine = told[1] in keys and (told[2] is None or told[2] in keys[told[1]])
        elif dotted and dotted[2] not in ("py", "md", "toml"):
            fine = dotted[2] in keys[dotted[1]]
        else:
            fine = alone is None or alone[1] in anywhere
        if not fine:
            unknown.append(code)
    assert unknown == []


# ---------------------------------------------------------------- codes


def codes_in_code() -> Mapping[str, str]:
    """Every code an answer can have → the class of its error, "" where the listener writes it.

    A class's own `code`, and one given to an error where it is raised."""
    found: dict[str, str] = {}
    for _, tree in SOURCES:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                for line in node.body:
                    if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "code":
                        found[ast.literal_eval(line.value)] = node.name
            elif isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name == "error_reply":
                    found.setdefault(ast.literal_eval(node.args[2]), "")
                for keyword in node.keywords:
                    if keyword.arg == "code" and hasattr(proxy.errors, name):
                        found |= dict.fromkeys(words_of(keyword.value), name)
    return found


def table(heading: str) -> Iterator[list[str]]:
    """The cells of the table under a heading of the troubleshooting page."""
    section = re.split(rf"(?m)^#+ {heading}$", TROUBLE.text)[1]
    section = re.split(r"(?m)^#+ ", section)[0]
    for line in re.findall(r"(?m)^\| *`.*\|$|^\| [^`\n-].*\|$", section):
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def told_codes(heading: str) -> list[str]:
    return [cells[0].strip("`") for cells in table(heading) if cells[0].startswith("`")]


def native(error: ProxyError) -> tuple[str, str, str]:
    """(HTTP status, Kling's code, Jimeng's) as clients get them."""
    kling: Any = json.loads(DIALECTS["kling"].failure(error, "r").body)
    jimeng: Any = json.loads(DIALECTS["jimeng"].failure(error, "r").body)
    return str(error.status), str(kling["code"]), str(jimeng["code"])


def made(name: str) -> ProxyError | None:
    """An error of this class; None for one that only its own module knows."""
    kind = getattr(proxy.errors, name, None)
    if kind is None:
        subclasses = {each.__name__: each for each in every_error(ProxyError)}
        kind = subclasses.get(name)
    if kind is None or not name:
        return None
    if kind is Unauthenticated:
        return Unauthenticated("", AuthFault.UNKNOWN)
    if kind is MethodNotAllowed:
        return MethodNotAllowed("", ("GET",))
    if kind is RangeNotSatisfiable:
        return RangeNotSatisfiable("", 1)
    error: ProxyError = kind("")
    return error


def every_error(kind: type[ProxyError]) -> Iterator[type[ProxyError]]:
    yield kind
    for each in kind.__subclasses__():
        yield from every_error(each)


def test_the_table_of_error_codes_has_each_code_once_and_no_other() -> None:
    told = told_codes("Error codes")
    assert sorted(told) == sorted(codes_in_code())


def test_each_error_code_is_told_with_the_numbers_clients_get() -> None:
    classes = codes_in_code()
    rows = {cells[0].strip("`"): cells[1:4] for cells in table("Error codes") if len(cells) == 7}
    wrong = {}
    for code, numbers in rows.items():
        if code not in classes or code == "code":
            continue
        error = made(classes[code])
        wanted = native(error) if error is not None else (numbers[0], "–", "–")
        for given, right in zip(numbers, wanted, strict=True):
            if given not in (right, "–") and not given.startswith("["):
                wrong[code] = (numbers, wanted)
    assert len(rows) > 30
    assert wrong == {}


def test_each_fault_of_a_key_is_told_with_its_numbers() -> None:
    rows = [cells[1:] for cells in table("401") if cells[0] != "why"]
    wanted = []
    for fault in AuthFault:
        error = Unauthenticated("", fault)
        _, kling, jimeng = native(error)
        body = json.loads(DIALECTS["jimeng"].failure(error, "r").body)
        wanted.append([kling, jimeng, f"`{body['ResponseMetadata']['Error']['Code']}`"])
    assert sorted(rows) == sorted(wanted)


def test_the_table_of_failed_tasks_has_each_code_once_and_no_other() -> None:
    assert sorted(told_codes("Failed tasks")) == sorted(FAILURES)


def reasons_in_code() -> set[str]:
    """What is written into `exchange.reason`, as far as it is a word of its own."""
    found = {end.value for end in RelayEnd} | {"healed(n)"}
    for path, tree in SOURCES:
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign):
                for target, value in assigned(node):
                    if ast.unparse(target) == "exchange.reason":
                        found |= words_of(value)
            elif isinstance(node, ast.AsyncFunctionDef) and node.name == "_follow":
                returns = [line for line in ast.walk(node) if isinstance(line, ast.Return)]
                for line in returns if path.name == "events.py" else ():
                    found |= words_of(line.value)
    return found


def assigned(node: ast.Assign) -> Iterator[tuple[ast.expr, ast.expr]]:
    for target in node.targets:
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            yield from zip(target.elts, node.value.elts, strict=True)
        else:
            yield target, node.value


def words_of(value: ast.expr | None) -> set[str]:
    """The texts an expression may have as its value."""
    if isinstance(value, ast.BoolOp):
        return set().union(*(words_of(each) for each in value.values))
    if isinstance(value, ast.Constant) and isinstance(value.value, str):
        return {value.value}
    return set()


def test_the_table_of_reasons_has_each_reason_once_and_no_other() -> None:
    """But error codes, which have a table of their own."""
    told = told_codes("Reasons in the log")
    assert len(told) == len(set(told))
    assert set(told) == reasons_in_code() - set(codes_in_code())


def test_events_are_told_as_reasons_too() -> None:
    """The walk over the code finds what it should: it would else find too little unnoticed."""
    assert {"gone", "quoted", "queued", "client_gone", "drain", "probe"} <= reasons_in_code()


def test_what_a_worker_takes_at_its_start_is_said_to_wait_for_a_restart() -> None:
    named = {f"{section}.{key}" for section, keys in WAIT_KEYS.items() for key in keys}
    assert read_at_start() == named


# ---------------------------------------------------------------- the store's keys


def rooms_of_keys() -> set[str]:
    """The part of each key of `keys.py` that is no value: `own` of `rw:{s}:own:<owner>`."""
    source = (ROOT / "proxy" / "store" / "keys.py").read_text(encoding="utf-8")
    spelled = re.findall(r'"(rw:[^"]*)"', source)
    assert len(spelled) > 25
    parts = {part for key in spelled for part in re.sub(r"\{+[^}]*\}+", "", key).split(":")[1:]}
    rooms = set(re.findall(r'_room\("(\w+)"\)|_tagged\(task_id, .(\w+).\)', source))
    return {part for part in parts if part} | {name for pair in rooms for name in pair if name}


def test_the_table_of_the_store_s_keys_has_every_one() -> None:
    table = page("docs/architecture.md").text.partition("## Keys in Redis")[2].partition("\n## ")[0]
    told = {part for key in re.findall(r"`([^`]*)`", table) for part in re.split(r"[:\s|]", key)}
    assert rooms_of_keys() - told == set()


# ---------------------------------------------------------------- the threat model

THREATS = page("docs/threat-model.md").text


def test_every_test_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", THREATS))
    defined = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"(?m)^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 50
    assert sorted(named - defined) == []


def test_every_attack_of_the_threat_model_has_a_wall_and_a_test() -> None:
    tables = THREATS.split("| attack | wall | test |\n|---|---|---|\n")[1:]
    rows = [row for table in tables for row in table.partition("\n\n")[0].splitlines()]
    assert len(rows) > 50
    for row in rows:
        attack, wall, test = (cell.strip() for cell in row.strip("|").split("|"))
        assert attack, row
        assert wall, row
        assert re.fullmatch(r"`test_\w+`(, `test_\w+`)*", test), row


def test_every_limit_the_threat_model_names_is_a_setting() -> None:
    table = THREATS.partition("## What each limit protects")[2].partition("\n## ")[0]
    config = tomllib.loads((ROOT / "config.toml").read_text(encoding="utf-8"))
    rows = re.findall(r"(?m)^\| (`\[\w+\] .*?) \|", table)
    assert len(rows) > 5
    for row in rows:
        first, *others = re.findall(r"`([^`]*)`", row)
        section, _, name = first.removeprefix("[").partition("] ")
        assert {name, *others} <= set(config[section]), row
