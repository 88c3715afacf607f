"""Every module can be imported alone, with warnings as errors and without work at import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Each module in a fresh namespace of one interpreter: what an earlier one imported is forgotten.
_ALONE = """
import importlib, sys, warnings
warnings.simplefilter("error")
kept = set(sys.modules)
for name in sys.argv[1:]:
    for other in [m for m in sys.modules if m == "proxy" or m.startswith("proxy.")]:
        del sys.modules[other]
    importlib.import_module(name)
    print(name)
"""


def test_every_module_imports_alone_without_a_warning() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "proxy").rglob("*.py"))
        if path.name != "__main__.py"
    ]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _ALONE, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,  # only a hang gets here
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == names
