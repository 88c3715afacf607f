"""Who is measured: the gateway in its tiers, its peers, and aiohttp as the floor.

A `Recipe` starts a contender and can start it again: memory is measured on a fresh process.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import redis

from proxy.server.store_program import find_server
from tests.bench.load import Target
from tests.bench.needs import BenchError, find, lua_modules
from tests.bench.procs import START_S, Process, free_ports, spawn, tree, wait_port
from tests.bench.site import ROOT, Site

SPLICE, PIPE, COPY = "gateway splice", "gateway pipe", "gateway copy"
NGINX, TUNED = "nginx default", "nginx tuned"
HAPROXY, HAPROXY_SPLICE, CADDY = "HAProxy", "HAProxy, splice", "Caddy"
FLOOR_PROXY = "aiohttp iter_any"
DIRECT = "direct"
GATEWAY, AUTH, LUA, FLOOR = (
    "gateway",
    "nginx auth_request",
    "nginx + lua + Redis",
    "aiohttp handler",
)

TIERS: Final = {
    SPLICE: '["splice", "pipe", "copy"]',
    PIPE: '["pipe", "copy"]',
    COPY: '["copy"]',
}
_TUNED = (
    "proxy_buffering off; proxy_buffer_size 256k; proxy_buffers 4 256k; "
    "proxy_busy_buffers_size 512k;"
)


@dataclass(frozen=True, slots=True)
class Contender:
    """`paths`: of the status, and of the video behind the plain and the TLS upstream."""

    name: str
    process: Process
    port: int
    paths: Mapping[str, str]
    headers: Mapping[str, str] = field(default_factory=dict)

    def pids(self) -> list[int]:
        return tree(self.process.pid)

    def target(self, path: str, extra: Mapping[str, str] | None = None) -> Target:
        headers = {"Host": f"127.0.0.1:{self.port}", **self.headers, **(extra or {})}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return Target(self.name, self.port, f"GET {self.paths[path]} HTTP/1.1\r\n{lines}\r\n")

    def get(self, path: str) -> tuple[int, bytes]:
        url = f"http://127.0.0.1:{self.port}{self.paths[path]}"
        request = urllib.request.Request(url, headers=dict(self.headers))
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, refusal.read()


def wait_answer(running: Contender) -> None:
    """Until it answers a status poll at all: the gateway binds its port before it is ready."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        running.process.check()
        with contextlib.suppress(OSError):
            running.get("status")
            return
        time.sleep(0.002)
    raise BenchError(f"{running.name} gave no answer within {START_S:g} s")


Recipe = Callable[[contextlib.ExitStack], Contender]


# ---------------------------------------------------------------- the gateway


