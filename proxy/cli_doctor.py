"""`reelway doctor`: what would fail."""

from __future__ import annotations

import asyncio
import resource
import shutil
import time
from pathlib import Path

import click

from proxy.command import config_option, json_option, load_config, say_json, with_store
from proxy.config import Config
from proxy.front import judge
from proxy.ground import signing_secrets
from proxy.keyring import name_of
from proxy.metrics import Metrics
from proxy.probe import SKEW_S, model_for, probe
from proxy.probe import Finding as Told
from proxy.providers import PROVIDERS
from proxy.store import Store
from proxy.store.promises import Finding, findings
from proxy.tracing import missing
from proxy.upstream import Deadlines, Upstreams

MIN_FILES = 4096


@click.command()
@config_option
@json_option
def doctor(config_path: Path | None, as_json: bool) -> None:
    """Look for what would fail: Redis, upstreams, addresses, limits.

    Every credential is asked for a task that cannot exist: nothing is paid for. Exit 1 when
    something is an error.
    """
    config = load_config(config_path)
    found: list[Finding] = []

    async def look(store: Store) -> None:
        found.extend(await findings(store.batch, config.redis.durability))
        found.extend(await _upstreams(config))
        found.extend(await _collector(config))
        secret, trusted = signing_secrets(config)[0], config.server.trusted_proxies
        found.extend(await judge(config.public_url, secret, time.time, trusted))

    with_store(config, look)
    found.extend([_space(config), _files()])
    if as_json:
        say_json([{"level": each.level, "text": each.text} for each in found])
    else:
        for each in found:
            click.echo(f"{each.level:<8}{each.text}")
    raise SystemExit(1 if any(each.level == "error" for each in found) else 0)


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
            f"upstream {name_of(upstream.name, credential.name)}, {told.ms} ms: {told.what}",
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
        from proxy.otlp import ask

        why = await asyncio.to_thread(ask, endpoint)
    if why is not None:
        return [Finding("error", f"[tracing] endpoint: {why}")]
    return [Finding("ok", f"[tracing] endpoint: {endpoint} takes traces")]


def _is_on_time(told: Told) -> bool:
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


def _files() -> Finding:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MIN_FILES:
        return Finding(
            "warning",
            f"limits: {soft} open files; a stream takes up to four, so raise it: ulimit -n 65536",
        )
    return Finding("ok", f"limits: {soft} open files")
