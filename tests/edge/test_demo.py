"""`reelway demo`: one command, examples that work as printed, and nothing left behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from proxy.cli import main
from tests.rig.eventually import eventually_sync
from tests.rig.programs import (
    GUARD_S,
    ROOT,
    Ended,
    Program,
    ask,
    at_work_on,
    is_locked,
    program,
    python,
    run,
)

KEYS = ["url", "admin_url", "token", "access_key", "secret_key", "admin_token", "sim_url", "pid"]
ANY_PORTS = ("--port", "0", "--admin-port", "0")
CLIP = (ROOT / "proxy" / "sim" / "assets" / "clip.mp4").read_bytes()

# What each printed example leaves behind. Without curl, the demo says that two of them need it.
HAS_CURL = shutil.which("curl") is not None
EXAMPLES = {"1": "cat.mp4", "2": "sora.mp4", "3": "kling.mp4"} if HAS_CURL else {"2": "sora.mp4"}


def demo(*arguments: str, cwd: Path, **env: str) -> Any:
    return program("demo", *ANY_PORTS, *arguments, cwd=cwd, env=env)


def ready(running: Program) -> dict[str, Any]:
    """What `demo --json` prints when it serves."""
    told: dict[str, Any] = json.loads(running.line())
    return told


def assert_one_line(ended: Ended, status: int, *words: str) -> None:
    """It ended with one sentence for the operator: no traceback, no errno."""
    assert ended.status == status, ended
    assert ended.err.startswith("Error: "), ended
    assert ended.err.count("\n") == 1, ended
    assert "Errno" not in ended.err, ended
    for word in words:
        assert word in ended.err, ended


def assert_nothing_left(state: Path) -> None:
    assert at_work_on(state) == []
    assert not is_locked(state / "lock")
    assert not is_locked(state / "demo.lock")


def status_at_its_end(url: str, token: str) -> str:
    """Of a video, once it is neither queued nor in progress."""

    def status() -> str:
        return str(ask(url, token).json()["status"])

    eventually_sync(lambda: status() not in ("queued", "in_progress"))
    return status()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------- ready, used, stopped


def test_one_line_of_json_when_ready_then_sigterm_ends_it_cleanly(tmp_path: Path) -> None:
    """The line has exactly the promised keys; the state directory may have a path that is too
    long for a unix socket; after SIGTERM the exit status is 0 and no process is left."""
    state = tmp_path / ("long name " * 12)
    with demo("--json", "--state", str(state), cwd=tmp_path) as running:
        told = ready(running)
        assert list(told) == KEYS
        assert told["pid"] == running.pid
        models = ask(told["url"] + "/v1/models", told["token"]).json()["data"]
        assert {"sora-2", "kling-v2-6", "jimeng_t2v_v30"} <= {model["id"] for model in models}
        assert ask(told["admin_url"] + "/readyz").json() == {"status": "ready"}
        overview = ask(told["admin_url"] + "/api/overview", told["admin_token"]).json()
        assert (overview["ready"], overview["api_url"]) == (True, told["url"])
        assert len(at_work_on(state, besides=running.pid)) == 2, "the store and the simulator"
        running.signal(signal.SIGTERM)
        assert running.end() == Ended(0, "", "")
    assert_nothing_left(state)


def test_the_printed_examples_work_as_printed(tmp_path: Path) -> None:
    """Pasted into a shell, each ends with the file that the simulator made. The state directory
    is given relative to where the demo was started; Ctrl-C ends it with status 0. The printed
    command for more keys works beside it."""
    pasted = tmp_path / "elsewhere"
    pasted.mkdir()
    with demo("--speed", "100", "--state", "my state", cwd=tmp_path) as running:
        text = running.lines_until("Stop with Ctrl-C")
        blocks = {block[2]: block for block in re.findall(r"(?ms)^# \d\. .*?\n(?=\n)", text)}
        assert list(blocks) == ["1", "2", "3"]
        shells = {
            number: subprocess.Popen(
                ["bash"],
                cwd=pasted,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in EXAMPLES
        }
        said = {n: shell.communicate(blocks[n], GUARD_S) for n, shell in shells.items()}
        for number, file in EXAMPLES.items():
            assert shells[number].returncode == 0, said[number]
            assert number == "2" or said[number][1] == "", said[number]  # 2: the SDK's warning
            assert sha256((pasted / file).read_bytes()) == sha256(CLIP), said[number]
        assert re.fullmatch(r"video_\w+ completed 5 720x1280\n", said["2"][0])
        assert ("need curl" in text) is not HAS_CURL
        [command] = re.findall(r"(?m)^More keys: (.*)$", text)
        made = subprocess.run(
            f"{command} --json",
            shell=True,
            cwd=pasted,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            check=True,
            timeout=GUARD_S,
        )
        [url] = re.findall(r"(?m)^Reelway is serving on (.*)$", text)
        assert ask(f"{url}/v1/models", json.loads(made.stdout)["token"]).status == 200
        running.ctrl_c()
        assert running.end().status == 0
    assert_nothing_left(tmp_path / "my state")


# ---------------------------------------------------------------- killed, and started again


def test_after_kill_9_nothing_lives_on_and_the_next_start_knows_every_task(tmp_path: Path) -> None:
    """Also those that were rendering: each becomes a complete video, with the same keys."""
    state = tmp_path / "state"
    video = {"prompt": "a cat"}
    with demo("--json", "--state", str(state), cwd=tmp_path) as running:
        first = ready(running)
        videos, token = first["url"] + "/v1/videos", first["token"]
        finished = ask(videos, token, video).json()["id"]
        [upstream] = ask(first["sim_url"] + "/tasks").json()
        ask(f"{first['sim_url']}/tasks/{upstream['id']}/finish", method="POST")
        assert status_at_its_end(f"{videos}/{finished}", token) == "completed"
        rendering = [
            ask(videos, token, {**video, "model": model}).json()["id"]
            for model in ("sora-2", "sora-2-on-kling", "sora-2-on-jimeng")
        ]
        running.kill()
        eventually_sync(lambda: not at_work_on(state))
    assert_nothing_left(state)

    with demo(
        "--json", "--speed", "500", "--state", str(state), cwd=tmp_path, REELWAY_LOOP="asyncio"
    ) as running:
        again = ready(running)
        for name in ("token", "access_key", "secret_key", "admin_token"):
            assert again[name] == first[name], name
        assert "uvloop" not in Path(f"/proc/{running.pid}/maps").read_text(), "as it was told"
        videos = again["url"] + "/v1/videos"
        listed = ask(videos, token).json()["data"]
        assert {item["id"] for item in listed} == {finished, *rendering}
        for task in (finished, *rendering):
            assert status_at_its_end(f"{videos}/{task}", token) == "completed"
            reply = ask(f"{videos}/{task}/content", token)
            assert (reply.status, sha256(reply.body)) == (200, sha256(CLIP))
        running.signal(signal.SIGINT)
        assert running.end().status == 0


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)],
)
def test_stopped_while_it_starts_it_leaves_nothing(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    """The simulator is still importing then: it has not yet asked to die with its parent, and
    must notice by itself."""
    state = tmp_path / "state"
    with demo("--json", "--state", str(state), cwd=tmp_path) as running:
        eventually_sync(lambda: bool(at_work_on(state, besides=running.pid)))
        running.signal(number)
        assert running.end().status == status
        eventually_sync(lambda: not at_work_on(state))


# Runs the demo step by step (a step is what it does between two waits), and sends itself SIGTERM
# in the step after a file has appeared in the state directory.
STEP_BY_STEP = """
import os, signal, sys, types
from pathlib import Path
from proxy.cli.context import run
from proxy.cli.demo import DemoOptions, run_demo