class Gateway:
    """A gateway with its own state directory, a token, and one finished task per upstream."""

    def __init__(self, site: Site, tiers: str, workers: int = 1) -> None:
        self._site = site
        self._port, admin = free_ports(2)
        name = f"gateway-{self._port}"
        (site.work / name).mkdir()
        values = {"port": self._port, "admin": admin, "tiers": tiers, "workers": workers}
        self.config = site.config("gateway.toml", f"{name}/config.toml", values)
        self._headers = {"Authorization": f"Bearer {self._new_token()}"}
        self._paths = {"status": "/v1/videos/none"}
        with contextlib.ExitStack() as stack:
            self._make_tasks(self.start("gateway", stack, [site.cores.contender]))

    def start(
        self, name: str, stack: contextlib.ExitStack, cores: list[int], *, is_waited: bool = True
    ) -> Contender:
        """Its access lines are formatted and written, to nowhere."""
        argv = [sys.executable, "-m", "proxy", "serve", "--config", str(self.config)]
        trust = {"SSL_CERT_FILE": str(self._site.work / "cert.pem")}
        log = None if "plain" in self._paths else self.config.with_name("first.log")
        process = spawn(stack, name, argv, cores, log, trust, ROOT)
        running = Contender(name, process, self._port, self._paths, self._headers)
        if is_waited:
            wait_answer(running)
        return running

    def recipe(self, name: str) -> Recipe:
        return lambda stack: self.start(name, stack, [self._site.cores.contender])

    @property
    def token(self) -> str:
        return self._headers["Authorization"].removeprefix("Bearer ")

    def _new_token(self) -> str:
        argv = [sys.executable, "-m", "proxy", "token", "create", "--name", "bench", "--json"]
        argv += ["--config", str(self.config)]
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=60, cwd=ROOT
        )
        if done.returncode:
            raise BenchError(f"the gateway made no token: {done.stderr.strip()}")
        return str(json.loads(done.stdout)["token"])

    def _make_tasks(self, running: Contender) -> None:
        url = f"http://127.0.0.1:{running.port}/v1/videos"
        headers = {"Content-Type": "application/json", **self._headers}
        for kind in ("plain", "tls"):
            body = json.dumps({"model": kind, "prompt": "a cat"}).encode()
            request = urllib.request.Request(url, body, headers)
            with urllib.request.urlopen(request, timeout=30) as reply:
                task_id = json.load(reply)["id"]
            self._paths |= {
                kind: f"/v1/videos/{task_id}/content",
                f"{kind} status": f"/v1/videos/{task_id}",
            }
        for kind in ("plain", "tls"):
            self._wait_completed(running, f"{kind} status")
        self._paths["status"] = self._paths["plain status"]

    @staticmethod
    def _wait_completed(running: Contender, path: str) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            status, body = running.get(path)
            if status == 200 and json.loads(body)["status"] == "completed":
                return
            time.sleep(0.05)
        raise BenchError(f"the gateway's task does not complete: {body[:300]!r}")


# ---------------------------------------------------------------- peers for videos

_PATHS: Final = {"plain": "/plain/content", "tls": "/tls/content"}


def direct(site: Site, upstream: Process) -> Contender:
    return Contender(DIRECT, upstream, site.plain, _PATHS)


def stream_recipes(site: Site) -> dict[str, Recipe]:
    gateways = {name: Gateway(site, tiers).recipe(name) for name, tiers in TIERS.items()}
    return {
        **gateways,
        NGINX: lambda stack: _nginx(site, stack, NGINX, ""),
        TUNED: lambda stack: _nginx(site, stack, TUNED, _TUNED),
        HAPROXY: lambda stack: _haproxy(site, stack, HAPROXY, ""),
        HAPROXY_SPLICE: lambda stack: _haproxy(
            site, stack, HAPROXY_SPLICE, "option splice-response"
        ),
        CADDY: lambda stack: _caddy(site, stack),
        FLOOR_PROXY: lambda stack: _aiohttp(site, stack, FLOOR_PROXY, b""),
    }


def _nginx(site: Site, stack: contextlib.ExitStack, name: str, buffers: str) -> Contender:
    (port,) = free_ports(1)
    label = name.replace(" ", "-")
    values = {"name": label, "buffers": buffers}
    process = site.nginx(stack, label, "proxy.nginx.conf", site.cores.contender, port, values)
    return Contender(name, process, port, _PATHS)


def _haproxy(site: Site, stack: contextlib.ExitStack, name: str, splice: str) -> Contender:
    (port,) = free_ports(1)
    path = site.config("haproxy.cfg", f"haproxy-{port}.cfg", {"port": port, "splice": splice})
    argv = [find("haproxy") or "haproxy", "-db", "-q", "-f", str(path)]
    return _started(site, stack, name, argv, port)


def _caddy(site: Site, stack: contextlib.ExitStack) -> Contender:
    (port,) = free_ports(1)
    path = site.config("Caddyfile", "Caddyfile", {"port": port})
    argv = [find("caddy") or "caddy", "run", "--adapter", "caddyfile", "--config", str(path)]
    home = {"HOME": str(site.work), "XDG_DATA_HOME": str(site.work), "GOMAXPROCS": "1"}
    return _started(site, stack, CADDY, argv, port, env=home)


