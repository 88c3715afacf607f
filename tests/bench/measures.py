"""What is measured, and how. Each measure gives one or two `Table`s."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tests.bench.contenders import (
    DIRECT,
    GATEWAY,
    HAPROXY_SPLICE,
    SPLICE,
    TIERS,
    Contender,
    Gateway,
    Recipe,
    direct,
    status_contenders,
    stream_recipes,
    wait_answer,
)
from tests.bench.load import Job
from tests.bench.needs import LUA_PACKAGES, BenchError, find, lua_modules
from tests.bench.procs import Memory, armed, cpu_s, memory
from tests.bench.results import Table
from tests.bench.site import ROOT, VIDEO_BYTES, Site

CLIENTS: Final = 200
CLIENT_BYTES_S: Final = 50_000
SAMPLES: Final = 5
FIRST_RANGE_BYTES: Final = 1 << 20  # enough for every tier, little enough for many rounds
WRK_CONNECTIONS: Final = 64
_MB: Final = 1e6


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often."""

    reps: int = 3
    window_s: int = 3
    warm_s: float = 1.0
    slow_warm_s: float = 15.0  # until what was read ahead has gone to the slow clients
    rounds: int = 300
    starts: int = 7


QUICK: Final = Plan(reps=1, window_s=1, warm_s=0.3, slow_warm_s=2.0, rounds=30, starts=2)
Measure = Callable[[Site, Plan], list[Table]]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _figure_of(name: str, *tables: Table) -> Iterator[None]:
    """A contender that fails has no figure this time; the others go on, and the run says so."""
    try:
        yield
    except BenchError as fault:
        said = " ".join(str(fault).split())[:300]
        say(f"{tables[0].key} {name} failed: {said}")
        for table in tables:
            table.failures.append(f"{name}: {said}")


# ---------------------------------------------------------------- status polls


def status(site: Site, plan: Plan) -> list[Table]:
    """CPU per authenticated `GET /v1/videos/{id}` whose task is known: wrk, 64 connections."""
    table = Table("status", "Status poll", "µs CPU per request")
    rate = Table("status_rate", "Status poll, one core", "requests per second", is_more_better=True)
    with contextlib.ExitStack() as stack:
        contenders = status_contenders(site, stack, Gateway(site, TIERS[SPLICE]))
        for rep in range(plan.reps):
            for contender in contenders:
                with _figure_of(contender.name, table, rate):
                    _wrk(contender, 1, [site.cores.load])
                    pids, began = contender.pids(), time.monotonic()
                    before = cpu_s(pids)
                    requests = _wrk(contender, plan.window_s, [site.cores.load])
                    used = cpu_s(pids) - before
                    table.add(contender.name, used / requests * 1e6)
                    rate.add(contender.name, requests / (time.monotonic() - began))
                    say(f"status {rep} {contender.name}: {used / requests * 1e6:.1f} µs")
    if lua_modules() is None:
        table.notes.append(f"nginx + lua: not there, needs {' '.join(LUA_PACKAGES)}")
    table.notes.append("The Redis behind nginx + lua is not counted; the gateway's store is.")
    table.notes.append("The gateway writes an access line for each request (to /dev/null).")
    return [table, rate]


