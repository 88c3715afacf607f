"""`python -m proxy.sim` as a process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from urllib.parse import urlsplit

import pytest

_START = (
    "import subprocess, sys\n"
    "child = subprocess.Popen([sys.executable, '-m', 'proxy.sim', '--json', '--die-with-parent'],"
    " stdout=subprocess.PIPE, text=True)\n"
    "print(child.stdout.readline(), end='', flush=True)\n"
    "sys.stdin.read()\n"
    "import os; os._exit(0)\n"
)


async def _spawn(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_one_json_line_when_ready_and_a_clean_end(number: signal.Signals) -> None:
    process = await _spawn("-m", "proxy.sim", "--json", "--speed", "50")
    assert process.stdout is not None
    told = json.loads(await process.stdout.readline())
    assert told["pid"] == process.pid
    assert told["openai_url"].endswith("/v1")
    assert told["credentials"]["openai"] == {"api_key": "sk-sim"}
    for name in ("openai_url", "kling_url", "jimeng_url", "cdn_url", "control_url"):
        parts = urlsplit(told[name])
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.close()
        await writer.wait_closed()
    process.send_signal(number)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")


async def test_it_ends_with_its_parent() -> None:
    parent = await _spawn("-c", _START)
    assert parent.stdout is not None
    assert parent.stdin is not None
    pid = json.loads(await parent.stdout.readline())["pid"]
    watch = os.pidfd_open(pid)
    try:
        ended = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_reader(watch, ended.cancel)
        parent.stdin.close()
        await parent.wait()
        await asyncio.wait([ended], timeout=10)
        assert ended.cancelled()
    finally:
        asyncio.get_running_loop().remove_reader(watch)
        os.close(watch)


async def test_a_taken_port_is_one_line() -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        process = await _spawn("-m", "proxy.sim", "--ports", f"kling={port}")
        _, err = await process.communicate()
    assert process.returncode == 1
    assert err.startswith(b"cannot listen on 127.0.0.1")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("arguments", [("--ports", "klong=1"), ("--speed", "0")])
async def test_a_wrong_argument_is_a_usage_error(arguments: tuple[str, str]) -> None:
    process = await _spawn("-m", "proxy.sim", *arguments)
    _, err = await process.communicate()
    assert process.returncode == 2
    assert arguments[0].encode() in err
