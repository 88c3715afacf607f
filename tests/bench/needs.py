"""What a run needs of the machine, and what the machine is."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

# Program and the Debian package it comes in. Without these there is no run.
PROGRAMS: Final = {
    "wrk": "wrk",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "caddy": "caddy",
    "openssl": "openssl",
    "ss": "iproute2",
}
LUA_MODULE: Final = "ngx_http_lua_module.so"
LUA_CLIENT: Final = Path("/usr/share/lua/5.1/nginx/redis.lua")
LUA_PACKAGES: Final = ("libnginx-mod-http-lua", "lua-nginx-redis")
_MODULE_DIRS: Final = (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))


class BenchError(Exception):
    """The run cannot go on; the message is for whoever started it."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where what runs. `load` also carries the upstreams."""

    load: int
    contender: int


def require() -> Cores:
    """Raises BenchError naming everything that is missing, with the line that gets it."""
    missing = [package for program, package in PROGRAMS.items() if not find(program)]
    if missing:
        raise BenchError(
            f"missing: {', '.join(missing)}\n"
            f"  apt-get install -y --no-install-recommends {' '.join(missing)}"
        )
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise BenchError("two cores are needed: one for the load, one for the contender")
    most = 4096
    if len(cores) and (limit := _files_limit()) < most:
        raise BenchError(f"the limit on open files is {limit}; run `ulimit -n {most}` first")
    return Cores(cores[0], cores[1])


def find(program: str) -> str | None:
    """Servers live in /usr/sbin, which is not on every user's PATH."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def lua_modules() -> Path | None:
    """The directory of nginx's modules if the Lua peer can be had."""
    if not LUA_CLIENT.exists():
        return None
    return next((folder for folder in _MODULE_DIRS if (folder / LUA_MODULE).exists()), None)


def machine() -> dict[str, str]:
    cpu = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.+)$", cpu, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return {
        "cpu": model[1] if model else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{int(memory[1]) / 1024 / 1024:.0f} GiB" if memory else "unknown",
        "kernel": platform.release(),
        "load average before": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def versions() -> dict[str, str]:
    return {
        "reelway": version("reelway"),
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "uvloop": version("uvloop"),
        "nginx": _said("nginx", "-v"),
        "haproxy": _said("haproxy", "-v"),
        "caddy": _said("caddy", "version"),
        "wrk": _said("wrk", "-v"),
    }


def _said(program: str, flag: str) -> str:
    done = subprocess.run(
        [find(program) or program, flag], capture_output=True, text=True, check=False, timeout=10
    )
    number = re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr)
    return number[0] if number else "unknown"


def _files_limit() -> int:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = hard if hard != resource.RLIM_INFINITY else max(soft, 65536)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted
