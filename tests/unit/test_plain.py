"""What a terminal is shown of strangers' words."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from proxy.cli.context import say, say_json
from proxy.cli.plain import plain
from proxy.cli.tables import columns

# Cursor, title, bell, eight-bit CSI, turned letters, lines of their own.
NASTY = [
    "\x1b[31mRED",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x90q\x9c",
    "\u202eevil",
    "\u2066\u2069",
    "\u200e\u200f\u061c",
    "a\nowner           somebody",
    "a\r\nb",
    "a\u2028b\u2029c\x85d",
    "a\x0bb\x0cc",
    "\x00\x08\x7f",
    "\ud800",
    "\ufeff\u200b",
]


@pytest.mark.parametrize("text", NASTY)
def test_nothing_of_a_stranger_reaches_the_terminal_as_a_command(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown


def test_plain_text_of_any_script_stays_as_it_is() -> None:
    for text in ("a cat", "千军万马", "שלום", "مرحبا", "👩‍🚀 naïve", "C:\\new"):
        assert plain(text).replace("\\u200d", "\u200d") == text


@pytest.mark.parametrize("text", NASTY)
def test_a_table_keeps_its_lines(text: str) -> None:
    table = columns(("A", "B"), [(text, "x")])
    assert len(table.splitlines()) == 2
    assert table.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", NASTY)
def test_json_of_a_command_is_escaped_and_means_the_same(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    say_json({"prompt": text})
    said = capsys.readouterr().out
    assert said.removesuffix("\n").isprintable()
    assert json.loads(said) == {"prompt": text}


def test_lines_of_our_own_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    say("one\ntwo \x1b[2J")
    assert capsys.readouterr().out == "one\ntwo \\x1b[2J\n"


def test_every_command_prints_through_the_one_function() -> None:
    """`click.echo` is called where it is wrapped, and for the completion script, which is code."""
    found = {
        (path.name, call.lineno)
        for path in (Path(__file__).parents[2] / "proxy" / "cli").glob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call) and ast.unparse(call.func) in ("click.echo", "print")
    }
    assert {name for name, _ in found} == {"context.py", "__init__.py"}
    assert len(found) == 3
