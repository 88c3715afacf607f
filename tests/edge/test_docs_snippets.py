"""The snippets of README.md, of the Chinese pages and of docs/clients run as they are printed, one
after the other as a reader would paste them, by the real SDKs and curl in a process of their own;
only the address and the keys are put in.

JavaScript is left to tests/system: the tests here need Python alone, and Node is not part of it.
Without curl the shell blocks are only parsed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from proxy.signing import sign_webhook
from proxy.tokens import webhook_secret
from tests.rig.house import House
from tests.tools.pages import ROOT, page, pages

GUARD_S = 60.0  # only a hang gets here
CLIP = (ROOT / "proxy" / "sim" / "assets" / "clip.mp4").read_bytes()
NAMES = [
    a.name
    for a in pages()
    if a.name == "README.md" or a.name.endswith(".zh.md") or a.name.startswith("docs/clients/")
]
# The files a page's blocks leave behind, each the simulator's clip.
PYTHON_FILES: Mapping[str, list[str]] = {
    "README.md": ["cat.mp4"],
    "README.zh.md": ["cat.mp4"],
    "docs/quickstart.zh.md": ["cat.mp4"],
    "docs/clients/openai.md": ["cat.mp4"],
    "docs/clients/kling.md": ["kling.mp4"],
    "docs/clients/jimeng.md": [],
    "docs/clients/generic.md": ["generic.mp4"],
}
SHELL_FILES: Mapping[str, list[str]] = {
    "README.md": [],
    "README.zh.md": [],
    "docs/quickstart.zh.md": ["kling.mp4"],
    "docs/clients/openai.md": ["cat.mp4", "part.mp4"],
    "docs/clients/kling.md": ["kling.mp4"],
    "docs/clients/jimeng.md": ["jimeng.mp4"],
    "docs/clients/generic.md": ["generic.mp4"],
}
HAS_CURL = shutil.which("curl") is not None
each_page = pytest.mark.parametrize("name", NAMES)


def filled_in(text: str, house: House) -> str:
    """The snippet for this house: `https` becomes plain HTTP, placeholders become its keys."""
    host = urlsplit(house.url).netloc
    given = {
        "https://video.example.com": house.url,
        'set_scheme("https")': 'set_scheme("http")',
        "video.example.com": host,
        "http://127.0.0.1:8080": house.url,
        "127.0.0.1:8080": host,
        "rw_…": house.token,
        '"access key"': f'"{house.made.record.id}"',
        '"secret key"': f'"{house.made.secret_key}"',
    }
    for written, value in given.items():
        text = text.replace(written, value)
    return text


async def ran(folder: Path, *command: str) -> str:
    """What a program that ended well has printed; it has no keys and settings but its own."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(GUARD_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, err.decode()
    return out.decode()


def assert_clips(folder: Path, names: list[str]) -> None:
    made = {path.name: hashlib.sha256(path.read_bytes()) for path in folder.glob("*.mp4")}
    whole = hashlib.sha256(CLIP).hexdigest()
    assert {name: digest.hexdigest() for name, digest in made.items()} == dict.fromkeys(
        names, whole
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pasted"
    made.mkdir()
    return made


def test_every_page_for_clients_is_run() -> None:
    assert sorted(NAMES) == sorted(PYTHON_FILES) == sorted(SHELL_FILES)


@each_page
async def test_the_python_blocks_run_and_leave_the_video(
    house: House, folder: Path, name: str
) -> None:
    blocks = page(name).blocks("python")
    assert blocks, "a page for clients has Python"
    (folder / "snippet.py").write_text(filled_in("\n".join(blocks), house), encoding="utf-8")
    await ran(folder, sys.executable, "snippet.py")
    assert_clips(folder, PYTHON_FILES[name])
    assert "completed" in [task["status"] for task in await listed(house)]


@each_page
async def test_the_shell_blocks_run_and_leave_the_video(
    house: House, folder: Path, name: str
) -> None:
    blocks = [block for block in page(name).blocks("sh") if "curl" in block]
    assert blocks, "a page for clients has curl"
    text = "set -euo pipefail\n" + filled_in("\n".join(blocks), house)
    (folder / "snippet.sh").write_text(text, encoding="utf-8")
    await ran(folder, "bash", *([] if HAS_CURL else ["-n"]), "snippet.sh")
    if HAS_CURL:
        assert_clips(folder, SHELL_FILES[name])
        assert await listed(house), "it made a task"


async def listed(house: House) -> list[dict[str, Any]]:
    tasks: list[dict[str, Any]] = (await house.get("/v1/videos")).json()["data"]
    return tasks


def checker() -> Callable[[str, Mapping[str, str], bytes], bool]:
    """The function a reader of the webhook section pastes."""
    [block] = [b for b in page("docs/clients/openai.md").blocks("python") if "is_from_reelway" in b]
    names: dict[str, Any] = {}
    exec(compile(block, "docs/clients/openai.md", "exec"), names)
    found: Callable[[str, Mapping[str, str], bytes], bool] = names["is_from_reelway"]
    return found


def signed(secret: str, body: bytes, signed_s: int) -> dict[str, str]:
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(signed_s),
        "webhook-signature": sign_webhook(secret, "evt_1", signed_s, body),
    }


def test_the_webhook_check_takes_ours_and_nothing_else() -> None:
    is_ours, secret, body = checker(), webhook_secret(b"s" * 32, "token", 1), b'{"id": "evt_1"}'
    now_s = int(time.time())
    headers = signed(secret, body, now_s)
    assert is_ours(secret, headers, body)
    assert is_ours(
        secret, {**headers, "webhook-signature": f"v1,AA {headers['webhook-signature']}"}, body
    )
    assert not is_ours(secret, headers, body + b" ")
    assert not is_ours(webhook_secret(b"s" * 32, "token", 2), headers, body)
    assert not is_ours(secret, {**headers, "webhook-id": "evt_2"}, body)
    assert not is_ours(secret, signed(secret, body, now_s - 400), body)
