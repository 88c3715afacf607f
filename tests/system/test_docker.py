"""The image and the compose file we ship: what they say is right, and enough to run it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from dockerfile_parse import DockerfileParser

import proxy
from proxy.config import load
from proxy.providers import PROVIDERS
from proxy.server.supervisor import MARGIN_S
from proxy.server.worker import CUT_S

PACKAGE = Path(proxy.__file__).parent
ROOT = PACKAGE.parent
CONFIG = "/etc/reelway/config.toml"

Said = Callable[..., str]


class Image:
    """A Dockerfile: its stages, each a list of instructions and their words."""

    def __init__(self, path: Path) -> None:
        parser = DockerfileParser(fileobj=BytesIO(path.read_bytes()))
        self.stages: list[list[tuple[str, str]]] = []
        for step in parser.structure:
            if step["instruction"] == "FROM":
                self.stages.append([])
            if self.stages:
                self.stages[-1].append((step["instruction"], step["value"]))

    def last(self, instruction: str) -> str:
        """Its words in the stage that is shipped."""
        (*_, words) = (words for name, words in self.stages[-1] if name == instruction)
        return words


@pytest.fixture
def image(deploy: Path) -> Image:
    return Image(deploy / "Dockerfile")


def test_hadolint_finds_nothing(said: Said, deploy: Path) -> None:
    assert said("hadolint", "--failure-threshold", "info", deploy / "Dockerfile") == ""


def test_the_image_runs_as_nobody_and_builds_nothing(image: Image) -> None:
    """A tagged base, the program from another stage, a numeric user that is not root."""
    assert len(image.stages) == 2
    for stage in image.stages:
        name = stage[0][1].split()[0]
        assert ":" in name
        assert not name.endswith(":latest")
    assert image.last("USER") == "10001:10001"
    assert image.last("COPY").startswith("--from=build ")
    assert image.last("STOPSIGNAL") == "SIGTERM"
    commands = " ".join(words for name, words in image.stages[-1] if name == "RUN")
    for word in ("apt-get", "pip", "gcc", "build-essential", "curl"):
        assert word not in commands


def test_the_image_asks_for_its_own_health(image: Image) -> None:
    words = image.last("HEALTHCHECK").partition("CMD ")[2]
    program = json.loads(image.last("ENTRYPOINT"))
    assert json.loads(words) == [*program, "health", "--config", CONFIG]
    assert json.loads(image.last("CMD")) == ["serve", "--config", CONFIG]


def test_what_the_image_installs_is_whole(image: Image, tmp_path: Path, said: Said) -> None:
    """Scripts, pages and pictures beside the modules come along when the package is built from
    what the Dockerfile copies."""
    source = tmp_path / "source"
    copied = [words for name, words in image.stages[0] if name == "COPY"]
    for words in copied:
        *names, target = words.split()
        for name in names:
            if (ROOT / name).is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / name, source / target, ignore=ignored)
            else:
                source.mkdir(exist_ok=True)
                shutil.copy(ROOT / name, source / target)
    said(
        "python",
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        ".",
        "--wheel-dir",
        tmp_path,
        cwd=source,
    )
    (wheel,) = tmp_path.glob("reelway-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if name.startswith("proxy/")}
    files = (path for path in PACKAGE.rglob("*") if path.is_file())
    here = {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}
    assert packed == here


def test_the_ignored_are_not_the_copied(image: Image, deploy: Path) -> None:
    """The build sees only what the Dockerfile names."""
    lines = (deploy / "Dockerfile.dockerignore").read_text().split()
    allowed = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {
        name
        for words in (words for kind, words in image.stages[0] if kind == "COPY")
        for name in words.split()[:-1]
    }
    assert lines[0] == "*"
    assert allowed == copied


# ---------------------------------------------------------------- compose


@pytest.fixture
def services(deploy: Path) -> dict[str, Any]:
    read = yaml.safe_load((deploy / "compose.yaml").read_text())
    return dict(read["services"])


def test_the_compose_file_is_of_the_specification(said: Said, deploy: Path) -> None:
    said("check-jsonschema", "--builtin-schema", "vendor.compose-spec", deploy / "compose.yaml")


def test_composed_services_are_healthy_before_they_are_used(services: dict[str, Any]) -> None:
    """The gateway's own check is in its image."""
    assert services["gateway"]["depends_on"] == {"valkey": {"condition": "service_healthy"}}
    assert services["valkey"]["healthcheck"]["test"] == ["CMD", "valkey-cli", "ping"]


def test_the_composed_store_forgets_nothing(services: dict[str, Any]) -> None:
    command = services["valkey"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--appendonly"] == "yes"
    assert options["--appendfsync"] == "always"
    assert options["--maxmemory-policy"] == "noeviction"


def test_the_composed_configuration_is_sound(
    services: dict[str, Any], deploy: Path, said: Said
) -> None:
    """With what the example asks to be filled in; and a stop leaves time for the drain."""
    lines = (deploy / "compose.env.example").read_text().splitlines()
    asked = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    env = {name: value or "x" * 32 for name, value in asked.items()}
    said("reelway", "check", "--config", deploy / "compose.toml", env=env)
    config = load(deploy / "compose.toml", env, PROVIDERS)
    assert config.redis.durability == "fsync"
    most = config.timeouts.drain_s + CUT_S + MARGIN_S
    assert int(services["gateway"]["stop_grace_period"].removesuffix("s")) > most
    published = [port.rsplit(":", 1)[1] for port in services["gateway"]["ports"]]
    listening = [config.server.listen, config.admin.listen]
    assert published == [address.rsplit(":", 1)[1] for address in listening]
    assert f"./compose.toml:{CONFIG}:ro" in services["gateway"]["volumes"]
