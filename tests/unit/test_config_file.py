"""config.toml at the root is what operators read instead of the code, so it may not differ."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from proxy.config import SECTIONS, Config, load
from proxy.config.source import fields_of
from proxy.config.tables import CredentialTable, RouteTable, UpstreamTable
from proxy.config.toml_lines import key_lines
from proxy.providers import PROVIDERS
from proxy.providers.catalogue.row import ModelRow

FILE = Path(__file__).parents[2] / "config.toml"
TEXT = FILE.read_text(encoding="utf-8")
LINES = TEXT.splitlines()
# A line that begins with # and no space is an example (the file's own rule).
EXAMPLES = re.sub(r"(?m)^#(?=\S)", "", TEXT)


def with_examples(tmp_path: Path) -> Config:
    path = tmp_path / "config.toml"
    path.write_text(EXAMPLES, encoding="utf-8")
    names = set(re.findall(r"\$\{(\w+)\}", EXAMPLES)) - {"NAME"}
    return load(path, dict.fromkeys(names, "from-env"), PROVIDERS)


def test_it_is_taken_as_it_is_without_any_environment() -> None:
    config = load(FILE, {}, PROVIDERS)
    assert (config.upstreams, config.routes) == ({}, ())


@pytest.mark.parametrize("section", list(SECTIONS))
def test_each_value_is_the_one_used_when_the_key_is_missing(section: str) -> None:
    table = SECTIONS[section]
    written = tomllib.loads(TEXT)[section]
    assert list(written) == list(table.model_fields), "the keys, in the code's order"
    assert table.model_validate(written) == table()


def test_each_key_has_a_comment_over_it_or_its_group() -> None:
    """Looking up from a key, a comment comes before a blank line or a heading."""
    bare = []
    for loc, line in key_lines(TEXT).items():
        if len(loc) != 2:
            continue
        above = line - 2  # the line before, counted from 0
        while above >= 0 and re.match(r"[a-z\s\]]", LINES[above]):
            above -= 1
        if not LINES[above].startswith("# "):
            bare.append(loc)
    assert bare == []


def test_the_examples_work_once_uncommented(tmp_path: Path) -> None:
    config = with_examples(tmp_path)
    assert {upstream.provider for upstream in config.upstreams.values()} == set(PROVIDERS)
    reached = {name for route in config.routes for name, _ in route.upstreams}
    assert reached == set(config.upstreams)
    assert "from-env" in {c.secret_key for u in config.upstreams.values() for c in u.credentials}


def test_the_guide_to_upstreams_routes_and_models_names_every_key() -> None:
    guide = {
        name
        for line in LINES
        if (found := re.match(r"#   (\w+(?: = \S+)?)  ", line))
        for name in [found[1].partition(" ")[0]]
    }
    named = set(re.findall(r"\w+", " ".join(line for line in LINES if line.startswith("#   "))))
    tables = {*fields_of(UpstreamTable), *fields_of(RouteTable), *fields_of(ModelRow)}
    assert guide == tables
    assert set(CredentialTable.model_fields) <= named
