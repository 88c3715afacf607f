"""The house has an order: a package imports only from itself and from those before it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.dialects import DIALECTS
from proxy.providers import PROVIDERS

ROOT = Path(__file__).parents[2] / "proxy"

# From left to right, as docs/architecture.md draws them.
ORDER = (
    {"errors", "model"},
    {"http", "signing", "caches"},
    {"dialects"},
    {"providers"},
    {"config"},
    {"store"},
    {"telemetry"},
    {"upstream", "tokens"},
    {"tasks"},
    {"gateway"},
    {"admin"},
    {"server"},
    {"cli", "__main__"},
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MOST_PACKAGES = 12
MOST_MODULES = 7
MOST_LINES = 450

# These decide and never act. `config/source.py` is the one that reads files.
PURE = (
    *("errors", "model", "http/*", "signing", "caches", "dialects/*", "providers/*", "config/*"),
    *(
        f"tasks/{name}"
        for name in ("lifecycle", "schedule", "breaker", "planning", "routing", "rewrite")
    ),
    *("tasks/pricing", "tasks/links", "gateway/endpoints", "gateway/scopes"),
    *("gateway/idempotency", "gateway/openapi*"),
    *(f"telemetry/{name}" for name in ("redaction", "spans", "exchange", "metric_definitions")),
    "telemetry/metrics_merge",
)
ACTS = ("asyncio", "socket", "time", "random", "aiohttp.web", "aiohttp.client")

# The only importers of a library, or of a class of it.
OWNERS = {
    "redis": ("store/*",),
    "opentelemetry": ("telemetry/otlp",),
    "aiohttp.ClientSession": (
        "upstream",
        "gateway/relay/*",
        "admin/data_port",  # our own ports are no upstreams
        "cli/doctor_proxy_check",
    ),
}


def stem(path: Path) -> str:
    """`tasks/queue` of proxy/tasks/queue.py."""
    return path.relative_to(ROOT).with_suffix("").as_posix().removesuffix("/__init__")


def room_of(path: Path) -> str:
    return stem(path).split("/")[0]


def modules() -> list[Path]:
    return [path for path in sorted(ROOT.rglob("*.py")) if room_of(path) != "sim"]


def fits(path: Path, globs: tuple[str, ...]) -> bool:
    return any(Path(stem(path) + "/x").match(f"{glob}/x") for glob in globs) or any(
        stem(path).startswith(glob[:-1]) for glob in globs if glob.endswith("*")
    )


def imports_of(path: Path) -> set[str]:
    """Dotted names this module imports. Those for types only count too: a word of a later package
    in a signature is a dependency as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_named(name: str, word: str) -> bool:
    return name == word or name.startswith(word + ".")


EACH_MODULE = pytest.mark.parametrize("path", modules(), ids=stem)