def _aiohttp(site: Site, stack: contextlib.ExitStack, name: str, answer: bytes) -> Contender:
    (port,) = free_ports(1)
    body = site.work / f"answer-{port}"
    body.write_bytes(answer)
    argv = [sys.executable, "-m", "tests.bench.floor"]
    argv += [str(port), str(site.plain), str(site.tls), str(body)]
    trust = {"SSL_CERT_FILE": str(site.work / "cert.pem")}
    paths = {**_PATHS, "status": "/v1/videos/any"}
    return _started(site, stack, name, argv, port, env=trust, paths=paths)


def _started(
    site: Site,
    stack: contextlib.ExitStack,
    name: str,
    argv: list[str],
    port: int,
    *,
    env: Mapping[str, str] | None = None,
    paths: Mapping[str, str] = _PATHS,
) -> Contender:
    log = site.work / f"{port}.log"
    process = spawn(stack, name, argv, [site.cores.contender], log, env, ROOT)
    wait_port(process, port)
    return Contender(name, process, port, paths)


# ---------------------------------------------------------------- peers for status polls


def status_contenders(site: Site, stack: contextlib.ExitStack, gateway: Gateway) -> list[Contender]:
    """The gateway and those that give the gateway's own answer, byte for byte."""
    ours = gateway.start(GATEWAY, stack, [site.cores.contender])
    _, answer = ours.get("status")
    floor = _aiohttp(site, stack, FLOOR, answer)
    found = [ours, _auth_request(site, stack, ours, gateway.token, answer), floor]
    if (modules := lua_modules()) is not None:
        found.append(_lua(site, stack, ours, gateway.token, answer, modules))
    for contender in found:
        status, body = contender.get("status")
        if (status, body) != (200, answer):
            raise BenchError(f"{contender.name} answers {status}: {body[:200]!r}")
    return found


def _auth_request(
    site: Site, stack: contextlib.ExitStack, ours: Contender, token: str, answer: bytes
) -> Contender:
    services, port = free_ports(2)
    values = {"services": services, "token": token, "answer": answer.decode()}
    load = site.cores.load
    site.nginx(stack, "services", "services.nginx.conf", load, services, values)
    process = site.nginx(
        stack, "auth", "auth.nginx.conf", site.cores.contender, port, {"services": services}
    )
    return Contender(AUTH, process, port, ours.paths, ours.headers)


def _lua(
    site: Site,
    stack: contextlib.ExitStack,
    ours: Contender,
    token: str,
    answer: bytes,
    modules: Path,
) -> Contender:
    """Its Redis runs beside the load and is not counted, which favours this peer."""
    path = site.work / "lua-redis.sock"
    argv = [str(find_server()), "--port", "0", "--unixsocket", str(path), "--save", ""]
    log = site.work / "lua-redis.log"
    store = spawn(stack, "Redis", argv, [site.cores.load], log, cwd=site.work)
    client = redis.Redis(unix_socket_path=str(path))
    stack.callback(client.close)
    deadline = time.monotonic() + START_S
    while True:
        store.check()
        with contextlib.suppress(redis.ConnectionError):
            client.ping()
            break
        if time.monotonic() > deadline:
            raise BenchError("the Redis of the Lua peer does not answer")
        time.sleep(0.02)
    secret = base64.b64encode(hashlib.sha1(token.encode()).digest()).decode()
    client.hset(f"tok:{secret}", "owner", "bench")
    task_id = ours.paths["status"].rpartition("/")[2]
    client.hset(f"task:{task_id}", mapping={"owner": "bench", "answer": answer})
    (port,) = free_ports(1)
    values = {"modules": modules}
    process = site.nginx(stack, "lua", "lua.nginx.conf", site.cores.contender, port, values)
    return Contender(LUA, process, port, ours.paths, ours.headers)