def _wrk(contender: Contender, seconds: int, cores: list[int]) -> int:
    url = f"http://127.0.0.1:{contender.port}{contender.paths['status']}"
    argv = [find("wrk") or "wrk", "-t1", f"-c{WRK_CONNECTIONS}", f"-d{seconds}s"]
    for name, value in contender.headers.items():
        argv += ["-H", f"{name}: {value}"]
    done = subprocess.run(
        [*argv, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
        preexec_fn=armed(set(cores)),
    )
    found = re.search(r"(\d+) requests in", done.stdout)
    if done.returncode or not found or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise BenchError(f"wrk against {contender.name}: {done.stdout}{done.stderr}")
    return int(found[1])


# ---------------------------------------------------------------- videos


def stream(site: Site, plan: Plan) -> list[Table]:
    """CPU per byte of video, at 16 and 200 downloads at once, and over a TLS upstream."""
    tables = {
        ("plain", 16): Table("stream16", "Videos over plain HTTP, 16 at once", "CPU s/GB"),
        ("plain", 200): Table("stream200", "Videos over plain HTTP, 200 at once", "CPU s/GB"),
        ("tls", 16): Table("tls16", "Videos from a TLS upstream, 16 at once", "CPU s/GB"),
    }
    plain_only = (SPLICE, HAPROXY_SPLICE)
    with contextlib.ExitStack() as stack:
        contenders = [start(stack) for start in stream_recipes(site).values()]
        for contender in contenders:
            _check_bytes(site, contender)
        for (scheme, streams), table in tables.items():
            for rep in range(plan.reps):
                for contender in contenders:
                    if scheme == "tls" and contender.name in plain_only:
                        continue
                    with _figure_of(contender.name, table):
                        got = _stream(site, plan, contender, scheme, streams)
                        per_gb = got["cpu_s"] / (got["bytes"] / 1e9)
                        table.add(contender.name, per_gb)
                        rate = f"{got['bytes'] / got['wall_s'] / _MB:.0f} MB/s"
                        say(f"{table.key} {rep} {contender.name}: {per_gb:.3f} s/GB, {rate}")
    return list(tables.values())


def _check_bytes(site: Site, contender: Contender) -> None:
    """A contender that is fast with wrong bytes is not fast."""
    for path in ("plain", "tls"):
        status_code, body = contender.get(path)
        if status_code != 200 or hashlib.sha256(body).hexdigest() != site.sha256:
            raise BenchError(f"{contender.name}: {path} gave {status_code}, {len(body)} bytes")


def _stream(
    site: Site, plan: Plan, contender: Contender, scheme: str, streams: int
) -> dict[str, float]:
    job = Job(
        "stream",
        [contender.target(scheme)],
        streams=streams,
        warm_s=plan.warm_s,
        window_s=plan.window_s,
        pids=contender.pids(),
    )
    with _load(site, job) as lines:
        got: dict[str, float] = json.loads(next(lines))
    if got["bytes"] < VIDEO_BYTES / 8:
        raise BenchError(f"{contender.name} moved only {got['bytes']} bytes")
    return got


@contextlib.contextmanager
def _load(site: Site, job: Job) -> Iterator[Iterator[str]]:
    """Run the clients of `job` beside the upstream; gives the lines they write."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=armed({site.cores.load}),  # noqa: PLW1509 -- this process has one thread
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        process.stdin.write(job.dumps())
        process.stdin.close()
        yield iter(process.stdout.readline, "")
        errors = process.stderr.read()
        if process.wait(60):
            raise BenchError(f"the clients failed: {errors.strip()[-600:]}")
    except StopIteration:
        process.wait(60)
        raise BenchError(f"the clients failed: {process.stderr.read().strip()[-600:]}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def first_byte(site: Site, plan: Plan) -> list[Table]:
    """How much later than direct the first byte of a video comes, one request at a time."""
    tables = [
        Table("first_byte_p50", "First byte later than direct, p50", "ms"),
        Table("first_byte_p99", "First byte later than direct, p99", "ms"),
    ]
    wanted = {"Range": f"bytes=0-{FIRST_RANGE_BYTES - 1}"}
    with contextlib.ExitStack() as stack:
        contenders = [start(stack) for start in stream_recipes(site).values()]
        targets = [direct(site, contenders[0].process).target("plain", wanted)]
        targets += [contender.target("plain", wanted) for contender in contenders]
        for rep in range(plan.reps):
            job = Job("first", targets, rounds=max(10, plan.rounds // plan.reps))
            with _load(site, job) as lines:
                waits: dict[str, list[float]] = json.loads(next(lines))
            for table, share in zip(tables, (50, 99), strict=True):
                at = {
                    name: statistics.quantiles(values, n=100)[share - 1]
                    for name, values in waits.items()
                }
                for contender in contenders:
                    table.add(contender.name, at[contender.name] - at[DIRECT])
                table.notes[:] = [f"direct takes {at[DIRECT]:.3f} ms (last repetition)"]
            say(f"first byte {rep}: direct p50 {statistics.median(waits[DIRECT]):.3f} ms")
    return tables


# ---------------------------------------------------------------- memory


def slow_clients(site: Site, plan: Plan) -> list[Table]:
    """Memory per download of 200 clients that take 50 KB/s each, on fresh processes."""
    user = Table("memory_user", "User memory per slow download", "KiB")
    total = Table("memory_total", "User and kernel memory per slow download", "KiB")
    recipes = stream_recipes(site)
    for rep in range(plan.reps):
        for name, start in recipes.items():
            with _figure_of(name, user, total):
                held = _held(site, plan, start)
                user.add(name, held.user / CLIENTS / 1024)
                total.add(name, (held.user + held.kernel) / CLIENTS / 1024)
                kernel = total.last(name) - user.last(name)
                say(f"memory {rep} {name}: user {user.last(name):.0f}, kernel {kernel:.0f} KiB")
    user.notes.append("PSS of the process tree less what it was before the clients came.")
    total.notes.append(
        "Kernel: what the contender's own sockets (ss -m) and pipes hold; not the clients' and "
        "the upstream's."
    )
    return [user, total]


def _held(site: Site, plan: Plan, start: Recipe) -> Memory:
    """What a fresh process holds for all clients together, beyond what it holds idle."""
    with contextlib.ExitStack() as stack:
        contender = start(stack)
        _stream_once(site, contender)
        pids = contender.pids()
        idle = memory(pids)
        job = Job(
            "slow",
            [contender.target("plain")],
            streams=CLIENTS,
            rate=CLIENT_BYTES_S,
            warm_s=plan.slow_warm_s,
            window_s=2.0,
        )
        with _load(site, job) as lines:
            next(lines)
            samples = [memory(pids) - idle for _ in range(SAMPLES)]
            held = Memory(
                round(statistics.median(sample.user for sample in samples)),
                round(statistics.median(sample.kernel for sample in samples)),
            )
            got = json.loads(next(lines))
    due = CLIENTS * CLIENT_BYTES_S * got["wall_s"]
    if got["bytes"] < due * 0.8:
        raise BenchError(f"it fed its slow clients {got['bytes']} of {due:.0f} bytes")
    return held


def _stream_once(site: Site, contender: Contender) -> None:
    """One download, so that what is loaded on first use counts as idle."""
    job = Job("first", [contender.target("plain", {"Range": "bytes=0-1048575"})], rounds=2)
    with _load(site, job) as lines:
        next(lines)


# ---------------------------------------------------------------- workers, start


def workers(site: Site, plan: Plan) -> list[Table]:
    """Status polls per second of two workers against one, on both cores, wrk among them."""
    table = Table("workers", "Two workers", "requests per second", is_more_better=True)
    cores = [site.cores.load, site.cores.contender]
    with contextlib.ExitStack() as stack:
        running = {}
        for count, name in ((1, "one worker"), (2, "two workers")):
            gateway = Gateway(site, TIERS[SPLICE], count)
            running[name] = gateway.start(name, stack, cores)
        for rep in range(plan.reps):
            for contender in running.values():
                began = time.monotonic()
                requests = _wrk(contender, plan.window_s, cores)
                table.add(contender.name, requests / (time.monotonic() - began))
                say(f"workers {rep} {contender.name}: {table.last(contender.name):.0f}/s")
    return [table]


def start(site: Site, plan: Plan) -> list[Table]:
    """From exec to the first answer of a status poll, the embedded store included."""
    table = Table("start", "Start to first answer", "ms")
    cpu = Table("start_cpu", "Start to first answer, CPU", "ms CPU")
    gateway = Gateway(site, TIERS[SPLICE])
    for rep in range(plan.starts):
        with contextlib.ExitStack() as stack:
            began = time.monotonic()
            running = gateway.start(
                GATEWAY, stack, [site.cores.load, site.cores.contender], is_waited=False
            )
            wait_answer(running)
            table.add(GATEWAY, (time.monotonic() - began) * 1000)
            cpu.add(GATEWAY, cpu_s(running.pids()) * 1000)
            if running.get("status")[0] != 200:
                raise BenchError("the gateway does not know its token or task after a restart")
            say(f"start {rep}: {table.last(GATEWAY):.0f} ms, CPU {cpu.last(GATEWAY):.0f} ms")
    table.notes.append("Wall time: on a busy machine look at the CPU time below.")
    return [table, cpu]


MEASURES: Final[dict[str, Measure]] = {
    "status": status,
    "stream": stream,
    "first-byte": first_byte,
    "memory": slow_clients,
    "workers": workers,
    "start": start,
}