state, landmark = Path(sys.argv[1]), Path(sys.argv[2])

@types.coroutine
def stepped(work):
    is_stopped = False
    resume = lambda: work.send(None)
    while True:
        if not is_stopped and landmark.exists():
            is_stopped = True
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            waits_for = resume()
        except StopIteration as end:
            return end.value
        try:
            value = yield waits_for
            resume = lambda value=value: work.send(value)
        except BaseException as error:
            resume = lambda error=error: work.throw(error)

async def demo():
    await stepped(run_demo(DemoOptions("127.0.0.1", 0, 0, state, 1.0, as_json=True)))

run(demo())
"""


@pytest.mark.parametrize(
    "landmark",
    [".", "state/demo.lock", "state/config.toml", "state/lock", "state/secret", "state/demo.json"],
)
def test_sigterm_at_any_step_of_the_start_is_remembered(tmp_path: Path, landmark: str) -> None:
    """Before anything is there, with the lock taken, the simulator announced, the store started,
    the gateway half made, and last of all when everything is ready to be announced: the demo
    ends, and never says that it is ready."""
    state = tmp_path / "state"
    arguments = ("-c", STEP_BY_STEP, str(state), str(tmp_path / landmark))
    with python(*arguments, cwd=tmp_path, in_background=True) as running:
        ended = running.end()
    assert (ended.status, ended.out) == (128 + signal.SIGTERM, ""), ended
    eventually_sync(lambda: not at_work_on(state))


def test_sigterm_ends_what_a_script_started_in_the_background(tmp_path: Path) -> None:
    """A shell without job control starts what stands before `&` with SIGINT ignored; SIGTERM
    while `serve` starts ends it all the same."""
    (tmp_path / "config.toml").write_text('[server]\nlisten = "127.0.0.1:0"\n')
    lock = tmp_path / ".reelway" / "lock"
    with program("serve", cwd=tmp_path, in_background=True) as running:
        eventually_sync(lock.exists)
        running.signal(signal.SIGTERM)
        assert running.end().status in (0, 128 + signal.SIGTERM)
    assert_nothing_left(lock.parent)


def test_when_the_simulator_dies_the_demo_says_so_and_ends(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with demo("--json", "--state", str(state), cwd=tmp_path) as running:
        simulator = ask(ready(running)["sim_url"] + "/").json()["pid"]
        os.kill(simulator, signal.SIGKILL)
        assert_one_line(running.end(), 1, "simulated upstreams ended", "-9")
    assert_nothing_left(state)


# ---------------------------------------------------------------- refused


def test_a_second_demo_on_a_state_directory_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with demo("--json", "--state", str(state), cwd=tmp_path) as running:
        told = ready(running)
        before = (state / "config.toml").read_bytes()
        ended = run("demo", *ANY_PORTS, "--state", str(state), cwd=tmp_path)
        assert_one_line(ended, 1, str(state), f"process {running.pid}", "--state")
        assert ended.out == ""
        assert (state / "config.toml").read_bytes() == before
        assert ask(told["url"] + "/v1/models", told["token"]).status == 200


@pytest.mark.parametrize("option", ["--port", "--admin-port"])
def test_a_busy_port_is_one_line_that_names_the_option(
    tmp_path: Path, option: str, busy_port: int
) -> None:
    other = "--admin-port" if option == "--port" else "--port"
    arguments = (option, str(busy_port), other, "0", "--state", str(tmp_path / "state"))
    ended = run("demo", *arguments, cwd=tmp_path)
    assert_one_line(
        ended, 1, f"127.0.0.1:{busy_port}", "another process listens", f"choose another {option}"
    )
    assert at_work_on(tmp_path / "state") == []


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["--state", "/proc/nowhere"], 1, "the state directory /proc/nowhere cannot be used"),
        (["--state", "{tmp}/file/under"], 1, "Not a directory; choose another --state"),
        (["--state", "{tmp}/file"], 2, "'{tmp}/file' is a file"),
        (["--host", "192.0.2.1"], 1, "192.0.2.1:0: Cannot assign requested address"),
        (["--host", "no.such.invalid"], 1, "cannot listen on no.such.invalid:0: "),
        (["--host", ""], 1, "cannot listen on ':0': want host:port"),
        (["--speed", "0"], 2, "'--speed': 0.0 is not in the range"),
        (["--speed", "nan"], 2, "'--speed': nan"),
        (["--port", "65536"], 2, "'--port': 65536 is not in the range"),
        (["--config", "x.toml"], 1, "the demo writes a configuration of its own"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_work_is_refused_with_a_sentence(
    tmp_path: Path, arguments: list[str], status: int, says: str
) -> None:
    (tmp_path / "file").touch()
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    state = [] if "--state" in arguments else ["--state", str(tmp_path / "state")]
    result = CliRunner().invoke(main, ["demo", *ANY_PORTS, *state, *given])
    assert result.exit_code == status, result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert says.format(tmp=tmp_path) in last
    assert "Errno" not in last
    assert result.stdout == ""


def test_without_aiohttps_c_parser_it_does_not_start(tmp_path: Path) -> None:
    ended = run("demo", *ANY_PORTS, cwd=tmp_path, env={"AIOHTTP_NO_EXTENSIONS": "1"})
    assert_one_line(ended, 1, "C parser", "AIOHTTP_NO_EXTENSIONS")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        yield port
