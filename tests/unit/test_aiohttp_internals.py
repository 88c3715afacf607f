"""What the gateway uses of aiohttp beyond its documented API is listed, and looked for at start."""

from __future__ import annotations

import ast
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from proxy.gateway import aiohttp_internals
from proxy.gateway.aiohttp_internals import REQUIRED, TAKEOVER, Internal, UnusableAiohttp

GATEWAY = Path(aiohttp_internals.__file__).parent
USERS = sorted(
    [
        *(GATEWAY / "listener").glob("*.py"),
        *(GATEWAY / "relay").glob("*.py"),
        GATEWAY.parent / "upstream.py",
    ]
)
OF_PYTHON = {"_asdict", "_replace"}


class WithoutWaiter:
    """A RequestHandler of another aiohttp: nothing says when it waits for a request."""

    __slots__ = ("_messages",)

    def __init__(self) -> None:
        self._messages: list[object] = []


def test_the_installed_aiohttp_has_all_of_it() -> None:
    aiohttp_internals.check()
    assert aiohttp_internals.missing(TAKEOVER) == []


def test_an_aiohttp_that_lacks_something_is_refused_in_one_sentence() -> None:
    """The refusal names the version and everything that is missing."""
    required = [
        Internal(WithoutWaiter, "_messages", "it has that"),
        Internal(WithoutWaiter, "_waiter", "it lacks that"),
        Internal(web.Server, "_no_such_table", "and aiohttp lacks that"),
    ]
    with pytest.raises(UnusableAiohttp) as refusal:
        aiohttp_internals.check(required)
    assert str(refusal.value) == (
        f"aiohttp {aiohttp.__version__} lacks WithoutWaiter._waiter, Server._no_such_table, which "
        "this gateway needs; install the aiohttp that it was released with"
    )


def private_names(path: Path) -> set[str]:
    """Private attributes that this module reads or sets, and does not define."""
    tree = ast.parse(path.read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    defined: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            defined |= own_names(node)
    private = {name for name in used if name.startswith("_") and not name.startswith("__")}
    return private - defined - OF_PYTHON


def own_names(node: ast.ClassDef) -> set[str]:
    """What a class of ours names itself: methods, fields, slots, and what `__init__` sets."""
    found: set[str] = set()
    for item in node.body:
        if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(item.name)
            if item.name == "__init__":
                found |= {
                    inner.attr
                    for inner in ast.walk(item)
                    if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store)
                }
        elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            found.add(item.target.id)
        elif isinstance(item, ast.Assign) and isinstance(item.value, ast.Tuple):
            found |= {str(ast.literal_eval(name)) for name in item.value.elts}
    return found


def test_every_private_name_in_use_stands_in_the_list() -> None:
    """Whoever leans on one more private of aiohttp has to say so, and it is then looked for."""
    listed = {internal.name for internal in (*REQUIRED, *TAKEOVER)}
    unlisted = {
        path.relative_to(GATEWAY.parent).as_posix(): names
        for path in USERS
        if (names := private_names(path) - listed)
    }
    assert unlisted == {}


def test_nothing_in_the_list_is_unused() -> None:
    text = "".join(path.read_text() for path in USERS)
    assert [str(each) for each in (*REQUIRED, *TAKEOVER) if each.name not in text] == []
