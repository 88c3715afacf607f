"""The house has floors, and a module imports only from lower ones."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "proxy"

FLOORS: dict[str, int] = {
    "proxy": 0,
    "model": 0,
    "errors": 0,
    "http": 1,
    "signing": 1,
    "globs": 1,
    "plain": 1,
    "fingerprint": 1,
    "redaction": 1,
    "dialects": 2,
    "providers": 2,
    "clips": 3,
    "config_source": 3,
    "config_tables": 3,
    "config_checks": 3,
    "config": 3,
    "routing": 3,
    "rewrite": 3,
    "exposition": 3,
    "families": 3,
    "lifecycle": 3,
    "grants": 3,
    "memo": 3,
    "openapi": 3,
    "openapi_shapes": 3,
    "metrics": 3,
    "planning": 3,
    "pools": 3,
    "pricing": 3,
    "scopes": 3,
    "spans": 3,
    "causes": 4,
    "children": 4,
    "control": 4,
    "signals": 4,
    "systemd": 4,
    "logs": 4,
    "listener": 4,
    "mirror": 4,
    "otlp": 4,
    "phases": 4,
    "relay": 4,
    "spool": 4,
    "store": 4,
    "tracing": 4,
    "upstream": 4,
    "watch": 4,
    "account": 5,
    "aside": 4,
    "auth": 5,
    "fetch": 5,
    "gauges": 5,
    "intake": 5,
    "keyring": 5,
    "leases": 5,
    "links": 5,
    "slots": 5,
    "tokens": 5,
    "turnstile": 5,
    "usage": 5,
    "admin": 6,
    "content": 6,
    "delivery": 6,
    "dispatch": 6,
    "drip": 6,
    "front": 7,
    "events": 6,
    "gateway": 6,
    "heads": 5,
    "rates": 5,
    "notify": 6,
    "probe": 6,
    "queue": 6,
    "records": 6,
    "source": 6,
    "submission": 6,
    "tracker": 6,
    "reload": 7,
    "ground": 7,
    "server": 7,
    "worker": 8,
    "crew": 8,
    "supervisor": 8,
    "command": 8,
    "demo": 8,
    "cli": 8,
    "cli_credentials": 8,
    "cli_doctor": 8,
    "cli_health": 8,
    "cli_hooks": 8,
    "cli_ledger": 8,
    "cli_limits": 8,
    "cli_owners": 8,
    "cli_tasks": 8,
    "cli_tokens": 8,
    "__main__": 8,
}
PURE_UP_TO = 3
ACTS = ("asyncio", "socket", "time", "random", "aiohttp.web", "aiohttp.client")
READS_FILES = {"config_source"}
FILE_WORDS = {"open", "read_text", "read_bytes"}


def modules() -> list[Path]:
    return [p for p in sorted(ROOT.rglob("*.py")) if p.relative_to(ROOT).parts[0] != "sim"]


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    name = parts[0].removesuffix(".py")
    return "proxy" if name == "__init__" else name


def imports_of(path: Path) -> set[str]:
    """Dotted names this module imports when it is imported or run; typing-only ones count too,
    for a word of a higher floor in a signature is a dependency as well."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inner(name: str) -> str | None:
    """The room a name of ours lives in."""
    parts = name.split(".")
    if parts[0] != "proxy":
        return None
    return parts[1] if len(parts) > 1 and not parts[1].startswith("__v") else "proxy"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_floor_or_lower(path: Path) -> None:
    room = room_of(path)
    assert room in FLOORS, f"{room} has no floor yet: say where it belongs"
    for name in imports_of(path):
        other = inner(name)
        if other is not None and other in FLOORS:
            assert FLOORS[other] <= FLOORS[room], f"{path}: {room} may not import {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_lower_floors_are_pure(path: Path) -> None:
    if FLOORS[room_of(path)] > PURE_UP_TO:
        return
    for name in imports_of(path):
        assert not any(name == word or name.startswith(word + ".") for word in ACTS), (path, name)
    if room_of(path) not in READS_FILES:
        calls = {
            node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Call)
        }
        if FLOORS[room_of(path)] != 2:  # a multipart writer is opened there, not a file
            assert not calls & FILE_WORDS, path


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_each_library_has_one_importer(path: Path) -> None:
    names = {name.split(".")[0] for name in imports_of(path)}
    if "redis" in names:
        assert room_of(path) == "store", path
    if "opentelemetry" in names:
        assert room_of(path) == "otlp", path
    if room_of(path) in ("listener", "relay"):
        return
    used = {name for name in imports_of(path) if name.endswith(".ClientSession")}
    if used:  # our own port is no upstream
        assert room_of(path) == "upstream" or path.name in ("loopback.py", "front.py"), path


def test_an_adapter_knows_no_other_adapter_and_the_gateway_none() -> None:
    adapters = {"openai", "kling", "jimeng", "generic"}
    for kind in ("providers", "dialects"):
        for path in sorted((ROOT / kind).glob("*.py")):
            if path.stem not in adapters:
                continue
            others = {f"proxy.{kind}.{name}" for name in adapters - {path.stem}}
            assert not imports_of(path) & others, path
    for path in (
        ROOT / "gateway.py",
        ROOT / "submission.py",
        ROOT / "dispatch.py",
        ROOT / "tracker.py",
    ):
        named = {f"proxy.providers.{name}" for name in adapters}
        assert not imports_of(path) & named, path


def test_the_control_plane_knows_neither_gateway_nor_relay() -> None:
    for path in sorted((ROOT / "admin").rglob("*.py")):
        assert not {inner(name) for name in imports_of(path)} & {"gateway", "relay"}, path


def test_the_simulator_is_a_witness_of_its_own() -> None:
    for path in sorted((ROOT / "sim").rglob("*.py")):
        for name in imports_of(path):
            assert not name.startswith("proxy") or name.startswith("proxy.sim"), (path, name)
    for path in modules():
        if any(name.startswith("proxy.sim") for name in imports_of(path)):
            assert room_of(path) == "cli", path
