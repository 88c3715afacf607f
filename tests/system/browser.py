"""A browser in front of a demo gateway: for the console's tests, and for its pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Browser, Playwright

from tests.rig.programs import program

CLIP = Path(__file__).parents[2] / "proxy" / "sim" / "assets" / "clip.mp4"


@dataclass(frozen=True, slots=True)
class Demo:
    """A running demo gateway. `url` is its clients' port, `token` a key for it; `admin_url` and
    `admin_token` are the console's."""

    url: str
    token: str
    admin_url: str
    admin_token: str
    sim_url: str
    config: Path


@contextmanager
def demo(state: Path, speed: float) -> Iterator[Demo]:
    """`python -m proxy demo` on free ports; it has ended when the block has."""
    ports = ("--port", "0", "--admin-port", "0")
    arguments = ("demo", *ports, "--json", "--speed", str(speed), "--state", str(state))
    with program(*arguments, cwd=state.parent) as running:
        told = json.loads(running.line())
        yield Demo(
            url=told["url"],
            token=told["token"],
            admin_url=told["admin_url"],
            admin_token=told["admin_token"],
            sim_url=told["sim_url"],
            config=state / "config.toml",
        )


@contextmanager
def chromium(playwright: Playwright, path: str) -> Iterator[Browser]:
    """Debian's own. Root has to do without its sandbox; it only meets our own pages."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    browser = playwright.chromium.launch(executable_path=path, args=arguments)
    try:
        yield browser
    finally:
        browser.close()
