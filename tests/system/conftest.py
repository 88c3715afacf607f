"""What the system tests share: the programs they run, and where deploy/ is.

A program that is missing is an error which names the package it comes in, never a skip.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RUN_S = 60.0  # only a hang gets here
# Servers live in /usr/sbin, which is not on every user's PATH; what the `system` extra brings
# goes before what the machine has.
PATH = os.pathsep.join(
    [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
)
# Programs that come in wheels, with the extra `system`.
WHEELS = ("check-jsonschema", "hadolint", "kubectl", "kubernetes-validate", "python", "reelway")


def packages() -> Mapping[str, str]:
    """Program → Debian package."""
    lines = (HERE / "packages.txt").read_text().splitlines()
    known = {}
    for line in lines:
        if not line.startswith("#"):
            program, package = line.split()
            known[program] = package
    return known


@pytest.fixture(scope="session")
def tool() -> Callable[[str], str]:
    """`tool("nginx")` is the program's path; fails with the line that installs it."""
    known = packages()

    def find(program: str) -> str:
        assert program in known or program in WHEELS, f"add {program} to tests/system/packages.txt"
        path = shutil.which(program, path=PATH)
        if path is None:
            line = (
                "pip install -c constraints.txt -e '.[system]'"
                if program in WHEELS
                else f"apt-get install -y --no-install-recommends {known[program]}"
            )
            pytest.fail(f"{program} is not installed: {line}", pytrace=False)
        return path

    return find


@pytest.fixture(scope="session")
def said(tool: Callable[[str], str]) -> Callable[..., str]:
    """`said("nginx", "-t")`: run the tool to its end; its output, standard error after it. Fails
    with both unless it exits with `status`."""

    def run(
        program: str,
        *args: str | Path,
        status: int = 0,
        cwd: Path = ROOT,
        env: Mapping[str, str] | None = None,
    ) -> str:
        ended = subprocess.run(
            [tool(program), *map(str, args)],
            cwd=cwd,
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            check=False,
            timeout=RUN_S,
        )
        output = ended.stdout + ended.stderr
        assert ended.returncode == status, f"{program} exited with {ended.returncode}:\n{output}"
        return output

    return run


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The directory of what is shipped for deployment."""
    return ROOT / "deploy"
