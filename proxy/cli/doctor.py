"""`reelway doctor`: what would fail."""

from __future__ import annotations

import asyncio
import resource
import shutil
import time
from contextlib import closing
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import click

from proxy.cli.context import (
    config_option,
    json_option,
    load_config,
    run,
    say,
    say_json,
    with_store,
)
from proxy.cli.doctor_proxy_check import judge
from proxy.cli.health import connection_to
from proxy.cli.plain import plain
from proxy.config import Config
from proxy.gateway import aiohttp_internals
from proxy.gateway.relay import usable_tiers
from proxy.providers import PROVIDERS
from proxy.server.bootstrap import CannotServe, signing_secrets
from proxy.store import Store, StoreDown
from proxy.store.capabilities import Finding, findings, latency
from proxy.store.keys import credential_name
from proxy.tasks.breaker import overall_health, state_now
from proxy.tasks.credential_test import SKEW_S, CredentialCheck, model_for, probe
from proxy.telemetry.explain import cause_of
from proxy.telemetry.metrics import Metrics
from proxy.telemetry.tracing import missing
from proxy.upstream import Deadlines, Upstreams

MIN_FILES = 4096  # of each process
FILES_MARK = 0.8  # of the files it may have open; the alert ReelwayFilesRunOut has the same


@click.command()
@config_option
@json_option
def doctor(config_path: Path | None, as_json: bool) -> None:
    """Look for problems: Redis, upstreams, addresses, limits.

    Each credential is tested with a request that costs nothing. Exit 1 when
    something is an error.
    """
    config = load_config(config_path)
    found = [*_store(config), *run(_around(config)), _space(config), _files(config), *_aiohttp()]
    if as_json:
        say_json([{"level": each.level, "text": each.text} for each in found])
    else:
        for each in found:
            say(f"{each.level:<8}{plain(each.text)}")
    raise SystemExit(1 if any(each.level == "error" for each in found) else 0)


def _store(config: Config) -> list[Finding]:
    """What the store can promise, and how fast; or the one error that it cannot be used, with
    which the rest is looked at all the same."""
    found: list[Finding] = []

    async def look(store: Store) -> None:
        found.extend(await findings(store.batch, config.redis.durability))
        found.append(await latency(store.batch))
        found.extend(await _health(config, store))

    try:
        with_store(config, look)
    except click.ClickException as error:
        cause = error.__cause__
        if isinstance(cause, StoreDown):
            # redis-py tells of a Sentinel with all its settings.
            why = cause_of(cause.__cause__ or cause).partition(" : <")[0]
            found.append(
                Finding(
                    "error",
                    f"redis: {_place(config.redis.url)} does not answer ({why}): every submit is "
                    "refused; start it, or correct [redis] url",
                )
            )
        else:
            found.append(Finding("error", f"redis: {error.message}"))
    return found


async def _health(config: Config, store: Store) -> list[Finding]:
    """How the upstreams stand with the gateway that runs: as well as their best usable key."""
    now_ms, found = int(time.time() * 1000), []
    for upstream in config.upstreams.values():
        keys = [
            credential_name(upstream.name, key.name)
            for key in upstream.credentials
            if not key.retired
        ]
        own, *others = await store.credentials.health([upstream.name, *keys])
        whole = overall_health(own, others, now_ms)
        out = [
            f"{name} ({health.code})"
            for name, health in zip(keys, others, strict=True)
            if state_now(health, now_ms) == "out"
        ]
        if whole.state in ("out", "broken"):
            text = f"is {whole.state} ({whole.code or 'no code'}): it takes no submit"
            found.append(Finding("error", f"upstream {upstream.name}: {text}"))
        elif out:
            text = f"upstream {upstream.name}: out of use: {', '.join(out)}"
            found.append(Finding("warning", text))
    return found


def _place(url: str) -> str:
    """Where the store is, without the password."""
    parts = urlsplit(url)
    return (parts.netloc.rpartition("@")[2] + parts.path.rstrip("/")) or url


async def _around(config: Config) -> list[Finding]:
    """What is not on this machine, or stands in front of it."""
    found = [*await _upstreams(config), *await _collector(config)]
    try:
        secret = signing_secrets(config)[0]
    except (CannotServe, OSError) as error:
        return [*found, Finding("error", f"[server] secrets: {error}")]
    trusted = config.server.trusted_proxies
    return [*found, *await judge(config.public_url, secret, time.time, trusted)]