@EACH_MODULE
def test_a_module_imports_only_from_its_own_package_or_an_earlier_one(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        assert not imports_of(path) - {"__future__.annotations"}
        return
    assert room in RANK, f"{room} has no place in the order yet: say where it belongs"
    for name in imports_of(path):
        if is_named(name, "proxy"):
            other = name.split(".")[1]
            if other in RANK:
                assert RANK[other] <= RANK[room], f"{path}: {room} may not import {name}"


@EACH_MODULE
def test_what_decides_does_not_act(path: Path) -> None:
    if not fits(path, PURE):
        return
    acting = {name for name in imports_of(path) for word in ACTS if is_named(name, word)}
    assert not acting, f"{path} decides; it may not import {acting}"


@EACH_MODULE
def test_each_library_has_one_importer(path: Path) -> None:
    for name in imports_of(path):
        for library, owners in OWNERS.items():
            if is_named(name, library):
                assert fits(path, owners), f"{path} may not import {name}"


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """Modules that import each other, straight or by others."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> Iterator[list[str]]:
        if name in way:
            yield way[way.index(name) :]
        elif name not in done:
            for other in sorted(graph[name]):
                yield from walk(other, [*way, name])
            done.add(name)

    for name in sorted(graph):
        yield from walk(name, [])


def test_no_modules_import_each_other_in_a_circle() -> None:
    paths = {f"proxy.{stem(path).replace('/', '.')}": path for path in ROOT.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for module, path in paths.items():
        named = imports_of(path)
        graph[module] = {
            other
            for name in named
            for other in (name, name.rpartition(".")[0])
            if other in paths and other != module and (other == name or name not in paths)
        }
    assert list(circles(graph)) == []


def test_an_adapter_knows_no_other_adapter() -> None:
    for kind, registry in (("dialects", DIALECTS), ("providers", PROVIDERS)):
        homes = {type(adapter).__module__ for adapter in registry.values()}
        for home in homes:
            place = ROOT.parent / home.replace(".", "/")
            paths = sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]
            for path in paths:
                others = {
                    name
                    for name in imports_of(path)
                    for other in homes - {home}
                    if is_named(name, other)
                }
                assert not others, f"{path}: an adapter of {kind} knows {others}"


ADAPTERS = {*DIALECTS, *PROVIDERS}


def adapters_named_in(code: str) -> set[str]:
    """The dialects and providers that code names: by a string that is the name, or by an import of
    an adapter's module. A docstring may speak of them."""
    tree = ast.parse(code)
    texts = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in texts:
            found |= {name for name in ADAPTERS if node.value == name}
        elif isinstance(node, ast.Import):
            found |= {name for alias in node.names for name in adapters_of(alias.name)}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {n for alias in node.names for n in adapters_of(f"{node.module}.{alias.name}")}
    return found


def adapters_of(module: str) -> set[str]:
    """`kling` of proxy.dialects.kling, proxy.dialects.kling_openapi and proxy.providers.kling.x."""
    _, _, inner = module.partition("proxy.")
    room, *parts = inner.split(".")
    if room not in ("dialects", "providers"):
        return set()
    return {n for n in ADAPTERS for part in parts if part == n or part.startswith(f"{n}_")}


@EACH_MODULE
def test_only_adapters_are_named_for_a_dialect_or_a_provider(path: Path) -> None:
    """What is true of one of them is a fact on its class; everybody else asks for the fact."""
    if room_of(path) in ("dialects", "providers"):
        return
    named = adapters_named_in(path.read_text())
    assert not named, f"{path} names {named}: state the fact on the adapter's class and ask for it"


@pytest.mark.parametrize(
    ("code", "named"),
    [
        ('if call.dialect == "kling": pass', {"kling"}),
        ('FORMS = {"openai": True, "generic": True}', {"openai", "generic"}),
        ('def f(x: Literal["jimeng"] = "jimeng"): pass', {"jimeng"}),
        ("from proxy.dialects.openai import OpenAIDialect", {"openai"}),
        ("from proxy.dialects import kling_openapi", {"kling"}),
        ("import proxy.providers.jimeng.submit", {"jimeng"}),
        ("from proxy.dialects import DIALECTS", set()),
        ('"""kling"""\nclass A:\n    "jimeng"', set()),
        ('HEADER = "openai-poll-after-ms"', set()),
        ("from openai import OpenAI", set()),
    ],
)
def test_a_name_is_found_in_a_string_or_an_import(code: str, named: set[str]) -> None:
    assert adapters_named_in(code) == named


def test_the_control_plane_does_not_know_the_clients_port() -> None:
    for path in sorted((ROOT / "admin").rglob("*.py")):
        named = {name for name in imports_of(path) if is_named(name, "proxy.gateway")}
        assert not named, f"{path} may not import {named}"


def test_the_simulator_is_a_witness_of_its_own() -> None:
    for path in sorted((ROOT / "sim").rglob("*.py")):
        for name in imports_of(path):
            assert not is_named(name, "proxy") or is_named(name, "proxy.sim"), (path, name)
    for path in modules():
        if any(is_named(name, "proxy.sim") for name in imports_of(path)):
            assert room_of(path) == "cli", path


def test_the_top_is_small_and_no_module_is_long() -> None:
    packages = [path for path in ROOT.iterdir() if (path / "__init__.py").exists()]
    single = [path for path in ROOT.glob("*.py") if path.stem != "__init__"]
    assert len(packages) <= MOST_PACKAGES, sorted(path.name for path in packages)
    assert len(single) <= MOST_MODULES, sorted(path.name for path in single)
    long = {
        stem(path): lines
        for path in sorted(ROOT.rglob("*.py"))
        if (lines := path.read_text().count("\n")) > MOST_LINES
    }
    assert long == {}, f"longer than {MOST_LINES} lines: two subjects each?"


def test_no_class_has_the_name_of_another() -> None:
    homes: dict[str, set[str]] = {}
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes.setdefault(node.name, set()).add(stem(path))
    assert {name: places for name, places in homes.items() if len(places) > 1} == {}