async def _upstreams(config: Config) -> list[Finding]:
    """What each provider says to each credential, asked for a task that cannot exist."""
    timeouts = config.timeouts
    deadlines = Deadlines(
        timeouts.connect_s, timeouts.submit_s, timeouts.poll_s, timeouts.idle_upstream_s
    )
    upstreams = Upstreams(deadlines, Metrics(lambda: config))
    pairs = [(u, c) for u in config.upstreams.values() for c in u.credentials if not c.retired]
    try:
        said = await asyncio.gather(
            *(
                probe(
                    upstream,
                    credential,
                    model_for(config.routes, upstream.name),
                    PROVIDERS[upstream.provider],
                    upstreams,
                    time.time,
                )
                for upstream, credential in pairs
            )
        )
    finally:
        await upstreams.aclose()
    return [
        Finding(
            "ok" if told.ok and _is_on_time(told) else "error" if not told.ok else "warning",
            f"upstream {credential_name(upstream.name, credential.name)}, "
            f"{told.ms} ms: {told.what}",
        )
        for (upstream, credential), told in zip(pairs, said, strict=True)
    ]


async def _collector(config: Config) -> list[Finding]:
    """Whether the collector of traces takes any."""
    endpoint = config.tracing.endpoint
    if endpoint is None:
        return []
    why = missing(config.tracing)
    if why is None:
        from proxy.telemetry.otlp import check_collector

        why = await asyncio.to_thread(check_collector, endpoint)
    if why is not None:
        return [Finding("error", f"[tracing] endpoint: {why}")]
    return [Finding("ok", f"[tracing] endpoint: {endpoint} takes traces")]


def _is_on_time(told: CredentialCheck) -> bool:
    return told.skew_s is None or abs(told.skew_s) <= SKEW_S


def _space(config: Config) -> Finding:
    """Uploads and the embedded store are written to the state directory."""
    folder, wanted = config.server.state_dir, config.limits.spool_bytes
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < wanted:
        return Finding(
            "warning",
            f"[server] state_dir: {free >> 20} MiB free in {folder}, and [limits] spool_bytes "
            f"allows {wanted >> 20} MiB of uploads",
        )
    return Finding("ok", f"[server] state_dir: {free >> 20} MiB free")


def _aiohttp() -> list[Finding]:
    """Why `serve` would not start with this aiohttp, or would relay slowly; usually nothing."""
    try:
        aiohttp_internals.check()
    except aiohttp_internals.UnusableAiohttp as error:
        return [Finding("error", str(error))]
    _tiers, faults = usable_tiers(("splice", "pipe"))
    return [Finding("warning", fault) for fault in faults]


# ---------------------------------------------------------------- open files


def _files(config: Config) -> Finding:
    """How many files the gateway that runs may open; without one, how many one from here could."""
    told = _told_by_gateway(config.admin.listen)
    if isinstance(told, str):
        most, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # Linux knows no "unlimited" here
        is_high = most >= MIN_FILES
        text = f"{most} open files, of this shell; {told}"
    else:
        workers = config.server.workers
        each = int(told["process_max_fds"]) // workers  # the page has the sum over workers
        is_high = each >= MIN_FILES
        text = f"{each} open files for " + (
            f"each of {workers} workers" if workers > 1 else "the gateway that runs"
        )
        opened = told.get("process_open_fds")
        if opened is not None:
            text += f", {int(opened)} are open"
            if opened > FILES_MARK * told["process_max_fds"]:
                text += ", so they run out"
                is_high = False
    if is_high:
        return Finding("ok", f"limits: {text}")
    return Finding(
        "warning",
        f"limits: {text}. A stream takes up to four, so raise it: LimitNOFILE=65536 of the unit, "
        "ulimit -n 65536 in a shell",
    )


def _told_by_gateway(listen: str) -> dict[str, float] | str:
    """`process_max_fds` and, where known, `process_open_fds` of the metrics page, which wants no
    token; or why there are none."""
    told: dict[str, float] = {}
    try:
        with closing(connection_to(listen)) as connection:
            connection.request("GET", "/metrics")
            page = connection.getresponse().read().decode(errors="replace")
        for line in page.splitlines():
            if line.startswith(("process_max_fds ", "process_open_fds ")):
                name, _, value = line.partition(" ")
                told[name] = float(value)
    except (OSError, HTTPException):
        return f"no gateway answers on [admin] listen, {listen}"
    except ValueError:
        told.clear()
    if "process_max_fds" not in told:
        return f"what answers on [admin] listen, {listen}, does not tell a gateway's"
    return told
